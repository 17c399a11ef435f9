"""Engines judged by what labkit-engine prints: real runs, each outcome changed, and hostile events."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.guest import shims
from labkit.guest.engines import cli, conversation, faults, image, report, session
from labkit.guest.engines.base import Broken, Place
from labkit.machines.fake import FakeMachine, Reply
from labkit.matrix.plan import Matrix, plan
from labkit.results.caller import calls
from labkit.results.caller.calls import Call
from labkit.results.engines import events, swap
from labkit.results.engines import faults as judged_faults
from labkit.results.engines import report as judged_report
from labkit.results.engines.table import grid
from labkit.results.json import from_json
from labkit.results.model import EngineInfo, Reading, Result, RuntimeInfo, Verdict
from labkit.store.past import key_of
from labkit.subjects import engines, runtimes
from labkit.subjects.runtimes import Runtime
from labkit.subjects.runtimes.words import InMachine, Release, Word
from labkit.suites import engine as suite
from labkit.suites.base import SilentRun
from labkit.usecases import run as one_run
from labkit.usecases import subject
from labkit.usecases.subject import Subject
from tests.engine_runs import PLACE, RUNS, Event, changed
from tests.test_json import validator
from tests.test_judge import Run, run

__all__ = ["run"]

BASE = "docker-crun"  # docker has a word for everything that is asked


def read(tmp_path: Path, data: bytes) -> Reading:
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    (raw / "engine.jsonl").write_bytes(data)
    return suite.SUITE.read(raw)


def verdicts(reading: Reading) -> dict[str, tuple[str, str]]:
    return {one.id: (one.verdict.value, ", ".join(one.findings)) for one in reading.results}


@cache
def recorded_calls() -> tuple[Call, ...]:
    return calls.read(events.read(RUNS[BASE]).sessions["runtime"].calls).calls


def outcome(data: bytes) -> dict[str, tuple[str, str]]:
    """What the engine's part of it comes to; its calls are those of the recording, and not judged here."""
    output = events.read(data)
    found = (*judged_report.judge(output, recorded_calls()), *swap.judge(output), *judged_faults.judge(output))
    return {one.id: (one.verdict.value, ", ".join(one.findings)) for one in found}


@cache
def base() -> dict[str, tuple[str, str]]:
    return outcome(RUNS[BASE])


def caught(change: Callable[[Event], None]) -> set[str]:
    """The checks whose verdict or findings the change changes, in the output that is else as recorded."""
    now = outcome(changed(RUNS[BASE], change))
    return {name for name, one in base().items() if now.get(name) != one}


# --- real runs


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_real_run_comes_to_what_is_written_down(tmp_path: Path, name: str) -> None:
    """ENGINE-RUNTIME.tsv has what does not pass."""
    reading = read(tmp_path, RUNS[name])
    assert reading.reason is None
    told = [
        f"{ident}\t{verdict}\t{found}" for ident, (verdict, found) in verdicts(reading).items() if verdict != "pass"
    ]
    assert told == (PLACE / f"{name}.tsv").read_text().splitlines()


def test_every_engine_and_runtime_was_recorded() -> None:
    assert {name.rpartition("-")[0] for name in RUNS} == set(engines.usable("engine"))
    assert {name.rpartition("-")[2] for name in RUNS} >= {"crun"}


# Over strict a run shows what an engine cannot do without, which no policy is to hide.
@pytest.mark.parametrize("name", sorted(name for name in RUNS if not name.endswith("-strict")))
def test_what_is_bad_in_a_real_run_has_a_reason_in_the_policy(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "work/engine.jsonl").write_bytes(RUNS[name])
    run("judge", "engine.jsonl")
    found = json.loads((tmp_path / "work/reports/latest/results.json").read_text())
    assert found["engine"]["name"] == name.rpartition("-")[0] and found["engine"]["version"]
    assert found["unexpected"] == 0 and found["run"]["complete"]
    assert found["engine"]["version"] in (tmp_path / "work/reports/latest/report.html").read_text()


# --- mutants: each outcome, changed, is caught by its check and by no other


def of(kind: str, key: str, ident: str, change: Callable[[Event], None]) -> Callable[[Event], None]:
    def do(event: Event) -> None:
        if event["type"] == kind and (not key or event.get(key) == ident):
            change(event)

    return do


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def other(value: Any) -> Any:
    """Something else of its kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return [*value, "mount /more"] if isinstance(value, list) else f"{value}!"


def put(value: Any, path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = other(value[path[-1]])


STEPS = [(step.id, path) for step in conversation.STEPS for path in leaves(step.expected)]


@pytest.mark.parametrize(("ident", "path"), STEPS, ids=[f"{ident} {'.'.join(path)}" for ident, path in STEPS])
def test_a_step_that_shows_another_thing_is_caught(ident: str, path: tuple[str, ...]) -> None:
    def change(event: Event) -> None:
        put(event["observed"], path)

    assert caught(of("step", "step", ident, change)) == {ident}


@pytest.mark.parametrize("ident", [step.id for step in conversation.STEPS])
def test_a_step_that_fails_is_caught(ident: str) -> None:
    def change(event: Event) -> None:
        del event["observed"]
        event["failed"] = "run in the background: no"

    assert caught(of("step", "step", ident, change)) == {ident}


def outcomes() -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in RUNS[BASE].splitlines() if RUNS else ():
        event = json.loads(line)
        if event["type"] == "fault":
            for path in leaves(event["expected"]):
                yield event["fault"], path


FAULTS = list(outcomes())


@pytest.mark.parametrize(("ident", "path"), FAULTS, ids=[f"{ident} {'.'.join(path)}" for ident, path in FAULTS])
def test_a_fault_that_is_taken_in_another_way_is_caught(ident: str, path: tuple[str, ...]) -> None:
    def change(event: Event) -> None:
        put(event["observed"], path)

    if "observed" in recorded(ident):
        assert caught(of("fault", "fault", ident, change)) == {ident}


def recorded(ident: str) -> Event:
    return next(event for event in map(json.loads, RUNS[BASE].splitlines()) if event.get("fault") == ident)


# What is changed in the text of the report, and the checks that it is about.
REPORT = [
    ("\nNoNewPrivs:\t1", "\nNoNewPrivs:\t0", {"GIVEN-no-new-privileges", "ASKED-no-new-privileges"}),
    ("\nUid:\t1000\t1000", "\nUid:\t0\t1000", {"GIVEN-user", "ASKED-user", "GIVEN-capabilities"}),
    ("\nGid:\t2000\t2000\t2000\t2000", "\nGid:\t2000\t2000\t2000\t0", {"GIVEN-user"}),
    ("\nGroups:\t", "\nGroups:\t7 ", {"GIVEN-groups"}),
    ("\nSeccomp:\t2", "\nSeccomp:\t0", {"GIVEN-seccomp"}),
    ("\nCapBnd:\t0", "\nCapBnd:\t1", {"GIVEN-capabilities"}),
    ("\nLABKIT=a b\n", "\nLABKIT=a\n", {"GIVEN-env", "ASKED-env"}),
    ("-- cwd\n/home/labkit", "-- cwd\n/", {"GIVEN-cwd", "ASKED-workdir"}),
    ("-- hostname\nlabkit-report", "-- hostname\nhost", {"GIVEN-hostname", "ASKED-hostname"}),
    ("-- oom\n0", "-- oom\n7", {"GIVEN-oom"}),
    ("open files            100 ", "open files            101 ", {"GIVEN-rlimits", "ASKED-ulimit"}),
    ("ip_unprivileged_port_start 81", "ip_unprivileged_port_start 0", {"GIVEN-sysctl", "ASKED-sysctl"}),
    ("/dev/labkit-zero character special file 1 5", "/dev/labkit-zero fifo 1 5", {"GIVEN-devices", "ASKED-device"}),
    ("\n/proc/kcore 0", "\n/proc/kcore 1", {"GIVEN-masked"}),
    ("\n/proc/sys read-only", "\n/proc/sys writable", {"GIVEN-readonly-paths"}),
    (" /proc rw,nosuid,", " /proc rw,", {"GIVEN-mounts"}),
    (" /scratch rw,", " /elsewhere rw,", {"GIVEN-mounts", "ASKED-tmpfs"}),
    (" / ro,relatime ", " / rw,relatime ", {"GIVEN-read-only", "ASKED-read-only"}),
    ("-- volume\nfrom the host", "-- volume\n", {"ASKED-volume"}),
    ("-- cmdline\nsh\n", "-- cmdline\nbash\n", {"GIVEN-args"}),
]


@pytest.mark.parametrize(("before", "after", "checks"), REPORT, ids=[after.strip() for _, after, _ in REPORT])
def test_a_report_of_another_thing_is_caught(before: str, after: str, checks: set[str]) -> None:
    done = []

    def change(event: Event) -> None:
        assert before in event["text"]
        event["text"] = event["text"].replace(before, after)
        done.append(True)

    assert caught(of("report", "", "", change)) == checks and done


def test_namespaces_that_are_the_machines_are_caught() -> None:
    def change(event: Event) -> None:
        inside = judged_report.read(event).pairs("namespaces")
        event["namespaces"]["pid"] = inside["pid"]

    assert caught(of("report", "", "", change)) == {"GIVEN-namespaces"}


@pytest.mark.parametrize(("file", "checks"), [("memory.max", "memory"), ("pids.max", "pids")])
def test_a_limit_that_no_cgroup_has_is_caught(file: str, checks: str) -> None:
    def change(event: Event) -> None:
        for limits in event["limits"].values():
            limits[file] = "max"

    assert caught(of("report", "", "", change)) == {f"GIVEN-{checks}", f"ASKED-{checks}"}


def test_a_capability_that_was_to_go_is_caught() -> None:
    def change(event: Event) -> None:
        bounding = judged_report.read(event).status("CapBnd")[0]
        event["text"] = event["text"].replace(f"CapBnd:\t{bounding}", f"CapBnd:\t{int(bounding, 16) | 1 << 13:016x}")

    assert caught(of("report", "", "", change)) == {"GIVEN-capabilities", "ASKED-cap-drop"}


def test_the_log_of_the_daemon_is_beside_what_is_bad(tmp_path: Path) -> None:
    def change(event: Event) -> None:
        event["text"] = "shim died"

    reading = read(tmp_path, changed(RUNS[BASE], of("log", "", "", change)))
    with_it = {one.id for one in reading.results if "shim died" in str(one.diagnostic.get("notes"))}
    assert with_it == {one.id for one in reading.results if one.bad} != set()


def test_no_report_is_no_success() -> None:
    def change(event: Event) -> None:
        event["text"] = ""

    now = outcome(changed(RUNS[BASE], of("report", "", "", change)))
    assert {now[name][0] for name in judged_report.NAMES} == {"error"}


# --- what was seen over the reference


def over_reference(observed: object) -> bytes:
    """The output of a run in which a step shows another thing, and what that showed over the reference."""

    def change(event: Event) -> None:
        if event.get("step") == "SWAP-exec":
            event["observed"] = {"exec": "no"}

    data = changed(RUNS[BASE], change).rstrip(b"\n").rpartition(b"\n")[0]
    more: list[Event] = [
        {"type": "session", "under": "reference", "runtime": "/usr/sbin/runc"},
        {"type": "step", "step": "SWAP-exec", "observed": observed},
        {"type": "finish"},
    ]
    return data + b"\n" + "\n".join(map(json.dumps, more)).encode()


@pytest.mark.parametrize(("observed", "word"), [({"exec": "no"}, "compatible"), ({"exec": "yes"}, "differs")])
def test_a_swap_is_compatible_where_the_reference_shows_the_same(tmp_path: Path, observed: object, word: str) -> None:
    reading = read(tmp_path, over_reference(observed))
    assert swap.word(reading.results) == word
    assert verdicts(reading)["SWAP-exec"][0] == "fail"  # either way


def test_a_swap_that_shows_nothing_cannot(tmp_path: Path) -> None:
    plan = json.loads(RUNS[BASE].splitlines()[0])
    lines = [plan, {"type": "session", "under": "runtime"}, {"type": "broken", "why": "no daemon"}, {"type": "finish"}]
    reading = read(tmp_path, "\n".join(map(json.dumps, lines)).encode())
    assert swap.word(reading.results) == "cannot"
    assert {one.verdict for one in reading.results if one.id.startswith(("SWAP-", "FAULT-"))} == {Verdict.ERROR}


def test_a_run_that_ends_early_is_incomplete(tmp_path: Path) -> None:
    lines = RUNS[BASE].splitlines(keepends=True)
    assert read(tmp_path, b"".join(lines[:-1])).reason == "the suite did not finish"
    assert "1 damaged line" in (read(tmp_path, b"".join([*lines[:5], b'{"type": "st\n', *lines[5:]])).reason or "")


# --- the table


def a_run(tmp_path: Path, data: bytes, runtime: str = "crun"):  # type: ignore[no-untyped-def]
    begun = one_run.new_run(
        "1", suite.SUITE, {"platform": "debian"}, RuntimeInfo(runtime, f"/usr/bin/{runtime}", ""), None
    )
    return one_run.with_reading(begun, read(tmp_path, data))


def test_runs_of_engines_make_a_table(tmp_path: Path) -> None:
    good = a_run(tmp_path, RUNS[BASE])
    bad = a_run(tmp_path, over_reference({"exec": "yes"}))
    found = grid([good, dataclasses.replace(bad, engine=EngineInfo("podman", "5"))])
    assert found is not None
    assert len(found.runtimes) == 1 and [name.partition(" ")[0] for name, _ in found.rows] == ["docker", "podman"]
    assert found.rows[0][1][0].startswith("compatible") and found.rows[1][1][0].startswith("differs: exec")
    assert grid([dataclasses.replace(good, engine=None)]) is None


def test_what_each_engine_cannot_do_without(tmp_path: Path) -> None:
    """Over strict: buildah needs nothing more but a terminal, containerd everything."""
    words = {
        name.rpartition("-")[0]: swap.word(read(tmp_path, RUNS[name]).results) for name in RUNS if "strict" in name
    }
    assert words == {"buildah": "differs", "podman": "differs", "containerd": "cannot"}


def test_diff_shows_the_table(run: Run, tmp_path: Path) -> None:
    names = sorted(name for name in RUNS if name.endswith("-crun"))[:3]
    for name in names:
        (tmp_path / f"work/{name}.jsonl").write_bytes(RUNS[name])
        run("judge", f"{name}.jsonl")
    runs = sorted(
        path.name for path in (tmp_path / "work/reports").iterdir() if not path.is_symlink() and path.is_dir()
    )
    said = run("diff", *runs, "--markdown", "--html", "page.html").stdout
    page = (tmp_path / "work/page.html").read_text()
    for name in names:
        assert f"| `{name.rpartition('-')[0]} " in said and name.rpartition("-")[0] in page
    assert said.count("compatible") >= 1 and "Engines over runtimes" in page


# --- told apart


def test_the_history_tells_engines_apart(tmp_path: Path) -> None:
    here = a_run(tmp_path, RUNS[BASE])
    here = dataclasses.replace(here, machine={"platform": "debian", "release": "13", "provider": "uml"})
    assert key_of(here) == "debian-13/uml/crun/engine:docker"
    assert key_of(dataclasses.replace(here, engine=None)) == "debian-13/uml/crun/engine"
    assert here.title.startswith("engine 1.0.0: docker 2") and " on crun" in here.title


# --- hostile events

_TEXT = st.text(max_size=20)
_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)
_KINDS = ("plan", "session", "version", "report", "step", "call", "fault", "log", "broken", "finish")
_NAMED = st.sampled_from([*swap.NAMES, *(fault.id for fault in faults.FAULTS), "runtime", "reference", "SWAP-", ""])
_EVENT = st.fixed_dictionaries(
    {"type": st.sampled_from(_KINDS)},
    optional={
        key: _VALUE | _NAMED
        for key in (
            *("facts", "parts", "steps", "faults", "only", "under", "runtime", "text", "asked", "cannot", "limits"),
            *("namespaces", "seconds", "commands", "step", "fault", "observed", "expected", "failed", "why", "line"),
        )
    },
)
_PLAN = {
    "type": "plan",
    "facts": {"engine": "docker"},
    "parts": ["report", "swap", "faults"],
    "steps": list(swap.NAMES),
    "faults": [fault.id for fault in faults.FAULTS],
}


def judged(data: bytes) -> tuple[Result, ...]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as directory:
        return read(Path(directory), data).results


@settings(max_examples=150, deadline=None)
@given(st.lists(_EVENT, max_size=12))
def test_whatever_events_come_nothing_raises(given_events: list[Event]) -> None:
    lines = [_PLAN, {"type": "session", "under": "runtime"}, *given_events]
    for one in judged("\n".join(map(json.dumps, lines)).encode()):
        assert one.id and isinstance(one.verdict, Verdict)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_a_report_and_its_configuration_say_nothing_raises(data: st.DataObject) -> None:
    config = {
        key: data.draw(_VALUE) for key in ("process", "root", "mounts", "hostname", "linux") if data.draw(st.booleans())
    }
    config["process"] = {**(process if isinstance(process := config.get("process"), dict) else {}), "args": ["sh", "x"]}
    sections = data.draw(
        st.dictionaries(st.sampled_from(["status", "limits", "mountinfo", "devices", "masked"]), _TEXT)
    )
    text = "-- cmdline\nsh\nx\n" + "".join(f"-- {name}\n{body}\n" for name, body in sections.items())
    call = {"event": "call", "id": "1", "argv": ["create", "--bundle", "/b", "c"], "cwd": "/", "config": config}
    lines = [
        _PLAN,
        {"type": "session", "under": "runtime"},
        {"type": "report", "text": text, "asked": {"ulimit": "x", "device": "y"}, "limits": data.draw(_VALUE)},
        {"type": "call", "line": json.dumps(call)},
    ]
    assert judged("\n".join(map(json.dumps, lines)).encode())


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_whatever_bytes_come_nothing_raises(data: bytes) -> None:
    output = events.read(json.dumps(_PLAN).encode() + b"\n" + data)
    assert output.reason


# --- the image, and what is to run


@pytest.mark.needs("busybox")
def test_the_image_is_the_same_bytes_each_time_and_an_oci_archive(tmp_path: Path) -> None:
    for name in ("one", "two"):
        session.make_image(tmp_path / name, {"more": b"#!/bin/sh\n"})
    data = (tmp_path / "one").read_bytes()
    assert data == (tmp_path / "two").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        digest = index["manifests"][0]["digest"].replace(":", "/")
        manifest = json.load(archive.extractfile(f"blobs/{digest}"))  # type: ignore[arg-type]
        layer = manifest["layers"][0]["digest"].replace(":", "/")
        with tarfile.open(fileobj=archive.extractfile(f"blobs/{layer}")) as tree:
            files = {member.name: member for member in tree}
    assert "oci-layout" in names and files["bin/busybox"].mode == 0o755 and files["bin/sh"].linkname == "busybox"
    assert {member.mtime for member in files.values()} == {0} and files["tmp"].mode == 0o1777
    assert files["bin/more"].size == len(b"#!/bin/sh\n")


def test_a_tree_has_its_files_sorted() -> None:
    one, two = image.Tree(), image.Tree()
    one.file("a", b"1")
    one.file("b", b"2")
    two.file("b", b"2")
    two.file("a", b"1")
    assert one.tar() == two.tar()


@pytest.mark.parametrize(
    ("only", "parts", "steps", "wrong"),
    [
        ([], ["report", "swap", "faults"], 20, 10),
        (["CALL-001"], ["report", "swap"], 20, 0),
        (["SWAP-exec"], ["swap"], 1, 0),
        (["FAULT-create-fails", "SWAP-run"], ["swap", "faults"], 1, 1),
        (["GIVEN-user"], ["report"], 0, 0),
        (["ASKED-user", "CALL-001"], ["report", "swap"], 20, 0),
    ],
)
def test_only_what_checks_need_is_run(only: list[str], parts: list[str], steps: int, wrong: int) -> None:
    plan = cli.planned(only, ())
    assert (list(plan.parts), len(plan.steps), len(plan.faults)) == (parts, steps, wrong)


def test_ids_are_what_their_parts_begin_with() -> None:
    assert all(name.startswith(report.IDS) for name in judged_report.NAMES)
    assert len({*swap.NAMES, *judged_report.NAMES}) == len(swap.NAMES) + len(judged_report.NAMES)


@pytest.mark.parametrize("name", engines.usable("engine"))
def test_an_engine_that_is_not_there_names_the_step_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("labkit.guest.engines.base.find_program", lambda _: None)
    place = Place(tmp_path / "data", tmp_path / "run", str(tmp_path / "data/bin/runc"))
    about = engines.find(name)
    with pytest.raises(Broken, match=f"{about.program} is not installed; the bootstrap's step {about.steps[0]} brings"):
        session.Session(name, place, "/usr/sbin/runc")


def test_the_drivers_are_those_that_are_listed() -> None:
    assert session.names() == engines.usable("engine")


def test_a_run_knows_its_engine_from_its_beginning(tmp_path: Path) -> None:
    def respond(argv: Sequence[str]) -> Reply:
        if any(word.endswith("labkit-engine.pyz") for word in argv):
            begun.append(list(argv))
            return Reply(0, RUNS[BASE])
        return Reply(0, b"TAP version 14\n1..1\nok 1 - CONTROL x\n") if "--control" in argv else Reply()

    begun: list[list[str]] = []
    given_settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    cell = Cell("debian", "13", "auto", "m", "crun", "engine", Selection(reference="runc"), engine="docker")
    machine = FakeMachine("m", respond)
    outcome = one_run.run_cell(cell, given_settings, SilentRun(), None, lambda *_: machine)
    kept = json.loads((outcome.directory / "results.json").read_text())
    assert kept["engine"] == {"name": "docker", "version": "26.1.5+dfsg1"}
    validator("results.json").validate(kept)
    assert from_json(json.dumps(kept)).engine == EngineInfo("docker", "26.1.5+dfsg1")
    assert outcome.run.run.complete and begun[0][begun[0].index("--engine") :][:2] == ["--engine", "docker"]
    assert "--reference" in begun[0]
    assert "engine.name" in (outcome.directory / "junit.xml").read_text()
    assert "# engine: docker" in (outcome.directory / "results.tap").read_text()


@pytest.mark.parametrize("machines", [1, 2])
def test_what_an_engine_brings_is_sent_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: int
) -> None:
    """crictl, which no package has; in every machine that shares the suite."""

    def respond(argv: Sequence[str]) -> Reply:
        if any(word.endswith("labkit-engine.pyz") for word in argv):
            begun.append(list(argv))
            return Reply(0, RUNS[BASE])
        return Reply()

    def find(word: Word, *_: object) -> Subject:
        """As if it had been built, and were there."""
        if not isinstance(word, Release):
            return real(word, given_settings, given_settings.distro(), SilentRun())
        built.append(str(word))
        return Subject(InMachine(PurePosixPath("/sent/crictl")), Runtime("cri-tools", "/sent/crictl", "crictl"))

    begun: list[list[str]] = []
    built: list[str] = []
    given_settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    real = subject.find
    monkeypatch.setattr(subject, "find", find)
    selection = Selection(only=("SWAP-run", "SWAP-exec"), confirm=False)
    cell = Cell("debian", "13", "auto", "m", "crun", "engine", selection, machines, engine="crictl")
    names = iter(("m", "m-2"))
    outcome = one_run.run_cell(cell, given_settings, SilentRun(), None, lambda *_: FakeMachine(next(names), respond))
    assert built == list(engines.find("crictl").brings) == ["cri-tools@1.34.0"]
    assert len(begun) == machines and all("--program=/sent/crictl" in argv for argv in begun)
    assert json.loads(json.dumps(outcome.run.evidence))["upstream"]["sha256"]


def test_a_night_has_a_cell_for_each_engine(tmp_path: Path) -> None:
    given_settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    matrix = Matrix(
        platforms=("debian-13",),
        providers=("uml",),
        runtimes=("crun",),
        suites=("spec", "engine"),
        engines=("docker", "podman", "nerdctl"),
    )
    cells = {one.key: one.problem for one in plan(matrix, given_settings).cells}
    assert set(cells) == {
        *("debian-13/uml/crun/spec", "debian-13/uml/crun/engine:docker", "debian-13/uml/crun/engine:podman"),
        "debian-13/uml/crun/engine:nerdctl",
    }
    assert "cannot be used" in cells.pop("debian-13/uml/crun/engine:nerdctl") and set(cells.values()) == {""}
    (alone,) = plan(Matrix(suites=("engine",), platforms=("debian-13",)), given_settings).cells
    assert "--suite engine needs --engine" in alone.problem


def test_an_entry_for_a_failure_of_an_engine_holds_for_it_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "work/engine.jsonl").write_bytes(over_reference({"exec": "yes"}))
    run("judge", "engine.jsonl", status=1)
    (tmp_path / "work/labkit.toml").write_text('policy = "mine.toml"\n')
    (tmp_path / "work/mine.toml").write_text("")
    run("policy", "add", "latest", "SWAP-exec", "--reason", "x")
    assert 'engine = "docker"' in (tmp_path / "work/mine.toml").read_text()
    run("judge", "engine.jsonl")
    other_engine = over_reference({"exec": "yes"}).replace(b'"engine": "docker"', b'"engine": "podman"')
    (tmp_path / "work/engine.jsonl").write_bytes(other_engine)
    run("judge", "engine.jsonl", status=1)


# --- strict


def strict(*words: str) -> subprocess.CompletedProcess[str]:
    argv = ["sh", str(shims.file("strict.sh")), "--over=echo", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("words", "given_on"),
    [
        (["create", "--bundle", "/b c", "--pid-file=p", "one"], "create --bundle /b c --pid-file p one"),
        (["create", "one"], "create one"),
        (["start", "one"], "start one"),
        (["state", "one"], "state one"),
        (["kill", "one"], "kill one TERM"),
        (["kill", "--signal", "KILL", "one"], "kill one KILL"),
        (["kill", "--signal=SIGTERM", "one"], "kill one TERM"),
        (["delete", "one"], "delete one"),
    ],
)
def test_strict_hands_on_what_the_document_has(words: list[str], given_on: str) -> None:
    done = strict(*words)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, given_on, "")


@pytest.mark.parametrize(
    "words",
    [
        *([], ["--root", "/r", "state", "one"], ["--log=x", "create", "one"], ["--systemd-cgroup", "create", "one"]),
        *(["exec", "one", "sh"], ["ps", "one"], ["run", "one"], ["features"], ["list"], ["update", "one"]),
        *(["delete", "--force", "one"], ["delete", "-f", "one"], ["kill", "one", "9"], ["kill", "one", "KILL"]),
        *(["kill", "--signal", "9", "one"], ["kill", "--signal", "HUP", "one"], ["kill", "--all", "one"]),
        *(["state"], ["state", "one", "two"], ["create", "one", "--bundle", "/b"], ["create", "--bundle"]),
        *(
            ["create", "--console-socket", "/s", "one"],
            ["create", "--console-socket=3", "one"],
            ["create", "--no-pivot", "x"],
        ),
    ],
)
def test_strict_refuses_what_it_lacks(words: list[str]) -> None:
    done = strict(*words)
    assert (done.returncode, done.stdout) == (64, "") and done.stderr.startswith("strict: ")


def test_strict_is_what_caller_checks_call_the_document() -> None:
    assert strict("--version").stdout == "strict version 1.0 over --version\n"
    assert runtimes.find("strict").command == "strict"


# --- what a person can say


def test_the_suite_says_how_it_is_used(run: Run) -> None:
    said = " ".join(run("test", "--suite", "engine", "--provider", "qemu", status=2).stderr.split())
    assert "--suite engine needs --engine" in said and "known: buildah, containerd, crictl, docker, podman" in said
    said = " ".join(run("test", "--suite", "spec", "--engine", "docker", "--provider", "qemu", status=2).stderr.split())
    assert "the spec suite has no engine" in said and "leave --engine out, or say --suite engine" in said
    said = " ".join(run("test", "--suite", "engine", "--engine", "dokcer", status=2).stderr.split())
    assert "unknown engine 'dokcer'" in said and "docker" in said
    said = " ".join(run("test", "--suite", "engine", "--engine", "nerdctl", status=2).stderr.split())
    assert "nerdctl cannot be used: Debian 13 has no package of it" in said
    said = run("test", "--suite", "engine", "--engine", "docker", "--only", "SWAP-exce", status=2).stderr
    assert "the engine suite has no check 'SWAP-exce'" in " ".join(said.split())


@pytest.mark.parametrize("flag", [("--repeat", "2"), ("--limit", "5"), ("--spec", "1.0.0"), ("--user", "me")])
def test_what_the_suite_does_not_take(run: Run, flag: tuple[str, str]) -> None:
    said = run("test", "--suite", "engine", "--engine", "docker", *flag, status=2).stderr
    assert f"the engine suite does not take {flag[0]}" in " ".join(said.split())


def test_engines_are_listed(run: Run) -> None:
    said = run("engines").stdout
    assert (
        "podman Podman engine, image podman" in " ".join(said.split()) and "nerdctl: Debian 13 has no package" in said
    )

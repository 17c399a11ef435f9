"""Registries: what the conformance program of distribution-spec has written, judged and claimed; the program built and
run against Debian's docker-registry in namespaces of this host, and on a real machine.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.errors import LabError, UsageError
from labkit.core.observer import Silent
from labkit.guest.common import versions
from labkit.guest.pyz import pyz
from labkit.images.runtimes import obtain, supplied
from labkit.machines.fake import FakeMachine, FakeRemote, Reply
from labkit.matrix.plan import Matrix, plan
from labkit.results import distribution, policy
from labkit.results.json import from_json
from labkit.results.model import PolicyNotes, Reading, RuntimeInfo, Verdict
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Role, words
from labkit.suites import distribution as suite
from labkit.suites.base import OfProgramme, OfRegistries, SilentRun
from labkit.usecases import run as one_run
from labkit.usecases import test as use
from labkit.usecases.verify import verify
from tests.conftest import Lab
from tests.stock import Stock
from tests.test_cli import labkit
from tests.test_judge import Run, run

__all__ = ["run"]

RECORDED = Path(__file__).parent / "recordings/distribution"
SECRET = "correct horse battery"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program wrote of docker-registry 2.8.3; nobody changes it."""
    place = tmp_path_factory.mktemp("raw")
    with tarfile.open(RECORDED / "docker-registry-2.8.3.tar.xz") as archive:
        archive.extractall(place, filter="data")
    return place / "docker-registry-2.8.3"


@pytest.fixture
def copy(raw: Path, tmp_path: Path) -> Path:
    return shutil.copytree(raw, tmp_path / "copy")


def read(raw: Path) -> Reading:
    return suite.SUITE.read(raw)


# --- what is recorded


@pytest.mark.parametrize(
    ("name", "version", "outcomes", "failing", "skipped"),
    [("docker-registry", "2.8.3", (848, 97, 44), 96, 32), ("distribution", "3.1.2", (852, 91, 16), 90, 18)],
)
def test_a_recording_is_as_labkits_policy_expects(
    run: Run, name: str, version: str, outcomes: tuple[int, ...], failing: int, skipped: int
) -> None:
    archive = RECORDED / f"{name}-{version}.tar.xz"
    done = json.loads(run("judge", archive, "--runtime", name, "--runtime-version", version, "--json").stdout)
    assert (done["totals"]["fail"], done["totals"]["skip"], done["unexpected"]) == (failing, skipped, 0)
    assert done["totals"]["error"] == done["totals"]["timeout"] == 0
    assert done["policy"] == {"expired": [], "unexpected_passes": [], "misspelt": []}
    shown = run("judge", archive, "--runtime", name, "--runtime-version", version).stdout
    assert f"distribution 97274622c111 on {name} {version}" in shown
    tests, failed, left_out = outcomes
    assert f"counts {tests} outcomes: {failed} failed, {left_out} skipped, 2 disabled" in " ".join(shown.split())


def test_each_entry_of_the_policy_expects_something_that_failed() -> None:
    text = Path(policy.__file__).with_name("policies").joinpath("distribution.toml").read_bytes()
    entries = policy.of_files([("distribution.toml", text, False)])
    used = set()
    for archive in sorted(RECORDED.glob("*.tar.xz")):
        name, _, version = archive.name.removesuffix(".tar.xz").rpartition("-")
        with tarfile.open(archive) as opened:
            member = opened.extractfile(f"{name}-{version}/junit.xml")
            assert member is not None
            results = distribution.read_junit(member.read()).results
        info = RuntimeInfo(name, "", version)
        judged = dataclasses.replace(one_run.new_run("x", suite.SUITE, {}, info, None), results=results)
        failing = [result for result in results if result.bad]
        for entry in entries:
            if entry.applies(judged):
                for pattern in entry.rule.id or ():
                    if any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), one.id) for one in failing):
                        used.add((entry.source, pattern))
    assert used == {(entry.source, pattern) for entry in entries for pattern in entry.rule.id or ()}


def test_the_same_outcomes_have_the_same_ids_in_whatever_order_they_come(raw: Path) -> None:
    data = (raw / "junit.xml").read_bytes()
    first = {one.id: one.verdict for one in distribution.read_junit(data).results}
    head, *cases = re.split(rb"(?=    <testcase )", data)
    tail = cases[-1].partition(b"</testcase>")[2]
    cases[-1] = cases[-1].removesuffix(tail) + b"\n"
    turned = distribution.read_junit(head + b"".join(reversed(cases)) + tail)
    assert {one.id: one.verdict for one in turned.results} == first
    assert first["sha512/push/blob-post-put/6"] is Verdict.FAIL and "sha512/push/blob-post-put/7" not in first
    assert first["index-with-subject/push/manifest-by-digest/3"] is Verdict.FAIL
    assert first["index-with-subject/push/manifest-by-digest/4"] is Verdict.PASS


def test_where_there_is_only_results_yaml_its_entries_are_the_results(copy: Path, run: Run) -> None:
    alone = copy.parent / "alone"
    alone.mkdir()
    (copy / "results.yaml").rename(alone / "results.yaml")
    found = {one.id: one.verdict for one in read(alone).results}
    assert len(found) == 52
    assert (found["api/Blob-push"], found["api/Referrers"]) == (Verdict.PASS, Verdict.FAIL)
    assert (found["api/Blob-upload-cancel"], found["data/Image"]) == (Verdict.SKIP, Verdict.PASS)
    done = run("judge", alone / "results.yaml", "--no-policy", status=1)
    assert "there is no junit.xml" in " ".join(done.stdout.split())


def test_a_file_stands_for_what_lies_beside_it(raw: Path, run: Run) -> None:
    for name in ("junit.xml", "results.yaml"):
        assert "686 checks" in run("judge", raw / name, "--runtime", "docker-registry", status=1).stdout


def test_the_older_programs_report_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites tests="3"><testsuite name="conformance tests" tests="3" '
        'skipped="1" errors="0" failures="1"><testcase name="[It] OCI Distribution Conformance Tests Pull blobs HEAD" '
        'classname="conformance tests" status="passed" time="0.1"></testcase><testcase name="[It] Push cross" '
        'status="skipped" time="0"><skipped message="skipped - not asked"></skipped></testcase><testcase name="[It] '
        'Push put" status="failed" time="0"><failure message="Expected 404" type="failed">at run.go:3</failure>'
        "</testcase></testsuite></testsuites>"
    )
    assert suite.SUITE.recognizes(tmp_path)
    found = {one.id: (one.verdict, dict(one.diagnostic)) for one in read(tmp_path).results}
    assert found == {
        "OCI-Distribution-Conformance-Tests-Pull-blobs-HEAD": (Verdict.PASS, {}),
        "Push-cross": (Verdict.SKIP, {"reason": "skipped - not asked"}),
        "Push-put": (Verdict.FAIL, {"message": "Expected 404\nat run.go:3"}),
    }


# --- what is damaged, or hostile


def damaged(copy: Path, name: str, data: bytes) -> str:
    (copy / name).write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read(copy)
    assert str(copy / name) in caught.value.message
    return caught.value.message


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
JUNIT = b'<testsuites><testsuite name="OCI Conformance Test" tests="1" failures="%s">%s</testsuite></testsuites>'
BAD_JUNIT = {
    "empty": (b"", "not XML"),
    "cut": (JUNIT[:60], "not whole"),
    "no xml": (b"OCI Conformance Test", "not XML"),
    "entities": (BOMB + JUNIT % (b"0", b'<testcase name="&b;" status="passed"/>'), "document type"),
    "other root": (b"<html><testsuite/></html>", "no test suite"),
    "status": (JUNIT % (b"0", b'<testcase name="a" status="perhaps"/>'), "perhaps"),
    "nameless": (JUNIT % (b"0", b'<testcase status="passed"/>'), "called ''"),
    "failures taken out": (JUNIT % (b"3", b'<testcase name="a" status="passed"/>'), "counts 3 failures"),
    "failures put in": (JUNIT % (b"0", b'<testcase name="a" status="failure"/>'), "counts 0 failures"),
    "many": (JUNIT % (b"0", b'<testcase name="a" status="passed"/>' * 20_001), "more than 20000"),
    "latin": (b'<?xml version="1.0" encoding="nonsense"?>' + JUNIT % (b"0", b""), "not XML"),
}
BAD_YAML = {
    "empty": (b"", "nothing in it"),
    "cut": (b"config:\n  registry: a\n  repo1: [", "not YAML"),
    "list": (b"- a\n", "no config"),
    "no apis": (b"config:\n  version: '1.1'\n", "no apis"),
    "a word for a table": (b"config: {}\napis: yes\ndata: {}\n", "no apis"),
    "status": (b"config: {}\napis:\n  Ping: 1\ndata: {}\n", "apis.Ping is '1'"),
    "nested": (b"config: {}\napis: " + b"{a: " * 1000 + b"}" * 1000, "nested too deeply"),
    "bomb": (b"config: &a [x, x]\napis: [*a, *a]\ndata: {}\n", "an alias"),
    "tag": (b"config: !!python/object/apply:os.system [x]\n", "a tag"),
    "twice": (b"config: {}\napis: {}\napis: {}\ndata: {}\n", "twice"),
    "large": (b"config: {}\napis: {}\ndata: {}\n" + b"#" * 70_000, "too long"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_JUNIT)
def test_a_junit_xml_that_is_damaged_is_named_with_what_is_wrong(copy: Path, what: str) -> None:
    data, message = BAD_JUNIT[what]
    assert message in damaged(copy, "junit.xml", data)


@pytest.mark.parametrize("what", BAD_YAML)
def test_a_results_yaml_that_is_damaged_is_named_with_what_is_wrong(copy: Path, what: str) -> None:
    data, message = BAD_YAML[what]
    assert message in damaged(copy, "results.yaml", data)


def test_what_is_damaged_makes_no_run(copy: Path, run: Run) -> None:
    (copy / "junit.xml").write_bytes((copy / "junit.xml").read_bytes()[:-100])
    assert "not whole" in run("judge", copy, status=2).stderr


SMALL = JUNIT % (
    b"1",
    b'<testcase name="a b" time="0.1" status="failure"><system-out>&#34;x</system-out></testcase>' * 3,
)


@given(st.integers(0, len(SMALL)), st.binary(max_size=8), st.integers(0, 8))
def test_whatever_happens_to_a_junit_xml_it_is_read_or_refused(at: int, more: bytes, less: int) -> None:
    try:
        found = distribution.read_junit(SMALL[:at] + more + SMALL[at + less :]).results
    except ValueError:
        return
    assert all(one.id and one.verdict for one in found)


@given(st.binary(max_size=300))
def test_whatever_stands_in_a_results_yaml_it_is_read_or_refused(more: bytes) -> None:
    try:
        distribution.read_yaml((b"config:\n  registry: a\n  repo1: b\n" + more).decode("utf-8", "replace"))
    except ValueError:
        return


def test_files_of_two_runs_are_not_taken_for_one(copy: Path) -> None:
    text = (copy / "results.yaml").read_text()
    (copy / "results.yaml").write_text(re.sub(r"(?m)FAIL$", "Pass", text))
    assert "not of one run" in str(read(copy).reason)


# --- what labkit's program prints


FACTS = {
    "registry": "/usr/bin/docker-registry",
    "runtime-path": "/usr/bin/docker-registry",
    "runtime-version": "/usr/bin/docker-registry github.com/docker/distribution 2.8.3+ds1",
    "kernel": "6.12",
    "cgroup": "v2",
}
END: Mapping[str, Any] = {"type": "end", "status": 1, "hung": False, "seconds": 3.2, "registry": None}


def printed(
    raw: Path, *, names: Sequence[str] = suite._KEPT, end: Mapping[str, Any] | None = END, **plan: object
) -> bytes:
    """What the program prints for files that are in raw."""
    lines: list[Mapping[str, object]] = [{"type": "plan", "facts": FACTS, "only": [], "skip": [], **plan}]
    lines += [end] if end else []
    for name in names:
        data = (raw / name).read_bytes()
        pieces = [data[at : at + 30_000] for at in range(0, len(data), 30_000)]
        lines += [{"type": "file", "name": name, "data": base64.b64encode(piece).decode()} for piece in pieces]
    return b"".join(json.dumps(line).encode() + b"\n" for line in (*lines, {"type": "finish"}))


def recorded(place: Path, *pieces: bytes) -> Reading:
    place.mkdir()
    with suite.SUITE.recorder(place, lambda *_: None) as recorder:
        for piece in pieces:
            recorder.take(piece)
        assert recorder.has_output
    return suite.SUITE.read(place)


def test_files_come_home_as_they_were_whatever_the_pieces(raw: Path, tmp_path: Path) -> None:
    data = printed(raw)
    reading = recorded(tmp_path / "raw", *(data[at : at + 7777] for at in range(0, len(data), 7777)))
    assert reading.reason is None and len(reading.results) == 686
    assert (reading.facts["ref"], reading.facts["spec"], reading.facts["cgroup"]) == ("97274622c111", "1.1", "v2")
    for name in suite._KEPT:
        assert (tmp_path / "raw" / name).read_bytes() == (raw / name).read_bytes()
    assert (tmp_path / "raw/distribution.jsonl").stat().st_size < 2000


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"end": {**END, "status": -11}}, "ended by signal 11"),
        ({"end": {**END, "status": 2}}, "ended with status 2"),
        ({"end": {**END, "status": -9, "hung": True, "seconds": 900.5}}, "did not end within 900 s, and was ended"),
        ({"end": {**END, "registry": "was killed by signal 9"}}, "the registry was killed by signal 9 while"),
        ({"end": {**END, "status": 0}, "names": ()}, "wrote no junit.xml and no results.yaml"),
        ({"end": None, "names": ()}, "ends before the conformance program did"),
        ({"only": ["no-such-test"]}, "no test is called no-such-test"),
    ],
)
def test_a_run_that_went_wrong_is_incomplete_and_says_why(
    raw: Path, tmp_path: Path, how: dict[str, Any], reason: str
) -> None:
    assert reason in str(recorded(tmp_path / "raw", printed(raw, **how)).reason)


def test_what_a_registry_that_does_not_start_says_is_the_reason(tmp_path: Path) -> None:
    broken = {"type": "broken", "why": "/usr/bin/x ended with status 1: yaml: line 3"}
    reading = recorded(tmp_path / "raw", printed(tmp_path, names=(), end=broken))
    assert reading.reason and "yaml: line 3" in reading.reason and not reading.results


def test_only_and_skip_leave_tests_out(raw: Path, tmp_path: Path) -> None:
    reading = recorded(tmp_path / "raw", printed(raw, only=["empty/*", "ping"], skip=["ping"]))
    assert {one.id for one in reading.results} == {"empty/tag-list", "empty/referrers"}
    assert "left out, as was said: 684 tests" in reading.told


@given(st.binary(max_size=400))
def test_whatever_is_printed_is_kept_and_read(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        raw = Path(place) / "raw"
        raw.mkdir()
        with suite.SUITE.recorder(raw, lambda *_: None) as recorder:
            recorder.take(b'{"type": "plan", "facts": {}}\n' + data)
            recorder.take(b'\n{"type": "file", "name": "../x", "data": "YQ=="}\n{"type": "file", "name": "junit.xml"')
            recorder.take(b', "data": "%%%"}\n')
        assert {path.name for path in Path(place).rglob("*") if path.is_file()} <= {
            "distribution.jsonl", "distribution.err", "junit.xml",
        }  # fmt: skip
        with pytest.raises(UsageError, match="junit"):
            suite.SUITE.read(raw)


# --- words


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return config.load({"suite": "distribution"}, cwd=tmp_path, environ={"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("docker-registry", words.Package("docker-registry")),
        ("distribution@3.1.2", words.Release("distribution", "3.1.2")),
        ("distribution@main", words.Source("distribution", "", "main")),
        ("https://Registry.example.org/", words.Running("https://registry.example.org")),
        ("http://127.0.0.1:5000", words.Running("http://127.0.0.1:5000")),
        ("https://[::1]:5000", words.Running("https://[::1]:5000")),
        ("https://example.org/tree.git#main", words.Source("", "https://example.org/tree.git", "main")),
        ("/usr/bin/registry", words.InMachine(PurePosixPath("/usr/bin/registry"))),
    ],
)
def test_words_of_a_registry(text: str, word: words.Word, tmp_path: Path) -> None:
    found = runtimes.word(text, tmp_path, Role.REGISTRY)
    assert found == word
    assert runtimes.word(str(found), tmp_path, Role.REGISTRY) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runc", "unknown registry 'runc'"),
        ("https://example.org/path", "not the address of one"),
        ("https://", "not the address of one"),
        ("./none", "is a file of this host"),
        (f"https://me:{SECRET.replace(' ', '')}@example.org", "has no user in it"),
    ],
)
def test_words_that_name_no_registry(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        runtimes.word(text, tmp_path, Role.REGISTRY)
    assert SECRET.split()[0] not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/usr/bin/docker-registry github.com/docker/distribution 2.8.3+ds1", ("docker-registry", "2.8.3+ds1")),
        ("./registry github.com/docker/distribution v2.8.3", ("docker-registry", "2.8.3")),
        ("registry github.com/distribution/distribution/v3 v3.1.2+unknown", ("distribution", "3.1.2+unknown")),
    ],
)
def test_a_registry_is_what_it_says(said: str, told: tuple[str, str]) -> None:
    assert versions.told(said) == told


def test_a_runtime_is_no_registry_and_a_registry_no_runtime(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown runtime 'docker-registry'"):
        runtimes.word("docker-registry", tmp_path)
    assert "not about --runtime" in run("test", "--suite", "distribution", "--runtime", "runc", status=2).stderr
    assert "not about --registry" in run("test", "--registry", "docker-registry", status=2).stderr
    said = run("test", "--suite", "distribution", "--registry", "docker-registy", status=2).stderr
    assert "did you mean 'docker-registry'?" in said


def test_every_file_of_a_registry_reads_and_has_a_way_and_a_start() -> None:
    assert set(runtimes.names(Role.REGISTRY)) >= {"docker-registry", "distribution"}
    for name in runtimes.names(Role.REGISTRY):
        about = runtimes.about(name)
        assert about.serve and "{address}" in about.serve.config and "{config}" in about.serve.arguments
        assert about.beside or about.build
    assert not set(runtimes.names(Role.REGISTRY)) & set(runtimes.names())
    upstream = runtimes.word(suite.UPSTREAM, role=Role.PROGRAM)
    assert isinstance(upstream, words.Release) and runtimes.about(upstream.name).setting == "distribution_spec"
    assert all(runtimes.about(name).build for name in runtimes.names(Role.PROGRAM))


def test_a_cell_has_the_registry_in_the_runtimes_place(settings: config.Settings) -> None:
    cell = use.cell_of(settings, Selection())
    assert (cell.runtime, cell.suite) == ("docker-registry", "distribution")
    assert cell.key.endswith("/docker-registry/distribution")
    made = plan(Matrix(suites=("spec", "distribution"), runtimes=("runc", "crun")), settings)
    assert {tuple(one.key.split("/")[2:]) for one in made.cells} == {
        ("runc", "spec"), ("crun", "spec"), ("docker-registry", "distribution"),
    }  # fmt: skip
    assert not any(one.problem for one in made.cells)


def test_what_the_suite_does_not_take_is_said(settings: config.Settings) -> None:
    for selection, flag in (
        (Selection(runtime_args=("-x",)), "--runtime-arg"),
        (Selection(repeat=3), "--repeat"),
        (Selection(user="me"), "--user"),
        (Selection(spec="1.2"), "--spec is '1.2'"),
    ):
        with pytest.raises(UsageError, match=re.escape(flag)):
            suite.SUITE.check(selection)


# --- a run, on a machine in memory


def a_run(
    tmp_path: Path, reply: bytes, registry: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, list[tuple[str, ...]], list[bytes]]:
    """The run of a cell whose machine prints reply, its commands, and what they got on stdin."""
    program = tmp_path / "oci-conformance"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    given: list[bytes] = []
    machine = FakeMachine("fake", lambda argv: Reply(1, reply) if "--conformance" in argv else Reply())
    seen = FakeRemote.run

    def heard(self: FakeRemote, argv: Sequence[str], **more: Any) -> Any:
        given.append(more.get("stdin") or b"")
        return seen(self, argv, **more)

    monkeypatch.setattr(FakeRemote, "run", heard)
    asked = config.load(
        {"suite": "distribution"},
        cwd=tmp_path,
        environ={"HOME": str(tmp_path), "LABKIT_DISTRIBUTION_SPEC": str(program).replace(str(tmp_path), ".")},
    )
    cell = Cell("debian", "13", "fake", "fake", registry, "distribution", Selection(confirm=False, reference=""))
    outcome = one_run.run_cell(cell, asked, SilentRun(), None, lambda *_: machine)
    return outcome, machine.commands, given


def test_a_user_and_a_password_are_in_no_argument_and_no_file(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_USERNAME", "ada")
    monkeypatch.setenv("OCI_PASSWORD", SECRET)
    monkeypatch.setenv("OCI_REPO1", "ada/one")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    url = "https://registry.example.org"
    outcome, commands, given = a_run(tmp_path, printed(raw, facts={"registry": url}), url, monkeypatch)
    [line] = [one for one in given if SECRET.encode() in one]
    assert json.loads(line) == {"OCI_USERNAME": "ada", "OCI_PASSWORD": SECRET, "OCI_REPO1": "ada/one"}
    [argv] = [one for one in commands if "--conformance" in one]
    assert argv[argv.index("--registry") + 1] == url and "--variables" in argv and "--serve" not in argv
    assert SECRET not in str(commands)
    assert outcome.run.runtime.name == "registry.example.org"
    for path in outcome.directory.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_a_registry_of_the_machine_is_started_as_its_file_says(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_PASSWORD", SECRET)
    outcome, commands, given = a_run(tmp_path, printed(raw), "/usr/bin/docker-registry", monkeypatch)
    [argv] = [one for one in commands if "--conformance" in one]
    assert json.loads(argv[argv.index("--serve") + 1])["arguments"] == ["serve", "{config}"]
    assert not any(SECRET.encode() in one for one in given)  # it is not asked for one
    assert outcome.run.run.complete and len(outcome.run.results) == 686
    assert outcome.run.evidence["upstream"]["source"].endswith("oci-conformance")
    assert "--registry /usr/bin/docker-registry" in outcome.run.evidence["again"]


def test_a_program_that_labkit_does_not_know_is_not_started(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="does not know how the registry zot is started"):
        a_run(tmp_path, printed(raw), "/usr/bin/zot", monkeypatch)


# --- claims


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a claim of the recording, made by the command, and its PRODUCT.yaml."""
    directory = tmp_path_factory.mktemp("claim")
    product = {"vendor": "Example", "name": "Registry of OCI things", "version": "2.8.3", "type": "distribution"}
    (directory / "PRODUCT.yaml").write_text(yaml.safe_dump(product))
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "LABKIT_HOME": str(directory / "home")}
    archive = RECORDED / "docker-registry-2.8.3.tar.xz"
    said = ("--runtime", "docker-registry", "--runtime-version", "2.8.3")
    for words_of in (("judge", str(archive), *said), ("claim", "latest", "--out", "claim")):
        done = labkit(*words_of, environ=environ, cwd=directory)
        assert done.returncode == 0, done.stderr
    (directory / "said").write_text(done.stdout)
    return directory


FOLDER = "distribution-spec/v1.1/docker-registry"


def test_a_claim_has_the_form_that_the_programme_takes(place: Path, raw: Path) -> None:
    folder = place / "claim" / FOLDER
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "PRODUCT.yaml", "results.yaml", "report.html", "junit.xml",
    }  # fmt: skip
    for name in suite._KEPT:
        assert (folder / name).read_bytes() == (raw / name).read_bytes()
    product = yaml.safe_load((folder / "PRODUCT.yaml").read_text())
    assert (product["name"], product["version"], product["type"]) == ("docker-registry", "2.8.3", "distribution")
    readme = (folder / "README.md").read_text()
    assert "OCI_VERSION=1.1" in readme and "./lab test --suite distribution --registry" in readme
    whole = (place / "claim/README.md").read_text()
    assert "certifies nothing" in whole and "no programme that certifies" not in whole


def test_what_reviewers_would_not_take_is_said(place: Path) -> None:
    said = (place / "said").read_text()
    assert f"for its programme: claim/{FOLDER}" in said
    assert "does not say `All tests passed`" in said and "705 passed, 97 failed, 46 skipped" in said
    product = {"vendor": "", "name": "My OCI registry", "version": "1"}
    kept = place / "claim" / FOLDER
    [judged] = [one for one in (place / "reports").iterdir() if not one.is_symlink() and one.is_dir()]
    run = from_json((judged / "results.json").read_bytes())
    assert isinstance(suite.SUITE, OfProgramme) and isinstance(suite.SUITE, OfRegistries)
    files = {name: (kept / name).read_bytes() for name in suite._KEPT}
    assert any("should not contain OCI" in why for why in suite.SUITE.misses(run, product, files))
    passed = {**files, "report.html": b'<span class="darkgreen">All tests passed</span>'}
    assert not list(suite.SUITE.misses(run, {**product, "name": "x"}, passed))
    assert any(
        "has no results.yaml, report.html" in why for why in suite.SUITE.misses(run, product, {"junit.xml": b""})
    )
    assert suite.SUITE.form(run, product, {}) == ("", {})
    dev = dataclasses.replace(run, suite=dataclasses.replace(run.suite, spec="1.1+dev"))
    assert any("1.1+dev" in why for why in suite.SUITE.misses(dev, product, files))


def test_verify_judges_it_again_and_finds_what_was_changed(place: Path, tmp_path: Path) -> None:
    key = place / "home/keys/claim.pub"
    found = verify(place / "claim", key=key)
    assert (found.holds, found.results, found.exit_status) == (True, 686, 0)
    assert any("All tests passed" in note for note in found.notes)
    copied = shutil.copytree(place / "claim", tmp_path / "claim")
    for name in suite._KEPT:
        file = copied / FOLDER / name
        kept = file.read_bytes()
        file.write_bytes(kept.replace(b"sha256", b"sha512", 1))
        assert file.read_bytes() != kept
        assert any(f"{FOLDER}/{name}" in line for line in verify(copied, key=key).differs)
        file.write_bytes(kept)
    (copied / FOLDER / "badges.md").write_text("")
    assert not verify(copied, key=key).holds


# --- for real, on this host


class Tools:
    """The conformance program, and Debian's docker-registry."""

    def __init__(self, program: Path, registry: Path) -> None:
        self.program, self.registry = program, registry


def tools_of(stock: Stock) -> Tools:
    """Made once for all tests; skips where the Go module proxy does not answer."""
    settings = config.load(cwd=stock.home, environ={"PATH": os.environ["PATH"], "LABKIT_HOME": str(stock.home)})
    word = runtimes.word(suite.UPSTREAM, role=Role.PROGRAM)
    assert isinstance(word, words.Release)
    try:
        program = obtain(word, settings.distro(), settings, Silent()).path
    except LabError as error:
        if "cannot be had" in error.message:
            pytest.skip(f"{word} cannot be had here: {error.message[:200]}")
        raise
    registry = supplied("docker-registry", settings.distro(), settings, Silent())
    assert registry is not None
    return Tools(program, registry.path)


@pytest.fixture(scope="module")
def tools(stock: Stock) -> Tools:
    return tools_of(stock)


def guest(
    tmp_path: Path, *argv: str, registry: str, program: Path, stdin: str = "", serve: str | None = None
) -> tuple[list[dict[str, Any]], Reading, int]:
    """What labkit's program prints but for files, the reading of it, and its exit status."""
    archive = tmp_path / "labkit-distribution.pyz"
    archive.write_bytes(pyz("registries", "engines"))
    about = runtimes.about("docker-registry").serve
    assert about is not None
    how = ["--serve", about.model_dump_json() if serve is None else serve]
    words_of = [sys.executable, str(archive), "--registry", registry, "--conformance", str(program), *how, *argv]
    done = subprocess.run(words_of, input=stdin, stdout=subprocess.PIPE, text=True, timeout=300)
    raw = tmp_path / "raw"
    raw.mkdir()
    with suite.SUITE.recorder(raw, lambda *_: None) as recorder:
        recorder.take(done.stdout.encode())
    lines = [json.loads(line) for line in (raw / "distribution.jsonl").read_text().splitlines()]
    return lines, suite.SUITE.read(raw), done.returncode


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.bootstrap
@pytest.mark.slow
@pytest.mark.needs("mmdebstrap", "debian keyring")
def test_the_program_is_built_and_run_against_docker_registry_in_namespaces(tools: Tools, tmp_path: Path) -> None:
    left = set(Path("/var/lib/labkit").glob("*"))
    lines, reading, status = guest(tmp_path, registry=str(tools.registry), program=tools.program)
    assert (status, lines[-1]["type"], reading.reason) == (0, "finish", None)
    assert lines[0]["facts"]["runtime-version"].endswith("github.com/docker/distribution 2.8.3+ds1")
    info = RuntimeInfo("docker-registry", str(tools.registry), "2.8.3")
    read_run = one_run.with_reading(one_run.new_run("x", suite.SUITE, {}, info, None), reading)
    judged = one_run.judge(read_run, policy.load())
    assert (len(judged.results), len(judged.unexpected), judged.policy) == (686, 0, PolicyNotes())
    assert set(Path("/var/lib/labkit").glob("*")) == left


@pytest.mark.host_runtime
@pytest.mark.parametrize(
    ("conformance", "flags", "reason"),
    [
        ("kill -SEGV $$", (), "ended by signal 11"),
        ("sleep 60", ("--seconds", "1"), "did not end within 1 s, and was ended"),
        ("exit 0", (), "wrote no junit.xml"),
        ("echo failed to load config: x >&2; exit 0", (), "failed to load config: x"),
    ],
)
def test_a_program_that_dies_hangs_or_writes_nothing_ends_honestly(
    tmp_path: Path, conformance: str, flags: Sequence[str], reason: str
) -> None:
    program = script(tmp_path / "conformance", conformance)
    _, reading, status = guest(tmp_path, *flags, registry=str(registry_of(tmp_path)), program=program)
    assert status == 0 and reason in str(reading.reason) and not reading.results


@pytest.mark.host_runtime
def test_a_registry_that_ends_is_told_in_its_own_words(tmp_path: Path) -> None:
    registry = script(tmp_path / "registry", "echo no such storage >&2; exit 3")
    program = script(tmp_path / "conformance", "exit 0")
    _, reading, status = guest(tmp_path, registry=str(registry), program=program)
    assert status == 0 and "ended with status 3: no such storage" in str(reading.reason)


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", 5000), Handler).serve_forever()
"""


def registry_of(tmp_path: Path) -> Path:
    """A program that answers as a registry does that is asked nothing else."""
    (tmp_path / "server.py").write_text(SERVER)
    return script(tmp_path / "registry", f'test "$1" = --version || exec {sys.executable} {tmp_path}/server.py')


# --- for real, on a machine


@pytest.mark.machine
@pytest.mark.long
def test_docker_registry_on_a_real_machine_and_its_claim(
    tmp_path_factory: pytest.TempPathFactory, stock: Stock, uml: Lab
) -> None:
    made = tools_of(stock)
    env = {"LABKIT_DISTRIBUTION_SPEC": f"host:{made.program}"}
    words_of = ("--suite", "distribution", "--registry", "docker-registry")
    uml.run("test", *words_of, env=env, timeout=600)
    found = uml.results()
    assert found["run"]["complete"] and found["unexpected"] == 0
    assert (found["totals"]["pass"], found["totals"]["fail"], found["totals"]["skip"]) == (558, 96, 32)
    assert (found["runtime"]["name"], found["runtime"]["version"]) == ("docker-registry", "2.8.3+ds1")
    assert found["evidence"]["upstream"]["sha256"]
    uml.run("claim", "latest", "--out", "claim-of-a-registry")
    done = uml.run("verify", "claim-of-a-registry", "--key", str(uml.home / "keys/claim.pub"))
    assert "686 results judged again" in done.stdout
    assert "the claim holds" in done.stdout

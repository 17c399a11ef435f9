"""docs/reference/json.md against what the commands print: every key is in its table, and no table has one too many."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from labkit.core import config, platforms
from labkit.core.errors import ImageError
from labkit.core.platforms import Distro
from labkit.host.facts import FactState
from labkit.machines.base import MachineState
from labkit.machines.fake import FakeMachine
from labkit.results.model import Verdict
from labkit.suites.base import SilentRun
from labkit.usecases.run import run_cell
from tests import recorded
from tests.histories import nights
from tests.simulated import Nights
from tests.test_bisect import Faked, broken_at, commits, find
from tests.test_cell import CELL, OUTPUT, suite_prints
from tests.test_cli import CHECKOUT, COMMANDS, labkit
from tests.test_explain import RECORDED
from tests.test_transcript import GOOD, pack

SCHEMA = json.loads((CHECKOUT / "docs" / "reference" / "json.schema.json").read_text())
TEXT = (CHECKOUT / "docs" / "reference" / "json.md").read_text()
_NAMES = {"VERDICT": f"({'|'.join(Verdict)})", "GROUP": "(newly_failing|fixed|no_longer_shown|appeared|gone|changed)"}
TASKS = sorted(name for name, command in COMMANDS.items() if "json" in command.flags)


@cache
def sections() -> dict[str, str]:
    """Task to its section of the document."""
    found = {}
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        found.update(dict.fromkeys(re.findall(r"`(\w+)`", heading), text))
    return found


def documented(task: str) -> set[str]:
    """The keys of a section's tables."""
    rows = re.findall(r"^\| (`.*?`) \|", sections()[task], re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`(.+?)`", row)}


def examples(task: str) -> list[Any]:
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", sections()[task], re.DOTALL)]


def keys(value: Any, at: str = "") -> Iterator[str]:
    """The keys of a value as the document writes them; of what can be empty, the list itself too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            # A release can have a dot in its name, as 24.04.
            path = f"{at}.{key.replace('.', '·')}" if at else key.replace(".", "·")
            yield path
            yield from keys(inner, path)
    elif isinstance(value, list):
        if at:
            yield f"{at}[]"
        for inner in value:
            yield from keys(inner, f"{at}[]")


def matches(key: str, path: str) -> bool:
    """Whether the key of a table stands for the path: each word in capitals is any name, or one of those."""
    pieces = re.split(r"([A-Z][A-Z-]+)", key)
    pattern = (_NAMES.get(piece, "[^.]+?") if number % 2 else re.escape(piece) for number, piece in enumerate(pieces))
    return re.fullmatch("".join(pattern), path) is not None


def is_documented(path: str, known: set[str]) -> bool:
    """A key itself, or something on the way to one."""
    return any(matches(key, path) or matches(key.rpartition("[]")[0], path) for key in known) or any(
        matches(beginning, path) for key in known for beginning in beginnings(key)
    )


def beginnings(key: str) -> Iterator[str]:
    while "." in key:
        key = key.rpartition(".")[0]
        yield key
        yield key.removesuffix("[]")


def of_a_night(directory: Path) -> list[Any]:
    """Two simulated nights, the second with something of each kind, and the plan of a third."""
    nights = Nights(directory)
    try:
        (nights.plan / "packages").write_text("runc 1.1.15-2\n")
        nights.run()
        (nights.plan / "packages").write_text("runc 1.1.15-3\n")
        for name, does in (("r1", "show bad"), ("r2", "show flaky"), ("r3", 'lab "no image"')):
            nights.does(name, does)
        nights.wait(nights.start("--json"))
        night = json.loads(nights.out)
        nights.wait(nights.start("--plan", "--json"))
        return [night, nights.night(), json.loads(nights.out)]
    finally:
        nights.end()


def of_bisections(work: Path) -> list[Any]:
    """One that found something, one that did not."""
    commits(work / "tree", 4)
    settings = config.load(cwd=work, environ={"LABKIT_HOME": str(work / "home"), "LABKIT_PROVIDER": "uml"})
    found = find(settings, Faked(work / "tree", broken_at(3)), bad="t4")
    lost = find(settings, Faked(work / "tree", broken_at(3, at2=ImageError("no"), at3=ImageError("no"))), bad="t4")
    return [{"folder": str(done.directory), **done.bisection.to_json()} for done in (found, lost)]


def explained(work: Path, run: Any) -> list[Any]:
    """Of a run with what its checks did, with everything that there can be in that, and of a program."""
    saved = work / "saved"
    saved.mkdir()
    text = RECORDED.read_text()
    line = next(line for line in text.splitlines() if line.startswith("# transcript NS-007 "))
    steps = [
        {"bundle": "b"},
        {"file": "b/l", "kind": "link", "to": "x"},
        {"file": "b/n", "kind": "node", "type": "c", "device": [1, 3]},
        {"call": ["runc"], "env": {"A": "b"}, "status": 0},
        {"pid": 7, "pid_file": "x.pid"},
        {"waited": 1, "pid_file": "x.pid"},
    ]
    (saved / "spec.tap").write_text(text.replace(line, f"# transcript NS-007 {pack({**GOOD, 'steps': steps})}"))
    run("judge", saved)
    words = ("HOOK-010",), ("NS-007",), ("STATE-001",), ("HOOK-010", "--reproduce", "folder")
    return [*(run("explain", "latest", *each) for each in words), run("explain", recorded.V2, "delete")]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each task prints, in the cases that differ."""
    work = tmp_path_factory.mktemp("json")
    (work / "home" / "machines" / "mine").mkdir(parents=True)  # one that labkit was killed over
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(work), "LABKIT_HOME": str(work / "home")}

    def run(*words: object) -> Any:
        done = labkit(*map(str, words), "--json", environ=environ, cwd=work)
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)

    (work / "home/images" / f"{'0' * 16}.making").mkdir(parents=True)
    incomplete = work / "incomplete"
    incomplete.mkdir()
    (incomplete / "spec.tap").write_text("1..2\nok 1 - STATE-001 x\n")
    failing = work / "failing"
    failing.mkdir()
    (failing / "spec.tap").write_text("1..1\nnot ok 1 - STATE-001 x\n")
    changed = work / "changed"
    changed.mkdir()
    for path in recorded.V2.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    (changed / "create.tap").write_text("TAP version 13\nnot ok 1 - create\n1..1\n")
    nothing = work / "nothing"
    nothing.mkdir()
    (nothing / "spec.tap").write_text("1..1\nok 1 - STATE-001 x # SKIP not here\n")
    findings = []
    for finding in ("a", "b"):
        findings.append(work / finding)
        findings[-1].mkdir()
        block = f'  ---\n  failures: [{{"finding": "{finding}", "what": "x"}}]\n  ...\n'
        (findings[-1] / "spec.tap").write_text(f"1..1\nnot ok 1 - STATE-001 x\n{block}")
    told = [run("judge", recorded.V1), run("judge", recorded.V2, "--no-policy"), run("judge", incomplete)]
    told.append(run("judge", nothing))
    both = work / "both"
    both.mkdir()
    (both / "spec.tap").write_text("TAP version 14\n# suite: spec\n# runtime: runc\n1..1\nok 1 - STATE-001 x\n")
    (both / "create.tap").write_text("TAP version 13\nok 1 - create\n1..1\n")
    two = run("judge", both)
    nights(work / "reports", ["...", ".F.", "..Y", ".FY", ".F.", ".F.", ".F."])
    cell, check = run("history", "debian-13/*"), run("history", "C-001")
    past = {"history": [cell, check], "flaky": [run("flaky")], "nights": [run("nights")], "site": [run("site")]}
    distro = Distro(platform := platforms.load("debian", platforms.directories()), platform.release(None))
    fake = FakeMachine()
    fake.create(distro)
    machine = replace(
        fake.status(), provider="qemu", address="127.0.0.1", port=22, user="root", accelerator="kvm", seconds=1.5
    )
    claimed = run("claim", Path(told[0]["folder"]).name, "--out", "claimed", "--own-policy")
    (work / "damaged").mkdir()
    for path in (work / "claimed").glob("claim.*"):
        (work / "damaged" / path.name).write_bytes(path.read_bytes())
    verified = [run("verify", "claimed", "--key", work / "home/keys/claim.pub"), run("verify", "damaged")]
    (work / "tree/bin").mkdir(parents=True)
    (work / "tree/bin/sh").write_text("x")
    words = ("--args", "/none", "--rootfs", "tree")
    return {
        "bundle": [run("bundle", *words, "--out", "bundle")],
        "claim": [claimed],
        "verify": [*verified, {**verified[0], "notes": ["x"]}],
        "up": [machine.to_json()],
        "reset": [machine.to_json()],
        "status": [run("status")],
        "gc": [run("gc", "--dry-run"), run("gc")],
        "destroy": [run("destroy", "--machine", "mine"), run("destroy", "--all")],
        "bisect": of_bisections(tmp_path_factory.mktemp("bisections")),
        "nightly": of_a_night(tmp_path_factory.mktemp("nights")),
        "test": told,
        "judge": told,
        "judge of two suites": [two],
        "report": [run("report"), run("report", "--no-policy")],
        "diff": [
            run("diff", recorded.V1, recorded.V2),
            run("diff", recorded.V2, changed),
            run("diff", *findings),
            run("diff", *findings, failing),
        ],
        "explain": explained(work, run),
        "policy": [run("policy", "add", failing, "STATE-001", "--reason", "x"), run("policy", "check", failing)],
        "platforms": [run("platforms")],
        "runtimes": [run("runtimes")],
        "engines": [run("engines")],
        "suites": [run("suites"), run("suites", "--export", work)],
        "doctor": [run("doctor")],
        **past,
    }


def test_every_task_with_json_has_a_section() -> None:
    assert sorted(sections()) == TASKS


@pytest.mark.parametrize("task", TASKS)
def test_every_key_that_is_printed_is_documented(task: str, printed: dict[str, list[Any]]) -> None:
    known = documented(task)
    for value in printed[task] + examples(task):
        assert [path for path in keys(value) if not is_documented(path, known)] == []


@pytest.mark.parametrize("task", TASKS)
def test_every_key_that_is_documented_is_printed(task: str, printed: dict[str, list[Any]]) -> None:
    shared = {"report": "judge"}.get(task, task)
    paths = {path for value in printed[shared] for path in keys(value)}
    # A platform has one of three ways to know a file.
    digests = {key for key in documented(task) if key.endswith((".sha256", ".sha512", ".checksums"))}
    assert [key for key in documented(task) - digests if not any(matches(key, path) for path in paths)] == []
    assert examples(task)


def test_the_machine_of_a_run_is_documented(tmp_path: Path) -> None:
    machine = suite_prints(OUTPUT.replace(b"# cgroup", b"# user: lab\n# user-namespace: 1 user id mapped\n# cgroup"))
    machine.kernel_origin, machine.arch = "User-Mode Linux 7.2.7, a test's", "amd64"
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    kept = run_cell(CELL, settings, SilentRun(), None, lambda *_: machine).directory / "results.json"
    section = TEXT.split("## The machine in `results.json`\n")[1]
    told = {key for row in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for key in re.findall(r"`(.+?)`", row)}
    assert {key.partition(".")[0] for key in told} == set(json.loads(kept.read_text())["machine"])


def closed(schema: Any) -> Any:
    """The schema with every object closed: what is printed and not in it is an error."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inside = {key: closed(inner) for key, inner in schema.items()}
    return {"additionalProperties": False, **inside} if schema.get("type") == "object" else inside


NO_SCHEMA_YET = {"nightly"}  # it must get one


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({**closed(SCHEMA), "$ref": f"#/commands/{name}"})


def test_the_schema_is_one_and_has_every_task() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for part in (*SCHEMA["commands"].values(), *SCHEMA["$defs"].values()):
        Draft202012Validator.check_schema(part)
    assert set(TASKS) - SCHEMA["commands"].keys() == set()
    assert SCHEMA["$defs"]["verdict"]["enum"] and set(SCHEMA["$defs"]["verdict"]["enum"]) == set(Verdict)
    assert set(MachineState) <= set(SCHEMA["$defs"]["machine"]["properties"]["state"]["enum"])


@pytest.mark.parametrize("task", TASKS)
def test_what_is_printed_and_every_example_is_of_the_schema(task: str, printed: dict[str, list[Any]]) -> None:
    check = validator(task)
    for value in printed[task]:
        check.validate(value)
    for value in examples(task):
        Draft202012Validator({**SCHEMA, "$ref": f"#/commands/{task}"}).validate(value)


@pytest.mark.parametrize("task", TASKS)
def test_a_schema_can_fail(task: str, printed: dict[str, list[Any]]) -> None:
    check = validator(task)
    wrong: list[Any] = [None, 1, "x", [1], [{}], {}, {"more": 1}]
    assert [value for value in wrong if check.is_valid(value)] == []
    value = printed[task][0]
    entry = value[0] if isinstance(value, list) and value else value
    if isinstance(entry, dict):
        more = {**entry, "more": 1}
        assert not check.is_valid([more] if isinstance(value, list) else more)


def test_the_output_of_two_suites_is_of_the_schema_of_judge(printed: dict[str, list[Any]]) -> None:
    (two,) = printed["judge of two suites"]
    validator("judge").validate(two)
    assert len(two["runs"]) == 2 and two["exit_status"] == max(one["exit_status"] for one in two["runs"])


def test_results_json_is_of_the_schema(printed: dict[str, list[Any]]) -> None:
    check = validator("results.json")
    (two,) = printed["judge of two suites"]
    found = [Path(one["folder"], "results.json") for one in (*printed["judge"], *two["runs"])]
    found += [path for one in found for path in one.parent.glob("judged-*/results.json")]
    assert len(found) > len(printed["judge"]) + 2, "report judged one of them anew"
    for path in found:
        check.validate(json.loads(path.read_text()))


def test_folder_is_the_directory_of_the_run(printed: dict[str, list[Any]]) -> None:
    assert all((Path(told["folder"]) / "results.json").is_file() for told in printed["test"])


def test_the_vocabularies_are_complete() -> None:
    for word in Verdict:
        assert f"`{word}`" in TEXT.partition("\n## ")[0]
    assert all(f"`{state}`" in sections()["up"] for state in MachineState)
    assert all(f"`{state}`" in sections()["doctor"] for state in FactState)


@pytest.mark.parametrize(
    ("key", "path"),
    [("name", "nam"), ("[].name", "name"), ("totals.VERDICT", "totals.passed"), ("GROUP[].id", "fixed.id"),
     ("GROUP[].id", "more"), ("policy.expired[]", "policy.more"), ("policy.expired[]", "more")],
)  # fmt: skip
def test_a_key_that_is_missing_would_be_noticed(key: str, path: str) -> None:
    assert not matches(key, path)
    assert not is_documented(path, {key})

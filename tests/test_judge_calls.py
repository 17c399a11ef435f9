"""`judge` of records of calls, as a person types it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.callers import ENGINES, MUTANTS, Caller, data, right
from tests.test_judge import Run, run

__all__ = ["run"]


def results(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "reports/latest/results.json").read_text())
    return found


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_a_recording_is_judged_and_comes_to_the_same_again(run: Run, work: Path, name: str) -> None:
    (work / f"{name}.jsonl").write_bytes(ENGINES[name])
    wrong = name == "podman2-buildah"  # podman's devices
    run("judge", f"{name}.jsonl", status=int(wrong))
    first = results(work)
    assert first["suite"]["name"] == "engine" and first["run"]["complete"]
    assert [one["id"] for one in first["results"] if one["verdict"] == "fail"] == ["CALL-042"] * wrong
    assert (work / "reports/latest/raw/calls.jsonl").read_bytes() == ENGINES[name]
    run("judge", "latest", status=int(wrong))
    assert results(work)["results"] == first["results"]
    run("judge", f"{name}.jsonl", "--profile", "document", status=1)
    assert {"CALL-002"} <= {one["id"] for one in results(work)["results"] if one["verdict"] == "fail"}
    run("judge", "latest", status=1)  # the profile is kept with the run


def test_a_table_of_features_is_in_the_report(run: Run, work: Path) -> None:
    (work / "a.jsonl").write_bytes(ENGINES["docker-26.1.5"])
    run("judge", "a.jsonl")
    (features,) = [one for one in results(work)["results"] if one["id"] == "CALL-060"]
    assert features["diagnostic"]["notes"]["docker"]["hooks"] == "prestart"
    page = (work / "reports/latest/report.html").read_text()
    assert "SCMP_ACT_ERRNO" in page and "oomScoreAdj" in page


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.log", "what", "calls.json"])
def test_a_record_is_known_by_what_is_in_it(run: Run, work: Path, name: str) -> None:
    (work / name).write_bytes(data(right()))
    run("judge", name)
    assert results(work)["suite"]["name"] == "engine"


def test_a_directory_and_an_archive_of_a_record(run: Run, work: Path) -> None:
    (work / "one").mkdir()
    (work / "one/engine.jsonl").write_bytes(data(right()))
    (work / "one/other.jsonl").write_text('{"level": "info"}\n')  # somebody's log
    run("judge", "one")
    with tarfile.open(work / "one.tar.gz", "w:gz") as archive:
        archive.add(work / "one", "one")
    run("judge", "one.tar.gz")
    assert results(work)["suite"]["name"] == "engine"
    (work / "one/second.jsonl").write_bytes(data(right()))
    said = run("judge", "one", status=2).stderr
    assert "has 2 records of calls: engine.jsonl, second.jsonl" in " ".join(said.split())
    assert "judge each" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no call of a runtime in it"),
        (b'{"level": "info", "msg": "started"}\n', "has no call of a runtime in it"),
        (b"\x00\xff\x00" * 100, "has no call of a runtime in it"),
    ],
)
def test_what_is_no_record_is_said(run: Run, work: Path, content: bytes, said: str) -> None:
    (work / "a.jsonl").write_bytes(content)
    done = run("judge", "a.jsonl", status=2)
    assert said in " ".join(done.stderr.split()) and not (work / "reports/latest").exists()


def test_a_damaged_record_is_incomplete(run: Run, work: Path) -> None:
    whole = data(right())
    (work / "a.jsonl").write_bytes(whole[:-30])
    done = run("judge", "a.jsonl", status=4)
    assert "could not be read" in " ".join(done.stdout.split())
    assert not results(work)["run"]["complete"]


def test_a_huge_record_is_read_to_its_limit(run: Run, work: Path) -> None:
    line = json.dumps({"argv": ["state", "x" * 1000], "fds": {}}).encode() + b"\n"
    with (work / "a.jsonl").open("wb") as file:
        file.write(data(right()))
        for _ in range((65 << 20) // (len(line) * 1000)):
            file.write(line * 1000)
    done = run("judge", "a.jsonl", "--only", "CALL-003,CALL-004", status=4)
    assert "more than 64 MiB of calls" in " ".join(done.stdout.split())


def test_a_part_of_the_checks(run: Run, work: Path) -> None:
    lines = right()
    next(mutant for mutant in MUTANTS if mutant.check == "CALL-022").change(lines)
    (work / "a.jsonl").write_bytes(data(lines))
    run("judge", "a.jsonl", "--only", "CALL-022", status=1)
    run("judge", "a.jsonl", "--only", "CALL-01*")
    assert [one["id"] for one in results(work)["results"]] == [f"CALL-{n:03}" for n in range(10, 17)]
    said = run("judge", "a.jsonl", "--only", "CALL-099", status=2).stderr
    assert "the engine suite has no check 'CALL-099'" in " ".join(said.split())


def test_the_profile_is_about_records_alone(run: Run, work: Path) -> None:
    (work / "spec.tap").write_text("1..1\nok 1 - STATE-001 x\n")
    said = run("judge", "spec.tap", "--profile", "document", status=2).stderr
    assert "has no record of calls, which alone --profile is about" in " ".join(said.split())
    said = run("judge", "spec.tap", "--profile", "strict", status=2).stderr
    assert "--profile is 'strict', must be" in said


def test_the_suite_says_how_it_is_used(run: Run) -> None:
    said = run("test", "--suite", "engine", "--provider", "qemu", status=2).stderr
    assert "--suite engine needs --engine" in said and "docker" in said and "./lab judge FILE.jsonl" in said


def test_two_records_are_compared(run: Run, work: Path) -> None:
    (work / "a.jsonl").write_bytes(data(right()))
    caller = Caller()
    caller.call("state", "one")
    (work / "b.jsonl").write_bytes(data([*right(), *({**line, "id": "x"} for line in caller.lines[:1])]))
    lines = right()
    next(mutant for mutant in MUTANTS if mutant.check == "CALL-020").change(lines)
    (work / "c.jsonl").write_bytes(data(lines))
    assert "CALL-020" not in run("diff", "a.jsonl", "b.jsonl").stdout
    assert "CALL-020" in run("diff", "a.jsonl", "c.jsonl").stdout

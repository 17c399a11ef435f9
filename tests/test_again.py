"""What is bad and unexpected is run again alone: whether it repeats."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.core.cell import Selection
from labkit.guest.common.claims import RuntimeClaims
from labkit.guest.spec import registry, runner, tap
from labkit.guest.spec.context import SuiteRun, T
from labkit.guest.spec.host import Host
from labkit.guest.spec.process import Proc
from labkit.reports.evidence import evidence
from labkit.reports.terminal import summary
from labkit.results.model import WHOLE, Expected, Program, Reading, Result, SuiteInfo, Verdict
from labkit.results.tap import JSON, TestPoint, read
from labkit.suites import again
from labkit.suites.base import ATTACHED
from labkit.suites.spec import SUITE, from_tap, result_of
from tests.conftest import ROOT
from tests.test_results import a_run

FAIL, PASS, FLAKY = Verdict.FAIL, Verdict.PASS, Verdict.FLAKY


def reading(**programs: dict[str, Verdict]) -> Reading:
    results = tuple(
        Result(f"{name}/{number}", text, "MUST", "", verdict, 0.0, {}, name)
        for name, lines in programs.items()
        for number, (text, verdict) in enumerate(lines.items())
    )
    ended = tuple(
        Program(name, min(lines.values(), key=list(Verdict).index), 1.0, 0) for name, lines in programs.items()
    )
    return Reading(results, {}, None, ended)


def verdicts(settled: Reading) -> dict[str, Verdict]:
    return {result.name: result.verdict for result in settled.results}


@pytest.mark.parametrize(
    ("others", "one", "two"),
    [
        ([], FAIL, FAIL),
        ([reading(a={"one": PASS, "two": FAIL})], FLAKY, FAIL),
        ([reading(a={"one": PASS, "two": PASS}), reading(a={"one": FAIL, "two": PASS})], FAIL, FLAKY),
        ([reading(a={"one": PASS, "two": PASS}), reading(b={"one": FAIL})], FLAKY, FLAKY),
        ([reading(b={"one": FAIL})], FAIL, FAIL),
    ],
)
def test_each_result_for_itself(others: list[Reading], one: Verdict, two: Verdict) -> None:
    first = reading(a={"one": FAIL, "two": FAIL, "three": PASS}, b={"four": PASS})
    settled = again.settled(first, others)
    assert verdicts(settled) == {"one": one, "two": two, "three": PASS, "four": PASS}
    (a, b) = settled.programs
    assert (a.verdict, b.verdict) == (FLAKY if {one, two} == {FLAKY} else FAIL, PASS)


def test_a_program_as_a_whole_that_passes_then_has_no_result_about_it() -> None:
    first = reading(a={WHOLE: Verdict.TIMEOUT})
    assert verdicts(again.settled(first, [reading(a={"one": PASS})])) == {WHOLE: FLAKY}


def test_of_a_program_that_ran_some_of_its_tests_only_those_were_run_again() -> None:
    first = replace(reading(a={"one": FAIL, "two": FAIL, WHOLE: FAIL}), tests={"a": ("one", "two")})
    part = replace(reading(a={"one": PASS}), tests={"a": ("one",)})
    assert verdicts(again.settled(first, [part])) == {"one": FLAKY, "two": FAIL, WHOLE: FAIL}
    all_of_it = replace(reading(a={"one": PASS, "two": FAIL}), tests={"a": ("one", "two")})
    assert verdicts(again.settled(first, [all_of_it])) == {"one": FLAKY, "two": FAIL, WHOLE: FLAKY}


def checked(*findings: str) -> Reading:
    failures: JSON = [{"finding": name, "what": name} for name in findings]
    verdict = FAIL if findings else PASS
    return Reading((Result("A-001", "one", "MUST", "", verdict, 0.0, {"failures": failures}),), {}, None)


@pytest.mark.parametrize(
    ("others", "verdict", "findings"),
    [
        ([checked()], FLAKY, ("a", "b")),
        ([checked(), checked("b")], FAIL, ("b",)),
        ([checked("a", "b")], FAIL, ("a", "b")),
        ([checked("c")], FAIL, ("a", "b")),
    ],
)
def test_a_finding_that_is_seen_only_once_is_none(
    others: list[Reading], verdict: Verdict, findings: tuple[str, ...]
) -> None:
    (result,) = again.settled(checked("a", "b"), others).results
    assert (result.verdict, result.findings) == (verdict, findings)


@pytest.mark.parametrize(
    ("again", "verdict", "findings", "once"),
    [
        ([("skip",)], "flaky", ["a", "b"], None),
        ([("pass",), ("fail", "b", "c")], "fail", ["b"], ["a", "c"]),
        ([("fail", "a", "b")], "fail", ["a", "b"], None),
        ([("fail", "c")], "fail", ["a", "b"], None),
        ([("timeout",)], "fail", ["a", "b"], None),
    ],
)
def test_the_suite_by_itself_has_the_same_rule(
    again: list[tuple[str, ...]], verdict: str, findings: list[str], once: list[str] | None
) -> None:
    def outcome(verdict: str, *findings: str) -> runner.Result:
        failures = [{"finding": one, "what": one, "expected": 1, "actual": 2} for one in findings]
        return {"verdict": verdict, "message": "said", **({"failures": failures} if failures else {})}

    settled = runner.settled([outcome("fail", "a", "b"), *(outcome(*one) for one in again)])
    assert settled["verdict"] == verdict
    assert settled["attempts"] == ["fail", *(one[0] for one in again)]
    assert [one["finding"] for one in settled["failures"]] == findings
    assert settled.get("notes", {}).get("seen only once") == once


def outcome(verdict: str, *findings: str) -> runner.Result:
    failures = [{"finding": one, "what": one, "expected": 1, "actual": 2} for one in findings]
    said = {} if verdict == "pass" else {"message": f"it was a {verdict}", "failures": failures}
    return {"id": "A-001", "verdict": verdict, "seconds": 0.5, **said}


@pytest.mark.parametrize(
    ("times", "verdict", "findings", "once"),
    [
        ([("pass",)] * 3, "pass", {}, None),
        ([("skip",)] * 3, "skip", {}, None),
        ([("pass",), ("skip",), ("pass",)], "flaky", {}, None),
        ([("pass",), ("fail", "a"), ("pass",)], "flaky", {"a": "1 of 3"}, None),
        ([("fail", "a"), ("fail", "a"), ("fail", "a", "b")], "fail", {"a": "3 of 3"}, ["b"]),
        ([("fail", "a"), ("fail", "b"), ("fail", "b")], "fail", {"b": "2 of 3"}, ["a"]),
        ([("fail", "a"), ("fail", "b")], "fail", {"a": "1 of 2"}, ["b"]),
        ([("timeout",), ("error",)], "error", {}, None),
        ([("timeout",), ("pass",), ("fail", "a")], "flaky", {"a": "1 of 3"}, None),
    ],
)
def test_what_was_run_several_times(
    times: list[tuple[str, ...]], verdict: str, findings: dict[str, str], once: list[str] | None
) -> None:
    result = runner.summed([outcome(*one) for one in times])
    assert (result["verdict"], result["attempts"]) == (verdict, [one[0] for one in times])
    assert {one["finding"]: one["times"] for one in result.get("failures", ())} == findings
    assert result.get("notes", {}).get("seen only once") == once
    assert result["seconds"] == 0.5 * len(times)
    (point,) = (event for event in read(tap.point(1, result, "x").encode()) if isinstance(event, TestPoint))
    assert result_of(point).verdict == verdict


verdict_words = st.sampled_from(["pass", "fail", "error", "timeout", "skip"])


@given(st.lists(st.tuples(verdict_words, st.sets(st.sampled_from("abc"))), min_size=2, max_size=6), st.randoms())
def test_a_check_that_was_run_several_times_is_bad_only_where_each_was(
    times: list[tuple[str, set[str]]], random: Random
) -> None:
    results = [outcome(word, *(sorted(found) if word == "fail" else ())) for word, found in times]
    verdict = runner.summed(results)["verdict"]
    bad = [one["verdict"] in runner.BAD for one in results]
    assert (verdict in runner.BAD) == all(bad)
    assert (verdict == "flaky") == (not all(bad) and len({one["verdict"] for one in results}) > 1)
    random.shuffle(results)  # in whatever order they came
    assert runner.summed(results)["verdict"] == verdict


@pytest.mark.host_runtime
def test_a_runtime_that_fails_now_and_then_is_flaky(tmp_path: Path) -> None:
    """Of all that looks at the state, every second time: a check that fails at all is told with how often."""
    runtime = tmp_path / "runtime"
    runtime.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *state*STATE-004*|*state*state-004*) echo x >>{tmp_path}/n\n'
        f"[ $(wc -l <{tmp_path}/n) -ne 1 ] || {{ echo not now >&2; exit 1; }} ;; esac\n"
        'exec runc "$@"\n'
    )
    runtime.chmod(0o755)
    selection = Selection(("STATE-004", "CLI-001", "KILL-001"), repeat=3, timeout=30)
    argv = SUITE.argv("-", str(runtime), selection)[len(["python3", "-", *ATTACHED]) :]
    done = subprocess.run(
        [sys.executable, "-m", "labkit.guest.spec", *argv], cwd=ROOT, capture_output=True, timeout=120,
        stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    results = {result.id: result for result in from_tap(read(done.stdout)).results}
    assert {ident: result.verdict for ident, result in results.items()} == {
        "STATE-004": FLAKY, "CLI-001": PASS, "KILL-001": PASS,
    }, done.stderr  # fmt: skip
    assert results["STATE-004"].diagnostic["attempts"] == ["fail", "pass", "pass"]
    (failure,) = evidence(results["STATE-004"]).failures
    assert failure.what.endswith("(1 of 3 times)")
    assert "flaky: STATE-004 (1 fail, 2 pass)" in summary(a_run(*results.values()))


@pytest.mark.host_runtime
def test_the_limit_is_that_of_each_check(tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    hangs = 'case "$*" in *state*STATE-004*|*state*state-004*) sleep 60 ;; esac'
    runtime.write_text(f'#!/bin/sh\n{hangs}\nexec runc "$@"\n')
    runtime.chmod(0o755)
    argv = ["--runtime", str(runtime), "--only", "STATE-004,KILL-001", "--timeout", "2", "--no-confirm"]
    done = subprocess.run(
        [sys.executable, "-m", "labkit.guest.spec", *argv], cwd=ROOT, capture_output=True, timeout=60,
        stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    results = {result.id: result.verdict for result in from_tap(read(done.stdout)).results}
    assert results == {"STATE-004": Verdict.TIMEOUT, "KILL-001": PASS}, done.stderr


def test_of_more_than_can_be_printed_the_first_and_the_last_are_kept() -> None:
    """As records: what is left out is a note, so that a list is still one of findings, and can be settled."""
    check = registry.load()["STATE-001"]
    claims = RuntimeClaims("", (1, 0, 2), None)
    host = Host(("/bin/false",), "/bin/busybox", "v2", (6, 1), 2**32 - 1)
    t = T("STATE-001", SuiteRun("x", host, claims, Path("/nowhere"), (), "1.0.2"), 60)

    def compares(t: T) -> None:
        for number in range(70):
            t.commands.append(Proc(("runtime", str(number)), 0, "", "", 0.1, "state"))
            t.equal(number, -1, f"finding {number}")

    outcome = runner._perform(check, t, compares)
    kept = [*range(30), *range(40, 70)]
    assert [one["finding"] for one in outcome["failures"]] == [f"finding-{number}" for number in kept]
    assert [one["argv"][1] for one in outcome["commands"]] == [str(number) for number in kept]
    assert outcome["notes"] == {"failures left out": 10, "commands left out": 10}
    settled = runner.settled([outcome, outcome])
    assert settled["failures"] == outcome["failures"]
    less = {**outcome, "failures": outcome["failures"][1:]}
    assert len(runner.settled([outcome, less])["failures"]) == len(kept) - 1
    (point,) = (event for event in read(tap.point(1, settled, "sixty").encode()) if isinstance(event, TestPoint))
    assert len(result_of(point).findings) == len(kept)


def test_only_what_is_unexpected_and_was_seen_once_is_doubtful() -> None:
    first = reading(a={"one": FAIL}, b={"two": FAIL}, c={"three": FAIL}, d={"four": PASS})
    results = again.settled(first, [reading(c={"three": FAIL})]).results
    known = replace(results[1], expected=Expected("known", "", ""))
    run = replace(a_run(results[0], known, *results[2:]), suite=SuiteInfo("validation", "master"))
    assert again.doubtful(run) == ("a",)

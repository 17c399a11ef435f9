"""What is bad and unexpected is run again alone: whether it repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labkit.guest.common.claims import RuntimeClaims
from labkit.guest.spec import registry, runner, tap
from labkit.guest.spec.context import SuiteRun, T
from labkit.guest.spec.host import Host
from labkit.guest.spec.process import Proc
from labkit.results.model import WHOLE, Expected, Program, Reading, Result, SuiteInfo, Verdict
from labkit.results.tap import JSON, TestPoint, read
from labkit.suites import again
from labkit.suites.spec import result_of
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

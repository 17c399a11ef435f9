"""What is bad and unexpected is run again alone: whether it repeats."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.results.model import WHOLE, Expected, Program, Reading, Result, SuiteInfo, Verdict
from labkit.results.tap import JSON
from labkit.suites import again
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


def test_only_what_is_unexpected_and_was_seen_once_is_doubtful() -> None:
    first = reading(a={"one": FAIL}, b={"two": FAIL}, c={"three": FAIL}, d={"four": PASS})
    results = again.settled(first, [reading(c={"three": FAIL})]).results
    known = replace(results[1], expected=Expected("known", "", ""))
    run = replace(a_run(results[0], known, *results[2:]), suite=SuiteInfo("validation", "master"))
    assert again.doubtful(run) == ("a",)

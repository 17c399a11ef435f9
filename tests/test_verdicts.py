"""The quirks of runtime-tools' output, one test each, in the shapes that were recorded."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labkit.results import tap, verdicts
from labkit.results.json import from_json, to_json
from labkit.results.model import WHOLE, Result, Verdict
from labkit.results.verdicts import End, Judged
from tests.test_results import a_run

URL = "https://github.com/opencontainers/runtime-spec/blob/v1.3.0/"


def judge(output: str | bytes, *, stderr: str = "", end: End | None = End(0), silent: bool = False) -> Judged:  # noqa: B008
    data = output.encode() if isinstance(output, str) else output
    return verdicts.judge("prog", tap.read(data), stderr, end, silent=silent)


def block(**values: object) -> str:
    inside = json.dumps(values, indent=2).replace("\n", "\n  ")
    return f"  ---\n  {inside}\n  ...\n"


def whole(judged: Judged) -> Result:
    (found,) = [result for result in judged.results if result.whole]
    return found


def test_exit_status_0_with_a_failed_line_is_a_failure() -> None:
    judged = judge("TAP version 13\nok 1 - a\nnot ok 2 - b\n1..2\n")
    assert judged.program.verdict is Verdict.FAIL
    assert [(result.name, result.verdict) for result in judged.results] == [("a", "pass"), ("b", "fail")]


def test_level_and_reference_come_from_the_block() -> None:
    said = block(level="SHOULD", reference=f"{URL}config.md#mounts", actual=3999, expected=3000)
    (result,) = judge(f"not ok 1 - has expected soft RLIMIT_NOFILE\n{said}1..1\n").results
    assert (result.level, result.reference) == ("SHOULD", f"{URL}config.md#mounts")
    assert result.diagnostic == {"actual": 3999, "expected": 3000}


def test_a_level_that_the_block_lacks_is_read_in_the_description() -> None:
    said = block(error="exit status 1", reference=f"{URL}runtime.md#create", stderr="no such container\n")
    (result,) = judge(f"not ok 1 - create MUST generate an error\n{said}1..1\n").results
    assert (result.level, result.diagnostic["message"]) == ("MUST", "exit status 1: no such container")


INNER_OK = "TAP version 13\nok 1 # SKIP hostname not set\nok 2 - cwd\n1..2\n"
INNER_BAD = 'TAP version 13\nok 1 - a\nnot ok 2 - propagation\n  ---\n  {\n    "actual": 1\n  }\n  ...\n1..2\n'


def test_the_output_of_a_runtimetest_belongs_to_the_line_after_it() -> None:
    output = (
        "TAP version 13\n"
        + block(stderr="", stdout=INNER_OK)
        + 'ok 1 - check hostname ""\nok 2 - hostname is set correctly\n'  # a block after a line, yet not its own
        + block(stderr="", stdout=INNER_BAD)
        + "not ok 3 - check root propagation\n1..3\n"
    )
    first, second, third = judge(output).results
    assert first.diagnostic == {"inside": {"skip": 1, "pass": 1}}
    assert second.diagnostic == {}
    assert third.diagnostic == {
        "inside": {"pass": 1, "fail": 1},
        "failures": [{"what": "propagation", "actual": 1}],
    }


def test_tap_in_a_string_is_not_counted() -> None:
    output = block(stderr="", stdout=INNER_BAD) + "not ok 1 - a\n1..1\n"
    assert len(judge(output).results) == 1


def test_a_runtimetest_that_broke_off_is_said() -> None:
    cut = block(stderr="getwd: operation not permitted\n", stdout="TAP version 13\nok 1 - cwd\n")
    (first, _) = judge(f"{cut}ok 1 - \nok 2 - seccomp action is added correctly\n1..2\n").results
    assert first.verdict is Verdict.ERROR, "ok over what ended early"
    assert first.diagnostic["message"] == "runtimetest in the container ended early: the output has no plan"
    assert first.diagnostic["stderr"] == "getwd: operation not permitted\n"


def test_a_block_after_a_stray_line_belongs_to_the_line_before_that() -> None:
    output = (
        "TAP version 13\nok 1 - state MUST generate an error\n"
        f"Refer to: {URL}runtime.md#query-state\n" + block(error="exit status 1") + "1..1\n"
    )
    (result,) = judge(output).results
    assert result.diagnostic == {"error": "exit status 1"}
    assert result.reference == f"{URL}runtime.md#query-state"


HIDDEN = f"Hooks MUST be called in the listed order\nRefer to: {URL}config.md#posix-platform-hooks"


def test_an_error_in_a_block_of_no_line_is_a_violation_that_nothing_asserts() -> None:
    judged = judge("TAP version 13\n" + block(error=HIDDEN) + "1..0\n")
    (result,) = judged.results
    assert (judged.program.verdict, result.name) == (Verdict.NO_ASSERTIONS, WHOLE)
    assert result.violation == "Hooks MUST be called in the listed order"
    assert (result.level, result.reference) == ("MUST", f"{URL}config.md#posix-platform-hooks")
    assert result.bad and "violation that no assertion reports" in str(result.diagnostic["message"])


def test_an_error_in_a_block_of_no_line_fails_a_program_that_passes_otherwise() -> None:
    judged = judge("TAP version 13\n" + block(error=HIDDEN) + "ok 1 - a\n1..1\n")
    assert (judged.program.verdict, whole(judged).verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert whole(judged).violation


def test_nothing_but_a_plan_of_0_is_no_assertions() -> None:
    judged = judge("TAP version 13\n1..0\n")
    assert (judged.program.verdict, whole(judged).bad) == (Verdict.NO_ASSERTIONS, True)


def test_a_plan_of_0_with_a_reason_is_a_skip() -> None:
    assert whole(judge("1..0 # SKIP linux-specific\n")).diagnostic["reason"] == "linux-specific"
    assert judge("1..0 # SKIP linux-specific\n").program.verdict is Verdict.SKIP


@pytest.mark.parametrize("again", ["TAP version 13\n", ""])
def test_a_second_stream_starts_over(again: str) -> None:
    judged = judge(f"TAP version 13\nok 1 - a\nok 2 - b\n1..2\n{again}ok 1 - c\n1..1\n")
    assert judged.program.verdict is Verdict.PASS
    assert [result.name for result in judged.results] == ["a", "b", "c"]


def test_streams_without_numbers_end_with_their_plans() -> None:
    judged = judge("ok - a\n1..1\nok - b\n1..1\n")
    assert judged.program.verdict is Verdict.PASS


def test_a_stream_that_broke_off_is_not_made_whole_by_the_next() -> None:
    assert judge("ok - a\nTAP version 13\nok - b\n1..2\n").program.verdict is Verdict.ERROR


def test_a_second_stream_may_be_empty() -> None:
    assert judge("TAP version 13\nok 1 - a\n1..1\nTAP version 13\n1..0\n").program.verdict is Verdict.PASS


def test_a_second_stream_may_have_its_plan_first() -> None:
    assert judge("1..1\nok 1 - a\n1..2\nok 1 - b\nok 2 - c\n").program.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("ok 1 - a\n", "no plan"),
        ("ok 1 - a\n1..3\n", "printed 1 of 3 planned results"),
        ("1..2\n1..2\nok 1 - a\n", "a stream with 2 plans"),
        ("ok 1 - a\nBail out! no cgroup\n1..1\n", "bailed out: no cgroup"),
        ("ok 1 - a\n1..1\nTAP version 13\nok 1 - b\n", "no plan"),
    ],
)
def test_a_stream_that_is_not_whole_is_an_error_with_what_it_had(output: str, why: str) -> None:
    judged = judge(output)
    assert (judged.program.verdict, whole(judged).diagnostic["message"]) == (Verdict.ERROR, why)
    assert judged.results[0].name == "a"


def test_a_stray_line_is_kept_with_the_line_that_follows() -> None:
    (result,) = judge("TAP version 13\n<nil>\nok 1 - a\n1..1\n").results
    assert result.diagnostic == {"notes": ["<nil>"]}


def test_a_stray_line_at_the_end_is_kept_too() -> None:
    (result,) = judge("ok 1 - a\n1..1\n<nil>\n").results
    assert result.diagnostic == {"notes": ["<nil>"]}


def test_a_block_after_the_plan_belongs_to_no_line() -> None:
    judged = judge("ok 1 - a\n1..1\n" + block(error="left over"))
    assert whole(judged).violation == "left over"


def test_the_output_of_a_runtimetest_that_no_line_follows_is_kept() -> None:
    judged = judge(block(stderr="killed", stdout=INNER_OK), end=End(1))
    assert whole(judged).diagnostic["blocks"] == [{"inside": {"skip": 1, "pass": 1}, "stderr": "killed"}]


def test_a_skip_without_a_dash() -> None:
    judged = judge("ok 1 # SKIP linux.sysctl not set\n1..1\n")
    assert judged.program.verdict is Verdict.SKIP
    assert [result.name for result in judged.results] == ["linux.sysctl not set"]


def test_a_todo_is_neither_pass_nor_failure() -> None:
    assert judge("not ok 1 - a # TODO later\n1..1\n").program.verdict is Verdict.TODO
    assert judge("not ok 1 - a # TODO later\nok 2 - b\n1..2\n").program.verdict is Verdict.PASS


def test_empty_output_passes_only_for_a_program_that_passes_so() -> None:
    assert judge("", silent=True).program.verdict is Verdict.PASS
    assert judge("").program.verdict is Verdict.NO_ASSERTIONS
    assert judge("", silent=True, end=End(1), stderr="x").program.verdict is Verdict.ERROR
    assert judge("1..0\n", silent=True).program.verdict is Verdict.NO_ASSERTIONS


def test_a_program_that_gives_up_says_why_on_stderr() -> None:
    judged = judge("TAP version 13\n1..0\n", stderr="cgroupv2 is not supported yet\n", end=End(1))
    assert judged.program.verdict is Verdict.ERROR
    assert whole(judged).diagnostic["message"] == "exited with status 1: cgroupv2 is not supported yet"


def test_a_violation_on_stderr_is_shown_as_one() -> None:
    stderr = f"Any value MUST cause an error\nRefer to: {URL}config.md#linux-process\n"
    judged = judge("ok 1 - a\n1..1\n", stderr=stderr, end=End(1))
    result = whole(judged)
    assert (judged.program.verdict, result.violation) == (Verdict.ERROR, "Any value MUST cause an error")
    assert (result.level, result.reference) == ("MUST", f"{URL}config.md#linux-process")


def test_compared_values_stand_in_a_comment_after_the_line() -> None:
    first, second = judge("not ok 1 - pids limit\n# expect: 10, actual: 12\nok 2 - b\n# words\n1..2\n").results
    assert first.diagnostic == {"expected": "10", "actual": "12"}
    assert second.diagnostic == {"notes": ["words"]}


def test_a_failure_that_gives_no_reason_gets_stderr() -> None:
    (result,) = judge("not ok 1 - exit status 1\n1..1\n", stderr="cannot set leaf_weight\n").results
    assert result.diagnostic["message"] == "cannot set leaf_weight"
    (result,) = judge("not ok 1 - find cgroup\n# cgroupv2 is not supported yet\n1..1\n", stderr="x").results
    assert result.diagnostic["message"] == "cgroupv2 is not supported yet"


@pytest.mark.parametrize(
    ("end", "verdict", "why"),
    [
        (End(None, 9, True, 30.0), Verdict.TIMEOUT, "time limit reached after 30.0 s"),
        (End(124, seconds=30.0), Verdict.TIMEOUT, "time limit reached after 30.0 s"),
        (End(None, 11), Verdict.ERROR, "killed by signal 11 (SIGSEGV)"),
        (End(None, 99), Verdict.ERROR, "killed by signal 99 (unknown)"),
        (End(), Verdict.ERROR, "exit status unknown"),
        (None, Verdict.ERROR, "did not finish"),
    ],
)
def test_however_it_ended_its_lines_are_kept(end: End | None, verdict: Verdict, why: str) -> None:
    judged = judge("ok 1 - a\n1..1\n", end=end)
    assert (judged.program.verdict, whole(judged).diagnostic["message"]) == (verdict, why)
    assert len(judged.results) == 2


def test_an_unknown_status_is_not_held_against_a_program() -> None:
    assert judge("ok 1 - a\n1..1\n", end=End(unknown=True)).program.verdict is Verdict.PASS


def test_too_much_output_is_an_error() -> None:
    judged = verdicts.judge("prog", tap.read(b"ok\n" * 9, tap.Limits(events=3)), "", End(0))
    assert "printed too much" in str(whole(judged).diagnostic["message"])


def test_ids_are_the_same_whatever_the_order() -> None:
    lines = [f"ok - {word}" for word in ("a", "b", "c", "a", "a")]
    ids = {frozenset((r.id, r.name) for r in judge("\n".join([*order, "1..5\n"])).results) for order in shuffled(lines)}
    assert len(ids) == 1
    assert len(next(iter(ids))) == 5


def shuffled(lines: list[str]) -> list[list[str]]:
    return [random.Random(seed).sample(lines, len(lines)) for seed in range(5)]


def test_what_is_made_up_anew_is_no_part_of_an_identity() -> None:
    def identity(directory: str, version: str) -> tuple[str, str, str]:
        said = block(reference=f"https://github.com/opencontainers/runtime-spec/blob/{version}/runtime.md#create")
        (result,) = judge(f"not ok 1 - stat /tmp/{directory}/output\n{said}1..1\n").results
        return result.identity

    assert identity("ocitest462055701", "v1.3.0") == identity("ocitest1439596789", "v1.0.1")


def test_a_description_cannot_pass_for_the_program() -> None:
    assert not judge("ok 1 - (program)\n1..1\n").results[0].whole


def test_of_several_attempts_the_worst_counts_and_all_are_told() -> None:
    good, bad = judge("ok 1 - a\n1..1\n"), judge("not ok 1 - a\n1..1\n")
    flaky = verdicts.repeated([good, bad, good])
    assert flaky.results == bad.results
    assert (flaky.program.verdict, flaky.program.flaky) == (Verdict.FAIL, True)
    assert not verdicts.repeated([good, good]).program.flaky
    assert verdicts.repeated([good]) == good


pieces = st.sampled_from(
    [
        *(
            "ok 1 - a",
            "not ok 2 - b # SKIP x",
            "ok",
            "1..3",
            "1..0",
            "TAP version 13",
            "Bail out!",
            "<nil>",
            "# expect: 1",
        ),
        *("  ---", "  ...", '  {"stdout": "ok 1\\n1..1\\n"}', '  {"error": "x\\nRefer to: "}', '  {"reference": [1]}'),
        *('  {"level": {}, "message": 3, "notes": {"a": null}}', "Refer to: https://x", "not ok 1 - (program)"),
    ]
)
ends = st.none() | st.builds(
    End, st.none() | st.integers(-300, 300), st.none() | st.integers(-5, 300), st.booleans(), st.floats(0, 100)
)
outputs = st.lists(pieces | st.text(max_size=20), max_size=12).map(
    lambda lines: "\n".join(lines).encode("utf-8", "replace")
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(outputs | st.binary(max_size=200), st.text(max_size=40), ends, st.booleans())
@example(b"ok 1\n" + b"TAP version 13\n" * 50, "", End(0), False)
def test_whatever_is_printed_gives_results_that_can_be_kept(data: bytes, stderr: str, end: Any, silent: bool) -> None:
    judged = judge(data, stderr=stderr, end=end, silent=silent)
    assert judged.program.verdict in Verdict
    assert len({result.id for result in judged.results}) == len(judged.results)
    run = replace(a_run(), results=judged.results, programs=(judged.program,))
    assert from_json(to_json(run)) == replace(run, results=tuple(run.by_id()))
    # No failed line is lost, and a program with one, or with a bad end, never passes.
    lines = [event for event in tap.read(data) if isinstance(event, tap.TestPoint)]
    assert sum(not result.whole for result in judged.results) == len(lines)
    if any(result.bad for result in judged.results):
        assert judged.program.verdict is not Verdict.PASS

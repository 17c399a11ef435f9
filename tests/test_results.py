from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.core.errors import LabError
from labkit.results import tap
from labkit.results.json import from_json, to_json
from labkit.results.model import Result, Run, RunInfo, RuntimeInfo, SuiteInfo, Verdict, exit_status
from labkit.suites.spec import from_tap, result_of


def a_result(ident: str, verdict: Verdict = Verdict.PASS, **diagnostic: Any) -> Result:
    return Result(ident, f"summary of {ident}", "MUST", "runtime.md#state", verdict, 0.1, diagnostic)


def a_run(*found: Result, reason: str | None = None) -> Run:
    return Run(
        RunInfo(
            "20261122-0120-debian-runc-spec",
            datetime(2026, 11, 22, 1, 20, tzinfo=UTC),
            datetime(2026, 11, 22, 1, 21, tzinfo=UTC),
            "0.1.0",
            reason,
        ),
        {"platform": "debian", "release": "13", "provider": "qemu", "kernel": "6.12.57", "cgroup": "v2"},
        RuntimeInfo("runc", "/usr/sbin/runc", "1.1.15"),
        SuiteInfo("spec", "0.1.0", "1.0.2"),
        found,
    )


def test_results_json_is_the_contract() -> None:
    run = a_run(a_result("STATE-010"), a_result("STATE-002", Verdict.FAIL, message="no"), a_result("CG-001"))
    assert json.loads(to_json(run)) == {
        "schema": 1,
        "run": {
            "id": "20261122-0120-debian-runc-spec",
            "started": "2026-11-22T01:20:00Z",
            "finished": "2026-11-22T01:21:00Z",
            "complete": True,
            "labkit": "0.1.0",
        },
        "machine": {"platform": "debian", "release": "13", "provider": "qemu", "kernel": "6.12.57", "cgroup": "v2"},
        "runtime": {"name": "runc", "path": "/usr/sbin/runc", "version": "1.1.15"},
        "suite": {"name": "spec", "version": "0.1.0", "spec": "1.0.2"},
        "totals": {
            "pass": 2,
            "fail": 1,
            "skip": 0,
            "flaky": 0,
            "todo": 0,
            "no-assertions": 0,
            "error": 0,
            "timeout": 0,
        },
        "exit_status": 1,
        "unexpected": 1,
        "results": [
            {
                "id": ident,
                "name": f"summary of {ident}",
                "level": "MUST",
                "reference": "runtime.md#state",
                "verdict": verdict,
                "seconds": 0.1,
                "diagnostic": diagnostic,
            }
            for ident, verdict, diagnostic in [
                ("CG-001", "pass", {}),
                ("STATE-002", "fail", {"message": "no"}),
                ("STATE-010", "pass", {}),
            ]
        ],
    }


def test_an_incomplete_run_says_why() -> None:
    document = json.loads(to_json(a_run(reason="the machine died")))
    assert document["run"]["complete"] is False
    assert document["run"]["reason"] == "the machine died"


def test_what_was_written_is_read_back() -> None:
    late = a_result("A-002", Verdict.TIMEOUT, notes=["\ufffd", {"x": [1.5, None]}])
    run = a_run(a_result("A-001"), late, reason="cut")
    assert from_json(to_json(run)) == run


def _without(*path: str) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def _with(value: object, *path: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with(2, "schema"), "schema is 2"),
        (_without("run", "id"), "run.id is missing"),
        (_with("yes", "run", "complete"), "run.complete must be true or false"),
        (_with("2026-11-22", "run", "started"), "run.started must be a time with a time zone"),
        (_with([], "machine"), "machine must be an object"),
        (_with("perhaps", "results", 0, "verdict"), "results[0].verdict is 'perhaps'"),
        (_with(-1, "results", 0, "seconds"), "results[0].seconds must be a number"),
        (_with(True, "results", 0, "seconds"), "results[0].seconds must be a number"),
        (_with("x", "results", 0), "results[0] must be an object"),
        (_with(5, "totals", "pass"), "totals.pass does not match the results, which have 1"),
    ],
)
def test_a_damaged_file_is_named_with_its_key(change: Callable[[Any], None], message: str) -> None:
    document = json.loads(to_json(a_run(a_result("A-001"))))
    change(document)
    with pytest.raises(LabError) as caught:
        from_json(json.dumps(document), "reports/latest/results.json")
    assert str(caught.value).startswith("reports/latest/results.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"schema": "1"}', b"[" * 100_000])
def test_no_document_at_all(text: bytes) -> None:
    with pytest.raises(LabError, match=r"^results\.json: "):
        from_json(text)


@pytest.mark.parametrize(
    ("verdicts", "reason", "status"),
    [
        (["pass", "skip", "todo", "flaky"], None, 0),
        (["pass", "no-assertions"], None, 1),
        (["no-assertions", "no-assertions"], None, 1),
        (["skip", "skip"], None, 1),
        (["pass", "fail"], None, 1),
        (["pass", "error"], None, 1),
        (["pass", "timeout"], None, 1),
        (["pass", "fail"], "cut off", 4),
        ([], None, 4),
    ],
)
def test_exit_status(verdicts: list[str], reason: str | None, status: int) -> None:
    run = a_run(*(a_result(f"A-{number}", Verdict(word)) for number, word in enumerate(verdicts)), reason=reason)
    assert exit_status(run) == status


def point(line: str, **block: Any) -> Result:
    lines = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in block.items())
    (event,) = tap.read(f"TAP version 14\n{line}\n  ---\n{lines}  ...\n".encode())[1:]
    assert isinstance(event, tap.TestPoint)
    return result_of(event, 7)


def test_a_result_from_tap() -> None:
    assert point(
        "not ok 2 - STATE-003 bundle is absolute",
        id="STATE-003",
        level="MUST",
        reference="runtime.md#runtimeState",
        verdict="fail",
        seconds=0.25,
        message="relative",
    ) == Result(
        "STATE-003",
        "bundle is absolute",
        "MUST",
        "runtime.md#runtimeState",
        Verdict.FAIL,
        0.25,
        {"message": "relative"},
    )


@pytest.mark.parametrize(
    ("line", "said", "verdict"),
    [
        ("ok 1 - A-001 x", "pass", Verdict.PASS),
        ("not ok 1 - A-001 x", "timeout", Verdict.TIMEOUT),
        ("not ok 1 - A-001 x", "error", Verdict.ERROR),
        ("ok 1 - A-001 x # SKIP why", "skip", Verdict.SKIP),
        ("not ok 1 - A-001 x # TODO why", "todo", Verdict.TODO),
        ("ok 1 - A-001 x", "no-assertions", Verdict.NO_ASSERTIONS),
        ("ok 1 - A-001 x", "splendid", Verdict.PASS),
        ("not ok 1 - A-001 x", ["pass"], Verdict.FAIL),
        ("not ok 1 - A-001 x", "pass", Verdict.ERROR),
        ("ok 1 - A-001 x", "fail", Verdict.ERROR),
    ],
)
def test_the_line_decides_and_the_block_refines(line: str, said: object, verdict: Verdict) -> None:
    assert point(line, verdict=said).verdict is verdict


@pytest.mark.parametrize("ident", [None, 5, "", "../../etc", "a b", "x" * 101, {"a": 1}])
def test_an_id_that_is_none_is_replaced(ident: object) -> None:
    assert point("ok 3 - A-001 x", id=ident).id == "A-001"
    assert point("ok 3 - words", id=ident).id == "test-3"
    assert point("ok", id=ident).id == "test-7"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, True, "1", 10**400, None])
def test_a_duration_that_is_none_is_zero(seconds: object) -> None:
    assert point("ok 1 - A-001 x", seconds=seconds).seconds == 0.0


def test_facts_come_only_from_before_the_first_result() -> None:
    output = b"1..1\n# runtime: runc\n# runtime: other\n# free words\nok 1 - A-001\n# spec: 9.9.9\n"
    reading = from_tap(tap.read(output))
    assert (reading.facts, reading.reason) == ({"runtime": "runc"}, None)


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["id", "level", "reference", "verdict", "seconds", "message", "failures", "notes", "x"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["ok", "not ok", "ok 1 - A-001 x # SKIP", "not ok # TODO"]), st.dictionaries(keys, hostile))
def test_whatever_a_block_says_gives_a_result_that_can_be_kept(line: str, block: dict[str, Any]) -> None:
    result = point(line, **block)
    run = replace(a_run(), results=(result,))
    assert from_json(to_json(run)) == run

"""What changed between two runs: by identity, whatever the order and the numbers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.reports import as_diff
from labkit.results import comparison, policy, tap, verdicts
from labkit.results.comparison import compare
from labkit.results.model import WHOLE, Expected, Result, Run, Verdict
from labkit.results.tap import JSON
from labkit.results.verdicts import End
from labkit.usecases.judge import Said, recorded
from tests.test_policy import TODAY
from tests.test_reports import HOSTILE, Page
from tests.test_results import a_result, a_run

OLD = a_run(
    a_result("A-001"),
    a_result("A-002", Verdict.FAIL),
    a_result("A-003", Verdict.FAIL),
    a_result("A-004"),
    a_result("A-005"),
    a_result("A-006"),
)
NEW = a_run(
    a_result("A-006"),
    a_result("A-001", Verdict.FAIL, message="broke"),
    a_result("A-002"),
    a_result("A-003", Verdict.TIMEOUT),
    a_result("A-005", Verdict.SKIP),
    a_result("A-007", Verdict.FAIL),
)


def ids(compared: comparison.Comparison) -> dict[str, list[str]]:
    return {group: [change.id for change in changes] for group, changes in compared.groups.items() if changes}


def test_every_kind_of_change() -> None:
    compared = compare(OLD, NEW)
    assert ids(compared) == {
        "newly_failing": ["A-001"],
        "fixed": ["A-002"],
        "appeared": ["A-007"],
        "gone": ["A-004"],
        "no_longer_shown": ["A-005"],
        "changed": ["A-003"],
    }
    (broke,) = compared.newly_failing
    assert (broke.before, broke.after, broke.message) == ({Verdict.PASS: 1}, {Verdict.FAIL: 1}, "broke")


def test_the_other_way_round_is_the_reverse() -> None:
    back = ids(compare(NEW, OLD))
    assert (back["newly_failing"], back["fixed"]) == (["A-002"], ["A-001"])
    assert (back["appeared"], back["gone"]) == (["A-004"], ["A-007"])


def of_program(*lines: str) -> Run:
    output = "\n".join([*lines, f"1..{len(lines)}\n"]).encode()
    judged = verdicts.judge("default", tap.read(output), "", End(0))
    return replace(a_run(*judged.results), programs=(judged.program,))


def failing(*findings: str) -> Run:
    failures: JSON = [{"finding": name, "what": name} for name in findings]
    return a_run(replace(a_result("A-001", Verdict.FAIL), diagnostic={"failures": failures}))


def test_a_finding_behind_a_failure_that_was_there_is_a_change() -> None:
    one, two, other = failing("a"), failing("a", "b"), failing("b")
    assert compare(one, one).groups == compare(two, failing("b", "a")).groups
    assert [change.new_findings for change in compare(one, two).newly_failing] == [("b",)]
    assert [change.gone_findings for change in compare(two, one).fixed] == [("b",)]
    assert [(change.new_findings, change.gone_findings) for change in compare(one, other).newly_failing] == [
        (("b",), ("a",))
    ]
    assert "fail -> fail (new: b)" in as_diff.text(compare(one, two))
    assert "New finding: b" in as_diff.html(compare(one, two))


def test_order_and_numbers_are_nothing() -> None:
    lines = [f"ok - {word}" for word in "abc"] + ["not ok - b", "ok - b", "ok # SKIP x", "ok # SKIP x"]
    other = random.Random(1).sample(lines, len(lines))
    assert not any(compare(of_program(*lines), of_program(*other)).groups.values())


def test_of_results_alike_one_more_that_fails_counts() -> None:
    before, after = of_program("not ok - a", "ok - a", "ok - a"), of_program("not ok - a", "not ok - a", "ok - a")
    (change,) = compare(before, after).newly_failing
    assert (change.before, change.after) == ({Verdict.FAIL: 1, Verdict.PASS: 2}, {Verdict.FAIL: 2, Verdict.PASS: 1})


def test_a_program_that_gives_up_now_is_newly_failing_and_fixed_the_other_way() -> None:
    good, broken = (verdicts.judge("default", tap.read(b"ok 1 - a\n1..1\n"), "", End(status)) for status in (0, 1))
    before, after = (replace(a_run(*one.results), programs=(one.program,)) for one in (good, broken))
    (change,) = compare(before, after).newly_failing
    assert (change.name, change.before, change.after) == (WHOLE, {Verdict.PASS: 1}, {Verdict.ERROR: 1})
    assert ids(compare(after, before)) == {"fixed": ["default"]}
    assert ids(compare(a_run(), after))["appeared"] == ["default", good.results[0].id]


def test_an_expected_failure_says_so() -> None:
    marked = replace(NEW.results[1], expected=Expected("known", "", "policy.toml"))
    (change,) = compare(OLD, replace(NEW, results=(marked,))).newly_failing
    assert change.expected == "known"
    assert "(expected: known)" in as_diff.text(compare(OLD, replace(NEW, results=(marked,))))


def test_a_recording_against_itself_and_the_other(recordings: dict[str, Path]) -> None:
    master, release = (
        policy.apply(recorded(directory, Said())[0], policy.load(), TODAY)
        for _, directory in sorted(recordings.items())
    )
    mixed = replace(master, results=tuple(random.Random(1).sample(master.results, len(master.results))))
    assert not any(compare(master, mixed).groups.values())
    failing = {(change.program, change.name) for change in compare(master, release).newly_failing}
    assert failing >= {
        ("linux_cgroups_relative_cpus", "find cpus cgroup"),
        ("delete_only_create_resources", "(program)"),
    }
    # The references name different versions of the spec, and yet what both have is the same.
    gone = {change.reference for change in compare(master, release).gone}
    assert not any(reference.endswith("runtime.md#create") for reference in gone)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Verdict)), max_size=6), st.data())
def test_every_difference_is_in_one_group(found: list[tuple[str, Verdict]], more: st.DataObject) -> None:
    others = more.draw(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Verdict)), max_size=6))
    before, after = (a_run(*(a_result(ident, verdict) for ident, verdict in pairs)) for pairs in (found, others))
    listed = [ident for group in ids(compare(before, after)).values() for ident in group]
    differing = {i for i in "abc" if sorted(v for w, v in found if w == i) != sorted(v for w, v in others if w == i)}
    assert sorted(listed) == sorted(differing)


def test_as_text() -> None:
    lines = as_diff.text(compare(OLD, NEW)).splitlines()
    assert lines[0] == "from  20261122-0120-debian-runc-spec: spec 0.1.0 on runc 1.1.15"
    assert lines[3:6] == ["newly failing: 1", "  A-001: summary of A-001: pass -> fail", ""]
    assert "  A-007: summary of A-007: absent -> fail" in lines
    assert as_diff.text(compare(OLD, OLD)).endswith("\nnothing changed\n")


def test_an_incomplete_run_is_said() -> None:
    assert "(incomplete: cut)" in as_diff.text(compare(OLD, a_run(reason="cut")))


def test_as_json_it_can_be_written() -> None:
    value = json.loads(json.dumps(compare(OLD, NEW).to_json()))
    assert value["newly_failing"] == [
        {
            "program": "",
            "id": "A-001",
            "name": "summary of A-001",
            "reference": "runtime.md#state",
            "before": {"pass": 1},
            "after": {"fail": 1},
            "message": "broke",
            "expected": "",
        }
    ]
    assert value["after"]["totals"]["fail"] == 2


def test_html_needs_nothing_from_elsewhere_and_shows_it_all() -> None:
    source = as_diff.html(compare(OLD, NEW))
    page = Page(source)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "a"})
    for words in ("newly failing: 1", "A-001", "broke", "absent → fail", "pass → fail"):
        assert words in page.text
    assert "Nothing changed." in Page(as_diff.html(compare(OLD, OLD))).text


@pytest.mark.parametrize("render", [as_diff.html, as_diff.text])
def test_hostile_text_is_only_text(render: object) -> None:
    bad = Result(HOSTILE, HOSTILE, HOSTILE, HOSTILE, Verdict.FAIL, 0, {"message": HOSTILE}, HOSTILE)
    compared = compare(a_run(reason=HOSTILE), a_run(bad))
    text = as_diff.html(compared) if render is as_diff.html else as_diff.text(compared)
    assert not any(char in text for char in "\x1b\x00\u202e")
    if render is as_diff.html:
        assert {tag for tag, _ in Page(text).tags}.isdisjoint({"script", "img"})

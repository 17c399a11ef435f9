"""What changed between two runs: by identity, whatever the order and the numbers."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.reports import as_diff, as_table
from labkit.results import comparison, policy, tap, verdicts
from labkit.results.comparison import Relation, SideBySide, compare, side_by_side
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


# --- several runs, side by side


def relations(sides: SideBySide) -> dict[str, list[str]]:
    return {line.program or line.id: [side.relation.value for side in line.sides] for line in sides.lines}


def test_each_run_stands_to_the_first_as_it_does_alone() -> None:
    sides = side_by_side([OLD, NEW, OLD])
    assert relations(sides) == {
        "A-001": ["same", "worse", "same"],
        "A-005": ["same", "not shown", "same"],
        "A-004": ["same", "not there", "same"],
        "A-003": ["same", "different", "same"],
        "A-007": ["same", "only here", "same"],
        "A-002": ["same", "better", "same"],
    }
    assert sides.counts[1] == {
        Relation.WORSE: 1, Relation.UNSEEN: 1, Relation.ABSENT: 1, Relation.OTHER: 1, Relation.ADDED: 1,
        Relation.BETTER: 1, Relation.SAME: 1,
    }  # fmt: skip
    assert sides.counts[0] == sides.counts[2] == {Relation.SAME: 6}


def test_findings_behind_the_same_verdict_are_told_by_name() -> None:
    sides = side_by_side([failing("a", "b"), failing("b", "c"), failing("b"), failing("a", "b")])
    (line,) = sides.lines
    assert [side.relation for side in line.sides] == [Relation.SAME, Relation.WORSE, Relation.BETTER, Relation.SAME]
    assert line.findings == ("a", "c")  # b is in all
    text = as_table.text(sides, width=120)
    assert re.search(r"^ +c: runc 1.1.15 \(2\)$", text, re.MULTILINE)
    row = next(line for line in as_table.as_markdown(sides).splitlines() if "`c`" in line)
    assert [cell.strip() == "\N{MULTIPLICATION SIGN}" for cell in row.split("|")[3:-1]] == [False, True, False, False]


def test_a_program_that_falls_silent_in_one_of_them() -> None:
    good, mute = of_program("ok 1 - one", "ok 2 - two"), of_program()
    sides = side_by_side([good, mute, good])
    (line,) = sides.lines
    assert (line.name, [side.relation.value for side in line.sides]) == (WHOLE, ["same", "worse", "same"])
    assert line.sides[0].verdicts == line.sides[2].verdicts == {Verdict.PASS: 2}


def test_what_one_run_lacks_does_not_fill_the_table() -> None:
    sides = side_by_side([OLD, a_run(a_result("A-001"), reason="cut off"), OLD])
    for text in (as_table.text(sides, width=200), as_table.as_markdown(sides)):
        assert "5 checks that not all of the runs have" in text and "cut off" in text
        assert "A-002" not in text
    assert "A-002" in as_table.html(sides)


def test_runs_that_are_alike_say_so() -> None:
    sides = side_by_side([OLD, OLD])
    assert "all alike: 6 checks" in as_table.text(sides)
    assert "All alike: 6 checks" in as_table.as_markdown(sides)
    assert "All alike: 6 checks" in as_table.html(sides)


many = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(Verdict), st.sets(st.sampled_from("xyz"))), max_size=5
)


def of_drawn(drawn: list[tuple[str, Verdict, set[str]]]) -> Run:
    results = []
    for name, verdict, findings in drawn:
        failures: JSON = [{"finding": one, "what": one} for one in sorted(findings)]
        results.append(a_result(name, verdict, **({"failures": failures} if verdict.bad else {})))
    return a_run(*results)


@settings(deadline=None, max_examples=60)
@given(st.lists(many, min_size=2, max_size=4))
def test_the_table_is_many_comparisons_of_two(drawn: list[list[tuple[str, Verdict, set[str]]]]) -> None:
    runs = [of_drawn(one) for one in drawn]
    sides = side_by_side(runs)
    for number, run in enumerate(runs):
        groups = {change.id: group for group, changes in compare(runs[0], run).groups.items() for change in changes}
        told = {line.id: line.sides[number].relation for line in sides.lines}
        assert {ident for ident, relation in told.items() if relation is not Relation.SAME} == groups.keys()
        assert len(groups) == sum(many for one, many in sides.counts[number].items() if one is not Relation.SAME)
        for ident, group in groups.items():
            assert (told[ident] is Relation.WORSE) == (group == "newly_failing")
            assert (told[ident] is Relation.BETTER) == (group == "fixed")
    json.dumps(sides.to_json())
    for width in (20, 80):
        as_table.text(sides, width=width)
    as_table.html(sides)


def test_the_page_and_the_text_show_hostile_text_as_text() -> None:
    evil = replace(a_result("A-001"), name=HOSTILE, id=HOSTILE)
    runs = [a_run(evil), a_run(replace(evil, verdict=Verdict.FAIL, diagnostic={"message": HOSTILE}))]
    sides = side_by_side(runs)
    page = Page(as_table.html(sides))
    assert [tag for tag, _ in page.tags if tag in ("script", "img", "a", "b")] == ["b", "b"]  # labels
    for text in (as_table.text(sides, width=300), as_table.as_markdown(sides)):
        assert "\x1b" not in text and "\x07" not in text


def test_the_markdown_fits() -> None:
    runs = [a_run(*(a_result(f"A-{n:05}", verdict) for n in range(3000))) for verdict in (Verdict.PASS, Verdict.FAIL)]
    text = as_table.as_markdown(side_by_side(runs), 5000)
    assert 2500 < len(text.encode()) <= 5000 and "more lines" in text

"""Nights: what of them is worth a message, and how they are shown."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

import markdown_it
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.core.errors import UsageError
from labkit.reports import as_github, markdown
from labkit.reports import night as report
from labkit.results import night as nights
from labkit.results.news import News, Told, news
from labkit.results.night import Night
from tests.test_reports import HOSTILE, Page, tags_of

CELLS = ("debian-13/uml/runc/spec", "debian-12/uml/crun/spec")


def failure(ident: str, cells: Sequence[str] = CELLS[:1], **more: Any) -> dict[str, Any]:
    return {"identity": ["", ident, ""], "what": f"what {ident} holds", "cells": list(cells), **more}


def a_night(ident: str = "20261126.1", done: Sequence[str] = CELLS, **changes: Any) -> Night:
    """Night ident, a day after the one before it, in which these cells ran."""
    day, _, number = ident.partition(".")
    start = f"{day[:4]}-{day[4:6]}-{day[6:]}T0{number}:00:00Z"
    more: dict[str, Any] = {
        key: changes.pop(key) for key in ("complete", "reason", "exit_status", "lab") if key in changes
    }
    cells = [{"cell": cell, "state": "done", "run": f"{day}T020000Z.1-x", "status": 0, "seconds": 60} for cell in done]
    more.setdefault("cells", [*cells, *changes.pop("cells", [])])
    return nights.from_json(
        {"schema": 1, "id": ident, "started": start, "finished": start.replace(":00:00Z", ":30:00Z"), "labkit": "0.2",
         "complete": True, "exit_status": 0, **more, "changes": changes}
    )  # fmt: skip


def days(*given: Night, after: int = 1, stale: float = 48) -> list[News]:
    told, found = Told(), []
    for night in given:
        brought, told = news(night, told, after=after, stale=stale)
        found.append(brought)
        told = Told.model_validate_json(told.model_dump_json())  # as it is kept
    return found


def names(found: Any) -> list[str]:
    return [one.name for one in found]


# --- what is told


def test_a_failure_is_told_once_and_its_end_too() -> None:
    first, second, third, fourth = days(
        a_night("20261126.1", new_failures=[failure("A-001")]),
        a_night("20261127.1"),
        a_night("20261128.1", fixed=[failure("A-001")]),
        a_night("20261129.1"),
    )
    assert names(first.failures) == ["A-001"] and not second
    assert names(third.fixed) == ["A-001"] and not third.failures and not fourth


def test_what_a_night_no_longer_lists_has_ended_though_it_was_not_fixed() -> None:
    """It was flaky in between, or is expected by the policy now; and is news when it fails again."""
    bad = [failure("A-001")]
    first, second, third, fourth, fifth = days(
        a_night("20261125.1", new_failures=bad, still_failing=[]),
        a_night("20261126.1", still_failing=bad),
        a_night("20261127.1", still_failing=[], flaky=bad),
        a_night("20261128.1", still_failing=[], done=CELLS[1:]),
        a_night("20261129.1", still_failing=[], new_failures=bad),
    )
    assert [names(one.failures) for one in (first, second, third, fourth, fifth)] == [["A-001"], [], [], [], ["A-001"]]
    _, second, third = days(
        a_night("20261125.1", new_failures=bad, still_failing=[]),
        a_night("20261126.1", still_failing=[]),
        a_night("20261127.1", still_failing=[]),
        after=2,
    )
    assert not second and not third


def test_a_failure_that_comes_back_is_told_again() -> None:
    found = days(
        a_night("20261126.1", new_failures=[failure("A-001")]),
        a_night("20261127.1", fixed=[failure("A-001")]),
        a_night("20261128.1", new_failures=[failure("A-001")]),
    )
    assert [names(one.failures) for one in found] == [["A-001"], [], ["A-001"]]


def test_after_n_nights_in_a_row() -> None:
    found = days(
        *(a_night(f"2026112{n}.1", new_failures=[failure("A-001")] if n == 1 else []) for n in range(1, 6)), after=3
    )
    assert [names(one.failures) for one in found] == [[], [], ["A-001"], [], []]


def test_a_night_that_lists_it_again_counts_once() -> None:
    found = days(*(a_night(f"2026112{n}.1", new_failures=[failure("A-001")]) for n in range(1, 5)), after=2)
    assert [names(one.failures) for one in found] == [[], ["A-001"], [], []]


def test_a_failure_that_ends_before_it_was_told_is_never_told() -> None:
    found = days(
        a_night("20261126.1", new_failures=[failure("A-001")]),
        a_night("20261127.1", fixed=[failure("A-001")]),
        a_night("20261128.1"),
        a_night("20261129.1"),
        after=2,
    )
    assert not any(found)


def test_a_night_in_which_the_cell_did_not_run_does_not_count() -> None:
    found = days(
        a_night("20261126.1", new_failures=[failure("A-001")]),
        a_night("20261127.1", done=CELLS[1:]),
        a_night("20261128.1"),
        after=2,
    )
    assert [names(one.failures) for one in found] == [[], [], ["A-001"]]


def test_what_did_not_repeat_is_no_failure() -> None:
    first, second = days(a_night(new_failures=[failure("A-001", repeats=False)]), a_night("20261127.1"))
    assert not first.failures and not second.failures


def test_a_pending_failure_that_turns_out_flaky_is_dropped() -> None:
    found = days(
        a_night("20261126.1", new_failures=[failure("A-001")]),
        a_night("20261127.1", flaky=[failure("A-001")]),
        a_night("20261128.1"),
        after=3,
    )
    assert [bool(one.failures) for one in found] == [False] * 3 and names(found[1].flaky) == ["A-001"]


def test_another_cell_that_shows_it_is_news_and_the_first_is_not() -> None:
    _, second = days(
        a_night(new_failures=[failure("A-001")]), a_night("20261127.1", new_failures=[failure("A-001", CELLS)])
    )
    [one] = second.failures
    assert one.cells == (CELLS[1],)


def test_cells_of_one_failure_end_one_by_one() -> None:
    _, second, third = days(
        a_night(new_failures=[failure("A-001", CELLS)]),
        a_night("20261127.1", fixed=[failure("A-001", CELLS[:1])]),
        a_night("20261128.1", fixed=[failure("A-001", CELLS[1:])]),
    )
    assert second.fixed[0].cells == CELLS[:1] and third.fixed[0].cells == CELLS[1:]


@pytest.mark.parametrize(
    ("key", "value", "attribute"),
    [
        ("flaky", [failure("A-001")], "flaky"),
        ("unexpected_passes", [failure("A-001")], "passes"),
        ("expired", ["entry.3 of own.toml"], "expired"),
        ("not_run", [CELLS[0]], "not_run"),
        ("lab_errors", [{"cell": CELLS[0], "error": "no disk"}], "lab_errors"),
        ("slower", [{"cell": CELLS[0], "seconds": 9, "usual": 2, "bound": 3}], "slower"),
    ],
)
def test_what_lasts_is_told_when_it_begins(key: str, value: list[Any], attribute: str) -> None:
    more: dict[str, Any] = {key: value}
    found = days(
        a_night("20261126.1", **more),
        a_night("20261127.1", **more),
        a_night("20261128.1"),
        a_night("20261129.1", **more),
    )
    assert [len(getattr(one, attribute)) for one in found] == [1, 0, 0, 1]
    assert [bool(one) for one in found] == [True, False, False, True]


def test_a_cell_without_a_result_for_long_is_told_once() -> None:
    found = days(
        a_night("20261126.1"),
        *(
            a_night(f"202611{n}.1", done=CELLS[:1], cells=[{"cell": CELLS[1], "state": "lab-error"}])
            for n in (27, 28, 29)
        ),
        a_night("20261130.1"),
    )
    assert [[cell for cell, _ in one.stale] for one in found] == [[], [], [], [CELLS[1]], []]
    [(_, age)] = next(one.stale for one in found if one.stale)
    assert age > 48


def test_a_cell_that_never_had_a_result_becomes_stale_too() -> None:
    ill = [{"cell": "x-1/uml/runc/spec", "state": "lab-error"}]
    found = days(*(a_night(f"2026112{n}.1", cells=ill) for n in range(1, 6)))
    assert [len(one.stale) for one in found].count(1) == 1


def test_a_cell_that_a_night_leaves_out_is_not_missed() -> None:
    assert not any(
        one.stale for one in days(*(a_night(f"202611{n}.1", done=CELLS[: 1 + (n == 20)]) for n in range(20, 30)))
    )


def test_nights_that_did_not_happen_are_told() -> None:
    _, second = days(a_night("20261120.1"), a_night("20261126.1"))
    assert second.silence and round(second.silence) == 144


def test_a_clock_that_went_back_tells_nothing() -> None:
    assert not any(days(a_night("20261126.1"), a_night("20261026.1"), a_night("20261127.1")))


def test_an_incomplete_night_is_told_once() -> None:
    found = days(*(a_night(f"2026112{n}.1", complete=n == 3, reason="SIGTERM") for n in range(1, 5)))
    assert [one.incomplete for one in found] == ["SIGTERM", None, None, "SIGTERM"]


def test_a_night_that_is_gone_on_with_tells_only_what_came_since() -> None:
    early = a_night("20261127.1", done=CELLS[:1], complete=False, reason="disk full", new_failures=[failure("A-001")],
                    fixed=[failure("B-001")], still_failing=[])  # fmt: skip
    whole = a_night("20261127.1", still_failing=[], new_failures=[failure("A-001"), failure("C-001", CELLS[1:])],
                    fixed=[failure("B-001"), failure("D-001")])  # fmt: skip
    start = a_night("20261126.1", still_failing=[failure("B-001"), failure("D-001")])
    _, first, second, third = days(start, early, whole, whole)
    assert (names(first.failures), names(first.fixed), first.incomplete) == (["A-001"], ["B-001"], "disk full")
    assert (names(second.failures), names(second.fixed), second.incomplete) == (["C-001"], ["D-001"], None)
    assert not third
    counted = days(start, early, whole, after=2)
    assert not any(one.failures for one in counted)  # one night, though it was looked at twice


def test_what_failed_before_anybody_was_told_is_no_news_and_its_end_is() -> None:
    old = [failure("OLD-001")]
    first, second = days(a_night("20261126.1", still_failing=old), a_night("20261127.1", still_failing=[], fixed=old))
    assert not first and names(second.fixed) == ["OLD-001"]


def test_what_began_in_a_night_that_was_not_told_is_caught_up_with() -> None:
    _, second, third = days(
        a_night("20261125.1", still_failing=[]),
        a_night("20261127.1", still_failing=[failure("A-001", since="20261126.1")]),
        a_night("20261128.1", still_failing=[failure("A-001", since="20261126.1")]),
    )
    assert names(second.failures) == ["A-001"] and not third


def test_the_same_night_twice_is_nothing_new() -> None:
    night = a_night(new_failures=[failure("A-001")])
    _, told = news(night, Told())
    assert news(night, told) == (News(), told)


ONE = st.tuples(st.sampled_from("AB"), st.sampled_from(CELLS))


@given(
    st.lists(st.tuples(st.sets(ONE), st.sets(st.sampled_from(CELLS))), max_size=12), st.integers(1, 4), st.booleans()
)
def test_every_failure_that_lasts_is_told_exactly_once_and_no_other(
    shown: list[tuple[set[tuple[str, str]], set[str]]], after: int, says: bool
) -> None:
    """Against a plain reading of the rule: bad in `after` nights in a row that ran its cell, and not told since."""
    told, before = Told(), set[tuple[str, str]]()
    lasted, known = dict[tuple[str, str], int](), set[tuple[str, str]]()
    for number, (all_bad, done) in enumerate(shown):
        now = {one for one in all_bad if one[1] in done}
        was = {one for one in before if one[1] in done}
        still: dict[str, Any] = {"still_failing": [failure(name, [cell]) for name, cell in now & was]} if says else {}
        night = a_night(
            f"202601{number + 1:02}.1",
            done=sorted(done),
            new_failures=[failure(name, [cell]) for name, cell in sorted(now - was)],
            fixed=[failure(name, [cell]) for name, cell in sorted(was - now)],
            **still,
        )
        brought, told = news(night, told, after=after)
        lasted = {one: lasted.get(one, 0) + (one in now) for one in now | {it for it in lasted if it[1] not in done}}
        due = {one for one, count in lasted.items() if count >= after} - known
        ended = {one for one in known if one in was - now}
        assert {(one.name, cell) for one in brought.failures for cell in one.cells} == due
        assert {(one.name, cell) for one in brought.fixed for cell in one.cells} == ended
        known = (known | due) - ended
        before = (before - was) | now


# --- night.json


@pytest.mark.parametrize(
    "value",
    [{}, {"schema": 1}, {"schema": "x"}, {"schema": 1, "id": "a", "started": "yesterday"},
     {"schema": 1, "id": "a", "started": "2026-01-01T00:00:00"},
     {"schema": 1, "id": "a", "started": "2026-01-01T00:00:00Z", "cells": [{"cell": "a", "state": "dead"}]},
     {"schema": 1, "id": "a", "started": "2026-01-01T00:00:00Z", "changes": {"fixed": [{"identity": ["a"]}]}}],
)  # fmt: skip
def test_what_is_no_night_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"night\.json"):
        nights.from_json(value)


def test_keys_of_a_later_labkit_are_passed_over() -> None:
    value = json.loads(a_night(new_failures=[failure("A-001", mood="bad")]).model_dump_json(by_alias=True))
    assert nights.from_json({**value, "moon": "full"}).changes.new_failures[0].name == "A-001"


@pytest.mark.parametrize(
    ("cell", "only", "words"),
    [
        ("debian-13/uml/runc/spec", "A-001",
         "./lab test --platform debian --release 13 --provider uml --runtime runc --suite spec --only A-001"),
        ("ubuntu-24.04/qemu/./build/my runc/validation", None,
         "./lab test --platform ubuntu --release 24.04 --provider qemu --runtime './build/my runc' --suite validation"),
        ("debian-13/uml/https://x.example/r.git#v1/spec", "-x",
         "./lab test --platform debian --release 13 --provider uml --runtime 'https://x.example/r.git#v1' "
         "--suite spec --only=-x"),
        ("my-own-9/uml/crun@main/spec", "$(reboot)",
         "./lab test --platform my-own --release 9 --provider uml --runtime crun@main --suite spec "
         "--only '$(reboot)'"),
        ("nonsense", "A", None),
        ("debian-13/uml/runc/spec", "a\x1b[2J", None),
        ("debian-13/uml/runc/spec\n; reboot", None, None),
    ],
)  # fmt: skip
def test_how_to_reproduce_it(cell: str, only: str | None, words: str | None) -> None:
    found = nights.command(cell, only)
    assert (shlex.join(found) if found else None) == words


# --- how it is shown

FULL = a_night(
    exit_status=1,
    cells=[
        {"cell": "fedora-44/qemu/runc/spec", "state": "quarantined", "attempts": [{"number": 1, "error": "no kernel"}]},
        {"cell": "debian-13/uml/crun/spec", "state": "done", "run": "r", "status": 1},
    ],
    still_failing=[failure("LONG-001", repeats=True, since="20261101.1")],
    new_failures=[
        failure("STATE-003", CELLS, repeats=True, reference_fails=False, since="20261126.1", lab=["runc 1 -> 2"]),
        {"identity": ["kill.t", "kill works", "https://x"], "what": "", "cells": [CELLS[1]], "reference_fails": True},
    ],
    fixed=[failure("OLD-001")],
    flaky=[failure("WIND-001")],
    unexpected_passes=[failure("GOOD-001")],
    expired=["own.toml entry.3"],
    not_run=["debian-12/qemu/runc/spec"],
    lab_errors=[{"cell": "fedora-44/qemu/runc/spec", "error": "no kernel"}],
    slower=[{"cell": CELLS[0], "seconds": 700, "usual": 60, "bound": 90.5}],
    lab={"debian-13": ["runc 1.1.15+ds1-2 -> -3"]},
)


@pytest.mark.parametrize(
    ("night", "line"),
    [
        (a_night(), "Nothing to do: 2 cells, all as expected."),
        (a_night(done=()), "Nothing to do."),
        (a_night(fixed=[failure("A")]), "Nothing to do: 2 cells, all as expected."),
        (a_night(new_failures=[failure("A-001")]), "Look at 1 new failure (A-001 in debian-13/uml/runc/spec)"),
        (a_night(new_failures=[failure("A-001", repeats=False)]), "Nothing to do: 2 cells, all as expected."),
        (
            a_night(new_failures=[failure("A-001", reference_fails=True), failure("B-001", reference_fails=True)]),
            "Look at the lab or the suite, for other runtimes fail it too: 2 new failures "
            "(first A-001 in debian-13/uml/runc/spec)",
        ),
        (a_night(complete=False, reason="SIGTERM"),
         "Go on with the night, which ended early (SIGTERM): ./lab nightly --resume."),
        (a_night(expired=["x"]), "Renew or remove 1 policy entry that expired."),
        (a_night(unexpected_passes=[failure("A"), failure("B")]),
         "Take out of the policy what passes now: A and 1 more."),
        (a_night(cells=[{"cell": "x", "state": "done", "status": 1}]), "Nothing new; 1 cell of 3 still fail."),
        (a_night(cells=[{"cell": "x", "state": "not-run"}]), "See why 1 cell did not run."),
        (a_night(lab_errors=[{"cell": "x", "error": "no disk"}]), "Repair the lab: 1 cell could not run (x: no disk)"),
    ],
)  # fmt: skip
def test_one_line_says_what_to_do(night: Night, line: str) -> None:
    assert report.action(night) == line
    assert report.text(night).splitlines()[0] == f"night {night.id}: {line}"
    assert line in Page(report.html(night)).text
    assert html_of(report.as_markdown(night)).count(line.replace("'", "&#x27;")) == 1


def html_of(source: str) -> str:
    return str(markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(source))


def shown(night: Night) -> dict[str, str]:
    return {
        "text": report.text(night),
        "markdown": re.sub("<[^>]*>", "", html_of(report.as_markdown(night))).replace("&gt;", ">"),
        "html": Page(report.html(night)).text,
    }


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_everything_that_changed_is_there_once(form: str) -> None:
    text = shown(FULL)[form]
    for ident in (
        "what STATE-003 holds",
        "kill.t: kill works",
        "what OLD-001 holds",
        "what WIND-001 holds",
        "own.toml entry.3",
    ):
        assert text.count(ident) == 1 + (ident in report.action(FULL)), ident
    for fact in (
        "in debian-13/uml/runc/spec, debian-12/uml/crun/spec",
        "bad again when it was run alone",
        "this runtime only: no other fails it",
        "reference too: other runtimes fail it, so the lab or the suite may be the reason",
        "since night 20261126.1",
        "new in the lab then: runc 1 -> 2",
        "what LONG-001 holds",
        "since night 20261101.1",
        "11 min 40 s, usually 60.0 s, at most 90.5 s so far",
        "runc 1.1.15+ds1-2 -> -3",
        "--runtime runc --suite spec --only STATE-003",
        "--runtime crun --suite spec --only kill.t",
    ):
        assert fact in text, fact


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_failures_of_one_cause_are_one_entry_with_their_number(form: str) -> None:
    words = "create failed: unknown version"
    found = [failure(f"A-{number}", (CELLS[number % 2],), alike=words, since="20261126.1") for number in range(1, 21)]
    several = [
        failure("B-1", alike="rare"),
        failure("B-2", alike="rare"),
        failure("C-1"),
        failure("C-2"),
        failure("C-3"),
    ]
    text = shown(a_night(new_failures=[*found, *several]))[form]
    assert text.count(words) == 1
    assert "20 fail alike" in text
    assert "new failures: 25" in text.lower()
    assert "A-12 and 8 more" in text
    assert all(f"what {name} holds" in text for name in ("B-1", "B-2", "C-1", "C-3"))
    assert "A-20 holds" not in text
    assert all(cell in text for cell in CELLS)


def test_the_page_leads_to_its_runs_and_to_nowhere_else() -> None:
    page = Page(report.html(FULL))
    assert {a["href"] for a in page.named("a")} == {"../../20261126T020000Z.1-x/report.html", "../../r/report.html"}
    assert not {"link", "iframe", "object", "img", "script", "form"} & {tag for tag, _ in page.tags}
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    away = a_night(
        cells=[{"cell": "x", "state": "done", "run": run} for run in ("../../etc", "a/b", "javascript:x", "..")]
    )
    assert {a["href"] for a in Page(report.html(away)).named("a")} == {"../../20261126T020000Z.1-x/report.html"}


def hostile(text: str) -> Night:
    bad = {"identity": [text, text, text], "what": text, "cells": [text], "since": text, "lab": [text]}
    changes: dict[str, Any] = {key: [bad] for key in ("new_failures", "fixed", "flaky", "unexpected_passes")}
    return a_night(
        complete=False, reason=text, exit_status=1, lab={text: [text]},
        cells=[{"cell": text, "state": "done", "run": text, "attempts": [{"error": text}]}],
        expired=[text], not_run=[text], lab_errors=[{"cell": text, "error": text}],
        slower=[{"cell": text, "seconds": 1, "usual": 1, "bound": 1}], **changes,
    )  # fmt: skip


BADLY = [
    HOSTILE, "`` ` ```\n\n# h\n\n|a|b|\n|-|-|", "![x](https://e.example/x.png)", "[x](javascript:alert(1))",
    "@team #12 a@b.example", "<img src=x>", "https://e.example www.e.example", "**b** _i_ ~~s~~ $x$ :smile:", "\\`x\\`",
    "::error::x", "##[error]x", "a|b\\|c",
]  # fmt: skip


@pytest.mark.parametrize("text", BADLY)
def test_hostile_text_is_only_text(text: str) -> None:
    night = hostile(text)
    assert set(re.findall(r"[^\n -~]", report.text(night))) <= set("…")
    assert tags_of(report.html(night)) == tags_of(report.html(hostile("words")))
    found = html_of(report.as_markdown(night))
    tags = set(re.findall(r"<(\w+)", found))
    assert tags <= {
        "h2",
        "h3",
        "p",
        "strong",
        "ul",
        "li",
        "code",
        "pre",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }, tags
    # All of it stands in code, where no forge makes links, mentions or emojis of it.
    outside = re.sub(r"<code.*?</code>", "", found, flags=re.DOTALL)
    for mark in ("alert", "e.example", "@team", "smile", "img"):
        assert mark not in outside


@given(st.text())
def test_any_text_is_code_in_markdown(text: str) -> None:
    found = html_of(f"| a | b |\n| --- | --- |\n| {markdown.code(text)} | x |\n")
    assert found.count("<td") == 2
    assert set(re.findall(r"<(\w+)", found)) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert set(re.findall(r"<(\w+)", html_of(f"a {markdown.sentence(text)} b"))) <= {"p", "code"}


def test_markdown_stays_below_its_limit() -> None:
    big = a_night(new_failures=[failure(f"A-{n:05}", what="é" * 200) for n in range(3000)])
    for limit in (2000, 50_000, 1 << 20):
        text = report.as_markdown(big, limit)
        assert limit * 0.5 < len(text.encode()) <= limit
        assert re.search(r"\n\d+ more lines are in the report of the night\.\n$", text)
    assert "more lines" not in report.as_markdown(FULL)


def test_annotations_of_a_night() -> None:
    lines = as_github.of_night(FULL)
    assert all(re.fullmatch(r"::(error|warning) title=[^:,\n]+::[^\n]*", line) for line in lines)
    assert lines[0].startswith("::error title=night (night 20261126.1)::Look at 2 new failures")
    assert not any("OLD-001" in line for line in lines)
    many = a_night(new_failures=[failure(f"A-{n}") for n in range(40)], flaky=[failure(f"F-{n}") for n in range(40)])
    counts = [line.split()[0] for line in as_github.of_night(many)]
    assert (counts.count("::error"), counts.count("::warning")) == (10, 10)


def test_a_message_has_only_what_is_new() -> None:
    _, told = news(a_night(new_failures=[failure("OLD-001")]), Told())
    night = a_night(
        "20261130.1", new_failures=[failure("NEW-001")], fixed=[failure("OLD-001")], flaky=[failure("F-001")]
    )
    brought, _ = news(night, told, stale=24)
    subject, text = report.told(night, brought, where="/r/index.html")
    assert subject == ("labkit: 1 new failure, 1 flaky, 1 fixed, no night for 4 days (night 20261130.1)")
    assert text.index("NEW-001") < text.index("F-001") < text.index("OLD-001")
    assert text.endswith("\nreport: /r/index.html\n")

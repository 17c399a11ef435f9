"""A night for people: text for a terminal or a mail, Markdown, and one HTML file that needs nothing else.

The first line says what a maintainer should do. Each new failure is there once, with all the cells that show it, where
it comes from, and a command that shows it again.
"""

from __future__ import annotations

import io
import re
import shlex
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

from rich.console import Console
from rich.text import Text

from labkit.core.text import one_line, printable
from labkit.reports import as_html, markdown
from labkit.reports.files import write
from labkit.results.attribution import Blame
from labkit.results.causes import LEAST
from labkit.results.news import News
from labkit.results.night import Changed, Changes, Night, NightCell, command

PAGE = "index.html"
_CELLS = 12  # cells of one failure that are named
_MOST = 50  # entries of a section in a terminal or a mail
_IN_PAGE = 500
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
# A cell's colour in the page: that of the verdict that is nearest.
_KINDS = {"lab-error": "error", "quarantined": "no-assertions", "not-run": "skip"}
_STATUSES = {0: ("pass", "as expected"), 1: ("fail", "with failures"), 4: ("timeout", "incomplete")}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to know: what it is, lines about it, and a command that shows it again. count: of how many it is."""

    title: str
    lines: tuple[str, ...] = ()
    again: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Section:
    """kind is the verdict whose colour it has."""

    title: str
    kind: str
    entries: tuple[Entry, ...] = field(default=())

    @property
    def count(self) -> int:
        return sum(entry.count for entry in self.entries)

    @property
    def heading(self) -> str:
        return f"{self.title}: {self.count}"


# --- what to say


def action(night: Night) -> str:
    """What a maintainer should do about it, in one line."""
    changes = night.changes
    failures = [one for one in changes.new_failures if one.repeats is not False]
    theirs = [one for one in failures if one.reference_fails]
    words = []
    if not night.complete:
        words.append(
            f"go on with the night, which ended early ({night.reason or 'no reason given'}): ./lab nightly --resume"
        )
    if failures:
        first = f"{failures[0].name} in {failures[0].cells[0]}" if failures[0].cells else failures[0].name
        where = "look at the lab or the suite, for other runtimes fail it too: " if failures == theirs else "look at "
        words.append(f"{where}{_count(len(failures), 'new failure')} ({'first ' if failures[1:] else ''}{first})")
    if changes.lab_errors:
        error = changes.lab_errors[0]
        words.append(
            f"repair the lab: {_count(len(changes.lab_errors), 'cell')} could not run ({error.cell}: {error.error})"
        )
    if changes.expired:
        words.append(f"renew or remove {_count(len(changes.expired), 'policy entry', 'policy entries')} that expired")
    if changes.unexpected_passes:
        words.append(
            f"take out of the policy what passes now: {changes.unexpected_passes[0].name}"
            + _more(len(changes.unexpected_passes) - 1)
        )
    if not words and (still := sum(cell.status == 1 for cell in night.cells)):
        words.append(f"nothing new; {_count(still, 'cell')} of {len(night.cells)} still fail")
    if not words and any(cell.state != "done" for cell in night.cells):
        words.append(f"see why {_count(sum(cell.state != 'done' for cell in night.cells), 'cell')} did not run")
    if not words:
        words.append(
            "nothing to do" + (f": {_count(len(night.cells), 'cell')}, all as expected" if night.cells else "")
        )
    text = "; ".join(words[:3]) + ("; and more below" if words[3:] else "")
    return one_line(text[0].upper() + text[1:] + ("" if text.endswith(")") else "."), 400)


def sections(changes: Changes) -> list[Section]:
    """What changed, the worst first; none that is empty."""
    failures = [one for one in changes.new_failures if one.repeats is not False]
    once = [one for one in changes.new_failures if one.repeats is False]
    found = [
        Section("new failures", "fail", _failures(failures)),
        Section(
            "lab errors", "error", tuple(Entry(one.cell, (one.error,), _again(one.cell)) for one in changes.lab_errors)
        ),
        Section("expired policy entries", "error", tuple(map(Entry, changes.expired))),
        Section("unexpected passes", "todo", tuple(map(_changed, changes.unexpected_passes))),
        Section("flaky", "flaky", tuple(map(_changed, (*once, *changes.flaky)))),
        Section("not run", "skip", tuple(Entry(cell, (), _again(cell)) for cell in changes.not_run)),
        Section(
            "slower than usual",
            "timeout",
            tuple(
                Entry(
                    one.cell,
                    (f"{_seconds(one.seconds)}, usually {_seconds(one.usual)}, at most {_seconds(one.bound)} so far",),
                )
                for one in changes.slower
            ),
        ),
        Section("fixed", "pass", tuple(map(_changed, changes.fixed))),
        Section("failing still", "fail", _failures(changes.still_failing or ())),
    ]
    return [section for section in found if section.entries]


def _failures(found: Sequence[Changed]) -> tuple[Entry, ...]:
    """Those of one cause are one entry, at the place of the first."""
    of_cause: dict[str, list[Changed]] = {}
    for one in found:
        of_cause.setdefault(one.alike or one.name, []).append(one)
    entries = []
    for one in found:
        alike = of_cause[one.alike or one.name]
        if len(alike) < LEAST or not one.alike:
            entries.append(_failure(one))
        elif one is alike[0]:
            entries.append(_cause(alike))
    return tuple(entries)


def _cause(alike: Sequence[Changed]) -> Entry:
    """An entry for failures that say the same; what is not the same of all of them is left out."""
    first = alike[0]
    names = dict.fromkeys(one.name for one in alike)
    same = {
        field: getattr(first, field) if all(getattr(one, field) == getattr(first, field) for one in alike) else empty
        for field, empty in (("repeats", None), ("reference_fails", None), ("since", None), ("lab", ()))
    }
    cells = dict.fromkeys(cell for one in alike for cell in one.cells)
    entry = _failure(first.model_copy(update={**same, "what": "", "cells": tuple(cells)}))
    lines = (f"{', '.join(list(names)[:_CELLS])}{_more(len(names) - _CELLS)}", *entry.lines)
    again = _again(first.cells[0], first.selected) if first.cells else ""
    return Entry(f"{len(alike)} fail alike: {first.alike}", lines, again, len(alike))


def _failure(one: Changed) -> Entry:
    lines = [one.what] if one.what and one.what != one.name else []
    lines.append(f"in {_cells(one.cells)}")
    if one.repeats is not None:
        lines.append("bad again when it was run alone" if one.repeats else "not bad when it was run alone")
    if one.reference_fails is not None:
        lines.append(
            f"{Blame.TOO}: other runtimes fail it, so the lab or the suite may be the reason"
            if one.reference_fails
            else f"{Blame.ONLY}: no other fails it"
        )
    if one.since:
        lines.append(f"since night {one.since}")
    if one.lab:
        lines.append(f"new in the lab then: {', '.join(one.lab[:_CELLS])}{_more(len(one.lab) - _CELLS)}")
    return Entry(one.name, tuple(lines), _again(one.cells[0], one.selected) if one.cells else "")


def _changed(one: Changed) -> Entry:
    lines = [one.what] if one.what and one.what != one.name else []
    return Entry(one.name, (*lines, *([f"in {_cells(one.cells)}"] if one.cells else [])))


def _again(cell: str, only: str | None = None) -> str:
    words = command(cell, only)
    return shlex.join(words) if words else ""


def _cells(cells: Sequence[str]) -> str:
    return f"{', '.join(cells[:_CELLS])}{_more(len(cells) - _CELLS)}" if cells else "no cell that is known"


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _facts(night: Night) -> str:
    states: dict[str, int] = {}
    for cell in night.cells:
        states[_state(cell)[1]] = states.get(_state(cell)[1], 0) + 1
    took = f" in {_seconds(max((night.finished - night.started).total_seconds(), 0))}" if night.finished else ""
    counts = ", ".join(f"{number} {words}" for words, number in states.items())
    what = f"{_count(len(night.cells), 'cell')}{took}" + (f": {counts}" if counts else "")
    return f"{night.started.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {what}"


def _state(cell: NightCell) -> tuple[str, str]:
    """Colour and words for how a cell ended."""
    if cell.state != "done":
        return _KINDS[cell.state], cell.state.replace("-", " ")
    return _STATUSES.get(cell.status if cell.status is not None else -1, ("error", f"status {cell.status}"))


# --- text


def text(night: Night, *, terminal: bool = False, width: int = 100, directory: Path | None = None) -> str:
    """The night as text; terminal allows colours. directory is the night's own, where its page is."""
    lines = [(f"night {night.id}: {action(night)}", "bold"), (_facts(night), "dim")]
    lines += _incomplete(night)
    lines += _section_lines(sections(night.changes))
    for place, new in night.lab.items():
        if new:
            lines += [("", ""), (f"new in the lab, {place}: {', '.join(new[:_MOST])}{_more(len(new) - _MOST)}", "")]
    if directory is not None:
        lines += [("", ""), (f"report: {directory / PAGE}", "")]
    if not terminal:
        return "".join(f"{printable(line)}\n" for line, _ in lines)
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True)
    for line, style in lines:
        console.print(Text(printable(line), style), soft_wrap=True)
    return out.getvalue()


def _incomplete(night: Night) -> list[tuple[str, str]]:
    return [] if night.complete else [(f"INCOMPLETE: {night.reason or 'the night did not end'}", "bold reverse red")]


def _section_lines(found: Iterable[Section], most: int = _MOST) -> Iterator[tuple[str, str]]:
    for section in found:
        yield from (("", ""), (section.heading, "bold"))
        for entry in section.entries[:most]:
            yield one_line(f"  {entry.title}", 300), ""
            for line in entry.lines:
                yield one_line(f"      {' '.join(line.split())}", 500), "dim"
            if entry.again:
                yield f"      $ {entry.again}", "dim"
        if section.entries[most:]:
            yield f"  and {len(section.entries) - most} more in the report", "dim"


# --- a message


def told(night: Night, news: News, *, late: Sequence[str] = (), where: str = "") -> tuple[str, str]:
    """The subject and text of a message about what is new. late: subjects of messages that did not arrive before;
    where: the address or path of the night's page.
    """
    new = night.model_copy(
        update={
            "changes": Changes(
                new_failures=news.failures,
                fixed=news.fixed,
                flaky=news.flaky,
                unexpected_passes=news.passes,
                expired=news.expired,
                not_run=news.not_run,
                lab_errors=news.lab_errors,
                slower=news.slower,
            )
        }
    )
    stale = Section(
        "without a result for long",
        "timeout",
        tuple(Entry(cell, (f"the last one is {_hours(age)} old",)) for cell, age in news.stale),
    )
    found = [*sections(new.changes), *([stale] if stale.entries else [])]
    counts = [_count(section.count, _SINGULAR.get(section.title, section.title), section.title) for section in found]
    if news.incomplete:
        counts.insert(0, "the night is incomplete")
    if news.silence is not None:
        counts.append(f"no night for {_hours(news.silence)}")
    if not counts and late:
        counts.append("what could not be told before")
    subject = one_line(f"labkit: {', '.join(counts)} (night {night.id})", 200)
    lines = [action(night), _facts(night)]
    lines += [line for line, _ in _incomplete(night)]
    if news.silence is not None:
        lines.append(f"The night before this one had ended {_hours(news.silence)} earlier.")
    lines += [line for line, _ in _section_lines(found, 20)]
    if late:
        lines += ["", "could not be told before:", *(f"  {one_line(line, 300)}" for line in late)]
    if where:
        lines += ["", f"report: {where}"]
    return subject, "".join(f"{printable(line)}\n" for line in lines)


_SINGULAR = {
    "new failures": "new failure",
    "lab errors": "lab error",
    "expired policy entries": "expired policy entry",
    "unexpected passes": "unexpected pass",
}


def _hours(value: float) -> str:
    return f"{value:.0f} h" if value < 72 else f"{value / 24:.0f} days"


# --- Markdown


def as_markdown(night: Night, limit: int = 1 << 20) -> str:
    """The night as Markdown of at most limit bytes; text from elsewhere stands in code spans, or is escaped."""
    parts = [f"## Night {markdown.code(night.id)}\n\n**{markdown.sentence(action(night))}**\n\n", f"{_facts(night)}\n"]
    if not night.complete:
        parts.append(f"\n**Incomplete**: {markdown.code(night.reason or 'the night did not end')}\n")
    for section in sections(night.changes):
        parts.append(f"\n### {section.heading[0].upper()}{section.heading[1:]}\n\n")
        for entry in section.entries:
            lines = "".join(f"  - {markdown.code(line, 500)}\n" for line in entry.lines)
            again = "".join(f"  {line}\n" for line in markdown.block(entry.again).splitlines()) if entry.again else ""
            parts.append(f"- **{markdown.code(entry.title)}**\n{lines}" + (f"\n{again}\n" if again else ""))
    for place, new in night.lab.items():
        if new:
            parts.append(f"\nNew in the lab, {markdown.code(place)}: {', '.join(map(markdown.code, new))}\n")
    if night.cells:
        parts.append("\n### Cells\n\n| cell | outcome | took |\n| --- | --- | ---: |\n")
        parts += [
            f"| {markdown.code(cell.cell)} | {_state(cell)[1]} | {_seconds(cell.seconds)} |\n" for cell in night.cells
        ]
    return markdown.fitting(parts, limit, "\n{} more lines are in the report of the night.\n")


# --- HTML


def html(night: Night) -> str:
    """The night as a page in reports/nights/ID/, with links to its runs; every text is escaped."""
    cells = []
    for cell in night.cells:
        kind, words = _state(cell)
        errors = [one_line(error, 300) for error in (*(it.error for it in cell.attempts), cell.error) if error]
        link = f"../../{urllib.parse.quote(cell.run)}/report.html" if cell.run and _RUN.fullmatch(cell.run) else None
        cells.append((cell, kind, words, link, _seconds(cell.seconds), errors[-1] if errors else ""))
    return as_html.page(
        "night.html.j2",
        night=night,
        action=action(night),
        facts=_facts(night),
        sections=[
            (section, section.entries[:_IN_PAGE], len(section.entries) - _IN_PAGE)
            for section in sections(night.changes)
        ],
        lab=[(place, new) for place, new in night.lab.items() if new],
        cells=cells,
    )


def write_page(night: Night, directory: Path) -> Path:
    """Write the page into the night's directory. HostError where that fails."""
    write(directory / PAGE, html(night))
    return directory / PAGE

"""Several runs side by side: what differs, by check and finding. For a terminal, as Markdown and as HTML."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from labkit.core.text import count, one_line, printable
from labkit.reports import as_html, markdown
from labkit.results.comparison import Line, Relation, Side, SideBySide
from labkit.results.engines import table
from labkit.results.model import Run

_MOST = 100  # lines in a terminal
_STYLES = {Relation.WORSE: "bold red", Relation.BETTER: "green", Relation.SAME: "dim"}
_SEEN, _NOT_SEEN = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


def labels(runs: Sequence[Run]) -> list[str]:
    """What to call each of the runs: its runtime, and what used it where that differs, with the arguments or the number
    where that is another's, too.
    """
    several = len({run.engine for run in runs}) > 1
    names = [f"{run.runtime.name} {run.runtime.version}".strip() for run in runs]
    names = [
        f"{run.engine.title} over {name}" if run.engine and several else name
        for name, run in zip(names, runs, strict=True)
    ]
    alike = Counter(names)
    names = [
        f"{name} {run.runtime.arguments}".strip() if alike[name] > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]
    alike = Counter(names)
    return [f"{name} ({number})" if alike[name] > 1 else name for number, name in enumerate(names, 1)]


def _summary(sides: SideBySide) -> list[tuple[str, str, str]]:
    """Of each run its label, how it stands to the first, and which it is."""
    told = []
    for number, (label, run, counts) in enumerate(zip(labels(sides.runs), sides.runs, sides.counts, strict=True)):
        said = ", ".join(f"{many} {relation}" for relation, many in counts.items()) or "nothing to compare"
        said = said if number else "the others are compared with it"
        told.append(
            (
                label,
                said + _incomplete(run),
                ", ".join(filter(None, (run.runtime.word or run.runtime.path, run.run.id))),
            )
        )
    return told


def _incomplete(run: Run) -> str:
    return "" if run.run.complete else f"; incomplete: {run.run.reason}"


def _verdicts(side: Side) -> str:
    return ", ".join(f"{many} {verdict}" if many > 1 else verdict.value for verdict, many in side.verdicts.items())


def _cell(side: Side, is_first: bool) -> str:
    shown = _verdicts(side)
    if is_first or side.relation in (Relation.SAME, Relation.ABSENT):
        return shown or "not there"
    return f"{shown}, {side.relation}" if shown else side.relation.value


def _mark(side: Side, finding: str) -> str:
    if not side.verdicts:
        return ""
    return _SEEN if finding in side.findings else _NOT_SEEN


def text(sides: SideBySide, *, width: int = 80, terminal: bool = False) -> str:
    """The table as text of at most so many columns, where that can be; terminal allows colours."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, no_color=None if terminal else True)
    for label, said, about in _summary(sides):
        console.print(Text(printable(label), "bold").append(printable(f": {said} ({about})"), ""), overflow="fold")
    console.print()
    if found := table.grid(sides.runs):
        for name, cells in found.rows:
            for head, cell in zip(found.runtimes, cells, strict=True):
                if cell:
                    console.print(Text(printable(f"{name} over {head}: {cell}")), overflow="fold")
        console.print()
    lines, apart = _divided(sides)
    if lines:
        for row in _rows(sides, lines[:_MOST], width):
            console.print(row, soft_wrap=True)
    elif not apart:
        console.print(_alike(sides))
    if len(lines) > _MOST:
        console.print(f"and {len(lines) - _MOST} more: --html FILE shows them", style="dim")
    if apart:
        console.print(_apart(apart), style="dim")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _divided(sides: SideBySide) -> tuple[list[Line], int]:
    """The lines with something to compare, and how many there are that not all runs have, and are else the same."""
    lines = [line for line in sides.lines if {side.relation for side in line.sides} - _PRESENCE]
    return lines, len(sides.lines) - len(lines)


_PRESENCE = {Relation.SAME, Relation.ABSENT, Relation.ADDED}


def _apart(number: int) -> str:
    return f"{count(number, 'check')} that not all of the runs have: --html FILE shows them"


def _alike(sides: SideBySide) -> str:
    return f"all alike: {count(sides.counts[0].get(Relation.SAME, 0), 'check')}"


def _rows(sides: SideBySide, lines: Sequence[Line], width: int) -> Iterator[Text]:
    """The rows of the table: id, what it is about as far as there is room, and what each run shows."""
    heads = [printable(label) for label in labels(sides.runs)]
    cells = [[_cell(side, number == 0) for number, side in enumerate(line.sides)] for line in lines]
    ids = [one_line(line.program or line.id, 30) for line in lines]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    first = max(map(len, ids))
    room = width - first - sum(widths) - 2 * (len(widths) + 1)
    name = room if room >= 12 else 0

    def row(ident: str, what: str, words: Sequence[str], styles: Sequence[str]) -> Text:
        made = Text(ident.ljust(first), "bold")
        if name:
            made.append(f"  {one_line(what, name).ljust(name)}")
        for word, size, one in zip(words, widths, styles, strict=True):
            made.append("  ").append(word.ljust(size), one)
        return made

    yield row("", "", heads, ["bold"] * len(heads))
    for line, ident, shown in zip(lines, ids, cells, strict=True):
        styles = [_STYLES.get(side.relation, "yellow") if number else "" for number, side in enumerate(line.sides)]
        yield row(ident, line.name, shown, styles)
        for finding in line.findings:
            who = [head for head, side in zip(heads, line.sides, strict=True) if finding in side.findings]
            yield Text(one_line(f"{' ' * (first + 2)}{finding}: {', '.join(who)}", 300), "dim")


def as_markdown(sides: SideBySide, limit: int = 1 << 20) -> str:
    """The table as Markdown of at most limit bytes."""
    names = [markdown.code(label, 80) for label in labels(sides.runs)]
    parts = ["## Side by side\n\n"]
    parts += [
        f"- {name}: {markdown.sentence(said)} ({markdown.code(about)})\n"
        for name, (_, said, about) in zip(names, _summary(sides), strict=True)
    ]
    if found := table.grid(sides.runs):
        parts.append(f"\n| | {' | '.join(markdown.code(one, 80) for one in found.runtimes)} |\n")
        parts.append(f"| --- |{' --- |' * len(found.runtimes)}\n")
        parts += [_row([markdown.code(name, 80), *map(markdown.sentence, cells)]) for name, cells in found.rows]
    lines, apart = _divided(sides)
    if apart or not lines:
        parts.append(f"\n{_apart(apart) if apart else f'A{_alike(sides)[1:]}'}\n")
    if not lines:
        return "".join(parts)
    parts.append(f"\n| check | what | {' | '.join(names)} |\n| --- | --- |{' --- |' * len(names)}\n")
    for line in lines:
        cells = [_cell(side, number == 0) for number, side in enumerate(line.sides)]
        parts.append(_row([markdown.code(line.program or line.id, 80), markdown.code(line.name), *cells]))
        for finding in line.findings:
            parts.append(_row(["", markdown.code(finding), *(_mark(side, finding) for side in line.sides)]))
    return markdown.fitting(parts, limit, "\n{} more lines are in the page.\n")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def html(sides: SideBySide) -> str:
    """The table as a page that needs nothing else; every text from a run is escaped."""
    return as_html.page(
        "table.html.j2",
        labels=labels(sides.runs),
        summary=_summary(sides),
        grid=table.grid(sides.runs),
        lines=[_shown(line) for line in sides.lines],
        alike=sides.counts[0].get(Relation.SAME, 0),
    )


def _shown(line: Line) -> dict[str, object]:
    return {
        "id": line.program or line.id,
        "name": line.name,
        "cells": [
            (_cell(side, number == 0), side.relation.name.lower() if number else "")
            for number, side in enumerate(line.sides)
        ],
        "findings": [(finding, [_mark(side, finding) for side in line.sides]) for finding in line.findings],
    }

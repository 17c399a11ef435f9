"""Runs of engines over runtimes as one table: a row for each engine, a column for each runtime. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.results.engines import swap
from labkit.results.model import Result, Run


@dataclass(frozen=True, slots=True)
class Grid:
    """runtimes are the heads of columns, rows have the engine and a cell for each of them, empty where there is no run:
    how the swap came out, and which steps are why.
    """

    runtimes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def grid(runs: Sequence[Run]) -> Grid | None:
    """The table, None where none of the runs has a conversation with an engine. Where several are of the same two, the
    last counts.
    """
    cells: dict[tuple[str, str], str] = {}
    for run in runs:
        if run.engine and any(result.id in swap.NAMES for result in run.results):
            cells[run.engine.title, _runtime(run)] = _cell(run)
    if not cells:
        return None
    engines, runtimes = (tuple(dict.fromkeys(key[at] for key in cells)) for at in (0, 1))
    return Grid(runtimes, tuple((name, tuple(cells.get((name, one), "") for one in runtimes)) for name in engines))


def _runtime(run: Run) -> str:
    return " ".join(f"{run.runtime.name} {run.runtime.version} {run.runtime.arguments}".split())


def _cell(run: Run) -> str:
    said = swap.word(run.results)
    bad = [result for result in run.results if result.id in swap.NAMES and result.bad]
    differ, alike = (
        [_step(one) for one in bad if swap.differs(one)],
        [_step(one) for one in bad if not swap.differs(one)],
    )
    text = f"differs: {', '.join(differ)}" if said == "differs" else said
    if alike and said != "cannot":
        text += f" (over the reference, too: {', '.join(alike)})"
    return text if run.run.complete else f"{text}; incomplete"


def _step(result: Result) -> str:
    return result.id.removeprefix("SWAP-")

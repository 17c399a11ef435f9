"""The use cases about the past: a check or a cell through its runs, what is flaky, the nights, and the site of them."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.observer import Observer
from labkit.core.suggest import did_you_mean
from labkit.reports import site as pages
from labkit.store.history import FILE, History
from labkit.store.past import Durations, Failing, Flaky, Identity, Night, Ran, Span, since

_SHOWN = 5  # runs that cannot be read, by name
_LISTED = 30  # known words in a hint


@dataclass(frozen=True, slots=True)
class CellPast:
    """A cell through its runs, the oldest first; failing is what fails against the policy in the newest."""

    cell: str
    runs: tuple[Ran, ...]
    durations: Durations
    failing: tuple[Failing, ...]


@dataclass(frozen=True, slots=True)
class CheckPast:
    """A check in one cell, through its runs; since: the run from which it has been as good or as bad as it is."""

    cell: str
    identity: Identity
    title: str
    spans: tuple[Span, ...]
    since: Ran


@dataclass(frozen=True, slots=True)
class Past:
    """What a word names: cells, or else checks."""

    cells: tuple[CellPast, ...] = ()
    checks: tuple[CheckPast, ...] = ()


@contextlib.contextmanager
def opened(settings: Settings, observer: Observer) -> Iterator[History]:
    """The history of the reports, brought up to date; what could not be read is warned of."""
    reports = settings.reports
    if not reports.is_dir():
        raise UsageError(f"there are no runs yet: {reports} is not there", hint="./lab test makes one")
    with History.open(reports / FILE, observer.warn) as history:
        found = history.sync(reports, observer.step)
        for name, why in found.unread[:_SHOWN]:
            observer.warn(f"{name} is left out: {why}")
        if len(found.unread) > _SHOWN:
            observer.warn(f"{len(found.unread) - _SHOWN} more runs are left out")
        yield history


def about(settings: Settings, observer: Observer, word: str) -> Past:
    """The past of what word names: a cell by its key or a pattern of keys, the cell of a run by the run's id, or a
    check by its id or program. UsageError where it names nothing.
    """
    with opened(settings, observer) as history:
        cells = history.cells()
        named = [cell for cell in cells if cell == word] or fnmatch.filter(cells, word)
        if not named and (ran := history.run(word)):
            named = [ran.cell]
        if named:
            return Past(cells=tuple(_cell(history, cell) for cell in named))
        found = []
        for identity, title in history.identities(word):
            for cell in cells:
                spans = history.spans(cell, identity)
                if began := since(spans):
                    found.append(CheckPast(cell, identity, title, tuple(spans), began))
        if not found:
            if not cells:
                raise UsageError(f"there are no runs in {settings.reports} yet", hint="./lab test makes one")
            near = did_you_mean(word, [*cells, *history.names()])
            some = ", ".join(cells[:_LISTED]) + (", ..." if len(cells) > _LISTED else "")
            raise UsageError(
                f"no cell, check or run in {settings.reports} is called {word!r}{near}",
                hint=f"a check's id or a program's name; or a cell, or a pattern of cells: {some}",
            )
        return Past(checks=tuple(found))


def _cell(history: History, cell: str) -> CellPast:
    return CellPast(cell, tuple(history.runs(cell)), history.durations(cell), tuple(history.failing_now(cell)))


def flaky(settings: Settings, observer: Observer) -> list[Flaky]:
    """The checks that are now good and now bad, the worst first."""
    with opened(settings, observer) as history:
        return history.flaky()


def nights(settings: Settings, observer: Observer) -> list[tuple[Night, tuple[Ran, ...]]]:
    """The nights with their runs, the newest first."""
    with opened(settings, observer) as history:
        of: dict[str, list[Ran]] = {}
        for ran in history.runs():
            of.setdefault(ran.night, []).append(ran)
        return [(night, tuple(of.get(night.name, ()))) for night in reversed(history.nights())]


def site(settings: Settings, observer: Observer, out: Path | None) -> Path:
    """Write the pages of the history into out, else into site/ below the reports; the first of them."""
    with opened(settings, observer) as history:
        return pages.write(history, settings.reports, out or settings.reports / pages.PLACE, datetime.now(UTC))

"""What of a night is worth a message: what changed, has lasted, or was not seen for too long. Values in, values out.

A night says what changed since the night before. What was told before is kept in Told, so that each thing is told once,
a failure that must last some nights is told when it has, and what ends before it was told is never told. A night that
ended early may be told twice, the second time when it has been gone on with: then only of what has come since. What a
night that was not told has missed is caught up with, where nights list what fails still.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from pydantic import AwareDatetime, ConfigDict, Field

from labkit.core.tomlfile import Table
from labkit.results.night import CellError, Changed, Night, Slower

_NIGHTS = 400  # ids of nights that are remembered, against telling one twice
_FORGOTTEN = timedelta(days=90)
Cells = dict[str, tuple[str, ...]]  # a key of _key() to cells


class Told(Table):
    """What is known after some nights. nights: those that need not be told again; last: the last that was. pending:
    failures that were not told yet, with the nights in which each cell showed them; failing: those that were told, or
    were there from the start; fixed: those of the last night; seen: each cell to when it had its last result;
    undelivered: channel to lines.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    nights: tuple[str, ...] = ()
    last: str = ""
    ended: AwareDatetime | None = None
    complete: bool = True
    pending: dict[str, Cells] = Field(default={})
    about: dict[str, Changed] = Field(default={})
    failing: Cells = Field(default={})
    fixed: Cells = Field(default={})
    flaky: Cells = Field(default={})
    passes: Cells = Field(default={})
    expired: tuple[str, ...] = ()
    lab_errors: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()
    slower: tuple[str, ...] = ()
    seen: dict[str, AwareDatetime] = Field(default={})
    stale: tuple[str, ...] = ()
    undelivered: dict[str, tuple[str, ...]] = Field(default={})


@dataclass(frozen=True, slots=True)
class News:
    """What to tell. stale: a cell, and hours since its last result."""

    failures: tuple[Changed, ...] = ()
    fixed: tuple[Changed, ...] = ()
    flaky: tuple[Changed, ...] = ()
    passes: tuple[Changed, ...] = ()
    expired: tuple[str, ...] = ()
    lab_errors: tuple[CellError, ...] = ()
    not_run: tuple[str, ...] = ()
    slower: tuple[Slower, ...] = ()
    stale: tuple[tuple[str, float], ...] = ()
    silence: float | None = None  # hours without any night before this one
    incomplete: str | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, name) not in ((), None) for name in self.__dataclass_fields__)


def news(night: Night, before: Told, *, after: int = 1, stale: float = 48) -> tuple[News, Told]:
    """What a night brings that is worth telling, and what is known from then on.

    after: nights that a failure has to last; stale: hours without a result. A night that was counted brings nothing.
    """
    if night.id in before.nights:
        return News(), before
    changes = night.changes
    done = {cell.cell for cell in night.cells if cell.state == "done"}
    ended = _by_key(changes.fixed)
    doubtful = _by_key((*changes.flaky, *(one for one in changes.new_failures if one.repeats is False)))
    bad = None if changes.still_failing is None else _by_key((*changes.still_failing, *changes.new_failures))

    def over(key: str, cell: str) -> bool:
        """Whether a failure is there no more: the night says so, or its cell ran and does not list it."""
        if cell in ended.get(key, ()):
            return True
        return bad is not None and cell in done and cell not in bad.get(key, ())

    pending: dict[str, Cells] = {}
    for key, cells in before.pending.items():
        left = [cell for cell in cells if not over(key, cell) and cell not in doubtful.get(key, ())]
        pending[key] = {cell: _lasted(cells[cell], night.id, after) if cell in done else cells[cell] for cell in left}
    failing = {key: {cell for cell in cells if not over(key, cell)} for key, cells in before.failing.items()}
    about = dict(before.about)
    for one in (*changes.new_failures, *(changes.still_failing or ())):
        if one.repeats is not False:
            key = _key(one)
            about[key] = one
            for cell in set(one.cells) - failing.get(key, set()):
                if before.ended is None and one not in changes.new_failures:  # it was there before anybody was told
                    failing.setdefault(key, set()).add(cell)
                else:
                    pending.setdefault(key, {}).setdefault(cell, (night.id,))
    failures = []
    for key, shown in pending.items():
        if due := sorted(cell for cell, lasted in shown.items() if len(lasted) >= after):
            failures.append(about[key].model_copy(update={"cells": tuple(due)}))
            failing[key] = failing.get(key, set()) | set(due)
            pending[key] = {cell: lasted for cell, lasted in shown.items() if cell not in due}
    fixed = []
    for one in changes.fixed:
        # One that was pending was never told. One that is not known at all began before anything was kept.
        quiet = {
            *before.pending.get(_key(one), ()),
            *(before.fixed.get(_key(one), ()) if night.id == before.last else ()),
        }
        if cells_ := tuple(cell for cell in one.cells if cell not in quiet):
            fixed.append(one.model_copy(update={"cells": cells_}))

    # What is not in the matrix any more, or left out of this night, is not missed.
    planned = {ran.cell for ran in night.cells}
    seen = {
        cell: moment for cell, moment in before.seen.items() if cell in planned or night.ended - moment < _FORGOTTEN
    }
    for cell in planned:
        seen[cell] = night.ended if cell in done else seen.get(cell, night.ended)
    ages = {cell: (night.ended - seen[cell]) / timedelta(hours=1) for cell in sorted(planned)}
    old = {cell: age for cell, age in ages.items() if age > stale}
    silence = (night.started - before.ended) / timedelta(hours=1) if before.ended else 0.0

    flaky, new_flaky = _fresh(changes.flaky, before.flaky, done)
    passes, new_passes = _fresh(changes.unexpected_passes, before.passes, done)
    brought = News(
        failures=tuple(failures),
        fixed=tuple(fixed),
        flaky=new_flaky,
        passes=new_passes,
        expired=_new(changes.expired, before.expired),
        lab_errors=tuple(one for one in changes.lab_errors if one.cell not in before.lab_errors),
        not_run=_new(changes.not_run, before.not_run),
        slower=tuple(one for one in changes.slower if one.cell not in before.slower),
        stale=tuple((cell, age) for cell, age in old.items() if cell not in before.stale),
        silence=silence if silence > stale and night.id != before.last else None,
        incomplete=None if night.complete or not before.complete else night.reason or "it did not end",
    )
    kept = {key: shown for key, shown in pending.items() if shown}
    failed = {key: tuple(sorted(cells)) for key, cells in failing.items() if cells}
    return brought, Told(
        nights=(*before.nights, *([night.id] if night.complete else []))[-_NIGHTS:],
        last=night.id,
        ended=max(filter(None, (before.ended, night.ended))),
        complete=night.complete,
        pending=kept,
        about={key: one for key, one in about.items() if key in kept},
        failing=failed,
        fixed={key: tuple(sorted(cells)) for key, cells in ended.items()},
        flaky=flaky,
        passes=passes,
        expired=tuple(dict.fromkeys(changes.expired)),
        lab_errors=tuple(dict.fromkeys(one.cell for one in changes.lab_errors)),
        not_run=tuple(dict.fromkeys(changes.not_run)),
        slower=tuple(dict.fromkeys(one.cell for one in changes.slower)),
        seen=seen,
        stale=(*old, *(cell for cell in before.stale if cell not in planned and cell in seen)),
        undelivered=before.undelivered,
    )


def _key(one: Changed) -> str:
    return json.dumps(one.identity)


def _by_key(several: Iterable[Changed]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in several:
        found.setdefault(_key(one), set()).update(one.cells)
    return found


def _lasted(nights: tuple[str, ...], night: str, after: int) -> tuple[str, ...]:
    return nights if night in nights else (*nights, night)[-after:]


def _fresh(
    several: Iterable[Changed], before: Mapping[str, tuple[str, ...]], done: set[str]
) -> tuple[Cells, tuple[Changed, ...]]:
    """All of them by key, with what cells showed before that did not run now; and those, with their cells, that were
    not there before.
    """
    several = tuple(several)
    new = []
    for one in several:
        if cells := tuple(cell for cell in one.cells if cell not in before.get(_key(one), ())):
            new.append(one.model_copy(update={"cells": cells}))
    now = {key: {cell for cell in cells if cell not in done} for key, cells in before.items()}
    for key, found in _by_key(several).items():
        now.setdefault(key, set()).update(found)
    return {key: tuple(sorted(cells)) for key, cells in now.items() if cells}, tuple(new)


def _new(now: Iterable[str], before: Iterable[str]) -> tuple[str, ...]:
    known = set(before)
    return tuple(dict.fromkeys(one for one in now if one not in known))

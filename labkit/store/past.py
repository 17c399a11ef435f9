"""The past of cells as values: runs, nights, and what of their checks can be told from the verdicts in a row. Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeAlias

from labkit.core import cell as cells
from labkit.core.arch import Arch
from labkit.results.model import Run
from labkit.store import runs
from labkit.store.spans import BAD, FLAKY, UNEXPECTED, Seen, seen_of

RECENT = 50  # runs of a cell that tell what is usual
_FOR_BOUND = 5  # earlier runs, without which a duration has no bound
_PATHS = re.compile(r"/(usr/)?s?bin/[^/]+")  # where packages put programs

Identity: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Ran:
    """A run in the history of its cell. night is "" where no night made it; status is what its command ended with;
    worst is the worst of its verdicts, unexpected ones first, None where nothing arrived; facts say what it ran on and
    with; gone: its directory is not there any more.
    """

    name: str
    cell: str
    night: str
    started: datetime
    seconds: float
    complete: bool
    status: int
    worst: Seen | None
    results: int
    unexpected: int
    facts: Mapping[str, str]
    gone: bool


@dataclass(frozen=True, slots=True)
class Night:
    """states is cell to its state in night.json; runs cell to the run that counts."""

    name: str
    started: datetime
    seconds: float
    complete: bool
    status: int | None
    states: Mapping[str, str]
    runs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Span:
    """The runs from first to last, of which there are so many, all showed this; runs without the check not counted."""

    seen: Seen
    first: Ran
    last: Ran
    runs: int


@dataclass(frozen=True, slots=True)
class Failing:
    """A check that fails in a night's run, against the policy. since is the night's run with which that began, in so
    many nights in a row (streak) that ran it; before is what it showed in the night before that, None where there was
    none. title is what the check is about, where its name is an id.
    """

    cell: str
    identity: Identity
    title: str
    seen: Seen
    before: Seen | None
    since: Ran
    streak: int


@dataclass(frozen=True, slots=True)
class Fixed:
    """A check that failed against the policy in the night before, and does not any more."""

    cell: str
    identity: Identity
    title: str
    seen: Seen
    before: Seen


@dataclass(frozen=True, slots=True)
class Flaky:
    """A check that changed between good and bad in the last runs of a cell, three times or for one run alone, or was
    flaky in one of them. runs are those that had it; flips the changes, flaky the verdicts.
    """

    cell: str
    identity: Identity
    title: str
    runs: int
    flips: int
    flaky: int
    last: Seen
    changed: Ran


@dataclass(frozen=True, slots=True)
class Durations:
    """How long the complete runs of a cell took, the oldest first. usual is their median before the last one, bound
    what a run took longer than which counts as slower: Q3 + 3 x IQR, None while there are too few.
    """

    cell: str
    runs: tuple[Ran, ...]
    usual: float | None
    bound: float | None

    @property
    def slower(self) -> bool:
        return self.bound is not None and bool(self.runs) and self.runs[-1].seconds > self.bound


@dataclass(frozen=True, slots=True)
class Stale:
    """A cell that no night has run for longer than it should be; last is the newest run of a night."""

    cell: str
    last: Ran
    age: timedelta


@dataclass(frozen=True, slots=True)
class Grid:
    """All of a cell: its runs, the oldest first, the checks that any of them had, and for each run what it showed of
    each check, in their order: codes(seen), 0 where it did not have it.
    """

    cell: str
    runs: tuple[Ran, ...]
    tests: tuple[tuple[Identity, str], ...]
    columns: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """What sync() found: names of runs that were added, were read again because they had changed, or are gone; and what
    could not be read, with the reason.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]
    unread: tuple[tuple[str, str], ...]


def key_of(run: Run) -> str:
    """The key of the cell that a run belongs to, by what its results.json says: that of its night, or else made of
    what it ran on.

    A program at a path where no package puts one is a runtime of its own; so is a runtime with arguments.
    """
    about = run.machine
    if cell := text_of(about.get("cell")):
        return cell
    platform, release, provider = (text_of(about.get(key)) for key in ("platform", "release", "provider"))
    arch = text_of(about.get("arch")) if provider != "ssh" else ""
    arch = arch or Arch.AMD64.value
    path, runtime, word = run.runtime.path, run.runtime.name, run.runtime.word
    if word and not word.startswith("/"):
        return cells.key(platform, release, arch, provider, word, "", run.suite.name)
    if path.startswith("/") and not _PATHS.fullmatch(path):
        runtime = path
    return cells.key(platform, release, arch, provider, runtime, run.runtime.arguments, run.suite.name)


def outlier_bound(seconds: Sequence[float]) -> float | None:
    """Q3 + 3 x IQR, but never less than a twentieth and half a second above the median: what is always the same is not
    slower for a breath. None where they are too few.
    """
    if len(seconds) < _FOR_BOUND:
        return None
    first, median, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return max(third + 3 * (third - first), median * 1.05 + 0.5)


def since(spans: Sequence[Span]) -> Ran | None:
    """What History.since() says, of the spans of a check."""
    first = None
    for span in reversed(spans):
        if first is not None and span.seen.bad is not first.seen.bad:
            break
        first = span
    return first.first if first else None


def flaky_in(grid: Grid, last: int = RECENT) -> list[Flaky]:
    """What History.flaky() finds in one cell, in no order."""
    recent = list(zip(grid.runs, grid.columns, strict=True))[-last:]
    if not recent or (len({column for _, column in recent}) == 1 and not any(FLAKY[value] for value in recent[0][1])):
        return []
    found = []
    width, joined = len(grid.tests), b"".join(column for _, column in recent)
    for test in range(width):
        row = joined[test::width]
        if row.count(row[0]) == len(row) and not FLAKY[row[0]]:
            continue
        known = [(ran, value) for (ran, _), value in zip(recent, row, strict=True) if value]
        turns = [at for at in range(1, len(known)) if BAD[known[at - 1][1]] != BAD[known[at][1]]]
        changes = [known[at] for at in turns]
        flaky = [pair for pair in known if FLAKY[pair[1]]]
        undone = any(later == earlier + 1 for earlier, later in pairwise(turns))
        if not flaky and not undone and len(turns) < 3:  # broken once, and mended: no chance in that
            continue
        identity, title = grid.tests[test]
        seen = seen_of(known[-1][1])
        assert seen is not None
        newest = max(changes[-1:] + flaky[-1:], key=lambda pair: runs.order(pair[0].name))[0]
        found.append(Flaky(grid.cell, identity, title, len(known), len(changes), len(flaky), seen, newest))
    return found


def whole_runs(ran: Sequence[Ran]) -> list[Ran]:
    """Those that were complete and had nearly all of the checks that there are."""
    complete = [one for one in ran if one.complete and one.results]
    most = max((one.results for one in complete[-RECENT:]), default=0)
    return [one for one in complete if one.results >= 0.9 * most]


def failing_in(grid: Grid, at: int, shown: bytes | None = None) -> list[Failing]:
    """What fails in the run at that place; shown is what to go by in place of its own column."""
    found = []
    width, joined = len(grid.tests), b"".join(grid.columns[: at + 1])
    for test, value in enumerate(grid.columns[at] if shown is None else shown):
        if not UNEXPECTED[value]:
            continue
        row = joined[test::width]
        kinds = row.translate(_KINDS)  # looked at with C's eyes: there are thousands where a runtime is broken
        good = kinds.rfind(_GOOD)
        identity, title = grid.tests[test]
        seen = seen_of(value)
        assert seen is not None
        first = grid.runs[kinds.index(_FAILS, good + 1)]
        before = seen_of(row[good]) if good >= 0 else None
        found.append(Failing(grid.cell, identity, title, seen, before, first, kinds.count(_FAILS, good + 1)))
    return found


_GOOD, _FAILS = b"G", b"F"
_KINDS = b"-" + bytes(
    (_FAILS if value < len(UNEXPECTED) and UNEXPECTED[value] else _GOOD)[0] for value in range(1, 256)
)


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""

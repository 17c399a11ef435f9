"""All runs of a reports directory as one small SQLite file: what each cell's checks showed, run by run.

    with History.open(reports / FILE, tell) as history:
        history.sync(reports, tell)             # what has come, changed or gone since
        history.newly_failing("20261126.1")

A verdict takes a row only where it changes (a span), however many runs there are; which checks a run had at all are
bits, which runs alike share. So a run of a few checks (`--only`), or one that was cut off, neither changes nor ends
what is known of the others.

All of it can be made again from the run directories and nights/ID/night.json, but for runs whose directories are gone:
those stay in the history, without a report to look at. Several processes may read and write at a time (WAL).

A run is of the cell and night that a night says, else of the cell that its own results.json tells and of night "". In a
cell runs are in the order of their numbers, as in labkit.store.runs, whatever the clock said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sqlite3
import statistics
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from typing import TypeAlias

from labkit.core.errors import LabError
from labkit.core.text import one_line
from labkit.results.json import from_json
from labkit.results.model import WHOLE, Run, Verdict, exit_status
from labkit.store import database, nights, runs
from labkit.store.database import errors
from labkit.store.spans import (
    BAD,
    FLAKY,
    UNEXPECTED,
    Seen,
    bits_of,
    decode,
    encode,
    has,
    seen_in,
    seen_of,
    urgency,
    value_of,
)  # fmt: skip

FILE = "history.sqlite"
_AT_A_TIME = 64  # runs in one transaction of sync()
_LARGEST = 512 << 20  # bytes of a file
_FOR_BOUND = 5  # earlier runs, without which a duration has no bound
_RECENT = 50  # runs of a cell that tell what is usual
_NIGHT = re.compile(r"[0-9]{8}\.([0-9]{1,9})")
_DIGITS = re.compile(r"([0-9]{1,18})")
_PATHS = re.compile(r"/(usr/)?s?bin/[^/]+")  # where packages put programs

Identity: TypeAlias = tuple[str, str, str]
Tell: TypeAlias = Callable[[str], None]


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
    """The key of the cell that a run belongs to, by what its results.json says.

    A program at a path where no package puts one is a runtime of its own; so is a runtime with arguments.
    """
    about = run.machine
    platform, release, provider = (_text(about.get(key)) for key in ("platform", "release", "provider"))
    place = f"{platform}-{release}" if platform and release else platform or "elsewhere"
    path, runtime, word = run.runtime.path, run.runtime.name, run.runtime.word
    if word and not word.startswith("/"):
        return f"{place}/{provider or 'recorded'}/{word}/{run.suite.name}"
    if path.startswith("/") and not _PATHS.fullmatch(path):
        runtime = path
    words = f"{runtime} {run.runtime.arguments}".strip()
    return f"{place}/{provider or 'recorded'}/{words}/{run.suite.name}"


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


def flaky_in(grid: Grid, last: int = _RECENT) -> list[Flaky]:
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


def _whole(ran: Sequence[Ran]) -> list[Ran]:
    """Those that were complete and had nearly all of the checks that there are."""
    complete = [one for one in ran if one.complete and one.results]
    most = max((one.results for one in complete[-_RECENT:]), default=0)
    return [one for one in complete if one.results >= 0.9 * most]


def _failing(grid: Grid, at: int, shown: bytes | None = None) -> list[Failing]:
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


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class _Column:
    """A run as it goes into the tables, but for its place."""

    name: str
    cell: str
    night: str
    run: Run
    stamp: str


class History:
    """The file, opened; a context manager. Whatever cannot be read or written is a LabError that names the file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._db = connection
        self._tests: dict[Identity, int] | None = None
        self._known: dict[int, tuple[Identity, str]] = {}
        self._last: dict[int, bytearray] = {}  # cell to the newest value of each test, in one transaction

    @classmethod
    def open(cls, path: Path, tell: Tell) -> History:
        """Open the file, which is made where it is missing. One that is damaged, or of an older labkit, is made anew,
        empty, and tell says so; LabError where it is of a newer one.

        Where the directory cannot be written, what is done stays in memory.
        """
        return cls(path, database.connect(path, tell))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what goes in

    def add(self, night: str, cell: str, run: Run, directory: Path | None = None) -> bool:
        """Add a run under its id, or bring what is there up to date; True where that changed something.

        cell is the key of its cell, "" to take what the run itself says; directory is where it is kept.
        """
        stamp = _stamp(directory / runs.RESULTS) if directory else ""
        with errors(self._path), self._writing():
            return (
                self._put([_Column(_storable(run.run.id), _storable(cell or key_of(run)), night, run, stamp or "")]) > 0
            )

    def sync(self, reports: Path, tell: Tell | None = None, without: str = "") -> Synced:
        """Read what has come or changed below reports since the last time: runs, and what nights say of them.

        A run whose results cannot be read is left out, and read again once it has changed. tell says how far it is;
        without is the id of a run that is being made.
        """
        with errors(self._path):
            return self._sync(reports, tell or (lambda text: None), without)

    def behind(self, reports: Path) -> int:
        """How many runs more there are below reports than in the history."""
        with errors(self._path):
            known = self._db.execute("SELECT count(*) FROM run WHERE NOT gone").fetchone()[0]
            unread = self._db.execute("SELECT count(*) FROM unread").fetchone()[0]
        return max(len(runs.ids(reports)) - int(known) - int(unread), 0)

    # --- questions

    def cells(self) -> list[str]:
        """The keys of all cells that have runs, in alphabetical order."""
        with errors(self._path):
            found = self._db.execute("SELECT key FROM cell WHERE id IN (SELECT cell FROM run) ORDER BY key")
            return [key for (key,) in found]

    def nights(self) -> list[Night]:
        """All nights, the oldest first; of one whose night.json is not there, what its runs tell: it is incomplete."""
        with errors(self._path):
            rows = self._db.execute("SELECT name, started, seconds, complete, status, runs, states FROM night")
            found = {
                name: Night(name, _time(at), seconds, bool(complete), status, json.loads(states), json.loads(ran))
                for name, at, seconds, complete, status, ran, states in rows
            }
            untold = self._db.execute(
                "SELECT night, key, run.name, started, started + seconds FROM run JOIN cell ON cell.id = run.cell"
                " WHERE night != '' AND night NOT IN (SELECT name FROM night) ORDER BY cell, seq"
            ).fetchall()
        more: dict[str, list[tuple[str, str, float, float]]] = defaultdict(list)
        for name, *ran in untold:
            more[name].append((ran[0], ran[1], ran[2], ran[3]))
        for name, ran_there in more.items():
            first = min(start for _, _, start, _ in ran_there)
            last = max(end for *_, end in ran_there)
            states = {cell: "done" for cell, *_ in ran_there}
            names = {cell: run for cell, run, *_ in ran_there}
            found[name] = Night(name, _time(first), last - first, False, None, states, names)
        return sorted(found.values(), key=lambda night: _of_nights(night.name))

    def runs(self, cell: str | None = None, night: str | None = None) -> list[Ran]:
        """The runs of a cell, of a night, or all; in a cell the oldest first."""
        with errors(self._path):
            return [ran for _, ran in self._runs(cell, night)]

    def run(self, name: str) -> Ran | None:
        """The run of that id; None where it is not in the history."""
        with errors(self._path):
            return next((ran for _, ran in self._runs(where="run.name = ?", values=(name,))), None)

    def shown(self, name: str) -> dict[Identity, Seen]:
        """What the run of that id showed, check by check; empty where it is not in the history."""
        with errors(self._path):
            found = self._db.execute(
                "SELECT test.program, test.name, test.reference, span.value, presence.bits, test.id FROM run"
                " JOIN presence ON presence.id = run.presence"
                " JOIN span ON span.cell = run.cell AND span.start <= run.seq"
                " JOIN test ON test.id = span.test WHERE run.name = ? ORDER BY span.test, span.start",
                (name,),
            )
            values = {
                (program, check, reference): value
                for program, check, reference, value, bits, test in found
                if has(zlib.decompress(bits), test)
            }
        return {identity: seen for identity, value in values.items() if (seen := seen_of(value))}

    def identities(self, word: str) -> list[tuple[Identity, str]]:
        """The checks that word names: by id, by program or by the program's assertion; with what they are about."""
        with errors(self._path):
            rows = self._db.execute(
                "SELECT program, name, reference, title FROM test WHERE name = ?1 OR program = ?1 OR title = ?1"
                " ORDER BY program, name, reference",
                (word,),
            )
            return [((program, name, reference), title) for program, name, reference, title in rows]

    def names(self) -> list[str]:
        """Every word that identities() takes: ids of checks and names of programs."""
        with errors(self._path):
            rows = self._db.execute(
                "SELECT name FROM test WHERE program = '' UNION SELECT program FROM test WHERE program != ''"
            )
            return sorted(name for (name,) in rows)

    def spans(self, cell: str, identity: Identity) -> list[Span]:
        """The history of one check in a cell: the runs in which it showed the same, the oldest first."""
        with errors(self._path):
            found = self._row(cell, identity)
        spans = []
        for value, group in groupby((pair for pair in found if pair[1]), key=lambda pair: pair[1]):
            of = [ran for ran, _ in group]
            if seen := seen_of(value):
                spans.append(Span(seen, of[0], of[-1], len(of)))
        return spans

    def since(self, cell: str, identity: Identity) -> Ran | None:
        """The run since which the check is bad, or good, as it is now; None where no run of the cell had it."""
        return since(self.spans(cell, identity))

    def grid(self, cell: str) -> Grid:
        """All of a cell; empty where it has no runs."""
        with errors(self._path):
            return self._grid(cell)

    def before(self, run: Run, wanted: Collection[Identity]) -> dict[Identity, list[tuple[Ran, Seen]]]:
        """What the runs before this one showed of these checks, the oldest first: those of the same suite and runtime,
        by its name, in the same place. Those of the same cell; of others what was before the first of these, such as
        other versions.
        """
        place, provider, _ = key_of(run).split("/", 2)
        cells = [key for key in self.cells() if key.startswith(f"{place}/{provider}/")]
        found: dict[Identity, list[tuple[Ran, Seen]]] = {}
        for cell in cells:
            if cell.rpartition("/")[2] != run.suite.name:
                continue
            grid = self.grid(cell)
            at = {identity: number for number, (identity, _) in enumerate(grid.tests) if identity in wanted}
            for ran, column in zip(grid.runs, grid.columns, strict=True):
                same = ran.facts.get("runtime", "").partition(" ")[0] == run.runtime.name
                if not at or not same or runs.order(ran.name) >= runs.order(run.run.id):
                    continue
                for identity, number in at.items():
                    seen = seen_of(column[number]) if number < len(column) else None
                    if seen:
                        found.setdefault(identity, []).append((ran, seen))
        own = key_of(run)
        for identity, several in found.items():
            several.sort(key=lambda one: runs.order(one[0].name))
            first = next((at for at, (ran, _) in enumerate(several) if ran.cell == own), len(several))
            found[identity] = [one for at, one in enumerate(several) if at < first or one[0].cell == own]
        return found

    def failing(self, night: str) -> list[Failing]:
        """What fails in a night's runs against the policy, by cell and check."""
        return [one for grid, at in self._of_night(night) for one in _failing(grid, at)]

    def failing_now(self, cell: str) -> list[Failing]:
        """The same for a cell as it is, whoever made its runs: what fails in the newest whole run, or in one after that
        which ran a part. since and streak count all runs.
        """
        grid = self.grid(cell)
        if not grid.runs:
            return []
        whole = {ran.name for ran in _whole(grid.runs)}
        shown = bytearray(len(grid.tests))
        for ran, column in zip(reversed(grid.runs), reversed(grid.columns), strict=True):
            shown = bytearray(newer or value for newer, value in zip(shown, column, strict=True))
            if ran.name in whole:
                break
        return _failing(grid, len(grid.runs) - 1, bytes(shown))

    def newly_failing(self, night: str) -> list[Failing]:
        """Those of failing() that began with this night."""
        return [one for one in self.failing(night) if one.streak == 1]

    def alerts(self, night: str, after: int) -> list[Failing]:
        """Those of failing() that did so in this and at least `after` nights in all, in a row."""
        return [one for one in self.failing(night) if one.streak >= after]

    def fixed(self, night: str) -> list[Fixed]:
        """What failed against the policy when a night ran it last, and in this night does not."""
        found = []
        for grid, at in self._of_night(night):
            for test, value in enumerate(grid.columns[at]):
                if not value or UNEXPECTED[value]:
                    continue
                before = next((column[test] for column in reversed(grid.columns[:at]) if column[test]), 0)
                if UNEXPECTED[before]:
                    identity, title = grid.tests[test]
                    seen, was = seen_of(value), seen_of(before)
                    assert seen is not None and was is not None
                    found.append(Fixed(grid.cell, identity, title, seen, was))
        return found

    def flaky(self, last: int = _RECENT, cell: str | None = None) -> list[Flaky]:
        """The checks that are flaky in the last runs of each cell, the worst first: those that changed between good and
        bad and back, and those of that verdict.
        """
        found = [one for key in ([cell] if cell else self.cells()) for one in flaky_in(self.grid(key), last)]
        return sorted(found, key=lambda one: (-(one.flips + one.flaky) / one.runs, one.cell, one.identity))

    def durations(self, cell: str, night: str | None = None) -> Durations:
        """How long the runs of a cell took: those that were complete and had nearly all of its checks; up to and with
        the one of a night, if that is named.
        """
        whole = _whole(self.runs(cell))
        if night is not None:
            at = next((number for number, ran in enumerate(whole) if ran.night == night), -1)
            whole = whole[: at + 1]
        earlier = [ran.seconds for ran in whole[:-1]][-_RECENT:]
        usual = statistics.median(earlier) if earlier else None
        return Durations(cell, tuple(whole), usual, outlier_bound(earlier))

    def slower(self, night: str) -> list[Durations]:
        """The cells whose run of that night took longer than their own history bears."""
        cells = sorted({ran.cell for ran in self.runs(night=night)})
        found = [self.durations(cell, night) for cell in cells]
        return [one for one in found if one.slower]

    def seconds_last(self, cell: str) -> float | None:
        """How long the newest whole run of a cell took; None where there is none."""
        whole = self.durations(cell).runs
        return whole[-1].seconds if whole else None

    def stale(self, now: datetime, hours: float) -> list[Stale]:
        """The cells of which the newest complete run of a night is older than so many hours."""
        newest: dict[str, Ran] = {}
        for ran in self.runs():
            if ran.night and ran.complete:
                newest[ran.cell] = ran
        ages = [Stale(cell, ran, now - ran.started) for cell, ran in sorted(newest.items())]
        return [one for one in ages if one.age > timedelta(hours=hours)]

    # --- within

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        self._tests, self._last = None, {}  # another process may have written
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._tests, self._last = None, {}

    def _sync(self, reports: Path, tell: Tell, without: str) -> Synced:
        of_night = self._sync_nights(reports)
        known = {
            name: (stamp, night, cell, gone)
            for name, stamp, night, cell, gone in self._db.execute(
                "SELECT run.name, stamp, night, key, gone FROM run JOIN cell ON cell.id = run.cell"
            )
        }
        unread = dict(self._db.execute("SELECT name, stamp FROM unread"))
        there = [name for name in runs.ids(reports) if name == _storable(name) and name != without]
        stamps = {name: stamp for name in there if (stamp := _stamp(f"{reports}/{name}/{runs.RESULTS}"))}
        wanted = []
        for name, stamp in stamps.items():
            night, cell = of_night.get(name, ("", ""))
            if name not in known:
                if unread.get(name) != stamp:
                    wanted.append(name)
            elif (stamp, night, 0) != (known[name][0], known[name][1], known[name][3]) or (
                cell and cell != known[name][2]
            ):
                wanted.append(name)
        added: list[str] = []
        changed: list[str] = []
        for start in range(0, len(wanted), _AT_A_TIME):
            some = wanted[start : start + _AT_A_TIME]
            if start:
                tell(f"history: {start} of {len(wanted)} runs read")
            columns, bad = [], []
            for name in some:
                night, cell = of_night.get(name, ("", ""))
                try:
                    run = _load(reports / name / runs.RESULTS)
                except LabError as error:
                    bad.append((name, stamps[name], one_line(error.message, 500)))
                    continue
                columns.append(_Column(name, _storable(cell or key_of(run)), night, run, stamps[name]))
            with self._writing():
                self._put(columns)
                self._db.executemany("INSERT OR REPLACE INTO unread VALUES (?, ?, ?)", bad)
                self._db.executemany("DELETE FROM unread WHERE name = ?", [(one.name,) for one in columns])
            for one in columns:
                (changed if one.name in known else added).append(one.name)
        gone = [name for name, (*_, was) in known.items() if name not in stamps and not was]
        lost = [name for name in unread if name not in stamps]
        if gone or lost:
            with self._writing():
                for name in gone:
                    [(cell, results)] = self._db.execute(
                        "SELECT key, results FROM run JOIN cell ON cell.id = run.cell WHERE name = ?", (name,)
                    )
                    if not results:  # labkit itself removes what turns out to be no run
                        self._edit(cell, [], remove=name)
                self._db.executemany("UPDATE run SET gone = 1 WHERE name = ?", [(name,) for name in gone])
                self._db.executemany("DELETE FROM unread WHERE name = ?", [(name,) for name in lost])
        left = self._db.execute("SELECT name, why FROM unread ORDER BY name").fetchall()
        return Synced(tuple(added), tuple(changed), tuple(gone), tuple(left))

    def _sync_nights(self, reports: Path) -> dict[str, tuple[str, str]]:
        """Read the nights that have changed; run to the night and cell that it is of."""
        known = dict(self._db.execute("SELECT name, stamp FROM night"))
        place = reports / nights.DIRECTORY
        names = [path.name for path in place.iterdir()] if place.is_dir() else []
        fresh = []
        for name in names:
            stamp = _stamp(place / name / nights.FILE)
            if stamp and stamp != known.get(name):
                row = _night(place / name / nights.FILE, name)
                if row:
                    fresh.append((*row, stamp))
        if fresh:
            with self._writing():
                self._db.executemany("INSERT OR REPLACE INTO night VALUES (?, ?, ?, ?, ?, ?, ?, ?)", fresh)
        found: dict[str, tuple[str, str]] = {}
        for night, ran in self._db.execute("SELECT name, runs FROM night"):
            found |= {run: (night, cell) for cell, run in json.loads(ran).items()}
        # What add() was told before the night's file was there, or though it is gone, holds.
        told = self._db.execute(
            "SELECT run.name, night, key FROM run JOIN cell ON cell.id = run.cell WHERE night != ''"
        )
        return {name: (night, cell) for name, night, cell in told} | found

    def _put(self, columns: Sequence[_Column]) -> int:
        """Add runs or replace them; how many of them changed anything."""
        edits: dict[str, list[_Column]] = defaultdict(list)
        count = 0
        for one in sorted(columns, key=lambda column: runs.order(column.name)):
            row = self._db.execute(
                "SELECT key, night, stamp, gone FROM run JOIN cell ON cell.id = run.cell WHERE name = ?", (one.name,)
            ).fetchone()
            if row and row == (one.cell, one.night, one.stamp, 0) and one.stamp:
                continue
            if row is None:
                newest = self._db.execute(
                    "SELECT name FROM run JOIN cell ON cell.id = run.cell WHERE key = ? ORDER BY seq DESC LIMIT 1",
                    (one.cell,),
                ).fetchone()
                if (newest is None or runs.order(newest[0]) < runs.order(one.name)) and not edits[one.cell]:
                    self._append(one)
                    count += 1
                    continue
            elif row[0] != one.cell:
                self._edit(row[0], [], remove=one.name)
            edits[one.cell].append(one)
            count += 1
        for cell, some in edits.items():
            if some:
                self._edit(cell, some)
        return count

    def _append(self, one: _Column) -> None:
        """Add the newest run of its cell."""
        cell = self._id("cell", "key", one.cell)
        seq = self._db.execute("SELECT count(*) FROM run WHERE cell = ?", (cell,)).fetchone()[0]
        column = self._column(one.run)
        if cell not in self._last:
            # The values beside max() are those of its row: https://sqlite.org/lang_select.html#bareagg
            spans = self._db.execute("SELECT test, max(start), value FROM span WHERE cell = ? GROUP BY test", (cell,))
            newest = {test: value for test, _, value in spans}
            self._last[cell] = bytearray(max(newest, default=-1) + 1)
            for test, value in newest.items():
                self._last[cell][test] = value
        last = self._last[cell]
        last.extend(bytes(max(len(column) - len(last), 0)))
        spans_now = []
        for test, (old, new) in enumerate(zip(last, column, strict=False)):
            if new and new != old:
                last[test] = new
                spans_now.append((cell, test, seq, new))
        self._db.executemany("INSERT INTO span VALUES (?, ?, ?, ?)", spans_now)
        self._row_of(one, cell, seq, column)

    def _edit(self, key: str, put: Sequence[_Column], remove: str | None = None) -> None:
        """Put runs into the middle of a cell, or in place of others of their names; or take one away."""
        cell = self._id("cell", "key", key)
        rows = self._db.execute(
            "SELECT name, bits FROM run JOIN presence ON presence.id = run.presence WHERE cell = ? ORDER BY seq",
            (cell,),
        ).fetchall()
        spans = self._db.execute("SELECT test, start, value FROM span WHERE cell = ?", (cell,))
        columns = decode(spans, [zlib.decompress(bits) for _, bits in rows])
        all_of = dict(zip((name for name, _ in rows), columns, strict=True))
        if remove:
            all_of.pop(remove, None)
            self._db.execute("DELETE FROM run WHERE name = ?", (remove,))
        fresh = {one.name: (one, self._column(one.run)) for one in put}
        all_of |= {name: column for name, (_, column) in fresh.items()}
        names = sorted(all_of, key=runs.order)
        self._db.execute("DELETE FROM span WHERE cell = ?", (cell,))
        made = ((cell, *span) for span in encode(all_of[name] for name in names))
        self._db.executemany("INSERT INTO span VALUES (?, ?, ?, ?)", made)
        self._db.executemany("UPDATE run SET seq = ? WHERE name = ?", [(seq, name) for seq, name in enumerate(names)])
        for seq, name in enumerate(names):
            if name in fresh:
                self._db.execute("DELETE FROM run WHERE name = ?", (name,))
                self._row_of(fresh[name][0], cell, seq, fresh[name][1])
        self._last.pop(cell, None)

    def _row_of(self, one: _Column, cell: int, seq: int, column: bytes) -> None:
        run = one.run
        about = {
            "kernel": _text(run.machine.get("kernel")),
            "cgroup": _text(run.machine.get("cgroup")),
            "runtime": f"{run.runtime.name} {run.runtime.version}".strip(),
            "suite": f"{run.suite.name} {run.suite.version}".strip(),
            "labkit": run.run.labkit,
        }
        fact = self._id("fact", "text", json.dumps(about, sort_keys=True))
        presence = self._id("presence", "bits", zlib.compress(bits_of(column)))
        # Sorting all of it would take the longest; what is not bad changes nothing, but that something was asserted.
        bad = [result for result in run.results if result.bad]
        shown = next((result for result in run.results if result.asserts), None)
        judged = (
            dataclasses.replace(run, results=(*bad, shown) if shown and shown not in bad else tuple(bad))
            if shown
            else run
        )
        worst = min(filter(None, set(column)), key=urgency, default=0)
        self._db.execute(
            "INSERT INTO run (name, cell, night, seq, started, seconds, complete, status, worst, results, unexpected,"
            " presence, fact, stamp, gone) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                one.name, cell, one.night, seq, run.run.started.timestamp(), run.run.seconds, run.run.complete,
                exit_status(judged), worst, len(run.results), len(judged.unexpected), presence, fact, one.stamp,
            ),
        )  # fmt: skip

    def _column(self, run: Run) -> bytes:
        """A run's results as bytes in the order of the tests' numbers; of several of one identity the worst."""
        values: dict[Identity, int] = {}
        titles: dict[Identity, str] = {}
        for result in run.results:
            program, name, reference = map(_storable, result.identity)
            identity, value = (program, name, reference), value_of(seen_in(result))
            if identity not in values or urgency(value) < urgency(values[identity]):
                values[identity] = value
            titles[identity] = "" if result.program else _storable(result.name)
        for ran in run.programs:  # nothing said about one as a whole: it is as it should be
            values.setdefault((_storable(ran.name), WHOLE, ""), value_of(Seen(Verdict.PASS)))
        if self._tests is None:
            rows = self._db.execute("SELECT program, name, reference, id FROM test")
            self._tests = {(program, name, reference): ident for program, name, reference, ident in rows}
        known = self._tests
        for identity in values:
            if identity not in known:
                known[identity] = len(known)
                row = (known[identity], *identity, titles.get(identity, ""))
                self._db.execute("INSERT INTO test VALUES (?, ?, ?, ?, ?)", row)
        column = bytearray(max((known[identity] for identity in values), default=-1) + 1)
        for identity, value in values.items():
            column[known[identity]] = value
        return bytes(column)

    def _id(self, table: str, column: str, value: str | bytes) -> int:
        """The number of a value in a table of values."""
        row = self._db.execute(f"SELECT id FROM {table} WHERE {column} = ?", (value,)).fetchone()
        if row is None:
            made = self._db.execute(f"INSERT INTO {table} ({column}) VALUES (?)", (value,))
            return int(made.lastrowid or 0)
        return int(row[0])

    def _runs(
        self, cell: str | None = None, night: str | None = None, where: str = "1", values: tuple[str, ...] = ()
    ) -> Iterator[tuple[bytes, Ran]]:
        """Runs with the bits of their checks."""
        facts = dict(self._db.execute("SELECT id, text FROM fact"))
        parsed = {ident: json.loads(text) for ident, text in facts.items()}
        present = {ident: zlib.decompress(bits) for ident, bits in self._db.execute("SELECT id, bits FROM presence")}
        for column, value in (("cell.key", cell), ("run.night", night)):
            if value is not None:
                where, values = f"{where} AND {column} = ?", (*values, value)
        rows = self._db.execute(
            "SELECT run.name, cell.key, night, started, seconds, complete, status, worst, results, unexpected, fact,"
            f" gone, presence FROM run JOIN cell ON cell.id = run.cell WHERE {where} ORDER BY cell.key, seq",
            values,
        )
        for name, key, of, at, took, complete, status, worst, results, unexpected, fact, gone, bits in rows:
            yield present[bits], Ran(
                name, key, of, _time(at), took, bool(complete), status, seen_of(worst), results, unexpected,
                parsed[fact], bool(gone),
            )  # fmt: skip

    def _row(self, cell: str, identity: Identity) -> list[tuple[Ran, int]]:
        """What each run of a cell showed of one check, 0 where it did not have it."""
        found = self._db.execute(
            "SELECT test.id, span.start, span.value FROM test JOIN span ON span.test = test.id"
            " JOIN cell ON cell.id = span.cell WHERE program = ? AND test.name = ? AND reference = ? AND cell.key = ?"
            " ORDER BY span.start",
            (*identity, cell),
        ).fetchall()
        if not found:
            return []
        test, starts = found[0][0], [start for _, start, _ in found]
        row = []
        for seq, (bits, ran) in enumerate(self._runs(cell)):
            at = bisect_left(starts, seq + 1) - 1
            row.append((ran, found[at][2] if at >= 0 and has(bits, test) else 0))
        return row

    def _grid(self, cell: str) -> Grid:
        ran = list(self._runs(cell))
        spans = self._db.execute(
            "SELECT test, start, value FROM span JOIN cell ON cell.id = span.cell WHERE key = ?",
            (cell,),
        ).fetchall()
        columns = decode(spans, [bits for bits, _ in ran])
        used = sorted({test for test, _, _ in spans})
        about = self._checks()
        if used != list(range(len(columns[0]) if columns else 0)):
            columns = [bytes(column[test] for test in used if test < len(column)) for column in columns]
        return Grid(cell, tuple(one for _, one in ran), tuple(about[test] for test in used), tuple(columns))

    def _checks(self) -> dict[int, tuple[Identity, str]]:
        """All checks by their numbers, which stay."""
        if len(self._known) != self._db.execute("SELECT count(*) FROM test").fetchone()[0]:
            self._known = {
                ident: ((program, name, reference), title)
                for ident, program, name, reference, title in self._db.execute("SELECT * FROM test")
            }
        return self._known

    def _of_night(self, night: str) -> Iterator[tuple[Grid, int]]:
        """The cells that a night ran, with the runs of nights alone, and which of them is the night's."""
        for cell in sorted({ran.cell for ran in self.runs(night=night)}):
            grid = self.grid(cell)
            made = [(ran, column) for ran, column in zip(grid.runs, grid.columns, strict=True) if ran.night]
            picked = Grid(cell, tuple(ran for ran, _ in made), grid.tests, tuple(column for _, column in made))
            yield picked, max(number for number, ran in enumerate(picked.runs) if ran.night == night)


def _time(stamp: float) -> datetime:
    try:
        return datetime.fromtimestamp(stamp, UTC)
    except (ValueError, OverflowError, OSError):  # the first or the last day that there is, in another time zone
        return datetime.fromtimestamp(0, UTC)


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """For sorting names with numbers in them: C-2 before C-10."""
    return tuple((int(part), "") if part.isascii() and part.isdecimal() else (-1, part) for part in _DIGITS.split(name))


def _of_nights(name: str) -> tuple[int, tuple[tuple[int, str], ...]]:
    """Where a night stands among others, by its name: by its number, whatever the clock said."""
    found = _NIGHT.fullmatch(name)
    return int(found[1]) if found else 0, natural(name)


def _storable(text: str) -> str:
    """The text without what SQLite cannot keep: half of a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _stamp(path: Path | str) -> str | None:
    """What tells whether a file has changed; None where there is none."""
    try:
        about = os.stat(path)  # noqa: PTH116  there may be ten thousand, and a Path takes longer than the system call
    except OSError:
        return None
    return f"{about.st_mtime_ns}.{about.st_size}"


def _load(path: Path) -> Run:
    try:
        if path.stat().st_size > _LARGEST:
            raise LabError(f"{path} is too large to be read")
        return from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error


def _night(path: Path, name: str) -> tuple[object, ...] | None:
    """A row of the table of nights; None where the file cannot be read or is none."""
    try:
        if path.stat().st_size > _LARGEST:
            return None
        document = json.loads(path.read_bytes())
        started = datetime.fromisoformat(document["started"])
        finished = datetime.fromisoformat(document.get("finished") or document["started"])
        cells = [cell for cell in document["cells"] if isinstance(cell["cell"], str)]
        states = {cell["cell"]: str(cell.get("state")) for cell in cells}
        ran = {cell["cell"]: cell["run"] for cell in cells if isinstance(cell.get("run"), str)}
        status = document.get("exit_status")
        return (
            name, started.timestamp(), max((finished - started).total_seconds(), 0.0),
            bool(document.get("complete")), status if type(status) is int else None,
            json.dumps(ran), json.dumps(states),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None

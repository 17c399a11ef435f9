"""All runs of a reports directory as one small SQLite file: what each cell's checks showed, run by run.

    with History.open(reports / FILE, tell) as history:
        history.sync(reports, tell)             # what has come, changed or gone since
        history.newly_failing("20261126.1")

A verdict takes a row only where it changes (a span), however many runs there are; which checks a run had at all are
bits, which runs alike share. So a run of a few checks (`--only`), or one that was cut off, neither changes nor ends
what is known of the others.

All of it can be made again from the run directories and nights/ID/night.json, but for runs whose directories are gone:
those stay in the history, without a report to look at. Several processes may read and write at a time (WAL).

A run is of the cell and night that a night says, else, where it is complete, of those that its own results.json tells.
In a cell runs are in the order of their numbers, as in labkit.store.runs, whatever the clock said.
"""

from __future__ import annotations

import json
import re
import sqlite3
import statistics
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

from labkit.results.model import Run
from labkit.store import database, runs
from labkit.store.database import errors
from labkit.store.past import (
    RECENT,
    Durations,
    Failing,
    Fixed,
    Flaky,
    Grid,
    Identity,
    Night,
    Ran,
    Span,
    Stale,
    Synced,
    failing_in,
    flaky_in,
    key_of,
    outlier_bound,
    since,
    whole_runs,
)
from labkit.store.spans import UNEXPECTED, Seen, decode, has, seen_of
from labkit.store.writing import Column, Tell, Writer, stamp_of, storable

FILE = "history.sqlite"
_NIGHT = re.compile(r"[0-9]{8}\.([0-9]{1,9})")
_DIGITS = re.compile(r"([0-9]{1,18})")


class History:
    """The file, opened; a context manager. Whatever cannot be read or written is a LabError that names the file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._db = connection
        self._writer = Writer(connection)
        self._known: dict[int, tuple[Identity, str]] = {}

    @classmethod
    def open(cls, path: Path, tell: Tell) -> History:
        """Open the file, which is made where it is missing. One that is damaged, or of an older labkit, is made anew,
        empty, and tell says so; LabError where it is of a newer one.

        Where the directory cannot be written, what is done stays in memory.
        """
        return cls(path, database.connect(path, tell))

    @classmethod
    def in_memory(cls) -> History:
        """One of its own, empty, which goes with the process."""
        return cls(Path(":memory:"), database.in_memory())

    @property
    def kept(self) -> bool:
        """Whether what is done goes to the file, and does not stay in memory."""
        return bool(self._db.execute("PRAGMA database_list").fetchone()[2])

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
        stamp = stamp_of(directory / runs.RESULTS) if directory else ""
        with errors(self._path), self._writer.transaction():
            return (
                self._writer.put([Column(storable(run.run.id), storable(cell or key_of(run)), night, run, stamp or "")])
                > 0
            )

    def sync(self, reports: Path, tell: Tell | None = None, without: str = "") -> Synced:
        """Read what has come or changed below reports since the last time: runs, and what nights say of them.

        A run whose results cannot be read is left out, and read again once it has changed. tell says how far it is;
        without is the id of a run that is being made.
        """
        with errors(self._path):
            return self._writer.sync(reports, tell or (lambda text: None), without)

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
        own = key_of(run)
        place, provider, _ = own.split("/", 2)
        cells = [key for key in self.cells() if key.startswith(f"{place}/{provider}/")]
        found: dict[Identity, list[tuple[Ran, Seen]]] = {}
        for cell in cells:
            if cell.rpartition("/")[2] != own.rpartition("/")[2]:
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
        for identity, several in found.items():
            several.sort(key=lambda one: runs.order(one[0].name))
            first = next((at for at, (ran, _) in enumerate(several) if ran.cell == own), len(several))
            found[identity] = [one for at, one in enumerate(several) if at < first or one[0].cell == own]
        return found

    def failing(self, night: str) -> list[Failing]:
        """What fails in a night's runs against the policy, by cell and check."""
        return [one for grid, at in self._of_night(night) for one in failing_in(grid, at)]

    def failing_now(self, cell: str) -> list[Failing]:
        """The same for a cell as it is, whoever made its runs: what fails in the newest whole run, or in one after that
        which ran a part. since and streak count all runs.
        """
        grid = self.grid(cell)
        if not grid.runs:
            return []
        whole = {ran.name for ran in whole_runs(grid.runs)}
        shown = bytearray(len(grid.tests))
        for ran, column in zip(reversed(grid.runs), reversed(grid.columns), strict=True):
            shown = bytearray(newer or value for newer, value in zip(shown, column, strict=True))
            if ran.name in whole:
                break
        return failing_in(grid, len(grid.runs) - 1, bytes(shown))

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

    def flaky(self, last: int = RECENT, cell: str | None = None) -> list[Flaky]:
        """The checks that are flaky in the last runs of each cell, the worst first: those that changed between good and
        bad and back, and those of that verdict.
        """
        found = [one for key in ([cell] if cell else self.cells()) for one in flaky_in(self.grid(key), last)]
        return sorted(found, key=lambda one: (-(one.flips + one.flaky) / one.runs, one.cell, one.identity))

    def durations(self, cell: str, night: str | None = None) -> Durations:
        """How long the runs of a cell took: those that were complete and had nearly all of its checks; up to and with
        the one of a night, if that is named.
        """
        whole = whole_runs(self.runs(cell))
        if night is not None:
            at = next((number for number, ran in enumerate(whole) if ran.night == night), -1)
            whole = whole[: at + 1]
        earlier = [ran.seconds for ran in whole[:-1]][-RECENT:]
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

"""What goes into the history: runs, put at the end of their cells or into the middle, and what nights say of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from labkit.core.errors import LabError
from labkit.core.text import one_line
from labkit.results.json import from_json
from labkit.results.model import WHOLE, Run, Verdict, exit_status
from labkit.store import nights, runs
from labkit.store.past import Identity, Synced, key_of, text_of
from labkit.store.spans import Seen, bits_of, decode, encode, seen_in, urgency, value_of

_AT_A_TIME = 64  # runs in one transaction of sync()
_LARGEST = 512 << 20  # bytes of a file

Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Column:
    """A run as it goes into the tables, but for its place."""

    name: str
    cell: str
    night: str
    run: Run
    stamp: str


class Writer:
    """Writes into the database. Errors of SQLite leave it as they are."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._tests: dict[Identity, int] | None = None
        self._last: dict[int, bytearray] = {}  # cell to the newest value of each test, in one transaction

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
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

    def sync(self, reports: Path, tell: Tell, without: str) -> Synced:
        """Bring in what has come or changed below reports but the run of that id, and mark what is gone."""
        of_night = self._sync_nights(reports)
        known = {
            name: (stamp, night, cell, gone)
            for name, stamp, night, cell, gone in self._db.execute(
                "SELECT run.name, stamp, night, key, gone FROM run JOIN cell ON cell.id = run.cell"
            )
        }
        unread = dict(self._db.execute("SELECT name, stamp FROM unread"))
        told = {name for (name,) in self._db.execute("SELECT name FROM night")}
        there = [name for name in runs.ids(reports) if name == storable(name) and name != without]
        stamps = {name: stamp for name in there if (stamp := stamp_of(f"{reports}/{name}/{runs.RESULTS}"))}
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
                said = text_of(run.machine.get("night"))
                if not night and said not in told and run.run.complete:  # night.json is gone, and this run is not
                    night = said
                columns.append(Column(name, storable(cell or key_of(run)), night, run, stamps[name]))
            with self.transaction():
                self.put(columns)
                self._db.executemany("INSERT OR REPLACE INTO unread VALUES (?, ?, ?)", bad)
                self._db.executemany("DELETE FROM unread WHERE name = ?", [(one.name,) for one in columns])
            for one in columns:
                (changed if one.name in known else added).append(one.name)
        gone = [name for name, (*_, was) in known.items() if name not in stamps and not was]
        lost = [name for name in unread if name not in stamps]
        if gone or lost:
            with self.transaction():
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
            stamp = stamp_of(place / name / nights.FILE)
            if stamp and stamp != known.get(name):
                row = _night(reports, name)
                if row:
                    fresh.append((*row, stamp))
        if fresh:
            with self.transaction():
                self._db.executemany("INSERT OR REPLACE INTO night VALUES (?, ?, ?, ?, ?, ?, ?, ?)", fresh)
        found: dict[str, tuple[str, str]] = {}
        for night, ran in self._db.execute("SELECT name, runs FROM night"):
            found |= {run: (night, cell) for cell, run in json.loads(ran).items()}
        # Of a night whose file was never read, what add() was told holds. Any other file is the night's last word: a
        # run that it named once, and names no more, is one of an attempt that was tried again.
        told = self._db.execute(
            "SELECT run.name, night, key FROM run JOIN cell ON cell.id = run.cell"
            " WHERE night != '' AND night NOT IN (SELECT name FROM night)"
        )
        return {name: (night, cell) for name, night, cell in told} | found

    def put(self, columns: Sequence[Column]) -> int:
        """Add runs or replace them; how many of them changed anything."""
        edits: dict[str, list[Column]] = defaultdict(list)
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

    def _append(self, one: Column) -> None:
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

    def _edit(self, key: str, put: Sequence[Column], remove: str | None = None) -> None:
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

    def _row_of(self, one: Column, cell: int, seq: int, column: bytes) -> None:
        run = one.run
        about = {
            "kernel": text_of(run.machine.get("kernel")),
            "cgroup": text_of(run.machine.get("cgroup")),
            "runtime": f"{run.runtime.name} {run.runtime.version}".strip(),
            "suite": f"{run.suite.name} {run.suite.version}".strip(),
            **({"engine": run.engine.title} if run.engine else {}),
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
            program, name, reference = map(storable, result.identity)
            identity, value = (program, name, reference), value_of(seen_in(result))
            if identity not in values or urgency(value) < urgency(values[identity]):
                values[identity] = value
            titles[identity] = "" if result.program else storable(result.name)
        for ran in run.programs:  # nothing said about one as a whole: it is as it should be
            values.setdefault((storable(ran.name), WHOLE, ""), value_of(Seen(Verdict.PASS)))
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


def storable(text: str) -> str:
    """The text without what SQLite cannot keep: half of a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def stamp_of(path: Path | str) -> str | None:
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


def _night(reports: Path, name: str) -> tuple[object, ...] | None:
    """A row of the table of nights; None where its file cannot be read, is none, or is of a newer labkit."""
    night = nights.known(reports, name)
    if night is None:
        return None
    states = {cell.cell: cell.state for cell in night.cells}
    ran = {cell.cell: cell.run for cell in night.cells if cell.run}
    return (
        name, night.started.timestamp(), max((night.ended - night.started).total_seconds(), 0.0), night.complete,
        night.exit_status, json.dumps(ran), json.dumps(states),
    )  # fmt: skip

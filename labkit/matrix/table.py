"""The cells of one night, in SQLite: the only place where they are held. Whatever dies, the next one reads on here.

    waiting ──begin──> running ──ended──> done          a run is at home
       ^                  │             > lab-error     no attempt can do better
       └──────────────────┘             > quarantined   three attempts failed
                                        > not-run       the night ended before it had its turn

An attempt that failed through the lab counts for quarantine; one that was stopped, or lost with the night's own
process, does not. Attempts are numbered on, so that no run has the name of another.
"""

from __future__ import annotations

import contextlib
import enum
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from labkit.core.cell import Cell, Selection
from labkit.core.errors import HostError, UsageError
from labkit.io.files import disk_errors, make_directory, no_space
from labkit.matrix.job import Ended, Outcome
from labkit.matrix.plan import Planned

SCHEMA = 1
TRIES = 3  # attempts that may fail through the lab
_BUSY = 30.0  # seconds that another process may hold the database

_TABLES = """
CREATE TABLE night (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cells (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, cell TEXT NOT NULL, mib INTEGER NOT NULL,
    cpus INTEGER NOT NULL, cap REAL NOT NULL, usual REAL, state TEXT NOT NULL, run TEXT, status INTEGER,
    seconds REAL NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT ''
);
CREATE TABLE attempts (
    cell INTEGER NOT NULL, number INTEGER NOT NULL, host TEXT NOT NULL, started TEXT NOT NULL, seconds REAL,
    outcome TEXT, error TEXT NOT NULL DEFAULT '', blamed INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (cell, number)
) WITHOUT ROWID;
"""


class State(enum.StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    LAB_ERROR = "lab-error"
    QUARANTINED = "quarantined"
    NOT_RUN = "not-run"


@dataclass(frozen=True, slots=True)
class Attempt:
    """outcome is None while it runs. started: in ISO 8601, by the clock of then."""

    number: int
    host: str
    started: str
    seconds: float
    outcome: Outcome | None
    error: str


@dataclass(frozen=True, slots=True)
class Row:
    """A cell of the night as it stands. run is the id of its run, "" where it has none; failures: how many attempts the
    lab failed.
    """

    number: int
    planned: Planned
    state: State
    run: str
    status: int | None
    seconds: float
    error: str
    failures: int
    attempts: tuple[Attempt, ...]

    @property
    def key(self) -> str:
        return self.planned.key


class NightTable:
    """A context manager. Every change is on disk when its method returns, and whole whenever labkit is killed."""

    def __init__(self, path: Path) -> None:
        """Open the table that is there. HostError where it is damaged, UsageError where a newer labkit wrote it."""
        self.path = path
        self._db = _connected(path)
        with self._errors():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA:
            self._db.close()
            raise UsageError(
                f"{path} is of schema {version}, this labkit knows {SCHEMA}",
                hint="go on with the labkit that began this night, or begin another without --resume",
            )

    @classmethod
    def make(cls, path: Path, about: dict[str, str], cells: Sequence[Planned]) -> NightTable:
        """A new table with these cells, all waiting; one that cannot exist is a lab error at once. It is there
        whole, or not at all.
        """
        make_directory(path.parent)
        making = path.with_name(f"{path.name}.making")
        for left in path.parent.glob(f"{making.name}*"):  # of a labkit that was killed here
            left.unlink()
        new = contextlib.closing(_connected(making, new=True))
        with disk_errors(path.parent), new as db, _mapped(path), db:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA};")
            db.executemany("INSERT INTO night VALUES (?, ?)", about.items())
            db.executemany(
                "INSERT INTO cells (number, key, cell, mib, cpus, cap, usual, state, error) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        number, one.key, json.dumps(asdict(one.cell)), one.mib, one.cpus, one.limit, one.seconds,
                        State.LAB_ERROR if one.problem else State.WAITING, one.problem,
                    )
                    for number, one in enumerate(cells, 1)
                ),
            )  # fmt: skip
        with disk_errors(path.parent):
            making.replace(path)
        return cls(path)

    def about(self, key: str) -> str:
        """What the night says of itself under this key, "" where it says nothing."""
        with self._errors():
            found = self._db.execute("SELECT value FROM night WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else ""

    def note(self, **values: str) -> None:
        """Have the night say this of itself."""
        with self._errors(), self._db:
            self._db.executemany("INSERT OR REPLACE INTO night VALUES (?, ?)", values.items())

    def begin(self, number: int, host: str) -> int:
        """A cell begins to run there; the number of the attempt."""
        with self._errors(), self._db:
            last = self._db.execute("SELECT max(number) FROM attempts WHERE cell = ?", (number,)).fetchone()[0]
            attempt = (last or 0) + 1
            self._db.execute(
                "INSERT INTO attempts (cell, number, host, started) VALUES (?, ?, ?, ?)", (number, attempt, host, now())
            )
            self._db.execute("UPDATE cells SET state = ? WHERE number = ?", (State.RUNNING, number))
        return attempt

    def ended(self, number: int, attempt: int, ended: Ended, run: str = "", *, blamed: bool = True) -> State:
        """An attempt has ended; run is the run of it that is at home. blamed: whether it counts where it failed. The
        state of the cell then is returned. An attempt that is no longer running changes nothing.
        """
        failed = ended.outcome is not Outcome.DONE
        with self._errors(), self._db:
            changed = self._db.execute(
                "UPDATE attempts SET seconds = ?, outcome = ?, error = ?, blamed = ? "
                "WHERE cell = ? AND number = ? AND outcome IS NULL",
                (ended.seconds, ended.outcome, ended.error, int(failed and blamed), number, attempt),
            ).rowcount
            if changed:
                failures = self._failures(number)
                state = State.DONE
                if failed and not ended.again:
                    state = State.LAB_ERROR
                elif failed:
                    state = State.QUARANTINED if failures >= TRIES else State.WAITING
                elif ended.status == 4 and ended.again and attempt == 1:
                    state = State.WAITING  # what ended it early may have been passing
                self._db.execute(
                    "UPDATE cells SET state = ?, seconds = ?, error = ?, run = coalesce(nullif(?, ''), run), "
                    "status = CASE WHEN ? THEN status ELSE ? END WHERE number = ?",
                    (state, ended.seconds, ended.error, run, failed, ended.status, number),
                )
            found = self._db.execute("SELECT state FROM cells WHERE number = ?", (number,)).fetchone()
        return State(found[0])

    def is_running(self, number: int, attempt: int) -> bool:
        """Whether nobody has said yet how the attempt ended."""
        with self._errors():
            found = self._db.execute(
                "SELECT 1 FROM attempts WHERE cell = ? AND number = ? AND outcome IS NULL", (number, attempt)
            ).fetchone()
        return found is not None

    def _failures(self, number: int) -> int:
        found = self._db.execute("SELECT coalesce(sum(blamed), 0) FROM attempts WHERE cell = ?", (number,)).fetchone()
        return int(found[0])

    def close_waiting(self) -> None:
        """The night is over: what has no run and waits had no turn; what has one, though incomplete, is done."""
        with self._errors(), self._db:
            self._db.execute("UPDATE cells SET state = ? WHERE state = ? AND run IS NOT NULL", (State.DONE, "waiting"))
            self._db.execute("UPDATE cells SET state = ? WHERE state = ?", (State.NOT_RUN, State.WAITING))

    def rows(self, *states: State) -> list[Row]:
        """The cells, in the order of the plan; those in one of the states, or all."""
        wanted = f"WHERE state IN ({','.join('?' * len(states))})" if states else ""
        with self._errors():
            cells = self._db.execute(
                f"SELECT number, cell, mib, cpus, cap, usual, state, run, status, seconds, error FROM cells {wanted} "
                "ORDER BY number",
                states,
            ).fetchall()
            attempts: dict[int, list[Attempt]] = {}
            blamed: dict[int, int] = {}
            for cell, number, host, started, seconds, outcome, error, blame in self._db.execute(
                "SELECT cell, number, host, started, seconds, outcome, error, blamed FROM attempts "
                "ORDER BY cell, number"
            ):
                one = Attempt(number, host, started, seconds or 0.0, Outcome(outcome) if outcome else None, error)
                attempts.setdefault(cell, []).append(one)
                blamed[cell] = blamed.get(cell, 0) + blame
        return [
            Row(
                number,
                Planned(_cell(text), mib, cpus, cap, usual, error if state == State.LAB_ERROR else ""),
                State(state),
                run or "",
                status,
                seconds,
                error,
                blamed.get(number, 0),
                tuple(attempts.get(number, ())),
            )
            for number, text, mib, cpus, cap, usual, state, run, status, seconds, error in cells
        ]

    def count(self) -> dict[State, int]:
        with self._errors():
            found = dict(self._db.execute("SELECT state, count(*) FROM cells GROUP BY state").fetchall())
        return {state: found.get(state.value, 0) for state in State}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        with _mapped(self.path):
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _connected(path: Path, *, new: bool = False) -> sqlite3.Connection:
    with _mapped(path):
        db = sqlite3.connect(f"file:{_quoted(path)}?mode={'rwc' if new else 'rw'}", uri=True, timeout=_BUSY)
        try:
            # Not a journal that is written twice; what the last moment before a power cut brought is in the outboxes.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            db.close()
            raise
        return db


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """sqlite3's errors as labkit's."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith("SQLITE_FULL"):
            raise no_space(path) from error
        raise HostError(
            f"the table of the night, {path}, cannot be used: {error}",
            hint="if the file is damaged, begin another night without --resume; its runs are in the reports",
        ) from error


def _cell(text: str) -> Cell:
    values = json.loads(text)
    selection: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in values.pop("selection").items()
    }
    return Cell(**values, selection=Selection(**selection))

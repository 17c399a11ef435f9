"""The SQLite file that labkit.store.history is kept in: opened, made, made again."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from labkit.core.errors import HostError, InfrastructureError, LabError
from labkit.core.text import one_line
from labkit.io.files import locked, make_directory, no_space

SCHEMA = 1
_APPLICATION = 0x6C61626B  # "labk", for file(1) and whoever else finds the file
_BUSY = 30.0  # seconds that another process may take to write

Tell: TypeAlias = Callable[[str], None]

_TABLES = """
CREATE TABLE cell (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE test (id INTEGER PRIMARY KEY, program TEXT NOT NULL, name TEXT NOT NULL, reference TEXT NOT NULL,
                   title TEXT NOT NULL, UNIQUE (program, name, reference));
CREATE TABLE fact (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE presence (id INTEGER PRIMARY KEY, bits BLOB NOT NULL UNIQUE);
CREATE TABLE run (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, cell INTEGER NOT NULL, night TEXT NOT NULL,
                  seq INTEGER NOT NULL, started REAL NOT NULL, seconds REAL NOT NULL, complete INTEGER NOT NULL,
                  status INTEGER NOT NULL, worst INTEGER NOT NULL, results INTEGER NOT NULL,
                  unexpected INTEGER NOT NULL, presence INTEGER NOT NULL, fact INTEGER NOT NULL,
                  stamp TEXT NOT NULL, gone INTEGER NOT NULL);
CREATE INDEX run_cell ON run (cell, seq);
CREATE INDEX run_night ON run (night);
CREATE TABLE span (cell INTEGER NOT NULL, test INTEGER NOT NULL, start INTEGER NOT NULL, value INTEGER NOT NULL,
                   PRIMARY KEY (cell, test, start)) WITHOUT ROWID;
CREATE TABLE night (name TEXT PRIMARY KEY, started REAL NOT NULL, seconds REAL NOT NULL, complete INTEGER NOT NULL,
                    status INTEGER, runs TEXT NOT NULL, states TEXT NOT NULL, stamp TEXT NOT NULL);
CREATE TABLE unread (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, why TEXT NOT NULL);
"""


class _Damaged(Exception):
    pass


def connect(path: Path, tell: Tell) -> sqlite3.Connection:
    """Open the file, which is made where it is missing. One that is damaged, or of an older labkit, is made anew,
    empty, and tell says so; LabError where it is of a newer one.

    Where its directory cannot be written, what is done stays in memory.
    """
    with errors(path):
        try:
            make_directory(path.parent)
            return _whole(path, tell)
        except HostError:
            return _in_memory(path)
        except sqlite3.OperationalError as error:
            if _unwritable(error, path):
                return _in_memory(path)
            raise


def _whole(path: Path, tell: Tell) -> sqlite3.Connection:
    with contextlib.suppress(_Damaged):
        return _checked(path)
    with locked(path.with_name(f".{path.name}.lock"), timeout=60.0, waiting=tell, what=str(path)):
        try:
            return _checked(path)  # another process may have made it anew
        except _Damaged as error:
            tell(f"{path} {error}: it is made again from the runs")
            for end in ("-wal", "-shm", ""):
                path.with_name(path.name + end).unlink(missing_ok=True)
            return _checked(path)


def _checked(path: Path) -> sqlite3.Connection:
    """The database, once it is one of ours that is whole, or new."""
    database = _opened(path)
    try:
        with contextlib.suppress(sqlite3.OperationalError):  # file systems without shared memory: as it is, then
            database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA trusted_schema = OFF")
        _prepare(path, database)
    except sqlite3.DatabaseError as error:
        database.close()
        if isinstance(error, sqlite3.OperationalError):  # locked, full, not to be read: no damage
            raise
        raise _Damaged(f"is damaged ({error})") from error
    except BaseException:
        database.close()
        raise
    return database


def _opened(path: Path) -> sqlite3.Connection:
    hint = "move it away: labkit keeps the history of the runs there"
    with contextlib.suppress(FileNotFoundError):
        about, place = path.lstat(), path.parent.stat()
        if not stat.S_ISREG(about.st_mode):  # a link of somebody else's, say, to a file of ours
            raise LabError(f"{path} is no file", hint=hint)
        if about.st_uid not in (os.geteuid(), place.st_uid, 0):
            raise LabError(f"{path} belongs to another user", hint=hint)
    return sqlite3.connect(path, timeout=_BUSY, isolation_level=None)


def _prepare(path: Path, database: sqlite3.Connection) -> None:
    """Make the tables where there are none. _Damaged where what is there is not whole, or of an older labkit."""
    application, version = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if not application and not version and not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        database.execute("BEGIN IMMEDIATE")
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
        database.execute("COMMIT")
        return
    if application != _APPLICATION:
        raise LabError(f"{path} is a database, but none of labkit's", hint="move it away")
    if version > SCHEMA:
        raise LabError(
            f"{path} is of a newer labkit: version {version}, this one knows {SCHEMA}",
            hint="use that labkit; or remove the file, and it is made again from the runs",
        )
    if version < SCHEMA:
        raise _Damaged("is of an older labkit")
    [[found]] = database.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise _Damaged(f"is damaged ({one_line(str(found), 200)})")


def _in_memory(path: Path) -> sqlite3.Connection:
    """What is in the file, as far as it can be read, in memory."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    with contextlib.suppress(sqlite3.Error, _Damaged):
        address = f"{path.absolute().as_uri()}?immutable=1"
        given = sqlite3.connect(address, uri=True)
        with contextlib.closing(given):
            if given.execute("PRAGMA user_version").fetchone()[0]:
                _prepare(path, given)
                given.backup(database)
                return database
    database.close()
    return in_memory()


def in_memory() -> sqlite3.Connection:
    """An empty one that goes with the process."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    _prepare(Path(":memory:"), database)
    return database


def _unwritable(error: sqlite3.OperationalError, path: Path) -> bool:
    kinds = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_FULL", "SQLITE_IOERR")
    return error.sqlite_errorname.startswith(kinds) or not os.access(path.parent, os.W_OK)


class errors:
    """Turns SQLite's errors into ours; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, sqlite3.Error):
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith("SQLITE_FULL"):
                raise no_space(self._path.parent) from error
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise InfrastructureError(
                    f"another process has been writing {self._path} for more than {_BUSY:.0f} s", hint="try again"
                ) from error
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise InfrastructureError(
                    f"{self._path} is damaged: {error}", hint="the next command makes it again from the runs"
                ) from error
            if not isinstance(error, sqlite3.ProgrammingError):
                raise HostError(f"{self._path} cannot be read or written: {error}") from error

"""Files that are whole or absent: written aside, flushed, then renamed; and locks between labkit processes.

Others may write in the directory too (reports in /tmp): a name that somebody has planted there is never followed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shlex
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from labkit.core.deadline import Deadline
from labkit.core.errors import HostError, InfrastructureError
from labkit.core.text import one_line

_ELSEWHERE = (
    "choose other directories with `home` and `reports` in labkit.toml, LABKIT_HOME and LABKIT_REPORTS, or --out"
)

_REFUSALS = {
    errno.EACCES, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip


_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}  # file systems, and directories, that refuse it
_COPY = 64 << 20  # bytes at a time, between which Ctrl-C is heard
_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_PART = re.compile(r"\..+\.([0-9]{1,10})(-[0-9a-f]{16})?\.part")  # labkit 0.1.0 had no digits after the pid
_unfinished: set[Path] = set()


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Put data at path; a reader, or the next command after a crash, sees the old content or the new.

    durable: also after a power cut, once this has returned.
    """
    with aside(path, mode=mode, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def aside(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[IO[bytes]]:
    """A new file beside path, of a name that nobody can foresee; it becomes path once the block has ended well.

    What killed processes left of such files in the directory is removed on the way.
    """
    sweep(path.parent)
    with unfinished(path) as part:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "w+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # see sweep()
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            part.rename(path)
        if durable:
            sync_directory(path.parent)


def remembered(directory: Path, kind: str, subject: str, find: Callable[[], str | None]) -> str | None:
    """Why something does not work on this host, None where it does: found out once for what subject says, until the
    host's next boot, and then kept in directory.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = hashlib.sha256(f"{platform.release()} {boot} {subject}".encode()).hexdigest()[:16]
    memory = directory / f"{kind}-{key}.json"
    try:
        answer = json.loads(memory.read_text())["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        make_directory(directory)
        answer = find()
        with contextlib.suppress(OSError):  # on a full disk it is asked again
            write_atomic(memory, json.dumps({"reason": answer}))
    return str(answer) if answer is not None else None


def digest_once(directory: Path, path: Path) -> str:
    """The SHA-256 of a large file that stays as it is: kept in directory by the file's place, size and time."""
    about = path.stat()
    key = f"{path.resolve()} {about.st_size} {about.st_ino} {about.st_mtime_ns}"
    memory = directory / f"sha256-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    with contextlib.suppress(OSError):
        if re.fullmatch("[0-9a-f]{64}", kept := memory.read_text().strip()):
            return kept
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError, HostError):
        write_atomic(make_directory(directory) / memory.name, found, durable=False)
    return found


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name beside path, that nobody can foresee, for what is not finished yet. The block makes a file, a directory or
    a link of it and renames it to path; what still has that name afterwards is removed, at the end of the process at
    the latest, as a second Ctrl-C may come while it is removed.
    """
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(8)}.part")
    _unfinished.add(part)
    try:
        yield part
    finally:
        _remove(part)
        _unfinished.discard(part)


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
            for place, directories, _ in os.walk(part):  # what is left of it may be read-only
                for name in directories:
                    if not (path := Path(place, name)).is_symlink():
                        path.chmod(0o700)
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


@atexit.register
def _remove_unfinished() -> None:
    mark = f".{os.getpid()}-"  # and not those of the process that this one was forked from
    for part in list(_unfinished):
        if mark in part.name:
            _remove(part)


def sweep(directory: Path) -> None:
    """Remove the part files and directories that dead processes of this user left in the directory."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if is_left_over(entry.name):
                with contextlib.suppress(OSError):
                    _sweep_part(Path(entry.path))


def is_left_over(name: str) -> bool:
    """Whether it is the name of something unfinished whose process is dead."""
    found = _PART.fullmatch(name)
    return found is not None and not _runs(int(found[1]))


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _sweep_part(part: Path) -> None:
    about = part.lstat()
    if about.st_uid != os.geteuid():
        return
    if stat.S_ISDIR(about.st_mode):
        shutil.rmtree(part)
    elif stat.S_ISLNK(about.st_mode):
        part.unlink()
    elif stat.S_ISREG(about.st_mode):
        # A process of another container, whose pid means nothing here, holds what it still writes.
        fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
        finally:
            os.close(fd)


def copy(source: Path, target: Path) -> None:
    """Put a copy of source at target in one step; it shares its blocks where the file system can."""
    with source.open("rb") as given, aside(target, durable=False) as file:
        try:
            while os.copy_file_range(given.fileno(), file.fileno(), _COPY):
                pass
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            shutil.copyfileobj(given, file, 1 << 20)


def regular_inside(directory: Path, name: str) -> Path | None:
    """Where the regular file of that name in the directory really is, links followed; None where there is none, or a
    link leads out of the directory.
    """
    try:
        real = (directory / name).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a ring of links, before Python 3.13
        return None
    return real if real.is_file() and real.is_relative_to(directory.resolve()) else None


def sync_directory(directory: Path) -> None:
    """Have the names in the directory on disk."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def make_directory(path: Path, *, mode: int = 0o755) -> Path:
    """Make a directory, and those above it that are missing: none that others can write to, whatever the umask."""
    with disk_errors(path):
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir(mode=0o755, exist_ok=True)
        path.mkdir(mode=mode, exist_ok=True)
    return path


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn errors of the disk (full, read-only, no permission) into a HostError that names the directory."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(where) from error
        if error.errno in _REFUSALS:
            raise HostError(
                f"cannot write in {where}: {error.strerror}",
                hint=_ELSEWHERE,
            ) from error
        raise


def no_space(where: Path) -> HostError:
    return HostError(
        f"no space left on the disk that holds {where}",
        hint=f"free some, or {_ELSEWHERE}",
    )


def require_space(where: Path, mib: int) -> None:
    """HostError unless mib mebibytes are free on the disk of the directory."""
    free = shutil.disk_usage(where).free >> 20
    if free < mib:
        raise HostError(
            f"{where} has {free} MiB free; this needs {mib} MiB",
            hint=f"free some, or {_ELSEWHERE}",
        )


_PATIENCE = 0.2  # seconds that a command waits before it says so
_REMIND_EVERY = 30.0  # seconds between two lines of a command that waits


@contextlib.contextmanager
def locked(path: Path, *, timeout: float, waiting: Callable[[str], None], what: str) -> Iterator[None]:
    """Hold the lock file at path for as long as the context lasts; InfrastructureError after timeout seconds.

    While another process has it, waiting(text) is called every half a minute: text says who has held `what` since when,
    as the holder has written it into PATH.holder. The kernel drops the lock with its holder, however that ended; a
    holder's file that is missing, damaged or of a process that is gone makes the text vaguer, nothing else.
    """
    make_directory(path.parent)
    deadline = Deadline.after(timeout)
    holder = path.with_suffix(".holder")
    pause = _PATIENCE
    with _Lock(path) as lock:
        while not Deadline.after(min(pause, deadline.left)).poll(lock.taken, every=0.05):
            who = _Holder.read(holder)
            if deadline.passed and pause != _PATIENCE:
                raise InfrastructureError(
                    f"{_holds(who, what)}; gave up after waiting {timeout:g} s", hint="wait, or end that process"
                )
            waiting(f"waiting for {_holds(who, what, ', which')}")  # also where the host was too busy to say so in time
            pause = _REMIND_EVERY
        with _told(holder):
            yield


class _Lock:
    """An flock(2) on the file at a path; a context manager that lets go of it. Who holds it may unlink the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = self._open()

    def _open(self) -> int:
        with disk_errors(self._path.parent):
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)

    def taken(self) -> bool:
        """Whether this process has it now."""
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._fd), self._path.lstat()):
                    return True
            os.close(self._fd)  # that file has gone with who held it
            self._fd = self._open()

    def __enter__(self) -> _Lock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def _told(holder: Path) -> Iterator[None]:
    """Say in a file who holds a lock."""
    _Holder.write(holder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)


@contextlib.contextmanager
def attempted(path: Path, what: str) -> Iterator[str | None]:
    """Hold the lock file at path for as long as the context lasts, and give None; where another process has it, hold
    nothing and give who has held `what` since when.
    """
    make_directory(path.parent)
    holder = path.with_suffix(".holder")
    with _Lock(path) as lock:
        if not lock.taken():
            yield _holds(_Holder.read(holder), what)
            return
        with _told(holder):
            yield None


def usage(path: Path) -> int:
    """How many bytes a file takes on its disk, or a directory with all below it; what goes meanwhile counts nothing."""
    total = 0
    with contextlib.suppress(OSError):
        total = path.lstat().st_blocks * 512
        if path.is_dir() and not path.is_symlink():
            total += sum(usage(inner) for inner in path.iterdir())
    return total


@dataclass(frozen=True, slots=True)
class _Holder:
    """Which process holds a lock: its command as it was typed, without what follows `--`.

    since is Unix time, to be shown; at is time.monotonic(), which all processes share until the host boots again.
    """

    pid: int
    command: str
    since: float
    at: float

    @staticmethod
    def write(path: Path) -> None:
        program, *words = sys.argv or [""]
        name = "./lab" if Path(program).name == "__main__.py" else Path(program).name
        words = words[: words.index("--")] if "--" in words else words
        with contextlib.suppress(OSError, ValueError):  # nothing but a message depends on it
            about = {"pid": os.getpid(), "command": [name, *words], "since": time.time(), "at": time.monotonic()}
            write_atomic(path, json.dumps(about), mode=0o600, durable=False)

    @classmethod
    def read(cls, path: Path) -> _Holder | None:
        """None where the file does not tell, or tells of a process that is not there any more."""
        try:
            match json.loads(_beginning(path)):
                case {
                    "pid": int(pid),
                    "command": [*words],
                    "since": int() | float() as since,
                    "at": int() | float() as at,
                } if pid > 0 and math.isfinite(at):
                    time.localtime(since)  # raises for what is no time
                    holder = cls(pid, one_line(shlex.join(map(str, words)), 200), since, at)
                case _:
                    return None
        except (OSError, ValueError, OverflowError, RecursionError):
            return None
        return holder if _runs(holder.pid) else None


def _beginning(path: Path) -> bytes:
    """The first bytes of a small file, whatever else may be there under its name."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def _holds(holder: _Holder | None, what: str, which: str = "") -> str:
    if holder is None:
        return f"another labkit process{which} holds {what}"
    seconds = int(time.monotonic() - holder.at)
    since = time.strftime("%H:%M:%S" if seconds < 43200 else "%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
    return f"process {holder.pid} (`{holder.command}`){which} has held {what} since {since}{_ago(seconds)}"


def _ago(seconds: int) -> str:
    """How long ago that was, in round figures; nothing where it cannot be."""
    if seconds < 0:
        return ""
    if seconds < 60:
        return f" ({seconds} s)"
    return f" ({seconds // 60} min)" if seconds < 3600 else f" ({seconds // 3600} h {seconds % 3600 // 60} min)"


class through:
    """A short path to a directory: a unix socket's path may have 107 bytes, which a lab's directory easily exceeds."""

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

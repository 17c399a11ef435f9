"""Files that are whole or absent: written aside, flushed, then renamed; and locks between labkit processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from labkit.core.deadline import Deadline
from labkit.core.errors import HostError, InfrastructureError
from labkit.core.text import one_line

_ELSEWHERE = (
    "choose other directories with `home` and `reports` in labkit.toml, LABKIT_HOME and LABKIT_REPORTS, or --out"
)

_REFUSALS = {
    errno.EACCES, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR,
    errno.EPERM, errno.EROFS,
}  # fmt: skip


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Put data at path; a reader, or the next command after a crash, sees the old content or the new."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
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
    lock, deadline = FileLock(path), Deadline.after(timeout)
    holder = path.with_suffix(".holder")
    pause = _PATIENCE
    while True:
        try:
            lock.acquire(timeout=min(pause, deadline.left), poll_interval=0.05)
            break
        except Timeout:
            who = _Holder.read(holder)
            if deadline.passed:
                raise InfrastructureError(
                    f"{_holds(who, what)}; gave up after waiting {timeout:g} s", hint="wait, or end that process"
                ) from None
            waiting(f"waiting for {_holds(who, what, ', which')}")
            pause = _REMIND_EVERY
    _Holder.write(holder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def attempted(path: Path, what: str) -> Iterator[str | None]:
    """Hold the lock file at path for as long as the context lasts, and give None; where another process has it, hold
    nothing and give who has held `what` since when.
    """
    make_directory(path.parent)
    lock, holder = FileLock(path), path.with_suffix(".holder")
    try:
        with disk_errors(path.parent):
            lock.acquire(timeout=0)
    except Timeout:
        yield _holds(_Holder.read(holder), what)
        return
    _Holder.write(holder)
    try:
        yield None
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


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
    """Which process holds a lock: its command as it was typed, without what follows `--`; since is Unix time."""

    pid: int
    command: str
    since: float

    @staticmethod
    def write(path: Path) -> None:
        program, *words = sys.argv or [""]
        name = "./lab" if Path(program).name == "__main__.py" else Path(program).name
        words = words[: words.index("--")] if "--" in words else words
        with contextlib.suppress(OSError, ValueError):  # nothing but a message depends on it
            path.write_text(json.dumps({"pid": os.getpid(), "command": [name, *words], "since": time.time()}))

    @classmethod
    def read(cls, path: Path) -> _Holder | None:
        """None where the file does not tell, or tells of a process that is not there any more."""
        try:
            match json.loads(path.read_text()):
                case {"pid": int(pid), "command": [*words], "since": int() | float() as since} if pid > 0:
                    time.localtime(since)  # raises for what is no time
                    holder = cls(pid, one_line(shlex.join(map(str, words)), 200), since)
                case _:
                    return None
        except (OSError, ValueError, OverflowError, RecursionError):
            return None
        return holder if Path(f"/proc/{holder.pid}").exists() else None


def _holds(holder: _Holder | None, what: str, which: str = "") -> str:
    if holder is None:
        return f"another labkit process{which} holds {what}"
    day = "%H:%M:%S" if time.time() - holder.since < 43200 else "%Y-%m-%d %H:%M:%S"
    since = time.strftime(day, time.localtime(holder.since))
    return f"process {holder.pid} (`{holder.command}`){which} has held {what} since {since}{_ago(holder.since)}"


def _ago(since: float) -> str:
    """How long ago that was, in round figures; nothing where the clock was set back."""
    seconds = int(time.time() - since)
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

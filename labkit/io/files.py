"""Files that are whole or absent: written aside, flushed, then renamed; and locks between labkit processes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from labkit.core.errors import HostError, InfrastructureError

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
    with disk_errors(path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn the disk's refusals (full, read-only, forbidden) into a HostError that names the directory."""
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
    """HostError unless mib mebibytes are free where the directory lies."""
    free = shutil.disk_usage(where).free >> 20
    if free < mib:
        raise HostError(
            f"{where} has {free} MiB free; this needs {mib} MiB",
            hint=f"free some, or {_ELSEWHERE}",
        )


@contextlib.contextmanager
def locked(path: Path, *, timeout: float, waiting: Callable[[str], None], what: str) -> Iterator[None]:
    """Hold the lock file at path. waiting(text) is called once if another labkit has it; timeout in seconds.

    The kernel drops the lock with its holder, however that ended.
    """
    make_directory(path.parent)
    lock = FileLock(path)
    holder = path.with_suffix(".holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with contextlib.suppress(OSError, ValueError):
            what = f"{what} (process {int(holder.read_text() or 0)})"
        waiting(f"waiting for another labkit that is busy with {what}")
        try:
            lock.acquire(timeout=timeout, poll_interval=0.05)
        except Timeout:
            raise InfrastructureError(
                f"another labkit has been busy with {what} for more than {timeout:g} s",
                hint="end it, or wait",
            ) from None
    holder.write_text(str(os.getpid()))
    try:
        yield
    finally:
        lock.release()


class through:
    """A short path to a directory: a unix socket's path may have 107 bytes, a lab's directory has more soon."""

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

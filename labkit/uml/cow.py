"""What a machine of User-Mode Linux has written: its kernel's copy-on-write file, version 3, see
arch/um/drivers/cow_user.c. It names its base by a size and a time.

The kernel's process can do with it what it likes: nothing here follows a link, or waits for what is no file.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from labkit.core.errors import MachineError

_HEADER = struct.Struct(">4sIIQIII")  # magic, version, the base's time and size, sector size, alignment, format
_MAGIC, _VERSION = b"OOOM", 3
_NAME = 4096  # bytes of the base's name, which follows


def require_whole(path: Path, base: Path) -> None:
    """MachineError where the file is not what a machine on this base has written."""
    if why := _wrong(path, base):
        raise MachineError(
            f"the disk of machine {path.parents[1].name} is lost or damaged: {path} {why}",
            hint="put it back if you can: nothing of it was touched; ./lab reset makes the machine clean",
        )


def sync(path: Path) -> None:
    """See it on the disk."""
    descriptor = _open(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give(path: Path, user: int) -> None:
    """Have it belong to the user: that of a machine whose directory was moved is another one."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return
    try:
        os.fchown(descriptor, user, user)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is no file", str(path))
    return descriptor


def _wrong(path: Path, base: Path) -> str:
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        return "is cut"
    magic, version, time, covered, sector, align, _ = _HEADER.unpack(head)
    if magic != _MAGIC or version != _VERSION or not sector or not align:
        return "is no copy-on-write file"
    bitmap = _up(_HEADER.size + _NAME, align)
    if size < _up(bitmap + -(-covered // (sector * 8)), align) + covered:
        return "is cut"
    about = base.stat()
    if (time, covered) != (int(about.st_mtime), about.st_size):
        return f"was written on another disk than {base}"
    return ""


def _up(value: int, to: int) -> int:
    return -(-value // to) * to

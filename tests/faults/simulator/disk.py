"""The disk of a simulated guest: a real qcow2, with the guest's files as JSON behind its end.

An overlay shows the files of those below it, as QEMU has it; who loses or replaces the disk loses the files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path

_MARK = b"\n-- files of the simulated guest --\n"
_FLAG, _FLAG_AT = b"files follow", 60_000  # in the first cluster, behind all that QEMU has there


class BadDisk(Exception):
    """QEMU's words for a disk that it does not take."""


class Disk:
    """The disk at path, which nobody else may have open meanwhile."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR)
        except OSError as error:
            raise BadDisk(f"Could not open '{path}': {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadDisk('Failed to get "write" lock\nIs another process using the image?') from error
        below, self._files = _read(path)
        self._below = files(below) if below else {}

    @property
    def files(self) -> dict[str, str]:
        return {**self._below, **self._files}

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()

    def write(self, name: str, text: str) -> None:
        """Put a file on the disk; OSError where the host's disk is full."""
        changed = {**self._files, name: text}
        end = os.lseek(self._fd, 0, os.SEEK_END)
        whole = os.pread(self._fd, end, 0)
        at = whole.find(_MARK)
        at = end if at < 0 else at
        data = _MARK + json.dumps(changed).encode()
        os.pwrite(self._fd, _FLAG, _FLAG_AT)
        os.pwrite(self._fd, data, at)
        os.ftruncate(self._fd, at + len(data))
        self._files = changed


def files(path: Path) -> dict[str, str]:
    """The files on the disk at path, with those of the disks below it."""
    below, own = _read(path)
    return {**(files(below) if below else {}), **own}


def _read(path: Path) -> tuple[Path | None, dict[str, str]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadDisk(f"Could not open '{path}': {error.strerror}") from error
    # docs/interop/qcow2.txt: the name of the disk below, where it stands and how long it is.
    if data[:4] != b"QFI\xfb" or len(data) < 104:
        raise BadDisk("Image is not in qcow2 format")
    at, length = int.from_bytes(data[8:16], "big"), int.from_bytes(data[16:20], "big")
    if at + length > len(data):
        raise BadDisk("Could not read the backing file name: Input/output error")
    below = path.parent / data[at : at + length].decode() if at else None
    if data[_FLAG_AT : _FLAG_AT + len(_FLAG)] != _FLAG:
        return below, {}
    mark = data.find(_MARK)
    try:
        found, _ = json.JSONDecoder().raw_decode(data[mark + len(_MARK) :].decode() if mark >= 0 else "")
    except ValueError as error:
        raise BadDisk("qcow2: Image is corrupt") from error
    return below, found

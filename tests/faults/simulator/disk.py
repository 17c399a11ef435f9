"""The disk of a simulated guest: a real qcow2, with the guest's files as JSON behind its end.

An overlay shows the files of those below it, as QEMU has it; who loses or replaces the disk loses the files.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

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
        below, self._own = _read(path)
        self._below = files(below) if below else {}

    @property
    def files(self) -> dict[str, str]:
        return {**self._below, **self._own["files"]}

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()

    def write(self, name: str, text: str) -> None:
        """Put a file on the disk; OSError where the host's disk is full."""
        self._change(files={**self._own["files"], name: text})

    def snapshot(self, name: str) -> None:
        """Keep the disk as it is now, in itself."""
        self._change(snapshots={**self._own["snapshots"], name: self._own["files"]})

    def go_back(self, name: str) -> None:
        """Make the disk what it was at the snapshot. KeyError."""
        self._change(files=self._own["snapshots"][name])

    def forget(self, name: str) -> None:
        """Remove a snapshot. KeyError."""
        self._change(snapshots={key: value for key, value in self._own["snapshots"].items() if key != name})

    def _change(self, **change: Any) -> None:
        changed = {**self._own, **change}
        end = os.lseek(self._fd, 0, os.SEEK_END)
        at = os.pread(self._fd, end, 0).find(_MARK)
        data = _MARK + json.dumps(changed).encode()
        at = end if at < 0 else at
        os.pwrite(self._fd, _FLAG, _FLAG_AT)
        if os.pwrite(self._fd, data, at) != len(data):
            os.pwrite(self._fd, _MARK + json.dumps(self._own).encode(), at)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(self._fd, at + len(data))
        self._own = changed


def files(path: Path) -> dict[str, str]:
    """The files on the disk at path, with those of the disks below it."""
    below, own = _read(path)
    return {**(files(below) if below else {}), **own["files"]}


def _read(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """The disk below, and what this one has of its own."""
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
        return below, {"files": {}, "snapshots": {}}
    mark = data.find(_MARK)
    try:
        own, _ = json.JSONDecoder().raw_decode(data[mark + len(_MARK) :].decode() if mark >= 0 else "")
    except ValueError as error:
        raise BadDisk("qcow2: Image is corrupt") from error
    return below, own


def qemu_img(argv: list[str], folder: Path) -> int:
    """qemu-img as it is, but for snapshots: those are of the files behind the disk."""
    if argv[1] != "snapshot":
        path = ":".join(word for word in os.environ["PATH"].split(":") if Path(word) != folder)
        os.execvpe("qemu-img", ["qemu-img", *argv[1:]], {**os.environ, "PATH": path})
    _, _, what, name, path = argv
    try:
        disk = Disk(Path(path))
        {"-a": disk.go_back, "-d": disk.forget, "-c": disk.snapshot}[what](name)
    except BadDisk as error:
        print(f"qemu-img: {error}", file=sys.stderr)
        return 1
    except KeyError:
        print(f"qemu-img: Could not find snapshot '{name}'", file=sys.stderr)
        return 1
    return 0

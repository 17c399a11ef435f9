"""Keeps the end of what comes through pipes, each in a file of bounded size. Run as a program, apart from labkit:

    python -I -S ring.py LIMIT DESCRIPTOR FILE [DESCRIPTOR FILE ...]

LIMIT: bytes that a file may have; one that grows beyond loses its older half. It ends when every pipe is closed.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from pathlib import Path

_PIECE = 1 << 16


class Ring:
    """A file that keeps the end of what is written to it."""

    def __init__(self, path: str, limit: int) -> None:
        self._path, self._limit = path, limit
        self._dropped = 0
        self._file = self._opened(path)
        self._size = os.fstat(self._file).st_size

    @staticmethod
    def _opened(path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        if self._size + len(data) > self._limit:
            self._halve(data)
        else:
            self._size += os.write(self._file, data)

    def _halve(self, data: bytes) -> None:
        """Write the newer half, of which data is the end, aside, and put it in the file's place: whoever reads sees the
        old file or the new one.
        """
        half = self._limit // 2
        whole = os.pread(self._file, half, max(0, self._size - half)) + data
        kept = whole[-half:]
        kept = kept[kept.find(b"\n") + 1 :]
        self._dropped += self._size + len(data) - len(kept)
        aside = f"{self._path}.part"
        Path(aside).unlink(missing_ok=True)
        file = self._opened(aside)
        head = b"[labkit dropped %d bytes here: this file has a limit]\n" % self._dropped
        self._size = os.write(file, head + kept)
        Path(aside).rename(self._path)
        os.close(self._file)
        self._file = file


def main(limit: int, pairs: list[tuple[int, str]]) -> None:
    rings = {descriptor: Ring(path, limit) for descriptor, path in pairs}
    poll = select.poll()
    for descriptor in rings:
        poll.register(descriptor, select.POLLIN)
    while rings:
        for descriptor, _ in poll.poll():
            data = os.read(descriptor, _PIECE)
            if data:
                with contextlib.suppress(OSError):  # a full disk: what the guest prints is lost, but never waited for
                    rings[descriptor].write(data)
            else:
                poll.unregister(descriptor)
                del rings[descriptor]


if __name__ == "__main__":
    main(int(sys.argv[1]), list(zip(map(int, sys.argv[2::2]), sys.argv[3::2], strict=True)))

"""What a program leaves to be kept with the run, beside what it prints: plain files in a directory of its own.

The driver looks there once the program has ended, however it ended, and sends the files home in pieces.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# Bytes: of a larger file only its digest is kept. A saved image of runtimetest has half of that.
FILE_LIMIT = 16 << 20
LIMIT = 48 << 20  # bytes of all files of a program
FILES = 50
SUMS, ELSEWHERE = "SHA256SUMS", "not-kept.txt"
_PIECE = 1 << 16


def place(directory: Path) -> Path:
    """Where what the program with this directory for temporary files leaves is looked for."""
    return directory.with_name(f"{directory.name}.evidence")  # no program has a dot in its name


class Evidence:
    """Files put into a directory, each once, with a list of their digests as sha256sum prints it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def text(self, name: str, text: str) -> None:
        (self._ready() / name).write_text(text, errors="replace")
        self._sum(name)

    def file(self, path: Path) -> None:
        """Keep a file under its name, or only what it was where it is too large."""
        size = path.stat().st_size
        if size > FILE_LIMIT:
            with (self._ready() / ELSEWHERE).open("a") as list_:
                list_.write(f"{path.name}: {size} bytes, sha256 {_digest(path)}: more than {FILE_LIMIT >> 20} MiB\n")
            return
        (self._ready() / path.name).write_bytes(path.read_bytes())
        self._sum(path.name)

    def _ready(self) -> Path:
        self._directory.mkdir(exist_ok=True)
        return self._directory

    def _sum(self, name: str) -> None:
        with (self._directory / SUMS).open("a") as sums:
            sums.write(f"{_digest(self._directory / name)}  {name}\n")


def pieces(directory: Path) -> Iterator[tuple[str, str]]:
    """The plain files of a directory in pieces, as (name, base64), up to LIMIT. Whoever wrote them may be hostile: no
    link is followed, and nothing waited for.
    """
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208
    except OSError:
        return
    left = LIMIT
    for name in names[:FILES]:
        try:
            fd = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            continue
        with os.fdopen(fd, "rb") as file:
            while data := file.read(min(_PIECE, left)):
                left -= len(data)
                yield name, base64.b64encode(data).decode()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(_PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()

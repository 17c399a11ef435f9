"""Whether files that labkit keeps are those that it wrote: their sizes at once, their content where there is a doubt.

sums.json, beside the files: {name: [bytes, CRC-32]}. It finds a disk that lost or changed data, not an attacker.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from labkit.io.files import write_atomic

SUMS = "sums.json"
_PIECE = 1 << 22
_DAMAGED = "damaged"


def write(directory: Path, names: Sequence[str]) -> None:
    """See the files on the disk, and write what is true of them."""
    for name in names:
        sync(directory / name)
    sums = {name: [(directory / name).stat().st_size, crc(directory / name)] for name in names}
    write_atomic(directory / SUMS, json.dumps(sums), mode=0o600)


def call_damaged(directory: Path, why: str) -> None:
    """Have wrong() say that from now on: what it is shows only where the files are read as a whole."""
    write_atomic(directory / SUMS, json.dumps({_DAMAGED: why}), mode=0o600)


def wrong(directory: Path, *, content: bool = False) -> str | None:
    """What is wrong with the files that the sums of directory name; None where nothing is seen.

    content: read them, a gigabyte in a second or so. What has no sums, from an older labkit, is taken as it is.
    """
    path = directory / SUMS
    try:
        sums = json.loads(path.read_bytes())
        if isinstance(sums.get(_DAMAGED), str):
            return str(sums[_DAMAGED])
        expected = {str(name): (int(size), int(crc)) for name, (size, crc) in sums.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{path} cannot be read"
    for name, (size, sum_) in expected.items():
        file = directory / name
        try:
            found = file.stat().st_size
            if found != size:
                return f"{file} has {found} bytes of {size}"
            if content and crc(file) != sum_:
                return f"{file} is not what was written"
        except OSError as error:
            return f"{file}: {error.strerror}"
    return None


def of(directory: Path, name: str) -> int:
    """The CRC-32 that a file had when its sums were written; where they do not say, that it has."""
    try:
        return int(json.loads((directory / SUMS).read_bytes())[name][1])
    except (OSError, ValueError, TypeError, LookupError):
        return crc(directory / name)


def crc(path: Path) -> int:
    """The CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found = zlib.crc32(piece, found)
    return found


def sync(path: Path) -> None:
    """See a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

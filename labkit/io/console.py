"""What guests print, on their console, and what makes them has to say: kept in files of bounded size."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from labkit.core.deadline import Deadline
from labkit.core.errors import ConnectionFailed, MachineError
from labkit.core.text import printable
from labkit.io import process

CONSOLE = "console.log"
FAILED_BOOT = "failed-boot-"  # what the console of an image's boot that failed is kept as begins with
PANIC = b"Kernel panic - not syncing"
_RING = Path(__file__).with_name("ring.py")
_KEPT = 8 << 20  # bytes of a file, at most
_DRAIN = 2.0  # seconds that the ring has to write the rest


class GuestPanicked(MachineError):
    pass


@contextlib.contextmanager
def kept(directory: Path, names: Sequence[str]) -> Iterator[list[int]]:
    """Descriptors to write to, one for each of these files in directory, which begin empty.

    A program of its own (ring.py), which outlives labkit, keeps the end of what comes until nobody can write any more.
    """
    for name in names:
        (directory / name).unlink(missing_ok=True)
    ring = [sys.executable, "-I", "-S", str(_RING), str(_KEPT)]
    with contextlib.ExitStack() as stack:
        reads, writes = [], []
        for name in names:
            read, write = os.pipe()
            stack.callback(os.close, read)
            stack.callback(os.close, write)
            reads.append(read)
            writes.append(write)
            ring += [str(read), name]
        null = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, null)
        owner = {process.OWNER: str(directory / _RING.stem)}
        process.spawn(ring, cwd=directory, output=null, errors=null, env=owner, files=reads)
        yield writes


def console(directory: Path) -> bytes:
    """The last 64 KB of what the guest in directory wrote on its console."""
    return tail(directory, CONSOLE)


def tail(directory: Path, name: str) -> bytes:
    """The last 64 KB of a file that the ring writes; where what writes there has ended, once all of it is written."""
    if not process.owned(directory):
        Deadline.after(_DRAIN).poll(lambda: not process.owned(directory / _RING.stem))
    try:
        with (directory / name).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - (1 << 16)))
            return file.read()
    except OSError:
        return b""


def console_end(directory: Path) -> str:
    """The end of the console as a hint, fit to be shown."""
    text = console(directory)[-1500:].decode("utf-8", "replace").replace("\r\n", "\n")
    return f"its console ends with:\n{printable(text, newlines=True)}"


def panic_lines(data: bytes) -> str:
    """The line in which a console tells of a panic, with the two before it, as one line; "" where there is none."""
    at = data.find(PANIC)
    if at < 0:
        return ""
    before = data[max(at - 600, 0) : at].splitlines()[-3:]
    last = (before.pop() if before else b"") + data[at : at + 300].splitlines()[0]
    lines = [line.strip().decode("utf-8", "replace") for line in (*before, last)]
    return printable(" / ".join(filter(None, lines)))


@contextlib.contextmanager
def panics_named(directory: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong with a guest in the block into GuestPanicked, where its kernel has panicked."""
    try:
        yield
    except (MachineError, ConnectionFailed) as error:
        if isinstance(error, GuestPanicked) or PANIC not in console(directory):
            raise
        said = f"the guest's kernel panicked, so it did not {what}"
        raise GuestPanicked(said, hint=console_end(directory)) from error

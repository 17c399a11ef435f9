"""What a suite's program does for the labkit that started it over SSH: it ends with it, and runs on its machine alone.

A connection that is cut ends nothing by itself on the far side. But labkit holds the program's stdin open, so its end
tells that labkit, or the way to it, is gone. A program that is used without labkit asks for neither of the two.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
import time
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path
from typing import Optional

from .errors import Busy, Interrupted
from .text import printable

LOCK_TIMEOUT = 60.0  # seconds; a suite that was told to end has cleaned up by then, also in an emulated guest


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--attached", action="store_true", help="end as soon as stdin is at its end")
    parser.add_argument("--lock", metavar="FILE", help="wait a minute for others with the same lock, then give up")


def is_over(fd: int) -> bool:
    """Read what has come on a descriptor that select found ready; whether it was its end."""
    try:
        return not os.read(fd, 4096)
    except BlockingIOError:
        return False
    except OSError:
        return True


def take_lock(path: str, attached: bool, timeout: float = LOCK_TIMEOUT) -> int:
    """A descriptor that holds the lock until this process and all that inherit it have ended.

    Raises Busy, which says who holds it, after timeout seconds, and Interrupted if stdin ends meanwhile.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Busy(f"the lock {path} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Busy(f"the lock {path} is no file")
    deadline = time.monotonic() + timeout
    while not _locked(fd):
        if time.monotonic() > deadline:
            raise Busy(f"{_holder(fd)}; gave up after waiting {timeout:g} s")
        if attached and select.select([0], [], [], 0.1)[0]:
            if is_over(0):
                raise Interrupted(signal.SIGHUP)
        elif not attached:
            time.sleep(0.1)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()} {int(_now())}\n".encode(), 0)
    return fd


def _locked(fd: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _now() -> float:
    """Seconds since this host booted, the same in all processes, whatever happens to the clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _holder(fd: int) -> str:
    words = os.pread(fd, 100, 0).decode("ascii", "replace").split()
    if len(words) != 2 or not all(word.isdigit() and len(word) < 12 for word in words):
        return "another suite runs on this machine"
    pid, since = words
    command = _command(pid)
    what = f"process {pid} (`{command}`)" if command else f"what process {pid}, which has ended, has left behind"
    return f"another suite runs on this machine: {what}, for {int(_now()) - int(since)} s"


def _command(pid: str) -> Optional[str]:
    with suppress(OSError):
        words = Path("/proc", pid, "cmdline").read_bytes()[:1000].rstrip(b"\0").replace(b"\0", b" ")
        return printable(words.decode("utf-8", "replace")) or None
    return None

"""Child processes and signals."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Optional

from .errors import Interrupted

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Remembers the first of SIGINT, SIGTERM and SIGHUP. They and SIGCHLD make fd readable."""

    def __init__(self) -> None:
        self.fd, write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._first: Optional[int] = None
        for number in ENDING:
            signal.signal(number, self.remember)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def remember(self, number: int, _frame: object = None) -> None:
        self._first = self._first or number

    def drain(self) -> None:
        """fd is not readable any more, until the next signal."""
        with suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass

    def check(self) -> None:
        """Raises Interrupted if a signal to end has come."""
        if self._first:
            raise Interrupted(self._first)


def exit_with(function: Callable[[], int]) -> NoReturn:
    """The whole life of a forked child: exits with what function returns, never returns into its parent's code."""
    status = 70
    try:
        status = function()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def kill_group(pid: int) -> None:
    """Kill a child and, if it leads a process group already, the whole group."""
    for kill in (os.killpg, os.kill):
        with suppress(OSError):
            kill(pid, signal.SIGKILL)

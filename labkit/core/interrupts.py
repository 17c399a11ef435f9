"""Signals that ask to end, and the moments at which they may be heard.

A signal's handler may raise anywhere, also in a library that holds a lock of its own; what asks for that lock later
waits without end. So calls of such a library are made inside held(): they take no time, and the signal is heard after
them. What may take long is called in a thread (labkit.io.within), which no signal meets. And what is raised in a
finalizer, or in a callback of the garbage collector, Python reports and forgets: where Unraisable sees that, the signal
is sent again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from labkit.core.errors import Interrupted

_AGAIN = 0.05  # seconds until a signal that was lost is sent again
_depth = 0
_waiting: int | None = None
_lost: int | None = None


def interrupt(signum: int, frame: FrameType | None = None) -> None:
    """What a signal's handler does: raise Interrupted (KeyboardInterrupt for SIGINT), now or at the end of held().

    frame: what ran as the signal came.
    """
    global _waiting, _lost
    if _lost is not None and Unraisable.runs(frame):
        return  # it would be lost once more, and is sent again
    _lost = None
    if _depth:
        _waiting = signum
    elif signum == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise Interrupted(signum)


class Unraisable:
    """A sys.unraisablehook by which no signal is lost; all else goes to the one that was there. before: is told of a
    signal that is about to be sent again.
    """

    def __init__(self, before: Callable[[int], object] = lambda _: None) -> None:
        self._before, self._others = before, sys.unraisablehook
        self._sends = False

    def __call__(self, unraisable: sys.UnraisableHookArgs) -> None:
        global _lost
        error = unraisable.exc_value
        if not isinstance(error, KeyboardInterrupt):
            self._others(unraisable)
            return
        _lost = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        if not self._sends:
            self._sends = True
            with contextlib.suppress(RuntimeError):  # the interpreter ends: so does what was to be interrupted
                threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        """Until it is heard; one thread does it, however often it is lost meanwhile."""
        while self._sends:
            time.sleep(_AGAIN)
            if (signum := _lost) is not None:
                self._before(signum)
                os.kill(os.getpid(), signum)
            else:
                self._sends = False
                self._sends = _lost is not None  # lost between the two

    @classmethod
    def runs(cls, frame: FrameType | None) -> bool:
        """Whether the hook is at work in this frame."""
        while frame is not None and frame.f_code is not cls.__call__.__code__:
            frame = frame.f_back
        return frame is not None


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Signals that interrupt() is called for are heard after the block; in other threads than the main one, nothing."""
    global _depth, _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth and _waiting is not None:
            signum, _waiting = _waiting, None
            interrupt(signum)

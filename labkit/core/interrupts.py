"""Signals that ask to end, and the moments at which they may be heard.

A signal's handler may raise anywhere, also in a library that holds a lock of its own; what asks for that lock later
waits without end. So calls of such a library are made inside held(): they take no time, and the signal is heard after
them. What may take long is called in a thread (labkit.io.within), which no signal meets.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from labkit.core.errors import Interrupted

_depth = 0
_waiting: int | None = None


def interrupt(signum: int) -> None:
    """What a signal's handler does: raise Interrupted (KeyboardInterrupt for SIGINT), now or at the end of held()."""
    global _waiting
    if _depth:
        _waiting = signum
    elif signum == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise Interrupted(signum)


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

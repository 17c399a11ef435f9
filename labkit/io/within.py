"""A bound on what has none of its own, such as the lookup of a name."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from labkit.core.deadline import Deadline

_T = TypeVar("_T")


def within(deadline: Deadline, function: Callable[[], _T], discard: Callable[[_T], object] = lambda _: None) -> _T:
    """What function returns or raises; TimeoutError where the deadline passes before.

    It runs in a thread of its own, which is left alone then; what it returns later goes to discard.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    def unwanted(done: Future[_T]) -> None:
        with contextlib.suppress(Exception):
            discard(done.result())

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(timeout=deadline.left)
    except BaseException:
        if not future.done() or not future.exception():
            future.add_done_callback(unwanted)
        raise

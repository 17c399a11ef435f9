"""Several things at a time, which end together where one of them, or a signal, ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

from labkit.core.deadline import Deadline
from labkit.core.interrupts import held

_T = TypeVar("_T")
_END = 20.0  # seconds that the others have to end


def together(functions: Sequence[Callable[[], _T]], stop: Callable[[], None]) -> list[_T]:
    """What each function returns, each run in a thread of its own.

    Where one raises, or a signal ends the wait, stop() is called, which has to make the others end; they are waited
    for, and the first exception is raised. No signal is heard in the threads.
    """
    ended: SimpleQueue[tuple[int, _T | None, BaseException | None]] = SimpleQueue()

    def run(number: int) -> None:
        try:
            ended.put((number, functions[number](), None))
        except BaseException as error:
            ended.put((number, None, error))

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(functions))]
    done: dict[int, _T] = {}
    try:
        for thread in threads:
            with held():
                thread.start()
        for _ in threads:
            number, value, error = ended.get()
            if error is not None:
                raise error
            done[number] = value  # type: ignore[assignment]  # _T may be None itself
    except BaseException:
        stop()
        deadline = Deadline.after(_END)
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(deadline.left, 0.0))
        raise
    return [done[number] for number in range(len(functions))]

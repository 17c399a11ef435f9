"""The exit status of a program, by what ended it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from .errors import Busy, Interrupted, UsageError


def status_of(program: str, function: Callable[[], int], host: tuple[type[Exception], ...] = ()) -> int:
    """What function returns; 2 for UsageError, 3 for Busy and for what this host cannot do (the exceptions in host),
    each with a line on stderr that begins with program; 128 + N where signal N ended it, or nobody reads its output.
    """
    told: tuple[type[Exception], ...] = (UsageError, Busy, *host)
    try:
        return function()
    except Interrupted as end:
        return 128 + end.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        with open(os.devnull, "wb") as null:  # noqa: PTH123
            os.dup2(null.fileno(), sys.stdout.fileno())  # so that Python does not complain when it flushes at exit
        return 128 + signal.SIGPIPE
    except told as error:
        with suppress(OSError):
            os.write(2, f"{program}: {error}\n".encode(errors="backslashreplace"))
        return 2 if isinstance(error, UsageError) else 3

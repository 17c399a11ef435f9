"""A program of a suite about engines or images, started by its labkit: an outer process makes a place of its own, an
inner one works in it and prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..common.attached import take_lock
from ..common.errors import Busy, Interrupted, UsageError
from . import own
from .base import Broken


def alone(
    name: str,
    package: str,
    argv: list[str],
    parse: Callable[[Sequence[str]], argparse.Namespace],
    work: Callable[[argparse.Namespace, Path], int],
) -> int:
    """Do the work, given what was parsed and the directory of this run; the exit status as labkit.guest.engines has it.

    What is parsed has attached and lock (attached.py), inner and top, which this program starts itself with again.
    """
    try:
        args = parse(argv)
        if os.geteuid() != 0:
            raise UsageError("must run as root (sudo)")
        if args.inner:
            own.inner()
            return work(args, Path(args.top))
        lock = take_lock(args.lock, args.attached) if args.lock else None
        words = [sys.executable, *_program(package), *(word for word in argv if word != "--attached"), "--inner"]
        status = own.outer(words, args.attached)
        del lock
        return status
    except UsageError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except (Broken, Busy, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 3
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Interrupted as end:
        return 128 + end.number


def put(kind: str, **values: Any) -> None:
    """Print an event."""
    sys.stdout.write(json.dumps({"type": kind, **values}) + "\n")
    sys.stdout.flush()


def _program(package: str) -> list[str]:
    """How this program is started again: the archive that it is in, or its package."""
    start = Path(sys.argv[0])
    return [str(start.absolute())] if start.suffix == ".pyz" else ["-m", package]

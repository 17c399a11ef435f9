"""A program of a suite about engines, images or registries, started by its labkit: an outer process makes a place of
its own, an inner one works in it and prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..common.attached import take_lock
from ..common.errors import UsageError
from ..common.exits import status_of
from . import own
from .base import Broken


def alone(
    name: str,
    package: str,
    argv: list[str],
    parse: Callable[[Sequence[str]], argparse.Namespace],
    work: Callable[[argparse.Namespace, Path], int],
    outside: Sequence[str] = ("--attached",),
) -> int:
    """Do the work, given what was parsed and the directory of this run; the exit status as labkit.guest.engines has it.

    What is parsed has attached and lock (attached.py), inner and top, which this program starts itself with again
    without the words in outside; apart where that may be False (own.py), and given where the inner one is to have it
    on its stdin.
    """
    return status_of(name, lambda: _alone(package, argv, parse, work, outside), (Broken, OSError))


def _alone(
    package: str,
    argv: list[str],
    parse: Callable[[Sequence[str]], argparse.Namespace],
    work: Callable[[argparse.Namespace, Path], int],
    outside: Sequence[str],
) -> int:
    args = parse(argv)
    apart = getattr(args, "apart", True)
    if os.geteuid() != 0:
        raise UsageError("must run as root (sudo)")
    if args.inner:
        own.inner(apart)
        return work(args, Path(args.top))
    lock = take_lock(args.lock, args.attached) if args.lock else None
    words = [sys.executable, *_program(package), *(word for word in argv if word not in outside), "--inner"]
    status = own.outer(words, args.attached, apart, getattr(args, "given", b""))
    del lock
    return status


def put(kind: str, **values: Any) -> None:
    """Print an event."""
    sys.stdout.write(json.dumps({"type": kind, **values}) + "\n")
    sys.stdout.flush()


def _program(package: str) -> list[str]:
    """How this program is started again: the archive that it is in, or its package."""
    start = Path(sys.argv[0])
    return [str(start.absolute())] if start.suffix == ".pyz" else ["-m", package]

"""The way into a program. Python 3.5 must be able to parse this file, to say that it is too old."""

import io
import os
import sys
from typing import Callable


def start(program: str, load: "Callable[[], Callable[[list[str]], int]]") -> int:
    """Run the function that load imports with our arguments; the exit status."""
    if not _is_open(2):  # nothing can be said then, but a pipe of ours must not get its number
        if _is_open(0) and _is_open(1):
            os.open(os.devnull, os.O_RDWR)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    for fd, name, instead in ((0, "stdin", "</dev/null"), (1, "stdout", ">/dev/null")):
        if not _is_open(fd):
            sys.stderr.write("{}: {} is closed; say {} to do without\n".format(program, name, instead))
            return 2
    if sys.version_info < (3, 9):
        sys.stderr.write("{}: needs Python 3.9 or newer, this is {}.{}\n".format(program, *sys.version_info[:2]))
        return 2
    try:
        run = load()
    except ImportError as error:  # Debian 12's python3-minimal has no json
        sys.stderr.write("{}: this Python has no module {!r}: install python3\n".format(program, error.name))
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever PYTHONIOENCODING and the locale say
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    return run(sys.argv[1:])


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

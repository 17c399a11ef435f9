"""The way into a program. Python 3.5 must be able to parse this file, to say that it is too old."""

import os
import sys
from typing import Callable


def start(program: str, load: "Callable[[], Callable[[list[str]], int]]") -> int:
    """Run the function that load imports with our arguments; the exit status."""
    if sys.version_info < (3, 9):
        sys.stderr.write("{}: needs Python 3.9 or newer, this is {}.{}\n".format(program, *sys.version_info[:2]))
        return 2
    for fd in range(3):  # where one was closed by whoever starts this, a pipe of ours would get its number
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    try:
        run = load()
    except ImportError as error:  # Debian 12's python3-minimal has no json
        sys.stderr.write("{}: this Python has no module {!r}: install python3\n".format(program, error.name))
        return 2
    return run(sys.argv[1:])

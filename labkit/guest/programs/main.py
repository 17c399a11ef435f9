"""The way in. Old Pythons must be able to parse this file, to be told that they are too old."""

import sys


def main():
    # type: () -> int
    if sys.version_info < (3, 9):
        sys.stderr.write("labkit-programs: needs Python 3.9 or newer, this is {}.{}\n".format(*sys.version_info[:2]))
        return 2
    try:
        from .cli import run
    except ImportError as error:  # Debian 12's python3-minimal has no json
        sys.stderr.write("labkit-programs: this Python has no module {!r}: install python3\n".format(error.name))
        return 2
    return run(sys.argv[1:])

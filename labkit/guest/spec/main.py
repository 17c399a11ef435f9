"""The way in. Old Pythons must be able to parse this file, to be told that they are too old."""

import sys


def main():
    # type: () -> int
    if sys.version_info < (3, 9):
        sys.stderr.write("labkit-spec: needs Python 3.9 or newer, this is {}.{}\n".format(*sys.version_info[:2]))
        return 2
    from .cli import run

    return run(sys.argv[1:])

"""`python -m tests.faults [--write | --run | --real] [WORD...]`, see the package."""

from __future__ import annotations

import argparse
import sys

import pytest

from tests.faults.page import PATH, ROWS, page


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The table of faults.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="write docs/reference/faults.md anew")
    what.add_argument("--run", action="store_true", help="try the rows, on simulated machines")
    what.add_argument("--real", action="store_true", help="try the rows, on a real machine, as root")
    parser.add_argument("word", nargs="*", help="only rows whose name contains one of these")
    args = parser.parse_args()
    if args.write:
        PATH.write_text(page())
        return 0
    if args.run or args.real:
        chosen = ["-k", " or ".join(args.word)] if args.word else []
        marks = "machine" if args.real else "not machine"
        return pytest.main(["-q", "tests/faults", "-m", marks, *chosen])
    for row in ROWS:
        if not args.word or any(word in row.id for word in args.word):
            print(f"{row.id}\t{row.stage}\t{row.fault}\t{row.before}\t{row.outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The engine suite on a machine of User-Mode Linux (or --provider). See README.md.

engines.py [--provider NAME] [--engine NAME] [--runtime NAME] [--runs N]
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics

from common import lab, timed

REPORT = "GIVEN-*,ASKED-*"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", default="uml")
    parser.add_argument("--engine", default="docker")
    parser.add_argument("--runtime", default="crun")
    parser.add_argument("--runs", type=int, default=3)
    words = parser.parse_args()
    argv = ["test", "--suite", "engine", "--engine", words.engine, "--runtime", words.runtime, "--no-confirm"]
    with lab() as made:
        made.provider = words.provider
        made.run(*argv, "--only", "SWAP-run", ok=(0, 1))  # the machine, and what is read for the first time
        report: list[float] = []
        whole: list[float] = []
        for _ in range(words.runs):
            report.append(timed(functools.partial(made.run, *argv, "--only", REPORT, ok=(0, 1))))
            whole.append(timed(functools.partial(made.run, *argv, ok=(0, 1))))
        load = f"load {os.getloadavg()[0]:.0f}"
        for what, times, reach in (("report", report, 20), ("whole suite", whole, 120)):
            shown = f"median {statistics.median(times):.1f} s ({min(times):.1f} to {max(times):.1f}), reach {reach} s"
            print(f"{what} of {words.engine} over {words.runtime}, {words.provider}, {load}: {shown}")


if __name__ == "__main__":
    main()

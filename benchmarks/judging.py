"""Reading and judging saved output: `judging.py tap|judge [--runs N]`. See README.md. Needs no machine.

`tap` wants tap.py with its yaml extra in the environment: pip install tap.py[yaml]
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from common import told

from labkit.results import tap
from tests.recorded import RECORDINGS

TIMES = 10  # how often both recordings stand one after the other


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("tap", "judge"))
    parser.add_argument("--runs", type=int, default=7)
    words = parser.parse_args()
    {"tap": reading, "judge": judging}[words.what](words.runs)


def reading(runs: int) -> None:
    """labkit.results.tap against tap.py on the same bytes, in CPU seconds: once as tap.py reads, which leaves blocks as
    lines until they are asked for (labkit has parsed them), once with every block asked for.
    """
    from tap.line import Result
    from tap.parser import Parser

    data = b"".join(path.read_bytes() for directory in RECORDINGS.values() for path in directory.glob("*.tap")) * TIMES
    text = data.decode()
    limits = tap.Limits(total=1 << 40, events=1 << 40)
    counted: dict[str, tuple[int, int]] = {}

    def theirs(blocks: bool) -> None:
        lines = [line for line in Parser().parse(io.StringIO(text)) if isinstance(line, Result)]
        counted["tap.py"] = len(lines), sum(line.yaml_block is not None for line in lines) if blocks else 0

    def ours() -> None:
        events = tap.read(data, limits)
        points = [event for event in events if isinstance(event, tap.TestPoint)]
        alone = sum(isinstance(event, tap.Block) for event in events)
        counted["labkit"] = len(points), alone + sum(point.diagnostic is not None for point in points)

    for blocks in (False, True):
        floors, own = [], []
        for _ in range(runs):
            floors.append(cpu(functools.partial(theirs, blocks)))
            own.append(cpu(ours))
        what = "its blocks parsed" if blocks else "its blocks left as they are"
        told(f"reading {len(data) / 1e6:.1f} MB of TAP, tap.py with {what}", floors, own, "at most 1.2")
    for name, (points, count) in counted.items():
        print(f"  {name:7} {points} test points, {count} blocks kept")


def judging(runs: int) -> None:
    """`labkit judge` of one recording to all reports, the whole process with its imports; CPU seconds."""
    for source in RECORDINGS.values():
        seconds = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory(prefix="labkit-bench-") as work:
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                argv = [sys.executable, "-m", "labkit", "judge", str(source)]
                subprocess.run(argv, env={**os.environ, "LABKIT_REPORTS": work}, stdout=subprocess.DEVNULL)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        seconds.sort()
        print(f"judge {source.name}, {runs} runs")
        print(
            f"  CPU     median {seconds[runs // 2]:7.2f} s  ({seconds[0]:.2f} to {seconds[-1]:.2f}); reach: under 1 s"
        )


def cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()

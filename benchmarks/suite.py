"""The suite: `suite.py overhead|parallel|shared|native [--runs N] [--runtime NAME]`. See README.md."""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Lab, in_machine, lab, timed, told

from labkit.core.cell import Selection

FEW = "QUERY-001,QUERY-002,STATE-001"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("overhead", "parallel", "shared", "native"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--runtime", default="runc")
    words = parser.parse_args()
    if words.what == "native":
        native(words.runs, words.runtime)
        return
    with lab(provider="uml" if words.what == "shared" else "qemu") as made:
        made.run("up")
        made.run("test", "--runtime", words.runtime, "--only", FEW, ok=(0, 1))
        {"overhead": overhead, "parallel": parallel, "shared": shared}[words.what](made, words.runs, words.runtime)


def overhead(made: Lab, runs: int, runtime: str) -> None:
    """Whole process of `labkit test`, less the same suite's time on the guest's own clock."""
    inside, outside = [], []
    by_hand = in_machine("spec", runtime, Selection(only=tuple(FEW.split(","))))
    for _ in range(runs):
        script = f"read a rest </proc/uptime; {shlex.join(by_hand)} >/dev/null;read b rest </proc/uptime; echo $a $b"
        begin, end = map(float, made.run("ssh", "--", script).stdout.split())
        inside.append(end - begin)
        outside.append(timed(lambda: made.run("test", "--runtime", runtime, "--only", FEW, ok=(0, 1))))
    own = [b - a for a, b in zip(inside, outside, strict=True)]
    told(f"labkit test --only {FEW}", inside, outside, "see the difference")
    spread = f"({min(own):.2f} to {max(own):.2f})"
    print(f"  beside the suite  median {statistics.median(own):.2f} s {spread}; reach: under 4 s")
    peak = made.peak_mib("test", "--runtime", runtime)
    print(f"  peak memory of a run of the whole suite  {peak:.0f} MiB; reach: under 120 MB")


def parallel(made: Lab, runs: int, runtime: str) -> None:
    """The whole suite as it comes against one check at a time."""
    compared(made, runs, runtime, ("--jobs", "1"), (), "at most 0.6")


def shared(made: Lab, runs: int, runtime: str) -> None:
    """The whole suite on two machines of User-Mode Linux, a CPU each, against one of them; all run already."""
    made.run("test", "--runtime", runtime, "--only", FEW, "--machines", "2", ok=(0, 1))
    made.run("test", "--runtime", runtime, ok=(0, 1))  # so that both know how long each check takes
    compared(made, runs, runtime, (), ("--machines", "2"), "at most 0.6")


def native(runs: int, runtime: str) -> None:
    """The whole suite on this host, whole process: a container for each check against shared ones, without what is run
    again. Verdicts must be the same.
    """
    one: list[float] = []
    many: list[float] = []
    creates = {}
    with tempfile.TemporaryDirectory() as directory:
        calls = Path(directory, "calls")
        program = Path(directory, "runtime")
        program.write_text(f'#!/bin/sh\n[ "$1" != create ] || echo >>{calls}\nexec {shlex.quote(runtime)} "$@"\n')
        program.chmod(0o755)
        for _ in range(runs):
            seen = []
            for words, times in ((("--no-shared",), one), ((), many)):
                calls.unlink(missing_ok=True)
                argv = [sys.executable, "-m", "labkit.guest.spec", "--runtime", str(program), "--no-confirm", *words]
                output = Path(directory, "output")
                with output.open("wb") as file:
                    times.append(timed(functools.partial(subprocess.run, argv, stdout=file, check=False)))
                lines = output.read_text().splitlines()
                points = [line for line in lines if line.startswith(("ok ", "not ok "))]
                seen.append({line.partition(" - ")[2].split()[0]: line.partition(" ")[0] for line in points})
                creates[words] = calls.read_text().count("\n")
            if seen[0] != seen[1]:
                raise SystemExit(f"the verdicts differ: {[name for name in seen[0] if seen[0][name] != seen[1][name]]}")
    told(f"the spec suite on this host, {len(points)} checks, {runtime}", one, many, "see README.md")
    print(f"  containers that were asked for  {creates['--no-shared',]} alone, {creates[()]} shared")


def compared(made: Lab, runs: int, runtime: str, floor: tuple[str, ...], ours: tuple[str, ...], reach: str) -> None:
    """Whole processes of `labkit test` with these words; the verdicts must be the same."""
    one: list[float] = []
    many: list[float] = []
    for _ in range(runs):
        seen = []
        for words, times in ((floor, one), (ours, many)):
            times.append(timed(functools.partial(made.run, "test", "--runtime", runtime, *words, ok=(0, 1))))
            results = json.loads((made.cwd / "reports/latest/results.json").read_text())["results"]
            seen.append({entry["id"]: entry["verdict"] for entry in results})
        if seen[0] != seen[1]:
            differing = {
                name: (seen[0][name], seen[1].get(name)) for name in seen[0] if seen[0][name] != seen[1].get(name)
            }
            raise SystemExit(f"the verdicts differ: {differing}")
    told(f"the spec suite, {len(results)} checks, {runtime}", one, many, reach)


if __name__ == "__main__":
    main()

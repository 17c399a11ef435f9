"""What the spy adds to a call of a runtime: `runc state` of a container that is not there, bare and through the spy."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from common import ROOT

from labkit.guest.spy import install, spy


def measure(argv: list[str]) -> tuple[float, float]:
    """Seconds that a call takes, and those of the CPU."""
    started = time.monotonic()
    child = os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)],
    )
    usage = os.wait4(child, 0)[2]
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=51)
    parser.add_argument("--runtime", default="runc")
    parser.add_argument("--python", default="/usr/bin/python3")
    args = parser.parse_args()
    assert ROOT in Path(spy.__file__).parents, "another labkit is measured"
    runtime = shutil.which(args.runtime)
    if not runtime:
        raise SystemExit(f"no {args.runtime} here")
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as directory:
        program = Path(directory) / "spy"
        program.write_bytes(install.program(args.python))
        program.chmod(0o755)
        cases = {"without state": ((), "state"), "with state": (spy.STATE, "kill")}
        for name, (state, command) in cases.items():
            text = install.configuration(runtime, f"{directory}/calls.jsonl", state=state)
            (Path(directory) / f"spy{install.ENDING}").write_text(text)
            words = ["--root", directory, command, "labkit-none"]
            bare, python, ours = [], [], []
            for _ in range(args.runs + 1):
                bare.append(measure([runtime, *words]))
                python.append(measure([args.python, "-SI", "-c", ""]))
                ours.append(measure([str(program), *words]))
            print(f"{name}: {Path(runtime).name} {command}, {args.runs} pairs, milliseconds (CPU)")
            for what, found in (("bare", bare), ("python3 -SI", python), ("through the spy", ours)):
                whole, cpu = (statistics.median(one[at] for one in found[1:]) * 1000 for at in (0, 1))
                print(f"  {what:16} {whole:7.1f} ({cpu:5.1f})")
            added = [(b[0] - a[0]) * 1000 for a, b in zip(bare[1:], ours[1:], strict=True)]
            more = [(b[1] - a[1]) * 1000 for a, b in zip(bare[1:], ours[1:], strict=True)]
            print(f"  {'added':16} {statistics.median(added):7.1f} ({statistics.median(more):5.1f}); reach: under 30")


if __name__ == "__main__":
    main()

"""What the benchmarks share: a lab in a temporary directory, commands timed as whole processes, medians of pairs."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

sys.path[:0] = [str(ROOT)]

from labkit.core.cell import Selection  # noqa: E402
from labkit.suites import registry  # noqa: E402
from labkit.usecases.run import PROGRAMS  # noqa: E402


@dataclass
class Lab:
    home: Path
    cwd: Path
    within: tuple[str, ...] = ()  # what a command begins with, to run in other namespaces
    provider: str = "qemu"

    def run(self, *words: str, ok: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        child = self.start(*words)
        out, err = child.communicate()
        if child.returncode not in ok:
            raise SystemExit(f"labkit {' '.join(words)}: {child.returncode}\n{err}")
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def peak_mib(self, *words: str) -> float:
        """The largest memory that the command, or one of the programs it waited for, had at a time."""
        child = self.start(*words, to=subprocess.DEVNULL)
        return os.wait4(child.pid, 0)[2].ru_maxrss / 1024

    def start(self, *words: str, to: int = subprocess.PIPE) -> subprocess.Popen[str]:
        env = {**os.environ, "LABKIT_HOME": str(self.home), "LABKIT_PROVIDER": self.provider}
        argv = [*self.within, sys.executable, "-m", "labkit", *words]
        return subprocess.Popen(argv, cwd=self.cwd, env=env, text=True, stdout=to, stderr=to)


@contextlib.contextmanager
def lab(within: tuple[str, ...] = (), provider: str = "qemu") -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as directory:
        made = Lab(Path(directory) / "home", Path(directory) / "work", within, provider)
        made.home.mkdir()
        made.cwd.mkdir()
        try:
            yield made
        finally:
            made.run("destroy", "--all")


def in_machine(suite: str, runtime: str, selection: Selection) -> list[str]:
    """The command that `labkit test` runs in the machine."""
    found = registry.find(suite)
    return found.argv(f"{PROGRAMS}/{found.file_name()}", runtime, selection)


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def told(name: str, floors: list[float], ours: list[float], reach: str) -> None:
    ratios = [b / a for a, b in zip(floors, ours, strict=True)]
    print(f"{name}, {len(ours)} pairs")
    print(f"  floor   median {statistics.median(floors):7.2f} s  ({min(floors):.2f} to {max(floors):.2f})")
    print(f"  labkit  median {statistics.median(ours):7.2f} s  ({min(ours):.2f} to {max(ours):.2f})")
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"  ratio   median {statistics.median(ratios):7.2f}    {spread}; reach: {reach}")

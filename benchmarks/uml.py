"""Machines of User-Mode Linux against emulated ones. See README.md.

uml.py boot|suite|memory [--runs N] [--init INIT] [--runtime NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
from pathlib import Path

from common import Lab, lab, timed, told

NAMES = {"qemu": "emulated", "uml": "uml"}  # of the machines, by provider


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("boot", "suite", "memory"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--init", default="small")
    parser.add_argument("--runtime", default="runc")
    words = parser.parse_args()
    with lab() as made:
        memory_line = 'memory = "1G"\n' if words.what == "memory" else ""
        (made.cwd / "labkit.toml").write_text(f'[machine]\ninit = "{words.init}"\n{memory_line}')
        {"boot": boot, "suite": suite, "memory": memory}[words.what](made, words)


def up(made: Lab, provider: str, *more: str) -> None:
    made.run("up", "--provider", provider, "--machine", NAMES[provider], *more)


def boot(made: Lab, words: argparse.Namespace) -> None:
    """`up` of a machine whose image is there: an emulated one from its live state, and one of UML from power off."""
    warm: list[float] = []
    cold: list[float] = []
    for provider in NAMES:
        up(made, provider)
    for _ in range(words.runs):
        for provider, times in (("qemu", warm), ("uml", cold)):
            made.run("destroy", "--machine", NAMES[provider])
            times.append(timed(functools.partial(up, made, provider)))
    told(f"up to an SSH command, init {words.init}", warm, cold, "under 3 s small, under 6 s systemd")


def suite(made: Lab, words: argparse.Namespace) -> None:
    """The whole spec suite, one machine each; verdicts that differ are printed."""
    emulated: list[float] = []
    uml: list[float] = []
    verdicts: dict[str, dict[str, str]] = {}
    for provider in NAMES:
        up(made, provider)
    for _ in range(words.runs):
        for provider, times in (("qemu", emulated), ("uml", uml)):
            argv = ["test", "--provider", provider, "--machine", NAMES[provider], "--runtime", words.runtime]
            times.append(timed(functools.partial(made.run, *argv, ok=(0, 1))))
            results = json.loads((made.cwd / "reports/latest/results.json").read_text())["results"]
            verdicts[provider] = {entry["id"]: entry["verdict"] for entry in results}
    told(f"the spec suite, {words.runtime}", emulated, uml, "at most 0.25 for runc, 0.5 for crun")
    for name in sorted(verdicts["qemu"]):
        if verdicts["qemu"][name] != verdicts["uml"].get(name):
            print(f"  {name}: {verdicts['qemu'][name]} emulated, {verdicts['uml'].get(name)} on uml")


def memory(made: Lab, words: argparse.Namespace) -> None:
    """What the processes of a machine with 1 GiB hold after its boot: resident, shared pages counted in each."""
    seen = []
    for _ in range(words.runs):
        up(made, "uml")
        seen.append(sum(map(resident_mib, processes(made.home / "machines" / NAMES["uml"]))))
        made.run("destroy", "--machine", NAMES["uml"])
    print(f"memory of a machine after its boot, {len(seen)} boots")
    print(f"  median {statistics.median(seen):.0f} MiB  ({min(seen):.0f} to {max(seen):.0f}); reach: under 150 MB")


def processes(directory: Path) -> list[Path]:
    """The directories in /proc of what runs for a machine: what works in its directory, and what that has started."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if (entry / "cwd").readlink() == directory:
                    found.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return [Path("/proc") / str(pid) for pid in found]


def resident_mib(process: Path) -> float:
    """0 of one that has ended."""
    with contextlib.suppress(OSError):
        for line in (process / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()

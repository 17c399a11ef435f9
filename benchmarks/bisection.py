"""A bisection of eight steps of a small tree: `bisection.py [--runs N] [--home DIR]`. See README.md.

The runtime is a script around the machine's runc; from one commit on it tells no bundle.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from common import Lab, in_machine, lab, told

from labkit.core import config
from labkit.core.cell import Selection
from labkit.core.observer import Silent
from labkit.machines import providers
from labkit.usecases.machines import machine_name

ONE = "STATE-001"
THERE = "/root/own"
COMMITS = 320  # eight steps between the ends
MAKEFILE = "all:\n\tcp script.sh runtime\n\tchmod 755 runtime\n"
WRONG = """case " $* " in
*" state "*) runc "$@" | sed 's/"bundle": "[^"]*"/"bundle": ""/'; exit ;;
esac
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--home", type=Path, help="a lab whose images are used, and whose machine stays")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as directory:
        if words.home:
            compared(Lab(words.home, Path(directory), provider="uml"), words.runs, Path(directory))
        else:
            with lab(provider="uml") as made:
                compared(made, words.runs, Path(directory))


def compared(made: Lab, runs: int, directory: Path) -> None:
    """`git bisect run` of make, scp and one SSH command that runs the check, against `labkit bisect`."""
    made.run("up")
    tree = directory / "tree"
    grow(tree, f"warm {time.time()}", 4)
    bisect = ("bisect", "--runtime", str(tree), "--good", "first", "--bad", "main", "--only", ONE, "--no-confirm")
    made.run(*bisect)  # so that the chroot and the suite's program are there
    settings = config.load(
        {"provider": "uml"}, cwd=made.cwd, environ={"HOME": str(made.cwd), "LABKIT_HOME": str(made.home)}
    )
    to = providers.existing(machine_name(settings), settings, Silent()).endpoint()
    options = f"-q -o StrictHostKeyChecking=yes -o UserKnownHostsFile={to.known_hosts} -i {to.key}"
    check = shlex.join(word for word in in_machine("spec", THERE, Selection(only=(ONE,))) if word != "--attached")
    script = directory / "step"
    script.write_text(f"""make >/dev/null 2>&1 || exit 125
scp {options} -P {to.port} runtime {to.user}@{to.host}:{THERE} || exit 255
ssh {options} -p {to.port} {to.user}@{to.host} {shlex.quote(check)} </dev/null >/dev/null
""")

    def by_hand() -> None:
        clone = directory / "clone"
        shutil.rmtree(clone, ignore_errors=True)
        git(directory, "clone", "-q", str(tree), str(clone))
        for end, wanted in (("first", 0), ("main", 1)):
            git(clone, "checkout", "-q", end)
            if subprocess.run(["sh", script], cwd=clone, check=False).returncode != wanted:
                raise SystemExit(f"{end} is not what it was made")
        git(clone, "checkout", "-q", "main")
        git(clone, "bisect", "start", "main", "first")
        found = git(clone, "bisect", "run", "sh", str(script))
        if "is the first bad commit" not in found:
            raise SystemExit(found)

    floors: list[float] = []
    labkits: list[float] = []
    floor_cpu: list[float] = []
    labkit_cpu: list[float] = []
    for _ in range(runs):
        grow(tree, f"run {time.time()}", COMMITS)
        for work, seconds, cpu in ((by_hand, floors, floor_cpu), (lambda: made.run(*bisect), labkits, labkit_cpu)):
            before, began = used(), time.monotonic()
            work()
            seconds.append(time.monotonic() - began)
            cpu.append(used() - before)
    told(f"labkit bisect of {COMMITS} commits of a script, --only {ONE}", floors, labkits, "1.2")
    told("the same, CPU seconds of this host's processes, without the machine's", floor_cpu, labkit_cpu, "-")


def used() -> float:
    """CPU seconds of the children that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def grow(tree: Path, mark: str, count: int) -> None:
    """A new tree of that many commits, none of which was built before; the fault is planted at three quarters."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    git(tree, "init", "-q", "-b", "main")
    stream = []
    for number in range(count):
        script = f'#!/bin/sh\n# {mark} {number}\n{WRONG if number >= count * 3 // 4 else ""}exec runc "$@"\n'
        at = f"Bench <bench@example.org> {1700000000 + number} +0000"
        stream += [f"commit refs/heads/main\ncommitter {at}\n{data(f'{mark} {number}')}"]
        stream += [f"M 100644 inline script.sh\n{data(script)}"]
        if not number:
            stream += [f"M 100644 inline Makefile\n{data(MAKEFILE)}reset refs/tags/first\nfrom refs/heads/main\n"]
    git(tree, "fast-import", "--quiet", given="".join(stream))
    git(tree, "reset", "-q", "--hard")


def data(text: str) -> str:
    return f"data {len(text.encode())}\n{text}\n"


def git(tree: Path, *words: str, given: str = "") -> str:
    done = subprocess.run(["git", "-C", tree, *words], check=False, capture_output=True, text=True, input=given)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()

"""A runtime of one's own on a running machine: `own_runtime.py [--runs N] [--runtime FILE] [--home DIR]`.

See README.md.

Each time the file is another one, as after a build.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import Lab, in_machine, lab, timed, told

from labkit.core import config
from labkit.core.cell import Selection
from labkit.core.observer import Silent
from labkit.machines import providers
from labkit.usecases.machines import machine_name

ONE = "HOOK-001"
THERE = "/root/mine"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--runtime", default=shutil.which("runc"))
    parser.add_argument("--home", type=Path, help="a lab whose images are used, and whose machine stays")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as directory:
        file = Path(directory, "mine")
        if words.home:
            compared(Lab(words.home, Path(directory), provider="uml"), words.runs, words.runtime, file)
        else:
            with lab(provider="uml") as made:
                compared(made, words.runs, words.runtime, file)


def compared(made: Lab, runs: int, runtime: str, file: Path) -> None:
    """scp, and one SSH command that runs the same check there, against `labkit test --runtime ./FILE --only ONE`."""
    made.run("up")
    ours = ("test", "--runtime", f"host:{file}", "--only", ONE)
    build(runtime, file, "")
    made.run(*ours)  # so that the suite's program is there for the floor
    settings = config.load(
        {"provider": "uml"}, cwd=made.cwd, environ={"HOME": str(made.cwd), "LABKIT_HOME": str(made.home)}
    )
    to = providers.existing(machine_name(settings), settings, Silent()).endpoint()
    options = ["-q", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={to.known_hosts}", "-i", str(to.key)]
    target = f"{to.user}@{to.host}"
    check = [*in_machine("spec", THERE, Selection(only=(ONE,)))]
    check = [word for word in check if word != "--attached"]

    def by_hand() -> None:
        subprocess.run(["scp", *options, "-P", str(to.port), file, f"{target}:{THERE}"], check=True)
        command = ["ssh", *options, "-p", str(to.port), target, shlex.join(check)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    floors, labkits, unchanged = [], [], []
    for number in range(runs):
        build(runtime, file, f"a{number}")
        floors.append(timed(by_hand))
        build(runtime, file, f"b{number}")
        labkits.append(timed(lambda: made.run(*ours)))
        unchanged.append(timed(functools.partial(not_sent, made, ours)))
    what = f"labkit test --runtime ./FILE --only {ONE}, {file.stat().st_size / 1e6:.1f} MB"
    told(what, floors, labkits, "1.5, under 5 s")
    print(f"  unchanged, so not sent again: median {statistics.median(unchanged):.2f} s")


def not_sent(made: Lab, words: Sequence[str]) -> None:
    if "sending" in made.run(*words).stderr:
        raise SystemExit("an unchanged file was sent again")


def build(runtime: str, file: Path, mark: str) -> None:
    """As a build does it: another file under the same name."""
    part = file.with_suffix(".part")
    shutil.copyfile(runtime, part)
    with part.open("ab") as out:
        out.write(mark.encode())
    part.chmod(0o755)
    part.rename(file)


if __name__ == "__main__":
    main()

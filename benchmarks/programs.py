"""The validation programs in a shell loop against labkit: `programs.py [--tree DIR]` on this host, or
`programs.py --guest` in a machine. See README.md.
"""

from __future__ import annotations

import argparse
import base64
import functools
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import Lab, in_machine, lab, timed, told

from labkit.core.cell import Selection
from labkit.guest.pyz import pyz
from tests import replay

# What a person would do without labkit. Apart from the host, because linux_ns_itype removes a bundle with live mounts.
APART = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
OUT = "/var/tmp/out"  # a place that a user namespace may look into
# Says on the machine's console, which a run keeps, when the suite's program begins and ends.
PYTHON = r"""#!/bin/sh
clock() { read -r now rest </proc/uptime; echo "bench $now" >/dev/console; }
clock
/usr/bin/python3 "$@"
status=$?
clock
exit $status
"""
LOOP = r"""
for p in $(ls -d validation/*/*.t | grep -v linux_ns_itype) validation/linux_ns_itype/linux_ns_itype.t; do
  n=$(basename "$p" .t)
  timeout -k 1 120 "$p" >"$1/$n.tap" 2>"$1/$n.err" </dev/null
  echo "$n $?" >>"$1/status"
done
"""
Points = dict[str, tuple[int, Counter[str]]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tree", type=Path, help="a built tree of runtime-tools; else a recorded run, played again")
    parser.add_argument("--runtime", default="runc")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--guest", action="store_true", help="in a machine, with a real tree: see LABKIT_RUNTIME_TOOLS")
    words = parser.parse_args()
    (in_a_guest if words.guest else here)(words)


def here(words: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as directory:
        work = Path(directory)
        tree = words.tree or replay.replayed(work / "tree", replay.V1, scale=0.2)
        program = work / "labkit-programs.pyz"
        program.write_bytes(pyz("programs"))
        argv = [sys.executable, str(program), "--tree", str(tree), "--runtime", words.runtime]
        argv += ["--jobs", str(words.jobs)] if words.jobs else []
        floors, ours = [], []
        for number in range(words.runs):
            out = work / f"out-{number}"
            out.mkdir()
            loop = [*APART, "sh", "-c", LOOP, "sh", str(out)]
            env = {**os.environ, "RUNTIME": words.runtime, "TMPDIR": str(out)}
            floors.append(timed(functools.partial(subprocess.run, loop, cwd=tree, env=env, check=True)))
            events = work / f"events-{number}"
            with events.open("wb") as file:
                ours.append(timed(functools.partial(subprocess.run, argv, stdout=file, check=True)))
            for line in differences(of_loop(out), of_driver(events)):
                print(f"  pair {number + 1} differs: {line}")
        told(f"{len(of_loop(out))} programs, {words.runtime}", floors, ours, "at most 0.55")


def in_a_guest(words: argparse.Namespace) -> None:
    """The loop, the driver started by hand there, and `labkit test` beside the time that its driver took in there."""
    argv = in_machine("validation", words.runtime, Selection(jobs=words.jobs))
    tree = argv[argv.index("--tree") + 1]
    jobs = ["--jobs", str(words.jobs)] if words.jobs else []
    loops, drivers, inside, outside = [], [], [], []
    with lab() as made, tempfile.TemporaryDirectory(prefix="labkit-bench-") as directory:
        made.run("up")
        test = ["test", "--suite", "validation", "--runtime", words.runtime]
        for number in range(words.runs):
            out, events = Path(directory) / f"out-{number}", Path(directory) / f"events-{number}"
            env = f"export RUNTIME={words.runtime} TMPDIR={OUT}"
            loops.append(by_hand(made, f"cd {tree}; {env}; {' '.join(APART)} sh -c '{LOOP}' sh $TMPDIR", out))
            made.run(*test, "--only", "hostname")  # brings the driver, which the reset has taken away
            drivers.append(by_hand(made, f"{shlex.join(argv)} >{OUT}/events", events))
            own, whole = by_labkit(made, [*test, *jobs])
            inside.append(own)
            outside.append(whole)
            for line in differences(of_loop(out), of_driver(events / "events")):
                print(f"  pair {number + 1} differs: {line}", flush=True)
    told(f"the programs in the guest, {words.runtime}", loops, drivers, "at most 0.55")
    told("labkit test against its driver in the guest, the same run", inside, outside, "at most 1.03")


def by_hand(made: Lab, script: str, out: Path) -> float:
    """Seconds of a shell script on the machine's clock; brings its OUT home and resets the machine."""
    clock = "read now rest </proc/uptime; echo $now >>/root/clock"
    made.run("ssh", "--", f"rm -rf /root/clock {OUT}; mkdir {OUT}; {clock}; {script}; {clock}")
    said = made.run("ssh", "--", f"cat /root/clock; tar -C {OUT} -c . | base64").stdout
    begin, end, archive = said.split("\n", 2)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(archive))) as tar:
        tar.extractall(out, filter="data", members=[one for one in tar if one.isfile() and one.name.count("/") == 1])
    made.run("reset")
    return float(end) - float(begin)


def by_labkit(made: Lab, words: list[str]) -> tuple[float, float]:
    """Seconds of the suite's program on the machine's clock, and of the whole process but for the reset at its end."""
    shim = base64.b64encode(PYTHON.encode()).decode()
    made.run("ssh", "--", f"cd /usr/local/bin; echo {shim} | base64 -d >python3; chmod 755 python3")
    started = time.monotonic()
    child = made.start(*words)
    assert child.stderr is not None
    for line in child.stderr:
        if "] resetting " in line:
            seconds = time.monotonic() - started
    child.communicate()
    console = (made.cwd / "reports/latest/console.log").read_text(errors="replace")
    begin, end = (float(now) for now in re.findall(r"^bench ([0-9.]+)", console, re.MULTILINE))
    return end - begin, seconds


def of_loop(directory: Path) -> Points:
    rows = [line.split() for line in (directory / "status").read_text().splitlines()]
    return {name: (int(status), points((directory / f"{name}.tap").read_bytes())) for name, status in rows}


def of_driver(events: Path) -> Points:
    said: dict[str, bytes] = {}
    status: dict[str, int] = {}
    for event in map(json.loads, events.read_bytes().splitlines()):
        if event["type"] == "data" and event["stream"] == "out":
            said[event["program"]] = said.get(event["program"], b"") + base64.b64decode(event["data"])
        elif event["type"] == "end":
            status[event["program"]] = 124 if event["timeout"] else event["status"]
    return {name: (number, points(said.get(name, b""))) for name, number in status.items()}


def points(said: bytes) -> Counter[str]:
    """The test lines at column 0 without their numbers, and without what is new in every run."""
    text = said.decode(errors="replace")
    found = re.findall(r"^((?:not )?ok)\b[ \d]*(.*)$", text, re.MULTILINE)
    return Counter(f"{ok} {re.sub(r'[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]{3,}', 'N', what)}" for ok, what in found)


def differences(a: Points, b: Points) -> list[str]:
    return [
        f"{name}: {a.get(name)!r:.300} {b.get(name)!r:.300}" for name in sorted({*a, *b}) if a.get(name) != b.get(name)
    ]


if __name__ == "__main__":
    main()

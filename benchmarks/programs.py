"""The validation programs in a shell loop against labkit's driver: `programs.py [--tree DIR]`. See README.md."""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from common import ROOT, timed, told

sys.path[:0] = [str(ROOT)]

from labkit.pyz import pyz  # noqa: E402
from labkit.suites import labkit_programs  # noqa: E402
from tests import replay  # noqa: E402

# What a person would do without labkit. Apart from the host, because linux_ns_itype removes a bundle with live mounts.
APART = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
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
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as folder:
        work = Path(folder)
        tree = words.tree or replay.replayed(work / "tree", replay.V1, scale=0.2)
        program = work / "labkit-programs.pyz"
        program.write_bytes(pyz(Path(labkit_programs.__file__).parent))
        argv = [sys.executable, str(program), "--tree", str(tree), "--runtime", words.runtime]
        argv += ["--jobs", str(words.jobs)] if words.jobs else []
        floors, ours = [], []
        for number in range(words.runs):
            out = work / f"out-{number}"
            out.mkdir()
            loop = [*APART, "sh", "-c", LOOP, "sh", str(out)]
            env = {**os.environ, "RUNTIME": words.runtime, "TMPDIR": str(out)}
            floors.append(timed(lambda loop=loop, env=env: subprocess.run(loop, cwd=tree, env=env, check=True)))
            events = work / f"events-{number}"
            with events.open("wb") as file:
                ours.append(timed(lambda file=file: subprocess.run(argv, stdout=file, check=True)))
            for line in differences(of_loop(out), of_driver(events)):
                print(f"  pair {number + 1} differs: {line}")
        told(f"{len(of_loop(out))} programs, {words.runtime}", floors, ours, "at most 0.55")


def of_loop(folder: Path) -> Points:
    rows = [line.split() for line in (folder / "status").read_text().splitlines()]
    return {name: (int(status), points((folder / f"{name}.tap").read_bytes())) for name, status in rows}


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

"""What the spec suite prints, read by other programs: tap.py, and node's tap-parser where npm can be had."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tap.parser import Parser

from labkit.results import tap
from labkit.suites.spec import from_tap

CHECKOUT = Path(__file__).parent.parent
NODE = """
import {Parser} from 'tap-parser'; import fs from 'fs';
const wrong = [];
const parser = new Parser({strict: true}, result => console.log(JSON.stringify({
  count: result.count, skip: result.skip, ok: result.ok, bail: result.bailout, plan: result.plan.end,
  wrong: wrong.concat(result.failures.filter(one => one.tapError)),
})));
parser.on('extra', line => wrong.push(line));
parser.end(fs.readFileSync(process.argv[2]));
"""
Read = Callable[[Path], Mapping[str, Any]]


def by_python(file: Path) -> Mapping[str, Any]:
    lines = list(Parser().parse_file(str(file)))
    kinds = Counter(line.category for line in lines)
    tests = [line for line in lines if line.category == "test"]
    plans = [line.expected_tests for line in lines if line.category == "plan"]
    bails = [line.reason for line in lines if line.category == "bail"]
    return {
        "count": len(tests), "skip": sum(line.skip for line in tests), "bail": bails[0] if bails else False,
        "plan": plans[0] if plans else None, "wrong": ["unknown"] * kinds["unknown"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def by_node(tmp_path_factory: pytest.TempPathFactory) -> Read:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("there is no node here")
    directory = tmp_path_factory.mktemp("node")
    words = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(directory), "tap-parser@18"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"tap-parser cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    (directory / "read.mjs").write_text(NODE)

    def read(file: Path) -> Mapping[str, Any]:
        words = [node, str(directory / "read.mjs"), str(file)]
        said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
        return dict(json.loads(said))

    return read


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a run with passes, failures and skips, and of one where nothing can be created."""
    directory = tmp_path_factory.mktemp("tap")
    found = {}
    for runtime in ("runc", "false"):
        words = [sys.executable, "-m", "labkit.guest.spec", "--runtime", runtime]
        done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, timeout=200, check=False)
        found[runtime] = directory / f"{runtime}.tap"
        found[runtime].write_bytes(done.stdout)
    return found


@pytest.mark.host_runtime
@pytest.mark.needs("runc", "busybox")
@pytest.mark.parametrize("reader", ["tap.py", "tap-parser"])
def test_others_read_what_labkit_reads(reader: str, outputs: dict[str, Path], request: pytest.FixtureRequest) -> None:
    read: Read = by_python if reader == "tap.py" else request.getfixturevalue("by_node")
    ours = from_tap(tap.read(outputs["runc"].read_bytes()))
    verdicts = Counter(result.verdict.value for result in ours.results)
    count = len(ours.results)
    assert verdicts["fail"]
    found = dict(read(outputs["runc"]))
    assert found.pop("ok", False) is False, "it has failures"
    assert found == {
        "count": count, "skip": verdicts["skip"], "bail": False, "plan": count, "wrong": []
    }  # fmt: skip
    nothing = read(outputs["false"])
    assert (nothing["count"], nothing["wrong"]) == (0, [])
    assert "no container can be created here" in nothing["bail"]

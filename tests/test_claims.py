"""The spec suite goes by what a runtime does and claims in `features`, not by its name or version."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labkit.io import process
from labkit.results import tap
from labkit.results.model import Verdict
from labkit.suites.spec import from_tap

pytestmark = pytest.mark.host_runtime
CHECKOUT = Path(__file__).parent.parent


@pytest.fixture
def runc() -> Path:
    found = process.which("runc")
    assert found, "these tests need runc"
    return found


def said(runc: Path, word: str) -> str:
    return subprocess.run([runc, word], check=True, capture_output=True, text=True).stdout


def wrapped(directory: Path, runc: Path, version: str, features: dict[str, Any]) -> Path:
    """A program that is runc but for what it says about itself."""
    (directory / "version").write_text(version)
    (directory / "features").write_text(json.dumps(features))
    path = directory / "runtime"
    where = shlex.quote(str(directory))
    path.write_text(
        f'#!/bin/sh\ncase "$1" in\n--version) exec cat {where}/version;;\nfeatures) exec cat {where}/features;;\nesac\n'
        f'exec {shlex.quote(str(runc))} "$@"\n'
    )
    path.chmod(0o755)
    return path


def verdicts(runtime: Path, *only: str) -> dict[str, Verdict]:
    words = ["--runtime", str(runtime), *(["--only", ",".join(only)] if only else [])]
    done = process.run([sys.executable, "-m", "labkit.guest.spec", *words], cwd=CHECKOUT, timeout=300, check=False)
    reading = from_tap(tap.read(done.stdout.encode()))
    assert reading.reason is None, done.stderr
    return {result.id: result.verdict for result in reading.results}


def test_another_name_and_version_change_no_verdict(runc: Path, tmp_path: Path) -> None:
    features = {**json.loads(said(runc, "features")), "ociVersionMax": "1.2.0"}
    version = said(runc, "--version")
    assert version.startswith("runc version ")
    found = []
    for name, text in (("named", version), ("renamed", "other version 9.9\n")):
        (tmp_path / name).mkdir()
        found.append(verdicts(wrapped(tmp_path / name, runc, text, features)))
    assert len(found[0]) > 100
    assert found[0] == found[1]


@pytest.mark.parametrize("claims_idmap", [False, True])
def test_what_is_ignored_fails_whatever_features_admits(runc: Path, tmp_path: Path, claims_idmap: bool) -> None:
    if not said(runc, "--version").startswith("runc version 1.1."):
        pytest.skip("a runc before 1.2 ignores these properties")
    features = {**json.loads(said(runc, "features")), "ociVersionMax": "1.2.0"}
    if claims_idmap:
        features["linux"] = {**features["linux"], "mountExtensions": {"idmap": {"enabled": True}}}
    ids = ("HOST-002", "MOUNT-008", "MOUNT-009", "PERS-001")
    found = verdicts(wrapped(tmp_path, runc, "other version 9.9\n", features), *ids)
    assert found == dict.fromkeys(ids, Verdict.FAIL)

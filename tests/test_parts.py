"""Checks that share a container: the same verdicts as alone, whatever the runtime does to the shared one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labkit.guest.spec import registry
from labkit.results import tap
from labkit.suites.spec import from_tap

CHECKOUT = Path(__file__).parent.parent
SHARED = [check.requirement.id for check in registry.load().values() if check.group]
pytestmark = [pytest.mark.host_runtime, pytest.mark.needs("runc", "busybox")]


def verdicts(runtime: str | Path, *words: str) -> dict[str, str]:
    argv = [sys.executable, "-m", "labkit.guest.spec", "--runtime", str(runtime), "--only", ",".join(SHARED), *words]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, timeout=300, check=False)
    found = {result.id: result.verdict.value for result in from_tap(tap.read(done.stdout)).results}
    assert sorted(found) == sorted(SHARED), done.stderr.decode()
    return found


def wrapper(directory: Path, script: str) -> Path:
    """runc behind a shell script that sees each call first; $config is the bundle's config.json."""
    path = directory / "runtime"
    path.write_text(f'#!/bin/sh\nconfig=$3/config.json\n{script}\nexec runc "$@"\n')
    path.chmod(0o755)
    return path


def test_verdicts_are_those_of_each_alone_and_creates_fewer(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    counting = wrapper(tmp_path, f'[ "$1" != create ] || echo >>{calls}')
    together = verdicts(counting)
    few = calls.read_text().count("\n")
    calls.unlink()
    assert verdicts(counting, "--no-shared") == together
    assert few * 3 < calls.read_text().count("\n")


def test_a_runtime_that_makes_no_shared_container(tmp_path: Path) -> None:
    """Because its config is too rich for it."""
    refusing = wrapper(
        tmp_path, '[ "$1" != create ] || [ "$(grep -o "/out/[A-Z0-9-]*.stdout" $config | wc -l)" -lt 2 ] || exit 1'
    )
    assert verdicts(refusing, "--no-confirm") == verdicts("runc", "--no-shared", "--no-confirm")


def test_a_container_that_hangs_or_ends_early_blames_nobody(tmp_path: Path) -> None:
    killing = wrapper(tmp_path, 'case $1$2 in start*-shared-*) exec runc kill "$2" KILL;; esac')
    assert verdicts(killing, "--no-confirm") == verdicts("runc", "--no-shared", "--no-confirm")


def test_what_one_has_wrong_is_its_own(tmp_path: Path) -> None:
    ignoring = wrapper(tmp_path, '[ "$1" != create ] || sed -i "s/lk-host.example.org/other/" $config')
    found = verdicts(ignoring)
    usual = verdicts("runc")
    assert found["HOST-001"] == "fail"
    assert {**found, "HOST-001": ""} == {**usual, "HOST-001": ""}

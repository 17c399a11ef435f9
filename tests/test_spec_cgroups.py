"""What checks of the spec suite make in cgroup file systems, and hosts that lack a controller."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.guest.common.cgroups import CGROUP_ROOT, cgroup_version
from labkit.guest.spec import cleanup
from labkit.io import process
from labkit.results import tap
from labkit.results.model import Result, Verdict
from labkit.suites.spec import from_tap
from tests.conftest import ROOT

pytestmark = [pytest.mark.host_runtime, pytest.mark.needs("runc", "busybox")]
PIDS = CGROUP_ROOT / "pids"
WITHOUT_PIDS = "CREATE-004,CG-001,CG-002,CG-003,CG-004,CG-006,CG-038,CG-039,CG-047,CG-052,DELETE-004,DELETE-005"


def a_hierarchy() -> Path:
    return CGROUP_ROOT if cgroup_version() == "v2" else PIDS


@pytest.fixture
def cgroups() -> Iterator[list[Path]]:
    name = f"labkit-{os.getpid():x}{os.urandom(4).hex()}"
    paths = [
        name,
        f"{name}/CG-001/1",
        f"{name}-cg-047-3",
        f"crun-{name}-cg-047-3",
        f"{name}.scope",
        f"{name}f",
        "other",
    ]
    made = [a_hierarchy() / path for path in [*paths[:-1], f"not-of-{name}x"]]
    for path in made:
        path.mkdir(parents=True, exist_ok=True)
    yield made
    for path in reversed(made):
        if path.is_dir():
            path.rmdir()


def test_a_sweep_finds_every_cgroup_of_a_run_and_no_other(cgroups: list[Path]) -> None:
    cleanup.sweep_cgroups(cgroups[0].name)
    assert [path.is_dir() for path in cgroups] == [False] * 5 + [True] * 2


def results(*words: str, only: str) -> dict[str, Result]:
    argv = [*words, sys.executable, "-m", "labkit.guest.spec", "--runtime", "runc", "--only", only, "--no-confirm"]
    done = process.run(argv, cwd=ROOT, timeout=300, check=False)
    found = {result.id: result for result in from_tap(tap.read(done.stdout.encode())).results}
    assert set(found) == set(only.split(",")), done.stdout[-500:] + done.stderr[-500:]
    return found


@pytest.mark.skipif(not (PIDS / "cgroup.procs").exists(), reason="needs cgroup v1 with a controller pids")
def test_no_verdict_blames_a_runtime_for_a_host_without_pids() -> None:
    found = results("unshare", "--mount", "sh", "-c", f'umount {PIDS} && exec "$@"', "sh", only=WITHOUT_PIDS)
    skipped = {id: result.diagnostic.get("message") for id, result in found.items() if result.verdict is Verdict.SKIP}
    assert skipped == {"CG-006": "no cgroup controller pids"}
    assert {id for id, result in found.items() if result.verdict is not Verdict.PASS} == {"CG-006"}


def test_checks_leave_no_cgroup_beside_their_own() -> None:
    def all_there() -> set[str]:
        tops = [CGROUP_ROOT, *(entry for entry in CGROUP_ROOT.iterdir() if entry.is_dir())]
        below = [str(entry) for top in tops for entry in top.iterdir() if entry.is_dir()]
        return {path for path in below if not Path(path).name.startswith("labkit-")}

    before = all_there()
    results(only="DELETE-005,CG-003,CG-038,CG-040,CG-047")
    assert all_there() - before == set()

"""The image suite catches broken converters: each fault by its checks, and by no others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from labkit.guest.engines.own import DATA
from labkit.results.images import events, judge
from tests.conftest import ROOT
from tests.converters import FAULTS

pytestmark = pytest.mark.host_runtime

_OTHER = "BUILD-020"  # what another program says, where it is there


@pytest.fixture(scope="module")
def failed() -> dict[str, set[str]]:
    """The checks that each converter fails; "" is the one that is right. All in one mount namespace."""
    script = f'mount -t tmpfs tmpfs {DATA} && exec "$@"'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    DATA.mkdir(parents=True, exist_ok=True)
    argv = [*words, sys.executable, "-m", "tests.converters"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    lines: dict[str, list[bytes]] = {}
    for line in done.stdout.splitlines():
        lines.setdefault(json.loads(line)["fault"], []).append(line)
    found = {}
    for fault, some in lines.items():
        output = events.read(b"\n".join(some))
        assert output.reason is None
        results = judge.judge(output)
        assert fault or len(results) == len(judge.table())
        found[fault] = {one.id for one in results if one.bad and not (fault and one.id == _OTHER)}
    return found


def test_a_converter_without_a_fault_passes_everything(failed: dict[str, set[str]]) -> None:
    assert failed[""] == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_its_checks(failed: dict[str, set[str]], fault: str) -> None:
    assert failed[fault] == set(FAULTS[fault])


def test_every_check_catches_a_fault() -> None:
    caught = {ident for idents in FAULTS.values() for ident in idents}
    # A layer that cannot be read at all, and what another program says, need no fault of ours.
    assert set(judge.table()) - caught == {"LAYER-001", "LAYER-002", "LAYER-015", "LAYER-042", "LAYER-044", _OTHER}

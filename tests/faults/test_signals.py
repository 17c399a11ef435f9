"""A signal to labkit at every stage of every command, on simulated machines."""

from __future__ import annotations

import json

import pytest

from tests.faults.driver import FaultLab, Templates, marked
from tests.faults.table import SIGNAL_CASES, SignalCase

pytestmark = pytest.mark.needs("qemu-img")

BEFORE = {"never booted": "bare", "no image": "empty"}


@pytest.mark.parametrize("case", marked(SIGNAL_CASES))
def test_signal(templates: Templates, case: SignalCase) -> None:
    lab = templates.copy(BEFORE.get(case.before, case.before))
    try:
        check(lab, case)
    finally:
        lab.close()


def check(lab: FaultLab, case: SignalCase) -> None:
    """The whole of a row: the signal, what is there after it, and the next plain command."""
    stage = case.stage
    done = lab.signalled(stage.point, case.number, *stage.command)
    assert done.status == case.status, done
    assert lab.state() == case.after, done
    if not case.killed:
        lab.nothing_left()
    if stage.command[0] == "test":
        check_run(lab)
        assert stage.name == "begin" or list(lab.cwd.glob("reports/[0-9]*Z*"))
        lab.run(*stage.command)
    else:
        lab.run("up")
    lab.nothing_left()
    assert not list(lab.machine.glob("state*"))
    if case.before in ("halted", "crashed", "running") and not stage.loses and case.after != "absent":
        assert lab.precious()
    assert len(lab.processes(lab.machine)) >= 1


def check_run(lab: FaultLab) -> None:
    """The run that was broken off can be read and reported, whatever is there of it."""
    runs = sorted(lab.cwd.glob("reports/[0-9]*Z*"))
    assert len(runs) <= 1
    if runs:
        complete = json.loads((runs[0] / "results.json").read_text())["run"]["complete"]
        lab.run("report", "--run", runs[0].name, status=0 if complete else 4)
        names = {"results.json", "results.tap", "junit.xml", "report.html"}
        assert names <= {path.name for path in runs[0].iterdir()}

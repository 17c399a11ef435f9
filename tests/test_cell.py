"""A cell is all that one run is about, and run_cell the one way to run it: here on a machine in memory."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.errors import MachineError, UsageError
from labkit.machines.base import MachineState, Resettable
from labkit.machines.fake import FakeMachine, Reply
from labkit.suites.base import SilentRun
from labkit.usecases.run import Outcome, run_cell
from labkit.usecases.test import cell_of

CELL = Cell("debian", "13", "auto", "m", "runc", "spec", Selection(("QUERY-001",)))
OUTPUT = b"TAP version 14\n1..1\n# kernel: 6.1\n# cgroup: v2\n# runtime-version: runc version 1.1\nok 1 - QUERY-001 x\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})


def suite_prints(output: bytes) -> FakeMachine:
    def respond(argv: Sequence[str]) -> Reply:
        return Reply(0, output) if any(word.endswith(".pyz") for word in argv) else Reply()

    return FakeMachine("m", respond)


def run(cell: Cell, settings: Settings, machine: FakeMachine) -> Outcome:
    return run_cell(cell, settings, SilentRun(), None, lambda *_: machine)


def test_a_cell_can_be_a_key_and_be_sent_away() -> None:
    again = pickle.loads(pickle.dumps(CELL))
    assert again == CELL
    assert {CELL: 1}[again] == 1
    assert Cell("debian", "12", "auto", "m", "runc", "spec") not in {CELL}


def test_the_settings_make_a_cell(settings: Settings) -> None:
    cell = cell_of(settings, Selection())
    assert cell == Cell("debian", "13", "auto", "debian-13", "runc", "spec")
    of_cell = settings.of_cell(cell).model_copy(update={"machine": settings.machine, "release": None})
    assert of_cell.model_dump() == settings.model_dump()
    named = config.load(
        {"machine": "mine", "release": "12", "runtime": "crun"}, cwd=settings.home.path.parent, environ={}
    )
    assert cell_of(named, Selection()).machine == "mine"
    with pytest.raises(UsageError, match="unknown release of Debian '99'"):
        cell_of(config.load({"release": "99"}, cwd=settings.reports.parent, environ={"HOME": "/"}), Selection())


def test_the_cell_decides_not_the_settings(settings: Settings) -> None:
    other = settings.model_copy(update={"platform": "fedora", "runtime": "crun", "suite": "validation"})
    machine = suite_prints(OUTPUT)
    outcome = run(CELL, other, machine)
    assert (machine.platform, machine.release) == ("debian", "13")
    assert outcome.run.title == f"spec {outcome.run.suite.version} on runc 1.1"
    assert machine.commands[-1][-4:] == ("--runtime", "runc", "--only", "QUERY-001")
    assert (outcome.exit_status, outcome.run.machine["cgroup"]) == (0, "v2")
    assert {path.name for path in outcome.directory.iterdir()} == {
        "raw", "console.log", "results.json", "results.tap", "junit.xml", "report.html",
    }  # fmt: skip


def test_a_suite_that_leaves_disorder_ends_with_a_reset(settings: Settings) -> None:
    machine = suite_prints(b'{"type": "finish"}\n')
    whole = Cell("debian", "13", "auto", "m", "runc", "validation")
    run(whole, settings, machine)
    assert machine.steps == ["create", "connect", "reset"]
    machine.steps.clear()
    machine.fails["reset"] = MachineError("no")
    assert run(whole, settings, machine).exit_status == 4  # the results are there all the same
    assert machine.steps == ["start", "update", "connect", "reset"]
    machine.steps.clear()
    run(Cell("debian", "13", "auto", "m", "runc", "validation", Selection(("create",))), settings, machine)
    assert "reset" not in machine.steps


@pytest.mark.parametrize("step", ["create", "connect"])
def test_a_machine_that_fails_leaves_no_run(settings: Settings, step: str) -> None:
    machine = suite_prints(OUTPUT)
    machine.fails[step] = MachineError("it is broken")
    with pytest.raises(MachineError, match="it is broken"):
        run(CELL, settings, machine)
    assert not settings.reports.exists()


def test_what_only_some_machines_can_do_is_asked_for_by_protocol() -> None:
    from labkit.machines.host import HostMachine
    from labkit.machines.qemu import QemuMachine
    from labkit.machines.vagrant import VagrantMachine

    for kind in (QemuMachine, VagrantMachine, FakeMachine):
        assert callable(kind.reset) and callable(kind.halt)
    assert not hasattr(HostMachine, "reset") and not hasattr(HostMachine, "halt")
    assert isinstance(FakeMachine(), Resettable)
    assert FakeMachine().state is MachineState.ABSENT

"""Rows of the table on real machines, of the labs that the tests of machines share: one of QEMU for what is about that,
else one of whatever kind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests.conftest import Lab
from tests.faults.driver import RealLab, marked, others
from tests.faults.table import REAL_TOO, SAMPLE, SIGNAL_CASES, SignalCase

pytestmark = pytest.mark.machine

REAL = [case for case in SIGNAL_CASES if case.real]


def cases(*, emulated: bool) -> list[ParameterSet]:
    found = [case for case in REAL if case.emulated == emulated]
    return [
        *marked(case for case in found if case.id in SAMPLE),
        *others(case for case in found if case.id not in SAMPLE),
    ]


class QemuLab(RealLab):
    """The machine is of QEMU, or of what the lab's machines are."""

    def prepare(self, before: str) -> None:
        """Bring the machine into that state, with the file in it."""
        if before == "new":
            self.run("destroy")
            return
        self.run("up")
        if not self.precious():
            self.in_guest("echo precious >/root/precious; sync")
        if before == "halted":
            self.run("halt")
        elif before == "crashed":
            self.kill_qemu()
        assert self.state() == before


def within(lab: Lab, place: Path) -> Iterator[QemuLab]:
    temporary, cwd = place / "tmp", place / "work"
    temporary.mkdir()
    cwd.mkdir()
    environ = lab.environment({"LABKIT_MACHINE_NAME": "faults", "TMPDIR": str(temporary)})
    made = QemuLab(lab.home, cwd, environ, place, temporary, name="faults")
    yield made
    made.run("destroy", status=None)
    made.close()


@pytest.fixture(scope="module")
def real(emulated: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuLab]:
    yield from within(emulated, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def any_real(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuLab]:
    yield from within(lab, tmp_path_factory.mktemp("any-real"))


def test_the_sample_is_of_the_table() -> None:
    assert {case.id for case in REAL} >= SAMPLE | REAL_TOO


def signalled(real: QemuLab, case: SignalCase) -> None:
    stage = case.stage
    assert stage.real is not None
    real.prepare(case.before)
    done = real.signalled(stage.real, case.number, *stage.command)
    assert done.status == case.status, done
    assert real.state() == case.after, done
    if not case.killed:
        real.nothing_left()
    if stage.command[0] == "test":
        real.run("report", status=None)
        real.run(*stage.command)
    else:
        real.run("up")
    real.nothing_left()
    if case.before != "new" and not stage.loses and case.after != "absent":
        assert real.precious()
    else:
        assert real.in_guest("true") is not None


@pytest.mark.emulated
@pytest.mark.parametrize("case", cases(emulated=True))
def test_signal_on_a_real_qemu(real: QemuLab, case: SignalCase) -> None:
    signalled(real, case)
    assert real.qemu(), "there is one, and no other"


@pytest.mark.parametrize("case", cases(emulated=False))
def test_signal_on_a_real_machine(any_real: QemuLab, case: SignalCase) -> None:
    signalled(any_real, case)


@pytest.mark.emulated
def test_a_real_qemu_that_is_stopped(real: QemuLab) -> None:
    real.prepare("running")
    pid = real.qemu()
    os.kill(pid, signal.SIGSTOP)
    done = real.run("up", status=3)
    assert f"kill -CONT {pid}" in done.stderr
    os.kill(pid, signal.SIGCONT)
    real.run("up")
    assert real.precious()

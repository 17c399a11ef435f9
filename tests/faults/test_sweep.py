"""labkit is killed before each change that it makes, one by one, on simulated machines."""

from __future__ import annotations

import signal

import pytest

from tests.faults.driver import Templates
from tests.faults.points import Change
from tests.faults.table import SWEEPS

pytestmark = [pytest.mark.long, pytest.mark.needs("qemu-img")]

_MOST = 150  # changes that a command may make


@pytest.mark.parametrize(
    ("command", "before"),
    [pytest.param(*sweep, marks=[pytest.mark.slow] if sweep == ("test", "halted") else []) for sweep in SWEEPS],
)
def test_every_change(templates: Templates, command: str, before: str) -> None:
    for number in range(1, _MOST):
        lab = templates.copy(before)
        try:
            child = lab.start(command, at=Change(number), act=lab.kill_itself)
            if child.end().status != -signal.SIGKILL:
                assert number > 5, "it has made changes"
                return
            gone = command == "destroy" and lab.state() == "absent"
            lab.run("test" if command == "test" else "up")
            lab.nothing_left()
            assert gone or lab.precious(), f"lost by SIGKILL before change {number}"
        finally:
            lab.close()
    raise AssertionError(f"{command} makes more than {_MOST} changes")

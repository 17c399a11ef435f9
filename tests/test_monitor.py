"""QEMU's monitor, where QEMU does not do its part."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.core.deadline import Deadline
from labkit.core.errors import MachineError
from labkit.qemu.monitor import Monitor
from tests.conftest import ROOT


def test_one_that_takes_the_connection_and_never_greets(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "qmp.sock"))
        silent.listen()
        with pytest.raises(MachineError, match="QEMU does not answer on its monitor"):
            Monitor(tmp_path, "qmp.sock", Deadline.after(0.1))


def test_an_attempt_that_was_given_up_leaves_no_traceback(tmp_path: Path) -> None:
    """On a busy host the first attempts fail; the library told that on stderr when its loop was taken away."""
    script = f"""if True:
    import gc, socket
    from pathlib import Path
    from labkit.core.deadline import Deadline
    from labkit.core.errors import MachineError
    from labkit.qemu.monitor import Monitor
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind({str(tmp_path / "qmp.sock")!r})
        silent.listen()
        for _ in range(2):
            try:
                Monitor(Path({str(tmp_path)!r}), "qmp.sock", Deadline.after(0.1))
            except MachineError as error:
                print(error.message)
    gc.collect()
    """
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.count("does not answer") == 2

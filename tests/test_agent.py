"""What a guest answers on the port of its agent, and what its console says of it: through a real socket, and a file."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core.deadline import Deadline
from labkit.core.errors import MachineError
from labkit.io.console import CONSOLE
from labkit.qemu.agent import Agent
from labkit.qemu.hardware import AGENT
from labkit.qemu.launch import ask


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[socket.socket]:
    """Where the guest's side of the port listens."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / AGENT))
        listening.listen(1)
        yield listening


def test_a_failed_bootstrap_is_told_with_its_log_though_the_console_is_slower(
    tmp_path: Path, guest: socket.socket
) -> None:
    (tmp_path / CONSOLE).write_text("debian login: \n")

    def fails() -> None:
        port, _ = guest.accept()
        with port, (tmp_path / CONSOLE).open("a", buffering=1) as console:
            port.sendall(b"bootstrap 1\n")
            for line in ("E: Unable to locate package no-such-package\n", "labkit: bootstrap failed\n"):
                time.sleep(0.4)
                console.write(line)
            port.recv(1)

    thread = threading.Thread(target=fails)
    thread.start()
    with Agent(tmp_path) as agent, pytest.raises(MachineError, match="could not come up: its agent answered 1") as told:
        ask(agent, tmp_path, "true", Deadline.after(60), "come up")
    thread.join()
    assert "Unable to locate package no-such-package" in (told.value.hint or "")


def test_a_script_that_fails_is_told_at_once(tmp_path: Path, guest: socket.socket) -> None:
    (tmp_path / CONSOLE).write_text("debian login: \n")

    def answers() -> None:
        port, _ = guest.accept()
        with port:
            token = base64.b64decode(port.recv(4096)).split()[2]  # of: trap 'echo TOKEN $? >&3' EXIT
            port.sendall(b"of-an-older-script 0\n" + token + b" 3\n")
            port.recv(1)

    thread = threading.Thread(target=answers)
    thread.start()
    began = time.monotonic()
    with Agent(tmp_path) as agent, pytest.raises(MachineError, match="could not halt: its agent answered 3"):
        ask(agent, tmp_path, "exit 3", Deadline.after(60), "halt")
    thread.join()
    assert time.monotonic() - began < 20, "it does not wait for a bootstrap's log"

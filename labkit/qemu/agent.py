"""The virtio port into a guest, through which the agent of bootstrap/80-agent.sh runs short scripts as root."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

from labkit.core.deadline import Deadline
from labkit.core.errors import MachineError
from labkit.io.files import through
from labkit.qemu.hardware import AGENT


class Agent:
    """A connection to the agent of the machine in directory; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        with through(directory) as base:
            try:
                self._socket.connect(f"{base}/{AGENT}")
            except OSError as error:
                self._socket.close()
                raise MachineError(f"no machine answers at {directory / AGENT}: {error}") from error

    def send(self, script: str) -> None:
        try:
            self._socket.sendall(base64.b64encode(script.encode()) + b"\n")
        except OSError as error:
            raise MachineError(f"the machine ended before its agent got the script: {error}") from error

    def answer(self, seconds: float) -> int | None:
        """The script's exit status; None if none came within seconds."""
        self._socket.settimeout(max(seconds, 0.001))
        line = b""
        try:
            while not line.endswith(b"\n"):
                piece = self._socket.recv(64)
                if not piece:
                    raise MachineError("the machine ended before its agent answered")
                line = (line + piece)[-64:]
        except TimeoutError:
            return None
        except OSError as error:
            raise MachineError(f"the machine ended before its agent answered: {error}") from error
        text = line.strip()
        return int(text) if text.isdigit() else 255

    def run(self, script: str, deadline: Deadline, what: str) -> None:
        """Run script in the guest. Raises MachineError where it fails or the deadline passes."""
        self.send(script)
        status = self.answer(deadline.left)
        if status is None:
            raise MachineError(f"the guest did not {what} in time")
        if status:
            raise MachineError(f"the guest could not {what} (status {status}; see /run/labkit-agent.log in it)")

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

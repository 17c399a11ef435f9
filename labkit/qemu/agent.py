"""The virtio port into a guest, through which the agent of bootstrap/80-agent.sh runs short scripts as root."""

from __future__ import annotations

import base64
import secrets
import socket
from pathlib import Path

from labkit.core.deadline import Deadline
from labkit.core.errors import MachineError
from labkit.io.files import through
from labkit.qemu.hardware import AGENT

_BOOTSTRAP = b"bootstrap"  # in place of a token: templates/user-data.j2 tells a bootstrap that failed


class Agent:
    """A connection to the agent of the machine in directory; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._token = self._rest = self._line = b""
        self.bootstrap_failed = False  # the answer was that, and not the script's
        with through(directory) as base:
            try:
                self._socket.connect(f"{base}/{AGENT}")
            except OSError as error:
                self._socket.close()
                raise MachineError(f"no machine answers at {directory / AGENT}: {error}") from error

    def send(self, script: str) -> None:
        """Have the guest run script. Its answer has a token: that of a script of a killed labkit may come first.

        Descriptor 3 is the port in whatever the agent runs.
        """
        self._token = secrets.token_hex(8).encode()
        told = f"trap 'echo {self._token.decode()} $? >&3' EXIT\n{script}"
        self._line = base64.b64encode(told.encode()) + b"\n"
        self._write(self._line)

    def repeat(self) -> None:
        """Send the script again, as a line of its own whatever has come of the first one."""
        self._write(b"\n" + self._line)

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise MachineError(f"the machine ended before its agent got the script: {error}") from error

    def answer(self, seconds: float) -> int | None:
        """The script's exit status; None if none came within seconds."""
        deadline = Deadline.after(max(seconds, 0.001))
        try:
            while True:
                *lines, self._rest = self._rest.split(b"\n")
                for token, _, status in (line.strip().partition(b" ") for line in lines):
                    if token in (self._token, _BOOTSTRAP):
                        self.bootstrap_failed = token == _BOOTSTRAP
                        return int(status) if status.isdigit() else 255
                if deadline.passed:
                    return None
                self._socket.settimeout(max(deadline.left, 0.001))
                piece = self._socket.recv(64)
                if not piece:
                    raise MachineError("the machine ended before its agent answered")
                self._rest = self._rest[-64:] + piece
        except TimeoutError:
            return None
        except OSError as error:
            raise MachineError(f"the machine ended before its agent answered: {error}") from error

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

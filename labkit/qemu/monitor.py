"""The one place that speaks QMP, QEMU's monitor protocol, with the library of the QEMU project."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import Any

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from labkit.core.deadline import Deadline
from labkit.core.errors import MachineError, MonitorGone
from labkit.io.files import through

_ANSWER = 30.0  # seconds that QEMU has for the answer to a command
_LEAST = 1.0  # seconds that an attempt to connect has, also near the deadline, and the goodbye


class Monitor:
    """A connection to the QEMU whose monitor socket is directory/name; a context manager.

    The library's event loop has a thread of its own: a signal that interrupts a wait for QEMU never meets it.
    """

    def __init__(self, directory: Path, name: str, deadline: Deadline) -> None:
        """Connect as soon as the socket is there. Raises MachineError when the deadline passes before."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._client = self._connected(directory, name, deadline)
        except BaseException:
            self._close()
            raise

    def _connected(self, directory: Path, name: str, deadline: Deadline) -> QMPClient:
        with through(directory) as base:
            while True:
                client = QMPClient("labkit")
                try:
                    # A QEMU that stands still takes the connection and never greets.
                    self._wait(client.connect(f"{base}/{name}"), max(deadline.left, _LEAST))
                    return client
                except (ConnectError, OSError) as error:
                    if deadline.passed:
                        raise MachineError(
                            f"QEMU does not answer on its monitor {directory / name}: {error or 'it is silent'}"
                        ) from error
                time.sleep(0.01)

    def _wait(self, asked: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """What comes of it within seconds, else TimeoutError."""
        future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        try:
            return future.result(seconds)
        except BaseException:
            future.cancel()
            raise

    def _close(self) -> None:
        async def ended() -> None:
            """What was given up is still on its way out: a loop that stops before says so on stderr, at length."""
            left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
            if left:
                await asyncio.wait(left, timeout=_LEAST)

        # And what nobody waits for any more, nobody is told of.
        self._loop.set_exception_handler(lambda *_: None)
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(ended(), self._loop).result(2 * _LEAST)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LEAST)
        if not self._thread.is_alive():
            self._loop.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """The command's return value. Raises MachineError where QEMU refuses it or is silent, MonitorGone where it
        ends.
        """
        try:
            return self._wait(self._client.execute(command, dict(arguments) or None), _ANSWER)
        except ExecuteError as error:
            raise MachineError(f"QEMU refused {command}: {error}") from error
        except TimeoutError as error:
            raise MachineError(f"QEMU has not answered {command} for {_ANSWER:g} s") from error
        except (QMPError, CancelledError) as error:
            raise MonitorGone(f"QEMU ended during {command}") from error

    def give(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file, under a name that other commands take."""

        async def send() -> None:
            self._client.send_fd_scm(descriptor)

        self._wait(send(), _ANSWER)
        self.execute("getfd", fdname=name)

    def command(self, line: str) -> str:
        """What a command of the human monitor prints. Raises MachineError where that is an error."""
        output = str(self.execute("human-monitor-command", **{"command-line": line}))
        if output.startswith("Error"):
            raise MachineError(f"QEMU refused {line}: {output.strip()}")
        return output

    def forwarded_port(self) -> int:
        """The port on 127.0.0.1 that QEMU forwards to the guest's SSH (it chose a free one itself)."""
        table = self.command("info usernet")
        match = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", table)
        if match is None:
            raise MachineError(f"QEMU forwards no port:\n{table}")
        return int(match[1])

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._wait(self._client.disconnect(), _LEAST)
        except (QMPError, OSError, EOFError):  # QEMU has gone first, as it does after `quit`
            pass
        finally:
            self._close()

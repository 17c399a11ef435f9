"""A registry that is started for one run, or that runs already."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional

START = 120.0  # seconds in which it answers
_ASK = 5.0  # seconds for one answer
_PORT = 5000


class Broken(Exception):
    """It does not start, or does not answer."""


class Registry:
    """A context manager; address is HOST:PORT. log: the file of what it prints."""

    def __init__(self, program: str, config: str, arguments: Sequence[str], directory: Path) -> None:
        self.address = f"127.0.0.1:{_PORT}"
        self.log = directory / "registry.log"
        self._child: Optional[subprocess.Popen[bytes]] = None
        data, file = directory / "registry", directory / "registry.config"
        data.mkdir()
        values = {"data": str(data), "address": self.address, "port": str(_PORT), "config": str(file)}
        file.write_text(_filled(config, values))
        self._argv = [program, *(_filled(word, values) for word in arguments)]
        self._home = directory

    def __enter__(self) -> Registry:
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._home,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._home)},
            )
        deadline = time.monotonic() + START
        while not answers(self.address):
            how = self.ended()
            if how or time.monotonic() > deadline:
                self.__exit__()
                raise Broken(f"{self._argv[0]} {how or f'does not answer within {START:g} s'}: {self.tail()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def ended(self) -> str:
        """How it has ended; empty while it runs."""
        status = self._child.poll() if self._child else None
        if status is None:
            return ""
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def tail(self, size: int = 1000) -> str:
        with suppress(OSError):
            return self.log.read_bytes()[-size:].decode("utf-8", "replace").strip()
        return ""


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def answers(address: str) -> bool:
    """Whether something there speaks HTTP and knows /v2/, or wants to know who asks."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), _ASK) as connection:
        connection.settimeout(_ASK)
        connection.sendall(f"GET /v2/ HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        head = connection.recv(64).split()
        return len(head) > 1 and head[0].startswith(b"HTTP/") and head[1] in (b"200", b"401")
    return False

"""How a machine is reached; apart from ssh.py, whose libraries take a quarter of a second to load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a machine: address, port, user, the private key file, and the file that pins its host key."""

    host: str
    port: int
    user: str
    key: Path
    known_hosts: Path

    @property
    def as_root(self) -> list[str]:
        """What a command on the machine begins with to run as root."""
        return [] if self.user == "root" else ["sudo", "-n", "--"]

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


def shell_argv(endpoint: Endpoint, command: Sequence[str] = ()) -> list[str]:
    """The OpenSSH client's argv for an interactive shell or a command, with the same pinned key and nothing else.

    As with ssh itself, the words of the command are joined by spaces for the shell on the other side.
    """
    options = {
        "UserKnownHostsFile": f'"{endpoint.known_hosts}"',  # quoted: it is a list of files
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "PasswordAuthentication": "no",
        "LogLevel": "ERROR",
        # What falls silent ends the command: a TCP connection alone would wait for ever.
        "ConnectTimeout": "30",
        "ServerAliveInterval": "20",
        "ServerAliveCountMax": "3",
    }
    words = ["ssh", "-F", "none", "-p", str(endpoint.port), "-i", str(endpoint.key)]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    # Without the dashes ssh would take a command's first words for options of its own, if they look like some.
    return [*words, f"{endpoint.user}@{endpoint.host}", *(["--", *command] if command else [])]

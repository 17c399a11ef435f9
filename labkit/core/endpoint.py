"""How a machine is reached; apart from ssh.py, whose libraries take a quarter of a second to load."""

from __future__ import annotations

import hashlib
import ipaddress
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


@dataclass(frozen=True, slots=True)
class Address:
    """Where somebody's host is, as HOST, USER@HOST, USER@HOST:PORT; an IPv6 address with a port in brackets."""

    user: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        user, at, rest = text.rpartition("@")
        host, _, port = rest.rpartition(":") if ":" in rest and not rest.endswith("]") else (rest, "", "22")
        return cls(user if at else "root", host.strip("[]"), int(port))

    @property
    def machine_name(self) -> str:
        """The name of the machine that this host is, where none is given: the host's, and its port if it is not 22."""
        host = self.host.lower().strip(".")
        try:
            if ipaddress.ip_address(host).version == 6:
                host = f"ipv6-{ipaddress.ip_address(host).compressed.replace(':', '-')}"
        except ValueError:
            pass
        name = host if self.port == 22 else f"{host}-{self.port}"
        return name if len(name) <= 63 else f"{name[:54]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"


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

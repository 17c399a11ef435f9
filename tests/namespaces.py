"""Hosts in network namespaces of their own: a middle one for the night, and behind a cable of its own each host."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.ssh_host import make_keys

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_HOLD = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec sleep 100000"]


def _held(within: int | None = None) -> subprocess.Popen[bytes]:
    argv = [*(["nsenter", "-t", str(within), "-n"] if within else []), *_HOLD]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdout.readline() == b"up\n"
    return child


@dataclass
class Net:
    """Host N (from 1) has the address 10.77.N.2, and an SSH server on port 22."""

    place: Path
    middle: int
    hosts: list[int] = field(default_factory=list)
    servers: list[int] = field(default_factory=list)  # their pids

    def ip(self, pid: int, *words: str) -> None:
        subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", *words], check=True)

    def cable(self, host: int, state: str) -> None:
        """Pull the cable of a host ("down"), or put it back ("up")."""
        self.ip(self.middle, "link", "set", f"to{host}", state)

    def enter(self) -> None:
        """Be in the middle from here on."""
        with Path(f"/proc/{self.middle}/ns/net").open() as file:
            assert ctypes.CDLL(None).setns(file.fileno(), _CLONE_NEWNET) == 0

    @property
    def names(self) -> str:
        return ",".join(f"root@10.77.{number}.2" for number in range(1, len(self.hosts) + 1))

    @property
    def settings(self) -> str:
        return (
            f"\n[ssh]\nkey = '{self.place}/key'\nknown_hosts = '{self.place}/known_hosts'\n"
            f"[cluster]\nhome = '{self.place}/{{host}}'\n"
        )


def _server(place: Path, pid: int, address: str) -> subprocess.Popen[bytes]:
    argv = ["nsenter", "-t", str(pid), "-n", sys.executable, "-m", "tests.ssh_host", str(place), address, "22"]
    child = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout
    assert child.stdout.readline() == b"listening\n"
    return child


@contextmanager
def network(place: Path, count: int) -> Iterator[Net]:
    children: list[subprocess.Popen[bytes]] = []
    make_keys(place, *(f"10.77.{number}.2" for number in range(1, count + 1)))
    try:
        middle = _held()
        children.append(middle)
        net = Net(place, middle.pid)
        for number in range(1, count + 1):
            host = _held()
            children.append(host)
            net.hosts.append(host.pid)
            names = (f"to{number}", f"from{number}")
            net.ip(middle.pid, "link", "add", names[0], "type", "veth", "peer", "name", names[1])
            net.ip(middle.pid, "link", "set", names[1], "netns", str(host.pid))
            for pid, name, last in ((middle.pid, names[0], 1), (host.pid, names[1], 2)):
                net.ip(pid, "addr", "add", f"10.77.{number}.{last}/24", "dev", name)
                net.ip(pid, "link", "set", name, "up")
            children.append(_server(place, host.pid, f"10.77.{number}.2"))
            net.servers.append(children[-1].pid)
        yield net
    finally:
        for child in reversed(children):
            child.terminate()
            child.wait()
            assert child.stdout
            child.stdout.close()

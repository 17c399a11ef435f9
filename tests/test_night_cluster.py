"""Nights over Dask: workers on hosts that are reached over SSH, and what happens to those."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, until
from tests.namespaces import network
from tests.simulated import Nights
from tests.ssh_host import make_keys

pytest.importorskip("distributed", reason="Dask is not installed: oci-labkit[cluster]")


@dataclass
class Hosts:
    """SSH servers on ports of this host's loopback, each a host of its own for labkit."""

    place: Path
    nights: Nights
    ports: list[int] = field(default_factory=list)
    servers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def add(self, count: int) -> None:
        for _ in range(count):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports.append(probe.getsockname()[1])
        make_keys(self.place, *(f"[127.0.0.1]:{port}" for port in self.ports))
        for port in self.ports:
            self.start(port)
        self.nights.matrix += (
            f"\n[ssh]\nkey = '{self.place}/key'\nknown_hosts = '{self.place}/known_hosts'\n"
            f"[cluster]\nhome = '{self.place}/{{host}}'\n"
        )
        self.nights.write()

    def start(self, port: int) -> None:
        argv = [sys.executable, "-m", "tests.ssh_host", str(self.place), "127.0.0.1", str(port)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, cwd=ROOT)
        assert child.stdout
        assert child.stdout.readline() == b"listening\n"
        self.servers[port] = child

    def stop(self, port: int) -> None:
        """The host goes down, with all that runs there."""
        child = self.servers.pop(port)
        child.terminate()
        child.wait()
        assert child.stdout
        child.stdout.close()

    @property
    def words(self) -> tuple[str, ...]:
        return ("--on", ",".join(f"root@127.0.0.1:{port}" for port in self.ports))

    def left(self) -> list[str]:
        found = [str(path) for port in self.ports for path in self.home(port).glob("outbox/*/*")]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.place).encode() in line and b"ssh_host" not in line:
                    found.append(f"process {entry.name}: {line!r}")
        return found

    def home(self, port: int) -> Path:
        return self.place / f"127.0.0.1-{port}"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    nights = Nights(tmp_path / "lab", cells=6)
    made = Hosts(tmp_path / "hosts", nights)
    yield made
    nights.end()
    for port in list(made.servers):
        made.stop(port)


def where(hosts: Hosts) -> set[str]:
    return {attempt["host"] for cell in hosts.nights.night()["cells"] for attempt in cell["attempts"]}


def test_a_night_on_two_hosts_leaves_nothing_there(hosts: Hosts) -> None:
    hosts.add(2)
    for number in range(1, 7):
        hosts.nights.does(f"r{number}", "sleep 0.5")
    night = hosts.nights.run(*hosts.words)
    assert [cell["state"] for cell in night["cells"]] == ["done"] * 6
    assert where(hosts) == {f"127.0.0.1-{port}" for port in hosts.ports}
    for cell in night["cells"]:
        results = json.loads((hosts.nights.reports / cell["run"] / "results.json").read_text())
        assert results["run"]["id"] == cell["run"]
    until(lambda: not hosts.left(), 20, str(hosts.left()))
    assert hosts.nights.left() == []


def test_a_worker_whose_port_is_taken_is_started_again(hosts: Hosts) -> None:
    """The night waits for it, and says so: without it, the host would get no cells, and what it keeps be left there."""
    hosts.add(2)
    for number in range(1, 7):
        hosts.nights.does(f"r{number}", "sleep 0.5")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        class Dice(random.SystemRandom):
            thrown = 0

            def sample(self, *asked: Any, **more: Any) -> list[Any]:
                found = super().sample(*asked, **more)
                Dice.thrown += 1
                return [found[0], port, found[2]] if Dice.thrown == 1 else found

        def prepare() -> None:
            secrets.SystemRandom = Dice  # type: ignore[misc]

        pid = hosts.nights.start(*hosts.words, first=prepare)
        assert hosts.nights.wait(pid) == 0, hosts.nights.err
    assert "has ended, and another is started: " in hosts.nights.err
    assert f"cannot listen to port: {port}" in hosts.nights.err
    assert where(hosts) == {f"127.0.0.1-{one}" for one in hosts.ports}
    until(lambda: not hosts.left(), 20, str(hosts.left()))


def test_a_large_bundle_comes_in_pieces(hosts: Hosts) -> None:
    hosts.add(1)
    hosts.nights.does("r1", "mkdir -p run/raw; head -c 9000000 /dev/urandom >run/raw/large")
    night = hosts.nights.run(*hosts.words)
    [run] = [cell["run"] for cell in night["cells"] if "/r1/" in cell["cell"]]
    assert (hosts.nights.reports / run / "raw/large").stat().st_size == 9000000


def test_a_host_that_goes_down_costs_its_cells_an_attempt_and_no_more(hosts: Hosts) -> None:
    hosts.add(2)
    for number in range(1, 7):
        hosts.nights.does(f"r{number}", "sleep 2")
    pid = hosts.nights.start(*hosts.words)
    until(lambda: sum(hosts.nights.ran(f"r{number}") for number in range(1, 7)) >= 3, 60)
    hosts.stop(hosts.ports[0])
    assert hosts.nights.wait(pid) == 0, hosts.nights.err
    night = hosts.nights.night()
    assert [cell["state"] for cell in night["cells"]] == ["done"] * 6
    outcomes = [attempt["outcome"] for cell in night["cells"] for attempt in cell["attempts"]]
    assert "lost" in outcomes
    assert max(hosts.nights.ran(f"r{number}") for number in range(1, 7)) <= 2
    assert f"127.0.0.1-{hosts.ports[0]} is gone; what ran there runs again" in hosts.nights.err


def test_a_killed_night_goes_on_and_its_workers_are_gone(hosts: Hosts) -> None:
    hosts.add(2)
    for number in range(1, 7):
        hosts.nights.does(f"r{number}", "sleep 1")
    pid = hosts.nights.start(*hosts.words)
    until(lambda: sum(hosts.nights.ran(f"r{number}") for number in range(1, 7)) >= 3, 60)
    os.kill(pid, signal.SIGKILL)
    hosts.nights.wait(pid)
    until(lambda: not [one for one in hosts.left() if one.startswith("process")], 60, str(hosts.left()))
    night = hosts.nights.run("--resume", *hosts.words)
    assert [cell["state"] for cell in night["cells"]] == ["done"] * 6
    assert max(hosts.nights.ran(f"r{number}") for number in range(1, 7)) <= 2
    until(lambda: not hosts.left(), 20, str(hosts.left()))


def test_ctrl_c_ends_what_runs_on_the_hosts(hosts: Hosts) -> None:
    hosts.add(1)
    hosts.nights.does("r1", "never")
    pid = hosts.nights.start(*hosts.words)
    until(lambda: hosts.nights.ran("r1") == 1, 60)
    os.kill(pid, signal.SIGINT)
    assert hosts.nights.wait(pid) == 130
    until(lambda: not [one for one in hosts.left() if one.startswith("process")], 30, str(hosts.left()))


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (("--scheduler", "tcp://127.0.0.1:8786"), "must be tls://HOST:PORT: whoever reaches a scheduler without", 2),
        (("--scheduler", "tls://127.0.0.1:1"), "a scheduler needs TLS, and cluster.ca is not set", 2),
        (("--on", "lab1,no/such"), "cluster.on is", 2),
        (("--on", "root@127.0.0.1:1"), "needs a key, and the host's key to be known", 2),
        (("--on", "a", "--scheduler", "tls://127.0.0.1:1"), "--on and --scheduler exclude each other", 2),
    ],
)
def test_a_cluster_that_cannot_be_is_told(hosts: Hosts, words: tuple[str, ...], said: str, status: int) -> None:
    assert hosts.nights.wait(hosts.nights.start(*words)) == status
    assert said in hosts.nights.err, hosts.nights.err
    assert not list((hosts.nights.home / "nights").glob("*/*")), "no night has begun"


def test_a_host_that_cannot_be_reached_gets_nothing_and_alone_it_ends_the_night(hosts: Hosts) -> None:
    hosts.nights.matrix += "[limits]\nconnect = 4\n"
    hosts.add(2)
    hosts.stop(hosts.ports[0])
    hosts.nights.run(*hosts.words)
    assert f"127.0.0.1-{hosts.ports[0]} gets no cells" in hosts.nights.err
    assert where(hosts) == {f"127.0.0.1-{hosts.ports[1]}"}
    hosts.stop(hosts.ports[1])
    assert hosts.nights.wait(hosts.nights.start(*hosts.words)) == 3
    assert "no host is there to run a cell" in hosts.nights.err


def test_a_host_with_another_labkit_gets_nothing(hosts: Hosts, tmp_path: Path) -> None:
    hosts.add(1)
    other = tmp_path / "other"
    shutil.copytree(ROOT / "labkit", other / "labkit", ignore=shutil.ignore_patterns("__pycache__"))
    changed = other / "labkit/core/text.py"
    changed.write_text(f"{changed.read_text()}# another\n")
    program = tmp_path / "python"
    program.write_text(
        f"#!/bin/sh\n# -I -c CODE ROOT ...: with the other labkit as ROOT\nshift 4\n"
        f'exec {sys.executable} -I -c "import sys; sys.path.insert(0, sys.argv.pop(1)); '
        f'from labkit.matrix.cluster import serve; serve()" {other} "$@"\n'
    )
    program.chmod(0o755)
    hosts.nights.matrix += f"python = '{program}'\n"
    hosts.nights.write()
    assert hosts.nights.wait(hosts.nights.start(*hosts.words)) == 3
    assert "gets no cells: its labkit is" in hosts.nights.err
    assert sum(hosts.nights.ran(f"r{number}") for number in range(1, 7)) == 0


# --- hosts in network namespaces


@pytest.mark.host_runtime
@pytest.mark.needs("ip")
def test_a_night_on_two_hosts_in_networks_of_their_own(tmp_path: Path) -> None:
    nights = Nights(tmp_path / "lab", cells=6)
    with network(tmp_path / "hosts", 2) as net:
        nights.matrix = net.settings
        nights.write()
        for number in range(1, 7):
            nights.does(f"r{number}", "sleep 0.5")
        night = nights.run("--on", net.names, first=net.enter)
        assert [cell["state"] for cell in night["cells"]] == ["done"] * 6
        used = {attempt["host"] for cell in night["cells"] for attempt in cell["attempts"]}
        assert used == {"10.77.1.2", "10.77.2.2"}
    nights.end()


@pytest.mark.host_runtime
@pytest.mark.slow
@pytest.mark.needs("ip")
def test_a_network_that_is_cut_for_two_minutes_costs_attempts_and_no_cell(tmp_path: Path) -> None:
    nights = Nights(tmp_path / "lab", cells=6)
    with network(tmp_path / "hosts", 2) as net:
        nights.matrix = net.settings
        nights.write()
        for number in range(1, 7):
            nights.does(f"r{number}", "sleep 5")
        pid = nights.start("--on", net.names, first=net.enter)
        until(lambda: sum(nights.ran(f"r{number}") for number in range(1, 7)) >= 3, 60)
        net.cable(1, "down")
        net.cable(2, "down")
        time.sleep(120)
        net.cable(1, "up")
        net.cable(2, "up")
        assert nights.wait(pid) == 0, nights.err
        night = nights.night()
        assert [cell["state"] for cell in night["cells"]] == ["done"] * 6
        assert max(nights.ran(f"r{number}") for number in range(1, 7)) <= 3
    nights.end()

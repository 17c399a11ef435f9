"""What befalls a night from outside: hosts that freeze, clocks that jump, disks that are full or elsewhere, a cluster
whose scheduler dies. docs/reference/faults.md has a row for each.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from labkit.matrix import table
from labkit.store import nights as stored
from labkit.store import runs
from tests.conftest import ROOT, until
from tests.simulated import Nights, processes_of
from tests.test_night_cluster import Hosts, hosts, where
from tests.test_nightly import KEY, nights, states

__all__ = ["hosts", "nights"]  # fixtures

_CLONE_NEWNS = 0x00020000  # linux/sched.h


# --- disks


@dataclass
class Elsewhere:
    """A directory of this host that is another file system, for those that enter. A process holds it."""

    at: Path
    holder: subprocess.Popen[bytes]

    def enter(self) -> None:
        libc, cwd = ctypes.CDLL(None, use_errno=True), Path.cwd()
        with Path(f"/proc/{self.holder.pid}/ns/mnt").open() as file:
            assert libc.setns(file.fileno(), _CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        os.chdir(cwd)  # setns(2) goes to the root of the namespace

    @property
    def seen(self) -> Path:
        """The directory, from outside."""
        return Path(f"/proc/{self.holder.pid}/root{self.at}")

    def grow(self, size: str) -> None:
        argv = ["nsenter", "-t", str(self.holder.pid), "-m", "mount", "-o", f"remount,size={size}", str(self.at)]
        subprocess.run(argv, check=True)


@contextmanager
def elsewhere(at: Path, size: str) -> Iterator[Elsewhere]:
    """A tmpfs at that place, in a mount namespace of its own; the test's own host sees nothing of it."""
    at.mkdir(parents=True, exist_ok=True)
    script = f"mount -t tmpfs -o size={size},mode=755 none '{at}' && echo up && exec sleep 100000"
    holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout
    try:
        if holder.stdout.readline() != b"up\n":
            pytest.skip("mount namespaces, which only root may make here")
        yield Elsewhere(at, holder)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def night_in(place: Path) -> dict[str, Any]:
    [path] = (place / "nights").glob("2*/night.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_reports_on_another_file_system(nights: Nights) -> None:
    """No file can be renamed from the outbox into the reports, nor linked."""
    nights.does("r1", "mkdir -p run/raw; echo whole >run/raw/x")
    with elsewhere(nights.reports, "64M") as other:
        assert nights.wait(nights.start(first=other.enter)) == 0, nights.err
        night = night_in(other.seen)
        assert states(night) == {"r1": "done", "r2": "done", "r3": "done"}
        [run] = [cell["run"] for cell in night["cells"] if "/r1/" in cell["cell"]]
        assert (other.seen / run / "raw/x").read_text() == "whole\n"
        assert (other.seen / "site/index.html").exists()
        assert not list(other.seen.glob(".*.part"))
    assert nights.left() == []
    assert list(nights.reports.iterdir()) == []


def test_a_disk_of_reports_that_is_full_in_the_middle(nights: Nights) -> None:
    """The night ends with what it has, and goes on once there is space: nothing that was run is run again."""
    nights.does("r2", "mkdir -p run/raw; head -c 6000000 /dev/urandom >run/raw/x")
    nights.matrix = "at_once = 1\n"
    nights.write()
    with elsewhere(nights.reports, "4M") as other:
        assert nights.wait(nights.start(first=other.enter)) == 3, nights.err
        assert "no space left" in nights.err.lower()
        assert not list(other.seen.glob(".*.part"))
        other.grow("64M")
        assert nights.wait(nights.start("--resume", first=other.enter)) == 0, nights.err
        night = night_in(other.seen)
        assert states(night) == {"r1": "done", "r2": "done", "r3": "done"}
        assert (night["complete"], night["exit_status"]) == (True, 0)
    assert [nights.ran(name) for name in ("r1", "r2", "r3")] == [1, 1, 1]
    assert nights.left() == []


def test_a_disk_of_the_home_that_is_full_in_the_middle(nights: Nights) -> None:
    """What a cell left cannot be kept, nor what became of it written down."""
    nights.does("r2.1", "mkdir -p run/raw; head -c 9000000 /dev/zero >run/raw/x || exit 9")
    nights.matrix = "at_once = 1\n"
    nights.write()
    with elsewhere(nights.home, "8M") as other:
        status = nights.wait(nights.start(first=other.enter))
        assert status in (0, 3), nights.err
        assert "no space left" in nights.err.lower()
        other.grow("64M")
        if status:
            assert nights.wait(nights.start("--resume", first=other.enter)) == 0, nights.err
        assert not list(other.seen.glob("outbox/*/*"))
    night = nights.night()
    assert states(night) == {"r1": "done", "r2": "done", "r3": "done"}
    assert [nights.ran(name) for name in ("r1", "r3")] == [1, 1]


# --- the clock


def _jumping(by: timedelta, when: Path) -> Callable[[], None]:
    """The clock is set by so much, once a file is there."""

    def prepare() -> None:
        real = time.time

        def shift() -> timedelta:
            return by if when.exists() else timedelta()

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.now(UTC) + shift()

        time.time = lambda: real() + shift().total_seconds()
        for module in (table, stored, runs):
            module.datetime = Clock  # type: ignore[attr-defined]

    return prepare


@pytest.mark.parametrize("days", [-3, 400])
def test_a_clock_that_jumps_while_a_night_runs(nights: Nights, days: int) -> None:
    """No cell is late for it, nor early, and the order of nights and runs stays."""
    nights.matrix = 'at_once = 1\nlimits = { "*" = 60 }\n'
    nights.write()
    for name in ("r1", "r3"):
        nights.does(name, "sleep 0.4")
    nights.does("r2", "sleep 0.2; touch $plan/jump; sleep 0.2")
    first = nights.run(first=_jumping(timedelta(days=days), nights.plan / "jump"))
    assert states(first) == {"r1": "done", "r2": "done", "r3": "done"}
    attempts = [attempt for cell in first["cells"] for attempt in cell["attempts"]]
    assert [attempt["outcome"] for attempt in attempts] == ["done"] * 3
    assert all(0.3 < attempt["seconds"] < 30 for attempt in attempts)
    assert first["started"][:10] != first["finished"][:10], "it did jump"
    nights.does("r1", "show bad")
    second = nights.run(status=1)
    assert int(second["id"].partition(".")[2]) == int(first["id"].partition(".")[2]) + 1
    assert [entry["cells"] for entry in second["changes"]["new_failures"]] == [[KEY.format("r1")]]
    third = nights.run(status=1)
    assert [entry["since"] for entry in third["changes"]["still_failing"]] == [second["id"]]


# --- hosts and schedulers


def test_a_host_that_freezes_and_thaws(hosts: Hosts) -> None:
    """Its cells run elsewhere, and when it thaws nothing stays there."""

    def soon() -> None:
        from labkit.matrix import cluster

        cluster._TTL = "4s"

    hosts.add(2)
    for number in range(1, 7):
        hosts.nights.does(f"r{number}", "sleep 1")
    home = hosts.home(hosts.ports[0])
    pid = hosts.nights.start(*hosts.words, first=soon)
    until(lambda: sum(hosts.nights.ran(f"r{number}") for number in range(1, 7)) >= 3, 60)
    frozen = [one for one in processes_of(home, b"serve()") if Path(f"/proc/{one}/exe").resolve().name != "ssh"]
    assert frozen
    for one in frozen:
        os.kill(one, signal.SIGSTOP)
    try:
        assert hosts.nights.wait(pid) == 0, hosts.nights.err
        night = hosts.nights.night()
        assert [cell["state"] for cell in night["cells"]] == ["done"] * 6
        assert f"127.0.0.1-{hosts.ports[0]} is gone; what ran there runs again" in hosts.nights.err
        assert max(hosts.nights.ran(f"r{number}") for number in range(1, 7)) <= 2
        assert f"127.0.0.1-{hosts.ports[1]}" in where(hosts)
    finally:
        for one in frozen:
            if Path(f"/proc/{one}").exists():
                os.kill(one, signal.SIGCONT)
    until(lambda: not [one for one in hosts.left() if one.startswith("process")], 60, str(hosts.left()))
    hosts.nights.run(*hosts.words, first=soon)  # what it left in its outbox goes when the next night begins there
    until(lambda: not hosts.left(), 20, str(hosts.left()))


@dataclass
class Cluster:
    """A scheduler and workers as somebody else runs them: the `dask` commands, with TLS."""

    place: Path
    port: int = 0
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *words: str, home: Path | None = None) -> subprocess.Popen[bytes]:
        files = [f"--tls-{name}={self.place / 'all.pem'}" for name in ("ca-file", "cert", "key")]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.place), "LABKIT_CONFIG": "/dev/null"}
        if home:
            env["LABKIT_HOME"] = str(home)
        with (self.place / "log").open("ab") as log:
            argv = [sys.executable, "-m", "dask", *words, *files]
            child = subprocess.Popen(argv, env=env, cwd=self.place, stdout=log, stderr=log)
        self.children.append(child)
        return child

    def scheduler(self) -> subprocess.Popen[bytes]:
        words = ("--host", "127.0.0.1", "--no-dashboard", "--protocol", "tls")
        return self.start("scheduler", *words, "--port", str(self.port))

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        words = ("--host", "127.0.0.1", "--name", name, "--no-dashboard", "--nthreads", "8", "--no-nanny")
        address = f"tls://127.0.0.1:{self.port}"
        return self.start("worker", address, *words, "--death-timeout", "20", home=self.place / name)

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: oci-labkit[cluster]")
    import socket

    made = Cluster(tmp_path / "cluster")
    made.place.mkdir()
    security = distributed.Security.temporary()
    path = made.place / "all.pem"
    path.write_text(f"{security.tls_client_key}\n{security.tls_client_cert}\n")
    path.chmod(0o600)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        made.port = probe.getsockname()[1]
    yield made
    made.end()


def joined(nights: Nights, cluster: Cluster) -> tuple[str, ...]:
    pem = cluster.place / "all.pem"
    nights.matrix += f"\n[cluster]\nca = '{pem}'\ncert = '{pem}'\nkey = '{pem}'\n"
    nights.write()
    return ("--scheduler", f"tls://127.0.0.1:{cluster.port}")


def test_a_night_on_a_cluster_that_is_there(nights: Nights, cluster: Cluster) -> None:
    words = joined(nights, cluster)
    cluster.scheduler()
    for name in ("w1", "w2"):
        cluster.worker(name)
    for name in ("r1", "r2", "r3"):
        nights.does(name, "sleep 1")
    night = nights.run(*words)
    assert states(night) == {"r1": "done", "r2": "done", "r3": "done"}
    assert {attempt["host"] for cell in night["cells"] for attempt in cell["attempts"]} <= {"w1", "w2"}
    assert not [path for name in ("w1", "w2") for path in (cluster.place / name).glob("outbox/*/*")]
    assert all(child.poll() is None for child in cluster.children), "it is not ours to end"
    assert states(nights.run(*words)) == states(night)


def test_a_scheduler_that_dies(nights: Nights, cluster: Cluster) -> None:
    """The night says so and ends in order; with another scheduler it goes on, and what had ended is fetched."""
    words = joined(nights, cluster)
    scheduler = cluster.scheduler()
    cluster.worker("w1")
    for name in ("r1", "r2", "r3"):
        nights.does(f"{name}.1", "sleep 3")
    pid = nights.start(*words)
    until(lambda: sum(nights.ran(name) for name in ("r1", "r2", "r3")) >= 1, 60, nights.err)
    scheduler.kill()
    scheduler.wait()
    time.sleep(1)
    cluster.scheduler()
    cluster.worker("w2")
    status = nights.wait(pid)
    if status != 0:
        assert status in (3, 4), nights.err
        assert nights.night()["reason"]
        nights.run("--resume", *words)
    night = nights.night()
    assert states(night) == {"r1": "done", "r2": "done", "r3": "done"}
    assert (night["complete"], night["exit_status"]) == (True, 0)
    assert max(nights.ran(name) for name in ("r1", "r2", "r3")) <= 3


def test_a_scheduler_of_another_certificate_is_refused(nights: Nights, cluster: Cluster) -> None:
    distributed = pytest.importorskip("distributed")
    words = joined(nights, cluster)
    cluster.scheduler()
    until(lambda: b"Scheduler at" in (cluster.place / "log").read_bytes(), 30)
    other = distributed.Security.temporary()
    (cluster.place / "all.pem").write_text(f"{other.tls_client_key}\n{other.tls_client_cert}\n")
    assert nights.wait(nights.start(*words, first=_hurry)) == 3
    assert f"the scheduler tls://127.0.0.1:{cluster.port} cannot be reached" in nights.err


def _hurry() -> None:
    from labkit.matrix import cluster

    cluster._ASK = 5.0

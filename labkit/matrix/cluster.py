"""The engine of many hosts: Dask (dask.distributed), which carries attempts to workers and back, and holds nothing.

    --on HOSTS         a scheduler in this process, on its loopback, and a worker on each host, started over SSH with
                       the host's key pinned; they meet in forwarded loopback ports, with TLS of this night's own
    --scheduler tls:// a cluster that is there; its workers have labkit

Whoever reaches a scheduler runs what they like on its workers, so there is none without TLS. A worker runs cells as
labkit.matrix.worker does here, and keeps what they left in its outbox until it is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import secrets
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, Security, Worker, WorkerPlugin, get_worker

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Address, Endpoint, shell_argv
from labkit.core.errors import InfrastructureError, LabError, UsageError
from labkit.core.home import Home
from labkit.core.observer import Observer
from labkit.core.text import one_line, printable
from labkit.images.collect import discard
from labkit.io import process
from labkit.io.files import attempted, make_directory, sweep, write_atomic
from labkit.matrix import local, worker
from labkit.matrix.job import Ended, Job
from labkit.matrix.outbox import DamagedBundle, Outbox, served
from labkit.matrix.window import EngineGone, Room
from labkit.store import nights

_PLUGIN = "labkit"
_TTL = "30s"  # a worker that says nothing for so long is gone
_INLINE = 4 << 20  # bytes of a bundle that come with the answer
_PIECE = 4 << 20
_UP = 90.0  # seconds for a host to come up
_LOOK = 1.0  # seconds for which the list of hosts is good
# Seconds until a host whose worker has ended is asked for again: twice as many each time.
_AGAIN, _LONGEST = 2.0, 960.0
_TRIES = 3  # for a worker that ends before it comes, while a night waits for its hosts
_PORTS = range(20000, 32768)  # below those that Linux gives to connections (ip_local_port_range)
_THREADS = 64  # cells at a time on a host; the window counts what it bears
_ASK = 60.0
_CLOSE = 10.0  # seconds for all workers to end once their scheduler has


# Dask looks a hundred times a second what each thread does, fifty times whether its loop is late, and twice how the
# host is: nobody asks. Nor is there anything to balance: each cell is for one host, and its answer is fetched at once.
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.event-loop-monitor-interval": "1s",
    "distributed.admin.tick.interval": "1s",
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.diagnostics.nvml": False,
    "distributed.client.scheduler-info-interval": "60s",
}


@dataclass(frozen=True, slots=True)
class _Health:
    """What a worker says before it gets work."""

    version: str
    room: Room
    problem: str


def check(settings: Settings) -> None:
    """Raise UsageError where the settings name hosts, or a cluster, that nothing can be sent to; nothing is sent."""
    cluster, ssh = settings.cluster, settings.ssh
    if cluster.on and cluster.scheduler:
        raise UsageError("--on and --scheduler exclude each other", hint="a cluster that is there needs no --on")
    for host in cluster.on:
        Address.parse(host)
        if ssh.key is None or ssh.known_hosts is None:
            raise UsageError(
                f"--on {host} needs a key, and the host's key to be known",
                hint="key and known_hosts in [ssh] of labkit.toml",
            )
    if not cluster.scheduler:
        return
    for name in ("ca", "cert", "key"):
        path = getattr(cluster, name)
        if path is None:
            raise UsageError(
                f"a scheduler needs TLS, and cluster.{name} is not set",
                hint="ca, cert and key in [cluster] of labkit.toml name the cluster's files",
            )
        if not path.is_file():
            raise UsageError(f"cluster.{name} names {path}, which is no file")


class ClusterEngine:
    """A context manager: whatever ends it, no worker that it has started stays."""

    def __init__(self, settings: Settings, night: str, observer: Observer) -> None:
        self._settings, self._night, self._observer = settings, night, observer
        self._stack = contextlib.ExitStack()
        self._client: Any = None
        self._known: dict[str, tuple[str, _Health]] = {}  # host to its worker's address and health
        self._refused: set[str] = set()
        self._running: dict[Future[tuple[Ended, bytes]], str] = {}
        self._looked = 0.0
        self._workers: dict[str, _SshWorker] = {}
        self._place = make_directory(settings.home.nights / night / "bundles", mode=0o700)
        self._data: dict[str, bytes] = {}
        self._home: dict[str, list[str]] = {}  # what a worker is told with its next cell: these are at home

    def __enter__(self) -> ClusterEngine:
        for name in ("distributed", "asyncio"):  # asyncio: of tasks of Dask's that nobody awaits, as a worker dies
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters of it is told in labkit's words
        try:
            self._stack.enter_context(
                dask.config.set(
                    {
                        **_QUIET,
                        "distributed.scheduler.allowed-failures": 1_000_000,  # the window counts
                        "distributed.scheduler.worker-ttl": _TTL,
                        "distributed.comm.timeouts.connect": "30s",
                        "distributed.admin.tick.limit": "1h",
                    }
                )
            )
            address, security = self._cluster() if self._settings.cluster.on else self._there()
            try:
                self._client = self._stack.enter_context(Client(address, security=security, timeout=_ASK))
            except (OSError, TimeoutError, ValueError) as error:
                raise InfrastructureError(
                    f"the scheduler {address} cannot be reached: {error}", hint="see cluster in labkit.toml"
                ) from error
            self._wait()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        for address, _ in self._known.values():
            with contextlib.suppress(Exception):  # one that is gone meanwhile
                self._client.run(_forget, self._night, self._home.pop(address, []), workers=[address])
        self._stack.close()
        for left in self._place.iterdir():
            left.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._place.rmdir()

    # --- the cluster

    def _there(self) -> tuple[str, Any]:
        """The cluster that the settings name."""
        cluster = self._settings.cluster
        security = Security(
            require_encryption=True,
            tls_ca_file=str(cluster.ca),
            tls_client_cert=str(cluster.cert),
            tls_client_key=str(cluster.key),
        )
        return str(cluster.scheduler), security

    def _cluster(self) -> tuple[str, Any]:
        """A scheduler in this process, and a worker on each of the hosts."""
        security = Security.temporary()
        self._stack.callback(self._end_workers)  # after the scheduler has told them to close
        cluster = self._stack.enter_context(
            LocalCluster(
                n_workers=0,
                processes=False,
                host="127.0.0.1",
                protocol="tls://",
                security=security,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        )
        address = str(cluster.scheduler_address)
        port = int(address.rpartition(":")[2])
        pem = f"{security.tls_client_key}\n{security.tls_client_cert}\n"
        for host in self._settings.cluster.on:
            made = _SshWorker(host, self._settings, self._night, port, pem)
            self._workers[made.name] = made
            self._start(made)
        return address, security

    def _end_workers(self) -> None:
        deadline = Deadline.after(_CLOSE)
        for made in self._workers.values():
            deadline.poll(lambda made=made: not made.runs, every=0.05)  # type: ignore[misc]
            made.stop()

    def _start(self, made: _SshWorker) -> None:
        """In a thread: a host that does not answer is to hold up nothing."""

        def start() -> None:
            try:
                made.start()
            except LabError as error:
                self._observer.warn(f"{made.name} gets no cells: {error.message}")

        made.begun()
        self._observer.step(f"starting a worker on {made.name}")
        made.thread = threading.Thread(target=start, daemon=True)
        made.thread.start()

    def _wait(self) -> None:
        """Until all hosts have said how they are, or for some time: what is in their outboxes is to be read first."""
        deadline = Deadline.after(_UP)

        def all_there() -> bool:
            self._looked = 0.0
            there = self.hosts()
            wanted = [made for made in self._workers.values() if made.comes]
            settled = all(made.name in there or made.name in self._refused for made in wanted)
            return settled if self._workers else bool(there)

        deadline.poll(all_there, every=0.2)
        if not self._known:
            tails = "; ".join(f"{name}: {made.said}" for name, made in self._workers.items() if made.said)
            raise InfrastructureError(f"no host is there to run a cell{f': {tails}' if tails else ''}")

    # --- what the window asks for

    def hosts(self) -> Mapping[str, Room]:
        if time.monotonic() - self._looked >= _LOOK:
            self._looked = time.monotonic()
            self._look()
        return {name: health.room for name, (_, health) in self._known.items()}

    def _look(self) -> None:
        try:
            # Not scheduler_info(): what it gives may be the client's own last look, which asks for no workers.
            found = self._client.sync(self._client.scheduler.identity, n_workers=-1)["workers"]
            alive = self._client.status == "running"
        except Exception:
            found, alive = {}, False
        there = {str(about["name"]): str(address) for address, about in found.items()}
        for name, (address, _) in list(self._known.items()):
            if there.get(name) != address:
                del self._known[name]
                why = f"{name} is gone" if alive else "the scheduler is gone"
                self._observer.warn(f"{why}; what ran there runs again")
                self._lose(address, EngineGone(why) if not alive else ConnectionError(why))
        for name, address in there.items():
            if name not in self._known and name not in self._refused:
                self._greet(name, address)
        for name, made in self._workers.items():
            if name not in there and not made.runs and made.may_try:
                if made.ended:
                    said = one_line(printable(made.said), 300) or "it said nothing"
                    self._observer.warn(f"the worker on {name} has ended, and another is started: {said}")
                self._start(made)

    def _greet(self, name: str, address: str) -> None:
        """Ask a new worker how it is; one that is not as this labkit gets no work."""
        try:
            health: _Health = self._client.run(_health, self._night, workers=[address])[address]
        except Exception as error:
            health = _Health("", Room(0, 0), f"{type(error).__name__}: {error}")
        problem = health.problem
        if not problem and health.version != worker.version():
            problem = f"its labkit is {health.version}, this one is {worker.version()}"
        if problem:
            self._refused.add(name)
            self._observer.warn(f"{name} gets no cells: {problem}")
        else:
            self._known[name] = (address, health)
            self._observer.step(f"{name} is ready: {health.room.mib} MiB, {health.room.cpus} CPUs")

    def _lose(self, address: str, error: Exception) -> None:
        for future, where in list(self._running.items()):
            if where == address:
                _settle(future, error=error)

    def submit(self, host: str, job: Job) -> Future[Ended]:
        address = self._known[host][0]
        task = self._client.submit(
            _cell,
            job,
            self._home.pop(address, []),
            key=job.name,
            pure=False,
            workers=[address],
            allow_other_workers=False,
            retries=0,
        )
        answer: Future[tuple[Ended, bytes]] = Future()
        made: Future[Ended] = Future()
        self._running[answer] = address

        def settled(done: Future[tuple[Ended, bytes]]) -> None:
            self._running.pop(done, None)
            if (error := done.exception()) is not None:
                made.set_exception(error)
                return
            ended, data = done.result()
            if data:
                self._data[ended.name] = data
            made.set_result(ended)

        def told(task: Any) -> None:
            if task.status == "finished":
                try:
                    _settle(answer, task.result(timeout=_ASK))
                except Exception as error:
                    _settle(answer, error=error)
            elif task.status == "cancelled" and self._client.status != "running":
                _settle(answer, error=EngineGone("the scheduler is gone"))
            else:
                _settle(answer, error=ConnectionError(f"{host}: {task.status}"))

        answer.add_done_callback(settled)
        task.add_done_callback(told)
        return made

    def fetch(self, host: str, ended: Ended) -> Path:
        path = self._place / f"{ended.name}.tar"
        data = self._data.pop(ended.name, b"")
        if not data and ended.bundle:
            try:
                address = self._known[host][0]
                with path.open("wb") as file:
                    while (start := file.tell()) < ended.bundle:
                        words = (self._night, ended.name, start, _PIECE)
                        piece = self._client.run(_read, *words, workers=[address])[address]
                        if not piece:
                            break
                        file.write(piece)
            except (KeyError, OSError) as error:
                raise DamagedBundle(f"the bundle of {ended.name} is on {host}, which is gone") from error
        else:
            path.write_bytes(data)
        return path

    def acknowledge(self, host: str, name: str) -> None:
        (self._place / f"{name}.tar").unlink(missing_ok=True)
        self._data.pop(name, None)
        if host in self._known:  # one that is gone says it again when it is back
            self._home.setdefault(self._known[host][0], []).append(name)

    def waiting(self) -> list[tuple[str, Ended]]:
        found = []
        for host, (address, _) in self._known.items():
            with contextlib.suppress(OSError):
                found += [
                    (host, ended) for ended in self._client.run(_waiting, self._night, workers=[address])[address]
                ]
        return found

    def stop(self) -> None:
        if not self._running:
            return
        addresses = [address for address, _ in self._known.values()]
        with contextlib.suppress(Exception):
            self._client.run(_stop, workers=addresses)
        Deadline.after(_ASK).poll(lambda: not self._running, every=0.1)
        for future in list(self._running):
            _settle(future, error=ConnectionError("it did not end"))


def _settle(future: Future[tuple[Ended, bytes]], value: object = None, error: Exception | None = None) -> None:
    """Say once how it ended; whoever comes later is too late."""
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]


# --- a worker on a host, from here


class _SshWorker:
    """A worker that was started over SSH; it ends with the scheduler, and so with this process."""

    def __init__(self, host: str, settings: Settings, night: str, scheduler: int, pem: str) -> None:
        address = Address.parse(host)
        self.name = address.machine_name
        ssh = settings.ssh
        assert ssh.key is not None  # see check()
        assert ssh.known_hosts is not None
        user = address.user if "@" in host else getpass.getuser()
        self._endpoint = Endpoint(address.host, address.port, user, ssh.key, ssh.known_hosts)
        self._settings, self._night, self._scheduler, self._pem = settings, night, scheduler, pem
        self._log = settings.home.nights / night / f"{self.name}.log"
        self._child: process.Child | None = None
        self.thread: threading.Thread | None = None
        self._tried = Deadline.after(0)
        self._tries = 0
        self._over = False

    @property
    def runs(self) -> bool:
        """Whether it runs, or is being started."""
        starting = self.thread is not None and self.thread.is_alive()
        return starting or (self._child is not None and self._child.poll() is None)

    @property
    def may_try(self) -> bool:
        return self._tried.passed

    def begun(self) -> None:
        """It is being started: not again too soon."""
        self._tried = Deadline.after(min(_AGAIN * 2**self._tries, _LONGEST))
        self._tries += 1

    @property
    def ended(self) -> bool:
        """Whether it was started and is no more."""
        return self._child is not None and not self.runs

    @property
    def comes(self) -> bool:
        """Whether it is worth waiting for: one that has ended is started again, a few times."""
        return self.runs or (self.ended and self._tries < _TRIES)

    @property
    def said(self) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace")[-500:].strip()
        return ""

    def start(self) -> None:
        """Start it; it comes to the scheduler by itself. LabError where the host cannot be reached."""
        from labkit.io.ssh import SshRemote  # paramiko and cryptography: a quarter of a second

        limit = self._settings.limits.connect
        with SshRemote(self._endpoint, Deadline.after(limit, "connect")) as remote:
            home = self._settings.cluster.home.replace("{host}", self.name)
            if home.startswith("~"):
                home = remote.run(["sh", "-c", 'printf %s "$HOME"'], timeout=_ASK).stdout + home[1:]
            pem = f"{home}/outbox/{self._night}.pem"
            remote.upload(self._pem.encode(), pem, mode=0o600, timeout=_ASK)
        listens, contact, back = map(str, secrets.SystemRandom().sample(_PORTS, 3))
        python = self._settings.cluster.python or sys.executable
        root = str(Path(worker.__file__).parent.parent.parent)
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from labkit.matrix.cluster import serve; serve()"
        words = (python, "-I", "-c", code, root, back, self.name, listens, contact, pem, home)
        argv = shell_argv(self._endpoint, [shlex.join([*self._endpoint.as_root, *words])])
        forward = [
            "-o", "ExitOnForwardFailure=yes",
            "-R", f"127.0.0.1:{back}:127.0.0.1:{self._scheduler}",
            "-L", f"127.0.0.1:{contact}:127.0.0.1:{listens}",
        ]  # fmt: skip
        if self._over:
            return
        with self._log.open("ab") as log:
            self._child = process.spawn(
                [argv[0], *forward, *argv[1:]],
                cwd=self._log.parent,
                output=log.fileno(),
                errors=log.fileno(),
                env={process.OWNER: str(self._log.parent)},
            )

    def stop(self) -> None:
        self._over = True
        if self._child is not None:
            process.end_group(self._child.pid)


# --- a worker, on its host


def serve() -> None:
    """The life of a worker: until its scheduler is gone."""
    back, name, listens, contact, pem, home = sys.argv[1:]
    asyncio.run(_serve(f"tls://127.0.0.1:{back}", name, int(listens), contact, Path(pem), Path(home)))


async def _serve(scheduler: str, name: str, port: int, contact: str, pem: Path, home: Path) -> None:
    make_directory(home)
    files = {f"tls_{role}_{kind}": str(pem) for role in ("client", "scheduler", "worker") for kind in ("cert", "key")}
    security = Security(require_encryption=True, tls_ca_file=str(pem), **files)
    with (
        tempfile.TemporaryDirectory(prefix="labkit-worker-") as scratch,
        dask.config.set({**_QUIET, "distributed.comm.timeouts.connect": "10s"}),
    ):
        made = Worker(
            scheduler,
            nthreads=_THREADS,
            executor=ThreadPoolExecutor(_THREADS, "cell"),  # Dask's own threads wake up every second, all of them
            name=name,
            host="127.0.0.1",
            port=port,
            contact_address=f"tls://127.0.0.1:{contact}",
            security=security,
            memory_limit=0,
            dashboard=False,
            death_timeout=_TTL,
            local_directory=scratch,
            plugins=(_Plugin(home),),
        )
        async with made:
            await made.finished()


class _Plugin(WorkerPlugin):
    """What a worker knows of its host; a cell finds it by its name."""

    name = _PLUGIN

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stop = threading.Event()
        self._serving = contextlib.ExitStack()

    def serve(self, night: str) -> None:
        """Work for that night: while this process lives, nobody clears up after it. What older nights, which nobody
        goes on with, have left in this home goes.
        """
        home = Home(self.home)
        self._serving.close()
        self._serving.enter_context(attempted(home.lock(served(night)), "the night"))
        for old in nights.ids(home.outbox):
            if nights.order(old) < nights.order(night):
                with attempted(home.lock(served(old)), "the night") as who:
                    if who is None:
                        Outbox(home.outbox / old).clear()
                        discard(home.outbox / old)
        sweep(home.outbox)

    def teardown(self, worker: Worker) -> None:
        self.stop.set()
        self._serving.close()


def _plugin(dask_worker: Any) -> _Plugin:
    """Of a cluster that was there before, a worker gets its home from its own settings."""
    found = dask_worker.plugins.get(_PLUGIN)
    if not isinstance(found, _Plugin):
        found = dask_worker.plugins[_PLUGIN] = _Plugin(config.load().home.path)
    return found


def _outbox(dask_worker: Any, night: str) -> Outbox:
    return Outbox(_plugin(dask_worker).home / "outbox" / night)


def _cell(job: Job, home: Sequence[str]) -> tuple[Ended, bytes]:
    """Run a cell; with how it ended comes its bundle, where that is small. home: the attempts whose bundles are at home
    and need not be kept.
    """
    plugin = _plugin(get_worker())
    for name in home:
        Outbox(plugin.home / "outbox" / job.night).acknowledge(name)
    ended = worker.run(job, plugin.home, plugin.stop)
    small = 0 < ended.bundle <= _INLINE
    return ended, Outbox(plugin.home / "outbox" / job.night).read(ended.name, 0, _INLINE) if small else b""


def _health(night: str, dask_worker: Any = None) -> _Health:
    """Whether cells can run on this host at all: its home can be written, and a program started."""
    try:
        plugin = _plugin(dask_worker)
        outbox = _outbox(dask_worker, night)
        make_directory(outbox.directory, mode=0o700)
        plugin.serve(night)
        outbox.clear()
        write_atomic(outbox.directory / "health", b"")
        (outbox.directory / "health").unlink()
        process.run(["true"], timeout=_ASK)
        plugin.stop.clear()
        return _Health(worker.version(), local.of_this_host(), "")
    except (LabError, OSError) as error:
        return _Health(worker.version(), Room(0, 0), str(error))


def _stop(dask_worker: Any = None) -> None:
    _plugin(dask_worker).stop.set()


def _read(night: str, name: str, start: int, most: int, dask_worker: Any = None) -> bytes:
    return _outbox(dask_worker, night).read(name, start, most)


def _waiting(night: str, dask_worker: Any = None) -> list[Ended]:
    return _outbox(dask_worker, night).waiting()


def _forget(night: str, home: Sequence[str], dask_worker: Any = None) -> None:
    for name in home:
        _outbox(dask_worker, night).acknowledge(name)
    _outbox(dask_worker, night).remove()
    (_plugin(dask_worker).home / "outbox" / f"{night}.pem").unlink(missing_ok=True)

"""The engine of one host: this one. A pool of threads, each of which waits for the process of one cell."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from labkit.matrix import worker
from labkit.matrix.job import Ended, Job
from labkit.matrix.outbox import Outbox
from labkit.matrix.window import Room

NAME = "local"
_KEPT = 512  # MiB that are left to everything else on this host
_MOST = 256  # cells at a time


class LocalEngine:
    """A context manager: whatever ends it, nothing of the cells runs afterwards."""

    def __init__(self, home: Path, night: str, room: Room | None = None) -> None:
        self._home = home
        self._room = room or of_this_host()
        self._outbox = Outbox(home / "outbox" / night)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(_MOST, "cell")
        self._outbox.clear()

    def hosts(self) -> Mapping[str, Room]:
        return {NAME: self._room}

    def submit(self, host: str, job: Job) -> Future[Ended]:
        return self._pool.submit(worker.run, job, self._home, self._stop)

    def fetch(self, host: str, ended: Ended) -> Path:
        return self._outbox.bundle(ended.name)

    def acknowledge(self, host: str, name: str) -> None:
        self._outbox.acknowledge(name)

    def waiting(self) -> list[tuple[str, Ended]]:
        return [(NAME, ended) for ended in self._outbox.waiting()]

    def stop(self) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._outbox.remove()


def of_this_host() -> Room:
    """What this host, or the group of processes that this one may be held to, has for machines now."""
    mib = _available()
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            mib = min(mib, (int(Path(limit).read_text()) - int(Path(used).read_text())) >> 20)
        except (OSError, ValueError):  # "max", or another cgroup version
            continue
    return Room(max(mib - _KEPT, 1), len(os.sched_getaffinity(0)))


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 2048

"""What machines of every provider have in common: a directory under the lab's home, a record in it, and a lock.

machines/NAME/record.json      says by its provider which class reads the rest
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.home import Home
from labkit.core.observer import Observer
from labkit.io import process
from labkit.io.files import disk_errors, locked, write_atomic
from labkit.io.remote import Remote

_RECORD = "record.json"


def names(home: Home) -> list[str]:
    """The machines that have a directory in this home, sorted."""
    return sorted(path.name for path in home.machines.iterdir() if path.is_dir()) if home.machines.is_dir() else []


def provider_of(settings: Settings, name: str) -> str | None:
    """Which provider made the machine of that name; None if there is no machine or no record of it."""
    found = read_record(settings.home.machine(name)).get("provider")
    return found if isinstance(found, str) else None


def read_record(directory: Path) -> dict[str, Any]:
    """What record.json holds; empty where it cannot be read."""
    try:
        data = json.loads((directory / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


class RecordedMachine:
    """The base of a provider's machine."""

    def __init__(self, name: str, settings: Settings, observer: Observer) -> None:
        self.name = name
        self.directory = settings.home.machine(name)
        self._settings = settings
        self._observer = observer

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the machine against other labkit processes."""
        limits = self._settings.limits
        path = self._settings.home.lock(f"machine-{self.name}")
        timeout = limits.build + limits.boot + limits.download
        with locked(path, timeout=timeout, waiting=self._observer.step, what=f"machine {self.name}"):
            yield

    @staticmethod
    def _connect(endpoint: Endpoint, deadline: Deadline, alive: Callable[[], bool] = lambda: True) -> Remote:
        from labkit.io.ssh import SshRemote  # paramiko and cryptography: a quarter of a second

        return SshRemote(endpoint, deadline, alive)

    def _save_record(self, record: Mapping[str, object]) -> None:
        with disk_errors(self.directory):
            write_atomic(self.directory / _RECORD, json.dumps(record, indent=1), mode=0o600)

    def _remove_directory(self) -> None:
        process.end_owned(self.directory)
        if self.directory.exists():
            with disk_errors(self.directory):
                shutil.rmtree(self.directory)

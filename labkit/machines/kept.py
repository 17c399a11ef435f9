"""What machines of every provider have in common: a folder under the lab's home, a record in it, and a lock.

machines/NAME/record.json      says by its provider which class reads the rest
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labkit import process
from labkit.config import Settings
from labkit.files import disk_errors, locked, write_atomic
from labkit.observer import Observer

_RECORD = "record.json"


def provider_of(settings: Settings, name: str) -> str | None:
    """Which provider made the machine of that name; None where there is none, or its record was never written."""
    found = read_record(settings.home / "machines" / name).get("provider")
    return found if isinstance(found, str) else None


def read_record(folder: Path) -> dict[str, Any]:
    """What record.json holds; empty where it cannot be read."""
    try:
        data = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


class Kept:
    """The base of a provider's machine."""

    def __init__(self, name: str, settings: Settings, observer: Observer) -> None:
        self.name = name
        self.folder = settings.home / "machines" / name
        self._settings = settings
        self._observer = observer

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the machine against other labkit processes."""
        limits = self._settings.limits
        path = self._settings.home / "locks" / f"machine-{self.name}.lock"
        bound = limits.build + limits.boot + limits.download
        with locked(path, timeout=bound, waiting=self._observer.step, what=f"machine {self.name}"):
            yield

    def _save_record(self, record: Mapping[str, object]) -> None:
        with disk_errors(self.folder):
            write_atomic(self.folder / _RECORD, json.dumps(record, indent=1), mode=0o600)

    def _remove_folder(self) -> None:
        process.end_owned(self.folder)
        if self.folder.exists():
            with disk_errors(self.folder):
                shutil.rmtree(self.folder)

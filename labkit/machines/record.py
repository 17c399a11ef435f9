"""What machines of every provider have in common: a directory under the lab's home, a record in it, and a lock.

machines/NAME/record.json      says by its provider which class reads the rest
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

from labkit.core.arch import known
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import MachineError
from labkit.core.home import Home
from labkit.core.observer import Observer
from labkit.io import process
from labkit.io.files import disk_errors, locked, sweep, write_atomic
from labkit.io.remote import Remote
from labkit.machines.base import MachineInfo

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_RECORD = "record.json"
VAGRANTFILE = "Vagrantfile"
_Record = TypeVar("_Record", bound="DataclassInstance")


def names(home: Home) -> list[str]:
    """The machines that have a directory in this home, sorted."""
    found = home.machines.iterdir() if home.machines.is_dir() else ()
    return sorted(path.name for path in found if path.is_dir() and not path.name.startswith("."))


def provider_of(settings: Settings, name: str) -> str | None:
    """Which provider made the machine of that name; None if there is no machine or no record of it. DamagedRecord."""
    data = read_record(settings.home.machine(name))
    found = data.get("provider") if data else None
    return found if found is None or isinstance(found, str) else str(found)


def system_of(home: Home, name: str) -> tuple[str, str, str] | None:
    """Platform, release and architecture of the machine of that name, which is empty where its record does not say it;
    None where there is none, or no record that says the others.
    """
    try:
        data = read_record(home.machine(name)) or {}
    except DamagedRecord:
        return None
    platform, release = data.get("platform"), data.get("release")
    found = arch if isinstance(arch := data.get("arch"), str) and known(arch) else ""
    return (platform, release, found) if isinstance(platform, str) and isinstance(release, str) else None


def image_of(home: Home, name: str) -> str | None:
    """The key of the image that the machine of that name was made of; None where none is known."""
    with contextlib.suppress(DamagedRecord):
        image = (read_record(home.machine(name)) or {}).get("image")
        return image if isinstance(image, str) else None
    return None


def kernel_of(home: Home, name: str) -> str | None:
    """The digest of the kernel that the machine of that name was made with, of User-Mode Linux; None elsewhere."""
    with contextlib.suppress(DamagedRecord):
        kernel = (read_record(home.machine(name)) or {}).get("kernel")
        return kernel if isinstance(kernel, str) else None
    return None


def read_record(directory: Path) -> dict[str, Any] | None:
    """What record.json holds; None where there is none. DamagedRecord where it cannot be read."""
    path = directory / _RECORD
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        there = (directory / VAGRANTFILE).exists() or any(directory.glob("volume/*"))
        if there or any(directory.glob("disk.*")):  # which none has before its record
            raise damaged(path, "is missing") from None
        return None
    except NotADirectoryError:
        return None
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, "is not JSON") from error
    if not isinstance(data, dict):
        raise damaged(path, "is not a JSON object")
    return data


def load_record(kind: type[_Record], directory: Path) -> _Record | None:
    """The record as a value; None where there is none. DamagedRecord where a key lacks or is not what it must be.

    Keys that this labkit does not know are left alone: a newer one may have written them.
    """
    data = read_record(directory)
    if data is None:
        return None
    values = {}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in data:
            value, kind_of_value = data[field.name], get_origin(hints[field.name]) or hints[field.name]
            if type(value) is not kind_of_value:
                raise damaged(
                    directory / _RECORD, f"has {field.name} = {value!r:.60}, which is no {kind_of_value.__name__}"
                )
            values[field.name] = value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise damaged(directory / _RECORD, f"has no {field.name}")
    if (arch := values.get("arch")) and known(arch) != arch:
        raise damaged(directory / _RECORD, f"has arch = {arch!r:.60}, of which labkit makes no machines")
    return kind(**values)


class DamagedRecord(MachineError):
    """The record of a machine cannot be read; what the machine has on its disk may be good."""


def damaged(path: Path, why: str) -> DamagedRecord:
    return DamagedRecord(
        f"{path} {why}, so labkit does not know what machine {path.parent.name} is",
        hint="nothing of it was touched: put the file back, or copy what you need from its disk; "
        f"./lab destroy --machine {path.parent.name} removes it",
    )


class RecordedMachine:
    """The base of a provider's machine."""

    def __init__(self, name: str, settings: Settings, observer: Observer, needs: tuple[str, ...] = ()) -> None:
        """needs: the tools that a suite or runtime asks for, see labkit.provision.bootstrap."""
        self.name = name
        self._needs = needs
        self.directory = settings.home.machine(name)
        self._settings = settings
        self._observer = observer

    def status(self) -> MachineInfo:
        raise NotImplementedError

    def examine(self) -> MachineInfo:
        return self.status()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the machine against other labkit processes."""
        limits = self._settings.limits
        path = self._settings.home.lock(f"machine-{self.name}")
        timeout = limits.build + limits.boot + limits.download
        with locked(path, timeout=timeout, waiting=self._observer.step, what=f"machine {self.name}"):
            self._finish_removal()
            sweep(self.directory)
            yield

    @staticmethod
    def _connect(endpoint: Endpoint, deadline: Deadline, alive: Callable[[], bool] = lambda: True) -> Remote:
        from labkit.io.ssh import SshRemote  # paramiko and cryptography: a quarter of a second

        return SshRemote(endpoint, deadline, alive)

    def _save_record(self, record: Mapping[str, object]) -> None:
        """Write the record; keys that a newer labkit has added stay."""
        with disk_errors(self.directory):
            text = json.dumps({**(read_record(self.directory) or {}), **record}, indent=1)
            write_atomic(self.directory / _RECORD, text, mode=0o600)

    @property
    def _removed(self) -> Path:
        """What the directory is called while it is removed: no machine is ever there in part. No name begins so."""
        return self.directory.with_name(f".{self.name}.removed")

    def _remove_directory(self) -> None:
        process.end_owned(self.directory)
        self._finish_removal()
        if self.directory.exists():
            with disk_errors(self.directory):
                self.directory.rename(self._removed)
            self._finish_removal()

    def _finish_removal(self) -> None:
        """Remove the rest of a machine whose removal has begun, by this labkit or by one that was killed."""
        if self._removed.exists():
            with disk_errors(self._removed):
                try:
                    shutil.rmtree(self._removed)
                except KeyboardInterrupt:  # it takes no time, and half a machine is of no use
                    shutil.rmtree(self._removed)
                    raise

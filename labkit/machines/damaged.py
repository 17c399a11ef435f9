"""A machine whose record cannot be read. Its disk may be good, so nothing is done to it until a person destroys it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import MachineError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.machines.base import Difference, MachineInfo, MachineState
from labkit.machines.record import VAGRANTFILE, RecordedMachine


class DamagedMachine(RecordedMachine):
    """Everything but status, lock and destroy raises the error that says what is wrong with its record."""

    def __init__(self, name: str, settings: Settings, observer: Observer, error: MachineError) -> None:
        super().__init__(name, settings, observer)
        self._error = error

    def status(self) -> MachineInfo:
        return MachineInfo(self.name, "", "", "", MachineState.DAMAGED)

    def create(self, distro: Distro) -> None:
        self._refuse()

    def start(self, *, discard_state: bool = False) -> None:
        self._refuse()

    def endpoint(self) -> NoReturn:
        self._refuse()

    def connect(self, deadline: Deadline) -> NoReturn:
        self._refuse()

    def reset(self) -> None:
        self._refuse()

    def halt(self) -> None:
        self._refuse()

    def differences(self, distro: Distro) -> Sequence[Difference]:
        return []

    def update(self, distro: Distro) -> None:
        self._refuse()

    def console(self) -> Path | None:
        return None

    def destroy(self) -> None:
        if (self.directory / VAGRANTFILE).exists():  # its disk is elsewhere, and Vagrant knows where
            from labkit.io.vagrant import Vagrant

            home = self._settings.vagrant.home or self._settings.home.vagrant
            vagrant = Vagrant(self.directory, home=home, owner=self.directory, on_line=self._observer.detail)
            vagrant.remove(timeout=self._settings.limits.boot)
        self._remove_directory()

    def _refuse(self) -> NoReturn:
        raise self._error

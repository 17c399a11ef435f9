"""The use cases of machines: up, reset, halt, destroy, status, ssh. Nothing here prints.

settings say what is wanted, the observer is told about progress, and the outcome is a value.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NoReturn

from labkit.core.config import Settings
from labkit.core.endpoint import shell_argv
from labkit.core.errors import UsageError
from labkit.core.observer import Observer, Silent
from labkit.core.platforms import Distro
from labkit.io import process
from labkit.machines import providers, record
from labkit.machines.base import Haltable, Machine, MachineInfo, MachineState, Resettable
from labkit.qemu.network import TOOLS as NETWORK_TOOLS

_QEMU_TOOLS = ("qemu-system-x86_64", "qemu-img", *NETWORK_TOOLS)
_BUILD_TOOLS = ("mmdebstrap", "mkfs.ext4")


def up(settings: Settings, observer: Observer, *, discard_state: bool = False) -> MachineInfo:
    """Bring the machine up, whatever state it is in; one that runs is left as it is.

    discard_state: give up the memory that it was halted with, or that of one that cannot be reached.
    """
    distro = settings.distro()
    machine = providers.wanted(machine_name(settings, distro), settings, observer, distro)
    with machine.lock():
        return bring_up(machine, settings, distro, observer, discard_state=discard_state)


def reset(settings: Settings, observer: Observer) -> MachineInfo:
    """Throw away everything that happened on the machine since it was made."""
    started = time.monotonic()
    machine = _named(settings, observer)
    with machine.lock():
        state = machine.status().state
        if state in (MachineState.ABSENT, MachineState.INTERRUPTED, MachineState.LOST):
            raise UsageError(f"machine {machine.name} is {state}; there is nothing to reset", hint="./lab up")
        if not isinstance(machine, Resettable):
            raise UsageError(
                f"machine {machine.name} is a host of your own: labkit cannot reset it",
                hint="a machine of another provider can be reset",
            )
        machine.reset()
    return _timed(machine, started)


def halt(settings: Settings, observer: Observer) -> MachineInfo:
    """Stop the machine, keeping its state; `up` resumes it."""
    machine = _named(settings, observer)
    with machine.lock():
        state = machine.status().state
        if state is MachineState.ABSENT:
            raise UsageError(f"machine {machine.name} does not exist", hint="./lab status lists those that do")
        if not isinstance(machine, Haltable):
            raise UsageError(f"machine {machine.name} is a host of your own: labkit does not stop it")
        if state in (MachineState.RUNNING, MachineState.DAMAGED, MachineState.UNREACHABLE):
            machine.halt()
    return machine.status()


def destroy(settings: Settings, observer: Observer, *, everything: bool = False) -> list[str]:
    """Remove the machine, or every machine of this lab; the names of those that were there."""
    names = record.names(settings.home) if everything else [_named(settings, observer).name]
    gone = []
    for name in names:
        machine = providers.existing(name, settings, observer)
        with machine.lock():
            if machine.status().state is not MachineState.ABSENT:
                machine.destroy()
                gone.append(name)
    return gone


def status(settings: Settings) -> list[MachineInfo]:
    """Every machine of this lab, by name."""
    return [providers.existing(name, settings, Silent()).examine() for name in record.names(settings.home)]


def ssh(settings: Settings, words: Sequence[str] = ()) -> NoReturn:
    """Give the terminal to the OpenSSH client, for a shell or a command on the machine.

    words are what OpenSSH takes as a command: joined by spaces, for the machine's shell to read.
    """
    process.replace_with(shell_argv(_named(settings, Silent()).endpoint(), words))


def bring_up(
    machine: Machine, settings: Settings, distro: Distro, observer: Observer, *, discard_state: bool = False
) -> MachineInfo:
    """Make the machine if it does not exist, start it if it does not run. The caller holds its lock."""
    started = time.monotonic()
    info = machine.status()
    state = info.state
    if state in (MachineState.ABSENT, MachineState.INTERRUPTED, MachineState.LOST):
        if info.provider == "qemu":
            from labkit.host.install import ensure  # only where a machine is made

            ensure(settings, image_tools(settings, distro), observer)
        if state is MachineState.INTERRUPTED:
            observer.step(f"removing what an interrupted command left of {machine.name}")
        elif state is MachineState.LOST:
            observer.warn(f"{machine.name} was destroyed behind labkit's back; making it again")
        observer.step(f"bringing up {machine.name}")
        machine.create(distro)
    else:
        if difference := machine.outdated(distro):
            observer.warn(
                f"machine {machine.name} {difference}; to get what the settings ask for, ./lab destroy it first"
            )
        if state is MachineState.CRASHED:
            observer.step(f"{machine.name} crashed or was killed; booting its disk again")
        machine.start(discard_state=discard_state)
        machine.update(distro)
    return _timed(machine, started)


def _timed(machine: Machine, started: float) -> MachineInfo:
    return dataclasses.replace(machine.status(), seconds=round(time.monotonic() - started, 3))


def image_tools(settings: Settings, distro: Distro) -> tuple[str, ...]:
    """The host's programs that the golden image of the release needs."""
    return (*_QEMU_TOOLS, *(_BUILD_TOOLS if distro.release.build and settings.image != "cloud" else ()))


def machine_name(settings: Settings, distro: Distro) -> str:
    return settings.machine.name or distro.name


def _named(settings: Settings, observer: Observer) -> Machine:
    """The machine of the settings; if they name it, its platform need not exist any more."""
    name = settings.machine.name or settings.distro().name
    return providers.existing(name, settings, observer)

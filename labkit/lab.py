"""The use cases of machines: what the tasks of the front door do, without a word printed.

settings say what is wanted, observer hears how it goes, and what comes back is a value.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

from labkit import late, platforms, process
from labkit.config import Settings
from labkit.endpoint import shell_argv
from labkit.errors import MachineError, UsageError
from labkit.machines import Machine, MachineInfo, State, providers
from labkit.observer import Observer, Silent
from labkit.platforms import Platform, Release

_QEMU_TOOLS = ("qemu-system-x86_64", "qemu-img")
_BUILD_TOOLS = ("mmdebstrap", "mkfs.ext4")


def up(settings: Settings, observer: Observer) -> MachineInfo:
    """Bring the machine up, whatever state it is in; one that runs is left as it is."""
    platform, release = chosen(settings)
    machine = providers.wanted(machine_name(settings, platform, release), settings, observer, platform, release)
    with machine.lock():
        return bring_up(machine, settings, platform, release, observer)


def reset(settings: Settings, observer: Observer) -> MachineInfo:
    """Throw away everything that happened on the machine since it was made."""
    started = time.monotonic()
    machine = _named(settings, observer)
    with machine.lock():
        state = machine.status().state
        if state in (State.ABSENT, State.INTERRUPTED, State.LOST):
            raise UsageError(f"machine {machine.name} is {state}; there is nothing to reset", hint="./lab up")
        machine.restore()
    return _timed(machine, started)


def halt(settings: Settings, observer: Observer) -> MachineInfo:
    """Stop the machine, keeping all it has; `up` goes on with it."""
    machine = _named(settings, observer)
    with machine.lock():
        state = machine.status().state
        if state is State.RUNNING:
            machine.halt()
        elif state is State.ABSENT:
            raise UsageError(f"machine {machine.name} does not exist", hint="./lab status lists those that do")
    return machine.status()


def destroy(settings: Settings, observer: Observer, *, everything: bool = False) -> list[str]:
    """Remove the machine, or every machine of this lab; the names of those that were there."""
    names = _existing(settings) if everything else [_named(settings, observer).name]
    gone = []
    for name in names:
        machine = providers.existing(name, settings, observer)
        with machine.lock():
            if machine.status().state is not State.ABSENT:
                machine.destroy()
                gone.append(name)
    return gone


def status(settings: Settings) -> list[MachineInfo]:
    """Every machine of this lab, by name."""
    return [providers.existing(name, settings, Silent()).status() for name in _existing(settings)]


def ssh(settings: Settings, command: Sequence[str] = ()) -> int:
    """Give the terminal to the OpenSSH client, for a shell or a command on the machine; does not return."""
    argv = shell_argv(_named(settings, Silent()).endpoint(), command)
    program = process.which(argv[0])
    if program is None:
        raise MachineError("the OpenSSH client is not installed on this host", hint="./lab doctor --yes")
    os.execv(program, argv)


def bring_up(
    machine: Machine, settings: Settings, platform: Platform, release: Release, observer: Observer
) -> MachineInfo:
    started = time.monotonic()
    info = machine.status()
    state = info.state
    if state in (State.ABSENT, State.INTERRUPTED, State.LOST):
        if info.provider == "qemu":
            late.module("doctor").ensure(settings, image_tools(settings, release), observer)
        if state is State.INTERRUPTED:
            observer.step(f"clearing what an interrupted command left of {machine.name}")
        elif state is State.LOST:
            observer.warn(f"{machine.name} was destroyed behind labkit's back; making it anew")
        observer.step(f"bringing up {machine.name}")
        machine.create(platform, release)
    else:
        if difference := machine.outdated(platform, release):
            observer.warn(f"machine {machine.name} {difference}; ./lab destroy it to get what is asked for now")
        if state is State.CRASHED:
            observer.step(f"{machine.name} was ended without a halt; booting its disk again")
        machine.start()
        machine.update(platform, release)
    return _timed(machine, started)


def _timed(machine: Machine, started: float) -> MachineInfo:
    return dataclasses.replace(machine.status(), seconds=round(time.monotonic() - started, 3))


def image_tools(settings: Settings, release: Release) -> tuple[str, ...]:
    """The host's programs that the golden image of the release takes."""
    return (*_QEMU_TOOLS, *(_BUILD_TOOLS if release.build and settings.image != "cloud" else ()))


def chosen(settings: Settings) -> tuple[Platform, Release]:
    platform = platforms.load(settings.platform, platforms.folders(settings.platforms))
    return platform, platform.release(settings.release)


def machine_name(settings: Settings, platform: Platform, release: Release) -> str:
    return settings.machine.name or f"{platform.name}-{release.name}"


def _named(settings: Settings, observer: Observer) -> Machine:
    """The machine that the settings mean; its platform need not be known any more if it is named."""
    name = settings.machine.name or machine_name(settings, *chosen(settings))
    return providers.existing(name, settings, observer)


def _existing(settings: Settings) -> list[str]:
    folder = settings.home / "machines"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

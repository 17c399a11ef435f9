"""The use cases of machines: up, reset, halt, destroy, status, ssh. Nothing here prints.

settings say what is wanted, the observer is told about progress, and the outcome is a value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import NoReturn

from labkit.core.config import Settings
from labkit.core.endpoint import Address, shell_argv
from labkit.core.errors import UsageError
from labkit.core.observer import Observer, Silent
from labkit.core.platforms import Distro
from labkit.io import process
from labkit.io.files import usage
from labkit.machines import differences, providers, record
from labkit.machines.base import Difference, Elsewhere, Haltable, Machine, MachineInfo, MachineState, Owned, Resettable
from labkit.machines.choice import tools
from labkit.machines.differences import Row

_IDENTITY = (
    "provider",
    "platform",
    "release",
    "machine.arch",
    "ssh.host",
)  # the settings with flags that tell machines apart
_ANEW = (MachineState.ABSENT, MachineState.INTERRUPTED, MachineState.LOST)
_MAY_RUN = (
    MachineState.RUNNING,
    MachineState.UNFINISHED,
    MachineState.DAMAGED,
    MachineState.UNREACHABLE,
    MachineState.UNKNOWN,
)


def up(settings: Settings, observer: Observer, *, discard_state: bool = False) -> MachineInfo:
    """Bring the machine up, whatever state it is in; one that runs is left as it is.

    discard_state: give up the memory that it was halted with, or that of one that cannot be reached. A host of
    somebody's own is changed only where the settings say yes, or the person whom the observer asks.
    """
    started = time.monotonic()
    settings = settled(settings)
    distro = settings.distro()
    machine = providers.wanted(machine_name(settings), settings, observer, distro)
    with machine.lock():
        before = machine.status()
        if discard_state and before.kind in ("vagrant", "ssh"):
            raise UsageError(
                f"--discard-state is for QEMU's machines, whose memory labkit keeps; {machine.name} is none",
                hint="leave --discard-state out",
            )
        info = bring_up(machine, settings, distro, observer, discard_state=discard_state)
        if not isinstance(machine, Owned) or not (pending := machine.pending(distro)):
            return info
        try:
            _agree(machine.name, settings, pending, observer)
        except UsageError:
            if before.state in _ANEW:
                machine.destroy()  # nothing but labkit's note of it
            raise
        machine.bootstrap(distro)
        return _timed(machine, started)


def _agree(name: str, settings: Settings, pending: Sequence[str], observer: Observer) -> None:
    """Say what the bootstrap will change on a host of somebody's own. UsageError where that is not agreed to."""
    observer.step(f"the bootstrap of {name} runs these steps there, as root:")
    for line in pending:
        observer.step(f"  {line}")
    if not settings.yes and not observer.confirm(f"Change the host {name} so?"):
        raise UsageError(
            f"the bootstrap would change {name}, a host of its own, and nobody has agreed to that",
            hint="--yes agrees to it; ./lab test needs no bootstrap, it brings only what the suite lacks",
        )


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
        if state in _MAY_RUN:
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
    """Every machine of this lab, by name, with its size."""
    found = []
    for name in record.names(settings.home):
        machine = providers.existing(name, settings, Silent())
        elsewhere = machine.size_elsewhere() if isinstance(machine, Elsewhere) else 0
        size = usage(settings.home.machine(name)) + elsewhere
        found.append(dataclasses.replace(machine.examine(), size=size))
    return found


def ssh(settings: Settings, words: Sequence[str] = ()) -> NoReturn:
    """Give the terminal to the OpenSSH client, for a shell or a command on the machine.

    words are what OpenSSH takes as a command: joined by spaces, for the machine's shell to read.
    """
    process.replace_with(shell_argv(_named(settings, Silent()).endpoint(), words))


def bring_up(
    machine: Machine,
    settings: Settings,
    distro: Distro,
    observer: Observer,
    *,
    discard_state: bool = False,
    insist: bool = False,
) -> MachineInfo:
    """Make the machine if it does not exist, start it if it does not run. The caller holds its lock.

    In what it is not what was asked for, the observer hears; insist: UsageError, and nothing is done to it.
    """
    started = time.monotonic()
    info = machine.status()
    state = info.state
    if state in _ANEW:
        if info.provider in ("qemu", "uml"):
            from labkit.host.install import ensure  # only where a machine is made

            ensure(settings, tools(settings, distro, info.provider), observer)
        if state is MachineState.INTERRUPTED:
            observer.step(f"removing what an interrupted command left of {machine.name}")
        elif state is MachineState.LOST:
            observer.warn(f"{machine.name} was destroyed behind labkit's back; making it again")
        observer.step(f"bringing up {machine.name}")
        machine.create(distro)
    else:
        compare(machine, machine.differences(distro), observer, insist=insist)
        if state is MachineState.CRASHED:
            observer.step(f"{machine.name} crashed or was killed; booting its disk again")
        machine.start(discard_state=discard_state)
        machine.update(distro)
    return _timed(machine, started)


def compare(machine: Machine, found: Sequence[Difference], observer: Observer, *, insist: bool) -> None:
    """Tell the observer what was found to be another thing than was asked for; insist: UsageError where that stops."""
    stopping = [difference for difference in found if difference.stops]
    for difference in found:
        if not (insist and difference.stops):
            observer.warn(f"machine {machine.name}: {difference}; {difference.remedy}")
    if insist and stopping:
        message = f"machine {machine.name} is not what was asked for: " + "; ".join(map(str, stopping))
        raise UsageError(message, hint="\n".join(dict.fromkeys(difference.remedy for difference in stopping)))


def _timed(machine: Machine, started: float) -> MachineInfo:
    return dataclasses.replace(machine.status(), seconds=round(time.monotonic() - started, 3))


def machine_name(settings: Settings) -> str:
    """The name of the machine that the settings mean: as they say, else their host's, else the release's."""
    provider = providers.chosen(settings)
    if settings.machine.name:
        return settings.machine.name
    if provider == "ssh":
        if settings.ssh.host is None:
            raise UsageError("the ssh provider needs a host", hint="--host USER@HOST, or host in [ssh] of labkit.toml")
        return Address.parse(settings.ssh.host).machine_name
    return settings.distro().name


def settled(settings: Settings) -> Settings:
    """The settings with platform and release named: where they leave them open, those of the machine that they name. A
    machine that is called after a release is asked to be that.
    """
    name = machine_name(settings)
    own_name = settings.machine.name is not None or providers.chosen(settings) == "ssh"
    found = record.system_of(settings.home, name) if own_name else None
    if found and found[2] and not settings.origin("machine.arch"):
        settings = settings.with_values(None, machine=settings.machine.model_copy(update={"arch": found[2]}))
    if found and not settings.origin("release") and (found[0] == settings.platform or not settings.origin("platform")):
        with contextlib.suppress(UsageError):  # a host may be a system that labkit has no file of
            settings = _resolved(settings.with_values(None, platform=found[0], release=found[1]), None)
    return _resolved(settings, None if own_name else "the machine's name")


def _resolved(settings: Settings, by: str | None) -> Settings:
    distro = settings.distro()
    return settings.with_values(by, platform=distro.platform.name, release=distro.release.name)


def _named(settings: Settings, observer: Observer) -> Machine:
    """The machine of the settings; if they name it, its platform need not exist any more.

    UsageError where the command's flags say of it what it is not.
    """
    name = machine_name(settings)
    machine = providers.existing(name, settings, observer)
    said = [key for key in _IDENTITY if (settings.origin(key) or "").startswith("--")]
    system = record.system_of(settings.home, name)
    if said and system:
        rows = list(differences.provider(settings, record.provider_of(settings, name) or ""))
        if {"platform", "release"} & {*said}:
            rows += differences.system(settings, settled(settings).distro(), *system[:2])
        if "machine.arch" in said and system[2]:
            rows.append(Row("machine.arch", "the architecture", settings.arch.value, system[2], f"--arch {system[2]}"))
        info = machine.status()
        if settings.ssh.host and info.provider == "ssh" and info.address:
            has = Address(info.user or "", info.address, info.port or 0)
            rows.append(Row("ssh.host", "the host", str(Address.parse(settings.ssh.host)), str(has)))
        found = differences.compared(settings, name, [row for row in rows if row.key in said])
        if found:
            raise UsageError(
                f"machine {name} is not what was asked for: " + "; ".join(map(str, found)),
                hint="./lab status shows the machines; --machine alone is enough to name one",
            )
    return machine

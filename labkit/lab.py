"""The use cases: what the tasks of the front door do, without a word printed.

settings say what is wanted, observer hears how it goes, and what comes back is a value.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from labkit import bootstrap, boxes, doctor, judging, platforms, process, provision, runs, runtimes, suites
from labkit import render as rendering
from labkit.bootstrap import Kind
from labkit.config import Settings
from labkit.deadline import Deadline
from labkit.endpoint import shell_argv
from labkit.errors import LabError, MachineError, UsageError
from labkit.files import disk_errors, make_folder, write_atomic
from labkit.machines import Machine, MachineInfo, State, providers
from labkit.observer import Observer, Silent
from labkit.platforms import Platform, Release
from labkit.runs import Outcome
from labkit.suites import Wish

__all__ = [
    "MachineInfo",
    "Outcome",
    "destroy",
    "halt",
    "package",
    "render",
    "reset",
    "ssh",
    "status",
    "test",
    "up",
]

_TOOLS = ("qemu-system-x86_64", "qemu-img")
_BUILD_TOOLS = ("mmdebstrap", "mkfs.ext4")


def up(settings: Settings, observer: Observer) -> MachineInfo:
    """Bring the machine up, whatever state it is in; one that runs is left as it is."""
    platform, release = _platform(settings)
    machine = providers.wanted(_name(settings, platform, release), settings, observer, platform, release)
    with machine.lock():
        return _up(machine, settings, platform, release, observer)


def test(settings: Settings, observer: Observer, *, wish: Wish, failed: bool = False, judged: bool = True) -> Outcome:
    """Bring the machine up and run the suite against the runtime on it; the reports are in the outcome's folder.

    failed takes, instead of what the wish names, what failed last time. judged False leaves out every policy.
    """
    platform, release = _platform(settings)
    runtime, suite = runtimes.find(settings.runtime), suites.find(settings.suite)
    if failed:
        wish = dataclasses.replace(wish, only=runs.failed_before(settings.reports, suite.name, runtime.name))
    suite.check(wish)
    entries = judging.policies(settings, judged)
    name = _name(settings, platform, release)
    machine = providers.wanted(name, settings, observer, platform, release, suite.needs)
    with machine.lock():
        info = _up(machine, settings, platform, release, observer)
        observer.step(f"running {suite.name} against {runtime.name} on {machine.name}")
        with machine.connect(Deadline.after(settings.limits.connect)) as remote:
            folder = runs.new_folder(settings.reports, [machine.name, runtime.name, suite.name])
            try:
                outcome = runs.conduct(
                    folder,
                    info,
                    machine.console(),
                    suite,
                    runtime,
                    remote,
                    observer,
                    wish=wish,
                    entries=entries,
                    timeout=settings.limits.suite,
                    facts={"bootstrap": provision.timings(remote)},
                )
            except UsageError:  # there was no run
                shutil.rmtree(folder)
                raise
        if suite.spoils(wish):
            try:
                observer.step(f"resetting {machine.name}: {suite.name} leaves it in disorder")
                machine.restore()
            except LabError as error:  # the results are there
                observer.warn(f"{error.message}; what {suite.name} has done to it stays")
    return outcome


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


def render(settings: Settings, out: Path) -> list[Path]:
    """Write what makes a lab of the platform's release without labkit; the paths.

    The bootstrap script for any host, a Vagrantfile that runs it, cloud-init's files that do, and in sources/ what it
    wants uploaded. Only the Vagrantfile may need the network, for a box whose digest is in a list: it comes last.
    """
    platform, release = _platform(settings)
    plan = bootstrap.prepare(platform, release, Kind.VAGRANT, settings, ())
    name = f"{platform.name}-{release.name}"
    script = f"bootstrap-{platform.name}.sh"
    made = {
        script: plan.script,
        "user-data": rendering.user_data(plan.script, agent=False, sources=bool(plan.uploads)),
        "meta-data": rendering.meta_data(f"labkit-{name}"),
    }
    uploads = {f"sources/{PurePosixPath(upload.remote).name}": upload for upload in plan.uploads}
    with disk_errors(out):
        make_folder(out / "sources" if uploads else out)
        for file, text in made.items():
            write_atomic(out / file, text, mode=0o755 if file == script else 0o644)
        for file, upload in uploads.items():
            shutil.copyfile(upload.local, out / file)
        values = rendering.VagrantValues(
            machine=settings.machine.name or name,
            hostname=rendering.hostname(settings.machine.name or name),
            boxes=boxes.listed(platform, release, settings)
            or [rendering.VagrantBox(None, f"labkit/{name}", f"{name}.box")],
            cpus=settings.machine.cpus,
            memory=settings.machine.memory,
            script=script,
            uploads=[(file, upload.remote) for file, upload in uploads.items()],
            emulated={"tcg": True, "kvm": False}.get(settings.machine.accelerator),
        )
        write_atomic(out / "Vagrantfile", rendering.vagrantfile(values))
    return [out / file for file in (*made, *uploads, "Vagrantfile")]


def package(settings: Settings, observer: Observer, out: Path) -> Path:
    """Make a Vagrant box for libvirt of the release's golden image, bootstrap and all; its path in the folder out."""
    platform, release = _platform(settings)
    doctor.ensure(settings, (*_TOOLS, *_BUILD_TOOLS), observer)
    made = boxes.ensure(platform, release, settings, observer)
    target = make_folder(out) / f"{platform.name}-{release.name}.box"
    with disk_errors(out):
        process.run(["cp", "--reflink=auto", made, target], timeout=600)
    return target


def _up(machine: Machine, settings: Settings, platform: Platform, release: Release, observer: Observer) -> MachineInfo:
    started = time.monotonic()
    info = machine.status()
    state = info.state
    if state in (State.ABSENT, State.INTERRUPTED, State.LOST):
        if info.provider == "qemu":
            tools = _BUILD_TOOLS if release.build and settings.image != "cloud" else ()
            doctor.ensure(settings, (*_TOOLS, *tools), observer)
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


def _platform(settings: Settings) -> tuple[Platform, Release]:
    platform = platforms.load(settings.platform, platforms.folders(settings.platforms))
    return platform, platform.release(settings.release)


def _name(settings: Settings, platform: Platform, release: Release) -> str:
    return settings.machine.name or f"{platform.name}-{release.name}"


def _named(settings: Settings, observer: Observer) -> Machine:
    """The machine that the settings mean; its platform need not be known any more if it is named."""
    name = settings.machine.name or _name(settings, *_platform(settings))
    return providers.existing(name, settings, observer)


def _existing(settings: Settings) -> list[str]:
    folder = settings.home / "machines"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

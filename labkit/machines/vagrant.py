"""The vagrant provider: machines made by Vagrant from a box, bootstrapped over SSH, with a snapshot to reset to.

    vagrant/                     Vagrant's own directory (VAGRANT_HOME) with the boxes, unless the settings name another
    boxes/KEY.box                boxes that labkit makes where a release has none
    machines/NAME/               record.json, Vagrantfile, .vagrant/, known_hosts, console.log (libvirt)

One directory for each machine: Vagrant's locks do not wait, they fail.

A machine is made in four stages: `vagrant up`, its host key pinned, the bootstrap, the snapshot. The record says how
far that came. One that never came up is made anew; any other is gone on with, where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import ConnectionFailed, HostError, LabError, MachineError, ProgramFailed, UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro, VagrantProvider
from labkit.host.facts import vagrant_providers
from labkit.images import boxes
from labkit.io import libvirt, process
from labkit.io.console import CONSOLE, console_end
from labkit.io.files import disk_errors, locked, make_directory, write_atomic
from labkit.io.remote import Remote
from labkit.io.vagrant import Stages, Vagrant, at_work
from labkit.machines import differences
from labkit.machines.base import Difference, MachineInfo, MachineState
from labkit.machines.differences import Row
from labkit.machines.record import VAGRANTFILE, RecordedMachine, load_record
from labkit.provision import bootstrap, render
from labkit.provision.bootstrap import BootstrapPlan, Target
from labkit.provision.remote import provision
from labkit.qemu.accelerator import choose

_CLEAN = "clean"
_KEYS = re.compile(r"^(ssh-ed25519|ecdsa-sha2-nistp\d+|ssh-rsa) [A-Za-z0-9+/=]+", re.MULTILINE)
_AT_ONCE = 3.0  # seconds in which a machine that runs answers at its old address
_NOT_CREATED = "not_created"
_ABORTED_SAVED = "aborted_saved"  # ended while VirtualBox was restoring its memory, which is there still
_RUNS = ("running", "started", "blocked")
_OFF = (
    *("shutoff", "poweroff", "off", "stopped", "not_running", "teleported"),
    *("saved", "suspended", "paused", "pmsuspended", "fastsaved", "hibernated"),  # with its memory
    _ABORTED_SAVED,
)
_DIED = ("aborted", "crashed")
_STUCK = "gurumeditation"
# On the way to another state, where a Vagrant that is asked for something fails: waited for.
_PASSING = (
    *("starting", "stopping", "shutting_down", "saving", "restoring", "suspending", "resuming", "pausing"),
    *("continuing", "reset", "resetting", "compacting", "snapshoting", "snapshotting", "livesnapshotting"),
    *("onlinesnapshotting", "offlinesnapshotting", "restoringsnapshot", "deletingsnapshot", "deletingsnapshotlive"),
    *("deletingsnapshotlivepaused", "settingup", "teleporting", "teleportingin", "teleportingpausedvm", "migrating"),
    *("deleting_state", "fastsaving", "forceshutdown", "forcereboot", "componentservicing"),
)
_CRITICAL = "Hyper-V has no storage for it, or too little"
_MOVES = "on its way to another state, which `up` and `halt` wait for"
# What the words of Vagrant's providers say: each id of a state as their sources have it (libvirt by way of fog, VMState
# of Hyper-V in lower case, VBoxManage's short names, what `prlctl` and `utmctl` print), with _ for a dash. Any other
# word is unknown, and none but not_created says that the machine is gone.
_STATES: dict[str, tuple[MachineState, str]] = {
    _NOT_CREATED: (MachineState.LOST, ""),
    **dict.fromkeys(_RUNS, (MachineState.RUNNING, "")),
    **dict.fromkeys(_OFF, (MachineState.HALTED, "")),
    **dict.fromkeys(_DIED, (MachineState.CRASHED, "")),
    **dict.fromkeys(_PASSING, (MachineState.UNREACHABLE, _MOVES)),
    _STUCK: (MachineState.UNREACHABLE, "VirtualBox has stopped it over an error of its own; `up` boots it again"),
    "stuck": (MachineState.UNREACHABLE, "VirtualBox cannot tell its state; its advice is to reboot this host"),
    "runningcritical": (MachineState.UNREACHABLE, _CRITICAL),
    **dict.fromkeys(("offcritical", "savedcritical", "pausedcritical"), (MachineState.HALTED, _CRITICAL)),
    "inaccessible": (
        MachineState.UNREACHABLE,
        "with libvirt it runs and has no address; VirtualBox and Parallels cannot read its configuration",
    ),
}


@dataclass(frozen=True, slots=True)
class VagrantRecord:
    """What is known of a machine, saved before anything is done to it. plan: the key of the bootstrap that has run;
    accelerator: kvm or tcg where labkit chose it, else empty.
    """

    platform: str
    release: str
    vagrant: str  # Vagrant's provider
    cpus: int
    memory_mib: int
    host: str = ""
    port: int = 0
    user: str = ""
    key: str = ""
    plan: str = ""
    accelerator: str = ""
    up: bool = False  # False until `vagrant up` has succeeded once: until then it is made anew
    ready: bool = False  # False until it has its snapshot: until then `up` goes on with what is missing
    provider: str = "vagrant"
    box: str = ""  # the settings' own, as they name it; "none" where they name none
    arch: str = ""  # of a machine that an older labkit made: this host's

    @property
    def came_up(self) -> bool:
        return self.up or self.ready or bool(self.host)


class VagrantMachine(RecordedMachine):
    """A machine of the Vagrant on this host."""

    def __init__(self, name: str, settings: Settings, observer: Observer, needs: tuple[str, ...] = ()) -> None:
        super().__init__(name, settings, observer, needs)
        self._running = False  # seen so by this command
        self._said = self._word = ""  # the state in which Vagrant has last said that it is; the same as in _STATES

    # -- state ------------------------------------------------------------------------------------------

    def record(self) -> VagrantRecord | None:
        return load_record(VagrantRecord, self.directory)

    def status(self) -> MachineInfo:
        record = self.record()
        state, problem = self._state(record)
        info = MachineInfo(self.name, "", "", "vagrant", state, problem=problem)
        if record is None:
            return info
        info = dataclasses.replace(
            info,
            platform=record.platform,
            release=record.release,
            provider=f"vagrant ({record.vagrant})",
            accelerator=record.accelerator or None,
            arch=record.arch or None,
        )
        if state is MachineState.RUNNING:
            info = dataclasses.replace(info, address=record.host, port=record.port, user=record.user)
        return info

    def examine(self) -> MachineInfo:
        """As status; a Vagrant that cannot answer is the machine's problem, and not that of whoever lists them all."""
        try:
            return self.status()
        except LabError as error:
            return MachineInfo(self.name, "", "", "vagrant", MachineState.UNKNOWN, problem=error.message)

    def _state(self, record: VagrantRecord | None) -> tuple[MachineState, str | None]:
        """The state, and what is to be told of it."""
        if not self.directory.exists():
            return MachineState.ABSENT, None
        if record is None or not record.came_up:
            return MachineState.INTERRUPTED, None
        if self._answers():
            return (MachineState.RUNNING if record.ready else MachineState.UNFINISHED), None
        self._asked()
        state, problem = self._meant()
        if not record.ready and state is not MachineState.LOST:
            state = MachineState.UNFINISHED
        return state, problem or None

    def _asked(self) -> str:
        """What Vagrant calls its state, as _STATES has the words: VirtualBox has dashes in some."""
        self._said = self._vagrant().state()
        self._word = re.sub(r"[-\s]+", "_", self._said.casefold())
        return self._word

    def _meant(self) -> tuple[MachineState, str]:
        """The state that the word of Vagrant's stands for, and what is to be told of it."""
        state, meaning = _STATES.get(self._word, (MachineState.UNKNOWN, "labkit does not know this word"))
        return state, f"Vagrant calls its state {self._said!r}: {meaning}" if meaning else ""

    def console(self) -> Path | None:
        """libvirt's alone: the other providers keep none."""
        path = self.directory / CONSOLE
        return path if os.access(path, os.R_OK) else None

    def size_elsewhere(self) -> int:
        """libvirt's overlay of the machine; the disks of other providers are not looked for."""
        ident = next(self.directory.glob(".vagrant/machines/*/libvirt/id"), None)
        return libvirt.disk_usage(ident.read_text().strip()) if ident and libvirt.there() else 0

    def endpoint(self) -> Endpoint:
        record = self.record()
        if record is None or not record.host:
            raise MachineError(f"machine {self.name} is not running", hint="./lab up")
        return Endpoint(record.host, record.port, record.user, Path(record.key), self.directory / "known_hosts")

    def connect(self, deadline: Deadline) -> Remote:
        return self._connect(self.endpoint(), deadline)

    def _answers(self) -> bool:
        """Whether it runs: it answers with its pinned host key. Asking Vagrant would take a second or two."""
        if not self._running:
            with contextlib.suppress(LabError), self.connect(Deadline.after(_AT_ONCE)):
                self._running = True
        return self._running

    # -- what can be done ---------------------------------------------------------------------------------------

    def create(self, distro: Distro) -> None:
        """Make the machine of its release's box, run the bootstrap, and keep a snapshot of that."""
        known = self.record()
        if known and known.came_up and self._asked() != _NOT_CREATED:
            raise MachineError(
                f"machine {self.name} is there: it is not made anew",
                hint=f"./lab up goes on with it, ./lab destroy --machine {self.name} removes it",
            )
        self.destroy()  # what never came up, or is Vagrant's no more
        settings, machine = self._settings, self._settings.machine
        provider = vagrant_provider(settings, distro)
        plan = self._plan(distro)
        box = boxes.find(distro, provider, settings, self._observer)
        make_directory(self.directory, mode=0o700)
        on_libvirt = provider is VagrantProvider.LIBVIRT
        accelerator = choose(machine.accelerator, settings.home, distro.arch) if on_libvirt else ""
        record = VagrantRecord(
            distro.platform.name,
            distro.release.name,
            provider.value,
            machine.cpus,
            machine.memory,
            box=settings.box or "none",
            accelerator=accelerator,
            arch=distro.arch.value,
        )
        self._save(record)
        values = render.VagrantValues(
            machine=self.name,
            hostname=render.hostname(self.name),
            boxes=[box],
            cpus=machine.cpus,
            memory=machine.memory,
            script=None,
            boot_timeout=int(settings.limits.boot),
            emulated=accelerator == "tcg",
            console=str(self.directory / CONSOLE) if on_libvirt else None,
        )
        write_atomic(self.directory / VAGRANTFILE, render.vagrantfile(values))
        if on_libvirt:
            (self.directory / CONSOLE).touch(mode=0o600)  # libvirt, which is root, would make it root's own
        self._observer.step(f"vagrant up ({provider.value}, {box.name})")
        with self._box(box, provider):
            self._up(record)
        record = dataclasses.replace(record, up=True)
        self._save(record)
        self._bootstrap(self._introduced(record), plan)

    def differences(self, distro: Distro) -> Sequence[Difference]:
        record, settings = self.record(), self._settings
        if record is None:
            return []
        wanted = settings.machine
        rows = [
            *differences.provider(settings, record.provider),
            *differences.system(settings, distro, record.platform, record.release),
            Row("machine.cpus", "the number of CPUs", str(wanted.cpus), str(record.cpus)),
            Row("machine.memory", "the memory", f"{wanted.memory}M", f"{record.memory_mib}M"),
            Row("box", "the box", settings.box or "none", record.box or None),
        ]
        if wanted.accelerator != "auto":
            rows.append(Row("machine.accelerator", "the accelerator", wanted.accelerator, record.accelerator or None))
        if settings.vagrant.provider != "auto":
            rows.append(Row("vagrant.provider", "Vagrant's provider", settings.vagrant.provider, record.vagrant))
        return differences.compared(settings, self.name, rows)

    def update(self, distro: Distro) -> None:
        """Run the bootstrap where it has not finished, or again where it has changed."""
        record = self._existing()
        if (record.platform, record.release) != (distro.platform.name, distro.release.name):
            if record.ready:  # its own bootstrap is done, and another's is not for it
                return
            raise UsageError(
                f"machine {self.name} is {record.platform} {record.release}, and its bootstrap is not finished",
                hint=f"./lab up --machine {self.name} --platform {record.platform} --release {record.release} "
                f"goes on with it; ./lab destroy --machine {self.name} removes it",
            )
        plan = self._plan(distro)
        if plan.key != record.plan:
            self._bootstrap(record, plan)

    def start(self, *, discard_state: bool = False) -> None:
        """Start it if it is not running; its address may change, its host key may not."""
        record = self._existing()
        if not record.ready:
            self._observer.step(f"going on with {self.name}, which is not finished")
        self._settled()
        if self._answers():
            return
        if self._word:
            self._steady()
            state, problem = self._meant()
            if state is MachineState.LOST:
                raise MachineError(f"Vagrant no longer has machine {self.name}", hint="./lab up makes it again")
            if problem:
                self._observer.warn(f"{self.name}: {problem}")
            if self._word == _STUCK:
                self._vagrant().stop(timeout=self._settings.limits.boot)  # `vagrant up` alone does not end it
        self._observer.step("vagrant up")
        self._set_boot_timeout()
        self._up(record, keep=True)
        record = self._introduced(record)
        self._login(record)

    def reset(self) -> None:
        """Go back to the snapshot that was taken after the bootstrap."""
        record = self._existing()
        if not record.ready:
            raise UsageError(
                f"machine {self.name} is not finished: there is nothing to reset it to",
                hint="./lab up goes on with its bootstrap",
            )
        self._settled()
        self._running = False
        self._vagrant().restore(_CLEAN, timeout=self._settings.limits.boot)
        self._login(record)

    def halt(self) -> None:
        self._existing()
        self._settled()
        self._running = False
        self._steady()
        self._vagrant().stop(timeout=self._settings.limits.boot)

    def destroy(self) -> None:
        """Remove the machine and all its files, whatever its state."""
        self._running = False
        process.end_owned(self.directory)
        if (self.directory / VAGRANTFILE).exists():
            self._vagrant().remove(timeout=self._settings.limits.boot)
        self._remove_directory()

    # -- how ----------------------------------------------------------------------------------------------------

    def _vagrant(self) -> Vagrant:
        home = self._settings.vagrant.home or make_directory(self._settings.home.vagrant)
        return Vagrant(self.directory, home=home, owner=self.directory, on_line=self._observer.detail)

    def _existing(self) -> VagrantRecord:
        record = self.record()
        if record is None or not record.came_up:
            raise MachineError(f"machine {self.name} does not exist", hint="./lab up")
        return record

    def _settled(self) -> None:
        """Wait until a Vagrant that a killed labkit has left at work on this machine is done: it would refuse ours."""
        if left := at_work(self.directory):
            pids = ", ".join(map(str, left))
            self._observer.step(f"waiting for Vagrant (process {pids}), which an interrupted command left at work")
            if not Deadline.after(self._settings.limits.boot).poll(lambda: not at_work(self.directory), every=0.2):
                raise MachineError(
                    f"Vagrant still works on machine {self.name} for a command that is gone (process {pids})",
                    hint="wait, or end that process, and run the command again",
                )

    def _steady(self) -> None:
        """Wait for a machine that Vagrant has seen on its way to another state. Where it does not get there within the
        limit of a boot, Vagrant says more.
        """
        if self._word in _PASSING:
            self._observer.step(f"waiting for {self.name}, whose state is {self._said!r}")
            Deadline.after(self._settings.limits.boot).poll(lambda: self._asked() not in _PASSING, every=1.0)

    def _set_boot_timeout(self) -> None:
        """Let the settings of today bound the boot of a machine that was made under others."""
        file, limit = self.directory / VAGRANTFILE, int(self._settings.limits.boot)
        with disk_errors(self.directory), contextlib.suppress(FileNotFoundError):
            text = file.read_text()
            changed = re.sub(r"(?m)^( *machine\.vm\.boot_timeout = )\d+$", rf"\g<1>{limit}", text)
            if changed != text:
                write_atomic(file, changed)

    def _up(self, record: VagrantRecord, *, keep: bool = False) -> None:
        """`vagrant up`, its progress told. MachineError with the end of the console, where the provider keeps one.

        keep: the machine stays as it is where it does not come up.
        """
        limits = self._settings.limits
        # Vagrant itself gives a boot `limits.boot` seconds, and says more about it.
        stages = Stages("vagrant up", self._observer, boot=limits.boot * 1.2 + 60, download=limits.download)
        timeout = limits.boot * 3 + limits.download
        console = self.directory / CONSOLE
        try:
            self._vagrant().start(record.vagrant, timeout=timeout, stages=stages, keep=keep)
        except MachineError as error:
            if record.vagrant != VagrantProvider.LIBVIRT:
                more = f"the provider {record.vagrant} keeps no console that labkit could show"
            elif self.console() is None or not console.stat().st_size:
                more = "its console is empty: it did not come to boot"
            else:
                more = console_end(self.directory)
            if self._word == _ABORTED_SAVED:
                ident = next(self.directory.glob(".vagrant/machines/*/virtualbox/id"), None)
                more += (
                    "\nwhere VirtualBox cannot restore its memory, this gives that up and keeps the disk: VBoxManage "
                    f"discardstate {ident.read_text().strip() if ident else 'ID'}"
                )
            raise MachineError(error.message, hint="\n".join(filter(None, (error.hint, more)))) from error

    def _plan(self, distro: Distro) -> BootstrapPlan:
        return bootstrap.prepare(distro, Target.VAGRANT, self._settings, self._needs)

    @contextlib.contextmanager
    def _box(self, box: render.VagrantBox, provider: VagrantProvider) -> Iterator[None]:
        """Let only one process at a time add a box to Vagrant's directory and its provider's storage."""
        directory = self._settings.vagrant.home or self._settings.home.vagrant
        mark = directory / f"labkit-{hashlib.sha256(repr(box).encode()).hexdigest()[:16]}"
        if mark.exists():
            yield
            return
        timeout = self._settings.limits.download + self._settings.limits.boot
        lock = self._settings.home.lock(f"{mark.name}")
        with locked(lock, timeout=timeout, waiting=self._observer.step, what=f"the box {box.name}"):
            if provider is VagrantProvider.LIBVIRT and not mark.exists():
                self._remove_half_a_box(box.name)
            yield
            mark.touch()

    def _remove_half_a_box(self, name: str) -> None:
        """Remove what an `up` that was killed has left of a box in libvirt's pool: Vagrant would take it for whole."""
        with contextlib.suppress(ProgramFailed):  # libvirt not answering is Vagrant's to tell
            known = libvirt.volumes()
            used = {volume.backing for volume in known}
            for volume in known:
                if volume.name.startswith(libvirt.prefix_of(name)) and volume.path not in used:
                    self._observer.step(f"removing the volume {volume.name}, which may be incomplete")
                    libvirt.delete(volume)

    def _introduced(self, record: VagrantRecord) -> VagrantRecord:
        """The record with the machine's address, and known_hosts with its key.

        The key is read over the fresh machine's own channel, `vagrant ssh`, and once: from then on it keeps the one it
        has. MachineError where that is lost.
        """
        vagrant = self._vagrant()
        login = vagrant.login()
        pinned = self.directory / "known_hosts"
        name = login.host if login.port == 22 else f"[{login.host}]:{login.port}"
        known = pinned.exists()
        if record.ready and not known:
            raise MachineError(
                f"{pinned} is missing, so labkit cannot know machine {self.name} again",
                hint="nothing of the machine was touched: put the file back, or copy what you need with "
                f"`vagrant ssh` in {self.directory}; ./lab destroy --machine {self.name} removes it",
            )
        printed = pinned.read_text(errors="replace") if known else vagrant.execute("cat /etc/ssh/ssh_host_*_key.pub")
        keys = [found[0] for found in _KEYS.finditer(re.sub(r"(?m)^\S+ (?=ssh-|ecdsa-)", "", printed))]
        if not keys:
            where = str(pinned) if known else f"/etc/ssh of machine {self.name}"
            raise MachineError(
                f"there is no host key in {where}",
                hint=f"put the file back, or ./lab destroy --machine {self.name}" if known else None,
            )
        with disk_errors(self.directory):
            write_atomic(pinned, "".join(f"{name} {key}\n" for key in keys), mode=0o600)
        record = dataclasses.replace(record, host=login.host, port=login.port, user=login.user, key=str(login.keys[0]))
        self._save(record)
        return record

    def _bootstrap(self, record: VagrantRecord, plan: BootstrapPlan) -> None:
        limits = self._settings.limits
        with self.connect(Deadline.after(limits.boot, "boot")) as remote:
            provision(remote, plan, self._observer, timeout=limits.build)
        self._observer.step("vagrant snapshot save")
        self._vagrant().save(_CLEAN, timeout=limits.boot)
        self._save(dataclasses.replace(record, plan=plan.key, ready=True))

    def _login(self, record: VagrantRecord) -> None:
        """Run a command over SSH that sets the clock, which a snapshot restores to the time it was taken."""
        deadline = Deadline.after(self._settings.limits.boot, "boot")
        with self.connect(deadline) as remote:
            answer = remote.run(["date", "-u", "-s", f"@{time.time():.0f}"], timeout=60)
        if answer.status:
            raise ConnectionFailed(f"{self.endpoint()}: sudo does not let {record.user} run commands as root")
        self._running = True

    def _save(self, record: VagrantRecord) -> None:
        self._save_record(asdict(record))


def vagrant_provider(settings: Settings, distro: Distro) -> VagrantProvider:
    """The Vagrant provider to use: the settings' choice, else one that works here, preferably one with a box."""
    if settings.vagrant.provider != "auto":
        return VagrantProvider(settings.vagrant.provider)
    usable, why = vagrant_providers()
    if not usable:
        raise HostError(why, hint="./lab doctor shows what this host lacks")
    return next((found for found in usable if found in distro.boxes), usable[0])

"""The vagrant provider: machines made by Vagrant from a box, bootstrapped over SSH, with a snapshot to reset to.

    vagrant/                     Vagrant's own directory (VAGRANT_HOME) with the boxes, unless the settings name another
    boxes/KEY.box                boxes that labkit makes where a release has none
    machines/NAME/               record.json, Vagrantfile, .vagrant/, known_hosts

One directory for each machine: Vagrant's locks do not wait, they fail.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import ConnectionFailed, HostError, LabError, MachineError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro, VagrantProvider
from labkit.host.facts import vagrant_providers
from labkit.images import boxes
from labkit.io import process
from labkit.io.files import disk_errors, locked, make_directory, write_atomic
from labkit.io.remote import Remote
from labkit.io.vagrant import Vagrant
from labkit.machines import differences
from labkit.machines.base import Difference, MachineInfo, MachineState
from labkit.machines.differences import Row
from labkit.machines.record import RecordedMachine, load_record
from labkit.provision import bootstrap, render
from labkit.provision.bootstrap import BootstrapPlan, Target
from labkit.provision.remote import provision
from labkit.qemu.accelerator import choose

_CLEAN = "clean"
_KEYS = re.compile(r"^(ssh-ed25519|ecdsa-sha2-nistp\d+|ssh-rsa) [A-Za-z0-9+/=]+", re.MULTILINE)
_AT_ONCE = 3.0  # seconds in which a machine that runs answers at its old address
_STATES = {
    "running": MachineState.RUNNING,
    "not_created": MachineState.LOST,
    "shutoff": MachineState.HALTED,
    "poweroff": MachineState.HALTED,
    "stopped": MachineState.HALTED,
    "saved": MachineState.HALTED,
    "paused": MachineState.HALTED,
}


@dataclass(frozen=True, slots=True)
class VagrantRecord:
    """What is known of a machine, saved before anything is done to it. plan: the key of the bootstrap that has run."""

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
    ready: bool = False  # False until it has its snapshot: until then `up` starts over
    provider: str = "vagrant"
    box: str = ""  # the settings' own, as they name it; "none" where they name none


class VagrantMachine(RecordedMachine):
    """A machine of the Vagrant on this host."""

    def __init__(self, name: str, settings: Settings, observer: Observer, needs: tuple[str, ...] = ()) -> None:
        """needs: the tools that a suite or runtime asks for, see labkit.provision.bootstrap."""
        super().__init__(name, settings, observer)
        self._needs = needs
        self._running = False  # seen so by this command

    # -- state ------------------------------------------------------------------------------------------

    def record(self) -> VagrantRecord | None:
        return load_record(VagrantRecord, self.directory)

    def status(self) -> MachineInfo:
        record, state = self.record(), self._state()
        info = MachineInfo(self.name, "", "", "vagrant", state)
        if record is None:
            return info
        info = dataclasses.replace(
            info, platform=record.platform, release=record.release, provider=f"vagrant ({record.vagrant})"
        )
        if state is MachineState.RUNNING:
            info = dataclasses.replace(info, address=record.host, port=record.port, user=record.user)
        return info

    def _state(self) -> MachineState:
        if not self.directory.exists():
            return MachineState.ABSENT
        record = self.record()
        if record is None or not record.ready:
            return MachineState.INTERRUPTED
        if self._answers():
            return MachineState.RUNNING
        return _STATES.get(self._vagrant().state(), MachineState.CRASHED)

    def console(self) -> Path | None:
        return None  # Vagrant offers none

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
        self.destroy()
        settings, machine = self._settings, self._settings.machine
        provider = vagrant_provider(settings, distro)
        plan = self._plan(distro)
        box = boxes.find(distro, provider, settings, self._observer)
        make_directory(self.directory, mode=0o700)
        record = VagrantRecord(
            distro.platform.name,
            distro.release.name,
            provider.value,
            machine.cpus,
            machine.memory,
            box=settings.box or "none",
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
            emulated=choose(machine.accelerator, settings.home) == "tcg",
        )
        write_atomic(self.directory / "Vagrantfile", render.vagrantfile(values))
        self._observer.step(f"vagrant up ({provider.value}, {box.name})")
        with self._box(box):
            self._vagrant().start(provider.value, timeout=settings.limits.boot + settings.limits.download)
        record = self._introduced(record)
        self._bootstrap(record, plan)

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
        if settings.vagrant.provider != "auto":
            rows.append(Row("vagrant.provider", "Vagrant's provider", settings.vagrant.provider, record.vagrant))
        return differences.compared(settings, self.name, rows)

    def update(self, distro: Distro) -> None:
        """Run the bootstrap again where it has changed."""
        record, plan = self._existing(), self._plan(distro)
        if plan.key != record.plan:
            self._bootstrap(record, plan)

    def start(self, *, discard_state: bool = False) -> None:
        """Start it if it is not running; its address may change, its host key may not."""
        record = self._existing()
        if self._answers():
            return
        self._observer.step("vagrant up")
        self._vagrant().start(record.vagrant, timeout=self._settings.limits.boot)
        record = self._introduced(record, known=True)
        self._login(record)

    def reset(self) -> None:
        """Go back to the snapshot that was taken after the bootstrap."""
        record = self._existing()
        self._running = False
        self._vagrant().restore(_CLEAN, timeout=self._settings.limits.boot)
        self._login(record)

    def halt(self) -> None:
        self._existing()
        self._running = False
        self._vagrant().stop(timeout=self._settings.limits.boot)

    def destroy(self) -> None:
        """Remove the machine and all its files, whatever its state."""
        self._running = False
        process.end_owned(self.directory)
        if (self.directory / "Vagrantfile").exists():
            self._vagrant().remove(timeout=self._settings.limits.boot)
        self._remove_directory()

    # -- how ----------------------------------------------------------------------------------------------------

    def _vagrant(self) -> Vagrant:
        home = self._settings.vagrant.home or make_directory(self._settings.home.vagrant)
        return Vagrant(self.directory, home=home, owner=self.directory, on_line=self._observer.detail)

    def _existing(self) -> VagrantRecord:
        record = self.record()
        if record is None or not record.ready:
            raise MachineError(f"machine {self.name} does not exist", hint="./lab up")
        return record

    def _plan(self, distro: Distro) -> BootstrapPlan:
        return bootstrap.prepare(distro, Target.VAGRANT, self._settings, self._needs)

    @contextlib.contextmanager
    def _box(self, box: render.VagrantBox) -> Iterator[None]:
        """Let only one process at a time add a box to Vagrant's directory and its provider's storage."""
        directory = self._settings.vagrant.home or self._settings.home.vagrant
        mark = directory / f"labkit-{hashlib.sha256(repr(box).encode()).hexdigest()[:16]}"
        if mark.exists():
            yield
            return
        timeout = self._settings.limits.download + self._settings.limits.boot
        lock = self._settings.home.lock(f"{mark.name}")
        with locked(lock, timeout=timeout, waiting=self._observer.step, what=f"the box {box.name}"):
            yield
            mark.touch()

    def _introduced(self, record: VagrantRecord, *, known: bool = False) -> VagrantRecord:
        """The record with the machine's address, and known_hosts with its key.

        The key is read over the fresh machine's own channel, `vagrant ssh`, and once: known keeps the one it has.
        """
        vagrant = self._vagrant()
        login = vagrant.login()
        pinned = self.directory / "known_hosts"
        name = login.host if login.port == 22 else f"[{login.host}]:{login.port}"
        printed = pinned.read_text() if known else vagrant.execute("cat /etc/ssh/ssh_host_*_key.pub")
        keys = [found[0] for found in _KEYS.finditer(re.sub(r"(?m)^\S+ (?=ssh-|ecdsa-)", "", printed))]
        if not keys:
            raise MachineError(f"machine {self.name} has no host key in /etc/ssh")
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
    return next((found for found in usable if found in distro.release.boxes), usable[0])

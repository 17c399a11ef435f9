"""The qemu provider: machines restored from a live state of their golden image.

images/KEY/                      golden image: disk.qcow2, kernel, initrd
images/KEY/live-HARDWARE/        that image booted once: disk.qcow2 (overlay), state
machines/NAME/                   record.json, disk.qcow2 (overlay on the live disk), sockets, logs, known_hosts
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import MachineError, MonitorGone
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.core.text import printable
from labkit.images import golden, ingredients
from labkit.images.golden import Image
from labkit.images.live import SPACE, STATE, live_state
from labkit.io import process
from labkit.io.files import disk_errors, make_directory, require_space, write_atomic
from labkit.io.remote import Remote
from labkit.machines import differences, identity
from labkit.machines.base import Difference, MachineInfo, MachineState
from labkit.machines.differences import Row
from labkit.machines.identity import Identity, KeyPair
from labkit.machines.record import RecordedMachine, load_record
from labkit.qemu.accelerator import choose
from labkit.qemu.agent import Agent
from labkit.qemu.hardware import AGENT, CONSOLE, LOG, MONITOR, Boot, Hardware, argv, here
from labkit.qemu.launch import (
    PortTaken,
    again_after_panic,
    answered,
    ask,
    connect,
    connect_monitor,
    console_end,
    loaded,
    migrate,
    overlay,
    panics_named,
    start,
)

if TYPE_CHECKING:
    from labkit.qemu.monitor import Monitor

_ADDRESS = "127.0.0.1"
_SPACE_MACHINE = 256
_USED = f"{STATE}.used"  # of a guest that runs again


@dataclass(frozen=True, slots=True)
class QemuRecord:
    """What is known of a machine, on disk before anything is done to it."""

    platform: str
    release: str
    image: str
    accelerator: str
    cpus: int
    memory_mib: int
    ready: bool  # False until it has been reachable once: what is there is to be made anew
    port: int
    hostname: str
    machine_id: str
    host_private: str
    host_public: str
    provider: str = "qemu"
    made_of: dict[str, str] = field(default_factory=dict)  # see labkit.images.ingredients
    maker: str = ""

    @property
    def identity(self) -> Identity:
        return Identity(self.hostname, self.machine_id, KeyPair(self.host_private, self.host_public))


class QemuMachine(RecordedMachine):
    """A machine of this host's QEMU."""

    def __init__(self, name: str, settings: Settings, observer: Observer, needs: tuple[str, ...] = ()) -> None:
        """needs: the tools that a suite or runtime asks for, see labkit.bootstrap."""
        super().__init__(name, settings, observer)
        self._needs = needs

    # -- what there is ------------------------------------------------------------------------------------------

    def record(self) -> QemuRecord | None:
        return load_record(QemuRecord, self.directory)

    def status(self) -> MachineInfo:
        record, state = self.record(), self._state()
        info = MachineInfo(self.name, "", "", "qemu", state)
        if record is None:
            return info
        info = dataclasses.replace(
            info, platform=record.platform, release=record.release, accelerator=record.accelerator
        )
        if state is MachineState.RUNNING:
            info = dataclasses.replace(info, address=_ADDRESS, port=record.port, user="root")
        return info

    def _state(self) -> MachineState:
        if not self.directory.exists():
            return MachineState.ABSENT
        record = self.record()
        alive = bool(process.owned(self.directory))
        if record is None or not record.ready:
            return MachineState.INTERRUPTED
        # A QEMU without a pinned key was being started when its labkit was killed: start() ends it and goes on with
        # what the machine had.
        if alive and (self.directory / "known_hosts").exists():
            return MachineState.RUNNING
        if (self.directory / STATE).exists():
            return MachineState.HALTED
        return MachineState.CRASHED

    def console(self) -> Path | None:
        path = self.directory / CONSOLE
        return path if path.exists() else None

    def endpoint(self) -> Endpoint:
        record = self.record()
        if record is None or self._state() is not MachineState.RUNNING:
            raise MachineError(f"machine {self.name} is not running", hint="./lab up")
        return self._endpoint(record)

    def _endpoint(self, record: QemuRecord) -> Endpoint:
        key, _ = identity.client_key(self._settings.home)
        return Endpoint(_ADDRESS, record.port, "root", key, self.directory / "known_hosts")

    def connect(self, deadline: Deadline) -> Remote:
        return self._connect(self.endpoint(), deadline)

    def _login(self, record: QemuRecord, deadline: Deadline) -> None:
        """See a command run over SSH."""
        with self._connect(self._endpoint(record), deadline, lambda: bool(process.owned(self.directory))) as remote:
            remote.run(["true"], timeout=max(1.0, deadline.left))

    # -- what can be done ---------------------------------------------------------------------------------------

    def create(self, distro: Distro) -> None:
        """Make the machine as the settings want it and bring it up; whatever was there under its name goes."""
        self._remove_directory()
        wanted = self._settings.machine
        accelerator = choose(wanted.accelerator, self._settings.home)
        hardware = here(accelerator, wanted.cpus, wanted.memory)
        from labkit.images.build import Builder, recipe  # jinja2 and urllib3, which a machine that is there needs not

        wanted_image = recipe(distro, self._settings, self._needs)
        image = Builder(self._settings, self._observer).ensure(wanted_image, hardware)
        live = live_state(image, hardware, self._settings, self._observer)
        require_space(self._settings.home.path, _SPACE_MACHINE)
        make_directory(self.directory, mode=0o700)
        me = identity.new(self.name)
        record = QemuRecord(
            image.platform, image.release, image.key, accelerator, wanted.cpus, wanted.memory, False, 0,
            me.hostname, me.machine_id, me.host_key.private, me.host_key.public,
            made_of=ingredients.ingredients(distro, self._settings), maker=ingredients.maker(distro, image.steps),
        )  # fmt: skip
        self._save(record)
        again_after_panic(lambda: self._restore(record, image, hardware, live), self._observer)

    def differences(self, distro: Distro) -> Sequence[Difference]:
        record, settings = self.record(), self._settings
        if record is None:
            return []
        wanted, running = settings.machine, self._state() is MachineState.RUNNING
        rows = [
            *differences.provider(settings, record.provider),
            *differences.system(settings, distro, record.platform, record.release),
            Row("machine.cpus", "the number of CPUs", str(wanted.cpus), str(record.cpus)),
            Row("machine.memory", "the memory", f"{wanted.memory}M", f"{record.memory_mib}M"),
        ]
        if wanted.accelerator != "auto":
            rows.append(Row("machine.accelerator", "the accelerator", wanted.accelerator, record.accelerator))
        if wanted.ssh_port and running:  # one that does not run is given the port when it starts
            rows.append(Row("machine.ssh_port", "the SSH port", str(wanted.ssh_port), str(record.port)))
        if record.made_of:
            today = ingredients.ingredients(distro, settings)
            rows += [Row(key, key, value, record.made_of.get(key)) for key, value in today.items() if value != "auto"]
        found = differences.compared(settings, self.name, rows)
        image = golden.find(settings.home, record.image)
        if image and not any(difference.what in ("the platform", "the release") for difference in found):
            lacks = [step for step in ingredients.required(settings, self._needs) if step not in image.steps]
            found += differences.lacking(settings, self.name, lacks, self._needs)
            if record.maker and record.maker != ingredients.maker(distro, image.steps):
                found.append(differences.older(self.name))
        return found

    def update(self, distro: Distro) -> None:
        """Nothing: what its image lacks, a new machine has (see differences)."""

    def reset(self) -> None:
        """Back to the clean state, under the same name, host key and, if it is still free, port."""
        record, image, hardware = self._existing()
        live = live_state(image, hardware, self._settings, self._observer)
        self._end()
        fresh = dataclasses.replace(record, ready=False)
        self._save(fresh)
        again_after_panic(lambda: self._restore(fresh, image, hardware, live), self._observer)

    def start(self) -> None:
        """Go on with a halted machine's state, or boot a crashed one from its own disk; one that runs goes on."""
        if self._state() is MachineState.RUNNING:
            self._wake()
            return
        record, image, hardware = self._existing()
        again_after_panic(lambda: self._continue(record, image, hardware), self._observer)

    def _continue(self, record: QemuRecord, image: Image, hardware: Hardware) -> None:
        """Start on the machine's own disk, with the state that it was halted in if there is one."""
        state, disk = self.directory / STATE, self.directory / "disk.qcow2"
        used = self.directory / _USED
        deadline = Deadline.after(self._settings.limits.boot)
        self._end(keep_state=True)
        asleep = state.exists()
        with self._qemu(hardware, image.boot, disk, record.port, state if asleep else None) as monitor:
            if asleep:
                loaded(monitor, deadline)
                state.rename(used)  # the disk goes on from here: this memory would fit it never again
            self._go(monitor, record, deadline, known=asleep)
        used.unlink(missing_ok=True)

    def _wake(self) -> None:
        """Let a guest go on that stands still because a `halt` was broken off."""
        with connect_monitor(self.directory, Deadline.after(10)) as monitor:
            if monitor.execute("query-status")["status"] in ("paused", "postmigrate"):
                (self.directory / STATE).unlink(missing_ok=True)
                monitor.execute("cont")

    def halt(self) -> None:
        """Write the machine's whole state to disk and end its process; `start` goes on from there."""
        part = self.directory / f"{STATE}.part"
        with (
            connect_monitor(self.directory, Deadline.after(10)) as monitor,
            Agent(self.directory) as agent,
            disk_errors(self.directory),
        ):
            require_space(self.directory, SPACE)
            ask(agent, self.directory, "sync", Deadline.after(60), "write its disk")
            monitor.execute("stop")
            migrate(monitor, part, Deadline.after(self._settings.limits.boot))
            part.rename(self.directory / STATE)
            monitor.execute("quit")
        self._end(keep_state=True)

    def destroy(self) -> None:
        self._remove_directory()

    def _existing(self) -> tuple[QemuRecord, Image, Hardware]:
        record = self.record()
        if record is None or not record.ready:
            raise MachineError(f"machine {self.name} does not exist", hint="./lab up")
        image = golden.find(self._settings.home, record.image)
        if image is None:
            raise MachineError(
                f"the image {record.image} of machine {self.name} is gone from {self._settings.home.images}",
                hint="./lab destroy the machine and ./lab up again",
            )
        return record, image, here(record.accelerator, record.cpus, record.memory_mib)

    # -- how ----------------------------------------------------------------------------------------------------

    def _introduction(self, record: QemuRecord) -> str:
        _, authorized = identity.client_key(self._settings.home)
        return identity.script(record.identity, authorized, now=time.time(), entropy=secrets.token_hex(64))

    def _restore(self, record: QemuRecord, image: Image, hardware: Hardware, live: Path) -> None:
        """Start on a fresh overlay of the state in live."""
        disk = self.directory / "disk.qcow2"
        disk.unlink(missing_ok=True)
        (self.directory / STATE).unlink(missing_ok=True)
        overlay(live / "disk.qcow2", disk)
        deadline = Deadline.after(self._settings.limits.boot)
        with self._qemu(hardware, image.boot, disk, record.port, live / STATE) as monitor:
            loaded(monitor, deadline)
            self._go(monitor, record, deadline, known=False)

    def _go(self, monitor: Monitor, record: QemuRecord, deadline: Deadline, *, known: bool) -> None:
        """Let the guest run, tell it who it is unless it is known to know, pin its key, and see SSH work."""
        with Agent(self.directory) as agent:
            monitor.execute("cont")
            port = monitor.forwarded_port()
            now, entropy = time.time(), secrets.token_hex(64)
            agent.send(identity.wake_script(now=now, entropy=entropy) if known else self._introduction(record))
            answered(agent, self.directory, deadline, "take its identity")
        write_atomic(
            self.directory / "known_hosts", identity.known_hosts_line(_ADDRESS, port, record.identity), mode=0o600
        )
        record = dataclasses.replace(record, port=port, ready=True)
        self._login(record, deadline)
        self._save(record)

    @contextlib.contextmanager
    def _qemu(
        self,
        hardware: Hardware,
        boot: Boot,
        disk: Path,
        port: int,
        state: Path | None,
    ) -> Iterator[Monitor]:
        """A QEMU started in the machine's directory, and its monitor; ended again if the block does not succeed."""
        wanted = self._settings.machine.ssh_port
        ports = [wanted] if wanted else ([port, 0] if port and _free(port) else [0])
        for attempt in ports:
            words = argv(hardware, boot, disk, port=attempt, uuid=str(uuid.uuid4()))
            try:
                child = start(self.directory, words, state)
                import labkit.io.ssh  # noqa: F401  # loaded while QEMU starts: a quarter of a second

                monitor = connect(self.directory, child)
                break
            except PortTaken:
                if attempt == ports[-1]:
                    raise MachineError(
                        f"port {attempt} on {_ADDRESS} is taken",
                        hint="set machine.ssh_port to another port, or to 0 for any free one",
                    ) from None
        try:
            with panics_named(self.directory, "come up"), monitor:
                yield monitor
        except MonitorGone as error:
            said = (self.directory / LOG).read_text(errors="replace").strip()
            raise MachineError(
                error.message, hint=printable(said, newlines=True) or console_end(self.directory)
            ) from error
        except BaseException:
            process.end_owned(self.directory)
            raise

    def _end(self, *, keep_state: bool = False) -> None:
        process.end_owned(self.directory)
        (self.directory / "known_hosts").unlink(missing_ok=True)
        for name in (AGENT, MONITOR, *([] if keep_state else [STATE]), f"{STATE}.part", _USED):
            (self.directory / name).unlink(missing_ok=True)

    def _save(self, record: QemuRecord) -> None:
        self._save_record(asdict(record))


def _free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((_ADDRESS, port))
        return True
    return False

"""The qemu provider: machines restored from a live state of their golden image.

images/KEY/                      golden image: disk.qcow2, kernel, initrd
images/KEY/live-HARDWARE/        that image booted once: disk.qcow2 (overlay), state
machines/NAME/                   record.json, disk.qcow2 (overlay on the live disk), sockets, logs, known_hosts
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import secrets
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import images, late, process
from labkit.config import Settings
from labkit.deadline import Deadline
from labkit.endpoint import Endpoint
from labkit.errors import MachineError, MonitorGone
from labkit.files import disk_errors, locked, make_folder, require_space, write_atomic
from labkit.images import Image
from labkit.machines import MachineInfo, State, identity
from labkit.machines.accelerator import choose
from labkit.machines.agent import Agent
from labkit.machines.hardware import AGENT, CONSOLE, LOG, MONITOR, Boot, Hardware, argv, here
from labkit.machines.identity import Identity, KeyPair
from labkit.machines.kept import Kept, read_record
from labkit.machines.launch import (
    PortTaken,
    again_after_panic,
    answered,
    ask,
    boot_and_run,
    connect,
    console_end,
    ended,
    launch,
    loaded,
    migrate,
    overlay,
    start,
)
from labkit.observer import Observer
from labkit.platforms import Platform, Release
from labkit.text import printable

if TYPE_CHECKING:
    from labkit.qmp import Monitor
    from labkit.ssh import Remote

_ADDRESS = "127.0.0.1"
_STATE = "state"
# What the first connection and the first run will read belongs into the state, not to every machine's start. A guest
# that still has some of its boot before it would go on with that after every restore: it is kept once it is idle, which
# is less than a tenth of one CPU in a second.
_WARM = """sync
for file in /usr/sbin/sshd /usr/lib/openssh/sshd* /usr/libexec/openssh/sshd* /bin/sh /usr/bin/env /usr/bin/timeout \\
  /usr/bin/python3 /usr/sbin/runc /usr/bin/runc /usr/bin/crun; do
  test ! -f "$file" || cat "$file" >/dev/null
done
round=0
before=0
while test "$round" -lt 30; do
  read -r _ user nice system _ </proc/stat
  busy=$((user + nice + system))
  test $((busy - before)) -gt 10 || break
  before=$busy
  round=$((round + 1))
  sleep 1
done
"""
_SPACE_LIVE = 1024  # MiB that a live state may take beside its memory
_SPACE_MACHINE = 256


@dataclass(frozen=True, slots=True)
class Record:
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

    @property
    def identity(self) -> Identity:
        return Identity(self.hostname, self.machine_id, KeyPair(self.host_private, self.host_public))


class QemuMachine(Kept):
    """A machine of this host's QEMU."""

    def __init__(self, name: str, settings: Settings, observer: Observer, needs: tuple[str, ...] = ()) -> None:
        """needs: the tools that a suite or runtime asks for, see labkit.bootstrap."""
        super().__init__(name, settings, observer)
        self._needs = needs

    # -- what there is ------------------------------------------------------------------------------------------

    def record(self) -> Record | None:
        try:
            return Record(**read_record(self.folder))
        except TypeError:
            return None

    def status(self) -> MachineInfo:
        record, state = self.record(), self._state()
        info = MachineInfo(self.name, "", "", "qemu", state)
        if record is None:
            return info
        info = dataclasses.replace(
            info, platform=record.platform, release=record.release, accelerator=record.accelerator
        )
        if state is State.RUNNING:
            info = dataclasses.replace(info, address=_ADDRESS, port=record.port, user="root")
        return info

    def _state(self) -> State:
        if not self.folder.exists():
            return State.ABSENT
        record = self.record()
        alive = bool(process.owned(self.folder))
        if record is None or not record.ready:
            return State.INTERRUPTED
        if alive:
            return State.RUNNING if (self.folder / "known_hosts").exists() else State.INTERRUPTED
        if (self.folder / _STATE).exists():
            return State.HALTED
        return State.CRASHED

    def console(self) -> Path | None:
        path = self.folder / CONSOLE
        return path if path.exists() else None

    def endpoint(self) -> Endpoint:
        record = self.record()
        if record is None or self._state() is not State.RUNNING:
            raise MachineError(f"machine {self.name} is not running", hint="./lab up")
        return self._endpoint(record)

    def _endpoint(self, record: Record) -> Endpoint:
        key, _ = identity.client_key(self._settings.home)
        return Endpoint(_ADDRESS, record.port, "root", key, self.folder / "known_hosts")

    def connect(self, deadline: Deadline) -> Remote:
        remote: Remote = late.module("ssh").Remote(self.endpoint(), deadline)
        return remote

    def _login(self, record: Record, deadline: Deadline) -> None:
        """See a command run over SSH."""
        with late.module("ssh").Remote(self._endpoint(record), deadline) as remote:
            remote.run(["true"], timeout=max(1.0, deadline.left))

    # -- what can be done ---------------------------------------------------------------------------------------

    def create(self, platform: Platform, release: Release) -> None:
        """Make the machine as the settings want it and bring it up; whatever was there under its name goes."""
        self._remove_folder()
        wanted = self._settings.machine
        accelerator = choose(wanted.accelerator, self._settings.home)
        hardware = here(accelerator, wanted.cpus, wanted.memory)
        building = late.module("building")
        recipe = building.recipe(platform, release, self._settings, self._needs)
        image = building.Builder(self._settings, self._observer).ensure(recipe, hardware)
        live = self._live(image, hardware)
        require_space(self._settings.home, _SPACE_MACHINE)
        make_folder(self.folder)
        me = identity.new(self.name)
        record = Record(
            image.platform, image.release, image.key, accelerator, wanted.cpus, wanted.memory, False, 0,
            me.hostname, me.machine_id, me.host_key.private, me.host_key.public,
        )  # fmt: skip
        self._save(record)
        again_after_panic(lambda: self._restore(record, image, hardware, live), self._observer)

    def outdated(self, platform: Platform, release: Release) -> str | None:
        """In which way the machine is not what the settings want today; None if it is."""
        record, wanted = self.record(), self._settings.machine
        if record is None:
            return None
        if (record.platform, record.release) != (platform.name, release.name):
            return f"is {record.platform} {record.release}"
        if (record.cpus, record.memory_mib) != (wanted.cpus, wanted.memory):
            return f"has {record.cpus} CPUs and {record.memory_mib} MiB of memory"
        image = images.find(self._settings.home, record.image)
        if image and (missing := [need for need in self._needs if need not in image.steps]):
            return f"lacks {', '.join(missing)}"
        return None

    def update(self, platform: Platform, release: Release) -> None:
        """Nothing: what its image lacks, a new machine has (see outdated)."""

    def restore(self) -> None:
        """Back to the clean state, under the same name, host key and, if it is still free, port."""
        record, image, hardware = self._existing()
        live = self._live(image, hardware)
        self._end()
        fresh = dataclasses.replace(record, ready=False)
        self._save(fresh)
        again_after_panic(lambda: self._restore(fresh, image, hardware, live), self._observer)

    def start(self) -> None:
        """Go on with a halted machine's state, or boot a crashed one from its own disk; one that runs goes on."""
        if self._state() is State.RUNNING:
            self._wake()
            return
        record, image, hardware = self._existing()
        again_after_panic(lambda: self._continue(record, image, hardware), self._observer)

    def _continue(self, record: Record, image: Image, hardware: Hardware) -> None:
        """Start on the machine's own disk, with the state that it was halted in if there is one."""
        state, disk = self.folder / _STATE, self.folder / "disk.qcow2"
        deadline = Deadline.after(self._settings.limits.boot)
        self._end(keep_state=True)
        asleep = state.exists()
        with self._qemu(hardware, image.boot, disk, record.port, state if asleep else None) as monitor:
            if asleep:
                loaded(monitor, deadline)
                state.unlink()  # the disk goes on from here: this memory would fit it never again
            self._go(monitor, record, deadline, known=asleep)

    def _wake(self) -> None:
        """Let a guest go on that stands still because a `halt` was broken off."""
        with late.module("qmp").Monitor(self.folder, MONITOR, Deadline.after(10)) as monitor:
            if monitor.execute("query-status")["status"] in ("paused", "postmigrate"):
                (self.folder / _STATE).unlink(missing_ok=True)
                monitor.execute("cont")

    def halt(self) -> None:
        """Write the machine's whole state to disk and end its process; `start` goes on from there."""
        part = self.folder / f"{_STATE}.part"
        with (
            late.module("qmp").Monitor(self.folder, MONITOR, Deadline.after(10)) as monitor,
            Agent(self.folder) as agent,
            disk_errors(self.folder),
        ):
            require_space(self.folder, _SPACE_LIVE)
            ask(agent, self.folder, "sync", Deadline.after(60), "write its disk")
            monitor.execute("stop")
            migrate(monitor, part, Deadline.after(self._settings.limits.boot))
            part.rename(self.folder / _STATE)
            monitor.execute("quit")
        self._end(keep_state=True)

    def destroy(self) -> None:
        self._remove_folder()

    def _existing(self) -> tuple[Record, Image, Hardware]:
        record = self.record()
        if record is None or not record.ready:
            raise MachineError(f"machine {self.name} does not exist", hint="./lab up")
        image = images.find(self._settings.home, record.image)
        if image is None:
            raise MachineError(
                f"the image {record.image} of machine {self.name} is gone from {images.folder(self._settings.home)}",
                hint="./lab destroy the machine and ./lab up again",
            )
        return record, image, here(record.accelerator, record.cpus, record.memory_mib)

    # -- how ----------------------------------------------------------------------------------------------------

    def _introduction(self, record: Record) -> str:
        _, authorized = identity.client_key(self._settings.home)
        return identity.script(record.identity, authorized, now=time.time(), entropy=secrets.token_hex(64))

    def _restore(self, record: Record, image: Image, hardware: Hardware, live: Path) -> None:
        """Start on a fresh overlay of the state in live."""
        disk = self.folder / "disk.qcow2"
        disk.unlink(missing_ok=True)
        (self.folder / _STATE).unlink(missing_ok=True)
        overlay(live / "disk.qcow2", disk)
        deadline = Deadline.after(self._settings.limits.boot)
        with self._qemu(hardware, image.boot, disk, record.port, live / _STATE) as monitor:
            loaded(monitor, deadline)
            self._go(monitor, record, deadline, known=False)

    def _go(self, monitor: Monitor, record: Record, deadline: Deadline, *, known: bool) -> None:
        """Let the guest run, tell it who it is unless it is known to know, pin its key, and see SSH work."""
        with Agent(self.folder) as agent:
            monitor.execute("cont")
            port = monitor.forwarded_port()
            now, entropy = time.time(), secrets.token_hex(64)
            agent.send(identity.wake_script(now=now, entropy=entropy) if known else self._introduction(record))
            answered(agent, self.folder, deadline, "take its identity")
        write_atomic(
            self.folder / "known_hosts", identity.known_hosts_line(_ADDRESS, port, record.identity), mode=0o600
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
        """A QEMU started in the machine's folder, and its monitor; ended again if the block does not succeed."""
        wanted = self._settings.machine.ssh_port
        ports = [wanted] if wanted else ([port, 0] if port and _free(port) else [0])
        for attempt in ports:
            words = argv(hardware, boot, disk, port=attempt, uuid=str(uuid.uuid4()))
            try:
                child = start(self.folder, words, state)
                late.module("ssh")  # while QEMU is at it
                monitor = connect(self.folder, child)
                break
            except PortTaken:
                if attempt == ports[-1]:
                    raise MachineError(
                        f"port {attempt} on {_ADDRESS} is taken",
                        hint="set machine.ssh_port to another port, or to 0 for any free one",
                    ) from None
        try:
            with monitor:
                yield monitor
        except MonitorGone as error:
            said = (self.folder / LOG).read_text(errors="replace").strip()
            raise MachineError(
                error.message, hint=printable(said, newlines=True) or console_end(self.folder)
            ) from error
        except BaseException:
            process.end_owned(self.folder)
            raise

    def _end(self, *, keep_state: bool = False) -> None:
        process.end_owned(self.folder)
        (self.folder / "known_hosts").unlink(missing_ok=True)
        for name in (AGENT, MONITOR, *([] if keep_state else [_STATE]), f"{_STATE}.part"):
            (self.folder / name).unlink(missing_ok=True)

    def _save(self, record: Record) -> None:
        self._save_record(asdict(record))

    def _live(self, image: Image, hardware: Hardware) -> Path:
        """The live state of image on hardware, made now if there is none."""
        key = hashlib.sha256(f"{hardware.key} {_WARM}".encode()).hexdigest()[:16]
        final = image.folder / f"live-{key}"
        if final.exists():
            return final
        limits = self._settings.limits
        with locked(
            self._settings.home / "locks" / f"live-{image.key}-{key}.lock",
            timeout=limits.boot * 2,
            waiting=self._observer.step,
            what=f"the first boot of {image.title}",
        ):
            if not final.exists():
                self._observer.step(f"booting {image.title} once ({hardware.accelerator}), to keep its live state")
                require_space(image.folder, _SPACE_LIVE + 256)
                making = image.folder / f"{final.name}.making"
                again_after_panic(
                    lambda: make_live(making, image, hardware, Deadline.after(limits.boot), self._observer),
                    self._observer,
                )
                making.rename(final)
        return final


def make_live(folder: Path, image: Image, hardware: Hardware, deadline: Deadline, observer: Observer) -> None:
    """Boot image in folder and leave disk.qcow2 and state there; what stood in folder goes."""
    process.end_owned(folder)
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    disk = folder / "disk.qcow2"
    overlay(image.folder / "disk.qcow2", disk)
    words = argv(
        hardware,
        image.boot,
        disk,
        port=0,
        uuid=str(uuid.uuid4()),
    )
    # The guest's agent waits for the next line while its port is open, and looks only now and then once it is closed:
    # a state is saved with the port open, so that the restored agent listens at once.
    with ended(folder), launch(folder, words) as monitor, Agent(folder) as agent:
        boot_and_run(agent, folder, monitor, _WARM, deadline, observer)
        monitor.execute("stop")
        migrate(monitor, folder / _STATE, deadline)
        monitor.execute("quit")
        deadline.poll(lambda: not process.owned(folder))
    shutil.copyfile(folder / CONSOLE, folder / "boot.log")


def _free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((_ADDRESS, port))
        return True
    return False

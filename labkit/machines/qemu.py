"""The qemu provider: machines restored from a live state of their golden image.

images/KEY/                      golden image: disk.qcow2, kernel, initrd
images/KEY/live-HARDWARE-N/      that image booted once: disk.qcow2 (overlay), state
machines/NAME/                   record.json, disk.qcow2 (overlay on the live disk), sockets, logs, known_hosts;
                                 state, where it is halted; starting, while it comes up
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.arch import Arch
from labkit.core.deadline import Deadline
from labkit.core.errors import InfrastructureError, MachineError, MonitorGone
from labkit.core.platforms import Distro
from labkit.core.text import printable
from labkit.images import golden, ingredients, sums
from labkit.images.golden import Image
from labkit.images.live import SPACE, STATE, live_state, throw_away
from labkit.images.live import wrong as live_wrong
from labkit.io import process
from labkit.io.console import console, console_end, panic_lines, panics_named
from labkit.io.files import disk_errors, make_directory, require_space, write_atomic
from labkit.io.network import Network
from labkit.machines import identity
from labkit.machines.base import Difference, MachineInfo, MachineState
from labkit.machines.differences import Row
from labkit.machines.local import LOGIN, NO_SSHD, STARTING, LocalMachine, LocalRecord
from labkit.machines.local import SPACE as SPACE_MACHINE
from labkit.machines.record import load_record
from labkit.qemu.accelerator import choose
from labkit.qemu.agent import Agent
from labkit.qemu.hardware import AGENT, MONITOR, Boot, Hardware, here
from labkit.qemu.launch import (
    Running,
    StateRefused,
    again_after_panic,
    answered,
    connect,
    connect_monitor,
    give_up_migration,
    loaded,
    log,
    migrate,
    overlay,
    start,
)

if TYPE_CHECKING:
    from labkit.qemu.monitor import Monitor

# Succeeds where the guest has an sshd: the pid file that it removes when it ends, or else a unit that is active.
_SSHD = """if test -s /run/sshd.pid && read -r pid </run/sshd.pid; then kill -0 "$pid"
else for unit in ssh.service sshd.service ssh.socket; do systemctl --quiet is-active "$unit" && exit; done; false; fi
"""
_PING = "true\n"
_USED = f"{STATE}.used"  # of a guest that runs again, for as long as it has not answered
_SNAPSHOT = "resume"  # in the disk, as long as there is _USED: what the disk was when that state was written
_DISK = "disk.qcow2"
_LOOK = 5.0  # seconds that QEMU and the guest's agent have to say how they are
_DOUBT = 20.0  # seconds of silence after which the files that a guest was restored from are read
_AGAIN = 5  # seconds after which a guest that goes on is asked once more
_SYNC = 20.0  # seconds that a guest has to write its disk before it is halted


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuRecord(LocalRecord):
    accelerator: str
    cpus: int
    provider: str = "qemu"
    machine_type: str = "q35"  # of machines that an older labkit made
    level: str = ""  # see Hardware


class QemuMachine(LocalMachine[QemuRecord]):
    """A machine of this host's QEMU."""

    provider = "qemu"

    # -- what there is ------------------------------------------------------------------------------------------

    def record(self) -> QemuRecord | None:
        return load_record(QemuRecord, self.directory)

    def _runs_by(self, record: QemuRecord) -> tuple[str, str | None]:
        return record.accelerator, None

    def _halted(self) -> bool:
        names = {name for name in (STATE, _USED, STARTING) if (self.directory / name).exists()}
        return STATE in names or {_USED, STARTING} <= names

    def examine(self) -> MachineInfo:
        info = self.status()
        if info.state is not MachineState.RUNNING:
            return info
        if stopped := self._stopped("QEMU"):
            return dataclasses.replace(info, state=MachineState.UNREACHABLE, problem=stopped.message)
        if panic := panic_lines(console(self.directory)):
            if not self._agent_answers(_PING):
                return dataclasses.replace(info, state=MachineState.CRASHED, problem=f"its kernel panicked: {panic}")
            return info
        try:
            with self._monitor() as monitor:
                said = str(monitor.execute("query-status")["status"])
        except MachineError as error:
            return dataclasses.replace(info, state=MachineState.UNREACHABLE, problem=error.message)
        if said == "io-error":
            problem = f"its disk could not be written: the disk of this host that holds {self.directory} was full"
            return dataclasses.replace(info, state=MachineState.UNREACHABLE, problem=problem)
        if said in ("internal-error", "guest-panicked", "shutdown"):
            return dataclasses.replace(info, state=MachineState.CRASHED, problem=f"QEMU says {said}")
        if said == "running" and not self._agent_answers(self._reachable()):
            return dataclasses.replace(info, state=MachineState.UNREACHABLE, problem=NO_SSHD)
        return info

    def _reachable(self) -> str:
        """The script that succeeds in a guest that can be logged in to; the lab's key may be another one by now."""
        return identity.authorize(identity.client_key(self._settings.home)[1]) + _SSHD

    def _agent_answers(self, script: str) -> bool:
        """Whether the guest's agent runs the script, with success. One that is busy or gone is no news of sshd's."""
        try:
            with Agent(self.directory) as agent:
                agent.send(script)
                answer = agent.answer(_LOOK)
        except MachineError:
            answer = None
        return answer == 0 or (answer is None and script != _PING)

    def _monitor(self) -> Monitor:
        """The monitor of the running QEMU. Raises MachineError within seconds where it does not answer."""
        if stopped := self._stopped("QEMU"):
            raise stopped
        try:
            return connect_monitor(self.directory, Deadline.after(_LOOK))
        except MachineError as error:
            raise MachineError(error.message, hint=self._way_on()) from error

    # -- what can be done ---------------------------------------------------------------------------------------

    def create(self, distro: Distro) -> None:
        """Make the machine as the settings want it and bring it up; whatever was there under its name goes."""
        self._remove_directory()
        wanted = self._settings.machine
        accelerator = choose(wanted.accelerator, self._settings.home, distro.arch)
        hardware = here(accelerator, wanted.cpus, wanted.memory, self._network(), arch=distro.arch, level=distro.cpu)
        from labkit.images.build import Builder, recipe  # jinja2 and urllib3, which a machine that is there needs not

        wanted_image = recipe(distro, self._settings, self._needs)
        builder = Builder(self._settings, self._observer)
        image = builder.ensure(wanted_image, hardware)
        live_state(image, hardware, self._settings, self._observer)
        require_space(self._settings.home.path, SPACE_MACHINE)
        make_directory(self.directory, mode=0o700)
        me = identity.new(self.name)
        record = QemuRecord(
            platform=image.platform, release=image.release, image=image.directory.name,
            accelerator=accelerator, cpus=wanted.cpus, memory_mib=wanted.memory, ready=False, port=0,
            hostname=me.hostname, machine_id=me.machine_id,
            host_private=me.host_key.private, host_public=me.host_key.public,
            made_of=ingredients.ingredients(distro, self._settings), maker=ingredients.maker(distro, image.steps),
            arch=distro.arch.value, level=distro.cpu,
        )  # fmt: skip
        self._save(record)
        self._restore(record, hardware, lambda: builder.ensure(wanted_image, hardware))

    def differences(self, distro: Distro) -> Sequence[Difference]:
        record, wanted = self.record(), self._settings.machine
        if record is None:
            return []
        rows = [Row("machine.cpus", "the number of CPUs", str(wanted.cpus), str(record.cpus))]
        if wanted.accelerator != "auto":
            rows.append(Row("machine.accelerator", "the accelerator", wanted.accelerator, record.accelerator))
        return self._differences(distro, record, rows)

    def reset(self) -> None:
        """Back to the clean state, under the same name, host key and, if it is still free, port."""
        record = self._existing()
        hardware = self._hardware(record)
        live_state(self._image(record), hardware, self._settings, self._observer)
        self._end()
        fresh = dataclasses.replace(record, ready=False)
        self._save(fresh)
        self._restore(fresh, hardware, lambda: self._image(record))

    def start(self, *, discard_state: bool = False) -> None:
        """Go on with a halted machine's state, or boot a crashed one from its own disk; one that runs goes on.

        discard_state: give up the memory of a halted machine, or of one that runs and cannot be reached.
        """
        info = self.examine()
        if info.state is MachineState.RUNNING:
            self._wake()
            return
        if info.state is MachineState.UNREACHABLE and not discard_state:
            if not self._wake():
                raise MachineError(f"machine {self.name} cannot be reached: {info.problem}", hint=self._way_on())
            return
        record = self._existing()
        if info.problem:
            self._observer.warn(f"machine {self.name}: {info.problem}")
        if info.state is MachineState.UNREACHABLE:
            with contextlib.ExitStack() as port:
                self._synced(port)
        if discard_state or not self._resumed(record):
            again_after_panic(lambda: self._boot(record), self._observer)

    def _resumed(self, record: QemuRecord) -> bool:
        """Go on with the state that the machine was halted in; whether there was one that can be gone on with."""
        try:
            return self._resume(record)
        except StateRefused as error:
            what = f"the memory that machine {self.name} was halted with cannot be loaded"
            why = f"{what} ({error.message}); its disk is good"
            if not self._observer.confirm(f"{why}. Give the memory up and boot the disk?"):
                raise MachineError(
                    why, hint=f"./lab up --machine {self.name} --discard-state gives the memory up and boots the disk"
                ) from error
            self._observer.warn(f"{why}, and is booted")
            return False

    def _resume(self, record: QemuRecord) -> bool:
        """As _resumed(). The state stays, and the disk keeps a snapshot of what fits it, until the guest has answered:
        whatever comes between, it can be tried again. Raises StateRefused.
        """
        state, disk, used = (self.directory / name for name in (STATE, _DISK, _USED))
        self._end()
        self._roll_back()
        if not state.exists():
            return False
        if why := sums.wrong(self.directory, content=True):
            raise StateRefused(why)
        process.run(["qemu-img", "snapshot", "-d", _SNAPSHOT, disk], timeout=60, check=False)
        hardware = self._hardware(record, Network(record.network), record.machine_type)
        deadline = Deadline.after(self._settings.limits.boot, "boot")
        with self._qemu(hardware, self._boot_of(record), record.port, state) as running:
            loaded(running.monitor, deadline)
            running.monitor.execute("blockdev-snapshot-internal-sync", device="disk0", name=_SNAPSHOT)
            state.rename(used)
            self._go(running, record, deadline, known=True)
            running.monitor.execute("blockdev-snapshot-delete-internal-sync", device="disk0", name=_SNAPSHOT)
        return True

    def _roll_back(self) -> None:
        """Undo a resume that did not come to an answer: the disk as it was, and the state that fits it."""
        used = self.directory / _USED
        if used.exists() and (self.directory / STARTING).exists():
            process.run(["qemu-img", "snapshot", "-a", _SNAPSHOT, self.directory / _DISK], timeout=60)
            used.rename(self.directory / STATE)
        (self.directory / STARTING).unlink(missing_ok=True)

    def _boot(self, record: QemuRecord) -> None:
        """Boot the machine's own disk."""
        hardware = self._hardware(record)
        deadline = Deadline.after(self._settings.limits.boot, "boot")
        boot = self._boot_of(record)
        self._end()
        self._roll_back()
        with self._qemu(hardware, boot, record.port, None) as running:
            record = dataclasses.replace(record, network=hardware.network.value, machine_type=hardware.machine)
            self._go(running, record, deadline, known=False)

    def _wake(self) -> bool:
        """Let a guest go on that stands still because a `halt` was broken off, or for want of disk space; whether it
        goes on. HostError where there still is no space.
        """
        with self._monitor() as monitor:
            said = monitor.execute("query-status")["status"]
            if said in ("paused", "postmigrate", "finish-migrate"):
                give_up_migration(monitor, Deadline.after(self._settings.limits.boot, "boot"))
                self._forget_state()
                (self.directory / f"{STATE}.part").unlink(missing_ok=True)
                monitor.execute("cont")
            elif said == "io-error":
                require_space(self.directory, SPACE_MACHINE)
                self._observer.warn(f"machine {self.name} stood still, for its disk was full; it goes on")
                monitor.execute("cont")
            return said in ("paused", "postmigrate", "finish-migrate", "io-error")

    def halt(self) -> None:
        """Write the machine's whole state to disk and end its process; `start` goes on from there.

        A guest whose kernel has panicked has no state worth keeping: it is ended, and boots its disk the next time.
        """
        info = self.examine()
        if info.state is MachineState.CRASHED:
            self._observer.warn(f"machine {self.name}: {info.problem}; it is ended, and will boot from its disk")
            self._end()
            return
        part, disk = self.directory / f"{STATE}.part", self.directory / _DISK
        try:
            # The agent's port stays open meanwhile: the guest is to be restored with an agent that listens.
            with self._monitor() as monitor, contextlib.ExitStack() as port, disk_errors(self.directory):
                require_space(self.directory, SPACE)
                if monitor.execute("query-status")["status"] != "io-error" and not self._synced(port):
                    self._observer.warn(f"the guest of machine {self.name} could not be asked to write its disk first")
                monitor.execute("stop")
                self._forget_state()
                migrate(monitor, part, Deadline.after(self._settings.limits.boot, "boot"))
                sums.sync(disk)  # which QEMU has written, for it has given it up
                part.rename(self.directory / STATE)
                sums.write(self.directory, (STATE,))
                monitor.execute("quit")
        finally:
            part.unlink(missing_ok=True)
        self._end()

    def _synced(self, port: contextlib.ExitStack) -> bool:
        """Whether the guest has written its disk; the agent's port is open until port is closed."""
        with contextlib.suppress(MachineError):
            agent = port.enter_context(Agent(self.directory))
            agent.send("sync")
            return agent.answer(_SYNC) == 0
        return False

    def _boot_of(self, record: QemuRecord) -> Boot:
        """How its image boots: all that a machine with a disk of its own needs of it, besides the disk."""
        directory = self._settings.home.images / record.image
        return golden.boot_of(directory) if directory.exists() else self._image(record).boot

    # -- how ----------------------------------------------------------------------------------------------------

    def _hardware(self, record: QemuRecord, network: Network | None = None, machine_type: str = "") -> Hardware:
        """The hardware of the machine; what a halted one goes on with is what it had, else it is given today's."""
        return here(
            record.accelerator,
            record.cpus,
            record.memory_mib,
            network or self._network(),
            machine_type,
            Arch(record.arch),
            record.level,
        )

    def _introduction(self, record: QemuRecord) -> str:
        _, authorized = identity.client_key(self._settings.home)
        script = identity.script(record.identity, authorized, now=time.time(), entropy=secrets.token_hex(64))
        return script if record.arch == Arch.AMD64 else identity.RESEED + script

    def _restore(self, record: QemuRecord, hardware: Hardware, find: Callable[[], Image]) -> None:
        """Start on a fresh overlay of the live state of the image that find returns.

        What fails because a live state or its image is damaged is tried once more, with another one.
        """
        while True:
            image = find()
            live = live_state(image, hardware, self._settings, self._observer)
            try:
                again_after_panic(lambda at=(image, live): self._restore_from(record, hardware, *at), self._observer)  # type: ignore[misc]
                return
            except InfrastructureError as error:
                # Whatever went wrong: it is tried again only if something has changed by that.
                if not self._mended(image, live, error):
                    raise

    def _mended(self, image: Image, live: Path, error: InfrastructureError) -> bool:
        """Whether something that a guest was restored from is damaged, which then is there no more."""
        why = live_wrong(live, content=True) or (error.message if isinstance(error, StateRefused) else None)
        if why:
            throw_away(live)
        broken = sums.wrong(image.directory, content=True)
        if broken:
            sums.call_damaged(image.directory, broken)
        if why or broken:
            self._observer.warn(f"the machine cannot be restored: {broken or why}; making that again")
        return bool(why or broken)

    def _restore_from(self, record: QemuRecord, hardware: Hardware, image: Image, live: Path) -> None:
        disk = self.directory / _DISK
        self._end()
        self._forget_state()
        disk.unlink(missing_ok=True)
        overlay(live / _DISK, disk)
        began, looked = time.monotonic(), False

        def waiting() -> None:
            nonlocal looked
            passed = time.monotonic() - began
            self._observer.progress("waiting for the guest", int(passed), None, "s")
            if passed > _DOUBT and not looked:
                looked = True
                if why := live_wrong(live, content=True) or sums.wrong(image.directory, content=True):
                    raise MachineError(why)

        deadline = Deadline.after(self._settings.limits.boot, "boot")
        with self._qemu(hardware, image.boot, record.port, live / STATE) as running:
            loaded(running.monitor, deadline)
            record = dataclasses.replace(
                record,
                image=image.directory.name,  # another one than was recorded, where that was damaged
                network=hardware.network.value,
                machine_type=hardware.machine,
            )
            self._go(running, record, deadline, known=False, waiting=waiting)

    def _go(
        self,
        running: Running,
        record: QemuRecord,
        deadline: Deadline,
        *,
        known: bool,
        waiting: Callable[[], None] | None = None,
    ) -> None:
        """Let the guest run, tell it who it is unless it is known to know, pin its key, and see SSH work."""
        began = time.monotonic()
        with Agent(self.directory) as agent:

            def wait() -> None:
                if waiting:
                    waiting()
                    return
                passed = int(time.monotonic() - began)
                self._observer.progress("waiting for the guest", passed, None, "s")
                if known and passed % _AGAIN == 0 and passed:
                    agent.repeat()  # its port was opened while the guest slept: it may have lost the line

            running.monitor.execute("cont")
            now, entropy = time.time(), secrets.token_hex(64)
            agent.send(identity.wake_script(now=now, entropy=entropy) if known else self._introduction(record))
            answered(agent, self.directory, deadline, "take its identity", wait)
        if known and not self._agent_answers(self._reachable()):
            raise MachineError(f"machine {self.name} cannot be reached: {NO_SSHD}", hint=self._way_on())
        record = dataclasses.replace(record, port=running.port, ready=True)
        self._login(record, Deadline.after(min(deadline.left, max(LOGIN, self._settings.limits.connect))))
        self._save(record)
        self._forget_state()
        (self.directory / STARTING).unlink()

    @contextlib.contextmanager
    def _qemu(self, hardware: Hardware, boot: Boot, port: int, state: Path | None) -> Iterator[Running]:
        """A QEMU started on the machine's disk; ended again if the block does not succeed."""
        with self._ended_unless_it_comes_up():
            running = self._on_a_port(port, lambda free: self._connected(hardware, boot, free, state))
            try:
                with panics_named(self.directory, "come up"), running.monitor:
                    yield running
            except MonitorGone as error:
                said = log(self.directory)
                Deadline.after(1).poll(lambda: running.child.poll() is not None)
                raise MachineError(
                    f"{error.message}; it {process.ended(running.child) or 'still runs'}",
                    hint=printable(said, newlines=True) or console_end(self.directory),
                ) from error

    @contextlib.contextmanager
    def _ended_unless_it_comes_up(self) -> Iterator[None]:
        write_atomic(self.directory / STARTING, "")
        try:
            yield
        except BaseException:
            process.end_owned(self.directory)
            self._roll_back()
            raise

    def _connected(self, hardware: Hardware, boot: Boot, port: int, state: Path | None) -> Running:
        """A QEMU on the machine's disk that answers. Raises PortTaken."""
        allowed = self._settings.named_addresses()
        started = start(self.directory, hardware, boot, self.directory / _DISK, port=port, state=state, allowed=allowed)
        import labkit.io.ssh  # noqa: F401  # loaded while QEMU starts: a quarter of a second

        return connect(started, port)

    def _end(self) -> None:
        """End its QEMU, whatever that does; disk and state stay."""
        process.end_owned(self.directory)
        for name in (AGENT, MONITOR, f"{STATE}.part"):
            (self.directory / name).unlink(missing_ok=True)

    def _forget_state(self) -> None:
        for name in (STATE, _USED, sums.SUMS):
            (self.directory / name).unlink(missing_ok=True)

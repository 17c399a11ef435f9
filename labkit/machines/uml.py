"""The uml provider: machines of User-Mode Linux, for hosts where there is no KVM.

images/KEY/raw/disk.img        the golden image, raw, which all its machines read
machines/NAME/                 record.json, volume/cow.img (what the machine has written), start.img, logs, known_hosts;
                               halted, where its disk was let go in order; starting, while it comes up

A machine boots in a second, so there is no state of a running one to keep: `reset` boots a new copy-on-write file,
`halt` keeps the old one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.core.deadline import Deadline
from labkit.core.errors import ConnectionFailed, HostError, LabError, MachineError, UsageError
from labkit.core.platforms import Distro
from labkit.images import ingredients
from labkit.images.raw import raw_disk
from labkit.io import process
from labkit.io.console import console, console_end, panic_lines, panics_named
from labkit.io.files import disk_errors, make_directory, require_space, write_atomic
from labkit.io.network import ADDRESS, Network
from labkit.io.network import choose as choose_network
from labkit.machines import identity
from labkit.machines.base import Difference, MachineInfo, MachineState
from labkit.machines.differences import Row
from labkit.machines.local import LOGIN, NO_SSHD, SPACE, STARTING, LocalMachine, LocalRecord
from labkit.machines.record import load_record
from labkit.uml import cow, guest
from labkit.uml.kernel import Kernel, ensure
from labkit.uml.launch import COW, VOLUME, Running, said, start

_HALTED = "halted"
_SHOWN = 4  # seconds of a boot, after which a person hears of it
_LOOK = 5.0  # seconds that a guest's sshd has to say what it is
_OFF = 30.0  # seconds that a guest has to end by itself
# Tools whose daemons systemd starts.
_SYSTEMD = ("docker", "podman", "containerd")
# Ends the guest with its file system in order: systemd's way, else the kernel's (sync, remount read-only, off), which
# does each later, on its own.
_POWER_OFF = """sync
if test -d /run/systemd/system && systemctl --no-block poweroff; then exit; fi
sleep 0.2
for key in s u; do echo "$key" >/proc/sysrq-trigger; done
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  if grep -q ' / ext4 ro' /proc/mounts; then break; fi
  sleep 0.1
done
echo o >/proc/sysrq-trigger
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UmlRecord(LocalRecord):
    init: str
    kernel: str  # sha256 of its program
    kernel_origin: str
    provider: str = "uml"


class UmlMachine(LocalMachine[UmlRecord]):
    """A machine of User-Mode Linux."""

    provider = "uml"

    # -- what there is ------------------------------------------------------------------------------------------

    def record(self) -> UmlRecord | None:
        return load_record(UmlRecord, self.directory)

    def _runs_by(self, record: UmlRecord) -> tuple[str, str | None]:
        return "uml", record.kernel_origin

    def _halted(self) -> bool:
        return (self.directory / _HALTED).exists()

    def examine(self) -> MachineInfo:
        info = self.status()
        if info.state is not MachineState.RUNNING:
            return info
        if stopped := self._stopped("User-Mode Linux"):
            return dataclasses.replace(info, state=MachineState.UNREACHABLE, problem=stopped.message)
        if not _greets(info.port or 0):
            if panic := panic_lines(console(self.directory)):
                return dataclasses.replace(info, state=MachineState.CRASHED, problem=f"its kernel panicked: {panic}")
            return dataclasses.replace(info, state=MachineState.UNREACHABLE, problem=NO_SSHD)
        return info

    def differences(self, distro: Distro) -> Sequence[Difference]:
        record, settings = self.record(), self._settings
        if record is None:
            return []
        rows = []
        if settings.machine.init != "auto":
            rows.append(Row("machine.init", "the init", settings.machine.init, record.init))
        elif record.init != (needed := self.init_for(ingredients.required(settings, self._needs))) == "systemd":
            rows.append(Row("machine.init", "the init", needed, record.init))
        if settings.uml_kernel:
            with contextlib.suppress(LabError):
                wanted = ensure(settings, self._observer)
                rows.append(Row("uml_kernel", "the kernel", _shown(wanted.sha256), _shown(record.kernel)))
        return self._differences(distro, record, rows)

    # -- what can be done ---------------------------------------------------------------------------------------

    def create(self, distro: Distro) -> None:
        """Make the machine as the settings want it and bring it up; whatever was there under its name goes."""
        self._remove_directory()
        wanted = self._settings.machine
        kernel = ensure(self._settings, self._observer)
        from labkit.images.build import Builder, recipe  # jinja2 and urllib3, which a machine that is there needs not

        made_of = recipe(distro, self._settings, self._needs)
        if not made_of.suite:
            raise UsageError(
                f"{distro.title} comes as a cloud image, which the uml provider cannot boot",
                hint="say --provider qemu; or choose a platform whose images are built from packages",
            )
        image = Builder(self._settings, self._observer).ensure(made_of, None)
        require_space(self._settings.home.path, SPACE)
        make_directory(self.directory, mode=0o700)
        me = identity.new(self.name)
        record = UmlRecord(
            platform=image.platform, release=image.release, image=image.directory.name, memory_mib=wanted.memory,
            ready=False, port=0, hostname=me.hostname, machine_id=me.machine_id,
            host_private=me.host_key.private, host_public=me.host_key.public,
            made_of=ingredients.ingredients(distro, self._settings), maker=ingredients.maker(distro, image.steps),
            init=self.init_for(image.steps), kernel=kernel.sha256, kernel_origin=str(kernel),
        )  # fmt: skip
        self._save(record)
        self._boot(record, kernel, self._base(record))

    def init_for(self, steps: Sequence[str]) -> str:
        """The init for a machine with these steps of the bootstrap."""
        wanted = self._settings.machine.init
        if wanted != "auto":
            return wanted
        return "systemd" if any(step in _SYSTEMD for step in steps) else "small"

    def reset(self) -> None:
        """Back to the clean state, under the same name, host key and, if it is still free, port."""
        record = self._existing()
        kernel, base = ensure(self._settings, self._observer), self._base(record)
        process.end_owned(self.directory)
        fresh = dataclasses.replace(record, ready=False)
        self._save(fresh)
        self._clear()
        self._boot(fresh, kernel, base)

    def start(self, *, discard_state: bool = False) -> None:
        """Boot the machine's own disk, unless it runs; discard_state: also where it runs and cannot be reached."""
        info = self.examine()
        if info.state is MachineState.RUNNING:
            return
        if info.state is MachineState.UNREACHABLE and not discard_state:
            raise MachineError(f"machine {self.name} cannot be reached: {info.problem}", hint=self._way_on())
        if info.problem:
            self._observer.warn(f"machine {self.name}: {info.problem}")
        record, kernel = self._existing(), ensure(self._settings, self._observer)
        base = self._base(record)
        cow.require_whole(self.directory / VOLUME / COW, base)
        self._boot(record, kernel, base)

    def halt(self) -> None:
        """End the machine with its file system in order; `start` boots that again. The memory is not kept."""
        info = self.examine()
        problem = info.problem
        if info.state is MachineState.RUNNING:
            try:
                with self.connect(Deadline.after(self._settings.limits.connect)) as remote:
                    remote.run(["sh", "-c", f"({_POWER_OFF}) >/dev/null 2>&1 </dev/null &"], timeout=_OFF)
                if not Deadline.after(_OFF).poll(lambda: not process.owned(self.directory), every=0.02):
                    problem = f"its guest did not end within {_OFF:g} s"
            except ConnectionFailed as error:
                problem = error.message
        process.end_owned(self.directory)
        if problem:
            self._observer.warn(f"machine {self.name}: {problem}; it is ended, and will boot from its disk")
            return
        with disk_errors(self.directory):
            cow.sync(self.directory / VOLUME / COW)
            write_atomic(self.directory / _HALTED, "")

    # -- how ----------------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        with disk_errors(self.directory):
            shutil.rmtree(self.directory / VOLUME, ignore_errors=True)

    def _base(self, record: UmlRecord) -> Path:
        return raw_disk(self._image(record), self._settings.home, self._observer)

    def _boot(self, record: UmlRecord, kernel: Kernel, base: Path) -> None:
        """Boot what the machine has written, on its image: nothing for a new one. It is ended where that fails."""
        process.end_owned(self.directory)
        if not kernel.seccomp:
            self._observer.warn(
                f"{kernel} has no seccomp mode, which came with 6.16: the machine is several times slower"
            )
        deadline = Deadline.after(self._settings.limits.boot, "boot")
        network = self._way_out()
        try:
            write_atomic(self.directory / STARTING, "")
            with panics_named(self.directory, "come up"):
                running = self._started(record, kernel, base, network)
                record = dataclasses.replace(
                    record, port=running.port, network=network.value, kernel=kernel.sha256, kernel_origin=str(kernel)
                )
                self._wait(record, running, deadline)
            self._save(dataclasses.replace(record, ready=True))
            (self.directory / _HALTED).unlink(missing_ok=True)
            (self.directory / STARTING).unlink()
        except BaseException:
            process.end_owned(self.directory)
            (self.directory / STARTING).unlink(missing_ok=True)
            raise

    def _way_out(self) -> Network:
        """The guest's network. HostError where there can be none: SSH comes in by it, whatever gets out."""
        network, why = choose_network("auto")
        if why:
            raise HostError(f"User-Mode Linux cannot run here: {why}", hint="./lab doctor; or say --provider qemu")
        wanted = self._settings.machine.network
        return network if wanted == "auto" else Network(wanted)

    def _started(self, record: UmlRecord, kernel: Kernel, base: Path, network: Network) -> Running:
        _, authorized = identity.client_key(self._settings.home)
        script = guest.script(record.init, identity.boot_script(record.identity, authorized))

        def on(port: int) -> Running:
            running = start(
                self.directory,
                kernel,
                base,
                script,
                record.memory_mib,
                port=port,
                reach=network,
                allowed=self._settings.named_addresses(),
                extra=guest.words(record.init),
            )
            import labkit.io.ssh  # noqa: F401  # loaded while it boots: a quarter of a second

            return running

        return self._on_a_port(record.port, on)

    def _wait(self, record: UmlRecord, running: Running, deadline: Deadline) -> None:
        """See the guest's sshd run a command."""
        began = time.monotonic()
        while not _greets(running.port, min(1.0, max(deadline.left, 0.1))):
            if (passed := int(time.monotonic() - began)) >= _SHOWN:
                self._observer.progress("booting", passed, None, "s")
            if running.child.poll() is not None:
                raise MachineError("the guest ended before it came up", hint=said(self.directory))
            if deadline.passed:
                raise MachineError(
                    f"the guest did not come up within {deadline.allowed}", hint=console_end(self.directory)
                )
            time.sleep(0.02)
        self._login(record, Deadline.after(min(deadline.left, max(LOGIN, self._settings.limits.connect))))


def _shown(digest: str) -> str:
    return f"sha256 {digest[:16]}"


def _greets(port: int, seconds: float = _LOOK) -> bool:
    """Whether an SSH server says what it is on the port, within seconds."""
    try:
        with socket.create_connection((ADDRESS, port), timeout=seconds) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False

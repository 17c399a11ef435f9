"""What virtual machines of this host have in common, whatever runs them: an image, an identity in the record, and SSH
on a port of 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from labkit.core.arch import Arch
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import MachineError
from labkit.core.platforms import Distro
from labkit.images import golden, ingredients
from labkit.images.golden import DamagedImage, Image
from labkit.io import process
from labkit.io.console import CONSOLE, console_end
from labkit.io.files import write_atomic
from labkit.io.network import ADDRESS, Network, PortTaken
from labkit.io.network import choose as choose_network
from labkit.io.remote import Remote
from labkit.machines import differences, identity
from labkit.machines.base import Difference, MachineInfo, MachineState
from labkit.machines.differences import Row
from labkit.machines.identity import Identity, KeyPair
from labkit.machines.record import RecordedMachine

SPACE = 256  # MiB that a new machine takes at least
LOGIN = 60.0  # seconds that the sshd of a guest has to let labkit in, once the guest has answered, at least
NO_SSHD = "its sshd does not run"
STARTING = "starting"  # a file that is there while a machine is started, by a labkit that may be killed meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRecord:
    """What is known of a machine, on disk before anything is done to it."""

    platform: str
    release: str
    image: str
    memory_mib: int
    ready: bool  # False until it has been reachable once: what is there is to be made anew
    port: int
    hostname: str
    machine_id: str
    host_private: str
    host_public: str
    network: str = Network.OPEN.value  # that of machines which an older labkit made
    made_of: dict[str, str] = field(default_factory=dict)  # see labkit.images.ingredients
    maker: str = ""
    arch: str = Arch.AMD64.value

    @property
    def identity(self) -> Identity:
        return Identity(self.hostname, self.machine_id, KeyPair(self.host_private, self.host_public))


_T = TypeVar("_T")
_Record = TypeVar("_Record", bound=LocalRecord)


class LocalMachine(RecordedMachine, Generic[_Record]):
    """The base of a machine of this host's."""

    provider: ClassVar[str]

    def record(self) -> _Record | None:
        raise NotImplementedError

    def _runs_by(self, record: _Record) -> tuple[str, str | None]:
        """Its accelerator, and where its kernel comes from, where that is not the platform's."""
        raise NotImplementedError

    def _halted(self) -> bool:
        """Whether what there is of a machine that does not run is what `halt` left."""
        raise NotImplementedError

    def status(self) -> MachineInfo:
        record, state = self.record(), self._state()
        info = MachineInfo(self.name, "", "", self.provider, state)
        if record is None:
            return info
        accelerator, origin = self._runs_by(record)
        info = dataclasses.replace(
            info,
            platform=record.platform,
            release=record.release,
            accelerator=accelerator,
            kernel_origin=origin,
            arch=record.arch,
        )
        if state is MachineState.RUNNING:
            info = dataclasses.replace(info, address=ADDRESS, port=record.port, user="root")
        return info

    def _state(self) -> MachineState:
        if not self.directory.exists():
            return MachineState.ABSENT
        record = self.record()
        if record is None or not record.ready:
            return MachineState.INTERRUPTED
        # One that was being started when its labkit was killed is ended by start(), which goes on with what there is.
        if process.owned(self.directory) and not (self.directory / STARTING).exists():
            return MachineState.RUNNING
        return MachineState.HALTED if self._halted() else MachineState.CRASHED

    def console(self) -> Path | None:
        path = self.directory / CONSOLE
        return path if path.exists() else None

    def endpoint(self) -> Endpoint:
        record = self.record()
        if record is None or self._state() is not MachineState.RUNNING:
            raise MachineError(f"machine {self.name} is not running", hint="./lab up")
        return self._endpoint(record)

    def _endpoint(self, record: LocalRecord) -> Endpoint:
        """With its host key pinned: the record has it."""
        key, _ = identity.client_key(self._settings.home)
        pinned, line = self.directory / "known_hosts", identity.known_hosts_line(ADDRESS, record.port, record.identity)
        if not pinned.exists() or pinned.read_bytes() != line.encode():
            write_atomic(pinned, line, mode=0o600)
        return Endpoint(ADDRESS, record.port, "root", key, pinned)

    def connect(self, deadline: Deadline) -> Remote:
        return self._connect(self.endpoint(), deadline)

    def _login(self, record: LocalRecord, deadline: Deadline) -> None:
        """See a command run over SSH."""
        with self._connect(self._endpoint(record), deadline, lambda: bool(process.owned(self.directory))) as remote:
            remote.run(["true"], timeout=max(1.0, deadline.left))

    def _stopped(self, what: str) -> MachineError | None:
        """The error that says that what runs it stands still because of a signal; None where it does not."""
        mine = process.owned(self.directory)
        mine += [child for pid in mine for child in process.children(pid)]  # a sandbox's has no mark
        for pid in filter(process.is_stopped, mine):
            return MachineError(
                f"the {what} of machine {self.name}, process {pid}, was stopped by a signal",
                hint=f"kill -CONT {pid} lets it go on; ./lab reset and ./lab destroy end it",
            )
        return None

    def _network(self) -> Network:
        network, why = choose_network(self._settings.machine.network)
        if why:
            self._observer.warn(
                f"machine {self.name} gets no way to the network, for its guest could reach this host by it: {why}"
            )
        return network

    def _on_a_port(self, port: int, start: Callable[[int], _T]) -> _T:
        """What start returns for the first port that is free: the settings', else the one that the machine had, else
        any, which is 0. start raises PortTaken.
        """
        wanted = self._settings.machine.ssh_port
        ports = [wanted] if wanted else ([port, 0] if port and _free(port) else [0])
        for attempt in ports:
            with contextlib.suppress(PortTaken):
                return start(attempt)
        raise MachineError(
            f"port {ports[-1]} on {ADDRESS} is taken",
            hint="set machine.ssh_port to another port, or to 0 for any free one",
        )

    def _differences(self, distro: Distro, record: _Record, rows: Iterable[Row]) -> Sequence[Difference]:
        """In what the machine is not what is asked for; rows: those of its provider."""
        settings, wanted, state = self._settings, self._settings.machine, self._state()
        rows = [
            *differences.provider(settings, self.provider),
            *differences.system(settings, distro, record.platform, record.release),
            Row("machine.arch", "the architecture", distro.arch.value, record.arch, f"--arch {record.arch}"),
            Row("machine.memory", "the memory", f"{wanted.memory}M", f"{record.memory_mib}M"),
            *rows,
        ]
        if wanted.network != "auto" and state in (MachineState.RUNNING, MachineState.HALTED):  # else it is given that
            rows.append(Row("machine.network", "the network", wanted.network, record.network))
        if wanted.ssh_port and state is MachineState.RUNNING:  # one that does not run is given the port when it starts
            rows.append(Row("machine.ssh_port", "the SSH port", str(wanted.ssh_port), str(record.port)))
        if record.made_of:
            today = ingredients.ingredients(distro, settings)
            rows += [Row(key, key, value, record.made_of.get(key)) for key, value in today.items() if value != "auto"]
        found = differences.compared(settings, self.name, rows)
        if record.made_of:
            found += differences.under_test(settings, self.name, today, record.made_of, self._needs)
        image = None
        with contextlib.suppress(DamagedImage):  # nothing is known of it then; what needs it says so
            image = golden.exactly(settings.home, record.image)
        if image and not any(
            difference.what in ("the platform", "the release", "the architecture") for difference in found
        ):
            lacks = [step for step in ingredients.required(settings, self._needs) if step not in image.steps]
            found += differences.lacking(settings, self.name, lacks, self._needs)
            if record.maker and record.maker != ingredients.maker(distro, image.steps):
                found.append(differences.older(self.name))
        return found

    def update(self, distro: Distro) -> None:
        """Nothing: what its image lacks, a new machine has (see differences)."""

    def destroy(self) -> None:
        self._remove_directory()

    def _existing(self) -> _Record:
        record = self.record()
        if record is None or not record.ready:
            raise MachineError(f"machine {self.name} does not exist", hint="./lab up")
        return record

    def _image(self, record: LocalRecord) -> Image:
        """The image that the machine's disk stands on."""
        image = golden.exactly(self._settings.home, record.image)
        if image is None:
            raise MachineError(
                f"the image {record.image} of machine {self.name} is gone from {self._settings.home.images}",
                hint="put it back if you can; else ./lab destroy the machine and ./lab up again",
            )
        return image

    def _way_on(self) -> str:
        return (
            f"./lab up --machine {self.name} --discard-state boots it again from its disk; ./lab reset makes it clean; "
            f"{console_end(self.directory)}"
        )

    def _save(self, record: _Record) -> None:
        self._save_record(asdict(record))


def _free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((ADDRESS, port))
        return True
    return False

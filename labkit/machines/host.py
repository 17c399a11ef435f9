"""The ssh provider: an existing host, bootstrapped and tested as it is."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import MachineError, UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.io.files import make_directory
from labkit.io.remote import Remote
from labkit.machines.base import MachineInfo, MachineState
from labkit.machines.record import RecordedMachine, load_record
from labkit.provision import bootstrap
from labkit.provision.bootstrap import Target
from labkit.provision.remote import provision


@dataclass(frozen=True, slots=True)
class HostRecord:
    platform: str
    release: str
    host: str
    port: int
    user: str
    key: str
    plan: str = ""
    ready: bool = False
    provider: str = "ssh"


class HostMachine(RecordedMachine):
    """A host of the user's own; labkit bootstraps it and runs suites on it, but cannot make or reset it."""

    def __init__(self, name: str, settings: Settings, observer: Observer, needs: tuple[str, ...] = ()) -> None:
        super().__init__(name, settings, observer)
        self._needs = needs

    def record(self) -> HostRecord | None:
        return load_record(HostRecord, self.directory)

    def status(self) -> MachineInfo:
        record = self.record()
        if record is None:
            state = MachineState.INTERRUPTED if self.directory.exists() else MachineState.ABSENT
            return MachineInfo(self.name, "", "", "ssh", state)
        state = MachineState.RUNNING if record.ready else MachineState.INTERRUPTED
        return MachineInfo(
            self.name, record.platform, record.release, "ssh", state, record.host, record.port, record.user
        )

    def console(self) -> Path | None:
        return None

    def endpoint(self) -> Endpoint:
        record = self.record()
        if record is None:
            raise MachineError(f"machine {self.name} is not known", hint="./lab up --provider ssh --host USER@HOST")
        return Endpoint(record.host, record.port, record.user, Path(record.key), self.directory / "known_hosts")

    def connect(self, deadline: Deadline) -> Remote:
        return self._connect(self.endpoint(), deadline)

    def create(self, distro: Distro) -> None:
        """Add the host to the lab and run the bootstrap on it."""
        wanted = self._settings.ssh
        if wanted.host is None:
            raise UsageError("the ssh provider needs a host", hint="--host USER@HOST, or host in [ssh] of labkit.toml")
        if wanted.key is None or wanted.known_hosts is None:
            raise UsageError(
                "the ssh provider needs a private key to log in with, and a known_hosts file with the host's key",
                hint="set key and known_hosts in [ssh] of labkit.toml; ssh-keyscan HOST prints the host's key: "
                "compare it with the host's own /etc/ssh/ssh_host_ed25519_key.pub",
            )
        for path in (wanted.key, wanted.known_hosts):
            if not path.is_file():
                raise UsageError(f"[ssh]: the file {path} does not exist")
        user, at, rest = wanted.host.rpartition("@")
        host, _, port = (
            rest.removesuffix("]").rpartition(":") if not rest.endswith("]") and ":" in rest else (rest, "", "22")
        )
        make_directory(self.directory, mode=0o700)
        shutil.copyfile(wanted.known_hosts, self.directory / "known_hosts")
        record = HostRecord(
            distro.platform.name,
            distro.release.name,
            host.strip("[]"),
            int(port),
            user if at else "root",
            str(wanted.key),
        )
        self._save_record(asdict(record))
        self._bootstrap(record, distro)

    def outdated(self, distro: Distro) -> str | None:
        record = self.record()
        if record is None:
            return None
        if (record.platform, record.release) != (distro.platform.name, distro.release.name):
            return f"is {record.platform} {record.release}"
        return None

    def update(self, distro: Distro) -> None:
        """Run the bootstrap again where it has changed."""
        if record := self.record():
            self._bootstrap(record, distro)

    def start(self, *, discard_state: bool = False) -> None:
        with self.connect(Deadline.after(self._settings.limits.connect)):
            pass

    def destroy(self) -> None:
        """Forget the host; what the bootstrap installed on it stays."""
        self._remove_directory()

    def _bootstrap(self, record: HostRecord, distro: Distro) -> None:
        plan = bootstrap.prepare(distro, Target.HOST, self._settings, self._needs)
        if plan.key == record.plan:
            return
        limits = self._settings.limits
        with self.connect(Deadline.after(limits.connect)) as remote:
            provision(remote, plan, self._observer, timeout=limits.build)
        self._save_record(asdict(dataclasses.replace(record, plan=plan.key, ready=True)))

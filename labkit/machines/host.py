"""The ssh provider: a host that is there already, bootstrapped and tested as it is."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit import bootstrap
from labkit.bootstrap import Kind
from labkit.config import Settings
from labkit.deadline import Deadline
from labkit.endpoint import Endpoint
from labkit.errors import UsageError
from labkit.files import make_folder
from labkit.machines import MachineInfo, State
from labkit.machines.kept import Kept, read_record
from labkit.observer import Observer
from labkit.platforms import Platform, Release
from labkit.provision import provision
from labkit.ssh import Remote


@dataclass(frozen=True, slots=True)
class Record:
    platform: str
    release: str
    host: str
    port: int
    user: str
    key: str
    plan: str = ""
    ready: bool = False
    provider: str = "ssh"


class HostMachine(Kept):
    """A host of the person's own; labkit bootstraps it and runs suites on it, and can neither make nor reset it."""

    def __init__(self, name: str, settings: Settings, observer: Observer, needs: tuple[str, ...] = ()) -> None:
        super().__init__(name, settings, observer)
        self._needs = needs

    def record(self) -> Record | None:
        try:
            return Record(**read_record(self.folder))
        except TypeError:
            return None

    def status(self) -> MachineInfo:
        record = self.record()
        if record is None:
            state = State.INTERRUPTED if self.folder.exists() else State.ABSENT
            return MachineInfo(self.name, "", "", "ssh", state)
        state = State.RUNNING if record.ready else State.INTERRUPTED
        return MachineInfo(
            self.name, record.platform, record.release, "ssh", state, record.host, record.port, record.user
        )

    def console(self) -> Path | None:
        return None

    def endpoint(self) -> Endpoint:
        record = self.record()
        if record is None:
            raise UsageError(f"machine {self.name} is not known", hint="./lab up --provider ssh --host USER@HOST")
        return Endpoint(record.host, record.port, record.user, Path(record.key), self.folder / "known_hosts")

    def connect(self, deadline: Deadline) -> Remote:
        return Remote(self.endpoint(), deadline)

    def create(self, platform: Platform, release: Release) -> None:
        """Take the host as a machine of the lab and run the bootstrap on it."""
        wanted = self._settings.ssh
        if wanted.host is None:
            raise UsageError("the ssh provider needs a host", hint="--host USER@HOST, or host in [ssh] of labkit.toml")
        if wanted.key is None or wanted.known_hosts is None:
            raise UsageError(
                "the ssh provider needs the private key to log in with, and a file with the host's own key",
                hint="set key and known_hosts in [ssh] of labkit.toml; ssh-keyscan HOST prints the host's key: "
                "compare it with the host's own /etc/ssh/ssh_host_ed25519_key.pub",
            )
        for path in (wanted.key, wanted.known_hosts):
            if not path.is_file():
                raise UsageError(f"[ssh]: there is no file {path}")
        user, at, rest = wanted.host.rpartition("@")
        host, _, port = (
            rest.removesuffix("]").rpartition(":") if not rest.endswith("]") and ":" in rest else (rest, "", "22")
        )
        make_folder(self.folder)
        shutil.copyfile(wanted.known_hosts, self.folder / "known_hosts")
        record = Record(
            platform.name, release.name, host.strip("[]"), int(port), user if at else "root", str(wanted.key)
        )
        self._save_record(asdict(record))
        self._bootstrap(record, platform, release)

    def outdated(self, platform: Platform, release: Release) -> str | None:
        record = self.record()
        if record is None:
            return None
        if (record.platform, record.release) != (platform.name, release.name):
            return f"is {record.platform} {record.release}"
        return None

    def update(self, platform: Platform, release: Release) -> None:
        """Run the bootstrap again where it has changed."""
        if record := self.record():
            self._bootstrap(record, platform, release)

    def start(self) -> None:
        with self.connect(Deadline.after(self._settings.limits.connect)):
            pass

    def restore(self) -> None:
        raise UsageError(
            f"machine {self.name} is a host of your own: labkit cannot reset it",
            hint="a machine of another provider can be",
        )

    def halt(self) -> None:
        raise UsageError(f"machine {self.name} is a host of your own: labkit does not stop it")

    def destroy(self) -> None:
        """Forget the host; what the bootstrap put on it stays there."""
        self._remove_folder()

    def _bootstrap(self, record: Record, platform: Platform, release: Release) -> None:
        plan = bootstrap.prepare(platform, release, Kind.HOST, self._settings, self._needs)
        if plan.key == record.plan:
            return
        limits = self._settings.limits
        with self.connect(Deadline.after(limits.connect)) as remote:
            provision(remote, plan, self._observer, timeout=limits.build)
        self._save_record(asdict(dataclasses.replace(record, plan=plan.key, ready=True)))

"""The ssh provider: an existing host, tested as it is.

It has an owner, so nothing is done there that was not asked for: a suite is given what it cannot do without, and the
whole bootstrap is a step of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit.core import platforms
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Address, Endpoint
from labkit.core.errors import MachineError, UsageError
from labkit.core.platforms import Distro
from labkit.io.files import make_directory
from labkit.io.remote import Remote
from labkit.machines import differences
from labkit.machines.base import Difference, MachineInfo, MachineState
from labkit.machines.differences import Row
from labkit.machines.record import RecordedMachine, load_record
from labkit.provision import bootstrap
from labkit.provision.bootstrap import BootstrapPlan, Target
from labkit.provision.remote import provision

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
_LACKING = """PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
for name in "$@"; do command -v "$name" >/dev/null || echo "$name"; done
"""
_ASK = 30.0  # seconds for a host to say what it has


@dataclass(frozen=True, slots=True)
class HostRecord:
    """plan is the key of the whole bootstrap that has run there; ready: labkit has been logged in."""

    platform: str
    release: str
    host: str
    port: int
    user: str
    key: str
    plan: str = ""
    ready: bool = False
    provider: str = "ssh"

    @property
    def address(self) -> Address:
        return Address(self.user, self.host, self.port)


class HostMachine(RecordedMachine):
    """A host of the user's own; labkit runs suites on it, and its bootstrap, but cannot make or reset it."""

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
        """Add the host to the lab: log in, and see that it is the system that was asked for."""
        address, key, known_hosts = self._wanted()
        make_directory(self.directory, mode=0o700)
        shutil.copyfile(known_hosts, self.directory / "known_hosts")
        record = HostRecord(
            distro.platform.name, distro.release.name, address.host, address.port, address.user, str(key)
        )
        self._save_record(asdict(record))
        try:
            with self.connect(Deadline.after(self._settings.limits.connect, "connect")) as remote:
                record = self._seen(record, remote, distro)
        except BaseException:
            self._remove_directory()  # nothing was done there
            raise
        self._save_record(asdict(dataclasses.replace(record, ready=True)))

    def differences(self, distro: Distro) -> Sequence[Difference]:
        record, settings = self.record(), self._settings
        if record is None:
            return []
        rows = [
            *differences.provider(settings, record.provider),
            *differences.system(settings, distro, record.platform, record.release),
        ]
        if settings.ssh.host and settings.provider in ("auto", "ssh"):
            asked, has = str(Address.parse(settings.ssh.host)), str(record.address)
            rows.append(Row("ssh.host", "the host", asked.lower(), has.lower(), f"--host {has}"))
            rows.append(Row("ssh.key", "the key to log in with", str(settings.ssh.key), record.key))
        return differences.compared(settings, self.name, rows)

    def not_brought(self, distro: Distro) -> Sequence[Difference]:
        record, settings, found = self.record(), self._settings, []
        asked = {tool.replace("-", "_"): str(source) for tool, source in settings.sources().items()}
        asked = {key: value for key, value in asked.items() if value != "auto" and settings.origin(key)}
        if settings.tools and settings.origin("tools"):
            asked["tools"] = " ".join(settings.tools)
        if asked and record and record.plan != self._plan(distro).key:
            remedy = f"./lab up --machine {self.name} brings it there, with the whole bootstrap"
            for key, value in asked.items():
                who = differences.by(key, settings.origin(key) or "")
                found.append(Difference(key, value, "what the host has", who, remedy))
        return found

    def start(self, *, discard_state: bool = False) -> None:
        with self.connect(Deadline.after(self._settings.limits.connect, "connect")):
            pass

    def update(self, distro: Distro) -> None:
        """Nothing: see bootstrap() and provide()."""

    def destroy(self) -> None:
        """Forget the host; what the bootstrap installed on it stays."""
        self._remove_directory()

    # -- what is changed there ------------------------------------------------------------------------------------

    def pending(self, distro: Distro) -> Sequence[str]:
        record, plan = self.record(), self._plan(distro)
        if record and record.plan == plan.key:
            return []
        purposes = {step.name: step.purpose for step in bootstrap.steps()}
        return [f"{name}: {purposes[name]}" for name in plan.steps]

    def bootstrap(self, distro: Distro) -> None:
        record, plan = self.record(), self._plan(distro)
        if record and record.plan != plan.key:
            with self.connect(Deadline.after(self._settings.limits.connect, "connect")) as remote:
                provision(remote, plan, self._observer, timeout=self._settings.limits.build)
            self._save_record(asdict(dataclasses.replace(record, plan=plan.key)))

    def provide(self, distro: Distro, programs: Mapping[str, str]) -> None:
        limits = self._settings.limits
        with self.connect(Deadline.after(limits.connect, "connect")) as remote:
            answer = remote.run(["sh", "-c", _LACKING, "sh", *programs], timeout=_ASK)
            missing = [name for name in answer.stdout.split() if name in programs]
            known = {step.name for step in bootstrap.steps()}
            brought = [programs[name] for name in missing if programs[name] in known]
            steps = list(dict.fromkeys((*self._needs, *brought)))
            if not steps:
                return
            plan = bootstrap.prepare(self._own(distro), Target.HOST, self._settings, steps, alone=True)
            if missing:
                self._observer.step(f"{self.name} lacks {', '.join(missing)}; installing that and nothing else")
            provision(remote, plan, self._observer, timeout=limits.build)

    def _plan(self, distro: Distro) -> BootstrapPlan:
        return bootstrap.prepare(self._own(distro), Target.HOST, self._settings)

    def _own(self, distro: Distro) -> Distro:
        """The release that the host is, whatever the settings take it for. UsageError where labkit does not know it."""
        record = self.record()
        if record is None or (record.platform, record.release) == (distro.platform.name, distro.release.name):
            return distro
        try:
            return self._known(record.platform, record.release)
        except UsageError as error:
            what = f"{record.platform} {record.release}".rstrip()
            raise UsageError(
                f"labkit knows no packages for {what}, which {self.name} is: {error.message}",
                hint="install what the suite needs yourself (python3, a static busybox, the runtime); "
                f"or ./lab destroy --machine {self.name}, and say with --platform and --release what it is like",
            ) from error

    def _known(self, platform: str, release: str) -> Distro:
        loaded = platforms.load(platform, platforms.directories(self._settings.platforms))
        return Distro(loaded, loaded.release(release))

    def _release(self, platform: str, said: str) -> str:
        """What labkit calls the release that a host says it is: some have one file for all of a 9 (AlmaLinux 9.6)."""
        try:
            self._known(platform, said)
        except UsageError:
            with contextlib.suppress(UsageError):
                return self._known(platform, said.partition(".")[0]).release.name
        return said

    def _wanted(self) -> tuple[Address, Path, Path]:
        """The address, the key and the known hosts that the settings name. UsageError where one of them is missing."""
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
        return Address.parse(wanted.host), wanted.key, wanted.known_hosts

    def _seen(self, record: HostRecord, remote: Remote, distro: Distro) -> HostRecord:
        """The record with the system that the host says it is. UsageError where another one was asked for."""
        script = '. /etc/os-release && printf "%s\\n%s\\n" "$ID" "${VERSION_ID-}"'
        answer = remote.run(["sh", "-c", script], timeout=_ASK, keep=4096)
        said = answer.stdout.split("\n")
        if answer.status or len(said) < 2 or not _NAME.fullmatch(said[0]):
            return record  # it does not say
        platform, release = said[0], said[1] if _NAME.fullmatch(said[1]) else ""
        release = self._release(platform, release)
        try:
            self._known(platform, release)
        except UsageError:
            if self._settings.origin("platform") or self._settings.origin("release"):
                return record  # a system that is like another one
        rows = list(differences.system(self._settings, distro, platform, release))
        if found := differences.compared(self._settings, self.name, rows):
            raise UsageError(
                f"the host {record.address} is not what was asked for: {found[0]}",
                hint=f"leave out what it is asked to be, or name another host; it is {platform} {release}".rstrip(),
            )
        return dataclasses.replace(record, platform=platform, release=release)

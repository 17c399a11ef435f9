"""What this host has and lacks for labkit, and how to get it. The names of programs and packages are in doctor.toml."""

from __future__ import annotations

import contextlib
import enum
import os
import platform
import pwd
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from labkit import platforms, process, tomlfile
from labkit.config import Settings
from labkit.errors import HostError, LabError
from labkit.machines.accelerator import probe_kvm
from labkit.observer import Observer
from labkit.platforms import VagrantProvider
from labkit.tomlfile import Table

_DATA = Path(__file__).with_name("doctor.toml")
_VERSION_BOUND = 20.0  # seconds; Vagrant starts a Ruby with all its plugins
_VAGRANT_LEAST = (2, 2)
_DISK_LEAST = 2048  # MiB to build one image
_DISK_WISHED = 8192  # MiB for a few images with their live states, and reports

Packages = dict[str, tuple[str, ...]]  # by package manager


class _Manager(Table):
    systems: tuple[str, ...]
    refresh: tuple[str, ...] = ()
    install: tuple[str, ...]


class _Program(Table):
    needed_for: str
    purpose: Literal["always", "build", "option"] = Field(alias="for")
    version: tuple[str, ...] = ()
    packages: Packages = Field(default={})
    instead: str = ""  # what to do where nothing packages it


class _VagrantProvider(Table):
    """probe: a command that succeeds where the provider can be used; plugin: what Vagrant needs for it, if anything."""

    probe: tuple[str, ...]
    plugin: str | None = None


class _Keyring(Table):
    files: str
    packages: Packages


class _Namespaces(Table):
    packages: Packages


class _Data(Table):
    managers: dict[str, _Manager]
    programs: dict[str, _Program]
    vagrant: dict[VagrantProvider, _VagrantProvider]
    keyring: _Keyring
    namespaces: _Namespaces


class State(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, with a drawback
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. found is a version, a place, or what is wrong; packages is what would bring it on this
    host; required says that the default provider cannot work without it under these settings.
    """

    name: str
    state: State
    found: str
    needed_for: str
    packages: tuple[str, ...] = ()
    required: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Host:
    """The package manager of this system; None where it is not one that doctor.toml knows."""

    name: str | None
    manager: _Manager | None

    def packages(self, by_manager: Packages) -> tuple[str, ...]:
        return by_manager.get(self.name or "", ())

    def commands(self, wanted: Iterable[Check]) -> list[list[str]]:
        """The commands that install what brings these, for root to run."""
        if self.manager is None:
            return []
        packages = sorted({package for check in wanted for package in check.packages})
        return [list(argv) for argv in (self.manager.refresh, (*self.manager.install, *packages)) if argv]


def examine(settings: Settings) -> list[Check]:
    """Look at this host as these settings need it. Writes nothing but the memory of whether KVM works, in home."""
    data = _data()
    host = _host(data)
    release = platforms.load(settings.platform, platforms.folders(settings.platforms)).release(settings.release)
    suite = release.build.suite if release.build and settings.image != "cloud" else None
    checks = [_program(name, program, host, building=suite is not None) for name, program in data.programs.items()]
    checks.append(_vagrant())
    if suite is not None:
        checks += [_keyring(data.keyring, suite, host), _namespaces(data.namespaces, host)]
    return [*checks, _kvm(settings), _disk(settings.home), _memory(settings.machine.memory)]


def lacking(checks: Iterable[Check]) -> list[Check]:
    """Return what must be had and is not."""
    return [check for check in checks if check.required and check.state is State.MISSING]


def cure(settings: Settings, observer: Observer) -> tuple[list[Check], LabError | None]:
    """Examine; install what is lacking where that is allowed; return the checks as they then are, and what stands in
    the way of the default provider, None if nothing does.
    """
    checks = examine(settings)
    if not lacking(checks):
        return checks, None
    try:
        fix(settings, checks, observer)
    except LabError as error:
        return checks, error
    checks = examine(settings)
    return checks, _refusal(lacking(checks), _host(_data())) if lacking(checks) else None


def fix(settings: Settings, checks: Iterable[Check], observer: Observer) -> None:
    """Install what is lacking, as root or where settings.yes says so; HostError otherwise, with the command to type,
    and where no package of this system brings it.
    """
    wanted = lacking(checks)
    if not wanted:
        return
    host, root = _host(_data()), os.geteuid() == 0
    if not (root or settings.yes) or not all(check.packages for check in wanted):
        raise _refusal(wanted, host)
    for argv in host.commands(wanted):
        argv = argv if root else ["sudo", "-n", *argv]
        observer.step(shlex.join(argv))
        process.run(argv, timeout=settings.limits.download, on_line=observer.detail)


def _refusal(wanted: Sequence[Check], host: Host) -> HostError:
    message = "this host lacks " + ", ".join(f"{check.name} (needed for {check.needed_for})" for check in wanted)
    hints = [f"{check.name}: {check.found}" for check in wanted if not check.packages]
    if packaged := [check for check in wanted if check.packages]:
        typed = " && ".join(f"sudo {shlex.join(argv)}" for argv in host.commands(packaged))
        hints += [f"run: {typed}", "or let labkit do it: ./lab doctor --yes"]
    return HostError(message, hint="\n".join(hints))


def ensure(settings: Settings, names: Iterable[str], observer: Observer) -> None:
    """Make sure that the programs of these names (in doctor.toml) are here, as fix() does."""
    absent = [name for name in names if process.which(name) is None]
    if not absent:
        return
    data = _data()
    host = _host(data)
    checks = [_program(name, data.programs[name], host, building=True) for name in absent]
    fix(settings, [replace(check, required=True) for check in checks], observer)
    for name in absent:
        if process.which(name) is None:
            raise HostError(f"{name} is still missing after its packages were installed", hint="run: ./lab doctor")


def _data() -> _Data:
    return tomlfile.check(_Data, tomlfile.read(_DATA), lambda _: str(_DATA))


def _host(data: _Data) -> Host:
    try:
        release: Mapping[str, str] = platform.freedesktop_os_release()
    except OSError:
        release = {}
    for system in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        for name, manager in data.managers.items():
            # openSUSE calls itself opensuse-leap, opensuse-tumbleweed, ...
            if system in manager.systems or system.partition("-")[0] in manager.systems:
                return Host(name, manager)
    return Host(None, None)


def _program(name: str, program: _Program, host: Host, *, building: bool) -> Check:
    required = program.purpose == "always" or (program.purpose == "build" and building)
    path = process.which(name)
    if path is not None:
        return Check(name, State.OK, _version(path, program.version), program.needed_for, required=required)
    packages = host.packages(program.packages)
    found = "not installed" if packages else "not installed, and no known package of this system brings it"
    if program.instead and not packages:
        found += f"; {program.instead}"
    return Check(name, State.MISSING, found, program.needed_for, packages, required)


def _version(path: Path, words: Sequence[str]) -> str:
    if not words:
        return str(path)
    try:
        done = process.run([path, *words], timeout=_VERSION_BOUND, check=False)
    except LabError as error:
        return f"{path} ({error.message})"
    return next(iter((done.stdout or done.stderr).strip().splitlines()), str(path))


def vagrant_providers() -> tuple[list[VagrantProvider], str]:
    """What the Vagrant of this host can make machines with, best first; where that is nothing, the text says why."""
    if process.which("vagrant") is None:
        return [], "Vagrant is not installed"
    needs = _data().vagrant
    try:
        # Ruby takes a second or so for each of these.
        said = process.run(["vagrant", "--version"], timeout=_VERSION_BOUND, check=False).stdout.strip()
        version = re.search(r"Vagrant (\d+)\.(\d+)", said)
        if version is None or (int(version[1]), int(version[2])) < _VAGRANT_LEAST:
            return [], f"Vagrant 2.2 or newer is needed, and this one says {said[:80]!r}"
        possible = [name for name in VagrantProvider if name in needs and _runs(needs[name].probe)]
        plugins: list[str] = []
        if any(needs[name].plugin for name in possible):
            plugins = process.run(["vagrant", "plugin", "list"], timeout=_VERSION_BOUND, check=False).stdout.split()
    except LabError as error:
        return [], error.message
    usable = [name for name in possible if needs[name].plugin in (None, *plugins)]
    return usable, "" if usable else f"Vagrant works here with none of {', '.join(needs)}"


def _runs(argv: Sequence[str]) -> bool:
    try:
        return process.run(argv, timeout=_VERSION_BOUND, check=False).status == 0
    except LabError:
        return False


def _vagrant() -> Check:
    usable, why = vagrant_providers()
    found = ", ".join(usable) or why
    return Check("vagrant providers", State.OK if usable else State.MISSING, found, "machines made by Vagrant")


def _keyring(data: _Keyring, suite: str, host: Host) -> Check:
    name, needed_for = "debian keyring", f"verifying Debian {suite} while building images"
    pattern = Path(data.files)
    files = sorted(pattern.parent.glob(pattern.name))
    if not files:
        found = f"no {data.files}"
        return Check(name, State.MISSING, found, needed_for, host.packages(data.packages), required=True)
    # A key's user id stands in the file as it is read: "Debian Archive Automatic Signing Key (13/trixie) <...>".
    holder = next((file for file in files if f"/{suite})".encode() in file.read_bytes()), None)
    if holder is None:
        # A release is signed with the key of the one before it too, so this often still works.
        found = f"older than {suite}: none of its keys in {data.files}"
        return Check(name, State.WARNING, found, needed_for, host.packages(data.packages), required=True)
    return Check(name, State.OK, str(holder), needed_for, required=True)


def _namespaces(data: _Namespaces, host: Host) -> Check:
    name, needed_for = "user namespaces", "building images without root"
    if os.geteuid() == 0:
        return Check(name, State.OK, "not needed by root", needed_for)
    packages = host.packages(data.packages)
    if process.which("newuidmap") is None:
        return Check(name, State.MISSING, "newuidmap is not installed", needed_for, packages, required=True)
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a number without an account, as containers have it
        user = str(os.getuid())
    ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = file.read_text().splitlines() if file.exists() else []
        if not any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
            found = f"{file} has no line for {user}; run: sudo usermod {ranges} {user}"
            return Check(name, State.MISSING, found, needed_for, required=True)
    try:
        done = process.run(["unshare", "--user", "--map-root-user", "true"], timeout=_VERSION_BOUND, check=False)
        refused = done.stderr.strip() if done.status else None
    except LabError as error:
        refused = error.message
    if refused is None:
        return Check(name, State.OK, "work", needed_for, required=True)
    found = f"forbidden on this host ({refused}); run labkit as root, or allow them with sysctl"
    return Check(name, State.MISSING, found, needed_for, required=True)


def _kvm(settings: Settings) -> Check:
    name, needed_for = "kvm", "machines at full speed"
    demanded = settings.machine.accelerator == "kvm"
    try:
        reason = probe_kvm(settings.home)
    except LabError as error:
        reason = f"not tried: {error.message}"
    if reason is None:
        return Check(name, State.OK, "a guest ran", needed_for, required=demanded)
    if demanded:
        return Check(name, State.MISSING, reason, needed_for, required=True)
    return Check(name, State.WARNING, f"{reason}; machines are emulated, which is slower", needed_for)


def _disk(home: Path) -> Check:
    name, needed_for = "disk", f"images and machines in {home}"
    place = next(folder for folder in (home, *home.parents) if os.access(folder, os.F_OK))
    free = shutil.disk_usage(place).free >> 20
    if not os.access(place, os.W_OK) or not place.is_dir():
        return Check(name, State.MISSING, f"{place} cannot be written", needed_for, required=True)
    state = State.MISSING if free < _DISK_LEAST else State.WARNING if free < _DISK_WISHED else State.OK
    return Check(name, state, f"{free} MiB free, {_DISK_WISHED} wished", needed_for, required=True)


def _memory(machine: int) -> Check:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    with contextlib.suppress(OSError, StopIteration):  # counts caches that can be given up, which sysconf does not
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable:"))
    state = State.OK if available >= machine else State.WARNING
    return Check("memory", state, f"{available} MiB available, a machine has {machine}", "running machines")

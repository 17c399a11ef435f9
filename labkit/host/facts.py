"""Facts of this host: what it has and lacks for labkit. The names of programs and packages are in host.toml."""

from __future__ import annotations

import contextlib
import enum
import os
import platform
import pwd
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from labkit.core import arch as arches
from labkit.core import tomlfile
from labkit.core.arch import Arch
from labkit.core.config import Settings
from labkit.core.errors import LabError
from labkit.core.platforms import VagrantProvider
from labkit.core.tomlfile import Table
from labkit.io import process
from labkit.qemu.accelerator import probe_kvm
from labkit.uml.kernel import kept as kept_kernel
from labkit.uml.launch import probe as probe_uml

_DATA = Path(__file__).with_name("host.toml")
_VERSION_TIMEOUT = 20.0  # seconds; Vagrant starts a Ruby with all its plugins
_PROVIDER_TIMEOUT = 90.0  # a libvirtd that has just started tries every QEMU, for half a minute where KVM hangs
_VAGRANT_LEAST = (2, 2)
_DISK_LEAST = 2048  # MiB to build one image
_DISK_RECOMMENDED = 8192  # MiB for a few images with their live states, and reports

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
    instead: str = ""  # what to do where no package has it
    arch: Arch | None = None  # that of the machines that need it, where others do not
    foreign: bool = False  # needed only where that is not this host's


class _VagrantProvider(Table):
    """probe: a command that succeeds where the provider can be used; plugin: what Vagrant needs for it, if anything."""

    probe: tuple[str, ...]
    plugin: str | None = None


class _Keyring(Table):
    files: str
    packages: Packages


class _Namespaces(Table):
    packages: Packages


class CheckProgram(Table):
    """What labkit's own tests need: a program, or the file that stands for it."""

    extent: Literal["fast", "normal", "long"]
    file: str | None = None
    packages: Packages


class HostData(Table):
    managers: dict[str, _Manager]
    programs: dict[str, _Program]
    vagrant: dict[VagrantProvider, _VagrantProvider]
    keyring: _Keyring
    namespaces: _Namespaces
    check: dict[str, CheckProgram]


class FactState(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, with a drawback
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing examined. found is a version, a path, or what is wrong; packages would install it on this host;
    required says that the default provider cannot work without it under these settings.
    """

    name: str
    state: FactState
    found: str
    needed_for: str
    packages: tuple[str, ...] = ()
    required: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PackageManager:
    """The package manager of this system; None where host.toml does not know it."""

    name: str | None
    manager: _Manager | None

    def packages(self, by_manager: Packages) -> tuple[str, ...]:
        return by_manager.get(self.name or "", ())

    def commands(self, packages: Iterable[str]) -> list[list[str]]:
        """The commands that install these packages, for root to run."""
        names = sorted(set(packages))
        if self.manager is None or not names:
            return []
        return [list(argv) for argv in (self.manager.refresh, (*self.manager.install, *names)) if argv]


def package_manager(data: HostData) -> PackageManager:
    try:
        release: Mapping[str, str] = platform.freedesktop_os_release()
    except OSError:
        release = {}
    for system in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        for name, manager in data.managers.items():
            # openSUSE calls itself opensuse-leap, opensuse-tumbleweed, ...
            if system in manager.systems or system.partition("-")[0] in manager.systems:
                return PackageManager(name, manager)
    return PackageManager(None, None)


def examine(settings: Settings) -> list[Fact]:
    """Examine this host for what these settings need. Writes nothing but whether KVM works, in home."""
    data = read_data()
    host = package_manager(data)
    distro = settings.distro()
    suite = distro.build.suite if distro.build and settings.image != "cloud" else None
    foreign = distro.arch is not arches.here()
    programs = {
        name: program
        for name, program in data.programs.items()
        if program.arch in (None, distro.arch) and (foreign or not program.foreign)
    }
    facts = [program_fact(name, program, host, building=suite is not None) for name, program in programs.items()]
    facts.append(_vagrant())
    if suite is not None:
        facts += [_keyring(data.keyring, suite, host), _namespaces(data.namespaces, host)]
    return [*facts, _kvm(settings), _uml(settings), _disk(settings.home.path), _memory(settings.machine.memory)]


def lacking(facts: Iterable[Fact]) -> list[Fact]:
    """Return the required facts that are missing."""
    return [check for check in facts if check.required and check.state is FactState.MISSING]


def read_data() -> HostData:
    return tomlfile.check(HostData, tomlfile.read(_DATA), lambda _: str(_DATA))


def program_fact(name: str, program: _Program, host: PackageManager, *, building: bool) -> Fact:
    required = program.purpose == "always" or (program.purpose == "build" and building)
    path = process.which(name)
    if path is not None:
        return Fact(name, FactState.OK, _version(path, program.version), program.needed_for, required=required)
    packages = host.packages(program.packages)
    found = "not installed" if packages else "not installed, and labkit knows no package of it for this system"
    if program.instead and not packages:
        found += f"; {program.instead}"
    return Fact(name, FactState.MISSING, found, program.needed_for, packages, required)


def _version(path: Path, words: Sequence[str]) -> str:
    if not words:
        return str(path)
    try:
        done = process.run([path, *words], timeout=_VERSION_TIMEOUT, check=False)
    except LabError as error:
        return f"{path} ({error.message})"
    return next(iter((done.stdout or done.stderr).strip().splitlines()), str(path))


def vagrant_providers() -> tuple[list[VagrantProvider], str]:
    """The Vagrant providers that work on this host, best first; if there is none, the text says why."""
    if process.which("vagrant") is None:
        return [], "Vagrant is not installed"
    needs = read_data().vagrant
    try:
        # Ruby takes a second or so for each of these.
        printed = _asked(["vagrant", "--version"]).stdout.strip()
        version = re.search(r"Vagrant (\d+)\.(\d+)", printed)
        if version is None or (int(version[1]), int(version[2])) < _VAGRANT_LEAST:
            return [], f"Vagrant 2.2 or newer is needed; `vagrant --version` printed {printed[:80]!r}"
        possible = [name for name in VagrantProvider if name in needs and _runs(needs[name].probe)]
        plugins: list[str] = []
        if any(needs[name].plugin for name in possible):
            plugins = _asked(["vagrant", "plugin", "list"]).stdout.split()
    except LabError as error:
        return [], error.message
    usable = [name for name in possible if needs[name].plugin in (None, *plugins)]
    return usable, "" if usable else f"no provider of Vagrant works here: tried {', '.join(needs)}"


def _runs(argv: Sequence[str]) -> bool:
    try:
        return _asked(argv).status == 0
    except LabError:
        return False


def _asked(argv: Sequence[str]) -> process.Completed:
    """What Vagrant, or a provider's tool, answers as the person has set it up."""
    return process.run(argv, timeout=_PROVIDER_TIMEOUT, passing=process.VAGRANT, check=False)


def _vagrant() -> Fact:
    usable, why = vagrant_providers()
    found = ", ".join(usable) or why
    return Fact("vagrant providers", FactState.OK if usable else FactState.MISSING, found, "machines made by Vagrant")


def _keyring(data: _Keyring, suite: str, host: PackageManager) -> Fact:
    name, needed_for = "debian keyring", f"verifying Debian {suite} while building images"
    pattern = Path(data.files)
    files = sorted(pattern.parent.glob(pattern.name))
    if not files:
        found = f"no {data.files}"
        return Fact(name, FactState.MISSING, found, needed_for, host.packages(data.packages), required=True)
    # A key's user id stands in the file as it is read: "Debian Archive Automatic Signing Key (13/trixie) <...>".
    holder = next((file for file in files if f"/{suite})".encode() in file.read_bytes()), None)
    if holder is None:
        # A release is signed with the key of the one before it too, so this often still works.
        found = f"older than {suite}: none of its keys in {data.files}"
        return Fact(name, FactState.WARNING, found, needed_for, host.packages(data.packages), required=True)
    return Fact(name, FactState.OK, str(holder), needed_for, required=True)


def _namespaces(data: _Namespaces, host: PackageManager) -> Fact:
    name, needed_for = "user namespaces", "building images without root"
    if os.geteuid() == 0:
        return Fact(name, FactState.OK, "not needed by root", needed_for)
    packages = host.packages(data.packages)
    if process.which("newuidmap") is None:
        return Fact(name, FactState.MISSING, "newuidmap is not installed", needed_for, packages, required=True)
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a number without an account, as containers have it
        user = str(os.getuid())
    ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = file.read_text().splitlines() if file.exists() else []
        if not any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
            found = f"{file} has no line for {user}; run: sudo usermod {ranges} {user}"
            return Fact(name, FactState.MISSING, found, needed_for, required=True)
    try:
        done = process.run(["unshare", "--user", "--map-root-user", "true"], timeout=_VERSION_TIMEOUT, check=False)
        refused = done.stderr.strip() if done.status else None
    except LabError as error:
        refused = error.message
    if refused is None:
        return Fact(name, FactState.OK, "work", needed_for, required=True)
    found = f"forbidden on this host ({refused}); run labkit as root, or allow them with sysctl"
    return Fact(name, FactState.MISSING, found, needed_for, required=True)


def _kvm(settings: Settings) -> Fact:
    name, needed_for = "kvm", "machines at full speed"
    demanded = settings.machine.accelerator == "kvm"
    other = settings.arch is not arches.here()
    try:
        reason = f"it runs no {settings.arch} guest here" if other else probe_kvm(settings.home)
    except LabError as error:
        reason = f"not tried: {error.message}"
    if reason is None:
        return Fact(name, FactState.OK, "a guest ran", needed_for, required=demanded)
    if demanded:
        return Fact(name, FactState.MISSING, reason, needed_for, required=True)
    return Fact(
        name, FactState.WARNING, f"{reason}; machines are User-Mode Linux where that works, else emulated", needed_for
    )


def _uml(settings: Settings) -> Fact:
    """Whether User-Mode Linux runs here. What has to be fetched first is not fetched for that."""
    name, needed_for = "user-mode linux", "machines in seconds where there is no KVM"
    demanded = settings.provider == "uml"
    try:
        kernel = kept_kernel(settings)
        reason = probe_uml(kernel, settings.home) if kernel else None
    except LabError as error:
        kernel, reason = None, error.message
    if reason is not None:
        found = f"{kernel} does not run: {reason}" if kernel else reason
        return Fact(name, FactState.MISSING if demanded else FactState.WARNING, found, needed_for, required=demanded)
    if kernel is None:
        return Fact(name, FactState.OK, "not tried yet: `up` fetches a kernel where it is needed", needed_for)
    if not kernel.seccomp:
        found = f"{kernel} runs, several times slower than one since 6.16, which has the seccomp mode"
        return Fact(name, FactState.WARNING, found, needed_for, required=demanded)
    return Fact(name, FactState.OK, f"{kernel}: a guest ran", needed_for, required=demanded)


def _disk(home: Path) -> Fact:
    name, needed_for = "disk", f"images and machines in {home}"
    place = next(directory for directory in (home, *home.parents) if os.access(directory, os.F_OK))
    free = shutil.disk_usage(place).free >> 20
    if not os.access(place, os.W_OK) or not place.is_dir():
        return Fact(name, FactState.MISSING, f"{place} cannot be written", needed_for, required=True)
    state = FactState.MISSING if free < _DISK_LEAST else FactState.WARNING if free < _DISK_RECOMMENDED else FactState.OK
    return Fact(name, state, f"{free} MiB free, {_DISK_RECOMMENDED} MiB recommended", needed_for, required=True)


def _memory(machine: int) -> Fact:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    with contextlib.suppress(OSError, StopIteration):  # counts caches that can be given up, which sysconf does not
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable:"))
    state = FactState.OK if available >= machine else FactState.WARNING
    return Fact("memory", state, f"{available} MiB available, a machine has {machine}", "running machines")

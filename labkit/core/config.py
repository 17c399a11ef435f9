"""The settings of one command: defaults < labkit.toml < environment < flags.

labkit.toml is the nearest one from the current directory upwards, or the file that LABKIT_CONFIG names. Every key
has one variable: LABKIT_ and the key in capitals, tables joined by _ (`machine.cpus`: LABKIT_MACHINE_CPUS). An
empty variable counts as not set. Paths are relative to the file that holds them, else to the current directory.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr, StrictStr, model_validator

from labkit.core import arch, platforms, sources, tomlfile
from labkit.core.arch import Arch
from labkit.core.cell import Cell
from labkit.core.errors import UsageError
from labkit.core.home import Home
from labkit.core.platforms import Distro
from labkit.core.sources import Source, SourceKind
from labkit.core.suggest import did_you_mean
from labkit.core.tomlfile import Key, Table
from labkit.core.trust import require_trusted

FILE = "labkit.toml"
_DEFAULT = "the default"

_NAME = "a name: a-z, 0-9, dots and dashes, at most 63, beginning with a letter or digit"
_UNITS = {"M": 1, "G": 1024}


def _mebibytes(text: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,9})([MG])", text)
    return int(found[1]) * _UNITS[found[2]] if found else None


def _size(least: str, most: str) -> BeforeValidator:
    """Turns text such as 2048M or 2G to MiB."""

    def convert(value: object) -> int:
        size = _mebibytes(value) if isinstance(value, str) else None
        if size is None or not (_mebibytes(least) or 0) <= size <= (_mebibytes(most) or 0):
            raise ValueError(f"is {value!r}, must be a size from {least} to {most}, such as 2048M or 2G")
        return size

    return BeforeValidator(convert)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"is {str(value).lower()}, must be a number")
    return value


def _home(value: object) -> Home:
    if not isinstance(value, Path):
        raise ValueError(f"is {value!r}, must be a path")
    return Home(value)


def _origin(value: object) -> object:
    """Turns text such as package or https://example.org/runc.git#v1.3.0 to a Source."""
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, must be {sources.FORMS}")
    return sources.parse(value)


def _arch(value: object) -> object:
    """Turns other names of an architecture, x86_64 and aarch64, to labkit's."""
    return (arch.known(value) or value) if isinstance(value, str) else value


def _tools(value: object) -> object:
    """Turns auto to None, and a list, or text as the environment has it, to names."""
    if isinstance(value, str):
        value = None if value == "auto" else re.split(r"[,\s]+", value.strip(", "))
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise ValueError(f'is {value!r}, must be auto or a list of tools, such as ["go", "docker"]')
    return value


Name = Annotated[StrictStr, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$", description=_NAME)]
Seconds = Annotated[
    float, BeforeValidator(_no_bool), Field(gt=0, le=86400, description="seconds: above 0, at most 86400 (a day)")
]
Whole = Annotated[int, BeforeValidator(_no_bool)]
Origin = Annotated[Source, BeforeValidator(_origin), Field(description=sources.FORMS)]
Sha256 = Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$", description="64 lower-case hex digits")]
Location = Annotated[Path, Field(description="a path")]


_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_ADDRESSES = 'mail addresses, such as ["me@example.org"]'
_SERVER = re.compile(
    r"((smtp|smtps|smtp\+plain)://)?([A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?/?"
)
_SERVERS = "a mail server: HOST, HOST:PORT, smtp://HOST (STARTTLS), smtps://HOST (TLS), smtp+plain://HOST (neither)"
_LINK = "the http(s) address of reports/ on the web, without a user in it"
_SECRET = "its value, env:VARIABLE or file:PATH"


def _addresses(value: object) -> object:
    """Turns text as the environment has it to a list; every mail address is plain ASCII."""
    if isinstance(value, str):
        value = re.split(r"[,\s]+", value.strip(", "))
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and _MAIL.fullmatch(one) for one in value):
        raise ValueError(f"is {value!r}, must be {_ADDRESSES}")
    return tuple(value)


def _server(value: object) -> object:
    # Somebody may have put a password into it, so no message shows the value.
    if value is not None and not (isinstance(value, str) and _SERVER.fullmatch(value)):
        raise ValueError(f"must be {_SERVERS}")
    return value


def _link(value: object) -> object:
    if value is not None and not (isinstance(value, str) and re.fullmatch(_WEB[1:-1], value) and "@" not in value):
        raise ValueError(f"must be {_LINK}")
    return value


def _secret(value: object) -> object:
    # No message shows the value.
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"must be text on one line: {_SECRET}")
    return SecretStr(value)


def _web_secret(value: object) -> object:
    found = _secret(value)
    if isinstance(found, SecretStr) and not re.match(r"(https?://[^\s/]|env:|file:)", found.get_secret_value()):
        raise ValueError("must be an http(s) address, or env:VARIABLE or file:PATH of a file that holds it")
    return found


def _secrets(value: object) -> object:
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of addresses as apprise has them, each one or env:VARIABLE or file:PATH")
    return tuple(_secret(one) for one in value)


_HOST = r"^([A-Za-z0-9_][A-Za-z0-9._-]*@)?([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$"
_WEB = r"""^https?://[^\s"'\\]+$"""


class MachineSettings(Table):
    """The virtual machine; memory and disk are in MiB here, written with a unit (2048M, 2G) in the file."""

    name: Name | None = None
    arch: Annotated[Literal["auto", "amd64", "arm64"], BeforeValidator(_arch)] = "auto"
    cpus: Whole = Field(default=2, ge=1, le=256, description="a whole number from 1 to 256")
    memory: Annotated[int, _size("256M", "1024G"), Field(description="a size from 256M to 1024G")] = 2048
    disk: Annotated[int, _size("2G", "16384G"), Field(description="a size from 2G to 16384G")] = 8192
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    network: Literal["auto", "open", "closed"] = "auto"
    init: Literal["auto", "small", "systemd"] = "auto"
    ssh_port: Whole = Field(default=0, ge=0, le=65535, description="a port from 1 to 65535, or 0 for any free one")


class Limits(Table):
    """How long each kind of thing may take, in seconds."""

    boot: Seconds = 300
    build: Seconds = 1800
    download: Seconds = 3600
    connect: Seconds = 30
    suite: Seconds = 1800


class VagrantSettings(Table):
    """home: Vagrant's directory (boxes, keys); by default one of labkit's own, so that the user's is not touched."""

    provider: Literal["auto", "libvirt", "virtualbox", "vmware_desktop", "parallels", "hyperv"] = "auto"
    home: Location | None = Field(default=None, description="a path")


class SshSettings(Table):
    """An existing host. known_hosts holds its key, in OpenSSH's format."""

    host: StrictStr | None = Field(
        default=None, pattern=_HOST, description="an address: HOST, USER@HOST or USER@HOST:PORT"
    )
    key: Location | None = Field(default=None, description="the path of a private key")
    known_hosts: Location | None = Field(default=None, description="the path of a file with the host's key")


def _hosts(value: object) -> object:
    """Turns HOST,HOST as a flag and the environment have it to a list."""
    if isinstance(value, str):
        value = re.split(r"[,\s]+", value.strip(", "))
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and re.match(_HOST, one) for one in value):
        raise ValueError(f'is {value!r}, must be a list of hosts, such as ["lab1", "root@lab2:2222"]')
    return tuple(value)


class ClusterSettings(Table):
    """Other hosts for the cells of a night. python and home are theirs."""

    on: Annotated[tuple[StrictStr, ...], BeforeValidator(_hosts)] = Field(default=(), description="a list of hosts")
    python: StrictStr | None = Field(default=None, min_length=1, description="the path of a Python that has labkit")
    home: StrictStr = Field(default="~/.local/share/labkit", pattern="^[~/]", description="a path, absolute or with ~/")
    scheduler: StrictStr | None = Field(
        default=None,
        pattern=r"^tls://[A-Za-z0-9.:\[\]-]+:[0-9]{1,5}$",
        description="tls://HOST:PORT: whoever reaches a scheduler without TLS runs what they like on all its hosts",
    )
    ca: Location | None = Field(default=None, description="the path of the cluster's certificates")
    cert: Location | None = Field(default=None, description="the path of a certificate")
    key: Location | None = Field(default=None, description="the path of its private key")


class MailSettings(Table):
    """Mail to people. The password is needed where the server wants one for the user."""

    to: Annotated[tuple[str, ...], BeforeValidator(_addresses), Field(description=_ADDRESSES)] = ()
    sender: StrictStr | None = Field(
        default=None, alias="from", pattern=f"^(?:{_MAIL.pattern})$", description="a mail address"
    )
    server: Annotated[str | None, BeforeValidator(_server), Field(description=_SERVERS)] = None
    user: StrictStr | None = Field(default=None, min_length=1, description="the name to log in with")
    password: Annotated[SecretStr, BeforeValidator(_secret)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> MailSettings:
        given = {"to": self.to, "from": self.sender, "server": self.server}
        missing = [name for name, value in given.items() if not value]
        if missing and (len(missing) < 3 or self.user or self.password):
            raise ValueError(f"lacks {' and '.join(missing)}: mail needs to, from and server")
        if (self.user is None) != (self.password is None):
            raise ValueError(
                f"has a {'password' if self.password else 'user'} without a {'user' if self.password else 'password'}"
            )
        if self.password and (self.server or "").startswith("smtp+plain:"):
            raise ValueError("has a password for smtp+plain://, which would send it in clear text")
        return self


class TellSettings(Table):
    """Whom a night tells what changed. after: nights that a failure has to last; stale: hours without a result."""

    mail: MailSettings = MailSettings()
    webhook: Annotated[SecretStr, BeforeValidator(_web_secret)] | None = None
    apprise: Annotated[tuple[SecretStr, ...], BeforeValidator(_secrets)] = ()
    after: Whole = Field(default=1, ge=1, le=365, description="a number of nights from 1 to 365")
    stale: Annotated[float, BeforeValidator(_no_bool)] = Field(
        default=48, gt=0, le=8784, description="hours: above 0, at most 8784 (a year)"
    )
    link: Annotated[str | None, BeforeValidator(_link), Field(description=_LINK)] = None


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept of nights: the newest so many, those of so many days, as much as fits in so many MiB; a night has to
    be within all that are given.
    """

    nights: int | None = None
    days: int | None = None
    mib: int | None = None

    def __str__(self) -> str:
        said = (("nights", self.nights), ("days", self.days), ("M", self.mib))
        return ", ".join(f"{number}{'' if unit == 'M' else ' '}{unit}" for unit, number in said if number is not None)


_KEEP = 'a number of nights, of days, a size, or several of them, such as "14 nights" or "30 days, 20G"'


def _keep(value: object) -> object:
    """Turns text such as "14 nights" to a Keep."""
    if isinstance(value, Keep) or value is None:
        return value
    words = re.split(r"\s*,\s*", value.strip()) if isinstance(value, str) else value
    found: dict[str, int] = {}
    for word in words if isinstance(words, list | tuple) else [None]:
        said = re.fullmatch(r"([0-9]{1,5}) ?(night|day|week)s?", word.strip()) if isinstance(word, str) else None
        size = _mebibytes(word.strip().replace(" ", "")) if isinstance(word, str) else None
        unit, number = ("mib", size or 0) if size is not None else (said[2] + "s", int(said[1])) if said else ("", 0)
        unit, number = ("days", 7 * number) if unit == "weeks" else (unit, number)
        if not number or unit in found:
            raise ValueError(f"is {value!r}, must be {_KEEP}")
        found[unit] = number
    if not found:
        raise ValueError(f"is {value!r}, must be {_KEEP}")
    return Keep(**found)


class NightsSettings(Table):
    """keep: what `gc` leaves of nights; all where it is not given."""

    keep: Annotated[Keep | None, BeforeValidator(_keep), Field(description=_KEEP)] = None


class Settings(Table):
    platform: Name = "debian"
    release: Name | None = Field(default=None, description='a release in quotes, such as "13"')
    provider: Literal["auto", "qemu", "uml", "vagrant", "ssh"] = "auto"
    runtime: StrictStr = Field(default="runc", min_length=1, description="a runtime: a name, NAME@VERSION, ./FILE, ...")
    registry: StrictStr = Field(
        default="docker-registry",
        min_length=1,
        description="a registry: a name, NAME@VERSION, ./FILE, https://HOST, ...",
    )
    untrusted: bool = Field(default=False, description="true or false")
    suite: Name = "spec"
    engine: Name | None = None
    image: Literal["auto", "build", "cloud"] = "auto"
    uml_kernel: Location | None = Field(default=None, description="the path of a kernel of User-Mode Linux")
    platforms: Location | None = Field(default=None, description="a directory of platforms")
    matrix: Path | dict[str, Any] | None = Field(default=None, description="a table, [matrix], or the path of a file")
    policy: Location | None = Field(default=None, description="a policy file, or a directory of them")
    mirror: StrictStr | None = Field(
        default=None, pattern=_WEB, description="the http(s) address of a mirror of the platform's packages"
    )
    proxy: StrictStr | None = Field(
        default=None, pattern=_WEB, description="the http(s) address of a proxy for the bootstrap of machines"
    )
    tools: Annotated[
        tuple[StrictStr, ...] | None, BeforeValidator(_tools), Field(description="auto, or a list of tools")
    ] = None
    go: Origin = Source(SourceKind.AUTO)
    go_sha256: Sha256 | None = None
    runc: Origin = Source(SourceKind.AUTO)
    runc_sha256: Sha256 | None = None
    crun: Origin = Source(SourceKind.AUTO)
    crun_sha256: Sha256 | None = None
    runtime_tools: Origin = Source(SourceKind.AUTO)
    runtime_tools_sha256: Sha256 | None = None
    image_tools: Origin = Source(SourceKind.AUTO)
    image_tools_sha256: Sha256 | None = None
    bats: Origin = Source(SourceKind.AUTO)
    bats_sha256: Sha256 | None = None
    runc_tests: Origin = Source(SourceKind.AUTO)
    runc_tests_sha256: Sha256 | None = None
    rkt: Origin = Source(SourceKind.AUTO)
    rkt_sha256: Sha256 | None = None
    acbuild: Origin = Source(SourceKind.AUTO)
    acbuild_sha256: Sha256 | None = None
    actool: Origin = Source(SourceKind.AUTO)
    actool_sha256: Sha256 | None = None
    docker2aci: Origin = Source(SourceKind.AUTO)
    docker2aci_sha256: Sha256 | None = None
    distribution_spec: StrictStr | None = Field(
        default=None,
        min_length=1,
        description="the conformance program of distribution-spec: PATH#REF, URL#REF, ./FILE",
    )
    box: StrictStr | None = Field(default=None, description="the http(s) address or path of a Vagrant box")
    box_sha256: Sha256 | None = None
    home: Annotated[Home, BeforeValidator(_home), Field(description="a path")]
    reports: Location
    jobs: Whole | None = Field(default=None, ge=1, le=256, description="a whole number from 1 to 256")
    yes: bool = Field(default=False, description="true or false")
    machine: MachineSettings = MachineSettings()
    vagrant: VagrantSettings = VagrantSettings()
    ssh: SshSettings = SshSettings()
    cluster: ClusterSettings = ClusterSettings()
    limits: Limits = Limits()
    tell: TellSettings = TellSettings()
    nights: NightsSettings = NightsSettings()

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _file: Path | None = PrivateAttr(default=None)
    _mirrors: dict[str, str] = PrivateAttr(default_factory=dict)
    _failed_images: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """The configuration file that was read; None where there is none."""
        return self._file

    def origin(self, key: str) -> str | None:
        """Return where somebody asked for the key's value (machine.cpus: a file, a variable, a flag); None where nobody
        did and it is a default.
        """
        return self._origins.get(key)

    def with_values(self, origin: str | None, **values: object) -> Settings:
        """Return these settings with other values; origin tells who asks for those that nobody had asked for, None that
        nobody does.
        """
        made = self.model_copy(update=values)
        made._origins = {**(dict.fromkeys(values, origin) if origin else {}), **self._origins}
        return made

    def without_secrets(self) -> Settings:
        """Return these settings as other hosts and processes may have them: they tell nobody anything."""
        return self.with_values(None, tell=TellSettings())

    def mirror_state(self, release: str) -> str | None:
        """What stands for the packages that its mirror has now, for a release by its name (debian-13), where somebody
        has looked: an image of other packages is another image.
        """
        return self._mirrors.get(release)

    def with_mirrors(self, states: Mapping[str, str]) -> Settings:
        """Return these settings with what the mirrors of releases have now."""
        made = self.model_copy()
        made._mirrors = dict(states)
        return made

    @property
    def failed_images(self) -> Path | None:
        """The directory where it is counted how often an image could not be made; None where each is tried as asked."""
        return self._failed_images

    def counting_failed_images(self, directory: Path) -> Settings:
        """Return these settings with a few tries for each image, for all who have the directory."""
        made = self.model_copy()
        made._failed_images = directory
        return made

    def of_cell(self, cell: Cell) -> Settings:
        """Return these settings with the cell's values in place of their own: what differs is asked for by the cell."""
        named = {key: getattr(cell, key) for key in ("platform", "release", "provider", "runtime", "suite")}
        named["engine"] = cell.engine or None
        differing = {key for key in named if named[key] != getattr(self, key)}
        machine = {"name": cell.machine}
        if cell.provider != "ssh":
            machine["arch"] = cell.arch
            differing |= {"machine.arch"} if cell.arch != self.arch else set()
        made = self.model_copy(update={**named, "machine": self.machine.model_copy(update=machine)})
        made._origins = {**self._origins, **dict.fromkeys(differing, "the cell")}
        return made

    def distro(self) -> Distro:
        """Return the release that these settings name. UsageError where there is no such platform or release."""
        platform = platforms.load(self.platform, platforms.directories(self.platforms))
        return Distro(platform, platform.release(self.release), self.arch)

    @property
    def arch(self) -> Arch:
        """The architecture of machines: what is asked for, else this host's, else what most machines are."""
        return (arch.here() or Arch.AMD64) if self.machine.arch == "auto" else Arch(self.machine.arch)

    def named_addresses(self) -> list[str]:
        """Return the addresses in the web that machines are to reach wherever they are."""
        return [url for url in (self.mirror, self.proxy) if url]

    def sources(self) -> dict[str, Source]:
        """Return where each tool that has such a setting comes from, by the name of its bootstrap step."""
        return {name.replace("_", "-"): getattr(self, name) for name in _SOURCES}

    def sha256(self, tool: str) -> str | None:
        """Return the configured digest of a tool's download."""
        digest: str | None = getattr(self, f"{tool.replace('-', '_')}_sha256")
        return digest


_SOURCES = tuple(name for name, field in Settings.model_fields.items() if field.annotation is Source)
_PATHS: set[Key] = {
    ("platforms",), ("policy",), ("matrix",), ("uml_kernel",), ("home",), ("reports",),
    ("vagrant", "home"), ("ssh", "key"), ("ssh", "known_hosts"),
    ("cluster", "ca"), ("cluster", "cert"), ("cluster", "key"),
}  # fmt: skip
# What may be a file of this host, among other things.
_WORDS: set[Key] = {("runtime",), ("registry",), ("distribution_spec",)}
# What may be file:PATH.
_SECRETS: set[Key] = {("tell", "mail", "password"), ("tell", "webhook"), ("tell", "apprise")}
_FLAGS: dict[str, Key] = {
    "machine": ("machine", "name"),
    "arch": ("machine", "arch"),
    "host": ("ssh", "host"),
    "on": ("cluster", "on"),
    "scheduler": ("cluster", "scheduler"),
}  # where flag and key are not the same word


def load(
    flags: Mapping[str, object] | None = None, *, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings. flags is flag name (no dashes) to value; None and False mean not given.

    UsageError names the file, variable or flag, the key, the bad value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    try:
        cwd = cwd or Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the current directory does not exist any more", hint="change to another one") from error
    data: dict[str, Any] = {}
    sources: dict[Key, str] = {}

    def put(key: Key, value: object, source: str, base: Path) -> None:
        table = data
        for part in key[:-1]:
            table = table.setdefault(str(part), {})
        if key in _PATHS or (key == ("box",) and "://" not in str(value)):
            value = _absolute(value, base, source, environ)
        elif key[0] in _SOURCES and isinstance(value, str) and _is_local(value):
            path, hash_, ref = value.rpartition("#") if "#" in value else (value, "", "")
            value = f"{_absolute(path, base, source, environ)}{hash_}{ref}"
        elif key in _WORDS and isinstance(value, str):
            value = host_file(value, base)
        elif key in _SECRETS:
            value = _from_file(value, base, source, environ)
        table[str(key[-1])] = str(value) if key == ("box",) else value
        sources[key] = source

    put(("home",), _default_home(environ), _DEFAULT, cwd)
    put(("reports",), "reports", _DEFAULT, cwd)
    if (file := find(cwd, environ)) is not None:
        for key, value in _leaves(tomlfile.read(require_trusted(file, environ)), file):
            put(key, value, str(file), file.parent)
    for key, value, variable in _environment(environ):
        put(key, value, variable, cwd)
    for flag, value in (flags or {}).items():
        if value is not None and value is not False:
            put(_FLAGS.get(flag, (flag,)), value, f"--{flag}", cwd)
    settings = tomlfile.check(Settings, data, lambda key: sources.get(key, str(file)))
    settings._origins = {tomlfile.dotted(key): source for key, source in sources.items() if source != _DEFAULT}
    settings._file = file
    return settings


def variables() -> dict[str, str]:
    """Every variable of the environment that stands for a key of labkit.toml, with the key and what it may be."""
    told = ((name, tomlfile.dotted(key), tomlfile.allowed(Settings, key)) for name, key in sorted(_VARIABLES.items()))
    return {name: f"`{key}`: {wanted}" if wanted else f"`{key}`" for name, key, wanted in told}


def secret_variables() -> frozenset[str]:
    """The variables of the environment whose values are secrets."""
    return frozenset(name for name, key in _VARIABLES.items() if key in _SECRETS)


HOST = "host:"  # before the path of a file of this host, in words that are sent away


def host_file(runtime: str, base: Path) -> str:
    """What follows --runtime, with the path of a file of this host made absolute: that is a word everywhere."""
    given = runtime.startswith(HOST)
    path = runtime.removeprefix(HOST)
    first, slash, rest = path.partition("/")
    if not (given or first in (".", "..") or first.startswith("~")) or path.startswith("/"):
        return runtime
    try:
        start = Path(first).expanduser() if first.startswith("~") else base / first
    except RuntimeError as error:  # ~nobody
        raise UsageError(f"runtime {runtime!r}: {error}") from error
    return f"{HOST}{start}{slash}{rest}"


def _is_local(value: str) -> bool:
    with contextlib.suppress(ValueError):
        return sources.parse(value).kind is SourceKind.LOCAL
    return False


def find(cwd: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file that applies in the directory cwd, None where there is none."""
    if named := environ.get("LABKIT_CONFIG"):
        path = cwd / named
        if not os.access(path, os.F_OK):
            raise UsageError(f"LABKIT_CONFIG names {path}, which does not exist")
        return path
    # os.access copes with directories that may not be entered, where Path.exists raises.
    return next((directory / FILE for directory in (cwd, *cwd.parents) if os.access(directory / FILE, os.F_OK)), None)


def _leaves(table: Mapping[str, Any], file: Path, above: Key = ()) -> Iterator[tuple[Key, object]]:
    """The file's keys with their values; the tables that Settings has are opened, all else is left for its check."""
    for name, value in table.items():
        key = (*above, name)
        if key not in _TABLES:
            yield key, value
        elif isinstance(value, dict):
            yield from _leaves(value, file, key)
        else:
            shown = tomlfile.dotted(key)
            found = "" if key[0] == "tell" else f"is {value!r}, "  # that may be a secret
            raise UsageError(f"{file}: {shown} {found}must be a table: [{shown}]")


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[Key, str, str]]:
    for variable, value in environ.items():
        if not variable.startswith("LABKIT_") or variable == "LABKIT_CONFIG" or not value:
            continue
        if variable not in _VARIABLES:
            raise UsageError(
                f"unknown variable {variable}{did_you_mean(variable, _VARIABLES)}",
                hint=f"known: LABKIT_CONFIG, {', '.join(sorted(_VARIABLES))}",
            )
        yield _VARIABLES[variable], value, variable


def _keys(model: type[Table], prefix: Key = ()) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        key = (*prefix, field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            yield from _keys(field.annotation, key)
        else:
            yield key


_VARIABLES: dict[str, Key] = {"LABKIT_" + "_".join(map(str, key)).upper(): key for key in _keys(Settings)}
_TABLES = {key[:length] for key in _keys(Settings) for length in range(1, len(key))}


def _default_home(environ: Mapping[str, str]) -> str:
    data = environ.get("XDG_DATA_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    return f"{data}/labkit" if data.startswith("/") else "~/.local/share/labkit"


def _from_file(value: object, base: Path, source: str, environ: Mapping[str, str]) -> object:
    """The value with the path of file:PATH made absolute; of a list, of each."""
    if isinstance(value, list):
        return [_from_file(one, base, source, environ) for one in value]
    if isinstance(value, str) and value.startswith("file:"):
        return f"file:{_absolute(value.removeprefix('file:'), base, source, environ)}"
    return value


def _absolute(value: object, base: Path, source: str, environ: Mapping[str, str]) -> object:
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise UsageError(f"{source}: {value!r} is not a path")
    if (value == "~" or value.startswith("~/")) and (user_home := environ.get("HOME")):
        value = user_home + value[1:]
    try:
        return base / Path(value).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{source}: {value}: {error}", hint="set LABKIT_HOME to a directory for labkit's files"
        ) from error

"""Platforms: distributions as data, one directory with a platform.toml each. Adding a platform is adding a directory.

The name of the directory is the platform's name. The file is checked strictly: unknown keys, images without a digest
and defaults that are not there are errors that name file and key.
"""

from __future__ import annotations

import enum
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictStr, model_validator

from labkit.core import resources, tomlfile
from labkit.core.arch import Arch
from labkit.core.errors import UsageError
from labkit.core.suggest import unknown
from labkit.core.tomlfile import Table
from labkit.core.trust import require_trusted

FILE = "platform.toml"


def _web(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() or c < " " for c in value):
        raise ValueError(f"is {value!r}, must be an http(s) address")
    return value


def _trusted(value: str) -> str:
    # A list of digests protects only as well as the way it came; a pinned digest has no such weakness.
    parts = urllib.parse.urlsplit(_web(value))
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(f"is {value!r}, must be an https address: over http the list could be altered like the image")
    return value


Url = Annotated[StrictStr, AfterValidator(_web), Field(description="an http(s) address")]
Sha256 = Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$", description="64 lower-case hex digits")]
Sha512 = Annotated[StrictStr, Field(pattern="^[0-9a-f]{128}$", description="128 lower-case hex digits")]
Packages = Annotated[
    tuple[Annotated[StrictStr, Field(pattern=r"^[a-z0-9][A-Za-z0-9.+_-]*$")], ...],
    Field(description="a list of package names"),
]
# {arch} stands for the machine's architecture, as Debian names it.
BuildPackages = Annotated[
    tuple[Annotated[StrictStr, Field(pattern=r"^[a-z0-9](?:[A-Za-z0-9.+_-]|\{arch\})*$")], ...],
    Field(description="a list of package names"),
]
User = Annotated[
    StrictStr, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$", description="a user name: a-z, 0-9, dashes, underscores")
]


Mirror = Annotated[
    tuple[StrictStr, ...],
    Field(description="the layout of a mirror: apt's lines or dnf's addresses, with {mirror} and {codename}"),
]


class VagrantProvider(enum.StrEnum):
    """A provider of Vagrant; the value is Vagrant's own name for it."""

    LIBVIRT = "libvirt"
    VIRTUALBOX = "virtualbox"
    VMWARE = "vmware_desktop"
    PARALLELS = "parallels"
    HYPERV = "hyperv"


class Download(Table):
    """A file on the web with exactly one way to know that it is the right one.

    checksums is the address of a list that names the file: as sha256sum and sha512sum print it, or with lines
    `SHA256 (file) = hex`. A * in the last part of an address stands for the newest of the names in its directory
    that fit.
    """

    url: Url
    sha256: Sha256 | None = None
    sha512: Sha512 | None = None
    checksums: Annotated[StrictStr, AfterValidator(_trusted)] | None = None

    @model_validator(mode="after")
    def _one_digest(self) -> Self:
        given = [key for key in ("sha256", "sha512", "checksums") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"must have exactly one of sha256, sha512 and checksums; it has {' and '.join(given) or 'none'}"
            )
        for url in (self.url, self.checksums or ""):
            if "*" in url.rpartition("/")[0]:
                raise ValueError(f"has {url!r}: a * may stand in the last part of an address only")
        if "*" in self.url and self.checksums is None:
            raise ValueError("must have checksums, for its url has a *: what that finds is not known beforehand")
        if "*" in self.url:
            _trusted(self.url)
        return self


class CloudImage(Download):
    """A disk image that configures itself with cloud-init at its first boot; user is the one that cloud-init makes."""

    user: User


class Box(Download):
    """A Vagrant box for one provider, named by address: registries come and go."""


class Build(Table):
    """How labkit builds an image itself from the distribution's packages; arches are those that have them."""

    tool: Literal["mmdebstrap"]
    suite: StrictStr = Field(pattern=r"^[a-z]+$", description="a suite's code name, such as trixie")
    packages: BuildPackages
    user: User
    arches: tuple[Arch, ...] = Field(default=(Arch.AMD64,), description='a list of architectures, such as ["amd64"]')


class Other(Table):
    """What a release has for another architecture than amd64."""

    cloud_image: CloudImage | None = None


class Release(Table):
    """packages and mirror are those that differ from the platform's. cloud_image and boxes are of amd64; cpu: what its
    programs of amd64 need at least.
    """

    name: StrictStr
    codename: StrictStr | None = None
    build: Build | None = None
    cloud_image: CloudImage | None = None
    arm64: Other = Other()
    packages: dict[str, Packages] = Field(default={}, description="a table of lists of package names")
    mirror: Mirror | None = None
    cpu: Literal["x86-64-v2", "x86-64-v3"] | None = None
    boxes: dict[VagrantProvider, Box] = Field(default={}, description="tables of boxes, by Vagrant provider")
    go: StrictStr | None = Field(
        default=None, pattern=r"^[0-9]+\.[0-9]+$", description='the version of its Go package in quotes, such as "1.24"'
    )

    @property
    def images(self) -> list[str]:
        """The ways to a machine of this release: build, cloud_image, boxes."""
        found = [key for key in ("build", "cloud_image", "boxes") if getattr(self, key)]
        return found or ["cloud_image"] * bool(self.arm64.cloud_image)

    @model_validator(mode="after")
    def _some_image(self) -> Self:
        if not self.images:
            raise ValueError("must have a build, a cloud_image or boxes")
        return self


class Platform(Table):
    """family tells which package manager the bootstrap uses (debian: apt-get, any other: dnf). packages maps a need,
    mostly a bootstrap step, to package names; mirror may use {mirror}, {codename} and {release}.
    """

    name: StrictStr
    title: StrictStr
    family: StrictStr
    default: StrictStr = Field(description='a release in quotes, such as "13"')
    packages: dict[str, Packages] = Field(default={}, description="a table of lists of package names")
    mirror: Mirror = ()
    releases: dict[str, Release]

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        if self.default not in self.releases:
            raise ValueError(" ".join(unknown("release", self.default, self.releases)))
        return self

    def by_default(self) -> list[Release]:
        """Return the releases, the default one first."""
        return sorted(self.releases.values(), key=lambda release: release.name != self.default)

    def release(self, name: str | None) -> Release:
        """Return the release of that name, the default one for None. UsageError where there is none."""
        found = self.releases.get(name or self.default)
        if found is None:
            message, hint = unknown(f"release of {self.title}", str(name), self.releases)
            raise UsageError(message, hint=hint)
        return found


@dataclass(frozen=True, slots=True)
class Distro:
    """One release of a platform: what a machine is made of."""

    platform: Platform
    release: Release
    arch: Arch = Arch.AMD64

    @property
    def name(self) -> str:
        return system_name(self.platform.name, self.release.name, self.arch)

    @property
    def title(self) -> str:
        title = f"{self.platform.title} {self.release.name}"
        return title if self.arch is Arch.AMD64 else f"{title} ({self.arch})"

    @property
    def build(self) -> Build | None:
        """How its image is built from packages; None where it is not, for this architecture."""
        build = self.release.build
        if build is None or self.arch not in build.arches:
            return None
        named = tuple(package.replace("{arch}", self.arch) for package in build.packages)
        return build.model_copy(update={"packages": named})

    @property
    def cloud_image(self) -> CloudImage | None:
        """Its cloud image for this architecture."""
        return self.release.cloud_image if self.arch is Arch.AMD64 else self.release.arm64.cloud_image

    @property
    def boxes(self) -> dict[VagrantProvider, Box]:
        """Its boxes for this architecture."""
        return self.release.boxes if self.arch is Arch.AMD64 else {}

    @property
    def mirror(self) -> tuple[str, ...]:
        """The layout of a mirror of its packages, the release's own before the platform's."""
        return self.platform.mirror if self.release.mirror is None else self.release.mirror

    @property
    def cpu(self) -> str:
        """What its programs need of a CPU, in the names of x86-64's levels; empty where any will do."""
        return (self.release.cpu or "") if self.arch is Arch.AMD64 else ""

    @property
    def arches(self) -> list[Arch]:
        """The architectures that it has images for."""
        every = (Distro(self.platform, self.release, arch) for arch in Arch)
        return [one.arch for one in every if one.build or one.cloud_image or one.boxes]

    @property
    def packages(self) -> dict[str, tuple[str, ...]]:
        """Package names by need, the release's own before the platform's."""
        return {**self.platform.packages, **self.release.packages}


def system_name(platform: str, release: str, arch: str) -> str:
    """What a release's machines are called: `debian-13`, `debian-13-arm64`. That of amd64 is not named."""
    return f"{platform}-{release}" if arch == Arch.AMD64 else f"{platform}-{release}-{arch}"


def directories(extra: Path | None = None) -> tuple[Path, ...]:
    """Return where platforms are looked for: the person's own directory first, then those that ship with labkit."""
    if extra and not extra.is_dir():
        raise UsageError(
            f"the directory of platforms {extra} does not exist", hint="`platforms = ` in labkit.toml names it"
        )
    return (*([extra] if extra else []), resources.root() / "platforms")


def names(directories: Sequence[Path]) -> list[str]:
    """Return the names of all platforms in these directories, sorted."""
    return sorted({file.parent.name for directory in directories for file in directory.glob(f"*/{FILE}")})


def load(name: str, directories: Sequence[Path]) -> Platform:
    """Return the platform from the first directory that has it. UsageError where none has, or its file is not right."""
    if name not in names(directories):
        message, hint = unknown("platform", name, names(directories))
        raise UsageError(message, hint=f"{hint}; looked in {', '.join(map(str, directories))}")
    file = next(path for directory in directories if (path := directory / name / FILE).is_file())
    data = tomlfile.read(file if file.is_relative_to(resources.root()) else require_trusted(file))
    releases = data.get("releases")
    if isinstance(releases, dict):
        data["releases"] = {key: {**v, "name": key} if isinstance(v, dict) else v for key, v in releases.items()}
    return tomlfile.check(Platform, {**data, "name": name}, lambda _: str(file))

"""The use case `runtimes`: what labkit knows of each, and which of its versions a platform can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.core.config import Settings
from labkit.core.errors import LabError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.images import mirrors
from labkit.subjects import runtimes
from labkit.subjects.runtimes import About, Runtime


@dataclass(frozen=True, slots=True)
class Listed:
    """package: the version of the platform's package; None where it has none, or nobody could be asked."""

    runtime: Runtime
    about: About
    package: str | None

    @property
    def ways(self) -> list[str]:
        """What a release of it, or a ref, is made of."""
        about = self.about
        named = [
            ("program", about.published is not None),
            ("Go module", bool(about.module and about.build)),
            ("crate", bool(about.crate and about.build)),
            ("repository", bool(about.repository and about.build)),
            ("labkit", bool(about.shim)),
        ]
        return [title for title, there in named if there]

    @property
    def notes(self) -> list[str]:
        """What it cannot do, in sentences."""
        about = self.about
        if about.none:
            return [about.none]
        return [*(f"no {command}: {why}" for command, why in about.lacks.items()), *about.limits]

    def to_json(self) -> dict[str, Any]:
        about = self.about
        return {
            **self.runtime.to_json(),
            "package": self.package,
            "releases": list(about.releases),
            "ways": self.ways,
            "lacks": [{"command": command, "why": why} for command, why in about.lacks.items()],
            "limits": list(about.limits),
            "none": about.none or None,
        }


@dataclass(frozen=True, slots=True)
class Listing:
    """unasked: why nothing is known of packages; empty where the platform's lists were read, or nobody asked."""

    distro: Distro
    runtimes: tuple[Listed, ...]
    unasked: str


def listing(settings: Settings, observer: Observer, *, ask: bool) -> Listing:
    """All runtimes that have a file; ask: with what the platform of the settings has of them, by its mirror's lists."""
    distro = settings.distro()
    known = {name: runtimes.about(name) for name in runtimes.names()}
    packages = {name: _package(name, about, distro) for name, about in known.items()}
    versions: dict[str, str] = {}
    unasked = ""
    try:
        if ask:
            versions = mirrors.versions(distro, sorted(filter(None, packages.values())), settings, observer)
    except LabError as error:
        unasked = error.message
    found = (Listed(runtimes.named(name), about, versions.get(packages[name])) for name, about in known.items())
    return Listing(distro, tuple(found), unasked)


def _package(name: str, about: About, distro: Distro) -> str:
    """The package that has its program, "" where the platform has none."""
    first = (*distro.packages.get(name, ()), *about.packages.get(distro.platform.family, ()))
    return first[0] if first else ""

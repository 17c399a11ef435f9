"""The home of a lab: the directory of all that it keeps, and its layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """path is the home itself, `home` in labkit.toml. Nothing here makes a directory."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def images(self) -> Path:
        """Golden images and their live states, each under its key."""
        return self.path / "images"

    @property
    def boxes(self) -> Path:
        """Vagrant boxes that labkit made."""
        return self.path / "boxes"

    @property
    def downloads(self) -> Path:
        """Files from the web, each under its digest."""
        return self.path / "downloads"

    @property
    def sources(self) -> Path:
        """Local sources, packed for machines."""
        return self.path / "sources"

    @property
    def runtimes(self) -> Path:
        """Runtimes that were fetched or built, each under its key."""
        return self.path / "runtimes"

    @property
    def builders(self) -> Path:
        """Chroots with compilers, in which runtimes are built."""
        return self.path / "builders"

    @property
    def repositories(self) -> Path:
        """Bare clones of the git repositories that runtimes are built from."""
        return self.path / "repositories"

    @property
    def bisects(self) -> Path:
        """Clones in which git bisects, for as long as that takes."""
        return self.path / "bisects"

    @property
    def keys(self) -> Path:
        """The lab's own SSH key."""
        return self.path / "keys"

    @property
    def host(self) -> Path:
        """Facts about this host that are remembered, such as whether KVM works."""
        return self.path / "host"

    @property
    def kernels(self) -> Path:
        """Kernels of User-Mode Linux, each under its digest."""
        return self.path / "kernels"

    @property
    def nights(self) -> Path:
        """The tables of nights, each below the night's id."""
        return self.path / "nights"

    @property
    def outbox(self) -> Path:
        """What cells of nights run in, and what came of them until it has been brought home."""
        return self.path / "outbox"

    @property
    def vagrant(self) -> Path:
        """Vagrant's own directory (VAGRANT_HOME), unless the settings name another."""
        return self.path / "vagrant"

    @property
    def machines(self) -> Path:
        return self.path / "machines"

    def machine(self, name: str) -> Path:
        """The directory of one machine."""
        return self.machines / name

    def lock(self, name: str) -> Path:
        """The lock file for what that name stands for."""
        return self.path / "locks" / f"{name}.lock"

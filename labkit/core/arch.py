"""Architectures that machines can have, by the names that OCI and Debian use."""

from __future__ import annotations

import enum
import platform


class Arch(enum.StrEnum):
    AMD64 = "amd64"
    ARM64 = "arm64"

    @property
    def machine(self) -> str:
        """What `uname -m` says, and QEMU's programs are named after."""
        return {Arch.AMD64: "x86_64", Arch.ARM64: "aarch64"}[self]

    @property
    def emulator(self) -> str:
        """The program that machines of this architecture run in."""
        return f"qemu-system-{self.machine}"

    @property
    def interpreter(self) -> str:
        """The program that runs programs of this architecture on a host of another."""
        return f"qemu-{self.machine}-static"


def known(word: str) -> Arch | None:
    """The architecture of that name, by whichever name it goes; None where labkit knows none."""
    word = word.lower()
    return next((arch for arch in Arch if word in (arch.value, arch.machine)), {"x86-64": Arch.AMD64}.get(word))


def here() -> Arch | None:
    """This host's; None where labkit does not know it: its machines are emulated, whatever they are."""
    return known(platform.machine())

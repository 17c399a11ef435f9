"""A cell: what one run is about, in names. It is hashable and can be sent to another process."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from labkit.core.arch import Arch
from labkit.core.platforms import system_name


def key(platform: str, release: str, arch: str, provider: str, runtime: str, arguments: str, suite: str) -> str:
    """The key of a cell. A runtime that is a path keeps its slashes: the words around it have none; with arguments it
    is another one. What is not known is empty: a recording tells of no machine.
    """
    place = system_name(platform, release, arch) if platform and release else platform or "elsewhere"
    return f"{place}/{provider or 'recorded'}/{f'{runtime} {arguments}'.strip()}/{suite}"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to run of a suite, and how: checks or programs by name or pattern (all where empty), but none of skip; how
    many at a time, how often each, and the seconds that each may take; None leaves it to the suite. runtime_args come
    before each command of the runtime; spec is the version of the runtime-spec to hold it to, in place of the one that
    it claims; confirm: run what is bad again; lacks: commands that the runtime does not have, with the reason.
    reference: the runtime that what is bad and not expected is compared with; empty for earlier runs alone, None for no
    comparison. user: who runs the suite in the machine, root where it is empty.
    """

    only: tuple[str, ...] = ()
    jobs: int | None = None
    repeat: int | None = None
    timeout: float | None = None
    runtime_args: tuple[str, ...] = ()
    spec: str = ""
    confirm: bool = True
    skip: tuple[str, ...] = ()
    lacks: tuple[tuple[str, str], ...] = ()
    reference: str | None = None
    user: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """provider may be "auto"; runtime is a word of --runtime, runtime_name what to call it; machine is the name of
    the machine to run it on, the first where machines, which share it, are several; engine: what uses the runtime, of
    the suite that is about engines.
    """

    platform: str
    release: str
    provider: str
    machine: str
    runtime: str
    suite: str
    selection: Selection = Selection()
    machines: int = 1
    runtime_name: str = ""
    engine: str = ""
    arch: str = Arch.AMD64.value  # of a machine that labkit makes; an existing host is what it is

    @property
    def key(self) -> str:
        """What history knows it by, and people type: `debian-13/uml/runc/spec`, `debian-13-arm64/qemu/crun/spec`,
        `debian-13/uml/crun/engine:docker`.
        """
        suite = f"{self.suite}:{self.engine}" if self.engine else self.suite
        return key(self.platform, self.release, self.arch, self.provider, self.under_test, "", suite)

    @property
    def under_test(self) -> str:
        """The runtime with its arguments, as --runtime takes them."""
        return f"{self.runtime} {shlex.join(self.selection.runtime_args)}".rstrip()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its machines: NAME, NAME-2, NAME-3, ..."""
        return (self.machine, *(f"{self.machine}-{number}" for number in range(2, self.machines + 1)))

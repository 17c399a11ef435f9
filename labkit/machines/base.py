"""Machines: what every provider's machine can do, what only some can, and how one is described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.platforms import Distro
from labkit.io.remote import Remote


class MachineState(StrEnum):
    ABSENT = "absent"
    RUNNING = "running"
    HALTED = "halted"  # its whole state is on disk; `up` resumes it
    UNREACHABLE = "unreachable"  # it runs, but cannot be logged in to
    CRASHED = "crashed"  # the process is gone without a halt; `up` boots its disk again
    LOST = "lost"  # its provider no longer has it; `up` makes it again
    UNKNOWN = "unknown"  # its provider does not say, or in a word that labkit does not know: nothing follows from it
    DAMAGED = "damaged"  # its record cannot be read; nothing is done to it but `destroy`
    UNFINISHED = "unfinished"  # made and up, but its bootstrap or snapshot is not done; `up` goes on with that
    INTERRUPTED = "interrupted"  # labkit was killed while making it; `up` starts over


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """A machine as commands show it. seconds: how long the command took to bring it up; problem: why it is crashed,
    unreachable or unknown, or what else is wrong with it; size: bytes that it takes on the disk; kernel_origin: where
    its kernel comes from, where that is not the platform's; arch: its architecture, where that is known.
    """

    name: str
    platform: str
    release: str
    provider: str
    state: MachineState
    address: str | None = None
    port: int | None = None
    user: str | None = None
    accelerator: str | None = None
    seconds: float | None = None
    problem: str | None = None
    size: int | None = None
    kernel_origin: str | None = None
    arch: str | None = None

    @property
    def kind(self) -> str:
        """The provider as the settings name it: vagrant, of `vagrant (libvirt)`."""
        return self.provider.partition(" ")[0]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a machine is not what was asked for, with both values, who asked, and what to do about it.

    stops: what a suite showed there would be about something else than was asked. Where it is False, nobody asked for
    another value: what labkit itself makes has changed since.
    """

    what: str
    asked: str
    has: str
    by: str
    remedy: str
    stops: bool = True

    def __str__(self) -> str:
        return f"{self.what} is {self.has}; asked for: {self.asked} ({self.by})"


class Machine(Protocol):
    """One machine of one provider. Every method may raise MachineError."""

    @property
    def name(self) -> str: ...

    def status(self) -> MachineInfo:
        """How it is, at once: whether its process runs, not whether it answers."""

    def examine(self) -> MachineInfo:
        """The same, after a closer look, which takes up to some seconds where something is wrong."""

    def lock(self) -> AbstractContextManager[None]:
        """Hold the machine against other labkit processes."""

    def create(self, distro: Distro) -> None:
        """Make the machine and bring it to its clean state, running and reachable.

        UsageError where the settings ask for what is impossible.
        """

    def start(self, *, discard_state: bool = False) -> None:
        """Bring a machine back that is halted or crashed; what was on its disk is still there."""

    def endpoint(self) -> Endpoint:
        """How SSH reaches it, with its pinned host key."""

    def connect(self, deadline: Deadline) -> Remote:
        """A connection to it."""

    def destroy(self) -> None:
        """Remove the machine and all its files, whatever its state."""

    def differences(self, distro: Distro) -> Sequence[Difference]:
        """In what the machine is not what the settings ask for. A value that nobody gave is not asked for, and one that
        the machine's record lacks, because an older labkit wrote it, is not judged. What update() brings is none.
        """

    def update(self, distro: Distro) -> None:
        """Run the bootstrap on a running machine again, if the bootstrap has changed and the machine allows it."""

    def console(self) -> Path | None:
        """The file that its console is written to; None where there is none."""


@runtime_checkable
class Resettable(Protocol):
    """A machine that can go back to its clean state."""

    @property
    def name(self) -> str: ...

    def reset(self) -> None:
        """Undo every change since create, keeping the machine's identity."""


@runtime_checkable
class Haltable(Protocol):
    """A machine that can be stopped and resumed."""

    @property
    def name(self) -> str: ...

    def halt(self) -> None:
        """Stop it, keeping its state; start() resumes it."""


@runtime_checkable
class Owned(Protocol):
    """A host of somebody's own: create(), start() and update() change nothing there."""

    def pending(self, distro: Distro) -> Sequence[str]:
        """What the whole bootstrap would do there, a line for each step; empty where it has run."""

    def bootstrap(self, distro: Distro) -> None:
        """Run the whole bootstrap."""

    def not_brought(self, distro: Distro) -> Sequence[Difference]:
        """What the settings ask the bootstrap for, where it has not run with that."""

    def provide(self, distro: Distro, programs: Mapping[str, str]) -> None:
        """Bring the steps that a suite needs, and for each of these programs that is not there the step named for it;
        nothing where all is there.
        """


@runtime_checkable
class Elsewhere(Protocol):
    """A machine with disks outside its directory."""

    def size_elsewhere(self) -> int:
        """How many bytes they take."""

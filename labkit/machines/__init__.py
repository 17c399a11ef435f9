"""Machines: what every provider's machine can do, and what is told about one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from labkit.platforms import Platform, Release

if TYPE_CHECKING:
    from labkit.deadline import Deadline
    from labkit.ssh import Remote
from labkit.endpoint import Endpoint


class State(StrEnum):
    ABSENT = "absent"
    STARTING = "starting"  # a labkit is at it now
    RUNNING = "running"
    HALTED = "halted"  # asleep on disk; `up` goes on where it stopped
    CRASHED = "crashed"  # the process is gone without a halt; `up` boots its disk again
    LOST = "lost"  # what labkit knows of is gone from its provider; `up` makes it anew
    INTERRUPTED = "interrupted"  # labkit was killed while it made this; `up` begins again


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """What a person or script is told about a machine. seconds: how long the command took to bring it up."""

    name: str
    platform: str
    release: str
    provider: str
    state: State
    address: str | None = None
    port: int | None = None
    user: str | None = None
    accelerator: str | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class Machine(Protocol):
    """One machine of one provider. Every method may raise MachineError."""

    name: str

    def status(self) -> MachineInfo: ...
    def lock(self) -> AbstractContextManager[None]:
        """Hold the machine against other labkit processes."""

    def create(self, platform: Platform, release: Release) -> None:
        """Make what the machine needs and bring it to its clean state, running and reachable."""

    def start(self) -> None:
        """Bring a machine back that is halted or crashed; what was on its disk is still there."""

    def endpoint(self) -> Endpoint:
        """How SSH reaches it, with its pinned host key."""

    def connect(self, deadline: Deadline) -> Remote:
        """An SSH connection to it."""

    def restore(self) -> None:
        """Throw away everything since create, keeping the machine's identity."""

    def halt(self) -> None: ...
    def destroy(self) -> None:
        """Remove the machine and all it left, in whatever state it is."""

    def outdated(self, platform: Platform, release: Release) -> str | None:
        """In which way the machine is not what the settings want today; None if it is."""

    def update(self, platform: Platform, release: Release) -> None:
        """Run the bootstrap of a machine that runs again, where it has changed and the machine is one that can."""

    def console(self) -> Path | None:
        """The file that its console is written to."""

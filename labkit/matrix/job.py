"""What travels between a night and the hosts that run its cells: plain values, which any process can be sent."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from labkit.core.cell import Cell
from labkit.core.config import Settings
from labkit.results.policy import Entry


class Outcome(enum.StrEnum):
    """How an attempt at a cell ended."""

    DONE = "done"  # there is a run; what it shows is another matter
    LAB_ERROR = "lab-error"  # the lab failed: no machine, no image, no such runtime
    TIMEOUT = "timeout"  # it took longer than the cell's limit
    LOST = "lost"  # whoever ran it died or was stopped, or what it sent home was damaged


@dataclass(frozen=True, slots=True)
class Work:
    """What labkit's own program for a cell is given; entries are the policy."""

    cell: Cell
    settings: Settings
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """An attempt at a cell: a program that is run in a directory of its own, where it leaves a run's directory as
    `run`, ends with a status of `test`, and writes why the lab failed into `error`. It is labkit's own, which does work
    (labkit.usecases.cell), or argv. limit: seconds.
    """

    night: str
    number: int
    attempt: int
    limit: float
    work: Work | None = None
    argv: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """It is no other attempt's, in this night or another."""
        return f"{self.night}-c{self.number}-a{self.attempt}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended. name is the job's; status that of `test`, None where there is no run; again: whether another
    attempt may show something else; bundle: the size of what it left, 0 where it left nothing, sha256 its digest.
    """

    name: str
    outcome: Outcome
    seconds: float
    status: int | None = None
    error: str = ""
    again: bool = True
    bundle: int = 0
    sha256: str = ""

"""Which program runs next. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Optional

LAST = "linux_ns_itype"  # deletes a bundle with live mounts in the namespaces it runs in
ALONE = ("killsig", LAST)  # after all others, in this order; killsig loses its race with a trap beside busy programs
CGROUP_LANE = "cgroups"


def lane(program: str) -> str:
    """Programs of one lane never run beside each other. Those that touch cgroups share the path /cgrouptest."""
    shares = program.startswith("linux_cgroups_") or program in ("delete_resources", "delete_only_create_resources")
    return CGROUP_LANE if shares else program


@dataclass(frozen=True)
class Turn:
    """One run of a program; attempt: from 1."""

    program: str
    attempt: int


class Schedule:
    """Turns in lanes. The next to start comes from the lane with the most time left to run.

    seconds: how long programs take, as far as known; only the order matters, and an unknown one counts as medium.
    """

    def __init__(self, programs: Iterable[str], seconds: Mapping[str, float], jobs: int, repeat: int = 1) -> None:
        medium = sorted(seconds.values())[len(seconds) // 2] if seconds else 1.0
        self._seconds = {program: seconds.get(program, medium) for program in programs}
        self._jobs = jobs
        self._running: set[Turn] = set()
        self._lanes: dict[str, list[Turn]] = {}
        for program in sorted(self._seconds, key=lambda program: -self._seconds[program]):
            turns = [Turn(program, attempt) for attempt in range(1, repeat + 1)]
            self._lanes.setdefault(lane(program), []).extend(turns)

    @property
    def finished(self) -> bool:
        return not self._running and not any(self._lanes.values())

    def take(self) -> Optional[Turn]:
        """A turn that may start now; it runs until `done`. None: something must end first, or nothing is left."""
        busy = {lane(turn.program) for turn in self._running}
        if len(self._running) >= self._jobs:
            return None
        waiting = {name for name, turns in self._lanes.items() if turns}
        free = [name for name in self._lanes if name in waiting - busy - set(ALONE)]
        if not free and not self._running:
            free = [name for name in ALONE if name in waiting][:1]
        if not free:
            return None
        turn = self._lanes[max(free, key=self._left)].pop(0)
        self._running.add(turn)
        return turn

    def done(self, turn: Turn) -> None:
        self._running.remove(turn)

    def _left(self, name: str) -> float:
        return sum(self._seconds[turn.program] for turn in self._lanes[name])

"""One way to wait: a point in time that everything in an operation shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    at: float  # time.monotonic()

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds that remain, never below zero."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.left == 0.0

    def poll(self, ready: Callable[[], bool], every: float = 0.01) -> bool:
        """Call ready until it is true or the time is up; whether it became true."""
        while not ready():
            if self.passed:
                return False
            time.sleep(min(every, self.left))
        return True

"""One way to wait: a point in time that everything in an operation shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from labkit.core.text import seconds


@dataclass(frozen=True, slots=True)
class Deadline:
    at: float  # time.monotonic()
    allowed: str = ""  # how long there was, as a person set it: `30 s (limits.connect)`

    @classmethod
    def after(cls, seconds: float, limit: str = "") -> Deadline:
        """limit: the key of labkit.toml that the time comes from, such as connect; "" where it is labkit's own."""
        return cls(time.monotonic() + seconds, allowed(seconds, limit))

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


def allowed(value: float, limit: str = "") -> str:
    """A time limit as messages name it: with its key in labkit.toml, where it has one."""
    return f"{seconds(value)} (limits.{limit})" if limit else seconds(value)

"""What a use case tells while it works; who listens decides what to show. Any thread may call."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    def step(self, text: str) -> None:
        """Something a person would wait for begins."""

    def detail(self, text: str) -> None:
        """One line that a tool printed."""

    def progress(self, label: str, done: int, total: int | None, unit: str) -> None:
        """How far something measurable is, in that unit; total is None where it is not known."""

    def warn(self, text: str) -> None:
        """Something is not as it should be, and the work goes on."""


class Silent:
    """An observer that shows nothing."""

    def step(self, text: str) -> None:
        pass

    def detail(self, text: str) -> None:
        pass

    def progress(self, label: str, done: int, total: int | None, unit: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

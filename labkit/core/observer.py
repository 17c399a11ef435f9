"""How a use case reports its progress; the observer decides what to show. Any thread may call."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    def step(self, text: str) -> None:
        """A step begins that takes noticeable time."""

    def detail(self, text: str) -> None:
        """One line that a tool printed."""

    def progress(self, label: str, done: int, total: int | None, unit: str) -> None:
        """How far something measurable is, in that unit; total is None where it is not known."""

    def warn(self, text: str) -> None:
        """Something is wrong, but the work goes on."""

    def confirm(self, question: str) -> bool:
        """Whether the person says yes; False where there is none to ask."""


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

    def confirm(self, question: str) -> bool:
        return False

"""What a use case tells while it works; who listens decides what to show. Any thread may call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from labkit.results import Result


class Observer(Protocol):
    def step(self, text: str) -> None:
        """Something a person would wait for begins."""

    def detail(self, text: str) -> None:
        """One line that a tool printed."""

    def progress(self, label: str, done: int, total: int | None) -> None:
        """How far something measurable is, such as a download in bytes; total is None where nobody knows."""

    def result(self, result: Result, done: int, planned: int | None) -> None:
        """One check has its verdict; it is the done-th of planned, None where the plan is not known."""

    def warn(self, text: str) -> None:
        """Something is not as it should be, and the work goes on."""


class Silent:
    """An observer that shows nothing."""

    def step(self, text: str) -> None:
        pass

    def detail(self, text: str) -> None:
        pass

    def progress(self, label: str, done: int, total: int | None) -> None:
        pass

    def result(self, result: Result, done: int, planned: int | None) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

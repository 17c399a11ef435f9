"""How a program ends early."""

from __future__ import annotations


class UsageError(Exception):
    """Wrong arguments, or a host or runtime that cannot be tested at all: one line on stderr, exit status 2."""


class Busy(Exception):
    """Another suite runs on this machine: one line on stderr, exit status 3."""


class Interrupted(Exception):
    """A signal, or the loss of the reader or the supervisor, ends the run; the exit status is 128 + number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

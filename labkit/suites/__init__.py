"""Suites: what is run against a runtime. Adding one is adding a module here that has a SUITE."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from labkit import tap
from labkit.errors import UsageError
from labkit.results import Reading
from labkit.words import unknown


class Suite(Protocol):
    """A program that runs in the machine as root and prints TAP."""

    name: str
    title: str
    version: str
    needs: tuple[str, ...]  # the tools of the bootstrap that it cannot do without

    def program(self) -> bytes:
        """The file to put on the machine."""

    def file_name(self) -> str: ...

    def argv(self, program: str, runtime: str, only: Sequence[str], jobs: int | None) -> list[str]:
        """The command that runs it there; program is the path it has there."""

    def check(self, only: Sequence[str]) -> None:
        """Raises UsageError where only names something that the suite does not have."""

    def read(self, events: Iterable[tap.Event]) -> Reading:
        """What its output says."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def find(name: str) -> Suite:
    """The suite of that name, else UsageError."""
    if name not in names():
        message, hint = unknown("suite", name, names())
        raise UsageError(message, hint=hint)
    suite: Suite = importlib.import_module(f"{__name__}.{name}").SUITE
    return suite


def export(folder: Path) -> Path:
    """Write the spec suite's program, which runs without labkit, into folder; its path."""
    from labkit.files import disk_errors, make_folder, write_atomic

    suite = find("spec")
    target = make_folder(folder) / suite.file_name()
    with disk_errors(folder):
        write_atomic(target, suite.program(), mode=0o755)
    return target

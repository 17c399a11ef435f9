"""Suites: what is run against a runtime. Adding one is adding a module here that has a SUITE."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labkit import late
from labkit.errors import UsageError
from labkit.results import Reading, Result
from labkit.words import unknown

Heard = Callable[[Result, int, int | None], None]  # a result, its number, and how many are planned where that is known


@dataclass(frozen=True, slots=True)
class Wish:
    """What to run of a suite, and how: checks or programs by name (all where empty), how many at a time, how often
    each, and the seconds that each may take; None leaves it to the suite.
    """

    only: tuple[str, ...] = ()
    jobs: int | None = None
    repeat: int | None = None
    limit: float | None = None


class Listener(Protocol):
    """Takes what the suite prints as it comes and keeps it in the folder of raw output; no content makes it raise."""

    @property
    def heard(self) -> bool:
        """Whether the suite has said anything that it would say."""

    def take(self, data: bytes) -> None: ...

    def take_stderr(self, data: bytes) -> None: ...


class Suite(Protocol):
    """A program that runs in the machine as root, and how its output is kept and read."""

    name: str
    title: str
    version: str
    needs: tuple[str, ...]  # the tools of the bootstrap that it cannot do without

    def program(self) -> bytes:
        """The file to put on the machine."""

    def file_name(self) -> str: ...

    def argv(self, program: str, runtime: str, wish: Wish) -> list[str]:
        """The command that runs it there; program is the path it has there."""

    def names(self) -> list[str]:
        """Its checks or programs: what a wish can name."""

    def check(self, wish: Wish) -> None:
        """Raises UsageError where the wish names something that the suite does not have, or cannot do."""

    def spoils(self, wish: Wish) -> bool:
        """Whether a machine cannot be trusted any more after this, so that it has to be reset."""

    def listen(self, raw: Path, heard: Heard, only: Sequence[str] = ()) -> AbstractContextManager[Listener]:
        """Write what the suite prints into the folder raw as it comes, and tell each result as it is known."""

    def holds(self, raw: Path) -> bool:
        """Whether the folder has raw output of this suite."""

    def read(self, raw: Path, known: Mapping[str, str] | None = None) -> Reading:
        """What the raw output in a folder says, whoever put it there, and however far it came.

        known are facts that the folder itself may not tell. UsageError, naming the file, where the folder is damaged.
        """


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def find(name: str) -> Suite:
    """The suite of that name, else UsageError."""
    if name not in names():
        message, hint = unknown("suite", name, names())
        raise UsageError(message, hint=hint)
    suite: Suite = late.module(f"suites.{name}").SUITE
    return suite


def of_folder(raw: Path) -> Suite | None:
    """The suite whose raw output the folder has."""
    return next((suite for suite in map(find, names()) if suite.holds(raw)), None)


def export(folder: Path) -> Path:
    """Write the spec suite's program, which runs without labkit, into folder; its path."""
    from labkit.files import disk_errors, make_folder, write_atomic

    suite = find("spec")
    target = make_folder(folder) / suite.file_name()
    with disk_errors(folder):
        write_atomic(target, suite.program(), mode=0o755)
    return target


class Capped:
    """A file that takes no more than a limit, for what a machine that is not trusted sends."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = path.open("wb", buffering=0)
        self._left = limit

    def write(self, data: bytes) -> None:
        piece = data[: self._left]
        self._left -= len(piece)
        self._file.write(piece)

    def __enter__(self) -> Capped:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

"""Points at which something is done to labkit, each to be seen from outside."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Event:
    """What labkit is about to do for the nth time: an audit event of Python one of whose arguments matches the pattern
    (https://docs.python.org/3/library/audit_events.html). A command is one argument, its words joined by spaces.
    """

    name: str
    pattern: str
    nth: int = 1

    def matches(self, name: str, arguments: Sequence[object]) -> bool:
        return name == self.name and any(fnmatch.fnmatchcase(text, self.pattern) for text in _texts(arguments))


def _texts(arguments: Sequence[object]) -> Iterator[str]:
    for value in arguments:
        if isinstance(value, (str, bytes, Path)):
            yield os.fsdecode(value)
        elif isinstance(value, (list, tuple)):
            yield " ".join(os.fsdecode(word) for word in value if isinstance(word, (str, bytes, Path)))
        elif isinstance(value, float):
            yield str(value)


@dataclass(frozen=True, slots=True)
class Change:
    """Any change that labkit is about to make to files, and any program or process that it starts, reaches or ends, for
    the nth time. Python's own temporary files do not count: where the file system has no O_TMPFILE they have a name
    for a moment.
    """

    nth: int
    _NAMES = frozenset(
        (
            "os.chmod", "os.kill", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink",
            "os.truncate", "shutil.rmtree", "socket.connect", "subprocess.Popen",
        )
    )  # fmt: skip

    def matches(self, name: str, arguments: Sequence[object]) -> bool:
        elsewhere = ("/dev/", "/proc/", os.environ.get("TMPDIR", "/tmp"))
        if any(text.startswith(elsewhere) for text in _texts(arguments[:1])):
            return False
        if name != "open":
            return name in self._NAMES
        flags = arguments[2]
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@dataclass(frozen=True, slots=True)
class Hold:
    """The stage at which a simulated program stands (see simulator/stages.py)."""

    stage: str


@dataclass(frozen=True, slots=True)
class Later:
    """Some seconds after an event."""

    event: Event
    seconds: float


@dataclass(frozen=True, slots=True)
class Shown:
    """A file below the current directory holds the text."""

    pattern: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """labkit waits for the lock of the machine, which another process holds."""


Point = Event | Change | Hold | Later | Shown | Waiting

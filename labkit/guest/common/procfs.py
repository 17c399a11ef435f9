"""Parsers of what the kernel prints in /proc/PID: formats as in proc(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from os.path import samestat
from pathlib import Path
from typing import Optional


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo. root: of it in its file system; options: of the mount; data: of its file system; tags:
    "shared:1", "unbindable", ...
    """

    root: str
    point: str
    type: str
    options: frozenset[str]
    data: frozenset[str]
    tags: frozenset[str]
    source: str

    @property
    def propagation(self) -> set[str]:
        """Without the numbers of the peer groups; empty: private."""
        return {tag.partition(":")[0] for tag in self.tags} - {"propagate_from"}


def mounts(text: str) -> Iterator[Mount]:
    """The mounts in a mountinfo, in its order. Lines that are none (a probe's other output) are passed over."""
    for line in text.splitlines():
        words = line.split(" ")
        if "-" in words[6:] and words[0].isdigit() and words[1].isdigit():
            dash = words.index("-", 6)
            yield Mount(
                words[3],
                re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4]),
                words[dash + 1],
                frozenset(words[5].split(",")),
                frozenset(words[dash + 3].split(",")),
                frozenset(words[6:dash]),
                words[dash + 2],
            )


def own_mounts() -> list[Mount]:
    """The mounts of this process's mount namespace, in mounting order."""
    return list(mounts(Path("/proc/self/mountinfo").read_text(errors="backslashreplace")))


def mount_at(text: str, point: str) -> Optional[Mount]:
    """The topmost mount at this path of the container, or None."""
    return {mount.point: mount for mount in mounts(text)}.get(point)


def status(text: str) -> dict[str, str]:
    """The fields of a status file: name -> value, its blanks single."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: " ".join(value.split()) for name, colon, value in pairs if colon}


def rooted_in(root: Path) -> dict[int, bytes]:
    """The processes of the host whose root is this directory, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if samestat((entry / "root").stat(), root.stat()):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes()
    return found

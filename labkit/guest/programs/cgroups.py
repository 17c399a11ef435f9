"""Finds and removes the cgroups that programs leave: they are the host's, so they do not end with a namespace."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from ..common.cgroups import remove_cgroup
from ..common.text import printable
from .schedule import CGROUP_LANE, lane

SUITES_OWN = ("cgrouptest", "testdir")  # every cgroup program uses /cgrouptest or testdir/cgrouptest/container
UNITS = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")  # systemd makes and removes these
SETTLE = 0.1  # seconds in which whoever makes a cgroup has put a process into it
REMOVE_TIMEOUT = 1.0  # seconds; a cgroup is busy for a moment after its last process ended


class Watch:
    """Look when a program starts and when it ends: a cgroup that was not there before was made by one that ran then.

    One that several could have made is removed when all of them have ended, so never under a program that needs it. Or
    somebody else on this host made it, a container engine or libvirt: then it has processes, in whichever hierarchy,
    while those of ended programs are dead. Such a one is left alone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        for path in sorted(directories(root), reverse=True):
            if path.name in SUITES_OWN:  # an earlier run's; a container of this run would join it
                _remove(path, kill=path.name == SUITES_OWN[0])
        self._known = set(directories(root))
        self._foreign: set[str] = set()  # groups, in all hierarchies, with all below them
        self._suspects: dict[Path, set[str]] = {}

    def look(self, running: Collection[str]) -> None:
        """running: the programs that ran since the last look."""
        there = {path for path in directories(self._root, self._known) if path not in self._known}
        self._suspects = {
            path: self._suspects.get(path) or set(running)
            for path in there
            if not any(f"{self._names(path)[0]}/".startswith(f"{group}/") for group in self._foreign)
        }

    def ended(self, program: str, records: Collection[str], running: Collection[str]) -> list[str]:
        """Remove the cgroups that nobody but program, or only programs that ended before, can have made; their names.

        records: its containers, whose cgroups bear their names; running: the others that run now.
        """
        self.look([program, *running])
        found: dict[str, list[str]] = {}

        def take(path: Path, mark: str = "") -> None:
            _remove(path)
            if path.is_dir():
                self._known.add(path)
                mark += " (still in use)"
            group, hierarchy = self._names(path)
            found.setdefault(f"cgroup {printable(group)}{mark}", []).append(hierarchy)

        in_lane = lane(program) == CGROUP_LANE
        for path in sorted(self._suspects):
            if path.is_dir() and (path.name in records or (in_lane and set(SUITES_OWN) & set(path.parts))):
                take(path)
        self.look([program, *running])
        for path in self._abandoned(running):
            others = self._suspects[path] - {program}
            take(path, f" (of this or of {', '.join(sorted(others))})" if others else "")
        self.look([program, *running])
        return [f"{text} in {', '.join(where)}" if any(where) else text for text, where in found.items()]

    def sweep(self) -> None:
        """When nothing runs any more: remove the rest."""
        self.look([])
        for path in self._abandoned([]):
            _remove(path)

    def _abandoned(self, running: Collection[str]) -> list[Path]:
        """The topmost new cgroups that no running program can have made, and in which nothing runs."""
        tops = [path for path in sorted(self._suspects) if path.parent not in self._suspects]
        tops = [path for path in tops if not self._suspects[path] & set(running)]
        if tops:
            time.sleep(SETTLE)
        self._foreign |= {self._names(path)[0] for path in tops if _occupied(path)}
        return [path for path in tops if self._names(path)[0] not in self._foreign]

    def _names(self, path: Path) -> tuple[str, str]:
        """A cgroup's path in its hierarchy, and the hierarchy's name, which is empty for cgroup v2."""
        words = path.relative_to(self._root).parts
        if (self._root / "cgroup.controllers").exists():
            return f"/{'/'.join(words)}", ""
        return f"/{'/'.join(words[1:])}", words[0]


def directories(root: Path, known: Collection[Path] = ()) -> Iterator[Path]:
    """Every cgroup below root but systemd's new units, parents first. Of a leaf (two links) no entry is read."""
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            if directory != root:
                yield directory
            if directory.stat().st_nlink != 2:
                with os.scandir(directory) as entries:
                    below = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
                waiting += [path for path in below if path in known or not path.name.endswith(UNITS)]
        except OSError:
            continue


def _remove(path: Path, *, kill: bool = False) -> None:
    remove_cgroup(path, time.monotonic() + REMOVE_TIMEOUT, kill=kill)


def _occupied(top: Path) -> bool:
    """Whether a process is in a cgroup or below it."""
    for directory in [top, *directories(top)]:
        with suppress(OSError):
            if (directory / "cgroup.procs").read_text().strip():
                return True
    return False

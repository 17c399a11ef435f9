"""What an engine leaves in its machine: processes, mounts and cgroups that were not there before."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from ..common.procfs import own_mounts

_CGROUPS = Path("/sys/fs/cgroup")
_WAIT = 5.0  # seconds in which what ends has ended


class Snapshot:
    def __init__(self) -> None:
        self.processes = _processes()
        self.mounts = {mount.point for mount in own_mounts()}
        self.cgroups = _cgroups()

    def left(self, own: set[int]) -> list[str]:
        """What is there now and was not then, after a while for what is ending; own are processes that may be, and so
        may their children.
        """
        deadline = time.monotonic() + _WAIT
        while True:
            found = self._left(own)
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def _left(self, own: set[int]) -> list[str]:
        now = _processes()
        new = [
            command for key, command in now.items() if key not in self.processes and not _is_of(key[0], own) and command
        ]
        found = [f"process {command}" for command in new]
        found += [f"mount {point}" for point in {mount.point for mount in own_mounts()} - self.mounts]
        found += [f"cgroup {path}" for path in _cgroups() - self.cgroups]
        return sorted(map(plain, found))


def plain(text: str) -> str:
    """Without what differs from one container to the next: identifiers and numbers."""
    text = re.sub(r"\b[0-9a-f]{12,64}\b", "ID", text)
    return re.sub(r"\blk[0-9a-f]+-[0-9]+\b", "NAME", re.sub(r"\b[0-9]{3,}\b", "N", text))


def _processes() -> dict[tuple[int, str], str]:
    """The command lines of all processes but kernel threads and zombies, by pid and time of start."""
    found: dict[tuple[int, str], str] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                stat = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()
                command = Path("/proc", name, "cmdline").read_bytes()[:300].rstrip(b"\0").replace(b"\0", b" ")
                if stat[0] not in "ZX":
                    found[int(name), stat[19]] = command.decode("utf-8", "replace")
    return found


def _is_of(pid: int, own: set[int]) -> bool:
    """Whether it is one of own, or a descendant of one."""
    while pid > 1:
        if pid in own:
            return True
        try:
            pid = int(Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return True  # it has ended
    return False


def _cgroups() -> set[str]:
    return {str(path) for path, _, _ in os.walk(_CGROUPS)}

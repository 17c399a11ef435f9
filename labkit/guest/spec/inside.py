"""Whether a container's processes are the host's. Those of a runtime with a kernel of its own (gVisor, a VM) are not:
the pid in its state is of something that stands for them, and /proc/PID says nothing of what is inside."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .context import Container


def rooted_in(root: Path) -> dict[int, bytes]:
    """The processes of the host whose root is this directory, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if os.path.samestat((entry / "root").stat(), root.stat()):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes()
    return found


def in_host(c: Container) -> bool:
    """The process of a created or running container can be looked at."""
    return c._t.sees_processes

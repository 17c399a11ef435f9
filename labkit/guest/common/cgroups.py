"""The cgroup file systems of this host."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def cgroup_version() -> str:
    """ "v1", "v2", or "hybrid": v1 with a v2 hierarchy that has no controllers."""
    if (CGROUP_ROOT / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (CGROUP_ROOT / "unified/cgroup.controllers").exists() else "v1"


def enable_controllers(cgroup: Path) -> None:
    """Let the cgroups below it have each controller that it has, as far as the kernel lets them."""
    with suppress(OSError):
        for name in (cgroup / "cgroup.controllers").read_text().split():
            with suppress(OSError):
                (cgroup / "cgroup.subtree_control").write_text(f"+{name}")


def remove_cgroup(top: Path, deadline: float, *, kill: bool) -> None:
    """Remove a cgroup and all below it, trying until the deadline. kill: first kill the processes in them."""
    while True:
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                Path(directory).rmdir()
            except OSError:
                if kill:
                    _kill_all(Path(directory))
        if not top.is_dir() or time.monotonic() > deadline:
            return
        if kill:
            thaw(top)
        time.sleep(0.01)


def thaw(top: Path) -> None:
    """Let the processes of a cgroup and of all below it go on."""
    for directory, _, files in os.walk(top):
        for name, text in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            if name in files:
                with suppress(OSError):
                    Path(directory, name).write_text(text)


def _kill_all(cgroup: Path) -> None:
    with suppress(OSError):
        for pid in (cgroup / "cgroup.procs").read_text().split():
            with suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)

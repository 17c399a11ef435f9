"""Removing what a check left behind: containers, processes, cgroups, mounts, files."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Optional

from ..common.cgroups import CGROUP_ROOT, remove_cgroup, thaw
from ..common.files import remove_tree
from ..common.procfs import own_mounts
from . import process
from .host import Host, environment, given

MARKER = "LABKIT_CHECK"
RECORDS = Path("/run")  # every runtime we know keeps its state below it


def cgroup_parents() -> list[Path]:
    """Where an absolute or a relative cgroupsPath may end up: the top and our own cgroup of every hierarchy."""
    found = []
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            own[name.replace("name=", "")] = path
    for mount in mount_points():
        if mount == CGROUP_ROOT or mount.parent == CGROUP_ROOT:
            name = "" if mount == CGROUP_ROOT or mount.name == "unified" else mount.name.split(",")[0]
            found += [mount, mount / own.get(name, "/").lstrip("/")]
    return list(dict.fromkeys(found))


def can_make_cgroups() -> bool:
    """Whether they can be made wherever a runtime would, of each hierarchy: not where nothing is delegated to us."""
    name = f"labkit-try-{os.getpid():x}"
    for parent in cgroup_parents():
        if parent.is_dir():
            try:
                (parent / name).mkdir()
                (parent / name).rmdir()
            except OSError:
                return False
    return True


def mount_points() -> list[Path]:
    """In mounting order."""
    return [Path(mount.point) for mount in own_mounts()]


def processes_of(marker: str, work: Path, cgroup: str) -> Iterator[int]:
    """Processes that carry the check's environment marker, are in its cgroups, or hold files of its directory."""
    wanted = f"{MARKER}={marker}".encode()
    group, files = f"{cgroup}/".encode(), f"{work}/"
    for name in os.listdir("/proc"):  # noqa: PTH208, of what is done for every check nothing is done with Paths
        if not name.isdigit() or int(name) in (1, os.getpid()):
            continue
        process = f"/proc/{name}/"
        with suppress(OSError):
            if (
                wanted in _read(f"{process}environ").split(b"\0")
                or group in _read(f"{process}cgroup").replace(b"\n", b"/\n")
                or any(os.readlink(f"{process}fd/{fd}").startswith(files) for fd in "012")  # noqa: PTH115
            ):
                yield int(name)


def _read(path: str) -> bytes:
    """Nothing where that is not allowed, or the process has ended."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""


def remove(marker: str, work: Path, ids: Optional[Path], cgroups: Iterable[Path], cgroup: str, host: Host) -> None:
    """Everything of one check, in 20 seconds or so.

    marker: value of LABKIT_CHECK; ids: list of its containers, None: no record of them outlives this suite; cgroups:
    cgroup_parents(); cgroup: its cgroupsPath prefix.

    The processes go first: a runtime that hangs may hold locks `delete` waits for. Frozen ones are thawed before that:
    nothing ends in a frozen cgroup, and on v1 every other hierarchy would be waited for.
    """
    deadline = time.monotonic() + 20
    places = [parent / cgroup.lstrip("/") for parent in cgroups]
    for group in filter(Path.is_dir, places):
        thaw(group)
    again = _kill_all(marker, work, cgroup)
    if ids:
        again = delete_containers(ids, host, deadline) or again
        with suppress(OSError):
            ids.unlink()
    if again:  # what has ended, or was asked for, may have made more
        _kill_all(marker, work, cgroup)
    for group in filter(Path.is_dir, places):
        remove_cgroup(group, deadline, kill=True)
    unmount_below(work, host.busybox, deadline)
    remove_tree(work)


def _kill_all(marker: str, work: Path, cgroup: str) -> bool:
    """Whether there were any."""
    found = list(processes_of(marker, work, cgroup))
    for pid in found:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def unmount_below(directory: Path, busybox: str, deadline: float) -> None:
    if str(directory).encode() not in _read("/proc/self/mountinfo"):
        return
    for mount in reversed([mount for mount in mount_points() if directory == mount or directory in mount.parents]):
        left = max(deadline - time.monotonic(), 1)
        null = Path("/dev/null")
        process.run([busybox, "umount", "-l", str(mount)], stdout=null, stderr=null, timeout=left)


def sweep_cgroups(name: str) -> None:
    """Remove every cgroup called `name`, or after an id of this run, which begins so, wherever a runtime put it."""
    ours = re.compile(rf"(.*[^A-Za-z0-9])?{re.escape(name)}(-.*|\.scope)?")
    for directory, below, _ in os.walk(CGROUP_ROOT):
        for found in [one for one in below if ours.fullmatch(one)]:
            below.remove(found)
            remove_cgroup(Path(directory) / found, time.monotonic() + 5, kill=True)


def delete_containers(ids: Path, host: Host, deadline: float) -> bool:
    """`delete --force` what the list still names: `+ID` before a create, `-ID` after a delete that worked. `?ID`, after
    a create that was refused, only where there is a record of it. Whether there was any.
    """
    left: dict[str, str] = {}
    with suppress(OSError):
        for line in ids.read_text().splitlines():
            left[line[1:]] = line[0]
    top = ids.parent.parent
    said = top / f"{ids.name}.delete"  # no device: a runtime may chown it, and this may be the host's
    there = [id for id, sign in left.items() if sign == "+" or (sign == "?" and next(records(id), None))]
    for id in there:
        seconds = min(10, max(deadline - time.monotonic(), 1))
        with suppress(OSError):
            words = [*host.runtime, "delete", "--force", id]
            process.run(words, stdout=said, stderr=said, timeout=seconds, env=environment(top))
    return bool(there)


def records(id: str) -> Iterator[Path]:
    """What is called after a container where runtimes keep their records."""
    name = Path(id).name
    for directory, directories, files in os.walk(RECORDS):
        yield from (Path(directory) / found for found in [*directories, *files] if name in found)
        others = ("udev", "systemd") if given() else ("user", "udev", "systemd")
        directories[:] = [found for found in directories if found not in others]

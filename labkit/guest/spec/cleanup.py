"""Removing what a check left behind: containers, processes, cgroups, mounts, files."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..common.cgroups import CGROUP_ROOT, remove_cgroup, thaw
from ..common.files import remove_tree
from ..common.procfs import own_mounts
from . import process
from .host import Host, environment

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
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (1, os.getpid()):
            continue
        with suppress(OSError):
            groups = (entry / "cgroup").read_text().splitlines()
            if (
                any(f"{cgroup}/" in f"{line}/" for line in groups)
                or wanted in (entry / "environ").read_bytes().split(b"\0")
                or any(str((entry / "fd" / fd).readlink()).startswith(f"{work}/") for fd in ("0", "1", "2"))
            ):
                yield int(entry.name)


def remove(marker: str, work: Path, ids: Path, cgroup: str, host: Host) -> None:
    """Everything of one check, in 20 seconds or so.

    marker: value of LABKIT_CHECK; ids: list of its containers; cgroup: its cgroupsPath prefix.

    The processes go first: a runtime that hangs may hold locks `delete` waits for. Frozen ones are thawed before that:
    nothing ends in a frozen cgroup, and on v1 every other hierarchy would be waited for.
    """
    deadline = time.monotonic() + 20
    groups = [parent / cgroup.lstrip("/") for parent in cgroup_parents()]
    for group in groups:
        thaw(group)
    for pid in list(processes_of(marker, work, cgroup)):
        _kill(pid)
    delete_containers(ids, host, deadline)
    for pid in list(processes_of(marker, work, cgroup)):
        _kill(pid)
    for group in groups:
        remove_cgroup(group, deadline, kill=True)
    unmount_below(work, host.busybox, deadline)
    remove_tree(work)
    with suppress(OSError):
        ids.unlink()


def unmount_below(directory: Path, busybox: str, deadline: float) -> None:
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


def delete_containers(ids: Path, host: Host, deadline: float) -> None:
    """`delete --force` what the list still names: `+ID` before a create, `-ID` after a delete that worked. `?ID`, after
    a create that was refused, only where there is a record of it.
    """
    left: dict[str, str] = {}
    with suppress(OSError):
        for line in ids.read_text().splitlines():
            left[line[1:]] = line[0]
    top = ids.parent.parent
    said = top / f"{ids.name}.delete"  # no device: a runtime may chown it, and this may be the host's
    for id in [id for id, sign in left.items() if sign == "+" or (sign == "?" and next(records(id), None))]:
        seconds = min(10, max(deadline - time.monotonic(), 1))
        with suppress(OSError):
            words = [*host.runtime, "delete", "--force", id]
            process.run(words, stdout=said, stderr=said, timeout=seconds, env=environment(top))


def records(id: str) -> Iterator[Path]:
    """What is called after a container where runtimes keep their records."""
    name = Path(id).name
    for directory, directories, files in os.walk(RECORDS):
        yield from (Path(directory) / found for found in [*directories, *files] if name in found)
        directories[:] = [found for found in directories if found not in ("user", "udev", "systemd")]


def _kill(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)

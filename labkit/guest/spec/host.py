"""Facts about this host."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..common.cgroups import cgroup_version
from ..common.errors import UsageError
from ..common.executables import executables

ALL_IDS = 2**32 - 1
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


AS_USER = "LABKIT_SPEC_USER"  # in the environment of a suite that root has started as an ordinary user


@dataclass(frozen=True)
class Given:
    """What root gave the ordinary user that the suite runs as. uid: on the host; lock: a descriptor to be held."""

    name: str
    uid: int
    home: str
    lock: Optional[int]

    def __str__(self) -> str:
        return f"{'' if self.lock is None else self.lock}:{self.uid}:{self.name}:{self.home}"

    @property
    def session(self) -> Path:
        """XDG_RUNTIME_DIR: on a file system of the suite's own, see place.private."""
        return Path(f"/run/user/{self.uid}")


def given() -> Optional[Given]:
    """None where the suite runs as whoever started it."""
    if AS_USER not in os.environ:
        return None
    lock, uid, name, home = os.environ[AS_USER].split(":", 3)
    return Given(name, int(uid), home, int(lock) if lock else None)


def environment(temporary: Path) -> dict[str, str]:
    """What the runtime, and whatever else is started, finds in its environment: nothing that we were given."""
    made = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TMPDIR": str(temporary)}
    if user := given():
        made |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name, "XDG_RUNTIME_DIR": str(user.session)}
    return made


@dataclass(frozen=True)
class Host:
    """runtime: the path of the program, then the arguments that come before every command; cgroup: "v1", "hybrid" or
    "v2"; kernel: numbers of its release; mapped: how many user ids are mapped here,
    ALL_IDS where all are; delegated: cgroups can be made.
    """

    runtime: tuple[str, ...]
    busybox: str
    cgroup: str
    kernel: tuple[int, ...]
    mapped: int
    delegated: bool = True

    @property
    def in_user_namespace(self) -> bool:
        return self.mapped < ALL_IDS


def find_busybox() -> str:
    for path in executables("busybox", "busybox-static", "busybox.static"):
        with suppress(OSError):  # one that we may run, but not read
            if _is_static(path):
                return str(path.resolve())
    raise UsageError("no statically linked busybox on this host (Debian, Ubuntu: busybox-static; Fedora: busybox)")


def _is_static(path: Path) -> bool:
    """An ELF executable without PT_INTERP: needs no loader, so it runs in a root file system of its own."""
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:4] != b"\x7fELF":
            return False
        order = "<" if head[5] == 1 else ">"
        wide = head[4] == 2
        offset = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
        size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
        file.seek(offset)
        table = file.read(size * count)
    types = [struct.unpack_from(order + "I", table, at)[0] for at in range(0, len(table) - 3, size or 1)]
    return bool(types) and 3 not in types


def this_host(runtime: Sequence[str], busybox: str) -> Host:
    numbers = re.findall(r"\d+", os.uname().release)
    mapped = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    release = tuple(int(number) for number in numbers[:3])
    return Host(tuple(runtime), busybox, cgroup_version(), release, mapped)

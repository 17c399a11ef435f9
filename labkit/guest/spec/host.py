"""Facts about this host."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..common.cgroups import cgroup_version
from ..common.errors import UsageError
from ..common.executables import executables

ALL_IDS = 2**32 - 1
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(temporary: Path) -> dict[str, str]:
    """What the runtime, and whatever else is started, finds in its environment: nothing that we were given."""
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TMPDIR": str(temporary)}


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

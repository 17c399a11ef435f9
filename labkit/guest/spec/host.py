"""Facts about this host."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from ..common.cgroups import cgroup_version
from ..common.errors import UsageError
from ..common.executables import executables


@dataclass(frozen=True)
class Host:
    runtime: str
    busybox: str
    cgroup: str
    kernel: tuple[int, ...]


def find_busybox() -> str:
    for path in executables("busybox", "busybox-static", "busybox.static"):
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


def this_host(runtime: str, busybox: str) -> Host:
    numbers = re.findall(r"\d+", os.uname().release)
    return Host(runtime, busybox, cgroup_version(), tuple(int(number) for number in numbers[:3]))

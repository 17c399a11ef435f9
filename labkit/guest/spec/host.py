"""What this host and the runtime under test are."""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from . import process

CGROUP_ROOT = Path("/sys/fs/cgroup")
OLDEST_CLAIM = (1, 0, 2)  # what a runtime is held to that does not say


class UsageError(Exception):
    """Wrong words or a host that cannot run the suite: one line for stderr, exit status 2."""


@dataclass(frozen=True)
class Host:
    runtime: str
    busybox: str
    cgroup: str
    kernel: tuple[int, ...]


@dataclass(frozen=True)
class RuntimeInfo:
    """What the runtime says about itself. version: one printable line."""

    version: str
    spec: tuple[int, int, int]
    features: Optional[dict[str, Any]]


def find_runtime(name: str) -> str:
    directories = [""] if "/" in name else os.environ.get("PATH", os.defpath).split(":")
    paths = [Path(directory, name) for directory in directories]
    for path in paths:
        if path.is_file() and os.access(path, os.X_OK):
            return str(path.absolute())  # symbolic links are kept for programs that look at argv[0]
    raise UsageError(f"runtime {name!r} " + ("is not executable" if any(map(Path.exists, paths)) else "not found"))


def find_busybox() -> str:
    for directory in [
        *os.environ.get("PATH", "").split(":"),
        "/bin",
        "/usr/bin",
        "/sbin",
        "/usr/sbin",
        "/usr/local/bin",
    ]:
        for name in ("busybox", "busybox-static", "busybox.static"):
            path = Path(directory or ".") / name
            if os.access(path, os.X_OK) and path.is_file() and _is_static(path):
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


def look(runtime: str, busybox: str) -> Host:
    numbers = re.findall(r"\d+", os.uname().release)
    if (CGROUP_ROOT / "cgroup.controllers").exists():
        cgroup = "v2"
    else:
        cgroup = "hybrid" if (CGROUP_ROOT / "unified/cgroup.controllers").exists() else "v1"
    return Host(runtime, busybox, cgroup, tuple(int(number) for number in numbers[:3]))


def ask_runtime(runtime: str, work: Path, timeout: float = 10) -> RuntimeInfo:
    """`--version` and `features`; whatever comes back, or nothing, this returns."""
    said = _ask([runtime, "--version"], work, timeout)
    lines = said.splitlines()
    version = re.sub(r"[^\x20-\x7e]", "?", lines[0])[:200] if lines else "unknown"
    features: Optional[dict[str, Any]] = None
    if lines:  # one that does not even know --version is not asked twice
        try:
            answer = json.loads(_ask([runtime, "features"], work, timeout))
            features = answer if isinstance(answer, dict) else None
        except (ValueError, RecursionError):
            features = None
    spec = re.search(r"^spec:\s*(\S+)", said, re.MULTILINE)
    claimed = parse_version((features or {}).get("ociVersionMax")) or parse_version(spec and spec[1])
    return RuntimeInfo(version, claimed or OLDEST_CLAIM, features)


def parse_version(text: object) -> Optional[tuple[int, int, int]]:
    match = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _ask(argv: list[str], work: Path, timeout: float) -> str:
    try:
        done = process.run(argv, stdout=work / "ask.out", stderr=work / "ask.err", timeout=timeout)
    except OSError as error:
        raise UsageError(f"runtime {argv[0]!r} cannot be executed: {error.strerror}") from error
    return done.stdout if done.ok else ""

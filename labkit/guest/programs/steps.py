"""What scenarios are made of: points in a TAP stream, commands, a bundle with runtimetest in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..common.children import kill_group
from ..common.executables import find_program
from .evidence import Evidence
from .host import Tree

MESSAGE_LIMIT = 4000
LISTING_LIMIT = 1 << 20  # bytes; that of an image of runtimetest has 40 KB
OVERDUE = 124  # what timeout(1) exits with


class Skip(Exception):
    """The scenario cannot run here; the message says why."""


class Stop(Exception):
    """A step failed that the following steps need."""


@dataclass(frozen=True)
class Work:
    """What a scenario works with."""

    tree: Tree
    runtime: str
    evidence: Evidence


class Steps:
    """Test points in a TAP stream, one per command."""

    def __init__(self) -> None:
        self._count = 0

    def run(self, what: str, argv: Sequence[str], env: Optional[Mapping[str, str]] = None) -> None:
        """Raises Stop after a `not ok` when the command fails."""
        status, said = captured(argv, env)
        self.point(status == 0, what, {"command": " ".join(argv), "status": status, "error": said})
        if status:
            raise Stop

    def point(self, ok: bool, what: str, diagnostic: Mapping[str, object], skip: str = "") -> None:
        if not self._count:
            _print("TAP version 13")
        self._count += 1
        _print(f"{'ok' if ok else 'not ok'} {self._count} - {what}" + (f" # SKIP {skip}" if skip else ""))
        if not ok:
            _print("  ---", *(f"  {line}" for line in json.dumps(diagnostic, indent=2).splitlines()), "  ...")

    def plan(self) -> None:
        _print(f"1..{self._count}")


def skipped(reason: str) -> int:
    """Print that nothing was run, and why."""
    _print("TAP version 13", f"1..0 # SKIP {reason}")
    return 0


def make_bundle(tree: Tree) -> str:
    """Make a bundle here, with runtimetest and config.json in its rootfs too; the path of oci-runtime-tool."""
    tool = tree.tool("oci-runtime-tool")
    if tool is None:
        raise Skip("oci-runtime-tool is neither in the tree (make tool) nor installed")
    rootfs = Path("rootfs")
    rootfs.mkdir()
    words = ["--args", "/runtimetest", "--args", "--path=/", "--output", "config.json"]
    for argv in (["tar", "-xf", str(tree.rootfs), "-C", "rootfs"], [tool, "generate", *words]):
        status, said = captured(argv)
        if status:
            sys.stderr.write(f"{argv[0]}: status {status}: {said}\n")
            raise Stop
    for file in (tree.path / "runtimetest", Path("config.json")):
        (rootfs / file.name).write_bytes(file.read_bytes())
    (rootfs / "runtimetest").chmod(0o755)
    return tool


def required(name: str) -> str:
    path = find_program(name)
    if path is None:
        raise Skip(f"{name} is not installed")
    return path


def captured(
    argv: Sequence[str],
    env: Optional[Mapping[str, str]] = None,
    *,
    limit: int = MESSAGE_LIMIT,
    seconds: Optional[float] = None,
) -> tuple[int, str]:
    """Exit status of a command, and the first limit bytes of what it printed on both streams. After seconds it is
    killed with all that it started: status OVERDUE.
    """
    with open("captured", "w+b") as file:  # noqa: PTH123
        child = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        more = ""
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(child.pid)
            child.wait()
            status, more = OVERDUE, f"\nit had not ended after {seconds:g} s and was killed"
        file.seek(0)
        return status, (file.read(limit).decode("utf-8", "replace").strip() + more).strip()


def _print(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()

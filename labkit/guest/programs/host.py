"""The tree of programs, and the facts about this host and the runtime under test."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from ..common import versions
from ..common.cgroups import cgroup_version
from ..common.claims import RuntimeClaims, answer
from ..common.errors import UsageError
from ..common.executables import find_program
from ..common.text import printable

# How many CPUs a program asks a cgroup for, whatever the host has.
CPUS = {"linux_cgroups_relative_cpus": 2}
REF_FILE = ".labkit-ref"  # the ref a tree was built at, where it is no git checkout
Facts = dict[str, Union[str, int, float, bool]]


class HostError(Exception):
    """Programs cannot be run on this host: one line on stderr, exit status 3."""


@dataclass(frozen=True)
class Tree:
    """A built tree of runtime-tools. path: absolute."""

    path: Path

    @property
    def programs(self) -> dict[str, Path]:
        """The executable files validation/X/X.t by X, sorted by name."""
        found = sorted((self.path / "validation").glob("*/*.t"))
        return {file.stem: file for file in found if file.stem == file.parent.name and os.access(file, os.X_OK)}

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs-amd64.tar.gz"

    def tool(self, name: str) -> Optional[str]:
        """The path of a program built in the tree or installed on the host, or None."""
        built = self.path / name
        return str(built) if os.access(built, os.X_OK) and built.is_file() else find_program(name)


def unfit(program: str, cpus: Optional[int] = None) -> str:
    """Why this host cannot show what the program looks for; empty where it can. cpus: those of the host, if known."""
    cpus = cpus or os.cpu_count() or 1
    needed = CPUS.get(program, 1)
    return f"it needs {needed} CPUs, and this machine has {cpus}" if cpus < needed else ""


def find_tree(directory: str, with_programs: bool) -> Tree:
    """Raises UsageError unless `make runtimetest`, and `validation-executables` if wanted, was run in the directory."""
    tree = Tree(Path(directory).absolute())
    if not tree.path.is_dir():
        raise UsageError(f"no directory {directory!r}")
    missing = [] if os.access(tree.path / "runtimetest", os.X_OK) else ["runtimetest"]
    missing += [] if any(tree.path.glob("rootfs-*.tar.gz")) else ["rootfs-*.tar.gz"]
    missing += ["validation/*/*.t"] if with_programs and not tree.programs else []
    if missing:
        raise UsageError(
            f"the tree {directory!r} is not built, it lacks {', '.join(missing)}: "
            "make runtimetest validation-executables"
        )
    return tree


def fitting(directory: str, version: str, older: Iterable[Sequence[str]]) -> str:
    """The tree for the runtime that says this about its version: DIRECTORY-REF where one of the triples (runtime,
    version, ref) in older names it in a version before that one and there is such a tree, else directory.
    """
    told, number = versions.told(version)
    found = versions.key(number)
    for name, before, ref in older:
        newer = versions.key(before)
        if told == name and found and newer and found < newer and Path(f"{directory}-{ref}").is_dir():
            return f"{directory}-{ref}"
    return directory


def facts(runtime: str, claims: RuntimeClaims, tree: Tree) -> Facts:
    known = ref(tree)
    return {
        "kernel": os.uname().release,
        "cgroup": cgroup_version(),
        "runtime-path": runtime,
        "runtime-version": claims.version,
        "spec": claims.spec_text,
        **({"ref": known} if known else {}),
    }


def ref(tree: Tree) -> str:
    """The ref of a tree as `git describe` prints it, "" if unknown."""
    with suppress(OSError):
        return printable((tree.path / REF_FILE).read_text(errors="replace").strip())
    git = find_program("git")
    words = ["-c", "safe.directory=*", "-C", str(tree.path), "describe", "--tags", "--always"]
    return printable(answer([git, *words]).strip()) if git else ""

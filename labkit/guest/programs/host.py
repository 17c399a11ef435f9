"""What this host, the runtime under test and the tree of programs are."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

CGROUP_ROOT = Path("/sys/fs/cgroup")
OLDEST_CLAIM = "1.0.2"  # what a runtime is held to that does not say
REF_FILE = ".labkit-ref"  # the ref a tree was built at, where it is no git checkout
Facts = dict[str, Union[str, int, float, bool]]


class UsageError(Exception):
    """Wrong words, or nothing there to run: one line for stderr, exit status 2."""


class HostError(Exception):
    """This host cannot hold the programs: one line for stderr, exit status 3."""


@dataclass(frozen=True)
class Tree:
    """A built tree of runtime-tools. path: absolute."""

    path: Path

    @property
    def programs(self) -> dict[str, Path]:
        """validation/X/X.t by X, in the order of the names."""
        found = sorted((self.path / "validation").glob("*/*.t"))
        return {file.stem: file for file in found if file.stem == file.parent.name and os.access(file, os.X_OK)}

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs-amd64.tar.gz"

    def tool(self, name: str) -> Optional[str]:
        """A program of the tree or of the host, or None."""
        built = self.path / name
        return str(built) if os.access(built, os.X_OK) and built.is_file() else find_program(name)


def find_tree(directory: str, with_programs: bool) -> Tree:
    """UsageError unless the directory holds what `make runtimetest`, and `validation-executables`, makes."""
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


def find_runtime(name: str) -> str:
    directories = [""] if "/" in name else os.environ.get("PATH", os.defpath).split(":")
    paths = [Path(directory, name) for directory in directories]
    for path in paths:
        if path.is_file() and os.access(path, os.X_OK):
            return str(path.absolute())  # symbolic links are kept for programs that look at argv[0]
    raise UsageError(f"runtime {name!r} " + ("is not executable" if any(map(Path.exists, paths)) else "not found"))


def find_program(name: str) -> Optional[str]:
    for directory in [
        *os.environ.get("PATH", "").split(":"),
        "/bin",
        "/usr/bin",
        "/sbin",
        "/usr/sbin",
        "/usr/local/bin",
    ]:
        path = Path(directory or ".", name)
        if path.is_file() and os.access(path, os.X_OK):
            return str(path.absolute())
    return None


def nearest(word: str, known: Iterable[str]) -> list[str]:
    return sorted(known, key=lambda name: _distance(word, name))[:3]


def _distance(a: str, b: str) -> int:
    """Edit distance; python3-minimal has no difflib."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def version(runtime: str) -> str:
    """What it answers to --version; UsageError if it cannot be executed."""
    return _ask([runtime, "--version"])


def fitting(directory: str, said: str, older: Iterable[Sequence[str]]) -> str:
    """The tree for the runtime that said this about its version: DIRECTORY-REF where one of the triples (runtime,
    version, ref) in older names it in a version before that one and there is such a tree, else directory.
    """
    told = re.match(r"(\S+) version (\d[\d.]*)", said)
    for name, before, ref in older:
        if told and told[1] == name and _numbers(told[2]) < _numbers(before) and Path(f"{directory}-{ref}").is_dir():
            return f"{directory}-{ref}"
    return directory


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(".") if number]


def facts(runtime: str, said: str, tree: Tree) -> Facts:
    """said: what version() returned. Whatever else comes back, or nothing, this returns."""
    newest: object = None
    if said:  # one that does not even know --version is not asked twice
        with suppress(ValueError, RecursionError, AttributeError):
            newest = json.loads(_ask([runtime, "features"])).get("ociVersionMax")
    line = re.search(r"^spec:\s*(\S+)", said, re.MULTILINE)
    known = ref(tree)
    return {
        "kernel": os.uname().release,
        "cgroup": cgroup_version(),
        "runtime-path": runtime,
        "runtime-version": _line(said.partition("\n")[0]) or "unknown",
        "spec": _version(newest) or _version(line and line[1]) or OLDEST_CLAIM,
        **({"ref": known} if known else {}),
    }


def _version(text: object) -> Optional[str]:
    match = re.match(r"\d{1,4}\.\d{1,4}\.\d{1,4}", text) if isinstance(text, str) else None
    return match[0] if match else None


def cgroup_version() -> str:
    if (CGROUP_ROOT / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (CGROUP_ROOT / "unified/cgroup.controllers").exists() else "v1"


def ref(tree: Tree) -> str:
    """Of its commit, as git describes it; "" where there is none."""
    with suppress(OSError):
        return _line((tree.path / REF_FILE).read_text(errors="replace"))
    git = find_program("git")
    words = ["-c", "safe.directory=*", "-C", str(tree.path), "describe", "--tags", "--always"]
    return _line(_ask([git, *words])) if git else ""


def _line(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text.strip())[:200]


def _ask(argv: Sequence[str], timeout: float = 10, limit: int = 1 << 16) -> str:
    """The first bytes of stdout of a program that succeeds in time, else ""; UsageError if it cannot be executed."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
    except OSError as error:
        raise UsageError(f"{argv[0]!r} cannot be executed: {error.strerror}") from error
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + timeout
    with process.stdout as pipe:
        while len(said) < limit and select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            piece = pipe.read(limit)
            if not piece:
                break
            said += piece
    try:
        status = process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    return said.decode("utf-8", "replace") if status == 0 else ""

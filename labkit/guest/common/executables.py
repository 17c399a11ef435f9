"""Finding programs on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from .errors import UsageError

_USUAL = ("/bin", "/usr/bin", "/sbin", "/usr/sbin", "/usr/local/bin")  # root's PATH may lack some of them


def executables(*names: str) -> Iterator[Path]:
    """The executable files with one of these names, in the directories of PATH and in the usual ones."""
    for directory in [*os.environ.get("PATH", "").split(":"), *_USUAL]:
        for name in names:
            path = Path(directory or ".", name)
            if _is_executable(path):
                yield path


def find_program(name: str) -> Optional[str]:
    """The absolute path of a program, or None."""
    return next((str(path.absolute()) for path in executables(name)), None)


def find_runtime(name: str) -> str:
    """The absolute path of the runtime under test, given its path or a name in PATH. Raises UsageError."""
    directories = [""] if "/" in name else os.environ.get("PATH", os.defpath).split(":")
    paths = [Path(directory, name) for directory in directories]
    for path in paths:
        if _is_executable(path):
            return str(path.absolute())  # symbolic links are kept for programs that look at argv[0]
    raise UsageError(f"runtime {name!r} " + ("is not executable" if any(map(os.path.lexists, paths)) else "not found"))


def _is_executable(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.X_OK)
    except OSError:  # in a directory that we may not look into
        return False

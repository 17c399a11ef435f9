"""Removing directories."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path


def remove_tree(top: Path, timeout: float = 30) -> None:
    """shutil.rmtree, which python3-minimal lacks. What cannot be removed, or not within timeout seconds, stays."""
    deadline = time.monotonic() + timeout
    for directory, directories, files in os.walk(top, topdown=False):
        if time.monotonic() > deadline:
            return
        for name in [*files, *directories]:
            path = Path(directory, name)
            with suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink()
    with suppress(OSError):
        top.rmdir()

"""Removing directories."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path


def remove_tree(top: Path, timeout: float = 30) -> None:
    """shutil.rmtree, which python3-minimal lacks. What cannot be removed, or not within timeout seconds, stays.

    On names, not Paths: the suite removes some 40000 files.
    """
    deadline = time.monotonic() + timeout
    found = [os.fspath(top)]
    for directory in found:  # it grows
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in list(entries):
                if time.monotonic() > deadline:
                    return
                if entry.is_dir(follow_symlinks=False):
                    found.append(entry.path)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)  # noqa: PTH108
    for directory in reversed(found):
        with suppress(OSError):
            os.rmdir(directory)  # noqa: PTH106

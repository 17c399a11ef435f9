"""Who a suite runs as, where that is not root: `--user`."""

from __future__ import annotations

import re

from labkit.core.errors import UsageError
from labkit.core.text import truncate

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # what useradd takes everywhere


def check(name: str) -> None:
    """UsageError unless it is empty or can be the name of an ordinary user."""
    if name == "root":
        raise UsageError("--user is root, who runs the suite without it", hint="leave --user out")
    if name and not _NAME.fullmatch(name):
        raise UsageError(
            f"--user is {truncate(name, 100)!r}, which is no name of a user",
            hint="up to 32 of a-z, 0-9, _ and -, the first a letter or _",
        )

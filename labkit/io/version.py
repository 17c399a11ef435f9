"""Which labkit this is."""

from __future__ import annotations

import functools

import labkit
from labkit.core import resources
from labkit.core.errors import LabError
from labkit.io import process


@functools.cache
def full() -> str:
    """The version and, in a checkout where git can tell, the commit: `0.1.0 (1a2b3c4)`."""
    found = _commit()
    return f"{labkit.__version__} ({found})" if found else labkit.__version__


def _commit() -> str:
    root = resources.root()
    if not (root / ".git").exists():  # an installed labkit may lie in somebody else's repository
        return ""
    # git refuses the repositories of others, such as root with sudo; reading the name of a commit runs nothing of it.
    argv = ["git", "-c", f"safe.directory={root}", "-C", str(root), "rev-parse", "--short", "HEAD"]
    try:
        return process.run(argv, timeout=10).stdout.strip()
    except LabError:  # no git, or no commit yet
        return ""

"""git, as this lab calls it: it asks nobody anything, waits no longer than it is told, and trusts whose a tree is."""

from __future__ import annotations

import re
from pathlib import Path

from labkit.core.errors import LabError
from labkit.io import process

ASK = 60.0  # seconds for a question to a repository
_PASSING = ("SSH_AUTH_SOCK", "GIT_SSH*", "GIT_SSL*", "GIT_CONFIG*")


def git(path: Path, *words: str | Path, check: bool = True, timeout: float = ASK) -> process.Completed:
    """Run git in a directory. ProgramFailed."""
    # As root, git refuses a repository of the user who called sudo without this.
    argv: list[str | Path] = ["git", "-c", "safe.directory=*", "-C", path, *words]
    environment = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
    }
    return process.run(argv, timeout=timeout, env=environment, passing=_PASSING, check=check)


def said(error: LabError) -> str:
    """What git gave as the reason for its failure, else what became of it."""
    fatal = re.search(r"^(?:fatal|error): (.+)$", error.hint or "", re.MULTILINE)
    lines = [line for line in (error.hint or "").splitlines() if line.strip()]
    return fatal[1] if fatal else lines[-1].strip() if lines else error.message

"""What git refs stand for at the moment: settings and runtimes that name one (`URL#main`) are another thing once it
has moved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from labkit.core.errors import ImageError, LabError
from labkit.io.git import git

_LINE = re.compile(r"([0-9a-f]{40})\t(\S+)")


def moves(ref: str) -> bool:
    """Whether it may stand for another commit tomorrow; "" is HEAD."""
    return not re.fullmatch(r"[0-9a-f]{7,40}", ref)


def listed(where: str, *names: str, timeout: float) -> dict[str, str]:
    """The refs of the repository, a URL or a path, and what each stands for; with names only those. ProgramFailed where
    it does not tell within timeout seconds.
    """
    done = git(Path.cwd(), "ls-remote", "--", where, *names, timeout=timeout)
    return {name: commit for commit, name in _LINE.findall(done.stdout)}


def chosen(refs: Mapping[str, str], ref: str) -> str:
    """The commit that a branch, a tag or a full name stands for among these; "" where it is none of them."""
    return next((refs[name] for name in _names(ref) if name in refs), "")


def _names(ref: str) -> list[str]:
    """In git's own order; of a tag with a text of its own the commit, not the text."""
    return [f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref, f"refs/{ref}"]


def commit(where: str, ref: str, *, timeout: float) -> str:
    """The commit that a branch or a tag of the repository, a URL or a path, stands for now. ImageError where the
    repository does not tell within timeout seconds, or has no such ref.
    """
    wanted = ref or "HEAD"
    try:
        found = listed(where, *_names(wanted), timeout=timeout)
    except LabError as error:
        raise ImageError(f"{where} does not tell what {wanted} is: {error.message}", hint=error.hint) from error
    if commit := chosen(found, wanted):
        return commit
    raise ImageError(f"{where} has no ref {wanted}", hint=f"git ls-remote {where} lists what it has")

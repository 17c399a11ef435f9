"""What git refs stand for at the moment: settings and runtimes that name one (`URL#main`) are another thing once it
has moved.
"""

from __future__ import annotations

import re
from pathlib import Path

from labkit.core.errors import ImageError, LabError
from labkit.io.git import git

_LINE = re.compile(r"([0-9a-f]{40})\t(\S+)")


def moves(ref: str) -> bool:
    """Whether it may stand for another commit tomorrow; "" is HEAD."""
    return not re.fullmatch(r"[0-9a-f]{7,40}", ref)


def commit(where: str, ref: str, *, timeout: float) -> str:
    """The commit that a branch or a tag of the repository, a URL or a path, stands for now. ImageError where the
    repository does not tell within timeout seconds, or has no such ref.
    """
    wanted = ref or "HEAD"
    # In git's own order; of a tag with a text of its own the commit, not the text.
    names = [f"refs/tags/{wanted}^{{}}", f"refs/tags/{wanted}", f"refs/heads/{wanted}", wanted, f"refs/{wanted}"]
    try:
        done = git(Path.cwd(), "ls-remote", "--", where, *names, timeout=timeout)
    except LabError as error:
        raise ImageError(f"{where} does not tell what {wanted} is: {error.message}", hint=error.hint) from error
    found: dict[str, str] = {name: commit for commit, name in _LINE.findall(done.stdout)}
    for name in names:
        if name in found:
            return found[name]
    raise ImageError(f"{where} has no ref {wanted}", hint=f"git ls-remote {where} lists what it has")

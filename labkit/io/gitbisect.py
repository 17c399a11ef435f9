"""`git bisect` in a clone of its own, and what it asks of a repository. The repository itself is only read.

The clone is bare and borrows the repository's objects, so it is made at once and takes no room. What git knows of the
bisection is made again from what was found so far: nothing that a death can tear has to be trusted.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from labkit.core.errors import ProgramFailed, UsageError
from labkit.io.files import disk_errors, make_directory
from labkit.io.git import git

COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_TIMEOUT = 300.0  # seconds: a step of a history of a million commits takes some
_FOUND = re.compile(r"^# first bad commit: \[([0-9a-f]+)\]", re.MULTILINE)
_LEFT = re.compile(r"^# possible first bad commit: \[([0-9a-f]+)\]", re.MULTILINE)
_AHEAD = re.compile(r"^Bisecting: (\d+) revisions? left to test after this \(roughly (\d+) steps?\)", re.MULTILINE)
_LOG = "BISECT_LOG"


@dataclass(frozen=True, slots=True)
class Commit:
    """date is the author's, as ISO 8601 has it."""

    commit: str
    subject: str
    author: str
    date: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """Where a bisection stands: the commit to be tested next, or how it ended.

    first_bad is what it found; left are the commits one of which is the first bad one, where only such are left as were
    skipped; mended: the commit that both ends come from is bad, so the good one was mended. revisions and steps are how
    many are left after the next, as git guesses.
    """

    next: str = ""
    first_bad: str = ""
    left: tuple[str, ...] = ()
    mended: bool = False
    revisions: int | None = None
    steps: int | None = None


class GitBisect:
    def __init__(self, repository: Path, clone: Path, good: str, bad: str) -> None:
        """Begin between two commits of the repository. ProgramFailed; UsageError where they have nothing in common."""
        if clone.exists():
            shutil.rmtree(clone)
        make_directory(clone.parent)
        with disk_errors(clone.parent):
            git(Path("/"), "clone", "--quiet", "--bare", "--shared", repository, clone, timeout=_TIMEOUT)
        git(clone, "update-ref", "--no-deref", "HEAD", bad)  # git bisects from a branch, and there may be none
        self._clone = clone
        self.where = self._after("start", "--no-checkout", bad, good, "--")

    def mark(self, commit: str, outcome: str) -> None:
        """Say what the commit is: good, bad or skip."""
        self.where = self._after(outcome, commit)

    @property
    def log(self) -> str:
        """What `git bisect replay` takes."""
        return (self._clone / _LOG).read_text(errors="replace")

    def close(self) -> None:
        shutil.rmtree(self._clone, ignore_errors=True)

    def _after(self, *words: str) -> Where:
        done = git(self._clone, "bisect", *words, check=False, timeout=_TIMEOUT)
        printed = f"{done.stdout}\n{done.stderr}"
        log = self.log if (self._clone / _LOG).exists() else ""
        if found := _FOUND.search(log):
            return Where(first_bad=found[1])
        if left := _LEFT.findall(log):
            return Where(left=tuple(dict.fromkeys(left)))
        if re.search(r"^The merge base [0-9a-f]+ is bad", printed, re.MULTILINE):
            return Where(mended=True)
        head = git(self._clone, "rev-parse", "--verify", "--quiet", "BISECT_HEAD", check=False).stdout.strip()
        if done.status or not COMMIT.fullmatch(head):
            raise ProgramFailed(f"git bisect {words[0]} {done.outcome}", hint=printed.strip())
        ahead = _AHEAD.search(printed)
        return Where(head, revisions=int(ahead[1]) if ahead else None, steps=int(ahead[2]) if ahead else None)


# --- questions


def top(tree: Path) -> Path:
    """The repository that a directory is in. UsageError where it is in none."""
    asked = git(tree, "rev-parse", "--is-bare-repository", "--absolute-git-dir", check=False)
    lines = asked.stdout.splitlines()
    if asked.status or len(lines) != 2:
        raise UsageError(f"{tree} is not a git repository, so there is nothing to bisect", hint="--runtime ./TREE")
    if lines[0] == "true":
        return Path(lines[1])
    root = git(tree, "rev-parse", "--show-toplevel", check=False).stdout.rstrip("\n")
    return Path(root) if root else tree


def resolve(repository: Path, revision: str) -> str:
    """The commit that a revision is, as git reads them; empty where there is none."""
    if revision.startswith("-"):
        return ""
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    done = git(repository, *words, check=False)
    found = done.stdout.strip().splitlines()[-1:] or [""]
    return found[0] if not done.status and COMMIT.fullmatch(found[0]) else ""


def refs(repository: Path) -> list[str]:
    """The short names of all branches and tags."""
    words = ("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads", "refs/tags", "refs/remotes")
    return git(repository, *words).stdout.splitlines()


def about(repository: Path, commit: str) -> Commit:
    form = "%H%x00%s%x00%an%x00%aI%x00%P"
    done = git(repository, "log", "-1", "--no-show-signature", "--encoding=UTF-8", f"--format={form}", commit, "--")
    name, subject, author, date, parents = done.stdout.rstrip("\n").split("\0")
    return Commit(name, subject, author, date, tuple(parents.split()))


def is_ancestor(repository: Path, older: str, newer: str) -> bool:
    return git(repository, "merge-base", "--is-ancestor", older, newer, check=False, timeout=_TIMEOUT).status == 0


def merge_bases(repository: Path, one: str, other: str) -> list[str]:
    return git(repository, "merge-base", "--all", one, other, check=False, timeout=_TIMEOUT).stdout.split()


def count(repository: Path, good: str, bad: str) -> int:
    """How many commits bad has and good has not."""
    return int(git(repository, "rev-list", "--count", f"{good}..{bad}", "--", timeout=_TIMEOUT).stdout)


def is_shallow(repository: Path) -> bool:
    return git(repository, "rev-parse", "--is-shallow-repository", check=False).stdout.strip() == "true"

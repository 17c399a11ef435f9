"""`test --watch`: again whenever a file of this host that is under test has changed, and has come to rest.

Looked at with stat, several times a second: that works on every file system, network ones and bind mounts included, and
for a file that a build removes, renames or replaces, of which notifications tell only where one knows its directory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.core.errors import LabError, UsageError
from labkit.core.observer import Observer
from labkit.core.text import one_line, some
from labkit.results.comparison import Relation, Side, SideBySide, side_by_side
from labkit.results.model import Run
from labkit.subjects import runtimes
from labkit.subjects.runtimes.words import HostFile
from labkit.suites import registry
from labkit.usecases.run import Outcome, role_of

LOOK = 0.2  # seconds between two looks
STILL = 0.6  # seconds for which nothing may change: a linker writes in bursts
_FILES = 10_000  # of a directory
_CHUNK = 1 << 20
Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Watching:
    """How the looking is done; wait is given seconds."""

    look: float = LOOK
    still: float = STILL
    wait: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic


USUAL = Watching()


def watched(words: Sequence[str], suite: str = "spec") -> tuple[Path, ...]:
    """The files and directories of this host among the words of --runtime, or of what else the suite is about.
    UsageError where there is none.
    """
    role = role_of(registry.find(suite))
    found = [runtimes.word(runtimes.split(text)[0], role=role) for text in words]
    paths = tuple(dict.fromkeys(word.path for word in found if isinstance(word, HostFile)))
    if not paths:
        raise UsageError(
            f"--watch waits for a file of this host to change, and --{role} {', '.join(words)} is none",
            hint=f"--{role} ./FILE --watch",
        )
    return paths


def stamp(paths: Sequence[Path]) -> Stamp | None:
    """What tells whether any of the files has changed, without reading them; None while one is not there, or empty."""
    found = []
    for path in paths:
        files = 0
        for file, about in _files(path):
            files += 1
            found.append((str(file), about.st_size, about.st_mtime_ns, about.st_ino))
        if not files or not any(size for _, size, *_ in found[-files:]):
            return None
    return tuple(found)


def digest(paths: Sequence[Path]) -> str | None:
    """The digest of all that the files hold; None where one is gone meanwhile."""
    whole = hashlib.sha256()
    for path in paths:
        for file, about in _files(path):
            whole.update(f"{file.relative_to(path.parent)}\0{about.st_mode & 0o111}\0{about.st_size}\0".encode())
            try:
                with file.open("rb") as opened:
                    while piece := opened.read(_CHUNK):
                        whole.update(piece)
            except OSError:
                return None
    return whole.hexdigest()


def _files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files at path, or below it, in order; nothing where it is not there."""
    try:
        about = path.stat()
    except OSError:
        return
    if stat.S_ISREG(about.st_mode):
        yield path, about
        return
    below = (Path(at) / name for at, dirs, names in os.walk(path) if not dirs.sort() for name in sorted(names))
    for number, file in enumerate(below):
        if number >= _FILES:
            return
        try:
            about = file.stat()
        except OSError:
            continue
        if stat.S_ISREG(about.st_mode):
            yield file, about


def settled(paths: Sequence[Path], before: str | None, observer: Observer, how: Watching = USUAL) -> str:
    """Wait until the files are other ones than before and have come to rest; their digest."""
    seen = stamp(paths)
    since = how.now()
    told = False
    looked: tuple[Stamp, str] | None = None  # what was read last, and its digest
    while True:
        if seen is None and not told:
            gone = [str(path) for path in paths if stamp([path]) is None]
            if how.now() - since > 2 * how.still:
                observer.step(f"{some(gone)} is not there, or empty: waiting for it")
                told = True
        if seen is not None and how.now() - since >= how.still:
            if looked is None or looked[0] != seen:
                found = digest(paths)
                looked = (seen, found) if found and stamp(paths) == seen else None
            if looked and looked[1] != before:
                return looked[1]
        how.wait(how.look)
        now = stamp(paths)
        if now != seen:
            seen, since = now, how.now()


def watch(
    paths: Sequence[Path],
    run: Callable[[], Sequence[Outcome]],
    shown: Callable[[Sequence[Outcome]], None],
    observer: Observer,
    how: Watching = USUAL,
) -> int:
    """Run, and run again whenever the files have changed, until Ctrl-C; the exit status of what ran last.

    shown gets the outcomes of each time. A file that cannot be run, such as one of a build that failed halfway, is told
    and waited for. Ctrl-C while the suite runs ends it as ever: KeyboardInterrupt.
    """
    status = 0
    before: dict[str, Run] = {}
    have: str | None = None
    names = some(path.name for path in paths)
    while True:
        try:
            have = settled(paths, have, observer, how)
        except KeyboardInterrupt:
            return status
        try:
            outcomes = run()
        except LabError as error:
            if not before and not isinstance(error, UsageError):
                raise  # the lab does not work at all
            status = error.exit_status
            observer.warn(error.message + (f" ({error.hint})" if error.hint else ""))
            observer.step(f"waiting for another {names}; Ctrl-C ends this")
            continue
        shown(outcomes)
        for number, outcome in enumerate(outcomes):
            key = f"{number} {outcome.run.runtime.word or outcome.run.runtime.path}"
            if key in before:
                observer.step(difference(before[key], outcome.run))
            before[key] = outcome.run
        status = max(outcome.exit_status for outcome in outcomes)
        observer.step(f"waiting for {names} to change; Ctrl-C ends this")


def difference(before: Run, after: Run) -> str:
    """What changed from one run to the next, in a line."""
    sides = side_by_side([before, after])
    counts = sides.counts[1]
    words = [f"{counts[relation]} {relation}" for relation in Relation if counts.get(relation)]
    same_file = before.runtime.sha256 and before.runtime.sha256 == after.runtime.sha256
    names = _named(sides)
    listed = [
        f"{relation}: {some(names[relation], 5)}" for relation in (Relation.WORSE, Relation.BETTER) if relation in names
    ]
    what = f"since the run before: {', '.join(words) or 'nothing to compare'}"
    return one_line(what + (" (the same file)" if same_file else "") + "".join(f"; {one}" for one in listed), 400)


def _named(sides: SideBySide) -> Mapping[Relation, list[str]]:
    found: dict[Relation, list[str]] = {}
    for line in sides.lines:
        side: Side = line.sides[1]
        found.setdefault(side.relation, []).append(line.program or line.id)
    return {relation: list(Counter(names)) for relation, names in found.items()}

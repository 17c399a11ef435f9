"""The directories of runs, below the reports directory.

reports/ID/raw/                       what the suite printed, byte for byte, written as it came
reports/ID/results.json ...           the run and its reports
reports/ID/judged-2/results.json ...  the same, judged again: with another policy or by another labkit; judged-3/ ...
reports/latest                        a link to the newest run of `test`, or recording where there is none

An id is TIME.NUMBER-WORDS: for people the time of the run's start, by whatever the clock said then; for the order of
runs their number, one more than that of any run that is there. Runs of labkit 0.1.0 have no number and come first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from labkit.core.deadline import Deadline
from labkit.core.errors import LabError, UsageError
from labkit.core.suggest import did_you_mean
from labkit.io.files import disk_errors, make_directory, sweep, sync_directory, unfinished, write_atomic
from labkit.results.json import from_json
from labkit.results.model import Run

RESULTS = "results.json"
RAW = "raw"
LATEST = "latest"
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z(?:\.([0-9]{1,9}))?-.+", re.DOTALL)
_JUDGED = re.compile(r"judged-([0-9]{1,6})")
_LOOKED_AT = 10  # runs, for the seconds that checks took
_NUMBERING = 5.0  # seconds that another process may take to number its run


def new_directory(reports: Path, words: Sequence[str], begin: Callable[[str], str] | None = None) -> Path:
    """A new directory below reports, named by time, number and words, with an empty raw/ in it.

    begin(id) is the text of its results.json, which is there as soon as the directory is. What killed processes left
    unfinished in reports is removed.
    """
    make_directory(reports)
    with disk_errors(reports), _numbering(reports):
        known = ids(reports)
        for place in (reports, *(reports / ident for ident in known)):
            sweep(place)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        number = max(map(_number, known), default=0)
        while True:
            number += 1
            directory = reports / "-".join([f"{stamp}.{number}", *words])
            with contextlib.suppress(FileExistsError):
                return _make(directory, begin)


def _make(directory: Path, begin: Callable[[str], str] | None) -> Path:
    with unfinished(directory) as part:
        part.mkdir(mode=0o755)  # whatever the umask: nobody else is to write there
        (part / RAW).mkdir(mode=0o755)
        if begin:
            write_atomic(part / RESULTS, begin(directory.name))
        if directory.exists():
            raise FileExistsError
        part.rename(directory)
        sync_directory(directory.parent)
    return directory


@contextlib.contextmanager
def _numbering(reports: Path) -> Iterator[None]:
    """Let one process at a time give a number: in vain where the file system has no locks; two runs may share one."""
    fd = os.open(reports, os.O_RDONLY | os.O_DIRECTORY)

    def locked() -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    try:
        with contextlib.suppress(OSError):
            Deadline.after(_NUMBERING).poll(locked)
        yield
    finally:
        os.close(fd)


def require_room(reports: Path) -> None:
    """HostError where no run could be kept in reports; nothing is made."""
    place = next(path for path in (reports.absolute(), *reports.absolute().parents) if path.exists())
    with disk_errors(reports):
        tempfile.TemporaryFile(dir=place).close()  # without a name, so that nothing stays of it


def point_latest(directory: Path, *, recorded: bool = False) -> str | None:
    """Make reports/latest a link to the run's directory; why that cannot be, None where it can. Never raises.

    recorded: it is a recording that was judged, which takes the link from no run that `test` made.
    """
    link = directory.parent / LATEST
    if recorded and link.is_symlink() and _is_of_test(link):
        return None
    why = "a directory" if link.is_dir() else "a file"
    if (link.exists() or link.is_symlink()) and not link.is_symlink():
        return (
            f"{link} is {why} and no link, so it does not name {directory.name}; remove it, and it will name runs again"
        )
    try:
        with unfinished(link) as aside:
            aside.symlink_to(directory.name)
            aside.replace(link)
    except OSError as error:
        return f"{link} does not name {directory.name}: a link cannot be made there: {error.strerror or error}"
    return None


def _is_of_test(directory: Path) -> bool:
    """Whether a machine of `test` made the run; a recording knows of none."""
    with contextlib.suppress(LabError):
        return bool(load(directory).machine.get("provider"))
    return False


def discard(directory: Path) -> None:
    """Remove the directory of what turned out to be no run, or of one that nobody needs any more; reports/latest names
    the newest one that is left. It is there whole or not at all, also where this is killed.
    """
    reports = directory.parent
    with disk_errors(reports):
        with unfinished(directory) as part:
            directory.rename(part)
            shutil.rmtree(part)
        link = reports / LATEST
        if link.is_symlink() and not link.exists():
            link.unlink()
            if left := [ident for ident in ids(reports) if is_run(reports / ident)]:
                point_latest(reports / left[-1])


def newest(directory: Path) -> Path:
    """Where the newest reports of a run are: in its directory, or in that of a later judgement."""
    later = {int(found[1]): path for path in directory.glob("judged-*") if (found := _JUDGED.fullmatch(path.name))}
    return next((later[number] for number in sorted(later, reverse=True) if is_run(later[number])), directory)


def judge_again(directory: Path, write: Callable[[Path], object]) -> Path:
    """A new directory for another judgement of a run, complete as soon as it is there: write(place) fills it."""
    with disk_errors(directory):
        sweep(directory)
        with unfinished(directory / "judged") as part:
            part.mkdir(mode=0o755)
            write(part)
            number = 2
            while (place := directory / f"judged-{number}").exists():
                number += 1
            part.rename(place)
        sync_directory(directory)
    return place


def whole(directory: Path) -> Path:
    """The directory of a run, also for that of a judgement of it."""
    return directory.parent if _JUDGED.fullmatch(directory.name) and is_run(directory.parent) else directory


def load(directory: Path) -> Run:
    """The run that is kept in directory, as it was judged last. UsageError where there is none."""
    path = newest(directory) / RESULTS
    try:
        return from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{directory} holds no run: {error.strerror}", hint="./lab test makes one") from error


def is_run(directory: Path) -> bool:
    """Whether the directory is a run's; else it may hold a recording."""
    return (directory / RESULTS).exists()


def ids(reports: Path) -> list[str]:
    """The ids of the runs below reports, the oldest first: by number, whatever the clock said."""
    names = [path.name for path in reports.iterdir() if _ID.fullmatch(path.name)] if reports.is_dir() else []
    return sorted(names, key=order)


def order(ident: str) -> tuple[int, str]:
    """Where a run stands among others, by its id: by number, those of one number by name."""
    return _number(ident), ident


def _number(ident: str) -> int:
    found = _ID.fullmatch(ident)
    return int(found[1] or 0) if found else 0


def find(reports: Path, name: str | None) -> Path:
    """The directory that name stands for: a run below reports by its id or the beginning of one, "latest" (also for
    None), or any directory by its path; a run's raw/ stands for the run. UsageError where none or several match.
    """
    latest = reports / LATEST
    if name in (None, LATEST) and not (latest.is_symlink() and latest.is_dir()):
        # The run that it names was removed; or it is no link, but a copy that has come back from somewhere.
        latest = next((reports / ident for ident in reversed(ids(reports)) if is_run(reports / ident)), latest)
    inside = reports / name if name not in (None, LATEST) else latest
    place = inside if name is None or ("/" not in name and inside.is_dir()) else Path(name)
    if not place.is_dir():
        known = ids(reports)
        begun = [ident for ident in known if name and ident.startswith(name)]
        if len(begun) > 1:
            some = ", ".join(begun[:5]) + (", ..." if len(begun) > 5 else "")
            raise UsageError(f"{len(begun)} runs in {reports} begin with {name}: {some}", hint="type more of the id")
        if not begun:
            raise UsageError(
                f"there is no run {name or 'yet'} in {reports}{did_you_mean(name, known) if name else ''}"
                + (f", and no directory {name}" if name else ""),
                hint="./lab test makes one",
            )
        place = reports / begun[0]
    place = place.resolve()
    return place.parent if place.name == RAW and is_run(place.parent) else place


def failed_before(reports: Path, suite: str, runtime: str, engine: str = "") -> tuple[str, ...]:
    """What failed in the newest run of that suite and runtime: checks, or programs where the suite has those.

    UsageError where there is no such run, or nothing failed in it.
    """
    for directory in (reports / ident for ident in reversed(ids(reports))):
        try:
            run = load(directory)
        except LabError:  # not a run, or one that was killed at once
            continue
        if not _is_of(run, suite, runtime) or (run.engine.name if run.engine else "") != engine:
            continue
        names = [program.name for program in run.programs if program.verdict.bad]
        names += [result.program or result.id for result in run.results if result.verdict.bad]
        if not names:
            raise UsageError(f"nothing failed in {directory}, the newest run of {suite} on {runtime}")
        return tuple(dict.fromkeys(names))
    raise UsageError(f"there is no run of {suite} on {runtime} in {reports} yet", hint="./lab test without --failed")


def _is_of(run: Run, suite: str, runtime: str) -> bool:
    """Whether it is of that suite and runtime, by its name or the last part of its path, or of that of this host."""
    names = (run.runtime.name, *(PurePosixPath(path).name for path in (run.runtime.path, run.runtime.word)))
    return run.suite.name == suite and runtime in names


def seconds_before(reports: Path, suite: str, runtime: str, names: Collection[str]) -> dict[str, float]:
    """How long each of the names took, checks or programs, in the newest complete run of that suite and runtime that
    has them all, of the newest few; empty where none has.
    """
    for directory in (reports / ident for ident in reversed(ids(reports)[-_LOOKED_AT:])):
        try:
            run = load(directory)
        except LabError:
            continue
        if _is_of(run, suite, runtime) and run.run.complete:
            found = {program.name: program.seconds for program in run.programs}
            found = found or {result.id: result.seconds for result in run.results}
            if found.keys() >= set(names):
                return {name: found[name] for name in names}
    return {}

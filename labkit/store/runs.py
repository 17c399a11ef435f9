"""The directories of runs, below the reports directory.

reports/ID/raw/                       what the suite printed, byte for byte, written as it came
reports/ID/results.json ...           the run and its reports
reports/latest                        a link to the newest run
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from labkit.core.errors import LabError, UsageError
from labkit.core.suggest import did_you_mean
from labkit.io.files import disk_errors, make_directory
from labkit.results.json import from_json
from labkit.results.model import Run

RESULTS = "results.json"
RAW = "raw"
LATEST = "latest"
_RUNS = "*Z-*"  # how ids begin: with the time of the run's start


def new_directory(reports: Path, words: Sequence[str]) -> Path:
    """A new directory below reports, named by time and words, with an empty raw/ in it."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    make_directory(reports)
    for number in range(1, 1000):
        directory = reports / "-".join([stamp, *words, *([str(number)] if number > 1 else [])])
        with disk_errors(reports), contextlib.suppress(FileExistsError):
            directory.mkdir()
            (directory / RAW).mkdir()
            return directory
    raise LabError(f"{reports} already has a thousand runs from this second")


def point_latest(directory: Path) -> None:
    """Make reports/latest a link to the run's directory."""
    link = directory.parent / LATEST
    aside = directory.parent / f".{LATEST}.{os.getpid()}"
    with disk_errors(directory.parent):
        for left in directory.parent.glob(f".{LATEST}.*"):  # by a killed labkit
            if not Path("/proc", left.suffix[1:]).exists():
                left.unlink(missing_ok=True)
        try:
            aside.unlink(missing_ok=True)
            aside.symlink_to(directory.name)
            aside.replace(link)
        finally:
            aside.unlink(missing_ok=True)


def load(directory: Path) -> Run:
    """The run that is kept in directory. UsageError where there is none."""
    path = directory / RESULTS
    try:
        return from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{directory} holds no run: {error.strerror}", hint="./lab test makes one") from error


def is_run(directory: Path) -> bool:
    """Whether the directory is a run's; else it may hold a recording."""
    return (directory / RESULTS).exists()


def ids(reports: Path) -> list[str]:
    """The ids of the runs below reports, the oldest first."""
    return sorted(path.name for path in reports.glob(_RUNS)) if reports.is_dir() else []


def find(reports: Path, name: str | None) -> Path:
    """The directory that name stands for: a run below reports by its id or the beginning of one, "latest" (also for
    None), or any directory by its path; a run's raw/ stands for the run. UsageError where none or several match.
    """
    inside = reports / (name or LATEST)
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


def failed_before(reports: Path, suite: str, runtime: str) -> tuple[str, ...]:
    """What failed in the newest run of that suite and runtime: checks, or programs where the suite has those.

    UsageError where there is no such run, or nothing failed in it.
    """
    for directory in (reports / ident for ident in reversed(ids(reports))):
        try:
            run = load(directory)
        except LabError:  # not a run, or one that was killed at once
            continue
        if (run.suite.name, run.runtime.name) != (suite, runtime):
            continue
        names = [program.name for program in run.programs if program.verdict.bad]
        names += [result.program or result.id for result in run.results if result.verdict.bad]
        if not names:
            raise UsageError(f"nothing failed in {directory}, the newest run of {suite} on {runtime}")
        return tuple(dict.fromkeys(names))
    raise UsageError(f"there is no run of {suite} on {runtime} in {reports} yet", hint="./lab test without --failed")

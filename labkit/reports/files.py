"""Writes the reports of a run into its directory, each one whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from labkit.core.errors import HostError
from labkit.io.files import disk_errors, make_directory, write_atomic
from labkit.reports import as_html, as_junit, as_tap
from labkit.results.json import to_json
from labkit.results.model import Run

REPORTS: Mapping[str, Callable[[Run], str]] = {
    "results.json": to_json,
    "results.tap": as_tap.render,
    "junit.xml": as_junit.render,
    "report.html": as_html.render,
}


def write_all(run: Run, directory: Path) -> list[Path]:
    """Write every report of run into directory, which is made where missing; return the files.

    An interruption or an error (HostError: no space, no permission, a directory in the way) leaves each file as it was
    before or complete; one that cannot be written keeps none of the others from it.
    """
    written, errors = [], []
    for name, render in REPORTS.items():
        try:
            write(directory / name, render(run))
            written.append(directory / name)
        except HostError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return written


def write(path: Path, text: str) -> None:
    """Put text at path in one step. HostError where that fails."""
    with disk_errors(path.parent):
        write_atomic(make_directory(path.parent) / path.name, text)

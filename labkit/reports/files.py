"""Writes the reports of a run into its folder, each one whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from labkit import results
from labkit.errors import HostError
from labkit.reports import as_html, as_junit, as_tap
from labkit.results import Run

REPORTS: Mapping[str, Callable[[Run], str]] = {
    "results.json": results.to_json,
    "results.tap": as_tap.render,
    "junit.xml": as_junit.render,
    "report.html": as_html.render,
}


def write_all(run: Run, folder: Path) -> list[Path]:
    """Write every report of run into folder, which is made where missing; return the files.

    An interruption or an error (HostError: no space, no permission) leaves each file as it was before or complete.
    """
    written = []
    for name, text in [(name, render(run)) for name, render in REPORTS.items()]:
        path = folder / name
        write(path, text)
        written.append(path)
    return written


def write(path: Path, text: str) -> None:
    """Put text at path as UTF-8 in one step: written beside it, then renamed over it. HostError where that fails."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"could not write {path}: {error.strerror}", hint="Is the disk full or read-only?") from error

"""One cell of a night in a process of its own: what labkit.matrix.worker starts.

In the current directory: `job` has what the cell is; the run is left as `run`, or why there is none as `error`. The
machine is the cell's own: it is made for it and removed after it. This process ends with the worker that started it.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import sys
from pathlib import Path

from labkit.core.errors import GivenUp, HostError, LabError, UsageError
from labkit.core.interrupts import Unraisable, interrupt
from labkit.core.text import printable
from labkit.io import process
from labkit.io.files import disk_errors, write_atomic
from labkit.matrix.job import Work
from labkit.matrix.outbox import RUN
from labkit.matrix.worker import ERROR, JOB, MACHINE, remove_machine, version
from labkit.results.model import Result
from labkit.usecases.run import run_cell


class _Log:
    """Tells its standard output how far it is, a line each."""

    def step(self, text: str) -> None:
        print(printable(text), flush=True)

    def detail(self, text: str) -> None:
        pass

    def progress(self, label: str, done: int, total: int | None, unit: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.step(f"warning: {text}")

    def confirm(self, question: str) -> bool:
        return False

    def result(self, result: Result, done: int, planned: int | None) -> None:
        if result.verdict.bad:
            self.step(f"{result.verdict} {result.id} {result.name}")


def main() -> None:
    """What the process does; its status is that of `test`."""
    _home, parent = sys.argv[1:3]
    process.end_with_parent(int(parent))
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, interrupt)
    sys.unraisablehook = Unraisable()
    place = Path.cwd()
    try:
        status = _run(place)
    except LabError as error:
        told = {
            "message": error.message,
            "hint": error.hint,
            # Wrong usage, as of a runtime that is not there, stays wrong.
            "again": not isinstance(error, UsageError | GivenUp),
        }
        print(printable(f"labkit: {error.message}"), flush=True)
        with contextlib.suppress(LabError, OSError):
            write_atomic(place / ERROR, json.dumps(told), durable=False)
        status = error.exit_status
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _run(place: Path) -> int:
    night, _, given = (place / JOB).read_bytes().partition(b"\n")
    if (
        night.decode() != version()
    ):  # a checkout that was updated meanwhile: what was sent may be read as something else
        raise HostError(
            f"labkit's code has changed while the night runs: it began with {night.decode()}, and this is {version()}",
            hint="end the night, and go on with --resume",
        )
    work = pickle.loads(given)
    if not isinstance(work, Work):
        raise TypeError(type(work))
    settings = work.settings.model_copy(update={"reports": place / "reports"}).counting_failed_images(place.parent)
    try:
        outcome = run_cell(work.cell, settings, _Log(), work.entries)
        directory = outcome.directory
        status = outcome.exit_status
    finally:
        if work.cell.machine.startswith(MACHINE):
            remove_machine(work.cell.machine, settings)
    with disk_errors(place):
        directory.rename(place / RUN)
    return status

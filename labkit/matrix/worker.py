"""Runs cells on this host, one process each, and keeps what comes of them in the outbox until it is fetched.

The same code on one host (labkit.matrix.local) and on others (labkit.matrix.dask): values in, values out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import labkit
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import LabError
from labkit.core.home import Home
from labkit.core.observer import Silent
from labkit.core.text import one_line, printable, seconds
from labkit.io import process
from labkit.io.files import disk_errors
from labkit.machines import providers, record
from labkit.machines.base import MachineState
from labkit.matrix.job import Ended, Job, Outcome
from labkit.matrix.outbox import LOG, RUN, Outbox

MACHINE = "night-"  # what the names of machines of nights begin with
JOB = "job"  # what the cell is, in its directory
ERROR = "error"  # what failed, as JSON: message, hint, again
_OF_CELL = re.compile(r"night-([0-9]{8}\.[0-9]{1,9})-c[0-9]+-a[0-9]+(?:-[0-9]+)?")
_STATUSES = (0, 1, 4)  # of a process that leaves a run
_LOG = 1 << 20  # bytes of what a cell says that are kept


class _Stopped(Exception):
    """Somebody asked the cell to end."""


class _Late(Exception):
    """The cell took longer than it may."""


@cache
def version() -> str:
    """labkit's version and the digest of its code: two hosts that say the same judge alike."""
    root = Path(labkit.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{labkit.__version__} {digest.hexdigest()[:16]}"


def own_program(home: Path) -> tuple[str, ...]:
    """The command that runs a cell of labkit's, in its directory. As the program's: whatever else is in that directory,
    or in the environment, the code is this labkit's.
    """
    root = Path(labkit.__file__).parent.parent
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from labkit.usecases.cell import main; main()"
    return (sys.executable, "-I", "-c", code, str(root), str(home), str(os.getpid()))


def run(job: Job, home: Path, stop: threading.Event | None = None) -> Ended:
    """Run the cell in a process of its own and wait for it. Whatever happens, nothing of it runs afterwards, its
    machine is gone, and what it left is in the outbox.
    """
    began = time.monotonic()
    outbox = Outbox(home / "outbox" / job.night)
    ended = Ended(job.name, Outcome.LAB_ERROR, 0.0)
    try:
        place = outbox.begin(job.name)
        if job.work is not None:
            work = replace(job.work, settings=home_settings(job.work.settings, home))
            with disk_errors(place):
                (place / JOB).write_bytes(version().encode() + b"\n" + pickle.dumps(work))
        status = _wait(job, home, place, stop)
        ended = _judged(ended, place, status)
    except _Late:
        ended = replace(
            ended, outcome=Outcome.TIMEOUT, error=f"it did not end within {seconds(job.limit)} (matrix.limits)"
        )
    except _Stopped:
        ended = replace(ended, outcome=Outcome.LOST, error="it was stopped")
    except LabError as error:
        ended = replace(ended, error=error.message)
    try:
        if job.work is not None:
            _without_machine(job.work.cell.machine, home_settings(job.work.settings, home))
    except LabError as error:
        ended = replace(ended, error="; ".join(filter(None, (ended.error, error.message))))
    ended = replace(ended, seconds=round(time.monotonic() - began, 3))
    try:
        return outbox.commit(outbox.directory / f"{job.name}.making", ended)
    except LabError as error:  # a full disk: it is told, but not kept
        return replace(ended, outcome=Outcome.LAB_ERROR, status=None, error=error.message, bundle=0, sha256="")


def _wait(job: Job, home: Path, place: Path, stop: threading.Event | None) -> int:
    deadline = Deadline.after(job.limit)
    with (place / LOG).open("wb") as log:
        left = _LOG

        def said(line: str) -> None:
            nonlocal left
            data = f"{printable(line)}\n".encode()[:left]
            left -= len(data)
            log.write(data)

        def look() -> None:
            if stop is not None and stop.is_set():
                raise _Stopped
            if deadline.passed:
                raise _Late

        argv: Sequence[str] = job.argv or own_program(home)
        done = process.run(
            argv,
            timeout=job.limit + 3600,  # look() ends it before
            cwd=place,
            env={process.OWNER: str(place)},
            passing=process.VAGRANT,
            check=False,
            on_line=said,
            on_wait=look,
        )
    return done.status


def _judged(ended: Ended, place: Path, status: int) -> Ended:
    """How the cell ended, by its status and what it left."""
    if status in _STATUSES and (place / RUN).is_dir():
        return replace(ended, outcome=Outcome.DONE, status=status)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((place / ERROR).read_text())
        text = "; ".join(filter(None, (str(told["message"]), str(told["hint"] or ""))))
        return replace(ended, error=one_line(text, 2000), again=bool(told["again"]))
    if status < 0:
        outcome = process.Completed((), status, "", "").outcome
        return replace(ended, outcome=Outcome.LOST, error=f"its process {outcome}")
    tail = (place / LOG).read_bytes()[-400:].decode("utf-8", "replace").strip()
    return replace(ended, error=one_line(f"its process ended with status {status}: {tail}", 1000))


def _without_machine(name: str, settings: Settings) -> None:
    """Remove the machine that a cell made, if it is there still."""
    if name.startswith(MACHINE) and settings.home.machine(name).exists():
        remove_machine(name, settings)


def remove_machine(name: str, settings: Settings) -> None:
    """Remove a machine of a night, whatever its state."""
    machine = providers.existing(name, settings, Silent())
    with machine.lock():
        if machine.status().state is not MachineState.ABSENT:
            machine.destroy()


def machines_of_nights(home: Home) -> list[tuple[str, str]]:
    """The machines of cells that are there, each with its night; one that somebody called night-something is none."""
    found = ((name, _OF_CELL.fullmatch(name)) for name in record.names(home))
    return [(name, of[1]) for name, of in found if of]


def home_settings(settings: Settings, home: Path) -> Settings:
    """The settings on a host whose lab has its home there."""
    return settings if settings.home.path == home else settings.model_copy(update={"home": Home(home)})

"""The directories of bisections, below the reports directory.

reports/bisects/ID/bisect.json    what was asked, each commit that was tested, what came of it; written after each
reports/bisects/ID/bisect.log     what git knows: `git bisect replay` takes it
reports/bisects/ID/runs/RUN/      the runs of the suite, as any run has them

An id is DATE.NUMBER, as that of a night. The runs are none of those that history, `latest` and `--failed` know: each is
of another commit, and somebody who looks for a fault is not to find it as the state of a runtime.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from labkit.core.errors import UsageError
from labkit.io.files import disk_errors, make_directory, write_atomic
from labkit.results.bisection import SCHEMA, Bisection, from_json

DIRECTORY = "bisects"
FILE, LOG, RUNS = "bisect.json", "bisect.log", "runs"
_ID = re.compile(r"[0-9]{8}\.([0-9]{1,9})")


def directory(reports: Path, ident: str) -> Path:
    return reports / DIRECTORY / ident


def ids(reports: Path) -> list[str]:
    """The oldest first, whatever the clock said."""
    place = reports / DIRECTORY
    names = [path.name for path in place.iterdir() if _ID.fullmatch(path.name)] if place.is_dir() else []
    return sorted(names, key=lambda name: (_number(name), name))


def new(reports: Path) -> str:
    """A new id, whose directory is there."""
    make_directory(reports / DIRECTORY)
    number = max(map(_number, ids(reports)), default=0)
    with disk_errors(reports):
        while True:
            number += 1
            ident = f"{datetime.now(UTC):%Y%m%d}.{number}"
            try:
                directory(reports, ident).mkdir()
            except FileExistsError:
                continue
            return ident


def write(reports: Path, bisection: Bisection, log: str) -> None:
    place = directory(reports, bisection.id)
    with disk_errors(place):
        if log:
            write_atomic(place / LOG, log)
        write_atomic(place / FILE, json.dumps(bisection.to_json(), indent=1) + "\n")


def read(reports: Path, ident: str) -> Bisection:
    """UsageError where there is none, or a newer labkit wrote it."""
    path = directory(reports, ident) / FILE
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is damaged: it is no JSON", hint="begin anew") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        raise UsageError(f"{path} has schema {found!r}, and this labkit knows {SCHEMA}")
    return from_json(document, str(path))


def unfinished(reports: Path) -> str:
    """The newest that found nothing yet. UsageError where there is none."""
    for ident in reversed(ids(reports)):
        if (directory(reports, ident) / FILE).exists() and read(reports, ident).state != "found":
            return ident
    raise UsageError(
        f"no bisection in {reports} waits to be finished",
        hint="./lab bisect --good REF --bad REF --only ID begins one",
    )


def _number(ident: str) -> int:
    found = _ID.fullmatch(ident)
    return int(found[1]) if found else 0

"""The directories of nights, below the reports directory: reports/nights/ID/night.json, and beside it what tells of it.

An id is DATE.NUMBER: for people the day by whatever the clock said, for the order of nights their number, one more than
that of any night that is there. night.json (schema 1) is written when a night begins, saying that it did not finish,
and again when it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.core.errors import LabError, UsageError
from labkit.core.suggest import did_you_mean
from labkit.io.files import disk_errors, make_directory, write_atomic
from labkit.results.night import Night, from_json

FILE = "night.json"
DIRECTORY = "nights"
Document = dict[str, Any]
_LARGEST = 512 << 20  # bytes of a file
_ID = re.compile(r"[0-9]{8}\.([0-9]{1,9})")


def directory(reports: Path, ident: str) -> Path:
    return reports / DIRECTORY / ident


def ids(*places: Path) -> list[str]:
    """The ids of the nights that have a directory in one of the places, the oldest first, whatever the clock said."""
    names = {path.name for place in places if place.is_dir() for path in place.iterdir() if _ID.fullmatch(path.name)}
    return sorted(names, key=order)


def order(ident: str) -> tuple[int, str]:
    """Where a night stands among others, by its id: by number, those of one number by name."""
    return _number(ident), ident


def new_id(*places: Path) -> str:
    """An id for a new night; places are where nights may have left something."""
    number = max((_number(name) for name in ids(*places)), default=0) + 1
    return f"{datetime.now(UTC):%Y%m%d}.{number}"


def write(reports: Path, document: Document) -> Path:
    """Put the night's night.json in its place; its directory."""
    place = make_directory(directory(reports, document["id"]))
    with disk_errors(place):
        write_atomic(place / FILE, json.dumps(document, indent=1) + "\n")
    return place


def read(reports: Path, ident: str) -> Night:
    """The night of that id. UsageError where there is none, or a newer labkit wrote it."""
    path = directory(reports, ident) / FILE
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is too large to be a night")
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        known = ids(reports / DIRECTORY)
        raise UsageError(
            f"there is no night {ident} in {reports}{did_you_mean(ident, known)}", hint="./lab nightly makes one"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} is no night")
    return from_json(value, str(path))


def known(reports: Path, ident: str) -> Night | None:
    """The night of that id; None where it cannot be read."""
    try:
        return read(reports, ident)
    except LabError:
        return None


def before(reports: Path, ident: str) -> Iterator[Night]:
    """The nights before that one that can be read, the newest first."""
    for name in reversed(ids(reports / DIRECTORY)):
        if _number(name) < _number(ident) and (night := known(reports, name)):
            yield night


def _number(ident: str) -> int:
    found = _ID.fullmatch(ident)
    return int(found[1]) if found else 0

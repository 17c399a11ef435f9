"""The directory of raw output of the programs of runtime-tools, of a run or of a recording, and what is read in it:

NAME.tap, NAME.err          what a program printed; NAME.2.tap and so on where it ran several times
summary.tsv                 one line for each program that ended: program, exit_status, seconds and, where labkit
                            wrote it, signal, timeout, attempt, left
run.json                    what was planned, the facts, and whether the suite finished; only labkit writes it
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictStr

from labkit.core import tomlfile
from labkit.core.errors import UsageError
from labkit.core.text import truncate
from labkit.core.tomlfile import Table
from labkit.results import tap, verdicts
from labkit.results.model import Result
from labkit.results.verdicts import End, File
from labkit.suites import refs

SUMMARY, RUN = "summary.tsv", "run.json"  # no program can have a dash in its name
COLUMNS = ("program", "exit_status", "seconds", "signal", "timeout", "attempt", "left")
NAME = re.compile(r"[a-z0-9_]{1,64}")
FILE = re.compile(rf"({NAME.pattern})(?:\.([2-9]|[1-9][0-9]{{1,3}}))?\.tap")

# A whole recording has 1.1 MB, its longest file 144 KB. In bytes, but for FILES:
OUTPUT, STDERR, TOTAL = 8 << 20, 1 << 20, 64 << 20
FILES = 4000
_LIMITS = tap.Limits(line=1 << 20, block=1 << 20, total=4 << 20, events=50_000)


class RunFile(Table):
    """run.json. only: the names and patterns that were asked for; noise counts the lines that are not in the suite's
    format; over: the output exceeded a limit.
    """

    programs: tuple[Annotated[StrictStr, Field(pattern=rf"^{NAME.pattern}$")], ...] = ()
    only: tuple[StrictStr, ...] = ()
    facts: dict[str, StrictStr] = Field(default={})
    finished: bool = False
    noise: int = 0
    over: bool = False


def deduced(results: Sequence[Result]) -> dict[str, str]:
    """Facts from the output itself: its references name a version of runtime-spec, and that may identify the ref."""
    for result in results:
        if match := re.search(r"/runtime-spec/blob/v([0-9.]{1,20})/", result.reference):
            known = [name for name, ref in refs.data().refs.items() if ref.spec == match[1]]
            return {"spec": match[1], **({"ref": known[0]} if len(known) == 1 else {})}
    return {}


def judge(raw: Path, name: str, attempt: int, end: End | None) -> tuple[File, int]:
    """What one attempt of a program comes to, and how many bytes were read for it."""
    file = stem(name, attempt)
    out, err = _content(raw / f"{file}.tap", OUTPUT), _content(raw / f"{file}.err", STDERR)
    stderr, silent = err.decode("utf-8", "replace"), name in refs.data().silent
    return verdicts.read(name, out, stderr, end, silent=silent, limits=_LIMITS), len(out) + len(err)


def stem(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name}.{attempt}"


def _content(path: Path, limit: int) -> bytes:
    """The beginning of a file; nothing where it is missing or a symbolic link."""
    if path.is_symlink() or not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(limit)


def programs(raw: Path, ends: Mapping[tuple[str, int], End]) -> tuple[dict[str, list[int]], list[str]]:
    """The programs with output and their attempts, in the order in which they ended; and the other .tap files."""
    found: dict[str, set[int]] = defaultdict(set)
    strange = []
    for file in files(raw):
        path = raw / file
        if (match := FILE.fullmatch(file)) and path.is_file() and not path.is_symlink():
            found[match[1]].add(int(match[2] or 1))
        else:
            strange.append(file)
    order = dict.fromkeys([*(name for name, _ in ends), *found])
    return {name: sorted(found[name]) for name in order if name in found}, strange


def files(raw: Path) -> list[str]:
    return sorted(path.name for path in raw.glob("*.tap"))


def read_run(raw: Path) -> RunFile | None:
    path = raw / RUN
    if not path.exists():
        return None
    try:
        value = tap.parse_json(_content(path, OUTPUT).decode())
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    return tomlfile.check(RunFile, value, lambda _: str(path))


def read_summary(path: Path) -> dict[tuple[str, int], End] | None:
    """How each program and attempt ended; None where there is no such file. UsageError names file and line."""
    if not path.exists():
        return None
    *lines, last = _content(path, OUTPUT).decode("utf-8", "replace").split("\n")
    header = (lines or [last])[0].rstrip("\r").split("\t")
    if not {"program", "exit_status", "seconds"} <= set(header):
        raise UsageError(
            f"{path}:1: the columns must be program, exit_status and seconds, separated by tabs",
            hint="the file has one line per program: its name, its exit status, its duration in seconds",
        )
    ends: dict[tuple[str, int], End] = {}
    if not path.with_name(RUN).exists():
        lines.append(last)  # in a run, what has no line end was cut off while it was written
    for number, line in enumerate(lines[1:], 2):
        cells = line.rstrip("\r").split("\t")
        if cells == [""]:
            continue
        try:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} columns, must be {len(header)}")
            name, attempt, end = row(dict(zip(header, cells, strict=True)))
            if (name, attempt) in ends:
                raise ValueError(f"a second line for {name}")
        except ValueError as error:
            raise UsageError(f"{path}:{number}: {error}") from error
        ends[name, attempt] = end
    return ends


def row(cells: Mapping[str, str]) -> tuple[str, int, End]:
    """One line of summary.tsv. ValueError says what is wrong with it."""

    def number(key: str, most: int) -> int | None:
        text = cells.get(key, "")
        if not text:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
            raise ValueError(f"{key} is {truncate(text, 100)!r}, must be a number up to {most}")
        return int(text)

    name = cells["program"]
    if not NAME.fullmatch(name):
        raise ValueError(f"program is {truncate(name, 100)!r}, must consist of a-z, 0-9 and _")
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", cells["seconds"]):
        raise ValueError(f"seconds is {truncate(cells['seconds'], 100)!r}, must be a number")
    left = tap.parse_json(cells["left"]) if cells.get("left") else []
    end = End(
        status=number("exit_status", 255),
        signal=number("signal", 128),
        timeout=bool(number("timeout", 1)),
        seconds=float(cells["seconds"]),
        left=tuple(str(text) for text in left) if isinstance(left, list) else (),
    )
    return name, number("attempt", 9999) or 1, end

"""The directory of raw output of the programs of runtime-tools, of a run or of a recording, and what is read in it:

NAME.tap, NAME.err          what a program printed; NAME.2.tap and so on where it ran several times
NAME.evidence/              what it left besides, with SHA256SUMS of it; NAME.2.evidence and so on
summary.tsv                 one line for each program that ended: program, exit_status, seconds and, where labkit
                            wrote it, signal, timeout, attempt, left
run.json                    what was planned, the facts, and whether the suite finished; only labkit writes it
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StrictStr

from labkit.core import tomlfile
from labkit.core.errors import UsageError
from labkit.core.tomlfile import Table
from labkit.io.files import regular_inside
from labkit.results import copies, tap, verdicts
from labkit.results.model import Result
from labkit.results.verdicts import End, File
from labkit.suites import refs, summary
from labkit.suites.summary import PROGRAM, Summary

RUN = "run.json"
NAME = re.compile(r"(?!labkit-)[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")  # of what a machine runs
EVIDENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a file that a program leaves
FILE = re.compile(rf"({PROGRAM.pattern})(?:\.([2-9]|[1-9][0-9]{{1,3}}))?\.tap")

# A whole recording has 1.1 MB, its longest file 144 KB. In bytes, but for FILES:
OUTPUT, STDERR, TOTAL = 8 << 20, 1 << 20, 64 << 20
FILES = 4000
_LIMITS = tap.Limits(line=1 << 20, block=1 << 20, total=4 << 20, events=50_000)


def _named(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"is {value!r}, must be a name of letters, digits, _ and -")
    return value


_Name = Annotated[StrictStr, AfterValidator(_named)]


class RunFile(Table):
    """run.json. only: the names and patterns that were asked for; tests: those that each program was to run, as far as
    the suite knows; noise counts the lines that are not in the suite's
    format; over: the output exceeded a limit.
    """

    programs: tuple[_Name, ...] = ()
    tests: dict[_Name, tuple[StrictStr, ...]] = Field(default={})
    only: tuple[StrictStr, ...] = ()
    facts: dict[str, StrictStr] = Field(default={})
    finished: bool = False
    noise: int = 0
    over: bool = False


def spec_of(results: Iterable[Result]) -> str:
    """The version of runtime-spec that the references in the output name, "" where there is none."""
    found = (re.search(r"/runtime-spec/blob/v([0-9.]{1,20})/", result.reference) for result in results)
    return next((match[1] for match in found if match), "")


# What runtime-tools (cgroups/cgroups.go) and crun print on cgroup v2, and what only finds something on v1 or hybrid: a
# path of v1 in the output tells nothing, as the programs print some on v2, too.
_V2 = re.compile(rb"cgroupv2 is not supported yet|\b(?:with|on) cgroup ?v2\b")
_V1 = re.compile(rb"^ok [0-9]+ - find [a-z]+ cgroup\b(?! *# *(?:SKIP|TODO))", re.MULTILINE)


def cgroups(output: bytes) -> set[str]:
    """The cgroup versions that the output tells of."""
    return {version for version, said in (("v1", _V1), ("v2", _V2)) if said.search(output)}


def judge(raw: Path, name: str, attempt: int, end: End | None) -> tuple[File, int, set[str]]:
    """What one attempt of a program comes to, how many bytes were read for it, and what cgroups() finds in them."""
    file = stem(name, attempt)
    out, err = content(raw, f"{file}.tap", OUTPUT), content(raw, f"{file}.err", STDERR)
    stderr, silent = err.decode("utf-8", "replace"), name in refs.data().silent
    read = verdicts.read(name, out, stderr, end, silent=silent, limits=_LIMITS)
    if end and end.status == 1 and read.dialect == "bats":  # bats says with it that a test has failed
        other = verdicts.read(name, out, stderr, replace(end, status=0), limits=_LIMITS)
        read = other if any(one.program.verdict.bad for one in other.judged) else read
    seen = cgroups(copies.mend(out)[0] if read.notes else out) | cgroups(err)
    return read, len(out) + len(err), seen


def stem(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name}.{attempt}"


def content(raw: Path, name: str, limit: int) -> bytes:
    """The beginning of a file; nothing where it is missing, or a link that leads out of the directory."""
    if (path := regular_inside(raw, name)) is None:
        return b""
    with path.open("rb") as file:
        return file.read(limit)


def read_summary(raw: Path) -> Summary | None:
    """What summary.tsv says; None where there is no such file. UsageError names file and line."""
    path = raw / summary.FILE
    if not regular_inside(raw, summary.FILE):
        return None
    return summary.read(path, content(raw, summary.FILE, OUTPUT), own=(raw / RUN).exists())


def programs(raw: Path, ends: Mapping[tuple[str, int], End]) -> tuple[dict[str, list[int]], list[str]]:
    """The programs with output and their attempts, in the order in which they ended; and the other .tap files."""
    found: dict[str, set[int]] = defaultdict(set)
    strange = []
    for file in files(raw):
        if (match := FILE.fullmatch(file)) and regular_inside(raw, file):
            found[match[1]].add(int(match[2] or 1))
        else:
            strange.append(file)
    order = dict.fromkeys([*(name for name, _ in ends), *found])
    return {name: sorted(found[name]) for name in order if name in found}, strange


def files(raw: Path) -> list[str]:
    """The files that may hold the output of a program, or do by their names."""
    names = sorted(path.name for path in raw.glob("*.tap") if not path.name.startswith("."))  # ._NAME.tap: macOS
    return [name for name in names if not is_spec_output(raw, name)]


def is_begun(raw: Path) -> bool:
    """Whether the directory is one of programs though none of them has left anything."""
    return any((raw / name).is_file() for name in (RUN, summary.FILE))


def is_spec_output(raw: Path, name: str) -> bool:
    """Whether a file says in its header that it is what the spec suite prints."""
    head, _ = copies.mend(content(raw, name, 4096))
    return re.search(rb"^# suite: labkit-spec ", head, re.MULTILINE) is not None


def read_run(raw: Path) -> RunFile | None:
    path = raw / RUN
    if not path.exists():
        return None
    try:
        value = tap.parse_json(content(raw, RUN, OUTPUT).decode())
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    return tomlfile.check(RunFile, value, lambda _: str(path))

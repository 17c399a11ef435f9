"""A suite that several machines share: who runs what, and the raw output of all of them read as one.

raw/shards.json     the plan: each machine with the checks or programs that it was given
raw/shard-N/        what the suite printed on the Nth machine, as raw/ has it where there is one machine
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictStr

from labkit.core import tomlfile
from labkit.core.errors import UsageError
from labkit.core.text import truncate
from labkit.core.tomlfile import Table
from labkit.io.files import make_directory, write_atomic
from labkit.results import tap
from labkit.results.model import Program, Reading, Result
from labkit.suites import again
from labkit.suites.base import Suite
from labkit.suites.subset import ALL, Subset

PLAN = "shards.json"
_PLAN_LIMIT = 8 << 20  # bytes
_LEAST = 0.001  # seconds that anything takes
_SHOWN = 10  # names in a reason
# What machines that share a suite must have in common, or their results are not about one thing.
_ALIKE = (
    "engine",
    "engine-version",
    "kernel",
    "cgroup",
    "runtime-path",
    "runtime-version",
    "runtime-arguments",
    "spec",
    "ref",
)


class Shard(Table):
    machine: StrictStr
    names: tuple[StrictStr, ...]


class Plan(Table):
    shards: Annotated[tuple[Shard, ...], Field(min_length=1, max_length=1000)]


def split(names: Sequence[str], seconds: Mapping[str, float], count: int) -> list[tuple[str, ...]]:
    """Deal the names out to so many machines, the longest first, each to the one with the least to do; a share has
    them in that order, so that the last to end is a short one. A name whose seconds are not known counts as the median
    of those that are; without any, they go round. No share is empty: there are no more of them than names.
    """
    names = list(dict.fromkeys(names))
    known = [seconds[name] for name in names if name in seconds]
    medium = statistics.median(known) if known else 1.0
    cost = {name: max(seconds.get(name, medium), _LEAST) for name in names}
    shares: list[list[str]] = [[] for _ in range(min(count, len(names)))]
    loads = [0.0] * len(shares)
    for name in sorted(names, key=lambda name: -cost[name]):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += cost[name]
    return [tuple(share) for share in shares]


def place(raw: Path, number: int) -> Path:
    """The directory of the shard of that number, from 1."""
    return raw / f"shard-{number}"


def begin(raw: Path, plan: Plan) -> list[Path]:
    """Write the plan, and make the directory of each shard."""
    write_atomic(raw / PLAN, plan.model_dump_json(indent=1) + "\n")
    return [make_directory(place(raw, number)) for number in range(1, len(plan.shards) + 1)]


def places(raw: Path) -> list[Path]:
    """The directories with raw output: those of the shards where there is a plan, else raw itself. UsageError where the
    plan is damaged.
    """
    plan = _plan(raw)
    if plan is None:
        return [raw]
    found = (place(raw, number) for number in range(1, len(plan.shards) + 1))
    return [path for path in found if path.is_dir() and not path.is_symlink()]


def recognizes(suite: Suite, raw: Path) -> bool:
    """Whether the directory has raw output of the suite, of one machine or of several."""
    return any(map(suite.recognizes, places(raw)))


def read(suite: Suite, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
    """Read raw output as suite.read does, of one machine or of several, and of what was run again.

    Of several, every name of the plan must be there, from the machine that it was given to, and once; and what they
    say of themselves must be the same. Else the reading is incomplete, and says what is missing and where.
    """
    places = [place for number in range(1, again.TIMES + 1) if (place := again.place(raw, number)).is_dir()]
    others = [suite.read(place, known) for place in places if not place.is_symlink() and suite.recognizes(place)]
    return again.settled(_read(suite, raw, known, meant), others)


def _read(suite: Suite, raw: Path, known: Mapping[str, str] | None, meant: Subset) -> Reading:
    plan = _plan(raw)
    if plan is None:
        return suite.read(raw, known, meant)
    if meant.is_subset:
        raise UsageError(f"{raw} is of several machines, each with its own part", hint="leave out --only and --skip")
    results: list[Result] = []
    programs: list[Program] = []
    facts: dict[str, str] = {}
    reasons: list[str] = []
    told: list[str] = []
    dialects: list[str] = []
    tests: dict[str, tuple[str, ...]] = {}
    seen: dict[str, dict[str, str]] = {}
    for number, shard in enumerate(plan.shards, 1):
        found = place(raw, number)
        reading = Reading((), {}, "no output arrived")
        if found.is_dir() and not found.is_symlink() and suite.recognizes(found):
            reading = suite.read(found, known)
            seen[shard.machine] = {key: reading.facts[key] for key in _ALIKE if key in reading.facts}
        whys = [reading.reason, *_unplanned(shard, reading, set(re.findall(r"[\w.-]+", reading.reason or "")))]
        reasons += [f"{shard.machine}: {why}" for why in whys if why]
        results += [result for result in reading.results if (result.program or result.id) in shard.names]
        programs += [program for program in reading.programs if program.name in shard.names]
        facts = {**reading.facts, **facts}
        told += [f"{shard.machine}: {line}" for line in reading.told]
        dialects += reading.dialects
        tests |= reading.tests
    reasons += _differences(seen)
    return Reading(
        tuple(results),
        {**(known or {}), **facts},
        "; ".join(reasons) or None,
        tuple(programs),
        tuple(dict.fromkeys(dialects)),
        tuple(told),
        tests,
    )


def _unplanned(shard: Shard, reading: Reading, told: set[str]) -> list[str]:
    """In what the reading of a shard is not what was planned; told: words of what it says is missing already."""
    found = Counter([program.name for program in reading.programs] or [result.id for result in reading.results])
    kinds = {
        "missing": [name for name in shard.names if name not in found and name not in told],
        "not asked for, and left out": [name for name in found if name not in shard.names],
        "there several times": [name for name, times in found.items() if times > 1],
    }
    return [f"{what}: {_some(names)}" for what, names in kinds.items() if names]


def _differences(seen: Mapping[str, Mapping[str, str]]) -> list[str]:
    """In what the machines that said something of themselves are not alike."""
    found = []
    for key in _ALIKE:
        said = {machine: facts[key] for machine, facts in seen.items() if key in facts}
        if len(set(said.values())) > 1:
            each = ", ".join(f"{truncate(value, 100)} on {machine}" for machine, value in said.items())
            found.append(f"the machines are not alike: {key} is {each}")
    return found


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(truncate(name, 100) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _plan(raw: Path) -> Plan | None:
    """The plan of the directory, None where there is none. UsageError names the file where it is damaged."""
    path = raw / PLAN
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(_PLAN_LIMIT)
    try:
        value = tap.parse_json(data.decode(), depth=8)
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    return tomlfile.check(Plan, value, lambda _: str(path))

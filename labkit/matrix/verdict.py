"""What a night says of itself: what fails and since when is the history's word; how often a failure repeats, whether
the reference shows it, and what changed in the lab, is found in the runs. Values in, values out.

Each failure is told once, with all the cells that show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.results.causes import words_of
from labkit.results.model import WHOLE, Result, Run, Verdict
from labkit.store.past import Durations, Failing, Fixed
from labkit.store.writing import storable

Identity = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Shown:
    """A cell's run, and the list of packages of its machine: name to version, empty where it is not known."""

    run: Run
    packages: Mapping[str, str]


@dataclass(slots=True)
class _Entry:
    what: str
    alike: str = ""
    cells: list[str] = field(default_factory=list)
    repeats: list[bool | None] = field(default_factory=list)
    reference: list[bool | None] = field(default_factory=list)
    since: list[str] = field(default_factory=list)


def changes(
    night: str,
    now: Mapping[str, Shown],
    failing: Sequence[Failing],
    fixed: Sequence[Fixed],
    lab: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """new_failures, still_failing, fixed, flaky, unexpected_passes and expired of night.json.

    now: cells by key; failing and fixed: what the history says of the night; lab: what changed on each platform.
    """
    past = {(one.cell, one.identity): one for one in failing}
    found: dict[str, dict[Identity, _Entry]] = {
        name: {} for name in ("new_failures", "still_failing", "fixed", "flaky", "unexpected_passes")
    }
    expired: dict[str, None] = {}

    def put(group: str, identity: Identity, what: str, key: str, alike: str = "") -> _Entry:
        entry = found[group].setdefault(identity, _Entry(what, alike))
        if key not in entry.cells:
            entry.cells.append(key)
        return entry

    for key, shown in sorted(now.items()):
        for identity, result in _unexpected(shown.run).items():
            known = past.get((storable(key), _storable(identity)))
            group = "still_failing" if known and known.streak > 1 else "new_failures"
            entry = put(group, identity, _what(result), key, words_of(result))
            entry.repeats.append(_repeats(result))
            entry.reference.append(_reference(key, identity, now))
            entry.since.append(known.since.night if known else night)
        flaky = {result.identity: result for result in shown.run.results if result.verdict is Verdict.FLAKY}
        for identity, result in flaky.items():
            put("flaky", identity, _what(result), key)
        for program in shown.run.programs:
            identity = (program.name, WHOLE, "")
            if program.flaky and not any(named == program.name for named, _, _ in flaky):
                put("flaky", identity, f"{program.name}: {', '.join(program.attempts)}", key)
        for line in shown.run.policy.unexpected_passes if shown.run.policy else ():
            put("unexpected_passes", ("", line, ""), line, key)
        expired.update(dict.fromkeys(shown.run.policy.expired if shown.run.policy else ()))
    for one in fixed:
        if one.seen.verdict is not Verdict.FLAKY:
            named, name, _ = one.identity
            put("fixed", one.identity, f"{named} {name}" if named else f"{name} {one.title}".strip(), one.cell)
    return {
        **{
            name: [_json(identity, entry, lab) for identity, entry in sorted(group.items())]
            for name, group in found.items()
        },
        "expired": list(expired),
    }


def _storable(identity: Identity) -> Identity:
    program, name, reference = map(storable, identity)
    return program, name, reference


def _unexpected(run: Run) -> dict[Identity, Result]:
    found: dict[Identity, Result] = {}
    for result in run.unexpected:
        found.setdefault(result.identity, result)
    return found


def _name(result: Result) -> str:
    return " ".join(filter(None, (result.program, result.id if not result.program else "", result.name)))


def _what(result: Result) -> str:
    message = result.diagnostic.get("message", "")
    return f"{_name(result)}: {result.verdict}" + (f": {message}" if isinstance(message, str) and message else "")


def _repeats(result: Result) -> bool | None:
    attempts = result.diagnostic.get("attempts")
    return any(word != Verdict.PASS.value for word in attempts[1:]) if isinstance(attempts, list) else None


def split(key: str) -> tuple[str, str, str, str]:
    """Platform and release, provider, runtime and suite of a cell's key."""
    system, provider, rest = key.split("/", 2)
    runtime, _, suite = rest.rpartition("/")
    return system, provider, runtime, suite


def _reference(key: str, identity: Identity, now: Mapping[str, Shown]) -> bool | None:
    """Whether another runtime fails the same check in the same place; None where none has run it."""
    system, provider, runtime, suite = split(key)
    seen: list[bool] = []
    for other, shown in now.items():
        theirs = split(other)
        if theirs[2] != runtime and (theirs[0], theirs[1], theirs[3]) == (system, provider, suite):
            seen += [result.bad for result in shown.run.results if result.identity == identity]
    return any(seen) if seen else None


def _json(identity: Identity, entry: _Entry, lab: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    made: dict[str, Any] = {"identity": list(identity), "what": entry.what, "cells": entry.cells}
    if entry.since:
        systems = dict.fromkeys(split(key)[0] for key in entry.cells)
        made |= {
            "repeats": _all(entry.repeats),
            "reference_fails": _all(entry.reference),
            "since": min(entry.since, key=lambda ident: (int(ident.rpartition(".")[2] or 0), ident)),
            "lab": [line for system in systems for line in lab.get(system, ())],
            **({"alike": entry.alike} if entry.alike else {}),
        }
    return made


def _all(values: Iterable[bool | None]) -> bool | None:
    known = [value for value in values if value is not None]
    return all(known) if known else None


def lab_changes(now: Mapping[str, Shown], before: Mapping[str, Shown]) -> dict[str, list[str]]:
    """What is another thing in the machines than it was, by platform: `runc 1.1.15+ds1-2 -> 1.1.15+ds1-3`."""
    found: dict[str, dict[str, None]] = {}
    for key, shown in now.items():
        if (old := before.get(key)) is None:
            continue
        lines = found.setdefault(split(key)[0], {})
        rows = {
            "kernel": (old.run.machine.get("kernel"), shown.run.machine.get("kernel")),
            "kernel from": (old.run.machine.get("kernel_origin"), shown.run.machine.get("kernel_origin")),
            "provider": (old.run.machine.get("provider"), shown.run.machine.get("provider")),
            "cgroup": (old.run.machine.get("cgroup"), shown.run.machine.get("cgroup")),
            "labkit": (old.run.run.labkit, shown.run.run.labkit),
            f"{shown.run.runtime.name} itself": (old.run.runtime.version, shown.run.runtime.version),
        }
        if old.packages and shown.packages:
            for name in sorted(old.packages.keys() | shown.packages.keys()):
                rows[name] = (old.packages.get(name, "not there"), shown.packages.get(name, "gone"))
        lines.update(dict.fromkeys(f"{what} {a} -> {b}" for what, (a, b) in rows.items() if a and b and a != b))
    return {system: list(lines) for system, lines in sorted(found.items()) if lines}


def slower(found: Sequence[Durations]) -> list[dict[str, Any]]:
    """The cells that took longer than their history bears."""
    return [
        {
            "cell": one.cell,
            "seconds": round(one.runs[-1].seconds, 3),
            "usual": round(one.usual or 0.0, 3),
            "bound": round(one.bound or 0.0, 3),
        }
        for one in found
    ]

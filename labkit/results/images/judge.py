"""The output of labkit-images judged: a Result for each check of requirements.tsv that was to be."""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

from labkit.core.text import truncate
from labkit.guest.images import cases
from labkit.results.engines.events import Event
from labkit.results.engines.outcomes import commands, seconds
from labkit.results.images import builds, conversion, trees
from labkit.results.images.events import Output
from labkit.results.images.findings import Cannot, Finding
from labkit.results.model import Result, Verdict
from labkit.results.tap import JSON

_TABLE = Path(__file__).with_name("requirements.tsv")
_LOG = 2000  # characters of a daemon's log, its last
_MOST = 50  # failures of one check that are kept


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """The checks by their ids: level, section, summary, how_to_observe, implied."""
    with _TABLE.open(encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def judge(output: Output) -> tuple[Result, ...]:
    """A result for each check that was to be; where its images did not come, only if the converter is broken."""
    return tuple(_with_log(result, output) for result in _results(output))


def _results(output: Output) -> Iterator[Result]:
    for ident in table():
        if output.only and ident not in output.only:
            continue
        if ident in builds.CHECKS:
            if output.builds and output.build is not None:
                yield _built(ident, output.build)
            elif output.builds and output.broken:
                yield _of(ident, Verdict.ERROR, {"message": f"it cannot be used: {output.broken}"})
            continue
        needed = [case for case in cases.CASES if ident in case.checks and case.name in output.cases]
        came = {case.name: output.found[case.name] for case in needed if case.name in output.found}
        if needed and len(came) == len(needed):
            yield _converted(ident, came)
        elif needed and output.broken:
            yield _of(ident, Verdict.ERROR, {"message": f"it cannot be used: {output.broken}"})


def _converted(ident: str, came: dict[str, Event]) -> Result:
    """What all images of a check come to; findings name the image where there are several."""
    check = conversion.CHECKS.get(ident) or functools.partial(trees.check, ident)
    failures: list[JSON] = []
    cannot: list[str] = []
    refused: list[str] = []
    for name, event in came.items():
        prefix = f"{name}: " if len(came) > 1 else ""
        for one in check(name, event):
            if isinstance(one, Cannot):
                cannot.append(f"{prefix}{one.why}")
            else:
                failures.append(_failure(prefix, one))
        if ident in trees.ESCAPES and event.get("status") != 0:
            refused.append(f"{prefix}{truncate(_last(event), 300)}")
    diagnostic: dict[str, JSON] = {}
    notes: dict[str, JSON] = {}
    if refused:
        notes["refused"] = [*refused]
    if cannot:
        notes["not seen"] = [*cannot]
    if failures:
        diagnostic["failures"] = failures[:_MOST]
        diagnostic["commands"] = [command for event in came.values() for command in commands(event)][-20:]
    if notes:
        diagnostic["notes"] = notes
    verdict = Verdict.FAIL if failures else Verdict.PASS
    if not failures and len(cannot) >= len(came):
        verdict, diagnostic["reason"] = Verdict.SKIP, truncate(cannot[0], 400)
    return _of(ident, verdict, diagnostic, sum(map(seconds, came.values())))


def _built(ident: str, event: Event) -> Result:
    why = event.get("cannot")
    if isinstance(why, str):
        return _of(ident, Verdict.SKIP, {"reason": truncate(why, 400)}, seconds(event))
    failures: list[JSON] = []
    for one in builds.CHECKS[ident](event):
        if isinstance(one, Cannot):
            return _of(ident, Verdict.SKIP, {"reason": truncate(one.why, 400)}, seconds(event))
        failures.append(_failure("", one))
    diagnostic: dict[str, JSON] = {}
    if failures:
        diagnostic = {"failures": failures[:_MOST], "commands": commands(event)}
    return _of(ident, Verdict.FAIL if failures else Verdict.PASS, diagnostic, seconds(event))


def _failure(prefix: str, one: Finding) -> JSON:
    found: dict[str, JSON] = {"what": f"{prefix}{truncate(one.what, 1000)}", "finding": f"{prefix}{one.name}"}
    return {**found, "expected": one.expected, "actual": one.actual}


def _last(event: Event) -> str:
    lines = str(event.get("err") or "").strip().splitlines()
    return lines[-1] if lines else f"exit status {event.get('status')}"


def _with_log(result: Result, output: Output) -> Result:
    """What is bad has the end of the log of the engine's daemons."""
    log = truncate(output.log.strip()[-_LOG:], _LOG)
    if not (log and result.bad):
        return result
    notes = result.diagnostic.get("notes")
    told = {**(notes if isinstance(notes, dict) else {}), "the end of the daemon's log": log}
    return dataclasses.replace(result, diagnostic={**result.diagnostic, "notes": told})


def _of(ident: str, verdict: Verdict, diagnostic: dict[str, JSON], took: float = 0.0) -> Result:
    row = table()[ident]
    if row["implied"]:
        diagnostic = {**diagnostic, "implied": row["implied"]}
    return Result(ident, row["summary"], row["level"], row["section"], verdict, took, diagnostic)

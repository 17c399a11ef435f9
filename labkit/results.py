"""What a run showed, as values; and `results.json` (schema 1), the form in which it is kept."""

from __future__ import annotations

import enum
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias, TypeGuard, TypeVar

from labkit import tap
from labkit.errors import LabError
from labkit.tap import JSON
from labkit.text import truncate

SCHEMA = 1

Object: TypeAlias = Mapping[str, JSON]
_T = TypeVar("_T")


class Verdict(enum.StrEnum):
    """What one check showed. The order is the order of urgency in reports."""

    FAIL = "fail"
    ERROR = "error"  # the check itself broke
    TIMEOUT = "timeout"
    TODO = "todo"  # known not to hold
    NO_ASSERTIONS = "no-assertions"  # ran, and looked at nothing
    SKIP = "skip"
    PASS = "pass"

    @property
    def bad(self) -> bool:
        """True where the requirement was not shown to hold though the check meant to show it."""
        return self in (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Result:
    """One check. seconds is how long it took; diagnostic is evidence, free in form.

    The keys of diagnostic that reports know: message, reason, failures (objects with what, expected, actual), notes.
    """

    id: str
    name: str
    level: str
    reference: str
    verdict: Verdict
    seconds: float
    diagnostic: Object = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """When and by which labkit; times are aware. reason says why the run is not complete, None where it is."""

    id: str
    started: datetime
    finished: datetime
    labkit: str
    reason: str | None = None

    @property
    def complete(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Runtime:
    name: str
    path: str
    version: str


@dataclass(frozen=True, slots=True)
class Suite:
    """spec is the version of runtime-spec that was expected of the runtime ("1.0.2"), "" where the suite names none."""

    name: str
    version: str
    spec: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Results are in the order in which they came; machine has at least platform, release, provider, kernel, cgroup."""

    run: RunInfo
    machine: Object
    runtime: Runtime
    suite: Suite
    results: tuple[Result, ...]

    @property
    def totals(self) -> dict[Verdict, int]:
        """How many results have each verdict, every verdict included."""
        count = Counter(result.verdict for result in self.results)
        return {verdict: count[verdict] for verdict in Verdict}

    def by_id(self) -> list[Result]:
        """The results by group and number, so that two runs compare line by line."""
        return sorted(self.results, key=lambda result: _id_order(result.id))


def exit_status(run: Run) -> int:
    """Return what a command ends with: 0 nothing bad, 1 a check failed, broke or timed out, 4 the run is incomplete."""
    if not run.run.complete or not run.results:
        return 4
    return 1 if any(result.verdict.bad for result in run.results) else 0


# --- results.json


def to_json(run: Run) -> str:
    """Return the text of results.json: results by id, ASCII only, so hostile text in it is inert."""
    info = run.run
    document: dict[str, object] = {
        "schema": SCHEMA,
        "run": {
            "id": info.id,
            "started": _timestamp(info.started),
            "finished": _timestamp(info.finished),
            "complete": info.complete,
            **({} if info.complete else {"reason": info.reason}),
            "labkit": info.labkit,
        },
        "machine": dict(run.machine),
        "runtime": {"name": run.runtime.name, "path": run.runtime.path, "version": run.runtime.version},
        "suite": {
            "name": run.suite.name,
            "version": run.suite.version,
            **({"spec": run.suite.spec} if run.suite.spec else {}),
        },
        "totals": {verdict.value: count for verdict, count in run.totals.items()},
        "results": [
            {
                "id": result.id,
                "name": result.name,
                "level": result.level,
                "reference": result.reference,
                "verdict": result.verdict.value,
                "seconds": result.seconds,
                "diagnostic": dict(result.diagnostic),
            }
            for result in run.by_id()
        ],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def from_json(text: str | bytes, where: str = "results.json") -> Run:
    """Return the run that a results.json holds. where names the file in errors.

    Keys it does not know are ignored. LabError names the file and the key where something is missing or not what it
    must be, or where the totals are not those of the results.
    """
    try:
        value = tap.parse_json(text if isinstance(text, str) else text.decode(), depth=64, commas=10_000_000)
    except ValueError as error:
        raise LabError(f"{where}: not JSON: {error}", hint="Run the suite again to get a new one.") from error
    top = _Table(where, "", _is(dict, value, where, "the document", "an object"))
    if (schema := top.get("schema", int, "a number")) != SCHEMA:
        raise LabError(f"{where}: schema is {schema}, this labkit reads {SCHEMA}", hint="Read it with a newer labkit.")
    run, runtime, suite = top.table("run"), top.table("runtime"), top.table("suite")
    complete = run.get("complete", bool, "true or false")
    read = Run(
        run=RunInfo(
            id=run.text("id"),
            started=run.time("started"),
            finished=run.time("finished"),
            labkit=run.text("labkit"),
            reason=None if complete else run.text("reason", "no reason given"),
        ),
        machine=top.get("machine", dict, "an object"),
        runtime=Runtime(runtime.text("name"), runtime.text("path"), runtime.text("version")),
        suite=Suite(suite.text("name"), suite.text("version"), suite.text("spec", "")),
        results=tuple(_result(entry) for entry in top.tables("results")),
    )
    totals = top.table("totals")
    for verdict, count in read.totals.items():
        if totals.get(verdict.value, int, "a number") != count:
            raise LabError(f"{where}: totals.{verdict.value} is not the number of such results, which is {count}")
    return read


def _result(entry: _Table) -> Result:
    word = entry.text("verdict")
    if word not in list(Verdict):
        raise LabError(f"{entry.where}: {entry.path('verdict')} is {word!r}, none of {', '.join(Verdict)}")
    return Result(
        id=entry.text("id"),
        name=entry.text("name"),
        level=entry.text("level"),
        reference=entry.text("reference"),
        verdict=Verdict(word),
        seconds=entry.seconds("seconds"),
        diagnostic=entry.get("diagnostic", dict, "an object"),
    )


def _is(kind: type[_T], value: object, where: str, path: str, wanted: str) -> _T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise LabError(f"{where}: {path} must be {wanted}")
    return value


@dataclass(frozen=True, slots=True)
class _Table:
    """An object of the document that knows where it stands."""

    where: str
    at: str
    values: Mapping[str, JSON]

    def path(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key

    def get(self, key: str, kind: type[_T], wanted: str) -> _T:
        if key not in self.values:
            raise LabError(f"{self.where}: {self.path(key)} is missing")
        return _is(kind, self.values[key], self.where, self.path(key), wanted)

    def text(self, key: str, default: str | None = None) -> str:
        if default is not None and key not in self.values:
            return default
        return self.get(key, str, "a string")

    def time(self, key: str) -> datetime:
        try:
            moment = datetime.fromisoformat(self.text(key))
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise LabError(f"{self.where}: {self.path(key)} must be a time with its zone, as 2026-01-31T12:00:00Z")
        return moment

    def seconds(self, key: str) -> float:
        value = self.get(key, object, "a number")
        if not _is_duration(value):
            raise LabError(f"{self.where}: {self.path(key)} must be a number of seconds")
        return float(value)

    def table(self, key: str) -> _Table:
        return _Table(self.where, self.path(key), self.get(key, dict, "an object"))

    def tables(self, key: str) -> Iterable[_Table]:
        for number, entry in enumerate(self.get(key, list, "a list")):
            path = f"{self.path(key)}[{number}]"
            yield _Table(self.where, path, _is(dict, entry, self.where, path, "an object"))


def _is_duration(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _id_order(ident: str) -> tuple[str, int, str]:
    match = re.fullmatch(r"(.*?)-?([0-9]{1,9})", ident, re.DOTALL)
    return (match[1], int(match[2]), ident) if match else (ident, 0, ident)


# --- from the TAP of the spec suite

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}")
_LEADING_ID = re.compile(r"([A-Z][A-Z0-9]*-[0-9]{1,6})(?:\s+(.*))?", re.DOTALL)
_FACT = re.compile(r"([a-z][a-z-]{0,39}): (.*)", re.DOTALL)
_SAYABLE = {  # which verdicts a test line can carry; the first is meant where the block names none
    (True, ""): (Verdict.PASS, Verdict.NO_ASSERTIONS),
    (False, ""): (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT, Verdict.NO_ASSERTIONS),
    (True, "SKIP"): (Verdict.SKIP, Verdict.NO_ASSERTIONS),
    (False, "SKIP"): (Verdict.SKIP,),
    (True, "TODO"): (Verdict.TODO,),
    (False, "TODO"): (Verdict.TODO,),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a whole TAP output says: results in order, `# key: value` comments before the first result, and why it is
    not complete (None where it is).
    """

    results: tuple[Result, ...]
    facts: Mapping[str, str]
    reason: str | None


def from_tap(events: Iterable[tap.Event]) -> Reading:
    """Read the output of the spec suite, or any TAP whose blocks use its keys. Never raises, whatever the events."""
    events = list(events)
    points = [event for event in events if isinstance(event, tap.TestPoint)]
    facts: dict[str, str] = {}
    for event in events:
        if isinstance(event, tap.TestPoint):
            break
        if isinstance(event, tap.Comment) and (match := _FACT.fullmatch(event.text)):
            facts.setdefault(match[1], truncate(match[2], 1000))
    results = tuple(result_of(point, position) for position, point in enumerate(points, 1))
    return Reading(results, facts, tap.unfinished(events))


def result_of(point: tap.TestPoint, position: int = 0) -> Result:
    """Return the result that a test line and its block tell; never raises, whatever is in them.

    The line decides: a verdict in the block may only refine `not ok` (error, timeout) or say that nothing was looked
    at. Where the two contradict each other the check is broken, which is an error. position names a result without id.
    """
    block = point.diagnostic or tap.Block({})
    said = dict(block.value)
    leading = _LEADING_ID.fullmatch(point.description)
    ident = said.pop("id", None)
    if not (isinstance(ident, str) and _ID.fullmatch(ident)):
        ident = leading[1] if leading else f"test-{point.number or position}"
    name = (leading[2] or "") if leading and leading[1] == ident else point.description
    level, reference, word, seconds = (said.pop(key, None) for key in ("level", "reference", "verdict", "seconds"))
    possible = _SAYABLE[point.ok, point.directive]
    verdict = possible[0]
    if isinstance(word, str) and word in list(Verdict):
        verdict = Verdict(word)
        if verdict not in possible:
            line = " ".join(filter(None, ("ok" if point.ok else "not ok", point.directive)))
            verdict = Verdict.ERROR
            said["message"] = f"the check contradicts itself: its line says {line!r}, its verdict {word!r}"
    if point.reason:
        said.setdefault("reason", point.reason)
    if block.text:
        said["text"] = truncate(block.text, 20_000)
    if not block.whole:
        said["cut"] = True
    return Result(
        id=ident,
        name=truncate(name, 1000),
        level=truncate(level, 40) if isinstance(level, str) else "",
        reference=truncate(reference, 400) if isinstance(reference, str) else "",
        verdict=verdict,
        seconds=float(seconds) if _is_duration(seconds) else 0.0,
        diagnostic=said,
    )

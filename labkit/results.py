"""What a run showed, as values; and `results.json` (schema 1), the form in which it is kept."""

from __future__ import annotations

import enum
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
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
class Expected:
    """Why a verdict is no surprise: what the policy says of it. source is the file and entry that says so."""

    reason: str
    link: str
    source: str


WHOLE = "(program)"  # the name of a result about a program as a whole


@dataclass(frozen=True, slots=True)
class Result:
    """One check, or one assertion of a program. seconds is how long it took; diagnostic is evidence, free in form.

    program is "" where the suite is one program. The keys of diagnostic that reports know: message, reason, violation
    (what an error in an odd place says was violated), failures (objects with what, expected, actual), notes.
    expected is the policy's word; the verdict never changes for it.
    """

    id: str
    name: str
    level: str
    reference: str
    verdict: Verdict
    seconds: float
    diagnostic: Object = field(default_factory=dict)
    program: str = ""
    expected: Expected | None = None

    @property
    def whole(self) -> bool:
        """True for a result about a program as a whole, which no line of its output tells."""
        return bool(self.program) and self.name == WHOLE

    @property
    def violation(self) -> str:
        """What was violated according to something other than an assertion, "" where nothing was."""
        said = self.diagnostic.get("violation")
        return said if self.program and isinstance(said, str) else ""

    @property
    def bad(self) -> bool:
        """True where something is wrong, expected or not."""
        return self.verdict.bad or bool(self.violation)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What is the same in two runs of a suite: program, description and reference, or the id where that is stable.

        Neither number nor order (runtimetest walks Go maps), nor what is made up anew in each run.
        """
        if not self.program:
            return ("", self.id, "")
        if self.whole:
            return (self.program, WHOLE, "")
        return (self.program, _PASSING.sub("…", self.name), _SPEC_VERSION.sub(r"\1", self.reference))


_PASSING = re.compile(r"(?<=ocitest)[0-9]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SPEC_VERSION = re.compile(r"(https://github\.com/opencontainers/[a-z-]+/blob/)[^/]+/")


@dataclass(frozen=True, slots=True)
class Program:
    """A program of a suite that has several. status is None where it is not known or a signal ended it.

    attempts has the verdict of each time it ran, where that was more than once; verdict is then the worst. left is what
    it left behind, as text.
    """

    name: str
    verdict: Verdict
    seconds: float
    status: int | None = None
    attempts: tuple[Verdict, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def flaky(self) -> bool:
        return len(set(self.attempts)) > 1


@dataclass(frozen=True, slots=True)
class PolicyNotes:
    """What applying a policy showed beside the results that it expects: one line each."""

    expired: tuple[str, ...] = ()
    unexpected_passes: tuple[str, ...] = ()
    misspelt: tuple[str, ...] = ()  # entries of a person's own that are about nothing, but nearly about something


@dataclass(frozen=True, slots=True)
class RunInfo:
    """When and by which labkit; times are aware. reason says why the run is not complete, None where it is.

    cut is the part of reason that only those could tell who watched the run; the rest follows from its raw output.
    """

    id: str
    started: datetime
    finished: datetime
    labkit: str
    reason: str | None = None
    cut: str | None = None

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
    programs: tuple[Program, ...] = ()
    policy: PolicyNotes | None = None  # None where none was applied

    @property
    def title(self) -> str:
        """`spec 1.0.0 on runc 1.1.15`; not every suite and runtime tells its version."""
        return " ".join(f"{self.suite.name} {self.suite.version} on {self.runtime.name} {self.runtime.version}".split())

    @property
    def totals(self) -> dict[Verdict, int]:
        """How many results have each verdict, every verdict included."""
        count = Counter(result.verdict for result in self.results)
        return {verdict: count[verdict] for verdict in Verdict}

    def by_id(self) -> list[Result]:
        """The results by group and number, or by program as they came, so that two runs compare line by line."""
        return sorted(self.results, key=lambda result: (result.program, *_id_order(result)))

    @property
    def unexpected(self) -> list[Result]:
        """What is bad and not expected, the most urgent first."""
        bad = [result for result in self.by_id() if result.bad and result.expected is None]
        return sorted(bad, key=lambda result: URGENCY[result.verdict])

    @property
    def assertions(self) -> dict[Verdict, int]:
        """What the programs printed at column 0, before any policy."""
        count = Counter(result.verdict for result in self.results if not result.whole)
        return {verdict: count[verdict] for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.SKIP, Verdict.TODO)}

    def summary(self) -> dict[str, JSON]:
        """What scripts want to know, as JSON; of a suite with programs also what these printed and came to."""
        told: dict[str, JSON] = {
            "run": self.run.id,
            "complete": self.run.complete,
            **({} if self.run.complete else {"reason": self.run.reason}),
            "totals": {verdict.value: count for verdict, count in self.totals.items()},
            "unexpected": len(self.unexpected),
        }
        if self.policy is not None:
            told["policy"] = {key: list(lines) for key, lines in asdict(self.policy).items()}
        if self.programs:
            told["programs"] = len(self.programs)
            told["assertions"] = {verdict.value: count for verdict, count in self.assertions.items()}
            told["programs_by_verdict"] = {
                verdict.value: [program.name for program in self.programs if program.verdict is verdict]
                for verdict in Verdict
            }
            told["flaky"] = [program.name for program in self.programs if program.flaky]
        return told


URGENCY = {verdict: rank for rank, verdict in enumerate(Verdict)}


def exit_status(run: Run) -> int:
    """Return what a command ends with: 0 all as expected, 1 something bad that is not expected, 4 incomplete.

    A policy entry that has expired is as bad as a failure.
    """
    if not run.run.complete or not run.results:
        return 4
    return 1 if run.unexpected or (run.policy and run.policy.expired) else 0


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
            **({"cut": info.cut} if info.cut else {}),
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
    }
    if run.policy is not None:
        document["policy"] = {key: list(lines) for key, lines in asdict(run.policy).items()}
    # With an indent json is slow; a suite of programs has thousands of results, each fits a line of its own.
    line = json.JSONEncoder(allow_nan=False).encode
    lists = {"programs": [_program_json(program) for program in run.programs]} if run.programs else {}
    lists["results"] = [_result_json(result) for result in run.by_id()]
    text = json.dumps(document, indent=2, allow_nan=False).removesuffix("\n}")
    for key, entries in lists.items():
        text += f',\n  "{key}": [' + ",".join(f"\n    {line(entry)}" for entry in entries) + "\n  ]"
    return text + "\n}\n"


def _program_json(program: Program) -> Object:
    return {
        "name": program.name,
        "verdict": program.verdict.value,
        "status": program.status,
        "seconds": program.seconds,
        **({"attempts": [verdict.value for verdict in program.attempts]} if program.attempts else {}),
        **({"left": list(program.left)} if program.left else {}),
    }


def _result_json(result: Result) -> Object:
    return {
        "id": result.id,
        **({"program": result.program} if result.program else {}),
        "name": result.name,
        "level": result.level,
        "reference": result.reference,
        "verdict": result.verdict.value,
        "seconds": result.seconds,
        "diagnostic": result.diagnostic,
        **({"expected": asdict(result.expected)} if result.expected else {}),
    }


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
            cut=run.text("cut", "") or None,
        ),
        machine=top.get("machine", dict, "an object"),
        runtime=Runtime(runtime.text("name"), runtime.text("path"), runtime.text("version")),
        suite=Suite(suite.text("name"), suite.text("version"), suite.text("spec", "")),
        results=tuple(_result(entry) for entry in top.tables("results")),
        programs=tuple(_program(entry) for entry in top.tables("programs", ())),
        policy=_notes(top.table("policy")) if "policy" in top.values else None,
    )
    totals = top.table("totals")
    for verdict, count in read.totals.items():
        if totals.get(verdict.value, int, "a number") != count:
            raise LabError(f"{where}: totals.{verdict.value} is not the number of such results, which is {count}")
    return read


def _notes(entry: _Table) -> PolicyNotes:
    return PolicyNotes(*map(entry.texts, ("expired", "unexpected_passes", "misspelt")))


def _program(entry: _Table) -> Program:
    status = entry.get("status", object, "a number or null")
    return Program(
        name=entry.text("name"),
        verdict=entry.verdict("verdict", entry.text("verdict")),
        seconds=entry.seconds("seconds"),
        status=None if status is None else entry.get("status", int, "a number or null"),
        attempts=tuple(entry.verdict("attempts", word) for word in entry.texts("attempts", ())),
        left=entry.texts("left", ()),
    )


def _result(entry: _Table) -> Result:
    expected = entry.table("expected") if "expected" in entry.values else None
    return Result(
        id=entry.text("id"),
        name=entry.text("name"),
        level=entry.text("level"),
        reference=entry.text("reference"),
        verdict=entry.verdict("verdict", entry.text("verdict")),
        seconds=entry.seconds("seconds"),
        diagnostic=entry.get("diagnostic", dict, "an object"),
        program=entry.text("program", ""),
        expected=Expected(*map(expected.text, ("reason", "link", "source"))) if expected else None,
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

    def verdict(self, key: str, word: str) -> Verdict:
        if word not in list(Verdict):
            raise LabError(f"{self.where}: {self.path(key)} is {word!r}, none of {', '.join(Verdict)}")
        return Verdict(word)

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        if default is not None and key not in self.values:
            return default
        listed = self.get(key, list, "a list")
        return tuple(_is(str, text, self.where, f"{self.path(key)}[{n}]", "a string") for n, text in enumerate(listed))

    def table(self, key: str) -> _Table:
        return _Table(self.where, self.path(key), self.get(key, dict, "an object"))

    def tables(self, key: str, default: tuple[()] | None = None) -> Iterable[_Table]:
        if default is not None and key not in self.values:
            return
        for number, entry in enumerate(self.get(key, list, "a list")):
            path = f"{self.path(key)}[{number}]"
            yield _Table(self.where, path, _is(dict, entry, self.where, path, "an object"))


def _is_duration(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _id_order(result: Result) -> tuple[str, int, str]:
    if result.program:
        return ("", 0, "")
    match = re.fullmatch(r"(.*?)-?([0-9]{1,9})", result.id, re.DOTALL)
    return (match[1], int(match[2]), result.id) if match else (result.id, 0, result.id)


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
    """What the raw output of a suite says: results in order, what the suite said of itself and of the machine (kernel,
    cgroup, runtime-path, runtime-version, spec, ref), and why it is not complete (None where it is).
    """

    results: tuple[Result, ...]
    facts: Mapping[str, str]
    reason: str | None
    programs: tuple[Program, ...] = ()


def from_tap(events: Iterable[tap.Event]) -> Reading:
    """Read the output of the spec suite, or any TAP whose blocks use its keys. Never raises, whatever the events.

    The facts are the `# key: value` comments before the first result.
    """
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

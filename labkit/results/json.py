"""`results.json` (schema 1), the form in which a run is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeVar

from labkit.core.errors import LabError
from labkit.results import tap
from labkit.results.causes import causes
from labkit.results.model import (
    Attribution,
    EngineInfo,
    Expected,
    Judged,
    Object,
    PolicyNotes,
    Program,
    Referred,
    Result,
    Run,
    RunInfo,
    RuntimeInfo,
    SuiteInfo,
    Verdict,
    exit_status,
    is_duration,
)
from labkit.results.tap import JSON

SCHEMA = 1
_OF_RUNTIME = ("arguments", "sha256", "source", "word")  # left out where they are empty
_T = TypeVar("_T")


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
            **({"interrupted_reason": info.interrupted_reason} if info.interrupted_reason else {}),
            "labkit": info.labkit,
        },
        "machine": dict(run.machine),
        "runtime": {
            "name": run.runtime.name,
            "path": run.runtime.path,
            "version": run.runtime.version,
            **{key: word for key in _OF_RUNTIME if (word := getattr(run.runtime, key))},
        },
        **({"engine": asdict(run.engine)} if run.engine else {}),
        "suite": {
            "name": run.suite.name,
            "version": run.suite.version,
            **({"spec": run.suite.spec} if run.suite.spec else {}),
            **({"spec_claimed": run.suite.spec_claimed} if run.suite.spec_claimed else {}),
        },
        "totals": {verdict.value: count for verdict, count in run.totals.items()},
    }
    if run.evidence:
        document["evidence"] = dict(run.evidence)
    if skipped := run.skipped:
        document["skipped"] = skipped
    if run.dialects or run.told:
        document["reading"] = {"dialects": list(run.dialects), "told": list(run.told)}
    if run.judged is not None:
        files = run.judged.policy
        listed = None if files is None else [{"name": name, "sha256": digest} for name, digest in files.items()]
        document["judged"] = {"at": _timestamp(run.judged.at), "labkit": run.judged.labkit, "policy": listed}
    document["exit_status"] = exit_status(run)
    document["unexpected"] = len(run.unexpected)
    if run.nothing_shown:
        document["nothing_shown"] = run.nothing_shown
    if found := causes(run.unexpected):
        document["causes"] = [cause.to_json() for cause in found]
    if run.referred is not None:
        document["reference"] = asdict(run.referred)
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
        **({"known": list(result.known)} if result.known else {}),
        **({"attribution": asdict(result.attribution)} if result.attribution else {}),
    }


def from_json(text: str | bytes, where: str = "results.json") -> Run:
    """Return the run that a results.json holds. where names the file in errors.

    Unknown keys are ignored. LabError names the file and the key if a value is missing or wrong, or if the totals do
    not match the results.
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
            interrupted_reason=run.text("interrupted_reason", run.text("cut", "")) or None,  # cut: labkit 0.1.0
        ),
        machine=top.get("machine", dict, "an object"),
        runtime=RuntimeInfo(
            runtime.text("name"),
            runtime.text("path"),
            runtime.text("version"),
            *(runtime.text(key, "") for key in _OF_RUNTIME),
        ),
        suite=SuiteInfo(
            suite.text("name"), suite.text("version"), suite.text("spec", ""), suite.text("spec_claimed", "")
        ),
        results=tuple(_result(entry) for entry in top.tables("results")),
        programs=tuple(_program(entry) for entry in top.tables("programs", ())),
        policy=_notes(top.table("policy")) if "policy" in top.values else None,
        dialects=top.table("reading").texts("dialects") if "reading" in top.values else (),
        told=top.table("reading").texts("told") if "reading" in top.values else (),
        judged=_judged(top.table("judged")) if "judged" in top.values else None,
        referred=_referred(top.table("reference")) if "reference" in top.values else None,
        engine=_engine(top.table("engine")) if "engine" in top.values else None,
        evidence=top.get("evidence", dict, "an object") if "evidence" in top.values else {},
    )
    totals = top.table("totals")
    for verdict, count in read.totals.items():
        if verdict is Verdict.FLAKY and verdict.value not in totals.values and not count:
            continue  # labkit before 0.3 had no such verdict
        if totals.get(verdict.value, int, "a number") != count:
            raise LabError(f"{where}: totals.{verdict.value} does not match the results, which have {count}")
    return read


def _judged(entry: _Table) -> Judged:
    files = None
    if entry.values.get("policy") is not None:
        files = {file.text("name"): file.text("sha256") for file in entry.tables("policy")}
    return Judged(entry.time("at"), entry.text("labkit"), files)


def _referred(entry: _Table) -> Referred:
    checks, left = (entry.get(key, int, "a number") for key in ("checks", "left"))
    return Referred(entry.text("runtime"), checks, left, entry.text("reason", ""))


def _engine(entry: _Table) -> EngineInfo:
    return EngineInfo(entry.text("name"), entry.text("version", ""))


def _attribution(entry: _Table) -> Attribution:
    return Attribution(*(entry.text(key, "") for key in ("reference", "against", "history", "good")))


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
        known=entry.texts("known", ()),
        attribution=_attribution(entry.table("attribution")) if "attribution" in entry.values else None,
    )


def _is(kind: type[_T], value: object, where: str, path: str, wanted: str) -> _T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise LabError(f"{where}: {path} must be {wanted}")
    return value


@dataclass(frozen=True, slots=True)
class _Table:
    """An object of the document, with its path in it."""

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
            moment.astimezone(UTC)
        except (ValueError, OverflowError):
            moment = None
        if moment is None or moment.tzinfo is None:
            raise LabError(
                f"{self.where}: {self.path(key)} must be a time with a time zone, such as 2026-01-31T12:00:00Z"
            )
        return moment

    def seconds(self, key: str) -> float:
        value = self.get(key, object, "a number")
        if not is_duration(value):
            raise LabError(f"{self.where}: {self.path(key)} must be a number of seconds")
        return float(value)

    def verdict(self, key: str, word: str) -> Verdict:
        if word not in list(Verdict):
            raise LabError(f"{self.where}: {self.path(key)} is {word!r}, must be one of {', '.join(Verdict)}")
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


def _timestamp(moment: datetime) -> str:
    """In whole seconds, or with three digits of a fraction."""
    moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")

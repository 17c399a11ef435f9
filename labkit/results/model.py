"""What a run showed, as values."""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TypeAlias, TypeGuard

from labkit.results.tap import JSON

Object: TypeAlias = Mapping[str, JSON]


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

    interrupted_reason is the part of reason that only those could tell who watched the run; the rest follows from its
    raw output.
    """

    id: str
    started: datetime
    finished: datetime
    labkit: str
    reason: str | None = None
    interrupted_reason: str | None = None

    @property
    def complete(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    name: str
    path: str
    version: str


@dataclass(frozen=True, slots=True)
class SuiteInfo:
    """spec is the version of runtime-spec that was expected of the runtime ("1.0.2"), "" where the suite names none."""

    name: str
    version: str
    spec: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Results are in the order in which they came; machine has at least platform, release, provider, kernel, cgroup."""

    run: RunInfo
    machine: Object
    runtime: RuntimeInfo
    suite: SuiteInfo
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


@dataclass(frozen=True, slots=True)
class Reading:
    """What the raw output of a suite says: results in order, what the suite said of itself and of the machine (kernel,
    cgroup, runtime-path, runtime-version, spec, ref), and why it is not complete (None where it is).
    """

    results: tuple[Result, ...]
    facts: Mapping[str, str]
    reason: str | None
    programs: tuple[Program, ...] = ()


def _id_order(result: Result) -> tuple[str, int, str]:
    if result.program:
        return ("", 0, "")
    match = re.fullmatch(r"(.*?)-?([0-9]{1,9})", result.id, re.DOTALL)
    return (match[1], int(match[2]), result.id) if match else (result.id, 0, result.id)


def is_duration(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9

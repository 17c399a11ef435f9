"""The results of a run, as values."""

from __future__ import annotations

import enum
import functools
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
    FLAKY = "flaky"  # bad at first, not when it was run again
    TODO = "todo"  # a suite's own word for what it expects to fail
    NO_ASSERTIONS = "no-assertions"  # ran, and checked nothing
    SKIP = "skip"
    PASS = "pass"

    @property
    def bad(self) -> bool:
        """True where the check was to show that the requirement holds, and did not; also by not asserting anything."""
        return self in (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT, Verdict.NO_ASSERTIONS)

    @property
    def shows(self) -> bool:
        """True where something about the runtime was looked at, whatever was seen."""
        return self in (Verdict.PASS, Verdict.FAIL, Verdict.FLAKY, Verdict.TODO)


@dataclass(frozen=True, slots=True)
class Expected:
    """Why the policy expects a verdict. source names the policy file and entry."""

    reason: str
    link: str
    source: str


@dataclass(frozen=True, slots=True)
class Attribution:
    """Whose failure it is, in the words of labkit/results/attribution.py: beside a reference runtime, which against
    names; and beside earlier runs, with what is known of when it was good. Empty where that is not known.
    """

    reference: str = ""
    against: str = ""
    history: str = ""
    good: str = ""

    @property
    def text(self) -> str:
        """`this runtime only (beside runc 1.1.15), since version 1.2 (good with 1.1 in run ...)`."""
        reference = f"{self.reference} (beside {self.against})" if self.against else self.reference
        history = f"{self.history} ({self.good})" if self.good else self.history
        return ", ".join(filter(None, (reference, history)))


@dataclass(frozen=True, slots=True)
class Referred:
    """The reference runtime that bad results were compared with: checks of them were, left were not. reason: why it
    did not come to its end, or to nothing; "" where it did.
    """

    runtime: str
    checks: int
    left: int
    reason: str = ""

    @property
    def text(self) -> str:
        left = f", {self.left} more were not" if self.left else ""
        failed = f"; that ended early: {self.reason}" if self.reason else ""
        were = f"{self.checks} of what is bad {'was' if self.checks == 1 else 'were'}"
        return f"{were} compared with {self.runtime}{left}{failed}"


WHOLE = "(program)"  # the name of a result about a program as a whole


@dataclass(frozen=True, slots=True)
class Result:
    """One check, or one assertion of a program. seconds is how long it took; diagnostic is evidence, free in form.

    program is "" where the suite is one program. The keys of diagnostic that reports know: message, reason, violation
    (a requirement that an error outside the assertions names), failures (objects with what, expected, actual), notes.
    transcript is what the spec suite recorded of a bad check, packed (transcript.py); raw output alone has it.
    expected and known are set by the policy, which never changes the verdict: known are the findings that it names; a
    result is expected where those are all. attribution: whose failure it is, where something is known of that.
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
    known: tuple[str, ...] = ()
    transcript: str = field(default="", compare=False, repr=False)
    attribution: Attribution | None = None

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the comparisons that failed, each once; none where the suite names none."""
        failures = self.diagnostic.get("failures")
        names = [one.get("finding") for one in failures if isinstance(one, dict)] if isinstance(failures, list) else []
        return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))

    @property
    def whole(self) -> bool:
        """True for a result about a program as a whole rather than one of its test lines."""
        return bool(self.program) and self.name == WHOLE

    @property
    def violation(self) -> str:
        """The requirement that was violated according to something other than an assertion, or ""."""
        violation = self.diagnostic.get("violation")
        return violation if self.program and isinstance(violation, str) else ""

    @property
    def bad(self) -> bool:
        """True where something is wrong, expected or not."""
        return self.verdict.bad or bool(self.violation)

    @property
    def asserts(self) -> bool:
        """True for an assertion that showed something."""
        return self.verdict.shows and not self.whole

    @property
    def identity(self) -> tuple[str, str, str]:
        """What identifies the result in every run of a suite: program, description and reference, or a stable id.

        Number and order are no part of it (runtimetest walks Go maps), nor is text that each run makes up: times,
        durations, addresses, pids, ids and temporary paths.
        """
        if not self.program:
            return ("", self.id, "")
        if self.whole:
            return (self.program, WHOLE, "")
        return (self.program, lasting(self.name), _without_version(self.reference))


# What differs from run to run though the check is the same, in the order in which it is looked for. Numbers of other
# kinds stay: `maps to 1000` and `maps to 2000` are two checks.
_TOOK = r"(?:took|after|in|elapsed:?|duration:?|time[=:]?) {0,2}"
_UNIT = r" ?(?:ns|us|µs|ms|s|secs?|seconds?|minutes?)"
_PASSING = re.compile(
    "|".join(
        (
            r"(?<=ocitest)[0-9]+",
            r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",  # a UUID
            r"\b(?:[0-9]{4}-[0-9]{2}-[0-9]{2}[T ])?[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?"
            r"(?:Z|[+-][0-9]{2}:?[0-9]{2})?\b",
            rf" ?#? ?(?:{_TOOK})?\b[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?{_UNIT} *$",  # at the end: `# 0.041s`, `in 12ms`
            rf" ?\((?:{_TOOK})?[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?{_UNIT}\)",
            rf"\b(?:took|elapsed:?|duration:?|time[=:]) ?[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?{_UNIT}\b",
            r"\b0x[0-9a-fA-F]{4,16}\b",
            r"(?i:\bp?pid[ =:#]{1,2})[0-9]{1,8}\b|(?<=/proc/)[0-9]{1,8}(?=/|\b)",
            r"(?:/private)?(?:/var)?/tmp/[^\s'\"`,;:)\]}]+|/var/folders/[^\s'\"`,;:)\]}]+|\btmp[.][A-Za-z0-9]{6,12}\b",
            r"(?<=/run/user/)[0-9]{1,8}\b",
            r"(?:(?<=localhost:)|(?<=127\.0\.0\.1:)|(?<=0\.0\.0\.0:)|(?<=\[::1\]:))[0-9]{2,5}\b",  # a port
            r"\b[0-9a-f]{64}\b",  # the id of a container
        )
    )
)
_SPEC_VERSION = re.compile(r"(https://github\.com/opencontainers/[a-z-]+/blob/)[^/]+/")


@functools.lru_cache(10_000)  # a run has thousands of results, and hundreds of names
def lasting(name: str) -> str:
    """A name without what each run makes up: times, addresses, pids, ids, temporary paths."""
    return _PASSING.sub("…", name)


@functools.lru_cache(10_000)
def _without_version(reference: str) -> str:
    return _SPEC_VERSION.sub(r"\1", reference)


@dataclass(frozen=True, slots=True)
class Program:
    """A program of a suite that has several. status is None where it is not known or a signal ended it.

    attempts has the verdict of each attempt, if there were several; verdict is then the worst. left lists what it left
    behind (processes, mounts, cgroups), as text.
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
    """Where the results do not match the policy: one line each."""

    expired: tuple[str, ...] = ()
    unexpected_passes: tuple[str, ...] = ()
    misspelt: tuple[str, ...] = ()  # the user's own entries that match no result, but nearly do


@dataclass(frozen=True, slots=True)
class Judged:
    """When a run was judged, by which labkit, and with which policy: the SHA-256 of each of its files by name, None
    without a policy.
    """

    at: datetime
    labkit: str
    policy: Mapping[str, str] | None

    @property
    def with_what(self) -> str:
        """In words: `labkit 0.1.0 (1a2b3c4), policy spec.toml 0123456789ab`."""
        files = ", ".join(f"{name} {digest[:12]}".strip() for name, digest in (self.policy or {}).items())
        return f"labkit {self.labkit}, {f'policy {files}' if files else 'no policy'}"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """When and by which labkit; times are aware. reason says why the run is not complete, None where it is.

    interrupted_reason is the part of reason that only the process that ran the suite could know; the rest follows from
    the raw output.
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

    @property
    def seconds(self) -> float:
        """How long it took. Runs of labkit 0.1.0 took both times from a clock that may have been set back meanwhile."""
        return max((self.finished - self.started).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """arguments: those that came before each command, as a shell would be given them. sha256: the program's digest, of
    a directory that of all its files; source: where it comes from; word: what was named, as --runtime takes it. These
    are empty where nobody knows.
    """

    name: str
    path: str
    version: str
    arguments: str = ""
    sha256: str = ""
    source: str = ""
    word: str = ""

    @property
    def program(self) -> str:
        """What ran, as a person is told: the word or the path, the source where that is another, and the digest."""
        parts = [self.word or self.path]
        parts += [self.source] if self.source not in ("", "machine", self.word) else []
        parts += [f"sha256 {self.sha256[:16]}"] if self.sha256 else []
        return ", ".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What used the runtime, in a suite that is about engines; version is empty where it did not tell it."""

    name: str
    version: str = ""

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class SuiteInfo:
    """spec is the version of runtime-spec that was expected of the runtime ("1.0.2"), "" where the suite names none;
    spec_claimed: the one that the runtime claims, where that is another.
    """

    name: str
    version: str
    spec: str = ""
    spec_claimed: str = ""


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
    dialects: tuple[str, ...] = ()  # as in Reading
    told: tuple[str, ...] = ()
    judged: Judged | None = None  # None where it was not, and in reports of labkit before there was such a word
    referred: Referred | None = None  # None where nothing was compared with a reference runtime
    engine: EngineInfo | None = None  # None where the suite is not about one
    evidence: Object = field(default_factory=dict)  # what it was made with, see labkit/usecases/evidence.py

    @property
    def title(self) -> str:
        """`spec 1.0.0 on runc 1.1.15`, `engine 1.0.0: docker 26.1.5 on runc 1.1.15`; not all of them have a version."""
        engine = f": {self.engine.title}" if self.engine else ""
        suite = f"{self.suite.name} {self.suite.version}".rstrip()
        return " ".join(f"{suite}{engine} on {self.runtime.name} {self.runtime.version}".split())

    @property
    def totals(self) -> dict[Verdict, int]:
        """How many results have each verdict, every verdict included."""
        count = Counter(result.verdict for result in self.results)
        return {verdict: count[verdict] for verdict in Verdict}

    @property
    def skipped(self) -> dict[str, int]:
        """Why checks were skipped: each reason, and how many of them, the most first."""
        reasons = Counter(
            str(result.diagnostic.get("reason") or result.diagnostic.get("message") or "no reason given")
            for result in self.results
            if result.verdict is Verdict.SKIP
        )
        return dict(reasons.most_common())

    def by_id(self) -> list[Result]:
        """The results by group and number, or by program as they came, so that two runs compare line by line."""
        return sorted(self.results, key=lambda result: (result.program, *_id_order(result)))

    @property
    def unexpected(self) -> list[Result]:
        """The bad results that are not expected, the most urgent first."""
        bad = [result for result in self.by_id() if result.bad and result.expected is None]
        return sorted(bad, key=lambda result: URGENCY[result.verdict])

    @property
    def nothing_shown(self) -> str:
        """Why the run shows nothing about the runtime, whatever a policy expects; "" where it shows something.

        A program that passes by printing nothing shows something only where no other was to print.
        """
        if not self.results:
            return "no result arrived"
        if any(result.asserts for result in self.results):
            return ""
        count = Counter(result.verdict for result in self.results)
        if count.keys() == {Verdict.PASS}:
            return ""
        verdicts = ", ".join(f"{count[verdict]} {verdict}" for verdict in reversed(Verdict) if count[verdict])
        return f"nothing was asserted, so nothing is shown about {self.runtime.name or 'the runtime'}: {verdicts}"

    @property
    def faults(self) -> list[tuple[str, str]]:
        """What is wrong with the run itself, beside its results: each a name and why. Every report has to say them."""
        faults = [("a policy entry has expired", line) for line in (self.policy.expired if self.policy else ())]
        if not self.run.complete:
            return [*faults, ("the run is incomplete", self.run.reason or "")]
        return [*faults, *([("nothing was shown", self.nothing_shown)] if self.nothing_shown else [])]

    @property
    def flaky(self) -> list[str]:
        """What did not repeat: programs by name, checks by id."""
        results = [result.id for result in self.by_id() if result.verdict is Verdict.FLAKY]
        return [*(program.name for program in self.programs if program.flaky), *results]

    @property
    def assertions(self) -> dict[Verdict, int]:
        """The assertions that the programs printed, by verdict, before any policy."""
        count = Counter(result.verdict for result in self.results if not result.whole)
        return {verdict: count[verdict] for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.SKIP, Verdict.TODO)}

    def summary(self) -> dict[str, JSON]:
        """The outcome for scripts, as JSON; for a suite of programs also their verdicts and assertions."""
        values: dict[str, JSON] = {
            "run": self.run.id,
            "complete": self.run.complete,
            **({} if self.run.complete else {"reason": self.run.reason}),
            "totals": {verdict.value: count for verdict, count in self.totals.items()},
            "unexpected": len(self.unexpected),
            **({"nothing_shown": self.nothing_shown} if self.nothing_shown else {}),
        }
        if self.policy is not None:
            values["policy"] = {key: list(lines) for key, lines in asdict(self.policy).items()}
        if self.programs:
            values["programs"] = len(self.programs)
            values["assertions"] = {verdict.value: count for verdict, count in self.assertions.items()}
            values["programs_by_verdict"] = {
                verdict.value: [program.name for program in self.programs if program.verdict is verdict]
                for verdict in Verdict
            }
        values["flaky"] = self.flaky
        return values


URGENCY = {verdict: rank for rank, verdict in enumerate(Verdict)}


def exit_status(run: Run) -> int:
    """Return what a command ends with: 0 all as expected, 1 something bad that is not expected, 4 incomplete.

    A policy entry that has expired is as bad as a failure, and so is a run that shows nothing.
    """
    if not run.run.complete or not run.results:
        return 4
    return 1 if run.unexpected or run.faults else 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The raw output of a suite, read: results in order, facts about suite and machine (kernel, cgroup, runtime-path,
    runtime-version, spec, ref), and why it is incomplete (None where it is complete).

    dialects names what the output was read as, where that is not the suite's own. told has a line for each thing that a
    person should know of the reading: what was put right, what was not understood. tests: those that each program was
    to run, where it can run some of them alone.
    """

    results: tuple[Result, ...]
    facts: Mapping[str, str]
    reason: str | None
    programs: tuple[Program, ...] = ()
    dialects: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    tests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _id_order(result: Result) -> tuple[str, int, str]:
    if result.program:
        return ("", 0, "")
    match = re.fullmatch(r"(.*?)-?([0-9]{1,9})", result.id, re.DOTALL)
    return (match[1], int(match[2]), result.id) if match else (result.id, 0, result.id)


def is_duration(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9

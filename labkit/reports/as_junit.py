"""junit.xml, for CI systems.

They follow a test over time by its class and name and merge what has the same, so no two cases have: those alike are
numbered as they came, as ids are. Their schemas differ; this is what Jenkins' (junit-10.xsd) and surefire's have in
common, and `properties` in a test case, which consumers that do not know them pass over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from junitparser import Error, Failure, JUnitXml, Properties, Property, Skipped, TestCase, TestSuite

from labkit.core.text import printable
from labkit.reports.evidence import evidence, policy_lines
from labkit.results.causes import causes
from labkit.results.model import Object, Result, Run, Verdict
from labkit.results.tap import JSON


def render(*runs: Run) -> str:
    """Return runs as JUnit XML, a test suite each. JUnit has no state for what is wrong with a run itself (incomplete,
    nothing shown, an expired policy entry), so each such thing is a test case with an error.
    """
    xml = JUnitXml("labkit")
    suites = [_suite(run) for run in runs]
    for suite, run in zip(suites, runs, strict=True):
        xml.add_testsuite(suite)
        suite.update_statistics()  # type: ignore[no-untyped-call]
        suite.time = round(run.run.seconds, 3)  # not the sum of the cases': they run side by side
    # Not xml.update_statistics(): Jenkins' schema has no `skipped` there.
    xml.tests, xml.failures, xml.errors = (
        sum(getattr(suite, key) for suite in suites) for key in ("tests", "failures", "errors")
    )
    xml.time = round(sum(run.run.seconds for run in runs), 3)
    text: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return text.decode() + "\n"


def _suite(run: Run) -> TestSuite:
    suite = TestSuite(printable(f"{run.suite.name} {run.runtime.name}"))
    suite.timestamp = run.run.started.isoformat(timespec="seconds")
    suite.hostname = printable(_hostname(run))
    for key, value in _facts(run):
        suite.add_property(printable(key), printable(value))
    for line in policy_lines(run):
        suite.add_property("policy", printable(line))
    cases = [_case(run, result) for result in run.by_id()]
    for name, why in run.faults:
        case = TestCase(name, classname=_classname(run), time=0.0)
        case.result = [Error(printable(why), name.split()[-1])]
        cases.append(case)
    _distinguish(cases)
    suite.add_testcases(cases)
    return suite


def _facts(run: Run) -> Iterable[tuple[str, str]]:
    """What the run was about and how it was read, as properties of the suite."""
    yield "run", run.run.id
    yield "complete", str(run.run.complete).lower()
    yield "labkit", run.run.labkit
    yield "suite.version", run.suite.version
    yield "suite.spec", run.suite.spec
    if run.engine:
        yield "engine.name", run.engine.name
        yield "engine.version", run.engine.version
    if run.suite.spec_claimed:
        yield "suite.spec_claimed", run.suite.spec_claimed
    if run.runtime.arguments:
        yield "runtime.arguments", run.runtime.arguments
    yield "runtime.path", run.runtime.path
    for key in ("sha256", "source", "word"):
        if value := getattr(run.runtime, key):
            yield f"runtime.{key}", value
    yield "runtime.version", run.runtime.version
    yield from _flat("machine", run.machine)
    if run.judged:
        yield "judged.at", run.judged.at.isoformat(timespec="seconds")
        yield "judged.with", run.judged.with_what
    if run.referred:
        yield "reference", run.referred.text
    yield from (("read as", dialect) for dialect in run.dialects)
    yield from (("told", line) for line in run.told)
    yield from (("cause", cause.text) for cause in causes(run.unexpected))


def _flat(name: str, value: JSON | Object) -> Iterable[tuple[str, str]]:
    """A value as properties: each entry of an object has its own, a list is words with commas."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif isinstance(value, list):
        yield name, ", ".join(text for one in value for _, text in _flat("", one))
    else:
        yield name, str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _hostname(run: Run) -> str:
    """The machine by its name, or by what it was made of; "localhost", as Ant's schema has it, where nobody knows."""
    of = "-".join(str(run.machine[key]) for key in ("platform", "release") if run.machine.get(key))
    return str(run.machine.get("name") or of or "localhost")


def _classname(run: Run) -> str:
    return printable(f"{run.suite.name}.{run.runtime.name}")


def _distinguish(cases: list[TestCase]) -> None:
    """Number the cases that have one class and name: `name`, `name.2`, `name.3`."""
    given = {(case.classname, case.name) for case in cases}
    taken: Counter[tuple[str | None, str | None]] = Counter()
    for case in cases:
        whose, name = case.classname, case.name
        taken[whose, name] += 1
        while taken[whose, name] > 1 and (whose, numbered := f"{name}.{taken[whose, name]}") in given:
            taken[whose, name] += 1
        if taken[whose, name] > 1:
            case.name = numbered
            given.add((whose, numbered))


def _case(run: Run, result: Result) -> TestCase:
    # By what identifies a result in every run: not by an id with a counter, nor by text that each run makes up.
    name = result.identity[1] if result.program else f"{result.id} {result.name}".rstrip()
    classname = ".".join(filter(None, (_classname(run), printable(result.program))))
    case = TestCase(printable(name), classname=classname, time=round(result.seconds, 3))
    found = evidence(result)
    message = found.message
    if result.expected is not None:
        message = f"expected {result.verdict}: {result.expected.reason}"
    outcome = _outcome(result, printable(message or result.verdict))
    if outcome is None:
        return case
    about = {"id": result.id, "verdict": result.verdict.value, "level": found.level, "reference": result.reference}
    about["finding"] = ", ".join(result.findings)
    if result.attribution is not None:
        about |= {"attribution": result.attribution.text, "attribution.reference": result.attribution.reference}
        about |= {"attribution.history": result.attribution.history}
    if result.expected is not None:
        about |= {"policy.reason": result.expected.reason, "policy.link": result.expected.link}
        about["policy.source"] = result.expected.source
    properties = Properties()  # type: ignore[no-untyped-call]
    for key, value in about.items():
        if value:
            properties.add_property(Property(key, printable(value)))
    case.append(properties)  # type: ignore[no-untyped-call]
    lines = [f"{found.level} {result.reference}", *([found.message] if result.expected else [])]
    for failure in found.failures:
        told = " (the policy expects this)" if failure.known and not result.expected else ""
        lines += [failure.what + told, f"  expected: {failure.expected}", f"  actual:   {failure.actual}"]
    outcome.text = printable("\n".join([*lines, *found.notes]), newlines=True)
    case.append(outcome)  # type: ignore[no-untyped-call]
    return case


def _outcome(result: Result, message: str) -> Failure | Error | Skipped | None:
    if result.expected is not None:  # as pytest writes an xfail: the verdict stays, as the type
        return Skipped(message, result.verdict.value)
    match result.verdict:
        case Verdict.PASS if not result.bad:
            return None
        case Verdict.ERROR | Verdict.TIMEOUT:
            return Error(message, result.verdict.value)
        case _ if result.bad:
            return Failure(message, printable(result.level or result.verdict))
        case _:
            return Skipped(message, result.verdict.value)

"""junit.xml, for CI systems."""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from labkit.core.text import printable
from labkit.reports.evidence import evidence, policy_lines
from labkit.results.model import Result, Run, Verdict


def render(run: Run) -> str:
    """Return the run as JUnit XML. JUnit has no state for an incomplete run, so that is a test case with an error."""
    suite = TestSuite(printable(f"{run.suite.name} {run.runtime.name}"))
    suite.timestamp = run.run.started.isoformat(timespec="seconds")
    facts = {
        "run": run.run.id,
        "complete": str(run.run.complete).lower(),
        "labkit": run.run.labkit,
        "suite.version": run.suite.version,
        "suite.spec": run.suite.spec,
        **({"suite.spec_claimed": run.suite.spec_claimed} if run.suite.spec_claimed else {}),
        **({"runtime.arguments": run.runtime.arguments} if run.runtime.arguments else {}),
        "runtime.path": run.runtime.path,
        "runtime.version": run.runtime.version,
        **{f"machine.{key}": str(value) for key, value in run.machine.items()},
    }
    for key, value in facts.items():
        suite.add_property(printable(key), printable(value))
    suite.add_testcases([_case(run, result) for result in run.by_id()])
    for line in policy_lines(run):
        suite.add_property("policy", printable(line))
    for line in run.policy.expired if run.policy else ():
        case = TestCase("a policy entry has expired", classname=_classname(run), time=0.0)
        case.result = [Error(printable(line), "expired")]
        suite.add_testcase(case)
    if run.run.reason is not None:
        case = TestCase("the run is incomplete", classname=_classname(run), time=0.0)
        case.result = [Error(printable(run.run.reason), "incomplete")]
        suite.add_testcase(case)
    xml = JUnitXml("labkit")
    xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    text: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return text.decode() + "\n"


def _classname(run: Run) -> str:
    return printable(f"{run.suite.name}.{run.runtime.name}")


def _case(run: Run, result: Result) -> TestCase:
    # CI systems follow a test over time by class and name, so an id with a counter must not be part of the name.
    name = result.name if result.program else f"{result.id} {result.name}".rstrip()
    classname = ".".join(filter(None, (_classname(run), printable(result.program))))
    case = TestCase(printable(name), classname=classname, time=result.seconds)
    found = evidence(result)
    message = found.message
    if result.expected is not None:
        message = f"expected {result.verdict}: {result.expected.reason}"
    outcome = _outcome(result, printable(message or result.verdict))
    if outcome is not None:
        lines = [f"{found.level} {result.reference}", *([found.message] if result.expected else [])]
        for failure in found.failures:
            told = " (the policy expects this)" if failure.known and not result.expected else ""
            lines += [failure.what + told, f"  expected: {failure.expected}", f"  actual:   {failure.actual}"]
        outcome.text = printable("\n".join([*lines, *found.notes]), newlines=True)
        case.result = [outcome]
    return case


def _outcome(result: Result, message: str) -> Failure | Error | Skipped | None:
    if result.expected is not None:  # as pytest writes an xfail: the verdict stays, as the type
        return Skipped(message, result.verdict.value)
    match result.verdict:
        case Verdict.PASS:
            return None
        case Verdict.ERROR | Verdict.TIMEOUT:
            return Error(message, result.verdict.value)
        case _ if result.bad:
            return Failure(message, printable(result.level))
        case _:
            return Skipped(message, result.verdict.value)

"""junit.xml, for CI systems."""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from labkit.reports.evidence import evidence
from labkit.results import Result, Run, Verdict
from labkit.text import printable


def render(run: Run) -> str:
    """Return the run as JUnit XML; one that is not complete has an error of its own, as JUnit knows no such state."""
    suite = TestSuite(printable(f"{run.suite.name} {run.runtime.name}"))
    suite.timestamp = run.run.started.isoformat(timespec="seconds")
    facts = {
        "run": run.run.id,
        "complete": str(run.run.complete).lower(),
        "labkit": run.run.labkit,
        "suite.version": run.suite.version,
        "suite.spec": run.suite.spec,
        "runtime.path": run.runtime.path,
        "runtime.version": run.runtime.version,
        **{f"machine.{key}": str(value) for key, value in run.machine.items()},
    }
    for key, value in facts.items():
        suite.add_property(printable(key), printable(value))
    suite.add_testcases([_case(run, result) for result in run.by_id()])
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
    case = TestCase(printable(f"{result.id} {result.name}".rstrip()), classname=_classname(run), time=result.seconds)
    told = evidence(result)
    message = printable(told.message or result.verdict)
    match result.verdict:
        case Verdict.PASS:
            return case
        case Verdict.FAIL:
            outcome: Failure | Error | Skipped = Failure(message, printable(result.level))
        case Verdict.ERROR | Verdict.TIMEOUT:
            outcome = Error(message, result.verdict.value)
        case Verdict.TODO | Verdict.NO_ASSERTIONS | Verdict.SKIP:
            outcome = Skipped(message, result.verdict.value)
    lines = [f"{result.level} {result.reference}"]
    for failure in told.failures:
        lines += [failure.what, f"  expected: {failure.expected}", f"  actual:   {failure.actual}"]
    outcome.text = printable("\n".join([*lines, *told.notes]), newlines=True)
    case.result = [outcome]
    return case

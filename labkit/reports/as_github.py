"""Runs and nights as annotations of GitHub Actions.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands; the escapes are those of
@actions/core. GitHub shows ten errors and ten warnings of a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from labkit.core.text import one_line, printable, truncate
from labkit.reports import night as report
from labkit.reports.evidence import evidence, policy_lines
from labkit.results.model import Result, Run
from labkit.results.night import Night

_MOST = 10
_TITLE, _MESSAGE = 200, 4000  # characters


def annotation(level: str, title: str, message: str) -> str:
    """A workflow command, on one line; level is error, warning or notice."""
    return f"::{level} title={_property(one_line(title, _TITLE))}::{_data(_shown(message))}"


def of_runs(runs: Sequence[Run]) -> list[str]:
    """What of runs is not as expected: ten errors and ten warnings at most, the last of which says how many more."""
    errors, warnings = [], []
    for run in runs:
        where = f"{run.runtime.name} on {run.machine.get('platform', '')} {run.machine.get('release', '')}".strip()
        bad, odd = _of_run(run)
        errors += [(f"{title} ({where})", message or title) for title, message in bad]
        warnings += [(f"{title} ({where})", message or title) for title, message in odd]
    return [*_some("error", errors), *_some("warning", warnings)]


def _of_run(run: Run) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    errors = [] if run.run.reason is None else [("incomplete", run.run.reason)]
    alike = Counter(result.identity for result in run.unexpected)
    for result in reversed({result.identity: result for result in reversed(run.unexpected)}.values()):
        errors.append((f"{result.verdict} {result.program or result.id}", _message(result, alike[result.identity])))
    notes = policy_lines(run)
    errors += [("expired policy entry", line) for line in notes if line.startswith("EXPIRED")]
    warnings = [("policy", line) for line in notes if not line.startswith("EXPIRED")]
    warnings += [("flaky", f"{name} was bad at first, and not when it was run again") for name in run.flaky]
    return errors, warnings


def of_night(night: Night) -> list[str]:
    """The same of a night: what it changed, and what fails still."""
    where = f" (night {night.id})"
    errors = [(f"night{where}", report.action(night))] if night.exit_status else []
    warnings = []
    for section in report.sections(night.changes):
        told = [
            (f"{section.title}: {one.title}{where}", "\n".join((*one.lines, one.again)).strip() or one.title)
            for one in section.entries
        ]
        if section.kind in ("fail", "error"):
            errors += told
        elif section.kind != "pass":
            warnings += told
    return [*_some("error", errors), *_some("warning", warnings)]


def _some(level: str, found: Sequence[tuple[str, str]]) -> Iterable[str]:
    shown = found if len(found) <= _MOST else found[: _MOST - 1]
    yield from (annotation(level, title, message) for title, message in shown)
    if rest := found[len(shown) :]:
        yield annotation(level, f"{len(rest)} more", one_line(", ".join(title for title, _ in rest), 1000))


def _message(result: Result, count: int) -> str:
    found = evidence(result)
    lines = [result.name + (f" ({count} times)" if count > 1 else "")]
    if found.message and found.message != result.name:
        lines.append(found.message)
    for failure in found.failures:
        if not failure.known:
            lines.append(failure.what)
            if failure.expected is not None or failure.actual is not None:
                lines += [f"expected: {failure.expected}", f"actual: {failure.actual}"]
    return "\n".join([*filter(None, lines), result.reference]).strip()


def _shown(text: str) -> str:
    return truncate(printable(text, newlines=True), _MESSAGE)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

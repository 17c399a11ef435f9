"""A bisection as text for a terminal: what was found, what it was before and after, and each step."""

from __future__ import annotations

from pathlib import Path

from labkit.core.text import count, one_line, printable
from labkit.results.bisection import Bisection, Commit, Step

_MOST = 20  # commits that are listed where one of many is the first bad one


def text(bisection: Bisection, directory: Path) -> str:
    found = bisection.first_bad
    lines = []
    if found:
        lines += [f"{found.commit} is the first bad commit", *_about(found)]
        steps = {step.run: step for step in _steps(bisection)}
        after = steps.get(bisection.after)
        before = bisection.good.step
        for step in bisection.steps:
            before = step if step.outcome == "good" else before
        lines += _shown("before", before, bisection.before) + _shown("after", after, bisection.after)
    else:
        lines += [f"not found: {printable(bisection.reason)}"]
        lines += [f"  {_line(commit)}" for commit in bisection.left[:_MOST]]
        lines += [f"  and {len(bisection.left) - _MOST} more"] if len(bisection.left) > _MOST else []
    lines += ["", "steps:"]
    for name, end in (("good", bisection.good), ("bad", bisection.bad)):
        lines += [f"  {name:5}{_line(end.commit)} ({printable(end.ref)}), as was said{_seen(end.step)}"]
    lines += [f"  {step.outcome:5}{_line(step.commit)}{_seen(step)}" for step in bisection.steps]
    tested = len(_steps(bisection))
    lines += [
        "",
        f"{count(tested, 'commit')} tested, {count(bisection.builds, 'build')}, {bisection.seconds:.0f} s",
        f"report: {directory}",
    ]
    return "\n".join(lines)


def _steps(bisection: Bisection) -> list[Step]:
    ends = (bisection.good.step, bisection.bad.step)
    return [*(step for step in ends if step), *bisection.steps]


def _about(commit: Commit) -> list[str]:
    return [f"  subject  {one_line(commit.subject, 200)}", f"  author   {_author(commit)}"]


def _author(commit: Commit) -> str:
    return f"{one_line(commit.author, 80)}, {printable(commit.author_date)}"


def _shown(when: str, step: Step | None, run: str) -> list[str]:
    return [f"  {when:8} {_results(step)} ({run})"] if step else []


def _results(step: Step) -> str:
    return one_line(", ".join(map(str, step.shown)), 200)


def _seen(step: Step | None) -> str:
    if step is None:
        return ""
    return f": {one_line(step.why, 200)}" if step.why else f": {_results(step)}"


def _line(commit: Commit) -> str:
    return f"{commit.short} {one_line(commit.subject, 60)}"

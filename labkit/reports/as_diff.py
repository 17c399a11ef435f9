"""What changed between two runs, as text for a terminal and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from labkit.core.text import one_line, printable
from labkit.reports import as_html
from labkit.results.comparison import Change, Comparison
from labkit.results.model import Run, Verdict

_TITLES = {
    "newly_failing": "newly failing",
    "fixed": "fixed",
    "no_longer_shown": "no longer shown",
    "appeared": "appeared",
    "gone": "gone",
    "changed": "other changes",
}
_MOST = 100  # lines of one group in a terminal


def text(compared: Comparison) -> str:
    """Return the comparison as text: both runs, then each group that is not empty."""
    lines = [f"from  {_title(compared.before)}", f"to    {_title(compared.after)}"]
    for group, changes in compared.groups.items():
        if changes:
            lines += ["", f"{_TITLES[group]}: {len(changes)}"]
            lines += [_line(change) for change in changes[:_MOST]]
            lines += [f"  and {len(changes) - _MOST} more"] if len(changes) > _MOST else []
    if not any(compared.groups.values()):
        lines += ["", "nothing changed"]
    return "\n".join(lines) + "\n"


def html(compared: Comparison) -> str:
    """Return the comparison as HTML; every text from a run is escaped, control characters shown."""
    return as_html.page(
        "diff.html.j2",
        before=_title(compared.before),
        after=_title(compared.after),
        groups=[
            (_TITLES[group], [(change, _counts(change.before), _counts(change.after)) for change in changes])
            for group, changes in compared.groups.items()
        ],
    )


def _title(run: Run) -> str:
    what = f"{run.run.id}: {run.title}"
    return printable(what) + ("" if run.run.complete else f" (incomplete: {printable(run.run.reason or '')})")


def _line(change: Change) -> str:
    where = change.program or change.id
    verdicts = f"{_counts(change.before) or 'absent'} -> {_counts(change.after) or 'absent'}"
    expected = f" (expected: {change.expected})" if change.expected else ""
    findings = [*(f"new: {name}" for name in change.new_findings), *(f"gone: {name}" for name in change.gone_findings)]
    verdicts += f" ({', '.join(findings)})" if findings else ""
    return one_line(f"  {where}: {change.name}: {verdicts}{expected}", 300)


def _counts(verdicts: Mapping[Verdict, int]) -> str:
    return ", ".join(f"{count} {verdict}" if count > 1 else verdict.value for verdict, count in verdicts.items())

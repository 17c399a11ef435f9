"""A run as Markdown, for a job's summary or a comment: what is bad and not expected first."""

from __future__ import annotations

from collections import Counter

from labkit.reports import markdown
from labkit.reports.evidence import attributions, evidence, link, policy_lines
from labkit.results.causes import Cause, divided
from labkit.results.model import Result, Run

_LONGEST = 1 << 20  # bytes


def render(run: Run, limit: int = _LONGEST) -> str:
    """The run as Markdown of at most limit bytes; text from elsewhere stands in code spans, where nothing acts."""
    unexpected = run.unexpected
    common, rest = divided(unexpected)
    alike = Counter(result.identity for result in rest)
    bad = list({result.identity: result for result in reversed(rest)}.values())[::-1]
    failing = len({result.identity for result in unexpected})
    where = " ".join(str(run.machine.get(key, "")) for key in ("platform", "release", "provider", "kernel"))
    parts = [f"## {markdown.code(run.title)}\n\n{markdown.code(where)}, run {markdown.code(run.run.id)}\n\n"]
    if run.runtime.sha256:
        parts.append(f"runtime: {markdown.code(run.runtime.program, 500)}\n\n")
    if run.run.reason is not None:
        parts.append(f"**Incomplete**: {markdown.code(run.run.reason, 500)}\n\n")
    if failing:
        parts.append(f"**{failing} {'failure' if failing == 1 else 'failures'} that the policy does not expect**\n\n")
    elif run.run.reason is None:
        parts.append("**All as expected**\n\n" if run.results else "**No results**\n\n")
    parts += [f"- {markdown.code(line, 500)}\n" for line in (*policy_lines(run), *run.told)]
    expected = Counter(result.verdict for result in run.results if result.expected)
    parts.append("\n| verdict | results | expected |\n| --- | ---: | ---: |\n")
    parts += [
        f"| {verdict} | {count} | {expected[verdict] or ''} |\n" for verdict, count in run.totals.items() if count
    ]
    parts += [
        f"\n{len(cause.checks)} fail alike: {markdown.code(cause.words)}: {_names(cause)}{_whose(cause, run)}\n"
        for cause in common
    ]
    if bad:
        parts.append("\n| | check | what | expected | seen |\n| --- | --- | --- | --- | --- |\n")
        parts += [_row(result, alike[result.identity], run.suite.spec) for result in bad]
    if run.referred:
        parts.append(f"\n{markdown.code(run.referred.text, 500)}\n")
    if flaky := run.flaky:
        parts.append(f"\nFlaky: {', '.join(markdown.code(name) for name in flaky)}\n")
    known = dict.fromkeys(result.program or result.id for result in run.by_id() if result.bad and result.expected)
    if known:
        parts.append(f"\nFailing as expected: {', '.join(markdown.code(name) for name in known)}\n")
    return markdown.fitting(parts, limit, "\n{} more lines are in report.html.\n")


_NAMES = 30  # of checks that fail alike


def _names(cause: Cause) -> str:
    listed = [markdown.code(name, 80) for name in cause.checks]
    more = f" and {len(listed) - _NAMES} more" if len(listed) > _NAMES else ""
    return ", ".join(listed[:_NAMES]) + more


def _whose(cause: Cause, run: Run) -> str:
    found = attributions(cause, run)
    return f" ({markdown.code(', '.join(found))})" if found else ""


def _row(result: Result, count: int, spec: str) -> str:
    found = evidence(result)
    first = next(iter(found.failures), None)
    what = (first.what if first else "") or found.message or result.name
    more = f" and {len(found.failures) - 1} more" if len(found.failures) > 1 else ""
    times = f" ({count} times)" if count > 1 else ""
    ident = markdown.code(result.program or result.id, 80)
    if address := link(result.reference, spec):
        ident = f"[{ident}]({address})"
    whose = f" ({markdown.code(result.attribution.text)})" if result.attribution else ""
    cells = [result.verdict.value, ident, f"{markdown.code(what)}{more}{times}{whose}"]
    cells += [markdown.code(first.expected or "") if first else "", markdown.code(first.actual or "") if first else ""]
    return f"| {' | '.join(cells)} |\n"

"""The summary that `test` ends with in a terminal, to be read in ten seconds."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from labkit.core.text import count, one_line, printable, some
from labkit.reports.evidence import attributions, evidence, policy_lines
from labkit.results.causes import Cause, divided
from labkit.results.model import Program, Result, Run, Verdict

STYLES = {
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "bold magenta",
    Verdict.TIMEOUT: "bold yellow",
    Verdict.FLAKY: "bold yellow",
    Verdict.TODO: "cyan",
    Verdict.NO_ASSERTIONS: "yellow",
    Verdict.SKIP: "bright_black",
    Verdict.PASS: "green",
}


def summary(run: Run, *, width: int = 80, terminal: bool = False, directory: Path | None = None, most: int = 20) -> str:
    """Return the summary of a run.

    width is in columns; terminal allows colours, without it the text is plain; directory is where the reports are; most
    is how many unexpected bad results are named.
    """
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, no_color=None if terminal else True)
    where = " ".join(str(run.machine.get(key, "")) for key in ("platform", "release", "provider", "kernel"))
    cgroup = f"cgroup {run.machine['cgroup']}" if run.machine.get("cgroup") else ""
    console.print(_text(run.title, "bold"), overflow="fold")
    console.print(_text(f"{where} {cgroup}".strip(), "dim"), overflow="fold")
    if run.suite.spec_claimed:
        claim = f"held to runtime-spec {run.suite.spec}; it claims {run.suite.spec_claimed}"
        console.print(_text(claim, "dim"), overflow="fold")
    if run.runtime.sha256:
        console.print(_text(f"runtime: {run.runtime.program}", "dim"), overflow="fold")
    if run.runtime.arguments:
        console.print(_text(f"runtime arguments: {run.runtime.arguments}", "dim"), overflow="fold")
    if run.dialects:
        console.print(_text(f"read as {', '.join(run.dialects)}", "dim"), overflow="fold")
    for line in run.told:
        console.print(_text(line, "yellow"), overflow="fold")
    machines = run.machine.get("machines")
    if isinstance(machines, Sequence) and not isinstance(machines, str):
        console.print(
            _text(f"shared by {len(machines)} machines: {', '.join(map(str, machines))}", "dim"), overflow="fold"
        )
    if who := ": ".join(str(run.machine[key]) for key in ("user", "user_namespace") if run.machine.get(key)):
        console.print(_text(f"run by {who}", "dim"), overflow="fold")
    if origin := run.machine.get("kernel_origin"):
        console.print(_text(f"kernel: {origin}, not the platform's", "dim"), overflow="fold")
    common, rest = divided(run.unexpected)
    alike = Counter(result.identity for result in rest)
    bad = list({result.identity: result for result in reversed(rest)}.values())[::-1]
    for cause in common[:_CAUSES]:
        console.print()
        console.print(_cause(cause, run), overflow="fold")
    if len(common) > _CAUSES:
        console.print(_text(f"and {count(len(common) - _CAUSES, 'more cause')} in the report", "dim"))
    if bad:
        console.print()
        console.print(_table([(result, alike[result.identity]) for result in bad[:most]], width))
        if len(bad) > most:
            console.print(f"and {len(bad) - most} more in the report", style="dim")
    console.print()
    if known := dict.fromkeys(result.program or result.id for result in run.by_id() if result.bad and result.expected):
        console.print(
            _text(f"failing as expected (--no-policy shows details): {', '.join(known)}", "dim"), overflow="fold"
        )
    if run.referred:
        console.print(_text(run.referred.text, "dim"), overflow="fold")
    for line in policy_lines(run):
        console.print(_text(line, "bold red" if line.startswith("EXPIRED") else "yellow"), overflow="fold")
    flaky = [f"{p.name} ({_attempts(p)})" for p in run.programs if p.flaky]
    if flaky := [*flaky, *(_tried(result) for result in run.by_id() if result.verdict is Verdict.FLAKY)]:
        console.print(_text(f"flaky: {', '.join(flaky)}", "yellow"), overflow="fold")
    if run.programs:
        programs = Counter(program.verdict for program in run.programs)
        console.print(_totals(f"{count(len(run.programs), 'program')}: ", programs, Counter()))
    expected = Counter(result.verdict for result in run.results if result.expected)
    what = count(len(run.results), "result" if run.programs else "check")
    what += "" if run.programs else f" in {run.run.seconds:.1f} s"
    console.print(_totals(f"{what}: ", run.totals, expected))
    if run.run.reason is not None:
        console.print(_text(f"INCOMPLETE: {run.run.reason}", "bold reverse red"), overflow="fold")
    elif run.nothing_shown:
        console.print(_text(f"NOTHING SHOWN: {run.nothing_shown}", "bold reverse red"), overflow="fold")
    if directory is not None:
        # One line, whatever the width: a path is to be clicked or copied.
        files = f"reports: {directory}/report.html (also results.json, results.tap, junit.xml)"
        console.print(_text(files, ""), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


_CAUSES = 5  # that are shown


def _cause(cause: Cause, run: Run) -> Text:
    text = _text(f"{len(cause.checks)} fail alike: ", "bold red").append(printable(cause.words))
    text.append(f"\n  {printable(some(cause.checks, 10))}", "dim")
    if whose := attributions(cause, run):
        text.append(f"\n  {printable(', '.join(whose))}", "cyan")
    return text


def _totals(label: str, count: Mapping[Verdict, int], expected: Mapping[Verdict, int]) -> Text:
    text = Text(label)
    counted = [verdict for verdict in reversed(Verdict) if count.get(verdict)]
    for position, verdict in enumerate(counted):
        text.append(", " if position else "").append(f"{count[verdict]} {verdict}", STYLES[verdict])
        if expected.get(verdict):
            text.append(f" ({expected[verdict]} expected)", "dim")
    return text


def _attempts(program: Program) -> str:
    count = Counter(program.attempts)
    return ", ".join(f"{count[verdict]} {verdict}" for verdict in Verdict if count[verdict])


def _tried(result: Result) -> str:
    """The id of a flaky check and, where it ran several times, what it showed."""
    attempts = result.diagnostic.get("attempts")
    seen = Counter(str(word) for word in attempts) if isinstance(attempts, list) else {}
    return f"{result.id} ({', '.join(f'{many} {word}' for word, many in seen.items())})" if seen else result.id


def _table(counted: list[tuple[Result, int]], width: int) -> Table:
    """One row for each result; the number counts the results with its identity."""
    results = [result for result, _ in counted]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    ids = [one_line(result.program or result.id, 30) for result in results]
    columns = [max(len(result.verdict) for result in results), max(map(len, ids))]
    columns.append(max(width - sum(columns) - 4, 20))
    for column in columns:
        table.add_column(no_wrap=True, overflow="ellipsis", width=column)
    for (result, times), ident in zip(counted, ids, strict=True):
        lines = Text(one_line(f"{result.name} ({times} times)" if times > 1 else result.name, columns[-1]))
        for line in _why(result):
            lines.append("\n" + one_line(" ".join(line.split()), columns[-1]), "dim")
        if result.attribution:
            lines.append("\n" + one_line(result.attribution.text, columns[-1]), "cyan")
        table.add_row(_text(result.verdict, STYLES[result.verdict]), _text(ident, "bold"), lines)
    return table


def _why(result: Result) -> list[str]:
    found = evidence(result)
    if not found.failures:
        return [found.message] if found.message else []
    first = found.failures[0]
    if first.expected is None and first.actual is None:
        return [first.what or found.message]
    known = sum(failure.known for failure in found.failures)
    more = f" (and {len(found.failures) - 1 - known} more)" if len(found.failures) - known > 1 else ""
    more += f" (beside {known} that the policy expects)" if known else ""
    return [*filter(None, [first.what + more]), f"expected: {first.expected}", f"actual: {first.actual}"]


def _text(text: str, style: str) -> Text:
    # Text, never markup: brackets in hostile text are brackets.
    return Text(printable(text), style)

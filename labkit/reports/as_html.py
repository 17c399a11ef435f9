"""report.html: one file that needs nothing else, from templates/report.html.j2, .css and .js."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import jinja2
from markupsafe import Markup

from labkit.core import resources
from labkit.core.text import count, printable, truncate
from labkit.reports.as_explanation import did
from labkit.reports.evidence import attributions, evidence, link, policy_lines, shown
from labkit.results.causes import causes
from labkit.results.model import URGENCY, Object, Result, Run
from labkit.results.transcript import unpack
from labkit.suites import registry

# Nobody reads a longer value here; results.json has all of it.
_LONGEST = 8_000
_LONG = 16  # characters of an id that its column has no room for


def render(run: Run) -> str:
    """Return the run as HTML: unexpected failures first, then the rest, then each program with all its assertions."""
    # Of a program's assertions only the notable ones get a row, and one where it asserts the same again and again; all
    # are listed with the program.
    shown_results = [
        result for result in run.by_id() if not result.program or result.bad or result.expected or result.whole
    ]
    shown_results.sort(key=lambda result: (not result.bad or result.expected is not None, URGENCY[result.verdict]))
    rows: list[tuple[Result, dict[str, object]]] = []
    times: Counter[int] = Counter()
    alike: dict[tuple[str, str, str], list[int]] = {}  # rows, by the identity of their results
    for result in shown_results:
        mine = alike.setdefault(result.identity, [])
        same = [number for number in mine[-4:] if rows[number][0] == result and result.program]
        if same:
            times[same[0]] += 1
            continue
        # Of several unexpected results with one identity, the first is open.
        rows.append((result, _row(result, run, is_open=result.bad and not result.expected and not mine)))
        mine.append(len(rows) - 1)
    by_program: dict[str, Counter[tuple[str, str, str]]] = {program.name: Counter() for program in run.programs}
    for result in run.results:
        if result.program in by_program and not result.whole:
            reason = str(result.diagnostic.get("reason", ""))
            by_program[result.program][result.verdict.value, result.name, reason if reason != result.name else ""] += 1
    programs = sorted(run.programs, key=lambda program: (URGENCY[program.verdict], program.name))
    return page(
        "report.html.j2",
        run=run,
        specification=registry.specification(run.suite.name),
        long_ids=any(len(result.id) > _LONG and not result.program for result in shown_results),
        rows=[{**row, "times": 1 + times[number]} for number, (_, row) in enumerate(rows)],
        notable=len(shown_results),
        programs=[(program, by_program[program.name]) for program in programs],
        policy_lines=policy_lines(run),
        causes=[(cause, attributions(cause, run)) for cause in causes(run.unexpected)],
        verdicts=[(verdict.value, count) for verdict, count in run.totals.items()],
        levels=sorted({result.level for result in run.results} - {""}),
        bad=sum(result.bad for result in run.results),
        expected=sum(result.bad and result.expected is not None for result in run.results),
        seconds=run.run.seconds,
        machine=_machine(run.machine),
    )


def page(template: str, **values: object) -> str:
    """Return a template filled in; every text in values is escaped, control characters shown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.root() / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["when"] = _when
    environment.filters["duration"] = _duration
    environment.filters["of"] = count
    style, script = ((resources.root() / "templates" / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    # Only these two texts may act: a script that slipped through the escaping would still not run.
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return environment.get_template(template).render(
        **values, style=Markup(style), script=Markup(script), policy=policy
    )


def _row(result: Result, run: Run, *, is_open: bool) -> dict[str, object]:
    found = evidence(result)
    return {
        "result": result,
        "evidence": found,
        "link": link(result.reference, run.suite.spec),
        "rest": _facts(found.rest),
        "open": is_open,
        "did": _did(result, run),
    }


def _did(result: Result, run: Run) -> str:
    """What a bad check did, where that is known and short; it has the commands in it."""
    transcript = unpack(result.transcript) if result.transcript else None
    text = "\n".join(did(transcript, result, run)) if transcript else ""
    return text if len(text) <= _LONGEST else ""


def _visible(value: object) -> object:
    """Jinja's finalize: the value of every expression passes through here before it is escaped."""
    return truncate(printable(value, newlines=True), _LONGEST) if type(value) is str else value


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(values: Object) -> list[tuple[str, str]]:
    return [(key, shown(value)) for key, value in values.items() if value not in (None, "")]


def _machine(values: Object) -> list[tuple[str, str]]:
    """The facts about the machine; of its bootstrap, the steps that took time."""
    took = values.get("bootstrap")
    steps = took.items() if isinstance(took, Mapping) else ()
    durations = ", ".join(
        f"{name} {seconds} s" for name, seconds in steps if isinstance(seconds, float) and seconds >= 0.1
    )
    return _facts({**values, "bootstrap": durations})


def _when(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"

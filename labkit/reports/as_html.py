"""report.html: one file that needs nothing else, from templates/report.html.j2, .css and .js."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime

import jinja2
from markupsafe import Markup

from labkit import resources
from labkit.reports.evidence import evidence, link, shown
from labkit.results import Object, Run, Verdict
from labkit.text import printable, truncate

# A value longer than this is evidence that a person will not read here; results.json has all of it.
_LONGEST = 8_000

_URGENCY = {verdict: rank for rank, verdict in enumerate(Verdict)}


def render(run: Run) -> str:
    """Return the run as HTML. What is bad comes first; every text from the run is escaped, control characters shown."""
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
    style, script = ((resources.root() / "templates" / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    rows = [
        {
            "result": result,
            "told": (told := evidence(result)),
            "link": link(result.reference, run.suite.spec),
            "rest": _facts(told.rest),
        }
        for result in sorted(run.by_id(), key=lambda result: _URGENCY[result.verdict])
    ]
    return environment.get_template("report.html.j2").render(
        run=run,
        rows=rows,
        verdicts=[(verdict.value, count) for verdict, count in run.totals.items()],
        levels=sorted({result.level for result in run.results} - {""}),
        bad=sum(result.verdict.bad for result in run.results),
        seconds=(run.run.finished - run.run.started).total_seconds(),
        machine=_facts(run.machine),
        style=Markup(style),
        script=Markup(script),
        # Nothing but these two texts may act: a script that escaping let through would still not run.
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; "
        "form-action 'none'",
    )


def _visible(value: object) -> object:
    """Jinja's finalize: whatever an expression gives goes through here before it is escaped."""
    return truncate(printable(value, newlines=True), _LONGEST) if type(value) is str else value


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(values: Object) -> list[tuple[str, str]]:
    return [(key, shown(value)) for key, value in values.items() if value not in (None, "")]


def _when(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"

"""results.tap: TAP 14, in the order of running, with `key: JSON` blocks as the spec suite writes them.

A reader that knows nothing of labkit comes to the same end: what the policy expects is `not ok ... # TODO expected:`,
and what is wrong with the run as a whole is a test point of its own, or a bail-out.
"""

from __future__ import annotations

import functools
import json
import re
from datetime import UTC, datetime

from labkit.core.text import printable
from labkit.reports.evidence import policy_lines
from labkit.results.model import Result, Run, Verdict
from labkit.results.tap import JSON

_json = json.JSONEncoder(allow_nan=False).encode
_LIKE_ONE = re.compile(r"#\s*(skip|todo)", re.IGNORECASE)
_OK = (Verdict.PASS, Verdict.SKIP)
_DIRECTIVES = {
    Verdict.SKIP: "SKIP",
    Verdict.TODO: "TODO",
    Verdict.FLAKY: "TODO",  # TAP has no word for what does not repeat; the block has
}


def render(run: Run) -> str:
    """Return the run as TAP. An incomplete run ends with a bail-out, so that no reader takes it for a success."""
    facts = {
        "run": run.run.id,
        "suite": f"{run.suite.name} {run.suite.version}".strip(),
        "engine": run.engine.name if run.engine else "",
        "engine-version": run.engine.version if run.engine else "",
        "spec": run.suite.spec,
        "spec-claimed": run.suite.spec_claimed,
        "runtime-arguments": run.runtime.arguments,
        "runtime": run.runtime.name,
        "runtime-path": run.runtime.path,
        "runtime-version": run.runtime.version,
        "runtime-source": run.runtime.source,
        "runtime-sha256": run.runtime.sha256,
        "platform": f"{run.machine.get('platform', '')} {run.machine.get('release', '')}".strip(),
        "kernel": str(run.machine.get("kernel", "")),
        "kernel-origin": str(run.machine.get("kernel_origin", "")),
        "cgroup": str(run.machine.get("cgroup", "")),
        "user": str(run.machine.get("user", "")),
        "user-namespace": str(run.machine.get("user_namespace", "")),
    }
    faults = [(name, why) for name, why in run.faults if why != run.run.reason]
    count = len(run.results) + len(faults)
    # A plan of none would say that all was skipped, whatever follows.
    lines = ["TAP version 14", *([f"1..{count}"] if count else [])]
    lines += [f"# {key}: {printable(value)}" for key, value in facts.items() if value]
    lines += [f"# read as: {printable(dialect)}" for dialect in run.dialects]
    lines += [f"# told: {printable(line)}" for line in run.told]
    lines += [f"# judged: {_when(run.judged.at)} by {printable(run.judged.with_what)}"] if run.judged else []
    for number, result in enumerate(run.results, 1):
        lines += _point(number, result)
        if result.expected is not None:
            lines.append(f"# expected: {printable(result.expected.reason)} ({printable(result.expected.source)})")
    for number, (name, why) in enumerate(faults, len(run.results) + 1):
        lines.append(_shut(f"not ok {number} - {_escaped(name)}: {_escaped(why)}"))
    lines += [f"# policy: {printable(line)}" for line in policy_lines(run)]
    if run.run.reason is not None:
        lines.append(f"Bail out! incomplete: {printable(run.run.reason)}")
    return "\n".join(lines) + "\n"


def _when(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _point(number: int, result: Result) -> list[str]:
    ok, directive, reason = result.verdict in _OK and not result.bad, "", ""
    if result.bad and result.expected is not None:
        directive, reason = "TODO", f"expected: {result.expected.reason}"
    elif not result.bad:
        directive = _DIRECTIVES.get(result.verdict, "")
        reason = str(result.diagnostic.get("reason", result.diagnostic.get("message", "")))
    description = _escaped(f"{result.id} {result.name}".rstrip())
    names = {}
    if "#" in description and (directive or _LIKE_ONE.search(description)):
        # For readers of TAP 13 a directive begins at the first of them, and they would take a failure for a TODO.
        description = description.replace("\\#", r"\x23")
        names = {"name": result.name}
    line = f"{'ok' if ok else 'not ok'} {number} - {description}"
    line += f" # {directive} {printable(reason)}".rstrip() if directive else ""
    block: dict[str, JSON] = {
        "id": result.id,
        **names,
        "level": result.level,
        **({"program": result.program} if result.program else {}),
        "reference": result.reference,
        "verdict": result.verdict.value,
        "seconds": result.seconds,
    }
    block |= {key: value for key, value in result.diagnostic.items() if key not in block}
    return [_shut(line), "  ---", *(f"  {_key(key)}: {_json(value)}" for key, value in block.items()), "  ..."]


def _shut(line: str) -> str:
    """The line, which must not end in an opening brace: node's readers take that for the begin of a subtest."""
    return f"{line}}}" if line.endswith("{") else line


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace("#", "\\#")


@functools.lru_cache(1000)
def _key(key: str) -> str:
    """Return a key that is the same to a YAML reader: plain where it is a plain word, else in quotes."""
    return key if key.isascii() and key.replace("-", "").replace("_", "").isalpha() else json.dumps(key)

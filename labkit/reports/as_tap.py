"""results.tap: TAP 14, in the order of running, with `key: JSON` blocks as the spec suite writes them."""

from __future__ import annotations

import functools
import json

from labkit.core.text import printable
from labkit.reports.evidence import policy_lines
from labkit.results.model import Result, Run, Verdict

_json = json.JSONEncoder(allow_nan=False).encode
_OK = (Verdict.PASS, Verdict.SKIP, Verdict.NO_ASSERTIONS)
_DIRECTIVES = {
    Verdict.SKIP: "SKIP",
    Verdict.NO_ASSERTIONS: "SKIP",
    Verdict.TODO: "TODO",
    Verdict.FLAKY: "TODO",  # TAP has no word for what does not repeat; the block has
}


def render(run: Run) -> str:
    """Return the run as TAP. An incomplete run ends with a bail-out, so that no reader takes it for a success."""
    facts = {
        "run": run.run.id,
        "suite": f"{run.suite.name} {run.suite.version}".strip(),
        "spec": run.suite.spec,
        "spec-claimed": run.suite.spec_claimed,
        "runtime-arguments": run.runtime.arguments,
        "runtime": run.runtime.name,
        "runtime-path": run.runtime.path,
        "runtime-version": run.runtime.version,
        "platform": f"{run.machine.get('platform', '')} {run.machine.get('release', '')}".strip(),
        "kernel": str(run.machine.get("kernel", "")),
        "kernel-origin": str(run.machine.get("kernel_origin", "")),
        "cgroup": str(run.machine.get("cgroup", "")),
    }
    lines = ["TAP version 14", f"1..{len(run.results)}"]
    lines += [f"# {key}: {printable(value)}" for key, value in facts.items() if value]
    for number, result in enumerate(run.results, 1):
        lines += _point(number, result)
        if result.expected is not None:
            lines.append(f"# expected: {printable(result.expected.reason)} ({printable(result.expected.source)})")
    lines += [f"# policy: {printable(line)}" for line in policy_lines(run)]
    if run.run.reason is not None:
        lines.append(f"Bail out! incomplete: {printable(run.run.reason)}")
    return "\n".join(lines) + "\n"


def _point(number: int, result: Result) -> list[str]:
    line = f"{'ok' if result.verdict in _OK else 'not ok'} {number} - {_escaped(f'{result.id} {result.name}'.rstrip())}"
    reason = result.diagnostic.get("reason", result.diagnostic.get("message", ""))
    if result.verdict is Verdict.NO_ASSERTIONS:
        reason = reason or "no assertions"
    if directive := _DIRECTIVES.get(result.verdict):
        line += f" # {directive} {_escaped(str(reason))}".rstrip()
    block = {
        "id": result.id,
        "level": result.level,
        **({"program": result.program} if result.program else {}),
        "reference": result.reference,
        "verdict": result.verdict.value,
        "seconds": result.seconds,
    }
    more = {key: value for key, value in result.diagnostic.items() if key not in block}
    return [line, "  ---", *(f"  {_key(key)}: {_json(value)}" for key, value in {**block, **more}.items()), "  ..."]


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace("#", "\\#")


@functools.lru_cache(1000)
def _key(key: str) -> str:
    """Return a key that is the same to a YAML reader: plain where it is a plain word, else in quotes."""
    return key if key.isascii() and key.replace("-", "").replace("_", "").isalpha() else json.dumps(key)

"""What an engine did where its runtime failed, judged: told, cleaned up, usable."""

from __future__ import annotations

from labkit.core.text import truncate
from labkit.guest.engines.faults import FAULTS
from labkit.results.engines.events import RUNTIME, Events, Session
from labkit.results.engines.outcomes import commands, differences, seconds
from labkit.results.model import Result, Verdict
from labkit.results.tap import JSON

NAMES = {fault.id: f"{fault.title}: told, cleaned up, still usable" for fault in FAULTS}


def judge(events: Events) -> tuple[Result, ...]:
    """A result for each fault that was to be."""
    session = events.sessions.get(RUNTIME, Session())
    found = {str(event.get("fault")): event for event in session.of("fault")}
    results = []
    for name in events.faults:
        if name not in NAMES:
            continue
        if name in found:
            event = found[name]
            diagnostic: dict[str, JSON] = {}
            failed, cannot = event.get("failed"), event.get("cannot")
            if isinstance(cannot, str):
                results.append(_of(name, Verdict.SKIP, {"reason": truncate(cannot, 400)}, seconds(event)))
                continue
            if isinstance(failed, str):
                diagnostic = {"message": truncate(failed, 1000)}
                results.append(_of(name, Verdict.ERROR, diagnostic, seconds(event)))
                continue
            failures = differences(event.get("expected"), event.get("observed"), "")
            if failures:
                diagnostic = {"failures": [*failures], "commands": commands(event)}
            results.append(_of(name, Verdict.FAIL if failures else Verdict.PASS, diagnostic, seconds(event)))
        elif session.broken:
            results.append(_of(name, Verdict.ERROR, {"message": f"the engine cannot be used: {session.broken}"}))
    return tuple(results)


def _of(name: str, verdict: Verdict, diagnostic: dict[str, JSON], took: float = 0.0) -> Result:
    return Result(name, NAMES[name], "", "", verdict, took, diagnostic)

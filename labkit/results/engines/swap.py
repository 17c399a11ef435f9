"""The conversation judged: each step over the runtime under test must show what it shows over the reference, and what
every engine shows. What the engine has no command for is a skip.
"""

from __future__ import annotations

from collections.abc import Iterable

from labkit.core.text import truncate
from labkit.guest.engines.conversation import STEPS
from labkit.results.engines.events import REFERENCE, RUNTIME, Event, Events, Session
from labkit.results.engines.outcomes import commands, differences, seconds
from labkit.results.model import Result, Verdict
from labkit.results.tap import JSON

NAMES = {step.id: step.title for step in STEPS}


def judge(events: Events) -> tuple[Result, ...]:
    """A result for each step that was to be."""
    over = _steps(events.sessions.get(RUNTIME, Session()))
    reference = _steps(events.sessions[REFERENCE]) if REFERENCE in events.sessions else None
    broken = events.sessions.get(RUNTIME, Session()).broken
    wanted = [name for name in events.steps if name in NAMES]
    results = []
    for name in wanted:
        step = over.get(name)
        if step is not None:
            results.append(_result(name, step, None if reference is None else reference.get(name), events))
        elif broken:
            results.append(_of(name, Verdict.ERROR, {"message": f"the engine cannot be used: {broken}"}))
    return tuple(results)


def word(results: Iterable[Result]) -> str:
    """What a swap comes to: compatible, differs or cannot."""
    verdicts = [result.verdict for result in results if result.id in NAMES]
    if not verdicts or all(verdict in (Verdict.ERROR, Verdict.SKIP) for verdict in verdicts):
        return "cannot"
    return "differs" if any(verdict.bad for verdict in verdicts) else "compatible"


def _steps(session: Session) -> dict[str, Event]:
    return {str(event.get("step")): event for event in session.of("step")}


def _result(name: str, step: Event, reference: Event | None, events: Events) -> Result:
    cannot, failed, observed = step.get("cannot"), step.get("failed"), step.get("observed")
    took = seconds(step)
    if isinstance(cannot, str):
        return _of(name, Verdict.SKIP, {"reason": truncate(cannot, 400)}, took)
    expected = step.get("expected")
    failures = differences(expected, observed, "") if not isinstance(failed, str) else []
    if isinstance(failed, str):
        failures = [{"what": truncate(failed, 1000), "finding": f"{name}: fails"}]
    diagnostic: dict[str, JSON] = {}
    title = events.facts.get("reference-path", "")
    if reference is not None:
        same = reference.get("observed") == observed and reference.get("failed") == failed
        if same and failures:
            diagnostic["notes"] = {"over the reference": f"the same over {title}"}
        elif not same:
            diagnostic["notes"] = {
                "over the reference": f"over {title}: "
                + truncate(str(reference.get("observed") or reference.get("failed") or reference.get("cannot")), 2000)
            }
            failures = failures or differences(reference.get("observed"), observed, "")
    if not failures:
        return _of(name, Verdict.PASS, {}, took)
    diagnostic["failures"] = [*failures]
    diagnostic["commands"] = commands(step)
    return _of(name, Verdict.FAIL, diagnostic, took)


def _of(name: str, verdict: Verdict, diagnostic: dict[str, JSON], took: float = 0.0) -> Result:
    return Result(name, NAMES[name], "", "", verdict, took, diagnostic)

"""The conversation judged: each step must show what it shows over every runtime. One that does not was held over the
reference, too, which tells whether it is this runtime's doing. What the engine has no command for is a skip.
"""

from __future__ import annotations

from collections.abc import Iterable

from labkit.core.text import truncate
from labkit.guest.engines.conversation import STEPS
from labkit.results.engines.events import REFERENCE, RUNTIME, Event, Events, Session
from labkit.results.engines.outcomes import commands, differences, seconds
from labkit.results.model import Result, Verdict
from labkit.results.tap import JSON

_OVER, _SAME = "over the reference", "the same"
NAMES = {step.id: step.title for step in STEPS}


def judge(events: Events) -> tuple[Result, ...]:
    """A result for each step that was to be."""
    over = _steps(events.sessions.get(RUNTIME, Session()))
    reference = _steps(events.sessions.get(REFERENCE, Session()))
    broken = events.sessions.get(RUNTIME, Session()).broken
    wanted = [name for name in events.steps if name in NAMES]
    results = []
    for name in wanted:
        step = over.get(name)
        if step is not None:
            results.append(_result(name, step, reference.get(name), events))
        elif broken:
            results.append(_of(name, Verdict.ERROR, {"message": f"the engine cannot be used: {broken}"}))
    return tuple(results)


def word(results: Iterable[Result]) -> str:
    """What a swap comes to: compatible (the same as over the reference, where a step is not as expected over either),
    differs or cannot.
    """
    steps = [result for result in results if result.id in NAMES]
    if not any(result.verdict is Verdict.PASS for result in steps):
        return "cannot"
    return "differs" if any(map(differs, steps)) else "compatible"


def differs(result: Result) -> bool:
    """Whether a step is not as expected, and the reference did not show the same."""
    notes = result.diagnostic.get("notes")
    same = isinstance(notes, dict) and str(notes.get(_OVER, "")).startswith(_SAME)
    return result.bad and not same


def _steps(session: Session) -> dict[str, Event]:
    return {str(event.get("step")): event for event in session.of("step")}


def _result(name: str, step: Event, reference: Event | None, events: Events) -> Result:
    cannot, failed, observed = step.get("cannot"), step.get("failed"), step.get("observed")
    took = seconds(step)
    if isinstance(cannot, str):
        return _of(name, Verdict.SKIP, {"reason": truncate(cannot, 400)}, took)
    failures = differences(step.get("expected"), observed, "")
    if isinstance(failed, str):
        failures = [{"what": truncate(failed, 1000), "finding": "fails"}]
    if not failures:
        return _of(name, Verdict.PASS, {}, took)
    diagnostic: dict[str, JSON] = {"failures": [*failures], "commands": commands(step)}
    if reference is not None:
        title = events.facts.get("reference-path", "the reference")
        same = reference.get("observed") == observed and isinstance(reference.get("failed"), str) is isinstance(
            failed, str
        )
        shown = reference.get("observed") or reference.get("failed") or reference.get("cannot")
        said = f"{_SAME} over {title}" if same else f"over {title}: {truncate(str(shown), 2000)}"
        diagnostic["notes"] = {_OVER: said}
    return _of(name, Verdict.FAIL, diagnostic, took)


def _of(name: str, verdict: Verdict, diagnostic: dict[str, JSON], took: float = 0.0) -> Result:
    return Result(name, NAMES[name], "", "", verdict, took, diagnostic)

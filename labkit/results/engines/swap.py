"""The conversation judged: each step over the runtime under test must show what it shows over the reference, and what
every engine shows. What the engine has no command for is a skip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from labkit.core.text import truncate
from labkit.guest.engines.conversation import STEPS
from labkit.results.engines.events import REFERENCE, RUNTIME, Event, Events, Session
from labkit.results.model import Result, Verdict
from labkit.results.tap import JSON

NAMES = {step.id: step.title for step in STEPS}
_KEPT = 20  # commands that are kept with a result


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
    seconds = step.get("seconds")
    took = float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e6 else 0.0
    if isinstance(cannot, str):
        return _of(name, Verdict.SKIP, {"reason": truncate(cannot, 400)}, took)
    expected = step.get("expected")
    failures = _differences(expected, observed, "") if not isinstance(failed, str) else []
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
            failures = failures or _differences(reference.get("observed"), observed, "")
    if not failures:
        return _of(name, Verdict.PASS, {}, took)
    diagnostic["failures"] = [*failures]
    commands = step.get("commands")
    if isinstance(commands, list):
        diagnostic["commands"] = [_command(one) for one in commands[-_KEPT:] if isinstance(one, dict)]
    return _of(name, Verdict.FAIL, diagnostic, took)


def _differences(expected: Any, observed: Any, path: str) -> list[dict[str, JSON]]:
    """Each value in which the two differ, by its path."""
    if isinstance(expected, dict) and isinstance(observed, dict):
        found: list[dict[str, JSON]] = []
        for key in dict.fromkeys([*expected, *observed]):
            found += _differences(expected.get(key), observed.get(key), f"{path} {key}".strip())
        return found
    if expected == observed:
        return []
    what = path or "outcome"
    return [{"what": what, "finding": what, "expected": expected, "actual": observed}]


def _command(done: Mapping[str, Any]) -> JSON:
    argv = done.get("argv")
    words = [str(word) for word in argv] if isinstance(argv, list) else []
    shown: dict[str, JSON] = {"argv": [truncate(word, 300) for word in words[:60]], "status": done.get("status")}
    for key in ("out", "err"):
        if isinstance(done.get(key), str) and done[key]:
            shown[key] = truncate(done[key], 1500)
    return shown


def _of(name: str, verdict: Verdict, diagnostic: dict[str, JSON], seconds: float = 0.0) -> Result:
    return Result(name, NAMES[name], "", "", verdict, seconds, diagnostic)

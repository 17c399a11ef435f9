"""What an outcome that labkit-engine reports comes to, in the words of results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from labkit.core.text import truncate
from labkit.results.engines.events import Event, Events
from labkit.results.model import Result
from labkit.results.tap import JSON

_LOG = 2000  # characters of a daemon's log, its last
_KEPT = 20  # commands that are kept with a result


def differences(expected: Any, observed: Any, path: str) -> list[dict[str, JSON]]:
    """Each value in which the two differ, by its path."""
    if isinstance(expected, dict) and isinstance(observed, dict):
        found: list[dict[str, JSON]] = []
        for key in dict.fromkeys([*expected, *observed]):
            found += differences(expected.get(key), observed.get(key), f"{path} {key}".strip())
        return found
    if expected == observed:
        return []
    what = path or "outcome"
    if what.rpartition(" ")[2] == "left" and isinstance(observed, list) and observed:
        kinds = dict.fromkeys(str(one).partition(" ")[0] for one in observed)
        return [
            {
                "what": f"{what} behind: {kind}",
                "finding": f"{what}: {truncate(kind, 20)}",
                "expected": expected,
                "actual": [one for one in observed if str(one).partition(" ")[0] == kind],
            }
            for kind in kinds
        ]
    return [{"what": what, "finding": what, "expected": expected, "actual": observed}]


def _command(done: Mapping[str, Any]) -> JSON:
    argv = done.get("argv")
    words = [str(word) for word in argv] if isinstance(argv, list) else []
    shown: dict[str, JSON] = {"argv": [truncate(word, 300) for word in words[:60]], "status": done.get("status")}
    for key in ("out", "err"):
        if isinstance(done.get(key), str) and done[key]:
            shown[key] = truncate(done[key], 1500)
    return shown


def commands(event: Event) -> list[JSON]:
    """What was run, in the order in which it was."""
    given = event.get("commands")
    return [_command(one) for one in given[-_KEPT:] if isinstance(one, dict)] if isinstance(given, list) else []


def with_log(results: Iterable[Result], events: Events) -> Iterator[Result]:
    """The results, what is bad with the end of the log of the engine's daemons."""
    logs = [str(event.get("text", "")) for session in events.sessions.values() for event in session.of("log")]
    log = truncate(logs[0].strip()[-_LOG:], _LOG) if logs else ""
    for result in results:
        notes = result.diagnostic.get("notes")
        if log and result.bad:
            told = {**(notes if isinstance(notes, dict) else {}), "the end of the daemon's log": log}
            yield dataclasses.replace(result, diagnostic={**result.diagnostic, "notes": told})
        else:
            yield result


def seconds(event: Event) -> float:
    took = event.get("seconds")
    return float(took) if isinstance(took, int | float) and 0 <= took < 1e6 else 0.0

"""The output of labkit-engine: JSON lines, see labkit/guest/engines/__init__.py. It is hostile, nothing raises."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from labkit.core.text import truncate
from labkit.results.tap import JSON

RUNTIME, REFERENCE = "runtime", "reference"
_LINE = 4 << 20  # bytes; a longer one is damaged
_FACTS = (
    "engine",
    "engine-version",
    "runtime-path",
    "runtime-version",
    "runtime-arguments",
    "reference-path",
    "kernel",
    "cgroup",
    "suite",
)

Event = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Session:
    """One engine over one runtime. events are all about it but its calls, which are the spy's record; broken says why
    the engine could not be used at all.
    """

    events: tuple[Event, ...] = ()
    calls: bytes = b""
    broken: str = ""

    def of(self, kind: str) -> Iterator[Event]:
        return (event for event in self.events if event.get("type") == kind)


@dataclass(frozen=True, slots=True)
class Events:
    """parts, steps and faults are what was to run, only the checks that were asked for (empty: all); reason says why
    it is not whole.
    """

    facts: dict[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    sessions: dict[str, Session] = field(default_factory=dict)
    reason: str | None = None


def is_one(data: bytes) -> bool:
    """Whether it begins as labkit-engine's output does."""
    event = parsed(data.partition(b"\n")[0][:_LINE])
    return bool(event and event.get("type") == "plan" and isinstance(event.get("parts"), list))


def read(data: bytes) -> Events:
    """Read the output, whole or not."""
    facts: dict[str, str] = {}
    parts: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    events: dict[str, list[Event]] = {}
    calls: dict[str, list[str]] = {}
    broken: dict[str, str] = {}
    under, finished, damaged = "", False, 0
    for event in lines(data):
        if event is None:
            damaged += 1
            continue
        kind = event.get("type")
        if kind == "plan":
            facts = texts(event.get("facts"))
            parts, steps, wrong, only = (names(event.get(key)) for key in ("parts", "steps", "faults", "only"))
        elif kind == "session":
            under = str(event.get("under"))[:40]
            events.setdefault(under, [])
        elif kind == "version":
            facts["engine-version"] = truncate(str(event.get("engine")), 200)
        elif kind == "finish":
            finished = True
        elif kind == "call":
            calls.setdefault(under, []).append(str(event.get("line")))
        elif kind == "broken":
            broken[under] = truncate(str(event.get("why")), 4000)
        else:
            events.setdefault(under, []).append(event)
    sessions = {
        name: Session(
            tuple(some), "\n".join(calls.get(name, ())).encode("utf-8", "backslashreplace"), broken.get(name, "")
        )
        for name, some in events.items()
    }
    reasons = [f"{damaged} damaged lines"] if damaged else []
    reasons += [] if finished else ["the suite did not finish"]
    return Events(facts, parts, steps, wrong, only, sessions, "; ".join(reasons) or None)


def lines(data: bytes) -> Iterator[Event | None]:
    """The events of the lines that are not empty, None for one that is damaged."""
    return (parsed(line) for line in data.split(b"\n") if line.strip())


def parsed(line: bytes) -> Event | None:
    if len(line) > _LINE:
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def texts(value: object) -> dict[str, str]:
    given = value if isinstance(value, dict) else {}
    return {key: truncate(given[key], 1000) for key in _FACTS if isinstance(given.get(key), str) and given[key]}


def names(value: object) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()

"""The output of labkit-images: JSON lines, see labkit/guest/images/__init__.py. It is hostile, nothing raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labkit.core.text import truncate
from labkit.results.engines.events import Event, lines, names, parsed, texts


@dataclass(frozen=True, slots=True)
class Output:
    """cases are what was to run, only the checks that were asked for (empty: all), found the events of cases by their
    names; build is that of the builder, None where none came; broken says why the converter could not be used, reason
    why the output is not whole.
    """

    facts: dict[str, str] = field(default_factory=dict)
    cases: tuple[str, ...] = ()
    builds: bool = False
    only: tuple[str, ...] = ()
    found: Mapping[str, Event] = field(default_factory=dict)
    build: Event | None = None
    broken: str = ""
    log: str = ""
    reason: str | None = None


def is_one(data: bytes) -> bool:
    """Whether it begins as labkit-images' output does."""
    event = parsed(data.partition(b"\n")[0])
    return bool(event and event.get("type") == "plan" and isinstance(event.get("cases"), list))


def read(data: bytes) -> Output:
    """Read the output, whole or not."""
    facts: dict[str, str] = {}
    cases: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    builds, finished, damaged = False, False, 0
    found: dict[str, Event] = {}
    build: Event | None = None
    broken = log = ""
    for event in lines(data):
        if event is None:
            damaged += 1
            continue
        kind = event.get("type")
        if kind == "plan":
            facts = texts(event.get("facts"))
            cases, only = names(event.get("cases")), names(event.get("only"))
            builds = bool(event.get("builds"))
        elif kind == "version":
            facts["engine-version"] = truncate(str(event.get("converter")), 200)
        elif kind == "case" and isinstance(event.get("case"), str):
            found.setdefault(str(event["case"]), event)
        elif kind == "build":
            build = event
        elif kind == "broken":
            broken = truncate(str(event.get("why")), 4000)
        elif kind == "log":
            log = str(event.get("text"))
        elif kind == "finish":
            finished = True
    reasons = [f"{damaged} damaged lines"] if damaged else []
    reasons += [] if finished else ["the suite did not finish"]
    return Output(facts, cases, builds, only, found, build, broken, log, "; ".join(reasons) or None)

"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from labkit.core.text import one_line
from labkit.results.engines.events import Event
from labkit.results.tap import JSON


@dataclass(frozen=True, slots=True)
class Finding:
    """name is what policies know it by; what says it to a person."""

    name: str
    what: str
    expected: JSON = None
    actual: JSON = None


@dataclass(frozen=True, slots=True)
class Cannot:
    """The converter was not asked, or has no way to be: why."""

    why: str


Found: TypeAlias = Finding | Cannot
REFUSED = "refused"


def refused(event: Event) -> Finding:
    """The conversion came to nothing, where it was to come to something."""
    said = one_line(str(event.get("err") or ""), 600)
    return Finding(REFUSED, f"the image is refused (exit status {event.get('status')})", "exit status 0", said)


def no_error(event: Event) -> Finding:
    """It succeeded where it was to fail."""
    return Finding("no error", "it succeeds", "an error", f"exit status {event.get('status')}")

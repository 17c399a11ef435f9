"""What a check of the caller comes upon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from labkit.results.caller.calls import Call


@dataclass(frozen=True, slots=True)
class Finding:
    """name is the same wherever the same is wrong, whatever the ids and paths; practised: the document lacks it, and
    all callers and runtimes have it.
    """

    name: str
    call: Call
    expected: str = ""
    actual: str = ""
    practised: bool = False


@dataclass(frozen=True, slots=True)
class Undecided:
    """What the record does not tell, and why."""

    call: Call
    why: str


# What a check yields: None for each thing that it looked at and found right.
Found: TypeAlias = Finding | Undecided | None
Check: TypeAlias = Callable[[tuple[Call, ...]], Iterable[Found]]


def creates(calls: Iterable[Call]) -> Iterator[Call]:
    """The calls that hand a bundle over."""
    return (call for call in calls if call.command in ("create", "run"))

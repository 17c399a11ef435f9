"""What was run several times: whether what was bad repeats, and which of its findings do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Repeated:
    """repeats: it was bad again. findings: those of the first time that count; once: what only one of them saw."""

    repeats: bool
    findings: tuple[str, ...]
    once: tuple[str, ...]


def repeated(first: Iterable[str], again: Sequence[Optional[Iterable[str]]]) -> Repeated:
    """first: the findings of something bad; again: those of each time that it was run again, None: it was not bad then.

    What counts was found twice. Where nothing was, all that was found first does: it is bad each time, whatever it is.
    """
    had = tuple(dict.fromkeys(first))
    bad = [set(findings) for findings in again if findings is not None]
    found = set().union(*bad)
    both = found.intersection(had)
    if not both:
        return Repeated(bool(bad), had, ())
    return Repeated(True, tuple(name for name in had if name in both), tuple(sorted(found.union(had) - both)))


@dataclass(frozen=True)
class Counted:
    """often: in how many of all times each finding was there. findings: those that count, as in Repeated; once: the
    others.
    """

    often: dict[str, int]
    findings: tuple[str, ...]
    once: tuple[str, ...]


def counted(bad: Sequence[Iterable[str]]) -> Counted:
    """bad: the findings of each time that something was bad, of however many. What counts was found twice, whenever;
    where nothing was, all that was found first does.
    """
    times = [tuple(dict.fromkeys(findings)) for findings in bad]
    often = dict(Counter(name for findings in times for name in findings))
    found = tuple(name for name, many in often.items() if many > 1) or next(filter(None, times), ())
    return Counted(often, found, tuple(sorted(often.keys() - found)))

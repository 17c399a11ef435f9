"""All images that converters are given, and which of them a check needs."""

from __future__ import annotations

from collections.abc import Sequence

from .case import Case
from .conversions import CONVERSIONS
from .escapes import ESCAPES
from .layers import LAYERS

CASES: list[Case] = [*CONVERSIONS, *LAYERS, *ESCAPES]


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def needed(only: Sequence[str]) -> list[Case]:
    """The cases that these checks need; all where none is named."""
    return [case for case in CASES if not only or set(case.checks) & set(only)]

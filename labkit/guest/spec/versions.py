"""Versions of the runtime-spec that the suite has checks for."""

from __future__ import annotations

from ..common.claims import parsed_version

OLDEST, NEXT = (1, 0, 0), (1, 4, 0)


def is_version(text: str) -> bool:
    """Whether it is one of them, such as "1.2" or "1.0.2"."""
    found = parsed_version(text)
    return found is not None and OLDEST <= found < NEXT

"""Versions of the runtime-spec that the suite has checks for."""

from __future__ import annotations

from typing import Optional

from ..common.claims import parsed_version

OLDEST, NEXT = (1, 0, 0), (1, 4, 0)


def version_of(text: str) -> Optional[tuple[int, int, int]]:
    """The one that is meant, such as "1.2" or "1.0.2"; None where it is none of them."""
    found = parsed_version(text)
    return found if found and OLDEST <= found < NEXT else None

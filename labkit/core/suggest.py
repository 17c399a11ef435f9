"""Suggestions for unknown words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or nothing where none is near."""
    by_folded = {entry.casefold(): entry for entry in known}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return f"; did you mean {by_folded[near[0]]!r}?" if near else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> tuple[str, str]:
    """Return message and hint for an unknown word."""
    entries = list(known)
    return f"unknown {kind} {word!r}{did_you_mean(word, entries)}", f"known: {', '.join(entries) or 'none'}"

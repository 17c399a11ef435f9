"""Text from outside, made fit for one line of output."""

from __future__ import annotations

import re


def printable(text: str, length: int = 200) -> str:
    """The first characters of a text, whatever is not printable ASCII replaced by question marks."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:length]

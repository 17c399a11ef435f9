"""Entries of a policy as the text of its file. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date


def quoted(text: str) -> str:
    """The pattern that this very text matches, and no other."""
    return re.sub(r"[*?[]", r"[\g<0>]", text)


def table(pairs: Iterable[tuple[str, str | date | Sequence[str]]]) -> str:
    """An entry of a policy file: a table of TOML with these keys and values, in this order."""
    return "[[entry]]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in pairs)


def _value(value: str | date | Sequence[str]) -> str:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return string(value)
    if len(value) == 1:
        return string(value[0])
    line = f"[{', '.join(map(string, value))}]"
    return line if len(line) <= 100 else "[\n" + "".join(f"    {string(one)},\n" for one in value) + "]"


def string(text: str) -> str:
    """A text as TOML writes it."""
    return '"' + "".join(map(_character, text)) + '"'


def _character(char: str) -> str:
    if char in ('"', "\\"):
        return f"\\{char}"
    if char == "\t":
        return "\\t"
    if "\ud800" <= char <= "\udfff":  # no text can have it
        return "\\uFFFD"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04X}" if ord(char) < 0x10000 else f"\\U{ord(char):08X}"

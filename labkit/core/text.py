"""Makes untrusted text safe to show on a terminal, in HTML and in XML."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: str, *, newlines: bool = False) -> str:
    """Return text with everything invisible or active written out as a Python escape (`\\x1b`, `\\u202e`).

    That covers terminal escapes, C0 and C1 controls, bidi overrides, zero-width characters, odd spaces and lone
    surrogates, and so every character that XML forbids. Line ends are escaped as well, so that one value stays
    on one line; with newlines=True line feeds and tabs stay as they are. A backslash stays a single backslash.
    """
    if text.isprintable():
        return text
    keep = "\n\t" if newlines else ""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def truncate(text: str, limit: int) -> str:
    """Return text if it has at most limit characters, else its beginning and how many characters were left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit} more characters)"


def one_line(text: str, limit: int) -> str:
    """Return printable text of at most limit characters on one line, ending in … where something was cut."""
    # Every character prints as at least one, so what lies beyond the limit need not be looked at.
    shown = printable(text[: limit + 1])
    return shown if len(shown) <= limit else shown[: max(limit - 1, 0)] + "…"


def amount(size: int) -> str:
    """Bytes as people read them: `1.3 GB`, `12 MB`; units are powers of 1000."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if value >= 9.95 or units[0] == "B" else f"{value:.1f} {units[0]}"


def seconds(value: float) -> str:
    """A time as a person would have set it: `25 s`, also where a moment of it had passed already."""
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def some(words: Iterable[str], most: int = 10) -> str:
    """The first of them, and how many more there are."""
    listed = [truncate(word, 100) for word in words]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def count(number: int, what: str) -> str:
    """`1 program`, `2 programs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"

"""Text as Markdown that GitHub, GitLab and others show as that text, and as nothing else."""

from __future__ import annotations

import re

from labkit.core.text import one_line, printable

# In a code span nothing has a meaning but its end, and in a table the bar. No mention, number of an issue or address
# becomes a link there.
_SPAN = re.compile(r"[^`|\\\n]+")


def code(text: str, limit: int = 300) -> str:
    """Untrusted text on one line: a code span or, where its characters could end one, the same as HTML."""
    shown = one_line(" ".join(text.split()), limit).strip()
    if not shown:
        return ""
    if _SPAN.fullmatch(shown):
        return f"`{shown}`"
    # An entity is never part of Markdown's structure (CommonMark 6.2).
    return f"<code>{''.join(c if c.isalnum() or c == ' ' else f'&#{ord(c)};' for c in shown)}</code>"


def sentence(text: str) -> str:
    """A sentence of labkit's own, with words from elsewhere in it: as it is, or as code where those have characters of
    Markdown, or a forge might make a mention, an emoji or an address of them.
    """
    if re.search(r"[^\w ,;:()/'%+.-]|_|:\S|www\.|\.[^\W\d]", text):
        return code(text, 1000)
    return text


def block(text: str) -> str:
    """A line to copy, as a block of its own."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}sh\n{printable(text)}\n{fence}"


def fitting(parts: list[str], limit: int, rest: str) -> str:
    """The parts joined, with as many bytes as may be; where some are left out, rest says how many (`{}`)."""
    text, size = "", 0
    room = limit - len(rest.encode()) - 20
    for number, part in enumerate(parts):
        size += len(part.encode())
        if size > room and (number + 1 < len(parts) or size > limit):
            return text + rest.format(len(parts) - number) + "\n"
        text += part
    return text

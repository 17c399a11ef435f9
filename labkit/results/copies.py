"""What happens to a program's output on its way into a file, undone: an encoding, colours, and what a log puts before
each line. Bytes in, bytes out; pure, bounded by the size of what comes in, and nothing makes it raise.

Every step is taken only where the bytes show its reason, so output that nothing happened to is returned as it is. What
was done is told in Notes. Nothing is guessed from a name of a CI system: what stands before each line is known by the
TAP that follows it, and has one shape in all of them, with other digits.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from labkit.core.text import one_line
from labkit.results import values


@dataclass(frozen=True, slots=True)
class Note:
    """what reads after the files that it is about, `each line begins with a time`; line is the first such line."""

    what: str
    line: str = ""


def told(notes: Iterable[tuple[str, Note]]) -> tuple[str, ...]:
    """A line for each kind of note, with its files: by name where there is one, else how many there are."""
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    for file, note in notes:
        kinds[note.what].setdefault(file, note.line)
    lines = []
    for what, files in kinds.items():
        first = next(iter(files.values()))
        of = next(iter(files)) if len(files) == 1 else f"{len(files)} files"
        lines.append(f"{one_line(of, 100)}: {what}" + (f": {one_line(first, 120)}" if first else ""))
    return tuple(lines)


_ROUNDS = 5  # of what stands before lines: a container's log in a CI's log in a mail
_FAR = 400  # characters: nothing that a log puts before a line is longer


def mend(data: bytes) -> tuple[bytes, tuple[Note, ...]]:
    """The output as its program printed it, and what was undone."""
    notes: list[Note] = []
    data = _decoded(data, notes)
    if b"\x1b" in data or b"\x9b" in data:
        plain = _ESCAPE.sub(b"", data)
        notes += [Note("colours of a terminal were left out")] if plain != data else []
        data = plain
    if b"\r" in data:
        data = _lines_ended(data, notes)
    for _ in range(_ROUNDS):
        if not _hidden(data):
            break
        changed = _without_what_logs_add(data, notes)
        if changed == data:
            break
        data = changed
    return data, tuple(notes)


# --- encodings

_MARKS = (  # the longer before those that they begin with
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_BOM = codecs.BOM_UTF8
_MISREAD_BOM = "ï»¿".encode()  # what becomes of it where UTF-8 is taken for Latin-1
_BOMS = re.compile(rb"(^|\n)(?:%b|%b)+" % (_BOM, _MISREAD_BOM))


def _decoded(data: bytes, notes: list[Note]) -> bytes:
    if data.startswith(_BOM) and data.removeprefix(_BOM).startswith(tuple(mark for mark, _, _ in _MARKS)):
        data = data.removeprefix(_BOM)
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            return _from(data[len(mark) :], codec, name, notes)
    if b"\0" in data:
        # Without a mark: nearly every other byte is 0 where text is mostly ASCII.
        head = data[:4096]
        even, odd = head[0::2].count(0) * 10, head[1::2].count(0) * 10
        half = len(head) // 2
        if half and odd > 7 * half and even < 2 * half:
            return _from(data, "utf-16-le", "UTF-16", notes)
        if half and even > 7 * half and odd < 2 * half:
            return _from(data, "utf-16-be", "UTF-16", notes)
    if _BOM in data or _MISREAD_BOM in data:  # at the start, or where files were put after each other
        plain = _BOMS.sub(rb"\1", data)
        notes += [Note("a byte order mark was left out")] if plain != data else []
        return plain
    return data


def _from(data: bytes, codec: str, name: str, notes: list[Note]) -> bytes:
    notes.append(Note(f"in {name}, and read as that"))
    return data.decode(codec, "replace").lstrip("\ufeff").encode("utf-8", "replace")


# --- terminals

_ESCAPE = re.compile(
    rb"(?:\x1b\[|\xc2\x9b)[0-?]*[ -/]*[@-~]"  # colours, erasing, moving
    rb"|\x1b\][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)"  # titles and links
    rb"|\x1b[ -/][0-~]|\x1b[0-Z\\^-~]"
)
# The same where something made the escape visible, or dropped it.
_SHOWN_ESCAPE = re.compile(r"(?:\^\[|\u241b|#033|\\x1b|\\u001b|\\033|\\e|)\[[0-9;]{0,12}[mK]")


def _lines_ended(data: bytes, notes: list[Note]) -> bytes:
    """Lines that end in LF. A return inside a line goes back to its start to print over it: then both are lines."""
    data = data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n")
    if b"\r" in data:
        notes.append(Note("lines were printed over, and all of them are read"))
        data = data.replace(b"\r", b"\n")
    return data


# --- what stands before each line

# A line of TAP, wherever in a line it starts. Not `ok` alone: too many sentences have it.
_CORE = re.compile(
    r"(?<![\w-])(?:(?:not ok|ok)(?=[ \t]+(?:[0-9]{1,9}\b|-[ \t]|\#))"
    r"|1\.\.[0-9]{1,9}(?=\s*(?:\#|$))|K?TAP version [0-9]{1,3}(?=\s*$)|Bail out!)"
)
_AT_START = re.compile(rb"\n(?:not )?ok\b")
_BEHIND = re.compile(rb"\n(?!ok\b|not ok\b|[ \t\n#{}]|1\.\.)[^\n]{0,400}?\b(?:not ok|ok)[ \t]+(?:[0-9]|-[ \t])")

_DIGITS, _WORD, _LEVEL, _STREAM, _SPACE, _SIDE = "\ue000\ue001\ue002\ue003\ue004\ue005"
_PARTS = {
    _DIGITS: "[0-9]+",
    _WORD: "[A-Za-z]{3}",
    _LEVEL: r"(?i:trace|debug|info|notice|warn(?:ing)?|err(?:or)?|crit(?:ical)?|fatal)",
    _STREAM: r"(?:stdout|stderr|out|err)",
    _SPACE: r"[ \t]+",
    _SIDE: r"[OE]\+?",  # GitLab's words for stdout and stderr
}
_SHAPES = (
    (re.compile("[\ue000-\ue005]"), ""),
    (re.compile(r"\b(?:stdout|stderr)\b"), _STREAM),
    (re.compile(rf"\b{_PARTS[_LEVEL]}\b"), _LEVEL),
    (re.compile(r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b"), _WORD),
    (re.compile(r"(?<=[0-9])[OE]\+?(?=\s|$)"), _SIDE),
    (re.compile("[0-9]+"), _DIGITS),
    (re.compile(r"\s+"), _SPACE),
)
_TIME = re.compile(
    r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}|[0-9]{4}-[0-9]{2}-[0-9]{2}|(?<![0-9])[0-9]{9,13}(?![0-9])|\[\s*[0-9]+\.[0-9]+\]"
)
_TEXTS = ("log", "message", "msg", "MESSAGE", "line", "Output", "text")  # keys of a line of a log in JSON


def _hidden(data: bytes) -> bool:
    """Whether there may be TAP that does not start its line: none that does, or less than that does not."""
    padded = b"\n" + data
    if _AT_START.search(padded) is None:
        return bool(data) and not data.isspace()
    if _BEHIND.search(padded) is None:
        return False
    behind = sum(1 for _ in _BEHIND.finditer(padded))
    return behind > sum(1 for _ in _AT_START.finditer(padded))


def _without_what_logs_add(data: bytes, notes: list[Note]) -> bytes:
    text = data.decode("utf-8", "replace")
    if (inside := _of_json_lines(text)) is not None:
        notes.append(Note("each line is a record of a log in JSON; its text was read", _first(text)))
        return inside.encode("utf-8", "replace")
    plain = _SHOWN_ESCAPE.sub("", text) if "[" in text else text
    if plain != text:
        notes.append(Note("colours of a terminal were left out"))
        text = plain
    lines = text.split("\n")
    found = _prefixes(lines)
    if not found:
        return text.encode("utf-8", "replace") if plain != data.decode("utf-8", "replace") else data
    changed, without = [], 0
    first = ""
    for line in lines:
        for pattern in found:
            if match := pattern.match(line):
                first = first or (line if match.end() and _CORE.match(line, match.end()) else "")
                line = line[match.end() :]
                break
        else:
            without += bool(line.strip())
        changed.append(line)
    what = "all lines are indented, and were read without that"
    if before := first[: len(first) - len(_after(first, found))].strip():
        begins = "a time" if _TIME.search(before) else f"`{one_line(before, 60)}`"
        whole = "each line begins" if not without else f"{len(lines) - without} of {len(lines)} lines begin"
        what = f"{whole} with {begins}; it was left out"
    notes.append(Note(what, first))
    return "\n".join(changed).encode("utf-8", "replace")


def _after(line: str, patterns: list[re.Pattern[str]]) -> str:
    return next((line[match.end() :] for pattern in patterns if (match := pattern.match(line))), line)


def _first(text: str) -> str:
    return next((line for line in text.split("\n", 20) if line.strip()), "")[:_FAR]


def _prefixes(lines: list[str]) -> list[re.Pattern[str]]:
    """Patterns of what stands before the lines of TAP, the most frequent first."""
    shapes: Counter[str] = Counter()
    tails: dict[str, int] = {}
    whole: dict[str, str] = {}
    for line in lines:
        match = _CORE.search(line, 0, _FAR)
        if match is None or not match.start():
            continue
        before = line[: match.start()]
        shape = _shape(before.rstrip(" \t"))
        tail = len(before) - len(before.rstrip(" \t"))
        shapes[shape] += 1
        tails[shape] = min(tails.get(shape, tail), tail)  # the least: subtests are indented further
        whole.setdefault(shape, before)
    found = []
    if any(shape.strip(f"#{_SPACE}") or not shape for shape in shapes):
        shapes = Counter({shape: count for shape, count in shapes.items() if not shape or shape.strip(f"#{_SPACE}")})
    for shape, count in shapes.most_common(20):
        if not shape:
            found.append(re.compile(rf"[ \t]{{0,{tails[shape]}}}"))
        elif count > 1 or _TIME.search(whole[shape]):
            inner = "".join(_PARTS.get(char, re.escape(char)) for char in shape)
            found.append(re.compile(rf"{inner}(?:[ \t]{{{tails[shape]}}}|(?=[ \t]*$))"))
    # What is only indented can be anything: last, and only where nothing else is before the lines.
    return [pattern for pattern in found if pattern.match("") is None] or found[:1]


def _shape(text: str) -> str:
    for pattern, mark in _SHAPES:
        text = pattern.sub(mark, text)
    return text


def _of_json_lines(text: str) -> str | None:
    """The text of a log of which each line is a JSON object: Docker's files, journalctl -o json, go test -json."""
    if not text.lstrip().startswith('{"'):
        return None
    found: list[str] = []
    others = 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        said = _said(line)
        others += said is None
        found.append(line + "\n" if said is None else said)
    return "".join(found) if others * 4 < len(found) else None


def _said(line: str) -> str | None:
    value = values.parse_line(line) or {}
    for key in _TEXTS:
        if isinstance(said := value.get(key), str):
            # Docker's and go's records have the line's end, and what is longer than one record has none.
            return said if key in ("log", "Output") else said + "\n"
    return "" if "Action" in value else None  # go test -json: that a test began or ended

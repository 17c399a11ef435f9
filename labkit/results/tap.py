"""An incremental reader of TAP 12, 13 and 14 for untrusted output.

Bytes in, events out: it never raises, whatever the bytes, and its memory is bounded by Limits. Nothing is dropped
silently: what does not fit the format comes out as Unplaced or as a Block of its own, what is over a limit as Dropped.

Written against recorded output of runtime-tools, where a block may stand before its test line or without any, a block
holds one JSON object instead of YAML, streams follow each other in one output, and stray lines stand in between.
Formats: https://testanything.org/tap-version-14-specification.html and -13-. Only column 0 counts: subtests (four
spaces in TAP 14) come out as Unplaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from labkit.results.values import JSON as JSON  # where all who read TAP look for it
from labkit.results.values import parse_json as parse_json
from labkit.results.values import parse_yaml


@dataclass(frozen=True, slots=True)
class Version:
    number: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`1..count`; reason is the text after `#`, without the SKIP."""

    count: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """What stood between `---` and `...`: after a test line that line's diagnostic, elsewhere an event of its own.

    value holds what was readable: one JSON object over all lines, `key: JSON` line by line, or YAML (values.py says how
    much of it). text is the block as it came, kept only where value does not say it all. whole is False where the end
    is missing or was over a limit.
    """

    value: Mapping[str, JSON]
    text: str = ""
    whole: bool = True


@dataclass(frozen=True, slots=True)
class TestPoint:
    """`ok` or `not ok`; directive is "SKIP", "TODO" or "", reason the text that follows it."""

    __test__ = False  # not a pytest class

    ok: bool
    number: int | None
    description: str
    directive: str = ""
    reason: str = ""
    diagnostic: Block | None = None


@dataclass(frozen=True, slots=True)
class Comment:
    text: str


@dataclass(frozen=True, slots=True)
class BailOut:
    reason: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A line that is no TAP: stray output, a subtest, a pragma."""

    text: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something was over a limit and is not in the events; comes before the event it was dropped from."""

    what: str


Event: TypeAlias = Version | Plan | TestPoint | Block | Comment | BailOut | Unplaced | Dropped


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of one line, of one block and of all that is kept; number of events. What is over them is dropped."""

    line: int = 1 << 20
    block: int = 1 << 20
    total: int = 16 << 20
    events: int = 100_000


_POINT = re.compile(r"(not )?ok(?:[ \t]+([0-9]{1,9}))?(?=[ \t]|$)(.*)", re.DOTALL)
_DIRECTIVE = re.compile(r"(?:^|\s)#\s*(skip\S*|todo(?!\w):?)(.*)", re.DOTALL | re.IGNORECASE)
_PLAN = re.compile(r"1\.\.([0-9]{1,9})\s*(?:#\s*(?:skip\S*)?(.*))?", re.DOTALL | re.IGNORECASE)
_VERSION = re.compile(r"TAP version ([0-9]{1,3})\s*")
_BAIL = re.compile(r"bail out!(.*)", re.DOTALL | re.IGNORECASE)
_BLOCK = re.compile(r"([ \t]+)---\s*")
_KEY = re.compile(r'("?)([A-Za-z0-9_][A-Za-z0-9_. -]{0,99})\1: +(\S.*)', re.DOTALL)


_Point: TypeAlias = "tuple[bool, int | None, str, str, str]"  # a TestPoint without its diagnostic
_WINDOW = 1 << 16  # bytes that are split into lines at once
_YAML = 1 << 20  # characters of blocks that are read as YAML; what comes after them is kept as text
_YAML_EACH = 300  # of them are counted for a block beside its text: to begin takes as long
_LONG_BLOCK = 100  # lines: few blocks have more, and to look further for the end of each could take very long


class Reader:
    """Turns the bytes of one program's output into events, however the bytes are cut into chunks."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._line = bytearray()  # the line that has not ended yet, as far as the limit allows
        self._line_cut = False
        self._version = 12
        self._point: _Point | None = None  # held back until it is clear whether a block follows
        self._block: _OpenBlock | None = None
        self._kept = 0
        self._events = 0
        self._yaml = _YAML
        self._full = False

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes; return the events that they completed, in order."""
        out: list[Event] = []
        start = 0
        while not self._full and start < len(data):
            # Many lines at once where none can be over a limit, else one by one.
            end = -1 if self._line or self._line_cut else data.rfind(b"\n", start, start + self._window())
            if end >= 0:
                self._kept += end + 1 - start
                self._lines(data[start:end].decode("utf-8", "replace"), out)
                start = end + 1
                continue
            end = data.find(b"\n", start)
            self._add_to_line(data, start, end if end >= 0 else len(data))
            if end < 0:
                break
            self._end_line(out)
            start = end + 1
        return out

    def close(self) -> list[Event]:
        """The output has ended: return what was still held back."""
        out: list[Event] = []
        if self._line or self._line_cut:
            self._end_line(out)
        self._close_block(out, whole=False)
        self._release_point(out)
        return out

    def _window(self) -> int:
        return min(_WINDOW, self._limits.line, self._limits.total - self._kept)

    def _add_to_line(self, data: bytes, start: int, end: int) -> None:
        room = self._limits.line - len(self._line)
        self._line += data[start : min(end, start + room)]
        self._line_cut = self._line_cut or end - start > room

    def _end_line(self, out: list[Event]) -> None:
        line = self._line.decode("utf-8", "replace")
        self._kept += len(self._line) + 1
        cut = self._line_cut
        self._line.clear()
        self._line_cut = False
        if self._kept > self._limits.total:
            self._stop(out, f"everything after {self._limits.total} bytes")
        else:
            self._take(line.removesuffix("\r"), cut, out)

    def _lines(self, text: str, out: list[Event]) -> None:
        """Take lines of which none is over a limit."""
        lines = text.split("\n")
        plain = "\r" not in text
        at = 0
        while at < len(lines) and not self._full:
            if plain and self._block is not None and not self._block.lines and (end := self._bulk(lines, at)):
                at = end
                self._close_block(out, whole=True)
                continue
            self._take(lines[at].removesuffix("\r"), False, out)
            at += 1

    def _bulk(self, lines: list[str], start: int) -> int:
        """Give the open block, still empty, all its lines and return the place after its end; 0 where that is not as
        simple as it nearly always is.
        """
        assert self._block is not None
        indent = self._block.indent
        try:
            end = lines.index(f"{indent}...", start, start + _LONG_BLOCK)
        except ValueError:
            return 0
        text = "\n".join(["", *lines[start:end]])
        if text.count(f"\n{indent}") != end - start or "..." in text:
            return 0
        text = text.replace(f"\n{indent}", "\n")[1:]
        if len(text) >= self._limits.block:
            return 0
        self._block.lines = [text]
        return end + 1

    def _take(self, line: str, cut: bool, out: list[Event]) -> None:
        if self._block is not None and self._in_block(line, cut, out):
            return
        if not line or line.isspace():
            return
        if line[0] in " \t" and (opening := _BLOCK.fullmatch(line)):
            if self._point is None and cut:
                self._emit(out, Dropped(f"the rest of a line of more than {self._limits.line} bytes"))
            self._block = _OpenBlock(opening[1])
            return
        if self._point is not None:
            self._release_point(out)
        if cut:
            self._emit(out, Dropped(f"the rest of a line of more than {self._limits.line} bytes"))
        self._place(line, out)

    def _in_block(self, line: str, cut: bool, out: list[Event]) -> bool:
        """Give a line to the open block; False when the line stands outside and so ended the block."""
        assert self._block is not None
        block = self._block
        if line.strip() and not line.startswith(block.indent):
            if not block.split_by(line):
                self._close_block(out, whole=False)
                return False
            block.size += len(line) + 1
            block.over = block.over or cut or block.size > self._limits.block
            block.strays += [line] if block.size <= self._limits.block else []
            return True
        inner = line.removeprefix(block.indent)
        if block.strays and inner.rstrip() == "---":
            self._close_block(out, whole=False)
            return False
        if inner.rstrip() == "...":
            self._close_block(out, whole=True)
            return True
        block.size += len(inner) + 1
        if cut or block.size > self._limits.block:
            block.over = True
        if block.size <= self._limits.block:
            block.lines.append(inner)
        return True

    def _close_block(self, out: list[Event], *, whole: bool) -> None:
        if self._block is None:
            return
        text, over, strays = "\n".join(self._block.lines), self._block.over, self._block.strays
        self._block = None
        value = self._read_block(text)
        whole = whole and not over
        block = Block(_read_keys(text), text, whole) if value is None else Block(value, "", whole)
        if over:
            self._emit(out, Dropped(f"the rest of a block with more than {self._limits.block} bytes in it or a line"))
        if self._point is None:
            self._emit(out, block)
        else:
            self._release_point(out, block)
        for stray in strays:
            self._emit(out, Unplaced(stray))

    def _read_block(self, text: str) -> Mapping[str, JSON] | None:
        value = _read_block(text)
        cost = len(text) + _YAML_EACH
        if value is None and cost <= self._yaml and not text.lstrip().startswith("{"):
            self._yaml -= cost
            try:
                found = parse_yaml(text)
            except ValueError:
                return None
            return found if isinstance(found, dict) else None
        return value

    def _release_point(self, out: list[Event], diagnostic: Block | None = None) -> None:
        if self._point is not None:
            point, self._point = self._point, None
            self._emit(out, TestPoint(*point, diagnostic))

    def _place(self, line: str, out: list[Event]) -> None:
        if match := _POINT.fullmatch(line):
            self._point = self._read_point(match)
        elif line[0] == "#":
            self._emit(out, Comment(line[1:].strip()))
        elif match := _PLAN.fullmatch(line):
            self._emit(out, Plan(int(match[1]), (match[2] or "").strip()))
        elif match := _VERSION.fullmatch(line):
            self._version = int(match[1])
            self._emit(out, Version(self._version))
        elif match := _BAIL.fullmatch(line):
            self._emit(out, BailOut(match[1].strip()))
        else:
            self._emit(out, Unplaced(line))

    def _read_point(self, match: re.Match[str]) -> _Point:
        no, number, text = match.groups()
        directive = reason = ""
        if "#" in text and (found := _DIRECTIVE.search(text)):
            text, directive, reason = text[: found.start()], found[1][:4].upper(), found[2].strip()
        text = text.strip()
        text = text[1:].lstrip() if text == "-" or text.startswith("- ") else text
        if self._version >= 14 and "\\" in text:
            text = re.sub(r"\\([#\\])", r"\1", text)
        return no is None, int(number) if number else None, text, directive, reason

    def _emit(self, out: list[Event], event: Event) -> None:
        if self._full:
            return
        self._events += 1
        if self._events > self._limits.events:
            self._stop(out, f"everything after {self._limits.events} events")
        else:
            out.append(event)

    def _stop(self, out: list[Event], what: str) -> None:
        """No more is read: what was held back still comes out, then the reason."""
        if self._point is not None:
            out.append(TestPoint(*self._point))
        out.append(Dropped(what))
        self._full = True
        self._point = self._block = None
        self._line.clear()
        self._line_cut = False


@dataclass(slots=True)
class _OpenBlock:
    indent: str
    lines: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)  # lines that something else printed into it
    size: int = 0
    over: bool = False

    def split_by(self, line: str) -> bool:
        """Whether a line outside its indentation stands in the middle of it: its JSON has not ended, and the line is no
        TAP. So a log on stderr ends up in a program's output.
        """
        if not self.lines or not self.lines[0].startswith("{") or self.lines[-1].rstrip() == "}":
            return False
        return line[0] not in "# \t" and not any(one.fullmatch(line) for one in (_POINT, _PLAN, _VERSION, _BAIL))


def read(data: bytes, limits: Limits | None = None) -> list[Event]:
    """Return the events of a whole output."""
    reader = Reader(limits)
    return reader.feed(data) + reader.close()


def unfinished(events: Iterable[Event]) -> str | None:
    """Return why these events are not one complete TAP stream, or None where they are.

    Complete is: one plan, test points numbered 1 to its count (or not at all), no bail-out, nothing dropped.
    """
    plans: list[int] = []
    points = 0
    misnumbered = None
    for event in events:
        match event:
            case Plan(count):
                plans.append(count)
            case TestPoint(number=number):
                points += 1
                if number not in (None, points) and misnumbered is None:
                    misnumbered = f"result {points} is numbered {number}"
            case BailOut(reason):
                return f"bailed out: {reason}" if reason else "bailed out"
            case Dropped(what):
                return f"over a size limit, dropped {what}"
    if len(plans) != 1:
        return "the output has no plan" if not plans else f"the output has {len(plans)} plans"
    if points != plans[0]:
        return f"{points} of {plans[0]} results arrived"
    return misnumbered


def _read_block(text: str) -> dict[str, JSON] | None:
    """Return the mapping that the inside of a block spells, or None where anything in it is not JSON."""
    if text.partition("\n")[0].lstrip().startswith("{"):
        try:
            value = parse_json(text)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None
    keys = _read_keys(text)
    return keys if len(keys) == sum(1 for line in text.split("\n") if line.strip()) else None


def _read_keys(text: str) -> dict[str, JSON]:
    """Return those lines of a block that read `key: JSON`; the first of two with the same key."""
    found: dict[str, JSON] = {}
    for line in text.split("\n"):
        if (match := _KEY.fullmatch(line)) and match[2] not in found:
            try:
                found[match[2]] = parse_json(match[3])
            except ValueError:
                continue
    return found

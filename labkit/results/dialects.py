"""What a file of output is read as: the dialect of TAP in it, and the programs whose results it holds.

Bytes of one file in, pieces out: the events of one program each. Pure, bounded by Limits, and nothing makes it raise.
Output of runtime-tools, one stream at column 0, goes to the reader of labkit.results.tap as it is; the rest is taken
apart here:

- results below results (TAP 14, node-tap, KTAP, kselftest): the innermost are those that count, named `outer > inner`;
  an outer line only sums them up, and one that contradicts them is a finding of its own;
- several programs in one stream (prove -v, node-tap's runner, files put after each other with their names);
- what is no TAP but says as much: youki's contest.

What each is known by: docs/reference/dialects.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TypeAlias

from labkit.core.text import one_line, truncate
from labkit.results import copies, tap
from labkit.results.copies import Note
from labkit.results.tap import BailOut, Block, Comment, Dropped, Limits, Plan, TestPoint, Unplaced, Version


@dataclass(frozen=True, slots=True)
class Inner:
    """A result below others, whose names are in parents; it counts in no plan of the outermost stream."""

    point: TestPoint
    parents: tuple[str, ...]

    @property
    def named(self) -> TestPoint:
        name = " > ".join((*self.parents, self.point.description or self.point.reason))
        return replace(self.point, description=name)


@dataclass(frozen=True, slots=True)
class Outer:
    """A result that only sums up those below it; it counts in the plan of the outermost stream."""

    point: TestPoint


@dataclass(frozen=True, slots=True)
class Broken:
    """Something about the output that does not fit together, so that it cannot show that all is well."""

    what: str


Event: TypeAlias = "tap.Event | Inner | Outer | Broken"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one program printed. program is "" for the one that the file is named after.

    status, timeout and seconds are what the output itself says of how it ended, None where it does not.
    """

    program: str
    events: tuple[Event, ...]
    status: int | None = None
    timeout: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """dialect is "" for the field's own TAP; notes say what was put right, or does not fit together."""

    dialect: str
    notes: tuple[Note, ...]
    pieces: tuple[Piece, ...]


_DEPTH = 8  # results below results below results: more is a program that prints itself
_SHOWN = 200  # characters of a name in a message

_POINT = r"(?:not )?ok\b(?=[ \t]+(?:[0-9]+\b|-[ \t]|\#)|[ \t]*$)"
_TAP = rf"(?:{_POINT}|1\.\.[0-9]|K?TAP version [0-9])"
# Cheap to look for in all of a file: each begins with a line end.
_STRUCTURED = re.compile(
    rb"\n(?:[ \t]+(?:(?:not )?ok\b|1\.\.[0-9]|K?TAP version|# Subtest)"
    rb"|KTAP version|# Subtest|# selftests:|\}[ \t]*\n|[0-9]+ / [0-9]+ : |==> [^\n]+ <==[ \t]*\n"
    rb"|(?:\[[0-9:]+\] )?[^\s#{][^\s]* \.{2,}[ \t]*(?:\n|ok|[A-Zs1-9]))"
)


def read(data: bytes, limits: Limits | None = None) -> Decoded:
    """Return what is in the output of one program, or of several in one file."""
    limits = limits or Limits()
    data, notes = copies.mend(data)
    padded = b"\n" + data + b"\n"
    if _STRUCTURED.search(padded) is None:
        events = tap.read(data, limits)
        return Decoded(_flat_dialect(events), notes, (Piece("", tuple(events)),))
    return _structured(data, limits, notes)


def _structured(data: bytes, limits: Limits, notes: tuple[Note, ...]) -> Decoded:
    over = len(data) > limits.total
    text = data[: limits.total].decode("utf-8", "replace")
    lines = [line[: limits.line].removesuffix("\r") for line in text.split("\n")]
    cut = [f"the rest of a line of more than {limits.line} bytes"] if len(max(lines, key=len)) >= limits.line else []
    if over:
        cut.append(f"everything after {limits.total} bytes")
    found: list[Note] = []
    taken = ((dialect, pieces) for dialect, reader in _READERS if (pieces := reader(lines, limits, found)) is not None)
    dialect, pieces = next(taken, ("", []))
    if not pieces:
        tree = _Level(lines, limits)
        dialect, pieces = tree.dialect(data), _programs(tree, found)
    if not dialect:
        dialect = _flat_dialect(event for piece in pieces for event in piece.events)
    pieces = _limited(pieces, limits.events)
    if cut:
        pieces[-1] = replace(pieces[-1], events=(*pieces[-1].events, *map(Dropped, cut)))
    return Decoded(dialect, (*notes, *found), tuple(pieces))


def _limited(pieces: list[Piece], most: int) -> list[Piece]:
    kept = []
    for piece in pieces:
        if len(piece.events) > most:
            piece = replace(piece, events=(*piece.events[:most], Dropped(f"everything after {most} events")))
        most -= min(len(piece.events), most)
        kept.append(piece)
    return kept


# --- TAP as it is, with something of the program's own in each line


def _flat_dialect(events: Iterable[Event]) -> str:
    """Whose way it is to tell the time of each result at the end of its line."""
    for event in events:
        match event:
            case TestPoint(description=text, reason=reason) | Inner(point=TestPoint(description=text, reason=reason)):
                if text[-1:] in ("s", ")") and (text.endswith("ms") or "(duration" in text):
                    if _BATS.search(text):
                        return "bats"
                elif "imeout after" in text and _BATS.search(text):
                    return "bats"
                if (text[-1:] == "s" and _CRUN.search(text)) or (reason[-1:] == "s" and _CRUN.search(reason)):
                    return "the TAP of crun's Python tests"
            case Comment(text) if text.startswith("(") and _BATS_PLACE.match(text):
                return "bats"
    return ""


_BATS = re.compile(r" (?:# )?in [0-9]{1,9} ?ms$|# timeout after [0-9]+ ?s|\(duration [0-9]+s\)$")
_BATS_PLACE = re.compile(r"\((?:in|from) .{0,400}(?:test )?file .{0,400}\.bats\b")
_CRUN = re.compile(r"# ?[0-9]{1,9}\.[0-9]{1,9}s$")

_UNIT = r"(?:ns|us|µs|ms|s|m|secs?|seconds?|wallclock secs)"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "m": 60.0}
_TOOK = re.compile(
    rf"\s*(?:#\s*(?:time[=:]?\s*|in\s+|took\s+|duration[=:]?\s*)?(?P<a>[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)\s?(?P<au>{_UNIT})"
    rf"|\((?:took |in |duration:? ?)?(?P<b>[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)\s?(?P<bu>{_UNIT})\)"
    rf"|(?<=\s)in (?P<c>[0-9]{{1,9}})\s?(?P<cu>ms|sec))\s*$"
)
_ENDED = re.compile(r"\s+#\s*(timeout\b|xfail\b|error\b|exit=[0-9]{1,3})[:\s]*(.*)$", re.IGNORECASE | re.DOTALL)


def settled(point: TestPoint) -> tuple[TestPoint, float]:
    """A point without what its line says of time, and the seconds of that; with the directives that only KTAP and bats
    have: XFAIL is TODO, TIMEOUT and ERROR are their own.
    """
    text, reason, seconds = point.description, point.reason, 0.0
    if text[-1:] in "smc)}" or reason[-1:] in "smc)}":
        text, seconds = _without_time(text)
        reason, more = _without_time(reason)
        seconds = seconds or more
    directive = point.directive
    if "#" in text and not directive and (match := _ENDED.search(text)):
        word = match[1].upper()
        text, reason = text[: match.start()], match[2].strip()
        if word.startswith("EXIT="):
            reason = word.lower()
        elif word == "XFAIL":
            directive = "TODO"
        elif not point.ok:
            directive, reason = word, reason or word.lower()
        text, more = _without_time(text)
        seconds = seconds or more
    if text is point.description and reason is point.reason:
        return point, seconds
    return replace(point, description=text, directive=directive, reason=reason), seconds


def _without_time(text: str) -> tuple[str, float]:
    match = _TOOK.search(text[-80:]) if text[-1:] in "smc)" else None
    if match is None:
        return text, 0.0
    group = match.lastgroup[0] if match.lastgroup else "a"
    return text[: len(text) - len(match[0])], float(match[group]) * _SECONDS.get(match[group + "u"], 1.0)


# --- youki's contest: `2 / 2 : NAME : not ok`, one group after the other

_CONTEST = re.compile(r"([0-9]{1,9}) / ([0-9]{1,9}) : (.*?) : (\S.*?)\s*")
_GROUP = re.compile(r"# (Start|End) group (.*?)\s*")


def _contest(lines: Sequence[str], limits: Limits, notes: list[Note]) -> list[Piece] | None:
    if not any(_CONTEST.fullmatch(line) for line in lines):
        return None
    events: list[Event] = []
    group, done, planned, opened = "", 0, 0, False
    message: list[str] | None = None
    last: tuple[bool, str, str, str] | None = None  # ok, name, directive, what else it says

    def end_test() -> None:
        nonlocal last
        if last is not None:
            ok, name, directive, said = last
            told = "\n".join(filter(None, [said, *(message or [])])).strip()
            reason = told if directive else ""
            block = Block({"message": truncate(told, 20_000)}) if told and not directive and not ok else None
            events.append(TestPoint(ok, None, name, directive, reason, block))
            if ok and not directive and message:
                events.extend(Comment(line) for line in message)
        last = None

    def end_group() -> None:
        nonlocal done, planned, opened
        end_test()
        if done != planned:
            events.append(Broken(f"group {one_line(group, _SHOWN)!r}: {done} of {planned} results arrived"))
        elif opened:
            events.append(Broken(f"group {one_line(group, _SHOWN)!r} did not end"))
        done = planned = 0
        opened = False

    for line in lines:
        if match := _GROUP.fullmatch(line):
            end_test()
            if match[1] == "Start":
                end_group()
                group, opened = match[2], True
            else:
                opened = False
                end_group()
                group = ""
            message = None
        elif match := _CONTEST.fullmatch(line):
            end_test()
            number, count, name, word = int(match[1]), int(match[2]), match[3], match[4]
            if number == 1 and done and not opened:
                end_group()
            done, planned = done + 1, count
            full = f"{group}: {name}" if group and group != name else name
            said = "" if word in ("ok", "not ok", "skipped") else word
            last = (word in ("ok", "skipped"), full, "SKIP" if word == "skipped" else "", said)
            message = []
        elif message is not None and last is not None:
            message.append(line.strip())
        elif line.strip():
            events.append(Unplaced(line))
    end_group()
    events.append(Plan(sum(isinstance(event, TestPoint) for event in events)))
    return [Piece("", tuple(events))]


# --- prove: a header for each program, its output where -v was given, a word on it

_HEADER = re.compile(r"(?:\[[0-9:]+\] )?(\S+) \.{2,}[ \t]*(.*?)\s*")
_PROVED = re.compile(
    r"(?:ok(?:\s+[0-9.]+ m?s.*)?|skipped: .*|Failed [0-9]+/[0-9]+ subtests.*|All [0-9]+ subtests passed.*"
    r"|No subtests run.*|Dubious, test returned .*|Tests were run but no plan.*|Timeout.*|\s+\(less .*\)"
    r"|\s+\([0-9]+ TODO .*\))\s*"
)
_DUBIOUS = re.compile(r"Dubious, test returned ([0-9]{1,3})(?: \(wstat ([0-9]{1,6}))?")
_SUMMARY = re.compile(r"(?:Test Summary Report|All tests successful\.?|Files=[0-9]+, Tests=.*|Result: \w+)\s*")


def _prove(lines: Sequence[str], limits: Limits, notes: list[Note]) -> list[Piece] | None:
    lines = list(lines)
    starts: list[tuple[int, str, str]] = []
    summary = next((at for at, line in enumerate(lines) if _SUMMARY.fullmatch(line)), len(lines))
    for at, line in enumerate(lines[:summary]):
        match = _HEADER.fullmatch(line)
        if match is None or not (summary < len(lines) or _program_name(match[1])):
            continue
        if not match[2] or _PROVED.fullmatch(match[2]) or re.match(r"[0-9]+/[0-9?]+", match[2]):
            if starts and match[1] == starts[-1][1]:
                lines[at] = match[2]  # the counter that a terminal shows, printed over
            else:
                starts.append((at, match[1], match[2]))
    if not starts:
        return None
    names = _names([name for _, name, _ in starts])
    pieces = []
    ends = [start[0] for start in starts[1:]] + [summary]
    for (at, _, word), end, name in zip(starts, ends, names, strict=True):
        pieces.append(_proved(name, word, lines[at + 1 : end], limits, notes))
    rest = [*lines[: starts[0][0]], *lines[summary:]]
    result = next((match[1] for line in rest if (match := re.fullmatch(r"Result: (\w+)\s*", line))), "")
    own: list[Event] = []
    if result not in ("", "PASS") and not any(_wrong(piece) for piece in pieces):
        own.append(Broken(f"prove says {result}, and no program in it does"))
        notes.append(Note("prove contradicts what its programs printed", f"Result: {result}"))
    elif not result and summary == len(lines):
        own.append(Broken("it ends before prove's summary"))
    return [*pieces, *([Piece("", tuple(own))] if own else [])]


def _proved(name: str, word: str, lines: Sequence[str], limits: Limits, notes: list[Note]) -> Piece:
    """One program: what it printed, then what prove says of it."""
    said = [word] if word and _PROVED.fullmatch(word) else []
    lines = list(lines)
    while lines and (not lines[-1].strip() or _PROVED.fullmatch(lines[-1])):
        if lines[-1].strip():
            said.insert(0, lines[-1].strip())
        lines.pop()
    tree = _Level(lines, limits)
    events = tuple(tree.events(notes))
    status, timeout = None, any(text.startswith("Timeout") for text in said)
    for text in said:
        if match := _DUBIOUS.match(text):
            status = int(match[1])
            if not status and match[2]:
                status = 128 + (int(match[2]) & 127)  # ended by a signal
    # An exit status of 1 says no more than its results, where one of them is bad.
    piece = Piece(name, events, None if any(map(_is_bad, events)) else status, timeout)
    good = any(re.match(r"ok\b", text) for text in said)
    skipped = next((text.partition(": ")[2] for text in said if text.startswith("skipped:")), None)
    points = any(isinstance(event, TestPoint | Inner) for event in events)
    extra: list[Event] = []
    if not said:
        extra.append(Broken("prove says nothing of how it ended"))
    elif good and _wrong(piece):
        extra.append(Broken("prove says ok, and a result of it does not"))
        notes.append(Note("prove contradicts what its programs printed", f"{name}: ok"))
    elif not points and skipped is None and not any(line.strip() for line in lines) and (good or "Failed" in said[0]):
        block = None if good else Block({"message": said[0]})
        extra += [TestPoint(good, None, "its tests, as prove counts them", diagnostic=block), Plan(1)]
    elif skipped is not None and not points:
        extra += [] if any(isinstance(event, Plan) for event in events) else [Plan(0, skipped or "skipped")]
    elif not good and skipped is None and not status and not timeout and not _wrong(piece):
        extra.append(Broken(f"prove says: {'; '.join(said)}"))
    return replace(piece, events=(*events, *extra))


def _wrong(piece: Piece) -> bool:
    return bool(piece.status) or piece.timeout or any(map(_is_bad, piece.events))


def _is_bad(event: Event) -> bool:
    match event:
        case TestPoint(ok=ok, directive=directive) | Inner(point=TestPoint(ok=ok, directive=directive)):
            return not ok and directive not in ("SKIP", "TODO")
        case Broken() | BailOut() | Dropped():
            return True
    return False


# --- files put after each other: `==> NAME <==`, as head and tail write

_HEAD = re.compile(r"==> (.+?) <==\s*")


def _joined(lines: Sequence[str], limits: Limits, notes: list[Note]) -> list[Piece] | None:
    starts = [(at, match[1]) for at, line in enumerate(lines) if (match := _HEAD.fullmatch(line))]
    if not starts:
        return None
    pieces: list[Piece] = []
    if any(line.strip() for line in lines[: starts[0][0]]):
        pieces.append(Piece("", tuple(_Level(lines[: starts[0][0]], limits).events(notes))))
    ends = [at for at, _ in starts[1:]] + [len(lines)]
    names = _names([name for _, name in starts])
    for (at, _), end, name in zip(starts, ends, names, strict=True):
        pieces.append(Piece(name, tuple(_Level(lines[at + 1 : end], limits).events(notes))))
    return pieces


_Reader: TypeAlias = "Callable[[Sequence[str], Limits, list[Note]], list[Piece] | None]"
_READERS: tuple[tuple[str, _Reader], ...] = (
    ("youki's contest, which is no TAP", _contest),
    ("prove", _prove),
    ("files put after each other", _joined),
)


# --- results below results

_CHUNK = re.compile(rf"([ \t]+)(?:{_TAP}|Bail out!|# Subtest\b)")
_COMMENTED = re.compile(rf"# ?{_TAP}")
_OPENING = re.compile(rf"({_POINT}.*?)[ \t]*\{{[ \t]*")
_BLOCK = re.compile(r"([ \t]+)---\s*")
_SUMS = re.compile(  # comments that say again what the results say
    r"Subtest: |selftests: |# |Totals: "
    r"|(?:timeout set to|time=|tests|pass|fail|skip|todo|cancelled|suites|duration_ms) ?[0-9.]+(?:ms)?$"
    r"|(?:failed|passed|skipped|todo):? [0-9]+(?: of [0-9]+)?(?: tests?)?$"
)


@dataclass(slots=True)
class _Node:
    """A result, the levels below it, and what followed it: its blocks, comments and stray lines."""

    point: TestPoint
    below: list[_Level] = field(default_factory=list)
    after: list[tap.Event] = field(default_factory=list)
    buffered: bool = False


class _Level:
    """The results of one stream, or of one after the other, with what is below each."""

    def __init__(self, lines: Sequence[str], limits: Limits, depth: int = 0, children_first: bool = False) -> None:
        self.before: list[tap.Event] = []  # what came before the first result
        self.nodes: list[_Node] = []
        self.plans: list[Plan] = []
        self.unclaimed: list[_Level] = []  # results below a line that never came
        self.buffered = False
        self._limits, self._depth = limits, depth
        self._reader = tap.Reader(limits)
        self._waiting: list[_Level] = []
        self._children_first = children_first or any(
            line.startswith(("KTAP version", "# selftests:")) for line in lines
        )
        self._take(lines)
        self.unclaimed = self._waiting

    def _take(self, lines: Sequence[str]) -> None:
        at, block = 0, ""
        flat: list[str] = []
        while at < len(lines):
            line = lines[at]
            if block:
                if not line.strip() or line.startswith(block):
                    block = "" if line.removeprefix(block).rstrip() == "..." else block
                    flat.append(line)
                    at += 1
                    continue
                block = ""
            if match := _BLOCK.fullmatch(line):
                block = match[1]
            elif self._depth < _DEPTH and (found := self._below(lines, at)):
                end, opening, inner = found
                if opening:
                    flat.append(opening)
                self._flush(flat)
                level = _Level(inner, self._limits, self._depth + 1, self._children_first)
                if opening and self.nodes:
                    self.nodes[-1].below.append(level)
                    self.nodes[-1].buffered = self.buffered = True
                else:
                    self._waiting.append(level)
                at = end
                continue
            flat.append(line)
            at += 1
        self._flush(flat)

    def _below(self, lines: Sequence[str], at: int) -> tuple[int, str, list[str]] | None:
        """The place after the results that begin at a line below this level, the line that opens them, and their lines
        as if they stood alone.
        """
        line = lines[at]
        if line.rstrip().endswith("{") and (match := _OPENING.fullmatch(line)):
            end = next((n for n in range(at + 1, len(lines)) if lines[n] and lines[n][0] not in " \t"), len(lines))
            if end < len(lines) and lines[end].rstrip() == "}":
                inner = lines[at + 1 : end]
                indent = min((_indent(one) for one in inner if one.strip()), key=len, default="")
                return end + 1, match[1], [one.removeprefix(indent) for one in inner]
        if match := _CHUNK.match(line):
            indent = match[1]
            end = at
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith(indent)):
                end += 1
            return end, "", [one.removeprefix(indent) for one in lines[at:end]]
        if self._children_first and _COMMENTED.match(line):
            end = at
            while end < len(lines) and lines[end].startswith("#"):
                end += 1
            return end, "", [one[1:].removeprefix(" ") for one in lines[at:end]]
        return None

    def _flush(self, flat: list[str]) -> None:
        text = "".join(f"{line}\n" for line in flat)
        flat.clear()
        for event in [*self._reader.feed(text.encode("utf-8", "replace")), *self._reader.close()]:
            if isinstance(event, TestPoint):
                self.nodes.append(_Node(event, self._waiting))
                self._waiting = []
            elif (isinstance(event, Unplaced) and event.text.startswith("KTAP version")) or (
                isinstance(event, Comment) and (not event.text or _SUMS.match(event.text))
            ):
                continue
            elif isinstance(event, Plan):
                self.plans.append(event)
                self._add(event)
            elif isinstance(event, Block) and self.nodes and self.nodes[-1].buffered and not self.nodes[-1].after:
                node = self.nodes[-1]
                node.point = replace(node.point, diagnostic=node.point.diagnostic or event)
            else:
                self._add(event)

    def _add(self, event: tap.Event) -> None:
        (self.nodes[-1].after if self.nodes else self.before).append(event)

    @property
    def deep(self) -> bool:
        return bool(self.unclaimed) or any(node.below for node in self.nodes)

    def dialect(self, data: bytes) -> str:
        if re.search(rb"^[# \t]*KTAP version", data, re.MULTILINE) or self._children_first:
            return "KTAP"
        if any(level.buffered for level in self._levels()):
            return "node-tap"
        return "TAP 14 with subtests" if self.deep else ""

    def _levels(self) -> Iterator[_Level]:
        yield self
        for node in self.nodes:
            for level in node.below:
                yield from level._levels()
        for level in self.unclaimed:
            yield from level._levels()

    # --- what it comes to

    def problem(self) -> str | None:
        """Why this stream is not whole, or None where it is. The plans of several that follow each other add up."""
        if not self.plans:
            return "no plan" if self.nodes else None
        planned = sum(plan.count for plan in self.plans)
        return None if planned == len(self.nodes) else f"{len(self.nodes)} of {planned} results"

    def events(self, notes: list[Note]) -> Iterator[Event]:
        """The outermost level: its events in order, with those below each result."""
        yield from self.before
        for node in self.nodes:
            yield from _of_node(node, (), notes)
            yield from node.after
        yield from self._rest((), notes)

    def inner(self, parents: tuple[str, ...], notes: list[Note], todo: bool = False) -> Iterator[Event]:
        """A level below a result: its results as Inner, and what is wrong with it."""
        for event in self.before:
            if not isinstance(event, Plan | Version):
                yield event
        for node in self.nodes:
            yield from _of_node(node, parents, notes, todo)
            yield from (event for event in node.after if not isinstance(event, Plan | Version))
        if problem := self.problem():
            yield Broken(f"below {_shown(parents[-1])}: {problem}" if parents else f"below no result: {problem}")
        yield from self._rest(parents, notes)

    def _rest(self, parents: tuple[str, ...], notes: list[Note]) -> Iterator[Event]:
        for level in self.unclaimed:
            inner = list(level.inner(parents, notes))
            yield from inner
            if any(isinstance(event, Inner) for event in inner):
                yield Broken("results stand below a line that never came")


def _of_node(node: _Node, parents: tuple[str, ...], notes: list[Note], todo: bool = False) -> Iterator[Event]:
    point, _ = settled(node.point)
    if todo and not point.ok and not point.directive:
        point = replace(point, directive="TODO")
    if not node.below:
        yield Inner(point, parents) if parents or todo else node.point
        return
    name = point.description or f"result {point.number}"
    todo = todo or point.directive == "TODO"
    inner = [event for level in node.below for event in level.inner((*parents, name), notes, todo)]
    yield from inner
    bad = next((event for event in inner if _is_bad(event)), None)
    shown = any(isinstance(event, Inner) for event in inner)
    if point.ok and not point.directive and (bad is not None or not shown):
        why = _contradiction(bad)
        notes.append(Note("a result says ok over others that do not", f"{_line(point)}, {why}"))
        point = replace(point, ok=False, directive="ERROR", reason=f"it says ok, {why}")
    elif shown and (point.directive == "SKIP" or point.ok or (bad is not None and point.directive != "TIMEOUT")):
        yield from [] if parents else [Outer(point)]  # all that it says is below it
        return
    if parents:
        yield Inner(point, parents)
    else:
        yield point


def _contradiction(bad: Event | None) -> str:
    match bad:
        case Inner(point=point):
            return f"and below it is `{_line(point)}`"
        case Broken(what):
            return f"and {what}"
        case None:
            return "and nothing is below it"
    return "and what is below it is cut off"


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _line(point: TestPoint) -> str:
    number = f" {point.number}" if point.number is not None else ""
    return one_line(f"{'' if point.ok else 'not '}ok{number} {point.description}".strip(), _SHOWN)


def _shown(name: str) -> str:
    return one_line(name, _SHOWN)


# --- several programs in one stream

_PROGRAM = re.compile(
    r"(?P<path>(?:[\w.@+-]+/)*[\w@+-][\w.@+-]*)\.(?:t|tap|bats|sh|py|rb|pl|go|[mc]?[jt]s|php|lua|test)"
    r"|(?P<bare>(?:[\w.@+-]+/)*(?P<last>[\w@+-]+)/(?P=last)|validation/[\w@+-]+)"
)


def _program_name(text: str) -> str:
    """The name of the program that a line is about, "" where it is about none: `validation/delete/delete.t`."""
    match = _PROGRAM.fullmatch(text)
    return PurePosixPath(match["path"] or match["bare"]).name if match else ""


def _names(paths: Sequence[str]) -> list[str]:
    """Names for programs by their paths: the last part without its ending, or all of it where that is not enough."""
    names = [_program_name(path) or re.sub(r"\.(?:t|tap|log|txt|out)$", "", PurePosixPath(path).name) for path in paths]
    paths_of: dict[str, set[str]] = {}
    for name, path in zip(names, paths, strict=True):
        paths_of.setdefault(name, set()).add(path)
    chosen = [name if len(paths_of[name]) == 1 else path for name, path in zip(names, paths, strict=True)]
    return [re.sub(r"[^\w.@+/-]+", "_", name)[:_SHOWN] or "unnamed" for name in chosen]


def _programs(tree: _Level, notes: list[Note]) -> list[Piece]:
    """A piece for each program that a result of the outermost level is about, and one for all else."""
    about = [settled(node.point)[0].description for node in tree.nodes]
    if not any(node.below and _program_name(name) for node, name in zip(tree.nodes, about, strict=True)):
        return [Piece("", tuple(tree.events(notes)))]
    paths = [name if _program_name(name) else "" for name in about]
    names = iter(_names([path for path in paths if path]))
    pieces: list[Piece] = []
    own: list[Event] = []
    for node, path in zip(tree.nodes, paths, strict=True):
        if path:
            pieces.append(_program(next(names), node, notes))
        else:
            own += _of_node(node, (), notes)
            own += (event for event in node.after if isinstance(event, BailOut | Dropped))
        if path:
            own += (event for event in node.after if isinstance(event, BailOut | Dropped))
    own += (event for event in tree.before if isinstance(event, BailOut | Dropped))
    own += tree._rest((), notes)
    if problem := tree.problem():
        own.append(Broken(f"of its programs: {problem}"))
    elif own:
        own.append(Plan(sum(isinstance(event, TestPoint | Outer) for event in own)))
    return [*pieces, *([Piece("", tuple(own))] if own else [])]


def _program(name: str, node: _Node, notes: list[Note]) -> Piece:
    point, seconds = settled(node.point)
    events: list[Event] = [event for level in node.below for event in level.events(notes)]
    for level in node.below:
        if (problem := level.problem()) and level.nodes and not level.plans:
            events.append(Broken(problem))
    said = point.diagnostic.value if point.diagnostic else {}
    code, gone = said.get("exitCode"), said.get("signal")
    status = code if isinstance(code, int) and not isinstance(code, bool) and 0 < code < 256 else None
    timeout = point.directive == "TIMEOUT" or "expired" in said
    bad = any(map(_is_bad, events))
    points = any(isinstance(event, TestPoint | Inner) for event in events)
    if point.directive == "SKIP" and not points:
        events = [Plan(0, point.reason or "skipped")]
    elif point.ok and bad and not point.directive:
        why = _contradiction(next(event for event in events if _is_bad(event)))
        notes.append(Note("a result says ok over others that do not", f"{_line(point)}, {why}"))
        events.append(Broken(f"the line that sums it up says ok, {why}"))
    elif not point.ok and not bad and point.directive != "TODO" and not status and not timeout:
        how = f": {one_line(str(gone), 40)}" if isinstance(gone, str) and gone else ""
        events.append(Broken(f"the line that sums it up says not ok{how}"))
    notes_after = [event for event in node.after if isinstance(event, Comment | Unplaced | Block)]
    return Piece(name, (*events, *notes_after), None if bad else status, timeout, seconds)

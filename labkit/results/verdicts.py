"""The verdicts of one upstream program, from its TAP events, its exit status and its stderr. Pure.

The upstream programs (runtime-tools' validation) print TAP in a dialect of their own; each quirk is handled here and
has a test of its own in tests/test_verdicts.py:

- a block belongs to the test line before it, except the output of a runtimetest inside a container, which stands before
  the line that it is about; a block may also follow its line after a stray line, or belong to none;
- `# expect: A, actual: B` and `Refer to: URL` after a test line belong to that line;
- a second stream may follow, with `TAP version` or without, its numbers starting over and with a plan of its own;
- a program that gives up exits non-zero, and may give the reason, even a violation, on stderr only;
- some programs report only in blocks that belong to no test line, and so can neither pass nor fail.

A line that says `ok` over a runtimetest that failed, or that has no plan, is no pass. Nor is a program one whose output
says `not ok` where it cannot be read. Dialects of others come from labkit.results.dialects as events of the same kind.
"""

from __future__ import annotations

import functools
import hashlib
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from labkit.core.text import one_line, truncate
from labkit.results import dialects, tap
from labkit.results.copies import Note
from labkit.results.dialects import Broken, Event, Inner, Outer, Piece
from labkit.results.model import URGENCY, WHOLE, Program, Result, Verdict, is_duration
from labkit.results.tap import JSON, BailOut, Block, Comment, Dropped, Plan, TestPoint, Unplaced, Version

NAMELESS = "(no description)"  # the name of an assertion whose line has none: `ok 1 - `
_LONGEST = 20_000  # characters of one text that is kept as evidence; raw/ has all of it
_REFERENCE = re.compile(r"\s*Refer to: (\S+)\s*")
_COMPARED = re.compile(r"expect: (.*), actual: (.*)", re.DOTALL)
_LEVEL = re.compile(r"\b(MUST|SHALL|REQUIRED|SHOULD|RECOMMENDED)\b")  # RFC 2119, as the descriptions quote it
_TIMEOUT_STATUS = 124  # of timeout(1)


@dataclass(frozen=True, slots=True)
class End:
    """How a program ended: status, or the signal that ended it; neither where its sandbox died with it.

    unknown is for recorded output without exit statuses.
    """

    status: int | None = None
    signal: int | None = None
    timeout: bool = False
    seconds: float = 0.0
    left: tuple[str, ...] = ()
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """results has one per assertion, and one more where the program as a whole has a finding of its own."""

    program: Program
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class File:
    """What a file of output comes to: the programs in it, most often one, and what a person should know of the reading.
    dialect is as in Decoded.
    """

    judged: tuple[Judged, ...]
    dialect: str
    notes: tuple[Note, ...]


@dataclass(slots=True)
class _Point:
    """A test line with everything in the output that belongs to it."""

    point: TestPoint
    diagnostic: dict[str, JSON]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class _Stream:
    first: int | None = None  # the number of its first result
    count: int = 0
    plans: list[int] = field(default_factory=list)

    @property
    def begun(self) -> bool:
        return bool(self.count or self.plans)

    @property
    def whole(self) -> bool:
        return self.plans == [self.count]

    def problem(self) -> str | None:
        if self.whole or not self.begun:
            return None
        if len(self.plans) != 1:
            return f"a stream with {len(self.plans)} plans" if self.plans else "no plan"
        return f"printed {self.count} of {self.plans[0]} planned results"


@dataclass(slots=True)
class _Output:
    """The events of an output, sorted by what they belong to."""

    streams: list[_Stream]
    points: list[_Point]
    orphans: list[Block]
    strays: list[str]
    problems: list[str]
    unread: list[str] = field(default_factory=list)  # lines that say `not ok` and are no result
    skipped: str = ""  # the reason of `1..0 # SKIP reason`
    empty: bool = True


def read(
    name: str, data: bytes, stderr: str, end: End | None, *, silent: bool = False, limits: tap.Limits | None = None
) -> File:
    """Return what the output of the program name comes to, in whatever dialect it is; it may hold several programs.

    Where it does, end is of what ran them, and counts where none of them accounts for it. Never raises.
    """
    decoded = dialects.read(data, limits)
    notes = list(decoded.notes)
    if len(decoded.pieces) == 1 and not decoded.pieces[0].program:
        judged = [judge(name, decoded.pieces[0].events, stderr, end, silent=silent)]
    else:
        judged = [_piece(piece) for piece in decoded.pieces if piece.program]
        own = next((piece for piece in decoded.pieces if not piece.program), Piece("", ()))
        accounted = end is not None and bool(end.status) and any(one.program.verdict.bad for one in judged)
        ended = End(unknown=True, seconds=end.seconds) if end is not None and accounted else end
        if own.events or (_bad_end(ended) is not None):
            judged.append(judge(name, own.events, stderr, ended))
    read_as_tap = any(isinstance(event, _READ) for piece in decoded.pieces for event in piece.events)
    if not read_as_tap and (line := _first_line(decoded.pieces)):
        notes.append(Note("no TAP is in it", line))
    notes += [
        Note(f"`ok` is said over {over}", one_line(result.name, 200))
        for one in judged for result in one.results if isinstance(over := result.diagnostic.get("over"), str)
    ]  # fmt: skip
    return File(tuple(judged), decoded.dialect, tuple(notes))


_READ = (TestPoint, Inner, Outer, Plan, Block, BailOut, Version)


def _first_line(pieces: Iterable[Piece]) -> str:
    lines = (event.text for piece in pieces for event in piece.events if isinstance(event, Unplaced | Comment))
    return next((line.strip() for line in lines if line.strip()), "")


def _piece(piece: Piece) -> Judged:
    end = End(piece.status, None, piece.timeout, piece.seconds, (), unknown=piece.status is None)
    if piece.status is not None and 128 < piece.status < 193:
        end = replace(end, status=None, signal=piece.status - 128)
    return judge(piece.program, piece.events, "", end)


def judge(name: str, events: Iterable[Event], stderr: str, end: End | None, *, silent: bool = False) -> Judged:
    """Return the verdicts that a program's output comes to. Never raises, whatever is in it.

    end is None where the program did not finish. silent is for a program that passes by printing nothing at all.
    """
    output = _sort(events)
    taken: Counter[tuple[str, str, str]] = Counter()
    results = [_assertion(name, point, taken, stderr) for point in output.points]
    whole = _whole(name, output, stderr, end, [result.verdict for result in results], silent=silent)
    seconds = end.seconds if end else 0.0
    if whole is not None:
        results.append(replace(whole, seconds=seconds))
        verdict = whole.verdict
    else:
        verdict = _together([result.verdict for result in results])
    left = end.left if end else ()
    return Judged(Program(name, verdict, seconds, end.status if end else None, (), left), tuple(results))


def repeated(attempts: list[Judged]) -> Judged:
    """Return the worst of several attempts of one program, with the verdicts of all; the first of equals."""
    if len(attempts) == 1:
        return attempts[0]
    worst = min(attempts, key=lambda judged: URGENCY[judged.program.verdict])
    verdicts = tuple(judged.program.verdict for judged in attempts)
    return replace(worst, program=replace(worst.program, attempts=verdicts))


def _together(verdicts: list[Verdict]) -> Verdict:
    """The verdict of a program that has nothing but assertions: fail if any failed, else pass if any passed."""
    for verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT, Verdict.PASS, Verdict.TODO, Verdict.SKIP):
        if verdict in verdicts:
            return verdict
    return Verdict.NO_ASSERTIONS


# --- events to their places


def _sort(events: Iterable[Event]) -> _Output:
    output = _Output([_Stream()], [], [], [], [])
    last: _Point | None = None  # the line that a block, comment or stray line may belong to
    ahead: Block | None = None  # the output of a runtimetest, which belongs to the next line
    says_not: list[str] = []  # lines since then that say `not ok`
    failed = False  # whether the last line that is a result did
    for event in events:
        output.empty = False
        stream = output.streams[-1]
        match event:
            case TestPoint() | Outer() | Inner():
                point = (
                    event.named if isinstance(event, Inner) else event if isinstance(event, TestPoint) else event.point
                )
                if not isinstance(event, Inner):
                    if stream.count and ((point.number == 1 and stream.first == 1) or stream.whole):
                        output.streams.append(stream := _Stream())
                    stream.first = point.number if not stream.count else stream.first
                    stream.count += 1
                if says_not and (failed or not point.ok):
                    says_not = []  # it is about one of the results that did fail
                output.unread += says_not
                says_not, failed = [], not point.ok
                if isinstance(event, Outer):
                    continue
                point, seconds = dialects.settled(point)
                last = _Point(point, {}, output.strays, seconds)
                output.strays = []
                output.points.append(last)
                if ahead is not None:
                    last.diagnostic |= _diagnostic(ahead)
                ahead = None
                if point.diagnostic is not None and _of_runtimetest(point.diagnostic):
                    ahead = point.diagnostic
                elif point.diagnostic is not None:
                    last.diagnostic |= _diagnostic(point.diagnostic)
            case Block():
                if _of_runtimetest(event):
                    output.orphans += [ahead] if ahead is not None else []
                    ahead = event
                elif last is not None and not last.diagnostic:
                    last.diagnostic |= _diagnostic(event)
                else:
                    output.orphans.append(event)
            case Comment(text) | Unplaced(text):
                if last is not None:
                    last.notes.append(text)
                else:
                    output.strays.append(text)
                text = text.replace("\0", "") if "\0" in text else text
                if "not ok" in text and (isinstance(event, Unplaced) or _COMMENTED.match(text)):
                    says_not.append(text)
            case Plan(count, reason):
                output.skipped = output.skipped or reason
                # A plan ends a stream, or begins one: then the stream before it has its own.
                if stream.whole and stream.begun:
                    output.streams.append(stream := _Stream())
                stream.plans.append(count)
                last = None
            case Version():
                if stream.begun:
                    output.streams.append(_Stream())
                last = None
            case BailOut(reason):
                output.problems.append(f"bailed out: {reason}".removesuffix(": "))
            case Dropped(what):
                output.problems.append(f"it printed too much; dropped {what}")
            case Broken(what):
                output.problems.append(what)
    output.unread += [] if failed else says_not
    output.orphans += [ahead] if ahead is not None else []
    if output.points:
        output.points[-1].notes.extend(output.strays)
    return output


_COMMENTED = re.compile(r"[#\s]*not ok\b")


def _of_runtimetest(block: Block) -> bool:
    """True for what RuntimeInsideValidate prints: the stdout and stderr of a runtimetest in a container, nothing else.

    https://github.com/opencontainers/runtime-tools/blob/master/validation/util/test.go
    """
    return isinstance(block.value.get("stdout"), str) and block.value.keys() <= {"stdout", "stderr", "error"}


def _diagnostic(block: Block) -> dict[str, JSON]:
    diagnostic = dict(_inside(block)) if _of_runtimetest(block) else _named(block.value)
    if block.text:
        diagnostic["text"] = truncate(block.text, _LONGEST)
    if not block.whole:
        diagnostic["cut"] = True
    return diagnostic


def _named(value: Mapping[str, JSON]) -> dict[str, JSON]:
    """A block under the names that reports know: TAP 13 says found and wanted, node-tap got and expected."""
    named = dict(value)
    for theirs, ours in (("found", "actual"), ("got", "actual"), ("wanted", "expected"), ("want", "expected")):
        if theirs in named and ours not in named:
            named[ours] = named.pop(theirs)
    return named


def _inside(block: Block) -> Iterator[tuple[str, JSON]]:
    """What the runtimetest in a container found; its passes are counted, its failures listed."""
    stdout = str(block.value["stdout"])
    inner = tap.read(stdout.encode("utf-8", "replace"))
    points = [event for event in inner if isinstance(event, TestPoint)]
    count = Counter(_verdict(point).value for point in points)
    yield "inside", dict(count)
    failures: list[JSON] = []
    for point in points:
        if _verdict(point) is Verdict.FAIL:
            diagnostic = point.diagnostic.value if point.diagnostic else {}
            compared = {key: diagnostic[key] for key in ("expected", "actual", "reference") if key in diagnostic}
            failures.append({"what": point.description, **compared})
    if failures:
        yield "failures", failures
    for key in ("error", "stderr"):
        if block.value.get(key):
            yield key, block.value[key]
    if reason := tap.unfinished(inner):
        yield "message", f"runtimetest in the container ended early: {reason}"
        yield "stdout", truncate(stdout, _LONGEST)
        yield "over", "a runtimetest that ended early"
    elif failures:
        yield "over", "a runtimetest that failed"


# --- places to results


def _verdict(point: TestPoint) -> Verdict:
    match point.directive:
        case "SKIP":
            return Verdict.SKIP
        case "TODO":
            return Verdict.TODO
        case "TIMEOUT":
            return Verdict.TIMEOUT
        case "ERROR":
            return Verdict.ERROR
    return Verdict.PASS if point.ok else Verdict.FAIL


def _assertion(program: str, found: _Point, taken: Counter[tuple[str, str, str]], stderr: str) -> Result:
    point, diagnostic = found.point, dict(found.diagnostic)
    reference, level = diagnostic.pop("reference", ""), diagnostic.pop("level", "")
    notes: list[JSON] = []
    for note in found.notes:
        if match := _REFERENCE.fullmatch(note):
            reference = reference or match[1]
        elif (match := _COMPARED.fullmatch(note)) and "actual" not in diagnostic:
            diagnostic |= {"expected": match[1], "actual": match[2]}
        else:
            notes.append(truncate(note, _LONGEST))
    if notes:
        diagnostic["notes"] = notes
    if point.reason:
        diagnostic["reason"] = truncate(point.reason, _LONGEST)
    verdict = _verdict(point)
    over = diagnostic.pop("over", None)
    if over is not None and verdict is Verdict.PASS:
        # The line contradicts what is below it, and that ran inside the container.
        verdict = Verdict.FAIL if diagnostic.get("failures") else Verdict.ERROR
        diagnostic["over"] = over
        diagnostic.setdefault("message", f"it says ok over {over}")
    if verdict in (Verdict.ERROR, Verdict.TIMEOUT) and point.reason:
        diagnostic.setdefault("message", truncate(point.reason, 2000))
    if verdict is Verdict.FAIL and not diagnostic.keys() & {"message", "actual", "failures"}:
        # Some print only `not ok 1 - exit status 1` on stdout; the runtime's message is on the program's stderr.
        diagnostic["message"] = (
            _why(diagnostic) or "; ".join(map(str, notes)) or _why({"stderr": stderr}) or "no reason given"
        )
    # `ok 3 # SKIP linux.sysctl not set` has no other name than its reason.
    name = truncate(point.description or (point.reason if point.directive else ""), 1000) or NAMELESS
    result = Result(
        id="",
        name=f"{name} " if name == WHOLE else name,
        level=_level(level, point.description),
        reference=truncate(reference, 400) if isinstance(reference, str) else "",
        verdict=verdict,
        seconds=found.seconds or _duration(diagnostic),
        diagnostic=diagnostic,
        program=program,
    )
    return replace(result, id=_id(result, taken))


def _duration(diagnostic: dict[str, JSON]) -> float:
    """Seconds, from the key that TAP 13's producers agree on."""
    value = diagnostic.get("duration_ms")
    return value / 1000 if is_duration(value) else 0.0


def _id(result: Result, taken: Counter[tuple[str, str, str]]) -> str:
    """An id that is the same in every run; those of one identity are numbered as they come."""
    identity = result.identity
    taken[identity] += 1
    return f"{result.program}/{_digest(identity)}" + (f".{taken[identity]}" if taken[identity] > 1 else "")


@functools.lru_cache(10_000)
def _digest(identity: tuple[str, str, str]) -> str:
    return hashlib.sha256("\0".join(identity).encode("utf-8", "replace")).hexdigest()[:8]


def _level(given: JSON, text: str) -> str:
    if isinstance(given, str) and given:
        return truncate(given, 40)
    match = _LEVEL.search(text)
    return match[1] if match else ""


def _why(diagnostic: dict[str, JSON]) -> str:
    """One sentence from the block that SpecErrorOK writes: error is Go's, stderr the runtime's."""
    words = [
        text.strip() for key in ("error", "stderr") if isinstance(text := diagnostic.get(key), str) and text.strip()
    ]
    return truncate(": ".join(words), 2000)


def _violation(text: str) -> tuple[str, str] | None:
    """The requirement and the reference in a text that ends as a specerror does: `... MUST ...`, `Refer to: URL`."""
    before, found, after = text.partition("\nRefer to: ")
    if not found:
        return None
    reference = after.split()[0] if after.split() else ""
    return truncate(before.strip(), 2000), truncate(reference, 400)


def _whole(
    name: str, output: _Output, stderr: str, end: End | None, verdicts: list[Verdict], *, silent: bool
) -> Result | None:
    """The result about the program as a whole, or None where its assertions say everything."""
    diagnostic: dict[str, JSON] = {}
    violation = None
    verdict: Verdict | None = None
    ended = _bad_end(end)
    problems = [problem for stream in output.streams if (problem := stream.problem())] + output.problems
    if output.unread:
        line = one_line(output.unread[0].strip(), 200)
        problems.append(f"it says `not ok` in a line that is no result: {line!r}")
    if ended is not None:
        verdict, diagnostic["message"] = ended
        violation = _violation(stderr)
        if verdict is Verdict.ERROR and (why := stderr.strip()):
            diagnostic["message"] = f"{diagnostic['message']}: {truncate(why, 2000)}"
    elif problems:
        verdict, diagnostic["message"] = Verdict.ERROR, "; ".join(problems[:10])
    elif output.empty and silent:
        verdict, diagnostic["message"] = Verdict.PASS, "passes by printing nothing"
    elif not verdicts and output.skipped:
        verdict, diagnostic["reason"] = Verdict.SKIP, output.skipped
    elif not verdicts:
        verdict = Verdict.NO_ASSERTIONS
        diagnostic["message"] = "printed nothing" if output.empty else "made no assertions"
    for orphan in output.orphans:
        error = orphan.value.get("error")
        if isinstance(error, str) and error.strip():
            # An error that no assertion has is a violation that the exit status and the test lines hide.
            violation = violation or _violation(error) or (truncate(error.strip(), 2000), "")
            verdict = verdict or Verdict.FAIL
    if verdict is None:
        return None
    if violation is not None:
        diagnostic["violation"] = violation[0]
        if verdict in (Verdict.NO_ASSERTIONS, Verdict.FAIL):
            diagnostic["message"] = f"violation that no assertion reports: {violation[0]}"
    if output.orphans:
        diagnostic["blocks"] = [_diagnostic(orphan) for orphan in output.orphans[:100]]
    if output.strays:
        diagnostic["notes"] = [truncate(stray, _LONGEST) for stray in output.strays[:100]]
    if stderr.strip():
        diagnostic["stderr"] = truncate(stderr, _LONGEST)
    text, reference = violation or ("", "")
    return Result(name, WHOLE, _level("", text), reference, verdict, 0.0, diagnostic, name)


def _bad_end(end: End | None) -> tuple[Verdict, str] | None:
    if end is None:
        return Verdict.ERROR, "did not finish"
    if end.timeout or end.status == _TIMEOUT_STATUS:
        return Verdict.TIMEOUT, f"time limit reached after {end.seconds:.1f} s"
    if end.signal is not None:
        try:
            word = signal.Signals(end.signal).name
        except ValueError:
            word = "unknown"
        return Verdict.ERROR, f"killed by signal {end.signal} ({word})"
    if end.status:
        return Verdict.ERROR, f"exited with status {end.status}"
    if end.status is None and not end.unknown:
        return Verdict.ERROR, "exit status unknown"
    return None

"""The spec suite: labkit's own checks of runtime-spec requirements, as a zipapp of labkit.guest.spec."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.core.text import count, one_line, some, truncate
from labkit.guest import spec as guest
from labkit.guest.pyz import pyz
from labkit.guest.spec.registry import load
from labkit.guest.spec.versions import version_of
from labkit.io.files import regular_inside
from labkit.results import copies, tap, transcript
from labkit.results.model import Reading, Result, Verdict, is_duration
from labkit.suites import recordings, subset, users
from labkit.suites.base import ATTACHED, Capped, OnResult, Suite
from labkit.suites.facts import settled
from labkit.suites.subset import ALL, Subset

_OUTPUT, _ERRORS = "spec.tap", "spec.err"
_OUTPUT_LIMIT, _ERRORS_LIMIT = 32 << 20, 1 << 20  # bytes that are kept; a run has some hundred KB


class Spec:
    name = "spec"
    title = "labkit's conformance suite for the OCI runtime-spec 1.0 to 1.3"
    version = guest.__version__
    needs: tuple[str, ...] = ()
    takes_arguments = True
    longest = 0.0
    programs: Mapping[str, str] = MappingProxyType({"python3": "python", "busybox": "busybox"})

    def file_name(self) -> str:
        return "labkit-spec.pyz"

    def program(self) -> bytes:
        return pyz("spec")

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        words = ["python3", program, *ATTACHED, "--transcripts", "--runtime", runtime]
        if selection.only or selection.skip:
            words += ["--only", ",".join(subset.of(self.name, "check", selection, self.names()))]
        words += [f"--runtime-arg={word}" for word in selection.runtime_args]
        words += [f"--lacks={command}={why}" for command, why in selection.lacks]
        words += ["--user", selection.user] if selection.user else []
        words += ["--spec", selection.spec] if selection.spec else []
        words += ["--repeat", str(selection.repeat)] if selection.repeat else []
        words += ["--timeout", f"{selection.timeout:g}"] if selection.timeout else []
        words += ["--no-confirm"]  # labkit knows what the policy expects, and runs only the rest again
        return words + (["--jobs", str(selection.jobs)] if selection.jobs else [])

    def names(self) -> list[str]:
        return list(load())  # not all requirements have a check

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return None

    def check(self, selection: Selection) -> None:
        users.check(selection.user)
        if selection.spec and version_of(selection.spec) is None:
            raise UsageError(f"--spec is {selection.spec!r}, must be a version of the runtime-spec from 1.0.0 to 1.3")
        subset.of(self.name, "check", selection, self.names())

    def needs_reset(self, selection: Selection) -> bool:
        return False

    @contextlib.contextmanager
    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> Iterator[_Recorder]:
        with Capped(raw / _OUTPUT, _OUTPUT_LIMIT) as out, Capped(raw / _ERRORS, _ERRORS_LIMIT) as err:
            recorder = _Recorder(out, err, on_result)
            try:
                yield recorder
            finally:
                recorder.close()

    def recognizes(self, raw: Path) -> bool:
        return bool(_output(raw))

    def knows_facts(self, raw: Path) -> bool:
        return True

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        data, over, name = b"", False, _output(raw)
        if path := regular_inside(raw, name):
            with path.open("rb") as file:
                data = file.read(_OUTPUT_LIMIT)
                over = bool(file.read(1))
        data, notes = copies.mend(data)
        reading = from_tap(tap.read(data))
        results, reasons = reading.results, [reading.reason]
        facts, told = settled(reading.facts, known or {})
        told = (*copies.told((name, note) for note in notes), *told)
        if meant.is_subset:
            there = dict.fromkeys(result.id for result in results)
            ids = subset.of(self.name, "check", meant, tuple(there), self.names())
            if missing := [ident for ident in ids if ident not in there]:
                reasons.append(f"{count(len(missing), 'check')} missing: {some(missing)}")
            if left_out := [ident for ident in there if ident not in ids]:
                told = (*told, f"left out, as was said: {count(len(left_out), 'check')}, {some(left_out)}")
            results = tuple(result for result in results if result.id in ids)
        if over:
            reasons.append(f"more than {_OUTPUT_LIMIT >> 20} MiB of output; the rest was dropped")
        reason = "; ".join(filter(None, reasons)) or None
        return Reading(results, facts, reason, dialects=reading.dialects, told=told)


def _output(raw: Path) -> str:
    """The file of the suite's output: spec.tap, or the only one that says in its header that it is; "" for none."""
    if regular_inside(raw, _OUTPUT):
        return _OUTPUT
    said = [path.name for path in raw.glob("*.tap") if recordings.is_spec_output(raw, path.name)]
    return said[0] if len(said) == 1 else ""


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}")
_LEADING_ID = re.compile(r"([A-Z][A-Z0-9]*-[0-9]{1,6})(?:\s+(.*))?", re.DOTALL)
_FACT = re.compile(r"([a-z][a-z-]{0,39}): (.*)", re.DOTALL)
_POSSIBLE = {  # the verdicts that a test line can carry; the first is the default, where the block names none
    (True, ""): (Verdict.PASS, Verdict.NO_ASSERTIONS),
    (False, ""): (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT, Verdict.NO_ASSERTIONS),
    (True, "SKIP"): (Verdict.SKIP, Verdict.NO_ASSERTIONS),
    (False, "SKIP"): (Verdict.SKIP,),
    (True, "TODO"): (Verdict.TODO,),
    # The bad ones in results.tap, where a policy expects them.
    (False, "TODO"): (
        Verdict.TODO,
        Verdict.FLAKY,
        Verdict.FAIL,
        Verdict.ERROR,
        Verdict.TIMEOUT,
        Verdict.NO_ASSERTIONS,
    ),
}


def from_tap(events: Iterable[tap.Event]) -> Reading:
    """Read the output of the spec suite, or any TAP whose blocks use its keys. Never raises, whatever the events.

    The facts are the `# key: value` comments before the first result.
    """
    events = list(events)
    points = [event for event in events if isinstance(event, tap.TestPoint)]
    facts: dict[str, str] = {}
    for event in events:
        if isinstance(event, tap.TestPoint):
            break
        if isinstance(event, tap.Comment) and (match := _FACT.fullmatch(event.text)):
            facts.setdefault(match[1], truncate(match[2], 1000))
    comments = (event.text for event in events if isinstance(event, tap.Comment))
    packed = {match[1]: match[2] for text in comments if (match := transcript.COMMENT.fullmatch(text))}
    results = tuple(result_of(point, position) for position, point in enumerate(points, 1))
    if packed:
        results = tuple(replace(result, transcript=packed.get(result.id, "")) for result in results)
    return Reading(results, facts, tap.unfinished(events) or _unread(events))


def _unread(events: Iterable[tap.Event]) -> str | None:
    """Why events that are one whole stream may yet hide a failure: a line of them says so, and is no result."""
    lines = (event.text for event in events if isinstance(event, tap.Unplaced))
    line = next((line for line in lines if re.search(r"(?<![\w-])not ok\b", line)), None)
    return None if line is None else f"a line that is no result says `not ok`: {one_line(line.strip(), 200)!r}"


def result_of(point: tap.TestPoint, position: int = 0) -> Result:
    """Return the result of a test line and its block; never raises, whatever is in them.

    The line decides: a verdict in the block may only refine `not ok` (error, timeout) or say that nothing was checked.
    If the two contradict each other the check is broken, which is an error. position names a result without id.
    """
    block = point.diagnostic or tap.Block({})
    diagnostic = dict(block.value)
    leading = _LEADING_ID.fullmatch(point.description)
    ident = diagnostic.pop("id", None)
    if not (isinstance(ident, str) and _ID.fullmatch(ident)):
        ident = leading[1] if leading else f"test-{point.number or position}"
    name = (leading[2] or "") if leading and leading[1] == ident else point.description
    if isinstance(given := diagnostic.pop("name", None), str):  # in results.tap, where the line cannot have it
        name = given
    level, reference, word, seconds = (
        diagnostic.pop(key, None) for key in ("level", "reference", "verdict", "seconds")
    )
    possible = _POSSIBLE[point.ok, point.directive]
    verdict = possible[0]
    if isinstance(word, str) and word in list(Verdict):
        verdict = Verdict(word)
        if verdict not in possible:
            line = " ".join(filter(None, ("ok" if point.ok else "not ok", point.directive)))
            verdict = Verdict.ERROR
            diagnostic["message"] = f"the check contradicts itself: its line says {line!r}, its verdict {word!r}"
    if point.reason:
        diagnostic.setdefault("reason", point.reason)
    if block.text:
        diagnostic["text"] = truncate(block.text, 20_000)
    if not block.whole:
        diagnostic["cut"] = True
    return Result(
        id=ident,
        name=truncate(name, 1000),
        level=truncate(level, 40) if isinstance(level, str) else "",
        reference=truncate(reference, 400) if isinstance(reference, str) else "",
        verdict=verdict,
        seconds=float(seconds) if is_duration(seconds) else 0.0,
        diagnostic=diagnostic,
    )


class _Recorder:
    def __init__(self, out: Capped, err: Capped, on_result: OnResult) -> None:
        self.has_output = False
        self.take_stderr = err.write
        self._out = out
        self._on_result = on_result
        self._reader = tap.Reader()
        self._done = 0
        self._planned: int | None = None

    def take(self, data: bytes) -> None:
        self._out.write(data)
        self._note(self._reader.feed(data))

    def close(self) -> None:
        self._note(self._reader.close())

    def _note(self, new: list[tap.Event]) -> None:
        self.has_output = self.has_output or bool(new)
        for event in new:
            if isinstance(event, tap.Plan):
                self._planned = event.count
            elif isinstance(event, tap.TestPoint):
                self._done += 1
                self._on_result(result_of(event, self._done), self._done, self._planned)


SUITE: Suite = Spec()

"""What was bad and unexpected, run again alone: whether it repeats. See docs/decisions.md, 34.

raw/again-1/, raw/again-2/    what the suite printed then, as raw/ has it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit.guest.common.repeats import repeated
from labkit.results.model import Program, Reading, Result, Run, Verdict
from labkit.results.tap import JSON

TIMES = 2  # at most


def place(raw: Path, number: int) -> Path:
    return raw / f"again-{number}"


def _of(result: Result) -> str:
    return result.program or result.id


def doubtful(run: Run, word: Callable[[Result], str] = _of) -> tuple[str, ...]:
    """The checks, or programs, with something bad that the policy does not expect and that was seen only once; word:
    what --only calls them.
    """
    return tuple(dict.fromkeys(word(result) for result in run.unexpected if not _repeated(result)))


def settled(first: Reading, again: Sequence[Reading]) -> Reading:
    """What was bad at first is flaky where it was bad in none of the others that had its check or program."""
    if not again:
        return first
    had: dict[str, list[Reading]] = {}
    for reading in again:
        for name in {*(_of(result) for result in reading.results), *(program.name for program in reading.programs)}:
            had.setdefault(name, []).append(reading)
    results = tuple(
        _settled(result, [reading for reading in had.get(_of(result), []) if _ran(reading, result, first)])
        for result in first.results
    )
    bad = {result.program for result in results if result.bad}
    programs = tuple(_program(program, had.get(program.name, []), program.name in bad) for program in first.programs)
    return dataclasses.replace(first, results=results, programs=programs)


def _ran(reading: Reading, result: Result, first: Reading) -> bool:
    """Whether the result's program ran what the result is about, and not only other tests."""
    tests = reading.tests.get(result.program)
    if tests is None:
        return True
    return tests == first.tests.get(result.program) if result.whole else result.name.strip() in map(str.strip, tests)


def _settled(result: Result, again: Sequence[Reading]) -> Result:
    if not result.bad or not again:
        return result
    seen = [
        next((other for other in reading.results if other.identity == result.identity and other.bad), None)
        for reading in again
    ]
    attempts = [result.verdict.value, *(other.verdict.value if other else Verdict.PASS.value for other in seen)]
    found = repeated(result.findings, [other.findings if other else None for other in seen])
    diagnostic: dict[str, JSON] = {**result.diagnostic, "attempts": list(attempts)}
    if not found.repeats:
        diagnostic.pop("violation", None)
    failures = result.diagnostic.get("failures")
    if found.once and isinstance(failures, list):
        diagnostic["failures"] = [
            one for one in failures if isinstance(one, dict) and one.get("finding") in found.findings
        ]
        diagnostic["seen only once"] = list(found.once)
    verdict = result.verdict if found.repeats else Verdict.FLAKY
    return dataclasses.replace(result, verdict=verdict, diagnostic=diagnostic)


def _repeated(result: Result) -> bool:
    attempts = result.diagnostic.get("attempts")
    return isinstance(attempts, list) and any(word != Verdict.PASS.value for word in attempts[1:])


def _program(program: Program, again: Sequence[Reading], bad: bool) -> Program:
    if not again or not program.verdict.bad:
        return program
    others = [one.verdict for reading in again for one in reading.programs if one.name == program.name]
    verdict = program.verdict if bad else Verdict.FLAKY
    return dataclasses.replace(program, verdict=verdict, attempts=(program.verdict, *others))

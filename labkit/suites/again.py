"""What was bad and unexpected, run again alone: whether it repeats. See docs/decisions.md, 34.

raw/again-1/, raw/again-2/    what the suite printed then, as raw/ has it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from labkit.results.model import Program, Reading, Result, Run, Verdict

TIMES = 2  # at most


def place(raw: Path, number: int) -> Path:
    return raw / f"again-{number}"


def doubtful(run: Run) -> tuple[str, ...]:
    """The programs with something bad that the policy does not expect and that was seen only once."""
    return tuple(dict.fromkeys(result.program for result in run.unexpected if result.program and not _repeated(result)))


def settled(first: Reading, again: Sequence[Reading]) -> Reading:
    """What was bad at first is flaky where it was bad in none of the others that had its program."""
    if not again:
        return first
    had = {
        program.name: [one for one in again if any(other.name == program.name for other in one.programs)]
        for program in first.programs
    }
    results = tuple(_settled(result, had.get(result.program, [])) for result in first.results)
    bad = {result.program for result in results if result.bad}
    programs = tuple(_program(program, had[program.name], program.name in bad) for program in first.programs)
    return dataclasses.replace(first, results=results, programs=programs)


def _settled(result: Result, again: Sequence[Reading]) -> Result:
    if not result.bad or not again:
        return result
    seen = [
        next(
            (other.verdict for other in reading.results if other.identity == result.identity and other.bad),
            Verdict.PASS,
        )
        for reading in again
    ]
    attempts = [result.verdict.value, *(verdict.value for verdict in seen)]
    repeats = any(verdict is not Verdict.PASS for verdict in seen)
    diagnostic = {key: value for key, value in result.diagnostic.items() if repeats or key != "violation"}
    verdict = result.verdict if repeats else Verdict.FLAKY
    return dataclasses.replace(result, verdict=verdict, diagnostic={**diagnostic, "attempts": list(attempts)})


def _repeated(result: Result) -> bool:
    attempts = result.diagnostic.get("attempts")
    return isinstance(attempts, list) and any(word != Verdict.PASS.value for word in attempts[1:])


def _program(program: Program, again: Sequence[Reading], bad: bool) -> Program:
    if not again or not program.verdict.bad:
        return program
    others = [one.verdict for reading in again for one in reading.programs if one.name == program.name]
    verdict = program.verdict if bad else Verdict.FLAKY
    return dataclasses.replace(program, verdict=verdict, attempts=(program.verdict, *others))

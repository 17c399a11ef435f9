"""Whose failure it is: what is bad and not expected, beside a reference runtime on the same machine and beside earlier
runs. Values in, values out.

What another runtime fails as well may be the lab's or the suite's fault, or what everybody does; what it passes is of
the one under test. What earlier runs passed is new, or came with a version.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from labkit.results.causes import divided
from labkit.results.model import Attribution, Referred, Result, Run

MOST = 20  # checks, or programs, that are run over a reference
Identity = tuple[str, str, str]


class Blame(enum.StrEnum):
    """The words for it, here and in the reports of nights."""

    ONLY = "this runtime only"
    TOO = "reference too"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier run showed of a check, and the version of the runtime then."""

    run: str
    version: str
    bad: bool


def chosen(run: Run, most: int = MOST) -> tuple[tuple[str, ...], int]:
    """The checks or programs to run over a reference, so many at most, and how many are left: of those that fail alike
    one each comes first, then the others, the most urgent first.
    """
    common, rest = divided(run.unexpected)
    first = [cause.checks[0] for cause in common]
    names = dict.fromkeys([*first, *(_of(result) for result in rest), *(_of(result) for result in run.unexpected)])
    return tuple(names)[:most], max(len(names) - most, 0)


def attributed(
    run: Run, reference: Run | None, past: Mapping[Identity, Sequence[Earlier]], referred: Referred | None = None
) -> Run:
    """The run with an attribution at each result that is bad and not expected, as far as anything is known.

    reference: what was run over another runtime; past: what earlier runs showed, the oldest first.
    """
    results = []
    theirs = _by_identity(reference)
    for result in run.results:
        found = None
        if result.bad and result.expected is None:
            word = beside(result, theirs.get(result.identity, ()), reference)
            began, when = since(past.get(result.identity, ()), run.runtime.version)
            if word or began:
                found = Attribution(word, title(reference) if word and reference else "", began, when)
        results.append(dataclasses.replace(result, attribution=found))
    return dataclasses.replace(run, results=tuple(results), referred=referred)


def carried(run: Run, kept: Run) -> Run:
    """The run with the attributions of the same run as it was judged before, where the same is bad now."""
    before = {result.identity: result.attribution for result in kept.results if result.attribution}
    results = (
        dataclasses.replace(result, attribution=before.get(result.identity))
        if result.bad and result.expected is None
        else result
        for result in run.results
    )
    return dataclasses.replace(run, results=tuple(results), referred=kept.referred)


def beside(result: Result, theirs: Iterable[Result], reference: Run | None) -> str:
    """The word for a bad result, beside those of the reference that have its identity; "" where that shows nothing.

    A finding that the reference does not have is this runtime's, whatever else both fail.
    """
    theirs = list(theirs)
    if reference is None:
        return ""
    if not theirs and result.whole and any(program.name == result.program for program in reference.programs):
        return Blame.ONLY  # it ran, and nothing is said about it as a whole
    bad = [one for one in theirs if one.bad]
    if bad:
        found = {name for one in bad for name in one.findings}
        own = [name for name in result.findings if name not in found]
        return Blame.ONLY if own and found else Blame.TOO
    return Blame.ONLY if any(one.verdict.shows for one in theirs) else ""


def since(earlier: Sequence[Earlier], version: str) -> tuple[str, str]:
    """Since when a check is bad that is now, with this version: `new`, `since version X` or `since run X`; and what is
    known of when it was good: "" where it never was, or nothing is known.
    """
    if not earlier:
        return "", ""
    good = next((at for at in range(len(earlier) - 1, -1, -1) if not earlier[at].bad), None)
    was = "" if good is None else _good(earlier[good])
    if good == len(earlier) - 1:
        last = earlier[-1].version
        began = f"since version {version}" if version and last and version != last else Blame.NEW.value
        return began, was
    first = earlier[0 if good is None else good + 1]
    if good is not None and first.version and earlier[good].version not in ("", first.version):
        return f"since version {first.version}", was
    return f"since run {first.run}", was


def _good(one: Earlier) -> str:
    return f"good with {one.version} in run {one.run}" if one.version else f"good in run {one.run}"


def title(run: Run) -> str:
    return f"{run.runtime.name} {run.runtime.version}".strip()


def _by_identity(run: Run | None) -> dict[Identity, list[Result]]:
    found: dict[Identity, list[Result]] = {}
    for result in run.results if run else ():
        found.setdefault(result.identity, []).append(result)
    return found


def _of(result: Result) -> str:
    return result.program or result.id

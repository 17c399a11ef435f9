"""A bisection as a value, and what a run of a suite says of a commit. Pure.

bisect.json (schema 1) is the same as JSON; keys that this labkit does not know are passed over.

What is looked for is what the bad end shows and the good end does not: a mark is a finding of a check, or its verdict
where it names none. A commit that fails in yet another way is neither good nor bad.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from labkit.core import tomlfile
from labkit.core.text import some
from labkit.core.tomlfile import Table
from labkit.results.model import Result, Run, Verdict

SCHEMA = 1
_FEW = 20  # results that are shown one by one, though they pass
Outcome = Literal["good", "bad", "skip"]
Mark = tuple[str, str]  # what it is of; the finding, or the verdict


class _Part(Table):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class Shown(_Part):
    """A result: id of a check, or program and assertion."""

    id: str
    verdict: Verdict
    findings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.id} {self.verdict}" + (f": {some(self.findings, 3)}" if self.findings else "")


class Commit(_Part):
    commit: str
    subject: str
    author: str
    author_date: str

    @property
    def short(self) -> str:
        return self.commit[:12]


class Step(_Part):
    """A commit that was tested. why: of one that is skipped. run is the directory of its run, beside bisect.json, empty
    where there is none; built: whether it was built for this, and not before; seconds are of build and test.
    """

    commit: Commit
    outcome: Outcome
    why: str = ""
    shown: tuple[Shown, ...] = ()
    run: str = ""
    built: bool = False
    seconds: float = 0.0


class End(_Part):
    """The good or the bad commit, as it was named; step is None until it is tested."""

    ref: str
    commit: Commit
    step: Step | None = None


class Subject(_Part):
    """What is tested: name is a runtime that labkit knows, or where is a URL or a tree of this host."""

    name: str = ""
    where: str = ""
    arguments: tuple[str, ...] = ()
    suite: str
    only: tuple[str, ...]
    finding: str = ""
    spec: str = ""
    confirm: bool = True


class Machine(_Part):
    platform: str
    release: str
    provider: str
    name: str
    host: str | None = None


class Bisection(_Part):
    """commits: how many lie between the ends; before and after: the runs of the last good commit and the first bad one;
    changes: what is different between them; left: the commits one of which is the first bad one, where that is all that
    can be said; builds: how many were made.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    id: str
    state: Literal["running", "found", "not-found"] = "running"
    reason: str = ""
    started: AwareDatetime
    seconds: float = 0.0
    builds: int = 0
    subject: Subject
    machine: Machine
    good: End
    bad: End
    commits: int
    steps: tuple[Step, ...] = ()
    first_bad: Commit | None = None
    left: tuple[Commit, ...] = ()
    before: str = ""
    after: str = ""
    changes: dict[str, Any] | None = None

    @property
    def exit_status(self) -> int:
        return 0 if self.state == "found" else 4

    def to_json(self) -> dict[str, Any]:
        return {**self.model_dump(mode="json", by_alias=True), "exit_status": self.exit_status}


def from_json(document: dict[str, Any], where: str) -> Bisection:
    """UsageError, naming where, where it is none."""
    return tomlfile.check(Bisection, document, lambda key: f"{where}: {tomlfile.dotted(key)}")


@dataclass(frozen=True, slots=True)
class Aim:
    """What makes a commit bad: any of sought. of: the results that these are of, each to be shown by a good commit;
    also: what the good end has bad too. narrow: the person named the finding, so that no other one counts.
    """

    sought: frozenset[Mark]
    also: frozenset[Mark] = frozenset()
    narrow: bool = False

    @property
    def of(self) -> frozenset[str]:
        return frozenset(what for what, _ in self.sought)

    def __str__(self) -> str:
        return told(self.sought)


def told(marks: Iterable[Mark]) -> str:
    return some([f"{what}: {mark}" for what, mark in sorted(marks)], 5)


def label(result: Result) -> str:
    """What a result is of, in every run of the suite."""
    program, name, reference = result.identity
    return ": ".join(filter(None, (program, name, reference)))


def marks(run: Run) -> frozenset[Mark]:
    return frozenset(
        (label(result), mark) for result in run.results if result.bad for mark in result.findings or (result.verdict,)
    )


def shown(run: Run) -> tuple[Shown, ...]:
    """What is told of a run: all that is not a pass, and of a few results the passes too."""
    few = len(run.results) <= _FEW
    return tuple(
        Shown(id=label(result), verdict=result.verdict, findings=result.findings)
        for result in run.by_id()
        if few or result.verdict is not Verdict.PASS
    )[: 5 * _FEW]


def unlike(run: Run) -> str:
    """Why nothing can be said of a commit by this run; empty where something can."""
    if not run.run.complete:
        return f"its test is not complete: {run.run.reason}"
    if run.nothing_shown and not any(result.bad for result in run.results):
        return run.nothing_shown
    return ""


def spoiled(run: Run) -> bool:
    """Whether it may be the machine that made the run what it is: another one on a clean machine tells."""
    return not run.run.complete or any(result.verdict in (Verdict.ERROR, Verdict.TIMEOUT) for result in run.results)


def same_words(words: str, finding: str) -> bool:
    """Whether a finding is what a person calls it."""
    one, other = (re.sub(r"[\W_]+", "-", text.casefold()).strip("-") for text in (words, finding))
    return bool(one) and one in other


def aim(good: Run, bad: Run, finding: str) -> tuple[Aim | None, str]:
    """What to look for between two commits, by their runs; None, and why, where that is nothing."""
    for end, run in (("good", good), ("bad", bad)):
        if why := unlike(run):
            return None, f"the {end} commit cannot be told to be {end}: {why}"
    at_good, at_bad = marks(good), marks(bad)
    restless = _restless(bad, frozenset(map(label, bad.results)), frozenset())
    if restless and not at_bad:
        return None, f"the bad commit is not bad each time: {restless}"
    if finding:
        at_good, at_bad = (
            frozenset((what, mark) for what, mark in some_ if same_words(finding, mark)) for some_ in (at_good, at_bad)
        )
        if at_good:
            return None, f"the good commit is bad: it shows {told(at_good)}"
        if not at_bad:
            others = marks(bad)
            seen = f"it shows {told(others)}" if others else f"it shows {_seen(bad)}"
            return None, f"the bad commit does not show {finding!r}: {_once(bad, finding) or seen}"
        if restless := _restless(good, frozenset(what for what, _ in at_bad), at_bad):
            return None, f"the good commit is not good each time: {restless}"
        return Aim(at_bad, narrow=True), ""
    sought = at_bad - at_good
    if not at_bad:
        return None, f"the bad commit is good: {_seen(bad)}"
    if not sought:
        return None, f"the good commit is bad: it shows {told(at_good)}, as the bad one does"
    if restless := _restless(good, frozenset(what for what, _ in sought), sought):
        return None, f"the good commit is not good each time: {restless}"
    if not_there := _not_shown(good, frozenset(what for what, _ in sought)):
        if {what for what, _ in sought} <= set(not_there):
            return None, f"the good commit cannot be told to be good: {_seen(good)}"
        sought = frozenset(mark for mark in sought if mark[0] not in not_there)
    return Aim(sought, at_good), ""


def judge(run: Run, aim: Aim) -> tuple[Outcome, str]:
    """What a commit is, and why it is neither where that is so."""
    if why := unlike(run):
        return "skip", why
    found = marks(run)
    if found & aim.sought:
        return "bad", ""
    mine = [result for result in run.results if label(result) in aim.of]
    if restless := _restless(run, aim.of, aim.sought):
        return "skip", restless
    others = frozenset(mark for mark in found - aim.also if mark[0] in aim.of)
    broken = {label(result) for result in mine if result.verdict in (Verdict.ERROR, Verdict.TIMEOUT)}
    if others and (not aim.narrow or broken):
        return "skip", f"it fails in another way: {told(others)}"
    if missing := _not_shown(run, aim.of):
        return "skip", f"not shown: {some(missing)}"
    return "good", ""


def _not_shown(run: Run, wanted: frozenset[str]) -> list[str]:
    """The results, of those, that show nothing or are not there. That a whole program passes is implied."""
    there = {label(result) for result in run.results if result.verdict.shows or result.bad or result.whole}
    passed = {f"{program.name}: (program)" for program in run.programs if not program.verdict.bad}
    return sorted(wanted - there - passed)


def _restless(run: Run, of: frozenset[str], sought: frozenset[Mark]) -> str:
    """What of these results was bad once and not again; empty where nothing was."""
    for result in run.results:
        once = {(label(result), name) for name in _listed(result, "seen only once")}
        if (result.verdict is Verdict.FLAKY and label(result) in of) or once & sought:
            attempts = ", ".join(_listed(result, "attempts"))
            return f"{label(result)} does not repeat" + (f": {attempts}" if attempts else "")
    return ""


def _seen(run: Run) -> str:
    return some([str(one) for one in shown(run)], 5) or "it shows nothing"


def _once(run: Run, finding: str) -> str:
    for result in run.results:
        once = [name for name in _listed(result, "seen only once") if same_words(finding, name)]
        if once or (result.verdict is Verdict.FLAKY and any(same_words(finding, one) for one in result.findings)):
            return f"{label(result)} shows it, but not each time"
    return ""


def _listed(result: Result, key: str) -> list[str]:
    value = result.diagnostic.get(key)
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []

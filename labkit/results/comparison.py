"""What changed between two runs of a suite; Result.identity pairs their results. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labkit.results.model import URGENCY, WHOLE, Result, Run, Verdict
from labkit.results.tap import JSON

_Group = Sequence[Result]


@dataclass(frozen=True, slots=True)
class Change:
    """Results of one identity in two runs. Several can share one; each verdict comes with how often it was there.

    before and after are empty where the run has none. expected is the policy's reason for the later ones. new_findings
    and gone_findings are those that failed in one of them only, by name: behind a known failure another may appear.
    """

    program: str
    id: str
    name: str
    reference: str
    before: Mapping[Verdict, int]
    after: Mapping[Verdict, int]
    message: str
    expected: str
    new_findings: tuple[str, ...] = ()
    gone_findings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        return {
            "program": self.program,
            "id": self.id,
            "name": self.name,
            "reference": self.reference,
            "before": {verdict.value: count for verdict, count in self.before.items()},
            "after": {verdict.value: count for verdict, count in self.after.items()},
            "message": self.message,
            "expected": self.expected,
            **({"new_findings": list(self.new_findings)} if self.new_findings else {}),
            **({"gone_findings": list(self.gone_findings)} if self.gone_findings else {}),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """changed has the verdicts that changed without failing or being fixed, such as a pass that is now a skip."""

    before: Run
    after: Run
    newly_failing: tuple[Change, ...]
    fixed: tuple[Change, ...]
    appeared: tuple[Change, ...]
    gone: tuple[Change, ...]
    changed: tuple[Change, ...]

    @property
    def groups(self) -> dict[str, tuple[Change, ...]]:
        names = ("newly_failing", "fixed", "appeared", "gone", "changed")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, JSON]:
        return {
            "before": _run_json(self.before),
            "after": _run_json(self.after),
            **{name: [change.to_json() for change in changes] for name, changes in self.groups.items()},
        }


def compare(before: Run, after: Run) -> Comparison:
    """Compare two runs; each list is in the order of programs and ids, bad results first."""
    old, new = _grouped(before), _grouped(after)
    found: dict[str, list[Change]] = defaultdict(list)
    for identity in dict.fromkeys([*old, *new]):
        was, now = (groups.get(identity) or _silent(identity, run) for groups, run in ((old, before), (new, after)))
        change = _change(was, now)
        if change.before == change.after and not change.new_findings and not change.gone_findings:
            continue
        more = sum(result.bad for result in now) - sum(result.bad for result in was)
        more = more or bool(change.new_findings) or -bool(change.gone_findings)
        if not was:
            group = "appeared"
        elif not now:
            group = "gone"
        elif more:
            group = "newly_failing" if more > 0 else "fixed"
        else:
            group = "changed"
        found[group].append(change)
    lists = {name: tuple(sorted(changes, key=_order)) for name, changes in found.items()}
    empty: dict[str, tuple[Change, ...]] = dict.fromkeys(("newly_failing", "fixed", "appeared", "gone", "changed"), ())
    return Comparison(before, after, **{**empty, **lists})


def _grouped(run: Run) -> dict[tuple[str, str, str], list[Result]]:
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in run.results:
        groups[result.identity].append(result)
    return groups


def _silent(identity: tuple[str, str, str], run: Run) -> list[Result]:
    """The implied pass of a program that ran and has no result about it as a whole."""
    name, what, _ = identity
    if what != WHOLE or not any(program.name == name for program in run.programs):
        return []
    return [Result(name, WHOLE, "", "", Verdict.PASS, 0.0, {}, name)]


def _change(was: _Group, now: _Group) -> Change:
    results = now or was
    shown = next((result for result in results if result.bad), results[0])
    message = shown.diagnostic.get("message", "")
    expected = shown.expected.reason if now and shown.expected else ""
    counts = (Counter(result.verdict for result in group) for group in (was, now))
    before, after = (dict(sorted(count.items(), key=lambda item: URGENCY[item[0]])) for count in counts)
    text = message if isinstance(message, str) else ""
    old, new = ([finding for result in group if result.bad for finding in result.findings] for group in (was, now))
    both = bool(old and new)  # where only one of them failed, the verdicts say it
    return Change(
        shown.program, shown.id, shown.name, shown.reference, before, after, text, expected,
        tuple(finding for finding in new if both and finding not in old),
        tuple(finding for finding in old if both and finding not in new),
    )  # fmt: skip


def _order(change: Change) -> tuple[int, str, str, str]:
    worst = min(URGENCY[verdict] for verdict in change.after or change.before)
    return worst, change.program, change.id, change.name


def _run_json(run: Run) -> dict[str, JSON]:
    return {
        "run": run.run.id,
        "complete": run.run.complete,
        "runtime": run.runtime.name,
        "version": run.runtime.version,
        "suite": run.suite.name,
        "suite_version": run.suite.version,
        "totals": {verdict.value: count for verdict, count in run.totals.items()},
    }

"""What changed between two runs of a suite; Result.identity pairs their results. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from labkit.results.model import URGENCY, WHOLE, Result, Run, Verdict
from labkit.results.tap import JSON

GROUPS = ("newly_failing", "fixed", "no_longer_shown", "appeared", "gone", "changed")
_UNSEEN = (Verdict.SKIP, Verdict.NO_ASSERTIONS)
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
    """no_longer_shown has what was looked at before and is skipped now, whatever it was; changed has the other verdicts
    that changed without failing or being fixed, such as a failure that is now a timeout.
    """

    before: Run
    after: Run
    newly_failing: tuple[Change, ...]
    fixed: tuple[Change, ...]
    no_longer_shown: tuple[Change, ...]
    appeared: tuple[Change, ...]
    gone: tuple[Change, ...]
    changed: tuple[Change, ...]

    @property
    def groups(self) -> dict[str, tuple[Change, ...]]:
        return {name: getattr(self, name) for name in GROUPS}

    def to_json(self) -> dict[str, JSON]:
        return {
            "before": _run_json(self.before),
            "after": _run_json(self.after),
            **{name: [change.to_json() for change in changes] for name, changes in self.groups.items()},
        }


def compare(before: Run, after: Run) -> Comparison:
    """Compare two runs; each list is in the order of programs and ids, bad results first.

    A program that asserted something and does no more is one change, in place of all that it asserted.
    """
    found: dict[str, list[Change]] = defaultdict(list)
    mute = _fallen_silent(before, after)
    for program, (was, now) in mute.items():
        group = "no_longer_shown" if {result.verdict for result in now} <= {Verdict.SKIP} else "newly_failing"
        found[group].append(_silence(program, was, now))
    old, new = _grouped(before, mute), _grouped(after, mute)
    for identity in dict.fromkeys([*old, *new]):
        was, now = (groups.get(identity) or _silent(identity, run) for groups, run in ((old, before), (new, after)))
        change = _change(was, now)
        if change.before == change.after and not change.new_findings and not change.gone_findings:
            continue
        found[_group(was, now, change)].append(change)
    return Comparison(before, after, **{name: tuple(sorted(found[name], key=_order)) for name in GROUPS})


def _group(was: _Group, now: _Group, change: Change) -> str:
    if not was:
        return "appeared"
    if not now:
        return "gone"
    more = sum(result.bad for result in now) - sum(result.bad for result in was)
    if more > 0 or (more == 0 and change.new_findings):
        return "newly_failing"
    # Of several alike, one that is skipped in place of failing is no repair either.
    looked_at = [sum(result.verdict not in _UNSEEN for result in group) for group in (was, now)]
    if looked_at[0] > looked_at[1] and change.after.get(Verdict.SKIP, 0) > change.before.get(Verdict.SKIP, 0):
        return "no_longer_shown"
    if change.gone_findings and more == 0:
        return "fixed"
    passes = change.after.get(Verdict.PASS, 0) - change.before.get(Verdict.PASS, 0)
    mended = more < 0 or change.after.get(Verdict.TODO, 0) < change.before.get(Verdict.TODO, 0)
    return "fixed" if mended and passes > 0 else "changed"


def _fallen_silent(before: Run, after: Run) -> dict[str, tuple[list[Result], list[Result]]]:
    """The programs that ran in both and asserted something in the first only, with what they came to in each."""
    programs = {program.name for program in before.programs} & {program.name for program in after.programs}
    old, new = _by_program(before), _by_program(after)
    return {
        name: (old[name], new[name])
        for name in sorted(programs)
        if any(result.asserts for result in old[name]) and not any(result.asserts for result in new[name])
    }


def _by_program(run: Run) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = defaultdict(list)
    for result in run.results:
        found[result.program].append(result)
    return found


def _silence(program: str, was: _Group, now: _Group) -> Change:
    change = _change(was, now)
    count = sum(result.asserts for result in was)
    said = f"it made {count} assertion{'' if count == 1 else 's'}, and makes none now"
    message = f"{said}: {change.message}" if change.message else said
    return replace(change, id=program, name=WHOLE, reference="", message=message, new_findings=(), gone_findings=())


def _grouped(run: Run, without: Collection[str]) -> dict[tuple[str, str, str], list[Result]]:
    """The results by what identifies them, but for those of some programs."""
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in run.results:
        if result.program not in without:
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

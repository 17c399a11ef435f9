"""What changed between two runs of a suite, or is different in several; Result.identity pairs their results. Pure."""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from labkit.results.model import URGENCY, WHOLE, Result, Run, Verdict
from labkit.results.tap import JSON

GROUPS = ("newly_failing", "fixed", "no_longer_shown", "appeared", "gone", "changed")
_UNSEEN = (Verdict.SKIP, Verdict.NO_ASSERTIONS)
_Group = Sequence[Result]
_Identity = tuple[str, str, str]


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
    for group, change in _changes(before, after).changes.values():
        found[group].append(change)
    return Comparison(before, after, **{name: tuple(sorted(found[name], key=_order)) for name in GROUPS})


@dataclass(frozen=True, slots=True)
class _Changes:
    """changes: what changed, by identity, with its group. mute: the programs that fell silent, with the group of that.
    alike: how many identities are in both runs, and show the same.
    """

    changes: Mapping[_Identity, tuple[str, Change]]
    mute: Mapping[str, str]
    alike: int


def _changes(before: Run, after: Run) -> _Changes:
    found: dict[_Identity, tuple[str, Change]] = {}
    mute = _fallen_silent(before, after)
    groups_of_mute = {}
    alike = 0
    for program, (was, now) in mute.items():
        group = "no_longer_shown" if {result.verdict for result in now} <= {Verdict.SKIP} else "newly_failing"
        groups_of_mute[program] = group
        found[program, WHOLE, ""] = group, _silence(program, was, now)
    old, new = _grouped(before, mute), _grouped(after, mute)
    for identity in dict.fromkeys([*old, *new]):
        was, now = (groups.get(identity) or _silent(identity, run) for groups, run in ((old, before), (new, after)))
        change = _change(was, now)
        if change.before == change.after and not change.new_findings and not change.gone_findings:
            alike += 1
            continue
        found[identity] = _group(was, now, change), change
    return _Changes(found, groups_of_mute, alike)


# --- several runs, side by side


class Relation(enum.StrEnum):
    """How what a run shows stands to what the first one shows. The order is that of urgency."""

    WORSE = "worse"
    UNSEEN = "not shown"  # skipped here
    ABSENT = "not there"
    OTHER = "different"  # no worse and no better, such as a failure that is a timeout here
    ADDED = "only here"  # the first has no such check
    BETTER = "better"
    SAME = "same"


_RELATIONS = {
    "newly_failing": Relation.WORSE,
    "fixed": Relation.BETTER,
    "no_longer_shown": Relation.UNSEEN,
    "appeared": Relation.ADDED,
    "gone": Relation.ABSENT,
    "changed": Relation.OTHER,
}


@dataclass(frozen=True, slots=True)
class Side:
    """What one run shows of a check: how often each verdict, and the findings; relation is SAME for the first run."""

    relation: Relation
    verdicts: Mapping[Verdict, int]
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A check that is not the same in all runs; sides are in the order of the runs."""

    program: str
    id: str
    name: str
    reference: str
    sides: tuple[Side, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """Those that some of the runs with findings have, and others of them have not."""
        having = [side.findings for side in self.sides if side.findings]
        return tuple(dict.fromkeys(name for one in having for name in one if any(name not in all_ for all_ in having)))

    def to_json(self) -> dict[str, JSON]:
        return {
            "program": self.program,
            "id": self.id,
            "name": self.name,
            "reference": self.reference,
            "sides": [
                {
                    "relation": side.relation.value,
                    "verdicts": {verdict.value: count for verdict, count in side.verdicts.items()},
                    "findings": list(side.findings),
                }
                for side in self.sides
            ],
        }


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two or more runs of one suite, each compared with the first. lines: what differs in any of them, the worst first;
    counts: of each run how many checks stand in which relation to the first one's.
    """

    runs: tuple[Run, ...]
    lines: tuple[Line, ...]
    counts: tuple[Mapping[Relation, int], ...]

    def to_json(self) -> dict[str, JSON]:
        return {
            "runs": [
                {**_run_json(run), "counts": {relation.value: count for relation, count in counts.items()}}
                for run, counts in zip(self.runs, self.counts, strict=True)
            ],
            "lines": [line.to_json() for line in self.lines],
        }


def side_by_side(runs: Sequence[Run]) -> SideBySide:
    """Compare each of the runs with the first, as compare() does."""
    first = runs[0]
    compared = [_changes(first, run) for run in runs]
    names: dict[_Identity, Change] = {}
    for one in compared:
        for identity, (_, change) in one.changes.items():
            names.setdefault(identity, change)
    of = [_grouped(run, ()) for run in runs]
    lines = []
    for identity, change in names.items():
        silence = any(identity[1] == WHOLE and identity[0] in one.mute for one in compared)
        sides = tuple(
            _side(identity, run, groups, one, silence) for run, groups, one in zip(runs, of, compared, strict=True)
        )
        lines.append(Line(change.program, change.id, change.name, change.reference, sides))
    counts = []
    for one in compared:
        count = Counter(_RELATIONS[group] for group, _ in one.changes.values())
        count[Relation.SAME] = one.alike
        counts.append({relation: count[relation] for relation in Relation if count[relation]})
    return SideBySide(tuple(runs), tuple(sorted(lines, key=_urgent)), tuple(counts))


def _side(
    identity: _Identity, run: Run, groups: Mapping[_Identity, list[Result]], compared: _Changes, silence: bool
) -> Side:
    """silence: it is about all that a program showed, which in one of the runs is nothing."""
    if silence:
        shown: _Group = [result for result in run.results if result.program == identity[0]]
    else:
        shown = groups.get(identity) or _silent(identity, run)
    count = Counter(result.verdict for result in shown)
    verdicts = dict(sorted(count.items(), key=lambda item: URGENCY[item[0]]))
    findings = () if silence else tuple(dict.fromkeys(f for result in shown if result.bad for f in result.findings))
    if identity in compared.changes:
        relation = _RELATIONS[compared.changes[identity][0]]
    elif identity[0] in compared.mute:
        relation = _RELATIONS[compared.mute[identity[0]]]
    else:
        relation = Relation.SAME
    return Side(relation, verdicts, findings)


_RANKS = {relation: rank for rank, relation in enumerate(Relation)}


def _urgent(line: Line) -> tuple[int, str, str, str]:
    return min(_RANKS[side.relation] for side in line.sides), line.program, line.id, line.name


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


def _grouped(run: Run, without: Collection[str]) -> dict[_Identity, list[Result]]:
    """The results by what identifies them, but for those of some programs."""
    groups: dict[_Identity, list[Result]] = defaultdict(list)
    for result in run.results:
        if result.program not in without:
            groups[result.identity].append(result)
    return groups


def _silent(identity: _Identity, run: Run) -> list[Result]:
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

"""A record of calls judged: a Result for each check of checks.tsv."""

from __future__ import annotations

import csv
import enum
import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from labkit.core.text import count, one_line
from labkit.results.caller import configuration, line, lives, uses
from labkit.results.caller.calls import Call, Record
from labkit.results.caller.findings import Check, Finding, Found, Undecided
from labkit.results.model import Result, Verdict
from labkit.results.tap import JSON

_TABLE = Path(__file__).with_name("checks.tsv")
_FEATURES = "CALL-060"
_MOST = 50  # failures of one check that are kept


class Profile(enum.StrEnum):
    """What callers are held to: the document as it stands; or besides it what all callers and runtimes practise, which
    is told then.
    """

    DOCUMENT = "document"
    PRACTICE = "practice"


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """The checks by their ids: level, section, summary, implied."""
    with _TABLE.open(encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}


def checks() -> dict[str, Check]:
    """The checks that find something wrong, in the order of the table."""
    found = {**line.CHECKS, **lives.CHECKS, **configuration.CHECKS}
    return {ident: found[ident] for ident in table() if ident in found}


def judge(record: Record, profile: Profile = Profile.PRACTICE) -> tuple[Result, ...]:
    """What the calls of a record come to. Where calls are missing, what would have to be among them is not judged."""
    results = [
        _result(ident, check(record.calls), profile, whole=record.reason is None) for ident, check in checks().items()
    ]
    return (*results, _features(record.calls))


_NEED_ALL = {"CALL-021", "CALL-023", "CALL-024", "CALL-025", "CALL-026", "CALL-027"}  # earlier or later calls count


def _result(ident: str, found: Iterable[Found], profile: Profile, *, whole: bool) -> Result:
    everything = list(found)
    findings = [one for one in everything if isinstance(one, Finding)]
    undecided = [one for one in everything if isinstance(one, Undecided)]
    if not whole and ident in _NEED_ALL:
        undecided += [Undecided(one.call, f"{one.name}: calls are missing in the record") for one in findings]
        findings = []
    told = [one for one in findings if one.practised and profile is Profile.PRACTICE]
    failed = [one for one in findings if not (one.practised and profile is Profile.PRACTICE)]
    diagnostic: dict[str, JSON] = {}
    if failed:
        diagnostic["failures"] = [*_grouped(failed)]
    notes: dict[str, JSON] = {}
    if told:
        notes["practised"] = [_told(one) for one in _grouped(told)]
    if undecided:
        kinds = Counter(one.why for one in undecided)
        notes["undecided"] = [f"{one_line(why, 300)} ({count(number, 'call')})" for why, number in kinds.items()]
    if notes:
        diagnostic["notes"] = notes
    if failed:
        verdict = Verdict.FAIL
    elif len(everything) > len(undecided) or told:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.SKIP
        diagnostic["reason"] = "the record does not tell" if undecided else "no call is about this"
    return _of(ident, verdict, diagnostic)


def _grouped(findings: Iterable[Finding]) -> list[JSON]:
    """A failure for each engine and name, with the first call and how many there were."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.call.engine, one.name), []).append(one)
    failures: list[JSON] = []
    for (engine, name), some in list(groups.items())[:_MOST]:
        first = some[0]
        calls = len({one.call.number for one in some})
        failures.append(
            {
                "what": f"{engine}: {name} ({count(calls, 'call')}; call {first.call.number}: {_words(first.call)})",
                "finding": f"{engine}: {name}",
                "expected": first.expected,
                "actual": first.actual,
            }
        )
    return failures


def _told(failure: JSON) -> str:
    return str(failure["what"]) if isinstance(failure, dict) else ""


def _words(call: Call) -> str:
    """The command line, long ids and paths cut in their middle."""
    return one_line(" ".join(w if len(w) <= 32 else f"{w[:12]}…{w[-16:]}" for w in call.argv), 250)


def _features(calls: tuple[Call, ...]) -> Result:
    table = uses.table(calls)
    if not any("containers" in row for row in table.values()):
        return _of(_FEATURES, Verdict.SKIP, {"reason": "no config.json is in the record"})
    notes: dict[str, JSON] = {engine: {**row} for engine, row in table.items()}
    return _of(_FEATURES, Verdict.PASS, {"notes": notes})


def _of(ident: str, verdict: Verdict, diagnostic: dict[str, JSON]) -> Result:
    row = table()[ident]
    if row["implied"]:
        diagnostic = {**diagnostic, "implied": row["implied"]}
    return Result(ident, row["summary"], row["level"], row["section"], verdict, 0.0, diagnostic)

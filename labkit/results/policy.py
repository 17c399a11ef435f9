"""Policies: which results are known to be wrong or expected, and why. Applied after a run, never during it. Pure.

A policy is TOML with entries; docs/how-to/write-a-policy.md shows one. labkit's own are in labkit/results/policies/.
The user's come first, and the first entry that matches a result decides. The verdict never changes: a result that an
entry expects gets the reason beside it. Mismatches are reported: unexpected passes, entries that have expired. A list
of tests to be skipped, as others keep them (labkit/results/skiplists.py), is a policy too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, model_validator

from labkit.core import tomlfile
from labkit.core.errors import UsageError
from labkit.core.suggest import did_you_mean
from labkit.core.text import one_line
from labkit.core.tomlfile import Table
from labkit.core.trust import require_trusted
from labkit.guest.common import versions
from labkit.results import skiplists
from labkit.results.model import WHOLE, Expected, PolicyNotes, Result, Run, Verdict

_SHIPPED = Path(__file__).with_name("policies")
_RANGE = re.compile(r"(<=|>=|<|>|=)\s*(\S+)")
_ANYTHING = "any"
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
}


_CONTROLLERS = {"hybrid": "v1"}  # whose controllers a hybrid host has


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _verdicts(value: object) -> object:
    return tuple(Verdict) if value == _ANYTHING else _listed(value)


Pattern = Annotated[StrictStr, Field(min_length=1, description="a pattern: text with * and ? as a shell has them")]
Patterns = Annotated[
    tuple[Pattern, ...],
    BeforeValidator(_listed),
    Field(min_length=1, description="a pattern, or a list of them: text with * and ? as a shell has them"),
]


class _Entry(Table):
    suite: StrictStr = Field(min_length=1, description="the name of a suite")
    id: Patterns | None = None
    program: Patterns | None = None
    assertion: Patterns | None = None
    findings: Patterns | None = None
    violation: Pattern | None = None
    runtime: Patterns | None = None
    version: StrictStr | None = Field(default=None, description='versions such as ">=1.1, <1.2"')
    cgroup: Literal["v1", "v2", "hybrid"] | None = None
    rootless: StrictBool | None = None
    ref: Patterns | None = None
    engine: Patterns | None = None
    engine_version: StrictStr | None = Field(default=None, description='versions such as ">=0.4, <0.6"')
    platform: Patterns | None = None
    expected: Annotated[
        tuple[Verdict, ...],
        BeforeValidator(_verdicts),
        Field(min_length=1, description="a verdict, or a list of them, or any"),
    ]
    reason: StrictStr = Field(min_length=1, description="a sentence")
    link: StrictStr = Field(default="", pattern=r"^(https://\S+)?$", description="an https address")
    expires: date | None = Field(default=None, description="a date, such as 2027-06-30")

    @model_validator(mode="after")
    def _whole(self) -> _Entry:
        if self.id is None and self.program is None:
            raise ValueError("names neither id nor program, so it matches nothing")
        if self.assertion and not self.program:
            raise ValueError("names an assertion without its program")
        if self.findings and self.program:
            raise ValueError("names findings of a program, which has assertions")
        if self.version is not None:
            if not self.runtime:
                raise ValueError("names a version without its runtime")
            _bounds(self.version)
        if self.engine_version is not None:
            if not self.engine:
                raise ValueError("names an engine_version without its engine")
            _bounds(self.engine_version)
        return self


class _File(Table):
    entry: tuple[_Entry, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One entry of a policy. source names its file and place there, for messages; own is False for labkit's."""

    source: str
    rule: _Entry
    own: bool
    digest: str = ""  # SHA-256 of its file

    @property
    def leaves_out(self) -> bool:
        """Whether it says that what it is about is not meant at all: whatever that shows, and that it does not run."""
        return set(self.rule.expected) == set(Verdict)

    def expired(self, today: date) -> bool:
        return self.rule.expires is not None and self.rule.expires < today

    def applies(self, run: Run) -> bool:
        """Whether its conditions hold for the run. A condition on a fact that the run does not have does not hold."""
        rule, platform = self.rule, str(run.machine.get("platform") or "")
        cgroup = run.machine.get("cgroup")
        return (
            rule.suite == run.suite.name
            and _any(rule.runtime, run.runtime.name)
            and (rule.version is None or within(run.runtime.version, rule.version))
            and rule.cgroup in (None, cgroup, _CONTROLLERS.get(str(cgroup)))
            and rule.rootless in (None, is_rootless(run))
            and _any(rule.ref, run.suite.version)
            and _any(rule.engine, _engine(run))
            and (rule.engine_version is None or within(_engine_version(run), rule.engine_version))
            and _any(rule.platform, *((platform, f"{platform}-{run.machine.get('release')}") if platform else ()))
        )

    def lacks(self, run: Run) -> tuple[str, ...]:
        """The facts that the run does not have, where they alone decide whether the conditions hold; else nothing."""
        rule, cgroup = self.rule, run.machine.get("cgroup")
        platform = str(run.machine.get("platform") or "")
        is_named = run.runtime.name not in ("", "unknown")
        has_version = versions.key(run.runtime.version) is not None
        conditions = (  # what it is, whether the entry names it, whether the run has it, whether it holds
            ("runtime", rule.runtime, is_named, _any(rule.runtime, run.runtime.name)),
            ("runtime version", rule.version, has_version, within(run.runtime.version, rule.version or "=0")),
            ("cgroup version", rule.cgroup, bool(cgroup), rule.cgroup in (cgroup, _CONTROLLERS.get(str(cgroup)))),
            ("ref", rule.ref, bool(run.suite.version), _any(rule.ref, run.suite.version)),
            ("engine", rule.engine, bool(_engine(run)), _any(rule.engine, _engine(run))),
            (
                "engine version",
                rule.engine_version,
                versions.key(_engine_version(run)) is not None,
                within(_engine_version(run), rule.engine_version or "=0"),
            ),
            ("platform", rule.platform, bool(platform), True),
        )
        named = [(what, known, holds) for what, wanted, known, holds in conditions if wanted]
        if rule.suite != run.suite.name or any(known and not holds for _, known, holds in named):
            return ()
        return tuple(what for what, known, _ in named if not known)

    def concerns(self, result: Result) -> bool:
        """Whether it is about the result's program, or its check where that has none."""
        if result.program:
            return _any(self.rule.program, result.program)
        return self.rule.program is None and _any(self.rule.id, result.id)

    def about(self, result: Result) -> bool:
        """Whether it matches this very result. Only an entry that names a violation, or leaves out, matches one."""
        rule, violation = self.rule, result.violation
        return (
            (_any((rule.violation,), violation) if rule.violation else self.leaves_out or not violation)
            and self.concerns(result)
            and _any(rule.id, result.id)
            and _any(rule.assertion, result.name)
        )


def is_rootless(run: Run) -> bool:
    """Whether another user than root ran it, or root of a user namespace."""
    return bool(run.machine.get("user") or run.machine.get("user_namespace"))


def _engine(run: Run) -> str:
    return run.engine.name if run.engine else ""


def _engine_version(run: Run) -> str:
    return run.engine.version if run.engine else ""


def load(own: Path | None = None, *, suites: Sequence[str] = (), programs: Sequence[str] = ()) -> list[Entry]:
    """Return the user's entries, from a file or a directory of *.toml, then labkit's.

    suites are the known ones, programs those of the validation suite, for a list of those that do run. UsageError names
    the file and the key where something is wrong.
    """
    files = [(file, False) for file in sorted(_SHIPPED.glob("*.toml"))]
    if own is not None:
        mine = sorted(own.glob("*.toml")) if own.is_dir() else [own]
        if not mine:
            raise UsageError(f"{own}: a policy directory without any .toml file")
        files = [(file, True) for file in mine] + files
    return [entry for file, is_own in files for entry in _read(file, is_own, suites, programs)]


def shipped() -> dict[str, str]:
    """labkit's own files, by name, with the SHA-256 of each."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(_SHIPPED.glob("*.toml"))}


def text_of(name: str, own: Path | None, digest: str) -> bytes | None:
    """The content of the policy file of that name and digest, one's own or labkit's; None where it is not there."""
    mine = ([*own.glob("*.toml")] if own.is_dir() else [own]) if own else []
    for file in (*mine, _SHIPPED / name):
        if file.name == name and file.is_file() and hashlib.sha256(data := file.read_bytes()).hexdigest() == digest:
            return data
    return None


def of_files(content: Sequence[tuple[str, bytes, bool]]) -> list[Entry]:
    """The entries of files by name and content, and whether each is somebody's own; UsageError where one is none."""
    found: list[Entry] = []
    for name, data, own in content:
        try:
            rules = _rules(data.decode("utf-8-sig"), name)
        except (UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{name}: is not TOML: {error}") from error
        digest = hashlib.sha256(data).hexdigest()
        found += [
            Entry(f"{name}, entry.{number} ({_what(rule)})", rule, own, digest) for number, rule in enumerate(rules)
        ]
    return found


def read_text(text: str, name: str) -> list[Entry]:
    """The entries that the text of a policy file holds, as one's own; name is what messages call the file."""
    return [
        Entry(f"{name}, entry.{number} ({_what(rule)})", rule, True) for number, rule in enumerate(_rules(text, name))
    ]


def _rules(text: str, where: str) -> tuple[_Entry, ...]:
    return tomlfile.check(_File, tomlfile.parse(text, where), lambda _: where).entry


def _read(file: Path, own: bool, suites: Sequence[str], programs: Sequence[str]) -> Iterator[Entry]:
    if own and (listed := skiplists.read_file(require_trusted(file), None, programs)):
        text = "".join(map(skiplists.entry_text, listed.skips))
        for skip, rule in zip(listed.skips, _rules(text, str(file)), strict=True):
            yield Entry(f"{file.name}, line {skip.line} ({_what(rule)})", rule, True)
        return
    read = tomlfile.check(_File, tomlfile.read(require_trusted(file) if own else file), lambda _: str(file))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for number, rule in enumerate(read.entry):
        if suites and rule.suite not in suites:
            raise UsageError(
                f"{file}: entry.{number}.suite is {rule.suite!r}, not a suite{did_you_mean(rule.suite, suites)}"
            )
        yield Entry(f"{file.name}, entry.{number} ({_what(rule)})", rule, own, digest)


def left_out(run: Run, names: Iterable[str], entries: Sequence[Entry], today: date) -> dict[str, str]:
    """Which of these programs or checks the entries leave out of such a run, name to reason: they need not be there."""
    leaving = [
        entry
        for entry in entries
        if entry.leaves_out
        and not (entry.rule.assertion or entry.rule.findings or entry.rule.violation)
        and entry.applies(run)
        and not entry.expired(today)
    ]
    found: dict[str, str] = {}
    for name in names:
        for entry in leaving:
            if _any(entry.rule.program or entry.rule.id, name):
                found.setdefault(name, entry.rule.reason)
    return found


def _what(entry: _Entry) -> str:
    words = [*(entry.id or ()), *(entry.program or ()), *(entry.assertion or ())]
    return one_line(f"{entry.suite} {', '.join(words)}", 100)


def files(entries: Sequence[Entry]) -> dict[str, str]:
    """The names of the files that the entries are of, in order, with the SHA-256 of each."""
    return {entry.source.partition(", entry.")[0]: entry.digest for entry in entries}


def apply(run: Run, entries: Sequence[Entry] | None, today: date) -> Run:
    """Return the run with what the entries expect marked as expected; with None, without any mark."""
    bare = [
        dataclasses.replace(result, expected=None, known=()) if result.expected or result.known else result
        for result in run.results
    ]
    if entries is None:
        return dataclasses.replace(run, results=tuple(bare), policy=None)
    applying = [entry for entry in entries if entry.applies(run)]
    valid = [entry for entry in applying if not entry.expired(today)]
    marked: list[Result] = []
    places: dict[str, list[int]] = {}  # of the results of each program, or of each id where there is no program
    for place, result in enumerate(bare):
        places.setdefault(result.program or result.id, []).append(place)
        marked.append(result)
    passes: list[str] = []
    for group in places.values():
        concerned = [entry for entry in valid if entry.concerns(bare[group[0]])]
        if not concerned:
            continue
        met = set()
        for place in group:
            marked[place], by = judged(bare[place], concerned)
            met.update(by)
        passes += _unexpected_passes([entry for entry in concerned if entry not in met], [bare[n] for n in group])
    notes = PolicyNotes(
        tuple(
            f"{entry.source} expired on {entry.rule.expires}: {entry.rule.reason}"
            for entry in applying
            if entry.expired(today)
        ),
        tuple(passes),
        tuple(_misspelt(applying, marked)),
    )
    return dataclasses.replace(run, results=tuple(marked), policy=notes)


@dataclass(frozen=True, slots=True)
class Lacking:
    """Facts that a run does not have, and how many entries about its results could not apply for want of them."""

    facts: frozenset[str]
    entries: int


def lacking(run: Run, entries: Sequence[Entry]) -> Lacking:
    """What the entries that concern something in the run would have to know of it."""
    one_of_each = {result.program or result.id: result for result in run.results}.values()
    waiting = [facts for entry in entries if (facts := entry.lacks(run)) and any(map(entry.concerns, one_of_each))]
    return Lacking(frozenset(fact for facts in waiting for fact in facts), len(waiting))


def judged(result: Result, entries: Sequence[Entry]) -> tuple[Result, list[Entry]]:
    """The result as those of the entries that are about it expect it, and those of them that do expect it.

    For a whole result the first entry decides; of findings, for each the first that names it, or that names none.
    """
    entries = [entry for entry in entries if entry.about(result)]
    findings = result.findings
    if not findings:
        entry = next((entry for entry in entries if not entry.rule.findings), None)
        if entry is None or result.verdict not in entry.rule.expected:
            return result, []
        if not (result.bad or result.verdict is Verdict.NO_ASSERTIONS):
            return result, [entry]
        return dataclasses.replace(result, expected=_expected([entry])), [entry]
    decided = deciding(findings, entries)
    by = {finding: entry for finding, entry in decided.items() if result.verdict in entry.rule.expected}
    met = list(dict.fromkeys(by.values()))
    whole = met and set(by) == set(findings)
    known = tuple(finding for finding in findings if finding in by)
    return dataclasses.replace(result, known=known, expected=_expected(met) if whole else None), met


def deciding(findings: Sequence[str], entries: Sequence[Entry]) -> dict[str, Entry]:
    """Of entries about one result, the one that decides each finding: the first that names it, or that names none."""
    decided: dict[str, Entry] = {}
    for entry in entries:
        for finding in findings:
            if _any(entry.rule.findings, finding):
                decided.setdefault(finding, entry)
    return decided


def _expected(entries: Sequence[Entry]) -> Expected:
    reasons = "; ".join(dict.fromkeys(entry.rule.reason for entry in entries))
    return Expected(reasons, entries[0].rule.link, ", ".join(entry.source for entry in entries))


def _unexpected_passes(entries: Sequence[Entry], results: Sequence[Result]) -> Iterator[str]:
    """A line for each entry that expects a failure of this check or program, where nothing is bad and not all skipped:
    what could not be looked at passes as little as it fails.
    """
    for entry in entries:
        # A program that passed has no result about it as a whole.
        of = None if entry.rule.assertion == (WHOLE,) else entry.rule.assertion
        found = [result for result in results if _any(of, result.name)]
        if any(result.verdict is Verdict.FLAKY for result in found):
            continue  # neither a pass nor a failure
        shown = any(result.verdict is not Verdict.SKIP for result in found)
        if shown and not any(_as_wrong(entry, result) for result in found) and Verdict.PASS not in entry.rule.expected:
            wanted = " or ".join(entry.rule.expected)
            wanted += f" with the violation {entry.rule.violation!r}" if entry.rule.violation else ""
            got = " and ".join(dict.fromkeys(result.verdict for result in found))
            what = results[0].program or results[0].id
            yield f"{what}: expected {wanted}, got {got} ({entry.source}: {entry.rule.reason})"


def _as_wrong(entry: Entry, result: Result) -> bool:
    """Whether the result is bad; that nothing was asserted is none of the violations that an entry may name."""
    return result.bad and not (
        entry.rule.violation and not result.violation and result.verdict is Verdict.NO_ASSERTIONS
    )


def _misspelt(entries: Sequence[Entry], results: Sequence[Result]) -> Iterator[str]:
    """A line for each of the user's own entries that matches no result here, but nearly does."""
    for entry in entries:
        if not entry.own:
            continue
        if not any(map(entry.concerns, results)):
            known = {result.program if entry.rule.program else result.id for result in results}
            for pattern in entry.rule.program or entry.rule.id or ():
                if near := did_you_mean(pattern, known):
                    yield f"{entry.source} matches no result{near}"
        yield from bracketed(entry, results)


def bracketed(entry: Entry, results: Iterable[Result]) -> Iterator[str]:
    """A line for each pattern of the entry that is about nothing here for its brackets: a set of characters, where the
    text itself was meant.
    """
    rule = entry.rule
    for key in ("program", "id", "assertion", "violation", "findings"):
        for pattern in _listed(getattr(rule, key)) or ():  # type: ignore[attr-defined]
            if "[" not in pattern:
                continue
            words = {word for result in results for word in _words(result, key)}
            literal = pattern.replace("[", "[[]")
            if not _any((pattern,), *words) and (met := next((w for w in words if fnmatchcase(w, literal)), None)):
                yield (
                    f"{entry.source}: {key} {pattern!r} matches nothing: in a pattern, [...] is one of the characters "
                    f"in it; for the text {one_line(met, 100)!r} write [[] for each ["
                )


def _words(result: Result, key: str) -> Sequence[str]:
    """What of a result a pattern of that key is held to."""
    if key == "findings":
        return result.findings
    word = {
        "program": result.program,
        "id": result.id,
        "assertion": result.name if result.program else "",
        "violation": result.violation,
    }[key]
    return (word,) if word else ()


def _any(patterns: Sequence[str] | None, *words: str) -> bool:
    """Whether one of the words is the text of a pattern itself, or what a shell has it match."""
    return patterns is None or any(
        word == pattern or fnmatchcase(word, pattern) for pattern in patterns for word in words
    )


# --- versions


def within(version: str, bounds: str) -> bool:
    """Whether a version, as a runtime prints it (1.1.15+ds1, v1.2.0-rc.1), is within `>=1.1, <1.2`.

    Missing parts count as zero; a release candidate comes before its release.
    """
    found = versions.key(version)
    return found is not None and all(_OPERATORS[operator](found, bound) for operator, bound in _bounds(bounds))


def exactly(version: str) -> str | None:
    """The bounds that this version alone is within, whatever its distribution added; None where it has no number."""
    number = versions.plain(version)
    return f"={number}" if number else None


def _bounds(text: str) -> list[tuple[str, versions.Key]]:
    bounds = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        number = versions.exact(match[2]) if match else None
        if match is None or number is None:
            raise ValueError(f'version is {text!r}, must be such as ">=1.1, <1.2" or "=1.1.15"')
        bounds.append((match[1], number))
    return bounds

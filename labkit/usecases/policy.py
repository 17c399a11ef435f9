"""The use cases of policies: writing an entry for what a run showed, reading others' lists, looking over entries."""

from __future__ import annotations

import contextlib
import os
import stat
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import LabError, UsageError
from labkit.core.observer import Observer
from labkit.core.suggest import did_you_mean
from labkit.core.text import one_line
from labkit.core.trust import require_trusted
from labkit.io.files import disk_errors, locked, make_directory, write_atomic
from labkit.results import policy, skiplists
from labkit.results.model import Result, Run, Verdict
from labkit.results.policy import Entry
from labkit.results.policytext import quoted, string, table
from labkit.store import runs
from labkit.suites import registry
from labkit.usecases import judge

NARROWED = ("runtime", "version", "cgroup", "platform")
_FILE = "policy.toml"
_LAST = 20  # runs
_SHOWN = 5
_WAIT = 30.0  # seconds for another command that writes the same file


@dataclass(frozen=True, slots=True)
class Written:
    """What was put into which file: the text of each entry, and what else a person should know."""

    file: Path
    entries: tuple[str, ...]
    told: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {"file": str(self.file), "written": list(self.entries), "told": list(self.told)}


@dataclass(frozen=True, slots=True)
class Looked:
    """How an entry did: in how many runs what it is about was shown, in how many of them it met something, and what is
    wrong with it.
    """

    entry: Entry
    shown: int
    met: int
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "source": self.entry.source,
            "reason": self.entry.rule.reason,
            "shown": self.shown,
            "met": self.met,
            "problems": list(self.problems),
        }


@dataclass(frozen=True, slots=True)
class Checked:
    runs: tuple[str, ...]
    entries: tuple[Looked, ...]
    told: tuple[str, ...]

    @property
    def wrong(self) -> int:
        return sum(bool(entry.problems) for entry in self.entries)

    def to_json(self) -> dict[str, object]:
        return {
            "runs": list(self.runs),
            "entries": [entry.to_json() for entry in self.entries],
            "wrong": self.wrong,
            "told": list(self.told),
        }


# --- add


def add(
    settings: Settings,
    observer: Observer,
    name: str,
    words: Sequence[str],
    *,
    reason: str,
    link: str = "",
    expires: str = "",
    file: str | None = None,
    wide: Sequence[str] = (),
) -> Written:
    """Write entries for what the run of that name showed of these checks, programs or results into the user's policy.

    They hold for the run's runtime, version, cgroup version and platform, but for what wide names. UsageError, with
    nothing written, where one of the words is no failure there, or is expected already.
    """
    until = _day(expires)
    target = _target(settings, file)
    with locked(settings.home.lock("policy"), timeout=_WAIT, waiting=observer.step, what="the policy file"):
        own = _own(settings, target)
        shipped = [entry for entry in policy.load() if not entry.own]
        run = policy.apply(_run(settings, name), [*own, *shipped], _today())
        found = list({id(one): one for word in words for one in _open(run, word)}.values())
        conditions, told = _conditions(run, wide)
        ends: list[tuple[str, str | date]] = [("reason", reason)]
        ends += [("link", link)] if link else []
        ends += [("expires", until)] if until else []
        texts = [table([*about, *conditions, *what, *ends]) for about, what in _subjects(run, found)]
        new = policy.read_text("\n".join(texts), "the new entry")
        _require_expected(run, found, own, new, shipped)
        _append(target, texts)
        told = [*told, *_named(settings, target, file)]
    return Written(target, tuple(texts), tuple(told))


def _today() -> date:
    return datetime.now(UTC).date()


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--expires is {text!r}, must be a date, such as 2027-06-30") from error
    if day < _today():
        raise UsageError(f"--expires is {text}, which is past: such an entry would expect nothing")
    return day


def _run(settings: Settings, name: str) -> Run:
    first, *more = judge.read(settings, name)
    if more:
        raise UsageError(
            f"{name} has output of several suites", hint=f"./lab judge {name} makes a run of each; name one of those"
        )
    return first


def _bad(result: Result) -> bool:
    return result.bad or result.verdict is Verdict.NO_ASSERTIONS


def _open(run: Run, word: str) -> list[Result]:
    """The results that the word means and that are bad and not expected. UsageError where there is none."""
    meant = [result for result in run.results if _means(word, result)]
    bad = [result for result in meant if _bad(result)]
    found = [result for result in bad if result.expected is None]
    if found:
        return found
    if not meant:
        known = {result.program or result.id for result in run.results} | {result.id for result in run.results}
        raise UsageError(f"{run.run.id} has no {word}{did_you_mean(word, known)}", hint=_hint(run))
    if not bad:
        verdicts = " and ".join(dict.fromkeys(result.verdict for result in meant))
        raise UsageError(f"{word} is no failure in {run.run.id}: it came to {verdicts}", hint=_hint(run))
    by = {result.expected.source: result.expected.reason for result in bad if result.expected}
    said = "; ".join(f"{source}: {reason}" for source, reason in by.items())
    raise UsageError(f"{word} is expected already: {one_line(said, 500)}", hint=_hint(run))


def _means(word: str, result: Result) -> bool:
    names = (result.id, result.program) if result.program else (result.id,)
    return word == result.name or any(name.casefold() == word.casefold() or fnmatchcase(name, word) for name in names)


def _hint(run: Run) -> str:
    names = list(dict.fromkeys(r.program or r.id for r in run.results if _bad(r) and r.expected is None))
    if not names:
        return f"nothing in {run.run.id} is bad and not expected"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"bad and not expected there: {', '.join(names[:20])}{more}"


def _conditions(run: Run, wide: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """What the entries hold for, and a line for each condition that the run lets nobody make."""
    machine = run.machine
    runtime = "" if run.runtime.name == "unknown" else run.runtime.name
    system = str(machine.get("platform") or "")
    release = str(machine.get("release") or "")
    known = {
        "runtime": quoted(runtime),
        "version": (policy.exactly(run.runtime.version) or "") if runtime and "runtime" not in wide else "",
        "cgroup": str(machine.get("cgroup") or ""),
        "platform": quoted(f"{system}-{release}" if system and release else system),
    }
    pairs = [(key, known[key]) for key in NARROWED if known[key] and key not in wide]
    pairs += [("engine", quoted(run.engine.name))] if run.engine else []
    missing = [key for key in NARROWED if not known[key] and key not in wide and not (key == "version" and not runtime)]
    if "runtime" in wide and "version" in missing:
        missing.remove("version")
    told = [f"the run does not say its {' or '.join(missing)}: the entry holds for each"] if missing else []
    return pairs, told


def _subjects(
    run: Run, found: Sequence[Result]
) -> Iterable[tuple[list[tuple[str, str | Sequence[str]]], list[tuple[str, str | Sequence[str]]]]]:
    """What each entry is about, and what it expects of that: a check with its findings, or assertions of a program."""
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in found:
        subject = result.program or result.id
        groups[subject, result.verdict.value, result.violation].append(result)
    for (subject, verdict, violation), results in groups.items():
        if not results[0].program:
            names = dict.fromkeys(one for r in results for one in r.findings if one not in r.known)
            findings = [("findings", [quoted(name) for name in names])] if names else []
            yield [("suite", run.suite.name), ("id", quoted(subject))], [("expected", verdict), *findings]
            continue
        about: list[tuple[str, str | Sequence[str]]] = [("suite", run.suite.name), ("program", quoted(subject))]
        about.append(("assertion", list(dict.fromkeys(map(_assertion, results)))))
        if violation:
            about.append(("violation", quoted(violation)))
        yield about, [("expected", verdict)]


def _assertion(result: Result) -> str:
    """The pattern for the name of a result; what each run makes up in it stands for anything."""
    return "*".join(quoted(part) for part in result.identity[1].split("…"))


def _require_expected(
    run: Run, found: Sequence[Result], own: Sequence[Entry], new: Sequence[Entry], shipped: Sequence[Entry]
) -> None:
    """UsageError where the new entries would not have the results expected, because an earlier one decides."""
    judged = policy.apply(run, [*own, *new, *shipped], _today())
    wanted = {(result.program, result.id, result.name) for result in found}
    for result in judged.results:
        if (result.program, result.id, result.name) in wanted and _bad(result) and result.expected is None:
            first = next((e for e in own if e.applies(run) and not e.expired(_today()) and e.about(result)), None)
            what = f"{result.id} ({one_line(result.name, 100)})"
            if first is None:
                raise UsageError(f"an entry for {what} would not match it", hint="please report this")
            raise UsageError(
                f"an entry for {what} would have no effect: {first.source} comes before it and decides",
                hint="change that entry",
            )


# --- import


def entries_word(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"


def take(
    settings: Settings, observer: Observer, path: Path, *, kind: str | None = None, file: str | None = None
) -> Written:
    """Write entries for a list of tests to be skipped into the user's policy. UsageError where it is none, or nothing
    of it can be taken.
    """
    if kind is not None and kind not in skiplists.FORMATS:
        raise UsageError(f"--syntax is {kind!r}, must be one of {', '.join(skiplists.FORMATS)}")
    if path.is_dir():
        raise UsageError(f"{path} is a directory, must be a file", hint="give the list itself")
    listed = skiplists.read_file(path, kind, registry.find("validation").names())
    if listed is None:
        raise UsageError(
            f"{path} is no list of tests to be skipped that labkit knows",
            hint=f"--syntax names what it is: {', '.join(skiplists.FORMATS)}",
        )
    if not listed.skips:
        raise UsageError(
            f"{path}, read as {listed.format}, has nothing that could be taken",
            hint="\n".join(listed.untaken[:_SHOWN]) or None,
        )
    target = _target(settings, file)
    with locked(settings.home.lock("policy"), timeout=_WAIT, waiting=observer.step, what="the policy file"):
        own = _own(settings, target)
        if not _reads(settings, target):  # a file apart is to be whole
            own = policy.read_text(_text(target), str(target)) if target.exists() else []
        there = [entry.rule for entry in own]
        texts = [skiplists.entry_text(skip) for skip in listed.skips]
        new = [text for text in texts if policy.read_text(text, str(path))[0].rule not in there]
        told = [
            f"read as {listed.format}: {entries_word(len(texts))}",
            *(f"not taken: {line}" for line in listed.untaken),
        ]
        if same := len(texts) - len(new):
            told.append(f"{same} of them are there already")
        if new:
            _append(target, new)
            told += _named(settings, target, file)
    return Written(target, tuple(new), tuple(told))


# --- the user's file


def _target(settings: Settings, file: str | None) -> Path:
    """The file to write to: as --file says, else as `policy` in labkit.toml, else a new one beside labkit.toml."""
    if file is not None:
        place = Path.cwd() / Path(file).expanduser()
    elif settings.policy is not None:
        place = settings.policy
    else:
        place = (_configuration(settings) or Path.cwd() / config.FILE).with_name(_FILE)
    return place / _FILE if place.is_dir() else place


def _configuration(settings: Settings) -> Path | None:
    """labkit.toml, where it is a file that can be written to."""
    return settings.file if settings.file and settings.file.is_file() else None


def _own(settings: Settings, target: Path) -> list[Entry]:
    """The user's entries in the order in which they decide, those of the target at least."""
    own: list[Entry] = []
    place = settings.policy
    if place is not None and (place.is_file() or (place.is_dir() and any(place.glob("*.toml")))):
        own = [entry for entry in judge.policies(settings) if entry.own]
    if target.exists() and not _reads(settings, target):
        own += [entry for entry in policy.load(target, suites=registry.names()) if entry.own]
    if target.exists() and skiplists.read_file(target) is not None:
        raise UsageError(
            f"{target} is a list of tests to be skipped, not a policy file: nothing can be added to it",
            hint=f"./lab policy import {target} --file {_FILE} makes a policy of it",
        )
    return own


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig", "replace")


def _reads(settings: Settings, target: Path) -> bool:
    """Whether the configuration has labkit read that file."""
    place = settings.policy
    if place is None:
        return False
    real = target.resolve()
    return real == place.resolve() or (place.is_dir() and real.parent == place.resolve() and real.suffix == ".toml")


def _append(target: Path, texts: Sequence[str]) -> None:
    """Put entries at the end of the file; what is there stays byte for byte, and keeps its mode and owner."""
    real = target.resolve()
    before = b""
    with disk_errors(real.parent):
        if real.exists():
            before = require_trusted(real).read_bytes()
        else:
            make_directory(real.parent)
    end = b"\r\n" if before.count(b"\r\n") > before.count(b"\n") // 2 else b"\n"
    added = b"\n".join(text.encode() for text in texts).replace(b"\n", end)
    gap = b"" if not before.strip() else end if before.endswith(b"\n") else end * 2
    after = before + gap + added
    try:
        text = after.decode("utf-8-sig")
        known = len(tomllib.loads(before.decode("utf-8-sig")).get("entry", []))
        right = len(policy.read_text(text, str(target))) == known + len(texts)
    except (UsageError, ValueError):
        right = False
    if not right:
        raise UsageError(
            f"{target} cannot be added to: its entries are not all tables of their own, [[entry]]",
            hint="put this into it by hand:\n" + "\n".join(texts),
        )
    _replace(real, after)


def _replace(path: Path, data: bytes) -> None:
    """Write a file anew, as whose it was and as it could be read; path is no link."""
    with disk_errors(path.parent):
        old = path.stat() if path.exists() else None
        write_atomic(path, data, mode=stat.S_IMODE(old.st_mode) if old else 0o644)
        if old:
            path.chmod(stat.S_IMODE(old.st_mode))
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.chown(path, old.st_uid, old.st_gid)


def _named(settings: Settings, target: Path, file: str | None) -> list[str]:
    """Have labkit.toml name the file that was written, where it names none; what was done or is to be done."""
    if _reads(settings, target):
        return []
    if file is not None or settings.policy is not None:
        names = f"names {settings.policy}" if settings.policy else "names none"
        return [f"`judge` does not read {target}: `policy` in labkit.toml {names}"]
    if settings.file is not None and _configuration(settings) is None:
        return [f"`judge` does not read {target} until `policy` in a labkit.toml, or LABKIT_POLICY, names it"]
    place = _configuration(settings) or Path.cwd() / config.FILE
    line = f"policy = {string(os.path.relpath(target, place.parent))}"
    real = place.resolve()
    old = real.read_bytes() if real.exists() else b""
    new = _with_key(old, line)
    if new is None:
        return [f"`judge` does not read {target} until this is in {place}: {line}"]
    _replace(real, new)
    return [f"{place} {'names it now' if old else 'was made, and names it'}: {line}"]


def _with_key(old: bytes, line: str) -> bytes | None:
    """The text of a TOML file with one more key before its tables; None where that is not sure to be right."""
    try:
        text = old.decode("utf-8-sig")
        wanted = {**tomllib.loads(text), **tomllib.loads(line)}
    except ValueError:
        return None
    mark = old[: len(old) - len(text.encode())]
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    places = [number for number, one in enumerate(lines) if one.lstrip().startswith("[")]
    for place in (*places, len(lines)):
        gap = end if place < len(lines) else ""
        new = "".join((*lines[:place], line, end, gap, *lines[place:]))
        with contextlib.suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(new) == wanted:
                return mark + new.encode()
    return None


# --- check


def check(settings: Settings, names: Sequence[str] = (), *, shipped: bool = False) -> Checked:
    """Look the user's entries over, with shipped also labkit's: which met nothing in these runs, or in the last ones,
    though it could have, which are past their date, and which hide more than one finding.
    """
    everything = judge.policies(settings)
    entries = [entry for entry in everything if entry.own or shipped]
    told: list[str] = []
    if settings.policy is None and not shipped:
        told.append("there is no policy of your own: `policy` in labkit.toml names one, ./lab policy add makes one")
    looked, ids = _Looking(entries, everything), []
    if entries:
        for name in names or _last(settings):
            try:
                found = judge.read(settings, name)
            except LabError as error:
                if names:
                    raise
                told.append(f"left out: {error.message}")
                continue
            for run in found:
                ids.append(run.run.id)
                looked.at(policy.apply(run, None, _today()))
        if not ids:
            told.append(f"there is no run yet in {settings.reports}: only the dates were looked at")
    return Checked(tuple(ids), tuple(looked.outcome(entry) for entry in entries), tuple(told))


def _last(settings: Settings) -> list[str]:
    known = [ident for ident in reversed(runs.ids(settings.reports)) if runs.is_run(settings.reports / ident)]
    return known[:_LAST]


class _Looking:
    """Gathers how each entry did in run after run."""

    def __init__(self, entries: Sequence[Entry], deciding: Sequence[Entry]) -> None:
        """deciding: all that decide, in their order, the entries among them."""
        self._entries = set(entries)
        self._deciding = deciding
        self._applied: set[Entry] = set()
        self._shown: dict[Entry, list[str]] = defaultdict(list)  # the runs that showed what it is about
        self._met: Counter[Entry] = Counter()
        self._hidden: dict[Entry, list[str]] = {}  # the most that it hid at once
        self._brackets: dict[Entry, dict[str, None]] = defaultdict(dict)

    def at(self, run: Run) -> None:
        valid = [entry for entry in self._deciding if entry.applies(run) and not entry.expired(_today())]
        self._applied |= self._entries.intersection(valid)
        for entry in self._entries.intersection(valid):
            self._brackets[entry] |= dict.fromkeys(policy.bracketed(entry, run.results))
        shown: set[Entry] = set()
        met: dict[Entry, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
        groups: dict[str, list[Entry]] = {}
        for result in run.results:
            name = result.program or result.id
            if name not in groups:
                groups[name] = [entry for entry in valid if entry.concerns(result)]
            if result.verdict is not Verdict.SKIP:
                shown.update(groups[name])
            decided = policy.deciding(result.findings, [entry for entry in groups[name] if entry.about(result)])
            for entry in policy.judged(result, groups[name])[1]:
                if _bad(result) or not entry.leaves_out:
                    findings = [finding for finding, by in decided.items() if by is entry]
                    met[entry][_group(entry, name)].update(dict.fromkeys(_unnamed(entry, result, findings)))
        for entry in shown & self._entries:
            self._shown[entry].append(run.run.id)
        for entry, by in met.items():
            self._met[entry] += 1
            most = max(by.values(), key=len)
            if len(most) > max(1, len(self._hidden.get(entry, ()))):
                self._hidden[entry] = list(most)

    def outcome(self, entry: Entry) -> Looked:
        rule, shown, met = entry.rule, self._shown[entry], self._met[entry]
        problems = list(self._brackets[entry])
        if entry.expired(_today()):
            problems.append(f"it expired on {rule.expires}")
        elif shown and not met:
            times = "the run" if len(shown) == 1 else f"any of the {len(shown)} runs"
            problems.append(f"it met nothing in {times} that showed what it is about: {_some(shown)}")
        elif entry in self._applied and not shown and (strange := _strange(entry)):
            problems.append(f"the suite {rule.suite} has nothing called {strange}")
        if hidden := self._hidden.get(entry):
            problems.append(f"it hides {len(hidden)} findings, and names none of them: {_some(hidden)}")
        return Looked(entry, len(shown), met, tuple(problems))


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(one_line(word, 100) for word in words[:_SHOWN])
    return shown + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")


def _group(entry: Entry, name: str) -> str:
    """What of an entry stands for itself: a check or program that it names, else all that its pattern matches."""
    return name if _named_in(entry.rule.program or entry.rule.id, name) else ""


def _named_in(patterns: Sequence[str] | None, text: str) -> bool:
    return any(pattern in (text, quoted(text)) for pattern in patterns or ())


def _unnamed(entry: Entry, result: Result, findings: Sequence[str]) -> list[str]:
    """What of a result an entry expects without naming it; findings are those of a check that it decides."""
    rule = entry.rule
    if not _bad(result):
        return []
    if result.findings:
        return [f"{result.id} {finding}" for finding in findings if not _named_in(rule.findings, finding)]
    if result.violation and rule.violation and _named_in((rule.violation,), result.violation):
        return []
    if result.program:
        named = _named_in(rule.assertion, result.name) or _assertion(result) in (rule.assertion or ())
        return [] if named else [f"{result.program} {result.violation or result.name}"]
    return [] if _named_in(rule.id, result.id) else [result.id]


def _matches(patterns: Sequence[str], text: str) -> bool:
    return any(text == pattern or fnmatchcase(text, pattern) for pattern in patterns)


def _strange(entry: Entry) -> str:
    """What the entry calls programs or checks where its suite has none of them, with a guess; "" where it has one."""
    known = registry.find(entry.rule.suite).names()
    patterns = entry.rule.program or entry.rule.id or ()
    if any(_matches((pattern,), name) for pattern in patterns for name in known):
        return ""
    return ", ".join(f"{pattern!r}{did_you_mean(pattern, known)}" for pattern in patterns)

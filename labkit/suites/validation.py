"""The validation suite: runtime-tools' own programs, run by labkit.guest.programs in the machine, judged here."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.core.text import count, some, truncate
from labkit.guest.pyz import pyz
from labkit.io.files import write_atomic
from labkit.results import copies, values, verdicts
from labkit.results.copies import Note
from labkit.results.model import URGENCY, WHOLE, Reading, Result
from labkit.results.tap import JSON
from labkit.results.verdicts import End, Judged
from labkit.subjects import runtimes
from labkit.suites import recordings, refs, subset, summary
from labkit.suites.base import ATTACHED, Capped, OnResult, Suite
from labkit.suites.facts import settled
from labkit.suites.subset import ALL, Subset

_ERRORS = "labkit-programs.err"  # no program can have such a name
_FACT = re.compile(r"[a-z][a-z-]{0,39}")
_LINE = 4 << 20  # bytes
OTHERS = ("bundle_validate", "docker", "image_validate", "podman", "rkt", "runtimetest", "spec")  # of other suites


class Validation:
    name = "validation"
    title = "the validation programs of opencontainers/runtime-tools"
    version = ""  # the ref of its tree, known only in the machine
    needs: tuple[str, ...] = ("runtime-tools",)
    takes_arguments = False
    longest = 0.0
    programs: Mapping[str, str] = MappingProxyType({"python3": "python"})

    def file_name(self) -> str:
        return "labkit-programs.pyz"

    def program(self) -> bytes:
        return pyz("programs")

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        words = ["python3", program, *ATTACHED, "--tree", refs.data().tree, "--runtime", runtime]
        words += itertools.chain.from_iterable(("--older", *one) for one in runtimes.older_refs())
        only, skip = ",".join(selection.only), ",".join(selection.skip)
        flags = {"only": only, "leave-out": skip, "jobs": selection.jobs, "repeat": selection.repeat}
        for flag, value in flags.items():
            words += [f"--{flag}", str(value)] if value else []
        return words + (["--timeout", f"{selection.timeout:g}"] if selection.timeout else [])

    def names(self) -> list[str]:
        return sorted({name for ref in refs.data().refs.values() for name in refs.data().programs(ref)})

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return [*self.argv(program, runtime, Selection()), "--list"]  # a tree may have others than the known refs

    def check(self, selection: Selection) -> None:
        if selection.user:
            raise UsageError(f"the {self.name} suite does not take --user; --suite spec and --suite bats do")
        if selection.spec:
            raise UsageError(f"the {self.name} suite does not take --spec; --suite spec does")
        subset.of(self.name, "program", selection, self.names())

    def needs_reset(self, selection: Selection) -> bool:
        return any(name in refs.data().spoil for name in subset.of(self.name, "program", selection, self.names()))

    @contextlib.contextmanager
    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> Iterator[_Recorder]:
        with Capped(raw / _ERRORS, recordings.STDERR) as err:
            recorder = _Recorder(raw, err, on_result, only)
            try:
                yield recorder
            finally:
                recorder.keep()

    def recognizes(self, raw: Path) -> bool:
        kept = recordings.read_run(raw)
        if kept and kept.facts.get("set"):
            return False  # it says itself that it is another's
        named = [match[1] for file in recordings.files(raw) if (match := recordings.FILE.fullmatch(file))]
        begun = not named and not any(raw.glob("*.tap")) and recordings.is_begun(raw)
        return any(self._has(name, kept) for name in named) or (self.alone and begun)

    def knows_facts(self, raw: Path) -> bool:
        return any((place / recordings.RUN).is_file() for place in (raw, raw / "shard-1"))

    alone = True  # what names programs and has no output of any is of this suite

    def _has(self, name: str, kept: recordings.RunFile | None) -> bool:
        """Whether a program's name is one of this suite; other suites' output may lie beside its own."""
        return name not in OTHERS or bool(kept and name in (*kept.programs, *kept.only))

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        kept = recordings.read_run(raw)
        ended = recordings.read_summary(raw)
        ends = {key: end for key, end in (ended.ends if ended else {}).items() if self._has(key[0], kept)}
        every, strange = recordings.programs(raw, ends)
        found = {name: attempts for name, attempts in every.items() if self._has(name, kept)}
        room, unread, cgroups = recordings.TOTAL, [], set()
        programs: dict[str, list[Judged]] = {}  # by name: a file may hold several
        holders: set[str] = set()  # the files that do
        dialects: Counter[str] = Counter()
        notes: list[tuple[str, Note]] = []
        for name, attempts in found.items():
            if room <= 0:
                unread.append(name)
                continue
            for attempt in attempts:
                end = ends.get((name, attempt)) if ended else End(unknown=True)
                file, size, seen = recordings.judge(raw, name, attempt, end)
                for one in file.judged:
                    programs.setdefault(one.program.name, []).append(one)
                    holders |= {name} if one.program.name != name else set()
                dialects.update([file.dialect] if file.dialect else [])
                notes += ((f"{recordings.stem(name, attempt)}.tap", note) for note in file.notes)
                room -= size
                cgroups |= seen
        judged = [verdicts.repeated(attempts) for attempts in programs.values()]
        results = [result for one in judged for result in one.results]
        facts, told = self._facts(kept, known or {}, results, programs, cgroups)
        should, line = self.expected(kept, facts, programs, meant)
        told = [*copies.told(notes), *told, *([line] if line else [])]
        told += ended.told if ended else []
        others = [name for name in programs if name not in should and name not in (kept.only if kept else ())]
        if others and not kept:
            told.append(
                f"not among the programs of runtime-tools {facts.get('ref', '')}".rstrip() + f": {some(others)}"
            )
        if meant.is_subset:
            should = subset.of(self.name, "program", meant, [*should, *others], self.names())
            if left := [name for name in programs if name not in should]:
                told.append(f"left out, as was said: {count(len(left), 'program')}, {some(left)}")
            there = {*should, *holders}
            found = {name: attempts for name, attempts in found.items() if name in there}
            ends = {key: end for key, end in ends.items() if key[0] in there}
            judged = [one for one in judged if one.program.name in there]
            results = [result for result in results if result.program in there]
        reasons = []
        if ended is None:
            reasons.append(f"no {summary.FILE}, so the programs' exit statuses are unknown")
        elif ended.lacks:
            what = f"{summary.FILE} has no column {' and no column '.join(ended.lacks)}"
            (reasons if "exit_status" in ended.lacks else told).append(what)
        if kept and not kept.finished:
            reasons.append("the suite did not finish")
        if kept and kept.noise:
            reasons.append(f"{kept.noise} lines of the output are not in the suite's format")
        if unread or (kept and kept.over):
            reasons.append(f"more than {recordings.TOTAL >> 20} MiB of output; the rest was dropped")
        if strange:
            why = "no program has such a name, or it is a link that leads elsewhere"
            reasons.append(f"ignored, because {why}: {some(map(repr, strange))}")
        lost = [name for name, attempt in ends if attempt not in found.get(name, ())]
        if missing := list(dict.fromkeys([*lost, *(name for name in should if name not in {*found, *programs})])):
            reasons.append(f"{count(len(missing), 'program')} missing: {some(missing)}")
        if ended and (dangling := [n for n, times in found.items() if any((n, t) not in ends for t in times)]):
            reasons.append(f"{count(len(dangling), 'program')} not finished: {some(dangling)}")
        ran = tuple(one.program for one in judged)
        taken = tuple(name for name, _ in dialects.most_common())
        return Reading(tuple(results), facts, "; ".join(reasons) or None, ran, taken, tuple(told))

    def _facts(
        self,
        kept: recordings.RunFile | None,
        known: Mapping[str, str],
        results: Sequence[Result],
        found: Collection[str],
        cgroups: set[str],
    ) -> tuple[dict[str, str], list[str]]:
        """What was said, what run.json says, and what the output lets conclude; and what is to be told of that."""
        own = dict(kept.facts) if kept else {}
        spec = recordings.spec_of(results)
        concluded = {"spec": spec} if spec else {}
        fitting = refs.data().fitting(spec, found) if spec else []
        if fitting:
            concluded["ref"] = fitting[0]
        if len(cgroups) == 1:
            concluded["cgroup"] = min(cgroups)
        facts, told = settled({**{key: concluded[key] for key in concluded if key == "cgroup"}, **own}, known)
        new = {key: value for key, value in concluded.items() if key not in {**own, **known}}
        if new.keys() & {"ref", "cgroup"}:
            words = [f"{what} {new[key]}" for key, what in _CONCLUDED.items() if key in new]
            more = f" (or {', '.join(fitting[1:])}: --ref says which)" if "ref" in new and fitting[1:] else ""
            told = (*told, f"taken from the output: {', '.join(words)}{more}")
        facts = {**concluded, **facts}
        if f"v{facts.get('ref')}" in refs.data().refs:
            facts["ref"] = f"v{facts['ref']}"  # 0.9.0, as packages have it
        if ref := refs.data().find(facts.get("ref", "")):
            facts["spec"] = spec or ref.spec  # the suite's version, whatever the runtime claims
        return facts, list(told)

    def expected(
        self, kept: recordings.RunFile | None, facts: Mapping[str, str], found: Collection[str], meant: Subset
    ) -> tuple[Sequence[str], str]:
        """The programs of a complete run: those selected, else those of its ref, else those planned, else those that
        are there where none of them is of runtime-tools; and what is to be told of that.
        """
        data, name = refs.data(), facts.get("ref", "")
        if kept and kept.only:
            names = (name for name in kept.only if recordings.NAME.fullmatch(name))  # the others are patterns
            return list(dict.fromkeys((*names, *kept.programs))), ""
        if meant.programs:
            return meant.programs, ""
        if ref := data.find(name):
            return data.programs(ref), ""
        if kept and kept.programs:
            return kept.programs, ""
        if found and not data.every & {*found}:
            line = "none of these is a program of runtime-tools; judged by themselves, whatever else there should be"
            return tuple(found), f"{line}: name what is missing with --programs FILE"
        instead = next(iter(data.fitting(facts.get("spec", ""), found)), data.default)
        what = f"runtime-tools {truncate(name, 100)} is not known" if name else "the ref of runtime-tools is unknown"
        more = "" if name else "; name it with --ref"
        return data.programs(data.refs[instead]), f"{what}; judged with the list of {instead}{more}"


_CONCLUDED = {"ref": "runtime-tools", "spec": "runtime-spec", "cgroup": "cgroup"}


# --- what the suite prints: one JSON object a line


class _Recorder:
    """Sorts the suite's lines into files and counts those in another format; only the disk makes it raise."""

    def __init__(self, raw: Path, err: Capped, on_result: OnResult, only: Sequence[str]) -> None:
        self.has_output = False
        self.take_stderr = err.write
        self._raw = raw
        self._on_result = on_result
        self._line = bytearray()
        self._skipping = False  # the rest of a line that is too long
        self._kept = recordings.RunFile(only=tuple(only))
        self._attempts: dict[str, int] = {}  # of the programs that have started
        self._sizes: dict[str, int] = {}  # of the files that are there
        self._evidence: dict[str, int] = {}  # the same of what programs leave besides
        self._open: set[str] = set()  # those of them whose last attempt has not ended
        self._ended: set[str] = set()
        (raw / summary.FILE).write_text("\t".join(summary.COLUMNS) + "\n")
        self.keep()

    def keep(self) -> None:
        """Write what is known of the whole run to disk."""
        write_atomic(self._raw / recordings.RUN, self._kept.model_dump_json(indent=1) + "\n")

    def take(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            if self._skipping or not self._message(bytes(self._line)):
                self._note(noise=self._kept.noise + 1)
            self._line.clear()
            self._skipping = False
        self._add(rest)

    def _add(self, data: bytes) -> None:
        self._skipping = self._skipping or len(self._line) + len(data) > _LINE
        if self._skipping:
            self._line.clear()
        else:
            self._line += data

    def _note(self, **changed: object) -> None:
        self._kept = self._kept.model_copy(update=changed)

    def _message(self, line: bytes) -> bool:
        """Act on one line; False where it is not in the suite's format."""
        message = values.parse_line(line, depth=8, commas=20_000)
        match message:
            case None:
                return False
            case {"type": "plan", "programs": list(names), "facts": dict(facts)} if not self._kept.programs:
                if (
                    not all(isinstance(name, str) and recordings.NAME.fullmatch(name) for name in names)
                    or len(names) > recordings.FILES
                ):
                    return False
                texts = {key: truncate(value, 1000) for key, value in facts.items() if isinstance(value, str)}
                texts = {key: value for key, value in texts.items() if _FACT.fullmatch(key)}
                self._note(programs=tuple(dict.fromkeys(map(str, names))), facts=texts, tests=_tests(message, names))
                self.keep()
            case {"type": "start", "program": str(name)} if recordings.NAME.fullmatch(name):
                if name not in self._attempts and len(self._attempts) >= recordings.FILES:
                    self._note(over=True)
                    return True
                self._attempts[name] = self._attempts.get(name, 0) + 1
                self._open.add(name)
                self._append(name, "tap", b"")
            case {"type": "data", "program": str(name), "stream": "out" | "err" as stream, "data": str(text)}:
                if name not in self._attempts:
                    return False
                try:
                    data = base64.b64decode(text, validate=True)
                except ValueError:
                    return False
                self._append(name, "tap" if stream == "out" else "err", data)
            case {"type": "evidence", "program": str(name), "name": str(file), "data": str(text)} if name in self._open:
                return self._keep_evidence(name, file, text)
            case {"type": "end", "program": str(name)} if name in self._open:
                return self._end(name, message)
            case {"type": "finish"}:
                self._note(finished=True)
                self.keep()
            case _:
                return False
        self.has_output = True
        return True

    def _append(self, name: str, kind: str, data: bytes) -> None:
        """Add to a program's file as much as the limits allow."""
        file = f"{recordings.stem(name, self._attempts[name])}.{kind}"
        size = self._sizes.get(file, 0)
        # A program that prints too much is judged by the beginning of its output, and its verdict says so.
        data = data[: (recordings.OUTPUT if kind == "tap" else recordings.STDERR) - size]
        room = max(recordings.TOTAL - sum(self._sizes.values()), 0)
        if len(data) > room or (file not in self._sizes and len(self._sizes) >= recordings.FILES):
            self._note(over=True)
            data = data[:room]
        if file in self._sizes or len(self._sizes) < recordings.FILES:
            with (self._raw / file).open("ab") as out:
                out.write(data)
            self._sizes[file] = size + len(data)

    def _keep_evidence(self, name: str, file: str, text: str) -> bool:
        """Add to one of the files that a program leaves besides its output."""
        if not recordings.EVIDENCE.fullmatch(file):
            return False
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            return False
        path = self._raw / f"{recordings.stem(name, self._attempts[name])}.evidence" / file
        key = f"{path.parent.name}/{file}"
        room = recordings.TOTAL - sum(self._evidence.values())
        if len(data) > room or (key not in self._evidence and len(self._evidence) >= recordings.FILES):
            self._note(over=True)
            return True
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as out:
            out.write(data)
        self._evidence[key] = self._evidence.get(key, 0) + len(data)
        return True

    def _end(self, name: str, message: Mapping[str, JSON]) -> bool:
        """Record how a program ended, and pass on its verdict."""
        attempt = self._attempts[name]
        left = message.get("left")
        cells = {
            "program": name,
            "exit_status": _cell(message.get("status")),
            "seconds": _cell(message.get("seconds")),
            "signal": _cell(message.get("signal")),
            "timeout": "1" if message.get("timeout") is True else "",
            "attempt": str(attempt),
            "left": json.dumps([truncate(str(text), 500) for text in left[:100]] if isinstance(left, list) else []),
        }
        try:
            _, _, end = summary.row(cells)
        except ValueError:
            return False
        self._open.remove(name)
        row = ("\t".join(cells[column] for column in summary.COLUMNS) + "\n").encode()
        size = self._sizes.get(summary.FILE, 0)
        if size + len(row) > recordings.OUTPUT or len(row) > recordings.TOTAL - sum(self._sizes.values()):
            self._note(over=True)
            return True
        with (self._raw / summary.FILE).open("ab") as file:
            file.write(row)
        self._sizes[summary.FILE] = size + len(row)
        self._ended.add(name)
        output, _, _ = recordings.judge(self._raw, name, attempt, end)
        worst = min(output.judged, key=lambda judged: URGENCY[judged.program.verdict])
        self._on_result(
            replace(_as_result(worst), id=name, program=name), len(self._ended), len(self._kept.programs) or None
        )
        return True


def _tests(plan: Mapping[str, JSON], programs: Collection[JSON]) -> dict[str, tuple[str, ...]]:
    """The tests that each program is to run, as far as the plan says."""
    given = plan.get("tests")
    return {
        name: tuple(truncate(test, 1000) for test in tests if isinstance(test, str))
        for name, tests in (given.items() if isinstance(given, dict) else ())
        if name in programs and isinstance(tests, list)
    }


def _cell(value: JSON) -> str:
    if value is None or isinstance(value, bool):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _as_result(judged: Judged) -> Result:
    """One program as one result, for progress output."""
    program = judged.program
    bad = next((result for result in judged.results if result.bad), None)
    text = f"{sum(not result.whole for result in judged.results)} assertions"
    if bad:
        text = str(bad.diagnostic.get("message", WHOLE)) if bad.whole else bad.name
    return Result(program.name, truncate(text, 200), "", "", program.verdict, program.seconds, {}, program.name)


SUITE: Suite = Validation()

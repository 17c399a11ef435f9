"""The validation suite: runtime-tools' own programs, run by labkit.guest.programs in the machine, judged here.

The directory of raw output, of a run or of a recording:

    NAME.tap, NAME.err          what a program printed; NAME.2.tap and so on where it ran several times
    summary.tsv                 one line for each program that ended: program, exit_status, seconds and, where labkit
                                wrote it, signal, timeout, attempt, left
    run.json                    what was planned, the facts, and whether the suite finished; only labkit writes it
"""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, StrictStr

from labkit.core import tomlfile
from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.core.suggest import did_you_mean
from labkit.core.text import truncate
from labkit.core.tomlfile import Table
from labkit.guest.pyz import pyz
from labkit.io.files import write_atomic
from labkit.results import tap, verdicts
from labkit.results.model import WHOLE, Reading, Result
from labkit.results.tap import JSON
from labkit.results.verdicts import End, Judged
from labkit.subjects import runtimes
from labkit.suites.base import ATTACHED, Capped, OnResult, Suite

_DATA = Path(__file__).with_name("validation.toml")
_SUMMARY, _RUN, _ERRORS = "summary.tsv", "run.json", "labkit-programs.err"  # no program can have a dash in its name
_COLUMNS = ("program", "exit_status", "seconds", "signal", "timeout", "attempt", "left")
_NAME = re.compile(r"[a-z0-9_]{1,64}")
_FILE = re.compile(rf"({_NAME.pattern})(?:\.([2-9]|[1-9][0-9]{{1,3}}))?\.tap")
_FACT = re.compile(r"[a-z][a-z-]{0,39}")

# A whole recording has 1.1 MB, its longest file 144 KB. In bytes, but for _FILES:
_LINE, _OUTPUT, _STDERR, _TOTAL = 4 << 20, 8 << 20, 1 << 20, 64 << 20
_FILES = 4000
_LIMITS = tap.Limits(line=1 << 20, block=1 << 20, total=4 << 20, events=50_000)


class _Ref(Table):
    spec: StrictStr
    programs: tuple[StrictStr, ...] = ()
    like: StrictStr | None = None
    also: tuple[StrictStr, ...] = ()


class _Data(Table):
    default: StrictStr
    tree: StrictStr
    silent: tuple[StrictStr, ...]
    spoil: tuple[StrictStr, ...]
    refs: dict[str, _Ref]

    def find(self, name: str) -> _Ref | None:
        also = (ref for ref in self.refs.values() if any(fnmatchcase(name, pattern) for pattern in ref.also))
        return self.refs.get(name) or next(also, None)

    def programs(self, ref: _Ref) -> tuple[str, ...]:
        return self.programs(self.refs[ref.like]) if ref.like else ref.programs


class RunFile(Table):
    """run.json. noise counts the lines that are not in the suite's format; over: the output exceeded a limit."""

    programs: tuple[Annotated[StrictStr, Field(pattern=rf"^{_NAME.pattern}$")], ...] = ()
    only: tuple[StrictStr, ...] = ()
    facts: dict[str, StrictStr] = Field(default={})
    finished: bool = False
    noise: int = 0
    over: bool = False


@functools.cache
def _data() -> _Data:
    return tomlfile.check(_Data, tomlfile.read(_DATA), lambda _: str(_DATA))


class Validation:
    name = "validation"
    title = "the validation programs of opencontainers/runtime-tools"
    version = ""  # the ref of its tree, known only in the machine
    needs: tuple[str, ...] = ("runtime-tools",)
    programs: Mapping[str, str] = MappingProxyType({"python3": "python"})

    def file_name(self) -> str:
        return "labkit-programs.pyz"

    def program(self) -> bytes:
        return pyz("programs")

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        words = ["python3", program, *ATTACHED, "--tree", _data().tree, "--runtime", runtime]
        words += itertools.chain.from_iterable(("--older", *one) for one in runtimes.older_refs())
        for flag, value in (("only", ",".join(selection.only)), ("jobs", selection.jobs), ("repeat", selection.repeat)):
            words += [f"--{flag}", str(value)] if value else []
        return words + (["--timeout", f"{selection.timeout:g}"] if selection.timeout else [])

    def names(self) -> list[str]:
        return sorted({name for ref in _data().refs.values() for name in _data().programs(ref)})

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return [*self.argv(program, runtime, Selection()), "--list"]  # a tree may have others than the known refs

    def check(self, selection: Selection) -> None:
        for flag, given in (("--runtime-arg", selection.runtime_args), ("--spec", selection.spec)):
            if given:
                raise UsageError(f"the {self.name} suite does not take {flag}; --suite spec does")
        known = self.names()
        for name in selection.only:
            if name not in known:
                raise UsageError(
                    f"the {self.name} suite has no program {name!r}{did_you_mean(name, known)}",
                    hint=f"known: {', '.join(known)}",
                )

    def needs_reset(self, selection: Selection) -> bool:
        return any(name in _data().spoil for name in selection.only or self.names())

    @contextlib.contextmanager
    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> Iterator[_Recorder]:
        with Capped(raw / _ERRORS, _STDERR) as err:
            recorder = _Recorder(raw, err, on_result, only)
            try:
                yield recorder
            finally:
                recorder.keep()

    def recognizes(self, raw: Path) -> bool:
        known = (_RUN, _SUMMARY)
        return any((raw / name).is_file() for name in known) or any(map(_FILE.fullmatch, _names(raw)))

    def read(self, raw: Path, known: Mapping[str, str] | None = None) -> Reading:
        kept, reasons = _read_run(raw), []
        ends = _read_summary(raw / _SUMMARY)
        if ends is None:
            reasons.append(f"no {_SUMMARY}, so the programs' exit statuses are unknown")
        found, strange = _programs(raw, ends or {})
        room, judged, unread = _TOTAL, [], []
        for name, attempts in found.items():
            if room <= 0:
                unread.append(name)
                continue
            several = []
            for attempt in attempts:
                end = ends.get((name, attempt)) if ends is not None else End(unknown=True)
                one, size = _judge(raw, name, attempt, end)
                several.append(one)
                room -= size
            judged.append(verdicts.repeated(several))
        results = tuple(result for one in judged for result in one.results)
        facts = {**_deduced(results), **(known or {}), **(kept.facts if kept else {})}
        if ref := _data().find(facts.get("ref", "")):
            facts["spec"] = ref.spec  # the suite's version, whatever the runtime claims
        if kept and not kept.finished:
            reasons.append("the suite did not finish")
        if kept and kept.noise:
            reasons.append(f"{kept.noise} lines of the output are not in the suite's format")
        if unread or (kept and kept.over):
            reasons.append(f"more than {_TOTAL >> 20} MiB of output; the rest was dropped")
        if strange:
            reasons.append(f"ignored, because no program has such a name: {_some(map(repr, strange))}")
        lost = [name for name, attempt in ends or () if attempt not in found.get(name, ())]
        if missing := list(dict.fromkeys([*lost, *(name for name in self.expected(kept, facts) if name not in found)])):
            reasons.append(f"{_programs_word(len(missing))} missing: {_some(missing)}")
        if ends is not None and (
            dangling := [n for n, times in found.items() if any((n, t) not in ends for t in times)]
        ):
            reasons.append(f"{_programs_word(len(dangling))} not finished: {_some(dangling)}")
        return Reading(results, facts, "; ".join(reasons) or None, tuple(one.program for one in judged))

    def expected(self, kept: RunFile | None, facts: Mapping[str, str]) -> Sequence[str]:
        """The programs of a complete run: those selected, else those of its ref, else those planned."""
        if kept and kept.only:
            return list(dict.fromkeys((*kept.only, *kept.programs)))
        if ref := _data().find(facts.get("ref", "")):
            return _data().programs(ref)
        return kept.programs if kept and kept.programs else _data().programs(_data().refs[_data().default])


def _programs_word(count: int) -> str:
    return f"{count} program{'' if count == 1 else 's'}"


def _some(words: Iterable[str]) -> str:
    """The first ten of them, as text."""
    listed = list(words)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")


def _deduced(results: Sequence[Result]) -> dict[str, str]:
    """Facts from the output itself: its references name a version of runtime-spec, and that may identify the ref."""
    for result in results:
        if match := re.search(r"/runtime-spec/blob/v([0-9.]{1,20})/", result.reference):
            refs = [name for name, ref in _data().refs.items() if ref.spec == match[1]]
            return {"spec": match[1], **({"ref": refs[0]} if len(refs) == 1 else {})}
    return {}


def _judge(raw: Path, name: str, attempt: int, end: End | None) -> tuple[Judged, int]:
    """The verdicts of one attempt of a program, and how many bytes were read for them."""
    stem = _stem(name, attempt)
    out, err = _content(raw / f"{stem}.tap", _OUTPUT), _content(raw / f"{stem}.err", _STDERR)
    events, stderr = tap.read(out, _LIMITS), err.decode("utf-8", "replace")
    return verdicts.judge(name, events, stderr, end, silent=name in _data().silent), len(out) + len(err)


def _stem(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name}.{attempt}"


def _content(path: Path, limit: int) -> bytes:
    """The beginning of a file; nothing where it is missing or a symbolic link."""
    if path.is_symlink() or not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(limit)


# --- the directory of raw output


def _programs(raw: Path, ends: Mapping[tuple[str, int], End]) -> tuple[dict[str, list[int]], list[str]]:
    """The programs with output and their attempts, in the order in which they ended; and the other .tap files."""
    found: dict[str, set[int]] = defaultdict(set)
    strange = []
    for file in _names(raw):
        path = raw / file
        if (match := _FILE.fullmatch(file)) and path.is_file() and not path.is_symlink():
            found[match[1]].add(int(match[2] or 1))
        else:
            strange.append(file)
    order = dict.fromkeys([*(name for name, _ in ends), *found])
    return {name: sorted(found[name]) for name in order if name in found}, strange


def _names(raw: Path) -> list[str]:
    return sorted(path.name for path in raw.glob("*.tap"))


def _read_run(raw: Path) -> RunFile | None:
    path = raw / _RUN
    if not path.exists():
        return None
    try:
        value = tap.parse_json(_content(path, _OUTPUT).decode())
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    return tomlfile.check(RunFile, value, lambda _: str(path))


def _read_summary(path: Path) -> dict[tuple[str, int], End] | None:
    """How each program and attempt ended; None where there is no such file. UsageError names file and line."""
    if not path.exists():
        return None
    *lines, last = _content(path, _OUTPUT).decode("utf-8", "replace").split("\n")
    header = (lines or [last])[0].rstrip("\r").split("\t")
    if not {"program", "exit_status", "seconds"} <= set(header):
        raise UsageError(
            f"{path}:1: the columns must be program, exit_status and seconds, separated by tabs",
            hint="the file has one line per program: its name, its exit status, its duration in seconds",
        )
    ends: dict[tuple[str, int], End] = {}
    if not path.with_name(_RUN).exists():
        lines.append(last)  # in a run, what has no line end was cut off while it was written
    for number, line in enumerate(lines[1:], 2):
        cells = line.rstrip("\r").split("\t")
        if cells == [""]:
            continue
        try:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} columns, must be {len(header)}")
            name, attempt, end = _row(dict(zip(header, cells, strict=True)))
            if (name, attempt) in ends:
                raise ValueError(f"a second line for {name}")
        except ValueError as error:
            raise UsageError(f"{path}:{number}: {error}") from error
        ends[name, attempt] = end
    return ends


def _row(cells: Mapping[str, str]) -> tuple[str, int, End]:
    """One line of summary.tsv. ValueError says what is wrong with it."""

    def number(key: str, most: int) -> int | None:
        text = cells.get(key, "")
        if not text:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
            raise ValueError(f"{key} is {truncate(text, 100)!r}, must be a number up to {most}")
        return int(text)

    name = cells["program"]
    if not _NAME.fullmatch(name):
        raise ValueError(f"program is {truncate(name, 100)!r}, must consist of a-z, 0-9 and _")
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", cells["seconds"]):
        raise ValueError(f"seconds is {truncate(cells['seconds'], 100)!r}, must be a number")
    left = tap.parse_json(cells["left"]) if cells.get("left") else []
    end = End(
        status=number("exit_status", 255),
        signal=number("signal", 128),
        timeout=bool(number("timeout", 1)),
        seconds=float(cells["seconds"]),
        left=tuple(str(text) for text in left) if isinstance(left, list) else (),
    )
    return name, number("attempt", 9999) or 1, end


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
        self._kept = RunFile(only=tuple(only))
        self._attempts: dict[str, int] = {}  # of the programs that have started
        self._sizes: dict[str, int] = {}  # of the files that are there
        self._open: set[str] = set()  # those of them whose last attempt has not ended
        self._ended: set[str] = set()
        (raw / _SUMMARY).write_text("\t".join(_COLUMNS) + "\n")
        self.keep()

    def keep(self) -> None:
        """Write what is known of the whole run to disk."""
        write_atomic(self._raw / _RUN, self._kept.model_dump_json(indent=1) + "\n")

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
        try:
            message = tap.parse_json(line.decode(), depth=8, commas=20_000)
        except ValueError:
            return False
        if not isinstance(message, dict):
            return False
        match message:
            case {"type": "plan", "programs": list(names), "facts": dict(facts)} if not self._kept.programs:
                if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names) or len(names) > _FILES:
                    return False
                texts = {key: truncate(value, 1000) for key, value in facts.items() if isinstance(value, str)}
                texts = {key: value for key, value in texts.items() if _FACT.fullmatch(key)}
                self._note(programs=tuple(dict.fromkeys(map(str, names))), facts=texts)
                self.keep()
            case {"type": "start", "program": str(name)} if _NAME.fullmatch(name):
                if name not in self._attempts and len(self._attempts) >= _FILES:
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
        file = f"{_stem(name, self._attempts[name])}.{kind}"
        size = self._sizes.get(file, 0)
        # A program that prints too much is judged by the beginning of its output, and its verdict says so.
        data = data[: (_OUTPUT if kind == "tap" else _STDERR) - size]
        room = max(_TOTAL - sum(self._sizes.values()), 0)
        if len(data) > room or (file not in self._sizes and len(self._sizes) >= _FILES):
            self._note(over=True)
            data = data[:room]
        if file in self._sizes or len(self._sizes) < _FILES:
            with (self._raw / file).open("ab") as out:
                out.write(data)
            self._sizes[file] = size + len(data)

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
            _, _, end = _row(cells)
        except ValueError:
            return False
        self._open.remove(name)
        row = ("\t".join(cells[column] for column in _COLUMNS) + "\n").encode()
        size = self._sizes.get(_SUMMARY, 0)
        if size + len(row) > _OUTPUT or len(row) > _TOTAL - sum(self._sizes.values()):
            self._note(over=True)
            return True
        with (self._raw / _SUMMARY).open("ab") as file:
            file.write(row)
        self._sizes[_SUMMARY] = size + len(row)
        self._ended.add(name)
        judged, _ = _judge(self._raw, name, attempt, end)
        self._on_result(_as_result(judged), len(self._ended), len(self._kept.programs) or None)
        return True


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

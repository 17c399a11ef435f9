"""A record of calls, read: lines of JSON, of the spy or of another that wrote the same fields. Bytes in, values out.

Whatever is in the bytes, nothing raises. What could not be read makes the record incomplete and is told; what is no
call at all is told. A call has one line in a record of others, and up to three in the spy's, joined by `id`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TypeAlias

from labkit.core.text import count, one_line
from labkit.guest.spy import spy
from labkit.results import copies
from labkit.results.tap import JSON
from labkit.results.values import parse_json, parse_line

Object: TypeAlias = Mapping[str, JSON]

LINE, CALLS = 4 << 20, 100_000  # bytes of a line that is read, and how many calls
_DEPTH = 64
_FAR = 400  # bytes that a log puts before a line
_SHOWN = 5  # numbers of lines in a reason
_BEGIN = b'{"event": "'  # of a line of the spy's; in a string its quotes would be escaped
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class Call:
    """number counts calls from 1, line is that of the file. status, signal: how the runtime ended, both None where that
    is not known; ended is whether it is known that it did. config: None where there is none, as config_error may say.
    options stand before the command, words after it. fds is None where the record has none.
    """

    number: int
    line: int
    argv: tuple[str, ...]
    engine: str = ""
    t: float | None = None
    cwd: str = ""
    fds: Mapping[str, str] | None = None
    env: tuple[str, ...] = ()
    config: Object | None = None
    config_error: str = ""
    twice: tuple[str, ...] = ()  # keys that stand twice in an object of config.json
    left_out: tuple[str, ...] = ()
    status: int | None = None
    signal: int | None = None
    end: float | None = None
    state: str = ""
    console: str = ""
    listen_fds: str = ""
    fault: str = ""
    runtime: str = ""
    options: tuple[str, ...] = ()
    command: str = ""
    words: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return spy.ident(self.command, list(self.words))

    @property
    def root(self) -> str:
        """Where the runtime keeps its containers: an id is unique there."""
        return spy.value(list(self.options), "--root") or ""

    @property
    def failed(self) -> bool | None:
        """None where it is not known."""
        if self.status is None and self.signal is None:
            return None
        return self.status != 0

    def value(self, *names: str) -> str | None:
        return spy.value(list(self.words), *names)

    def has(self, *names: str) -> bool:
        """Whether an option is among the words after the command."""
        return any(word in names or word.partition("=")[0] in names for word in self.words)


@dataclass(frozen=True, slots=True)
class Record:
    """reason: why it is not known whether these are all calls; None where they are."""

    calls: tuple[Call, ...]
    reason: str | None = None
    told: tuple[str, ...] = ()


@dataclass(slots=True)
class _Reading:
    calls: list[Call] = field(default_factory=list)
    joined: dict[str, int] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)
    long: list[int] = field(default_factory=list)
    foreign: list[int] = field(default_factory=list)
    prefixed: list[int] = field(default_factory=list)
    cut: int = 0
    without_call: int = 0
    full: bool = False
    many: bool = False


def read(data: bytes) -> Record:
    """The calls in the bytes of a record."""
    data, notes = copies.mend(data)
    reading = _Reading()
    last = data.count(b"\n") + 1  # without the end of a line: the file may have been cut
    for number, line in _documents(data):
        if len(line) > LINE:
            reading.long.append(number)
            continue
        found = _values(line)
        if found is None and (found := _after_other_words(line)) is not None:
            reading.prefixed.append(number)
        if found is None:
            at = max(line.rfind(_BEGIN), 0)  # another has gone on where one was killed
            cut, found = (line[:at], _values(line[at:])) if at else (line, None)
            if _was_cut(cut) and (found or number < last):
                reading.cut += 1
            else:
                reading.damaged.append(number)
        twice = keys_twice(line.decode("utf-8", "replace")) if b'"config"' in line else []
        for value in found or ():
            _take(reading, {**value, "config_twice": twice} if twice else value, number)
    return _record(_engines(reading.calls), reading, copies.told(("the record", note) for note in notes))


def _was_cut(line: bytes) -> bool:
    """Whether it is the beginning of a line of the spy's, which was killed before it had written the rest: what it was
    about to call was not called, and of what had been called the end is missed anyway.
    """
    outside = _STRING.sub(b"", line)
    begun = line.startswith(_BEGIN) or _BEGIN.startswith(line)
    return begun and (b'"' in outside or outside.count(b"{") > outside.count(b"}"))


def is_record(data: bytes) -> bool:
    """Whether the beginning of a file has a call in it."""
    lines = (line for _, line in _documents(copies.mend(data)[0]))
    found = (_values(line) or _after_other_words(line) or () for line in lines)
    return any(_argv(value) is not None for values in found for value in values)


def _documents(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The JSON texts of a record, each with the number of its first line: its lines, or where a program has made many
    lines of each, what is between braces that stand alone.
    """
    lines = data.split(b"\n")
    first = next((line.rstrip() for line in lines if line.strip()), b"")
    if first not in (b"{", b"[") or b"{" not in (line.strip() for line in lines):
        yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        return
    opening = next(line.rstrip() for line in lines if line.strip() == b"{")
    closing = opening.replace(b"{", b"}")
    part: list[bytes] = []
    begun = 0
    for number, line in enumerate(lines, 1):
        end = line.rstrip().removesuffix(b",")
        if not part:
            if line.rstrip() == opening:
                part, begun = [line], number
            elif line.strip() not in (b"", b"[", b"]"):
                yield number, line
            continue
        part.append(line)
        if end == closing:
            yield begun, b" ".join(part)
            part = []
    if part:
        yield begun, b" ".join(part)


def _after_other_words(line: bytes) -> list[Object] | None:
    """The call in a line that a log has put something before; None where there is none."""
    at = line.find(b"{", 0, _FAR)
    found = _values(line[at:]) if at > 0 else None
    return found if found and {"argv", "event"} & found[0].keys() else None


def _values(line: bytes) -> list[Object] | None:
    """The objects of a line: one, or those of an array. None where it is damaged."""
    text = line.decode("utf-8", "replace").strip().rstrip(",")
    if text in ("[", "]", ""):  # an array with a line for each
        return []
    try:
        value = parse_json(text, depth=_DEPTH)
    except ValueError:
        return None
    if isinstance(value, list):
        return [one if isinstance(one, dict) else {} for one in value]
    return [value if isinstance(value, dict) else {}]


def _take(reading: _Reading, value: Object, line: int) -> None:
    event, joined = value.get("event"), value.get("id")
    if event == "full":
        reading.full = True
    elif event in ("end", "state"):
        at = reading.joined.get(joined) if isinstance(joined, str) else None
        if at is None:
            reading.without_call += 1
        else:
            reading.calls[at] = _ended(reading.calls[at], value)
    elif (argv := _argv(value)) is None:
        left_out = value.get("left_out")
        if event == "call" and isinstance(left_out, dict) and "argv" in left_out:
            reading.long.append(line)
        else:
            reading.foreign.append(line)
    elif len(reading.calls) >= CALLS:
        reading.many = True
    elif event == "call" and isinstance(joined, str) and joined in reading.joined:
        reading.foreign.append(line)
    else:
        if isinstance(joined, str) and event == "call":
            reading.joined[joined] = len(reading.calls)
        reading.calls.append(_call(value, argv, len(reading.calls) + 1, line))


_BESIDES = {"fds", "env", "cwd", "ppid_cmd", "event"}  # what a call has beside its argv, at least one of them


def _argv(value: Object) -> tuple[str, ...] | None:
    argv = value.get("argv")
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        return None
    if value.get("event", "call") != "call" or not any(
        key in value for key in ("fds", "env", "cwd", "ppid_cmd", "event")
    ):
        return None
    return tuple(word for word in argv if isinstance(word, str))


def _call(value: Object, argv: tuple[str, ...], number: int, line: int) -> Call:
    options, command, words = spy.split(list(argv))
    fds, env, left_out = value.get("fds"), value.get("env"), value.get("left_out")
    config, error, twice = _config(value)
    call = Call(
        number,
        line,
        argv,
        engine=_parent(value),
        t=_number(value.get("t")),
        cwd=_text(value.get("cwd")),
        fds={str(key): _text(where) for key, where in fds.items()} if isinstance(fds, dict) else None,
        env=tuple(map(_text, env)) if isinstance(env, list | dict) else (),
        config=config,
        config_error=error,
        twice=twice,
        left_out=tuple(left_out) if isinstance(left_out, dict) else (),
        console=_text(value.get("console")),
        listen_fds=_text(value.get("listen_fds")),
        runtime=_text(value.get("runtime")),
        options=tuple(options),
        command=command,
        words=tuple(words),
    )
    return _ended(call, value) if "status" in value or "exit_status" in value else call


def _config(value: Object) -> tuple[Object | None, str, tuple[str, ...]]:
    found, error = value.get("config"), _text(value.get("config_error"))
    if isinstance(text := value.get("config_text"), str) and found is None:
        twice: list[str] = []
        try:
            found = parse_json(text, depth=_DEPTH)
            twice = keys_twice(text)
        except ValueError as problem:
            return None, error or f"config.json is not JSON: {one_line(str(problem), 200)}", ()
        if not isinstance(found, dict):
            return None, error or "config.json is JSON, but no object", ()
        return found, error, tuple(twice)
    if found is not None and not isinstance(found, dict):
        return None, error or "config.json is JSON, but no object", ()
    return found, error, tuple(word for word in _strings(value.get("config_twice")))


def keys_twice(text: str) -> list[str]:
    """The keys that stand more than once in one object of the JSON text."""
    found: list[str] = []

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found.extend(key for key, times in Counter(key for key, _ in items).items() if times > 1)
        return dict(items)

    try:
        json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return []
    return list(dict.fromkeys(found))


def _ended(call: Call, value: Object) -> Call:
    """The call with what another line of it tells."""
    if value.get("event") == "state":
        return replace(call, state=_status_of(value.get("stdout")))
    status, number = value.get("status", value.get("exit_status")), value.get("signal")
    fault = value.get("fault")
    return replace(
        call,
        status=status if isinstance(status, int) and not isinstance(status, bool) else None,
        signal=number if isinstance(number, int) and not isinstance(number, bool) else None,
        end=_number(value.get("t")) if value.get("event") == "end" else None,
        fault=_text(fault.get("do")) if isinstance(fault, dict) else "",
    )


def _status_of(stdout: JSON) -> str:
    state = parse_line(_text(stdout))
    return _text(state.get("status")) if state else ""


# --- who calls


_NAMES = {"podman": "podman", "buildah": "buildah", "dockerd": "docker", "crio": "CRI-O", "containerd": "containerd"}
_MANAGERS = {"libpod": "podman", "cri-o": "CRI-O"}
_ROOTS = {"moby": "docker", "k8s.io": "containerd CRI"}


def _parent(value: Object) -> str:
    """The engine by the process that called; "" where that does not tell it."""
    words, comm = _strings(value.get("ppid_cmd")), _text(value.get("ppid_comm"))
    name = PurePosixPath(words[0]).name if words and words[0] else comm
    if name.startswith("containerd-shim"):
        at = next((at for at, word in enumerate(words) if word.lstrip("-") == "namespace"), len(words))
        return _ROOTS.get(words[at + 1] if at + 1 < len(words) else "", "containerd")
    if name.startswith("buildah") or "BUILDAH_RUNTIME" in _strings(value.get("env")):
        return "buildah"
    config = value.get("config")
    annotations = config.get("annotations") if isinstance(config, dict) else None
    if isinstance(annotations, dict):
        for key, manager in annotations.items():
            if key in ("io.container.manager", "io.cri-o.ContainerManager") and _text(manager) in _MANAGERS:
                return _MANAGERS[_text(manager)]
    if name == "conmon" and any("crio" in word or "cri-o" in word for word in words):
        return "CRI-O"
    if any("/runtimes/" in word for word in words[1:2]):  # dockerd's wrapper for a runtime with arguments
        return "docker"
    return _NAMES.get(name, "") or _NAMES.get(comm, "")


def _engines(calls: list[Call]) -> tuple[Call, ...]:
    """The calls, each with its engine: of those whose parent does not tell, that of others about the same container."""
    known: dict[tuple[str, str], str] = {}
    for call in calls:
        if call.id and call.engine:
            known.setdefault((call.root, call.id), call.engine)
    found = []
    for call in calls:
        engine = call.engine or (known.get((call.root, call.id), "") if call.id else "")
        found.append(replace(call, engine=engine or _ROOTS.get(PurePosixPath(call.root).name, "") or "unknown"))
    return tuple(found)


# --- the whole


def _record(calls: tuple[Call, ...], reading: _Reading, told: tuple[str, ...]) -> Record:
    reasons = []
    if reading.damaged:
        reasons.append(f"{_lines(reading.damaged)} of the record could not be read")
    if reading.long:
        reasons.append(f"{_lines(reading.long)} of the record were too long to be kept")
    if reading.full:
        reasons.append("the record was full: later calls are not in it")
    if reading.many:
        reasons.append(f"more than {CALLS} calls; the rest was not read")
    if reading.without_call:
        reasons.append(f"{count(reading.without_call, 'line')} of calls whose beginning is not there")
    more = [f"{_lines(reading.foreign)} that are no calls were left out"] if reading.foreign else []
    if reading.cut:
        more.append(f"{count(reading.cut, 'line')} cut off: the spy was killed before it called the runtime, or after")
    if reading.prefixed:
        more.append(f"{_lines(reading.prefixed)} begin with what a log put before them")
    if calls:
        engines = Counter(call.engine for call in calls)
        more.append("calls: " + ", ".join(f"{number} of {engine}" for engine, number in engines.items()))
    if ends := [calls[at] for at in reading.joined.values() if calls[at].failed is None]:
        what = f"{count(len(ends), 'call')} whose end is not in the record: the spy was killed, or still runs"
        more.append(f"{what} (the first: {one_line(' '.join(ends[0].argv), 100)})")
    return Record(calls, "; ".join(reasons) or None, (*told, *more))


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    return f"{count(len(numbers), 'line')} ({shown})"


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else ""


def _strings(value: JSON) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _number(value: JSON) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def begun_before_end(call: Call, other: Call) -> bool:
    """Whether call had begun when other, an earlier one, had not ended; False where that is not known."""
    return call.t is not None and other.end is not None and call.t < other.end

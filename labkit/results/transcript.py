"""What a bad check did, as the spec suite prints it behind the result: labkit/guest/spec/transcript.py has the format.

It comes from a machine that nobody trusts: whatever is in it, unpack() returns a value of limited size, or None.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypeAlias

from labkit.results.values import JSON, parse_json

COMMENT = re.compile(r"transcript ([A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}) ([A-Za-z0-9+/=]{1,65536})")
_SIZE = 2 << 20  # bytes that one is unpacked to, at most
_STEPS = 2000
_TEXT = 64 << 10  # characters of one text
_WORDS = 1000
_NAME = re.compile(r"[A-Za-z0-9]{1,40}")
_WORK = re.compile(r"/[^\x00-\x20\x7f-\uffff\"'\\,:|&;$`*?\[\]{}()<>!#@]{1,200}")  # needs no quotes anywhere
_PLAIN = re.compile(r"[^\x00-\x1f\x7f]{1,300}")
KINDS = ("file", "directory", "link", "node", "busybox", "socket", "gone", "other")
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Made:
    """A bundle, or something beside it, as it was made before the next command: kind is "bundle" or one of KINDS.

    data is of a file, whole where whole says so; to of a link; device the type (c, b, p) and numbers of a node.
    """

    path: str
    kind: str
    mode: int = 0
    data: bytes = b""
    whole: bool = True
    to: str = ""
    device: tuple[str, ...] = ()
    owner: tuple[int, int] = (0, 0)

    @property
    def is_config(self) -> bool:
        return self.kind == "file" and PurePosixPath(self.path).name == CONFIG


@dataclass(frozen=True, slots=True)
class Called:
    """A command. status is None where it was killed at its limit; ended says whether there is an outcome at all; times
    how often it was run in a row with that outcome; beside: it was started, and not waited for.
    """

    argv: tuple[str, ...]
    status: int | None = None
    ended: bool = False
    seconds: float = 0.0
    stdout: str = ""
    stderr: str = ""
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    umask: str = ""
    times: int = 1
    beside: bool = False

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.beside:
            return "runs beside the check"
        if not self.ended:
            return "did not end before the check was killed"
        end = "timed out, and was killed" if self.status is None else f"exit status {self.status}"
        if self.status is not None and self.status < 0:
            end = f"killed by signal {-self.status}"
        return f"{end} after {self.seconds:.3g} s" + (f", {self.times} times in a row" if self.times > 1 else "")


@dataclass(frozen=True, slots=True)
class Waited:
    """For the process of the container with this pid file to end, or "" for something of the check's own."""

    seconds: float
    pid_file: str = ""


@dataclass(frozen=True, slots=True)
class Process:
    """The number of the process of the container with this pid file, "" for that of the last command beside."""

    pid: int
    pid_file: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A comparison that failed, by its finding."""

    finding: str


Step: TypeAlias = Made | Called | Waited | Process | Found


@dataclass(frozen=True, slots=True)
class Transcript:
    """work: the check's directory, below which paths are relative; name: that of the suite's run, in ids and cgroups.

    outputs: what containers wrote, by file; left_out: how many steps the suite left out for their size.
    """

    work: str
    name: str
    runtime: tuple[str, ...]
    busybox: str
    steps: tuple[Step, ...]
    outputs: tuple[tuple[str, str], ...] = ()
    left_out: int = 0

    @property
    def calls(self) -> list[Called]:
        return [step for step in self.steps if isinstance(step, Called)]

    @property
    def needed(self) -> list[Step]:
        """The steps without bundles that nothing uses: no command and no other file names them."""
        bundles = [step.path for step in self.steps if isinstance(step, Made) and step.kind == "bundle"]
        texts: dict[str, list[str]] = {"": []}
        for step in self.steps:
            if isinstance(step, Called):
                texts[""] += [*step.argv, step.cwd, step.stdin]
            elif isinstance(step, Made) and step.kind in ("file", "link"):
                own = step.path.partition("/")[0]
                texts.setdefault(own, []).append(f"{step.to} {step.data.decode('utf-8', 'replace')}")
        unused = [
            bundle
            for bundle in bundles
            if not any(
                re.search(rf"\b{re.escape(bundle)}\b", text)
                for own, told in texts.items()
                if own != bundle
                for text in told
            )
        ]
        return [step for step in self.steps if not (isinstance(step, Made) and step.path.partition("/")[0] in unused)]

    def shortly(self, text: str) -> str:
        """A text with the check's directory as $W."""
        return text.replace(self.work, "$W")


def unpack(packed: str) -> Transcript | None:
    """What was packed; None where it is damaged."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed, validate=True), _SIZE)
        if not unpacker.eof:
            return None
        value = parse_json(data.decode(), depth=8, commas=200_000)
    except (ValueError, zlib.error, binascii.Error):
        return None
    return _transcript(value) if isinstance(value, dict) else None


def _transcript(value: Mapping[str, JSON]) -> Transcript | None:
    work, name, busybox = (_text(value.get(key)) for key in ("work", "name", "busybox"))
    runtime = _words(value.get("runtime"))
    steps, outputs = value.get("steps"), value.get("outputs")
    if not (_WORK.fullmatch(work) and ".." not in work and _NAME.fullmatch(name) and _WORK.fullmatch(busybox)):
        return None
    if not (runtime and isinstance(steps, list)):
        return None
    read = tuple(step for one in steps[:_STEPS] if isinstance(one, dict) and (step := _step(one)))
    written = []
    for pair in outputs[:100] if isinstance(outputs, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and _is_inside(_text(pair[0])):
            written.append((_text(pair[0]), _text(pair[1])))
    left_out = _number(value.get("left_out")) + max(len(steps) - _STEPS, 0)
    return Transcript(work, name, runtime, busybox, read, tuple(written), left_out)


def _step(one: Mapping[str, JSON]) -> Step | None:
    if "call" in one:
        return _called(one)
    if "found" in one:
        return Found(_text(one["found"])[:200])
    pid_file = _text(one.get("pid_file"))
    pid_file = pid_file if _is_inside(pid_file) else ""
    if "waited" in one:
        return Waited(_seconds(one["waited"]), pid_file)
    if "pid" in one:
        return Process(_number(one["pid"]), pid_file)
    path = _text(one.get("bundle") or one.get("file"))
    if not _is_inside(path):
        return None
    return Made(path, "bundle") if "bundle" in one else _made(path, one)


def _made(path: str, one: Mapping[str, JSON]) -> Made:
    kind = _text(one.get("kind"))
    data = _text(one.get("text")).encode("utf-8", "replace")
    if "base64" in one:
        try:
            data = base64.b64decode(_text(one["base64"]), validate=True)
        except (ValueError, binascii.Error):
            kind = "other"
    to = _text(one.get("to"))
    if kind == "link" and not _PLAIN.fullmatch(to):
        kind = "other"
    type = _text(one.get("type"))
    numbers = one.get("device")
    device = (type, *(str(_number(number)) for number in (numbers if isinstance(numbers, list) else ())[:2]))
    if kind == "node" and (type not in ("c", "b", "p") or len(device) != (1 if type == "p" else 3)):
        kind = "other"
    owners = one.get("owner")
    owner = [_number(each) for each in owners[:2]] if isinstance(owners, list) else []
    return Made(
        path,
        kind if kind in KINDS else "other",
        _number(one.get("mode")) & 0o7777,
        data,
        kind != "file" or _number(one.get("size")) == len(data),
        to,
        device if kind == "node" else (),
        (owner[0], owner[1]) if len(owner) == 2 else (0, 0),
    )


def _called(one: Mapping[str, JSON]) -> Called | None:
    argv = _words(one["call"])
    status, env = one.get("status"), one.get("env")
    if not argv or not (status is None or (isinstance(status, int) and abs(status) < 1000)):
        return None
    more = env if isinstance(env, dict) else {}
    umask = _text(one.get("umask"))
    return Called(
        argv,
        status,
        "status" in one,
        _seconds(one.get("seconds")),
        _text(one.get("stdout")),
        _text(one.get("stderr")),
        _text(one.get("cwd"))[:300],
        {key: _text(word) for key, word in more.items() if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", key)},
        _text(one.get("stdin"))[:300],
        umask if re.fullmatch("[0-7]{3}", umask) else "",
        max(_number(one.get("times")), 1),
        one.get("beside") is True,
    )


def _is_inside(path: str) -> bool:
    """A relative path that stays below where it begins."""
    return bool(_PLAIN.fullmatch(path)) and all(part not in ("", ".", "..") for part in path.split("/"))


def _text(value: JSON) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _words(value: JSON) -> tuple[str, ...]:
    """Of a list of strings; nothing where it is none. No program can be given a NUL."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return ()
    return tuple(_text(word).replace("\0", "") for word in value[:_WORDS])


def _number(value: JSON) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32 else 0


def _seconds(value: JSON) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e6 else 0.0

"""Calls of a runtime, made up: a caller that does everything right, and callers that each do one thing wrong."""

from __future__ import annotations

import copy
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]
Lines = list[Line]

# What engines were recorded to call, by the name of the recording.
ENGINES = {
    path.name.removesuffix(".jsonl.xz"): lzma.decompress(path.read_bytes())
    for path in sorted((Path(__file__).parent / "recordings/engines").glob("*.jsonl.xz"))
}

CONFIG: Line = {
    "ociVersion": "1.2.0",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["sleep", "1"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}],
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "one",
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
    "hooks": {"prestart": [{"path": "/bin/true", "timeout": 5}]},
    "annotations": {"org.example.one": "1"},
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "user"}],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 100}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 100}],
        "maskedPaths": ["/proc/kcore"],
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}],
        "resources": {"memory": {"limit": 1 << 24}},
    },
}


class Caller:
    """Writes lines as the spy does, a second for each call."""

    def __init__(self) -> None:
        self.lines: Lines = []
        self._t = 1000.0

    def call(self, *argv: str, status: int | None = 0, **more: Any) -> Line:
        """The first line of the call, which may be changed; its end is written where it has a status."""
        number = f"c{len(self.lines)}"
        line: Line = {
            "event": "call",
            "id": number,
            "t": self._t,
            "argv0": "/opt/spy/runc",
            "argv": list(argv),
            "cwd": "/",
            "fds": {"0": "/dev/null", "1": "pipe:[1]", "2": "pipe:[2]"},
            "env": ["PATH"],
            "ppid": 7,
            "ppid_comm": "podman",
            "ppid_cmd": ["podman", "run"],
            **more,
        }
        self.lines.append(line)
        if status is not None:
            self.lines.append({"event": "end", "id": number, "t": self._t + 0.5, "seconds": 0.5, "status": status})
        self._t += 1
        return line

    def life(self, name: str, config: Line | None = None) -> None:
        """All of a container's life, as the document has it."""
        given = copy.deepcopy(CONFIG if config is None else config)
        self.call("create", "--bundle", "/b", "--pid-file", "/p", name, config=given)
        self.call("start", name)
        self.call("state", name)
        self.call("kill", "--signal", "TERM", name)
        self.call("kill", name)
        self.call("delete", name)


def data(lines: Lines) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def right() -> Lines:
    """A caller with nothing wrong: two containers, one of them with a terminal and with LISTEN_FDS."""
    caller = Caller()
    caller.life("one")
    terminal = copy.deepcopy(CONFIG)
    terminal["process"]["terminal"] = True
    fds = {"0": "/dev/null", "1": "pipe:[1]", "2": "pipe:[2]", "3": "/a", "4": "/b", "7": "socket:[5]"}
    env = ["LISTEN_FDS", "PATH"]
    words = ("create", "--bundle", "/b", "--console-socket", "7", "two")
    caller.call(*words, config=terminal, fds=fds, env=env, listen_fds="2", console="socket")
    caller.call("start", "two", status=1)
    caller.call("delete", "two")
    return caller.lines


@dataclass(frozen=True)
class Mutant:
    """check: the only one that fails because of it. in_practice: whether it fails in practice, too."""

    name: str
    check: str
    change: Callable[[Lines], Any]
    in_practice: bool = True
    also: tuple[str, ...] = ()  # checks that cannot but fail with it


def _find(lines: Lines, *words: str, nth: int = 0) -> Line:
    found = [line for line in lines if line["event"] == "call" and all(word in line["argv"] for word in words)]
    return found[nth]


def _argv(*find: str, to: Callable[[list[str]], list[str]]) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        line = _find(lines, *find)
        line["argv"] = to(line["argv"])

    return change


def _config(change: Callable[[Any], Any]) -> Callable[[Lines], None]:
    def of(lines: Lines) -> None:
        change(_find(lines, "create", "one")["config"])

    return of


def _without(*words: str) -> Callable[[Lines], None]:
    """Leave a call out, with its end."""

    def change(lines: Lines) -> None:
        gone = _find(lines, *words)["id"]
        lines[:] = [line for line in lines if line["id"] != gone]

    return change


def _more(*argv: str, status: int = 0, before: tuple[str, ...] = (), **fields: Any) -> Callable[[Lines], None]:
    """One more call: before another, or at the end."""

    def change(lines: Lines) -> None:
        caller = Caller()
        made = caller.call(*argv, status=status, **fields)
        t = max(line["t"] for line in lines) + 1
        at = len(lines)
        if before:
            at = lines.index(_find(lines, *before))
            t = lines[at]["t"] - 0.4
        for line in caller.lines:
            line["id"], line["t"] = "more", t + (0.1 if line is not made else 0)
        lines[at:at] = caller.lines

    return change


def _pop(*path: str) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        for key in path[:-1]:
            config = config[key]
        del config[path[-1]]

    return change


def _put(value: Any, *path: str) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


def _again(*path: str) -> Callable[[Any], None]:
    """An entry of a list once more."""

    def change(config: Any) -> None:
        for key in path:
            config = config[key]
        config.append(copy.deepcopy(config[0]))

    return change


def _entry(key: str, value: Any, *path: str) -> Callable[[Any], None]:
    """A value in the first entry of a list."""

    def change(config: Any) -> None:
        for word in path:
            config = config[word]
        config[0][key] = value

    return change


def _field(key: str, value: Any, *find: str) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        _find(lines, *find)[key] = value

    return change


def _late(lines: Lines) -> None:
    """create ends after start has begun."""
    created = _find(lines, "create", "one")["id"]
    end = next(line for line in lines if line["event"] == "end" and line["id"] == created)
    end["t"] += 0.7


def _fails(*find: str) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        name = _find(lines, *find)["id"]
        next(line for line in lines if line["event"] == "end" and line["id"] == name)["status"] = 1

    return change


def _all(*changes: Callable[[Lines], None]) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        for one in changes:
            one(lines)

    return change


MUTANTS = [
    Mutant("asks for features", "CALL-001", _more("features"), in_practice=False),
    Mutant(
        "uses a command of one runtime",
        "CALL-001",
        _more("events", "--stats", "one", before=("kill",)),
        also=("CALL-002",),
    ),
    Mutant("says --debug", "CALL-002", _argv("state", to=lambda w: ["--debug", *w]), in_practice=False),
    Mutant("says --log-level", "CALL-002", _argv("state", to=lambda w: ["--log-level", "debug", *w])),
    Mutant(
        "deletes with --force",
        "CALL-002",
        _argv("delete", "one", to=lambda w: ["delete", "--force", "one"]),
        in_practice=False,
    ),
    Mutant("deletes with --regex", "CALL-002", _argv("delete", "one", to=lambda w: ["delete", "--regex", "one"])),
    Mutant(
        "bundle by -b",
        "CALL-002",
        _argv("create", "one", to=lambda w: ["create", "-b", "/b", "one"]),
        in_practice=False,
    ),
    Mutant("names no command", "CALL-003", _more("--systemd-cgroup"), also=("CALL-002",)),
    Mutant("says nothing", "CALL-003", _more()),
    Mutant("state without an ID", "CALL-004", _more("state", status=1)),
    Mutant("state of an empty ID", "CALL-004", _more("state", "", status=1)),
    Mutant("state of two", "CALL-004", _more("state", "one", "two", status=1)),
    Mutant(
        "kills by a second word",
        "CALL-005",
        _argv("kill", "TERM", to=lambda w: ["kill", "one", "TERM"]),
        in_practice=False,
    ),
    Mutant(
        "kills by number",
        "CALL-005",
        _argv("kill", "TERM", to=lambda w: ["kill", "--signal", "9", "one"]),
        in_practice=False,
    ),
    Mutant(
        "sends what is no signal", "CALL-005", _argv("kill", "TERM", to=lambda w: ["kill", "--signal", "STOPP", "one"])
    ),
    Mutant(
        "bundle twice",
        "CALL-006",
        _argv("create", "one", to=lambda w: ["create", "--bundle", "/b", "--bundle", "/b", "one"]),
    ),
    Mutant("bundle without a path", "CALL-006", _argv("create", "one", to=lambda w: ["create", "--bundle=", "one"])),
    Mutant(
        "options after the ID", "CALL-006", _argv("create", "one", to=lambda w: ["create", "one", "--bundle", "/b"])
    ),
    Mutant("no config.json", "CALL-010", lambda lines: _find(lines, "create", "one").pop("config")),
    Mutant("a terminal and no socket", "CALL-011", _config(_put(True, "process", "terminal"))),
    Mutant(
        "a socket and no terminal",
        "CALL-011",
        _argv("create", "one", to=lambda w: ["create", "--console-socket", "1", "one"]),
        also=("CALL-013",),
    ),
    Mutant(
        "the socket by its path",
        "CALL-012",
        _argv("create", "two", to=lambda w: ["create", "--console-socket", "/s", "two"]),
        in_practice=False,
    ),
    Mutant(
        "the socket by a number that is closed",
        "CALL-012",
        _argv("create", "two", to=lambda w: ["create", "--console-socket", "9", "two"]),
    ),
    Mutant("the socket is a pipe", "CALL-013", _field("console", "no socket", "create", "two")),
    Mutant("LISTEN_FDS counts too many", "CALL-014", _field("listen_fds", "3", "create", "two")),
    Mutant("LISTEN_FDS is no number", "CALL-014", _field("listen_fds", "two", "create", "two")),
    Mutant("state to a closed stdout", "CALL-015", _field("fds", {"0": "/dev/null", "2": "/dev/null"}, "state")),
    Mutant(
        "create with a closed stderr", "CALL-016", _field("fds", {"0": "/dev/null", "1": "/dev/null"}, "create", "one")
    ),
    Mutant(
        "an ID that is there",
        "CALL-020",
        _more("create", "--bundle", "/b", "one", status=1, config=CONFIG, before=("start", "one")),
    ),
    Mutant("start of nothing", "CALL-021", _more("start", "three", status=1)),
    Mutant("start after delete", "CALL-021", _more("start", "one", status=1)),
    Mutant("start while create runs", "CALL-021", _late),
    Mutant("start after a failed create", "CALL-021", _all(_fails("create", "two"))),
    Mutant("starts twice", "CALL-022", _more("start", "one", status=1, before=("state", "one"))),
    Mutant("kill of nothing", "CALL-023", _more("kill", "three", status=1)),
    Mutant("kill after delete", "CALL-023", _more("kill", "one", status=1)),
    Mutant("never deletes", "CALL-024", _without("delete", "one")),
    Mutant("delete fails and is given up", "CALL-024", _fails("delete", "one")),
    Mutant("delete of nothing", "CALL-025", _more("delete", "three", status=1)),
    Mutant("deletes twice", "CALL-025", _more("delete", "one", status=1)),
    Mutant(
        "deletes twice with --force",
        "CALL-025",
        _more("delete", "--force", "one"),
        in_practice=False,
        also=("CALL-002",),
    ),
    Mutant("no delete after a failed start", "CALL-026", _without("delete", "two")),
    Mutant("pauses what is deleted", "CALL-027", _more("pause", "one", status=1), also=("CALL-001",)),
    Mutant(
        "an ID with a slash",
        "CALL-030",
        lambda lines: [
            line.update(argv=[w.replace("one", "o/ne") for w in line["argv"]])
            for line in lines
            if line["event"] == "call"
        ],
    ),
    Mutant("config.json is a list", "CALL-040", _field("config", [], "create", "one")),
    Mutant(
        "a key twice",
        "CALL-040",
        _all(
            _field("config", None, "create", "one"),
            _field("config_text", json.dumps(CONFIG)[:-1] + ', "root": {"path": "x"}}', "create", "one"),
        ),
    ),
    Mutant("ociVersion is v1.2.0", "CALL-041", _config(_put("v1.2.0", "ociVersion"))),
    Mutant("ociVersion is 1.0.7", "CALL-041", _config(_put("1.0.7", "ociVersion"))),
    Mutant("env is a map", "CALL-042", _config(_put({"PATH": "/"}, "process", "env"))),
    Mutant("a device's mode has its type", "CALL-042", _config(_entry("fileMode", 0o20644, "linux", "devices"))),
    Mutant("a field of 1.3.0", "CALL-043", _config(_put({"eth0": {}}, "linux", "netDevices"))),
    Mutant("cwd is relative", "CALL-044", _config(_put("tmp", "process", "cwd"))),
    Mutant("no args", "CALL-045", _config(_pop("process", "args"))),
    Mutant("no process", "CALL-045", _config(_pop("process"))),
    Mutant("no root", "CALL-046", _config(_pop("root"))),
    Mutant("a mount at proc", "CALL-047", _config(_entry("destination", "proc", "mounts"))),
    Mutant("a namespace twice", "CALL-048", _config(_again("linux", "namespaces"))),
    Mutant(
        "a namespace's path is relative", "CALL-048", _config(_entry("path", "proc/1/ns/pid", "linux", "namespaces"))
    ),
    Mutant(
        "a namespace called net", "CALL-048", _config(_entry("type", "net", "linux", "namespaces")), also=("CALL-042",)
    ),
    Mutant("a user namespace without gids", "CALL-049", _config(_pop("linux", "gidMappings"))),
    Mutant("mappings that overlap", "CALL-049", _config(_again("linux", "uidMappings"))),
    Mutant("mappings and no user namespace", "CALL-049", _config(lambda c: c["linux"]["namespaces"].pop())),
    Mutant("an rlimit twice", "CALL-050", _config(_again("process", "rlimits"))),
    Mutant("an rlimit above its hard one", "CALL-050", _config(_entry("soft", 129, "process", "rlimits"))),
    Mutant(
        "an rlimit called NOFILE",
        "CALL-050",
        _config(_entry("type", "NOFILE", "process", "rlimits")),
        also=("CALL-042",),
    ),
    Mutant("a hook by its name", "CALL-051", _config(_entry("path", "true", "hooks", "prestart"))),
    Mutant("a hook without time", "CALL-051", _config(_entry("timeout", 0, "hooks", "prestart")), also=("CALL-042",)),
    Mutant("a masked path is relative", "CALL-052", _config(_put(["proc/kcore"], "linux", "maskedPaths"))),
    Mutant("a device at fuse", "CALL-052", _config(_entry("path", "fuse", "linux", "devices"))),
    Mutant("a hostname for the host", "CALL-053", _config(lambda c: c["linux"]["namespaces"].pop(2))),
    Mutant("an annotation without a key", "CALL-054", _config(_put("1", "annotations", ""))),
    Mutant(
        "an annotation that is a number",
        "CALL-054",
        _config(_put(1, "annotations", "org.example.one")),
        also=("CALL-042",),
    ),
    Mutant(
        "a mount with uids alone",
        "CALL-055",
        _config(_entry("uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}], "mounts")),
    ),
    Mutant("effective and not permitted", "CALL-056", _config(_put([], "process", "capabilities", "permitted"))),
    Mutant("a capability called KILL", "CALL-056", _config(_put(["KILL"], "process", "capabilities", "bounding"))),
]

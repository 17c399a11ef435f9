"""The container's report judged, twice: by the config.json that the engine gave the runtime (GIVEN-), which is about
the runtime; and by what a person asked of the engine (ASKED-), which is about the engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from labkit.core.text import truncate
from labkit.guest.common.procfs import Mount, mounts
from labkit.results.caller.calls import Call
from labkit.results.engines.events import RUNTIME, Event, Events, Session
from labkit.results.engines.outcomes import commands, seconds
from labkit.results.model import Result, Verdict
from labkit.results.tap import JSON

_MARK = "-- "
_SPEC = "https://github.com/opencontainers/runtime-spec/blob/v1.2.1/"
# Bits of capabilities, by capabilities(7).
_CAPABILITIES = re.findall(
    r"\w+",
    """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
    """,
)
_SETS = {
    "bounding": "CapBnd",
    "effective": "CapEff",
    "inheritable": "CapInh",
    "permitted": "CapPrm",
    "ambient": "CapAmb",
}
_LOST = ("effective", "permitted")
_LIMITS = {
    "RLIMIT_NOFILE": "Max open files",
    "RLIMIT_NPROC": "Max processes",
    "RLIMIT_CORE": "Max core file size",
    "RLIMIT_STACK": "Max stack size",
    "RLIMIT_MEMLOCK": "Max locked memory",
    "RLIMIT_FSIZE": "Max file size",
    "RLIMIT_AS": "Max address space",
    "RLIMIT_CPU": "Max cpu time",
}
_NAMESPACES = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "user": "user",
    "cgroup": "cgroup",
}
_FLAGS = ("ro", "nosuid", "nodev", "noexec")


@dataclass(frozen=True, slots=True)
class Report:
    """What the container saw of itself (sections by name, lines), and what the machine saw of it."""

    sections: Mapping[str, list[str]]
    asked: Mapping[str, str] = field(default_factory=dict)
    cannot: frozenset[str] = frozenset()
    limits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    namespaces: Mapping[str, str] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        return self.sections.get(name, [])

    def line(self, name: str) -> str:
        return (self.lines(name) or [""])[0]

    def status(self, key: str) -> list[str]:
        """The words of a line of /proc/self/status."""
        return next((line.split()[1:] for line in self.lines("status") if line.startswith(f"{key}:")), [])

    def pairs(self, name: str) -> dict[str, str]:
        return {key: value for key, _, value in (line.partition(" ") for line in self.lines(name))}

    @property
    def mounts(self) -> dict[str, Mount]:
        """The topmost mount of each point."""
        return {mount.point: mount for mount in mounts("\n".join(self.lines("mountinfo")))}

    def limit(self, name: str) -> tuple[str, str]:
        """Soft and hard limit, by its name in /proc/self/limits."""
        row = next((line for line in self.lines("limits") if line.startswith(name)), "")
        words = row.removeprefix(name).split()
        return (words[0], words[1]) if len(words) > 1 else ("", "")

    def capabilities(self, kind: str) -> set[str]:
        text = (self.status(_SETS[kind]) or ["0"])[0]
        bits = int(text, 16) if re.fullmatch(r"[0-9a-f]{1,16}", text) else 0
        names = dict(enumerate(_CAPABILITIES))
        return {f"CAP_{names.get(bit, bit)}" for bit in range(64) if bits >> bit & 1}

    def most(self, name: str) -> list[str]:
        """What cgroups of the container have in a file of this name, other than no limit."""
        return sorted({some[name] for some in self.limits.values() if some.get(name, "max") != "max"})


Difference = tuple[str, Any, Any]  # what, expected, actual
Config = Mapping[str, Any]
Given = Callable[[Report, Config], Iterator[Difference]]


class Untold(Exception):
    """config.json, or the report, says nothing about this; the message says what."""


# --- by config.json


def _dig(config: Config, *keys: str) -> Any:
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value in (None, [], {}):
        raise Untold(f"config.json has no {'.'.join(keys)}")
    return value


def _list(config: Config, *keys: str) -> list[Any]:
    value = _dig(config, *keys)
    if not isinstance(value, list):
        raise Untold(f"{'.'.join(keys)} is no list")
    return value


def _objects(config: Config, *keys: str) -> list[Mapping[str, Any]]:
    return [one for one in _list(config, *keys) if isinstance(one, Mapping)]


def _same(what: str, expected: Any, actual: Any) -> Iterator[Difference]:
    if expected != actual:
        yield what, expected, actual


def _args(report: Report, config: Config) -> Iterator[Difference]:
    args = _list(config, "process", "args")
    yield from _same("args", [str(word) for word in args], report.lines("cmdline")[: len(args)])


def _env(report: Report, config: Config) -> Iterator[Difference]:
    there = set(report.lines("environ"))
    for variable in _list(config, "process", "env"):
        name = str(variable).partition("=")[0]
        if name not in ("PWD", "SHLVL", "OLDPWD", "_"):  # the shell's own
            yield from _same(name, True, variable in there)


def _cwd(report: Report, config: Config) -> Iterator[Difference]:
    yield from _same("cwd", _dig(config, "process", "cwd"), report.line("cwd"))


def _user(report: Report, config: Config) -> Iterator[Difference]:
    user = _dig(config, "process", "user")
    yield from _same("uid", [str(user.get("uid"))] * 4, report.status("Uid"))
    yield from _same("gid", [str(user.get("gid"))] * 4, report.status("Gid"))


def _groups(report: Report, config: Config) -> Iterator[Difference]:
    given = sorted({int(gid) for gid in _list(config, "process", "user", "additionalGids")})
    yield from _same("additional groups", given, sorted(int(gid) for gid in report.status("Groups") if gid.isdigit()))


def _caps(report: Report, config: Config) -> Iterator[Difference]:
    """Execution by another user than root leaves only the ambient ones, by capabilities(7)."""
    given = _dig(config, "process", "capabilities")
    left = given if report.status("Uid")[:1] == ["0"] else {**given, **dict.fromkeys(_LOST, given.get("ambient"))}
    for kind in _SETS:
        names = set(left.get(kind) or ())
        yield from _same(kind, sorted(names), sorted(report.capabilities(kind)))


def _no_new_privileges(report: Report, config: Config) -> Iterator[Difference]:
    yield from _same(
        "no_new_privs", bool(_dig(config, "process", "noNewPrivileges")), report.status("NoNewPrivs") == ["1"]
    )


def _rlimits(report: Report, config: Config) -> Iterator[Difference]:
    for limit in _objects(config, "process", "rlimits"):
        if name := _LIMITS.get(str(limit.get("type"))):
            given = tuple(
                "unlimited" if limit.get(key) == 2**64 - 1 else str(limit.get(key)) for key in ("soft", "hard")
            )
            yield from _same(str(limit.get("type")), given, report.limit(name))


def _hostname(report: Report, config: Config) -> Iterator[Difference]:
    yield from _same("hostname", _dig(config, "hostname"), report.line("hostname"))


def _mounts(report: Report, config: Config) -> Iterator[Difference]:
    there = report.mounts
    for mount in _objects(config, "mounts"):
        point = "/" + str(mount.get("destination")).strip("/")
        found = there.get(point)
        if found is None:
            yield point, "mounted", "nothing"
            continue
        kind = mount.get("type")
        if kind not in (None, "bind", "none", "cgroup") and "bind" not in (mount.get("options") or ()):
            yield from _same(f"{point} type", kind, found.type)
        options = set(mount.get("options") or ())
        for flag in _FLAGS:
            if flag in options:
                yield from _same(f"{point} {flag}", True, flag in found.options | found.data)


def _read_only(report: Report, config: Config) -> Iterator[Difference]:
    root = report.mounts.get("/")
    given = bool((config.get("root") or {}).get("readonly")) if isinstance(config.get("root"), Mapping) else False
    if root is None:
        raise Untold("the report has no mount of /")
    yield from _same("read-only root", given, "ro" in root.options)


def _masked(report: Report, config: Config) -> Iterator[Difference]:
    sizes = report.pairs("masked")
    paths = [str(path) for path in _list(config, "linux", "maskedPaths")]
    if not any(path in sizes for path in paths):
        raise Untold("none of the masked paths that are looked at is there")
    for path in paths:
        if path in sizes:
            yield from _same(f"{path} is empty", "0", sizes[path])


def _readonly_paths(report: Report, config: Config) -> Iterator[Difference]:
    seen = report.pairs("readonly")
    for path in _list(config, "linux", "readonlyPaths"):
        if path in seen:
            yield from _same(str(path), "read-only", seen[str(path)])


def _namespaces(report: Report, config: Config) -> Iterator[Difference]:
    inside = report.pairs("namespaces")
    for space in _objects(config, "linux", "namespaces"):
        name = _NAMESPACES.get(str(space.get("type")))
        if name and name in inside and not space.get("path"):
            yield from _same(f"{space.get('type')} of its own", True, inside[name] != report.namespaces.get(name))


def _sysctl(report: Report, config: Config) -> Iterator[Difference]:
    seen = report.pairs("sysctl")
    for key, value in _dig(config, "linux", "sysctl").items():
        if key in seen:
            yield from _same(key, str(value), seen[key])


def _oom(report: Report, config: Config) -> Iterator[Difference]:
    yield from _same("oom_score_adj", str(_dig(config, "process", "oomScoreAdj")), report.line("oom"))


def _seccomp(report: Report, config: Config) -> Iterator[Difference]:
    _dig(config, "linux", "seccomp")
    yield from _same("a filter", ["2"], report.status("Seccomp"))


_KINDS = {"c": "character special file", "u": "character special file", "b": "block special file", "p": "fifo"}


def _devices(report: Report, config: Config) -> Iterator[Difference]:
    nodes = _nodes(report)
    for device in _objects(config, "linux", "devices"):
        path = str(device.get("path"))
        given = (_KINDS.get(str(device.get("type")), ""), device.get("major"), device.get("minor"))
        if path.count("/") == 2:
            yield from _same(path, list(given), list(nodes.get(path, ("nothing",))))


def _nodes(report: Report) -> dict[str, tuple[str, int, int]]:
    found = {}
    for line in report.lines("devices"):
        if match := re.fullmatch(r"(\S+) (.+) ([0-9a-f]{1,8}) ([0-9a-f]{1,8}) [0-7]+ [0-9]+ [0-9]+", line):
            found[match[1]] = (match[2], int(match[3], 16), int(match[4], 16))
    return found


def _resources(key: str, limit: str, file: str) -> Given:
    def check(report: Report, config: Config) -> Iterator[Difference]:
        given = _dig(config, "linux", "resources", key, limit)
        if not report.limits:
            raise Untold("the machine saw no cgroup of the container")
        if given and given > 0:
            yield from _same(file, True, str(given) in report.most(file))

    return check


_GIVEN: dict[str, tuple[str, str, Given]] = {
    "GIVEN-args": ("the command of config.json runs", "config.md#process", _args),
    "GIVEN-env": ("its environment", "config.md#process", _env),
    "GIVEN-cwd": ("its directory", "config.md#process", _cwd),
    "GIVEN-user": ("its user and group", "config.md#posix-platform-user", _user),
    "GIVEN-groups": ("its additional groups", "config.md#posix-platform-user", _groups),
    "GIVEN-capabilities": ("its capabilities", "config.md#linux-process", _caps),
    "GIVEN-no-new-privileges": ("noNewPrivileges", "config.md#linux-process", _no_new_privileges),
    "GIVEN-rlimits": ("its rlimits", "config.md#posix-process", _rlimits),
    "GIVEN-hostname": ("its hostname", "config.md#hostname", _hostname),
    "GIVEN-mounts": ("its mounts, with their types and ro, nosuid, nodev, noexec", "config.md#mounts", _mounts),
    "GIVEN-read-only": ("root.readonly", "config.md#root", _read_only),
    "GIVEN-masked": ("maskedPaths", "config-linux.md#masked-paths", _masked),
    "GIVEN-readonly-paths": ("readonlyPaths", "config-linux.md#readonly-paths", _readonly_paths),
    "GIVEN-namespaces": ("its namespaces are new", "config-linux.md#namespaces", _namespaces),
    "GIVEN-sysctl": ("its sysctls", "config-linux.md#sysctl", _sysctl),
    "GIVEN-oom": ("oomScoreAdj", "config.md#linux-process", _oom),
    "GIVEN-seccomp": ("a seccomp filter", "config-linux.md#seccomp", _seccomp),
    "GIVEN-devices": ("its devices", "config-linux.md#devices", _devices),
    "GIVEN-memory": ("the limit of memory", "config-linux.md#memory", _resources("memory", "limit", "memory.max")),
    "GIVEN-pids": ("the limit of processes", "config-linux.md#pids", _resources("pids", "limit", "pids.max")),
}


# --- by what was asked


def _ask_tmpfs(report: Report, value: str) -> Iterator[Difference]:
    mount = report.mounts.get(value)
    yield from _same(value, "tmpfs", mount.type if mount else "nothing")


def _ask_ulimit(report: Report, value: str) -> Iterator[Difference]:
    soft, _, hard = value.partition("=")[2].partition(":")
    yield from _same("open files", (soft, hard), report.limit("Max open files"))


def _ask_device(report: Report, value: str) -> Iterator[Difference]:
    path = value.partition(":")[2]
    yield from _same(path, ("character special file", 1, 5), _nodes(report).get(path, ("nothing", 0, 0)))


def _ask_read_only(report: Report, _value: str) -> Iterator[Difference]:
    root = report.mounts.get("/")
    yield from _same("read-only root", True, bool(root and "ro" in root.options))


_ASKED: dict[str, tuple[str, Callable[[Report, str], Iterator[Difference]]]] = {
    "memory": ("a limit of memory", lambda r, v: _same("memory.max", True, v in r.most("memory.max"))),
    "pids": ("a limit of processes", lambda r, v: _same("pids.max", True, v in r.most("pids.max"))),
    "user": (
        "a user and a group",
        lambda r, v: _same("user", v, ":".join([*r.status("Uid")[:1], *r.status("Gid")[:1]])),
    ),
    "read-only": ("a read-only root file system", _ask_read_only),
    "tmpfs": ("a tmpfs", _ask_tmpfs),
    "device": ("a device", _ask_device),
    "no-new-privileges": ("no new privileges", lambda r, _: _same("no_new_privs", ["1"], r.status("NoNewPrivs"))),
    "ulimit": ("a limit of open files", _ask_ulimit),
    "sysctl": (
        "a sysctl",
        lambda r, v: _same("value", v.partition("=")[2], r.pairs("sysctl").get(v.partition("=")[0])),
    ),
    "hostname": ("a host name", lambda r, v: _same("hostname", v, r.line("hostname"))),
    "env": ("a variable", lambda r, v: _same("variable", True, v in r.lines("environ"))),
    "workdir": ("a directory to work in", lambda r, v: _same("cwd", v, r.line("cwd"))),
    "cap-drop": (
        "a capability less",
        lambda r, v: _same(
            f"CAP_{v}",
            False,
            any(f"CAP_{v}" in r.capabilities(kind) for kind in ("bounding", "effective", "permitted")),
        ),
    ),
    "volume": ("a directory of the host", lambda r, _: _same("its content", "from the host", r.line("volume"))),
}

NAMES = {
    **{name: f"the container has what config.json says: {title}" for name, (title, _, _) in _GIVEN.items()},
    **{f"ASKED-{name}": f"the container has what was asked for: {title}" for name, (title, _) in _ASKED.items()},
}
_REFERENCES = {name: f"{_SPEC}{anchor}" for name, (_, anchor, _) in _GIVEN.items()}


def judge(events: Events, calls: tuple[Call, ...]) -> tuple[Result, ...]:
    """A result for each check of the report, where there was to be one."""
    if "report" not in events.parts:
        return ()
    session = events.sessions.get(RUNTIME, Session())
    event = next(iter(session.of("report")), None)
    if event is None:
        message: dict[str, JSON] = {"message": f"the engine cannot be used: {session.broken}"}
        return tuple(_of(name, Verdict.ERROR, message) for name in NAMES) if session.broken else ()
    report = read(event)
    if not report.lines("cmdline"):
        diagnostic: dict[str, JSON] = {"message": "the container gave no report", "commands": commands(event)}
        return tuple(_of(name, Verdict.ERROR, diagnostic if name == "GIVEN-args" else {**diagnostic}) for name in NAMES)
    config = _config(report, calls)
    return tuple(_judged(name, report, config, seconds(event)) for name in NAMES)


def read(event: Event) -> Report:
    """The report in an event, whatever is in it."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in str(event.get("text", "")).splitlines():
        if line.startswith(_MARK) and re.fullmatch(r"[a-z]{1,20}", line[len(_MARK) :]):
            current = sections.setdefault(line[len(_MARK) :], [])
        else:
            current.append(line)
    limits = event.get("limits")
    return Report(
        sections,
        _texts(event.get("asked")),
        frozenset(name for name in cannot if isinstance(name, str))
        if isinstance(cannot := event.get("cannot"), list)
        else frozenset(),
        {path: _texts(values) for path, values in limits.items()} if isinstance(limits, dict) else {},
        _texts(event.get("namespaces")),
    )


def _texts(value: object) -> dict[str, str]:
    given = value if isinstance(value, dict) else {}
    return {key: text for key, text in given.items() if isinstance(text, str)}


def _config(report: Report, calls: tuple[Call, ...]) -> Config | None:
    """The config.json of the create whose command the report has."""
    command = report.lines("cmdline")
    for call in calls:
        process = (call.config or {}).get("process")
        args = process.get("args") if isinstance(process, Mapping) else None
        if (
            call.command == "create"
            and isinstance(args, list)
            and args
            and args[-1:] == command[len(args) - 1 : len(args)]
        ):
            return call.config
    return None


def _judged(name: str, report: Report, config: Config | None, took: float) -> Result:
    try:
        if name in _GIVEN:
            if config is None:
                raise Untold("the record of calls has no config.json of this container")
            found = list(_GIVEN[name][2](report, config))
        else:
            key = name.removeprefix("ASKED-")
            if key not in report.asked:
                raise Untold("this engine has no word for it")
            found = list(_ASKED[key][1](report, report.asked[key]))
    except Untold as why:
        return _of(name, Verdict.SKIP, {"reason": str(why)})
    except (TypeError, ValueError, AttributeError) as error:  # a config.json of another shape: CALL- checks tell how
        return _of(name, Verdict.SKIP, {"reason": f"config.json is not as the document has it: {error}"})
    if not found:
        return _of(name, Verdict.PASS, {}, took)
    failures: list[JSON] = [
        {
            "what": truncate(what, 200),
            "finding": truncate(what, 200),
            "expected": _plain(expected),
            "actual": _plain(actual),
        }
        for what, expected, actual in found
    ]
    return _of(name, Verdict.FAIL, {"failures": failures}, took)


def _plain(value: Any) -> JSON:
    return list(value) if isinstance(value, tuple) else value


def _of(name: str, verdict: Verdict, diagnostic: dict[str, JSON], took: float = 0.0) -> Result:
    level = "MUST" if name in _GIVEN else ""
    return Result(name, NAMES[name], level, _REFERENCES.get(name, ""), verdict, took, diagnostic)

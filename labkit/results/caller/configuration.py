"""Checks of the config.json that create is given: what binds who writes it. Any JSON may be in it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from labkit.core.text import one_line
from labkit.results.caller import schema
from labkit.results.caller.calls import Call, Object
from labkit.results.caller.findings import Check, Finding, Found, Undecided, creates
from labkit.results.tap import JSON

_NAMESPACES = {"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"}
_RLIMITS = {
    f"RLIMIT_{name}"
    for name in (
        "AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS",
        "RTPRIO", "RTTIME", "SIGPENDING", "STACK",
    )
}  # fmt: skip
_CAPABILITIES = {
    f"CAP_{name}"
    for name in (
        "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
        "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
        "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST",
        "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT",
        "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    )
}  # fmt: skip

OfConfig = Callable[[Call, Object], Iterator[Found]]


def at(value: JSON | Object, *path: str) -> JSON:
    """What is at a path of objects; None where nothing is."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if not isinstance(value, tuple) else None


def listed(value: JSON | Object, *path: str) -> list[JSON]:
    found = at(value, *path)
    return found if isinstance(found, list) else []


def objects(value: JSON | Object, *path: str) -> list[dict[str, JSON]]:
    return [one for one in listed(value, *path) if isinstance(one, dict)]


def _each(check: OfConfig) -> Check:
    def of(calls: tuple[Call, ...]) -> Iterator[Found]:
        for call in creates(calls):
            if call.config is not None:
                yield from check(call, call.config)

    return of


def _shown(value: JSON) -> str:
    return one_line(value if isinstance(value, str) else repr(value), 200)


def _absolute(value: JSON) -> bool:
    return isinstance(value, str) and value.startswith("/")


def whole(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in creates(calls):
        if (
            call.config is None
            and call.config_error
            and ("JSON" in call.config_error or "config_text" in call.left_out)
        ):
            yield Finding("config.json is no JSON object", call, "a JSON object", one_line(call.config_error, 200))
        elif call.twice:
            for key in call.twice[:10]:
                yield Finding(f"{one_line(key, 60)} twice", call, "each key once", one_line(key, 60))
        elif call.config is not None:
            yield None


def version(call: Call, config: Object) -> Iterator[Found]:
    given = config.get("ociVersion")
    numbers = schema.release(given)
    if numbers is None:
        yield Finding("ociVersion is no version", call, "a SemVer version", _shown(given))
    elif numbers not in schema.RELEASES and numbers < max(schema.RELEASES):
        yield Finding("ociVersion is no released version", call, "a released version from 1.0.0 on", _shown(given))
    else:
        yield None  # a later one than we know may be released by now


def by_schema(call: Call, config: Object) -> Iterator[Found]:
    found = schema.errors(dict(config), schema.schema_of(config.get("ociVersion")) or schema.NEWEST)
    for place, message in found:
        yield Finding(f"schema {place}", call, "what the schema has", message)
    if not found:
        yield None


def later(call: Call, config: Object) -> Iterator[Found]:
    given = schema.schema_of(config.get("ociVersion"))
    if not given:
        return
    found = schema.later(dict(config), given)
    for place, release in found:
        yield Finding(f"{place} is of {release}", call, f"ociVersion {release} or later", _shown(config["ociVersion"]))
    for place in schema.strange(dict(config)):
        yield Undecided(call, f"{place} is of no release: runtimes ignore it, or have it as an extension")
    if not found:
        yield None


def cwd(call: Call, config: Object) -> Iterator[Found]:
    if not isinstance(at(config, "process"), dict):
        return
    given = at(config, "process", "cwd")
    yield None if _absolute(given) else Finding("process.cwd is not absolute", call, "an absolute path", _shown(given))


def args(call: Call, config: Object) -> Iterator[Found]:
    given = listed(config, "process", "args")
    if not isinstance(at(config, "process"), dict):
        yield Finding("no process", call, "process")
    elif not given or not isinstance(given[0], str) or not given[0]:
        yield Finding("no process.args", call, "a program", _shown(at(config, "process", "args")))
    else:
        yield None


def root(call: Call, config: Object) -> Iterator[Found]:
    given = at(config, "root", "path")
    yield None if isinstance(given, str) and given else Finding("no root.path", call, "a path", _shown(given))


def mounts(call: Call, config: Object) -> Iterator[Found]:
    for one in objects(config, "mounts"):
        given = one.get("destination")
        right = _absolute(given)
        yield (
            None if right else Finding("a mount's destination is not absolute", call, "an absolute path", _shown(given))
        )


def namespaces(call: Call, config: Object) -> Iterator[Found]:
    given = objects(config, "linux", "namespaces")
    types = [one.get("type") for one in given]
    for one in given:
        kind, path = one.get("type"), one.get("path")
        if not isinstance(kind, str) or kind not in _NAMESPACES:
            yield Finding("a namespace that nobody knows", call, ", ".join(sorted(_NAMESPACES)), _shown(kind))
        elif path is not None and not (path == "" or _absolute(path)):  # "" is how Go writes none
            yield Finding("a namespace's path is not absolute", call, "an absolute path", _shown(path))
        else:
            yield None
    for kind, times in Counter(kind for kind in types if isinstance(kind, str)).items():
        if times > 1:
            yield Finding("a namespace twice", call, "once", one_line(kind, 60))


def mappings(call: Call, config: Object) -> Iterator[Found]:
    user = [one for one in objects(config, "linux", "namespaces") if one.get("type") == "user"]
    for key in ("uidMappings", "gidMappings"):
        given = objects(config, "linux", key)
        if not user and given:
            yield Finding(f"{key} without a user namespace", call, "a user namespace")
        elif user and not user[0].get("path") and not given:
            yield Finding(f"a user namespace without {key}", call, key)
        elif given and (wrong := _overlap(given)):
            yield Finding(f"{key} {wrong}", call, "sizes above zero, no overlap", _shown([*given][:5]))
        elif user:
            yield None


def _overlap(given: list[dict[str, JSON]]) -> str:
    sizes = [one.get("size") for one in given]
    if any(not isinstance(size, int) or isinstance(size, bool) or size <= 0 for size in sizes):
        return "with a size that is not above zero"
    for side in ("containerID", "hostID"):
        spans = []
        for one in given:
            first, size = one.get(side), one.get("size")
            if isinstance(first, int) and isinstance(size, int):
                spans.append((first, first + size))
        spans.sort()
        if any(end > begin for (_, end), (begin, _) in itertools.pairwise(spans)):
            return f"that overlap by {side}"
    return ""


def rlimits(call: Call, config: Object) -> Iterator[Found]:
    given = objects(config, "process", "rlimits")
    for one in given:
        kind, soft, hard = one.get("type"), one.get("soft"), one.get("hard")
        if not isinstance(kind, str) or kind not in _RLIMITS:
            yield Finding("an rlimit that nobody knows", call, "a type of getrlimit(2)", _shown(kind))
        elif isinstance(soft, int) and isinstance(hard, int) and soft > hard:
            yield Finding("an rlimit with soft above hard", call, f"at most {hard}", str(soft))
        else:
            yield None
    for kind, times in Counter(kind for one in given if isinstance(kind := one.get("type"), str)).items():
        if times > 1:
            yield Finding("an rlimit twice", call, "once", one_line(kind, 60))


def hooks(call: Call, config: Object) -> Iterator[Found]:
    given = at(config, "hooks")
    for stage in given if isinstance(given, dict) else ():
        for one in objects(config, "hooks", stage):
            path, timeout = one.get("path"), one.get("timeout")
            if not _absolute(path):
                yield Finding("a hook's path is not absolute", call, "an absolute path", _shown(path))
            elif timeout is not None and (not isinstance(timeout, int) or isinstance(timeout, bool) or timeout <= 0):
                yield Finding("a hook's timeout is not above zero", call, "above zero", _shown(timeout))
            else:
                yield None


def paths(call: Call, config: Object) -> Iterator[Found]:
    for key in ("maskedPaths", "readonlyPaths"):
        for path in listed(config, "linux", key):
            yield None if _absolute(path) else Finding(f"{key} are not absolute", call, "absolute", _shown(path))
    for one in objects(config, "linux", "devices"):
        path = one.get("path")
        yield None if _absolute(path) else Finding("a device's path is not absolute", call, "absolute", _shown(path))


def hostname(call: Call, config: Object) -> Iterator[Found]:
    has = any(one.get("type") == "uts" for one in objects(config, "linux", "namespaces"))
    for key in ("hostname", "domainname"):
        if config.get(key):
            yield (
                None if has else Finding(f"{key} without a UTS namespace", call, "a UTS namespace", _shown(config[key]))
            )


def annotated(call: Call, config: Object) -> Iterator[Found]:
    given = at(config, "annotations")
    for key, value in given.items() if isinstance(given, dict) else ():
        if not key:
            yield Finding("an annotation without a key", call, "a key", _shown(value))
        elif not isinstance(value, str):
            yield Finding("an annotation that is no string", call, "a string", _shown(value))
        else:
            yield None


def mount_mappings(call: Call, config: Object) -> Iterator[Found]:
    for one in objects(config, "mounts"):
        has = [bool(one.get(key)) for key in ("uidMappings", "gidMappings")]
        if any(has):
            yield None if all(has) else Finding("a mount with one mapping", call, "uidMappings and gidMappings")


def capabilities(call: Call, config: Object) -> Iterator[Found]:
    given = at(config, "process", "capabilities")
    if not isinstance(given, dict):
        return
    sets = {key: {one for one in listed(given, key) if isinstance(one, str)} for key in given}
    unknown = sorted(set().union(*sets.values()) - _CAPABILITIES)
    more = sorted(sets.get("effective", set()) - sets.get("permitted", set()))
    if unknown:
        yield Finding(
            "a capability that nobody knows", call, "those of capabilities(7)", one_line(", ".join(unknown), 200)
        )
    if more:
        yield Finding(
            "effective capabilities that are not permitted", call, "permitted", one_line(", ".join(more), 200)
        )
    if not unknown and not more:
        yield None


CHECKS: dict[str, Check] = {
    "CALL-040": whole,
    "CALL-041": _each(version),
    "CALL-042": _each(by_schema),
    "CALL-043": _each(later),
    "CALL-044": _each(cwd),
    "CALL-045": _each(args),
    "CALL-046": _each(root),
    "CALL-047": _each(mounts),
    "CALL-048": _each(namespaces),
    "CALL-049": _each(mappings),
    "CALL-050": _each(rlimits),
    "CALL-051": _each(hooks),
    "CALL-052": _each(paths),
    "CALL-053": _each(hostname),
    "CALL-054": _each(annotated),
    "CALL-055": _each(mount_mappings),
    "CALL-056": _each(capabilities),
}

"""What each engine asks of a runtime: the features of config.json, and the commands, as a table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from labkit.core.text import one_line
from labkit.results.caller.calls import Call, Object
from labkit.results.caller.configuration import at, listed, objects
from labkit.results.caller.findings import creates
from labkit.results.tap import JSON

_MOST = 30  # of one feature
_LIMITS = {
    "memory": ("limit", "reservation", "swap", "kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy"),
    "cpu": ("shares", "quota", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems", "burst", "idle"),
}
# In the order of the table.
FEATURES = (
    "commands", "containers", "ociVersion", "new namespaces", "joined namespaces", "user namespace", "hooks", "seccomp",
    "cgroup limits", "annotations", "mounts", "mount options", "terminal", "capabilities", "rlimits", "sysctl", "other",
)  # fmt: skip


def table(calls: Iterable[Call]) -> dict[str, dict[str, str]]:
    """Engine to feature to what of it was used: each word with the number of containers, where not all have it."""
    calls = tuple(calls)
    engines: dict[str, dict[str, str]] = {}
    for engine in dict.fromkeys(call.engine for call in calls):
        mine = [call for call in calls if call.engine == engine]
        configs = [call.config for call in creates(mine) if call.config is not None]
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for config in configs:
            for feature, word in set(_used(config)):
                found[feature][one_line(word, 60)] += 1
        row = {
            "commands": _words(Counter(call.command or " ".join(call.options[:1]) for call in mine), 0),
            "containers": str(len(configs)) if configs else "",
            **{feature: _words(found[feature], len(configs)) for feature in FEATURES if feature in found},
        }
        engines[engine] = {feature: row[feature] for feature in FEATURES if row.get(feature)}
    return engines


def _words(found: Counter[str], whole: int) -> str:
    words = [word if number == whole else f"{word} ({number})" for word, number in sorted(found.items())]
    more = f", and {len(words) - _MOST} more" if len(words) > _MOST else ""
    return ", ".join(words[:_MOST]) + more


def _used(config: Object) -> Iterator[tuple[str, str]]:
    version = config.get("ociVersion")
    yield "ociVersion", version if isinstance(version, str) else "none"
    for one in objects(config, "linux", "namespaces"):
        yield "joined namespaces" if one.get("path") else "new namespaces", _text(one.get("type"))
        if one.get("type") == "user":
            yield "user namespace", "joined" if one.get("path") else "new"
    if listed(config, "linux", "uidMappings"):
        yield "user namespace", "mappings"
    yield from (("hooks", stage) for stage, some in _items(at(config, "hooks")) if some)
    if isinstance(seccomp := at(config, "linux", "seccomp"), dict):
        yield "seccomp", _text(seccomp.get("defaultAction"))
        yield from (("seccomp", key) for key in ("listenerPath", "flags") if seccomp.get(key))
        if any(one.get("args") for one in objects(seccomp, "syscalls")):
            yield "seccomp", "args"
    yield from (("cgroup limits", word) for word in _limits(at(config, "linux", "resources")))
    yield from (("annotations", key) for key, _ in _items(at(config, "annotations")))
    for one in objects(config, "mounts"):
        yield "mounts", _text(one.get("type")) or "(no type)"
        yield from (("mount options", _text(word).partition("=")[0]) for word in listed(one, "options"))
        if one.get("uidMappings"):
            yield "mounts", "mapped ids"
    if at(config, "process", "terminal") is True:
        yield "terminal", "yes"
    yield from (("capabilities", key) for key, some in _items(at(config, "process", "capabilities")) if some)
    yield from (("rlimits", _text(one.get("type"))) for one in objects(config, "process", "rlimits"))
    yield from (("sysctl", key) for key, _ in _items(at(config, "linux", "sysctl")))
    yield from (("other", word) for word in _other(config))


def _limits(resources: JSON) -> Iterator[str]:
    for key, value in _items(resources):
        if key in _LIMITS:
            yield from (f"{key}.{name}" for name in _LIMITS[key] if _set(at(value, name)))
        elif key == "devices":
            yield "devices"
        elif key == "unified":
            yield from (f"unified {name}" for name, _ in _items(value))
        elif _set(value):
            yield key


def _other(config: Object) -> Iterator[str]:
    process = at(config, "process")
    for key in ("noNewPrivileges", "oomScoreAdj", "apparmorProfile", "selinuxLabel", "scheduler", "ioPriority"):
        if _set(at(process, key)):
            yield key
    for key in ("umask", "additionalGids"):
        if _set(at(process, "user", key)):
            yield f"user.{key}"
    for key in ("hostname", "domainname"):
        if config.get(key):
            yield key
    if at(config, "root", "readonly") is True:
        yield "root.readonly"
    for key in (
        "cgroupsPath", "devices", "maskedPaths", "readonlyPaths", "rootfsPropagation", "mountLabel", "personality",
        "intelRdt", "timeOffsets", "netDevices", "memoryPolicy",
    ):  # fmt: skip
        if _set(at(config, "linux", key)):
            yield key


def markdown(engines: Mapping[str, Mapping[str, str]]) -> str:
    """The table for a page: a row for each feature, a column for each engine."""
    names = list(engines)
    lines = [f"| | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for feature in FEATURES:
        if any(feature in engines[name] for name in names):
            cells = (engines[name].get(feature, "").replace("|", "\\|") for name in names)
            lines.append(f"| {feature} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _set(value: JSON) -> bool:
    """Whether a field says anything: 0 does, as a number."""
    return value is not False and value not in (None, "", [], {})


def _items(value: JSON) -> list[tuple[str, JSON]]:
    return list(value.items()) if isinstance(value, dict) else []


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else ""

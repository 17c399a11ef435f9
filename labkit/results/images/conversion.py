"""config.json judged by the configuration of the image, as conversion.md of image-spec has it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from labkit.guest.images import cases
from labkit.guest.images.case import AMD64
from labkit.guest.images.conversions import IMPLICIT, INDEX, MANIFEST, OVERRIDES
from labkit.results.engines.events import Event
from labkit.results.images.findings import Cannot, Finding, Found, no_error, refused

_EXPOSED = f"{IMPLICIT}exposedPorts"
_IDS = {"labkit": (1000, 1000), "other": (1001, 3000)}  # of the images' /etc/passwd
_GROUPS = {"extra": 2000, "others": 3000}  # of their /etc/group
_MEMBER = {"labkit": {2000, 2001}, "other": {2001}}
_OUTSIDER = 4711


class Pair:
    """An image's configuration, and what became of it. Of what the event says of the image, only its architecture is
    taken: the suite's images are known.
    """

    def __init__(self, name: str, event: Event) -> None:
        self.about = cases.named(name).about(str(_object(event.get("about")).get("architecture", AMD64)))
        self.image = _object(self.about.get("config"))
        self.config = _object(event.get("config"))
        self.process = _object(self.config.get("process"))
        self.user = _object(self.process.get("user"))
        self.annotations = _object(self.config.get("annotations"))
        self.command = event.get("command")

    @property
    def env(self) -> list[str]:
        return [str(one) for one in _list(self.process.get("env"))]

    @property
    def wanted(self) -> tuple[str, str]:
        """User of the image: user, and group or ""."""
        user, _, group = str(self.image.get("User", "")).partition(":")
        return user, group


Check: TypeAlias = Callable[[str, Event], Iterator[Found]]
CHECKS: dict[str, Check] = {}


def _check(
    *idents: str, negative: bool = False
) -> Callable[[Callable[[Pair], Iterator[Found]]], Callable[[Pair], Iterator[Found]]]:
    """Register a check of a conversion that has to succeed. negative: it says what must not be, of which a conversion
    that came to nothing shows nothing.
    """

    def register(function: Callable[[Pair], Iterator[Found]]) -> Callable[[Pair], Iterator[Found]]:
        def check(name: str, event: Event) -> Iterator[Found]:
            if isinstance(why := event.get("cannot"), str):
                yield Cannot(why)
            elif not isinstance(event.get("config"), dict):
                yield Cannot("the image is refused") if negative else refused(event)
            else:
                yield from function(Pair(name, event))

        for ident in idents:
            CHECKS[ident] = check
        return function

    return register


@_check("CONV-001")
def _cwd(pair: Pair) -> Iterator[Found]:
    wanted, seen = pair.image.get("WorkingDir"), pair.process.get("cwd")
    if seen != wanted:
        yield Finding("cwd", "process.cwd is not Config.WorkingDir", wanted, seen)


@_check("CONV-002")
def _env(pair: Pair) -> Iterator[Found]:
    for entry in _list(pair.image.get("Env")):
        name = str(entry).partition("=")[0]
        if entry not in pair.env:
            seen = [one for one in pair.env if one.partition("=")[0] == name]
            yield Finding(name, f"{name} is {'changed' if seen else 'missing'}", str(entry), [*seen])


_check("CONV-004", negative=True)(_env)


@_check("CONV-003", negative=True)
def _added(pair: Pair) -> Iterator[Found]:
    for name in dict.fromkeys(str(entry).partition("=")[0] for entry in _list(pair.image.get("Env"))):
        seen = [one for one in pair.env if one.partition("=")[0] == name]
        if len(seen) > 1:
            yield Finding(name, f"{name} stands {len(seen)} times", "once", [*seen])


@_check("CONV-005", "CONV-006", "CONV-007")
def _args(pair: Pair) -> Iterator[Found]:
    if pair.command:
        yield Cannot("its command to run a container takes none from the image: one has to be given")
        return
    wanted = [*_list(pair.image.get("Entrypoint")), *_list(pair.image.get("Cmd"))]
    seen = pair.process.get("args")
    if seen != wanted:
        yield Finding("args", "process.args are not Entrypoint and Cmd", wanted, seen)


def _annotation(key: str, value: Callable[[Pair], list[str]]) -> Callable[[Pair], Iterator[Found]]:
    """An annotation has one of these values."""

    def check(pair: Pair) -> Iterator[Found]:
        wanted, seen = value(pair), pair.annotations.get(key)
        if seen not in wanted:
            yield Finding("missing" if seen is None else "value", f"the annotation {key}", wanted[0], seen)

    return check


def _property(name: str) -> Callable[[Pair], list[str]]:
    return lambda pair: [str(pair.about.get(name))]


def _features(pair: Pair) -> list[str]:
    features = _list(pair.about.get("os.features"))
    return [",".join(map(str, features)), json.dumps(features), json.dumps(features, separators=(",", ":"))]


_IMPLICIT: Mapping[str, tuple[str, Callable[[Pair], list[str]]]] = MappingProxyType(
    {
        "CONV-010": ("os", _property("os")),
        "CONV-011": ("architecture", _property("architecture")),
        "CONV-012": ("variant", _property("variant")),
        "CONV-013": ("os.version", _property("os.version")),
        "CONV-014": ("os.features", _features),
        "CONV-015": ("author", _property("author")),
        "CONV-016": ("created", _property("created")),
        "CONV-018": ("stopSignal", lambda pair: [str(pair.image.get("StopSignal"))]),
    }
)
for _ident, (_key, _value) in _IMPLICIT.items():
    _check(_ident)(_annotation(f"{IMPLICIT}{_key}", _value))


@_check("CONV-017")
def _labels(pair: Pair) -> Iterator[Found]:
    for key, value in _object(pair.image.get("Labels")).items():
        if key not in pair.annotations:
            yield Finding(key, f"the label {key} is no annotation", value)


@_check("CONV-021", negative=True)
def _modified(pair: Pair) -> Iterator[Found]:
    for key, value in _object(pair.image.get("Labels")).items():
        if key in pair.annotations and pair.annotations[key] != value:
            yield Finding(key, f"the label {key} is modified", value, pair.annotations[key])


@_check("CONV-020")
def _overrides(pair: Pair) -> Iterator[Found]:
    for key, value in OVERRIDES.items():
        if pair.annotations.get(key) != value:
            what = f"the annotation {key} is not the label's"
            yield Finding(key.removeprefix(IMPLICIT), what, value, pair.annotations.get(key))


@_check("CONV-044")
def _over_manifest(pair: Pair) -> Iterator[Found]:
    key = "org.labkit.same-key"
    wanted, seen = _object(pair.image.get("Labels")).get(key), pair.annotations.get(key)
    if seen != wanted:
        yield Finding("missing" if seen is None else "value", f"the annotation {key} is not the label's", wanted, seen)


@_check("CONV-043", negative=True)
def _manifest(pair: Pair) -> Iterator[Found]:
    labels = _object(pair.image.get("Labels"))
    for key in (*MANIFEST, *INDEX):
        if key not in labels and key in pair.annotations:
            yield Finding(key, f"the annotation {key} is taken over", None, pair.annotations[key])


@_check("CONV-040")
def _ports(pair: Pair) -> Iterator[Found]:
    wanted, seen = set(_object(pair.image.get("ExposedPorts"))), pair.annotations.get(_EXPOSED)
    if seen is None or set(str(seen).split(",")) != wanted:
        name = "missing" if seen is None else "value"
        yield Finding(name, f"the annotation {_EXPOSED}", ",".join(sorted(wanted)), seen)


@_check("CONV-042")
def _volumes(pair: Pair) -> Iterator[Found]:
    mounts = [str(_object(one).get("destination")) for one in _list(pair.config.get("mounts"))]
    for path in _object(pair.image.get("Volumes")):
        if path not in mounts:
            yield Finding(path, f"the volume {path} is no mount", path, [*mounts])


@_check("CONV-030", "CONV-039")
def _uid(pair: Pair) -> Iterator[Found]:
    wanted, seen = int(pair.wanted[0]), pair.user.get("uid")
    if seen != wanted:
        yield Finding("uid", "process.user.uid", wanted, seen)


@_check("CONV-031")
def _gid(pair: Pair) -> Iterator[Found]:
    wanted, seen = int(pair.wanted[1]), pair.user.get("gid")
    if seen != wanted:
        yield Finding("gid", "process.user.gid", wanted, seen)


@_check("CONV-032")
def _name(pair: Pair) -> Iterator[Found]:
    user, group = pair.wanted
    uid, gid = _IDS[user]
    if pair.user.get("uid") != uid:
        yield Finding("uid", f"process.user.uid of {user}", uid, pair.user.get("uid"))
    if not group and pair.user.get("gid") != gid:
        yield Finding("gid", f"process.user.gid of {user}", gid, pair.user.get("gid"))


@_check("CONV-033")
def _group(pair: Pair) -> Iterator[Found]:
    wanted, seen = _GROUPS[pair.wanted[1]], pair.user.get("gid")
    if seen != wanted:
        yield Finding("gid", f"process.user.gid of {pair.wanted[1]}", wanted, seen)


@_check("CONV-034")
def _additional(pair: Pair) -> Iterator[Found]:
    user = pair.wanted[0]
    seen = _numbers(pair.user.get("additionalGids"))
    if set(seen) - {_IDS[user][1]} != _MEMBER[user]:
        yield Finding("groups", f"process.user.additionalGids of {user}", sorted(_MEMBER[user]), [*seen])


@_check("CONV-035", "CONV-036", negative=True)
def _untouched(pair: Pair) -> Iterator[Found]:
    seen = _numbers(pair.user.get("additionalGids"))
    if seen:
        name = "the group itself" if set(seen) == {pair.user.get("gid")} else "groups"
        yield Finding(name, "process.user.additionalGids", [], [*seen])


def _fails(_name: str, event: Event) -> Iterator[Found]:
    """A conversion that has to fail."""
    if isinstance(why := event.get("cannot"), str):
        yield Cannot(why)
    elif event.get("status") == 0:
        user = _object(_object(_object(event.get("config")).get("process")).get("user"))
        if user.get("uid") == _OUTSIDER:
            yield Finding("outside", "the user is found outside of the root file system", "an error", {**user})
        else:
            yield no_error(event)


CHECKS.update(dict.fromkeys(("CONV-037", "CONV-038", "CONV-041"), functools.partial(_fails)))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(value: object) -> list[int]:
    return [one for one in _list(value) if isinstance(one, int)]

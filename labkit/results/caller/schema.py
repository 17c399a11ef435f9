"""config.json against the JSON schema of the runtime-spec that its ociVersion names."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.core.text import one_line
from labkit.results.tap import JSON

if TYPE_CHECKING:
    from jsonschema import Draft4Validator

_SCHEMAS = Path(__file__).with_name("schemas")
_TOP = "config-schema.json"
# Each release, and the one whose schema it has. Sorted.
RELEASES = {
    (1, 0, 0): "1.0.2", (1, 0, 1): "1.0.2", (1, 0, 2): "1.0.2", (1, 1, 0): "1.1.0", (1, 2, 0): "1.1.0",
    (1, 2, 1): "1.2.1", (1, 3, 0): "1.3.0",
}  # fmt: skip
NEWEST = RELEASES[max(RELEASES)]
_SEMVER = re.compile(
    r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})(?:-[0-9A-Za-z.-]{1,64})?(?:\+[0-9A-Za-z.-]{1,64})?"
)
_MOST = 20  # errors of one configuration that are kept


def release(version: JSON) -> tuple[int, int, int] | None:
    """The numbers of a SemVer version; None where it is none. What follows them, `-rc.1` or `+dev`, is left out."""
    match = _SEMVER.fullmatch(version) if isinstance(version, str) else None
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def schema_of(version: JSON) -> str:
    """Whose schema a version has: that of the newest release before it, where nobody knows it; "" where it is none."""
    numbers = release(version)
    if numbers is None:
        return ""
    return RELEASES[max((known for known in RELEASES if known <= numbers), default=min(RELEASES))]


@functools.cache
def _file(version: str, name: str) -> Any:
    path = _SCHEMAS / version / name
    if not path.exists():  # of another platform: anything goes there
        return {re.sub(r"^config-|\.json$", "", name): {}}
    return json.loads(path.read_text())


@functools.cache
def _schema(version: str) -> Any:
    """The schema in one piece: nothing in it refers to itself, and to follow references takes five times as long."""
    return _inlined(_file(version, _TOP), version, _TOP)


def _inlined(schema: Any, version: str, file: str) -> Any:
    if isinstance(schema, list):
        return [_inlined(one, version, file) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(reference := schema.get("$ref"), str):
        name, _, pointer = reference.partition("#")
        target = _file(version, name or file)
        for word in filter(None, pointer.split("/")):  # `#definitions/uint32` stands in some releases, too
            target = target[word]
        return _inlined(target, version, name or file)
    return {key: _inlined(one, version, file) for key, one in schema.items()}


@functools.cache
def _validator(version: str) -> Draft4Validator:
    from jsonschema import Draft4Validator  # takes a tenth of a second, and few records of other suites need it

    return Draft4Validator(_schema(version))


def errors(config: JSON, version: str) -> list[tuple[str, str]]:
    """The place of each error in the configuration, `process.cwd`, and what is wrong; the first twenty."""
    found = itertools.islice(_validator(version).iter_errors(config), _MOST)
    return [(_place(error.absolute_path), one_line(error.message, 300)) for error in found]


def _place(path: Sequence[str | int]) -> str:
    """A place without the numbers of lists, as they tell nothing of what is wrong."""
    return (
        ".".join("[]" if isinstance(word, int) else one_line(word, 60) for word in path).replace(".[]", "[]") or "(top)"
    )


def fields(config: JSON, version: str) -> set[str]:
    """The fields of a configuration that the schema does not name, each with its path."""
    return set(_unknown(config, _schema(version), (), 0))


def _unknown(value: JSON, schema: Any, path: tuple[str, ...], depth: int) -> Iterator[str]:
    if depth > 40 or not isinstance(schema, Mapping):
        return
    if isinstance(value, list):
        for one in value:
            yield from _unknown(one, schema.get("items"), (*path, "[]"), depth + 1)
    if not isinstance(value, dict):
        return
    for part in schema.get("allOf", ()):
        yield from _unknown(value, part, path, depth + 1)
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or "patternProperties" in schema:
        return  # a map with keys of one's own
    for key, one in value.items():
        if key in properties:
            yield from _unknown(one, properties[key], (*path, key), depth + 1)
        else:
            yield _place((*(0 if word == "[]" else word for word in path), key))


def later(config: JSON, version: str) -> list[tuple[str, str]]:
    """The fields that the version's schema does not name and that of a later release does, with that release."""
    unknown = fields(config, version)
    found = []
    for numbers, other in sorted(RELEASES.items()):
        if not unknown or _order(other) <= _order(version):
            continue
        still = fields(config, other)
        # What is below a field that was unknown before comes to light now, and is of this release as well.
        found += [(name, ".".join(map(str, numbers))) for name in sorted(unknown - still)]
        unknown &= still
    return found


def strange(config: JSON) -> list[str]:
    """The fields that no release names."""
    return sorted(set.intersection(*(fields(config, version) for version in sorted(set(RELEASES.values())))))


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))

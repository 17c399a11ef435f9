"""Facts about a recording: what was said of it goes before what it says itself, and where the two differ is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from labkit.core.text import truncate
from labkit.guest.common import versions

NAMES = {
    "runtime": "the runtime",
    "runtime-version": "the runtime's version",
    "cgroup": "the cgroup version",
    "ref": "the ref of runtime-tools",
    "platform": "the platform",
}


def settled(found: Mapping[str, str], said: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The facts that were found, with those that were said in place of them, and a line for each that differs."""
    differ = {
        key: value
        for key, value in said.items()
        if key in found and value and _plain(key, found[key]) not in ("", "unknown", _plain(key, value))
    }
    told = (
        f"{NAMES.get(key, key)} is taken for {truncate(value, 100)}, as was said; "
        f"the output itself says {truncate(found[key], 100)}"
        for key, value in differ.items()
    )
    return {**found, **{key: value for key, value in said.items() if value}}, tuple(told)


def _plain(key: str, value: str) -> str:
    """The value as it is compared: there are several spellings of most."""
    if key == "runtime":
        return PurePosixPath(value).name
    if key == "runtime-version":
        return versions.told(value)[1].removeprefix("v") or value
    return value.removeprefix("v") if key == "ref" else value

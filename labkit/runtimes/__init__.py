"""Runtimes under test as data: one file NAME.toml each in this folder. Adding a runtime is adding a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, StrictStr

from labkit import tomlfile
from labkit.errors import UsageError
from labkit.tomlfile import Table
from labkit.words import unknown

_FOLDER = Path(__file__).parent


class _File(Table):
    title: StrictStr
    homepage: StrictStr
    binary: StrictStr = Field(pattern=r"^[A-Za-z0-9._+-]+$", description="the name of a program, without a folder")
    packages: dict[str, tuple[StrictStr, ...]] = Field(default={}, description="a table of lists, by platform family")


@dataclass(frozen=True, slots=True)
class Runtime:
    """command is what to execute in the guest: a program's name, or its absolute path.

    packages is platform family to the packages that bring it; empty for a path.
    """

    name: str
    command: str
    title: str
    homepage: str = ""
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def names() -> list[str]:
    """Return the names of the runtimes that have a file, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def find(name_or_path: str) -> Runtime:
    """Return the runtime with that name, or the program at that absolute path in the guest; else UsageError."""
    if name_or_path in names():
        file = _FOLDER / f"{name_or_path}.toml"
        data = tomlfile.check(_File, tomlfile.read(file), lambda _: str(file))
        return Runtime(name_or_path, data.binary, data.title, data.homepage, data.packages)
    path = PurePosixPath(name_or_path)
    if "/" not in name_or_path:
        message, hint = unknown("runtime", name_or_path, names())
        raise UsageError(message, hint=f"{hint}; or the absolute path of a program in the machine")
    if not path.is_absolute() or path.name in ("", "..") or not name_or_path.isprintable():
        raise UsageError(f"runtime {name_or_path!r} is not an absolute path", hint="such as /usr/local/bin/runc")
    return Runtime(path.name, str(path), path.name)

"""Engines, which use a runtime, as data: one file NAME.toml each in this directory. How each is driven is in the module
of its name in labkit/guest/engines.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, StrictStr

from labkit.core import tomlfile
from labkit.core.errors import UsageError
from labkit.core.suggest import unknown
from labkit.core.tomlfile import Table

_DIRECTORY = Path(__file__).parent


class _File(Table):
    title: StrictStr
    homepage: StrictStr
    steps: tuple[StrictStr, ...] = Field(default=(), description="the bootstrap steps that bring it")
    program: StrictStr = Field(pattern=r"^[A-Za-z0-9._+-]+$", description="the name of a program, without a directory")
    none: StrictStr = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """steps are those of the bootstrap that bring it; program is what it is started by; none: why there is no suite for
    it, empty where there is one.
    """

    name: str
    title: str
    homepage: str
    steps: tuple[str, ...]
    program: str
    none: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def names() -> list[str]:
    """Return the names of the engines that have a file, sorted."""
    return sorted(file.stem for file in _DIRECTORY.glob("*.toml"))


def find(name: str) -> Engine:
    """Return the engine of that name, else UsageError."""
    if name not in names():
        message, hint = unknown("engine", name, names())
        raise UsageError(message, hint=hint)
    file = _DIRECTORY / f"{name}.toml"
    data = tomlfile.check(_File, tomlfile.read(file), lambda _: str(file))
    return Engine(name, data.title, data.homepage, data.steps, data.program, data.none)


def usable() -> list[str]:
    """The names of those that the suite can use."""
    return [name for name in names() if not find(name).none]

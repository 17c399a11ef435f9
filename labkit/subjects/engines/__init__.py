"""What --engine names, as data: one file NAME.toml each in this directory. Engines use a runtime; how each is driven is
in the module of its name in labkit/guest/engines. Programs that convert images to bundles are in
labkit/guest/images/converters.
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
    brings: tuple[StrictStr, ...] = Field(default=(), description="a list of programs with versions, of ../programs")
    suites: tuple[StrictStr, ...] = Field(default=("engine", "image"), description="the suites that it can be used by")
    none: StrictStr = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """steps are those of the bootstrap that bring it; program is what it is started by; brings: words for programs that
    labkit builds and sends, as no package has them; suites are those that it can be used by; none: why there is no
    suite for it, empty where there is one.
    """

    name: str
    title: str
    homepage: str
    steps: tuple[str, ...]
    program: str
    suites: tuple[str, ...] = ("engine", "image")
    none: str = ""
    brings: tuple[str, ...] = ()

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
    return Engine(name, data.title, data.homepage, data.steps, data.program, data.suites, data.none, data.brings)


def require(name: str, suite: str) -> Engine:
    """The engine of that name, which the suite can use; else UsageError."""
    engine = find(name)
    hint = f"known: {', '.join(usable(suite))}"
    if engine.none:
        raise UsageError(f"{engine.title} cannot be used: {engine.none}", hint=hint)
    if suite not in engine.suites:
        others = " and ".join(f"--suite {one}" for one in engine.suites)
        raise UsageError(f"{engine.title} cannot be used by the suite {suite}, only with {others}", hint=hint)
    return engine


def usable(suite: str = "") -> list[str]:
    """The names of those that the suite can use, any suite where none is named."""
    return [name for name in names() if not find(name).none and (not suite or suite in find(name).suites)]

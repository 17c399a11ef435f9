"""Which suites there are: each module of this package that has a SUITE. Adding a suite is adding a file."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from labkit import suites
from labkit.core.errors import UsageError
from labkit.core.suggest import unknown
from labkit.io.files import disk_errors, make_directory, write_atomic
from labkit.suites import shards
from labkit.suites.base import OfEngines, OfProgramme, Suite

_NO_SUITES = {
    "again",
    "base",
    "facts",
    "over_engine",
    "recordings",
    "refs",
    "registry",
    "shards",
    "subset",
    "summary",
    "users",
}


def names() -> list[str]:
    """The suites' names, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(suites.__path__) if module.name not in _NO_SUITES)


def specification(name: str) -> str:
    """What the version is of that runs of the suite say they hold to."""
    suite = find(name) if name in names() else None
    return suite.specification if isinstance(suite, OfProgramme) else "runtime-spec"


def find(name: str, engine: str = "") -> Suite:
    """The suite of that name, with that engine where it is about engines, else UsageError."""
    if name not in names():
        message, hint = unknown("suite", name, names())
        raise UsageError(message, hint=hint)
    # Each module annotates its SUITE with the protocol, so mypy has checked what this returns.
    suite: Suite = importlib.import_module(f"labkit.suites.{name}").SUITE
    if not engine:
        return suite
    if not isinstance(suite, OfEngines):
        raise UsageError(
            f"the {name} suite has no engine", hint="leave --engine out, or say --suite engine or --suite image"
        )
    return suite.of_engine(engine)


def of_directory(raw: Path) -> list[Suite]:
    """The suites whose raw output the directory has."""
    return [suite for suite in map(find, names()) if shards.recognizes(suite, raw)]


def export(directory: Path) -> Path:
    """Write the spec suite's program, which runs without labkit, into directory; its path."""
    suite = find("spec")
    target = make_directory(directory) / suite.file_name()
    with disk_errors(directory):
        write_atomic(target, suite.program(), mode=0o755)
    return target

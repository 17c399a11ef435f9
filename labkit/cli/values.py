"""The values that completion offers for a flag, found out while somebody waits for the answer to a press of TAB.

given is what the command line says so far, flag to value. FILES and DIRECTORIES stand for whatever the shell itself
would complete. Everything is imported on use: a completion loads what its one flag needs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.core.config import Settings

Given = Mapping[str, str]
TASK = ""  # the key under which it says the task
FILES, DIRECTORIES = ":files", ":directories"


def platforms(_given: Given) -> Iterator[str]:
    from labkit.core import platforms as known

    yield from known.names(known.directories(_settings().platforms))


def releases(given: Given) -> Iterator[str]:
    """Of the platform that is given, else of all."""
    from labkit.core import platforms as known
    from labkit.core.errors import LabError

    directories = known.directories(_settings().platforms)
    for name in [given["platform"]] if "platform" in given else known.names(directories):
        with contextlib.suppress(LabError):
            yield from known.load(name, directories).releases


def machines(_given: Given) -> Iterator[str]:
    """Those that exist in this lab."""
    from labkit.machines import record

    yield from record.names(_settings().home)


def runtimes(_given: Given) -> Iterator[str]:
    from labkit.subjects import runtimes as known

    yield from known.names()
    yield FILES  # a program in the machine often has the path of one here


def registries(_given: Given) -> Iterator[str]:
    from labkit.subjects import runtimes as known

    yield from known.names(known.Role.REGISTRY)
    yield FILES


def suites(_given: Given) -> Iterator[str]:
    from labkit.suites import registry

    yield from registry.names()


def engines(_given: Given) -> Iterator[str]:
    from labkit.subjects import engines as known

    yield from known.usable()


def checks(given: Given) -> Iterator[str]:
    """What the suite that is given can be asked to run, ids of checks or names of programs; of `nightly`, its cells."""
    if given.get(TASK) == "nightly":
        yield from cells(given)
        return
    from labkit.suites import registry

    yield from registry.find(given.get("suite") or _settings().suite).names()


def checks_of_cells(_given: Given) -> Iterator[str]:
    """What the suites can be asked to run."""
    from labkit.suites import registry

    for name in registry.names():
        yield from registry.find(name).names()


def cells(given: Given) -> Iterator[str]:
    """The cells of the matrix; the default one's, where the settings have none, as if all of it could be had."""
    from labkit.core import config
    from labkit.matrix import plan

    settings = config.load({"matrix": given["matrix"]}) if "matrix" in given else _settings()
    matrix = plan.load(settings) or plan.default(True, settings)
    yield from (planned.key for planned in plan.plan(matrix, settings).cells)


def runs(_given: Given) -> Iterator[str]:
    from labkit.store import runs as known

    reports = _settings().reports
    yield from known.ids(reports)
    if (reports / known.LATEST).is_dir():
        yield known.LATEST


def cells_and_checks(_given: Given) -> Iterator[str]:
    """What the history has, as it was when it was last asked; nothing is read anew for a press of TAB."""
    from labkit.core.errors import LabError
    from labkit.store.history import FILE, History

    path = _settings().reports / FILE
    if path.is_file():
        with contextlib.suppress(LabError), History.open(path, lambda text: None) as history:
            yield from history.cells()
            yield from history.names()


def runs_and_directories(given: Given) -> Iterator[str]:
    yield from runs(given)
    yield DIRECTORIES


def checks_of_run(given: Given) -> Iterator[str]:
    """What was bad in the run that is given."""
    from labkit.store import runs as known

    run = known.load(known.find(_settings().reports, given.get("of_run")))
    yield from dict.fromkeys(result.program or result.id for result in run.by_id() if result.bad)


def policy_words(given: Given) -> Iterator[str]:
    """Of `add` first a run, then what it showed that is bad and not expected; of `check` runs; of `import` files."""
    if given.get("action") == "import":
        yield FILES
    elif given.get("action") == "add" and "word" in given:
        from labkit.store import runs as known

        run = known.load(known.find(_settings().reports, given["word"]))
        yield from dict.fromkeys(result.program or result.id for result in run.unexpected)
    else:
        yield from runs_and_directories(given)


def policy_conditions(_given: Given) -> Iterator[str]:
    from labkit.usecases import policy

    yield from policy.NARROWED


def references(given: Given) -> Iterator[str]:
    yield from runtimes(given)
    yield "none"


def files(_given: Given) -> Iterator[str]:
    yield FILES


def directories(_given: Given) -> Iterator[str]:
    yield DIRECTORIES


def _settings() -> Settings:
    """The settings; where they are not right, what the environment says of places, and the defaults."""
    from labkit.core import config
    from labkit.core.errors import UsageError

    try:
        return config.load()
    except UsageError:
        kept = ("HOME", "XDG_DATA_HOME", "LABKIT_HOME", "LABKIT_REPORTS", "LABKIT_PLATFORMS")
        environ = {name: os.environ[name] for name in kept if name in os.environ}
        return config.load(environ={**environ, "LABKIT_CONFIG": os.devnull})

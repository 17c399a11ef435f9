"""The use case `test`: one cell, made of the settings."""

from __future__ import annotations

import dataclasses

from labkit.core.arch import Arch
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.machines import providers
from labkit.results.policy import Entry
from labkit.store import runs
from labkit.subjects import runtimes
from labkit.suites import registry, subset
from labkit.suites.base import RunObserver
from labkit.usecases.judge import policies
from labkit.usecases.machines import machine_name, settled
from labkit.usecases.run import Outcome, run_cell


def test(
    settings: Settings,
    observer: RunObserver,
    selection: Selection,
    *,
    failed: bool = False,
    with_policy: bool = True,
    machines: int = 1,
    runtime_name: str = "",
) -> Outcome:
    """Run the suite that the settings name against their runtime, on their machine, or shared by so many.

    runtime_name is what to call the runtime, where it is not known by its path or by what it says. failed selects what
    failed last time, in place of what the selection names.
    """
    entries: list[Entry] | None = policies(settings) if with_policy else None
    settings = settled(settings)
    cell = cell_of(settings, selection, failed=failed, machines=machines)
    cell = dataclasses.replace(cell, runtime_name=runtime_name)
    return run_cell(cell, settings, observer, entries)


def cell_of(settings: Settings, selection: Selection, *, failed: bool = False, machines: int = 1) -> Cell:
    """The cell of the settings. UsageError where they name what does not exist."""
    settings = settled(settings)
    distro = settings.distro()
    runtime, arguments = runtimes.split(settings.runtime)
    settings = settings.with_values(None, runtime=runtime)
    selection = dataclasses.replace(selection, runtime_args=(*arguments, *selection.runtime_args))
    if failed:
        if selection.only:
            raise UsageError("--failed and --only exclude each other", hint="--failed selects what failed last time")
        name = runtimes.find(settings.runtime).name
        selection = dataclasses.replace(selection, only=runs.failed_before(settings.reports, settings.suite, name))
    else:
        known = registry.find(settings.suite).names()
        selection = dataclasses.replace(selection, only=subset.settled(selection, known))
    return Cell(
        distro.platform.name,
        distro.release.name,
        settings.provider,
        machine_name(settings),
        settings.runtime,
        settings.suite,
        selection,
        machines,
        arch=distro.arch.value if providers.chosen(settings) != "ssh" else Arch.AMD64.value,
    )

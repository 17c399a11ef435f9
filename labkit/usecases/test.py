"""The use case `test`: one cell, made of the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from labkit.core.arch import Arch
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.errors import LabError, UsageError
from labkit.machines import providers
from labkit.results.policy import Entry
from labkit.store import runs
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Role
from labkit.suites import registry, subset
from labkit.suites.base import RunObserver
from labkit.usecases import subject
from labkit.usecases.judge import policies
from labkit.usecases.machines import machine_name, settled
from labkit.usecases.run import Outcome, role_of, run_cell

REFERENCE = "runc"
NO_REFERENCE = "none"


def test(
    settings: Settings,
    observer: RunObserver,
    selection: Selection,
    *,
    failed: bool = False,
    with_policy: bool = True,
    machines: int = 1,
    runtime_name: str = "",
    reference: str | None = None,
) -> Outcome:
    """Run the suite that the settings name against their runtime, or registry, on their machine, or shared by so many.

    runtime_name is what to call the runtime, where it is not known by its path or by what it says. failed selects what
    failed last time, in place of what the selection names. reference is the runtime that what is bad is compared with:
    None for the platform's runc, "none" for none; the one under test is not compared with itself.
    """
    entries: list[Entry] | None = policies(settings) if with_policy else None
    settings = settled(settings)
    cell = cell_of(settings, selection, failed=failed, machines=machines)
    role = role_of(registry.find(cell.suite))
    usual = REFERENCE if role is Role.RUNTIME else NO_REFERENCE
    other = reference or usual
    word = "" if other == NO_REFERENCE else str(runtimes.word(runtimes.split(other)[0], role=role))
    selection = dataclasses.replace(cell.selection, reference="" if word == cell.runtime else word)
    cell = dataclasses.replace(cell, runtime_name=runtime_name, selection=selection)
    return run_cell(cell, settings, observer, entries)


def test_all(
    settings: Settings,
    observer: RunObserver,
    selection: Selection,
    words: Sequence[str],
    *,
    failed: bool = False,
    with_policy: bool = True,
    machines: int = 1,
    runtime_name: str = "",
    reference: str | None = None,
) -> tuple[Outcome, ...]:
    """test() of each of these runtimes, one after the other on the same machine, in this order. What is wrong with one
    of them as far as this host can tell is said before the first is run.
    """
    if runtime_name and len(words) > 1:
        raise UsageError("--runtime-name names one runtime, and there are several", hint="leave --runtime-name out")
    role = role_of(registry.find(settings.suite, settings.engine or ""))
    each = [settings.with_values(f"--{role}", **{role.value: word}) for word in words] or [settings]
    if len(each) > 1:
        for one in each:
            cell = cell_of(one, selection, failed=failed, machines=machines)
            subject.find(runtimes.word(cell.runtime, role=role), one, one.distro(), observer)
    outcomes: list[Outcome] = []
    for one in each:
        try:
            outcomes.append(
                test(
                    one,
                    observer,
                    selection,
                    failed=failed,
                    with_policy=with_policy,
                    machines=machines,
                    runtime_name=runtime_name,
                    reference=reference,
                )
            )
        except LabError as error:
            if outcomes:
                before = ", ".join(str(done.directory) for done in outcomes)
                error.hint = "\n".join(filter(None, (error.hint, f"the runs before it are in {before}")))
            raise
    return tuple(outcomes)


def cell_of(settings: Settings, selection: Selection, *, failed: bool = False, machines: int = 1) -> Cell:
    """The cell of the settings. UsageError where they name what does not exist."""
    settings = settled(settings)
    distro = settings.distro()
    role = role_of(registry.find(settings.suite, settings.engine or ""))
    text, arguments = runtimes.split(settings.registry if role is Role.REGISTRY else settings.runtime)
    word = runtimes.word(text, role=role)
    settings = settings.with_values(None, runtime=str(word))
    selection = dataclasses.replace(selection, runtime_args=(*arguments, *selection.runtime_args))
    if failed:
        if selection.only:
            raise UsageError("--failed and --only exclude each other", hint="--failed selects what failed last time")
        name = runtimes.of(word).name
        selection = dataclasses.replace(
            selection, only=runs.failed_before(settings.reports, settings.suite, name, settings.engine or "")
        )
    else:
        known = registry.find(settings.suite, settings.engine or "").names()
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
        engine=settings.engine or "",
        arch=distro.arch.value if providers.chosen(settings) != "ssh" else Arch.AMD64.value,
    )

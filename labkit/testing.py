"""The use case `test`: a suite against a runtime on a machine."""

from __future__ import annotations

import dataclasses
import shutil

from labkit import judging, lab, provision, runs, runtimes, suites
from labkit.config import Settings
from labkit.deadline import Deadline
from labkit.errors import LabError, UsageError
from labkit.machines import providers
from labkit.observer import Observer
from labkit.runs import Outcome
from labkit.suites import Wish


def run(settings: Settings, observer: Observer, *, wish: Wish, failed: bool = False, judged: bool = True) -> Outcome:
    """Bring the machine up and run the suite against the runtime on it; the reports are in the outcome's folder.

    failed takes, instead of what the wish names, what failed last time. judged False leaves out every policy.
    """
    platform, release = lab.chosen(settings)
    runtime, suite = runtimes.find(settings.runtime), suites.find(settings.suite)
    if failed:
        wish = dataclasses.replace(wish, only=runs.failed_before(settings.reports, suite.name, runtime.name))
    suite.check(wish)
    entries = judging.policies(settings, judged)
    name = lab.machine_name(settings, platform, release)
    machine = providers.wanted(name, settings, observer, platform, release, suite.needs)
    with machine.lock():
        info = lab.bring_up(machine, settings, platform, release, observer)
        observer.step(f"running {suite.name} against {runtime.name} on {machine.name}")
        with machine.connect(Deadline.after(settings.limits.connect)) as remote:
            folder = runs.new_folder(settings.reports, [machine.name, runtime.name, suite.name])
            try:
                outcome = runs.conduct(
                    folder,
                    info,
                    machine.console(),
                    suite,
                    runtime,
                    remote,
                    observer,
                    wish=wish,
                    entries=entries,
                    timeout=settings.limits.suite,
                    facts={"bootstrap": provision.timings(remote)},
                )
            except UsageError:  # there was no run
                shutil.rmtree(folder)
                raise
        if suite.spoils(wish):
            try:
                observer.step(f"resetting {machine.name}: {suite.name} leaves it in disorder")
                machine.restore()
            except LabError as error:  # the results are there
                observer.warn(f"{error.message}; what {suite.name} has done to it stays")
    return outcome

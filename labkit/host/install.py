"""Installs what this host lacks, with its own package manager."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace

from labkit.core.config import Settings
from labkit.core.errors import HostError
from labkit.core.observer import Observer
from labkit.host.facts import Fact, lacking, package_manager, program_fact, read_data
from labkit.io import process


def install(settings: Settings, facts: Iterable[Fact], observer: Observer) -> None:
    """Install what is missing, as root or with settings.yes. HostError otherwise, with the command to type, and where
    this system has no package of it.
    """
    wanted = lacking(facts)
    if not wanted:
        return
    if not may_install(settings) or not all(fact.packages for fact in wanted):
        raise refusal(wanted)
    install_packages(settings, (package for fact in wanted for package in fact.packages), observer)


def may_install(settings: Settings) -> bool:
    """Whether packages may be installed: by root, or with sudo where the settings say yes."""
    return os.geteuid() == 0 or settings.yes


def install_packages(settings: Settings, packages: Iterable[str], observer: Observer) -> None:
    """Install packages by this system's package manager; ProgramFailed where it cannot."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    for argv in package_manager(read_data()).commands(packages):
        observer.step(shlex.join([*sudo, *argv]))
        process.run([*sudo, *argv], timeout=settings.limits.download, limit="download", on_line=observer.detail)


def refusal(wanted: Sequence[Fact]) -> HostError:
    """The error that says what this host lacks, with the command to type."""
    host = package_manager(read_data())
    message = "this host lacks " + ", ".join(f"{fact.name} (needed for {fact.needed_for})" for fact in wanted)
    hints = [f"{fact.name}: {fact.found}" for fact in wanted if not fact.packages]
    if packaged := [fact for fact in wanted if fact.packages]:
        typed = " && ".join(
            f"sudo {shlex.join(argv)}"
            for argv in host.commands(package for fact in packaged for package in fact.packages)
        )
        hints += [f"run: {typed}", "or let labkit do it: ./lab doctor --yes"]
    return HostError(message, hint="\n".join(hints))


def ensure(settings: Settings, names: Iterable[str], observer: Observer) -> None:
    """Make sure that the programs of these names (in host.toml) are here, as install() does."""
    absent = [name for name in names if process.which(name) is None]
    if not absent:
        return
    data = read_data()
    host = package_manager(data)
    facts = [program_fact(name, data.programs[name], host, building=True) for name in absent]
    install(settings, [replace(fact, required=True) for fact in facts], observer)
    for name in absent:
        if process.which(name) is None:
            raise HostError(f"{name} is still missing after its packages were installed", hint="run: ./lab doctor")

"""The use case `doctor`: what this host has and lacks, and installing what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from labkit.core.config import Settings
from labkit.core.errors import LabError
from labkit.core.observer import Observer, Silent
from labkit.host import install
from labkit.host.facts import Fact, FactState, examine, lacking
from labkit.machines import providers
from labkit.machines.base import MachineState
from labkit.usecases.machines import machine_name, settled

_ALWAYS = {"ssh", "ssh-keygen", "disk"}  # what machines of every provider need


def doctor(settings: Settings, observer: Observer) -> tuple[list[Fact], LabError | None]:
    """Examine the host and install what it lacks, where that is allowed. Return the facts as they then are, and what
    keeps the machine that the settings name from working, None if nothing does.
    """
    settings = settled(settings)
    facts = _facts(settings)
    if not lacking(facts):
        return facts, None
    try:
        install.install(settings, facts, observer)
    except LabError as error:
        return facts, error
    facts = _facts(settings)
    return facts, install.refusal(lacking(facts)) if lacking(facts) else None


def _facts(settings: Settings) -> list[Fact]:
    """The facts of this host, of which those are required that the provider needs; and what this command is about."""
    distro, name = settings.distro(), machine_name(settings)
    machine = providers.existing(name, settings, Silent())
    info = machine.status()
    there = info.state is not MachineState.ABSENT
    provider = info.kind if there else providers.chosen(settings)
    unlike = machine.differences(distro) if there else []
    found = f"{name}: {f'{info.provider}, {info.state}' if there else f'not there yet (provider {provider})'}"
    facts = examine(settings)
    if provider == "ssh" or (provider == "vagrant" and (settings.box or distro.boxes)):
        facts = [replace(fact, required=fact.required and fact.name in _ALWAYS) for fact in facts]
    if provider == "vagrant":
        facts = [replace(fact, required=fact.required or fact.name == "vagrant providers") for fact in facts]
    return [
        Fact("configuration", FactState.OK, str(settings.file or "no labkit.toml"), "every command"),
        Fact(
            "machine",
            FactState.WARNING if unlike else FactState.OK,
            "; ".join((found, *map(str, unlike))),
            "up, test, ssh and the like, with these flags",
        ),
        *facts,
        *(_files(settings) if provider == "ssh" and not there else ()),
    ]


def _files(settings: Settings) -> Iterator[Fact]:
    """What the ssh provider logs in with."""
    for key, path in (("key", settings.ssh.key), ("known_hosts", settings.ssh.known_hosts)):
        good = path is not None and path.is_file()
        found = str(path) if good else f"{path} does not exist" if path else f"set {key} in [ssh] of labkit.toml"
        state = FactState.OK if good else FactState.MISSING
        yield Fact(f"ssh.{key}", state, found, "logging in to the host", required=True)

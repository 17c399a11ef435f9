"""The use case `doctor`: what this host has and lacks, and installing what it lacks."""

from __future__ import annotations

from labkit.core.config import Settings
from labkit.core.errors import LabError
from labkit.core.observer import Observer
from labkit.host import install
from labkit.host.facts import Fact, examine, lacking


def doctor(settings: Settings, observer: Observer) -> tuple[list[Fact], LabError | None]:
    """Examine the host and install what it lacks, where that is allowed. Return the facts as they then are, and what
    keeps the default provider from working, None if nothing does.
    """
    facts = examine(settings)
    if not lacking(facts):
        return facts, None
    try:
        install.install(settings, facts, observer)
    except LabError as error:
        return facts, error
    facts = examine(settings)
    return facts, install.refusal(lacking(facts)) if lacking(facts) else None

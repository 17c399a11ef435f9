"""The use cases that need no machine: judging saved output again, comparing runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from labkit import comparison, policy, runs, suites
from labkit.comparison import Comparison
from labkit.config import Settings
from labkit.errors import UsageError
from labkit.policy import Entry
from labkit.results import Run
from labkit.runs import Outcome
from labkit.words import did_you_mean


def judge(
    settings: Settings, folder: str | None = None, *, judged: bool = True, known: Mapping[str, str | None] | None = None
) -> Outcome:
    """Read raw output again under today's policy and write its reports, without a machine.

    folder is a run's, by path or id (the latest by default), or its raw/: then the reports are written there anew. Or
    it holds raw output that somebody else recorded, and is made a run; known are facts that such a one may not tell.
    """
    place, entries = _place(settings, folder), policies(settings, judged)
    if (place / "results.json").exists():
        return runs.rejudge(place, entries)
    return runs.adopt(settings.reports, place, entries, {key: word for key, word in (known or {}).items() if word})


def diff(settings: Settings, before: str, after: str) -> Comparison:
    """Compare two runs, or recordings, each named as in judge."""
    return comparison.compare(_run(settings, before), _run(settings, after))


def _run(settings: Settings, folder: str) -> Run:
    place = _place(settings, folder)
    if (place / "results.json").exists():
        return runs.load(place)
    return policy.apply(runs.recorded(place, {}), policies(settings, True), datetime.now(UTC).date())


def _place(settings: Settings, folder: str | None) -> Path:
    """The folder that is meant; of a run's raw/ the run's. UsageError where there is none."""
    inside = settings.reports / (folder or "latest")
    place = inside if folder is None or ("/" not in folder and inside.is_dir()) else Path(folder)
    if not place.is_dir():
        known = sorted(path.name for path in settings.reports.glob("*Z-*")) if settings.reports.is_dir() else []
        near = did_you_mean(folder, known) if folder else ""
        raise UsageError(
            f"there is no run {folder or 'yet'} in {settings.reports}{near}"
            + (f", and no folder {folder}" if folder else ""),
            hint="./lab test makes one",
        )
    place = place.resolve()
    return place.parent if place.name == "raw" and (place.parent / "results.json").exists() else place


def policies(settings: Settings, judged: bool) -> list[Entry] | None:
    """The entries that apply to this labkit's runs, a person's own first; None where nothing is to be judged by any."""
    return policy.load(settings.policy, suites=suites.names()) if judged else None

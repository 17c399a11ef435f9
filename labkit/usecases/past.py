"""What earlier runs showed of what is bad in a run, by the history of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.core.errors import LabError
from labkit.core.observer import Observer
from labkit.core.text import count
from labkit.results.attribution import Earlier, Identity
from labkit.results.model import Run, Verdict
from labkit.store.history import FILE, History

_READ = 200  # runs that are read for this: a test must not wait for a history of years
_SHOWS = (Verdict.PASS, Verdict.TODO, Verdict.FLAKY)


def past(reports: Path, run: Run, observer: Observer) -> Mapping[Identity, Sequence[Earlier]]:
    """Of each result that is bad and not expected what earlier runs showed, the oldest first; nothing where that cannot
    be had soon. run is kept below reports.
    """
    wanted = {result.identity for result in run.unexpected}
    try:
        with History.open(reports / FILE, observer.warn) as history:
            behind = history.behind(reports) - 1
            if behind > _READ:
                observer.step(
                    f"not compared with earlier runs: {count(behind, 'run')} are to be read; ./lab flaky does"
                )
                return {}
            history.sync(reports, without=run.run.id)
            before = history.before(run, wanted)
    except LabError as error:
        observer.warn(f"not compared with earlier runs: {error.message}")
        return {}
    return {
        identity: [
            Earlier(ran.name, ran.facts.get("runtime", "").partition(" ")[2], seen.bad)
            for ran, seen in found
            if seen.bad or seen.verdict in _SHOWS
        ]
        for identity, found in before.items()
    }

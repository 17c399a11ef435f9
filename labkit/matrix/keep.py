"""What is left of old nights, and what of it goes: `keep` of [nights] in labkit.toml.

A night is its directory in the reports, its runs, its table in the home and what is left of it in the outbox; it goes
as one. Never: the newest night, one that runs, and of others the runs that the next night is compared with. The history
must have a run before it goes: what the run showed stays known.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from labkit.core.config import Keep, Settings
from labkit.core.errors import InfrastructureError
from labkit.images.collect import Kind, Thing, discard
from labkit.io.files import disk_errors, sync_directory, unfinished, usage
from labkit.matrix import worker
from labkit.matrix.outbox import Outbox, served
from labkit.store import nights, runs
from labkit.store.history import History
from labkit.store.past import Ran

_DAY = 86400.0
_RUN = re.compile(r"[0-9]{8}T[0-9]{6}Z\.[0-9]{1,9}-night-([0-9]{8}\.[0-9]{1,9})-c[0-9]+-a[0-9]+-.+", re.DOTALL)


@dataclass(slots=True)
class _Night:
    """Where one is; runs are ids. stay: those of them that do, with the reason."""

    ident: str
    places: list[Path] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    stay: dict[str, str] = field(default_factory=dict)


class Nights:
    """The nights of a lab. running: who runs one now, else empty; busy: locks that other processes hold, by name."""

    def __init__(self, settings: Settings, running: str, busy: Mapping[str, str]) -> None:
        self._settings, self._home = settings, settings.home
        self._running, self._busy = running, busy
        self._found: dict[str, _Night] = {}
        self._removers: dict[tuple[Kind, str], Callable[[], None]] = {}
        reports = settings.reports
        for place in (reports / nights.DIRECTORY, self._home.nights, self._home.outbox):
            for ident in nights.ids(place):
                self._night(ident).places.append(place / ident)
        for run in runs.ids(reports):
            if found := _RUN.fullmatch(run):
                self._night(found[1]).runs.append(run)
        self._order = sorted(self._found, key=nights.order, reverse=True)

    def _night(self, ident: str) -> _Night:
        return self._found.setdefault(ident, _Night(ident))

    def __bool__(self) -> bool:
        """Whether there is anything of any night."""
        return bool(self._found) or bool(worker.machines_of_nights(self._home))

    @property
    def newest(self) -> str:
        """The id of the newest night, empty where there is none."""
        return self._order[0] if self._order else ""

    def began(self) -> float | None:
        """When the newest night began, Unix time: what it used the next one will use."""
        if not self.newest:
            return None
        started = self._started(self.newest)
        return started.timestamp() if started else None

    def _started(self, ident: str) -> datetime | None:
        if night := nights.known(self._settings.reports, ident):
            return night.started
        try:
            return datetime.strptime(ident[:8], "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:  # 20261399
            return None

    def remove(self, thing: Thing) -> None:
        """Remove what look() or leftovers() has found. LabError where that fails."""
        self._removers[thing.kind, thing.name]()

    # --- what keep says

    def look(self, keep: Keep, history: History) -> list[Thing]:
        """Every night, with what is to become of it."""
        staying = self._staying(keep)
        all_runs = history.runs()
        documents = [nights.known(self._settings.reports, ident) for ident in staying]
        cells = {cell.cell for document in documents if document for cell in document.cells}
        needed = self._needed(all_runs, cells)
        names = {ran.name for ran in all_runs} if history.kept else set()
        reports = self._settings.reports
        things = []
        for ident in self._order:
            night = self._found[ident]
            why = staying.get(ident)
            for run in night.runs:
                if run in needed:
                    night.stay[run] = needed[run]
                elif run not in names and runs.is_run(reports / run):
                    night.stay[run] = "the history does not have it"
            going = [run for run in night.runs if run not in night.stay]
            size = sum(usage(path) for path in [*night.places, *(reports / run for run in going)])
            if why is not None:
                size += sum(usage(reports / run) for run in night.stay)
                things.append(Thing(Kind.NIGHT, ident, size, why, False))
            elif night.places or going:
                self._removers[Kind.NIGHT, ident] = self._remover(night, going)
                things.append(Thing(Kind.NIGHT, ident, size, self._going(keep, night), True))
            elif night.stay:
                size = sum(usage(reports / run) for run in night.stay)
                reason = next(iter(night.stay.values()))
                things.append(Thing(Kind.NIGHT, ident, size, f"{len(night.stay)} runs stay: {reason}", False))
        return things

    def _staying(self, keep: Keep) -> dict[str, str]:
        """The nights that stay, with the reason."""
        found: dict[str, str] = {}
        size, within = 0, True
        for number, ident in enumerate(self._order):
            night = self._found[ident]
            size += sum(usage(path) for path in night.places)
            size += sum(usage(self._settings.reports / run) for run in night.runs)
            started = self._started(ident)
            age = (time.time() - started.timestamp()) / _DAY if started else 0.0
            within = (
                within
                and not (keep.nights is not None and number >= keep.nights)
                and not (keep.days is not None and age > keep.days)
                and not (keep.mib is not None and size > keep.mib << 20)
            )
            if not number:
                found[ident] = self._running or "it is the newest"
            elif who := self._busy.get(served(ident)):
                found[ident] = who
            elif within:
                found[ident] = f"nights.keep is {keep}"
        return found

    def _going(self, keep: Keep, night: _Night) -> str:
        stay = f"; {len(night.stay)} of its runs stay: {next(iter(night.stay.values()))}" if night.stay else ""
        return f"nights.keep is {keep}{stay}"

    def _needed(self, all_runs: list[Ran], cells: set[str]) -> dict[str, str]:
        """The runs that stay whatever their night: what the next night, and the newest one gone on with, is compared
        with; and the one with the greatest number, after which the next one is numbered.
        """
        found: dict[str, str] = {}
        newest = nights.known(self._settings.reports, self.newest)
        over = newest is not None and newest.complete
        for ran in all_runs:  # of a cell the oldest first
            if ran.cell in cells and ran.night and ran.complete and not ran.gone:
                found[f"last {ran.cell}"] = ran.name
                if ran.night != self.newest and not over:
                    found[f"before {ran.cell}"] = ran.name
        needed = dict.fromkeys(found.values(), "nights are compared with it")
        if known := runs.ids(self._settings.reports):
            needed.setdefault(known[-1], "it is the newest run")
        return needed

    def _remover(self, night: _Night, going: list[str]) -> Callable[[], None]:
        def remove() -> None:
            reports = self._settings.reports
            for run in going:
                runs.discard(reports / run)
            for place in night.places:  # the reports' own come first, the outbox last
                if place.parent == self._home.outbox:
                    Outbox(place).clear()
                _discard(place)

        return remove

    # --- what killed nights have left

    def leftovers(self) -> Iterator[Thing]:
        """Machines of nights that do not run, and outboxes of nights with which nobody goes on."""
        for name, ident in worker.machines_of_nights(self._home):
            held = self._running or self._busy.get(served(ident), "") or self._busy.get(f"machine-{name}", "")
            path = self._home.machine(name)
            self._removers[Kind.MACHINE, name] = lambda name=name: worker.remove_machine(name, self._settings)  # type: ignore[misc]
            yield Thing(Kind.MACHINE, name, usage(path), held or "its night does not run", not held)
        for ident in nights.ids(self._home.outbox):
            place = self._home.outbox / ident
            held = self._busy.get(served(ident), "")
            if ident == self.newest:
                held = held or self._running or "it is of the newest night, which --resume can go on with"
            name = f"outbox/{ident}"
            self._removers[Kind.OUTBOX, name] = self._remover(_Night(ident, [place]), [])
            yield Thing(Kind.OUTBOX, name, usage(place), held or "nobody goes on with its night", not held)


def _discard(place: Path) -> None:
    """Remove a directory in one step, as others see it."""
    if not place.exists():  # a leftover, and of a night that goes
        return
    with unfinished(place) as part:
        with disk_errors(place.parent):
            try:
                place.rename(part)
            except OSError as error:
                raise InfrastructureError(f"cannot remove {place}: {error.strerror}") from error
            sync_directory(place.parent)
        discard(part)

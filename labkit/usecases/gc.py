"""The use case `gc`: what nothing in a lab needs any more, shown and removed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.core.config import Settings
from labkit.core.errors import LabError
from labkit.core.home import Home
from labkit.core.observer import Observer
from labkit.images.collect import Collector, Kind, Thing
from labkit.io.files import attempted, sweep, usage
from labkit.machines.record import names
from labkit.machines.standing import needs
from labkit.matrix.keep import Nights
from labkit.store.nights import DIRECTORY
from labkit.usecases.history import opened


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything that was looked at; failed: how many of what was to go could not be removed, and stays; caches: what
    each cache of the home takes now, in bytes.
    """

    things: tuple[Thing, ...]
    dry_run: bool
    failed: int
    caches: dict[str, int]

    @property
    def freed(self) -> int:
        return sum(thing.size for thing in self.things if thing.remove)

    @property
    def kept(self) -> int:
        return sum(thing.size for thing in self.things if not thing.remove)

    def to_json(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "freed": self.freed,
            "kept": self.kept,
            "failed": self.failed,
            "caches": self.caches,
            "things": [thing.to_json() for thing in self.things],
        }


def gc(settings: Settings, observer: Observer, *, keep_days: int = 0, dry_run: bool = False) -> Collected:
    """Remove what no machine needs; keep_days: but not what was of use in that many days. dry_run: only look. Where the
    settings say what is kept of nights, the others go, and what the newest one used stays for the next.

    Everything that labkit locks is locked meanwhile. What another labkit works on, and what that may need, stays.
    """
    home = settings.home
    done, failed, began = _nights(settings, observer, dry_run)
    going = {thing.name for thing in done if thing.kind is Kind.MACHINE and thing.remove}
    since = min(time.time() - keep_days * 86400.0 if keep_days else float("inf"), began or float("inf"))
    with contextlib.ExitStack() as stack:
        busy: dict[str, str] = {}
        held = set()
        wanted = {f"machine-{name}" for name in names(home)} | {path.stem for path in _locks(home)}
        for name in sorted(wanted):
            who = stack.enter_context(attempted(home.lock(name), name.replace("-", " ", 1)))
            if who is None:
                held.add(name)
            else:
                busy[name] = who

        def still_free() -> str:
            new = {path.stem for path in _locks(home)} - held - set(busy)
            return f"another labkit has begun to work ({new.pop()})" if new else ""

        collector = Collector(home, needs(home, busy, going), since, still_free)
        things = list(collector.look())
        try:
            things += collector.volumes()
        except LabError as error:
            observer.warn(f"the boxes in libvirt's pool were not looked at: {error.message}")
        for thing in things:
            done.append(thing if dry_run else _removed(thing, collector.remove, observer))
            failed += thing.remove and not done[-1].remove
        done += _stale_locks(home, held, remove=not dry_run)
    return Collected(tuple(done), dry_run, failed, caches(home))


def _removed(thing: Thing, remove: Callable[[Thing], None], observer: Observer) -> Thing:
    """What became of it: it is gone, or stays as it could not be removed."""
    if thing.remove:
        observer.detail(f"removing {thing.name}")
        try:
            remove(thing)
        except LabError as error:
            observer.warn(f"{thing.name} stays: {error.message}")
            return dataclasses.replace(thing, remove=False, why=error.message)
    return thing


def _nights(settings: Settings, observer: Observer, dry_run: bool) -> tuple[list[Thing], int, float | None]:
    """Collect the nights that are not kept, and what killed ones have left: all that was looked at, how much of what
    was to go stays, and when the newest night began, where nights are kept by a rule.
    """
    home, reports, keep = settings.home, settings.reports, settings.nights.keep
    things: list[Thing] = []
    done: list[Thing] = []
    if not Nights(settings, "", {}):
        return [], 0, None
    with attempted(home.lock("nightly"), "the night") as running, contextlib.ExitStack() as stack:
        served = [lock for lock in _locks(home) if lock.stem.startswith("night-")]
        held = {lock.stem: stack.enter_context(attempted(lock, "the night")) for lock in served}
        if not dry_run:
            for place in (reports, reports / DIRECTORY, home.nights, home.outbox):
                sweep(place)
        nights = Nights(settings, running or "", {name: who for name, who in held.items() if who})
        if keep is not None and nights.newest and reports.is_dir():
            try:
                with opened(settings, observer) as history:
                    things += nights.look(keep, history)
            except LabError as error:
                observer.warn(f"all nights stay, as the history cannot be had: {error.message}")
        going = {thing.name for thing in things if thing.remove and thing.kind is Kind.NIGHT}
        things += (thing for thing in nights.leftovers() if thing.name.removeprefix("outbox/") not in going)
        done += things if dry_run else (_removed(thing, nights.remove, observer) for thing in things)
    failed = sum(one.remove and not two.remove for one, two in zip(things, done, strict=True))
    return done, failed, nights.began() if keep is not None else None


def caches(home: Home) -> dict[str, int]:
    """How many bytes each cache of the home takes; those of libvirt's pool are not its own."""
    places = [home.images, home.kernels, home.boxes, home.vagrant, home.downloads, home.sources]
    places += [home.runtimes, home.builders, home.repositories]
    return {place.name: usage(place) for place in places}


def _locks(home: Home) -> list[Path]:
    return sorted(home.lock("x").parent.glob("*.lock"))


def _stale_locks(home: Home, held: set[str], *, remove: bool) -> list[Thing]:
    """The locks of what is not there, which this process holds: removed first and let go then."""
    kept = {f"machine-{name}" for name in names(home)}
    found = []
    for path in _locks(home):
        if path.stem in held and path.stem not in kept:
            size = usage(path)
            if remove:
                path.unlink(missing_ok=True)
            found.append(Thing(Kind.LOCK, f"locks/{path.name}", size, "nobody holds it", True))
    for path in sorted(home.downloads.glob("*.lock")):
        with attempted(path, "a download") as who:
            if who is None:
                size = usage(path)
                if remove:
                    path.unlink(missing_ok=True)
                found.append(Thing(Kind.LOCK, f"downloads/{path.name}", size, "nobody holds it", True))
    return found

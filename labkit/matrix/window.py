"""Runs the cells of a night: longest first, as many at a time as the hosts have room for, until none is left to run.

An engine carries attempts to hosts and back and holds nothing: what is handed out is in the table first, and what comes
back is at home before the engine may forget it. So a scheduler that dies, or a worker, costs the attempts that were
with it, and never a cell. Only what a host can run at once is handed to it: an engine that is given more than that
blames what waits for what kills a host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labkit.core.deadline import Deadline
from labkit.core.errors import InfrastructureError, LabError
from labkit.core.observer import Observer
from labkit.matrix.job import Ended, Job, Outcome
from labkit.matrix.outbox import DamagedBundle
from labkit.matrix.table import NightTable, Row, State

_LOOK = 1.0  # seconds between two looks at the hosts while nothing ends
_STRIKES = 3  # different cells in a row that the lab failed on a host
_NO_HOST = 600.0  # seconds without any host


class EngineGone(InfrastructureError):
    """What carries attempts has ended: none of those that it had is to blame."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a host has for machines."""

    mib: int
    cpus: int


class Engine(Protocol):
    """Carries attempts to hosts. Its futures are those of concurrent.futures.Executor.submit."""

    def hosts(self) -> Mapping[str, Room]:
        """The hosts that are there now, which have shown that they can work."""

    def submit(self, host: str, job: Job) -> Future[Ended]: ...

    def fetch(self, host: str, ended: Ended) -> Path:
        """The bundle of an attempt, on this host; DamagedBundle where it cannot be had whole."""

    def acknowledge(self, host: str, name: str) -> None:
        """The attempt's bundle is at home."""

    def waiting(self) -> list[tuple[str, Ended]]:
        """What is in the hosts' outboxes for this night."""

    def stop(self) -> None:
        """End in order all that runs; the futures end soon."""


Take = Callable[[Row, Ended, Path], str]  # bring a bundle home; the id of its run
MakeJob = Callable[[Row, int], Job]


@dataclass(slots=True)
class _Host:
    """mib and cpus are in use; strikes: the cells that failed there since the last that did not."""

    mib: int = 0
    cpus: int = 0
    strikes: set[int] | None = None
    closed: bool = False


class Window:
    """One night's work."""

    def __init__(
        self, table: NightTable, engine: Engine, observer: Observer, make: MakeJob, take: Take, at_once: int | None
    ) -> None:
        self._table, self._engine, self._observer = table, engine, observer
        self._make, self._take = make, take
        self._at_once = at_once or 1 << 30
        self._rows: dict[int, Row] = {}
        self._waiting: list[int] = []
        self._running: dict[Future[Ended], tuple[int, int, str]] = {}
        self._hosts: dict[str, _Host] = {}
        self._tried: dict[int, str] = {}  # the host where a cell failed last
        self._total = self._done = self._failed = 0
        self._began = time.monotonic()
        self._without = Deadline.after(_NO_HOST)
        self.notes: list[str] = []  # what became of hosts

    def run(self, deadline: Deadline | None = None) -> str:
        """Run all cells that wait; why the night ended early, "" where it did not.

        Whatever ends it, KeyboardInterrupt too, what ran has ended and waits for another attempt.
        """
        self._load()
        try:
            while self._waiting or self._running:
                if deadline is not None and deadline.passed:
                    return f"the night did not end within {deadline.allowed}"
                self._fill()
                if not self._running:
                    if self._without.passed:
                        return f"no host took a cell for {_NO_HOST:.0f} s"
                    time.sleep(_LOOK)
                    continue
                self._without = Deadline.after(_NO_HOST)
                for future in wait(self._running, timeout=_LOOK, return_when=FIRST_COMPLETED).done:
                    self._ended(future)
        finally:
            self._stop()
        return ""

    def recover(self) -> None:
        """Bring home what the outboxes have, and let go of attempts that nobody works on any more."""
        rows = {row.number: row for row in self._table.rows()}
        names = {
            _name(self._table, row.number, attempt.number): (row, attempt.number, attempt.outcome)
            for row in rows.values()
            for attempt in row.attempts
        }
        for host, ended in self._engine.waiting():
            row, number, outcome = names.get(ended.name, (None, 0, None))
            if row is not None and outcome is None:
                self._bring(row, number, host, ended)
            else:
                self._engine.acknowledge(host, ended.name)
        for row in self._table.rows(State.RUNNING):
            for attempt in row.attempts:
                if attempt.outcome is None:
                    self._table.ended(row.number, attempt.number, _lost("the night's own process ended"), blamed=False)

    # --- what is handed out

    def _load(self) -> None:
        rows = self._table.rows()
        self._rows = {row.number: row for row in rows}
        self._total = len(rows)
        self._waiting = [row.number for row in rows if row.state is State.WAITING]
        self._waiting.sort(key=lambda number: len(self._rows[number].attempts))
        self._done = sum(row.state not in (State.WAITING, State.RUNNING) for row in rows)
        self._failed = sum(row.state in (State.LAB_ERROR, State.QUARANTINED) for row in rows)

    def _fill(self) -> None:
        hosts = self._engine.hosts()
        for name in hosts.keys() - self._hosts.keys():
            self._hosts[name] = _Host(strikes=set())
        open_ = {name: room for name, room in hosts.items() if not self._hosts[name].closed}
        if not open_ and hosts and not self._running:
            # All have failed: with nowhere else to go on, the cells themselves are to show it.
            open_ = dict(hosts)
        left: list[int] = []
        for at, number in enumerate(self._waiting):
            if len(self._running) >= self._at_once or not self._some_room(open_):
                left += self._waiting[at:]
                break
            host = self._host_for(number, open_)
            if host is None:
                left.append(number)
            else:
                self._begin(number, host)
        self._waiting = left

    def _some_room(self, hosts: Mapping[str, Room]) -> bool:
        return any(
            not self._hosts[name].mib or (self._hosts[name].mib < room.mib and self._hosts[name].cpus < room.cpus)
            for name, room in hosts.items()
        )

    def _host_for(self, number: int, hosts: Mapping[str, Room]) -> str | None:
        """The host with the most room for the cell; one that nothing runs on takes it however large it is."""
        planned = self._rows[number].planned
        fit = []
        for name, room in hosts.items():
            used = self._hosts[name]
            fits = used.mib + planned.mib <= room.mib and used.cpus + planned.cpus <= room.cpus
            if fits or not used.mib:
                fit.append((name == self._tried.get(number), used.cpus - room.cpus, used.mib - room.mib, name))
        return min(fit)[3] if fit else None

    def _begin(self, number: int, host: str) -> None:
        row = self._rows[number]
        attempt = self._table.begin(number, host)
        used = self._hosts[host]
        used.mib += row.planned.mib
        used.cpus += row.planned.cpus
        try:
            future = self._engine.submit(host, self._make(row, attempt))
        except (LabError, RuntimeError, OSError) as error:  # an engine that is going
            future = Future()
            future.set_exception(error)
        self._running[future] = (number, attempt, host)
        if attempt > 1 or self._total <= 50:
            self._observer.step(f"{row.key} begins on {host}" + (f", attempt {attempt}" if attempt > 1 else ""))

    # --- what comes back

    def _ended(self, future: Future[Ended]) -> None:
        number, attempt, host = self._running[future]
        row, used = self._rows[number], self._hosts[host]
        blamed = True
        try:
            ended = future.result()
        except EngineGone as error:
            ended, blamed = _lost(error.message), False
        except CancelledError:
            ended = _lost(f"{host} is gone")
        except Exception as error:  # an engine raises what it likes where a host is gone
            ended = _lost(f"{host} did not bring it to an end: {type(error).__name__}: {error}")
        ended, state = self._bring(row, attempt, host, ended, blamed=blamed)
        del self._running[future]  # not before: what interrupts this leaves the rest of it to _stop()
        used.mib -= row.planned.mib
        used.cpus -= row.planned.cpus
        if state is State.WAITING:
            self._waiting.append(number)
            self._tried[number] = host
        else:
            self._done += 1
        self._failed += state in (State.LAB_ERROR, State.QUARANTINED)
        self._strike(host, number, ended)
        self._tell(row, host, ended, state)

    def _bring(self, row: Row, attempt: int, host: str, ended: Ended, *, blamed: bool = True) -> tuple[Ended, State]:
        """Bring what an attempt left home, and only then say so; how it ended, and how the cell stands."""
        run = ""
        if ended.bundle:
            try:
                run = self._take(row, ended, self._engine.fetch(host, ended))
            except DamagedBundle as error:
                ended = _lost(error.message, ended.seconds)
        state = self._table.ended(row.number, attempt, ended, run, blamed=blamed)
        self._engine.acknowledge(host, _name(self._table, row.number, attempt))
        return ended, state

    def _strike(self, host: str, number: int, ended: Ended) -> None:
        used = self._hosts[host]
        assert used.strikes is not None
        if ended.outcome is Outcome.DONE:
            used.strikes.clear()
            return
        if ended.again:
            used.strikes.add(number)
        others = [name for name in self._engine.hosts() if name != host and not self._hosts.get(name, _Host()).closed]
        if len(used.strikes) >= _STRIKES and not used.closed and others:
            used.closed = True
            note = f"{host} gets no more cells: the lab failed there {_STRIKES} times in a row, last: {ended.error}"
            self.notes.append(note)
            self._observer.warn(note)

    def _tell(self, row: Row, host: str, ended: Ended, state: State) -> None:
        left = self._total - self._done
        words = {0: "all as expected", 1: "not as expected", 4: "incomplete"}
        what = words.get(ended.status if ended.status is not None else -1, f"{ended.outcome}: {ended.error}")
        then = {State.WAITING: "; it runs again", State.QUARANTINED: "; quarantined"}.get(state, "")
        spent = time.monotonic() - self._began
        remaining = spent / self._done * left if self._done else 0.0
        about = f", about {_span(remaining)} left" if left and self._done else ""
        failed = f", {self._failed} without a result" if self._failed else ""
        self._observer.step(
            f"{row.key}: {what}{then} ({_span(ended.seconds)} on {host}; {self._done} of {self._total}{failed}{about})"
        )
        if left:
            running = ", ".join(f"{self._rows[number].key} on {at}" for number, _, at in self._running.values())
            self._observer.progress(f"runs: {running}" if running else "cells", self._done, self._total, "cells")

    def _stop(self) -> None:
        """Let nothing run on. A second Ctrl-C does not wait: what runs dies with this process."""
        if not self._running:
            return
        self._engine.stop()
        for future, (number, attempt, host) in self._running.items():
            known = self._table.is_running(number, attempt)
            if known and future.done() and not future.cancelled() and future.exception() is None:
                ended = future.result()
                if ended.outcome is Outcome.DONE:
                    self._bring(self._rows[number], attempt, host, ended)
                    continue
            self._table.ended(number, attempt, _lost("it was stopped with the night"), blamed=False)
            self._engine.acknowledge(host, _name(self._table, number, attempt))
        self._running.clear()


def _name(table: NightTable, number: int, attempt: int) -> str:
    return Job(table.about("id"), number, attempt, 0.0).name


def _lost(why: str, seconds: float = 0.0) -> Ended:
    return Ended("", Outcome.LOST, seconds, error=why)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""The use case `nightly`: a matrix planned, run, brought home, compared with the night before, told.

What a night is doing is in its table alone (labkit.matrix.table), below the lab's home; what it came to is in
reports/nights/ID/. One night at a time holds the lab.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import shutil
import socket
import types
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import labkit
from labkit.core.cell import Cell
from labkit.core.config import Settings
from labkit.core.endpoint import Address
from labkit.core.errors import HostError, InfrastructureError, LabError, UsageError
from labkit.core.observer import Observer
from labkit.core.sources import SourceKind
from labkit.images import mirrors, refs
from labkit.io.files import attempted
from labkit.matrix import bring, local, plan, verdict, worker
from labkit.matrix.job import Ended, Job, Work
from labkit.matrix.local import LocalEngine
from labkit.matrix.outbox import Outbox
from labkit.matrix.plan import Plan, Planned
from labkit.matrix.table import NightTable, Row, State, now
from labkit.matrix.verdict import Shown
from labkit.matrix.window import Engine, Window
from labkit.provision.bootstrap import default_source
from labkit.reports import night as report
from labkit.results.night import SCHEMA, Mirror, Night, from_json
from labkit.results.policy import Entry
from labkit.store import nights, runs
from labkit.store.history import FILE, History
from labkit.subjects import runtimes
from labkit.subjects.runtimes import words
from labkit.usecases import history, tell
from labkit.usecases.evidence import packages_of
from labkit.usecases.judge import policies

TABLE = "cells.sqlite"
_UNFINISHED = "the night did not finish"
_LOOK_BACK = 30  # nights
_NEWEST = "99999999.999999999"  # an id after any other
_MIRROR = 20.0  # seconds for a list of a mirror
_REACH = 2.0  # seconds for a host that the default matrix would need

MakeEngine = Callable[[Settings, str], contextlib.AbstractContextManager[Engine]]
Argv = Callable[[Planned], tuple[str, ...]]  # in place of labkit's own program for a cell


@dataclass(frozen=True, slots=True)
class Nightly:
    """What a night came to: its night.json, and the directory that has it."""

    document: Mapping[str, Any]
    directory: Path

    @property
    def exit_status(self) -> int:
        return int(self.document["exit_status"])

    @property
    def night(self) -> Night:
        """The same as a value, for reports."""
        return from_json(self.document, str(self.directory / nights.FILE))


@dataclass(frozen=True, slots=True)
class Outlook:
    """A plan before it runs; seconds: how long it will take, None where that is not known."""

    plan: Plan
    at_once: int
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "cells": [
                {
                    "cell": one.key,
                    "seconds": one.seconds,
                    "limit": one.limit,
                    "mib": one.mib,
                    "cpus": one.cpus,
                    **({"problem": one.problem} if one.problem else {}),
                }
                for one in self.plan.cells
            ],
            "at_once": self.at_once,
            "seconds": self.seconds,
            "notes": list(self.plan.notes),
        }


def outlook(settings: Settings, *, only: Sequence[str] = (), checks: Sequence[str] = ()) -> Outlook:
    """What a night would run now, and for how long; nothing is run."""
    made = _plan(settings, only, checks)
    room = local.of_this_host()
    runnable = [one for one in made.cells if not one.problem]
    at_once = 1
    if runnable:
        mib, cpus = (max(getattr(one, name) for one in runnable) for name in ("mib", "cpus"))
        at_once = max(1, min(room.mib // max(mib, 1), room.cpus // max(cpus, 1)))
    at_once = min(at_once, made.at_once or at_once)
    return Outlook(made, at_once, plan.expected(made.cells, at_once))


def nightly(
    settings: Settings,
    observer: Observer,
    *,
    only: Sequence[str] = (),
    checks: Sequence[str] = (),
    resume: bool = False,
    make_engine: MakeEngine | None = None,
    argv: Argv | None = None,
) -> Nightly:
    """Run the matrix, or with resume what is left of the last night, which did not finish; compare it with the nights
    before.

    InfrastructureError where a night runs already. A KeyboardInterrupt is raised again after what there is has been
    written; the night can be resumed. argv: what runs each cell, in place of labkit's own program.
    """
    tell.check(settings)
    if settings.cluster.on or settings.cluster.scheduler:
        _cluster().check(settings)
    with _alone(settings):
        entries = tuple(policies(settings))
        table = _resumed(settings) if resume else _begun(settings, only, checks, observer)
        with table:
            night = _Night(settings, observer, table, entries, argv)
            return night.run(make_engine or functools.partial(_engine, observer))


def _engine(observer: Observer, settings: Settings, ident: str) -> contextlib.AbstractContextManager[Engine]:
    if settings.cluster.on or settings.cluster.scheduler:
        engine: contextlib.AbstractContextManager[Engine] = _cluster().ClusterEngine(settings, ident, observer)
        return engine
    return LocalEngine(settings.home.path, ident)


def _cluster() -> types.ModuleType:
    """The module that knows Dask, where that is asked for."""
    try:
        from labkit.matrix import cluster
    except ImportError as error:
        raise HostError(
            f"nights on other hosts need Dask, which is not installed here: {error}",
            hint="pip install 'oci-labkit[cluster]'; in a checkout: .labkit/venv/bin/pip install -e '.[cluster]'",
        ) from error
    return cluster


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    with attempted(settings.home.lock("nightly"), "the night") as who:
        if who is not None:
            raise InfrastructureError(
                f"a night runs already: {who}",
                hint="wait for it; or end that process, and ./lab nightly --resume goes on with its night",
            )
        yield


def _plan(settings: Settings, only: Sequence[str], checks: Sequence[str]) -> Plan:
    notes: tuple[str, ...] = ()
    matrix = plan.load(settings)
    if matrix is None:
        reach = None if settings.origin("suite") else _without_validation(settings)
        notes = (f"validation is left out of the default matrix: {reach}",) if reach else ()
        matrix = plan.default(reach is None, settings)
    made = plan.plan(
        plan.with_checks(matrix, checks),
        settings,
        only=only,
        seconds=_seconds_last(settings.reports),
        one_cpu=not Path("/dev/kvm").exists(),
    )
    return dataclasses.replace(made, notes=notes)


def _without_validation(settings: Settings) -> str | None:
    """Why the tree of runtime-tools cannot be had; None where it can."""
    if settings.runtime_tools.kind is not SourceKind.AUTO:
        return None
    if settings.proxy:
        return None
    host = urllib.parse.urlsplit(default_source("runtime-tools").where).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=_REACH).close()
    except OSError as error:
        return f"{host}, which has its tree, cannot be reached ({error.strerror or error}); runtime_tools names another"
    return None


def _seconds_last(reports: Path) -> dict[str, float]:
    """How long each cell took when it last came to its end, by key."""
    found: dict[str, float] = {}
    for night in itertools.islice(nights.before(reports, _NEWEST), _LOOK_BACK):
        for cell in night.cells:
            if cell.state == "done" and cell.seconds > 0:
                found.setdefault(cell.cell, cell.seconds)
    return found


def _begun(settings: Settings, only: Sequence[str], checks: Sequence[str], observer: Observer) -> NightTable:
    made = _plan(settings, only, checks)
    for note in made.notes:
        observer.step(note)
    if all(one.problem for one in made.cells):
        lines = [f"{one.key}: {one.problem}" for one in made.cells[:20]]
        raise UsageError("no cell of the matrix can exist:\n" + "\n".join(lines))
    home = settings.home.nights
    _forget_those_never_begun(home)
    for left in unfinished(settings):
        observer.warn(f"night {left} did not finish; a new one begins, and --resume goes on with the newest alone")
    ident = nights.new_id(home, settings.reports / nights.DIRECTORY)
    about = {
        "id": ident,
        "started": now(),
        "labkit": worker.version(),
        "reports": str(settings.reports),
        "at_once": str(made.at_once or ""),
        "refs": json.dumps(_refs(made, settings, observer) if made.rebuild else {}),
        "mirrors": _as_json(_mirrors(made, settings, observer) if made.rebuild else {}),
    }
    return NightTable.make(home / ident / TABLE, about, made.cells)


def _mirrors(made: Plan, settings: Settings, observer: Observer) -> dict[str, Mirror]:
    """What the mirrors of the night's platforms have now, digest and date by release; of one that does not tell, what
    it had when a night last asked.
    """
    last = next((night.mirrors for night in nights.before(settings.reports, _NEWEST)), {})
    found: dict[str, Mirror] = {}
    for one in made.cells:
        name = f"{one.cell.platform}-{one.cell.release}"
        if one.problem or name in found or one.cell.provider not in ("auto", "qemu", "uml"):
            continue
        distro = settings.of_cell(one.cell).distro()
        try:
            state = mirrors.state(distro, settings, timeout=_MIRROR)
        except LabError as error:
            observer.warn(f"what the mirror of {name} has now is not known, its image stays: {error.message}")
            if name in last:
                found[name] = last[name]
            continue
        if state is None:
            continue
        found[name] = Mirror(digest=state.digest, date=state.date)
        if name in last and last[name].digest != state.digest:
            observer.step(f"the mirror of {name} has other packages than last night: {_moved(last[name], found[name])}")
    return found


def _as_json(mirrors: Mapping[str, Mirror]) -> str:
    return json.dumps({name: state.model_dump() for name, state in mirrors.items()})


def _moved(before: Mirror, after: Mirror) -> str:
    if not before.date and not after.date:
        return f"the cloud image {before.digest[:7]} -> {after.digest[:7]}"
    return f"the mirror {before.date or '?'} -> {after.date or '?'}"


def _refs(made: Plan, settings: Settings, observer: Observer) -> dict[str, str]:
    """The commits that the refs stand for which the settings and the cells' runtimes name, by `runc main`; of one that
    cannot be had, what it was when a night last asked.
    """
    wanted: dict[str, tuple[str, str]] = {}
    for tool, source in settings.sources().items():
        if source.kind is SourceKind.GIT or (source.kind is SourceKind.LOCAL and source.ref):
            wanted[f"{tool} {source.ref or 'HEAD'}"] = (source.where, source.ref)
    for one in made.cells:
        with contextlib.suppress(LabError):  # of a word that is none, the cell tells
            word = words.parse(runtimes.split(one.cell.runtime)[0], runtimes.every(), Path.cwd(), words.REGISTRY)
            if isinstance(word, words.Source) and (where := word.where or _repository(word.name)):
                wanted.setdefault(f"{word.name or word.where} {word.ref}", (where, word.ref))
    last = next((night.refs for night in nights.before(settings.reports, _NEWEST)), {})
    found: dict[str, str] = {}
    for name, (where, ref) in wanted.items():
        if not refs.moves(ref):
            continue
        try:
            found[name] = refs.commit(where, ref, timeout=_MIRROR)
        except LabError as error:
            stays = f"it stays {last[name][:7]}" if name in last else "what is built of it is whatever it is then"
            observer.warn(f"{name} cannot be had, {stays}: {error.message}")
            if name in last:
                found[name] = last[name]
        if last.get(name, found.get(name)) != found.get(name):
            observer.step(_ref_moved(name, last[name], found[name]))
    return found


def _repository(name: str) -> str:
    """Where the sources of a runtime or a registry are that labkit knows."""
    return runtimes.about(name).repository


def _ref_moved(name: str, before: str, after: str) -> str:
    return f"{name} {before[:7]} -> {after[:7]}"


def _pinned(settings: Settings, found: Mapping[str, str]) -> Settings:
    """The settings with commits in place of refs: every image of a night is of the same, and of another than last
    night's where a ref has moved.
    """
    pins = {
        tool.replace("-", "_"): dataclasses.replace(source, ref=found[name])
        for tool, source in settings.sources().items()
        if source.kind is SourceKind.GIT and (name := f"{tool} {source.ref or 'HEAD'}") in found
    }
    return settings.with_values(None, **pins)


def unfinished(settings: Settings) -> list[str]:
    """The nights that did not come to their end, the oldest first; what is damaged, or of a newer labkit, is none."""
    found = []
    for ident in nights.ids(settings.home.nights):
        with contextlib.suppress(LabError), NightTable(settings.home.nights / ident / TABLE) as table:
            if not table.about("finished"):
                found.append(ident)
    return found


def _forget_those_never_begun(home: Path) -> None:
    """Remove what a labkit left that was killed before its night had a table: nothing of it was run. The caller holds
    the lock of nights.
    """
    for ident in nights.ids(home):
        if not (home / ident / TABLE).exists():
            shutil.rmtree(home / ident, ignore_errors=True)


def _resumed(settings: Settings) -> NightTable:
    _forget_those_never_begun(settings.home.nights)
    known = nights.ids(settings.home.nights)
    if not known:
        raise UsageError("there is no night to go on with", hint="./lab nightly begins one")
    table = NightTable(settings.home.nights / known[-1] / TABLE)
    try:
        if finished := table.about("finished"):
            raise UsageError(
                f"night {known[-1]}, the newest, came to its end at {finished}", hint="./lab nightly begins another"
            )
        if (made := table.about("labkit")) != worker.version():
            table.note(labkit=worker.version(), labkit_before=made)
    except BaseException:
        table.__exit__()
        raise
    return table


class _Night:
    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        table: NightTable,
        entries: tuple[Entry, ...],
        argv: Argv | None,
    ) -> None:
        found = json.loads(table.about("mirrors") or "{}")
        self._mirrors = {name: Mirror(**state) for name, state in found.items()}
        self._refs: dict[str, str] = json.loads(table.about("refs") or "{}")
        made_of = {name: state.digest for name, state in self._mirrors.items()}
        self._settings = _pinned(settings, self._refs).with_mirrors(made_of)
        self._observer, self._table = observer, table
        self._entries, self._argv = entries, argv
        self._reports = Path(table.about("reports") or settings.reports)
        self._settings = self._settings.with_values(None, reports=self._reports)
        self._ident = table.about("id")
        self._warned: set[str] = set()

    def run(self, make_engine: MakeEngine) -> Nightly:
        self._clear()
        nights.write(self._reports, self._document(_UNFINISHED, {}, {}))
        rows = self._table.rows()
        self._observer.step(f"night {self._ident}: {len(rows)} cell{'s' * (len(rows) != 1)}")
        for row in rows:
            if row.state is State.LAB_ERROR and not row.attempts:
                self._observer.warn(f"{row.key} cannot exist: {row.error}")
        at_once = self._table.about("at_once")
        try:
            with make_engine(self._settings, self._ident) as engine:
                window = Window(
                    self._table, engine, self._observer, self._job, self._take, int(at_once) if at_once else None
                )
                window.recover()
                reason = window.run()
        except BaseException as error:
            why = f"interrupted by {error}" if str(error) else "interrupted"
            if isinstance(error, LabError):
                why = error.message
            with contextlib.suppress(LabError):
                came_to = self._tell(f"the night was {why}" if isinstance(error, KeyboardInterrupt) else why)
                if isinstance(error, LabError):  # who interrupts a night knows, and goes on with it
                    self._announce(came_to)
            if isinstance(error, KeyboardInterrupt):
                error.add_note(f"./lab nightly --resume goes on with night {self._ident}")
            raise
        self._table.close_waiting()
        told = self._tell(reason)
        self._table.note(finished=now())
        try:
            history.site(self._settings, self._observer, None)
        except LabError as error:  # the night is there all the same
            self._observer.warn(f"the pages of the history could not be written: {error.message}")
        self._announce(told)
        return told

    def _clear(self) -> None:
        """Remove what nights that were killed have left running here: nobody else runs a night now."""
        for place in self._settings.home.outbox.glob("*"):
            if place.is_dir():
                Outbox(place).clear()
                if place.name != self._ident:  # of a night that nobody goes on with: only the newest can be
                    shutil.rmtree(place, ignore_errors=True)
        for name, _ in worker.machines_of_nights(self._settings.home):
            self._observer.step(f"removing {name}, which a killed night left")
            worker.remove_machine(name, self._settings)

    def _job(self, row: Row, attempt: int) -> Job:
        job = Job(self._ident, row.number, attempt, row.planned.limit)
        if self._argv:
            return dataclasses.replace(job, argv=self._argv(row.planned))
        cell = dataclasses.replace(row.planned.cell, machine=_machine(row.planned.cell, job.name, self._settings))
        return dataclasses.replace(job, work=Work(cell, self._settings.without_secrets(), self._entries))

    def _take(self, row: Row, ended: Ended, bundle: Path) -> str:
        return bring.bring(self._reports, self._ident, ended, row.key, bundle, self._warn_once)

    def _warn_once(self, text: str) -> None:
        """What is the same of every cell."""
        words = text.partition(",")[0].partition(" does not name")[0]
        if words not in self._warned:
            self._warned.add(words)
            self._observer.warn(text)

    # --- what it came to

    def _tell(self, reason: str) -> Nightly:
        # The history takes from it which run of a cell is the night's, and not that of an attempt before.
        nights.write(self._reports, self._document(_UNFINISHED, {}, {}))
        done = {row.key: row.run for row in self._table.rows(State.DONE) if row.run}
        shown = self._shown(done)
        with self._history(shown) as past:
            failing, fixed, slower = past.failing(self._ident), past.fixed(self._ident), past.slower(self._ident)
            last = self._shown({key: run for key in shown if (run := self._last(past, key))})
        lab = verdict.lab_changes(shown, last)
        begun = next(nights.before(self._reports, self._ident), None)
        for name, state in self._mirrors.items():
            old = begun.mirrors.get(name) if begun else None
            if old and old.digest != state.digest:
                lab.setdefault(name, []).append(_moved(old, state))
        for name, commit in self._refs.items():
            was = begun.refs.get(name) if begun else None
            if was and was != commit:
                for system in dict.fromkeys(verdict.split(key)[0] for key in shown):
                    lab.setdefault(system, []).append(_ref_moved(name, was, commit))
        changed = verdict.changes(self._ident, shown, failing, fixed, lab)
        document = self._document(reason, {**changed, "slower": verdict.slower(slower)}, lab)
        came_to = Nightly(document, nights.write(self._reports, document))
        report.write_page(came_to.night, came_to.directory)
        return came_to

    @contextlib.contextmanager
    def _history(self, shown: Mapping[str, Shown]) -> Iterator[History]:
        """The history of the reports, with what this night ran; where it cannot be had, one of the last nights alone,
        in memory: a night has its verdict all the same.
        """

        def put(past: History) -> None:
            for key, one in shown.items():
                past.add(self._ident, key, one.run, self._reports / one.run.run.id)

        with contextlib.ExitStack() as stack:
            try:
                past = stack.enter_context(History.open(self._reports / FILE, self._observer.warn))
                put(past)
                past.sync(self._reports, self._observer.step)
            except LabError as error:
                self._observer.warn(f"what is new is told by the last {_LOOK_BACK} nights alone: {error.message}")
                past = stack.enter_context(History.in_memory())
                for night in itertools.islice(nights.before(self._reports, self._ident), _LOOK_BACK):
                    for cell in night.cells:
                        with contextlib.suppress(LabError):
                            if cell.run:
                                past.add(night.id, cell.cell, runs.load(self._reports / cell.run))
                put(past)
            yield past

    def _last(self, past: History, key: str) -> str:
        """The last complete run of the cell in another night whose reports are there; "" where there is none."""
        others = (ran for ran in reversed(past.runs(key)) if ran.night not in ("", self._ident))
        return next((ran.name for ran in others if ran.complete and not ran.gone), "")

    def _announce(self, came_to: Nightly) -> None:
        """Tell the people whom the settings name. The night is kept already, whatever comes of it."""
        for outcome in tell.tell(self._settings.with_values(None, reports=self._reports), came_to.document):
            if outcome.delivered:
                self._observer.step(f"{outcome.channel}: {outcome.text}")
            else:
                self._observer.warn(f"{outcome.channel}: not told: {outcome.text}")

    def _shown(self, wanted: Mapping[str, str]) -> dict[str, Shown]:
        found = {}
        for key, ident in wanted.items():
            with contextlib.suppress(LabError):
                directory = self._reports / ident
                found[key] = Shown(runs.load(directory), packages_of(directory))
        return found

    def _document(
        self,
        reason: str,
        changed: Mapping[str, Any],
        lab: Mapping[str, Sequence[str]],
    ) -> dict[str, Any]:
        rows = self._table.rows()
        cells = [_cell_json(row) for row in rows]
        failed = [row for row in rows if row.state in (State.LAB_ERROR, State.QUARANTINED)]
        not_run = [row.key for row in rows if row.state in (State.WAITING, State.RUNNING, State.NOT_RUN)]
        changes = {
            "new_failures": [],
            "still_failing": [],
            "fixed": [],
            "flaky": [],
            "unexpected_passes": [],
            "expired": [],
            "slower": [],
            **changed,
            "not_run": not_run,
            "lab_errors": [{"cell": row.key, "error": row.error} for row in failed],
        }
        return {
            "schema": SCHEMA,
            "id": self._ident,
            "started": self._table.about("started"),
            "finished": now(),
            "complete": not reason,
            **({"reason": reason} if reason else {}),
            "labkit": labkit.__version__,
            "exit_status": _status([cell["status"] for cell in cells], bool(failed), bool(not_run or reason)),
            "cells": cells,
            "changes": changes,
            "lab": {system: list(lines) for system, lines in lab.items()},
            "mirrors": {name: state.model_dump() for name, state in self._mirrors.items()},
            "refs": self._refs,
        }


def _status(statuses: Sequence[int | None], failed: bool, unfinished: bool) -> int:
    """What `nightly` ends with: a finding weighs more than a lab that failed, and that more than what is missing."""
    if 1 in statuses:
        return 1
    if failed:
        return 3
    return 4 if unfinished or 4 in statuses else 0


def _cell_json(row: Row) -> dict[str, Any]:
    state = row.state if row.state not in (State.WAITING, State.RUNNING) else State.NOT_RUN
    return {
        "cell": row.key,
        "state": state.value,
        "run": row.run or None,
        "status": row.status,
        "seconds": row.seconds,
        **({"error": row.error} if row.error else {}),
        "attempts": [
            {
                "number": one.number,
                "host": one.host,
                "started": one.started,
                "seconds": one.seconds,
                "outcome": one.outcome.value if one.outcome else "lost",
                **({"error": one.error} if one.error else {}),
            }
            for one in row.attempts
        ],
    }


def _machine(cell: Cell, name: str, settings: Settings) -> str:
    """The machine of an attempt: its own, but for a host of somebody's own, which there is once."""
    if cell.provider == "ssh" and settings.ssh.host:
        return Address.parse(settings.ssh.host).machine_name
    return f"{worker.MACHINE}{name}"

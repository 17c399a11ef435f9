"""One run: a cell's suite against its runtime on its machine, into a directory of its own. run_cell is the only way.

    record   the suite runs in the machine; what it prints goes to raw/ as it comes
    judge    raw/ is read, and the policy applied
    write    every report

A run begins once its machine has answered. results.json is there from then on, saying that the run did not finish: a
run that ends early, in whatever way, leaves what it had and says that it is not complete and, unless labkit itself was
killed, why. reports/latest names it from its beginning, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import labkit
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import CommandTimeout, ConnectionFailed, InfrastructureError, LabError, MachineError, UsageError
from labkit.core.platforms import Distro
from labkit.core.text import one_line, printable
from labkit.guest.common import versions
from labkit.io import version
from labkit.io.console import panic_lines
from labkit.io.files import disk_errors, make_directory
from labkit.io.remote import Remote
from labkit.io.together import together
from labkit.machines import providers
from labkit.machines import record as record_of
from labkit.machines.base import Machine, MachineInfo, Owned, Resettable
from labkit.reports import files
from labkit.results import attribution, policy
from labkit.results.json import to_json
from labkit.results.model import (
    EngineInfo,
    Judged,
    Object,
    Reading,
    Referred,
    Result,
    Run,
    RunInfo,
    RuntimeInfo,
    SuiteInfo,
    exit_status,
)
from labkit.results.policy import Entry
from labkit.results.tap import JSON
from labkit.store import runs
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Role, Runtime
from labkit.subjects.runtimes.words import Package
from labkit.suites import again as repeats
from labkit.suites import registry, shards, subset
from labkit.suites.base import OfEngines, OfRegistries, OfTests, RunObserver, SilentRun, Suite
from labkit.usecases import evidence as evidences
from labkit.usecases import subject as subjects
from labkit.usecases import user as users
from labkit.usecases.machines import bring_up, compare
from labkit.usecases.past import past
from labkit.usecases.preflight import preflight, told
from labkit.usecases.subject import Subject

UNKNOWN = "unknown"  # the name of a runtime that nobody has named
_OF_MACHINE = ("kernel", "cgroup", "user", "user-namespace")  # what suites say of where they run
PROGRAMS = "/var/lib/labkit"  # in the machine: where a suite's program goes
_REFERENCE = "reference"  # in raw/
_COMPARE = 300.0  # seconds that the reference may take at most
_UNFINISHED = "the run did not finish"
_LOG = "console.log"
_ASK = 60.0  # seconds for a question to a machine
_UPLOAD = 300.0  # seconds in which the suite's program has arrived
_CONSOLE_PART = 4 << 20  # bytes of the console's output that are kept of its beginning, and as many of its end

MakeMachine = Callable[[str, Settings, RunObserver, Distro, Sequence[str]], Machine]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `test` and `judge` come to; exit_status as the contract has it. warnings: what a person is to be told."""

    run: Run
    directory: Path
    warnings: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        return exit_status(self.run)


def run_cell(
    cell: Cell,
    settings: Settings,
    observer: RunObserver,
    entries: Sequence[Entry] | None,
    make_machine: MakeMachine = providers.wanted,
) -> Outcome:
    """Bring the cell's machine up, run its suite there, and write every report; they are in the outcome's directory.
    Machines that are several share the suite; no more of them are used than there are checks.

    settings have what the cell does not: home, reports, hardware, limits. entries are the policy, None for verdicts
    without one. A suite that ends early makes an incomplete run, not an error. UsageError where the suite cannot run
    what is asked, such as a runtime that is not there; a KeyboardInterrupt is raised again after the reports are
    written.
    """
    suite = registry.find(cell.suite, cell.engine)
    suite.check(cell.selection)
    runs.require_room(settings.reports)  # now, and not after a machine was made and the suite has run
    names = suite.names()  # none where only the machine knows them
    role = role_of(suite)
    enough = min(cell.machines, len(subset.of(suite.name, "check", cell.selection, names)) if names else cell.machines)
    enough = 1 if role is Role.REGISTRY else enough  # its tests are one conversation
    if enough < cell.machines:
        observer.step(f"{enough} to run: no more machines than that share it")
    if enough > 1:
        return _run_shared(dataclasses.replace(cell, machines=enough), settings, observer, entries, make_machine)
    settings = settings.of_cell(cell)
    distro = settings.distro()
    subject = subjects.find(runtimes.word(cell.runtime, role=role), settings, distro, observer, cell.runtime_name)
    subjects.require_committed(subject, settings, suite.needs)
    upstream = _upstream(suite, settings, distro, observer)
    machine = make_machine(cell.machine, settings, observer, distro, suite.needs)
    with machine.lock():
        subjects.require_possible(subject, machine)
        info = bring_up(machine, settings, distro, observer, insist=True)
        if isinstance(machine, Owned):
            bring = {subject.runtime.command: subject.word.name} if isinstance(subject.word, Package) else {}
            compare(machine, machine.not_brought(distro), observer, insist=True)
            machine.provide(distro, {**suite.programs, **bring})
        with machine.connect(Deadline.after(settings.limits.connect, "connect")) as remote:
            users.make(cell.selection.user, remote, machine, observer)
            runtime = subjects.send(subject, remote, observer, machine.name, cell.selection.runtime_args)
            beside = [subjects.put(one, remote, observer, machine.name) for one in upstream]
            suite = _with_upstream(suite, runtime, beside)
            called, selection = _called(suite, runtime, remote, cell.selection)
            observer.step(f"running {suite.name} against {runtime.name} on {machine.name}")
            asked = evidences.ask(remote)
            facts: dict[str, JSON] = {**_facts(info), "bootstrap": dict(asked.bootstrap)}
            evidence = evidences.gathered(cell, settings, suite, machine, info, asked, beside)
            begun = _begin(settings.reports, machine.name, suite, cell.under_test, runtime, facts, evidence, observer)
            directory = begun.directory
            with begun.told():
                evidences.keep_packages(asked, directory)
                recording = _checked(suite, runtime, remote, directory) or record(
                    directory / runs.RAW,
                    directory / _LOG,
                    suite,
                    called,
                    remote,
                    observer,
                    selection,
                    timeout=_limit(suite, settings),
                    console=machine.console(),
                )
            again = partial(_again, selection, settings, observer, suite, called, machine, remote)
            whose = partial(_whose, cell, settings, distro, observer, suite, machine, remote)
            outcome = _concluded(begun, recording, entries, again, whose)
        if suite.needs_reset(cell.selection) and isinstance(machine, Resettable):
            _reset(machine, suite, observer)
    return outcome


def _limit(suite: Suite, settings: Settings) -> float:
    """Seconds that a run of the suite may take."""
    limit = settings.limits.suite
    return limit if settings.origin("limits.suite") else max(limit, suite.longest)


def role_of(suite: Suite) -> Role:
    """What a suite is about."""
    return Role.REGISTRY if isinstance(suite, OfRegistries) else Role.RUNTIME


def _upstream(suite: Suite, settings: Settings, distro: Distro, observer: RunObserver) -> tuple[Subject, ...]:
    """The programs that a suite runs besides its own, got or built."""
    words: Sequence[str] = ()
    if isinstance(suite, OfRegistries):
        words = (settings.distribution_spec or suite.upstream,)
    elif isinstance(suite, OfEngines):
        words = suite.brings
    return tuple(subjects.find(runtimes.word(word, role=Role.PROGRAM), settings, distro, observer) for word in words)


def _with_upstream(suite: Suite, subject: Runtime, programs: Sequence[Runtime]) -> Suite:
    """The suite with those programs, which are in the machine now."""
    if isinstance(suite, OfRegistries):
        return suite.over(subject, programs[0].command, os.environ)
    if isinstance(suite, OfEngines):
        return suite.with_programs([one.command for one in programs])
    return suite


def _not_decided(run: Run, entries: Sequence[Entry] | None) -> list[str]:
    """A line where policy entries wait for what is not known of the run, such as a version that nobody told."""
    lacking = policy.lacking(run, entries or ())
    if not lacking.entries:
        return []
    entry = "1 policy entry" if lacking.entries == 1 else f"{lacking.entries} policy entries"
    return [f"{entry} could not apply: unknown {', '.join(sorted(lacking.facts))}"]


Again = Callable[[Path, int, tuple[str, ...]], str | None]
Whose = Callable[[Run, Path], Run]


def _concluded(
    begun: _Begun, recording: Recording, entries: Sequence[Entry] | None, again: Again, whose: Whose
) -> Outcome:
    """The run that was recorded, judged and written, after what it has bad and unexpected was run again, and over the
    reference runtime.
    """
    suite, directory = begun.suite, begun.directory
    raw = directory / runs.RAW

    def judged() -> Run:
        run = judge(with_reading(begun.ended(recording.reason), shards.read(suite, raw)), entries)
        return dataclasses.replace(run, told=(*run.told, *_not_decided(run, entries)))

    with begun.told():
        run = judged()
        for number in range(1, repeats.TIMES + 1):
            names = repeats.doubtful(run, suite.word) if isinstance(suite, OfTests) else repeats.doubtful(run)
            if not names or recording.reason or again(repeats.place(raw, number), number, names):
                break
            run = judged()
        if not recording.interrupt:
            run = whose(run, raw)
        outcome = write(dataclasses.replace(run, evidence=evidences.with_raw(run.evidence, raw)), directory)
    if recording.interrupt:
        _note(recording.interrupt, directory)
        raise recording.interrupt
    return outcome


def _called(suite: Suite, runtime: Runtime, remote: Remote, selection: Selection) -> tuple[Runtime, Selection]:
    """The runtime as the suite calls it, and the selection: either of the two has its arguments, and the
    latter what it lacks.
    """
    selection = dataclasses.replace(selection, lacks=tuple(runtimes.lacks(runtime.name).items()))
    if suite.takes_arguments:
        return runtime, dataclasses.replace(selection, runtime_args=runtime.arguments)
    return subjects.called_alone(runtime, remote), dataclasses.replace(selection, runtime_args=())


def _again(
    selection: Selection,
    settings: Settings,
    observer: RunObserver,
    suite: Suite,
    runtime: Runtime,
    machine: Machine,
    remote: Remote,
    raw: Path,
    number: int,
    names: tuple[str, ...],
) -> str | None:
    """Run these programs again, one at a time; why that did not come to its end, None where it did."""
    listed = one_line(", ".join(names), 200)
    if selection.repeat:
        return "they were run several times already"
    if not selection.confirm:
        observer.step(f"bad, not expected, and not run again: {listed}")
        return "not asked for"
    observer.step(f"running again, alone, what is bad and not expected: {listed}")
    recording = record(
        make_directory(raw),
        raw.parents[1] / f"console-again-{number}.log",
        suite,
        runtime,
        remote,
        SilentRun(),
        dataclasses.replace(selection, only=names, skip=(), jobs=1),
        timeout=_limit(suite, settings),
        console=machine.console(),
    )
    if recording.interrupt:
        raise recording.interrupt
    if recording.reason:
        observer.warn(f"they were not run again: {recording.reason}")
    return recording.reason


def _whose(
    cell: Cell,
    settings: Settings,
    distro: Distro,
    observer: RunObserver,
    suite: Suite,
    machine: Machine,
    remote: Remote,
    run: Run,
    raw: Path,
) -> Run:
    """The run with whose failure it is at what is bad and not expected: see labkit/results/attribution.py."""
    word = cell.selection.reference
    if word is None or not run.unexpected:
        return run
    reference = referred = None
    if word and run.run.complete:
        names, left = attribution.chosen(run)
        try:
            runtime = subjects.send(
                subjects.find(runtimes.word(word, role=role_of(suite)), settings, distro, observer),
                remote,
                observer,
                machine.name,
            )
            if (runtime.sha256, shlex.join(runtime.arguments)) == (run.runtime.sha256, run.runtime.arguments):
                observer.step(f"not compared with {word}: that is the program under test")
            else:
                observer.step(f"running over {word}, to see whose failure it is: {one_line(', '.join(names), 200)}")
                reference, why = _referred(cell, settings, suite, runtime, machine, remote, raw, names)
                referred = Referred(attribution.title(reference), len(names), left, why)
        except LabError as error:  # the results are there
            observer.warn(f"not compared with {word}: {error.message}")
    return attribution.attributed(run, reference, past(settings.reports, run, observer), referred)


def _referred(
    cell: Cell,
    settings: Settings,
    suite: Suite,
    runtime: Runtime,
    machine: Machine,
    remote: Remote,
    raw: Path,
    names: tuple[str, ...],
) -> tuple[Run, str]:
    """What the reference shows of these checks or programs, into raw/reference; why that ended early, or ""."""
    place = make_directory(raw / _REFERENCE)
    selection = dataclasses.replace(cell.selection, only=names, skip=(), jobs=1, repeat=None, runtime_args=())
    called, selection = _called(suite, runtime, remote, selection)
    recording = record(
        place,
        raw.parent / f"console-{_REFERENCE}.log",
        suite,
        called,
        remote,
        SilentRun(),
        selection,
        timeout=min(settings.limits.suite, _COMPARE),
        console=machine.console(),
    )
    if recording.interrupt:
        raise recording.interrupt
    info = RuntimeInfo(runtime.name, runtime.command, "", sha256=runtime.sha256)
    read = with_reading(new_run("", suite, {}, info, recording.reason), shards.read(suite, place))
    return read, read.run.reason or ""


# --- several machines


@dataclass(frozen=True, slots=True)
class _Member:
    """A machine that shares a suite and is up; runtime: what is under test there, called: as the suite calls it;
    programs: what the suite runs there besides its own, by the same paths in each.
    """

    machine: Machine
    info: MachineInfo
    remote: Remote
    runtime: Runtime
    called: Runtime
    selection: Selection
    programs: Sequence[Runtime] = ()


def _run_shared(
    cell: Cell, settings: Settings, observer: RunObserver, entries: Sequence[Entry] | None, make_machine: MakeMachine
) -> Outcome:
    """run_cell() on several machines, each with a part of the suite: one run, as if it were of one machine.

    A machine that does not come up, or is lost, makes the run incomplete; the others do their parts.
    """
    suite, distro = registry.find(cell.suite, cell.engine), settings.of_cell(cell).distro()
    subject = subjects.find(runtimes.word(cell.runtime), settings.of_cell(cell), distro, observer, cell.runtime_name)
    subjects.require_committed(subject, settings, suite.needs)
    upstream = _upstream(suite, settings, distro, observer)
    machines = _several(cell, settings, observer, distro, suite, make_machine)
    with contextlib.ExitStack() as stack:
        for _, machine in sorted((machine.name, machine) for machine in machines):  # one order: nobody waits in a ring
            stack.enter_context(machine.lock())
        members, failed = _up(cell, machines, settings.of_cell(cell), distro, observer, subject, upstream, stack)
        _alike(members, settings)
        runtime = members[0].runtime
        suite = _with_upstream(suite, runtime, members[0].programs)
        given = _given(cell, settings, suite, machines, members)
        observer.step(f"running {suite.name} against {runtime.name} on {', '.join(given)}")
        one = members[0]
        asked = evidences.ask(one.remote)
        facts: dict[str, JSON] = {
            **_facts(one.info),
            "name": cell.machine,
            "machines": list(given),
            "bootstrap": dict(asked.bootstrap),
        }
        evidence = evidences.gathered(cell, settings, suite, one.machine, one.info, asked, one.programs)
        begun = _begin(settings.reports, cell.machine, suite, cell.under_test, runtime, facts, evidence, observer)
        directory = begun.directory
        with begun.told():
            evidences.keep_packages(asked, directory)
            recording = _record_parts(settings, observer, suite, members, given, directory)
        reasons = [why for name, why in failed.items() if name in given]
        reasons += [recording.reason] if recording.reason else []
        recording = dataclasses.replace(recording, reason="; ".join(reasons) or None)
        again = partial(_again, one.selection, settings, observer, suite, one.called, one.machine, one.remote)
        whose = partial(_whose, cell, settings, distro, observer, suite, one.machine, one.remote)
        outcome = _concluded(begun, recording, entries, again, whose)
        if suite.needs_reset(cell.selection):
            for member in members:
                if isinstance(member.machine, Resettable):
                    _reset(member.machine, suite, observer)
    return outcome


def _given(
    cell: Cell,
    settings: Settings,
    suite: Suite,
    machines: Sequence[Machine],
    members: Sequence[_Member],
) -> dict[str, tuple[str, ...]]:
    """What each machine is to run, by its name, in the order of the machines. One that is not up keeps its part, which
    will be missing; but where there are fewer checks than machines, those that are up have them.
    """
    names: Sequence[str] = cell.selection.only
    if subset.is_open(cell.selection):
        listed = _listed(suite, members[0], settings.limits.suite)
        names = subset.of(suite.name, "check", cell.selection, listed)
    up = [member.machine.name for member in members]
    sharing = [machine.name for machine in machines if len({*names}) >= len(machines) or machine.name in up]
    seconds = runs.seconds_before(settings.reports, suite.name, members[0].runtime.name, names)
    return dict(zip(sharing, shards.split(names, seconds, len(sharing)), strict=False))


def _record_parts(
    settings: Settings,
    observer: RunObserver,
    suite: Suite,
    members: Sequence[_Member],
    given: Mapping[str, tuple[str, ...]],
    directory: Path,
) -> Recording:
    """record() on all machines that are up, at a time."""
    plan = tuple(shards.Shard(machine=name, names=share) for name, share in given.items())
    places = dict(zip(given, shards.begin(directory / runs.RAW, shards.Plan(shards=plan)), strict=True))
    numbers = {name: number for number, name in enumerate(given, 1)}
    whole = _Together(observer, sum(map(len, given.values())))

    def part(member: _Member) -> str | None:
        name = member.machine.name
        log = _LOG if numbers[name] == 1 else f"console-{numbers[name]}.log"
        try:
            recording = record(
                places[name],
                directory / log,
                suite,
                member.called,
                member.remote,
                whole,
                dataclasses.replace(member.selection, only=given[name], skip=()),
                timeout=_limit(suite, settings),
                console=member.machine.console(),
            )
        except NoRun as error:
            raise NoRun(f"{name}: {error.message}") from error
        return f"{name}: {recording.reason}" if recording.reason else None

    def stop() -> None:
        for member in members:
            member.remote.close()

    try:
        reasons = together([partial(part, member) for member in members if member.machine.name in given], stop)
    except KeyboardInterrupt as error:
        return Recording(_why(error), error)
    return Recording("; ".join(filter(None, reasons)) or None)


def _several(
    cell: Cell, settings: Settings, observer: RunObserver, distro: Distro, suite: Suite, make_machine: MakeMachine
) -> list[Machine]:
    """The machines of the cell; those after the first have its provider. UsageError where there cannot be several."""
    if settings.machine.ssh_port:
        raise UsageError(
            f"--machines {cell.machines} needs a port for each machine, and machine.ssh_port = "
            f"{settings.machine.ssh_port} is one",
            hint="set machine.ssh_port to 0, for any free ones",
        )
    if len(cell.names[-1]) > 63:
        raise UsageError(f"{cell.names[-1]} is longer than the 63 letters of a machine's name", hint="--machine NAME")
    machines: list[Machine] = []
    for name in cell.names:
        own = settings.of_cell(dataclasses.replace(cell, machine=name))
        if machines and settings.provider == "auto":
            own = own.with_values(None, provider=machines[0].status().kind)
        machine = make_machine(name, own, observer, distro, suite.needs)
        if isinstance(machine, Owned):
            raise UsageError(
                f"machine {name} is a host of its own, and --machines shares a suite among machines that labkit makes",
                hint="leave --machines out",
            )
        machines.append(machine)
    return machines


def _up(
    cell: Cell,
    machines: Sequence[Machine],
    settings: Settings,
    distro: Distro,
    observer: RunObserver,
    subject: Subject,
    upstream: Sequence[Subject],
    stack: contextlib.ExitStack,
) -> tuple[list[_Member], dict[str, str]]:
    """Bring the machines up and connect to them; those that are, and why the others are not. Raises what kept the last
    one from it where none is.
    """
    members: list[_Member] = []
    failed: dict[str, str] = {}
    for machine in machines:
        try:
            info = bring_up(machine, settings, distro, observer, insist=True)
            remote = stack.enter_context(machine.connect(Deadline.after(settings.limits.connect, "connect")))
            users.make(cell.selection.user, remote, machine, observer)
            runtime = subjects.send(subject, remote, observer, machine.name, cell.selection.runtime_args)
            programs = [subjects.put(each, remote, observer, machine.name) for each in upstream]
            called, selection = _called(registry.find(cell.suite, cell.engine), runtime, remote, cell.selection)
        except InfrastructureError as error:
            # What is wrong with this host, no other machine can make good.
            if not members and (machine is machines[-1] or not isinstance(error, MachineError | ConnectionFailed)):
                raise
            failed[machine.name] = f"machine {machine.name} did not come up: {error.message}"
            observer.warn(failed[machine.name])
        else:
            members.append(_Member(machine, info, remote, runtime, called, selection, programs))
    return members, failed


def _alike(members: Sequence[_Member], settings: Settings) -> None:
    """UsageError where the machines are not of one kind: one report would be about two things."""
    first = members[0]
    for other in members[1:]:
        rows = {
            "the provider": (first.info.kind, other.info.kind),
            "the release": tuple(f"{one.info.platform} {one.info.release}" for one in (first, other)),
            "the architecture": (first.info.arch, other.info.arch),
            "the accelerator": (first.info.accelerator, other.info.accelerator),
            "the kernel": (first.info.kernel_origin, other.info.kernel_origin),
            "the image": tuple(record_of.image_of(settings.home, one.machine.name) for one in (first, other)),
            first.runtime.command: tuple(f"sha256 {one.runtime.sha256[:16]}" for one in (first, other)),
        }
        unlike = [
            f"{what} is {mine} on {first.machine.name}, {its} on {other.machine.name}"
            for what, (mine, its) in rows.items()
            if mine != its
        ]
        if unlike:
            raise UsageError(
                f"machines that share a suite must be alike: {'; '.join(unlike)}",
                hint="put the same on both; or "
                + " and ".join(f"./lab destroy --machine {one.machine.name}" for one in (first, other))
                + ": the next test makes them anew",
            )


def _listed(suite: Suite, member: _Member, timeout: float) -> tuple[str, ...]:
    """All that the suite has, as far as need be by the word of a machine."""
    command = suite.listing(f"{PROGRAMS}/{suite.file_name()}", member.called.command)
    if command is None:
        return tuple(suite.names())
    _upload(suite, member.remote, timeout)
    answer = member.remote.run(command, timeout=min(timeout, _ASK))
    names = [name for name in answer.stdout.split() if re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name)]
    if answer.status or not names:
        raise NoRun(f"{member.machine.name}: {printable(answer.stderr.strip() or 'the suite lists nothing to run')}")
    return tuple(names)


class _Together(SilentRun):
    """Tells the observer of the results of several machines as of one."""

    def __init__(self, observer: RunObserver, planned: int) -> None:
        self._observer, self._planned = observer, planned
        self._done = 0
        self._lock = threading.Lock()

    def result(self, result: Result, done: int, planned: int | None) -> None:
        with self._lock:
            self._done += 1
            self._observer.result(result, self._done, self._planned)


# --- record


@dataclass(frozen=True, slots=True)
class Recording:
    """How the suite's run ended: reason says why it is incomplete, None where the suite finished; interrupt is the
    KeyboardInterrupt that ended it.
    """

    reason: str | None = None
    interrupt: KeyboardInterrupt | None = None


def record(
    raw: Path,
    log: Path,
    suite: Suite,
    runtime: Runtime,
    remote: Remote,
    observer: RunObserver,
    selection: Selection,
    *,
    timeout: float,
    console: Path | None,
) -> Recording:
    """Run the suite in the machine; keep its output in the directory raw, and the machine's console output in log.

    timeout is the limit `suite`, in seconds. Raises NoRun where the suite rejects its arguments.
    """
    deadline = Deadline.after(timeout, "suite")
    reason: str | None = None
    interrupt: KeyboardInterrupt | None = None
    with (
        disk_errors(raw),
        _console(console, log),
        suite.recorder(raw, observer.result, selection.only or ("*",) * bool(selection.skip)) as recorder,
    ):
        try:
            program = _upload(suite, remote, timeout)
            answer = remote.run(
                suite.argv(program, runtime.command, selection),
                timeout=max(deadline.left, 1.0),
                stdin=suite.stdin if isinstance(suite, OfRegistries) else b"",
                on_stdout=recorder.take,
                on_stderr=recorder.take_stderr,
                keep=4096,
                attached=True,
            )
            if answer.status == 2 and not recorder.has_output:
                raise NoRun(printable(answer.stderr.strip() or "the suite rejected its arguments"))
            if answer.status not in (0, 1):
                stderr = printable(answer.stderr.strip()[-500:])
                exited = f"the suite exited with status {answer.status}" + (f": {stderr}" if stderr else "")
                reason = told(answer.stderr, runtime) or exited
        except CommandTimeout as error:
            late = f"the suite did not end within {deadline.allowed}, and was ended"
            reason = late if deadline.passed else error.message
        except ConnectionFailed as error:
            reason = error.message
        except KeyboardInterrupt as error:
            reason, interrupt = _why(error), error
    if reason and (panic := panic_lines(log.read_bytes())):
        reason = f"the machine's kernel panicked ({panic}); {reason}"
    return Recording(reason, interrupt)


def _checked(suite: Suite, runtime: Runtime, remote: Remote, directory: Path) -> Recording | None:
    """The recording of a suite that is not run, because the runtime can do nothing; None where it can."""
    if suite.name == "spec" or role_of(suite) is not Role.RUNTIME:  # it begins so itself; it runs no container
        return None
    try:
        why = preflight(runtime, remote, PROGRAMS)
    except ConnectionFailed as error:
        why = error.message
    except KeyboardInterrupt as error:
        return Recording(_why(error), error)
    if not why:
        return None
    with disk_errors(directory):
        (directory / _LOG).touch()
    return Recording(why)


def _upload(suite: Suite, remote: Remote, timeout: float) -> str:
    """Put the suite's program on the machine; its path there."""
    program = f"{PROGRAMS}/{suite.file_name()}"
    remote.upload(suite.program(), program, mode=0o755, timeout=min(timeout, _UPLOAD))
    return program


@contextlib.contextmanager
def _console(source: Path | None, target: Path) -> Iterator[None]:
    """Copy what the machine's console prints during the block to target, or its beginning and its end."""
    start = source.stat().st_size if source and source.exists() else 0
    try:
        yield
    finally:
        with target.open("wb") as out:
            if source and source.exists():
                with source.open("rb") as file:
                    end = file.seek(0, 2)
                    _copy(file, start if start <= end else 0, end, out)


def _copy(file: IO[bytes], start: int, end: int, out: IO[bytes]) -> None:
    """Copy the bytes from start to end; of many, the first and the last, with a line between that says so."""
    left_out = end - start - 2 * _CONSOLE_PART
    if left_out > 0:
        _copy(file, start, start + _CONSOLE_PART, out)
        out.write(f"\n[labkit: {left_out} bytes of the console's output are left out here]\n".encode())
        start = end - _CONSOLE_PART
    file.seek(start)
    while start < end and (piece := file.read(min(end - start, 1 << 18))):
        start += out.write(piece)


# --- judge


def judge(run: Run, entries: Sequence[Entry] | None) -> Run:
    """The run with what the policy expects marked as expected; without a policy, nothing is marked."""
    now = _now()
    judged = Judged(now, version.full(), None if entries is None else policy.files(entries))
    return dataclasses.replace(policy.apply(run, entries, now.date()), judged=judged)


def _now() -> datetime:
    """In milliseconds, as results.json keeps it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def new_run(
    ident: str,
    suite: Suite,
    machine: Mapping[str, JSON],
    runtime: RuntimeInfo,
    interrupted_reason: str | None,
) -> Run:
    """A run without results yet."""
    now = _now()
    return Run(
        RunInfo(ident, now, now, labkit.__version__, interrupted_reason, interrupted_reason),
        {**machine, "kernel": "", "cgroup": ""},
        runtime,
        SuiteInfo(suite.name, suite.version),
        (),
        engine=EngineInfo(suite.engine) if isinstance(suite, OfEngines) and suite.engine else None,
    )


def with_reading(run: Run, reading: Reading) -> Run:
    """The run with the results and facts of its raw output."""
    facts = reading.facts
    reasons = [why for why in (run.run.interrupted_reason, reading.reason) if why]
    if len(reasons) > 1 and reasons[1].removeprefix("bailed out: ") in reasons[0]:  # the suite says it on both streams
        reasons.pop()
    runtime = _runtime(run.runtime, facts)
    return dataclasses.replace(
        run,
        run=dataclasses.replace(run.run, reason="; ".join(reasons) or None),
        machine={**run.machine, **{key.replace("-", "_"): facts[key] for key in _OF_MACHINE if key in facts}},
        runtime=runtime,
        suite=SuiteInfo(
            run.suite.name,
            facts.get("ref", run.suite.version),
            facts.get("spec", run.suite.spec),
            facts.get("spec-claimed", run.suite.spec_claimed),
        ),
        results=reading.results,
        programs=reading.programs,
        dialects=reading.dialects,
        engine=_engine(run.engine, facts),
        told=(*reading.told, *_calls_itself(runtime)),
    )


def _engine(was: EngineInfo | None, facts: Mapping[str, str]) -> EngineInfo | None:
    name = facts.get("engine", was.name if was else "")
    return EngineInfo(name, facts.get("engine-version", was.version if was else "")) if name else None


def _runtime(was: RuntimeInfo, facts: Mapping[str, str]) -> RuntimeInfo:
    """The runtime by the facts of its suite. One that is known only by a path, as a wrapper may be, is what it says."""
    path = was.path if was.sha256 else facts.get("runtime-path", was.path)
    said = facts.get("runtime-version", was.version)
    name, version = versions.told(said)
    by_path = PurePosixPath(path).name
    known = was.name if was.name != UNKNOWN else facts.get("runtime", "") or by_path or UNKNOWN
    if known in (UNKNOWN, by_path, *_by_word(was)):
        known = name or known
    arguments = was.arguments or facts.get("runtime-arguments", "")
    return dataclasses.replace(was, name=known, path=path, version=version or said, arguments=arguments)


def _by_word(runtime: RuntimeInfo) -> tuple[str, ...]:
    """What a runtime may be called for the name of its file, or of the tree that it was built of."""
    word = runtimes.split(runtime.word)[0]
    tree = PurePosixPath(word.rpartition("#")[0]).name.removesuffix(".git")
    return (PurePosixPath(word).name, tree) if "/" in word else ()


def _calls_itself(runtime: RuntimeInfo) -> list[str]:
    names = _by_word(runtime) or (PurePosixPath(runtime.path).name,)
    if runtime.name in (*names, runtime.word) or not names[0]:
        return []
    called = runtime.word if "/" in runtime.word else runtime.path
    return [f"{called} is taken for {runtime.name} {runtime.version}".rstrip()]


def _facts(machine: MachineInfo) -> dict[str, JSON]:
    keys = ("platform", "release", "provider", "name", "accelerator")
    found = {key: getattr(machine, key) for key in keys}
    said = {key: value for key in ("kernel_origin", "arch") if (value := getattr(machine, key))}
    return found | said


# --- write


class NoRun(UsageError):
    """The suite does not run what is asked: nothing is left of the attempt."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A run as it is on disk until it has ended; at is when it began, by the monotonic clock."""

    run: Run
    directory: Path
    suite: Suite
    at: float

    def ended(self, reason: str | None) -> Run:
        """The run at this moment. A clock that was set meanwhile changes nothing about how long it took."""
        finished = self.run.run.started + timedelta(milliseconds=round((time.monotonic() - self.at) * 1000))
        info = dataclasses.replace(self.run.run, finished=finished, reason=reason, interrupted_reason=reason)
        return dataclasses.replace(self.run, run=info)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Have results.json say why, where anything ends the block."""
        try:
            yield
        except NoRun:
            runs.discard(self.directory)
            raise
        except BaseException as error:
            run = self.ended(_why(error))
            with contextlib.suppress(LabError, OSError):  # what ended it may forbid that, too: a full disk
                with contextlib.suppress(LabError):
                    run = with_reading(run, shards.read(self.suite, self.directory / runs.RAW))
                files.write_all(run, self.directory)
            _note(error, self.directory)
            raise


def _why(error: BaseException) -> str:
    """Why a run is not complete that this ended."""
    if isinstance(error, KeyboardInterrupt):
        return "the run was interrupted" + (f" by {error}" if str(error) else "")
    if isinstance(error, LabError):
        return error.message
    return printable(f"labkit failed: {type(error).__name__}: {error}")


def _note(error: BaseException, directory: Path) -> None:
    """Let whoever interrupted the run be told what is left of it."""
    if isinstance(error, KeyboardInterrupt) and not hasattr(error, "__notes__"):
        error.add_note(f"what the suite had shown is in {directory}, ./lab test begins anew")


def _begin(
    reports: Path,
    machine: str,
    suite: Suite,
    word: str,
    runtime: Runtime,
    facts: Mapping[str, JSON],
    evidence: Object,
    observer: RunObserver,
) -> _Begun:
    at = time.monotonic()
    arguments = shlex.join(runtime.arguments)
    info = RuntimeInfo(runtime.name, runtime.command, "", arguments, runtime.sha256, runtime.source, word)
    made: dict[str, Run] = {}

    def begin(ident: str) -> str:
        made[ident] = dataclasses.replace(new_run(ident, suite, facts, info, _UNFINISHED), evidence=evidence)
        return to_json(made[ident])

    called = re.sub(r"[^\w.+-]+", "_", runtime.name, flags=re.ASCII)[:60].strip("_.-") or "runtime"
    directory = runs.new_directory(reports, [machine, called, suite.name], begin)
    if why := runs.point_latest(directory):
        observer.warn(why)
    return _Begun(made[directory.name], directory, suite, at)


def write(run: Run, directory: Path) -> Outcome:
    """Write every report of the run into its directory."""
    files.write_all(run, directory)
    return Outcome(run, directory)


def _reset(machine: Resettable, suite: Suite, observer: RunObserver) -> None:
    try:
        observer.step(f"resetting {machine.name}: the {suite.name} suite leaves changes behind")
        machine.reset()
    except LabError as error:  # the results are there
        observer.warn(f"{error.message}; what the {suite.name} suite changed on it stays")

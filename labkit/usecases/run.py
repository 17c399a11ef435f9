"""One run: a cell's suite against its runtime on its machine, into a directory of its own. run_cell is the only way.

    record   the suite runs in the machine; what it prints goes to raw/ as it comes
    judge    raw/ is read, and the policy applied
    write    every report

results.json is there from the start, saying that the run did not finish: a run that ends early, in whatever way, leaves
what it had and says that it is not complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import labkit
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import ConnectionFailed, LabError, UsageError
from labkit.core.platforms import Distro
from labkit.core.text import printable
from labkit.io.files import disk_errors
from labkit.io.remote import Remote
from labkit.machines import providers
from labkit.machines.base import Machine, MachineInfo, Owned, Resettable
from labkit.provision.remote import step_seconds
from labkit.qemu.launch import panic_lines
from labkit.reports import files
from labkit.results import policy
from labkit.results.json import to_json
from labkit.results.model import Reading, Run, RunInfo, RuntimeInfo, SuiteInfo, exit_status
from labkit.results.policy import Entry
from labkit.results.tap import JSON
from labkit.store import runs
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Runtime
from labkit.suites import registry
from labkit.suites.base import RunObserver, Suite
from labkit.usecases.machines import bring_up, compare

PROGRAMS = "/var/lib/labkit"  # in the machine: where a suite's program goes
_UNFINISHED = "the run did not finish"
_INTERRUPTED = "the run was interrupted"
_CONSOLE_LIMIT = 64 << 20  # bytes

MakeMachine = Callable[[str, Settings, RunObserver, Distro, Sequence[str]], Machine]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `test` and `judge` come to; exit_status as the contract has it."""

    run: Run
    directory: Path

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

    settings have what the cell does not: home, reports, hardware, limits. entries are the policy, None for verdicts
    without one. A suite that ends early makes an incomplete run, not an error. UsageError where the suite cannot run
    what is asked, such as a runtime that is not there; a KeyboardInterrupt is raised again after the reports are
    written.
    """
    settings = settings.of_cell(cell)
    distro = settings.distro()
    runtime, suite = runtimes.find(cell.runtime), registry.find(cell.suite)
    suite.check(cell.selection)
    machine = make_machine(cell.machine, settings, observer, distro, suite.needs)
    with machine.lock():
        info = bring_up(machine, settings, distro, observer, insist=True)
        if isinstance(machine, Owned):
            bring = {runtime.command: runtime.name} if cell.runtime in runtimes.names() else {}
            compare(machine, machine.not_brought(distro), observer, insist=True)
            machine.provide(distro, {**suite.programs, **bring})
        observer.step(f"running {suite.name} against {runtime.name} on {machine.name}")
        with machine.connect(Deadline.after(settings.limits.connect)) as remote:
            facts: dict[str, JSON] = {**_facts(info), "bootstrap": step_seconds(remote)}
            directory = runs.new_directory(settings.reports, [machine.name, runtime.name, suite.name])
            run = _begin(directory, suite, runtime, facts)
            try:
                recording = record(
                    directory,
                    suite,
                    runtime,
                    remote,
                    observer,
                    cell.selection,
                    timeout=settings.limits.suite,
                    console=machine.console(),
                )
            except UsageError:  # there was no run
                shutil.rmtree(directory)
                raise
        run = judge(_recorded(run, recording, suite.read(directory / runs.RAW)), entries)
        outcome = write(run, directory)
        if recording.interrupt:
            raise recording.interrupt
        if suite.needs_reset(cell.selection) and isinstance(machine, Resettable):
            _reset(machine, suite, observer)
    return outcome


# --- record


@dataclass(frozen=True, slots=True)
class Recording:
    """How the suite's run ended: reason says why it is incomplete, None where the suite finished; interrupt is the
    KeyboardInterrupt that ended it.
    """

    reason: str | None = None
    interrupt: KeyboardInterrupt | None = None


def record(
    directory: Path,
    suite: Suite,
    runtime: Runtime,
    remote: Remote,
    observer: RunObserver,
    selection: Selection,
    *,
    timeout: float,
    console: Path | None,
) -> Recording:
    """Run the suite in the machine; keep its output in directory/raw, and the machine's console output.

    timeout bounds the suite, in seconds. Raises UsageError where the suite rejects its arguments.
    """
    program = f"{PROGRAMS}/{suite.file_name()}"
    reason: str | None = None
    interrupt: KeyboardInterrupt | None = None
    with (
        disk_errors(directory),
        _console(console, directory / "console.log"),
        suite.recorder(directory / runs.RAW, observer.result, selection.only) as recorder,
    ):

        def take(data: bytes) -> None:
            silent = not recorder.has_output
            recorder.take(data)
            if silent and recorder.has_output:
                runs.point_latest(directory)

        try:
            remote.upload(suite.program(), program, mode=0o755)
            argv = suite.argv(program, runtime.command, selection)
            answer = remote.run(argv, timeout=timeout, on_stdout=take, on_stderr=recorder.take_stderr, keep=4096)
            if answer.status == 2 and not recorder.has_output:
                raise UsageError(printable(answer.stderr.strip() or "the suite rejected its arguments"))
            if answer.status not in (0, 1):
                stderr = printable(answer.stderr.strip()[-500:])
                reason = f"the suite exited with status {answer.status}" + (f": {stderr}" if stderr else "")
        except ConnectionFailed as error:
            reason = error.message
        except KeyboardInterrupt as error:
            reason, interrupt = _INTERRUPTED, error
    if reason and (panic := panic_lines((directory / "console.log").read_bytes())):
        reason = f"the machine's kernel panicked ({panic}); {reason}"
    return Recording(reason, interrupt)


@contextlib.contextmanager
def _console(source: Path | None, target: Path) -> Iterator[None]:
    """Copy what the machine's console prints during the block to target."""
    start = source.stat().st_size if source and source.exists() else 0
    try:
        yield
    finally:
        data = b""
        if source and source.exists():
            with source.open("rb") as file:
                file.seek(start if source.stat().st_size >= start else 0)
                data = file.read(_CONSOLE_LIMIT)
        target.write_bytes(data)


# --- judge


def judge(run: Run, entries: Sequence[Entry] | None) -> Run:
    """The run with what the policy expects marked as expected; without a policy, nothing is marked."""
    return policy.apply(run, entries, datetime.now(UTC).date())


def new_run(
    ident: str, suite: Suite, machine: Mapping[str, JSON], runtime: RuntimeInfo, interrupted_reason: str | None
) -> Run:
    """A run without results yet."""
    now = datetime.now(UTC)
    return Run(
        RunInfo(ident, now, now, labkit.__version__, interrupted_reason, interrupted_reason),
        {**machine, "kernel": "", "cgroup": ""},
        runtime,
        SuiteInfo(suite.name, suite.version),
        (),
    )


def with_reading(run: Run, reading: Reading) -> Run:
    """The run with the results and facts of its raw output."""
    facts = reading.facts
    reasons = [why for why in (run.run.interrupted_reason, reading.reason) if why]
    version = facts.get("runtime-version", run.runtime.version).removeprefix(f"{run.runtime.name} version ")
    return dataclasses.replace(
        run,
        run=dataclasses.replace(run.run, reason="; ".join(reasons) or None),
        machine={**run.machine, **{key: facts[key] for key in ("kernel", "cgroup") if key in facts}},
        runtime=RuntimeInfo(run.runtime.name, facts.get("runtime-path", run.runtime.path), version),
        suite=SuiteInfo(run.suite.name, facts.get("ref", run.suite.version), facts.get("spec", run.suite.spec)),
        results=reading.results,
        programs=reading.programs,
    )


def _recorded(run: Run, recording: Recording, reading: Reading) -> Run:
    info = dataclasses.replace(run.run, finished=datetime.now(UTC), interrupted_reason=recording.reason)
    return with_reading(dataclasses.replace(run, run=info), reading)


def _facts(machine: MachineInfo) -> dict[str, JSON]:
    keys = ("platform", "release", "provider", "name", "accelerator")
    return {key: getattr(machine, key) for key in keys}


# --- write


def _begin(directory: Path, suite: Suite, runtime: Runtime, machine: Mapping[str, JSON]) -> Run:
    """The run as it is on disk until it has ended."""
    run = new_run(directory.name, suite, machine, RuntimeInfo(runtime.name, runtime.command, ""), _UNFINISHED)
    files.write(directory / runs.RESULTS, to_json(run))
    return run


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

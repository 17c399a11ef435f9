"""One run: a suite against a runtime on a machine, into a folder of its own.

    reports/ID/raw/NAME.tap, NAME.err     what the suite printed, byte for byte, written as it comes
    reports/ID/results.json ...           written twice: first saying that the run did not finish

So a run that ends early, in whatever way, leaves what it had and says that it is not complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import labkit
from labkit import results, tap
from labkit.errors import ConnectionFailed, LabError, UsageError
from labkit.files import disk_errors, make_folder
from labkit.machines import MachineInfo, launch
from labkit.observer import Observer
from labkit.reports import files
from labkit.results import Reading, Run, RunInfo
from labkit.runtimes import Runtime
from labkit.suites import Suite
from labkit.tap import JSON
from labkit.text import printable

if TYPE_CHECKING:
    from labkit.ssh import Remote

_UNFINISHED = "the run did not finish"
_INTERRUPTED = "the run was interrupted"
_PLACE = "/var/lib/labkit"  # in the machine
_RAW_LIMIT = 256 << 20  # bytes of output kept of one run; a suite has some hundred KB


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `test` and `report` come to; exit_status as the contract has it."""

    run: Run
    folder: Path

    @property
    def exit_status(self) -> int:
        return results.exit_status(self.run)


def new_folder(reports: Path, words: Sequence[str]) -> Path:
    """A new folder below reports, named by the time and words."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    make_folder(reports)
    for number in range(1, 1000):
        folder = reports / "-".join([stamp, *words, *([str(number)] if number > 1 else [])])
        with disk_errors(reports), contextlib.suppress(FileExistsError):
            (folder).mkdir()
            (folder / "raw").mkdir()
            return folder
    raise LabError(f"{reports} has a thousand runs of this second")


def point_latest(folder: Path) -> None:
    """Make reports/latest a link to folder."""
    link = folder.parent / "latest"
    aside = folder.parent / f".latest.{os.getpid()}"
    with disk_errors(folder.parent):
        aside.unlink(missing_ok=True)
        aside.symlink_to(folder.name)
        aside.replace(link)


def conduct(
    folder: Path,
    machine: MachineInfo,
    console: Path | None,
    suite: Suite,
    runtime: Runtime,
    remote: Remote,
    observer: Observer,
    *,
    only: Sequence[str],
    jobs: int | None,
    timeout: float,
) -> Outcome:
    """Run the suite and write every report; timeout is what it may take in the machine, in seconds.

    A suite that breaks off, for whatever reason, makes an incomplete run, not an error. Raises UsageError where the
    suite says that it was called wrongly, which a runtime that is not there is, and passes KeyboardInterrupt on
    after the reports are written.
    """
    told: dict[str, JSON] = {
        "platform": machine.platform,
        "release": machine.release,
        "provider": machine.provider,
        "name": machine.name,
        "accelerator": machine.accelerator,
    }
    run = Run(
        RunInfo(folder.name, datetime.now(UTC), datetime.now(UTC), labkit.__version__, _UNFINISHED),
        {**told, "kernel": "", "cgroup": ""},
        results.Runtime(runtime.name, runtime.command, ""),
        results.Suite(suite.name, suite.version),
        (),
    )
    files.write(folder / "results.json", results.to_json(run))
    program = f"{_PLACE}/{suite.file_name()}"
    reason: str | None = None
    interrupted: KeyboardInterrupt | None = None
    heard = _Heard(folder, observer)
    with (
        disk_errors(folder),
        _console(console, folder / "console.log"),
        _Capped(folder / "raw" / f"{suite.name}.tap") as out,
        _Capped(folder / "raw" / f"{suite.name}.err") as err,
    ):

        def take(data: bytes) -> None:
            out.write(data)
            heard.take(data)

        try:
            remote.upload(suite.program(), program, mode=0o755)
            argv = suite.argv(program, runtime.command, only, jobs)
            answer = remote.run(argv, timeout=timeout, on_stdout=take, on_stderr=err.write, keep=4096)
            if answer.status == 2 and not heard.events:
                raise UsageError(printable(answer.stderr.strip() or "the suite was called wrongly"))
            if answer.status not in (0, 1):
                said = printable(answer.stderr.strip()[-500:])
                reason = f"the suite ended with status {answer.status}" + (f": {said}" if said else "")
        except ConnectionFailed as error:
            reason = error.message
        except KeyboardInterrupt as error:
            reason, interrupted = _INTERRUPTED, error
    if reason and launch.PANIC in (folder / "console.log").read_bytes():
        reason = f"the machine's kernel panicked; {reason}"
    outcome = _finish(run, folder, suite.read(heard.close()), reason)
    if interrupted:
        raise interrupted
    return outcome


class _Heard:
    """What the suite has said so far; each result is told to the observer as it comes."""

    def __init__(self, folder: Path, observer: Observer) -> None:
        self.events: list[tap.Event] = []
        self._reader = tap.Reader()
        self._folder = folder
        self._observer = observer
        self._done = 0
        self._planned: int | None = None

    def take(self, data: bytes) -> None:
        self._note(self._reader.feed(data))

    def close(self) -> list[tap.Event]:
        self._note(self._reader.close())
        return self.events

    def _note(self, new: list[tap.Event]) -> None:
        if new and not self.events:
            point_latest(self._folder)
        self.events += new
        for event in new:
            if isinstance(event, tap.Plan):
                self._planned = event.count
            elif isinstance(event, tap.TestPoint):
                self._done += 1
                self._observer.result(results.result_of(event, self._done), self._done, self._planned)


def reread(folder: Path, suite: Suite) -> Outcome:
    """Read a run's raw output again and write all its reports anew."""
    run = load(folder)
    raw = folder / "raw" / f"{suite.name}.tap"
    reason = run.run.reason
    if not raw.exists():
        return Outcome(run, folder)
    reader = tap.Reader()
    events: list[tap.Event] = []
    with raw.open("rb") as file:
        while piece := file.read(1 << 20):
            events += reader.feed(piece)
    return _finish(run, folder, suite.read([*events, *reader.close()]), reason, finished=run.run.finished)


def load(folder: Path) -> Run:
    """The run that is kept in folder. Raises UsageError where there is none."""
    path = folder / "results.json"
    try:
        return results.from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{folder} holds no run: {error.strerror}", hint="./lab test makes one") from error


def _finish(
    run: Run, folder: Path, reading: Reading, reason: str | None, *, finished: datetime | None = None
) -> Outcome:
    facts = reading.facts
    reasons = [why for why in (reason, reading.reason) if why]
    whole = dataclasses.replace(
        run,
        run=dataclasses.replace(
            run.run,
            finished=finished or datetime.now(UTC),
            reason="; ".join(reasons) or None,
        ),
        machine={**run.machine, **{key: facts[key] for key in ("kernel", "cgroup") if key in facts}},
        runtime=results.Runtime(
            run.runtime.name,
            facts.get("runtime-path", run.runtime.path),
            facts.get("runtime-version", run.runtime.version).removeprefix(f"{run.runtime.name} version "),
        ),
        suite=dataclasses.replace(run.suite, spec=facts.get("spec", run.suite.spec)),
        results=reading.results,
    )
    files.write_all(whole, folder)
    return Outcome(whole, folder)


class _Capped:
    """A file that takes no more than a limit, for what a machine that is not trusted sends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._left = _RAW_LIMIT

    def write(self, data: bytes) -> None:
        piece = data[: self._left]
        self._left -= len(piece)
        self._file.write(piece)

    def __enter__(self) -> _Capped:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextlib.contextmanager
def _console(source: Path | None, target: Path) -> Iterator[None]:
    """Copy to target what the machine's console says during the block."""
    start = source.stat().st_size if source and source.exists() else 0
    try:
        yield
    finally:
        data = b""
        if source and source.exists():
            with source.open("rb") as file:
                file.seek(start if source.stat().st_size >= start else 0)
                data = file.read(_RAW_LIMIT)
        target.write_bytes(data)

"""One run: a suite against a runtime on a machine, into a folder of its own.

    reports/ID/raw/                       what the suite printed, byte for byte, written as it comes
    reports/ID/results.json ...           written twice: first saying that the run did not finish

So a run that ends early, in whatever way, leaves what it had and says that it is not complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import labkit
from labkit import policy, results, suites
from labkit.errors import ConnectionFailed, LabError, UsageError
from labkit.files import disk_errors, make_folder
from labkit.machines import launch
from labkit.observer import Observer
from labkit.policy import Entry
from labkit.reports import files
from labkit.results import Object, Reading, Run, RunInfo
from labkit.runtimes import Runtime
from labkit.suites import Suite, Wish
from labkit.tap import JSON
from labkit.text import printable

if TYPE_CHECKING:
    from labkit.machines import MachineInfo
    from labkit.ssh import Remote

_UNFINISHED = "the run did not finish"
_INTERRUPTED = "the run was interrupted"
PLACE = "/var/lib/labkit"  # in the machine, for the suite's program
_CONSOLE_LIMIT = 64 << 20  # bytes
_RAW_LIMIT = 64 << 20  # bytes of one file of a recording
_RAW_KINDS = {".tap", ".err", ".tsv", ".json"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `test` and `judge` come to; exit_status as the contract has it."""

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
    wish: Wish,
    entries: Sequence[Entry] | None,
    timeout: float,
    facts: Object | None = None,
) -> Outcome:
    """Run the suite and write every report; timeout is what it may take in the machine, in seconds.

    facts are what else is known of the machine.

    entries are the policy, None for the bare truth. A suite that breaks off, for whatever reason, makes an incomplete
    run, not an error. Raises UsageError where the suite says that it was called wrongly, which a runtime that is not
    there is, and passes KeyboardInterrupt on after the reports are written.
    """
    told: dict[str, JSON] = {
        "platform": machine.platform,
        "release": machine.release,
        "provider": machine.provider,
        "name": machine.name,
        "accelerator": machine.accelerator,
        **(facts or {}),
    }
    run = _new(folder.name, suite, told, results.Runtime(runtime.name, runtime.command, ""), _UNFINISHED)
    files.write(folder / "results.json", results.to_json(run))
    program = f"{PLACE}/{suite.file_name()}"
    reason: str | None = None
    interrupted: KeyboardInterrupt | None = None
    with (
        disk_errors(folder),
        _console(console, folder / "console.log"),
        suite.listen(folder / "raw", observer.result, wish.only) as listener,
    ):

        def take(data: bytes) -> None:
            silent = not listener.heard
            listener.take(data)
            if silent and listener.heard:
                point_latest(folder)

        try:
            remote.upload(suite.program(), program, mode=0o755)
            argv = suite.argv(program, runtime.command, wish)
            answer = remote.run(argv, timeout=timeout, on_stdout=take, on_stderr=listener.take_stderr, keep=4096)
            if answer.status == 2 and not listener.heard:
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
    info = dataclasses.replace(run.run, finished=datetime.now(UTC), cut=reason)
    outcome = _conclude(_told(dataclasses.replace(run, run=info), suite.read(folder / "raw")), folder, entries)
    if interrupted:
        raise interrupted
    return outcome


def failed_before(reports: Path, suite: str, runtime: str) -> tuple[str, ...]:
    """What failed in the newest run of that suite and runtime: checks, or programs where the suite has those.

    UsageError where there is no such run, or nothing failed in it.
    """
    for folder in sorted(reports.glob("*Z-*"), reverse=True):
        try:
            run = load(folder)
        except LabError:  # somebody else's folder, or a run that was killed at once
            continue
        if (run.suite.name, run.runtime.name) != (suite, runtime):
            continue
        names = [program.name for program in run.programs if program.verdict.bad]
        names += [result.program or result.id for result in run.results if result.verdict.bad]
        if not names:
            raise UsageError(f"nothing failed in {folder}, the newest run of {suite} on {runtime}")
        return tuple(dict.fromkeys(names))
    raise UsageError(f"there is no run of {suite} on {runtime} in {reports} yet", hint="./lab test without --failed")


def rejudge(folder: Path, entries: Sequence[Entry] | None) -> Outcome:
    """Read the raw output of the run in folder again, judge it under this policy, and write all its reports anew."""
    run = load(folder)
    suite = suites.find(run.suite.name)
    if suite.holds(folder / "raw"):
        known = {"ref": run.suite.version} if run.suite.version else {}
        run = _told(run, suite.read(folder / "raw", known))
    return _conclude(run, folder, entries)


def adopt(reports: Path, source: Path, entries: Sequence[Entry] | None, known: Mapping[str, str]) -> Outcome:
    """Make a run, in a new folder below reports, of raw output that somebody else put into the folder source."""
    run = recorded(source, known)
    folder = new_folder(reports, [re.sub(r"[^A-Za-z0-9._-]+", "-", source.resolve().name).strip("-.")[:60] or "judged"])
    with disk_errors(folder):
        for path in source.iterdir():
            if path.suffix in _RAW_KINDS and path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    (folder / "raw" / path.name).write_bytes(file.read(_RAW_LIMIT))
        point_latest(folder)
    return _conclude(dataclasses.replace(run, run=dataclasses.replace(run.run, id=folder.name)), folder, entries)


def recorded(source: Path, known: Mapping[str, str]) -> Run:
    """What raw output that somebody else put into the folder source shows; UsageError where there is none.

    known are facts that the folder does not tell, "runtime" and "platform" among them.
    """
    suite = suites.of_folder(source)
    if suite is None:
        raise UsageError(
            f"{source} holds neither a run nor raw output",
            hint="a folder with NAME.tap for each program, NAME.err and summary.tsv; or one that ./lab test made",
        )
    known = {**_named(source.resolve().name), **known}
    reading = suite.read(source, known)
    runtime = results.Runtime(known.get("runtime", "unknown"), "", "")
    return _told(_new(source.name, suite, {"platform": known.get("platform", "")}, runtime, None), reading)


def _named(name: str) -> dict[str, str]:
    """What the name of a folder tells that is called REF-RUNTIME-VERSION-cgroup-V: v0.9.0-crun-1.8.1-cgroup-v2."""
    match = re.fullmatch(r"(?P<ref>[\w.]+)-(?P<runtime>\w+)-(?P<version>[\w.+~]+)-cgroup-(?P<cgroup>v[12])", name)
    return {key.replace("version", "runtime-version"): word for key, word in match.groupdict().items()} if match else {}


def load(folder: Path) -> Run:
    """The run that is kept in folder. Raises UsageError where there is none."""
    path = folder / "results.json"
    try:
        return results.from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{folder} holds no run: {error.strerror}", hint="./lab test makes one") from error


def _new(ident: str, suite: Suite, machine: Mapping[str, JSON], runtime: results.Runtime, cut: str | None) -> Run:
    """A run of which nothing is known yet."""
    now = datetime.now(UTC)
    return Run(
        RunInfo(ident, now, now, labkit.__version__, cut, cut),
        {**machine, "kernel": "", "cgroup": ""},
        runtime,
        results.Suite(suite.name, suite.version),
        (),
    )


def _told(run: Run, reading: Reading) -> Run:
    """The run with what its raw output tells."""
    facts = reading.facts
    reasons = [why for why in (run.run.cut, reading.reason) if why]
    return dataclasses.replace(
        run,
        run=dataclasses.replace(run.run, reason="; ".join(reasons) or None),
        machine={**run.machine, **{key: facts[key] for key in ("kernel", "cgroup") if key in facts}},
        runtime=results.Runtime(
            run.runtime.name,
            facts.get("runtime-path", run.runtime.path),
            facts.get("runtime-version", run.runtime.version).removeprefix(f"{run.runtime.name} version "),
        ),
        suite=results.Suite(run.suite.name, facts.get("ref", run.suite.version), facts.get("spec", run.suite.spec)),
        results=reading.results,
        programs=reading.programs,
    )


def _conclude(run: Run, folder: Path, entries: Sequence[Entry] | None) -> Outcome:
    judged = policy.apply(run, entries, datetime.now(UTC).date())
    files.write_all(judged, folder)
    return Outcome(judged, folder)


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
                data = file.read(_CONSOLE_LIMIT)
        target.write_bytes(data)

"""The use case `explain`: why something failed, from what is kept of a run; and how to do that again."""

from __future__ import annotations

import dataclasses
import io
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from labkit.core import resources
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.endpoint import shell_argv
from labkit.core.errors import HostError, LabError, UsageError
from labkit.core.observer import Observer
from labkit.core.suggest import did_you_mean
from labkit.core.text import count, printable
from labkit.io import process
from labkit.io.files import disk_errors, make_directory, regular_inside, write_atomic
from labkit.machines import providers, record
from labkit.reports import reproduction
from labkit.reports.as_explanation import Explanation
from labkit.results import sentences
from labkit.results.model import Result, Run, Verdict
from labkit.results.transcript import Transcript, unpack
from labkit.store import runs
from labkit.suites import registry, shards
from labkit.usecases import judge
from labkit.usecases import run as one_run

PAGE = "docs/reference/requirements.md"
IN_MACHINE = "/var/lib/labkit/reproduce"
_PRINTED = 256 << 10  # bytes of a program's output that are shown
_UPLOAD = 60.0  # seconds


def explain(settings: Settings, name: str, ident: str) -> Explanation:
    """What is known of a check, or a program, of a run. UsageError where the run has none of that name.

    name: a run's id or the beginning of one, its directory, or latest; also a directory of saved output.
    """
    if Path(name).is_file():
        raise UsageError(f"{name} is a file, and no run", hint=f"./lab judge {shlex.quote(name)} makes a run of it")
    place = runs.whole(runs.find(settings.reports, name))
    if runs.is_run(place):
        found = _of_run(runs.load(place), place / runs.RAW, ident)
    else:
        entries = judge.policies(settings)
        read = [one_run.judge(run, entries) for run in judge.recorded(place, judge.Said(name=place.name))]
        known = [run for run in read if _of(run, ident)] or read
        found = _of_run(known[0], place, ident)
    return dataclasses.replace(found, sentences=_sentences(found.first))


def _of(run: Run, ident: str) -> list[Result]:
    """The results of this id, or of this program, whatever their case."""
    word = ident.casefold()
    found = [result for result in run.results if word in (result.program.casefold(), result.id.casefold())]
    if found and found[0].program:
        return [result for result in found if result.bad or result.whole] or found[:1]
    return found[:1]


def _of_run(run: Run, raw: Path, ident: str) -> Explanation:
    found = _of(run, ident)
    suite = registry.find(run.suite.name)
    if not found:
        _refuse(run, suite.names(), ident)
    if found[0].program:
        lacking = _PROGRAMS.format(run.suite.name, found[0].program)
        return Explanation(run, tuple(found), lacking=lacking, printed=_printed(raw, found[0].program))
    result, why = found[0], ""
    if not result.transcript and (result.bad or result.verdict is Verdict.FLAKY) and raw.is_dir():
        try:
            read = shards.read(suite, raw)
        except LabError as error:
            why = error.message
        else:
            again = [one.transcript for one in read.results if one.id == result.id]
            result = dataclasses.replace(result, transcript=next(iter(again), ""))
    transcript = unpack(result.transcript) if result.transcript else None
    if result.transcript and not transcript:
        why = "what the suite recorded of it is damaged"
    return Explanation(run, (result,), (), transcript, "" if transcript else _lacking(run, result, why))


_PROGRAMS = (
    "A program of this suite makes its bundles itself, in the machine, and removes them: what it gave the runtime is "
    "not recorded, only what it printed. ./lab test --suite {} --only {} runs it again; ./lab ssh is the way to its "
    "machine."
)


def _lacking(run: Run, result: Result, why: str) -> str:
    """Why there is no transcript, and how to get one."""
    if not (result.bad or result.verdict is Verdict.FLAKY):
        what = {Verdict.PASS: "It passed", Verdict.SKIP: "It was skipped"}
        said = what.get(result.verdict, f"Its verdict is {result.verdict}")
        return f"{said}; the suite records what a check does only where that is bad."
    if run.engine and "commands" in result.diagnostic:
        return "What was run for it, and what came back, is in its commands."
    flags = f"--only {result.id} --runtime {shlex.quote(run.runtime.path or run.runtime.name)}{_suite_flags(run)}"
    reason = why or "the run has no transcript of it, as older runs and output of the suite without --transcripts"
    return f"What the check did is not known: {reason}. To get it: ./lab test {flags}"


def _suite_flags(run: Run) -> str:
    """The flags that name its suite, where that is not the usual one."""
    engine = f" --engine {shlex.quote(run.engine.name)}" if run.engine else ""
    return f" --suite {run.suite.name}{engine}" if run.suite.name != "spec" else ""


def _refuse(run: Run, all_names: Sequence[str], ident: str) -> NoReturn:
    known = list(dict.fromkeys(name for result in run.results for name in (result.program, result.id) if name))
    if ident.upper() in all_names or ident in all_names:
        message = f"{ident} did not run in {run.run.id}, which has {count(len(run.results), 'result')}"
        raise UsageError(message, hint=f"./lab test --only {ident}{_suite_flags(run)} runs it")
    near = did_you_mean(ident, known) or did_you_mean(ident, all_names)
    raise UsageError(
        f"{run.run.id} has neither a check nor a program {ident}{near}", hint="its report.html lists what it has"
    )


def _sentences(result: Result) -> tuple[sentences.Sentence, ...]:
    page = resources.root() / PAGE
    if result.program or not page.is_file():
        return ()
    return tuple(sentences.held_by(result.id, page.read_text("utf-8")))


def _printed(raw: Path, program: str) -> tuple[tuple[str, str], ...]:
    """What a program printed, by file, wherever it ran: on one of several machines, or again."""
    places = [raw, *(path for path in shards.places(raw) if path != raw)] if raw.is_dir() else []
    found = []
    for place in places:
        for ending in ("tap", "err"):
            if path := regular_inside(place, f"{program}.{ending}"):
                with path.open("rb") as file:
                    text = file.read(_PRINTED).decode("utf-8", "backslashreplace")
                if text.strip():
                    found.append((str(path.relative_to(raw.resolve())), text))
    return tuple(found)


# --- again


def write(explained: Explanation, directory: Path) -> Path:
    """Write the folder that does again what the check did; its script. UsageError where it cannot be made."""
    files = _files(explained)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is there already, and not empty", hint="name a directory that is to be made")
    with disk_errors(directory.parent):
        for path, data in files.items():
            target = directory / path
            make_directory(target.parent)
            write_atomic(target, data, mode=0o755 if path == reproduction.SCRIPT else 0o644)
    return directory / reproduction.SCRIPT


def enter(settings: Settings, explained: Explanation, observer: Observer) -> NoReturn:
    """Put the folder into the machine of the run, and give the terminal to a shell there."""
    files = _files(explained)
    name = explained.run.machine.get("name")
    folder = "--reproduce DIR writes a folder for any host"
    if not isinstance(name, str) or not name:
        raise UsageError(f"{explained.run.run.id} does not say on which machine it ran", hint=folder)
    if name not in record.names(settings.home):
        raise UsageError(
            f"the machine {name} of {explained.run.run.id} is not there any more",
            hint=f"./lab up --machine {shlex.quote(name)} --platform {explained.run.machine.get('platform')} "
            f"--release {explained.run.machine.get('release')} makes one; {folder}",
        )
    machine = providers.existing(name, settings, observer)
    place = f"{IN_MACHINE}/{explained.first.id}"
    quoted = shlex.quote(place)
    unpack_there = f"rm -rf {quoted} && mkdir -p {quoted} && tar -xf - -C {quoted}"
    with machine.connect(Deadline.after(settings.limits.connect, "connect")) as remote:
        answer = remote.run(["sh", "-c", unpack_there], stdin=_packed(files), timeout=_UPLOAD)
    if answer.status:
        raise HostError(f"{name}: {place} cannot be written: {printable(answer.stderr.strip()[-300:])}")
    observer.step(f"{name}:{place} has {reproduction.SCRIPT} and its files; sh {reproduction.SCRIPT} does it again")
    argv = shell_argv(machine.endpoint(), [f'cd {quoted} && exec "${{SHELL:-/bin/sh}}" -i'])
    process.replace_with([argv[0], "-t", *argv[1:]])


def _files(explained: Explanation) -> Mapping[str, bytes]:
    return reproduction.files(explained.run, explained.first, _transcript(explained))


def _transcript(explained: Explanation) -> Transcript:
    if explained.transcript is None:
        raise UsageError(
            f"{explained.first.program or explained.first.id} of {explained.run.run.id} cannot be done again: "
            + explained.lacking
        )
    return explained.transcript


def _packed(files: Mapping[str, bytes]) -> bytes:
    """As a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755 if path == reproduction.SCRIPT else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()

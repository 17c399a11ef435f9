"""The use cases that need no machine: judging saved output again, comparing runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from pydantic import Field, StrictStr

from labkit.core import tomlfile
from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.text import count, some
from labkit.core.tomlfile import Table
from labkit.guest.common import versions
from labkit.io import archives
from labkit.io.files import disk_errors, make_directory, regular_inside, write_atomic
from labkit.reports import files
from labkit.results import attribution, comparison, distribution, policy
from labkit.results.comparison import Comparison, SideBySide
from labkit.results.json import to_json
from labkit.results.model import Run, RuntimeInfo
from labkit.results.policy import Entry
from labkit.store import runs
from labkit.subjects import runtimes
from labkit.suites import engine, image, over_engine, recordings, registry, shards, summary
from labkit.suites.base import Suite
from labkit.suites.subset import ALL, Subset
from labkit.usecases import run as one_run
from labkit.usecases.run import Outcome

_FILE_LIMIT = (64 << 20) + 1  # bytes of one file of a recording; the last shows that there is more
_OF_REGISTRIES = (distribution.JUNIT, distribution.YAML, distribution.REPORT)
_KINDS = {".tap", ".err", ".tsv", ".json", over_engine.ENDING, *(Path(name).suffix for name in _OF_REGISTRIES)}
_TAKES = (
    "judge takes a run, a directory with NAME.tap for each program, NAME.err and summary.tsv, or with the spec suite's "
    "output as spec.tap; an archive of one (" + ", ".join(archives.ENDINGS) + "); a single .tap file; or a record of "
    "calls, of which each line is a JSON object with argv; or the junit.xml or results.yaml of distribution-spec's "
    "conformance program"
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a person said of a recording: facts by their names, and what of it was meant; name is that of its directory.
    Kept in said.json.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    meant: Subset = ALL
    name: str = ""

    @property
    def flags(self) -> list[str]:
        words = [key for key, word in {**self.facts, **dataclasses.asdict(self.meant)}.items() if word]
        return [f"--{word}" for word in words]


class _SaidFile(Table):
    name: StrictStr = ""
    facts: dict[str, StrictStr] = Field(default={})
    only: tuple[StrictStr, ...] = ()
    skip: tuple[StrictStr, ...] = ()
    programs: tuple[StrictStr, ...] = ()


def judge(
    settings: Settings, name: str | None = None, *, with_policy: bool = True, said: Said | None = None
) -> Outcome:
    """judge_all of what is of one suite; UsageError, after the reports are written, where it is of several."""
    first, *more = judge_all(settings, name, with_policy=with_policy, said=said)
    if more:
        raise UsageError(f"{name} has output of several suites", hint="./lab judge makes a run of each")
    return first


def judge_all(
    settings: Settings,
    name: str | None = None,
    *,
    with_policy: bool = True,
    said: Said | None = None,
) -> list[Outcome]:
    """Read raw output again under today's policy and write its reports, without a machine: an outcome for each suite
    whose output it is.

    name is a run's id or path (the latest by default) or its raw/, beside whose reports the new ones go where they
    differ; or a recording, of which a new run is made. said goes before what the recording says itself.
    """
    entries, said = policies(settings) if with_policy else None, said or Said()
    with _recording(settings, name, said) as (place, said):
        if not runs.is_run(place):
            found = recorded(place, said)
            return [_judge_recording(settings.reports, place, run, entries, said) for run in found]
        if said.flags:
            raise UsageError(
                f"{place} is a run, which knows what it was about", hint=f"leave out {', '.join(said.flags)}"
            )
        return [_judge_run(place, entries)]


def diff(settings: Settings, before: str, after: str) -> Comparison:
    """Compare two runs, or recordings, each named as in judge. UsageError where they have no one suite in common."""
    first, second = _of_one_suite(settings, [before, after])
    return comparison.compare(first, second)


def beside(settings: Settings, names: Sequence[str]) -> SideBySide:
    """The same of any number of them: each is compared with the first."""
    return comparison.side_by_side(_of_one_suite(settings, names))


def _of_one_suite(settings: Settings, names: Sequence[str]) -> list[Run]:
    found = [_runs(settings, name) for name in names]
    if all(len(runs) == 1 for runs in found):
        return [runs[0] for runs in found]
    held = [{run.suite.name: run for run in runs} for runs in found]
    common = [suite for suite in held[0] if all(suite in others for others in held)]
    if len(common) != 1:
        told = " and ".join(f"{name} has output of {', '.join(of)}" for name, of in zip(names, held, strict=True))
        raise UsageError(f"{told}: diff compares one suite", hint="./lab judge makes a run of each; compare those")
    return [of[common[0]] for of in held]


def policies(settings: Settings) -> list[Entry]:
    """The policy entries for runs of this labkit, the user's own first."""
    return policy.load(settings.policy, suites=registry.names(), programs=registry.find("validation").names())


def read(settings: Settings, name: str) -> list[Run]:
    """The runs that name stands for, one for each suite, as they were kept or as the output says, without a policy."""
    with _recording(settings, name, Said()) as (place, said):
        return [runs.load(place)] if runs.is_run(place) else recorded(place, said)


def _runs(settings: Settings, name: str) -> list[Run]:
    with _recording(settings, name, Said()) as (place, said):
        if runs.is_run(place):
            return [runs.load(place)]
        return [one_run.judge(run, policies(settings)) for run in recorded(place, said)]


def read_again(directory: Path, run: Run, entries: Sequence[Entry] | None) -> Run:
    """The run in directory as its raw output shows it, without a policy; as it is where it has none."""
    suite = registry.find(run.suite.name)
    if shards.recognizes(suite, directory / runs.RAW):
        said = said_before(directory)
        if said is None:
            known = {"ref": run.suite.version} if run.suite.version else {}
            run = one_run.with_reading(run, shards.read(suite, directory / runs.RAW, known))
        else:
            begun = run
            run = _read(begun, directory / runs.RAW, suite, said)
            run = _asking(_leaving_out(begun, run, directory / runs.RAW, entries, said), entries)
    return run


def _judge_run(directory: Path, entries: Sequence[Entry] | None) -> Outcome:
    directory = runs.whole(directory)
    kept = runs.load(directory)
    run = read_again(directory, kept, entries)
    return _beside(attribution.carried(one_run.judge(run, entries), kept), kept, directory)


def _beside(run: Run, kept: Run, directory: Path) -> Outcome:
    """Write the reports of a run that was judged again: beside the older ones, which stay, unless nothing differs."""
    newest = runs.newest(directory)
    if not any((newest / name).exists() for name in files.REPORTS if name != runs.RESULTS):
        return one_run.write(run, newest)  # a run that was cut off has none
    if kept.judged and run.judged and dataclasses.replace(run.judged, at=kept.judged.at) == kept.judged:
        same = dataclasses.replace(run, judged=kept.judged)
        if to_json(same) == to_json(kept):
            return one_run.write(same, newest)
    return Outcome(run, runs.judge_again(directory, lambda place: files.write_all(run, place)))


def _judge_recording(reports: Path, source: Path, run: Run, entries: Sequence[Entry] | None, said: Said) -> Outcome:
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", said.name).strip("-.")[:60]
    directory = runs.new_directory(reports, [word or "judged"])
    with disk_errors(directory):
        for place in dict.fromkeys([source, *shards.places(source)]):
            target = make_directory(directory / runs.RAW / place.relative_to(source))
            for path in sorted(place.iterdir()):
                if path.suffix in _KINDS and (real := regular_inside(place, path.name)):
                    with real.open("rb") as file:
                        (target / path.name).write_bytes(file.read(_FILE_LIMIT))
        kept = _SaidFile(name=said.name, facts=dict(said.facts), **dataclasses.asdict(said.meant))
        write_atomic(directory / _SAID, kept.model_dump_json(indent=1) + "\n")
        unlinked = runs.point_latest(directory, recorded=True)
    begun = one_run.new_run(source.name, registry.find(run.suite.name), {}, RuntimeInfo(one_run.UNKNOWN, "", ""), None)
    run = _leaving_out(begun, run, source, entries, said)
    run = dataclasses.replace(run, run=dataclasses.replace(run.run, id=directory.name))
    outcome = one_run.write(one_run.judge(_asking(run, entries), entries), directory)
    return dataclasses.replace(outcome, warnings=(unlinked,) if unlinked else ())


def _leaving_out(begun: Run, run: Run, source: Path, entries: Sequence[Entry] | None, said: Said) -> Run:
    """The run of a recording, read again without what is not there and the policy leaves out, if there is any."""
    if not entries or run.run.complete:
        return run
    suite = registry.find(run.suite.name)
    there = {result.program or result.id for result in run.results}
    out = policy.left_out(run, [name for name in suite.names() if name not in there], entries, datetime.now(UTC).date())
    if not out or not there:
        return run
    meant = dataclasses.replace(said.meant, skip=(*said.meant.skip, *out))
    again = _read(begun, source, suite, dataclasses.replace(said, meant=meant))
    line = f"not there, and left out by the policy: {count(len(out), 'name')}, {some(out)}"
    return dataclasses.replace(again, told=(*again.told, line))


_SAID = "said.json"


def said_before(directory: Path) -> Said | None:
    """What was said of the recording of which the run in directory was made; None where it was made of none."""
    path = regular_inside(directory, _SAID)
    if path is None:
        return None
    try:
        value = json.loads(path.read_bytes()[: 1 << 20])
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    kept = tomlfile.check(_SaidFile, value, lambda _: str(path))
    return Said(kept.facts, Subset(kept.only, kept.skip, kept.programs), kept.name)


def recorded(source: Path, said: Said) -> list[Run]:
    """The runs that a recording in the directory source shows, one for each suite; UsageError where there is none."""
    suites = registry.of_directory(source)
    if not suites:
        below = [path.name for path in sorted(source.iterdir()) if path.is_dir() and registry.of_directory(path)]
        hint = f"{', '.join(below[:5])} in it do: judge each" if below else _TAKES
        raise UsageError(f"{source} holds neither a run nor raw output", hint=hint)
    if engine.PROFILE in said.facts and engine.SUITE not in suites:
        raise UsageError(f"{source} has no record of calls, which alone --profile is about")
    unknown = RuntimeInfo(one_run.UNKNOWN, "", "")
    return [_read(one_run.new_run(source.name, suite, {}, unknown, None), source, suite, said) for suite in suites]


def _read(run: Run, source: Path, suite: Suite, said: Said) -> Run:
    """The run with the results and facts of a recording. What was said of it goes before what it says itself, and that
    before what its directory's name tells.
    """
    named = {} if suite.knows_facts(source) else _named(said.name)
    named = {key: word for key, word in named.items() if key not in said.facts}
    runtime, arguments = runtimes.split(said.facts.get("runtime", ""))
    by_path = runtime if "/" in runtime else ""
    name = PurePosixPath(runtime).name or named.get("runtime", "") or one_run.UNKNOWN
    facts = {**named, **said.facts, **({"runtime": runtime} if runtime else {})}
    reading = shards.read(suite, source, facts, said.meant)
    begun = dataclasses.replace(
        run,
        machine={**run.machine, "platform": said.facts.get("platform", "")},
        runtime=RuntimeInfo(name, by_path, "", shlex.join(arguments)),
    )
    read = one_run.with_reading(begun, reading)
    told = list(read.told)
    if runtime and not by_path:  # it is called so, whatever it says of itself
        itself = versions.told(reading.facts.get("runtime-version", ""))[0]
        if itself not in ("", runtime) and "runtime-version" not in said.facts:
            told.append(f"the runtime is taken for {runtime}, as was said; the output itself says {itself}")
        read = dataclasses.replace(read, runtime=dataclasses.replace(read.runtime, name=runtime))
    if named:
        told.insert(0, f"taken from the directory's name: {', '.join(f'{key} {word}' for key, word in named.items())}")
    return dataclasses.replace(read, told=tuple(told))


def _asking(run: Run, entries: Sequence[Entry] | None) -> Run:
    """The run, with a line that asks for the facts that policy entries wait for."""
    lacking = policy.lacking(run, entries or ())
    asked = {key: ask for key, ask in _ASKED.items() if key in lacking.facts}
    if run.runtime.name == one_run.UNKNOWN:
        asked = {"runtime": _ASKED["runtime"], **asked}
    if not asked:
        return run
    what = " and ".join(filter(None, (", ".join(list(asked)[:-1]), list(asked)[-1])))
    many = "1 policy entry" if lacking.entries == 1 else f"{lacking.entries} policy entries"
    lost = f": {many} could not apply" if lacking.entries else ""
    line = f"unknown {what}{lost}; name {'it' if len(asked) == 1 else 'them'} with {', '.join(asked.values())}"
    return dataclasses.replace(run, told=(*run.told, line))


_ASKED = {
    "runtime": "--runtime",
    "runtime version": "--runtime-version",
    "cgroup version": "--cgroup",
    "ref": "--ref",
    "platform": "--platform",
}


@contextlib.contextmanager
def _recording(settings: Settings, name: str | None, said: Said) -> Iterator[tuple[Path, Said]]:
    """The directory that name stands for, and what is said of it: a file is put into one of its own."""
    given = Path(name) if name else None
    if given is None or not given.is_file():
        place = runs.find(settings.reports, name)
        yield place, dataclasses.replace(said, name=place.name)
        return
    with tempfile.TemporaryDirectory(prefix="labkit-judge-") as made:
        target = make_directory(Path(made) / "files")
        with disk_errors(target):
            if archives.is_archive(given):
                archives.unpack(given, target, lambda file: Path(file).suffix in _KINDS)
                place, label = _in_archive(given, target)
                label = label or re.sub(r"(\.tar)?\.[^.]+$", "", given.name)
                if said == Said() and place.name == runs.RAW:
                    said = said_before(place.parent) or said
            elif given.suffix == ".tap":
                place, label, said = target, given.stem, _single(given, target, said)
            elif kinds := [one for one in (engine, image) if one.is_record(given)]:
                with given.open("rb") as file:
                    (target / kinds[0].FILE).write_bytes(file.read(_FILE_LIMIT))
                place, label = target, given.stem
            elif given.name in _OF_REGISTRIES:
                place, label = target, given.absolute().parent.name
                for name in _OF_REGISTRIES:  # what lies beside it is of the same run
                    if real := given if name == given.name else regular_inside(given.parent, name):
                        with real.open("rb") as file:
                            (target / name).write_bytes(file.read(_FILE_LIMIT))
            elif given.suffix == over_engine.ENDING:
                raise UsageError(
                    f"{given} has no call of a runtime in it, and is no output of the image suite", hint=_TAKES
                )
            else:
                raise UsageError(
                    f"{given} is neither a .tap file, an archive nor a record of calls or images", hint=_TAKES
                )
        yield place, dataclasses.replace(said, name=said.name or label)


def _single(given: Path, target: Path, said: Said) -> Said:
    """Put a program's output, and what lies beside it that tells of it, into target; what is said of it then."""
    beside = [f"{given.stem}.err", summary.FILE, recordings.RUN]
    for name in [given.name, *beside]:
        real = given.resolve() if name == given.name else regular_inside(given.parent, name)
        if real:
            with real.open("rb") as file:
                (target / name).write_bytes(file.read(_FILE_LIMIT))
    if recordings.is_spec_output(target, given.name) or said.meant.is_subset:
        return said
    if given.name == "spec.tap":
        return said
    return dataclasses.replace(said, meant=dataclasses.replace(said.meant, only=(given.stem,)))


def _in_archive(archive: Path, target: Path) -> tuple[Path, str]:
    """The one recording among what was unpacked, and its name, empty where that is the archive's; of a run its raw/."""
    places = [target, *(path for path in sorted(target.rglob("*")) if path.is_dir())]
    whole = [path for path in places if runs.is_run(path)]
    outside = [path for path in places if not any(path.is_relative_to(run) for run in whole)]
    found = [path / runs.RAW for path in whole]
    found += [path for path in outside if registry.of_directory(path) and not _is_part(path, target)]
    if len(found) != 1:
        what = f"{len(found)} recordings" if found else "neither a run nor raw output"
        listed = f": {some(str(path.relative_to(target)) for path in found)}" if found else ""
        hint = "unpack it, and judge one of them" if found else _TAKES
        raise UsageError(f"{archive} holds {what}{listed}", hint=hint)
    if not found[0].is_dir():
        raise UsageError(f"{archive} holds a run without its {runs.RAW}/", hint="unpack it, and judge the directory")
    named = found[0].parent if whole else found[0]
    return found[0], "" if named == target else named.name


def _is_part(path: Path, top: Path) -> bool:
    """Whether a directory holds a part of what a directory above it holds: what was run again, a machine's share."""
    above = path.parent
    return path != top and above.is_relative_to(top) and bool(registry.of_directory(above))


def _named(name: str) -> dict[str, str]:
    """The facts in the name of a directory called REF-RUNTIME-VERSION-cgroup-V: v0.9.0-crun-1.8.1-cgroup-v2."""
    match = re.fullmatch(
        r"(?P<ref>[\w.]+)-(?P<runtime>\w+)-(?P<version>[\w.+~]+)-cgroup-(?P<cgroup>v[12]|hybrid)", name
    )
    return {key.replace("version", "runtime-version"): word for key, word in match.groupdict().items()} if match else {}

"""The use cases that need no machine: judging saved output again, comparing runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.io.files import disk_errors, make_directory
from labkit.reports import files
from labkit.results import comparison, policy
from labkit.results.comparison import Comparison
from labkit.results.json import to_json
from labkit.results.model import Run, RuntimeInfo
from labkit.results.policy import Entry
from labkit.store import runs
from labkit.suites import registry, shards
from labkit.usecases import run as one_run
from labkit.usecases.run import Outcome

_FILE_LIMIT = 64 << 20  # bytes of one file of a recording
_KINDS = {".tap", ".err", ".tsv", ".json"}


def judge(
    settings: Settings,
    name: str | None = None,
    *,
    with_policy: bool = True,
    known: Mapping[str, str | None] | None = None,
) -> Outcome:
    """Read raw output again under today's policy and write its reports, without a machine.

    name is a run's id or path (the latest by default) or its raw/, beside whose reports the new ones go where they
    differ; or a recording, of which a new run is made. known are facts that the recording may lack; UsageError where it
    says something else.
    """
    place, entries = runs.find(settings.reports, name), policies(settings) if with_policy else None
    said = {key: word for key, word in (known or {}).items() if word}
    if not runs.is_run(place):
        return _judge_recording(settings.reports, place, entries, said)
    if said:
        raise UsageError(
            f"{place} is a run, which knows what it was about",
            hint=f"leave out {', '.join(f'--{key}' for key in said)}",
        )
    return _judge_run(place, entries)


def diff(settings: Settings, before: str, after: str) -> Comparison:
    """Compare two runs, or recordings, each named as in judge."""
    return comparison.compare(_run(settings, before), _run(settings, after))


def policies(settings: Settings) -> list[Entry]:
    """The policy entries for runs of this labkit, the user's own first."""
    return policy.load(settings.policy, suites=registry.names())


def _run(settings: Settings, name: str) -> Run:
    place = runs.find(settings.reports, name)
    return runs.load(place) if runs.is_run(place) else one_run.judge(recorded(place, {}), policies(settings))


def _judge_run(directory: Path, entries: Sequence[Entry] | None) -> Outcome:
    directory = runs.whole(directory)
    kept = run = runs.load(directory)
    suite = registry.find(run.suite.name)
    if shards.recognizes(suite, directory / runs.RAW):
        known = {"ref": run.suite.version} if run.suite.version else {}
        run = one_run.with_reading(run, shards.read(suite, directory / runs.RAW, known))
    return _beside(one_run.judge(run, entries), kept, directory)


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


def _judge_recording(reports: Path, source: Path, entries: Sequence[Entry] | None, known: Mapping[str, str]) -> Outcome:
    run = recorded(source, known)
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", source.resolve().name).strip("-.")[:60]
    directory = runs.new_directory(reports, [word or "judged"])
    with disk_errors(directory):
        for place in dict.fromkeys([source, *shards.places(source)]):
            target = make_directory(directory / runs.RAW / place.relative_to(source))
            for path in place.iterdir():
                if path.suffix in _KINDS and path.is_file() and not path.is_symlink():
                    with path.open("rb") as file:
                        (target / path.name).write_bytes(file.read(_FILE_LIMIT))
        unlinked = runs.point_latest(directory, recorded=True)
    run = dataclasses.replace(run, run=dataclasses.replace(run.run, id=directory.name))
    outcome = one_run.write(one_run.judge(run, entries), directory)
    return dataclasses.replace(outcome, warnings=(unlinked,) if unlinked else ())


def recorded(source: Path, known: Mapping[str, str]) -> Run:
    """The run that a recording in the directory source shows; UsageError where there is none.

    known are facts that the directory lacks, "runtime" and "platform" among them.
    """
    suite = registry.of_directory(source)
    if suite is None:
        raise UsageError(
            f"{source} holds neither a run nor raw output",
            hint="a directory with NAME.tap for each program, NAME.err and summary.tsv; or one that ./lab test made",
        )
    said, known = known, {**_named(source.resolve().name), **known}
    runtime = RuntimeInfo(known.get("runtime", "unknown"), "", "")
    run = one_run.new_run(source.name, suite, {"platform": known.get("platform", "")}, runtime, None)
    reading = shards.read(suite, source, known)
    for key, word in said.items():
        if (found := reading.facts.get(key, word)) != word:
            raise UsageError(f"{source} says {key} {found!r}, --{key} {word!r}", hint=f"leave out --{key}")
    return one_run.with_reading(run, reading)


def _named(name: str) -> dict[str, str]:
    """The facts in the name of a directory called REF-RUNTIME-VERSION-cgroup-V: v0.9.0-crun-1.8.1-cgroup-v2."""
    match = re.fullmatch(r"(?P<ref>[\w.]+)-(?P<runtime>\w+)-(?P<version>[\w.+~]+)-cgroup-(?P<cgroup>v[12])", name)
    return {key.replace("version", "runtime-version"): word for key, word in match.groupdict().items()} if match else {}

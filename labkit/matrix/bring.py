"""Brings the bundle of a cell home: a run of its own below the reports directory, and the cell's log below the night's.

What comes is another host's word: its files are plain files, its results.json is read as any and written anew with all
reports, under an id that this host gives.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from labkit.core.errors import LabError
from labkit.io.files import disk_errors, make_directory, unfinished
from labkit.matrix.job import Ended
from labkit.matrix.outbox import LOG, RUN, DamagedBundle, unpack
from labkit.reports import files
from labkit.results.json import to_json
from labkit.results.model import Run
from labkit.store import nights, runs

_UNFINISHED = "the run did not finish: it was not brought home whole"


def bring(reports: Path, night: str, ended: Ended, key: str, bundle: Path, warn: Callable[[str], None]) -> str:
    """The id of the run in the bundle, which is below reports then; "" where it holds none. warn: what a person should
    know of it.

    Bringing the same one again, after a labkit that was killed meanwhile, makes no second run of it. DamagedBundle.
    """
    make_directory(reports)
    with disk_errors(reports), unfinished(reports / ended.name) as part:
        part.mkdir(mode=0o755)
        unpack(bundle, ended, part)
        if (part / LOG).exists():
            logs = make_directory(make_directory(nights.directory(reports, night)) / "logs")
            (part / LOG).replace(logs / f"{ended.name}.log")
        if not (part / RUN).is_dir():
            return ""
        return _brought(reports, night, ended, key, part / RUN, warn)


def _brought(reports: Path, night: str, ended: Ended, key: str, source: Path, warn: Callable[[str], None]) -> str:
    try:
        run = runs.load(source)
    except LabError as error:
        raise DamagedBundle(f"the bundle of {ended.name} holds no run: {error.message}") from error
    word = re.sub(r"[^A-Za-z0-9._+-]+", "-", key).strip("-.")[:80]
    words = ["night", ended.name, word]
    for begun in reports.glob(f"*-{'-'.join(words)}"):
        shutil.rmtree(begun)

    def home(ident: str) -> Run:
        facts = {**run.machine, "night": night, "cell": key}
        return dataclasses.replace(run, run=dataclasses.replace(run.run, id=ident), machine=facts)

    def begin(ident: str) -> str:
        begun = dataclasses.replace(home(ident), results=(), programs=(), policy=None)
        info = dataclasses.replace(begun.run, reason=_UNFINISHED, interrupted_reason=_UNFINISHED)
        return to_json(dataclasses.replace(begun, run=info))

    directory = runs.new_directory(reports, words, begin)
    (directory / runs.RAW).rmdir()
    for path in source.iterdir():
        if path.name not in files.REPORTS:
            path.replace(directory / path.name)
    make_directory(directory / runs.RAW)
    files.write_all(home(directory.name), directory)
    if amiss := runs.point_latest(directory):
        warn(amiss)
    return directory.name

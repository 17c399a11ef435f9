"""Reports directories with a past, for tests and trials: runs in short, written as labkit writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from labkit.io.files import write_atomic
from labkit.results.json import to_json
from labkit.results.model import Expected, Result, Run, RunInfo, RuntimeInfo, SuiteInfo, Verdict

BEGIN = datetime(2026, 11, 1, 2, tzinfo=UTC)
LETTERS = {
    "F": Verdict.FAIL, "E": Verdict.ERROR, "T": Verdict.TIMEOUT, "Y": Verdict.FLAKY, "O": Verdict.TODO,
    "N": Verdict.NO_ASSERTIONS, "S": Verdict.SKIP, ".": Verdict.PASS,
}  # fmt: skip


def a_run(
    number: int,
    verdicts: Mapping[str, str] | str,
    *,
    seconds: float = 60.0,
    reason: str | None = None,
    runtime: str = "runc",
    path: str = "",
    platform: str = "debian",
    release: str = "13",
    suite: str = "spec",
    version: str = "1.1.15",
    kernel: str = "6.12",
    arguments: str = "",
) -> Run:
    """A run of a letter for each check, C-000 and so on or as named: . passes, F fails, f fails as the policy expects,
    a space is none.
    """
    named = verdicts if isinstance(verdicts, Mapping) else {f"C-{n:03}": one for n, one in enumerate(verdicts)}
    known = Expected("known", "", "policy.toml: 1")
    results = tuple(
        Result(
            ident, f"what {ident} is about", "MUST", "config.md", LETTERS[letter.upper()], 0.1, {},
            expected=known if letter == "f" else None,
        )
        for ident, letter in named.items()
        if letter != " "
    )  # fmt: skip
    started = BEGIN + timedelta(days=number)
    ident = f"{started:%Y%m%dT%H%M%SZ}.{number}-{platform}-{release}-{runtime}-{suite}"
    return Run(
        RunInfo(ident, started, started + timedelta(seconds=seconds), "0.3.0", reason),
        {"platform": platform, "release": release, "provider": "uml", "kernel": kernel, "cgroup": "v2"},
        RuntimeInfo(runtime, path or f"/usr/sbin/{runtime}", version, arguments),
        SuiteInfo(suite, "1.0.0"),
        results,
    )


def keep(reports: Path, run: Run) -> Path:
    """Write the run's results.json below reports; its directory."""
    directory = reports / run.run.id
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "results.json", to_json(run), durable=False)
    return directory


def keep_night(reports: Path, name: str, cells: Mapping[str, Run], **more: object) -> Path:
    """Write the runs of a night, a cell each, and its night.json; that file."""
    first = min(run.run.started for run in cells.values()) if cells else BEGIN
    document = {
        "schema": 1,
        "id": name,
        "started": first.isoformat(),
        "finished": (first + timedelta(hours=1)).isoformat(),
        "complete": True,
        "labkit": "0.3.0",
        "exit_status": 0,
        "cells": [
            {"cell": key, "state": "done", "run": run.run.id, "status": 0, "seconds": run.run.seconds, "attempts": []}
            for key, run in cells.items()
        ],
        "changes": {},
        "lab": {},
        **more,
    }
    for run in cells.values():
        keep(reports, run)
    path = reports / "nights" / name / "night.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(document), durable=False)
    return path


def nights(reports: Path, columns: Sequence[str], key: str = "debian-13/uml/runc/spec") -> list[Run]:
    """A night a column, each with one cell."""
    made = [a_run(number, column) for number, column in enumerate(columns, 1)]
    for number, run in enumerate(made, 1):
        keep_night(reports, f"202611{number:02}.1", {key: run})
    return made

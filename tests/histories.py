"""Reports directories with a past, for tests and trials: runs in short, written as labkit writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
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


EVIL = '"><img src=x onerror=window.evil=1></script><script>window.evil=1</script>\u202e{{7*7}}'


def a_past(reports: Path) -> None:
    """Forty nights of four cells, and whatever else there can be: states without runs, runs by hand, a run that was cut
    off, one whose report is gone, a slow one, a change in the lab, and names that are an attack.
    """
    keys = [f"debian-{release}/uml/{runtime}/spec" for release in ("13", "12") for runtime in ("runc", "crun")]
    steady = "".join("f" if n % 17 == 0 else "S" if n % 11 == 0 else "." for n in range(60))
    number = 0
    for day in range(1, 41):
        name = f"{BEGIN + timedelta(days=day):%Y%m%d}.{day}"
        cells: dict[str, Run] = {}
        more: dict[str, object] = {}
        for at, key in enumerate(keys):
            number += 1
            letters = list(steady)
            if 20 <= day < 26 and at < 2:
                letters[5] = "F"
            if day >= 38 and at == 0:
                letters[7:9] = "TE"
            if at == 1 and day % 3 == 0:
                letters[30] = "F"
            if at == 2 and day % 5 == 0:
                letters[31] = "Y"
            names = {f"C-{n:03}": letter for n, letter in enumerate(letters)}
            if at == 3:
                names[EVIL] = "F" if day > 30 else "."
            cut = day == 15 and at == 0
            made = a_run(
                day, dict(list(names.items())[:20]) if cut else names, reason="the machine went away" if cut else None,
                seconds=200.0 if day == 40 and at == 1 else 60.0 + (day * 7 + at) % 5, version=f"1.1.{day // 20}",
                runtime=key.split("/")[2], release=key.split("/")[0][-2:], kernel=f"6.12.{day // 13}",
            )  # fmt: skip
            ident = f"{made.run.id[:16]}.{number}-{key.replace('/', '-')}"
            cells[key] = replace(made, run=replace(made.run, id=ident))
        if day == 33:
            cells.pop(keys[2])
            more["lab-error"] = keys[2]
        path = keep_night(reports, name, cells)
        document = json.loads(path.read_text())
        if day == 33:
            document["cells"].append({"cell": keys[2], "state": "lab-error", "run": None})
            document["changes"]["lab_errors"] = [{"cell": keys[2], "error": f"no space left {EVIL}"}]
        if day == 20:
            document["lab"] = {"debian-13": ["runc 1.1.0 -> 1.1.1", EVIL]}
        if day == 38:
            document["changes"]["new_failures"] = [{"identity": ["", "C-007", ""], "repeats": True, "what": "x"}]
            document["complete"], document["reason"] = False, "interrupted"
            (path.parent / "index.html").write_text("<!DOCTYPE html><title>night</title>")
        path.write_text(json.dumps(document))
    by_hand = a_run(39, {"C-001": "F"})
    keep(reports, replace(by_hand, run=replace(by_hand.run, id=f"{by_hand.run.id[:16]}.9000-by-hand")))
    for directory in reports.iterdir():
        if (directory / "results.json").exists():
            (directory / "report.html").write_text("<!DOCTYPE html><title>report</title>")

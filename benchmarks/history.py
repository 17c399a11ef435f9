"""The history of 10 000 runs of 4000 results each, made up: how large its index is, how long questions take as whole
processes, and how soon a page of the site is painted in Chromium.

    benchmarks/history.py index        makes the history, and prints its size
    benchmarks/history.py questions    history, flaky and nights, each a process of its own
    benchmarks/history.py page         the pages: their size, and navigation to painted
    benchmarks/history.py read         results.json to index, where nothing is known yet
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from common import ROOT, timed

from labkit.results.json import to_json
from labkit.results.model import Result, Run, RunInfo, RuntimeInfo, SuiteInfo, Verdict
from labkit.store.history import FILE, History
from labkit.store.nights import DIRECTORY
from labkit.store.nights import FILE as NIGHT

BEGIN = datetime(2025, 1, 1, 2, tzinfo=UTC)
KEYS = [
    f"debian-{release}/uml/{runtime}/{suite}"
    for release in range(9, 14)
    for runtime in ("runc", "crun")
    for suite in ("spec", "other")
]
KIB = 1024


class World:
    """Cells whose checks break and are mended, with twenty flaky checks each and a new suite every sixty nights."""

    def __init__(self, checks: int) -> None:
        self._random = random.Random(14)
        self._checks = checks
        verdicts = (Verdict.PASS, Verdict.FAIL, Verdict.SKIP)
        self._made = {verdict: [self._result(number, verdict) for number in range(checks)] for verdict in verdicts}
        self._state = {key: [self._first() for _ in range(checks)] for key in KEYS}
        self._flaky = {key: self._random.sample(range(checks), 20) for key in KEYS}
        self._number = 0

    def _result(self, number: int, verdict: Verdict) -> Result:
        name = f"what check {number} of the specification is about, in a sentence"
        return Result(f"GROUP{number // 100}-{number % 100:03}", name, "MUST", "config.md", verdict, 0.1)

    def _first(self) -> Verdict:
        chance = self._random.random()
        return Verdict.SKIP if chance < 0.1 else Verdict.FAIL if chance < 0.11 else Verdict.PASS

    def night(self, night: int) -> Iterator[tuple[str, Run]]:
        at = BEGIN + timedelta(days=night)
        rng = self._random
        for key in KEYS:
            state = self._state[key]
            if rng.random() < 0.1:
                for number in rng.sample(range(self._checks), rng.randint(1, 5)):
                    state[number] = rng.choice((Verdict.FAIL, Verdict.PASS))
            if night % 60 == 59:
                for number in rng.sample(range(self._checks), 20):
                    state[number] = rng.choice((Verdict.FAIL, Verdict.PASS, Verdict.SKIP))
            now = list(state)
            for number in self._flaky[key]:
                if rng.random() < 0.05:
                    now[number] = Verdict.PASS if now[number] is Verdict.FAIL else Verdict.FAIL
            self._number += 1
            platform, _, runtime, suite = key.split("/")
            yield key, Run(
                RunInfo(
                    f"{at:%Y%m%dT%H%M%SZ}.{self._number}-{platform}-{runtime}-{suite}",
                    at, at + timedelta(seconds=60 + rng.gauss(0, 2)), "0.3.0",
                ),
                {"platform": "debian", "release": platform[-2:], "provider": "uml", "kernel": f"6.12.{night // 20}"},
                RuntimeInfo(runtime, f"/usr/sbin/{runtime}", f"1.1.{night // 60}"),
                SuiteInfo(suite, "1.0.0"),
                tuple(self._made[verdict][number] for number, verdict in enumerate(now)),
            )  # fmt: skip


def make(reports: Path, nights: int, checks: int) -> None:
    """A reports directory whose runs are all in the index; their results.json are only there to be looked at."""
    world = World(checks)
    reports.mkdir(parents=True)
    with History.open(reports / FILE, print) as history:
        for night in range(nights):
            name = f"{BEGIN + timedelta(days=night):%Y%m%d}.{night + 1}"
            cells = []
            for key, run in world.night(night):
                directory = reports / run.run.id
                directory.mkdir()
                (directory / "results.json").touch()
                history.add(name, key, run, directory)
                cells.append({"cell": key, "state": "done", "run": run.run.id, "status": 1, "seconds": run.run.seconds})
            started = BEGIN + timedelta(days=night)
            document = {
                "schema": 1, "id": name, "started": started.isoformat(), "complete": True, "exit_status": 1,
                "finished": (started + timedelta(hours=1)).isoformat(), "cells": cells, "changes": {}, "lab": {},
            }  # fmt: skip
            place = reports / DIRECTORY / name
            place.mkdir(parents=True)
            (place / NIGHT).write_text(json.dumps(document))


def labkit(reports: Path, *words: str) -> float:
    """The CPU seconds that the command took."""
    env = {**os.environ, "LABKIT_REPORTS": str(reports), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "labkit", *words]
    child = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, cwd=reports)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"labkit {' '.join(words)} failed")
    return used.ru_utime + used.ru_stime


def told(what: str, figures: list[float], unit: str, reach: str) -> None:
    spread = f"({min(figures):.2f} to {max(figures):.2f})"
    print(f"{what}: median {statistics.median(figures):.2f} {unit} {spread}; reach: {reach}", flush=True)


def index(reports: Path, runs: int) -> None:
    size = sum(file.stat().st_size for file in reports.glob(f"{FILE}*"))
    print(f"index: {size / KIB / KIB:.2f} MiB; reach: 5 MiB")


def questions(reports: Path, runs: int) -> None:
    name = f"{BEGIN + timedelta(days=400):%Y%m%d}.401"
    labkit(reports, "nights")  # night.json of each is read once
    for words in (["history", "GROUP3-033"], ["history", KEYS[0]], ["flaky"], ["nights"]):
        started = time.monotonic()
        used = [labkit(reports, *words) for _ in range(runs)]
        took = (time.monotonic() - started) / runs
        told(f"{' '.join(words)}, mean {took:.2f} s by the clock", used, "CPU s", "1 s")
    with History.open(reports / FILE, print) as history:
        asked: list[tuple[str, Callable[[], object]]] = [
            ("newly failing in a night", lambda: history.newly_failing(name)),
            ("fixed in a night", lambda: history.fixed(name)),
            ("slower in a night", lambda: history.slower(name)),
        ]
        for what, ask in asked:
            figures = []
            for _ in range(runs):
                started = time.process_time()
                ask()
                figures.append(time.process_time() - started)
            told(f"{what}, in a process that is there", figures, "CPU s", "1 s")


def page(reports: Path, runs: int) -> None:
    from playwright.sync_api import sync_playwright

    took = timed(lambda: labkit(reports, "site"))
    files = [reports / "site" / "index.html", *sorted((reports / "site" / "cells").iterdir())]
    print(f"site: {len(files)} pages written in {took:.1f} s")
    print(f"largest page: {max(file.stat().st_size for file in files) / 1000:.0f} KB; reach: 150 KB")
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for what, file in (("overview", files[0]), ("a cell", files[1])):
            figures = []
            for _ in range(runs):
                tab = browser.new_page(viewport={"width": 1280, "height": 900})
                tab.goto(file.as_uri())
                tab.wait_for_function("performance.getEntriesByName('drawn').length > 0")
                figures.append(float(tab.evaluate("performance.getEntriesByName('drawn')[0].startTime")) / 1000)
                tab.close()
            told(f"navigation to all of {what} painted", figures, "s", "1.5 s")
        browser.close()


def read(reports: Path, runs: int) -> None:
    world = World(4000)
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as directory:
        place = Path(directory) / "reports"
        for _, run in world.night(0):
            (place / run.run.id).mkdir(parents=True)
            (place / run.run.id / "results.json").write_text(to_json(run))
        size = sum(file.stat().st_size for file in place.rglob("results.json"))
        took = timed(lambda: labkit(place, "nights"))
        print(f"{len(KEYS)} runs of 4000 results, {size / 1e6:.1f} MB, read in {took:.1f} s, whole process")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["index", "questions", "page", "read"])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--nights", type=int, default=500)
    parser.add_argument("--checks", type=int, default=4000)
    parser.add_argument("--in", type=Path, dest="kept", help="where the history is kept, for the next time")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        kept = asked.kept or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="labkit-bench-")))
        reports = kept / "reports"
        if asked.what != ["read"] and not reports.exists():
            started = time.monotonic()
            make(reports, asked.nights, asked.checks)
            count = asked.nights * len(KEYS)
            print(f"{count} runs of {asked.checks} results added in {time.monotonic() - started:.0f} s", flush=True)
        for what in asked.what:
            {"index": index, "questions": questions, "page": page, "read": read}[what](reports, asked.runs)


if __name__ == "__main__":
    main()

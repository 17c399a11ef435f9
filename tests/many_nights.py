"""Many nights in a row on simulated cells, with the clock, the mirror, the packages and every verdict scripted; some of
them, and some of the `gc` after each, are killed. What each night and the history have to say is reckoned beside them.

    Script(place, seed).run(100)      what it came to; AssertionError where a night or the history says another thing
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from labkit.io.files import usage
from labkit.matrix import table
from labkit.results.model import Verdict, exit_status
from labkit.store import nights as stored
from labkit.store import runs
from labkit.store.history import FILE, History
from labkit.usecases import history as past
from tests.simulated import Nights, result, run_of
from tests.test_nightly import KEY, LISTS, serving

CHECKS = ("A-001", "A-002", "A-003", "A-004", "A-005", "A-006")
KEEP = 14
_BEGIN = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)


@dataclass
class Check:
    """One check in one cell, as a person would note it down: the night since which it fails, in how many in a row, and
    what each run showed, "." or "F" or "Y".
    """

    since: str = ""
    streak: int = 0
    shown: list[str] = field(default_factory=list)


@dataclass
class Figures:
    nights: int = 0
    kills: int = 0
    gc_kills: int = 0
    seconds: float = 0.0
    failures: int = 0  # that were told as new
    sizes: list[int] = field(default_factory=list)  # bytes of reports and home after each gc
    history: int = 0
    kept: int = 0  # most runs that were there at a time


def _clock(at: datetime) -> Callable[[], None]:
    """In a process from here on it is that time, and goes on."""

    def prepare() -> None:
        began = time.monotonic()

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return at + timedelta(seconds=time.monotonic() - began)

        for module in (table, stored, runs, past):
            module.datetime = Clock  # type: ignore[attr-defined]

    return prepare


class Script:
    def __init__(self, place: Path, seed: int, cells: int = 4) -> None:
        self.dice = random.Random(seed)
        self.nights = Nights(place / "lab", cells, rebuild=True)
        self.mirror = place / "mirror"
        self.names = [f"r{number}" for number in range(1, cells + 1)]
        self.checks = {(name, check): Check() for name in self.names for check in CHECKS}
        self.bad: set[tuple[str, str]] = set()
        self.packages: dict[str, str] = {}  # of the last complete run of a cell
        self.runs: dict[str, list[str]] = {name: [] for name in self.names}  # the nights that ran a cell
        self.figures = Figures()
        self.signed, self.version = 0, 1
        self.told: tuple[str, str] | None = None  # digest and date of the mirror at the last night
        self.day = 0
        self.took = 1.0  # seconds of the last night that nobody killed

    def run(self, count: int) -> Figures:
        began = time.monotonic()
        with ExitStack() as stack:
            self.mirror.mkdir(parents=True)
            url = stack.enter_context(serving(self.mirror))
            stack.callback(self.nights.end)
            file = self.nights.place / "work/labkit.toml"
            file.write_text(f'mirror = "{url}"\n{file.read_text()}\n[nights]\nkeep = "{KEEP} nights"\n')
            for number in range(1, count + 1):
                self.night(number)
            self.check_history()
        self.figures.nights, self.figures.seconds = count, time.monotonic() - began
        return self.figures

    # --- one night

    def night(self, number: int) -> None:
        dice = self.dice
        self.day += dice.choice([1, 1, 1, 1, 2, -1, 0]) if number > 1 else 0  # a clock that is set back, or late
        clock = _clock(_BEGIN + timedelta(days=self.day))
        moved = self.sign(dice)
        if dice.random() < 0.25:
            self.version += 1
        (self.nights.plan / "packages").write_text(f"libc6 2.41\nrunc 1.1.15-{self.version}\n")
        fates = {name: self.fate(name, number) for name in self.names}
        failed = any(fate == "lab" for fate in fates.values())
        document = self.ended(number, clock)
        ident = document["id"]
        assert ident.endswith(f".{number}")
        assert document["complete"]
        self.check(document, ident, fates, moved)
        whole = [name for name in self.names if fates[name] != "cut"]  # a run that was cut says so first
        shows_bad = any((name, check) in self.bad for name in whole for check in self.shown(fates[name]))
        cut = any(fate == "cut" for fate in fates.values())
        status = 1 if shows_bad else 3 if failed else 4 if cut else 0
        assert document["exit_status"] == status, (status, document)
        self.collect(number, clock)

    def sign(self, dice: random.Random) -> str:
        """Let the mirror have other packages, or none to show; what the night says of that."""
        release = self.mirror / "dists/trixie/InRelease"
        release.parent.mkdir(parents=True, exist_ok=True)
        if self.told and dice.random() < 0.1:
            release.unlink(missing_ok=True)
            return ""
        if not self.signed or dice.random() < 0.3:
            self.signed += 1
        digest, date = f"{self.signed:064x}", f"day {self.signed}"
        release.write_text(LISTS.format(date=date, digest=digest, other="c" * 64))
        before, self.told = self.told, (digest, date)
        return f"the mirror {before[1]} -> {date}" if before and before[0] != digest else ""

    def fate(self, name: str, number: int) -> str:
        """Decide what the cell does tonight, and write it down for it."""
        dice = self.dice
        fate = dice.choices(["good", "cut", "lab", "lost", "flaky"], [80, 5, 5, 5, 5])[0]
        for check in CHECKS:
            if dice.random() < (0.3 if (name, check) in self.bad else 0.06):
                self.bad ^= {(name, check)}
        if fate == "flaky":
            self.bad.discard((name, CHECKS[0]))
        for old in self.nights.plan.glob(f"{name}.*"):
            old.unlink()
        (self.nights.plan / "ran" / name).unlink(missing_ok=True)
        seen = {check: Verdict.FAIL if (name, check) in self.bad else Verdict.PASS for check in self.shown(fate)}
        if fate == "flaky":
            seen[CHECKS[0]] = Verdict.FLAKY
        run = run_of([result(*one) for one in seen.items()], "the machine is gone" if fate == "cut" else None)
        started = _BEGIN + timedelta(days=self.day)
        about = replace(run.run, started=started, finished=started + timedelta(seconds=60))
        self.nights.puts(f"show-{name}", replace(run, run=about))
        self.nights.does(name, 'lab "no image"' if fate == "lab" else f"show show-{name} {exit_status(run)}")
        if fate == "lost":
            self.nights.does(f"{name}.1", "kill -9 $$")
        return fate

    def shown(self, fate: str) -> tuple[str, ...]:
        return () if fate == "lab" else CHECKS[:3] if fate == "cut" else CHECKS

    def ended(self, number: int, clock: Callable[[], None]) -> Mapping[str, Any]:
        """Run the night, and every third is killed on the way, maybe more than once."""
        words: tuple[str, ...] = ()
        kills = self.dice.choice([1, 1, 2, 3]) if number % 3 == 0 else 0
        while True:
            began = time.monotonic()
            pid = self.nights.start(*words, first=clock)
            if not kills or not self.killed(pid, self.dice.uniform(0.02, 0.8 * self.took)):
                break
            kills -= 1
            self.figures.kills += 1
            begun = any((self.nights.home / "nights").glob(f"*.{number}/cells.sqlite"))
            words = ("--resume",) if begun else ()
        said = "" if pid in self.nights.children and self.nights.wait(pid) in (0, 1, 3, 4) else self.nights.err
        assert not said or "came to its end" in said, said
        self.took = self.took if words else time.monotonic() - began
        assert self.nights.left() == []
        return self.nights.night()

    def killed(self, pid: int, after: float) -> bool:
        """Kill it after so many seconds, if it still runs."""
        until = time.monotonic() + after
        while time.monotonic() < until:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        self.nights.wait(pid)
        return True

    def collect(self, number: int, clock: Callable[[], None]) -> None:
        if number % 10 == 5 and self.killed(self.nights.call("gc", first=clock), self.dice.uniform(0.1, 0.6)):
            self.figures.gc_kills += 1
        pid = self.nights.call("gc", first=clock)
        if pid in self.nights.children:
            assert self.nights.wait(pid) == 0, self.nights.err
        there = [path.name for path in (self.nights.reports / "nights").iterdir() if path.is_dir()]
        assert sorted(name.rpartition(".")[2] for name in there) == sorted(
            str(one) for one in range(max(1, number - KEEP + 1), number + 1)
        )
        kept = len(runs.ids(self.nights.reports))
        assert kept <= 2 * KEEP * len(self.names) + len(self.names) + 1
        self.figures.kept = max(self.figures.kept, kept)
        self.figures.sizes.append(usage(self.nights.reports) + usage(self.nights.home))
        self.figures.history = sum(usage(path) for path in self.nights.reports.glob(f"{FILE}*"))

    # --- what it has to say

    def check(self, document: Mapping[str, Any], ident: str, fates: Mapping[str, str], moved: str) -> None:
        new: dict[str, set[str]] = {}
        still: dict[str, set[str]] = {}
        fixed: dict[str, set[str]] = {}
        since: dict[str, set[str]] = {}
        lab: dict[str, None] = {}
        states = {cell["cell"]: cell["state"] for cell in document["cells"]}
        for name, fate in fates.items():
            assert states[KEY.format(name)] == ("quarantined" if fate == "lab" else "done")
            if fate != "lab":
                self.runs[name].append(ident)
                package = f"runc 1.1.15-{self.version}"
                if (last := self.packages.get(name)) and last != package:
                    lab[f"{last} -> {package.split()[1]}"] = None
                if fate != "cut":
                    self.packages[name] = package
            for check in CHECKS:
                known = self.checks[name, check]
                if check not in self.shown(fate):
                    if fate != "lab":
                        known.shown.append(" ")
                    continue
                flaky = fate == "flaky" and check == CHECKS[0]
                if (name, check) in self.bad:
                    known.since = known.since or ident
                    known.streak += 1
                    known.shown.append("F")
                    (new if known.streak == 1 else still).setdefault(check, set()).add(KEY.format(name))
                    since.setdefault(check, set()).add(known.since)
                else:
                    if known.streak and not flaky:
                        fixed.setdefault(check, set()).add(KEY.format(name))
                    known.since, known.streak = "", 0
                    known.shown.append("Y" if flaky else ".")
        changes = document["changes"]
        for group, expected in (("new_failures", new), ("still_failing", still), ("fixed", fixed)):
            said = {entry["identity"][1]: set(entry["cells"]) for entry in changes[group]}
            assert said == expected, (ident, group, said, expected)
        for entry in (*changes["new_failures"], *changes["still_failing"]):
            assert entry["since"] in since[entry["identity"][1]], (ident, entry)
        lines = [*lab, *([moved] if moved else [])]
        assert set(document["lab"].get("debian-13", ())) == set(lines), (ident, document["lab"], lines)
        self.figures.failures += sum(map(len, new.values()))

    def check_history(self) -> None:
        """Every verdict of every run is still known, though most of the runs are gone."""
        with History.open(self.nights.reports / FILE, print) as history:
            assert history.kept
            history.sync(self.nights.reports)
            letters = {Verdict.PASS: ".", Verdict.FAIL: "F", Verdict.FLAKY: "Y"}
            for name in self.names:
                ran = [one for one in history.runs(KEY.format(name)) if one.night]
                assert [one.night for one in ran] == self.runs[name]
                seen = [history.shown(one.name) for one in ran]
                for check in CHECKS:
                    row = "".join(
                        letters[found[("", check, "")].verdict] if ("", check, "") in found else " " for found in seen
                    )
                    assert row == "".join(self.checks[name, check].shown), (name, check)
                    began = self.checks[name, check].since
                    if began and row.endswith("F"):
                        newest = [one for one in history.failing(ran[-1].night) if one.identity[1] == check]
                        [one] = [one for one in newest if one.cell == KEY.format(name)]
                        assert one.since.night == began, (name, check, one)

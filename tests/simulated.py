"""Nights of simulated cells: labkit itself, and in place of its program for a cell a few lines of shell.

What a cell does is its file in the plan's directory, by its runtime's name and, where there is such a one, the number
of the time it runs: `r1`, `r1.2`. It can say `show good`, `show bad`, `show flaky`, `show cut`, `lab "what failed"`,
`never`.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from labkit.matrix.plan import Planned
from labkit.results.json import to_json
from labkit.results.model import PolicyNotes, Result, Run, RunInfo, RuntimeInfo, SuiteInfo, Verdict
from labkit.usecases import nightly
from tests.forked import forked

SCRIPT = r"""
plan=$1 name=$2
echo $$ >>"$plan/ran/$name"
time=$(wc -l <"$plan/ran/$name")
show() {
    mkdir -p run/raw
    cp "$plan/$1.json" run/results.json
    [ ! -f "$plan/packages" ] || cp "$plan/packages" run/packages.txt
    case ${2-$1} in bad | 1) exit 1 ;; cut | 4) exit 4 ;; *) exit 0 ;; esac
}
lab() {
    printf '{"message": "%s", "hint": null, "again": %s}' "$1" "${2-true}" >error
    exit 3
}
never() { while :; do sleep 0.1; done; }
for file in "$plan/$name.$time" "$plan/$name"; do
    [ ! -f "$file" ] || . "$file"
done
show good
"""


def result(ident: str, verdict: Verdict, attempts: Sequence[str] = ()) -> Result:
    diagnostic: dict[str, Any] = {"message": "seen"} if verdict.bad else {}
    if attempts:
        diagnostic["attempts"] = list(attempts)
    return Result(ident, f"what {ident} is about", "MUST", "", verdict, 0.1, diagnostic)


def run_of(results: Sequence[Result], reason: str | None = None, kernel: str = "6.12.1", seconds: float = 0.0) -> Run:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    machine = {"platform": "debian", "release": "13", "provider": "uml", "kernel": kernel, "cgroup": "v2"}
    info = RunInfo("20261126T000000Z.1-m-r-spec", now, now + timedelta(seconds=seconds), "0", reason, reason)
    policy = PolicyNotes()
    return Run(info, machine, RuntimeInfo("r", "/r", "1"), SuiteInfo("spec", "1"), tuple(results), policy=policy)


@dataclass
class Nights:
    """A lab whose cells are simulated, with runtimes r1, r2, ... below a directory that need not exist."""

    place: Path
    cells: int = 3
    matrix: str = ""
    rebuild: bool = False
    children: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("plan/ran", "work", "home", "tmp"):
            (self.place / name).mkdir(parents=True, exist_ok=True)
        good = [result("A-001", Verdict.PASS), result("A-002", Verdict.PASS)]
        bad = [good[0], result("A-002", Verdict.FAIL, ["fail", "fail"])]
        flaky = [good[0], result("A-002", Verdict.FLAKY, ["fail", "pass"])]
        for name, run in {
            "good": run_of(good),
            "bad": run_of(bad),
            "flaky": run_of(flaky),
            "cut": run_of(good[:1], "the machine is gone"),
        }.items():
            self.puts(name, run)
        self.write()

    def puts(self, name: str, run: Run) -> None:
        (self.plan / f"{name}.json").write_text(to_json(run))

    def write(self) -> None:
        runtimes = [f"/sim/r{number}" for number in range(1, self.cells + 1)]
        matrix = f'[matrix]\nplatforms = ["debian-13"]\nproviders = ["uml"]\nsuites = ["spec"]\nruntimes = {runtimes}\n'
        matrix += f"rebuild = {str(self.rebuild).lower()}\n"
        (self.place / "work" / "labkit.toml").write_text(f"{matrix}{self.matrix}\n[machine]\nmemory = '256M'\n")

    @property
    def plan(self) -> Path:
        return self.place / "plan"

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def reports(self) -> Path:
        return self.place / "work" / "reports"

    def does(self, name: str, script: str) -> None:
        (self.plan / name).write_text(script)

    def ran(self, name: str) -> int:
        """How often a cell began to run."""
        path = self.plan / "ran" / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    def argv(self, planned: Planned) -> tuple[str, ...]:
        name = planned.cell.runtime.rpartition("/")[2]
        return ("setpriv", "--pdeathsig", "KILL", "sh", "-c", SCRIPT, "sh", str(self.plan), name)

    def environ(self) -> dict[str, str]:
        return {
            "HOME": str(self.place),
            "LABKIT_HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.place / "tmp"),
        }

    def start(self, *words: str, first: Callable[[], None] = lambda: None) -> int:
        """Begin `labkit nightly words`; its pid."""

        def prepare() -> None:
            nightly.nightly = functools.partial(nightly.nightly, argv=self.argv)
            first()

        return self.call("nightly", *words, first=prepare)

    def call(self, *words: str, first: Callable[[], None] = lambda: None) -> int:
        """Begin `labkit words`; its pid."""
        out, err = (os.open(self.place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("out", "err"))
        pid = forked(words, self.environ(), self.place / "work", out, err, first)
        os.close(out)
        os.close(err)
        self.children.append(pid)
        return pid

    def wait(self, pid: int) -> int:
        """The exit status of what start() began; of one that was killed, the signal's number below zero."""
        _, status = os.waitpid(pid, 0)
        self.children.remove(pid)
        assert "Traceback" not in self.err, self.err
        return os.waitstatus_to_exitcode(status)

    def run(self, *words: str, status: int = 0, first: Callable[[], None] = lambda: None) -> Mapping[str, Any]:
        """The night.json of a night from its beginning to its end."""
        ended = self.wait(self.start(*words, first=first))
        assert ended == status, (ended, self.out, self.err)
        return self.night()

    @property
    def out(self) -> str:
        return (self.place / "out").read_text()

    @property
    def err(self) -> str:
        return (self.place / "err").read_text()

    def night(self, at: int = -1) -> dict[str, Any]:
        places = sorted((self.reports / "nights").iterdir(), key=lambda path: int(path.name.rpartition(".")[2]))
        document: dict[str, Any] = json.loads((places[at] / "night.json").read_text())
        return document

    def left(self) -> list[str]:
        """What a night must not leave: processes of cells, what they ran in, bundles, parts of runs."""
        found = [str(path) for path in (self.home / "outbox").glob("*/*")]
        found += [str(path) for path in self.reports.glob(".*.part")]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if f"_LABKIT_OWNER={self.home}".encode() in (entry / "environ").read_bytes():
                        found.append(f"process {entry.name}")
                except OSError:
                    continue
        return found

    def end(self) -> None:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def works() -> bool:
    return subprocess.run(["setpriv", "--pdeathsig", "KILL", "true"], check=False).returncode == 0


def processes_of(place: Path, word: bytes) -> list[int]:
    """The processes whose command names the place and has the word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(place).encode() in line and word in line:
                found.append(int(entry.name))
    return found

"""A cell is all that one run is about, and run_cell the one way to run it: here on a machine in memory."""

from __future__ import annotations

import dataclasses
import errno
import html
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.errors import CommandTimeout, ConnectionFailed, HostError, Interrupted, MachineError, UsageError
from labkit.machines import fake
from labkit.machines.base import MachineState, Resettable
from labkit.machines.fake import FakeMachine, Reply
from labkit.reports.terminal import summary
from labkit.store import runs
from labkit.suites import spec
from labkit.suites.base import SilentRun
from labkit.usecases import run as one_run
from labkit.usecases.judge import judge
from labkit.usecases.run import Outcome, run_cell
from labkit.usecases.test import cell_of

CELL = Cell("debian", "13", "auto", "m", "runc", "spec", Selection(("QUERY-001",)))
OUTPUT = b"TAP version 14\n1..1\n# kernel: 6.1\n# cgroup: v2\n# runtime-version: runc version 1.1\nok 1 - QUERY-001 x\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})


def suite_prints(
    output: bytes, error: BaseException | None = None, status: int = 0, stderr: bytes = b""
) -> FakeMachine:
    def respond(argv: Sequence[str]) -> Reply:
        return Reply(status, output, stderr, error) if any(word.endswith(".pyz") for word in argv) else Reply()

    return FakeMachine("m", respond)


def run(cell: Cell, settings: Settings, machine: FakeMachine) -> Outcome:
    return run_cell(cell, settings, SilentRun(), None, lambda *_: machine)


def test_a_cell_can_be_a_key_and_be_sent_away() -> None:
    again = pickle.loads(pickle.dumps(CELL))
    assert again == CELL
    assert {CELL: 1}[again] == 1
    assert Cell("debian", "12", "auto", "m", "runc", "spec") not in {CELL}


def test_the_settings_make_a_cell(settings: Settings) -> None:
    cell = cell_of(settings, Selection())
    assert cell == Cell("debian", "13", "auto", "debian-13", "runc", "spec")
    of_cell = settings.of_cell(cell).model_copy(update={"machine": settings.machine, "release": None})
    assert of_cell.model_dump() == settings.model_dump()
    named = config.load(
        {"machine": "mine", "release": "12", "runtime": "crun"}, cwd=settings.home.path.parent, environ={}
    )
    assert cell_of(named, Selection()).machine == "mine"
    with pytest.raises(UsageError, match="unknown release of Debian '99'"):
        cell_of(config.load({"release": "99"}, cwd=settings.reports.parent, environ={"HOME": "/"}), Selection())


def test_the_cell_decides_not_the_settings(settings: Settings) -> None:
    other = settings.model_copy(update={"platform": "fedora", "runtime": "crun", "suite": "validation"})
    machine = suite_prints(OUTPUT)
    outcome = run(CELL, other, machine)
    assert (machine.platform, machine.release) == ("debian", "13")
    assert outcome.run.title == f"spec {outcome.run.suite.version} on runc 1.1"
    assert machine.commands[-1][-5:] == ("--runtime", "/usr/bin/runc", "--only", "QUERY-001", "--no-confirm")
    assert (outcome.exit_status, outcome.run.machine["cgroup"]) == (0, "v2")
    assert {path.name for path in outcome.directory.iterdir()} == {
        "raw", "console.log", "results.json", "results.tap", "junit.xml", "report.html",
    }  # fmt: skip


def test_another_user_is_made_before_the_suite_runs_as_them(settings: Settings) -> None:
    output = OUTPUT.replace(b"# cgroup", b"# user: lab\n# user-namespace: 65537 user ids mapped\n# cgroup")
    machine = suite_prints(output)
    outcome = run(dataclasses.replace(CELL, selection=Selection(("QUERY-001",), user="lab")), settings, machine)
    assert "useradd" in machine.commands[0][2] and machine.commands[0][-1] == "lab"
    assert machine.commands[-1][-3:] == ("--user", "lab", "--no-confirm")
    assert (outcome.run.machine["user"], outcome.run.machine["user_namespace"]) == ("lab", "65537 user ids mapped")
    assert "run by lab: 65537 user ids mapped" in summary(outcome.run)
    told = (outcome.directory / "results.tap").read_text()
    assert "# user: lab\n# user-namespace: 65537 user ids mapped\n" in told


def test_a_user_who_cannot_be_made_is_wrong_usage(settings: Settings) -> None:
    machine = FakeMachine("m", lambda argv: Reply(1, stderr=b"useradd: no space\n" if "lab" in argv else b""))
    with pytest.raises(UsageError, match="--user: m has no user 'lab', and none can be made: useradd: no space"):
        run(dataclasses.replace(CELL, selection=Selection(user="lab")), settings, machine)


@pytest.mark.parametrize("suite", ["spec", "bats"])
@pytest.mark.parametrize("name", ["root", "Lab", "a b", "-x", "../x", "a:b", "x" * 33, "\x1b[1m"])
def test_names_that_are_no_ordinary_user_s(settings: Settings, suite: str, name: str) -> None:
    machine = suite_prints(OUTPUT)
    with pytest.raises(UsageError, match=r"^--user is "):
        run(dataclasses.replace(CELL, suite=suite, selection=Selection(user=name)), settings, machine)
    assert machine.steps == []


def test_a_suite_that_leaves_disorder_ends_with_a_reset(settings: Settings) -> None:
    machine = suite_prints(b'{"type": "finish"}\n')
    whole = Cell("debian", "13", "auto", "m", "runc", "validation")
    run(whole, settings, machine)
    assert machine.steps == ["create", "connect", "reset"]
    machine.steps.clear()
    machine.fails["reset"] = MachineError("no")
    assert run(whole, settings, machine).exit_status == 4  # the results are there all the same
    assert machine.steps == ["start", "update", "connect", "reset"]
    machine.steps.clear()
    run(Cell("debian", "13", "auto", "m", "runc", "validation", Selection(("create",))), settings, machine)
    assert "reset" not in machine.steps


@pytest.mark.parametrize("step", ["create", "connect"])
def test_a_machine_that_fails_leaves_no_run(settings: Settings, step: str) -> None:
    machine = suite_prints(OUTPUT)
    machine.fails[step] = MachineError("it is broken")
    with pytest.raises(MachineError, match="it is broken"):
        run(CELL, settings, machine)
    assert not settings.reports.exists()


def test_what_only_some_machines_can_do_is_asked_for_by_protocol() -> None:
    from labkit.machines.host import HostMachine
    from labkit.machines.qemu import QemuMachine
    from labkit.machines.vagrant import VagrantMachine

    for kind in (QemuMachine, VagrantMachine, FakeMachine):
        assert callable(kind.reset) and callable(kind.halt)
    assert not hasattr(HostMachine, "reset") and not hasattr(HostMachine, "halt")
    assert isinstance(FakeMachine(), Resettable)
    assert FakeMachine().state is MachineState.ABSENT


# ---- runs that end early


def only_run(settings: Settings) -> Path:
    (ident,) = runs.ids(settings.reports)
    assert (settings.reports / "latest").resolve() == settings.reports / ident
    assert {path.name for path in settings.reports.iterdir()} == {ident, "latest"}
    return settings.reports / ident


EARLY: list[tuple[BaseException, str]] = [
    (ConnectionFailed("the connection was cut"), "the connection was cut"),
    (CommandTimeout("`env python3` ran longer than 1800 s"), "`env python3` ran longer than 1800 s"),
    (KeyboardInterrupt(), "the run was interrupted"),
    (Interrupted(signal.SIGTERM), "the run was interrupted by SIGTERM"),
    (Interrupted(signal.SIGHUP), "the run was interrupted by SIGHUP"),
    (HostError("no space left on the disk"), "no space left on the disk"),
    (OSError(errno.EBADMSG, "rubbish"), "labkit failed: OSError: [Errno 74] rubbish"),
    (ZeroDivisionError("a bug"), "labkit failed: ZeroDivisionError: a bug"),
]


@pytest.mark.parametrize("output", [b"", OUTPUT.replace(b"1..1", b"1..2")], ids=["nothing yet", "a result"])
@pytest.mark.parametrize(("error", "reason"), EARLY, ids=[f"{type(error).__name__}-{error}" for error, _ in EARLY])
def test_a_run_that_ends_early_says_why(settings: Settings, error: BaseException, reason: str, output: bytes) -> None:
    machine = suite_prints(output, error)
    error.__dict__.pop("__notes__", None)
    if isinstance(error, ConnectionFailed):
        assert run(CELL, settings, machine).exit_status == 4
    else:
        with pytest.raises(type(error)) as caught:
            run(CELL, settings, machine)
        assert caught.value is error
    directory = only_run(settings)
    if isinstance(error, KeyboardInterrupt):
        assert error.__notes__ == [f"what the suite had shown is in {directory}, ./lab test begins anew"]
    kept = runs.load(directory)
    assert kept.run.reason is not None
    assert kept.run.reason.startswith(reason)
    assert len(kept.results) == (1 if output else 0)
    for name in ("report.html", "junit.xml", "results.tap"):
        assert reason in html.unescape((directory / name).read_text())
    assert judge(settings, with_policy=False).exit_status == 4
    assert (runs.load(directory).run.reason or "").startswith(reason)


def test_an_upload_that_fails_is_a_run_that_ended_early(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def upload(*_: object, **__: object) -> None:
        raise ConnectionFailed("the upload was cut")

    monkeypatch.setattr(fake.FakeRemote, "upload", upload)
    outcome = run(CELL, settings, suite_prints(OUTPUT))
    assert outcome.exit_status == 4
    assert (outcome.run.run.reason or "").startswith("the upload was cut")
    assert only_run(settings) == outcome.directory


def test_a_suite_that_finds_another_one_says_so(settings: Settings) -> None:
    said = b"labkit-spec: another suite runs on this machine: process 7 (`python3 x`), for 61 s; gave up\n"
    outcome = run(CELL, settings, suite_prints(b"", status=3, stderr=said))
    assert outcome.exit_status == 4
    assert "process 7 (`python3 x`), for 61 s" in (outcome.run.run.reason or "")


def test_the_limit_of_the_suite_is_named(settings: Settings) -> None:
    short = settings.model_copy(update={"limits": settings.limits.model_copy(update={"suite": 0.2})})
    machine = suite_prints(OUTPUT.replace(b"1..1", b"1..2"))
    plain = machine.respond

    def slow(argv: Sequence[str]) -> Reply:
        reply = plain(argv)
        if reply.stdout:
            time.sleep(0.3)
            return Reply(0, reply.stdout, error=CommandTimeout("`python3 x` ran longer than 0.19999 s"))
        return reply

    machine.respond = slow
    outcome = run(CELL, short, machine)
    reason = "the suite did not end within 0.2 s (limits.suite), and was ended; 1 of 2 results arrived"
    assert (outcome.exit_status, outcome.run.run.reason) == (4, reason)


@pytest.mark.parametrize(
    ("suite", "environ", "limit"),
    [("spec", {}, 1800.0), ("bats", {}, 4 * 3600.0), ("bats", {"LABKIT_LIMITS_SUITE": "60"}, 60.0)],
)
def test_a_suite_of_hours_has_them_unless_somebody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str, environ: dict[str, str], limit: float
) -> None:
    asked: list[float] = []

    def record(*_: object, timeout: float, **__: object) -> one_run.Recording:
        asked.append(timeout)
        return one_run.Recording("not run")

    monkeypatch.setattr(one_run, "record", record)
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path), **environ})
    run(dataclasses.replace(CELL, suite=suite, selection=Selection()), settings, suite_prints(OUTPUT))
    assert asked == [limit]


def test_sigkill_at_any_moment_leaves_a_run_or_nothing(settings: Settings, tmp_path: Path) -> None:
    """Killed when it has begun: results.json is there and says so, and so does `latest`; before, nothing is."""
    script = """
import os, signal, sys
from pathlib import Path
from labkit.store import runs
def begin(ident):
    if sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    return "{}"
runs.point_latest(runs.new_directory(Path(sys.argv[1]), ["m"], begin))
os.kill(os.getpid(), signal.SIGKILL)
"""
    reports = tmp_path / "reports"
    for when in ("before", "after"):
        done = subprocess.run([sys.executable, "-c", script, str(reports), when], env={"PYTHONPATH": os.getcwd()})  # noqa: PTH109
        assert done.returncode == -signal.SIGKILL
        assert len(runs.ids(reports)) == (when == "after")
    run(CELL, settings, suite_prints(OUTPUT))
    first, second = runs.ids(reports)
    assert sorted(path.name for path in reports.iterdir()) == sorted([first, second, "latest"])  # no part stays
    assert (reports / "latest").resolve().name == second


def test_a_suite_that_rejects_its_arguments_leaves_nothing(settings: Settings) -> None:
    with pytest.raises(UsageError, match="no such runtime"):
        run(CELL, settings, suite_prints(b"", status=2, stderr=b"no such runtime\n"))
    assert list(settings.reports.iterdir()) == []
    kept = run(CELL, settings, suite_prints(OUTPUT)).directory
    with pytest.raises(UsageError):
        run(CELL, settings, suite_prints(b"", status=2, stderr=b"no such runtime\n"))
    assert only_run(settings) == kept


# ---- clocks


class Clock(datetime):
    """A clock that shows what a test sets."""

    shows = datetime(2026, 11, 26, 12, tzinfo=UTC)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Clock:
        return cls.fromtimestamp(cls.shows.timestamp(), tz)


def test_runs_are_ordered_by_number_whatever_the_clock_says(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "datetime", Clock)
    old = settings.reports / "20991231T235959Z-m-runc-spec"  # of labkit 0.1.0, by a clock that ran ahead
    first = run(CELL, settings, suite_prints(OUTPUT)).directory
    first.rename(old)
    made = [old.name]
    bad = OUTPUT.replace(b"\nok 1", b"\nnot ok 1")
    for days, output in ((0, OUTPUT), (-300, bad), (40, OUTPUT), (-5000, bad)):
        monkeypatch.setattr(Clock, "shows", datetime(2026, 11, 26, 12, tzinfo=UTC) + timedelta(days=days))
        made.append(run(CELL, settings, suite_prints(output)).directory.name)
    assert runs.ids(settings.reports) == made
    assert [name.split("-")[0] for name in made[1:]] == [
        "20261126T120000Z.1", "20260130T120000Z.2", "20270105T120000Z.3", "20130319T120000Z.4",
    ]  # fmt: skip
    assert runs.find(settings.reports, None).name == made[-1]
    assert runs.failed_before(settings.reports, "spec", "runc") == ("QUERY-001",)  # of the last, not of 2027
    assert runs.find(settings.reports, "20270105").name == made[3]
    assert runs.find(settings.reports, old.name) == old
    shutil.rmtree(settings.reports / made[-1])
    assert runs.find(settings.reports, None).name == made[-2]  # and not an error: it was the newest that went
    assert run(CELL, settings, suite_prints(OUTPUT)).directory.name.startswith("20130319T120000Z.4-")


def test_a_clock_that_is_set_back_during_a_run_makes_it_no_shorter(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`3 checks in -17996.3 s`"""
    monkeypatch.setattr(one_run, "datetime", Clock)
    machine = suite_prints(OUTPUT)
    plain = machine.respond

    def slow(argv: Sequence[str]) -> Reply:
        if any(word.endswith(".pyz") for word in argv):
            time.sleep(0.2)
            monkeypatch.setattr(Clock, "shows", Clock.shows - timedelta(hours=5))
        return plain(argv)

    machine.respond = slow
    outcome = run(CELL, settings, machine)
    assert 0.2 <= outcome.run.run.seconds < 5
    assert re.search(r"1 check in [0-4]\.\d s: 1 pass", summary(outcome.run))
    info = outcome.run.run
    old = dataclasses.replace(outcome.run, run=dataclasses.replace(info, finished=info.started - timedelta(hours=5)))
    assert "1 check in 0.0 s" in summary(old)  # as labkit 0.1.0 kept it


def test_many_runs_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: runs.new_directory(tmp_path, ["m"]), range(24)))
    assert len({path.name.split("-")[0].partition(".")[2] for path in made}) == 24


# ---- what a guest can make this host write


def test_a_console_that_floods_is_kept_as_its_beginning_and_its_end(settings: Settings, tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_bytes(b"before the run\n")
    machine = suite_prints(OUTPUT)
    machine.console_path = console
    plain = machine.respond
    flood = b"".join(b"%09d\n" % number for number in range(2_000_000))

    def floods(argv: Sequence[str]) -> Reply:
        if any(word.endswith(".pyz") for word in argv):
            with console.open("ab") as file:
                file.write(flood)
        return plain(argv)

    machine.respond = floods
    kept = (run(CELL, settings, machine).directory / "console.log").read_bytes()
    assert kept.startswith(b"000000000\n000000001\n")
    assert kept.endswith(b"001999998\n001999999\n")
    assert f"[labkit: {len(flood) - (8 << 20)} bytes of the console's output are left out here]".encode() in kept
    assert len(kept) < (8 << 20) + 200


def test_raw_output_is_bounded_and_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "_OUTPUT_LIMIT", 1000)
    monkeypatch.setattr(spec, "_ERRORS_LIMIT", 100)
    outcome = run(CELL, settings, suite_prints(OUTPUT + b"# more\n" * 1000, stderr=b"e" * 1000))
    reason = "more than 0 MiB of output; the rest was dropped"
    assert (outcome.exit_status, outcome.run.run.reason) == (4, reason)
    assert len(outcome.run.results) == 1
    raw = outcome.directory / "raw"
    assert (raw / "spec.tap").read_text().endswith(f"\n# labkit: {len(OUTPUT) + 6000} more bytes are left out\n")
    assert (raw / "spec.err").read_text() == "e" * 100 + "\n# labkit: 900 more bytes are left out\n"
    assert judge(settings, with_policy=False).run.run.reason == reason


def test_a_run_keeps_where_a_kernel_comes_from_that_is_not_the_platforms(settings: Settings) -> None:
    machine = suite_prints(OUTPUT)
    assert "kernel_origin" not in run(CELL, settings, machine).run.machine
    machine.kernel_origin = "User-Mode Linux 7.2.7, of a test"
    outcome = run(CELL, settings, machine)
    assert outcome.run.machine["kernel_origin"] == machine.kernel_origin
    for name in ("results.json", "results.tap", "junit.xml", "report.html"):
        assert machine.kernel_origin in (outcome.directory / name).read_text(), name
    again = judge(settings, str(outcome.directory)).run
    assert f"kernel: {machine.kernel_origin}, not the platform's" in summary(again)

"""`test --watch`: again once a file has changed, and has come to rest."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.core.errors import HostError, MachineError, UsageError
from labkit.core.observer import Silent
from labkit.results.model import Run, Verdict
from labkit.usecases.run import Outcome
from labkit.usecases.watch import Watching, difference, digest, settled, stamp, watch, watched
from tests.test_cli import environ, labkit
from tests.test_results import a_result, a_run

__all__ = ["environ"]  # a fixture

FAST = Watching(look=0.01, still=0.15)


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join(10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "runc"
    path.write_bytes(b"one")
    return path


def content(of: str, path: Path) -> bool:
    return digest([path]) == of


def test_a_file_that_is_there_is_run_at_once(file: Path) -> None:
    assert content(settled([file], None, Told(), FAST), file)


def test_a_linker_that_writes_for_a_while_is_waited_for(file: Path) -> None:
    before = digest([file])
    ended: list[float] = []

    def link() -> None:
        time.sleep(0.1)
        with file.open("wb", buffering=0) as out:
            for number in range(12):
                out.write(f"part {number} ".encode())
                time.sleep(0.05)
        ended.append(time.monotonic())

    with meanwhile(link):
        found = settled([file], before, Told(), FAST)
    assert ended and time.monotonic() - ended[0] >= 0.1
    assert content(found, file)
    assert b"part 11" in file.read_bytes()


def test_a_file_that_is_gone_for_a_moment_is_waited_for(file: Path) -> None:
    before, observer = digest([file]), Told()

    def build() -> None:
        file.unlink()
        time.sleep(0.6)
        file.write_bytes(b"")  # opened, and nothing written yet
        time.sleep(0.3)
        aside = file.with_suffix(".new")
        aside.write_bytes(b"two")
        aside.rename(file)

    with meanwhile(build):
        found = settled([file], before, observer, FAST)
    assert content(found, file) and file.read_bytes() == b"two"
    assert observer.lines == [f"{file} is not there, or empty: waiting for it"]


def test_what_is_written_anew_and_is_the_same_is_no_change(file: Path) -> None:
    before = digest([file])

    def build() -> None:
        for _ in range(3):
            time.sleep(0.25)
            file.unlink()
            file.write_bytes(b"one")
        time.sleep(0.3)
        file.write_bytes(b"two")

    with meanwhile(build):
        found = settled([file], before, Told(), FAST)
    assert found != before and file.read_bytes() == b"two"


def test_a_directory_is_all_that_is_in_it(tmp_path: Path) -> None:
    place = tmp_path / "runtime"
    (place / "lib").mkdir(parents=True)
    (place / "runtime").write_text("#!/bin/sh\n")
    (place / "lib" / "x").write_text("1")
    one = digest([place])
    (place / "lib" / "x").write_text("2")
    assert (two := digest([place])) != one
    (place / "lib" / "x").rename(place / "lib" / "y")
    assert (three := digest([place])) not in (one, two)
    (place / "runtime").chmod(0o755)
    assert digest([place]) not in (one, two, three)
    assert stamp([place, tmp_path / "none"]) is None
    os.mkfifo(place / "pipe")  # never opened
    assert digest([place])


# --- run after run


def outcome(*verdicts: Verdict, digest: str = "") -> Outcome:
    run = a_run(*(a_result(f"A-{n:03}", verdict) for n, verdict in enumerate(verdicts)))
    return Outcome(replace(run, runtime=replace(run.runtime, sha256=digest)), Path("/x"))


PASS, FAIL = Verdict.PASS, Verdict.FAIL


def watching(
    file: Path, runs: Sequence[Outcome | BaseException], change: Callable[[int], None] | None = None
) -> tuple[int, list[str], list[Run]]:
    """Watch a file that changes after each of the runs, until Ctrl-C is pressed where there are no more."""
    observer, number = Told(), [0]
    shown: list[Run] = []

    def run() -> Sequence[Outcome]:
        this = runs[number[0]]
        number[0] += 1
        if change:
            change(number[0])
        else:
            file.write_bytes(os.urandom(8))
        if isinstance(this, BaseException):
            raise this
        return [this]

    def wait(seconds: float) -> None:
        time.sleep(seconds)
        if number[0] == len(runs):
            raise KeyboardInterrupt

    how = replace(FAST, still=0.02, wait=wait)
    status = watch([file], run, lambda found: shown.extend(one.run for one in found), observer, how)
    return status, observer.lines, shown


def test_each_time_what_changed_is_one_line_and_the_last_status_is_the_end(file: Path) -> None:
    runs = [outcome(PASS, FAIL), outcome(PASS, PASS), outcome(FAIL, PASS), outcome(FAIL, PASS)]
    status, lines, shown = watching(file, runs)
    assert (status, shown) == (1, [one.run for one in runs])
    assert [line for line in lines if line.startswith("since")] == [
        "since the run before: 1 better, 1 same; better: A-001",
        "since the run before: 1 worse, 1 same; worse: A-000",
        "since the run before: 2 same",
    ]
    assert lines.count("waiting for runc to change; Ctrl-C ends this") == len(runs)
    assert watching(file, [outcome(FAIL), outcome(PASS)])[0] == 0


def test_a_build_that_failed_halfway_is_told_and_waited_for(file: Path) -> None:
    broken = UsageError("runc is not a program: it is cut off", hint="build it again")
    status, lines, shown = watching(file, [outcome(FAIL), broken, outcome(PASS)])
    assert (status, len(shown)) == (0, 2)
    assert "warning: runc is not a program: it is cut off (build it again)" in lines
    assert "since the run before: 1 better; better: A-000" in lines
    assert watching(file, [broken])[0] == 2
    assert watching(file, [outcome(PASS), MachineError("it is gone")])[0] == 3


def test_a_lab_that_does_not_work_is_no_reason_to_wait(file: Path) -> None:
    with pytest.raises(HostError):
        watching(file, [HostError("no space")])


def test_ctrl_c_while_the_suite_runs_ends_it_as_ever(file: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        watching(file, [outcome(PASS), KeyboardInterrupt()])


def test_several_runtimes_are_compared_each_with_itself(file: Path) -> None:
    first, second = outcome(PASS), outcome(FAIL)
    observer, times = Told(), [0]

    def run() -> Sequence[Outcome]:
        times[0] += 1
        file.write_bytes(str(times[0]).encode())
        return [first, second]

    def wait(seconds: float) -> None:
        time.sleep(seconds)
        if times[0] == 2:
            raise KeyboardInterrupt

    assert watch([file], run, lambda _: None, observer, replace(FAST, still=0.02, wait=wait)) == 1
    assert observer.lines.count("since the run before: 1 same") == 2


def test_the_same_file_again_says_so() -> None:
    one = outcome(PASS, digest="a").run
    assert difference(one, one).endswith("1 same (the same file)")
    assert "(the same file)" not in difference(one, outcome(PASS, digest="b").run)


def test_only_files_of_this_host_are_watched(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert watched(["runc", "./runc", f"host:{file}", "./runc --debug"]) == (file,)
    for words in (["runc"], ["/usr/bin/runc", "crun"]):
        with pytest.raises(UsageError, match="--watch waits for a file of this host to change, and --runtime"):
            watched(words)


@pytest.mark.parametrize("beside", [["--json"], ["--failed"], ["--format", "github"]])
def test_what_makes_no_sense_beside_it(environ: dict[str, str], tmp_path: Path, beside: list[str]) -> None:
    done = labkit("test", "--watch", *beside, environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert f"--watch takes no {beside[0]}" in done.stdout + done.stderr


def test_without_a_file_it_has_nothing_to_watch(environ: dict[str, str], tmp_path: Path) -> None:
    done = labkit("test", "--runtime", "crun", "--watch", environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert "--watch waits for a file of this host to change, and --runtime crun is none" in done.stderr

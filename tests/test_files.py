"""Locks between labkit processes: who waits is told for whom, whatever the holder left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core.errors import InfrastructureError
from labkit.io import files
from labkit.io.files import locked

HOLD = """
import sys
sys.argv[0] = "/somewhere/labkit/__main__.py"
from pathlib import Path
from labkit.io.files import locked
with locked(Path(sys.argv.pop(1)), timeout=1, waiting=print, what="machine mine"):
    print("held", flush=True)
    sys.stdin.read()
"""
WORDS = ("up", "--machine", "my machine", "--", "a secret")


@contextlib.contextmanager
def held(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin ends."""
    argv = [sys.executable, "-c", HOLD, str(lock), *WORDS]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def refused(lock: Path, timeout: float = 0.5) -> tuple[list[str], str]:
    """What is said while a lock that is held is waited for in vain, and the error in the end."""
    said: list[str] = []
    with (
        pytest.raises(InfrastructureError) as caught,
        locked(lock, timeout=timeout, waiting=said.append, what="machine mine"),
    ):
        raise AssertionError("it is held by another process")
    assert caught.value.hint == "wait, or end that process"
    return said, caught.value.message


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "machine-mine.lock"


def test_who_waits_is_told_for_whom_and_since_when(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_REMIND_EVERY", 0.1)
    with held(lock) as child:
        said, error = refused(lock)
        assert "secret" not in lock.with_suffix(".holder").read_text()
    who, since = rf"process {child.pid} \(`./lab up --machine 'my machine'`\)", r"since \d\d:\d\d:\d\d \(\d+ s\)"
    assert re.fullmatch(rf"waiting for {who}, which has held machine mine {since}", said[0])
    assert 2 <= len(said) <= 4  # and again, every so often
    assert re.fullmatch(rf"{who} has held machine mine {since}; gave up after waiting 0.5 s", error)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(250, r"since \d\d:\d\d:\d\d \(4 min\)"), (90_000, r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(25 h 0 min\)"),
     (-3600, r"since \d\d:\d\d:\d\d$")],
)  # fmt: skip
def test_the_time_is_told_in_round_figures(lock: Path, seconds: int, told: str) -> None:
    with held(lock):
        holder = lock.with_suffix(".holder")
        holder.write_text(json.dumps({**json.loads(holder.read_text()), "since": time.time() - seconds}))
        said, _ = refused(lock)
    assert re.search(told, said[0]), said


DAMAGED = [
    None, "", "17", "[]", "{", "\xff", "[" * 100_000, '{"pid": -1, "command": [], "since": 0}',
    '{"pid": 1, "command": "up", "since": 0}', '{"pid": 1, "command": [], "since": 1e300}',
    '{"pid": 4194999, "command": ["./lab", "up"], "since": 0}',
]  # fmt: skip


def test_a_missing_damaged_or_stale_holder_file_breaks_nothing(lock: Path) -> None:
    with held(lock):
        holder = lock.with_suffix(".holder")
        for left in DAMAGED:
            if left is None:
                holder.unlink()
            else:
                holder.write_bytes(left.encode("latin-1"))
            said, error = refused(lock, timeout=0.25)
            assert said == ["waiting for another labkit process, which holds machine mine"], left
            assert error == "another labkit process holds machine mine; gave up after waiting 0.25 s", left


def test_a_hostile_holder_file_is_shown_inert_on_one_line(lock: Path) -> None:
    with held(lock):
        words = ["up\x1b[2J\n", "x" * 10_000]
        lock.with_suffix(".holder").write_text(json.dumps({"pid": os.getpid(), "command": words, "since": 0}))
        said, _ = refused(lock)
    assert said[0].isprintable()
    assert len(said[0]) < 400


def test_a_lock_outlives_neither_its_context_nor_its_process(lock: Path) -> None:
    with held(lock) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert lock.with_suffix(".holder").exists()  # it had no time
        with locked(lock, timeout=5, waiting=pytest.fail, what="machine mine"):
            assert json.loads(lock.with_suffix(".holder").read_text())["pid"] == os.getpid()
    assert not lock.with_suffix(".holder").exists()


def test_a_holder_file_that_cannot_be_written_breaks_nothing(lock: Path) -> None:
    lock.with_suffix(".holder").mkdir(parents=True)
    with locked(lock, timeout=5, waiting=pytest.fail, what="machine mine"):
        pass


def test_a_lock_that_is_free_soon_is_waited_for_in_silence(lock: Path) -> None:
    with held(lock) as child:
        assert child.stdin is not None
        child.stdin.close()
        with locked(lock, timeout=5, waiting=pytest.fail, what="machine mine"):
            pass

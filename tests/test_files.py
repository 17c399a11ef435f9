"""Files written aside, in directories that others may write too; and locks between labkit processes: who waits is told
for whom, whatever the holder left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core.errors import HostError, InfrastructureError
from labkit.io import files
from labkit.io.files import aside, copy, locked, sweep, unfinished, write_atomic

HOLD = """
import sys
sys.argv[0] = "/somewhere/labkit/__main__.py"
from pathlib import Path
from labkit.io.files import aside, copy, locked, sweep, unfinished, write_atomic
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
def test_the_time_is_told_in_round_figures_whatever_the_clock_says(lock: Path, seconds: int, told: str) -> None:
    """By the monotonic clock: the time of day may have been set meanwhile."""
    with held(lock):
        holder = lock.with_suffix(".holder")
        about = json.loads(holder.read_text())
        holder.write_text(json.dumps({**about, "at": about["at"] - seconds}))
        said, _ = refused(lock)
    assert re.search(told, said[0]), said


DAMAGED = [
    None, "", "17", "[]", "{", "\xff", "[" * 100_000, '{"pid": -1, "command": [], "since": 0, "at": 0}',
    '{"pid": 1, "command": "up", "since": 0, "at": 0}', '{"pid": 1, "command": [], "since": 1e300, "at": 0}',
    '{"pid": 1, "command": [], "since": 0}', '{"pid": 1, "command": [], "since": 0, "at": NaN}',
    '{"pid": 4194999, "command": ["./lab", "up"], "since": 0, "at": 0}',
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
        lock.with_suffix(".holder").write_text(json.dumps({"pid": os.getpid(), "command": words, "since": 0, "at": 0}))
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


# ---- files


WRITE = """
import os, sys
from pathlib import Path
from labkit.io.files import aside
with aside(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def writing(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has written half of target and waits for the end of its stdin."""
    argv = [sys.executable, "-c", WRITE, str(target)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        yield child
        child.kill()


def parts(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.endswith(".part")]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, "old", mode=0o600)
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ZeroDivisionError), aside(target) as file:
        file.write(b"new")
        1 / 0  # noqa: B018
    assert target.read_text() == "old"
    write_atomic(target, b"new")
    assert (target.read_text(), os.listdir(tmp_path)) == ("new", ["file"])  # noqa: PTH208
    copy(target, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "new"


def test_a_planted_link_is_never_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has guessed every name that is written aside, and put links to a file of ours there."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0" * 2 * count)
    shared = tmp_path / "shared"
    shared.mkdir()
    target = shared / "report"
    with unfinished(target) as part:
        planted = part
    for path in (planted, shared / f".report.{os.getpid()}.part", target):
        path.symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_atomic(target, "ours")
    monkeypatch.undo()
    write_atomic(target, "ours")
    assert not target.is_symlink()
    assert (target.read_text(), precious.read_text()) == ("ours", "precious")


def test_a_lock_is_no_link_and_no_pipe(lock: Path) -> None:
    lock.parent.mkdir()
    precious = lock.parent / "precious"
    precious.write_text("precious")
    lock.symlink_to(precious)
    with pytest.raises(HostError, match="symbolic links"), locked(lock, timeout=1, waiting=pytest.fail, what="it"):
        raise AssertionError("a link was followed")
    lock.unlink()
    lock.with_suffix(".holder").symlink_to(precious)
    with locked(lock, timeout=1, waiting=pytest.fail, what="it"):
        assert not lock.with_suffix(".holder").is_symlink()
    assert precious.read_text() == "precious"
    with held(lock):
        lock.with_suffix(".holder").unlink()
        os.mkfifo(lock.with_suffix(".holder"))  # who reads from it would wait for ever
        said, _ = refused(lock)
    assert said == ["waiting for another labkit process, which holds machine mine"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_no_part_file_stays(tmp_path: Path, signum: signal.Signals) -> None:
    """After Ctrl-C at once, after SIGKILL as soon as anything is written there."""
    with writing(tmp_path / "file") as child:
        assert len(parts(tmp_path)) == 1
        sweep(tmp_path)
        assert len(parts(tmp_path)) == 1  # of a process that lives
        child.send_signal(signum)
        child.wait()
        assert len(parts(tmp_path)) == (signum == signal.SIGKILL)
    for name in (".old.4194999.part", ".dir.4194999-0123456789abcdef.part", ".link.4194999-0123456789abcdef.part"):
        if "dir" in name:
            (tmp_path / name).mkdir()
        elif "link" in name:
            (tmp_path / name).symlink_to("/nowhere")
        else:
            (tmp_path / name).write_text("half")
    (tmp_path / "movie.part").write_text("somebody's")
    write_atomic(tmp_path / "other", "whole")
    assert sorted(os.listdir(tmp_path)) == ["movie.part", "other"]  # noqa: PTH208


def test_ctrl_c_while_it_is_removed_leaves_nothing(tmp_path: Path) -> None:
    """As where one comes a moment after the other."""
    script = f"""
import shutil
from pathlib import Path
from labkit.io.files import unfinished

def interrupted(*_, **__):
    shutil.rmtree = real
    raise KeyboardInterrupt

real, shutil.rmtree = shutil.rmtree, interrupted
with unfinished(Path({str(tmp_path / "run")!r})) as part:
    part.mkdir()
    (part / "file").write_text("half")
    raise SystemExit(3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_part_file_that_is_still_written_elsewhere_is_left(tmp_path: Path) -> None:
    """By a process of another container, whose pid is nobody's here."""
    with writing(tmp_path / "file"):
        (name,) = parts(tmp_path)
        (tmp_path / name).rename(tmp_path / re.sub(r"\.[0-9]+-", ".4194999-", name))
        sweep(tmp_path)
        assert len(parts(tmp_path)) == 1
    sweep(tmp_path)
    assert parts(tmp_path) == []


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with files._Lock(path) as held, files._Lock(path) as waiting:
        assert held.taken()
        assert not waiting.taken()
        path.unlink()
        held.__exit__()
        held._fd = os.dup(0)
        assert waiting.taken()
        with files._Lock(path) as third:
            assert not third.taken(), "who waited holds the file that others open"

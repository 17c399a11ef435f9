"""Faults that are neither a signal to labkit nor a damaged file, on simulated machines. Each function is a row."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.machines.base import MachineState
from tests.faults.driver import PRECIOUS, Ended, FaultLab, Labkit, Templates, until
from tests.faults.points import Event, Hold

pytestmark = pytest.mark.needs("qemu-img")

Make = Callable[[str], FaultLab]


@pytest.fixture
def make(templates: Templates) -> Iterator[Make]:
    """A lab with a machine in that state."""
    labs: list[FaultLab] = []

    def copy(before: str) -> FaultLab:
        labs.append(templates.copy(before))
        return labs[-1]

    yield copy
    for lab in labs:
        lab.close()


def goes_on(lab: FaultLab) -> None:
    """The next plain command works, nothing is lost, and nothing is left."""
    lab.stages()
    lab.run("up")
    assert lab.precious()
    lab.nothing_left()


def the_run(lab: FaultLab) -> dict[str, Any]:
    """What results.json says of the only run."""
    (results,) = lab.cwd.glob("reports/[0-9]*/results.json")
    run: dict[str, Any] = json.loads(results.read_text())["run"]
    return run


def bounded(seconds: float, act: Callable[[], Ended]) -> Ended:
    began = time.monotonic()
    done = act()
    assert time.monotonic() - began < seconds
    return done


# --- QEMU is stopped (SIGSTOP)


@pytest.fixture
def stopped(make: Make) -> Iterator[FaultLab]:
    lab = make("running")
    pid = lab.qemu()
    os.kill(pid, signal.SIGSTOP)
    yield lab


@pytest.mark.parametrize("command", ["up", "test", "halt"])
def test_a_stopped_qemu_is_named(stopped: FaultLab, command: str) -> None:
    done = bounded(20, lambda: stopped.run(command, status=3))
    pid = stopped.qemu()
    assert f"process {pid}, was stopped by a signal" in done.stderr
    assert f"kill -CONT {pid}" in done.stderr
    os.kill(pid, signal.SIGCONT)
    goes_on(stopped)


def test_status_tells_of_a_stopped_qemu(stopped: FaultLab) -> None:
    done = bounded(20, lambda: stopped.run("status", "--json"))
    assert json.loads(done.stdout)[0]["state"] == "unreachable"
    os.kill(stopped.qemu(), signal.SIGCONT)
    goes_on(stopped)


def test_a_stopped_qemu_is_ended_by_reset(stopped: FaultLab) -> None:
    bounded(20, lambda: stopped.run("reset"))
    assert stopped.state() is MachineState.RUNNING
    stopped.nothing_left()


def test_a_stopped_qemu_is_ended_by_destroy(stopped: FaultLab) -> None:
    bounded(20, lambda: stopped.run("destroy"))
    assert stopped.state() is MachineState.ABSENT
    stopped.nothing_left()


@pytest.mark.parametrize("stage", [pytest.param("incoming", marks=pytest.mark.long), "agent", "login"])
def test_a_qemu_that_is_stopped_while_it_comes_up(make: Make, stage: str) -> None:
    lab = make("halted")
    lab.environ |= {"LABKIT_LIMITS_BOOT": "3"}
    done = bounded(  # QEMU has a minute to start
        80, lambda: lab.stopped_at(Hold(stage), lambda _: os.kill(lab.qemu(), signal.SIGSTOP), "up", release=True)
    )
    assert done.status == 3, done
    assert lab.state() is MachineState.HALTED
    del lab.environ["LABKIT_LIMITS_BOOT"]
    goes_on(lab)


# --- QEMU is killed


@pytest.mark.parametrize(
    ("before", "stage", "after"),
    [
        ("halted", "incoming", "halted"),
        ("halted", "agent", "halted"),
        ("halted", "login", "halted"),
        ("crashed", "boot", "crashed"),
        ("crashed", "agent", "crashed"),
        ("crashed", "login", "crashed"),
    ],
)
def test_qemu_is_killed_while_it_comes_up(make: Make, before: str, stage: str, after: str) -> None:
    lab = make(before)
    done = lab.stopped_at(Hold(stage), lambda _: lab.kill_qemu(), "up")
    assert done.status == 3, done
    assert lab.state() == after
    goes_on(lab)


@pytest.mark.parametrize("stage", ["upload", "suite", "results"])
def test_qemu_is_killed_during_the_suite(make: Make, stage: str) -> None:
    lab = make("running")
    done = lab.stopped_at(Hold(stage), lambda _: lab.kill_qemu(), "test")
    assert done.status == 4, done
    run = the_run(lab)
    assert run["complete"] is False
    assert run["reason"]
    assert lab.state() is MachineState.CRASHED
    goes_on(lab)


@pytest.mark.parametrize("stage", ["agent", "qmp-stop", "migrate"])
def test_qemu_is_killed_while_it_is_halted(make: Make, stage: str) -> None:
    lab = make("running")
    done = lab.stopped_at(Hold(stage), lambda _: lab.kill_qemu(), "halt")
    assert done.status in (0, 3), done
    assert lab.state() is MachineState.CRASHED
    goes_on(lab)


# --- QEMU or the guest does not do what it is asked to


@pytest.mark.parametrize(
    ("stage", "how", "said"),
    [
        ("start", "Could not allocate memory", "Could not allocate memory"),
        ("agent", "1", "take its identity"),
        ("login", "closed", "SSH"),
        ("qmp-cont", "Resetting the Virtual Machine is required", "refused cont"),
        ("qmp-blockdev-snapshot-internal-sync", "No space left on device", "No space left"),
    ],
)
def test_a_halted_machine_that_does_not_come_up_stays_halted(make: Make, stage: str, how: str, said: str) -> None:
    lab = make("halted")
    lab.environ |= {"LABKIT_LIMITS_BOOT": "4"}
    lab.stages(fail={stage: how})
    done = bounded(20, lambda: lab.run("up", status=3))
    assert said in done.stderr
    assert lab.state() is MachineState.HALTED
    del lab.environ["LABKIT_LIMITS_BOOT"]
    goes_on(lab)


def test_a_state_that_does_not_load_leaves_the_disk_to_be_booted(make: Make) -> None:
    lab = make("halted")
    lab.stages(fail={"incoming": "load of migration failed: Operation not permitted"})
    done = lab.run("up", status=3)
    assert "its disk is good" in done.stderr
    assert "--discard-state" in done.stderr
    assert lab.state() is MachineState.HALTED
    lab.run("up", "--discard-state")
    goes_on(lab)


def test_a_state_that_did_not_load_is_tried_again(make: Make) -> None:
    """By the QEMU that wrote it, say."""
    lab = make("halted")
    lab.stages(fail={"incoming": "load of migration failed: Operation not permitted"})
    lab.run("up", status=3)
    goes_on(lab)


@pytest.mark.parametrize("how", ["panic", "hang"])
def test_a_guest_that_does_not_boot(make: Make, how: str) -> None:
    lab = make("crashed")
    lab.environ |= {"LABKIT_LIMITS_BOOT": "3"}
    lab.stages(fail={"boot": how})
    done = bounded(30, lambda: lab.run("up", status=3))
    assert ("kernel panicked" if how == "panic" else "within 3 s") in done.stderr
    assert lab.state() is MachineState.CRASHED
    del lab.environ["LABKIT_LIMITS_BOOT"]
    goes_on(lab)


@pytest.mark.parametrize(
    ("stage", "how"),
    [
        ("migrate", "No space left on device"),
        ("qmp-stop", "refused"),
        ("qmp-migrate", "refused"),
        ("qmp-quit", "refused"),
    ],
)
def test_a_machine_that_cannot_be_halted_runs_on(make: Make, stage: str, how: str) -> None:
    lab = make("running")
    lab.stages(fail={stage: how})
    done = lab.run("halt", status=3)
    assert how in done.stderr
    assert lab.state() is MachineState.RUNNING
    goes_on(lab)


def test_a_suite_that_ends_oddly_is_an_incomplete_run(make: Make) -> None:
    lab = make("running")
    lab.stages(fail={"suite": 3})
    lab.run("test", status=4)
    run = the_run(lab)
    assert "exited with status 3" in run["reason"]
    goes_on(lab)


def test_a_suite_that_refuses_its_arguments_is_no_run(make: Make) -> None:
    lab = make("running")
    lab.stages(fail={"suite": 2})
    lab.run("test", status=2)
    assert list(lab.cwd.glob("reports/[0-9]*/results.json")) == []
    goes_on(lab)


def test_ssh_that_ends_before_the_suite(make: Make) -> None:
    lab = make("running")
    lab.environ |= {"LABKIT_LIMITS_CONNECT": "2"}
    lab.stages(fail={"login": "closed"})
    bounded(20, lambda: lab.run("test", status=3))
    goes_on(lab)


def test_a_build_that_fails_leaves_nothing(make: Make) -> None:
    lab = make("empty")
    lab.stages(fail={"mmdebstrap": "Unable to locate package nothing"})
    done = lab.run("up", status=3)
    assert "Unable to locate package nothing" in done.stderr
    assert list(lab.home.glob("images/*")) == []
    lab.nothing_left()
    lab.stages()
    lab.run("up")


def test_a_first_boot_that_fails_is_tried_by_the_next_up(make: Make) -> None:
    lab = make("bare")
    lab.environ |= {"LABKIT_LIMITS_BOOT": "3"}
    lab.stages(fail={"boot": "hang"})
    bounded(20, lambda: lab.run("up", status=3))
    assert lab.state() is MachineState.ABSENT
    lab.stages()
    lab.run("up")
    lab.nothing_left()


# --- others are there too


def test_a_port_that_is_taken(make: Make) -> None:
    lab = make("halted")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lab.environ |= {"LABKIT_MACHINE_SSH_PORT": str(port)}
        done = lab.run("up", status=3)
        assert f"port {port} on 127.0.0.1 is taken" in done.stderr
    assert lab.state() is MachineState.HALTED
    goes_on(lab)


def test_two_commands_at_once(make: Make) -> None:
    lab = make("halted")
    first, second = lab.start("up"), lab.start("up")
    assert [child.end().status for child in (first, second)] == [0, 0]
    goes_on(lab)


def test_a_command_that_waits_goes_on_when_the_holder_is_killed(make: Make) -> None:
    lab = make("halted")
    with lab.held("agent") as wait:
        first = lab.start("up")
        wait(first)
        second = lab.start("up")
        until(lambda: f"process {first.pid}" in second.said(), 10, "it says who holds the machine")
        first.send(signal.SIGKILL)
        first.end()
        lab.stages()
        assert second.end().status == 0
    goes_on(lab)


def test_a_second_signal_while_labkit_clears_up(make: Make) -> None:
    lab = make("halted")

    def twice(child: Labkit) -> None:
        child.send(signal.SIGINT)
        child.send(signal.SIGTERM)

    done = lab.stopped_at(Hold("incoming"), twice, "up")
    assert done.status in (130, 143)
    assert lab.state() is MachineState.HALTED
    goes_on(lab)


def test_a_home_that_was_moved(make: Make) -> None:
    lab = make("halted")
    moved = lab.home.with_name("elsewhere")
    lab.home.rename(moved)
    lab.home, lab.environ["LABKIT_HOME"] = moved, str(moved)
    goes_on(lab)


def test_a_home_that_was_moved_while_its_machine_ran(make: Make) -> None:
    lab = make("running")
    pid = lab.qemu()
    moved = lab.home.with_name("elsewhere")
    lab.home.rename(moved)
    environ = lab.environ["LABKIT_HOME"], str(moved)
    lab.environ["LABKIT_HOME"] = environ[1]
    done = lab.run("up", status=None)
    assert done.status == 0 or "moved" in done.stderr, done
    assert Path(f"/proc/{pid}").exists(), "it is not ended"
    moved.rename(lab.home)
    lab.environ["LABKIT_HOME"] = environ[0]
    goes_on(lab)


def test_an_image_that_is_damaged_while_a_machine_stands_on_it(make: Make) -> None:
    """Another machine's `up` makes the image again; what the halted one stands on stays."""
    lab = make("halted")
    (image,) = lab.home.glob("images/*/image.json")
    image.write_text("{")
    lab.run("up", "--machine", "another")
    lab.run("destroy", "--machine", "another")
    goes_on(lab)


def test_a_live_state_that_is_damaged_while_a_machine_stands_on_it(make: Make) -> None:
    lab = make("halted")
    (state,) = lab.home.glob("images/*/live-*/state")
    state.write_text("damaged")
    lab.run("up", "--machine", "another")
    lab.run("destroy", "--machine", "another")
    goes_on(lab)


def test_what_was_written_after_a_resume_outlives_a_crash(make: Make) -> None:
    """labkit was killed between the guest's first answer and giving up the state that it was resumed from."""
    lab = make("halted")
    lab.signalled(Event("os.remove", "*/state.used"), signal.SIGKILL, "up")
    lab.run("up")
    lab.in_guest("put", "/root/newer", "newer")
    lab.kill_qemu()
    goes_on(lab)
    assert lab.in_guest("cat", "/root/newer") == "newer"


def test_a_machine_directory_that_is_gone_while_it_runs(make: Make) -> None:
    lab = make("running")
    shutil.rmtree(lab.machine)
    assert lab.state() is MachineState.ABSENT
    lab.run("up")
    lab.nothing_left()


# --- a full disk

_CLONE_NEWNS = 0x20000


@pytest.fixture
def full(make: Make) -> Callable[[str, Callable[[FaultLab, Path], None]], None]:
    """Runs a test where the lab's home is on a small disk of its own, which nobody else sees."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")

    def run(before: str, body: Callable[[FaultLab, Path], None]) -> None:
        lab = make(before)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _mounted(lab)
                body(lab, lab.home / "filling")
                status = 0
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                lab.close()
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    return run


def _mounted(lab: FaultLab) -> None:
    """Put the home on a disk of 320 MiB, in a namespace of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    aside = lab.home.with_name("aside")
    lab.home.rename(aside)
    lab.home.mkdir()
    commands: tuple[list[str | Path], ...] = (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", "size=320M,mode=700", "none", lab.home],
        ["cp", "-a", f"{aside}/.", lab.home],
    )
    for words in commands:
        subprocess.run(words, check=True)


def _fill(filling: Path) -> None:
    """Leave no byte free."""
    with filling.open("wb") as file:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    os.write(file.fileno(), b"\0" * size)
                except OSError:
                    break


def test_a_guest_that_writes_to_a_full_disk(full: Callable[[str, Callable[[FaultLab, Path], None]], None]) -> None:
    def body(lab: FaultLab, filling: Path) -> None:
        lab.run("up")
        _fill(filling)
        assert lab.in_guest("put", "/root/large", "large" * 100_000) is None
        (info,) = json.loads(lab.run("status", "--json").stdout)
        assert info["state"] == "unreachable"
        assert "was full" in info["problem"]
        lab.run("up", status=3)
        filling.unlink()
        done = lab.run("up")
        assert "its disk was full; it goes on" in done.stderr
        assert lab.in_guest("cat", PRECIOUS) == "precious"

    full("halted", body)


@pytest.mark.parametrize("before", ["new", "halted", "crashed"])
def test_up_on_a_full_disk(full: Callable[[str, Callable[[FaultLab, Path], None]], None], before: str) -> None:
    def body(lab: FaultLab, filling: Path) -> None:
        _fill(filling)
        done = lab.run("up", status=3)
        assert "free" in done.stderr or "No space left" in done.stderr or "no space left" in done.stderr, done
        filling.unlink()
        lab.run("up")
        assert before == "new" or lab.in_guest("cat", PRECIOUS) == "precious"

    full(before, body)


def test_halt_on_a_full_disk(full: Callable[[str, Callable[[FaultLab, Path], None]], None]) -> None:
    def body(lab: FaultLab, filling: Path) -> None:
        lab.run("up")
        _fill(filling)
        done = lab.run("halt", status=3)
        assert "MiB free; this needs" in done.stderr
        assert lab.state() is MachineState.RUNNING
        filling.unlink()
        lab.run("up")
        assert lab.in_guest("cat", PRECIOUS) == "precious"

    full("halted", body)


def test_reports_on_a_full_disk(full: Callable[[str, Callable[[FaultLab, Path], None]], None]) -> None:
    def body(lab: FaultLab, filling: Path) -> None:
        lab.run("up")
        lab.environ |= {"LABKIT_REPORTS": str(lab.home / "reports")}
        _fill(filling)
        done = lab.run("test", status=3)
        assert "no space left on the disk that holds" in done.stderr
        filling.unlink()
        lab.run("test")
        assert lab.in_guest("cat", PRECIOUS) == "precious"

    full("halted", body)

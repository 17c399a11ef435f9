"""The rows of machines of User-Mode Linux, all tried on real ones (test_uml.py)."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from tests.faults.points import Event, Later
from tests.faults.table import NEXT, Row, SignalCase, Stage

_RECORD = "*/machines/*/record.json"
_SPAWN = Event("subprocess.Popen", "*sandbox.py*")
_NETWORK = Event("subprocess.Popen", "*slirp4netns*--exit-fd*")
_FORWARD = Event("socket.connect", "*network.sock")
_SSH = Event("socket.connect", "127.0.0.1")
_UNMADE = {"new": "interrupted"}
_THERE = {"halted": "halted", "crashed": "crashed"}
_HANDLED = (signal.SIGINT, signal.SIGKILL)


def _stages() -> Iterator[Stage]:
    up, all_ = ("up",), _UNMADE | _THERE
    yield Stage("record", "writes the record of a new machine", up, Event("os.rename", _RECORD), _UNMADE)
    yield Stage("mark", "writes down that it is being started", up, Event("os.rename", "*/starting"), all_)
    yield Stage("spawn", "starts the sandbox", up, _SPAWN, all_)
    yield Stage("network", "starts its way to the network", up, _NETWORK, all_)
    yield Stage("forward", "forwards a port", up, _FORWARD, all_)
    yield Stage("boot", "waits for the guest's sshd", up, Later(_SSH, 0.3), all_)
    yield Stage("pin", "pins the host key", up, Event("os.rename", "*/known_hosts"), _UNMADE)
    yield Stage("ready", "writes down that the machine is ready", up, Event("os.rename", _RECORD, 2), _UNMADE)
    yield Stage("ready", "writes down that the machine is ready", up, Event("os.rename", _RECORD), _THERE)
    crashed = dict.fromkeys(all_, "crashed")
    yield Stage("started", "writes down that it is started", up, Event("os.remove", "*/starting"), crashed)
    halt, running = ("halt",), {"running": "running"}
    yield Stage("login", "asks the guest to end", halt, Event("socket.connect", "127.0.0.1", 2), running)
    yield Stage("end", "writes down that it is halted", halt, Event("os.rename", "*/halted"), {"running": "crashed"})
    reset, new = ("reset",), {"running": "interrupted"}
    yield Stage("record", "is about to make it new", reset, Event("os.rename", _RECORD), {"running": "crashed"})
    clear = Event("shutil.rmtree", "*/volume")
    yield Stage("clear", "throws away what it has written", reset, clear, new, loses=True)
    yield Stage("spawn", "starts the sandbox", reset, _SPAWN, new, loses=True)
    yield Stage("ready", "writes down that it is ready", reset, Event("os.rename", _RECORD, 2), new, loses=True)
    destroy = ("destroy",)
    begin, half = Event("os.rename", "*/.*.removed"), Event("os.remove", "record.json")
    yield Stage("begin", "is about to remove it", destroy, begin, {"halted": "halted", "running": "crashed"})
    yield Stage("half", "has removed some of the files", destroy, half, {"halted": "absent"}, loses=True)
    kernel = Event("subprocess.Popen", "*mmdebstrap*user-mode-linux*")
    nothing = {"no kernel": "absent"}
    yield Stage("fetch", "fetches a kernel", up, Later(kernel, 1.5), nothing)
    yield Stage("keep", "gives a kernel its name", up, Event("os.rename", "*/kernels/*.making"), nothing)
    disk = Event("subprocess.Popen", "*qemu-img convert*raw*")
    yield Stage("disk", "makes the raw disk of an image", up, disk, {"no raw disk": "interrupted"})


CASES = [SignalCase(stage, number, before) for stage in _stages() for before in stage.asked for number in _HANDLED]
SAMPLE = {  # those of `./lab check`
    "up-new-boot-SIGINT", "up-halted-started-SIGINT", "up-crashed-network-SIGKILL", "halt-running-end-SIGKILL",
    "reset-running-clear-SIGKILL", "up-no kernel-fetch-SIGKILL",
}  # fmt: skip


def _signals() -> Iterator[Row]:
    for case in CASES:
        ends = "The next command clears up" if case.killed else f"Ends with status {case.status}, clears up"
        then = f"{ends}; the machine is {case.after}; {NEXT[case.after].replace('resumes it', 'boots its disk')}"
        yield Row(
            f"uml-{case.id}", case.stage.title, f"{case.number.name} to labkit", case.before, then, _test("signal")
        )


def _test(name: str) -> str:
    return f"test_uml.py::test_{name}"


def _others() -> Iterator[Row]:
    def row(name: str, when: str, fault: str, before: str, outcome: str) -> Row:
        return Row(f"uml-{name.replace('_', '-')}", when, fault, before, outcome, _test(name))

    named, up = "Status 3, saying what is missing; nothing runs", "`up`"
    yield row("no_user_namespaces", up, "user.max_user_namespaces is 0", "new", named)
    yield row("no_tun", up, "there is no /dev/net/tun", "new", named)
    yield row("no_slirp4netns", up, "slirp4netns is not installed", "new", named)
    slower = "The machine comes up, slower; `up` and `doctor` say so"
    yield row("a_kernel_without_the_seccomp_mode", up, "uml_kernel is 6.1", "new", slower)
    yield row("a_kernel_that_is_none", up, "uml_kernel is no program, no kernel, or a script", "new", named)
    panic = "Status 3 within seconds, with what the console says; `reset` makes the machine clean"
    yield row("a_guest_that_panics_at_boot", "`up` boots a disk", "its /bin/sh is gone", "crashed", panic)
    lost = "Status 3; the file is named, nothing is touched; once it is back, `up` boots it"
    yield row("a_copy_on_write_file_that_is_damaged", up, "volume/cow.img is gone, empty, cut, binary", "halted", lost)
    again = "It is made again, which is told where it was there; nothing is lost"
    yield row("a_raw_disk_that_is_damaged", up, "raw/disk.img is gone, cut, written to", "halted", again)
    other = "Status 3: the machine's disk is of another one; once the image is back, `up` boots it"
    yield row("a_base_of_another_image", up, "another image has come under the same key", "halted", other)
    yield row("a_record_that_is_damaged", up, "record.json is gone, cut", "halted", lost)
    moved = "It is found running, and what it has written is there"
    yield row("a_home_that_was_moved", up, "the lab's home was moved", "running, halted", moved)
    kernel = "Another one is fetched"
    yield row("a_kept_kernel_that_is_damaged", up, "kernels/DIGEST/kernel.json is cut", "halted", kernel)
    full = "Status 3, saying what is full; once there is space, what was written before is there"
    yield row("a_full_disk", "a guest writes; `up`", "the host's disk is full", "running", full)


ROWS = [*_signals(), *_others()]

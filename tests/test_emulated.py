"""Machines of QEMU, and the distribution's kernel, through the command line: what is about either of them.

Most tests share one lab whose machine they leave running and clean (fixture `emulated` in conftest.py).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Lab, make_lab, until
from tests.test_machines import QUICK, SLOW, put, results_so_far, the_whole_spec_suite

pytestmark = [pytest.mark.machine, pytest.mark.emulated]


@pytest.fixture(scope="session")
def lab(emulated: Lab) -> Lab:
    return emulated


@pytest.fixture(autouse=True)
def nothing_goes_on(lab: Lab) -> Iterator[None]:
    yield
    lab.kill_all()


PANIC_ONCE = """[Unit]
Before=labkit-agent.service
[Service]
Type=oneshot
ExecStart=/root/panic-once
[Install]
WantedBy=multi-user.target"""


def test_nobody_else_reaches_a_machine(lab: Lab) -> None:
    """Its monitor runs commands as root in it, and its disk and its image's state hold keys."""
    images = [path for path in (lab.home / "images").iterdir() if path.is_dir()]
    live = [path for image in images for path in image.glob("live-*")]
    assert live
    for directory in (lab.home / "machines/debian-13", lab.home / "keys", *images, *live):
        assert directory.stat().st_mode & 0o777 == 0o700, directory
    for name in ("qmp.sock", "agent.sock", "network.sock", "disk.qcow2", "console.log", "record.json", "known_hosts"):
        assert (lab.home / "machines/debian-13" / name).stat().st_mode & 0o077 == 0, name


REACH = """
import socket
for host in ("10.0.2.2", "127.0.0.1"):
    with socket.socket() as here:
        here.settimeout(10)
        here.bind(("10.0.2.15", 0))
        try:
            here.connect((host, %d))
            print("reached", host)
        except OSError:
            pass
"""


def test_a_guest_reaches_no_server_of_this_host(lab: Lab) -> None:
    """Neither at the address where QEMU shows them, nor with packets to 127.0.0.1 that it sends out by its network."""
    craft = "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via 10.0.2.2 dev eth0 src 10.0.2.15; "
    craft += "sysctl -qw net.ipv4.conf.all.route_localnet=1; ip route del local 127.0.0.1 table local; "
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert lab.guest(f"{craft}python3 -c '{REACH % server.getsockname()[1]}'") == ""
    # QEMU's network on this host is not cut off with that: its packets do go out.
    assert lab.guest("ip -4 -o addr show eth0 | grep -c 10.0.2.15") == "1\n"
    lab.run("reset")


def test_qemu_is_not_root_and_starts_no_program(lab: Lab) -> None:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{lab.qemu()}/status").read_text().splitlines())
    assert int(status["Uid"].split()[0]) > 1_000_000_000
    assert int(status["CapEff"], 16) == 0
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")


def test_what_a_guest_prints_is_there(lab: Lab) -> None:
    lab.guest("echo on the console >/dev/ttyS0")
    console = lab.home / "machines/debian-13/console.log"
    until(lambda: "on the console" in console.read_text(errors="replace"), 20, "the console's line")


def test_a_qemu_that_was_stopped_is_named_at_once(lab: Lab) -> None:
    pid = lab.qemu()
    os.kill(pid, signal.SIGSTOP)
    try:
        [info] = lab.json("status")
        assert (info["state"], info["problem"]) == (
            "unreachable", f"the QEMU of machine debian-13, process {pid}, was stopped by a signal",
        )  # fmt: skip
        for words in (["up"], ["halt"], ["test", "--only", QUICK]):
            began = time.monotonic()
            assert f"process {pid}, was stopped by a signal" in lab.run(*words, status=3).stderr
            assert time.monotonic() - began < 90
    finally:
        os.kill(pid, signal.SIGCONT)
    lab.run("up")
    assert lab.json("status")[0]["state"] == "running"


@pytest.mark.long
def test_a_machine_without_sshd_is_unreachable_and_comes_back(lab: Lab) -> None:
    lab.run("up", "--machine", "mute")
    lab.guest("echo kept >/root/precious; systemctl stop ssh; pkill -x sshd; true", "mute")
    info = next(info for info in lab.json("status") if info["name"] == "mute")
    assert (info["state"], info["problem"]) == ("unreachable", "its sshd does not run")
    said = lab.run("test", "--machine", "mute", "--only", QUICK, status=3).stderr
    assert "cannot be reached: its sshd does not run" in said
    assert "--discard-state boots it again from its disk" in said
    lab.run("halt", "--machine", "mute")
    assert "its sshd does not run" in lab.run("up", "--machine", "mute", status=3).stderr
    lab.run("up", "--machine", "mute", "--discard-state")
    assert lab.guest("cat /root/precious", "mute") == "kept\n"
    lab.run("destroy", "--machine", "mute")


@pytest.mark.slow  # on simulated machines: test_a_state_that_does_not_load_leaves_the_disk_to_be_booted
def test_memory_that_cannot_be_loaded_is_given_up_only_when_asked(lab: Lab) -> None:
    lab.run("up", "--machine", "torn")
    lab.guest("echo kept >/root/precious", "torn")
    lab.run("halt", "--machine", "torn")
    state = lab.home / "machines/torn/state"
    with state.open("r+b") as file:
        file.seek(state.stat().st_size // 2)
        file.write(b"not what was written")
    for words in (["up"], ["test", "--only", QUICK]):
        said = lab.run(*words, "--machine", "torn", status=3).stderr
        assert f"{state} is not what was written" in said
        assert "--discard-state" in said
    lab.run("up", "--machine", "torn", "--discard-state")
    assert lab.guest("cat /root/precious", "torn") == "kept\n"
    assert not list((lab.home / "machines/torn").glob("state*"))
    lab.run("destroy", "--machine", "torn")


@pytest.fixture
def cramped(lab: Lab, tmp_path: Path) -> Iterator[Lab]:
    """A lab with the image of the shared one, on a small disk of its own."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2G", "none", small], check=True)
    try:
        for made in make_lab(small):
            subprocess.run(["cp", "-a", lab.home / "images", made.home / "images"], check=True)
            yield made
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


@pytest.mark.long
def test_a_full_disk_of_this_host_holds_a_machine_and_does_not_lose_it(cramped: Lab) -> None:
    def problem() -> str:
        [info] = cramped.json("status")
        return info["problem"] if info["state"] == "unreachable" else ""

    cramped.run("up")
    cramped.guest("echo kept >/root/precious; sync")
    ballast = cramped.home / "ballast"
    subprocess.run(["fallocate", "-l", str(shutil.disk_usage(cramped.home).free - (8 << 20)), ballast], check=True)
    writing = cramped.start("ssh", "--", "head -c 60000000 /dev/urandom >/root/big; sync")
    until(lambda: "was full" in problem(), 120, "QEMU holds the machine")
    assert "MiB free; this needs" in cramped.run("up", status=3).stderr
    ballast.unlink()
    assert "stood still, for its disk was full; it goes on" in cramped.run("up").stderr
    assert cramped.end(writing).returncode == 0
    assert cramped.guest("cat /root/precious") == "kept\n"


@pytest.mark.slow  # test_uml_verdicts has what only such a kernel can show
def test_the_whole_spec_suite_on_cgroup_v2(lab: Lab) -> None:
    the_whole_spec_suite(lab, "crun")


def test_reset_forgets_and_keeps_the_identity(lab: Lab) -> None:
    before = lab.guest("cat /etc/ssh/ssh_host_ed25519_key.pub; cat /etc/machine-id; hostname")
    port = lab.json("status")[0]["port"]
    dice = {lab.guest("head -c 16 /dev/urandom | od -An -tx1")}
    for _ in range(2):  # the first one makes the state that later ones restore
        lab.guest("echo mine >/root/marker")
        lab.run("reset")
        assert lab.guest("test -e /root/marker && echo there || echo gone") == "gone\n"
        assert lab.guest("cat /etc/ssh/ssh_host_ed25519_key.pub; cat /etc/machine-id; hostname") == before
        assert lab.json("status")[0]["port"] == port
        assert abs(int(lab.guest("date +%s")) - time.time()) < 15
        dice.add(lab.guest("head -c 16 /dev/urandom | od -An -tx1"))
    assert len(dice) == 3


def test_halt_keeps_what_was_there(lab: Lab) -> None:
    lab.guest("echo kept >/root/marker; nohup sleep 1234 >/dev/null 2>&1 &")
    lab.run("halt")
    assert not [pid for pid in lab.processes()]
    assert lab.json("status")[0]["state"] == "halted"
    lab.run("ssh", "--", "true", status=3)
    lab.run("up")
    assert lab.guest("cat /root/marker; pgrep -x sleep >/dev/null && echo asleep") == "kept\nasleep\n"
    assert abs(int(lab.guest("date +%s")) - time.time()) < 15
    lab.run("reset")


def test_machines_are_not_twins(lab: Lab) -> None:
    ask = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; hostname; head -c 16 /dev/urandom | od -An -tx1"
    children = [lab.start("up", "--machine", name) for name in ("one", "two")]
    ended = [lab.end(child) for child in children]
    assert [done.returncode for done in ended] == [0, 0], ended
    lines = [lab.guest(ask, name).splitlines() for name in ("one", "two")]
    assert all(one != two for one, two in zip(*lines, strict=True)), lines
    ports = {info["name"]: info["port"] for info in lab.json("status")}
    assert len(set(ports.values())) == len(ports) == 3
    lab.run("destroy", "--machine", "one")
    assert lab.guest("hostname", "two") == "two\n"
    lab.run("destroy", "--machine", "two")


@pytest.mark.slow
def test_a_guest_that_panics_during_the_suite(lab: Lab) -> None:
    lab.run("up", "--machine", "panic")
    put(lab, "/root/panic-once", "#!/bin/sh\nsystemctl disable panic-once; sync; echo c >/proc/sysrq-trigger", "panic")
    put(lab, "/etc/systemd/system/panic-once.service", PANIC_ONCE, "panic")
    lab.guest("systemctl enable panic-once; echo kept >/root/marker; sync", "panic")
    child = lab.start("test", "--machine", "panic", "--only", SLOW, "--jobs", "1")
    until(lambda: results_so_far(lab, "panic") >= 1, what="a first result")
    lab.run("ssh", "--machine", "panic", "--", "(sleep 0.2; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
    began = time.monotonic()
    done = lab.end(child, 180)
    assert time.monotonic() - began < 15, "a panic ends the run at once"
    assert done.returncode == 4, done
    reason = lab.results()["run"]["reason"]
    assert re.match(r"the machine's kernel panicked \(.*Kernel panic - not syncing: sysrq triggered crash\); ", reason)
    assert "was cut" in reason
    assert "Kernel panic" in (lab.cwd / "reports/latest/console.log").read_text()
    # What is dead is not taken for running, and `up` boots its disk again: once more where the kernel panics meanwhile.
    assert {info["name"]: info["state"] for info in lab.json("status")}["panic"] == "crashed"
    said = lab.run("up", "--machine", "panic").stderr
    assert "crashed or was killed; booting its disk again" in said
    assert "panicked while it booted; booting again" in said
    assert lab.guest("cat /root/marker", "panic") == "kept\n"
    assert lab.run("destroy", "--machine", "panic").stdout == "destroyed panic\n"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Lab]:
    """A lab of the test's own, without an image."""
    yield from make_lab(tmp_path)


@pytest.mark.slow
def test_sigkill_while_the_image_is_built_and_booted(own: Lab) -> None:
    """Whatever moment labkit is killed at, the next command clears up and goes on; nothing is forgotten."""
    child = own.start("up")
    until(lambda: list(own.home.glob("images/*.making/tmp/*/usr/bin/apt")), what="mmdebstrap at work")
    own.kill(child)
    assert own.processes(), "mmdebstrap goes on without labkit"
    child = own.start("up")
    until(lambda: list(own.home.glob("images/*/live-*.making/console.log")), 300, "the first boot")
    assert len(list(own.home.glob("images/*"))) == 1
    own.kill(child)
    assert own.processes(), "QEMU goes on without labkit"
    child = own.start("up")
    until(lambda: list(own.home.glob("machines/debian-13/qmp.sock")), 300, "the machine's start")
    own.kill(child)
    assert own.json("status")[0]["state"] == "interrupted"
    own.run("up")
    assert own.guest("hostname") == "debian-13\n"
    assert own.run("destroy").stdout == "destroyed debian-13\n"
    assert own.processes() == []
    assert not list(own.home.glob("images/*.making")) + list(own.home.glob("images/*/*.making"))

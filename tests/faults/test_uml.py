"""Faults on real machines of User-Mode Linux, in a lab of their own: what machines are made of is damaged too."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.machines.base import MachineState
from tests.conftest import Lab, make_lab
from tests.faults.driver import RealLab, marked, others, until
from tests.faults.table import SignalCase
from tests.faults.table_uml import CASES, SAMPLE
from tests.stock import Stock

pytestmark = pytest.mark.machine

NAME = "faults"


class UmlLab(RealLab):
    """halted: a copy of the machine as it was when it was halted."""

    halted: Path

    def prepare(self, before: str) -> None:
        """Bring the machine into that state, with the file in it."""
        self.run("destroy")
        if before in ("new", "no kernel", "no raw disk"):
            for place in {"no kernel": self.home.glob("kernels/*"), "no raw disk": self.home.glob("images/*/raw")}.get(
                before, ()
            ):
                shutil.rmtree(place)
            return
        if not self.halted.exists():
            self.run("up")
            self.in_guest("echo precious >/root/precious; sync")
            self.run("halt")
            subprocess.run(["cp", "-a", "--sparse=always", self.machine, self.halted], check=True)
        else:
            subprocess.run(["cp", "-a", "--sparse=always", self.halted, self.machine], check=True)
        if before == "crashed":
            (self.machine / "halted").unlink()
        elif before == "running":
            self.run("up")
        assert self.state() == before

    def goes_on(self) -> None:
        self.run("up")
        assert self.precious()
        self.nothing_left()


def made(lab: Lab, place: Path) -> UmlLab:
    temporary, cwd = place / "tmp", place / "work"
    temporary.mkdir()
    cwd.mkdir()
    environ = lab.environment({"LABKIT_MACHINE_NAME": NAME, "TMPDIR": str(temporary)})
    found = UmlLab(lab.home, cwd, environ, place, temporary, name=NAME)
    found.halted = place / "halted"
    return found


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    if stock.why_not:
        pytest.skip(f"User-Mode Linux does not work here: {stock.why_not}")
    for lab in make_lab(tmp_path_factory.mktemp("own"), provider="uml", stock=stock, own=True):
        lab.env["LABKIT_MACHINE_MEMORY"] = "1G"
        yield lab


@pytest.fixture(scope="module")
def harmed(own: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UmlLab]:
    found = made(own, tmp_path_factory.mktemp("harmed"))
    yield found
    for child in found.running:
        child.close()


@pytest.fixture
def within(own: Lab, tmp_path: Path) -> Lab:
    """The lab, from other namespaces."""
    return Lab(own.home, tmp_path, {**own.env, "LABKIT_MACHINE_NAME": NAME})


def test_the_sample_is_of_the_table() -> None:
    assert {case.id for case in CASES} >= SAMPLE


@pytest.mark.parametrize(
    "case",
    [
        *marked(case for case in CASES if case.id in SAMPLE),
        *others(case for case in CASES if case.id not in SAMPLE),
    ],
)
def test_signal(harmed: UmlLab, case: SignalCase) -> None:
    stage = case.stage
    harmed.prepare(case.before)
    done = harmed.signalled(stage.point, case.number, *stage.command)
    assert done.status == case.status, done
    assert harmed.state() == case.after, done
    if not case.killed:
        harmed.nothing_left()
    harmed.run("up")
    harmed.nothing_left()
    assert len(list(harmed.home.glob("kernels/*"))) == 1
    if case.before in ("halted", "crashed", "running") and not stage.loses:
        assert harmed.precious()


def test_no_user_namespaces(harmed: UmlLab, within: Lab) -> None:
    harmed.prepare("new")
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    within.within = ("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    assert "no user namespace can be made" in within.run("up", status=3).stderr
    assert within.processes(NAME) == []


def test_no_tun(harmed: UmlLab, within: Lab) -> None:
    harmed.prepare("new")
    within.within = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net; exec "$@"', "sh")
    assert "User-Mode Linux cannot run here: there is no /dev/net/tun" in within.run("up", status=3).stderr
    assert within.processes(NAME) == []


def test_no_slirp4netns(harmed: UmlLab, within: Lab) -> None:
    """And a package manager that installs nothing."""
    harmed.prepare("new")
    managers = [path for name in ("apt-get", "dnf", "zypper", "pacman") if (path := shutil.which(name))]
    hide = [
        f"mount --bind /dev/null {shutil.which('slirp4netns')}",
        *(f"mount --bind /bin/true {it}" for it in managers),
    ]
    within.within = ("unshare", "--mount", "sh", "-c", f'{"; ".join(hide)}; exec "$@"', "sh")
    assert "slirp4netns is still missing" in within.run("up", status=3).stderr
    assert within.processes(NAME) == []


def test_a_kernel_without_the_seccomp_mode(harmed: UmlLab, within: Lab, tmp_path: Path) -> None:
    """That of Debian 12."""
    harmed.prepare("new")
    get = "apt-get -o APT::Sandbox::User=root download user-mode-linux && dpkg-deb -x user-mode-linux_*.deb tree"
    done = subprocess.run(["sh", "-c", get], cwd=tmp_path, capture_output=True, text=True, check=False)
    program = tmp_path / "tree/usr/bin/linux.uml"
    if done.returncode or not list(tmp_path.glob("tree/usr/lib/uml/modules/6.1.*")):
        pytest.skip(f"there is no such package here: {done.stderr.strip()}")
    within.env["LABKIT_UML_KERNEL"] = str(program)
    assert "has no seccomp mode" in within.run("up").stderr
    assert within.guest("uname -r", NAME).startswith("6.1.")
    assert "several times slower than one since 6.16" in within.run("doctor", status=None).stdout
    within.run("destroy")
    shutil.rmtree(next(path for path in within.home.glob("kernels/*") if str(program) in _about(path)))


def _about(kernel: Path) -> str:
    return (kernel / "kernel.json").read_text()


def test_a_kernel_that_is_none(harmed: UmlLab, within: Lab, tmp_path: Path) -> None:
    harmed.prepare("new")
    text, script = tmp_path / "text", tmp_path / "script"
    text.write_bytes(bytes(range(256)))
    script.write_text("#!/bin/sh\necho 6.99\n")
    for path in (text, script):
        path.chmod(0o755)
    for path, said in (
        (Path("/none"), "uml_kernel = /none is no program"),
        (Path("/bin/true"), "/bin/true is no kernel of User-Mode Linux"),
        (text, f"{text} is no kernel of User-Mode Linux"),
        (script, "the guest ended before it came up"),
    ):
        assert said in within.run("up", status=3, env={"LABKIT_UML_KERNEL": str(path)}).stderr
        assert within.processes(NAME) == []
    shutil.rmtree(next(path for path in within.home.glob("kernels/*") if str(script) in _about(path)))


def test_a_guest_that_panics_at_boot(harmed: UmlLab) -> None:
    harmed.prepare("running")
    harmed.in_guest("mv /usr/bin/dash /usr/bin/lost; sync; echo b >/proc/sysrq-trigger")
    for pid in harmed.processes(harmed.machine):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: harmed.state() is MachineState.CRASHED, 10, "it is down")
    began = time.monotonic()
    done = harmed.run("up", status=3)
    assert "the guest's kernel panicked, so it did not come up" in done.stderr
    assert time.monotonic() - began < 15
    assert harmed.state() is MachineState.CRASHED
    harmed.nothing_left()
    harmed.run("reset")
    assert harmed.in_guest("true") is not None


def test_a_copy_on_write_file_that_is_damaged(harmed: UmlLab, tmp_path: Path) -> None:
    harmed.prepare("halted")
    cow, aside = harmed.machine / "volume/cow.img", tmp_path / "aside"
    cow.rename(aside)
    with aside.open("rb") as file:
        beginning = file.read(5000)
    for data in (None, b"", beginning, bytes(range(256)) * 40):
        if data is not None:
            cow.write_bytes(data)
        done = harmed.run("up", status=3)
        assert f"the disk of machine {NAME} is lost or damaged: {cow}" in done.stderr
        assert harmed.state() is MachineState.HALTED
        harmed.nothing_left()
        assert data is None or cow.read_bytes() == data
    aside.rename(cow)
    harmed.goes_on()


def test_a_raw_disk_that_is_damaged(harmed: UmlLab) -> None:
    (raw,) = harmed.home.glob("images/*/raw/disk.img")
    for how in ("gone", "cut", "written to"):
        harmed.prepare("halted")
        if how == "gone":
            shutil.rmtree(raw.parent)
        elif how == "cut":
            os.truncate(raw, 1 << 20)
        else:
            with raw.open("r+b") as file:
                file.write(b"not what was made")
        done = harmed.run("up")
        assert ("was changed; making it again" in done.stderr) == (how != "gone")
        assert harmed.precious()


def test_a_base_of_another_image(harmed: UmlLab, tmp_path: Path) -> None:
    """The whole image was removed, and one of other bits is there."""
    harmed.prepare("halted")
    (sums,) = harmed.home.glob("images/*/sums.json")
    good = sums.read_bytes()
    image = sums.parent / "disk.qcow2"
    shutil.copy(image, tmp_path / "aside")
    try:
        shutil.rmtree(sums.parent / "raw")
        sums.unlink()
        with image.open("r+b") as file:  # an unused byte of its header's end
            file.seek(0, 2)
            file.write(b"\0" * 65536)
        done = harmed.run("up", status=3)
        assert "was written on another disk" in done.stderr
        harmed.nothing_left()
    finally:
        shutil.copy(tmp_path / "aside", image)
        sums.write_bytes(good)
    harmed.goes_on()


def test_a_record_that_is_damaged(harmed: UmlLab) -> None:
    harmed.prepare("halted")
    record = harmed.machine / "record.json"
    good = record.read_bytes()
    for data in (None, good[: len(good) // 2]):
        record.unlink(missing_ok=True)
        if data is not None:
            record.write_bytes(data)
        assert "record.json" in harmed.run("up", status=3).stderr
        assert harmed.state() is MachineState.DAMAGED
    record.write_bytes(good)
    harmed.goes_on()


def test_a_home_that_was_moved(harmed: UmlLab) -> None:
    harmed.prepare("running")
    home, moved = harmed.home, harmed.home.with_name("moved")
    for state in ("running", "halted"):
        home.rename(moved)
        harmed.home, harmed.environ["LABKIT_HOME"] = moved, str(moved)
        try:
            assert harmed.state() == state
            harmed.run("up")
            assert harmed.precious()
            harmed.run("halt")
        finally:
            moved.rename(home)
            harmed.home, harmed.environ["LABKIT_HOME"] = home, str(home)
    harmed.goes_on()


def test_a_kept_kernel_that_is_damaged(harmed: UmlLab) -> None:
    harmed.prepare("halted")
    (about,) = harmed.home.glob("kernels/*/kernel.json")
    about.write_bytes(about.read_bytes()[:40])
    harmed.goes_on()
    assert len(list(harmed.home.glob("kernels/*"))) == 1


def test_a_full_disk(own: Lab, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2G", "none", small], check=True)
    try:
        for lab in make_lab(small, provider="uml"):
            lab.env["LABKIT_MACHINE_MEMORY"] = "1G"
            for name in ("images", "kernels"):
                shutil.rmtree(lab.home / name, ignore_errors=True)
                subprocess.run(["cp", "-a", "--sparse=always", own.home / name, lab.home / name], check=True)
            lab.run("up")
            lab.guest("echo kept >/root/precious; sync")
            ballast = lab.home / "ballast"
            space = shutil.disk_usage(lab.home).free - (8 << 20)
            subprocess.run(["fallocate", "-l", str(space), ballast], check=True)
            lab.run("ssh", "--", "timeout 20 sh -c 'head -c 60000000 /dev/urandom >/root/big; sync'", status=None)
            lab.run("up", "--machine", "another", status=3)
            ballast.unlink()
            lab.run("halt", status=None)
            lab.run("up")
            assert lab.guest("cat /root/precious") == "kept\n"
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)

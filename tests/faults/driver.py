"""Runs labkit and does something to it at a named point: on simulated programs, or on real ones.

labkit is forked from this process: to load it anew for each call would take longer than most calls. A point is a stage
at which a simulated program holds (stages.py), or something that labkit is about to do, as Python's audit events tell
it (https://docs.python.org/3/library/audit_events.html): nothing in labkit knows of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from _pytest.mark.structures import ParameterSet

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.observer import Silent
from labkit.images import sums
from labkit.images.build import recipe
from labkit.machines import providers
from labkit.machines.base import MachineState
from tests.conftest import ROOT
from tests.faults.points import Change, Event, Hold, Later, Point, Shown, Waiting
from tests.faults.simulator import disk as simulated_disk
from tests.faults.table import pending
from tests.forked import forked

MACHINE = "debian-13"
PRECIOUS = "/root/precious"
_DIGITS = 5  # of a home's number: all homes have names of one length, see Templates.copy
_CONTENT = "precious"


class Case(Protocol):
    @property
    def id(self) -> str: ...


def marked(cases: Iterable[Case], *marks: pytest.MarkDecorator) -> list[ParameterSet]:
    """The cases as parameters of a test, each under its id. What is pending is to fail: it is told once it does not."""
    found = []
    for case in cases:
        why = pending(case.id)
        expected = [pytest.mark.xfail(reason=why, raises=AssertionError, strict=True)] if why else []
        found.append(pytest.param(case, id=case.id, marks=[*marks, *expected]))
    return found


def others(cases: Iterable[Case]) -> list[ParameterSet]:
    """Those that `./lab check` leaves out: every sixth is of --long, and all are of --faults."""
    found = [*cases]
    return [
        *marked(found[::6], pytest.mark.long),
        *marked((case for number, case in enumerate(found) if number % 6), pytest.mark.slow),
    ]


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition that another process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.003)


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    stdout: str
    stderr: str


def _watch(at: Event | Change, act: Callable[[], None]) -> None:
    left = at.nth

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if left and at.matches(name, arguments):
            left -= 1
            if not left:
                act()

    sys.addaudithook(hook)


class Labkit:
    """One run of labkit that goes on."""

    def __init__(self, pid: int, out: Any, err: Any) -> None:
        self.pid = pid
        self._files = (out, err)
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def stands(self) -> bool:
        """Whether it has stopped itself, or has ended."""
        if self.poll() is not None:
            return True
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        except OSError:
            return False

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self, seconds: float = 180) -> Ended:
        """Wait for it; what takes longer than that hangs, which is a failure: its stacks are shown."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGABRT)  # faulthandler's
                time.sleep(0.5)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self._status = -signal.SIGKILL
                raise AssertionError(f"labkit hangs: {self._said()}")
            time.sleep(0.002)
        assert self._status is not None
        return Ended(self._status, *self._said())

    def close(self) -> None:
        for file in self._files:
            file.close()

    def said(self) -> str:
        """What it has printed on stderr so far."""
        return self._said()[1]

    def _said(self) -> tuple[str, str]:
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return texts[0], texts[1]


@dataclass
class FaultLab:
    """A lab to be done harm to."""

    home: Path
    cwd: Path
    environ: dict[str, str]
    programs: Path  # simulated ones
    temporary: Path
    name: str = MACHINE
    running: list[Labkit] = field(default_factory=list)

    # -- labkit

    def start(self, *words: str, at: Event | Change | None = None, act: Callable[[], None] = lambda: None) -> Labkit:
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115

        def first() -> None:
            if at is not None:
                _watch(at, act)

        pid = forked(words, self.environ, self.cwd, out.fileno(), err.fileno(), first)
        child = Labkit(pid, out, err)
        self.running.append(child)
        return child

    def run(self, *words: str, status: int | None = 0, seconds: float = 50) -> Ended:
        done = self.start(*words).end(seconds)
        assert "Traceback" not in done.stderr, done.stderr
        assert status is None or done.status == status, f"{words}: {done}"
        return done

    def stopped_at(self, point: Point, act: Callable[[Labkit], None], *words: str, release: bool = False) -> Ended:
        """Run labkit, do something to it or around it once it is at the point, and wait for its end.

        release: a simulated program that stands there may go on after that.
        """
        match point:
            case Hold(stage):
                with self.held(stage) as wait:
                    child = self.start(*words)
                    wait(child)
                    act(child)
                    if release:
                        self.stages()
                    done = child.end()
            case Waiting():
                path = self.home / "locks" / f"machine-{self.name}.lock"
                path.parent.mkdir(exist_ok=True)
                with path.open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    child = self.start(*words)
                    until(lambda: "waiting for" in child.said(), 60, "it waits for the lock")
                    act(child)
                    done = child.end()
            case Shown(pattern, text):
                child = self.start(*words)
                old = set(self.cwd.glob(pattern))
                until(
                    lambda: (
                        any(text in path.read_bytes() for path in set(self.cwd.glob(pattern)) - old)
                        or child.poll() is not None
                    ),
                    300,
                    f"{text!r} in {pattern}",
                )
                act(child)
                done = child.end()
            case Later(event, wait_for):
                child = self.start(*words, at=event, act=self._reached.touch)
                until(lambda: self._reached.exists() or child.poll() is not None, 300, f"{event}")
                self._reached.unlink()
                time.sleep(wait_for)
                act(child)
                done = child.end()
            case Event() | Change():

                def stop() -> None:
                    self._reached.touch()
                    os.kill(os.getpid(), signal.SIGSTOP)
                    # Another thread may get the signal: the main one hears of it here, before the event.
                    time.sleep(0.01)

                child = self.start(*words, at=point, act=stop)
                until(child.stands, 300, f"{words} comes to {point}")
                assert child.poll() is None, f"{words} never came to {point}: {child.end()}"
                self._reached.unlink()
                act(child)
                child.send(signal.SIGCONT)
                done = child.end()
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def signalled(self, point: Point, number: signal.Signals, *words: str) -> Ended:
        """Run labkit, send it the signal at the point, and wait for its end."""
        return self.stopped_at(point, lambda child: child.send(number), *words)

    @staticmethod
    def kill_itself() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @property
    def _reached(self) -> Path:
        return self.temporary.parent / "reached"

    @contextlib.contextmanager
    def held(self, *stages: str) -> Iterator[Callable[[Labkit], None]]:
        """Within the block simulated programs stand at the stages; the function waits until one does."""
        marks = [self.programs / f"at-{stage}" for stage in stages]

        def wait(child: Labkit) -> None:
            until(lambda: any(mark.exists() for mark in marks) or child.poll() is not None, 20, f"stage {stages}")
            assert child.poll() is None, f"it never came to {stages}: {child.end()}"

        self.stages(hold=stages)
        try:
            yield wait
        finally:
            self.stages()
            for mark in marks:
                mark.unlink(missing_ok=True)

    def stages(self, hold: Sequence[str] = (), fail: Mapping[str, object] | None = None) -> None:
        aside = self.programs / "stages.json.new"
        aside.write_text(json.dumps({"hold": list(hold), "fail": dict(fail or {})}))
        aside.rename(self.programs / "stages.json")

    # -- what there is

    @property
    def settings(self) -> Settings:
        return config.load(cwd=self.cwd, environ=self.environ)

    def state(self) -> MachineState:
        return providers.existing(self.name, self.settings, Silent()).status().state

    @property
    def machine(self) -> Path:
        return self.home / "machines" / self.name

    def processes(self, below: Path | None = None) -> dict[int, str]:
        """What was started for this home, or a directory in it: pid and the program's name."""
        mark = f"_LABKIT_OWNER={below or self.home}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes():
                        found[int(entry.name)] = (entry / "comm").read_text().strip()
        return found

    def qemu(self) -> int:
        found = [pid for pid, name in self.processes(self.machine).items() if name.startswith("qemu-system")]
        assert len(found) == 1, self.processes()
        return found[0]

    def kill_qemu(self) -> None:
        pid = self.qemu()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(self.machine), 10, "QEMU is gone")

    def in_guest(self, *words: str) -> str | None:
        """What a command prints in the simulated guest; None where it fails."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(f"\0labkit-simulator-{self.qemu()}")
            control.sendall(json.dumps({"command": subprocess.list2cmdline(words)}).encode() + b"\n")
            control.shutdown(socket.SHUT_WR)
            with control.makefile("rb") as file:
                answers = [json.loads(line) for line in file]
        import base64

        text = b"".join(base64.b64decode(answer["out"]) for answer in answers if "out" in answer).decode()
        return text if answers[-1]["status"] == 0 else None

    def precious(self) -> bool:
        """Whether the running machine has what was put into it, and its memory fits its disk."""
        return self.in_guest("cat", PRECIOUS) == _CONTENT

    def precious_on_disk(self) -> bool:
        path = self.machine / "disk.qcow2"
        return path.exists() and simulated_disk.files(path).get(PRECIOUS) == _CONTENT

    # -- what must not be there

    def left(self) -> list[str]:
        """What a command has left behind that nobody needs: processes, locks, mounts, temporary files."""
        running = self.state() is MachineState.RUNNING
        needed = self.processes(self.machine) if running else {}
        found = [f"process {pid} {name}" for pid, name in self.processes(self.mine).items() if pid not in needed]
        names = ("*.part", "*.part-*", "*.making", ".*.part", "*.tmp", ".latest.*", ".*.removed", "probe-*")
        for place in (self.mine, self.cwd):
            found += [f"file {path}" for name in names for path in place.rglob(name)]
        found += [f"file {path}" for path in self.temporary.iterdir()]
        locks = self.home.glob(f"locks/machine-{self.name}.lock" if self.mine != self.home else "locks/*.lock")
        for lock in locks:
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    found.append(f"lock {lock}")
            if lock.with_suffix(".holder").exists():
                found.append(f"holder of {lock}")
        mounts = Path("/proc/self/mounts").read_text()
        found += [f"mount {line}" for line in mounts.splitlines() if str(self.mine) in line]
        return sorted(set(found))

    @property
    def mine(self) -> Path:
        """The directory in which nobody else does anything."""
        return self.home

    def nothing_left(self) -> None:
        """What labkit has left ends by itself within a moment, or not at all."""
        end = time.monotonic() + 2
        while left := self.left():
            assert time.monotonic() < end, left
            time.sleep(0.02)

    def close(self) -> None:
        for child in self.running:
            if child.poll() is None:
                child.send(signal.SIGKILL)
                child.end()
            child.close()
        for pid in self.processes(self.mine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Templates:
    """Homes with a machine in each state, made once and copied for each row."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self._login: subprocess.Popen[str] | None = None
        directory.mkdir(exist_ok=True)
        lab = self._empty()
        self._seed(lab)
        shutil.copytree(lab.home, directory / "bare", symlinks=True)
        lab.run("up")
        lab.in_guest("put", PRECIOUS, _CONTENT)
        lab.run("halt")
        self._keep(lab, "halted")
        lab.run("up")
        lab.kill_qemu()
        self._keep(lab, "crashed")
        lab.run("destroy")
        self._keep(lab, "new")
        lab.close()
        self._home = lab.home

    def copy(self, before: str) -> FaultLab:
        """A lab with a machine in that state: new (none, but its image is there), halted, crashed, running; or bare
        (the image was never booted), empty.
        """
        lab = self._empty()
        if before == "empty":
            return lab
        shutil.rmtree(lab.home)
        kept = {"running": "halted"}.get(before, before)
        shutil.copytree(self._directory / kept, lab.home, symlinks=True)
        for disk in lab.home.rglob("disk.qcow2"):
            # The name of the disk below is a path; this one is as long.
            data = disk.read_bytes()
            disk.write_bytes(data.replace(str(self._home).encode(), str(lab.home).encode()))
        if before == "running":
            lab.run("up")
            assert lab.precious()
        return lab

    def close(self) -> None:
        if self._login:
            assert self._login.stdin
            assert self._login.stdout
            self._login.stdin.close()
            self._login.wait()
            self._login.stdout.close()

    def _keep(self, lab: FaultLab, state: str) -> None:
        lab.nothing_left()
        shutil.copytree(lab.home, self._directory / state, symlinks=True, ignore=_sockets)

    def _empty(self) -> FaultLab:
        """A lab with nothing in it but simulated programs."""
        self._count += 1
        place = self._directory / f"{self._count:0{_DIGITS}}"
        programs, home, cwd, temporary = (place / name for name in ("bin", "home", "work", "tmp"))
        for directory in (programs, home, cwd, temporary):
            directory.mkdir(parents=True)
        for name, (module, function) in PROGRAMS.items():
            file = programs / name
            file.write_text(
                f"#!{sys.executable} -SE\nimport sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})\n"
                f"from tests.faults.simulator.{module} import {function}\n"
                f"sys.exit({function}(sys.argv, Path(__file__).parent))\n"
            )
            file.chmod(0o755)
        login = self._directory / "login.sock"
        if self._login is None:
            self._login = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.simulator.login", login],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            assert self._login.stdout
            assert self._login.stdout.readline() == "ready\n"
        (programs / "login.sock").symlink_to(login)
        environ = {
            "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(place),
            "TMPDIR": str(temporary),
            "LABKIT_HOME": str(home),
            "LABKIT_PROVIDER": "qemu",
            "LABKIT_MACHINE_ACCELERATOR": "tcg",
            "LABKIT_MACHINE_NETWORK": "open",
            "LABKIT_LIMITS_BOOT": "15",
            "LABKIT_LIMITS_CONNECT": "5",
        }
        return FaultLab(home, cwd, environ, programs, temporary)

    @staticmethod
    def _seed(lab: FaultLab) -> None:
        """An image, as it is when it has been built."""
        settings = lab.settings
        wanted = recipe(settings.distro(), settings, ())
        image = lab.home / "images" / wanted.key
        image.mkdir(parents=True, mode=0o700)
        image.parent.chmod(0o700)
        make: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", image / "disk.qcow2", "64M"]
        subprocess.run(make, check=True)
        for name in ("kernel", "initrd"):
            (image / name).write_text(name)
        (image / "image.json").write_text(json.dumps(wanted.to_json()))
        sums.write(image, ("disk.qcow2", "kernel", "initrd"))


PROGRAMS = {
    "qemu-system-x86_64": ("machine", "main"),
    "mmdebstrap": ("builders", "mmdebstrap"),
    "mkfs.ext4": ("builders", "mkfs"),
    "unshare": ("builders", "unshare"),
    "qemu-img": ("disk", "qemu_img"),
    "slirp4netns": ("builders", "nothing"),
    "ip": ("builders", "nothing"),
}


def _sockets(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".sock")]


class RealLab(FaultLab):
    """A real machine of its own in the lab that others share."""

    def run(self, *words: str, status: int | None = 0, seconds: float = 400) -> Ended:  # other machines run beside it
        return super().run(*words, status=status, seconds=seconds)

    @property
    def mine(self) -> Path:
        return self.machine

    def in_guest(self, *words: str) -> str | None:
        done = self.run("ssh", "--machine", self.name, "--", *words, status=None)
        return done.stdout if done.status == 0 else None

    def precious(self) -> bool:
        return self.in_guest("cat", "/root/precious") == "precious\n"

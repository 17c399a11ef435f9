"""One program in a sandbox: a PID namespace and a mount namespace that end with it, whatever it does.

    driver ── guard ── init ── program and its descendants
              │        PID 1 of the namespaces: mounts, waits, reaps orphans, looks at what is left,
              │        reports, ends; the kernel kills the rest
              in the host's mount namespace: waits, removes the temporary files

The driver holds one end of a pipe, the lifeline. When it closes, and so when the driver is killed, the guard kills init
and with it everything. Nothing inside can signal init: a PID 1 gets only the signals it has handlers for.

Temporary files are in a directory of the program's own where they would be without a sandbox, not on a file system of
their own: whether a bundle is on the root's mount decides whether runc can make an unbindable root.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..common.children import ENDING, exit_with, kill_group
from ..common.executables import find_program
from ..common.files import remove_tree
from ..common.namespaces import CLONE_NEWNS, unshare
from ..common.procfs import own_mounts
from ..common.text import printable
from . import evidence
from .host import HostError

CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
GRACE = 0.1  # seconds in which processes that a program leaves may still end by themselves
MOST_LEFT = 50  # texts; a report stays below what a pipe holds

# Arguments: the propagation, whose processes, then directories of runtimes' records to hide. Where the host's mounts
# are shared, as systemd leaves them, these are too, in a peer group of their own.
_MOUNTS = """
set -e
mount --make-rprivate /
test "$1" = private || mount --make-rshared /
test "$2" = host || mount -t proc proc /proc
shift 2
for directory; do mount -t tmpfs -o mode=711,size=16m labkit "$directory"; done
"""


@dataclass(frozen=True)
class Report:
    """How a program ended. records: containers that the runtime still knew; failure: why the sandbox itself failed."""

    status: Optional[int] = None
    signal: Optional[int] = None
    timeout: bool = False
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    failure: Optional[str] = None


@dataclass(frozen=True)
class SandboxConfig:
    """What all sandboxes of a run have in common.

    timeout: seconds for the program; held: descriptors that stay open until the sandbox has ended, a lock's; apart:
    with a PID namespace (without it what a program leaves goes on, and nothing is said of it); known: what the body
    itself mounts something on; network: with a network namespace, which process 1 is in too, for that is where some
    take the host's to be.
    """

    runtime: str
    timeout: float
    held: tuple[int, ...] = ()
    apart: bool = True
    known: tuple[str, ...] = ()
    network: bool = False

    @property
    def state_directories(self) -> list[Path]:
        """Where the runtime keeps its state, guessed from its file name: runc-1.2 keeps it where runc does."""
        name = Path(self.runtime).name
        known = [Path("/run", known) for known in ("runc", "crun", "youki", "runsc") if known in name]
        return known or [Path("/run", name)]


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. guard: a child's pid; out, err, report: read ends of pipes; lifeline: a write end."""

    guard: int
    out: int
    err: int
    report: int
    lifeline: int


def open_sandbox(config: SandboxConfig, directory: Path, body: Callable[[], int]) -> Sandbox:
    """Run body, which may exec, in a new sandbox; what it returns is its exit status.

    directory: for its temporary files, made and removed.
    """
    out, err, report, lifeline = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    guard = os.fork()
    if guard == 0:
        exit_with(lambda: _guard(config, directory, body, out[1], err[1], report[1], lifeline[0]))
    for fd in (out[1], err[1], report[1], lifeline[0]):
        os.close(fd)
    for fd in (out[0], err[0], report[0]):
        os.set_blocking(fd, False)
    return Sandbox(guard, out[0], err[0], report[0], lifeline[1])


def read_report(sandbox: Sandbox) -> Report:
    """Call it after the guard ended. Hostile input: the program runs as root and can tamper with what writes it."""
    data = b""
    with suppress(OSError):
        data = os.read(sandbox.report, 1 << 16)
    try:
        value: dict[str, Any] = json.loads(data)
        report = Report(**value)
        texts = [report.failure or "", *report.left, *report.records]
        numbers = [report.status or 0, report.signal or 0, report.seconds]
        if all(isinstance(text, str) for text in texts) and all(isinstance(number, (int, float)) for number in numbers):
            return report
    except (ValueError, TypeError, RecursionError):
        pass
    return Report(left=["its sandbox ended before it could report"])


def _guard(
    config: SandboxConfig, directory: Path, body: Callable[[], int], out: int, err: int, report: int, lifeline: int
) -> int:
    os.setsid()  # what kills the driver with its process group leaves this to clean up
    signal.set_wakeup_fd(-1)
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) not in (0, 1, 2, out, err, report, lifeline, *config.held):
            with suppress(OSError):
                os.close(int(name))
    try:
        directory.mkdir(parents=True)
        if config.apart:
            unshare(CLONE_NEWPID)
    except OSError as error:
        _tell(report, Report(failure=f"a sandbox: {error}"))
        return 1
    init = os.fork()
    if init == 0:
        os.close(lifeline)
        exit_with(lambda: _init(config, body, out, err, report))
    for fd in (out, err, report):
        os.close(fd)
    ended = os.pidfd_open(init)
    cut = ended not in select.select([lifeline, ended], [], [])[0]
    if cut:
        os.kill(init, signal.SIGKILL)
    os.waitpid(init, 0)
    remove_tree(directory)
    if cut:  # perhaps because the driver was killed, and this is the last one
        remove_tree(evidence.place(directory))
        with suppress(OSError):
            directory.parent.rmdir()
    return 0


def _init(config: SandboxConfig, body: Callable[[], int], out: int, err: int, report: int) -> int:
    try:
        unshare(CLONE_NEWNS)
        _mount(config)
        if config.network:
            unshare(CLONE_NEWNET)
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(["ip", "link", "set", "lo", "up"], stderr=subprocess.DEVNULL, timeout=30)
    except (HostError, OSError) as error:
        _tell(report, Report(failure=f"mounts: {error}"))
        return 1
    before = {mount.point for mount in own_mounts()}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    started = time.monotonic()
    program = os.fork()
    if program == 0:
        os.close(report)
        exit_with(lambda: _program(body, out, err))
    os.close(out)
    os.close(err)
    status = _wait(program, started + config.timeout)
    seconds = round(time.monotonic() - started, 3)
    overdue = status is None
    if overdue:
        kill_group(program)
        status = _wait(program, time.monotonic() + GRACE)
    left = [f"process {line}" for line in _processes()] if config.apart else []
    left += [
        f"mount {printable(mount.point)}" for mount in own_mounts() if mount.point not in before.union(config.known)
    ]
    records: list[str] = []
    for directory in config.state_directories:
        with suppress(FileNotFoundError):  # the program may remove anything
            records += sorted(os.listdir(directory))  # noqa: PTH208
    left += [f"container {printable(name)}" for name in records]
    more = [f"and {len(left) - MOST_LEFT} more"] if len(left) > MOST_LEFT else []
    code = None if overdue or status is None else os.waitstatus_to_exitcode(status)
    _tell(
        report,
        Report(
            status=code if code is not None and code >= 0 else None,
            signal=signal.SIGKILL if overdue else -code if code is not None and code < 0 else None,
            timeout=overdue,
            seconds=seconds,
            left=left[:MOST_LEFT] + more,
            records=[name[:200] for name in records[:MOST_LEFT]],
        ),
    )
    return 0


def _program(body: Callable[[], int], out: int, err: int) -> int:
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, max(out, err) + 1)
    for number in (*ENDING, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return body()


def _mount(config: SandboxConfig) -> None:
    """In one shell: busybox then starts no process per mount. Raises HostError if a mount fails."""
    busybox = find_program("busybox")
    shell = [busybox, "sh"] if busybox else ["/bin/sh"]
    root = next((mount for mount in reversed(own_mounts()) if mount.point == "/"), None)
    words = ["shared" if root and "shared" in root.propagation else "private", "own" if config.apart else "host"]
    words += map(str, config.state_directories)
    try:
        done = subprocess.run(
            [*shell, "-c", _MOUNTS, "sh", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(str(error)) from error
    if done.returncode:
        raise HostError(f"{printable(done.stderr.decode('utf-8', 'replace').strip(), 500)}")


def _wait(pid: int, deadline: float) -> Optional[int]:
    """The wait status of a child, or None at the deadline; orphans that came to us are reaped meanwhile."""
    while True:
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == pid:
                return status
            if ended == 0:
                break
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return None
        signal.sigtimedwait([signal.SIGCHLD], remaining)


def _processes() -> list[str]:
    """The command lines of the processes that still run after GRACE."""
    deadline = time.monotonic() + GRACE
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = list(_running())
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(0.01)


def _running() -> Iterator[str]:
    own = Path("/proc/self/cmdline").read_bytes()  # of what was forked here, and is none of the program's
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != "1":
            with suppress(OSError):
                name, _, rest = (entry / "stat").read_text(errors="replace").rpartition(") ")
                if not rest.startswith(("Z", "X")):
                    line = (entry / "cmdline").read_bytes()
                    if line == own:
                        continue
                    words = line[:1000].rstrip(b"\0").replace(b"\0", b" ")
                    yield printable(words.decode("utf-8", "replace") or name.partition("(")[2])


def _tell(report: int, value: Report) -> None:
    os.write(report, json.dumps(value.__dict__).encode())


def program_body(program: str, directory: Path, env: dict[str, str]) -> Callable[[], int]:
    """A function that becomes a program as a shell would run it, in a directory, without arguments."""

    def body() -> int:
        os.chdir(directory)
        try:
            os.execve(program, [program], env)
        except OSError as error:
            sys.stderr.write(f"{program}: {error.strerror}\n")
            return 127 if isinstance(error, FileNotFoundError) else 126

    return body

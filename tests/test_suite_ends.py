"""A suite's program ends with the labkit that started it, whatever ended that, and never runs beside another one.

The program is run as in a machine, over a real SSH server, with a real runtime; here on this host.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labkit.core.deadline import Deadline
from labkit.core.errors import ConnectionFailed
from labkit.guest.common.attached import take_lock
from labkit.guest.common.cgroups import CGROUP_ROOT
from labkit.guest.common.errors import Busy
from labkit.guest.pyz import pyz
from labkit.io.ssh import SshRemote
from tests.conftest import ROOT, until
from tests.sshd import Server

HANGS = "START-003"  # the runtime of these tests never comes back from `start`
CLIENT = """
import sys
from pathlib import Path
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.io.ssh import SshRemote
port, key, known, *argv = sys.argv[1:]
with SshRemote(Endpoint("127.0.0.1", int(port), "root", Path(key), Path(known)), Deadline.after(10)) as remote:
    remote.run(argv, timeout=300, attached=True)
"""


@dataclass
class Suite:
    """The spec suite with a runtime whose `start` hangs, and all that it leaves on this host."""

    tmp: Path
    program: Path
    runtime: Path
    lock: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # of the runs that were seen

    def argv(self, *words: str, only: str = HANGS) -> list[str]:
        named = ["--runtime", str(self.runtime), "--only", only, "--jobs", "1"]
        return ["env", f"TMPDIR={self.tmp}", sys.executable, str(self.program), *words, *named]

    def start(self, *words: str, only: str = HANGS, stdin: int | None = subprocess.PIPE) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        child = subprocess.Popen(self.argv(*words, only=only), stdin=stdin, stdout=pipe, stderr=pipe)
        self.started.append(child)
        return child

    @property
    def words(self) -> list[str]:
        return ["--attached", "--lock", str(self.lock)]

    def processes(self) -> dict[int, str]:
        """Those that have this suite's directory in their command line or environment: all but containers' own."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes()
                    if str(self.tmp).encode() in line + (entry / "environ").read_bytes() and b"-c" not in line:
                        found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
        return found

    def hangs(self) -> bool:
        self.names |= {path.name for path in self.tmp.iterdir()}
        return any("sleep 98765" in line for line in self.processes().values())

    def left(self) -> list[object]:
        ours = "|".join([*self.names, *(f"labkit-{child.pid:x}" for child in self.started)])
        cgroups = (
            [directory for directory, _, _ in os.walk(CGROUP_ROOT) if re.search(f"/({ours})", directory)]
            if ours
            else []
        )
        return [*self.processes().items(), *self.tmp.iterdir(), *cgroups]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may pass through, unlike pytest's: else the suite would not have its files there."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lk-ends-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def suite(tmp_path: Path, place: Path) -> Iterator[Suite]:
    program, runtime = tmp_path / "labkit-spec.pyz", tmp_path / "runtime"
    program.write_bytes(pyz("spec"))
    # Not that of the plain container, which comes before the checks.
    runtime.write_text('#!/bin/sh\ncase "$1 $2" in "start "*-start-003-*) exec sleep 98765;; esac\nexec runc "$@"\n')
    runtime.chmod(0o755)
    made = Suite(place, program, runtime, tmp_path / "lock")
    yield made
    for child in made.started:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream:
                stream.close()
    until(lambda: not made.left(), 60, "the host is as it was")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "ssh").mkdir()
    made = Server(tmp_path / "ssh")
    yield made
    made.stop()


@pytest.mark.host_runtime
def test_it_ends_with_its_stdin_and_leaves_nothing(suite: Suite) -> None:
    child = suite.start(*suite.words)
    until(suite.hangs, 30, "the hanging start")
    assert child.stdin is not None
    child.stdin.write(b"words are no end")
    child.stdin.flush()
    time.sleep(0.3)
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(30) == 128 + signal.SIGHUP
    assert suite.left() == []


@pytest.mark.host_runtime
def test_it_ends_at_once_whenever_its_stdin_ends(suite: Suite) -> None:
    """Also before it listens, while it still mounts and asks the runtime what it is."""
    for pause in (0.0, 0.1, 0.2, 0.3, 0.4):
        child = suite.start(*suite.words)
        assert child.stdin is not None
        time.sleep(pause)
        child.stdin.close()
        assert child.stderr is not None
        assert (child.wait(20), child.stderr.read()) == (128 + signal.SIGHUP, b""), pause
        assert suite.left() == []


def cut(_: SshRemote, server: Server) -> None:
    server.cut()


def close(remote: SshRemote, _: Server) -> None:
    remote.close()


@pytest.mark.host_runtime
@pytest.mark.parametrize("end", [cut, close])
def test_it_ends_with_the_connection(suite: Suite, server: Server, end: Callable[[SshRemote, Server], None]) -> None:
    with SshRemote(server.endpoint(), Deadline.after(10)) as remote:
        errors: list[ConnectionFailed] = []

        def run() -> None:
            try:
                remote.run(suite.argv(*suite.words), timeout=300, attached=True)
            except ConnectionFailed as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        until(suite.hangs, 30, "the hanging start")
        end(remote, server)
        thread.join(30)
        assert errors
    until(lambda: not suite.left(), 30, "nothing is left")


def through(server: Server, argv: Sequence[str]) -> subprocess.Popen[bytes]:
    """A labkit of its own that runs a command on the server."""
    end = server.endpoint()
    words = [sys.executable, "-c", CLIENT, str(end.port), str(end.key), str(end.known_hosts), *argv]
    return subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.host_runtime
def test_the_next_does_not_start_beside_what_a_killed_labkit_left(suite: Suite, server: Server) -> None:
    labkit = through(server, suite.argv(*suite.words))
    suite.started.append(labkit)
    until(suite.hangs, 30, "the hanging start")
    reading, writing = os.pipe()
    next_one = suite.start(*suite.words, only="QUERY-001", stdin=reading)
    time.sleep(1)
    assert next_one.poll() is None  # it waits
    labkit.kill()
    assert next_one.stdout is not None
    assert next_one.stdout.readline() == b"TAP version 14\n"
    assert not suite.hangs()
    out, err = next_one.communicate(timeout=60)
    os.close(reading)
    os.close(writing)
    assert (next_one.returncode, err) == (0, b""), out
    until(lambda: not suite.left(), 30, "nothing is left")


@pytest.mark.host_runtime
def test_the_lock_is_held_by_what_a_killed_supervisor_left(suite: Suite) -> None:
    """Until the last of it has ended, the next one waits: in Python 3.9 to 3.11 through an exec, too."""
    first = suite.start(*suite.words)
    until(suite.hangs, 30, "the hanging start")
    inner = [pid for pid in suite.processes() if pid != first.pid]
    for pid in inner:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)  # it cannot end yet
    first.kill()
    first.wait()
    with pytest.raises(Busy, match=rf"what process {first.pid}, which has ended, has left behind, for \d+ s; gave up"):
        take_lock(str(suite.lock), attached=False, timeout=0.5)
    for pid in inner:
        with contextlib.suppress(ProcessLookupError):  # one that was at its end already
            os.kill(pid, signal.SIGCONT)
    os.close(take_lock(str(suite.lock), attached=False, timeout=60))
    assert not suite.hangs()
    until(lambda: not suite.left(), 30, "nothing is left")


@pytest.mark.host_runtime
@pytest.mark.parametrize("stdin", ["null", "pipe at its end", "terminal"])
def test_without_labkit_it_needs_no_stdin(suite: Suite, stdin: str) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    terminal, side = os.openpty()
    ends = {"null": subprocess.DEVNULL, "pipe at its end": reading, "terminal": side}
    words = suite.argv(only="QUERY-001")
    done = subprocess.run(words, stdin=ends.get(stdin), capture_output=True, timeout=60)
    for fd in (reading, terminal, side):
        os.close(fd)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"ok 1 - QUERY-001" in done.stdout


def test_a_lock_says_who_holds_it_and_is_no_link(tmp_path: Path) -> None:
    lock, precious = tmp_path / "lock", tmp_path / "precious"
    fd = take_lock(str(lock), attached=False)
    who = rf"process {os.getpid()} \(`.+`\), for \d+ s"
    said = rf"^another suite runs on this machine: {who}; gave up after waiting 0\.2 s$"
    with pytest.raises(Busy, match=said):
        take_lock(str(lock), attached=False, timeout=0.2)
    lock.write_text("\x1b[2J rubbish\n")
    with pytest.raises(Busy, match=r"^another suite runs on this machine; gave up"):
        take_lock(str(lock), attached=False, timeout=0.2)
    os.close(fd)
    os.close(take_lock(str(lock), attached=False, timeout=0.2))
    precious.write_text("precious")
    lock.unlink()
    lock.symlink_to(precious)
    with pytest.raises(Busy, match="cannot be opened"):
        take_lock(str(lock), attached=False)
    assert precious.read_text() == "precious"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(Busy, match="is no file"):
        take_lock(str(lock), attached=False)

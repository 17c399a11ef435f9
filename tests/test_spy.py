"""The spy: what calls a runtime through it sees no difference, and each call is written down, whatever ends it."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.guest.spy import install, spy
from labkit.results import tap
from labkit.results.caller import calls
from labkit.results.caller.judge import judge
from labkit.suites.spec import from_tap
from tests.callers import CONFIG
from tests.conftest import ROOT

PYTHON = "/usr/bin/python3"
pytestmark = pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"no {PYTHON}")
# A runtime that says what it was called with, and does what the id says.
RUNTIME = """#!/bin/sh
for word; do last=$word; done
case "$1" in --*) shift 2;; esac
case "$1/$last" in
state/*) echo '{"id": "'$last'", "status": "running"}';;
*/exit-*) exit ${last#exit-};;
*/kill-*) kill -${last#kill-} $$;;
*/stdin) exec cat;;
*/err) echo out; echo err >&2;;
*/env) exec env;;
*/fds) exec ls -l /proc/self/fd;;
*/sleep) exec sleep 60;;
*/trap) trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.1; done;;
*/sigs) exec grep "^Sig[BIC]" /proc/self/status;;
*/words) printf '<%s>' "$@";;
*/pid) printf %s $$ >$3;;
esac
"""


@dataclass
class Spy:
    """A spy in front of a runtime, both in a directory."""

    home: Path
    runtime: Path
    name: str = "runc"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.home / self.name

    @property
    def record(self) -> Path:
        return self.home / "calls.jsonl"

    def configure(self, *faults: Mapping[str, str], **settings: Any) -> None:
        given = {"state": (), **self.settings, **settings}
        text = install.configuration(str(self.runtime), str(self.record), faults=faults, **given)
        (self.home / f"{self.name}{install.ENDING}").write_text(text)

    def __call__(self, *words: str | bytes, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return call([self.path, *words], **more)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.record.read_bytes().splitlines()]

    def calls(self) -> tuple[calls.Call, ...]:
        return calls.read(self.record.read_bytes()).calls


def call(argv: Sequence[Any], **more: Any) -> subprocess.CompletedProcess[bytes]:
    given = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60, "check": False, **more}
    return subprocess.run([os.fsencode(word) for word in argv], **given)


@pytest.fixture
def spied(tmp_path: Path) -> Spy:
    runtime = tmp_path / "real" / "runtime"
    runtime.parent.mkdir()
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    made = Spy(tmp_path, runtime)
    made.path.write_bytes(install.program(PYTHON))
    made.path.chmod(0o755)
    made.configure()
    return made


def eventually(what: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


# --- no difference


@pytest.mark.parametrize(
    "words",
    [
        ("create", "exit-0"), ("create", "exit-1"), ("create", "exit-255"), ("create", "err"), ("x", "y"), (),
        ("--version",), ("create", "--bundle", "a b", "", "*", "words"), ("create", b"\xff\xfe", "words"),
        ("create", "é\n\"'\\", "words"), ("--", "create", "words"), ("state", "a"),
    ],
)  # fmt: skip
def test_the_same_is_printed_and_the_status_is_the_same(spied: Spy, words: tuple[str | bytes, ...]) -> None:
    bare, ours = call([spied.runtime, *words]), spied(*words)
    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)
    begin, end = spied.lines()
    assert [os.fsencode(word) for word in begin["argv"]] == [os.fsencode(word) for word in words]
    assert end["id"] == begin["id"] and end["status"] == bare.returncode


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "HUP", "INT", "PIPE", "QUIT"])
def test_a_death_by_a_signal_is_one(spied: Spy, name: str) -> None:
    done = spied("create", f"kill-{name}", cwd=spied.home)
    assert done.returncode == -signal.Signals[f"SIG{name}"]
    assert spied.lines()[1]["signal"] == signal.Signals[f"SIG{name}"]
    assert not [path for path in spied.home.iterdir() if path.name.startswith("core")]


def test_what_goes_through_stdin_and_out_is_untouched(spied: Spy) -> None:
    data = os.urandom(1 << 20)
    assert spied("create", "stdin", stdin=None, input=data).stdout == data


def test_the_environment_is_that_of_the_call(spied: Spy) -> None:
    given = {b"A": b"1", b"B": b"\xff", b"EMPTY": b"", b"LC_ALL": b"C"}
    bare, ours = call([spied.runtime, "env"], env=given), spied("create", "env", env=given)
    assert sorted(ours.stdout.splitlines()) == sorted(
        call([spied.runtime, "create", "env"], env=given).stdout.splitlines()
    )
    assert b"LC_CTYPE" not in ours.stdout and bare.returncode == 0
    assert spied.lines()[0]["env"] == ["A", "B", "EMPTY", "LC_ALL"]  # names, never values


def test_descriptors_are_those_of_the_call(spied: Spy, tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with left, right, (tmp_path / "five").open("w") as file:

        def prepare() -> None:
            os.dup2(left.fileno(), 3)
            os.dup2(file.fileno(), 9)

        fds = {"preexec_fn": prepare, "close_fds": False}
        bare, ours = call([spied.runtime, "create", "fds"], **fds), spied("create", "fds", **fds)

    def leads(output: bytes) -> dict[str, str]:
        pairs = (line.rpartition(" -> ") for line in output.decode().splitlines() if " -> " in line)
        found = {before.split()[-1]: after for before, _, after in pairs}
        return {number: where for number, where in found.items() if not where.startswith(("pipe:", "/proc"))}

    assert leads(ours.stdout) == leads(bare.stdout)
    begin = spied.lines()[0]
    assert begin["fds"]["3"].startswith("socket:") and begin["fds"]["9"].endswith("/five")
    assert begin["fds"]["0"] == "/dev/null" and str(spied.record) not in begin["fds"].values()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_descriptors_stay_closed(spied: Spy, tmp_path: Path, closed: tuple[int, ...]) -> None:
    """The record is opened in their place, and is not what the runtime writes to."""
    spied.runtime.write_text(f"#!/bin/sh\nls /proc/$$/fd >{tmp_path}/seen\necho to stdout\necho to stderr >&2\n")
    options = {"preexec_fn": lambda: [*map(os.close, closed)], "close_fds": False}
    call([spied.runtime, "create", "a"], **options)
    bare = (tmp_path / "seen").read_text()
    done = spied("create", "a", **options)
    assert (tmp_path / "seen").read_text() == bare
    assert [line["event"] for line in spied.lines()] == ["call", "end"]
    assert not set(map(str, closed)) & set(spied.lines()[0]["fds"])
    assert b"labkit-spy" not in done.stderr


def test_listen_pid_is_the_runtimes_own(spied: Spy) -> None:
    """As sd_listen_fds compares it with its own; the spy is another process."""
    spied.runtime.write_text("#!/bin/sh\necho $LISTEN_PID $$ $LISTEN_FDS\n")
    script = f"LISTEN_FDS=1 LISTEN_PID=$$ exec {spied.path} create a 3</dev/null"
    listen, own, fds = call(["sh", "-c", script]).stdout.split()
    assert listen == own and fds == b"1"
    assert spied.lines()[0]["listen_fds"] == "1"
    other = call(["sh", "-c", script.replace("$$", "1")]).stdout.split()
    assert other[0] == b"1"  # somebody else's stays


def test_signals_that_are_ignored_or_blocked_are_as_they_were(spied: Spy) -> None:
    def prepare() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    words = ("create", "sigs")
    options = {"preexec_fn": prepare, "restore_signals": True}
    assert spied(*words, **options).stdout == call([spied.runtime, *words], **options).stdout != b""


def test_signals_are_passed_on(spied: Spy) -> None:
    with subprocess.Popen([spied.path, "create", "trap"], stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.read() == b"term\n"
        assert child.wait(30) == 3
    assert spied.lines()[1]["status"] == 3


def test_killed_it_takes_the_runtime_with_it_and_leaves_its_line(spied: Spy) -> None:
    with subprocess.Popen([spied.path, "create", "sleep"]) as child:
        ours = eventually(lambda: children(child.pid))
        eventually(lambda: Path(f"/proc/{ours[0]}/comm").read_text() == "sleep\n")
        child.kill()
    eventually(lambda: not Path(f"/proc/{ours[0]}").exists() or "Z" in Path(f"/proc/{ours[0]}/stat").read_text())
    (begin,) = spied.lines()
    assert begin["argv"] == ["create", "sleep"]
    (one,) = spied.calls()
    assert one.failed is None


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_stopped_and_gone_on_with_it_stops_with_its_runtime(spied: Spy) -> None:
    with subprocess.Popen([spied.path, "create", "sleep"]) as child:
        ours = eventually(lambda: children(child.pid))[0]
        os.kill(ours, signal.SIGSTOP)
        assert eventually(lambda: os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOHANG))
        child.send_signal(signal.SIGCONT)
        eventually(lambda: "T" not in Path(f"/proc/{ours}/stat").read_text().rpartition(")")[2].split()[0])
        child.terminate()
        assert child.wait(30) == -signal.SIGTERM


# --- the record


def test_what_a_record_has_of_a_call(spied: Spy, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(CONFIG, indent=2))
    spied.configure(state=("create",))
    spied("--root", "/r", "create", "--bundle", str(bundle), "--pid-file", "/p", "a", cwd=tmp_path)
    begin, end, state = spied.lines()
    recorded = {"argv", "argv0", "config", "cwd", "env", "fds", "ppid_cmd", "ppid_comm", "t"}
    assert recorded <= begin.keys()
    assert begin["config"] == CONFIG and begin["cwd"] == str(tmp_path) and begin["argv0"] == str(spied.path)
    assert (
        begin["ppid"] == os.getpid() and begin["ppid_cmd"][0] == Path("/proc/self/cmdline").read_text().split("\0")[0]
    )
    assert 0 < end["seconds"] < 60 and end["t"] >= begin["t"]
    assert state["status"] == 0 and json.loads(state["stdout"]) == {"id": "a", "status": "running"}
    (one,) = spied.calls()
    assert (one.command, one.id, one.root, one.state, one.failed) == ("create", "a", "/r", "running", False)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "config.json is not JSON"),
        ("[]", "config.json is JSON, but no object"),
        ("\ufeff{}", "config.json is not JSON"),
        ("", "config.json is not JSON"),
        ('{"a": 1, "a": 2}', ""),
    ],
)
def test_a_config_json_that_is_none(spied: Spy, tmp_path: Path, content: str, error: str) -> None:
    (tmp_path / "config.json").write_text(content)
    spied("create", "a", cwd=tmp_path)
    (one,) = spied.calls()
    assert (one.config is None) == bool(error) and one.config_error.startswith(error)
    assert [
        result.id for result in judge(calls.read(spied.record.read_bytes())) if result.id == "CALL-040" and result.bad
    ]


def test_a_config_json_that_would_hold_everything_up(spied: Spy, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert spied("create", "a", cwd=tmp_path).returncode == 0
    assert "regular" in spied.calls()[0].config_error


def test_many_at_once_lose_nothing(spied: Spy, tmp_path: Path) -> None:
    """Each with a line larger than what a pipe writes at once."""
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "annotations": {"x": "y" * 30_000}}))
    names = [f"exit-{number % 200}" for number in range(60)]
    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(lambda name: spied("create", name, cwd=tmp_path).returncode, names))
    assert done == [number % 200 for number in range(60)]
    record = calls.read(spied.record.read_bytes())
    assert record.reason is None
    assert sorted((one.id, one.status) for one in record.calls) == sorted(zip(names, done, strict=True))
    assert all(one.config for one in record.calls)


def test_killed_at_any_time_what_was_written_can_be_read(spied: Spy, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "annotations": {"x": "y" * 30_000}}))

    def one(number: int) -> float:
        started = time.monotonic()
        with subprocess.Popen([spied.path, "create", f"a{number}"], cwd=tmp_path) as child:
            if number < 6:
                child.wait(60)
            else:  # somewhere in the time that those took
                time.sleep(whole * (number % 20) / 20)
            child.kill()
        return time.monotonic() - started

    whole = 0.0
    with ThreadPoolExecutor(6) as pool:
        whole = max(pool.map(one, range(6)))
        list(pool.map(one, range(6, 66)))
    assert spied("create", "exit-7").returncode == 7
    record = calls.read(spied.record.read_bytes())
    assert record.reason is None
    assert len({call.id for call in record.calls}) == len(record.calls) >= 7


def test_a_long_line_is_left_out_in_part_and_says_so(spied: Spy, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "annotations": {"x": "y" * 30_000}}))
    spied.configure(line=4096)
    spied("create", "a", cwd=tmp_path, env={f"NAME{number}" * 9: "1" for number in range(700)})
    begin, _ = spied.lines()
    assert "config" not in begin and begin["left_out"]["config"] > 30_000
    assert "env" not in begin and begin["left_out"]["env"]
    assert all(len(line) <= 4096 for line in spied.record.read_bytes().splitlines())
    assert begin["argv"] == ["create", "a"]
    results = {one.id: one for one in judge(calls.read(spied.record.read_bytes()))}
    assert not results["CALL-010"].bad


def test_a_full_record_says_so_and_counts(spied: Spy) -> None:
    spied.configure(file=3000)
    assert [spied("create", "exit-4").returncode for _ in range(12)] == [4] * 12
    lines = spied.lines()
    assert sum(line["event"] == "full" for line in lines) == 1
    written = sum(line["event"] == "call" for line in lines)
    assert written == sum(line["event"] == "end" for line in lines)
    assert written + (spied.home / "calls.jsonl.left").stat().st_size == 12
    assert spied.record.stat().st_size < 6000
    assert calls.read(spied.record.read_bytes()).reason == "the record was full: later calls are not in it"


@pytest.mark.parametrize("at", ["/dev/full", "/nonexistent/calls.jsonl", "/proc/version"])
def test_a_record_that_cannot_be_written_stops_no_call(spied: Spy, at: str) -> None:
    text = f"runtime = {spied.runtime}\nrecord = {at}\n"
    (spied.home / "runc.spy").write_text(text)
    assert spied("create", "exit-9").returncode == 9
    assert spied("create", "err").stderr == b"err\n"


@pytest.mark.parametrize("cut", ['{"eve', '{"event": "call", "argv": ["cre', '{"event": "end", "id": "a"'])
def test_a_line_that_was_cut_by_a_kill_spoils_no_other(spied: Spy, cut: str) -> None:
    spied.record.write_bytes(cut.encode())
    spied("create", "exit-1")
    record = calls.read(spied.record.read_bytes())
    assert record.reason is None
    assert len(record.calls) == 1


def test_a_line_that_a_full_disk_cut_is_missed(spied: Spy, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
    mount -t tmpfs -o size=16k none {disk}
    echo '{{"event": "full"}}' >{disk}/calls.jsonl
    {spied.path} create one
    {spied.path} create two
    cp {disk}/calls.jsonl {spied.record}
    """
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "annotations": {"x": "y" * 30_000}}))
    settings = spied.home / "runc.spy"
    settings.write_text(settings.read_text().replace(str(spied.record), f"{disk}/calls.jsonl"))
    unshared = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script]
    subprocess.run(unshared, cwd=tmp_path, capture_output=True, check=True)
    data = spied.record.read_bytes()
    assert b'"event": "call"' in data and len(data) == 16384
    assert data.splitlines()[1].startswith(b"!")
    assert (
        calls.read(data).reason
        == "1 line (2) of the record could not be read; the record was full: later calls are not in it"
    )


def test_it_works_under_any_name_and_through_links(spied: Spy, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/crun").symlink_to(spied.path)
    assert call([tmp_path / "bin/crun", "create", "exit-5"]).returncode == 5
    relative = subprocess.run(["./runc", "create", "exit-6"], cwd=tmp_path, check=False)
    assert relative.returncode == 6
    found = subprocess.run(["runc", "create", "exit-8"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert found.returncode == 8
    assert len(spied.calls()) == 3


def test_arguments_of_ones_own_go_before(spied: Spy) -> None:
    spied.configure(arguments=["--network=none", "--x y"])
    spied.runtime.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    assert spied("create", "words").stdout == b"<--network=none><--x y><create><words>"
    assert spied.lines()[0]["argv"] == ["create", "words"]  # what the engine said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read the configuration"),
        ("record = /x\n", "runtime must be an absolute path"),
        ("runtime = runc\nrecord = /x\n", "runtime must be an absolute path"),
        ("runtime = /nonexistent\nrecord = /x\n", "the runtime /nonexistent is not there"),
        ("runtime = /bin/true\nrecord = /x\nfrob = 1\n", "runc.spy:3: unknown: frob = 1"),
        ("runtime = /bin/true\nrecord = /x\nline = many\n", "line is 'many', must be a number"),
        ("runtime = /bin/true\nrecord = /x\n[fault]\ndo = explode\n", "do is 'explode', must be one of fail, hang"),
        ("runtime = /bin/true\nrecord = /x\n[fault]\ndo = fail\nrun = maybe\n", "run is 'maybe', must be yes or no"),
        ("runtime = /bin/true\nrecord = /x\n[fault]\ndo = hang\nseconds = long\n", "seconds is 'long'"),
    ],
)
def test_what_is_wrong_with_its_configuration_is_said(spied: Spy, text: str | None, said: str) -> None:
    if text is None:
        (spied.home / "runc.spy").unlink()
    else:
        (spied.home / "runc.spy").write_text(text)
    done = spied("state", "a")
    assert done.returncode == spy.WRONG
    assert done.stderr.decode().startswith("labkit-spy: ") and said in done.stderr.decode()
    assert b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1


def test_a_configuration_that_it_would_not_take_is_not_made() -> None:
    with pytest.raises(ValueError, match="do is 'x'"):
        install.configuration("/r", "/c", faults=[{"do": "x"}])
    with pytest.raises(ValueError, match="line break"):
        install.configuration("/r\n", "/c")


def test_its_compiled_form_is_kept_and_nobody_elses_is_taken(spied: Spy) -> None:
    spied("create", "exit-0")
    (kept,) = spied.home.glob("runc.spy.*")
    before = kept.read_bytes()
    kept.write_bytes(b"not what it was")
    assert spied("create", "exit-3").returncode == 3
    kept.write_bytes(before[:40])
    assert spied("create", "exit-3").returncode == 3
    kept.write_bytes(before)
    kept.chmod(0o666)  # anybody may have written it
    assert spied("create", "exit-3").returncode == 3
    assert len(spied.calls()) == 4


# --- faults


def fault(do: str, command: str = "create", **more: str) -> dict[str, str]:
    return {"do": do, "command": command, **more}


COMMANDS = ("create", "start", "state", "kill", "delete")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_fails_in_place_of_the_runtime(spied: Spy, tmp_path: Path, command: str) -> None:
    log = tmp_path / "log"
    spied.configure(fault("fail", command, status="3", stderr="no space left\\n"))
    done = spied("--log", str(log), "--log-format", "json", command, "err")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"no space left\n")
    words = json.loads(log.read_text())
    assert (words["level"], words["msg"]) == ("error", "no space left")
    end = spied.lines()[1]
    assert end["status"] == 3 and end["fault"] == {"number": 1, "do": "fail", "run": False}
    other = next(one for one in COMMANDS if one not in (command, "state"))
    assert spied("--root", "/r", other, "err").stdout == b"out\n"


def test_a_failure_that_did_its_work(spied: Spy, tmp_path: Path) -> None:
    spied.runtime.write_text(f"#!/bin/sh\ntouch {tmp_path}/done\n")
    spied.configure(fault("fail", run="yes"))
    assert spied("create", "a").returncode == 1 and (tmp_path / "done").exists()


def test_a_success_that_did_nothing(spied: Spy) -> None:
    spied.configure(fault("fail", status="0"))
    done = spied("create", "err")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_hangs_until_it_is_ended(spied: Spy, command: str) -> None:
    spied.configure(fault("hang", command))
    with subprocess.Popen([spied.path, command, "err"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        eventually(lambda: spied.record.exists() and spied.record.stat().st_size)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        child.terminate()
        assert child.wait(30) == -signal.SIGTERM
        assert child.stdout and child.stdout.read() == b""
    assert spied.lines()[1]["signal"] == signal.SIGTERM


def test_a_hang_that_ends_and_one_after_the_runtime(spied: Spy) -> None:
    spied.configure(fault("hang", seconds="0.2", run="yes"))
    started = time.monotonic()
    assert spied("create", "exit-6").returncode == 6
    assert time.monotonic() - started > 0.2
    spied.configure(fault("hang", seconds="0.1", status="9"))
    assert spied("create", "err").returncode == 9


def test_garbage(spied: Spy) -> None:
    spied.configure(fault("garbage", "state"), fault("garbage", stderr="a\\x00b", repeat="3", run="yes"))
    done = spied("state", "a")
    assert done.returncode == 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(done.stdout)
    done = spied("create", "err")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"a\x00ba\x00ba\x00berr\n", 0)


def test_much_garbage_to_a_reader_who_leaves(spied: Spy) -> None:
    spied.configure(fault("garbage", "state", stdout="x" * 1000, repeat="1000"))
    assert len(spied("state", "a").stdout) == 1_000_000
    done = call(["sh", "-c", f"{spied.path} state a | head -c 5"])
    assert done.stdout == b"xxxxx"


def test_the_pid_file_is_lost(spied: Spy, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    spied.runtime.write_text('#!/bin/sh\necho $$ >"$3"\n')
    spied.configure(fault("lose-pid-file"))
    assert spied("create", "--pid-file", str(pid), "a").returncode == 0
    assert not pid.exists()
    spied.configure()
    spied("create", "--pid-file", str(pid), "a")
    assert pid.read_text().strip().isdigit()


def test_a_wrong_status(spied: Spy) -> None:
    spied.configure(fault("wrong-status", "state"), fault("wrong-status"), fault("wrong-status", "start", status="42"))
    assert json.loads(spied("state", "a").stdout) == {"id": "a", "status": "stopped"}
    assert spied("create", "exit-0").returncode == 1
    assert spied("create", "exit-5").returncode == 0
    assert spied("start", "exit-0").returncode == 42
    spied.configure(fault("wrong-status", "state", say="paused"))
    assert json.loads(spied("state", "a").stdout)["status"] == "paused"


def test_which_call_and_which_container(spied: Spy) -> None:
    spied.configure(fault("fail", call="2", status="3"), fault("fail", "start", call="2-", id="web-*", status="4"))
    assert [spied("create", "a").returncode for _ in range(4)] == [0, 3, 0, 0]
    names = ["web-1", "other", "web-1", "web-2", "other"]
    assert [spied("start", name).returncode for name in names] == [0, 0, 4, 4, 0]


def test_the_second_of_many_at_once_is_one(spied: Spy) -> None:
    spied.configure(fault("fail", call="7", status="3"))
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: spied("create", "a").returncode, range(16)))
    assert sorted(done) == [0] * 15 + [3]


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_patterns_are_those_of_a_shell(pattern: str, name: str) -> None:
    from fnmatch import fnmatchcase

    assert spy.matches(pattern, name) == fnmatchcase(name, pattern)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=()), max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    )
)
def test_its_json_is_json(value: Any) -> None:
    text = spy.encode(value)
    assert json.loads(text) == value and text.isascii() and "\n" not in text


def test_python_3_9_can_read_it() -> None:
    ast.parse(Path(spy.__file__).read_text(), feature_version=(3, 9))
    ast.parse(install.program().decode(), feature_version=(3, 9))


def test_it_imports_nothing_that_takes_time() -> None:
    """Each of these takes as long to import as Python to start."""
    names = "os,json,re,signal,enum,subprocess,typing,io"
    code = (
        f"import sys; before = set(sys.modules); exec(open({str(Path(spy.__file__))!r}).read(), {{'__name__': 'spy'}});"
    )
    code += f" print(sorted(set({names!r}.split(',')) & set(sys.modules) - before))"
    assert call([PYTHON, "-SI", "-c", code]).stdout == b"[]\n"


# --- a real runtime


def _spec(runtime: Path | str, only: str) -> dict[str, str]:
    argv = [sys.executable, "-m", "labkit.guest.spec", "--runtime", str(runtime), "--only", only]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=600, check=False)
    found = {result.id: result.verdict.value for result in from_tap(tap.read(done.stdout)).results}
    assert found, done.stderr.decode()
    return found


@pytest.mark.host_runtime
@pytest.mark.needs("runc", "busybox")
def test_the_spec_suite_finds_no_difference_with_runc(spied: Spy, tmp_path: Path) -> None:
    """Its calls run beside each other, with terminals, LISTEN_FDS and closed descriptors."""
    only = "STATE-*,CLI-*,FD-*,PIDF-*,LIFE-*,CREATE-*,START-*,KILL-*,DELETE-*,HOOK-01*"
    runc = next(Path(at, "runc") for at in ("/usr/sbin", "/usr/bin", "/usr/local/sbin") if Path(at, "runc").exists())
    spied.runtime = runc
    spied.configure(state=spy.STATE)
    assert _spec(spied.path, only) == _spec(runc, only)
    record = calls.read(spied.record.read_bytes())
    assert record.reason is None
    assert len(record.calls) > 50 and all(one.failed is not None for one in record.calls)
    assert {one.state for one in record.calls} >= {"created", "running"}
    results = {one.id: one for one in judge(record)}
    assert results["CALL-060"].verdict.value == "pass"


def test_threads_of_a_caller_may_end(spied: Spy) -> None:
    """The runtime's death hangs on the spy's, not on the thread that started that."""
    done: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: done.append(subprocess.Popen([spied.path, "create", "trap"], stdout=-1)))
    thread.start()
    thread.join()
    with done[0] as child:
        assert child.stdout and child.stdout.readline() == b"ready\n"
        child.terminate()
        assert child.wait(30) == 3

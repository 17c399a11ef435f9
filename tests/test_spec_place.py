"""What the spec suite finds does not depend on where, how and by whom it is started, and where it cannot run it says so
in one line.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labkit.guest.common.arguments import quoted_words, split_words
from labkit.guest.pyz import pyz
from labkit.io import process
from labkit.results import tap
from labkit.results.model import Verdict
from labkit.suites.spec import from_tap

pytestmark = pytest.mark.host_runtime

# What an inherited thing has changed once, or could: streams, ids, masks, signals, sockets, limits, cgroups.
TELLING = """STATE-001 CREATE-004 CLI-002 CLI-003 CLI-004 FD-001 PROC-002 PROC-005 PROC-006 RLIM-001 CAP-001 OOM-001
KILL-003 KILL-005 DEFDEV-003 USERNS-001 NS-002 CG-004 HOOK-002 HOOK-014""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "labkit-spec.pyz"
    path.write_bytes(pyz("spec"))
    return path


TOOLS = ("chrt", "ionice", "nohup", "setpriv", "setsid", "taskset", "unshare")


def run(
    program: Path,
    place: Path,
    script: str,
    *words: str,
    runtime: str = "runc",
) -> subprocess.CompletedProcess[bytes]:
    """A shell's script with the suite's command line as "$@"."""
    for name in TOOLS:
        if f"{name} " in script and not process.which(name):
            pytest.skip(f"not installed: {name}")
    argv = [sys.executable, str(program), "--runtime", runtime, *words]
    around = {**os.environ, "TMPDIR": str(place / "tmp"), "PLACE": str(place)}
    return subprocess.run(
        ["sh", "-c", script, "sh", *argv], cwd=place, env=around, stdin=subprocess.DEVNULL, capture_output=True,
        timeout=300,
    )  # fmt: skip


def verdicts(done: subprocess.CompletedProcess[bytes]) -> dict[str, Verdict]:
    reading = from_tap(tap.read(done.stdout))
    assert reading.reason is None, done.stderr
    return {result.id: result.verdict for result in reading.results}


@pytest.fixture(scope="module")
def plain(program: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """What a plain shell of root sees."""
    directory = tmp_path_factory.mktemp("plain")
    (directory / "tmp").mkdir()
    found = verdicts(run(program, directory, 'exec "$@"', "--only", ",".join(TELLING)))
    assert list(found.values()).count(Verdict.PASS) > 15
    return found


BLOCKED = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals()); "
BLOCKED += "os.execvp(sys.argv[1], sys.argv[1:])"
TERMINAL = "import fcntl, os, sys, termios; os.setsid(); main, side = os.openpty(); os.set_inheritable(main, True); "
TERMINAL += "fcntl.ioctl(side, termios.TIOCSCTTY, 0); os.dup2(side, 0); os.execvp(sys.argv[1], sys.argv[1:])"
INHERITED = {
    "a socket of systemd's": 'NOTIFY_SOCKET=/run/systemd/notify WATCHDOG_USEC=1 exec "$@"',
    "descriptors of systemd's": 'LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b exec "$@" 3</etc/passwd 4</etc/group',
    "descriptors": 'exec "$@" 3</etc/passwd 5</ 7>/dev/null 9<>/dev/null',
    "umask 077": 'umask 077; exec "$@"',
    "umask 777": 'umask 777; exec "$@"',
    "ignored signals": "trap '' INT HUP TERM QUIT CHLD USR1 USR2 PIPE ALRM WINCH CONT TSTP; exec \"$@\"",
    "blocked signals": f'exec {sys.executable} -c "{BLOCKED}" "$@"',
    "nohup": 'exec nohup "$@"',
    "a new session": 'exec setsid --wait "$@"',
    "a terminal": f'exec {sys.executable} -c "{TERMINAL}" "$@"',
    "a long TMPDIR": 'TMPDIR=$PLACE/$(printf "%0120d" 0); mkdir "$TMPDIR"; export TMPDIR; exec "$@"',
    "blanks in TMPDIR": 'TMPDIR="$PLACE/a b, c:d\'"; mkdir "$TMPDIR"; export TMPDIR; exec "$@"',
    "a private TMPDIR": 'TMPDIR=$PLACE/own/tmp; mkdir -p "$TMPDIR"; chmod 700 "$PLACE/own"; export TMPDIR; exec "$@"',
    "a relative TMPDIR": 'TMPDIR=tmp exec "$@"',
    "odd directories in PATH": 'PATH=$PLACE/none:$PLACE/labkit-spec.pyz:/proc/1/task:relative::$PATH exec "$@"',
    "no directory": 'mkdir gone; cd gone; rmdir ../gone; exec "$@"',
    "Python's variables": 'PYTHONIOENCODING=utf-16 PYTHONUTF8=0 PYTHONOPTIMIZE=2 PYTHONDONTWRITEBYTECODE=1 exec "$@"',
    "a locale": 'LC_ALL=tr_TR.ISO-8859-9 LANG=tr_TR LANGUAGE=tr TZ=Asia/Tokyo exec "$@"',
    "a loader's and Go's variables": 'LD_LIBRARY_PATH=/none GODEBUG=x GOMAXPROCS=1 GOTRACEBACK=crash exec "$@"',
    "a home and a run directory": 'HOME=/none XDG_RUNTIME_DIR=/none CONTAINER=lxc ENV=/none BASH_ENV=/none exec "$@"',
    "a group": 'exec setpriv --regid 5 --groups 4,70000 "$@"',
    "ambient capabilities": 'exec setpriv --inh-caps=+net_raw --ambient-caps=+net_raw "$@"',
    "no capability for raw sockets": 'exec setpriv --bounding-set=-net_raw,-sys_module --inh-caps=-all "$@"',
    "low priority": 'exec nice -n 10 ionice -c 3 chrt -b 0 "$@"',
    "one CPU": 'exec taskset -c 0 "$@"',
    "an oom score": 'echo 500 >/proc/self/oom_score_adj; exec "$@"',
    "few open files": 'ulimit -Sn 24; exec "$@"',
    "small files": 'ulimit -Sf 1; ulimit -Ss 1024; exec "$@"',
    "other namespaces": 'exec unshare --uts --ipc --net --pid --fork --mount-proc "$@"',
    "a cgroup namespace": 'exec unshare --cgroup "$@"',
    "a time namespace": 'exec unshare --time --boottime 1000 --fork "$@"',
    "its own variables": 'LABKIT_SPEC_RESUME=1:2:3:4:/none LABKIT_CHECK=x exec "$@"',
}


SOME = 4  # of so many, one is part of every check


@pytest.mark.parametrize(
    "inherited",
    [pytest.param(name, marks=[pytest.mark.long] if number % SOME else []) for number, name in enumerate(INHERITED)],
)
def test_what_it_inherits_changes_nothing(
    program: Path, place: Path, plain: dict[str, Verdict], inherited: str
) -> None:
    done = run(program, place, INHERITED[inherited], "--only", ",".join(TELLING))
    assert done.stderr == b""
    assert verdicts(done) == plain
    assert list((place / "tmp").iterdir()) == []


def test_a_controller_that_the_host_lacks_fails_nothing(program: Path, place: Path, plain: dict[str, Verdict]) -> None:
    if not Path("/sys/fs/cgroup/pids/cgroup.procs").exists():
        pytest.skip("this host has no hierarchy of cgroup v1 for pids")
    script = 'exec unshare --mount sh -c \'umount /sys/fs/cgroup/pids && exec "$@"\' sh "$@"'
    found = verdicts(run(program, place, script, "--only", "CREATE-004,STATE-001"))
    assert found == {id: plain[id] for id in ("CREATE-004", "STATE-001")}


def refusing(number: int, errno: int) -> str:
    """Python that refuses a system call to itself and what it executes, as an old kernel or an engine's filter does."""
    filters = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno), (0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("HBBI", *one) for one in filters).hex()
    return f"""
import ctypes, os, struct, sys
code = ctypes.create_string_buffer(bytes.fromhex("{code}"))
program = ctypes.create_string_buffer(struct.pack("HL", {len(filters)}, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, program) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[1], sys.argv[1:])
"""


PIDFD_OPEN, MOUNT, UNSHARE = 434, 165, 272  # of x86_64
UNABLE = {
    "stdin is closed": ('exec "$@" <&-', r"stdin is closed; say </dev/null to do without"),
    "stdout is closed": ('exec "$@" >&-', r"stdout is closed; say >/dev/null to do without"),
    "stdout is full": ('exec "$@" >/dev/full', r"cannot write the results: No space left on device"),
    "stdout is for reading": ('exec "$@" 1</dev/null', r"cannot write the results: Bad file descriptor"),
    "TMPDIR is missing": ('TMPDIR=$PLACE/none exec "$@"', r"TMPDIR is '.*/none': No such file or directory"),
    "TMPDIR is a file": ('TMPDIR=/etc/passwd exec "$@"', r"TMPDIR is '/etc/passwd', which is no directory"),
    "TMPDIR is not writable": ('TMPDIR=/proc exec "$@"', r"cannot write to /proc: .*; TMPDIR names another directory"),
    "no CAP_SYS_ADMIN": (
        'exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$@"',
        r"cannot run on this host: this root lacks CAP_SYS_ADMIN",
    ),
    "no capabilities": (
        'exec setpriv --bounding-set=-all --inh-caps=-all "$@"',
        r"cannot run on this host: this root lacks CAP_CHOWN, .*CAP_SYS_ADMIN.*",
    ),
    "no pidfd_open in the kernel": (
        f"exec {sys.executable} -c '{refusing(PIDFD_OPEN, 38)}' \"$@\"",
        r"cannot run on this host: pidfd_open is refused \(Function not implemented\)",
    ),
    "no pidfd_open in a filter": (
        f"exec {sys.executable} -c '{refusing(PIDFD_OPEN, 1)}' \"$@\"",
        r"cannot run on this host: pidfd_open is refused \(Operation not permitted\)",
    ),
    "mount is refused": (
        f"exec {sys.executable} -c '{refusing(MOUNT, 1)}' \"$@\"",
        r"cannot run on this host: no namespaces with mounts of its own: .*: Operation not permitted",
    ),
    "unshare is refused": (
        f"exec {sys.executable} -c '{refusing(UNSHARE, 1)}' \"$@\"",
        r"cannot run on this host: no namespaces with mounts of its own: .*: Operation not permitted",
    ),
    "a limit that stays": (
        'ulimit -n 64; exec setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource "$@"',
        r"cannot run on this host: the limit of open files is 64, and cannot be raised",
    ),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86_64")
@pytest.mark.parametrize("where", list(UNABLE))
def test_where_it_cannot_run_it_says_so_in_one_line(program: Path, place: Path, where: str) -> None:
    script, said = UNABLE[where]
    done = run(program, place, script, "--only", "QUERY-001")
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b""), text
    assert re.fullmatch(f"labkit-spec: {said}\n", text), text
    assert list((place / "tmp").iterdir()) == []
    assert not (place / "none").exists()


def test_it_can_do_without_stderr(program: Path, place: Path) -> None:
    for script in ('exec "$@" 2>&-', 'exec "$@" 2>/dev/full', 'exec "$@" 2</dev/null'):
        assert verdicts(run(program, place, script, "--only", "QUERY-001")) == {"QUERY-001": Verdict.PASS}
        done = run(program, place, script, "--only", "NONE-001")
        assert (done.returncode, done.stdout) == (2, b"")


def test_a_reader_that_goes_away_ends_it_and_nothing_is_left(program: Path, place: Path) -> None:
    done = run(program, place, '("$@"; echo "ended with $?" >&2) | head -n 1', "--only", "QUERY-001,STATE-004")
    assert (done.stdout, done.stderr) == (b"TAP version 14\n", b"ended with 141\n")
    assert list((place / "tmp").iterdir()) == []


def test_exit_statuses_stand_in_the_help(program: Path) -> None:
    said = process.run([sys.executable, program, "--help"], timeout=30).stdout
    assert "exit status: 0 no check failed" in said
    assert all(word in " ".join(said.split()) for word in ("1 some did", "2 wrong usage", "3 another", "128 + N"))


# Where no container can be created, no check can be judged.

SYSTEMD = '#!/bin/sh\nexec runc --systemd-cgroup "$@"\n'


@pytest.fixture
def systemd_runtime(place: Path) -> str:
    path = place / "runc-systemd"
    path.write_text(SYSTEMD)
    path.chmod(0o755)
    return str(path)


def bails_out(done: subprocess.CompletedProcess[bytes], said: str) -> None:
    out, err = done.stdout.decode(), done.stderr.decode()
    line = f"no container can be created here: {said}"
    assert done.returncode == 2, out
    assert re.fullmatch(f"labkit-spec: {line}\n", err), err
    assert re.fullmatch(f"Bail out! {line}", out.splitlines()[-1]), out
    assert not re.search("^(not )?ok", out, re.MULTILINE)
    assert from_tap(tap.read(done.stdout)).results == ()


def test_a_runtime_that_creates_nothing_gets_no_verdicts(program: Path, place: Path) -> None:
    bails_out(run(program, place, 'exec "$@"', runtime="/bin/false"), "exit status 1")
    bails_out(run(program, place, 'exec "$@"', "--spec", "1.2.0", runtime="/bin/false"), "exit status 1")


def test_cgroups_that_are_managed_by_a_systemd_that_is_not_there(
    program: Path, place: Path, systemd_runtime: str
) -> None:
    bails_out(run(program, place, 'exec "$@"', runtime=systemd_runtime), "runc create failed: .*systemd.*")


def test_read_only_cgroups(program: Path, place: Path) -> None:
    if not Path("/sys/fs/cgroup/pids/cgroup.procs").exists():
        pytest.skip("this host has no hierarchy of cgroup v1 for pids")
    script = 'exec unshare --mount sh -c \'mount -o remount,bind,ro /sys/fs/cgroup/pids && exec "$@"\' sh "$@"'
    bails_out(run(program, place, script), "runc create failed: .*read-only file system")


def test_crun_on_a_hybrid_host(program: Path, place: Path) -> None:
    if not process.which("crun"):
        pytest.skip("not installed: crun")
    try:
        hybrid = Path("/sys/fs/cgroup/unified/cgroup.controllers").read_text().strip()
    except OSError:
        hybrid = ""
    if not hybrid:
        pytest.skip("this host has no hybrid hierarchy with controllers")
    bails_out(run(program, place, 'exec "$@"', runtime="crun"), "cgroups in hybrid mode not supported, .*")


# How the runtime is named.


def test_arguments_of_the_runtime(program: Path, place: Path) -> None:
    log = place / "log"
    wrapper = place / "a runtime"
    wrapper.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >>{log}; echo >>{log}\nshift 2\nexec runc "$@"\n')
    wrapper.chmod(0o755)
    only = ("--only", "STATE-001")
    by_flag = ("--runtime-arg=--root", "--runtime-arg", "/run/a b")
    headers = []
    for runtime, words in ((str(wrapper), by_flag), (f"'{wrapper}' --root '/run/a b'", ())):
        log.unlink(missing_ok=True)
        done = run(program, place, 'exec "$@"', *words, *only, runtime=runtime)
        assert verdicts(done) == {"STATE-001": Verdict.PASS}
        assert {line.partition("|")[0] for line in log.read_text().splitlines()} == {"--root"}
        assert all(line.startswith("--root|/run/a b|") for line in log.read_text().splitlines())
        headers.append([line for line in done.stdout.decode().splitlines() if line.startswith("# runtime")])
    assert headers[0] == headers[1]
    assert f"# runtime-path: {wrapper}" in headers[0]
    assert "# runtime-arguments: --root '/run/a b'" in headers[0]


@given(st.lists(st.text(max_size=12), max_size=5))
@example(["a b", "", "it's", '"', "\\", "$HOME", "tab\t", "line\n"])
def test_words_are_split_as_a_shell_does(words: list[str]) -> None:
    assert split_words(quoted_words(words)) == split_words(shlex.join(words)) == words


@given(st.text(alphabet="ab '\"\\\t", max_size=20))
def test_what_shlex_splits_is_split_alike(text: str) -> None:
    try:
        expected = shlex.split(text)
    except ValueError:
        with pytest.raises(ValueError, match="a quote that is not closed"):
            split_words(text)
        return
    assert split_words(text) == expected


@pytest.mark.parametrize(
    ("runtime", "said"),
    [
        ("'un ended", '--runtime "\'un ended": a quote that is not closed, or a backslash with nothing behind it'),
        ("nothing-here --root x", "runtime 'nothing-here' not found"),
        ("/etc/passwd", "runtime '/etc/passwd' is not executable"),
        ("", "--runtime NAME or PATH is required"),
        (" \t", "--runtime NAME or PATH is required"),
    ],
)
def test_a_runtime_that_is_none(program: Path, place: Path, runtime: str, said: str) -> None:
    done = run(program, place, 'exec "$@"', runtime=runtime)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", f"labkit-spec: {said}\n")


def test_another_version_of_the_specification(program: Path, place: Path) -> None:
    claimed = facts(run(program, place, 'exec "$@"', "--only", "PERS-001"))
    assert "spec-claimed" not in claimed
    for version in ("1.0.0", "1.3"):
        found = facts(run(program, place, 'exec "$@"', "--only", "PERS-001", "--spec", version))
        assert (found["spec"], found["spec-claimed"]) == (f"{version}.0"[:5], claimed["spec"])
    skipped = run(program, place, 'exec "$@"', "--only", "PERS-001", "--spec", "1.0.0")
    assert verdicts(skipped) == {"PERS-001": Verdict.SKIP}
    for word in ("2.0.0", "1.4", "0.9", "x", "1"):
        done = run(program, place, 'exec "$@"', "--spec", word)
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"{word!r} is not a version of the runtime-spec from 1.0.0 to 1.3" in done.stderr.decode()


def facts(done: subprocess.CompletedProcess[bytes]) -> Mapping[str, str]:
    return from_tap(tap.read(done.stdout)).facts

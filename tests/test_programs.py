"""The program that runs the validation programs in a machine: labkit/guest/programs."""

from __future__ import annotations

import ast
import base64
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit.guest
from labkit.guest.programs import steps
from labkit.guest.programs.cgroups import Watch
from labkit.guest.programs.host import CPUS, unfit
from labkit.guest.programs.schedule import ALONE, Schedule, Turn, lane
from labkit.guest.pyz import pyz
from labkit.results import tap, verdicts
from labkit.results.model import Verdict
from labkit.results.verdicts import End
from labkit.suites import validation
from tests import replay
from tests.conftest import until

PACKAGE = Path(labkit.guest.__file__).parent / "programs"
SECONDS = {row["program"]: float(row["seconds"]) for row in replay.summary(replay.V1)}
CGROUP_ROOT = Path("/sys/fs/cgroup")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "labkit-programs.pyz"
    path.write_bytes(pyz("programs"))
    return path


@dataclass
class Ran:
    """What the driver printed."""

    status: int
    stderr: str
    events: list[dict[str, Any]]
    seconds: float

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.events[0]["facts"]
        return found

    @property
    def ends(self) -> dict[str, dict[str, Any]]:
        return {event["program"]: event for event in self.events if event["type"] == "end"}

    def bytes(self, name: str, stream: str = "out") -> bytes:
        pieces = [e for e in self.events if e["type"] == "data" and (e["program"], e["stream"]) == (name, stream)]
        return b"".join(base64.b64decode(event["data"]) for event in pieces)


@dataclass
class Driver:
    """The driver with its words, in a directory for temporary files of its own."""

    program: Path
    tmp: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def argv(self, tree: Path, *words: str, runtime: str | None = "/bin/true") -> list[str]:
        named = ["--runtime", runtime] if runtime else []
        return [sys.executable, str(self.program), "--tree", str(tree), *named, *words]

    def start(
        self, tree: Path, *words: str, stdin: int | None = None, path: str | None = None
    ) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "TMPDIR": str(self.tmp), **({"PATH": path} if path else {})}
        process = subprocess.Popen(
            self.argv(tree, *words),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, tree: Path, *words: str, timeout: float = 120) -> Ran:
        begun = time.monotonic()
        process = self.start(tree, *words)
        out, err = process.communicate(timeout=timeout)
        events = [json.loads(line) for line in out.splitlines()]
        return Ran(process.returncode, err.decode(), events, time.monotonic() - begun)


@pytest.fixture
def driver(program: Path, tmp_path: Path) -> Iterator[Driver]:
    """Whatever a test does, the host is afterwards as it was."""
    (tmp_path / "tmp").mkdir()
    before = host_state()
    made = Driver(program, tmp_path / "tmp")
    yield made
    for process in made.started:
        process.kill()
        process.communicate()
    until(lambda: host_state() <= before, 20, f"more is left than {before}")


def host_state() -> set[str]:
    """Mounts, cgroups with a name that tests give, and naps."""
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    cgroups = {
        directory for directory, _, _ in os.walk(CGROUP_ROOT) if re.search("labkit-test|cgrouptest|testdir", directory)
    }
    return mounts | cgroups | set(naps())


def naps() -> list[str]:
    """The processes of programs that sleep."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if line.startswith(replay.NAP):
                found.append(f"{entry.name} {line}")
    return found


# The schedule


def simulated(schedule: Schedule, seconds: dict[str, float]) -> list[tuple[float, float, Turn]]:
    """Begin, end and turn of each in the order they ended, as if nothing but time passed."""
    now = 0.0
    running: list[tuple[float, float, Turn]] = []
    ended = []
    while not schedule.finished:
        while turn := schedule.take():
            running.append((now, now + seconds.get(turn.program, 1.0), turn))
        running.sort(key=lambda entry: entry[1])
        ended.append(running.pop(0))
        now = ended[-1][1]
        schedule.done(ended[-1][2])
    return ended


def overlap(a: tuple[float, float, Turn], b: tuple[float, float, Turn]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@settings(deadline=None, max_examples=60)
@given(st.sets(st.sampled_from([*SECONDS, "unknown"]), min_size=1), st.integers(1, 6), st.integers(1, 3))
def test_everything_runs_once_and_nothing_beside_what_it_must_not(names: set[str], jobs: int, repeat: int) -> None:
    ran = simulated(Schedule(names, SECONDS, jobs, repeat), SECONDS)
    assert sorted((turn.program, turn.attempt) for _, _, turn in ran) == sorted(
        (name, attempt) for name in names for attempt in range(1, repeat + 1)
    )
    for number, one in enumerate(ran):
        beside = [other for other in ran if other is not one and overlap(one, other)]
        assert sum(other[0] <= one[0] < other[1] for other in beside) < jobs
        assert not any(lane(other[2].program) == lane(one[2].program) for other in beside)
        if one[2].program in ALONE:
            assert not beside
            assert all(other[2].program in ALONE for other in ran[number:])
    attempts: dict[str, list[int]] = {}
    for _, _, turn in ran:
        attempts.setdefault(turn.program, []).append(turn.attempt)
    assert all(order == sorted(order) for order in attempts.values())


def test_linux_ns_itype_is_the_very_last() -> None:
    assert simulated(Schedule(SECONDS, SECONDS, 4), SECONDS)[-1][2] == Turn("linux_ns_itype", 1)


@pytest.mark.parametrize("recording", [replay.V1, replay.V2], ids=lambda path: path.name)
def test_the_whole_takes_little_more_than_the_longest_or_its_share(recording: Path) -> None:
    seconds = {row["program"]: float(row["seconds"]) for row in replay.summary(recording)}
    known = {row["program"]: float(row["seconds"]) for row in replay_seconds()}
    end = simulated(Schedule(seconds, known, 4), seconds)[-1][1]
    alone = sum(seconds[name] for name in ALONE)
    assert end - alone <= 1.15 * max(max(seconds.values()), sum(seconds.values()) / 4)


def replay_seconds() -> list[dict[str, str]]:
    lines = (PACKAGE / "seconds.tsv").read_text().splitlines()
    return [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]


def test_how_long_they_take_is_known_of_all_recorded_ones() -> None:
    assert {row["program"] for row in replay_seconds()} == set(SECONDS)


# Watching cgroups, on plain directories


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for name in ("cpu", "pids"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_cgroup_is_removed_when_all_who_can_have_made_it_have_ended(v1: Path) -> None:
    (v1 / "pids/old").mkdir()
    watch = Watch(v1)
    watch.look([])
    watch.look(["a"])  # b starts
    (v1 / "pids/new/below").mkdir(parents=True)
    assert watch.ended("a", [], ["b"]) == []
    assert (v1 / "pids/new/below").is_dir()
    assert watch.ended("b", [], []) == ["cgroup /new (of this or of a) in pids"]
    assert [path.name for path in (v1 / "pids").iterdir()] == ["old"]


def test_a_cgroup_made_before_another_started_is_not_the_others(v1: Path) -> None:
    watch = Watch(v1)
    watch.look([])
    (v1 / "cpu/new").mkdir()
    (v1 / "pids/new").mkdir()
    watch.look(["a"])  # b starts
    assert watch.ended("a", [], ["b"]) == ["cgroup /new in cpu, pids"]


def test_a_cgroup_with_a_containers_name_or_of_the_cgroup_lane_needs_no_waiting(v1: Path) -> None:
    watch = Watch(v1)
    (v1 / "pids/the-id").mkdir()
    assert watch.ended("a", ["the-id"], ["b"]) == ["cgroup /the-id in pids"]
    (v1 / "pids/cgrouptest").mkdir()
    assert watch.ended("hostname", [], ["linux_cgroups_cpus"]) == []
    assert watch.ended("linux_cgroups_cpus", [], ["b"]) == ["cgroup /cgrouptest in pids"]


def test_what_an_earlier_run_left_is_gone_before_the_first_program(v1: Path) -> None:
    (v1 / "pids/testdir/cgrouptest").mkdir(parents=True)
    Watch(v1)
    assert list((v1 / "pids").iterdir()) == []


def test_a_run_that_breaks_off_leaves_no_cgroup(v1: Path) -> None:
    watch = Watch(v1)
    watch.look(["a", "b"])
    (v1 / "pids/new").mkdir()
    watch.sweep()
    assert list((v1 / "pids").iterdir()) == []


def test_what_somebody_else_runs_in_is_left_alone_in_every_hierarchy(v1: Path) -> None:
    watch = Watch(v1)
    watch.look([])
    for hierarchy in ("cpu", "pids"):
        (v1 / hierarchy / "machine/guest/cpu0").mkdir(parents=True)
    (v1 / "cpu/mine").mkdir()
    (v1 / "cpu/machine/guest/cgroup.procs").write_text("1\n")
    assert watch.ended("a", [], []) == ["cgroup /mine in cpu"]
    (v1 / "pids/machine/guest/cpu1").mkdir()
    assert watch.ended("b", [], []) == []
    watch.sweep()
    assert sorted(path.name for path in (v1 / "pids/machine/guest").iterdir()) == ["cpu0", "cpu1"]


def test_what_systemd_makes_meanwhile_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "system.slice").mkdir()
    watch = Watch(tmp_path)
    (tmp_path / "system.slice/cron.service").mkdir()
    (tmp_path / "mine").mkdir()
    assert watch.ended("a", [], []) == ["cgroup /mine"]
    assert (tmp_path / "system.slice/cron.service").is_dir()


# The command line


MINIMAL = {"__future__", "argparse", "ast", "base64", "collections", "contextlib", "csv", "dataclasses", "errno"}
MINIMAL |= {
    "fcntl",
    "importlib",
    "math",
    "os",
    "pathlib",
    "pkgutil",
    "re",
    "select",
    "selectors",
    "signal",
    "socket",
    "stat",
}
MINIMAL |= {"copy", "fnmatch", "functools", "gc", "hashlib", "io", "pwd", "types", "zlib"}
MINIMAL |= {"struct", "subprocess", "sys", "threading", "time", "traceback", "typing"}
MINIMAL |= {"json"}  # not in Debian 12's, and nothing works without it: see the test below


@pytest.mark.parametrize(
    ("package", "more"),
    # ctypes: only where os.unshare is not
    [("common", {"ctypes"}), ("spec", set()), ("programs", set()), ("engines", set())],
)
def test_it_imports_only_what_pythons_minimal_package_has(package: str, more: set[str]) -> None:
    found = set()
    for path in (PACKAGE.parent / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    assert found <= MINIMAL | more


@pytest.mark.parametrize("file", ["common/__init__.py", "common/start.py", "spec/main.py", "programs/main.py"])
def test_an_old_python_can_parse_what_says_that_it_is_too_old(file: str) -> None:
    assert ast.parse((PACKAGE.parent / file).read_text(), feature_version=(3, 5))


@pytest.mark.parametrize(
    ("words", "listed"),
    [
        (["--only", "hook*"], "hooks"),
        (["--only", "validation/hooks/hooks.t,HOSTNAME"], "hooks hostname"),
        (["--leave-out", "hook*,not_there"], "hostname"),
        (["--only", "ho*", "--leave-out", "hostname/hostname.t"], "hooks"),
    ],
)
def test_names_of_programs(driver: Driver, tree: Path, words: list[str], listed: str) -> None:
    argv = driver.argv(tree, *words, "--list")
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split() == listed.split()


@pytest.mark.parametrize("name", ["spec", "programs"])
def test_a_python_without_json_is_told_what_to_install(name: str, tmp_path: Path) -> None:
    (tmp_path / "program.pyz").write_bytes(pyz(name))
    (tmp_path / "json.py").write_text("raise ModuleNotFoundError('No module named json', name='json')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    argv = [sys.executable, str(tmp_path / "program.pyz"), "--list"]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"labkit-{name}: this Python has no module 'json': install python3\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = replay.make_tree(tmp_path / "tree")
    for name in ("hostname", "hooks"):
        replay.add(made, name, "echo 1..0")
    return made


def test_it_lists_the_programs_of_a_tree_and_the_scenarios(driver: Driver, tree: Path) -> None:
    listed = subprocess.run(driver.argv(tree, "--list", runtime=None), check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["hooks", "hostname"]
    words = driver.argv(tree, "--list", "--set", "runtimetest", runtime=None)
    listed = subprocess.run(words, check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["bundle_validate", "docker", "image_validate", "podman", "rkt", "runtimetest"]


@pytest.mark.parametrize(
    ("words", "runtime", "message"),
    [
        (["--only", "hostnam"], "/bin/true", "unknown program 'hostnam'; did you mean hostname, hooks?"),
        (["--only", ","], "/bin/true", "--only names no program"),
        (["--jobs", "0"], "/bin/true", "'0' is not a number from 1 to 256"),
        (["--repeat", "x"], "/bin/true", "'x' is not a number from 1 to 1000"),
        (["--timeout", "nan"], "/bin/true", "'nan' is not a number of seconds"),
        (["--set", "all"], "/bin/true", "invalid choice: 'all'"),
        ([], None, "--runtime NAME or PATH is required"),
        ([], "no-such-runtime", "runtime 'no-such-runtime' not found"),
        ([], "/etc/passwd", "runtime '/etc/passwd' is not executable"),
        ([], "/bin", "runtime '/bin' is not executable"),
    ],
)
def test_wrong_words_end_with_2_and_nothing_on_stdout(
    driver: Driver, tree: Path, words: list[str], runtime: str | None, message: str
) -> None:
    done = subprocess.run(driver.argv(tree, *words, runtime=runtime), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr or "must run as root" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("crun version 1.8.1\ncommit: x", "old"),
        ("crun version 1.14.2+ds1-2", "old"),
        ("crun version 1.14.3", "hooks hostname"),
        ("crun version 1.14.10", "hooks hostname"),
        ("crun 0.10.6", "old"),
        ("crun 1.21", "hooks hostname"),
        ("runc version 1.1.5", "hooks hostname"),
        ("youki version 0.1", "hooks hostname"),  # that one wants a tree that is not built
    ],
)
def test_an_older_runtime_gets_the_tree_of_its_ref(driver: Driver, tree: Path, said: str, taken: str) -> None:
    older = replay.make_tree(tree.with_name(f"{tree.name}-v0.9.0"))
    replay.add(older, "old", "echo 1..0")
    runtime = tree / "runtime"
    runtime.write_text(f"#!/bin/sh\necho '{said}'\n")
    runtime.chmod(0o755)
    words = ["--older", "youki", "1", "v0.8.0", "--older", "crun", "1.14.3", "v0.9.0", "--list"]
    argv = driver.argv(tree, *words, runtime=str(runtime))
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split() == taken.split()


@pytest.mark.parametrize("missing", ["runtimetest", "rootfs-amd64.tar.gz", "validation"])
def test_a_tree_that_is_not_built_is_told(driver: Driver, tree: Path, missing: str) -> None:
    (tree / missing).rename(tree / "elsewhere")
    done = subprocess.run(driver.argv(tree, "--list"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not built, it lacks" in done.stderr
    assert missing[:6] in done.stderr


def test_a_program_that_needs_more_cpus_than_there_are_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(CPUS) <= set(validation.SUITE.names())
    assert unfit("linux_cgroups_relative_cpus", 1) == "it needs 2 CPUs, and this machine has 1"
    assert unfit("linux_cgroups_relative_cpus", 2) == unfit("linux_cgroups_cpus", 1) == ""
    assert steps.skipped(unfit("linux_cgroups_relative_cpus", 1)) == 0
    events = list(tap.read(capsys.readouterr().out.encode()))
    judged = verdicts.judge("linux_cgroups_relative_cpus", events, "", End(status=0, seconds=0.1))
    assert judged.program.verdict is Verdict.SKIP
    assert [one.diagnostic.get("reason") for one in judged.results] == ["it needs 2 CPUs, and this machine has 1"]


# For real: namespaces, mounts and cgroups


@pytest.mark.host_runtime
@pytest.mark.parametrize("recording", [replay.V1, replay.V2], ids=lambda path: path.name)
def test_a_recorded_run_comes_out_byte_for_byte(driver: Driver, tmp_path: Path, recording: Path) -> None:
    tree = replay.replayed(tmp_path / "tree", recording, scale=0.02)
    ran = driver.run(tree)
    assert (ran.status, ran.stderr) == (0, "")
    rows = replay.summary(recording)
    names = sorted(row["program"] for row in rows)
    assert ran.events[0]["type"] == "plan"
    assert ran.events[0]["programs"] == names
    assert ran.facts["ref"] == "replayed"
    assert ran.facts["reset"] is True
    assert ran.events[-1] == {"type": "finish"}
    assert sorted(ran.ends) == names
    for row in rows:
        name = row["program"]
        if unfit(name):
            continue
        assert ran.bytes(name, "out") == replay.recorded(recording, name, "tap")
        assert ran.bytes(name, "err") == replay.recorded(recording, name, "err")
        end = ran.ends[name]
        assert (end["status"], end["signal"], end["timeout"]) == (int(row["exit_status"]), None, False)
        assert end["left"] == []
        assert end["seconds"] >= float(row["seconds"]) * 0.02
    last = [event["program"] for event in ran.events if event["type"] == "end"][-2:]
    assert last == list(ALONE)


@pytest.mark.host_runtime
def test_what_comes_is_passed_on_at_once(driver: Driver, tree: Path) -> None:
    replay.add(tree, "slow", f"echo first; {replay.NAP}")
    process = driver.start(tree, "--only", "slow")
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [line["type"] for line in lines] == ["plan", "start", "data"]
    assert base64.b64decode(lines[2]["data"]) == b"first\n"


@pytest.mark.host_runtime
def test_each_runs_as_in_a_shell_at_the_trees_root(driver: Driver, tree: Path) -> None:
    same = "umask; ulimit -n; grep Sig[BI] /proc/self/status; ls /proc/self/fd | wc -l"
    replay.add(tree, "looks", f'pwd; echo "$0" "$RUNTIME"; test -d "$TMPDIR" && echo "$TMPDIR"; {same}')
    ran = driver.run(tree, "--only", "looks")
    where, name, directory, *more = ran.bytes("looks").decode().splitlines()
    assert (where, name) == (str(tree), "validation/looks/looks.t /bin/true")
    assert Path(directory).parent.parent == driver.tmp
    shell = ["env", "--default-signal=HUP,INT,TERM", "sh", "-c", same]  # nohup and CI may have it ignore some
    assert more == subprocess.run(shell, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.host_runtime
def test_each_attempt_is_told(driver: Driver, tree: Path) -> None:
    ran = driver.run(tree, "--repeat", "3", "--only", "hooks,hostname")
    ends = [(event["program"], event["attempt"]) for event in ran.events if event["type"] == "end"]
    assert sorted(ends) == [(name, attempt) for name in ("hooks", "hostname") for attempt in (1, 2, 3)]
    assert ran.bytes("hooks") == b"1..0\n" * 3


@pytest.mark.host_runtime
def test_an_end_is_not_missed_while_the_reader_holds_another_up(driver: Driver, tree: Path) -> None:
    first, second = sorted({"hooks", "hostname"}, key=lambda name: -SECONDS[name])
    for name, script in ((first, "exec >&- 2>&-; sleep 1.5"), (second, "sleep 0.3; echo x; sleep 0.3")):
        (tree / "validation" / name / f"{name}.t").write_text(f"#!/bin/sh\n{script}\n")
    process = driver.start(tree, "--jobs", "2")
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)  # what is not read yet leaves no room for more
    out = b""
    while out.count(b'"start"') < 2:
        out += os.read(process.stdout.fileno(), 4096)
    time.sleep(2.5)  # x is there, then second's end waits for room, and meanwhile first ends
    out += process.communicate(timeout=20)[0]
    assert [event["program"] for event in map(json.loads, out.splitlines()) if event["type"] == "end"] == [
        second,
        first,
    ]


def hostile(driver: Driver, tree: Path, *names: str, timeout: str = "2") -> Ran:
    """The well-behaved ones beside them are not disturbed."""
    for name in names:
        replay.add(tree, name, replay.HOSTILE[name])
    ran = driver.run(tree, "--timeout", timeout, "--jobs", "2")
    assert (ran.status, ran.stderr) == (0, "")
    assert sorted(ran.ends) == sorted([*names, "hooks", "hostname"])
    for name in ("hooks", "hostname"):
        assert (ran.ends[name]["status"], ran.bytes(name)) == (0, b"1..0\n")
    assert list(driver.tmp.iterdir()) == []
    return ran


def how(ran: Ran, name: str) -> tuple[int | None, int | None, bool]:
    end = ran.ends[name]
    return end["status"], end["signal"], end["timeout"]


@pytest.mark.host_runtime
@pytest.mark.parametrize("name", ["hangs", "ignores_sigterm"])
def test_what_does_not_end_is_killed_at_its_timeout(driver: Driver, tree: Path, name: str) -> None:
    ran = hostile(driver, tree, name)
    assert how(ran, name) == (None, signal.SIGKILL, True)
    assert ran.facts["limit"] <= ran.ends[name]["seconds"] < ran.facts["limit"] + 2
    assert ran.seconds < 15


@pytest.mark.host_runtime
@pytest.mark.parametrize(
    ("name", "status", "out"),
    [("forks_twice", 3, b"out\n"), ("keeps_the_pipe", 0, b"daemon\n"), ("leaves_its_session", 0, b"")],
)
def test_a_daemon_holds_nothing_up_and_is_named(driver: Driver, tree: Path, name: str, status: int, out: bytes) -> None:
    ran = hostile(driver, tree, name, timeout="30")
    assert how(ran, name) == (status, None, False)
    assert ran.bytes(name) == out
    assert ran.ends[name]["left"] == [f"process {replay.NAP}"]
    assert ran.seconds < 15


@pytest.mark.host_runtime
def test_killing_everyone_kills_nobody_else(driver: Driver, tree: Path) -> None:
    ran = hostile(driver, tree, "kills_its_parent", "kills_all", "kills_itself")
    assert how(ran, "kills_its_parent") == (5, None, False)
    assert ran.bytes("kills_its_parent") == b"still here\n"
    assert how(ran, "kills_all") == (0, None, False)
    assert how(ran, "kills_itself") == (None, signal.SIGKILL, False)
    assert ran.bytes("kills_itself") == b"dying\n"


@pytest.mark.host_runtime
def test_a_flood_is_cut_and_counted(driver: Driver, tree: Path) -> None:
    ran = hostile(driver, tree, "floods", timeout="30")
    assert how(ran, "floods") == (0, None, False)
    kept = 8 << 20
    assert (len(ran.bytes("floods")), len(ran.bytes("floods", "err"))) == (kept, kept)
    assert ran.ends["floods"]["dropped"] == {"out": 100_000_000 - kept, "err": 9_000_000 - kept}
    assert max(len(event.get("data", "")) for event in ran.events) <= 4 * (1 << 16) // 3 + 4


@pytest.mark.host_runtime
def test_any_bytes_any_streams(driver: Driver, tree: Path) -> None:
    ran = hostile(driver, tree, "rubbish", "closes_its_streams", "reads_stdin", "silent")
    assert ran.bytes("rubbish") == b"a\0\377\376\n\r\033[2J not utf-8: \303\050"
    assert ran.bytes("rubbish", "err") == b"\200"
    assert (how(ran, "closes_its_streams"), ran.bytes("closes_its_streams")) == ((4, None, False), b"before\n")
    assert ran.bytes("reads_stdin") == b"end\n"
    assert (how(ran, "silent"), ran.bytes("silent")) == ((0, None, False), b"")


@pytest.mark.host_runtime
def test_mounts_and_files_go_with_the_program(driver: Driver, tree: Path) -> None:
    ran = hostile(driver, tree, "leaks_mounts", "leaves_files")
    here, there = ran.ends["leaks_mounts"]["left"]
    assert here.startswith(f"mount {driver.tmp}")
    assert there == "mount /mnt"
    assert ran.ends["leaves_files"]["left"] == []


@pytest.mark.host_runtime
def test_cgroups_are_named_and_removed(driver: Driver, tree: Path) -> None:
    replay.add(tree, "leaks_a_cgroup", replay.HOSTILE["leaks_a_cgroup"])
    replay.add(tree, "linux_cgroups_new", f"mkdir {hierarchy()}/cgrouptest; sleep 0.5")
    ran = driver.run(tree, "--jobs", "1")  # so there is no doubt whose they are
    where = "" if hierarchy() == CGROUP_ROOT else f" in {hierarchy().name}"
    assert how(ran, "leaks_a_cgroup") == (1, None, False)
    assert ran.ends["leaks_a_cgroup"]["left"] == [f"process {replay.NAP}", f"cgroup /labkit-test{where}"]
    assert ran.ends["linux_cgroups_new"]["left"] == [f"cgroup /cgrouptest{where}"]


def hierarchy() -> Path:
    """Where a process may be put into a new cgroup: cgroup v2's root, or one of v1."""
    return CGROUP_ROOT if (CGROUP_ROOT / "cgroup.controllers").exists() else CGROUP_ROOT / "pids"


@pytest.mark.host_runtime
def test_the_records_of_a_runtime_are_hidden_and_named(driver: Driver, tree: Path, tmp_path: Path) -> None:
    runtime = tmp_path / "labkit-records"
    runtime.write_text("#!/bin/sh\n")
    runtime.chmod(0o755)
    replay.add(tree, "leaves", "mkdir /run/labkit-records/the-id; ls /run/labkit-records")
    replay.add(tree, "looks", "sleep 0.5; ls /run/labkit-records")
    words = driver.argv(tree, "--only", "leaves,looks", runtime=str(runtime))
    done = subprocess.run(words, check=True, capture_output=True)
    assert not Path("/run/labkit-records").exists()
    ran = Ran(0, "", [json.loads(line) for line in done.stdout.splitlines()], 0)
    assert ran.bytes("leaves") == b"the-id\n"
    assert ran.bytes("looks") == b""
    assert ran.ends["leaves"]["left"] == ["container the-id"]


@pytest.mark.host_runtime
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(driver: Driver, tree: Path, number: signal.Signals) -> None:
    process = running(driver, tree)
    process.send_signal(number)
    _, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (128 + number, b"")
    assert list(driver.tmp.iterdir()) == []


@pytest.mark.host_runtime
def test_a_signal_ends_it_while_nobody_reads(driver: Driver, tree: Path) -> None:
    replay.add(tree, "floods", replay.HOSTILE["floods"])
    process = driver.start(tree, "--only", "floods")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1)  # the pipe is full now
    process.terminate()
    assert process.wait(timeout=15) == 128 + signal.SIGTERM


@pytest.mark.host_runtime
def test_it_ends_when_the_reader_is_gone(driver: Driver, tree: Path) -> None:
    process = running(driver, tree)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=15) == 128 + signal.SIGPIPE
    assert list(driver.tmp.iterdir()) == []


@pytest.mark.host_runtime
def test_an_attached_one_ends_with_its_stdin(driver: Driver, tree: Path) -> None:
    reading, writing = os.pipe()
    process = running(driver, tree, "--attached", stdin=reading)
    os.close(reading)
    os.write(writing, b"words are no end")
    time.sleep(0.3)
    assert process.poll() is None
    os.close(writing)
    _, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (128 + signal.SIGHUP, b"")
    assert list(driver.tmp.iterdir()) == []


@pytest.mark.host_runtime
def test_the_next_one_waits_for_what_a_killed_driver_left(driver: Driver, tree: Path, tmp_path: Path) -> None:
    """The lock is held by the guards, which end the programs."""
    lock = ("--lock", str(tmp_path / "lock"))
    process = running(driver, tree, *lock)
    replay.add(tree, "quick", "echo ok 1")
    waiting = driver.start(tree, "--only", "quick", *lock)
    time.sleep(1)
    assert waiting.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    _, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, err) == (0, b"")
    until(lambda: not naps(), 15, "what was killed is gone")
    for directory in [*hierarchy().glob("labkit-test-*"), Path("/run/true")]:  # what nobody is left to remove
        if directory.exists():
            directory.rmdir()


@pytest.mark.host_runtime
def test_a_container_that_dockers_daemon_would_keep_is_ended(driver: Driver, tree: Path, tmp_path: Path) -> None:
    docker, log = tmp_path / "bin" / "docker", tmp_path / "docker.log"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\necho "$*" >>{log}\ntest "$1" != info || exec {replay.NAP}\n')
    docker.chmod(0o755)
    path = f"{docker.parent}:{os.environ['PATH']}"
    process = driver.start(tree, "--set", "runtimetest", "--only", "docker", path=path)
    until(lambda: log.exists() and naps(), 15, "docker info")
    process.terminate()
    assert process.wait(timeout=15) == 128 + signal.SIGTERM
    assert log.read_text().splitlines()[-1] == "rm --force labkit-runtimetest"


@pytest.mark.host_runtime
def test_evidence_comes_home_also_of_a_scenario_that_runs_out_of_time(
    driver: Driver, tree: Path, tmp_path: Path
) -> None:
    config = {
        "hostname": "h",
        "process": {"env": [], "rlimits": [], "capabilities": {"bounding": [], "inheritable": [], "ambient": []}},
    }
    index = {"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "latest"}}]}
    info = {"ServerVersion": "1", "Runtimes": {"true": {"path": "/bin/true"}}, "DefaultRuntime": "true"}
    scripts = {
        tree / "oci-runtime-tool": f"echo '{json.dumps(config)}' >config.json",
        tmp_path / "bin/docker": f"""case $1 in
info) echo '{json.dumps(info)}' ;;
save) mkdir saved && echo >saved/oci-layout && echo '{json.dumps(index)}' >saved/index.json
  tar -cf "$3" -C saved . ;;
run) echo TAP version 13; exec {replay.NAP} ;;
esac""",
    }
    (tmp_path / "bin").mkdir()
    for path, script in scripts.items():
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    words = ("--set", "runtimetest", "--only", "docker", "--jobs", "1", "--timeout", "4")
    process = driver.start(tree, *words, path=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    events = [json.loads(line) for line in out.splitlines()]
    [end] = [event for event in events if event["type"] == "end"]
    assert end["timeout"] is True
    kept: dict[str, bytes] = {}
    for event in events:
        if event["type"] == "evidence":
            assert event["program"] == "docker"
            kept[event["name"]] = kept.get(event["name"], b"") + base64.b64decode(event["data"])
    assert {"image.tar", "listing.txt", "SHA256SUMS"} <= kept.keys()
    assert b"oci-layout" in kept["listing.txt"]
    assert f"{hashlib.sha256(kept['image.tar']).hexdigest()}  image.tar".encode() in kept["SHA256SUMS"].splitlines()
    assert events.index(end) > max(i for i, event in enumerate(events) if event["type"] == "evidence")
    assert list(driver.tmp.iterdir()) == []


@pytest.mark.host_runtime
def test_nothing_outlives_a_killed_driver(driver: Driver, tree: Path) -> None:
    process = running(driver, tree)
    os.killpg(process.pid, signal.SIGKILL)
    until(lambda: not naps() and not list(driver.tmp.iterdir()), 15)
    for directory in [*hierarchy().glob("labkit-test-*"), Path("/run/true")]:  # what nobody is left to remove
        directory.rmdir()


def running(driver: Driver, tree: Path, *words: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    """A driver with two programs that sleep, one of them in a daemon, beside a cgroup it made."""
    replay.add(tree, "hangs", replay.HOSTILE["hangs"])
    replay.add(tree, "daemon", f"mkdir {hierarchy()}/labkit-test-$$; setsid {replay.NAP} & echo here; wait")
    process = driver.start(tree, "--only", "hangs,daemon", *words, stdin=stdin)
    until(lambda: len(naps()) == 2, 15, "two naps")
    return process


@pytest.mark.host_runtime
@pytest.mark.skipif("LABKIT_RUNTIME_TOOLS" not in os.environ, reason="LABKIT_RUNTIME_TOOLS names no built tree")
def test_the_real_tree_runs_to_its_end(driver: Driver) -> None:
    ran = driver.run(Path(os.environ["LABKIT_RUNTIME_TOOLS"]), "--runtime", "runc", timeout=600)
    assert ran.status == 0
    assert set(ran.ends) == set(SECONDS)
    assert not any(end["timeout"] for end in ran.ends.values())
    assert b"ok 1 - " in ran.bytes("default")

"""The bats suite: a small tree in the form of runc's, run by the real bats, and what becomes of its output."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from labkit.core import resources
from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.guest.common.errors import UsageError as GuestUsageError
from labkit.guest.programs import bats
from labkit.guest.pyz import pyz
from labkit.results import policy
from labkit.results.model import Reading, RuntimeInfo, Verdict
from labkit.suites import registry, shards
from labkit.suites.bats import SUITE
from labkit.usecases import run as run_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
has_bats = pytest.mark.skipif(
    not shutil.which("bats", path=f"{Path(sys.executable).parent}:{os.defpath}:/usr/local/bin"),
    reason="not installed: bats",
)

HELPERS = """
IMAGES=$("$(dirname "${BASH_SOURCE[0]}")"/get-images.sh)
eval "$IMAGES"
TESTBINDIR=$(dirname "${BASH_SOURCE[0]}")/../cmd/_bin
"""
IMAGES = """#!/bin/bash
echo "BUSYBOX_IMAGE=busybox-$(go env GOARCH).tar.xz"
"""
MIXED = """load helpers
@test "runc run passes" { "$RUNC" --version; }
@test "runc run [fails] (1 of 2), with a comma" {
	echo "the runtime's own words"
	false
}
@test 'it has an image' { [[ $BUSYBOX_IMAGE == busybox-*.tar.xz ]]; }
@test "runc checkpoint" { skip "test requires criu"; }
"""
HELPER = '#!/bin/sh\nexec "$TESTBINDIR/recvtty"\n'


def make_tree(directory: Path, files: Mapping[str, str], helpers: str = HELPERS, built: bool = True) -> Path:
    """A tree in the form of runc's, with these bats files."""
    tests = directory / "tests/integration"
    tests.mkdir(parents=True)
    (tests / "helpers.bash").write_text(helpers)
    (tests / "get-images.sh").write_text(IMAGES)
    (tests / "get-images.sh").chmod(0o755)
    (directory / "labkit-ref").write_text("v9.9.9\n")
    if built:
        (directory / "tests/cmd/_bin").mkdir(parents=True)
    for name, text in files.items():
        (tests / f"{name}.bats").write_text(text)
    return directory


@dataclass
class Ran:
    status: int
    out: bytes
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def text(self, name: str) -> str:
        pieces = [
            e["data"] for e in self.events if e["type"] == "data" and (e["program"], e["stream"]) == (name, "out")
        ]
        return b"".join(map(base64.b64decode, pieces)).decode()


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    program = tmp_path / "labkit-programs.pyz"
    program.write_bytes(pyz("programs"))
    tmp = tmp_path / "tmp"
    tmp.mkdir()

    # Of a name of its own: what tests beside this one do in /run/NAME, and remove, is another directory.
    own = tmp_path / f"true-{secrets.token_hex(4)}"
    own.symlink_to("/bin/true")

    def start(tree: Path, *words: str, runtime: str | Path = own, path: str | None = None) -> Ran:
        argv = [sys.executable, str(program), "--set", "bats", "--tree", str(tree), "--runtime", str(runtime), *words]
        where = path if path is not None else f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "TMPDIR": str(tmp), "PATH": where}
        done = subprocess.run(argv, capture_output=True, env=environment, timeout=120, stdin=subprocess.DEVNULL)
        assert list(tmp.iterdir()) == [], "the run leaves nothing"
        return Ran(done.returncode, done.stdout, done.stderr.decode())

    return start


def read(ran: Ran, raw: Path) -> Reading:
    raw.mkdir()
    with SUITE.recorder(raw, lambda *_: None) as recorder:
        recorder.take(ran.out)
        recorder.take_stderr(ran.stderr.encode())
    assert SUITE.recognizes(raw)
    assert [suite.name for suite in registry.of_directory(raw)] == ["bats"]
    return shards.read(SUITE, raw)


def verdicts(reading: Reading) -> dict[str, str]:
    return {f"{result.program}:{result.name}": result.verdict.value for result in reading.results}


@has_bats
def test_a_tree_is_run_and_each_test_has_a_verdict(run: Run, tmp_path: Path) -> None:
    other = 'load helpers\n@test "one more" { [ -d /tmp ]; }\n'
    ran = run(make_tree(tmp_path / "tree", {"mixed": MIXED, "host-mntns": other}))
    assert (ran.status, ran.stderr) == (0, "")
    reading = read(ran, tmp_path / "raw")
    assert reading.reason is None
    assert verdicts(reading) == {
        "mixed:runc run passes": "pass",
        "mixed:runc run [fails] (1 of 2), with a comma": "fail",
        "mixed:it has an image": "pass",
        "mixed:runc checkpoint": "skip",
        "host-mntns:one more": "pass",
    }
    by_name = {result.name: result for result in reading.results}
    failed = by_name["runc run [fails] (1 of 2), with a comma"]
    assert "the runtime's own words" in str(failed.diagnostic["message"])
    assert by_name["runc checkpoint"].diagnostic["reason"] == "test requires criu"
    assert reading.facts["ref"] == "v9.9.9"
    assert [(program.name, program.verdict.value) for program in reading.programs] == [
        ("host-mntns", "pass"),
        ("mixed", "fail"),
    ] or {program.name for program in reading.programs} == {"host-mntns", "mixed"}


@has_bats
def test_words_choose_files_and_tests(run: Run, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", {"mixed": MIXED, "other": '@test "runc run passes" { true; }\n'})
    ran = run(tree, "--only", "mixed:runc-run-fails-1-of-2-with-a-comma,other", "--leave-out", "other:nothing-like-it")
    assert verdicts(read(ran, tmp_path / "raw")) == {
        "mixed:runc run [fails] (1 of 2), with a comma": "fail",
        "other:runc run passes": "pass",
    }
    listed = run(tree, "--list").out.decode().splitlines()
    assert listed[:2] == ["mixed:runc-run-passes", "mixed:runc-run-fails-1-of-2-with-a-comma"]
    assert run(tree, "--list-files").out.decode().split() == ["mixed", "other"]
    wrong = run(tree, "--only", "mixd")
    assert (wrong.status, wrong.out) == (2, b"")
    assert "no file or test 'mixd'; did you mean mixed" in wrong.stderr


@has_bats
def test_a_test_that_hangs_is_ended_and_the_next_one_runs(run: Run, tmp_path: Path) -> None:
    text = '@test "hangs" { sleep 3471; }\n@test "goes on" { true; }\n'
    ran = run(make_tree(tmp_path / "tree", {"slow": text}), "--timeout", "1", "--jobs", "1")
    reading = read(ran, tmp_path / "raw")
    assert verdicts(reading) == {"slow:hangs": "timeout", "slow:goes on": "pass"}
    assert reading.reason is None


@has_bats
def test_a_file_ends_with_its_tests_and_not_with_their_time(run: Run, tmp_path: Path) -> None:
    """A test that is over at once may leave the countdown of its limit to bats."""
    files = {name: '@test "a" { skip "at once"; }\n@test "b" { skip "too"; }\n' for name in ("one", "two", "three")}
    ran = run(make_tree(tmp_path / "tree", files), "--timeout", "3471", "--jobs", "3")
    assert set(verdicts(read(ran, tmp_path / "raw")).values()) == {"skip"}
    assert all(event["seconds"] < 60 for event in ran.events if event["type"] == "end")


@has_bats
def test_a_test_that_waits_for_what_it_started_does_not_wait_for_its_limit(run: Run, tmp_path: Path) -> None:
    text = '@test "a" { (sleep 0.2; touch "$BATS_TEST_TMPDIR/x") & wait; [ -e "$BATS_TEST_TMPDIR/x" ]; }\n'
    ran = run(make_tree(tmp_path / "tree", {"waits": text}), "--timeout", "100", "--jobs", "1")
    assert verdicts(read(ran, tmp_path / "raw")) == {"waits:a": "pass"}
    assert all(event["seconds"] < 60 for event in ran.events if event["type"] == "end")


@has_bats
def test_a_test_whose_processes_heed_no_signal_is_a_timeout_all_the_same(run: Run, tmp_path: Path) -> None:
    deaf = """trap "" TERM ABRT; for i in $(seq 3471); do sleep 1; done"""
    text = f"@test 'deaf' {{ run setsid bash -c '{deaf}'; }}\n@test 'next' {{ true; }}\n".replace("'", '"', 2)
    text = text.replace("@test 'next'", '@test "next"')
    ran = run(make_tree(tmp_path / "tree", {"frozen": text}), "--timeout", "3", "--jobs", "1")
    reading = read(ran, tmp_path / "raw")
    assert (verdicts(reading), reading.reason) == ({"frozen:deaf": "timeout", "frozen:next": "pass"}, None)


@has_bats
def test_a_file_ends_though_a_test_has_left_a_process_with_its_output_open(run: Run, tmp_path: Path) -> None:
    text = '@test "a" { (sleep 3471 >&3 3>&3 &) & sleep 0.2; }\n'
    ran = run(make_tree(tmp_path / "tree", {"leaves": text}), "--timeout", "100", "--jobs", "1")
    assert verdicts(read(ran, tmp_path / "raw")) == {"leaves:a": "pass"}
    (end,) = (event for event in ran.events if event["type"] == "end")
    assert 4 < end["seconds"] < 60


@has_bats
def test_what_a_file_that_dies_did_not_run_is_told(run: Run, tmp_path: Path) -> None:
    text = '@test "first" { true; }\n@test "kills" { kill -9 -1; }\n@test "last" { true; }\n'
    reading = read(run(make_tree(tmp_path / "tree", {"dies": text})), tmp_path / "raw")
    found = verdicts(reading)
    assert found["dies:first"] == "pass" and found["dies:(program)"] == "error"
    assert reading.reason == "2 tests not run: dies:kills, dies:last"


@has_bats
def test_a_file_that_bats_cannot_read_is_an_error(run: Run, tmp_path: Path) -> None:
    reading = read(run(make_tree(tmp_path / "tree", {"broken": '@test "x" { true; \n'})), tmp_path / "raw")
    assert {result.verdict for result in reading.results if result.whole} == {Verdict.ERROR}
    assert reading.reason == "1 test not run: broken:x"


@has_bats
def test_arguments_of_the_runtime_come_before_each_command(run: Run, tmp_path: Path) -> None:
    runtime = tmp_path / "my-runc"
    runtime.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    runtime.chmod(0o755)
    text = '@test "a" { [ "$("$RUNC" list)" = "--debug|a b|list|" ]; [ "$(basename "$RUNC")" = my-runc ]; }\n'
    tree = make_tree(tmp_path / "tree", {"a": text})
    ran = run(tree, "--runtime-arg=--debug", "--runtime-arg=a b", runtime=str(runtime))
    reading = read(ran, tmp_path / "raw")
    assert verdicts(reading) == {"a:a": "pass"}
    assert reading.facts["runtime-arguments"] == "--debug 'a b'"


@has_bats
@pytest.mark.skipif(not shutil.which("ip"), reason="not installed: iproute2")
def test_a_file_has_a_network_of_its_own(run: Run, tmp_path: Path) -> None:
    ours = os.readlink("/proc/self/ns/net")  # noqa: PTH115
    text = f'''@test "a" {{
	[ "$(readlink /proc/self/ns/net)" != "{ours}" ]
	[ "$(readlink /proc/self/ns/net)" = "$(readlink /proc/1/ns/net)" ]
	ip -o address show dev lo up | grep -qw 127.0.0.1
	ip link add name mine type veth peer name other || skip "no veth"
}}
'''
    ran = run(make_tree(tmp_path / "tree", {"one": text, "two": text}))
    found = verdicts(read(ran, tmp_path / "raw"))
    assert set(found.values()) in ({"pass"}, {"skip"}), ran.out


@has_bats
def test_systemd_is_asked_for_by_the_runtimes_argument(run: Run, tmp_path: Path) -> None:
    text = '@test "a" { [ "$RUNC_USE_SYSTEMD" = 1 ]; [ -L "$RUNC" ]; [ "$(cat /proc/self/comm)" = cat ]; }\n'
    ran = run(make_tree(tmp_path / "tree", {"a": text}), "--runtime-arg=--systemd-cgroup")
    assert verdicts(read(ran, tmp_path / "raw")) == {"a:a": "pass"}
    assert SUITE.needs_reset(Selection(runtime_args=("--systemd-cgroup",)))
    assert not SUITE.needs_reset(Selection())


@has_bats
@pytest.mark.skipif(not shutil.which("setpriv") or not shutil.which("newuidmap"), reason="not installed: uidmap")
def test_another_user_runs_the_tests_with_ids_of_its_own(run: Run, tmp_path: Path) -> None:
    text = """@test "a" {
	[ "$(id -un)" = nobody ]
	[ "$ROOTLESS_FEATURES" = idmap+cgroup ]
	grep -x "nobody:100000:65536" /etc/subuid
	[ "$(stat -c %u "$ROOTLESS_AUX_DIR")" = 100024 ]
	touch "$BATS_TEST_TMPDIR/mine"
}
"""
    tree = make_tree(tmp_path / "tree", {"a": text})
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(path.stat().st_mode | 0o011)
    before = Path("/etc/subuid").read_bytes()
    reading = read(run(tree, "--user", "nobody"), tmp_path / "raw")
    assert verdicts(reading) == {"a:a": "pass"}, reading.results[0].diagnostic
    assert (reading.facts["user"], reading.facts["rootless-features"]) == ("nobody", "idmap+cgroup")
    assert Path("/etc/subuid").read_bytes() == before
    assert "no user 'nobody-like-it'" in run(tree, "--user", "nobody-like-it").stderr
    assert "root runs the tests without it" in run(tree, "--user", "root").stderr


has_jq = pytest.mark.skipif(not shutil.which("jq"), reason="not installed: jq")


@has_jq
@pytest.mark.parametrize(
    ("files", "built", "helpers", "status", "said"),
    [
        ({}, True, HELPERS, 2, "has no tests/integration/*.bats"),
        ({"a b": ""}, True, HELPERS, 2, "a name of letters, digits, _ and - is needed"),
        ({"a": '@test "x" { true; }\n'}, True, HELPERS + HELPER, 3, "are not built, no recvtty: make test-binaries"),
        ({"a": '@test "x" { true; }\n'}, False, HELPERS + HELPER, 3, "it has no tests/cmd/_bin"),
    ],
    ids=["no tests", "name", "helper", "nothing built"],
)
def test_a_tree_that_is_not_one_is_told(
    run: Run, tmp_path: Path, files: dict[str, str], built: bool, helpers: str, status: int, said: str
) -> None:
    ran = run(make_tree(tmp_path / "tree", files, helpers, built))
    assert (ran.status, ran.out) == (status, b"")
    assert said in ran.stderr and "Traceback" not in ran.stderr


@has_jq
def test_a_host_without_what_the_tests_call_is_told(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "bin"
    old.mkdir()
    (old / "bats").write_text("#!/bin/sh\necho Bats 1.2.1\n")
    (old / "bats").chmod(0o755)
    tree = make_tree(tmp_path / "tree", {"a": '@test "x" { true; }\n'})
    ran = run(tree, path=f"{old}:{os.environ['PATH']}")
    assert (ran.status, ran.out) == (3, b"")
    assert "is version 1.2.1, and a time limit for each test needs 1.8 or newer" in ran.stderr
    assert "no directory" in run(tmp_path / "nowhere").stderr


def test_the_names_of_tests_are_those_that_bats_sees(tmp_path: Path) -> None:
    file = tmp_path / "a.bats"
    file.write_text('@test "a \\"b\\"" {\n  @test \'c $d\' { true; }\n# @test "no" {\n@test bare {\n@test "open"\n')
    assert bats.tests_of(file) == ['a "b"', "c $d", "bare"]


TESTS = {"exec": ["runc exec", "runc exec --user"], "kill": ["kill detached [paused]"], "exec-more": ["other"]}


@pytest.mark.parametrize(
    ("only", "skip", "left"),
    [
        (None, [], TESTS),
        (["exec"], [], {"exec": TESTS["exec"]}),
        (["exec.bats"], ["exec:runc exec"], {"exec": ["runc exec --user"]}),
        (["exec*"], [], {"exec": TESTS["exec"], "exec-more": ["other"]}),
        (["*paused*"], [], {"kill": TESTS["kill"]}),
        (["kill:kill-detached-paused"], [], {"kill": TESTS["kill"]}),
        (["EXEC:*user"], [], {"exec": ["runc exec --user"]}),
        (None, ["exec*", "no such thing"], {"kill": TESTS["kill"]}),
    ],
)
def test_words(only: Sequence[str] | None, skip: Sequence[str], left: dict[str, list[str]]) -> None:
    assert bats.select(TESTS, only, skip) == left


@pytest.mark.parametrize(("only", "skip"), [(["exec:nothing"], []), (["x*"], []), (None, ["*"]), (["kill"], ["kill"])])
def test_words_that_leave_nothing(only: Sequence[str] | None, skip: Sequence[str]) -> None:
    with pytest.raises(GuestUsageError):
        bats.select(TESTS, only, skip)


def test_the_suite_passes_on_what_is_asked() -> None:
    selection = Selection(("exec",), 3, 2, 7.5, ("--debug",), skip=("kill",))
    words = SUITE.argv("/p", "runc", selection)
    expected = ["--runtime-arg=--debug", "--only", "exec", "--leave-out", "kill", "--jobs", "3", "--repeat", "2"]
    assert words[-len(expected) - 2 :] == [*expected, "--timeout", "7.5"]
    assert SUITE.argv("/p", "runc", Selection(user="rootless"))[-2:] == ["--user", "rootless"]
    with pytest.raises(UsageError, match="need a session of the user's own"):
        SUITE.check(Selection(user="rootless", runtime_args=("--systemd-cgroup",)))
    with pytest.raises(UsageError, match="the validation suite does not take --user; --suite spec and --suite bats do"):
        registry.find("validation").check(Selection(user="rootless"))
    with pytest.raises(UsageError, match="does not take --spec"):
        SUITE.check(Selection(spec="1.2.0"))


@has_bats
def test_a_test_has_a_terminal_as_a_person_s_has(run: Run, tmp_path: Path) -> None:
    text = '@test "a" { echo said >/dev/tty; tty <&0 || true; [ -c /dev/tty ]; }\n'
    ran = run(make_tree(tmp_path / "tree", {"a": text}))
    assert verdicts(read(ran, tmp_path / "raw")) == {"a:a": "pass"}
    assert [what for what in ran.events[-2]["left"] if not what.startswith("cgroup ")] == []  # those of other tests


@has_bats
def test_an_archive_that_is_not_there_is_told_before_each_test_tries_to_fetch_it(run: Run, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", {"a": '@test "x" { true; }\n'})
    script = tree / "tests/integration/get-images.sh"
    script.write_text('rootfs="$TESTDATA/busybox-${arch}.tar.xz"\nget "$rootfs" "$url"\n')
    ran = run(tree)
    assert (ran.status, ran.out) == (3, b"")
    assert "testdata/busybox-" in ran.stderr and "each test would try to fetch it" in ran.stderr


@pytest.mark.skipif(not shutil.which("busybox") or not shutil.which("xz"), reason="not installed: busybox, xz")
def test_the_step_builds_a_tree_and_makes_archives_that_it_does_not_bring(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", {"a": '@test "x" { true; }\n'}, built=False)
    (tree / "labkit-ref").unlink()
    script = tree / "tests/integration/get-images.sh"
    script.write_text("# busybox-${arch}.tar.xz debian-${arch}.tar.xz hello-world\n")
    (tree / "Makefile").write_text("test-binaries:\n\tmkdir -p tests/cmd/_bin && touch tests/cmd/_bin/recvtty\n")
    (tree / "main.go").write_text("package main\n")
    (tmp_path / "state/sources").mkdir(parents=True)
    subprocess.run(["tar", "-C", tree, "-cf", tmp_path / "state/sources/runc-tests.tar", "."], check=True)
    root = resources.root() / "bootstrap"
    text = f"""set -eu
state={tmp_path}/state lab={tmp_path}/lab cache={tmp_path}/cache
mkdir -p "$lab/src" "$cache"
RUNC_TESTS_FROM=upload RUNC_TESTS_URL=runc-tests.tar RUNC_TESTS_REF=abc RUNC_TESTS_SHA256= RUNC_TESTS_SUMS=
LAB_KIND=host
LAB_FAMILY=debian LAB_MIRROR= PACKAGES_DOWNLOAD=
. {root}/functions.sh
. {root}/45-runc-tests.sh
"""
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "lab/src/runc-tests"
    assert (made / "labkit-ref").read_text() == "abc\n"
    assert sorted(path.name for path in made.iterdir()) == ["labkit-ref", "tests"]
    data = made / "tests/integration/testdata"
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    assert sorted(path.name for path in data.iterdir()) == [f"busybox-{arch}.tar.xz", f"debian-{arch}.tar.xz"]
    for name, command in (
        ("busybox", "sh -c 'id -u && stat -c %a /tmp'"),
        ("debian", "bash -c 'id -u; stat -c %a /tmp'"),
    ):
        at = tmp_path / name
        at.mkdir()
        subprocess.run(["tar", "-C", at, "-xf", data / f"{name}-{arch}.tar.xz"], check=True)
        assert (at / "proc").exists() is (name == "debian"), "mask.bats puts a link there"
        ran = subprocess.run(["chroot", at, *shlex.split(command)], capture_output=True, text=True, timeout=60)
        assert (ran.returncode, ran.stdout.split()) == (0, ["0", "1777"]), ran.stderr


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"README": ""}, "runc-tests.tar has no tests/integration: it is not a tree of runc"),
        ({"tests/integration/helpers.bash": ""}, "no tests/integration/*.bats: it is a tree of runc without its tests"),
    ],
)
def test_the_step_says_of_a_tree_without_tests_what_it_lacks(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in {**files, "other": ""}.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    (tmp_path / "state/sources").mkdir(parents=True)
    subprocess.run(["tar", "-C", tmp_path / "tree", "-cf", tmp_path / "state/sources/runc-tests.tar", "."], check=True)
    root = resources.root() / "bootstrap"
    text = f"""set -eu
state={tmp_path}/state lab={tmp_path}/lab cache={tmp_path}/cache
mkdir -p "$lab/src" "$cache"
RUNC_TESTS_FROM=upload RUNC_TESTS_URL=runc-tests.tar RUNC_TESTS_REF= RUNC_TESTS_SHA256= RUNC_TESTS_SUMS=
LAB_KIND=host
. {root}/functions.sh
. {root}/45-runc-tests.sh
"""
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of runc's tests on machines of User-Mode Linux, Debian 13: raw/ of each runtime."""
    directory = tmp_path_factory.mktemp("recordings")
    for file in sorted((Path(__file__).parent / "recordings/bats").glob("*.tar.xz")):
        with tarfile.open(file) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(directory / file.name.partition(".")[0])
    return {path.name: path for path in directory.iterdir()}


FROZEN = "cgroups:runc run/create should refuse pre-existing frozen cgroup"
EVENTS = [f"events:events {what}" for what in ("--interval default", "--interval 1s", "--interval 100ms", "oom")]


@pytest.mark.parametrize(
    ("name", "runtime", "reason", "unexpected"),
    [
        ("runc", "runc", None, []),
        ("runc-of-debian", "runc", None, EVENTS),
        ("crun", "crun", f"1 test not run: {FROZEN}", []),
    ],
)
def test_a_recorded_run_is_judged_and_its_failures_are_in_the_policy(
    recordings: dict[str, Path], name: str, runtime: str, reason: str | None, unexpected: list[str]
) -> None:
    reading = shards.read(SUITE, recordings[name])
    assert reading.reason is None if reason is None else reason in (reading.reason or "")
    begun = run_of.new_run("1", SUITE, {}, RuntimeInfo(runtime, runtime, ""), None)
    judged = policy.apply(run_of.with_reading(begun, reading), policy.load(suites=registry.names()), date(2026, 11, 27))
    assert [f"{r.program}:{r.name}" for r in judged.results if r.bad and not r.whole and not r.expected] == unexpected
    assert sum(r.verdict is Verdict.PASS for r in judged.results) > 10
    assert all(r.diagnostic["reason"] for r in judged.results if r.verdict is Verdict.SKIP)


def test_every_entry_of_the_policy_is_about_something(recordings: dict[str, Path]) -> None:
    results = [result for path in recordings.values() for result in shards.read(SUITE, path).results]
    for entry in policy.load(suites=registry.names()):
        if entry.rule.suite == "bats":
            assert any(map(entry.concerns, results)), entry.source

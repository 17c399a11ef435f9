"""The spec suite without root: as an ordinary user, and as root of a user namespace with one mapped id."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.guest.pyz import pyz
from labkit.io import process
from labkit.results import tap
from labkit.results.model import Reading, Verdict
from labkit.suites.spec import from_tap
from tests.test_spec_place import UNSHARE, refusing

pytestmark = pytest.mark.host_runtime

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
ROOT = ("unshare", "--user", "--map-root-user")
# With and without what one mapped id and no cgroup can show.
TELLING = """STATE-001 CREATE-003 ROOT-002 MOUNT-001 PROC-002 KILL-003 DELETE-001 HOOK-001 NS-001 SYML-001 DEFDEV-001
CLI-003 PROC-005 USERNS-001 CG-001 CG-004 CG-047 DEV-001""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """Where an ordinary user can read it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lk-rootless-") as name:
        Path(name).chmod(0o755)
        (Path(name) / "tmp").mkdir()
        (Path(name) / "tmp").chmod(0o1777)
        path = Path(name) / "labkit-spec.pyz"
        path.write_bytes(pyz("spec"))
        yield path


def run(
    program: Path, runtime: str, before: tuple[str, ...], *, script: str = "", only: str = "", user: str = ""
) -> Reading:
    """script: what a shell does in a mount namespace before that."""
    for name in (*before[:1], runtime, "unshare", "/usr/bin/python3"):
        if not process.which(name):
            pytest.skip(f"not installed: {name}")
    if runtime == "crun" and Path("/sys/fs/cgroup/unified").is_dir():
        script += "umount /sys/fs/cgroup/unified || exit 9\n"  # it refuses a hybrid host
    words = [*before, "/usr/bin/python3", str(program), "--runtime", runtime]
    words += ["--only", only] if only else []
    words += ["--user", user] if user else []
    around = ["unshare", "--mount", "sh", "-c", f'{script}exec "$@"', "sh", *words]
    env = {**os.environ, "TMPDIR": str(program.parent / "tmp")}  # whatever this host's /tmp lets a user do
    done = subprocess.run(around, cwd="/", env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
    assert done.stderr.decode() == ""
    reading = from_tap(tap.read(done.stdout))
    assert reading.reason is None
    return reading


def verdicts(reading: Reading) -> dict[str, Verdict]:
    return {result.id: result.verdict for result in reading.results}


@pytest.fixture(scope="module")
def root(program: Path) -> dict[str, Verdict]:
    return verdicts(run(program, "runc", ("env",)))


def no_worse(reading: Reading, root: dict[str, Verdict]) -> None:
    """Than as root: what cannot hold is skipped, with a reason, and never fails."""
    bad = (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT)
    more = {result.id: result.diagnostic.get("message") for result in reading.results if result.verdict in bad}
    assert {id: message for id, message in more.items() if root[id] not in bad} == {}


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_an_ordinary_user_can_run_it(program: Path, runtime: str) -> None:
    reading = run(program, runtime, NOBODY, only=",".join(TELLING))
    assert reading.facts["user-namespace"] == "1 user id mapped, no cgroup delegated"
    found = verdicts(reading)
    assert [id for id in TELLING[:12] if found[id] != Verdict.PASS] == []
    skipped = {
        result.id: str(result.diagnostic.get("message")) for result in reading.results if result.id in TELLING[12:]
    }
    assert {found[id] for id in skipped} == {Verdict.SKIP}
    for id, why in {
        "PROC-005": "ids",
        "USERNS-001": "ids",
        "CG-001": "no cgroup is delegated",
        "DEV-001": "device",
    }.items():
        assert why in skipped[id]


def test_ids_that_a_user_may_have_are_mapped(program: Path) -> None:
    if not process.which("newuidmap"):
        pytest.skip("not installed: newuidmap")
    with tempfile.NamedTemporaryFile("w", dir="/tmp") as ranges:
        ranges.write("nobody:100000:100000\n")
        ranges.flush()
        Path(ranges.name).chmod(0o644)
        script = f"for f in subuid subgid; do mount --bind {ranges.name} /etc/$f || exit 9; done\n"
        if not all(Path(f"/etc/{name}").exists() for name in ("subuid", "subgid")):
            pytest.skip("this host has no /etc/subuid")
        reading = run(program, "runc", NOBODY, script=script, only="PROC-005,STATE-001,CG-001")
    assert reading.facts["user-namespace"] == "100001 user ids mapped, no cgroup delegated"
    assert verdicts(reading) == {"PROC-005": Verdict.PASS, "STATE-001": Verdict.PASS, "CG-001": Verdict.SKIP}


def left() -> set[Path]:
    """What a run by root as another user makes on this host."""
    return {*Path("/tmp").glob("labkit-user-*"), *Path("/sys/fs/cgroup").glob("labkit-user-*")}


def test_root_runs_it_as_an_ordinary_user(program: Path) -> None:
    before = left()
    reading = run(program, "runc", ("env",), only=",".join(TELLING), user="nobody")
    assert reading.facts["user"] == "nobody"
    assert re.fullmatch("1 user id mapped, (no cgroup|cgroups) delegated", reading.facts["user-namespace"])
    found = verdicts(reading)
    assert [id for id in TELLING[:12] if found[id] != Verdict.PASS] == []
    assert {found[id] for id in ("PROC-005", "USERNS-001", "DEV-001")} == {Verdict.SKIP}
    delegated = "no cgroup" not in reading.facts["user-namespace"]
    assert found["CG-001"] == (Verdict.PASS if delegated else Verdict.SKIP)
    assert left() == before


def test_root_maps_the_ids_that_the_user_may_have(program: Path) -> None:
    """Without newuidmap."""
    if not all(Path(f"/etc/{name}").exists() for name in ("subuid", "subgid")):
        pytest.skip("this host has no /etc/subuid")
    with tempfile.NamedTemporaryFile("w", dir="/tmp") as ranges:
        ranges.write("nobody:100000:100000\n")
        ranges.flush()
        Path(ranges.name).chmod(0o644)
        script = f"for f in subuid subgid; do mount --bind {ranges.name} /etc/$f || exit 9; done\n"
        script += "for p in newuidmap newgidmap; do p=$(command -v $p) && mount --bind /bin/false $p; done; :\n"
        reading = run(program, "runc", ("env",), script=script, only="PROC-005", user="nobody")
    assert reading.facts["user-namespace"].startswith("100001 user ids mapped, ")
    assert verdicts(reading) == {"PROC-005": Verdict.PASS}


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("root", "--user: root runs the tests without it"),
        ("no-such-user", "--user: this machine has no user 'no-such-user'"),
        ("a\tb\n", "--user: this machine has no user 'a?b?'"),
        ("", "--user: this machine has no user ''"),
    ],
)
def test_users_that_are_none(program: Path, user: str, said: str) -> None:
    words = ["/usr/bin/python3", str(program), "--runtime", "runc", "--only", "STATE-001", f"--user={user}"]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"labkit-spec: {said}\n"


def test_a_runtime_that_the_user_may_not_run(program: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # for root alone
        path = Path(name, "runc")
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        words = ["/usr/bin/python3", str(program), "--runtime", str(path), "--user", "nobody"]
        done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"labkit-spec: user nobody cannot run what root can: runtime '{path}' not found\n"


def test_root_of_a_user_namespace_says_so(program: Path) -> None:
    reading = run(program, "runc", ROOT, only="STATE-001,CG-001,PROC-005")
    assert re.fullmatch("1 user id mapped, (no cgroup|cgroups) delegated", reading.facts["user-namespace"])
    assert verdicts(reading)["STATE-001"] == Verdict.PASS
    assert verdicts(reading)["PROC-005"] == Verdict.SKIP


@pytest.mark.long
@pytest.mark.parametrize("before", [NOBODY, ROOT], ids=["user", "root"])
def test_no_requirement_fails_that_holds_for_root(
    program: Path, root: dict[str, Verdict], before: tuple[str, ...]
) -> None:
    no_worse(run(program, "runc", before), root)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of a system call is that of x86_64")
def test_where_there_are_no_user_namespaces_it_wants_root(program: Path) -> None:
    if not process.which("setpriv"):
        pytest.skip("not installed: setpriv")
    words = [*NOBODY, "/usr/bin/python3", "-c", refusing(UNSHARE, 1), "/usr/bin/python3", str(program)]
    done = subprocess.run([*words, "--runtime", "runc"], cwd="/", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "labkit-spec: must run as root (sudo): this user can have no user namespace here\n"

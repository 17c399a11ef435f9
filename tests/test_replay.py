"""The validation suite in a real machine, its programs replaced by shell scripts: recorded ones, and hostile ones."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.io.ssh import SshRemote
from tests import replay
from tests.conftest import Lab

pytestmark = pytest.mark.machine

SCALE = 0.05  # of the recorded seconds
PLACE = "/opt/labkit/src/runtime-tools"
SPOIL = "linux_ns_itype"  # a run of it ends with a reset

# Of the programs of replay.HOSTILE: one that prints no TAP and ends well has no assertions, any other end is an error.
TIMEOUTS = {"hangs", "ignores_sigterm"}
ERRORS = {"forks_twice", "kills_its_parent", "kills_itself", "floods", "closes_its_streams", "leaks_a_cgroup"}
VERDICTS = {
    what: "timeout" if what in TIMEOUTS else "error" if what in ERRORS else "no-assertions" for what in replay.HOSTILE
}
LEAVING = {"forks_twice", "keeps_the_pipe", "leaves_its_session", "leaks_mounts"}


@pytest.fixture(autouse=True)
def described(request: pytest.FixtureRequest) -> Iterator[None]:
    """The image's description names the step whose work put() does: else `test` would refuse the machine."""
    lab: Lab = request.getfixturevalue("emulated" if "emulated" in request.fixturenames else "lab")
    files = {path: path.read_text() for path in lab.home.glob("images/*/image.json")}
    for path, text in files.items():
        made = json.loads(text)
        path.write_text(json.dumps({**made, "steps": [*made["steps"], "runtime-tools"]}))
    yield
    for path, text in files.items():
        path.write_text(text)


def put(lab: Lab, tree: Path) -> None:
    """Bring a tree to where the bootstrap builds the real one."""
    archive = tree.parent / f"{tree.name}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, ".")
    [info] = [found for found in lab.json("status") if found["name"] == "debian-13"]
    known = lab.home / "machines" / "debian-13" / "known_hosts"
    endpoint = Endpoint(info["address"], info["port"], info["user"], lab.home / "keys" / "id_ed25519", known)
    with SshRemote(endpoint, Deadline.after(60)) as remote:
        remote.upload(archive, "/root/tree.tar")
    lab.guest(f"rm -rf {PLACE}; mkdir -p {PLACE} && tar -C {PLACE} -xf /root/tree.tar")


def counts(told: dict[str, Any]) -> tuple[object, ...]:
    by_verdict = {verdict: sorted(names) for verdict, names in told["programs_by_verdict"].items()}
    return told["programs"], told["assertions"], by_verdict


def identities(results: dict[str, Any]) -> Counter[tuple[str, ...]]:
    entries = results["results"]
    return Counter((one["program"], one["name"], one["reference"], one["verdict"]) for one in entries)


@pytest.mark.slow
@pytest.mark.emulated
def test_a_recorded_run_gets_the_verdicts_of_the_recording(emulated: Lab, tmp_path: Path) -> None:
    """On two CPUs, as the recording: with one, a program is skipped."""
    lab = emulated
    lab.run("up")
    put(lab, replay.replayed(tmp_path / "tree", replay.V1, SCALE))
    done = lab.run("test", "--suite", "validation", "--runtime", "runc", "--no-policy", status=1, timeout=900)
    assert "resetting debian-13: the validation suite leaves changes behind" in done.stderr
    ran = lab.results()
    assert ran["run"]["complete"] is True
    assert ran["machine"]["cgroup"] == "v2"
    assert counts(lab.json("judge", ran["run"]["id"], "--no-policy", status=1)) == counts(
        lab.json("judge", str(replay.V1), "--no-policy", status=1)
    )
    assert identities(ran) == identities(lab.results())
    assert lab.guest(f"test -e {PLACE} || echo gone") == "gone\n"


def test_hostile_programs_leave_the_machine_as_it_was(lab: Lab, tmp_path: Path) -> None:
    names = sorted({row["program"] for row in replay.summary(replay.V1)} - {SPOIL})
    hostile = dict(zip(names, replay.HOSTILE, strict=False))
    tree = replay.make_tree(tmp_path / "tree")
    for name, what in hostile.items():
        replay.add(tree, name, replay.HOSTILE[what])
    lab.run("up")
    put(lab, tree)
    look = (
        "cut -d' ' -f5 /proc/self/mountinfo | sort; ls -d /sys/fs/cgroup/*/ /sys/fs/cgroup/labkit*; ls -A /tmp;"
        f" pgrep -f '^{replay.NAP}'; true"
    )
    before = lab.guest(look)
    words = ["--suite", "validation", "--only", ",".join(hostile), "--limit", "6"]
    lab.run("test", *words, status=1, timeout=300)
    assert lab.guest(look) == before
    programs = {hostile[one["name"]]: one for one in lab.results()["programs"]}
    assert {what: one["verdict"] for what, one in programs.items()} == VERDICTS
    assert {what for what, one in programs.items() if one.get("left")} >= LEAVING
    assert "cgroup /labkit-test" in str(programs)  # of one of those that ran while it came


def test_a_program_that_cuts_the_connection_leaves_what_was_there(lab: Lab, tmp_path: Path) -> None:
    tree = replay.make_tree(tmp_path / "tree")
    replay.add(tree, "hostname", "echo TAP version 13; echo 1..1; echo ok 1")
    replay.add(tree, "pidfile", f"sleep 5; for link in eth0 vec0; do ip link set $link down; done; {replay.NAP}")
    lab.run("up")
    put(lab, tree)
    try:
        lab.run("test", "--suite", "validation", "--only", "hostname,pidfile", status=4, timeout=300)
    finally:
        lab.run("reset")
    assert "has not answered" in lab.results()["run"]["reason"]
    [one] = [entry for entry in lab.results()["results"] if entry["program"] == "hostname"]
    assert one["verdict"] == "pass"

"""Cases from public reports: rendering without a network, and lists of what is not meant."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.core import config, platforms
from labkit.core.errors import LabError
from labkit.core.observer import Silent
from labkit.results import policy
from labkit.results.model import RuntimeInfo, exit_status
from labkit.results.skiplists import entry_text
from labkit.suites import registry
from labkit.usecases import export, judge
from labkit.usecases import policy as writing
from tests.recorded import V2
from tests.test_policy_file import LISTS, TODAY, listed

FOLDERS = platforms.directories()
RELEASES = [(name, release) for name in platforms.names(FOLDERS) for release in platforms.load(name, FOLDERS).releases]


def offline(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run labkit in a network namespace with nothing in it; without root there is none to be had."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    argv = ["unshare", "--net", sys.executable, "-m", "labkit", *words]
    known = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)}
    known["LABKIT_MACHINE_ACCELERATOR"] = "tcg"  # to try KVM takes ten seconds where guests hang on it
    return subprocess.run(argv, cwd=tmp_path, env={**known, **environ}, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("name", "release"), RELEASES)
def test_without_a_network_all_files_are_rendered_or_none(tmp_path: Path, name: str, release: str) -> None:
    done = offline(tmp_path, "render", "--platform", name, "--release", release, "--out", "out")
    written = sorted(path.name for path in (tmp_path / "out").iterdir()) if (tmp_path / "out").exists() else []
    if done.returncode:
        assert (done.returncode, done.stdout, written) == (3, "", [])
        message, hint = done.stderr.splitlines()
        assert message.startswith("labkit: nothing was written: the Vagrantfile of ")
        assert "urllib3" not in message and "object at" not in message
        assert hint.startswith("hint: render where ") and "box = ..." in hint
    else:
        assert written == sorted(["Vagrantfile", f"bootstrap-{name}.sh", "meta-data", "user-data"])
    # What needs no list of digests needs no network.
    boxes = platforms.load(name, FOLDERS).release(release).boxes.values()
    assert (done.returncode != 0) == any(box.checksums for box in boxes)


@pytest.mark.parametrize(("name", "release"), [pair for pair in RELEASES if pair[0] == "fedora"])
def test_a_box_of_ones_own_makes_it_whole_without_a_network(tmp_path: Path, name: str, release: str) -> None:
    """What the hint says."""
    (tmp_path / "mine.box").touch()
    done = offline(tmp_path, "render", "--platform", name, "--release", release, "--out", "out", LABKIT_BOX="mine.box")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_what_was_rendered_before_stays_where_a_later_file_cannot_be_had(tmp_path: Path) -> None:
    """A source of one's own that is gone: whatever is needed is looked for before anything is written."""
    environ = {"HOME": str(tmp_path)}
    out = tmp_path / "out"
    export.render(config.load(cwd=tmp_path, environ=environ), Silent(), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(LabError):
        export.render(config.load({"runc": str(tmp_path / "gone")}, cwd=tmp_path, environ=environ), Silent(), out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(("name", "runtime"), [("crun-run-tests.sh", "crun"), ("oci_integration_tests.sh", "youki")])
def test_what_a_projects_own_list_leaves_out_is_expected_and_need_not_be_there(name: str, runtime: str) -> None:
    """The list as a policy, on a run of everything: what the project does not look at does not count for it."""
    programs = registry.find("validation").names()
    entries = policy.load(LISTS / name, suites=registry.names(), programs=programs)
    [recorded] = judge.recorded(V2, judge.Said())
    run = replace(recorded, runtime=RuntimeInfo(runtime, "", "1.8.1"))
    own = policy.apply(run, [entry for entry in entries if entry.own], TODAY)
    out = policy.left_out(run, programs, entries, TODAY)
    assert {result.program for result in own.unexpected} & set(out) == set()
    assert all(result.expected for result in own.results if result.bad and result.program in out)
    assert out
    other = replace(run, runtime=RuntimeInfo("runc", "", "1.1"))
    assert policy.left_out(other, programs, entries, TODAY) == {}
    assert exit_status(policy.apply(other, [entry for entry in entries if entry.own], TODAY)) == 1


def subset(tmp_path: Path, *without: str) -> Path:
    """The recording without what crun's script takes out, as its CI would leave it; and without these."""
    taken = policy.read_text("".join(map(entry_text, listed("crun-run-tests.sh").skips)), "x")
    header, *lines = (V2 / "summary.tsv").read_text().splitlines()
    place = tmp_path / "left"
    place.mkdir()
    kept = [header]
    for line in lines:
        name = line.partition("\t")[0]
        if name in without or any(policy._any(entry.rule.program, name) for entry in taken):
            continue
        kept.append(line)
        for path in V2.glob(f"{name}.*"):
            shutil.copy(path, place)
    (place / "summary.tsv").write_text("\n".join(kept) + "\n")
    return place


@pytest.mark.parametrize("as_it_is", [True, False])
def test_a_subset_that_the_policy_means_is_complete(tmp_path: Path, as_it_is: bool) -> None:
    """crun's CI with crun's own list, as the policy or read into one."""
    place = subset(tmp_path)
    own = "run-tests.sh" if as_it_is else "policy.toml"
    (tmp_path / "labkit.toml").write_text(f'policy = "{own}"\n')
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    said = judge.Said({"runtime": "crun", "runtime-version": "1.8.1", "cgroup": "v2", "ref": "v0.9.0"})
    if as_it_is:
        shutil.copy(LISTS / "crun-run-tests.sh", tmp_path / own)
    else:
        writing.take(settings, Silent(), LISTS / "crun-run-tests.sh")
    outcome = judge.judge(settings, str(place), said=said)
    assert (outcome.run.run.reason, outcome.exit_status) == (None, 0)
    assert any(line.startswith("not there, and left out by the policy: ") for line in outcome.run.told)
    again = judge.judge(settings, str(outcome.directory))
    assert (again.run.run.reason, again.exit_status) == (None, 0)
    other = judge.judge(settings, str(place), said=replace(said, facts={**said.facts, "runtime": "runc"}))
    assert other.exit_status == 4, "the list is crun's"


def test_what_no_list_leaves_out_is_missing_all_the_same(tmp_path: Path) -> None:
    place = subset(tmp_path, "mounts")
    (tmp_path / "labkit.toml").write_text('policy = "run-tests.sh"\n')
    shutil.copy(LISTS / "crun-run-tests.sh", tmp_path / "run-tests.sh")
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    said = judge.Said({"runtime": "crun", "runtime-version": "1.8.1", "cgroup": "v2", "ref": "v0.9.0"})
    outcome = judge.judge(settings, str(place), said=said)
    assert outcome.exit_status == 4
    assert outcome.run.run.reason == "1 program missing: mounts"

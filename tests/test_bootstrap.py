"""The bootstrap's steps: their form, and what the packages step asks a distribution's tools for.

The tools are stand-ins that keep a list of what is installed; tests/test_cloud_image.py has the real ones.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from labkit import platforms, render

STEPS = render.steps()
FOLDERS = platforms.folders()

TOOLS = {
    "dpkg-query": 'grep -qx "$4" installed && echo installed',
    "apt-get": 'echo "apt-get $*" >>calls; case $* in *install*) . ./install ;; esac',
    "rpm": 'grep -qx "$3" installed',
    "dnf": 'echo "dnf $*" >>calls; . ./install',
    "sleep": 'echo "sleep $1" >>calls',
}
DEBIAN, FEDORA = ("dpkg-query", "apt-get"), ("rpm", "dnf")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_says_what_it_is_for(step: render.Step) -> None:
    head = [line.removeprefix("# ").partition(": ") for line in step.text.splitlines()[:3]]
    assert [key for key, _, text in head if text] == ["purpose", "inputs", "check"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("source", ["build", "cloud"])
def test_the_whole_script_is_clean(source: str) -> None:
    script = render.bootstrap("debian", "13", source, ["runc", "crun"])
    done = subprocess.run(["shellcheck", "-s", "sh", "-"], input=script, text=True, capture_output=True)
    assert done.stdout == ""


@pytest.mark.parametrize("name", platforms.names(FOLDERS))
def test_every_platform_names_what_the_lab_needs(name: str) -> None:
    needed = " ".join(platforms.load(name, FOLDERS).packages["lab"])
    assert all(word in needed for word in ("busybox", "runc", "crun", "python3"))


def packages(folder: Path, tools: tuple[str, ...], installed: str, outcomes: str) -> tuple[int, list[str]]:
    """Run the step; its exit status, and the calls. outcomes: exit statuses of the installer, one digit each."""
    for name in (*tools, "sleep"):
        (folder / name).write_text(f"#!/bin/sh\n{TOOLS[name]}\n")
        (folder / name).chmod(0o755)
    for name in ("grep", "sh"):
        (folder / name).symlink_to(str(shutil.which(name)))
    (folder / "calls").touch()
    (folder / "installed").write_text(installed.replace(" ", "\n"))
    (folder / "outcomes").write_text(outcomes)
    (folder / "install").write_text('read -r all <outcomes; echo "${all#?}" >outcomes; exit "${all%"${all#?}"}"\n')
    [text] = [step.text for step in STEPS if step.name == "05-packages"]
    environment = {"PATH": str(folder), "LAB_PACKAGES": "busybox runc crun"}
    done = subprocess.run(["/bin/sh", "-euc", text], cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("tools", [DEBIAN, FEDORA], ids=["debian", "fedora"])
def test_nothing_is_asked_for_that_is_there(tmp_path: Path, tools: tuple[str, ...]) -> None:
    assert packages(tmp_path, tools, "crun busybox runc", "") == (0, [])


def test_debian_gets_what_is_missing_and_fails_after_four_times(tmp_path: Path) -> None:
    update = "apt-get -q update"
    install = (
        "apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 --no-install-recommends install busybox crun"
    )
    status, calls = packages(tmp_path, DEBIAN, "runc", "1111")
    assert status == 1
    assert calls == [call for pause in (5, 15, 45, 0) for call in (update, install, f"sleep {pause}")]


def test_fedora_gets_what_is_missing_at_the_second_time(tmp_path: Path) -> None:
    install = "dnf -y --setopt=install_weak_deps=False install busybox crun"
    assert packages(tmp_path, FEDORA, "runc", "10") == (0, [install, "sleep 5", install])

"""The vagrant provider against bare Vagrant: `vagrant.py up reset again [--runs N]`, one or several. See README.md."""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import tempfile
import time
from pathlib import Path

from common import Lab, lab, timed, told

from tests.libvirt import namespaces  # the same namespaces as the tests'

CONFIG = 'provider = "vagrant"\ntools = ["jq"]\n[machine]\nmemory = "1G"\n[limits]\nboot = 1200\n'
NAME = "debian-13"


class Bare:
    """Vagrant by hand: the machine that labkit made, or a copy of its Vagrantfile."""

    def __init__(self, made: Lab, directory: Path) -> None:
        self.directory = directory
        self.env = {
            **os.environ, "VAGRANT_HOME": str(made.home / "vagrant"), "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
        }  # fmt: skip
        self.within = made.within

    def run(self, *words: str) -> None:
        subprocess.run(
            [*self.within, "vagrant", *words], cwd=self.directory, env=self.env, check=True, capture_output=True
        )

    def restore(self) -> None:
        self.run("snapshot", "restore", "--no-provision", "clean")
        self.run("ssh", "--command", "true")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="+", choices=("up", "reset", "again"))
    parser.add_argument("--runs", type=int, default=5)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as scratch:
        Path(scratch).chmod(0o755)
        with namespaces(Path(scratch) / "libvirt") as within, lab(within, "vagrant") as made:
            (made.cwd / "labkit.toml").write_text(CONFIG)
            made.run("up")
            for what in words.what:
                {"up": up, "reset": reset, "again": again}[what](made, words.runs)


def up(made: Lab, runs: int) -> None:
    bare = Bare(made, made.home / "machines" / NAME)
    floors, ours = [], []
    for _ in range(runs):
        floors.append(timed(lambda: bare.run("status")))
        ours.append(timed(lambda: made.run("up")))
    told("up of a running, bootstrapped machine, against `vagrant status`", floors, ours, "at most 1.3")


def reset(made: Lab, runs: int) -> None:
    bare = Bare(made, made.home / "machines" / NAME)
    floors, ours = [], []
    for _ in range(runs):
        floors.append(timed(bare.restore))
        ours.append(timed(lambda: made.run("reset")))
    told("reset, against `vagrant snapshot restore` and `vagrant ssh`", floors, ours, "at most 1.1")


def again(made: Lab, runs: int) -> None:
    """Bare `vagrant up` of the same box and Vagrantfile, against labkit's, bootstrap and snapshot included."""
    text = (made.home / "machines" / NAME / "Vagrantfile").read_text()
    made.run("destroy")
    floors, ours = [], []
    for number in range(runs):
        directory = made.cwd / f"bare-{number}"
        directory.mkdir()
        (directory / "Vagrantfile").write_text(text)
        bare = Bare(made, directory)
        floors.append(timed(functools.partial(bare.run, "up", "--provider", "libvirt", "--no-provision")))
        bare.run("destroy", "--force")
        ours.append(timed(lambda: made.run("up")))
        made.run("destroy")
        time.sleep(1)
    told("second up from the packaged box, against bare `vagrant up`", floors, ours, "at most 1.1")


if __name__ == "__main__":
    main()

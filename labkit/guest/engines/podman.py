"""Podman, with storage of its own and cgroups made by itself."""

from __future__ import annotations

import time
from pathlib import Path

from . import docker
from .base import Done, Engine, Place


class Podman(docker.Docker):
    name = "podman"
    program = "podman"

    def __init__(self, place: Place) -> None:
        Engine.__init__(self, place)
        own = [f"--root={place.data}/root", f"--runroot={place.run}/root", f"--tmpdir={place.run}/tmp"]
        self._client = [self.path, *own, "--storage-driver=vfs", "--cgroup-manager=cgroupfs"]
        self._client += ["--events-backend=file", f"--runtime={place.runtime}"]

    def version(self) -> str:
        return Engine.version(self).rpartition(" ")[2]

    def start(self) -> None:
        """There is no daemon."""

    def load(self, archive: Path, image: str) -> Done:
        done = self._run("pull", f"oci-archive:{archive}")
        return self._run("tag", done.out.strip().splitlines()[-1], image) if done.ok else done

    def build(self, context: Path, image: str) -> Done:
        return self._run("build", "--isolation=oci", "--network=none", "--pull=never", "--tag", image, str(context))

    def save(self, image: str, layout: Path) -> Done:
        return self._run("push", image, f"oci:{layout}:latest")

    def remove(self, name: str, force: bool = False) -> Done:
        return self._run("rm", *["--force", "--time", "0"] * force, name)

    def healthy(self, name: str, image: str, check: str) -> Done:
        """Without systemd's timers nothing asks by itself."""
        health = ["--health-cmd", check, "--health-interval=disable", "--health-retries=1"]
        done = self._run("run", "--detach", "--name", name, *docker.words(None), *health, image, "sleep", "600")
        if not done.ok:
            return done
        time.sleep(0.2)
        self._run("healthcheck", "run", name)
        return self._health(name)


ENGINE = Podman

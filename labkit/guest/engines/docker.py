"""Docker, with a daemon and a containerd of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Optional

from .base import Done, Engine, Options, Place
from .containerd import own_containerd

_NAME = "under-test"


class Docker(Engine):
    name = "docker"
    program = "dockerd"
    asks = MappingProxyType(
        {
            "memory": "--memory={}",
            "pids": "--pids-limit={}",
            "user": "--user={}",
            "read-only": "--read-only",
            "tmpfs": "--tmpfs={}",
            "device": "--device={}",
            "no-new-privileges": "--security-opt=no-new-privileges",
            "ulimit": "--ulimit={}",
            "sysctl": "--sysctl={}",
            "hostname": "--hostname={}",
            "env": "--env={}",
            "workdir": "--workdir={}",
            "cap-drop": "--cap-drop={}",
            "volume": "--volume={}",
        }
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._client = ["docker", "--host", f"unix://{place.run}/docker.sock"]

    def version(self) -> str:
        return self.place.command([*self._client, "version", "--format", "{{.Server.Version}}"]).out.strip()

    def start(self) -> None:
        place = self.place
        own_containerd(place)
        config = {
            "runtimes": {_NAME: {"path": place.runtime}},
            "default-runtime": _NAME,
            "storage-driver": "vfs",
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "containerd": f"{place.run}/containerd.sock",
            "data-root": f"{place.data}/docker",
            "exec-root": f"{place.run}/docker",
            "pidfile": f"{place.run}/docker.pid",
            "hosts": [f"unix://{place.run}/docker.sock"],
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "live-restore": True,
            "log-level": "warn",
        }
        (place.data / "daemon.json").write_text(json.dumps(config))
        self.serve()

    def serve(self) -> None:
        place = self.place
        place.daemon([self.path, "--config-file", f"{place.data}/daemon.json"], [*self._client, "version"])

    def load(self, archive: Path, image: str) -> Done:
        return self._run("load", "--input", str(archive))

    def run(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        return self._run("run", "--rm", "--name", name, *words(options), image, *command)

    def detach(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        return self._run("run", "--detach", "--name", name, *words(options), image, *command)

    def containers(self) -> list[str]:
        return self._run("ps", "--all", "--format", "{{.Names}}").out.split()

    def running(self, name: str) -> bool:
        return self._run("inspect", "--format", "{{.State.Running}}", name).out.strip() == "true"

    def logs(self, name: str) -> Done:
        return self._run("logs", name)

    def execute(self, name: str, command: Sequence[str]) -> Done:
        return self._run("exec", name, *command)

    def stats(self, name: str) -> Done:
        return self._run("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", name)

    def pause(self, name: str) -> Done:
        return self._run("pause", name)

    def unpause(self, name: str) -> Done:
        return self._run("unpause", name)

    def again(self, name: str) -> Done:
        return self._run("restart", "--time", "1", name)

    def end(self, name: str, seconds: int) -> Done:
        return self._run("stop", "--time", str(seconds), name)

    def kill(self, name: str, number: str) -> Done:
        return self._run("kill", "--signal", number, name)

    def wait(self, name: str) -> Done:
        return self._run("wait", name)

    def update(self, name: str, memory: int) -> Done:
        return self._run("update", f"--memory={memory}", f"--memory-swap={memory}", name)

    def remove(self, name: str, force: bool = False) -> Done:
        return self._run("rm", *["--force"] * force, name)

    def healthy(self, name: str, image: str, check: str) -> Done:
        health = ["--health-cmd", check, "--health-interval=1s", "--health-retries=1"]
        done = self._run("run", "--detach", "--name", name, *words(None), *health, image, "sleep", "600")
        return self._health(name) if done.ok else done

    def build(self, context: Path, image: str) -> Done:
        """By the builder that needs no plug-in."""
        words = ["build", "--network=none", "--tag", image, str(context)]
        return self.place.command([*self._client, *words], env={"DOCKER_BUILDKIT": "0"})

    def save(self, image: str, layout: Path) -> Done:
        archive = self.place.data / "saved.tar"
        done = self._run("save", "--output", str(archive), image)
        layout.mkdir()
        return self.place.command(["tar", "-xf", str(archive), "-C", str(layout)]) if done.ok else done

    def _health(self, name: str) -> Done:
        deadline = time.monotonic() + 20
        while True:
            done = self._run("inspect", "--format", "{{.State.Health.Status}}", name)
            if not done.ok or done.out.strip() not in ("", "starting") or time.monotonic() > deadline:
                return done
            time.sleep(0.5)

    def _run(self, *words: str) -> Done:
        return self.place.command([*self._client, *words])


def words(options: Optional[Options]) -> list[str]:
    """The options in the words of docker run, which podman's are, too."""
    options = options or Options()
    found = ["--network=none"]
    found += [f"--memory={options.memory}"] if options.memory else []
    found += [f"--pids-limit={options.pids}"] if options.pids else []
    found += [f"--user={options.user}"] if options.user else []
    found += [f"--env={name}={value}" for name, value in options.env.items()]
    found += [f"--workdir={options.workdir}"] if options.workdir else []
    found += ["--read-only"] if options.read_only else []
    found += ["--tty"] if options.terminal else []
    found += [f"--hostname={options.hostname}"] if options.hostname else []
    found += [f"--volume={source}:{target}" for source, target in options.volumes.items()]
    return found + options.words


ENGINE = Docker

"""Buildah: each RUN of a build, and each `buildah run`, is a container under the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Optional

from .base import Cannot, Done, Engine, Options, Place


class Buildah(Engine):
    name = "buildah"
    program = "buildah"
    own_command = ("true",)  # buildah run takes none from the image
    asks = MappingProxyType(
        {
            "user": "--user={}",
            "hostname": "--hostname={}",
            "env": "--env={}",
            "workdir": "--workingdir={}",
            "cap-drop": "--cap-drop=CAP_{}",
            "volume": "--volume={}",
        }
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        own = [f"--root={place.data}/root", f"--runroot={place.run}/root", "--storage-driver=vfs"]
        self._words = [self.path, *own]

    def version(self) -> str:
        return super().version().split()[2]

    def load(self, archive: Path, image: str) -> Done:
        done = self._run("pull", f"oci-archive:{archive}")
        return self._run("tag", done.out.strip().splitlines()[-1], image) if done.ok else done

    def run(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        options = options or Options()
        if options.pids:
            raise Cannot("buildah has no limit of processes")
        if options.read_only:
            raise Cannot("buildah has no read-only root file system")
        limit = [f"--memory={options.memory}"] if options.memory else []
        made = self._run("from", "--pull=never", "--name", name, *limit, image)
        if not made.ok:
            return made
        words = ["--isolation=oci", f"--runtime={self.place.runtime}", "--network=none"]
        words += [f"--user={options.user}"] if options.user else []
        words += [f"--env={key}={value}" for key, value in options.env.items()]
        words += [f"--workingdir={options.workdir}"] if options.workdir else []
        words += ["--terminal"] if options.terminal else []
        words += [f"--hostname={options.hostname}"] if options.hostname else []
        words += [f"--volume={source}:{target}" for source, target in options.volumes.items()]
        done = self._run("run", *words, *options.words, name, "--", *command)
        self._run("rm", name)
        return done

    def build(self, context: Path, image: str) -> Done:
        words = ["--isolation=oci", f"--runtime={self.place.runtime}", "--network=none", "--pull=never"]
        return self._run("build", *words, "--tag", image, str(context))

    def save(self, image: str, layout: Path) -> Done:
        return self._run("push", image, f"oci:{layout}:latest")

    def containers(self) -> list[str]:
        return self._run("containers", "--format", "{{.ContainerName}}", "--noheading").out.split()

    def remove(self, name: str, force: bool = False) -> Done:
        return self._run("rm", name)

    def _run(self, *words: str) -> Done:
        return self.place.command([*self._words, *words])


ENGINE = Buildah

"""containerd, with a daemon of its own, through ctr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Optional

from ..common.executables import find_program
from .base import Asked, Broken, Cannot, Done, Engine, Options, Place

_CONFIG = """version = 2
root = "{data}/containerd"
state = "{run}/containerd"
disabled_plugins = [{disabled}]
[grpc]
  address = "{run}/containerd.sock"
[debug]
  level = "warn"
"""
_DISABLED = ("io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri")
_CRI = "io.containerd.grpc.v1.cri"
_CTR = "ctr"


def configuration(place: Place, *disabled: str) -> str:
    """Of a containerd in this place without these plug-ins and those that no lab needs: TOML that tables may follow."""
    names = ", ".join(f'"{name}"' for name in (*disabled, *_DISABLED))
    return _CONFIG.format(data=place.data, run=place.run, disabled=names)


def own_containerd(place: Place) -> None:
    """Start a containerd in this place; its socket is containerd.sock there. Broken."""
    containerd, ctr = find_program("containerd"), find_program(_CTR)
    if not containerd or not ctr:
        raise Broken("containerd is not installed; the bootstrap's step containerd brings it")
    config = place.data / "containerd.toml"
    config.write_text(configuration(place, _CRI))
    place.daemon([containerd, "--config", str(config)], [ctr, "--address", f"{place.run}/containerd.sock", "version"])


def importing(version: str, archive: Path) -> list[str]:
    """What ctr is told to import an archive."""
    local = ["--local"] if not version.startswith(("1.", "v1.")) else []
    return ["images", "import", *local, "--snapshotter", "native", str(archive)]


class Containerd(Engine):
    name = "containerd"
    program = "containerd"
    asks = MappingProxyType(
        {
            "memory": "--memory-limit={}",
            "user": "--user={}",
            "read-only": "--read-only",
            "tmpfs": "--mount=type=tmpfs,src=tmpfs,dst={},options=nosuid:nodev",
            "hostname": "--hostname={}",
            "env": "--env={}",
            "workdir": "--cwd={}",
            "cap-drop": "--cap-drop=CAP_{}",
            "volume": "--mount={}",
        }
    )

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._ctr = [_CTR, "--address", f"{place.run}/containerd.sock", "--namespace", "labkit"]

    def version(self) -> str:
        return super().version().split()[2:3][0]

    def start(self) -> None:
        self.serve()

    def serve(self) -> None:
        own_containerd(self.place)

    def load(self, archive: Path, image: str) -> Done:
        return self._run(*importing(self.version(), archive))

    def run(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        terminal = bool(options and options.terminal)
        words = [*self._ctr, "run", *self._words(options), "--rm", image, name, *command]
        return self.place.command(words, terminal=terminal)

    def detach(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        log = f"file://{self.place.data}/{name}.log"
        return self._run("run", *self._words(options), "--detach", "--log-uri", log, image, name, *command)

    def asked(self, name: str, image: str, command: Sequence[str], asked: Asked) -> Done:
        source, _, target = asked.get("volume", ":").partition(":")
        mount = f"type=bind,src={source},dst={target},options=rbind:rw"
        return super().asked(name, image, command, {**asked, "volume": mount})

    def _words(self, options: Optional[Options]) -> list[str]:
        options = options or Options()
        found = ["--snapshotter", "native", "--runc-binary", self.place.runtime]
        found += ["--memory-limit", str(options.memory)] if options.memory else []
        if options.pids:
            raise Cannot("ctr has no limit of processes")
        found += ["--user", options.user] if options.user else []
        found += [f"--env={name}={value}" for name, value in options.env.items()]
        found += ["--cwd", options.workdir] if options.workdir else []
        found += ["--read-only"] if options.read_only else []
        found += ["--tty"] if options.terminal else []
        if options.hostname:
            found += ["--hostname", options.hostname]
        for source, target in options.volumes.items():
            found += ["--mount", f"type=bind,src={source},dst={target},options=rbind:rw"]
        return found + options.words

    def containers(self) -> list[str]:
        return self._run("containers", "list", "--quiet").out.split()

    def running(self, name: str) -> bool:
        rows = (line.split() for line in self._run("tasks", "list").out.splitlines())
        return any(row[:1] == [name] and row[-1] in ("RUNNING", "PAUSED") for row in rows)

    def logs(self, name: str) -> Done:
        return self.place.command(["cat", f"{self.place.data}/{name}.log"])

    def execute(self, name: str, command: Sequence[str]) -> Done:
        return self._run("tasks", "exec", "--exec-id", f"e{len(self.place.commands)}", name, *command)

    def stats(self, name: str) -> Done:
        return self._run("tasks", "metrics", name)

    def pause(self, name: str) -> Done:
        return self._run("tasks", "pause", name)

    def unpause(self, name: str) -> Done:
        return self._run("tasks", "resume", name)

    def kill(self, name: str, number: str) -> Done:
        return self._run("tasks", "kill", "--signal", number, name)

    def remove(self, name: str, force: bool = False) -> Done:
        done = self._run("tasks", "delete", *["--force"] * force, name)
        rest = self._run("containers", "delete", name)
        return rest if done.ok or not rest.ok else done

    def _run(self, *words: str) -> Done:
        return self.place.command([*self._ctr, *words])


ENGINE = Containerd

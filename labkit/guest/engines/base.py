"""What an engine can be asked to do, in words that all engines share; one module of this package for each engine.

An engine is an instance of its own: its configuration, storage, sockets and daemons are below one Place, and no daemon
of the machine is used. What an engine has no word for raises Cannot, which says so: that is no failure.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Optional

from ..common.executables import find_program

OUTPUT = 64 << 10  # bytes of a command's output that are kept
SECONDS = 180.0  # in which a command of an engine has answered
_CLEAN_UP = 5.0  # seconds after Ctrl-C
START = 180.0  # in which its daemon has
PAUSE = "docker.io/labkit/pause:latest"


class Cannot(Exception):
    """The engine has no such command; the message says so."""


class Broken(Exception):
    """The engine does not start, or does not answer at all."""


class Done:
    """A command that has ended: status is its exit status, -N where signal N ended it, None where it hung and was
    killed.
    """

    def __init__(self, argv: Sequence[str], status: Optional[int], out: str, err: str, seconds: float) -> None:
        self.argv, self.status, self.out, self.err, self.seconds = list(argv), status, out, err, seconds

    @property
    def ok(self) -> bool:
        return self.status == 0

    def to_json(self) -> dict[str, object]:
        return {
            "argv": self.argv,
            "status": self.status,
            "out": self.out,
            "err": self.err,
            "seconds": round(self.seconds, 3),
        }


class Place:
    """The directories of one engine under one runtime. data is on a disk, run on a tmpfs and short (sockets)."""

    def __init__(self, data: Path, run: Path, runtime: str) -> None:
        self.data, self.run, self.runtime = data, run, runtime
        self.log = data / "daemon.log"
        self.commands: list[Done] = []  # all that were run, in order
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.limit = SECONDS
        for directory in (data, run):
            directory.mkdir(parents=True, exist_ok=True)

    def command(
        self,
        argv: Sequence[str],
        *,
        seconds: Optional[float] = None,
        env: Optional[Mapping[str, str]] = None,
        terminal: bool = False,
    ) -> Done:
        """Run a command; what hangs is ended as a person does, with its whole process group. terminal: on a terminal
        of its own, which is what stdin, stdout and stderr are then.
        """
        seconds = seconds or self.limit
        began = time.monotonic()
        master, slave = os.openpty() if terminal else (-1, -1)
        with (self.data / "out").open("w+b") as out, (self.data / "err").open("w+b") as err:
            child = subprocess.Popen(
                argv,
                stdin=slave if terminal else subprocess.DEVNULL,
                stdout=slave if terminal else out,
                stderr=slave if terminal else err,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
            if terminal:
                os.close(slave)
                _drain(master, child, out, began + seconds)
            status: Optional[int]
            try:
                status = child.wait(max(began + seconds - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                _give_up(child)
                status = None
            said = [_beginning(stream) for stream in (out, err)]
        done = Done(argv, status, said[0], said[1], time.monotonic() - began)
        self.commands.append(done)
        return done

    def daemon(self, argv: Sequence[str], answers: Sequence[str]) -> None:
        """Start a daemon that logs to self.log, and wait until the command answers ends well. Broken."""
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self.daemons.append(child)
        deadline = time.monotonic() + START
        while not self.command(answers, seconds=10).ok:
            if child.poll() is not None or time.monotonic() > deadline:
                what = "ended" if child.poll() is not None else f"does not answer within {START:g} s"
                raise Broken(f"{argv[0]} {what}: {self.tail()}")
            self.commands.pop()
            time.sleep(0.1)

    def end_daemons(self) -> None:
        """The last one that was started first; SIGTERM, and SIGKILL after ten seconds."""
        while self.daemons:
            child = self.daemons.pop()
            with suppress(OSError):
                child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def tail(self, size: int = 2000) -> str:
        with suppress(OSError):
            return self.log.read_bytes()[-size:].decode("utf-8", "replace")
        return ""


def _give_up(child: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, and some seconds to clean up; SIGKILL for what does not listen."""
    with suppress(OSError, subprocess.TimeoutExpired):
        os.killpg(child.pid, signal.SIGINT)
        child.wait(_CLEAN_UP)
    with suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _beginning(stream: BinaryIO) -> str:
    stream.seek(0)
    return stream.read(OUTPUT).decode("utf-8", "replace")


def _drain(master: int, child: subprocess.Popen[bytes], out: BinaryIO, deadline: float) -> None:
    """Copy what comes on a terminal until the child has ended and nothing comes any more."""
    with suppress(OSError):  # EIO: nobody has the other end
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                out.write(os.read(master, 4096))
            elif child.poll() is not None:
                break
    os.close(master)


class Options:
    """What a person asks of a container beside its command."""

    def __init__(
        self,
        *,
        memory: int = 0,
        pids: int = 0,
        user: str = "",
        env: Optional[Mapping[str, str]] = None,
        workdir: str = "",
        read_only: bool = False,
        terminal: bool = False,
        hostname: str = "",
        volumes: Optional[Mapping[str, str]] = None,
        words: Sequence[str] = (),
    ) -> None:
        self.memory, self.pids, self.user, self.env, self.workdir = memory, pids, user, dict(env or {}), workdir
        self.read_only, self.terminal, self.hostname = read_only, terminal, hostname
        self.volumes = dict(volumes or {})
        self.words = list(words)  # in the engine's own words


# What a person asks of a container, by names of ours; each engine has words of its own for some of them.
Asked = dict[str, str]


class Engine:
    """An engine that has been started. Every method runs one command or few, and gives back the last."""

    name = ""
    program = ""  # what has to be installed
    step = ""  # of the bootstrap that brings it, where that has another name
    wants_pause = False  # whether it is to have the image of a container that only waits, too
    asks: Mapping[str, str] = MappingProxyType({})  # its words for what is asked, with {} for the value
    own_command: Sequence[str] = ()  # what run() needs as a command where the image's is to be run; else nothing

    def __init__(self, place: Place) -> None:
        self.place = place
        self.path = find_program(self.program) or ""
        if not self.path:
            raise Broken(f"{self.program} is not installed; the bootstrap's step {self.step or self.name} brings it")

    def version(self) -> str:
        done = self.place.command([self.path, "--version"])
        return done.out.strip().splitlines()[0] if done.out.strip() else ""

    def start(self) -> None:
        """Start its daemons, where it has any. Broken."""

    def stop(self) -> None:
        self.place.end_daemons()

    def restart(self) -> None:
        """End the daemon and start it again, whatever runs. Cannot where there is none."""
        if not self.place.daemons:
            raise Cannot(f"{self.name} has no daemon")
        child = self.place.daemons.pop()
        child.terminate()
        child.wait(30)
        self.serve()

    def serve(self) -> None:
        """Start the daemon. Broken."""
        raise NotImplementedError

    def load(self, archive: Path, image: str) -> Done:
        """Import an OCI archive under a name."""
        raise NotImplementedError

    def run(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        """A container in the foreground, removed at its end."""
        raise NotImplementedError

    def asked(self, name: str, image: str, command: Sequence[str], asked: Asked) -> Done:
        """run(), with what is asked, all of which is in asks."""
        words = [self.asks[key].format(value) for key, value in asked.items()]
        return self.run(name, image, command, Options(words=words))

    def detach(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        raise Cannot(f"{self.name} does not run containers in the background")

    def containers(self) -> list[str]:
        """The names of all containers that it lists, running or not."""
        raise NotImplementedError

    def running(self, name: str) -> bool:
        raise Cannot(f"{self.name} does not tell what runs")

    def logs(self, name: str) -> Done:
        raise Cannot(f"{self.name} keeps no logs")

    def execute(self, name: str, command: Sequence[str]) -> Done:
        raise Cannot(f"{self.name} has no exec")

    def stats(self, name: str) -> Done:
        raise Cannot(f"{self.name} has no stats")

    def pause(self, name: str) -> Done:
        raise Cannot(f"{self.name} has no pause")

    def unpause(self, name: str) -> Done:
        raise Cannot(f"{self.name} has no pause")

    def again(self, name: str) -> Done:
        """Restart a container."""
        raise Cannot(f"{self.name} does not restart containers")

    def end(self, name: str, seconds: int) -> Done:
        """Stop a container: SIGTERM, and SIGKILL after seconds."""
        raise Cannot(f"{self.name} has no stop")

    def kill(self, name: str, number: str) -> Done:
        raise Cannot(f"{self.name} has no kill")

    def wait(self, name: str) -> Done:
        """Wait for its end; the output is its exit status."""
        raise Cannot(f"{self.name} has no wait")

    def update(self, name: str, memory: int) -> Done:
        raise Cannot(f"{self.name} does not change limits")

    def remove(self, name: str, force: bool = False) -> Done:
        raise Cannot(f"{self.name} has no remove")

    def healthy(self, name: str, image: str, check: str) -> Done:
        """Run a container with a health check, wait for it; the output is what the engine says about its health."""
        raise Cannot(f"{self.name} has no health checks")

    def build(self, context: Path, image: str) -> Done:
        """Build a Dockerfile's image."""
        raise Cannot(f"{self.name} builds no images")

    def save(self, image: str, layout: Path) -> Done:
        """Write an image as a layout, a directory that is not there."""
        raise Cannot(f"{self.name} saves no images")

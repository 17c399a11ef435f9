"""What people do with an engine every day, as steps; each gives what was observed, in words that do not depend on the
runtime. The same conversation over two runtimes must be the same: that is what a swap is judged by.

Observed are exit statuses, what the container printed, and what the machine shows of it: processes, cgroups, mounts.
What an engine says in words of its own is kept as evidence, and not compared.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional

from . import machine
from .base import Cannot, Done, Engine, Options

IMAGE = "docker.io/labkit/container:latest"
_MEBIBYTE = 1 << 20
_LOOP = "trap 'echo bye; exit 3' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done"

Observed = dict[str, object]


class Step:
    """expected is what every runtime must show, as far as the engine is right; None where only the reference says."""

    def __init__(self, ident: str, title: str, function: Callable[[Talk], Observed], expected: Observed) -> None:
        self.id, self.title, self.function, self.expected = ident, title, function, expected


class Talk:
    """One conversation; names of containers are unique in the machine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._made: list[str] = []
        self._tag = f"lk{os.getpid():x}"

    def name(self) -> str:
        name = f"{self._tag}-{len(self._made) + 1}"
        self._made.append(name)
        return name

    def run(self, command: Sequence[str], options: Optional[Options] = None) -> Done:
        return self.engine.run(self.name(), IMAGE, command, options)

    def detach(self, command: Sequence[str], options: Optional[Options] = None) -> str:
        """A container in the background; its name. Raises Failed with what the engine said."""
        name = self.name()
        done = self.engine.detach(name, IMAGE, command, options)
        if not done.ok:
            raise Failed("run in the background", done)
        return name

    def clean(self) -> None:
        """Remove every container that is still listed."""
        with suppress(Cannot, OSError):
            for name in set(self.engine.containers()) & set(self._made):
                self.engine.remove(name, force=True)


class Failed(Exception):
    """A command that the step stands on failed."""

    def __init__(self, what: str, done: Done) -> None:
        super().__init__(what)
        self.what, self.done = what, done


def _shown(done: Done) -> Observed:
    return {"status": done.status, "printed": _lines(done.out)}


def _lines(text: str) -> list[str]:
    return [line.rstrip("\r") for line in text.replace("\r\n", "\n").splitlines() if line.strip()]


def _run(talk: Talk) -> Observed:
    return _shown(talk.run(["echo", "hello"]))


def _status(talk: Talk) -> Observed:
    return _shown(talk.run(["sh", "-c", "echo out; echo err >&2; exit 7"]))


def _missing(talk: Talk) -> Observed:
    """The status is the engine's own (127, 125, 1), so only whether it fails, and whether it works afterwards."""
    done = talk.run(["/nowhere"])
    return {"fails": not done.ok and done.status is not None, "then": _shown(talk.run(["echo", "hello"]))}


def _options(talk: Talk) -> Observed:
    options = Options(user="1000", workdir="/tmp", env={"LABKIT": "a b"}, hostname="labkit-host")
    return _shown(talk.run(["sh", "-c", "id -u; pwd; echo $LABKIT; hostname"], options))


def _terminal(talk: Talk) -> Observed:
    done = talk.run(["sh", "-c", "tty; stty size >/dev/null && echo size"], Options(terminal=True))
    printed = [re.sub(r"^/dev/(pts/[0-9]+|console)$", "a terminal", line) for line in _lines(done.out)]
    return {"status": done.status, "printed": printed}


def _read_only(talk: Talk) -> Observed:
    return _shown(talk.run(["sh", "-c", "touch /x 2>/dev/null && echo written || echo refused"], Options(read_only=True)))


def _volume(talk: Talk) -> Observed:
    shared = talk.engine.place.data / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "in").write_text("from the host\n")
    done = talk.run(["sh", "-c", "cat /mnt/in; echo back >/mnt/out"], Options(volumes={str(shared): "/mnt"}))
    written = (shared / "out").read_text().strip() if (shared / "out").exists() else ""
    return {**_shown(done), "written": written}


def _background(talk: Talk) -> Observed:
    name = talk.detach(["sh", "-c", _LOOP])
    _until(lambda: "up" in talk.engine.logs(name).out)
    seen = {"listed": name in talk.engine.containers(), "running": talk.engine.running(name)}
    return {**seen, "logs": _lines(talk.engine.logs(name).out), "processes": machine.count(name_of(talk, name))}


def name_of(talk: Talk, name: str) -> str:
    """How processes of a container are found: by the cgroup that its first process is in."""
    return machine.cgroup_of(talk.engine.place, name)


STEPS: list[Step] = []

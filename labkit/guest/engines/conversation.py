"""What people do with an engine every day, as steps; each gives what was observed, in words that do not depend on the
runtime. The same conversation over two runtimes must be the same: that is what a swap is judged by.

Observed are exit statuses, what the container printed, and what the machine shows of it: processes, cgroups, mounts.
What an engine says in words of its own is kept as evidence, and not compared.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional

from . import machine
from .base import Broken, Cannot, Done, Engine, Options

ID = "SWAP-"  # what ids begin with
IMAGE = "docker.io/labkit/container:latest"
_MEBIBYTE = 1 << 20
_LOOP = "trap 'echo bye; exit 3' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done"

Observed = dict[str, object]


class Step:
    """expected is what every runtime must show, as far as the engine is right; None where only the reference says."""

    def __init__(self, name: str, title: str, function: Callable[[Talk], Observed], expected: Observed) -> None:
        self.name, self.title, self.function, self.expected = name, title, function, expected
        self.id = f"{ID}{name}"


class Talk:
    """One conversation; names of containers are unique in the machine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._made: list[str] = []
        self._stuck: set[str] = set()  # what could not be removed: to try it after each step takes minutes
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
            for name in set(self.engine.containers()) & set(self._made) - self._stuck:
                if not self.engine.remove(name, force=True).ok:
                    self._stuck.add(name)


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
    done = talk.run(["sh", "-c", "tty; stty size >/dev/null 2>&1 && echo size"], Options(terminal=True))
    printed = [re.sub(r"^/dev/(pts/[0-9]+|console)$", "a terminal", line) for line in _lines(done.out)]
    return {"status": done.status, "printed": printed}


def _read_only(talk: Talk) -> Observed:
    return _shown(
        talk.run(["sh", "-c", "touch /x 2>/dev/null && echo written || echo refused"], Options(read_only=True))
    )


def _volume(talk: Talk) -> Observed:
    shared = talk.engine.place.data / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "in").write_text("from the host\n")
    done = talk.run(["sh", "-c", "cat /mnt/in; echo back >/mnt/out"], Options(volumes={str(shared): "/mnt"}))
    written = (shared / "out").read_text().strip() if (shared / "out").exists() else ""
    return {**_shown(done), "written": written}


def _background(talk: Talk) -> Observed:
    name = talk.detach(["sh", "-c", _LOOP])
    engine = talk.engine
    _until(lambda: "up" in engine.logs(name).out)
    try:
        seen: Observed = {"listed": name in engine.containers(), "running": engine.running(name)}
        seen["logs"] = _lines(engine.logs(name).out)
    finally:
        engine.remove(name, force=True)
    return {**seen, "listed after its removal": name in engine.containers()}


def _exec(talk: Talk) -> Observed:
    name = talk.detach(["sleep", "600"])
    try:
        inside = talk.engine.execute(name, ["sh", "-c", "echo in; exit 5"])
        one = talk.engine.execute(name, ["sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; echo"])
        return {"exec": _shown(inside), "process 1": [line.strip() for line in _lines(one.out)]}
    finally:
        talk.engine.remove(name, force=True)


def _stats(talk: Talk) -> Observed:
    name = talk.detach(["sleep", "600"])
    try:
        done = talk.engine.stats(name)
        return {"status": done.status, "shows something": bool(re.search(r"[1-9]", done.out.replace(name, "")))}
    finally:
        talk.engine.remove(name, force=True)


def _pause(talk: Talk) -> Observed:
    """A file that it writes to tells whether it stops: not every runtime's processes are the host's."""
    shared = talk.engine.place.data / "ticks"
    shared.mkdir(exist_ok=True)
    ticks = shared / "ticks"
    ticks.write_text("")
    loop = "while :; do echo tick >>/mnt/ticks; sleep 0.1; done"
    name = talk.detach(["sh", "-c", loop], Options(volumes={str(shared): "/mnt"}))
    try:
        before = _grows(ticks)
        paused = talk.engine.pause(name)
        meanwhile = _grows(ticks, 0.7) if paused.ok else None
        resumed = talk.engine.unpause(name)
        after = _grows(ticks)
        return {
            "pause": paused.status,
            "unpause": resumed.status,
            "runs before": before,
            "runs while paused": meanwhile,
            "runs after": after,
        }
    finally:
        talk.engine.remove(name, force=True)


def _grows(path: Path, seconds: float = 3.0) -> bool:
    """Whether a file gets longer within this time; what was on its way at the beginning does not count."""
    time.sleep(0.3)
    size = path.stat().st_size
    return _until(lambda: path.stat().st_size > size, seconds)


def _again(talk: Talk) -> Observed:
    name = talk.detach(["sh", "-c", "echo begun; sleep 600"])
    try:
        _until(lambda: "begun" in talk.engine.logs(name).out)
        done = talk.engine.again(name)
        _until(lambda: talk.engine.logs(name).out.count("begun") > 1)
        logs = _lines(talk.engine.logs(name).out)
        return {"status": done.status, "logs": logs, "running": talk.engine.running(name)}
    finally:
        talk.engine.remove(name, force=True)


def _stop(talk: Talk) -> Observed:
    name = talk.detach(["sh", "-c", _LOOP])
    try:
        _until(lambda: "up" in talk.engine.logs(name).out)
        done = talk.engine.end(name, 10)
        status = talk.engine.wait(name).out.strip()
        return {"status": done.status, "logs": _lines(talk.engine.logs(name).out), "exit status": status}
    finally:
        talk.engine.remove(name, force=True)


def _kill(talk: Talk) -> Observed:
    name = talk.detach(["sh", "-c", _LOOP])
    engine = talk.engine
    try:
        _until(lambda: "up" in engine.logs(name).out)
        first = engine.kill(name, "USR1")
        arrived = _until(lambda: "usr1" in engine.logs(name).out)
        second = engine.kill(name, "KILL")
        return {
            "USR1": first.status,
            "it arrived": arrived,
            "KILL": second.status,
            "ended": _until(lambda: not engine.running(name)),
        }
    finally:
        engine.remove(name, force=True)


def _memory(talk: Talk) -> Observed:
    """By what it does: a buffer of 48 MiB does not fit into 16 MiB, and fits where there is no limit."""
    command = ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=48M count=1 2>/dev/null && echo fits"]
    limited = talk.run(command, Options(memory=16 * _MEBIBYTE))
    return {"limited": "fits" in limited.out, "unlimited": "fits" in talk.run(command).out}


def _pids(talk: Talk) -> Observed:
    command = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3 & done 2>/dev/null; echo all"]
    limited = talk.run(command, Options(pids=6))
    return {"limited": "all" in limited.out, "unlimited": "all" in talk.run(command).out}


def _health(talk: Talk) -> Observed:
    found: Observed = {}
    for check in ("true", "false"):
        name = talk.name()
        try:
            found[check] = talk.engine.healthy(name, IMAGE, check).out.strip()
        finally:
            talk.engine.remove(name, force=True)
    return found


def _two(talk: Talk) -> Observed:
    names = [talk.detach(["sh", "-c", f"echo {word}; sleep 600"]) for word in ("one", "two")]
    engine = talk.engine
    try:
        _until(lambda: all(engine.logs(name).out.strip() for name in names))
        seen: Observed = {"running": [engine.running(name) for name in names]}
        engine.remove(names[0], force=True)
        seen["running after the first was removed"] = engine.running(names[1])
        return {**seen, "logs": _lines(engine.logs(names[1]).out)}
    finally:
        for name in names[1:]:
            engine.remove(name, force=True)


def _engine_again(talk: Talk) -> Observed:
    name = talk.detach(["sh", "-c", _LOOP])
    engine = talk.engine
    try:
        engine.restart()
        seen: Observed = {"running": engine.running(name), "exec": _shown(engine.execute(name, ["echo", "in"]))}
    finally:
        engine.remove(name, force=True)
    return {**seen, "then": _shown(talk.run(["echo", "hello"]))}


def _removed(talk: Talk) -> Observed:
    before = machine.Snapshot()
    with suppress(Cannot):
        name = talk.detach(["sleep", "600"])
        talk.engine.remove(name, force=True)
    talk.run(["echo", "hello"])
    left = before.left({child.pid for child in talk.engine.place.daemons})
    return {"listed": sorted(set(talk.engine.containers())), "left": left}


def _until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _expects(status: int = 0, *printed: str, **others: object) -> Observed:
    return {"status": status, "printed": list(printed), **others}


STEPS = [
    Step("run", "a container runs, and its output comes back", _run, _expects(0, "hello")),
    Step("status", "its exit status comes back", _status, _expects(7, "out")),
    Step("missing", "a program that is not there is told", _missing, {"fails": True, "then": _expects(0, "hello")}),
    Step(
        "options",
        "user, directory, environment, host name",
        _options,
        _expects(0, "1000", "/tmp", "a b", "labkit-host"),
    ),
    Step("terminal", "a terminal", _terminal, _expects(0, "a terminal", "size")),
    Step("read-only", "a read-only root file system", _read_only, _expects(0, "refused")),
    Step("volume", "a directory of the host", _volume, _expects(0, "from the host", written="back")),
    Step(
        "background",
        "in the background, listed, with logs, removed",
        _background,
        {"listed": True, "running": True, "logs": ["up"], "listed after its removal": False},
    ),
    Step("exec", "a second process", _exec, {"exec": _expects(5, "in"), "process 1": ["sleep 600"]}),
    Step("stats", "statistics", _stats, {"status": 0, "shows something": True}),
    Step(
        "pause",
        "paused and resumed",
        _pause,
        {"pause": 0, "unpause": 0, "runs before": True, "runs while paused": False, "runs after": True},
    ),
    Step("restart", "restarted", _again, {"status": 0, "logs": ["begun", "begun"], "running": True}),
    Step("stop", "stopped, with a trap", _stop, {"status": 0, "logs": ["up", "bye"], "exit status": "3"}),
    Step("kill", "signals", _kill, {"USR1": 0, "it arrived": True, "KILL": 0, "ended": True}),
    Step("memory", "a limit of memory", _memory, {"limited": False, "unlimited": True}),
    Step("pids", "a limit of processes", _pids, {"limited": False, "unlimited": True}),
    Step("health", "a health check", _health, {"true": "healthy", "false": "unhealthy"}),
    Step(
        "two",
        "two at once",
        _two,
        {"running": [True, True], "running after the first was removed": True, "logs": ["two"]},
    ),
    Step(
        "engine-restart",
        "the engine is restarted while a container runs",
        _engine_again,
        {"running": True, "exec": _expects(0, "in"), "then": _expects(0, "hello")},
    ),
    Step("removed", "nothing is left of what was removed", _removed, {"listed": [], "left": []}),
]


def hold(engine: Engine, steps: Sequence[str]) -> Iterator[dict[str, object]]:
    """Each step's outcome as it comes: step, title, expected, and one of observed, cannot (why), failed (what).
    commands are what was run for it.
    """
    talk = Talk(engine)
    for step in STEPS:
        if step.id not in steps:
            continue
        first = len(engine.place.commands)
        found: dict[str, object] = {"step": step.id, "expected": step.expected}
        began = time.monotonic()
        try:
            found["observed"] = step.function(talk)
        except Cannot as why:
            found["cannot"] = str(why)
        except Failed as failed:
            found["failed"] = f"{failed.what}: {(failed.done.err or failed.done.out).strip()[-500:]}"
        except Broken as broken:
            found["failed"] = str(broken)
        finally:
            talk.clean()
        found["seconds"] = round(time.monotonic() - began, 3)
        found["commands"] = [done.to_json() for done in engine.place.commands[first:]][-40:]
        yield found

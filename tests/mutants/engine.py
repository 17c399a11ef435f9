"""How a mutant looks at one call of the runtime, and what it can do to it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Act = Callable[["Call"], "int | None"]
Edit = Callable[[Json], "object"]
BROKEN = 99  # exit status where the mutant itself has a bug
VALUED = {"--bundle", "-b", "--pid-file", "--console-socket", "--preserve-fds", "--root", "--log", "--log-format"}


class Mutant:
    """ids: the requirements whose checks must see it. on: the one command it changes, "": it looks at all.

    act(call): the exit status, None: the runtime goes on with the call.
    """

    def __init__(self, ids: tuple[str, ...], on: str, act: Act) -> None:
        self.ids = ids
        self.on = on
        self.act = act
        self.name = act.__name__


class Refused(Exception):
    """The mutant refuses a call that the runtime would have done."""


class Call:
    """One call of the runtime. `words` may be changed, so may os.environ; `command` and what follows says what it was.

    options: by name, those without a value are "". operands: what is left; the first is the container id.
    """

    def __init__(self, runtime: str, words: list[str]) -> None:
        self.runtime = runtime
        self.words = words
        self.options: dict[str, str] = {}
        plain: list[str] = []
        rest = iter(words)
        for word in rest:
            if word.startswith("-"):
                name, _, value = word.partition("=")
                self.options[name] = next(rest, "") if name in VALUED and not value else value
            else:
                plain.append(word)
        self.command = plain[0] if plain else ""
        self.operands = plain[1:]
        self.id = plain[1] if len(plain) > 1 else ""
        self.bundle = Path(self.options.get("--bundle", ".")).absolute()

    def run(self, *words: str) -> int:
        """The real runtime with these words (as called, when none), its exit status. It inherits all we have."""
        return self._wait(self._spawn(words, {}))

    def ask(self, *words: str) -> tuple[int, bytes]:
        """Exit status and stdout of a call that leaves nothing running and whose complaints nobody wants."""
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_WRONLY)
        pid = self._spawn(words, {1: write, 2: null})
        os.close(write)
        os.close(null)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        return self._wait(pid), said

    def _spawn(self, words: tuple[str, ...], files: dict[int, int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            for target, fd in files.items():
                os.dup2(fd, target)
            if "LISTEN_PID" in os.environ:  # who may take the passed descriptors: sd_listen_fds(3)
                os.environ["LISTEN_PID"] = str(os.getpid())
            os.execv(self.runtime, [self.runtime, *(words or self.words)])
        finally:
            os._exit(BROKEN)

    @staticmethod
    def _wait(pid: int) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status if status >= 0 else 128 - status

    def drop_option(self, name: str) -> None:
        """Take an option and its value out of what is run."""
        if name in self.words:
            at = self.words.index(name)
            del self.words[at : at + 2]

    def state(self) -> Json:
        """What the runtime says about the container, {} where it knows none."""
        status, said = self.ask("state", self.id) if self.id else (1, b"")
        return dict(json.loads(said)) if status == 0 else {}

    def config(self) -> Json:
        """The bundle's config.json, {} where it is none."""
        try:
            value = json.loads((self.bundle / "config.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @contextmanager
    def edited(self, edit: Edit) -> Iterator[None]:
        """config.json changed by edit, which may raise Refused, and put back."""
        config = self.config()
        if not config:
            yield
            return
        path = self.bundle / "config.json"
        original = path.read_bytes()
        edit(config)
        path.write_text(json.dumps(config))
        try:
            yield
        finally:
            path.write_bytes(original)

    def root(self) -> Path:
        return self.bundle / str(at(self.config(), "root").get("path", ""))

    def cgroups(self, state: Json | None = None) -> list[Path]:
        """Directories of the container's cgroup, as `create` was asked for it; state: of a container that exists."""
        if state:
            self.bundle = Path(state["bundle"])
        path = str(at(self.config(), "linux").get("cgroupsPath", ""))
        top = Path("/sys/fs/cgroup")
        parents = [top] if (top / "cgroup.procs").exists() else [one for one in top.iterdir() if not one.is_symlink()]
        return [parent / path[1:] for parent in parents] if path.startswith("/") else []


def at(value: Json, *keys: str) -> Json:
    """The object below these keys; one of no consequence where there is none."""
    for key in keys:
        found = value.get(key)
        value = found if isinstance(found, dict) else {}
    return value


def items(value: Json, *keys: str) -> list[Json]:
    """The list of objects below these keys, to be changed in place."""
    found = at(value, *keys[:-1]).get(keys[-1])
    return found if isinstance(found, list) else []


def refuse(text: str) -> None:
    raise Refused(text)


def run(mutant: Mutant, runtime: str, words: list[str]) -> int:
    """The call as the mutant does it; the exit status, unless it becomes the runtime."""
    call = Call(runtime, words)
    try:
        status = None if mutant.on and call.command != mutant.on else mutant.act(call)
    except Refused as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    except Exception:
        import traceback

        traceback.print_exc()
        return BROKEN
    if status is None:
        os.execv(runtime, [runtime, *call.words])
    return status

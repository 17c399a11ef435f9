"""The one place that runs local programs.

Everything else builds an argv list and hands it here. A program runs in a session of its own, so that a time
limit or Ctrl-C ends it with all its children, and never through a shell.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from labkit.core.errors import HostError, InfrastructureError, ProgramFailed
from labkit.core.text import printable

_TAIL = 4000
_GRACE = 10  # seconds
OWNER = "_LABKIT_OWNER"  # environment variable that marks a process as started for a directory of the lab


@dataclass(frozen=True, slots=True)
class Completed:
    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


def which(program: str) -> Path | None:
    """The program's path; the sbin directories count too, where distributions keep mkfs and runtimes."""
    found = shutil.which(program, path=_path())
    return Path(found) if found else None


def _found(program: str) -> Path:
    found = which(program)
    if found is None:
        raise HostError(f"{program} is not installed on this host", hint="run: ./lab doctor --yes")
    return found


def _path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run argv and wait for it, timeout seconds at most.

    env is added to this process's environment. on_line is called with each line of stdout and stderr as it
    comes (both then arrive as stdout).

    Raises HostError where the program does not exist, ProgramFailed where it fails (check) or takes too long.
    """
    words = [str(word) for word in argv]
    words[0] = str(_found(words[0]))
    with contextlib.ExitStack() as stack:
        out: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
        err: IO[bytes] = out if on_line else stack.enter_context(tempfile.TemporaryFile())
        child = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, "PATH": _path(), "LC_ALL": "C.UTF-8", **(env or {})},
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE if on_line else out,
            stderr=subprocess.STDOUT if on_line else err,
            start_new_session=True,
        )
        timer = _Timer(child, timeout)
        try:
            with timer:
                if on_line:
                    assert child.stdout is not None
                    with child.stdout as lines:
                        for raw in lines:
                            out.write(raw)
                            on_line(raw.decode("utf-8", "replace").rstrip())
                    child.wait()
                else:
                    child.communicate(stdin)
        except BaseException:
            # A package manager that is asked to end finishes the step it is in; killed, it would leave that broken.
            end_group(child.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)
            end_group(child.pid)
            child.wait()
            raise
        done = Completed(tuple(words), child.returncode, _read(out), "" if on_line else _read(err))
    if timer.expired:
        raise ProgramFailed(f"{Path(words[0]).name} took longer than {timeout:g} s and was ended", hint=_tail(done))
    if check and done.status != 0:
        raise ProgramFailed(f"{Path(words[0]).name} failed with status {done.status}", hint=_tail(done))
    return done


class _Timer:
    """Ends the child's whole group once its time is up; the wait in run() then returns by itself."""

    def __init__(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        self.expired = False
        self._child = child
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def _expire(self) -> None:
        self.expired = True
        end_group(self._child.pid)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def end_group(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Signal the process group that run() or spawn() made; nothing happens where it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, how)


Child = subprocess.Popen[bytes]


def spawn(
    argv: Sequence[str | Path], *, cwd: Path, log: Path, env: Mapping[str, str], files: Sequence[int] = ()
) -> Child:
    """Start a program that outlives labkit, in its own session, its output appended to log; it inherits files."""
    words = [str(word) for word in argv]
    program = _found(words[0])
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(program), *words[1:]],
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=files,
        )


def replace_with(argv: Sequence[str]) -> NoReturn:
    """Become the program: for one that takes over the terminal. HostError where it does not exist."""
    os.execv(_found(argv[0]), list(argv))


def owned(owner: Path) -> list[int]:
    """Pids of the processes that were started for owner (env OWNER), and of their descendants.

    The mark is in the environment, so that what a killed labkit left behind is found although its parent is
    gone and whether or not it had come to write a pid file.
    """
    mark = f"{OWNER}={owner}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def end_owned(owner: Path, *, timeout: float = 10) -> int:
    """Kill whatever still runs for owner and wait until it is gone; how many processes that were."""
    deadline = time.monotonic() + timeout
    ended: set[int] = set()
    while pids := {*owned(owner), *(pid for pid in ended if not _gone(pid))}:
        for pid in pids - ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended.update(pids)
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"processes {', '.join(map(str, sorted(pids)))} that belong to {owner} do not end",
                hint="end them by hand, then run the command again",
            )
        time.sleep(0.01)
    return len(ended)


def _gone(pid: int) -> bool:
    """Whether a process has let go of its files and sockets; its environment vanishes a moment before that.

    Its first thread may be a zombie while others, which share them, still end.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) < 2
    except OSError:
        return True


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _tail(done: Completed) -> str | None:
    text = (done.stderr or done.stdout).strip()
    return printable(text[-_TAIL:], newlines=True) if text else None

"""The one place that runs programs. Output goes to files, never to pipes: containers inherit it and live on."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Optional, Union

OUTPUT_LIMIT = 256 * 1024
File = Union[int, IO[bytes]]
_MESSAGE = re.compile(r'\bmsg="((?:[^"\\]|\\.)+)"')  # of logrus: time="..." level=error msg="..."


@dataclass(frozen=True)
class Proc:
    """A finished program. status: exit status, negative signal number, or None if it timed out and was killed.

    command: the runtime's command that it was ("create"), "" for another program.
    """

    argv: tuple[str, ...]
    status: Optional[int]
    stdout: str
    stderr: str
    seconds: float
    command: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def words(self) -> str:
        """What it said of its failure: the last line of stderr, or the message in it, else how it ended."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        if not lines:
            return self._how
        logged = _MESSAGE.search(lines[-1])
        if not logged:
            return lines[-1][:300]
        return re.sub(r"\\(.)", r"\1", logged[1])[:300]

    @property
    def _how(self) -> str:
        return "timed out" if self.status is None else f"exit status {self.status}"

    def describe(self) -> str:
        text = (self.stderr.strip() or self.stdout.strip())[:1000]
        how = f"{self._how} after {self.seconds:.2f} s"
        return f"{how}: {text}" if text else how


def read_text(path: Path, most: int = OUTPUT_LIMIT) -> str:
    """The beginning of a file, at most `most` bytes, with undecodable bytes escaped."""
    with path.open("rb") as file:
        return file.read(most).decode("utf-8", "backslashreplace")


def run(
    argv: Sequence[str],
    *,
    stdout: Path,
    stderr: Path,
    timeout: float,
    cwd: Optional[Path] = None,
    env: Optional[Mapping[str, str]] = None,
    stdin: Optional[File] = None,
    pass_fds: Sequence[int] = (),
) -> Proc:
    """Run argv, its output into the files stdout and stderr (made anew); killed after `timeout` seconds.

    stdin: by default the end of a pipe that nobody writes to, never a device: a runtime may chown it.
    Raises OSError if it cannot be executed.
    """
    started = time.monotonic()
    with stdout.open("wb") as out, stderr.open("wb") as err, _nothing() as nothing:
        process = subprocess.Popen(
            argv,
            stdin=nothing if stdin is None else stdin,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
        )
    status = wait_process(process, timeout)
    seconds = time.monotonic() - started
    return Proc(tuple(argv), status, read_text(stdout), read_text(stderr), seconds)


@contextmanager
def _nothing() -> Iterator[int]:
    read, write = os.pipe()
    os.close(write)
    try:
        yield read
    finally:
        os.close(read)


def wait_end(pid: int, timeout: float) -> bool:
    """Wait for a process, not only a child, to end; False: it did not. A pidfd: no polling, no late wake-up."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], max(timeout, 0))[0])
    finally:
        os.close(fd)


def end(pid: int) -> None:
    """Kill a process, not only a child, and wait until it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_end(pid, 10)


def wait_process(process: subprocess.Popen[bytes], timeout: float) -> Optional[int]:
    """Exit status, or None after killing it at the timeout."""
    if not wait_end(process.pid, timeout):
        process.kill()
        process.wait()
        return None
    return process.wait()

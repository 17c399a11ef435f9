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

OUTPUT_LIMIT = 256 * 1024  # bytes of a stream that are read, and kept
FLOOD = 64 << 20  # bytes of a stream for which a program is ended: the files are in memory, which all checks share
_LOOK = 0.1  # seconds between two looks at how much there is
File = Union[int, IO[bytes]]
_MESSAGE = re.compile(r'\bmsg="((?:[^"\\]|\\.)+)"')  # of logrus: time="..." level=error msg="..."


@dataclass(frozen=True)
class Proc:
    """A finished program. status: exit status, negative signal number, or None if it passed a limit and was killed.

    limit: which one it passed, "" where it ended by itself; command: the runtime's command that it was ("create"), ""
    for another program.
    """

    argv: tuple[str, ...]
    status: Optional[int]
    stdout: str
    stderr: str
    seconds: float
    limit: str = ""
    command: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def words(self) -> str:
        """What it said of its failure: the last line of stderr, or the message in it, else how it ended, which comes
        first where it did not end by itself.
        """
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        if not lines:
            return self._how
        logged = _MESSAGE.search(lines[-1])
        said = (re.sub(r"\\(.)", r"\1", logged[1]) if logged else lines[-1])[:300]
        return said if (self.status or -1) > 0 else f"{self._how}: {said}"

    @property
    def _how(self) -> str:
        if self.status is None:
            return self.limit
        if self.status < 0:
            with suppress(ValueError):
                return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"

    def describe(self) -> str:
        text = (self.stderr.strip() or self.stdout.strip())[:1000]
        how = self._how if self.status is None else f"{self._how} after {self.seconds:.2f} s"
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
    """Run argv, its output into the files stdout and stderr (made anew); killed after `timeout` seconds, or when it has
    printed more than FLOOD. More than OUTPUT_LIMIT of it is not kept.

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
        limit = _passed(process.pid, timeout, (out.fileno(), err.fileno()))
        if limit:
            process.kill()
        status = process.wait()
        for stream in (out, err):
            if os.fstat(stream.fileno()).st_size > OUTPUT_LIMIT:
                stream.truncate(OUTPUT_LIMIT)
    seconds = time.monotonic() - started
    words = tuple(argv)
    return Proc(words, None if limit else status, read_text(stdout), read_text(stderr), seconds, limit)


def _passed(pid: int, timeout: float, streams: Sequence[int]) -> str:
    """Wait for a program to end; which limit it has passed before, "" where none."""
    deadline = time.monotonic() + timeout
    while not wait_end(pid, min(_LOOK, deadline - time.monotonic())):
        if any(os.fstat(stream).st_size > FLOOD for stream in streams):
            return f"ended after it had printed more than {FLOOD >> 20} MiB"
        if time.monotonic() >= deadline:
            return f"timed out after {timeout:.3g} s"
    return ""


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

"""The one place that runs programs. Output goes to files, never to pipes: containers inherit it and live on."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Optional, Union

OUTPUT_LIMIT = 256 * 1024
File = Union[int, IO[bytes]]


@dataclass(frozen=True)
class Proc:
    """A finished program. status: exit status, negative signal number, or None if it timed out and was killed."""

    argv: tuple[str, ...]
    status: Optional[int]
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == 0

    def describe(self) -> str:
        how = "timed out" if self.status is None else f"exit status {self.status}"
        text = (self.stderr.strip() or self.stdout.strip())[:1000]
        return f"{how} after {self.seconds:.2f} s: {text}" if text else f"{how} after {self.seconds:.2f} s"


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

    Raises OSError if it cannot be executed.
    """
    started = time.monotonic()
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
        )
    status = wait_process(process, timeout)
    seconds = time.monotonic() - started
    return Proc(tuple(argv), status, read_text(stdout), read_text(stderr), seconds)


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


def wait_process(process: subprocess.Popen[bytes], timeout: float) -> Optional[int]:
    """Exit status, or None after killing it at the timeout."""
    if not wait_end(process.pid, timeout):
        process.kill()
        process.wait()
        return None
    return process.wait()

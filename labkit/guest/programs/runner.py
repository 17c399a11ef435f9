"""The driver's event loop: starts programs as the schedule says and passes on their output. One thread."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..common.attached import is_over
from ..common.children import Signals
from ..common.errors import Interrupted
from ..common.files import remove_tree
from . import evidence
from .cgroups import Watch
from .host import HostError
from .sandbox import Sandbox, SandboxConfig, open_sandbox, read_report
from .schedule import Schedule, Turn

PIECE = 1 << 16  # bytes in one data event
STREAM_LIMIT = 8 << 20  # bytes passed on per stream of a program; the largest recorded stream has 144 KB
GUARD_TIMEOUT = 15.0  # seconds in which a sandbox has to end after its program's timeout


class Output:
    """stdout. A slow reader blocks the driver, but not the signals to it; a reader that is gone ends the run."""

    def __init__(self, signals: Signals, fd: int = 1) -> None:
        self.fd = fd
        self._signals = signals
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._poll.register(signals.fd, select.POLLIN)

    def put(self, kind: str, **values: Any) -> None:
        data = memoryview(json.dumps({"type": kind, **values}).encode() + b"\n")
        while data:
            for fd, events in self._poll.poll():
                if fd == self._signals.fd:
                    self._signals.drain()
                    self._signals.check()
                elif events & (select.POLLERR | select.POLLNVAL):
                    raise Interrupted(signal.SIGPIPE)
                elif events & select.POLLOUT:  # a pipe that is writable takes PIPE_BUF without blocking
                    try:
                        data = data[os.write(fd, data[: select.PIPE_BUF]) :]
                    except BlockingIOError:
                        time.sleep(0.01)
                    except OSError as error:
                        raise Interrupted(signal.SIGPIPE) from error


@dataclass
class _Stream:
    name: str
    passed: int = 0
    dropped: int = 0


@dataclass
class _Job:
    turn: Turn
    sandbox: Sandbox
    deadline: float
    evidence: Path
    streams: dict[int, _Stream] = field(default_factory=dict)
    overdue: bool = False


class Runner:
    """tmp: an empty directory; body(program, its own directory below tmp): what runs it, see open_sandbox; lifeline: a
    descriptor whose end interrupts; quiet: seconds without output after which a program is ended.
    """

    def __init__(
        self,
        schedule: Schedule,
        config: SandboxConfig,
        tmp: Path,
        body: Callable[[str, Path], Callable[[], int]],
        cgroup_root: Path,
        output: Output,
        signals: Signals,
        lifeline: Optional[int] = None,
        *,
        quiet: Optional[float] = None,
    ) -> None:
        self._schedule = schedule
        self._config = config
        self._tmp = tmp
        self._body = body
        self._output = output
        self._signals = signals
        self._watch = Watch(cgroup_root)
        self._jobs: dict[int, _Job] = {}  # by the guard's pid
        self._poll = select.poll()
        self._poll.register(signals.fd, select.POLLIN)
        self._poll.register(output.fd, 0)  # tells when the reader is gone
        self._quiet = quiet
        self._lifeline = lifeline
        if lifeline is not None:
            self._poll.register(lifeline, select.POLLIN)

    def run(self) -> None:
        """Raises Interrupted, and HostError where no sandbox can be made; nothing runs any more then."""
        try:
            while not self._schedule.finished:
                turn = self._schedule.take()
                while turn:
                    self._start(turn)
                    turn = self._schedule.take()
                # Writing to stdout takes note of signals too, that of an end among them: no waiting for one before
                # a whole pass has found nobody ended.
                if not self._reap():
                    self._turn()
        finally:
            self._end_all()

    @property
    def _running(self) -> list[str]:
        return [job.turn.program for job in self._jobs.values()]

    def _start(self, turn: Turn) -> None:
        self._watch.look(self._running)
        self._output.put("start", program=turn.program, attempt=turn.attempt)
        directory = self._tmp / f"{turn.program}.{turn.attempt}"
        sandbox = open_sandbox(self._config, directory, self._body(turn.program, directory))
        deadline = time.monotonic() + (self._quiet or self._config.timeout + GUARD_TIMEOUT)
        job = _Job(turn, sandbox, deadline, evidence.place(directory))
        self._jobs[sandbox.guard] = job
        for fd, name in ((sandbox.out, "out"), (sandbox.err, "err")):
            job.streams[fd] = _Stream(name)
            self._poll.register(fd, select.POLLIN)

    def _turn(self) -> None:
        now = time.monotonic()
        deadline = min((job.deadline for job in self._jobs.values() if not job.overdue), default=now + GUARD_TIMEOUT)
        ready = self._poll.poll(max(deadline - now, 0) * 1000 + 1)
        jobs = {fd: job for job in self._jobs.values() for fd in job.streams}
        for fd, events in ready:
            if fd == self._signals.fd:
                self._signals.drain()
                self._signals.check()
            elif fd == self._output.fd:
                if events:
                    raise Interrupted(signal.SIGPIPE)
            elif fd == self._lifeline:
                if is_over(fd):
                    raise Interrupted(signal.SIGHUP)
            elif not self._read(jobs[fd], fd):
                self._poll.unregister(fd)

    def _reap(self) -> bool:
        """Report the jobs that have ended and stop those past their deadline; whether any had ended."""
        found = False
        for job in list(self._jobs.values()):
            if os.waitpid(job.sandbox.guard, os.WNOHANG)[0]:
                self._ended(job)
                found = True
            elif time.monotonic() >= job.deadline and not job.overdue:
                job.overdue = True
                os.close(job.sandbox.lifeline)
        return found

    def _read(self, job: _Job, fd: int) -> bool:
        """Pass on one piece; False at the stream's end or when nothing is there."""
        try:
            data = os.read(fd, PIECE)
        except BlockingIOError:
            return False
        stream = job.streams[fd]
        if data and self._quiet:
            job.deadline = time.monotonic() + self._quiet
        kept = data[: STREAM_LIMIT - stream.passed]
        stream.passed += len(kept)
        stream.dropped += len(data) - len(kept)
        if kept:
            text = base64.b64encode(kept).decode()
            self._output.put("data", program=job.turn.program, stream=stream.name, data=text)
        return bool(data)

    def _ended(self, job: _Job) -> None:
        del self._jobs[job.sandbox.guard]
        for fd in job.streams:
            with suppress(KeyError):
                self._poll.unregister(fd)
            # No writer is left, unless the program gave the pipe to a process outside: so not for ever.
            for _ in range(2 * STREAM_LIMIT // PIECE):
                if not self._read(job, fd):
                    break
        report = read_report(job.sandbox)
        self._close(job)
        if report.failure:
            raise HostError(f"cannot run programs on this host: {report.failure}")
        for name, data in evidence.pieces(job.evidence):
            self._output.put("evidence", program=job.turn.program, name=name, data=data)
        remove_tree(job.evidence)
        left = [*report.left, *self._watch.ended(job.turn.program, report.records, self._running)]
        self._output.put(
            "end",
            program=job.turn.program,
            attempt=job.turn.attempt,
            status=report.status,
            signal=report.signal,
            timeout=report.timeout or job.overdue,
            seconds=report.seconds,
            left=left,
            dropped={stream.name: stream.dropped for stream in job.streams.values()},
        )
        self._schedule.done(job.turn)

    def _close(self, job: _Job) -> None:
        for fd in (job.sandbox.out, job.sandbox.err, job.sandbox.report):
            os.close(fd)
        if not job.overdue:
            os.close(job.sandbox.lifeline)

    def _end_all(self) -> None:
        """After an interruption: stop the programs and remove what they leave."""
        for job in self._jobs.values():
            self._close(job)
        left = list(self._jobs.values())
        deadline = time.monotonic() + GUARD_TIMEOUT
        while left and time.monotonic() < deadline:
            left = [job for job in left if not os.waitpid(job.sandbox.guard, os.WNOHANG)[0]]
            time.sleep(0.01)
        self._watch.sweep()

"""The terminal: progress and errors on stderr, so that stdout carries the answer alone.

On a terminal one live line shows how far things are; anywhere else every line stays, without escapes or carriage
returns. All text passes through printable(): it may come from a guest.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from labkit.core.errors import Interrupted, LabError
from labkit.core.interrupts import Unraisable, interrupt
from labkit.core.text import one_line, printable

if TYPE_CHECKING:
    from labkit.results.model import Result

_logger = logging.getLogger("labkit")
_LIVE_EVERY = 0.1  # seconds between redrawings of the live line
# A terminal that is closed sends SIGHUP to its session's leader and to the group in the foreground, `timeout` SIGTERM
# to its child and to its group: what comes twice within so many seconds is one wish, and must not stop the cleaning up.
_ECHO = 1.0
_PLAIN_EVERY = 10.0  # seconds between progress lines in a log


class Console:
    """The Observer that people see. verbose shows what tools print, and the checks that pass; commands, inside the
    context, also each program that labkit runs.
    """

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False, commands: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._verbose = verbose
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = self._gone = False
        self._shown_at = 0.0
        self._started = time.monotonic()
        self._bad = 0
        self._lock = threading.Lock()
        self._log = _Log(self) if commands else None

    def __enter__(self) -> Console:
        if self._log:
            _logger.addHandler(self._log)
            _logger.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        if self._log:
            _logger.removeHandler(self._log)
            _logger.setLevel(logging.NOTSET)
        with self._lock:
            self._clear()
            self._write("")

    def step(self, text: str) -> None:
        self._line(f"[{time.monotonic() - self._started:5.1f} s] {printable(text)}")

    def detail(self, text: str) -> None:
        if self._verbose:
            self._line(f"    {printable(text)}")

    def warn(self, text: str) -> None:
        self._line(f"warning: {printable(text)}")

    def confirm(self, question: str) -> bool:
        if not (sys.stdin.isatty() and self._stream.isatty()):
            return False
        with self._lock:
            self._clear()
            self._write(f"{printable(question)} [y/N] ")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def progress(self, label: str, done: int, total: int | None, unit: str) -> None:
        amount = f"{done:,}" if total is None else f"{done * 100 // total if total else 100:3} % of {total:,}"
        self._show(f"{label}: {amount} {unit}", last=total is not None and done >= total)

    def result(self, result: Result, done: int, planned: int | None) -> None:
        self._bad = (self._bad if done > 1 else 0) + result.verdict.bad
        if self._verbose or result.verdict.bad:
            self._line(f"    {printable(f'{result.verdict:8} {result.id} {result.name}')}")
        bad = f", {self._bad} failed" if self._bad else ""
        self._show(f"{done}{f' of {planned}' if planned else ''} checks{bad}: {result.id}", last=done == planned)

    def _line(self, text: str) -> None:
        with self._lock:
            self._clear()
            self._write(f"{text}\n")

    def _show(self, text: str, *, last: bool) -> None:
        """A passing state: redrawn in place on a terminal, now and then a line in a log."""
        with self._lock:
            now = time.monotonic()
            if now - self._shown_at < (_LIVE_EVERY if self._live else _PLAIN_EVERY) and not last:
                return
            self._shown_at = now
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                self._write(f"\r\x1b[K{one_line(text, width)}")
                self._drawn = True
            else:
                self._write(f"    {printable(text)}\n")

    def _clear(self) -> None:
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._gone = True  # a terminal that was closed; what goes on, or cleans up, is not to fail over that


class _Log(logging.Handler):
    """Shows what labkit logs, every command that it runs, as a detail."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.detail(record.getMessage())


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, each cell printable; the first row is the heading."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Turn what can be expected to go wrong into a message on stderr and an exit status. Bugs keep their traceback.

    SIGTERM and SIGHUP end the command as Ctrl-C does, with 143 and 129 in place of 130, and one line that says what is
    left and how to go on. A signal that whoever started
    the command ignores (nohup, a shell's background job) stays ignored; for SIGINT Python itself sees to that.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks a character is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    heard: dict[int, float] = {}

    def handle(signum: int, frame: FrameType | None) -> None:
        before, heard[signum] = heard.get(signum), time.monotonic()
        if signum == signal.SIGINT or before is None or heard[signum] - before > _ECHO:
            interrupt(signum, frame)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(signum, handle)
    sys.unraisablehook = Unraisable(lambda signum: heard.pop(signum, None))
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except LabError as error:
        complain(error.message, error.hint)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        _let_go(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt as error:
        signum = signal.Signals(error.signum if isinstance(error, Interrupted) else signal.SIGINT)
        notes = getattr(error, "__notes__", None) or ["the same command again goes on from there"]
        with contextlib.suppress(OSError):  # SIGHUP: the terminal may be gone
            complain(f"interrupted by {signum.name}: {'; '.join(notes)}")
        _let_go(sys.stdout)
        sys.exit(128 + signum)


def complain(message: str, hint: str | None = None) -> None:
    """Print an error, and what to do about it, on stderr."""
    print(f"labkit: {printable(message, newlines=True)}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint, newlines=True)}", file=sys.stderr)


def _let_go(stream: TextIO) -> None:
    """Print what is still to come, or nowhere, where nobody is there to read it: not to fail once more at exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""A task as a step of GitHub Actions (`--format github`): annotations, and the summary of the job.

Any line of a step's output may be a command to the runner, which it also looks for in the middle of lines (`##[`), and
what a suite or a machine prints is not to be trusted. So commands are stopped but for our own lines, under a word that
nobody can foresee, and both outputs become one, so that nothing overtakes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterable

from labkit.core.errors import LabError
from labkit.core.text import printable

LIMIT = 1 << 20  # bytes of a step's summary; GitHub drops a larger one
_LEAST = 4096  # a summary of less says nothing


class Workflow:
    """A context manager around a task. A LabError becomes an annotation, too."""

    def __enter__(self) -> Workflow:
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError, ValueError):
            os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
        self._stop()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, LabError):
            from labkit.reports.as_github import annotation

            hint = f"\n{error.hint}" if error.hint else ""
            self.annotate([annotation("error", "labkit", f"{error.message}{hint}")])

    def annotate(self, lines: Iterable[str]) -> None:
        """Print lines that are commands."""
        sys.stderr.flush()
        print(f"::{self._word}::")
        for line in lines:
            print(line)
        self._stop()

    def summarize(self, render: Callable[[int], str]) -> None:
        """Append what render(most bytes) returns to the job's summary, where there is one."""
        path = os.environ.get("GITHUB_STEP_SUMMARY")
        if not path:
            return
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            with os.fdopen(fd, "ab") as file:
                room = LIMIT - os.fstat(fd).st_size - 1
                if room < _LEAST:
                    raise ValueError("it is full")
                file.write(f"{render(room)}\n".encode(errors="backslashreplace"))
        except (OSError, ValueError) as error:
            print(f"warning: the summary of the job was not written: {printable(str(error))}", file=sys.stderr)

    def _stop(self) -> None:
        self._word = secrets.token_hex(16)
        print(f"::stop-commands::{self._word}", flush=True)

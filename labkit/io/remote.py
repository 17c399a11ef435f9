"""What a connection to a machine can do, apart from ssh.py, whose libraries take a quarter of a second to load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from labkit.core.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a remote command: its exit status, and the part of its output that was kept."""

    status: int
    stdout: str
    stderr: str


class Remote(Protocol):
    """An open connection to a machine; a context manager. Every method may raise ConnectionFailed."""

    @property
    def endpoint(self) -> Endpoint: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes | Path = b"",
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        keep: int = 1 << 20,
        attached: bool = False,
    ) -> Answer:
        """Run argv on the machine, as root, and wait for it to end, timeout seconds at most.

        attached: the command's stdin stays open after what there is of it, and ends when the connection does, so that
        a command that watches it can end as well.

        Output goes to the callbacks as it comes; keep bytes of each stream are returned as well. Raises
        CommandTimeout, or ConnectionFailed where the connection breaks.
        """

    def upload(self, data: bytes | Path, target: str, *, mode: int = 0o644, timeout: float = 300) -> None:
        """Put data, or a file of this host, at the path target, written aside and renamed."""

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

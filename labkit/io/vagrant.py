"""The one place that speaks to Vagrant, through python-vagrant.

Faults of python-vagrant 1.0.0 that are fixed here: nothing in it has a time limit, a line that is not CSV raises
IndexError and an `error-exit` ValueError, an environment given to it replaces the whole, `ssh` swallows the command's
status, the last of several IdentityFile lines wins, snapshots take no options, and output is shown whole or not at all.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import vagrant as upstream

from labkit.core.errors import HostError, MachineError, ProgramFailed
from labkit.core.observer import Observer
from labkit.core.text import printable, seconds
from labkit.io import process
from labkit.io.ssh import Login, read_config

_ASK = 120.0  # seconds for a query; Ruby and its plugins take two to load
_STATUS = re.compile(r"\S.{0,59}")  # an id; plugins make them of whatever their tool prints
_LINES = 12  # of the end of Vagrant's output, in errors
_STAGE = re.compile(r"==> [^:]+: (\S.*)")
_BOXES = re.compile(r"\bbox(es)?\b|[Dd]ownload|[Uu]pload|\b[Ii]mage\b")  # in the names of stages that move a disk image
_TELL_EVERY = 30.0  # seconds between two lines about a stage that goes on


class Vagrant(upstream.Vagrant):
    """Vagrant in the directory of one Vagrantfile with one machine. Every method may raise MachineError."""

    def __init__(
        self,
        directory: Path,
        *,
        home: Path | None,
        owner: Path,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        """home: Vagrant's own directory with its boxes; None for the user's. owner: see labkit.io.process.OWNER."""
        program = process.which("vagrant")
        if program is None:
            raise HostError("Vagrant is not installed on this host", hint="run: ./lab doctor --yes")
        environment = {
            process.OWNER: str(owner),
            "VAGRANT_CWD": str(directory),
            "VAGRANT_DOTFILE_PATH": str(directory / ".vagrant"),
            "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_NO_COLOR": "1",
        }
        if home is not None:
            environment["VAGRANT_HOME"] = str(home)
        super().__init__(root=str(directory))
        self._program = program
        self._environment = environment
        self._on_line = on_line
        self._timeout = _ASK

    def state(self) -> str:
        """The machine's state in the words of its provider: running, shutoff, aborted-saved, not_created, ..."""
        states = [status.state for status in self.status()]
        if len(states) != 1 or not _STATUS.fullmatch(states[0]):
            raise MachineError(f"Vagrant reports no state for the machine in {self.root}")
        found: str = states[0]
        return found

    def start(self, provider: str, *, timeout: float, stages: Stages | None = None, keep: bool = False) -> None:
        """`vagrant up`, without provisioning; timeout in seconds. keep: one that does not come up stays as it is."""
        words = ["up", "--no-provision", "--provider", provider, *(["--no-destroy-on-error"] if keep else [])]
        with self._bounded(timeout):
            if stages is None:
                self._call_vagrant_command(words)
            else:
                self._run(words, on_line=stages.line, on_wait=stages.wait)

    def save(self, snapshot: str, *, timeout: float) -> None:
        with self._bounded(timeout):
            self._call_vagrant_command(["snapshot", "save", "--force", snapshot])

    def restore(self, snapshot: str, *, timeout: float) -> None:
        with self._bounded(timeout):
            self._call_vagrant_command(["snapshot", "restore", "--no-provision", snapshot])

    def stop(self, *, timeout: float) -> None:
        with self._bounded(timeout):
            self.halt()

    def remove(self, *, timeout: float) -> None:
        with self._bounded(timeout):
            self.destroy()

    def execute(self, command: str) -> str:
        """Return the output of a command that Vagrant runs over its own SSH; a non-zero status is an error."""
        done = self._run(["ssh", "--no-tty", "--command", command])
        return done.stdout

    def login(self) -> Login:
        """How Vagrant reaches the machine."""
        try:
            return read_config(self._run_vagrant_command(["ssh-config"]))
        except ValueError as error:
            raise MachineError(f"Vagrant's ssh-config of {self.root} cannot be read: {error}") from error

    # -- what python-vagrant calls ------------------------------------------------------------------------------

    def _call_vagrant_command(self, args: Sequence[str | None]) -> None:
        self._run(args, on_line=self._on_line)

    def _run_vagrant_command(self, args: Sequence[str | None]) -> str:
        return self._run(args).stdout

    def _stream_vagrant_command(self, args: Sequence[str | None]) -> Iterator[str]:
        yield from self._run(args).stdout.splitlines()

    def _parse_machine_readable_output(self, output: str) -> list[list[str]]:
        """Lines (timestamp, target, kind, data); others, such as a plugin's warning, are no part of the answer."""
        lines = [line.split(",", 3) for line in output.splitlines()]
        return [
            [*line[:3], line[3].replace("%!(VAGRANT_COMMA)", ",").replace("\\n", "\n")]
            for line in lines
            if len(line) == 4
            and line[0].isdigit()
            and line[2] in ("state", "provider-name", "plugin-name", "plugin-version")
        ]

    def _run(
        self,
        args: Sequence[str | None],
        *,
        on_line: Callable[[str], None] | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> process.Completed:
        words = [word for word in args if word is not None]
        shown = (lambda line: on_line(_last(line))) if on_line else None
        try:
            done = process.run(
                [self._program, *words],
                timeout=self._timeout,
                cwd=Path(self.root),
                env=self._environment,
                passing=process.VAGRANT,
                check=False,
                on_line=shown,
                on_wait=on_wait,
            )
        except ProgramFailed as error:
            raise MachineError(
                f"vagrant {words[0]} in {self.root} did not finish within {seconds(self._timeout)}", hint=error.hint
            ) from error
        if done.status:
            lines = [_last(line) for line in (done.stderr.strip() or done.stdout).splitlines()]
            hint = "\n".join(line for line in lines if line.strip())
            raise MachineError(
                f"vagrant {words[0]} in {self.root} {done.outcome}",
                hint=printable("\n".join(hint.splitlines()[-_LINES:]), newlines=True) or None,
            )
        return done

    def _bounded(self, seconds: float) -> _Bound:
        return _Bound(self, seconds)


class Stages:
    """Where a long `vagrant up` is, by the lines that it prints: told as they begin, and every half a minute.

    Each stage has a bound, in seconds, boot for the machine and download for its box; MachineError ends Vagrant there.
    """

    def __init__(self, what: str, observer: Observer, *, boot: float, download: float) -> None:
        self._what, self._observer = what, observer
        self._boot, self._download = boot, download
        self.name, self._last = "starting Vagrant", ""
        self._since = self._told = time.monotonic()

    def line(self, text: str) -> None:
        self._observer.detail(text)
        found = _STAGE.fullmatch(text)
        if found and not found[1].startswith("--"):
            if (name := found[1].rstrip(".")) != self.name:
                self._enter(name)
                self._observer.step(f"{self._what}: {name}")
        elif text.strip():
            self._last = text.strip()

    def wait(self) -> None:
        now = time.monotonic()
        if now - self._since > self.bound:
            raise MachineError(f"{self._what} stopped at {self.name!r}: that did not end within {seconds(self.bound)}")
        if now - self._told >= _TELL_EVERY:
            self._told = now
            last = f" ({self._last})" if self._last else ""
            took = f"{now - self._since:.0f} s of at most {self.bound:.0f} s"
            self._observer.step(f"{self._what}: still at {self.name!r}{last}, {took}")

    @property
    def bound(self) -> float:
        return self._download if _BOXES.search(self.name) else self._boot

    def _enter(self, name: str) -> None:
        self.name, self._last = name, ""
        self._since = self._told = time.monotonic()


def at_work(owner: Path) -> list[int]:
    """The pids of Vagrants that were started for owner and still run, such as a killed labkit leaves behind."""
    found = []
    for pid in process.owned(owner):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(word.rpartition(b"/")[2] == b"vagrant" for word in words[:3]):
                found.append(pid)
    return found


class _Bound:
    """Gives the calls in a block another time limit than that of a query."""

    def __init__(self, of: Vagrant, seconds: float) -> None:
        self._of, self._seconds = of, seconds

    def __enter__(self) -> None:
        self._of._timeout = self._seconds

    def __exit__(self, *_: object) -> None:
        self._of._timeout = _ASK


def _last(line: str) -> str:
    """A line as a terminal finally shows it: progress output overwrites itself."""
    return line.replace("\x1b[K", "").rstrip("\r").rpartition("\r")[2]

"""A machine in memory, for tests of code that uses machines: no process, no network, every state.

Its disk is a dict of files; the test supplies a function that answers commands.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import ConnectionFailed, LabError, MachineError
from labkit.core.platforms import Distro
from labkit.io.remote import Answer
from labkit.machines.base import Difference, MachineInfo, MachineState


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command prints and exits with; error is raised after the output, as a lost connection would."""

    status: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    error: BaseException | None = None


LOOK = "# what is under test"  # how the command begins that looks at a runtime: see labkit.usecases.subject


def has_runtime(argv: Sequence[str]) -> Reply:
    """The runtime is there, and says that it is version 1.2.3."""
    _, _, _, _, place, _, program, *_ = argv
    path = f"/usr/bin/{place}".replace("/usr/bin//", "/") if program == "there" else f"{place}/{program}"
    digest = hashlib.sha256(path.encode()).hexdigest()
    name = path.rpartition("/")[2]
    facts = f"machine x86_64\nsha256 {digest}\npath {path}\nstate there\n"
    return Reply(0, f"{facts}said\n{name} version 1.2.3\n\nstatus 0\n".encode())


def succeed(_argv: Sequence[str]) -> Reply:
    """Every command succeeds and prints nothing."""
    return Reply()


@dataclass(slots=True)
class FakeMachine:
    """respond answers each command, runtime the look at what is under test; fails maps the name of a method to the
    error that it raises instead of working.

    files is the disk; commands and steps record the calls so far, in order.
    """

    name: str = "fake"
    respond: Callable[[Sequence[str]], Reply] = succeed
    runtime: Callable[[Sequence[str]], Reply] = has_runtime
    state: MachineState = MachineState.ABSENT
    console_path: Path | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    fails: dict[str, LabError] = field(default_factory=dict)
    commands: list[tuple[str, ...]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    platform: str = ""
    release: str = ""
    unlike: Sequence[Difference] = ()
    kernel_origin: str | None = None
    arch: str | None = None
    provider: str = "fake"
    closed: threading.Event = field(default_factory=threading.Event)  # set where a connection to it was closed

    def status(self) -> MachineInfo:
        return MachineInfo(
            self.name,
            self.platform,
            self.release,
            self.provider,
            self.state,
            kernel_origin=self.kernel_origin,
            arch=self.arch,
        )

    def examine(self) -> MachineInfo:
        return self.status()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def create(self, distro: Distro) -> None:
        self._step("create")
        self.files.clear()
        self.platform, self.release = distro.platform.name, distro.release.name
        self.state = MachineState.RUNNING

    def start(self, *, discard_state: bool = False) -> None:
        self._step("start")
        self.state = MachineState.RUNNING

    def endpoint(self) -> Endpoint:
        if self.state is not MachineState.RUNNING:
            raise MachineError(f"machine {self.name} is not running", hint="./lab up")
        return Endpoint("fake.invalid", 22, "root", Path("/dev/null"), Path("/dev/null"))

    def connect(self, deadline: Deadline) -> FakeRemote:
        self._step("connect")
        return FakeRemote(self, self.endpoint())

    def reset(self) -> None:
        self._step("reset")
        self.files.clear()
        self.state = MachineState.RUNNING

    def halt(self) -> None:
        self._step("halt")
        self.state = MachineState.HALTED

    def destroy(self) -> None:
        self._step("destroy")
        self.files.clear()
        self.state = MachineState.ABSENT

    def differences(self, distro: Distro) -> Sequence[Difference]:
        return self.unlike

    def update(self, distro: Distro) -> None:
        self._step("update")

    def console(self) -> Path | None:
        return self.console_path

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.fails:
            raise self.fails[name]


class FakeRemote:
    """A connection to a fake machine."""

    def __init__(self, machine: FakeMachine, endpoint: Endpoint) -> None:
        self._machine = machine
        self._endpoint = endpoint

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

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
        if self._machine.state is not MachineState.RUNNING:
            raise ConnectionFailed(f"the SSH connection to {self._endpoint} was cut")
        if argv[:2] == ["sh", "-c"] and argv[2].startswith(LOOK):
            reply = self._machine.runtime(argv)
        else:
            self._machine.commands.append(tuple(argv))
            reply = self._machine.respond(argv)
        for call, data in ((on_stdout, reply.stdout), (on_stderr, reply.stderr)):
            if call and data:
                call(data)
        if reply.error is not None:
            raise reply.error
        shown = (data[:keep].decode("utf-8", "replace") for data in (reply.stdout, reply.stderr))
        return Answer(reply.status, *shown)

    def upload(self, data: bytes | Path, target: str, *, mode: int = 0o644, timeout: float = 300) -> None:
        self._machine.files[target] = data.read_bytes() if isinstance(data, Path) else data

    def close(self) -> None:
        self._machine.closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

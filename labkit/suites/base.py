"""What a suite is: a program that runs in a machine against a runtime, and how its output is kept and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from labkit.core.cell import Selection
from labkit.core.observer import Observer, Silent
from labkit.results.model import Reading, Result, Run
from labkit.subjects.runtimes import Runtime
from labkit.suites.subset import ALL, Subset

# What every suite's program is called with: it ends when its stdin does, so with its labkit, and runs on its machine
# alone (labkit/guest/common/attached.py).
ATTACHED = ("--attached", "--lock", "/run/labkit-suite.lock")

OnResult = Callable[[Result, int, int | None], None]  # a result, its number, and how many are planned, if that is known


class RunObserver(Observer, Protocol):
    """An observer that also gets each result of a run."""

    def result(self, result: Result, done: int, planned: int | None) -> None:
        """A check has its verdict. done counts them; planned is None where the plan is unknown."""


class SilentRun(Silent):
    """An observer of a run that shows nothing."""

    def result(self, result: Result, done: int, planned: int | None) -> None:
        pass


class Recorder(Protocol):
    """Writes what the suite prints to the run's raw/ as it comes; no content makes it raise."""

    @property
    def has_output(self) -> bool:
        """Whether any output in the suite's own format has arrived."""

    def take(self, data: bytes) -> None: ...

    def take_stderr(self, data: bytes) -> None: ...


class Suite(Protocol):
    """A program that runs in the machine as root, and how its output is kept and read."""

    name: str
    title: str
    version: str
    needs: tuple[str, ...]  # the bootstrap steps that it requires
    programs: Mapping[str, str]  # what it starts in the machine, and the bootstrap step that brings each
    takes_arguments: bool  # whether argv() passes on the runtime's; else a script in the machine gives it them
    longest: float  # seconds that it may take where nobody sets limits.suite; 0: the setting's default

    def program(self) -> bytes:
        """The file to put on the machine."""

    def file_name(self) -> str: ...

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        """The command that runs it there; program is the path it has there. With ATTACHED it ends with its stdin."""

    def names(self) -> list[str]:
        """Its checks or programs, as a selection names them."""

    def listing(self, program: str, runtime: str) -> list[str] | None:
        """The command that lists them in the machine, one a line; None where names() has them all."""

    def check(self, selection: Selection) -> None:
        """Raises UsageError where the selection asks for what the suite does not have or cannot do."""

    def needs_reset(self, selection: Selection) -> bool:
        """Whether the machine has to be reset after this."""

    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> AbstractContextManager[Recorder]:
        """Write what the suite prints into the directory raw as it comes, and pass on each result once it is known."""

    def recognizes(self, raw: Path) -> bool:
        """Whether the directory has raw output of this suite."""

    def knows_facts(self, raw: Path) -> bool:
        """Whether the output in the directory says itself what it is about, so that its name tells nothing more."""

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        """Read the raw output in a directory: a run's or a recording, complete or not.

        known are facts that the directory may lack; they go before what it says itself. meant is what was to be there.
        UsageError, naming the file, where it is damaged.
        """


@runtime_checkable
class OfTests(Protocol):
    """A suite whose programs can run one of their tests alone."""

    def word(self, result: Result) -> str:
        """What --only calls that which the result is about."""


@runtime_checkable
class OfEngines(Protocol):
    """A suite that is about what uses a runtime; engine is its name, empty while none is chosen. brings: words for the
    programs that are built and sent for that (labkit/subjects/programs).
    """

    engine: str
    brings: tuple[str, ...]

    def of_engine(self, name: str) -> Suite:
        """The suite for the engine of this name; UsageError."""

    def with_programs(self, paths: Sequence[str]) -> Suite:
        """The suite with what its engine brings, by the paths in the machine."""


@runtime_checkable
class OfRegistries(Protocol):
    """A suite whose subject is a registry, and no runtime. upstream: the program that it runs, as its setting names it
    where nobody has set that (labkit/subjects/programs).
    """

    upstream: str

    def over(self, registry: Runtime, upstream: str, environ: Mapping[str, str]) -> Suite:
        """The suite for a registry, with the path of its upstream program in the machine; environ: this process's, of
        which a registry that runs elsewhere is told who asks. UsageError where it cannot be started.
        """

    @property
    def stdin(self) -> bytes:
        """What its program reads first: what no command line may have."""


@runtime_checkable
class OfProgramme(Protocol):
    """A suite for which there is a programme that takes claims, in a form of its own. specification: what it holds to;
    note: whose that programme is, and that a claim of labkit's is none of its certificates.
    """

    specification: str
    note: str

    def form(self, run: Run, product: Mapping[str, str], raw: Mapping[str, bytes]) -> tuple[str, Mapping[str, bytes]]:
        """The folder of that form, below the claim's, and what of the raw output is in it, beside README.md and
        PRODUCT.yaml; product: the keys of PRODUCT.yaml, raw: the run's raw output by name. Empty where the run has not
        got what the form takes.
        """

    def misses(self, run: Run, product: Mapping[str, str], raw: Mapping[str, bytes]) -> Sequence[str]:
        """Why who reviews such claims would not take this one, as far as that can be told; a sentence each."""


class Capped:
    """A file of bounded size, for data from an untrusted machine; what exceeds the limit is dropped, and its last line
    says so.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._file = path.open("wb", buffering=0)
        self._left = limit
        self._dropped = 0

    def write(self, data: bytes) -> None:
        piece = data[: self._left]
        self._left -= len(piece)
        self._dropped += len(data) - len(piece)
        self._file.write(piece)

    def __enter__(self) -> Capped:
        return self

    def __exit__(self, *_: object) -> None:
        if self._dropped:
            self._file.write(f"\n# labkit: {self._dropped} more bytes are left out\n".encode())
        self._file.close()

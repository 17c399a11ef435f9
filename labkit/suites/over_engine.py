"""What the suites that use an engine have in common: a program that runs in the machine and prints lines of JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.core.text import count, some
from labkit.guest.pyz import pyz
from labkit.io.files import regular_inside
from labkit.results.model import Result
from labkit.subjects import engines
from labkit.suites import subset
from labkit.suites.base import ATTACHED, Capped, OnResult
from labkit.suites.subset import Subset

ENDING = ".jsonl"
LIMIT = 64 << 20  # bytes of output that are read; the spy's record has a quarter of it
_ERRORS_LIMIT = 1 << 20


class OverEngine:
    """packages are the guest's that the program is made of, the first of which starts; flag is its own for the engine,
    output the file below raw/, lacking what to say where no engine is named, several what more than one file is.
    """

    name: str
    packages: ClassVar[tuple[str, ...]]
    archive: ClassVar[str]
    flag: ClassVar[str]
    output: ClassVar[str]
    lacking: ClassVar[tuple[str, str]]
    several: ClassVar[str]
    takes_arguments = True
    longest = 0.0

    def __init__(self, engine: engines.Engine | None = None, paths: Sequence[str] = ()) -> None:
        self._engine, self._paths = engine, paths
        self.engine = engine.name if engine else ""
        self.needs: tuple[str, ...] = engine.steps if engine else ()
        self.brings: tuple[str, ...] = engine.brings if engine else ()
        self.programs: Mapping[str, str] = MappingProxyType({"python3": "python", "busybox": "busybox"})

    def names(self) -> list[str]:
        raise NotImplementedError

    def is_output(self, path: Path) -> bool:
        """Whether the file is output of this suite."""
        raise NotImplementedError

    def of_engine(self, name: str) -> Self:
        return type(self)(engines.require(name, self.name))

    def with_programs(self, paths: Sequence[str]) -> Self:
        return type(self)(self._engine, paths)

    def file_name(self) -> str:
        return self.archive

    def program(self) -> bytes:
        return pyz(*self.packages)

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        assert self._engine is not None  # see check()
        words = ["python3", program, *ATTACHED, self.flag, self._engine.name, "--runtime", runtime]
        words += [f"--runtime-arg={word}" for word in selection.runtime_args]
        words += [f"--program={path}" for path in self._paths]
        if selection.only or selection.skip:
            words += ["--only", ",".join(subset.of(self.name, "check", selection, self.names()))]
        return words

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return None

    def check(self, selection: Selection) -> None:
        if self._engine is None:
            what, more = self.lacking
            raise UsageError(what, hint=f"known: {', '.join(engines.usable(self.name))}; {more}")
        given = {
            "--repeat": selection.repeat,
            "--limit": selection.timeout,
            "--spec": selection.spec,
            "--user": selection.user,
        }
        for flag, value in given.items():
            if value:
                raise UsageError(f"the {self.name} suite does not take {flag}")
        subset.of(self.name, "check", selection, self.names())

    def needs_reset(self, selection: Selection) -> bool:
        return False

    @contextlib.contextmanager
    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> Iterator[_Recorder]:
        errors = f"{Path(self.output).stem}.err"
        with Capped(raw / self.output, LIMIT) as out, Capped(raw / errors, _ERRORS_LIMIT) as err:
            yield _Recorder(out, err)

    def _outputs(self, raw: Path) -> list[Path]:
        found = (regular_inside(raw, path.name) for path in sorted(raw.glob(f"*{ENDING}")) if path.name[0] != ".")
        return [path for path in found if path is not None and self.is_output(path)]

    def recognizes(self, raw: Path) -> bool:
        return bool(self._outputs(raw))

    def data(self, raw: Path) -> bytes:
        """The output in a directory, a byte more than LIMIT at most; empty where there is none, UsageError where there
        are several.
        """
        found = self._outputs(raw)
        if len(found) > 1:
            what, names = self.several.format(len(found)), some(path.name for path in found)
            raise UsageError(f"{raw} has {what}: {names}", hint="judge each")
        if not found:
            return b""
        with found[0].open("rb") as file:
            return file.read(LIMIT + 1)

    def knows_facts(self, raw: Path) -> bool:
        return True

    def chosen(self, results: tuple[Result, ...], meant: Subset) -> tuple[tuple[Result, ...], tuple[str, ...]]:
        """The results that were meant, and what to tell of the others."""
        if not meant.is_subset:
            return results, ()
        ids = subset.of(self.name, "check", meant, self.names())
        left_out = count(len(results) - len(ids), "check")
        return tuple(result for result in results if result.id in ids), (f"left out, as was said: {left_out}",)


class _Recorder:
    def __init__(self, out: Capped, err: Capped) -> None:
        self.has_output = False
        self.take_stderr = err.write
        self._out = out

    def take(self, data: bytes) -> None:
        self._out.write(data)
        self.has_output = self.has_output or bool(data)

"""The image suite: what converters and builders of OCI images make of images that labkit.guest.images gives them in the
machine. Judged here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.core.text import count, some
from labkit.guest.pyz import pyz
from labkit.io.files import regular_inside
from labkit.results.images import events, judge
from labkit.results.model import Reading
from labkit.subjects import engines
from labkit.suites import subset
from labkit.suites.base import ATTACHED, Capped, OnResult, Suite
from labkit.suites.facts import settled
from labkit.suites.subset import ALL, Subset

FILE = "image.jsonl"
LIMIT = 64 << 20  # bytes of output that are read
_HEAD = 1 << 20  # of which the first event is in the first bytes
_ERRORS_LIMIT = 1 << 20


class Image:
    name = "image"
    title = "what converters make of images, and builders write: configuration, layers, layouts"
    version = "1.0.0"

    def __init__(self, engine: engines.Engine | None = None) -> None:
        self._engine = engine
        self.engine = engine.name if engine else ""
        self.needs: tuple[str, ...] = engine.steps if engine else ()
        self.programs: Mapping[str, str] = MappingProxyType({"python3": "python", "busybox": "busybox"})

    takes_arguments = True

    def of_engine(self, name: str) -> Suite:
        return Image(engines.require(name, self.name))

    def file_name(self) -> str:
        return "labkit-images.pyz"

    def program(self) -> bytes:
        return pyz("images", "engines", "spy")

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        assert self._engine is not None  # see check()
        words = ["python3", program, *ATTACHED, "--converter", self._engine.name, "--runtime", runtime]
        words += [f"--runtime-arg={word}" for word in selection.runtime_args]
        if selection.only or selection.skip:
            words += ["--only", ",".join(subset.of(self.name, "check", selection, self.names()))]
        return words

    def names(self) -> list[str]:
        return [*judge.table()]

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return None

    def check(self, selection: Selection) -> None:
        if self._engine is None:
            raise UsageError(
                "--suite image needs --engine: what converts the images",
                hint=f"known: {', '.join(engines.usable(self.name))}; its output is judged by ./lab judge FILE.jsonl",
            )
        given = {
            "--repeat": selection.repeat,
            "--limit": selection.timeout,
            "--spec": selection.spec,
            "--user": selection.user,
        }
        for flag, value in given.items():
            if value:
                raise UsageError(f"the image suite does not take {flag}")
        subset.of(self.name, "check", selection, self.names())

    def needs_reset(self, selection: Selection) -> bool:
        return False

    @contextlib.contextmanager
    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> Iterator[_Recorder]:
        with Capped(raw / FILE, LIMIT) as out, Capped(raw / "image.err", _ERRORS_LIMIT) as err:
            yield _Recorder(out, err)

    def recognizes(self, raw: Path) -> bool:
        return bool(_records(raw))

    def knows_facts(self, raw: Path) -> bool:
        return True

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        found = _records(raw)
        if len(found) > 1:
            names = some(path.name for path in found)
            raise UsageError(f"{raw} has the output of {len(found)} converters: {names}", hint="judge each")
        data = b""
        if found:
            with found[0].open("rb") as file:
                data = file.read(LIMIT + 1)
        output = events.read(data[:LIMIT])
        facts, told = settled(output.facts, known or {})
        results = judge.judge(output)
        reasons = [output.reason, f"more than {LIMIT >> 20} MiB of output" if len(data) > LIMIT else None]
        if not _runs(output.facts.get("engine", "")):
            told = (*told, f"{output.facts['engine']} runs no container: no runtime has a part in this")
        if meant.is_subset:
            ids = subset.of(self.name, "check", meant, self.names())
            told = (*told, f"left out, as was said: {count(len(results) - len(ids), 'check')}")
            results = tuple(result for result in results if result.id in ids)
        return Reading(results, facts, "; ".join(filter(None, reasons)) or None, told=told)


def _runs(engine: str) -> bool:
    """Whether it runs containers; what is not known may."""
    return engine not in engines.names() or "engine" in engines.find(engine).suites


def _records(raw: Path) -> list[Path]:
    """The files in a directory that are output of labkit-images."""
    found = (regular_inside(raw, path.name) for path in sorted(raw.glob("*.jsonl")) if path.name[0] != ".")
    return [path for path in found if path is not None and is_record(path)]


def is_record(path: Path) -> bool:
    """Whether the file begins as labkit-images' output does."""
    with path.open("rb") as file:
        return events.is_one(file.read(_HEAD))


class _Recorder:
    def __init__(self, out: Capped, err: Capped) -> None:
        self.has_output = False
        self.take_stderr = err.write
        self._out = out

    def take(self, data: bytes) -> None:
        self._out.write(data)
        self.has_output = self.has_output or bool(data)


SUITE: Suite = Image()

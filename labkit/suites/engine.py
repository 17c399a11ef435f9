"""The engine suite: an engine over a runtime, used by labkit.guest.engines in the machine; or a record of calls that
labkit's spy, or another, has made. Judged here.
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
from labkit.results.caller import calls
from labkit.results.caller.judge import Profile, judge, table
from labkit.results.engines import events, faults, report, swap
from labkit.results.engines.outcomes import with_log
from labkit.results.model import Reading, Result
from labkit.subjects import engines
from labkit.suites import subset
from labkit.suites.base import ATTACHED, Capped, OnResult, Suite
from labkit.suites.facts import settled
from labkit.suites.subset import ALL, Subset

ENDING = ".jsonl"
FILE = f"calls{ENDING}"  # what a record of calls is called that is judged alone
LIMIT = 64 << 20  # bytes of a record that are read; the spy's has a quarter of it
_HEAD = 4 << 20  # of which one call must be in the first bytes
_ERRORS_LIMIT = 1 << 20
PROFILE = "profile"  # the fact that says what callers are held to


_OUTPUT = "engine.jsonl"
_REFERENCE = "runc"


class Engine:
    name = "engine"
    title = "what uses a runtime: its calls, and whether another runtime can be put under it"
    version = "1.0.0"

    def __init__(self, engine: engines.Engine | None = None) -> None:
        self._engine = engine
        self.engine = engine.name if engine else ""
        self.needs: tuple[str, ...] = engine.steps if engine else ()
        self.programs: Mapping[str, str] = MappingProxyType({"python3": "python", "busybox": "busybox"})

    takes_arguments = True

    def of_engine(self, name: str) -> Suite:
        return Engine(engines.require(name, self.name))

    def file_name(self) -> str:
        return "labkit-engine.pyz"

    def program(self) -> bytes:
        return pyz("engines", "spy")

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        assert self._engine is not None  # see check()
        words = ["python3", program, *ATTACHED, "--engine", self._engine.name, "--runtime", runtime]
        words += [f"--runtime-arg={word}" for word in selection.runtime_args]
        if selection.only or selection.skip:
            words += ["--only", ",".join(subset.of(self.name, "check", selection, self.names()))]
        return words + (["--reference", _REFERENCE] if selection.reference != "" else [])

    def names(self) -> list[str]:
        return [*table(), *report.NAMES, *swap.NAMES, *faults.NAMES]

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return None

    def check(self, selection: Selection) -> None:
        if self._engine is None:
            raise UsageError(
                "--suite engine needs --engine",
                hint=f"{_known()}; a record of calls is judged by ./lab judge FILE.jsonl",
            )
        given = {
            "--repeat": selection.repeat,
            "--limit": selection.timeout,
            "--spec": selection.spec,
            "--user": selection.user,
        }
        for flag, value in given.items():
            if value:
                raise UsageError(f"the engine suite does not take {flag}")
        subset.of(self.name, "check", selection, self.names())

    def needs_reset(self, selection: Selection) -> bool:
        return False

    @contextlib.contextmanager
    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> Iterator[_Recorder]:
        with Capped(raw / _OUTPUT, LIMIT) as out, Capped(raw / "engine.err", _ERRORS_LIMIT) as err:
            yield _Recorder(out, err)

    def recognizes(self, raw: Path) -> bool:
        return bool(_records(raw))

    def knows_facts(self, raw: Path) -> bool:
        return True

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        found = _records(raw)
        if len(found) > 1:
            names = some(path.name for path in found)
            raise UsageError(f"{raw} has {len(found)} records of calls: {names}", hint="judge each")
        data = b""
        if found:
            with found[0].open("rb") as file:
                data = file.read(LIMIT + 1)
        output = events.read(data[:LIMIT]) if events.is_one(data) else None
        record = calls.read(_calls(output) if output else data[:LIMIT])
        facts = dict(known or {})
        profile = Profile(facts.pop(PROFILE, "") or Profile.PRACTICE)
        runtimes = {call.runtime for call in record.calls if call.runtime}
        said = {"runtime-path": runtimes.pop()} if len(runtimes) == 1 else {}
        settled_facts, told = settled(output.facts if output else said, facts)
        results = judge(record, profile)
        if output:
            swapped = swap.judge(output)
            seen = (*report.judge(output, record.calls), *swapped, *faults.judge(output))
            results = (*results, *with_log(seen, output))
            told = (*told, *_swapped(output, swapped))
            if output.only:
                results = tuple(result for result in results if result.id in output.only)
        reasons = [
            output.reason if output else None,
            record.reason,
            f"more than {LIMIT >> 20} MiB of calls" if len(data) > LIMIT else None,
        ]
        told = (*record.told, f"held to {profile}: {_HELD[profile]}", *told)
        if meant.is_subset:
            ids = subset.of(self.name, "check", meant, self.names())
            told = (*told, f"left out, as was said: {count(len(results) - len(ids), 'check')}")
            results = tuple(result for result in results if result.id in ids)
        return Reading(results, settled_facts, "; ".join(filter(None, reasons)) or None, told=told)


def _known() -> str:
    return "known: " + ", ".join(engines.usable("engine"))


def _calls(output: events.Events) -> bytes:
    """The record of the calls over the runtime under test."""
    return output.sessions[events.RUNTIME].calls if events.RUNTIME in output.sessions else b""


def _swapped(output: events.Events, results: Sequence[Result]) -> list[str]:
    if not results:
        return []
    engine = " ".join(filter(None, (output.facts.get("engine"), output.facts.get("engine-version"))))
    reference = output.facts.get("reference-path")
    beside = f", compared with {reference}" if reference else ""
    return [f"{engine} over {output.facts.get('runtime-version', 'the runtime')}: {swap.word(results)}{beside}"]


_HELD = {
    Profile.PRACTICE: "what the document lacks and all callers use is told; --profile document fails it",
    Profile.DOCUMENT: "what the document lacks fails; --profile practice tells what all callers use",
}


def _records(raw: Path) -> list[Path]:
    """The files in a directory that are records of calls."""
    found = (regular_inside(raw, path.name) for path in sorted(raw.glob(f"*{ENDING}")) if path.name[0] != ".")
    return [path for path in found if path is not None and is_record(path)]


def is_record(path: Path) -> bool:
    """Whether the file has a call in it, near its beginning."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return events.is_one(head) or calls.is_record(head)


class _Recorder:
    def __init__(self, out: Capped, err: Capped) -> None:
        self.has_output = False
        self.take_stderr = err.write
        self._out = out

    def take(self, data: bytes) -> None:
        self._out.write(data)
        self.has_output = self.has_output or bool(data)


SUITE: Suite = Engine()

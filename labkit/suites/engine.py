"""The engine suite: what calls a runtime, judged from a record of its calls, of labkit's spy or of another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.core.text import count, some
from labkit.guest.spy import install
from labkit.io.files import regular_inside
from labkit.results.caller import calls
from labkit.results.caller.judge import Profile, judge, table
from labkit.results.model import Reading
from labkit.suites import subset
from labkit.suites.base import Capped, OnResult, Suite
from labkit.suites.facts import settled
from labkit.suites.subset import ALL, Subset

ENDING = ".jsonl"
LIMIT = 64 << 20  # bytes of a record that are read; the spy's has a quarter of it
_HEAD = 4 << 20  # of which one call must be in the first bytes
_ERRORS_LIMIT = 1 << 20
PROFILE = "profile"  # the fact that says what callers are held to


class Engine:
    name = "engine"
    title = "labkit's checks of what calls a runtime, by the OCI Runtime Command Line Interface 1.0.1"
    version = "1.0.0"
    needs: tuple[str, ...] = ()
    programs: Mapping[str, str] = MappingProxyType({"python3": "python"})

    def file_name(self) -> str:
        return "labkit-spy"

    def program(self) -> bytes:
        return install.program()

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        raise _not_run()

    def names(self) -> list[str]:
        return list(table())

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return None

    def check(self, selection: Selection) -> None:
        raise _not_run()

    def needs_reset(self, selection: Selection) -> bool:
        return True

    @contextlib.contextmanager
    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> Iterator[_Recorder]:
        with Capped(raw / f"calls{ENDING}", LIMIT) as out, Capped(raw / "calls.err", _ERRORS_LIMIT) as err:
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
        record = calls.read(data[:LIMIT])
        facts = dict(known or {})
        profile = Profile(facts.pop(PROFILE, "") or Profile.PRACTICE)
        runtimes = {call.runtime for call in record.calls if call.runtime}
        settled_facts, told = settled({"runtime-path": runtimes.pop()} if len(runtimes) == 1 else {}, facts)
        results = judge(record, profile)
        reasons = [record.reason, f"more than {LIMIT >> 20} MiB of calls" if len(data) > LIMIT else None]
        told = (*record.told, f"held to {profile}: {_HELD[profile]}", *told)
        if meant.is_subset:
            ids = subset.of(self.name, "check", meant, self.names())
            told = (*told, f"left out, as was said: {count(len(results) - len(ids), 'check')}")
            results = tuple(result for result in results if result.id in ids)
        return Reading(results, settled_facts, "; ".join(filter(None, reasons)) or None, told=told)


_HELD = {
    Profile.PRACTICE: "what the document lacks and all callers use is told; --profile document fails it",
    Profile.DOCUMENT: "what the document lacks fails; --profile practice tells what all callers use",
}


def _not_run() -> UsageError:
    return UsageError("the engine suite judges a record of calls", hint="./lab judge FILE.jsonl")


def _records(raw: Path) -> list[Path]:
    """The files in a directory that are records of calls."""
    found = (regular_inside(raw, path.name) for path in sorted(raw.glob(f"*{ENDING}")) if path.name[0] != ".")
    return [path for path in found if path is not None and is_record(path)]


def is_record(path: Path) -> bool:
    """Whether the file has a call in it, near its beginning."""
    with path.open("rb") as file:
        return calls.is_record(file.read(_HEAD))


class _Recorder:
    def __init__(self, out: Capped, err: Capped) -> None:
        self.has_output = False
        self.take_stderr = err.write
        self._out = out

    def take(self, data: bytes) -> None:
        self._out.write(data)
        self.has_output = self.has_output or bool(data)


SUITE: Suite = Engine()

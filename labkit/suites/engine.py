"""The engine suite: an engine over a runtime, used by labkit.guest.engines in the machine; or a record of calls that
labkit's spy, or another, has made. Judged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.core.cell import Selection
from labkit.results.caller import calls
from labkit.results.caller.judge import Profile, judge, table
from labkit.results.engines import events, faults, report, swap
from labkit.results.engines.outcomes import with_log
from labkit.results.model import Reading, Result
from labkit.suites.base import Suite
from labkit.suites.facts import settled
from labkit.suites.over_engine import ENDING, LIMIT, OverEngine
from labkit.suites.subset import ALL, Subset

FILE = f"calls{ENDING}"  # what a record of calls is called that is judged alone
_HEAD = 4 << 20  # of which one call must be in the first bytes
PROFILE = "profile"  # the fact that says what callers are held to


_REFERENCE = "runc"


class Engine(OverEngine):
    name = "engine"
    title = "what uses a runtime: its calls, and whether another runtime can be put under it"
    version = "1.0.0"
    packages = ("engines", "spy")
    archive = "labkit-engine.pyz"
    flag = "--engine"
    output = "engine.jsonl"
    several = "{} records of calls"
    lacking = ("--suite engine needs --engine", "a record of calls is judged by ./lab judge FILE.jsonl")

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        words = super().argv(program, runtime, selection)
        return words + (["--reference", _REFERENCE] if selection.reference != "" else [])

    def names(self) -> list[str]:
        return [*table(), *report.NAMES, *swap.NAMES, *faults.NAMES]

    def is_output(self, path: Path) -> bool:
        return is_record(path)

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        data = self.data(raw)
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
        results, left_out = self.chosen(results, meant)
        return Reading(results, settled_facts, "; ".join(filter(None, reasons)) or None, told=(*told, *left_out))


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


def is_record(path: Path) -> bool:
    """Whether the file has a call in it, near its beginning."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return events.is_one(head) or calls.is_record(head)


SUITE: Suite = Engine()

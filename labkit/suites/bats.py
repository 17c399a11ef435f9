"""The bats suite: runc's integration tests, which run any runtime that RUNC= names. A program is a file of tests.

Rootless where a user is named, under systemd where the runtime's arguments have --systemd-cgroup: the tests add that to
each command themselves, once they are told with RUNC_USE_SYSTEMD.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.core.text import count, some
from labkit.guest.programs.bats import SYSTEMD, slug
from labkit.results.model import Reading, Result
from labkit.suites import recordings, users
from labkit.suites.base import ATTACHED, Suite
from labkit.suites.recordings import RunFile
from labkit.suites.subset import ALL, Subset
from labkit.suites.validation import Validation

_TREE = "/opt/labkit/src/runc-tests"  # in the machine: built there by bootstrap


class Bats(Validation):
    name = "bats"
    title = "runc's integration tests, for any runtime"
    needs: tuple[str, ...] = ("runc-tests", "toolchain")
    programs: Mapping[str, str] = MappingProxyType({"python3": "python", "bats": "bats", "jq": "jq"})
    takes_arguments = True
    longest = 4 * 3600.0  # 349 tests, each of some seconds on a machine of User-Mode Linux
    alone = False

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        words = ["python3", program, *ATTACHED, "--set", "bats", "--tree", _TREE, "--runtime", runtime]
        words += [f"--runtime-arg={word}" for word in selection.runtime_args]
        only, skip = ",".join(selection.only), ",".join(selection.skip)
        flags = {"only": only, "leave-out": skip, "jobs": selection.jobs, "repeat": selection.repeat}
        flags["user"] = selection.user
        for flag, value in flags.items():
            words += [f"--{flag}", str(value)] if value else []
        return words + (["--timeout", f"{selection.timeout:g}"] if selection.timeout else [])

    def names(self) -> list[str]:
        return []  # which files and tests there are, the tree in the machine knows

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return [*self.argv(program, runtime, Selection()), "--list-files"]

    def check(self, selection: Selection) -> None:
        users.check(selection.user)
        if selection.spec:
            raise UsageError("the bats suite does not take --spec; --suite spec does")
        if selection.user and SYSTEMD in selection.runtime_args:
            raise UsageError(
                f"--user and {SYSTEMD} together need a session of the user's own, which the machine does not make",
                hint="leave one of them out",
            )

    def needs_reset(self, selection: Selection) -> bool:
        return SYSTEMD in selection.runtime_args  # units and processes that tests leave are the machine's

    def recognizes(self, raw: Path) -> bool:
        kept = recordings.read_run(raw)
        return kept is not None and kept.facts.get("set") == self.name

    def _has(self, name: str, kept: RunFile | None) -> bool:
        return True

    def word(self, result: Result) -> str:
        return result.program if result.whole else f"{result.program}:{slug(result.name)}"

    def expected(
        self, kept: RunFile | None, facts: Mapping[str, str], found: Collection[str], meant: Subset
    ) -> tuple[Sequence[str], str]:
        return (kept.programs if kept and kept.programs else meant.programs or tuple(found)), ""

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        reading = super().read(raw, known, meant)
        kept = recordings.read_run(raw)
        there = {(result.program, result.name.strip()) for result in reading.results}
        tests = kept.tests if kept else {}
        lost = [
            f"{file}:{test}" for file, names in tests.items() for test in names if (file, test.strip()) not in there
        ]
        reading = replace(reading, tests=tests)
        if not lost:
            return reading
        why = f"{count(len(lost), 'test')} not run: {some(lost)}"
        return replace(reading, reason="; ".join(filter(None, [reading.reason, why])))


SUITE: Suite = Bats()

"""The spec suite: labkit's own checks of runtime-spec requirements, as a zipapp of the package labkit_spec."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from labkit import results, tap
from labkit.errors import UsageError
from labkit.pyz import pyz
from labkit.suites import labkit_spec
from labkit.words import did_you_mean

_FOLDER = Path(labkit_spec.__file__).parent


class Spec:
    name = "spec"
    title = "labkit's conformance suite for the OCI runtime-spec 1.0 to 1.3"
    version = labkit_spec.__version__

    def file_name(self) -> str:
        return "labkit-spec.pyz"

    def program(self) -> bytes:
        return pyz(_FOLDER)

    def argv(self, program: str, runtime: str, only: Sequence[str], jobs: int | None) -> list[str]:
        words = ["python3", program, "--runtime", runtime]
        words += ["--only", ",".join(only)] if only else []
        return words + (["--jobs", str(jobs)] if jobs else [])

    def check(self, only: Sequence[str]) -> None:
        with (_FOLDER / "requirements.tsv").open(newline="") as file:
            known = [row["id"] for row in csv.DictReader(file, delimiter="\t")]
        for ident in only:
            if ident not in known:
                raise UsageError(
                    f"the spec suite has no check {ident!r}{did_you_mean(ident, known)}", hint="./lab suites"
                )

    def read(self, events: Iterable[tap.Event]) -> results.Reading:
        return results.from_tap(events)


SUITE = Spec()

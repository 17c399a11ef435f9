"""The spec suite: labkit's own checks of runtime-spec requirements, as a zipapp of the package labkit_spec."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from labkit import results, tap
from labkit.errors import UsageError
from labkit.suites import labkit_spec
from labkit.words import did_you_mean

_FOLDER = Path(labkit_spec.__file__).parent
_MAIN = "import sys\n\nfrom labkit_spec.main import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes


class Spec:
    name = "spec"
    title = "labkit's conformance suite for the OCI runtime-spec 1.0 to 1.3"
    version = labkit_spec.__version__
    needs: tuple[str, ...] = ()

    def file_name(self) -> str:
        return "labkit-spec.pyz"

    def program(self) -> bytes:
        out = io.BytesIO(b"#!/usr/bin/env python3\n")
        out.seek(0, io.SEEK_END)
        with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_entry("__main__.py"), _MAIN)
            for file in sorted(_FOLDER.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    name = f"labkit_spec/{file.relative_to(_FOLDER).as_posix()}"
                    archive.writestr(_entry(name), file.read_bytes())
        return out.getvalue()

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


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


SUITE = Spec()

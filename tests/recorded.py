"""The recorded runs of tests/recordings, unpacked for as long as this process lives."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

_directory = tempfile.TemporaryDirectory(prefix="labkit-recordings-")  # removed with this process

for _archive in sorted((Path(__file__).parent / "recordings").glob("*.tar.xz")):
    with tarfile.open(_archive) as _recording:
        # As the filter argument, which Python 3.11 has since 3.11.4 only.
        _recording.extraction_filter = getattr(tarfile, "data_filter", None)
        _recording.extractall(_directory.name)

RECORDINGS = {path.name.partition("-")[0]: path for path in Path(_directory.name).iterdir()}  # by ref
V1, V2 = RECORDINGS["master"], RECORDINGS["v0.9.0"]  # of cgroups

CASES = Path(__file__).parent / "recordings/cases"  # small files of others, in dialects of their own

# Output as the programs of others print it, by dialect.
DIALECTS = {path.stem: path.read_bytes() for path in sorted((CASES.parent / "dialects").glob("*.tap"))}

"""The recorded runs of tests/recordings, unpacked for as long as this process lives."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

_folder = tempfile.TemporaryDirectory(prefix="labkit-recordings-")  # removed with this process

for _archive in sorted((Path(__file__).parent / "recordings").glob("*.tar.xz")):
    with tarfile.open(_archive) as _recording:
        _recording.extractall(_folder.name, filter="data")

RECORDINGS = {path.name.partition("-")[0]: path for path in Path(_folder.name).iterdir()}  # by ref
V1, V2 = RECORDINGS["master"], RECORDINGS["v0.9.0"]  # of cgroups

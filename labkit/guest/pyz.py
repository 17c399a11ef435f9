"""A guest program as one file: Python starts a zip archive that has a __main__.py."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_GUEST = Path(__file__).parent
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes


def pyz(name: str, *others: str) -> bytes:
    """The program labkit.guest.NAME, which has a function main in its module main, as an executable archive.

    It holds that package, the others that it names and what the programs share, under the names that they have here.
    """
    main = f"import sys\n\nfrom labkit.guest.{name}.main import main\n\nsys.exit(main())\n"
    out = io.BytesIO(b"#!/usr/bin/env python3\n")
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry("__main__.py"), main)
        for package in ("labkit", "labkit/guest"):
            archive.writestr(_entry(f"{package}/__init__.py"), "")
        for package in ("common", *others, name):
            for file in sorted((_GUEST / package).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.writestr(_entry(f"labkit/guest/{file.relative_to(_GUEST).as_posix()}"), file.read_bytes())
    return out.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry

"""The NoCloud seed of a cloud image's first boot; apart from build.py because only that boot needs its library."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pycdlib


def write_iso(path: Path, user_data: str, meta_data: str, sources: Mapping[str, Path]) -> None:
    """Write a NoCloud seed: an ISO 9660 image labelled cidata with cloud-init's two files.

    sources is name to file; they come into its directory sources.
    """
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in (("user-data", user_data), ("meta-data", meta_data)):
        data = text.encode()
        short = name.replace("-", "").upper()[:8]
        image.add_fp(io.BytesIO(data), len(data), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
    if sources:
        image.add_directory("/SOURCES", rr_name="sources", joliet_path="/sources")
    for number, (name, file) in enumerate(sources.items()):
        image.add_file(str(file), f"/SOURCES/{number}.;1", rr_name=name, joliet_path=f"/sources/{name[:64]}")
    image.write(str(path))
    image.close()

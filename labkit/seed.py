"""The NoCloud seed of a cloud image's first boot; apart from images.py because only that boot needs its library."""

from __future__ import annotations

import io

import pycdlib


def seed_iso(user_data: str, meta_data: str) -> bytes:
    """A NoCloud seed: an ISO 9660 image labelled cidata with cloud-init's two files."""
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in (("user-data", user_data), ("meta-data", meta_data)):
        data = text.encode()
        short = name.replace("-", "").upper()[:8]
        image.add_fp(io.BytesIO(data), len(data), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
    out = io.BytesIO()
    image.write_fp(out)
    image.close()
    return out.getvalue()

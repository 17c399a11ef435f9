"""Whole output of labkit-images, recorded on real machines: tests/recordings/image-runs/CONVERTER.jsonl.xz."""

from __future__ import annotations

import lzma
from pathlib import Path

PLACE = Path(__file__).parent / "recordings/image-runs"
RUNS = {path.name.removesuffix(".jsonl.xz"): lzma.decompress(path.read_bytes()) for path in PLACE.glob("*.jsonl.xz")}

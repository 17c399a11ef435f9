"""Whole output of labkit-engine, recorded on real machines: tests/recordings/engine-runs/ENGINE-RUNTIME.jsonl.xz."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parent / "recordings/engine-runs"
RUNS = {path.name.removesuffix(".jsonl.xz"): lzma.decompress(path.read_bytes()) for path in PLACE.glob("*.jsonl.xz")}

Event = dict[str, Any]


def changed(data: bytes, change: Callable[[Event], None]) -> bytes:
    """The output with every event changed."""
    lines = []
    for line in data.splitlines():
        event = json.loads(line)
        change(event)
        lines.append(json.dumps(event))
    return "\n".join(lines).encode() + b"\n"

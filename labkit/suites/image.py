"""The image suite: what converters and builders of OCI images make of images that labkit.guest.images gives them in the
machine. Judged here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from labkit.results.images import events, judge
from labkit.results.model import Reading
from labkit.subjects import engines
from labkit.suites.base import Suite
from labkit.suites.facts import settled
from labkit.suites.over_engine import LIMIT, OverEngine
from labkit.suites.subset import ALL, Subset

FILE = "image.jsonl"
_HEAD = 1 << 20  # of which the first event is in the first bytes


class Image(OverEngine):
    name = "image"
    title = "what converters make of images, and builders write: configuration, layers, layouts"
    version = "1.0.0"
    packages = ("images", "engines", "spy")
    archive = "labkit-images.pyz"
    flag = "--converter"
    output = FILE
    several = "the output of {} converters"
    lacking = (
        "--suite image needs --engine: what converts the images",
        "its output is judged by ./lab judge FILE.jsonl",
    )

    def names(self) -> list[str]:
        return [*judge.table()]

    def is_output(self, path: Path) -> bool:
        return is_record(path)

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        data = self.data(raw)
        output = events.read(data[:LIMIT])
        facts, told = settled(output.facts, known or {})
        results = judge.judge(output)
        reasons = [output.reason, f"more than {LIMIT >> 20} MiB of output" if len(data) > LIMIT else None]
        if not _runs(output.facts.get("engine", "")):
            told = (*told, f"{output.facts['engine']} runs no container: no runtime has a part in this")
        results, left_out = self.chosen(results, meant)
        return Reading(results, facts, "; ".join(filter(None, reasons)) or None, told=(*told, *left_out))


def _runs(engine: str) -> bool:
    """Whether it runs containers; what is not known may."""
    return engine not in engines.names() or "engine" in engines.find(engine).suites


def is_record(path: Path) -> bool:
    """Whether the file begins as labkit-images' output does."""
    with path.open("rb") as file:
        return events.is_one(file.read(_HEAD))


SUITE: Suite = Image()

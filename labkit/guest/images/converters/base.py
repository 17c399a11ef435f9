"""What a converter does, in words that all share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ...common.executables import find_program
from ...common.files import remove_tree
from ...engines.base import Broken, Cannot, Done, Place
from .. import tree
from ..case import Case
from ..outside import Outside


class Conversion:
    """status is 0 where it said that it succeeded; err is what it said; config is None where it wrote none, seen where
    nothing was unpacked; command is what had to be given in place of the image's.
    """

    def __init__(
        self,
        done: Done,
        config: Optional[dict[str, Any]] = None,
        seen: Optional[tree.Seen] = None,
        command: Sequence[str] = (),
    ) -> None:
        self.command = list(command)
        self.status, self.err, self.config, self.seen = done.status, (done.err or done.out), config, seen


class Converter:
    """A program that is given an image. Every method may raise Cannot for what it has no command for."""

    name = ""
    architecture = "amd64"  # of images whose programs are not run

    def __init__(self, place: Place) -> None:
        self.place = place

    def version(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        """Start what it needs. Broken."""

    def stop(self) -> None:
        """End all that it started."""

    def convert(self, case: Case, outside: Outside) -> Conversion:
        """Convert an image; outside is told of files beside the root that must stay."""
        raise NotImplementedError

    def build(self, context: Path, layout: Path) -> Done:
        """Make an image of what builders.py writes, as a layout in a directory that is not there."""
        raise Cannot(f"{self.name} builds no images")


class Writer(Converter):
    """A program that makes a bundle of a layout, and ends."""

    program = ""
    step = ""  # of the bootstrap, which brings it

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.path = find_program(self.program) or ""
        if not self.path:
            raise Broken(f"{self.program} is not installed; the bootstrap's step {self.step} brings it")

    def argv(self, layout: Path, bundle: Path) -> list[str]:
        raise NotImplementedError

    def convert(self, case: Case, outside: Outside) -> Conversion:
        layout, bundle = self.place.data / "case/layout", self.place.data / "case/bundle"
        remove_tree(layout.parent)
        case.image(self.architecture).unpack(layout)
        bundle.mkdir()
        outside.beside.append(bundle / "labkit-kept")
        outside.beside[0].write_bytes(b"")
        done = self.place.command(self.argv(layout, bundle))
        return Conversion(done, read(bundle / "config.json"), tree.walk(bundle / "rootfs", "t"))


def read(path: Path) -> Optional[dict[str, Any]]:
    """A JSON object in a file; None where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None

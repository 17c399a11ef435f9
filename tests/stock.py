"""What the labs of all tests make their machines of: built once in a check, and linked into each lab's home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import LabError
from labkit.core.observer import Silent
from labkit.images.build import Builder, recipe
from labkit.images.raw import raw_disk
from labkit.io.files import locked
from labkit.uml import kernel
from labkit.uml.launch import probe

_LARGE = (".qcow2", ".img", "kernel", "initrd", "linux")  # ends of names: files that nothing writes to
_SLOWEST = 1800.0  # seconds for a kernel and an image


@dataclass(frozen=True, slots=True)
class Stock:
    """home: with the golden image of the default platform, and the kernel of User-Mode Linux; why_not: why machines of
    that cannot be had here, empty where they can.
    """

    home: Path
    why_not: str

    @property
    def provider(self) -> str:
        """Of machines for what is about no provider in particular."""
        return "qemu" if self.why_not else "uml"

    def give(self, home: Path, *, own: bool = False) -> None:
        """Put it into a new home; own: as files that may be damaged there, else as links to those of the stock."""
        for name in ("images", "kernels", "host"):
            if (self.home / name).exists():
                shutil.copytree(self.home / name, home / name, symlinks=True, copy_function=_copied if own else _linked)


def make(directory: Path, environ: Mapping[str, str]) -> Stock:
    """The stock in directory, whoever of several asks first."""
    directory.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in environ.items() if not name.startswith("LABKIT_")}
    settings = config.load(cwd=directory, environ={**kept, "LABKIT_HOME": str(directory)})
    with locked(directory / "stock.lock", timeout=_SLOWEST, waiting=lambda _: None, what="the stock of images"):
        answer = directory / "stock.json"
        if not answer.exists():
            why_not = _why_not(settings)
            image = Builder(settings, Silent()).ensure(recipe(settings.distro(), settings), None)
            if not why_not:
                raw_disk(image, settings.home, Silent())
            answer.write_text(json.dumps(why_not))
        return Stock(directory, json.loads(answer.read_text()))


def _why_not(settings: Settings) -> str:
    try:
        return probe(kernel.ensure(settings, Silent()), settings.home) or ""
    except LabError as error:
        return error.message


def _linked(source: str, target: str) -> str:
    if source.endswith(_LARGE):
        try:
            os.link(source, target)
        except OSError:  # on another file system
            return _copied(source, target)
        return target
    return str(shutil.copy2(source, target))


def _copied(source: str, target: str) -> str:
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)
    return target

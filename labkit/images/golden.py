"""Golden images: made once, kept under the hash of everything that goes into them.

images/KEY/{disk.qcow2, kernel, initrd, image.json, sums.json}; labkit.images.build makes them. Where one was damaged,
the next of that key is in KEY-NUMBER.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labkit.core.arch import Arch
from labkit.core.errors import ImageError
from labkit.core.home import Home
from labkit.images import sums
from labkit.qemu.hardware import Boot


@dataclass(frozen=True, slots=True)
class Image:
    directory: Path
    platform: str
    release: str
    title: str
    boot: Boot
    steps: tuple[str, ...]  # of the bootstrap
    arch: Arch = Arch.AMD64

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"


class DamagedImage(ImageError):
    """An image is there, and is not what was made."""


def find(home: Home, key: str, told: Callable[[str], None] = lambda _: None) -> Image | None:
    """The whole image of that key, if one has been made; told hears of each that is damaged.

    One that is damaged stays where it is, for disks of machines may stand on it: another is made beside it.
    """
    for directory in sorted([home.images / key, *home.images.glob(f"{key}-*")]):
        try:
            if image := exactly(home, directory.name):
                return image
        except DamagedImage as error:
            told(error.message)
    return None


def exactly(home: Home, name: str) -> Image | None:
    """The image in that directory; None where there is none. Raises DamagedImage where it is not whole any more.

    Its time says when it was last asked for, which `gc --keep` goes by.
    """
    at = home.images / name
    path = at / "image.json"
    if not at.exists():
        return None
    try:
        made = json.loads(path.read_bytes())
        about = {key: str(made[key]) for key in ("platform", "release", "title")}
        steps = tuple(map(str, made.get("steps", ())))
        arch = Arch(made.get("arch", Arch.AMD64))
    except OSError as error:
        raise damaged(name, f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(name, f"{path} cannot be read") from error
    boot = boot_of(at)
    with contextlib.suppress(OSError):
        path.touch()
    return Image(at, **about, boot=boot, steps=steps, arch=arch)


def boot_of(directory: Path) -> Boot:
    """How the image in that directory boots; image.json is not needed for it. Raises DamagedImage."""
    if why := sums.wrong(directory):
        raise damaged(directory.name, why)
    kernel = directory / "kernel"
    return Boot(kernel, directory / "initrd") if kernel.exists() else Boot()


def damaged(name: str, why: str) -> DamagedImage:
    return DamagedImage(
        f"the image {name} is damaged: {why}",
        hint="put the file back if you can: without it, machines on that image are lost (./lab destroy, then ./lab up, "
        "which makes another image)",
    )


def new_directory(home: Home, key: str) -> Path:
    """Where a new image of that key goes: never where one has been."""
    plain = home.images / key
    return plain.with_name(f"{key}-{secrets.token_hex(4)}") if plain.exists() else plain

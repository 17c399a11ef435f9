"""Golden images: made once, kept under the hash of everything that goes into them.

images/KEY/{disk.qcow2, kernel, initrd, image.json}; labkit.images.build makes them.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from labkit.core.errors import ImageError
from labkit.core.home import Home
from labkit.images import sums
from labkit.qemu.hardware import Boot


@dataclass(frozen=True, slots=True)
class Image:
    key: str
    directory: Path
    platform: str
    release: str
    title: str
    boot: Boot
    steps: tuple[str, ...]  # of the bootstrap

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"


class DamagedImage(ImageError):
    """An image is there, and is not what was made."""


def find(home: Home, key: str) -> Image | None:
    """The image of that key, if it has been made. Raises DamagedImage where it is not whole any more."""
    at = home.images / key
    path = at / "image.json"
    if not at.exists():
        return None
    try:
        made = json.loads(path.read_bytes())
        about = {name: str(made[name]) for name in ("platform", "release", "title")}
        steps = tuple(map(str, made.get("steps", ())))
    except OSError as error:
        raise damaged(key, f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(key, f"{path} cannot be read") from error
    if why := sums.wrong(at):
        raise damaged(key, why)
    boot = Boot(at / "kernel", at / "initrd") if (at / "kernel").exists() else Boot()
    return Image(key, at, **about, boot=boot, steps=steps)


def damaged(key: str, why: str) -> DamagedImage:
    return DamagedImage(
        f"the image {key} is damaged: {why}",
        hint="put the file back if you can: without it, machines on that image are lost (./lab destroy, then ./lab up, "
        "which makes the image again)",
    )


def set_aside(directory: Path) -> None:
    """Put a damaged image out of the way, so that it is made again. It stays as long as disks of machines may stand on
    it: a person may be able to mend it.
    """
    directory.rename(directory.with_name(f"{directory.name}.damaged-{secrets.token_hex(4)}"))

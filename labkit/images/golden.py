"""Golden images: made once, kept under the hash of everything that goes into them.

images/KEY/{disk.qcow2, kernel, initrd, image.json}; labkit.images.build makes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from labkit.core.home import Home
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


def find(home: Home, key: str) -> Image | None:
    """The image of that key, if it has been made; `gc` keeps what was asked for lately, by the time of image.json."""
    at = home.images / key
    try:
        made = json.loads((at / "image.json").read_text())
        (at / "image.json").touch()
    except (OSError, ValueError):
        return None
    boot = Boot(at / "kernel", at / "initrd") if (at / "kernel").exists() else Boot()
    return Image(key, at, made["platform"], made["release"], made["title"], boot, tuple(made.get("steps", ())))

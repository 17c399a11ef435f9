"""A golden image as a raw disk, which User-Mode Linux reads: made once, and shared by all machines on it.

images/KEY/raw/disk.img
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from labkit.core.errors import ImageError, ProgramFailed
from labkit.core.home import Home
from labkit.core.observer import Observer
from labkit.images import sums
from labkit.images.golden import Image
from labkit.io import process
from labkit.io.files import locked, make_directory, no_space, require_space

RAW = "raw"
_DISK = "disk.img"
_SPACE = 1024  # MiB, which the data of an image may take
_TIMEOUT = 600.0  # seconds
_TIME = 1_000_000_000  # a machine's copy-on-write file knows its base by its size and time: one made again is as good


def raw_disk(image: Image, home: Home, observer: Observer) -> Path:
    """The disk, made now if it is not there. Raises ImageError."""
    directory = image.directory / RAW
    disk = directory / _DISK
    if disk.exists():
        return disk
    with locked(
        home.lock(f"raw-{image.directory.name}"),
        timeout=_TIMEOUT,
        waiting=observer.step,
        what=f"a disk of {image.title}",
    ):
        if disk.exists():
            return disk
        require_space(image.directory, _SPACE)
        making = image.directory / f"{RAW}.making"
        shutil.rmtree(making, ignore_errors=True)
        made = make_directory(making, mode=0o700) / _DISK
        try:
            process.run(["qemu-img", "convert", "-O", "raw", image.disk, made], timeout=_TIMEOUT)
            made.chmod(0o644)  # read by the kernel's own user, who has no way to it but through its sandbox
            os.utime(made, (_TIME, _TIME))
            sums.sync(made)
            making.rename(directory)
            sums.sync(image.directory)
        except ProgramFailed as error:
            if "No space left on device" in (error.hint or ""):
                raise no_space(making) from error
            raise ImageError(f"no raw disk can be made of {image.disk}: {error.message}", hint=error.hint) from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return disk

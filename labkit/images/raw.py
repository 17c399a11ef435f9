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
from labkit.images import golden, sums
from labkit.images.golden import Image
from labkit.io import process
from labkit.io.files import locked, make_directory, no_space, require_space

RAW = "raw"
_DISK = "disk.img"
_SPACE = 1024  # MiB, which the data of an image may take
_TIMEOUT = 600.0  # seconds
_TIME = 1_000_000_000  # see _time()


def raw_disk(image: Image, home: Home, observer: Observer) -> Path:
    """The disk, made now if it is not there or is not what was made. Raises ImageError."""
    directory = image.directory / RAW
    disk = directory / _DISK
    if _whole(disk, image):
        return disk
    with locked(
        home.lock(f"raw-{image.directory.name}"),
        timeout=_TIMEOUT,
        waiting=observer.step,
        what=f"a disk of {image.title}",
    ):
        if _whole(disk, image):
            return disk
        if disk.exists():
            observer.warn(f"{disk} was changed; making it again")
        if why := sums.wrong(image.directory, content=True):
            raise golden.damaged(image.directory.name, why)
        require_space(image.directory, _SPACE)
        making = image.directory / f"{RAW}.making"
        shutil.rmtree(making, ignore_errors=True)
        made = make_directory(making, mode=0o700) / _DISK
        try:
            process.run(["qemu-img", "convert", "-O", "raw", image.disk, made], timeout=_TIMEOUT)
            made.chmod(0o644)  # read by the kernel's own user, who has no way to it but through its sandbox
            time = _time(image)
            os.utime(made, (time, time))
            sums.sync(made)
            shutil.rmtree(directory, ignore_errors=True)  # machines that run on it have it open
            making.rename(directory)
            sums.sync(image.directory)
        except ProgramFailed as error:
            if "No space left on device" in (error.hint or ""):
                raise no_space(making) from error
            raise ImageError(f"no raw disk can be made of {image.disk}: {error.message}", hint=error.hint) from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return disk


def _whole(disk: Path, image: Image) -> bool:
    """Whether it is the disk that was made of this image: of its size, and not written to since."""
    try:
        found = disk.stat()
        with image.disk.open("rb") as file:
            file.seek(24)  # the virtual size in the header of a qcow2 file (QEMU's docs/interop/qcow2.txt)
            size = int.from_bytes(file.read(8), "big")
    except OSError:
        return False
    return (int(found.st_mtime), found.st_size) == (_time(image), size)


def _time(image: Image) -> int:
    """The time of its disk. A machine's copy-on-write file knows its base by size and time: one that is made again of
    the same image is as good, and that of another image, which may have come under the same name, is not.
    """
    return _TIME + sums.of(image.directory, image.disk.name) % _TIME

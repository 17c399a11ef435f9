"""A disk that boots by itself: GRUB for a PC's BIOS in front of one partition, without a loop device or a mount.

SeaBIOS starts GRUB's boot.img from the disk's first sector, that its core image from the sectors behind, and that, with
the configuration in it, the kernel (https://www.gnu.org/software/grub/manual/grub/html_node/Images.html).
"""

from __future__ import annotations

import struct
from pathlib import Path

_SECTOR = 512
START = 1 << 20  # byte at which the partition begins; GRUB has what is before it, but for the first sector, to itself


def install(disk: Path, boot: bytes, core: bytes) -> None:
    """Write boot.img with a partition table in it, and core.img, to the raw disk; its partition begins at START.

    ValueError where they are not what grub-mkimage makes, or do not fit.
    """
    if len(boot) != _SECTOR or _SECTOR + len(core) > START:
        raise ValueError(f"boot.img has {len(boot)} bytes and core.img {len(core)}")
    first, sectors = START // _SECTOR, disk.stat().st_size // _SECTOR
    nowhere = b"\xfe\xff\xff"  # cylinder, head, sector: not used, see the numbers after
    entry = b"\x80" + nowhere + b"\x83" + nowhere + struct.pack("<II", first, sectors - first)
    with disk.open("r+b") as file:
        file.write(boot[:440] + b"lab0\0\0" + entry.ljust(64, b"\0") + b"\x55\xaa" + core)

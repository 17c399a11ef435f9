"""What a qcow2 disk stands on, read from its header: offsets as in QEMU's docs/interop/qcow2.txt."""

from __future__ import annotations

from pathlib import Path

_MAGIC = b"QFI\xfb"
_LONGEST = 1023  # bytes of a backing file's name


def backing(disk: Path) -> str:
    """The name of the file that disk is an overlay on, as the disk has it; empty where it stands alone.

    OSError where it cannot be read, ValueError where it is no qcow2.
    """
    with disk.open("rb") as file:
        head = file.read(20)
        if head[:4] != _MAGIC or len(head) < 20:
            raise ValueError(f"{disk} is not a qcow2 disk")
        offset, size = int.from_bytes(head[8:16]), int.from_bytes(head[16:20])
        if not offset:
            return ""
        file.seek(offset)
        name = file.read(min(size, _LONGEST))
    if not 0 < size <= _LONGEST or len(name) < size:
        raise ValueError(f"{disk} does not name what it stands on")
    return name.decode("utf-8", "surrogateescape")

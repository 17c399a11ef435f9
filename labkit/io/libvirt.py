"""The one place that speaks to libvirt, through virsh: about the volumes that Vagrant's libvirt provider keeps there.

A box is uploaded once, as a volume named after it; the disk of each machine is an overlay on that.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree
from dataclasses import dataclass

from labkit.core.errors import LabError, ProgramFailed
from labkit.io import process

_URI = "qemu:///system"  # the provider's own default
_BOUND = 60.0  # seconds for one command
_BRIEF = 5.0  # for one whose answer is only shown
_SLASH = "-VAGRANTSLASH-"  # what the provider writes for the slash in the name of a box


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk image in one of libvirt's pools. backing: the path that it is an overlay on; used: Unix time."""

    pool: str
    name: str
    path: str
    size: int
    backing: str
    used: float


def there() -> bool:
    return process.which("virsh") is not None


def prefix_of(box: str) -> str:
    """What the names of the volumes begin with that the provider makes of a box."""
    return f"{box.replace('/', _SLASH)}_vagrant_box_image_"


def volumes() -> list[Volume]:
    """All volumes in the pools that are active. ProgramFailed where libvirt does not answer."""
    found = []
    for pool in pools(active=True):
        for line in _virsh("vol-list", "--pool", pool).splitlines():
            name, _, path = line.strip().partition(" ")
            if path.strip().startswith("/"):
                text = _virsh("vol-dumpxml", "--pool", pool, name, check=False)
                if text:  # else it has just gone
                    found.append(_volume(pool, name, text))
    return found


def pools(*, active: bool) -> list[str]:
    return _virsh("pool-list", "--name", *([] if active else ["--inactive"])).split()


def delete(volume: Volume) -> None:
    _virsh("vol-delete", "--pool", volume.pool, volume.name)


def disk_usage(domain: str) -> int:
    """How many bytes the disks of a domain take; 0 where libvirt does not say."""
    try:
        printed = _virsh("domblkinfo", domain, "--all", check=False, timeout=_BRIEF)
    except LabError:
        return 0
    rows = [line.split() for line in printed.splitlines()]
    return sum(int(row[3]) for row in rows if len(row) == 4 and row[3].isdigit())


def _volume(pool: str, name: str, text: str) -> Volume:
    try:
        root = xml.etree.ElementTree.fromstring(text)
    except xml.etree.ElementTree.ParseError as error:
        raise ProgramFailed(f"libvirt's description of the volume {name} cannot be read: {error}") from error
    size = root.findtext("physical") or root.findtext("allocation") or "0"
    times = [float(word) for key in ("atime", "mtime") if re.fullmatch(r"[0-9.]+", word := _time(root, key))]
    return Volume(
        pool,
        name,
        root.findtext("target/path") or "",
        int(size) if size.isdigit() else 0,
        root.findtext("backingStore/path") or "",
        max(times, default=0.0),
    )


def _time(root: xml.etree.ElementTree.Element, key: str) -> str:
    return (root.findtext(f"target/timestamps/{key}") or "").strip()


def _virsh(*words: str, check: bool = True, timeout: float = _BOUND) -> str:
    uri = os.environ.get("LIBVIRT_DEFAULT_URI") or _URI
    argv = ["virsh", "-q", "-c", uri, *words]
    return process.run(argv, timeout=timeout, passing=process.VAGRANT, check=check).stdout

"""What the machines of a lab stand on: images, live states and boxes that must stay as long as they are there.

Records are believed, and so are disks: the record of a machine may be damaged, and its disk good.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from labkit.core.errors import LabError
from labkit.core.home import Home
from labkit.images.collect import Needs, chain
from labkit.machines.record import VAGRANTFILE, names, read_record

_BOX = re.compile(r'\.vm\.box = "([^"\\]+)"')


def needs(home: Home, busy: Mapping[str, str], without: Collection[str] = ()) -> Needs:
    """busy: the locks that other processes hold, by name, with who that is; what they may need stays too. without:
    machines that are to go themselves.
    """
    images: dict[str, str] = {}
    lives: dict[str, str] = {}
    raws: dict[str, str] = {}
    kernels: dict[str, str] = {}
    boxes: dict[str, str] = {}
    everything = ""
    for name in (name for name in names(home) if name not in without):
        directory, why = home.machine(name), f"machine {name} stands on it"
        record: dict[str, object] = {}
        with contextlib.suppress(LabError):
            record = read_record(directory) or {}
        image = record.get("image")
        if isinstance(image, str):
            images.setdefault(image, why)
            if f"machine-{name}" in busy:  # a reset takes a live state, which need not be the one it has now
                lives.setdefault(image, busy[f"machine-{name}"])
            if record.get("provider") == "uml":
                raws.setdefault(image, why)
        if isinstance(kernel := record.get("kernel"), str):
            kernels.setdefault(kernel[:16], f"machine {name} boots it")
        if not record and any(directory.glob("volume/*")):  # its copy-on-write file names no image
            everything = f"what machine {name} stands on cannot be read: its record is damaged"
        for disk in sorted(directory.glob("disk*")):
            try:
                for key in chain(disk, home):
                    (lives if "/" in key else images).setdefault(key, why)
            except (OSError, ValueError):
                everything = f"what machine {name} stands on cannot be read from its disk"
        try:
            for box in _boxes(directory):
                boxes.setdefault(box, f"machine {name} is made of it")
        except (OSError, ValueError):
            everything = f"which box machine {name} is made of cannot be read"
        if f"machine-{name}" in busy and not record.get("ready"):
            everything = busy[f"machine-{name}"]
    for lock, who in busy.items():
        made = lock.removeprefix("machine-")
        # A machine that is only about to be made, a box that is being packed, one that is being added to Vagrant.
        if (lock.startswith("machine-") and not home.machine(made).is_dir()) or lock.endswith(".box"):
            everything = everything or who
        if re.fullmatch(r"labkit-[0-9a-f]{16}", lock):
            everything = everything or who
    for box, place in _indexed(home):
        boxes.setdefault(box, f"the Vagrant machine in {place} is made of it")
    return Needs(images, lives, raws, kernels, boxes, everything, busy)


def _boxes(directory: Path) -> set[str]:
    """The boxes that a machine of Vagrant's is made of: as its Vagrantfile says, and as Vagrant has written down."""
    file, own = directory / VAGRANTFILE, directory / ".vagrant"
    if not file.exists() and not own.exists():
        return set()
    found = set(_BOX.findall(file.read_text(errors="replace"))) if file.exists() else set()
    for meta in own.glob("machines/*/*/box_meta"):
        found.add(str(json.loads(meta.read_text())["name"]))
    if not found:
        raise ValueError(f"{directory} names no box")
    return found


def _indexed(home: Home) -> list[tuple[str, str]]:
    """Boxes of machines that Vagrant's own index has, such as those of a directory that `render` wrote."""
    found = []
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        machines = json.loads((home.vagrant / "data/machine-index/index").read_text())["machines"]
        for machine in machines.values():
            with contextlib.suppress(TypeError, KeyError):
                directory = str(machine["vagrantfile_path"])
                if Path(machine["local_data_path"]).is_dir():
                    found.append((str(machine["extra_data"]["box"]["name"]), directory))
    return found

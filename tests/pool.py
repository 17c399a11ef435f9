"""A storage pool of libvirt's own test driver: the real virsh, without a daemon; nothing that it deletes was there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

IMAGES = "/var/lib/libvirt/images"
BOX = "labkit-VAGRANTSLASH-debian-13-x_vagrant_box_image_0_1795676177_box.img"


def pool(directory: Path, volumes: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let virsh see these volumes, each with the name of the one that it is an overlay on, empty for none."""
    if shutil.which("virsh") is None:
        pytest.skip("virsh is not installed")
    text = "".join(
        f"<volume type='file'><name>{name}</name><capacity unit='bytes'>8589934592</capacity>"
        "<allocation unit='bytes'>1048576</allocation>"
        f"<target><path>{IMAGES}/{name}</path><format type='qcow2'/></target>"
        + (f"<backingStore><path>{IMAGES}/{on}</path><format type='qcow2'/></backingStore>" if on else "")
        + "</volume>"
        for name, on in volumes.items()
    )
    target = f"<target><path>{IMAGES}</path></target>"
    file = directory / "libvirt-node.xml"
    file.write_text(f"<node><pool type='dir'><name>default</name>{target}{text}</pool></node>")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", f"test://{file}")

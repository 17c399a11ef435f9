"""Simulated programs that build an image: mmdebstrap, mkfs.ext4, and unshare, which runs its command where it is."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

from .stages import Stages


def mmdebstrap(argv: list[str], folder: Path) -> int:
    """Make a tar archive with a kernel in it."""
    stages = Stages(folder)
    if argv[1:2] == ["--version"]:
        print("mmdebstrap 1.3.5 (simulated)")
        return 0
    print("I: simulated", flush=True)
    target = Path(next(word for word in argv[1:] if word.endswith(".tar")))
    temporary = Path(os.environ.get("TMPDIR", "/tmp")) / "mmdebstrap.simulated"
    temporary.touch()
    stages.reach("mmdebstrap")
    if reason := stages.failure("mmdebstrap"):
        print(f"E: {reason}", file=sys.stderr)
        return 25
    with tarfile.open(target, "w") as tar:
        for name in ("boot/vmlinuz-6.1", "boot/initrd.img-6.1", "etc/hostname"):
            data = name.encode()
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    temporary.unlink()
    return 0


def mkfs(argv: list[str], folder: Path) -> int:
    """Leave the disk as it is: nobody reads its file system."""
    Stages(folder).reach("mkfs")
    return 0


def unshare(argv: list[str], folder: Path) -> int:
    """Run the command; a namespace that it does not have could matter to it only where it has a network."""
    words = argv[1:]
    while words and words[0].startswith("-"):
        words = words[1:]
    if "--net" not in argv:
        os.execvp(words[0], words)
    return nothing(argv, folder)


def nothing(argv: list[str], folder: Path) -> int:
    """A program that has to be there, and is not to be run."""
    print(f"{Path(argv[0]).name}: not on simulated machines", file=sys.stderr)
    return 1

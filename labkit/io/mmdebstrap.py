"""What mmdebstrap is started with, so that nothing is left outside of the directory that it works for."""

from __future__ import annotations

import os
from pathlib import Path

from labkit.io import process
from labkit.io.files import make_directory

TEMPORARY = "tmp"  # below the directory


def apart(making: Path, interpreter: Path | None = None) -> tuple[list[str | Path], dict[str, str]]:
    """What the command begins with, and its environment, which marks it as started for the directory making.
    interpreter: what runs the programs of the tree, where they are of another architecture; mmdebstrap is root then.

    As root it mounts /proc, /sys and /dev in the tree: where only it sees them, and gone with it; and all stays below
    making. In a user namespace mmdebstrap's own user must reach its directory: /tmp.
    """
    environment = {process.OWNER: str(making)}
    if interpreter is not None:
        environment["TMPDIR"] = str(make_directory(making / TEMPORARY))
        return ["sh", Path(__file__).with_name("foreign.sh"), interpreter], environment
    if os.geteuid() != 0:
        return [], environment
    environment["TMPDIR"] = str(make_directory(making / TEMPORARY))
    return ["unshare", "--mount", "--propagation=private"], environment

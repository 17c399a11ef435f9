"""What mmdebstrap is started with, so that nothing is left outside of the directory that it works for."""

from __future__ import annotations

import os
from collections.abc import Sequence
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


def mmdebstrap(
    suite: str,
    target: Path,
    packages: Sequence[str],
    hooks: Sequence[str],
    mirror: str | None,
    *,
    form: str,
    variant: str = "minbase",
    first: Sequence[str] = (),
    mode: str = "auto",
    more: Sequence[str] = (),
) -> list[str | Path]:
    """The command that builds a root file system with these packages at target, a tar archive or a directory; hooks
    run at its end, with the root as $1, and those of first once packages are unpacked. variant: "extract" installs
    nothing; more: options of mmdebstrap's own.
    """
    options = ["Acquire::Languages none", "Acquire::Retries 3"]
    if mirror:  # which may be a snapshot of a day long ago; who signed it is looked at all the same
        options.append('Acquire::Check-Valid-Until "false"')
    excluded = ("doc", "man", "locale", "info", "lintian")
    return [
        "mmdebstrap",
        f"--variant={variant}",
        f"--mode={mode}",
        f"--format={form}",
        f"--include={','.join(packages)}",
        *(f"--aptopt={option}" for option in options),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in excluded),
        *more,
        *(f"--extract-hook={hook}" for hook in first),
        *(f"--customize-hook={hook}" for hook in hooks),
        suite,
        target,
        *([mirror] if mirror else []),
    ]

"""Runtimes newer than those that are installed, built by their own clients: go install."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from labkit.core.errors import LabError
from labkit.io import process

RUNC = "github.com/opencontainers/runc@v1.5.2"
_SLOWEST = 600.0  # seconds; most of it is the download


def runc(directory: Path) -> Path:
    """runc of that version, built into a directory; skips where it cannot be."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no Go here to build runc with")
    env = {**os.environ, "GOBIN": str(directory), "GOFLAGS": "-tags=seccomp"}
    try:
        process.run([go, "install", RUNC], timeout=_SLOWEST, env=env)
    except LabError as error:
        pytest.skip(f"{RUNC} cannot be built here: {error.message}")
    return directory / "runc"

"""Where a simulated program stops, or fails: what a test has asked for in stages.json, in the folder of the programs.

{"hold": [STAGE, ...], "fail": {STAGE: how}}

A program that comes to a stage to be held at makes the file at-STAGE and waits until `hold` no longer names the stage.
Standard library only, and little of it: a program starts with this.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class Stages:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _read(self) -> dict[str, Any]:
        try:
            value = json.loads((self.folder / "stages.json").read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def failure(self, stage: str) -> str | None:
        """How this stage is to fail; None if it is not."""
        found = self._read().get("fail", {}).get(stage)
        return None if found is None else str(found)

    def reach(self, stage: str) -> None:
        """Come to a stage; returns once it is not held any more."""
        if stage not in self._read().get("hold", []):
            return
        (self.folder / f"at-{stage}").touch()
        while stage in self._read().get("hold", []):
            time.sleep(0.005)

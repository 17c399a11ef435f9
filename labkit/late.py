"""Modules that are loaded when they are first needed, since that takes long: a restore has its time counted."""

from __future__ import annotations

import importlib
from types import ModuleType


def module(name: str) -> ModuleType:
    """The module labkit.NAME. Its importers name its types under TYPE_CHECKING."""
    return importlib.import_module(f"labkit.{name}")

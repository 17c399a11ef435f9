"""All mutants: those of every module beside this one."""

from __future__ import annotations

import importlib
import pkgutil

from .registry import MUTANTS

__all__ = ["MUTANTS"]

_PACKAGE = __name__.rpartition(".")[0]
for _module in pkgutil.iter_modules([__file__.rpartition("/")[0]]):
    if _module.name != "__main__":
        importlib.import_module(f"{_PACKAGE}.{_module.name}")

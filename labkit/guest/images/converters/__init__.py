"""What converts images: a module for each program that writes a bundle, and every engine of labkit.guest.engines."""

from __future__ import annotations

import importlib
import pkgutil

from ...engines import session
from ...engines.base import Place
from .base import Converter
from .engine import OfEngine

_OTHERS = {"base", "engine"}


def programs() -> list[str]:
    """The names of those that have a module here."""
    return sorted(
        module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if module.name not in _OTHERS
    )


def names() -> list[str]:
    return sorted([*programs(), *session.names()])


def make(name: str, place: Place, runtime: str, arguments: list[str]) -> Converter:
    """The converter of that name. Broken where its program is not installed."""
    if name not in programs():
        return OfEngine(name, place, runtime, arguments)
    found: Converter = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").CONVERTER(place)
    return found

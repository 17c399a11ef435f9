"""The way in. Python 3.5 must be able to parse this file, too."""

from typing import Callable

from ..common.start import start


def main() -> int:
    return start("labkit-images", _load)


def _load() -> "Callable[[list[str]], int]":
    from .cli import run

    return run

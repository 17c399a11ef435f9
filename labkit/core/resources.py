"""Where the files that ship with labkit are: platforms/, bootstrap/, templates/ and tasks.py.

In a checkout they are at its root; a wheel has them inside the package (pyproject.toml, force-include).
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


def root() -> Path:
    """The directory that holds platforms/, bootstrap/, templates/ and tasks.py."""
    shipped = _PACKAGE / "_shipped"
    return shipped if shipped.is_dir() else _PACKAGE.parent

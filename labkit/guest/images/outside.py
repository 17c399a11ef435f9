"""What hostile images aim at, and what of it has changed."""

from __future__ import annotations

import os
from pathlib import Path

from ..common.files import remove_tree
from . import tree
from .case import OUTSIDE
from .escapes import PASSWD, SECRET, STRAY

_IGNORED = ("mtime",)  # of directories and of what was only read: it changes with what is in them, which is seen anyway


class Outside:
    """The directory OUTSIDE, made anew; data is the converter's own directory, where strays are looked for."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self.beside: list[Path] = []  # files beside the root file system that have to stay
        place = Path(OUTSIDE)
        remove_tree(place)
        (place / "directory").mkdir(parents=True)
        (place / "canary").write_bytes(SECRET)
        (place / "passwd").write_bytes(PASSWD)
        (place / "directory/kept").write_bytes(SECRET)
        self._before, self._strays_before = _seen(), self._strays()

    def changes(self) -> list[str]:
        """What is not as it was, in words that are the same for all images: `new PATH`, `gone PATH`, `changed PATH:
        ATTRIBUTE`; `stray PATH` for what lies beside a root file system.
        """
        now = _seen()
        found = [f"new {path}" for path in now if path not in self._before]
        found += [f"gone {path}" for path in self._before if path not in now]
        for path, was in self._before.items():
            if path in now:
                keys = [key for key in {**was, **now[path]} if was.get(key) != now[path].get(key)]
                found += [f"changed {path or 'the directory'}: {key}" for key in keys]
        found += [f"gone beside: {path.name}" for path in self.beside if not path.exists()]
        return sorted([*found, *(one for one in self._strays() if one not in self._strays_before)])

    def _strays(self) -> list[str]:
        """Files that an image put a directory or more above the root of its tree, which has t and etc in it."""
        found = []
        for _, directories, files in os.walk(self._data):
            if {"t", "etc"} <= set(directories):
                directories.clear()
                continue
            found += [f"stray {name}" for name in (*directories, *files) if name.startswith(STRAY)]
        for name in os.listdir(self._data.parent):  # noqa: PTH208
            if name.startswith(STRAY):
                found.append(f"stray {name}")
        return found


def _seen() -> tree.Seen:
    found = tree.walk(OUTSIDE)
    for path, entry in found.items():
        for key in _IGNORED:
            entry.pop(key, None)
        if entry["type"] != "directory":
            entry["links"] = Path(OUTSIDE, path).lstat().st_nlink
    return found

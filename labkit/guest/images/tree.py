"""What is in a directory tree, as values: the same words for every converter, read by this program and by none of the
image. On names, not Paths, which cannot be bytes.
"""
# ruff: noqa: PTH118, PTH115, PTH208

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from typing import Union

_MOST = 2000  # entries of a tree
_SIZE = 8 << 20  # bytes of a file that are read
_TYPES = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFCHR: "character",
    stat.S_IFBLK: "block", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
}  # fmt: skip

Seen = dict[str, dict[str, object]]


def walk(root: Union[str, bytes, os.PathLike[str]], below: Union[str, bytes] = b"") -> Seen:
    """Everything below the directory `below` of root, by its path in root, and that directory itself. Nothing is
    followed: where a part of the way is a link, there is nothing.

    type, mode, uid, gid, mtime, xattrs (hexadecimal); size and sha256 of files, link of links, device of nodes; same:
    the first path of the same inode.
    """
    root, below = os.fsencode(root), os.fsencode(below)
    found: Seen = {}
    first: dict[tuple[int, int], str] = {}
    todo = [below]
    if below and stat.S_IFMT(_mode(os.path.join(root, below))) != stat.S_IFDIR:
        return {}
    while todo and len(found) < _MOST:
        path = todo.pop()
        full = os.path.join(root, path)
        try:
            about = os.lstat(full)
        except OSError:
            continue
        name = text(path)
        found[name] = _entry(full, about)
        if not stat.S_ISDIR(about.st_mode):
            known = first.setdefault((about.st_dev, about.st_ino), name)
            if known != name:
                found[name]["same"] = known
        else:
            with suppress(OSError):
                todo += [os.path.join(path, one) for one in sorted(os.listdir(full), reverse=True)]
    return found


def text(name: bytes) -> str:
    """What is no UTF-8 as \\xNN."""
    return name.decode("utf-8", "backslashreplace")


def _mode(path: bytes) -> int:
    with suppress(OSError):
        return os.lstat(path).st_mode
    return 0


def _entry(full: bytes, about: os.stat_result) -> dict[str, object]:
    kind = stat.S_IFMT(about.st_mode)
    entry: dict[str, object] = {
        "type": _TYPES.get(kind, "unknown"),
        "mode": stat.S_IMODE(about.st_mode),
        "uid": about.st_uid,
        "gid": about.st_gid,
        "mtime": int(about.st_mtime),
    }
    if kind == stat.S_IFREG:
        entry["size"] = about.st_size
        with suppress(OSError):
            fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                entry["sha256"] = hashlib.sha256(file.read(_SIZE)).hexdigest()
    elif kind == stat.S_IFLNK:
        with suppress(OSError):
            entry["link"] = text(os.readlink(full))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry["device"] = [os.major(about.st_rdev), os.minor(about.st_rdev)]
    xattrs = {}
    with suppress(OSError):
        for name in os.listxattr(full, follow_symlinks=False):
            with suppress(OSError):
                xattrs[name] = os.getxattr(full, name, follow_symlinks=False).hex()
    if xattrs:
        entry["xattrs"] = xattrs
    return entry

"""Archives of other people: their small files are copied out, with bounds, and nothing is ever written elsewhere."""

from __future__ import annotations

import contextlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from labkit.core.errors import UsageError
from labkit.io.files import make_directory

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
_MEMBERS = 20_000
_TOTAL = 256 << 20  # bytes
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, NotImplementedError)

_Member = tuple[str, int, Callable[[], "IO[bytes] | None"]]  # name, size, and what opens it


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Copy the regular files of an archive whose names are wanted to the directory target.

    A link is copied as what it stands for in the archive. UsageError where the archive is damaged or encrypted, holds
    too much, or has a name that leads out of it.
    """
    left = _TOTAL
    try:
        with contextlib.ExitStack() as stack:
            for number, (name, size, opened) in enumerate(_members(archive, stack)):
                left -= size
                if left < 0 or number >= _MEMBERS:
                    raise UsageError(
                        f"{archive} holds more than {_MEMBERS} files or {_TOTAL >> 20} MiB",
                        hint="unpack it, and judge the directory",
                    )
                path = PurePosixPath(name if "/" in name else name.replace("\\", "/"))  # Windows packs so
                if path.is_absolute() or ".." in path.parts or "\0" in name:
                    raise UsageError(f"{archive} has a member outside of it: {name!r}")
                if not wanted(path.name) or path.name.startswith(".") or "__MACOSX" in path.parts:
                    continue
                with contextlib.suppress(KeyError):  # a link to what is not there
                    if (source := opened()) is not None:
                        with source:
                            data = source.read(_TOTAL)
                        file = make_directory(target.joinpath(*path.parts[:-1])) / path.name
                        if not file.exists():
                            file.write_bytes(data)
    except (*_BROKEN, RuntimeError, ValueError) as error:  # RuntimeError: it is encrypted
        raise UsageError(f"{archive} cannot be read as an archive: {error}") from error


def _members(archive: Path, stack: contextlib.ExitStack) -> Iterator[_Member]:
    if archive.name.lower().endswith(".zip"):
        held = stack.enter_context(zipfile.ZipFile(archive))
        for info in held.infolist():
            if not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG):
                yield info.filename, info.file_size, lambda info=info: held.open(info)  # type: ignore[misc]
        return
    tar = stack.enter_context(tarfile.open(archive))  # noqa: SIM115
    for member in tar:
        if member.isfile() or member.issym() or member.islnk():
            yield member.name, member.size, lambda member=member: tar.extractfile(member)  # type: ignore[misc]
        else:
            yield member.name, member.size, lambda: None

"""Archives of other people: their small files are copied out, with bounds, and nothing is ever written elsewhere."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
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


# --- what labkit packs, and takes back from strangers


FILE_LIMIT = 256 << 20  # bytes of a file, and of all files of a folder or archive
_FILES = 5_000
_PIECE = 1 << 20


class Hostile(UsageError):
    """What is there was not written by labkit, or was changed since."""


def files(directory: Path) -> dict[str, bytes]:
    """The files in and below a directory, by their paths in it. Hostile where it has links, devices or their like, or
    more than is ever written there: nothing outside is read, and nothing waited for.
    """
    found: dict[str, bytes] = {}
    left, places = FILE_LIMIT, [directory]
    for place in places:
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"{place} cannot be read: {error.strerror}") from error
        for entry in entries:
            name = str(Path(entry.path).relative_to(directory))
            if why := _strange(name):
                raise Hostile(f"{directory} has a file {name!r}, {why}")
            if entry.is_dir(follow_symlinks=False):
                places.append(Path(entry.path))
            else:
                found[name] = _content(entry.path, name, left)
                left -= len(found[name])
            if len(found) + len(places) > _FILES:
                raise Hostile(f"{directory} has more than {_FILES} files")
    return found


def _content(path: str, name: str, left: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        why = "is a link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise Hostile(f"{name} {why}") from error
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise Hostile(f"{name} is no plain file")
        if about.st_size > left:
            raise Hostile(f"the files are larger than {FILE_LIMIT >> 20} MiB, as of {name}")
        data = file.read(left + 1)
    if len(data) > left:
        raise Hostile(f"the files are larger than {FILE_LIMIT >> 20} MiB, as of {name}")
    return data


def _strange(name: str) -> str:
    """Why labkit gives no file this path in a folder; "" where it may."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name in ("", "."):
        return "which leads out of it or is written oddly"
    if not name.isascii() or not name.isprintable() or "\\" in name or len(name) > 200 or len(path.parts) > 8:
        return "of no name that is given there"
    return ""


def tarball(content: Mapping[str, bytes]) -> bytes:
    """The files as a tar archive: always the same bytes for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(content):
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(content[name]), 0o644
            tar.addfile(about, io.BytesIO(content[name]))
    return out.getvalue()


def packed(content: Mapping[str, bytes]) -> bytes:
    """tarball(), with gzip."""
    return gzip.compress(tarball(content), 6, mtime=0)


def unpacked(data: bytes, name: str) -> dict[str, bytes]:
    """The files in what packed() made. Hostile where it is anything else: another archive of the same files, too."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        tar = unzip.decompress(data, FILE_LIMIT)
        if unzip.unconsumed_tail or not unzip.eof or unzip.unused_data:
            why = "has more in it than labkit ever packs" if unzip.unconsumed_tail else "is not one whole gzip file"
            raise Hostile(f"{name} {why}")
        found: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            for member in archive:
                why = _strange(member.name) or ("which is there twice" if member.name in found else "")
                if not member.isreg() or member.issparse() or why or len(found) >= _FILES:
                    raise Hostile(f"{name} holds {member.name!r}, {why or 'which is no plain file'}")
                source = archive.extractfile(member)
                found[member.name] = source.read() if source else b""
    except (*_BROKEN, ValueError, RecursionError) as error:
        raise Hostile(f"{name} cannot be read as an archive: {error}") from error
    if tarball(found) != tar:
        raise Hostile(f"{name} is not written as labkit writes archives")
    return found

"""A root file system of somebody else's, an archive or a directory, put into a directory of ours.

Nothing outside of that is written, whatever the archive's names and links say: each directory on the way to a file is
opened by itself, and a link is never followed. Modes, times, owners, extended attributes, hard links, holes and names
that are no UTF-8 stay as they are; what this user cannot make is told.
"""

from __future__ import annotations

import bz2
import contextlib
import enum
import errno
import gzip
import io
import lzma
import math
import os
import stat
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from labkit.core.errors import HostError, UsageError
from labkit.core.text import printable, some

_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
_HEAD = 6  # bytes, the longest of these
_HEADER = 1 << 20  # bytes of an extended header: more than any name or attribute has
_PIECE = 1 << 20
_IDS = 2**32 - 1  # of users and groups
_LATEST = 2**33  # seconds since 1970: file systems have room for no more
_XATTR = "SCHILY.xattr."
_REFUSED = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ERANGE, errno.ENOSPC, errno.E2BIG}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Damaged(Exception):
    pass


_BROKEN = (
    _Damaged, tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, OverflowError,
    RecursionError,
)  # fmt: skip


class Kind(enum.Enum):
    FILE = enum.auto()
    DIRECTORY = enum.auto()
    LINK = enum.auto()
    SAME = enum.auto()  # a hard link
    DEVICE = enum.auto()
    FIFO = enum.auto()


@dataclass(frozen=True, slots=True)
class _Member:
    """path: below the root, its parts; mode with its type, for a device; mtime in nanoseconds; target of a link, or
    the path of the file that a hard link is another name of; holes: parts of the file that have data, offset and
    length, where it has holes.
    """

    path: tuple[bytes, ...]
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    target: bytes = b""
    device: int = 0
    size: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    opened: Callable[[], IO[bytes]] | None = None
    holes: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """What came into the directory: how many files of any kind, bytes of content; told: what is not as it was, a
    sentence each.
    """

    files: int
    size: int
    told: tuple[str, ...]


def fill(source: Path | None, target: Path) -> Filled:
    """Put the tar archive (plain, or with gzip, xz, bzip2, and zstd where Python has it) or the directory at source, or
    the archive on stdin where that is None, into the empty directory target. What is written when this raises stays.

    Raises UsageError where it cannot be read, is damaged or cut off, or has members that lead out of it; HostError
    where this file system or this user cannot have one of them; OSError where the disk is full.
    """
    shown = "stdin" if source is None else str(source)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(_Writer(target, shown))
        if source is not None and source.is_dir():
            for member in _walk(source, writer):
                writer.put(member)
        else:
            try:
                stream = stack.enter_context(_decompressed(source, shown, stack))
                for member in _members(stream, shown):
                    writer.put(member)
                while stream.read(_PIECE):  # its checksums come last
                    pass
            except _BROKEN as error:
                raise UsageError(f"{shown} cannot be read as a tar archive: {printable(str(error))}") from error
        return writer.finished()


# --- archives


def _decompressed(source: Path | None, shown: str, stack: contextlib.ExitStack) -> IO[bytes]:
    if source is None and os.isatty(0):
        raise UsageError(
            "--rootfs - reads an archive from stdin, which is a terminal",
            hint="docker export CONTAINER | ./lab bundle --rootfs - --out DIR",
        )
    try:
        opened = open(0, "rb", closefd=False) if source is None else source.open("rb")  # noqa: SIM115
        raw = stack.enter_context(opened)
        head = raw.read(_HEAD)
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror}") from error
    if not head:
        raise UsageError(f"{shown} is empty")
    stream = io.BufferedReader(_Begun(head, raw))
    match next((name for magic, name in _MAGIC.items() if head.startswith(magic)), ""):
        case "gzip":
            return io.BufferedReader(gzip.GzipFile(fileobj=stream))
        case "xz":
            return lzma.LZMAFile(stream)
        case "bzip2":
            return bz2.BZ2File(stream)
        case "zstd":
            return _zstd(stream, shown)
    return stream


def _zstd(stream: IO[bytes], shown: str) -> IO[bytes]:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.ZstdFile(stream)
    version = ".".join(map(str, sys.version_info[:2]))
    raise UsageError(
        f"{shown} is compressed with zstd, which Python has from 3.14 on, and this one is {version}",
        hint="unpack it on the way: zstd -dc FILE | ./lab bundle --rootfs - --out DIR",
    )


class _Begun(io.RawIOBase):
    """A stream whose first bytes have been read."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head or self._rest.read(min(len(buffer), _PIECE))
        given, self._head = data[: len(buffer)], self._head[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


class _Header(tarfile.TarInfo):
    """Tarfile takes a damaged header for the end of the archive, and one of any size into memory."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise _Damaged("it ends where more should follow: it is cut off") from error
        except tarfile.HeaderError as error:
            raise _Damaged(str(error)) from error

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        extended = self.type not in _KINDS  # a long name, or other things to know of the next member
        if self.size < 0 or (extended and self.size > _HEADER):
            raise _Damaged(f"a header says that {self.size} bytes belong to it")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


_KINDS = {
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.LINK,
    tarfile.LNKTYPE: Kind.SAME,
    tarfile.CHRTYPE: Kind.DEVICE,
    tarfile.BLKTYPE: Kind.DEVICE,
    tarfile.FIFOTYPE: Kind.FIFO,
    **dict.fromkeys(tarfile.REGULAR_TYPES, Kind.FILE),
}


def _members(stream: IO[bytes], shown: str) -> Iterator[_Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header, encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            yield _member(tar, info, shown)
            tar.members.clear()  # type: ignore[attr-defined]  # it keeps them all


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo, shown: str) -> _Member:
    kind = _KINDS.get(info.type)
    if kind is None:
        raise UsageError(f"{shown} has {info.name!r} of a kind that labkit does not know: {info.type!r}")
    if not (0 <= info.uid < _IDS and 0 <= info.gid < _IDS):
        raise UsageError(f"{shown} has {info.name!r} of user {info.uid} and group {info.gid}, which cannot be")
    holes = None
    if (sparse := cast("list[tuple[int, int]] | None", info.sparse)) is not None:
        holes = tuple((offset, size) for offset, size in sparse if size)
        if any(offset < 0 or size < 0 or offset + size > info.size for offset, size in holes):
            raise UsageError(f"{shown} has {info.name!r} with data outside of it")
    target = _bytes(info.linkname)
    device = stat.S_IFBLK if info.type == tarfile.BLKTYPE else stat.S_IFCHR

    def opened() -> IO[bytes]:
        file = tar.extractfile(info)
        assert file is not None  # it is a regular file
        return file

    return _Member(
        _parts(info.name, shown),
        kind,
        info.mode & 0o7777 | (device if kind is Kind.DEVICE else 0),
        info.uid,
        info.gid,
        _nanoseconds(info.mtime),
        target,
        os.makedev(info.devmajor, info.devminor) if kind is Kind.DEVICE else 0,
        info.size if kind is Kind.FILE else 0,
        {key.removeprefix(_XATTR): _bytes(value) for key, value in info.pax_headers.items() if key.startswith(_XATTR)},
        opened if kind is Kind.FILE else None,
        holes,
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _parts(name: str, shown: str) -> tuple[bytes, ...]:
    """The parts of a member's path. UsageError where it leads out of the archive."""
    if name.startswith("/"):
        raise UsageError(
            f"{shown} has a member with an absolute path: {printable(name)!r}",
            hint="make it with paths below its root: tar -C ROOTFS -cf x.tar .",
        )
    parts = tuple(part for part in _bytes(name).split(b"/") if part not in (b"", b"."))
    if b".." in parts or any(b"\0" in part for part in parts):
        raise UsageError(f"{shown} has a member outside of it: {printable(name)!r}")
    return parts


def _nanoseconds(seconds: float) -> int:
    """A file's time, as near as a file system can have it."""
    return int(min(max(seconds, -(2.0**31)), _LATEST) * 1_000_000_000) if math.isfinite(seconds) else 0


# --- directories


def _walk(top: Path, writer: _Writer) -> Iterator[_Member]:
    """What is in a directory. Other file systems that are mounted in it are left out, and told, as are sockets."""
    device = top.stat().st_dev
    places: list[tuple[bytes, ...]] = [()]
    first: dict[tuple[int, int], bytes] = {}
    for place in places:  # it grows
        at = os.path.join(os.fsencode(top), *place)  # noqa: PTH118
        try:
            about = os.stat(at)  # noqa: PTH116
            yield _at(at, place, Kind.DIRECTORY, about)
            if about.st_dev != device:
                writer.tell("left out, as another file system is mounted there", place)
                continue
            for entry in sorted(os.scandir(at), key=lambda entry: entry.name):
                path, about = (*place, entry.name), entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(about.st_mode):
                    places.append(path)
                elif stat.S_ISSOCK(about.st_mode):
                    writer.tell("left out, as they are sockets", path)
                elif about.st_nlink > 1 and (about.st_dev, about.st_ino) in first:
                    yield _at(entry.path, path, Kind.SAME, about, first[about.st_dev, about.st_ino])
                else:
                    first[about.st_dev, about.st_ino] = b"/".join(path)
                    yield _of_directory(entry.path, path, about)
        except OSError as error:
            raise UsageError(f"{_text(at)} cannot be read: {error.strerror}") from error


def _of_directory(at: bytes, path: tuple[bytes, ...], about: os.stat_result) -> _Member:
    if stat.S_ISLNK(about.st_mode):
        return _at(at, path, Kind.LINK, about, os.readlink(at))  # noqa: PTH115
    if stat.S_ISREG(about.st_mode):
        return _at(at, path, Kind.FILE, about, opened=lambda: open(at, "rb"), holes=_data(at, about))  # noqa: PTH123
    return _at(at, path, Kind.FIFO if stat.S_ISFIFO(about.st_mode) else Kind.DEVICE, about)


def _at(
    at: bytes,
    path: tuple[bytes, ...],
    kind: Kind,
    about: os.stat_result,
    target: bytes = b"",
    opened: Callable[[], IO[bytes]] | None = None,
    holes: tuple[tuple[int, int], ...] | None = None,
) -> _Member:
    xattrs = {}
    if kind is not Kind.SAME:
        with contextlib.suppress(OSError):  # a file system without
            for name in os.listxattr(at, follow_symlinks=False):
                with contextlib.suppress(OSError):
                    xattrs[name] = os.getxattr(at, name, follow_symlinks=False)
    type_ = stat.S_IFMT(about.st_mode) if kind is Kind.DEVICE else 0
    return _Member(
        path,
        kind,
        stat.S_IMODE(about.st_mode) | type_,
        about.st_uid,
        about.st_gid,
        about.st_mtime_ns,
        target,
        about.st_rdev,
        about.st_size if kind is Kind.FILE else 0,
        xattrs,
        opened,
        holes,
    )


def _data(at: bytes, about: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """Where a file has data; None where it has no holes."""
    if about.st_blocks * 512 >= about.st_size:
        return None
    found, end = [], 0
    fd = os.open(at, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while end < about.st_size:
            begin = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, begin, os.SEEK_HOLE)
            found.append((begin, end - begin))
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data any more
            return None
    finally:
        os.close(fd)
    return tuple(found)


# --- writing


class _Writer:
    """Puts members below a directory. A context manager, which holds one directory at a time open."""

    def __init__(self, top: Path, shown: str) -> None:
        self._top = os.open(top, _DIRECTORY)
        self._shown = shown
        self._held: tuple[tuple[bytes, ...], int] = ((), self._top)
        self._directories: dict[tuple[bytes, ...], _Member] = {}
        self._files = self._size = 0
        self._told: dict[str, list[str]] = {}

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()
        os.close(self._top)

    def tell(self, what: str, path: tuple[bytes, ...]) -> None:
        self._told.setdefault(what, []).append(_shown(path) or "/")

    def put(self, member: _Member) -> None:
        """Write it, in place of what has its name."""
        try:
            self._put(member)
        except OSError as error:
            if error.errno in (None, errno.ENOSPC, errno.EDQUOT):  # None: gzip's, of what it reads
                raise
            raise HostError(
                f"{_shown(member.path)!r} of {self._shown} cannot be written: {error.strerror}",
                hint="--out on another file system may do",
            ) from error

    def _put(self, member: _Member) -> None:
        if not member.path:
            if member.kind is not Kind.DIRECTORY:
                raise UsageError(f"{self._shown} has a root that is no directory")
            self._directories[()] = member
            return
        parent, name = self._parent(member.path[:-1], make=True), member.path[-1]
        self._files += 1
        if member.kind is Kind.DIRECTORY:
            self._make_directory(parent, name, member)
            return
        self._make_way(parent, name, member.path)
        self._directories.pop(member.path, None)
        match member.kind:
            case Kind.FILE:
                self._write(parent, name, member)
            case Kind.LINK:
                if not member.target or b"\0" in member.target:
                    raise UsageError(f"{self._shown} has a link to nothing: {_shown(member.path)!r}")
                os.symlink(member.target, name, dir_fd=parent)
                self._dress(f"/proc/self/fd/{parent}/".encode() + name, member)
            case Kind.SAME:
                self._link(parent, name, member)
            case Kind.FIFO:
                os.mkfifo(name, 0o600, dir_fd=parent)
                self._dress(f"/proc/self/fd/{parent}/".encode() + name, member)
            case Kind.DEVICE:
                try:
                    os.mknod(name, member.mode & ~0o7777 | 0o600, member.device, dir_fd=parent)
                except PermissionError:
                    self._files -= 1
                    self.tell("left out, as this user cannot make device nodes", member.path)
                else:
                    self._dress(f"/proc/self/fd/{parent}/".encode() + name, member)

    def finished(self) -> Filled:
        """Give directories their modes and times, the innermost first: nothing comes into them any more."""
        for path, member in sorted(self._directories.items(), key=lambda item: len(item[0]), reverse=True):
            fd = os.open(path[-1], _DIRECTORY, dir_fd=self._parent(path[:-1], make=False)) if path else self._top
            try:
                self._dress(fd, member)
            finally:
                if path:
                    os.close(fd)
        if not self._files:
            raise UsageError(f"{self._shown} has no files in it")
        told = (f"{what} ({len(paths)}): {some(sorted(paths), 5)}" for what, paths in self._told.items())
        return Filled(self._files, self._size, tuple(told))

    def _let_go(self) -> None:
        if self._held[0]:
            os.close(self._held[1])
        self._held = ((), self._top)

    def _parent(self, path: tuple[bytes, ...], *, make: bool) -> int:
        """A directory below the top, open until another one is asked for; made where it is missing."""
        if self._held[0] == path:
            return self._held[1]
        self._let_go()
        fd = self._top
        for number, name in enumerate(path, 1):
            try:
                try:
                    below = os.open(name, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    if not make:
                        raise
                    os.mkdir(name, 0o755, dir_fd=fd)
                    below = os.open(name, _DIRECTORY, dir_fd=fd)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                    what = "is no directory, but a link or a file"
                    what = "is not there" if error.errno == errno.ENOENT else what
                    raise UsageError(
                        f"{self._shown} has members below {_shown(path[:number])!r}, which {what}"
                    ) from error
                raise
            finally:
                if fd != self._top:
                    os.close(fd)
            fd = below
        self._held = (path, fd)
        return fd

    def _make_directory(self, parent: int, name: bytes, member: _Member) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        self._directories[member.path] = member

    def _make_way(self, parent: int, name: bytes, path: tuple[bytes, ...]) -> None:
        """Remove what an earlier member of that name has left: the later one counts, as with tar."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):  # of Linux, and of POSIX
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                raise UsageError(
                    f"{self._shown} has {_shown(path)!r} twice, as a directory with files in it and as something else"
                ) from error
        self._files -= 1

    def _write(self, parent: int, name: bytes, member: _Member) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        with os.fdopen(fd, "wb") as file, self._opened(member) as content:
            source = cast(IO[bytes], content.raw) if member.holes is not None else content  # type: ignore[attr-defined]
            for offset, size in ((0, member.size),) if member.holes is None else member.holes:
                if member.holes is not None:
                    source.seek(offset)  # tarfile's buffer cannot, what is below it can
                    file.seek(offset)
                while size:
                    data = source.read(min(size, _PIECE))
                    if not data:
                        raise UsageError(f"{self._shown} ends within {_shown(member.path)!r}: it is cut off")
                    file.write(data)
                    size -= len(data)
                    self._size += len(data)
            file.flush()
            if member.holes is not None:
                os.ftruncate(fd, member.size)
            self._dress(fd, member)

    def _opened(self, member: _Member) -> IO[bytes]:
        assert member.opened is not None
        try:
            return member.opened()
        except OSError as error:
            path = _shown(member.path)
            raise UsageError(f"{path!r} of {self._shown} cannot be read: {error.strerror}") from error

    def _link(self, parent: int, name: bytes, member: _Member) -> None:
        """Another name of a file that is there."""
        parts = _parts(member.target.decode("utf-8", "surrogateescape"), self._shown)
        here = os.dup(parent)  # the other directory takes its place
        try:
            there = self._parent(parts[:-1], make=False)
            os.link(parts[-1] if parts else b".", name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        except (FileNotFoundError, PermissionError) as error:
            why = "which is not there" if isinstance(error, FileNotFoundError) else "which is a directory"
            raise UsageError(
                f"{self._shown} has {_shown(member.path)!r} as another name of {_shown(parts)!r}, {why}"
            ) from error
        finally:
            os.close(here)

    def _dress(self, file: int | bytes, member: _Member) -> None:
        """Give it its owner, mode, attributes and time, in this order: the first two take others away."""
        follow = isinstance(file, int)
        mode = member.mode & 0o7777
        try:
            os.chown(file, member.uid, member.gid, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            if member.uid or member.gid:  # what was root's is root's again where this user is root of the container
                self.tell("yours now, as this user cannot give files to others", member.path)
            if member.kind is Kind.FILE and mode & (stat.S_ISUID | stat.S_ISGID) and (member.uid or member.gid):
                mode &= ~(stat.S_ISUID | stat.S_ISGID)
                self.tell("without set-user-ID and set-group-ID, as their owner is another now", member.path)
        if member.kind is not Kind.LINK:
            os.chmod(file, mode)  # noqa: PTH101
        for name, value in member.xattrs.items():
            try:
                os.setxattr(file, name, value, follow_symlinks=follow)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno not in _REFUSED:
                    raise
                self.tell(f"without the attribute {printable(name)}, which is refused here", member.path)
        os.utime(file, ns=(member.mtime, member.mtime), follow_symlinks=follow)


def _text(path: bytes) -> str:
    return printable(path.decode("utf-8", "surrogateescape"))


def _shown(path: tuple[bytes, ...]) -> str:
    return _text(b"/".join(path))

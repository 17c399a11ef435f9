"""A runtime that is a file of this host, or a directory: what it is, and whether it can be one. Nothing is run.

A directory is known by the digest of a list of all that is in it; a file by its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from labkit.core.errors import UsageError
from labkit.core.text import amount

PROGRAM = "runtime"  # what is run of a directory
_MOST, _LARGEST = 20_000, 2 << 30  # files of a directory, and bytes of all of them
_MACHINES = {
    3: "i386", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64",
    258: "loongarch64",
}  # fmt: skip
# uname -m, and what besides itself such a kernel may run.
_ALSO = {"x86_64": ("i386",), "aarch64": ("arm",), "s390x": (), "riscv64": (), "loongarch64": ()}
_CALLED = {
    "amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64", "i486": "i386", "i586": "i386", "i686": "i386",
    "armv6l": "arm", "armv7l": "arm", "armv8l": "arm",
}  # fmt: skip
_REL, _EXEC, _DYN, _CORE = 1, 2, 3, 4
_INTERP, _DYNAMIC = 3, 2
_FLAGS_1, _PIE = 0x6FFFFFFB, 0x08000000
# What people name by mistake, by how it begins.
_OTHERS = (
    (b"\x1f\x8b", "is packed with gzip", "unpack it, and name the program in it"),
    (b"PK\x03\x04", "is a zip archive", "unpack it, and name the program in it"),
    (b"\xfd7zXZ\0", "is packed with xz", "unpack it, and name the program in it"),
    (b"BZh", "is packed with bzip2", "unpack it, and name the program in it"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd", "unpack it, and name the program in it"),
    (b"!<arch>", "is a library or a Debian package", "unpack it, and name the program in it"),
    (b"\xed\xab\xee\xdb", "is an RPM package", "unpack it, and name the program in it"),
    (b"\xcf\xfa\xed\xfe", "is a program for macOS", "build it for Linux: GOOS=linux, or --target ...-linux-..."),
    (b"\xfe\xed\xfa", "is a program for macOS", "build it for Linux: GOOS=linux, or --target ...-linux-..."),
    (b"\xca\xfe\xba\xbe", "is a program for macOS", "build it for Linux: GOOS=linux, or --target ...-linux-..."),
    (b"MZ", "is a program for Windows", "build it for Linux: GOOS=linux, or --target ...-linux-..."),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself", "git lfs pull gets the file"),
    (b"\xef\xbb\xbf#!", "begins with a byte order mark, so no kernel runs it", "save it as UTF-8 without one"),
    (b"\0asm", "is WebAssembly, which no kernel runs by itself", "name a script that runs it"),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a program is. architecture: empty where it is a script; loader: what the kernel starts for it, and env where
    that is `env`, the program which that looks for.
    """

    architecture: str = ""
    loader: str = ""
    env: str = ""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be put into a machine. program is the path of what is run below the place where it goes; sums: its
    files, as sha256sum takes them.
    """

    path: Path
    program: str
    sha256: str
    sums: str
    size: int
    is_tree: bool
    kind: Kind


def packed(path: Path, name: str) -> Parcel:
    """The file, or the directory, looked at, to be called name in a machine. UsageError where it can be no runtime."""
    try:
        if path.is_dir():
            return _tree(path, name)
        kind = _program(path)
        digest, size = _digest(path)
        return Parcel(path, name, digest, _line(digest, name), size, False, kind)
    except OSError as error:
        raise UsageError(f"{error.filename or path} cannot be read: {error.strerror}") from error


def architecture(head: bytes) -> str:
    """What a program is built for, by its first 20 bytes; empty where it is none of the machine's."""
    if len(head) < 20 or not head.startswith(b"\x7fELF") or head[5] not in (1, 2):
        return ""
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return _MACHINES.get(number, f"machine {number} of the ELF list")


def same_architecture(kind: Kind, machine: str) -> str:
    """Why a program cannot run on a machine that calls itself so; empty where it may."""
    wanted = _CALLED.get(machine, machine)
    built_for = kind.architecture
    if not built_for or wanted not in (*_ALSO, "i386", "arm", "ppc64") or built_for in (wanted, *_ALSO.get(wanted, ())):
        return ""
    return f"is built for {built_for}, and the machine is {wanted}"


def tar(parcel: Parcel, out: IO[bytes]) -> None:
    """Write the directory as a tar archive. UsageError where something of it is gone meanwhile."""
    top = parcel.program.partition("/")[0]
    try:
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path in (parcel.path, *_below(parcel.path)):
                relative = path.relative_to(parcel.path)
                entry = archive.gettarinfo(path, str(PurePosixPath(top, *relative.parts)))
                entry.uid = entry.gid = 0
                entry.uname = entry.gname = "root"
                entry.mode &= 0o777
                if entry.islnk():  # its other name may be outside
                    entry.type, entry.size = tarfile.REGTYPE, path.stat().st_size
                if entry.isreg():
                    with path.open("rb") as file:
                        archive.addfile(entry, file)
                else:
                    archive.addfile(entry)
    except OSError as error:
        message = f"{parcel.path} changed while it was sent: {error}"
        raise UsageError(message, hint="wait for its build to end") from error


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def _line(digest: str, name: str) -> str:
    """As sha256sum prints and reads it."""
    escaped = name.replace("\\", "\\\\")
    return f"{digest}  {name}\n" if escaped == name else f"\\{digest}  {escaped}\n"


def _tree(path: Path, name: str) -> Parcel:
    program = path / PROGRAM
    if not os.path.lexists(program):
        raise UsageError(
            f"{path} is a directory without a `{PROGRAM}`, which is what would be run of it",
            hint=f"name the program itself; or put a script or a link called {PROGRAM} into it",
        )
    whole, sums, size = hashlib.sha256(), [], 0
    for count, file in enumerate(_below(path)):
        relative, about = PurePosixPath(*file.relative_to(path).parts), file.lstat()
        if stat.S_ISLNK(about.st_mode):
            target = file.readlink()
            if target.is_absolute() or not _stays(relative, PurePosixPath(target)):
                raise UsageError(
                    f"{file} is a link that leads out of {path}, to {target}",
                    hint="copy what it leads to into its place",
                )
            word = f"link {target}"
        elif stat.S_ISREG(about.st_mode):
            digest, length = _digest(file)
            size += length
            word = f"{about.st_mode & 0o777:o} {digest}"
            sums.append(_line(digest, str(PurePosixPath(name, relative))))
        elif stat.S_ISDIR(about.st_mode):
            word = "directory"
        else:
            raise UsageError(f"{file} is neither a file nor a directory nor a link", hint="take it out of there")
        if not str(relative).isprintable():
            raise UsageError(f"{path}: {str(relative)!r} is no name that can be sent", hint="give it another one")
        if count > _MOST or size > _LARGEST:
            raise UsageError(
                f"{path} is more than {_MOST} files or {amount(_LARGEST)}: too much to be a runtime",
                hint="name a directory with the runtime and what it needs alone",
            )
        whole.update(f"{word} {relative}\0".encode())
    kind = _program(program)
    return Parcel(path, f"{name}/{PROGRAM}", whole.hexdigest(), "".join(sums), size, True, kind)


def _below(path: Path) -> Iterator[Path]:
    """All that is in a directory, each directory before what is in it, links not followed."""
    for file in sorted(path.iterdir()):
        yield file
        if file.is_dir() and not file.is_symlink():
            yield from _below(file)


def _stays(link: PurePosixPath, target: PurePosixPath) -> bool:
    depth = len(link.parts) - 1
    for part in target.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return True


def _program(path: Path) -> Kind:
    """UsageError where it can be none."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise UsageError(f"{path} is no regular file, so it can be no runtime")
    with path.open("rb") as file:
        head = file.read(1 << 16)
        if not head:
            raise UsageError(f"{path} is empty", hint="its build may have failed, or goes on")
        if head.startswith(b"\x7fELF"):
            found = _elf(path, file, head)
        elif head.startswith(b"#!"):
            found = _script(path, head)
        else:
            for start, what, hint in _OTHERS:
                if head.startswith(start):
                    raise UsageError(f"{path} {what}", hint=hint)
            if head[257:262] == b"ustar":
                raise UsageError(f"{path} is a tar archive", hint="unpack it, and name the program in it")
            raise UsageError(
                f"{path} is neither a program of Linux (ELF) nor a script", hint="a script begins with #!/bin/sh"
            )
    if not about.st_mode & 0o111:
        raise UsageError(f"{path} is not executable", hint=f"chmod +x {path}")
    return found


def _script(path: Path, head: bytes) -> Kind:
    line, _, _ = head.partition(b"\n")
    if line.endswith(b"\r"):
        raise UsageError(
            f"{path}: its lines end as those of Windows do (CRLF), so no kernel finds its interpreter",
            hint=f"sed -i 's/\\r$//' {path}",
        )
    words = line[2:].decode(errors="replace").split()
    if not words or not words[0].startswith("/"):
        raise UsageError(f"{path}: its first line names no interpreter by its path", hint="such as #!/bin/sh")
    if len(line) > 255:
        raise UsageError(f"{path}: its first line is longer than the 255 bytes that a kernel reads")
    env = ""
    if PurePosixPath(words[0]).name == "env":
        env = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
    interpreter = PurePosixPath(env or words[0]).name
    rows = head.split(b"\0")[0].splitlines(keepends=True)[1:]  # what follows may be anything: an archive, say
    if interpreter.endswith("sh") and 2 * sum(row.endswith(b"\r\n") for row in rows) > len(rows):
        raise UsageError(
            f"{path}: its lines end as those of Windows do (CRLF), which {interpreter} takes for text",
            hint=f"sed -i 's/\\r$//' {path}",
        )
    return Kind("", words[0], env)


def _elf(path: Path, file: IO[bytes], head: bytes) -> Kind:
    """By the System V ABI's chapter 4 and 5: the header, and the segments that it names."""
    try:
        bits, order = {1: 32, 2: 64}[head[4]], {1: "<", 2: ">"}[head[5]]
        (kind,) = struct.unpack_from(f"{order}H", head, 16)
        form = f"{order}{'QQ' if bits == 64 else 'II'}"
        _, offset = struct.unpack_from(form, head, 24)
        size, count = struct.unpack_from(f"{order}HH", head, 54 if bits == 64 else 42)
        segments = [_segment(file, offset + size * place, order, bits) for place in range(min(count, 512))]
        loader = next((_text(file, where, length) for what, where, length in segments if what == _INTERP), "")
        dynamic = next(((where, length) for what, where, length in segments if what == _DYNAMIC), None)
        is_pie = dynamic is not None and _is_pie(file, *dynamic, order, bits)
        is_whole = max((where + length for _, where, length in segments), default=0) <= file.seek(0, os.SEEK_END)
    except (KeyError, IndexError, struct.error):
        is_whole, kind, loader, is_pie = False, 0, "", False
    if not is_whole:
        raise UsageError(f"{path} is a program that is cut short", hint="its build may have failed, or goes on")
    if kind == _REL:
        raise UsageError(f"{path} is an object file that was not linked", hint="name the program that it is part of")
    if kind == _CORE:
        raise UsageError(f"{path} is the memory of a program that crashed", hint="name the program itself")
    if kind not in (_EXEC, _DYN) or (kind == _DYN and not loader and not is_pie):
        raise UsageError(f"{path} is a shared library, not a program")
    return Kind(architecture(head), loader)


def _segment(file: IO[bytes], at: int, order: str, bits: int) -> tuple[int, int, int]:
    """Its type, its offset and its length in the file."""
    file.seek(at)
    if bits == 64:
        what, _, where, _, _, length = struct.unpack(f"{order}IIQQQQ", file.read(40))
    else:
        what, where, _, _, length = struct.unpack(f"{order}IIIII", file.read(20))
    return what, where, length


def _text(file: IO[bytes], where: int, length: int) -> str:
    file.seek(where)
    text = file.read(min(length, 4096)).rstrip(b"\0").decode(errors="replace")
    return text if re.fullmatch(r"/[\x21-\x7e]+", text) else ""


def _is_pie(file: IO[bytes], where: int, length: int, order: str, bits: int) -> bool:
    form = f"{order}{'qQ' if bits == 64 else 'iI'}"
    size = struct.calcsize(form)
    file.seek(where)
    data = file.read(min(length, 1 << 16))
    entries = struct.iter_unpack(form, data[: len(data) // size * size])
    return any(tag == _FLAGS_1 and value & _PIE for tag, value in entries)

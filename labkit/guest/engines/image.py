"""OCI images of files that are given: the same files make the same bytes, on every host and with every Python.

So nothing here compresses: gzip and zstd have formats for data that is stored as it is, which every reader must take.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Optional, Union

LINK = 0o120000
FILE, HARD, SYMBOLIC, CHARACTER, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP, ZSTD = f"{TAR}+gzip", f"{TAR}+zstd"
NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
_PAX = b"x"
_NAME = 100  # bytes of a name that a header has
_STORED = 65535  # bytes of a block of deflate(RFC 1951) that is stored
_BLOCK = 128 << 10  # of one of zstd (RFC 8878)


class Entry:
    """An entry of a layer. path and link are as they stand in the archive: bytes, or text in UTF-8. xattrs are by their
    names; pax has other records of pax(1).
    """

    def __init__(
        self,
        path: Union[str, bytes],
        data: bytes = b"",
        mode: int = 0o644,
        kind: bytes = FILE,
        *,
        link: Union[str, bytes] = b"",
        owner: tuple[int, int] = (0, 0),
        user: str = "",
        mtime: int = 0,
        device: tuple[int, int] = (0, 0),
        xattrs: Optional[Mapping[str, bytes]] = None,
        pax: Optional[Mapping[str, bytes]] = None,
    ) -> None:
        self.path, self.link = _bytes(path), _bytes(link)
        self.data, self.mode, self.kind, self.owner, self.mtime, self.device = data, mode, kind, owner, mtime, device
        self.user = user
        self.pax = {**(pax or {}), **{f"SCHILY.xattr.{name}": value for name, value in (xattrs or {}).items()}}

    def tar(self) -> bytes:
        """Its headers and data in the format of pax(1), or ustar where that does."""
        records = dict(self.pax)
        if len(self.path) > _NAME:
            records["path"] = self.path
        if len(self.link) > _NAME:
            records["linkpath"] = self.link
        head = b""
        if records:
            data = b"".join(_record(key, value) for key, value in sorted(records.items()))
            head = _header(Entry(b"PaxHeaders/" + self.path[-60:], data, kind=_PAX)) + data + bytes(-len(data) % 512)
        return head + _header(self) + self.data + bytes(-len(self.data) % 512)


def directory(path: Union[str, bytes], mode: int = 0o755, **others: object) -> Entry:
    return Entry(path, b"", mode, DIRECTORY, **others)  # type: ignore[arg-type]


def symlink(path: Union[str, bytes], target: Union[str, bytes]) -> Entry:
    return Entry(path, b"", 0o777, SYMBOLIC, link=target)


def hardlink(path: Union[str, bytes], target: Union[str, bytes]) -> Entry:
    return Entry(path, b"", 0o644, HARD, link=target)


def tar(entries: Iterable[Entry]) -> bytes:
    """An archive of the entries, in this order."""
    return b"".join(entry.tar() for entry in entries) + bytes(1024)


class Tree:
    """The files of a layer, by path: bytes with a mode, or a link."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, int]] = {}
        self._directories: dict[str, int] = {}

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._directories[path.strip("/")] = mode

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._files[path.strip("/")] = (data, mode)

    def link(self, path: str, target: str) -> None:
        self._files[path.strip("/")] = (target.encode(), LINK)

    def entries(self) -> list[Entry]:
        """Without what differs from one host to the next: owners are root, times the epoch."""
        found = [directory(path, mode) for path, mode in sorted(self._directories.items())]
        for path, (data, mode) in sorted(self._files.items()):
            found.append(symlink(path, data) if mode == LINK else Entry(path, data, mode))
        return found

    def tar(self) -> bytes:
        return tar(self.entries())


class Image:
    """An image of one manifest. layers are (archive, media type), the lowest first; about is its configuration without
    rootfs and history, annotations are the manifest's, index those of its descriptor. name is a whole name such as
    docker.io/labkit/x:latest.
    """

    def __init__(
        self,
        name: str,
        about: Mapping[str, object],
        layers: Sequence[tuple[bytes, str]],
        *,
        annotations: Optional[Mapping[str, str]] = None,
        index: Optional[Mapping[str, str]] = None,
        manifest: Optional[Mapping[str, object]] = None,
        rootfs: str = "layers",
        altered: bool = False,
    ) -> None:
        self.name, self.layers = name, list(layers)
        self.annotations, self.index, self.manifest = dict(annotations or {}), dict(index or {}), dict(manifest or {})
        self.altered = altered
        self.about = {
            **about,
            "rootfs": {"type": rootfs, "diff_ids": [_digest(data) for data, _ in self.layers]},
            "history": [{"created_by": "labkit"} for _ in self.layers],
        }

    def files(self) -> dict[str, bytes]:
        """The layout, by paths. Docker before 28 reads manifest.json, and no index.json. altered: a bit of the last
        layer is another than its digest says.
        """
        blobs: dict[str, bytes] = {}

        def put(data: bytes, kind: str) -> dict[str, object]:
            blobs[_digest(data)] = data
            return {"mediaType": kind, "digest": _digest(data), "size": len(data)}

        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": put(_json(self.about), CONFIG),
            "layers": [put(packed(data, kind), kind) for data, kind in self.layers],
            **({"annotations": self.annotations} if self.annotations else {}),
            **self.manifest,
        }
        top = put(_json(manifest), MANIFEST)
        top["annotations"] = {
            **self.index,
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": "latest",
        }
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]}
        legacy = {
            "Config": _path(_json(self.about)),
            "RepoTags": [self.name.partition("/")[2]],
            "Layers": [_path(packed(data, kind)) for data, kind in self.layers],
        }
        if self.altered:
            data, kind = self.layers[-1]
            good = packed(data, kind)
            at = good.index(b"altered here") + 11
            blobs[_digest(good)] = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        return {
            "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
            "index.json": _json(index),
            "manifest.json": _json([legacy]),
            **{f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()},
        }

    def archive(self) -> bytes:
        """The layout as a tar archive."""
        layout = Tree()
        layout.directory("blobs")
        layout.directory("blobs/sha256")
        for path, data in self.files().items():
            layout.file(path, data)
        return layout.tar()

    def unpack(self, place: Path) -> None:
        """Write the layout as a directory."""
        (place / "blobs/sha256").mkdir(parents=True)
        for path, data in self.files().items():
            (place / path).write_bytes(data)


def write(archive: Path, tree: Tree, config: Mapping[str, object], architecture: str, name: str) -> None:
    """Write an OCI layout as a tar archive, with one image of one layer, under a whole name such as
    docker.io/labkit/x:latest. config is the image's `config`.
    """
    about = {"architecture": architecture, "os": "linux", "config": dict(config)}
    archive.write_bytes(Image(name, about, [(tree.tar(), TAR)]).archive())


def packed(data: bytes, kind: str) -> bytes:
    """A layer in the form of its media type."""
    return gzip(data) if kind.endswith("+gzip") else zstd(data) if kind.endswith("+zstd") else data


def gzip(data: bytes) -> bytes:
    """As RFC 1952 has it, stored: nothing in it depends on a zlib."""
    pieces = [data[at : at + _STORED] for at in range(0, len(data), _STORED)] or [b""]
    blocks = [
        struct.pack("<BHH", number == len(pieces), len(piece), len(piece) ^ 0xFFFF) + piece
        for number, piece in enumerate(pieces, 1)
    ]
    end = struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
    return b"\x1f\x8b\x08\x00\0\0\0\0\x00\xff" + b"".join(blocks) + end


def zstd(data: bytes) -> bytes:
    """As RFC 8878 has it: a frame of one segment, of raw blocks."""
    pieces = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)] or [b""]
    blocks = [
        struct.pack("<I", len(piece) << 3 | (number == len(pieces)))[:3] + piece
        for number, piece in enumerate(pieces, 1)
    ]
    return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + b"".join(blocks)


def _header(entry: Entry) -> bytes:
    """A header of tar(5)."""
    major_minor = b"%07o\0%07o\0" % entry.device if entry.kind in (CHARACTER, BLOCK) else bytes(16)
    header = b"".join(
        (
            entry.path[:_NAME].ljust(_NAME, b"\0"),
            b"%07o\0" % entry.mode,
            b"%07o\0" % entry.owner[0],
            b"%07o\0" % entry.owner[1],
            b"%011o\0" % len(entry.data),
            b"%011o\0" % entry.mtime,
            b" " * 8,
            entry.kind,
            entry.link[:_NAME].ljust(_NAME, b"\0"),
            b"ustar\x0000",
            entry.user.encode().ljust(32, b"\0"),
            bytes(32),
            major_minor,
        )
    ).ljust(512, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _record(key: str, value: bytes) -> bytes:
    """A record of pax(1), whose length counts itself."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    size = len(rest)
    while len(str(size)) + len(rest) != size:
        size = len(str(size)) + len(rest)
    return str(size).encode() + rest


def _bytes(text: Union[str, bytes]) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _path(data: bytes) -> str:
    return f"blobs/{_digest(data).replace(':', '/')}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

"""An OCI image in an archive, of files that are given: the same files make the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

LINK = 0o120000


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

    def tar(self) -> bytes:
        """In the ustar format, without what differs from one host to the next: owners are root, times the epoch."""
        entries = [_entry(path, mode, b"5") for path, mode in sorted(self._directories.items())]
        for path, (data, mode) in sorted(self._files.items()):
            if mode == LINK:
                entries.append(_entry(path, 0o777, b"2", link=data))
            else:
                entries.append(_entry(path, mode, b"0", size=len(data)) + data + bytes(-len(data) % 512))
        return b"".join(entries) + bytes(1024)


def _entry(path: str, mode: int, kind: bytes, *, size: int = 0, link: bytes = b"") -> bytes:
    """A header of tar(5); path has at most 100 bytes."""
    header = b"".join(
        (
            path.encode().ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            b"%011o\0" % size,
            b"%011o\0" % 0,
            b" " * 8,
            kind,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
        )
    ).ljust(512, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def write(archive: Path, tree: Tree, config: Mapping[str, object], architecture: str, name: str) -> None:
    """Write an OCI layout as a tar archive, with one image of one layer, under a whole name such as
    docker.io/labkit/x:latest. config is the image's `config`. Docker before 28 reads manifest.json, and no index.json.
    """
    layer = tree.tar()
    about = {
        "architecture": architecture,
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created_by": "labkit"}],
    }
    blobs: dict[str, bytes] = {}

    def put(data: bytes, kind: str) -> dict[str, object]:
        blobs[_digest(data)] = data
        return {"mediaType": kind, "digest": _digest(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(_json(about), "application/vnd.oci.image.config.v1+json"),
        "layers": [put(layer, "application/vnd.oci.image.layer.v1.tar")],
    }
    top = put(_json(manifest), "application/vnd.oci.image.manifest.v1+json")
    top["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [top]}
    layout = Tree()
    layout.file("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    layout.file("index.json", _json(index))
    legacy = {
        "Config": _path(_json(about)),
        "RepoTags": [name.partition("/")[2]],
        "Layers": [_path(layer)],
    }
    layout.file("manifest.json", _json([legacy]))
    layout.directory("blobs")
    layout.directory("blobs/sha256")
    for digest, data in blobs.items():
        layout.file(f"blobs/{digest.replace(':', '/')}", data)
    archive.write_bytes(layout.tar())


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _path(data: bytes) -> str:
    return f"blobs/{_digest(data).replace(':', '/')}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

"""A layout that a builder has written, as values: its documents, each blob with its true digest, and the entries of
layers. Read by this program alone; nothing raises, whatever is in it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from .tree import text

_MOST = 64 << 20  # bytes of a blob that are read
_ENTRIES = 2000  # of a layer
_TYPES = {
    b"0": "file", b"\0": "file", b"1": "hardlink", b"2": "symlink", b"3": "character", b"4": "block", b"5": "directory",
    b"6": "fifo",
}  # fmt: skip
_XATTR = "SCHILY.xattr."


def look(place: Path) -> dict[str, Any]:
    """files are all paths in the layout; oci-layout and index.json as JSON, None where there is none; blobs by the
    digest that their path says.
    """
    files = sorted(
        str(path.relative_to(place)) for path in place.rglob("*") if path.is_file() and not path.is_symlink()
    )
    blobs = {}
    for path in files:
        words = path.split("/")
        if words[0] == "blobs" and len(words) == 3:
            blobs[":".join(words[1:])] = blob((place / path).read_bytes()[:_MOST])
    return {
        "files": files[:_ENTRIES],
        "oci-layout": document(_bytes(place / "oci-layout")),
        "index.json": document(_bytes(place / "index.json")),
        "blobs": blobs,
    }


def blob(data: bytes) -> dict[str, Any]:
    """size, sha256, kind (json, tar, gzip, zstd or other); json, or plain (the digest of the archive) and entries."""
    found: dict[str, Any] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "kind": "other"}
    value = document(data) if data[:1] == b"{" else None
    if value is not None:
        return {**found, "kind": "json", "json": value}
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return {**found, "kind": "zstd"}
    plain: Optional[bytes] = data
    if data.startswith(b"\x1f\x8b"):
        found["kind"], plain = "gzip", _inflated(data)
    if plain is None or not (plain[257:262] == b"ustar" or not plain.strip(b"\0")):
        return found
    found["kind"] = "tar" if found["kind"] == "other" else found["kind"]
    found["plain"] = hashlib.sha256(plain).hexdigest()
    found["entries"] = list(entries(plain))[:_ENTRIES]
    return found


def document(data: bytes) -> Optional[Any]:
    with suppress(ValueError):
        return json.loads(data)
    return None


def _bytes(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def _inflated(data: bytes) -> Optional[bytes]:
    out = b""
    while data:
        one = zlib.decompressobj(31)
        try:
            out += one.decompress(data, _MOST)
        except zlib.error:
            return None
        data = one.unused_data
    return out


def entries(data: bytes) -> Iterator[dict[str, Any]]:
    """The entries of an archive, in their order: name, type, mode, uid, gid, size, link, xattrs."""
    at, records = 0, {}
    while at + 512 <= len(data):
        head = data[at : at + 512]
        if not head.strip(b"\0"):
            return
        size, kind = _number(head[124:136]), head[156:157]
        body = data[at + 512 : at + 512 + size]
        at += 512 + -(-size // 512) * 512
        if kind == b"x":
            records.update(_records(body))
        elif kind in (b"L", b"K"):
            records["path" if kind == b"L" else "linkpath"] = body.rstrip(b"\0")
        elif kind != b"g":
            name = head[:100].split(b"\0")[0]
            prefix = head[345:500].split(b"\0")[0] if head[257:263] == b"ustar\0" else b""
            name = records.get("path", b"/".join(filter(None, (prefix, name))))
            link = records.get("linkpath", head[157:257].split(b"\0")[0])
            yield {
                "name": text(name),
                "type": _TYPES.get(kind, text(kind)),
                "mode": _number(head[100:108]) & 0o7777,
                "uid": _decimal(records.get("uid")) or _number(head[108:116]),
                "gid": _decimal(records.get("gid")) or _number(head[116:124]),
                "size": size,
                "link": text(link),
                "xattrs": {key[len(_XATTR) :]: one.hex() for key, one in records.items() if key.startswith(_XATTR)},
            }
            records = {}


def _number(field: bytes) -> int:
    """In octal, or in GNU's form for large numbers."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    with suppress(ValueError):
        return int(field.strip(b"\0 ") or b"0", 8)
    return 0


def _decimal(value: Optional[bytes]) -> int:
    with suppress(ValueError):
        return int(value or b"0")
    return 0


def _records(body: bytes) -> dict[str, bytes]:
    found = {}
    while body:
        length, _, _ = body.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(body):
            break
        key, _, value = body[len(length) + 1 : int(length) - 1].partition(b"=")
        found[text(key)] = value
        body = body[int(length) :]
    return found

"""The images whose layers are unpacked, by layer.md of image-spec, and what must be in the tree then."""

from __future__ import annotations

import hashlib

from ..engines import image
from ..engines.image import GZIP, NONDISTRIBUTABLE, TAR, ZSTD, Entry, directory, hardlink, symlink
from .case import Case, Shown

_TEXT = b"content\n"
_BIG = bytes(range(256)) * 1024  # more than one block of gzip or zstd
_XATTR = b"\x00value\xff"
_CAPABILITY = (
    b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"  # cap_net_bind_service=ep
)
_HOLE = 1 << 20  # bytes
_SPARSE = b"begin" + bytes(_HOLE) + b"end"
_LONG = "long-" + "n" * 240
_DEEP = ["directory"] * 20


def _file(data: bytes = _TEXT, **others: object) -> dict[str, object]:
    return {"type": "file", "sha256": hashlib.sha256(data).hexdigest(), **others}


def _format(name: str, ident: str, kind: str) -> Case:
    entries = [Entry("t/file", _TEXT), Entry("t/big", _BIG)]
    shows: dict[str, Shown] = {ident: {"t/file": _file(), "t/big": _file(_BIG)}}
    return Case(name, [ident], layers=[(entries, kind)], shows=shows)


# GNU's format 1.0: a map of the data, in text, before it.
_MAP = f"2\n0\n5\n{_HOLE + 5}\n3\n".encode().ljust(512, b"\0")
_SPARSE_ENTRY = Entry(
    "t/GNUSparseFile.0/sparse",
    _MAP + b"begin" + b"end",
    pax={
        "GNU.sparse.major": b"1",
        "GNU.sparse.minor": b"0",
        "GNU.sparse.name": b"t/sparse",
        "GNU.sparse.realsize": str(len(_SPARSE)).encode(),
    },
)

_OLD = [
    Entry("t/gone", _TEXT),
    directory("t/gone-dir/"),
    Entry("t/gone-dir/a", _TEXT),
    directory("t/gone-dir/deep/"),
    Entry("t/gone-dir/deep/b", _TEXT),
    Entry("t/kept", _TEXT),
    Entry("t/gone-too", _TEXT),
    symlink("t/gone-link", "kept"),
]
_LOWER = [
    directory("t/a/"),
    Entry("t/a/old", _TEXT),
    directory("t/a/b/"),
    Entry("t/a/b/old", _TEXT),
    Entry("t/beside", _TEXT),
]
_UPPER = [directory("t/a/"), Entry("t/a/new", _TEXT), directory("t/a/b/"), Entry("t/a/b/new", _TEXT)]
_OPAQUE = Entry("t/a/.wh..wh..opq")
_HIDDEN: Shown = {"t/a/old": None, "t/a/b/old": None, "t/a/.wh..wh..opq": None, "t/beside": _file()}
_NEW: Shown = {"t/a/new": _file(), "t/a/b/new": _file()}

LAYERS = [
    _format("plain", "LAYER-001", TAR),
    _format("gzip", "LAYER-002", GZIP),
    _format("zstd", "LAYER-003", ZSTD),
    _format("nondistributable", "LAYER-004", NONDISTRIBUTABLE),
    Case(
        "unknown-properties",
        ["LAYER-005"],
        about={"org.labkit.unknown": {"a": 1}},
        manifest={"org.labkit.unknown": ["a"]},
        layers=[([Entry("t/file", _TEXT)], TAR)],
        shows={"LAYER-005": {"t/file": _file()}},
    ),
    Case("unknown-rootfs", ["LAYER-006"], rootfs="labkit", layers=[([Entry("t/file", _TEXT)], TAR)]),
    Case("altered", ["LAYER-007"], layers=[([Entry("t/file", b"altered here: a\n")], TAR)], altered=True),
    Case(
        "whiteouts",
        ["LAYER-010", "LAYER-011", "LAYER-012"],
        layers=[
            (_OLD, TAR),
            ([Entry("t/.wh.gone"), Entry("t/.wh.gone-dir"), Entry("t/.wh.gone-link"), Entry("t/new", _TEXT)], TAR),
            ([Entry("t/.wh.gone-too")], GZIP),
        ],
        shows={
            "LAYER-010": {"t/gone": None, "t/gone-too": None, "t/gone-link": None, "t/kept": _file(), "t/new": _file()},
            "LAYER-011": {"t/gone-dir": None, "t/gone-dir/a": None, "t/gone-dir/deep": None},
            "LAYER-012": {f"t/.wh.{name}": None for name in ("gone", "gone-dir", "gone-link", "gone-too")},
        },
    ),
    Case(
        "whiteouts-of-the-same-layer",
        ["LAYER-013"],
        layers=[
            ([Entry("t/first", b"old\n"), Entry("t/last", b"old\n")], TAR),
            (
                [Entry("t/.wh.first"), Entry("t/first", _TEXT), Entry("t/last", _TEXT), Entry("t/.wh.last")],
                TAR,
            ),
        ],
        shows={"LAYER-013": {"t/first": _file(), "t/last": _file()}},
    ),
    Case(
        "opaque",
        ["LAYER-014", "LAYER-015"],
        layers=[(_LOWER, TAR), ([_UPPER[0], _OPAQUE, *_UPPER[1:]], TAR)],
        shows={"LAYER-014": _HIDDEN, "LAYER-015": _NEW},
    ),
    Case(
        "opaque-last",
        ["LAYER-016"],
        layers=[(_LOWER, TAR), ([*_UPPER, _OPAQUE], TAR)],
        shows={"LAYER-016": {**_HIDDEN, **_NEW}},
    ),
    Case("whiteout-of-nothing", ["LAYER-017"], layers=[(_OLD, TAR), ([Entry("t/.wh.")], TAR)]),
    Case(
        "directory-over-directory",
        ["LAYER-020"],
        layers=[
            ([directory("t/d/"), Entry("t/d/child", _TEXT)], TAR),
            ([directory("t/d/", 0o2750, owner=(12, 34), mtime=1234567890)], TAR),
        ],
        shows={
            "LAYER-020": {
                "t/d": {"type": "directory", "mode": 0o2750, "uid": 12, "gid": 34, "mtime": 1234567890},
                "t/d/child": _file(),
            }
        },
    ),
    Case(
        "over-another-kind",
        ["LAYER-021", "LAYER-022", "LAYER-023"],
        layers=[
            (
                [
                    directory("t/was-directory/"),
                    Entry("t/was-directory/child", _TEXT),
                    Entry("t/was-file", b"old\n"),
                    Entry("t/target", b"old\n"),
                    symlink("t/was-link", "target"),
                    Entry("t/becomes-link", b"old\n"),
                    Entry("t/one", b"old\n"),
                    hardlink("t/two", "t/one"),
                ],
                TAR,
            ),
            (
                [
                    Entry("t/was-directory", _TEXT),
                    directory("t/was-file/"),
                    Entry("t/was-file/child", _TEXT),
                    Entry("t/was-link", _TEXT),
                    symlink("t/becomes-link", "target"),
                    Entry("t/one", _TEXT),
                ],
                TAR,
            ),
        ],
        shows={
            "LAYER-021": {
                "t/was-directory": _file(),
                "t/was-file": {"type": "directory"},
                "t/was-file/child": _file(),
                "t/becomes-link": {"type": "symlink", "link": "target"},
            },
            "LAYER-022": {"t/was-link": _file(), "t/target": _file(b"old\n")},
            "LAYER-023": {"t/one": _file(), "t/two": _file(b"old\n")},
        },
    ),
    Case(
        "attributes",
        ["LAYER-030", "LAYER-031", "LAYER-032", "LAYER-033"],
        layers=[
            (
                [
                    Entry("t/time", _TEXT, mtime=1234567890),
                    directory("t/time-dir/", mtime=1234567891),
                    Entry("t/time-dir/child", _TEXT, mtime=1234567892),
                    Entry("t/owner", _TEXT, owner=(12, 34)),
                    Entry("t/owner-named", _TEXT, owner=(12, 34), user="root"),
                    Entry("t/setuid", _TEXT, 0o4755, owner=(12, 34)),
                    directory("t/setgid/", 0o2755),
                    directory("t/sticky/", 0o1777),
                    Entry("t/none", _TEXT, 0),
                ],
                TAR,
            )
        ],
        shows={
            "LAYER-030": {
                "t/time": {"mtime": 1234567890},
                "t/time-dir": {"mtime": 1234567891},
                "t/time-dir/child": {"mtime": 1234567892},
            },
            "LAYER-031": {"t/owner": {"uid": 12, "gid": 34}, "t/setuid": {"uid": 12, "gid": 34}},
            "LAYER-032": {
                "t/setuid": {"mode": 0o4755},
                "t/setgid": {"mode": 0o2755},
                "t/sticky": {"mode": 0o1777},
                "t/none": {"mode": 0},
            },
            "LAYER-033": {"t/owner-named": {"uid": 12, "gid": 34}},
        },
    ),
    Case(
        "xattrs",
        ["LAYER-034"],
        layers=[
            (
                [
                    Entry("t/user", _TEXT, xattrs={"user.labkit": _XATTR}),
                    Entry("t/capability", _TEXT, 0o755, xattrs={"security.capability": _CAPABILITY}),
                ],
                TAR,
            )
        ],
        shows={
            "LAYER-034": {
                "t/user": {"xattrs": {"user.labkit": _XATTR.hex()}},
                "t/capability": {"xattrs": {"security.capability": _CAPABILITY.hex()}},
            }
        },
    ),
    Case(
        "links",
        ["LAYER-035", "LAYER-036"],
        layers=[
            (
                [
                    symlink("t/relative", "../etc/passwd"),
                    symlink("t/absolute", "/etc/passwd"),
                    symlink("t/dangling", "no/where"),
                    symlink("t/itself", "itself"),
                    Entry("t/one", _TEXT),
                    hardlink("t/two", "t/one"),
                    hardlink("t/of-a-link", "t/dangling"),
                ],
                TAR,
            ),
        ],
        shows={
            "LAYER-035": {
                "t/relative": {"type": "symlink", "link": "../etc/passwd"},
                "t/absolute": {"type": "symlink", "link": "/etc/passwd"},
                "t/dangling": {"type": "symlink", "link": "no/where"},
                "t/itself": {"type": "symlink", "link": "itself"},
            },
            "LAYER-036": {
                "t/one": _file(),
                "t/two": _file(same="t/one"),
                "t/of-a-link": {"type": "symlink", "link": "no/where", "same": "t/dangling"},
            },
        },
    ),
    Case(
        "nodes",
        ["LAYER-037"],
        layers=[
            (
                [
                    Entry("t/fifo", mode=0o640, kind=image.FIFO),
                    Entry("t/character", mode=0o666, kind=image.CHARACTER, device=(1, 3)),
                    Entry("t/block", mode=0o660, kind=image.BLOCK, device=(7, 200)),
                ],
                TAR,
            )
        ],
        shows={
            "LAYER-037": {
                "t/fifo": {"type": "fifo", "mode": 0o640},
                "t/character": {"type": "character", "mode": 0o666, "device": [1, 3]},
                "t/block": {"type": "block", "mode": 0o660, "device": [7, 200]},
            }
        },
    ),
    Case(
        "names",
        ["LAYER-040", "LAYER-041", "LAYER-042"],
        layers=[
            (
                [
                    Entry(b"t/caf\xe9", _TEXT),
                    Entry("t/caf\u00e9-\u2603", _TEXT),
                    Entry("t/two\nlines", _TEXT),
                    Entry("t/ spaces ", _TEXT),
                    Entry("t/back\\slash", _TEXT),
                    Entry(f"t/{_LONG}", _TEXT),
                    *(directory(f"t/{'/'.join(_DEEP[:depth])}/") for depth in range(1, len(_DEEP) + 1)),
                    Entry(f"t/{'/'.join(_DEEP)}/end", _TEXT),
                    symlink("t/long-link", "x" * 300),
                    Entry("./t/./dot", _TEXT),
                    Entry("t//double", _TEXT),
                ],
                TAR,
            )
        ],
        shows={
            "LAYER-040": {
                "t/caf\\xe9": _file(),
                "t/caf\u00e9-\u2603": _file(),
                "t/two\nlines": _file(),
                "t/ spaces ": _file(),
                "t/back\\slash": _file(),
            },
            "LAYER-041": {
                f"t/{_LONG}": _file(),
                f"t/{'/'.join(_DEEP)}/end": _file(),
                "t/long-link": {"type": "symlink", "link": "x" * 300},
            },
            "LAYER-042": {"t/dot": _file(), "t/double": _file()},
        },
    ),
    Case(
        "no-parents",
        ["LAYER-043"],
        layers=[([Entry("t/not/listed/file", _TEXT)], TAR)],
        shows={"LAYER-043": {"t/not": {"type": "directory"}, "t/not/listed/file": _file()}},
    ),
    Case(
        "sparse",
        ["LAYER-044"],
        layers=[([_SPARSE_ENTRY], TAR)],
        shows={"LAYER-044": {"t/sparse": _file(_SPARSE, size=len(_SPARSE))}},
    ),
]

"""Images whose layers aim at what is outside of the root file system: the directory OUTSIDE.

Wherever they lead, a converter may refuse them, or unpack them inside. They are made so that whoever follows them
changes something that can be seen afterwards; the hard link also gives away what it leads to.
"""

from __future__ import annotations

from ..engines import image
from ..engines.image import TAR, Entry, directory, hardlink, symlink
from .case import OUTSIDE, Case, Layer

UP = "../" * 16
SECRET = b"untouched\n"
PASSWD = b"outsider:x:4711:4711:outsider:/:/bin/sh\n"
STRAY = "labkit-escaped"  # what the names of files begin with that land a directory or two above the root
_NEW = b"from the image\n"


def _case(name: str, ident: str, *layers: list[Entry]) -> Case:
    some: list[Layer] = [(entries, TAR) for entries in layers]
    return Case(name, [ident], layers=some, looks=ident == "LAYER-056")


ESCAPES = [
    _case(
        "dots",
        "LAYER-050",
        [Entry(f"t/{UP}{OUTSIDE[1:]}/new", _NEW), Entry(f"{UP}{OUTSIDE[1:]}/canary", _NEW)],
    ),
    _case("dots-few", "LAYER-050", [Entry(f"../{STRAY}-1", _NEW), Entry(f"t/../../../{STRAY}-2", _NEW)]),
    _case("absolute", "LAYER-051", [Entry(f"{OUTSIDE}/new", _NEW), Entry(f"{OUTSIDE}/canary", _NEW)]),
    _case(
        "through-a-link",
        "LAYER-052",
        [symlink("t/out", OUTSIDE), Entry("t/out/new", _NEW), Entry("t/out/canary", _NEW)],
    ),
    _case(
        "through-a-relative-link",
        "LAYER-052",
        [symlink("t/out", f"{UP}{OUTSIDE[1:]}"), Entry("t/out/new", _NEW), Entry("t/out/canary", _NEW)],
    ),
    _case(
        "through-a-link-of-a-lower-layer",
        "LAYER-053",
        [symlink("t/out", OUTSIDE)],
        [Entry("t/out/new", _NEW), Entry("t/out/canary", _NEW)],
    ),
    _case(
        "through-several-links",
        "LAYER-054",
        [
            symlink("t/a", OUTSIDE.rpartition("/")[0]),
            symlink("t/b", f"a/{OUTSIDE.rpartition('/')[2]}"),
            Entry("t/b/new", _NEW),
            Entry("t/b/directory/new", _NEW),
        ],
    ),
    _case(
        "over-a-link",
        "LAYER-055",
        [symlink("t/link", f"{OUTSIDE}/canary")],
        [Entry("t/link", _NEW, 0o777, owner=(12, 34), xattrs={"user.labkit": b"1"})],
    ),
    _case("hard-link", "LAYER-056", [hardlink("t/hard", f"{OUTSIDE}/canary"), Entry("t/after", _NEW)]),
    _case("hard-link-by-dots", "LAYER-056", [hardlink("t/hard", f"{UP}{OUTSIDE[1:]}/canary"), Entry("t/after", _NEW)]),
    _case(
        "hard-link-through-a-link",
        "LAYER-056",
        [symlink("t/out", OUTSIDE), hardlink("t/hard", "t/out/canary"), Entry("t/after", _NEW)],
    ),
    _case("whiteout-by-dots", "LAYER-057", [Entry(f"t/{UP}{OUTSIDE[1:]}/.wh.canary")]),
    _case("whiteout-through-a-link", "LAYER-057", [symlink("t/out", OUTSIDE)], [Entry("t/out/.wh.canary")]),
    _case("whiteout-of-dots", "LAYER-057", [Entry("t/x")], [Entry(".wh...")]),
    _case("opaque-through-a-link", "LAYER-058", [symlink("t/out", OUTSIDE)], [Entry("t/out/.wh..wh..opq")]),
    _case(
        "attributes-through-a-link",
        "LAYER-059",
        [symlink("t/out", OUTSIDE), symlink("t/other", OUTSIDE)],
        [directory("t/out/", 0o700, owner=(12, 34)), directory("t/other/directory/", 0o700, owner=(12, 34))],
    ),
    _case(
        "nodes-through-a-link",
        "LAYER-060",
        [
            symlink("t/out", OUTSIDE),
            Entry("t/out/null", mode=0o666, kind=image.CHARACTER, device=(1, 3)),
            Entry("t/out/fifo", kind=image.FIFO),
        ],
    ),
    _case("root-is-a-link", "LAYER-061", [symlink("./", OUTSIDE), Entry("new", _NEW)], [Entry("canary", _NEW)]),
]

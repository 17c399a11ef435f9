"""What a builder wrote judged: a layout, by the documents of image-spec, and by what the build was to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeAlias

from labkit.core.text import one_line
from labkit.guest.engines import image
from labkit.guest.images import builders
from labkit.results.engines.events import Event
from labkit.results.images.findings import Cannot, Finding, Found, refused

_PREFIX, _OPAQUE = ".wh.", ".wh..wh..opq"
_KINDS = {image.TAR: "tar", image.GZIP: "gzip", image.ZSTD: "zstd"}
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class Layout:
    """A layout, its parts found by their descriptors; what is missing is empty."""

    def __init__(self, event: Event) -> None:
        seen = _object(event.get("layout"))
        self.files = _list(seen.get("files"))
        self.header, self.index = seen.get("oci-layout"), _object(seen.get("index.json"))
        self.blobs = {key: _object(blob) for key, blob in _object(seen.get("blobs")).items()}
        tops = [_object(one) for one in _list(self.index.get("manifests"))]
        named = [top for top in tops if str(_object(top.get("annotations")).get(_REF, "")).endswith("latest")]
        self.top = (named or tops or [{}])[0]
        self.manifest = self.document(self.top)
        self.config = self.document(_object(self.manifest.get("config")))
        self.layers = [_object(one) for one in _list(self.manifest.get("layers"))]

    def document(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        return _object(self.blob(descriptor).get("json"))

    def blob(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        return self.blobs.get(str(descriptor.get("digest")), {})

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The entries of the layers, those of the base, too, with the number of each layer."""
        for number, layer in enumerate(self.layers):
            for entry in _list(self.blob(layer).get("entries")):
                yield number, _object(entry)

    def own(self) -> dict[str, dict[str, Any]]:
        """The entries of the layers that have anything of the build, by their names; of several, the last."""
        names: dict[str, dict[str, Any]] = {}
        for number, entry in self.entries():
            if number >= self.first:
                names[_plain(str(entry.get("name")))] = entry
        return names

    @property
    def first(self) -> int:
        """The number of the first layer after the base's, of which t/kept is in the last."""
        held = [number for number, entry in self.entries() if _plain(str(entry.get("name"))) == "t/kept"]
        return held[0] + 1 if held else 0


_REF = "org.opencontainers.image.ref.name"
Check: TypeAlias = Callable[[Event], Iterator[Found]]
CHECKS: dict[str, Check] = {}


def _check(ident: str) -> Callable[[Callable[[Layout], Iterator[Found]]], Callable[[Layout], Iterator[Found]]]:
    def register(function: Callable[[Layout], Iterator[Found]]) -> Callable[[Layout], Iterator[Found]]:
        def check(event: Event) -> Iterator[Found]:
            if not isinstance(event.get("layout"), dict):
                yield refused(event)
            else:
                yield from function(Layout(event))

        CHECKS[ident] = check
        return function

    return register


@_check("BUILD-001")
def _header(layout: Layout) -> Iterator[Found]:
    version = _object(layout.header).get("imageLayoutVersion")
    if version != "1.0.0":
        yield Finding("imageLayoutVersion", "imageLayoutVersion in oci-layout", "1.0.0", version)


@_check("BUILD-002")
def _index(layout: Layout) -> Iterator[Found]:
    if layout.index.get("schemaVersion") != 2:
        yield Finding("schemaVersion", "schemaVersion of index.json", 2, layout.index.get("schemaVersion"))
    if not isinstance(layout.index.get("manifests"), list):
        yield Finding("manifests", "manifests of index.json", "a list", layout.index.get("manifests"))
    if layout.index.get("mediaType", image.INDEX) != image.INDEX:
        yield Finding("mediaType", "mediaType of index.json", image.INDEX, layout.index.get("mediaType"))


@_check("BUILD-003")
def _blobs(layout: Layout) -> Iterator[Found]:
    if not layout.blobs:
        yield Finding("no blobs", "there are no blobs")
    for digest, blob in layout.blobs.items():
        if digest.startswith("sha256:") and digest != f"sha256:{blob.get('sha256')}":
            yield Finding("digest", f"the blob {digest}", digest, f"sha256:{blob.get('sha256')}")


@_check("BUILD-004")
def _descriptors(layout: Layout) -> Iterator[Found]:
    named = [("manifest", layout.top), ("config", _object(layout.manifest.get("config")))]
    for name, descriptor in [*named, *(("layer", layer) for layer in layout.layers)]:
        for key, kind in (("mediaType", str), ("digest", str), ("size", int)):
            if not isinstance(descriptor.get(key), kind):
                yield Finding(f"{name} {key}", f"{key} of the descriptor of a {name}", "there", descriptor.get(key))
        size = layout.blob(descriptor).get("size")
        if size is None:
            yield Finding(f"{name} missing", f"the blob of a {name} is not there", descriptor.get("digest"))
        elif descriptor.get("size") != size:
            yield Finding(f"{name} size", f"size of a {name}", size, descriptor.get("size"))


@_check("BUILD-005")
def _types(layout: Layout) -> Iterator[Found]:
    config = _object(layout.manifest.get("config"))
    for name, seen, wanted in (
        ("manifest", layout.top.get("mediaType"), image.MANIFEST),
        ("config", config.get("mediaType"), image.CONFIG),
    ):
        if seen != wanted:
            yield Finding(f"{name} type", f"the media type of the {name}", wanted, seen)
    if layout.manifest.get("mediaType", image.MANIFEST) != image.MANIFEST:
        yield Finding("manifest type", "mediaType in the manifest", image.MANIFEST, layout.manifest.get("mediaType"))
    for layer in layout.layers:
        kind, seen = _KINDS.get(str(layer.get("mediaType"))), layout.blob(layer).get("kind")
        if kind is None or kind != seen:
            yield Finding("layer type", "the media type of a layer", seen, layer.get("mediaType"))


@_check("BUILD-006")
def _diff_ids(layout: Layout) -> Iterator[Found]:
    wanted = [str(layout.blob(layer).get("plain")) for layer in layout.layers]
    seen = [str(one).removeprefix("sha256:") for one in _list(_object(layout.config.get("rootfs")).get("diff_ids"))]
    if len(wanted) != len(seen):
        yield Finding("number", "the number of diff_ids", len(wanted), len(seen))
    for layer, one, other in zip(layout.layers, wanted, seen, strict=False):
        if one != other and layout.blob(layer).get("kind") != "zstd":
            yield Finding("digest", f"diff_id of {layer.get('digest')}", one, other)


@_check("BUILD-007")
def _properties(layout: Layout) -> Iterator[Found]:
    for key in ("architecture", "os"):
        if not isinstance(layout.config.get(key), str) or not layout.config[key]:
            yield Finding(key, f"{key} of the configuration", "there", layout.config.get(key))
    if _object(layout.config.get("rootfs")).get("type") != "layers":
        yield Finding("rootfs.type", "rootfs.type", "layers", _object(layout.config.get("rootfs")).get("type"))
    times = [
        layout.config.get("created"),
        *(_object(one).get("created") for one in _list(layout.config.get("history"))),
    ]
    for time in times:
        if time is not None and not _is_time(str(time)):
            yield Finding("created", "created", "a time of RFC 3339", str(time))


@_check("BUILD-008")
def _history(layout: Layout) -> Iterator[Found]:
    history = layout.config.get("history")
    if not isinstance(history, list):
        return
    seen = sum(not _object(one).get("empty_layer") for one in history)
    if seen != len(layout.layers):
        yield Finding("number", "entries of history with a layer", len(layout.layers), seen)


@_check("BUILD-009")
def _says(layout: Layout) -> Iterator[Found]:
    config = _object(layout.config.get("config"))
    for key, wanted in builders.CONFIG.items():
        seen = config.get(key)
        if key == "Env":  # builders may add PATH
            wrong = any(entry not in _list(seen) for entry in wanted)
        elif key == "Labels":  # and labels of their own
            wrong = any(_object(seen).get(name) != value for name, value in wanted.items())
        else:
            wrong = seen != wanted
        if wrong:
            yield Finding(key, f"config.{key}", wanted, seen)


@_check("BUILD-010")
def _twice(layout: Layout) -> Iterator[Found]:
    seen: set[tuple[int, str]] = set()
    for number, entry in layout.entries():
        key = number, _plain(str(entry.get("name")))
        if key in seen:
            yield Finding("twice", f"layer {number + 1} has {one_line(key[1], 100)} twice", "once", "twice")
        seen.add(key)


@_check("BUILD-011")
def _whiteouts(layout: Layout) -> Iterator[Found]:
    own = layout.own()
    for name in ("t/.wh.old", "t/.wh.old-dir"):
        if name not in own and f"t/{_OPAQUE}" not in own:
            yield Finding(f"{name[2:]} missing", f"{name} is in no layer of the build")
    for name, entry in own.items():
        if name.rpartition("/")[2].startswith(_PREFIX):
            if entry.get("type") != "file" or entry.get("size"):
                yield Finding("whiteout", f"{one_line(name, 100)} is no empty file", "an empty file", entry.get("type"))
            if name.removeprefix("t/") not in (".wh.old", ".wh.old-dir", _OPAQUE):
                yield Finding("too many", f"{one_line(name, 100)} removes what was not removed")


@_check("BUILD-012")
def _order(layout: Layout) -> Iterator[Found]:
    before: set[tuple[int, str]] = set()
    for number, entry in layout.entries():
        directory, _, name = _plain(str(entry.get("name"))).rpartition("/")
        if name.startswith(_PREFIX) and (number, directory) in before:
            yield Finding(
                "order", f"{one_line(name, 100)} stands after an entry of the same directory", "before", "after"
            )
        elif not name.startswith(_PREFIX):
            before.add((number, directory))


@_check("BUILD-013")
def _attributes(layout: Layout) -> Iterator[Found]:
    own = layout.own()
    wanted: dict[str, dict[str, object]] = {
        "t/owned": {"type": "file", "uid": 12, "gid": 34, "size": len(builders.OWNED)},
        "t/changed": {"type": "file", "size": 4},
        "t/setuid": {"type": "file", "mode": 0o4755},
        "t/new-link": {"type": "symlink", "link": "kept"},
        "t/new/deep": {"type": "directory"},
    }
    for name, values in wanted.items():
        entry = own.get(name, {})
        for key, value in values.items():
            if entry.get(key) != value:
                yield Finding(f"{name[2:]} {key}", f"{key} of {name}", value, entry.get(key))  # type: ignore[arg-type]
    kinds = sorted(str(own.get(name, {}).get("type")) for name in ("t/one", "t/two"))
    if kinds != ["file", "hardlink"]:
        yield Finding("hard link", "t/one and t/two", "a file and a hard link to it", [*kinds])


@_check("BUILD-014")
def _untouched(layout: Layout) -> Iterator[Found]:
    own = layout.own()
    for name in ("t/kept", "t/link", "etc/passwd"):
        if name in own:
            yield Finding(name, f"{name}, which was not touched, is in a layer of the build")


@_check("BUILD-015")
def _inside(layout: Layout) -> Iterator[Found]:
    for _, entry in layout.entries():
        name, link = str(entry.get("name")), str(entry.get("link"))
        if name.startswith("/") or ".." in name.split("/"):
            yield Finding("name", f"the entry {one_line(name, 200)}")
        if entry.get("type") == "hardlink" and ".." in link.split("/"):
            yield Finding("hard link", f"the hard link {one_line(name, 200)}", None, one_line(link, 200))


@_check("BUILD-016")
def _explicit(layout: Layout) -> Iterator[Found]:
    for name in layout.own():
        if name.rpartition("/")[2] == _OPAQUE:
            yield Finding("opaque", f"{one_line(name, 100)} is an opaque whiteout", "explicit ones")


def _validated(event: Event) -> Iterator[Found]:
    said = _object(event.get("validate"))
    if not isinstance(event.get("layout"), dict):
        yield refused(event)
    elif isinstance(said.get("cannot"), str):
        yield Cannot(said["cannot"])
    elif said.get("status") != 0:
        yield Finding(
            "invalid", "oci-image-tool finds it invalid", "exit status 0", one_line(str(said.get("err")), 1000)
        )


CHECKS["BUILD-020"] = _validated


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(re.sub(r"\.\d+", "", text).upper().replace("Z", "+00:00"))
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    """A name of an entry without ./ and a slash at its end."""
    return "/".join(word for word in name.split("/") if word not in ("", "."))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []

"""The images that converters are given. The same bytes each time, but for the busybox of those that engines run.

A case is about one thing, so that a converter that refuses one image loses no other check. What must come of it stands
beside it: shows, by the id of the check, is what must be in the tree (layers.py); what must be in config.json is for
labkit.results.images to say, from the image's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from ..engines import image
from ..engines.image import Entry, Image
from ..engines.own import DATA

OUTSIDE = str(DATA / "engine-outside")  # what hostile images aim at; own.py removes it with all else of a run
NAME = "docker.io/labkit/{}:latest"
AMD64 = "amd64"
_VARIANTS = {"amd64": "v1", "arm64": "v8"}

Shown = Mapping[str, Optional[Mapping[str, object]]]
Layer = tuple[Sequence[Entry], str]

_PASSWD = b"""root:x:0:0:root:/root:/bin/sh
labkit:x:1000:1000:labkit:/home/labkit:/bin/sh
other:x:1001:3000:other:/home/other:/bin/sh
4242:x:7:7:a number as a name:/:/bin/sh
"""
_GROUP = b"""root:x:0:
labkit:x:1000:
extra:x:2000:labkit
more:x:2001:labkit,other
others:x:3000:
"""


class Case:
    """An image. checks are the ids that it is for; shows, of those about its tree; runs: whether a container is to run
    what the image says, and not something that waits; looks: whether its tree is looked at, for which engines have to
    run a container; layers are the lowest first, in their order.
    """

    def __init__(
        self,
        name: str,
        checks: Sequence[str],
        *,
        config: Optional[Mapping[str, object]] = None,
        about: Optional[Mapping[str, object]] = None,
        layers: Sequence[Layer] = (),
        shows: Optional[Mapping[str, Shown]] = None,
        runs: bool = False,
        looks: bool = True,
        manifest: Optional[Mapping[str, object]] = None,
        rootfs: str = "layers",
        altered: bool = False,
        annotations: Optional[Mapping[str, str]] = None,
        index: Optional[Mapping[str, str]] = None,
        without: Sequence[str] = (),
    ) -> None:
        self.name, self.checks, self.runs, self.looks = name, tuple(checks), runs, looks
        self.shows = dict(shows or {})
        self._config, self._about, self._layers = dict(config or {}), dict(about or {}), list(layers)
        self._manifest, self._rootfs, self._altered = manifest, rootfs, altered
        self._annotations, self._index, self._without = annotations, index, set(without)

    def about(self, architecture: str) -> dict[str, object]:
        """Its configuration, without rootfs and history."""
        found = {"architecture": architecture, "os": "linux", **self._about, "config": self._config}
        if "variant" in found:  # one that engines do not take for another machine's
            found["variant"] = _VARIANTS.get(architecture, "v1")
        return found

    def image(self, architecture: str = AMD64, programs: Sequence[Entry] = ()) -> Image:
        """programs are the entries of a layer below all others, for engines, which run something; always the same."""
        base = [entry for entry in _base() if entry.path.decode() not in self._without]
        layers = [*([(programs, image.TAR)] if programs else []), (base, image.GZIP), *self._layers]
        return Image(
            NAME.format(self.name),
            self.about(architecture),
            [(image.tar(entries), kind) for entries, kind in layers],
            annotations=self._annotations,
            index=self._index,
            manifest=self._manifest,
            rootfs=self._rootfs,
            altered=self._altered,
        )


def _base() -> list[Entry]:
    """What every image has."""
    names = ("bin", "dev", "etc", "home", "mnt", "proc", "srv", "sys", "t", "var")
    found = [image.directory(f"{name}/") for name in names]
    found += [image.directory("root/", 0o700), image.directory("tmp/", 0o1777), image.directory("srv/app dir/")]
    return [*found, Entry("etc/passwd", _PASSWD), Entry("etc/group", _GROUP)]

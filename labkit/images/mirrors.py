"""What a mirror of packages has at the moment, told by its signed Release files: two states that are the same give the
same image.

Only the digests of the lists of packages count: a mirror signs its files anew every few hours, with nothing new in
them. Nothing is believed of them: what is installed is verified when it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from labkit.core.config import Settings
from labkit.core.platforms import Distro
from labkit.images.ingredients import image_kind
from labkit.io.download import text_at

# Where mmdebstrap goes if no mirror is named.
_DEBIAN = "http://deb.debian.org/debian"
_SECURITY = "http://deb.debian.org/debian-security"
_LISTS = re.compile(r"^ ([0-9a-f]{64}) +[0-9]+ +(main/binary-(?:amd64|arm64|all)/Packages(?:\.[a-z]+)?)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MirrorState:
    """date: when the newest of its lists was signed, as it says."""

    digest: str
    date: str


def state(distro: Distro, settings: Settings, *, timeout: float) -> MirrorState | None:
    """The state of the mirror that an image of this release is built from; None where it is not built from packages.

    ImageError where the mirror does not tell within timeout seconds for each list.
    """
    if image_kind(distro, settings) != "build" or (build := distro.build) is None:
        return None
    digest, dates = hashlib.sha256(), []
    for url in _releases(build.suite, settings.mirror):
        text = text_at(url, timeout=timeout)
        lists = sorted(set(_LISTS.findall(text)))
        if not lists:
            lists = [("", re.sub(r"^(Date|Valid-Until): .*$", "", text, flags=re.MULTILINE))]
        digest.update(repr((url, lists)).encode())
        if found := re.search(r"^Date: (.{1,60})$", text, re.MULTILINE):
            dates.append(found[1])
    return MirrorState(digest.hexdigest()[:16], dates[-1] if dates else "")


def _releases(suite: str, mirror: str | None) -> Iterator[str]:
    """The Release files of what mmdebstrap takes packages from."""
    if mirror:
        yield f"{mirror.rstrip('/')}/dists/{suite}/InRelease"
        return
    yield f"{_DEBIAN}/dists/{suite}/InRelease"
    if suite != "sid":
        yield f"{_DEBIAN}/dists/{suite}-updates/InRelease"
        yield f"{_SECURITY}/dists/{suite}-security/InRelease"

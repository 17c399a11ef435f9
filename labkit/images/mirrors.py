"""What a mirror of packages has at the moment, told by its signed Release files: two states that are the same give the
same image.

Only the digests of the lists of packages count: a mirror signs its files anew every few hours, with nothing new in
them. Nothing is believed of them: what is installed is verified when it is.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import platform
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.images.ingredients import image_kind
from labkit.io.download import Digest, expected, fetch, text_at
from labkit.io.files import make_directory, write_atomic

# Where mmdebstrap goes if no mirror is named.
_DEBIAN = "http://deb.debian.org/debian"
_SECURITY = "http://deb.debian.org/debian-security"
_ASK = 20.0  # seconds for a file that says what lists there are
_LIST_LIMIT = 1 << 28  # bytes of a list
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LISTS = re.compile(r"^ ([0-9a-f]{64}) +[0-9]+ +(main/binary-(?:amd64|arm64|all)/Packages(?:\.[a-z]+)?)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MirrorState:
    """date: when the newest of its lists was signed, as it says; "" of a cloud image."""

    digest: str
    date: str


def state(distro: Distro, settings: Settings, *, timeout: float) -> MirrorState | None:
    """The state of the mirror that an image of this release is built from, or of the list that its cloud image is in;
    None where that is pinned.

    ImageError where the mirror does not tell within timeout seconds for each list.
    """
    build = distro.build
    if image_kind(distro, settings) != "build" or build is None:
        cloud = distro.cloud_image
        if cloud is None or cloud.checksums is None:
            return None
        _, digest_of = expected(cloud, timeout=timeout)
        return MirrorState(digest_of.hex[:16], "")
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


def versions(distro: Distro, names: Collection[str], settings: Settings, observer: Observer) -> dict[str, str]:
    """The versions of those packages that the mirror of this release has, for the architecture of this host.

    ImageError where it does not tell; UsageError where labkit reads no lists of that distribution.
    """
    if distro.release.build is None:
        raise UsageError(f"labkit reads no package lists of {distro.platform.title}")
    found: dict[str, str] = {}
    arch = _ARCHITECTURES.get(platform.machine(), platform.machine())
    for url in _releases(distro.release.build.suite, settings.mirror):
        lists = dict((name, digest) for digest, name in _LISTS.findall(text_at(url, timeout=_ASK)))
        for kind, opened in ((".xz", lzma.open), (".gz", gzip.open), ("", open)):
            name = f"main/binary-{arch}/Packages{kind}"
            if name not in lists:
                continue
            known = settings.home.host / f"packages-{lists[name][:16]}.json"
            told = _known(known)
            if not set(names) <= told.keys():
                file = fetch(
                    f"{url.rpartition('/')[0]}/{name}",
                    Digest("sha256", lists[name]),
                    settings.home.downloads,
                    timeout=settings.limits.download,
                    progress=observer.progress,
                    waiting=observer.step,
                )
                with opened(file, "rb") as packed:
                    told = {**dict.fromkeys(names, ""), **_versions(packed.read(_LIST_LIMIT), names)}
                make_directory(known.parent)
                write_atomic(known, json.dumps(told), durable=False)
            found |= {name: version for name, version in told.items() if version and name in names}
            break
    return found


def _versions(text: bytes, names: Collection[str]) -> dict[str, str]:
    """Of a list of packages; where it has two of a name, the last."""
    found = {}
    wanted = b"|".join(re.escape(name.encode()) for name in names)
    for at in re.finditer(rb"^Package: (%s)$" % wanted, text, re.MULTILINE):
        part = text[at.end() : at.end() + 65536].partition(b"\n\n")[0]
        if version := re.search(rb"^Version: (\S{1,200})$", part, re.MULTILINE):
            found[at[1].decode()] = version[1].decode("ascii", "replace")
    return found


def _known(file: Path) -> dict[str, str]:
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(version) for name, version in told.items()} if isinstance(told, dict) else {}


def _releases(suite: str, mirror: str | None) -> Iterator[str]:
    """The Release files of what mmdebstrap takes packages from."""
    if mirror:
        yield f"{mirror.rstrip('/')}/dists/{suite}/InRelease"
        return
    yield f"{_DEBIAN}/dists/{suite}/InRelease"
    if suite != "sid":
        yield f"{_DEBIAN}/dists/{suite}-updates/InRelease"
        yield f"{_SECURITY}/dists/{suite}-security/InRelease"

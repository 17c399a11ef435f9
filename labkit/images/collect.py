"""What a lab's caches hold, what of it nothing needs, and removing that. The order is: look, decide, remove.

An image is renamed to removing-KEY before it goes: whoever looks it up finds it whole or not at all.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labkit.core.errors import InfrastructureError
from labkit.core.home import Home
from labkit.images.raw import RAW
from labkit.io import libvirt, process
from labkit.io.console import FAILED_BOOT
from labkit.io.files import is_left_over, usage
from labkit.qemu.backing import backing
from labkit.uml.kernel import FETCHING, fetched

_KEY = re.compile(r"[0-9a-f]{16}")  # of a kernel, its DIGEST
_DAMAGED = re.compile(r"([0-9a-f]{16})\.damaged-[0-9a-f]+")
_LIVE = re.compile(r"live-[0-9a-f]{16}(?:-[0-9a-f]+)?")
_STANDS_ON = re.compile(rf"(?:^|/)([0-9a-f]{{16}})/(?:({_LIVE.pattern})/)?disk\.qcow2")
_GONE = "removing-"
_LABKITS = (
    "labkit-VAGRANTSLASH-"  # what the directories of Vagrant, and libvirt's volumes, begin with for labkit's boxes
)
_DAY = 86400.0


class Kind(enum.StrEnum):
    IMAGE = "image"
    LIVE = "live state"
    RAW = "raw disk"  # of an image, for machines of User-Mode Linux
    KERNEL = "kernel"
    DOWNLOAD = "download"
    SOURCE = "source"
    RUNTIME = "runtime"  # that was fetched or built
    BUILDER = "build chroot"
    REPOSITORY = "repository"  # the clone of one
    BOX = "box"
    VOLUME = "volume"  # of a box, in libvirt's pool
    UNFINISHED = "unfinished"
    LOCK = "lock"
    NIGHT = "night"
    OUTBOX = "outbox"  # of a night that nobody goes on with
    MACHINE = "machine"  # of a cell, whose night was killed


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a cache. why: why it goes or stays; used: when it was last of use, Unix time."""

    kind: Kind
    name: str
    size: int
    why: str
    remove: bool
    used: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "used"}


@dataclass(frozen=True, slots=True)
class Needs:
    """What must stay, each with the reason. images: by key; lives: by KEY/live-KEY; raws: raw disks, by their image's
    key; kernels: by DIGEST; boxes: by their names in Vagrant.

    everything: why nothing of images or boxes may go, empty where that is known thing by thing; busy: locks that
    another process holds, by name.
    """

    images: Mapping[str, str]
    lives: Mapping[str, str]
    raws: Mapping[str, str]
    kernels: Mapping[str, str]
    boxes: Mapping[str, str]
    everything: str
    busy: Mapping[str, str]


def chain(disk: Path, home: Home) -> Iterator[str]:
    """What a machine's disk stands on in the home's images: KEY for each image, KEY/live-KEY for each live state.

    Names count, not places: a home may have been moved. OSError or ValueError where that cannot be told.
    """
    for _ in range(8):  # a machine's is three long
        name = backing(disk)
        if not name:
            return
        name = os.path.normpath(disk.parent / name)
        found = _STANDS_ON.search(name)
        if found:
            yield found[1]
            if found[2]:
                yield f"{found[1]}/{found[2]}"
        disk = Path(name)
        if found and not disk.exists():
            disk = home.images / found[1] / (found[2] or "") / "disk.qcow2"
            if not disk.exists():  # lost, or damaged and set aside: a live state stands on its own image and no other
                return
    raise ValueError(f"{disk} stands on too many others")


class Collector:
    """Looks through one home. since: Unix time; what was of use later stays too."""

    def __init__(self, home: Home, needs: Needs, since: float, still_free: Callable[[], str]) -> None:
        """still_free: asked before an image goes; why that must not be after all, empty where it may."""
        self._home = home
        self._needs = needs
        self._since = since
        self._still_free = still_free
        self._removers: dict[tuple[Kind, str], Callable[[], None]] = {}

    def look(self) -> list[Thing]:
        """All that there is in the home, with what is to become of it."""
        return [*self._images(), *self._kernels(), *self._boxes(), *self._files(), *self._built(), *self._unfinished()]

    def remove(self, thing: Thing) -> None:
        """Remove what look() has found. LabError where that fails or must not be any more."""
        self._removers[thing.kind, thing.name]()

    def _thing(
        self, kind: Kind, path: Path, why: str, kept: str, used: float, remover: Callable[[], None] | None = None
    ) -> Thing:
        """kept: why it must stay, if it must."""
        name = str(path.relative_to(self._home.path))
        if not kept and used > self._since:
            kept = f"used {_ago(used)}"
        self._removers[kind, name] = remover or (lambda: discard(path))
        return Thing(kind, name, usage(path), kept or why, not kept, used)

    def _images(self) -> Iterator[Thing]:
        needs = self._needs
        for image in _inside(self._home.images):
            if found := _DAMAGED.fullmatch(image.name):
                kept = needs.everything or needs.images.get(found[1], "")
                yield self._thing(Kind.IMAGE, image, "it is damaged, and no machine stands on it", kept, _time(image))
            if not _KEY.fullmatch(image.name) or not image.is_dir():
                continue
            held = next((who for lock, who in needs.busy.items() if f"-{image.name}" in lock), "")
            kept = needs.everything or held or needs.images.get(image.name, "")
            used = _time(image / "image.json")
            whole = self._thing(
                Kind.IMAGE, image, f"no machine stands on it ({_title(image)})", kept, used, self._aside(image)
            )
            if whole.remove:
                yield whole
                continue
            rest = whole.size
            for live in _inside(image):
                if _LIVE.fullmatch(live.name):
                    where = f"{image.name}/{live.name}"
                    kept = needs.everything or held or needs.lives.get(where, needs.lives.get(image.name, ""))
                    part = self._thing(Kind.LIVE, live, "no machine stands on it", kept, _time(live), self._aside(live))
                    rest -= part.size
                    yield part
            if (raw := image / RAW).is_dir():
                kept = needs.everything or held or needs.raws.get(image.name, "")
                why = "no machine of User-Mode Linux stands on it"
                part = self._thing(Kind.RAW, raw, why, kept, _time(raw), self._aside(raw))
                rest -= part.size
                yield part
            yield Thing(whole.kind, whole.name, rest, whole.why, False, whole.used)

    def _kernels(self) -> Iterator[Thing]:
        """Kernels of User-Mode Linux. The newest that was fetched stays: the next machine boots it."""
        needs = self._needs
        newest = [kernel.directory for kernel in fetched(self._home)[:1]]
        for kernel in _inside(self._home.kernels):
            if not _KEY.fullmatch(kernel.name):
                continue
            kept = needs.everything or needs.kernels.get(kernel.name, "")
            kept = kept or ("it is the newest" if kernel in newest else "")
            why = "no machine boots it, and it is not the newest"
            yield self._thing(Kind.KERNEL, kernel, why, kept, _time(kernel), self._aside(kernel))

    def _boxes(self) -> Iterator[Thing]:
        needs = self._needs
        for box in _inside(self._home.boxes):
            if box.suffix == ".box":
                kept = (
                    needs.everything or needs.busy.get(f"{box.name}", "") or needs.boxes.get(f"labkit/{box.stem}", "")
                )
                yield self._thing(Kind.BOX, box, "no machine is made of it", kept, _time(box))
        for box in _inside(self._home.vagrant / "boxes"):
            if box.name.startswith(_LABKITS):
                kept = needs.everything or needs.boxes.get(box.name.replace("-VAGRANTSLASH-", "/"), "")
                yield self._thing(Kind.BOX, box, "no machine is made of it", kept, _time(box), self._added(box))

    def _files(self) -> Iterator[Thing]:
        at_work = next(iter(self._needs.busy.values()), "")
        for file in _inside(self._home.downloads):
            if re.fullmatch(r"sha(256|512)-[0-9a-f]+", file.name):
                yield self._thing(Kind.DOWNLOAD, file, "it can be fetched again", at_work, _time(file))
        for file in _inside(self._home.sources):
            if file.suffix in (".bundle", ".tar"):
                yield self._thing(Kind.SOURCE, file, "it can be packed again", at_work, _time(file))

    def _built(self) -> Iterator[Thing]:
        """Runtimes that were fetched or built, and what they were built in and from."""
        home = self._home
        at_work = next(iter(self._needs.busy.values()), "")
        for path in _inside(home.runtimes):
            if _KEY.fullmatch(path.name) or path.suffix in (".failed", ".log"):
                used = _time(path / "made.json") if path.is_dir() else _time(path)
                yield self._thing(Kind.RUNTIME, path, "it can be had again", at_work, used)
        for path in _inside(home.builders):
            if _KEY.fullmatch(path.name):
                used = _time(path / "made.json")
                yield self._thing(Kind.BUILDER, path, "it can be made again", at_work, used, self._aside(path))
        for path in _inside(home.repositories):
            if path.suffix == ".git":
                yield self._thing(Kind.REPOSITORY, path, "it can be cloned again", at_work, _time(path))

    def _unfinished(self) -> Iterator[Thing]:
        """What killed commands have left; what another process is making stays."""
        home, busy = self._home, self._needs.busy
        at_work = next(iter(busy.values()), "")
        making = [*_inside(home.images), *_inside(home.boxes)]
        for image in _inside(home.images):
            making += _inside(image) if _KEY.fullmatch(image.name) else []
        for path in making:
            if path.suffix == ".making" or path.name.startswith(_GONE):
                name = path.name.removesuffix(".making").removeprefix(_GONE)
                inside = f"live-{path.parent.name}-{name.removeprefix('live-')}"
                raw = f"raw-{path.parent.name}" if name == RAW else ""
                kept = next((busy[lock] for lock in (f"image-{name}", inside, raw, name) if lock in busy), "")
                yield self._thing(Kind.UNFINISHED, path, "the command that made it is gone", kept, 0.0)
            elif path.name.startswith(FAILED_BOOT):
                yield self._thing(Kind.UNFINISHED, path, "the console of a boot that failed", "", _time(path))
        for path in _inside(home.kernels):
            if path.suffix == ".making" or path.name.startswith(_GONE) or path.name == FETCHING:
                kept = next((busy[lock] for lock in ("kernel", "kernel-of-host") if lock in busy), "")
                yield self._thing(Kind.UNFINISHED, path, "the command that made it is gone", kept, 0.0)
        for directory, lock in ((home.runtimes, "runtime"), (home.builders, "builder")):
            for path in _inside(directory):
                if path.suffix == ".making" or path.name.startswith(_GONE):
                    name = path.name.removesuffix(".making").removeprefix(_GONE)
                    kept = busy.get(f"{lock}-{name}", "")
                    yield self._thing(Kind.UNFINISHED, path, "the command that made it is gone", kept, 0.0)
        for path in _inside(home.host):
            if path.name.startswith("trial-"):
                alive = Path(f"/proc/{path.name.removeprefix('trial-')}").exists()
                kept = "it may be tried just now" if alive else ""
                yield self._thing(Kind.UNFINISHED, path, "the command that tried a kernel is gone", kept, 0.0)
        for path in _inside(home.downloads):
            if path.suffix == ".part":
                yield self._thing(Kind.UNFINISHED, path, "the download was broken off", at_work, _time(path))
        for path in _inside(home.vagrant / "tmp"):
            yield self._thing(Kind.UNFINISHED, path, "Vagrant was interrupted", at_work, _time(path))
        for directory in (home.path, home.images, home.boxes, home.sources, home.keys, home.host):
            for path in _inside(directory):
                if is_left_over(path.name):
                    yield self._thing(Kind.UNFINISHED, path, "the command that wrote it is gone", "", 0.0)

    def volumes(self) -> Iterator[Thing]:
        """The volumes of labkit's boxes in libvirt's pools. ProgramFailed where libvirt does not answer."""
        if not libvirt.there() or not self._home.vagrant.is_dir():
            return
        known = libvirt.volumes()
        mine = [volume for volume in known if volume.name.startswith(_LABKITS)]
        if not mine:
            return
        asleep = libvirt.pools(active=False)
        used = {volume.backing for volume in known}
        for volume in mine:
            box = volume.name.partition("_vagrant_box_image_")[0].replace("-VAGRANTSLASH-", "/")
            kept = self._needs.everything or self._needs.boxes.get(box, "")
            if volume.path in used:
                kept = "another volume is an overlay on it"
            elif asleep:
                kept = f"libvirt's pool {asleep[0]} is not active, and what is in it may stand on this"
            elif not kept and volume.used > self._since:
                kept = f"used {_ago(volume.used)}"
            name = f"{volume.pool}:{volume.name}"
            self._removers[Kind.VOLUME, name] = functools.partial(self._delete, volume)
            why = kept or "no machine's disk is an overlay on it"
            yield Thing(Kind.VOLUME, name, volume.size, why, not kept, volume.used)

    def _aside(self, path: Path) -> Callable[[], None]:
        def remove() -> None:
            aside = path.with_name(_GONE + path.name)
            discard(aside)  # of a `gc` that was killed
            with _told(path):
                path.rename(aside)
            if why := self._still_free():
                if path.exists():  # made again meanwhile
                    discard(aside)
                else:
                    aside.rename(path)
                raise InfrastructureError(why)
            discard(aside)

        return remove

    def _added(self, box: Path) -> Callable[[], None]:
        def remove() -> None:
            self._unmark()
            discard(box)

        return remove

    def _unmark(self) -> None:
        """Remove the marks of boxes that are whole: which is whose cannot be told, and without one `up` looks again."""
        for mark in self._home.vagrant.glob("labkit-*"):
            if re.fullmatch(r"labkit-[0-9a-f]{16}", mark.name):
                mark.unlink(missing_ok=True)

    def _delete(self, volume: libvirt.Volume) -> None:
        if volume.path in {other.backing for other in libvirt.volumes()}:
            raise InfrastructureError("another volume is an overlay on it by now")
        self._unmark()
        libvirt.delete(volume)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfrastructureError(f"cannot remove {path}: {error.strerror}") from error


def discard(path: Path) -> None:
    """Remove a file, or a directory with all in it and what still runs for it, whoever it belongs to."""
    with _told(path):
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        process.end_owned(path)
        try:
            shutil.rmtree(path)
        except PermissionError:  # built in a user namespace, by another user
            argv: list[str | Path] = [
                "unshare",
                "--map-auto",
                "--map-root-user",
                "rm",
                "-rf",
                "--one-file-system",
                path,
            ]
            process.run(argv, timeout=300)


def _inside(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _title(image: Path) -> str:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads((image / "image.json").read_text())["title"])
    return "it is not whole"


def _ago(when: float) -> str:
    days = (time.time() - when) / _DAY
    return f"{days:.0f} days ago" if days >= 1.5 else f"{max(days, 0) * 24:.0f} hours ago"

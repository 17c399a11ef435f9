"""What came of cells on the host that ran them, kept until it has been brought home.

outbox/NIGHT/NAME.making/     a cell runs here; what is left of one that was killed is removed
outbox/NIGHT/NAME.tar         its run and its log; NAME is the attempt's
outbox/NIGHT/NAME.json        written last: how it ended, and the digest of the bundle
outbox/NIGHT/KEY.failed       an image that could not be made here in this night, a line each time

A bundle is believed by its digest alone: a file that a full disk or a power cut made shorter is no bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from labkit.core.errors import InfrastructureError
from labkit.io import process
from labkit.io.files import disk_errors, make_directory, write_atomic
from labkit.matrix.job import Ended, Outcome

RUN = "run"
LOG = "log"
_MAKING = ".making"
_LARGEST = 2 << 30  # bytes that a bundle may hold
_MEMBERS = 50_000


def served(night: str) -> str:
    """The name of the lock that whoever runs cells of that night for another host holds in its home."""
    return f"night-{night}"


class DamagedBundle(InfrastructureError):
    """A bundle is not what its sender says: the attempt counts as lost."""


class Outbox:
    """The outbox of one night on one host."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def begin(self, name: str) -> Path:
        """A new directory for the attempt of that name."""
        place = self.directory / f"{name}{_MAKING}"
        with disk_errors(self.directory):
            make_directory(self.directory, mode=0o700)
            if place.exists():
                shutil.rmtree(place)
            place.mkdir(mode=0o700)
        return place

    def commit(self, place: Path, ended: Ended) -> Ended:
        """Keep what the attempt left in its directory, which goes; how it ended, with its bundle."""
        bundle = self.directory / f"{ended.name}.tar"
        with disk_errors(self.directory):
            part = place / "bundle"
            parts = [name for name in (RUN, LOG) if (place / name).exists()]
            if parts:
                with part.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
                    for name in parts:
                        tar.add(place / name, arcname=name)
                with part.open("rb") as made:
                    ended = replace(
                        ended,
                        bundle=part.stat().st_size,
                        sha256=hashlib.file_digest(made, "sha256").hexdigest(),
                    )
                part.rename(bundle)
            write_atomic(self._note(ended.name), json.dumps(asdict(ended)), mode=0o600, durable=False)
            shutil.rmtree(place, ignore_errors=True)
        return ended

    def waiting(self) -> list[Ended]:
        """What has not been acknowledged, by name."""
        found = []
        for note in sorted(self.directory.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                values = json.loads(note.read_text())
                found.append(Ended(**{**values, "outcome": Outcome(values["outcome"])}))
        return found

    def read(self, name: str, start: int, most: int) -> bytes:
        """A piece of a bundle."""
        with (self.directory / f"{name}.tar").open("rb") as file:
            file.seek(start)
            return file.read(most)

    def bundle(self, name: str) -> Path:
        return self.directory / f"{name}.tar"

    def acknowledge(self, name: str) -> None:
        """It is at home: nothing of it is kept here."""
        self._note(name).unlink(missing_ok=True)
        (self.directory / f"{name}.tar").unlink(missing_ok=True)

    def clear(self) -> int:
        """End what still runs of cells whose worker died, and remove what they had begun; how many those were."""
        begun = sorted(self.directory.glob(f"*{_MAKING}"))
        for place in begun:
            process.end_owned(place)
            with disk_errors(place):
                shutil.rmtree(place, ignore_errors=True)
        for note in self.directory.glob("*.failed"):  # who goes on with the night may have mended it
            note.unlink(missing_ok=True)
        return len(begun)

    def remove(self) -> None:
        """Remove the outbox of a night that is over; one that still has something stays."""
        self.clear()
        for orphan in self.directory.glob("*.tar"):
            if not self._note(orphan.stem).exists():
                orphan.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def _note(self, name: str) -> Path:
        return self.directory / f"{name}.json"


def verify(bundle: Path, ended: Ended) -> None:
    """DamagedBundle unless the file is what the attempt left."""
    try:
        size = bundle.stat().st_size
        with bundle.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedBundle(f"the bundle of {ended.name} cannot be read: {error.strerror}") from error
    if (size, digest) != (ended.bundle, ended.sha256):
        raise DamagedBundle(
            f"the bundle of {ended.name} is damaged: {size} bytes, of {ended.bundle}, and its digest is "
            f"{'not that' if size == ended.bundle else 'another'} of what was sent"
        )


def unpack(bundle: Path, ended: Ended, target: Path) -> None:
    """Unpack a verified bundle into the directory target. It comes from another host: only plain files and directories
    below target are made of it, and no more than a run has. DamagedBundle where it is something else.
    """
    verify(bundle, ended)
    try:
        with tarfile.open(bundle, "r:") as tar:
            if hasattr(tarfile, "data_filter"):  # not in Python before 3.11.4, as Debian 12 has it
                tar.extractall(target, members=list(_members(tar)), filter="data")
            else:
                tar.extractall(target, members=list(_members(tar)))
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise DamagedBundle(f"the bundle of {ended.name} is no archive: {error}") from error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    size = 0
    for number, member in enumerate(tar):
        size += member.size
        top, *below = member.name.split("/")
        strange = top not in (RUN, LOG) or ".." in below or not (member.isreg() or member.isdir())
        if number >= _MEMBERS or size > _LARGEST or strange:
            raise tarfile.TarError(f"{member.name!r} does not belong into it")
        member.mode, member.uid, member.gid = 0o755 if member.isdir() else 0o644, os.geteuid(), os.getegid()
        member.uname = member.gname = ""
        yield member

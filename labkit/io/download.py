"""Pinned downloads: the digest is known before and checked after, and only then does the file get its name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from labkit.core.deadline import Deadline
from labkit.core.errors import ImageError
from labkit.core.platforms import Download
from labkit.core.text import printable
from labkit.io.files import disk_errors, locked, make_directory, require_space

_ATTEMPTS = 4  # in a row that bring nothing new
_CHUNK = 1 << 18
_TIMEOUT = urllib3.Timeout(connect=20, read=60)
_LIST_LIMIT = 1 << 20
_HOPS = 5  # redirects that are followed
_PAUSE = 0.5  # seconds after the first failure in a row, twice that after the second
_SPARE = 64  # MiB to be left on the disk


@dataclass(frozen=True, slots=True)
class Digest:
    algorithm: str  # sha256 or sha512
    hex: str


def fetch(
    url: str,
    digest: Digest,
    directory: Path,
    *,
    timeout: float,
    progress: Callable[[str, int, int | None, str], None],
    waiting: Callable[[str], None],
) -> Path:
    """Return the path of the file at url with that digest, downloaded to directory unless it is there already.

    An interrupted download resumes where it stopped, also in a later call. progress(name, done, total) in bytes.
    Raises ImageError where the server refuses or the digest differs; the part of an interrupted download is kept.
    """
    target = directory / f"{digest.algorithm}-{digest.hex}"
    name = _file_name(url)
    make_directory(directory)
    with locked(directory / f"{target.name}.lock", timeout=timeout, waiting=waiting, what=f"the download of {name}"):
        if target.exists():
            target.touch()  # `gc --keep` goes by it
            return target
        part = directory / f"{target.name}.part"
        deadline = Deadline.after(timeout)
        failed = 0
        while True:
            before = _size(part)
            try:
                with disk_errors(directory):
                    _receive(url, part, name, deadline, progress)
                break
            except (HTTPError, _Cut) as error:
                failed = 0 if _size(part) > before else failed + 1
                if failed == _ATTEMPTS or deadline.passed:
                    raise ImageError(
                        f"{url} could not be downloaded: {printable(str(error))}",
                        hint="run the command again: the download resumes where it stopped",
                    ) from error
                time.sleep(min(_PAUSE * failed, deadline.left))
        found = _hash(part, digest.algorithm)
        if found != digest.hex:
            part.unlink()
            raise ImageError(
                f"{url} has the wrong digest: {digest.algorithm} {found}, expected {digest.hex}",
                hint="the file was removed; if the publisher replaced the file, pin its new digest in platform.toml",
            )
        part.rename(target)
    return target


class _Cut(Exception):
    pass


def _receive(
    url: str, part: Path, name: str, deadline: Deadline, progress: Callable[[str, int, int | None, str], None]
) -> None:
    """Append the rest of url to part; raises _Cut or HTTPError where more is still to come."""
    done = _size(part)
    pool = urllib3.PoolManager(retries=urllib3.Retry(connect=2, read=0, redirect=_HOPS), timeout=_TIMEOUT)
    headers = {"Range": f"bytes={done}-"} if done else {}
    with contextlib.closing(pool.request("GET", url, headers=headers, preload_content=False)) as answer:
        if answer.status == 416:  # nothing is left to come
            return
        status = f"the server answers {answer.status} {printable(answer.reason or '')}".rstrip()
        if answer.status == 429 or answer.status >= 500:
            raise _Cut(status)
        if answer.status not in (200, 206):
            raise ImageError(
                f"{url} cannot be downloaded: {status}",
                hint="publishers remove dated cloud images: point the platform's url to a copy with the same digest",
            )
        if answer.status == 200:
            done = 0
        length = re.fullmatch("[0-9]{1,18}", answer.headers.get("Content-Length", ""))
        total = done + int(length[0]) if length else None
        require_space(part.parent, ((total or done) - done >> 20) + _SPARE)
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            # read1 returns what has arrived: a server that trickles must not outlast the deadline.
            while piece := answer.read1(_CHUNK, decode_content=False):
                done += file.write(piece)
                progress(name, done, total, "bytes")
                if deadline.passed:
                    raise _Cut(f"time limit reached after {done} of {total or 'unknown'} bytes")
                if total is None:
                    require_space(part.parent, _SPARE)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done < total:
            raise _Cut(f"the connection was cut after {done} of {total} bytes")


def _why(error: HTTPError) -> str:
    """The reason in words, without urllib3's own objects around it."""
    inner = getattr(error, "reason", None) or error
    return printable(re.sub(r"^<?[A-Za-z.]+(Connection|Pool)\([^)]*\)( object at 0x[0-9a-f]+>)?: ", "", str(inner)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _file_name(url: str) -> str:
    return printable(urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2]))


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def expected(image: Download) -> Digest:
    """The digest that the image must have: pinned, else as its list has it now. ImageError where there is none."""
    for name, value in (("sha256", image.sha256), ("sha512", image.sha512)):
        if value is not None:
            return Digest(name, value)
    assert image.checksums is not None  # platforms.py refuses an image without any digest
    return listed_digest(image.checksums, image.url)


def listed_digest(checksums: str, url: str) -> Digest:
    """The digest of url's file as the list at the address checksums has it (SHA256SUMS, or `SHA256 (name) = hex`)."""
    name = _file_name(url)
    text = _list(checksums)
    plain = re.search(rf"^([0-9a-f]{{64}}|[0-9a-f]{{128}})[ *]+(?:\./)?{re.escape(name)}\s*$", text, re.MULTILINE)
    tagged = re.search(rf"^SHA\d+ \({re.escape(name)}\) = ([0-9a-f]{{64}}|[0-9a-f]{{128}})\s*$", text, re.MULTILINE)
    match = plain or tagged
    if match is None:
        raise ImageError(f"{checksums} lists no digest for {name}")
    return Digest("sha256" if len(match[1]) == 64 else "sha512", match[1])


def _list(url: str) -> str:
    """The text at url. A redirect from https to http is refused: with it the list could be altered like the image."""
    pool = urllib3.PoolManager(retries=urllib3.Retry(connect=2, read=2, redirect=False), timeout=_TIMEOUT)
    here = url
    try:
        for _ in range(_HOPS + 1):
            with contextlib.closing(pool.request("GET", here, redirect=False, preload_content=False)) as answer:
                target = answer.get_redirect_location()
                if not target:
                    if answer.status != 200:
                        raise ImageError(f"{url} cannot be read: the server answers {answer.status}")
                    return answer.read(_LIST_LIMIT).decode("utf-8", "replace")
            onward = urllib.parse.urljoin(here, target)
            if here.startswith("https:") and not onward.startswith("https:"):
                raise ImageError(f"{url} cannot be trusted: it redirects to {printable(onward)}, which is not https")
            here = onward
    except HTTPError as error:
        raise ImageError(f"{url} cannot be read: {_why(error)}") from error
    raise ImageError(f"{url} cannot be read: too many redirects")

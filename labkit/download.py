"""Downloads that are pinned: a digest is known before, checked after, and only then has the file its name."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from labkit.errors import ImageError
from labkit.files import disk_errors, locked, make_folder, require_space
from labkit.text import printable

_ATTEMPTS = 4
_CHUNK = 1 << 18
_TIMEOUT = urllib3.Timeout(connect=20, read=60)
_LIST_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Digest:
    algorithm: str  # sha256 or sha512
    hex: str


def fetch(
    url: str,
    digest: Digest,
    folder: Path,
    *,
    timeout: float,
    progress: Callable[[str, int, int | None], None],
    waiting: Callable[[str], None],
) -> Path:
    """The file at url with that digest, from folder if it is there already; its path.

    A download that was cut goes on where it stopped, also in a later call. progress(name, done, total) in bytes.
    Raises ImageError where the server or the digest says no; what was downloaded of a cut file stays.
    """
    target = folder / f"{digest.algorithm}-{digest.hex}"
    name = url.rpartition("/")[2]
    make_folder(folder)
    with locked(folder / f"{target.name}.lock", timeout=timeout, waiting=waiting, what=f"the download of {name}"):
        if target.exists():
            return target
        part = folder / f"{target.name}.part"
        error: Exception | None = None
        for _ in range(_ATTEMPTS):
            try:
                with disk_errors(folder):
                    _receive(url, part, name, progress)
                break
            except (HTTPError, _Cut) as failure:
                error = failure
        else:
            raise ImageError(
                f"{url} could not be downloaded: {printable(str(error))}",
                hint="run the command again: it goes on where this one stopped",
            ) from error
        found = _hash(part, digest.algorithm)
        if found != digest.hex:
            part.unlink()
            raise ImageError(
                f"{url} is not what it should be: {digest.algorithm} {found}, expected {digest.hex}",
                hint="it was removed; if the publisher replaced the file, pin its new digest in platform.toml",
            )
        part.rename(target)
    return target


class _Cut(Exception):
    pass


def _receive(url: str, part: Path, name: str, progress: Callable[[str, int, int | None], None]) -> None:
    """Append the rest of url to part; raises _Cut or HTTPError where more is still to come."""
    done = part.stat().st_size if part.exists() else 0
    pool = urllib3.PoolManager(retries=urllib3.Retry(connect=2, read=0, redirect=5), timeout=_TIMEOUT)
    headers = {"Range": f"bytes={done}-"} if done else {}
    with contextlib.closing(pool.request("GET", url, headers=headers, preload_content=False)) as answer:
        if answer.status == 416:  # nothing is left to come
            return
        if answer.status not in (200, 206):
            said = f"{answer.status} {printable(answer.reason or '')}".rstrip()
            raise ImageError(
                f"{url} cannot be downloaded: the server answers {said}",
                hint="dated folders of cloud images vanish: point the platform's url to a copy with the same digest",
            )
        if answer.status == 200:
            done = 0
        length = answer.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else None
        require_space(part.parent, ((total or done) - done >> 20) + 64)
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            for piece in answer.stream(_CHUNK):
                done += file.write(piece)
                progress(name, done, total)
        if total is not None and done < total:
            raise _Cut(f"the connection was cut after {done} of {total} bytes")


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def listed_digest(checksums: str, url: str) -> Digest:
    """The digest of url's file as the list at the address checksums has it (SHA256SUMS, or `SHA256 (name) = hex`)."""
    name = url.rpartition("/")[2]
    try:
        pool = urllib3.PoolManager(retries=urllib3.Retry(connect=2, read=2, redirect=5), timeout=_TIMEOUT)
        with contextlib.closing(pool.request("GET", checksums, preload_content=False)) as answer:
            text = answer.read(_LIST_LIMIT).decode("utf-8", "replace")
            status = answer.status
    except HTTPError as error:
        raise ImageError(f"{checksums} cannot be read: {printable(str(error))}") from error
    if status != 200:
        raise ImageError(f"{checksums} cannot be read: the server answers {status}")
    plain = re.search(rf"^([0-9a-f]{{64}}|[0-9a-f]{{128}})[ *]+(?:\./)?{re.escape(name)}\s*$", text, re.MULTILINE)
    tagged = re.search(rf"^SHA\d+ \({re.escape(name)}\) = ([0-9a-f]{{64}}|[0-9a-f]{{128}})\s*$", text, re.MULTILINE)
    match = plain or tagged
    if match is None:
        raise ImageError(f"{checksums} lists no digest for {name}")
    return Digest("sha256" if len(match[1]) == 64 else "sha512", match[1])

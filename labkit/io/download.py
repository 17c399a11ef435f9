"""Pinned downloads: the digest is known before and checked after, and only then does the file get its name.

The part of one that was interrupted, in whatever way, stays on purpose (DIGEST.part): the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from labkit.core.deadline import Deadline
from labkit.core.errors import ImageError
from labkit.core.platforms import Download
from labkit.core.text import printable
from labkit.io.files import disk_errors, locked, make_directory, require_space, sync_directory
from labkit.io.within import within

_ATTEMPTS = 4  # in a row that bring nothing new
_CHUNK = 1 << 18
_CONNECT, _READ = 20.0, 60.0  # seconds without an answer, after which another attempt is made
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
    timeout is the limit `download` of labkit.toml, in seconds; it bounds all of this, also the wait for another
    process that downloads the same. Raises ImageError where the server refuses, the digest differs or the time is up;
    the part of an interrupted download is kept.
    """
    deadline = Deadline.after(timeout, "download")
    target = directory / f"{digest.algorithm}-{digest.hex}"
    name = _file_name(url)
    make_directory(directory)
    with locked(directory / f"{target.name}.lock", timeout=timeout, waiting=waiting, what=f"the download of {name}"):
        if target.exists():
            if target.is_file() and _hash(target, digest.algorithm) == digest.hex:
                target.touch()  # `gc --keep` goes by it
                return target
            waiting(f"the download of {name} was damaged since; downloading it again")
            target.unlink()
        part = directory / f"{target.name}.part"
        failed = 0
        while True:
            before = _size(part)
            try:
                with disk_errors(directory):
                    _receive(url, part, name, deadline, progress)
                break
            except (HTTPError, _Cut) as error:
                failed = 0 if _size(part) > before else failed + 1
                if deadline.passed:
                    raise ImageError(
                        f"{url} could not be downloaded within {deadline.allowed}: {printable(str(error))}",
                        hint="run the command again: the download resumes where it stopped",
                    ) from error
                if failed == _ATTEMPTS:
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
        sync_directory(directory)
    return target


class _Cut(Exception):
    pass


def _receive(
    url: str, part: Path, name: str, deadline: Deadline, progress: Callable[[str, int, int | None, str], None]
) -> None:
    """Append the rest of url to part; raises _Cut or HTTPError where more is still to come."""
    done = _size(part)
    headers = {"Range": f"bytes={done}-"} if done else {}
    with _answer(url, headers, deadline, redirect=True) as answer:
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
        with _opened(part) as file:
            file.truncate(done)
            file.seek(done)
            # read1 returns what has arrived: a server that trickles must not outlast the deadline.
            while piece := answer.read1(_CHUNK, decode_content=False):
                done += file.write(piece)
                progress(name, done, total, "bytes")
                if deadline.passed:
                    break
                if total is None:
                    require_space(part.parent, _SPARE)
            file.flush()
            os.fsync(file.fileno())
        if deadline.passed:  # the end of the answer may be our doing
            raise _Cut(f"{done} of {total or 'unknown'} bytes came")
        if total is not None and done < total:
            raise _Cut(f"the connection was cut after {done} of {total} bytes")


@contextlib.contextmanager
def _answer(
    url: str, headers: dict[str, str], deadline: Deadline, *, redirect: bool
) -> Iterator[urllib3.BaseHTTPResponse]:
    """The beginning of the server's answer; the rest can be read until the deadline.

    urllib3's own limits do not add up to one: the lookup of a name has none, each address, each redirect and each
    piece of an answer has its time anew.
    """
    pool = urllib3.PoolManager(
        retries=urllib3.Retry(connect=0, read=0, redirect=_HOPS if redirect else False),
        timeout=urllib3.Timeout(connect=min(_CONNECT, deadline.left + 0.1), read=min(_READ, deadline.left + 0.1)),
    )

    def ask() -> urllib3.BaseHTTPResponse:
        return pool.request("GET", url, headers=headers, redirect=redirect, preload_content=False)

    try:
        answer = within(deadline, ask, lambda late: late.close())
    except TimeoutError as error:
        raise _Cut("the server has not answered") from error
    timer = threading.Timer(deadline.left, lambda: _end(answer))
    timer.daemon = True
    timer.start()
    try:
        yield answer
    finally:
        timer.cancel()
        answer.close()


def _end(answer: urllib3.BaseHTTPResponse) -> None:
    """Have the thread that reads the answer see its end."""
    with contextlib.suppress(Exception):  # it ended meanwhile
        answer.shutdown()


def _opened(part: Path) -> io.BufferedRandom:
    """The part file, made where missing; what is no file of this user's gives way to one."""
    if not _size(part):
        part.unlink(missing_ok=True)
    return os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644), "r+b")


def _size(part: Path) -> int:
    """The bytes that are there; 0 where a part would begin anew."""
    try:
        about = part.lstat()
    except FileNotFoundError:
        return 0
    mine = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and about.st_nlink == 1
    return about.st_size if mine else 0


def _why(error: Exception) -> str:
    """The reason in words, without urllib3's own objects around it."""
    inner = getattr(error, "reason", None) or error
    return printable(re.sub(r"^<?[A-Za-z.]+(Connection|Pool)\([^)]*\)( object at 0x[0-9a-f]+>)?: ", "", str(inner)))


def _file_name(url: str) -> str:
    return printable(urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2]))


def _hash(part: Path, algorithm: str) -> str:
    with _opened(part) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def expected(image: Download, *, timeout: float) -> tuple[str, Digest]:
    """The image's address, and the digest that it must have: pinned, else as its list has it now, within timeout
    seconds. A * in an address stands for what its directory has now.

    ImageError where there is none.
    """
    for name, value in (("sha256", image.sha256), ("sha512", image.sha512)):
        if value is not None:
            return image.url, Digest(name, value)
    assert image.checksums is not None  # platforms.py refuses an image without any digest
    deadline = Deadline.after(timeout, "download")
    url, checksums = _newest(image.url, deadline), _newest(image.checksums, deadline)
    return url, listed_digest(checksums, url, timeout=max(deadline.left, 0.001))


def _newest(url: str, deadline: Deadline) -> str:
    """The address with the name that the index of its directory has for a * in it; of several, the highest number."""
    directory, _, pattern = url.rpartition("/")
    if "*" not in pattern:
        return url
    wanted = re.compile(".*".join(map(re.escape, pattern.split("*"))))
    text = _list(f"{directory}/", deadline)
    linked = re.findall(r"""href=["']?(?:\./)?([^"'/?#>\s]{1,255})["'\s>]""", text, re.IGNORECASE)
    names = [name for name in map(urllib.parse.unquote, linked) if "/" not in name and wanted.fullmatch(name)]
    if not names:
        raise ImageError(f"{directory}/ lists no {pattern}", hint="look there what it is called now")
    newest = max(names, key=lambda name: ([int(part) for part in re.findall(r"\d{1,18}", name)], name))
    return f"{directory}/{urllib.parse.quote(newest)}"


def listed_digest(checksums: str, url: str, *, timeout: float) -> Digest:
    """The digest of url's file as the list at the address checksums has it (SHA256SUMS, or `SHA256 (name) = hex`)."""
    name = _file_name(url)
    text = _list(checksums, Deadline.after(timeout, "download"))
    plain = re.search(rf"^([0-9a-f]{{64}}|[0-9a-f]{{128}})[ *]+(?:\./)?{re.escape(name)}\s*$", text, re.MULTILINE)
    tagged = re.search(rf"^SHA\d+ \({re.escape(name)}\) = ([0-9a-f]{{64}}|[0-9a-f]{{128}})\s*$", text, re.MULTILINE)
    match = plain or tagged
    if match is None:
        raise ImageError(f"{checksums} lists no digest for {name}")
    return Digest("sha256" if len(match[1]) == 64 else "sha512", match[1])


def text_at(url: str, *, timeout: float) -> str:
    """The text of a small file. ImageError where it cannot be had within timeout seconds."""
    return _list(url, Deadline.after(timeout))


def _list(url: str, deadline: Deadline) -> str:
    """The text at url. A redirect from https to http is refused: with it the list could be altered like the image."""
    here = url
    hops = failed = 0
    while hops <= _HOPS:
        try:
            answered = _page(here, deadline)
        except (HTTPError, _Cut) as error:
            failed += 1
            if failed == _ATTEMPTS or deadline.passed:
                late = f" within {deadline.allowed}" if deadline.passed else ""
                raise ImageError(f"{url} cannot be read{late}: {_why(error)}") from error
            time.sleep(min(_PAUSE * failed, deadline.left))
            continue
        status, target, text = answered
        if not target:
            if status != 200:
                raise ImageError(f"{url} cannot be read: the server answers {status}")
            return text
        onward = urllib.parse.urljoin(here, target)
        if here.startswith("https:") and not onward.startswith("https:"):
            raise ImageError(f"{url} cannot be trusted: it redirects to {printable(onward)}, which is not https")
        here = onward
        hops += 1
    raise ImageError(f"{url} cannot be read: too many redirects")


def _page(url: str, deadline: Deadline) -> tuple[int, str, str]:
    """The status of the server's answer, where it redirects to if it does, and its text."""
    with _answer(url, {}, deadline, redirect=False) as answer:
        target = answer.get_redirect_location() or ""
        text = b""
        while not target and len(text) < _LIST_LIMIT and (piece := answer.read1(_CHUNK)):
            text += piece
        if deadline.passed:
            raise _Cut(f"{len(text)} bytes came")
        return answer.status, target, text[:_LIST_LIMIT].decode("utf-8", "replace")

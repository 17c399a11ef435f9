"""Pinned downloads, from a real server that can be told to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labkit.core.errors import HostError, ImageError, InfrastructureError
from labkit.core.platforms import CloudImage
from labkit.images import build as building
from labkit.io import download
from labkit.io.download import Digest, fetch
from labkit.io.files import locked
from tests.conftest import ROOT

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256, SHA512 = hashlib.sha256(BODY).hexdigest(), hashlib.sha512(BODY).hexdigest()
DIGEST = Digest("sha256", SHA256)
FIRST = 300_000  # bytes that come before the connection is cut


@dataclass
class Server:
    """What it serves, how it misbehaves, and what it was asked for: (path, Range header, bytes of body sent)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"/disk.img": BODY})
    redirects: dict[str, str] = field(default_factory=dict)
    cuts: int = 0  # so many answers end after FIRST bytes
    busy: int = 0  # so many answers are 503
    ranges: bool = True
    length: bool = True
    endless: bool = False
    pause: float = 0.0  # seconds between two pieces of the body
    asked: list[tuple[str, str | None, int]] = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    state: Server

    def do_GET(self) -> None:
        state, wanted = self.state, self.headers.get("Range")
        part = self._head(state, wanted)
        state.asked.append((self.path, wanted, len(part)))
        self.end_headers()
        sent = 0
        while sent < len(part) or (part and state.endless):
            piece = part[sent : sent + 65536] or bytes(65536)
            try:
                self.wfile.write(piece)
            except OSError:  # the client has had enough
                break
            sent += len(piece)
            time.sleep(state.pause)

    def _head(self, state: Server, wanted: str | None) -> bytes:
        """Begin the answer; the body that is to follow."""
        if state.busy:
            state.busy -= 1
            self.send_response(503)
            return b""
        if target := state.redirects.get(self.path):
            self.send_response(302)
            self.send_header("Location", target)
            return b""
        body = state.files.get(self.path)
        if body is None:
            self.send_response(404)
            return b""
        start = 0
        if wanted and state.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                return b""
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if state.length:
            self.send_header("Content-Length", str(len(body) - start))
        if state.cuts:
            state.cuts -= 1
            return body[start:][:FIRST]
        return body[start:]

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serve(certificate: Path | None = None) -> Iterator[Server]:
    state = Server()
    handler = type("Handler", (_Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            running.socket = context.wrap_socket(running.socket, server_side=True)
        state.url = f"http{'s' if certificate else ''}://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=[0.02])
        thread.start()
        try:
            yield state
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as state:
        yield state


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.01)


def get(server: Server, directory: Path, digest: Digest = DIGEST, name: str = "disk.img", timeout: float = 30) -> Path:
    seen: list[tuple[str, int, int | None]] = []
    path = fetch(
        f"{server.url}/{name}",
        digest,
        directory,
        timeout=timeout,
        progress=lambda *step: seen.append(step),
        waiting=lambda _: None,
    )
    if seen:
        assert seen[-1][:2] == (Path(name).name, len(BODY))
    return path


def listed_digest(checksums: str, url: str) -> Digest:
    return download.listed_digest(checksums, url, timeout=30)


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.suffix not in (".lock", ".holder"))


@pytest.mark.parametrize("digest", [DIGEST, Digest("sha512", SHA512)], ids=lambda digest: digest.algorithm)
def test_a_file_comes_once_and_is_named_by_its_digest(server: Server, tmp_path: Path, digest: Digest) -> None:
    path = get(server, tmp_path, digest)
    assert path == tmp_path / f"{digest.algorithm}-{digest.hex}"
    assert path.read_bytes() == BODY
    assert get(server, tmp_path, digest) == path
    assert server.asked == [("/disk.img", None, len(BODY))]
    assert left(tmp_path) == [path.name]


def test_a_cut_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    assert get(server, tmp_path).read_bytes() == BODY
    assert server.asked == [
        ("/disk.img", None, FIRST),
        ("/disk.img", f"bytes={FIRST}-", FIRST),
        ("/disk.img", f"bytes={2 * FIRST}-", len(BODY) - 2 * FIRST),
    ]


def test_a_later_command_goes_on_as_well(server: Server, tmp_path: Path) -> None:
    server.busy = 100
    (tmp_path / f"sha256-{SHA256}.part").write_bytes(BODY[:1000])
    with pytest.raises(ImageError, match="could not be downloaded: the server answers 503 Service Unav") as error:
        get(server, tmp_path)
    assert error.value.hint == "run the command again: the download resumes where it stopped"
    assert (100 - server.busy, left(tmp_path)) == (4, [f"sha256-{SHA256}.part"])
    server.busy = 2
    server.asked.clear()
    assert get(server, tmp_path).read_bytes() == BODY
    assert server.asked[-1] == ("/disk.img", "bytes=1000-", len(BODY) - 1000)


def test_a_part_that_is_whole_already_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"sha256-{SHA256}.part").write_bytes(BODY)
    assert get(server, tmp_path).read_bytes() == BODY
    assert server.asked == [("/disk.img", f"bytes={len(BODY)}-", 0)]


@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path, length: bool) -> None:
    server.ranges, server.length = False, length
    (tmp_path / f"sha256-{SHA256}.part").write_bytes(b"stale" * 400_000)
    assert get(server, tmp_path).read_bytes() == BODY


def test_another_file_than_the_pinned_one_is_removed(server: Server, tmp_path: Path) -> None:
    server.files["/disk.img"] = BODY[:-1] + b"!"
    with pytest.raises(ImageError, match=rf"has the wrong digest: sha256 [0-9a-f]{{64}}, expected {SHA256}"):
        get(server, tmp_path)
    assert left(tmp_path) == []


def test_a_missing_file_is_not_asked_for_twice(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"/gone\.img cannot be downloaded: the server answers 404 Not Found"):
        get(server, tmp_path, name="gone.img")
    assert len(server.asked) == 1


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="could not be downloaded"):
        get(Server(url="http://127.0.0.1:1"), tmp_path)


def test_a_server_that_drips_forever_is_left_at_the_deadline(server: Server, tmp_path: Path) -> None:
    server.endless, server.length, server.pause = True, False, 0.05
    started = time.monotonic()
    with pytest.raises(
        ImageError, match=r"could not be downloaded within 1 s \(limits\.download\): \d+ of unknown bytes came"
    ):
        get(server, tmp_path, timeout=1)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("silent", ["at once", "in the head", "in the body"])
def test_the_limit_holds_whatever_the_server_does(tmp_path: Path, silent: str) -> None:
    """`download = 10` is 10 s, not the 20 to connect or the 60 that a piece of an answer may take."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    if silent == "in the head":
                        while not over.wait(0.05):
                            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                    elif silent == "in the body":
                        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
                    over.wait(20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            for what in (lambda: get(Server(url=url), tmp_path, timeout=0.5), lambda: listed(f"{url}/SUMS", 0.5)):
                began = time.monotonic()
                with pytest.raises(ImageError, match=r" within 0\.5 s \(limits\.download\): "):
                    what()
                assert 0.4 < time.monotonic() - began < 10
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def listed(checksums: str, timeout: float) -> Digest:
    return download.listed_digest(checksums, "http://127.0.0.1/disk.img", timeout=timeout)


def test_the_wait_for_another_download_counts(server: Server, tmp_path: Path) -> None:
    with locked(tmp_path / f"sha256-{SHA256}.lock", timeout=1, waiting=pytest.fail, what="it"):
        began = time.monotonic()
        with pytest.raises(InfrastructureError, match=r"gave up after waiting 0\.3 s"):
            get(server, tmp_path, timeout=0.3)
        assert time.monotonic() - began < 10
    assert server.asked == []


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_part_that_was_planted_is_not_written_to(server: Server, tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    part = tmp_path / f"sha256-{SHA256}.part"
    if kind == "link":
        part.symlink_to(precious)
    elif kind == "hard link":
        part.hardlink_to(precious)
    else:
        os.mkfifo(part)
    assert get(server, tmp_path).read_bytes() == BODY
    assert precious.read_text() == "precious"
    assert server.asked == [("/disk.img", None, len(BODY))]


def test_two_processes_at_once_download_once(server: Server, tmp_path: Path) -> None:
    server.pause = 0.05
    script = (
        "import sys; from pathlib import Path; from labkit.io.download import Digest, fetch\n"
        "fetch(sys.argv[1], Digest('sha256', sys.argv[2]), Path(sys.argv[3]), timeout=30,"
        " progress=lambda *_: None, waiting=print)"
    )
    words = [sys.executable, "-c", script, f"{server.url}/disk.img", SHA256, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(child.communicate(timeout=60)[0] for child in both)
    assert [child.returncode for child in both] == [0, 0]
    assert said[0] == ""
    assert said[1].startswith("waiting for process ")
    assert ", which has held the download of disk.img since " in said[1]
    assert server.asked == [("/disk.img", None, len(BODY))]


@pytest.mark.bootstrap
@pytest.mark.parametrize("length", [True, False], ids=["announced", "not announced"])
def test_a_full_disk_is_named(server: Server, tmp_path: Path, length: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    server.length, server.endless = length, not length
    server.files["/disk.img"] = bytes(8 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70M", "tmpfs", tmp_path], check=True)
    try:
        with pytest.raises(HostError, match=rf"^{re.escape(str(tmp_path))} has \d+ MiB free; this needs \d+ MiB$"):
            get(server, tmp_path)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 16 << 20
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("line", "algorithm"),
    [
        (f"{SHA256}  disk.img", "sha256"),
        (f"{SHA256} *disk.img", "sha256"),
        (f"{SHA512}  ./disk.img", "sha512"),
        (f"SHA256 (disk.img) = {SHA256}", "sha256"),
        (f"SHA512 (disk.img) = {SHA512}", "sha512"),
    ],
)
def test_a_digest_is_found_in_every_form_of_list(server: Server, line: str, algorithm: str) -> None:
    other = "0" * 64
    text = f"-----BEGIN PGP SIGNED MESSAGE-----\n# disk.img: 1\n{other}  a-disk.img\n{line}\n{other}  disk.img.xz\n"
    server.files["/SUMS"] = text.encode()
    assert listed_digest(f"{server.url}/SUMS", f"{server.url}/a/disk.img") == Digest(
        algorithm, SHA256 if algorithm == "sha256" else SHA512
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{SHA256}  other.img\n", "lists no digest for disk.img"),
        (f"{SHA256[:-1]}  disk.img\n", "lists no digest for disk.img"),
        (f"{SHA256}  diskximg\n", "lists no digest for disk.img"),
        (None, "the server answers 404"),
    ],
)
def test_a_list_without_the_digest(server: Server, text: str | None, message: str) -> None:
    if text is not None:
        server.files["/SUMS"] = text.encode()
    with pytest.raises(ImageError, match=message):
        listed_digest(f"{server.url}/SUMS", "http://127.0.0.1/disk.img")


def test_redirects_are_followed_and_have_an_end(server: Server, tmp_path: Path) -> None:
    server.redirects = {"/old": "SUMS", "/loop": "/loop", "/latest/disk.img": "/disk.img"}
    server.files["/SUMS"] = f"{SHA256}  disk.img\n".encode()
    assert listed_digest(f"{server.url}/old", "http://127.0.0.1/disk.img") == DIGEST
    with pytest.raises(ImageError, match="too many redirects"):
        listed_digest(f"{server.url}/loop", "http://127.0.0.1/disk.img")
    assert get(server, tmp_path, name="latest/disk.img").read_bytes() == BODY


def test_a_list_is_not_led_from_https_to_http(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/SUMS"] = f"{SHA256}  disk.img\n".encode()
    pem = tmp_path / "server.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=here"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(tmp_path / "cert")]
    subprocess.run(words, check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (tmp_path / "cert").read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    with serve(pem) as safe:
        safe.files["/SUMS"] = server.files["/SUMS"]
        safe.redirects = {"/away": f"{server.url}/SUMS", "/old": "/SUMS"}
        assert listed_digest(f"{safe.url}/old", "http://127.0.0.1/disk.img") == DIGEST
        with pytest.raises(ImageError, match=r"cannot be trusted: it redirects to http://127\.0\.0\.1:\d+/SUMS"):
            listed_digest(f"{safe.url}/away", "http://127.0.0.1/disk.img")
    assert server.asked == []


def _disk(path: Path, *words: str | Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", *words[:-1], path, *words[-1:]], check=True)
    return path


@pytest.mark.parametrize("option", ["backing_file=/etc/passwd,backing_fmt=raw", "data_file={}/outside"])
def test_an_image_that_refers_to_other_files_is_refused(tmp_path: Path, option: str) -> None:
    base = _disk(tmp_path / "base", "-f", "qcow2", "-u", "-o", option.format(tmp_path), "1M")
    with pytest.raises(ImageError, match="refers to other files"):
        building._plain_disk(base, tmp_path / "disk.qcow2", 8)
    assert not (tmp_path / "disk.qcow2").exists()


def test_what_is_no_disk_image_is_refused(tmp_path: Path) -> None:
    vmdk = tmp_path / "base"
    vmdk.write_text('# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 1 FLAT "/etc/shadow" 0\n')
    for content in (vmdk.read_bytes(), b"", b"\xfd7zXZ\0" * 200, b"QFI\xfb" + struct.pack(">I", 3)):
        vmdk.write_bytes(content)
        with pytest.raises(ImageError, match=r"is neither a qcow2 image nor a raw disk|cannot be read"):
            building._plain_disk(vmdk, tmp_path / "disk.qcow2", 8)


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_a_disk_image_becomes_a_disk_of_the_wished_size(tmp_path: Path, form: str) -> None:
    base = _disk(tmp_path / "base", "-f", form, "1M")
    if form == "raw":
        with base.open("r+b") as file:
            file.seek(510)
            file.write(b"\x55\xaa")
    building._plain_disk(base, tmp_path / "disk.qcow2", 8)
    header = (tmp_path / "disk.qcow2").read_bytes()[:32]
    assert header[:4] == b"QFI\xfb"
    assert int.from_bytes(header[24:32]) == 8 << 20


INDEX = """<html><a href="../">Parent</a> <a href="?C=N">Name</a>
<a href="Cloud-Rawhide-20261002.n.0.x86_64.qcow2">a</a> <A HREF='./Cloud-Rawhide-20261002.n.10.x86_64.qcow2'>b</A>
<a href="Cloud-Rawhide-20261002.n.9.x86_64.qcow2">c</a> <a href="Cloud-Rawhide-20270101.n.0.aarch64.qcow2">d</a>
<a href="Rawhide-20261002.n.10-CHECKSUM">e</a> <a href="https://example.org/Cloud-Rawhide-3.x86_64.qcow2">f</a>
<a href="Cloud-Rawhide-20991231.n.0.x86_64.qcow2.sig">g</a></html>
"""
NEWEST = "Cloud-Rawhide-20261002.n.10.x86_64.qcow2"


def test_a_star_stands_for_the_newest_of_its_directory(server: Server) -> None:
    server.files |= {
        "/d/": INDEX.encode(),
        "/d/Rawhide-20261002.n.10-CHECKSUM": f"SHA256 ({NEWEST}) = {SHA256}".encode(),
    }
    image = CloudImage(
        url=f"{server.url}/d/Cloud-Rawhide-*.x86_64.qcow2", checksums=f"{server.url}/d/*-CHECKSUM", user="me"
    )
    assert download.expected(image, timeout=30) == (f"{server.url}/d/{NEWEST}", DIGEST)
    gone = image.model_copy(update={"url": f"{server.url}/d/Cloud-Stable-*.qcow2"})
    with pytest.raises(ImageError, match=r"/d/ lists no Cloud-Stable-\*\.qcow2"):
        download.expected(gone, timeout=30)


def test_an_address_without_a_star_is_asked_of_nobody(server: Server) -> None:
    image = CloudImage(url=f"{server.url}/disk.img", sha256=SHA256, user="me")
    assert download.expected(image, timeout=30) == (image.url, DIGEST)
    assert server.asked == []

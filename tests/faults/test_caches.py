"""What labkit remembers and keeps besides machines and images, damaged."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core.home import Home
from labkit.io import files
from labkit.io.download import Digest, fetch
from labkit.qemu import accelerator
from tests.faults.driver import Templates, marked
from tests.faults.table import DOWNLOADED, REMEMBERED, CacheCase
from tests.faults.test_files import damage

CONTENT = b"an image" * 1000


@pytest.mark.parametrize("case", marked(REMEMBERED))
def test_what_is_remembered_of_kvm(
    templates: Templates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: CacheCase
) -> None:
    """On a host that has /dev/kvm, and where a guest runs with it."""
    lab = templates.copy("empty")
    monkeypatch.setenv("PATH", lab.environ["PATH"])
    monkeypatch.setattr(accelerator, "Path", lambda name: Path("/dev/null" if name == "/dev/kvm" else name))
    monkeypatch.setattr(accelerator, "remembered", files.remembered)
    home = Home(tmp_path)
    assert accelerator.probe_kvm(home) is None
    (memory,) = home.host.glob("kvm-*.json")
    damage(memory, case.damage)
    assert accelerator.probe_kvm(home) is None
    assert json.loads(memory.read_text())["reason"] is None
    assert list(home.host.iterdir()) == [memory]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    place = tmp_path / "web"
    place.mkdir()
    (place / "image").write_bytes(CONTENT)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(place))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/image"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("case", marked(DOWNLOADED))
def test_a_download_that_was_damaged(tmp_path: Path, url: str, case: CacheCase) -> None:
    digest = Digest("sha256", hashlib.sha256(CONTENT).hexdigest())

    def get() -> Path:
        return fetch(url, digest, tmp_path / "downloads", timeout=20, progress=lambda *_: None, waiting=lambda _: None)

    target = get()
    if case.file.endswith(".part"):
        target.rename(target.with_name(f"{target.name}.part"))
        target = target.with_name(f"{target.name}.part")
    damage(target, case.damage)
    assert get().read_bytes() == CONTENT

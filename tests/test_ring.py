"""What keeps the end of what a guest prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from labkit.io import ring

LIMIT = 10_000


def run(directory: Path, *texts: bytes) -> None:
    """Write each text through a pipe of its own to a file of its own."""
    pipes = [os.pipe() for _ in texts]
    words = [word for number, (end, _) in enumerate(pipes) for word in (str(end), f"file{number}")]
    argv = [sys.executable, "-I", "-S", ring.__file__, str(LIMIT), *words]
    child = subprocess.Popen(argv, cwd=directory, pass_fds=[end for end, _ in pipes])
    for (end, into), text in zip(pipes, texts, strict=True):
        os.close(end)
        with os.fdopen(into, "wb") as file:
            file.write(text)
    assert child.wait(30) == 0


def test_what_is_short_is_kept_whole(tmp_path: Path) -> None:
    run(tmp_path, b"one\n", b"two")
    assert (tmp_path / "file0").read_bytes() == b"one\n"
    assert (tmp_path / "file1").read_bytes() == b"two"
    assert (tmp_path / "file0").stat().st_mode & 0o777 == 0o600


def test_a_flood_keeps_its_end(tmp_path: Path) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(200_000))
    run(tmp_path, lines)
    kept = (tmp_path / "file0").read_bytes()
    assert len(kept) <= LIMIT + 200
    assert kept.endswith(b"line 199999\n")
    head, _, rest = kept.partition(b"\n")
    assert head.startswith(b"[labkit dropped ")
    assert lines.endswith(rest)
    assert [path.name for path in tmp_path.iterdir()] == ["file0"]


def test_a_line_without_end_is_bounded_too(tmp_path: Path) -> None:
    run(tmp_path, b"x" * 1_000_000)
    assert (tmp_path / "file0").stat().st_size <= LIMIT + 200


def test_it_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "file0").symlink_to("other")
    pipe = os.pipe()
    argv = [sys.executable, "-I", "-S", ring.__file__, str(LIMIT), str(pipe[0]), "file0"]
    assert subprocess.run(argv, cwd=tmp_path, pass_fds=[pipe[0]], stderr=subprocess.DEVNULL, timeout=30).returncode
    assert (tmp_path / "other").read_text() == "mine"

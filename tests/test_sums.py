"""Files that labkit keeps, and what can have happened to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.images import sums


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "disk").write_bytes(b"0123456789" * 1000)
    (tmp_path / "state").write_bytes(b"")
    sums.write(tmp_path, ("disk", "state"))
    return tmp_path


def test_what_was_written_is_right(kept: Path) -> None:
    assert sums.wrong(kept) is None
    assert sums.wrong(kept, content=True) is None


def test_what_has_no_sums_is_taken_as_it_is(tmp_path: Path) -> None:
    assert sums.wrong(tmp_path, content=True) is None


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (lambda at: cut(at / "disk"), "disk has 5 bytes of 10000"),
        (lambda at: (at / "disk").unlink(), "disk: No such file or directory"),
        (lambda at: (at / "state").write_bytes(b"x"), "state has 1 bytes of 0"),
        (lambda at: (at / sums.SUMS).write_bytes(b""), "sums.json cannot be read"),
        (lambda at: (at / sums.SUMS).write_bytes(b"[]"), "sums.json cannot be read"),
        (lambda at: (at / sums.SUMS).write_bytes(b'{"disk": 3}'), "sums.json cannot be read"),
        (lambda at: sums.call_damaged(at, "the disk is wrong"), "the disk is wrong"),
    ],
)
def test_what_is_seen_at_once(kept: Path, happens: Callable[[Path], object], said: str) -> None:
    happens(kept)
    assert said in (sums.wrong(kept) or "")


def test_changed_content_is_seen_where_it_is_read(kept: Path) -> None:
    change(kept / "disk")
    assert sums.wrong(kept) is None
    assert "disk is not what was written" in (sums.wrong(kept, content=True) or "")

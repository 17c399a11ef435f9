"""What `suites --export`, `render` and `package` write, into directories that others may write too."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.observer import Silent
from labkit.images import boxes
from labkit.suites import registry
from labkit.usecases import export


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "precious"
    file.write_text("precious")
    return file


def whole(directory: Path) -> bool:
    """Whether all of it are files, and none is a link or unfinished."""
    return all(path.is_dir() or (path.is_file() and not path.is_symlink()) for path in directory.rglob("*")) and not [
        path for path in directory.rglob("*") if path.name.endswith(".part")
    ]


def test_an_exported_suite_follows_no_link(shared: Path, precious: Path) -> None:
    (shared / "labkit-spec.pyz").symlink_to(precious)
    made = registry.export(shared)
    assert made.read_bytes().startswith(b"#!/usr/bin/env python3\nPK")
    assert whole(shared)
    assert precious.read_text() == "precious"


def test_rendered_files_follow_no_link(shared: Path, precious: Path, tmp_path: Path) -> None:
    source = tmp_path / "runc"
    source.write_text("#!/bin/sh\n")
    settings = config.load(
        cwd=tmp_path, environ={"HOME": str(tmp_path), "LABKIT_BOX": str(precious), "LABKIT_RUNC": str(source)}
    )
    first = export.render(settings, Silent(), shared)
    assert [path for path in first if path.parent.name == "sources"]
    for path in first:
        path.unlink()
        path.symlink_to(precious)
    assert export.render(settings, Silent(), shared) == first
    assert whole(shared)
    assert precious.read_text() == "precious"


def test_a_box_is_written_aside_and_follows_no_link(
    shared: Path, precious: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made.box"
    made.write_bytes(bytes(range(256)) * 40_000)
    monkeypatch.setattr(boxes, "ensure", lambda *_: made)
    monkeypatch.setattr(export, "ensure", lambda *_: None)
    (shared / "debian-13.box").symlink_to(precious)
    box = export.package(config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)}), Silent(), shared)
    assert box.read_bytes() == made.read_bytes()
    assert whole(shared)
    assert precious.read_text() == "precious"

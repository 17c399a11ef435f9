"""Whose files labkit obeys, and whose processes it believes to be its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.core import config, platforms
from labkit.core.errors import UsageError
from labkit.core.trust import require_trusted
from labkit.io import process
from labkit.io.files import make_directory
from labkit.results import policy
from tests.conftest import spawned

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which takes root")
OTHER = 12345


def file(directory: Path, *, owner: int = 0, mode: int = 0o644, text: str = 'platform = "fedora"\n') -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "labkit.toml"
    path.write_text(text)
    path.chmod(mode)
    if owner:
        os.chown(path, owner, owner)
    return path


def load(cwd: Path, **environ: str) -> config.Settings:
    return config.load(cwd=cwd, environ={"HOME": "/home/me", **environ})


def test_ones_own_file_is_obeyed(tmp_path: Path) -> None:
    file(tmp_path)
    assert load(tmp_path).platform == "fedora"


@pytest.mark.parametrize("mode", [0o666, 0o646, 0o602])
def test_what_anybody_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = file(tmp_path, mode=mode)
    with pytest.raises(UsageError, match=f"{path} can be written by anybody, so labkit, run by .*, does not obey it"):
        load(tmp_path)


def test_what_anybody_can_replace_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path / "open")
    path.parent.chmod(0o777)
    with pytest.raises(UsageError, match=f"{path} is in {path.parent}, where anybody can replace it"):
        load(path.parent)
    path.parent.chmod(0o1777)  # as /tmp: only its owner can
    assert load(path.parent).platform == "fedora"


@as_root
@pytest.mark.parametrize("below", ["", "a/b"])
def test_another_users_file_in_a_sticky_directory_is_refused(tmp_path: Path, below: str) -> None:
    path = file(tmp_path / "tmp", owner=OTHER)
    path.parent.chmod(0o1777)
    (path.parent / below).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UsageError, match=f"{path} belongs to user {OTHER}") as caught:
        load(path.parent / below)
    assert caught.value.hint is not None and "chown" in caught.value.hint
    with pytest.raises(UsageError, match="belongs to user"):
        load(tmp_path, LABKIT_CONFIG=str(path))
    assert load(path.parent, SUDO_UID=str(OTHER)).platform == "fedora"  # who called sudo


@as_root
def test_a_link_is_judged_by_where_it_leads(tmp_path: Path) -> None:
    path = file(tmp_path / "other", owner=OTHER)
    link = tmp_path / "labkit.toml"
    link.symlink_to(path)
    with pytest.raises(UsageError, match=f"{link} belongs to user {OTHER}"):
        load(tmp_path)


@as_root
def test_a_directory_of_another_user_holds_nothing_to_obey(tmp_path: Path) -> None:
    path = file(tmp_path / "other")
    os.chown(path.parent, OTHER, OTHER)
    with pytest.raises(UsageError, match=f"is in {path.parent}, which belongs to user {OTHER}"):
        require_trusted(path)


@as_root
def test_policies_and_platforms_of_another_user_are_refused(tmp_path: Path) -> None:
    own = file(tmp_path / "policy", owner=OTHER, text="")
    with pytest.raises(UsageError, match="does not obey it"):
        policy.load(own)
    directory = tmp_path / "platforms" / "mine"
    directory.parent.mkdir()
    file(directory, text="").rename(directory / "platform.toml")
    os.chown(directory / "platform.toml", OTHER, OTHER)
    with pytest.raises(UsageError, match="does not obey it"):
        platforms.load("mine", platforms.directories(directory.parent))


def test_no_configuration_can_be_asked_for(tmp_path: Path) -> None:
    file(tmp_path)
    assert load(tmp_path, LABKIT_CONFIG="/dev/null").platform == "debian"


def test_what_is_not_there_is_for_its_reader_to_tell(tmp_path: Path) -> None:
    assert require_trusted(tmp_path / "none") == tmp_path / "none"


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@as_root
def test_another_users_process_cannot_claim_to_be_labkits(tmp_path: Path) -> None:
    """Any user could have root's halted machine taken for running, and so wiped, by a word in an environment."""
    mark = {process.OWNER: str(tmp_path)}
    with subprocess.Popen(["/bin/sleep", "60"], env=mark, user=OTHER, group=OTHER, cwd="/") as stranger:
        try:
            seen = Path(f"/proc/{stranger.pid}/environ")
            until(lambda: str(tmp_path).encode() in seen.read_bytes())
            assert process.owned(tmp_path) == []
            assert process.end_owned(tmp_path) == 0
            assert stranger.poll() is None
        finally:
            stranger.kill()


@as_root
def test_what_labkits_own_process_started_as_another_user_is_its_own(tmp_path: Path) -> None:
    script = f"setpriv --reuid={OTHER} sleep 60; true"
    child = spawned(["sh", "-c", script], cwd=Path("/"), log=tmp_path / "log", env={process.OWNER: str(tmp_path)})
    until(lambda: len(process.owned(tmp_path)) > 1)
    process.end_owned(tmp_path)
    child.wait()
    assert process.owned(tmp_path) == []


def test_directories_are_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_directory(tmp_path / "a" / "b" / "c", mode=0o700)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*")}
    assert modes == {"b": 0o755, "c": 0o700}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_what_is_started_writes_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        child = spawned(["sh", "-c", "echo >made"], cwd=tmp_path, log=tmp_path / "log", env={})
        assert child.wait() == 0
    finally:
        os.umask(before)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600

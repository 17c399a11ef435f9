"""Platforms as data: those that ship, and what a new one must get right."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.core import platforms
from labkit.core.errors import UsageError

SHIPPED = platforms.directories()

GOOD = """\
title = "Mine"
family = "debian"
default = "1"
[releases.1.cloud_image]
url = "https://example.org/1.qcow2"
sha256 = "{sha256}"
user = "me"
""".format(sha256="0" * 64)


def write(directory: Path, text: str, name: str = "mine") -> Path:
    (directory / name).mkdir()
    (directory / name / "platform.toml").write_text(text)
    return directory


def complaint(directory: Path, text: str) -> str:
    write(directory, text)
    with pytest.raises(UsageError) as caught:
        platforms.load("mine", [directory])
    return caught.value.message.replace(f"{directory}/mine/", "")


@pytest.mark.parametrize(
    ("name", "default", "releases"),
    [("debian", "13", ["13", "12"]), ("fedora", "44", ["44", "43"]), ("ubuntu", "24.04", ["24.04"])],
)
def test_what_ships(name: str, default: str, releases: list[str]) -> None:
    platform = platforms.load(name, SHIPPED)
    assert [release.name for release in platform.by_default()] == releases
    assert platform.release(None).name == default
    assert all(release.cloud_image for release in platform.by_default())


def test_debian_is_built_from_packages_without_a_cloud_image() -> None:
    for release in platforms.load("debian", SHIPPED).by_default():
        assert release.build is not None
        assert release.build.suite == release.codename
        assert {"openssh-server", "runc", "crun", "busybox-static"} <= set(release.build.packages)


def test_adding_a_platform_is_adding_a_file(tmp_path: Path) -> None:
    directories = platforms.directories(write(tmp_path, GOOD))
    assert platforms.names(directories) == ["debian", "fedora", "mine", "ubuntu"]
    assert platforms.load("mine", directories).release("1").images == ["cloud_image"]


def test_a_platform_of_ones_own_comes_before_the_shipped_one(tmp_path: Path) -> None:
    assert platforms.load("debian", platforms.directories(write(tmp_path, GOOD, "debian"))).title == "Mine"


def test_an_unknown_platform_or_release_is_told_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown platform 'fedroa'; did you mean 'fedora'") as caught:
        platforms.load("fedroa", SHIPPED)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("known: debian, fedora, ubuntu")
    with pytest.raises(UsageError, match=r"unknown release of Ubuntu '24\.4'; did you mean '24\.04'"):
        platforms.load("ubuntu", SHIPPED).release("24.4")


@pytest.mark.parametrize("name", ["../debian", "debian/", ".", ""])
def test_a_name_is_not_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="unknown platform"):
        platforms.load(name, SHIPPED)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none does not exist"):
        platforms.directories(tmp_path / "none")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            f'sha256 = "{"0" * 64}"\n',
            "",
            "releases.1.cloud_image must have exactly one of sha256, sha512 and checksums",
        ),
        ("user =", 'checksums = "https://example.org/S"\nuser =', "releases.1.cloud_image must have exactly one of"),
        ('0000"', '000Z"', "releases.1.cloud_image.sha256 is"),
        (f'"{"0" * 64}"', '"00"', "releases.1.cloud_image.sha256 is '00', must be 64 lower-case hex digits"),
        ("https:", "file:", "releases.1.cloud_image.url is 'file://example.org/1.qcow2', must be an http(s) address"),
        ('"me"', '"-o Proxy"', "releases.1.cloud_image.user is '-o Proxy', must be a user name"),
        ("user =", "usr =", "releases.1.cloud_image.user is missing"),
        ('default = "1"', 'default = "2"', "unknown release '2'"),
        ('default = "1"', "default = 1", 'default is 1, must be a release in quotes, such as "13"'),
        ("[releases.1.cloud_image]", '[releases."1.0".cloud_imag]', 'unknown key releases."1.0".cloud_imag; did you'),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = GOOD.replace(old, new)
    if text == GOOD:
        pytest.fail(f"{old!r} is not in the example")
    assert f"platform.toml: {message}" in complaint(tmp_path, text)


def test_a_list_of_digests_must_come_over_https_or_from_this_host(tmp_path: Path) -> None:
    listed = GOOD.replace(f'sha256 = "{"0" * 64}"', 'checksums = "http://{}/SHA512SUMS"')
    with pytest.raises(UsageError, match="must be an https address"):
        platforms.load("mine", [write(tmp_path, listed.replace("{}", "example.org"))])
    (tmp_path / "mine" / "platform.toml").write_text(listed.replace("{}", "127.0.0.1:8000"))
    assert platforms.load("mine", [tmp_path]).release(None).images == ["cloud_image"]

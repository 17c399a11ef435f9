"""Platforms as data: those that ship, and what a new one must get right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labkit.core import platforms
from labkit.core.arch import Arch
from labkit.core.errors import UsageError
from labkit.core.platforms import Distro

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
    [
        ("almalinux", "10", ["10", "9"]),
        ("centos", "10", ["10"]),
        ("debian", "13", ["13", "12", "sid"]),
        ("fedora", "44", ["44", "43", "rawhide"]),
        ("ubuntu", "24.04", ["24.04", "26.04"]),
    ],
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
    assert platforms.names(directories) == ["almalinux", "centos", "debian", "fedora", "mine", "ubuntu"]
    assert platforms.load("mine", directories).release("1").images == ["cloud_image"]


def test_a_platform_of_ones_own_comes_before_the_shipped_one(tmp_path: Path) -> None:
    assert platforms.load("debian", platforms.directories(write(tmp_path, GOOD, "debian"))).title == "Mine"


def test_an_unknown_platform_or_release_is_told_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown platform 'fedroa'; did you mean 'fedora'") as caught:
        platforms.load("fedroa", SHIPPED)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("known: almalinux, centos, debian, fedora, ubuntu")
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
        ("1.qcow2", "*.qcow2", "releases.1.cloud_image must have checksums, for its url has a *"),
        (
            "org/1",
            "org/*/1",
            "releases.1.cloud_image has 'https://example.org/*/1.qcow2': a * may stand in the last part",
        ),
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


MORE = """
[releases.1.build]
tool = "mmdebstrap"
suite = "trixie"
user = "root"
packages = ["linux-image-{arch}", "g++"]
"""


def test_an_image_is_for_the_architectures_that_its_file_names(tmp_path: Path) -> None:
    other = GOOD.partition("[releases")[2].replace("1.cloud_image", "1.arm64.cloud_image").replace("1.qcow2", "a.qcow2")
    write(tmp_path, f"{GOOD}{MORE}[releases{other}")
    platform = platforms.load("mine", [tmp_path])
    amd64, arm64 = (Distro(platform, platform.release(None), arch) for arch in (Arch.AMD64, Arch.ARM64))
    assert (amd64.name, arm64.name, arm64.title) == ("mine-1", "mine-1-arm64", "Mine 1 (arm64)")
    assert amd64.build is not None
    assert amd64.build.packages == ("linux-image-amd64", "g++")
    assert arm64.build is None  # arches = ["amd64"] where the file says nothing: it was written for that
    assert amd64.cloud_image is not None
    assert arm64.cloud_image is not None
    assert arm64.cloud_image.url.endswith("/a.qcow2")
    assert arm64.arches == [Arch.AMD64, Arch.ARM64]


@pytest.mark.parametrize("name", platforms.names(SHIPPED))
def test_every_release_that_ships_is_there_for_both_architectures(name: str) -> None:
    platform = platforms.load(name, SHIPPED)
    for release in platform.by_default():
        assert Distro(platform, release).arches == [Arch.AMD64, Arch.ARM64]
        image = Distro(platform, release, Arch.ARM64).cloud_image
        assert image is not None
        listed = f"{image.url} {image.checksums}"
        assert not re.search(r"x86_64|amd64", listed), "an arm64 image at an address of amd64"


def test_what_an_unstable_release_has_differs_from_its_platforms() -> None:
    debian, fedora = (platforms.load(name, SHIPPED) for name in ("debian", "fedora"))
    assert Distro(debian, debian.release("sid")).mirror == ("deb {mirror} {codename} main",)  # there is no sid-updates
    assert Distro(debian, debian.release("13")).mirror == debian.mirror
    assert "development/rawhide" in "".join(Distro(fedora, fedora.release("rawhide")).mirror)

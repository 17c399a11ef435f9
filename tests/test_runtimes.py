"""Runtimes: by name from data, or any program by its path."""

from __future__ import annotations

import re

import pytest

from labkit.core import platforms
from labkit.core.errors import UsageError
from labkit.subjects import runtimes


def test_a_name_gives_a_command_that_every_shipped_platform_installs() -> None:
    assert {"crun", "runc"} < set(runtimes.names())
    directories = platforms.directories()
    for name in ("crun", "runc"):
        assert runtimes.find(name).command == name
        for platform in platforms.names(directories):
            packages = platforms.load(platform, directories).packages
            assert packages.get(name) or (name, platform) in {("runc", "almalinux"), ("runc", "centos")}, platform


def test_a_path_is_itself_the_command() -> None:
    runtime = runtimes.find("/usr/local/bin/my-runc")
    assert (runtime.name, runtime.command) == ("my-runc", "/usr/local/bin/my-runc")


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown runtime 'rnuc'; did you mean 'runc'\?") as caught:
        runtimes.find("rnuc")
    hint = caught.value.hint or ""
    assert re.fullmatch(r"known: .*runc.*; \./FILE of this host, or the absolute path of .*", hint)


@pytest.mark.parametrize("path", ["bin/there-is-none", "/", "/usr/..", "/bin/a\nb", "/bin/\x1b[2J", "host:/none/x"])
def test_what_is_no_program(path: str) -> None:
    with pytest.raises(UsageError, match=r"neither a name nor an absolute|is a directory|is not a name|is not there"):
        runtimes.find(path)

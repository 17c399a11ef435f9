"""One setting that says where a tool comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.core.sources import Source, SourceKind, parse
from tests.test_config import complaint, load


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("auto", Source(SourceKind.AUTO)),
        ("package", Source(SourceKind.PACKAGE)),
        ("release:1.3.0-rc.1", Source(SourceKind.RELEASE, "1.3.0-rc.1")),
        ("https://example.org/runc.git", Source(SourceKind.GIT, "https://example.org/runc.git")),
        ("https://example.org/runc#v1.3.0", Source(SourceKind.GIT, "https://example.org/runc", "v1.3.0")),
        ("http://example.org/runc.amd64", Source(SourceKind.FILE, "http://example.org/runc.amd64")),
        ("/src/runc#release-1.3", Source(SourceKind.LOCAL, "/src/runc", "release-1.3")),
        ("/src/a#b#", Source(SourceKind.LOCAL, "/src/a#b")),
    ],
)
def test_what_a_setting_says(text: str, source: Source) -> None:
    assert parse(text) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pakcage", "must be auto, package, release:VERSION, an http(s) address"),
        ("", "must be auto, package"),
        ("release:", "'' is not a version, such as 1.3.0"),
        ("release:1;reboot", "'1;reboot' is not a version"),
        ("ftp://example.org/x", "must be auto"),
        ("https://example.org/a b.git", "must be auto"),
        ("https://example.org/a\nb.git", "must be auto"),
        ("https://example.org/runc#--upload-pack=x", "'--upload-pack=x' is not a git ref"),
        ("https://example.org/runc#a b", "'a b' is not a git ref"),
    ],
)
def test_what_says_nothing(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    toml = 'runc = "src/runc#main"\ngo = "~/go.tar.gz"\nbox = "my.box"\n'
    settings = load(tmp_path, toml, LABKIT_CRUN="./crun")
    assert settings.runc == Source(SourceKind.LOCAL, f"{tmp_path}/src/runc", "main")
    assert settings.go == Source(SourceKind.LOCAL, "/home/me/go.tar.gz")
    assert settings.crun == Source(SourceKind.LOCAL, f"{tmp_path}/crun")
    assert settings.box == f"{tmp_path}/my.box"


def test_tools_are_a_list_or_auto(tmp_path: Path) -> None:
    assert load(tmp_path, 'tools = ["go", "docker"]').tools == ("go", "docker")
    assert load(tmp_path, 'tools = ["go"]', LABKIT_TOOLS="auto").tools is None
    assert load(tmp_path, LABKIT_TOOLS="go, docker").tools == ("go", "docker")
    assert complaint(tmp_path, "tools = 3").startswith("labkit.toml: tools is 3, must be auto or a list of tools")


def test_a_bad_source_is_told_with_its_key(tmp_path: Path) -> None:
    assert complaint(tmp_path, 'runc = "pakcage"').startswith("labkit.toml: runc is 'pakcage', must be auto, package,")
    assert complaint(tmp_path, LABKIT_GO_SHA256="12").startswith("LABKIT_GO_SHA256: go_sha256 is '12', must be 64")

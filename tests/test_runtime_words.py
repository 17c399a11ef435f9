"""What --runtime takes, read."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from labkit.core import config
from labkit.core.errors import UsageError
from labkit.subjects.runtimes.words import REGISTRY, HostFile, InMachine, Package, Release, Source, parse, repository

_NAMES = ["crun", "runc", "runsc", "youki"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("runc", Package("runc")),
        ("runc@1.3.6", Release("runc", "1.3.6")),
        ("runc@v1.3.6", Release("runc", "1.3.6")),
        ("runc@1.4.0-rc.1", Release("runc", "1.4.0-rc.1")),
        ("runsc@20240722.0", Release("runsc", "20240722.0")),
        ("runsc@release-20240722.0", Release("runsc", "20240722.0")),
        ("crun@1", Release("crun", "1")),
        ("runc@main", Source("runc", "", "main")),
        ("runc@fix/hooks", Source("runc", "", "fix/hooks")),
        (
            "runc@0123456789abcdef0123456789abcdef01234567",
            Source("runc", "", "0123456789abcdef0123456789abcdef01234567"),
        ),
        ("runc@1234567", Source("runc", "", "1234567")),
        ("https://example.org/runc.git#main", Source("", "https://example.org/runc.git", "main")),
        ("git@example.org:x/runc.git#v1.0", Source("", "git@example.org:x/runc.git", "v1.0")),
        ("/usr/local/bin/runc", InMachine(PurePosixPath("/usr/local/bin/runc"))),
        ("/opt/a b/runc", InMachine(PurePosixPath("/opt/a b/runc"))),
    ],
)
def test_words(text: str, word: object, tmp_path: Path) -> None:
    assert parse(text, _NAMES, tmp_path) == word
    assert parse(str(word), _NAMES, Path("/")) == word


def test_files_and_trees_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runc", "a#b", "runc@main"):
        (tmp_path / name).touch()
    (tmp_path / "tree").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("./runc", _NAMES, tmp_path) == HostFile(tmp_path / "runc")
    assert parse("../runc", _NAMES, tmp_path / "tree") == HostFile(tmp_path / "runc")
    assert parse("~/runc", _NAMES, Path("/")) == HostFile(tmp_path / "runc")
    assert parse(f"host:{tmp_path}/runc", _NAMES, Path("/")) == HostFile(tmp_path / "runc")
    assert parse("host:runc", _NAMES, tmp_path) == HostFile(tmp_path / "runc")
    assert parse("./a#b", _NAMES, tmp_path) == HostFile(tmp_path / "a#b")
    assert parse("./runc@main", _NAMES, tmp_path) == HostFile(tmp_path / "runc@main")
    assert parse("./tree/", _NAMES, tmp_path) == HostFile(tmp_path / "tree")
    assert parse("./tree#main", _NAMES, tmp_path) == Source("", str(tmp_path / "tree"), "main")
    assert parse(f"{tmp_path}/tree#main", _NAMES, Path("/")) == Source("", str(tmp_path / "tree"), "main")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a name"),
        ("a\nb", "not a name"),
        ("rnuc", "did you mean 'runc'"),
        ("rnuc@1.0", "did you mean 'runc'"),
        ("runc@", "neither a version nor a ref"),
        ("runc@-x", "neither a version nor a ref"),
        ("runc@a..b", "neither a version nor a ref"),
        ("./gone", "gone is not there"),
        ("./gone#main", "is not a directory"),
        ("gone#main", "neither a URL nor the path"),
        ("https://example.org/x#", "is not a branch"),
        ("https://example.org/x#--upload-pack=x", "is not a branch"),
        ("/", "is a directory"),
        ("/bin/..", "is a directory"),
        ("bin/runc", "./FILE"),
    ],
)
def test_what_is_no_word(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        parse(text, _NAMES, tmp_path)
    assert says in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize("who", ["me:hunter2", "hunter2", ":hunter2"])
@pytest.mark.parametrize("rest", ["example.org/x#main", "example.org/x", "example.org/x#", "[::1]:80/x.git#-x"])
@pytest.mark.parametrize("scheme", ["https", "HTTP"])
def test_an_address_with_a_password_is_refused_and_not_shown(who: str, rest: str, scheme: str, tmp_path: Path) -> None:
    text = f"{scheme}://{who}@{rest}"
    for read in (
        lambda: parse(text, _NAMES, tmp_path),
        lambda: parse(text, _NAMES, tmp_path, REGISTRY),
        lambda: repository(text, _NAMES, tmp_path),
        lambda: config.load(cwd=tmp_path, environ={"LABKIT_RUNC": text, "HOME": str(tmp_path)}),
    ):
        with pytest.raises(UsageError) as error:
            read()
        told = f"{error.value.message} {error.value.hint}"
        assert "user" in told and "hunter2" not in told and who not in told


def test_the_user_of_an_address_of_ssh_is_no_secret(tmp_path: Path) -> None:
    assert parse("ssh://git@example.org/x#main", _NAMES, tmp_path) == Source("", "ssh://git@example.org/x", "main")
    assert parse("git@example.org:x#main", _NAMES, tmp_path) == Source("", "git@example.org:x", "main")

"""Runtimes that are fetched or built: from real repositories, a web server here, and (marker bootstrap) in a real
chroot of Debian 13. Those of the Go module proxy and of crates are skipped where these do not answer.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import ImageError, LabError, UsageError
from labkit.core.observer import Silent
from labkit.images import runtimes as built
from labkit.images.runtimes import Obtained, obtain, supplied
from labkit.subjects import runtimes
from labkit.subjects.runtimes import words
from labkit.usecases.gc import gc
from tests.test_bootstrap import git

PROGRAM = b"#!/bin/sh\necho runc version 1.2.3\n"


class Told(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warned: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def settings_of(home: Path, **more: str) -> Settings:
    return config.load(cwd=home, environ={"LABKIT_HOME": str(home), "LABKIT_PLATFORM": "debian", **more})


def get(word: str, settings: Settings, told: Told | None = None) -> Obtained:
    wanted = words.parse(word, runtimes.names(), settings.home.path)
    assert isinstance(wanted, words.Release | words.Source)
    return obtain(wanted, settings.distro(), settings, told or Told())


def committed(tree: Path, text: str = "one", **files: str) -> str:
    """A commit of these files, by their names with _ for a dot; its name."""
    if not (tree / ".git").exists():
        tree.mkdir(parents=True, exist_ok=True)
        git(tree, "init", "-q", "-b", "main")
    for name, content in files.items():
        (tree / name.replace("__", "/").replace("_", ".")).write_text(content)
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", text, "--allow-empty")
    return subprocess.run(
        ["git", "-C", tree, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


# ---- data


def test_every_file_of_a_runtime_reads_and_has_a_way_or_a_reason() -> None:
    assert set(runtimes.names()) >= {
        *("bwrap-oci", "crun", "kata", "lxc", "railcar", "runc", "runsc", "spawn-oci", "strict", "youki")
    }
    for name in runtimes.names():
        about = runtimes.about(name)
        ways = about.build or about.shim or about.beside or about.packages
        assert ways or about.none or about.limits, name
        for version in about.releases:
            assert isinstance(words.parse(f"{name}@{version}", [name], Path("/")), words.Release)


def test_what_cannot_be_a_subject_is_refused_with_its_reason(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    with pytest.raises(UsageError, match=r"kata cannot be tested: since 2.0 it has no OCI commands"):
        supplied("kata", settings.distro(), settings, Silent())


def test_a_package_that_images_have_is_not_sent(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert supplied("runc", settings.distro(), settings, Silent()) is None
    assert supplied("runsc", settings_of(tmp_path, LABKIT_PLATFORM="fedora").distro(), settings, Silent()) is None


# ---- the publisher's program


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the address at which it is served."""
    root = tmp_path / "web"
    root.mkdir()
    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Have labkit know one runtime, `own`, of which releases are published."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "own.toml").write_text(f'title = "own"\nhomepage = "https://example.org"\nbinary = "own"\n{text}')
    monkeypatch.setitem(runtimes._DIRECTORIES, runtimes.Role.RUNTIME, directory)


def test_a_release_with_a_list_of_digests(
    web: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, address = web
    published(monkeypatch, tmp_path, f'[published]\nurl = "{address}/v{{version}}/own"\nsums = "{address}/sums"\n')
    (root / "v1.2.3").mkdir()
    (root / "v1.2.3/own").write_bytes(PROGRAM)
    (root / "sums").write_text(f"{hashlib.sha256(PROGRAM).hexdigest()}  own\n")
    settings = settings_of(tmp_path)
    found = get("own@1.2.3", settings)
    assert found.path.read_bytes() == PROGRAM
    assert os.access(found.path, os.X_OK)
    assert (found.path.name, found.version, found.source) == ("own", "1.2.3", f"{address}/v1.2.3/own")
    shutil.rmtree(root)
    assert get("own@1.2.3", settings) == replace(found, made=False)  # nobody is asked any more

    found.path.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(ImageError, match="cannot be had"):  # not what it was, and nobody has it now
        get("own@1.2.3", settings)


def test_a_release_in_an_archive_with_a_pinned_digest(
    web: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, address = web
    (tmp_path / "in/bin").mkdir(parents=True)
    (tmp_path / "in/bin/own").write_bytes(PROGRAM)
    subprocess.run(["tar", "-C", tmp_path / "in", "-czf", root / "own.tar.gz", "bin"], check=True)
    digest = hashlib.sha256((root / "own.tar.gz").read_bytes()).hexdigest()
    pinned = f'[published.sha256."1.0"]\n{os.uname().machine} = "{digest}"\n'
    published(monkeypatch, tmp_path, f'[published]\nurl = "{address}/own.tar.gz"\n{pinned}')
    assert get("own@1.0", settings_of(tmp_path)).path.read_bytes() == PROGRAM


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ("", "it is published without a list of digests, and no digest of it is known"),
        ("sums = '{}/sums'\n", "lists no digest for own"),
        ("sums = '{}/none'\n", "the server answers 404"),
        ("sums = '{}/wrong'\n", "has the wrong digest"),
    ],
)
def test_a_release_whose_digest_is_not_known_or_wrong(
    web: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sums: str, expected: str
) -> None:
    root, address = web
    published(monkeypatch, tmp_path, f'[published]\nurl = "{address}/own"\n{sums.format(address)}')
    (root / "own").write_bytes(PROGRAM)
    (root / "sums").write_text(f"{'0' * 64}  other\n")
    (root / "wrong").write_text(f"{'0' * 64}  own\n")
    with pytest.raises(ImageError, match=expected) as raised:
        get("own@1.0", settings_of(tmp_path))
    assert raised.value.hint
    assert "--runtime ./FILE" in raised.value.hint
    assert not list((tmp_path / "runtimes").iterdir())


def test_a_release_with_no_way_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, tmp_path, "")
    with pytest.raises(ImageError, match=r"own@1\.0 cannot be had: no way to it is known"):
        get("own@1.0", settings_of(tmp_path))


# ---- repositories


@pytest.mark.parametrize("where", ["runc@", "https://localhost:1/x.git#"])
def test_a_commit_that_was_got_before_is_had_without_asking_anybody(tmp_path: Path, where: str) -> None:
    settings, commit = settings_of(tmp_path), "1234567890" * 4
    word = words.parse(where + commit, runtimes.names(), tmp_path)
    assert isinstance(word, words.Source)
    key = built._Obtainer(word, settings.distro(), settings, Silent())._key(commit)
    kept = tmp_path / "runtimes" / key
    kept.mkdir(parents=True)
    (kept / "program").write_bytes(PROGRAM)
    made = {"name": "program", "version": "1.2.3", "source": "x", "commit": commit}
    (kept / "made.json").write_text(json.dumps({**made, "sha256": hashlib.sha256(PROGRAM).hexdigest()}))
    told = Told()
    assert get(where + commit, settings, told) == Obtained(kept / "program", "1.2.3", "x", commit)
    assert told.steps == []


@pytest.mark.needs("git")
def test_refs_that_are_not_there(tmp_path: Path) -> None:
    settings, tree = settings_of(tmp_path / "home"), tmp_path / "tree"
    (tmp_path / "home").mkdir()
    committed(tree, Makefile="all:\n")
    with pytest.raises(UsageError, match=f"{tree} has no ref v9"):
        get(f"{tree}#v9", settings)
    with pytest.raises(UsageError, match=r"has no ref mian; did you mean 'main'?"):
        get(f"file://{tree}#mian", settings)
    with pytest.raises(UsageError, match="has no commit 0123456789"):
        get(f"file://{tree}#0123456789", settings)
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match="is not a git repository, so it has no main"):
        get(f"{tmp_path / 'plain'}#main", settings)
    with pytest.raises(
        ImageError, match=r"the repository file:///nowhere/at/all: .*does not appear to be a git repository"
    ):
        get("file:///nowhere/at/all#main", settings)


@pytest.mark.needs("git")
def test_sources_that_labkit_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    committed(tmp_path / "tree", README="read me\n")
    with pytest.raises(UsageError, match="labkit does not know how that is built") as raised:
        get(f"{tmp_path / 'tree'}#main", settings_of(tmp_path / "home"))
    assert "--runtime ./FILE" in (raised.value.hint or "")


@pytest.mark.needs("git")
def test_submodules_come_from_the_tree_where_it_has_them(tmp_path: Path) -> None:
    committed(tmp_path / "inner", inside="deep\n")
    committed(tmp_path / "lib", library="shared\n")
    git(tmp_path / "lib", "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "inner"), "in")
    committed(tmp_path / "lib")
    committed(tmp_path / "tree", Makefile="all:\n")
    git(tmp_path / "tree", "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "lib"), "lib")
    git(tmp_path / "tree", "-c", "protocol.file.allow=always", "submodule", "-q", "update", "--init", "--recursive")
    commit = committed(tmp_path / "tree")
    shutil.rmtree(tmp_path / "lib")  # what the tree says of where they are is of no use any more
    shutil.rmtree(tmp_path / "inner")
    word = words.parse(f"{tmp_path / 'tree'}#main", [], tmp_path)
    assert isinstance(word, words.Source)
    settings = settings_of(tmp_path)
    builder = built._Obtainer(word, settings.distro(), settings, Told())
    builder._checkout(tmp_path / "tree", commit, tmp_path / "out", "")
    assert (tmp_path / "out/lib/library").read_text() == "shared\n"
    assert (tmp_path / "out/lib/in/inside").read_text() == "deep\n"
    shutil.rmtree(tmp_path / "tree/.git/modules/lib/modules")
    with pytest.raises(ImageError, match=r"are not whole: its submodule lib/in cannot be had: .*/inner' does") as error:
        builder._checkout(tmp_path / "tree", commit, tmp_path / "again", "")
    assert f"git submodule update --init --recursive in {tmp_path / 'tree'} fetches them" in str(error.value.hint)


@pytest.mark.needs("git")
def test_a_clone_is_asked_for_what_is_new_only(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    first = committed(tmp_path / "tree", Makefile="all:\n")
    git(tmp_path / "tree", "tag", "-a", "-m", "first", "v1")
    word = words.Source("", f"file://{tmp_path / 'tree'}", "main")
    builder = built._Obtainer(word, settings.distro(), settings, Told())
    clone, commit = builder._cloned(word.where, "main")
    assert commit == first
    assert builder._cloned(word.where, "v1") == (clone, first)  # the commit, not the tag
    second = committed(tmp_path / "tree", "two")
    assert builder._cloned(word.where, "main") == (clone, second)
    assert builder._cloned(word.where, second[:10]) == (clone, second)
    shutil.rmtree(tmp_path / "tree")
    assert builder._cloned(word.where, first) == (clone, first)


# ---- builds


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a chroot to build in."""
    yield tmp_path_factory.mktemp("home")


BUILDS = [pytest.mark.bootstrap, pytest.mark.needs("mmdebstrap", "debian keyring", "git")]
# It notes who builds it, where it may write and what it reaches.
LOOK = r"""id -u >facts
touch /usr/x || echo read-only >>facts
bash -c 'exec 3<>/dev/tcp/192.0.2.1/1' 2>&1 | grep -o unreachable >>facts
ls /proc | grep -c '^[0-9]' >>facts
echo "$COMMIT" >>facts
cat part >>facts
{ echo '#!/bin/sh'; sed 's/^/# /' facts; echo 'echo tree version 1'; } >runtime
chmod 755 runtime
"""
MAKEFILE = "all:\n\tsh look\n"


def under(home: Path) -> Settings:
    return settings_of(home)


@pytest.mark.parametrize("_", [pytest.param(0, marks=BUILDS)])
def test_a_tree_is_built_once_by_nobody_in_a_chroot(home: Path, tmp_path: Path, _: int) -> None:
    tree, told = tmp_path / "tree", Told()
    commit = committed(tree, Makefile=MAKEFILE, look=LOOK, part="part one\n")
    (tree / "part").write_text("not committed\n")
    found = get(f"{tree}#main", under(home), told)
    facts = [line.removeprefix("# ") for line in found.path.read_text().splitlines()[1:-1]]
    assert facts[0] == "64123"
    assert facts[1:3] == ["read-only", "unreachable"]
    assert commit in facts
    assert facts[-1] == "part one"
    assert int(facts[-3]) < 12  # processes that it sees
    assert found.commit == commit
    assert told.warned == [f"{tree} has 1 changed file that is not committed: what is built is main ({commit[:12]})"]
    again = Told()
    kept = replace(found, made=False)
    assert get(f"{tree}#{commit[:12]}", under(home), again) == kept  # another word for it
    assert get(f"{tree}#HEAD", under(home), again) == kept
    assert not [step for step in again.steps if "building" in step]
    assert list((home / "runtimes").glob("*.making")) == []


@pytest.mark.parametrize("_", [pytest.param(0, marks=BUILDS)])
def test_a_build_that_fails_is_told_once_and_not_tried_again(home: Path, tmp_path: Path, _: int) -> None:
    tree = tmp_path / "tree"
    committed(tree, Makefile="all:\n\t@echo it begins\n\t@echo no such luck >&2; exit 3\n")
    with pytest.raises(ImageError, match=r"does not build for Debian 13: (?s:.*)no such luck") as first:
        get(f"{tree}#main", under(home))
    log = Path((first.value.hint or "").rpartition(" ")[2])
    assert "it begins" in log.read_text()
    told = Told()
    with pytest.raises(ImageError, match=r"does not build for Debian 13 \(it failed 1 minutes? ago\)") as second:
        get(f"{tree}#main", under(home), told)
    assert not [step for step in told.steps if "building" in step]
    assert f"rm {log.with_suffix('.failed')}" in (second.value.hint or "")
    log.with_suffix(".failed").unlink()
    with pytest.raises(ImageError, match="Debian 13: "):
        get(f"{tree}#main", under(home), told)
    assert [step for step in told.steps if "building" in step]
    committed(tree, "fixed", Makefile=MAKEFILE, look=LOOK, part="part two\n")
    assert get(f"{tree}#main", under(home)).path.read_text().endswith("echo tree version 1\n")


@pytest.mark.parametrize(
    ("makefile", "expected"),
    [
        pytest.param("all:\n\t@true\n", "nothing was built", marks=BUILDS),
        pytest.param("all:\n\tmkdir -p runtime\n", "nothing was built", marks=BUILDS),
    ],
)
def test_a_build_that_makes_nothing(home: Path, tmp_path: Path, makefile: str, expected: str) -> None:
    committed(tmp_path / "tree", Makefile=makefile)
    with pytest.raises(ImageError, match=expected):
        get(f"{tmp_path / 'tree'}#main", under(home))


@pytest.mark.parametrize("_", [pytest.param(0, marks=BUILDS)])
def test_a_build_cannot_have_a_file_of_this_host_taken_for_its_program(home: Path, tmp_path: Path, _: int) -> None:
    """Its links are followed inside the chroot."""
    secret = tmp_path / "secret"
    secret.write_text("#!/bin/sh\nsecret\n")
    committed(tmp_path / "tree", Makefile=f"all:\n\tln -s {secret} runtime\n\tln -s {secret} labkit-program\n")
    with pytest.raises(ImageError):
        get(f"{tmp_path / 'tree'}#main", under(home))


@pytest.mark.parametrize("_", [pytest.param(0, marks=BUILDS)])
def test_gc_removes_what_was_built_and_its_chroot(home: Path, tmp_path: Path, _: int) -> None:
    own = tmp_path / "home"
    committed(tmp_path / "tree", Makefile=MAKEFILE, look=LOOK, part="part three\n")
    own.mkdir()
    (own / "builders").symlink_to(home / "builders")
    found = get(f"{tmp_path / 'tree'}#main", under(own))
    (own / "builders").unlink()
    (own / "builders/0123456789abcdef").mkdir(parents=True)
    (own / "runtimes/fedcba9876543210.making").mkdir()
    kept = {thing.name for thing in gc(under(own), Silent(), keep_days=1).things if not thing.remove}
    assert f"runtimes/{found.path.parent.name}" in kept
    done = gc(under(own), Silent())
    assert not done.failed
    assert not list((own / "runtimes").iterdir())
    assert not list((own / "builders").iterdir())


def registry(settings: Settings, word: str) -> Obtained:
    """Skips where no registry answers."""
    try:
        return get(word, settings)
    except LabError as error:
        if "cannot be had" in error.message:
            pytest.skip(f"{word} cannot be had here: {error.message[:200]}")
        raise


@pytest.mark.parametrize(
    ("word", "name", "version"),
    [
        pytest.param("runc@1.3.6", "runc", "1.3.6", marks=[*BUILDS, pytest.mark.long]),
        pytest.param("youki@0.7.0", "youki", "0.7.0", marks=[*BUILDS, pytest.mark.slow]),
    ],
)
def test_a_release_is_built_from_its_registry(home: Path, word: str, name: str, version: str) -> None:
    found = registry(under(home), word)
    assert found.path.name == name
    assert found.version == version
    assert found.path.read_bytes().startswith(b"\x7fELF")
    assert version.encode() in found.path.read_bytes()
    assert json.loads((found.path.parent / "made.json").read_text())["word"] == word


@pytest.mark.parametrize("_", [pytest.param(0, marks=BUILDS)])
def test_a_package_that_images_lack_comes_from_the_archive(home: Path, _: int) -> None:
    settings = under(home)
    found = supplied("spawn-oci", settings.distro(), settings, Told())
    assert found is not None
    assert (found.path / "usr/bin/systemd-nspawn").read_bytes().startswith(b"\x7fELF")
    asked = subprocess.run([found.path / "runtime", "--version"], capture_output=True, text=True, check=True)
    assert asked.stdout.startswith("spawn-oci version 1.0\nspec: 1.0.0")
    assert found.version.startswith("257")

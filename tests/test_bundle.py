"""Bundles of root file systems: what comes in stays as it is, nothing comes out, and runtimes run them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.core.errors import LabError, UsageError
from labkit.io import process
from labkit.io.rootfs import fill
from labkit.results.caller import schema
from labkit.usecases import bundle as use
from labkit.usecases.bundle import Asked, bundle
from tests.conftest import ROOT, until
from tests.forked import forked
from tests.test_cli import Done, labkit

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
NAMES = [b"plain", b"with space", "ümlaut".encode(), b"not-\xff-utf8", b"new\nline", b"long-" + b"x" * 200]


def look(top: Path) -> dict[bytes, tuple[Any, ...]]:
    """All that there is to know of the files in a directory, by path."""
    found: dict[bytes, tuple[Any, ...]] = {}
    inodes: dict[int, bytes] = {}
    for place, directories, files in os.walk(os.fsencode(top)):
        for name in [b".", *directories, *files]:
            path = os.path.join(place, name)  # noqa: PTH118
            about = os.lstat(path)
            key = os.path.relpath(path, os.fsencode(top))
            content: object = None
            if stat.S_ISREG(about.st_mode):
                data = Path(os.fsdecode(path)).read_bytes()
                holes = about.st_blocks * 512 < about.st_size
                content = hashlib.sha256(data).hexdigest(), holes, inodes.setdefault(about.st_ino, key)
            elif stat.S_ISLNK(about.st_mode):
                content = os.readlink(path)  # noqa: PTH115
            elif stat.S_ISBLK(about.st_mode) or stat.S_ISCHR(about.st_mode):
                content = about.st_rdev
            xattrs = {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            }
            found[key] = about.st_mode, about.st_uid, about.st_gid, int(about.st_mtime), xattrs, content
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system with something of each kind; with owners and devices where this is root."""
    top = tmp_path / "tree"
    for name in ("bin", "etc", "usr/lib", "run"):
        (top / name).mkdir(parents=True)
    (top / "bin/sh").write_text("x" * 3000)
    (top / "bin/sh").chmod(0o4755)
    os.link(top / "bin/sh", top / "usr/lib/sh")
    (top / "lib").symlink_to("usr/lib")
    (top / "out").symlink_to("../../../../etc/passwd")
    (top / "absolute").symlink_to("/bin/sh")
    with (top / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"in the middle")
        file.truncate(3 << 20)
    (top / "empty").touch()
    for odd in NAMES:
        Path(os.fsdecode(os.fsencode(top / "etc") + b"/" + odd)).write_bytes(odd)
    os.mkfifo(top / "run/fifo", 0o640)
    os.setxattr(top / "etc", "user.labkit", b"\x00\xffx")
    os.setxattr(top / "bin/sh", "user.labkit", b"y" * 300)
    if os.geteuid() == 0:
        os.mknod(top / "run/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chown(top / "etc/plain", 33, 44)
        (top / "usr/lib/ping").write_text("z")
        capability = bytes.fromhex("0100000200200000000000000000000000000000")
        os.setxattr(top / "usr/lib/ping", "security.capability", capability)
    (top / "usr").chmod(0o555)
    os.utime(top / "usr", (1_000_000_000, 1_000_000_000))
    os.utime(top / "bin/sh", (981_173_106, 981_173_106))
    os.utime(top / "lib", (5, 5), follow_symlinks=False)
    return top


def packed(tree: Path, archive: Path, *words: str) -> Path:
    """As tar(1) packs it; gzip, xz and bzip2 by the name of the archive."""
    argv = ["tar", "--xattrs", "--xattrs-include=*", "-S", "-C", str(tree), *words, "-caf", str(archive), "."]
    subprocess.run(argv, check=True)
    return archive


def filled(source: Path, target: Path) -> dict[bytes, tuple[Any, ...]]:
    target.mkdir()
    assert fill(source, target).told == ()
    return look(target)


@pytest.mark.parametrize("words", [("--format=posix",), ("--format=gnu", "--no-xattrs")], ids=" ".join)
def test_an_archive_comes_out_as_it_went_in(tree: Path, tmp_path: Path, words: Sequence[str]) -> None:
    expected = look(tree)
    if "--no-xattrs" in words:
        expected = {path: (*about[:4], {}, about[5]) for path, about in expected.items()}
    assert filled(packed(tree, tmp_path / "x.tar", *words), tmp_path / "to") == expected


@pytest.mark.parametrize("ending", ["tar.gz", "tar.xz", "tar.bz2"])
def test_compression_is_seen_by_the_content(tree: Path, tmp_path: Path, ending: str) -> None:
    made = packed(tree, tmp_path / f"x.{ending}", "--format=posix").rename(tmp_path / "x.tar")
    assert filled(made, tmp_path / "to") == look(tree)


def test_a_directory_is_copied_as_it_is(tree: Path, tmp_path: Path) -> None:
    assert filled(tree, tmp_path / "to") == look(tree)


def test_zstd_is_read_or_said_how(tree: Path, tmp_path: Path) -> None:
    if not process.which("zstd"):
        pytest.skip("zstd is not installed")
    made = packed(tree, tmp_path / "x.tar.zst", "--format=posix")
    if sys.version_info >= (3, 14):
        assert filled(made, tmp_path / "to") == look(tree)
        return
    with pytest.raises(UsageError, match=r"zstd, which Python has from 3\.14") as error:
        bundle(str(made), tmp_path / "b", Asked())
    assert "zstd -dc FILE | ./lab bundle --rootfs -" in str(error.value.hint)
    done = made_by_person(tmp_path, f"zstd -dc {made} |", "--rootfs", "-", "--out", "b")
    assert (done.returncode, done.stderr) == (0, "")
    assert look(tmp_path / "b/rootfs") == look(tree)


def made_by_person(cwd: Path, before: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`labkit bundle` at the end of a shell's pipe."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LABKIT_HOME": str(cwd / "home")}
    argv = ["sh", "-c", f'{before} "$@"', "sh", sys.executable, "-m", "labkit", "bundle", *words]
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def test_what_docker_exports_is_taken_from_stdin(tree: Path, tmp_path: Path) -> None:
    made = packed(tree, tmp_path / "x.tar", "--format=posix")
    done = made_by_person(tmp_path, f"cat {made} |", "--rootfs", "-", "--out", "b", "--terminal", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["directory"] == "b"
    assert json.loads((tmp_path / "b/config.json").read_text())["process"]["terminal"] is True
    assert look(tmp_path / "b/rootfs") == look(tree)


def test_only_its_owner_may_enter_a_bundle(tree: Path, tmp_path: Path) -> None:
    bundle(str(tree), tmp_path / "b", Asked())
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o700


# --- archives that lie


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"x", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
    info.mode = 0o755
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


LINK, HARD, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
SH = member("bin/sh")
LIES: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "a path upwards": ([member("../evil")], "a member outside of it: '../evil'"),
    "a path upwards, later": ([member("a/../../evil")], "a member outside of it: 'a/../../evil'"),
    "an absolute path": ([member("/tmp/evil")], "a member with an absolute path: '/tmp/evil'"),
    "through a link": ([member("a", LINK, linkname="/tmp"), member("a/evil")], "below 'a', which is no directory"),
    "through a link upwards": (
        [member("a", LINK, linkname="../.."), member("a/evil")], "below 'a', which is no directory",
    ),
    "through two links": (
        [member("d", DIR), member("d/a", LINK, linkname="/tmp"), member("b", LINK, linkname="d/a"), member("b/evil")],
        "below 'b', which is no directory",
    ),
    "a hard link upwards": ([member("evil", HARD, linkname="../secret")], "a member outside of it: '../secret'"),
    "a hard link to the host": ([member("evil", HARD, linkname="/etc/passwd")], "an absolute path: '/etc/passwd'"),
    "a hard link through a link": (
        [member("a", LINK, linkname="/etc"), member("evil", HARD, linkname="a/passwd")], "has members below 'a'",
    ),
    "a hard link to nothing": ([member("evil", HARD, linkname="none")], "another name of 'none', which is not there"),
    "a hard link to a directory": (
        [member("d", DIR), member("evil", HARD, linkname="d")], "another name of 'd', which is a directory",
    ),
    "a file for a directory with files": ([SH, member("bin")], "'bin' twice, as a directory with files in it"),
    "a kind that nobody knows": ([member("evil", b"Z")], "'evil' of a kind that labkit does not know"),
    "an impossible owner": ([member("evil", uid=2**40)], "which cannot be"),
    "a link to nothing": ([member("evil", LINK)], "a link to nothing: 'evil'"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_nothing_is_written_outside_and_nothing_is_left(tmp_path: Path, lie: str) -> None:
    members, message = LIES[lie]
    (tmp_path / "secret").write_text("s")
    before = look(tmp_path)
    made = archive(tmp_path / "x.tar", SH, *members)
    with pytest.raises(UsageError) as error:
        bundle(str(made), tmp_path / "b", Asked())
    assert message in error.value.message
    made.unlink()
    assert {path: about[0] for path, about in look(tmp_path).items()} == {p: about[0] for p, about in before.items()}
    assert (tmp_path / "secret").stat().st_nlink == 1
    assert not Path("/tmp/evil").exists()


def test_a_later_member_takes_the_place_of_an_earlier_one_and_not_of_what_it_links_to(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    link = member("bin/x", LINK, linkname=str(tmp_path / "secret"))
    made = archive(tmp_path / "x.tar", SH, link, member("bin/x", data=b"new"), member("d", DIR), member("d", data=b"f"))
    (tmp_path / "to").mkdir()
    assert fill(made, tmp_path / "to").files == 3
    assert (tmp_path / "secret").read_text() == "s"
    assert (tmp_path / "to/bin/x").read_text() == "new"
    assert (tmp_path / "to/d").read_text() == "f"


def test_an_archive_that_is_cut_off_anywhere_makes_no_bundle(tree: Path, tmp_path: Path) -> None:
    whole = packed(tree, tmp_path / "x.tar", "--format=posix").read_bytes()
    end = len(whole.rstrip(b"\0"))
    cuts = [*range(0, end, 512 * 7), *range(100, end, 512 * 13), end // 512 * 512 + 512]
    for number, cut in enumerate(cuts):
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        with pytest.raises(UsageError, match=r"is empty|cut off|truncated|cannot be read|no files"):
            bundle(str(tmp_path / "cut.tar"), tmp_path / f"b{number}", Asked())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.tar", "tree", "x.tar"]


def test_damage_is_found_by_the_checksum_of_the_compression(tree: Path, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(packed(tree, tmp_path / "x.tar").read_bytes()))
    data[-6] ^= 1
    (tmp_path / "x.tar.gz").write_bytes(data)
    with pytest.raises(UsageError, match="CRC check failed"):
        bundle(str(tmp_path / "x.tar.gz"), tmp_path / "b", Asked())
    assert not (tmp_path / "b").exists()


_SMALL = io.BytesIO()
with tarfile.open(fileobj=_SMALL, mode="w", format=tarfile.PAX_FORMAT) as _tar:
    for _info, _data in (SH, member("a", LINK, linkname="bin"), member("b", HARD, linkname="bin/sh"), member("ü" * 99)):
        _info.pax_headers = {"SCHILY.xattr.user.x": "y", "mtime": "1.5"}
        _tar.addfile(_info, io.BytesIO(_data))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(_SMALL.getvalue()) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_is_an_error_or_an_archive_and_stays_inside(changes: list[tuple[int, int]]) -> None:
    data = bytearray(_SMALL.getvalue())
    for at, value in changes:
        data[at] = value
    for block in range(0, len(data), 512):  # headers whose checksum is right get further
        header = data[block : block + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(header)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "x.tar").write_bytes(data)
        try:
            bundle(str(top / "x.tar"), top / "b", Asked(args="/bin/sh"))
        except LabError:
            assert [path.name for path in top.iterdir()] == ["x.tar"]
        else:
            assert sorted(path.name for path in top.iterdir()) == ["b", "x.tar"]


def test_a_header_that_claims_gigabytes_is_not_believed(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 7 << 30
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(2048))
    with pytest.raises(UsageError, match="a header says that 7516192768 bytes belong to it"):
        bundle(str(tmp_path / "x.tar"), tmp_path / "b", Asked())


def test_one_that_is_ended_leaves_nothing_and_the_next_removes_what_a_killed_one_left(small: Path) -> None:
    place = small.parent / "place"
    place.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LABKIT_HOME": str(small.parent / "home")}
    for number, status in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        argv = [sys.executable, "-m", "labkit", "bundle", "--rootfs", "-", "--out", "b"]
        with subprocess.Popen(argv, cwd=place, env=env, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdin
            child.stdin.write(small.read_bytes()[:1024])
            child.stdin.flush()
            until(lambda: any(path.name.endswith(".part") for path in place.iterdir()))
            child.send_signal(number)
            assert child.wait() == status
        assert [path.name for path in place.iterdir() if not path.name.endswith(".part")] == []
        assert len(list(place.iterdir())) == (number == signal.SIGKILL)
    bundle(str(small), place / "b", Asked())
    assert [path.name for path in place.iterdir()] == ["b"]


# --- words


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return archive(tmp_path / "x.tar", SH, member("etc/passwd"))


def typed(cwd: Path, *words: str) -> Done:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "LABKIT_HOME": str(cwd / "home")}
    return labkit("bundle", *words, environ=environ, cwd=cwd)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--rootfs is missing"),
        (("--rootfs", "x.tar"), "--out is missing"),
        (("--rootfs", "none.tar", "--out", "b"), "--rootfs: none.tar does not exist"),
        (("--rootfs", "/dev/null", "--out", "b"), "--rootfs: /dev/null is neither a file nor a directory"),
        (("--rootfs", "-", "--out", "b"), "stdin is empty"),
        (("--rootfs", "x.tar", "--out", "."), ". is there already"),
        (("--rootfs", ".", "--out", "b/c"), "b/c is in ., and would be copied into itself"),
        (("--rootfs", "x.tar", "--out", "b", "--env", "A"), "--env is 'A', must be NAME=VALUE"),
        (("--rootfs", "x.tar", "--out", "b", "--mount", "/tmp"), "--mount is '/tmp', must be SRC:DST or SRC:DST:ro"),
        (("--rootfs", "x.tar", "--out", "b", "--mount", "/tmp:/x:rx"), "--mount is '/tmp:/x:rx', must be SRC:DST or"),
        (("--rootfs", "x.tar", "--out", "b", "--mount", "/none:/x"), "--mount /none:/x: /none does not exist"),
        (("--rootfs", "x.tar", "--out", "b", "--mount", "/tmp:x"), "--mount /tmp:x: 'x' must be an absolute path"),
        (("--rootfs", "x.tar", "--out", "b", "--mount", "/tmp:/a/../.."), "'/a/../..' must be an absolute path"),
        (("--rootfs", "x.tar", "--out", "b", "--args", "sh 'x"), '--args is "sh \'x": a quote that is not closed'),
        (("--rootfs", "x.tar", "--out", "b", "--hostname", "a b"), "--hostname is 'a b', must be letters"),
        (("--rootfs", "x.tar", "--out", "b", "--spec-version", "1.9"), "--spec-version is '1.9', must be a release"),
        (("--rootfs", "x.tar", "--out", "b", "--network", "bridge"), "--network is 'bridge', must be none, host or"),
        (("--rootfs", "x.tar", "--out", "b", "--network", "/run/netns/no"), "--network: /run/netns/no does not exist"),
        (("--rootfs", "x.tar", "--out", "b", "--config", "x.tar"), "x.tar is no JSON"),
        (("--rootfs", "x.tar", "--out", "b", "--config", "x", "--env", "A=b"), "--config takes no --env"),
    ],
)
def test_wrong_words_end_with_2(small: Path, words: Sequence[str], message: str) -> None:
    done = typed(small.parent, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in small.parent.iterdir() if path.name != "home"] == ["x.tar"]


def test_an_image_is_told_from_a_root_file_system(tmp_path: Path) -> None:
    made = archive(tmp_path / "x.tar", member("manifest.json"), member("oci-layout"), member("blobs/sha256/0"))
    with pytest.raises(UsageError, match="is an image, not a root file system"):
        bundle(str(made), tmp_path / "b", Asked())


def test_a_root_file_system_in_a_directory_of_its_archive_is_told(tmp_path: Path) -> None:
    made = archive(tmp_path / "x.tar", member("rootfs/bin/sh"), member("rootfs/etc/passwd"))
    with pytest.raises(UsageError, match="is all below rootfs/"):
        bundle(str(made), tmp_path / "b", Asked())


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    made = archive(tmp_path / "x.tar", member("hello"), member("usr/bin/x"), member("bin", LINK, linkname="usr/bin"))
    with pytest.raises(UsageError, match="has no sh, and --args does not name another program") as error:
        bundle(str(made), tmp_path / "b", Asked())
    assert error.value.hint == "--args /PROGRAM; at its top are bin, hello, usr"
    for number, args in enumerate(("/hello", "x -v", "./hello")):
        assert bundle(str(made), tmp_path / f"good{number}", Asked(args=args)).told == ()
    for number, args in enumerate(("/none", "hello", "/bin")):
        (told,) = bundle(str(made), tmp_path / f"bad{number}", Asked(args=args)).told
        assert told == f"the root file system has no {args}, which the container is to run"
    mounted = Asked(args="/data/run", mounts=(f"{tmp_path}:/data",))
    assert bundle(str(made), tmp_path / "mounted", mounted).told == ()


# --- config.json


@pytest.mark.parametrize("version", [".".join(map(str, numbers)) for numbers in schema.RELEASES])
def test_every_config_is_what_the_schema_of_its_version_takes(tmp_path: Path, version: str) -> None:
    more = {"env": ("A=b=c", "PATH=/bin"), "mounts": (f"{tmp_path}:/x:ro",), "hostname": "a.b-c", "terminal": True}
    for asked in (
        Asked(spec_version=version),
        Asked("sh -c 'echo \"a b\"'", rootless=True, network="host", spec_version=version, **more),  # type: ignore[arg-type]
        Asked(network="/proc/self/ns/net", spec_version=version),
    ):
        config = use.configuration(asked)
        assert schema.errors(config, schema.schema_of(version)) == []
        assert schema.strange(config) == []
        assert schema.later(config, schema.schema_of(version)) == []
        assert config["ociVersion"] == version


def test_a_config_says_what_was_asked_for(tmp_path: Path) -> None:
    asked = Asked("sh -c 'echo \"a b\"'", ("A=b=c", "PATH=/x"), (f"{tmp_path}:/x:ro", f"{tmp_path}:/y"), "h", True)
    config = use.configuration(asked)
    assert config["process"]["args"] == ["sh", "-c", 'echo "a b"']
    assert config["process"]["env"] == ["PATH=/x", "A=b=c"]
    assert config["process"]["terminal"] is True
    assert config["hostname"] == "h"
    assert [(mount["destination"], mount["source"], mount["options"]) for mount in config["mounts"][-2:]] == [
        ("/x", str(tmp_path), ["rbind", "ro"]),
        ("/y", str(tmp_path), ["rbind", "rw"]),
    ]
    assert "/out" not in [mount["destination"] for mount in config["mounts"]]


def test_a_config_of_somebody_else_gets_our_root(small: Path) -> None:
    theirs = {"ociVersion": "1.0.0", "root": {"path": "/x", "readonly": True}, "process": {"cwd": "/", "args": ["sh"]}}
    (small.parent / "theirs.json").write_text(json.dumps(theirs))
    bundle(str(small), small.parent / "b", Asked(config=small.parent / "theirs.json"))
    config = json.loads((small.parent / "b/config.json").read_text())
    assert config == {**theirs, "root": {"path": "rootfs", "readonly": True}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no config.json of a bundle: it has no ociVersion"),
        ('{"process": {}}', "is no config.json of a bundle: it has no ociVersion"),
        (
            '{"ociVersion": "1.0.2", "mounts": 1}',
            "is not what the schema of runtime-spec 1.0.2 takes: mounts: 1 is not",
        ),
    ],
)
def test_a_config_that_is_none_is_refused(small: Path, text: str, message: str) -> None:
    (small.parent / "theirs.json").write_text(text)
    with pytest.raises(UsageError) as error:
        bundle(str(small), small.parent / "b", Asked(config=small.parent / "theirs.json"))
    assert message in error.value.message


# --- as another user


@AS_ROOT
def test_what_a_user_cannot_have_is_told(tree: Path, place: Path) -> None:
    made = packed(tree, place / "x.tar", "--format=posix")
    (place / "mine").mkdir()
    os.chown(place / "mine", 1000, 1000)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        words = ("bundle", "--rootfs", str(made), "--out", "b", "--rootless", "--json")
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(place), "LABKIT_HOME": str(place / "mine/home")}
        pid = forked(words, environ, place / "mine", out.fileno(), err.fileno(), become_user)
        assert os.waitpid(pid, 0)[1] == 0
        out.seek(0)
        notes = json.loads(out.read())["notes"]
    assert sorted(notes) == [
        "left out, as this user cannot make device nodes (1): run/null",
        "without the attribute security.capability, which is refused here (1): usr/lib/ping",
        "yours now, as this user cannot give files to others (1): etc/plain",
    ]
    rootfs = look(place / "mine/b/rootfs")
    expected = look(tree)
    assert set(expected) - set(rootfs) == {b"run/null"}
    assert {about[1] for about in rootfs.values()} == {1000}
    assert {path: about[0] for path, about in rootfs.items()} == {path: expected[path][0] for path in rootfs}
    linux = json.loads((place / "mine/b/config.json").read_text())["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]


def become_user() -> None:
    os.setgroups([])
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    os.umask(0o022)


# --- for real

# cgroup v1 afresh, as crun takes no "hybrid"; v2 where the host has no v1
APART = """
mount -t tmpfs run /run
if test -d /sys/fs/cgroup/unified || test -d /sys/fs/cgroup/pids; then
  for at in $(grep ' /sys/fs/cgroup' /proc/self/mounts | cut -d' ' -f2 | sort -r); do umount "$at"; done
  mount -t tmpfs cgroup /sys/fs/cgroup
  for one in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir /sys/fs/cgroup/$one && mount -t cgroup -o $one $one /sys/fs/cgroup/$one
  done
  mkdir /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd systemd /sys/fs/cgroup/systemd
fi
exec "$@"
"""
USER = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
RUNTIMES = [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("runc", "crun")]


def apart(*argv: str | Path, before: str = "", own_network: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in namespaces of its own, where before is done first."""
    words = ["unshare", "-m", "-p", "-f", "-i", "-u", "-C", *["-n"] * own_network, "--mount-proc"]
    words += ["--propagation=private", "sh", "-ec", before + APART, "sh", *map(str, argv)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


@pytest.fixture
def busybox(place: Path) -> Path:
    """A root file system of busybox, as tar packs it."""
    program = process.which("busybox")
    assert program
    (place / "tree/bin").mkdir(parents=True)
    (place / "tree/tmp").mkdir(mode=0o1777)
    shutil.copy(program, place / "tree/bin/busybox")
    for name in ("sh", "cat", "hostname", "id", "ip", "ls", "touch", "tty", "head", "test", "mknod"):
        (place / "tree/bin" / name).symlink_to("busybox")
    return packed(place / "tree", place / "x.tar.gz", "--format=posix")


def ran(runtime: str, directory: Path, *around: str, **more: Any) -> str:
    root = directory.parent / "state"
    done = apart(*around, runtime, "--root", root, "run", "--bundle", directory, "x", **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOOKS = """sh -c 'id -u; hostname; echo $A; cat /data/said; touch /data/x 2>&1 | grep -c -i read-only;
ls -d /sys/class/net/*; mknod /tmp/vda b 254 0 && head -c 1 /tmp/vda 2>&1; true'"""


@pytest.mark.host_runtime
@pytest.mark.needs("busybox")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_bundle_runs(busybox: Path, place: Path, runtime: str) -> None:
    (busybox.parent / "tree/bin/grep").symlink_to("busybox")
    packed(place / "tree", busybox, "--format=posix")
    (place / "data").mkdir()
    (place / "data/said").write_text("hello\n")
    asked = Asked(LOOKS, ("A=b c",), (f"{place}/data:/data:ro",), "mine")
    assert bundle(str(busybox), place / "b", asked).told == ()
    lines = ran(runtime, place / "b").splitlines()
    assert lines[:6] == ["0", "mine", "b c", "hello", "1", "/sys/class/net/lo"]
    assert "Operation not permitted" in lines[-1]  # a disk of the host


@pytest.mark.host_runtime
@pytest.mark.needs("busybox")
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("network", ["none", "host"])
def test_a_rootless_bundle_runs(busybox: Path, place: Path, runtime: str, network: str) -> None:
    (place / "mine").mkdir()
    os.chown(place / "mine", 1000, 1000)
    args = "sh -c 'id -u; touch /new && ls /new; ls /sys/class/net'"
    words = ("bundle", "--rootfs", str(busybox), "--out", "b", "--rootless", "--network", network, "--args", args)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(place), "LABKIT_HOME": str(place / "mine/home")}
    with tempfile.TemporaryFile() as out:
        pid = forked(words, environ, place / "mine", out.fileno(), out.fileno(), become_user)
        assert os.waitpid(pid, 0)[1] == 0
    lines = ran(runtime, place / "mine/b", *USER, own_network=True).splitlines()
    assert lines[:2] == ["0", "/new"]


@pytest.mark.host_runtime
@pytest.mark.needs("busybox", "ip")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_bundle_joins_a_network_that_is_there(busybox: Path, place: Path, runtime: str) -> None:
    network = f"""
    mount -t tmpfs run /run
    ip netns add lab
    ip link add outside type veth peer name eth0 netns lab
    ip addr add 10.88.0.1/24 dev outside && ip link set outside up
    ip -n lab addr add 10.88.0.2/24 dev eth0 && ip -n lab link set eth0 up && ip -n lab link set lo up
    mount --bind /run/netns/lab {place}/lab
    """
    (place / "lab").touch()
    bundle(str(busybox), place / "b", Asked("ip -o -4 addr show dev eth0", network=str(place / "lab")))
    assert "inet 10.88.0.2/24" in ran(runtime, place / "b", before=network)


@pytest.mark.bootstrap
@pytest.mark.needs("runc", "mmdebstrap")
def test_a_debian_of_mmdebstrap_runs(base: Path, place: Path) -> None:
    args = "sh -c '. /etc/os-release; echo $VERSION_ID; perl -e \"print 6 * 7\"; dpkg -s base-files | grep Status'"
    made = bundle(str(base), place / "b", Asked(args))
    assert made.told == ()
    lines = ran("runc", place / "b").splitlines()
    assert lines == ["13", "42Status: install ok installed"]

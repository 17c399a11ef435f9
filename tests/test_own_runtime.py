"""A runtime of one's own: what can be wrong with a file is told before a machine is made, and what is sent is what was
named. The shell's part of it runs in the shell of this host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pytest

from labkit.core import config
from labkit.core.cell import Selection
from labkit.core.config import Settings
from labkit.core.endpoint import Endpoint
from labkit.core.errors import CommandTimeout, MachineError, UsageError
from labkit.core.observer import Silent
from labkit.io.remote import Answer
from labkit.machines.base import MachineState
from labkit.machines.fake import FakeMachine
from labkit.subjects import hints, runtimes
from labkit.subjects.runtimes import files
from labkit.subjects.runtimes.words import HostFile, InMachine, Package
from labkit.suites.base import SilentRun
from labkit.usecases import subject
from labkit.usecases.preflight import told
from labkit.usecases.run import run_cell
from labkit.usecases.test import cell_of
from labkit.usecases.test import test_all as run_all
from tests.conftest import Lab
from tests.test_asked import Told
from tests.test_cell import CELL, suite_prints

SCRIPT = b"#!/bin/sh\necho runc version 1.1.5+ds1\n"


def write(path: Path, data: bytes = SCRIPT, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def elf(
    machine: int = 62, kind: int = 2, order: str = "<", bits: int = 64, loader: bytes = b"", size: int = 0
) -> bytes:
    """A program of one segment, which names its loader where there is one."""
    at = 120
    words = (kind, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    if bits == 64:
        head += struct.pack(f"{order}HHIQQQIHHHHHH", *words)
        segment = struct.pack(f"{order}IIQQQQQQ", 3 if loader else 1, 5, at, 0, 0, len(loader) + size, 0, 0)
    else:
        words = (kind, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        head += struct.pack(f"{order}HHIIIIIHHHHHH", *words)
        segment = struct.pack(f"{order}IIIIIIII", 3 if loader else 1, at, 0, 0, len(loader) + size, 0, 5, 0)
    return (head + segment).ljust(at, b"\0") + loader


# --- files


BAD: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "is empty", "its build may have failed"),
    "crlf": (b"#!/bin/sh\r\necho\r\n", r"end as those of Windows do \(CRLF\), so no kernel", "sed -i"),
    "crlf below": (b"#!/bin/bash\necho\r\nexit\r\n", r"\(CRLF\), which bash takes for text", "sed -i"),
    "crlf of env": (b"#!/usr/bin/env bash\necho\r\n", r"\(CRLF\), which bash takes for text", "sed -i"),
    "mark": (b"\xef\xbb\xbf#!/bin/sh\n", "begins with a byte order mark", "without one"),
    "no interpreter": (b"#!\n", "names no interpreter", "#!/bin/sh"),
    "relative interpreter": (b"#!python3\n", "names no interpreter", "#!/bin/sh"),
    "long line": (b"#!/" + b"x" * 300 + b"\n", "longer than the 255 bytes", ""),
    "text": (b"runc\n", "neither a program of Linux", "#!/bin/sh"),
    "gzip": (b"\x1f\x8b" + bytes(20), "packed with gzip", "unpack it"),
    "zip": (b"PK\x03\x04" + bytes(20), "zip archive", "unpack it"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "tar archive", "unpack it"),
    "deb": (b"!<arch>\ndebian-binary", "Debian package", "unpack it"),
    "macos": (b"\xcf\xfa\xed\xfe" + bytes(20), "for macOS", "build it for Linux"),
    "windows": (b"MZ" + bytes(20), "for Windows", "build it for Linux"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS", "git lfs pull"),
    "cut header": (elf()[:40], "cut short", "goes on"),
    "cut segments": (elf(loader=b"/lib/ld.so\0")[:100], "cut short", "goes on"),
    "cut content": (elf(size=4096), "cut short", "goes on"),
    "odd class": (b"\x7fELF\x07\x07" + bytes(100), "cut short", ""),
    "object": (elf(kind=1), "object file", "name the program"),
    "core": (elf(kind=4), "that crashed", "name the program"),
    "library": (elf(kind=3), "shared library", ""),
    "arm": (elf(183), "is built for aarch64, and the machine is x86_64", "build it for"),
    "arm 32": (elf(40, bits=32), "is built for arm, and the machine is x86_64", "build it for"),
    "s390x": (elf(22, order=">"), "is built for s390x, and the machine is x86_64", "build it for"),
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return config.load({}, cwd=tmp_path, environ={"HOME": str(tmp_path)})


def found(path: Path, settings: Settings) -> subject.Subject:
    return subject.find(HostFile(path), settings, settings.distro(), Silent())


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_a_runtime_is_said_with_what_to_do(what: str, tmp_path: Path, settings: Settings) -> None:
    data, message, hint = BAD[what]
    path = write(tmp_path / "my runc", data)
    with pytest.raises(UsageError, match=message) as caught:
        found(path, settings)
    assert str(path) in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_file_that_nobody_may_run(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(UsageError, match="is not executable") as caught:
        found(write(tmp_path / "x", mode=0o644), settings)
    assert caught.value.hint == f"chmod +x {tmp_path / 'x'}"


def test_what_is_no_file(tmp_path: Path, settings: Settings) -> None:
    os.mkfifo(tmp_path / "fifo", 0o755)
    with pytest.raises(UsageError, match="no regular file"):
        found(tmp_path / "fifo", settings)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="cannot be read"):
        found(tmp_path / "loop", settings)


@pytest.mark.parametrize("data", [elf(), elf(loader=b"/lib64/ld-linux-x86-64.so.2\0"), elf(3, bits=32), SCRIPT])
def test_what_can_be_one(data: bytes, tmp_path: Path, settings: Settings) -> None:
    parcel = found(write(tmp_path / "x", data), settings).parcel
    assert parcel is not None and parcel.size == len(data)
    assert parcel.kind.loader == ("/bin/sh" if data == SCRIPT else "/lib64/ld-linux-x86-64.so.2" * (b"/lib64" in data))


@pytest.mark.parametrize("name", ["sh", "busybox", "runc", "crun", "git"])
def test_programs_of_this_host_are_read_as_what_they_are(name: str) -> None:
    program = shutil.which(name)
    if not (program and shutil.which("readelf")):
        pytest.skip(f"not installed: {name} and readelf")
    shown = subprocess.run(["readelf", "-lhW", program], capture_output=True, text=True, check=True).stdout
    kind = files.packed(Path(program), "x").kind
    match = re.search(r"Requesting program interpreter: (.*)]", shown)
    assert kind.loader == (match[1] if match else "")
    assert ("X86-64" in shown) is (kind.architecture == "x86_64")


def test_crlf_is_pythons_own_business(tmp_path: Path, settings: Settings) -> None:
    assert found(write(tmp_path / "x", b"#!/usr/bin/python3\nprint()\r\n"), settings).parcel


def test_a_machine_of_another_architecture() -> None:
    arm = files.Kind("aarch64")
    assert files.same_architecture(arm, "arm64") == ""
    assert files.same_architecture(arm, "something new") == ""
    assert files.same_architecture(arm, "amd64") == "is built for aarch64, and the machine is x86_64"


# --- directories


def test_a_directory_is_all_that_is_in_it(tmp_path: Path) -> None:
    top = tmp_path / "a dir"
    write(top / "runtime")
    write(top / "lib" / "über x", b"1", 0o644)
    (top / "lib" / "link").symlink_to("../runtime")
    first = files.packed(top, "d")
    assert (first.program, first.is_tree) == ("d/runtime", True)
    assert files.packed(top, "d") == first
    other = tmp_path / "other"
    other.symlink_to("y")
    changes: list[Callable[[], object]] = [
        lambda: (top / "lib" / "über x").write_bytes(b"2"),
        lambda: (top / "lib" / "über x").chmod(0o755),
        lambda: (top / "lib" / "über x").rename(top / "lib" / "y"),
        lambda: (top / "empty").mkdir(),
        lambda: other.replace(top / "lib" / "link"),
    ]
    seen = {first.sha256}
    for change in changes:
        change()
        seen.add(files.packed(top, "d").sha256)
    assert len(seen) == len(changes) + 1


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "lib/../../x"])
def test_a_link_that_leads_out_is_refused(target: str, tmp_path: Path) -> None:
    write(tmp_path / "d" / "runtime")
    (tmp_path / "d" / "link").symlink_to(target)
    with pytest.raises(UsageError, match="leads out of"):
        files.packed(tmp_path / "d", "d")


def test_a_directory_without_a_runtime(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(UsageError, match="a directory without a `runtime`"):
        files.packed(tmp_path / "d", "d")
    write(tmp_path / "d" / "runtime", mode=0o644)
    with pytest.raises(UsageError, match="is not executable"):
        files.packed(tmp_path / "d", "d")
    (tmp_path / "d" / "runtime").chmod(0o755)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(tmp_path / "d" / "s"))
    with pytest.raises(UsageError, match="neither a file nor a directory nor a link"):
        files.packed(tmp_path / "d", "d")
    (tmp_path / "d" / "s").unlink()
    write(tmp_path / "d" / "a\nb")
    with pytest.raises(UsageError, match="is no name that can be sent"):
        files.packed(tmp_path / "d", "d")


# --- into the machine


class Here:
    """A connection to this host: its shell, in a directory of the test's for the place in a machine."""

    endpoint = Endpoint("here", 22, "root", Path("/"), Path("/"))

    def __init__(self) -> None:
        self.sent: list[int] = []  # bytes of each command's stdin
        self.before: Callable[[], object] = lambda: None  # called before something is sent

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes | Path = b"",
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        keep: int = 1 << 20,
        attached: bool = False,
    ) -> Answer:
        data = stdin.read_bytes() if isinstance(stdin, Path) else stdin
        self.sent.append(len(data))
        try:
            done = subprocess.run(argv, input=data, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise CommandTimeout("too long") from error
        return Answer(done.returncode, done.stdout[:keep].decode(errors="replace"), done.stderr[:keep].decode())

    def upload(self, data: bytes | Path, target: str, *, mode: int = 0o644, timeout: float = 300) -> None:
        raise NotImplementedError

    def close(self) -> None: ...
    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(subject, "PLACE", str(tmp_path / "place"))
    return Here()


def sent(path: Path, here: Here, settings: Settings, observer: Told | None = None, *arguments: str) -> runtimes.Runtime:
    return subject.send(found(path, settings), here, observer or Told(), "m", arguments)


@pytest.mark.parametrize("name", ["runc", "my runc", "rünc", "a'b\"c", "-rf", "$(id)", "back\\slash", "x;y", "n" * 200])
def test_a_file_arrives_under_its_digest_and_name_once(
    name: str, tmp_path: Path, here: Here, settings: Settings
) -> None:
    path = write(tmp_path / "src" / name)
    runtime = sent(path, here, settings)
    assert PurePosixPath(runtime.command).name == name
    assert Path(runtime.command).parent.name == runtime.sha256
    assert (Path(runtime.command).read_bytes(), runtime.source) == (SCRIPT, f"host:{path}")
    assert os.access(runtime.command, os.X_OK)
    here.sent.clear()
    assert sent(path, here, settings) == runtime
    assert len(here.sent) == 1 and here.sent[0] < 400  # one look, and nothing sent
    write(path, SCRIPT + b"# new\n")
    assert sent(path, here, settings).sha256 != runtime.sha256
    Path(runtime.command).write_bytes(b"#!/bin/sh\necho what somebody put there\n")
    write(path)
    assert Path(sent(path, here, settings).command).read_bytes() == SCRIPT


def test_a_directory_arrives_whole(tmp_path: Path, here: Here, settings: Settings) -> None:
    top = tmp_path / "src" / "my dir"
    write(top / "runtime", b'#!/bin/sh\nexec "$(dirname "$0")/lib/real" "$@"\n')
    write(top / "lib" / "real")
    (top / "lib" / "link").symlink_to("real")
    write(top / "data", b"x", 0o600)
    os.link(top / "data", top / "other name")
    runtime = sent(top, here, settings)
    assert runtime.command.endswith(f"/{runtime.sha256}/my dir/runtime")
    arrived = Path(runtime.command).parent
    assert sorted(path.name for path in arrived.iterdir()) == ["data", "lib", "other name", "runtime"]
    assert (arrived / "lib" / "link").readlink() == Path("real")
    assert files.packed(arrived, "my dir").sha256 == runtime.sha256
    here.sent.clear()
    assert sent(top, here, settings) == runtime
    assert len(here.sent) == 1


def test_a_file_that_changes_meanwhile_is_told(tmp_path: Path, here: Here, settings: Settings) -> None:
    for path in (write(tmp_path / "x"), write(tmp_path / "d" / "runtime")):
        one = found(path.parent if path.name == "runtime" else path, settings)
        write(path, SCRIPT + b"# its build went on\n")
        with pytest.raises(UsageError, match="changed since it was read") as caught:
            subject.send(one, here, Silent(), "m")
        assert "wait for its build" in (caught.value.hint or "")
        path.unlink()
        with pytest.raises(UsageError, match="changed"):
            subject.send(one, here, Silent(), "m")


def test_a_few_builds_stay(tmp_path: Path, here: Here, settings: Settings) -> None:
    for number in range(9):
        sent(write(tmp_path / "x", SCRIPT + f"# {number}\n".encode()), here, settings)
    assert len(list((tmp_path / "place").iterdir())) == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_machine_without_room(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    big = write(tmp_path / "big", SCRIPT + b"\0" + os.urandom(3 << 20))
    tree = write(tmp_path / "tree" / "runtime", SCRIPT + b"\0" + os.urandom(3 << 20)).parent
    monkeypatch.setattr(subject, "PLACE", "/mnt/labkit-runtimes")

    class Small(Here):
        def run(self, argv: Sequence[str], **more: object) -> Answer:
            script = 'mount -t tmpfs -o size=1m none /mnt && exec "$@"'
            return super().run(["unshare", "--mount", "sh", "-c", script, "sh", *argv], **more)  # type: ignore[arg-type]

    for path in (big, tree):
        with pytest.raises(MachineError, match=r"machine m has no room for .*: .*left, 3.1 MB to be sent") as caught:
            sent(path, Small(), settings)
        assert "./lab reset" in (caught.value.hint or "")


def test_what_the_machine_lacks_is_named(tmp_path: Path, here: Here, settings: Settings) -> None:
    assert sent(write(tmp_path / "y", b"#!/bin/sh\nexit\n\0\r\n\r\n\r\n"), here, settings).command  # an archive follows
    for data, what in (
        (b"#!/opt/none/python9\n", "/opt/none/python9"),
        (b"#!/usr/bin/env python9\n", "python9"),
        (elf(loader=b"/lib/ld-musl-none.so.1\0"), "/lib/ld-musl-none.so.1"),
    ):
        with pytest.raises(UsageError, match=f"cannot run in machine m, which lacks {what}"):
            sent(write(tmp_path / "x", data), here, settings)


@pytest.mark.skipif(not shutil.which("cc"), reason="not installed: cc")
def test_a_library_that_the_machine_lacks_is_named(tmp_path: Path, here: Here, settings: Settings) -> None:
    library = tmp_path / "libmine.so.3"
    (tmp_path / "l.c").write_text("int mine(void) { return 0; }\n")
    (tmp_path / "m.c").write_text("int mine(void); int main(void) { return mine(); }\n")
    cc = ("cc", "-o")
    subprocess.run([*cc, library, "-shared", "-Wl,-soname,libmine.so.3", tmp_path / "l.c"], check=True)
    for name, rpath in (("x", []), ("runtime", ["-Wl,-rpath,$ORIGIN"])):
        (tmp_path / "d").mkdir(exist_ok=True)
        subprocess.run([*cc, tmp_path / "d" / name, tmp_path / "m.c", library, *rpath], check=True)
    with pytest.raises(UsageError, match=r"which lacks libmine\.so\.3$"):
        sent(tmp_path / "d" / "x", here, settings)
    shutil.copy(library, tmp_path / "d")
    assert sent(tmp_path / "d", here, settings).command.endswith("/d/runtime")  # with what it needs beside it


def test_a_loader_says_what_is_missing() -> None:
    assert subject._lacking("\tlibyajl.so.2 => not found") == "libyajl.so.2"
    text = "/x/runc: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /x/runc)"
    assert subject._lacking(text) == "GLIBC_2.38 of libc.so.6"


# --- who it is


def test_it_is_what_it_says(tmp_path: Path, here: Here, settings: Settings) -> None:
    observer = Told()
    data = b'#!/bin/sh\ntest "$1" = --network=none || echo >&2 no\necho runsc version release-20230904.0\n'
    runtime = sent(write(tmp_path / "mine", data), here, settings, observer, "--debug")
    assert runtime.arguments == (*runtimes.named("runsc").arguments, "--debug")
    assert observer.warnings == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (b"echo usage; exit 1", "mine does not tell its version; for --version it prints: usage"),
        (b"exit 3", "it prints: nothing (status 3)"),
        (b"echo no such flag >&2; exit 2", "it prints: no such flag"),
        (b"sleep 1000", "does not answer --version within 1 s"),
        (b"trap '' TERM; while :; do :; done", "does not answer --version within 1 s"),
        (b"yes | head -c 10000000", "does not tell its version"),
        (b"yes >&2", "does not answer|does not tell"),
        (b"head -c 100000 /dev/urandom", "does not tell its version"),
    ],
)
def test_a_runtime_that_does_not_answer_is_bounded(
    script: bytes, said: str, tmp_path: Path, here: Here, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_VERSION", 1)
    observer, began = Told(), time.monotonic()
    sent(write(tmp_path / "mine", b"#!/bin/sh\n" + script + b"\n"), here, settings, observer)
    assert time.monotonic() - began < 10
    [warning] = observer.warnings
    assert any(one in warning for one in said.split("|"))
    assert len(warning) < 400


@pytest.mark.parametrize("pipes", ["", ">/dev/null", "2>/dev/null"])
def test_what_it_leaves_running_does_not_hold_labkit_up(
    pipes: str, tmp_path: Path, here: Here, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_VERSION", 1)
    observer, began = Told(), time.monotonic()
    script = f"#!/bin/sh\nsetsid sleep 40 {pipes} &\necho runc version 1.1\n"
    sent(write(tmp_path / "x", script.encode()), here, settings, observer)
    assert time.monotonic() - began < 20
    assert observer.warnings == []


def test_what_cannot_be_executed(tmp_path: Path, here: Here, settings: Settings) -> None:
    with pytest.raises(UsageError, match=r"is built for s390x, and the machine is .*: it cannot be executed"):
        in_machine(str(write(tmp_path / "x", elf(22, order=">"))), here, settings)


# --- what is in the machine


def in_machine(path: str, here: Here, settings: Settings) -> runtimes.Runtime:
    one = subject.find(InMachine(PurePosixPath(path)), settings, settings.distro(), Silent())
    return subject.send(one, here, Silent(), "m")


def test_a_program_of_the_machine_has_its_digest(tmp_path: Path, here: Here, settings: Settings) -> None:
    path = write(tmp_path / "my runc")
    runtime = in_machine(str(path), here, settings)
    assert (runtime.command, runtime.sha256, runtime.source) == (str(path), files.packed(path, "x").sha256, "machine")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="is not executable in machine m"):
        in_machine(str(path), here, settings)
    with pytest.raises(UsageError, match="is a directory in machine m"):
        in_machine(str(tmp_path), here, settings)
    with pytest.raises(UsageError, match="is neither in machine m nor on this host"):
        in_machine("/none/runc", here, settings)
    one = subject.find(Package("railcar"), settings, settings.distro(), Silent())
    with pytest.raises(UsageError, match="machine m has no railcar"):
        subject.send(one, here, Silent(), "m")


def test_a_path_that_only_this_host_has_is_told_before_anything_is_made(tmp_path: Path, settings: Settings) -> None:
    path, machine = write(tmp_path / "runc"), FakeMachine()
    one = subject.find(InMachine(PurePosixPath(path)), settings, settings.distro(), Silent())
    with pytest.raises(UsageError, match="yet to be made; it is a file of this host") as caught:
        subject.require_possible(one, machine)
    assert caught.value.hint == f"--runtime host:{path} sends it into the machine"
    machine.state = MachineState.RUNNING
    subject.require_possible(one, machine)  # somebody may have put it there
    usual = subject.find(InMachine(PurePosixPath("/usr/bin/crun")), settings, settings.distro(), Silent())
    subject.require_possible(usual, FakeMachine())


def test_arguments_for_what_gives_none(tmp_path: Path, here: Here, settings: Settings) -> None:
    path = write(tmp_path / "x", b'#!/bin/sh\nprintf "%s|" "$@"\n')
    runtime = sent(path, here, settings, None, "--log", "a b'c", "--x=$(id)")
    called = subject.called_alone(runtime, here)
    assert (
        subprocess.run([called.command, "state", "1"], capture_output=True).stdout == b"--log|a b'c|--x=$(id)|state|1|"
    )
    assert PurePosixPath(called.command).name == "x"
    bare = sent(path, here, settings)
    assert subject.called_alone(bare, here) is bare


# --- a run


def test_the_word_is_the_same_wherever_it_is_written(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    (tmp_path / "sub").mkdir()
    (tmp_path / "labkit.toml").write_text('runtime = "./runc --debug"\n')
    settings = config.load({}, cwd=tmp_path / "sub", environ=environ)
    assert settings.runtime == f"host:{tmp_path}/runc --debug"  # of the file's directory
    write(tmp_path / "runc")
    cell = cell_of(settings, Selection())
    assert (cell.runtime, cell.selection.runtime_args) == (f"host:{tmp_path}/runc", ("--debug",))
    assert cell.key.endswith(f"/host:{tmp_path}/runc --debug/spec")
    given = config.load({"runtime": "../runc"}, cwd=tmp_path / "sub", environ=environ)
    assert cell_of(given, Selection()).runtime == f"host:{tmp_path}/runc"
    for text in ("runc", "/usr/bin/runc", "runc@1.3.0", "https://h/x.git#main"):
        assert config.load({"runtime": text}, cwd=tmp_path, environ=environ).runtime == text


def test_a_path_with_a_dash_and_a_space_is_not_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "my -runc")
    assert runtimes.split(f"host:{path}") == (f"host:{path}", [])
    assert runtimes.split(f"host:{path} --debug")[0] != f"host:{path} --debug"
    assert runtimes.split("/opt/my runtimes/runc --debug --log 'a b'") == (
        "/opt/my runtimes/runc",
        ["--debug", "--log", "a b"],
    )


OUTPUT = b"TAP version 14\n# runtime: x\n# runtime-version: runc version 1.1.5+ds1\n1..1\nok 1 - QUERY-001 x\n"


def test_a_file_called_otherwise_is_the_runtime_that_it_says(tmp_path: Path, settings: Settings) -> None:
    path = write(tmp_path / "my-runc")
    cell = dataclasses.replace(CELL, runtime=f"host:{path}")
    outcome = run_cell(cell, settings, SilentRun(), None, lambda *_: suite_prints(OUTPUT))
    about = outcome.run.runtime
    assert (about.name, about.version) == ("runc", "1.1.5+ds1")
    assert (about.word, about.source) == (f"host:{path}", f"host:{path}")
    assert about.sha256 == files.packed(path, "x").sha256
    assert f"host:{path} is taken for runc 1.1.5+ds1" in outcome.run.told
    assert outcome.directory.name.endswith("-my-runc-spec")


def test_the_directory_of_a_run_has_a_plain_name(tmp_path: Path, settings: Settings) -> None:
    path = write(tmp_path / ("my rünc " + "n" * 200))
    cell = dataclasses.replace(CELL, runtime=f"host:{path}")
    outcome = run_cell(cell, settings, SilentRun(), None, lambda *_: suite_prints(OUTPUT))
    assert outcome.directory.name.isascii() and " " not in outcome.directory.name
    assert len(outcome.directory.name) < 150


def test_several_are_looked_at_before_the_first_runs(tmp_path: Path, settings: Settings) -> None:
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", b"")
    with pytest.raises(UsageError, match="bad is empty"):
        run_all(settings, SilentRun(), Selection(), [f"host:{good}", f"host:{bad}"])
    assert not settings.reports.exists()
    assert not settings.home.machines.exists()
    with pytest.raises(UsageError, match="--runtime-name names one runtime"):
        run_all(settings, SilentRun(), Selection(), ["runc", "crun"], runtime_name="x")


# --- the simplest container


def test_a_runtime_that_can_do_nothing_gets_one_message() -> None:
    runtime = runtimes.named("runsc")
    said = "labkit-spec: no container can be created here: cannot run with network enabled in root network namespace\n"
    assert told(said, runtime).endswith("root network namespace; try --runtime-arg=--network=none")
    assert told("labkit-spec: no such check\n", runtime) == ""


def test_every_hint_is_found_by_some_words() -> None:
    for words, advice in {
        "creating container: cannot set up cgroup for root: mkdir": "--ignore-cgroups",
        "sd-bus call: Interactive authentication required": "--systemd-cgroup",
        "flag provided but not defined: -foo": "another --runtime-arg",
        "error: unexpected argument '--x' found": "another --runtime-arg",
        "fork/exec: exec format error": "architecture",
        "create timed out after 30 s": "./lab ssh",
        "killed by SIGSEGV: oops": "./lab ssh",
    }.items():
        assert advice in hints.find(words)
    assert hints.find("something else") == ""


# --- on a machine


@pytest.mark.machine
def test_on_a_machine(uml: Lab, tmp_path: Path) -> None:
    from labkit.io import process

    if not process.which("runc"):
        pytest.skip("not installed: runc")
    path = tmp_path / "my runc"
    shutil.copy(str(process.which("runc")), path)
    only = ("--only", "STATE-001,CREATE-001")
    first = uml.run("test", "--runtime", str(path).replace(str(tmp_path), f"host:{tmp_path}"), *only)
    assert f"sending {path}" in first.stderr
    about = uml.results()["runtime"]
    assert (about["name"], about["sha256"]) == ("runc", files.packed(path, "x").sha256)
    assert "sending" not in uml.run("test", "--runtime", f"host:{path}", *only).stderr
    both = uml.json("test", "--runtime", "runc", "--runtime", f"host:{path}", *only)
    assert len(both["runs"]) == 2
    write(path, b"#!/bin/sh\necho runc version 1.1 >&2\necho nothing works >&2\nexit 1\n")
    done = uml.run("test", "--runtime", f"host:{path}", *only, status=4)
    assert "cannot run the simplest container" in " ".join(done.stdout.split())
    done = uml.run("test", "--runtime", str(path), *only, status=2)
    assert f"hint: --runtime host:{path} sends it into the machine" in done.stderr

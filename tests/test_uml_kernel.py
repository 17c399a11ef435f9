"""Kernels of User-Mode Linux, and when one is chosen; no machine is booted."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import HostError, MachineError, UsageError
from labkit.core.observer import Silent
from labkit.host import install
from labkit.machines import choice, providers
from labkit.qemu import accelerator
from labkit.uml import cow, kernel, launch
from labkit.uml.kernel import Kernel, kept


class Told(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def settings(tmp_path: Path, **environ: str) -> Settings:
    given = {f"LABKIT_{key}": value for key, value in environ.items()}
    return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path), "LABKIT_HOME": str(tmp_path / "home"), **given})


@pytest.fixture
def no_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This host has no kernel of its own."""
    monkeypatch.setattr(kernel, "_PROGRAMS", ("no-such-program",))


def put(home: Path, digest: str = "0" * 16, **changes: object) -> Path:
    at = home / "kernels" / digest
    (at / "tree").mkdir(parents=True)
    for name in ("tree/linux", "modules.img"):
        (at / name).write_bytes(b"x")
    about = {"release": "7.2.7", "origin": "user-mode-linux 7 of Debian sid", "sha256": digest * 4, "seccomp": True}
    (at / "kernel.json").write_text(json.dumps(about | changes))
    return at


@pytest.mark.parametrize(
    ("release", "number"), [("6.1.176", (6, 1)), ("7.2.7", (7, 2)), ("6.16-rc1", (6, 16)), ("what", (0, 0))]
)
def test_a_release_is_read(release: str, number: tuple[int, int]) -> None:
    assert kernel._number(release) == number


@pytest.mark.parametrize(
    ("says", "release"), [("7.2.7", "7.2.7"), ("true (GNU coreutils) 9.1", None), ("", None), ("7.2.7\nmore", None)]
)
def test_a_program_says_its_release(tmp_path: Path, says: str, release: str | None) -> None:
    program = tmp_path / "linux"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    program.chmod(0o755)
    assert kernel._release(program) == release


def test_the_newest_whole_kernel_is_kept(tmp_path: Path, no_own: None) -> None:
    wanted = settings(tmp_path)
    assert kept(wanted) is None
    for age, digest in enumerate(("0" * 16, "1" * 16)):
        os.utime(put(tmp_path / "home", digest), (age, age))
    put(tmp_path / "home", "2" * 16, origin="/src/linux")
    found = kept(wanted)
    assert found is not None and found.directory.name == "1" * 16
    assert str(found) == "User-Mode Linux 7.2.7, user-mode-linux 7 of Debian sid"


@pytest.mark.parametrize(
    "damage",
    [
        lambda at: (at / "kernel.json").write_text("{"),
        lambda at: (at / "kernel.json").write_text("[]"),
        lambda at: (at / "kernel.json").write_text('{"release": "7.2.7"}'),
        lambda at: (at / "kernel.json").write_bytes(bytes(range(256))),
        lambda at: (at / "kernel.json").unlink(),
        lambda at: (at / "tree/linux").unlink(),
        lambda at: (at / "modules.img").unlink(),
        lambda at: at.rename(at.with_name("3" * 16)),
        lambda at: at.rename(at.with_name("fetching")),
        lambda at: at.rename(at.with_name(f"{'0' * 16}.making")),
    ],
)  # fmt: skip
def test_a_damaged_kernel_is_none(tmp_path: Path, no_own: None, damage: object) -> None:
    at = put(tmp_path / "home")
    assert kept(settings(tmp_path)) is not None
    assert callable(damage)
    damage(at)
    assert kept(settings(tmp_path)) is None


@pytest.mark.parametrize(
    ("path", "said"),
    [("/no/such/linux", "is no program"), ("/etc/passwd", "is no program"), ("/bin/true", "names no release")],
)
def test_a_path_that_is_no_kernel_is_named(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(HostError) as told:
        kept(settings(tmp_path, UML_KERNEL=path))
    assert path in told.value.message and said in told.value.message


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str | None]:
    """What is found out about this host: why KVM does not work, and why User-Mode Linux does not."""
    about: dict[str, str | None] = {"kvm": "it is not there", "uml": None}
    found = Kernel(tmp_path, "7.2.7", "of the test", "0" * 64, True)
    monkeypatch.setattr(install, "ensure", lambda *_: None)
    monkeypatch.setattr(accelerator, "probe_kvm", lambda _: about["kvm"])
    monkeypatch.setattr(kernel, "ensure", lambda *_: found)
    monkeypatch.setattr(launch, "probe", lambda *_: about["uml"])
    return about


def chosen(wanted: Settings) -> tuple[str, str]:
    return choice._local(wanted, wanted.distro(), Silent())


def test_kvm_comes_first(host: dict[str, str | None], tmp_path: Path) -> None:
    host["kvm"] = None
    assert chosen(settings(tmp_path)) == ("qemu", "KVM works here")


def test_then_user_mode_linux(host: dict[str, str | None], tmp_path: Path) -> None:
    provider, why = chosen(settings(tmp_path))
    assert provider == "uml"
    assert why == "KVM does not work here (it is not there), and User-Mode Linux 7.2.7, of the test runs"


def test_then_emulation(host: dict[str, str | None], tmp_path: Path) -> None:
    host["uml"] = "no tap"
    provider, why = chosen(settings(tmp_path))
    assert provider == "qemu"
    assert "it is not there" in why and "no tap" in why


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("MACHINE_ACCELERATOR", "tcg", "machine.accelerator = tcg is QEMU's"),
        ("MACHINE_NETWORK", "open", "machine.network = open is QEMU's"),
        ("MACHINE_CPUS", "2", "User-Mode Linux has one CPU"),
        ("IMAGE", "cloud", "cloud images need QEMU"),
    ],
)
def test_what_only_qemu_has_chooses_it(
    host: dict[str, str | None], tmp_path: Path, key: str, value: str, why: str
) -> None:
    wanted = settings(tmp_path, **{key: value})
    assert chosen(wanted) == ("qemu", why)


def test_a_kernel_of_the_users_that_is_none_is_an_error(
    host: dict[str, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> Kernel:
        raise HostError("it is none")

    monkeypatch.setattr(kernel, "ensure", refuse)
    assert chosen(settings(tmp_path))[0] == "qemu"
    with pytest.raises(HostError, match="it is none"):
        chosen(settings(tmp_path, UML_KERNEL="/x"))


@pytest.mark.parametrize(
    ("provider", "key", "value"),
    [
        ("uml", "MACHINE_CPUS", "2"),
        ("uml", "MACHINE_NETWORK", "open"),
        ("uml", "MACHINE_ACCELERATOR", "kvm"),
        ("qemu", "MACHINE_INIT", "small"),
        ("qemu", "UML_KERNEL", "/x"),
    ],
)
def test_what_a_provider_cannot_heed_is_refused(tmp_path: Path, provider: str, key: str, value: str) -> None:
    wanted = settings(tmp_path, **{key: value})
    with pytest.raises(UsageError) as told:
        providers.require_heeded(wanted, provider, wanted.distro(), Silent())
    assert f"LABKIT_{key} has no effect with the {provider} provider" in told.value.message


def test_in_a_file_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "labkit.toml").write_text("[machine]\ncpus = 2\n")
    wanted, told = settings(tmp_path), Told()
    providers.require_heeded(wanted, "uml", wanted.distro(), told)
    [warning] = told.warnings
    assert "has no effect with the uml provider: its kernel has one CPU" in warning


@pytest.mark.parametrize("value", ["1"])
def test_one_cpu_is_what_it_has(tmp_path: Path, value: str) -> None:
    wanted = settings(tmp_path, MACHINE_CPUS=value)
    providers.require_heeded(wanted, "uml", wanted.distro(), Silent())


# --- copy-on-write files


def written(at: Path, base: Path) -> Path:
    """As the kernel makes it: header, bitmap, data."""
    path = at / "m/volume/cow.img"
    path.parent.mkdir(parents=True)
    size, time = base.stat().st_size, int(base.stat().st_mtime)
    path.write_bytes(struct.pack(">4sIIQIII", b"OOOM", 3, time, size, 512, 4096, 0) + b"/files/base".ljust(4096, b"\0"))
    os.truncate(path, 12288 + size)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * 1_048_576)
    os.utime(path, (5, 5))
    return path


def test_a_whole_one_is_taken(tmp_path: Path, base: Path) -> None:
    cow.require_whole(written(tmp_path, base), base)


def pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path, _: path.unlink(), "is gone"),
        (lambda path, _: path.write_bytes(b""), "is cut"),
        (lambda path, _: os.truncate(path, 500_000), "is cut"),
        (lambda path, _: path.write_bytes(bytes(range(256)) * 9000), "is no copy-on-write file"),
        (lambda _, base: os.utime(base, (6, 6)), "was written on another disk"),
        (pipe, "cannot be read"),
        (lambda path, base: (path.unlink(), path.symlink_to(base)), "cannot be read"),
    ],
    ids=["gone", "empty", "cut", "binary", "another base", "pipe", "link"],
)
def test_what_is_wrong_with_one_is_told(tmp_path: Path, base: Path, damage: object, said: str) -> None:
    path = written(tmp_path, base)
    assert callable(damage)
    damage(path, base)
    with pytest.raises(MachineError) as told:
        cow.require_whole(path, base)
    assert f"the disk of machine m is lost or damaged: {path} {said}" in told.value.message
    if said == "cannot be read":
        with pytest.raises(OSError):
            cow.give(path, os.getuid())

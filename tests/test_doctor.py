"""The doctor, on this host as it is and with a PATH that lacks things."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import HostError, LabError
from labkit.core.observer import Silent
from labkit.host.facts import Fact, FactState, examine, lacking, package_manager, read_data
from labkit.host.install import ensure

INSTALLER = """\
#!/bin/sh
# Stands for the package manager: keeps what it was asked, and installs a qemu-img that knows nothing.
echo "${0##*/} $*" >>"{log}"
case "$*" in
*install* | *-S*) printf '#!/bin/sh\\n' >"{bin}/qemu-img" && /bin/chmod +x "{bin}/qemu-img" ;;
esac
echo "the installer speaks"
"""


class Details(Silent):
    def __init__(self) -> None:
        self.details: list[str] = []

    def detail(self, text: str) -> None:
        self.details.append(text)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everyone may use; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


@pytest.fixture
def settings(place: Path) -> Settings:
    return settings_in(place)


def settings_in(directory: Path, **environ: str) -> Settings:
    return config.load(cwd=directory, environ={"HOME": str(directory), **environ})


@pytest.fixture
def empty_path(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with env, a recording package manager of every kind, and nothing else (sbin directories always count)."""
    directory = place / "bin"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
    for name in ("apt-get", "dnf", "pacman", "zypper"):
        (directory / name).write_text(INSTALLER.replace("{log}", f"{place}/log").replace("{bin}", str(directory)))
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    return directory


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """labkit takes itself for an ordinary user. (Becoming one would close a checkout below /root to the test.)"""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)


def by_name(checks: list[Fact]) -> dict[str, Fact]:
    return {check.name: check for check in checks}


def test_an_empty_path_lacks_what_qemu_needs_but_not_vagrant(settings: Settings, empty_path: Path) -> None:
    checks = examine(settings)
    missing = {check.name for check in lacking(checks)}
    assert {"qemu-system-x86_64", "qemu-img", "mmdebstrap", "ssh"} <= missing
    assert "vagrant" not in missing
    assert by_name(checks)["vagrant"].state is FactState.MISSING
    assert by_name(checks)["kvm"].state is FactState.WARNING


def test_a_cloud_image_needs_no_mmdebstrap(place: Path, empty_path: Path) -> None:
    checks = examine(settings_in(place, LABKIT_IMAGE="cloud"))
    assert "qemu-img" in {check.name for check in lacking(checks)}
    assert "mmdebstrap" not in {check.name for check in lacking(checks)}
    assert "debian keyring" not in by_name(checks)


def test_a_program_is_found_with_its_version(place: Path, settings: Settings, empty_path: Path) -> None:
    (empty_path / "qemu-img").write_text("#!/bin/sh\necho qemu-img version 99\n")
    (empty_path / "qemu-img").chmod(0o755)
    check = by_name(examine(settings))["qemu-img"]
    assert (check.state, check.found) == (FactState.OK, "qemu-img version 99")


def test_memory_and_disk_are_measured_against_what_is_asked(place: Path) -> None:
    checks = by_name(examine(settings_in(place, LABKIT_MACHINE_MEMORY="1024G")))
    assert checks["memory"].state is FactState.WARNING
    assert "a machine has 1048576" in checks["memory"].found
    assert str(shutil.disk_usage(place).free >> 30) in checks["disk"].found or checks["disk"].state is FactState.OK


def test_a_home_that_cannot_be_made(place: Path) -> None:
    (place / "file").write_text("")
    checks = by_name(examine(settings_in(place, LABKIT_HOME="file/home")))
    assert checks["disk"].state is FactState.MISSING
    assert checks["disk"].required


def test_every_required_program_has_a_package_for_each_manager_or_another_way() -> None:
    data = read_data()
    for name, program in data.programs.items():
        if program.purpose != "option":
            assert set(program.packages) == set(data.managers) or program.instead, name


@pytest.mark.skipif(os.geteuid() != 0, reason="installs as root")
def test_root_installs_what_is_lacking_and_hears_the_installer(
    place: Path, settings: Settings, empty_path: Path
) -> None:
    listener = Details()
    ensure(settings, ["qemu-img"], listener)
    manager = package_manager(read_data())
    log = (place / "log").read_text().splitlines()
    assert log[-1].startswith(f"{manager.name} ")
    assert "qemu" in log[-1]
    assert set(listener.details) == {"the installer speaks"}
    (place / "log").unlink()
    ensure(settings, ["qemu-img"], listener)
    assert not (place / "log").exists(), "what is there is not installed again"


@pytest.mark.skipif(os.geteuid() != 0, reason="installs as root")
def test_an_installation_that_brings_nothing_is_an_error(settings: Settings, empty_path: Path) -> None:
    with pytest.raises(HostError, match="ssh-keygen is still missing after its packages were installed"):
        ensure(settings, ["ssh-keygen"], Silent())


def test_without_leave_the_command_is_told_and_nothing_is_installed(
    place: Path, settings: Settings, empty_path: Path, nobody: None
) -> None:
    with pytest.raises(HostError, match=r"this host lacks qemu-img \(needed for disks of machines\)") as caught:
        ensure(settings, ["qemu-img"], Silent())
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("run: sudo ")
    assert caught.value.hint.endswith("or let labkit do it: ./lab doctor --yes")
    assert not (place / "log").exists()


def test_with_leave_it_goes_through_sudo(place: Path, empty_path: Path, nobody: None) -> None:
    (empty_path / "sudo").write_text(f'#!/bin/sh\necho "sudo $1" >>"{place}/log"\nshift\nexec "$@"\n')
    (empty_path / "sudo").chmod(0o755)
    ensure(settings_in(place, LABKIT_YES="1"), ["qemu-img"], Silent())
    log = (place / "log").read_text().splitlines()
    assert log[-2] == "sudo -n"
    assert " install " in log[-1] or " -S " in log[-1]


def test_a_sudo_that_wants_a_password_is_told(place: Path, empty_path: Path, nobody: None) -> None:
    (empty_path / "sudo").write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    (empty_path / "sudo").chmod(0o755)
    with pytest.raises(LabError, match=r"^sudo failed with status 1: sudo -n ") as caught:
        ensure(settings_in(place, LABKIT_YES="1"), ["qemu-img"], Silent())
    assert caught.value.hint == "sudo: a password is required"

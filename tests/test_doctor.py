"""The doctor, on this host as it is and with a PATH that lacks things."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import config, doctor
from labkit.config import Settings
from labkit.doctor import Check, State
from labkit.errors import HostError, LabError
from labkit.observer import Silent

INSTALLER = """\
#!/bin/sh
# Stands for the package manager: keeps what it was asked, and installs a qemu-img that knows nothing.
echo "${0##*/} $*" >>"{log}"
case "$*" in
*install* | *-S*) printf '#!/bin/sh\\n' >"{bin}/qemu-img" && /bin/chmod +x "{bin}/qemu-img" ;;
esac
echo "the installer speaks"
"""


class Listener(Silent):
    def __init__(self) -> None:
        self.details: list[str] = []

    def detail(self, text: str) -> None:
        self.details.append(text)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everyone may use; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
def settings(place: Path) -> Settings:
    return settings_in(place)


def settings_in(folder: Path, **environ: str) -> Settings:
    return config.load(cwd=folder, environ={"HOME": str(folder), **environ})


@pytest.fixture
def empty_path(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with env, a recording package manager of every kind, and nothing else (sbin folders always count)."""
    folder = place / "bin"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
    for name in ("apt-get", "dnf", "pacman", "zypper"):
        (folder / name).write_text(INSTALLER.replace("{log}", f"{place}/log").replace("{bin}", str(folder)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def nobody() -> Iterator[None]:
    """Not root for the length of a test."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_an_empty_path_lacks_what_qemu_needs_but_not_vagrant(settings: Settings, empty_path: Path) -> None:
    checks = doctor.examine(settings)
    lacking = {check.name for check in doctor.lacking(checks)}
    assert {"qemu-system-x86_64", "qemu-img", "mmdebstrap", "ssh"} <= lacking
    assert "vagrant" not in lacking
    assert by_name(checks)["vagrant"].state is State.MISSING
    assert by_name(checks)["kvm"].state is State.WARNING


def test_a_cloud_image_needs_no_mmdebstrap(place: Path, empty_path: Path) -> None:
    checks = doctor.examine(settings_in(place, LABKIT_IMAGE="cloud"))
    assert "qemu-img" in {check.name for check in doctor.lacking(checks)}
    assert "mmdebstrap" not in {check.name for check in doctor.lacking(checks)}
    assert "debian keyring" not in by_name(checks)


def test_a_program_is_found_with_its_version(place: Path, settings: Settings, empty_path: Path) -> None:
    (empty_path / "qemu-img").write_text("#!/bin/sh\necho qemu-img version 99\n")
    (empty_path / "qemu-img").chmod(0o755)
    check = by_name(doctor.examine(settings))["qemu-img"]
    assert (check.state, check.found) == (State.OK, "qemu-img version 99")


def test_memory_and_disk_are_measured_against_what_is_asked(place: Path) -> None:
    checks = by_name(doctor.examine(settings_in(place, LABKIT_MACHINE_MEMORY="1024G")))
    assert checks["memory"].state is State.WARNING
    assert "a machine has 1048576" in checks["memory"].found
    assert str(shutil.disk_usage(place).free >> 30) in checks["disk"].found or checks["disk"].state is State.OK


def test_a_home_that_cannot_be_made(place: Path) -> None:
    (place / "file").write_text("")
    checks = by_name(doctor.examine(settings_in(place, LABKIT_HOME="file/home")))
    assert checks["disk"].state is State.MISSING
    assert checks["disk"].required


def test_every_required_program_has_a_package_for_each_manager_or_another_way() -> None:
    data = doctor._data()
    for name, program in data.programs.items():
        if program.purpose != "option":
            assert set(program.packages) == set(data.managers) or program.instead, name


@pytest.mark.skipif(os.geteuid() != 0, reason="installs as root")
def test_root_installs_what_is_lacking_and_hears_the_installer(
    place: Path, settings: Settings, empty_path: Path
) -> None:
    listener = Listener()
    doctor.ensure(settings, ["qemu-img"], listener)
    manager = doctor._host(doctor._data())
    log = (place / "log").read_text().splitlines()
    assert log[-1].startswith(f"{manager.name} ")
    assert "qemu" in log[-1]
    assert set(listener.details) == {"the installer speaks"}
    (place / "log").unlink()
    doctor.ensure(settings, ["qemu-img"], listener)
    assert not (place / "log").exists(), "what is there is not installed again"


@pytest.mark.skipif(os.geteuid() != 0, reason="installs as root")
def test_an_installation_that_brings_nothing_is_an_error(settings: Settings, empty_path: Path) -> None:
    with pytest.raises(HostError, match="ssh-keygen is still missing after its packages were installed"):
        doctor.ensure(settings, ["ssh-keygen"], Silent())


def test_without_leave_the_command_is_told_and_nothing_is_installed(
    place: Path, settings: Settings, empty_path: Path, nobody: None
) -> None:
    with pytest.raises(HostError, match=r"this host lacks qemu-img \(needed for disks of machines\)") as caught:
        doctor.ensure(settings, ["qemu-img"], Silent())
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("run: sudo ")
    assert caught.value.hint.endswith("or let labkit do it: ./lab doctor --yes")
    assert not (place / "log").exists()


def test_with_leave_it_goes_through_sudo(place: Path, empty_path: Path, nobody: None) -> None:
    (empty_path / "sudo").write_text(f'#!/bin/sh\necho "sudo $1" >>"{place}/log"\nshift\nexec "$@"\n')
    (empty_path / "sudo").chmod(0o755)
    doctor.ensure(settings_in(place, LABKIT_YES="1"), ["qemu-img"], Silent())
    log = (place / "log").read_text().splitlines()
    assert log[-2] == "sudo -n"
    assert " install " in log[-1] or " -S " in log[-1]


def test_a_sudo_that_wants_a_password_is_told(place: Path, empty_path: Path, nobody: None) -> None:
    (empty_path / "sudo").write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    (empty_path / "sudo").chmod(0o755)
    with pytest.raises(LabError, match="sudo failed with status 1") as caught:
        doctor.ensure(settings_in(place, LABKIT_YES="1"), ["qemu-img"], Silent())
    assert caught.value.hint == "sudo: a password is required"

"""labkit's side of python-vagrant, against a vagrant that behaves as the real one does on a bad day.

What the real one says on a good day: tests/test_vagrant.py.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.deadline import Deadline
from labkit.core.errors import HostError, MachineError
from labkit.core.observer import Silent
from labkit.core.platforms import Distro, Platform
from labkit.io import process
from labkit.io.vagrant import Vagrant
from labkit.machines import providers
from labkit.machines.vagrant import vagrant_provider

STATUS = """1795324042,one,metadata,provider,libvirt
1795324042,one,provider-name,libvirt
1795324042,one,state,running
1795324042,one,state-human-long,The Libvirt domain is running. To stop this machine%!(VAGRANT_COMMA) halt it.
"""


@pytest.fixture
def vagrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory first in PATH, for a program called vagrant."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory / "vagrant"


def says(program: Path, script: str) -> Vagrant:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Vagrant(program.parent, home=program.parent / "home", owner=program.parent)


def test_the_state_is_read_from_among_other_lines(vagrant: Path) -> None:
    noise = "[fog][WARNING] Unrecognized arguments\n==> vagrant: A new version is available\nnot,csv\n,,,\n"
    (vagrant.parent / "out").write_text(noise + STATUS)
    assert says(vagrant, f"cat {vagrant.parent}/out").state() == "running"


@pytest.mark.parametrize(
    "output", ["", "rubbish\0\n", "1,one,state,\n", "1,one,state,a b\n", "1,a,state,x\n1,b,state,y\n"]
)
def test_an_answer_without_a_state_is_an_error(vagrant: Path, output: str) -> None:
    (vagrant.parent / "out").write_text(output)
    with pytest.raises(MachineError, match="reports no state"):
        says(vagrant, f"cat {vagrant.parent}/out").state()


def test_an_error_in_machine_readable_form_is_told(vagrant: Path) -> None:
    line = "1424099042,,error-exit,Vagrant::Errors::MachineNotFound,The machine 'api' was not found"
    with pytest.raises(MachineError, match=r"vagrant status .* failed with status 1") as caught:
        says(vagrant, f'echo "{line}"; exit 1').state()
    assert "was not found" in str(caught.value.hint)


def test_what_a_plugin_says_last_is_the_hint(vagrant: Path) -> None:
    progress = r"printf '\033[KProgress: 1%%\r\033[KProgress: 99%%\r\033[K\n'"
    script = rf"{progress}; printf 'libvirt: no such \033[31mpool' >&2; exit 1"
    with pytest.raises(MachineError, match=r"vagrant up .* failed with status 1") as caught:
        says(vagrant, script).start("libvirt", timeout=10)
    assert "no such" in str(caught.value.hint)
    assert "\033" not in str(caught.value.hint)


def test_a_vagrant_that_hangs_is_ended_with_its_children(vagrant: Path) -> None:
    machine = says(vagrant, "sleep 1000 & sleep 1000")
    began = time.monotonic()
    with pytest.raises(MachineError, match=r"vagrant up .* did not finish within 0.5 s"):
        machine.start("libvirt", timeout=0.5)
    assert time.monotonic() - began < 5
    assert Deadline.after(5).poll(lambda: not process.owned(vagrant.parent))


def test_lines_come_as_they_are_printed_with_progress_once(vagrant: Path) -> None:
    lines: list[str] = []
    says(vagrant, "")
    machine = Vagrant(vagrant.parent, home=None, owner=vagrant.parent, on_line=lines.append)
    vagrant.write_text("#!/bin/sh\nprintf '==> a\\r\\033[KProgress: 1%%\\r\\033[KProgress: 100%%\\n==> b\\n'\n")
    machine.start("libvirt", timeout=10)
    assert lines == ["Progress: 100%", "==> b"]


def test_the_first_host_of_an_ssh_config_is_read(vagrant: Path) -> None:
    config = """[warning] something
Host one
  HostName 192.168.121.245
  User vagrant
  Port 2222
  IdentityFile "/a directory/first"
  IdentityFile /second
Host other
  HostName 10.0.0.1
"""
    (vagrant.parent / "out").write_text(config)
    login = says(vagrant, f"cat {vagrant.parent}/out").login()
    assert (login.host, login.port, login.user) == ("192.168.121.245", 2222, "vagrant")
    assert login.keys == (Path("/a directory/first"), Path("/second"))


@pytest.mark.parametrize(
    "text", ["", "Host one\n", "Host one\n  HostName x\n  Port many\n  User u\n  IdentityFile /k\n"]
)
def test_an_ssh_config_that_says_nothing(vagrant: Path, text: str) -> None:
    (vagrant.parent / "out").write_text(text)
    with pytest.raises(MachineError, match=r"ssh-config of .* cannot be read"):
        says(vagrant, f"cat {vagrant.parent}/out").login()


def test_the_persons_own_vagrant_home_is_not_touched(vagrant: Path) -> None:
    machine = says(vagrant, 'echo "1,one,state,running"; env >"$0.env"')
    machine.state()
    environment = Path(f"{vagrant}.env").read_text().splitlines()
    assert f"VAGRANT_HOME={vagrant.parent}/home" in environment
    assert f"VAGRANT_DOTFILE_PATH={vagrant.parent}/.vagrant" in environment


def test_no_vagrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_path", lambda: str(tmp_path))
    with pytest.raises(HostError, match="Vagrant is not installed"):
        Vagrant(tmp_path, home=None, owner=tmp_path)


# ---- which provider


class Details(Silent):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


def distro(*boxes: str) -> Distro:
    """A release of which only the boxes are looked at."""
    digest = "0" * 64
    box = {"url": "https://example.org/x.box", "sha256": digest}
    release = {"boxes": {name: box for name in boxes}, "cloud_image": {**box, "user": "x"}, "name": "1"}
    platform = {"name": "x", "title": "X", "family": "debian", "default": "1", "releases": {"1": release}}
    made = Platform.model_validate(platform)
    return Distro(made, made.release(None))


@pytest.mark.parametrize(
    ("probe", "plugins", "boxes", "chosen", "why"),
    [
        ("exit 0", "vagrant-libvirt (0.11.2)", ["libvirt"], "Vagrant", "Vagrant works here with libvirt"),
        ("exit 0", "", ["libvirt"], "Qemu", "no provider of Vagrant works here: tried libvirt"),
        ("exit 1", "vagrant-libvirt (0.11.2)", ["libvirt"], "Qemu", "no provider of Vagrant works here: tried libvirt"),
        ("exit 0", "vagrant-libvirt (0.11.2)", ["virtualbox"], "Qemu", "Vagrant works here with libvirt only"),
        ("exit 0", "vagrant-libvirt (0.11.2)", [], "Qemu", "no Vagrant box is published for this release"),
    ],
)
def test_auto_says_what_it_takes_and_why(
    vagrant: Path, tmp_path: Path, probe: str, plugins: str, boxes: list[str], chosen: str, why: str
) -> None:
    says(vagrant, f"case $1 in --version) echo Vagrant 2.3.4 ;; *) echo '{plugins}' ;; esac")
    says(vagrant.with_name("virsh"), probe)
    settings = config.load({}, cwd=tmp_path, environ={"LABKIT_HOME": str(tmp_path / "home")})
    heard = Details()
    machine = providers.wanted("new", settings, heard, distro(*boxes))
    assert type(machine).__name__ == f"{chosen}Machine"
    assert [step for step in heard.steps if why in step]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo Vagrant 1.9.8", "Vagrant 2.2 or newer is needed; `vagrant --version` printed 'Vagrant 1.9.8'"),
        ("echo 'ruby: not found' >&2; exit 127", "Vagrant 2.2 or newer is needed"),
    ],
)
def test_a_vagrant_that_is_of_no_use(vagrant: Path, tmp_path: Path, script: str, why: str) -> None:
    says(vagrant, script)
    settings = config.load({}, cwd=tmp_path, environ={"LABKIT_HOME": str(tmp_path / "home")})
    with pytest.raises(HostError, match=why):
        vagrant_provider(settings, distro("libvirt"))

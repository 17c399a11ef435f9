"""What was asked for is what is used: names of machines, differences between both, hosts of one's own.

The machines here are records in a lab's home, as labkit writes them, without a QEMU: `test` has to stop before it needs
one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import paramiko
import pytest

from labkit.cli.console import Console
from labkit.core import config
from labkit.core.config import Settings
from labkit.core.endpoint import Address
from labkit.core.errors import UsageError
from labkit.core.observer import Silent
from labkit.images import ingredients
from labkit.io import process
from labkit.machines import providers
from labkit.machines.base import Difference, MachineState
from labkit.machines.fake import LOOK, FakeMachine, has_runtime
from labkit.machines.host import HostRecord
from labkit.machines.qemu import QemuMachine, QemuRecord
from labkit.machines.uml import UmlRecord
from labkit.machines.vagrant import VagrantRecord
from labkit.suites.base import SilentRun
from labkit.usecases import machines
from labkit.usecases.machines import bring_up, machine_name, settled
from labkit.usecases.run import run_cell
from labkit.usecases.test import cell_of
from tests.sshd import Server
from tests.test_cell import CELL, OUTPUT, suite_prints
from tests.test_cli import Done, environ, labkit

__all__ = ["environ"]  # a fixture
SELECTION = CELL.selection


class Told(Silent):
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warnings: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def load(directory: Path, toml: str = "", environ: dict[str, str] | None = None, **flags: object) -> Settings:
    (directory / "labkit.toml").write_text(toml)
    return config.load(flags, cwd=directory, environ={"HOME": str(directory), **(environ or {})})


def keep(settings: Settings, name: str, record: QemuRecord | UmlRecord | VagrantRecord | HostRecord) -> Path:
    directory = settings.home.machine(name)
    directory.mkdir(parents=True)
    (directory / "record.json").write_text(json.dumps(asdict(record)))
    return directory


def qemu(settings: Settings, name: str = "mine", **changed: object) -> Path:
    """A QEMU machine of Debian 12, crashed, of an image of these settings."""
    distro = load(settings.reports.parent, release="12").distro()
    steps = ("packages", "agent")
    record = QemuRecord(
        platform="debian", release="12", image="cafe", accelerator="tcg", cpus=2, memory_mib=2048, ready=True,
        port=4022, hostname=name, machine_id="id", host_private="private", host_public="public",
        made_of=ingredients.ingredients(distro, settings), maker=ingredients.maker(distro, steps),
    )  # fmt: skip
    image = settings.home.images / "cafe"
    image.mkdir(parents=True, exist_ok=True)
    about = {"platform": "debian", "release": "12", "title": "Debian 12", "steps": steps}
    (image / "image.json").write_text(json.dumps(about))
    directory = keep(settings, name, dataclasses.replace(record, **changed))  # type: ignore[arg-type]
    (directory / "disk.qcow2").touch()
    return directory


def found(settings: Settings, name: str = "mine", needs: Sequence[str] = ()) -> list[Difference]:
    wanted = settled(settings.model_copy(update={"machine": settings.machine.model_copy(update={"name": name})}))
    return list(providers.existing(name, wanted, Silent(), needs).differences(wanted.distro()))


# --- names


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("lab7", "lab7"),
        ("root@lab7", "lab7"),
        ("me@Lab7.Example.ORG.", "lab7.example.org"),
        ("me@lab7:22", "lab7"),
        ("me@lab7:2222", "lab7-2222"),
        ("127.0.0.1:2201", "127.0.0.1-2201"),
        ("root@[fe80::1]", "ipv6-fe80--1"),
        ("root@[::1]:2222", "ipv6---1-2222"),
        ("[FE80:0:0::1]", "ipv6-fe80--1"),
        ("a" * 80, "a" * 54 + "-0f45e858"),
    ],
)
def test_a_host_has_its_own_name(tmp_path: Path, host: str, name: str) -> None:
    for provider in (None, "ssh"):
        settings = load(tmp_path, host=host, provider=provider)
        assert machine_name(settings) == name
        assert load(tmp_path, machine=machine_name(settings)).machine.name == name  # it is a valid one
        assert cell_of(settings, SELECTION).machine == name
    assert machine_name(load(tmp_path, f'[ssh]\nhost = "{host}"')) == name
    assert machine_name(load(tmp_path, f'[ssh]\nhost = "{host}"', provider="qemu")) == "debian-13"
    assert machine_name(load(tmp_path, host=host, machine="mine")) == "mine"


def test_an_address_is_read_as_it_is_written() -> None:
    assert Address.parse("me@[::1]:2222") == Address("me", "::1", 2222)
    assert Address.parse("lab7") == Address("root", "lab7", 22)
    for text in ("me@[::1]:2222", "root@lab7:22"):
        assert str(Address.parse(text)) == text


@pytest.mark.parametrize("task", ["up", "test", "reset", "halt", "destroy", "ssh", "doctor"])
def test_every_command_means_the_same_machine(task: str, tmp_path: Path, environ: dict[str, str]) -> None:
    """A QEMU machine debian-13 is there, and none called lab7."""
    settings = load(tmp_path, environ={"LABKIT_HOME": environ["LABKIT_HOME"]})
    qemu(settings, "debian-13", release="13")
    done = labkit(task, "--provider", "ssh", "--host", "root@lab7", environ=environ, cwd=tmp_path)
    assert "debian-13" not in done.stderr + done.stdout
    assert (
        ("lab7" in done.stderr + done.stdout)
        or "the ssh provider needs a private key" in done.stderr
        or ("nothing to destroy" in done.stdout)
    )
    assert done.returncode == (0 if task == "destroy" else 3 if task in ("ssh", "doctor") else 2), done
    done = labkit(task, "--provider", "ssh", environ=environ, cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "labkit: the ssh provider needs a host")
    done = labkit(task, "--provider", "qemu", "--host", "root@lab7", environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert "--host is for the ssh provider, and the provider is qemu (--provider)" in done.stderr


# --- what is asked for


def test_nothing_asked_is_nothing_different(tmp_path: Path) -> None:
    settings = load(tmp_path)
    qemu(settings, cpus=7, memory_mib=999, accelerator="kvm", made_of={})
    assert found(settings) == []
    keep(settings, "vm", VagrantRecord("fedora", "43", "virtualbox", 7, 999, ready=True))
    assert found(settings, "vm") == []
    keep(settings, "lab7", HostRecord("fedora", "43", "lab7", 22, "root", "/key", ready=True))
    assert found(settings, "lab7") == []


def test_what_a_machine_was_made_with_is_no_difference_while_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "x").write_text("1")
    toml = 'mirror = "http://m"\ntools = ["jq", "go"]\nrunc = "release:1.3.0"\nruntime_tools = "./src"\n'
    toml += 'image = "cloud"\n[machine]\ncpus = 3\nmemory = "3G"\ndisk = "9G"\naccelerator = "tcg"\n'
    settings = load(tmp_path, toml)
    qemu(settings, cpus=3, memory_mib=3072)
    settings = load(tmp_path, toml)
    about = json.loads((settings.home.images / "cafe/image.json").read_text())
    about["steps"] += ["jq", "go", "runc", "runtime-tools"]
    (settings.home.images / "cafe/image.json").write_text(json.dumps(about))
    assert [one for one in found(settings) if one.stops] == []
    (tmp_path / "src" / "x").write_text("2")  # the same words, another source
    [changed] = [one for one in found(settings) if one.stops]
    assert changed.what == "runtime_tools"
    assert changed.asked != changed.has
    # Nobody asks any more: what is under test is the platform's package now, and that is not what the machine has.
    assert [(one.what, one.asked, one.has, one.by) for one in found(load(tmp_path)) if one.stops] == [
        ("runc", "package", "release:1.3.0", "by default")
    ]
    assert [one for one in found(load(tmp_path, runtime="crun")) if one.stops] == []
    [tools] = [one for one in found(load(tmp_path, runtime="crun"), needs=["runtime-tools"]) if one.stops]
    assert (tools.what, tools.asked) == ("runtime_tools", "auto")


def test_a_changed_file_is_another_runtime(tmp_path: Path, environ: dict[str, str]) -> None:
    """The same words in labkit.toml, another program: what the machine has would be tested in its place."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"#!/bin/sh\n# 1\n")
    toml = 'runc = "./mine"\n'
    settings = load(tmp_path, toml, {"LABKIT_HOME": environ["LABKIT_HOME"]})
    distro = load(tmp_path, toml, release="12").distro()
    qemu(settings, made_of=ingredients.ingredients(distro, settings))
    load(tmp_path, toml)
    mine.write_bytes(b"#!/bin/sh\n# 2\n")
    done = labkit("test", "--machine", "mine", environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert "labkit: machine mine is not what was asked for: runc is " in done.stderr
    done = labkit("test", "--machine", "mine", environ={**environ, "LABKIT_RUNC": "package"}, cwd=tmp_path)
    assert done.returncode == 2
    assert "asked for: package (LABKIT_RUNC)" in done.stderr
    load(tmp_path)
    done = labkit("test", "--machine", "mine", environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert "asked for: package (by default)" in done.stderr


def test_a_tree_with_changes_that_no_commit_has(tmp_path: Path, environ: dict[str, str]) -> None:
    tree = tmp_path / "tree"
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    process.run(["git", "init", "-q", str(tree)], timeout=60)
    (tree / "main.go").write_text("1")
    process.run([*git, "add", "."], timeout=60)
    process.run([*git, "commit", "-qm", "first"], timeout=60)
    load(tmp_path, 'runc = "./tree"\n')
    (tree / "main.go").write_text("2")
    (tree / "untracked").write_text("")
    done = labkit("test", environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert "has changes that no commit has: main.go" in done.stderr
    assert "or test the program that you have built: --runtime ./FILE" in done.stderr
    for one in ('runc = "./tree"\nruntime = "crun"\n', 'runc = "./tree#HEAD"\n'):
        load(tmp_path, f'{one}provider = "ssh"\n')  # without a host, so that it ends after that
        assert "no commit has" not in labkit("test", environ=environ, cwd=tmp_path).stderr


ASKED: list[tuple[str, dict[str, str], str, str]] = [  # toml, flags, the two values, what undoes it
    ("[machine]\ncpus = 3", {}, "the number of CPUs is 2; asked for: 3 (machine.cpus in {toml})", "take machine.cpus"),
    ('[machine]\nmemory = "1G"', {}, "the memory is 2048M; asked for: 1024M", "take machine.memory out of"),
    ('[machine]\ndisk = "9G"', {}, "machine.disk is 8192M; asked for: 9216M", "take machine.disk out of"),
    ('[machine]\naccelerator = "kvm"', {}, "the accelerator is tcg; asked for: kvm", "take machine.accelerator out"),
    ("", {"provider": "vagrant"}, "the provider is qemu; asked for: vagrant (--provider)", "leave --provider out"),
    ('provider = "vagrant"', {}, "the provider is qemu; asked for: vagrant (provider in", "say --provider qemu"),
    ('[ssh]\nhost = "lab7"', {}, "the provider is qemu; asked for: ssh (ssh.host in", "say --provider qemu"),
    ("", {"host": "lab7"}, "the provider is qemu; asked for: ssh (--host)", "say --provider qemu"),
    ("", {"release": "13"}, "the release is 12; asked for: 13 (--release)", "leave --release out"),
    ('release = "13"', {}, "the release is 12; asked for: 13 (release in", "say --release 12"),
    ("", {"platform": "fedora"}, "the platform is debian 12; asked for: fedora 44 (--platform)", "--platform debian"),
    ('mirror = "http://m"', {}, "mirror is none; asked for: http://m (mirror in", "take mirror out of"),
    ('tools = ["jq", "go"]', {}, "tools is auto; asked for: go jq (tools in", "take tools out of"),
    ('runc = "release:1.3.0"', {}, "runc is package; asked for: release:1.3.0", "take runc out of"),
    ('runtime_tools = "http://h/x.git"', {}, "runtime_tools is auto; asked for: http://h/x.git", "take runtime_tools"),
    ('image = "cloud"', {}, "image is build; asked for: cloud", "take image out of"),
]  # fmt: skip


@pytest.mark.parametrize(("toml", "flags", "said", "undo"), ASKED, ids=[f"{row[0]}{row[1]}" for row in ASKED])
def test_what_differs_stops_test_and_warns_up(
    toml: str, flags: dict[str, str], said: str, undo: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    directory = qemu(load(tmp_path, environ={"LABKIT_HOME": environ["LABKIT_HOME"]}))
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    load(tmp_path, toml)
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    done = labkit("test", "--machine", "mine", *words, environ=environ, cwd=tmp_path)
    assert done.returncode == 2, done
    assert done.stderr.startswith("labkit: machine mine is not what was asked for: ")
    assert said.format(toml=tmp_path / "labkit.toml") in done.stderr
    hint = done.stderr.partition("hint: ")[2]
    assert hint.startswith("./lab destroy --machine mine, and the same command again, makes it as asked; or ")
    assert undo in hint
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert not (tmp_path / "reports").exists()

    settings, observer = config.load({"machine": "mine", **flags}, cwd=tmp_path, environ=environ), Told()
    wanted = settled(settings)
    machine = providers.wanted("mine", wanted, observer, wanted.distro())
    differences = machine.differences(wanted.distro())
    fake = FakeMachine("mine", state=MachineState.HALTED, unlike=differences)
    bring_up(fake, wanted, wanted.distro(), observer)
    assert any(said.format(toml=tmp_path / "labkit.toml") in line for line in observer.warnings)
    assert fake.steps == ["start", "update"]


def test_a_variable_asks_too(tmp_path: Path) -> None:
    qemu(load(tmp_path))
    [one] = found(load(tmp_path, environ={"LABKIT_MACHINE_CPUS": "3"}))
    assert (one.by, one.stops) == ("LABKIT_MACHINE_CPUS", True)
    assert one.remedy.endswith("; or leave LABKIT_MACHINE_CPUS out")


def test_a_network_is_asked_of_a_machine_that_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu(load(tmp_path), network="guarded")
    toml = '[machine]\nnetwork = "closed"'
    assert found(load(tmp_path, toml)) == []  # a crashed one is started with it
    monkeypatch.setattr(QemuMachine, "_state", lambda _: MachineState.HALTED)
    [one] = found(load(tmp_path, toml))
    assert (one.what, one.asked, one.has) == ("the network", "closed", "guarded")


def test_a_fixed_port_is_asked_of_a_machine_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(tmp_path, "[machine]\nssh_port = 2222")
    qemu(settings)
    assert found(load(tmp_path, "[machine]\nssh_port = 2222")) == []  # it gets it when it starts
    monkeypatch.setattr(QemuMachine, "_state", lambda _: MachineState.RUNNING)
    [one] = found(load(tmp_path, "[machine]\nssh_port = 2222"))
    assert (one.what, one.asked, one.has) == ("the SSH port", "2222", "4022")


def test_what_a_suite_needs_and_the_image_lacks(tmp_path: Path) -> None:
    settings = load(tmp_path, suite="validation")
    qemu(settings)
    [one] = found(load(tmp_path, suite="validation"), needs=["runtime-tools"])
    assert str(one) == "runtime-tools is missing; asked for: installed (the validation suite needs it)"
    assert one.stops


def test_an_older_bootstrap_is_only_a_warning(tmp_path: Path) -> None:
    qemu(load(tmp_path), maker="of another labkit")
    [one] = found(load(tmp_path))
    assert not one.stops
    fake, observer = FakeMachine("mine", state=MachineState.RUNNING, unlike=[one]), Told()
    settings = settled(load(tmp_path))
    bring_up(fake, settings, settings.distro(), observer, insist=True)
    assert observer.warnings == [f"machine mine: {one}; {one.remedy}"]


def test_an_older_record_is_not_judged_on_what_it_lacks(tmp_path: Path) -> None:
    settings = load(tmp_path)
    directory = qemu(settings)
    record = json.loads((directory / "record.json").read_text())
    for key in ("made_of", "maker"):
        del record[key]
    (directory / "record.json").write_text(json.dumps(record))
    assert found(load(tmp_path, 'mirror = "http://m"\n[machine]\ndisk = "9G"')) == []
    assert [one.what for one in found(load(tmp_path, "[machine]\ncpus = 9"))] == ["the number of CPUs"]


def test_vagrant_machines(tmp_path: Path) -> None:
    keep(
        load(tmp_path),
        "vm",
        VagrantRecord("fedora", "44", "libvirt", 2, 2048, ready=True, box="none", accelerator="tcg"),
    )
    toml = 'provider = "qemu"\nbox = "/b.box"\n[machine]\ncpus = 3\nmemory = "1G"\naccelerator = "kvm"\n'
    toml += '[vagrant]\nprovider = "virtualbox"'
    assert [(one.what, one.asked, one.has) for one in found(load(tmp_path, toml), "vm")] == [
        ("the provider", "qemu", "vagrant"),
        ("the number of CPUs", "3", "2"),
        ("the memory", "1024M", "2048M"),
        ("the box", "/b.box", "none"),
        ("the accelerator", "kvm", "tcg"),
        ("Vagrant's provider", "virtualbox", "libvirt"),
    ]
    assert found(load(tmp_path, 'tools = ["jq"]'), "vm") == []  # the bootstrap brings it


def test_hosts(tmp_path: Path) -> None:
    keep(load(tmp_path), "lab7", HostRecord("fedora", "44", "lab7", 22, "root", "/key", ready=True))
    toml = '[ssh]\nhost = "me@lab8:2222"\nkey = "/other"\n'
    assert [(one.what, one.asked, one.has) for one in found(load(tmp_path, toml), "lab7")] == [
        ("the host", "me@lab8:2222", "root@lab7:22"),
        ("the key to log in with", "/other", "/key"),
    ]
    assert found(load(tmp_path, host="root@LAB7"), "lab7") == []


# --- whose platform it is


def test_a_machine_that_is_named_keeps_its_own_platform(tmp_path: Path) -> None:
    qemu(load(tmp_path))
    cell = cell_of(load(tmp_path, machine="mine"), SELECTION)
    assert (cell.platform, cell.release, cell.machine) == ("debian", "12", "mine")
    cell = cell_of(load(tmp_path, machine="mine", platform="debian"), SELECTION)
    assert cell.release == "12"
    cell = cell_of(load(tmp_path, machine="mine", platform="fedora"), SELECTION)
    assert (cell.platform, cell.release) == ("fedora", "44")
    keep(load(tmp_path), "vm", VagrantRecord("fedora", "43", "libvirt", 2, 2048, ready=True))
    cell = cell_of(load(tmp_path, machine="vm"), SELECTION)
    assert (cell.platform, cell.release) == ("fedora", "43")
    assert cell_of(load(tmp_path, machine="new"), SELECTION).release == "13"


def test_a_machine_that_is_called_after_a_release_is_asked_to_be_it(tmp_path: Path) -> None:
    qemu(load(tmp_path), "debian-13")
    settings = settled(load(tmp_path))
    [one] = providers.existing("debian-13", settings, Silent()).differences(settings.distro())
    assert str(one) == "the release is 12; asked for: 13 (the machine's name)"


def test_a_cell_asks_for_what_it_names(tmp_path: Path) -> None:
    qemu(load(tmp_path), "m")
    with pytest.raises(UsageError, match=r"the release is 12; asked for: 13 \(the cell\)"):
        run_cell(CELL, load(tmp_path), SilentRun(), None)


def test_the_run_is_of_the_machines_own_platform(tmp_path: Path) -> None:
    fake = suite_prints(OUTPUT)
    fake.platform, fake.release, fake.state = "debian", "12", MachineState.RUNNING
    keep(load(tmp_path), "m", HostRecord("debian", "12", "h", 22, "root", "/key", ready=True))
    settings = settled(load(tmp_path, machine="m"))
    run = run_cell(cell_of(settings, SELECTION), settings, SilentRun(), None, lambda *_: fake).run
    assert (run.machine["platform"], run.machine["release"]) == ("debian", "12")


# --- keys that say nothing to a provider


@pytest.mark.parametrize(
    ("provider", "key", "value"),
    [
        ("vagrant", "machine.ssh_port", "2222"),
        *(("ssh", f"machine.{key}", value) for key, value in (("cpus", "3"), ("memory", "1G"), ("disk", "9G"))),
        ("ssh", "machine.accelerator", "tcg"),
        ("ssh", "machine.ssh_port", "2222"),
        ("vagrant", "machine.network", "closed"),
        ("ssh", "machine.network", "closed"),
        ("ssh", "image", "cloud"),
    ],
)
def test_what_has_no_effect_is_refused(provider: str, key: str, value: str, tmp_path: Path) -> None:
    variable = f"LABKIT_{key.replace('.', '_').upper()}"
    settings = settled(
        load(tmp_path, "", {variable: value}, provider=provider, host="h" if provider == "ssh" else None)
    )
    with pytest.raises(UsageError, match=f"{variable} has no effect with the {provider} provider: "):
        providers.wanted("x", settings, Silent(), settings.distro())
    # In a file it may be there for other commands: the command says it.
    table, _, name = key.rpartition(".")
    quoted = value if value.isdigit() else f'"{value}"'
    toml = f"{f'[{table}]' if table else ''}\n{name} = {quoted}\n"
    settings, observer = (
        settled(load(tmp_path, toml, provider=provider, host="h" if provider == "ssh" else None)),
        Told(),
    )
    providers.wanted("x", settings, observer, settings.distro())
    assert observer.warnings == [line for line in observer.warnings if line.startswith(f"{key} in {tmp_path}")]
    assert len(observer.warnings) == 1


def test_what_a_published_box_has_is_not_for_the_settings(tmp_path: Path) -> None:
    settings = settled(load(tmp_path, "", {"LABKIT_MACHINE_DISK": "9G"}, provider="vagrant", platform="fedora"))
    with pytest.raises(UsageError, match="LABKIT_MACHINE_DISK has no effect with the vagrant provider"):
        providers.wanted("x", settings, Silent(), settings.distro())
    settings = settled(load(tmp_path, "", {"LABKIT_MACHINE_DISK": "9G"}, provider="vagrant"))
    providers.wanted("x", settings, Silent(), settings.distro())  # labkit makes Debian's
    environ = {"LABKIT_MACHINE_ACCELERATOR": "tcg", "LABKIT_VAGRANT_PROVIDER": "virtualbox"}
    settings = settled(load(tmp_path, "", environ, provider="vagrant"))
    with pytest.raises(UsageError, match="virtualbox chooses it"):
        providers.wanted("x", settings, Silent(), settings.distro())


# --- other commands: flags say which machine is meant


@pytest.mark.parametrize("task", ["reset", "halt", "destroy", "ssh"])
@pytest.mark.parametrize(
    ("flag", "value"), [("provider", "vagrant"), ("platform", "fedora"), ("release", "13"), ("host", "root@lab7")]
)
def test_flags_that_a_machine_is_not_are_refused(
    task: str, flag: str, value: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    directory = qemu(load(tmp_path, environ={"LABKIT_HOME": environ["LABKIT_HOME"]}))
    done = labkit(task, "--machine", "mine", f"--{flag}", value, environ=environ, cwd=tmp_path)
    assert (done.returncode, "machine mine is not what was asked for: " in done.stderr) == (2, True), done
    assert directory.exists()


def test_what_a_file_says_does_not_keep_a_machine_from_being_destroyed(tmp_path: Path, environ: dict[str, str]) -> None:
    directory = qemu(load(tmp_path, environ={"LABKIT_HOME": environ["LABKIT_HOME"]}))
    load(tmp_path, 'platform = "fedora"\nprovider = "vagrant"\n[machine]\ncpus = 9\n')
    done = labkit("destroy", "--machine", "mine", environ=environ, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "destroyed mine\n")
    assert not directory.exists()


@pytest.mark.parametrize("flag", ["platform", "release", "provider", "machine", "host"])
def test_all_is_every_machine(flag: str, tmp_path: Path, environ: dict[str, str]) -> None:
    value = {"platform": "debian", "release": "13", "provider": "qemu"}.get(flag, "mine")
    done = labkit("destroy", "--all", f"--{flag}", value, environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"labkit: --all takes no --{flag}\nhint: --all: every machine of this lab\n"


# --- a host of one's own, over a real connection, which answers as a host would and is not touched


class Host:
    """What the host has, and what it was told: scripts are what was uploaded to be run there."""

    def __init__(self, directory: Path) -> None:
        self.server = Server(directory)
        self.server.handler = self.handle
        self.programs = {"python3", "busybox", "runc"}
        self.system = "debian\n12\n"
        self.answer = OUTPUT
        self.slow = 0.0  # seconds that a bootstrap takes
        self.scripts: list[bytes] = []

    def handle(self, channel: paramiko.Channel, command: str) -> None:
        taken = b""
        while "--attached" not in command and (piece := channel.recv(1 << 16)):  # that one ends with its labkit
            taken += piece
        answer, status = b"", 0
        if "/etc/os-release" in command:
            answer = self.system.encode()
        elif LOOK in command:
            words = shlex.split(command)
            answer = has_runtime(words[words.index("sh") :]).stdout
        elif "command -v" in command:
            asked = command.rpartition(" sh ")[2].split()
            answer = "\n".join(name for name in asked if name not in self.programs).encode()
        elif taken.startswith(b"#!/bin/sh"):
            self.scripts.append(taken)
        elif "labkit-spec.pyz" in command and "--runtime" in command:
            answer = self.answer
        elif command.endswith("sh /var/lib/labkit/bootstrap"):
            limit = float(command.split()[2])  # timeout --kill-after=5 LIMIT
            time.sleep(min(self.slow, limit))
            status = 124 if self.slow > limit else 0
        channel.sendall(answer)
        channel.send_exit_status(status)
        channel.close()

    def steps(self) -> list[list[str]]:
        """The steps of each bootstrap that was run there."""
        return [
            [line.split()[3] for line in script.decode().splitlines() if line.startswith("if begin ")]
            for script in self.scripts
        ]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    endpoint = made.server.endpoint()
    toml = f'[ssh]\nhost = "root@127.0.0.1:{made.server.port}"\nkey = "{endpoint.key}"\n'
    toml += f'known_hosts = "{endpoint.known_hosts}"\n'
    (tmp_path / "labkit.toml").write_text(toml)
    yield made
    made.server.stop()


QUICK = ("test", "--only", "QUERY-001")


def test_a_host_that_has_what_the_suite_needs_is_not_changed(
    host: Host, tmp_path: Path, environ: dict[str, str]
) -> None:
    done = labkit(*QUICK, environ=environ, cwd=tmp_path)
    assert done.returncode == 0, done
    assert host.scripts == []
    result = json.loads((tmp_path / "reports/latest/results.json").read_text())["machine"]
    name = f"127.0.0.1-{host.server.port}"
    assert (result["name"], result["provider"], result["platform"], result["release"]) == (name, "ssh", "debian", "12")
    assert labkit(*QUICK, environ=environ, cwd=tmp_path).returncode == 0  # again, now that it is known
    assert host.scripts == []
    [info] = json.loads(labkit("status", "--json", environ=environ, cwd=tmp_path).stdout)
    assert (info["name"], info["state"], info["release"]) == (name, "running", "12")


@pytest.mark.parametrize(
    ("missing", "runtime", "steps"),
    [
        ({"python3"}, "runc", ["python"]),
        ({"runc"}, "runc", ["runc"]),
        ({"busybox", "crun"}, "crun", ["busybox", "crun"]),
        ({"runc"}, "/opt/mine/runc", None),  # no step brings that one
    ],
)  # fmt: skip
def test_test_brings_what_is_missing_and_nothing_else(
    host: Host, tmp_path: Path, environ: dict[str, str], missing: set[str], runtime: str, steps: list[str] | None
) -> None:
    host.programs = {"python3", "busybox", "runc", "crun"} - missing
    done = labkit(*QUICK, "--runtime", runtime, environ=environ, cwd=tmp_path)
    assert done.returncode == 0, done
    assert sorted(map(sorted, host.steps())) == ([steps] if steps else [])


def test_another_suite_brings_its_tools_and_theirs(host: Host, tmp_path: Path, environ: dict[str, str]) -> None:
    labkit("test", "--suite", "validation", environ=environ, cwd=tmp_path)
    [steps] = host.steps()
    assert "runtime-tools" in steps and "go" in steps
    assert not {"docker", "podman", "updates", "packages", "profile", "image-tools"} & set(steps)


def test_what_only_the_bootstrap_brings_is_not_passed_over(host: Host, tmp_path: Path, environ: dict[str, str]) -> None:
    asked = {**environ, "LABKIT_RUNC": "release:1.3.0"}
    for _ in range(2):
        done = labkit(*QUICK, environ=asked, cwd=tmp_path)
        assert done.returncode == 2
        assert "runc is what the host has; asked for: release:1.3.0 (LABKIT_RUNC)" in done.stderr
        assert f"hint: ./lab up --machine 127.0.0.1-{host.server.port} brings it there" in done.stderr
    assert host.scripts == []
    assert "asked for" not in labkit("up", "--yes", environ=asked, cwd=tmp_path).stderr
    assert labkit(*QUICK, environ=asked, cwd=tmp_path).returncode == 0
    assert len(host.scripts) == 1


def test_a_host_is_the_system_that_it_is(host: Host, tmp_path: Path, environ: dict[str, str]) -> None:
    done = labkit(*QUICK, "--platform", "fedora", environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert "the platform is debian 12; asked for: fedora 44 (--platform)" in done.stderr
    assert json.loads(labkit("status", "--json", environ=environ, cwd=tmp_path).stdout) == []
    assert labkit(*QUICK, "--release", "12", environ=environ, cwd=tmp_path).returncode == 0


def test_a_host_of_a_system_that_labkit_does_not_know(host: Host, tmp_path: Path, environ: dict[str, str]) -> None:
    host.system = "arch\n\n"
    for _ in range(2):
        assert labkit(*QUICK, environ=environ, cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "reports/latest/results.json").read_text())["machine"]["platform"] == "arch"
    for words in (("up", "--yes"), (*QUICK, "--runtime", "crun")):  # for which something would have to be installed
        done = labkit(*words, environ=environ, cwd=tmp_path)
        assert done.returncode == 2
        assert "labkit knows no packages for arch, which 127.0.0.1-" in done.stderr
    labkit("destroy", environ=environ, cwd=tmp_path)
    assert labkit(*QUICK, "--platform", "debian", "--runtime", "crun", environ=environ, cwd=tmp_path).returncode == 0
    assert host.steps() == [["crun"]]


def test_up_says_what_it_will_change_and_asks(host: Host, tmp_path: Path, environ: dict[str, str]) -> None:
    refused = labkit("up", environ=environ, cwd=tmp_path)
    name = f"127.0.0.1-{host.server.port}"
    assert refused.returncode == 2
    assert f"the bootstrap of {name} runs these steps there, as root:" in refused.stderr
    assert "docker: Docker, from the distribution, with crun as a second runtime" in refused.stderr
    assert "hint: --yes agrees to it" in refused.stderr
    assert host.scripts == []
    assert json.loads(labkit("status", "--json", environ=environ, cwd=tmp_path).stdout) == []
    agreed = labkit("up", "--yes", environ=environ, cwd=tmp_path)
    assert agreed.returncode == 0, agreed
    [steps] = host.steps()
    assert {"packages", "docker", "podman", "go"} <= set(steps)
    again = labkit("up", environ=environ, cwd=tmp_path)  # nothing is left to be done, so nothing is asked
    assert (again.returncode, "runs these steps" in again.stderr, len(host.scripts)) == (0, False, 1)


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked(host: Host, tmp_path: Path, environ: dict[str, str], answer: bool) -> None:
    settings = config.load(cwd=tmp_path, environ=environ)
    asked: list[str] = []

    class Person(Told):
        def confirm(self, question: str) -> bool:
            asked.append(question)
            return answer

    if answer:
        assert machines.up(settings, Person()).state is MachineState.RUNNING
    else:
        with pytest.raises(UsageError, match="nobody has agreed to that"):
            machines.up(settings, Person())
    assert len(asked) == 1
    assert len(host.scripts) == answer


@pytest.mark.parametrize(
    ("typed", "answer"), [("y\n", True), ("Yes\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_the_console_asks_at_a_terminal(typed: str, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(os.dup(follower), "w") as screen, os.fdopen(follower) as keys:
        monkeypatch.setattr("sys.stdin", keys)
        os.write(leader, typed.encode() or b"\x04")
        assert Console(screen).confirm("Change it?") is answer
    os.close(leader)
    with Path("/dev/null").open() as nobody, Path("/dev/null").open("w") as nowhere:
        monkeypatch.setattr("sys.stdin", nobody)
        assert Console(nowhere).confirm("Change it?") is False


# --- which file was used


def test_doctor_and_verbose_say_which_file_was_used(tmp_path: Path, environ: dict[str, str]) -> None:
    def said() -> tuple[str, str]:
        facts = {fact["name"]: fact["found"] for fact in json.loads(doctor().stdout)}
        return facts["configuration"], labkit("halt", "--verbose", environ=environ, cwd=tmp_path).stderr

    def doctor(*words: str) -> Done:
        return labkit("doctor", "--json", *words, environ=environ, cwd=tmp_path)

    fact, verbose = said()
    assert (fact, "configuration: no labkit.toml\n" in verbose) == ("no labkit.toml", True)
    (tmp_path / "labkit.toml").write_text('platform = "fedora"')
    fact, verbose = said()
    assert (fact, f"configuration: {tmp_path}/labkit.toml\n" in verbose) == (f"{tmp_path}/labkit.toml", True)
    assert "configuration:" not in labkit("halt", environ=environ, cwd=tmp_path).stderr


def test_doctor_says_which_machine_it_is_about(tmp_path: Path, environ: dict[str, str]) -> None:
    def facts(*words: str) -> dict[str, dict[str, object]]:
        done = labkit("doctor", "--json", *words, environ=environ, cwd=tmp_path)
        return {fact["name"]: fact for fact in json.loads(done.stdout)}

    assert facts()["machine"]["found"] == "debian-13: not there yet (provider auto)"
    qemu(load(tmp_path, environ={"LABKIT_HOME": environ["LABKIT_HOME"]}))
    assert facts("--machine", "mine")["machine"]["found"] == "mine: qemu, crashed"
    wrong = facts("--machine", "mine", "--release", "13")["machine"]
    assert (wrong["state"], "the release is 12; asked for: 13" in str(wrong["found"])) == ("warning", True)
    of_host = facts("--host", "root@lab7")
    assert of_host["machine"]["found"] == "lab7: not there yet (provider ssh)"
    assert (of_host["ssh.key"]["state"], of_host["ssh.key"]["required"]) == ("missing", True)
    assert not of_host["qemu-system-x86_64"]["required"]
    assert facts("--provider", "vagrant")["vagrant providers"]["required"]

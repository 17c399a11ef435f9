"""labkit's side of python-vagrant, against a vagrant that behaves as the real one does on a bad day.

What the real one says on a good day: tests/test_vagrant.py.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import HostError, LabError, MachineError, ProgramFailed, UsageError
from labkit.core.observer import Silent
from labkit.core.platforms import Distro, Platform, VagrantProvider
from labkit.io import libvirt, process
from labkit.io.vagrant import Stages, Vagrant, at_work
from labkit.machines import providers
from labkit.machines.base import MachineState
from labkit.machines.vagrant import VagrantMachine, vagrant_provider
from labkit.provision.render import VagrantBox, VagrantValues, vagrantfile
from labkit.usecases.machines import bring_up, halt, status
from tests.pool import BOX, IMAGES, pool

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
    "output", ["", "rubbish\0\n", "1,one,state,\n", "1,one,state, \n", "1,a,state,x\n1,b,state,y\n"]
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


# ---- a long `vagrant up`


class Heard(Silent):
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(self, text: str) -> None:
        self.steps.append(text)


UP = r"""
echo "Bringing machine 'one' up with 'libvirt' provider..."
echo "==> one: Creating domain with the following settings..."
echo "==> one:  -- Name:              one_one"
echo "==> one: Waiting for machine to boot. This may take a few minutes..."
echo "    one: SSH address: 192.168.121.245:22"
sleep 1.2
"""


def test_the_stages_of_vagrant_up_are_told_and_so_is_one_that_goes_on(
    vagrant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.io.vagrant._TELL_EVERY", 0.5)
    heard = Heard()
    stages = Stages("vagrant up", heard, boot=60, download=600)
    says(vagrant, UP).start("libvirt", timeout=60, stages=stages)
    first, second, *still = heard.steps
    assert first == "vagrant up: Creating domain with the following settings"
    assert second == "vagrant up: Waiting for machine to boot. This may take a few minutes"
    name = "'Waiting for machine to boot. This may take a few minutes'"
    assert still[0] == f"vagrant up: still at {name} (one: SSH address: 192.168.121.245:22), 1 s of at most 60 s" or (
        still[0].endswith(", 0 s of at most 60 s")
    )
    assert 1 <= len(still) <= 3


@pytest.mark.parametrize(("stage", "bound"), [("Waiting for machine to boot", 0.5), ("Adding box 'x' (v0)", 3)])
def test_each_stage_has_a_bound_of_its_own(vagrant: Path, stage: str, bound: float) -> None:
    began = time.monotonic()
    with pytest.raises(MachineError, match=f"stopped at .*{stage[:9]}.*: that did not end within") as caught:
        stages = Stages("vagrant up", Silent(), boot=0.5, download=3)
        says(vagrant, f'echo "==> one: {stage}..."; sleep 100 & sleep 100').start("x", timeout=60, stages=stages)
    assert bound <= time.monotonic() - began < bound + 5
    assert f"within {bound:g} s" in caught.value.message
    assert Deadline.after(5).poll(lambda: not process.owned(vagrant.parent))


# ---- how far a machine is


PLATFORM = {"platform": "x", "release": "1", "vagrant": "libvirt", "cpus": 2, "memory_mib": 2048, "provider": "vagrant"}
PINNED = {"host": "127.0.0.1", "port": 9, "user": "vagrant", "key": "/none"}


@dataclass
class There:
    """A machine of that name in a home, as a killed labkit has left it, and a vagrant that writes down its calls."""

    program: Path
    settings: Settings
    observer: Heard

    @property
    def directory(self) -> Path:
        return self.settings.home.machine("one")

    @property
    def environ(self) -> dict[str, str]:
        return {"LABKIT_HOME": str(self.settings.home.path), "LABKIT_LIMITS_BOOT": "2"}

    def left(self, record: dict[str, object], *, state: str = "running", key: bool = True) -> VagrantMachine:
        self.directory.mkdir(parents=True)
        (self.directory / "record.json").write_text(json.dumps({**PLATFORM, **record}))
        (self.directory / "Vagrantfile").write_text("")
        if key:
            (self.directory / "known_hosts").write_text("127.0.0.1 ssh-ed25519 AAAA\n")
        provider = str({**PLATFORM, **record}["vagrant"])
        said = STATUS.replace("state,running", f"state,{state}").replace("libvirt\n", f"{provider}\n")
        (self.program.parent / "out").write_text(said)
        config_ = "Host one\n  HostName 127.0.0.1\n  Port 9\n  User vagrant\n  IdentityFile /none\n"
        (self.program.parent / "config").write_text(config_)
        here = self.program.parent
        script = f'echo "$*" >>{here}/calls\ncase $1 in status) cat {here}/out ;; ssh-config) cat {here}/config ;; esac'
        says(self.program, script)
        return VagrantMachine("one", self.settings, self.observer)

    def calls(self) -> list[str]:
        try:
            lines = (self.program.parent / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if not line.startswith(("status", "ssh-config"))]


@pytest.fixture
def there(vagrant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> There:
    monkeypatch.setattr("labkit.machines.vagrant._AT_ONCE", 0.1)
    limits = "[limits]\nboot = 2\n"
    (tmp_path / "labkit.toml").write_text(limits)
    settings = config.load({}, cwd=tmp_path, environ={"LABKIT_HOME": str(tmp_path / "home")})
    return There(vagrant, settings, Heard())


@pytest.mark.parametrize(
    ("record", "state", "expected"),
    [
        ({}, "running", MachineState.INTERRUPTED),
        ({"up": True}, "running", MachineState.UNFINISHED),
        ({"up": True}, "shutoff", MachineState.UNFINISHED),
        ({"up": True}, "not_created", MachineState.LOST),
        (PINNED, "running", MachineState.UNFINISHED),  # of a labkit that wrote no `up`
        ({**PINNED, "up": True, "plan": "x"}, "running", MachineState.UNFINISHED),
        ({**PINNED, "ready": True}, "running", MachineState.RUNNING),
        ({**PINNED, "ready": True}, "shutoff", MachineState.HALTED),
        ({**PINNED, "ready": True}, "not_created", MachineState.LOST),
    ],
)
def test_the_record_and_vagrant_say_how_far_a_machine_is(
    there: There, record: dict[str, object], state: str, expected: MachineState
) -> None:
    machine = there.left(record, state=state)
    assert machine.status().state is expected
    assert there.calls() == []


# The ids of states in the sources of Vagrant 2.4 and of the libvirt, VMware Desktop, Parallels, UTM and QEMU plugins;
# Hyper-V has Microsoft's VMState in lower case, VirtualBox what `VBoxManage showvminfo --machinereadable` prints.
WORDS = {
    MachineState.RUNNING: [("libvirt", "running"), ("utm", "started")],
    MachineState.HALTED: [
        *(("libvirt", word) for word in ("shutoff", "paused", "pmsuspended")),
        *(("virtualbox", word) for word in ("poweroff", "saved", "paused", "aborted-saved", "teleported")),
        *(("vmware_desktop", word) for word in ("not_running", "suspended")),
        *(("parallels", word) for word in ("stopped", "suspended", "paused")),
        *(("hyperv", word) for word in ("off", "saved", "paused", "hibernated", "fastsaved", "offcritical")),
        *(("utm", word) for word in ("stopped", "paused")),
        *(("docker", "stopped"), ("qemu", "stopped")),
    ],
    MachineState.CRASHED: [("virtualbox", "aborted"), ("libvirt", "crashed")],
    MachineState.UNREACHABLE: [
        *(
            ("virtualbox", word)
            for word in ("gurumeditation", "stuck", "inaccessible", "stopping", "saving", "restoring")
        ),
        *(("libvirt", word) for word in ("shutting_down", "inaccessible")),
        *(("hyperv", word) for word in ("starting", "stopping", "resuming", "runningcritical")),
        *(("parallels", word) for word in ("suspending", "resuming")),
        *(("utm", word) for word in ("starting", "pausing")),
    ],
    MachineState.LOST: [(provider, "not_created") for provider in ("libvirt", "virtualbox", "hyperv")],
    MachineState.UNKNOWN: [
        *(("docker", "host_state_unknown"), ("docker", "preparing"), ("virtualbox", "unknown"), ("libvirt", "nostate")),
        *(("cloud", "TERMINATED"), ("parallels", "Ne spouští se"), ("mine", "frozen-solid")),
    ],
}
SAID = [(provider, word, state) for state, words in WORDS.items() for provider, word in words]


@pytest.mark.parametrize(("provider", "word", "state"), SAID)
def test_what_each_provider_says_is_a_state(there: There, provider: str, word: str, state: MachineState) -> None:
    machine = there.left({**PINNED, "up": True, "ready": True, "vagrant": provider}, state=word)
    info = machine.examine()
    assert info.state is state
    told = state in (MachineState.UNREACHABLE, MachineState.UNKNOWN) or "critical" in word
    assert (info.problem is not None) is told
    assert not told or f"Vagrant calls its state {word!r}: " in str(info.problem)


# A provider whose machine is in the state that a file beside the Vagrantfile names.
STATED = """
class Stated < Vagrant.plugin("2", :provider)
  def initialize(machine)
  end

  def action(name)
  end

  def state
    id = File.read(File.join(__dir__, "state")).to_sym
    Vagrant::MachineState.new(id, id.to_s.gsub("_", " "), "It is #{id},\\nand that is all.")
  end
end

class StatedPlugin < Vagrant.plugin("2")
  name "stated"
  provider(:stated, priority: 100, defaultable: true) { Stated }
end

Vagrant.configure("2") do |config|
  config.vm.define "one"
  config.vm.box = "x"
  config.vm.provider :stated
end
"""


@pytest.mark.parametrize(
    "word", ["not_running", "off", "suspended", "aborted-saved", "saving", "Frozen, solid", "not_created"]
)
def test_the_real_vagrant_says_it_so(there: There, word: str) -> None:
    """Its own machine-readable lines, of a provider that says the word."""
    there.left({**PINNED, "up": True, "ready": True}, state=word)
    there.program.unlink()
    if process.which("vagrant") is None:
        pytest.skip("Vagrant is not installed here")
    machine = VagrantMachine("one", there.settings, there.observer)
    (there.directory / "Vagrantfile").write_text(STATED)
    (there.directory / "state").write_text(word)
    info = machine.examine()
    known = {said: state for _, said, state in SAID}
    assert info.state is known.get(word, MachineState.UNKNOWN)
    if info.state is MachineState.UNKNOWN:
        assert info.problem == f"Vagrant calls its state {word!r}: labkit does not know this word"


@pytest.mark.parametrize(("provider", "word"), [pair[:2] for pair in SAID if pair[2] is not MachineState.LOST])
def test_whatever_it_says_up_never_loses_a_machine(there: There, provider: str, word: str) -> None:
    """Short of not_created: `vagrant up`, which here brings nothing up, and nothing else but a halt."""
    machine = there.left({**PINNED, "up": True, "ready": True, "vagrant": provider}, state=word)
    there.program.write_text(there.program.read_text() + "\ntest $1 != up || exit 1\n")
    with machine.lock(), pytest.raises(MachineError, match=r"vagrant up in .* failed"):
        bring_up(machine, there.settings, distro("libvirt"), there.observer)
    assert there.calls()[-1].startswith("up --no-provision --provider")
    assert "--no-destroy-on-error" in there.calls()[-1]
    assert there.calls()[:-1] == (["halt"] if word == "gurumeditation" else [])
    assert (there.directory / "record.json").exists()


def test_an_unknown_word_is_told_by_name_by_up_and_halt_stops_it(there: There) -> None:
    machine = there.left({**PINNED, "up": True, "ready": True}, state="frozen-solid")
    there.program.write_text(there.program.read_text() + "\ntest $1 != up || exit 1\n")
    with pytest.raises(MachineError):
        bring_up(machine, there.settings, distro("libvirt"), there.observer)
    assert "one: Vagrant calls its state 'frozen-solid': labkit does not know this word" in there.observer.warnings
    settings = config.load({"machine": "one"}, cwd=there.settings.home.machine("one"), environ=there.environ)
    assert halt(settings, Silent()).state is MachineState.UNKNOWN
    assert there.calls()[-1] == "halt"


@pytest.mark.parametrize("word", ["not_running", "off", "suspended", "aborted-saved", "aborted"])
def test_what_does_not_run_is_not_stopped_again(there: There, word: str) -> None:
    there.left({**PINNED, "up": True, "ready": True}, state=word)
    settings = config.load({"machine": "one"}, cwd=there.settings.home.machine("one"), environ=there.environ)
    halt(settings, Silent())
    assert there.calls() == []


def test_a_machine_on_its_way_is_waited_for(there: There) -> None:
    machine = there.left({**PINNED, "up": True, "ready": True}, state="saving")
    here = there.program.parent
    there.program.write_text(
        f"#!/bin/sh\necho $* >>{here}/calls\n"
        f"case $1 in status) sed s/,state,saving/,state,saved/ {here}/out >{here}/new; cat {here}/out; "
        f"mv {here}/new {here}/out ;; up) exit 1 ;; esac\n"
    )
    with pytest.raises(MachineError, match="vagrant up"):
        bring_up(machine, there.settings, distro("libvirt"), there.observer)
    assert "waiting for one, whose state is 'saving'" in there.observer.steps
    calls = (here / "calls").read_text().split("\n")
    assert [call.split()[0] for call in calls if call] == ["status", "status", "up"]
    assert there.observer.warnings == []


def test_one_that_never_gets_there_is_vagrants_to_tell_and_one_that_went_is_told(there: There) -> None:
    machine = there.left({**PINNED, "up": True, "ready": True}, state="stopping")
    began = time.monotonic()
    machine.status()
    machine.halt()
    assert 2 <= time.monotonic() - began < 6, "limits.boot"
    assert there.calls() == ["halt"]
    machine.status()
    (there.program.parent / "out").write_text(STATUS.replace("state,running", "state,not_created"))
    with pytest.raises(MachineError, match="Vagrant no longer has machine one"):
        machine.start()
    assert there.calls() == ["halt"]


def test_memory_that_virtualbox_cannot_restore_is_given_up_by_a_command_that_is_told(there: There) -> None:
    machine = there.left({**PINNED, "up": True, "ready": True, "vagrant": "virtualbox"}, state="aborted-saved")
    ident = there.directory / ".vagrant/machines/one/virtualbox/id"
    ident.parent.mkdir(parents=True)
    ident.write_text("0a1b-2c")
    there.program.write_text(there.program.read_text() + "\ntest $1 != up || exit 1\n")
    with pytest.raises(MachineError) as caught:
        bring_up(machine, there.settings, distro("virtualbox"), there.observer)
    assert "VBoxManage discardstate 0a1b-2c" in (caught.value.hint or "")


def test_a_vagrant_that_cannot_answer_does_not_hide_the_other_machines(there: There) -> None:
    there.left({**PINNED, "up": True, "ready": True})
    there.program.write_text("#!/bin/sh\necho 'the plugin is broken' >&2; exit 1\n")
    (info,) = status(there.settings)
    assert (info.name, info.state) == ("one", MachineState.UNKNOWN)
    assert "vagrant status" in str(info.problem)


@pytest.mark.parametrize("ready", [True, False])
def test_a_machine_that_came_up_is_never_destroyed_by_up(there: There, ready: bool) -> None:
    """Though nothing works: it does not answer, and Vagrant does not bring it up."""
    machine = there.left({**PINNED, "up": True, "ready": ready}, state="shutoff")
    there.program.write_text(there.program.read_text() + "\ntest $1 != up || { echo no network >&2; exit 1; }\n")
    (there.directory / "console.log").write_text("Kernel panic - not syncing: no init\n")
    with machine.lock(), pytest.raises(MachineError, match=r"vagrant up in .* failed") as caught:
        bring_up(machine, there.settings, distro("libvirt"), there.observer)
    assert there.calls() == ["up --no-provision --provider libvirt --no-destroy-on-error"]
    assert (there.directory / "record.json").exists()
    hint = caught.value.hint or ""
    assert "no network" in hint
    assert "its console ends with:\nKernel panic - not syncing: no init" in hint


def test_the_limits_of_today_bound_the_boot(there: There) -> None:
    machine = there.left({**PINNED, "up": True}, state="shutoff")
    box = VagrantBox(VagrantProvider.LIBVIRT, "x", "https://example.org/x.box", "sha256", "0" * 64)
    values = VagrantValues("one", "one", [box], 2, 2048, None, boot_timeout=900)
    (there.directory / "Vagrantfile").write_text(before := vagrantfile(values))
    with pytest.raises(LabError):
        machine.start()
    after = (there.directory / "Vagrantfile").read_text()
    assert after == before.replace("boot_timeout = 900", "boot_timeout = 2")


def test_create_refuses_a_machine_that_is_there(there: There) -> None:
    machine = there.left({**PINNED, "ready": True}, state="shutoff")
    with pytest.raises(MachineError, match="machine one is there: it is not made anew"):
        machine.create(distro("libvirt"))
    assert there.calls() == []


def test_where_no_console_is_kept_the_error_says_so(there: There) -> None:
    machine = there.left({**PINNED, "up": True, "vagrant": "virtualbox"}, state="poweroff")
    there.program.write_text(there.program.read_text() + "\ntest $1 != up || exit 1\n")
    with pytest.raises(MachineError) as caught:
        machine.start()
    assert "the provider virtualbox keeps no console that labkit could show" in (caught.value.hint or "")


def test_an_unfinished_machine_is_not_given_the_bootstrap_of_another_platform(there: There) -> None:
    machine = there.left({**PINNED, "up": True, "platform": "fedora", "release": "44"})
    with pytest.raises(UsageError, match="machine one is fedora 44, and its bootstrap is not finished") as caught:
        machine.update(distro("libvirt"))
    assert "--platform fedora --release 44" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="not finished: there is nothing to reset it to"):
        machine.reset()


def test_a_lost_key_of_a_machine_that_was_ready_is_told_and_not_read_again(there: There) -> None:
    machine = there.left({**PINNED, "ready": True}, key=False)
    with pytest.raises(MachineError, match="known_hosts is missing") as caught:
        machine.start()
    assert "nothing of the machine was touched" in (caught.value.hint or "")
    assert not [call for call in there.calls() if call.startswith(("ssh", "destroy"))]


@pytest.mark.parametrize("damage", ["", "[]", None])
def test_a_damaged_record_is_told_and_destroy_asks_vagrant(there: There, damage: str | None) -> None:
    there.left({"ready": True})
    record = there.directory / "record.json"
    record.unlink() if damage is None else record.write_text(damage)
    machine = providers.existing("one", there.settings, Silent())
    assert machine.status().state is MachineState.DAMAGED
    with pytest.raises(MachineError, match="so labkit does not know what machine one is"):
        machine.create(distro("libvirt"))
    assert there.directory.exists()
    machine.destroy()
    assert there.calls() == ["destroy --force"]
    assert not there.directory.exists()


def test_a_vagrant_that_a_killed_labkit_left_at_work_is_waited_for(there: There) -> None:
    machine = there.left({**PINNED, "up": True})
    there.program.write_text("#!/bin/sh\nsleep 0.7\necho done >>$0.said\n")
    child = subprocess.Popen([there.program, "snapshot", "save"], env={process.OWNER: str(there.directory)})
    try:
        assert Deadline.after(5).poll(lambda: at_work(there.directory) == [child.pid])
        assert at_work(there.settings.home.machine("other")) == []
        with pytest.raises(MachineError):
            machine.start()
    finally:
        child.wait()
    assert Path(f"{there.program}.said").read_text().startswith("done\n")
    # Its shell may have a program of its own by then.
    waiting = [step for step in there.observer.steps if step.startswith(f"waiting for Vagrant (process {child.pid}")]
    assert len(waiting) == 1
    assert waiting[0].endswith("), which an interrupted command left at work")


# ---- libvirt's volumes


def test_volumes_are_read_as_virsh_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool(tmp_path, {BOX: "", "one_one.img": BOX}, monkeypatch)
    base, disk = libvirt.volumes()
    assert base.name == BOX
    assert base.name.startswith(libvirt.prefix_of("labkit/debian-13-x"))
    assert disk.backing == base.path == f"{IMAGES}/{BOX}"
    assert (disk.name, disk.pool, disk.size, base.backing) == ("one_one.img", "default", 1 << 20, "")
    libvirt.delete(disk)
    assert libvirt.pools(active=False) == []
    assert libvirt.disk_usage("none") == 0


def test_a_libvirt_that_does_not_answer_is_an_error_or_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    if not libvirt.there():
        pytest.skip("virsh is not installed")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///none.xml")
    with pytest.raises(ProgramFailed, match="virsh failed") as caught:
        libvirt.volumes()
    assert "none.xml" in (caught.value.hint or "")
    assert libvirt.disk_usage("x") == 0


@pytest.mark.parametrize("used", [True, False])
def test_half_a_box_in_the_pool_is_removed_before_vagrant_takes_it_for_whole(
    there: There, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    pool(
        tmp_path,
        {
            BOX: "",
            "other.img": BOX if used else "",
            "labkit-VAGRANTSLASH-debian-13-y_vagrant_box_image_0_1_box.img": "",
        },
        monkeypatch,
    )
    machine = there.left({})
    there.settings.home.vagrant.mkdir(parents=True)
    box = VagrantBox(None, "labkit/debian-13-x", "/x.box")
    removed = [] if used else [f"removing the volume {BOX}, which may be incomplete"]
    with machine._box(box, VagrantProvider.LIBVIRT):
        assert there.observer.steps == removed
    there.observer.steps.clear()
    with machine._box(box, VagrantProvider.LIBVIRT):  # known to be whole now
        assert there.observer.steps == []


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

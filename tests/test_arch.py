"""Machines of another architecture: what is asked for, what is refused at once, and what QEMU is started with."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from labkit.core import arch as arches
from labkit.core import config
from labkit.core.arch import Arch
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import HostError, MachineError, UsageError
from labkit.core.observer import Silent
from labkit.host.facts import examine
from labkit.images import chroot
from labkit.images.build import packaged, recipe
from labkit.io import process
from labkit.io.console import console
from labkit.io.mmdebstrap import apart
from labkit.io.network import Network
from labkit.machines import choice, identity, providers
from labkit.machines.host import HostMachine
from labkit.matrix import plan
from labkit.qemu import accelerator
from labkit.qemu.hardware import Boot, Hardware, argv, here
from labkit.qemu.launch import ended, launch
from labkit.results.json import from_json
from labkit.store.past import key_of
from labkit.subjects import runtimes
from labkit.usecases import subject
from labkit.usecases.machines import settled
from labkit.usecases.test import cell_of
from tests.conftest import ROOT, Lab

HERE = arches.here() or Arch.AMD64
OTHER = next(arch for arch in Arch if arch is not HERE)
foreign = pytest.mark.skipif(HERE is not Arch.AMD64, reason="on this host arm64 is no other architecture")


def load(directory: Path, toml: str = "", environ: dict[str, str] | None = None, **flags: object) -> Settings:
    (directory / "labkit.toml").write_text(toml)
    return config.load(flags, cwd=directory, environ={"HOME": str(directory), **(environ or {})})


@pytest.mark.parametrize(
    ("word", "arch"),
    [
        ("arm64", Arch.ARM64),
        ("aarch64", Arch.ARM64),
        ("x86_64", Arch.AMD64),
        ("AMD64", Arch.AMD64),
        ("x86-64", Arch.AMD64),
    ],
)
def test_an_architecture_goes_by_all_its_names(tmp_path: Path, word: str, arch: Arch) -> None:
    assert load(tmp_path, arch=word).arch is arch
    assert load(tmp_path, f'[machine]\narch = "{word}"\n').arch is arch
    assert load(tmp_path, environ={"LABKIT_MACHINE_ARCH": word}).arch is arch


def test_it_is_this_hosts_where_nobody_says(tmp_path: Path) -> None:
    assert load(tmp_path).arch is HERE
    assert load(tmp_path, arch="auto").arch is HERE
    assert load(tmp_path).distro().arch is HERE


@pytest.mark.parametrize("word", ["sparc", "armhf", "", "arm"])
def test_an_unknown_one_is_told_with_those_there_are(tmp_path: Path, word: str) -> None:
    with pytest.raises(UsageError, match=r"machine\.arch.* must be 'auto', 'amd64' or 'arm64'"):
        load(tmp_path, f"[machine]\narch = {json.dumps(word)}\n")


def test_a_machine_is_called_after_its_architecture_where_that_is_not_amd64(tmp_path: Path) -> None:
    settings = load(tmp_path, arch="arm64", suite="spec")
    cell = cell_of(settings, Selection())
    assert (cell.machine, cell.arch) == ("debian-13-arm64", "arm64")
    assert cell.key == "debian-13-arm64/auto/runc/spec"
    back = settings.of_cell(cell)
    assert back.distro().name == "debian-13-arm64"
    amd64 = cell_of(load(tmp_path, arch="amd64"), Selection())
    assert (amd64.machine, amd64.key) == ("debian-13", "debian-13/auto/runc/spec")
    assert Cell("debian", "13", "uml", "", "runc", "spec").key == "debian-13/uml/runc/spec"


def test_a_host_of_ones_own_is_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--arch has no effect with the ssh provider"):
        settings = load(tmp_path, arch="arm64", provider="ssh", host="root@lab7")
        providers.wanted("lab7", settings, Silent(), settings.distro())
    cell = cell_of(load(tmp_path, '[machine]\narch = "arm64"\n', host="root@lab7"), Selection())
    assert cell.arch == "amd64"


@foreign
@pytest.mark.parametrize("provider", ["uml", "vagrant"])
def test_a_provider_that_emulates_nothing_says_so_at_once(tmp_path: Path, provider: str) -> None:
    settings = load(tmp_path, arch="arm64", provider=provider)
    with pytest.raises(UsageError, match=rf"the {provider} provider makes machines of this host's own") as caught:
        providers.wanted("m", settings, Silent(), settings.distro())
    assert "--provider qemu" in str(caught.value.hint)


@foreign
def test_kvm_of_another_architecture_is_refused(tmp_path: Path) -> None:
    settings = load(tmp_path, arch="arm64")
    assert accelerator.choose("auto", settings.home, Arch.ARM64) == "tcg"
    with pytest.raises(HostError, match=r"KVM does not work on this host: it runs no arm64 guest on this x86_64 host"):
        accelerator.choose("kvm", settings.home, Arch.ARM64)


@foreign
def test_left_open_it_is_emulated_and_told(tmp_path: Path) -> None:
    settings = load(tmp_path, arch="arm64")
    provider, why = choice.best(settings, settings.distro(), Silent())
    assert provider == "qemu"
    assert why == "Debian 13 (arm64) is of another architecture than this host, so it is emulated"
    assert {"qemu-system-aarch64", "qemu-aarch64-static", "mmdebstrap"} <= {
        *choice.tools(settings, settings.distro(), "qemu")
    }
    cloud = load(tmp_path, arch="arm64", platform="fedora")
    assert "qemu-aarch64-static" not in choice.tools(cloud, cloud.distro(), "qemu")


@foreign
def test_doctor_asks_for_what_the_architecture_needs(tmp_path: Path) -> None:
    facts = {fact.name: fact for fact in examine(load(tmp_path, arch="arm64"))}
    assert facts["qemu-system-aarch64"].required
    assert "qemu-system-x86_64" not in facts
    assert "it runs no arm64 guest here" in facts["kvm"].found
    assert "qemu-system-aarch64" not in {fact.name for fact in examine(load(tmp_path, arch="amd64"))}


def test_a_missing_qemu_names_its_package(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    script = (
        "from labkit.host.facts import package_manager, program_fact, read_data as r; d = r(); "
        "name = 'qemu-system-aarch64'; print(program_fact(name, d.programs[name], package_manager(d), building=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": str(bare), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "FactState.MISSING" in done.stdout, done.stderr
    if Path("/etc/debian_version").exists():
        assert "qemu-system-arm" in done.stdout


FEW = """title = "Mine"
family = "debian"
default = "1"
[releases.1.cloud_image]
url = "https://example.org/1.qcow2"
sha256 = "{}"
user = "me"
""".format("0" * 64)


@pytest.mark.parametrize("provider", ["auto", "qemu"])
def test_a_release_without_an_image_of_it_is_told_at_once(tmp_path: Path, provider: str) -> None:
    (tmp_path / "platforms/mine").mkdir(parents=True)
    (tmp_path / "platforms/mine/platform.toml").write_text(FEW)
    settings = load(tmp_path, 'platforms = "platforms"\nplatform = "mine"\n', arch="arm64", provider=provider)
    with pytest.raises(UsageError, match=r"Mine 1 has no image for arm64") as caught:
        providers.wanted("m", settings, Silent(), settings.distro())
    assert "it has one for amd64" in str(caught.value.hint)


def test_a_night_has_cells_of_it(tmp_path: Path) -> None:
    toml = '[matrix]\nplatforms = ["debian-13", "debian-sid-arm64", "fedora-*-aarch64"]\nsuites = ["spec"]\n'
    settings = load(tmp_path, toml, arch="amd64")
    matrix = plan.load(settings)
    assert matrix is not None
    cells = {cell.key: problem for cell, problem in plan._cells(matrix, matrix, settings)}
    assert {"debian-13/auto/runc/spec", "debian-sid-arm64/auto/runc/spec", "fedora-rawhide-arm64/auto/runc/spec"} <= {
        *cells
    }
    assert not any(cells.values())
    uml = load(tmp_path, toml + 'providers = ["uml"]\n', arch="amd64")
    of_uml = plan.load(uml)
    assert of_uml is not None
    assert (
        "architecture"
        in dict((cell.key, problem) for cell, problem in plan._cells(of_uml, of_uml, uml))[
            "debian-sid-arm64/uml/runc/spec"
        ]
    )


def hardware(arch: Arch, used: str = "tcg", level: str = "") -> Hardware:
    kind = {Arch.AMD64: "pc-q35-7.2", Arch.ARM64: "virt-7.2"}[arch]
    return Hardware(used, 2, 2048, kind, Network.GUARDED, "QEMU 7.2.22", "x86_64", arch, level)


def test_what_a_guest_of_arm64_runs_on() -> None:
    boot = Boot(Path("/k"), Path("/i"))
    words = argv(hardware(Arch.ARM64), boot, Path("disk"), port=0, uuid="")
    line = " ".join(words)
    assert words[0] == "qemu-system-aarch64"
    assert "-cpu max,pauth-impdef=on" in line
    assert "-machine virt-7.2,gic-version=3" in line
    assert "console=ttyAMA0" in line
    assert "vmgenid" not in line  # QEMU has none for it
    kvm = " ".join(argv(hardware(Arch.ARM64, "kvm"), boot, Path("disk"), port=0, uuid=""))
    assert "-accel kvm -cpu host" in kvm
    assert "gic-version=max" in kvm


def test_a_cpu_that_programs_need_is_given_whole() -> None:
    plain, needed = (
        " ".join(argv(hardware(Arch.AMD64, level=level), Boot(), Path("d"), port=0, uuid=""))
        for level in ("", "x86-64-v2")
    )
    assert "-cpu max,-cx16" in plain
    assert "-cpu max " in needed
    assert hardware(Arch.AMD64).key != hardware(Arch.AMD64, level="x86-64-v2").key


def test_live_states_of_an_older_labkit_are_still_good() -> None:
    old = ("tcg", 2, 2048, "pc-q35-7.2", Network.GUARDED, "QEMU 7.2.22", "x86_64")
    new = hardware(Arch.AMD64)
    shape = (old, argv(new, Boot(), Path("disk"), port=0, uuid=""))
    assert new.key == hashlib.sha256(repr(shape).encode()).hexdigest()[:16]


@pytest.mark.needs("qemu-system-aarch64")
def test_what_is_to_tell_whether_kvm_runs_arm64_runs(tmp_path: Path) -> None:
    """Emulated here; the same bytes under KVM end QEMU in the same way, or not at all."""
    qemu = process.which("qemu-system-aarch64")
    assert qemu is not None
    assert accelerator._try(qemu, Arch.ARM64, tmp_path, "tcg") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kvm", "tcg", "why"),
    [
        ("exit 33", "exit 1", None),
        ("sleep 2.1; exit 33", "exit 33", "a test guest took 2"),
        ("sleep 2.1; exit 33", "sleep 1; exit 33", None),  # a busy host is slow both ways
        ("sleep 2.1; exit 33", "exit 1", None),
        ("echo no such device >&2; exit 1", "exit 33", "no such device"),
    ],
)
def test_a_kvm_that_is_slower_than_emulation_is_none(tmp_path: Path, kvm: str, tcg: str, why: str | None) -> None:
    emulator = tmp_path / "qemu"
    emulator.write_text(f'#!/bin/sh\ncase "$2" in kvm) {kvm};; *) {tcg};; esac\n')
    emulator.chmod(0o755)
    reason = accelerator._compare(emulator, Arch.AMD64, tmp_path)
    assert reason is None if why is None else reason and why in reason


def test_recipes_of_amd64_are_what_they_were(tmp_path: Path) -> None:
    amd64 = recipe((settings := load(tmp_path, arch="amd64")).distro(), settings)
    assert "arch" not in amd64.to_json()
    assert "linux-image-cloud-amd64" in amd64.packages
    arm64 = recipe((settings := load(tmp_path, arch="arm64")).distro(), settings)
    assert arm64.to_json()["arch"] == "arm64"
    assert "linux-image-cloud-arm64" in arm64.packages
    assert arm64.key != amd64.key


@foreign
def test_an_image_of_it_is_built_apart(tmp_path: Path) -> None:
    wanted = recipe((settings := load(tmp_path, arch="arm64")).distro(), settings)
    words = [str(word) for word in packaged(wanted, tmp_path / "script", tmp_path / "tar")]
    assert {"--architectures=arm64", "--mode=root", "--skip=check/qemu"} <= {*words}
    begin, environment = apart(tmp_path, Path("/usr/bin/qemu-aarch64-static"))
    assert str(begin[1]).endswith("/foreign.sh")
    assert environment["TMPDIR"] == str(tmp_path / "tmp")


@foreign
@pytest.mark.needs("qemu-aarch64-static")
def test_programs_of_it_run_there_and_the_host_knows_nothing_of_it(tmp_path: Path) -> None:
    """A program of arm64 made here: exit_group(7), by way of `movz x0,#7; movz x8,#94; svc #0`."""
    code = bytes.fromhex("e00080d2c80b80d2010000d4")
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + (1).to_bytes(4, "little")
    head += (0x400078).to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(8) + bytes(4)
    head += b"".join(n.to_bytes(2, "little") for n in (64, 56, 1, 0, 0, 0))
    size = (120 + len(code)).to_bytes(8, "little")
    load_all = (1).to_bytes(4, "little") + (5).to_bytes(4, "little") + bytes(8)
    load_all += (0x400000).to_bytes(8, "little") * 2 + size * 2 + (0x1000).to_bytes(8, "little")
    program = tmp_path / "program"
    program.write_bytes(head + load_all + code)
    program.chmod(0o755)
    listed = Path("/proc/sys/fs/binfmt_misc")
    before = sorted(listed.iterdir())
    interpreter = process.which("qemu-aarch64-static")
    begin, environment = apart(tmp_path, interpreter)
    done = process.run([*begin, program], timeout=60, env=environment, check=False)
    assert done.status == 7, done.stderr
    whole = process.run(
        [*begin, "sh", "-c", "id -u; chown 1234 $TMPDIR; stat -c %u $TMPDIR"], timeout=60, env=environment
    )
    assert whole.stdout.split() == ["0", "1234"]  # all ids are there: packages own files
    assert sorted(listed.iterdir()) == before


def keep(settings: Settings, name: str, **values: object) -> Path:
    file = settings.home.machine(name) / "record.json"
    file.parent.mkdir(parents=True)
    record = {
        "platform": "debian", "release": "13", "image": "none", "memory_mib": 2048, "ready": True, "port": 0,
        "hostname": name, "machine_id": "", "host_private": "", "host_public": "", "accelerator": "tcg", "cpus": 2,
        "provider": "qemu",
    }  # fmt: skip
    file.write_text(json.dumps({**record, **values}))
    return file


def test_a_machine_that_is_there_says_what_it_is(tmp_path: Path) -> None:
    settings = load(tmp_path, machine="mine")
    keep(settings, "mine", arch="arm64")
    keep(settings, "old")  # of a labkit that made amd64 alone
    assert settled(settings).arch is Arch.ARM64
    assert settled(load(tmp_path, machine="old")).arch is Arch.AMD64 or HERE is Arch.ARM64
    assert providers.existing("mine", settings, Silent()).status().arch == "arm64"
    asked = settled(load(tmp_path, machine="mine", arch="amd64"))
    [found] = providers.existing("mine", asked, Silent()).differences(asked.distro())
    assert (found.what, found.asked, found.has) == ("the architecture", "amd64", "arm64")
    assert "--arch arm64" in found.remedy


def test_a_record_with_another_word_is_damaged(tmp_path: Path) -> None:
    settings = load(tmp_path, machine="mine")
    keep(settings, "mine", arch="sparc")
    info = providers.existing("mine", settings, Silent()).status()
    assert info.state.value == "damaged"
    with pytest.raises(MachineError, match=r"arch = 'sparc', of which labkit makes no machines"):
        providers.existing("mine", settings, Silent()).endpoint()


def test_twins_do_not_share_their_random_numbers() -> None:
    assert "0x5207" in identity.RESEED  # RNDRESEEDCRNG: there is no device that tells the guest


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.emulated
@pytest.mark.needs("qemu-system-aarch64")
def test_a_disk_of_arm64_is_booted_by_firmware(tmp_path: Path) -> None:
    """A cloud image has a boot loader of its own. This disk is empty, which the firmware says of it."""
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk.qcow2", "64M"], timeout=60)
    on = here("tcg", 1, 512, Network.CLOSED, arch=Arch.ARM64)
    with ended(tmp_path), launch(tmp_path, on, Boot(), tmp_path / "disk.qcow2") as monitor:
        monitor.execute("cont")
        assert Deadline.after(300).poll(lambda: b"failed to load Boot" in console(tmp_path), every=0.5)
    assert b"PciRoot(0x0)/Pci(0x1,0x0): Not Found" in console(tmp_path)


TEN = "STATE-001,QUERY-001,CREATE-001,START-001,KILL-001,DELETE-001,MOUNT-001,PROC-001,CAP-001,NS-001"


@foreign
@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.emulated
@pytest.mark.timeout(4000)
@pytest.mark.needs("qemu-system-aarch64", "qemu-aarch64-static")
def test_a_machine_of_arm64_boots_and_runs_checks(tmp_path: Path) -> None:
    """Three quarters of an hour on two cores with a load of 20; its CPU time is nine minutes."""
    slow = {"LABKIT_LIMITS_BOOT": "1500", "LABKIT_LIMITS_BUILD": "3000"}
    lab = Lab(tmp_path / "home", tmp_path, slow)
    try:
        lab.run("up", "--arch", "arm64", timeout=3500)
        lab.run("test", "--arch", "arm64", "--only", TEN, "--json", timeout=1500)
        [report] = tmp_path.glob("reports/*/results.json")
        run = json.loads(report.read_bytes())
        assert run["machine"]["arch"] == "arm64"
        assert Counter(one["verdict"] for one in run["results"]) == {"pass": 10}
        assert key_of(from_json(run)) == "debian-13-arm64/qemu/runc/spec"
        assert "aarch64" in lab.run("ssh", "--arch", "arm64", "--", "uname", "-m").stdout
        seen = set()
        for _ in range(2):  # restored from one state, they would draw the same numbers
            lab.run("reset", "--arch", "arm64", timeout=1500)
            seen.add(lab.run("ssh", "--arch", "arm64", "--", "od", "-An", "-N16", "-tx1", "/dev/urandom").stdout)
        assert len(seen) == 2
    finally:
        lab.run("destroy", "--arch", "arm64", status=None)


def test_a_host_of_a_minor_release_is_of_its_release(tmp_path: Path) -> None:
    machine = HostMachine("lab7", load(tmp_path, host="root@lab7"), Silent())
    assert machine._release("almalinux", "9.6") == "9"
    assert machine._release("ubuntu", "24.04") == "24.04"
    assert machine._release("almalinux", "8.10") == "8.10"  # of which there is no file
    assert machine._release("gentoo", "2.17") == "2.17"


@foreign
def test_what_cannot_run_there_is_told_before_a_machine_is_made(tmp_path: Path) -> None:
    settings = load(tmp_path, arch="arm64")
    with pytest.raises(
        UsageError, match=r"runtimes are built natively, and Debian 13 \(arm64\) is of another"
    ) as caught:
        chroot.ensure(settings.distro(), ["gcc"], settings, Silent(), Deadline.after(5))
    assert "--runtime ./FILE" in str(caught.value.hint)
    program = process.which("true")
    assert program is not None
    shutil.copy(program, tmp_path / "mine")
    with pytest.raises(UsageError, match="aarch64"):
        subject.find(runtimes.word("./mine", tmp_path), settings, settings.distro(), Silent())

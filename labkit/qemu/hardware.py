"""The virtual hardware of a QEMU machine, as an argv list. Pure but for asking QEMU its version."""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import astuple, dataclass
from pathlib import Path

from labkit.core.arch import Arch
from labkit.core.errors import HostError
from labkit.io import process
from labkit.io.network import FORWARDED, Network

MONITOR = "qmp.sock"
AGENT = "agent.sock"
LOG = "qemu.log"
AGENT_PORT = "org.labkit.0"
# Where packages put the firmware that boots disks of arm64 (Debian's qemu-efi-aarch64, edk2's of Fedora and Arch,
# QEMU's own build of it).
_FIRMWARE = (
    "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
    "/usr/share/edk2/aarch64/QEMU_EFI.fd",
    "/usr/share/AAVMF/AAVMF_CODE.fd",
    "/usr/share/qemu/edk2-aarch64-code.fd",
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """Everything that a live state depends on: it can be restored on nothing else."""

    accelerator: str
    cpus: int
    memory_mib: int
    machine: str  # QEMU's machine type, with its version: a newer QEMU has the older types too
    network: Network
    qemu: str  # version line
    host: str  # under KVM the guest sees this host's CPU
    arch: Arch = Arch.AMD64
    level: str = ""  # what its programs need of a CPU, such as x86-64-v2

    @property
    def key(self) -> str:
        # The argv belongs to the key: a device added in a later labkit makes old states unusable.
        shape = (
            astuple(self)[:-2],  # that argv has the others
            argv(self, Boot(), Path("disk"), port=0, uuid=""),
        )
        return hashlib.sha256(repr(shape).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Boot:
    """Direct kernel boot, or the disk's own boot loader where kernel is None."""

    kernel: Path | None = None
    initrd: Path | None = None
    seed: Path | None = None  # a cloud-init ISO, for the first boot of a cloud image


def here(
    accelerator: str,
    cpus: int,
    memory_mib: int,
    network: Network,
    machine: str = "",
    arch: Arch = Arch.AMD64,
    level: str = "",
) -> Hardware:
    """The hardware that this host's QEMU makes; machine: its type, else the newest. HostError where there is no QEMU of
    that architecture.
    """
    if process.which(arch.emulator) is None:
        raise HostError(f"{arch.emulator} is not installed", hint="./lab doctor names the package that has it")
    version = process.run([arch.emulator, "--version"], timeout=20).stdout.splitlines()[0]
    host = _cpu() if accelerator == "kvm" else platform.machine()
    return Hardware(
        accelerator, cpus, memory_mib, machine or _newest(version, arch), network, version, host, arch, level
    )


def firmware() -> Path:
    """What boots a disk of arm64 whose kernel is not given to QEMU. HostError where there is none."""
    found = next((Path(path) for path in _FIRMWARE if Path(path).exists()), None)
    if found is None:
        raise HostError(
            "no UEFI firmware for arm64, which boots cloud images, is installed",
            hint="install qemu-efi-aarch64 (Debian, Ubuntu), edk2-aarch64 (Fedora) or edk2-armvirt (Arch)",
        )
    return found


def _newest(version: str, arch: Arch) -> str:
    """The machine of a QEMU's release, by its version line. What is between two releases has none of its own yet."""
    plain, numbered = {Arch.AMD64: ("q35", "pc-q35"), Arch.ARM64: ("virt", "virt")}[arch]
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", version)
    return f"{numbered}-{found[1]}.{found[2]}" if found and int(found[3]) < 50 else plain


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = ("model name", "flags", "microcode", "CPU ", "Features")  # the last two: of arm64
    return " ".join(sorted({line for line in lines if line.startswith(told)}))


def argv(
    hardware: Hardware,
    boot: Boot,
    disk: Path,
    *,
    port: int,
    uuid: str,
) -> list[str]:
    """The command line; QEMU is to be started in the machine's directory, where its sockets and logs go.

    port: on 127.0.0.1 for SSH, 0 for any free one; a guarded network has its forwarding from labkit.io.network.
    """
    size = f"{hardware.memory_mib}M"
    kvm, arm = hardware.accelerator == "kvm", hardware.arch is Arch.ARM64
    # QEMU 7.2 emulates cmpxchg16b wrongly: Debian 13's kernel panics now and then (list_add corruption). Programs that
    # are said to need x86-64-v2, which has it, do not even start without: their libc looks. Half of the time of arm64,
    # emulated, goes into its own way to sign pointers.
    emulated = "max,pauth-impdef=on" if arm else "max" if hardware.level else "max,-cx16"
    cpu = "host" if kvm else emulated
    accelerator = "kvm" if kvm else "tcg,thread=multi"
    words = [hardware.arch.emulator, "-accel", accelerator, "-cpu", cpu, "-smp", str(hardware.cpus), "-m", size]
    # The arm64's default interrupt controller has room for eight CPUs.
    machine = f"{hardware.machine},gic-version={'max' if kvm else '3'}" if arm else hardware.machine
    words += ["-machine", machine, "-nodefaults", "-no-user-config"]
    words += ["-display", "none", "-uuid", uuid, "-S"]
    # no-flush spares the host's disk: what is written outlives QEMU in the host's cache, though no crash of the host.
    words += ["-blockdev", f"driver=file,filename={_comma(disk)},node-name=file0,cache.no-flush=on"]
    words += ["-blockdev", "driver=qcow2,file=file0,node-name=disk0,discard=unmap,cache.no-flush=on"]
    words += ["-device", "virtio-blk-pci,drive=disk0"]
    netdev = {
        Network.GUARDED: f"user,id=net0,ipv6=off,hostfwd=tcp:{FORWARDED}-:22",
        Network.CLOSED: f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        Network.OPEN: f"user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:22",
    }
    words += ["-netdev", netdev[hardware.network], "-device", "virtio-net-pci,netdev=net0,romfile="]
    # The generation id changes with each start, which makes the guest's kernel reseed its random pool.
    # QEMU has no such device for arm64: see identity.
    generation = [] if arm else ["-device", "vmgenid,guid=auto"]
    words += ["-device", "virtio-rng-pci", *generation, "-device", "virtio-serial-pci"]
    # A kernel that panics says so on this device, and QEMU ends: what is dead is not taken for running.
    words += ["-device", "pvpanic-pci", "-action", "panic=shutdown"]
    words += ["-chardev", f"socket,id=agent,path={AGENT},server=on,wait=off"]
    words += ["-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"]
    words += ["-chardev", f"socket,id=qmp,path={MONITOR},server=on,wait=off", "-mon", "chardev=qmp,mode=control"]
    # stdout is a pipe to what keeps the end of it in CONSOLE: a guest can print without end.
    words += ["-chardev", "file,id=console,path=/dev/stdout,append=on", "-serial", "chardev:console"]
    if boot.kernel and boot.initrd:
        # A kernel that goes on after an oops runs suites with who knows which of its locks held.
        console = "ttyAMA0" if arm else "ttyS0"
        line = f"root=/dev/vda rw console={console} net.ifnames=0 audit=0 mitigations=off oops=panic quiet"
        words += ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", line]
    if boot.seed:
        words += ["-drive", f"file={_comma(boot.seed)},if=virtio,format=raw,readonly=on"]
    return words


def _comma(path: Path | None) -> str:
    return str(path).replace(",", ",,")

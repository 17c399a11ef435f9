"""The virtual hardware of a QEMU machine, as an argv list. Pure but for asking QEMU its version."""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import astuple, dataclass
from pathlib import Path

from labkit.io import process
from labkit.io.network import FORWARDED, Network

MONITOR = "qmp.sock"
AGENT = "agent.sock"
LOG = "qemu.log"
AGENT_PORT = "org.labkit.0"


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

    @property
    def key(self) -> str:
        # The argv belongs to the key: a device added in a later labkit makes old states unusable.
        shape = (
            astuple(self),
            argv(self, Boot(), Path("disk"), port=0, uuid=""),
        )
        return hashlib.sha256(repr(shape).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Boot:
    """Direct kernel boot, or the disk's own boot loader where kernel is None."""

    kernel: Path | None = None
    initrd: Path | None = None
    seed: Path | None = None  # a cloud-init ISO, for the first boot of a cloud image


def here(accelerator: str, cpus: int, memory_mib: int, network: Network, machine: str = "") -> Hardware:
    """The hardware that this host's QEMU makes; machine: its type, else the newest."""
    version = process.run(["qemu-system-x86_64", "--version"], timeout=20).stdout.splitlines()[0]
    host = _cpu() if accelerator == "kvm" else platform.machine()
    return Hardware(accelerator, cpus, memory_mib, machine or _newest(version), network, version, host)


def _newest(version: str) -> str:
    """The q35 of a QEMU's release, by its version line. What is between two releases has none of its own yet."""
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", version)
    return f"pc-q35-{found[1]}.{found[2]}" if found and int(found[3]) < 50 else "q35"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "microcode"))}))


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
    # QEMU 7.2 emulates cmpxchg16b wrongly: Debian 13's kernel panics now and then (list_add corruption).
    cpu = "host" if hardware.accelerator == "kvm" else "max,-cx16"
    accelerator = "kvm" if hardware.accelerator == "kvm" else "tcg,thread=multi"
    words = ["qemu-system-x86_64", "-accel", accelerator, "-cpu", cpu, "-smp", str(hardware.cpus), "-m", size]
    words += ["-machine", hardware.machine, "-nodefaults", "-no-user-config"]
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
    words += ["-device", "virtio-rng-pci", "-device", "vmgenid,guid=auto", "-device", "virtio-serial-pci"]
    # A kernel that panics says so on this device, and QEMU ends: what is dead is not taken for running.
    words += ["-device", "pvpanic-pci", "-action", "panic=shutdown"]
    words += ["-chardev", f"socket,id=agent,path={AGENT},server=on,wait=off"]
    words += ["-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"]
    words += ["-chardev", f"socket,id=qmp,path={MONITOR},server=on,wait=off", "-mon", "chardev=qmp,mode=control"]
    # stdout is a pipe to what keeps the end of it in CONSOLE: a guest can print without end.
    words += ["-chardev", "file,id=console,path=/dev/stdout,append=on", "-serial", "chardev:console"]
    if boot.kernel and boot.initrd:
        # A kernel that goes on after an oops runs suites with who knows which of its locks held.
        line = "root=/dev/vda rw console=ttyS0 net.ifnames=0 audit=0 mitigations=off oops=panic quiet"
        words += ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", line]
    if boot.seed:
        words += ["-drive", f"file={_comma(boot.seed)},if=virtio,format=raw,readonly=on"]
    return words


def _comma(path: Path | None) -> str:
    return str(path).replace(",", ",,")

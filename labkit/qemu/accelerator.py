"""Whether KVM works here, found out by trying.

/dev/kvm proves nothing: under some hypervisors a virtual machine can be created and its guest never runs.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from labkit.core import arch as arches
from labkit.core.arch import Arch
from labkit.core.errors import HostError, LabError
from labkit.core.home import Home
from labkit.io import process
from labkit.io.files import remembered

# A boot sector that writes 0x10 to QEMU's isa-debug-exit port (0xf4) and then halts: mov al,0x10; out 0xf4,al; hlt.
# QEMU then exits with (0x10 << 1) | 1 = 33 (docs: hw/misc/debugexit.c), provided that the guest really ran.
_BOOT_SECTOR = (b"\xb0\x10\xe6\xf4\xf4\xeb\xfd").ljust(510, b"\0") + b"\x55\xaa"
_RAN = 33
# For arm64, firmware that asks PSCI to power off (SYSTEM_OFF, Arm DEN0022) and then stands still: movz w0,#8;
# movk w0,#0x8400,lsl #16; hvc #0; b . QEMU ends with 0 then, provided that the guest really ran.
_FIRMWARE = bytes.fromhex("000180520080b072020000d400000014")
_BOUND = 10.0  # seconds; a working KVM needs well under one
# A KVM under which the guest runs more slowly than emulated is none: a nested one took 9.7 s for it, and then booted
# nothing in five minutes. Below so many seconds nothing is compared; a busy host is slow both ways.
_QUICK, _SLOWER = 2.0, 3.0


def choose(wanted: str, home: Home, arch: Arch) -> str:
    """ "kvm" or "tcg" for wanted "auto", "kvm" or "tcg". Raises HostError if kvm is required and does not work, as for
    any guest of another architecture than this host's.
    """
    if wanted == "tcg":
        return "tcg"
    other = f"it runs no {arch} guest on this {platform.machine()} host"
    reason = probe_kvm(home) if arch is arches.here() else other
    if reason is None:
        return "kvm"
    if wanted == "kvm":
        raise HostError(f"KVM does not work on this host: {reason}", hint="set machine.accelerator to auto or tcg")
    return "tcg"


def probe_kvm(home: Home) -> str | None:
    """None where a guest really runs under KVM, else why not. Tried once per host state, then remembered in home."""
    if not Path("/dev/kvm").exists():
        return "/dev/kvm does not exist"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "this user may not open /dev/kvm (join the group kvm)"
    arch = arches.here()
    if arch is None:
        return f"labkit makes no machines of this host's architecture, {platform.machine()}"
    qemu = process.which(arch.emulator)
    if qemu is None:
        return f"{arch.emulator} is not installed"
    # A new QEMU may change the answer, too, and so may another way to ask.
    subject = f"{qemu} {qemu.stat().st_mtime_ns} {_QUICK} {_SLOWER}"
    return remembered(home.host, "kvm", subject, lambda: _compare(qemu, arch, home.host))


def _compare(qemu: Path, arch: Arch, directory: Path) -> str | None:
    """Why KVM is not to be used for a guest of this host's architecture, None where it is."""
    began = time.monotonic()
    reason = _try(qemu, arch, directory)
    took = time.monotonic() - began
    if reason or took < _QUICK:
        return reason
    began = time.monotonic()
    emulated = _try(qemu, arch, directory, "tcg")
    alone = time.monotonic() - began
    if emulated is None and took > _SLOWER * alone:
        return f"a test guest took {took:.1f} s, and {alone:.1f} s when it was emulated"
    return None


def _try(qemu: Path, arch: Arch, directory: Path, accelerator: str = "kvm") -> str | None:
    """Why a guest of this host's architecture does not run under the accelerator, None where it does."""
    file = directory / f"probe-{os.getpid()}.img"
    arm, ran = arch is Arch.ARM64, 0 if arch is Arch.ARM64 else _RAN
    file.write_bytes(_FIRMWARE if arm else _BOOT_SECTOR)
    cpu = "host" if accelerator == "kvm" else "max"
    try:
        argv = [qemu, "-accel", accelerator, "-cpu", cpu, "-m", "16", "-nodefaults", "-display", "none", "-no-reboot"]
        if arm:
            argv += ["-machine", "virt", "-bios", file]
        else:
            argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-drive", f"file={file},format=raw"]
        done = process.run([str(word) for word in argv], timeout=_BOUND, check=False)
    except LabError:
        return f"a test guest did not run within {_BOUND:g} s"
    finally:
        file.unlink()
    return None if done.status == ran else (done.stderr.strip().splitlines() or [f"QEMU {done.outcome}"])[-1]

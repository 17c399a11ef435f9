"""Whether KVM works here, found out by trying.

/dev/kvm proves nothing: under some hypervisors a virtual machine can be created and its guest never runs.
"""

from __future__ import annotations

import os
from pathlib import Path

from labkit.core.errors import HostError, LabError
from labkit.core.home import Home
from labkit.io import process
from labkit.io.files import remembered

# A boot sector that writes 0x10 to QEMU's isa-debug-exit port (0xf4) and then halts: mov al,0x10; out 0xf4,al; hlt.
# QEMU then exits with (0x10 << 1) | 1 = 33 (docs: hw/misc/debugexit.c), provided that the guest really ran.
_BOOT_SECTOR = (b"\xb0\x10\xe6\xf4\xf4\xeb\xfd").ljust(510, b"\0") + b"\x55\xaa"
_RAN = 33
_BOUND = 10.0  # seconds; a working KVM needs well under one


def choose(wanted: str, home: Home) -> str:
    """ "kvm" or "tcg" for wanted "auto", "kvm" or "tcg". Raises HostError if kvm is required and does not work."""
    if wanted == "tcg":
        return "tcg"
    reason = probe_kvm(home)
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
    qemu = process.which("qemu-system-x86_64")
    if qemu is None:
        return "qemu-system-x86_64 is not installed"
    # A new QEMU may change the answer, too.
    return remembered(home.host, "kvm", f"{qemu} {qemu.stat().st_mtime_ns}", lambda: _try(qemu, home.host))


def _try(qemu: Path, directory: Path) -> str | None:
    disk = directory / f"probe-{os.getpid()}.img"
    disk.write_bytes(_BOOT_SECTOR)
    try:
        argv = [qemu, "-accel", "kvm", "-cpu", "host", "-m", "16", "-nodefaults", "-display", "none", "-no-reboot"]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-drive", f"file={disk},format=raw"]
        done = process.run([str(word) for word in argv], timeout=_BOUND, check=False)
    except LabError:
        return f"a test guest did not run within {_BOUND:g} s"
    finally:
        disk.unlink()
    return None if done.status == _RAN else (done.stderr.strip().splitlines() or [f"QEMU {done.outcome}"])[-1]

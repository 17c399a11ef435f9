"""Which provider makes a machine, where the settings leave that open, and the programs of this host that each needs."""

from __future__ import annotations

import contextlib
from pathlib import Path

from labkit.core import arch as arches
from labkit.core.arch import Arch
from labkit.core.config import Settings
from labkit.core.errors import HostError, LabError, UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.io.network import TOOLS as NETWORK_TOOLS
from labkit.machines.differences import by
from labkit.subjects import runtimes

_IMAGES = ("qemu-img",)
_BUILD = ("mmdebstrap", "mkfs.ext4")


def tools(settings: Settings, distro: Distro, provider: str) -> tuple[str, ...]:
    """The host's programs that machines of this release need, and their golden image: those of a cloud image boot in
    QEMU once.
    """
    builds = bool(distro.build) and settings.image != "cloud"
    emulator = () if provider == "uml" else (distro.arch.emulator,)
    foreign = (distro.arch.interpreter,) if builds and distro.arch is not arches.here() else ()
    return (*emulator, *_IMAGES, *NETWORK_TOOLS, *(_BUILD if builds else ()), *foreign)


def require_image(settings: Settings, distro: Distro, provider: str) -> None:
    """UsageError where the provider cannot make a machine of this release and architecture."""
    if provider == "ssh":
        return
    arch = distro.arch
    if provider in ("uml", "vagrant") and arch is not arches.here():
        raise UsageError(
            f"the {provider} provider makes machines of this host's own architecture, and {distro.title} is asked for",
            hint="--provider qemu emulates it; or leave --arch (machine.arch) out",
        )
    if provider == "uml" and arch is not Arch.AMD64:
        raise UsageError(
            f"User-Mode Linux is of amd64 alone, and {distro.title} is asked for", hint="--provider qemu makes it"
        )
    if not settings.box and not (distro.build or distro.cloud_image or distro.boxes):
        there = ", ".join(distro.arches)
        raise UsageError(
            f"{distro.platform.title} {distro.release.name} has no image for {arch}",
            hint=f"it has one for {there}; another platform or release may (see ./lab platforms), or name one in a "
            "platform.toml of your own",
        )


def best(settings: Settings, distro: Distro, observer: Observer) -> tuple[str, str]:
    """The provider that the settings, the host and the release allow, and why it is that one."""
    if settings.ssh.host:
        return "ssh", f"the settings name the host {settings.ssh.host}"
    if distro.arch is not arches.here():
        return "qemu", f"{distro.title} is of another architecture than this host, so it is emulated"
    if distro.boxes or settings.box:
        from labkit.host.facts import vagrant_providers  # the models of host.toml, 10 ms

        usable, without = vagrant_providers()
        fit = [found for found in usable if settings.box or found in distro.boxes]
        if fit:
            return "vagrant", f"Vagrant works here with {fit[0]}"
        without = without or f"Vagrant works here with {', '.join(usable)} only"
    else:
        without = "no Vagrant box is published for this release"
    provider, why = _local(settings, distro, observer)
    return provider, f"{without}; {why}"


def untrusted(settings: Settings) -> str:
    """Why the settings' runtime is not to be trusted; empty where nobody says so."""
    if settings.untrusted:
        return f"the runtime is marked untrusted ({by('untrusted', settings.origin('untrusted') or 'by default')})"
    with contextlib.suppress(UsageError):  # `up` needs no runtime
        if runtimes.find(runtimes.split(settings.runtime)[0]).untrusted:
            return f"the runtime {settings.runtime} is marked untrusted in its file"
    return ""


def _local(settings: Settings, distro: Distro, observer: Observer) -> tuple[str, str]:
    """QEMU where it has KVM, else User-Mode Linux where that works and does what is asked, else QEMU's emulation."""
    if why := _only_qemu(settings, distro):
        return "qemu", why
    from labkit.host.install import ensure as installed
    from labkit.qemu.accelerator import probe_kvm

    there = tools(settings, distro, "qemu" if Path("/dev/kvm").exists() else "uml")
    installed(settings, there, observer)
    slow = probe_kvm(settings.home)
    if slow is None:
        return "qemu", "KVM works here"
    from labkit.uml.kernel import ensure
    from labkit.uml.launch import probe

    try:
        kernel = ensure(settings, observer)
        problem = probe(kernel, settings.home)
    except LabError as error:
        problem = error.message
        if isinstance(error, HostError) and settings.uml_kernel:
            raise
    if problem is None:
        return "uml", f"KVM does not work here ({slow}), and {kernel} runs"
    return "qemu", f"machines are emulated: KVM does not work here ({slow}), nor does User-Mode Linux ({problem})"


def _only_qemu(settings: Settings, distro: Distro) -> str:
    """What is asked for that User-Mode Linux cannot give; empty where it can."""
    machine = settings.machine
    if distro.arch is not Arch.AMD64:
        return "User-Mode Linux is of amd64 alone"
    if why := untrusted(settings):
        return f"{why}, and User-Mode Linux is no wall"
    if machine.accelerator != "auto":
        return f"machine.accelerator = {machine.accelerator} is QEMU's"
    if machine.network == "open":
        return "machine.network = open is QEMU's"
    if settings.origin("machine.cpus") and machine.cpus > 1:
        return "User-Mode Linux has one CPU"
    if settings.image == "cloud" or not distro.build:
        return "cloud images need QEMU"
    return ""

"""Which provider makes a machine. To add one, add a module with a class that satisfies Machine, and its name here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro, VagrantProvider
from labkit.machines.base import Machine
from labkit.machines.choice import best, require_image, untrusted
from labkit.machines.damaged import DamagedMachine
from labkit.machines.differences import by
from labkit.machines.record import DamagedRecord, damaged, provider_of

if TYPE_CHECKING:
    from labkit.machines.host import HostMachine
    from labkit.machines.qemu import QemuMachine
    from labkit.machines.uml import UmlMachine
    from labkit.machines.vagrant import VagrantMachine


# Keys that say nothing to a provider's machines, and why. Tables named for another provider speak of that one alone.
_CHOSEN = "a virtual machine is given this; a host of your own is what it is"
_UNHEEDED: dict[str, dict[str, str]] = {
    "uml": {
        "machine.accelerator": "User-Mode Linux runs on the host's own CPU",
    },
    "vagrant": {
        "machine.ssh_port": "Vagrant chooses the address of its machines",
        "machine.network": "Vagrant makes the network of its machines",
    },
    "ssh": {
        "image": "a host of your own is made of no image",
        **{
            f"machine.{key}": _CHOSEN
            for key in ("arch", "cpus", "memory", "disk", "accelerator", "network", "ssh_port")
        },
    },
}
_OF_UML = {
    "machine.init": "other machines boot the platform's own init",
    "uml_kernel": "other machines boot the platform's own kernel",
}
_OF_A_BOX = "the machine is made of a published box, which has its own"


def chosen(settings: Settings) -> str:
    """The provider that the settings choose, auto where they leave it open; a host that is named is the ssh provider's.

    UsageError where a flag names a host for another provider.
    """
    if settings.provider == "auto":
        return "ssh" if settings.ssh.host else "auto"
    if settings.provider != "ssh" and settings.origin("ssh.host") == "--host":
        raise UsageError(
            f"--host is for the ssh provider, and the provider is {settings.provider} "
            f"({by('provider', settings.origin('provider') or 'by default')})",
            hint="leave --host out, or say --provider ssh",
        )
    return settings.provider


def require_heeded(settings: Settings, provider: str, distro: Distro, observer: Observer) -> None:
    """UsageError where a flag or variable asks for what this provider's machines cannot heed; the observer hears of
    such keys in a file, which may be there for other commands.
    """
    unheeded = dict(_UNHEEDED.get(provider, {})) | (_OF_UML if provider != "uml" else {})
    if provider == "uml":
        if settings.machine.cpus > 1:
            unheeded["machine.cpus"] = "its kernel has one CPU"
        if settings.machine.network == "open":
            unheeded["machine.network"] = "its guests have no way to this host"
    if provider == "vagrant":
        if settings.box or VagrantProvider.LIBVIRT in distro.boxes:
            unheeded |= {"machine.disk": _OF_A_BOX, "image": _OF_A_BOX}
        if settings.vagrant.provider not in ("auto", VagrantProvider.LIBVIRT.value):
            unheeded["machine.accelerator"] = f"{settings.vagrant.provider} chooses it"
    for key, why in unheeded.items():
        origin = settings.origin(key)
        if origin is None:
            continue
        if origin.startswith("/"):
            observer.warn(f"{by(key, origin)} has no effect with the {provider} provider: {why}")
        else:
            raise UsageError(
                f"{origin} has no effect with the {provider} provider: {why}",
                hint=f"leave {origin} out, or choose another provider with --provider",
            )


def existing(name: str, settings: Settings, observer: Observer, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name with the provider that made it; one that is not there is the settings' provider's."""
    try:
        wished = chosen(settings) if chosen(settings) != "auto" else "qemu"
        return _machine(provider_of(settings, name) or wished, name, settings, observer, needs)
    except DamagedRecord as error:
        return DamagedMachine(name, settings, observer, error)


def wanted(name: str, settings: Settings, observer: Observer, distro: Distro, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name if it is there, else one of the provider that the settings, the host and the release
    allow; where the settings leave it open, the observer hears which and why.
    """
    machine = existing(name, settings, observer, needs)
    if isinstance(machine, DamagedMachine):
        return machine
    provider = provider_of(settings, name)
    if provider is None:
        provider = settings.provider
        if provider == "auto":
            require_image(settings, distro, provider)
            provider, why = best(settings, distro, observer)
            observer.step(f"provider {provider}: {why}")
        require_image(settings, distro, provider)
        machine = _machine(provider, name, settings, observer, needs)
    if provider == "uml" and (why := untrusted(settings)):
        made = provider_of(settings, name) is not None
        raise UsageError(
            f"{why}, and {f'machine {name} is' if made else 'the uml provider makes machines'} of User-Mode Linux, "
            "whose guests can become the user that runs them on this host",
            hint=f"--provider qemu{' and another name with --machine' if made else ''} makes a machine that is a wall",
        )
    if provider == settings.provider or settings.provider == "auto":
        require_heeded(settings, provider, distro, observer)
    return machine


def _machine(provider: str, name: str, settings: Settings, observer: Observer, needs: Sequence[str]) -> Machine:
    """The machine, whose record, if there is one, is whole. DamagedRecord."""
    made: QemuMachine | UmlMachine | VagrantMachine | HostMachine
    match provider:  # each with the libraries that it needs
        case "qemu":
            from labkit.machines.qemu import QemuMachine

            made = QemuMachine(name, settings, observer, tuple(needs))
        case "uml":
            from labkit.machines.uml import UmlMachine

            made = UmlMachine(name, settings, observer, tuple(needs))
        case "vagrant":
            from labkit.machines.vagrant import VagrantMachine

            made = VagrantMachine(name, settings, observer, tuple(needs))
        case "ssh":
            from labkit.machines.host import HostMachine

            made = HostMachine(name, settings, observer, tuple(needs))
        case _:
            path = settings.home.machine(name) / "record.json"
            raise damaged(path, f"names the provider {provider!r:.60}, which this labkit does not know")
    made.record()
    return made

"""Which provider makes a machine. To add one, add a module with a class that satisfies Machine, and its name here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.core.config import Settings
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.machines.base import Machine
from labkit.machines.damaged import DamagedMachine
from labkit.machines.record import DamagedRecord, damaged, provider_of

if TYPE_CHECKING:
    from labkit.machines.host import HostMachine
    from labkit.machines.qemu import QemuMachine
    from labkit.machines.vagrant import VagrantMachine


def existing(name: str, settings: Settings, observer: Observer, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name with the provider that made it; one that is not there is the settings' provider's."""
    try:
        wished = settings.provider if settings.provider != "auto" else "qemu"
        return _machine(provider_of(settings, name) or wished, name, settings, observer, needs)
    except DamagedRecord as error:
        return DamagedMachine(name, settings, observer, error)


def wanted(name: str, settings: Settings, observer: Observer, distro: Distro, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name if it is there, else one of the provider that the settings, the host and the release
    allow; where the settings leave it open, the observer hears which and why.
    """
    machine = existing(name, settings, observer, needs)
    if settings.provider != "auto" or isinstance(machine, DamagedMachine) or provider_of(settings, name):
        return machine
    provider, why = _best(settings, distro)
    observer.step(f"provider {provider}: {why}")
    return _machine(provider, name, settings, observer, needs)


def _best(settings: Settings, distro: Distro) -> tuple[str, str]:
    if settings.ssh.host:
        return "ssh", f"the settings name the host {settings.ssh.host}"
    if not (distro.release.boxes or settings.box):
        return "qemu", "no Vagrant box is published for this release"
    from labkit.host.facts import vagrant_providers  # the models of host.toml, 10 ms

    usable, why = vagrant_providers()
    fit = [found for found in usable if settings.box or found in distro.release.boxes]
    if fit:
        return "vagrant", f"Vagrant works here with {fit[0]}"
    return "qemu", why or f"Vagrant works here with {', '.join(usable)} only"


def _machine(provider: str, name: str, settings: Settings, observer: Observer, needs: Sequence[str]) -> Machine:
    """The machine, whose record, if there is one, is whole. DamagedRecord."""
    made: QemuMachine | VagrantMachine | HostMachine
    match provider:  # each with the libraries that it needs
        case "qemu":
            from labkit.machines.qemu import QemuMachine

            made = QemuMachine(name, settings, observer, tuple(needs))
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

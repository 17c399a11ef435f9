"""Which provider makes a machine. To add one, add a module with a class that satisfies Machine, and its name here."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.machines.base import Machine
from labkit.machines.record import provider_of


def existing(name: str, settings: Settings, observer: Observer, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name, of the provider that made it; if there is none yet, of the settings' provider."""
    default = settings.provider if settings.provider != "auto" else "qemu"
    return _machine(provider_of(settings, name) or default, name, settings, observer, needs)


def wanted(name: str, settings: Settings, observer: Observer, distro: Distro, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name if it exists, else one of the provider that settings, host and release allow; if the
    settings leave the provider open, the observer is told which was chosen and why.
    """
    if settings.provider == "auto" and provider_of(settings, name) is None:
        provider, why = _best(settings, distro)
        observer.step(f"provider {provider}: {why}")
        return _machine(provider, name, settings, observer, needs)
    return existing(name, settings, observer, needs)


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
    match provider:  # each with the libraries that it needs
        case "qemu":
            from labkit.machines.qemu import QemuMachine

            return QemuMachine(name, settings, observer, tuple(needs))
        case "vagrant":
            from labkit.machines.vagrant import VagrantMachine

            return VagrantMachine(name, settings, observer, tuple(needs))
        case "ssh":
            from labkit.machines.host import HostMachine

            return HostMachine(name, settings, observer, tuple(needs))
    raise UsageError(f"unknown provider {provider!r} of machine {name}", hint="known: qemu, ssh, vagrant")

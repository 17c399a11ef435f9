"""Which provider makes a machine. Adding one is adding a module here with a class that satisfies Machine."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.machines.base import Machine
from labkit.machines.record import provider_of


def existing(name: str, settings: Settings, observer: Observer, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name with the provider that made it; one that is not there is the settings' provider's."""
    wished = settings.provider if settings.provider != "auto" else "qemu"
    return _machine(provider_of(settings, name) or wished, name, settings, observer, needs)


def wanted(name: str, settings: Settings, observer: Observer, distro: Distro, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name if it is there, else one of the provider that the settings, the host and the release
    allow; where the settings leave it open, the observer hears which and why.
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

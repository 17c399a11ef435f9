"""Which provider makes a machine. Adding one is adding a module here with a class that satisfies Machine."""

from __future__ import annotations

from collections.abc import Sequence

from labkit import late
from labkit.config import Settings
from labkit.errors import HostError
from labkit.machines import Machine
from labkit.machines.kept import provider_of
from labkit.observer import Observer
from labkit.platforms import Platform, Release, VagrantProvider

_CLASSES = {"qemu": "qemu:QemuMachine", "vagrant": "vagrant:VagrantMachine", "ssh": "host:HostMachine"}


def existing(name: str, settings: Settings, observer: Observer, needs: Sequence[str] = ()) -> Machine:
    """The machine of that name with the provider that made it; one that is not there is the settings' provider's."""
    wished = settings.provider if settings.provider != "auto" else "qemu"
    return _machine(provider_of(settings, name) or wished, name, settings, observer, needs)


def wanted(
    name: str, settings: Settings, observer: Observer, platform: Platform, release: Release, needs: Sequence[str] = ()
) -> Machine:
    """The machine of that name if it is there, else one of the provider that the settings, the host and the release
    allow; where the settings leave it open, the observer hears which and why.
    """
    if settings.provider == "auto" and provider_of(settings, name) is None:
        provider, why = _best(settings, release)
        observer.step(f"provider {provider}: {why}")
        return _machine(provider, name, settings, observer, needs)
    return existing(name, settings, observer, needs)


def vagrant_provider(settings: Settings, release: Release) -> VagrantProvider:
    """What Vagrant is to make the machine with: the settings' choice, else one that works here, best one with a box."""
    if settings.vagrant.provider != "auto":
        return VagrantProvider(settings.vagrant.provider)
    usable, why = late.module("doctor").vagrant_providers()
    if not usable:
        raise HostError(why, hint="./lab doctor says what this host lacks")
    best: VagrantProvider = next((found for found in usable if found in release.boxes), usable[0])
    return best


def _best(settings: Settings, release: Release) -> tuple[str, str]:
    if settings.ssh.host:
        return "ssh", f"the settings name the host {settings.ssh.host}"
    if not (release.boxes or settings.box):
        return "qemu", "no Vagrant box is published for this release"
    usable, why = late.module("doctor").vagrant_providers()
    fit = [found for found in usable if settings.box or found in release.boxes]
    if fit:
        return "vagrant", f"Vagrant works here with {fit[0]}"
    return "qemu", why or f"Vagrant works here with {', '.join(usable)} only"


def _machine(provider: str, name: str, settings: Settings, observer: Observer, needs: Sequence[str]) -> Machine:
    module, _, kind = _CLASSES[provider].partition(":")
    made: Machine = getattr(late.module(f"machines.{module}"), kind)(name, settings, observer, tuple(needs))
    return made

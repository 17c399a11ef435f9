"""Vagrant boxes: those that are published for a release, and labkit's own, made of a golden image.

A box is a tar archive of metadata.json, a Vagrantfile and box.img
(https://developer.hashicorp.com/vagrant/docs/boxes/format, https://vagrant-libvirt.github.io/vagrant-libvirt/boxes.html).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from labkit import download, process
from labkit.building import Builder, recipe
from labkit.config import Settings
from labkit.errors import ImageError, UsageError
from labkit.files import locked, make_folder, require_space, write_atomic
from labkit.images import Image
from labkit.machines import hardware
from labkit.machines.accelerator import choose
from labkit.observer import Observer
from labkit.platforms import Platform, Release, VagrantProvider
from labkit.render import VagrantBox

_SPACE = 2048  # MiB
_VAGRANTFILE = """Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |libvirt|
    libvirt.disk_bus = "virtio"
  end
end
"""


def listed(platform: Platform, release: Release, settings: Settings) -> list[VagrantBox]:
    """The boxes that the settings name, else the release's file; none where both are silent.

    ImageError where a digest cannot be had.
    """
    name = f"labkit/{platform.name}-{release.name}"
    if settings.box:
        if "://" in settings.box and not settings.box_sha256:
            raise UsageError(f"box = {settings.box}: its digest must be known", hint="set box_sha256 in labkit.toml")
        return [VagrantBox(None, name, settings.box, settings.box_sha256 and "sha256", settings.box_sha256)]
    found = []
    for provider, box in release.boxes.items():
        digest = download.expected(box)
        found.append(VagrantBox(provider, name, box.url, digest.algorithm, digest.hex))
    return found


def find(
    platform: Platform, release: Release, provider: VagrantProvider, settings: Settings, observer: Observer
) -> VagrantBox:
    """The box for one provider; labkit's own, made now if need be, where none is published."""
    for box in listed(platform, release, settings):
        if box.provider in (None, provider):
            return box
    if provider is not VagrantProvider.LIBVIRT:
        raise UsageError(
            f"no box for {provider.value} is known for {platform.title} {release.name}", hint="set box in labkit.toml"
        )
    path = ensure(platform, release, settings, observer)
    return VagrantBox(provider, f"labkit/{path.stem}", str(path))


def ensure(platform: Platform, release: Release, settings: Settings, observer: Observer) -> Path:
    """The box of this release's golden image, bootstrap and all, made now if there is none; its path."""
    wanted = recipe(platform, release, settings, box=True)
    target = make_folder(settings.home / "boxes") / f"{platform.name}-{release.name}-{wanted.key}.box"
    limits = settings.limits
    with locked(
        settings.home / "locks" / f"{target.name}.lock",
        timeout=limits.build * 2,
        waiting=observer.step,
        what=f"the box of {wanted.title}",
    ):
        if not target.exists():
            machine = settings.machine
            on = hardware.here(choose(machine.accelerator, settings.home), machine.cpus, machine.memory)
            image = Builder(settings, observer).ensure(wanted, on)
            observer.step(f"packing {wanted.title} as a box")
            _package(image, target)
    return target


def _package(image: Image, target: Path) -> None:
    folder = target.parent / f"{target.name}.making"
    shutil.rmtree(folder, ignore_errors=True)  # a killed labkit's
    make_folder(folder)
    try:
        require_space(folder, _SPACE)
        process.run(
            ["qemu-img", "convert", "-O", "qcow2", image.folder / "disk.qcow2", folder / "box.img"], timeout=600
        )
        told = process.run(["qemu-img", "info", "--output=json", folder / "box.img"], timeout=60).stdout
        size = -(-json.loads(told)["virtual-size"] // (1 << 30))
        about = {"provider": "libvirt", "format": "qcow2", "virtual_size": size}
        write_atomic(folder / "metadata.json", json.dumps(about))
        write_atomic(folder / "Vagrantfile", _VAGRANTFILE)
        # Vagrant unpacks it at each `box add`; more than the fastest compression costs more than it saves.
        words: list[str | Path] = ["tar", "-C", folder, "-I", "gzip -1", "-cf", folder / "box"]
        process.run([*words, "metadata.json", "Vagrantfile", "box.img"], timeout=900)
        (folder / "box").rename(target)
    except process.ProgramFailed as error:
        raise ImageError(f"the box {target} could not be made: {error.message}", hint=error.hint) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)

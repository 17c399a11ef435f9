"""Vagrant boxes: those that are published for a release, and labkit's own, made of a golden image.

A box is a tar archive of metadata.json, a Vagrantfile and box.img
(https://developer.hashicorp.com/vagrant/docs/boxes/format, https://vagrant-libvirt.github.io/vagrant-libvirt/boxes.html).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from labkit.core.arch import Arch
from labkit.core.config import Settings
from labkit.core.errors import ImageError, ProgramFailed, UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro, VagrantProvider
from labkit.images.build import Builder, no_box, recipe
from labkit.images.golden import Image
from labkit.io import download, network, process
from labkit.io.files import locked, make_directory, require_space, write_atomic
from labkit.provision.render import VagrantBox
from labkit.qemu import hardware
from labkit.qemu.accelerator import choose

_SPACE = 2048  # MiB
_VAGRANTFILE = """Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |libvirt|
    libvirt.disk_bus = "virtio"
  end
end
"""


def listed(distro: Distro, settings: Settings) -> list[VagrantBox]:
    """The boxes that the settings name, else those of the release's file; empty where neither names one.

    ImageError where a digest cannot be had.
    """
    name = f"labkit/{distro.name}"
    if settings.box:
        if "://" in settings.box and not settings.box_sha256:
            raise UsageError(
                f"box = {settings.box}: the digest of the download is missing", hint="set box_sha256 in labkit.toml"
            )
        return [VagrantBox(None, name, settings.box, settings.box_sha256 and "sha256", settings.box_sha256)]
    if distro.arch is not Arch.AMD64:
        raise no_box(distro)
    found = []
    for provider, box in distro.boxes.items():
        url, digest = download.expected(box, timeout=settings.limits.download)
        found.append(VagrantBox(provider, name, url, digest.algorithm, digest.hex))
    return found


def find(distro: Distro, provider: VagrantProvider, settings: Settings, observer: Observer) -> VagrantBox:
    """The box for one provider; where none is published, labkit's own, made now if necessary."""
    for box in listed(distro, settings):
        if box.provider in (None, provider):
            return box
    if provider is not VagrantProvider.LIBVIRT:
        raise UsageError(f"no box for {provider.value} is known for {distro.title}", hint="set box in labkit.toml")
    path = ensure(distro, settings, observer)
    return VagrantBox(provider, f"labkit/{path.stem}", str(path))


def ensure(distro: Distro, settings: Settings, observer: Observer) -> Path:
    """The box of this release's golden image, bootstrap and all, made now if there is none; its path."""
    wanted = recipe(distro, settings, box=True)
    target = make_directory(settings.home.boxes) / f"{distro.name}-{wanted.key}.box"
    limits = settings.limits
    with locked(
        settings.home.lock(f"{target.name}"),
        timeout=limits.build * 2,
        waiting=observer.step,
        what=f"the box of {wanted.title}",
    ):
        if not target.exists():
            machine = settings.machine
            on = hardware.here(
                choose(machine.accelerator, settings.home, distro.arch),
                machine.cpus,
                machine.memory,
                network.choose(machine.network)[0],
                arch=distro.arch,
                level=distro.cpu,
            )
            image = Builder(settings, observer).ensure(wanted, on)
            observer.step(f"packing {wanted.title} as a box")
            _package(image, target)
        target.touch()  # `gc --keep` goes by it
    return target


def _package(image: Image, target: Path) -> None:
    directory = target.parent / f"{target.name}.making"
    shutil.rmtree(directory, ignore_errors=True)  # a killed labkit's
    make_directory(directory)
    try:
        require_space(directory, _SPACE)
        process.run(["qemu-img", "convert", "-O", "qcow2", image.disk, directory / "box.img"], timeout=600)
        info = process.run(["qemu-img", "info", "--output=json", directory / "box.img"], timeout=60).stdout
        size = -(-json.loads(info)["virtual-size"] // (1 << 30))
        about = {"provider": "libvirt", "format": "qcow2", "virtual_size": size}
        write_atomic(directory / "metadata.json", json.dumps(about))
        write_atomic(directory / "Vagrantfile", _VAGRANTFILE)
        # Vagrant unpacks it at each `box add`; more than the fastest compression costs more than it saves.
        words: list[str | Path] = ["tar", "-C", directory, "-I", "gzip -1", "-cf", directory / "box"]
        process.run([*words, "metadata.json", "Vagrantfile", "box.img"], timeout=900)
        (directory / "box").rename(target)
    except ProgramFailed as error:
        raise ImageError(f"the box {target} could not be made: {error.message}", hint=error.hint) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)

"""The use cases `render` and `package`: scripts and boxes for use without labkit."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from labkit.core.config import Settings
from labkit.core.observer import Observer
from labkit.host.install import ensure
from labkit.images import boxes
from labkit.io.files import copy, disk_errors, make_directory, write_atomic
from labkit.provision import bootstrap
from labkit.provision import render as rendering
from labkit.provision.bootstrap import Target
from labkit.usecases.machines import image_tools


def render(settings: Settings, out: Path) -> list[Path]:
    """Write the files that make a lab of the platform's release without labkit; return their paths.

    The bootstrap script for any host, a Vagrantfile and cloud-init files that run it, and in sources/ the files that it
    needs uploaded. Only the Vagrantfile may need the network, for a box whose digest is in a list: it comes last.
    """
    distro = settings.distro()
    plan = bootstrap.prepare(distro, Target.VAGRANT, settings, ())
    name = distro.name
    script = f"bootstrap-{distro.platform.name}.sh"
    made = {
        script: plan.script,
        "user-data": rendering.user_data(plan.script, agent=False, sources=bool(plan.uploads)),
        "meta-data": rendering.meta_data(f"labkit-{name}"),
    }
    uploads = {f"sources/{PurePosixPath(upload.remote).name}": upload for upload in plan.uploads}
    with disk_errors(out):
        make_directory(out / "sources" if uploads else out)
        for file, text in made.items():
            write_atomic(out / file, text, mode=0o755 if file == script else 0o644)
        for file, upload in uploads.items():
            copy(upload.local, out / file)
        values = rendering.VagrantValues(
            machine=settings.machine.name or name,
            hostname=rendering.hostname(settings.machine.name or name),
            boxes=boxes.listed(distro, settings) or [rendering.VagrantBox(None, f"labkit/{name}", f"{name}.box")],
            cpus=settings.machine.cpus,
            memory=settings.machine.memory,
            script=script,
            uploads=[(file, upload.remote) for file, upload in uploads.items()],
            emulated={"tcg": True, "kvm": False}.get(settings.machine.accelerator),
        )
        write_atomic(out / "Vagrantfile", rendering.vagrantfile(values))
    return [out / file for file in (*made, *uploads, "Vagrantfile")]


def package(settings: Settings, observer: Observer, out: Path) -> Path:
    """Make a Vagrant box for libvirt of the release's golden image, bootstrap and all; its path below out."""
    distro = settings.distro()
    ensure(settings, image_tools(settings, distro), observer)
    made = boxes.ensure(distro, settings, observer)
    target = make_directory(out) / f"{distro.name}.box"
    with disk_errors(out):
        copy(made, target)
    return target

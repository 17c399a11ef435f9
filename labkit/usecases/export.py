"""The use cases `render` and `package`: scripts and boxes for use without labkit, and what starts it every night."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import labkit
from labkit.core import config, resources
from labkit.core.config import Settings
from labkit.core.errors import ImageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.host.install import ensure
from labkit.images import boxes
from labkit.io.files import copy, disk_errors, make_directory, write_atomic
from labkit.machines.choice import tools
from labkit.provision import bootstrap, schedule
from labkit.provision import render as rendering
from labkit.provision.bootstrap import Target
from labkit.qemu.accelerator import choose


def render(settings: Settings, observer: Observer, out: Path) -> list[Path]:
    """Write the files that make a lab of the platform's release without labkit, all or none; return their paths.

    The bootstrap script for any host, a Vagrantfile and cloud-init files that run it, and in sources/ the files that it
    needs uploaded. Where the Vagrantfile needs a box that nobody publishes, the observer hears how to make it.
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
    published = _boxes(distro, settings)
    own = f"{name}.box"
    command = (
        f"./lab package --platform {distro.platform.name} --release {distro.release.name} --out {shlex.quote(str(out))}"
    )
    accelerator = settings.machine.accelerator
    uploads = {f"sources/{PurePosixPath(upload.remote).name}": upload for upload in plan.uploads}
    values = rendering.VagrantValues(
        machine=settings.machine.name or name,
        hostname=rendering.hostname(settings.machine.name or name),
        boxes=published or [rendering.VagrantBox(None, f"labkit/{name}", own)],
        cpus=settings.machine.cpus,
        memory=settings.machine.memory,
        script=script,
        uploads=[(file, upload.remote) for file, upload in uploads.items()],
        emulated=(choose(accelerator, settings.home, distro.arch) if accelerator == "auto" else accelerator) == "tcg",
        movable=accelerator == "auto",
        package=None if published else command,
    )
    made["Vagrantfile"] = rendering.vagrantfile(values)
    with disk_errors(out):
        make_directory(out / "sources" if uploads else out)
        with tempfile.TemporaryDirectory(dir=out, prefix=".rendering-") as aside:
            (Path(aside) / "sources").mkdir()
            for file, text in made.items():
                write_atomic(Path(aside) / file, text, mode=0o755 if file == script else 0o644)
            for file, upload in uploads.items():
                shutil.copyfile(upload.local, Path(aside) / file)
            for file in (*made, *uploads):
                (Path(aside) / file).replace(out / file)
    if not published and not (out / own).exists():
        observer.warn(f"no box is published for {distro.title}: before `vagrant up` in {out}, make it with {command}")
    return [out / file for file in (*made, *uploads)]


def _boxes(distro: Distro, settings: Settings) -> list[rendering.VagrantBox]:
    """The boxes that are published. ImageError, with what to do, where a list of digests cannot be read."""
    try:
        return boxes.listed(distro, settings)
    except ImageError as error:
        raise ImageError(
            f"nothing was written: the Vagrantfile of {distro.title} must name its box's digest, and {error.message}",
            hint="render where that address answers (labkit downloads through no proxy), or name a box in labkit.toml: "
            "box = ..., and for an address box_sha256 = ...",
        ) from error


def timer(settings: Settings, observer: Observer, out: Path) -> list[Path]:
    """Write a service and a timer of systemd, and a line for cron, that run `nightly` as this user, here, with what the
    environment says of labkit now; their paths. What of that is secret is left out, and the observer hears it.
    """
    launcher = resources.root() / "lab"
    argv = [str(launcher)] if launcher.is_file() else [sys.executable, "-I", "-m", "labkit"]
    secrets = config.secret_variables()
    names = sorted(name for name, value in os.environ.items() if name.startswith("LABKIT_") and value)
    if hidden := [name for name in names if name in secrets]:
        observer.warn(
            f"not written, for everybody can read the files: {', '.join(hidden)}; put each into a file of mode 0600, "
            'and name that in labkit.toml: "file:PATH"'
        )
    variables = {name: os.environ[name] for name in names if name not in secrets}
    if settings.origin("home") is None and os.environ.get("XDG_DATA_HOME"):
        variables["LABKIT_HOME"] = str(settings.home)
    here = str(Path.cwd())
    writable = dict.fromkeys(map(str, (here, settings.reports, settings.home, resources.root())))
    user = pwd.getpwuid(os.geteuid()).pw_name
    nightly = schedule.Nightly(argv, here, user, variables, tuple(writable), settings.nights.keep is not None)
    return _write(out, schedule.units(nightly))


def ci(system: str, out: Path) -> list[Path]:
    """Write a job for github or gitlab into a repository at out; its path."""
    path, text = schedule.ci(system, labkit.__version__)
    return _write(out, {path: text})


def _write(out: Path, texts: Mapping[str, str]) -> list[Path]:
    for name, text in texts.items():
        with disk_errors((out / name).parent):
            make_directory((out / name).parent)
            write_atomic(out / name, text)
    return [out / name for name in texts]


def package(settings: Settings, observer: Observer, out: Path) -> Path:
    """Make a Vagrant box for libvirt of the release's golden image, bootstrap and all; its path below out."""
    distro = settings.distro()
    ensure(settings, tools(settings, distro, "qemu"), observer)
    made = boxes.ensure(distro, settings, observer)
    target = make_directory(out) / f"{distro.name}.box"
    with disk_errors(out):
        copy(made, target)
    return target

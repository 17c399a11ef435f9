"""Builds golden images.

    recipe (pure)  ->  images/KEY.making/  ->  images/KEY/{disk.qcow2, kernel, initrd, image.json}

Built natively with mmdebstrap, in a chroot, or made of a cloud image that boots once with a NoCloud seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from labkit.core import arch as arches
from labkit.core.arch import Arch
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import GivenUp, ImageError, InfrastructureError, LabError, ProgramFailed, UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.core.text import one_line
from labkit.images import grub, sums
from labkit.images.golden import Image, find, new_directory
from labkit.io import process
from labkit.io.files import disk_errors, locked, make_directory, no_space, require_space, write_atomic
from labkit.io.mmdebstrap import TEMPORARY, apart, mmdebstrap
from labkit.io.network import Network
from labkit.provision import bootstrap, render
from labkit.provision.bootstrap import Target, Upload
from labkit.qemu.agent import Agent
from labkit.qemu.hardware import Boot, Hardware
from labkit.qemu.launch import again_after_panic, boot_and_run, ended, launch

if TYPE_CHECKING:
    from labkit.io.download import Digest

_FAILED = ".failed"  # the end of a note of an image that could not be made, a line each time
_TRIES = 3  # for an image, where failures are counted
_FORMAT = 1  # to be raised when the same recipe gives another image
# The end of a cloud image's first boot. Made earlier, the file would keep the rest of cloud-init's own units from
# starting in it. A box loses its identity: each machine made of it gets its own.
_WAIT = "cloud-init status --wait >/dev/null\n"
_SETTLED = "touch /etc/cloud/cloud-init.disabled\n"
# What mmdebstrap says of itself: how far it is, and that it ends because of what was said before.
_OF_MMDEBSTRAP = re.compile(r"I: .*|E: (setup failed|mmdebstrap failed to run|.*command failed: chroot).*|")
_FORGET = """set -e
cloud-init clean --logs
systemctl --no-reload disable labkit-agent.service
rm -rf /etc/systemd/system/labkit-agent.service /usr/local/bin/labkit-agent /usr/local/lib/labkit
rm -f /etc/ssh/ssh_host_* /var/log/labkit-bootstrap.log
: >/etc/machine-id
"""
_SPACE_BUILD = 2048  # MiB, with the root file system once as tar, once unpacked and twice as a disk


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that goes into a golden image. uploads count with their content, which the bootstrap script names."""

    platform: str
    release: str
    title: str
    source: Target
    bootstrap: str
    steps: tuple[str, ...]
    disk_mib: int
    suite: str | None = None
    packages: tuple[str, ...] = ()
    mirror: str | None = None
    url: str | None = None
    digest: Digest | None = None
    form: int = _FORMAT
    uploads: tuple[Upload, ...] = ()
    state: str | None = None  # of the mirror's packages, where somebody has looked
    arch: Arch = Arch.AMD64

    @property
    def foreign(self) -> bool:
        """Whether this host's processor does not run its programs."""
        return self.arch is not arches.here()

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def description(self) -> str:
        """What image.json holds."""
        return json.dumps(self.to_json(), indent=1)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        # What was not there in an older labkit's recipe is left out where it says nothing: the key is the same then.
        said = {"uploads": False, "state": self.state is not None, "arch": self.arch is not Arch.AMD64}
        return {name: value for name, value in values.items() if said.get(name, True)}


def recipe(distro: Distro, settings: Settings, needs: Sequence[str] = (), *, box: bool = False) -> Recipe:
    """What the golden image of this release is made of, with the tools that needs names; box: for a Vagrant box.

    Raises UsageError where the release has no source of the kind that the settings ask for.
    """
    if box and distro.arch is not Arch.AMD64:
        raise no_box(distro)
    kind = settings.image if settings.image != "auto" else ("build" if distro.build else "cloud")
    source = {"build": Target.BOX, "cloud": Target.CLOUD_BOX}[kind] if box else Target(kind)
    common = (distro.platform.name, distro.release.name, distro.title, source)
    plan = bootstrap.prepare(distro, source, settings, needs)
    if source in (Target.BUILD, Target.BOX):
        made = distro.build
        if made is None:
            raise UsageError(
                f"{common[2]} cannot be built from packages here",
                hint='use its cloud image: image = "cloud" in labkit.toml',
            )
        return Recipe(
            *common,
            plan.script,
            plan.steps,
            settings.machine.disk,
            suite=made.suite,
            packages=tuple(made.packages),
            mirror=settings.mirror,
            uploads=plan.uploads,
            state=settings.mirror_state(distro.name),
            arch=distro.arch,
        )
    cloud = distro.cloud_image
    if cloud is None:
        raise UsageError(
            f"{common[2]} has no cloud image in its platform.toml",
            hint='build it from packages: image = "build" in labkit.toml',
        )
    from labkit.io.download import expected  # urllib3, which an image of packages needs not

    url, digest = expected(cloud, timeout=settings.limits.download)
    return Recipe(
        *common,
        plan.script,
        plan.steps,
        settings.machine.disk,
        url=url,
        digest=digest,
        uploads=plan.uploads,
        arch=distro.arch,
    )


def no_box(distro: Distro) -> UsageError:
    return UsageError(
        f"no box of {distro.title} is known, and labkit makes those of amd64 alone",
        hint="name one in labkit.toml (box = ...); or --provider qemu, which needs none",
    )


def _said(output: str) -> list[str]:
    """The lines of a build's last output that say why it failed."""
    return [line for line in output.splitlines() if not _OF_MMDEBSTRAP.fullmatch(line.strip())]


class Builder:
    """Makes the golden images of a lab's home."""

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer

    def ensure(self, wanted: Recipe, hardware: Hardware | None) -> Image:
        """The image, made now if necessary; hardware is what a cloud image, and nothing else, boots on for the first
        time.
        """
        if image := find(self._settings.home, wanted.key):
            return image
        limits = self._settings.limits
        timeout = limits.build if wanted.suite else limits.download + limits.build
        lock = self._settings.home.lock(f"image-{wanted.key}")
        waiting = self._observer.step
        with locked(lock, timeout=timeout, waiting=waiting, what=f"the image of {wanted.title}"):
            self._describe(wanted)
            if image := find(self._settings.home, wanted.key, self._observer.warn):
                return image
            self._give_up(wanted)
            making = self._settings.home.images / f"{wanted.key}.making"
            if making.exists():
                self._observer.step(f"removing an unfinished image of {wanted.title}")
                _discard(making)
            make_directory(making)
            require_space(making, _SPACE_BUILD)
            try:
                if wanted.suite:
                    self._build(wanted, making)
                else:
                    assert hardware is not None
                    self._first_boot(wanted, making, hardware)
                write_atomic(making / "image.json", wanted.description)
                sums.write(making, [name for name in ("disk.qcow2", "kernel", "initrd") if (making / name).exists()])
                making.chmod(0o700)  # not before: in a user namespace it is built by another user
                making.rename(new_directory(self._settings.home, wanted.key))
                sums.sync(self._settings.home.images)
            except LabError as error:
                self._count(wanted, error)
                raise
            finally:
                if making.exists():
                    _discard(making)
        image = find(self._settings.home, wanted.key)
        assert image is not None
        return image

    def _give_up(self, wanted: Recipe) -> None:
        """GivenUp where it has failed as often as it may; the caller holds the image's lock."""
        if (place := self._settings.failed_images) is None or not (note := place / f"{wanted.key}{_FAILED}").exists():
            return
        failures = note.read_text().splitlines()
        if len(failures) >= _TRIES:
            raise GivenUp(
                f"the image of {wanted.title} could not be made, and is not tried a {len(failures) + 1}th time: "
                f"{failures[-1]}"
            )

    def _count(self, wanted: Recipe, error: LabError) -> None:
        if place := self._settings.failed_images:
            # On a full disk what failed is the error itself, and not that it could not be counted.
            with contextlib.suppress(OSError), (place / f"{wanted.key}{_FAILED}").open("a") as note:
                note.write(f"{one_line(error.message, 1000)}\n")

    def _describe(self, wanted: Recipe) -> None:
        """Write the description of an image again where that alone is lost: the image's name says what it describes."""
        directory = self._settings.home.images / wanted.key
        if (directory / sums.SUMS).exists() and sums.wrong(directory) is None:
            with disk_errors(directory):
                write_atomic(directory / "image.json", wanted.description)

    def _build(self, wanted: Recipe, making: Path) -> None:
        self._observer.step(f"building an image of {wanted.title} from packages")
        limits = Deadline.after(self._settings.limits.build, "build")
        script = making / "bootstrap"
        script.write_text(wanted.bootstrap)
        begin, environment = apart(making, process.which(wanted.arch.interpreter) if wanted.foreign else None)

        def step(words: list[str | Path], failure: str) -> None:
            try:
                process.run(words, timeout=max(1.0, limits.left), env=environment, on_line=self._observer.detail)
            except ProgramFailed as error:
                if "No space left on device" in (error.hint or ""):
                    require_space(making, _SPACE_BUILD)
                said = _said(error.hint or "")
                why = f" within {limits.allowed}" if limits.passed else f": {said[-1] if said else error.message}"
                raise ImageError(f"{failure}{why}", hint="\n".join(said) or None) from error

        tar, tree, raw = making / "rootfs.tar", making / "rootfs", making / "disk.raw"
        step([*begin, *packaged(wanted, script, tar)], f"the image of {wanted.title} could not be built")
        self._observer.step("making a disk of it")
        tree.mkdir()
        unpack: list[str | Path] = ["tar", "-C", tree, "-xf", tar, "--exclude=./dev/*"]
        step([*_as_root(), *unpack], "the root file system could not be unpacked")
        tar.unlink()
        for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
            found = sorted((tree / "boot").glob(pattern))
            if not found:
                raise ImageError(
                    f"the image of {wanted.title} has no /boot/{pattern}", hint="add a kernel to its packages"
                )
            shutil.copyfile(found[-1], making / name)
        step(["truncate", "-s", f"{wanted.disk_mib}M", raw], "the disk could not be made")
        loader = wanted.source == Target.BOX
        mkfs: list[str | Path] = ["mkfs.ext4", "-q", "-F", "-L", "labkit", "-d", tree]
        mkfs += ["-E", f"offset={grub.START}", raw, f"{wanted.disk_mib - (grub.START >> 20)}M"] if loader else [raw]
        step([*_as_root(), *mkfs], "the file system could not be made")
        if loader:
            grub.install(raw, (tree / "boot/boot.img").read_bytes(), (tree / "boot/core.img").read_bytes())
        step(["qemu-img", "convert", "-O", "qcow2", raw, making / "disk.qcow2"], "the disk could not be made")
        raw.unlink()
        step([*_as_root(), "rm", "-rf", tree, making / TEMPORARY], "the build directory could not be removed")

    def _first_boot(self, wanted: Recipe, making: Path, hardware: Hardware) -> None:
        assert wanted.url is not None
        assert wanted.digest is not None
        limits = self._settings.limits
        self._observer.step(f"fetching the cloud image of {wanted.title}")
        from labkit.images.seed import write_iso  # pycdlib
        from labkit.io.download import fetch

        base = fetch(
            wanted.url,
            wanted.digest,
            self._settings.home.downloads,
            timeout=limits.download,
            progress=self._observer.progress,
            waiting=self._observer.step,
        )
        disk = making / "disk.qcow2"
        seed = making / "seed.iso"
        write_iso(
            seed,
            render.user_data(wanted.bootstrap, agent=True, sources=bool(wanted.uploads)),
            render.meta_data(f"labkit-{wanted.key}"),
            {PurePosixPath(upload.remote).name: upload.local for upload in wanted.uploads},
        )
        self._observer.step(f"booting {wanted.title} for the first time ({hardware.accelerator}), to bootstrap it")
        if hardware.network is Network.CLOSED:  # nothing but the publisher's image and labkit's bootstrap runs here
            hardware = dataclasses.replace(hardware, network=Network.OPEN)
        allowed = self._settings.named_addresses()
        deadline = Deadline.after(limits.build, "build")  # packages are installed in this boot

        def boot() -> None:
            _plain_disk(base, disk, wanted.disk_mib)
            with (
                ended(making),
                launch(making, hardware, Boot(seed=seed), disk, allowed) as monitor,
                Agent(making) as agent,
            ):
                script = _FORGET if wanted.source is Target.CLOUD_BOX else _SETTLED
                boot_and_run(agent, making, monitor, f"{_WAIT}{script}sync\n", deadline, self._observer)
                monitor.execute("system_powerdown")
                if not deadline.poll(lambda: not process.owned(making), every=0.05):
                    raise ImageError(f"{wanted.title} did not shut down after its first boot")

        again_after_panic(boot, self._observer)
        seed.unlink()


def packaged(wanted: Recipe, script: Path, target: Path) -> list[str | Path]:
    """The command that builds wanted's root file system as a tar archive at target, running script in its chroot."""
    assert wanted.suite is not None
    if wanted.foreign:
        # The modules of all there is take ten minutes of emulation to copy; these find the disk of a QEMU.
        listed = "virtio_pci\\nvirtio_blk\\next4\\n"
        other = [
            f"--architectures={wanted.arch}",
            "--skip=check/qemu",
            '--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"',
            '--essential-hook=echo MODULES=list >"$1/etc/initramfs-tools/conf.d/labkit"',
            f"--essential-hook=printf '{listed}' >\"$1/usr/share/initramfs-tools/modules.d/labkit\"",
        ]
    else:
        other = []
    hooks = [
        f"copy-in {shlex.quote(str(script))} /",
        f'mkdir -p "$1{bootstrap.SOURCES}"',
        *(f"upload {shlex.quote(str(upload.local))} {shlex.quote(upload.remote)}" for upload in wanted.uploads),
        'chroot "$1" /bin/sh /bootstrap',
        f'rm -r "$1/bootstrap" "$1{bootstrap.SOURCES}"',
    ]
    return mmdebstrap(
        wanted.suite,
        target,
        wanted.packages,
        hooks,
        wanted.mirror,
        form="tar",
        mode="root" if wanted.foreign else "auto",
        more=other,
    )


def _plain_disk(base: Path, disk: Path, mib: int) -> None:
    """Copy the image at base, a qcow2 or a raw disk, to a qcow2 of at least mib MiB.

    An image that refers to other files is refused before QEMU opens it: they could be files of this host. Offsets as
    in QEMU's docs/interop/qcow2.txt.
    """
    with base.open("rb") as file:
        head = file.read(512).ljust(512, b"\0")
    if head.startswith(b"QFI\xfb"):
        form, size = "qcow2", int.from_bytes(head[24:32])
        version, backing, features = (int.from_bytes(head[at:end]) for at, end in ((4, 8), (8, 16), (72, 80)))
        if backing or (version >= 3 and features & 4):
            raise ImageError(f"the disk image {base} refers to other files", hint="use an image that stands alone")
    elif head.endswith(b"\x55\xaa"):
        form, size = "raw", base.stat().st_size
    else:
        raise ImageError(f"{base} is neither a qcow2 image nor a raw disk", hint="unpack it, or name another image")
    try:
        process.run(["qemu-img", "convert", "-f", form, "-O", "qcow2", base, disk], timeout=600)
    except ProgramFailed as error:
        if "No space left on device" in (error.hint or ""):
            raise no_space(disk.parent) from error
        raise ImageError(f"the disk image {base} cannot be read: {error.message}", hint=error.hint) from error
    if size < mib << 20:
        process.run(["qemu-img", "resize", "-q", "-f", "qcow2", disk, f"{mib}M"], timeout=60)


def _as_root() -> list[str | Path]:
    """The command that makes this user root over its own subordinate ids; nothing for root."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-auto", "--map-root-user"]


def _discard(directory: Path) -> None:
    """Kill what a killed labkit left building in directory, and remove it."""
    process.end_owned(directory)
    try:
        process.run([*_as_root(), "rm", "-rf", "--one-file-system", directory], timeout=300)
    except ProgramFailed as error:
        raise InfrastructureError(f"cannot remove {directory}", hint=error.hint) from error

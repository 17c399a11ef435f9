"""Live states: a golden image booted once, and kept with its memory.

images/KEY/live-HARDWARE-NUMBER/{disk.qcow2, state, sums.json}: an overlay on the image's disk, and what QEMU restores a
guest from
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.observer import Observer
from labkit.images import sums
from labkit.images.golden import Image
from labkit.io import process
from labkit.io.console import console
from labkit.io.files import locked, make_directory, require_space
from labkit.qemu.agent import Agent
from labkit.qemu.hardware import Hardware
from labkit.qemu.launch import again_after_panic, boot_and_run, ended, launch, migrate, overlay

STATE = "state"
SPACE = 1024  # MiB that a state may take
_MAKING = ".making"
# Files that the first connection and the first run read are cached in the state, so that no restored machine reads them
# from disk. A guest that has not finished its boot would go on with it after every restore, so the state is kept once
# the guest is idle: less than a tenth of one CPU in a second.
_WARM = """sync
for file in /usr/sbin/sshd /usr/lib/openssh/sshd* /usr/libexec/openssh/sshd* /bin/sh /usr/bin/env /usr/bin/timeout \\
  /usr/bin/python3 /usr/sbin/runc /usr/bin/runc /usr/bin/crun; do
  test ! -f "$file" || cat "$file" >/dev/null
done
round=0
before=0
while test "$round" -lt 30; do
  read -r _ user nice system _ </proc/stat
  busy=$((user + nice + system))
  test $((busy - before)) -gt 10 || break
  before=$busy
  round=$((round + 1))
  sleep 1
done
"""


def live_state(image: Image, hardware: Hardware, settings: Settings, observer: Observer) -> Path:
    """The directory with the live state of image on hardware, made now if there is none that is whole.

    Each has a name of its own for ever: disks of machines stand on what is in it.
    """
    key = hashlib.sha256(f"{hardware.key} {_WARM}".encode()).hexdigest()[:16]
    if found := _whole(image, key):
        found.touch()  # `gc --keep` goes by it
        return found
    limits = settings.limits
    with locked(
        settings.home.lock(f"live-{image.directory.name}-{key}"),
        timeout=limits.boot * 2,
        waiting=observer.step,
        what=f"the first boot of {image.title}",
    ):
        if found := _whole(image, key):
            return found
        for bad in image.directory.glob(f"live-{key}*"):
            if bad.suffix != _MAKING and (why := wrong(bad)):
                observer.warn(f"a live state of {image.title} is damaged ({why}); making it again")
                throw_away(bad)
        observer.step(f"booting {image.title} once ({hardware.accelerator}), to keep its live state")
        require_space(image.directory, SPACE + 256)
        making = image.directory / f"live-{key}{_MAKING}"

        def boot() -> None:
            make_live(making, image, hardware, Deadline.after(limits.boot, "boot"), observer)

        try:
            again_after_panic(boot, observer)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        final = image.directory / f"live-{key}-{secrets.token_hex(4)}"
        making.rename(final)
        sums.sync(image.directory)
    return final


def _whole(image: Image, key: str) -> Path | None:
    found = (path for path in sorted(image.directory.glob(f"live-{key}*")) if path.suffix != _MAKING)
    return next((path for path in found if wrong(path) is None), None)


def wrong(directory: Path, *, content: bool = False) -> str | None:
    """What is wrong with a live state, as sums.wrong() says it."""
    if not (directory / STATE).exists():  # also what throw_away() has left
        return f"{directory / STATE} is missing"
    return sums.wrong(directory, content=content)


def throw_away(directory: Path) -> None:
    """Never restore a live state again. Its disk stays, which machines may stand on, until `gc` sees that none does."""
    (directory / STATE).unlink(missing_ok=True)


def make_live(directory: Path, image: Image, hardware: Hardware, deadline: Deadline, observer: Observer) -> None:
    """Boot image in directory and leave disk.qcow2 and state there; any former content of directory is removed."""
    process.end_owned(directory)
    shutil.rmtree(directory, ignore_errors=True)
    make_directory(directory, mode=0o700)
    disk = directory / "disk.qcow2"
    overlay(image.disk, disk)
    # The guest's agent waits for the next line while its port is open, and looks only now and then once it is closed:
    # a state is saved with the port open, so that the restored agent listens at once.
    with ended(directory), launch(directory, hardware, image.boot, disk) as monitor, Agent(directory) as agent:
        boot_and_run(agent, directory, monitor, _WARM, deadline, observer)
        monitor.execute("stop")
        migrate(monitor, directory / STATE, deadline)
        monitor.execute("quit")
        deadline.poll(lambda: not process.owned(directory))
    (directory / "boot.log").write_bytes(console(directory))
    sums.write(directory, ("disk.qcow2", STATE))

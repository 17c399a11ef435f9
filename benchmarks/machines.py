"""Machines against bare QEMU: `machines.py warm|reset|cold [--runs N]`. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import functools
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from common import Lab, lab, timed, told

from labkit.core import config
from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.images import golden
from labkit.images.build import packaged, recipe
from labkit.io.network import Network
from labkit.io.ssh import SshRemote
from labkit.machines import identity
from labkit.qemu import accelerator, hardware
from labkit.qemu.agent import Agent
from labkit.qemu.hardware import MONITOR, Boot, Hardware
from labkit.qemu.launch import overlay
from labkit.qemu.monitor import Monitor

ME = identity.new("floor")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("warm", "reset", "cold"))
    parser.add_argument("--runs", type=int, default=5)
    words = parser.parse_args()
    {"warm": warm, "reset": reset, "cold": cold}[words.what](words.runs)


def settings_of(made: Lab) -> config.Settings:
    return config.load({}, cwd=made.cwd, environ={"LABKIT_HOME": str(made.home)})


def hardware_of(settings: config.Settings) -> Hardware:
    chosen = accelerator.choose("auto", settings.home, settings.distro().arch)
    return hardware.here(chosen, settings.machine.cpus, settings.machine.memory, Network.OPEN)


def bare_argv(hw: Hardware, boot: Boot, disk: Path) -> list[str]:
    """The same hardware, with the memory in the process as a plain QEMU has it, and running at once."""
    name = str(uuid.uuid4())
    argv = hardware.argv(hw, boot, disk, port=0, uuid=name)
    argv.remove("-S")
    return argv


class Floor:
    """A bare QEMU with an internal snapshot of the booted system, driven by hand."""

    def __init__(self, made: Lab, directory: Path) -> None:
        settings = settings_of(made)
        image = golden.find(settings.home, recipe(settings.distro(), settings).key)
        assert image is not None
        self.hw = hardware_of(settings)
        self.directory, self.boot, self.disk = directory, image.boot, directory / "disk.qcow2"
        self.key, public = identity.client_key(settings.home)
        overlay(image.directory / "disk.qcow2", self.disk)
        with self.running() as monitor:
            script = identity.script(ME, public, now=time.time(), entropy="")
            with Agent(directory) as agent:
                agent.run(script, Deadline.after(300), "boot")
            self.login(monitor)
            time.sleep(2)
            monitor.execute("human-monitor-command", **{"command-line": "savevm live"})

    @contextlib.contextmanager
    def running(self, *more: str) -> Iterator[Monitor]:
        for name in ("agent.sock", MONITOR):
            (self.directory / name).unlink(missing_ok=True)
        argv = [*bare_argv(self.hw, self.boot, self.disk), *more]
        child = subprocess.Popen(argv, cwd=self.directory)
        try:
            with Monitor(self.directory, MONITOR, Deadline.after(30)) as monitor:
                yield monitor
        finally:
            child.kill()
            child.wait()

    def login(self, monitor: Monitor) -> None:
        """Until a command has run over SSH."""
        port = monitor.forwarded_port()
        known = self.directory / "known_hosts"
        known.write_text(identity.known_hosts_line("127.0.0.1", port, ME))
        with SshRemote(Endpoint("127.0.0.1", port, "root", self.key, known), Deadline.after(300)) as remote:
            remote.run(["true"], timeout=60)

    def loadvm(self) -> float:
        started = time.monotonic()
        with self.running("-loadvm", "live") as monitor:
            self.login(monitor)
            return time.monotonic() - started


def warm(runs: int) -> None:
    floors, ours = [], []
    with lab() as made, tempfile.TemporaryDirectory() as directory:
        made.run("up")
        floor = Floor(made, Path(directory))
        for _ in range(runs):
            made.run("destroy")
            floors.append(floor.loadvm())
            ours.append(timed(lambda: made.run("up")))
    told("warm up to an SSH command", floors, ours, "at most 1.5, and under 3 s")


def reset(runs: int) -> None:
    floors, ours = [], []
    with lab() as made, tempfile.TemporaryDirectory() as directory:
        made.run("up")
        floor = Floor(made, Path(directory))
        with floor.running("-loadvm", "live") as monitor:
            floor.login(monitor)

            def again() -> None:
                monitor.execute("human-monitor-command", **{"command-line": "loadvm live"})
                floor.login(monitor)

            for _ in range(runs):
                floors.append(timed(again))
                ours.append(timed(lambda: made.run("reset")))
    told("reset of a running machine to an SSH command", floors, ours, "at most 1.5")


def cold(runs: int) -> None:
    floors, ours = [], []
    for _ in range(runs):
        with lab() as made, tempfile.TemporaryDirectory() as directory:
            floors.append(timed(functools.partial(bare_cold, made, Path(directory))))
        with lab() as made:
            ours.append(timed(functools.partial(made.run, "up")))
    told("cold up to an SSH command", floors, ours, "at most 1.3")


def bare_cold(made: Lab, directory: Path) -> None:
    """The same image by hand, and a plain boot of it."""
    settings = settings_of(made)
    wanted = recipe(settings.distro(), settings)
    script = directory / "bootstrap"
    script.write_text(wanted.bootstrap)
    tree = directory / "rootfs"
    tree.mkdir()
    shell = f"""set -e; cd {directory}
tar -C rootfs -xf rootfs.tar --exclude='./dev/*'; rm rootfs.tar
truncate -s {wanted.disk_mib}M raw; mkfs.ext4 -q -F -d rootfs raw; qemu-img convert -O qcow2 raw disk.qcow2; rm raw"""
    subprocess.run(packaged(wanted, script, directory / "rootfs.tar"), check=True, capture_output=True)
    subprocess.run(["sh", "-c", shell], check=True)
    kernel, initrd = (sorted((tree / "boot").glob(name))[-1] for name in ("vmlinuz-*", "initrd.img-*"))
    hw = hardware_of(settings)
    key, public = identity.client_key(settings.home)
    child = subprocess.Popen(bare_argv(hw, Boot(kernel, initrd), directory / "disk.qcow2"), cwd=directory)
    try:
        with Monitor(directory, MONITOR, Deadline.after(30)) as monitor, Agent(directory) as agent:
            agent.run(identity.script(ME, public, now=time.time(), entropy=""), Deadline.after(300), "boot")
            port = monitor.forwarded_port()
            (directory / "known_hosts").write_text(identity.known_hosts_line("127.0.0.1", port, ME))
            endpoint = Endpoint("127.0.0.1", port, "root", key, directory / "known_hosts")
            with SshRemote(endpoint, Deadline.after(300)) as remote:
                remote.run(["true"], timeout=60)
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main()

"""The script that the first process of a User-Mode Linux guest runs: its network, who it is, and its init."""

from __future__ import annotations

from importlib import resources

from labkit.io.network import GUEST, RESOLVES, ROUTER

INITS = ("small", "systemd")


def script(init: str, identity: str) -> str:
    """init: one of INITS; identity: lines that run before anything of the guest's own starts."""
    values = f"address={GUEST}\nrouter={ROUTER}\nresolver={RESOLVES}\n"
    return f"{values}{_text('start')}{identity}{_text(init)}"


def words(init: str) -> list[str]:
    """What the kernel is told for that init: the disk has another name here, and the system's list of file systems,
    which it would wait for, is left out.
    """
    return ["fstab=no"] if init == "systemd" else []


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.sh").read_text()

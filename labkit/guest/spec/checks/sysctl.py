"""Sysctl and rootfs mount propagation: config-linux.md."""

from __future__ import annotations

from pathlib import Path

from ...common.procfs import mount_at
from ..context import SLEEPER, T, set_namespace
from ..registry import check


@check("SYSCTL-001")
def sysctl(t: T) -> None:
    values = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "8123"}
    files = {key: f"/proc/sys/{key.replace('.', '/')}" for key in values}
    hosts = {key: Path(file).read_text() for key, file in files.items()}
    if hosts["net.ipv4.ip_forward"].strip() == "1":
        values["net.ipv4.ip_forward"] = "0"
    config = t.config(["/bin/cat", *files.values()])
    set_namespace(config, "network")
    config["linux"]["sysctl"] = values
    t.equal(t.run(config).stdout.split(), list(values.values()), f"{' and '.join(values)} in the container")
    t.equal({key: Path(file).read_text() for key, file in files.items()}, hosts, "the host's values")
    config["linux"]["sysctl"] = {"net.ipv4.labkit_nosuch": "1"}
    t.refused(config, "create with a sysctl that does not exist")


@check("PROP-001")
def rootfs_propagation(t: T) -> None:
    for value in ("shared", "slave", "private", "unbindable"):
        config = t.config(SLEEPER)
        config["linux"]["rootfsPropagation"] = value
        c = t.create(config)
        root = mount_at(Path(f"/proc/{c.pid}/mountinfo").read_text(), "/")
        kinds = sorted(root.propagation) if root else ["no mount"]
        t.note(value, kinds)
        if value == "slave":  # runtimes make the parent mount private first, so it may have no master any more
            t.true(kinds in (["master"], []), "propagation of / for slave", "master", kinds)
        else:
            t.equal(kinds, [] if value == "private" else [value], f"propagation of / for {value}")

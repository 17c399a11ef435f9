"""Sysctl: config-linux.md#configLinuxSysctl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..context import Bundle, Config, T, drop_namespace, set_namespace
from ..parts import Part, part
from ..registry import check

IPC = {
    "kernel.msgmax": "8123",
    "kernel.shmmni": "4077",
    "fs.mqueue.msg_max": "13",
    "kernel.sem": "32001 1024000001 501 32002",
}
NET = {"net.ipv4.ip_forward": "1", "net.ipv4.ip_local_port_range": "20001 30002", "net.core.somaxconn": "123"}


def file(key: str) -> str:
    return f"/proc/sys/{key.replace('.', '/')}"


def now(keys: Mapping[str, str]) -> dict[str, str]:
    """The host's values: of the namespaces the suite is in, which are its own."""
    return {key: Path(file(key)).read_text() for key in keys}


def there(keys: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in keys.items() if Path(file(key)).exists()}


def printed(keys: Mapping[str, str]) -> str:
    return "; ".join(f"echo {key}: $(cat {file(key)})" for key in keys)


def compare(t: T, text: str, wanted: Mapping[str, str]) -> None:
    found = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    for key, value in wanted.items():
        t.equal(" ".join(found.get(key, "").split()), value, f"{key} in the container")


@part("root", "SYSCTL-001")
def ipc_sysctls(t: T, bundle: Bundle) -> Part:
    wanted = there(IPC)
    hosts = now(wanted)
    bundle.config["linux"].setdefault("sysctl", {}).update(wanted)
    seen = yield printed(wanted)
    compare(t, seen.stdout, wanted)
    t.equal(now(wanted), hosts, "the host's values")


@check("SYSCTL-002")
def net_sysctls(t: T) -> None:
    wanted = there(NET)
    hosts = now(wanted)
    if hosts["net.ipv4.ip_forward"].strip() == "1":
        wanted["net.ipv4.ip_forward"] = "0"
    config = with_sysctl(t, wanted)
    config["process"]["args"] = ["/bin/sh", "-c", printed(wanted)]
    compare(t, t.run(config).stdout, wanted)
    t.equal(now(wanted), hosts, "the host's values")


@check("SYSCTL-003")
def unknown_sysctls(t: T) -> None:
    good = {"net.ipv4.ip_forward": "1"}
    valid = with_sysctl(t, good)
    bad = {
        "a sysctl that does not exist": {"net.ipv4.labkit_nosuch": "1"},
        "a sysctl that does not exist, after another": {**good, "net.ipv4.zz_labkit_nosuch": "1"},
        "a value that the kernel refuses": {"net.ipv4.ip_forward": "labkit"},
    }
    for what, values in bad.items():
        t.refused(with_sysctl(t, values), f"create with {what}", valid=valid)


@check("SYSCTL-004")
def sysctls_of_the_host(t: T) -> None:
    cases = {"network": "net.ipv4.ip_forward", "ipc": "kernel.msgmax"}
    hosts = now({key: "" for key in cases.values()})
    for type, key in cases.items():
        value = str(int(hosts[key]) + (1 if int(hosts[key]) == 0 else -1))
        valid, offending = (with_sysctl(t, {key: value}) for _ in range(2))
        drop_namespace(offending, type)
        t.defer(Path(file(key)).write_text, hosts[key])
        t.refused(offending, f"create with a sysctl of the {type} namespace, but no such namespace", valid=valid)
    t.equal(now(hosts), hosts, "the host's values")


def with_sysctl(t: T, values: Mapping[str, str]) -> Config:
    config = t.config()
    set_namespace(config, "network")
    config["linux"]["sysctl"] = dict(values)
    return config

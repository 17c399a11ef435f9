"""Network devices moved into the container: config-linux.md#configLinuxNetworkDevices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

from ..context import SLEEPER, Config, T, set_namespace
from ..registry import check

ADDRESSES = ("10.123.45.6/24", "10.123.77.1/32")
ADDRESS6 = "fd00:6c6b::5/64"


def need_devices(t: T) -> None:
    t.need_spec((1, 3, 0), "linux.netDevices")
    if t.feature("linux", "netDevices", "enabled") is False:
        t.skip("this runtime has no network devices")


def device(t: T, name: str) -> None:
    """A device of the suite's own network namespace, gone after the check."""
    need_devices(t)
    for kind in ("dummy", "veth"):
        if t.tool("ip", "link", "add", name, "type", kind).ok:
            t.defer(t.tool, "ip", "link", "delete", name)
            return
    t.skip("this kernel makes no dummy or veth devices")


def here(name: str) -> bool:
    """In the suite's network namespace; /sys/class/net is of the host's."""
    return f" {name}:" in " " + Path("/proc/self/net/dev").read_text().replace("\n", "\n ")


def with_devices(t: T, args: Any, devices: dict[str, Any], path: Optional[str] = None) -> Config:
    config = t.config(args)
    set_namespace(config, "network", path)
    config["linux"]["netDevices"] = devices
    return config


def names(text: str) -> list[str]:
    """The devices that `ip link` lists, lo and those every namespace has left out."""
    found = re.findall(r"^\d+: ([^:@ ]+)[@:].*$", text, re.MULTILINE)
    born = ("lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0")
    return [name for name in found if name not in born]


def line(text: str, name: str) -> str:
    return next((one for one in text.splitlines() if re.match(rf"\d+: {re.escape(name)}[@:]", one)), "")


@check("NETDEV-001")
def moved(t: T) -> None:
    """Two that are listed, beside one that is not."""
    for name in ("lkmove1", "lkmove2", "lkstays"):
        device(t, name)
    c = t.run(with_devices(t, "ip link show", {"lkmove1": {}, "lkmove2": {}}))
    t.equal(sorted(names(c.stdout)), ["lkmove1", "lkmove2"], "devices in the container")
    t.equal([here(name) for name in ("lkmove1", "lkmove2")], [False, False], "devices that are left on the host")
    t.true(here("lkstays"), "a device that is not listed stays")


@check("NETDEV-002")
def renamed(t: T) -> None:
    device(t, "lkold1")
    device(t, "lkold2")
    c = t.run(with_devices(t, "ip link show", {"lkold1": {"name": "lkinside"}, "lkold2": {"name": "lkold1"}}))
    t.equal(sorted(names(c.stdout)), ["lkinside", "lkold1"], "names of the devices in the container")
    t.equal([here(name) for name in ("lkold1", "lkold2", "lkinside")], [False] * 3, "devices that are left on the host")


@check("NETDEV-003")
def brought_up(t: T) -> None:
    device(t, "lkdown")
    device(t, "lkup")
    t.require(t.tool("ip", "link", "set", "lkup", "up").ok, "a device can be brought up")
    c = t.run(with_devices(t, "ip link show", {"lkdown": {"name": "lkdown2"}, "lkup": {}}))
    for name, what in (("lkdown2", "that was down"), ("lkup", "that was up")):
        flags = re.search(r"<([^>]*)>", line(c.stdout, name))
        t.true(flags and "UP" in flags[1].split(","), f"a device {what} is up", "UP", line(c.stdout, name))


@check("NETDEV-004")
def addresses(t: T) -> None:
    device(t, "lkaddr")
    for address in ADDRESSES:
        t.require(t.tool("ip", "addr", "add", address, "dev", "lkaddr").ok, "an address can be given to a device")
    wanted = set(ADDRESSES)
    if t.tool("ip", "-6", "addr", "add", ADDRESS6, "dev", "lkaddr").ok:
        wanted.add(ADDRESS6)
    t.require(t.tool("ip", "link", "set", "lkaddr", "mtu", "1400").ok, "the MTU of a device can be set")
    hardware = "02:6c:6b:00:00:07"
    t.require(t.tool("ip", "link", "set", "lkaddr", "address", hardware).ok, "the hardware address can be set")
    c = t.run(with_devices(t, "ip addr show dev lkaddr2", {"lkaddr": {"name": "lkaddr2"}}))
    found = set(re.findall(r"inet6? (\S+)", c.stdout))
    t.equal(sorted(wanted & found), sorted(wanted), "permanent global addresses of the device")
    t.true("mtu 1400" in c.stdout, "MTU of the device", "mtu 1400", c.stdout)
    t.true(hardware in c.stdout, "hardware address of the device", hardware, c.stdout)


@check("NETDEV-005")
def clash(t: T) -> None:
    device(t, "lkclash")
    device(t, "lkvalid")
    valid = t.try_create(with_devices(t, SLEEPER, {"lkvalid": {"name": "lkelse"}}))
    what = "create with the name of a device that the container has"
    t.refused(with_devices(t, SLEEPER, {"lkclash": {"name": "lo"}}), what, valid=valid)


@check("NETDEV-009")
def refusal_leaves_the_device(t: T) -> None:
    device(t, "lkleft")
    device(t, "lkmoves")
    control = t.try_create(with_devices(t, SLEEPER, {"lkmoves": {}}))
    if not control.created.ok:
        t.skip(f"this runtime moves no device: {control.created.words}")
    c = t.try_create(with_devices(t, SLEEPER, {"lkleft": {"name": "lo"}}))
    if c.created.ok:
        t.skip("this runtime did not refuse a name that is taken")
    t.true(t.wait(lambda: here("lkleft"), 2), "the device is still on the host after the refusal")


@check("NETDEV-006")
def template(t: T) -> None:
    device(t, "lktempl1")
    device(t, "lktempl2")
    config = with_devices(t, "ip link show", {"lktempl1": {"name": "lkt%d"}, "lktempl2": {"name": "lkt%d"}})
    c = t.try_create(config)
    t.require(c.created.ok, "create with a template for the names of two devices", 0, c.created.describe())
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    found = names(c.stdout)
    t.equal(sorted(found), ["lkt0", "lkt1"], "names that the kernel made of lkt%d")


@check("NETDEV-007")
def no_such_device(t: T) -> None:
    device(t, "lkthere")
    valid = t.try_create(with_devices(t, SLEEPER, {"lkthere": {}}))
    t.refused(with_devices(t, SLEEPER, {"lkabsent": {}}), "create with a device that is not there", valid=valid)
    wrong = with_devices(t, SLEEPER, {"lkabsent": {"name": "lkname-that-is-much-too-long"}})
    t.refused(wrong, "create with a device and a name that is too long", valid=valid)


@check("NETDEV-008")
def stays_in_its_namespace(t: T) -> None:
    """A network namespace that outlives the container keeps the device, with the name that it has there."""
    device(t, "lkkept")
    holder = t.spawn([t.host.busybox, "unshare", "-n", t.host.busybox, "sleep", "1000"])
    own = Path("/proc/self/ns/net").readlink()
    path = Path(f"/proc/{holder.pid}/ns/net")
    t.require(t.wait(lambda: path.readlink() != own), "a network namespace to join")
    c = t.create(with_devices(t, SLEEPER, {"lkkept": {"name": "lkkept2"}}, str(path)))

    def inside() -> list[str]:
        return names(t.tool("nsenter", "-t", str(holder.pid), "-n", t.host.busybox, "ip", "link", "show").stdout)

    t.equal(inside(), ["lkkept2"], "devices in the network namespace that was joined")
    t.require(c.start().ok, "start exits 0")
    t.require(c.kill().ok, "kill exits 0")
    t.require(c.wait_stopped(), "the container stops")
    t.ok(c.delete(), "delete of a container with a device")
    t.equal(inside(), ["lkkept2"], "devices in the network namespace after delete")
    t.equal([here(name) for name in ("lkkept", "lkkept2")], [False, False], "devices that delete moved back")

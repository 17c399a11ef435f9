"""Block IO, huge pages, network and RDMA: config-linux.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from ..context import Bundle, Container, T
from ..controllers import (
    MIB,
    block_controller,
    files,
    kernel,
    lacking,
    limited,
    need,
    need_v1,
    need_v2,
    resources,
)
from ..parts import Part, part
from ..registry import check

BLOCK = Path("/sys/block")
V1_FILES = {
    "throttleReadBpsDevice": "blkio.throttle.read_bps_device",
    "throttleWriteBpsDevice": "blkio.throttle.write_bps_device",
    "throttleReadIOPSDevice": "blkio.throttle.read_iops_device",
    "throttleWriteIOPSDevice": "blkio.throttle.write_iops_device",
}
V2_KEYS = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}
RATES = {
    "throttleReadBpsDevice": 5011 * MIB,  # too large for 32 bits
    "throttleWriteBpsDevice": 4107 * MIB,
    "throttleReadIOPSDevice": 1100,
    "throttleWriteIOPSDevice": 700,
}
WEIGHT = 300


def block_io(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = resources(bundle.config).setdefault("blockIO", {})
    return found


def disks() -> list[tuple[int, int]]:
    """Major and minor numbers of two whole disks at most, real ones first."""
    if not BLOCK.is_dir():
        return []
    names = sorted((entry.name for entry in BLOCK.iterdir()), key=lambda name: (name[:4] in ("loop", "zram"), name))
    found = []
    for name in names[:2]:
        major, _, minor = (BLOCK / name / "dev").read_text().partition(":")
        found.append((int(major), int(minor)))
    return found


def on_device(entry: tuple[int, int], **more: int) -> dict[str, int]:
    return {"major": entry[0], "minor": entry[1], **more}


def of_device(text: Optional[str], device: tuple[int, int]) -> dict[str, str]:
    """A device's line of a cgroup file: "8:0 rbps=1 wbps=max" by keys, "8:0 1" as one with the key ""."""
    for line in (text or "").splitlines():
        words = line.split()
        if words[:1] == [f"{device[0]}:{device[1]}"]:
            return {key if equals else "": value if equals else key for key, equals, value in
                    (word.partition("=") for word in words[1:])}  # fmt: skip
    return {}


def weight_files(t: T) -> frozenset[str]:
    names = {"blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight"}
    return files(t, block_controller(t)) & names


def weight_of(t: T, c: Container) -> dict[str, str]:
    """By file, the weight that counts where no device's does."""
    found = {}
    for file in sorted(weight_files(t)):
        text = kernel(t, c, file if t.host.cgroup != "v2" else "", file) or ""
        found[file] = (text.splitlines() or [""])[0].replace("default", "").strip()
    return found


@part("cgroup", "CG-007")
def throttle(t: T, bundle: Bundle) -> Part:
    need(t, block_controller(t))
    devices = disks()
    if not devices:
        t.skip("no block device on this host")
    for kind in RATES:
        entries = [on_device(device, rate=RATES[kind] + 16 * number) for number, device in enumerate(devices)]
        block_io(bundle).setdefault(kind, []).extend(entries)
    seen = yield ":"
    for kind in RATES:
        for number, device in enumerate(devices):
            if t.host.cgroup == "v2":
                found = of_device(kernel(t, seen.c, "", "io.max"), device).get(V2_KEYS[kind])
            else:
                found = of_device(kernel(t, seen.c, V1_FILES[kind]), device).get("")
            t.equal(found, str(RATES[kind] + 16 * number), f"{kind} of {('a device', 'a second device')[number]}")


@part("cgroup", "CG-029")
def weight(t: T, bundle: Bundle) -> Part:
    need(t, block_controller(t))
    if not weight_files(t):
        t.skip("the kernel has no weight for block IO")
    block_io(bundle)["weight"] = WEIGHT
    seen = yield ":"
    expected = {name: str(1 + (WEIGHT - 10) * 9999 // 990) if name == "io.weight" else str(WEIGHT)
                for name in weight_files(t)}  # fmt: skip
    found = weight_of(t, seen.c)
    t.true(any(found[name] == expected[name] for name in expected), "weight for block IO", expected, found)


@check("CG-030")
def weight_device(t: T) -> None:
    need(t, block_controller(t))
    devices = disks()
    if not devices:
        t.skip("no block device on this host")
    (device, *_) = devices
    c = t.try_create(limited(t, {"blockIO": {"weightDevice": [on_device(device, weight=200)]}}))
    if not c.created.ok:  # only some schedulers of the device have it
        t.fails(c.created, "create with a weightDevice")
        return
    found = {}
    for file in ("io.bfq.weight",) if t.host.cgroup == "v2" else ("blkio.weight_device", "blkio.bfq.weight_device"):
        found[file] = of_device(kernel(t, c, "" if t.host.cgroup == "v2" else file, file), device).get("")
    if t.host.cgroup == "v2":
        scaled = of_device(kernel(t, c, "", "io.weight"), device).get("")
        found["io.weight"] = "200" if scaled == str(1 + 190 * 9999 // 990) else scaled
    t.true("200" in found.values(), "weight of a device, which create accepted", "200", found)


@check("CG-031")
def leaf_weight(t: T) -> None:
    need(t, block_controller(t))
    if t.host.cgroup == "v2":
        t.need_spec((1, 1, 0), "the rule for settings without a conversion")
    c = t.try_create(limited(t, {"blockIO": {"leafWeight": WEIGHT}}))
    if c.created.ok:
        value = None if t.host.cgroup == "v2" else kernel(t, c, "blkio.leaf_weight")
        t.equal(value, str(WEIGHT), "leafWeight, which create accepted")
    else:
        t.fails(c.created, "create with a leafWeight")


@check("CG-032")
def device_without_weight(t: T) -> None:
    need(t, block_controller(t))
    (device, *_) = disks() or [(1, 1)]
    t.refused(
        limited(t, {"blockIO": {"weightDevice": [on_device(device)]}}),
        "create with a weightDevice that has neither weight nor leafWeight",
        valid=limited(t, {"blockIO": {"weightDevice": [on_device(device, weight=200)]}}),
    )


def page_sizes() -> list[str]:
    """As the files of the hugetlb controller are called."""
    sizes = []
    for entry in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        size = int(entry.name[10:-2])
        sizes.append(
            next(f"{size >> shift}{unit}B" for shift, unit in ((20, "G"), (10, "M"), (0, "K")) if size >> shift)
        )
    return sorted(sizes)


@part("cgroup", "CG-008")
def huge_pages(t: T, bundle: Bundle) -> Part:
    need(t, "hugetlb")
    sizes = page_sizes()
    if not sizes:
        t.skip("no huge pages on this host")
    limits = {size: (3 + number) << 30 for number, size in enumerate(sizes)}
    given = [{"pageSize": size, "limit": limit} for size, limit in limits.items()]
    resources(bundle.config)["hugepageLimits"] = given
    seen = yield ":"
    for number, (size, limit) in enumerate(limits.items()):
        found = {}
        for way in (".rsvd", ""):
            name = f"hugetlb.{size}{way}"
            found[way] = kernel(t, seen.c, f"{name}.limit_in_bytes", f"{name}.max")
        size_of = ("a", "another")[number > 0]
        t.true(str(limit) in found.values(), f"limit of huge pages of {size_of} size", str(limit), found)
        if t.spec >= (1, 1, 0) and found[".rsvd"] is not None:  # the reservations are what it means by default
            t.equal(found[".rsvd"], str(limit), f"limit of the reservations of huge pages of {size_of} size")


@check("CG-048")
def no_such_page_size(t: T) -> None:
    size = (page_sizes() or ["2MB"])[0]
    config = limited(t, {"hugepageLimits": [{"pageSize": size, "limit": 8 * MIB}]})
    if lacking(t, "hugetlb"):
        t.refused(config, "create with a limit for huge pages without the controller")
        return
    offending = limited(t, {"hugepageLimits": [{"pageSize": "3MB", "limit": 6 * MIB}]})
    t.refused(offending, "create with a limit for huge pages of a size that the kernel lacks", valid=config)


@check("CG-033")
def rdma(t: T) -> None:
    """No device of this name is there, so neither can be applied."""
    given = {"labkit0": {"hcaHandles": 3, "hcaObjects": 100}}
    t.refused(limited(t, {"rdma": given}), "create with rdma limits of a device that is not there")
    what = "create with neither hcaHandles nor hcaObjects of a device"
    t.refused(limited(t, {"rdma": {"labkit0": {}}}), what, valid=limited(t, {"rdma": given}))


@check("CG-034")
def network(t: T) -> None:
    need_v1(t)
    for name, file, wanted, expected in (
        ("classID", "net_cls.classid", 0x100001, str(0x100001)),
        ("priorities", "net_prio.ifpriomap", [{"name": "lo", "priority": 7}], "lo 7"),
    ):
        c = t.try_create(limited(t, {"network": {name: wanted}}))
        if lacking(t, file.partition(".")[0]) or (lacking(t, "net_cls", "net_prio") and not c.created.ok):
            t.fails(c.created, f"create with network.{name} without its controller")
        elif t.ok(c.created, f"create with network.{name}"):
            lines = (kernel(t, c, file) or "").splitlines()
            t.true(expected in lines, f"network.{name}", expected, lines)


@check("CG-011")
def network_v2(t: T) -> None:
    t.need_spec((1, 1, 0), "the rule for settings without a conversion")
    need_v2(t)
    what = "on cgroup v2"
    t.refused(limited(t, {"network": {"classID": 0x100001}}), f"create with network.classID {what}")
    given = [{"name": "lo", "priority": 7}]
    t.refused(limited(t, {"network": {"priorities": given}}), f"create with network.priorities {what}")

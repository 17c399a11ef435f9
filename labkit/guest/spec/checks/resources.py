"""pids, unified, and what cannot be applied: config-linux.md."""

from __future__ import annotations

from typing import Any

from ...common.procfs import own_mounts
from ..context import SLEEPER, Bundle, T
from ..controllers import (
    MIB,
    files,
    in_made_cgroup,
    kernel,
    lacking,
    limited,
    make_cgroup,
    need,
    need_v2,
    resources,
)
from ..parts import Part, part
from ..registry import check
from .cgroups_memory import has_swap


@part("cgroup", "CG-006")
def pids(t: T, bundle: Bundle) -> Part:
    need(t, "pids")
    resources(bundle.config)["pids"] = {"limit": 70077}
    seen = yield ":"
    t.equal(kernel(t, seen.c, "pids.max", "pids.max"), "70077", "pids.max")


@check("CG-013")
def pids_unlimited(t: T) -> None:
    t.need_spec((1, 3, 0), "pids.limit of -1")
    need(t, "pids")
    config = in_made_cgroup(t, "pids", [("pids.max", "pids.max", "66")]) or t.config(SLEEPER)
    config["linux"]["resources"] = {"pids": {"limit": -1}}
    t.equal(kernel(t, t.create(config), "pids.max", "pids.max"), "max", "pids.max for -1")


@check("CG-014")
def pids_none(t: T) -> None:
    t.need_spec((1, 3, 0), "pids.limit of 0")
    need(t, "pids")
    c = t.try_create(limited(t, {"pids": {"limit": 0}}))
    t.note("pids.limit 0", c.created.describe())
    if c.created.ok:  # systemd knows no 0, so runtimes may take the closest value
        value = kernel(t, c, "pids.max", "pids.max")
        t.true(value in ("0", "1"), "pids.max for 0", "0 or 1", value)
    else:  # no process can be made in it, also none that a runtime needs to create a container
        t.skip("this runtime creates no container with a pids.limit of 0")


def unified_of(t: T) -> None:
    t.need_spec((1, 1, 0), "linux.resources.unified")
    need_v2(t)


@check("CG-010")
def unified(t: T) -> None:
    unified_of(t)
    need(t, "pids", "memory")
    given = {"pids.max": "77", "memory.high": str(64 * MIB), "cgroup.max.descendants": "5", "memory.oom.group": "1"}
    given["cgroup.max.depth"] = "3"
    directory = t.create(limited(t, {"unified": given})).cgroup_dir()
    for name, value in given.items():
        file = directory / name
        t.equal(file.read_text().strip() if file.exists() else None, value, name)


@check("CG-043")
def unified_unknown(t: T) -> None:
    unified_of(t)
    need(t, "pids")
    valid = limited(t, {"unified": {"pids.max": "77"}})
    for what, key, value in (
        ("a controller that does not exist", "nosuch.max", "1"),
        ("a file that its controller does not have", "pids.nosuch", "1"),
        ("a value that the kernel refuses", "pids.max", "labkit"),
    ):
        config = limited(t, {"unified": {"pids.max": "77", key: value}})
        t.refused(config, f"create with unified for {what}", valid=valid)


@check("CG-044")
def unified_enables(t: T) -> None:
    """In a cgroup of its own below one that has no controller enabled, and below one that cannot have it."""
    unified_of(t)
    need(t, "pids", "memory")
    wanted = {"unified": {"memory.high": str(64 * MIB), "pids.max": "77"}}
    config = limited(t, wanted)
    parent = make_cgroup(t, f"{config['linux']['cgroupsPath']}/parent")[""]
    for name in (parent.parent / "cgroup.subtree_control").read_text().split():
        (parent.parent / "cgroup.subtree_control").write_text(f"-{name}")
    config["linux"]["cgroupsPath"] += "/parent/child"
    c = t.create(config)
    there = (c.cgroup_dir() / "cgroup.controllers").read_text().split()
    t.true({"memory", "pids"} <= set(there), "controllers that unified needs are enabled", "memory, pids", there)
    t.equal(kernel(t, c, "", "memory.high"), str(64 * MIB), "memory.high below a cgroup without controllers")
    config = limited(t, wanted)
    parent = make_cgroup(t, config["linux"]["cgroupsPath"])[""]
    (parent / "cgroup.procs").write_text(str(t.spawn([t.host.busybox, "sleep", "1000"]).pid))
    config["linux"]["cgroupsPath"] += "/child"
    t.refused(config, "create with unified for a controller that cannot be enabled", valid=c)


@check("CG-045")
def unified_v1(t: T) -> None:
    t.need_spec((1, 1, 0), "linux.resources.unified")
    if t.host.cgroup == "v2":
        t.skip("needs cgroup v1")
    t.refused(limited(t, {"unified": {"pids.max": "77"}}), "create with unified on cgroup v1")


@check("CG-046")
def refused_by_the_kernel(t: T) -> None:
    """Each of these is one value that the kernel does not take, beside others that it does."""
    valid: dict[str, Any] = {}
    offences: list[tuple[str, str, str, Any]] = []
    if not lacking(t, "cpu"):
        valid["cpu"] = {"quota": 300000, "period": 100000}
        offences.append(("a CPU period of 10 microseconds", "cpu", "period", 10))
    if not lacking(t, "memory"):
        valid["memory"] = {"limit": 128 * MIB}
        if has_swap(t):
            valid["memory"]["swap"] = 160 * MIB
            offences.append(("less memory and swap than memory", "memory", "swap", 64 * MIB))
        if "memory.swappiness" in files(t, "memory"):
            valid["memory"]["swappiness"] = 50
            offences.append(("a swappiness of 101", "memory", "swappiness", 101))
    if not lacking(t, "cpuset"):
        valid.setdefault("cpu", {}).update(cpus="0")
        offences.append(("a list of CPUs that is none", "cpu", "cpus", "labkit"))
        offences.append(("a CPU that the kernel cannot have", "cpu", "cpus", "99999"))
    if not offences:
        t.skip(lacking(t, "cpu", "memory"))
    for what, group, key, value in offences:
        offending = {name: dict(settings) for name, settings in valid.items()}
        offending[group][key] = value
        t.refused(limited(t, offending), f"create with {what}", valid=limited(t, valid))


@check("RDT-001")
def no_resctrl(t: T) -> None:
    if any(mount.type == "resctrl" for mount in own_mounts()):
        t.skip("resctrl is mounted here, and this check is about its absence")
    for what, given in (
        ("a closID", {"closID": "labkit"}),
        ("an L3 cache schema", {"closID": "labkit", "l3CacheSchema": "L3:0=f"}),
        ("nothing in it", {}),
    ):
        config = t.config(SLEEPER)
        config["linux"]["intelRdt"] = given
        t.refused(config, f"create with intelRdt, {what}, without resctrl")

"""Control groups: config-linux.md "Control groups" and "Unified"."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, Optional

from ...common.cgroups import CGROUP_ROOT
from ..context import CALL_TIMEOUT, SLEEPER, Container, T, alive
from ..registry import check

MIB = 1 << 20


def lacking(t: T, *controllers: str) -> str:
    """Which of these controllers the host's cgroups lack, in words; empty where they have them all."""
    if t.host.cgroup == "v2":
        there = (CGROUP_ROOT / "cgroup.controllers").read_text().split()
    else:
        there = re.split(r"[:,\n]", Path("/proc/self/cgroup").read_text())
    missing = set(controllers) - set(there)
    return f"no cgroup controller {', '.join(sorted(missing))}" if missing else ""


def need(t: T, *controllers: str) -> None:
    """Skip where the host's cgroups lack one of these controllers."""
    if why := lacking(t, *controllers):
        t.skip(why)


def limited(t: T, resources: dict[str, Any]) -> Container:
    """A container that was created, with these resources."""
    config = t.config(SLEEPER)
    config["linux"]["resources"] = resources
    return t.create(config)


def kernel(t: T, c: Container, v1: str, v2: str) -> Optional[str]:
    """What the kernel has in the container's cgroup file, or None when there is no such file."""
    file = c.cgroup_dir(v1.partition(".")[0]) / (v2 if t.host.cgroup == "v2" else v1)
    return file.read_text().strip() if file.exists() else None


def make_cgroup(t: T, path: str) -> dict[str, Path]:
    """Make the cgroup for a cgroupsPath ourselves. Returns its directories: of v2, else of some v1 controllers."""
    names = [""] if t.host.cgroup == "v2" else ["devices", "freezer", "pids"]
    made = {name: CGROUP_ROOT / name / path.lstrip("/") for name in names if (CGROUP_ROOT / name).is_dir()}
    for directory in made.values():
        directory.mkdir(parents=True)
    return made


@check("CG-001")
def absolute_path(t: T) -> None:
    need(t, "pids")
    config = t.config(SLEEPER)
    config["linux"]["cgroupsPath"] += "/deep/er"
    config["linux"]["resources"] = {"pids": {"limit": 100}}
    c = t.create(config)
    path = CGROUP_ROOT / ("" if t.host.cgroup == "v2" else "pids") / config["linux"]["cgroupsPath"].lstrip("/")
    t.equal(str(c.cgroup_dir("pids")), str(path), "cgroup of the container's process")


@check("CG-002")
def same_path_same_place(t: T) -> None:
    need(t, "pids")
    config = t.config(SLEEPER)
    relative = config["linux"]["cgroupsPath"] = config["linux"]["cgroupsPath"].lstrip("/")
    config["linux"]["resources"] = {"pids": {"limit": 100}}
    first = t.try_create(config)
    if not first.created.ok:
        t.fails(first.created, "create with a relative cgroupsPath")
        t.skip("this runtime refuses a relative cgroupsPath, as the spec allows")
    places = [Path(f"/proc/{first.pid}/cgroup").read_text()]
    t.true(str(first.cgroup_dir("pids")).endswith(f"/{relative}"), "cgroup", f".../{relative}", places[0])
    t.require(first.delete(force=True).ok, "delete --force exits 0")
    second = t.create(config)
    places.append(Path(f"/proc/{second.pid}/cgroup").read_text())
    t.equal(places[1], places[0], "cgroups of a second container with this relative cgroupsPath")


@check("CG-003")
def unfit_cgroup(t: T) -> None:
    for what in ("populated", "frozen"):
        config = t.config(SLEEPER)
        directories = make_cgroup(t, config["linux"]["cgroupsPath"])
        other = t.spawn([t.host.busybox, "sleep", "1000"]).pid
        if what == "populated":
            for directory in directories.values():
                (directory / "cgroup.procs").write_text(str(other))
        elif t.host.cgroup == "v2":
            (directories[""] / "cgroup.freeze").write_text("1")
        elif "freezer" in directories:
            (directories["freezer"] / "freezer.state").write_text("FROZEN")
        c = t.try_create(config, timeout=5 if what == "frozen" else CALL_TIMEOUT)
        t.note(f"create in a {what} cgroup", c.created.describe())
        if c.created.ok:
            t.true(alive(c.pid), f"the process of a container created in a {what} cgroup lives")
        elif what == "populated" or c.created.status is not None:  # who does not check may hang in a frozen one
            t.fails(c.created, f"create in a {what} cgroup")
            t.fails(c.state(), f"state after create in a {what} cgroup failed")
        t.true(alive(other), "the process that was in the cgroup lives")


@check("CG-004")
def memory(t: T) -> None:
    need(t, "memory")
    v2 = t.host.cgroup == "v2"
    swap = (Path("/proc/swaps") if v2 else CGROUP_ROOT / "memory/memory.memsw.limit_in_bytes").exists()
    limits = {"limit": 64 * MIB, "reservation": 32 * MIB, **({"swap": 96 * MIB} if swap else {})}
    c = limited(t, {"memory": limits})
    t.equal(kernel(t, c, "memory.limit_in_bytes", "memory.max"), str(64 * MIB), "memory limit")
    t.equal(kernel(t, c, "memory.soft_limit_in_bytes", "memory.low"), str(32 * MIB), "memory reservation")
    files = ["memory.limit_in_bytes", "memory.max"], ["memory.memsw.limit_in_bytes", "memory.swap.max"]
    if swap:  # v1 counts memory and swap, v2 swap alone
        t.equal(kernel(t, c, *files[1]), str((32 if v2 else 96) * MIB), "memory.swap")
    c = limited(t, {"memory": {"limit": -1, **({"swap": -1} if swap else {})}})
    for name in files if swap else files[:1]:
        value = kernel(t, c, *name) or ""
        unlimited = value == "max" if v2 else value.isdigit() and int(value) >= 1 << 62
        t.true(unlimited, f"{name[v2]} when configured as -1", "no limit", value)


@check("CG-005")
def cpu(t: T) -> None:
    need(t, "cpu")
    v2 = t.host.cgroup == "v2"
    unseen = lacking(t, "cpuset")  # the rest is judged all the same
    cpus = str(max(os.sched_getaffinity(0)))
    mems = re.search(r"^Mems_allowed_list:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    limits: dict[str, Any] = {"shares": 512, "quota": 50000, "period": 200000}
    if not unseen:
        limits.update(cpus=cpus, mems=mems[1] if mems else "0")
    if t.spec >= (1, 1, 0) and t.host.kernel >= (5, 14):
        limits["burst"] = 30000
    c = limited(t, {"cpu": limits})
    if v2:  # two conversions are in use; runc 1.3.2 and crun 1.23 brought the second
        exponent = (9 * 9 + 125 * 9) / 612 - 7 / 34  # 9 is log2(512)
        weights = [str(1 + (512 - 2) * 9999 // 262142), str(math.ceil(10**exponent))]
        weight = kernel(t, c, "cpu.shares", "cpu.weight")
        t.true(weight in weights, "cpu.weight for 512 shares", " or ".join(weights), weight)
        t.equal(kernel(t, c, "cpu.cfs_quota_us", "cpu.max"), "50000 200000", "cpu.max")
    else:
        t.equal(kernel(t, c, "cpu.shares", ""), "512", "cpu.shares")
        t.equal(kernel(t, c, "cpu.cfs_quota_us", ""), "50000", "cpu.cfs_quota_us")
        t.equal(kernel(t, c, "cpu.cfs_period_us", ""), "200000", "cpu.cfs_period_us")
    if not unseen:
        t.equal(kernel(t, c, "cpuset.cpus", "cpuset.cpus"), limits["cpus"], "cpuset.cpus")
        t.equal(kernel(t, c, "cpuset.mems", "cpuset.mems"), limits["mems"], "cpuset.mems")
    burst = kernel(t, c, "cpu.cfs_burst_us", "cpu.max.burst") if "burst" in limits else None
    seen: dict[str, tuple[Optional[str], str]] = {"burst": (burst, "30000")} if burst is not None else {}
    if v2 and t.spec >= (1, 1, 0) and t.host.kernel >= (5, 15):
        seen["idle"] = kernel(t, limited(t, {"cpu": {"idle": 1}}), "cpu.idle", "cpu.idle"), "1"
    for name, (actual, expected) in seen.items():
        t.equal(actual, expected, f"cpu.{name}")
    if unseen:
        t.skip(f"{unseen}: cpus and mems cannot be seen here; the rest is as configured")


@check("CG-006")
def pids(t: T) -> None:
    need(t, "pids")
    t.equal(kernel(t, limited(t, {"pids": {"limit": 77}}), "pids.max", "pids.max"), "77", "pids.max")
    if t.spec >= (1, 3, 0):  # older ones say nothing of -1 and 0
        t.equal(kernel(t, limited(t, {"pids": {"limit": -1}}), "pids.max", "pids.max"), "max", "pids.max for -1")
        config = t.config(SLEEPER)
        config["linux"]["resources"] = {"pids": {"limit": 0}}
        c = t.try_create(config)
        t.note("pids.limit 0", c.created.describe())
        if c.created.ok:  # systemd knows no 0, so runtimes may take the closest value
            value = kernel(t, c, "pids.max", "pids.max")
            t.true(value in ("0", "1"), "pids.max for 0", "0 or 1", value)


@check("CG-009")
def device_rules(t: T) -> None:
    need(t, *([] if t.host.cgroup == "v2" else ["devices"]))
    # Major 60 is for local use and has no driver: opening fails with ENXIO when allowed, with EPERM when denied.
    local = [(1, True, "rwm"), (2, True, "rwm"), (2, False, "rwm"), (3, True, "r"), (4, False, "rwm"), (4, True, "rwm")]
    allowed = [("1", ""), ("3", "read"), ("4", "")]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [{"allow": a, "type": "c", "major": 60, "minor": n, "access": access} for n, a, access in local]
    rules += [{"allow": True, "type": "c", "major": 1, "minor": n, "access": "rwm"} for n in (3, 5, 7, 8, 9)]
    rules += [{"allow": True, "type": "c", "major": n, "access": "rwm"} for n in (5, 136)]
    bundle = t.bundle("for n in 1 2 3 4 5; do echo $n read; (: </node$n); echo $n write; (: >>/node$n); done 2>&1")
    bundle.config["linux"]["resources"] = {"devices": rules}
    bundle.write(bundle.config)
    try:
        for minor in range(1, 6):
            os.mknod(bundle.rootfs / f"node{minor}", stat.S_IFCHR | 0o666, os.makedev(60, minor))
    except OSError as error:
        t.skip(f"cannot make device nodes on this host: {error.strerror}")
    said = t.run(bundle).stdout.splitlines()
    t.require(len(said) == 20, "20 lines of the probe", 20, said)
    for number in range(0, 20, 2):
        what, answer = said[number : number + 2]
        minor_text, access = what.split()
        may = (minor_text, "") in allowed or (minor_text, access) in allowed
        expected = os.strerror(errno.ENXIO if may else errno.EPERM)
        t.true(answer.endswith(expected), f"open of c 60:{what}", expected, answer)


@check("CG-010")
def unified(t: T) -> None:
    if t.host.cgroup != "v2":
        t.skip("needs cgroup v2")
    if t.spec < (1, 1, 0):
        t.skip("linux.resources.unified is new in runtime-spec 1.1.0")
    need(t, "pids", "memory")
    given = {"pids.max": "77", "memory.high": str(64 * MIB), "cgroup.max.descendants": "5"}
    directory = limited(t, {"unified": given}).cgroup_dir()
    for name, value in given.items():
        file = directory / name
        t.equal(file.read_text().strip() if file.exists() else None, value, name)
    config = t.config()
    config["linux"]["resources"] = {"unified": {"nosuch.max": "1"}}
    t.refused(config, "create with unified for a controller that does not exist")

"""CPU time and CPU sets: config-linux.md "CPU"."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..context import Bundle, T
from ..controllers import (
    directories,
    files,
    hierarchy,
    in_made_cgroup,
    kernel,
    limited,
    need,
    need_v1,
    need_v2,
    numbers,
    resources,
)
from ..parts import Part, part
from ..registry import check

SHARES = 512
QUOTA, PERIOD = 450000, 150000  # three CPUs: less makes create itself slow, and on a slow machine very slow


def cpu(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = resources(bundle.config).setdefault("cpu", {})
    return found


def weights(shares: int) -> list[str]:
    """Of v2. Two conversions are in use; runc 1.3.2 and crun 1.23 brought the second."""
    log = math.log2(shares)
    exponent = (log * log + 125 * log) / 612 - 7 / 34
    return [str(1 + (shares - 2) * 9999 // 262142), str(math.ceil(10**exponent))]


@part("cgroup", "CG-005")
def shares(t: T, bundle: Bundle) -> Part:
    need(t, "cpu")
    cpu(bundle)["shares"] = SHARES
    seen = yield ":"
    value = kernel(t, seen.c, "cpu.shares", "cpu.weight")
    expected = weights(SHARES) if t.host.cgroup == "v2" else [str(SHARES)]
    t.true(value in expected, "CPU shares", " or ".join(expected), value)


@check("CG-056")
def least_and_most_shares(t: T) -> None:
    need(t, "cpu")
    for what, given, weight in ("least", 2, 1), ("most", 262144, 10000):
        c = t.create(limited(t, {"cpu": {"shares": given}}))
        expected = str(weight if t.host.cgroup == "v2" else given)
        t.equal(kernel(t, c, "cpu.shares", "cpu.weight"), expected, f"the {what} CPU shares that the kernel has")


@part("cgroup", "CG-023")
def quota(t: T, bundle: Bundle) -> Part:
    need(t, "cpu")
    cpu(bundle).update(quota=QUOTA, period=PERIOD)
    seen = yield ":"
    if t.host.cgroup == "v2":
        t.equal(kernel(t, seen.c, "cpu", "cpu.max"), f"{QUOTA} {PERIOD}", "CPU quota and period")
    else:
        t.equal(kernel(t, seen.c, "cpu.cfs_quota_us"), str(QUOTA), "CPU quota")
        t.equal(kernel(t, seen.c, "cpu.cfs_period_us"), str(PERIOD), "CPU period")


@part("cgroup", "CG-024")
def cpu_set(t: T, bundle: Bundle) -> Part:
    need(t, "cpuset")
    usable = sorted(os.sched_getaffinity(0))
    # As a list and as a range; on v1 never all of them, which every cgroup has from its parent.
    cpus = f"{usable[0]},{usable[-1]}" if len(usable) > 2 else f"{usable[-1]}-{usable[-1]}"
    mems = re.search(r"^Mems_allowed_list:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    cpu(bundle).update(cpus=cpus, mems=mems[1] if mems else "0")
    seen = yield "grep Cpus_allowed_list: /proc/self/status"
    value = kernel(t, seen.c, "cpuset.cpus", "cpuset.cpus")
    t.equal(sorted(numbers(value or "")), sorted(numbers(cpus)), "cpuset.cpus")
    t.equal(kernel(t, seen.c, "cpuset.mems", "cpuset.mems"), mems[1] if mems else "0", "cpuset.mems")
    t.equal(sorted(numbers(seen.stdout)), sorted(numbers(cpus)), "CPUs that the container's process may use")


@part("cgroup", "CG-025")
def burst(t: T, bundle: Bundle) -> Part:
    t.need_spec((1, 1, 0), "cpu.burst")
    need(t, "cpu")
    if not files(t, "cpu") & {"cpu.cfs_burst_us", "cpu.max.burst"}:
        t.skip("the kernel has no CPU burst")
    cpu(bundle).update(quota=QUOTA, period=PERIOD, burst=30000)
    seen = yield ":"
    t.equal(kernel(t, seen.c, "cpu.cfs_burst_us", "cpu.max.burst"), "30000", "CPU burst")


@check("CG-026")
def idle(t: T) -> None:
    t.need_spec((1, 1, 0), "cpu.idle")
    need(t, "cpu")
    if "cpu.idle" not in files(t, "cpu"):
        t.skip("the kernel has no cpu.idle")
    c = t.create(limited(t, {"cpu": {"idle": 1}}))
    t.equal(kernel(t, c, "cpu.idle", "cpu.idle"), "1", "cpu.idle of 1")
    config = in_made_cgroup(t, "cpu", [("cpu.idle", "cpu.idle", "1")])
    if config:
        config["linux"]["resources"] = {"cpu": {"idle": 0}}
        c = t.try_create(config)
        if c.created.ok:  # a runtime may refuse a cgroup that is there
            t.equal(kernel(t, c, "cpu.idle", "cpu.idle"), "0", "cpu.idle of 0")


@check("CG-027")
def realtime(t: T) -> None:
    need_v1(t, "cpu")
    if "cpu.rt_runtime_us" not in files(t, "cpu"):
        t.skip("the kernel has no realtime group scheduling")
    wanted = {"cpu": {"realtimeRuntime": 1500, "realtimePeriod": 900000}}
    config = limited(t, wanted)
    own = directories(t, config["linux"]["cgroupsPath"])["cpu"]
    own.parent.mkdir(parents=True, exist_ok=True)
    top = hierarchy(t, "cpu")
    for directory in (own.parent.parent, own.parent):  # no cgroup may have more than its parent
        if directory != top:
            with suppress(OSError):
                (directory / "cpu.rt_runtime_us").write_text("20000")
    c = t.try_create(config)
    if c.created.ok:
        t.equal(kernel(t, c, "cpu.rt_runtime_us"), "1500", "realtime runtime")
        t.equal(kernel(t, c, "cpu.rt_period_us"), "900000", "realtime period")
    else:  # this kernel, or who uses the rest of the time, does not let it
        t.fails(c.created, "create with realtimeRuntime and realtimePeriod")


@check("CG-028")
def no_quota(t: T) -> None:
    need(t, "cpu")
    config = in_made_cgroup(t, "cpu", [("cpu.cfs_quota_us", "cpu.max", "270000")])
    config = config or limited(t, {})
    config["linux"]["resources"] = {"cpu": {"quota": -1, "period": 150000}}
    c = t.create(config)
    if t.host.cgroup == "v2":
        t.equal(kernel(t, c, "cpu", "cpu.max"), "max 150000", "CPU quota of -1 with a period")
    else:
        t.equal(kernel(t, c, "cpu.cfs_quota_us"), "-1", "CPU quota of -1")
        t.equal(kernel(t, c, "cpu.cfs_period_us"), "150000", "CPU period with a quota of -1")


@check("CG-051")
def realtime_v2(t: T) -> None:
    t.need_spec((1, 1, 0), "the rule for settings without a conversion")
    need_v2(t, "cpu")
    for name, value in ("realtimeRuntime", 1500), ("realtimePeriod", 900000):
        t.refused(limited(t, {"cpu": {name: value}}), f"create with cpu.{name} on cgroup v2")


@check("CG-052")
def quota_alone(t: T) -> None:
    """Each of quota and period without the other."""
    need(t, "cpu")
    v2 = t.host.cgroup == "v2"
    for given, expected in (({"quota": 250000}, ("250000", "100000")), ({"period": 80000}, ("max", "80000"))):
        c = t.create(limited(t, {"cpu": given}))
        what = f"CPU {' '.join(given)} alone"
        if v2:
            t.equal(kernel(t, c, "cpu", "cpu.max"), " ".join(expected), what)
        else:
            found = (kernel(t, c, "cpu.cfs_quota_us"), kernel(t, c, "cpu.cfs_period_us"))
            t.equal(list(found), [expected[0].replace("max", "-1"), expected[1]], what)

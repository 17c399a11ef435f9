"""Memory: config-linux.md "Memory"."""

from __future__ import annotations

from typing import Any

from ..context import Bundle, T
from ..controllers import (
    MIB,
    applied_or_refused,
    files,
    in_made_cgroup,
    kernel,
    limited,
    make_cgroup,
    need,
    need_v1,
    need_v2,
    resources,
    unlimited,
)
from ..parts import Part, part
from ..registry import check

LIMIT = 5000 * MIB + 3 * 65536  # whole pages of every size, no round number, and too large for 32 bits
RESERVATION = 4200 * MIB + 65536
SWAP = LIMIT + 4300 * MIB
V1_SWAP, V2_SWAP = "memory.memsw.limit_in_bytes", "memory.swap.max"


def memory(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = resources(bundle.config).setdefault("memory", {})
    return found


def has_swap(t: T) -> bool:
    """The kernel counts swap."""
    return (V2_SWAP if t.host.cgroup == "v2" else V1_SWAP) in files(t, "memory")


@part("cgroup", "CG-004")
def limit(t: T, bundle: Bundle) -> Part:
    need(t, "memory")
    memory(bundle).update(limit=LIMIT, reservation=RESERVATION)
    seen = yield ":"
    t.equal(kernel(t, seen.c, "memory.limit_in_bytes", "memory.max"), str(LIMIT), "memory limit")


@part("cgroup", "CG-015")
def reservation(t: T, bundle: Bundle) -> Part:
    need(t, "memory")
    memory(bundle).update(limit=LIMIT, reservation=RESERVATION)
    seen = yield ":"
    t.equal(kernel(t, seen.c, "memory.soft_limit_in_bytes", "memory.low"), str(RESERVATION), "memory reservation")


@part("cgroup", "CG-016")
def swap(t: T, bundle: Bundle) -> Part:
    need(t, "memory")
    if not has_swap(t):
        t.skip("the kernel does not count swap of cgroups")
    memory(bundle).update(limit=LIMIT, swap=SWAP)
    seen = yield ":"
    expected = SWAP - LIMIT if t.host.cgroup == "v2" else SWAP  # v1 counts memory and swap, v2 swap alone
    t.equal(kernel(t, seen.c, V1_SWAP, V2_SWAP), str(expected), "limit of memory and swap")


@check("CG-055")
def no_swap(t: T) -> None:
    need(t, "memory")
    if not has_swap(t):
        t.skip("the kernel does not count swap of cgroups")
    c = t.create(limited(t, {"memory": {"limit": LIMIT, "swap": LIMIT}}))
    expected = "0" if t.host.cgroup == "v2" else str(LIMIT)
    t.equal(kernel(t, c, V1_SWAP, V2_SWAP), expected, "memory and swap that is memory alone")


@check("CG-017")
def no_limit(t: T) -> None:
    need(t, "memory")
    settings = [("memory.limit_in_bytes", "memory.max", "limit")]
    settings += [(V1_SWAP, V2_SWAP, "swap")] if has_swap(t) else []
    settings += [("memory.soft_limit_in_bytes", "memory.low", "reservation")]
    config = in_made_cgroup(t, "memory", [(v1, v2, str(LIMIT)) for v1, v2, _ in settings])
    config = config or limited(t, {})
    config["linux"]["resources"] = {"memory": {name: -1 for *_, name in settings}}
    c = t.create(config)
    for v1, v2, name in settings:
        value = kernel(t, c, v1, v2)
        t.true(unlimited(value), f"memory.{name} of -1", "no limit", value)


@part("cgroup", "CG-018")
def swappiness(t: T, bundle: Bundle) -> Part:
    need_v1(t, "memory")
    memory(bundle)["swappiness"] = 37
    seen = yield ":"
    t.equal(kernel(t, seen.c, "memory.swappiness"), "37", "memory.swappiness")


@part("cgroup", "CG-019")
def no_oom_killer(t: T, bundle: Bundle) -> Part:
    need_v1(t, "memory")
    if "memory.oom_control" not in files(t, "memory"):
        t.skip("the kernel has no memory.oom_control")
    memory(bundle)["disableOOMKiller"] = True
    seen = yield ":"
    value = kernel(t, seen.c, "memory.oom_control") or ""
    t.equal(value.splitlines()[:1], ["oom_kill_disable 1"], "the OOM killer is disabled")


@check("CG-020")
def kernel_memory(t: T) -> None:
    need_v1(t, "memory")
    size = 48 * MIB
    applied_or_refused(t, {"memory": {"kernel": size}}, "memory.kernel", "memory.kmem.limit_in_bytes", str(size))
    file = "memory.kmem.tcp.limit_in_bytes"
    applied_or_refused(t, {"memory": {"kernelTCP": size}}, "memory.kernelTCP", file, str(size))


@check("CG-021")
def hierarchical(t: T) -> None:
    need_v1(t, "memory")
    for wanted in (True, False):
        what = f"memory.useHierarchy {str(wanted).lower()}"
        applied_or_refused(t, {"memory": {"useHierarchy": wanted}}, what, "memory.use_hierarchy", str(int(wanted)))


@check("CG-022")
def check_before_update(t: T) -> None:
    t.need_spec((1, 1, 0), "memory.checkBeforeUpdate")
    need(t, "memory")
    v2 = t.host.cgroup == "v2"
    limits = {"limit": 32 * MIB, "checkBeforeUpdate": True}
    limits.update({} if v2 or not has_swap(t) else {"swap": 32 * MIB})  # else v1 makes room by swapping
    config = limited(t, {"memory": limits})
    directory = make_cgroup(t, config["linux"]["cgroupsPath"])["" if v2 else "memory"]
    # A file on a tmpfs counts as memory of the cgroup that wrote it, also when no process is left there.
    script = 'echo $$ >"$1/cgroup.procs" && exec dd if=/dev/zero "of=$2" bs=1048576 count=64'
    done = t.tool("sh", "-c", script, "sh", str(directory), str(t.work / "ballast"))
    usage = directory / ("memory.current" if v2 else "memory.usage_in_bytes")
    if not done.ok or not usage.exists() or int(usage.read_text()) < 60 * MIB:
        t.skip("cannot make a cgroup that uses memory and has no process")
    valid = limited(t, {"memory": limits})
    t.refused(config, "create with a memory limit below the usage of its cgroup", valid=valid)


@check("CG-049")
def no_conversion(t: T) -> None:
    t.need_spec((1, 1, 0), "the rule for settings without a conversion")
    need_v2(t, "memory")
    settings = {"kernel": 48 * MIB, "kernelTCP": 48 * MIB, "swappiness": 37, "disableOOMKiller": True}
    settings["useHierarchy"] = False
    for name, value in settings.items():
        t.refused(limited(t, {"memory": {name: value}}), f"create with memory.{name} on cgroup v2")

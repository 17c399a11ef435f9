"""How the kernel schedules the process: scheduler, ioPriority, execCPUAffinity, memoryPolicy."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Optional

from ...common.executables import find_program
from ...common.procfs import status
from ..context import SLEEPER, Bundle, Config, Container, Skip, T
from ..parts import Part, part
from ..registry import check

POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}
RESET_ON_FORK = 0x40000000  # what sched_getscheduler(2) adds to the policy
STAT = ["/bin/cat", "/proc/self/stat"]


def scheduled(stat: str) -> tuple[Optional[int], Optional[int], Optional[int]]:
    """Policy, nice value and real-time priority in a stat file."""
    words = stat.rpartition(")")[2].split()
    if len(words) < 39:
        return None, None, None
    return int(words[38]), int(words[16]), int(words[37])


def seen_from_host(c: Container) -> bool:
    """What runs under the pid is a program of the bundle, not a sandbox that it runs in."""
    try:
        words = Path(f"/proc/{c.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return Path(words[0]).name in ("sh", "sleep", "busybox")


def scheduler(t: T, policy: str, args: Any = STAT, **more: Any) -> Config:
    t.need_spec((1, 1, 0), "process.scheduler")
    config = t.config(args)
    config["process"]["scheduler"] = {"policy": policy, **more}
    return config


@part("user", "SCHED-001")
def batch(t: T, bundle: Bundle) -> Part:
    t.need_spec((1, 1, 0), "process.scheduler")
    bundle.config["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    seen = yield "cat /proc/1/stat; cat /proc/self/stat"
    lines = [*seen.stdout.splitlines(), "", ""]
    for line, whose in (lines[0], "the process"), (lines[1], "a child of it"):
        t.equal(scheduled(line), (POLICIES["SCHED_BATCH"], 7, 0), f"policy, nice and priority of {whose}, SCHED_BATCH")
    if seen_from_host(seen.c):
        t.equal(os.sched_getscheduler(seen.c.pid), POLICIES["SCHED_BATCH"], "policy of the process, with no flag")


@check("SCHED-002")
def other_policies(t: T) -> None:
    for policy, nice in (("SCHED_OTHER", -5), ("SCHED_IDLE", 0)):
        config = scheduler(t, policy, **({"nice": nice} if nice else {}))
        expected = (POLICIES[policy], nice, 0)
        t.equal(scheduled(t.run(config).stdout), expected, f"policy, nice and priority for {policy} {nice}")


@check("SCHED-003")
def unset_values_are_zero(t: T) -> None:
    config = scheduler(t, "SCHED_OTHER")
    t.defer(os.setpriority, os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, 5)  # the runtime inherits it
    c = t.run(config)
    t.equal(scheduled(c.stdout), (POLICIES["SCHED_OTHER"], 0, 0), "policy, nice 0 and priority where none is set")


def need_real_time(t: T) -> None:
    """Skip where nobody can have real-time priorities in a cgroup of a container."""
    if any(Path("/sys/fs/cgroup", name, "cpu.rt_runtime_us").exists() for name in ("", "cpu", "cpu,cpuacct")):
        t.skip("this kernel gives a cgroup real-time priorities only after a share is set")
    sleeper = t.spawn([t.host.busybox, "sleep", "100"])
    try:
        os.sched_setscheduler(sleeper.pid, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        t.skip(f"no real-time priorities here: {error.strerror}")


@check("SCHED-004")
def real_time(t: T) -> None:
    spec = scheduler(t, "SCHED_OTHER")
    need_real_time(t)
    for policy, priority in (("SCHED_FIFO", 1), ("SCHED_RR", 42), ("SCHED_FIFO", 99)):
        config = {**spec, "process": {**spec["process"], "scheduler": {"policy": policy, "priority": priority}}}
        found = scheduled(t.run(config).stdout)
        t.equal(found, (POLICIES[policy], 0, priority), f"policy, nice and priority for {policy} {priority}")


@check("SCHED-005")
def flags(t: T) -> None:
    script = "cat /proc/self/stat >/out/child; exec sleep 1000"
    for policy, more in (("SCHED_BATCH", {"nice": 3}), ("SCHED_OTHER", {"nice": -3})):
        config = scheduler(t, policy, script, flags=["SCHED_FLAG_RESET_ON_FORK"], **more)
        c = t.create(config)
        t.require(c.start().ok, "start exits 0")
        child = t.wait_file(c.bundle.out / "child")
        t.require(child, "a child of the process has run")
        if seen_from_host(c):
            found = os.sched_getscheduler(c.pid)
            t.equal(found, POLICIES[policy] | RESET_ON_FORK, f"policy and flag of the process, {policy}")
        # sched(7): a child gets policy SCHED_OTHER only for real-time policies, and nice 0 for negative values.
        expected = (POLICIES[policy], max(more["nice"], 0), 0)
        t.equal(scheduled(child or ""), expected, f"policy and nice of a child after the reset, {policy}")


@check("SCHED-006")
def deadline(t: T) -> None:
    times = {"runtime": 2_000_000, "deadline": 50_000_000, "period": 100_000_000}
    config = scheduler(t, "SCHED_DEADLINE", SLEEPER, **times)
    chrt = find_program("chrt")
    if not chrt:
        raise Skip("chrt of util-linux is not there to ask for a deadline")
    words = [chrt, "-d", *(f"--sched-{name}={value}" for name, value in times.items()), "0", t.host.busybox, "true"]
    tried = t.command(*words)
    if not tried.ok:
        t.skip(f"no deadline scheduling here: {tried.words}")
    c = t.try_create(config)
    last = c.start() if c.created.ok else c.created
    if not last.ok:  # a runtime may choose its policies: config.md#valid-values
        t.skip(f"this runtime does not have SCHED_DEADLINE: {last.words}")
    t.true(c.created.ok and last.ok, "create and start with SCHED_DEADLINE")
    if not t.wait(lambda: seen_from_host(c), 2):
        t.skip("the process is not to be seen from the host")
    said = t.command(chrt, "-p", str(c.pid)).stdout
    t.true("SCHED_DEADLINE" in said, "policy for SCHED_DEADLINE", "SCHED_DEADLINE", said)
    numbers = [tuple(map(int, found)) for found in re.findall(r"(\d+)/(\d+)/(\d+)", said)]
    t.equal(numbers, [tuple(times.values())], "runtime, deadline and period")


@check("SCHED-007")
def scheduler_refusals(t: T) -> None:
    valid = scheduler(t, "SCHED_OTHER", "true", nice=1)
    short = {"runtime": 1 << 20, "deadline": 1 << 26, "period": 1 << 25}
    for what, policy, more in (
        ("an unknown policy", "SCHED_LK", {"nice": 1}),
        ("SCHED_ISO, which no kernel has", "SCHED_ISO", {}),
        ("an unknown flag", "SCHED_OTHER", {"nice": 1, "flags": ["SCHED_FLAG_LK"]}),
        ("a priority for SCHED_OTHER", "SCHED_OTHER", {"nice": 1, "priority": 5}),
        ("a period shorter than its deadline", "SCHED_DEADLINE", short),
    ):
        config = scheduler(t, policy, "true", **more)
        t.refused(config, f"create or start with {what}", by_start=True, valid=valid)


@check("SCHED-008")
def scheduler_out_of_range(t: T) -> None:
    valid = scheduler(t, "SCHED_OTHER", "true", nice=-20)
    for value in (20, -21):
        config = scheduler(t, "SCHED_OTHER", "true", nice=value)
        t.refused(config, f"create or start with nice {value}", by_start=True, valid=valid)


@check("SCHED-009")
def priority_out_of_range(t: T) -> None:
    valid = scheduler(t, "SCHED_FIFO", "true", priority=99)
    need_real_time(t)
    for what, more in (("no priority", {}), ("priority 100", {"priority": 100}), ("priority -1", {"priority": -1})):
        config = scheduler(t, "SCHED_FIFO", "true", **more)
        t.refused(config, f"create or start of SCHED_FIFO with {what}", by_start=True, valid=valid)


def io_priority(t: T, name: str, priority: int, args: Any = ("/bin/ionice",)) -> Config:
    t.need_spec((1, 1, 0), "process.ioPriority")
    if "not implemented" in t.tool("ionice").stderr.lower():
        t.skip("this kernel has no I/O priorities")
    config = t.config(list(args) if isinstance(args, tuple) else args)
    config["process"]["ioPriority"] = {"class": f"IOPRIO_CLASS_{name}", "priority": priority}
    return config


@part("user", "IOPRIO-001")
def best_effort(t: T, bundle: Bundle) -> Part:
    bundle.config["process"]["ioPriority"] = io_priority(t, "BE", 6)["process"]["ioPriority"]
    seen = yield "ionice; ionice -p 1"
    if not seen.stdout:
        t.skip("the container's kernel has no I/O priorities to be asked for")
    t.equal(seen.stdout, "best-effort: prio 6\n" * 2, "I/O priority of the process and a child, best-effort 6")


@check("IOPRIO-002")
def other_classes(t: T) -> None:
    for name, priority, expected in (
        ("BE", 0, "best-effort: prio 0"),
        ("IDLE", 0, "idle"),
        ("RT", 3, "realtime: prio 3"),
    ):
        if name == "RT" and not t.tool("ionice", "-c", "1", "-n", "3", t.host.busybox, "true").ok:
            continue  # needs CAP_SYS_ADMIN or CAP_SYS_NICE in the initial user namespace
        c = t.run(io_priority(t, name, priority))
        if not c.stdout:
            t.skip("the container's kernel has no I/O priorities to be asked for")
        found = c.stdout.strip()
        t.true(found.startswith(expected), f"I/O priority for class {name} {priority}", expected, found)


@check("IOPRIO-003")
def io_priority_refusals(t: T) -> None:
    valid = io_priority(t, "BE", 7, "true")
    for what, name, priority in (
        ("an unknown class", "LK", 4),
        ("priority 8", "BE", 8),
        ("priority -1", "BE", -1),
    ):
        config = io_priority(t, name, priority, "true")
        t.refused(config, f"create or start with ioPriority of {what}", by_start=True, valid=valid)


def cpus(text: str) -> set[int]:
    """The numbers in a list such as 0-3,7."""
    found = set()
    for span in filter(None, text.strip().split(",")):
        first, _, last = span.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


@part("root", "AFFIN-001")
def exec_affinity(t: T, bundle: Bundle) -> Part:
    t.need_spec((1, 2, 1), "process.execCPUAffinity")
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        t.skip("one CPU shows no affinity")
    bundle.config["process"]["execCPUAffinity"] = {"initial": str(first), "final": str(first)}
    seen = yield "cat /proc/1/status"
    found = cpus(status(seen.stdout).get("Cpus_allowed_list", ""))
    t.true(
        set(others) <= found, "CPUs of the container's init, which execCPUAffinity is not for", others, sorted(found)
    )


def memory_policy(t: T, mode: str, nodes: Optional[str], *flags: str) -> dict[str, Any]:
    t.need_spec((1, 3, 0), "linux.memoryPolicy")
    if not Path("/proc/self/numa_maps").exists():
        t.skip("this kernel has no NUMA")
    policy: dict[str, Any] = {"mode": f"MPOL_{mode}"}
    if nodes is not None:
        policy["nodes"] = nodes
    return {**policy, "flags": [f"MPOL_F_{flag}" for flag in flags]} if flags else policy


def with_memory_policy(t: T, args: Any, mode: str, nodes: Optional[str], *flags: str) -> Config:
    config = t.config(args)
    config["linux"]["memoryPolicy"] = memory_policy(t, mode, nodes, *flags)
    return config


def memory_node() -> str:
    """A node with memory, which every process may use here."""
    allowed = status(Path("/proc/self/status").read_text()).get("Mems_allowed_list", "0")
    return str(min(cpus(allowed) or {0}))


def policies(text: str) -> set[str]:
    """The second words of numa_maps: the policy of each mapping."""
    lines = (re.match(r"[0-9a-f]+ (weighted interleave\S*|prefer \(many\)\S*|\S+)", line) for line in text.splitlines())
    return {line[1] for line in lines if line}


@part("root", "MEMPOL-001")
def bound_memory(t: T, bundle: Bundle) -> Part:
    node = memory_node()
    bundle.config["linux"]["memoryPolicy"] = memory_policy(t, "BIND", node)
    seen = yield "cat /proc/1/numa_maps; cat /proc/self/numa_maps"
    t.equal(policies(seen.stdout), {f"bind:{node}"}, "memory policy of the process and a child, bind")


def maps(t: T, *policy: Any) -> Optional[str]:
    """numa_maps of a process; None where the runtime does not have this mode or flag, which is its choice
    (config.md#valid-values)."""
    c = t.try_create(with_memory_policy(t, ["/bin/cat", "/proc/self/numa_maps"], *policy))
    last = c.start() if c.created.ok else c.created
    if not last.ok:
        t.note(f"refused: {policy}", last.words)
        return None
    t.require(c.ended(), "the process ends")
    return c.stdout


@check("MEMPOL-002")
def memory_modes(t: T) -> None:
    node = memory_node()
    modes: list[tuple[str, Optional[str], str]] = [
        ("INTERLEAVE", node, "interleave:{}"),
        ("PREFERRED", node, "prefer:{}"),
    ]
    modes += [("DEFAULT", None, "default"), ("LOCAL", None, "local")]
    if t.host.kernel >= (5, 15):
        modes.append(("PREFERRED_MANY", node, "prefer (many):{}"))
    if t.host.kernel >= (6, 9):
        modes.append(("WEIGHTED_INTERLEAVE", node, "weighted interleave:{}"))
    for mode, nodes, expected in modes:
        found = maps(t, mode, nodes)
        if found is not None:
            t.equal(policies(found), {expected.format(node)}, f"memory policy for {mode}")


@check("MEMPOL-003")
def memory_flags(t: T) -> None:
    node = memory_node()
    for flag, expected in (("STATIC_NODES", f"bind=static:{node}"), ("RELATIVE_NODES", "bind=relative:0")):
        nodes = node if flag == "STATIC_NODES" else "0"
        found = maps(t, "BIND", nodes, flag)
        if found is not None:
            t.equal(policies(found), {expected}, f"memory policy with {flag}")
    if not t.assertions:
        t.skip("this runtime has none of the flags")


@check("MEMPOL-004")
def memory_policy_refusals(t: T) -> None:
    node = memory_node()
    bind = with_memory_policy(t, "true", "BIND", node)
    for what, mode, nodes, flags, valid in (
        ("an unknown mode", "LK", node, (), bind),
        ("an unknown flag", "BIND", node, ("LK",), bind),
        ("no nodes for MPOL_BIND", "BIND", None, (), bind),
        ("nodes for MPOL_DEFAULT", "DEFAULT", node, (), bind),
        ("a node that is not there", "BIND", "1000", (), bind),
        ("nodes that are no list", "BIND", "lk", (), bind),
        ("two flags that exclude each other", "BIND", node, ("STATIC_NODES", "RELATIVE_NODES"), bind),
    ):
        config = with_memory_policy(t, "true", mode, nodes, *flags)
        t.refused(config, f"create or start with a memoryPolicy of {what}", by_start=True, valid=valid)

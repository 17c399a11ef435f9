"""Members that are REQUIRED in the less common objects of a configuration, and hooks of every kind that are none.

Every offence is tried alone, in a configuration that works without it.
"""

from __future__ import annotations

import copy
import socket
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

from ...common.cgroups import CGROUP_ROOT
from ..context import SLEEPER, Bundle, Config, T, set_namespace
from ..registry import check
from .hooks import Hook, hook


def without(config: Config, *path: Any) -> Config:
    """The same, less what is at these keys and indexes, in a cgroup of its own: some refuse one that is in use."""
    *keys, last = path
    made = copy.deepcopy(config)
    made["linux"]["cgroupsPath"] += f"-{last}"
    place: Any = made
    for key in keys:
        place = place[key]
    del place[last]
    return made


def all_needed(t: T, what: str, valid: Config, *path: Any) -> None:
    """Refused without each of the members of the object at path; the process may be judged by start."""
    needed: Any = valid
    for key in path:
        needed = needed[key]
    for name in needed:
        config = without(valid, *path, name)
        t.refused(config, f"create or start with {what} without {name}", valid=valid, by_start=True)


def with_resources(t: T, **resources: Any) -> Config:
    config = t.config(SLEEPER)
    config["linux"]["resources"] = resources
    return config


@check("REQ-001")
def console_size(t: T) -> None:
    config = t.config(SLEEPER)
    config["process"].update(terminal=True, consoleSize={"height": 24, "width": 80})
    path = t.work / "tty"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()  # who connects need not be answered
        options = ["--console-socket", str(path)]
        valid = t.try_create(config, options=options)
        for name in ("height", "width"):
            bad = without(config, "process", "consoleSize", name)
            t.refused(
                bad, f"create or start with consoleSize without {name}", valid=valid, by_start=True, options=options
            )


@check("REQ-002")
def mappings(t: T) -> None:
    limit = Path("/proc/sys/user/max_user_namespaces")
    if not Path("/proc/self/ns/user").exists() or not limit.exists() or limit.read_text().strip() == "0":
        t.skip("no user namespaces on this host")
    valid = t.config(SLEEPER)
    set_namespace(valid, "user")
    for kind in ("uidMappings", "gidMappings"):
        valid["linux"][kind] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    all_needed(t, "an entry of uidMappings", valid, "linux", "uidMappings", 0)


@check("REQ-003")
def allow(t: T) -> None:
    valid = with_resources(t, devices=[{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}])
    bad = without(valid, "linux", "resources", "devices", 0, "allow")
    t.refused(bad, "create with a device rule without allow", valid=valid)


@check("REQ-004")
def scheduling(t: T) -> None:
    t.need_spec((1, 1, 0), "process.scheduler")
    valid = t.config("true")
    valid["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 1}
    bad = without(valid, "process", "scheduler", "policy")
    t.refused(bad, "create or start with a scheduler without policy", valid=valid, by_start=True)
    valid = t.config("true")
    valid["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 4}
    all_needed(t, "ioPriority", valid, "process", "ioPriority")


@check("REQ-005")
def memory_policy(t: T) -> None:
    t.need_spec((1, 3, 0), "linux.memoryPolicy")
    if not Path("/proc/self/numa_maps").exists():
        t.skip("this kernel has no NUMA")
    valid = t.config("true")
    valid["linux"]["memoryPolicy"] = {"mode": "MPOL_DEFAULT", "flags": []}
    bad = without(valid, "linux", "memoryPolicy", "mode")
    t.refused(bad, "create or start with a memoryPolicy without mode", valid=valid, by_start=True)


@check("REQ-006")
def personality(t: T) -> None:
    t.need_spec((1, 0, 2), "linux.personality")
    valid = t.config("true")
    valid["linux"]["personality"] = {"domain": "LINUX"}
    all_needed(t, "a personality", valid, "linux", "personality")


def disk() -> tuple[int, int]:
    for entry in sorted(Path("/sys/block").glob("*/dev")):
        major, _, minor = entry.read_text().partition(":")
        return int(major), int(minor)
    return 0, 0


@check("REQ-007")
def throttled_device(t: T) -> None:
    major, minor = disk()
    if not major:
        t.skip("no block device on this host")
    entry = {"major": major, "minor": minor, "rate": 7 << 20}
    valid = with_resources(t, blockIO={"throttleReadBpsDevice": [entry]})
    all_needed(t, "a throttled device", valid, "linux", "resources", "blockIO", "throttleReadBpsDevice", 0)


@check("REQ-008")
def huge_pages(t: T) -> None:
    sizes = sorted(int(path.name[10:-2]) for path in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB"))
    if not sizes:
        t.skip("no huge pages on this host")
    size = next(f"{sizes[0] >> shift}{unit}B" for shift, unit in ((20, "G"), (10, "M"), (0, "K")) if sizes[0] >> shift)
    valid = with_resources(t, hugepageLimits=[{"pageSize": size, "limit": 1 << 30}])
    all_needed(t, "a huge page limit", valid, "linux", "resources", "hugepageLimits", 0)


@check("REQ-009")
def interface_priority(t: T) -> None:
    if t.host.cgroup == "v2" or not (CGROUP_ROOT / "net_prio").is_dir():
        t.skip("needs cgroup v1 with the controller net_prio")
    valid = with_resources(t, network={"priorities": [{"name": "lo", "priority": 7}]})
    all_needed(t, "a priority of an interface", valid, "linux", "resources", "network", "priorities", 0)


KINDS = ("prestart", "createContainer", "startContainer")  # those of createRuntime are HOOK-013's and HOOK-017's


def with_hooks(t: T, changed: str = "", change: Callable[[Hook], Hook] = lambda one: {}) -> Bundle:
    """A hook of each of these kinds, one of them changed."""
    bundle = t.bundle(SLEEPER)
    hooks = {kind: hook(bundle, kind, f"echo >$O/{kind}.ran") for kind in KINDS}
    bundle.config["hooks"] = {
        kind: [{**one, **(change(one) if kind == changed else {})}] for kind, one in hooks.items()
    }
    bundle.write(bundle.config)
    return bundle


def hooks_refused(t: T, what: str, change: Callable[[Hook], Hook]) -> None:
    works = t.try_create(with_hooks(t))
    if works.created.ok:
        works.start()
    for kind in KINDS:
        if t.wait_file(works.bundle.out / f"{kind}.ran", 2) is None:
            t.note(kind, "hooks of this kind do not run")
            continue
        bad = with_hooks(t, kind, change)
        t.refused(bad, f"create or start with a {kind} hook {what}", valid=works, by_start=True, cwd=bad.path)


@check("HOOK-031")
def relative_paths(t: T) -> None:
    hooks_refused(t, "with a relative path", lambda one: {"path": f"./{Path(one['path']).name}"})


@check("HOOK-032")
def timeouts(t: T) -> None:
    hooks_refused(t, "with timeout 0", lambda one: {"timeout": 0})

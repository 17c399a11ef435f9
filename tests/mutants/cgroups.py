"""Mutants of control groups: config-linux.md, from "Control groups" to "IntelRdt"."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .engine import Call, Json, at, items
from .registry import config, ignore, mutant

# Settings that `create` does not see, and the requirements this breaks.
IGNORED = """
linux.resources.memory.swap CG-016,CG-046,CG-055
linux.resources.memory.swappiness CG-018,CG-046
linux.resources.memory.disableOOMKiller CG-019
linux.resources.cpu.quota CG-023,CG-052
linux.resources.cpu.burst CG-025
linux.resources.cpu.idle CG-026
linux.resources.cpu.realtimeRuntime CG-027
linux.resources.cpu.realtimePeriod CG-027
linux.resources.blockIO CG-007,CG-029,CG-030,CG-031
linux.resources.blockIO.weight CG-029
linux.resources.blockIO.leafWeight CG-031
linux.resources.blockIO.weightDevice CG-030
linux.resources.blockIO.throttleReadBpsDevice CG-007
linux.resources.blockIO.throttleWriteBpsDevice CG-007
linux.resources.blockIO.throttleReadIOPSDevice CG-007
linux.resources.blockIO.throttleWriteIOPSDevice CG-007
linux.resources.hugepageLimits CG-008,CG-048
linux.resources.network CG-034,CG-011
linux.resources.network.classID CG-034
linux.resources.network.priorities CG-034
linux.resources.rdma CG-033
linux.resources.devices CG-009,CG-035,CG-036,CG-037,CG-050
linux.resources CG-004,CG-005,CG-006,CREATE-004
linux.intelRdt RDT-001
"""


def resources(config: Json) -> Json:
    return at(config, "linux", "resources")


def swapped(setting: Json, one: str, other: str) -> None:
    if one in setting and other in setting:
        setting[one], setting[other] = setting[other], setting[one]


for _line in IGNORED.strip().splitlines():
    ignore(*_line.split())


# Where the cgroup is


@config("CG-001")
def cgroup_path_without_its_last(config: Json) -> None:
    linux = at(config, "linux")
    if linux.get("cgroupsPath", "").count("/") > 3:
        linux["cgroupsPath"] = linux["cgroupsPath"].rpartition("/")[0]


@mutant("CG-001", "CG-039", on="create")
def absolute_cgroup_path_by_id(call: Call) -> int:
    def edit(config: Json) -> None:
        linux = at(config, "linux")
        if linux.get("cgroupsPath", "").startswith("/"):
            linux["cgroupsPath"] = f"{linux['cgroupsPath'].rpartition('/')[0]}/{call.id}"

    with call.edited(edit):
        return call.run()


@mutant("CG-002", on="create")
def relative_cgroup_path_refused_after_the_first(call: Call) -> int | None:
    path = str(at(call.config(), "linux").get("cgroupsPath", ""))
    if not path or path.startswith("/"):
        return None
    seen = call.bundle.parent / "seen"
    if seen.exists():

        def edit(config: Json) -> None:
            at(config, "linux")["cgroupsPath"] += "-again"

        with call.edited(edit):
            return call.run()
    seen.touch()
    return None


@mutant("CG-003", on="create")
def process_of_a_populated_cgroup_moved(call: Call) -> None:
    for path in call.cgroups():
        if path.is_dir():
            top = next(one for one in reversed(path.parents) if (one / "cgroup.procs").exists())
            for pid in (path / "cgroup.procs").read_text().split():
                (top / "cgroup.procs").write_text(pid)


@mutant("CG-003", on="create")
def populated_cgroup_evaded(call: Call) -> int | None:
    if not any((path / "cgroup.procs").read_text() for path in call.cgroups() if path.is_dir()):
        return None

    def edit(config: Json) -> None:
        at(config, "linux")["cgroupsPath"] += "-2"

    with call.edited(edit):
        return call.run()


def is_frozen(path: Path) -> bool:
    for name, text in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
        with suppress(OSError):
            if (path / name).read_text().strip() == text:
                return True
    return False


@mutant("CG-038", on="create")
def frozen_cgroup_evaded(call: Call) -> int | None:
    if not any(is_frozen(path) for path in call.cgroups()):
        return None

    def edit(config: Json) -> None:
        at(config, "linux")["cgroupsPath"] += "-2"

    with call.edited(edit):
        return call.run()


@mutant("CG-038", on="create")
def frozen_cgroup_said_to_be_fit(call: Call) -> int | None:
    return 0 if any(is_frozen(path) for path in call.cgroups()) else None


@config("CG-039")
def limits_reset_without_resources(config: Json) -> None:
    linux = at(config, "linux")
    if "resources" not in linux:
        linux["resources"] = {"pids": {"limit": -1}}


@config("CG-047")
def limits_only_with_a_path(config: Json) -> None:
    linux = at(config, "linux")
    if "cgroupsPath" not in linux:
        linux.pop("resources", None)


@mutant("DELETE-005", on="delete")
def delete_takes_cgroups_with_this_prefix(call: Call) -> int:
    paths = call.cgroups(call.state())
    status = call.run()
    for path in paths:
        for other in path.parent.glob(f"{path.name}*"):
            with suppress(OSError):
                other.rmdir()
    return status


@mutant("DELETE-005", on="delete")
def delete_takes_all_cgroups_beside(call: Call) -> int:
    paths = call.cgroups(call.state())
    status = call.run()
    for path in paths:
        for other in path.parent.glob("*/"):
            with suppress(OSError):
                other.rmdir()
    return status


# Whose it is


def handing_over(
    when: Callable[[Json], bool], names: Callable[[Path], list[str]], add: int = 1000
) -> Callable[[Call], int]:
    """After create, chown the cgroup and these files in it to the process's user plus `add`."""

    def act(call: Call) -> int:
        status = call.run()
        if status == 0 and when(call.config()):
            for path in call.cgroups():
                if path.is_dir():
                    for name in names(path):
                        with suppress(OSError):
                            os.chown(path / name, 300000 + add, -1)
        return status

    return act


def known(path: Path) -> list[str]:
    """The directory, and those of its files that a process of a delegated cgroup writes to."""
    return [".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"]


def all_of(path: Path) -> list[str]:
    return [".", *(entry.name for entry in path.iterdir() if entry.is_file())]


def has_cgroup_mount(config: Json) -> bool:
    return any(mount.get("type") == "cgroup" for mount in items(config, "mounts"))


def has_namespace(config: Json, type: str) -> bool:
    return any(one.get("type") == type for one in items(config, "linux", "namespaces"))


def is_read_only(config: Json) -> bool:
    return any("ro" in mount.get("options", ()) for mount in items(config, "mounts") if mount.get("type") == "cgroup")


for _name, _ids, _when, _names, _add in (
    ("cgroup_of_everybody_handed_over", ("CG-012", "CG-041"), lambda config: True, known, 1000),
    ("file_of_everybody_handed_over", ("CG-012",), lambda config: True, lambda path: ["cgroup.procs"], 1000),
    ("cgroup_handed_over_read_only", ("CG-041",), is_read_only, known, 1000),
    ("cgroup_handed_over_unmounted", ("CG-041",), lambda one: not has_cgroup_mount(one), known, 1000),
    ("cgroup_handed_over_of_the_host", ("CG-041",), lambda one: not has_namespace(one, "cgroup"), known, 1000),
    ("whole_cgroup_handed_over", ("CG-042",), has_cgroup_mount, all_of, 1000),
    ("cgroup_handed_over_to_root", ("CG-042",), has_cgroup_mount, known, 0),
    ("directory_alone_handed_over", ("CG-042",), has_cgroup_mount, lambda path: ["."], 1000),
):
    _act = handing_over(_when, _names, _add)
    _act.__name__ = _name
    mutant(*_ids, on="create")(_act)


# Memory


@config("CG-004", "CG-015")
def memory_limit_for_reservation(config: Json) -> None:
    swapped(at(resources(config), "memory"), "limit", "reservation")


@config("CG-015")
def reservation_in_kilobytes(config: Json) -> None:
    memory = at(resources(config), "memory")
    if memory.get("reservation", 0) > 0:
        memory["reservation"] //= 1000


@config("CG-016")
def swap_beside_memory(config: Json) -> None:
    memory = at(resources(config), "memory")
    if memory.get("swap", 0) > 0:
        memory["swap"] += memory.get("limit", 0)


@config("CG-016")
def swap_unlimited(config: Json) -> None:
    memory = at(resources(config), "memory")
    if memory.get("swap", 0) > 0:
        memory["swap"] = -1


@config("CG-055")
def no_swap_is_unlimited_swap(config: Json) -> None:
    memory = at(resources(config), "memory")
    if "limit" in memory and memory.get("swap") == memory["limit"]:
        memory["swap"] = -1


def cut(setting: Json, bits: int) -> None:
    for name, value in setting.items():
        if isinstance(value, int) and value > 0:
            setting[name] = value % (1 << bits)


@config("CG-004", "CG-015", "CG-016")
def memory_in_32_bits(config: Json) -> None:
    cut(at(resources(config), "memory"), 32)


@config("CG-006")
def pids_in_16_bits(config: Json) -> None:
    cut(at(resources(config), "pids"), 16)


@config("CG-007")
def rates_in_32_bits(config: Json) -> None:
    for name in THROTTLES:
        for one in items(config, "linux", "resources", "blockIO", name):
            cut(one, 32)


@config("CG-056")
def shares_in_16_bits(config: Json) -> None:
    cut(at(resources(config), "cpu"), 16)


@config("CG-056")
def at_least_ten_shares(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if "shares" in cpu:
        cpu["shares"] = max(cpu["shares"], 10)


@config("CG-017")
def unlimited_memory_is_unset(config: Json) -> None:
    memory = at(resources(config), "memory")
    for name in ("limit", "swap", "reservation"):
        if memory.get(name) == -1:
            del memory[name]


@config("CG-017")
def unlimited_reservation_is_unset(config: Json) -> None:
    memory = at(resources(config), "memory")
    if memory.get("reservation") == -1:
        del memory["reservation"]


@config("CG-018")
def swappiness_of_the_host(config: Json) -> None:
    memory = at(resources(config), "memory")
    if "swappiness" in memory:
        memory["swappiness"] = 60


@config("CG-019")
def oom_killer_enabled(config: Json) -> None:
    memory = at(resources(config), "memory")
    if "disableOOMKiller" in memory:
        memory["disableOOMKiller"] = not memory["disableOOMKiller"]


@config("CG-022")
def too_low_a_limit_raised(config: Json) -> None:
    memory = at(resources(config), "memory")
    if memory.get("checkBeforeUpdate"):
        memory.update(limit=memory["limit"] * 8, checkBeforeUpdate=False)
        memory.pop("swap", None)


@config("CG-022", "CG-046")
def less_than_one_needs_not_seen(config: Json) -> None:
    memory = at(resources(config), "memory")
    if memory.get("swap", 0) < memory.get("limit", 0) or memory.get("checkBeforeUpdate"):
        memory.clear()


# CPU


@config("CG-005")
def shares_doubled(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if cpu.get("shares"):
        cpu["shares"] *= 2


@config("CG-005")
def shares_as_weight(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if cpu.get("shares"):
        cpu["shares"] = 100


@config("CG-023")
def quota_for_period(config: Json) -> None:
    swapped(at(resources(config), "cpu"), "quota", "period")


@config("CG-023")
def usual_period(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if "period" in cpu:
        cpu["period"] = 100000


@config("CG-024", "CG-046")
def cpus_refused_are_left_out(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if not str(cpu.get("cpus", "0")).isdigit() or cpu.get("cpus") == "99999":
        del cpu["cpus"]


@config("CG-025")
def burst_halved(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if cpu.get("burst"):
        cpu["burst"] //= 2


@config("CG-026")
def idle_of_1_only(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if cpu.get("idle") == 0:
        del cpu["idle"]


@config("CG-028")
def negative_quota_is_unset(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if cpu.get("quota", 0) < 0:
        del cpu["quota"]


@config("CG-028")
def period_of_no_quota_ignored(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if cpu.get("quota", 0) < 0:
        cpu.pop("period", None)


@config("CG-052")
def period_needs_a_quota(config: Json) -> None:
    cpu = at(resources(config), "cpu")
    if "quota" not in cpu:
        cpu.pop("period", None)


# pids


@config("CG-013")
def unlimited_pids_are_unset(config: Json) -> None:
    pids = at(resources(config), "pids")
    if pids.get("limit") == -1:
        del resources(config)["pids"]


@config("CG-013")
def unlimited_pids_are_many(config: Json) -> None:
    pids = at(resources(config), "pids")
    if pids.get("limit") == -1:
        pids["limit"] = 32768


@config("CG-014")
def no_pids_is_unlimited(config: Json) -> None:
    pids = at(resources(config), "pids")
    if pids.get("limit") == 0:
        pids["limit"] = -1


@config("CG-014")
def no_pids_is_unset(config: Json) -> None:
    if at(resources(config), "pids").get("limit") == 0:
        del resources(config)["pids"]


# Block IO

THROTTLES = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")


@config("CG-007")
def throttle_of_the_first_device(config: Json) -> None:
    for name in THROTTLES:
        del items(config, "linux", "resources", "blockIO", name)[1:]


@config("CG-007")
def throttle_of_the_last_device(config: Json) -> None:
    for name in THROTTLES:
        del items(config, "linux", "resources", "blockIO", name)[:-1]


@config("CG-007")
def reading_for_writing(config: Json) -> None:
    swapped(at(resources(config), "blockIO"), "throttleReadBpsDevice", "throttleWriteBpsDevice")


@config("CG-007")
def bytes_for_operations(config: Json) -> None:
    swapped(at(resources(config), "blockIO"), "throttleWriteBpsDevice", "throttleWriteIOPSDevice")


@config("CG-029")
def usual_weight(config: Json) -> None:
    block_io = at(resources(config), "blockIO")
    if "weight" in block_io:
        block_io["weight"] = 100


@config("CG-008")
def huge_pages_unlimited(config: Json) -> None:
    for one in items(config, "linux", "resources", "hugepageLimits"):
        one["limit"] *= 1024


@config("CG-048")
def huge_page_limits_left_out(config: Json) -> None:
    """Where the host has no such controller, no size can be had."""
    items(config, "linux", "resources", "hugepageLimits").clear()


# Devices


def rules(config: Json) -> list[Json]:
    return items(config, "linux", "resources", "devices")


@config("CG-035")
def no_minor_is_zero(config: Json) -> None:
    for rule in rules(config):
        if "major" in rule:
            rule.setdefault("minor", 0)


@config("CG-035")
def no_major_is_no_rule(config: Json) -> None:
    found = rules(config)
    found[:] = [rule for rule in found if "major" in rule or rule.get("type", "a") == "a"]


@config("CG-035")
def minor_ignored(config: Json) -> None:
    for rule in rules(config):
        if rule.get("major") in (None, 61, 121):
            rule.pop("minor", None)


@config("CG-036")
def rules_for_block_devices_are_for_character_devices(config: Json) -> None:
    for rule in rules(config):
        if rule.get("type") == "b":
            rule["type"] = "c"


@config("CG-036")
def both_kinds_of_devices(config: Json) -> None:
    found = rules(config)
    found += [{**rule, "type": "b" if rule["type"] == "c" else "c"} for rule in found if rule.get("type") in ("b", "c")]


@config("CG-037")
def every_access(config: Json) -> None:
    for rule in rules(config):
        rule["access"] = "rwm"


@config("CG-037")
def first_access(config: Json) -> None:
    for rule in rules(config):
        if rule.get("allow"):
            rule["access"] = rule["access"][:1]


@config("CG-037")
def reading_with_writing(config: Json) -> None:
    for rule in rules(config):
        if rule.get("access") == "w":
            rule["access"] = "rw"


@config("CG-009")
def denials_first(config: Json) -> None:
    rules(config).sort(key=lambda rule: bool(rule.get("allow")))


@config("CG-009")
def first_rule_of_a_device(config: Json) -> None:
    kept: dict[tuple[object, ...], Json] = {}
    for rule in rules(config):
        kept.setdefault((rule.get("type"), rule.get("major"), rule.get("minor")), rule)
    rules(config)[:] = kept.values()


@config("CG-053")
def rule_for_all_ignored(config: Json) -> None:
    found = rules(config)
    found[:] = [rule for rule in found if not (rule["allow"] and rule.get("type", "a") == "a")]


@config("CG-053")
def no_type_is_character_devices(config: Json) -> None:
    for rule in rules(config):
        if rule["allow"]:
            rule.setdefault("type", "c")


@config("CG-050")
def unknown_type_left_out(config: Json) -> None:
    found = rules(config)
    found[:] = [rule for rule in found if rule.get("type") != "x"]


# unified


@config("CG-010")
def unified_known_keys_only(config: Json) -> None:
    unified = at(resources(config), "unified")
    for key in list(unified):
        if key not in ("pids.max", "memory.high"):
            del unified[key]


@config("CG-010")
def unified_first_key_only(config: Json) -> None:
    unified = at(resources(config), "unified")
    for key in list(unified)[1:]:
        del unified[key]


@config("CG-043")
def unified_without_unknown_controllers(config: Json) -> None:
    at(resources(config), "unified").pop("nosuch.max", None)


@config("CG-043")
def unified_without_unknown_files(config: Json) -> None:
    at(resources(config), "unified").pop("pids.nosuch", None)


# intelRdt


@config("RDT-001")
def rdt_without_a_schema(config: Json) -> None:
    rdt = at(config, "linux", "intelRdt")
    if "l3CacheSchema" not in rdt:
        at(config, "linux").pop("intelRdt", None)


@config("RDT-001")
def rdt_with_a_schema_ignored(config: Json) -> None:
    if at(config, "linux", "intelRdt").get("l3CacheSchema"):
        del config["linux"]["intelRdt"]

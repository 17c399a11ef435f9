"""Mutants of the checks in required.py and sentences.py: what is missing or wrong is made good, or left out."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from .engine import Call, Json, at
from .registry import config, features, mutant


def fill(place: Any, **defaults: Any) -> None:
    """As a runtime does whose absent values are those of its language."""
    if isinstance(place, dict):
        for name, value in defaults.items():
            place.setdefault(name, value)


def each(config: Json, *path: str) -> list[Any]:
    place: Any = config
    for name in path:
        place = place.get(name, {}) if isinstance(place, dict) else {}
    return place if isinstance(place, list) else []


@config("REQ-001")
def console_size_filled(config: Json) -> None:
    if "consoleSize" in at(config, "process"):
        fill(config["process"]["consoleSize"], height=24, width=80)


@config("REQ-002")
def mapping_filled(config: Json) -> None:
    for entry in each(config, "linux", "uidMappings"):
        fill(entry, containerID=0, hostID=0, size=65536)


@config("REQ-002")
def mapping_replaced_where_incomplete(config: Json) -> None:
    for entry in each(config, "linux", "uidMappings"):
        if len(entry) < 3:
            entry.update(containerID=0, hostID=0, size=65536)


@config("REQ-003")
def allow_filled(config: Json) -> None:
    for entry in each(config, "linux", "resources", "devices"):
        fill(entry, allow=False)


@config("REQ-004")
def policy_filled(config: Json) -> None:
    fill(at(config, "process").get("scheduler"), policy="SCHED_OTHER")


@config("REQ-004")
def incomplete_io_priority_dropped(config: Json) -> None:
    if len(at(config, "process").get("ioPriority", "xx")) < 2:
        del config["process"]["ioPriority"]


@config("REQ-005")
def mode_filled(config: Json) -> None:
    fill(at(config, "linux").get("memoryPolicy"), mode="MPOL_DEFAULT")


@config("REQ-005")
def memory_policy_dropped_where_incomplete(config: Json) -> None:
    if "mode" not in at(config, "linux").get("memoryPolicy", {"mode": ""}):
        del config["linux"]["memoryPolicy"]


@config("REQ-006")
def domain_filled(config: Json) -> None:
    fill(at(config, "linux").get("personality"), domain="LINUX")


@config("REQ-006")
def empty_personality_dropped(config: Json) -> None:
    if at(config, "linux").get("personality") == {}:
        del config["linux"]["personality"]


@config("REQ-007")
def throttled_devices_dropped_where_incomplete(config: Json) -> None:
    entries = each(config, "linux", "resources", "blockIO", "throttleReadBpsDevice")
    entries[:] = [entry for entry in entries if len(entry) == 3]


@config("REQ-008")
def huge_page_limits_dropped_where_incomplete(config: Json) -> None:
    entries = each(config, "linux", "resources", "hugepageLimits")
    entries[:] = [entry for entry in entries if len(entry) == 2]


@config("REQ-009")
def interface_priorities_dropped_where_incomplete(config: Json) -> None:
    entries = each(config, "linux", "resources", "network", "priorities")
    entries[:] = [entry for entry in entries if len(entry) == 2]


@config("HOOK-031")
def hook_paths_made_absolute(config: Json) -> None:
    for kind in ("prestart", "createContainer"):
        for hook in each(config, "hooks", kind):
            hook["path"] = str(Path.cwd() / hook["path"])


@config("HOOK-031")
def hooks_with_relative_paths_dropped(config: Json) -> None:
    for hooks in config.get("hooks", {}).values():
        hooks[:] = [hook for hook in hooks if hook["path"].startswith("/")]


@config("HOOK-032")
def timeout_zero_is_none(config: Json) -> None:
    for hooks in config.get("hooks", {}).values():
        for hook in hooks:
            if hook.get("timeout", 1) <= 0:
                del hook["timeout"]


@config("HOOK-032")
def hooks_with_timeout_zero_dropped(config: Json) -> None:
    hooks = each(config, "hooks", "createContainer")
    hooks[:] = [hook for hook in hooks if hook.get("timeout", 1) > 0]


def options(config: Json) -> list[list[str]]:
    return [mount["options"] for mount in config.get("mounts", []) if "options" in mount]


@config("MOUNT-051")
def no_strict_access_times_dropped(config: Json) -> None:
    for given in options(config):
        given[:] = [option for option in given if option != "rnostrictatime"]


@config("MOUNT-051")
def no_strict_access_times_for_the_top_only(config: Json) -> None:
    for given in options(config):
        given[:] = ["relatime" if option == "rnostrictatime" else option for option in given]


@config("MOUNT-052")
def ridmap_of_the_container_is_idmap(config: Json) -> None:
    for given in options(config):
        given[:] = ["idmap" if option == "ridmap" else option for option in given]


@config("MOUNT-052")
def ridmap_of_the_container_dropped(config: Json) -> None:
    for given in options(config):
        given[:] = [option for option in given if option != "ridmap"]


@config("SCHED-011")
def unset_runtime_of_a_deadline_filled(config: Json) -> None:
    scheduler = at(config, "process").get("scheduler", {})
    if scheduler.get("policy") == "SCHED_DEADLINE":
        fill(scheduler, runtime=1_000_000)


@config("SCHED-011")
def unset_deadline_is_the_period(config: Json) -> None:
    scheduler = at(config, "process").get("scheduler", {})
    if scheduler.get("policy") == "SCHED_DEADLINE":
        fill(scheduler, deadline=scheduler["period"])


@config("CG-061")
def leaf_weights_dropped(config: Json) -> None:
    entries = each(config, "linux", "resources", "blockIO", "weightDevice")
    entries[:] = [entry for entry in entries if "leafWeight" not in entry]


@features("FEAT-021")
def cgroups_claimed_absent(features: Json) -> None:
    features["linux"]["cgroup"].update(v1=False, v2=False)


@features("FEAT-022")
def mapped_mounts_claimed_absent(features: Json) -> None:
    fill(features["linux"], mountExtensions={})
    features["linux"]["mountExtensions"]["idmap"] = {"enabled": False}


@features("FEAT-023")
def a_flag_that_nobody_knows(features: Json) -> None:
    features["linux"]["seccomp"].setdefault("knownFlags", []).append("SECCOMP_FILTER_FLAG_LK")


@features("FEAT-023")
def an_old_flag_that_nobody_knows(features: Json) -> None:
    features["linux"]["seccomp"]["knownFlags"] = ["SECCOMP_FILTER_FLAG_OLD"]


@mutant("CLI-011", on="create")
def stdin_read_with_a_terminal(call: Call) -> None:
    if at(call.config(), "process").get("terminal"):
        os.read(0, 3)


@mutant("MASK-004", on="create")
def crashes_on_a_masked_link(call: Call) -> None:
    if "/lk/link" in call.config().get("linux", {}).get("maskedPaths", ()):
        os.kill(os.getpid(), signal.SIGSEGV)


@mutant("KILL-006", on="kill")
def crashes_on_a_signal_by_number(call: Call) -> None:
    if "10" in call.words:
        os.kill(os.getpid(), signal.SIGSEGV)

"""Mutants of the process, its scheduling, seccomp, namespaces and network devices."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .engine import Call, Edit, Json, at, items, refuse
from .registry import config, ignore, mutant

# Properties of config.json that `create` does not see.
IGNORED = """
process.consoleSize PROC-009
process.capabilities.permitted CAP-005
process.scheduler SCHED-001,SCHED-002,SCHED-003,SCHED-005,SCHED-007
process.scheduler.nice SCHED-001,SCHED-008
process.scheduler.flags SCHED-005
process.scheduler.priority SCHED-004,SCHED-007
process.ioPriority IOPRIO-001,IOPRIO-002,IOPRIO-003
process.apparmorProfile LSM-001
process.selinuxLabel LSM-002
linux.memoryPolicy MEMPOL-001,MEMPOL-002,MEMPOL-004
linux.memoryPolicy.flags MEMPOL-003,MEMPOL-004
linux.seccomp.listenerMetadata SECC-021
linux.seccomp.architectures SECC-017
linux.netDevices NETDEV-001,NETDEV-002,NETDEV-003,NETDEV-004
"""
for line in IGNORED.split("\n")[1:-1]:
    ignore(*line.split())


def edit(name: str, *ids: str) -> Callable[[Edit], Edit]:
    """As config(), for a function that has another name, such as a lambda."""

    def register(change: Edit) -> Edit:
        change.__name__ = name
        return config(*ids)(change)

    return register


def process(config: Json) -> Json:
    return at(config, "process")


def seccomp(config: Json) -> Json:
    return at(config, "linux", "seccomp")


def rules(config: Json) -> list[Json]:
    return items(config, "linux", "seccomp", "syscalls")


@config("SECC-004", "SECC-005", "SECC-006", "SECC-007", "SECC-018", "SECC-010", "SECC-014")
def seccomp_dropped(config: Json) -> None:
    at(config, "linux").pop("seccomp", None)


@config("PERS-002", "PERS-003", "PERS-004")
def personality_dropped(config: Json) -> None:
    at(config, "linux").pop("personality", None)


@config("TIMENS-001", "TIMENS-002", "TIMENS-004", "TIMENS-003", "NS-008")
def time_offsets_dropped(config: Json) -> None:
    at(config, "linux").pop("timeOffsets", None)


# PROC


@config("PROC-001")
def cwd_is_its_parent(config: Json) -> None:
    given = process(config).get("cwd", "/")
    if given.startswith("/"):
        process(config)["cwd"] = str(Path(given).parent)


@config("PROC-002")
def first_variables_only(config: Json) -> None:
    del process(config)["env"][4:]


@config("PROC-008")
def missing_cwd_is_the_root(config: Json) -> None:
    if process(config).get("cwd") in ("/lk/none", "/lk-file"):
        process(config)["cwd"] = "/"


@config("PROC-009")
def console_size_swapped(config: Json) -> None:
    size = process(config).get("consoleSize", {})
    if size and process(config).get("terminal"):
        size["height"], size["width"] = size["width"], size["height"]


@config("PROC-009")
def console_size_of_80_columns(config: Json) -> None:
    if "consoleSize" in process(config):
        process(config)["consoleSize"]["width"] = 80


@config("PROC-010")
def stderr_is_no_terminal(config: Json) -> None:
    wrap_program(config, 'exec "$@" 2>/dev/null', lambda process: bool(process.get("terminal")))


@config("PROC-010")
def stdin_is_no_terminal(config: Json) -> None:
    wrap_program(config, 'exec "$@" </dev/null', lambda process: bool(process.get("terminal")))


def wrap_program(config: Json, script: str, when: Callable[[Json], bool] = lambda process: True) -> None:
    """The program started by a shell of the container."""
    args = process(config).get("args")
    if args and when(process(config)):
        process(config)["args"] = ["/bin/sh", "-c", script, "sh", *args]


@config("PROC-011")
def missing_program_ends_well(config: Json) -> None:
    wrap_program(config, 'exec "$@"')


@config("PROC-011")
def program_that_is_a_directory_accepted(config: Json) -> None:
    if process(config).get("args") == ["/opt/directory"]:
        process(config)["args"] = ["/bin/true"]


@config("PROC-012")
def runtime_environment_without_env(config: Json) -> None:
    if "env" not in process(config):
        process(config)["env"] = [f"{name}={value}" for name, value in os.environ.items()]


@config("PROC-012")
def runtime_environment_where_env_is_empty(config: Json) -> None:
    process(config)["env"] = process(config).get("env") or [f"{name}={value}" for name, value in os.environ.items()]


@config("PROC-005", "PROC-013")
def groups_of_the_caller_added(config: Json) -> None:
    user = at(config, "process", "user")
    user["additionalGids"] = [*user.get("additionalGids", []), *({*os.getgroups(), 4711} - {0})]


@config("PROC-005")
def last_additional_group_lost(config: Json) -> None:
    at(config, "process", "user").get("additionalGids", [0]).pop()


@config("PROC-003")
def program_of_the_first_directory(config: Json) -> None:
    if process(config).get("args", [])[:1] == ["lkprobe"]:
        process(config)["args"][0] = "/opt/late/lkprobe"


@config("PROC-006")
def umask_0_is_unset(config: Json) -> None:
    user = at(config, "process", "user")
    if user.get("umask") == 0:
        del user["umask"]


@config("PROC-006")
def umask_as_octal_digits(config: Json) -> None:
    user = at(config, "process", "user")
    if "umask" in user:
        user["umask"] = int(str(user["umask"]), 8)


@config("PROC-007")
def umask_077_where_none_is_given(config: Json) -> None:
    at(config, "process", "user").setdefault("umask", 0o077)


# RLIM


@config("RLIM-004")
def infinity_is_signed(config: Json) -> None:
    for limit in items(config, "process", "rlimits"):
        limit.update({name: min(limit[name], 2**63 - 1) for name in ("soft", "hard")})


@config("RLIM-004")
def no_limit_of_0(config: Json) -> None:
    limits = items(config, "process", "rlimits")
    limits[:] = [limit for limit in limits if limit["soft"]]


@config("RLIM-001")
def hard_limit_is_the_soft_one(config: Json) -> None:
    for limit in items(config, "process", "rlimits"):
        limit["hard"] = limit["soft"]


@config("RLIM-001")
def last_rlimit_lost(config: Json) -> None:
    items(config, "process", "rlimits")[-1:] = []


@config("RLIM-005")
def soft_limit_cut_to_the_hard_one(config: Json) -> None:
    for limit in items(config, "process", "rlimits"):
        limit["soft"] = min(limit["soft"], limit["hard"])


@config("RLIM-005")
def infinite_soft_limit_dropped(config: Json) -> None:
    limits = items(config, "process", "rlimits")
    limits[:] = [limit for limit in limits if limit["soft"] <= limit["hard"]]


@config("RLIM-002")
def empty_rlimit_type_accepted(config: Json) -> None:
    limits = items(config, "process", "rlimits")
    limits[:] = [limit for limit in limits if limit["type"]]


# CAP, NNP, OOM, HOST


@mutant("CAP-002")
def unknown_capabilities_dropped_silently(call: Call) -> int | None:
    def change(config: Json) -> None:
        for names in at(config, "process", "capabilities").values():
            names[:] = [name for name in names if name != "CAP_LKTEST"]

    if call.command != "create":
        return None
    with call.edited(change):
        return call.run()


@config("CAP-003")
def unknown_capability_refused(config: Json) -> None:
    if any("CAP_LKTEST" in names for names in at(config, "process", "capabilities").values()):
        refuse("unknown capability CAP_LKTEST")


@config("CAP-003")
def unknown_capability_is_another(config: Json) -> None:
    for names in at(config, "process", "capabilities").values():
        names[:] = ["CAP_CHOWN" if name == "CAP_LKTEST" else name for name in names]


@config("CAP-004")
def default_capabilities_where_a_set_is_absent(config: Json) -> None:
    for name in ("permitted", "effective", "inheritable"):
        at(config, "process", "capabilities").setdefault(name, ["CAP_CHOWN"])


@config("CAP-004")
def empty_capabilities_are_the_default(config: Json) -> None:
    for name, names in at(config, "process", "capabilities").items():
        if name == "bounding":
            names[:] = names or ["CAP_CHOWN", "CAP_KILL"]


@config("CAP-005")
def permitted_is_bounding(config: Json) -> None:
    sets = at(config, "process", "capabilities")
    for name in ("permitted", "effective"):
        sets[name] = sets.get("bounding", [])


@config("CAP-001")
def ambient_capabilities_are_inheritable(config: Json) -> None:
    sets = at(config, "process", "capabilities")
    if "ambient" in sets:
        sets["ambient"] = sets.get("inheritable", [])


@config("CAP-001")
def last_bounding_capability_lost(config: Json) -> None:
    at(config, "process", "capabilities").get("bounding", [0]).pop()


@config("NNP-002")
def no_new_privileges_where_it_is_false(config: Json) -> None:
    process(config)["noNewPrivileges"] = True


@config("NNP-001")
def no_new_privileges_inverted(config: Json) -> None:
    process(config)["noNewPrivileges"] = not process(config).get("noNewPrivileges")


@config("OOM-001")
def oom_score_0_is_unset(config: Json) -> None:
    if process(config).get("oomScoreAdj") == 0:
        del process(config)["oomScoreAdj"]


@config("OOM-001")
def oom_score_at_most_999(config: Json) -> None:
    if "oomScoreAdj" in process(config):
        process(config)["oomScoreAdj"] = min(process(config)["oomScoreAdj"], 999)


@config("OOM-002")
def oom_score_500_where_none_is_given(config: Json) -> None:
    process(config).setdefault("oomScoreAdj", 500)


@config("OOM-003")
def oom_score_clamped(config: Json) -> None:
    if "oomScoreAdj" in process(config):
        process(config)["oomScoreAdj"] = min(process(config)["oomScoreAdj"], 1000)


@config("HOST-002")
def domainname_is_the_hostname(config: Json) -> None:
    if "domainname" in config:
        config["domainname"] = config["hostname"]


@config("HOST-003")
def hostname_needs_a_namespace(config: Json) -> None:
    if not any(one.get("type") == "uts" for one in items(config, "linux", "namespaces")):
        config.pop("hostname", None)


# SCHED, IOPRIO, AFFIN, MEMPOL


def change_scheduler(name: str, ids: str, change: Callable[[Json], object]) -> None:
    def edited(config: Json) -> None:
        found = at(config, "process", "scheduler")
        if found:
            change(found)

    edit(name, *ids.split(","))(edited)


KNOWN_POLICIES = [f"SCHED_{name}" for name in ("OTHER", "FIFO", "RR", "BATCH", "IDLE", "DEADLINE")]
change_scheduler("scheduler_is_other", "SCHED-001,SCHED-002", lambda found: found.update(policy="SCHED_OTHER"))
change_scheduler("nice_off_by_one", "SCHED-001", lambda found: found.update(nice=found.get("nice", 0) + 1))
change_scheduler("nice_never_negative", "SCHED-002", lambda found: found.update(nice=max(found.get("nice", 0), 0)))
change_scheduler("nice_clamped", "SCHED-008", lambda found: found.update(nice=min(max(found.get("nice", 0), -20), 19)))
change_scheduler("nice_5_where_none_is_given", "SCHED-003", lambda found: found.setdefault("nice", 5))
change_scheduler("rr_is_fifo", "SCHED-004", lambda found: found.update(policy=found["policy"].replace("RR", "FIFO")))
change_scheduler("priority_clamped", "SCHED-009", lambda found: found.update(priority=max(1, found.get("priority", 0))))
change_scheduler("reset_on_fork_always", "SCHED-001", lambda found: found.update(flags=["SCHED_FLAG_RESET_ON_FORK"]))
change_scheduler("deadline_is_period", "SCHED-006", lambda found: found.update(deadline=found.get("period", 0)))
change_scheduler("runtime_halved", "SCHED-006", lambda found: found.update(runtime=found.get("runtime", 0) // 2))
change_scheduler(
    "unknown_policy_is_other",
    "SCHED-007",
    lambda found: found.update(policy=found["policy"] if found["policy"] in KNOWN_POLICIES else "SCHED_OTHER"),
)
change_scheduler(
    "unknown_scheduler_flags_dropped",
    "SCHED-007",
    lambda found: found.update(flags=[flag for flag in found.get("flags", []) if not flag.endswith("_LK")]),
)


def change_io(name: str, ids: str, change: Callable[[Json], object]) -> None:
    def edited(config: Json) -> None:
        found = at(config, "process", "ioPriority")
        if found:
            change(found)

    edit(name, *ids.split(","))(edited)


change_io("io_level_off_by_one", "IOPRIO-001", lambda found: found.update(priority=found["priority"] - 1))
change_io("io_level_0_is_the_default", "IOPRIO-002", lambda found: found.update(priority=found["priority"] or 4))
change_io("io_class_is_best_effort", "IOPRIO-002,IOPRIO-003", lambda found: found.update({"class": "IOPRIO_CLASS_BE"}))
change_io("io_level_clamped", "IOPRIO-003", lambda found: found.update(priority=min(max(found["priority"], 0), 7)))


@mutant("AFFIN-001", on="create")
def exec_affinity_for_init(call: Call) -> int:
    cpus = at(call.config(), "process", "execCPUAffinity").get("final")
    status = call.run()
    if cpus and not status:
        os.sched_setaffinity(call.state()["pid"], {int(cpus)})
    return status


def change_memory(name: str, ids: str, change: Callable[[Json], object]) -> None:
    def edited(config: Json) -> None:
        found = at(config, "linux", "memoryPolicy")
        if found:
            change(found)

    edit(name, *ids.split(","))(edited)


KNOWN_FLAGS = [f"MPOL_F_{name}" for name in ("NUMA_BALANCING", "RELATIVE_NODES", "STATIC_NODES")]
change_memory("memory_bind_is_preferred", "MEMPOL-001", lambda found: found.update(mode="MPOL_PREFERRED"))
change_memory(
    "memory_interleave_is_bind",
    "MEMPOL-002",
    lambda found: found.update(mode=found["mode"].replace("MPOL_INTERLEAVE", "MPOL_BIND")),
)
change_memory(
    "memory_flags_swapped",
    "MEMPOL-003",
    lambda found: found.update(
        flags=[flag.replace("STATIC", "LK").replace("RELATIVE", "STATIC").replace("LK", "RELATIVE")
               for flag in found.get("flags", [])]
    ),
)  # fmt: skip
change_memory(
    "memory_flags_unknown_dropped",
    "MEMPOL-004",
    lambda found: found.update(flags=[flag for flag in found.get("flags", []) if flag in KNOWN_FLAGS]),
)


# SECC


@config("SECC-001")
def errno_0_is_unset(config: Json) -> None:
    for rule in rules(config):
        if rule.get("errnoRet") == 0:
            del rule["errnoRet"]


@config("SECC-001")
def errno_ret_ignored(config: Json) -> None:
    for rule in rules(config):
        rule.pop("errnoRet", None)


@config("SECC-001")
def first_name_of_a_rule(config: Json) -> None:
    for rule in rules(config):
        del rule["names"][1:]


@config("SECC-002")
def default_errno_is_eperm(config: Json) -> None:
    if "defaultErrnoRet" in seccomp(config):
        seccomp(config)["defaultErrnoRet"] = 1


@config("SECC-002")
def default_errno_for_rules(config: Json) -> None:
    for rule in rules(config):
        if rule["action"] == "SCMP_ACT_ERRNO" and "defaultErrnoRet" in seccomp(config):
            rule.setdefault("errnoRet", seccomp(config)["defaultErrnoRet"])


def change_action(name: str, ids: str, old: str, new: str) -> None:
    def edited(config: Json) -> None:
        for rule in rules(config):
            if rule["action"] == f"SCMP_ACT_{old}":
                rule["action"] = f"SCMP_ACT_{new}"

    edit(name, *ids.split(","))(edited)


change_action("trap_is_kill", "SECC-004", "TRAP", "KILL")
change_action("trace_is_errno", "SECC-004", "TRACE", "ERRNO")
change_action("log_is_errno", "SECC-004", "LOG", "ERRNO")
change_action("kill_process_is_trap", "SECC-004", "KILL_PROCESS", "TRAP")
change_action("kill_thread_is_log", "SECC-004", "KILL_THREAD", "LOG")


def change_operator(old: str, new: str) -> None:
    def edited(config: Json) -> None:
        for rule in rules(config):
            for arg in rule.get("args", []):
                if arg["op"] == f"SCMP_CMP_{old}":
                    arg["op"] = f"SCMP_CMP_{new}"

    edit(f"operator_{old.lower()}_is_{new.lower()}", "SECC-005")(edited)


for old, new in (("LT", "LE"), ("LE", "LT"), ("GE", "GT"), ("GT", "GE"), ("NE", "GT"), ("MASKED_EQ", "EQ")):
    change_operator(old, new)


@config("SECC-005")
def masked_value_is_0(config: Json) -> None:
    for rule in rules(config):
        for arg in rule.get("args", []):
            arg.pop("valueTwo", None)


@config("SECC-006")
def values_of_32_bits(config: Json) -> None:
    for rule in rules(config):
        for arg in rule.get("args", []):
            arg["value"] &= 0xFFFFFFFF


@config("SECC-006")
def values_are_doubles(config: Json) -> None:
    for rule in rules(config):
        for arg in rule.get("args", []):
            arg["value"] = int(float(arg["value"]))


@config("SECC-007")
def first_argument_only(config: Json) -> None:
    for rule in rules(config):
        del rule.get("args", [])[1:]


@config("SECC-007")
def last_argument_only(config: Json) -> None:
    for rule in rules(config):
        del rule.get("args", [])[:-1]


@config("SECC-007")
def last_rule_lost(config: Json) -> None:
    rules(config)[-1:] = []


@config("SECC-008")
def default_action_is_allow(config: Json) -> None:
    if seccomp(config):
        seccomp(config)["defaultAction"] = "SCMP_ACT_ALLOW"


@config("SECC-008")
def default_action_is_kill(config: Json) -> None:
    if seccomp(config).get("defaultAction") == "SCMP_ACT_ERRNO":
        seccomp(config)["defaultAction"] = "SCMP_ACT_KILL"


@config("SECC-009")
def errno_of_other_actions_ignored(config: Json) -> None:
    if seccomp(config).get("defaultAction") != "SCMP_ACT_ERRNO":
        seccomp(config).pop("defaultErrnoRet", None)
    for rule in rules(config):
        if rule["action"] != "SCMP_ACT_ERRNO":
            rule.pop("errnoRet", None)


@config("SECC-010")
def unknown_actions_are_errno(config: Json) -> None:
    for rule in rules(config):
        rule["action"] = rule["action"].replace("_LK", "_ERRNO")


@config("SECC-010")
def unknown_default_action_is_allow(config: Json) -> None:
    if seccomp(config):
        seccomp(config)["defaultAction"] = seccomp(config)["defaultAction"].replace("_LK", "_ALLOW")


@config("SECC-011")
def unknown_operators_are_eq(config: Json) -> None:
    for rule in rules(config):
        for arg in rule.get("args", []):
            arg["op"] = arg["op"].replace("_LK", "_EQ")


@config("SECC-011")
def arguments_with_an_empty_operator_dropped(config: Json) -> None:
    for rule in rules(config):
        rule["args"] = [arg for arg in rule.get("args", []) if arg["op"]]


@config("SECC-012")
def unknown_architectures_dropped(config: Json) -> None:
    if "architectures" in seccomp(config):
        known = [name for name in seccomp(config)["architectures"] if not name.endswith("_LK")]
        seccomp(config)["architectures"] = known


@config("SECC-013")
def unknown_filter_flags_dropped(config: Json) -> None:
    if "flags" in seccomp(config):
        seccomp(config)["flags"] = [flag for flag in seccomp(config)["flags"] if not flag.endswith("_LK")]


@config("SECC-014")
def rules_without_names_dropped(config: Json) -> None:
    rules(config)[:] = [rule for rule in rules(config) if rule["names"]]


@config("SECC-015")
def argument_index_wraps(config: Json) -> None:
    for rule in rules(config):
        for arg in rule.get("args", []):
            arg["index"] %= 6


@config("SECC-016")
def no_filter_where_flags_are_empty(config: Json) -> None:
    if seccomp(config).get("flags") == []:
        del config["linux"]["seccomp"]


@config("SECC-016")
def no_filter_where_flags_are_given(config: Json) -> None:
    if seccomp(config).get("flags"):
        del config["linux"]["seccomp"]


@config("SECC-017")
def first_architecture_only(config: Json) -> None:
    del seccomp(config).get("architectures", [])[1:]


@config("SECC-018", "SECC-005")
def seccomp_rules_lost(config: Json) -> None:
    rules(config)[:] = []


def via_proxy(name: str, ids: str, change: Callable[[bytes, list[int]], tuple[list[bytes], list[int]]]) -> None:
    """What the runtime sends to listenerPath goes through us; change gives the messages and the descriptors sent on."""

    def act(call: Call) -> int | None:
        target = seccomp(call.config()).get("listenerPath")
        if not target or not Path(target).is_socket():
            return None
        mine = f"{target}.proxy"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(mine)
            listener.listen()
            listener.settimeout(3)
            if os.fork() == 0:
                try:
                    client = listener.accept()[0]
                    data, fds, _, _ = socket.recv_fds(client, 65536, 4)
                    while more := client.recv(65536):
                        data += more
                    messages, kept = change(data, fds)
                    with socket.socket(socket.AF_UNIX) as agent:
                        agent.connect(target)
                        for message in messages:
                            socket.send_fds(agent, [message], kept)
                            kept = []
                        if name == "connection_stays_open":
                            time.sleep(30)
                finally:
                    os._exit(0)
        with call.edited(lambda config: seccomp(config).update(listenerPath=mine)):
            return call.run()

    act.__name__ = name
    mutant(*ids.split(","), on="create")(act)


via_proxy("state_sent_twice", "SECC-003", lambda data, fds: ([data, data], fds))
via_proxy("connection_stays_open", "SECC-003", lambda data, fds: ([data], fds))
via_proxy("state_without_descriptor", "SECC-003,SECC-020", lambda data, fds: ([data], []))
via_proxy("descriptor_sent_twice", "SECC-020", lambda data, fds: ([data], fds * 2))
via_proxy("descriptor_of_another_file", "SECC-020", lambda data, fds: ([data], [os.open("/", os.O_RDONLY)]))
via_proxy("descriptor_name_lost", "SECC-020", lambda data, fds: ([data.replace(b"seccompFd", b"seccomp")], fds))
via_proxy("process_state_of_another_pid", "SECC-019", lambda data, fds: ([data.replace(b'"pid":', b'"pid":1')], fds))
via_proxy("process_state_without_annotations", "SECC-019", lambda data, fds: ([data.replace(b"a value", b"")], fds))
via_proxy("process_state_running", "SECC-019", lambda data, fds: ([data.replace(b"creat", b"x")], fds))
via_proxy("metadata_cut", "SECC-021", lambda data, fds: ([data.replace(b"/x:y;", b"")], fds))


@config("SECC-022", "SECC-023")
def notify_without_agent_is_errno(config: Json) -> None:
    if not Path(seccomp(config).get("listenerPath") or "/none").is_socket():
        for rule in rules(config):
            rule["action"] = rule["action"].replace("NOTIFY", "ERRNO")


@config("SECC-022")
def deaf_agent_is_none(config: Json) -> None:
    path = Path(seccomp(config).get("listenerPath") or "/none")
    if path.name == "deaf":
        for rule in rules(config):
            rule["action"] = "SCMP_ACT_ALLOW"


@config("SECC-024")
def lone_metadata_ignored(config: Json) -> None:
    if not seccomp(config).get("listenerPath"):
        seccomp(config).pop("listenerMetadata", None)


@mutant("SECC-025", on="create")
def listener_always_needed(call: Call) -> int | None:
    path = seccomp(call.config()).get("listenerPath")
    return 1 if path and not Path(path).is_socket() else None


@mutant("SECC-025", on="create")
def listener_always_told(call: Call) -> None:
    path = Path(seccomp(call.config()).get("listenerPath") or "/none")
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(path))


# NS, USERNS, TIMENS, PERS


def without_namespace(*types: str) -> Edit:
    def edited(config: Json) -> None:
        found = items(config, "linux", "namespaces")
        found[:] = [one for one in found if one.get("type") not in types or one.get("path")]

    return edited


for type in ("pid", "mount", "uts", "time"):
    if type != "mount":
        edit(f"new_{type}_namespace_not_made", "TIMENS-001" if type == "time" else "NS-001")(without_namespace(type))


@config("NS-001")
def namespace_of_the_caller_joined(config: Json) -> None:
    for one in items(config, "linux", "namespaces"):
        if one["type"] in ("network", "ipc", "cgroup"):
            one.setdefault("path", f"/proc/{os.getpid()}/ns/{one['type'].replace('network', 'net')}")


@config("NS-006", "USERNS-001", "USERNS-003", "USERNS-004")
def user_namespace_not_made(config: Json) -> None:
    without_namespace("user")(config)
    for name in ("uidMappings", "gidMappings"):
        at(config, "linux").pop(name, None)


def path_ignored(*types: str) -> Edit:
    def edited(config: Json) -> None:
        for one in items(config, "linux", "namespaces"):
            if one.get("type") in types:
                one.pop("path", None)

    return edited


edit("path_of_network_ignored", "NS-002", "NETDEV-008", "NS-014")(path_ignored("network"))
edit("path_of_pid_ignored", "NS-002", "NS-014")(path_ignored("pid"))
edit("path_of_uts_ignored", "NS-002", "NS-010", "NS-011", "NS-003", "NS-014")(path_ignored("uts"))
edit("path_of_cgroup_ignored", "NS-002", "NS-003")(path_ignored("cgroup"))
edit("path_of_time_ignored", "NS-008")(path_ignored("time"))
edit("path_of_mount_ignored", "NS-009")(path_ignored("mount"))


@config("NS-007")
def path_of_user_ignored(config: Json) -> None:
    if any(one.get("type") == "user" and one.get("path") for one in items(config, "linux", "namespaces")):
        path_ignored("user")(config)
        identity = [{"containerID": 0, "hostID": 0, "size": 65536}]
        at(config, "linux").update(uidMappings=identity, gidMappings=identity)


@config("NS-010")
def missing_path_is_new(config: Json) -> None:
    for one in items(config, "linux", "namespaces"):
        if "path" in one and not Path(one["path"]).exists():
            del one["path"]


@config("NS-010")
def file_that_is_no_namespace_is_new(config: Json) -> None:
    for one in items(config, "linux", "namespaces"):
        if "path" in one and not one["path"].startswith("/proc/"):
            del one["path"]


@mutant("NS-011", on="create")
def relative_path_is_of_the_bundle(call: Call) -> int:
    def change(config: Json) -> None:
        for one in items(config, "linux", "namespaces"):
            if one.get("path"):
                one["path"] = str(call.bundle / one["path"])

    with call.edited(change):
        return call.run()


@config("NS-004")
def pid_always_new(config: Json) -> None:
    namespace_added("pid")(config)


@config("NS-004")
def cgroup_always_new(config: Json) -> None:
    namespace_added("cgroup")(config)


@config("NS-012")
def mount_always_new(config: Json) -> None:
    namespace_added("mount")(config)


def namespace_added(type: str) -> Edit:
    def edited(config: Json) -> None:
        found = items(config, "linux", "namespaces")
        if not any(one.get("type") == type for one in found):
            found.append({"type": type})

    return edited


@config("NS-005")
def last_of_two_namespaces_counts(config: Json) -> None:
    found = items(config, "linux", "namespaces")
    found[:] = list({one["type"]: one for one in found}.values())


@config("NS-005")
def two_mount_namespaces_are_one(config: Json) -> None:
    found = items(config, "linux", "namespaces")
    mounts = [one for one in found if one["type"] == "mount"]
    found[:] = [one for one in found if one["type"] != "mount"] + mounts[:1]


@config("NS-013")
def unknown_namespaces_dropped(config: Json) -> None:
    found = items(config, "linux", "namespaces")
    found[:] = [one for one in found if one["type"] != "labkit"]


@config("NS-013")
def empty_namespace_type_dropped(config: Json) -> None:
    found = items(config, "linux", "namespaces")
    found[:] = [one for one in found if one["type"]]


@config("USERNS-001")
def gid_map_is_the_uid_map(config: Json) -> None:
    if "gidMappings" in at(config, "linux"):
        config["linux"]["gidMappings"] = config["linux"]["uidMappings"]


@config("USERNS-001")
def first_extent_only(config: Json) -> None:
    mappings = items(config, "linux", "uidMappings")
    if len(mappings) > 1:
        mappings[:] = [{**mappings[0], "size": 65536}]


@mutant("USERNS-002", on="create")
def root_file_system_chowned(call: Call) -> int | None:
    mappings = items(call.config(), "linux", "uidMappings")
    if len(mappings) > 1:
        subprocess.run(["find", str(call.root()), "-uid", "1", "-exec", "chown", "100000", "{}", "+"], check=True)
    return None


@mutant("USERNS-002", on="delete")
def bundle_chowned_by_delete(call: Call) -> int:
    known = call.state()
    status = call.run()
    for path in Path(known["bundle"], "out").glob("lk-*") if known else []:
        os.chown(path, 0, 0)
    return status


@config("USERNS-004")
def empty_extents_dropped(config: Json) -> None:
    for name in ("uidMappings", "gidMappings"):
        found = items(config, "linux", name)
        found[:] = [one for one in found if one["size"]]


@config("USERNS-004")
def overlapping_extents_dropped(config: Json) -> None:
    for name in ("uidMappings", "gidMappings"):
        found = items(config, "linux", name)
        if len(found) == 2 and found[1]["size"] == 10:
            del found[1]


@config("PERS-001")
def linux32_is_linux(config: Json) -> None:
    if at(config, "linux", "personality"):
        config["linux"]["personality"]["domain"] = config["linux"]["personality"]["domain"].replace("LINUX32", "LINUX")


@config("PERS-002")
def linux_needs_no_personality(config: Json) -> None:
    if at(config, "linux", "personality").get("domain") == "LINUX":
        del config["linux"]["personality"]


@config("PERS-003")
def unknown_personality_is_linux(config: Json) -> None:
    found = at(config, "linux", "personality")
    if found and found["domain"] not in ("LINUX", "LINUX32"):
        found["domain"] = "LINUX"


@config("PERS-003")
def personality_in_any_case(config: Json) -> None:
    found = at(config, "linux", "personality")
    if found:
        found["domain"] = found["domain"].upper()


@config("PERS-004")
def personality_flags_ignored(config: Json) -> None:
    at(config, "linux", "personality").pop("flags", None)


def change_offsets(name: str, ids: str, change: Callable[[Json], object]) -> None:
    def edited(config: Json) -> None:
        for offset in at(config, "linux", "timeOffsets").values():
            change(offset)

    edit(name, *ids.split(","))(edited)


change_offsets("nanoseconds_ignored", "TIMENS-001,TIMENS-002", lambda offset: offset.pop("nanosecs", None))
change_offsets("seconds_never_negative", "TIMENS-002", lambda offset: offset.update(secs=abs(offset.get("secs", 0))))
change_offsets(
    "nanoseconds_below_a_second", "TIMENS-003", lambda offset: offset.update(nanosecs=offset.get("nanosecs", 0) % 10**9)
)


@config("TIMENS-001")
def clocks_swapped(config: Json) -> None:
    found = at(config, "linux", "timeOffsets")
    if len(found) == 2:
        found["monotonic"], found["boottime"] = found.get("boottime", {}), found.get("monotonic", {})


@config("TIMENS-003")
def offset_before_the_boot_is_0(config: Json) -> None:
    for offset in at(config, "linux", "timeOffsets").values():
        offset["secs"] = max(offset.get("secs", 0), -1)


@config("TIMENS-005")
def unknown_clock_is_monotonic(config: Json) -> None:
    found = at(config, "linux", "timeOffsets")
    if "realtime" in found:
        found["monotonic"] = found.pop("realtime")


@config("TIMENS-005")
def nothing_set_beside_an_unknown_clock(config: Json) -> None:
    if "realtime" in at(config, "linux", "timeOffsets"):
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 0}}


# NETDEV


def devices(config: Json) -> Json:
    return at(config, "linux", "netDevices")


@config("NETDEV-001")
def one_device_only(config: Json) -> None:
    for name in list(devices(config))[1:]:
        del devices(config)[name]


@config("NETDEV-001")
def every_device_moved(config: Json) -> None:
    if devices(config):
        found = Path("/proc/self/net/dev").read_text().splitlines()[2:]
        for name in (line.partition(":")[0].strip() for line in found):
            if name.startswith("lk"):
                devices(config).setdefault(name, {})


@config("NETDEV-002")
def names_ignored(config: Json) -> None:
    for device in devices(config).values():
        device.pop("name", None)


@config("NETDEV-002")
def names_cut(config: Json) -> None:
    for device in devices(config).values():
        if "name" in device:
            device["name"] = device["name"][:7]


def after_create(name: str, *ids: str) -> Callable[[Callable[[str], str]], object]:
    """The function gives a shell script for each device, by its name in the container, run in its network namespace."""

    def register(script: Callable[[str], str]) -> object:
        def act(call: Call) -> int:
            found = devices(call.config())
            status = call.run()
            if found and not status:
                pid = str(call.state()["pid"])
                for device in (one.get("name") or old for old, one in found.items()):
                    subprocess.run(["nsenter", "-t", pid, "-n", "busybox", "sh", "-c", script(device)], check=False)
            return status

        act.__name__ = name
        return mutant(*ids, on="create")(act)

    return register


after_create("device_left_down", "NETDEV-003")(lambda device: f"ip link set {device} down")
after_create("renamed_device_left_down", "NETDEV-003")(lambda device: f"ip link set {device[:6]}2 down")
after_create("no_ipv6_address", "NETDEV-004")(lambda device: f"ip -6 addr flush dev {device}")
after_create("second_address_lost", "NETDEV-004")(lambda device: f"ip addr del 10.123.77.1/32 dev {device}")
after_create("mtu_reset", "NETDEV-004")(lambda device: f"ip link set {device} mtu 1500")
after_create("hardware_address_new", "NETDEV-004")(
    lambda device: f"ip link set {device} down; ip link set {device} address 02:00:00:00:00:01; ip link set {device} up"
)


@config("NETDEV-005")
def name_that_is_taken_ignored(config: Json) -> None:
    for device in devices(config).values():
        if device.get("name") == "lo":
            del device["name"]


@config("NETDEV-006")
def template_is_a_name(config: Json) -> None:
    for device in devices(config).values():
        if "%d" in device.get("name", ""):
            device["name"] = device["name"].replace("%d", "x")


@config("NETDEV-007")
def missing_devices_ignored(config: Json) -> None:
    found = Path("/proc/self/net/dev").read_text()
    for name in list(devices(config)):
        if f"{name}:" not in found:
            del devices(config)[name]


@mutant("NETDEV-008", on="delete")
def device_moved_back(call: Call) -> int | None:
    known = call.state()
    if not known:
        return None
    call.bundle = Path(known["bundle"])
    config = call.config()
    paths = [one.get("path") for one in items(config, "linux", "namespaces") if one["type"] == "network"]
    for old, device in devices(config).items():
        if paths and paths[0]:
            words = ["nsenter", f"--net={paths[0]}", "ip", "link", "set", device.get("name", old), "netns"]
            subprocess.run([*words, str(os.getpid())], check=False)
    return None


@mutant("NETDEV-009", on="create")
def refused_device_is_lost(call: Call) -> int:
    status = call.run()
    for name in devices(call.config()) if status else []:
        subprocess.run(["busybox", "ip", "link", "delete", name], check=False)
    return status


# Second ways to break what has two


@config("PROC-004")
def console_size_means_a_terminal(config: Json) -> None:
    if "consoleSize" in process(config):
        process(config)["terminal"] = True


@config("PROC-007")
def umask_0_where_none_is_given(config: Json) -> None:
    at(config, "process", "user").setdefault("umask", 0)


@config("PROC-008")
def missing_cwd_is_tmp(config: Json) -> None:
    if process(config).get("cwd") == "/lk/none":
        process(config)["cwd"] = "/tmp"


@config("PROC-013")
def groups_of_the_caller_kept(config: Json) -> None:
    at(config, "process", "user").setdefault("additionalGids", [*({*os.getgroups()} - {0})] or [4711])


@config("RLIM-003")
def first_of_two_rlimits_counts(config: Json) -> None:
    limits = items(config, "process", "rlimits")
    limits[:] = list({limit["type"]: limit for limit in limits[::-1]}.values())


@config("OOM-002")
def oom_score_0_where_none_is_given(config: Json) -> None:
    process(config).setdefault("oomScoreAdj", 0)


@config("OOM-003")
def oom_score_out_of_range_dropped(config: Json) -> None:
    if process(config).get("oomScoreAdj", 0) > 1000:
        del process(config)["oomScoreAdj"]


@mutant("FD-001", on="create")
def high_descriptor_leaked(call: Call) -> None:
    os.dup2(os.open("/", os.O_RDONLY), 60)
    for fd in range(3, 9):
        os.dup2(60, fd)
    call.words[1:1] = ["--preserve-fds", "6"]


@config("NS-006")
def user_namespace_of_the_caller(config: Json) -> None:
    if items(config, "linux", "uidMappings"):
        without_namespace("user")(config)
        for name in ("uidMappings", "gidMappings"):
            del config["linux"][name]


@config("NS-007")
def own_mappings_in_a_joined_namespace(config: Json) -> None:
    for one in items(config, "linux", "namespaces"):
        if one["type"] == "user" and one.pop("path", None):
            mappings = [{"containerID": 0, "hostID": 0, "size": 4000}]
            at(config, "linux").update(uidMappings=mappings, gidMappings=mappings)


@config("USERNS-003")
def mappings_thought_up(config: Json) -> None:
    if any(one.get("type") == "user" and not one.get("path") for one in items(config, "linux", "namespaces")):
        mappings = [{"containerID": 0, "hostID": 0, "size": 1}]
        if not items(config, "linux", "uidMappings"):
            at(config, "linux").update(uidMappings=mappings, gidMappings=mappings)
            process(config)["user"] = {"uid": 0, "gid": 0, "umask": 0}
            process(config)["args"] = ["/bin/true"]


@config("NETDEV-005")
def device_with_a_taken_name_dropped(config: Json) -> None:
    for name, device in list(devices(config).items()):
        if device.get("name") == "lo":
            del devices(config)[name]


@config("NETDEV-007")
def long_names_cut(config: Json) -> None:
    for name, device in list(devices(config).items()):
        if len(device.get("name", "")) > 15:
            del devices(config)[name]


@config("SECC-012")
def unknown_architecture_is_the_native_one(config: Json) -> None:
    if "architectures" in seccomp(config):
        del seccomp(config)["architectures"]


@config("SECC-013")
def flags_ignored(config: Json) -> None:
    seccomp(config).pop("flags", None)


@config("SECC-015")
def rules_with_a_bad_index_dropped(config: Json) -> None:
    rules(config)[:] = [rule for rule in rules(config) if all(arg["index"] < 6 for arg in rule.get("args", []))]


@config("SECC-023")
def notify_rules_without_agent_dropped(config: Json) -> None:
    if not seccomp(config).get("listenerPath"):
        rules(config)[:] = [rule for rule in rules(config) if rule["action"] != "SCMP_ACT_NOTIFY"]


@config("TIMENS-004")
def time_namespace_for_offsets(config: Json) -> None:
    found = items(config, "linux", "namespaces")
    if at(config, "linux", "timeOffsets") and not any(one.get("type") == "time" for one in found):
        found.append({"type": "time"})

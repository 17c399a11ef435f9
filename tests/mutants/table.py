"""Mutants of the checks that were there first, by the group of the requirements they break."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .engine import Call, Edit, Json, at, items, refuse
from .registry import config, ignore, in_container_setup, mutant, state

# Properties of config.json that `create` does not see, and the requirements this breaks.
IGNORED = """
root.readonly ROOT-002
process.user.additionalGids PROC-005
process.user.umask PROC-006
process.rlimits RLIM-001
process.capabilities.ambient CAP-001
process.noNewPrivileges NNP-001
process.oomScoreAdj OOM-001
hostname HOST-001
domainname HOST-002
linux.devices DEV-001
linux.resources.memory CG-004,CG-022,CG-046
linux.resources.memory.reservation CG-015
linux.resources.cpu CG-005,CG-023,CG-046
linux.resources.cpu.shares CG-005
linux.resources.cpu.period CG-023,CG-028,CG-052
linux.resources.cpu.cpus CG-024,CG-046
linux.resources.pids CG-006,CG-047
linux.resources.unified CG-010,CG-043,CG-044,CG-045
linux.sysctl SYSCTL-001,CREATE-004
linux.seccomp SECC-001,SECC-002,SECC-008,SECC-016
linux.seccomp.defaultErrnoRet SECC-002
linux.maskedPaths MASK-001
linux.readonlyPaths ROPATH-001
linux.personality PERS-001
linux.timeOffsets TIMENS-001
"""


@config()
def control(config: Json) -> None:
    """Breaks nothing: what fails here fails by the runtime or by our way to change things."""


# STATE, QUERY


@state("STATE-001")
def state_without_version(state: Json) -> None:
    del state["ociVersion"]


@state("STATE-001")
def state_other_id(state: Json) -> None:
    state["id"] += "x"


@state("STATE-001")
def state_pid_as_text(state: Json) -> None:
    state["pid"] = str(state["pid"])


@state("STATE-002")
def state_wrong_pid(state: Json) -> None:
    state["pid"] = 1


@state("STATE-003")
def state_relative_bundle(state: Json) -> None:
    state["bundle"] = Path(state["bundle"]).name


@state("STATE-003")
def state_wrong_bundle(state: Json) -> None:
    state["bundle"] = str(Path(state["bundle"]).parent)


@state("STATE-004")
def state_created_is_running(state: Json) -> None:
    state["status"] = state["status"].replace("created", "running")


@state("STATE-004")
def state_stuck_at_created(state: Json) -> None:
    state["status"] = state["status"].replace("running", "created")


@state("STATE-005")
def state_without_annotations(state: Json) -> None:
    state.pop("annotations", None)


@state("STATE-005", "CONF-004")
def state_annotations_cut(state: Json) -> None:
    state["annotations"] = {key: value.partition("=")[0] for key, value in at(state, "annotations").items() if value}


@mutant("STATE-006", on="create")
def duplicate_replaces(call: Call) -> None:
    if call.state():
        call.run("delete", "--force", call.id)


@mutant("CREATE-002", on="create")
def duplicate_accepted(call: Call) -> int | None:
    return 0 if call.state() else None


@mutant("CREATE-002")
def any_id_accepted(call: Call) -> None:
    call.words = [word.replace("/", "_").strip(".") if word == call.id else word for word in call.words]


@mutant("QUERY-001", "START-001", "KILL-001", "DELETE-001", "CREATE-001")
def id_not_needed(call: Call) -> int | None:
    return 0 if call.command and not call.id else None


@mutant("QUERY-002", on="state")
def state_of_unknown(call: Call) -> int | None:
    return 0 if not call.state() else None


# LIFE, CREATE, START


@mutant("LIFE-001", "CREATE-006")
def program_runs_in_create(call: Call) -> int | None:
    if call.command == "create":
        return call.run() or call.run("start", call.id)
    return 0 if call.command == "start" else None


@mutant("LIFE-002", on="start")
def config_read_at_start(call: Call) -> int | None:
    known = call.state()
    if known.get("status") != "created":
        return None
    call.run("delete", "--force", call.id)
    return call.run("create", "--bundle", known["bundle"], call.id) or call.run("start", call.id)


@mutant("LIFE-003", "ROOT-001", "CONF-005", "MOUNT-009", "NS-003", "NS-005", on="create")
def create_never_fails(call: Call) -> int:
    call.run()
    return 0


@mutant("LIFE-004", on="create")
def failed_create_leaves_cgroup(call: Call) -> int:
    status = call.run()
    for path in call.cgroups() if status else []:
        path.mkdir(parents=True, exist_ok=True)
    return status


@mutant("LIFE-004", "LIFE-006", "CREATE-005", "DELETE-004", on="state")
def every_id_has_a_record(call: Call) -> int | None:
    if call.state():
        return None
    print(json.dumps({"ociVersion": "1.0.2", "id": call.id, "status": "stopped", "bundle": "/", "pid": 0}))
    return 0


@config("LIFE-005", "CAP-002", "CAP-003")
def unknown_capability_loses_the_others(config: Json) -> None:
    for names in at(config, "process", "capabilities").values():
        if not set(names) <= KNOWN_CAPABILITIES:
            names.clear()


KNOWN_CAPABILITIES = {"CAP_CHOWN", "CAP_KILL"}


@mutant("LIFE-006", "DELETE-004", on="delete")
def delete_leaves_cgroup(call: Call) -> int:
    paths = call.cgroups(call.state())
    status = call.run()
    for path in paths if not status else []:
        path.mkdir(parents=True, exist_ok=True)
    return status


@mutant("CREATE-001", on="create")
def bundle_not_needed(call: Call) -> int | None:
    return 0 if not (call.bundle / "config.json").exists() else None


@mutant("BUNDLE-001", on="create")
def config_in_any_case(call: Call) -> int | None:
    wanted, other = call.bundle / "config.json", call.bundle / "Config.json"
    if not other.exists():
        return None
    other.rename(wanted)
    try:
        return call.run()
    finally:
        wanted.rename(other)


@state("CREATE-003")
def state_creating(state: Json) -> None:
    state["status"] = state["status"].replace("created", "creating")


@mutant("CREATE-003", on="create")
def create_exits_3(call: Call) -> int:
    return call.run() or 3


@mutant("START-002", on="start")
def start_twice(call: Call) -> int | None:
    return 0 if call.state().get("status") in ("running", "stopped") else None


@mutant("START-002", on="start")
def start_unknown(call: Call) -> int | None:
    return 0 if not call.state() else None


@mutant("START-002", on="start")
def start_again(call: Call) -> int | None:
    known = call.state()
    if known.get("status") != "stopped":
        return None
    call.run("delete", "--force", call.id)
    call.run("create", "--bundle", known["bundle"], call.id)
    call.run("start", call.id)
    return 1


@config("START-003", "PROC-003")
def args_cut(config: Json) -> None:
    process = at(config, "process")
    process["args"] = [word for word in process.get("args", []) if word] or ["/bin/true"]


# KILL, DELETE


@mutant("KILL-002", on="kill")
def kill_stopped(call: Call) -> int | None:
    return 0 if call.state().get("status") == "stopped" else None


@mutant("KILL-002", on="kill")
def kill_unknown(call: Call) -> int | None:
    return 0 if not call.state() else None


@mutant("KILL-003", "KILL-005", on="kill")
def kill_always_kills(call: Call) -> None:
    call.words = ["kill", call.id, "KILL"]


@mutant("KILL-003", on="kill")
def kill_sends_nothing(call: Call) -> int | None:
    return 0 if "KILL" not in call.operands else None


@mutant("KILL-004", on="kill")
def kill_not_when_created(call: Call) -> int | None:
    return 1 if call.state().get("status") == "created" else None


@mutant("KILL-005", on="kill")
def kill_needs_signal(call: Call) -> int | None:
    return 1 if len(call.operands) < 2 else None


@mutant("DELETE-002", on="delete")
def delete_running(call: Call) -> None:
    call.words = ["delete", "--force", call.id]


@mutant("DELETE-002", "DELETE-003", on="delete")
def delete_refused_but_kills(call: Call) -> int | None:
    known = call.state()
    if "--force" in call.options or known.get("status") not in ("created", "running"):
        return None
    os.kill(known["pid"], signal.SIGKILL)
    return 1


@mutant("DELETE-005", on="delete")
def delete_removes_bundle(call: Call) -> int:
    known = call.state()
    status = call.run()
    if known and not status:
        Path(known["bundle"], "config.json").unlink()
    return status


@mutant("DELETE-005", on="delete")
def delete_removes_siblings(call: Call) -> int:
    paths = call.cgroups(call.state())
    status = call.run()
    for parent in {path.parent for path in paths}:
        for directory, _, _ in os.walk(parent, topdown=False):
            with suppress(OSError):
                Path(directory).rmdir()
    return status


# PIDF, CLI, BUNDLE, FD


@mutant("PIDF-001", on="create")
def no_pid_file(call: Call) -> None:
    call.drop_option("--pid-file")


@mutant("PIDF-001", on="create")
def pid_file_of_the_runtime(call: Call) -> int:
    return with_pid_file(call, str(os.getpid()))


@mutant("PIDF-001", on="create")
def pid_file_with_name(call: Call) -> int:
    return with_pid_file(call, "pid={}")


def with_pid_file(call: Call, form: str) -> int:
    status = call.run()
    file = Path(call.options.get("--pid-file", ""))
    if file.is_file():
        file.write_text(form.format(file.read_text()))
    return status


@mutant("CLI-001", on="create")
def bundle_has_no_default(call: Call) -> int | None:
    return 1 if not {"--bundle", "-b"} & set(call.options) else None


@mutant("CLI-001")
def unknown_command_accepted(call: Call) -> int | None:
    known = ("create", "start", "state", "kill", "delete", "features")
    return 0 if call.command and call.command not in known else None


@mutant("CLI-002", on="create")
def no_stdin(call: Call) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


@mutant("CLI-002", on="create")
def outputs_swapped(call: Call) -> None:
    out, err = os.dup(1), os.dup(2)
    os.dup2(err, 1)
    os.dup2(out, 2)


@mutant("CLI-003", on="create")
def console_is_no_terminal(call: Call) -> int | None:
    return with_console(call, os.open(os.devnull, os.O_RDWR))


@mutant("CLI-003", "DEFDEV-003", on="create")
def console_of_nobody(call: Call) -> int | None:
    return with_console(call, os.openpty()[0])


def with_console(call: Call, fd: int) -> int | None:
    """Send this over the console socket; the program gets no terminal."""
    where = call.options.get("--console-socket")
    if not where:
        return None
    call.drop_option("--console-socket")
    with call.edited(lambda config: config["process"].update(terminal=False)):
        status = call.run()
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(where)
        socket.send_fds(console, [b"x"], [fd])
    return status


@mutant("CLI-004", on="create")
def passed_fds_lost(call: Call) -> None:
    os.environ.pop("LISTEN_FDS", None)


@mutant("FD-001", on="create")
def fd_leaked(call: Call) -> None:
    os.dup2(os.open("/", os.O_RDONLY), 3)
    call.words[1:1] = ["--preserve-fds", "1"]


# CONF, ROOT, MOUNT, DEFFS


@config("CONF-002")
def old_version_refused(config: Json) -> None:
    if config.get("ociVersion") == "1.0.0":
        refuse("too old")


@config("CONF-003")
def unknown_property_refused(config: Json) -> None:
    known = {"ociVersion", "root", "mounts", "process", "hostname", "domainname", "hooks", "annotations", "linux"}
    if set(config) - known:
        refuse("unknown property")


@config("CONF-003")
def unknown_nested_property_refused(config: Json) -> None:
    known = {"args", "cwd", "env", "user", "capabilities", "rlimits", "terminal", "noNewPrivileges", "oomScoreAdj"}
    if set(at(config, "process")) - known:
        refuse("unknown property in process")


@config("CONF-004")
def empty_annotation_refused(config: Json) -> None:
    if "" in at(config, "annotations").values():
        refuse("empty annotation")


@config("CONF-005")
def bad_values_dropped(config: Json) -> None:
    linux = at(config, "linux")
    for key in ("rootfsPropagation", "seccomp", "personality"):
        linux.pop(key, None)


@config("ROOT-001")
def root_must_be_relative(config: Json) -> None:
    if str(at(config, "root").get("path", "")).startswith("/"):
        refuse("root.path is absolute")


@config("ROOT-002")
def root_always_readonly(config: Json) -> None:
    at(config, "root")["readonly"] = True


@config("MOUNT-001")
def mounts_in_other_order(config: Json) -> None:
    head, tail = config["mounts"][:4], config["mounts"][4:]
    config["mounts"] = head + tail[::-1]


@config("MOUNT-002")
def rbind_as_bind(config: Json) -> None:
    change_options(config, lambda options: ["bind" if option == "rbind" else option for option in options])


@config("MOUNT-002")
def bind_as_rbind(config: Json) -> None:
    change_options(config, lambda options: ["rbind" if option == "bind" else option for option in options])


@config("MOUNT-003")
def relative_destination_refused(config: Json) -> None:
    if any(not mount["destination"].startswith("/") for mount in items(config, "mounts")):
        refuse("destination is relative")


def change_options(config: Json, change: Callable[[list[str]], list[str]]) -> None:
    for mount in items(config, "mounts"):
        mount["options"] = change(mount.get("options", []))


def without(*dropped: str) -> Edit:
    return lambda config: change_options(config, lambda given: [option for option in given if option not in dropped])


@config("MOUNT-004")
def noexec_ignored(config: Json) -> None:
    without("noexec")(config)


@config("MOUNT-004")
def readonly_mount_ignored(config: Json) -> None:
    without("ro")(config)


@config("MOUNT-011")
def noatime_ignored(config: Json) -> None:
    without("noatime")(config)


@config("MOUNT-005")
def propagation_ignored(config: Json) -> None:
    without("shared", "rshared", "slave", "rslave", "unbindable", "runbindable")(config)


@config("MOUNT-027")
def propagation_not_recursive(config: Json) -> None:
    plain = {"rshared": "shared", "rslave": "slave", "rprivate": "private", "runbindable": "unbindable"}
    change_options(config, lambda options: [plain.get(option, option) for option in options])


@config("MOUNT-007")
def mount_data_ignored(config: Json) -> None:
    for mount in config["mounts"][4:]:
        mount["options"] = [option for option in mount.get("options", []) if "=" not in option]


@config("DEFFS-001")
def filesystems_are_tmpfs(config: Json) -> None:
    for mount in items(config, "mounts"):
        if mount.get("type") in ("sysfs", "mqueue"):
            mount.update(type="tmpfs", source="tmpfs", options=[])


# PROC, RLIM, CAP, NNP, OOM, SCHED, IOPRIO


@config("PROC-001")
def cwd_ignored(config: Json) -> None:
    process = at(config, "process")
    if process.get("cwd", "").startswith("/"):
        process["cwd"] = "/"


@config("PROC-001")
def relative_cwd_accepted(config: Json) -> None:
    process = at(config, "process")
    process["cwd"] = str(Path("/", process.get("cwd", "")))


@config("PROC-002")
def env_lost(config: Json) -> None:
    process = at(config, "process")
    process["env"] = [entry for entry in process.get("env", []) if entry.startswith("PATH=")]


@config("PROC-002")
def env_cut_at_second_equals(config: Json) -> None:
    process = at(config, "process")
    process["env"] = ["=".join(entry.split("=")[:2]) for entry in process.get("env", [])]


@config("PROC-002")
def env_added(config: Json) -> None:
    at(config, "process").setdefault("env", []).append("LEAKED=1")


@config("PROC-003")
def empty_args_accepted(config: Json) -> None:
    process = at(config, "process")
    process["args"] = process.get("args") or ["/bin/true"]


@config("PROC-003")
def no_path_search(config: Json) -> None:
    process = at(config, "process")
    if process.get("args") and "/" not in process["args"][0]:
        refuse("args[0] is no path")


@config("PROC-004")
def console_size_refused(config: Json) -> None:
    if at(config, "process", "consoleSize") and not config["process"].get("terminal"):
        refuse("consoleSize without a terminal")


@config("PROC-005")
def gid_ignored(config: Json) -> None:
    at(config, "process", "user")["gid"] = 0


@config("PROC-005")
def uid_is_gid(config: Json) -> None:
    user = at(config, "process", "user")
    user["uid"] = user["gid"]


@config("RLIM-001")
def soft_limit_raised(config: Json) -> None:
    for limit in items(config, "process", "rlimits"):
        limit["soft"] = limit["hard"]


@config("RLIM-001")
def first_rlimit_only(config: Json) -> None:
    del items(config, "process", "rlimits")[1:]


@config("RLIM-002")
def unknown_rlimit_accepted(config: Json) -> None:
    known = {"CORE", "CPU", "FSIZE", "NOFILE", "STACK", "AS"}
    limits = items(config, "process", "rlimits")
    limits[:] = [limit for limit in limits if limit["type"].removeprefix("RLIMIT_") in known]


def change_capabilities(*sets: str, change: Callable[[list[str]], list[str]]) -> Edit:
    def edit(config: Json) -> None:
        capabilities = at(config, "process", "capabilities")
        for name in sets:
            capabilities[name] = change(capabilities.get(name, []))

    return edit


@config("CAP-001")
def bounding_capability_kept(config: Json) -> None:
    change_capabilities("bounding", change=lambda names: sorted({*names, "CAP_SYS_ADMIN", "CAP_AUDIT_WRITE"}))(config)


@config("CAP-001")
def inheritable_capabilities_ignored(config: Json) -> None:
    change_capabilities("inheritable", "ambient", change=lambda names: [])(config)


@config("NNP-002")
def no_new_privileges_always(config: Json) -> None:
    at(config, "process")["noNewPrivileges"] = True


@config("OOM-002")
def oom_score_reset(config: Json) -> None:
    at(config, "process").setdefault("oomScoreAdj", 0)


# HOST, HOOK


@config("HOST-001")
def hostname_cut(config: Json) -> None:
    config["hostname"] = config.get("hostname", "x")[:5]


def change_hooks(change: Callable[[list[Json]], list[Json]], *kinds: str) -> Edit:
    def edit(config: Json) -> None:
        hooks = at(config, "hooks")
        for kind in kinds or list(hooks):
            hooks[kind] = change(hooks.get(kind, []))

    return edit


def move_hooks(old: str, new: str) -> Edit:
    def edit(config: Json) -> None:
        hooks = at(config, "hooks")
        hooks[new] = hooks.get(new, []) + hooks.pop(old, [])

    return edit


def wrapped(script: str) -> Callable[[list[Json]], list[Json]]:
    """Hooks run by a shell; "$@" in the script is the hook with its arguments."""

    def change(hooks: list[Json]) -> list[Json]:
        for hook in hooks:
            words = hook.get("args", [""])
            if "busybox" not in hook["path"]:  # that one goes by its first argument
                words = words[1:]
            hook["args"] = ["sh", "-c", script, "sh", hook["path"], *words]
            hook["path"] = "/bin/sh"
        return hooks

    return change


@config("HOOK-001")
def hooks_in_reverse_order(config: Json) -> None:
    change_hooks(lambda hooks: hooks[::-1])(config)


@config("HOOK-001")
def one_hook_of_each_kind(config: Json) -> None:
    change_hooks(lambda hooks: hooks[:1])(config)


@config("HOOK-002")
def hooks_without_state(config: Json) -> None:
    change_hooks(wrapped('exec "$@" </dev/null'))(config)


@config("HOOK-002")
def hooks_told_running(config: Json) -> None:
    change_hooks(wrapped('"$1" sed "s/creat[a-z]*/running/" | "$@"'))(config)


@config("HOOK-003")
def prestart_dropped(config: Json) -> None:
    change_hooks(lambda hooks: [], "prestart")(config)


@config("HOOK-004")
def create_runtime_in_container(config: Json) -> None:
    move_hooks("createRuntime", "createContainer")(config)


@config("HOOK-005")
def create_container_in_runtime(config: Json) -> None:
    move_hooks("createContainer", "createRuntime")(config)


@config("HOOK-006")
def start_container_dropped(config: Json) -> None:
    change_hooks(lambda hooks: [], "startContainer")(config)


@config("HOOK-006")
def start_container_too_early(config: Json) -> None:
    move_hooks("startContainer", "createContainer")(config)


@config("HOOK-007", "HOOK-011")
def poststart_dropped(config: Json) -> None:
    change_hooks(lambda hooks: [], "poststart")(config)


@config("HOOK-008")
def poststop_dropped(config: Json) -> None:
    change_hooks(lambda hooks: [], "poststop")(config)


@config("HOOK-008")
def poststop_too_early(config: Json) -> None:
    move_hooks("poststop", "createRuntime")(config)


@config("HOOK-009")
def failing_create_hooks_ignored(config: Json) -> None:
    change_hooks(wrapped('"$@"; exit 0'), "prestart", "createRuntime", "createContainer")(config)


@config("HOOK-010")
def failing_start_hook_ignored(config: Json) -> None:
    change_hooks(wrapped('"$@"; exit 0'), "startContainer")(config)


@mutant("HOOK-012", on="delete")
def failing_poststop_is_error(call: Call) -> int | None:
    known = call.state()
    if not known:
        return None
    call.bundle = Path(known["bundle"])
    hooks = items(call.config(), "hooks", "poststop")
    return call.run() or (1 if hooks else 0)


@config("HOOK-017")
def no_time_is_unlimited_time(config: Json) -> None:
    for kind in at(config, "hooks").values():
        for hook in kind:
            if hook.get("timeout", 1) <= 0:
                del hook["timeout"]


@config("HOOK-014")
def hook_env_ignored(config: Json) -> None:
    change_hooks(lambda hooks: [{**hook, "env": []} for hook in hooks])(config)


@config("HOOK-014")
def hook_args_cut(config: Json) -> None:
    change_hooks(lambda hooks: [{**hook, "args": hook.get("args", [])[:-1]} for hook in hooks])(config)


# DEFDEV, SYML, DEV


@in_container_setup("DEFDEV-001")
def no_dev_full(call: Call) -> str:
    return 'rm "$root/dev/full"'


@in_container_setup("DEFDEV-001")
def dev_random_is_zero(call: Call) -> str:
    return 'rm "$root/dev/random"; mknod "$root/dev/random" c 1 5'


@in_container_setup("DEFDEV-002")
def no_ptmx(call: Call) -> str:
    return 'rm "$root/dev/ptmx"'


@in_container_setup("DEFDEV-002")
def ptmx_of_the_host(call: Call) -> str:
    return 'rm "$root/dev/ptmx"; mknod "$root/dev/ptmx" c 5 2'


@in_container_setup("SYML-001")
def no_dev_fd(call: Call) -> str:
    return 'rm "$root/dev/fd"'


@in_container_setup("SYML-001")
def dev_stderr_is_stdout(call: Call) -> str:
    return 'ln -sfn /proc/self/fd/1 "$root/dev/stderr"'


@config("DEV-001")
def device_mode_ignored(config: Json) -> None:
    for device in items(config, "linux", "devices"):
        device.pop("fileMode", None)


@config("DEV-001")
def device_owner_ignored(config: Json) -> None:
    for device in items(config, "linux", "devices"):
        device.pop("gid", None)


# NS, USERNS


def drop_namespace(*types: str) -> Edit:
    def edit(config: Json) -> None:
        listed = items(config, "linux", "namespaces")
        listed[:] = [one for one in listed if one.get("type") not in types or one.get("path")]

    return edit


@config("NS-001")
def new_ipc_namespace_not_made(config: Json) -> None:
    drop_namespace("ipc")(config)


@config("NS-001")
def new_network_namespace_not_made(config: Json) -> None:
    drop_namespace("network")(config)


@config("NS-001")
def new_cgroup_namespace_not_made(config: Json) -> None:
    drop_namespace("cgroup")(config)


@config("NS-002", "NS-003")
def namespace_path_ignored(config: Json) -> None:
    for namespace in items(config, "linux", "namespaces"):
        namespace.pop("path", None)


@config("NS-004")
def network_always_new(config: Json) -> None:
    listed = items(config, "linux", "namespaces")
    if not any(one.get("type") == "network" for one in listed):
        listed.append({"type": "network"})


@config("NS-005")
def duplicate_namespace_accepted(config: Json) -> None:
    listed = items(config, "linux", "namespaces")
    listed[:] = {one.get("type"): one for one in listed}.values()


@config("USERNS-001")
def uid_map_shifted(config: Json) -> None:
    for mapping in items(config, "linux", "uidMappings")[-1:]:
        mapping["hostID"] += 1


@config("USERNS-001")
def gid_map_shortened(config: Json) -> None:
    for mapping in items(config, "linux", "gidMappings")[-1:]:
        mapping["size"] -= 1


# CG


@config("CG-001")
def cgroup_path_ignored(config: Json) -> None:
    linux = at(config, "linux")
    parent, _, name = linux.get("cgroupsPath", "/labkit-mutant/x").rpartition("/")
    linux["cgroupsPath"] = f"{parent}/other-{name}"


@mutant("CG-002", on="create")
def cgroup_by_id(call: Call) -> int:
    def edit(config: Json) -> None:
        linux = at(config, "linux")
        linux["cgroupsPath"] = f"{linux.get('cgroupsPath', '')}/{call.id}"

    with call.edited(edit):
        return call.run()


@mutant("CG-003", on="create")
def cgroup_emptied(call: Call) -> None:
    for path in call.cgroups():
        if path.is_dir():
            for pid in (path / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)


@config("CG-004")
def memory_limit_halved(config: Json) -> None:
    memory = at(config, "linux", "resources", "memory")
    if memory.get("limit", 0) > 0:
        memory["limit"] //= 2


@config("CG-006")
def pids_limit_off_by_one(config: Json) -> None:
    pids = at(config, "linux", "resources", "pids")
    if pids.get("limit", 0) > 0:
        pids["limit"] += 1


@config("CG-009")
def device_rules_ignored(config: Json) -> None:
    at(config, "linux").setdefault("resources", {})["devices"] = [{"allow": True, "access": "rwm"}]


@config("CG-009")
def device_rules_in_reverse(config: Json) -> None:
    items(config, "linux", "resources", "devices").reverse()


# SYSCTL, SECC, PROP, MASK, ROPATH, PERS


@config("SECC-004")
def seccomp_never_kills(config: Json) -> None:
    for rule in items(config, "linux", "seccomp", "syscalls"):
        rule["action"] = rule["action"].replace("KILL", "ERRNO")


@config("SECC-005", "SECC-007")
def seccomp_args_ignored(config: Json) -> None:
    for rule in items(config, "linux", "seccomp", "syscalls"):
        rule.pop("args", None)


@config("MASK-001")
def masked_files_only(config: Json) -> None:
    linux = at(config, "linux")
    linux["maskedPaths"] = linux.get("maskedPaths", [])[:1]


for line in IGNORED.split("\n")[1:-1]:
    ignore(*line.split())

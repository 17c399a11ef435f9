"""Mutants of lifecycle, operations, hooks, command line, configuration and features."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .engine import Call, Edit, Json, at, items, refuse
from .registry import config, features, mutant, state
from .table import change_hooks, wrapped

# STATE, QUERY


@state("STATE-001")
def state_annotations_null(state: Json) -> None:
    state.setdefault("annotations", None)


@state("STATE-001", "STATE-007")
def state_version_of_two_numbers(state: Json) -> None:
    state["ociVersion"] = "1.0"


@state("STATE-002", "STATE-007")
def state_pid_lost_when_running(state: Json) -> None:
    if state["status"] == "running":
        state["pid"] = 0


@state("STATE-004")
def state_never_stopped(state: Json) -> None:
    state["status"] = state["status"].replace("stopped", "running")


@state("STATE-005")
def state_one_annotation(state: Json) -> None:
    state["annotations"] = dict(list(at(state, "annotations").items())[:1])


@state("STATE-007")
def state_stopped_without_bundle(state: Json) -> None:
    if state["status"] == "stopped":
        del state["bundle"]


@state("STATE-007")
def state_stopped_without_annotations(state: Json) -> None:
    if state["status"] == "stopped":
        state.pop("annotations", None)


@state("STATE-007")
def state_pid_negative_when_stopped(state: Json) -> None:
    if state["status"] == "stopped":
        state["pid"] = -1


@mutant("STATE-006", "CREATE-002", "CREATE-007", on="create")
def duplicate_kills_the_first(call: Call) -> int | None:
    known = call.state()
    if not known:
        return None
    call.run("delete", "--force", call.id)
    return 1


def neighbours(call: Call) -> list[str]:
    """Other containers of the same check. `runc list` fails where one of another check ends meanwhile."""
    prefix = call.id.rpartition("-")[0]
    known = [path.name for path in Path("/run/runc").iterdir()]
    return [one for one in known if one != call.id and one.rpartition("-")[0] == prefix]


@mutant("QUERY-003", on="state")
def state_of_another(call: Call) -> None:
    call.words = ["state", *neighbours(call)[:1]] if neighbours(call) else call.words


@state("QUERY-003")
def state_same_pid_for_all(state: Json) -> None:
    state["pid"] = 4 if state.get("pid") else 0


@mutant("QUERY-002", "DELETE-007", on="delete")
def deleted_stay_known(call: Call) -> int | None:
    """Only those that have ended: what is created or runs is deleted by force at the end of a check."""
    known = call.state()
    return 0 if known.get("status", "stopped") == "stopped" and "--force" not in call.options else None


# LIFE, CREATE, START


@mutant("LIFE-001", "CREATE-006", on="create")
def program_runs_soon_after_create(call: Call) -> int:
    status = call.run()
    if not status and os.fork() == 0:
        time.sleep(0.01)
        call.ask("start", call.id)
        os._exit(0)
    return status


@mutant("START-003", "LIFE-001", "CREATE-006", on="start")
def start_does_nothing(call: Call) -> int | None:
    return 0 if call.state().get("status") == "created" else None


@config("START-003")
def exit_status_lost(config: Json) -> None:
    process = at(config, "process")
    if isinstance(process.get("args"), list):
        process["args"] = ["/bin/sh", "-c", '"$@"; exit 0', "sh", *process["args"]]


@config("START-003")
def program_runs_twice(config: Json) -> None:
    process = at(config, "process")
    if isinstance(process.get("args"), list):
        process["args"] = ["/bin/sh", "-c", '"$@"; exec "$@"', "sh", *process["args"]]


@mutant("LIFE-003", "ROOT-001", on="create")
def missing_root_is_made(call: Call) -> int | None:
    with suppress(OSError):
        call.root().mkdir(parents=True)
        return call.run() and 0
    return None


@config("LIFE-003")
def unknown_file_system_is_tmpfs(config: Json) -> None:
    for mount in items(config, "mounts"):
        if str(mount.get("type", "")).startswith("labkit"):
            mount["type"] = "tmpfs"


@config("LIFE-003")
def missing_namespace_is_new(config: Json) -> None:
    for namespace in items(config, "linux", "namespaces"):
        if "path" in namespace and not Path(namespace["path"]).exists():
            del namespace["path"]


@mutant("LIFE-004", "CREATE-005", on="create")
def failed_create_leaves_mount(call: Call) -> int:
    status = call.run()
    if status and call.bundle.is_dir():
        left = call.bundle / "left"
        left.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "left", str(left)], check=False)
    return status


@mutant("LIFE-004", on="create")
def failed_create_leaves_process(call: Call) -> int:
    status = call.run()
    if status and os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    return status


@mutant("LIFE-006", "DELETE-004", on="delete")
def delete_leaves_mount(call: Call) -> int:
    known = call.state()
    status = call.run()
    if known and not status:
        left = Path(known["bundle"], "left")
        left.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "left", str(left)], check=False)
    return status


@mutant("LIFE-006", on="create")
def namespace_pinned(call: Call) -> int:
    """A process stays in the container's network namespace."""
    status = call.run()
    known = {} if status else call.state()
    if known and any(one.get("type") == "network" for one in items(call.config(), "linux", "namespaces")):
        command = ["nsenter", f"--net=/proc/{known['pid']}/ns/net", "sleep", "20"]
        subprocess.Popen(command, env={"PATH": os.environ["PATH"]}, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        time.sleep(0.1)
    return status


@config("CREATE-004")
def mounts_after_the_usual_ones_lost(config: Json) -> None:
    del config["mounts"][4:]


@config("CREATE-004")
def hostname_of_the_host(config: Json) -> None:
    config.pop("hostname", None)


@config("CREATE-005")
def bad_sysctl_dropped(config: Json) -> None:
    sysctl = at(config, "linux", "sysctl")
    for key in [key for key, value in sysctl.items() if not str(value).replace(" ", "").isdigit()]:
        del sysctl[key]


@config("CREATE-005")
def bad_mount_data_dropped(config: Json) -> None:
    for mount in items(config, "mounts"):
        mount["options"] = [option for option in mount.get("options", []) if option != "size=labkit"]


@mutant("CREATE-007", on="create")
def id_of_running_accepted(call: Call) -> int | None:
    return 0 if call.state().get("status") == "running" else None


@mutant("CREATE-007", on="create")
def id_of_stopped_is_free(call: Call) -> None:
    if call.state().get("status") == "stopped":
        call.run("delete", call.id)


@config("START-004")
def process_made_up(config: Json) -> None:
    config.setdefault("process", {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}})


@mutant("START-005", on="create")
def missing_program_is_true(call: Call) -> int:
    return with_program(call, lambda path: not path.exists(), ["/bin/true"])


@mutant("START-005", "START-006", "START-007")
def failed_program_is_no_error(call: Call) -> int | None:
    return call.run() and 0 if call.command in ("create", "start") else None


@mutant("START-006", on="create")
def directory_is_a_shell(call: Call) -> int:
    return with_program(call, lambda path: path.is_dir(), ["/bin/sh", "-c", "sleep 1"])


@mutant("START-007", on="create")
def plain_file_is_run_by_a_shell(call: Call) -> int:
    return with_program(
        call, lambda path: path.is_file() and not path.stat().st_mode & 0o111, ["/bin/sh", "/bin/plain"]
    )


def with_program(call: Call, wanted: Callable[[Path], bool], other: list[str]) -> int:
    def edit(config: Json) -> None:
        args = at(config, "process").get("args") or [""]
        path = call.root() / str(args[0])[1:]
        if str(args[0]).startswith("/") and not path.is_symlink() and wanted(path):
            config["process"]["args"] = other

    with call.edited(edit):
        return call.run()


# KILL, DELETE


@mutant("KILL-003", on="kill")
def kill_sends_twice(call: Call) -> int:
    status = call.run()
    time.sleep(0.1)
    call.ask()
    return status


@mutant("KILL-003", "KILL-007", on="kill")
def kill_usr1_is_usr2(call: Call) -> None:
    call.words = [{"USR1": "USR2", "USR2": "USR1"}.get(word, word) for word in call.words]


@mutant("KILL-004", on="kill")
def kill_does_nothing_to_created(call: Call) -> int | None:
    return 0 if call.state().get("status") == "created" else None


@mutant("KILL-005", on="kill")
def kill_defaults_to_hup(call: Call) -> None:
    if len(call.operands) == 1:
        call.words.append("HUP")


@mutant("KILL-005", on="kill")
def kill_defaults_to_kill(call: Call) -> None:
    if len(call.operands) == 1:
        call.words.append("KILL")


@mutant("KILL-006", on="kill")
def kill_numbers_are_off_by_one(call: Call) -> None:
    if call.operands[-1].isdigit():
        call.words[-1] = str(int(call.operands[-1]) + 1)


@mutant("KILL-006", on="kill")
def kill_sig_prefix_is_term(call: Call) -> None:
    if call.operands[-1].startswith("SIG"):
        call.words[-1] = "TERM"


@mutant("KILL-006", on="kill")
def kill_term_is_no_name(call: Call) -> int | None:
    return 1 if call.operands[-1] == "TERM" else None


@mutant("KILL-007", on="kill")
def kill_signals_all(call: Call) -> int | None:
    known = call.state()
    name = call.operands[-1]
    if known.get("status") != "running" or f"SIG{name}" not in signal.Signals.__members__:
        return None
    for path in call.cgroups(known)[:1]:
        for pid in (path / "cgroup.procs").read_text().split():
            with suppress(OSError):
                os.kill(int(pid), signal.Signals[f"SIG{name}"])
    return 0


@mutant("KILL-007", on="kill")
def kill_signals_a_child(call: Call) -> int | None:
    known = call.state()
    if known.get("status") != "running" or "USR1" not in call.operands:
        return None
    children = Path(f"/proc/{known['pid']}/task/{known['pid']}/children").read_text().split()
    for child in children[:1]:
        os.kill(int(child), signal.SIGUSR1)
    return 0


@mutant("KILL-008", on="kill")
def kill_starts_created(call: Call) -> int:
    created = call.state().get("status") == "created"
    return call.run() or (call.run("start", call.id) if created and "KILL" not in call.operands else 0)


@mutant("KILL-008", on="kill")
def kill_ends_created(call: Call) -> None:
    if call.state().get("status") == "created":
        call.words = ["kill", call.id, "KILL"]


@mutant("KILL-009", on="kill")
def kill_unknown_is_term(call: Call) -> None:
    if call.operands[-1] in ("LABKIT", "999"):
        call.words[-1] = "TERM"


@mutant("KILL-009", on="kill")
def kill_unknown_accepted(call: Call) -> int | None:
    return 0 if call.operands[-1] in ("LABKIT", "999") else None


@mutant("KILL-009", on="kill")
def kill_large_number_accepted(call: Call) -> int | None:
    return 0 if call.operands[-1] == "999" else None


@mutant("DELETE-005", on="delete")
def delete_unmounts_sources(call: Call) -> int:
    known = call.state()
    call.bundle = Path(known["bundle"]) if known else call.bundle
    sources = [
        str(mount.get("source")) for mount in items(call.config(), "mounts") if "rbind" in mount.get("options", [])
    ]
    status = call.run()
    for source in sources if known else []:
        subprocess.run(["umount", "-l", source], check=False)
    return status


@mutant("DELETE-007", on="delete")
def delete_of_unknown(call: Call) -> int | None:
    return 0 if not call.state() else None


@mutant("DELETE-008", on="delete")
def delete_takes_the_neighbour(call: Call) -> int:
    others = neighbours(call) if "--force" not in call.options else []
    status = call.run()
    for other in others if not status else []:
        call.ask("delete", "--force", other)
    return status


@mutant("DELETE-008", on="delete")
def delete_kills_the_neighbour(call: Call) -> int:
    others = neighbours(call) if "--force" not in call.options else []
    status = call.run()
    for other in others if not status else []:
        call.ask("kill", other, "KILL")
    return status


# CLI, BUNDLE, CONF, ROOT


@mutant("CLI-005", on="create")
def create_reads_stdin(call: Call) -> None:
    os.read(0, 1)


@mutant("CLI-005")
def others_read_stdin(call: Call) -> None:
    if call.command in ("state", "start", "kill", "delete"):
        os.read(0, 4096)


@mutant("CLI-005", on="create")
def stdin_at_its_end(call: Call) -> None:
    with suppress(OSError):
        os.lseek(0, 0, os.SEEK_END)


@mutant("CLI-004", on="create")
def one_fd_is_passed(call: Call) -> None:
    if "LISTEN_FDS" in os.environ:
        os.environ["LISTEN_FDS"] = "1"


@mutant("BUNDLE-002", on="create")
def empty_config_accepted(call: Call) -> int | None:
    path = call.bundle / "config.json"
    return 0 if path.exists() and not path.read_text().strip() else None


@mutant("BUNDLE-002", on="create")
def first_of_an_array(call: Call) -> int | None:
    path = call.bundle / "config.json"
    text = path.read_text() if path.exists() else ""
    if not text.startswith("["):
        return None
    path.write_text(text[1:-1])
    try:
        return call.run()
    finally:
        path.write_text(text)


@config("CONF-002")
def newest_version_only(config: Json) -> None:
    if config.get("ociVersion") in ("1.0.0", "1.1.0", "1.2.0"):
        refuse("old")


@config("CONF-003")
def unknown_in_hooks_refused(config: Json) -> None:
    for hook in items(config, "hooks", "createRuntime"):
        if set(hook) - {"path", "args", "env", "timeout"}:
            refuse("unknown property of a hook")


@config("CONF-003")
def unknown_in_linux_refused(config: Json) -> None:
    for part in (*items(config, "linux", "namespaces"), at(config, "linux", "resources")):
        if "labkitUnknown" in part:
            refuse("unknown property")


@config("CONF-004")
def reserved_annotation_refused(config: Json) -> None:
    if any(key.startswith("org.opencontainers.labkit") for key in at(config, "annotations")):
        refuse("unknown annotation")


@config("CONF-007")
def annotation_values_as_text(config: Json) -> None:
    annotations = at(config, "annotations")
    for key, value in annotations.items():
        annotations[key] = str(value)


@config("CONF-007")
def odd_annotations_dropped(config: Json) -> None:
    annotations = at(config, "annotations")
    for key in [key for key, value in annotations.items() if isinstance(value, (dict, list))]:
        del annotations[key]


@config("CONF-010")
def version_must_come_first(config: Json) -> None:
    if next(iter(config), "ociVersion") != "ociVersion" and "ociVersion" in config:
        refuse("ociVersion is not first")


@mutant("CONF-010", on="create")
def escapes_are_left(call: Call) -> int:
    def edit(config: Json) -> None:
        process = at(config, "process")
        for number, entry in enumerate(items(process, "env")):
            process["env"][number] = str(entry).encode("ascii", "backslashreplace").decode()

    with call.edited(edit):
        return call.run()


def coerced(*ids: str, **kinds: Callable[[Any], Any]) -> Callable[[Edit], Edit]:
    """A mutant whose function gives the objects in which these members are made what kinds says."""

    def register(places: Edit) -> Edit:
        def edit(config: Json) -> None:
            found = places(config)
            for place in found if isinstance(found, list) else []:
                for key, change in kinds.items():
                    if isinstance(place, dict) and key in place:
                        place[key] = change(place[key])

        edit.__name__ = places.__name__
        config(*ids)(edit)
        return places

    return register


@coerced("CONF-011", hostname=str, ociVersion=lambda value: f"{value}.0.0" if value == 1 else value)
def top_values_as_text(config: Json) -> object:
    return [config]


@coerced("CONF-011", readonly=bool, path=str)
def root_values_coerced(config: Json) -> object:
    return [at(config, "root")]


@coerced(
    "CONF-012", "CONF-011",
    env=lambda value: value if isinstance(value, list) else [],
    args=lambda value: value if isinstance(value, list) else value.split(),
    terminal=bool,
    rlimits=lambda value: value if isinstance(value, list) else [value],
)  # fmt: skip
def process_values_coerced(config: Json) -> object:
    top = config.get("root")
    config["root"] = {"path": top} if isinstance(top, str) else top
    return [at(config, "process")]


@coerced("CONF-012", uid=lambda value: max(int(value), 0), additionalGids=lambda value: [int(one) for one in value])
def ids_coerced(config: Json) -> object:
    return [at(config, "process", "user")]


@coerced("CONF-012", soft=lambda value: abs(int(value)))
def limits_coerced(config: Json) -> object:
    return items(config, "process", "rlimits")


@coerced(
    "CONF-013", options=lambda value: [str(one) for one in (value.split(",") if isinstance(value, str) else value)]
)
def options_coerced(config: Json) -> object:
    return items(config, "mounts")


@coerced("CONF-013", source=str, type=str, destination=str)
def mount_words_coerced(config: Json) -> object:
    return items(config, "mounts")


@coerced(
    "CONF-014",
    sysctl=lambda value: {key: str(one) for key, one in value.items()} if isinstance(value, dict) else {},
    maskedPaths=lambda value: value if isinstance(value, list) else [value],
    cgroupsPath=lambda value: value if isinstance(value, str) else f"/labkit-mutant-{value}",
    resources=lambda value: value if isinstance(value, dict) else {},
)
def linux_values_coerced(config: Json) -> object:
    return [at(config, "linux")]


@coerced("CONF-014", major=int, fileMode=lambda value: value if isinstance(value, int) else int(value, 8))
def device_numbers_coerced(config: Json) -> object:
    devices = at(config, "linux").get("devices")
    return devices if isinstance(devices, list) else []


@coerced("CONF-015", args=lambda value: value if isinstance(value, list) else [value], timeout=lambda value: int(value))
def hook_values_coerced(config: Json) -> object:
    return [hook for hook in items(config, "hooks", "createRuntime") if isinstance(hook, dict)]


@config("CONF-015")
def hooks_that_are_none_dropped(config: Json) -> None:
    hooks = config.get("hooks")
    if isinstance(hooks, list):
        del config["hooks"]
    elif isinstance(hooks, dict):
        config["hooks"] = {kind: listed for kind, listed in hooks.items() if isinstance(listed, list)}


@config("CONF-016")
def root_is_rootfs(config: Json) -> None:
    config.setdefault("root", {"path": "rootfs"})


@config("CONF-016")
def root_path_is_rootfs(config: Json) -> None:
    at(config, "root").setdefault("path", "rootfs")


@config("CONF-017")
def cwd_is_root(config: Json) -> None:
    at(config, "process").setdefault("cwd", "/")


@config("CONF-017")
def args_are_true(config: Json) -> None:
    at(config, "process").setdefault("args", ["/bin/true"])


def complete_only(*keys: str, drop: bool = True, **defaults: Any) -> Callable[[list[Json]], list[Json]]:
    def change(listed: list[Json]) -> list[Json]:
        if drop:
            return [one for one in listed if not isinstance(one, dict) or set(keys) <= set(one)]
        return [{**defaults, **one} if isinstance(one, dict) else one for one in listed]

    return change


def in_list(path: str, *ids: str, name: str, change: Callable[[list[Json]], list[Json]]) -> None:
    def edit(config: Json) -> None:
        *keys, last = path.split(".")
        place = at(config, *keys)
        if isinstance(place.get(last), list):
            place[last] = change(place[last])

    edit.__name__ = name
    config(*ids)(edit)


in_list("mounts", "CONF-019", name="mounts_without_destination_dropped", change=complete_only("destination"))
in_list("mounts", "CONF-019", name="mounts_go_to_tmp", change=complete_only(drop=False, destination="/tmp"))
in_list("linux.namespaces", "CONF-020", name="namespaces_without_type_dropped", change=complete_only("type"))
in_list("linux.devices", "CONF-020", name="devices_are_c", change=complete_only(drop=False, type="c"))
in_list("process.rlimits", "CONF-021", name="rlimits_without_type_dropped", change=complete_only("type"))
in_list("process.rlimits", "CONF-021", name="rlimits_have_a_hard_limit", change=complete_only(drop=False, hard=2048))
in_list("linux.seccomp.syscalls", "CONF-022", name="rules_without_action_dropped", change=complete_only("action"))


@config("CONF-022")
def seccomp_allows_by_default(config: Json) -> None:
    if "seccomp" in at(config, "linux"):
        at(config, "linux", "seccomp").setdefault("defaultAction", "SCMP_ACT_ALLOW")


@config("CONF-022")
def operators_are_equal(config: Json) -> None:
    for rule in items(config, "linux", "seccomp", "syscalls"):
        for argument in rule.get("args", []):
            argument.setdefault("op", "SCMP_CMP_EQ")


@config("CONF-023")
def hooks_without_path_dropped(config: Json) -> None:
    for kind, listed in at(config, "hooks").items():
        config["hooks"][kind] = [hook for hook in listed if "path" in hook]


@config("CONF-024")
def unknown_personality_dropped(config: Json) -> None:
    if at(config, "linux", "personality").get("domain") == "BOGUS":
        del config["linux"]["personality"]


@config("ROOT-001")
def root_is_always_rootfs(config: Json) -> None:
    root = at(config, "root")
    if Path(str(root.get("path", ""))).is_file() or root.get("path") == "file":
        root["path"] = "rootfs"


@config("ROOT-002")
def any_readonly_is_true(config: Json) -> None:
    root = at(config, "root")
    root["readonly"] = "readonly" in root


# HOOK


@config("HOOK-002", "HOOK-015")
def hooks_with_the_id_of_another(config: Json) -> None:
    change_hooks(wrapped('"$1" sed "s/labkit-/other-/" | "$@"'))(config)


@config("HOOK-002")
def hooks_without_annotations(config: Json) -> None:
    change_hooks(wrapped('"$1" sed "s/of the hooks//" | "$@"'))(config)


@config("HOOK-002")
def poststop_told_running(config: Json) -> None:
    change_hooks(wrapped('"$1" sed "s/stopped/running/" | "$@"'), "poststop")(config)


@config("HOOK-002")
def create_container_told_a_host_pid(config: Json) -> None:
    change_hooks(wrapped('"$1" sed \'s/"pid": *[0-9]*/"pid":99999/\' | "$@"'), "createContainer")(config)


@config("HOOK-015")
def first_hook_gets_the_state(config: Json) -> None:
    drop = wrapped('exec "$@" </dev/null')
    change_hooks(lambda hooks: [*hooks[:1], *drop(hooks[1:])])(config)


@config("HOOK-015")
def last_hook_gets_the_state(config: Json) -> None:
    drop = wrapped('exec "$@" </dev/null')
    change_hooks(lambda hooks: [*drop(hooks[:-1]), *hooks[-1:]])(config)


@config("HOOK-001")
def last_hook_of_each_kind(config: Json) -> None:
    change_hooks(lambda hooks: hooks[-1:])(config)


@config("HOOK-001")
def poststop_in_reverse_order(config: Json) -> None:
    change_hooks(lambda hooks: hooks[::-1], "poststop")(config)


@config("HOOK-003")
def prestart_after_create_runtime(config: Json) -> None:
    hooks = at(config, "hooks")
    hooks["createRuntime"] = hooks.get("createRuntime", []) + hooks.pop("prestart", [])


@config("HOOK-005")
def create_container_dropped(config: Json) -> None:
    change_hooks(lambda hooks: [], "createContainer")(config)


@mutant("HOOK-004", "HOOK-020", on="create")
def create_runtime_too_early(call: Call) -> int:
    """Before there is a container."""
    told = {"ociVersion": "1.0.2", "id": call.id, "status": "creating", "pid": os.getpid(), "bundle": str(call.bundle)}

    def edit(config: Json) -> None:
        for hook in at(config, "hooks").pop("createRuntime", []):
            env = dict(entry.split("=", 1) for entry in hook.get("env", []))
            words = hook.get("args") or [hook["path"]]
            done = subprocess.run(words, executable=hook["path"], env=env, input=json.dumps(told).encode(), check=False)
            if done.returncode:
                refuse("a hook failed")

    with call.edited(edit):
        return call.run()


@config("HOOK-009")
def poststop_not_after_failed_create(config: Json) -> None:
    hooks = at(config, "hooks")
    if set(hooks) & {"prestart", "createRuntime", "createContainer"}:
        hooks.pop("poststop", None)


@config("HOOK-009")
def later_hooks_run_after_a_failed_one(config: Json) -> None:
    """A hook that fails does so after the others of its kind."""
    change_hooks(lambda hooks: [*hooks[1:], *hooks[:1]], "prestart", "createRuntime", "createContainer")(config)


@config("HOOK-014")
def hook_env_added(config: Json) -> None:
    change_hooks(lambda hooks: [{**hook, "env": [*hook.get("env", []), "LEAKED=1"]} for hook in hooks])(config)


@config("HOOK-014")
def poststart_args_cut(config: Json) -> None:
    change_hooks(lambda hooks: [{**hook, "args": hook["args"][:3]} for hook in hooks], "prestart", "poststop")(config)


def without_timeout(hooks: list[Json]) -> list[Json]:
    return [{key: value for key, value in hook.items() if key != "timeout"} for hook in hooks]


@config("HOOK-016")
def no_timeout_for_prestart(config: Json) -> None:
    change_hooks(without_timeout, "prestart")(config)


@config("HOOK-016")
def no_timeout_for_create_container(config: Json) -> None:
    change_hooks(without_timeout, "createContainer")(config)


@config("HOOK-016")
def no_timeout_for_poststop(config: Json) -> None:
    change_hooks(without_timeout, "poststop")(config)


@config("HOOK-016")
def timeout_of_the_first_hook_only(config: Json) -> None:
    change_hooks(lambda hooks: [*hooks[:1], *without_timeout(hooks[1:])])(config)


@config("HOOK-016")
def timeout_too_short(config: Json) -> None:
    def change(hooks: list[Json]) -> list[Json]:
        timed = [hook for hook in hooks if hook.get("timeout") == 1]
        wrapped('/usr/bin/timeout -s KILL 0.05 "$@"')(timed)
        return hooks

    change_hooks(change, "createRuntime")(config)


@config("HOOK-016")
def timeout_kills_nothing(config: Json) -> None:
    change_hooks(wrapped('"$@" & exec "$1" sleep 39999'), "createRuntime")(config)


@config("HOOK-017")
def negative_timeout_is_positive(config: Json) -> None:
    change_hooks(lambda hooks: [{**hook, "timeout": abs(hook.get("timeout", 60))} for hook in hooks])(config)


@config("HOOK-018")
def missing_hooks_are_dropped(config: Json) -> None:
    change_hooks(lambda hooks: [hook for hook in hooks if "no-such" not in hook["path"]], "createRuntime")(config)


@config("HOOK-018")
def killed_hooks_have_not_failed(config: Json) -> None:
    change_hooks(wrapped('"$@"; [ $? -lt 128 ]; exit 0'), "createRuntime")(config)


@config("HOOK-018")
def plain_hooks_are_dropped(config: Json) -> None:
    change_hooks(lambda hooks: [hook for hook in hooks if os.access(hook["path"], os.X_OK)], "createRuntime")(config)


@config("HOOK-019")
def hooks_need_args(config: Json) -> None:
    change_hooks(lambda hooks: [hook for hook in hooks if "args" in hook])(config)


@config("HOOK-019")
def hooks_need_env(config: Json) -> None:
    if any("env" not in hook for kind in at(config, "hooks").values() for hook in kind if isinstance(kind, list)):
        refuse("a hook without env")


@mutant("HOOK-021")
def poststop_warning_swallowed(call: Call) -> int | None:
    if call.command != "delete":
        return None
    read, write = os.pipe()
    pid = call._spawn((), {1: write, 2: write})
    os.close(write)
    with os.fdopen(read, errors="replace") as pipe:
        said = [line for line in pipe if "hook" not in line]
    log = call.words[call.words.index("--log") + 1] if "--log" in call.words else ""
    if log and Path(log).exists():
        Path(log).write_text("".join(line for line in Path(log).read_text().splitlines(True) if "hook" not in line))
    os.write(2, "".join(said).encode())
    return call._wait(pid)


# FEAT


@mutant("FEAT-001", on="features")
def features_as_text(call: Call) -> int:
    print("features: many")
    return 0


@mutant("FEAT-001", on="features")
def features_as_array(call: Call) -> int:
    print("[]")
    return 0


@features("FEAT-002")
def features_least_above_most(features: Json) -> None:
    features["ociVersionMin"] = "99.0.0"


@features("FEAT-002", "FEAT-007")
def features_without_least(features: Json) -> None:
    del features["ociVersionMin"]


@config("FEAT-002")
def least_version_refused(config: Json) -> None:
    if config.get("ociVersion") == "1.0.0":
        refuse("too old")


@features("FEAT-003")
def features_claim_a_hook(features: Json) -> None:
    features["hooks"].append("prestop")


@config("FEAT-003")
def claimed_hook_never_runs(config: Json) -> None:
    change_hooks(lambda hooks: [], "createContainer")(config)


@features("FEAT-004")
def features_claim_a_mount_option(features: Json) -> None:
    features["mountOptions"].append("labkit")


@config("FEAT-004")
def claimed_mount_option_refused(config: Json) -> None:
    if any("noiversion" in mount.get("options", []) for mount in items(config, "mounts")):
        refuse("unknown option noiversion")


@features("FEAT-005")
def features_claim_a_namespace(features: Json) -> None:
    features["linux"]["namespaces"].append("labkit")


@config("FEAT-005")
def claimed_namespace_ignored(config: Json) -> None:
    listed = items(config, "linux", "namespaces")
    listed[:] = [one for one in listed if one.get("type") != "cgroup"]


@features("FEAT-006")
def features_claim_a_capability(features: Json) -> None:
    features["linux"]["capabilities"].append("CAP_LABKIT")


@config("FEAT-006")
def claimed_capability_ignored(config: Json) -> None:
    for listed in at(config, "process", "capabilities").values():
        listed[:] = [name for name in listed if name != "CAP_SETFCAP"]


@features("FEAT-007")
def features_hooks_as_object(features: Json) -> None:
    features["hooks"] = dict.fromkeys(features["hooks"], True)


@features("FEAT-007")
def features_enabled_as_text(features: Json) -> None:
    features["linux"]["seccomp"]["enabled"] = "true"


@features("FEAT-007")
def features_annotation_as_number(features: Json) -> None:
    features["annotations"]["org.example.labkit"] = 1


@features("FEAT-008")
def features_with_a_property_of_its_own(features: Json) -> None:
    features["labkit"] = True


@features("FEAT-008")
def features_with_a_property_of_linux(features: Json) -> None:
    features["linux"]["seccomp"]["labkit"] = True


@features("FEAT-009")
def features_claim_an_action(features: Json) -> None:
    features["linux"]["seccomp"]["actions"].append("SCMP_ACT_LABKIT")


@config("FEAT-009")
def claimed_action_refused(config: Json) -> None:
    if any(rule.get("action") == "SCMP_ACT_TRACE" for rule in items(config, "linux", "seccomp", "syscalls")):
        refuse("unknown action SCMP_ACT_TRACE")


@features("FEAT-010")
def features_claim_an_operator(features: Json) -> None:
    features["linux"]["seccomp"]["operators"].append("SCMP_CMP_LABKIT")


@config("FEAT-010")
def claimed_operator_refused(config: Json) -> None:
    for rule in items(config, "linux", "seccomp", "syscalls"):
        if any(argument.get("op") == "SCMP_CMP_MASKED_EQ" for argument in rule.get("args", [])):
            refuse("unknown operator")


@features("FEAT-011")
def features_claim_an_architecture(features: Json) -> None:
    features["linux"]["seccomp"]["archs"].append("SCMP_ARCH_LABKIT")


@config("FEAT-011")
def claimed_architecture_refused(config: Json) -> None:
    if "SCMP_ARCH_X32" in at(config, "linux", "seccomp").get("architectures", []):
        refuse("unknown architecture SCMP_ARCH_X32")


@features("FEAT-012")
def features_claim_a_flag(features: Json) -> None:
    seccomp = features["linux"]["seccomp"]
    for key in ("knownFlags", "supportedFlags"):
        seccomp[key] = [*seccomp.get(key, []), "SECCOMP_FILTER_FLAG_LABKIT"]


@features("FEAT-012")
def features_supported_flag_unknown(features: Json) -> None:
    features["linux"]["seccomp"].update(knownFlags=[], supportedFlags=["SECCOMP_FILTER_FLAG_LOG"])


@features("FEAT-013")
def features_say_no_seccomp(features: Json) -> None:
    features["linux"]["seccomp"]["enabled"] = False


@config("FEAT-013")
def claimed_seccomp_ignored(config: Json) -> None:
    at(config, "linux").pop("seccomp", None)


@features("FEAT-014")
def features_claim_a_memory_policy(features: Json) -> None:
    features["linux"]["memoryPolicy"] = {"modes": ["MPOL_LABKIT"], "flags": []}


@config("FEAT-014")
def claimed_memory_policy_refused(config: Json) -> None:
    if at(config, "linux", "memoryPolicy").get("mode") == "MPOL_INTERLEAVE":
        refuse("unknown mode MPOL_INTERLEAVE")


# Second ways


@config("CONF-023")
def hook_path_from_args(config: Json) -> None:
    for listed in at(config, "hooks").values():
        for hook in listed:
            hook.setdefault("path", "/bin/true")


@config("CONF-024", "PERS-001")
def personality_is_linux(config: Json) -> None:
    personality = at(config, "linux", "personality")
    if personality:
        personality["domain"] = "LINUX"


@config("HOOK-011")
def failing_poststart_ignored(config: Json) -> None:
    """Which was right before."""
    if str(config.get("ociVersion")) >= "1.3":
        change_hooks(wrapped('"$@"; exit 0'), "poststart")(config)


@mutant("FD-001", on="create")
def two_fds_leaked(call: Call) -> None:
    for target in (3, 4):
        os.dup2(os.open("/", os.O_RDONLY), target)
    call.words[1:1] = ["--preserve-fds", "2"]


@mutant("LIFE-002", on="start")
def env_read_at_start(call: Call) -> int | None:
    """The program of create with the environment of now."""
    known = call.state()
    if known.get("status") != "created":
        return None
    call.bundle = Path(known["bundle"])
    args = at(call.config(), "process").get("args", [])
    call.run("delete", "--force", call.id)

    def edit(config: Json) -> None:
        config["process"]["args"] = [str(word).replace("second", "first") for word in args]

    with call.edited(edit):
        return call.run("create", "--bundle", known["bundle"], call.id) or call.run("start", call.id)

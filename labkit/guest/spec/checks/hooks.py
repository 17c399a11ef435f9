"""Hooks: config.md "POSIX-platform Hooks" and the steps of runtime.md "Lifecycle" that call them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Optional

from ..context import SLEEPER, Bundle, T
from ..registry import check
from ..traces import cgroups
from .lifecycle import SEMVER

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
CREATE_TIME = KINDS[:3]
CONTAINER_NAMESPACE = ("createContainer", "startContainer")
SINCE_1_0_2 = ("createRuntime", "createContainer", "startContainer")
NAMESPACES = ("mnt", "pid", "ipc", "uts")
PID_OF_STATE = """pid=$($B tr -d '\\n ' <$O/%s.json | $B sed 's/.*"pid":\\([0-9]*\\).*/\\1/')"""
PRINT_NAMESPACES = "for n in mnt pid ipc uts; do $B readlink /proc/self/ns/$n; done"
Hook = dict[str, Any]


def hook(bundle: Bundle, kind: str, script: str, *, name: Optional[str] = None, **more: Any) -> Hook:
    """A hook that writes its stdin to out/NAME.json, then runs a sh script: $O is the out directory, $B a busybox.

    The busybox of a hook is at a path that exists only where this kind's path must resolve. name: the kind's, if none
    is given. more: as in config.json.
    """
    seen, out = places(bundle, kind)
    script = f"B={seen}; O={out}; $B cat >$O/{name or kind}.json; {script}"
    return {"path": seen, "args": ["sh", "-c", script], "env": ["PATH=/none"], **more}


def places(bundle: Bundle, kind: str) -> tuple[str, str]:
    """The path of a busybox, and of the out directory, for hooks of this kind."""
    inside = kind == "startContainer"
    path = (bundle.rootfs if inside else bundle.path) / f"busybox-{'inside' if inside else 'outside'}"
    if not path.exists():
        os.link(bundle.rootfs / "bin/busybox", path)
    return (f"/{path.name}", "/out") if inside else (str(path), str(bundle.out))


def write_hooks(bundle: Bundle, **scripts: str) -> None:
    """Give the bundle one hook for each kind=script."""
    bundle.config["hooks"] = {kind: [hook(bundle, kind, script)] for kind, script in scripts.items()}
    bundle.write(bundle.config)


def hooked(t: T, args: Any = "true", **scripts: str) -> Bundle:
    """A bundle with one hook for each kind=script."""
    bundle = t.bundle(args)
    write_hooks(bundle, **scripts)
    return bundle


def lines(bundle: Bundle, name: str = "log") -> list[str]:
    return (bundle.read(name) or "").split()


def unknown(t: T, kind: str, seen: object) -> bool:
    """This kind of hook did not run, and the claimed version does not know it."""
    return not seen and t.spec < (1, 0, 2) and kind in SINCE_1_0_2


def seen_by(t: T, bundle: Bundle, kind: str) -> list[str]:
    """What the only hook of this kind wrote to the file named for it; the check ends when it did not run."""
    written = lines(bundle, kind)
    if unknown(t, kind, written):
        t.skip(f"runtime-spec {'.'.join(map(str, t.spec))} has no {kind} hooks")
    t.require(written, f"the {kind} hook ran", True, False)
    return written


def namespaces(pid: object) -> list[str]:
    return [str(Path(f"/proc/{pid}/ns/{name}").readlink()) for name in NAMESPACES]


@check("HOOK-001")
def listed_order(t: T) -> None:
    bundle = t.bundle()
    bundle.config["hooks"] = {
        kind: [hook(bundle, kind, f"echo {number} >>$O/{kind}") for number in (2, 1, 3)] for kind in KINDS
    }
    bundle.write(bundle.config)
    c = t.run(bundle)
    t.require(c.wait_stopped() and c.delete().ok, "stop and delete")
    for kind in KINDS:
        order = lines(bundle, kind)
        if not unknown(t, kind, order):
            t.equal(order, ["2", "1", "3"], f"{kind} hooks in the order they ran")


@check("HOOK-002")
def state_on_stdin(t: T) -> None:
    bundle = hooked(t, "echo >/out/program; exec sleep 1000", **dict.fromkeys(KINDS, "true"))
    bundle.config["annotations"] = {"org.example.labkit": "of the hooks"}
    bundle.write(bundle.config)
    c = t.create(bundle)
    early = bundle.read("poststart.json") is not None  # HOOK-007 judges that; its state cannot be right then
    pid = c.pid
    t.require(c.start().ok, "start exits 0")
    # start may return before the startContainer hooks have ended; the program runs after them.
    t.require(t.wait_file(bundle.out / "program"), "the program runs")
    t.require(c.kill().ok and c.wait_stopped() and c.delete().ok, "kill, stop and delete")
    creating = ["creating", "created"]  # runtime-tools' hooks_stdin demands the second
    statuses = {**dict.fromkeys(CREATE_TIME, creating), "poststart": ["running"], "poststop": ["stopped"]}
    for kind in KINDS:
        text = bundle.read(f"{kind}.json") or ""
        if unknown(t, kind, text):
            continue
        try:
            state = json.loads(text)
        except ValueError:
            state = None
        if not t.true(isinstance(state, dict), f"stdin of the {kind} hook", "a JSON object", text):
            continue
        t.equal(state.get("id"), c.id, f"id for {kind}")
        version = state.get("ociVersion")
        t.true(SEMVER.fullmatch(str(version)), f"ociVersion for {kind}", "MAJOR.MINOR.PATCH", version)
        said = str(state.get("bundle"))
        same = said.startswith("/") and Path(said).is_dir() and bundle.path.samefile(said)
        t.true(same, f"bundle for {kind}", str(bundle.path), said)
        annotations = state.get("annotations") or {}
        t.equal(annotations.get("org.example.labkit"), "of the hooks", f"annotation for {kind}")
        status = state.get("status")
        if kind == "startContainer":  # or a word of the runtime's own
            own = status not in (None, "", "creating", "running", "stopped")
            t.true(isinstance(status, str) and own, f"status for {kind}", "created", status)
        elif not (kind == "poststart" and early):
            t.true(status in statuses[kind], f"status for {kind}", " or ".join(statuses[kind]), status)
        if kind in CONTAINER_NAMESPACE:
            allowed_pids = [1] if t.spec >= (1, 1, 0) else [1, pid]  # up to 1.0.2 "as seen by the host"
            t.true(state.get("pid") in allowed_pids, f"pid for {kind}", allowed_pids, state.get("pid"))
        elif kind != "poststop":
            t.equal(state.get("pid"), pid, f"pid for {kind}")
        elif "pid" in state:
            gone = state["pid"]
            t.true(type(gone) is int and gone >= 0, f"pid for {kind}", "an integer, at least 0", gone)


@check("HOOK-015")
def state_for_every_hook(t: T) -> None:
    bundle = t.bundle("echo >/out/program")
    names = {kind: [f"{kind}-{number}" for number in range(3)] for kind in KINDS}
    bundle.config["hooks"] = {kind: [hook(bundle, kind, "true", name=name) for name in names[kind]] for kind in KINDS}
    bundle.write(bundle.config)
    c = t.run(bundle)
    t.require(c.wait_stopped() and c.delete().ok, "stop and delete")
    for kind in KINDS:
        texts = [bundle.read(f"{name}.json") for name in names[kind]]
        if unknown(t, kind, any(texts)):
            continue
        ids = []
        for text in texts:
            try:
                ids.append(json.loads(text or "").get("id"))
            except (ValueError, AttributeError):
                ids.append(f"no state: {text!r:.100}")
        t.equal(ids, [c.id] * 3, f"ids in the states that three {kind} hooks got")


@check("HOOK-003")
def prestart(t: T) -> None:
    bundle = hooked(
        t,
        "echo program >>/out/log",
        prestart=f"echo prestart >>$O/log; {PRINT_NAMESPACES} >$O/prestart",
        createRuntime="echo createRuntime >>$O/log",
    )
    c = t.create(bundle)
    after_create = lines(bundle)
    t.require(c.start().ok and c.wait_stopped(), "start, and it stops")
    order = lines(bundle)
    t.note("order", order)
    during_create = ["prestart", "createRuntime"]
    if t.spec < (1, 1, 0):  # 1.0.2 says: during start, and bears with runtimes that do as 1.1 says
        if "createRuntime" not in order and t.spec < (1, 0, 2):
            during_create = ["prestart"]
        fitting = [(during_create, [*during_create, "program"])]
        fitting.append((during_create[1:], [*during_create[1:], "prestart", "program"]))
        t.true((after_create, order) in fitting, "order up to create, and in all", fitting, [after_create, order])
    else:
        t.equal(after_create, during_create, "hooks that ran up to the end of create")
        t.equal(order, [*during_create, "program"], "order in all")
    t.equal(seen_by(t, bundle, "prestart"), namespaces("self"), "namespaces of the prestart hook")


# Prints its own namespaces, then for the container's process: its mount namespace and the directory that is its root.
LOOK = f"""{PRINT_NAMESPACES}
{PID_OF_STATE % "createRuntime"}
$B readlink /proc/$pid/ns/mnt; $B stat -c %d:%i /proc/$pid/root/."""


@check("HOOK-004")
def create_runtime(t: T) -> None:
    bundle = hooked(t, SLEEPER, createRuntime=f"({LOOK}) >$O/createRuntime")
    c = t.create(bundle)
    seen = seen_by(t, bundle, "createRuntime")  # before start
    t.equal(seen[:4], namespaces("self"), "namespaces of the createRuntime hook")
    t.equal(seen[4:5], namespaces(c.pid)[:1], "mount namespace the container had in the createRuntime hook")
    stat = bundle.rootfs.stat()
    rootfs = f"{stat.st_dev}:{stat.st_ino}"
    t.true(len(seen) == 6 and seen[5] != rootfs, "root in the createRuntime hook", "not yet pivoted", seen[5:])


@check("HOOK-005")
def create_container(t: T) -> None:
    bundle = hooked(
        t,
        SLEEPER,
        createRuntime="echo createRuntime >>$O/log",
        createContainer=f"echo createContainer >>$O/log; {PRINT_NAMESPACES} >$O/createContainer",
    )
    c = t.create(bundle)
    seen = seen_by(t, bundle, "createContainer")
    t.equal(lines(bundle), ["createRuntime", "createContainer"], "order of hooks up to the end of create")
    if t.sees_processes:
        t.equal(seen, namespaces(c.pid), "namespaces of the createContainer hook")


@check("HOOK-006")
def start_container(t: T) -> None:
    bundle = hooked(
        t,
        "echo program >>/out/log; exec sleep 1000",
        startContainer=f"echo hook >>$O/log; {PRINT_NAMESPACES} >$O/startContainer; $B stat -c %d:%i / >$O/root",
    )
    c = t.create(bundle)
    t.equal(lines(bundle), [], "what ran up to the end of create")
    t.require(c.start().ok, "start exits 0")
    t.require(t.wait(lambda: "program" in lines(bundle)), "the program runs")
    seen = seen_by(t, bundle, "startContainer")
    t.equal(lines(bundle), ["hook", "program"], "order")
    if t.sees_processes:
        t.equal(seen, namespaces(c.pid), "namespaces of the startContainer hook")
    stat = bundle.rootfs.stat()
    t.equal(lines(bundle, "root"), [f"{stat.st_dev}:{stat.st_ino}"], "root directory of the startContainer hook")


# Waits for what the program writes: a runtime may call the hook while exec is still under way.
AWAIT_PROGRAM = """n=0; said=unseen
while [ -e $O/started ] && [ $n -lt 400 ] && [ $said = unseen ]; do
  [ -e $O/program ] && said=seen || $B usleep 10000; n=$((n + 1))
done; echo $said >>$O/poststart; """


@check("HOOK-007")
def poststart(t: T) -> None:
    bundle = hooked(
        t, "echo >/out/program; exec sleep 1000", poststart=f"{AWAIT_PROGRAM} {PRINT_NAMESPACES} >>$O/poststart"
    )
    c = t.create(bundle)
    early = lines(bundle, "poststart")
    bundle.put("started")
    t.require(c.start().ok, "start exits 0")
    seen = seen_by(t, bundle, "poststart")
    t.equal(seen[1:], namespaces("self"), "namespaces of the poststart hook")
    t.equal(early, [], "poststart hooks that ran during create")
    if not early:
        t.equal(seen[0], "seen", "the program in the poststart hook")


@check("HOOK-008")
def poststop(t: T) -> None:
    bundle = t.bundle(SLEEPER)
    script = "for path in $($B cat $O/cgroups); do [ ! -d $path ] || echo $path >>$O/left; done"
    write_hooks(bundle, poststop=f"{script}; {PRINT_NAMESPACES} >$O/poststop")
    c = t.create(bundle)
    bundle.put("cgroups", "\n".join(cgroups(c)))
    t.require(c.start().ok and c.kill().ok and c.wait_stopped(), "start, kill, and it stops")
    t.equal(lines(bundle, "poststop"), [], "what the poststop hook wrote before delete")
    t.ok(c.delete(), "delete")
    seen = seen_by(t, bundle, "poststop")  # before delete returned
    t.equal(lines(bundle, "left"), [], "cgroups of the container in the poststop hook")
    t.equal(seen, namespaces("self"), "namespaces of the poststop hook")


@check("HOOK-014")
def arguments_and_environment(t: T) -> None:
    bundle = t.bundle()
    env = ["LABKIT_ONE=1", "LABKIT_EMPTY=", "LABKIT_TWO=a b\n*\u00fc"]
    more = ["zero", "a b", "", "*\u00fc"]
    # Only a builtin's own /proc/self is the shell; $$ is no name for it where /proc is of another PID namespace.
    script = "read pid rest </proc/self/stat; for f in cmdline environ; do $B cat /proc/$pid/$f >$O/%s.$f; done"
    hooks = {kind: hook(bundle, kind, script % kind) for kind in KINDS}
    for one in hooks.values():
        one.update(args=[*one["args"], *more], env=env)
    bundle.config["hooks"] = {kind: [one] for kind, one in hooks.items()}
    bundle.write(bundle.config)
    c = t.run(bundle)
    t.require(c.wait_stopped() and c.delete().ok, "stop and delete")
    for kind, one in hooks.items():
        said = bundle.read(f"{kind}.cmdline")
        if unknown(t, kind, said):
            continue
        t.equal(said, "".join(f"{word}\0" for word in one["args"]), f"arguments of the {kind} hook")
        got = (bundle.read(f"{kind}.environ") or "").split("\0")[:-1]
        t.equal(sorted(got), sorted(env), f"environment of the {kind} hook")


@check("HOOK-019")
def path_only(t: T) -> None:
    """args and env are optional."""
    bundle = t.bundle()
    bundle.config["hooks"] = {}
    for kind in KINDS:
        busybox, out = places(bundle, kind)
        script = (bundle.rootfs if kind == "startContainer" else bundle.path) / f"only-{kind}"
        script.write_text(f"#!{busybox} sh\n{busybox} cat >{out}/{kind}.json\n")
        script.chmod(0o755)
        path = f"/{script.name}" if kind == "startContainer" else str(script)
        bundle.config["hooks"][kind] = [{"path": path}]
    bundle.write(bundle.config)
    c = t.run(bundle)
    t.require(c.wait_stopped() and c.delete().ok, "stop and delete")
    for kind in KINDS:
        state = bundle.read(f"{kind}.json")
        if not unknown(t, kind, state):
            t.true(state, f"a {kind} hook that has a path only runs")


# Whether out, a directory of the bundle, is mounted in the root file system that the container is going to have.
SEE_MOUNT = "[ -e %s/out/mark ] && echo mounted >$O/{kind} || echo missing >$O/{kind}"


@check("HOOK-020")
def mounts_are_made(t: T) -> None:
    bundle = t.bundle(SLEEPER)
    bundle.put("mark")
    rootfs = bundle.rootfs
    of_process = f"{PID_OF_STATE}; {SEE_MOUNT % f'/proc/$pid/root{rootfs}'}".replace("%s", "{kind}")
    write_hooks(
        bundle,
        prestart=of_process.format(kind="prestart"),
        createRuntime=of_process.format(kind="createRuntime"),
        createContainer=(SEE_MOUNT % rootfs).format(kind="createContainer"),
    )
    t.create(bundle)
    kinds = [kind for kind in CREATE_TIME if lines(bundle, kind)]
    if t.spec < (1, 1, 0) and "prestart" in kinds:
        kinds.remove("prestart")
    if not t.sees_processes:  # then nothing of it is below /proc
        kinds = [kind for kind in kinds if kind == "createContainer"]
    if not kinds:
        t.skip("no hook that can see the container's mounts ran")
    for kind in kinds:
        t.equal(lines(bundle, kind), ["mounted"], f"a mount of the container in the {kind} hook")

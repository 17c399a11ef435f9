"""State, query and lifecycle: runtime.md."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..context import SLEEPER, T, alive, set_namespace
from ..registry import check
from ..traces import gone, traces


@check("STATE-001")
def state_members(t: T) -> None:
    c = t.create(SLEEPER)
    state = c.read_state()
    for key in ("ociVersion", "id", "status", "bundle"):
        t.true(isinstance(state.get(key), str) and state[key], f"state.{key}", "a string", state.get(key, "absent"))
    t.equal(state.get("id"), c.id, "state.id is the id given to create")
    t.true(type(state.get("pid", 1)) is int, "state.pid", "an integer", state.get("pid"))
    annotations = state.get("annotations") or {}
    strings = isinstance(annotations, dict) and all(isinstance(value, str) for value in annotations.values())
    t.true(strings, "state.annotations", "strings by strings", annotations)


@check("STATE-002")
def state_pid(t: T) -> None:
    c = t.create(SLEEPER)
    rootfs = c.bundle.rootfs.stat()

    def judge(status: str) -> None:
        pid: Any = c.read_state().get("pid")
        t.require(type(pid) is int and pid > 0, f"state.pid when {status}", "a positive integer", pid)
        t.require(alive(pid), f"process {pid} exists when {status}")
        root = Path(f"/proc/{pid}/root")
        same = root.stat()[1:3] == rootfs[1:3]  # inode and device
        t.true(same, f"root of process {pid} when {status}", str(c.bundle.rootfs), str(root.readlink()))

    judge("created")
    t.require(c.start().ok, "start exits 0")
    judge("running")


@check("STATE-003")
def state_bundle(t: T) -> None:
    bundle = t.bundle(SLEEPER)
    c = t.create(bundle, bundle_option=f"./{bundle.path.name}", cwd=bundle.path.parent)
    said: Any = c.read_state().get("bundle")
    t.require(isinstance(said, str) and said.startswith("/"), "state.bundle", "an absolute path", said)
    same = Path(said).is_dir() and Path(said).samefile(bundle.path)
    t.true(same, "state.bundle is the bundle's directory", str(bundle.path), said)


@check("STATE-004")
def state_status(t: T) -> None:
    c = t.create("read line < /out/fifo")
    os.mkfifo(c.bundle.out / "fifo")
    t.equal(c.status(), "created", "status after create")
    t.require(c.start().ok, "start exits 0")
    t.equal(c.status(), "running", "status after start")
    (c.bundle.out / "fifo").write_text("go\n")
    t.require(t.wait(lambda: not alive(c.pid)), "the program ends")
    t.true(c.wait_stopped(10), "status after the program ended", "stopped", c.status())


@check("STATE-005")
def state_annotations(t: T) -> None:
    given = {"org.example.one": "1", "org.example.two": "with spaces = and\u00fc"}
    config = t.config(SLEEPER)
    config["annotations"] = given
    said = t.create(config).read_state().get("annotations")
    # A runtime may add its own (systemd properties, ...): the configured ones must be there unchanged.
    kept = {key: value for key, value in said.items() if key in given} if isinstance(said, dict) else said
    t.equal(kept, given, "annotations in state")
    none = t.create(SLEEPER).read_state().get("annotations") or {}
    t.true(isinstance(none, dict) and not set(given) & set(none), "annotations in state when none", {}, none)


@check("STATE-006")
def state_unique_id(t: T) -> None:
    first = t.create(SLEEPER)
    before = first.read_state()
    second = t.refused(SLEEPER, "create with an id that exists", id=first.id)
    t.true(alive(first.pid), "the first container's process still exists")
    t.equal(first.read_state(), before, "state of the first container")
    t.note("refusal", second.stderr.strip())


@check("QUERY-001")
def query_without_id(t: T) -> None:
    t.fails(t.cli("state"), "state without an id")


@check("QUERY-002")
def query_unknown(t: T) -> None:
    t.fails(t.cli("state", t.new_id()), "state of an id that does not exist")
    c = t.run()
    t.require(c.wait_stopped(), "the container stops")
    t.require(c.delete().ok, "delete exits 0")
    t.fails(c.state(), "state of a deleted container")


@check("LIFE-001")
def life_not_run(t: T) -> None:
    c = t.create("echo >/out/ran")
    t.equal(c.status(), "created", "status after create")
    t.true(not t.wait(lambda: (c.bundle.out / "ran").exists(), 0.7), "the program did not run before start")
    t.require(c.start().ok, "start exits 0")
    t.true(t.wait_file(c.bundle.out / "ran"), "the program runs after start")


@check("LIFE-002")
def life_config_edited(t: T) -> None:
    config = t.config('echo "first $WHO" >>/out/ran')
    config["process"]["env"].append("WHO=one")
    c = t.create(config)
    config["process"]["args"][2] = 'echo "second $WHO" >>/out/ran'
    config["process"]["env"][-1] = "WHO=two"
    c.bundle.write(config)
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the program ends")
    t.equal(c.bundle.read("ran"), "first one\n", "what ran after config.json was changed")


@check("LIFE-003")
def life_cannot_create(t: T) -> None:
    config = t.config()
    config["root"]["path"] = "nothing"
    t.refused(config, "create with a root.path that does not exist")
    config = t.config()
    config["mounts"].append({"destination": "/tmp", "type": "labkit-no-such-type", "source": "none"})
    t.refused(config, "create with a mount of a file system type that does not exist")
    config = t.config()
    set_namespace(config, "ipc", f"{t.work}/nothing")
    t.refused(config, "create with a namespace path that does not exist")


@check("LIFE-004")
def life_failed_create(t: T) -> None:
    # Both fail late, when the cgroup, the namespaces and a process are there.
    mount = t.config(SLEEPER)
    mount["mounts"].append({"destination": "/tmp", "type": "bind", "source": "nothing", "options": ["bind"]})
    gone(t, t.refused(mount, "create with a bind mount of nothing"), "create failed at a mount")
    hook = t.config(SLEEPER)
    hook["hooks"] = {"prestart": [{"path": t.host.busybox, "args": ["false"]}]}
    gone(t, t.refused(hook, "create with a prestart hook that fails"), "create failed at a hook")


@check("LIFE-005")
def life_warning(t: T) -> None:
    """A capability that does not exist is the one condition of create that is a warning, since 1.1.0."""
    config = t.config("grep CapEff: /proc/self/status; id -u")
    for names in config["process"]["capabilities"].values():
        names[:] = ["CAP_CHOWN", "CAP_LABKIT", "CAP_KILL"]
    config["process"]["user"]["uid"] = 0
    c = t.try_create(config)
    if t.spec < (1, 1, 0) and not c.created.ok:
        t.skip("before runtime-spec 1.1.0 an unknown capability is an error, not a warning")
    t.require(c.created.ok, "create with an unknown capability exits 0", 0, c.created.describe())
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the program ends")
    chown_and_kill = 1 << 0 | 1 << 5
    t.equal(c.stdout.split(), ["CapEff:", f"{chown_and_kill:016x}", "0"], "capabilities and user of the program")


@check("LIFE-006")
def life_delete_undoes(t: T) -> None:
    config = t.config("sleep 1000 & exec sleep 1000")
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    set_namespace(config, "network")
    c = t.create(config)
    found = traces(t, c)
    for kind in ("cgroup", "process"):  # else nothing would be found after delete either
        t.require(any(trace.startswith(kind) for trace in found), f"a {kind} of the container is found", kind, found)
    t.require(c.start().ok, "start exits 0")
    namespaces = set(namespaces_of(c.pid)) - set(namespaces_of(os.getpid()))
    t.require(namespaces, "namespaces of the container")
    t.require(c.kill().ok, "kill exits 0")
    t.require(c.wait_stopped(), "the container stops")
    t.ok(c.delete(), "delete")
    gone(t, c, "delete")

    def users() -> list[str]:
        return [entry.name for entry in Path("/proc").iterdir() if namespaces & set(namespaces_of(entry.name))]

    t.true(t.wait(lambda: not users(), 5), "nothing is in the container's namespaces after delete", [], users())
    pinned = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[3] in namespaces]
    t.equal(pinned, [], "mounts of namespaces of the container after delete")


def namespaces_of(pid: object) -> list[str]:
    """e.g. ["net:[4026531840]", ...], empty when the process is gone."""
    with suppress(OSError):
        return [str(link.readlink()) for link in Path(f"/proc/{pid}/ns").iterdir()]
    return []

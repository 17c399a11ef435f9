"""State, query and lifecycle: runtime.md."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...common.procfs import rooted_in
from ..context import SLEEPER, Bundle, Config, Container, T, alive, repr_none, set_namespace
from ..parts import Part, part
from ..registry import check
from ..stages import Stage, stage
from ..traces import gone, traces

SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII)


def fits_schema(t: T, state: dict[str, Any], status: str) -> None:
    """As schema/state-schema.json and runtime.md have it; status: what it must be."""
    for key in ("ociVersion", "id", "status", "bundle"):
        t.true(isinstance(state.get(key), str) and state[key], f"state.{key}", "a string", state.get(key, "absent"))
    version = str(state.get("ociVersion"))
    t.true(SEMVER.fullmatch(version), "state.ociVersion is a SemVer version", "MAJOR.MINOR.PATCH", version)
    t.equal(state.get("status"), status, f"state.status when {status}")
    if "pid" in state or status != "stopped":
        pid = state.get("pid", "absent")
        least = 0 if status == "stopped" else 1
        t.true(type(pid) is int and pid >= least, f"state.pid when {status}", f"an integer, at least {least}", pid)
    annotations = state.get("annotations", {})
    strings = isinstance(annotations, dict) and all(isinstance(value, str) for value in annotations.values())
    t.true(strings, "state.annotations", "strings by strings, or absent", repr_none(annotations))


@stage("STATE-001")
def state_members(t: T) -> Stage:
    c = yield "created"
    state = c.read_state()
    fits_schema(t, state, "created")
    t.equal(state.get("id"), c.id, "state.id is the id given to create")
    t.note("annotations when none are configured", state.get("annotations", "absent"))


@stage("STATE-002")
def state_pid(t: T) -> Stage:
    def root(c: Container, status: str) -> os.stat_result:
        pid: Any = c.read_state().get("pid")
        t.require(type(pid) is int and pid > 0, f"state.pid when {status}", "a positive integer", pid)
        t.require(alive(pid), f"the process of state.pid exists when {status}")
        return Path(f"/proc/{pid}/root").stat()

    c = yield "created"
    seen = {"created": root(c, "created")}
    c = yield "running"
    seen["running"] = root(c, "running")
    rootfs = c.bundle.rootfs.stat()
    command = b"".join(word.encode() + b"\0" for word in c.bundle.config["process"]["args"])
    if not os.path.samestat(seen["running"], rootfs) and not t.wait(
        lambda: command in rooted_in(c.bundle.rootfs).values(), 2
    ):
        t.note("root of the process", "not judged: the container's processes are not the host's")
        return
    for status, found in seen.items():
        t.true(
            os.path.samestat(found, rootfs), f"root of the process of state.pid when {status}", "the rootfs", "other"
        )


@check("STATE-003")
def state_bundle(t: T) -> None:
    bundle = t.bundle(SLEEPER)
    c = t.create(bundle, bundle_option=f"./{bundle.path.name}", cwd=bundle.path.parent)
    said: Any = c.read_state().get("bundle")
    t.require(isinstance(said, str) and said.startswith("/"), "state.bundle", "an absolute path", said)
    same = Path(said).is_dir() and Path(said).samefile(bundle.path)
    t.true(same, "state.bundle is the bundle's directory", str(bundle.path), said)


@stage("STATE-004")
def state_status(t: T) -> Stage:
    c = yield "created"
    t.equal(c.status(), "created", "status after create")
    c = yield "running"
    t.equal(c.status(), "running", "status after start")
    c = yield "stopped"
    t.equal(c.status(), "stopped", "status after the program ended")


@part("root", "STATE-005")
def state_annotations(t: T, bundle: Bundle) -> Part:
    given = {"org.example.one": "1", "org.example.two": "with spaces = and\u00fc", "org.example.three": ""}
    bundle.config.setdefault("annotations", {}).update(given)
    seen = yield ":"
    said = seen.c.read_state().get("annotations")
    # A runtime may add its own (systemd properties, ...): the configured ones must be there unchanged.
    kept = {key: value for key, value in said.items() if key in given} if isinstance(said, dict) else said
    t.equal(kept, given, "annotations in state")


@check("STATE-007")
def state_later(t: T) -> None:
    config = t.config(SLEEPER)
    config["annotations"] = {"org.example.labkit": "kept"}
    c = t.create(config)
    created = c.read_state()
    t.require(c.start().ok, "start exits 0")
    running = c.read_state()
    t.require(c.kill().ok and c.wait_stopped(), "kill, and it stops")
    stopped = c.read_state()
    for status, state in (("running", running), ("stopped", stopped)):
        fits_schema(t, state, status)
        for key in ("ociVersion", "id", "bundle", "annotations"):
            t.equal(state.get(key), created.get(key), f"state.{key} when {status}, as when created")
    t.equal(running.get("pid"), created.get("pid"), "state.pid when running, as when created")


@check("QUERY-003")
def states_of_two(t: T) -> None:
    configs = t.config(SLEEPER), t.config(SLEEPER)
    for number, config in enumerate(configs):
        config["annotations"] = {"org.example.labkit": str(number)}
    first, second = (t.create(config) for config in configs)
    t.require(second.start().ok, "start exits 0")
    for name, c, mark, status in (("first", first, "0", "created"), ("second", second, "1", "running")):
        state = c.read_state()
        t.equal(state.get("id"), c.id, f"id of the {name} of two containers")
        t.equal(state.get("status"), status, f"status of the {name} of two containers")
        t.true(c.bundle.path.samefile(str(state.get("bundle"))), f"bundle of the {name} of two containers")
        marked = (state.get("annotations") or {}).get("org.example.labkit")
        t.equal(marked, mark, f"annotation of the {name} of two containers")
    t.true(first.read_state().get("pid") != second.read_state().get("pid"), "two containers have two pids")


@stage("STATE-006")
def state_unique_id(t: T) -> Stage:
    first = yield "created"
    before = first.read_state()
    second = t.refused(SLEEPER, "create with an id that exists", id=first.id)
    t.true(alive(first.pid), "the first container's process still exists")
    unharmed(t, first, before, "the first container")
    t.note("refusal", second.stderr.strip())


def unharmed(t: T, c: Container, before: dict[str, Any], what: str) -> None:
    """The runtime still knows this container, as it was."""
    if t.ok(c.state(), f"state of {what} afterwards"):
        t.equal(c.read_state(), before, f"what state says of {what} afterwards")


@check("QUERY-001")
def query_without_id(t: T) -> None:
    t.fails(t.cli("state"), "state without an id")


@stage("QUERY-002")
def query_unknown(t: T) -> Stage:
    t.fails(t.cli("state", t.new_id()), "state of an id that does not exist")
    c = yield "deleted"
    t.fails(c.state(), "state of a deleted container")


def pause(t: T) -> None:
    """As long as a small program takes here, several times over: what should not run would have run by now."""
    for _ in range(3):
        t.tool("sh", "-c", "usleep 10000; :")


@stage("LIFE-001")
def life_not_run(t: T) -> Stage:
    c = yield "created"
    t.equal(c.status(), "created", "status after create")
    pause(t)
    t.equal(c.bundle.read("ran"), None, "what the program wrote before start")
    c = yield "running"
    t.true(t.wait_file(c.bundle.out / "ran"), "the program runs after start")
    c = yield "stopped"
    t.equal(c.bundle.read("ran"), "started\n", "when the program ran")


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

    def with_mount(type: str) -> Config:
        config = t.config()
        config["mounts"].append({"destination": "/tmp", "type": type, "source": "none"})
        return config

    t.refused(
        with_mount("labkit-no-such-type"),
        "create with a mount of a file system type that does not exist",
        valid=with_mount("tmpfs"),
    )
    joined, missing = t.config(), t.config()
    set_namespace(joined, "ipc", "/proc/self/ns/ipc")
    set_namespace(missing, "ipc", f"{t.work}/nothing")
    t.refused(missing, "create with a namespace path that does not exist", valid=joined)


@check("LIFE-004")
def life_failed_create(t: T) -> None:
    # Both fail late, when the cgroup, the namespaces and a process are there.
    def with_mount(source: str) -> Config:
        config = t.config(SLEEPER)
        config["mounts"].append({"destination": "/tmp", "type": "bind", "source": source, "options": ["bind"]})
        return config

    failed = t.refused(with_mount("nothing"), "create with a bind mount of nothing", valid=with_mount("out"))
    if not failed.created.ok:
        gone(t, failed, "create failed at a mount")

    def with_hook(status: int) -> Config:
        config = t.config(SLEEPER)
        script = f"{t.host.busybox} cat >/dev/null; exit {status}"
        config["hooks"] = {"prestart": [{"path": t.host.busybox, "args": ["sh", "-c", script]}]}
        return config

    failed = t.refused(with_hook(1), "create with a prestart hook that fails", valid=with_hook(0))
    if not failed.created.ok:
        gone(t, failed, "create failed at a hook")


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
    # Else nothing would be found after delete either. A runtime that has no cgroups fails CG-001.
    t.require(any(trace.startswith("process") for trace in found), "a process of the container is found", True, found)
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

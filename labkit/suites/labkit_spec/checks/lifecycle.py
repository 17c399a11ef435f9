"""State, query and the operations of the lifecycle: runtime.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..context import T, alive
from ..registry import check

SLEEPER = ["/bin/sleep", "1000"]


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
    t.require(c.delete().ok, "delete exits 0")
    t.fails(c.state(), "state of a deleted container")


@check("CREATE-003")
def create_created(t: T) -> None:
    c = t.try_create(SLEEPER)
    t.ok(c.created, "create")
    t.equal(c.status(), "created", "status after create")


@check("START-003")
def start_runs_args(t: T) -> None:
    c = t.create(["/bin/sh", "-c", 'printf "%s," "$0" "$@" >/out/ran; exit 42', "zero", "a b", "", "*"])
    t.ok(c.start(), "start")
    t.true(c.wait_stopped(), "the container stops")
    t.equal(c.bundle.read("ran"), "zero,a b,,*,", "what process.args wrote")
    t.equal(c.exit_status(), 42, "exit status of process.args")


@check("KILL-003")
def kill_signals(t: T) -> None:
    traps = "; ".join(f"trap 'echo {name} >/out/{name}' {name}" for name in ("TERM", "USR1", "USR2"))
    c = t.create(f"{traps}; echo >/out/ready; while :; do sleep 0.02; done")
    t.require(c.start().ok, "start exits 0")
    t.require(t.wait_file(c.bundle.out / "ready"), "the program installed its traps")
    for name in ("USR1", "TERM", "USR2"):
        t.ok(c.kill(name), f"kill {name}")
        t.require(t.wait_file(c.bundle.out / name), f"the program got {name}", name, "nothing")
    t.true(alive(c.pid), "the program goes on after signals it handles")
    t.ok(c.kill("KILL"), "kill KILL")
    t.true(c.wait_stopped(), "the program ends by KILL")
    t.equal(c.exit_status(), -9, "how the program ended")

"""Hooks that fail: runtime.md "Lifecycle"."""

from __future__ import annotations

import os
from typing import Any

from ..context import Container, T, alive
from ..registry import check
from .hooks import CREATE_TIME, hook, lines, unknown, write_hooks


def destroyed(t: T, c: Container, kind: str) -> None:
    """After a failed hook, steps 12 and 13 of the lifecycle follow: the container is gone, poststop hooks ran."""
    if c.state().ok and kind not in CREATE_TIME:
        t.equal(c.status(), "stopped", f"status after a failed {kind} hook")
        t.fails(c.state(), f"state after a failed {kind} hook")
        t.ok(c.delete(), f"delete after a failed {kind} hook")
    else:
        t.fails(c.state(), f"state after a failed {kind} hook")
    t.equal(lines(c.bundle), ["poststop"], f"what ran beside a failed {kind} hook")


@check("HOOK-009")
def create_hooks_fail(t: T) -> None:
    for kind in CREATE_TIME:
        bundle = t.bundle("echo program >>/out/log")
        write_hooks(bundle, poststop="echo poststop >>$O/log", **{kind: f"echo >$O/{kind}; exit 3"})
        c = t.try_create(bundle)
        if c.created.ok and unknown(t, kind, bundle.read(kind)):
            continue
        if kind == "prestart" and c.created.ok and t.spec < (1, 1, 0):  # 1.0: during start
            t.fails(c.start(), "start with a prestart hook that fails")
        else:
            t.fails(c.created, f"create with a {kind} hook that fails")
        destroyed(t, c, kind)


@check("HOOK-010")
def start_container_fails(t: T) -> None:
    bundle = t.bundle("echo program >>/out/log")
    write_hooks(bundle, poststop="echo poststop >>$O/log", startContainer="echo >$O/startContainer; exit 3")
    c = t.create(bundle)
    pid, started = c.pid, c.start()
    ran = t.wait(lambda: bundle.read("startContainer"), 5)
    if unknown(t, "startContainer", ran):
        t.skip("this version of the runtime-spec has no startContainer hooks")
    t.require(ran, "the startContainer hook ran")
    t.require(t.wait(lambda: not alive(pid)), "the container's process ends")
    destroyed(t, c, "startContainer")
    t.fails(started, "start with a startContainer hook that fails")


@check("HOOK-011")
def poststart_fails(t: T) -> None:
    bundle = t.bundle("echo program >/out/program; read line </out/fifo")
    write_hooks(bundle, poststop="echo poststop >>$O/log")
    failing, second = hook(bundle, "poststart", "exit 3"), hook(bundle, "poststart", "echo second >>$O/log")
    bundle.config["hooks"]["poststart"] = [failing, second]
    bundle.write(bundle.config)
    os.mkfifo(bundle.out / "fifo")
    c = t.try_create(bundle)
    early = bundle.read("poststart.json") is not None  # HOOK-007 judges that
    last = c.created if early and not c.created.ok else c.start()
    t.require(bundle.read("poststart.json"), "the poststart hooks ran")
    if t.spec < (1, 3, 0) and last.ok:
        t.equal(lines(bundle), ["second"], "what ran after the failed poststart hook")
        t.true(t.wait_file(bundle.out / "program"), "the program goes on")
        t.true(alive(c.pid), "the container's process lives")
        return
    t.fails(last, "create or start with a poststart hook that fails")
    if last is not c.created:
        t.require(t.wait(lambda: not alive(c.pid)), "the container's process ends")
    destroyed(t, c, "poststart")
    t.true(t.spec >= (1, 3, 0), "a failed poststart hook ends no container before runtime-spec 1.3")


@check("HOOK-012")
def poststop_fails(t: T) -> None:
    bundle = t.bundle()
    first = hook(bundle, "poststop", "echo 1 >>$O/log; exit 3")
    bundle.config["hooks"] = {"poststop": [first, hook(bundle, "poststop", "echo 2 >>$O/log")]}
    bundle.write(bundle.config)
    c = t.run(bundle)
    t.ok(c.delete(), "delete with a poststop hook that fails")
    t.equal(lines(bundle)[:1], ["1"], "the poststop hook that fails ran")
    t.equal(lines(bundle)[1:], ["2"], "poststop hooks that ran after one that fails")
    t.fails(c.state(), "state of the deleted container")


@check("HOOK-013")
def invalid_hooks(t: T) -> None:
    bundle = t.bundle()

    def create(script: str, **more: Any) -> Container:
        one = hook(bundle, "createRuntime", script, **more)
        bundle.config["hooks"] = {"createRuntime": [one]}
        bundle.config["linux"]["cgroupsPath"] = t.config()["linux"]["cgroupsPath"]  # a populated one may be refused
        bundle.write(bundle.config)
        return t.try_create(bundle, cwd=bundle.path)

    t.require(create("echo >$O/valid", timeout=60).created.ok, "create with a valid hook")
    if unknown(t, "createRuntime", bundle.read("valid")):
        t.skip("this version of the runtime-spec has no createRuntime hooks")
    relative = create("echo >$O/ran", path="./busybox-outside").created
    t.fails(relative, "create with a hook with a relative path")
    t.fails(create("$B usleep 500000", timeout=0).created, "create with a hook with timeout 0")
    slow = create("exec $B sleep 40", timeout=1).created
    t.fails(slow, "create with a hook that takes longer than its timeout")
    t.true(slow.seconds < 20, "seconds until create fails, with a timeout of 1 s", "1 or some more", slow.seconds)

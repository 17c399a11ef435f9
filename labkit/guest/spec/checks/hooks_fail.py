"""Hooks that fail, take too long or are none: runtime.md "Lifecycle", config.md "POSIX-platform Hooks"."""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from ..context import SLEEPER, Bundle, Container, T, alive
from ..registry import check
from .hooks import CREATE_TIME, KINDS, hook, lines, places, unknown, write_hooks

HOOK_TIME = 30.0  # seconds until an operation with a hook of timeout 1 is over, on a loaded machine
LONG = 40000  # seconds that such a hook takes


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
    """No hook after the one that fails runs, of its kind or another."""
    quick = t.bundle("true")
    write_hooks(quick, **dict.fromkeys(CREATE_TIME, "true"))
    works = t.create(quick)
    for kind in CREATE_TIME:
        bundle = t.bundle("echo program >>/out/log")
        later = [other for other in KINDS[: KINDS.index("poststop")] if KINDS.index(other) >= KINDS.index(kind)]
        write_hooks(bundle, poststop="echo poststop >>$O/log", **{other: f"echo {other} >>$O/log" for other in later})
        bundle.config["hooks"][kind].insert(0, hook(bundle, kind, f"echo >$O/{kind}; exit 3"))
        bundle.write(bundle.config)
        c = t.try_create(bundle)
        if c.created.ok and unknown(t, kind, bundle.read(kind)):
            continue
        if kind == "prestart" and c.created.ok and t.spec < (1, 1, 0):  # 1.0: during start
            t.fails(c.start(), "start with a prestart hook that fails")
        else:
            t.fails(c.created, f"create with a {kind} hook that fails", valid=works)
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
    bundle = t.bundle("echo program >/out/program; exec sleep 1000")
    write_hooks(bundle, poststop="echo poststop >>$O/log")
    failing, second = hook(bundle, "poststart", "exit 3"), hook(bundle, "poststart", "echo second >>$O/log")
    bundle.config["hooks"]["poststart"] = [failing, second]
    bundle.write(bundle.config)
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


def with_poststop(t: T, status: int) -> Bundle:
    """The first poststop hook ends with this status; both write to the log."""
    bundle = t.bundle()
    first = hook(bundle, "poststop", f"echo 1 >>$O/log; exit {status}")
    bundle.config["hooks"] = {"poststop": [first, hook(bundle, "poststop", "echo 2 >>$O/log")]}
    bundle.write(bundle.config)
    return bundle


@check("HOOK-012")
def poststop_fails(t: T) -> None:
    c = t.run(with_poststop(t, 3))
    t.require(c.wait_stopped(), "the container stops")
    t.ok(c.delete(), "delete with a poststop hook that fails")
    t.equal(lines(c.bundle)[:1], ["1"], "the poststop hook that fails ran")
    t.equal(lines(c.bundle)[1:], ["2"], "poststop hooks that ran after one that fails")
    t.fails(c.state(), "state of the deleted container")


@check("HOOK-021")
def poststop_warning(t: T) -> None:
    """How, or even if, a warning is exposed is not mandated: it is looked for where --debug shows what else happens."""

    def told(status: int) -> set[str]:
        c = Container(t, t.new_id(), with_poststop(t, status))
        log = t.work / f"log-{status}"
        debug = ("--debug", "--log", str(log))
        t._note_container("+", c.id)
        where = ("--bundle", str(c.bundle.path), "--pid-file", str(c.pid_file))
        c.created = t.cli(*debug, "create", *where, c.id)
        if not c.created.ok:
            t.skip("it has no global options --debug and --log, so its warnings may be anywhere")
        t.require(c.start().ok and c.wait_stopped(), "start, and it stops")
        done = c.created, t.cli(*debug, "delete", c.id)
        t.require(lines(c.bundle), "the poststop hooks ran")
        text = "".join(proc.stdout + proc.stderr for proc in done)
        text += log.read_text(errors="replace") if log.exists() else ""
        return {re.sub(r"[0-9a-f]*[0-9][0-9a-f]*", "#", line) for line in text.splitlines() if line.strip()}

    usual, failed = told(0), told(3)
    if not usual:
        t.skip("it tells nothing with --debug, so its warnings may be anywhere")
    new = sorted(failed - usual)
    warned = [line for line in new if "hook" in line or "busybox" in line]
    t.true(
        warned, "a warning of the poststop hook that failed", "a line that is not there else", sorted(failed - usual)
    )


@check("HOOK-013")
def relative_path(t: T) -> None:
    def bundled(path: str) -> Bundle:
        bundle = t.bundle(SLEEPER)
        one = hook(bundle, "createRuntime", "echo >$O/ran")
        bundle.config["hooks"] = {"createRuntime": [{**one, "path": path or one["path"]}]}
        bundle.write(bundle.config)
        return bundle

    relative = bundled("./busybox-outside")
    t.refused(relative, "create with a hook with a relative path", valid=bundled(""), cwd=relative.path)


@check("HOOK-017")
def invalid_timeout(t: T) -> None:
    def with_timeout(seconds: int) -> Bundle:
        bundle = t.bundle(SLEEPER)
        # Longer than a runtime needs to abort it at once.
        bundle.config["hooks"] = {"createRuntime": [hook(bundle, "createRuntime", "$B usleep 200000", timeout=seconds)]}
        bundle.write(bundle.config)
        return bundle

    works = t.try_create(with_timeout(30))
    t.refused(with_timeout(0), "create with a hook with timeout 0", valid=works)
    t.refused(with_timeout(-1), "create with a hook with a negative timeout", valid=works)


@check("HOOK-018")
def cannot_run(t: T) -> None:
    """A hook fails also where it cannot be executed, and where a signal ends it."""
    bundle = t.bundle(SLEEPER)
    write_hooks(bundle, createRuntime="true")
    works = t.create(bundle)
    for what, change, script in (
        ("that does not exist", {"path": "/labkit/no-such-hook"}, ""),
        ("that is a directory", {"path": "/"}, ""),
        ("that a signal ends", {}, "kill -KILL $$; exec $B sleep 5"),
    ):
        bundle = t.bundle(SLEEPER)
        bundle.config["hooks"] = {"createRuntime": [{**hook(bundle, "createRuntime", script or "true"), **change}]}
        bundle.write(bundle.config)
        t.refused(bundle, f"create with a hook {what}", valid=works)
    bundle = t.bundle(SLEEPER)
    plain = bundle.path / "plain"
    plain.write_text(f"#!{places(bundle, 'createRuntime')[0]} sh\n")
    plain.chmod(0o644)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(plain)}]}
    bundle.write(bundle.config)
    t.refused(bundle, "create with a hook that is not executable", valid=works)


# Creates and starts a container: a runtime may call hooks of `start` in either.
BOTH = 'bundle=$1; id=$2; shift 2; "$@" create --bundle "$bundle" "$id" && exec "$@" start "$id"'


@check("HOOK-016")
def timeouts(t: T) -> None:
    """For every kind, all at the same time: a hook that is done within its time, and one that is not."""
    under_way: dict[str, tuple[Container, subprocess.Popen[bytes]]] = {}
    for number, kind in enumerate(KINDS):
        bundle = t.bundle("echo >/out/program")
        quick = hook(bundle, kind, "$B usleep 50000; echo quick >>$O/log", timeout=30)
        slow = f"echo begin >>$O/log; $B usleep 100000; echo later >>$O/log; exec $B sleep {LONG + number}"
        bundle.config["hooks"] = {kind: [quick, hook(bundle, kind, slow, timeout=1)]}
        bundle.write(bundle.config)
        if kind == "poststop":
            c = t.run(bundle)
            t.require(c.wait_stopped(), "the container stops")
            words = [*t.host.runtime, "delete", c.id]
        else:
            c = Container(t, t.new_id(), bundle)
            t._note_container("+", c.id)
            words = [*t.shell(BOTH), str(bundle.path), c.id, *t.host.runtime]
        under_way[kind] = c, t.spawn(words)
    deadline = time.monotonic() + HOOK_TIME
    for number, (kind, (c, process)) in enumerate(under_way.items()):
        over = t.wait(lambda process=process: process.poll() is not None, deadline - time.monotonic())  # type: ignore[misc]
        word = f"{LONG + number}".encode()
        done = lines(c.bundle)
        if not done:  # other checks judge that
            t.note(kind, "no hook ran")
            continue
        t.equal(done, ["quick", "begin", "later"], f"what {kind} hooks did in their time")
        t.true(over, f"the operation ends that has a {kind} hook that takes too long")
        gone = t.wait(lambda word=word: not runs(word), deadline - time.monotonic())  # type: ignore[misc]
        t.true(gone, f"the {kind} hook is aborted that takes too long")
        if kind in CREATE_TIME:
            t.true(process.returncode, f"create fails with a {kind} hook that takes too long")
        if kind not in ("poststart", "poststop"):
            t.equal(c.bundle.read("program"), None, f"what the program did after a {kind} hook that takes too long")


def runs(word: bytes) -> bool:
    """Some process has this word in its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if word in (entry / "cmdline").read_bytes().split(b"\0"):
                    return True
    return False

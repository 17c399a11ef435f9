"""Operations create, start, kill and delete: runtime.md."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ...common.procfs import rooted_in
from ..cleanup import mount_points
from ..context import SLEEPER, Config, Container, Skip, T, alive, set_namespace
from ..controllers import kernel, lacking, make_cgroup
from ..registry import check
from ..stages import Stage, stage
from ..traces import cgroups, gone
from .lifecycle import pause, unharmed


@check("CREATE-001")
def create_missing(t: T) -> None:
    bundle = t.bundle()
    t.fails(t.cli("create", "--bundle", str(bundle.path)), "create without an id")
    empty = t.work / "empty"
    empty.mkdir()
    t.fails(t.cli("create", t.new_id(), cwd=empty), "create without a bundle")


@check("CREATE-002")
def create_invalid_id(t: T) -> None:
    for id, what in ((f"../{t.new_id()}", "goes up"), (f"a/{t.new_id()}", "has a slash")):
        failed = t.refused(SLEEPER, f"create with an id that {what}", id=id)
        if not failed.created.ok:
            gone(t, failed, f"create with an id that {what}")
    c = t.create(SLEEPER)
    before = c.read_state()
    again = t.refused(SLEEPER, "create with an id that exists", id=c.id)
    unharmed(t, c, before, "the container with that id")
    t.true(not cgroups(again), "the refused create made no cgroup", [], cgroups(again))


@stage("CREATE-007")
def create_used_id(t: T) -> Stage:
    """As long as it is not deleted, an id is in use."""
    c = yield "running"
    before = c.read_state()
    t.refused(SLEEPER, "create with the id of a running container", id=c.id)
    t.true(alive(c.pid), "the running container's process still exists")
    unharmed(t, c, before, "the running container")
    c = yield "stopped"
    before = c.read_state()
    t.refused(SLEEPER, "create with the id of a stopped container", id=c.id)
    unharmed(t, c, before, "the stopped container")


@stage("CREATE-003")
def create_created(t: T) -> Stage:
    c = yield "created"
    t.equal(c.status(), "created", "status after create")


@check("CREATE-004")
def create_applies_all(t: T) -> None:
    config = t.config(SLEEPER)
    config["hostname"] = "labkit-create"
    config["root"]["readonly"] = True
    config["mounts"].append(
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "size=64k"]}
    )
    config["linux"]["sysctl"] = {"kernel.msgmax": "12345"}
    limits = {"pids": {"limit": 123}, "memory": {"limit": 1 << 27}}
    known = [name for name in limits if not lacking(t, name)][:1]  # a host need not have every controller
    config["linux"]["resources"] = {name: limits[name] for name in known}
    set_namespace(config, "network")
    c = t.create(config)
    if not t.sees_processes:
        t.skip("the container's processes are not the host's: before start nothing of it can be seen")
    for name in ("pid", "ipc", "uts", "mnt", "net"):
        own, other = (Path(f"/proc/{pid}/ns/{name}").stat().st_ino for pid in (os.getpid(), c.pid))
        t.true(own != other, f"{name} namespace before start", "a new one", "the one of the caller")
    lines = Path(f"/proc/{c.pid}/mountinfo").read_text().splitlines()
    mounts = {line.split()[4]: line for line in lines}
    root, tmp = mounts.get("/", ""), mounts.get("/tmp", "")
    t.true("ro" in (root.split() or [""] * 6)[5].split(","), "/ is read-only before start", "ro", root)
    t.true(" tmpfs " in tmp and "noexec" in tmp and "size=64k" in tmp, "/tmp is mounted before start", "tmpfs", tmp)
    inside = t.tool("nsenter", "-t", str(c.pid), "-u", "-i", "sh", "-c", "hostname; cat /proc/sys/kernel/msgmax")
    t.equal(inside.stdout.split(), ["labkit-create", "12345"], "hostname and kernel.msgmax before start")
    groups = Path(f"/proc/{c.pid}/cgroup").read_text()
    t.true(config["linux"]["cgroupsPath"] in groups, "cgroup before start", config["linux"]["cgroupsPath"], groups)
    if "pids" in known:
        t.equal(kernel(t, c, "pids.max", "pids.max"), "123", "pids.max before start")
    elif "memory" in known:
        t.equal(kernel(t, c, "memory.limit_in_bytes", "memory.max"), str(1 << 27), "memory limit before start")


@check("CREATE-005")
def create_cannot_apply(t: T) -> None:
    def with_sysctl(value: str) -> Config:
        config = t.config(SLEEPER)
        config["linux"]["sysctl"] = {"kernel.msgmax": value}
        return config

    def with_mount(size: str) -> Config:
        config = t.config(SLEEPER)
        config["mounts"].append(
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": [f"size={size}"]}
        )
        return config

    for what, bad, good in (
        ("a sysctl value the kernel refuses", with_sysctl("labkit"), with_sysctl("8192")),
        ("a mount option the kernel refuses", with_mount("labkit"), with_mount("64k")),
    ):
        failed = t.refused(bad, f"create with {what}", valid=good)
        if not failed.created.ok:
            gone(t, failed, f"create with {what}")


@stage("CREATE-006")
def create_not_args(t: T) -> Stage:
    c = yield "created"
    wanted = b"".join(word.encode() + b"\0" for word in c.bundle.config["process"]["args"])
    t.true(alive(c.pid), "the container process exists before start")
    pause(t)
    early = list(rooted_in(c.bundle.rootfs).values())
    t.true(wanted not in early, "process.args are not executed before start", "another command line", early)
    t.equal(c.bundle.read("ran"), None, "what process.args wrote before start")
    c = yield "running"
    t.require(t.wait_file(c.bundle.out / "ran"), "process.args run after start")
    t.equal(c.bundle.read("ran"), "started\n", "when process.args ran")
    if t.sees_processes:
        late = list(rooted_in(c.bundle.rootfs).values())
        t.true(wanted in late, "process.args are what the container's process executes", repr(wanted), late)
    c = yield "stopped"
    t.true(c.ended(), "the container's process ends when process.args do")


@check("START-001")
def start_without_id(t: T) -> None:
    t.fails(t.cli("start"), "start without an id")


@stage("START-002")
def start_not_created(t: T) -> Stage:
    t.fails(t.cli("start", t.new_id()), "start of an unknown id")
    c = yield "running"
    t.require(t.wait_file(c.bundle.out / "ran"), "the program runs")
    before = c.read_state()
    t.fails(c.start(), "start of a running container")
    unharmed(t, c, before, "the running container")
    c = yield "stopped"
    t.fails(c.start(), "start of a stopped container")
    t.equal(c.status(), "stopped", "status of the stopped container")
    t.equal(c.bundle.read("ran"), "started\n", "how often the program ran")


@check("START-003")
def start_runs_args(t: T) -> None:
    c = t.create(["/bin/sh", "-c", 'printf "%s," "$0" "$@" >>/out/ran; exit 42', "zero", "a b", "", "*"])
    t.ok(c.start(), "start")
    t.true(c.ended(), "the container's process ends")
    t.equal(c.bundle.read("ran"), "zero,a b,,*,", "what process.args wrote")
    t.equal(c.exit_status(), 42, "exit status of process.args")


@check("START-004")
def start_without_process(t: T) -> None:
    config = t.config()
    del config["process"]
    t.refused(config, "start (or create) without process", valid=t.config(), by_start=True)


def cannot_start(t: T, program: str, what: str) -> None:
    """Neither create nor start is done where process.args cannot be run; a start that failed runs nothing later."""
    bundle, valid = (t.bundle([path, "-c", "echo >/out/ran"]) for path in (program, "/bin/sh"))
    (bundle.rootfs / "bin/plain").write_text("#!/bin/sh\necho >/out/ran\n")
    (bundle.rootfs / "bin/plain").chmod(0o644)
    c = t.refused(bundle, f"start (or create) of {what}", valid=valid, by_start=True)
    t.equal(bundle.read("ran"), None, f"what ran in place of {what}")
    if not c.created.ok:
        gone(t, c, f"create with {what}")


@check("START-005")
def start_missing_program(t: T) -> None:
    cannot_start(t, "/bin/labkit-no-such-program", "a program that does not exist")


@check("START-006")
def start_directory(t: T) -> None:
    cannot_start(t, "/bin", "a program that is a directory")


@check("START-007")
def start_not_executable(t: T) -> None:
    cannot_start(t, "/bin/plain", "a program that is not executable")


@check("KILL-001")
def kill_without_id(t: T) -> None:
    t.fails(t.cli("kill"), "kill without an id")


@stage("KILL-002")
def kill_not_running(t: T) -> Stage:
    t.fails(t.cli("kill", t.new_id(), "KILL"), "kill of an unknown id")
    c = yield "stopped"
    before = c.read_state()
    t.fails(c.kill(), "kill of a stopped container")
    unharmed(t, c, before, "the stopped container")


def trapping(*names: str) -> str:
    """A script that writes each signal that it gets to /out/got, and waits; it is ready once /out/ready is there."""
    traps = "; ".join(f"trap 'echo {name} >>/out/got' {name}" for name in names)
    return f"{traps}; echo >/out/ready; while :; do sleep 0.02; done"


def started(t: T, script: str) -> Container:
    c = t.create(script)
    t.require(c.start().ok, "start exits 0")
    t.require(t.wait_file(c.bundle.out / "ready"), "the program installed its traps")
    return c


def got(c: Container) -> list[str]:
    return (c.bundle.read("got") or "").split()


@check("KILL-003")
def kill_signals(t: T) -> None:
    c = started(t, trapping("TERM", "USR1", "USR2", "HUP", "WINCH"))
    hosts = t.sees_processes
    sent: list[str] = []
    for name in ("USR1", "TERM", "WINCH", "USR2", "HUP"):
        sent.append(name)
        t.ok(c.kill(name), f"kill {name}")
        if not t.wait(lambda: len(got(c)) >= len(sent)):
            break
    t.equal(got(c), sent, "the signals that the program got")
    t.true(alive(c.pid), "the program goes on after signals it handles")
    t.ok(c.kill("KILL"), "kill KILL")
    t.true(c.ended(), "the program ends by KILL")
    t.equal(got(c), sent, "the signals that the program got in all")
    if hosts:
        t.equal(c.exit_status(), -9, "how the program ended")


@check("KILL-004")
def kill_created(t: T) -> None:
    c = t.create("echo >/out/ran")
    t.ok(c.kill("KILL"), "kill KILL of a created container")
    t.require(c.wait_stopped(10), "a created container stops by KILL")
    t.equal(c.bundle.read("ran"), None, "what the program wrote")
    t.fails(c.start(), "start of a created container that was killed")
    t.ok(c.delete(), "delete of a created container that was killed")


@check("KILL-005")
def kill_default(t: T) -> None:
    c = started(t, trapping("TERM", "INT", "HUP", "QUIT"))
    t.ok(c.kill(None), "kill without a signal")
    t.true(t.wait(lambda: got(c)), "the program gets a signal")
    pause(t)
    t.equal(got(c), ["TERM"], "the signals that the program got")
    t.ok(c.kill("KILL"), "kill KILL")
    t.true(c.ended(), "the program ends by KILL")


@check("KILL-006")
def kill_spellings(t: T) -> None:
    """Names other than TERM and KILL may be refused. What is accepted is sent."""
    c = started(t, trapping("TERM", "USR1", "USR2"))
    sent: list[str] = []
    refused = []
    for word, name in (("SIGUSR2", "USR2"), ("15", "TERM"), ("SIGTERM", "TERM"), ("10", "USR1"), ("TERM", "TERM")):
        if not c.kill(word).ok:
            refused.append(word)
            continue
        sent.append(name)
        if not t.wait(lambda: len(got(c)) >= len(sent)):
            break
    t.true("TERM" not in refused, "kill TERM is accepted")
    t.equal(got(c), sent, "the signals that the program got, for each way to write them")
    t.note("refused", refused)


@check("KILL-007")
def kill_only_init(t: T) -> None:
    child = "trap 'echo child >>/out/got' USR1; echo >/out/ready; while :; do sleep 0.02; done"
    c = t.create(
        f"trap 'echo init >>/out/got' USR1; (exec sh -c \"{child}\") & while :; do sleep 0.02; done",
    )
    t.require(c.start().ok, "start exits 0")
    t.require(t.wait_file(c.bundle.out / "ready"), "both processes installed their traps")
    t.ok(c.kill("USR1"), "kill USR1")
    t.require(t.wait(lambda: got(c)), "a process got the signal")
    pause(t)
    t.equal(got(c), ["init"], "the processes that got the signal")


@stage("KILL-008")
def kill_leaves_created(t: T) -> Stage:
    """WINCH does nothing to a process that does not handle it."""
    c = yield "created"
    pid = c.pid
    t.ok(c.kill("WINCH"), "kill WINCH of a created container")
    pause(t)
    t.require(alive(pid), "the created container's process lives on")
    t.equal(c.status(), "created", "status after kill WINCH of a created container")
    t.equal(c.read_state().get("pid"), pid, "pid after kill WINCH of a created container")
    c = yield "stopped"
    t.equal(c.bundle.read("ran"), "started\n", "when the program ran")


@check("KILL-009")
def kill_no_signal(t: T) -> None:
    c = started(t, trapping("TERM", "HUP", "USR1"))
    before = c.read_state()
    for word, what in (("LABKIT", "a name that is no signal"), ("999", "a number that is no signal")):
        t.fails(c.kill(word), f"kill with {what}")
    t.true(alive(c.pid), "the program goes on")
    unharmed(t, c, before, "the container")
    t.equal(got(c), [], "the signals that the program got")


@check("DELETE-001")
def delete_without_id(t: T) -> None:
    t.fails(t.cli("delete"), "delete without an id")


@stage("DELETE-002")
def delete_running(t: T) -> Stage:
    c = yield "running"
    before = c.read_state()
    t.fails(c.delete(), "delete of a running container")
    t.true(alive(c.pid), "the container process still exists")
    unharmed(t, c, before, "the running container")


@check("DELETE-003")
def delete_created(t: T) -> None:
    c = t.create(SLEEPER)
    t.require(alive(c.pid), "the container process exists")
    before = c.read_state()
    deleted = c.delete()
    t.fails(deleted, "delete of a created container")
    if deleted.ok:
        gone(t, c, "delete of a created container that was not refused")
        return
    t.true(alive(c.pid), "the created container's process still exists")
    unharmed(t, c, before, "the created container")


@stage("DELETE-004")
def delete_resources(t: T) -> Stage:
    c = yield "stopped"
    t.note("cgroups", cgroups(c))  # a runtime that makes none fails CG-001
    c = yield "deleted"
    gone(t, c, "delete")


@check("DELETE-005")
def delete_keeps(t: T) -> None:
    """What was there before create, and what is only near it, is still there after delete."""
    config = t.config()
    network, volume = t.work / "network", t.work / "volume"
    network.touch()
    volume.mkdir()
    for words in (["unshare", f"--net={network}", "true"], ["mount", "-t", "tmpfs", "volume", str(volume)]):
        done = t.tool(*words)
        if not done.ok:
            t.skip(f"busybox {words[0]}: {done.stderr.strip()}")
    (volume / "data").touch()
    inode = network.stat().st_ino
    set_namespace(config, "network", str(network))
    config["mounts"].append({"destination": "/tmp", "type": "bind", "source": str(volume), "options": ["rbind", "rw"]})
    path = config["linux"]["cgroupsPath"]
    beside = {}
    with suppress(Skip):  # the rest can be seen all the same
        beside = {name: make_cgroup(t, f"{path}{name}") for name in ("0", "-sibling")}
    c = t.create(config)
    t.require(c.start().ok, "start exits 0")
    t.require(c.wait_stopped(), "the container stops")
    t.require(c.delete().ok, "delete exits 0")
    lost = [name for name, made in beside.items() if not all(directory.is_dir() for directory in made.values())]
    t.equal(lost, [], "cgroups beside the container's that are gone")
    t.true(network in mount_points() and network.stat().st_ino == inode, "a joined network namespace is kept")
    t.true(volume in mount_points() and (volume / "data").exists(), "a bind-mounted volume is kept")
    t.true((c.bundle.path / "config.json").exists() and (c.bundle.rootfs / "bin/sh").is_symlink(), "the bundle is kept")
    t.true((c.bundle.out).is_dir(), "the bundle's other directories are kept")


@check("DELETE-006")
def delete_reuse(t: T) -> None:
    c = t.create(SLEEPER)
    t.require(c.delete(force=True).ok, "delete --force exits 0")
    t.note("the id may be used again", t.try_create(SLEEPER, id=c.id).created.ok)


@stage("DELETE-007")
def delete_unknown(t: T) -> Stage:
    t.fails(t.cli("delete", t.new_id()), "delete of an unknown id")
    c = yield "deleted"
    t.fails(c.delete(), "delete of a container that is deleted")


@check("DELETE-008")
def delete_one_of_two(t: T) -> None:
    other = t.create(SLEEPER)
    t.require(other.start().ok, "start exits 0")
    groups = cgroups(other)
    before = other.read_state()
    c = t.run()
    t.require(c.wait_stopped(), "the container stops")
    t.ok(c.delete(), "delete")
    t.true(alive(other.pid), "another container's process lives on")
    unharmed(t, other, before, "another container")
    t.equal(cgroups(other), groups, "cgroups of another container")

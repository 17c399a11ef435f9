"""Operations create, start, kill and delete: runtime.md."""

from __future__ import annotations

import os
from pathlib import Path

from ..cleanup import mount_points
from ..context import SLEEPER, T, alive, set_namespace
from ..controllers import kernel, lacking, make_cgroup
from ..registry import check
from ..traces import cgroups, gone


@check("CREATE-001")
def create_missing(t: T) -> None:
    bundle = t.bundle()
    t.fails(t.cli("create", "--bundle", str(bundle.path)), "create without an id")
    empty = t.work / "empty"
    empty.mkdir()
    t.fails(t.cli("create", t.new_id(), cwd=empty), "create without a bundle")


@check("CREATE-002")
def create_invalid_id(t: T) -> None:
    for id in (f"../{t.new_id()}", f"a/{t.new_id()}"):
        gone(t, t.refused(SLEEPER, f"create with the invalid id {id}", id=id), f"create with the id {id}")
    c = t.create(SLEEPER)
    before = c.read_state()
    again = t.refused(SLEEPER, "create with an id that exists", id=c.id)
    t.equal(c.read_state(), before, "state of the container with that id")
    t.true(not cgroups(again), "the refused create made no cgroup", [], cgroups(again))


@check("CREATE-003")
def create_created(t: T) -> None:
    c = t.try_create(SLEEPER)
    t.ok(c.created, "create")
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
    config = t.config(SLEEPER)
    config["linux"]["sysctl"] = {"kernel.msgmax": "labkit"}
    gone(t, t.refused(config, "create with a sysctl value the kernel refuses"), "create with that sysctl")
    config = t.config(SLEEPER)
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=labkit"]})
    gone(t, t.refused(config, "create with a mount option the kernel refuses"), "create with that mount")


@check("CREATE-006")
def create_not_args(t: T) -> None:
    bundle = t.bundle("read line </out/fifo")
    os.mkfifo(bundle.out / "fifo")
    c = t.create(bundle)
    wanted = b"".join(word.encode() + b"\0" for word in bundle.config["process"]["args"])

    def runs() -> bool:
        return Path(f"/proc/{c.pid}/cmdline").read_bytes() == wanted

    t.true(alive(c.pid), "the container process exists before start")
    t.true(not t.wait(runs, 0.7), "process.args are not executed before start")
    t.require(c.start().ok, "start exits 0")
    t.true(t.wait(runs), "process.args are executed after start")


@check("START-001")
def start_without_id(t: T) -> None:
    t.fails(t.cli("start"), "start without an id")


@check("START-002")
def start_not_created(t: T) -> None:
    t.fails(t.cli("start", t.new_id()), "start of an unknown id")
    c = t.create("echo ran >>/out/ran; exec sleep 1000")
    t.require(c.start().ok, "start exits 0")
    t.require(t.wait_file(c.bundle.out / "ran"), "the program runs")
    before = c.read_state()
    t.fails(c.start(), "start of a running container")
    t.equal(c.read_state(), before, "state of the running container")
    t.require(c.kill().ok, "kill exits 0")
    t.require(c.wait_stopped(), "the container stops")
    t.fails(c.start(), "start of a stopped container")
    t.equal(c.status(), "stopped", "status of the stopped container")
    t.equal(c.bundle.read("ran"), "ran\n", "how often the program ran")


@check("START-003")
def start_runs_args(t: T) -> None:
    c = t.create(["/bin/sh", "-c", 'printf "%s," "$0" "$@" >/out/ran; exit 42', "zero", "a b", "", "*"])
    t.ok(c.start(), "start")
    t.true(c.ended(), "the container's process ends")
    t.equal(c.bundle.read("ran"), "zero,a b,,*,", "what process.args wrote")
    t.equal(c.exit_status(), 42, "exit status of process.args")


@check("START-004")
def start_without_process(t: T) -> None:
    config = t.config()
    del config["process"]
    c = t.try_create(config)
    refused = c.start() if c.created.ok else c.created
    t.fails(refused, "start (or create) without process")


@check("KILL-001")
def kill_without_id(t: T) -> None:
    t.fails(t.cli("kill"), "kill without an id")


@check("KILL-002")
def kill_not_running(t: T) -> None:
    t.fails(t.cli("kill", t.new_id(), "KILL"), "kill of an unknown id")
    c = t.run()
    t.require(c.wait_stopped(), "the container stops")
    before = c.read_state()
    t.fails(c.kill(), "kill of a stopped container")
    t.equal(c.read_state(), before, "state of the stopped container")


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
    t.true(c.ended(), "the program ends by KILL")
    t.equal(c.exit_status(), -9, "how the program ended")


@check("KILL-004")
def kill_created(t: T) -> None:
    c = t.create("echo >/out/ran")
    t.ok(c.kill("KILL"), "kill KILL of a created container")
    t.true(c.wait_stopped(), "the container stops")
    t.equal(c.bundle.read("ran"), None, "what the program wrote")


@check("KILL-005")
def kill_default(t: T) -> None:
    c = t.create("trap 'echo >/out/got' TERM; echo >/out/ready; while :; do sleep 0.02; done")
    t.require(c.start().ok, "start exits 0")
    t.require(t.wait_file(c.bundle.out / "ready"), "the program installed its trap")
    t.ok(c.kill(None), "kill without a signal")
    t.true(t.wait_file(c.bundle.out / "got"), "the program got TERM")
    t.note("spellings", {word: c.kill(word).status for word in ("SIGTERM", "15")})
    t.ok(c.kill("KILL"), "kill KILL")
    t.true(c.ended(), "the program ends by KILL")


@check("DELETE-001")
def delete_without_id(t: T) -> None:
    t.fails(t.cli("delete"), "delete without an id")


@check("DELETE-002")
def delete_running(t: T) -> None:
    c = t.create(SLEEPER)
    t.require(c.start().ok, "start exits 0")
    before = c.read_state()
    t.fails(c.delete(), "delete of a running container")
    t.true(alive(c.pid), "the container process still exists")
    t.equal(c.read_state(), before, "state of the running container")


@check("DELETE-003")
def delete_created(t: T) -> None:
    c = t.create(SLEEPER)
    t.require(alive(c.pid), "the container process exists")
    deleted = c.delete()
    t.fails(deleted, "delete of a created container")
    if deleted.ok:
        return
    t.true(alive(c.pid), "the container process still exists")
    t.equal(c.status(), "created", "status of the created container")


@check("DELETE-004")
def delete_resources(t: T) -> None:
    c = t.run()
    t.require(cgroups(c), "a cgroup of the container", "a directory", c.bundle.config["linux"]["cgroupsPath"])
    t.require(c.wait_stopped(), "the container stops")
    t.ok(c.delete(), "delete")
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


@check("DELETE-006")
def delete_reuse(t: T) -> None:
    c = t.create(SLEEPER)
    t.require(c.delete(force=True).ok, "delete --force exits 0")
    t.note("the id may be used again", t.try_create(SLEEPER, id=c.id).created.ok)

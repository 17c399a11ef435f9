"""Sentences that stand alone: each is one that no check of its subject holds, see docs/reference/requirements.md."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

from ..context import SLEEPER, Config, T, set_namespace
from ..controllers import block_controller, kernel, limited, need
from ..registry import check
from .cgroups_io import disks, on_device
from .features import UNUSED, claimed, filtering, names
from .mount_options import ATIME
from .mounts import bind, tree, with_mounts
from .namespaces import has_user_namespaces, knows
from .recursive import BOTH, HIGH, SHOWN, judge_tree, looking, mapped, needs_mapped_mounts, needs_setattr, owned
from .scheduling import scheduler


@check("MOUNT-051")
def recursive_no_strict_access_times(t: T) -> None:
    """What is left is the kernel's default, which is relatime."""
    needs_setattr(t)
    config = with_mounts(t, bind("/lk/rnostrictatime", tree(t, "strict", "strictatime"), "rbind", "rnostrictatime"))
    config["process"]["args"] = ["/bin/sh", "-c", looking("/lk")]
    c = t.try_create(config)
    if not t.ok(c.created, "create with rnostrictatime"):
        return
    if not t.sees_processes:
        t.note("access times", "not judged: the default of a kernel of its own is another")
        return
    t.require(c.start().ok and c.ended(), "the process starts and ends")
    judge_tree(t, c.stdout, "/lk", "rnostrictatime", {"relatime"}, ATIME)


@check("MOUNT-052")
def ridmap_of_the_container(t: T) -> None:
    needs_mapped_mounts(t)
    if not has_user_namespaces() or not knows(t, "user"):
        t.skip("no user namespaces here")
    config = mapped(t, "ridmap", owned(t), "rbind")
    set_namespace(config, "user")
    everyone = [{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": HIGH, "size": 65000}]
    config["linux"].update(uidMappings=everyone, gidMappings=everyone)
    c = t.try_create(config)
    if not c.created.ok:  # it MAY use the mapping of the container, otherwise an error
        t.note("create", c.created.words)
        return
    t.require(c.start().ok and c.ended(), "the process starts and ends")
    lines = [*c.stdout.splitlines(), *[""] * 4]
    t.equal(lines[:2], ["3 4", "500 12"], "owners in a mount with the mapping of the container")
    t.equal(lines[3], "3 4", "owner in the mount below one with the mapping of the container")


@check("SCHED-011")
def deadline_without_values(t: T) -> None:
    """An unset value is 0, which the kernel takes for none of these; a runtime that thinks one up gives no error."""
    times = {"runtime": 2_000_000, "deadline": 50_000_000, "period": 100_000_000}
    valid = scheduler(t, "SCHED_DEADLINE", "true", **times)
    for name in ("runtime", "deadline"):
        rest = {key: value for key, value in times.items() if key != name}
        config = scheduler(t, "SCHED_DEADLINE", "true", **rest)
        t.refused(config, f"create or start of SCHED_DEADLINE without {name}", valid=valid, by_start=True)


@check("CG-061")
def leaf_weight_of_a_device(t: T) -> None:
    need(t, block_controller(t))
    if t.host.cgroup == "v2":
        t.need_spec((1, 1, 0), "the rule for settings without a conversion")
    (device, *_) = disks() or [(0, 0)]
    if device == (0, 0):
        t.skip("no block device on this host")
    c = t.try_create(limited(t, {"blockIO": {"weightDevice": [on_device(device, leafWeight=300)]}}))
    if not c.created.ok:
        t.fails(c.created, "create with the leafWeight of a device")
        return
    text = None if t.host.cgroup == "v2" else kernel(t, c, "blkio.leaf_weight_device")
    t.equal(text, f"{device[0]}:{device[1]} 300", "leafWeight of a device, which create accepted")


@check("FEAT-021")
def cgroup_version(t: T) -> None:
    """A limit that holds, on the version that this host has. That one does not is for CG-006."""
    version = "v2" if t.host.cgroup == "v2" else "v1"
    said = claimed(t, "linux", "cgroup", version)
    need(t, "pids")
    c = t.try_create(limited(t, {"pids": {"limit": 91}}))
    if c.created.ok and kernel(t, c, "pids.max", "pids.max") != "91":
        t.skip("a limit does not hold here, so nothing shows whether the claim is true")
    t.equal(said, c.created.ok, f"linux.cgroup.{version} says whether a limit holds there")


@check("FEAT-022")
def mapped_mounts(t: T) -> None:
    """Whoever recognises mappings claims it; what is claimed may be had in part only."""
    said = claimed(t, "linux", "mountExtensions", "idmap", "enabled")
    needs_mapped_mounts(t)
    holds = False
    if said is not True:
        c = t.try_create(mapped(t, "idmap", owned(t), "rbind", **BOTH))
        if c.created.ok:
            t.require(c.start().ok and c.ended(), "the process starts and ends")
            holds = c.stdout.splitlines()[:2] == SHOWN
    t.true(said is True or not holds, "mapped mounts that work are claimed", True, said)


@check("FEAT-023")
def known_flags(t: T) -> None:
    """A flag that is known may be refused by the kernel or a library, but not as one that nobody knows."""
    known = names(t, "linux", "seccomp", "knownFlags")
    supported = t.feature("linux", "seccomp", "supportedFlags") or []

    def made(flag: str) -> Config:
        return filtering(t, flags=[flag], syscalls=[{"names": [UNUSED[0]], "action": "SCMP_ACT_ERRNO"}])

    unsupported = [flag for flag in known if flag not in supported]
    if not unsupported:
        t.skip("every flag that the runtime knows is supported, and tried by FEAT-012")
    bogus = "SECCOMP_FILTER_FLAG_LABKIT"
    refusal = t.try_create(made(bogus)).created
    for flag in unsupported:
        created = t.try_create(made(flag)).created
        same = not created.ok and not refusal.ok and refusal.words.replace(bogus, flag) == created.words
        t.true(
            not same, f"the known seccomp flag {flag} is not refused as an unknown one", refusal.words, created.words
        )


@check("CLI-011")
def stdin_with_a_terminal(t: T) -> None:
    """The offset in a file shows who reads of it."""
    given = t.work / "given"
    given.write_text("first\nsecond\n")
    config: dict[str, Any] = t.config(SLEEPER)
    config["process"]["terminal"] = True
    path = t.work / "tty"
    with closing(socket.socket(socket.AF_UNIX)) as listener, given.open("rb", buffering=0) as stdin:
        listener.bind(str(path))
        listener.listen()
        c = t.create(config, options=["--console-socket", str(path)], stdin=stdin)
        t.equal(stdin.tell(), 0, "bytes of its stdin that create read, with a terminal")
        t.require(c.start().ok, "start exits 0")
        t.equal(stdin.tell(), 0, "bytes of the stdin of create that a program with a terminal read")

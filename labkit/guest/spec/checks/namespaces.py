"""Namespaces, user namespace mappings, time offsets, personality: config-linux.md."""

from __future__ import annotations

import os
from pathlib import Path

from ...common.executables import find_program
from ...common.procfs import status
from ..context import SLEEPER, Config, T, drop_namespace, set_namespace
from ..registry import check

# Type in the config: name in /proc/PID/ns.
FILE = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
ALL_FILES = {**FILE, "user": "user", "time": "time"}
IDENTITY = [{"containerID": 0, "hostID": 0, "size": 65536}]


def inode(pid: object, type: str) -> int:
    return Path(f"/proc/{pid}/ns/{ALL_FILES[type]}").stat().st_ino


def has_user_namespaces() -> bool:
    limit = Path("/proc/sys/user/max_user_namespaces")
    return Path("/proc/self/ns/user").exists() and limit.exists() and limit.read_text().strip() != "0"


def listed(t: T, type: str) -> bool:
    """Whether the runtime's `features` lists this namespace type; True if it lists none at all."""
    types = t.feature("linux", "namespaces")
    return type in types if isinstance(types, list) else True


def knows(t: T, type: str) -> bool:
    """Kernel and runtime have this type: the types of the spec only SHOULD be supported, and time is new in 1.1.0."""
    kernel = Path(f"/proc/self/ns/{ALL_FILES[type]}").exists()
    return kernel and listed(t, type) and (type != "time" or t.spec >= (1, 1, 0))


@check("NS-001")
def new_namespaces(t: T) -> None:
    types = [type for type in (*FILE, "time") if knows(t, type)]
    config = t.config(SLEEPER)
    for type in types:
        set_namespace(config, type)
    c = t.create(config)
    for type in types:
        t.true(inode(c.pid, type) != inode("self", type), f"{type} namespace", "a new one", "the runtime's")
    if has_user_namespaces() and knows(t, "user"):
        config = t.config(SLEEPER)
        set_namespace(config, "user")
        config["linux"].update(uidMappings=IDENTITY, gidMappings=IDENTITY)
        c = t.create(config)
        t.true(inode(c.pid, "user") != inode("self", "user"), "user namespace", "a new one", "the runtime's")


@check("NS-002")
def join_namespaces(t: T) -> None:
    types = [type for type in FILE if type != "mount" and knows(t, type)]
    config = t.config(SLEEPER)
    for type in types:
        set_namespace(config, type)
    first = t.create(config)
    config = t.config(SLEEPER)
    del config["hostname"]
    for type in types:
        t.require(inode(first.pid, type) != inode("self", type), f"{type} namespace to join is another one")
        set_namespace(config, type, f"/proc/{first.pid}/ns/{ALL_FILES[type]}")
    second = t.create(config)
    for type in types:
        t.equal(inode(second.pid, type), inode(first.pid, type), f"{type} namespace given by path")
    t.true(inode(second.pid, "mount") != inode(first.pid, "mount"), "mount namespace without path is a new one")


@check("NS-003")
def path_of_other_type(t: T) -> None:
    config = t.config(SLEEPER)
    del config["hostname"]
    set_namespace(config, "uts", f"/proc/{os.getpid()}/ns/ipc")
    t.refused(config, "create with the path of an ipc namespace as uts")
    (t.work / "file").touch()
    set_namespace(config, "uts", str(t.work / "file"))
    t.refused(config, "create with the path of a regular file as uts")


@check("NS-004")
def inherited_namespaces(t: T) -> None:
    config = t.config(SLEEPER)
    del config["hostname"]  # would be the host's
    for type in ("network", "ipc", "uts", "pid", "cgroup", "user", "time"):
        drop_namespace(config, type)
    c = t.create(config)
    for type in ("network", "ipc", "uts", "pid", "cgroup", "user", "time"):
        if Path(f"/proc/self/ns/{ALL_FILES[type]}").exists():
            t.equal(inode(c.pid, type), inode("self", type), f"{type} namespace that is not listed")


@check("NS-005")
def duplicate_namespaces(t: T) -> None:
    for type in ("pid", "uts"):
        config = t.config(SLEEPER)
        config["linux"]["namespaces"].append({"type": type})
        t.refused(config, f"create with two {type} namespaces")


@check("USERNS-001")
def user_mappings(t: T) -> None:
    if not has_user_namespaces():
        t.skip("no user namespaces on this host")
    if not knows(t, "user"):
        t.skip("the runtime does not support user namespaces")
    uids = [(0, 0, 1), (1, 100000, 999), (1000, 300000, 70)]  # root stays root: it owns the files
    gids = [(0, 0, 2), (5, 200000, 500), (7000, 400000, 3)]
    config = t.config(["/bin/cat", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/status"])
    config["process"]["user"] = {"uid": 1001, "gid": 7002}
    set_namespace(config, "user")
    for name, extents in ("uidMappings", uids), ("gidMappings", gids):
        config["linux"][name] = [{"containerID": first, "hostID": host, "size": size} for first, host, size in extents]
    text = t.run(config).stdout
    lines = [line.split() for line in text.splitlines()[:6]]
    expected = [[str(number) for number in extent] for extent in (*uids, *gids)]
    t.equal(lines, expected, "uid_map and gid_map")
    said = status(text)
    t.equal(said.get("Uid"), "1001 1001 1001 1001", "uid in the container")
    t.equal(said.get("Gid"), "7002 7002 7002 7002", "gid in the container")


@check("PERS-001")
def personality(t: T) -> None:
    if t.spec < (1, 0, 2):
        t.skip("linux.personality is new in runtime-spec 1.0.2")
    machine = os.uname().machine
    compat = {"x86_64": ("i686",), "aarch64": ("armv8l", "armv7l"), "ppc64le": ("ppcle",), "s390x": ("s390",)}
    if machine not in compat:
        t.skip(f"the machine name under LINUX32 is not known for {machine}")

    def run(domain: str) -> tuple[str, str]:
        config = t.config("uname -m; cat /proc/self/personality")
        config["linux"]["personality"] = {"domain": domain}
        found, number = (*t.run(config).stdout.splitlines(), "", "")[:2]
        return found, number.strip()

    found, number = run("LINUX32")
    # A kernel whose uname does not heed LINUX32, as User-Mode Linux, still tells the personality itself.
    unseen = machine_under_linux32(t) == machine
    if unseen:
        t.equal(number, "00000008", "personality of the process for LINUX32")
    else:
        t.true(found in compat[machine], "machine for LINUX32", compat[machine], found)
    t.equal(run("LINUX")[0], machine, "machine for LINUX")
    if unseen:
        t.skip("this kernel's uname shows the same machine under LINUX32; the personality itself is as configured")


def machine_under_linux32(t: T) -> str:
    """The machine's name under LINUX32, tried on the host without the runtime; empty where that cannot be tried."""
    setarch = find_program("setarch")
    for words in ([t.host.busybox, "linux32"], *([[setarch, "linux32"]] if setarch else [])):
        tried = t.command(*words, t.host.busybox, "uname", "-m")
        if tried.ok:
            return tried.stdout.strip()
    return ""


@check("TIMENS-001")
def time_offsets(t: T) -> None:
    if t.spec < (1, 1, 0):
        t.skip("linux.timeOffsets is new in runtime-spec 1.1.0")
    if not Path("/proc/self/ns/time").exists():
        t.skip("no time namespaces in this kernel")
    config: Config = t.config(["/bin/cat", "/proc/self/timens_offsets", "/proc/uptime"])
    config["linux"]["timeOffsets"] = {"monotonic": {"secs": 172800, "nanosecs": 5}, "boottime": {"secs": 604800}}
    t.note("timeOffsets without a time namespace", t.try_create(config).created.describe())
    set_namespace(config, "time")
    before = uptime(Path("/proc/uptime").read_text())
    c = t.try_create(config)
    if not c.created.ok and not listed(t, "time"):  # crun has them without listing them
        t.skip("no time namespaces in this runtime")
    t.require(c.created.ok, "create exits 0", 0, c.created.describe())
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    *offsets, inside = c.stdout.splitlines() or [""]
    after = uptime(Path("/proc/uptime").read_text())
    found = sorted(tuple(line.split()) for line in offsets)
    t.equal(found, [("boottime", "604800", "0"), ("monotonic", "172800", "5")], "timens_offsets of the process")
    shifted = uptime(inside) - 604800
    # /proc/uptime shows CLOCK_BOOTTIME in hundredths of a second, cut off.
    t.true(before - 1 <= shifted <= after + 1, "boottime less its offset", f"{before} to {after}", shifted)


def uptime(text: str) -> float:
    words = text.split()
    return float(words[0]) if words else 0.0

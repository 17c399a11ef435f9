"""Namespaces, user namespace mappings, time offsets, personality: config-linux.md."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...common.executables import find_program
from ...common.procfs import status
from ..context import SLEEPER, Bundle, Config, Container, T, drop_namespace, set_namespace
from ..parts import Part, part
from ..registry import check

# Type in the config: name in /proc/PID/ns.
FILE = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
ALL_FILES = {**FILE, "user": "user", "time": "time"}
IDENTITY = [{"containerID": 0, "hostID": 0, "size": 65536}]
LINKS = f"for n in {' '.join(ALL_FILES.values())}; do echo $n $(readlink /proc/self/ns/$n); done"


def link(pid: object, type: str) -> str:
    return str(Path(f"/proc/{pid}/ns/{ALL_FILES[type]}").readlink())


def links(text: str) -> dict[str, str]:
    """What LINKS printed in a container: by type; "" for one that the container's /proc does not have."""
    found = {name: target for name, _, target in (line.partition(" ") for line in text.splitlines())}
    return {type: found.get(name, "").strip() for type, name in ALL_FILES.items()}


def has_user_namespaces() -> bool:
    limit = Path("/proc/sys/user/max_user_namespaces")
    return Path("/proc/self/ns/user").exists() and limit.exists() and limit.read_text().strip() != "0"


def need_user_namespaces(t: T) -> None:
    if not has_user_namespaces():
        t.skip("no user namespaces on this host")
    if not knows(t, "user"):
        t.skip("the runtime does not support user namespaces")


def listed(t: T, type: str) -> bool:
    """Whether the runtime's `features` lists this namespace type; True if it lists none at all."""
    types = t.feature("linux", "namespaces")
    return type in types if isinstance(types, list) else True


def knows(t: T, type: str) -> bool:
    """Kernel and runtime have this type: the types of the spec only SHOULD be supported, and time is new in 1.1.0."""
    kernel = Path(f"/proc/self/ns/{ALL_FILES[type]}").exists()
    return kernel and listed(t, type) and (type != "time" or t.spec >= (1, 1, 0))


def with_user_namespace(t: T, args: Any = "true", uids: Any = IDENTITY, gids: Any = IDENTITY) -> Config:
    config = t.config(args)
    set_namespace(config, "user")
    config["linux"].update(uidMappings=uids, gidMappings=gids)
    return config


def joining(t: T, args: Any, **paths: str) -> Config:
    """A config with namespaces (by type) given by path, the host name theirs."""
    config = t.config(args)
    for type, path in paths.items():
        set_namespace(config, type, path)
    if "uts" in paths or "user" in paths:
        del config["hostname"]
    return config


@part("root", "NS-001")
def new_namespaces(t: T, bundle: Bundle) -> Part:
    types = [type for type in FILE if knows(t, type)]  # NS-006 has user, TIMENS-001 time
    for type in types:
        if not any(one["type"] == type for one in bundle.config["linux"]["namespaces"]):
            set_namespace(bundle.config, type)
    seen = yield LINKS
    found = links(seen.stdout)
    t.require(found["pid"], "the links in /proc/self/ns can be read inside", "pid:[...]", seen.stdout + seen.stderr)
    for type in types:
        t.true(found[type] != link("self", type), f"{type} namespace", "a new one", "the runtime's")


@check("NS-006")
def new_user_namespace(t: T) -> None:
    need_user_namespaces(t)
    found = links(t.run(with_user_namespace(t, LINKS)).stdout)
    t.require(found["pid"], "the links in /proc/self/ns can be read inside", "pid:[...]", found)
    t.true(found["user"] != link("self", "user"), "user namespace", "a new one", "the runtime's")


def other_namespaces(t: T, types: Iterable[str], config: Config) -> Container:
    """A container with namespaces of its own; the check is skipped where they are not the host's."""
    for type in types:
        set_namespace(config, type)
    first = t.create(config)
    t.require(first.start().ok, "start exits 0")
    for type in types:
        try:
            own = link(first.pid, type) == link("self", type)
        except OSError:
            own = True
        if own:
            t.skip(f"the {type} namespace of a container is not one of the host's")
    return first


@check("NS-002")
def join_namespaces(t: T) -> None:
    types = [type for type in FILE if type != "mount" and knows(t, type)]
    first = other_namespaces(t, types, t.config(SLEEPER))
    paths = {type: f"/proc/{first.pid}/ns/{ALL_FILES[type]}" for type in types}
    second = t.run(joining(t, LINKS, **paths))
    found = links(second.stdout)
    for type in types:
        t.equal(found[type], link(first.pid, type), f"{type} namespace given by path")
    t.true(found["mount"] != link(first.pid, "mount"), "mount namespace without path is a new one")


@check("NS-007")
def join_user_namespace(t: T) -> None:
    need_user_namespaces(t)
    config = with_user_namespace(t, SLEEPER)
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 4000}]
    first = other_namespaces(t, ["user"], config)
    config = joining(t, f"{LINKS}; cat /proc/self/uid_map", user=f"/proc/{first.pid}/ns/user")
    second = t.try_create(config)
    t.require(second.created.ok, "create with a user namespace by path", 0, second.created.describe())
    t.require(second.start().ok, "start exits 0")
    t.require(second.ended(), "the process ends")
    t.equal(links(second.stdout)["user"], link(first.pid, "user"), "user namespace given by path")
    t.equal(second.stdout.split()[-3:], ["0", "0", "4000"], "its uid_map, which is as the other made it")


@check("NS-008")
def join_time_namespace(t: T) -> None:
    if not knows(t, "time"):
        t.skip("no time namespaces in this kernel or runtime")
    config = t.config(SLEEPER)
    config["linux"]["timeOffsets"] = {"boottime": {"secs": 1000}}
    first = other_namespaces(t, ["time"], config)
    second = t.run(joining(t, f"{LINKS}; cat /proc/self/timens_offsets", time=f"/proc/{first.pid}/ns/time"))
    t.equal(links(second.stdout)["time"], link(first.pid, "time"), "time namespace given by path")
    t.true("1000" in second.stdout.split()[-6:], "its offsets, which are as the other made them", 1000, second.stdout)


@check("NS-009")
def join_mount_namespace(t: T) -> None:
    """One that was prepared for it: its root directory is that of the container."""
    holder = t.spawn([t.host.busybox, "unshare", "-m", t.host.busybox, "sleep", "1000"])
    t.require(t.wait(lambda: link(holder.pid, "mount") != link("self", "mount")), "a mount namespace to join")
    t.wait(lambda: "sleep" in Path(f"/proc/{holder.pid}/cmdline").read_text())
    found = links(t.run(joining(t, LINKS, mount=f"/proc/{holder.pid}/ns/mnt")).stdout)
    t.need_processes()
    t.equal(found["mount"], link(holder.pid, "mount"), "mount namespace given by path")


JOINABLE = ("pid", "network", "ipc", "uts", "cgroup")


def holder_of_namespaces(t: T) -> int:
    """A process with network, IPC and UTS namespaces of its own, to be joined."""
    holder = t.spawn([t.host.busybox, "unshare", "-n", "-i", "-u", t.host.busybox, "sleep", "1000"])
    t.require(t.wait(lambda: link(holder.pid, "uts") != link("self", "uts")), "namespaces to join")
    return holder.pid


def joining_all(t: T, holder: int, /, **other: object) -> Config:
    """A config with every namespace that can be joined without more ado given by path, some of them by another one."""
    paths = {type: f"/proc/{holder}/ns/{ALL_FILES[type]}" for type in JOINABLE if knows(t, type)}
    paths.update({type: str(path) for type, path in other.items()})
    return joining(t, SLEEPER, **paths)


@check("NS-003")
def path_of_other_type(t: T) -> None:
    pid = holder_of_namespaces(t)
    others = {"pid": "network", "network": "uts", "ipc": "network", "uts": "ipc", "cgroup": "uts"}
    others.update({"time": "uts", "user": "uts", "mount": "uts"})
    for type, other in others.items():
        if knows(t, type):
            config = joining_all(t, pid, **{type: f"/proc/{pid}/ns/{ALL_FILES[other]}"})
            t.refused(config, f"create with the path of another namespace as {type}", valid=joining_all(t, pid))


@check("NS-010")
def path_that_is_no_namespace(t: T) -> None:
    pid = holder_of_namespaces(t)
    (t.work / "file").touch()
    for what, type, path in (
        ("a regular file as uts namespace", "uts", t.work / "file"),
        ("a directory as ipc namespace", "ipc", Path("/proc")),
        ("a file that is missing as network namespace", "network", t.work / "none"),
        ("a regular file as pid namespace", "pid", t.work / "file"),
    ):
        t.refused(joining_all(t, pid, **{type: path}), f"create with {what}", valid=joining_all(t, pid))


@check("NS-011")
def relative_path(t: T) -> None:
    """It would name the namespace of the runtime's working directory."""
    pid = holder_of_namespaces(t)
    bundle = t.bundle(joining_all(t, pid, uts="ns/uts"))
    for place in (bundle.path, t.work):  # relative to whatever one may think of
        (place / "ns").symlink_to(f"/proc/{pid}/ns")
    t.refused(bundle, "create with a relative path as uts namespace", valid=joining_all(t, pid), cwd=t.work)


@check("NS-004")
def inherited_namespaces(t: T) -> None:
    types = ("network", "ipc", "uts", "pid", "cgroup", "user", "time")
    config = t.config(LINKS)
    del config["hostname"]  # would be the host's
    for type in types:
        drop_namespace(config, type)
    found = links(t.run(config).stdout)
    t.need_processes()
    for type in types:
        if Path(f"/proc/self/ns/{ALL_FILES[type]}").exists():
            t.equal(found[type], link("self", type), f"{type} namespace that is not listed")


@check("NS-012")
def inherited_mount_namespace(t: T) -> None:
    """In a mount namespace of the runtime's own, for what it mounts there reaches others else."""
    config = t.config(LINKS)
    drop_namespace(config, "mount")
    script = f"readlink /proc/self/ns/mnt >'{t.work}/runtime'; exec \"$@\""
    launch = [t.host.busybox, "unshare", "-m", *t.shell(script)]
    c = t.try_create(config, launch=launch)
    if not c.created.ok:
        t.skip(f"this runtime has no containers without a mount namespace: {c.created.words}")
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    found = links(c.stdout)
    t.need_processes()
    runtime = (t.work / "runtime").read_text().strip()
    t.equal(found["mount"], runtime, "mount namespace that is not listed")


@check("NS-005")
def duplicate_namespaces(t: T) -> None:
    types = [type for type in FILE if knows(t, type)]

    def config(*more: dict[str, str]) -> Config:
        made = t.config(SLEEPER)
        for type in types:
            set_namespace(made, type)
        made["linux"]["namespaces"] += more
        return made

    for type in types:
        t.refused(config({"type": type}), f"create with two {type} namespaces", valid=config())
    path = f"/proc/{holder_of_namespaces(t)}/ns/net"
    wrong = config({"type": "network", "path": path})
    t.refused(wrong, "create with a new network namespace and one by path", valid=config())
    if has_user_namespaces() and knows(t, "user"):
        wrong = with_user_namespace(t, SLEEPER)
        wrong["linux"]["namespaces"].append({"type": "user"})
        t.refused(wrong, "create with two user namespaces", valid=with_user_namespace(t, SLEEPER))


@check("NS-013")
def unknown_namespace(t: T) -> None:
    for what, type in (("unknown", "labkit"), ("empty", "")):
        config = t.config(SLEEPER)
        config["linux"]["namespaces"].append({"type": type})
        t.refused(config, f"create with a namespace of {what} type")


@check("NS-014")
def shared_namespaces(t: T) -> None:
    """What two containers see of each other: processes, host name, devices of the network."""
    config = t.config(SLEEPER)
    config["hostname"] = "lk-first"
    types = ["pid", "uts", "network"]
    first = other_namespaces(t, types, config)
    enter = ["nsenter", "-t", str(first.pid), "-n", t.host.busybox, "ip"]
    t.require(t.tool(*enter, "addr", "add", "10.99.1.2/32", "dev", "lo").ok, "an address can be given to lo")
    script = "tr '\\0' ' ' </proc/1/cmdline; echo; uname -n; kill -0 1 && echo signalled; ip addr show dev lo"
    paths = {type: f"/proc/{first.pid}/ns/{ALL_FILES[type]}" for type in types}
    config = joining(t, script, **paths)
    second = t.run(config)
    said = [*second.stdout.splitlines(), "", "", ""]
    t.equal(said[0].strip(), " ".join(SLEEPER), "process 1 in a shared pid namespace")
    t.equal(said[1], "lk-first", "host name in a shared uts namespace")
    t.equal(said[2], "signalled", "a signal to the other container's process")
    t.true("10.99.1.2/32" in second.stdout, "an address in a shared network namespace", "10.99.1.2/32", second.stdout)
    t.true(first.status() == "running", "the first container runs on", "running", first.status())


UIDS = [(0, 0, 1), (1, 100000, 999), (1000, 300000, 70)]  # root stays root: it owns the files
GIDS = [(0, 0, 2), (5, 200000, 500), (7000, 400000, 3)]


def extents(numbers: Iterable[tuple[int, int, int]]) -> list[dict[str, int]]:
    return [{"containerID": first, "hostID": host, "size": size} for first, host, size in numbers]


@check("USERNS-001")
def user_mappings(t: T) -> None:
    need_user_namespaces(t)
    t.need_processes()
    files = ["/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/status"]
    config = with_user_namespace(t, ["/bin/cat", *files], extents(UIDS), extents(GIDS))
    config["process"]["user"] = {"uid": 1001, "gid": 7002, "additionalGids": [6, 504]}
    text = t.run(config).stdout
    lines = [line.split() for line in text.splitlines()[:6]]
    expected = [[str(number) for number in extent] for extent in (*UIDS, *GIDS)]
    t.equal(lines, expected, "uid_map and gid_map")
    said = status(text)
    t.equal(said.get("Uid"), "1001 1001 1001 1001", "uid in the container")
    t.equal(said.get("Gid"), "7002 7002 7002 7002", "gid in the container")
    t.equal(set(said.get("Groups", "").split()) - {"7002"}, {"6", "504"}, "supplementary groups in the container")


@check("USERNS-003")
def no_mappings(t: T) -> None:
    """Nobody is in a user namespace without mappings; a runtime that thinks some up has to give the ids asked for."""
    need_user_namespaces(t)
    config = t.config(f"cat /proc/self/status; {LINKS}")
    set_namespace(config, "user")
    c = t.try_create(config)
    last = c.start() if c.created.ok else c.created
    if not last.ok:
        t.fails(last, "create with a user namespace and no mappings", valid=with_user_namespace(t, SLEEPER))
        return
    t.require(c.ended(), "the process ends")
    what = "uid and gid in a user namespace without mappings: an error, or as configured"
    said = status(c.stdout)
    t.equal((said.get("Uid"), said.get("Gid")), ("0 0 0 0", "0 0 0 0"), what)
    t.true(
        links(c.stdout)["user"] != link("self", "user"), "user namespace without mappings", "a new one", "the runtime's"
    )


@check("USERNS-004")
def bad_mappings(t: T) -> None:
    need_user_namespaces(t)
    for what, name, bad in (
        ("gidMappings of size 0", "gidMappings", [(0, 0, 1000), (2000, 2000, 0)]),
        ("uidMappings that overlap in the container", "uidMappings", [(0, 0, 1000), (999, 5000, 10)]),
        ("gidMappings that overlap on the host", "gidMappings", [(0, 0, 1000), (5000, 999, 10)]),
    ):
        config = with_user_namespace(t, SLEEPER)
        config["linux"][name] = extents(bad)
        t.refused(config, f"create with {what}", valid=with_user_namespace(t, SLEEPER))


def with_personality(t: T, domain: Any, args: Any = "true", **more: Any) -> Config:
    t.need_spec((1, 0, 2), "linux.personality")
    config = t.config(args)
    config["linux"]["personality"] = {"domain": domain, **more}
    return config


@check("PERS-001")
def personality(t: T) -> None:
    machine = os.uname().machine
    compat = {"x86_64": ("i686",), "aarch64": ("armv8l", "armv7l"), "ppc64le": ("ppcle",), "s390x": ("s390",)}
    if machine not in compat:
        t.skip(f"the machine name under LINUX32 is not known for {machine}")

    def run(domain: str) -> tuple[str, str]:
        config = with_personality(t, domain, "uname -m; cat /proc/self/personality")
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


def under_linux32(t: T) -> list[str]:
    """Words before a command line that run it under LINUX32, none where nothing here does that."""
    setarch = find_program("setarch")
    for words in ([t.host.busybox, "linux32"], *([[setarch, "linux32"]] if setarch else [])):
        if t.command(*words, t.host.busybox, "true").ok:
            return words
    return []


def machine_under_linux32(t: T) -> str:
    """The machine's name under LINUX32, tried on the host without the runtime; empty where that cannot be tried."""
    words = under_linux32(t)
    return t.command(*words, t.host.busybox, "uname", "-m").stdout.strip() if words else ""


@check("PERS-002")
def personality_of_the_caller(t: T) -> None:
    config = with_personality(t, "LINUX", ["/bin/cat", "/proc/self/personality"])
    words = under_linux32(t)
    if not words:
        t.skip("nothing here can start a program under LINUX32")
    found = t.run(config, launch=words).stdout.strip()
    if not found:
        t.skip("the container's /proc does not tell a personality")
    t.equal(found, "00000000", "personality of the process for LINUX, the caller's LINUX32")


@check("PERS-003")
def unknown_personality(t: T) -> None:
    valid = with_personality(t, "LINUX")
    for what, domain in (("unknown", "LINUX64"), ("lower-case", "linux32")):
        config = with_personality(t, domain)
        t.refused(config, f"create or start with a personality of {what} domain", by_start=True, valid=valid)


@check("PERS-004")
def personality_flags(t: T) -> None:
    config = with_personality(t, "LINUX", flags=["ADDR_NO_RANDOMIZE"])
    what = "create or start with a flag for the personality, none of which is supported"
    t.refused(config, what, by_start=True, valid=with_personality(t, "LINUX"))


def need_time_namespaces(t: T) -> None:
    t.need_spec((1, 1, 0), "linux.timeOffsets")
    if not Path("/proc/self/ns/time").exists():
        t.skip("no time namespaces in this kernel")


def with_offsets(t: T, args: Any, offsets: Any) -> Config:
    config = t.config(args)
    config["linux"]["timeOffsets"] = offsets
    set_namespace(config, "time")
    return config


def shifted(t: T, offsets: Any) -> tuple[list[tuple[str, ...]], float, float, float]:
    """timens_offsets of a process, its uptime, and the host's before and after it."""
    need_time_namespaces(t)
    before = uptime(Path("/proc/uptime").read_text())
    c = t.try_create(with_offsets(t, ["/bin/cat", "/proc/self/timens_offsets", "/proc/uptime"], offsets))
    if not c.created.ok and not listed(t, "time"):  # crun has them without listing them
        t.skip("no time namespaces in this runtime")
    t.require(c.created.ok, "create exits 0", 0, c.created.describe())
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    *lines, inside = c.stdout.splitlines() or [""]
    found = sorted(tuple(line.split()) for line in lines)
    return found, uptime(inside), before, uptime(Path("/proc/uptime").read_text())


@check("TIMENS-001")
def time_offsets(t: T) -> None:
    offsets = {"monotonic": {"secs": 172800, "nanosecs": 5}, "boottime": {"secs": 604800}}
    found, inside, before, after = shifted(t, offsets)
    if found:
        wanted = [("boottime", "604800", "0"), ("monotonic", "172800", "5")]
        t.equal(found, wanted, "timens_offsets of the process")
    # /proc/uptime shows CLOCK_BOOTTIME in hundredths of a second, cut off.
    fits = before - 1 <= inside - 604800 <= after + 1
    t.true(fits, "boottime less its offset", f"{before} to {after}", inside - 604800)


@check("TIMENS-002")
def other_offsets(t: T) -> None:
    """Before zero, and less than a second; one clock alone."""
    found, *_ = shifted(t, {"boottime": {"secs": -1, "nanosecs": 999999999}})
    if not found:
        t.skip("the container's /proc does not tell the offsets")
    t.equal(found, [("boottime", "-1", "999999999"), ("monotonic", "0", "0")], "timens_offsets, one of them negative")
    found, *_ = shifted(t, {"monotonic": {"nanosecs": 250000000}})
    wanted = [("boottime", "0", "0"), ("monotonic", "0", "250000000")]
    t.equal(found, wanted, "timens_offsets, nanoseconds alone")


@check("TIMENS-003")
def bad_offsets(t: T) -> None:
    need_time_namespaces(t)
    valid = with_offsets(t, SLEEPER, {"boottime": {"secs": 10}})
    for what, offsets in (
        ("a whole second of nanoseconds", {"boottime": {"secs": 10, "nanosecs": 1000000000}}),
        ("an offset to a time before the boot", {"boottime": {"secs": -(1 << 40)}}),
    ):
        t.refused(with_offsets(t, SLEEPER, offsets), f"create with timeOffsets of {what}", valid=valid)


@check("TIMENS-005")
def unknown_clock(t: T) -> None:
    """An error as for a value, or ignored as an unknown property; the clocks beside it are set."""
    need_time_namespaces(t)
    valid = with_offsets(t, SLEEPER, {"boottime": {"secs": 10}})
    offsets = {"realtime": {"secs": 7777}, "boottime": {"secs": 10}}
    c = t.try_create(with_offsets(t, ["/bin/cat", "/proc/self/timens_offsets"], offsets))
    last = c.start() if c.created.ok else c.created
    if not last.ok:
        t.fails(last, "create or start with timeOffsets of an unknown clock", valid=valid)
        return
    t.require(c.ended(), "the process ends")
    found = sorted(tuple(line.split()) for line in c.stdout.splitlines())
    if not found:
        t.skip("the container's /proc does not tell the offsets")
    wanted = [("boottime", "10", "0"), ("monotonic", "0", "0")]
    t.equal(found, wanted, "timens_offsets beside an unknown clock")


@check("TIMENS-004")
def offsets_of_the_runtime(t: T) -> None:
    """The offsets of a time namespace that is not made for the container cannot be set any more."""
    need_time_namespaces(t)
    if not listed(t, "time") and not t.try_create(with_offsets(t, SLEEPER, {})).created.ok:
        t.skip("no time namespaces in this runtime")
    config = with_offsets(t, SLEEPER, {"boottime": {"secs": 10}})
    valid = with_offsets(t, SLEEPER, {"boottime": {"secs": 10}})
    drop_namespace(config, "time")
    t.refused(config, "create with timeOffsets and no time namespace", valid=valid)


def uptime(text: str) -> float:
    words = text.split()
    return float(words[0]) if words else 0.0

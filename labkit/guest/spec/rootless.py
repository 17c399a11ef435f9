"""Without root: the step to a user, a user namespace that the suite makes, and what can never be shown in one."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from ..common.claims import answer
from ..common.errors import UsageError
from ..common.executables import find_program

ENTER = """n=0
until [ "$($0 id -u)" = 0 ]; do
    n=$((n + 1))
    [ $n -lt 200 ] || { echo "labkit-spec: no user ids could be mapped" >&2; exit 2; }
    $0 usleep 20000
done
exec "$@"
"""


def become_root(busybox: str, again: Sequence[str], user: Optional[pwd.struct_passwd] = None) -> None:
    """Start again, as this argv, as root of a new user namespace, with all ids that this user may have there; root
    becomes user first, and then maps these ids itself: that takes no newuidmap.

    Raises UsageError where there can be none. A process beside this one writes the mappings, and ends.
    """
    pid, before = os.getpid(), str(Path("/proc/self/ns/user").readlink())
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            with suppress(OSError):
                _wait_for_other(pid, before)
                if user:
                    _map_as_root(pid, user)
                else:
                    _map(pid)
        os._exit(0)
    os.waitpid(child, 0)
    if user:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    if answer([busybox, "unshare", "-U", busybox, "echo", "done"]) != "done\n":
        who = f"user {user.pw_name}" if user else "this user"
        raise UsageError(f"must run as root (sudo): {who} can have no user namespace here")
    os.execv(busybox, [busybox, "unshare", "-U", busybox, "sh", "-c", ENTER, busybox, *again])


def _wait_for_other(pid: int, before: str) -> None:
    """Until the process is in a user namespace of its own."""
    deadline = time.monotonic() + 10
    while str(Path(f"/proc/{pid}/ns/user").readlink()) == before and time.monotonic() < deadline:
        time.sleep(0.005)


def _map(pid: int) -> None:
    for tool, file, own in (("newgidmap", "/etc/subgid", os.getgid()), ("newuidmap", "/etc/subuid", os.getuid())):
        words = ["0", str(own), "1", *_more(file, os.getuid())]
        program = find_program(tool) if len(words) > 3 else None
        if program and answer([program, str(pid), *words]) == "" and _mapped(pid, tool[3:6]):
            continue
        if tool == "newgidmap":
            Path(f"/proc/{pid}/setgroups").write_text("deny")
        Path(f"/proc/{pid}/{tool[3:6]}_map").write_text(f"0 {own} 1\n")


def _map_as_root(pid: int, user: pwd.struct_passwd) -> None:
    for kind, own in (("gid", user.pw_gid), ("uid", user.pw_uid)):
        lines = [f"0 {own} 1", " ".join(_more(f"/etc/sub{kind}", user.pw_uid))]
        file = Path(f"/proc/{pid}/{kind}_map")
        try:
            file.write_text("\n".join(filter(None, lines)))
        except OSError:  # a range that cannot be: one id, then
            if kind == "gid":
                Path(f"/proc/{pid}/setgroups").write_text("deny")
            file.write_text(lines[0])


def _mapped(pid: int, kind: str) -> bool:
    return Path(f"/proc/{pid}/{kind}_map").read_text() != ""


def _more(file: str, uid: int) -> list[str]:
    """The further ids of this user, for newuidmap: subuid(5)."""
    names = {str(uid)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            owner, _, numbers = line.partition(":")
            first, _, count = numbers.partition(":")
            if owner in names and first.isdigit() and count.isdigit():
                return ["1", first, count]
    return []


def extents(kind: str) -> list[tuple[int, int]]:
    """The ids ("uid" or "gid") that there are in this user namespace: first of them, and how many."""
    rows = (line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines())
    return [(int(first), int(count)) for first, _, count in rows]


def impossible(config: Mapping[str, Any], delegated: bool) -> str:
    """Why no runtime could do this in our user namespace, "" where one could. delegated: cgroups can be made."""
    try:
        return _impossible(config, delegated)
    except (AttributeError, KeyError, TypeError):  # one that is wrong on purpose
        return ""


def _impossible(config: Mapping[str, Any], delegated: bool) -> str:
    linux, process = config.get("linux") or {}, config.get("process") or {}
    user = process.get("user") or {}
    groups = user.get("additionalGids") or []
    if not (_there("uid", [user.get("uid", 0)]) and _there("gid", [user.get("gid", 0), *groups])):
        return "not all ids of this container's process are mapped in the user namespace of the suite"
    if groups and Path("/proc/self/setgroups").read_text().strip() == "deny":
        return "supplementary groups cannot be set in the user namespace of the suite"
    for kind in ("uid", "gid"):
        for holder in (linux, *(config.get("mounts") or [])):
            for entry in holder.get(f"{kind}Mappings") or []:
                first, end = entry["hostID"], entry["hostID"] + entry["size"]  # the kernel wants it all in one extent
                if not any(start <= first and end <= start + count for start, count in extents(kind)):
                    return "not all ids of this container's user namespace are mapped in that of the suite"
    for mount in config.get("mounts") or []:
        for option in mount.get("options") or []:
            kind, equals, number = option.partition("=")
            if equals and kind in ("uid", "gid") and number.isdigit() and not _there(kind, [int(number)]):
                return "not all ids of this container's mounts are mapped in the user namespace of the suite"
    scheduler = process.get("scheduler") or {}
    nice, inherited = scheduler.get("nice", 0), os.getpriority(os.PRIO_PROCESS, 0)
    if scheduler.get("policy") in ("SCHED_OTHER", "SCHED_BATCH") and -20 <= nice < inherited:
        return "no nice value below the inherited one can be set in a user namespace"
    if linux.get("devices"):
        return "no device node can be made in a user namespace"
    if linux.get("resources") and not delegated:
        return "no cgroup is delegated to this user, so there are no resources to limit"
    return ""


def _there(kind: str, numbers: Iterable[int]) -> bool:
    have = extents(kind)
    return all(any(first <= number < first + count for first, count in have) for number in numbers)

"""Devices: those that are there by default, those that are configured, all others.

config-linux.md#configLinuxDevices, #configLinuxDefaultDevices, runtime-linux.md#runtimeLinuxDevSymbolicLinks.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from ...common.procfs import mount_at
from ..context import Bundle, Config, T
from ..parts import Part, part
from ..registry import check
from .mounts import MOUNTINFO

DEFAULT_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_FORMAT = "-c '%n|%F|%t|%T|%a|%u|%g'"
STAT = f"stat -L {_FORMAT}"  # a runtime may supply devices as symbolic links
LSTAT = f"stat {_FORMAT}"
TYPES = {"c": "character special file", "u": "character special file", "b": "block special file", "p": "fifo"}
NO_NODES = "no device node can be made in a user namespace"


def nodes(text: str) -> dict[str, dict[str, Any]]:
    """What STAT or LSTAT printed, by path."""
    lines = [line.split("|") for line in text.splitlines() if line.count("|") == 6]
    return {
        path: {"type": type, "major": int(major, 16), "minor": int(minor, 16), "mode": mode, "owner": f"{uid}:{gid}"}
        for path, type, major, minor, mode, uid, gid in lines
    }


def numbers(node: Optional[dict[str, Any]]) -> Any:
    """(type, major, minor) of a device, the type of anything else."""
    if node is None:
        return "nothing"
    return (node["type"], node["major"], node["minor"]) if "special" in node["type"] else node["type"]


@part("root", "DEFDEV-001")
def default_devices(t: T, bundle: Bundle) -> Part:
    paths = " ".join(f"/dev/{name}" for name in DEFAULT_DEVICES)
    seen = yield (
        f"{STAT} {paths}; od -An -tx1 -N3 /dev/zero; for d in null random urandom; do (: <>/dev/$d) && echo $d; done; "
        "echo gone >/dev/null && echo written; cat /dev/null; head -c 4 /dev/urandom | wc -c; echo full >/dev/full"
    )
    found = nodes(seen.stdout)
    for name, pair in DEFAULT_DEVICES.items():
        t.equal(numbers(found.get(f"/dev/{name}")), (TYPES["c"], *pair), f"/dev/{name}")
    lines = [line.strip() for line in seen.stdout.splitlines() if "|" not in line]
    t.equal(lines, ["00 00 00", "null", "random", "urandom", "written", "4"], "what the default devices do")
    t.true("No space left" in seen.stderr, "write to /dev/full", "No space left on device", seen.stderr)


@part("root", "DEFDEV-004")
def default_modes(t: T, bundle: Bundle) -> Part:
    if t.host.in_user_namespace:
        t.skip("in a user namespace the default devices are the host's")
    paths = " ".join(f"/dev/{name}" for name in DEFAULT_DEVICES)
    seen = yield f"{STAT} {paths}"
    found = nodes(seen.stdout)
    for name in DEFAULT_DEVICES:
        node = found.get(f"/dev/{name}", {})
        t.equal(node.get("mode"), "666", f"mode of /dev/{name}")
        owner, _, group = node.get("owner", "").partition(":")
        t.equal(owner, "0", f"owner of /dev/{name}")
        t.true(group == "0" or (name, group) == ("tty", "5"), f"group of /dev/{name}", "0", group)


@part("user", "DEFDEV-005")
def default_devices_for_users(t: T, bundle: Bundle) -> Part:
    seen = yield (
        "for d in null zero full random urandom; do (: </dev/$d) && echo read $d; (: >/dev/$d) && echo write $d; done; "
        "(: <>/dev/ptmx) && echo new terminal"
    )
    expected = [f"{how} {name}" for name in ("null", "zero", "full", "random", "urandom") for how in ("read", "write")]
    *lines, last = seen.stdout.splitlines() or [""]
    t.equal(lines, expected, "default devices that an ordinary user can open")
    t.equal(last, "new terminal", "/dev/ptmx with ptmxmode=0666, opened by an ordinary user")


@part("root", "DEFDEV-002")
def ptmx(t: T, bundle: Bundle) -> Part:
    seen = yield (
        f"{LSTAT} /dev/ptmx /dev/pts/ptmx; stat -c '%d %i' /dev/ptmx /dev/pts/ptmx; readlink /dev/ptmx; "
        "echo; exec 3<>/dev/ptmx && echo /dev/pts/[0-9]*"
    )
    lines = seen.stdout.splitlines()
    found = nodes(seen.stdout).get("/dev/ptmx")
    inodes = [line for line in lines if line.replace(" ", "").isdigit()]
    if found and found["type"] == "symbolic link":
        links = [line for line in lines if line.endswith("ptmx") and "|" not in line]
        t.equal(
            [str(Path("/dev") / link) for link in links], ["/dev/pts/ptmx"], "target of the symbolic link /dev/ptmx"
        )
    else:
        t.equal(numbers(found), (TYPES["c"], 5, 2), "/dev/ptmx")
        t.true(len(inodes) == 2 and inodes[0] == inodes[1], "/dev/ptmx is the file /dev/pts/ptmx of the container")
    t.equal(lines[-1:], ["/dev/pts/0"], "new terminals after /dev/ptmx was opened")


@check("DEFDEV-003")
def console(t: T) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(20)
    path = t.work / "tty"
    listener.bind(str(path))
    listener.listen()
    config = t.config(
        f"{{ {STAT} /dev/console; {MOUNTINFO}; }} >/out/seen; tty </dev/console; echo to-console >/dev/console; "
        "echo to-stdout; read line"
    )
    config["process"]["terminal"] = True
    c = t.create(config, options=["--console-socket", str(path)])
    connection = listener.accept()[0]
    connection.settimeout(20)
    descriptors = socket.recv_fds(connection, 4096, 1)[1]
    t.require(len(descriptors) == 1, "the console socket gets the terminal", 1, len(descriptors))
    t.require(c.start().ok, "start exits 0")
    seen = b""

    def read() -> bool:
        nonlocal seen
        try:
            while select.select(descriptors, [], [], 0)[0]:
                piece = os.read(descriptors[0], 4096)
                if not piece:  # no terminal
                    return True
                seen += piece
        except OSError:  # EIO: the other side was closed
            return True
        return b"to-stdout" in seen

    t.wait(read, 20)
    lines = seen.decode(errors="replace").split()
    t.true("to-console" in lines and "to-stdout" in lines, "/dev/console and stdout reach the caller", True, lines)
    inside = c.bundle.read("seen") or ""
    node = nodes(inside).get("/dev/console", {})
    terminal = node.get("type") == TYPES["c"] and 136 <= node["major"] <= 143
    t.true(terminal, "/dev/console", "a pseudoterminal", node or "nothing")
    mounted = mount_at(inside, "/dev/console")
    t.equal(mounted and mounted.type, "devpts", "type of the mount at /dev/console")
    os.close(descriptors[0])


@part("root", "SYML-001")
def dev_links(t: T, bundle: Bundle) -> Part:
    links = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
    seen = yield f"for l in {' '.join(links)}; do echo $l $(readlink /dev/$l); done; echo through >>/dev/stdout"
    lines = seen.stdout.splitlines()
    targets = dict(line.split(" ", 1) for line in lines[:4] if " " in line)
    for name, target in links.items():
        t.equal(targets.get(name), f"/proc/self/fd{target}", f"symbolic link /dev/{name}")
    t.equal(lines[4:], ["through"], "what is written to /dev/stdout")


@part("root", "DEV-001")
def devices(t: T, bundle: Bundle) -> Part:
    if t.host.in_user_namespace:
        t.skip(NO_NODES)
    owner = {"fileMode": 0o640, "uid": 1000, "gid": 1001}
    wanted: list[dict[str, Any]] = [
        {"path": "/dev/lk-char", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 5},
        {"path": "/dev/lk-block", "type": "b", "major": 7, "minor": 3, **owner},
        {"path": "/dev/lk-fifo", "type": "p", "fileMode": 0o622, "uid": 7, "gid": 8},
        {"path": "/dev/lk-unbuffered", "type": "u", "major": 10, "minor": 237, **owner},
        {"path": f"/lk-{t.id}/char", "type": "c", "major": 1, "minor": 11, "fileMode": 0o604, "uid": 2, "gid": 3},
        {"path": f"/lk-{t.id}/block", "type": "b", "major": 7, "minor": 300, "fileMode": 0o777, "uid": 70000, "gid": 0},
        {"path": "/dev/lk/deep/locked", "type": "c", "major": 261, "minor": 4, "fileMode": 0, "uid": 0, "gid": 70000},
        {"path": f"/lk-{t.id}/plain", "type": "c", "major": 1, "minor": 5},
        {"path": f"/lk-{t.id}/pipe", "type": "p", "fileMode": 0o600},
    ]
    bundle.config["linux"].setdefault("devices", []).extend(wanted)
    seen = yield f"{STAT} {' '.join(device['path'] for device in wanted)}"
    found = nodes(seen.stdout)
    for device in wanted:
        path = device["path"]
        expected = TYPES[device["type"]]
        pair = () if device["type"] == "p" else (device["major"], device["minor"])
        name = path.replace(f"/lk-{t.id}", "/opt")
        t.equal(numbers(found.get(path)), (expected, *pair) if pair else expected, f"device {name}")
        node = found.get(path)
        if node and "fileMode" in device:
            t.equal(node["mode"], f"{device['fileMode']:o}", f"mode of the device {name}")
        if node and "uid" in device:
            t.equal(node["owner"], f"{device['uid']}:{device['gid']}", f"owner of the device {name}")


@part("slave", "DEV-009")  # in a container where no check looks at default devices
def default_device_with_a_mode(t: T, bundle: Bundle) -> Part:
    if t.host.in_user_namespace:
        t.skip(NO_NODES)
    device = {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8}
    bundle.config["linux"].setdefault("devices", []).append(device)
    seen = yield f"{STAT} /dev/zero"
    found = nodes(seen.stdout).get("/dev/zero", {})
    t.equal(numbers(found or None), (TYPES["c"], 1, 5), "/dev/zero that is configured")
    t.equal(found.get("mode"), "640", "mode of a default device that is configured")
    t.equal(found.get("owner"), "7:8", "owner of a default device that is configured")


def with_devices(t: T, *devices: dict[str, Any]) -> Config:
    config = t.config()
    config["linux"]["devices"] = list(devices)
    return config


NODE = {"path": "/dev/lk", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}


def without(*keys: str, **changes: Any) -> dict[str, Any]:
    return {**{key: value for key, value in NODE.items() if key not in keys}, **changes}


@check("DEV-002")
def device_in_the_way(t: T) -> None:
    device = without(path="/opt/lk")
    bundle, valid = (t.bundle(with_devices(t, device)) for _ in range(2))
    for one in (bundle, valid):
        (one.rootfs / "opt").mkdir()
    (bundle.rootfs / "opt/lk").write_text("regular file")
    c = t.refused(bundle, "create with a regular file at the path of a device", valid=valid)
    if c.created.ok:
        t.note("at the path", "a regular file" if (bundle.rootfs / "opt/lk").is_file() else "another file")


@check("DEV-007")
def other_device_in_the_way(t: T) -> None:
    if t.host.in_user_namespace:
        t.skip(NO_NODES)
    device = without(path="/opt/lk")
    ways = {
        "another device": (stat.S_IFCHR, 10, 230),
        "a block device": (stat.S_IFBLK, 10, 229),
        "a fifo": (stat.S_IFIFO, 0, 0),
    }
    valid = t.bundle(with_devices(t, device))
    (valid.rootfs / "opt").mkdir()
    for name, (type, major, minor) in ways.items():
        bundle = t.bundle(with_devices(t, device))
        (bundle.rootfs / "opt").mkdir()
        os.mknod(bundle.rootfs / "opt/lk", type | 0o666, os.makedev(major, minor))
        t.refused(bundle, f"create with {name} at the path of a device", valid=valid)


@part("root", "DEV-008")
def the_device_is_there(t: T, bundle: Bundle) -> Part:
    if t.host.in_user_namespace:
        t.skip(NO_NODES)
    directory = bundle.rootfs / f"lk-{t.id}"
    directory.mkdir()
    device = without(path=f"/lk-{t.id}/there", fileMode=0o644)
    os.mknod(directory / "there", stat.S_IFCHR | 0o644, os.makedev(10, 229))
    bundle.config["linux"].setdefault("devices", []).append(device)
    seen = yield f"{STAT} /lk-{t.id}/there"
    found = nodes(seen.stdout).get(device["path"])
    t.equal(numbers(found), (TYPES["c"], 10, 229), "a device that is in the root filesystem already")


@check("DEV-003")
def device_without_numbers(t: T) -> None:
    for type, missing in (("c", "major"), ("c", "minor"), ("b", "minor"), ("u", "major")):
        valid, offending = with_devices(t, without(type=type)), with_devices(t, without(missing, type=type))
        t.refused(offending, f"create with a device of type {type} without {missing}", valid=valid)


@check("DEV-004")
def device_of_unknown_type(t: T) -> None:
    valid = with_devices(t, NODE)
    for type, name in (("x", "an unknown type"), ("a", "type a"), ("", "an empty type")):
        t.refused(with_devices(t, without(type=type)), f"create with a device of {name}", valid=valid)
    t.refused(with_devices(t, without("type")), "create with a device without a type", valid=valid)


@check("DEV-005")
def device_with_relative_path(t: T) -> None:
    valid = with_devices(t, NODE)
    for path, name in (("dev/lk", "a relative path"), ("", "an empty path")):
        t.refused(with_devices(t, without(path=path)), f"create with a device with {name}", valid=valid)
    t.refused(with_devices(t, without("path")), "create with a device without a path", valid=valid)


UNLISTED = {
    "fuse": (10, 229),
    "net/tun": (10, 200),
    "loop-control": (10, 237),
    "kmsg": (1, 11),
    "hwrng": (10, 183),
    "cpu_dma_latency": (10, 124),
    "tty0": (4, 0),
}


def openable(t: T) -> Iterator[str]:
    """The devices that this host lets us open, so that only the runtime can keep a container from them."""
    for name, (major, minor) in UNLISTED.items():
        path = t.work / f"{major}-{minor}"
        with suppress(OSError):
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
            yield name


@part("root", "DEV-006")
def unlisted_devices(t: T, bundle: Bundle) -> Part:
    if t.spec < (1, 1, 0):
        t.skip("access to other devices is a matter of runtime-spec 1.1.0")
    names = list(openable(t))
    if not names:
        t.skip("this host has no device that could be opened")
    top = f"/lk-{t.id}"
    tries = []
    for name in names:
        major, minor = UNLISTED[name]
        path = f"{top}/{major}-{minor}"
        tries.append(f"mknod {path} c {major} {minor}; (: >>{path}) && echo opened {name}")
    seen = yield "\n".join([f"mkdir {top}", *tries, "(: >>/dev/null) && echo control"])
    lines = seen.stdout.splitlines()
    # "Containers MAY NOT access any device node" leaves it to the runtime whether they can.
    t.note("can be opened", [name for name in names if f"opened {name}" in lines])
    t.true("control" in lines, "a default device can be opened")

"""What the container finds in its file system: default file systems and devices, devices, masked and readonly paths.

A created container's files are looked at from outside, through /proc/PID/root: every property except process is
applied by create (runtime.md#create), and nothing has to be run.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from pathlib import Path
from typing import Any, Optional

from ...common.procfs import mount_at
from ..context import SLEEPER, Container, T
from ..registry import check

DEFAULT_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
TYPES = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p", stat.S_IFLNK: "symlink", stat.S_IFREG: "file"}


def outside(c: Container, path: str) -> Path:
    """A path of the container, for the host. Absolute symbolic links would lead astray: lstat only."""
    return Path(f"/proc/{c.pid}/root{path}")


def mountinfo(c: Container) -> str:
    return Path(f"/proc/{c.pid}/mountinfo").read_text()


def node(path: Path) -> Optional[tuple[Any, ...]]:
    """(type, major, minor) of a device, (type,) of anything else, None when there is nothing."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    type = TYPES.get(stat.S_IFMT(found.st_mode), "other")
    return (type, os.major(found.st_rdev), os.minor(found.st_rdev)) if type in "cb" else (type,)


@check("DEFFS-001")
def default_filesystems(t: T) -> None:
    expected = {"/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs"}
    config = t.config(SLEEPER)
    config["linux"]["namespaces"].append({"type": "network"})  # sysfs belongs to one
    config["mounts"] += [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "mode=1777"]},
    ]
    found = mountinfo(t.create(config))
    mounted = {path: mount_at(found, path) for path in expected}
    types = {path: mount.type if mount else None for path, mount in mounted.items()}
    t.equal(types, expected, "types of the file systems that every caller lists")
    config = t.config(SLEEPER)
    config["mounts"] = []
    bare = t.try_create(config)
    if bare.created.ok:  # SHOULD; runc and crun leave it to the caller
        found = mountinfo(bare)
        t.note("there without being listed", [path for path in expected if mount_at(found, path)])


@check("DEFDEV-001")
def default_devices(t: T) -> None:
    c = t.create("od -An -tx1 -N3 /dev/zero; for d in null random urandom; do (: <>/dev/$d) && echo $d; done; "
                 "echo gone >/dev/null && echo written; echo full >/dev/full")  # fmt: skip
    for name, numbers in DEFAULT_DEVICES.items():
        t.equal(node(outside(c, f"/dev/{name}")), ("c", *numbers), f"/dev/{name}")
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    lines = c.stdout.split("\n")
    t.equal([line.strip() for line in lines], ["00 00 00", "null", "random", "urandom", "written", ""], "devices used")
    t.true("No space left" in c.stderr, "write to /dev/full", "No space left on device", c.stderr)


@check("DEFDEV-002")
def ptmx(t: T) -> None:
    c = t.create("exec 3<>/dev/ptmx && echo /dev/pts/[0-9]*")
    path = outside(c, "/dev/ptmx")
    found = node(path)
    if found == ("symlink",):
        target = str(Path("/dev") / path.readlink())
        t.equal(target, "/dev/pts/ptmx", "target of the symbolic link /dev/ptmx")
    else:
        t.equal(found, ("c", 5, 2), "/dev/ptmx")
        same = found and os.path.samestat(path.lstat(), outside(c, "/dev/pts/ptmx").lstat())
        t.true(same, "/dev/ptmx is the file /dev/pts/ptmx of the container")
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    t.equal(c.stdout, "/dev/pts/0\n", "new terminals after /dev/ptmx was opened")


@check("DEFDEV-003")
def console(t: T) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(20)
    path = t.work / "tty"
    listener.bind(str(path))
    listener.listen()
    config = t.config("tty </dev/console; echo to-console >/dev/console; echo to-stdout; read line")
    config["process"]["terminal"] = True
    c = t.create(config, options=["--console-socket", str(path)])
    connection = listener.accept()[0]
    connection.settimeout(20)
    descriptors = socket.recv_fds(connection, 4096, 1)[1]
    t.require(len(descriptors) == 1, "the console socket gets the terminal", 1, len(descriptors))
    found = node(outside(c, "/dev/console"))
    t.true(found and found[0] == "c" and 136 <= found[1] <= 143, "/dev/console", "a pseudoterminal", found)
    mounted = mount_at(mountinfo(c), "/dev/console")
    t.equal(mounted and mounted.type, "devpts", "type of the mount at /dev/console")
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
    os.close(descriptors[0])


@check("SYML-001")
def dev_links(t: T) -> None:
    c = t.create(SLEEPER)
    for name, target in ("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"):
        path = outside(c, f"/dev/{name}")
        found = str(path.readlink()) if path.is_symlink() else node(path)
        t.equal(found, f"/proc/self/fd{target}", f"symbolic link /dev/{name}")


@check("DEV-001")
def devices(t: T) -> None:
    owner = {"fileMode": 0o640, "uid": 1000, "gid": 1001}
    wanted = [
        {"path": "/dev/lk-char", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 5},
        {"path": "/dev/lk-block", "type": "b", "major": 7, "minor": 3, **owner},
        {"path": "/dev/lk-fifo", "type": "p", "fileMode": 0o622, "uid": 7, "gid": 8},
        {"path": "/dev/lk-unbuffered", "type": "u", "major": 10, "minor": 237, **owner},
        {"path": "/opt/lk/char", "type": "c", "major": 1, "minor": 11, "fileMode": 0o604, "uid": 2, "gid": 3},
    ]
    config = t.config(SLEEPER)
    config["linux"]["devices"] = wanted
    before = os.umask(0o077)  # must not leak into fileMode
    try:
        c = t.create(t.bundle(config))
    finally:
        os.umask(before)
    for device in wanted:
        path = outside(c, str(device["path"]))
        type = "c" if device["type"] == "u" else device["type"]
        expected = (type,) if type == "p" else (type, device["major"], device["minor"])
        t.equal(node(path), expected, str(device["path"]))
        if node(path) is not None:
            is_ = path.lstat()
            found = (stat.S_IMODE(is_.st_mode), is_.st_uid, is_.st_gid)
            t.equal(found, (device["fileMode"], device["uid"], device["gid"]), f"mode, uid, gid of {device['path']}")


@check("DEV-002")
def device_in_the_way(t: T) -> None:
    config = t.config(SLEEPER)
    config["linux"]["devices"] = [{"path": "/opt/lk", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]
    bundle = t.bundle(config)
    (bundle.rootfs / "opt").mkdir()
    (bundle.rootfs / "opt/lk").write_text("regular file")
    c = t.refused(bundle, "create with a regular file at the path of a device")
    if c.created.ok:
        t.note("at the path", node(outside(c, "/opt/lk")))


@check("MASK-001")
def masked_paths(t: T) -> None:
    config = t.config(
        "cat /opt/file; echo; cat /opt/directory/inner; echo /opt/directory/* /opt/directory/.[!.]*; cat /opt/control; "
        "(: >/opt/directory/new) && echo writable"
    )
    config["linux"]["maskedPaths"] = ["/opt/file", "/opt/directory", "/opt/missing", "/missing/too"]
    bundle = t.bundle(config)
    directory = bundle.rootfs / "opt/directory"
    directory.mkdir(parents=True)
    for path in (bundle.rootfs / "opt/file", directory / "inner", directory / ".hidden"):
        path.write_text("secret")
    (bundle.rootfs / "opt/control").write_text("not masked\n")
    c = t.run(bundle)
    *lines, _ = [*c.stdout.split("\n"), ""]
    t.equal(lines[:3], ["", "/opt/directory/* /opt/directory/.[!.]*", "not masked"], "what could be read")
    t.true("secret" not in c.stdout, "masked contents cannot be read", "nothing", c.stdout)
    t.note("masked directory is writable", "writable" in lines)
    config = t.config(SLEEPER)
    config["linux"]["maskedPaths"] = ["opt/file"]
    t.note("create with a relative masked path", t.try_create(config).created.describe())


@check("ROPATH-001")
def readonly_paths(t: T) -> None:
    config = t.config(SLEEPER)
    config["mounts"].append({"destination": "/opt/directory/mount", "type": "tmpfs", "source": "tmpfs"})
    config["linux"]["readonlyPaths"] = ["/opt/file", "/opt/directory", "/opt/missing"]
    bundle = t.bundle(config)
    (bundle.rootfs / "opt/directory/mount").mkdir(parents=True)
    for name in ("file", "directory/inner", "control"):
        (bundle.rootfs / "opt" / name).write_text(name)
    c = t.create(bundle)

    def open_for_writing(path: str) -> str:
        try:
            os.close(os.open(outside(c, path), os.O_WRONLY | os.O_CREAT, 0o600))
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error.errno))
        return "opened"

    for path in ("/opt/file", "/opt/directory/inner", "/opt/directory/new"):
        t.equal(open_for_writing(path), "EROFS", f"open {path} for writing")
    t.equal(open_for_writing("/opt/control"), "opened", "open a file that is not readonly for writing")
    for name in ("file", "directory/inner"):
        t.equal(outside(c, f"/opt/{name}").read_text(), name, f"content of /opt/{name}")
    # The spec does not say that mounts below a readonly path are readonly.
    t.note("mount below a readonly path", open_for_writing("/opt/directory/mount/new"))

"""Mounts: config.md#configMounts and #configLinuxMountOptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Union

from ...common.procfs import Mount, mount_at, mounts
from ..context import SLEEPER, Container, T
from ..registry import check

MOUNTINFO = ["/bin/cat", "/proc/self/mountinfo"]
ATIME = {"noatime", "relatime"}  # neither: strictatime
# Options, and what of the mount they have to change. Those of runtime-spec 1.0, which pointed to mount(8).
TMPFS: dict[str, Callable[[Mount], bool]] = {
    "ro": lambda mount: "ro" in mount.options,
    "rw": lambda mount: "rw" in mount.options,
    "nosuid": lambda mount: "nosuid" in mount.options,
    "nodev": lambda mount: "nodev" in mount.options,
    "noexec": lambda mount: "noexec" in mount.options,
    "noatime": lambda mount: "noatime" in mount.options,
    "nodiratime": lambda mount: "nodiratime" in mount.options,
    "relatime": lambda mount: "relatime" in mount.options,
    "strictatime": lambda mount: not ATIME & mount.options,
    "sync": lambda mount: "sync" in mount.data,
    "dirsync": lambda mount: "dirsync" in mount.data,
    # The opposites: nothing to see but that they are known, a file system would refuse them as its data.
    "suid": lambda mount: "nosuid" not in mount.options,
    "dev": lambda mount: "nodev" not in mount.options,
    "exec": lambda mount: "noexec" not in mount.options,
    "async": lambda mount: "sync" not in mount.data,
    "atime": lambda mount: "noatime" not in mount.options,
    "diratime": lambda mount: "nodiratime" not in mount.options,
    "norelatime": lambda mount: "rw" in mount.options,
    "nostrictatime": lambda mount: "rw" in mount.options,
}
BIND = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "strictatime")
# Listed by the table that runtime-spec 1.1 brought.
SINCE_1_1: dict[str, Callable[[Mount], bool]] = {
    "lazytime": lambda mount: "lazytime" in mount.data,
    "nolazytime": lambda mount: "lazytime" not in mount.data,
    "iversion": lambda mount: "rw" in mount.options,
    "noiversion": lambda mount: "rw" in mount.options,
    "silent": lambda mount: "rw" in mount.options,
    "loud": lambda mount: "rw" in mount.options,
}


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def bind(destination: str, source: Union[Path, str], *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "none", "source": str(source), "options": list(options) or ["bind"]}


def tree(t: T, name: str) -> Path:
    """A tmpfs on the host with a file of its name, and a second tmpfs at inner/ with the file "nested"."""
    top = t.work / name
    for directory, file in ((top, name), (top / "inner", "nested")):
        directory.mkdir()
        t.require(t.tool("mount", "-t", "tmpfs", "tmpfs", str(directory)).ok, f"tmpfs on {directory}")
        (directory / file).touch()
    return top


def options_at(c: Container, destination: str) -> frozenset[str]:
    """The options of the mount at this destination, as the kernel has them; none where there is no mount."""
    found = mount_at(Path(f"/proc/{c.pid}/mountinfo").read_text(), destination)
    return found.options if found else frozenset()


@check("MOUNT-001")
def order(t: T) -> None:
    for name in ("one", "two"):
        (t.work / name / "sub").mkdir(parents=True)
        (t.work / name / name).touch()
    one, two = t.work / "one", t.work / "two"
    config = t.config("echo /up/* /up/sub/*; echo /down/* /down/sub/*; echo /same/*")
    config["mounts"] += [bind("/up", one), bind("/up/sub", two), bind("/down/sub", two), bind("/down", one)]
    config["mounts"] += [bind("/same", two), bind("/same", one)]
    bundle = t.bundle(config)
    for directory in ("up", "down/sub", "same"):
        (bundle.rootfs / directory).mkdir(parents=True)
    lines = [*t.run(bundle).stdout.splitlines(), "", "", ""]
    t.equal(lines[0], "/up/one /up/sub /up/sub/sub /up/sub/two", "outer mount, then inner: both seen")
    t.equal(lines[1], "/down/one /down/sub /down/sub/*", "inner mount, then outer: the inner is hidden")
    t.equal(lines[2], "/same/one /same/sub", "two mounts at one destination: the later is seen")


@check("MOUNT-002")
def bind_mounts(t: T) -> None:
    top = tree(t, "top")
    config = t.config("stat -c '%d:%i' /absolute /relative /file; echo /absolute/inner/* /recursive/inner/*")
    config["mounts"] += [
        bind("/absolute", top),
        bind("/relative", "beside", "bind"),
        bind("/file", "beside/file", "rbind"),
        bind("/recursive", top, "rbind"),
    ]
    bundle = t.bundle(config)
    (bundle.path / "beside").mkdir()
    (bundle.path / "beside/file").touch()
    sources = [path.stat() for path in (top, bundle.path / "beside", bundle.path / "beside/file")]
    *found, globs = t.run(bundle).stdout.splitlines() or [""]
    t.equal(found, [f"{stat.st_dev}:{stat.st_ino}" for stat in sources], "device:inode of the mounts")
    t.equal(globs, "/absolute/inner/* /recursive/inner/nested", "the nested mount: not by bind, but by rbind")


@check("MOUNT-003")
def relative_destination(t: T) -> None:
    if t.spec < (1, 2, 0):
        t.skip("before runtime-spec 1.2.0 a mount destination had to be absolute")
    config = t.config(MOUNTINFO)
    config["process"]["cwd"] = "/tmp"
    config["mounts"].append(tmpfs("lk/relative"))
    found = mount_at(t.run(config).stdout, "/lk/relative")
    t.equal(found and found.type, "tmpfs", "mount at /lk/relative")


@check("MOUNT-004")
def options(t: T) -> None:
    source = tree(t, "top")
    config = t.config("cat /proc/self/mountinfo; for f in /t/ro/x /b/ro/x /t/remount/x /b/nosuid/x; do (: >$f); done")
    config["mounts"] += [tmpfs(f"/t/{name}", name) for name in TMPFS]
    config["mounts"] += [tmpfs("/t/remount", "nosuid"), tmpfs("/t/remount", "remount", "ro")]
    config["mounts"] += [bind(f"/b/{name}", source, "bind", name) for name in BIND]
    c = t.run(config)

    def judge(text: str, point: str, name: str, holds: Callable[[Mount], bool]) -> None:
        found = mount_at(text, point)
        seen = found and f"{','.join(sorted(found.options))} {','.join(sorted(found.data))}"
        t.true(found and holds(found), f"mount at {point}", name, seen or "no mount")

    for name, holds in TMPFS.items():
        judge(c.stdout, f"/t/{name}", name, holds)
    judge(c.stdout, "/t/remount", "remount, ro", TMPFS["ro"])
    t.equal([m.point for m in mounts(c.stdout)].count("/t/remount"), 1, "mounts at /t/remount")
    for name in BIND:
        judge(c.stdout, f"/b/{name}", f"bind, {name}", TMPFS[name])
    refused = [line.split("/x")[0].rpartition(" ")[2] for line in c.stderr.splitlines() if "Read-only" in line]
    t.equal(refused, ["/t/ro", "/b/ro", "/t/remount"], "where opening a file for writing gives EROFS")
    t.true((source / "x").exists(), "the bind mount without ro is writable")
    if t.spec >= (1, 1, 0):
        config = t.config(SLEEPER)
        config["mounts"] += [tmpfs(f"/t/{name}", name) for name in SINCE_1_1]
        c = t.try_create(config)
        if t.ok(c.created, f"create with options {' '.join(SINCE_1_1)}, each of a tmpfs"):
            text = Path(f"/proc/{c.pid}/mountinfo").read_text()
            for name, holds in SINCE_1_1.items():
                judge(text, f"/t/{name}", name, holds)
        config = t.config(SLEEPER)  # by itself: runc takes it for an option of the file system
        config["mounts"].append(tmpfs("/t", "defaults"))
        t.ok(t.try_create(config).created, "create with a tmpfs with option defaults")


@check("MOUNT-005")
def propagation(t: T) -> None:
    shared, private = tree(t, "top"), tree(t, "cut")
    for mode, directory in (("shared", shared), ("private", private)):
        for point in (directory, directory / "inner"):
            t.require(t.tool("mount", f"--make-{mode}", str(point)).ok, f"{point} becomes {mode} on the host")
    modes = ("shared", "slave", "private", "unbindable")
    config = t.config(SLEEPER)
    config["linux"]["rootfsPropagation"] = "slave"  # else a runtime may cut the mount off from the host's before
    for mode in modes:
        source = private if mode == "shared" else shared  # so that each has to be changed
        config["mounts"] += [bind(f"/{name}", source, "rbind", name) for name in (mode, f"r{mode}")]
    text = Path(f"/proc/{t.create(config).pid}/mountinfo").read_text()
    expected = {"shared": {"shared"}, "slave": {"master"}, "private": set(), "unbindable": {"unbindable"}}
    for mode in modes:
        for destination in (f"/{mode}", f"/r{mode}", f"/r{mode}/inner"):
            found = mount_at(text, destination)
            seen = found.propagation if found else {"no mount"}
            # A shared mount may get what happens at its source (be slave too) or not.
            seen -= {"master"} if mode == "shared" else set()
            t.equal(seen, expected[mode], f"propagation of {destination}")


@check("MOUNT-007")
def filesystem_options(t: T) -> None:
    config = t.config("cat /proc/self/mountinfo; stat -c %a /lk; stat -f -c '%b %s' /lk")
    config["mounts"].append(tmpfs("/lk", "nosuid", "size=1m", "mode=1751", "nr_inodes=77"))
    text = t.run(config).stdout
    *_, mode, size = ["", *text.splitlines()]
    t.equal(mode, "1751", "mode of the tmpfs")
    blocks = [int(word) for word in size.split() if word.isdigit()]
    t.true(len(blocks) == 2 and blocks[0] * blocks[1] == 1 << 20, "size of the tmpfs", "1048576 bytes", size)
    found = mount_at(text, "/lk")
    t.true(found and "nr_inodes=77" in found.data, "nr_inodes of the tmpfs", "77", found and sorted(found.data))


@check("MOUNT-009")
def id_mappings_pair(t: T) -> None:
    if t.spec < (1, 1, 0):
        t.skip("uidMappings and gidMappings of a mount are new in runtime-spec 1.1.0")
    source = t.work / "source"
    source.mkdir()
    mapping = [{"containerID": 0, "hostID": 0, "size": 1000}]
    for given in ("uidMappings", "gidMappings"):
        config = t.config()
        config["mounts"].append({**bind("/lk", source, "bind", "idmap"), given: mapping})
        c = t.try_create(config)
        t.fails(c.created, f"create with only {given} of a mount")

"""Mounts: config.md#configMounts. Options are in mount_options.py, recursive.py, propagation.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

from ...common.procfs import mount_at, own_mounts
from ..context import Bundle, T
from ..parts import Part, part
from ..registry import check

MOUNTINFO = "cat /proc/self/mountinfo"
KNOWN_OPTIONS = ("size=1m", "nosuid")
INODES = "stat -c '%d:%i'"


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def bind(destination: str, source: Union[Path, str], *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "none", "source": str(source), "options": list(options) or ["bind"]}


def mount_host(t: T, point: Path, *options: str) -> None:
    """A tmpfs of the host here."""
    point.mkdir(exist_ok=True)
    words = ["-o", ",".join(options)] if options else []
    t.tool("mount", "-t", "tmpfs", *words, "tmpfs", str(point))


def tree(t: T, name: str, *options: str) -> Path:
    """A tmpfs of the host with a file of its name, and a second tmpfs at inner/ with the file "nested"."""
    top = t.work / name
    for directory, file in ((top, name), (top / "inner", "nested")):
        mount_host(t, directory)
        (directory / file).touch()
    if options:
        for directory in (top, top / "inner"):
            t.tool("mount", "-o", ",".join(["remount", *options]), str(directory))
    return top


def inodes(*paths: Path) -> list[str]:
    return [f"{stat.st_dev}:{stat.st_ino}" for stat in (path.stat() for path in paths)]


@part("root", "MOUNT-001")
def order(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    for name in ("one", "two"):
        (t.work / name / "sub").mkdir(parents=True)
        (t.work / name / name).touch()
    one, two = t.work / "one", t.work / "two"
    bundle.config["mounts"] += [
        bind(f"{top}/up", one),
        bind(f"{top}/up/sub", two),
        bind(f"{top}/down/sub", two),
        bind(f"{top}/down", one),
        bind(f"{top}/same", two),
        bind(f"{top}/same", one),
        tmpfs(f"{top}/first", "size=1m"),
        bind(f"{top}/first/second", one),
        bind(f"{top}/first/second/sub", two),
    ]
    for directory in ("up", "down/sub", "same"):
        (bundle.rootfs / top[1:] / directory).mkdir(parents=True)
    seen = yield (
        f"cd {top}; echo up/* up/sub/*; echo down/* down/sub/*; echo same/*; "
        "echo first/* first/second/* first/second/sub/*"
    )
    lines = [*seen.stdout.splitlines(), "", "", "", ""]
    t.equal(lines[0], "up/one up/sub up/sub/sub up/sub/two", "outer mount, then inner: both seen")
    t.equal(lines[1], "down/one down/sub down/sub/*", "inner mount, then outer: the inner is hidden")
    t.equal(lines[2], "same/one same/sub", "two mounts at one destination: the later is seen")
    deep = "first/second first/second/one first/second/sub first/second/sub/sub first/second/sub/two"
    t.equal(lines[3], deep, "three mounts, each in the one before it")


@part("root", "MOUNT-002")
def bind_mounts(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    source = tree(t, "top")
    beside = bundle.path / f"beside-{t.id}"
    beside.mkdir()
    (beside / "file").write_text("a file\n")
    bundle.config["mounts"] += [
        bind(f"{top}/absolute", source),
        bind(f"{top}/relative", beside.name, "bind"),
        bind(f"{top}/file", f"{beside.name}/file", "rbind"),
        bind(f"{top}/recursive", source, "rbind"),
    ]
    seen = yield (
        f"cd {top}; {INODES} absolute relative file; cat file; echo absolute/inner/* recursive/inner/*; "
        "echo written >absolute/new"
    )
    lines = seen.stdout.splitlines()
    t.equal(lines[:3], inodes(source, beside, beside / "file"), "device and inode of the bind mounts")
    t.equal(lines[3:4], ["a file"], "what a file that is bound has in it")
    globs = [line for line in lines[4:] if "inner" in line]
    t.equal(globs, ["absolute/inner/* recursive/inner/nested"], "the nested mount: not by bind, but by rbind")
    t.true((source / "new").exists(), "a file made in a bind mount is in its source")


@part("root", "MOUNT-003")
def relative_destination(t: T, bundle: Bundle) -> Part:
    if t.spec < (1, 2, 0):
        t.skip("before runtime-spec 1.2.0 a mount destination had to be absolute")
    bundle.config["mounts"].append(tmpfs(f"lk-{t.id}/relative"))
    seen = yield MOUNTINFO
    found = mount_at(seen.stdout, f"/lk-{t.id}/relative")
    t.equal(found and found.type, "tmpfs", "a mount with a relative destination is below /")


@part("root", "MOUNT-032")
def destinations(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    inside = bundle.rootfs / top[1:]
    (inside / "full").mkdir(parents=True)
    (inside / "full/below").write_text("below\n")
    (inside / "file").write_text("below\n")
    source = t.work / "source"
    source.mkdir()
    (source / "above").write_text("above\n")
    blank = f"{top}/with blank, ünd mehr"
    bundle.config["mounts"] += [
        bind(f"{top}/file", source / "above"),
        bind(f"{top}/full", source),
        bind(blank, source),
        tmpfs(f"{top}/not/there/before", "size=1m"),
        bind(f"{top}/nor/this-file", source / "above"),
        bind(f"{top}/up/../dots", source),
    ]
    seen = yield (
        f"cd {top}; cat file; cat full/*; cat '{blank}/above'; stat -c %F not/there/before nor/this-file; "
        "cat dots/above"
    )
    lines = [*seen.stdout.splitlines(), *[""] * 6]
    t.equal(lines[0], "above", "a file that is bound over a file")
    t.equal(lines[1], "above", "a directory that is bound over one that has files")
    t.equal(lines[2], "above", "a destination whose name has blanks and other characters")
    t.equal(lines[3:5], ["directory", "regular file"], "destinations that were not there")
    t.equal(lines[5], "above", "a destination with dots")
    now = [(seen.c.bundle.rootfs / top[1:] / name).read_text() for name in ("file", "full/below")]
    t.equal(now, ["below\n"] * 2, "what is below the mounts stays as it was")


@check("MOUNT-033")
def symlinked_destinations(t: T) -> None:
    outside = t.work / "outside"
    outside.mkdir()
    config = t.config(f"{MOUNTINFO}; cat /lk-absolute/file; cat /lk-up/file")
    config["mounts"] += [bind("/lk-absolute", t.work / "source"), bind("/lk-up/deeper", t.work / "source")]
    (t.work / "source").mkdir()
    (t.work / "source/file").write_text("bound\n")
    bundle = t.bundle(config)
    (bundle.rootfs / str(t.work)[1:] / "outside").mkdir(parents=True)  # where the links point inside of the container
    (bundle.rootfs / "lk-absolute").symlink_to(outside)
    up = len(bundle.rootfs.parts) - 1
    (bundle.rootfs / "lk-up").symlink_to("../" * up + str(outside)[1:])
    c = t.try_create(bundle)
    below = [
        mount.point for mount in own_mounts() if outside == Path(mount.point) or outside in Path(mount.point).parents
    ]
    t.equal(below, [], "mounts on the host where a symbolic link of the rootfs points to")
    t.equal(
        [path.name for path in outside.iterdir()], [], "files on the host where a symbolic link of the rootfs points to"
    )
    if not c.created.ok:  # a destination that is refused harms nothing
        t.note("create", c.created.words)
        return
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    points = [line.split()[4] for line in c.stdout.splitlines() if " - " in line]
    inside = [f"{outside}", f"{outside}/deeper"]
    t.equal(
        [point for point in points if point in inside], inside, "mounts at what the links are inside of the container"
    )


@part("root", "MOUNT-036")
def optional_members(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    source = t.work / "source"
    source.mkdir()
    (source / "file").touch()
    bundle.config["mounts"] += [
        {"destination": f"{top}/bare", "type": "tmpfs"},
        {"destination": f"{top}/untyped", "source": str(source), "options": ["bind"]},
        {"destination": f"{top}/dummy", "type": "tmpfs", "source": str(source), "options": ["bind"]},
        {"destination": f"{top}/late", "type": "bind", "source": str(source), "options": ["rw", "nosuid", "rbind"]},
    ]
    seen = yield f"cd {top}; echo untyped/*; echo dummy/*; echo late/*; {MOUNTINFO}"
    lines = [*seen.stdout.splitlines(), "", "", ""]
    found = mount_at(seen.stdout, f"{top}/bare")
    t.equal(found and found.type, "tmpfs", "a mount with neither source nor options")
    t.equal(lines[0], "untyped/file", "a bind mount without a type")
    t.equal(lines[1], "dummy/file", "a bind mount whose type is that of a file system")
    t.equal(lines[2], "late/file", "a bind mount whose options have rbind last")


@part("root", "MOUNT-037")
def isolated_mounts(t: T, bundle: Bundle) -> Part:
    bundle.config["mounts"].append(tmpfs(f"/lk-{t.id}", "size=1m"))
    seen = yield MOUNTINFO
    found = mount_at(seen.stdout, f"/lk-{t.id}")
    t.equal(found and found.type, "tmpfs", "a mount of the container, seen in it")
    rootfs = seen.c.bundle.rootfs
    leaked = [mount.type for mount in own_mounts() if rootfs in Path(mount.point).parents]
    t.equal(leaked, [], "mounts of the container, seen on the host")
    hosts = {mount.point for mount in own_mounts()} - {"/", "/proc", "/dev"}
    inside = [point for point in hosts if point.startswith(str(t.work.parent)) and mount_at(seen.stdout, point)]
    t.equal(inside, [], "mounts of the host, seen in the container")


@part("root", "MOUNT-038")
def types(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    names = ("tmpfs", "mqueue") if t.host.in_user_namespace else ("tmpfs", "mqueue", "ramfs")
    for name in names:
        mount = {"destination": f"{top}/{name}", "type": name, "source": f"lk-{name}", "options": ["nosuid", "noexec"]}
        bundle.config["mounts"].append(mount)
    seen = yield MOUNTINFO
    for name in names:
        found = mount_at(seen.stdout, f"{top}/{name}")
        t.equal(found and found.type, name, f"type of a mount of type {name}")
        options = sorted(found.options & {"ro", "nosuid", "nodev", "noexec"}) if found else "no mount"
        t.equal(options, ["noexec", "nosuid"], f"flags of a mount of type {name}")
        t.note(f"source of {name}", found and found.source)  # "can also be a dummy"


@check("MOUNT-034")
def missing_source(t: T) -> None:
    source = t.work / "source"
    source.mkdir()
    valid = t.create(with_mounts(t, bind("/lk", source, "bind")))
    missing = t.work / "missing"
    for option in ("bind", "rbind"):
        config = with_mounts(t, bind("/lk", missing, option))
        t.refused(config, f"create with a source of a {option} mount that does not exist", valid=valid)
    t.true(not missing.exists(), "a missing source is not made")


@check("MOUNT-035")
def unknown_type(t: T) -> None:
    mount = tmpfs("/lk", *KNOWN_OPTIONS)
    offending, valid = (with_mounts(t, {**mount, "type": type}) for type in ("labkit-nosuch", "tmpfs"))
    t.refused(offending, "create with a mount of an unknown type", valid=valid)


@part("root", "MOUNT-007")
def filesystem_options(t: T, bundle: Bundle) -> Part:
    point = f"/lk-{t.id}"
    options = ("size=1m", "nosuid", "mode=1751", "ro", "nr_inodes=77", "rw", "uid=12", "gid=34")
    bundle.config["mounts"].append(tmpfs(point, *options))
    seen = yield f"{MOUNTINFO}; stat -c '%a %u %g' {point}; stat -f -c '%b %s' {point}"
    *_, node, size = ["", "", *seen.stdout.splitlines()]
    mode, _, owner = node.partition(" ")
    t.equal(mode, "1751", "mode of the tmpfs")
    t.equal(owner, "12 34", "owner of the tmpfs")
    blocks = [int(word) for word in size.split() if word.isdigit()]
    t.true(len(blocks) == 2 and blocks[0] * blocks[1] == 1 << 20, "size of the tmpfs", "1048576 bytes", size)
    found = mount_at(seen.stdout, point)
    t.true(found and "nr_inodes=77" in found.data, "nr_inodes of the tmpfs", "77", found and sorted(found.data))


@check("MOUNT-031")
def unknown_option(t: T) -> None:
    offending = with_mounts(t, tmpfs("/lk", *KNOWN_OPTIONS, "labkit_nosuch=1"))
    valid = with_mounts(t, tmpfs("/lk", *KNOWN_OPTIONS))
    t.refused(offending, "create with an option that neither runtime nor file system know", valid=valid)


def with_mounts(t: T, *mounts: dict[str, Any]) -> dict[str, Any]:
    """A config with these mounts."""
    config = t.config()
    config["mounts"] += mounts
    return config

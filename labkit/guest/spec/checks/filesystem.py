"""What the container finds in its file system: default file systems, masked and readonly paths."""

from __future__ import annotations

import os
from pathlib import Path

from ...common.procfs import mount_at
from ..context import SLEEPER, Bundle, Config, T, set_namespace
from ..parts import Part, part
from ..registry import check
from .devices import DEFAULT_DEVICES
from .mounts import MOUNTINFO, bind, tmpfs
from .namespaces import has_user_namespaces, knows


@part("root", "DEFFS-001")
def default_filesystems(t: T, bundle: Bundle) -> Part:
    expected = {"/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs"}
    bundle.config["mounts"] += [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "mode=1777"]},
    ]
    seen = yield (
        f"{MOUNTINFO}; stat -c 'shm %a' /dev/shm; echo x >/dev/shm/x && echo wrote shm; "
        "[ -d /sys/kernel ] && echo sysfs; grep -q ^Pid: /proc/self/status && echo proc"
    )
    mounted = {path: mount_at(seen.stdout, path) for path in expected}
    for path, type in expected.items():
        mount = mounted[path]
        t.equal(mount and mount.type, type, f"type of the file system at {path}")
    sys = mounted["/sys"]
    flags = sorted(sys.options & {"ro", "nosuid", "nodev", "noexec"}) if sys else "no mount"
    t.equal(flags, ["nodev", "noexec", "nosuid", "ro"], "flags of the file system at /sys")
    lines = [line for line in seen.stdout.splitlines() if " - " not in line]
    t.equal(lines, ["shm 1777", "wrote shm", "sysfs", "proc"], "what the default file systems have in them")


@check("ROOT-003")
def mounts_of_readonly_root(t: T) -> None:
    config = t.config(f"{MOUNTINFO}; for d in / /lk-there /lk-new /lk-bind; do (: >$d/x) && echo wrote $d; done")
    (t.work / "source").mkdir()
    config["root"]["readonly"] = True
    config["mounts"] += [
        tmpfs("/lk-there", "size=1m"),
        tmpfs("/lk-new", "size=1m"),
        bind("/lk-bind", t.work / "source"),
    ]
    bundle = t.bundle(config)
    (bundle.rootfs / "lk-there").mkdir()
    c = t.run(bundle)
    wrote = [line[6:] for line in c.stdout.splitlines() if line.startswith("wrote ")]
    t.equal(wrote, ["/lk-there", "/lk-new", "/lk-bind"], "where files can be made with a read-only /")
    root = mount_at(c.stdout, "/")
    t.true(root and "ro" in root.options, "/ is read-only", "ro", root and sorted(root.options))
    t.true(not (bundle.rootfs / "x").exists(), "no file was made in the root filesystem")


@part("root", "MASK-001")
def masked_paths(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    inside = bundle.rootfs / top[1:]
    for path in ("file", "directory/inner", "directory/.hidden", "directory/deep/er", "last", "empty"):
        (inside / path).parent.mkdir(parents=True, exist_ok=True)
        (inside / path).write_text("secret" if path != "empty" else "")
    (inside / "control").write_text("not masked\n")
    bundle.config["mounts"].append(tmpfs(f"{top}/mount", "size=1m"))
    masked = [*(f"{top}/{name}" for name in ("file", "directory", "mount", "empty", "last")), "/proc/version"]
    bundle.config["linux"].setdefault("maskedPaths", []).extend(masked)
    seen = yield (
        f"cd {top}; cat file last; echo; cat directory/inner directory/deep/er; echo directory/* directory/.[!.]*; "
        "cat control; (: >directory/new) && echo writable; (echo x >file); ls mount; grep -c . /proc/version"
    )
    lines = [*seen.stdout.split("\n"), "", "", ""]
    t.equal(lines[0], "", "what is read from masked files")
    t.equal(lines[1], "directory/* directory/.[!.]*", "what is listed of a masked directory")
    t.equal(lines[2], "not masked", "what is read beside masked paths")
    t.true("secret" not in seen.stdout, "masked contents cannot be read", "nothing", seen.stdout)
    t.true("1" not in lines, "a masked file of /proc cannot be read", "nothing", "its content")
    t.note("masked directory is writable", "writable" in lines)
    originals = [(seen.c.bundle.rootfs / top[1:] / path).read_text() for path in ("file", "directory/inner", "last")]
    t.equal(originals, ["secret"] * 3, "the masked files on the host")


def with_linux(t: T, **more: object) -> Config:
    config = t.config()
    config["linux"].update(more)
    return config


def refuses_relative(t: T, key: str, name: str) -> None:
    valid = with_linux(t, **{key: ["/etc"]})
    for paths, what in ((["etc"], "a relative path"), (["/tmp", "./etc"], "a relative path after another")):
        t.refused(with_linux(t, **{key: paths}), f"create with {what} in {name}", valid=valid)


@check("MASK-002")
def relative_masked_paths(t: T) -> None:
    refuses_relative(t, "maskedPaths", "maskedPaths")


@check("ROPATH-002")
def relative_readonly_paths(t: T) -> None:
    refuses_relative(t, "readonlyPaths", "readonlyPaths")


@part("root", "MASK-003")
def missing_masked_paths(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    (bundle.rootfs / top[1:]).mkdir()
    (bundle.rootfs / top[1:] / "file").write_text("secret\n")
    masked = [f"{top}/missing", f"{top}/missing/too", "/lk-nosuch/path", f"{top}/file"]
    bundle.config["linux"].setdefault("maskedPaths", []).extend(masked)
    seen = yield f"cat {top}/file; echo {top}/*"
    t.equal(seen.stdout.splitlines()[-1:], [f"{top}/file"], "nothing is made at masked paths that are missing")
    t.true("secret" not in seen.stdout, "a masked path after missing ones cannot be read", "nothing", seen.stdout)


@check("MASK-004")
def masked_symlinks(t: T) -> None:
    config = t.config("cat /lk/link; cat /lk/out; cat /lk/control")
    config["linux"]["maskedPaths"] = ["/lk/link", "/lk/out"]
    bundle = t.bundle(config)
    outside = t.work / "outside"
    outside.write_text("of the host\n")
    inside = bundle.rootfs / "lk"
    inside.mkdir()
    for name, text in (("file", "secret"), ("control", "not masked\n")):
        (inside / name).write_text(text)
    (inside / "link").symlink_to("file")
    (bundle.rootfs / str(t.work)[1:]).mkdir(parents=True)
    (bundle.rootfs / str(outside)[1:]).write_text("secret")
    (inside / "out").symlink_to(outside)
    c = t.try_create(bundle)
    t.equal(outside.read_text(), "of the host\n", "the host's file that a masked symbolic link would lead to")
    if not c.created.ok:  # whether symbolic links can be masked the spec does not say
        t.note("create", c.created.words)
        return
    t.require(c.start().ok and c.ended(), "the process starts and ends")
    t.true("secret" not in c.stdout, "what is behind a masked symbolic link cannot be read by it", "nothing", c.stdout)
    t.true("not masked" in c.stdout, "what is read beside masked paths", "not masked", c.stdout)


@part("root", "ROPATH-001")
def readonly_paths(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    inside = bundle.rootfs / top[1:]
    names = ("file", "directory/inner", "directory/deep/er", "last/inner", "control", "beside/inner")
    for name in names:
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_text(f"{name}\n")
    bundle.config["mounts"].append(tmpfs(f"{top}/directory/mount", "size=1m"))
    paths = [*(f"{top}/{name}" for name in ("file", "directory", "last")), "/proc/sys/vm"]
    bundle.config["linux"].setdefault("readonlyPaths", []).extend(paths)
    tried = (
        *names,
        "directory/new",
        "directory/deep/new",
        "last/new",
        "beside/new",
        "directory/mount/new",
        "/proc/sys/vm/swappiness",
    )
    seen = yield (
        f"cd {top}; for f in {' '.join(tried)}; do (: >>$f) && echo opened $f; done; cat {' '.join(names)}; "
        "rm -f directory/inner; mv last/inner last/moved"
    )
    lines = seen.stdout.splitlines()
    opened = [line[7:] for line in lines if line.startswith("opened ")]
    mount = "directory/mount/new"
    writable = [name for name in opened if name != mount]
    t.equal(
        writable,
        ["control", "beside/inner", "beside/new"],
        "what can be opened for writing: nothing below readonlyPaths",
    )
    t.equal(lines[-len(names) :], list(names), "readonly paths can be read")
    refusals = [line for line in seen.stderr.splitlines() if "Read-only file system" in line]
    t.true(len(refusals) >= 6, "what the kernel says about writing", "Read-only file system", seen.stderr)
    t.true(
        (seen.c.bundle.rootfs / top[1:] / "directory/inner").exists(), "a file below a readonly path cannot be removed"
    )
    # The spec does not say that mounts below a readonly path are readonly.
    t.note("mount below a readonly path", "opened" if mount in opened else "refused")


@part("root", "ROPATH-003")
def readonly_mounts(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    source = t.work / "source"
    source.mkdir()
    flags = {"tmpfs": ("nosuid", "noexec"), "bind": ("nosuid", "nodev")}
    bundle.config["mounts"] += [
        tmpfs(f"{top}/tmpfs", *flags["tmpfs"]),
        bind(f"{top}/bind", source, "bind", *flags["bind"]),
    ]
    bundle.config["linux"].setdefault("readonlyPaths", []).extend([f"{top}/tmpfs", f"{top}/bind"])
    seen = yield f"{MOUNTINFO}; cd {top}; for d in *; do (: >$d/new) && echo wrote $d; done; echo {top}/*"
    for name, given in flags.items():
        found = mount_at(seen.stdout, f"{top}/{name}")
        options = found.options if found else frozenset(("no mount",))
        t.true("ro" in options, f"a {name} mount at a readonly path is read-only", "ro", sorted(options))
        t.true(
            options >= set(given), f"a {name} mount at a readonly path keeps its options", list(given), sorted(options)
        )
    wrote = [line for line in seen.stdout.splitlines() if line.startswith("wrote")]
    t.equal(wrote, [], "readonly paths that are mounts, where files can be made")
    (source / "host").touch()
    t.true((source / "host").exists(), "the source of a mount at a readonly path can be written")


@part("root", "ROPATH-004")
def missing_readonly_paths(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    (bundle.rootfs / top[1:]).mkdir()
    (bundle.rootfs / top[1:] / "file").write_text("as it was\n")
    paths = [f"{top}/missing", f"{top}/missing/too", "/lk-nosuch/path", f"{top}/file"]
    bundle.config["linux"].setdefault("readonlyPaths", []).extend(paths)
    seen = yield f"(: >>{top}/file) && echo opened; echo {top}/*"
    t.equal(seen.stdout.splitlines(), [f"{top}/file"], "a readonly path after missing ones, and what is made at those")


@check("USERNS-002")
def owners_stay(t: T) -> None:
    if not has_user_namespaces() or not knows(t, "user"):
        t.skip("no user namespaces here")
    config = t.config(SLEEPER)
    set_namespace(config, "user")
    extents = [{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 100000, "size": 65000}]
    config["linux"].update(uidMappings=extents, gidMappings=extents)
    source = t.work / "source"
    source.mkdir()
    config["mounts"].append(bind("/lk-bind", source))
    bundle = t.bundle(config)
    (source / "bound").touch()
    bundle.put("lk-owned")
    os.chown(bundle.out / "lk-owned", 1001, 7002)
    (bundle.rootfs / "home").mkdir()
    for number in (0, 1, 1000, 100005):
        path = bundle.rootfs / f"home/of-{number}"
        path.touch()
        os.chown(path, number, number)
    os.chown(source / "bound", 1000, 1001)
    watched = (
        "home",
        "home/of-0",
        "home/of-1",
        "home/of-1000",
        "home/of-100005",
        "bin",
        "bin/busybox",
        "tmp",
        "etc",
        ".",
    )
    paths = [bundle.rootfs / name for name in watched]
    paths += [source, source / "bound", bundle.out, bundle.out / "lk-owned", bundle.path / "config.json", bundle.path]

    nodes = [Path("/dev", name) for name in DEFAULT_DEVICES]  # which a runtime may bind: the suite's own

    def owners(paths: list[Path] = paths) -> list[str]:
        return [f"{stat.st_uid}:{stat.st_gid} {stat.st_mode:o}" for stat in map(Path.lstat, paths)]

    before, nodes_before = owners(), owners(nodes)
    c = t.create(bundle)
    t.equal(owners(), before, "owners and modes of files after create")
    t.require(c.start().ok, "start exits 0")
    t.equal(owners(), before, "owners and modes of files after start")
    c.kill()
    c.wait_stopped()
    c.delete(force=True)
    t.equal(owners(), before, "owners and modes of files after delete")
    t.equal(owners(nodes), nodes_before, "owners and modes of the host's devices")

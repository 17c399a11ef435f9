"""Options of a mount: the table of config.md#configLinuxMountOptions, one requirement for each family of them.

Which options a runtime does not know it may take for options of the file system, which refuses them: so those that
runtime-spec 1.1 brought are in a container of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Callable

from ...common.procfs import Mount, mount_at, mounts, own_mounts
from ..context import Bundle, T
from ..parts import Part, part
from ..registry import check
from .mounts import MOUNTINFO, bind, mount_host, tmpfs

FLAGS = frozenset(("ro", "nosuid", "nodev", "noexec"))
ATIME = frozenset(("noatime", "nodiratime", "relatime"))  # none of them: strictatime
NO_ATIME = ATIME - {"relatime"}  # without: the kernel may choose it
SYNC = frozenset(("sync", "dirsync"))
SCRIPT = "#!/bin/sh\necho ran\n"
# What is given, and what the mount has of FLAGS then.
EACH = {"none": (), "ro": ("ro",), "nosuid": ("nosuid",), "nodev": ("nodev",), "noexec": ("noexec",)}
ALL = {"three": ("nosuid", "nodev", "noexec"), "four": ("ro", "nosuid", "nodev", "noexec")}


def judge(
    t: T, text: str, top: str, kind: str, expected: Mapping[str, frozenset[str]], family: frozenset[str] = FLAGS
) -> None:
    """Compare what the mounts at top/NAME have of this family of flags."""
    for name, flags in expected.items():
        found = mount_at(text, f"{top}/{name}")
        seen = sorted((found.options | found.data) & family) if found else "no mount"
        t.equal(seen, sorted(flags), f"flags of {kind} with {name}")


def named(options: Sequence[str]) -> str:
    return "-".join(options) or "none"


@part("root", "MOUNT-004")
def flags(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    given = {**EACH, **ALL}
    bundle.config["mounts"] += [tmpfs(f"{top}/{name}", "size=1m", *options) for name, options in given.items()]
    seen = yield (
        f"{MOUNTINFO}; cd {top}; for d in *; do echo 'echo ran' >$d/x && chmod 755 $d/x && echo $d is $($d/x); done; "
        "for d in none nodev; do mknod $d/null c 1 3 && (: <$d/null) && echo opened $d; done"
    )
    judge(t, seen.stdout, top, "a tmpfs", {name: frozenset(options) for name, options in given.items()})
    lines = [line for line in seen.stdout.splitlines() if " - " not in line]
    said = [line for line in lines if " is" in line]
    written = sorted(line.split()[0] for line in said)
    t.equal(written, ["nodev", "noexec", "none", "nosuid", "three"], "where files can be made: not with ro")
    ran = sorted(line.split()[0] for line in said if line.endswith(" ran"))
    t.equal(ran, ["nodev", "none", "nosuid"], "where files can be executed: not with noexec")
    if "opened none" in lines:
        t.true("opened nodev" not in lines, "a device of a mount with nodev cannot be opened", "refused", "opened")


@part("root", "MOUNT-010")
def bind_flags(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    source = t.work / "source"
    mount_host(t, source)
    (source / "script").write_text(SCRIPT)
    (source / "script").chmod(0o755)
    (source / "file").touch()
    given = {**EACH, **ALL}
    for name, options in given.items():
        bundle.config["mounts"].append(bind(f"{top}/{name}", source, "bind", *options))
    bundle.config["mounts"] += [
        bind(f"{top}/before", source, "ro", "nosuid", "bind"),
        bind(f"{top}/file", source / "file", "bind", "ro"),
        bind(f"{top}/rbind", source, "rbind", "nodev", "noexec"),
    ]
    seen = yield (
        f"{MOUNTINFO}; cd {top}; for d in *; do [ -d $d ] && (: >$d/$d-new) && echo wrote $d; "
        "[ -d $d ] && $d/script && echo executed $d; done; (: >file) && echo wrote file"
    )
    expected = {name: frozenset(options) for name, options in given.items()}
    more = {"before": frozenset(("ro", "nosuid")), "file": frozenset(("ro",)), "rbind": frozenset(("nodev", "noexec"))}
    judge(t, seen.stdout, top, "a bind mount", {**expected, **more})
    lines = seen.stdout.splitlines()
    wrote = sorted(line[6:] for line in lines if line.startswith("wrote "))
    t.equal(
        wrote, ["nodev", "noexec", "none", "nosuid", "rbind", "three"], "bind mounts that can be written: not with ro"
    )
    executed = sorted(line[9:] for line in lines if line.startswith("executed "))
    t.equal(executed, ["before", "nodev", "none", "nosuid", "ro"], "bind mounts to execute from: not with noexec")
    hosts = {mount.point: mount for mount in own_mounts()}[str(source)]
    t.equal(sorted((hosts.options | hosts.data) & FLAGS), [], "flags of the source on the host")


@part("root", "MOUNT-011")
def access_times(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    source, noatime = t.work / "source", t.work / "noatime"
    mount_host(t, source)
    mount_host(t, noatime, "noatime", "nodiratime")
    given: dict[str, tuple[str, ...]] = {
        "none": (),
        "noatime": ("noatime",),
        "nodiratime": ("nodiratime",),
        "both": ("noatime", "nodiratime"),
        "relatime": ("relatime",),
        "strictatime": ("strictatime",),
    }
    for name, options in given.items():
        bundle.config["mounts"] += [
            tmpfs(f"{top}/t/{name}", "size=1m", *options),
            bind(f"{top}/b/{name}", source, "bind", *options),
        ]
    for name in ("relatime", "strictatime"):  # of a source that has something else
        bundle.config["mounts"].append(bind(f"{top}/n/{name}", noatime, "bind", name))
    seen = yield MOUNTINFO
    for directory, kind in (("t", "a tmpfs"), ("b", "a bind mount")):
        where = f"{top}/{directory}"
        expected = {name: frozenset(options) & NO_ATIME for name, options in given.items()}
        judge(t, seen.stdout, where, kind, expected, NO_ATIME)
        judge(t, seen.stdout, where, kind, {"relatime": frozenset(("relatime",)), "strictatime": frozenset()}, ATIME)
    for name in ("relatime", "strictatime"):
        found = mount_at(seen.stdout, f"{top}/n/{name}")
        what = f"a bind mount with {name} of a source with noatime"
        t.true(found and "noatime" not in found.options, what, name, found and sorted(found.options))


@part("root", "MOUNT-012")
def synchronous(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    given = {"none": (), "sync": ("sync",), "dirsync": ("dirsync",), "both": ("sync", "dirsync"), "async": ("async",)}
    bundle.config["mounts"] += [tmpfs(f"{top}/{name}", "size=1m", *options) for name, options in given.items()]
    seen = yield MOUNTINFO
    expected = {name: frozenset(options) & SYNC for name, options in given.items()}
    judge(t, seen.stdout, top, "a tmpfs", expected, SYNC)


OPPOSITES = ("rw", "suid", "dev", "exec", "async", "atime", "diratime", "norelatime", "nostrictatime")


@part("root", "MOUNT-013")
def opposites(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    source = t.work / "source"
    mount_host(t, source)
    bundle.config["mounts"] += [tmpfs(f"{top}/t/{name}", name) for name in OPPOSITES]
    bundle.config["mounts"] += [bind(f"{top}/b/{name}", source, "bind", name) for name in OPPOSITES if name != "async"]
    bundle.config["mounts"].append(tmpfs(f"{top}/t/all", *OPPOSITES))
    seen = yield MOUNTINFO
    expected = {name: frozenset[str]() for name in (*OPPOSITES, "all")}
    family = FLAGS | NO_ATIME | SYNC
    judge(t, seen.stdout, f"{top}/t", "a tmpfs", expected, family)
    del expected["all"], expected["async"]
    judge(t, seen.stdout, f"{top}/b", "a bind mount", expected, family)


PAIRS = (("ro", "rw"), ("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec"))
# The last option wins: what is given, and what the mount has then.
ORDERS: tuple[tuple[tuple[str, ...], frozenset[str]], ...] = (
    *(((no, yes), frozenset()) for no, yes in PAIRS),
    *(((yes, no), frozenset((no,))) for no, yes in PAIRS),
    (("noatime", "atime"), frozenset()),
    (("atime", "noatime"), frozenset(("noatime",))),
    (("nodiratime", "diratime"), frozenset()),
    (("diratime", "nodiratime"), frozenset(("nodiratime",))),
    (("noexec", "exec", "noexec"), frozenset(("noexec",))),
    (("nosuid", "nodev", "noexec", "dev"), frozenset(("nosuid", "noexec"))),
)  # fmt: skip
SYNC_ORDERS: tuple[tuple[tuple[str, ...], frozenset[str]], ...] = (
    (("sync", "async"), frozenset()),
    (("async", "sync"), frozenset(("sync",))),
)


@part("root", "MOUNT-014")
def last_wins(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    source = t.work / "source"
    mount_host(t, source)
    bundle.config["mounts"] += [
        tmpfs(f"{top}/t/{named(options)}", "size=1m", *options) for options, _ in (*ORDERS, *SYNC_ORDERS)
    ]
    bundle.config["mounts"] += [bind(f"{top}/b/{named(options)}", source, "bind", *options) for options, _ in ORDERS]
    bundle.config["mounts"].append(tmpfs(f"{top}/t/strictatime-nostrictatime", "strictatime", "nostrictatime"))
    seen = yield MOUNTINFO
    family = FLAGS | NO_ATIME | SYNC
    judge(
        t, seen.stdout, f"{top}/t", "a tmpfs", {named(given): flags for given, flags in (*ORDERS, *SYNC_ORDERS)}, family
    )
    judge(t, seen.stdout, f"{top}/b", "a bind mount", {named(given): flags for given, flags in ORDERS}, family)
    found = mount_at(seen.stdout, f"{top}/t/strictatime-nostrictatime")
    t.true(found and "relatime" in found.options, "a tmpfs with strictatime, then nostrictatime", "relatime",
           found and sorted(found.options))  # fmt: skip


@part("options", "MOUNT-019")
def remount(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    bundle.config["mounts"] += [
        tmpfs(f"{top}/ro", "nosuid"),
        tmpfs(f"{top}/ro", "remount", "ro"),
        tmpfs(f"{top}/size", "noexec", "size=1m"),
        tmpfs(f"{top}/size", "remount", "noexec", "size=2m"),
    ]
    seen = yield f"{MOUNTINFO}; cd {top}; for d in *; do (: >$d/x) && echo wrote $d; done; stat -f -c 'size %b %s' size"
    judge(t, seen.stdout, top, "a remounted tmpfs", {"size": frozenset(("noexec",))})
    found = mount_at(seen.stdout, f"{top}/ro")
    t.true(found and "ro" in found.options, "a tmpfs after remount with ro", "ro", found and sorted(found.options))
    points = [mount.point for mount in mounts(seen.stdout)]
    t.equal([points.count(f"{top}/{name}") for name in ("ro", "size")], [1, 1], "mounts after remount")
    lines = seen.stdout.splitlines()
    t.equal(
        [line for line in lines if line.startswith("wrote")], ["wrote size"], "where files can be made after remount"
    )
    size = [line.split()[1:] for line in lines if line.startswith("size ")]
    told = [int(blocks) * int(length) for blocks, length in size]
    t.equal(told, [2 << 20], "size of a tmpfs after remount with another")


@check("MOUNT-040")
def remount_writable(t: T) -> None:
    config = t.config(f"(: >/lk/x) && echo wrote; {MOUNTINFO}")
    config["mounts"] += [tmpfs("/lk", "ro", "size=1m"), tmpfs("/lk", "remount", "rw", "size=2m")]
    c = t.run(config)
    found = mount_at(c.stdout, "/lk")
    options = sorted(found.options) if found else "no mount"
    t.true(found and "rw" in found.options, "a tmpfs with ro after remount with rw", "rw", options)
    t.true("wrote" in c.stdout, "a file can be made after remount with rw")


def since_1_1(t: T) -> None:
    t.need_spec((1, 1, 0), "the table of mount options")


def accepted(t: T, text: str, top: str, names: Sequence[str]) -> dict[str, Mount]:
    """The mounts at top/NAME, all of which have to be a plain tmpfs otherwise."""
    found = {name: mount_at(text, f"{top}/{name}") for name in names}
    for name, mount in found.items():
        seen = sorted((mount.options | mount.data) & (FLAGS | SYNC)) if mount else "no mount"
        t.equal(seen, [], f"flags of a tmpfs with {name}")
    return {name: mount for name, mount in found.items() if mount}


@part("options", "MOUNT-015")
def lazytime(t: T, bundle: Bundle) -> Part:
    since_1_1(t)
    top = f"/lk-{t.id}"
    given = {"lazytime": ("lazytime",), "nolazytime": ("nolazytime",), "off": ("lazytime", "nolazytime"),
             "on": ("nolazytime", "lazytime")}  # fmt: skip
    bundle.config["mounts"] += [tmpfs(f"{top}/{name}", "size=1m", *options) for name, options in given.items()]
    seen = yield MOUNTINFO
    for name, mount in accepted(t, seen.stdout, top, tuple(given)).items():
        t.equal(
            "lazytime" in mount.data,
            name in ("lazytime", "on"),
            f"lazytime of a tmpfs with {' and '.join(given[name])}",
        )


@part("newer", "MOUNT-016")
def inode_versions(t: T, bundle: Bundle) -> Part:
    since_1_1(t)
    top = f"/lk-{t.id}"
    bundle.config["mounts"] += [tmpfs(f"{top}/{name}", "size=1m", name) for name in ("iversion", "noiversion")]
    seen = yield MOUNTINFO
    accepted(t, seen.stdout, top, ("iversion", "noiversion"))


@part("newer", "MOUNT-017")
def silent_and_loud(t: T, bundle: Bundle) -> Part:
    since_1_1(t)
    top = f"/lk-{t.id}"
    bundle.config["mounts"] += [tmpfs(f"{top}/{name}", "size=1m", name) for name in ("silent", "loud")]
    seen = yield MOUNTINFO
    accepted(t, seen.stdout, top, ("silent", "loud"))


@check("MOUNT-018")
def defaults(t: T) -> None:
    since_1_1(t)
    source = t.work / "source"
    mount_host(t, source)
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "a tmpfs": partial(tmpfs, "/lk"),
        "a bind mount": partial(bind, "/lk", source, "bind"),
    }
    for kind, mount in kinds.items():
        for given in (("defaults",), ("noexec", "defaults")):
            config = t.config(["/bin/cat", "/proc/self/mountinfo"])
            config["mounts"].append(mount(*given))
            c = t.try_create(config)
            if not t.ok(c.created, f"create with defaults of {kind}"):
                break
            t.require(c.start().ok and c.ended(), "the process starts and ends")
            found = mount_at(c.stdout, "/lk")
            seen = sorted(found.options & FLAGS) if found else "no mount"
            t.equal(seen, [name for name in given if name in FLAGS], f"flags of {kind} with {' and '.join(given)}")


@part("newer", "MOUNT-020")
def no_symlinks(t: T, bundle: Bundle) -> Part:
    since_1_1(t)
    if t.host.kernel < (5, 10):
        t.skip("nosymfollow is new in Linux 5.10")
    top = f"/lk-{t.id}"
    source = t.work / "source"
    mount_host(t, source)
    (source / "file").write_text("followed\n")
    (source / "link").symlink_to("file")
    given = {"nosymfollow": ("nosymfollow",), "symfollow": ("symfollow",), "off": ("nosymfollow", "symfollow")}
    for name, options in given.items():
        bundle.config["mounts"] += [
            tmpfs(f"{top}/t/{name}", "size=1m", *options),
            bind(f"{top}/b/{name}", source, "bind", *options),
        ]
    seen = yield (
        f"cd {top}/t; for d in *; do echo >$d/file; ln -s file $d/link; cat $d/link >/dev/null && echo t $d; done; "
        "cd ../b; for d in *; do cat $d/link >/dev/null && echo b $d; done"
    )
    lines = seen.stdout.splitlines()
    for letter, kind in (("t", "a tmpfs"), ("b", "a bind mount")):
        followed = [line[2:] for line in lines if line.startswith(f"{letter} ")]
        t.equal(followed, ["off", "symfollow"], f"where symbolic links are followed in {kind}")


@part("options", "MOUNT-021")
def copy_up(t: T, bundle: Bundle) -> Part:
    claimed = t.feature("mountOptions")
    if not isinstance(claimed, list) or "tmpcopyup" not in claimed:
        t.skip("the runtime does not claim to know tmpcopyup")
    top = f"/lk-{t.id}"
    inside = bundle.rootfs / top[1:]
    for name in ("copied", "plain"):
        (inside / name / "directory").mkdir(parents=True)
        (inside / name / "directory/file").write_text("as it was\n")
        (inside / name / "directory/file").chmod(0o640)
    bundle.config["mounts"] += [tmpfs(f"{top}/copied", "tmpcopyup"), tmpfs(f"{top}/plain", "size=1m")]
    seen = yield (
        f"cd {top}; {MOUNTINFO}; stat -c %a copied/directory/file; cat copied/directory/file; echo plain/*; "
        "echo new >copied/directory/file"
    )
    lines = [line for line in seen.stdout.splitlines() if " - " not in line]
    found = mount_at(seen.stdout, f"{top}/copied")
    t.equal(found and found.type, "tmpfs", "type of a tmpfs with tmpcopyup")
    t.equal(lines[:2], ["640", "as it was"], "what a tmpfs with tmpcopyup has in it")
    t.equal(lines[2:3], ["plain/*"], "what a tmpfs without tmpcopyup has in it")
    original = seen.c.bundle.rootfs / top[1:] / "copied/directory/file"
    t.equal(original.read_text(), "as it was\n", "the file that was copied, after its copy was written")

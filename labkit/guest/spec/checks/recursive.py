"""Options for a whole subtree of mounts, and mounts with mapped ids: config.md#configLinuxMountOptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...common.procfs import mount_at
from ..context import Bundle, Config, T, set_namespace
from ..parts import Part, part
from ..registry import check
from .mount_options import ATIME, FLAGS, NO_ATIME, since_1_1
from .mounts import MOUNTINFO, bind, mount_host, tree, with_mounts
from .namespaces import has_user_namespaces, knows

RECURSIVE = (5, 12)  # Linux that has mount_setattr(2) with AT_RECURSIVE
MAPPED_TMPFS = (6, 3)  # Linux that can map the ids of a tmpfs
HIGH = 100000


def looking(top: str) -> str:
    """The script for judge_tree."""
    return f"{MOUNTINFO}; echo {top}/*/inner/nested"


def needs_setattr(t: T, kernel: tuple[int, int] = RECURSIVE) -> None:
    since_1_1(t)
    if t.host.kernel < kernel:
        t.skip(f"these options need Linux {'.'.join(map(str, kernel))}")


def judge_tree(
    t: T, text: str, top: str, option: str, expected: set[str], family: frozenset[str], inner: bool = True
) -> None:
    """Compare the flags of the rbind mount at top/OPTION and, with inner, of the one below it.

    A runtime with a kernel of its own may show the files of both as one mount.
    """
    for below, where in (("", "the mount itself"), ("/inner", "the mount below")):
        found = mount_at(text, f"{top}/{option}{below}")
        if below and (not inner or (found is None and f"{top}/{option}/inner/nested" in text.split())):
            continue
        seen = sorted(found.options & family) if found else "no mount"
        t.equal(seen, sorted(expected), f"flags of an rbind mount with {option}: {where}")


@part("root", "MOUNT-022")
def top_only(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    source = tree(t, "source")
    for option in ("ro", "nosuid", "nodev", "noexec"):
        bundle.config["mounts"].append(bind(f"{top}/{option}", source, "rbind", option))
    seen = yield f"{looking(top)}; for d in {top}/ro {top}/ro/inner; do (: >$d/new) && echo wrote $d; done"
    for option in ("ro", "nosuid", "nodev", "noexec"):
        judge_tree(t, seen.stdout, top, option, {option}, FLAGS, inner=False)
        found = mount_at(seen.stdout, f"{top}/{option}/inner")
        flags = sorted(found.options & FLAGS) if found else []
        t.equal(flags, [], f"flags of the mount below an rbind mount with {option}")
    t.true(f"wrote {top}/ro/inner" in seen.stdout, "the mount below an rbind mount with ro can be written")


@part("recursive", "MOUNT-006")
def recursive_ro(t: T, bundle: Bundle) -> Part:
    needs_setattr(t)
    top = f"/lk-{t.id}"
    source = tree(t, "source")
    bundle.config["mounts"] += [
        bind(f"{top}/rro", source, "rbind", "rro"),
        bind(f"{top}/late", source, "rro", "nosuid", "rbind"),
        bind(f"{top}/plain", source, "rbind"),
    ]
    seen = yield f"{looking(top)}; cd {top}; for d in * */inner; do (: >$d/new) && echo wrote $d; done"
    judge_tree(t, seen.stdout, top, "rro", {"ro"}, FLAGS)
    judge_tree(t, seen.stdout, top, "late", {"ro"}, FLAGS - {"nosuid"})
    judge_tree(t, seen.stdout, top, "plain", set(), FLAGS)
    wrote = [line[6:] for line in seen.stdout.splitlines() if line.startswith("wrote ")]
    t.equal(wrote, ["plain", "plain/inner"], "where files can be made: nowhere in a tree with rro")
    t.true((source / "new").exists() and (source / "inner/new").exists(), "the source can be written")


@part("recursive", "MOUNT-023")
def recursive_flags(t: T, bundle: Bundle) -> Part:
    needs_setattr(t)
    top = f"/lk-{t.id}"
    source = tree(t, "source")
    names = ("rnosuid", "rnodev", "rnoexec")
    bundle.config["mounts"] += [bind(f"{top}/{name}", source, "rbind", name) for name in names]
    bundle.config["mounts"] += [bind(f"{top}/all", source, "rbind", *names)]
    seen = yield looking(top)
    for name in names:
        judge_tree(t, seen.stdout, top, name, {name[1:]}, FLAGS)
    judge_tree(t, seen.stdout, top, "all", {name[1:] for name in names}, FLAGS)


@part("newer", "MOUNT-024")
def recursive_access_times(t: T, bundle: Bundle) -> Part:
    needs_setattr(t)
    top = f"/lk-{t.id}"
    source, noatime = tree(t, "source"), tree(t, "noatime", "noatime")
    expected = {"rnoatime": {"noatime"}, "rnodiratime": {"nodiratime"}, "rstrictatime": set[str]()}
    bundle.config["mounts"] += [bind(f"{top}/{name}", source, "rbind", name) for name in expected]
    bundle.config["mounts"].append(bind(f"{top}/rrelatime", noatime, "rbind", "rrelatime"))
    seen = yield looking(top)
    for name, flags in expected.items():
        judge_tree(t, seen.stdout, top, name, flags, ATIME if name == "rstrictatime" else NO_ATIME)
    judge_tree(t, seen.stdout, top, "rrelatime", {"relatime"}, ATIME)


@part("recursive", "MOUNT-025")
def recursive_opposites(t: T, bundle: Bundle) -> Part:
    needs_setattr(t)
    top = f"/lk-{t.id}"
    given = ("ro", "nosuid", "nodev", "noexec")
    source = tree(t, "source", *given)
    opposites = {"rrw": "ro", "rsuid": "nosuid", "rdev": "nodev", "rexec": "noexec"}
    bundle.config["mounts"] += [bind(f"{top}/{name}", source, "rbind", name) for name in opposites]
    seen = yield looking(top)
    for name, gone in opposites.items():
        judge_tree(t, seen.stdout, top, name, set(), frozenset((gone,)))
        below = mount_at(seen.stdout, f"{top}/{name}/inner")
        if below:
            kept = sorted(below.options & FLAGS)
            t.equal(kept, sorted({*given} - {gone}), f"all flags of the mount below an rbind mount with {name}")


@check("MOUNT-039")
def recursive_access_time_opposites(t: T) -> None:
    needs_setattr(t)
    opposites = {"ratime": "noatime", "rdiratime": "nodiratime"}
    config = t.config(looking("/lk"))
    for name, gone in opposites.items():
        config["mounts"].append(bind(f"/lk/{name}", tree(t, gone, gone), "rbind", name))
    text = t.run(config).stdout
    for name, gone in opposites.items():
        judge_tree(t, text, "/lk", name, set(), frozenset((gone,)))


@part("newer", "MOUNT-026")
def recursive_symlinks(t: T, bundle: Bundle) -> Part:
    needs_setattr(t, (5, 14))
    top = f"/lk-{t.id}"
    source = tree(t, "source")
    for directory in (source, source / "inner"):
        (directory / "link").symlink_to("file")
        (directory / "file").write_text("followed\n")
    for name in ("rnosymfollow", "rsymfollow"):
        bundle.config["mounts"].append(bind(f"{top}/{name}", source, "rbind", name))
    seen = yield f"cd {top}; for d in *; do for l in $d $d/inner; do cat $l/link >/dev/null && echo $l; done; done"
    t.equal(seen.stdout.splitlines(), ["rsymfollow", "rsymfollow/inner"], "where symbolic links are followed")


# Mapped ids


def mapping(host: int, size: int = 1000) -> list[dict[str, int]]:
    """Of ids of the source file system: 0 to 9 become host, the next ones host + 5000."""
    return [
        {"containerID": 0, "hostID": host, "size": 10},
        {"containerID": 10, "hostID": host + 5000, "size": size - 10},
    ]


def needs_mapped_mounts(t: T) -> None:
    if t.spec < (1, 2, 0):
        t.skip("the options idmap and ridmap are new in runtime-spec 1.2.0")
    if t.host.kernel < MAPPED_TMPFS:
        t.skip("a tmpfs can have its ids mapped since Linux 6.3")
    if t.host.in_user_namespace:
        t.skip("a tmpfs that belongs to another user namespace cannot have its ids mapped")


def owned(t: T) -> Path:
    """A tree of two mounts of the host, whose files have owners."""
    top = tree(t, "owned")
    for directory in (top, top / "inner"):
        for uid, gid in ((3, 4), (500, 12), (70000, 70001)):
            path = directory / f"f{uid}"
            path.touch()
            t.command(t.host.busybox, "chown", f"{uid}:{gid}", str(path))
    return top


def mapped(t: T, option: str, source: Path, bound: str, **mappings: Any) -> Config:
    config = with_mounts(t, {**bind("/lk", source, bound, option), **mappings})
    config["process"]["args"] = ["/bin/sh", "-c", "cd /lk; stat -c '%u %g' f3 f500 f70000; stat -c '%u %g' inner/f3"]
    return config


BOTH = {"uidMappings": mapping(HIGH), "gidMappings": mapping(2 * HIGH)}
SHOWN = [f"{HIGH + 3} {2 * HIGH + 4}", f"{HIGH + 5490} {2 * HIGH + 5002}"]


@check("MOUNT-008")
def idmap(t: T) -> None:
    needs_mapped_mounts(t)
    source = owned(t)
    c = t.try_create(mapped(t, "idmap", source, "rbind", **BOTH))
    if not t.ok(c.created, "create with idmap and mappings"):
        return
    t.require(c.start().ok and c.ended(), "the process starts and ends")
    lines = [*c.stdout.splitlines(), *[""] * 4]
    t.equal(lines[:2], SHOWN, "owners of files in a mount with idmap")
    t.true(not lines[2].startswith("70000"), "owner of a file whose ids are not mapped", "not itself", lines[2])
    t.note("mount below", lines[3])
    stat = (source / "f3").stat()
    t.equal((stat.st_uid, stat.st_gid), (3, 4), "owner of the source's file")


@check("MOUNT-028")
def ridmap(t: T) -> None:
    needs_mapped_mounts(t)
    c = t.try_create(mapped(t, "ridmap", owned(t), "rbind", **BOTH))
    if not t.ok(c.created, "create with ridmap and mappings"):
        return
    t.require(c.start().ok and c.ended(), "the process starts and ends")
    lines = [*c.stdout.splitlines(), *[""] * 4]
    t.equal(lines[:2], SHOWN, "owners of files in a mount with ridmap")
    t.equal(lines[3], SHOWN[0], "owner of a file in the mount below one with ridmap")


@check("MOUNT-029")
def idmap_without_mappings(t: T) -> None:
    needs_mapped_mounts(t)
    source = t.work / "source"
    mount_host(t, source)
    for option in ("idmap", "ridmap"):
        bound = "bind" if option == "idmap" else "rbind"
        valid = with_mounts(t, {**bind("/lk", source, bound, option), **BOTH})
        offending = with_mounts(t, bind("/lk", source, bound, option))
        t.refused(offending, f"create with {option}, but neither mappings nor a user namespace", valid=valid)


@check("MOUNT-009")
def id_mappings_pair(t: T) -> None:
    if t.spec < (1, 1, 0):
        t.skip("uidMappings and gidMappings of a mount are new in runtime-spec 1.1.0")
    source = t.work / "source"
    mount_host(t, source)
    mount = bind("/lk", source, "bind", "idmap")
    valid = with_mounts(t, {**mount, **BOTH})
    for given, mappings in BOTH.items():
        t.refused(with_mounts(t, {**mount, given: mappings}), f"create with only {given} of a mount", valid=valid)


@check("MOUNT-030")
def idmap_of_the_container(t: T) -> None:
    needs_mapped_mounts(t)
    if not has_user_namespaces() or not knows(t, "user"):
        t.skip("no user namespaces here")
    config = mapped(t, "idmap", owned(t), "rbind")  # a user namespace may not take a tree apart
    set_namespace(config, "user")
    everyone = [{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": HIGH, "size": 65000}]
    config["linux"].update(uidMappings=everyone, gidMappings=everyone)
    c = t.try_create(config)
    if not c.created.ok:  # it MAY use the mapping of the container, otherwise an error
        t.note("create", c.created.words)
        return
    t.require(c.start().ok and c.ended(), "the process starts and ends")
    shown = c.stdout.splitlines()[:2]
    t.equal(shown, ["3 4", "500 12"], "owners in a mount with idmap and the mapping of the container")

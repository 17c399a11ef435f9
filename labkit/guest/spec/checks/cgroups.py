"""Where a container's control group is, whose it is, and what becomes of it: config-linux.md "Control groups"."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Optional

from ..context import CALL_TIMEOUT, SLEEPER, Bundle, Config, T, alive, set_namespace
from ..controllers import MADE, directories, hierarchy, in_made_cgroup, kernel, lacking, make_cgroup
from ..parts import Part, part
from ..registry import check
from .namespaces import has_user_namespaces

DELEGATE = Path("/sys/kernel/cgroup/delegate")
WITHOUT_LIST = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]  # to be handed over where there is no list
HOST_ROOT = 300000


LIMITS = {
    "pids": {"pids": {"limit": 87}},
    "memory": {"memory": {"limit": 1 << 27}},
    "cpu": {"cpu": {"quota": 270000}},
}
LIMITED = {  # the same as the kernel has it: v1 file, v2 file, the first word in it
    "pids": ("pids.max", "pids.max", "87"),
    "memory": ("memory.limit_in_bytes", "memory.max", str(1 << 27)),
    "cpu": ("cpu.cfs_quota_us", "cpu.max", "270000"),
}


def limitable(t: T) -> str:
    """A controller of this host, which need not have every one; skips where it has none of those."""
    found = next((name for name in LIMITS if not lacking(t, name)), "")
    if not found:
        t.skip(lacking(t, *LIMITS))
    return found


def with_limit(t: T, config: Config) -> str:
    """Give the container a limit. Returns the controller's name."""
    name = limitable(t)
    config["linux"]["resources"] = LIMITS[name]
    return name


@check("CG-001")
def absolute_path(t: T) -> None:
    config = t.config(SLEEPER)
    config["linux"]["cgroupsPath"] += "/deep/er"
    used = with_limit(t, config) if any(not lacking(t, name) for name in LIMITS) else ""
    c = t.create(config)
    for controller, directory in directories(t, config["linux"]["cgroupsPath"]).items():
        actual = c.cgroup_dir(controller)
        # Runtimes MAY leave it out of controllers that no resource is set for.
        if controller in ("", used) or config["linux"]["cgroupsPath"].split("/")[1] in actual.parts:
            t.equal(str(actual), str(directory), "cgroup of the container's process")
    if not t.assertions:
        t.skip("nothing that this host limits says where the container's cgroup is")


@check("CG-002")
def same_path_same_place(t: T) -> None:
    config = t.config(SLEEPER)
    relative = config["linux"]["cgroupsPath"] = config["linux"]["cgroupsPath"].lstrip("/")
    used = with_limit(t, config) if any(not lacking(t, name) for name in LIMITS) else with_any(t)
    first = t.try_create(config)
    if not first.created.ok:
        t.fails(first.created, "create with a relative cgroupsPath")
        t.skip("this runtime refuses a relative cgroupsPath, as the spec allows")
    places = [Path(f"/proc/{first.pid}/cgroup").read_text()]
    t.true(str(first.cgroup_dir(used)).endswith(f"/{relative}"), "cgroup", f".../{relative}", places[0])
    t.require(first.delete(force=True).ok, "delete --force exits 0")
    second = t.create(config)
    places.append(Path(f"/proc/{second.pid}/cgroup").read_text())
    t.equal(places[1], places[0], "cgroups of a second container with this relative cgroupsPath")


def unfit(t: T, what: str) -> None:
    """create in a cgroup that is populated or frozen: fails, or goes well."""
    fit = t.config(SLEEPER)
    make_cgroup(t, fit["linux"]["cgroupsPath"])
    valid = t.try_create(fit)
    config = t.config(SLEEPER)
    made = make_cgroup(t, config["linux"]["cgroupsPath"])
    other = t.spawn([t.host.busybox, "sleep", "1000"]).pid
    if what == "populated":  # else it is nothing but frozen
        for directory in made.values():
            (directory / "cgroup.procs").write_text(str(other))
    freezer = made.get("" if t.host.cgroup == "v2" else "freezer")
    if what == "frozen":
        if freezer is None:
            t.skip("no cgroup controller freezer")
        elif t.host.cgroup == "v2":
            (freezer / "cgroup.freeze").write_text("1")
        else:
            (freezer / "freezer.state").write_text("FROZEN")
    c = t.try_create(config, timeout=5 if what == "frozen" else CALL_TIMEOUT)
    t.note(f"create in a {what} cgroup", c.created.describe())
    if c.created.ok:
        t.true(alive(c.pid), f"the process of a container created in a {what} cgroup lives")
        for controller, directory in made.items():
            t.equal(str(c.cgroup_dir(controller)), str(directory), f"cgroup of a container created in a {what} one")
    elif what == "populated" or c.created.status is not None:  # who does not check may hang in a frozen one
        t.fails(c.created, f"create in a {what} cgroup", valid=valid)
        t.fails(c.state(), f"state after create in a {what} cgroup failed")
    else:
        t.note("hangs", True)
        t.may_hang.append(c.created)
    if t.true(alive(other), "the process that was in the cgroup lives") and what == "populated":
        inside = all(str(other) in (one / "cgroup.procs").read_text().split() for one in made.values())
        t.true(inside, "the process that was in the cgroup is still there")


@check("CG-003")
def populated(t: T) -> None:
    unfit(t, "populated")


@check("CG-038")
def frozen(t: T) -> None:
    unfit(t, "frozen")


@check("CG-039")
def existing(t: T) -> None:
    """Without linux.resources, a cgroup that is there keeps its limits."""
    v1, v2, value = LIMITED[limitable(t)]
    config = in_made_cgroup(t, v1.partition(".")[0], [(v1, v2, value)])
    if config is None:
        t.skip("cannot make a cgroup with a limit: its parents do not have the controller")
        return
    config["linux"].pop("resources", None)
    c = t.create(config)
    for name, directory in directories(t, config["linux"]["cgroupsPath"]).items():
        t.equal(str(c.cgroup_dir(name)), str(directory), "cgroup of a container whose cgroup was there")
    t.equal((kernel(t, c, v1, v2) or "").split()[:1], [value], "limit that the cgroup had before")


@check("CG-040")
def delete_keeps_cgroup(t: T) -> None:
    config = t.config()
    made = make_cgroup(t, config["linux"]["cgroupsPath"])
    c = t.run(config)
    t.require(c.wait_stopped(), "the container stops")
    t.ok(c.delete(), "delete")
    kept = all(directory.is_dir() for directory in made.values())
    t.true(kept, "a cgroup that was there before create is kept by delete")


@check("CG-047")
def no_path(t: T) -> None:
    """Where the cgroup is, is the runtime's choice; that the limits hold is not."""
    config = t.config(SLEEPER)
    del config["linux"]["cgroupsPath"]
    v1, v2, expected = LIMITED[with_limit(t, config)]
    value = (kernel(t, t.create(config), v1, v2) or "").split()[:1]
    t.equal(value, [expected], "limit of a container without a cgroupsPath")


# Whose it is


def owners(directory: Path) -> dict[str, int]:
    """By name, "." being the directory itself."""
    found = {".": directory.stat().st_uid}
    for entry in directory.iterdir():
        with suppress(FileNotFoundError):  # a cgroup below it, of another check
            found[entry.name] = entry.stat().st_uid
    return found


def others_than(found: dict[str, int], owner: int) -> dict[str, int]:
    return {name: uid for name, uid in found.items() if uid != owner}


@part("user", "CG-012")
def keeps_owner(t: T, bundle: Bundle) -> Part:
    controller = with_any(t)
    seen = yield ":"
    directory = seen.c.cgroup_dir(controller)
    owner = directory.parent.stat().st_uid
    what = "owners of a cgroup without a cgroup namespace of its own"
    t.equal(others_than(owners(directory), owner), {}, what)


def with_any(t: T) -> str:
    """A controller of this host, "" on v2."""
    if t.host.cgroup == "v2":
        return ""
    found = next((name for name in MADE if hierarchy(t, name)), None)
    if found is None:
        t.skip("no cgroup controller that this check knows")
    return found or ""


def delegating(t: T, options: Optional[list[str]], *, cgroup_namespace: bool = True) -> Bundle:
    """A container as uid 1000 of a user namespace, with a cgroup mount where there are options for one."""
    if not has_user_namespaces():
        t.skip("no user namespaces on this host")
    bundle = t.bundle(t.config(SLEEPER))
    config = bundle.config
    config["process"]["user"] = {"uid": 1000, "gid": 1000}
    set_namespace(config, "user")
    for name in ("uidMappings", "gidMappings"):
        config["linux"][name] = [{"containerID": 0, "hostID": HOST_ROOT, "size": 65536}]
    if cgroup_namespace:
        set_namespace(config, "cgroup")
    if options is not None:
        (bundle.rootfs / "sys/fs/cgroup").mkdir(parents=True)
        mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
        config["mounts"].append({**mount, "options": ["nosuid", "noexec", "nodev", "relatime", *options]})
    bundle.write(config)
    return bundle


@check("CG-041")
def keeps_owner_without_writing(t: T) -> None:
    for what, bundle in (
        ("that is mounted read-only", delegating(t, ["ro"])),
        ("that is not mounted", delegating(t, None)),
        ("that is mounted without a cgroup namespace of its own", delegating(t, ["rw"], cgroup_namespace=False)),
    ):
        c = t.try_create(bundle)
        if not c.created.ok:
            t.note(what, c.created.describe())
            continue
        directory = c.cgroup_dir(with_any(t))
        owner = directory.parent.stat().st_uid
        t.equal(others_than(owners(directory), owner), {}, f"owners of a cgroup {what}")
    if not t.assertions:
        t.skip("none of these containers can be created here")


@check("CG-042")
def delegated(t: T) -> None:
    bundle = delegating(t, ["rw"])
    c = t.create(bundle)
    directory = c.cgroup_dir(with_any(t))
    found = owners(directory)
    changed = others_than(found, directory.parent.stat().st_uid)
    t.note("changed", sorted(changed))
    if t.host.cgroup != "v2":
        t.equal(changed, {}, "owners of a cgroup of v1")
        return
    listed = DELEGATE.read_text().split() if DELEGATE.exists() else WITHOUT_LIST
    t.equal(sorted(set(changed) - {".", *listed}), [], "files that changed owner beside those to be handed over")
    if changed:
        t.equal(sorted(set(changed.values())), [HOST_ROOT + 1000], "new owner of the cgroup")
        expected = sorted({".", *listed} & set(found))
        t.equal(sorted(changed), expected, "the cgroup and each of its files that is to be handed over")

"""Mount propagation: config.md#configLinuxMountOptions and config-linux.md#configLinuxRootfsMountPropagation."""

from __future__ import annotations

from ...common.procfs import Mount, mount_at, own_mounts
from ..context import Bundle, T
from ..parts import Part, part
from ..registry import check
from .mounts import MOUNTINFO, bind, tree

MODES = {"shared": {"shared"}, "slave": {"master"}, "private": set[str](), "unbindable": {"unbindable"}}


def propagation_at(text: str, point: str, mode: str) -> list[str]:
    """A shared mount may get what happens at its source (be slave too) or not."""
    found = mount_at(text, point)
    seen = found.propagation if found else {"no mount"}
    return sorted(seen - ({"master"} if mode == "shared" else set()))


def sources(t: T, bundle: Bundle, top: str, prefix: str) -> None:
    """Mount a tree for each mode; one of another mode, so that each has to be changed."""
    shared, private = tree(t, "top"), tree(t, "cut")
    for made, directory in (("shared", shared), ("private", private)):
        for point in (directory, directory / "inner"):
            t.tool("mount", f"--make-{made}", str(point))
    for mode in MODES:
        source = private if mode == "shared" else shared
        bundle.config["mounts"].append(bind(f"{top}/{mode}", source, "rbind", f"{prefix}{mode}"))
    bundle.config["mounts"].append(bind(f"{top}/plain-shared", shared, "rbind"))
    bundle.config["mounts"].append(bind(f"{top}/plain-private", private, "rbind"))


# Without rootfsPropagation a runtime may cut the mounts off from the host's before.


@part("slave", "MOUNT-005")
def propagation(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    sources(t, bundle, top, "")
    seen = yield MOUNTINFO
    for mode, expected in MODES.items():
        found = propagation_at(seen.stdout, f"{top}/{mode}", mode)
        t.equal(found, sorted(expected), f"propagation of a mount with {mode}")


@part("slave", "MOUNT-041")
def propagation_of_one(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    sources(t, bundle, top, "")
    seen = yield MOUNTINFO
    for mode in MODES:
        plain = "plain-private" if mode == "shared" else "plain-shared"
        untouched = propagation_at(seen.stdout, f"{top}/{plain}/inner", mode)
        below = propagation_at(seen.stdout, f"{top}/{mode}/inner", mode)
        t.equal(below, untouched, f"propagation of the mount below one with {mode}")


@part("slave", "MOUNT-027")
def recursive_propagation(t: T, bundle: Bundle) -> Part:
    top = f"/lk-{t.id}"
    sources(t, bundle, top, "r")
    seen = yield MOUNTINFO
    for mode, expected in MODES.items():
        for below, where in (("", "the mount itself"), ("/inner", "the mount below")):
            found = propagation_at(seen.stdout, f"{top}/{mode}{below}", mode)
            t.equal(found, sorted(expected), f"propagation with r{mode}: {where}")


def root_with(t: T, value: str) -> Mount:
    """The mount at / of a container with this rootfsPropagation."""
    before = hosts_root()
    config = t.config(["/bin/cat", "/proc/self/mountinfo"])
    config["linux"]["rootfsPropagation"] = value
    c = t.run(config)
    t.equal(hosts_root(), before, "propagation of / of the host")
    root = mount_at(c.stdout, "/")
    t.require(root, "a mount at / of the container")
    assert root
    return root


def hosts_root() -> list[str]:
    return sorted(tag for mount in own_mounts() if mount.point == "/" for tag in mount.tags)


def peer_groups() -> frozenset[str]:
    return frozenset(tag for mount in own_mounts() for tag in mount.tags if tag.startswith("shared:"))


@check("PROP-001")
def root_shared(t: T) -> None:
    before = peer_groups()
    root = root_with(t, "shared")
    t.true("shared" in root.propagation, "propagation of / for shared", ["shared"], sorted(root.propagation))
    hosts = before & peer_groups()  # numbers are used again, by other checks too
    t.equal(sorted(root.tags & hosts), [], "peer groups that / has in common with mounts of the host")


@part("slave", "PROP-002")
def root_slave(t: T, bundle: Bundle) -> Part:
    before = hosts_root()
    seen = yield MOUNTINFO
    root = mount_at(seen.stdout, "/")
    t.equal(sorted(root.propagation) if root else "no mount", ["master"], "propagation of / for slave")
    t.equal(hosts_root(), before, "propagation of / of the host")


@check("PROP-003")
def root_private(t: T) -> None:
    t.equal(sorted(root_with(t, "private").propagation), [], "propagation of / for private")


@check("PROP-004")
def root_unbindable(t: T) -> None:
    t.equal(sorted(root_with(t, "unbindable").propagation), ["unbindable"], "propagation of / for unbindable")

"""Device rules: config-linux.md "Allowed Device list".

Majors 60 to 63 and 120 to 127 are for local use and have no driver: opening a node of one fails with ENXIO where it
is allowed, with EPERM where it is not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from ..context import SLEEPER, Bundle, T
from ..controllers import limited, need, resources
from ..parts import Part, part
from ..registry import check

BASE: list[dict[str, Any]] = [
    {"allow": False, "access": "rwm"},
    *({"allow": True, "type": "c", "major": 1, "minor": n, "access": "rwm"} for n in (3, 5, 7, 8, 9)),
    *({"allow": True, "type": "c", "major": n, "access": "rwm"} for n in (5, 136)),
]
KINDS = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}
Node = tuple[str, int, int]  # type, major, minor


def rule(allow: bool, kind: Optional[str], major: Optional[int], minor: Optional[int], access: str) -> dict[str, Any]:
    """None: not in the rule at all."""
    given = {"type": kind, "major": major, "minor": minor}
    return {"allow": allow, **{key: value for key, value in given.items() if value is not None}, "access": access}


def add_rules(t: T, bundle: Bundle, rules: Iterable[dict[str, Any]], nodes: Sequence[Node] = ()) -> None:
    """Rules after those of the other checks, and nodes `/lk-ID-TYPE-MAJOR-MINOR` in the root file system."""
    if t.host.cgroup != "v2":
        need(t, "devices")
    devices: list[dict[str, Any]] = resources(bundle.config).setdefault("devices", [dict(one) for one in BASE])
    devices += rules
    for kind, major, minor in nodes:
        path = bundle.rootfs / name(t, (kind, major, minor))
        try:
            os.mknod(path, KINDS[kind] | 0o666, os.makedev(major, minor))
            path.chmod(0o666)
        except OSError as error:
            t.skip(f"cannot make device nodes on this host: {error.strerror}")
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:
                t.skip(f"cannot use device nodes on this host: {error.strerror}")


def name(t: T, node: Node) -> str:
    return f"lk-{t.id}-{'-'.join(map(str, node))}"


def opening(t: T, nodes: Sequence[Node]) -> str:
    """A script that opens each node for reading, then for writing: two lines for each."""
    files = " ".join(f"/{name(t, node)}" for node in nodes)
    return f"exec 2>&1; for n in {files}; do (: <$n); (: >>$n); done"


def judge_opening(t: T, said: str, expected: Sequence[tuple[str, str]]) -> None:
    """expected: of each node what it is, and which of "r" and "w" may be done to it."""
    lines = said.splitlines()
    t.need_processes()  # they are rules of the host's cgroups
    t.require(len(lines) == 2 * len(expected), "the probe says two lines for each node", 2 * len(expected), lines)
    for number, (what, allowed) in enumerate(expected):
        for at, verb in enumerate(("reading", "writing")):
            line, letter = lines[2 * number + at], "rw"[at]
            text = os.strerror(errno.ENXIO if letter in allowed else errno.EPERM)
            t.true(line.endswith(text), f"{verb} {what}", text, line)


@part("cgroup", "CG-009")
def order(t: T, bundle: Bundle) -> Part:
    nodes: list[Node] = [("c", 60, minor) for minor in range(1, 6)]
    add_rules(
        t,
        bundle,
        [
            rule(True, "c", 60, 1, "rwm"),
            rule(True, "c", 60, 2, "rwm"),
            rule(False, "c", 60, 2, "rwm"),
            rule(False, "c", 60, 3, "rwm"),
            rule(True, "c", 60, 3, "rwm"),
            rule(True, "c", 60, 4, "rwm"),
            rule(False, "c", 60, 4, "w"),
        ],
        nodes,
    )
    seen = yield opening(t, nodes)
    expected = [("a device that is allowed", "rw"), ("a device that is allowed, then denied", "")]
    expected += [("a device that is denied, then allowed", "rw")]
    expected += [("a device that is allowed, then denied for writing", "r"), ("a device that no rule names", "")]
    judge_opening(t, seen.stdout, expected)


@part("cgroup", "CG-035")
def wildcards(t: T, bundle: Bundle) -> Part:
    nodes: list[Node] = [("c", 61, 1), ("c", 61, 200), ("c", 62, 9), ("c", 120, 77), ("c", 121, 77), ("c", 121, 78)]
    add_rules(t, bundle, [rule(True, "c", 61, None, "rw"), rule(True, "c", None, 77, "rw")], nodes)
    seen = yield opening(t, nodes)
    expected = [("a device of a major without a minor", "rw"), ("another device of a major without a minor", "rw")]
    expected += [("a device of another major than that of a rule without a minor", "")]
    expected += [("a device of a minor without a major", "rw"), ("another device of a minor without a major", "rw")]
    judge_opening(t, seen.stdout, [*expected, ("a device of another minor than that of a rule without a major", "")])


@part("cgroup", "CG-036")
def types(t: T, bundle: Bundle) -> Part:
    nodes: list[Node] = [("b", 62, 1), ("c", 62, 1), ("c", 62, 2), ("b", 62, 2)]
    add_rules(t, bundle, [rule(True, "b", 62, 1, "rw"), rule(True, "c", 62, 2, "rw")], nodes)
    seen = yield opening(t, nodes)
    expected = [("a block device that is allowed", "rw"), ("the character device of an allowed block device", "")]
    expected += [("a character device that is allowed", "rw"), ("the block device of an allowed character device", "")]
    judge_opening(t, seen.stdout, expected)


ACCESSES = ("r", "w", "m", "rw", "rm", "wm", "rwm")


@part("cgroup", "CG-037")
def accesses(t: T, bundle: Bundle) -> Part:
    nodes: list[Node] = [("c", 63, minor) for minor in range(1, len(ACCESSES) + 1)]
    add_rules(t, bundle, [rule(True, "c", 63, minor, access) for minor, access in enumerate(ACCESSES, 1)], nodes)
    seen = yield opening(t, nodes)
    judge_opening(t, seen.stdout, [(f"a device with access {access}", access) for access in ACCESSES])


@part("cgroup", "CG-054")
def making(t: T, bundle: Bundle) -> Part:
    if t.host.in_user_namespace:
        t.skip("no device node can be made in a user namespace")
    add_rules(t, bundle, [rule(True, "c", 122, minor, access) for minor, access in enumerate(ACCESSES, 1)])
    minors = " ".join(str(number) for number in range(1, len(ACCESSES) + 2))
    seen = yield f"for n in {minors}; do mknod /tmp/lk-{t.id}-$n c 122 $n && echo made || echo not; done"
    made = seen.stdout.splitlines()
    t.need_processes()
    t.require(len(made) == len(ACCESSES) + 1, "the probe says a line for each node", len(ACCESSES) + 1, made)
    said = {access: made[number] for number, access in enumerate((*ACCESSES, "none"))}
    may = {access: line for access, line in said.items() if "m" in access}
    t.equal(sorted(set(may.values())), ["made"], "making a device with access m")
    denied = {access: line for access, line in said.items() if "m" not in access}
    t.equal(sorted(set(denied.values())), ["not"], "making a device without access m")


@check("CG-050")
def invalid_rules(t: T) -> None:
    if t.host.cgroup != "v2":
        need(t, "devices")
    valid = limited(t, {"devices": [*BASE, rule(True, "c", 60, 1, "rw")]})
    for what, offence in (
        ("of an unknown type", rule(True, "x", 60, 1, "rw")),
        ("with an unknown access", rule(True, "c", 60, 1, "rx")),
    ):
        t.refused(limited(t, {"devices": [*BASE, offence]}), f"create with a device rule {what}", valid=valid)


@check("CG-053")
def everything(t: T) -> None:
    """A rule for all types, explicitly and by absence, allows what rules before it denied."""
    if t.host.cgroup != "v2":
        need(t, "devices")
    for kind in ("a", None):
        bundle = t.bundle(t.config(SLEEPER))
        nodes: list[Node] = [("c", 60, 1), ("b", 60, 1)]
        add_rules(t, bundle, [rule(False, "c", 60, 1, "rwm"), rule(True, kind, None, None, "rwm")], nodes)
        bundle.config["process"]["args"] = ["/bin/sh", "-c", opening(t, nodes)]
        bundle.write(bundle.config)
        which = "of type a" if kind else "without a type"
        expected = [(f"a {device} device after a rule {which}", "rw") for device in ("character", "block")]
        judge_opening(t, t.run(bundle).stdout, expected)

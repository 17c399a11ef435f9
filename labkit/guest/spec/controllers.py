"""Control groups as checks see them: which controllers there are, and what the kernel has for a container."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from ..common.cgroups import CGROUP_ROOT
from .context import SLEEPER, Config, Container, T

MIB = 1 << 20
MADE = ("devices", "freezer", "pids", "memory", "cpu")  # v1 hierarchies in which a check makes cgroups of its own


def hierarchy(t: T, controller: str) -> Optional[Path]:
    """Where the hierarchy of a controller is mounted, None where there is none."""
    if t.host.cgroup == "v2":
        there = (CGROUP_ROOT / "cgroup.controllers").read_text().split()
        return CGROUP_ROOT if controller in there else None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        names = line.split(":", 2)[1]
        if controller in names.split(",") and (CGROUP_ROOT / names / "cgroup.procs").exists():
            return CGROUP_ROOT / names
    return None


def lacking(t: T, *controllers: str) -> str:
    """Which of these controllers the host's cgroups lack, in words; empty where they have them all."""
    missing = sorted(name for name in controllers if hierarchy(t, name) is None)
    return f"no cgroup controller {', '.join(missing)}" if missing else ""


def need(t: T, *controllers: str) -> None:
    """Skip where the host's cgroups lack one of these controllers."""
    if why := lacking(t, *controllers):
        t.skip(why)


def need_v1(t: T, *controllers: str) -> None:
    if t.host.cgroup == "v2":
        t.skip("needs cgroup v1")
    need(t, *controllers)


def need_v2(t: T, *controllers: str) -> None:
    if t.host.cgroup != "v2":
        t.skip("needs cgroup v2")
    need(t, *controllers)


def block_controller(t: T) -> str:
    return "io" if t.host.cgroup == "v2" else "blkio"


def files(t: T, controller: str) -> frozenset[str]:
    """Names of the files that a cgroup of this run has in the hierarchy of a controller."""
    top = hierarchy(t, controller)
    if top is None:
        return frozenset()
    directory = top / t._suite.cgroup(t.id).split("/")[1]
    with suppress(OSError):
        directory.mkdir(exist_ok=True)
    return frozenset(entry.name for entry in directory.iterdir()) if directory.is_dir() else frozenset()


def resources(config: Config) -> dict[str, Any]:
    """linux.resources of a config, made where it has none."""
    found: dict[str, Any] = config["linux"].setdefault("resources", {})
    return found


def limited(t: T, wanted: dict[str, Any]) -> Config:
    """A config of a container with these resources."""
    config = t.config(SLEEPER)
    config["linux"]["resources"] = wanted
    return config


def kernel(t: T, c: Container, v1: str, v2: str = "") -> Optional[str]:
    """What the kernel has in the container's cgroup file, or None when there is no such file."""
    file = c.cgroup_dir(v1.partition(".")[0]) / (v2 if t.host.cgroup == "v2" else v1)
    return file.read_text().strip() if file.exists() else None


def applied_or_refused(t: T, wanted: dict[str, Any], what: str, file: str, expected: str) -> None:
    """A setting that this kernel may lack: create puts it into a v1 file, or fails."""
    c = t.try_create(limited(t, wanted))
    if c.created.ok:
        t.equal(kernel(t, c, file), expected, f"{what} of a container that was created with it")
    else:
        t.fails(c.created, f"create with {what}")


def directories(t: T, path: str) -> dict[str, Path]:
    """Of a cgroupsPath: the directory in v2, else those in some hierarchies of v1, by controller."""
    if t.host.cgroup == "v2":
        return {"": CGROUP_ROOT / path.lstrip("/")}
    tops = {name: hierarchy(t, name) for name in MADE}
    return {name: top / path.lstrip("/") for name, top in tops.items() if top is not None}


def make_cgroup(t: T, path: str) -> dict[str, Path]:
    """Make the cgroup for a cgroupsPath ourselves, with the controllers that its parents can have. It is below the
    check's own, so it goes with that. Returns its directories, see directories(); skips where none can be made.
    """
    made = directories(t, path)
    for directory in made.values():
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            t.skip(f"cannot make a cgroup on this host: {error.strerror}")
    if t.host.cgroup == "v2":
        above = [parent for parent in made[""].parents if CGROUP_ROOT in parent.parents]
        for parent in reversed(above):
            for name in (parent / "cgroup.controllers").read_text().split():
                with suppress(OSError):
                    (parent / "cgroup.subtree_control").write_text(f"+{name}")
    return made


def in_made_cgroup(t: T, controller: str, written: Sequence[tuple[str, str, str]]) -> Optional[Config]:
    """A config whose cgroup is there already, with these values (v1 file, v2 file, text), None where it cannot be.

    So it can be seen that a runtime writes a value that every new cgroup has anyway.
    """
    config = t.config(SLEEPER)
    made = make_cgroup(t, config["linux"]["cgroupsPath"])
    directory = made.get("" if t.host.cgroup == "v2" else controller)
    if directory is None:
        return None
    for v1, v2, text in written:
        file = directory / (v2 if t.host.cgroup == "v2" else v1)
        if not file.exists():
            return None
        file.write_text(text)
    return config


def numbers(text: str) -> set[int]:
    """Of a list like `0-3,7`."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def unlimited(value: Optional[str]) -> bool:
    """Whether a limit is none: "max", or of v1 the largest number of whole pages."""
    return value is not None and (value == "max" or (value.isdigit() and int(value) >= 1 << 62))

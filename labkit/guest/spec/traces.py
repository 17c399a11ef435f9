"""What a container leaves on the host: to see that a failed operation or a delete left nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .cleanup import cgroup_parents, mount_points, processes_of, records
from .context import Container, T, alive


def cgroups(c: Container) -> list[str]:
    """Existing directories of the cgroupsPath of the container's config, in every hierarchy."""
    path = c.bundle.config["linux"]["cgroupsPath"].lstrip("/")
    return [str(parent / path) for parent in cgroup_parents() if (parent / path).is_dir()]


def traces(t: T, c: Container) -> list[str]:
    """Cgroups, mounts, processes and records of a container which are there now, as text.

    Processes are those of the whole check: call it when no other container of the check is left.
    """
    found = [f"cgroup {group}" for group in cgroups(c)]
    found += [f"mount {mount}" for mount in mount_points() if c.bundle.path in mount.parents]
    for pid in processes_of(t.marker, c.bundle.path.parent, c.cgroup):
        with suppress(OSError):
            if alive(pid):
                found.append(f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}")
    return found + [f"record {path}" for path in records(c.id)]


def gone(t: T, c: Container, what: str) -> None:
    """Expects that the container is not known to the runtime and left no traces; its processes may end meanwhile."""
    t.fails(c.state(), f"state after {what}")
    left = traces(t, c)
    if any(trace.startswith("process") for trace in left):
        t.wait(lambda: not any(trace.startswith("process") for trace in traces(t, c)), 5)
        left = traces(t, c)
    t.equal(left, [], f"what is left after {what}")

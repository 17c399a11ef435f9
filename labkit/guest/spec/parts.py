"""Checks that look at one container together: `part`. Creating containers is what a suite's time goes into.

Such a check is a generator. Up to its `yield` it changes the bundle that it is given, beside the changes of others; it
yields a script, and is sent what it can judge::

    @part("root", "HOST-001")
    def hostname(t: T, bundle: Bundle) -> Part:
        bundle.config["hostname"] = "lk-host.example.org"
        seen = yield "uname -n"
        t.equal(seen.stdout, "lk-host.example.org\n", "host name in the container")
        ...                                     # the container runs: seen.c can be looked at from the host, too

The first half has no other effects. What a check adds has names with its id in them (/lk-HOST-001), and what it changes
no other check of its group changes in another way; process.args and process.user are the group's. A check whose group
has no container, or that finds something bad in it, gets one of its own, and that one's verdict counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Callable

from .context import Bundle, Config, Container, Maker, Part, Seen, Skip, SuiteRun, T, alive
from .registry import REQUIREMENTS, Check, Perform, add

__all__ = ["Part", "Seen", "part", "together"]

DONE = "labkit-done"


def _plain(config: Config) -> None:
    """uid 0, with the capabilities of t.config()."""


def _as_user(config: Config) -> None:
    config["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 1002, 70000]}


def _slave(config: Config) -> None:
    config["linux"]["rootfsPropagation"] = "slave"  # so that mounts are not cut off from the host's


def _filtered(config: Config) -> None:
    config["process"]["noNewPrivileges"] = True
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}


GROUPS: dict[str, Callable[[Config], None]] = {
    "root": _plain,
    "user": _as_user,
    "cgroup": _plain,  # whatever is in linux.resources
    # Mount options that a runtime may refuse with all the container.
    "options": _plain,
    "newer": _plain,
    "recursive": _plain,
    "slave": _slave,
    "seccomp": _filtered,  # rules that do not touch each other: for other system calls, or pids
}


def part(group: str, id: str, *, timeout: float = 60) -> Callable[[Maker], Maker]:
    """Register a check that shares the container of its group."""

    def register(maker: Maker) -> Maker:
        add(Check(REQUIREMENTS[id], lambda t: _alone(t, group, maker), timeout, False, group, maker, together))
        return maker

    return register


def _alone(t: T, group: str, maker: Maker) -> None:
    """The check with a container of its own."""
    bundle = _bundle(t, group)
    looking = maker(t, bundle)
    script = next(looking)
    c = _run(t, bundle, {t.id: script})
    _judge(looking, _seen(t, c))


def together(holder: T, checks: Sequence[Check], suite: SuiteRun, perform: Perform) -> dict[str, Any]:
    """The outcomes of checks of one group, by id, on one container, which holder has; none where there is none."""
    bundle = _bundle(holder, checks[0].group)
    parts: dict[str, tuple[Check, T, Part]] = {}
    scripts: dict[str, str] = {}
    outcomes: dict[str, Any] = {}
    began = time.monotonic()
    for check in checks:
        t = T(check.requirement.id, suite, check.timeout, beside=holder)
        t.work.mkdir()
        assert check.maker
        looking = check.maker(t, bundle)
        try:
            scripts[t.id] = next(looking)
        except Skip as skip:
            outcomes[t.id] = perform(check, t, partial(_skip, skip))
        else:
            parts[t.id] = check, t, looking
    if parts:
        c = _run(holder, bundle, scripts)
        share = round((time.monotonic() - began) / len(parts), 3)
        for id, (check, t, looking) in parts.items():
            t._begin()
            outcomes[id] = perform(check, t, partial(_judge_part, looking, c))
            outcomes[id]["seconds"] += share
    return outcomes


def _bundle(t: T, group: str) -> Bundle:
    config = t.config()
    GROUPS[group](config)
    return t.bundle(config)


def _run(t: T, bundle: Bundle, scripts: Mapping[str, str]) -> Container:
    """A container whose scripts have ended, and which still runs."""
    parts = [f"(\n{script}\n) >/out/{id}.stdout 2>/out/{id}.stderr </dev/null" for id, script in scripts.items()]
    script = "\n".join([*parts, f": >/out/{DONE}", "exec sleep 1000"])
    bundle.config["process"]["args"] = ["/bin/sh", "-c", script]
    bundle.write(bundle.config)
    c = t.create(bundle)
    lives = alive(c.pid)  # a runtime's pid may be none of this host
    started = c.start()
    t.require(started.ok, "start exits 0", 0, started.describe())
    t.wait(lambda: bundle.read(DONE) is not None or (lives and not alive(c.pid)), 30)
    t.require(bundle.read(DONE) is not None, "the scripts in the container end")
    return c


def _seen(t: T, c: Container) -> Seen:
    return Seen(c, c.bundle.read(f"{t.id}.stdout") or "", c.bundle.read(f"{t.id}.stderr") or "")


def _skip(skip: Skip, t: T) -> None:
    raise skip


def _judge_part(looking: Part, c: Container, t: T) -> None:
    _judge(looking, _seen(t, c.seen_by(t)))


def _judge(looking: Part, seen: Seen) -> None:
    try:
        looking.send(seen)
    except StopIteration:
        return
    raise TypeError("a part yields once")

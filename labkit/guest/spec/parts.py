"""Checks that look at one container together: `part`. Creating containers is what a suite's time goes into.

Such a check is a generator. Up to its `yield` it changes the bundle that it is given, beside the changes of others; it
yields a script, and is sent what it can judge::

    @part("root", "HOST-001")
    def hostname(t: T, bundle: Bundle) -> Part:
        bundle.config["hostname"] = "lk-host.example.org"
        seen = yield "uname -n"
        t.equal(seen.stdout, "lk-host.example.org\n", "host name in the container")
        ...                                     # the container runs: seen.c can be looked at from the host, too

The first half has no other effects, and is the same whenever it runs: it runs once for the container of all, and again
        ...  # the container runs: seen.c can be looked at from the host, too
and what it changes no other check of its group changes in another way; process.args and process.user are the group's.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Callable

from .context import Bundle, Config, Container, T
from .registry import check

DONE = "labkit-done"


@dataclass(frozen=True)
class Seen:
    """c: the container, which runs; stdout, stderr: of the check's script."""

    c: Container
    stdout: str
    stderr: str


Part = Generator[str, Seen, None]
Maker = Callable[[T, Bundle], Part]


def _as_user(config: Config) -> None:
    config["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 1002, 70000]}


GROUPS: dict[str, Callable[[Config], None]] = {
    "root": lambda config: None,  # uid 0, with the capabilities of t.config()
    "user": _as_user,
    "cgroup": lambda config: None,  # whatever is in linux.resources
}


def part(group: str, id: str, *, timeout: float = 60) -> Callable[[Maker], Maker]:
    """Register a check that shares the container of its group."""

    def register(maker: Maker) -> Maker:
        check(id, timeout=timeout)(lambda t: alone(t, group, maker))
        return maker

    return register


def alone(t: T, group: str, maker: Maker) -> None:
    """The check with a container of its own."""
    config = t.config()
    GROUPS[group](config)
    bundle = t.bundle(config)
    looking = maker(t, bundle)
    script = next(looking)
    bundle.config["process"]["args"] = ["/bin/sh", "-c", _script({t.id: script})]
    bundle.write(bundle.config)
    c = t.create(bundle)
    started = c.start()
    t.require(started.ok, "start exits 0", 0, started.describe())
    t.require(t.wait(lambda: bundle.read(DONE) is not None, 30), "the scripts in the container end")
    _judge(looking, Seen(c, bundle.read(f"{t.id}.stdout") or "", bundle.read(f"{t.id}.stderr") or ""))


def _script(scripts: dict[str, str]) -> str:
    parts = [f"(\n{script}\n) >/out/{id}.stdout 2>/out/{id}.stderr </dev/null" for id, script in scripts.items()]
    return "\n".join([*parts, f": >/out/{DONE}", "exec sleep 1000"])


def _judge(looking: Part, seen: Seen) -> None:
    try:
        looking.send(seen)
    except StopIteration:
        return
    raise TypeError("a part yields once")

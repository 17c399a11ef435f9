"""Checks that look at one container on its way from create to delete: `stage`. As `part` is for what is inside of one.

Such a check is a generator that yields the stages at which it wants to look, in their order, and is sent it::

    @stage("STATE-004")
    def state_status(t: T) -> Stage:
        c = yield "created"
        t.equal(c.status(), "created", "status after create")
        c = yield "stopped"                     # what brings it there is done for all
        ...

It changes nothing about the container: what it asks for is refused, or has no effect. The program writes to /out/ran:
`started` once the runtime was asked to start it, `early` if it runs before; it ends once /out/end is there. As with
parts, a check that has no such container, or finds something bad in it, gets one of its own.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Optional

from .context import Bundle, Container, Skip, Stop, SuiteRun, T
from .registry import REQUIREMENTS, Check, Perform, add

STAGES = ("created", "running", "stopped", "deleted")
# Says whether it ran before /out/started was there.
WHEN = "[ -e /out/started ] && echo started >>/out/ran || echo early >>/out/ran"
Stage = Generator[str, Container, None]
Maker = Callable[[T], Stage]


def stage(id: str, *, timeout: float = 60) -> Callable[[Maker], Maker]:
    """Register a check that shares the container of those like it."""

    def register(maker: Maker) -> Maker:
        add(Check(REQUIREMENTS[id], partial(_alone, maker), timeout, False, "stages", maker, together))
        return maker

    return register


class _Looker:
    """A check on its way. wants: the next stage that it looks at, "" where it is done; problem: what ended it."""

    def __init__(self, t: T, maker: Maker) -> None:
        self.t = t
        self.problem: Optional[Exception] = None
        self._looking = maker(t)
        self._step(partial(next, self._looking))

    def look(self, c: Container) -> None:
        self._step(partial(self._looking.send, c.seen_by(self.t)))

    def judge(self, t: T) -> None:
        if self.problem:
            raise self.problem

    def _step(self, step: Callable[[], str]) -> None:
        self.wants = ""
        try:
            self.wants = step()
        except StopIteration:
            return
        except Exception as problem:
            self.problem = problem


def _alone(maker: Maker, t: T) -> None:
    """The check with a container of its own."""
    looker = _Looker(t, maker)
    _lead(t, [looker])
    looker.judge(t)


def together(holder: T, checks: Sequence[Check], suite: SuiteRun, perform: Perform) -> dict[str, Any]:
    """The outcomes of these checks, by id, on one container, which holder has; none of those it did not come to."""
    began = time.monotonic()
    lookers = {}
    for check in checks:
        t = T(check.requirement.id, suite, check.timeout, beside=holder)
        t.work.mkdir()
        assert check.maker
        lookers[t.id] = check, _Looker(t, check.maker)
    with suppress(Stop, Skip):
        _lead(holder, [looker for _, looker in lookers.values()])
    share = round((time.monotonic() - began) / len(checks), 3)
    outcomes = {}
    for id, (check, looker) in lookers.items():
        if not looker.wants:
            outcomes[id] = perform(check, looker.t, looker.judge)
            outcomes[id]["seconds"] += share
    return outcomes


def _lead(t: T, lookers: Sequence[_Looker]) -> None:
    """A container through the stages, as far as anybody wants to look."""
    bundle = t.bundle(f"{WHEN}; until [ -e /out/end ]; do sleep 0.02; done")
    c: Optional[Container] = None
    for name in STAGES:
        if not any(looker.wants for looker in lookers):
            return
        c = _reach(t, name, bundle, c)
        for looker in lookers:
            if looker.wants == name:
                looker.look(c)


def _reach(t: T, stage: str, bundle: Bundle, c: Optional[Container]) -> Container:
    if c is None:
        return t.create(bundle)
    if stage == "running":
        bundle.put("started")
        t.require(c.start().ok, "start exits 0")
    elif stage == "stopped":
        bundle.put("end")
        t.require(c.wait_stopped(), "the container stops")
    else:
        done = c.delete()
        t.require(done.ok, "delete exits 0", 0, done.describe())
    return c

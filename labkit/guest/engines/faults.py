"""What an engine does where its runtime fails: it has to tell its user, clean up, and stay usable.

Each fault is the spy's answer to one command. A container is started under it, in the background where the engine can;
then the runtime is itself again, everything is removed, and another container runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from . import machine
from .base import SECONDS, Broken, Cannot, Done
from .conversation import Failed, Observed, Talk
from .session import Session

ID = "FAULT-"  # what ids begin with
_TELL = 12.0  # seconds in which a person has been told of what hangs
_HANG = "25"  # seconds that a command hangs
_WORDS = "labkit: this runtime fails as it was told to"


Answers = Sequence[Mapping[str, str]]
Use = Callable[[Session, Talk, Answers], Done]


class Fault:
    """use is what a person does under it; the spy's answers, as labkit/guest/spy has them. succeeds: whether the engine
    may rightly say that all is well.
    """

    def __init__(self, name: str, title: str, use: Use, *answers: Mapping[str, str], succeeds: bool = False) -> None:
        self.id, self.title, self.use, self.answers, self.succeeds = f"{ID}{name}", title, use, answers, succeeds


def _run(session: Session, talk: Talk, answers: Answers) -> Done:
    session.meddle(answers)
    return talk.run(["echo", "hello"])


def _kill(session: Session, talk: Talk, answers: Answers) -> Done:
    """The fault begins once a container runs."""
    name = talk.detach(["sleep", "600"])
    session.meddle(answers)
    try:
        return session.engine.kill(name, "KILL")
    except Cannot:
        return session.engine.remove(name, force=True)


def _fail(command: str) -> dict[str, str]:
    return {"do": "fail", "command": command, "status": "1", "stderr": f"{_WORDS}\\n", "log": "yes"}


FAULTS = (
    Fault("create-fails", "create fails", _run, _fail("create")),
    Fault("create-hangs", "create hangs", _run, {"do": "hang", "command": "create", "seconds": _HANG, "run": "no"}),
    Fault(
        "create-garbage",
        "create fails and prints what is no text",
        _run,
        {"do": "garbage", "command": "create", "status": "1", "run": "no"},
    ),
    Fault("create-lies", "create says that all is well, and did nothing", _run, {**_fail("create"), "status": "0"}),
    Fault("no-pid-file", "create leaves no pid file", _run, {"do": "lose-pid-file", "command": "create"}),
    Fault("start-fails", "start fails", _run, _fail("start")),
    Fault("start-hangs", "start hangs", _run, {"do": "hang", "command": "start", "seconds": _HANG, "run": "no"}),
    Fault("kill-fails", "kill fails", _kill, _fail("kill")),
    Fault("delete-fails", "delete fails once", _run, {**_fail("delete"), "call": "1"}, succeeds=True),
    Fault(
        "state-lies", "state says stopped of what runs", _run, {"do": "wrong-status", "command": "state"}, succeeds=True
    ),
)


def hold(session: Session, wanted: Sequence[str]) -> Iterator[dict[str, object]]:
    """Each fault's outcome as it comes: fault, expected, one of observed, cannot (why), failed; seconds, commands."""
    session.meddle(())
    talk = Talk(session.engine)
    talk.run(["true"])  # what an engine makes once, such as its parent cgroup, is no leftover
    for fault in FAULTS:
        if fault.id not in wanted:
            continue
        first = len(session.place.commands)
        began = time.monotonic()
        found: dict[str, object] = {"fault": fault.id, "expected": _expected(fault)}
        try:
            found["observed"] = _observed(session, talk, fault)
        except Cannot as why:
            found["cannot"] = str(why)
        except (Broken, Failed) as why:
            found["failed"] = str(why)
        finally:
            session.meddle(())
            talk.clean()
        found["seconds"] = round(time.monotonic() - began, 3)
        found["commands"] = [done.to_json() for done in session.place.commands[first:]][-20:]
        yield found


def _expected(fault: Fault) -> Observed:
    told: Observed = {} if fault.succeeds else {"told": True}
    return {"ends": True, **told, "listed afterwards": [], "left": [], "then": {"status": 0, "printed": ["hello"]}}


def _observed(session: Session, talk: Talk, fault: Fault) -> Observed:
    before = machine.Snapshot()
    listed = set(session.engine.containers())
    session.place.limit = _TELL if any(answer["do"] == "hang" for answer in fault.answers) else SECONDS
    try:
        done = fault.use(session, talk, fault.answers)
    finally:
        session.place.limit = SECONDS
        session.meddle(())
    with suppress(Cannot):
        for name in set(session.engine.containers()) - listed:
            session.engine.remove(name, force=True)
    again = talk.run(["echo", "hello"])
    own = {child.pid for child in session.place.daemons}
    seen: Observed = {"ends": done.status is not None}
    if not fault.succeeds:
        seen["told"] = done.status not in (0, None) and bool((done.err + done.out).strip())
    seen["listed afterwards"] = sorted(set(session.engine.containers()) - listed)
    seen["left"] = before.left(own)
    seen["then"] = {"status": again.status, "printed": again.out.split()}
    return seen

"""Runs the checks, several at a time, as PID 1 of a new PID namespace."""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EACCES, EINVAL, EPERM, EROFS
from typing import Any, Callable, Optional

from ..common.children import ENDING, Signals, exit_with, kill_group
from ..common.errors import Interrupted
from ..common.repeats import counted, repeated
from . import cleanup, transcript
from .context import Skip, Stop, SuiteRun, T
from .registry import Check, Requirement
from .tap import ITEM_LIMIT, shortened

CLEANUP_TIMEOUT = 30.0  # seconds
BAD = ("fail", "error", "timeout")
Result = dict[str, Any]


@dataclass
class _Job:
    """One running check, or several that share a container: members. pid: its process, or the janitor's that cleans up
    after it; report: read end of its pipe.
    """

    check: Check
    pid: int
    report: int
    started: float
    deadline: float
    data: bytearray = field(default_factory=bytearray)
    result: Optional[Result] = None
    cleaning: bool = False
    members: Sequence[Check] = ()


Emit = Callable[[Result, Check], None]


@dataclass(frozen=True)
class Way:
    """How checks are run. lifeline: a pipe's read end; its EOF interrupts. jobs: how many at a time; shared: those of a
    group look at one container first.
    """

    lifeline: int
    jobs: int = 1
    shared: bool = False


def run_checks(checks: Iterable[Check], suite: SuiteRun, way: Way, emit: Emit) -> None:
    """Run all; emit(result, check) for each as it ends.

    Raises Interrupted after everything that ran was ended and cleaned up; what emit raises, after the same.
    """
    _Runner(suite, way, emit).run(list(checks))


class _Runner:
    def __init__(self, suite: SuiteRun, way: Way, emit: Emit) -> None:
        self.suite = suite
        self.way = way
        self.emit = emit
        self.running: dict[int, _Job] = {}
        self.waiting: list[Check] = []
        self.selector = selectors.DefaultSelector()
        self.signals = Signals()
        self.selector.register(self.signals.fd, selectors.EVENT_READ)
        self.selector.register(way.lifeline, selectors.EVENT_READ)

    def run(self, checks: list[Check]) -> None:
        groups: dict[str, list[Check]] = {}
        for check in checks if self.way.shared else ():
            if check.group:
                groups.setdefault(check.group, []).append(check)
        together = {name: members for name, members in groups.items() if len(members) > 1}
        gc.freeze()  # else each child copies what a collection of its own looks at
        single = [check for check in checks if check.group not in together]
        self.waiting = [c for c in single if not c.exclusive] + [c for c in single if c.exclusive]
        try:
            while together or self.waiting or self.running:
                while together and len(self.running) < self.way.jobs:
                    self._start(*_holder(*together.popitem()))
                while self.waiting and self._may_start(self.waiting[0]):
                    self._start(self.waiting.pop(0))
                self._turn()
        finally:
            self._end_all()

    def _may_start(self, check: Check) -> bool:
        if check.exclusive or any(job.check.exclusive for job in self.running.values()):
            return not self.running
        return len(self.running) < self.way.jobs

    def _turn(self) -> None:
        now = time.monotonic()
        next_deadline = min((job.deadline for job in self.running.values()), default=now + 1)
        for key, _ in self.selector.select(max(next_deadline - now, 0)):
            if key.fd == self.signals.fd:
                self.signals.drain()
            elif key.fd == self.way.lifeline:
                self.signals.remember(signal.SIGTERM)
            else:
                self._read(key.data)
        self._reap()
        for job in list(self.running.values()):
            if time.monotonic() >= job.deadline:
                self._overdue(job)
        self.signals.check()

    def _start(self, check: Check, members: Sequence[Check] = ()) -> None:
        read, write = os.pipe()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            exit_with(lambda: self._child(check, members, write))
        os.close(write)
        os.set_blocking(read, False)
        job = _Job(check, pid, read, started, started + check.timeout, members=members)
        self.running[pid] = job
        self.selector.register(read, selectors.EVENT_READ, job)

    def _child(self, check: Check, members: Sequence[Check], write: int) -> int:
        """In the check's process; its exit status."""
        _become_child()
        t = T(check.requirement.id, self.suite, check.timeout)
        t.work.mkdir()
        outcome: Result = {}
        if members and members[0].together:
            with suppress(Stop, Skip):  # no container: each gets its own
                outcome = members[0].together(t, members, self.suite, _perform)
            t._finish()
        else:
            outcome = _perform(check, t, check.function)
        if self.suite.transcripts and outcome.get("verdict") in BAD:
            transcript.aftermath(self.suite.transcript(check.requirement.id), t.work)
        text = json.dumps(outcome).encode()
        with os.fdopen(write, "wb") as pipe:
            pipe.write(text)
        self._clean(check)
        return 0

    def _clean(self, check: Check) -> None:
        suite, id = self.suite, check.requirement.id
        ids = None if suite.private else suite.ids(id)
        cleanup.remove(suite.marker(id), suite.check_work(id), ids, suite.cgroups, suite.cgroup(id), suite.host)

    def _read(self, job: _Job) -> None:
        try:
            data = os.read(job.report, 1 << 16)
        except BlockingIOError:
            return
        job.data += data
        if data:
            return
        self._close(job)
        if job.result is None:  # else it was overdue
            with suppress(ValueError):  # cut short: it died
                job.result = json.loads(job.data)
                job.deadline = time.monotonic() + CLEANUP_TIMEOUT
                job.cleaning = True

    def _close(self, job: _Job) -> None:
        if job.report >= 0:
            self.selector.unregister(job.report)
            os.close(job.report)
            job.report = -1

    def _reap(self) -> None:
        """Collect checks that ended, and the orphans of containers: their exit status goes to exits/PID."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            job = self.running.get(pid)
            if job is None:
                file = self.suite.work / "exits" / str(pid)
                draft = file.with_suffix(".new")
                draft.write_text(str(os.waitstatus_to_exitcode(status)))
                draft.rename(file)
                continue
            while job.report >= 0 and _readable(job.report):
                self._read(job)
            self._ended(job, os.waitstatus_to_exitcode(status))

    def _ended(self, job: _Job, status: int) -> None:
        del self.running[job.pid]
        self._close(job)
        if job.result is None:
            job.result = self._result(job, "error", f"the check's process ended with status {status} and no report")
            self._aftermath(job)
            self._janitor(job)
        elif status and not job.cleaning:
            self._janitor(job)
        elif job.members:
            for member in job.members:
                outcome = job.result.get(member.requirement.id, {})
                if outcome.get("verdict") in ("pass", "skip"):
                    self.emit(outcome, member)
                else:
                    self.waiting.insert(0, member)
        else:
            self.emit(self._told(job.check, job.result), job.check)

    def _told(self, check: Check, outcome: Result) -> Result:
        """The result with what the check did, where it is bad."""
        suite, id = self.suite, check.requirement.id
        file = suite.transcript(id)
        if not suite.transcripts:
            return outcome
        facts = {
            "work": str(suite.check_work(id)),
            "name": suite.name,
            "runtime": list(suite.host.runtime),
            "busybox": suite.host.busybox,
        }
        packed = transcript.packed(file, facts) if outcome["verdict"] in BAD else ""
        file.unlink(missing_ok=True)
        return {**outcome, "transcript": packed} if packed else outcome

    def _overdue(self, job: _Job) -> None:
        kill_group(job.pid)
        if job.result is None:
            job.result = self._result(job, "timeout", f"timed out after {job.check.timeout:g} s")
            self._aftermath(job)
            job.deadline = time.monotonic() + CLEANUP_TIMEOUT  # it ends now; _ended sends the janitor
        else:
            job.deadline = time.monotonic() + CLEANUP_TIMEOUT

    def _aftermath(self, job: _Job) -> None:
        """What a check leaves that cannot tell it any more."""
        id = job.check.requirement.id
        if self.suite.transcripts and not job.members:
            transcript.aftermath(self.suite.transcript(id), self.suite.check_work(id))

    def _janitor(self, job: _Job) -> None:
        """Clean up after a check that cannot do it itself any more; it keeps its slot meanwhile."""

        def clean() -> int:
            _become_child()
            self._clean(job.check)
            return 0

        pid = os.fork()
        if pid == 0:
            exit_with(clean)
        job.pid, job.cleaning, job.deadline = pid, True, time.monotonic() + CLEANUP_TIMEOUT
        self.running[pid] = job

    def _result(self, job: _Job, verdict: str, message: str) -> Result:
        return result(job.check, verdict, time.monotonic() - job.started, message)

    def _end_all(self) -> None:
        """After an interruption: kill the checks and clean up after them, within CLEANUP_TIMEOUT."""
        self.emit = lambda *_: None
        for job in list(self.running.values()):
            if not job.cleaning:
                kill_group(job.pid)
                job.result = job.result or self._result(job, "error", "interrupted")
        deadline = time.monotonic() + CLEANUP_TIMEOUT
        while self.running and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.01)


def _holder(group: str, members: Sequence[Check]) -> tuple[Check, Sequence[Check]]:
    """What runs for those that share a container."""
    requirement = Requirement(f"SHARED-{group}", "", "", "", "")
    return Check(requirement, lambda t: None, 60.0 + 2 * len(members), exclusive=False), members


def _perform(check: Check, t: T, function: Callable[[T], None]) -> Result:
    """Run the check's function and give its verdict."""
    started = time.monotonic()
    verdict, message = "", ""
    try:
        function(t)
    except Stop:
        pass
    except Skip as skip:
        verdict, message = "skip", str(skip)
    except OSError as error:
        refused = t.host.in_user_namespace and error.errno in (EACCES, EINVAL, EPERM, EROFS)
        verdict, message = "error", traceback.format_exc(limit=-8)
        if refused:  # the check itself may not do what root may
            verdict, message = "skip", f"not permitted in the user namespace of the suite: {error}"
    except Exception:
        verdict, message = "error", traceback.format_exc(limit=-8)
    try:
        t._finish()
    except Exception:
        verdict, message = "error", traceback.format_exc(limit=-8)
    if not t.failures:
        t.ended_by_themselves()
    if verdict == "error":
        pass
    elif t.failures:
        verdict, message = "fail", told(t.failures[0])
    elif not verdict and t.unjudged and not t.assertions:
        verdict, message = "skip", t.unjudged[0]
    elif not verdict and not t.assertions and check.requirement.level != "MAY":
        verdict, message = "error", "the check compared nothing"
    outcome = result(check, verdict or "pass", time.monotonic() - started, message)
    if outcome["verdict"] != "pass":
        commands = [
            {"argv": p.argv, "status": p.status, "seconds": round(p.seconds, 3), "stderr": p.stderr[-1000:]}
            for p in t.commands
        ]
        outcome["failures"] = _first_and_last(t, "failures", t.failures)
        outcome["commands"] = _first_and_last(t, "commands", commands)
    if t.unjudged:
        t.note("not judged", t.unjudged)
    if t.notes:
        outcome["notes"] = t.notes
    return {key: shortened(value) for key, value in outcome.items()}


def _first_and_last(t: T, what: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many records as are printed. A list of them holds nothing else, so how many are left out is a note."""
    if len(records) <= ITEM_LIMIT:
        return records
    t.note(f"{what} left out", len(records) - ITEM_LIMIT)
    return [*records[: ITEM_LIMIT // 2], *records[-ITEM_LIMIT // 2 :]]


def result(check: Check, verdict: str, seconds: float, message: str) -> Result:
    """A result as it is printed. A pass has no message."""
    requirement = check.requirement
    outcome = {
        "id": requirement.id,
        "level": requirement.level,
        **({"implied": requirement.implied} if requirement.implied else {}),
        "reference": requirement.reference,
        "verdict": verdict,
        "seconds": round(seconds, 3),
    }
    return outcome if verdict == "pass" else {**outcome, "message": message}


def _readable(fd: int) -> bool:
    selector = selectors.DefaultSelector()
    try:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(0))
    finally:
        selector.close()


def _become_child() -> None:
    """Give this process its own session and the default signal handling."""
    signal.set_wakeup_fd(-1)
    for number in (*ENDING, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()


def run_confirmed(checks: Iterable[Check], suite: SuiteRun, way: Way, emit: Emit) -> None:
    """As run_checks, but what is bad is run again alone, twice at most, before it is emitted: see settled().

    What was not run again because the run was ended is emitted as it was.
    """
    bad: list[tuple[Result, Check]] = []

    def first(outcome: Result, check: Check) -> None:
        if outcome["verdict"] in BAD:
            bad.append((outcome, check))
        else:
            emit(outcome, check)

    try:
        run_checks(checks, suite, way, first)
        while bad:
            outcome, check = bad[0]
            attempts = [outcome]
            again = suite
            while len(attempts) < 3 and not (len(attempts) > 1 and attempts[-1]["verdict"] in BAD):
                again = again.again()
                attempts.append(run_alone(check, again, way.lifeline))
            bad.pop(0)
            emit(settled(attempts), check)
    except Interrupted:
        for outcome, check in bad:
            emit(outcome, check)
        raise


def run_alone(check: Check, suite: SuiteRun, lifeline: int) -> Result:
    found: list[Result] = []
    run_checks([check], suite, Way(lifeline), lambda outcome, _: found.append(outcome))
    return found[0]


def settled(attempts: Sequence[Result]) -> Result:
    """The result of a check that was bad at first, after what it showed when it was run again.

    Bad again: so it is, with the findings that repeat. Else flaky.
    """
    first, *again = attempts
    verdicts = [one["verdict"] for one in attempts]
    found = repeated(_findings(first), [_findings(one) if one["verdict"] in BAD else None for one in again])
    outcome = {**first, "attempts": verdicts}
    if not found.repeats:
        return {**outcome, "verdict": "flaky", "message": f"{' then '.join(verdicts)}: {first.get('message', '')}"}
    if not found.once:
        return outcome
    kept = [one for one in first["failures"] if one["finding"] in found.findings]
    notes = {**first.get("notes", {}), "seen only once": list(found.once)}
    return {**outcome, "message": told(kept[0]), "failures": kept, "notes": notes}


def run_repeated(checks: Sequence[Check], suite: SuiteRun, way: Way, emit: Emit, times: int) -> None:
    """As run_checks, but each check so often, whatever it shows, before it is emitted: see summed().

    Some of them at a time, so that what has ended is told early. What was run less often, because the run was ended, is
    emitted as far as it came.
    """
    left = sorted(checks, key=lambda check: check.exclusive)
    at_once = max(16, 4 * way.jobs)
    while left:
        some, left = left[:at_once], left[at_once:]
        seen: dict[str, list[Result]] = {}
        this = suite

        def keep(outcome: Result, check: Check, seen: dict[str, list[Result]] = seen) -> None:
            seen.setdefault(check.requirement.id, []).append(outcome)

        try:
            for time_ in range(times):
                this = this.again() if time_ else this
                run_checks(some, this, way, keep)
        finally:
            for check in some:
                if check.requirement.id in seen:
                    emit(summed(seen[check.requirement.id]), check)


def summed(attempts: Sequence[Result]) -> Result:
    """The result of a check that was run several times: what is good in some of them and bad in others is flaky, and so
    is what was looked at in some of them only. Each failure says in how many it was there; those that only one of
    several had are no finding, as in settled().
    """
    verdicts = [one["verdict"] for one in attempts]
    bad = [one for one in attempts if one["verdict"] in BAD]
    shown = min(attempts, key=lambda one: _WORST.index(one["verdict"]) if one["verdict"] in _WORST else len(_WORST))
    outcome = {**shown, "seconds": round(sum(one["seconds"] for one in attempts), 3)}
    outcome["attempts"] = verdicts[:ITEM_LIMIT]
    if not bad:
        return outcome if len(set(verdicts)) == 1 else {**outcome, **_flaky(verdicts, shown)}
    found = counted([_findings(one) for one in bad])
    records: dict[str, Any] = {}
    for one in bad:
        for failure in one.get("failures", ()):
            times = f"{found.often[failure['finding']]} of {len(verdicts)}"
            records.setdefault(failure["finding"], {**failure, "times": times})
    kept = [records[name] for name in found.findings]
    if kept:
        outcome.update(failures=kept[:ITEM_LIMIT], message=told(kept[0]))
    if found.once:
        outcome["notes"] = {**outcome.get("notes", {}), "seen only once": list(found.once)}
    return outcome if len(bad) == len(verdicts) else {**outcome, **_flaky(verdicts, outcome)}


_WORST = ("fail", "error", "timeout", "skip", "pass")


def _flaky(verdicts: Sequence[str], shown: Mapping[str, Any]) -> Result:
    times = ", ".join(f"{verdict} {many} of {len(verdicts)} times" for verdict, many in Counter(verdicts).items())
    return {"verdict": "flaky", "message": f"{times}: {shown['message']}" if shown.get("message") else times}


def _findings(outcome: Result) -> list[str]:
    return [one["finding"] for one in outcome.get("failures", ())]


def told(failure: Mapping[str, Any]) -> str:
    return f"{failure['what']}: expected {failure['expected']!r:.200}, got {failure['actual']!r:.500}"

"""The use case `bisect`: the commit with which a check began to fail.

    ends      the good and the bad commit are tested: what the bad one shows and the good one does not is looked for
    steps     git names a commit; it is built, sent and tested on the machine, which stays up; git hears what it is
    verified  the last good commit is tested once more, beside the first bad one

bisect.json has all that was found, after each step. What git knows is made again from that, so that nothing is lost
with a death but the step that it was in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.errors import (
    ConnectionFailed,
    ImageError,
    LabError,
    MachineError,
    UsageError,
)
from labkit.core.observer import Observer
from labkit.core.suggest import did_you_mean
from labkit.core.text import count, one_line, printable
from labkit.images.runtimes import cloned, obtain
from labkit.io import gitbisect
from labkit.io.files import attempted
from labkit.io.gitbisect import GitBisect, Where
from labkit.machines import providers
from labkit.machines.base import Resettable
from labkit.results import bisection as model
from labkit.results.bisection import Aim, Bisection, Commit, End, Outcome, Step
from labkit.results.comparison import compare
from labkit.results.model import Result, Run
from labkit.store import bisections, runs
from labkit.subjects import runtimes
from labkit.subjects.runtimes.words import Source
from labkit.suites import registry
from labkit.suites.base import RunObserver
from labkit.usecases.machines import settled
from labkit.usecases.run import run_cell
from labkit.usecases.test import cell_of


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person wants to know. runtime: a name, a URL or the path of a tree; only: checks or programs; finding:
    words of the one finding that counts, or empty; confirm: test the commits on which the answer stands once more.
    """

    runtime: str
    good: str
    bad: str
    only: tuple[str, ...]
    finding: str = ""
    runtime_args: tuple[str, ...] = ()
    spec: str = ""
    confirm: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    bisection: Bisection
    directory: Path

    @property
    def exit_status(self) -> int:
        return self.bisection.exit_status


@dataclass(frozen=True, slots=True)
class Tested:
    """What came of a commit: its run and the directory of that, or why there is none; built: whether it was built for
    this.
    """

    run: Run | None = None
    directory: Path | None = None
    why: str = ""
    built: bool = False


class Tester(Protocol):
    """Builds a commit and runs the suite against it, its reports below the directory."""

    def __call__(self, commit: str, reports: Path, *, is_end: bool) -> Tested:
        """is_end: raise what keeps it from being tested, rather than tell it."""


MakeTester = Callable[[Settings, "Quiet", Cell, model.Subject], Tester]


def words_of(given: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The words of --only, and the finding where one is named: `HOOK-007:words of the finding`. UsageError."""
    named = [word for word in given if ":" in word]
    if not named:
        return tuple(word.strip() for one in given for word in one.split(",") if word.strip()), ""
    if len(given) > 1:
        raise UsageError(f"--only {named[0]!r} names a finding, so there can be no other --only")
    ident, _, finding = (part.strip() for part in named[0].partition(":"))
    if not ident or not finding or "," in ident:
        raise UsageError(f"--only is {named[0]!r}, must be ID, ID,ID or ID:FINDING", hint="--only HOOK-007:poststop")
    return (ident,), finding


def bisect(settings: Settings, observer: RunObserver, asked: Asked, make_tester: MakeTester | None = None) -> Done:
    """Find the first bad commit. UsageError where what is asked makes no sense; what keeps an end from being built or
    tested is raised.
    """
    word, arguments = runtimes.split(asked.runtime)
    source = runtimes.repository(word)
    if not source.name and not _is_url(source.where):
        source = dataclasses.replace(source, where=str(gitbisect.top(Path(source.where))))
    settings = settled(settings)
    arguments = [*arguments, *asked.runtime_args]
    subject = model.Subject(
        name=source.name, where=source.where, arguments=tuple(arguments), suite=settings.suite, only=asked.only,
        finding=asked.finding, spec=asked.spec, confirm=asked.confirm,
    )  # fmt: skip
    cell = _cell(settings, subject)
    repository, good, bad = _ends(source, asked, settings, observer)
    runs.require_room(settings.reports)
    machine = model.Machine(
        platform=cell.platform, release=cell.release, provider=cell.provider, name=cell.machine, host=settings.ssh.host
    )
    found = Bisection(
        id=bisections.new(settings.reports), started=_now(), subject=subject, machine=machine,
        good=End(ref=asked.good, commit=_commit(repository, good)),
        bad=End(ref=asked.bad, commit=_commit(repository, bad)),
        commits=gitbisect.count(repository, good, bad),
    )  # fmt: skip
    return _go_on(settings, observer, repository, found, cell, make_tester or _Lab)


def resume(settings: Settings, observer: RunObserver, make_tester: MakeTester | None = None) -> Done:
    """Go on with the newest bisection that found nothing yet. Where it had come to its end, what was skipped is tried
    again. UsageError."""
    found = bisections.read(settings.reports, bisections.unfinished(settings.reports))
    was, machine = found.subject, found.machine
    settings = settings.with_values(
        f"bisection {found.id}",
        platform=machine.platform, release=machine.release, provider=machine.provider, suite=was.suite,
        machine=settings.machine.model_copy(update={"name": machine.name}),
        ssh=settings.ssh.model_copy(update={"host": machine.host}),
    )  # fmt: skip
    source = Source(was.name, was.where, found.bad.commit.commit)
    repository = _repository(source, settings, observer)
    cell = _cell(settings, was)
    for end in (found.good, found.bad):
        if not gitbisect.resolve(repository, end.commit.commit):
            raise UsageError(f"{repository} has no commit {end.commit.commit} any more", hint="begin anew")
    again = found.state == "not-found"
    kept = tuple(step for step in found.steps if step.outcome != "skip" or not again)
    observer.step(f"going on with bisection {found.id}: {count(len(kept), 'step')} done")
    found = found.model_copy(update={"state": "running", "reason": "", "steps": kept, "left": ()})
    return _go_on(settings, observer, repository, found, cell, make_tester or _Lab)


def _go_on(
    settings: Settings, observer: RunObserver, repository: Path, found: Bisection, cell: Cell, make_tester: MakeTester
) -> Done:
    lock = settings.home.lock(f"bisect-{found.id}")
    with attempted(lock, f"bisection {found.id}") as who:
        if who is not None:
            raise UsageError(f"{who}", hint="wait for it, or end that process")
        _sweep(settings.home.bisects)
        directory = bisections.directory(settings.reports, found.id)
        quiet = Quiet(observer)
        work = _Work(settings, quiet, repository, found, make_tester(settings, quiet, cell, found.subject))
        try:
            work.go()
        except KeyboardInterrupt as error:
            if hasattr(error, "__notes__"):
                error.__notes__.clear()
            error.add_note(f"what was found so far is in {directory}; ./lab bisect --resume goes on")
            raise
        except LabError as error:
            if work.discarded:
                raise
            goes_on = f"./lab bisect --resume goes on; what was found so far is in {directory}"
            error.hint = "\n".join(filter(None, (error.hint, goes_on)))
            raise
        return Done(work.found, directory)


def _sweep(place: Path) -> None:
    """Remove the clones that deaths left."""
    for clone in place.glob("*.git") if place.is_dir() else ():
        lock = clone.parent.parent / "locks" / f"bisect-{clone.stem}.lock"
        with attempted(lock, "a bisection") as who:
            if who is None:
                shutil.rmtree(clone, ignore_errors=True)


# --- what was asked


def _cell(settings: Settings, subject: model.Subject) -> Cell:
    word = Source(subject.name, subject.where, "0" * 40)  # each step has its own
    selection = Selection(
        only=subject.only, jobs=settings.jobs, runtime_args=subject.arguments, spec=subject.spec, confirm=False
    )
    cell = cell_of(settings.with_values(None, runtime=str(word)), selection)
    registry.find(cell.suite).check(cell.selection)
    return cell


def _ends(source: Source, asked: Asked, settings: Settings, observer: Observer) -> tuple[Path, str, str]:
    """The repository, and the good and the bad commit. UsageError where nothing lies between them."""
    repository, bad = _resolved(source, asked.bad, "--bad", settings, observer)
    repository, good = _resolved(source, asked.good, "--good", settings, observer)
    if good == bad:
        raise UsageError(f"--good {asked.good} and --bad {asked.bad} are the same commit, {good[:12]}")
    if gitbisect.is_ancestor(repository, bad, good):
        raise UsageError(
            f"--bad {asked.bad} is older than --good {asked.good}, and what broke it lies between a good commit and a "
            "later bad one",
            hint=f"where they are mistaken for each other: --good {asked.bad} --bad {asked.good}; "
            "bisect does not look for what mended something",
        )
    if not gitbisect.is_ancestor(repository, good, bad):
        bases = gitbisect.merge_bases(repository, good, bad)
        if not bases:
            shallow = gitbisect.is_shallow(repository)
            raise UsageError(
                f"--good {asked.good} and --bad {asked.bad} have no commit in common"
                + (f": {repository} is a shallow clone" if shallow else ""),
                hint=f"git -C {repository} fetch --unshallow" if shallow else "two commits of one history",
            )
        observer.step(
            f"{asked.good} is on another branch than {asked.bad}: the commit that both come from, {bases[0][:12]}, is "
            "tested as well"
        )
    return repository, good, bad


def _resolved(source: Source, revision: str, flag: str, settings: Settings, observer: Observer) -> tuple[Path, str]:
    """A repository on this host, and the commit of the revision: a branch, a tag, a commit, with ~ and ^ behind it, or
    the version of a release.
    """
    base, rest = re.fullmatch(r"([^~^]*)(.*)", revision, re.DOTALL).groups()  # type: ignore[union-attr]
    if not base or base.startswith("-") or not revision.isprintable() or re.search(r"[\s:]|\.\.", revision):
        raise UsageError(
            f"{flag} is {revision!r}, must be a branch, a tag or a commit", hint="such as v1.2.0 or HEAD~20"
        )
    tags = []
    if source.name and re.fullmatch(r"[0-9]+(\.[0-9]+)+\S*", base):
        tags = [runtimes.about(source.name).tag.replace("{version}", base)]
    error: UsageError | None = None
    for name in dict.fromkeys([base, *tags]):
        try:
            repository, commit = _found(dataclasses.replace(source, ref=name), settings, observer)
        except UsageError as no:
            error = error or no
            continue
        if rest and not (commit := gitbisect.resolve(repository, f"{commit}{rest}")):
            raise UsageError(f"{flag} {revision}: {repository} has no such commit; {base} has fewer before it")
        return repository, commit
    assert error is not None
    raise UsageError(f"{flag} {revision}: {error.message}", hint=error.hint) from error


def _found(word: Source, settings: Settings, observer: Observer) -> tuple[Path, str]:
    if word.name or _is_url(word.where):
        return cloned(word, settings.distro(), settings, observer)
    tree = Path(word.where)
    if commit := gitbisect.resolve(tree, word.ref):
        return tree, commit
    shallow = ": it is a shallow clone" if gitbisect.is_shallow(tree) else ""
    raise UsageError(
        f"{tree} has no commit {word.ref}{did_you_mean(word.ref, gitbisect.refs(tree))}{shallow}",
        hint=f"git -C {tree} fetch --unshallow"
        if shallow
        else "a branch, a tag or a commit: git branch, git tag, git log",
    )


def _repository(word: Source, settings: Settings, observer: Observer) -> Path:
    if not word.name and not _is_url(word.where) and not Path(word.where).is_dir():
        raise UsageError(f"{word.where}, which is bisected, is not there any more", hint="begin anew")
    return _found(word, settings, observer)[0]


def _is_url(where: str) -> bool:
    return not where.startswith("/")


def _commit(repository: Path, commit: str) -> Commit:
    about = gitbisect.about(repository, commit)
    return Commit(commit=about.commit, subject=about.subject, author=about.author, author_date=about.date)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


# --- the work


class _Work:
    """A bisection, step by step; found is what is known of it, and on the disk after each step."""

    def __init__(
        self, settings: Settings, observer: Observer, repository: Path, found: Bisection, test: Tester
    ) -> None:
        self._settings, self._observer, self._repository, self._test = settings, observer, repository, test
        self.found = found
        self.discarded = False
        self._directory = bisections.directory(settings.reports, found.id)
        self._log = ""
        self._since = time.monotonic()

    def go(self) -> None:
        self._save()
        try:
            good, bad = self._end("good"), self._end("bad")
        except LabError:
            if not (self.found.good.step or self.found.bad.step):
                self.discarded = True
                shutil.rmtree(self._directory, ignore_errors=True)
            raise
        aim, why = model.aim(good, bad, self.found.subject.finding)
        if aim is None:
            self._conclude(f"{why}; nothing was bisected")
            return
        self._observer.step(
            f"looking for what began between them: {aim}; {count(self.found.commits, 'commit')} to search"
        )
        while self.found.state == "running":
            where = self._bisected(aim)
            if where.first_bad:
                self._verified(where.first_bad, aim)
            else:
                self._lost(where)

    def _bisected(self, aim: Aim) -> Where:
        """Go on from what is known until git knows what to say."""
        clone = self._settings.home.bisects / f"{self.found.id}.git"
        good, bad = self.found.good.commit.commit, self.found.bad.commit.commit
        git = GitBisect(self._repository, clone, good, bad)
        try:
            for step in self.found.steps:
                git.mark(step.commit.commit, step.outcome)
            while commit := git.where.next:
                step = self._step(commit, aim, git.where)
                git.mark(commit, step.outcome)
                self._log = git.log
                self._put(steps=(*self.found.steps, step), builds=self.found.builds + step.built)
            self._log = git.log
            return git.where
        finally:
            git.close()

    def _end(self, which: str) -> Run:
        """The run of the good or the bad commit."""
        end: End = getattr(self.found, which)
        if end.step is not None:
            with contextlib.suppress(LabError):
                return runs.load(self._directory / end.step.run)
        self._observer.step(f"testing {end.ref} ({end.commit.short}), which is said to be {which}")
        began = time.monotonic()
        try:
            tested = self._test(end.commit.commit, self._directory / bisections.RUNS, is_end=True)
        except (UsageError, ImageError) as error:
            message = f"the {which} commit, {end.ref}, cannot be tested: {error.message}"
            raise type(error)(message, hint=error.hint) from error
        assert tested.run is not None
        outcome: Outcome = "good" if which == "good" else "bad"
        step = self._made(end.commit.commit, outcome, "", tested, began)
        self._tell(step, "", "")
        self._put(**{which: end.model_copy(update={"step": step})}, builds=self.found.builds + tested.built)
        return tested.run

    def _step(self, commit: str, aim: Aim, where: Where) -> Step:
        ahead = ""
        if where.revisions is not None:
            ahead = f"; about {count(where.steps or 0, 'step')} after it"
        about = gitbisect.about(self._repository, commit)
        number = len(self.found.steps) + 1
        self._observer.step(f"step {number}: {commit[:12]} {one_line(about.subject, 70)}{ahead}")
        began = time.monotonic()
        tested = self._test(commit, self._directory / bisections.RUNS, is_end=False)
        outcome: Outcome = "skip"
        why = tested.why
        if tested.run is not None:
            outcome, why = model.judge(tested.run, aim)
        step = self._made(commit, outcome, why, tested, began)
        self._tell(step, outcome, why)
        return step

    def _made(self, commit: str, outcome: Outcome, why: str, tested: Tested, began: float) -> Step:
        run = str(tested.directory.relative_to(self._directory)) if tested.directory else ""
        return Step(
            commit=_commit(self._repository, commit), outcome=outcome, why=why,
            shown=model.shown(tested.run) if tested.run else (), run=run, built=tested.built,
            seconds=round(time.monotonic() - began, 3),
        )  # fmt: skip

    def _tell(self, step: Step, outcome: str, why: str) -> None:
        seen = ", ".join(map(str, step.shown[:3]))
        told = f"skipped: {why}" if outcome == "skip" else " ".join(filter(None, (outcome and f"{outcome}:", seen)))
        self._observer.step(f"  {one_line(told, 300)}")

    def _lost(self, where: Where) -> None:
        """Say why no commit can be called the first bad one."""
        found = self.found
        if where.mended:
            base = gitbisect.merge_bases(self._repository, found.good.commit.commit, found.bad.commit.commit)
            self._conclude(
                f"the commit that {found.good.ref} and {found.bad.ref} come from, {' '.join(base)[:12]}, is bad: "
                f"it was not broken after that, but mended on the way to {found.good.ref}; name an older commit as good"
            )
            return
        left = tuple(_commit(self._repository, commit) for commit in where.left)
        skipped = [step for step in found.steps if step.outcome == "skip" and step.commit in left]
        reasons = "; ".join(dict.fromkeys(one_line(step.why, 200) for step in skipped))
        self._put(left=left)
        told = f"the first bad commit is one of {len(left)}, and all but the last were skipped"
        self._conclude(f"{told}: {one_line(reasons, 600)}")

    def _verified(self, first_bad: str, aim: Aim) -> None:
        """Test the last good commit and the first bad one once more. One that is another now is skipped, and the search
        goes on without it.
        """
        found = self.found
        before = self._last_good(first_bad)
        after = next((step for step in found.steps if step.commit.commit == first_bad), found.bad.step)
        assert after is not None
        if found.steps and found.subject.confirm:
            before = self._again(before, "the last good commit", aim)
        if found.subject.confirm and before.outcome == "good":
            after = self._again(after, "the first bad commit", aim)
        for step, outcome in ((before, "good"), (after, "bad")):
            if step.outcome == outcome:
                continue
            end = next((end for end in (found.good, found.bad) if end.commit == step.commit), None)
            if end is not None:
                self._conclude(f"{end.ref} is not {outcome} each time: {step.why}")
            else:
                same = step.commit.commit
                self._put(steps=tuple(step if one.commit.commit == same else one for one in found.steps))
            return
        changes = None
        with contextlib.suppress(LabError):  # somebody removed a run
            changes = compare(*(runs.load(self._directory / step.run) for step in (before, after))).to_json()
        self._put(first_bad=after.commit, before=before.run, after=after.run, changes=changes)
        self._conclude("")

    def _again(self, step: Step, what: str, aim: Aim) -> Step:
        """The step as it is when its commit is tested once more; one that is to be skipped where it is another then."""
        self._observer.step(f"testing {step.commit.short}, {what}, once more")
        began = time.monotonic()
        tested = self._test(step.commit.commit, self._directory / bisections.RUNS, is_end=False)
        outcome, why = model.judge(tested.run, aim) if tested.run else ("skip", tested.why)
        made = self._made(step.commit.commit, outcome, why, tested, began)
        if outcome == step.outcome:
            return made
        seen = why or ", ".join(map(str, made.shown[:3]))
        why = f"it does not repeat: it was {step.outcome}, and then {outcome} ({seen})"
        self._observer.step(f"  skipped: {one_line(why, 300)}")
        return made.model_copy(update={"outcome": "skip", "why": why})

    def _last_good(self, first_bad: str) -> Step:
        """The step of the newest commit before the first bad one that was good."""
        found = self.found
        assert found.good.step is not None
        good = [step for step in found.steps if step.outcome == "good"]
        before = [step for step in good if gitbisect.is_ancestor(self._repository, step.commit.commit, first_bad)] or [
            found.good.step
        ]
        return min(before, key=lambda step: gitbisect.count(self._repository, step.commit.commit, first_bad))

    def _conclude(self, reason: str) -> None:
        self._put(state="not-found" if reason else "found", reason=reason)

    def _put(self, **values: object) -> None:
        self.found = self.found.model_copy(update=values)
        self._save()

    def _save(self) -> None:
        now = time.monotonic()
        self.found = self.found.model_copy(update={"seconds": round(self.found.seconds + now - self._since, 3)})
        self._since = now
        bisections.write(self._settings.reports, self.found, self._log)


# --- building and testing


class _Lab:
    """The Tester that people have: builds in a chroot of the platform, and runs on the cell's machine."""

    def __init__(self, settings: Settings, observer: Quiet, cell: Cell, subject: model.Subject) -> None:
        self._settings, self._observer, self._cell, self._subject = settings, observer, cell, subject

    def __call__(self, commit: str, reports: Path, *, is_end: bool) -> Tested:
        word = Source(self._subject.name, self._subject.where, commit)
        try:
            built = obtain(word, self._settings.distro(), self._settings, self._observer).made
        except (ImageError, UsageError) as error:
            if is_end:
                raise
            return Tested(why=error.message)
        cell = dataclasses.replace(self._cell, runtime=str(word))
        settings = self._settings.with_values(None, reports=reports)
        with self._observer.hushed():
            try:
                tested = self._tested(cell, settings, is_end)
            except UsageError as error:  # what cannot run in this machine
                if is_end:
                    raise
                tested = Tested(why=error.message)
        return dataclasses.replace(tested, built=built)

    def _tested(self, cell: Cell, settings: Settings, is_end: bool) -> Tested:
        """Once, and where the machine may be to blame for what is seen, again on a clean one."""
        try:
            outcome = run_cell(cell, settings, self._observer, None)
            if not model.spoiled(outcome.run):
                return Tested(outcome.run, outcome.directory)
            self._observer.warn(
                f"{one_line(outcome.run.run.reason or 'a check broke off', 200)}: on a clean machine again"
            )
        except (MachineError, ConnectionFailed) as error:
            self._observer.warn(f"{error.message}: on a clean machine again")
            if not self._reset(cell, settings):
                raise
        else:
            if not self._reset(cell, settings):
                return Tested(outcome.run, outcome.directory)
        try:
            outcome = run_cell(cell, settings, self._observer, None)
        except (MachineError, ConnectionFailed) as error:
            if is_end or not self._reset(cell, settings):
                raise
            return Tested(why=f"the machine does not bear it: {error.message}")
        return Tested(outcome.run, outcome.directory)

    def _reset(self, cell: Cell, settings: Settings) -> bool:
        """Make the machine clean; False where that cannot be."""
        machine = providers.existing(cell.machine, settings.of_cell(cell), self._observer)
        if not isinstance(machine, Resettable):
            return False
        with machine.lock():
            machine.reset()
        return True


class Quiet:
    """Tells an observer what is new: each warning once, and nothing of a run's own steps once there was one."""

    def __init__(self, observer: RunObserver) -> None:
        self._observer = observer
        self._warned: set[str] = set()
        self._hushed = False
        self._runs = 0
        self.detail, self.progress, self.confirm = observer.detail, observer.progress, observer.confirm

    @contextlib.contextmanager
    def hushed(self) -> Iterator[None]:
        self._hushed = self._runs > 0
        try:
            yield
        finally:
            self._hushed = False
            self._runs += 1

    def step(self, text: str) -> None:
        (self._observer.detail if self._hushed else self._observer.step)(text)

    def warn(self, text: str) -> None:
        known = re.sub(r"\b[0-9a-f]{7,64}\b|[0-9]+", "", text)
        if known not in self._warned:
            self._warned.add(known)
            self._observer.warn(text)

    def result(self, result: Result, done: int, planned: int | None) -> None:
        self._observer.detail(printable(f"{result.verdict:8} {result.id} {result.name}"))

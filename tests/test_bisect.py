"""The commit with which a check began to fail: real git over real trees. What a commit shows is made up here, but
in the test that builds, sends and runs each on a machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from labkit.core import config
from labkit.core.cell import Cell
from labkit.core.config import Settings
from labkit.core.errors import ImageError, LabError, MachineError, UsageError
from labkit.io import gitbisect
from labkit.reports import as_bisection
from labkit.results import bisection as model
from labkit.results.json import to_json
from labkit.results.model import Result, Run, RunInfo, RuntimeInfo, SuiteInfo, Verdict
from labkit.store import bisections
from labkit.subjects.runtimes import words
from labkit.suites.base import SilentRun
from labkit.usecases import bisect as finder
from labkit.usecases.bisect import Asked, Done, Quiet
from tests.conftest import ROOT, Lab
from tests.test_bootstrap import git
from tests.test_cli import labkit

pytestmark = pytest.mark.needs("git")

PASS, FAIL, SKIP, FLAKY, ERROR = Verdict.PASS, Verdict.FAIL, Verdict.SKIP, Verdict.FLAKY, Verdict.ERROR
Shows = Mapping[str, object]  # id of a check: its verdict, or the findings with which it fails
NAMES = ["runc", "crun", "lxc"]


def result(ident: str, what: object) -> Result:
    if isinstance(what, Verdict):
        diagnostic: dict[str, Any] = {"attempts": ["fail", "pass", "pass"]} if what is FLAKY else {}
        return Result(ident, "a name", "MUST", "", what, 0.1, diagnostic)
    assert isinstance(what, list)
    failures = [{"finding": one, "what": one, "expected": "", "actual": ""} for one in what]
    return Result(ident, "a name", "MUST", "", FAIL, 0.1, {"failures": failures})


def run_of(shows: Shows, reason: str | None = None) -> Run:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    results = tuple(result(ident, what) for ident, what in shows.items())
    return Run(
        RunInfo("20260101T000000Z.1-x", at, at, "0", reason, reason),
        {"platform": "debian", "release": "13", "provider": "uml", "kernel": "", "cgroup": "v2"},
        RuntimeInfo("own", "/x", "1"),
        SuiteInfo("spec", "1"),
        results,
    )


def aim_of(good: Shows, bad: Shows, finding: str = "") -> model.Aim:
    found, why = model.aim(run_of(good), run_of(bad), finding)
    assert found is not None, why
    return found


# ---- what a commit is


ONE = aim_of({"A-001": PASS}, {"A-001": ["x"]})


@pytest.mark.parametrize(
    ("aim", "shows", "outcome", "why"),
    [
        (ONE, {"A-001": PASS}, "good", ""),
        (ONE, {"A-001": ["x"]}, "bad", ""),
        (ONE, {"A-001": ["x", "y"]}, "bad", ""),
        (ONE, {"A-001": ["y"]}, "skip", "it fails in another way: A-001: y"),
        (ONE, {"A-001": ERROR}, "skip", "it fails in another way: A-001: error"),
        (ONE, {"A-001": SKIP}, "skip", "nothing was asserted"),
        (ONE, {"A-001": FLAKY}, "skip", "A-001 does not repeat: fail, pass, pass"),
        (ONE, {"B-001": PASS}, "skip", "not shown: A-001"),
        # The other check is bad at both ends, so it says nothing.
        (aim_of({"A-001": PASS, "B-001": ["z"]}, {"A-001": ["x"], "B-001": ["z"]}), {"A-001": PASS, "B-001": ["z"]},
         "good", ""),
        # Of one check, one failure was there before.
        (aim_of({"A-001": ["old"]}, {"A-001": ["old", "x"]}), {"A-001": ["old"]}, "good", ""),
        (aim_of({"A-001": ["old"]}, {"A-001": ["old", "x"]}), {"A-001": ["x"]}, "bad", ""),
        # A finding that was named: others do not count, but what broke off before it could be seen does.
        (aim_of({"A-001": ["y"]}, {"A-001": ["y", "is-run-twice"]}, "run twice"), {"A-001": ["q"]}, "good", ""),
        (aim_of({"A-001": ["y"]}, {"A-001": ["y", "is-run-twice"]}, "Run TWICE"),
         {"A-001": ["is-run-twice"]}, "bad", ""),
        (aim_of({"A-001": PASS}, {"A-001": ["is-run-twice"]}, "run twice"), {"A-001": Verdict.TIMEOUT},
         "skip", "it fails in another way"),
        # A check that hangs, or that breaks off, is bad where the bad end is.
        (aim_of({"A-001": PASS}, {"A-001": Verdict.TIMEOUT}), {"A-001": Verdict.TIMEOUT}, "bad", ""),
        (aim_of({"A-001": PASS, "B-001": PASS}, {"A-001": ["x"], "B-001": ["y"]}), {"A-001": PASS, "B-001": ["y"]},
         "bad", ""),
    ],
)  # fmt: skip
def test_what_a_run_says_of_a_commit(aim: model.Aim, shows: Shows, outcome: str, why: str) -> None:
    found = model.judge(run_of(shows), aim)
    assert found[0] == outcome
    assert why in found[1] and bool(found[1]) == (outcome == "skip")


def test_a_run_that_did_not_end_says_nothing() -> None:
    assert model.judge(run_of({"A-001": ["x"]}, "the connection was lost"), ONE) == (
        "skip",
        "its test is not complete: the connection was lost",
    )


@pytest.mark.parametrize(
    ("good", "bad", "finding", "why"),
    [
        ({"A-001": ["x"]}, {"A-001": ["x"]}, "", "the good commit is bad: it shows A-001: x, as the bad one does"),
        ({"A-001": ["x", "y"]}, {"A-001": ["x"]}, "", "the good commit is bad"),
        ({"A-001": PASS}, {"A-001": PASS}, "", "the bad commit is good: A-001 pass"),
        ({"A-001": PASS}, {"A-001": FLAKY}, "", "the bad commit is not bad each time: A-001 does not repeat"),
        ({"A-001": FLAKY}, {"A-001": ["x"]}, "", "the good commit is not good each time: A-001 does not repeat"),
        ({"A-001": SKIP}, {"A-001": ["x"]}, "", "the good commit cannot be told to be good"),
        ({"A-001": PASS}, {"A-001": SKIP}, "", "the bad commit cannot be told to be bad"),
        ({"A-001": ["x"]}, {"A-001": ["x"]}, "x", "the good commit is bad: it shows A-001: x"),
        ({"A-001": PASS}, {"A-001": ["x"]}, "other", "does not show 'other': it shows A-001: x"),
        ({"A-001": PASS}, {"A-001": PASS}, "other", "does not show 'other': it shows A-001 pass"),
        ({"A-001": PASS}, {"A-001": ["x"]}, "...", "does not show '...'"),
    ],
)
def test_ends_that_are_not_what_was_said(good: Shows, bad: Shows, finding: str, why: str) -> None:
    found, said = model.aim(run_of(good), run_of(bad), finding)
    assert found is None
    assert why in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["A-001"], (("A-001",), "")),
        (["A-001,B-001", "C-*"], (("A-001", "B-001", "C-*"), "")),
        (["A-001: run twice, or so"], (("A-001",), "run twice, or so")),
    ],
)
def test_words_of_only(given: list[str], expected: object) -> None:
    assert finder.words_of(given) == expected


@pytest.mark.parametrize("given", [["A-001:"], [":x"], ["A,B:x"], ["A:x", "B"]])
def test_words_of_only_that_mean_nothing(given: list[str]) -> None:
    with pytest.raises(UsageError, match="--only"):
        finder.words_of(given)


# ---- what is bisected


def test_words_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "file").touch()

    def of(text: str) -> words.Source:
        return words.repository(text, NAMES, tmp_path)

    assert of("runc") == words.Source("runc", "", "")
    for text in ("./tree", f"{tmp_path}/tree", f"host:{tmp_path}/tree"):
        assert of(text) == words.Source("", str(tmp_path / "tree"), "")
    assert of("https://example.org/x.git") == words.Source("", "https://example.org/x.git", "")
    for text, why in {
        "runc@main": "names one ref", "https://example.org/x.git#main": "names one ref", "./tree#main": "names one ref",
        "./file": "is a program", "/nowhere": "is not there", "tree": "neither a name nor a path", "rnuc": "runc",
        "": "is not a name", "x\ny": "is not a name",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=why):
            of(text)


# ---- trees, and what their commits show


@dataclass
class Faked:
    """The Tester of these tests: says of each commit, by its number, what it shows."""

    tree: Path
    shows: Callable[[int], object]
    tested: list[int] = field(default_factory=list)

    def make(self, settings: Settings, observer: Quiet, cell: Cell, subject: model.Subject) -> Faked:
        return self

    def __call__(self, commit: str, reports: Path, *, is_end: bool) -> finder.Tested:
        number = int(gitbisect.about(self.tree, commit).subject.split()[-1])
        self.tested.append(number)
        said = self.shows(number)
        if isinstance(said, BaseException):
            if is_end or not isinstance(said, ImageError | UsageError):
                raise said
            assert isinstance(said, LabError)
            return finder.Tested(why=said.message)
        assert isinstance(said, dict)
        run, directory = run_of(said), reports / f"{len(self.tested)}-{number}-{time.monotonic_ns()}"
        directory.mkdir(parents=True)
        (directory / "results.json").write_text(to_json(run))
        return finder.Tested(run, directory, built=True)


def commits(tree: Path, count: int, first: int = 1) -> None:
    tree.mkdir(exist_ok=True)
    if not (tree / ".git").exists():
        git(tree, "init", "-q", "-b", "main")
    for number in range(first, first + count):
        git(tree, "commit", "-q", "--allow-empty", "-m", f"change {number}")
        git(tree, "tag", f"t{number}")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Ten commits, t1 to t10."""
    commits(tmp_path / "tree", 10)
    return tmp_path / "tree"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    environ = {"LABKIT_HOME": str(tmp_path / "home"), "LABKIT_PROVIDER": "uml", "HOME": str(tmp_path)}
    return config.load(cwd=tmp_path, environ=environ)


class Told(SilentRun):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


def broken_at(first: int, **others: object) -> Callable[[int], object]:
    return lambda number: others.get(f"at{number}", {"HOOK-007": ["runs-twice"] if number >= first else PASS})


def find(settings: Settings, tester: Faked, told: Told | None = None, **asked: Any) -> Done:
    words = {"runtime": str(tester.tree), "good": "t1", "bad": "t10", "only": ("HOOK-007",), **asked}
    return finder.bisect(settings, told or Told(), Asked(**words), tester.make)


def subject_of(done: Done) -> str:
    assert done.bisection.first_bad is not None, done.bisection.reason
    return done.bisection.first_bad.subject


@pytest.mark.parametrize("first", range(2, 11))
def test_it_finds_the_first_bad_commit_wherever_it_is(first: int, tree: Path, settings: Settings) -> None:
    tester = Faked(tree, broken_at(first))
    before = {path: path.read_bytes() for path in (tree / ".git").rglob("*") if path.is_file()}
    done = find(settings, tester)
    assert (subject_of(done), done.exit_status) == (f"change {first}", 0)
    assert len(tester.tested) <= 2 + 4 + 2
    assert tester.tested[:2] == [1, 10]  # both ends first
    assert {path: path.read_bytes() for path in (tree / ".git").rglob("*") if path.is_file()} == before
    assert not list(settings.home.bisects.glob("*"))
    found = bisections.read(settings.reports, done.bisection.id)
    assert found == done.bisection
    assert found.changes is not None
    [change] = found.changes["newly_failing"]
    assert (change["id"], change["before"], change["after"]) == ("HOOK-007", {"pass": 1}, {"fail": 1})
    for name in (found.before, found.after):
        assert (done.directory / name / "results.json").exists()
    replayed = tree.parent / "replayed"
    git(tree.parent, "clone", "-q", str(tree), str(replayed))
    if found.steps:
        git(replayed, "bisect", "replay", str(done.directory / "bisect.log"))
    shown = as_bisection.text(found, done.directory)
    assert shown.startswith(f"{found.first_bad.commit if found.first_bad else ''} is the first bad commit\n")
    assert "HOOK-007 fail: runs-twice" in shown and "before   HOOK-007 pass" in shown


def test_what_does_not_build_is_skipped(tree: Path, settings: Settings) -> None:
    broken = ImageError("it does not build: no rule")
    tester = Faked(tree, broken_at(7, at5=broken, at4=broken, at8={"HOOK-007": ["else"]}))
    done = find(settings, tester)
    assert subject_of(done) == "change 7"
    assert {step.commit.subject: step.why for step in done.bisection.steps if step.outcome == "skip"} == {
        "change 5": "it does not build: no rule",
        "change 8": "it fails in another way: HOOK-007: else",
    }
    assert done.bisection.builds == len(tester.tested) - 1 - 2  # none for what does not build, nor for the last two


def test_where_all_that_is_left_was_skipped_it_says_what_is_left_and_resume_tries_again(
    tree: Path, settings: Settings
) -> None:
    broken: dict[str, object] = {f"at{number}": ImageError("no rule") for number in (5, 6, 7)}
    done = find(settings, Faked(tree, broken_at(6, **broken)))
    assert (done.bisection.state, done.exit_status) == ("not-found", 4)
    assert [commit.subject for commit in done.bisection.left] == [f"change {number}" for number in (8, 7, 6, 5)] or (
        sorted(commit.subject for commit in done.bisection.left) == [f"change {number}" for number in (5, 6, 7, 8)]
    )
    shown = as_bisection.text(done.bisection, done.directory)
    assert "not found: the first bad commit is one of 4" in shown and "no rule" in shown and "change 6" in shown

    mended = Faked(tree, broken_at(6))
    again = finder.resume(settings, Told(), mended.make)
    assert (subject_of(again), again.bisection.id) == ("change 6", done.bisection.id)
    assert set(mended.tested) <= {5, 6, 7}  # all that was good or bad stays so
    with pytest.raises(UsageError, match="waits to be finished"):
        finder.resume(settings, Told(), mended.make)


@pytest.mark.parametrize(
    ("shows", "why"),
    [
        (lambda number: {"HOOK-007": ["x"]}, "the good commit is bad: it shows HOOK-007: x"),
        (lambda number: {"HOOK-007": PASS}, "the bad commit is good: HOOK-007 pass"),
    ],
)
def test_an_end_that_is_not_what_was_said_is_told_before_anything_is_bisected(
    shows: Callable[[int], object], why: str, tree: Path, settings: Settings
) -> None:
    tester = Faked(tree, shows)
    done = find(settings, tester)
    assert done.exit_status == 4
    assert why in done.bisection.reason
    assert tester.tested == [1, 10]
    assert f"not found: {why}" in as_bisection.text(done.bisection, done.directory)


@pytest.mark.parametrize(("end", "at"), [("good", 1), ("bad", 10)])
def test_an_end_that_does_not_build(end: str, at: int, tree: Path, settings: Settings) -> None:
    no = ImageError("it does not build: no rule", hint="all that was printed is in x.log")
    with pytest.raises(ImageError, match=rf"the {end} commit, t{at}, cannot be tested: it does not build") as raised:
        find(settings, Faked(tree, broken_at(5, **{f"at{at}": no})))
    assert "x.log" in (raised.value.hint or "")
    assert bool(bisections.ids(settings.reports)) == (end == "bad")  # where nothing was found, nothing stays


@pytest.mark.parametrize(
    ("flaky", "first_good", "left"),
    [
        (6, True, {6, 7}),  # good by chance, and broken there or in the next
        (7, False, {7, 8}),  # bad by chance
    ],
)
def test_a_commit_that_was_what_it_is_by_chance_is_skipped(
    flaky: int, first_good: bool, left: set[int], tree: Path, settings: Settings
) -> None:
    seen: list[int] = []

    def shows(number: int) -> object:
        seen.append(number)
        good = number < max(left)
        if number == flaky:
            good = (seen.count(number) == 1) == first_good
        return {"HOOK-007": PASS if good else ["x"]}

    done = find(settings, Faked(tree, shows))
    assert done.exit_status == 4
    assert "does not repeat" in done.bisection.reason
    assert {int(commit.subject.split()[-1]) for commit in done.bisection.left} == left


def test_one_that_is_good_by_chance_does_not_hide_an_answer(tree: Path, settings: Settings) -> None:
    """The fifth is broken, as all from the third on, but seems good the first time."""
    seen: list[int] = []

    def shows(number: int) -> object:
        seen.append(number)
        good = number < 3 or (number == 5 and seen.count(5) == 1)
        return {"HOOK-007": PASS if good else ["x"]}

    done = find(settings, Faked(tree, shows))
    assert subject_of(done) == "change 3"
    assert [step.commit.subject for step in done.bisection.steps if step.outcome == "skip"] == ["change 5"]


def test_nothing_is_confirmed_where_nobody_wants_that(tree: Path, settings: Settings) -> None:
    tester = Faked(tree, broken_at(7))
    done = find(settings, tester, confirm=False)
    assert subject_of(done) == "change 7"
    assert len(tester.tested) == len(set(tester.tested)) == 2 + len(done.bisection.steps)
    assert done.bisection.changes is not None


def test_a_bad_end_that_is_bad_by_chance(tree: Path, settings: Settings) -> None:
    seen: list[int] = []

    def shows(number: int) -> object:
        seen.append(number)
        return {"HOOK-007": ["x"] if number == 10 and seen.count(10) == 1 else PASS}

    done = find(settings, Faked(tree, shows))
    assert done.exit_status == 4
    assert "t10 is not bad each time: it does not repeat" in done.bisection.reason


def test_a_good_end_that_is_good_by_chance(tree: Path, settings: Settings) -> None:
    seen: list[int] = []

    def shows(number: int) -> object:
        seen.append(number)
        return {"HOOK-007": PASS if seen.count(1) == 1 and number == 1 else ["x"]}

    done = find(settings, Faked(tree, shows))
    assert done.exit_status == 4
    assert "t1 is not good each time: it does not repeat" in done.bisection.reason


def test_what_does_not_repeat_is_skipped(tree: Path, settings: Settings) -> None:
    done = find(settings, Faked(tree, broken_at(7, at5={"HOOK-007": FLAKY})))
    assert subject_of(done) == "change 7"
    [skipped] = [step for step in done.bisection.steps if step.outcome == "skip"]
    assert skipped.why == "HOOK-007 does not repeat: fail, pass, pass"


# ---- histories that are no line


def test_a_good_commit_of_another_branch(tree: Path, settings: Settings) -> None:
    git(tree, "checkout", "-q", "-b", "release", "t3")
    git(tree, "commit", "-q", "--allow-empty", "-m", "release 90")
    told = Told()
    tester = Faked(tree, lambda number: {"HOOK-007": ["x"] if 6 <= number < 90 else PASS})
    assert subject_of(find(settings, tester, told, good="release")) == "change 6"
    assert any("is tested as well" in step for step in told.steps)
    assert 3 in tester.tested

    done = find(settings, Faked(tree, lambda number: {"HOOK-007": ["x"] if number < 90 else PASS}), good="release")
    assert done.exit_status == 4
    assert "it was not broken after that, but mended on the way to release" in done.bisection.reason


def test_a_merge(tree: Path, settings: Settings) -> None:
    git(tree, "checkout", "-q", "-b", "side", "t5")
    git(tree, "commit", "-q", "--allow-empty", "-m", "side 91")
    git(tree, "checkout", "-q", "main")
    git(tree, "merge", "-q", "--no-ff", "-m", "merge 11", "side")
    tester = Faked(tree, lambda number: {"HOOK-007": ["x"] if number in (91, 11) else PASS})
    assert subject_of(find(settings, tester, bad="main")) == "side 91"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"good": "t99"}, "--good t99: .* has no commit t99"),
        ({"bad": "mian"}, "--bad mian: .*did you mean 'main'"),
        ({"good": "t10"}, "are the same commit"),
        ({"good": "t10", "bad": "t1"}, "--bad t1 is older than --good t10"),
        ({"good": "--all"}, "must be a branch, a tag or a commit"),
        ({"good": "t1..t3"}, "must be a branch, a tag or a commit"),
        ({"good": ":/change"}, "must be a branch, a tag or a commit"),
        ({"good": "HEAD~99"}, "--good HEAD~99"),
        ({"good": "other"}, "have no commit in common"),
        ({"only": ("HOOK-999",)}, "HOOK-999"),
        ({"runtime": "/"}, "/ is not a git repository"),
        ({"runtime": "lxc"}, "no repository of lxc"),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, Any], why: str, tree: Path, settings: Settings) -> None:
    git(tree, "checkout", "-q", "--orphan", "other")
    git(tree, "commit", "-q", "--allow-empty", "-m", "other 50")
    git(tree, "checkout", "-q", "main")
    tester = Faked(tree, broken_at(5))
    with pytest.raises(UsageError, match=why):
        find(settings, tester, **asked)
    assert not tester.tested
    assert not bisections.ids(settings.reports)


def test_ways_to_name_a_tree_and_its_commits(tree: Path, settings: Settings) -> None:
    (tree / "sub").mkdir()
    ways: dict[str, dict[str, Any]] = {
        "below": {"runtime": str(tree / "sub")},
        "relative": {"good": "HEAD~9", "bad": "@"},
        "by commit": {"good": gitbisect.resolve(tree, "t1")[:9], "bad": "main^{commit}"},
    }
    for name, asked in ways.items():
        assert subject_of(find(settings, Faked(tree, broken_at(4)), **asked)) == "change 4", name
    git(tree.parent, "clone", "-q", "--bare", str(tree), str(tree.parent / "bare.git"))
    assert subject_of(find(settings, Faked(tree, broken_at(4)), runtime=str(tree.parent / "bare.git"))) == "change 4"
    url = f"file://{tree.parent}/bare.git"
    assert subject_of(find(settings, Faked(tree, broken_at(4)), runtime=url, good="main~9", bad="HEAD")) == "change 4"
    with pytest.raises(UsageError, match="has no ref t98"):
        find(settings, Faked(tree, broken_at(4)), runtime=url, bad="t98")


def test_a_shallow_clone_is_said_to_be_one(tree: Path, settings: Settings) -> None:
    shallow = tree.parent / "shallow"
    git(tree.parent, "clone", "-q", "--depth", "3", f"file://{tree}", str(shallow))
    with pytest.raises(UsageError, match="it is a shallow clone") as raised:
        find(settings, Faked(shallow, broken_at(4)))
    assert "fetch --unshallow" in (raised.value.hint or "")


# ---- ends before the end


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), MachineError("the machine is gone")])
@pytest.mark.parametrize("at", [1, 10, 5, 7, 6])
def test_it_goes_on_where_it_was(stop: BaseException, at: int, tree: Path, settings: Settings) -> None:
    tester = Faked(tree, broken_at(7, **{f"at{at}": stop}))
    with pytest.raises(type(stop)) as raised:
        find(settings, tester)
    said = (getattr(raised.value, "hint", "") or "") + "".join(getattr(raised.value, "__notes__", []))
    if at == 1:  # nothing was found
        assert isinstance(stop, KeyboardInterrupt) or not bisections.ids(settings.reports)
        return
    assert "./lab bisect --resume" in said
    done_before = [number for number in tester.tested if number != at]
    more = Faked(tree, broken_at(7))
    done = finder.resume(settings, Told(), more.make)
    assert subject_of(done) == "change 7"
    assert not {*more.tested} & {*done_before} - {6, 7}  # but for the last good one and the first bad one, once more
    assert done.bisection.seconds >= 0


KILLED = """
import os, signal, sys
from pathlib import Path
from labkit.core import config
from labkit.usecases import bisect as finder
from tests.test_bisect import Faked, Told, broken_at, find
tree, home, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = config.load(cwd=tree.parent, environ={"LABKIT_HOME": home, "LABKIT_PROVIDER": "uml", "HOME": home})
tester = Faked(tree, broken_at(7))
def shows(commit, usual=tester.shows):
    if len(tester.tested) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(commit)
tester.shows = shows
find(settings, tester)
"""


@pytest.mark.parametrize("number", [2, 4, 6])
def test_it_goes_on_after_a_kill_even_where_git_was_torn(number: int, tree: Path, settings: Settings) -> None:
    argv = [sys.executable, "-c", KILLED, str(tree), str(settings.home), str(number)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for clone in settings.home.bisects.glob("*.git"):  # as a disk may have it
        (clone / "BISECT_LOG").write_text("git bisect sta")
        shutil.rmtree(clone / "refs")
    more = Faked(tree, broken_at(7))
    found = finder.resume(settings, Told(), more.make)
    assert subject_of(found) == "change 7"
    assert len(more.tested) <= 9 - number
    assert not list(settings.home.bisects.glob("*"))


def test_a_record_that_is_damaged_or_newer(tree: Path, settings: Settings) -> None:
    find(settings, Faked(tree, lambda number: {"HOOK-007": PASS}))
    [ident] = bisections.ids(settings.reports)
    file = bisections.directory(settings.reports, ident) / bisections.FILE
    text = file.read_text()
    for wrong, why in (
        ("{", "is damaged"),
        ('{"schema": 9}', "schema 9"),
        ('{"schema": 1, "id": 3}', "bisect.json: id"),
    ):
        file.write_text(wrong)
        with pytest.raises(UsageError, match=why):
            finder.resume(settings, Told())
    file.write_text(text)
    shutil.rmtree(tree)
    with pytest.raises(UsageError, match="is not there any more"):
        finder.resume(settings, Told())


def test_two_at_a_time_do_not_share_one(tree: Path, settings: Settings) -> None:
    def shows(number: int) -> object:
        if number == 5:
            with pytest.raises(UsageError, match="bisection"):
                finder.resume(settings, Told(), Faked(tree, broken_at(7)).make)
        return broken_at(7)(number)

    assert subject_of(find(settings, Faked(tree, shows))) == "change 7"


# ---- the machine is to blame, or is not


def test_hostile_subjects_are_shown_as_text(tree: Path, settings: Settings) -> None:
    git(tree, "commit", "-q", "--allow-empty", "-m", "\x1b[31m red \u202e 11")
    done = find(settings, Faked(tree, broken_at(11)), bad="main")
    shown = as_bisection.text(done.bisection, done.directory)
    assert "\x1b" not in shown and "\u202e" not in shown and "\\x1b[31m red" in shown
    json.dumps(done.bisection.to_json())


# ---- the command


PLACE = ("--platform", "debian", "--release", "13", "--provider", "uml", "--machine", "mine")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    return Lab(tmp_path / "home", tmp_path / "work")


def test_words_of_the_command(tree: Path, lab: Lab) -> None:
    """What is wrong with them is said before a machine is looked at; each flag is heard."""
    usual = {"--runtime": str(tree), "--good": "t1", "--bad": "t10", "--only": "STATE-001"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        done = labkit("bisect", *words, environ=lab.environment({}), cwd=lab.cwd)
        assert (done.returncode, done.stdout) == (2, ""), done
        return done

    def said(*more: str, **other: str | None) -> str:
        given = {**usual, **{f"--{name}": value for name, value in other.items()}}
        words = [word for name, value in given.items() if value is not None for word in (name, value)]
        return run(*words, *more).stderr

    assert "bisect needs --good" in said(good=None)
    assert "bisect needs --bad" in said(bad=None)
    assert "bisect needs --only" in said(only=None)
    assert "has no commit t77" in said(good="t77")
    assert "has no commit t77" in said("--json", bad="t77")
    assert "names a finding" in said("--only", "X-001:x")
    assert "unknown release of Debian" in said("--release", "99")
    assert "unknown platform" in said("--platform", "plan9")
    assert "arch" in said("--arch", "pdp11")
    assert "PROVIDER" in said("--provider", "vbox").upper()
    assert "machine's name" in said("--machine", "no name").lower() or "--machine" in said("--machine", "no name")
    assert "--host" in said("--provider", "ssh") and "USER@HOST" in said("--provider", "ssh", "--host", "@")
    assert "unknown suite" in said("--suite", "spce")
    assert "runtime-spec" in said("--spec", "9.9")
    assert "several times" in said("--runtime", "crun")
    assert "configuration: " in said("--verbose", good="t77")
    assert "--resume takes no" in run("--resume", "--no-confirm").stderr
    for flag in ("--good", "--bad", "--only", "--suite", "--spec", "--runtime-arg=-x", "--machine", "--host"):
        words = (flag,) if "=" in flag else (flag, "x")
        assert "--resume takes no" in run("--resume", *words).stderr
    assert "waits to be finished" in run("--resume", "--yes", "--untrusted").stderr


def test_what_is_asked_reaches_the_cell(tree: Path, settings: Settings) -> None:
    seen: list[Cell] = []

    def make(own: Settings, observer: Quiet, cell: Cell, subject: model.Subject) -> Faked:
        seen.append(cell)
        return Faked(tree, broken_at(5))

    settings = settings.with_values("--release", release="12", suite="validation")
    words = Asked(f"{tree} --debug", "t1", "t10", ("create",), "", ("--systemd-cgroup",), "")
    finder.bisect(settings, Told(), words, make)
    [cell] = seen
    assert (cell.platform, cell.release, cell.provider, cell.suite) == ("debian", "12", "uml", "validation")
    assert cell.selection.only == ("create",)
    assert cell.selection.runtime_args == ("--debug", "--systemd-cgroup")
    assert cell.runtime.startswith(f"{tree}#")


# ---- the whole of it, on a machine


MAKEFILE = "all:\n\tsh build.sh\n"
FAULTY = """case " $* " in
*" state "*) runc "$@" | sed 's/"bundle": "[^"]*"/"bundle": ""/'; exit ;;
esac
"""


def runtime_tree(tree: Path, count: int, first_bad: int, broken: tuple[int, ...]) -> None:
    """A runtime that is a script around the machine's runc, in that many commits."""
    tree.mkdir()
    git(tree, "init", "-q", "-b", "main")
    for number in range(1, count + 1):
        recipe = "echo no rule >&2; exit 1" if number in broken else "cp script.sh runtime; chmod 755 runtime"
        fault = FAULTY if number >= first_bad else ""
        (tree / "Makefile").write_text(MAKEFILE)
        (tree / "build.sh").write_text(f"{recipe}\n")
        (tree / "script.sh").write_text(f'#!/bin/sh\n# change {number}\n{fault}exec runc "$@"\n')
        git(tree, "add", "-A")
        git(tree, "commit", "-q", "-m", f"change {number}")


@pytest.mark.machine
@pytest.mark.bootstrap
def test_a_planted_fault_is_found_on_a_machine_also_after_a_kill(uml: Lab, tmp_path: Path) -> None:
    tree, lab = tmp_path / "tree", uml
    runtime_tree(tree, 200, 141, (100, 150))
    words = ("bisect", "--runtime", str(tree), "--good", "HEAD~199", "--bad", "main", "--only", "STATE-001")
    child = lab.start(*words)
    assert child.stderr is not None
    for line in child.stderr:
        if "step 4:" in line:
            break
    child.kill()
    child.wait()
    child.stdout and child.stdout.close()
    with contextlib.suppress(OSError):
        child.stderr.close()
    done = lab.json("bisect", "--resume")
    assert done["first_bad"]["subject"] == "change 141"
    assert len(done["steps"]) >= 7
    assert "no rule" in next(step["why"] for step in done["steps"] if step["outcome"] == "skip")
    [change] = done["changes"]["newly_failing"]
    assert change["id"] == "STATE-001"
    assert done["builds"] <= len(done["steps"]) + 2
    lab.run("bisect", "--resume", status=2)
    told = lab.run(
        "bisect", "--runtime", str(tree), "--good", "HEAD~20", "--bad", "main", "--only", "STATE-001", status=4
    )
    assert "not found: the good commit is bad: it shows STATE-001" in told.stdout

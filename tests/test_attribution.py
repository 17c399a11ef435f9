"""Whose failure it is: beside a reference runtime on the same machine, and beside earlier runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.machines.base import MachineState
from labkit.machines.fake import FakeMachine, Reply
from labkit.reports import as_html, as_junit, as_markdown
from labkit.reports.terminal import summary
from labkit.results import attribution
from labkit.results.attribution import Blame, Earlier, attributed, chosen, since
from labkit.results.json import from_json, to_json
from labkit.results.model import WHOLE, Attribution, Expected, Program, Referred, Result, Run, Verdict
from labkit.store.history import History
from labkit.suites.base import SilentRun
from labkit.usecases import past as earlier_runs
from labkit.usecases.judge import judge
from labkit.usecases.run import Outcome, run_cell
from labkit.usecases.test import test as run_test
from tests.conftest import ROOT
from tests.test_cli import environ, labkit
from tests.test_results import a_result, a_run

__all__ = ["environ"]  # a fixture

FAIL, PASS, SKIP = Verdict.FAIL, Verdict.PASS, Verdict.SKIP


def failing(ident: str, *findings: str) -> Result:
    return a_result(ident, FAIL, failures=[{"finding": one, "what": one} for one in findings])


def words(run: Run) -> dict[str, str]:
    return {result.id: result.attribution.reference for result in run.results if result.attribution}


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        (failing("A"), a_result("A"), Blame.ONLY),
        (failing("A"), failing("A"), Blame.TOO),
        (failing("A", "x"), failing("A", "x"), Blame.TOO),
        (failing("A", "x"), failing("A", "x", "y"), Blame.TOO),
        (failing("A", "x", "z"), failing("A", "x"), Blame.ONLY),  # z is ours
        (failing("A", "x"), failing("A", "y"), Blame.ONLY),
        (failing("A", "x"), a_result("A", Verdict.TIMEOUT), Blame.TOO),  # which findings it would have had nobody knows
        (a_result("A", Verdict.ERROR), failing("A", "x"), Blame.TOO),
        (failing("A"), a_result("A", SKIP), ""),  # nothing was looked at
        (failing("A"), a_result("B"), ""),
    ],
)
def test_beside_the_reference(ours: Result, theirs: Result, word: str) -> None:
    run = attributed(a_run(ours, a_result("C")), a_run(theirs), {})
    assert words(run).get("A", "") == word
    assert (run.results[0].attribution is None) == (word == "")


def test_a_program_that_ran_and_said_nothing_as_a_whole_passed() -> None:
    ours = Result("p/1", WHOLE, "", "", Verdict.TIMEOUT, 1.0, {}, "p")
    theirs = replace(a_run(), programs=(Program("p", PASS, 1.0, 0),))
    assert words(attributed(a_run(ours), theirs, {})) == {"p/1": Blame.ONLY}


def test_what_is_expected_or_good_is_nobodys_failure() -> None:
    known = replace(failing("A"), expected=Expected("known", "", ""))
    past = {known.identity: [Earlier("r", "1", False)]}
    assert not any(result.attribution for result in attributed(a_run(known, a_result("B")), a_run(), past).results)


def runs(*shown: str) -> list[Earlier]:
    """`1+` is version 1, good."""
    return [Earlier(f"run-{n}", word[:-1], word[-1] == "-") for n, word in enumerate(shown, 1)]


@pytest.mark.parametrize(
    ("earlier", "version", "began", "good"),
    [
        ([], "1", "", ""),
        (["1+", "1+"], "1", "new", "good with 1 in run run-2"),
        (["1-", "1+"], "1", "new", "good with 1 in run run-2"),
        (["1+"], "2", "since version 2", "good with 1 in run run-1"),
        (["1+", "2-", "2-"], "2", "since version 2", "good with 1 in run run-1"),
        (["1+", "2-", "3-"], "3", "since version 2", "good with 1 in run run-1"),
        (["1+", "1-", "1-"], "1", "since run run-2", "good with 1 in run run-1"),
        (["1-", "2-"], "2", "since run run-1", ""),
        (["+"], "2", "new", "good in run run-1"),
        (["+", "2-"], "2", "since run run-2", "good in run run-1"),
        (["1+", "-"], "2", "since run run-2", "good with 1 in run run-1"),
    ],
)
def test_beside_earlier_runs(earlier: list[str], version: str, began: str, good: str) -> None:
    assert since(runs(*earlier), version) == (began, good)


@given(st.lists(st.tuples(st.sampled_from(["", "1", "2"]), st.booleans()), min_size=1), st.sampled_from(["", "1", "2"]))
def test_new_is_what_was_good_last(shown: list[tuple[str, bool]], version: str) -> None:
    earlier = [Earlier(f"run-{n}", one, bad) for n, (one, bad) in enumerate(shown)]
    began, good = since(earlier, version)
    last = earlier[-1]
    if began == "new":
        assert not last.bad and (last.version == version or "" in (last.version, version))
    if last.bad:
        assert began.startswith("since ") and "new" not in began
    assert bool(good) == any(not one.bad for one in earlier)
    assert since([*earlier[:-1], replace(last, bad=True)], version)[0] != "new"


@given(st.lists(st.sampled_from(["a", "b", "c", "one of its own"]), max_size=40), st.integers(1, 50))
def test_one_of_each_cause_is_compared_first(said: list[str], most: int) -> None:
    run = a_run(*(a_result(f"A-{n:03}", FAIL, message=text) for n, text in enumerate(said)))
    names, left = chosen(run, most)
    assert len(names) == min(most, len(said)) == len(set(names)) and len(names) + left == len(said)
    if len(said) <= most:
        assert set(names) == {result.id for result in run.results}
    causes = {text for text in said if said.count(text) >= 3}
    if len(causes) <= most:
        of = {result.id: result.diagnostic["message"] for result in run.results}
        assert causes <= {of[name] for name in names}


# --- in the reports


TOLD = Attribution("this runtime only", "runc 1.1.15", "since version 1.2", "good with 1.1 in run r-1")
REFERRED = Referred("runc 1.1.15", 2, 3, "it was slow")


def told() -> Run:
    return replace(a_run(replace(failing("A-001", "x"), attribution=TOLD), a_result("A-002")), referred=REFERRED)


def test_every_report_says_it() -> None:
    run = told()
    for text in (summary(run, width=200), as_markdown.render(run), as_html.render(run)):
        assert "this runtime only (beside runc 1.1.15), since version 1.2 (good with 1.1 in run r-1)" in text
        assert "2 of what is bad were compared with runc 1.1.15, 3 more were not; that ended early: it was slow" in text
    assert 'name="attribution.reference" value="this runtime only"' in as_junit.render(run)
    document = json.loads(to_json(run))
    assert document["reference"] == {"runtime": "runc 1.1.15", "checks": 2, "left": 3, "reason": "it was slow"}
    assert document["results"][0]["attribution"]["history"] == "since version 1.2"
    assert from_json(to_json(run)) == run


def test_those_that_fail_alike_are_told_together() -> None:
    results = [a_result(f"A-{n:03}", FAIL, message="no") for n in range(4)]
    run = a_run(*(replace(result, attribution=TOLD) for result in results[:3]), results[3])
    for text in (summary(run, width=200), as_markdown.render(run), as_html.render(run)):
        assert f"3 {TOLD.text}" in text


def test_hostile_text_is_only_text() -> None:
    evil = Attribution("<script>", "\x1b[2J|`", "<b>", "@all")
    run = replace(a_run(replace(failing("A-001"), attribution=evil)), referred=Referred("<i>\x1b", 1, 0))
    assert "<script>," not in as_html.render(run) and "<b>," not in as_html.render(run)
    for text in (summary(run), as_markdown.render(run), as_junit.render(run)):
        assert "\x1b" not in text


def test_judged_again_it_stays_where_the_same_is_bad() -> None:
    kept = told()
    again = replace(kept, results=tuple(replace(result, attribution=None) for result in kept.results), referred=None)
    assert attribution.carried(again, kept) == kept
    better = replace(again, results=(replace(again.results[0], verdict=PASS), again.results[1]))
    assert not any(result.attribution for result in attribution.carried(better, kept).results)


# --- runs on this host: the suite, the runtimes and the history are real, only the machine is none


class Told(SilentRun):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)


class Here(FakeMachine):
    """This host, as if it were a machine."""

    def __init__(self, tmp: Path) -> None:
        super().__init__("m", self.answer, self.look, MachineState.RUNNING)
        self.tmp = tmp

    def look(self, argv: Sequence[str]) -> Reply:
        done = subprocess.run(list(argv), capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        return Reply(done.returncode, done.stdout, done.stderr)

    def answer(self, argv: Sequence[str]) -> Reply:
        if not any(word.endswith(".pyz") for word in argv):
            return Reply()
        program = next(n for n, word in enumerate(argv) if word.endswith(".pyz"))
        given = [*argv[program + 1 :]]
        del given[given.index("--lock") : given.index("--lock") + 2]
        given.remove("--attached")
        done = subprocess.run(
            [sys.executable, "-m", "labkit.guest.spec", *given], cwd=ROOT, capture_output=True, timeout=300,
            stdin=subprocess.DEVNULL, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(self.tmp)},
        )  # fmt: skip
        return Reply(done.returncode, done.stdout, done.stderr)


Broken = Callable[..., Path]


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    """A runtime like runc whose `state`, or another command, fails for these checks."""

    def make(*checks: str, command: str = "state", name: str = "mine", version: str = "") -> Path:
        runtime = tmp_path / name
        cases = "".join(f"*{command}*{ident.lower()}*) echo no, not that >&2; exit 1 ;; " for ident in checks)
        said = f"*--version*) echo mine version {version}; exit ;; " if version else ""
        runtime.write_text(f'#!/bin/sh\ncase "$*" in {said}{cases}esac\nexec runc "$@"\n')
        runtime.chmod(0o755)
        return runtime

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})


def run(settings: Settings, runtime: Path | str, only: tuple[str, ...], reference: str | None = "runc") -> Outcome:
    selection = Selection(only, confirm=False, reference=reference)
    cell = Cell("debian", "13", "auto", "m", str(runtime), "spec", selection)
    machine = Here(settings.reports.parent)
    return run_cell(cell, settings, SilentRun(), None, lambda *_: machine)


@pytest.mark.host_runtime
def test_what_the_reference_fails_too_is_no_fault_of_ones_own(settings: Settings, broken: Broken) -> None:
    """HOOK-013 is failed by runc 1.1 itself."""
    only = ("STATE-001", "KILL-001", "HOOK-013")
    outcome = run(settings, broken("STATE-001"), only)
    found = {result.id: result for result in outcome.run.results}
    assert words(outcome.run) == {"STATE-001": "this runtime only", "HOOK-013": "reference too"}
    assert found["KILL-001"].verdict is PASS
    raw = outcome.directory / "raw" / "reference" / "spec.tap"
    assert "KILL-001" not in raw.read_text(), "only what is bad is run over the reference"
    assert outcome.run.referred and outcome.run.referred.checks == 2 and not outcome.run.referred.reason
    assert outcome.run.referred.runtime.startswith("runc 1.")
    again = judge(settings, outcome.run.run.id, with_policy=False)
    assert words(again.run) == words(outcome.run)
    assert words(from_json((outcome.directory / "results.json").read_bytes())) == words(outcome.run)


@pytest.mark.host_runtime
def test_a_version_that_brings_a_failure_is_named(settings: Settings, broken: Broken) -> None:
    only = ("STATE-001", "KILL-001")
    run(settings, broken(version="1.0.0"), only, "")
    second = run(settings, broken("STATE-001", version="1.1.0"), only, "").run
    (state,) = [result for result in second.results if result.attribution]
    assert state.attribution and state.attribution.history == "since version 1.1.0"
    third = run(settings, broken("STATE-001", "KILL-001", command="", version="1.1.0"), only, "").run
    told = {result.id: result.attribution.history for result in third.results if result.attribution}
    assert told["STATE-001"] == "since version 1.1.0"
    assert second.referred is None


@pytest.mark.host_runtime
def test_a_reference_that_is_not_there_or_the_same_is_told(settings: Settings, broken: Broken) -> None:
    observer = Told()
    machine = Here(settings.reports.parent)
    for runtime, reference, said in (
        (str(broken("STATE-001")), "/none/runc", "not compared with /none/runc: "),
        (str(broken("STATE-001")), str(broken("STATE-001")), "that is the program under test"),
    ):
        selection = Selection(("STATE-001",), confirm=False, reference=reference)
        cell = Cell("debian", "13", "auto", "m", runtime, "spec", selection)
        outcome = run_cell(cell, settings, observer, None, lambda *_: machine)
        assert outcome.exit_status == 1 and outcome.run.referred is None
        assert said in "\n".join(observer.lines)


def test_history_is_no_reason_to_wait(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Told()
    monkeypatch.setattr(earlier_runs, "_READ", 3)
    settings.reports.mkdir()
    for number in range(9):
        (settings.reports / f"20260101T000000Z.{number}-m-runc-spec").mkdir()
    assert earlier_runs.past(settings.reports, a_run(failing("A")), observer) == {}
    assert "8 runs are to be read" in "\n".join(observer.lines)


def test_a_damaged_history_is_no_reason_to_fail(settings: Settings) -> None:
    settings.reports.mkdir()
    (settings.reports / "history.sqlite").write_text("this is no database" * 100)
    assert earlier_runs.past(settings.reports, a_run(failing("A")), SilentRun()) == {}


def test_what_a_run_was_before_it(tmp_path: Path) -> None:
    """Runs of the same suite, place and runtime by name, whatever its version; not those after it."""
    now = a_run(failing("A-001"))
    base = replace(now.run, id="20260101T000000Z.5-m-runc-spec")
    now = replace(now, run=base)
    with History.open(tmp_path / "history.sqlite", lambda text: None) as history:
        for number, result, runtime in (
            (1, a_result("A-001"), replace(now.runtime, version="1.0")),
            (2, failing("A-001"), now.runtime),
            (3, failing("A-001"), replace(now.runtime, name="crun")),
            (4, a_result("A-002"), now.runtime),
            (6, a_result("A-001"), now.runtime),
            (3, a_result("A-001"), replace(now.runtime, word="runc@0.9", version="0.9")),
        ):
            ident = f"20260101T000000Z.{number}-{runtime.name}-{runtime.version}"
            history.add("", "", replace(now, run=replace(base, id=ident), results=(result,), runtime=runtime))
        found = history.before(now, {now.results[0].identity})
    (shown,) = found.values()
    version = now.runtime.version
    assert [(ran.facts["runtime"], seen.bad) for ran, seen in shown] == [("runc 1.0", False), (f"runc {version}", True)]


def test_a_run_of_another_build_in_between_makes_nothing_new(tmp_path: Path) -> None:
    """Bad, then the package's is good, then bad again: that is as old as its own first run."""
    now = a_run(failing("A-001"))
    mine, other = replace(now.runtime, word="host:/x/runc"), replace(now.runtime, word="runc@1.0", version="1.0")
    with History.open(tmp_path / "history.sqlite", lambda text: None) as history:
        for number, result, runtime in (
            (1, a_result("A-001"), other), (2, failing("A-001"), mine), (3, a_result("A-001"), other),
        ):  # fmt: skip
            ident = f"20260101T000000Z.{number}-m-runc-spec"
            history.add("", "", replace(now, run=replace(now.run, id=ident), results=(result,), runtime=runtime))
        now = replace(now, run=replace(now.run, id="20260101T000000Z.4-m-runc-spec"), runtime=mine)
        (shown,) = history.before(now, {now.results[0].identity}).values()
    earlier = [Earlier(ran.name, ran.facts["runtime"].partition(" ")[2], seen.bad) for ran, seen in shown]
    assert since(earlier, mine.version)[0] == f"since version {mine.version}"
    assert [seen.bad for _, seen in shown] == [False, True]


@pytest.mark.parametrize(
    ("runtime", "reference", "word"),
    [
        ("runc", None, ""), ("crun", None, "runc"), ("crun", "none", ""), ("crun", "crun", ""),
        ("runc", "crun", "crun"),
        ("/usr/bin/x", None, "runc"), ("/usr/bin/x", "/usr/bin/y", "/usr/bin/y"), ("runc", "runc", ""),
    ],
)  # fmt: skip
def test_the_reference_by_default_is_runc_and_never_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, runtime: str, reference: str | None, word: str
) -> None:
    from labkit.usecases import test as tested

    cells: list[Cell] = []

    def keep(cell: Cell, *_: object) -> Outcome:
        cells.append(cell)
        raise KeyboardInterrupt

    monkeypatch.setattr(tested, "run_cell", keep)
    with pytest.raises(KeyboardInterrupt):
        run_test(settings.with_values(None, runtime=runtime), SilentRun(), Selection(), reference=reference)
    assert cells[0].selection.reference == word


def test_a_reference_that_is_misspelt_is_told_before_a_machine_is_made(settings: Settings) -> None:
    with pytest.raises(UsageError, match="unknown runtime 'rnuc'; did you mean 'runc'"):
        run_test(settings.with_values(None, runtime="crun"), SilentRun(), Selection(), reference="rnuc")


def test_a_reference_on_the_command_line(environ: dict[str, str], tmp_path: Path) -> None:
    done = labkit("test", "--runtime", "crun", "--reference", "rnuc", environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown runtime 'rnuc'; did you mean 'runc'" in done.stderr

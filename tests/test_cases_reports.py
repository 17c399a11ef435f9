"""Cases from public reports, and their kin: what shows nothing is no success, and no report is lost or disagrees."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from labkit import __version__
from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.errors import HostError
from labkit.machines.fake import FakeMachine
from labkit.reports import as_diff, files
from labkit.results import policy
from labkit.results.comparison import compare
from labkit.results.model import Verdict, exit_status
from labkit.store import runs
from labkit.suites import shards
from labkit.suites.base import SilentRun
from labkit.suites.validation import SUITE as VALIDATION
from labkit.usecases.judge import diff, judge
from labkit.usecases.run import Outcome, run_cell
from tests import recorded
from tests.test_cli import CHECKOUT, labkit
from tests.test_judge import OUTPUT, conduct, suite_prints
from tests.test_reports import Page
from tests.test_results import a_result, a_run
from tests.test_validation import copy, line

LOST = ("default", "hostname", "linux_sysctl", "mounts", "process_capabilities")  # as the case has them
Judged = Callable[..., Outcome]


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    """Judge a directory with reports of its own; a policy is that of the user, as text."""

    def do(source: Path, own: str = "", *, shipped: bool = True) -> Outcome:
        (tmp_path / "policy.toml").write_text(own)
        settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path), "LABKIT_POLICY": "policy.toml"})
        return judge(settings, str(source), with_policy=shipped)

    return do


def recording(tmp_path: Path, **texts: str) -> Path:
    """A copy of a recording, under its name, in which the programs printed these texts instead."""
    directory = copy(recorded.V2, tmp_path / "recording" / recorded.V2.name)
    for name, text in texts.items():
        (directory / f"{name}.tap").write_text(text)
    return directory


def silent(names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, "")


ALL = sorted(path.stem for path in recorded.V2.glob("*.tap"))
EXPECT_ALL = '[[entry]]\nsuite = "validation"\nprogram = "*"\nexpected = ["no-assertions", "skip"]\nreason = "known"\n'


# --- 09: nothing shown is never success


def test_09_lost_stdout_is_named_for_each_program(judged: Judged, tmp_path: Path) -> None:
    outcome = judged(recording(tmp_path, **silent(LOST)))
    assert outcome.exit_status == 1
    assert [(r.verdict, r.program) for r in outcome.run.unexpected] == [(Verdict.NO_ASSERTIONS, n) for n in LOST]
    assert outcome.run.summary()["unexpected"] == 5


def test_09_all_that_is_silent_is_no_success_whatever_the_policy_says(judged: Judged, tmp_path: Path) -> None:
    for own in ("", EXPECT_ALL):
        outcome = judged(recording(tmp_path, **silent(ALL)), own)
        assert (outcome.run.run.reason, outcome.exit_status) == (None, 1)
        assert str(outcome.run.summary()["nothing_shown"]).startswith("nothing was asserted")
        shutil.rmtree(tmp_path / "recording")
    assert not [result for result in outcome.run.unexpected if result.verdict is Verdict.NO_ASSERTIONS]


@pytest.mark.parametrize("text", ["1..0\n", "TAP version 13\n1..0\n", "# nothing to see\n", "1..0 # SKIP not here\n"])
def test_a_plan_and_nothing_else_is_no_success(text: str, judged: Judged, tmp_path: Path) -> None:
    outcome = judged(recording(tmp_path, **dict.fromkeys(ALL, text)), EXPECT_ALL)
    assert (outcome.run.run.reason, outcome.exit_status) == (None, 1)
    assert outcome.run.nothing_shown


def test_a_program_that_prints_a_plan_and_nothing_else_is_named(judged: Judged, tmp_path: Path) -> None:
    outcome = judged(recording(tmp_path, hostname="TAP version 13\n1..0\n"))
    assert [(r.verdict, r.program) for r in outcome.run.unexpected] == [(Verdict.NO_ASSERTIONS, "hostname")]


def test_what_is_all_skipped_shows_nothing(judged: Judged, tmp_path: Path) -> None:
    outcome = judged(recording(tmp_path, **dict.fromkeys(ALL, "ok 1 - a # SKIP not on this system\n1..1\n")))
    assert (outcome.run.run.reason, outcome.exit_status) == (None, 1)


def test_a_program_that_passes_by_printing_nothing_shows_something_only_alone(judged: Judged, tmp_path: Path) -> None:
    directory = tmp_path / "v0.9.0-crun-1.8.1-cgroup-v2"
    directory.mkdir()
    (directory / "process_rlimits_fail.tap").write_text("")
    (directory / "summary.tsv").write_text("program\texit_status\tseconds\nprocess_rlimits_fail\t0\t1\n")
    assert judged(directory).run.nothing_shown == ""
    (directory / "hostname.tap").write_text("")
    with (directory / "summary.tsv").open("a") as summary:
        summary.write("hostname\t0\t1\n")
    assert judged(directory).run.nothing_shown


def test_a_spec_suite_of_no_assertions(judged: Judged, tmp_path: Path) -> None:
    directory = tmp_path / "spec"
    directory.mkdir()
    (directory / "spec.tap").write_text(
        "TAP version 14\n1..2\n"
        'ok 1 - STATE-001 x\n  ---\n  verdict: "no-assertions"\n  ...\n'
        'ok 2 - STATE-002 x\n  ---\n  verdict: "no-assertions"\n  ...\n'
    )
    outcome = judged(directory)
    assert (outcome.exit_status, len(outcome.run.unexpected)) == (1, 2)
    assert outcome.run.nothing_shown


def test_shards_of_which_one_prints_nothing(judged: Judged, tmp_path: Path) -> None:
    directory = tmp_path / recorded.V2.name
    shares = (tuple(ALL[:29]), tuple(ALL[29:]))
    plan = [{"machine": f"m-{n}", "names": list(share)} for n, share in enumerate(shares, 1)]
    directory.mkdir()
    (directory / shards.PLAN).write_text(json.dumps({"shards": plan}))
    rows = {row.split("\t")[0]: row for row in (recorded.V2 / "summary.tsv").read_text().splitlines()}
    for number, share in enumerate(shares, 1):
        place = shards.place(directory, number)
        place.mkdir()
        facts = {"facts": {"ref": "v0.9.0", "cgroup": "v2"}, "only": share, "programs": share, "finished": True}
        (place / "run.json").write_text(json.dumps(facts))
        (place / "summary.tsv").write_text("\n".join([rows["program"], *(rows[name] for name in share), ""]))
        for name in share:
            (place / f"{name}.tap").write_bytes(b"" if number == 2 else (recorded.V2 / f"{name}.tap").read_bytes())
    outcome = judged(directory)
    assert (outcome.run.run.reason, outcome.exit_status) == (None, 1)
    named = {result.program for result in outcome.run.unexpected if result.verdict is Verdict.NO_ASSERTIONS}
    passed = {program.name for program in VALIDATION.read(recorded.V2).programs if program.verdict is Verdict.PASS}
    assert (passed - {"process_rlimits_fail"}) & set(shares[1]) <= named <= set(shares[1])
    assert outcome.run.nothing_shown == ""


# --- 09, diff: what is seen no more


def test_09_diff_against_the_good_run_calls_them_newly_failing(judged: Judged, tmp_path: Path) -> None:
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    compared = diff(settings, str(recorded.V2), str(recording(tmp_path, **silent(LOST))))
    assert [change.program for change in compared.newly_failing] == list(LOST)
    assert not any((compared.fixed, compared.no_longer_shown, compared.appeared, compared.gone, compared.changed))
    (lost,) = [change for change in compared.newly_failing if change.program == "hostname"]
    assert (lost.before, lost.after) == ({Verdict.PASS: 4}, {Verdict.NO_ASSERTIONS: 1})
    text = as_diff.text(compared)
    assert "newly failing: 5\n" in text
    assert "  hostname: (program): 4 pass -> no-assertions\n" in text
    assert "it made 4 assertions, and makes none now: printed nothing" in Page(as_diff.html(compared)).text
    assert compared.to_json()["gone"] == []


@pytest.mark.parametrize("text", ["1..0 # SKIP not here\n", "ok 1 - a # SKIP not here\n1..1\n"])
def test_a_program_that_skips_all_of_it_now_is_no_longer_shown(text: str, tmp_path: Path) -> None:
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    compared = diff(settings, str(recorded.V2), str(recording(tmp_path, hostname=text, delete=text)))
    assert [change.program for change in compared.no_longer_shown] == ["delete", "hostname"]
    assert not any((compared.fixed, compared.newly_failing, compared.appeared, compared.gone, compared.changed))
    assert "no longer shown: 2\n" in as_diff.text(compared)


@pytest.mark.parametrize("status", ["0", "1", "139"])
def test_a_program_that_prints_nothing_and_breaks_is_one_change(status: str, tmp_path: Path) -> None:
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    directory = recording(tmp_path, hostname="")
    rows = (directory / "summary.tsv").read_text().splitlines(keepends=True)
    rows = [f"hostname\t{status}\t1\n" if row.startswith("hostname\t") else row for row in rows]
    (directory / "summary.tsv").write_text("".join(rows))
    compared = diff(settings, str(recorded.V2), str(directory))
    assert [change.program for group in compared.groups.values() for change in group] == ["hostname"]
    assert compared.newly_failing


VERDICTS = {
    ("fail", "skip"): "no_longer_shown",
    ("error", "skip"): "no_longer_shown",
    ("pass", "skip"): "no_longer_shown",
    ("todo", "skip"): "no_longer_shown",
    ("no-assertions", "skip"): "changed",
    ("todo", "pass"): "fixed",
    ("fail", "pass"): "fixed",
    ("no-assertions", "pass"): "fixed",
    ("pass", "todo"): "changed",
    ("fail", "todo"): "changed",
    ("fail", "flaky"): "changed",
    ("todo", "fail"): "newly_failing",
    ("pass", "no-assertions"): "newly_failing",
    ("skip", "fail"): "newly_failing",
    ("skip", "pass"): "changed",
    ("fail", "no-assertions"): "changed",
}


@pytest.mark.parametrize(("verdicts", "group"), VERDICTS.items())
def test_what_became_of_a_check(verdicts: tuple[str, str], group: str) -> None:
    before, after = (a_run(a_result("STATE-001", Verdict(word))) for word in verdicts)
    compared = compare(before, after)
    assert [name for name, changes in compared.groups.items() if changes] == [group]
    title = group.replace("_", " ") if group != "changed" else "other changes"
    assert f"{title}: 1\n" in as_diff.text(compared)
    assert f"{title}: 1" in Page(as_diff.html(compared)).text


def test_of_several_alike_one_that_is_skipped_now_is_no_longer_shown() -> None:
    failed, passed, skipped = (a_result("A-001", Verdict(word)) for word in ("fail", "pass", "skip"))
    assert compare(a_run(failed, passed), a_run(skipped, passed)).no_longer_shown
    assert compare(a_run(passed), a_run(passed, skipped)).changed, "nothing that was looked at is lost"


def test_the_recordings_are_as_they_were(judged: Judged) -> None:
    assert [exit_status(judged(place).run) for place in (recorded.V1, recorded.V2)] == [1, 0]
    for place in (recorded.V1, recorded.V2):
        assert not [r for r in judged(place).run.unexpected if r.verdict is Verdict.NO_ASSERTIONS]


# --- 26: reports are never lost


def test_26_latest_that_is_a_folder_is_told_and_nothing_is_lost(judged: Judged, tmp_path: Path) -> None:
    latest = tmp_path / "reports" / "latest"
    latest.mkdir(parents=True)
    (latest / "results.json").write_text("from elsewhere")
    outcome = judged(recorded.V2)
    assert outcome.exit_status == 0
    assert {path.name for path in outcome.directory.iterdir()} >= {*files.REPORTS, "raw"}
    (warning,) = outcome.warnings
    assert warning.startswith(f"{latest} is a directory and no link, so it does not name {outcome.directory.name}; ")
    assert (latest / "results.json").read_text() == "from elsewhere"
    assert not [path for path in latest.parent.iterdir() if path.name.endswith(".part")]
    # Without a name, and as "latest", the newest run is meant, not the copy.
    assert [runs.find(latest.parent, name) for name in (None, "latest")] == [outcome.directory] * 2


def test_26_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "reports" / "latest").mkdir(parents=True)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = labkit("judge", str(recorded.V2), "--json", environ=environ, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("labkit: warning: ") and done.stderr.count("\n") == 1
    assert Path(json.loads(done.stdout)["folder"], "junit.xml").is_file()


def test_a_copy_of_a_run_as_latest_and_nothing_else_is_that_run(judged: Judged, tmp_path: Path) -> None:
    made = judged(recorded.V2).directory
    (made.parent / "latest").unlink()
    made.rename(made.parent / "latest")
    assert runs.find(made.parent, "latest") == runs.find(made.parent, None) == made.parent / "latest"


@pytest.mark.parametrize("content", ["", "20260101T000000Z.1-a-runc-spec"])
def test_a_file_called_latest_stays(content: str, judged: Judged, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "latest").write_text(content)
    (warning,) = judged(recorded.V2).warnings
    assert "latest is a file and no link" in warning
    assert (tmp_path / "reports" / "latest").read_text() == content


def test_a_link_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A name that no file system takes stands for one without links: the kernel refuses either."""
    why = runs.point_latest(tmp_path / "reports" / "run")  # reports/ is not there
    assert why is not None and "a link cannot be made there: No such file or directory" in why


@pytest.mark.parametrize("system", ["vfat", "read-only"])
def test_a_run_on_a_file_system_that_refuses(system: str, judged: Judged, tmp_path: Path) -> None:
    """In a mount namespace of its own, so that this host has nothing of it."""
    place = tmp_path / "reports"
    place.mkdir()
    if system == "vfat":
        (tmp_path / "disk").write_bytes(b"")
        os.truncate(tmp_path / "disk", 64 << 20)
        made = (
            subprocess.run(["mkfs.vfat", tmp_path / "disk"], capture_output=True) if shutil.which("mkfs.vfat") else None
        )
        mount = f"mount -o loop {tmp_path}/disk {place}"
        if made is None or made.returncode:
            pytest.skip("there is no mkfs.vfat here")
    else:
        mount = f"mount -t tmpfs -o ro none {place}"
    judging = f"cd {tmp_path} && HOME={tmp_path} {sys.executable} -m labkit judge {recorded.V2}; echo $?; ls {place}"
    words = ["unshare", "--mount", "sh", "-c", f"{mount} || exit 77; {judging}"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
    )
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip(f"cannot be mounted here: {done.stderr.strip()}")
    assert "Traceback" not in done.stderr
    if system == "vfat":
        assert "labkit: warning: " in done.stderr and "a link cannot be made there" in done.stderr
        assert "\n0\n" in done.stdout and "latest" not in done.stdout.splitlines()
    else:
        assert "labkit: cannot write in reports: Read-only file system" in done.stderr.replace(f"{tmp_path}/", "")
        assert "\n3\n" in f"\n{done.stdout}"


def test_latest_stays_with_what_test_made(judged: Judged, tmp_path: Path) -> None:
    first = judged(recorded.V2).directory
    latest = first.parent / "latest"
    assert latest.resolve() == first, "there is no run of test"
    second = judged(recorded.V1).directory
    assert latest.resolve() == second
    tested = conduct(tmp_path, suite_prints(OUTPUT + line("finish")), only=("create", "pidfile")).directory
    assert latest.resolve() == tested
    assert judged(recorded.V2).warnings == ()
    assert latest.resolve() == tested


class Told(SilentRun):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_26_in_test_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "reports" / "latest").mkdir(parents=True)
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    cell = Cell("debian", "13", "auto", "m", "runc", "validation", Selection(("create", "pidfile")))
    told, machine = Told(), suite_prints(OUTPUT + line("finish"))
    outcome = run_cell(cell, settings, told, policy.load(), lambda *_: machine)
    assert outcome.exit_status == 0
    assert {path.name for path in outcome.directory.iterdir()} >= {*files.REPORTS, "raw", "console.log"}
    assert [line for line in told.warnings if "latest is a directory" in line]


def test_reports_that_cannot_be_kept_are_told_before_a_machine_is_made(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file")
    with pytest.raises(HostError, match="cannot write in"):
        conduct(tmp_path, FakeMachine("m", lambda argv: pytest.fail("the machine was asked")))


def test_a_report_whose_name_is_taken_keeps_no_other_from_being_written(judged: Judged, tmp_path: Path) -> None:
    run = judged(recorded.V2).run
    (tmp_path / "there" / "results.json").mkdir(parents=True)
    with pytest.raises(HostError, match="cannot write in"):
        files.write_all(run, tmp_path / "there")
    assert all((tmp_path / "there" / name).is_file() for name in files.REPORTS if name != "results.json")


# --- judged again: beside the older reports


OWN = '[[entry]]\nsuite = "validation"\nprogram = "create"\nexpected = ["fail", "pass"]\nreason = "ours"\n'


def test_judging_again_with_another_policy_keeps_the_older_reports(judged: Judged, tmp_path: Path) -> None:
    first = judged(recorded.V2)
    before = {path: path.read_bytes() for path in first.directory.iterdir() if path.is_file()}
    assert judged(first.directory).directory == first.directory, "nothing differs"
    bare = judged(first.directory, shipped=False)
    assert (bare.directory, bare.exit_status) == (first.directory / "judged-2", 1)
    own = judged(first.directory, OWN)
    assert (own.directory, own.exit_status) == (first.directory / "judged-3", 0)
    assert {path: path.read_bytes() for path in before} == before
    shipped = len(policy.files(policy.load()))
    for outcome, files_of in ((first, shipped), (bare, None), (own, shipped + 1)):
        assert {path.name for path in outcome.directory.iterdir()} >= {*files.REPORTS}
        said = json.loads((outcome.directory / "results.json").read_text())["judged"]
        assert said["labkit"].startswith(__version__)
        assert (None if said["policy"] is None else len(said["policy"])) == files_of
    assert said["policy"][0] == {
        "name": "policy.toml", "sha256": hashlib.sha256((tmp_path / "policy.toml").read_bytes()).hexdigest()
    }  # fmt: skip
    # The newest is what is meant by the run; an older one can be named.
    assert runs.load(first.directory).judged == own.run.judged
    assert runs.load(bare.directory).judged == bare.run.judged
    assert judged(bare.directory, OWN).directory == own.directory
    for name in files.REPORTS:
        assert "policy.toml" in (own.directory / name).read_text()


def test_a_run_that_was_cut_off_gets_its_reports_in_its_place(judged: Judged) -> None:
    made = judged(recorded.V2).directory
    for name in files.REPORTS:
        if name != "results.json":
            (made / name).unlink()
    assert judged(made, shipped=False).directory == made

"""`judge` and `diff` as processes, and a run conducted without a machine: the same raw output, read the same way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.errors import ConnectionFailed, UsageError
from labkit.machines.fake import FakeMachine, Reply
from labkit.results import policy
from labkit.store import runs
from labkit.suites.base import SilentRun
from labkit.suites.validation import SUITE, Validation
from labkit.usecases.judge import judge
from labkit.usecases.run import Outcome, run_cell
from tests import replay
from tests.test_cli import Done, labkit
from tests.test_reports import Page
from tests.test_validation import BAD, GOOD, copy, line, one, plan

REPORTS = {"results.json", "results.tap", "junit.xml", "report.html"}
Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in a directory of its own; status is what it must end with."""
    work = tmp_path / "work"
    work.mkdir()

    def do(*words: object, status: int = 0, **env: str) -> Done:
        done = labkit(*map(str, words), environ={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **env}, cwd=work)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return do


def reports(tmp_path: Path) -> list[Path]:
    directory = tmp_path / "work" / "reports"
    return sorted(path for path in directory.iterdir() if not path.is_symlink()) if directory.exists() else []


# --- judge


@pytest.mark.parametrize(
    ("name", "status", "counts"),
    [
        ("master", 1, {"pass": 3275, "fail": 35, "skip": 427, "todo": 0}),
        ("v0.9.0", 0, {"pass": 3444, "fail": 40, "skip": 473, "todo": 0}),
    ],
)
def test_a_recording(
    name: str, status: int, counts: dict[str, int], run: Run, recordings: dict[str, Path], tmp_path: Path
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in recordings[name].iterdir()}
    said = json.loads(run("judge", recordings[name], "--json", status=status).stdout)
    assert (said["programs"], said["assertions"], said["complete"]) == (58, counts, True)
    assert sum(map(len, said["programs_by_verdict"].values())) == 58
    assert len(said["programs_by_verdict"]["no-assertions"]) == 7
    (directory,) = reports(tmp_path)
    assert Path(said["folder"]) == directory
    assert {path.name for path in directory.iterdir()} == {*REPORTS, "raw", "said.json"}
    assert (directory.parent / "latest").resolve() == directory
    assert {path.name for path in (directory / "raw").iterdir()} == set(before)
    assert {path.name: path.stat().st_mtime_ns for path in recordings[name].iterdir()} == before
    page = Page((directory / "report.html").read_text())
    assert "it supports cgroup v1 only" in page.text or name == "master"


def test_a_run_is_judged_again_in_its_place(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    run("judge", recordings["v0.9.0"])
    (directory,) = reports(tmp_path)
    first = (directory / "results.json").read_text()
    for words in (
        ["judge", directory],
        ["judge", directory / "raw"],
        ["judge", directory.name],
        ["judge", "latest"],
        ["report"],
    ):
        (directory / "results.tap").unlink()
        run(*words)
        assert (directory / "results.json").read_text() == first, words
        assert (directory / "results.tap").exists()
    assert reports(tmp_path) == [directory]


def test_a_unique_beginning_of_an_id_is_enough(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "spec"
    directory.mkdir()
    (directory / "spec.tap").write_text("1..1\nok 1 - STATE-001 x\n")
    run("judge", directory)
    (made,) = reports(tmp_path)
    names = ["20260101T000000Z-a-runc-spec", "20260101T000000Z-a-runc-spec-2", "20260202T000000Z-b-crun-spec"]
    for name in names:
        shutil.copytree(made, made.parent / name)
    for words in (["judge", "202602"], ["report", "--run", "20260202T"]):
        (made.parent / names[2] / "results.tap").unlink()
        assert json.loads(run(*words, "--json").stdout)["folder"] == str(made.parent / names[2])
        assert (made.parent / names[2] / "results.tap").exists()
    # A whole id is one, even if another begins with it.
    assert runs.find(made.parent, names[0]) == made.parent / names[0]
    assert "nothing changed" in run("diff", "202602", names[1]).stdout

    said = run("diff", "latest", "202601", status=2).stderr
    assert f"labkit: 2 runs in {made.parent} begin with 202601: {names[0]}, {names[1]}\n" in said
    assert said.endswith("hint: type more of the id\n")
    with pytest.raises(UsageError, match="there is no run 2025 in "):
        runs.find(made.parent, "2025")


def test_no_policy_is_the_bare_truth(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    run("judge", recordings["v0.9.0"], "--no-policy", status=1)
    (directory,) = reports(tmp_path)
    document = json.loads((directory / "results.json").read_text())
    assert "policy" not in document
    assert not any("expected" in result for result in document["results"])
    run("judge", directory)
    marked = json.loads((directory / "judged-2" / "results.json").read_text())
    assert [result.pop("expected", None) for result in marked["results"]].count(None) < len(marked["results"])
    assert marked["results"] == document["results"], "a policy adds, and changes nothing"


def test_every_report_carries_what_is_expected(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    text = run("judge", recordings["v0.9.0"]).stdout
    assert "40 fail (40\nexpected)" in text or "40 fail (40 expected)" in text
    (directory,) = reports(tmp_path)
    reason = "it kills a process that has already exited"
    assert f"# expected: {reason} (validation.toml, entry." in (directory / "results.tap").read_text()
    assert f'message="expected fail: {reason}"' in (directory / "junit.xml").read_text()
    assert f"Expected: {reason}" in Page((directory / "report.html").read_text()).text
    result = next(
        r for r in json.loads((directory / "results.json").read_text())["results"] if r.get("program") == "pidfile"
    )
    assert (result["verdict"], result["expected"]["reason"]) == ("fail", reason)


def test_what_a_directory_does_not_say_can_be_said(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    directory = copy(recordings["v0.9.0"], tmp_path / "elsewhere")
    said = json.loads(run("judge", directory, "--json", status=1).stdout)
    assert said["unexpected"] == 2, "that it was crun is not known; that it was cgroup v2 is"
    words = ("--runtime", "crun", "--runtime-version", "1.8.1", "--cgroup", "v2", "--platform", "debian")
    assert json.loads(run("judge", directory, "--json", *words).stdout)["unexpected"] == 0
    document = json.loads((reports(tmp_path)[-1] / "results.json").read_text())
    assert document["runtime"] == {"name": "crun", "path": "", "version": "1.8.1"}
    assert (document["machine"]["cgroup"], document["machine"]["platform"]) == ("v2", "debian")
    assert document["suite"] == {"name": "validation", "version": "v0.9.0", "spec": "1.0.1"}


def test_a_program_that_is_missing_makes_it_incomplete(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    directory = copy(recordings["v0.9.0"], tmp_path / recordings["v0.9.0"].name)
    (directory / "state.tap").unlink()
    summary = (directory / "summary.tsv").read_text().splitlines(keepends=True)
    (directory / "summary.tsv").write_text("".join(row for row in summary if not row.startswith("state\t")))
    text = run("judge", directory, status=4).stdout
    assert "INCOMPLETE: 1 program missing: state" in text


def test_raw_output_of_the_spec_suite(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "spec"
    directory.mkdir()
    finding = "create-with-a-regular-file-at-the-path-of-a-device"
    (directory / "spec.tap").write_text(
        "1..1\n# runtime-version: runc version 1.1.15\nnot ok 1 - DEV-002 x\n"
        f'  ---\n  failures: [{{"finding": "{finding}"}}]\n  ...\n'
    )
    run("judge", directory, "--runtime", "runc")
    said = run("judge", directory, "--runtime", "youki", status=1).stdout
    assert "the runtime is taken for youki, as was said; the output itself says runc" in " ".join(said.split())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no run {path} in "),
        (lambda path: path.write_text("x"), "{path} is neither a .tap file, an archive nor a record of calls"),
        (lambda path: path.mkdir(), "{path} holds neither a run nor raw output"),
        (lambda path: (path.mkdir(), (path / "x.txt").write_text("x")), "{path} holds neither a run nor raw output"),
        (
            lambda path: (path.mkdir(), (path / "results.json").write_bytes(b"\x00\xff")),
            "{path}/results.json: not JSON",
        ),
        (
            lambda path: (path.mkdir(), (path / "summary.tsv").write_bytes(b"\x1b[2J\x00\tx\n")),
            "{path}/summary.tsv:1: the columns must be",
        ),
    ],
)
def test_what_is_no_run_is_named_and_leaves_nothing(
    make: Callable[[Path], object], message: str, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "what"
    make(path)
    done = run("judge", path, status=3 if "JSON" in message else 2)
    assert message.format(path=path) in done.stderr
    assert reports(tmp_path) == []


def test_hostile_output_reaches_no_report_unescaped(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "hostile"
    directory.mkdir()
    text = "\x1b[2J<script>alert(1)</script>\u202e\x00"
    error = json.dumps({"error": f"{text} MUST\nRefer to: javascript:{text}"})
    (directory / "create.tap").write_text(f"  ---\n  {error}\n  ...\n{text}\nnot ok 1 - {text}\n# {text}\n1..1\n")
    (directory / "create.err").write_text(text)
    (directory / "summary.tsv").write_text("program\texit_status\tseconds\ncreate\t1\t1\n")
    done = run("judge", directory, status=4)
    (made,) = reports(tmp_path)
    for shown in (done.stdout, *((made / name).read_text() for name in REPORTS)):
        assert not any(char in shown for char in "\x1b\u202e\x00")
    page = Page((made / "report.html").read_text())
    assert len(page.named("script")) == 1
    assert not [link for link in page.named("a") if not str(link["href"]).startswith("https://")]


# --- a person's own policy


def test_an_expired_entry_fails_loudly(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "work" / "labkit.toml").write_text('policy = "mine.toml"\n')
    (tmp_path / "work" / "mine.toml").write_text(
        '[[entry]]\nsuite = "validation"\nprogram = "create"\nexpected = "fail"\nreason = "soon mended"\n'
        "expires = 2020-01-01\n"
    )
    text = run("judge", recordings["v0.9.0"], status=1).stdout
    assert "EXPIRED: mine.toml, entry.0 (validation create) expired on 2020-01-01: soon mended" in " ".join(
        text.split()
    )
    (directory,) = reports(tmp_path)
    assert "mine.toml, entry.0" in (directory / "junit.xml").read_text()
    assert "EXPIRED: mine.toml" in Page((directory / "report.html").read_text()).text


def test_an_unexpected_pass_is_told(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.toml").write_text(
        '[[entry]]\nsuite = "validation"\nprogram = "create"\nexpected = "fail"\nreason = "mended?"\n'
    )
    text = run("judge", recordings["v0.9.0"], LABKIT_POLICY=str(own)).stdout
    assert (
        "unexpected pass: create: expected fail, got pass (a.toml, entry.0 (validation create): mended?)"
        in " ".join(text.split())
    )


def test_a_mistake_in_a_policy_is_wrong_configuration(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "work" / "labkit.toml").write_text('policy = "mine.toml"\n')
    (tmp_path / "work" / "mine.toml").write_text("[[entry]]\nprogramm = 1\n")
    done = run("judge", recordings["v0.9.0"], status=2)
    assert "mine.toml: unknown key entry.0.programm; did you mean 'program'?" in done.stderr
    (tmp_path / "work" / "labkit.toml").write_text('policy = "none.toml"\n')
    assert "none.toml: cannot be read" in run("judge", recordings["v0.9.0"], status=2).stderr


# --- diff


def test_diff_as_text_json_and_html(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    run("judge", recordings["master"], status=1)
    run("judge", recordings["v0.9.0"])
    before, _ = reports(tmp_path)
    text = run("diff", before.name, "latest", "--html", tmp_path / "diff.html").stdout
    assert "newly failing: 8" in text
    assert "  delete_only_create_resources: (program): pass -> error (expected: it supports cgroup v1 only" in text
    value = json.loads(run("diff", before, recordings["v0.9.0"], "--json").stdout)
    assert len(value["newly_failing"]) == 8
    assert {"newly_failing", "fixed", "appeared", "gone"} <= value.keys()
    assert "newly failing: 8" in Page((tmp_path / "diff.html").read_text()).text
    assert "nothing changed" in run("diff", before, recordings["master"]).stdout


def test_diff_with_what_is_no_run(run: Run, recordings: dict[str, Path], tmp_path: Path) -> None:
    assert "there is no run nothing" in run("diff", recordings["master"], "nothing", status=2).stderr
    assert "diff needs RUN-B" in run("diff", recordings["master"], status=2).stderr


# --- a run, conducted


def suite_prints(output: bytes, status: int = 0, *, error: BaseException | None = None) -> FakeMachine:
    """A machine in which the suite's program prints what it is told to."""

    def respond(argv: Sequence[str]) -> Reply:
        is_suite = any(word.endswith("labkit-programs.pyz") for word in argv)  # not what runs before it
        return Reply(status, output, b"said\n", error) if is_suite else Reply()

    return FakeMachine("m", respond)


def conduct(tmp_path: Path, machine: FakeMachine, *, only: tuple[str, ...] = ()) -> Outcome:
    """Run the validation suite on the machine."""
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    cell = Cell("debian", "13", "auto", "m", "runc", "validation", Selection(only))
    return run_cell(cell, settings, SilentRun(), policy.load(), lambda *_: machine)


def judge_again(tmp_path: Path, outcome: Outcome, *, with_policy: bool = True) -> Outcome:
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    return judge(settings, str(outcome.directory), with_policy=with_policy)


OUTPUT = plan("create", "pidfile", **{"runtime-path": "/usr/sbin/runc", "runtime-version": "runc version 1.1.15"}) + (
    one("create", GOOD) + one("pidfile", BAD.replace(b"a", b"create with '--pid-file' option works"))
)


def test_a_run_and_judging_it_again_are_the_same(tmp_path: Path) -> None:
    outcome = conduct(tmp_path, suite_prints(OUTPUT + line("finish")), only=("create", "pidfile"))
    assert (outcome.exit_status, outcome.run.run.reason) == (0, None)
    assert (outcome.run.runtime.version, outcome.run.suite.version) == ("1.1.15", "master")
    assert outcome.run.machine["cgroup"] == "v2"
    assert (tmp_path / "reports" / "latest").resolve() == outcome.directory
    assert (outcome.directory / "raw" / "labkit-programs.err").read_text() == "said\n"
    first = {name: (outcome.directory / name).read_bytes() for name in REPORTS}
    again = judge_again(tmp_path, outcome)
    assert again.run.by_id() == outcome.run.by_id()
    assert {name: (outcome.directory / name).read_bytes() for name in REPORTS} == first


def test_a_cut_connection_is_remembered_by_later_judgements(tmp_path: Path) -> None:
    outcome = conduct(
        tmp_path,
        suite_prints(OUTPUT + line("finish"), error=ConnectionFailed("the connection was cut")),
        only=("create", "pidfile"),
    )
    assert (outcome.exit_status, outcome.run.run.reason) == (4, "the connection was cut")
    for _ in range(2):
        assert judge_again(tmp_path, outcome, with_policy=False).run.run.reason == "the connection was cut"


@pytest.mark.host_runtime
@pytest.mark.parametrize("ref", ["master", "v0.9.0"])
def test_a_recording_replayed_through_the_real_driver(ref: str, recordings: dict[str, Path], tmp_path: Path) -> None:
    tree = replay.replayed(tmp_path / "tree", recordings[ref], scale=0.01)
    (tree / ".labkit-ref").write_text(ref)
    suite = Validation()
    program, raw = tmp_path / suite.file_name(), tmp_path / "raw"
    program.write_bytes(suite.program())
    raw.mkdir()
    argv = [
        str(tree) if word.startswith("/opt") else word for word in suite.argv(str(program), "/bin/true", Selection())
    ]
    with suite.recorder(raw, lambda *_: None) as recorder:
        argv[argv.index("--lock") + 1] = str(tmp_path / "lock")
        reading, writing = os.pipe()
        done = subprocess.run([sys.executable, *argv[1:]], stdin=reading, capture_output=True, timeout=300)
        os.close(reading)
        os.close(writing)
        recorder.take(done.stdout)
    assert (done.returncode, done.stderr) == (0, b"")
    mine, theirs = suite.read(raw), suite.read(recordings[ref])
    assert mine.reason is None
    assert (mine.facts["ref"], mine.facts["spec"]) == (theirs.facts["ref"], theirs.facts["spec"])
    verdicts = [sorted((p.name, p.verdict, p.status) for p in reading.programs) for reading in (mine, theirs)]
    assert verdicts[0] == verdicts[1]
    results = [sorted((r.id, r.name, r.verdict) for r in reading.results) for reading in (mine, theirs)]
    assert results[0] == results[1]


def test_a_suite_that_breaks_off_is_incomplete(tmp_path: Path) -> None:
    outcome = conduct(tmp_path, suite_prints(OUTPUT, 3), only=("create", "pidfile"))
    reason = "the suite exited with status 3: said; the suite did not finish"
    assert (outcome.exit_status, outcome.run.run.reason) == (4, reason)
    assert judge_again(tmp_path, outcome, with_policy=False).run.run.reason == reason


def test_a_suite_that_was_called_wrongly_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="said"):
        conduct(tmp_path, suite_prints(b"", 2))


def test_the_recording_replayed_as_the_suite_would_print_it(recordings: dict[str, Path], tmp_path: Path) -> None:
    rows = [row.split("\t") for row in (recordings["master"] / "summary.tsv").read_text().splitlines()[1:]]
    output = plan(*(row[0] for row in rows), cgroup="v1") + b"".join(
        one(name, (recordings["master"] / f"{name}.tap").read_bytes(), int(status)) for name, status, _ in rows
    )
    outcome = conduct(tmp_path, suite_prints(output + line("finish")))
    assert outcome.run.run.reason is None
    there = SUITE.read(recordings["master"])
    assert [(p.name, p.verdict) for p in outcome.run.programs] == [(p.name, p.verdict) for p in there.programs]
    shutil.rmtree(outcome.directory)


def test_what_failed_last_time_is_known_by_name(recordings: dict[str, Path], tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    with pytest.raises(UsageError, match="there is no run of validation on crun"):
        runs.failed_before(reports, "validation", "crun")
    outcome = judge(
        config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)}), str(recordings["v0.9.0"]), with_policy=False
    )
    (reports / "20990101T000000Z-rubbish").mkdir()
    failed = runs.failed_before(reports, "validation", "crun")
    assert set(failed) == {program.name for program in outcome.run.programs if program.verdict.bad}
    assert len(failed) == 32
    with pytest.raises(UsageError, match="there is no run of validation on runc"):
        runs.failed_before(reports, "validation", "runc")

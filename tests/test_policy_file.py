"""The user's policy file as labkit writes it: what a run showed, others' lists, and what is told of entries there."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.observer import Silent
from labkit.results import policy, skiplists
from labkit.results.json import to_json
from labkit.results.model import WHOLE, Run, RuntimeInfo, Verdict, exit_status
from labkit.results.policytext import quoted, string, table
from labkit.results.skiplists import Skip
from labkit.suites import registry
from labkit.usecases import policy as writing
from labkit.usecases.policy import Written
from tests.recorded import V2
from tests.test_cli import Done, labkit
from tests.test_policy import found, program
from tests.test_results import a_result, a_run

TODAY = date(2026, 11, 26)
LISTS = Path(__file__).parent / "recordings/cases/16-skip-list"
PROGRAMS = registry.find("validation").names()
ID = "20261126T010101Z.1-x"
ODD = 'mount /data [rw bind] *.tmp "é" \\ 100%? \x7f\u202e\U0001f980'


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_today", lambda: TODAY)


class Lab:
    """A directory with reports and a configuration, as a person has it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {"HOME": str(directory), "PATH": "/usr/bin:/bin", "LABKIT_HOME": str(directory / "home")}

    @property
    def settings(self) -> Settings:
        return config.load(cwd=self.directory, environ=self.environ)

    @property
    def policy(self) -> Path:
        return self.directory / "policy.toml"

    def ran(self, run: Run, ident: str = ID) -> str:
        place = self.directory / "reports" / ident
        place.mkdir(parents=True)
        (place / "results.json").write_text(to_json(replace(run, run=replace(run.run, id=ident))))
        return ident

    def add(self, *words: str, run: str = ID, reason: str = "known", **more: object) -> Written:
        return writing.add(self.settings, Silent(), run, words, reason=reason, **more)  # type: ignore[arg-type]

    def judged(self, run: Run) -> Run:
        settings = self.settings
        return policy.apply(run, policy.load(settings.policy, suites=registry.names(), programs=PROGRAMS), TODAY)

    def __call__(self, *words: object, status: int = 0) -> Done:
        done = labkit(*map(str, words), environ=self.environ, cwd=self.directory)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path)


FAILS = a_run(a_result("DEV-002", Verdict.FAIL), a_result("DEV-001"), a_result("DEV-003", Verdict.SKIP))


# --- add


def test_what_a_run_showed_is_expected_afterwards(lab: Lab) -> None:
    lab.ran(FAILS)
    written = lab.add("DEV-002", reason="known", link="https://example.org/1", expires="2027-06-30")
    entry = {"suite": "spec", "id": "DEV-002", "runtime": "runc", "version": "=1.1.15", "cgroup": "v2"}
    entry |= {"platform": "debian-13", "expected": "fail", "reason": "known", "link": "https://example.org/1"}
    assert tomllib.loads(lab.policy.read_text())["entry"] == [{**entry, "expires": date(2027, 6, 30)}]
    assert tomllib.loads((lab.directory / "labkit.toml").read_text()) == {"policy": "policy.toml"}
    assert written.file == lab.policy
    assert any("labkit.toml was made, and names it" in line for line in written.told)
    judged = lab.judged(FAILS)
    assert exit_status(judged) == 0
    assert judged.results[0].expected is not None and judged.results[0].expected.reason == "known"


def test_it_is_so_for_judge_as_a_person_runs_it(lab: Lab) -> None:
    lab.ran(FAILS)
    lab("judge", ID, status=1)
    done = lab("policy", "add", ID[:15], "dev-002", "--reason", "known, for now", "--expires=2999-01-01")
    assert 'reason = "known, for now"' in done.stdout
    assert "1 entry written to" in done.stdout
    lab("judge", ID, status=0)
    assert (
        "is expected already: policy.toml, entry.0"
        in lab("policy", "add", ID, "DEV-002", "--reason", "x", status=2).stderr
    )
    assert lab("policy", "check").stdout.strip().endswith("1 entry looked over with 1 run: nothing wrong")


@pytest.mark.parametrize(
    ("change", "word", "without"),
    [
        ({"runtime": RuntimeInfo("crun", "", "1.8.1")}, "runtime", "--"),
        ({"runtime": RuntimeInfo("runc", "", "1.1.16")}, "version", "version"),
        ({"machine": {"platform": "debian", "release": "13", "cgroup": "v1"}}, "cgroup", "cgroup"),
        ({"machine": {"platform": "debian", "release": "12", "cgroup": "v2"}}, "platform", "platform"),
    ],
)
def test_an_entry_is_as_narrow_as_the_run_but_for_what_is_left_open(
    lab: Lab, change: dict[str, object], word: str, without: str
) -> None:
    lab.ran(FAILS)
    lab.add("DEV-002")
    other = replace(FAILS, **change)  # type: ignore[arg-type]
    assert lab.judged(other).results[0].expected is None
    lab.policy.unlink()
    lab.add("DEV-002", wide=["runtime", "version"] if word == "runtime" else [word])
    assert lab.judged(other).results[0].expected is not None


def test_what_a_run_does_not_know_narrows_nothing_and_is_told(lab: Lab) -> None:
    run = replace(FAILS, runtime=RuntimeInfo("unknown", "", ""), machine={"platform": ""})
    lab.ran(run)
    told = lab.add("DEV-002").told
    assert told[0] == "the run does not say its runtime or cgroup or platform: the entry holds for each"
    assert not {"runtime", "version", "cgroup", "platform"} & tomllib.loads(lab.policy.read_text())["entry"][0].keys()
    assert lab.judged(run).results[0].expected is not None


def test_findings_are_named_and_another_one_stays_unexpected(lab: Lab) -> None:
    run = found("a", "b[0]")
    lab.ran(run)
    lab.add("DEV-002")
    assert tomllib.loads(lab.policy.read_text())["entry"][0]["findings"] == ["a", "b[[]0]"]
    assert exit_status(lab.judged(run)) == 0
    more = lab.judged(found("a", "b[0]", "c"))
    assert (exit_status(more), more.results[0].known) == (1, ("a", "b[0]"))
    lab.ran(found("a", "b[0]", "c"), "20261126T010101Z.2-y")
    lab.add("DEV-002", run="latest" if (lab.directory / "reports/latest").exists() else "20261126T010101Z.2-y")
    assert tomllib.loads(lab.policy.read_text())["entry"][1]["findings"] == "c", "what is known is not written twice"
    assert exit_status(lab.judged(found("a", "b[0]", "c"))) == 0


def test_a_name_is_matched_as_it_stands(lab: Lab) -> None:
    run = program("mounts", (ODD, Verdict.FAIL), ("mount /data r", Verdict.FAIL), ("ok", Verdict.PASS))
    lab.ran(run)
    for word in ("mounts/0", ODD):  # an id, or the text of a report
        lab.policy.unlink(missing_ok=True)
        lab.add(word)
        assert [result.expected is not None for result in lab.judged(run).results] == [True, False, False]


def test_all_that_failed_of_a_program_is_one_entry_for_each_verdict(lab: Lab) -> None:
    run = program("delete", ("a", Verdict.FAIL), ("b", Verdict.FAIL), ("c", Verdict.PASS), (WHOLE, Verdict.ERROR))
    lab.ran(run)
    lab.add("delete")
    entries = tomllib.loads(lab.policy.read_text())["entry"]
    assert [(e["assertion"], e["expected"]) for e in entries] == [(["a", "b"], "fail"), (WHOLE, "error")]
    assert exit_status(lab.judged(run)) == 0


def test_a_program_that_asserts_nothing_or_only_violates_can_be_added(lab: Lab) -> None:
    silent = program("hooks", (WHOLE, Verdict.NO_ASSERTIONS), violation="Hooks MUST [a] be called*")
    lab.ran(silent)
    lab.add("hooks")
    assert lab.judged(silent).unexpected == []
    quiet = program("state", (WHOLE, Verdict.NO_ASSERTIONS))
    lab.ran(quiet, "20261126T010101Z.2-y")
    lab.add("state", run="20261126T010101Z.2-y")
    assert lab.judged(quiet).results[0].expected is not None


def test_what_each_run_makes_up_stands_for_anything(lab: Lab) -> None:
    def run(ident: str) -> Run:
        return program("state", (f"cgroup [x] of {ident} is there", Verdict.FAIL))

    lab.ran(run("11111111-2222-3333-4444-555555555555"))
    lab.add("state")
    assert exit_status(lab.judged(run("99999999-2222-3333-4444-aaaaaaaaaaaa"))) == 0
    assert exit_status(lab.judged(program("state", ("cgroup y of me is there", Verdict.FAIL)))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["DEV-001"], "DEV-001 is no failure in .*: it came to pass"),
        (["DEV-003"], "DEV-003 is no failure in .*: it came to skip"),
        (["DEV-0022"], "has no DEV-0022; did you mean 'DEV-002'"),
        (["MEM-*"], r"has no MEM-\*"),
        (["DEV-002", "DEV-001"], "DEV-001 is no failure"),
    ],
)
def test_what_is_no_failure_is_refused_and_nothing_is_written(lab: Lab, words: list[str], message: str) -> None:
    lab.ran(FAILS)
    with pytest.raises(UsageError, match=message) as caught:
        lab.add(*words)
    assert "bad and not expected there: DEV-002" in (caught.value.hint or "")
    assert not lab.policy.exists() and not (lab.directory / "labkit.toml").exists()


def test_what_did_not_repeat_is_no_failure(lab: Lab) -> None:
    lab.ran(a_run(a_result("DEV-002", Verdict.FLAKY)))
    with pytest.raises(UsageError, match="came to flaky"):
        lab.add("DEV-002")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"expires": "2026-11-25"}, "--expires is 2026-11-25, which is past"),
        ({"expires": "soon"}, "--expires is 'soon', must be a date"),
        ({"link": "http://example.org"}, "link is 'http://example.org', must be an https address"),
    ],
)
def test_bad_values_are_refused(lab: Lab, more: dict[str, str], message: str) -> None:
    lab.ran(FAILS)
    with pytest.raises(UsageError, match=re.escape(message)):
        lab.add("DEV-002", **more)
    assert not lab.policy.exists()


def test_an_entry_of_ones_own_that_decides_first_is_named(lab: Lab) -> None:
    lab.ran(FAILS)
    lab.policy.write_text('[[entry]]\nsuite = "spec"\nid = "DEV-*"\nexpected = "pass"\nreason = "must work"\n')
    (lab.directory / "labkit.toml").write_text('policy = "policy.toml"\n')
    before = lab.policy.read_text()
    with pytest.raises(UsageError, match=r"no effect: policy.toml, entry.0 \(spec DEV-\*\) comes before it"):
        lab.add("DEV-002")
    assert lab.policy.read_text() == before


# --- the file


OLD = """# mine; do not sort
[[entry]]  # first
suite = "spec"
id = "X-001"
expected = "fail"
reason = '''a
[[entry]]
'''
"""


@pytest.mark.parametrize("text", [OLD, OLD.rstrip("\n"), OLD + "\n\n# the end\n", "", "# nothing yet", "\ufeff" + OLD])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_rest_of_the_file_stays_as_it_is(lab: Lab, text: str, end: str) -> None:
    lab.ran(FAILS)
    (lab.directory / "labkit.toml").write_text('policy = "own.toml"\n')
    before = text.replace("\n", end).encode()
    (lab.directory / "own.toml").write_bytes(before)
    lab.add("DEV-002")
    after = (lab.directory / "own.toml").read_bytes()
    assert after.startswith(before)
    if before.strip() and end in text.replace("\n", end):
        assert after[len(before) :].count(b"\n") == after[len(before) :].count(end.encode())
    assert exit_status(lab.judged(FAILS)) == 0


def test_a_link_is_followed_and_mode_and_owner_stay(lab: Lab) -> None:
    lab.ran(FAILS)
    kept = lab.directory / "dotfiles"
    kept.mkdir()
    (kept / "p.toml").write_text(OLD)
    (kept / "p.toml").chmod(0o600)
    if os.geteuid() == 0:
        os.environ["SUDO_UID"] = "65534"
        os.chown(kept / "p.toml", 65534, 65534)
        os.chown(kept, 65534, 65534)
    try:
        lab.policy.symlink_to("dotfiles/p.toml")
        (lab.directory / "labkit.toml").write_text('policy = "policy.toml"\n')
        lab.add("DEV-002")
    finally:
        os.environ.pop("SUDO_UID", None)
    assert lab.policy.is_symlink()
    about = (kept / "p.toml").stat()
    assert stat.S_IMODE(about.st_mode) == 0o600
    assert about.st_uid == (65534 if os.geteuid() == 0 else os.geteuid())


@pytest.mark.parametrize("text", ["entry = []\n", 'entry = [{suite="spec", id="X", expected="fail", reason="x"}]\n'])
def test_a_file_that_cannot_be_added_to_is_left_alone_and_the_entry_shown(lab: Lab, text: str) -> None:
    lab.ran(FAILS)
    lab.policy.write_text(text)
    (lab.directory / "labkit.toml").write_text('policy = "policy.toml"\n')
    with pytest.raises(UsageError, match="cannot be added to") as caught:
        lab.add("DEV-002")
    assert 'id = "DEV-002"' in (caught.value.hint or "")
    assert lab.policy.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        'reports = "reports"',
        "[machine]\ncpus = 1\n",
        '# mine\nplatform = "debian"  # [not a table]\n\n[machine]  # here\ncpus = 1\n[limits]\nboot = 9\n',
        'tools = [\n  "go",\n  "docker",\n]\n[machine]\ncpus = 1\n',
        "\ufeff[machine]\r\ncpus = 1\r\n",
    ],
)
def test_the_configuration_gets_the_key_and_keeps_the_rest(lab: Lab, text: str) -> None:
    lab.ran(FAILS)
    file = lab.directory / "labkit.toml"
    file.write_bytes(text.encode())
    told = lab.add("DEV-002").told
    after = file.read_bytes().decode("utf-8-sig")
    assert tomllib.loads(after) == {**tomllib.loads(text.removeprefix("\ufeff")), "policy": "policy.toml"}
    assert [line for line in text.removeprefix("\ufeff").splitlines() if line not in after.splitlines()] == []
    assert any("names it" in line and 'policy = "policy.toml"' in line for line in told)
    assert exit_status(lab.judged(FAILS)) == 0


def test_a_policy_that_is_a_directory_or_another_file(lab: Lab) -> None:
    lab.ran(FAILS)
    (lab.directory / "policies").mkdir()
    (lab.directory / "labkit.toml").write_text('policy = "policies"\n')
    assert lab.add("DEV-002").file == lab.directory / "policies/policy.toml"
    assert exit_status(lab.judged(FAILS)) == 0
    lab.ran(a_run(a_result("DEV-009", Verdict.FAIL)), "20261126T010101Z.2-y")
    written = lab.add("DEV-009", run="20261126T010101Z.2-y", file="elsewhere/mine.toml")
    assert written.file == lab.directory / "elsewhere/mine.toml"
    assert written.told == (
        f"`judge` does not read {written.file}: `policy` in labkit.toml names {lab.directory / 'policies'}",
    )


def test_another_users_file_is_not_obeyed_and_not_written(lab: Lab) -> None:
    lab.ran(FAILS)
    lab.policy.write_text(OLD)
    lab.policy.chmod(0o666)
    (lab.directory / "labkit.toml").write_text('policy = "policy.toml"\n')
    with pytest.raises(UsageError, match="can be written by anybody"):
        lab.add("DEV-002")
    assert lab.policy.read_text() == OLD


def test_commands_that_add_at_once_lose_nothing(lab: Lab) -> None:
    names = [f"DEV-{number:03}" for number in range(1, 7)]
    lab.ran(a_run(*(a_result(name, Verdict.FAIL) for name in names)))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda name: lab("policy", "add", ID, name, "--reason", name), names))
    assert sorted(entry["id"] for entry in tomllib.loads(lab.policy.read_text())["entry"]) == names


@pytest.mark.parametrize("text", ["a", ODD, "\ud800", "tab\there", "line\nend\r", 'three """ quotes', "'"])
def test_any_text_can_be_a_value_and_a_pattern(text: str) -> None:
    wanted = text.replace("\ud800", "\ufffd")
    assert tomllib.loads(f"a = {string(text)}") == {"a": wanted}
    assert tomllib.loads(table([("a", [text, text * 60])]))["entry"] == [{"a": [wanted, wanted * 60]}]
    assert policy._any((quoted(text),), text)
    assert not policy._any((quoted(text),), f"{text}x")


# --- brackets


def test_the_text_of_a_pattern_matches_itself(lab: Lab) -> None:
    """As an assertion that was copied out of a report."""
    name = "mounts[3] (/data) is [rw bind]"
    text = (
        f'[[entry]]\nsuite = "validation"\nprogram = "mounts"\nassertion = "{name}"\nexpected = "fail"\nreason = "x"\n'
    )
    run = program("mounts", (name, Verdict.FAIL), ("mounts3 (/data) is r", Verdict.FAIL))
    judged = policy.apply(run, policy.read_text(text, "own"), TODAY)
    assert [result.expected is not None for result in judged.results] == [True, True]
    assert judged.policy is not None and judged.policy.misspelt == ()


@pytest.mark.parametrize("pattern", ["* is [rw bind]", "mount? is [rw bind]"])
def test_a_pattern_that_matches_nothing_for_its_brackets_is_told(pattern: str) -> None:
    text = entry("x", suite="validation", program="mounts", assertion=pattern)
    entries = policy.read_text(f"[[entry]]\n{text}", "own")
    run = program("mounts", ("mounts is [rw bind]", Verdict.FAIL), ("mounts is good", Verdict.PASS))
    (said,) = policy.apply(run, entries, TODAY).policy.misspelt  # type: ignore[union-attr]
    assert f"assertion '{pattern}' matches nothing" in said
    assert "for the text 'mounts is [rw bind]' write [[] for each [" in said
    other = program("mounts", ("mounts is good", Verdict.PASS))
    assert policy.apply(other, entries, TODAY).policy.misspelt == ()  # type: ignore[union-attr]


def test_brackets_that_are_meant_as_a_set_are_let_be() -> None:
    text = '[[entry]]\nsuite = "spec"\nid = "DEV-00[12]"\nexpected = ["fail", "pass"]\nreason = "x"\n'
    judged = policy.apply(FAILS, policy.read_text(text, "own"), TODAY)
    assert judged.results[0].expected is not None
    assert judged.policy is not None and judged.policy.misspelt == ()


# --- versions of others


@pytest.mark.parametrize(
    ("version", "bounds"),
    [
        ("1.1.15+ds1", "=1.1.15"),
        ("1.5.0-rc.1+dev", "=1.5.0-rc.1"),
        ("1.2.0~rc2-1", "=1.2.0-rc.2"),
        ("release-20230904.0", "=20230904.0"),
        ("1.2.0-beta.1", "=1.2.0-beta.1"),
        ("v3.2.0", "=3.2.0"),
        ("unknown", None),
        ("", None),
        ("<script>", None),
    ],
)
def test_the_bounds_of_one_version(version: str, bounds: str | None) -> None:
    assert policy.exactly(version) == bounds
    if bounds:
        assert policy.within(version, bounds)
        assert not policy.within("99.1", bounds)


def test_a_hybrid_host_can_be_named(lab: Lab) -> None:
    run = replace(FAILS, machine={**FAILS.machine, "cgroup": "hybrid"})
    lab.ran(run)
    lab.add("DEV-002")
    assert tomllib.loads(lab.policy.read_text())["entry"][0]["cgroup"] == "hybrid"
    assert exit_status(lab.judged(run)) == 0
    assert lab.judged(replace(run, machine={**run.machine, "cgroup": "v1"})).results[0].expected is None


# --- check


def checked(lab: Lab, *entries: str) -> dict[str, list[str]]:
    """The problems of each entry, by its reason."""
    lab.policy.write_text("".join(f"[[entry]]\n{entry}\n" for entry in entries))
    (lab.directory / "labkit.toml").write_text('policy = "policy.toml"\n')
    found = writing.check(lab.settings)
    return {one.entry.rule.reason: list(one.problems) for one in found.entries}


def entry(reason: str, **keys: object) -> str:
    pairs = {"suite": "spec", "expected": "fail", "reason": reason, **keys}
    return "".join(
        f"{key} = {value if isinstance(value, date) else json.dumps(value)}\n" for key, value in pairs.items()
    )


def test_what_is_wrong_with_entries_is_told(lab: Lab) -> None:
    lab.ran(found("a", "b", "c"))
    lab.ran(a_run(a_result("DEV-001"), a_result("DEV-003", Verdict.SKIP), a_result("DEV-004")), "20261126T010101Z.2-y")
    problems = checked(
        lab,
        entry("good", id="DEV-002", findings=["a"]),
        entry("broad", id="DEV-002"),
        entry("unmet", id="DEV-001"),
        entry("shadowed", id="DEV-001", expected=["fail", "pass"]),
        entry("both", id="DEV-004", expected=["fail", "pass"]),
        entry("past", id="DEV-009", expires=date(2020, 1, 1)),
        entry("skipped", id="DEV-003"),
        entry("elsewhere", id="DEV-002", runtime="crun"),
        entry("not run", id="MEMPOL-001"),
        entry("strange", id="DVE-002"),
    )
    assert problems.pop("broad") == ["it hides 2 findings, and names none of them: DEV-002 b, DEV-002 c"]
    assert problems.pop("unmet") == ["it met nothing in the run that showed what it is about: 20261126T010101Z.2-y"]
    assert problems.pop("shadowed") != [], "the entry before it decides"
    assert problems.pop("past") == ["it expired on 2020-01-01"]
    assert problems.pop("strange")[0].startswith("the suite spec has nothing called 'DVE-002'; did you mean 'DEV-0")
    assert all(problem == [] for problem in problems.values()), problems


def test_a_pattern_that_takes_in_several_checks_or_assertions_hides_them(lab: Lab) -> None:
    lab.ran(a_run(a_result("DEV-001", Verdict.FAIL), a_result("DEV-002", Verdict.FAIL)))
    lab.ran(
        program("delete", ("a [x]", Verdict.FAIL), ("b", Verdict.FAIL), ("c", Verdict.PASS)), "20261126T010101Z.2-y"
    )
    validation = {"suite": "validation", "program": "delete"}
    assert checked(lab, entry("all", id="DEV-*"))["all"] == [
        "it hides 2 findings, and names none of them: DEV-001, DEV-002"
    ]
    assert checked(lab, entry("named", id=["DEV-001", "DEV-002"]))["named"] == []
    assert checked(lab, entry("whole", **validation))["whole"] == [
        "it hides 2 findings, and names none of them: delete a [x], delete b"
    ]
    assert checked(lab, entry("each", **validation, assertion=["a [[]x]", "b"]))["each"] == []
    (bracket,) = checked(lab, entry("bracket", **validation, assertion="? [x]"))["bracket"][:1]
    assert "for the text 'a [x]' write [[] for each [" in bracket


def test_what_policy_add_writes_has_nothing_wrong(lab: Lab) -> None:
    """Names as odd as they come, several findings, several assertions."""
    lab.ran(found("a", "b[1]", "c*"))
    lab.ran(program("delete", (ODD, Verdict.FAIL), ("b", Verdict.FAIL)), "20261126T010101Z.2-y")
    lab.add("DEV-002")
    lab.add("delete", run="20261126T010101Z.2-y")
    looked = writing.check(lab.settings)
    assert [(one.shown, one.met, one.problems) for one in looked.entries] == [(1, 1, ())] * 2


def test_check_as_a_person_runs_it(lab: Lab) -> None:
    assert "no policy of your own" in lab("policy", "check").stdout
    lab.ran(found("a", "b"))
    (lab.directory / "reports" / "20261126T010101Z.9-damaged").mkdir()
    (lab.directory / "reports" / "20261126T010101Z.9-damaged/results.json").write_text("{")
    checked(lab, entry("broad", id="DEV-002"))
    done = lab("policy", "check", status=1)
    assert "policy.toml, entry.0 (spec DEV-002): it hides 2 findings" in done.stdout
    assert "1 entry looked over with 1 run: 1 wrong" in done.stdout
    assert "left out: " in done.stdout
    said = json.loads(lab("policy", "check", ID, "--json", status=1).stdout)
    assert (said["runs"], said["wrong"], said["told"]) == ([ID], 1, [])
    assert said["entries"][0]["met"] == said["entries"][0]["shown"] == 1
    assert "there is no run nonsense" in lab("policy", "check", "nonsense", status=2).stderr
    assert json.loads(lab("policy", "check", ID, "--json", "--shipped", status=1).stdout)["wrong"] >= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["policy"], "policy needs ACTION"),
        (["policy", "chekc"], "ACTION is 'chekc', must be add, check or import"),
        (["policy", "add"], "policy add takes a run and what it showed"),
        (["policy", "add", "latest", "X"], "policy add needs --reason"),
        (
            ["policy", "add", "latest", "X", "--reason", "x", "--wide", "colour"],
            "--wide is 'colour', must be of runtime",
        ),
        (["policy", "add", "latest", "X", "--reason", ""], "the value of --reason is empty"),
        (["policy", "add", "latest", "X", "--reson", "x"], "unknown flag '--reson'; did you mean '--reason'?"),
        (["policy", "check", "--reason", "x"], "policy check takes no --reason"),
        (["policy", "import"], "policy import takes one file"),
        (["policy", "import", "a", "b"], "policy import takes one file"),
        (["policy", "import", "."], "is a directory"),
        (["policy", "import", "nothing"], "nothing: cannot be read: No such file"),
    ],
)
def test_wrong_words_are_told(lab: Lab, words: list[str], message: str) -> None:
    assert message in lab(*words, status=2).stderr


# --- others' lists


def listed(name: str) -> skiplists.SkipList:
    found = skiplists.read_file(LISTS / name, None, PROGRAMS)
    assert found is not None
    return found


def by_program(found: skiplists.SkipList) -> dict[str, Skip]:
    return {program: skip for skip in found.skips for program in skip.programs}


def test_cruns_list_with_a_reason_for_each() -> None:
    found = listed("crun-run-tests.sh")
    assert (found.format, found.untaken) == ("crun", ())
    reasons = {name: skip.reason for name, skip in by_program(found).items()}
    words = (
        "hooks_stdin misc_props start cgroup readonly_paths kill masked_paths seccomp process pidfile hostname delete"
    )
    assert reasons.keys() == {f"*{word}*" for word in words.split()}
    assert reasons["*process*"] == "misc_props, kill, hostname, process and pidfile are flaky."
    assert reasons["*start*"].startswith("start - expect to not fail if")
    assert reasons["*cgroup*"] == "cgroup tests as they require special configurations on the host"
    assert {skip.runtime for skip in found.skips} == {"crun"}
    excluded = re.compile(f"({'|'.join(words.split())})")
    left = [name for name in PROGRAMS if not any(policy._any(skip.programs, name) for skip in found.skips)]
    assert left == [name for name in PROGRAMS if not excluded.search(name)]


def test_youkis_list_of_what_does_run() -> None:
    found = listed("oci_integration_tests.sh")
    skips = by_program(found)
    assert (found.format, found.untaken) == ("youki", ())
    assert len(PROGRAMS) - len(skips) == 26, "the programs that youki runs"
    assert "create" not in skips and "state" not in skips
    assert "runc also fails this" in skips["misc_props"].reason
    assert skips["misc_props"].link == "https://github.com/youki-dev/youki/pull/1347#issuecomment-1315332775"
    assert skips["linux_cgroups_relative_blkio"].reason.startswith("This case includes checking for features")
    assert "integration tests, `contest`" in skips["delete"].reason
    assert skips["hooks"] is skips["delete"]
    assert skips["linux_ns_itype"].reason.startswith("This test case hangs on the Github Action.")
    assert skips["pidfile"].reason.startswith("This test case passed on local box")
    assert skips["config_updates_without_affect"].reason == "oci_integration_tests.sh does not run it"
    assert {skip.runtime for skip in found.skips} == {"youki"}


def test_the_names_of_bats_that_youki_skips() -> None:
    found = listed("runc_test_pattern")
    assert found.format == "bats-names"
    reasons = {name: skip.reason for skip in found.skips for name in skip.assertions}
    text = (LISTS / "runc_test_pattern").read_text()
    assert len(reasons) == len(set(re.findall(r"^\[skip\](.*?)(?: # .*)?$", text, re.M)))
    assert (
        reasons[quoted("runc exec --cap [ambient is set from spec]")]
        == "runc_test_pattern skips it and does not say why"
    )
    assert reasons["checkpoint and restore"] == "test requires criu"
    assert "runc create" not in reasons


def test_what_runcs_own_files_skip_on_the_machine_needs_no_entry() -> None:
    found = listed("list.bats")
    assert (found.format, found.skips) == ("bats", ())
    assert "bats itself skips such a test" in found.untaken[0]
    text = (
        '@test "runc [x] \\"y\\"" {\n\tskip "broken since 1.2" # really\n\trunc x\n}\n'
        "@test 'b' {\n\tif x; then\n\t\tskip \"no x\"\n\tfi\n}\n"
    )
    mine = skiplists.read(text, "a.bats")
    assert mine is not None
    assert [(skip.reason, skip.assertions) for skip in mine.skips] == [("broken since 1.2", ('runc [[]x] "y"',))]
    assert mine.untaken[0].startswith("1 conditions on the machine")
    sed = listed("cri-o-run-tests.sh")
    assert "privileged ctr device add" in sed.skips[0].assertions


def test_an_array_and_a_plain_list() -> None:
    reasons = {name: skip.reason for skip in listed("podman-run-tests.sh").skips for name in skip.assertions}
    assert reasons["*selinux*"] == "Selinux not supported on Ubuntu."
    assert reasons["*--tls-details*"] == "Not related to runtime."
    plain = skiplists.read(
        "# flaky here\nkill\nprocess_*\n\ndelete/delete.t  # see https://example.org/1.\nhooks.t\n", "skip"
    )
    assert plain is not None
    assert [(skip.reason, skip.programs, skip.link) for skip in plain.skips] == [
        ("flaky here", ("kill", "process_*"), ""),
        ("see https://example.org/1.", ("delete",), "https://example.org/1"),
        ("skip lists it and does not say why", ("hooks",), ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "some words of prose\n",
        "\0\1\2",
        '[[entry]]\nsuite = "spec"\n',
        "a = 1\n",
        "#!/bin/sh\necho ok\n",
    ],
)
def test_what_is_no_list_is_none(text: str) -> None:
    assert skiplists.read(text, "x") is None


def test_expressions_that_are_more_than_names_are_told() -> None:
    text = 'VALIDATION_TESTS=$(make print-validation-tests | grep -vE "(^kill$|linux_.*path|a[bc]d|x{2}|hooks\\.)")\n'
    found = skiplists.read(text, "x.sh")
    assert found is not None
    assert [program for skip in found.skips for program in skip.programs] == ["kill", "*linux_*path*", "*hooks.*"]
    assert [line.partition(": ")[2] for line in found.untaken] == [
        "the expression 'a[bc]d' is more than names and .*",
        "the expression 'x{2}' is more than names and .*",
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in LISTS.iterdir() if path.suffix != ".txt"))
def test_every_list_is_a_policy_or_says_why_not(lab: Lab, name: str) -> None:
    if name == "list.bats":
        with pytest.raises(UsageError, match="has nothing that could be taken"):
            writing.take(lab.settings, Silent(), LISTS / name)
        return
    written = writing.take(lab.settings, Silent(), LISTS / name)
    loaded = [entry for entry in policy.load(lab.settings.policy, suites=registry.names()) if entry.own]
    assert len(loaded) == len(written.entries) > 0
    assert all(entry.leaves_out for entry in loaded)
    again = writing.take(lab.settings, Silent(), LISTS / name)
    assert again.entries == ()
    assert f"{len(loaded)} of them are there already" in again.told


def test_a_list_is_a_policy_as_it_is(lab: Lab) -> None:
    """And what it leaves out may show anything, violations too, and need not be there."""
    (lab.directory / "labkit.toml").write_text('policy = "run-tests.sh"\n')
    (lab.directory / "run-tests.sh").write_text((LISTS / "crun-run-tests.sh").read_text())
    crun = RuntimeInfo("crun", "", "1.8.1")
    run = replace(program("killsig", ("x", Verdict.FAIL), violation="It MUST"), runtime=crun)
    assert exit_status(lab.judged(run)) == 0
    assert exit_status(lab.judged(replace(run, runtime=RuntimeInfo("runc", "", "1.1")))) == 1
    judged = lab.judged(run)
    assert judged.results[0].expected is not None
    assert judged.results[0].expected.source.startswith("run-tests.sh, line ")
    entries = policy.load(lab.settings.policy)
    out = policy.left_out(run, PROGRAMS, entries, TODAY)
    assert out["killsig"] == "misc_props, kill, hostname, process and pidfile are flaky."
    assert "create" not in out
    with pytest.raises(UsageError, match="is a list of tests to be skipped, not a policy file"):
        lab.ran(run)
        lab.add("killsig")


def test_import_as_a_person_runs_it(lab: Lab) -> None:
    done = lab("policy", "import", LISTS / "crun-run-tests.sh", "--file", "crun.toml", "--json")
    said = json.loads(done.stdout)
    assert said["file"] == str(lab.directory / "crun.toml")
    assert "read as crun: 6 entries" in said["told"]
    assert "--syntax names what it is" in lab("policy", "import", V2 / "create.tap", status=2).stderr
    assert (
        "no `grep -v` with names" in lab("policy", "import", LISTS / "list.bats", "--syntax", "crun", status=2).stderr
    )


def test_nothing_that_a_list_holds_makes_its_reader_fail_or_hang() -> None:
    """Pieces of all the lists, shuffled; and lines that could make an expression go back and forth for ever."""
    pieces = [line for path in LISTS.iterdir() for line in path.read_text().splitlines()]
    for step in (1, 3, 7, 11):
        text = "\n".join(pieces[(number * step) % len(pieces)] for number in range(len(pieces)))
        for kind in (None, *skiplists.FORMATS):
            skiplists.read(text, "x", kind, PROGRAMS)
    for line in (
        "grep -v " + "|" * 50_000,
        "(" * 50_000,
        "grep " + "-v " * 20_000,
        "a/" * 50_000,
        '"' * 50_001,
        "# " * 50_000,
    ):
        for kind in (None, *skiplists.FORMATS):
            skiplists.read(f"X=(\n{line}\n", "x", kind)


def test_completion_offers_what_can_be_added(lab: Lab) -> None:
    lab.ran(FAILS)
    offered = lab("--complete", "--", "lab", "policy", "add", ID, "").stdout
    assert offered.split() == ["DEV-002"]


def test_words_may_come_anywhere_and_invoke_itself_takes_them_as_flags(lab: Lab) -> None:
    lab.ran(FAILS)
    lab("policy", "--reason", "x", "add", "--json", ID, "DEV-002")
    lab.policy.unlink()
    done = lab("policy", "add", "--word", ID, "--reason=x", "--word=DEV-002")
    assert "1 entry written" in done.stdout

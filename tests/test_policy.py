"""Policies: which entry is about what, what it marks, and what is told when it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from labkit.core.errors import UsageError
from labkit.results import policy
from labkit.results.json import from_json, to_json
from labkit.results.model import WHOLE, Program, Result, Run, RuntimeInfo, SuiteInfo, Verdict, exit_status
from labkit.results.tap import JSON
from labkit.suites import registry, validation
from tests.test_results import a_result, a_run

TODAY = date(2026, 11, 22)
ENTRY = 'suite = "spec"\nid = "DEV-002"\nexpected = "fail"\nreason = "known"\n'

Apply = Callable[..., Run]


@pytest.fixture
def apply(tmp_path: Path) -> Apply:
    """Apply entries, each the text of a TOML table, to a run; nothing that is shipped is about it."""

    def do(run: Run, *entries: str, today: date = TODAY) -> Run:
        own = tmp_path / "policy.toml"
        own.write_text("".join(f"[[entry]]\n{entry}\n" for entry in entries))
        return policy.apply(run, [entry for entry in policy.load(own) if entry.own], today)

    return do


def program(name: str, *found: tuple[str, Verdict], **diagnostic: str) -> Run:
    verdicts = [verdict for _, verdict in found]
    run = a_run(*(Result(f"{name}/{n}", text, "", "", v, 0, diagnostic, name) for n, (text, v) in enumerate(found)))
    programs = (Program(name, min(verdicts, key=list(Verdict).index), 1.0, 0),)
    return replace(run, suite=SuiteInfo("validation", "master"), programs=programs)


FAILS = a_run(a_result("DEV-002", Verdict.FAIL), a_result("DEV-001"))


def test_a_known_failure_is_marked_and_stays_a_failure(apply: Apply) -> None:
    run = apply(FAILS, ENTRY + 'link = "https://example.org/1"\n')
    (failed, passed) = run.results
    assert (failed.verdict, passed.expected) == (Verdict.FAIL, None)
    assert failed.expected is not None
    assert (failed.expected.reason, failed.expected.link) == ("known", "https://example.org/1")
    assert failed.expected.source == "policy.toml, entry.0 (spec DEV-002)"
    assert exit_status(FAILS) == 1
    assert exit_status(run) == 0
    assert run.totals == FAILS.totals


def test_without_a_policy_the_bare_truth_is_shown(apply: Apply) -> None:
    assert policy.apply(apply(FAILS, ENTRY), None, TODAY) == FAILS


def test_another_failure_is_not_expected(apply: Apply) -> None:
    run = apply(a_run(a_result("DEV-002", Verdict.FAIL), a_result("DEV-001", Verdict.FAIL)), ENTRY)
    assert [result.id for result in run.unexpected] == ["DEV-001"]
    assert exit_status(run) == 1


def test_another_verdict_is_not_expected(apply: Apply) -> None:
    run = apply(a_run(a_result("DEV-002", Verdict.ERROR)), ENTRY)
    assert exit_status(run) == 1
    assert run.policy is not None and run.policy.unexpected_passes == ()


def test_an_unexpected_pass_is_told_and_is_no_failure(apply: Apply) -> None:
    run = apply(a_run(a_result("DEV-002")), ENTRY)
    assert run.policy is not None
    assert run.policy.unexpected_passes == (
        "DEV-002: expected fail, got pass (policy.toml, entry.0 (spec DEV-002): known)",
    )
    assert exit_status(run) == 0


def test_what_was_skipped_is_no_pass(apply: Apply) -> None:
    """A machine that cannot show it says nothing about the runtime."""
    run = apply(a_run(a_result("DEV-002", Verdict.SKIP, reason="this machine has one CPU"), a_result("DEV-003")), ENTRY)
    assert run.policy is not None and run.policy.unexpected_passes == ()
    assert exit_status(run) == 0
    assert run.results[0].expected is None


def test_a_pass_that_may_be_is_not_told(apply: Apply) -> None:
    run = apply(a_run(a_result("DEV-002")), ENTRY.replace('"fail"', '["fail", "pass"]'))
    assert run.policy is not None and run.policy.unexpected_passes == ()
    assert run.results[0].expected is None


def test_an_expired_entry_fails_the_run_and_expects_nothing(apply: Apply) -> None:
    entry = ENTRY + "expires = 2026-11-22\n"
    assert exit_status(apply(FAILS, entry)) == 0, "the day itself is in"
    late = apply(FAILS, entry, today=date(2026, 11, 23))
    assert late.policy is not None
    assert late.policy.expired == ("policy.toml, entry.0 (spec DEV-002) expired on 2026-11-22: known",)
    assert late.results[0].expected is None
    passing = apply(a_run(a_result("DEV-001")), entry, today=date(2026, 11, 23))
    assert exit_status(passing) == 1, "also where nothing failed"


def test_an_expired_entry_about_another_runtime_is_let_be(apply: Apply) -> None:
    entry = ENTRY + 'runtime = "crun"\nexpires = 2020-01-01\n'
    assert exit_status(apply(a_run(a_result("DEV-001")), entry)) == 0


def found(*findings: str, verdict: Verdict = Verdict.FAIL) -> Run:
    failures: JSON = [{"finding": name, "what": name, "expected": 1, "actual": 2} for name in findings]
    return a_run(replace(a_result("DEV-002", verdict), diagnostic={"failures": failures}))


@pytest.mark.parametrize(
    ("findings", "entries", "expected", "known"),
    [
        (("a",), ['findings = ["a"]'], True, ("a",)),
        (("a", "b"), ['findings = ["a"]'], False, ("a",)),
        (("a", "b"), ['findings = ["a"]', 'findings = ["b*"]'], True, ("a", "b")),
        (("a", "b"), ['findings = ["a"]', ""], True, ("a", "b")),
        (("a", "b"), ['findings = ["c"]'], False, ()),
        (("a", "b"), [""], True, ("a", "b")),
        ((), ['findings = ["a"]'], False, ()),
    ],
)
def test_findings_beside_those_that_are_known(
    findings: tuple[str, ...], entries: list[str], expected: bool, known: tuple[str, ...], apply: Apply
) -> None:
    (result,) = apply(found(*findings), *(f"{ENTRY}{entry}\n" for entry in entries)).results
    assert (result.expected is not None, result.known) == (expected, known)


def test_an_own_entry_takes_back_one_finding(apply: Apply) -> None:
    own = ENTRY.replace('"fail"', '"pass"') + 'findings = ["b"]\n'
    (result,) = apply(found("a", "b"), own, ENTRY).results
    assert (result.expected, result.known) == (None, ("a",))


def test_what_does_not_repeat_is_neither_expected_nor_a_failure_nor_a_pass(apply: Apply) -> None:
    run = apply(found("a", verdict=Verdict.FLAKY), ENTRY + 'findings = ["a"]\n')
    assert run.policy is not None
    assert run.policy.unexpected_passes == ()
    assert (run.results[0].bad, run.results[0].expected, run.flaky, exit_status(run)) == (False, None, ["DEV-002"], 0)


def test_of_several_entries_the_first_decides(apply: Apply) -> None:
    strict = ENTRY.replace('"fail"', '"pass"')
    assert apply(FAILS, strict, ENTRY).results[0].expected is None
    assert apply(FAILS, ENTRY, strict).results[0].expected is not None


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('runtime = "runc"', True),
        ('runtime = ["youki", "run?"]', True),
        ('runtime = "crun"', False),
        ('runtime = "runc"\nversion = ">=1.1, <1.2"', True),
        ('runtime = "runc"\nversion = "<1.1.15"', False),
        ('cgroup = "v2"', True),
        ('cgroup = "v1"', False),
        ("rootless = true", False),
        ("rootless = false", True),
        ('ref = "0.1*"', True),
        ('ref = "master"', False),
        ('platform = "debian"', True),
        ('platform = "debian-13"', True),
        ('platform = "debian-12"', False),
    ],
)
def test_conditions(condition: str, holds: bool, apply: Apply) -> None:
    assert (apply(FAILS, f"{ENTRY}{condition}\n").results[0].expected is not None) is holds


def test_a_hybrid_host_has_the_controllers_of_v1(apply: Apply) -> None:
    run = replace(FAILS, machine={**FAILS.machine, "cgroup": "hybrid"})
    assert apply(run, f'{ENTRY}cgroup = "v1"\n').results[0].expected is not None
    assert apply(run, f'{ENTRY}cgroup = "v2"\n').results[0].expected is None


@pytest.mark.parametrize("fact", [{"user": "lab"}, {"user_namespace": "1 user id mapped, no cgroup delegated"}])
def test_a_run_by_another_than_root_is_rootless(fact: dict[str, str], apply: Apply) -> None:
    run = replace(FAILS, machine={**FAILS.machine, **fact})
    assert apply(run, f"{ENTRY}rootless = true\n").results[0].expected is not None
    assert apply(run, f"{ENTRY}rootless = false\n").results[0].expected is None


def test_what_is_not_known_fulfils_no_condition(apply: Apply) -> None:
    run = replace(FAILS, runtime=RuntimeInfo("runc", "", ""), machine={"platform": ""}, suite=SuiteInfo("spec", ""))
    for condition in ('runtime = "runc"\nversion = ">=0"', 'cgroup = "v2"', 'ref = "?*"', 'platform = "?*"'):
        assert apply(run, f"{ENTRY}{condition}\n").results[0].expected is None, condition


DELETE = """
suite = "validation"
program = "delete"
assertion = "* MUST generate an error"
expected = "fail"
reason = "x"
"""


def test_an_assertion_of_a_program(apply: Apply) -> None:
    run = program("delete", ("x MUST generate an error", Verdict.FAIL), ("y", Verdict.FAIL), ("z", Verdict.PASS))
    assert [result.expected is not None for result in apply(run, DELETE).results] == [True, False, False]
    other = program("kill", ("x MUST generate an error", Verdict.FAIL))
    assert apply(other, DELETE).results[0].expected is None


def test_passes_beside_a_failure_are_no_surprise(apply: Apply) -> None:
    run = apply(program("delete", ("x MUST generate an error", Verdict.FAIL), ("z", Verdict.PASS)), DELETE)
    assert run.policy is not None and run.policy.unexpected_passes == ()


def test_a_violation_needs_an_entry_that_names_it(apply: Apply) -> None:
    run = program("delete", (WHOLE, Verdict.NO_ASSERTIONS), violation="Hooks MUST be called")
    run = replace(run, results=(*run.results, *program("kill", ("z", Verdict.PASS)).results))
    entry = 'suite = "validation"\nprogram = "delete"\nexpected = "no-assertions"\nreason = "asserts nothing"\n'
    assert exit_status(apply(run, entry)) == 1
    assert exit_status(apply(run, entry + 'violation = "Hooks MUST*"\n')) == 0
    assert exit_status(apply(run, entry + 'violation = "Other*"\n')) == 1


def test_a_program_as_a_whole_that_passes_has_no_result_and_is_told(apply: Apply) -> None:
    entry = f'suite = "validation"\nprogram = "delete"\nassertion = "{WHOLE}"\nexpected = "error"\nreason = "x"\n'
    run = apply(program("delete", ("z", Verdict.PASS)), entry)
    assert run.policy is not None and len(run.policy.unexpected_passes) == 1


@pytest.mark.parametrize("assertion", ["", f'assertion = "{WHOLE}"\n'])
def test_a_program_that_asserts_nothing_can_be_expected_to(assertion: str, apply: Apply) -> None:
    """Beside one that does: a run in which nothing is asserted shows nothing, whatever is expected."""
    other = program("kill", ("z", Verdict.PASS)).results
    entry = f'suite = "validation"\nprogram = "delete"\n{assertion}expected = "no-assertions"\nreason = "only waits"\n'
    silent = program("delete", (WHOLE, Verdict.NO_ASSERTIONS))
    assert exit_status(apply(silent, entry)) == 1, "alone it shows nothing"
    run = apply(replace(silent, results=(*silent.results, *other)), entry)
    assert run.results[0].expected is not None and run.results[0].expected.reason == "only waits"
    assert run.policy is not None and run.policy.unexpected_passes == ()
    assert exit_status(run) == 0
    failing = apply(program("delete", (WHOLE, Verdict.ERROR)), entry)
    assert failing.results[0].expected is None and exit_status(failing) == 1


def test_one_that_passes_where_nothing_was_to_be_asserted_is_told(apply: Apply) -> None:
    entry = 'suite = "validation"\nprogram = "delete"\nexpected = "no-assertions"\nreason = "only waits"\n'
    run = apply(program("delete", ("z", Verdict.PASS)), entry)
    assert run.policy is not None
    assert run.policy.unexpected_passes[0].startswith("delete: expected no-assertions, got pass (policy.toml, entry.0")


def test_what_may_pass_and_passes_is_not_told(apply: Apply) -> None:
    entry = 'suite = "validation"\nprogram = "delete"\nexpected = ["error", "pass"]\nreason = "x"\n'
    for more in (f'assertion = "{WHOLE}"\n', 'violation = "Hooks MUST*"\n'):
        run = apply(program("delete", ("z", Verdict.PASS)), entry + more)
        assert run.policy is not None and run.policy.unexpected_passes == ()


def test_shipped_entries_about_nothing_are_let_be() -> None:
    run = policy.apply(a_run(a_result("RLIM-001")), policy.load(), TODAY)
    assert run.policy is not None and run.policy.misspelt == ()


def test_an_own_entry_about_nothing_gets_a_guess(apply: Apply) -> None:
    run = apply(FAILS, ENTRY.replace("DEV-002", "DVE-002"))
    assert run.policy is not None
    assert run.policy.misspelt == ("policy.toml, entry.0 (spec DVE-002) matches no result; did you mean 'DEV-002'?",)


def test_what_was_marked_is_kept_and_read_back(apply: Apply) -> None:
    run = apply(FAILS, ENTRY, ENTRY + "expires = 2020-01-01\n")
    assert from_json(to_json(run)).policy == run.policy
    assert from_json(to_json(run)).by_id() == run.by_id()


# --- files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[entry]\n", ":1:8: is not TOML"),
        ("[[entyr]]\n", ": unknown key entyr; did you mean 'entry'?"),
        (f"[[entry]]\n{ENTRY}reson = 1\n", ": unknown key entry.0.reson; did you mean 'reason'?"),
        (f"[[entry]]\n{ENTRY}".replace("reason", "expires"), ": entry.0.reason is missing, must be a sentence"),
        (f"[[entry]]\n{ENTRY}".replace('"fail"', '"failed"'), ": entry.0.expected.0 is 'failed'"),
        (f"[[entry]]\n{ENTRY}".replace('"fail"', "[]"), ": entry.0.expected is []"),
        (f"[[entry]]\n{ENTRY}".replace("spec", "spce"), ": entry.0.suite is 'spce', not a suite; did you mean 'spec'?"),
        (f"[[entry]]\n{ENTRY}".replace("id =", "violation ="), ": entry.0 names neither id nor program"),
        (f'[[entry]]\n{ENTRY}assertion = "x"\n', ": entry.0 names an assertion without its program"),
        (f'[[entry]]\n{ENTRY}version = ">1"\n', ": entry.0 names a version without its runtime"),
        (f'[[entry]]\n{ENTRY}runtime = "runc"\nversion = "1.1"\n', ": entry.0 version is '1.1', must be such as"),
        (f'[[entry]]\n{ENTRY}cgroup = "v3"\n', ": entry.0.cgroup is 'v3', must be 'v1', 'v2' or 'hybrid'"),
        (f'[[entry]]\n{ENTRY}link = "javascript:x"\n', ": entry.0.link is 'javascript:x', must be an https address"),
        (f'[[entry]]\n{ENTRY}expires = "soon"\n', ": entry.0.expires is 'soon', must be a date, such as"),
        (f"[[entry]]\n{ENTRY}runtime = [1]\n", ": entry.0.runtime.0 is 1"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(UsageError) as caught:
        policy.load(own, suites=registry.names())
    assert f"{own}{message}" in str(caught.value)


def test_a_directory_of_policies_comes_before_those_shipped(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text(f"[[entry]]\n{ENTRY}")
    (tmp_path / "a.toml").write_text(f"[[entry]]\n{ENTRY}")
    loaded = policy.load(tmp_path)
    assert [entry.source[:6] for entry in loaded[:2]] == ["a.toml", "b.toml"]
    assert [entry.own for entry in loaded[:3]] == [True, True, False]


def test_an_empty_directory_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(UsageError, match=re.escape(str(path))):
            policy.load(path)


@pytest.mark.parametrize(
    ("version", "bounds", "inside"),
    [
        ("1.1.15+ds1", "=1.1.15", True),
        ("1.1.15+ds1", ">=1.1, <1.2", True),
        ("1.2", "=1.2.0", True),
        ("1.10", ">1.9", True),
        ("v1.2.0-rc.1", "<1.2", True),
        ("1.2.0-rc.2", ">1.2.0-rc.1", True),
        ("1.2.0-rc.1", ">=1.1", True),
        ("1.2.0~rc1-1", "<1.2.0", True),
        ("1.21", "<=1.21", True),
        ("1.21.1", "<=1.21", False),
        ("", ">=0", False),
        ("unknown", ">=0", False),
        ("<script>", ">=0", False),
    ],
)
def test_versions(version: str, bounds: str, inside: bool) -> None:
    assert policy.within(version, bounds) is inside


# --- what is shipped

WRONG = {  # every row of what is known to be wrong or to need something, and the seven that cannot fail
    *("start", "pidfile", "process_rlimits", "process_capabilities_fail", "prestart", "hooks_stdin", "poststart_fail"),
    *(
        "misc_props",
        "delete",
        "linux_seccomp",
        "linux_cgroups_pids",
        "delete_resources",
        "delete_only_create_resources",
    ),
    *("linux_ns_itype", "killsig", "linux_process_apparmor_profile", "linux_mount_label", "linux_cgroups_hugetlb"),
    *("linux_cgroups_blkio", "linux_cgroups_network", "linux_cgroups_relative_cpus"),
    *("hooks", "prestart_fail", "poststart", "poststop", "poststop_fail"),
}


def test_every_program_known_to_be_wrong_has_an_entry() -> None:
    named = {name for entry in policy.load() if entry.rule.suite == "validation" for name in entry.rule.program or ()}
    assert named >= WRONG
    known = set(validation.SUITE.names())
    assert {name for name in named if "*" not in name} <= known
    assert "linux_cgroups_*" in named


def test_every_shipped_entry_is_about_something(recordings: dict[str, Path]) -> None:
    known = {r.program: r for directory in recordings.values() for r in validation.SUITE.read(directory).results}
    ids = set(registry.find("spec").names())
    for entry in policy.load(suites=registry.names()):
        if entry.rule.suite == "spec":
            assert set(entry.rule.id or ()) <= ids, entry.source
        elif entry.rule.suite == "runtimetest":
            assert set(entry.rule.program or ()) <= set(registry.find("runtimetest").names()), entry.source
        elif entry.rule.suite == "validation":  # those of bats: tests/test_bats.py
            assert any(map(entry.concerns, known.values())), entry.source


def test_every_shipped_entry_about_the_spec_suite_names_findings_and_the_versions_that_were_tried() -> None:
    entries = [entry for entry in policy.load() if entry.rule.suite == "spec"]
    ids = set(registry.find("spec").names())
    assert len(entries) > 100
    for entry in entries:
        assert entry.rule.id is not None
        assert set(entry.rule.id) <= ids, entry.source
        assert entry.rule.findings, entry.source
        assert entry.rule.runtime, entry.source
        assert re.search(r"(<|=)", (entry.rule.version or "").replace(">=", "")), entry.source
        # A failure that depends on the host, such as one without a security module, is no surprise where it is a pass.
        assert set(entry.rule.expected) - {Verdict.PASS} == {Verdict.FAIL}, entry.source

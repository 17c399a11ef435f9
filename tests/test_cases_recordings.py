"""Recordings as people have them: whose they are, what of them was meant, and in which shape they lie there."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.core import config, tomlfile
from labkit.core.cell import Cell, Selection
from labkit.core.errors import UsageError
from labkit.guest.common import names, versions
from labkit.guest.pyz import pyz
from labkit.io import archives
from labkit.results import policy
from labkit.results.model import Run, Verdict
from labkit.store import runs
from labkit.subjects import runtimes
from labkit.suites import refs, registry, subset
from labkit.suites.base import SilentRun
from labkit.suites.subset import Subset
from labkit.usecases.judge import Said, diff, judge, judge_all, recorded
from labkit.usecases.run import Outcome, run_cell
from labkit.usecases.test import cell_of
from tests.test_judge import suite_prints
from tests.test_validation import BAD, GOOD, line, plan
from tests.test_validation import one as printed

CASES = Path(__file__).parent / "recordings" / "cases"
HEADER = "program\texit_status\tseconds\n"
SPEC = """TAP version 14
1..2
# runtime: runc
# runtime-path: /usr/bin/runc
# runtime-version: runc version 1.1.15+ds1
# cgroup: v2
# kernel: 6.12.0
# suite: labkit-spec 1.0.0
ok 1 - STATE-001 state JSON
ok 2 - KILL-002 kill
"""
CRUN = {"runtime": "crun", "runtime-version": "1.8.1", "cgroup": "v2"}
Judge = Callable[..., Outcome]


def settings(tmp_path: Path, **environ: str) -> config.Settings:
    return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path), **environ})


@pytest.fixture
def judged(tmp_path: Path) -> Judge:
    def do(path: Path, meant: Subset = subset.ALL, own: Path | None = None, **facts: str) -> Outcome:
        said = Said({key.replace("_", "-"): word for key, word in facts.items()}, meant)
        environ = {"LABKIT_POLICY": str(own)} if own else {}
        return judge(settings(tmp_path, **environ), str(path), said=said)

    return do


def copied(source: Path, target: Path, keep: Callable[[str], bool] = lambda _: True) -> Path:
    """The programs of a recording that are to be kept, and their lines of its summary."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".tsv" and keep(path.stem):
            shutil.copyfile(path, target / path.name)
    header, *rows = (source / "summary.tsv").read_text().splitlines(keepends=True)
    kept = [row for row in rows if keep(row.partition("\t")[0])]
    (target / "summary.tsv").write_text("".join([header, *kept]))
    return target


def one(directory: Path, summary: str | bytes = HEADER + "hostname\t0\t1.3\n", **files: str) -> Path:
    """A recording of a program or so."""
    directory.mkdir(exist_ok=True)
    (directory / "summary.tsv").write_bytes(summary.encode() if isinstance(summary, str) else summary)
    for name, text in (files or {"hostname": "TAP version 13\nok 1 - a\n1..1\n"}).items():
        (directory / f"{name}.tap").write_text(text)
    return directory


def told(run: Run) -> str:
    return "\n".join(run.told)


# --- whose results these are


def test_a_bare_folder_asks_for_what_it_does_not_tell(
    judged: Judge, recordings: dict[str, Path], tmp_path: Path
) -> None:
    """Case 18: what the output tells is taken from it, and what it does not is asked for by name."""
    log = copied(recordings["v0.9.0"], tmp_path / "log")
    run = judged(log).run
    assert (run.runtime.name, run.machine["cgroup"], run.suite.version) == ("unknown", "v2", "v0.9.0")
    assert "taken from the output: runtime-tools v0.9.0, runtime-spec 1.0.1, cgroup v2" in run.told
    (line,) = (line for line in run.told if line.startswith("unknown "))
    match = re.fullmatch(
        r"unknown runtime and runtime version: ([0-9]+) policy entries could not apply; "
        r"name them with --runtime, --runtime-version",
        line,
    )
    assert match
    programs = {program.name for program in run.programs}
    waiting = [
        entry
        for entry in policy.load()
        if entry.rule.suite == "validation"
        and (entry.rule.runtime or entry.rule.version)
        and entry.rule.cgroup in (None, "v2")
        and (entry.rule.ref is None or "v0.9.0" in entry.rule.ref)
        and any(result for result in run.results if entry.concerns(result) and result.program in programs)
    ]
    assert int(match[1]) == len(waiting) > 0
    named = judged(log, runtime="crun", runtime_version="crun version 1.8.1")
    assert (named.exit_status, named.run.runtime.version) == (0, "1.8.1")
    assert not any(line.startswith("unknown ") for line in named.run.told)
    assert judged(recordings["master"]).run.machine["cgroup"] == "v1"


def test_without_a_cgroup_version_it_is_asked_for(judged: Judge, tmp_path: Path) -> None:
    run = judged(one(tmp_path / "x", HEADER + "linux_cgroups_cpus\t0\t1\n", linux_cgroups_cpus=GOOD.decode())).run
    asked = [line for line in run.told if line.startswith("unknown ")]
    assert len(asked) == 1 and "--cgroup" in asked[0]
    assert "the ref of runtime-tools is unknown; judged with the list of master; name it with --ref" in run.told


@pytest.mark.parametrize("name", ["spec.tap", "runc.tap"])
def test_the_suites_own_output_is_what_it_says_it_is(name: str, judged: Judge, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / name).write_text(SPEC)
    for path in (saved, saved / name):
        run = judged(path).run
        assert (run.suite.name, run.runtime.name, run.runtime.version) == ("spec", "runc", "1.1.15+ds1")
        assert (run.machine["cgroup"], run.machine["kernel"], run.run.complete) == ("v2", "6.12.0", True)
        assert run.told == ()


def test_youkis_version_is_compared(judged: Judge, tmp_path: Path) -> None:
    """Case 22."""
    case = CASES / "22-youki-version"
    outcome = judged(case / "in", own=case / "policy.toml")
    assert (outcome.exit_status, outcome.run.runtime.name, outcome.run.runtime.version) == (0, "youki", "0.5.5")
    for facts in ({"runtime_version": "0.5.5"}, {"runtime": "youki"}, {"runtime_version": "youki version: 0.4.0"}):
        assert judged(case / "in", own=case / "policy.toml", **facts).exit_status == 0, facts
    newer = judged(case / "in", own=case / "policy.toml", runtime_version="0.6.0")
    assert (newer.exit_status, newer.run.runtime.version) == (1, "0.6.0")
    assert "the runtime's version is taken for 0.6.0, as was said; the output itself says youki version: 0.5.5" in told(
        newer.run
    )


@pytest.mark.parametrize(
    ("said", "name", "version", "holds", "fails"),
    [
        ("runc version 1.1.15+ds1\ncommit: x", "runc", "1.1.15+ds1", "=1.1.15", "<1.1.15"),
        ("runc version 1.1.12-0ubuntu2~22.04.1", "runc", "1.1.12-0ubuntu2~22.04.1", "=1.1.12", ">1.1.12"),
        ("runc version 1.0.0~rc10", "runc", "1.0.0~rc10", "<1.0.0, >1.0.0-rc9", ">=1.0.0"),
        ("runc version v1.3.0-rc.1+dev", "runc", "v1.3.0-rc.1+dev", "<1.3, >=1.3.0-rc.1", ">=1.3"),
        ("runc version spec: 1.0.1-dev", "runc", "", "", ">=1.0"),
        ("crun version 1.8.1", "crun", "1.8.1", ">=1.8, <1.9", ">1.8.1"),
        ("crun 0.10.6\nspec: 1.0.0", "crun", "0.10.6", "<0.11", ">=0.11"),
        ("crun version UNKNOWN", "crun", "", "", ">0"),
        ("youki version: 0.5.5\ncommit: x", "youki", "0.5.5", "<0.6", ">=0.6"),
        ("runsc version release-20230904.0\nspec: 1.1.0-rc.1", "runsc", "release-20230904.0", "<20240101", "<20230904"),
        ("runsc version 0.0~20240729.0", "runsc", "0.0~20240729.0", ">release-20230904.0", "<20240101"),
        ("kata-runtime  : 3.2.0\n   commit   : x", "kata-runtime", "3.2.0", ">=3.2", "<3"),
        ("kata-runtime  : 1.12.0-alpha0", "kata-runtime", "1.12.0-alpha0", "<1.12.0-beta1", ">=1.12"),
        ("NVIDIA Container Runtime version 1.13.5", "nvidia-container-runtime", "1.13.5", "=1.13.5", "<1"),
        ("sysbox-runc\n\tedition: \tCE\n\tversion: \t0.6.2\n", "sysbox-runc", "0.6.2", "<1", ">=1"),
        ('Kata Containers shim (Golang): id: "kata.v2", version: 3.2.0, commit: a', "", "3.2.0", ">=3", "<3"),
        ("1.1.15", "", "1.1.15", ">1.1", "<1"),
        ("commit: 1.2.3", "", "", "", ">0"),
        ("", "", "", "", ">0"),
    ],
)
def test_versions_of_every_runtime(said: str, name: str, version: str, holds: str, fails: str) -> None:
    assert versions.told(said) == (name, version)
    assert versions.told(versions.first_line(said)) == (name, version), "one line of it says the same"
    assert not policy.within(version, fails)
    assert not holds or policy.within(version, holds)


def test_a_runtime_by_its_path(judged: Judge, recordings: dict[str, Path], tmp_path: Path) -> None:
    """Case 19, and a wrapper: the name is the path's last part, unless the runtime says another."""
    outcome = judged(recordings["v0.9.0"], runtime="/crun/crun", cgroup="v2")
    assert (outcome.exit_status, outcome.run.runtime.name, outcome.run.runtime.path) == (0, "crun", "/crun/crun")
    log = copied(recordings["v0.9.0"], tmp_path / "log")
    outcome = judged(log, runtime="/opt/wrapper.sh --debug", runtime_version="crun version 1.8.1")
    assert (outcome.exit_status, outcome.run.runtime.name) == (0, "crun")
    assert outcome.run.runtime.arguments == "--debug"
    assert "/opt/wrapper.sh is taken for crun 1.8.1" in outcome.run.told
    outcome = judged(log, runtime="mine", runtime_version="crun version 1.8.1")
    assert (outcome.exit_status, outcome.run.runtime.name) == (1, "mine")
    assert "the runtime is taken for mine, as was said; the output itself says crun" not in told(outcome.run)
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "spec.tap").write_text(SPEC.replace("runtime-path: /usr/bin/runc", "runtime-path: /opt/wrapper.sh"))
    run = judged(saved).run
    assert run.runtime.name == "runc"
    assert "/opt/wrapper.sh is taken for runc 1.1.15+ds1" in run.told
    run = judged(saved, runtime="mine").run
    assert (run.runtime.name, run.runtime.version) == ("mine", "1.1.15+ds1")
    assert "the runtime is taken for mine, as was said; the output itself says runc" in told(run)


def test_a_hybrid_host(judged: Judge, tmp_path: Path) -> None:
    """Case 31: an entry for v1 holds there, one for hybrid is allowed, and --cgroup goes before what was found."""
    case = CASES / "31-cgroup-hybrid"
    found = judged(case / "in", own=case / "policy.toml")
    assert (found.exit_status, found.run.machine["cgroup"]) == (0, "hybrid")
    said = judged(case / "in", own=case / "policy.toml", runtime="runc", cgroup="v1")
    assert (said.exit_status, said.run.machine["cgroup"]) == (0, "v1")
    assert "the cgroup version is taken for v1, as was said; the output itself says hybrid" in said.run.told
    assert judged(case / "in", own=case / "policy.toml", cgroup="v2").exit_status == 1
    own = tmp_path / "own.toml"
    own.write_text((case / "policy.toml").read_text().replace('"v1"', '"hybrid"'))
    assert judged(case / "in", own=own).exit_status == 0
    assert judged(case / "in", own=own, cgroup="v1").exit_status == 1


# --- refs


def test_an_older_ref_has_its_own_programs(judged: Judge, recordings: dict[str, Path], tmp_path: Path) -> None:
    """Case 15."""
    assert {name: len(refs.data().programs(ref)) for name, ref in refs.data().refs.items()} == {
        "master": 58,
        "v0.9.0": 58,
        "v0.8.0": 56,
        "v0.7.0": 54,
        "v0.6.0": 51,
    }
    gone = ("linux_mount_label", "linux_process_apparmor_profile")
    old = copied(recordings["v0.9.0"], tmp_path / "old", lambda name: name not in gone)
    for ref in ("v0.8.0", "0.8.0"):
        outcome = judged(old, ref=ref, **{key.replace("-", "_"): word for key, word in CRUN.items()})
        assert (outcome.exit_status, outcome.run.run.reason, outcome.run.suite.version) == (0, None, "v0.8.0")
    # Without a word it is held to the ref with more programs: that some are missing is not to go unseen.
    outcome = judged(old)
    assert outcome.exit_status == 4
    assert "runtime-tools v0.9.0, runtime-spec 1.0.1, cgroup v2 (or v0.8.0: --ref says which)" in told(outcome.run)
    outcome = judged(old, ref="v0.8.1")
    assert outcome.exit_status == 4
    assert "runtime-tools v0.8.1 is not known; judged with the list of v0.9.0" in outcome.run.told


def test_a_forks_list_is_a_file_of_the_users(judged: Judge, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbf# ours\r\nhostname\r\nlinux-intel-rdt  # new\r\n")
    programs = subset.read_list(listed)
    directory = CASES / "21-summary-dialects" / "e"
    assert judged(directory, Subset(programs=programs)).exit_status == 0
    run = judged(directory, Subset(programs=(*programs, "kill"))).run
    assert run.run.reason == "1 program missing: kill"
    run = judged(directory).run
    assert "not among the programs of runtime-tools: linux-intel-rdt" in run.told
    assert [program.name for program in run.programs] == ["hostname", "linux-intel-rdt"]


# --- what was meant

SKIP = """# what crun leaves out
*hooks_stdin*
misc_props, *start*
*cgroup*   # not for us
*readonly_paths*
*kill*
*masked_paths*
*seccomp*
*process*
pidfile
hostname
delete*
"""


def test_a_subset_that_was_meant_is_complete(judged: Judge, recordings: dict[str, Path], tmp_path: Path) -> None:
    """Case 16."""
    words = (
        "hooks_stdin|misc_props|start|cgroup|readonly_paths|kill|masked_paths|seccomp|process|pidfile|hostname|delete"
    )
    part = copied(recordings["v0.9.0"], tmp_path / "part", lambda name: not re.search(words, name))
    facts = {key.replace("-", "_"): word for key, word in CRUN.items()}
    assert judged(part, **facts).exit_status == 4
    skip = tmp_path / "skip.txt"
    skip.write_text(SKIP)
    outcome = judged(part, Subset(skip=subset.read_list(skip)), **facts)
    assert (outcome.exit_status, outcome.run.run.reason, len(outcome.run.programs)) == (0, None, 18)
    # Judged again, it is still what was meant.
    again = judge(settings(tmp_path), str(outcome.directory))
    assert (again.exit_status, again.run.told) == (0, outcome.run.told)
    assert again.run.by_id() == outcome.run.by_id()
    # A whole run, looked at in part.
    whole = copied(recordings["v0.9.0"], tmp_path / "whole")
    outcome = judged(whole, Subset(only=("linux_ns_*", "validation/create/create.t", "STATE")), **facts)
    assert {program.name for program in outcome.run.programs} == {
        "create", "linux_ns_itype", "linux_ns_nopath", "linux_ns_path", "linux_ns_path_type", "state",
    }  # fmt: skip
    assert outcome.exit_status == 0
    assert "left out, as was said: 52 programs" in told(outcome.run)


def test_a_policys_own_list_says_what_was_not_meant(judged: Judge, recordings: dict[str, Path], tmp_path: Path) -> None:
    """An entry that expects whatever programs show lets them be missing, where its conditions hold."""
    part = copied(recordings["v0.9.0"], tmp_path / "part", lambda name: not name.startswith("linux_"))
    facts = {key.replace("-", "_"): word for key, word in CRUN.items()}
    own = tmp_path / "own.toml"
    entry = f"""[[entry]]
suite = "validation"
program = "linux_*"
runtime = "crun"
expected = {json.dumps([verdict.value for verdict in Verdict])}
reason = "not run in our CI"
"""
    own.write_text(entry)
    outcome = judged(part, own=own, **facts)
    assert (outcome.exit_status, outcome.run.run.reason) == (0, None)
    assert "not there, and left out by the policy: " in told(outcome.run)
    again = judge(settings(tmp_path, LABKIT_POLICY=str(own)), str(outcome.directory))
    assert (again.exit_status, again.run.run.reason) == (0, None)
    assert judge(settings(tmp_path), str(outcome.directory)).exit_status == 4, "without the policy it is missed again"
    assert judged(part, own=own, runtime="runc", cgroup="v2").exit_status == 4
    own.write_text(entry.replace("reason", "expires = 2020-01-01\nreason"))
    assert judged(part, own=own, **facts).exit_status == 4
    own.write_text(entry.replace('"timeout", ', ""))
    assert judged(part, own=own, **facts).exit_status == 4


def test_what_was_meant_and_is_missing_is_missed(judged: Judge, tmp_path: Path) -> None:
    directory = one(tmp_path / "x")
    outcome = judged(directory, Subset(only=("hostname", "kill")))
    assert (outcome.exit_status, outcome.run.run.reason) == (4, "1 program missing: kill")
    with pytest.raises(UsageError, match=r"has no program 'hostnmae'; did you mean 'hostname' or"):
        judged(directory, Subset(only=("hostnmae",)))
    with pytest.raises(
        UsageError, match=r"has no program that matches 'linux_cgruops_\*'; did you mean 'linux_cgroups"
    ):
        judged(directory, Subset(skip=("linux_cgruops_*",)))
    with pytest.raises(UsageError, match="leaves nothing"):
        judged(directory, Subset(only=("hostname",), skip=("host*",)))
    saved = tmp_path / "spec"
    saved.mkdir()
    (saved / "spec.tap").write_text(SPEC)
    outcome = judged(saved, Subset(only=("state-001",)))
    assert (outcome.exit_status, [result.id for result in outcome.run.results]) == (0, ["STATE-001"])
    assert "left out, as was said: 1 check, KILL-002" in outcome.run.told
    outcome = judged(saved, Subset(only=("state-001", "CREATE-001")))
    assert (outcome.exit_status, outcome.run.run.reason) == (4, "1 check missing: CREATE-001")


KNOWN = ["delete", "delete_only_create_resources", "linux_cgroups_cpus", "linux_cgroups_pids", "STATE-001", "KILL-002"]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("linux_cgroups_*", ["linux_cgroups_cpus", "linux_cgroups_pids"]),
        ("LINUX_cgroups_?ids", ["linux_cgroups_pids"]),
        ("delete", ["delete"]),
        ("delete.t", ["delete"]),
        ("delete/delete.t", ["delete"]),
        ("validation/delete/delete.t", ["delete"]),
        ("./validation/delete/delete.t", ["delete"]),
        ("/src/runtime-tools/validation/delete/delete.go", ["delete"]),
        ("validation/delete", ["delete"]),
        ("validation/delete/", ["delete"]),
        ("log/delete.tap", ["delete"]),
        ("validation/linux_*/*.t", ["linux_cgroups_cpus", "linux_cgroups_pids"]),
        ("validation/*/*.t", KNOWN),
        ("state-001", ["STATE-001"]),
        ("*-00[12]", ["STATE-001", "KILL-002"]),
        ("*", KNOWN),
        ("v*", []),
        ("kill", []),
        ("", []),
    ],
)
def test_one_grammar_of_names(word: str, found: list[str]) -> None:
    """Case 38."""
    assert names.chosen([word], KNOWN) == (found, [] if found else [word])


def test_names_of_a_test(tmp_path: Path) -> None:
    """Case 38, as `test` takes them before there is a machine; and a runtime with arguments."""
    own = settings(tmp_path, LABKIT_SUITE="validation")
    spec = settings(tmp_path, LABKIT_RUNTIME="/usr/bin/runc --debug")
    cell = cell_of(own, Selection(("validation/delete/delete.t", "linux_cgroups_*")))
    assert cell.selection.only == ("delete", "linux_cgroups_*"), "who knows what a tree has, resolves patterns"
    cell = cell_of(spec, Selection(("state-001",), runtime_args=("--log=/x",)))
    assert (cell.runtime, cell.selection.only) == ("/usr/bin/runc", ("STATE-001",))
    assert cell.selection.runtime_args == ("--debug", "--log=/x")
    suite = registry.find("validation")
    suite.check(cell_of(spec.with_values(None, suite="validation"), Selection()).selection)
    assert runtimes.split("/opt/my runtimes/runc") == ("/opt/my runtimes/runc", [])
    with pytest.raises(UsageError, match="No closing quotation"):
        runtimes.split("runc --log 'x")
    with pytest.raises(UsageError, match=r"--runtime-name is '\.\./x'"):
        runtimes.find("runc", "../x")
    assert runtimes.find("/opt/wrapper.sh", "mine").name == "mine"
    with pytest.raises(UsageError, match=r"no program that matches 'linux_cgruops_\*'; did you mean 'linux_cgroups_"):
        suite.check(Selection(("linux_cgruops_*",)))
    argv = suite.argv("p", "runc", Selection(("linux_*",), skip=("linux_ns_*",)))
    assert argv[argv.index("--only") + 1] == "linux_*"
    assert argv[argv.index("--leave-out") + 1] == "linux_ns_*"
    argv = registry.find("spec").argv("p", "runc", Selection(("state-*",), skip=("STATE-002",)))
    ids = argv[argv.index("--only") + 1].split(",")
    assert "STATE-001" in ids and "STATE-002" not in ids and all(ident.startswith("STATE-") for ident in ids)


def pyz_lists(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, file, *words, "--list"], capture_output=True, text=True, check=False)


def test_names_in_the_exported_suite(tmp_path: Path) -> None:
    file = tmp_path / "labkit-spec.pyz"
    file.write_bytes(pyz("spec"))
    skip = tmp_path / "skip.txt"
    skip.write_text("state-002  # not ours\n")
    done = pyz_lists(file, "--only", "state-*", "--skip", str(skip))
    ids = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert "STATE-001" in ids and "STATE-002" not in ids
    for words, message in (
        (("--only", "stat-*"), "no check matches 'stat-*'; did you mean STATE-0"),
        (("--only", "STATE-OO1"), "unknown check 'STATE-OO1'; did you mean STATE-001"),
        (("--skip", str(tmp_path / "none")), "none: cannot be read: No such file"),
    ):
        done = pyz_lists(file, *words)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    skip.write_text("sate-002\n")
    done = pyz_lists(file, "--skip", str(skip))
    assert (done.returncode, "no check is called 'sate-002'; did you mean STATE-002" in done.stderr) == (2, True)


# --- what lies there


@pytest.mark.parametrize(
    ("letter", "line", "verdict"),
    [
        ("a", "summary.tsv: the comma in 1 duration was read as a decimal point", Verdict.PASS),
        ("b", "summary.tsv: exit statuses that stand for a signal: hostname -9: killed by SIGKILL", Verdict.ERROR),
        ("c", "summary.tsv: exit statuses that stand for a signal: hostname 137: killed by SIGKILL", Verdict.ERROR),
        ("d", "", Verdict.PASS),
        ("e", "not among the programs of runtime-tools: linux-intel-rdt", Verdict.PASS),
        ("f", "summary.tsv: its columns are separated by commas", Verdict.PASS),
    ],
)
def test_dialects_of_a_summary(letter: str, line: str, verdict: Verdict, judged: Judge) -> None:
    """Case 21."""
    run = judged(
        CASES / "21-summary-dialects" / letter, Subset(only=("hostname", "linux-*")[: 1 + (letter == "e")])
    ).run
    assert line in (*run.told, "")
    program = run.programs[0]
    assert (program.name, program.verdict, run.run.reason) == ("hostname", verdict, None)
    assert program.seconds == pytest.approx({"a": 1.33, "d": 3.1e-05}.get(letter, 1.3))
    if verdict is Verdict.ERROR:
        assert "killed by signal 9 (SIGKILL)" in json.dumps([dict(result.diagnostic) for result in run.results])


@pytest.mark.parametrize(
    ("summary", "lines", "seconds"),
    [
        (b"\xef\xbb\xbf" + HEADER.encode() + b"hostname\t0\t1\n", ["it begins with a byte order mark"], 1),
        ((HEADER + "hostname\t0\t1\n").encode("utf-16"), ["it begins with a byte order mark (UTF-16-LE)"], 1),
        ((HEADER + "hostname\t0\t1\n").replace("\n", "\r\n").encode(), [], 1),
        (b"Program;Exit_Status;Seconds\nhostname;0;1,5\n", ["by semicolons", "decimal point"], 1.5),
        (b'"program","exit_status","seconds"\n"hostname","0","1,5"\n', ["by commas", "decimal point"], 1.5),
        (b"program,exit_status,seconds\nhostname,0,1,5\n", ["by commas", "decimal point"], 1.5),
        (b"hostname\t0\t2\n", ["it has no header; its columns were taken for program, exit_status, seconds"], 2),
        (b"program\texit_status\nhostname\t0\n", ["has no column seconds"], 0),
        (HEADER.encode() + b"validation/hostname/hostname.t\t0\t0.1234567890123\n", [], 0.1234567890123),
        (HEADER.encode() + b"hostname\t0\t\n", ["1 program without a duration"], 0),
        (HEADER.encode() + b"hostname\t0\t1.5s\n\n", [], 1.5),
    ],
)
def test_summaries_of_other_harnesses(
    summary: bytes, lines: list[str], seconds: float, judged: Judge, tmp_path: Path
) -> None:
    run = judged(one(tmp_path / "x", summary), Subset(only=("hostname",))).run
    assert (run.run.reason, run.programs[0].verdict) == (None, Verdict.PASS)
    assert run.programs[0].seconds == pytest.approx(seconds)
    for said in lines:
        assert said in told(run)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("-9", "killed by signal 9 (SIGKILL)"),
        ("SIGSEGV", "killed by signal 11 (SIGSEGV)"),
        ("143", "killed by signal 15 (SIGTERM)"),
        ("1.0", "exited with status 1"),
        ("193", "exited with status 193"),
    ],
)
def test_exit_statuses_of_other_harnesses(status: str, message: str, judged: Judge, tmp_path: Path) -> None:
    run = judged(one(tmp_path / "x", f"{HEADER}hostname\t{status}\t1\n"), Subset(only=("hostname",))).run
    (result,) = (result for result in run.results if result.whole)
    assert result.diagnostic["message"] == message


def test_a_summary_without_statuses_is_incomplete(judged: Judge, tmp_path: Path) -> None:
    run = judged(one(tmp_path / "x", b"program\tseconds\nhostname\t1\n"), Subset(only=("hostname",))).run
    assert run.run.reason == "summary.tsv has no column exit_status"


def test_labkits_own_summary_means_what_it_says(judged: Judge, tmp_path: Path) -> None:
    """A program may exit with status 137 itself: where labkit wrote it, a signal has a column of its own."""
    directory = one(tmp_path / "x", HEADER + "hostname\t137\t1\n")
    (directory / "run.json").write_text('{"programs": ["hostname"], "only": ["hostname"], "finished": true}')
    (result,) = (result for result in judged(directory).run.results if result.whole)
    assert result.diagnostic["message"] == "exited with status 137"


@pytest.mark.parametrize("case", ["in", "in2"])
def test_byte_order_marks(case: str, judged: Judge, tmp_path: Path) -> None:
    """Case 08, but for what is in the TAP itself."""
    run = judged(CASES / "08-utf8-bom" / case).run
    assert [program.name for program in run.programs] == ["hostname"]
    (tmp_path / "labkit.toml").write_bytes(b'\xef\xbb\xbfpolicy = "mine.toml"\n')
    (tmp_path / "mine.toml").write_bytes(
        b'\xef\xbb\xbf[[entry]]\nsuite = "spec"\nid = "X"\nexpected = "fail"\nreason = "x"\n'
    )
    assert settings(tmp_path).policy == tmp_path / "mine.toml"
    assert policy.load(tmp_path / "mine.toml")[0].own
    (tmp_path / "bad.toml").write_bytes(b"\xef\xbb\xbfx = \n")
    with pytest.raises(UsageError, match=r"bad\.toml:1:5: is not TOML"):
        tomlfile.read(tmp_path / "bad.toml")


def test_links_are_followed_inside_and_never_outside(judged: Judge, tmp_path: Path) -> None:
    directory = one(tmp_path / "x", HEADER + "hostname\t0\t1\nkill\t0\t1\nstate\t0\t1\n")
    (directory / "kept").mkdir()
    (directory / "kept" / "1").write_text("TAP version 13\nok 1 - inside\n1..1\n")
    (tmp_path / "secret").write_text("TAP version 13\nok 1 - secret\n1..1\n")
    (directory / "kill.tap").symlink_to("kept/1")
    (directory / "state.tap").symlink_to(tmp_path / "secret")
    (directory / "state.err").symlink_to(tmp_path / "secret")
    outcome = judged(directory, Subset(only=("hostname", "kill", "state")))
    assert [result.name for result in outcome.run.results if result.program == "kill"] == ["inside"]
    assert "1 program missing: state" in (outcome.run.run.reason or "")
    assert "'state.tap'" in (outcome.run.run.reason or "")
    raw = outcome.directory / "raw"
    assert (raw / "kill.tap").read_text() == (directory / "kept" / "1").read_text()
    assert not (raw / "kill.tap").is_symlink() and not (raw / "state.tap").exists()
    spec = tmp_path / "spec"
    spec.mkdir()
    (spec / "spec.tap").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match="neither a run nor raw output"):
        judged(spec)


def test_output_of_two_suites_is_judged_as_both(tmp_path: Path) -> None:
    directory = one(
        tmp_path / "both",
        HEADER + "hostname\t0\t1\n",
        hostname="TAP version 13\nnot ok 1 - a\n1..1\n",
        spec=SPEC,
    )
    outcomes = judge_all(settings(tmp_path), str(directory), said=Said({"runtime": "runc"}))
    assert [(one.run.suite.name, one.exit_status) for one in outcomes] == [("spec", 0), ("validation", 4)]
    assert len({one.directory for one in outcomes}) == 2
    assert [program.name for program in outcomes[1].run.programs] == ["hostname"]
    for one_of in outcomes:  # each is a run of one suite from now on
        again = judge(settings(tmp_path), str(one_of.directory))
        assert (again.run.suite.name, again.exit_status) == (one_of.run.suite.name, one_of.exit_status)
    (directory / "docker.tap").write_text("TAP version 13\nok 1 - a\n1..1\n")
    found = [run.suite.name for run in recorded(directory, Said())]
    assert found == ["runtimetest", "spec", "validation"]
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "spec.tap").write_text(SPEC)
    assert diff(settings(tmp_path), str(directory), str(saved)).to_json()["newly_failing"] == []
    with pytest.raises(UsageError, match="diff compares one suite"):
        diff(settings(tmp_path), str(directory), str(directory))


def test_a_single_file(judged: Judge, recordings: dict[str, Path], tmp_path: Path) -> None:
    log = copied(recordings["v0.9.0"], tmp_path / "log")
    outcome = judged(log / "state.tap", runtime="crun", runtime_version="1.8.1")
    assert ([program.name for program in outcome.run.programs], outcome.exit_status) == (["state"], 0)
    alone = tmp_path / "kill.tap"
    alone.write_text("TAP version 13\nnot ok 1 - a\n1..1\n")
    outcome = judged(alone)
    assert outcome.run.run.reason == "no summary.tsv, so the programs' exit statuses are unknown"
    assert [result.verdict for result in outcome.run.results] == [Verdict.FAIL]
    for name in ("notes.txt", "kill"):
        (tmp_path / name).write_text("x")
        with pytest.raises(UsageError, match=r"is neither a \.tap file, an archive nor a record of calls") as caught:
            judged(tmp_path / name)
        assert "judge takes a run, a directory with" in (caught.value.hint or "")


def packed(path: Path, source: Path, inside: str) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in source.iterdir():
                archive.write(file, f"{inside}{file.name}")
    else:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.add(source, inside.rstrip("/") or ".")
        packers: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.compress, ".tgz": gzip.compress, ".tar": bytes}
        path.write_bytes(packers[path.suffix](data.getvalue()))
    return path


@pytest.mark.parametrize("name", ["run.tar.xz", "run.tgz", "run.tar", "run.zip"])
@pytest.mark.parametrize("inside", ["", "v0.9.0-crun-1.8.1-cgroup-v2/"])
def test_an_archive(name: str, inside: str, judged: Judge, recordings: dict[str, Path], tmp_path: Path) -> None:
    part = copied(recordings["v0.9.0"], tmp_path / "part", lambda name: name in ("state", "create"))
    archive = packed(tmp_path / name, part, inside)
    outcome = judged(archive, Subset(only=("state", "create")), **({} if inside else {"runtime": "crun"}))
    assert (outcome.exit_status, len(outcome.run.programs), outcome.run.runtime.name) == (0, 2, "crun")
    assert "-run/" in f"{outcome.directory}/" or inside
    again = judge(settings(tmp_path), str(outcome.directory))
    assert (again.exit_status, again.run.by_id()) == (0, outcome.run.by_id())


def test_a_run_in_an_archive(judged: Judge, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "spec.tap").write_text(SPEC)
    first = judged(saved)
    archive = tmp_path / "artifact.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in first.directory.rglob("*"):
            out.write(path, f"reports/{path.relative_to(first.directory)}")
    outcome = judged(archive)
    assert outcome.run.by_id() == first.run.by_id()
    assert outcome.directory != first.directory and runs.is_run(outcome.directory)


def test_what_other_systems_pack(judged: Judge, tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as out:
        entry = zipfile.ZipInfo("x")
        entry.filename = "log\\hostname.tap"
        out.writestr(entry, "TAP version 13\nok 1 - a\n1..1\n")
        entry = zipfile.ZipInfo("y")
        entry.filename = "log\\summary.tsv"
        out.writestr(entry, HEADER + "hostname\t0\t1\n")
        out.writestr("__MACOSX/log/._hostname.tap", b"\0\5\x16\7")
    outcome = judged(archive, Subset(only=("hostname",)))
    assert (outcome.exit_status, outcome.run.run.reason) == (0, None)
    (tmp_path / "log").mkdir()
    one(tmp_path / "log")
    (tmp_path / "log" / "._hostname.tap").write_bytes(b"\0\5\x16\7")
    assert judged(tmp_path / "log", Subset(only=("hostname",))).exit_status == 0


def test_hostile_archives(judged: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tar_with(*members: tuple[str, bytes | None, str]) -> Path:
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w") as out:
            for name, data, link in members:
                info = tarfile.TarInfo(name)
                info.size = len(data or b"")
                if data is None:
                    info.type, info.linkname = tarfile.SYMTYPE, link
                out.addfile(info, io.BytesIO(data or b""))
        return path

    before = {path for path in tmp_path.iterdir()}
    for name in ("../evil.tap", "/tmp/evil.tap", "a/../../evil.tap"):
        with pytest.raises(UsageError, match="has a member outside of it"):
            judged(tar_with((name, b"x", "")))
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(name, "x")
        with pytest.raises(UsageError, match="has a member outside of it"):
            judged(tmp_path / "x.zip")
    secret = tmp_path / "secret"
    secret.write_text("ok 1 - secret\n1..1\n")
    with pytest.raises(UsageError, match="neither a run nor raw output"):
        judged(tar_with(("spec.tap", None, str(secret))))
    outcome = judged(tar_with(("one.tap", SPEC.encode(), ""), ("spec.tap", None, "one.tap")))
    assert outcome.run.suite.name == "spec", "a link to what is in the archive is that"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        entry = zipfile.ZipInfo("spec.tap")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, str(secret))
    with pytest.raises(UsageError, match="neither a run nor raw output"):
        judged(tmp_path / "x.zip")
    for data in (b"", b"no archive", bytes(1000)):
        for name in ("x.zip", "x.tar.xz", "x.tar"):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(UsageError, match=r"cannot be read as an archive|neither a run nor raw output"):
                judged(tmp_path / name)
    with pytest.raises(UsageError, match=r"holds 2 recordings: a, b"):
        judged(tar_with(("a/spec.tap", SPEC.encode(), ""), ("b/spec.tap", SPEC.encode(), "")))
    monkeypatch.setattr(archives, "_TOTAL", 1000)
    with pytest.raises(UsageError, match="holds more than"):
        judged(tar_with(("a.txt", b"x" * 2000, "")))
    monkeypatch.setattr(archives, "_MEMBERS", 3)
    with pytest.raises(UsageError, match="holds more than 3 files"):
        judged(tar_with(*((f"{number}.txt", b"x", "") for number in range(5))))
    assert {path for path in tmp_path.iterdir()} - before <= {
        tmp_path / name for name in ("x.tar", "x.zip", "x.tar.xz", "secret", "reports")
    }


def test_several_recordings_below_a_directory_are_named(judged: Judge, tmp_path: Path) -> None:
    (tmp_path / "ci").mkdir()
    one(tmp_path / "ci" / "runc")
    one(tmp_path / "ci" / "crun")
    with pytest.raises(UsageError, match="neither a run nor raw output") as caught:
        judged(tmp_path / "ci")
    assert caught.value.hint == "crun, runc in it do: judge each"


WHOSE = {"runtime-path": "/opt/wrapper.sh", "runtime-version": "youki version: 0.5.5", "cgroup": "v2"}


@pytest.mark.parametrize(("given", "name"), [("", "youki"), ("mine", "mine")])
def test_a_wrapper_in_a_machine(given: str, name: str, tmp_path: Path) -> None:
    """The name of a live run's runtime, and that it is found again by its path."""
    output = plan("create", "state", **WHOSE) + printed("create", GOOD) + printed("state", BAD) + line("finish")
    own = settings(tmp_path)
    cell = Cell("debian", "13", "auto", "m", "/opt/wrapper.sh", "validation", Selection(skip=("k*",)), 1, given)
    machine = suite_prints(output)
    outcome = run_cell(cell, own, SilentRun(), policy.load(), lambda *_: machine)
    assert (outcome.run.runtime.name, outcome.run.runtime.version) == (name, "0.5.5")
    assert f"/opt/wrapper.sh is taken for {name} 0.5.5" in outcome.run.told
    assert outcome.run.run.reason is None, "what was left out was not planned, and is not missed"
    assert runs.failed_before(tmp_path / "reports", "validation", runtimes.find("/opt/wrapper.sh").name) == ("state",)
    again = judge(own, str(outcome.directory))
    assert (again.run.runtime, again.run.told) == (outcome.run.runtime, outcome.run.told)


def test_the_flags_of_judge(recordings: dict[str, Path], tmp_path: Path) -> None:
    from tests.test_cli import labkit

    part = copied(recordings["v0.9.0"], tmp_path / "part", lambda name: name in ("state", "create"))
    skip = tmp_path / "skip.txt"
    skip.write_text("*\n")

    def ends(status: int, *words: object) -> str:
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = labkit("judge", *map(str, words), environ=environ, cwd=tmp_path)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return " ".join((done.stdout + done.stderr).split())

    ends(0, part, "--only", "state,create/create.t", "--runtime-name", "crun", "--runtime-version", "1.8.1")
    assert "leaves nothing of the validation suite" in ends(2, part, "--skip", skip)
    assert "cannot be read" in ends(2, part, "--programs", tmp_path / "none")
    assert "--runtime-name takes no --runtime" in ends(2, part, "--runtime-name", "x", "--runtime", "y")
    run = next(path for path in (tmp_path / "reports").iterdir() if path.is_dir() and not path.is_symlink())
    assert "leave out --only" in ends(2, run, "--only", "state")
    one(tmp_path / "both", HEADER + "hostname\t0\t1\n", hostname="TAP version 13\nok 1 - a\n1..1\n", spec=SPEC)
    value = json.loads(
        labkit(
            "judge", str(tmp_path / "both"), "--json", environ={"PATH": "/usr/bin", "HOME": str(tmp_path)}, cwd=tmp_path
        ).stdout
    )
    assert ([one["exit_status"] for one in value["runs"]], value["exit_status"]) == ([0, 4], 4)


def test_programs_of_another_suite_are_judged_by_themselves(tmp_path: Path) -> None:
    """No list says what else there should be; one program of runtime-tools, and the list of that is meant."""
    source = tmp_path / "bats"
    source.mkdir()
    (source / "mine.tap").write_text("1..1\nok 1 - a\n")
    (source / "summary.tsv").write_text(HEADER + "mine\t0\t1\n")
    outcome = judge(settings(tmp_path), str(source))
    assert (outcome.exit_status, outcome.run.run.reason) == (0, None)
    assert any(line.startswith("none of these is a program of runtime-tools") for line in outcome.run.told)
    (source / "summary.tsv").write_text(HEADER + "mine\t0\t1\nother\t0\t1\n")
    assert "1 program missing: other" in (judge(settings(tmp_path), str(source)).run.run.reason or "")
    (source / "summary.tsv").write_text(HEADER + "mine\t0\t1\nkill\t0\t1\n")
    (source / "kill.tap").write_text("1..1\nok 1 - a\n")
    assert "programs missing: " in (judge(settings(tmp_path), str(source)).run.run.reason or "")

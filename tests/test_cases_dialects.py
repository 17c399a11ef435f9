"""Output that people had, judged as they would: `judge` and `diff` as processes on what lies in recordings/cases.

Most are from public reports; who had them and what came is said beside each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.suites.validation import SUITE
from tests import on_the_way
from tests.recorded import CASES, V1, V2
from tests.test_cli import Done, labkit

Judge = Callable[..., "tuple[Done, dict[str, Any]]"]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Judge a folder; what it said, and its results.json."""

    def do(source: Path, *words: str, **environ: str) -> tuple[Done, dict[str, Any]]:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "COLUMNS": "200", **environ}
        done = labkit("judge", str(source), *words, environ=env, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        latest = tmp_path / "reports" / "latest" / "results.json"
        return done, json.loads(latest.read_text())

    return do


def counts(document: dict[str, Any]) -> dict[str, int]:
    return {word: count for word, count in document["totals"].items() if count}


def test_seconds_of_cruns_python_tests_are_no_change(tmp_path: Path) -> None:
    case = CASES / "01-crun-python-tests"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = labkit("diff", str(case / "in"), str(case / "in2"), "--json", environ=env, cwd=tmp_path)
    said = json.loads(done.stdout)
    assert not any(said[kind] for kind in ("newly_failing", "fixed", "appeared", "gone") if kind in said), said
    one, two = (SUITE.read(case / name).results for name in ("in", "in2"))
    assert [result.identity for result in one] == [result.identity for result in two]
    assert [result.verdict.value for result in one] == ["pass", "pass", "fail", "skip", "skip"]


def test_youkis_contest_is_read_and_said_to_be_no_tap(judge: Judge) -> None:
    done, document = judge(CASES / "02-youki-contest/in", "--runtime", "youki")
    assert done.returncode == 1, "none of its programs is of runtime-tools, so none is missing"
    assert "read as youki's contest, which is no TAP" in done.stdout
    assert counts(document) == {"fail": 1, "pass": 1, "skip": 1}
    assert "hook output is not what was set in config.json" in done.stdout


def test_a_log_with_a_time_before_each_line_is_read_without(tmp_path: Path, judge: Judge) -> None:
    source = tmp_path / "log"
    source.mkdir()
    summary = (V2 / "summary.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in summary[1:]]
    (source / "summary.tsv").write_text("\n".join([summary[0], *("\t".join([a, "0", *c]) for a, _, *c in rows)]) + "\n")
    for path in V2.glob("*.tap"):
        (source / path.name).write_bytes(on_the_way.CHANGES["github"](path.read_bytes()))
    done, document = judge(source, "--runtime", "crun", "--cgroup", "v2", "--no-policy")
    assert done.returncode in (1, 4)
    plain = SUITE.read(V2)
    assert counts(document)["pass"] == sum(result.verdict == "pass" for result in plain.results)
    files = sum(bool((V2 / path.name).read_bytes().strip()) for path in source.glob("*.tap"))
    assert f"{files} files: each line begins with a time; it was left out: 2026-03-01T09:00:00.0000000Z" in done.stdout


def test_programs_in_one_stream_of_node_tap_have_their_names(judge: Judge) -> None:
    done, document = judge(CASES / "05-node-tap-buffered/in")
    assert "read as node-tap" in done.stdout
    programs = {one["name"]: one["verdict"] for one in document["programs"]}
    assert programs == {"create": "pass", "delete": "fail", "linux_mount_label": "skip"}
    failed = [one for one in document["results"] if one["verdict"] == "fail"]
    assert [one["name"] for one in failed] == ["delete of a container that is not stopped MUST generate an error"]
    assert failed[0]["reference"].endswith("runtime.md#delete")
    assert "create" not in done.stdout.partition("missing")[2].partition("and")[0].replace("\n", " ").split(", ")


def test_programs_that_a_stream_holds_are_not_missing(tmp_path: Path) -> None:
    """All 58 in one file, as `prove -v` has them: complete, and each as in a file of its own."""
    source, text = tmp_path / "x", ""
    source.mkdir()
    plain = {path.stem: path.read_text() for path in sorted(V1.glob("*.tap"))}
    for name, output in plain.items():
        text += f"==> validation/{name}/{name}.tap <==\n{output}\n"
    (source / "validation.tap").write_text(text)
    (source / "summary.tsv").write_text("program\texit_status\tseconds\nvalidation\t0\t1\n")
    reading = SUITE.read(source, {"ref": "master"})
    assert reading.reason is None
    assert reading.dialects == ("files put after each other",)
    before = {one.name: one.verdict for one in SUITE.read(V1).programs}
    shown = {one.name: one.verdict for one in reading.programs}
    assert shown.keys() == before.keys()
    # Exit statuses are those of what put them together, so only what programs printed tells.
    assert all(shown[name] == word or word in ("error", "pass") for name, word in before.items())
    assert sum(word == "fail" for word in shown.values()) >= sum(word == "fail" for word in before.values())


@pytest.mark.parametrize("change", ["a byte order mark", "PowerShell", "github", "4 spaces", "colours"])
def test_a_plan_on_the_first_line_is_read_whatever_is_before_it(change: str, tmp_path: Path) -> None:
    (tmp_path / "hostname.tap").write_bytes(on_the_way.CHANGES[change](b"1..2\nok 1 - a\nok 2 - b\n"))
    (tmp_path / "summary.tsv").write_text("program\texit_status\tseconds\nhostname\t0\t1.0\n")
    reading = SUITE.read(tmp_path)
    assert [(one.name, one.verdict) for one in reading.programs] == [("hostname", "pass")]
    assert reading.told[0].startswith("hostname.tap: ")


def test_a_byte_order_mark_is_skipped(judge: Judge) -> None:
    done, document = judge(CASES / "08-utf8-bom/in2")
    assert counts(document) == {"pass": 2}
    assert "hostname.tap: a byte order mark was left out" in done.stdout


def test_a_log_on_stderr_between_the_lines_leaves_results_and_evidence(judge: Judge) -> None:
    _, document = judge(CASES / "11-stderr-mixed-in/in")
    assert counts(document) == {"pass": 1, "fail": 2}
    first, second, third = document["results"]
    assert first["diagnostic"]["error"] == "exit status 2", "from the block that a log line stands in"
    assert first["reference"] == second["reference"] != ""
    assert any("WARN libcgroups" in note for note in first["diagnostic"]["notes"])
    assert third["verdict"] == "fail"


def test_blocks_that_do_not_end_swallow_no_result(judge: Judge) -> None:
    _, document = judge(CASES / "12-unclosed-blocks/in")
    assert counts(document) == {"pass": 2, "skip": 1, "fail": 1}


def test_ktap_below_ktap(judge: Judge) -> None:
    done, document = judge(CASES / "14-ktap/in")
    verdicts = {one["name"]: one["verdict"] for one in document["results"]}
    assert verdicts["selftests: cgroup: test_kill"] == "timeout"
    assert verdicts["nested_parent_says_ok > inner_b"] == "fail"
    assert verdicts["nested_parent_says_ok"] == "error"
    assert verdicts["selftests: cgroup: test_core > test_cgcore_top_down_constraint_enable"] == "fail"
    assert "a result says ok over others that do not: ok 3 nested_parent_says_ok" in done.stdout
    assert document["reading"]["dialects"] == ["KTAP"]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_names_in_other_scripts_under_an_ascii_locale(words: tuple[str, ...], judge: Judge) -> None:
    done, document = judge(CASES / "24-ascii-locale/in", *words, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode in (1, 4)
    assert document["results"][0]["name"] == "✘ réseau 容器 \ufffd"


def test_five_programs_that_lose_their_output_are_no_success(tmp_path: Path, judge: Judge) -> None:
    source = tmp_path / "x"
    shutil.copytree(V2, source)
    for path in list(source.glob("k*.tap")):
        path.chmod(0o644)
        path.write_bytes(b"\xef\xbb\xbf")
    _, document = judge(source, "--runtime", "crun", "--cgroup", "v2")
    lost = {path.stem for path in source.glob("k*.tap")}
    assert lost and lost <= {one["name"] for one in document["programs"] if one["verdict"] == "no-assertions"}

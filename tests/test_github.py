"""Runs for GitHub Actions: annotations, the summary of a job, and output that is not to be trusted."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.cli.github import LIMIT
from labkit.io import process
from labkit.reports import as_github, as_markdown
from labkit.results.model import Expected, PolicyNotes, Result, Verdict
from tests import recorded
from tests.test_cli import environ as environ
from tests.test_cli import labkit
from tests.test_night import BADLY, html_of
from tests.test_reports import EVERY_VERDICT, a_result, a_run, hostile_run


def unescaped(text: str) -> str:
    """As the runner reads data, and properties (actions/runner, ActionCommand.cs)."""
    for escape, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(escape, char)
    return text


def obeyed(output: str) -> list[tuple[str, str, str]]:
    """What a runner takes of a step's output for commands: name, title and data (ActionCommandManager.cs)."""
    found, stop = [], None
    for line in output.splitlines():
        if stop is not None:
            # Only the word is looked for, in either form.
            if line.strip() in (f"::{stop}::", f"##[{stop}]"):
                stop = None
            continue
        second = re.match(r"\s*::([\w-]+)(?: (.*?))?::(.*)", line)
        if match := second or re.search(r"##\[([\w-]+)([^\]]*)\](.*)", line):
            name, properties, data = match.groups()
        else:
            continue
        if name == "stop-commands":
            stop = data
            continue
        title = re.search("title=([^,]*)", properties or "")
        found.append((name, unescaped(title[1]) if title else "", unescaped(data)))
    return found


# --- annotations


@given(st.text(), st.text())
def test_an_annotation_is_one_line_whatever_it_says(title: str, message: str) -> None:
    line = as_github.annotation("error", title, message)
    assert len(line.splitlines()) == 1
    [(name, shown, data)] = obeyed(line)
    assert name == "error"
    if title.isprintable() and message.isprintable() and len(title) < 200:
        assert (shown, data) == (title, message)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("100%", "100%25"), ("a\nb", "a%0Ab"), ("%0A", "%250A"), ("a::b,c", "a::b,c"), ("a\rb", "a\\rb")],
)
def test_the_escapes_are_those_of_the_toolkit(text: str, escaped: str) -> None:
    assert as_github.annotation("warning", "t:i,t%", text) == f"::warning title=t%3Ai%2Ct%25::{escaped}"


def test_annotations_of_a_run() -> None:
    found = [obeyed(line)[0] for line in as_github.of_runs([a_run(*EVERY_VERDICT, reason="the machine died")])]
    assert [(name, title) for name, title, _ in found] == [
        ("error", "incomplete (runc on debian 13)"),
        ("error", "fail STATE-003 (runc on debian 13)"),
        ("error", "error MOUNT-008 (runc on debian 13)"),
        ("error", "timeout MOUNT-003 (runc on debian 13)"),
        ("error", "no-assertions PROC-004 (runc on debian 13)"),
    ]
    assert found[1][2] == (
        "summary of STATE-003\nbundle is relative\nbundle\nexpected: /run/bundle\nactual: bundle\n"
        "runtime.md#runtimeState"
    )
    assert as_github.of_runs([a_run(a_result("A-001"))]) == []


def test_what_the_policy_expects_is_no_annotation_and_what_is_wrong_with_it_is_one() -> None:
    known = dataclasses.replace(a_result("A-001", Verdict.FAIL), expected=Expected("because", "", "own.toml"))
    run = dataclasses.replace(
        a_run(known, a_result("F-001", Verdict.FLAKY)), policy=PolicyNotes(("entry.1",), ("entry.2",), ("entry.3",))
    )
    assert [obeyed(line)[0][:2] for line in as_github.of_runs([run])] == [
        ("error", "expired policy entry (runc on debian 13)"),
        ("warning", "policy (runc on debian 13)"),
        ("warning", "policy (runc on debian 13)"),
        ("warning", "flaky (runc on debian 13)"),
    ]


def test_ten_errors_are_all_that_github_shows() -> None:
    lines = as_github.of_runs([a_run(*(a_result(f"A-{n:03}", Verdict.FAIL) for n in range(200)))])
    assert len(lines) == 10
    name, title, data = obeyed(lines[-1])[0]
    assert (name, title) == ("error", "191 more") and "A-009" in data
    assert len(as_github.of_runs([a_run(*(a_result(f"A-{n}", Verdict.FAIL) for n in range(5)))] * 2)) == 10


def test_a_failure_that_shows_many_times_is_one_annotation() -> None:
    same = Result("1", "kill works", "MUST", "", Verdict.FAIL, 0.1, {}, "kill")
    [line] = as_github.of_runs([a_run(same, same, same)])
    assert "kill works (3 times)" in line


# --- Markdown


@pytest.mark.parametrize("text", BADLY)
def test_hostile_text_is_only_text_in_markdown(text: str) -> None:
    found = html_of(as_markdown.render(hostile_run(text)))
    tags = set(re.findall(r"<(\w+)", found))
    assert tags <= {"h2", "p", "strong", "ul", "li", "code", "table", "thead", "tbody", "tr", "th", "td"}, tags
    outside = re.sub(r"<code.*?</code>", "", found, flags=re.DOTALL)
    for mark in ("alert", "e.example", "@team", "smile", "img"):
        assert mark not in outside
    assert all(row.count("<td") in (3, 5) for row in re.findall("<tr>.*?</tr>", found, re.DOTALL)[1:] if "<td" in row)


def test_a_run_as_markdown() -> None:
    text = as_markdown.render(a_run(*EVERY_VERDICT))
    assert text.startswith("## `spec 0.1.0 on runc 1.1.15`\n\n`debian 13 qemu 6.12.57`, run `run-1`\n")
    assert "**4 failures that the policy does not expect**" in text
    link = "https://github.com/opencontainers/runtime-spec/blob/v1.0.2/runtime.md#runtimeState"
    assert f"| fail | [`STATE-003`]({link}) | `bundle` | `/run/bundle` | `bundle` |\n" in text
    assert "| pass | 1 |  |\n" in text
    assert "**All as expected**" in as_markdown.render(a_run(a_result("A-001")))
    assert "**Incomplete**: `no disk`" in as_markdown.render(a_run(reason="no disk"))
    assert "**No results**" in as_markdown.render(a_run())


def test_a_run_of_any_size_fits_into_a_summary() -> None:
    letters = str.maketrans("0123456789", "abcdefghij")
    words = (f"A-{n:05}".translate(letters) for n in range(9000))
    run = a_run(*(a_result(f"A-{n:05}", Verdict.FAIL, message=f"{word} " + "é|`" * 90) for n, word in enumerate(words)))
    for limit in (4000, 50_000, LIMIT):
        text = as_markdown.render(run, limit)
        assert limit / 3 < len(text.encode()) <= limit
        assert re.search(r"\n\d+ more lines are in report\.html\.\n$", text)


# --- as a step


@pytest.fixture
def step(tmp_path: Path, environ: dict[str, str]) -> dict[str, str]:
    """The environment of a step."""
    return {**environ, "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}


def recording(place: Path, *lines: str) -> Path:
    """Raw output of the validation suite that says these lines as well."""
    place.mkdir()
    for path in recorded.V2.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    tap = next(path for path in sorted(place.glob("*.tap")))
    tap.write_text(tap.read_text() + "".join(f"{line}\n" for line in lines))
    return place


def test_a_step_annotates_and_writes_the_summary(tmp_path: Path, step: dict[str, str]) -> None:
    place = recording(tmp_path / "v0.9.0-crun-1.8.1-cgroup-v2")
    (tmp_path / "summary.md").write_text("# mine\n")
    done = labkit("judge", str(place), "--no-policy", "--format", "github", environ=step, cwd=tmp_path)
    assert done.returncode == 1
    found = obeyed(done.stdout)
    assert [name for name, *_ in found].count("error") == 10 and {name for name, *_ in found} <= {"error", "warning"}
    assert "58 programs: " in done.stdout
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("# mine\n## `validation v0.9.0 on crun 1.8.1`\n")
    again = labkit("report", "--format", "github", environ=step, cwd=tmp_path)
    assert (again.returncode, obeyed(again.stdout)) == (0, [])
    assert (tmp_path / "summary.md").read_text().count("## `validation") == 2


HOSTILE = (
    "::error title=forged::x",
    "  ::set-env name=PATH::/evil",
    "not ok 99 - ##[add-mask]the",
    "::stop-commands::x",
    "not ok 98 - ##[error]forged",
    "x\r::error::forged",
    "not ok 97 - a%0A::error::forged",
)


def test_what_a_suite_prints_commands_nobody(tmp_path: Path, step: dict[str, str]) -> None:
    place = recording(tmp_path / "v0.9.0-crun-1.8.1-cgroup-v2", *HOSTILE)
    done = labkit("judge", str(place), "--format", "github", environ=step, cwd=tmp_path)
    found = obeyed(done.stdout)
    assert found and not [one for one in found if one[0] not in ("error", "warning") or "forged" in one[1]]
    plain = labkit("judge", str(place), environ=step, cwd=tmp_path)
    assert "##[" in plain.stdout  # which a runner would obey


def test_an_error_of_the_lab_is_an_annotation(tmp_path: Path, step: dict[str, str]) -> None:
    done = labkit("judge", "no::such%\n::warning::run", "--format", "github", environ=step, cwd=tmp_path)
    assert done.returncode == 2
    [(name, title, data)] = obeyed(done.stdout)
    assert (name, title) == ("error", "labkit") and data.startswith("there is no run no::such%\n::warning::run")
    assert "labkit: there is no run" in done.stdout and done.stderr == ""  # one stream, so that nothing overtakes


@pytest.mark.parametrize("size", [LIMIT, LIMIT - 100, LIMIT + 5000])
def test_a_summary_that_is_full_stays_as_it_is(tmp_path: Path, step: dict[str, str], size: int) -> None:
    (tmp_path / "summary.md").write_text("x" * size)
    done = labkit("judge", str(recorded.V2), "--format", "github", environ=step, cwd=tmp_path)
    assert done.returncode == 0 and "the summary of the job was not written: it is full" in done.stdout
    assert (tmp_path / "summary.md").stat().st_size == size


def test_the_summary_of_a_step_stays_below_githubs_limit(tmp_path: Path, step: dict[str, str]) -> None:
    (tmp_path / "summary.md").write_text("x" * (LIMIT - 6000))
    labkit("judge", str(recorded.V2), "--no-policy", "--format", "github", environ=step, cwd=tmp_path)
    assert LIMIT - 6000 < (tmp_path / "summary.md").stat().st_size <= LIMIT


@pytest.mark.parametrize("summary", [None, "", "/proc/none/x", "."])
def test_without_a_place_for_the_summary_the_run_is_still_judged(
    tmp_path: Path, step: dict[str, str], summary: str | None
) -> None:
    step.pop("GITHUB_STEP_SUMMARY")
    more = {} if summary is None else {"GITHUB_STEP_SUMMARY": summary}
    done = labkit("judge", str(recorded.V2), "--format", "github", environ={**step, **more}, cwd=tmp_path)
    assert done.returncode == 0
    assert ("was not written" in done.stdout) is bool(summary)


def test_outside_of_github_nothing_of_it_shows(tmp_path: Path, step: dict[str, str]) -> None:
    done = labkit("judge", str(recorded.V2), environ=step, cwd=tmp_path)
    same = labkit("judge", str(recorded.V2), "--format", "text", environ=step, cwd=tmp_path)
    assert "::" not in done.stdout.replace("report.html", "") and not (tmp_path / "summary.md").exists()
    assert same.returncode == 0 and len(same.stdout.splitlines()) == len(done.stdout.splitlines())


def test_report_as_markdown(tmp_path: Path, step: dict[str, str]) -> None:
    labkit("judge", str(recorded.V2), environ=step, cwd=tmp_path)
    done = labkit("report", "--markdown", environ=step, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("## `validation v0.9.0 on crun 1.8.1`\n")
    assert {"table", "h2"} <= set(re.findall(r"<(\w+)", html_of(done.stdout)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("report", "--markdown", "--json"), "--markdown takes no --json"),
        (("report", "--markdown", "--format", "github"), "--markdown takes no --format"),
        (("judge", "x", "--format", "github", "--json"), "--format takes no --json"),
        (("judge", "x", "--format", "html"), "--format is 'html', must be text or github"),
    ],
)
def test_what_excludes_each_other(tmp_path: Path, step: dict[str, str], words: tuple[str, ...], said: str) -> None:
    done = labkit(*words, environ=step, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stdout + done.stderr


def test_a_signal_leaves_commands_stopped(tmp_path: Path, step: dict[str, str]) -> None:
    code = (
        "from labkit.cli.github import Workflow\nwith Workflow():\n    print('::error::a'); raise KeyboardInterrupt\n"
    )
    done = process.run([sys.executable, "-c", code], timeout=30, check=False, env={"PYTHONPATH": str(Path.cwd())})
    assert done.status != 0 and obeyed(done.stdout) == []

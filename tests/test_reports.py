from __future__ import annotations

import html.parser
import json
import re
import string
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.core import resources
from labkit.core.errors import HostError
from labkit.reports import as_html, as_junit, as_tap, files, terminal
from labkit.reports.evidence import link
from labkit.results import tap
from labkit.results.comparison import Relation
from labkit.results.json import from_json, to_json
from labkit.results.model import (
    WHOLE,
    Expected,
    PolicyNotes,
    Program,
    Result,
    Run,
    RunInfo,
    RuntimeInfo,
    SuiteInfo,
    Verdict,
    exit_status,
)
from labkit.suites.spec import from_tap

HOSTILE = "</pre><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\x00\u202e\ufffe]]>&amp;{{7*7}}[red]"
patient = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])


def a_result(ident: str, verdict: Verdict = Verdict.PASS, **diagnostic: Any) -> Result:
    return Result(ident, f"summary of {ident}", "MUST", "runtime.md#runtimeState", verdict, 0.1, diagnostic)


FAILED = a_result(
    "STATE-003",
    Verdict.FAIL,
    message="bundle is relative",
    failures=[{"what": "bundle", "expected": "/run/bundle", "actual": "bundle"}],
    notes=["seen twice"],
    commands=["runc state X"],
)
EVERY_VERDICT = (
    a_result("STATE-010"),
    FAILED,
    a_result("CG-001", Verdict.SKIP, reason="needs cgroup v1"),
    a_result("KILL-002", Verdict.TODO, reason="issue #805"),
    a_result("PROC-004", Verdict.NO_ASSERTIONS),
    a_result("MOUNT-003", Verdict.TIMEOUT, message="no answer within 10 s"),
    a_result("MOUNT-008", Verdict.ERROR, message="the check broke"),
)


def a_run(*found: Result, reason: str | None = None) -> Run:
    started, finished = datetime(2026, 11, 22, 1, 20, tzinfo=UTC), datetime(2026, 11, 22, 1, 21, tzinfo=UTC)
    return Run(
        RunInfo("run-1", started, finished, "0.1.0", reason),
        {"platform": "debian", "release": "13", "provider": "qemu", "kernel": "6.12.57", "cgroup": "v2", "cpus": 2},
        RuntimeInfo("runc", "/usr/sbin/runc", "1.1.15"),
        SuiteInfo("spec", "0.1.0", "1.0.2"),
        found,
    )


def hostile_run(text: str) -> Run:
    failures = [{"what": text, "expected": text, "actual": [text]}]
    diagnostic: dict[str, Any] = {"message": text, "failures": failures, "notes": [text], text: text}
    bad = Result(text, text, text, text, Verdict.FAIL, 0.0, diagnostic)
    info = replace(a_run().run, id=text, reason=text)
    more = replace(bad, program=text, expected=Expected(text, "", text))
    found = (bad, more, replace(more, name=WHOLE, expected=None))
    programs = (Program(text, Verdict.FAIL, 0.0, 1, (Verdict.PASS, Verdict.FAIL), (text,)),)
    notes = PolicyNotes((text,), (text,), (text,))
    return Run(info, {text: text}, RuntimeInfo(text, text, text), SuiteInfo(text, text, text), found, programs, notes)


class Page(html.parser.HTMLParser):
    """What a browser would find in a page: its tags with attributes, and the texts outside style and script."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_html_needs_nothing_from_elsewhere() -> None:
    source = as_html.render(a_run(*EVERY_VERDICT))
    page = Page(source)
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "style", "action", "data"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "href" not in attributes or tag == "a"
    assert not {"link", "iframe", "object", "embed", "base", "img"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|fetch\(|import\(", source)
    assert {a["href"] for a in page.named("a")} == {
        "https://github.com/opencontainers/runtime-spec/blob/v1.0.2/runtime.md#runtimeState"
    }
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_every_report_says_where_a_kernel_comes_from_that_is_not_the_platforms() -> None:
    origin = "User-Mode Linux 7.2.7, user-mode-linux 7.2um1 of Debian sid"
    plain = a_run(*EVERY_VERDICT)
    run = replace(plain, machine={**plain.machine, "provider": "uml", "kernel_origin": origin})
    assert f"kernel: {origin}, not the platform's" in terminal.summary(run, width=200)
    assert f"# kernel-origin: {origin}" in as_tap.render(run).splitlines()
    properties = {one.get("name"): one.get("value") for one in ET.fromstring(as_junit.render(run)).iter("property")}
    assert properties["machine.kernel_origin"] == origin
    assert properties["machine.provider"] == "uml"
    assert f"kernel_origin{origin}" in re.sub(r"\s*\n\s*", "", Page(as_html.render(run)).text)
    assert json.loads(to_json(run))["machine"]["kernel_origin"] == origin
    assert from_json(to_json(run)).machine["kernel_origin"] == origin
    for text in (terminal.summary(plain), as_tap.render(plain), as_junit.render(plain), as_html.render(plain)):
        assert "origin" not in text.replace("original", "")


def test_html_shows_what_is_bad_first_and_open() -> None:
    page = Page(as_html.render(a_run(*EVERY_VERDICT)))
    shown = [(d["data-verdict"], "open" in d) for d in page.named("details")]
    assert shown == [
        ("fail", True), ("error", True), ("timeout", True), ("no-assertions", True), ("todo", False), ("skip", False),
        ("pass", False),
    ]  # fmt: skip
    for words in ("/run/bundle", "bundle is relative", "seen twice", "runc state X", "6.12.57", "/usr/sbin/runc"):
        assert words in page.text
    assert "Incomplete" not in page.text


def test_every_report_says_that_a_run_is_incomplete() -> None:
    run = a_run(FAILED, reason="the machine died")
    page = Page(as_html.render(run))
    assert [a for a in page.named("section") if a.get("class") == "incomplete"]
    assert "the machine died" in page.text
    assert as_tap.render(run).endswith("\nBail out! incomplete: the machine died\n")
    cases = ET.fromstring(as_junit.render(run)).findall(".//testcase[@name='the run is incomplete']/error")
    assert [case.get("message") for case in cases] == ["the machine died"]
    assert "INCOMPLETE: the machine died" in terminal.summary(run)


def tags_of(source: str) -> list[str]:
    return [tag for tag, _ in Page(source).tags if tag not in ("a", "p")]


@pytest.mark.parametrize("render", [as_html.render, as_tap.render, as_junit.render, terminal.summary])
def test_no_control_character_survives(render: Any) -> None:
    assert set(re.findall(r"[^\n\t -~]", render(hostile_run(HOSTILE)))) <= set("–…·")  # noqa: RUF001


def test_what_a_level_is_implied_by_is_shown_beside_it() -> None:
    result = a_result("PROC-002", Verdict.FAIL, message="no", implied="start MUST run the program 'as specified'")
    told = "MUST (implied: start MUST run the program &#39;as specified&#39;)"
    html = as_html.render(a_run(result, a_result("STATE-001", Verdict.FAIL, message="no")))
    assert html.count(told) == html.count("(implied: ") == 1
    assert html.count("<option>") == 1
    assert "MUST (implied: start MUST run the program 'as specified') runtime.md" in as_junit.render(a_run(result))


def test_hostile_html_is_only_text() -> None:
    page = Page(as_html.render(hostile_run(HOSTILE)))
    harmless = as_html.render(hostile_run("words"))
    assert tags_of(as_html.render(hostile_run(HOSTILE))) == tags_of(harmless)
    assert "<script>alert(1)</script>" in page.text and "{{7*7}}" in page.text
    assert page.named("a") == []


@patient
@given(st.text(st.characters(exclude_categories=()), min_size=1))
def test_any_text_can_be_reported(text: str) -> None:
    run = hostile_run(text)
    ET.fromstring(as_junit.render(run))
    as_html.render(run).encode()
    assert terminal.summary(run).replace("\n", "").isprintable()
    assert len([e for e in tap.read(as_tap.render(run).encode()) if isinstance(e, tap.TestPoint)]) == 3


def test_the_tap_report_reads_back_as_the_same_results() -> None:
    tricky = replace(FAILED, name="looks like # TODO a directive \\")
    run = a_run(*EVERY_VERDICT, tricky)
    reading = from_tap(tap.read(as_tap.render(run).encode()))
    assert reading.reason is None
    assert reading.facts["runtime-path"] == "/usr/sbin/runc"
    assert reading.results == (*EVERY_VERDICT, tricky)


def test_junit_counts_and_carries_the_evidence() -> None:
    suite = ET.fromstring(as_junit.render(a_run(*EVERY_VERDICT))).find("testsuite")
    assert suite is not None
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "7", "failures": "2", "errors": "2", "skipped": "2"}
    silent, failure = suite.findall("testcase/failure")
    assert (silent.get("message"), failure.get("message")) == ("no-assertions", "bundle is relative")
    assert "expected: /run/bundle" in (failure.text or "")


@pytest.mark.parametrize(
    ("reference", "spec", "address"),
    [
        ("config.md#mounts", "1.2.1", "https://github.com/opencontainers/runtime-spec/blob/v1.2.1/config.md#mounts"),
        ("config.md#mounts", "", "https://github.com/opencontainers/runtime-spec/blob/main/config.md#mounts"),
        ("config.md#mounts", "1.0/../x", "https://github.com/opencontainers/runtime-spec/blob/main/config.md#mounts"),
        (
            "runtime-tools:docs/command-line-interface.md#kill",
            "1.2.1",
            "https://github.com/opencontainers/runtime-tools/blob/master/docs/command-line-interface.md#kill",
        ),
        (
            "https://github.com/opencontainers/runtime-spec/blob/v1.3.0/runtime.md#create",
            "",
            "https://github.com/opencontainers/runtime-spec/blob/v1.3.0/runtime.md#create",
        ),
        ("https://evil.example/", "", None),
        ("javascript:alert(1)", "", None),
        ("../../x.md", "", None),
        ("", "", None),
    ],
)
def test_references_link_to_their_anchor_or_nowhere(reference: str, spec: str, address: str | None) -> None:
    assert link(reference, spec) == address


def test_summary_is_plain_text_with_the_failures_and_the_place(tmp_path: Path) -> None:
    assert terminal.summary(a_run(*EVERY_VERDICT), width=80, directory=Path("reports/latest")).splitlines() == [
        "spec 0.1.0 on runc 1.1.15",
        "debian 13 qemu 6.12.57 cgroup v2",
        "",
        "fail           STATE-003  summary of STATE-003",
        "                          bundle",
        "                          expected: /run/bundle",
        "                          actual: bundle",
        "error          MOUNT-008  summary of MOUNT-008",
        "                          the check broke",
        "timeout        MOUNT-003  summary of MOUNT-003",
        "                          no answer within 10 s",
        "no-assertions  PROC-004   summary of PROC-004",
        "",
        "7 checks in 60.0 s: 1 pass, 1 skip, 1 no-assertions, 1 todo, 1 timeout, 1 error,",
        "1 fail",
        "reports: reports/latest/report.html (also results.json, results.tap, junit.xml)",
    ]


def test_summary_stays_inside_the_width_and_names_only_so_many() -> None:
    letters = string.ascii_letters
    many = [a_result(f"A-{n:03}", Verdict.FAIL, message=f"{letters[n]} long " * 50) for n in range(30)]
    text = terminal.summary(a_run(*many), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("…\n") == 20
    assert "A-019" in text and "A-020" not in text and "and 10 more in the report" in text


def test_summary_has_colours_only_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1;31mfail" in terminal.summary(a_run(FAILED), terminal=True)
    assert "\x1b" not in terminal.summary(a_run(FAILED))


def test_write_all_writes_every_report(tmp_path: Path) -> None:
    run = a_run(*EVERY_VERDICT)
    written = files.write_all(run, tmp_path / "reports" / "run-1")
    assert {path.name for path in written} == {"results.json", "results.tap", "junit.xml", "report.html"}
    assert {path.name for path in (tmp_path / "reports" / "run-1").iterdir()} == {path.name for path in written}
    assert from_json(written[0].read_bytes()).by_id() == run.by_id()


def test_a_report_is_replaced_in_one_step(tmp_path: Path) -> None:
    path, reader = tmp_path / "results.json", tmp_path / "reader"
    path.write_text("earlier")
    reader.hardlink_to(path)  # as one who has the earlier file open
    files.write(path, "later")
    assert (path.read_text(), reader.read_text()) == ("later", "earlier")


def test_a_write_that_dies_half_way_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("earlier")
    # A file size limit stands for a full disk: the kernel refuses what goes beyond it.
    program = (
        "import resource, signal, sys, pathlib\n"
        "from labkit.core.errors import HostError\n"
        "from labkit.reports import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: files.write(pathlib.Path(sys.argv[1]), 'x' * 100_000)\n"
        "except HostError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"cannot write in {path.parent}: File too large\n"
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("results.json", "earlier")]


@pytest.mark.parametrize("place", ["file/run-1", "/proc/run-1", "r" * 300])
def test_a_directory_that_cannot_be_is_a_host_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot write in"):
        files.write_all(a_run(FAILED), tmp_path / place)


def test_long_evidence_is_cut_in_html_and_kept_in_json() -> None:
    run = a_run(a_result("A-001", Verdict.FAIL, message="x" * 1_000_000))
    assert len(as_html.render(run)) < 100_000
    assert len(json.loads(to_json(run))["results"][0]["diagnostic"]["message"]) == 1_000_000


def test_results_can_be_read_without_the_heavy_libraries() -> None:
    program = "import sys, labkit.results; print({'jinja2', 'rich', 'junitparser', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_html_shows_runtime_calls_as_a_terminal_does() -> None:
    call: dict[str, Any] = {"argv": ["runc", "create", "a b"], "status": 1, "seconds": 0.5, "stderr": "no <b>such</b>"}
    failure = {"what": "create", "expected": "exit status 0", "actual": "exit status 1"}
    said: dict[str, Any] = {
        "message": "create: expected 'exit status 0', got 'exit status 1'",
        "failures": [failure], "commands": [call], "notes": {"kernel": "6.12"},
    }  # fmt: skip
    page = Page(as_html.render(a_run(Result("A-001", "a", "MUST", "", Verdict.FAIL, 1.0, said))))
    assert "$ runc create 'a b'\nexit status 1 after 0.5 s\nno <b>such</b>" in page.text
    assert "kernel: 6.12" in page.text
    assert said["message"] not in page.text, "what the failure says is not said twice"


def a_program_run(*found: Result) -> Run:
    programs = tuple(Program(name, Verdict.FAIL, 1.5, 0) for name in dict.fromkeys(r.program for r in found))
    return replace(a_run(*found), suite=SuiteInfo("validation", "master", "1.3.0"), programs=programs)


def an_assertion(name: str, verdict: Verdict = Verdict.PASS, **more: Any) -> Result:
    return Result(f"create/{name}", name, "MUST", "", verdict, 0.0, more.pop("diagnostic", {}), "create", **more)


MARKED = an_assertion("known", Verdict.FAIL, expected=Expected("because", "https://example.org/", "own.toml, entry.0"))


def test_an_expected_failure_is_shown_as_one_in_every_report() -> None:
    run = a_program_run(MARKED, an_assertion("new", Verdict.FAIL), an_assertion("good"))
    page = Page(as_html.render(run))
    assert [(d["data-verdict"], "open" in d) for d in page.named("details")] == [
        ("fail", True), ("fail", False), ("fail", False),
    ]  # fmt: skip
    assert "Expected: because" in page.text and "1 of 2 failures expected" in page.text
    assert "not ok 1 - create/known known # TODO expected: because\n" in as_tap.render(run)
    assert "  ...\n# expected: because (own.toml, entry.0)\nnot ok 2" in as_tap.render(run)
    suite = ET.fromstring(as_junit.render(run)).find("testsuite")
    assert suite is not None
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "1")
    skipped = suite.find("testcase[@name='known']/skipped")
    assert skipped is not None
    assert (skipped.get("type"), skipped.get("message")) == ("fail", "expected fail: because")
    text = terminal.summary(run)
    assert "fail  create  new" in text and "known" not in text
    assert "failing as expected (--no-policy shows details): create\n" in text
    assert "1 pass, 2 fail (1 expected)" in text


def test_a_violation_that_nothing_asserts_is_bad_in_every_report() -> None:
    said = {"violation": "Hooks MUST", "message": "found: Hooks MUST"}
    run = a_program_run(an_assertion(WHOLE, Verdict.NO_ASSERTIONS, diagnostic=said))
    assert exit_status(run) == 1
    assert ("no-assertions", True) in [
        (d["data-verdict"], "open" in d) for d in Page(as_html.render(run)).named("details")
    ]
    assert ET.fromstring(as_junit.render(run)).find(".//failure") is not None
    assert "found: Hooks MUST" in terminal.summary(run)


def test_html_lists_what_a_program_said_and_counts_what_is_alike() -> None:
    skips = [an_assertion("no syscalls", Verdict.SKIP) for _ in range(40)]
    page = Page(as_html.render(a_program_run(an_assertion("good"), *skips)))
    assert "create: 41 assertions" in page.text
    assert len(page.named("li")) == 2
    assert "no syscalls × 40" in page.text  # noqa: RUF001


def test_what_a_program_shows_again_and_again_is_one_row_of_html() -> None:
    found = [
        Result(f"create/{number}", name, "", "", Verdict.FAIL, 0.0, {"message": message}, "create")
        for number, (name, message) in enumerate([("a", "1"), ("b", "1"), ("a", "1"), ("b", "2"), ("a", "1")])
    ]
    run = replace(a_run(*(replace(one, id=f"create/{one.name}") for one in found)), programs=())
    page = Page(as_html.render(run))
    assert len([row for row in page.named("details") if "result" in (row["class"] or "")]) == 3
    assert "× 3" in page.text  # noqa: RUF001
    assert "× 2" not in page.text  # noqa: RUF001


def test_what_is_alike_is_one_row_in_a_terminal() -> None:
    text = terminal.summary(a_program_run(*[an_assertion("limit", Verdict.FAIL) for _ in range(5)]))
    assert text.count("limit") == 1
    assert "limit (5 times)" in text


def test_a_flaky_program_is_named() -> None:
    run = a_program_run(an_assertion("a", Verdict.FAIL))
    attempts = (Verdict.PASS, Verdict.FAIL, Verdict.PASS)
    run = replace(run, programs=(replace(run.programs[0], attempts=attempts, left=("/mnt/x",)),))
    assert "flaky: create (1 fail, 2 pass)" in terminal.summary(run)
    page = Page(as_html.render(run))
    assert "flaky: pass, fail, pass" in page.text and "/mnt/x" in page.text
    assert from_json(to_json(run)) == run


def test_no_cell_of_a_table_has_a_class_that_hides_it() -> None:
    """What stands in how a run relates to the first is a class of its cell."""
    style = (resources.root() / "templates/report.css").read_text()
    hiding = {name for name, body in re.findall(r"^\.([\w-]+) \{([^}]*)\}", style, re.MULTILINE) if "clip" in body}
    assert hiding
    assert not hiding & {relation.name.lower() for relation in Relation}

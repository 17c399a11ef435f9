"""What many failures have in common is said once."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labkit.reports import as_html, as_markdown
from labkit.reports.terminal import summary
from labkit.results import json as results_json
from labkit.results.causes import LEAST, Cause, causes, divided, normal, telling, words_of
from labkit.results.model import Expected, Result, Verdict
from labkit.results.tap import JSON
from tests.test_results import a_result, a_run

FAIL = Verdict.FAIL
RUNSC = "creating container: cannot create gofer process: cannot run with network enabled in root network namespace"


def create_failed(ident: str, said: str, status: int = 128) -> Result:
    """As the spec suite tells of a runtime whose `create` fails."""
    name = f"labkit-66018533{ident[-1]}322-{ident.lower()}-3"
    call: JSON = {
        "argv": ["/usr/bin/runsc", "create", "--bundle", f"/tmp/labkit-1/work/{ident}/bundle", name],
        "status": status, "seconds": 0.05, "stderr": f"{said.replace('ID', name)}\n",
    }  # fmt: skip
    actual = f"exit status {status} after 0.0{ident[-1]} s: {said.replace('ID', name)}"
    failure: JSON = {"finding": "create-exits-0", "what": "create exits 0", "expected": 0, "actual": actual}
    message = f"create exits 0: expected 0, got {actual!r}"
    return a_result(ident, FAIL, message=message, failures=[failure], commands=[call])


ALIKE = [create_failed(f"HOOK-00{number}", RUNSC) for number in range(1, 8)]
OTHER = [a_result("STATE-001"), a_result("STATE-002", FAIL, message="status: expected 'created', got 'running'")]


def test_the_cause_is_what_the_runtime_said() -> None:
    common, rest = divided([*ALIKE, OTHER[1]])
    assert common == [Cause(RUNSC, tuple(result.id for result in ALIKE))]
    assert rest == [OTHER[1]]


@pytest.mark.parametrize(
    "said",
    [
        "ID: cannot run in this namespace",
        "open /tmp/labkit-1/work/ID/x: no such file or directory",
        'time="2026-11-26T23:47:16Z" level=error msg="container ID: failed after 12ms"',
        "[pid 12345] 0xc000123456: ID is not there",
        "error for 0c1d2e3f4a5b6c7d8e9f: no such container",
    ],
)
def test_paths_ids_and_times_are_no_difference(said: str) -> None:
    results = [create_failed(f"KILL-00{number}", said) for number in range(1, 5)]
    other = said.replace("12345", "999").replace("12ms", "1.5 s").replace("0c1d2e", "aa1d2e")
    results.append(create_failed("KILL-009", other))
    (cause,) = causes(results)
    assert len(cause.checks) == 5
    assert "labkit-" not in cause.words and "KILL" not in cause.words


def test_what_differs_in_its_words_is_another_cause() -> None:
    several = [create_failed(f"A-00{n}", "exec format error") for n in range(1, 4)]
    several += [create_failed(f"B-00{n}", "permission denied") for n in range(1, 5)]
    several += [create_failed(f"C-00{n}", "exit status 1") for n in range(1, LEAST)]
    assert [(cause.words, len(cause.checks)) for cause in causes(several)] == [
        ("permission denied", 4),
        ("exec format error", 3),
    ]


def test_a_failure_without_a_word_of_the_runtime_is_known_by_its_message() -> None:
    """A runtime that is killed says nothing."""
    several = [create_failed(f"A-00{n}", "", status=-11) for n in range(1, 4)]
    (cause,) = causes(several)
    assert cause.words == "create exits 0: exit status -11 after …:"
    assert causes([a_result(f"A-00{n}", Verdict.ERROR) for n in range(5)]) == []  # nothing is said


def test_assertions_of_one_program_are_one_check() -> None:
    results = [Result(f"p/{n}", f"line {n}", "", "", FAIL, 0.0, {"message": "no"}, "p") for n in range(9)]
    assert causes(results) == []
    more = [replace(results[0], program=name) for name in ("q", "r")]
    (cause,) = causes([*results, *more])
    assert cause.checks == ("p", "q", "r")


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        ("", ""),
        ("\n  \n", ""),
        ("warning: x\nfailed to create: y\n", "failed to create: y"),
        ("panic: runtime error: index out of range\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:1\nexit 2",
         "panic: runtime error: index out of range"),
        ("thread 'main' panicked at src/main.rs:5:5:\nno\nnote: run with `RUST_BACKTRACE=1`",
         "thread 'main' panicked at src/main.rs:5:5:"),
        ("./runc: error while loading shared libraries: libseccomp.so.2: cannot open\n",
         "./runc: error while loading shared libraries: libseccomp.so.2: cannot open"),
        ("Error: no\n    at somewhere\n", "Error: no"),
        ("  only indented", "  only indented"),
    ],
)  # fmt: skip
def test_the_line_that_tells(stderr: str, line: str) -> None:
    assert telling(stderr) == line


words = st.lists(st.sampled_from(["cannot", "open", "the", "namespace", "create:", "mount", "EPERM"]), min_size=1)
paths = st.lists(st.text(string.ascii_lowercase, min_size=1), min_size=2, max_size=4).map(lambda w: "/" + "/".join(w))
hexes = st.text("0123456789abcdef", min_size=12, max_size=64).map(lambda text: "1" + text)
ids = paths | hexes | st.integers(10_000).map(str) | st.uuids().map(str)


@given(words, st.integers(0, 5), st.lists(ids, min_size=LEAST, max_size=6))
def test_whatever_ids_stand_in_the_same_words(said: list[str], at: int, several: list[str]) -> None:
    messages = [" ".join([*said[:at], one, *said[at:]]) for one in several]
    results = [a_result(f"A-{n:03}", FAIL, message=message) for n, message in enumerate(messages)]
    (cause,) = causes(results)
    assert len(cause.checks) == len(several)


results_of = st.lists(
    st.builds(
        lambda ident, text, program: replace(a_result(ident, FAIL, message=text), program=program),
        st.sampled_from([f"A-00{n}" for n in range(9)]), st.sampled_from(["", "a", "b", "c 1", "c 2"]),
        st.sampled_from(["", "p", "q", "r"]),
    ), max_size=30,
)  # fmt: skip


@given(results_of, st.randoms())
def test_each_result_is_told_once(results: list[Result], random: Random) -> None:
    common, rest = divided(results)
    said = {cause.words for cause in common}
    assert [result for result in results if words_of(result) not in said] == rest
    assert all(len(cause.checks) >= LEAST and cause.words for cause in common)
    assert sorted(common, key=lambda cause: -len(cause.checks)) == common
    random.shuffle(results)
    assert {(one.words, *sorted(one.checks)) for one in causes(results)} == {
        (one.words, *sorted(one.checks)) for one in common
    }


@given(st.text() | st.text("a/0-_. …:"), st.sets(st.text("ab1/", min_size=6), max_size=3))
@example("/" * 30_000, set())
@example("1-" * 10_000, set())
@example("a" * 20_000, set())
def test_what_is_normal_stays(text: str, words: set[str]) -> None:
    once = normal(text, words)
    assert len(once) <= 300 and "\n" not in once
    assert normal(once) == once or len(once) == 300


HOSTILE: list[JSON] = [None, 1, [], {}, [1], [None], [{"argv": 1}], [{"argv": [1], "stderr": 2}], "x", [[]]]


@pytest.mark.parametrize("value", HOSTILE)
def test_whatever_a_machine_sends(value: JSON) -> None:
    for key in ("failures", "commands", "message"):
        assert isinstance(words_of(a_result("A-001", FAIL, **{key: value})), str)


def test_every_report_says_it_once() -> None:
    run = a_run(*ALIKE, *OTHER)
    for text in (summary(run, width=200), as_markdown.render(run)):
        assert text.count("root network namespace") == 1
        assert "7 fail alike" in text and "HOOK-007" in text
        assert "STATE-002" in text
    html = as_html.render(run)
    assert "<b>7 fail alike:</b> creating container" in html
    (cause,) = json.loads(results_json.to_json(run))["causes"]
    assert (cause["count"], cause["checks"][0], cause["words"]) == (7, "HOOK-001", RUNSC)
    assert results_json.from_json(results_json.to_json(run)) == run


def test_what_is_expected_is_no_cause() -> None:
    run = a_run(*(replace(result, expected=Expected("known", "", "")) for result in ALIKE))
    assert "fail alike" not in summary(run)
    assert "causes" not in json.loads(results_json.to_json(run))


def test_text_from_a_machine_is_text() -> None:
    evil = "<script>alert(1)</script> [red] `@all` \x1b[2J"
    run = a_run(*(a_result(f"A-00{n}", FAIL, message=evil) for n in range(4)))
    assert "<script>alert" not in as_html.render(run)
    assert "\x1b" not in summary(run) and "[red]" in summary(run)
    assert "<script>" not in as_markdown.render(run)

"""All reports of a run come to the same end, read by programs that know nothing of labkit."""

from __future__ import annotations

import io
import json
import re
import unittest
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from junitparser import JUnitXml
from junitparser.cli import verify
from tap.loader import Loader

from labkit.reports import as_html, as_junit, as_tap, terminal
from labkit.results import policy
from labkit.results import tap as taps
from labkit.results.json import to_json
from labkit.results.model import (
    WHOLE,
    Expected,
    Judged,
    PolicyNotes,
    Program,
    Result,
    Run,
    RuntimeInfo,
    SuiteInfo,
    Verdict,
    exit_status,
)
from labkit.suites.spec import from_tap
from labkit.usecases.judge import Said
from labkit.usecases.judge import recorded as of_recording
from tests import recorded
from tests.test_policy import TODAY
from tests.test_reports import EVERY_VERDICT, Page
from tests.test_results import a_result, a_run
from tests.test_tap_readers import Read, by_node  # noqa: F401  a fixture

KNOWN = Expected("known # see https://github.com/x/y.md#part", "https://example.org/#part", "own.toml, entry.0")


def failing(name: str = "x", expected: Expected | None = None, verdict: Verdict = Verdict.FAIL) -> Result:
    return replace(a_result("A-001", verdict), name=name, expected=expected)


def recording(place: Path, *, with_policy: bool = True) -> Run:
    (run,) = of_recording(place, Said(name=place.name))
    return policy.apply(run, policy.load() if with_policy else None, TODAY)


def of_programs(*results: Result) -> Run:
    names = dict.fromkeys(result.program for result in results)
    programs = tuple(Program(name, Verdict.PASS, 1.0, 0) for name in names)
    run = replace(a_run(*results), programs=programs, suite=SuiteInfo("validation", "master", "1.3.0"))
    return replace(run, runtime=RuntimeInfo("runc", "", "1.1"))


def silent(expected: Expected | None = None) -> Run:
    result = Result("create", WHOLE, "", "", Verdict.NO_ASSERTIONS, 0.0, {"message": "printed nothing"}, "create")
    return of_programs(replace(result, expected=expected))


PASSING = a_result("A-000")
VIOLATING = Result("x", WHOLE, "", "", Verdict.SKIP, 0.0, {"violation": "Hooks MUST", "message": "no"}, "x")
RUNS: dict[str, tuple[Callable[[], Run], int]] = {
    "runc's recording": (lambda: recording(recorded.V1), 1),
    "crun's recording": (lambda: recording(recorded.V2), 0),
    "crun's recording without a policy": (lambda: recording(recorded.V2, with_policy=False), 1),
    "all as it should be": (lambda: a_run(PASSING), 0),
    "every verdict": (lambda: a_run(*EVERY_VERDICT), 1),
    "an expected failure": (lambda: a_run(PASSING, failing(expected=KNOWN)), 0),
    "an expected error": (lambda: a_run(PASSING, failing(expected=KNOWN, verdict=Verdict.ERROR)), 0),
    "an expected failure with a # in its name": (lambda: a_run(PASSING, failing("a # b #c", KNOWN)), 0),
    "an expected failure with a directive in its name": (lambda: a_run(PASSING, failing("a # SKIP b", KNOWN)), 0),
    "a failure with a directive in its name": (lambda: a_run(PASSING, failing("a # TODO b")), 1),
    "a failure with a brace at the end": (lambda: a_run(PASSING, failing("expected {")), 1),
    "an expected failure with a brace at the end": (
        lambda: a_run(PASSING, failing("expected {", replace(KNOWN, reason="known {"))),
        0,
    ),
    "todo and flaky": (lambda: a_run(PASSING, a_result("B", Verdict.TODO), a_result("C", Verdict.FLAKY)), 0),
    "skips beside a pass": (lambda: a_run(PASSING, a_result("B", Verdict.SKIP, reason="no # here")), 0),
    "all skipped": (lambda: a_run(a_result("B", Verdict.SKIP, reason="not here")), 1),
    "a program that prints nothing": (lambda: silent(), 1),
    "programs that print nothing, as expected": (lambda: silent(KNOWN), 1),
    "a check that asserts nothing beside a pass": (lambda: a_run(PASSING, a_result("B", Verdict.NO_ASSERTIONS)), 1),
    "a violation that a skip hides": (lambda: of_programs(replace(PASSING, program="y"), VIOLATING), 1),
    "incomplete": (lambda: a_run(PASSING, reason="the machine died"), 4),
    "incomplete, and nothing arrived": (lambda: a_run(reason="the machine died"), 4),
    "complete, and nothing arrived": (lambda: a_run(), 4),
    "an expired entry": (lambda: replace(a_run(PASSING), policy=PolicyNotes(expired=("own.toml, entry.0 x",))), 1),
}
LOUD = re.compile(r"^(INCOMPLETE|NOTHING SHOWN|EXPIRED)\b|^(fail|error|timeout|no-assertions|skip) ", re.MULTILINE)


def by_json(run: Run, _: Path) -> bool:
    document = json.loads(to_json(run))
    bad = [one for one in document["results"] if Verdict(one["verdict"]).bad and "expected" not in one]
    assert not bad or document["exit_status"]
    return bool(document["exit_status"])


def by_terminal(run: Run, _: Path) -> bool:
    return bool(LOUD.search(terminal.summary(run, width=300)))


def by_html(run: Run, _: Path) -> bool:
    page = Page(as_html.render(run))
    alerts = [one for one in page.named("section") if one.get("role") == "alert"]
    return bool(alerts) or any("open" in one for one in page.named("details")) or "EXPIRED" in page.text


def by_tap_py(run: Run, directory: Path) -> bool:
    (directory / "results.tap").write_text(as_tap.render(run))
    result = unittest.TestResult()
    Loader().load_suite_from_file(str(directory / "results.tap")).run(result)
    return not result.wasSuccessful()


def by_junit(run: Run, _: Path) -> bool:
    xml = JUnitXml.fromstring(as_junit.render(run).encode())
    (suite,) = xml
    cases = [case for case in suite if case.is_failure or case.is_error]
    assert len(cases) == xml.failures + xml.errors
    return bool(cases)


def by_junit_verify(run: Run, directory: Path) -> bool:
    (directory / "junit.xml").write_text(as_junit.render(run))
    return bool(verify([str(directory / "junit.xml")]))  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # tap.py leaves its file open
@pytest.mark.parametrize("consumer", [by_json, by_terminal, by_html, by_tap_py, by_junit, by_junit_verify])
@pytest.mark.parametrize("name", RUNS)
def test_every_report_says_whether_the_run_failed(
    name: str, consumer: Callable[[Run, Path], bool], tmp_path: Path
) -> None:
    make, status = RUNS[name]
    run = make()
    assert exit_status(run) == status
    assert consumer(run, tmp_path) == bool(status)


@pytest.mark.host_runtime
@pytest.mark.parametrize("name", RUNS)
def test_node_agrees(name: str, by_node: Read, tmp_path: Path) -> None:  # noqa: F811
    make, status = RUNS[name]
    (tmp_path / "results.tap").write_text(as_tap.render(make()))
    said = by_node(tmp_path / "results.tap")
    assert (said["ok"], said["wrong"]) == (not status, said["wrong"] if status else [])


def test_all_of_them_count_the_same() -> None:
    run = recording(recorded.V2)
    suite = ET.fromstring(as_junit.render(run)).find("testsuite")
    assert suite is not None
    assert [suite.get(key) for key in ("tests", "failures", "errors")] == ["3972", "0", "0"]
    points = [event for event in taps.read(as_tap.render(run).encode()) if isinstance(event, taps.TestPoint)]
    assert Counter((point.ok, point.directive) for point in points) == {
        (True, ""): 3445, (True, "SKIP"): 473, (False, "TODO"): 54,
    }  # fmt: skip
    assert json.loads(to_json(run))["unexpected"] == len(run.unexpected) == 0


# --- results.tap


def test_a_link_in_a_todo_reason_stays_one(tmp_path: Path) -> None:
    run = a_run(PASSING, failing(expected=KNOWN), a_result("B", Verdict.TODO, reason="see a/b.md#c and #4"))
    text = as_tap.render(run)
    assert "# TODO expected: known # see https://github.com/x/y.md#part\n" in text
    assert "# TODO see a/b.md#c and #4\n" in text
    points = [event for event in taps.read(text.encode()) if isinstance(event, taps.TestPoint)]
    assert points[1].reason == f"expected: {KNOWN.reason}"
    lines = [line for line in Loader()._parser.parse_text(text) if line.category == "test"]
    assert [line.directive.reason for line in lines[1:]] == [f"expected: {KNOWN.reason}", "see a/b.md#c and #4"]


def test_what_is_expected_reads_back_as_what_it_was() -> None:
    results = [failing(expected=KNOWN, verdict=verdict) for verdict in Verdict if verdict.bad]
    reading = from_tap(taps.read(as_tap.render(a_run(*results)).encode()))
    assert [result.verdict for result in reading.results] == [result.verdict for result in results]


def test_how_the_output_was_read_and_judged_is_in_every_report() -> None:
    judged = Judged(datetime(2026, 11, 26, 12, tzinfo=UTC), "0.1.0 (1a2b3c4)", {"own.toml": "0123456789abcdef"})
    run = replace(a_run(PASSING), dialects=("bats",), told=("58 files: each line begins with a time",), judged=judged)
    properties = {one.get("name"): one.get("value") for one in ET.fromstring(as_junit.render(run)).iter("property")}
    assert (properties["read as"], properties["told"]) == ("bats", run.told[0])
    assert properties["judged.with"] == "labkit 0.1.0 (1a2b3c4), policy own.toml 0123456789ab"
    for text in (as_tap.render(run), Page(as_html.render(run)).text, terminal.summary(run, width=200)):
        assert "read as" in text and "bats" in text and run.told[0] in text
    for text in (as_tap.render(run), Page(as_html.render(run)).text):
        assert "2026-11-26 12:00:00 UTC by labkit 0.1.0 (1a2b3c4), policy own.toml 0123456789ab" in text


# --- junit.xml


def cases(run: Run) -> list[ET.Element]:
    return ET.fromstring(as_junit.render(run)).findall(".//testcase")


def names(run: Run) -> list[tuple[str | None, str | None]]:
    return [(case.get("classname"), case.get("name")) for case in cases(run)]


@pytest.mark.parametrize("place", [recorded.V1, recorded.V2], ids=["runc", "crun"])
def test_39_no_two_cases_have_one_name(place: Path) -> None:
    run = recording(place)
    assert len(set(names(run))) == len(names(run)) == len(run.results)
    numbers = {name.rpartition(".")[2] for _, name in names(run) if name and re.search(r"\.[0-9]+$", name)}
    assert numbers >= {"2", "3"}
    # As the ids are: what came second in its program is number two, in every run.
    second = next(result for result in run.by_id() if result.id.startswith("delete/") and result.id.endswith(".2"))
    assert (f"validation.{run.runtime.name}.delete", f"{second.name}.2") in names(run)


@pytest.mark.parametrize("given", [["a", "a", "a"], ["a", "a.2", "a"], ["a.2", "a", "a"], ["a", "a", "a.2", "a.2"]])
def test_names_that_look_numbered_are_distinct_too(given: list[str]) -> None:
    run = of_programs(*(replace(a_result(f"p/{n}"), program="p", name=name) for n, name in enumerate(given)))
    assert len(set(names(run))) == len(given)


def test_several_entries_that_have_expired_are_several_cases() -> None:
    run = replace(a_run(PASSING), policy=PolicyNotes(expired=("one", "two")))
    assert len(set(names(run))) == 3


def test_what_each_run_makes_up_is_no_part_of_a_name() -> None:
    one, two = (of_programs(replace(a_result("p/1"), program="p", name=f"/tmp/ocitest{n} is")) for n in (123, 45))
    assert names(one) == names(two)


def test_a_finding_carries_level_reference_and_reason() -> None:
    failures = [{"what": "w", "finding": "bundle-is-absolute", "expected": 1, "actual": 2}]
    result = replace(a_result("A-001", Verdict.FAIL, failures=failures), expected=KNOWN)
    (case,) = cases(a_run(result))
    assert [child.tag for child in case] == ["properties", "skipped"]
    assert {one.get("name"): one.get("value") for one in case.iter("property")} == {
        "id": "A-001",
        "verdict": "fail",
        "level": "MUST",
        "reference": "runtime.md#state",
        "finding": "bundle-is-absolute",
        "policy.reason": KNOWN.reason,
        "policy.link": KNOWN.link,
        "policy.source": KNOWN.source,
    }


def test_the_suite_has_wall_time_a_host_and_facts_that_people_read() -> None:
    run = a_run(*(replace(a_result(f"A-{n:03}"), seconds=50.0) for n in range(5)))
    took = {"10-base": 1.5, "80-agent": 0.25}
    run = replace(run, machine={**run.machine, "name": "debian-13", "bootstrap": took, "machines": ["a", "b"]})
    root = ET.fromstring(as_junit.render(run))
    (suite,) = root
    assert [element.get("time") for element in (root, suite)] == ["60.0", "60.0"]
    assert suite.get("hostname") == "debian-13"
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert {key: value for key, value in properties.items() if key and key.startswith("machine.b")} == {
        "machine.bootstrap.10-base": "1.5", "machine.bootstrap.80-agent": "0.25",
    }  # fmt: skip
    assert properties["machine.machines"] == "a, b"
    assert not [value for value in properties.values() if value and re.search(r"[{}\[\]]|None|True|False", value)]


# What the schemas have in common that Jenkins' xunit plugin (junit-10.xsd, 2014 to 2024) and surefire use: elements,
# their children in any order, their attributes. `properties` in a test case is the one thing beyond them.
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"properties", "skipped", "error", "failure"},
    "property": set(), "skipped": set(), "error": set(), "failure": set(),
}  # fmt: skip
ATTRIBUTES = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname"},
    "properties": set(), "property": {"name", "value"}, "testcase": {"name", "time", "classname"},
    "skipped": {"type", "message"}, "error": {"type", "message"}, "failure": {"type", "message"},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_junit_has_only_what_schemas_have_in_common(name: str) -> None:
    root = ET.parse(io.StringIO(as_junit.render(RUNS[name][0]()))).getroot()
    assert root.tag == "testsuites"
    for element in root.iter():
        assert {child.tag for child in element} <= CHILDREN[element.tag]
        assert set(element.keys()) <= ATTRIBUTES[element.tag]
        if "time" in element.keys():  # noqa: SIM118  elements are no mappings
            assert re.fullmatch(r"[0-9]+\.[0-9]{1,3}", element.attrib["time"])

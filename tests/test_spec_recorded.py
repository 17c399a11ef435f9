"""Recorded runs of the whole spec suite: the policy expects every failure, and the page has every verdict."""

from __future__ import annotations

import lzma
import re
from datetime import date
from pathlib import Path

import pytest

from labkit.results import policy, tap
from labkit.results.model import Run, RuntimeInfo, Verdict
from labkit.suites import registry
from labkit.suites.spec import SUITE, from_tap
from labkit.usecases.run import new_run, with_reading
from tests.conftest import ROOT

RECORDED = {file.name.removesuffix(".tap.xz"): file for file in (ROOT / "tests/recordings/spec").glob("*.tap.xz")}
PAGE = (ROOT / "docs/reference/verdicts.md").read_text()
CELLS = {Verdict.PASS: "", Verdict.FAIL: "fail", Verdict.SKIP: "\u2013"}


def judged(file: Path) -> Run:
    reading = from_tap(tap.read(lzma.decompress(file.read_bytes())))
    machine = {"platform": "debian", "release": "13"}
    run = with_reading(new_run("1", SUITE, machine, RuntimeInfo("unknown", "", ""), None), reading)
    return policy.apply(run, policy.load(suites=registry.names()), date(2026, 11, 27))


@pytest.mark.parametrize("name", RECORDED)
def test_every_failure_is_expected_and_every_entry_met(name: str) -> None:
    run = judged(RECORDED[name])
    assert run.run.reason is None
    assert {result.id for result in run.results} == set(SUITE.names())
    assert [result.id for result in run.results if result.bad and not result.expected] == []
    failed = {result.id for result in run.results if result.verdict is Verdict.FAIL}
    for entry in policy.load(suites=registry.names()):
        if entry.rule.suite == "spec" and entry.rule.runtime == ("youki",) and entry.applies(run):
            assert set(entry.rule.id or ()) & failed, f"{entry.source} is about what did not fail"


@pytest.mark.parametrize("name", RECORDED)
def test_the_page_has_the_verdicts_that_were_recorded(name: str) -> None:
    run = judged(RECORDED[name])
    runtime, _, version = name.partition("-")
    [header] = re.findall(r"^\| id \|.*$", PAGE, re.MULTILINE)
    column = [cell.strip() for cell in header.strip("|").split("|")].index(f"{runtime} {version}")
    lines = [line.strip()[1:-1].split("|") for line in PAGE.splitlines() if re.match(r"\| `[A-Z]+-[0-9]{3}` \|", line)]
    said = {cells[0].strip(" `"): cells[column].strip() for cells in lines}
    found = {result.id: CELLS[result.verdict] for result in run.results}
    assert said == {ident: found[ident] for ident in said}
    assert {ident for ident, cell in found.items() if cell == "fail"} <= set(said)
    counts = [sum(result.verdict is verdict for result in run.results) for verdict in CELLS]
    for verdict, count in zip(CELLS, counts, strict=True):
        [line] = re.findall(rf"^\| {verdict} \|.*$", PAGE, re.MULTILINE)
        assert line.strip("|").split("|")[column].strip() == str(count)

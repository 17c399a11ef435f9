"""The table of requirements, and the checks of the spec suite that stand for its rows."""

from __future__ import annotations

import re

import pytest

from labkit.guest.spec import registry, runner, tap
from labkit.reports.evidence import link
from labkit.results.model import Result
from labkit.results.tap import TestPoint, read
from labkit.suites.spec import result_of

RFC_2119 = {"MUST", "MUST NOT", "REQUIRED", "SHALL", "SHALL NOT", "SHOULD", "SHOULD NOT", "RECOMMENDED", "MAY"}
TABLE = list(registry.REQUIREMENTS.values())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_a_row_is_a_level_a_reference_and_a_sentence(row: registry.Requirement) -> None:
    assert re.fullmatch(r"[A-Z0-9]+-[0-9]{3}", row.id)
    assert row.level in RFC_2119
    assert not row.implied or row.level == "MUST"
    assert row.summary and row.summary == row.summary.strip()
    if ".md" in row.reference:
        assert link(row.reference, "1.2.0")


def printed(ident: str) -> Result:
    """The result that a report has of a check that passed."""
    check = registry.load()[ident]
    text = tap.point(1, runner.result(check, "pass", 0.1, ""), check.requirement.summary)
    (point,) = (event for event in read(text.encode()) if isinstance(event, TestPoint))
    return result_of(point)


def test_a_result_says_what_implies_its_level() -> None:
    assert (printed("STATE-001").level, printed("STATE-001").diagnostic) == ("MUST", {})
    assert printed("PROC-002").level == "MUST"
    assert printed("PROC-002").diagnostic == {"implied": registry.REQUIREMENTS["PROC-002"].implied}

"""Runs of one suite on several runtimes, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.reports import as_table, files
from labkit.results.comparison import SideBySide, side_by_side
from labkit.usecases.run import Outcome

PAGE = "side-by-side.html"  # in the directory of the last run


def beside(outcomes: Sequence[Outcome]) -> SideBySide:
    """Compare the runs, each with the first, and write the page of it."""
    sides = side_by_side([outcome.run for outcome in outcomes])
    files.write(outcomes[-1].directory / PAGE, as_table.html(sides))
    return sides

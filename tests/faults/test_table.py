"""The table, the page that is made of it, and the tests that hold its rows."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import test_others
from tests.faults.page import PATH, ROWS, page
from tests.faults.table import FILE_CASES, SIGNAL_CASES, SIGNALS

HERE = Path(__file__).parent
OTHERS = [row for row in ROWS if row.test.startswith("test_others.py")]


def test_the_page_is_that_of_the_table() -> None:
    assert PATH.read_text() == page(), "python -m tests.faults --write makes it anew"


def test_there_are_enough_rows_each_with_a_name_of_its_own() -> None:
    assert len(ROWS) >= 150
    assert [name for name, number in Counter(row.id for row in ROWS).items() if number > 1] == []


def test_every_stage_meets_every_signal() -> None:
    met: dict[str, set[int]] = {}
    for case in SIGNAL_CASES:
        met.setdefault(f"{case.stage.command[0]} {case.stage.name} {case.before}", set()).add(case.number)
    assert {name for name, numbers in met.items() if numbers != set(SIGNALS)} == set()
    states = {(case.stage.command[0], case.before) for case in SIGNAL_CASES}
    assert states >= {(command, before) for command in ("up", "test") for before in ("new", "halted", "crashed")}


def test_every_file_meets_every_damage() -> None:
    met: dict[str, set[str]] = {}
    for case in FILE_CASES:
        met.setdefault(case.file, set()).add(case.damage)
    assert {file for file, damages in met.items() if len(damages) < 5} == {"reports/latest"}, "a link"


@pytest.mark.parametrize("file", sorted({row.test.partition("::")[0] for row in ROWS}))
def test_every_row_has_its_test(file: str) -> None:
    tree = ast.parse((HERE / file).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {row.test.partition("::")[2] for row in ROWS if row.test.startswith(file)} <= functions


def test_the_other_rows_are_the_other_tests() -> None:
    """With their parameters, as pytest names them."""
    found = set()
    for name, function in vars(test_others).items():
        if name.startswith("test_"):
            ids = [""]
            for mark in getattr(function, "pytestmark", []):
                if mark.name == "parametrize":
                    values = [getattr(value, "values", value) for value in mark.args[1]]
                    ids = [f"[{'-'.join(value) if isinstance(value, tuple) else value}]" for value in values]
            found |= {f"{name.removeprefix('test_')}{ident}" for ident in ids}
    assert {ident.replace("_", "-") for ident in found} == {row.id for row in OTHERS}

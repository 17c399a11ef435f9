"""docs/reference/systems.md has everything that labkit knows as data, and says of it what the data says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from labkit.subjects import runtimes
from tests.conftest import ROOT

PAGE = (ROOT / "docs/reference/systems.md").read_text()
SUBJECTS = ROOT / "labkit/subjects"
FILES = [file for kind in ("runtimes", "engines", "registries") for file in sorted((SUBJECTS / kind).glob("*.toml"))]


def row(name: str, text: str = PAGE) -> list[str]:
    """The cells of a system's row."""
    found = re.findall(rf"^\| `{re.escape(name)}`[^|]*\|(.*)\|$", text, re.MULTILINE)
    assert len(found) == 1, f"{name} has {len(found)} rows"
    return [cell.strip() for cell in found[0].split("|")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_subject_has_a_row_with_its_reason(file: Path) -> None:
    how, why = row(file.stem)
    data = tomllib.loads(file.read_text())
    if none := data.get("none"):
        assert f'"{none}"' in why
        assert "./lab test" not in how
    else:
        assert "./lab test" in how
        assert why


def test_no_row_names_what_is_no_subject() -> None:
    named = re.findall(r"^\| `([^`]+)`", PAGE, re.MULTILINE)
    assert set(named) == {file.stem for file in FILES}


@pytest.mark.parametrize("name", runtimes.names())
def test_figures_of_the_spec_suite_are_those_of_its_page(name: str) -> None:
    """`1.21: 268 pass, 64 fail, 49 skip`, in the table of verdicts."""
    verdicts = (ROOT / "docs/reference/verdicts.md").read_text()
    lines = [re.findall(r"\d+", line) for line in verdicts.splitlines() if re.match(r"\| (pass|fail|skip) \|", line)]
    columns = {tuple(map(int, column)) for column in zip(*lines, strict=True)}
    columns |= {
        tuple(map(int, found)) for found in re.findall(r"(\d+) pass, (\d+) fail, (?:\d+ error, )?(\d+) skip", verdicts)
    }
    said = re.findall(r"(?:on|over) [\d.-]+: (\d+)(?: pass)?, (\d+)(?: fail)?,(?: \d+ error,)? (\d+)", row(name)[1])
    said += re.findall(r"; [\d.]+: (\d+), (\d+), (\d+)", row(name)[1])
    assert {tuple(map(int, one)) for one in said} <= columns
    assert said or name not in ("runc", "crun", "youki", "runsc", "spawn-oci")


def test_rows_that_are_missing_or_say_another_thing_would_be_found() -> None:
    with pytest.raises(AssertionError, match="none has 0 rows"):
        row("none")
    assert row("x", "| `x` (y) | `./lab test` | why |\n") == ["`./lab test`", "why"]

"""labkit's own check, on a checkout of a few tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.cli.selfcheck import Stage, run_all

UNSTEADY = """
from pathlib import Path
def test_unsteady():
    there = Path("there")
    if not there.exists():
        there.touch()
        assert False, "not the first time"
"""
WORDS = ("pytest", "-q", "-rfE", "--numprocesses=2")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    made = tmp_path / "checkout"
    made.mkdir()
    (made / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (made / "test_good.py").write_text("def test_good(): pass\n")
    return made


@pytest.mark.parametrize(
    ("tests", "status", "told"),
    [
        ("", 0, ""),
        (UNSTEADY, 0, "failed beside others, passed alone: test_more.py::test_unsteady"),
        (f"{UNSTEADY}\ndef test_bad(): assert False\n", 1, "some       "),
        ("".join(f"def test_{n}(): assert False\n" for n in range(6)), 1, "6 failed, 1 passed"),
        ("import nothing_like_this\n", 1, "No module named"),
    ],
)
def test_what_fails_counts_if_it_fails_alone(
    checkout: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], tests: str, status: int, told: str
) -> None:
    (checkout / "test_more.py").write_text(tests)
    assert run_all(checkout, [Stage("some", WORDS)], ["nothing"], tmp_path / "place") == status
    said = capfd.readouterr().out
    assert told in said
    assert ("FAILED" in said.splitlines()[-3]) == bool(status)
    assert said.splitlines()[-1] == "left out: nothing"
    assert ("passed alone" in said) == (tests == UNSTEADY)
    assert said.count("$ python -m pytest") == (2 if "unsteady" in tests or "import" in tests else 1)

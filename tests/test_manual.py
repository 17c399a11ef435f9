"""The man page: roff that formatters take without a warning, with all that the tables hold."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from labkit.cli.flags import CORE_FLAGS, FLAGS, spelt
from labkit.core import config
from tests.test_cli import COMMANDS, labkit


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    done = labkit("--print-man-page", environ={"PATH": "/usr/bin:/bin", "HOME": str(directory)}, cwd=directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    (directory / "lab.1").write_text(done.stdout)
    return directory / "lab.1"


def formatted(page: Path) -> str:
    """The page as a terminal shows it, in lines that are long enough for everything."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed here")
    argv = ["groff", "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=2000n", "-rHY=0", str(page)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_groff_formats_it_without_a_warning(page: Path) -> None:
    shown = formatted(page)
    for section in ("NAME", "SYNOPSIS", "OPTIONS", "TASKS", "EXIT STATUS", "ENVIRONMENT", "FILES"):
        assert re.search(rf"^{section}$", shown, re.MULTILINE)


def test_mandoc_has_nothing_against_it(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed here")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, timeout=60)
    said = done.stdout.splitlines()
    assert [line for line in said if "missing date" not in line] == []  # a page for one version has no date of its own


def test_every_task_has_its_words_and_flags(page: Path) -> None:
    shown = formatted(page)
    tasks = shown.partition("\nTASKS\n")[2].partition("\nEXIT STATUS\n")[0]
    parts = dict(re.findall(r"^   lab (\w+)(.*?)(?=^   lab|\Z)", tasks, re.MULTILINE | re.DOTALL))
    assert parts.keys() == COMMANDS.keys()
    for name, part in parts.items():
        command = COMMANDS[name]
        assert command.summary.replace("`", "") in part
        for line in command.doc.splitlines():
            assert line.replace("`", "").strip() in part
        for flag in command.flags:
            assert f"{spelt(flag)} {FLAGS[flag].metavar}".strip() in part
            assert FLAGS[flag].text.replace("`", "") in part
        for word in command.words:
            assert FLAGS[word].text.replace("`", "") in part


def test_everything_else_is_there(page: Path) -> None:
    shown = formatted(page)
    assert all(spelt(flag) in shown for flag in CORE_FLAGS)
    assert all(re.search(rf"^ +{name}\b", shown, re.MULTILINE) for name in config.variables())
    statuses = shown.partition("\nEXIT STATUS\n")[2].partition("\nENVIRONMENT\n")[0]
    assert re.findall(r"^ +(\d+) ", statuses, re.MULTILINE) == ["0", "1", "2", "3", "4", "130"]
    assert {"LABKIT_CONFIG", "labkit.toml", "reports/latest", "XDG_DATA_HOME"} <= set(shown.split())

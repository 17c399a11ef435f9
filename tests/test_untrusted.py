"""A runtime that is marked untrusted gets no machine of User-Mode Linux, whoever marks it and whoever chooses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.observer import Silent
from labkit.io import process
from labkit.machines import choice, providers
from labkit.machines.qemu import QemuMachine
from labkit.subjects import runtimes
from labkit.suites.base import SilentRun
from labkit.usecases import machines
from labkit.usecases.run import run_cell
from tests.test_asked import qemu
from tests.test_cell import CELL
from tests.test_walk import uml

MARKS: dict[str, tuple[str, dict[str, str], dict[str, object], str]] = {
    "file": ("untrusted = true\n", {}, {}, "untrusted in {}/labkit.toml"),
    "variable": ("", {"LABKIT_UNTRUSTED": "true"}, {}, "LABKIT_UNTRUSTED"),
    "flag": ("", {}, {"untrusted": True}, "--untrusted"),
}


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Vagrant, and nothing that a machine could be made with."""
    monkeypatch.setattr(process, "_path", lambda: "/nowhere")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime whose own file marks it."""
    directory = tmp_path / "runtimes"
    directory.mkdir()
    text = 'title = "evil"\nhomepage = "https://example.org"\nbinary = "evil"\n'
    (directory / "evil.toml").write_text(f"{text}untrusted = true\n")
    (directory / "mild.toml").write_text(text)
    monkeypatch.setitem(runtimes._DIRECTORIES, runtimes.Role.RUNTIME, directory)


def load(directory: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> Settings:
    (directory / "labkit.toml").write_text(text)
    return config.load(flags, cwd=directory, environ={"HOME": str(directory), **(environ or {})})


def chosen(settings: Settings) -> tuple[str, str]:
    return choice.best(settings, settings.distro(), Silent())


@pytest.mark.parametrize("mark", MARKS)
def test_auto_takes_qemu_and_says_who_marked_the_runtime(tmp_path: Path, mark: str) -> None:
    text, environ, flags, who = MARKS[mark]
    provider, why = chosen(load(tmp_path, text, environ, **flags))
    assert provider == "qemu"
    wanted = f"the runtime is marked untrusted ({who.format(tmp_path)}), and User-Mode Linux is no wall"
    assert why.endswith(wanted)


@pytest.mark.usefixtures("hostile")
def test_a_runtime_can_be_marked_in_its_file(tmp_path: Path) -> None:
    provider, why = chosen(load(tmp_path, 'runtime = "evil"\n'))
    assert provider == "qemu"
    assert "the runtime evil is marked untrusted in its file" in why
    assert runtimes.find("evil").to_json()["untrusted"] is True
    for name in ("mild", "/usr/bin/evil", "there-is-none"):  # of a path nothing is known
        assert choice.untrusted(load(tmp_path, f'runtime = "{name}"\n')) == ""


def test_nothing_is_marked_by_default(tmp_path: Path) -> None:
    assert choice.untrusted(load(tmp_path)) == ""
    assert not any(runtimes.find(name).untrusted for name in runtimes.names())


def test_a_uml_machine_is_neither_made_nor_used(tmp_path: Path) -> None:
    settings = load(tmp_path, 'untrusted = true\nprovider = "uml"\n')
    with pytest.raises(UsageError, match="the uml provider makes machines of User-Mode Linux") as caught:
        machines.up(settings, Silent())
    assert caught.value.hint == "--provider qemu makes a machine that is a wall"
    assert not settings.home.machine("debian-13").exists()
    uml(settings, "debian-13")
    settings = load(tmp_path, "untrusted = true\n")
    with pytest.raises(UsageError, match="machine debian-13 is of User-Mode Linux, whose guests can become") as caught:
        machines.up(settings, Silent())
    assert caught.value.hint == "--provider qemu and another name with --machine makes a machine that is a wall"


@pytest.mark.usefixtures("hostile")
def test_the_runtime_of_the_cell_counts(tmp_path: Path) -> None:
    """A cell may come from elsewhere than these settings."""
    settings = load(tmp_path)
    uml(settings, "m")
    with pytest.raises(UsageError, match="the runtime evil is marked untrusted in its file, and machine m is of User"):
        run_cell(replace(CELL, runtime="evil"), settings, SilentRun(), None)


def test_qemu_takes_it(tmp_path: Path) -> None:
    settings = load(tmp_path, "untrusted = true\n")
    qemu(settings, "mine")
    assert isinstance(providers.wanted("mine", settings, Silent(), settings.distro()), QemuMachine)

"""Settings: one precedence, and messages that name where a bad value came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import UsageError


def load(directory: Path, toml: str | None = None, flags: dict[str, object] | None = None, **environ: str) -> Settings:
    if toml is not None:
        (directory / "labkit.toml").write_text(toml)
    return config.load(flags, cwd=directory, environ={"HOME": "/home/me", **environ})


def complaint(directory: Path, toml: str | None = None, flags: dict[str, object] | None = None, **environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(directory, toml, flags, **environ)
    return caught.value.message.replace(f"{directory}/", "")


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.platform, settings.release, settings.runtime, settings.suite) == ("debian", None, "runc", "spec")
    assert (settings.machine.memory, settings.machine.disk) == (2048, 8192)
    assert settings.home.path == Path("/home/me/.local/share/labkit")
    assert settings.reports == tmp_path / "reports"


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    toml = 'platform = "fedora"\nruntime = "crun"\nsuite = "a"\n[machine]\ncpus = 3\nmemory = "1G"\n'
    environ = {"LABKIT_RUNTIME": "youki", "LABKIT_SUITE": "b", "LABKIT_MACHINE_MEMORY": "3G", "LABKIT_YES": ""}
    settings = load(tmp_path, toml, {"suite": "c", "machine": "mine", "release": None, "yes": False}, **environ)
    assert (settings.platform, settings.runtime, settings.suite) == ("fedora", "youki", "c")
    assert (settings.machine.cpus, settings.machine.memory, settings.machine.name) == (3, 3072, "mine")
    assert not settings.yes


def test_the_nearest_file_upwards_counts_and_its_paths_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "labkit.toml").write_text('home = "state"\nplatforms = "~/mine"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = load(below, LABKIT_REPORTS="out")
    assert settings.home.path == tmp_path / "state"
    assert settings.platforms == Path("/home/me/mine")
    assert settings.reports == below / "out"
    assert load(below, 'policy = "mine"').policy == below / "mine"
    assert load(below, LABKIT_POLICY="~/mine.toml").policy == Path("/home/me/mine.toml")


def test_a_named_file_counts_instead(tmp_path: Path) -> None:
    (tmp_path / "labkit.toml").write_text('platform = "fedora"')
    (tmp_path / "other.toml").write_text('platform = "ubuntu"')
    assert load(tmp_path, LABKIT_CONFIG="other.toml").platform == "ubuntu"
    assert complaint(tmp_path, LABKIT_CONFIG="none.toml") == "LABKIT_CONFIG names none.toml, which does not exist"


def test_the_data_directory_of_xdg(tmp_path: Path) -> None:
    assert load(tmp_path, XDG_DATA_HOME="/data").home.path == Path("/data/labkit")
    assert load(tmp_path, XDG_DATA_HOME="data").home.path == Path("/home/me/.local/share/labkit")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('platfrom = "x"', "labkit.toml: unknown key platfrom; did you mean 'platform'?"),
        ("[machine]\ncpu = 1", "labkit.toml: unknown key machine.cpu; did you mean 'cpus'?"),
        ("[machine]\ncpus = 0", "labkit.toml: machine.cpus is 0, must be a whole number from 1 to 256"),
        ("[machine]\ncpus = true", "labkit.toml: machine.cpus is true, must be a number"),
        ("[machine]\nmemory = 2048", "labkit.toml: machine.memory is 2048, must be a size from 256M to 1024G"),
        ('[machine]\ndisk = "1G"', "labkit.toml: machine.disk is '1G', must be a size from 2G to 16384G"),
        ('[machine]\nname = "a\\nb"', "labkit.toml: machine.name is 'a\\nb', must be a name: a-z"),
        ("[limits]\nboot = inf", "labkit.toml: limits.boot is inf, must be seconds: above 0, at most 86400"),
        ("[limits]\nboot = nan", "labkit.toml: limits.boot is nan, must be seconds: above 0, at most 86400"),
        ("release = 13", 'labkit.toml: release is 13, must be a release in quotes, such as "13"'),
        (
            'provider = "qmeu"',
            "labkit.toml: provider is 'qmeu', must be 'auto', 'qemu', 'uml', 'vagrant' or 'ssh'; did you mean 'qemu'?",
        ),
        ('mirror = "ftp://x"', "labkit.toml: mirror is 'ftp://x', must be the http(s) address of a mirror"),
        ('machine = "mine"', "labkit.toml: machine is 'mine', must be a table: [machine]"),
        ("home = 3", "labkit.toml: home is 3, must be a path"),
        ("a = = 1", "labkit.toml:1:5: is not TOML: Invalid value"),
        ('a = 1\nb = "', "labkit.toml:2:6: is not TOML: Unterminated string"),
    ],
)
def test_a_bad_file_is_named_with_key_value_and_what_is_allowed(tmp_path: Path, toml: str, message: str) -> None:
    assert complaint(tmp_path, toml).startswith(message)


def test_every_bad_value_is_told_at_once(tmp_path: Path) -> None:
    lines = complaint(tmp_path, "release = 13", {"jobs": "many"}, LABKIT_MACHINE_CPUS="few").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["labkit.toml", "--jobs", "LABKIT_MACHINE_CPUS"]


def test_an_unknown_variable_is_told_with_the_nearest_known(tmp_path: Path) -> None:
    assert complaint(tmp_path, LABKIT_PLATFROM="x") == (
        "unknown variable LABKIT_PLATFROM; did you mean 'LABKIT_PLATFORM'?"
    )


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "labkit.toml").write_bytes(b"a = '\xff'")
    assert complaint(tmp_path) == "labkit.toml: is not UTF-8 text (byte 5)"


def test_settings_do_not_change(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).platform = "x"

"""The documentation says what is so: links, paths, keys, statuses, states and commands are those of the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.parser import Parser
from pydantic import BaseModel

import labkit
from labkit.cli import program
from labkit.cli.flags import with_flags
from labkit.core import config, errors, platforms
from labkit.core.home import Home
from labkit.core.tomlfile import Table
from labkit.machines.base import MachineState
from labkit.provision.bootstrap import Target
from labkit.results.model import Verdict
from tests.conftest import ROOT

FILES = [file for place in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "tests/**/*.md") for file in ROOT.glob(place)]
PAGES = {str(file.relative_to(ROOT)): file.read_text() for file in FILES}
# Where old names stand for what was.
HISTORY = {"CHANGELOG.md"}


def page(name: str) -> str:
    return PAGES[f"docs/reference/{name}.md"]


def outside_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of that language."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in body.splitlines()) for indent, body in found]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", outside_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(name: str, text: str) -> list[str]:
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            found.append(target)
    return found


def missing_paths(text: str) -> list[str]:
    """Files of the checkout, and modules of labkit, that the text names and that are not there."""
    places = "labkit|tests|bootstrap|platforms|templates|benchmarks|docs"
    paths = re.findall(rf"(?<![\w./-])(?:{places})/[\w./-]*\w/?", text)
    found = [path for path in paths if not (ROOT / path).exists() and "NAME" not in path and "NN-" not in path]
    for name in re.findall(r"(?<![\w./-])labkit(?:\.[a-z_]+)+(?![\w/-]|\.[a-z])", text):
        module, _, attribute = name.rpartition(".")
        if name.endswith(".toml") or importlib.util.find_spec(module) is None:
            found += [] if name.endswith(".toml") else [name]
        elif importlib.util.find_spec(name) is None and not hasattr(importlib.import_module(module), attribute):
            found.append(name)
    return found


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_link_leads_somewhere(name: str) -> None:
    assert broken_links(name, PAGES[name]) == []


@pytest.mark.parametrize("name", sorted(set(PAGES) - HISTORY))
def test_every_file_and_module_that_is_named_is_there(name: str) -> None:
    assert missing_paths(PAGES[name]) == []


def test_each_of_these_can_fail() -> None:
    assert broken_links("README.md", "[a](docs/none.md) [b](README.md#nowhere) [c](#none)") == [
        "docs/none.md",
        "README.md#nowhere",
        "#none",
    ]
    assert missing_paths("`labkit/late.py`, `labkit/core/`, labkit.late, `labkit.core.text`, labkit.toml") == [
        "labkit/late.py",
        "labkit.late",
    ]


# --- configuration


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in ((field.alias or name, field) for name, field in model.model_fields.items()):
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Table):
            found += keys(kind, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def rows(text: str) -> list[tuple[str, ...]]:
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in lines]


SETTINGS = [row for row in rows(page("configuration")) if len(row) == 4]


def test_the_reference_has_every_key_of_the_configuration_and_its_variable() -> None:
    assert [row[0] for row in SETTINGS] == keys(config.Settings)
    assert [row[1] for row in SETTINGS] == [f"LABKIT_{key.replace('.', '_').upper()}" for key in keys(config.Settings)]


def test_the_defaults_of_the_reference_are_those_of_the_code(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    plain = config.load(cwd=tmp_path, environ=environ)
    (tmp_path / config.FILE).write_text("".join(f"{row[0]} = {row[2]}\n" for row in SETTINGS if row[2]))
    assert config.load(cwd=tmp_path, environ=environ).model_dump() == plain.model_dump()
    for key in (row[0] for row in SETTINGS if not row[2]):
        value: object = plain.model_dump(by_alias=True)
        for part in key.split("."):
            assert isinstance(value, dict)
            value = value[part]
        assert value is None, key


@pytest.mark.parametrize(
    ("name", "block"),
    [
        (name, block)
        for name, text in PAGES.items()
        for block in blocks(text, "toml")
        if name.endswith(("README.md", "proxy.md", "host.md", "gapped.md"))
    ],
)
def test_the_settings_in_the_pages_are_accepted(tmp_path: Path, name: str, block: str) -> None:
    (tmp_path / config.FILE).write_text(block)
    config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if blocks(text, "toml")])
def test_every_toml_block_is_toml(name: str) -> None:
    for block in blocks(PAGES[name], "toml"):
        tomllib.loads(block)


def test_the_policy_entry_in_the_pages_is_one(tmp_path: Path) -> None:
    from labkit.results import policy

    [block] = blocks(PAGES["docs/how-to/write-a-policy.md"], "toml")
    (tmp_path / "policy.toml").write_text(block)
    assert policy.load(tmp_path / "policy.toml")[0].own


def test_the_platform_in_the_pages_is_one(tmp_path: Path) -> None:
    [block] = blocks(PAGES["docs/how-to/add-a-platform.md"], "toml")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / platforms.FILE).write_text(block.replace('"..."', f'"{"0" * 64}"'))
    assert platforms.load("mine", [tmp_path]).title == "Debian"


# --- the other closed lists


def test_every_exit_status_is_described() -> None:
    kinds = [errors.LabError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    signals = [128 + errors.Interrupted(number).signum for number in (1, 15)]
    statuses = {kind.exit_status for kind in kinds} | {0, 1, 4, 130, 141, *signals}
    described = {
        int(number)
        for row in re.findall(r"^\| ([\d, ]+) \|", page("exit-statuses"), re.MULTILINE)
        for number in row.split(",")
    }
    assert described == statuses


def test_every_state_of_a_machine_is_described() -> None:
    assert {row[0] for row in rows(page("machine-states"))} == set(MachineState)


def test_every_key_of_a_platform_is_described() -> None:
    text = page("platform-file")
    models = (platforms.Platform, platforms.Release, platforms.Build, platforms.CloudImage, platforms.Box)
    names = {name for model in models for name in model.model_fields} - {"name", "releases"}
    assert [name for name in sorted(names) if not re.search(rf"[`.]{name}[`.]", text)] == []
    assert [provider for provider in platforms.VagrantProvider if f"`{provider}`" not in text] == []


def test_every_head_of_a_step_and_kind_of_machine_is_described() -> None:
    text = page("bootstrap-steps")
    heads = {
        head
        for file in (ROOT / "bootstrap").glob("[0-9]*.sh")
        for head in re.findall(r"^# ([a-z]+): ", file.read_text(), re.M)
    }
    assert {head for head in heads if f"# {head}: " not in text} == set()
    assert {row[0] for row in rows(text) if row[0] in set(Target)} == set(Target)


def test_every_directory_of_the_home_is_described() -> None:
    home = Home(Path("/home"))
    parts = [name for name, value in vars(Home).items() if isinstance(value, property)]
    assert [name for name in parts if f"    {getattr(home, name).name}/" not in page("files")] == []


def test_every_package_is_in_the_table_of_the_architecture() -> None:
    from tests.test_layers import PACKAGES

    found = [row[0] for row in rows(PAGES["docs/explanation/architecture.md"])]
    assert found == [f"labkit/{name}/" for name in PACKAGES]


def test_the_glossary_has_the_words_that_everything_else_uses() -> None:
    glossary = PAGES["README.md"].partition("## Words")[2].partition("\n## ")[0]
    assert [
        word for word in ("platform", "machine", "suite", "verdict", "policy", "cell") if f"| {word}" not in glossary
    ] == []
    assert [verdict for verdict in Verdict if verdict not in glossary] == []


# --- commands


def commands(text: str) -> list[list[str]]:
    """The words of each `./lab ...` in a console block or between backticks, without those after `--`."""
    shown = [line for block in blocks(text, "console") for line in block.splitlines() if "./lab" in line]
    shown += re.findall(r"`([^`\n]*\./lab [^`\n]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    found = []
    for line in shown:
        for call in re.findall(r"\./lab ((?:[^#|&;()<>]|\|(?=\S))*)", line):
            words = shlex.split(call.replace("[", "").replace("]", "").replace("...", ""))
            found.append(words[: words.index("--")] if "--" in words else words)
    return [words for words in found if words]


def parsed(words: list[str]) -> None:
    """Raises where no task has these words and flags; Invoke knows them from the table in labkit/cli/flags.py."""
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "tasks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tasks = Collection.from_module(module)
    Parser(contexts=tasks.to_contexts()).parse_argv(with_flags(words, program.commands(tasks)))


EXAMPLES = [(name, words) for name, text in PAGES.items() if name not in HISTORY for words in commands(text)]
PLACEHOLDERS = {
    "COMMAND",
    "TASK",
    "--list",
    "--help",
    "--version",
    "--print-completion-script",
    "--print-man-page",
    "--complete",
}


@pytest.mark.parametrize(
    ("name", "words"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_every_command_in_the_pages_is_one(name: str, words: list[str]) -> None:
    if words[0] not in PLACEHOLDERS:
        parsed([word for word in words if word != "--help"])


def test_a_command_that_is_none_would_be_found() -> None:
    assert len(EXAMPLES) > 40
    for words in (["tset"], ["test", "--runtmie", "runc"], ["judge"]):
        with pytest.raises(ParseError):
            parsed(words)


def test_the_license_is_the_one_that_the_metadata_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    assert Path(labkit.__file__).with_name("py.typed").exists()


def test_the_matrix_of_verdicts_has_every_check_that_a_known_runtime_fails() -> None:
    rows = set(re.findall(r"^\| `([A-Z]+-[0-9]{3})` \|.*\bfail\b", PAGES["docs/reference/verdicts.md"], re.MULTILINE))
    elsewhere = {  # on other kernels, in other versions, without root
        "CG-008", "CG-014", "CG-019", "CG-020", "CG-021", "MOUNT-001", "NETDEV-006", "NETDEV-009", "NS-007",
        "SCHED-004", "SCHED-009",
    }  # fmt: skip
    from labkit.results import policy

    known = {ident for entry in policy.load() if entry.rule.suite == "spec" for ident in entry.rule.id or ()}
    assert known - elsewhere <= rows

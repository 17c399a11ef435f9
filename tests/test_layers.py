"""Imports point downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import labkit

PACKAGE = Path(labkit.__file__).parent

# From the top down; a module may import what stands in a lower row, and its own row.
LAYERS = [
    {"front", "__main__", "console", "selfcheck"},
    {"testing", "exports"},
    {"lab"},
    {"judging"},
    {"runs"},
    {"machines.qemu", "machines.vagrant", "machines.host"},
    {"machines.providers", "boxes"},
    {"doctor"},
    {"building"},
    {"machines.launch"},
    {"images"},
    {
        "machines.agent",
        "machines.accelerator",
        "machines.identity",
        "machines.hardware",
        "machines.kept",
        "machines.keys",
        "machines",
    },
    {"vagrant", "provision"},
    {"suites", "suites.spec", "suites.validation", "suites.runtimetest", "reports", "runtimes", "bootstrap"},
    {"verdicts", "policy", "comparison"},
    {"ssh", "qmp", "download", "process", "platforms", "render", "results", "observer"},
    {"suites.labkit_spec", "suites.labkit_programs", "grub"},
    {
        "files",
        "seed",
        "endpoint",
        "tap",
        "config",
        "sources",
        "tomlfile",
        "words",
        "deadline",
        "resources",
        "pyz",
        "late",
    },
    {"errors", "text"},
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}


def _layer(module: str) -> str:
    """The name in LAYERS that stands for a dotted module below labkit."""
    while module not in RANK:
        module = module.rpartition(".")[0]
        assert module, "a module has no layer: add it to LAYERS"
    return module


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / Path(*dotted.split("."))).with_suffix(".py").exists()
                is_package = (PACKAGE.parent / Path(*dotted.split("."))).is_dir()
                found.add(dotted if is_module or is_package else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "late.module":
            (name,) = node.args
            if isinstance(name, ast.Constant):
                found.add(f"labkit.{name.value}")
    return {name.removeprefix("labkit.") for name in found if name.startswith("labkit.")}


IN_THE_MACHINE = ("labkit_spec", "labkit_programs")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not set(IN_THE_MACHINE) & set(path.parts))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    if name == "__init__":
        return
    mine = _layer(name)
    for other in _imports(path):
        theirs = _layer(other)
        same_family = theirs.split(".")[0] == mine.split(".")[0]
        assert RANK[theirs] > RANK[mine] or same_family or RANK[theirs] == RANK[mine], f"{mine} imports {theirs}"


@pytest.mark.parametrize("name", IN_THE_MACHINE)
def test_what_runs_in_the_machine_imports_nothing_of_labkit(name: str) -> None:
    paths = list((PACKAGE / "suites" / name).rglob("*.py"))
    assert paths
    for path in paths:
        assert not _imports(path), path


def test_only_the_seams_start_programs_and_speak_ssh() -> None:
    seams = {
        "subprocess": {"process.py"},
        "paramiko": {"ssh.py"},
        "fabric": {"ssh.py"},
        "qemu": {"qmp.py"},
        "vagrant": {"vagrant.py"},
    }
    for path in MODULES:
        tree = ast.parse(path.read_text())
        roots = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
        }
        for library, allowed in seams.items():
            assert library not in roots or path.name in allowed, f"{path} imports {library}"

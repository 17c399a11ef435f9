"""Imports point downwards only, between packages and inside them, and only the seams touch what lies outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import labkit

ROOT = Path(labkit.__file__).parent
# From the top down: a package may import those below it, and itself.
PACKAGES = [
    "cli", "usecases", "matrix", "reports", "store", "suites", "machines", "images", "provision", "host", "uml", "qemu",
    "subjects", "results", "guest", "io", "core",
]  # fmt: skip
RANK = {name: rank for rank, name in enumerate(PACKAGES)}
# What reaches outside, and the one module that may name it.
SEAMS = {
    "subprocess": "labkit.io.process",
    "os.execv": "labkit.io.process",
    "os.execve": "labkit.io.process",
    "os.execvp": "labkit.io.process",
    "os.execvpe": "labkit.io.process",
    "os.execl": "labkit.io.process",
    "os.execlp": "labkit.io.process",
    "os.execle": "labkit.io.process",
    "os.posix_spawn": "labkit.io.process",
    "os.posix_spawnp": "labkit.io.process",
    "os.fork": "labkit.io.process",
    "os.forkpty": "labkit.io.process",
    "pty": "labkit.io.process",
    "os.system": "labkit.io.process",
    "os.popen": "labkit.io.process",
    "paramiko": "labkit.io.ssh",
    "fabric": "labkit.io.ssh",
    "urllib3": "labkit.io.download",
    "urllib.request": "labkit.io.tell",
    "http.client": "labkit.io.tell",
    "smtplib": "labkit.io.tell",
    "apprise": "labkit.io.tell",
    "vagrant": "labkit.io.vagrant",
    "qemu": "labkit.qemu.monitor",
    "distributed": "labkit.matrix.cluster",
    "dask": "labkit.matrix.cluster",
}
GUEST = "labkit.guest."
APART = "labkit.uml.sandbox"  # a program of its own, too, on this host


def name_of(path: Path, root: Path = ROOT) -> str:
    return ".".join(("labkit", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")


def sources(root: Path = ROOT) -> dict[str, ast.Module]:
    """The modules below root, by their full names."""
    return {name_of(path, root): ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}


def imported(module: str, tree: ast.Module, known: Mapping[str, object]) -> Iterator[str]:
    """The full names that a module imports, anywhere in it: of ours the module, of others whatever stands there."""
    package = module if any(name.startswith(f"{module}.") for name in known) else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in known or not base.startswith("labkit") else base


def graph(modules: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Module to the modules of ours that it imports. A package's own __init__, which its modules load, counts for what
    it imports itself.
    """
    return {
        name: {other for other in imported(name, tree, modules) if other in modules and other != name}
        for name, tree in modules.items()
    }


def upward(edges: Mapping[str, set[str]]) -> list[str]:
    """Imports that run back up, from one package to one above it."""
    found = []
    for name, others in edges.items():
        for other in others:
            mine, theirs = (f"{module}.".split(".")[1] for module in (name, other))
            if mine in RANK and theirs in RANK and RANK[theirs] < RANK[mine]:
                found.append(f"{name} imports {other}")
            elif mine in RANK and theirs not in RANK and other != "labkit":
                found.append(f"{name} imports {other}, which is in no package")
    return found


def touched(tree: ast.Module) -> set[str]:
    """Dotted names that a module imports or uses: `os.execv` of `import os`, and of `from os import execv`."""
    nodes = list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    uses = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    return found | {use for use in uses if use.partition(".")[0] in found}


def outside_seams(modules: Mapping[str, ast.Module]) -> list[str]:
    found = []
    for name, tree in modules.items():
        if name.startswith(GUEST) or name == APART:
            continue  # programs of their own
        for word in touched(tree):
            for seam, owner in SEAMS.items():
                if (word == seam or word.startswith(f"{seam}.")) and name != owner:
                    found.append(f"{name} names {word}, which is {owner}'s")
    return found


MODULES = sources()


def test_every_module_is_in_a_package_of_the_list() -> None:
    tops = {name.split(".")[1] for name in MODULES if "." in name}
    assert tops == {*PACKAGES, "__main__"}
    entries = [path for path in ROOT.iterdir() if path.name not in ("__pycache__", "_shipped")]
    assert len(entries) <= 22, sorted(path.name for path in entries)


def test_no_import_runs_back_up() -> None:
    assert upward(graph(MODULES)) == []


def test_there_is_no_circle() -> None:
    assert list(TopologicalSorter(graph(MODULES)).static_order())


def test_only_the_seams_reach_outside() -> None:
    assert outside_seams(MODULES) == []


def test_what_runs_in_a_machine_imports_nothing_but_itself_and_what_is_shared() -> None:
    edges = graph(MODULES)
    for program in ("labkit.guest.spec", "labkit.guest.programs", "labkit.guest.spy", "labkit.guest.common"):
        mine = {name: others for name, others in edges.items() if f"{name}.".startswith(f"{program}.")}
        assert mine
        allowed = (f"{program}.", "labkit.guest.common.")
        for name, others in mine.items():
            assert all(f"{other}.".startswith(allowed) for other in others), f"{name} imports {others}"


@pytest.mark.parametrize(
    ("module", "line", "wrong"),
    [
        ("core.text", "from labkit.io import process", "labkit.core.text imports labkit.io.process"),
        ("qemu.hardware", "from labkit.machines import qemu", "labkit.qemu.hardware imports labkit.machines.qemu"),
        ("results.model", "def f():\n    import labkit.suites.spec", "labkit.results.model imports labkit.suites.spec"),
        ("io.files", "from ..store.runs import load", "labkit.io.files imports labkit.store.runs"),
        ("machines.base", "from labkit.machines.qemu import QemuMachine", "circle"),
        ("core.errors", "from labkit.core import config", "circle"),
        ("qemu.hardware", "import qemu.qmp", "labkit.qemu.hardware names qemu.qmp, which is labkit.qemu.monitor's"),
        ("machines.process", "import subprocess", "labkit.machines.process names subprocess, which is"),
        ("core.text", "import os\nos.execvp('x', ['x'])", "labkit.core.text names os.execvp, which is"),
        ("cli.flags", "from os import execv", "labkit.cli.flags names os.execv, which is"),
        ("reports.ssh", "from paramiko.client import SSHClient", "labkit.reports.ssh names paramiko.client"),
    ],
)
def test_each_of_these_can_fail(module: str, line: str, wrong: str) -> None:
    name = f"labkit.{module}"
    old = ast.unparse(MODULES[name]) if name in MODULES else ""
    changed = {**MODULES, name: ast.parse(f"{old}\n{line}\n")}
    found = upward(graph(changed)) + outside_seams(changed)
    if wrong == "circle":
        with pytest.raises(CycleError):
            list(TopologicalSorter(graph(changed)).static_order())
    else:
        assert any(said.startswith(wrong) for said in found), found

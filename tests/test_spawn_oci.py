"""spawn-oci gives systemd-nspawn the OCI commands: what it refuses here, and a container in a machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labkit.guest import shims
from tests.conftest import Lab
from tests.stock import Stock

SHIM = shims.file("spawn_oci.py")
CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.0",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["/bin/sh", "-c", "echo it runs; exec sleep 60"],
        "env": ["PATH=/bin"],
        "cwd": "/",
    },
    "root": {"path": "rootfs"},
    "hostname": "x",
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    for name in ("bin", "usr", "proc"):
        (directory / "rootfs" / name).mkdir(parents=True)
    write(directory)
    return directory


def write(bundle: Path, **more: object) -> None:
    (bundle / "config.json").write_text(json.dumps({**CONFIG, **more}))


def spawn(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Its stdout and stderr are files: a container keeps them open."""
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        argv = [sys.executable, str(SHIM), "--root", str(tmp_path / "root"), *words]
        done = subprocess.run(argv, stdout=stdout, stderr=stderr, timeout=90, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, out.read_text(), err.read_text())


def state(tmp_path: Path, ident: str = "c") -> dict[str, Any]:
    told: dict[str, Any] = json.loads(spawn(tmp_path, "state", ident).stdout)
    return told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "a command is missing"),
        (["run", "c"], "unknown word 'run'"),
        (["state"], "takes an id"),
        (["state", "../x"], "is not a container id"),
        (["state", "c"], "there is no container c"),
        (["kill", "c", "NOPE"], "unknown signal 'NOPE'"),
        (["create", "--console-socket", "s", "c"], "create has no option --console-socket"),
        (["create", "--bundle", "/nowhere", "c"], "/nowhere/config.json: No such file or directory"),
    ],
)
def test_what_it_refuses(tmp_path: Path, words: list[str], expected: str) -> None:
    done = spawn(tmp_path, *words)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("systemd-nspawn"), reason="not installed: systemd-nspawn")
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"root": {"path": "none"}}, "none is not a directory"),
        ({"root": None}, "has no root.path"),
        ({"process": {"terminal": True}}, "a terminal cannot be handed over"),
    ],
)
def test_a_config_that_create_refuses(tmp_path: Path, bundle: Path, more: dict[str, Any], expected: str) -> None:
    write(bundle, **more)
    done = spawn(tmp_path, "create", "--bundle", str(bundle), "c")
    assert (done.returncode, expected in done.stderr) == (1, True), done.stderr
    assert spawn(tmp_path, "state", "c").returncode == 1


@pytest.mark.skipif(not shutil.which("systemd-nspawn"), reason="not installed: systemd-nspawn")
def test_a_created_container_waits_and_can_be_deleted(tmp_path: Path, bundle: Path) -> None:
    assert spawn(tmp_path, "create", "--bundle", str(bundle), "--pid-file", str(tmp_path / "pid"), "c").returncode == 0
    told = state(tmp_path)
    assert (told["status"], told["id"], told["bundle"]) == ("created", "c", str(bundle))
    assert told["pid"] == int((tmp_path / "pid").read_text())
    assert "already" in spawn(tmp_path, "create", "--bundle", str(bundle), "c").stderr
    assert "is created, not stopped" in spawn(tmp_path, "delete", "c").stderr
    assert spawn(tmp_path, "delete", "--force", "c").returncode == 0
    assert not Path(f"/proc/{told['pid']}/ns").exists() or "Z" in Path(f"/proc/{told['pid']}/stat").read_text()
    assert not (tmp_path / "root/c").exists()


@pytest.mark.machine
def test_a_container_from_create_to_delete(lab: Lab, stock: Stock) -> None:
    """In a machine, with the platform's systemd-nspawn sent beside it. It is systemd that makes its cgroups."""
    if stock.why_not:
        pytest.skip(stock.why_not)
    words = ("test", "--provider", "uml", "--machine", "with-systemd", "--runtime", "spawn-oci", "--only", "STATE-001")
    done = lab.run(*words, status=None, env={"LABKIT_MACHINE_INIT": "systemd"})
    assert done.returncode in (0, 1), done.stderr
    assert "spawn-oci 1.0" in done.stdout
    assert "1 pass" in done.stdout

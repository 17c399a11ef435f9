"""An installed labkit works outside a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import recorded
from tests.conftest import ROOT

pytestmark = pytest.mark.bootstrap


def test_the_wheel_brings_everything_it_needs(tmp_path: Path) -> None:
    build: list[str | Path] = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("oci_labkit-*.whl")
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "labkit/py.typed" in names
    assert {"labkit/uml/start.sh", "labkit/uml/small.sh", "labkit/uml/systemd.sh", "labkit/io/ring.py"} <= {*names}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    install: list[str | Path] = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel]
    subprocess.run(install, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(target), "LABKIT_HOME": str(tmp_path / "home")}

    def labkit(*words: str) -> str:
        argv = [sys.executable, "-m", "labkit", *words]
        return subprocess.run(argv, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout

    assert "debian" in labkit("platforms")
    for shell in ("bash", "zsh", "fish"):
        assert f"{sys.executable} -I -m labkit" in labkit("--print-completion-script", shell)
    made = labkit("render", "--platform", "debian", "--out", "out").split()
    assert made
    assert all(str(tmp_path) in path or path.startswith("out/") for path in made)
    program = Path(labkit("suites", "--export", str(tmp_path)).strip())
    listed = subprocess.run([sys.executable, program, "--list"], check=True, capture_output=True, text=True).stdout
    assert len(listed.splitlines()) >= 60
    assert "58 programs" in labkit("judge", str(recorded.V2)), "with the policies that expect all its failures"

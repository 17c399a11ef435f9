"""Engines in a real machine: two of them over crun, and one over strict; and what engines and others make of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Lab, make_lab
from tests.stock import Stock

pytestmark = [pytest.mark.machine, pytest.mark.long]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    for made in make_lab(tmp_path_factory.mktemp("engines"), provider="uml", stock=stock):
        (made.cwd / "labkit.toml").write_text('tools = ["podman", "containerd", "image-tools", "busybox", "python"]\n')
        made.run("up", timeout=1200)
        yield made


def of(lab: Lab, engine: str, runtime: str, *words: str, status: int = 0) -> dict[str, Any]:
    argv = ["test", "--suite", "engine", "--engine", engine, "--runtime", runtime, *words]
    lab.run(*argv, status=status, timeout=1800)
    found: dict[str, Any] = lab.results()
    assert found["run"]["complete"] and found["engine"]["name"] == engine and found["engine"]["version"]
    return found


@pytest.mark.parametrize("engine", ["podman", pytest.param("containerd", marks=pytest.mark.slow)])
def test_an_engine_over_crun_is_as_expected_and_leaves_the_machine_as_it_was(engines: Lab, engine: str) -> None:
    listing = (
        "find /sys/fs/cgroup -mindepth 1 -type d -name '*labkit*'; ls /var/lib/labkit; grep -c . /proc/self/mounts"
    )
    engines.run("test", "--suite", "engine", "--engine", engine, "--runtime", "crun", "--only", "SWAP-run", timeout=600)
    before = engines.guest(listing)
    found = of(engines, engine, "crun")
    assert found["unexpected"] == 0
    passed = {one["id"].partition("-")[0] for one in found["results"] if one["verdict"] == "pass"}
    assert passed == {"CALL", "GIVEN", "ASKED", "SWAP", "FAULT"}
    assert found["totals"]["pass"] > 60
    assert engines.guest(listing) == before


@pytest.mark.slow
def test_containerds_cri_over_crun_is_as_expected_and_leaves_the_machine_as_it_was(engines: Lab) -> None:
    """crictl is built from its Go module first, which takes minutes; skipped where the proxy does not answer."""
    argv = ["test", "--suite", "engine", "--engine", "crictl", "--runtime", "crun"]
    done = engines.run(*argv, "--only", "SWAP-run", status=None, timeout=3600)
    if done.returncode == 3 and "cannot be had" in done.stderr:
        pytest.skip(f"crictl cannot be had here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    listing = "find /sys/fs/cgroup -mindepth 1 -name '*labkit*'; ls -d /var/lib/labkit/* /var/lib/cni /opt/*; mount"
    before = engines.guest(f"({listing}) 2>&1")
    found = of(engines, "crictl", "crun")
    assert found["unexpected"] == 0 and found["evidence"]["upstream"]["sha256"]
    passed = {one["id"].partition("-")[0] for one in found["results"] if one["verdict"] == "pass"}
    assert passed == {"CALL", "GIVEN", "ASKED", "SWAP", "FAULT"}
    assert engines.guest(f"({listing}) 2>&1") == before


def test_containerd_cannot_create_over_strict(engines: Lab) -> None:
    found = of(engines, "containerd", "strict", "--only", "SWAP-run", "--no-confirm", status=1)
    [one] = found["results"]
    assert one["verdict"] == "fail" and "exit status 64" in str(one["diagnostic"])
    assert "containerd" in " ".join(found["reading"]["told"]) and "cannot" in " ".join(found["reading"]["told"])


CONVERSIONS = "CONV-00*,CONV-01*,CONV-037,LAYER-01*,LAYER-03*,LAYER-05*,BUILD-*"


def test_podman_converts_unpacks_and_builds_as_expected(engines: Lab) -> None:
    """What takes a container each is left to the slow tests."""
    argv = ["test", "--suite", "image", "--engine", "podman", "--runtime", "crun", "--only", CONVERSIONS]
    engines.run(*argv, timeout=1200)
    found = engines.results()
    assert found["unexpected"] == 0 and found["run"]["complete"] and found["engine"]["name"] == "podman"
    assert {one["id"].partition("-")[0] for one in found["results"] if one["verdict"] == "pass"} == {
        "CONV",
        "LAYER",
        "BUILD",
    }
    assert not engines.guest("find /var/lib/labkit -name 'engine-*'").strip()


@pytest.fixture(scope="module")
def converters(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    for made in make_lab(tmp_path_factory.mktemp("converters"), provider="uml", stock=stock):
        tools = ["umoci", "image-tools", "docker", "podman", "containerd", "buildah", "busybox", "python"]
        (made.cwd / "labkit.toml").write_text(f"tools = {tools}\n")
        made.run("up", timeout=1800)
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["umoci", "oci-image-tool", "docker", "podman", "containerd", "buildah"])
def test_all_images_come_out_as_expected(converters: Lab, engine: str) -> None:
    converters.run("test", "--suite", "image", "--engine", engine, "--no-confirm", timeout=1800)
    found = converters.results()
    assert found["unexpected"] == 0 and found["run"]["complete"] and len(found["results"]) == 94

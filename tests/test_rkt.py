"""rkt for real: built by its bootstrap steps in a Debian 13, and run in a machine, with systemd in it and without.

Its trees are those that LABKIT_RKT, LABKIT_ACBUILD, LABKIT_ACTOOL, LABKIT_DOCKER2ACI, LABKIT_RUNTIME_TOOLS name, else
upstream's; skipped where these do not answer.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.core import config
from labkit.core.errors import LabError
from labkit.core.sources import SourceKind
from labkit.io.git import git
from labkit.provision import bootstrap
from labkit.provision.bootstrap import Target
from tests import chroot
from tests.chroot import Chroot
from tests.conftest import Lab, make_lab
from tests.stock import Stock

TOOLS = ("rkt", "acbuild", "actool", "docker2aci")


def sources(*tools: str) -> dict[str, str]:
    """The settings of these tools, by their variables; skips where a tree cannot be had."""
    found = {}
    for tool in tools:
        variable = f"LABKIT_{tool.upper().replace('-', '_')}"
        if variable in os.environ:
            found[variable] = os.environ[variable]
            continue
        upstream = bootstrap.default_source(tool)
        assert upstream.kind is SourceKind.GIT
        try:
            git(Path("/"), "ls-remote", upstream.where, "HEAD", timeout=30)
        except LabError:
            pytest.skip(f"{upstream.where} does not answer; name a tree of {tool} with {variable}")
    return found


@pytest.mark.bootstrap
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.needs("mmdebstrap", "debian keyring", "git")
def test_the_four_are_built_from_their_own_trees(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "LABKIT_TOOLS": "rkt", **sources(*TOOLS)}
    settings = config.load({}, cwd=tmp_path, environ=environ)
    plan = bootstrap.prepare(settings.distro(), Target.VAGRANT, settings)
    assert {*TOOLS, "toolchain", "go"} <= {*plan.steps}
    (tmp_path / "base").mkdir()
    system = Chroot(chroot.unpack(chroot.build(tmp_path / "base"), tmp_path / "system"))
    place = system.root / "root"
    (place / "sources").mkdir()
    for upload in plan.uploads:
        shutil.copyfile(upload.local, place / "sources" / Path(upload.remote).name)
    (place / "bootstrap.sh").write_text(plan.script)
    done = system.run(["sh", "/root/bootstrap.sh"], {"_LABKIT_PAUSES": ""})
    assert done.status == 0, done.errors
    assert {done.outcomes()[tool] for tool in TOOLS} == {"done"}
    said = system.run(["sh", "-lc", "rkt version; acbuild version; actool version; docker2aci -version"]).lines
    assert {"rkt Version: 1.30.0", "docker2aci version 0.17.2+git", "actool version 0.8.11+git"} <= {*said}
    listed = system.run(["tar", "-tf", "/usr/local/lib/rkt/stage1-images/stage1-host.aci"]).lines
    assert "rootfs/flavor" in listed
    assert not list((system.root / "opt/labkit/src").glob("rkt*"))  # 340 MB
    again = system.run(["sh", "/root/bootstrap.sh"], {"_LABKIT_PAUSES": ""})
    assert {again.outcomes()[tool] for tool in TOOLS} == {"already done"}


@pytest.fixture(scope="module")
def rocket(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    """A lab whose image has what the suite needs, and rkt."""
    if stock.why_not:
        pytest.skip(f"User-Mode Linux does not work here: {stock.why_not}")
    given = sources(*TOOLS, "runtime-tools")
    given |= {name: os.environ[name] for name in ("LABKIT_GO", "LABKIT_MIRROR", "LABKIT_PROXY") if name in os.environ}
    tools = "runtime-tools,image-tools,umoci,docker,podman,rkt"
    for lab in make_lab(tmp_path_factory.mktemp("rkt"), provider="uml", stock=stock):
        lab.env |= {**given, "LABKIT_TOOLS": tools, "LABKIT_LIMITS_BUILD": "3600"}
        yield lab


def ran(lab: Lab, init: str, *programs: str) -> tuple[Any, Path]:
    lab.env["LABKIT_MACHINE_INIT"] = init
    lab.run("up", "--machine", init, timeout=4000)
    try:
        words = ["--machine", init, "--suite", "runtimetest", "--runtime", "crun", "--only", ",".join(programs)]
        lab.run("test", *words)  # all that is bad is expected
        left = "ls -d /var/lib/labkit-rkt* 2>/dev/null; grep -c labkit-rkt /proc/self/mountinfo; true"
        assert lab.guest(left, init).split() == ["0"]
        return lab.results(), lab.cwd / "reports/latest/raw"
    finally:
        lab.run("destroy", "--machine", init)


def checked(evidence: Path) -> set[str]:
    """The names of the files whose digests are as SHA256SUMS says."""
    found = set()
    for line in (evidence / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((evidence / name).read_bytes()).hexdigest() == digest, name
        found.add(name)
    return found


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_under_systemd_the_pod_is_isolated_and_its_evidence_comes_home(rocket: Lab) -> None:
    results, raw = ran(rocket, "systemd", "docker", "rkt")
    verdicts = Counter(result["verdict"] for result in results["results"] if result["program"] == "rkt")
    assert verdicts["pass"] > 100
    assert 10 < verdicts["fail"] < 40
    assert not verdicts["todo"]
    names = {r["name"]: r["verdict"] for r in results["results"] if r["program"] == "rkt"}
    assert names["has expected hostname"] == "pass"
    assert names["the pod and its images are removed"] == "pass"
    console = (raw / "rkt.evidence/console.txt").read_bytes()
    assert re.search(rb"runtimetest\[[0-9]+\]: ok 1 ", console)
    assert not re.search(rb"runtimetest\[[0-9]+\]: ", (raw / "rkt.tap").read_bytes())
    image = {"image.aci", "listing.txt", "manifest.json", "validation.txt", "console.txt", "removal.txt"}
    assert checked(raw / "rkt.evidence") == image
    assert checked(raw / "docker.evidence") == {"image.tar", "listing.txt", "validation.txt", "docker2aci.txt"}
    assert "oci-layout" in (raw / "docker.evidence/listing.txt").read_text()


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_without_systemd_it_says_that_it_isolates_nothing(rocket: Lab) -> None:
    results, _ = ran(rocket, "small", "rkt")
    verdicts = Counter(result["verdict"] for result in results["results"])
    assert verdicts["todo"] > 80
    assert not verdicts["fail"]
    [isolated] = [result for result in results["results"] if result["name"] == "the pod is isolated"]
    assert isolated["verdict"] == "skip"
    assert "stage1 fly isolates nothing" in isolated["diagnostic"]["reason"]

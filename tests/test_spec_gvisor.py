"""A runtime whose processes are not the host's, gVisor of Debian 13: its containers are looked at from inside."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from labkit.core.errors import LabError
from labkit.guest.pyz import pyz
from labkit.io import process
from labkit.results import tap
from labkit.results.model import Reading, Verdict
from labkit.suites.spec import from_tap

pytestmark = [pytest.mark.host_runtime, pytest.mark.long]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@pytest.fixture(scope="module")
def runsc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's program, unpacked; nothing is installed."""
    if not process.which("apt-get") or not KEYRING.exists():
        pytest.skip("the package comes from Debian's archive")
    mirrors = process.run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)"], timeout=60).stdout
    addresses = [line.split()[1] for line in mirrors.splitlines() if line.startswith("Debian http")]
    mirror = next((address for address in addresses if "security" not in address), None)
    if mirror is None:
        pytest.skip("this host knows no mirror of Debian")
    top = tmp_path_factory.mktemp("runsc")
    (top / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} trixie main\n")
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (top / name).mkdir(parents=True)
    options = [f"Dir::Etc::sourcelist={top}/sources.list", "Dir::Etc::sourceparts=/dev/null", "APT::Sandbox::User=root"]
    options += [f"Dir::State::lists={top}/lists", f"Dir::Cache={top}/cache", "Acquire::Languages=none"]
    words = [word for option in options for word in ("-o", option)]
    try:
        process.run(["apt-get", *words, "-q", "update"], timeout=300)
        process.run(["apt-get", *words, "-q", "download", "runsc"], cwd=top / "debs", timeout=300)
    except LabError as error:
        pytest.skip(f"Debian's runsc cannot be had here: {error.message}")
    [package] = (top / "debs").glob("*.deb")
    process.run(["dpkg-deb", "-x", package, top / "root"], timeout=60)
    return top / "root/usr/bin/runsc"


@pytest.fixture(scope="module")
def found(runsc: Path, tmp_path_factory: pytest.TempPathFactory) -> Reading:
    program = tmp_path_factory.mktemp("program") / "labkit-spec.pyz"
    program.write_bytes(pyz("spec"))
    runtime = f"{runsc} --ignore-cgroups --network=none"
    done = process.run([sys.executable, program, "--runtime", runtime, "--no-confirm"], timeout=900, check=False)
    assert done.status in (0, 1), done.stderr
    return from_tap(tap.read(done.stdout.encode()))


def test_nothing_hangs_and_nothing_surprises_the_suite(found: Reading) -> None:
    assert found.reason is None
    bad = [result for result in found.results if result.verdict in (Verdict.ERROR, Verdict.TIMEOUT)]
    assert [(result.id, result.diagnostic["message"]) for result in bad] == []


def test_what_is_right_inside_passes(found: Reading) -> None:
    verdicts = {result.id: result.verdict for result in found.results}
    right = ("SYML-001", "DEFDEV-001", "DEFDEV-002", "PROC-002", "PROC-005", "ROOT-002", "LIFE-001")
    assert {id: verdicts[id] for id in right} == dict.fromkeys(right, Verdict.PASS)


def test_what_it_does_not_do_fails(found: Reading) -> None:
    findings = {result.id: json.dumps(result.diagnostic.get("failures")) for result in found.results}
    assert "state-bundle" in findings["STATE-003"]  # relative, as it was given
    assert (
        "state-of-the-first-container-afterwards" in findings["STATE-006"]
    )  # a duplicate create loses the first container
    assert "what-is-read-from-masked-files" in findings["MASK-001"]
    assert "umask-of-the-process-for-0027" in findings["PROC-006"]


def test_what_only_the_host_could_show_is_skipped(found: Reading) -> None:
    skipped = {
        result.id: str(result.diagnostic.get("message")) for result in found.results if result.verdict == Verdict.SKIP
    }
    for id in ("CG-001", "CG-004", "CG-009", "NS-004", "NS-012", "OOM-001"):
        assert "the container's processes are not the host's" in skipped[id], id

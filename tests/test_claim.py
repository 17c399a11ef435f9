"""Claims, from recorded runs: made by the command, verified by it and by others' tools, and changed in every way."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.errors import LabError, UsageError
from labkit.io import archives, signing
from labkit.io.files import digest_once
from labkit.machines.fake import FakeMachine, Reply
from labkit.reports import as_claim
from labkit.results import statement
from labkit.results.model import Expected, Result, Run, RunInfo, RuntimeInfo, SuiteInfo, Verdict
from labkit.store import runs
from labkit.suites import registry
from labkit.suites.base import SilentRun
from labkit.usecases import claim as claims
from labkit.usecases import evidence
from labkit.usecases.judge import judge
from labkit.usecases.run import run_cell
from labkit.usecases.verify import Verified, verify
from tests import recorded
from tests.test_cli import Done, labkit
from tests.test_json import validator

NEEDS_SSH_KEYGEN = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")


class Place:
    """A directory with a lab's home, its reports, and commands as a person types them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "LABKIT_HOME": str(directory / "home")}

    @property
    def settings(self) -> config.Settings:
        return config.load(cwd=self.directory, environ=self.environ)

    def run(self, *words: object, status: int = 0) -> Done:
        done = labkit(*map(str, words), environ=self.environ, cwd=self.directory)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    @property
    def public(self) -> Path:
        return self.directory / "home/keys/claim.pub"

    def verify(self, name: str = "claim") -> Verified:
        return verify(self.directory / name, key=self.public)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A claim of the recorded run of crun, made once by the command; nobody changes it."""
    place = Place(tmp_path_factory.mktemp("claim"))
    judge(place.settings, str(recorded.V2))
    place.run("claim", "latest", "--out", "claim")
    return place


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A claim of output of the spec suite, which is judged in no time: STATE-001 fails, which no policy expects."""
    place = Place(tmp_path_factory.mktemp("small"))
    names = registry.find("spec").names()
    lines = ["TAP version 14", f"1..{len(names)}", "# suite: spec", "# runtime: runc"]
    lines += ["# runtime-version: runc version 1.1.15", "# kernel: 6.12", "# cgroup: v2"]
    lines += [f"{'not ok' if name == 'STATE-001' else 'ok'} {n} - {name} x" for n, name in enumerate(names, 1)]
    (place.directory / "spec").mkdir()
    (place.directory / "spec/spec.tap").write_text("\n".join(lines) + "\n")
    judge(place.settings, str(place.directory / "spec"))
    claims.claim(place.settings, ["latest"], place.directory / "claim")
    return place


@pytest.fixture
def place(small: Place, tmp_path: Path) -> Place:
    """A copy of it, to be changed."""
    shutil.copytree(small.directory, tmp_path / "copy", symlinks=True)
    return Place(tmp_path / "copy")


# --- what is made


def test_a_claim_holds_and_says_what_was_measured(made: Place) -> None:
    done = made.run("verify", "claim", "--key", made.public)
    assert "who     SHA256:" in done.stdout
    assert "crun 1.8.1: validation v0.9.0" in done.stdout
    assert "3972 results judged again" in done.stdout
    assert done.stdout.rstrip().endswith("the claim holds: the raw output shows what it says")
    value = json.loads(made.run("verify", "claim", "--key", made.public, "--json").stdout)
    assert (value["holds"], value["differs"], value["exit_status"]) == (True, [], 0)


def test_its_files_are_those_that_reviewers_know(made: Place) -> None:
    place = made.directory / "claim"
    assert {path.name for path in place.iterdir()} == {
        "README.md", "PRODUCT.yaml", "results.yaml", "results.txt", "report.html", "junit.xml", "badge.svg",
        "raw.tar.gz", "policy", "claim.dsse.json", "claim.dsse.json.sig",
    }  # fmt: skip
    product = yaml.safe_load((place / "PRODUCT.yaml").read_text())
    assert list(product) == list(as_claim.KEYS)
    assert (product["name"], product["version"]) == ("crun", "1.8.1")
    results = yaml.load((place / "results.yaml").read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    ((run),) = results["runs"]
    kept = json.loads((made.directory / "reports/latest/results.json").read_text())
    assert [one["verdict"] for one in run["results"]] == [one["verdict"] for one in kept["results"]]
    assert run["totals"] == kept["totals"]
    text = (place / "results.txt").read_text()
    assert text.count("\nPASS ") == kept["totals"]["pass"]
    readme = (place / "README.md").read_text()
    assert "./lab verify . --key FILE.pub" in readme
    assert "What is known to fail" in readme
    assert (place / "badge.svg").read_text().startswith("<svg ")


def test_nothing_says_certified_and_expected_failures_are_failures(made: Place) -> None:
    place = made.directory / "claim"
    for name in ("README.md", "results.yaml", "results.txt", "badge.svg", "PRODUCT.yaml"):
        text = (place / name).read_text().casefold()
        assert "certified" not in text
        assert "all tests passed" not in text
    assert "no programme that certifies" in (place / "README.md").read_text()
    value = predicate(place)
    kept = json.loads((made.directory / "reports/latest/results.json").read_text())
    bad = [one for one in kept["results"] if "expected" in one and one["verdict"] in ("fail", "error", "no-assertions")]
    assert value["result"] == "WARNED"
    assert len(value["failedTests"]) >= len([one for one in bad if one["level"] in ("", "MUST", "MUST NOT")]) > 0
    assert len(value["passedTests"]) == kept["totals"]["pass"]


def predicate(place: Path) -> Any:
    return json.loads(base64.b64decode(json.loads((place / "claim.dsse.json").read_text())["payload"]))["predicate"]


def test_the_same_runs_make_the_same_archive(made: Place) -> None:
    made.run("claim", "latest", "--out", "again")
    first, second = ((made.directory / name / "raw.tar.gz").read_bytes() for name in ("claim", "again"))
    assert first == second
    shutil.rmtree(made.directory / "again")


def test_the_minimum_decides_what_is_a_failure_and_what_a_warning() -> None:
    def result(level: str, verdict: str, expected: bool = False) -> Result:
        why = Expected("so", "", "x") if expected else None
        return Result(level, level, level, "", Verdict(verdict), 0.0, expected=why)

    def outcome(minimum: str, *results: Result) -> tuple[str, int, int]:
        claim = claim_of(results, minimum)
        return claim.outcome.value, len(claim.failing), len(claim.warned)

    assert outcome("MUST", result("MUST", "pass")) == ("PASSED", 0, 0)
    assert outcome("MUST", result("SHOULD", "fail")) == ("PASSED", 0, 1)
    assert outcome("SHOULD", result("SHOULD", "fail")) == ("FAILED", 1, 0)
    assert outcome("SHOULD", result("SHOULD NOT", "fail", True)) == ("WARNED", 1, 0)
    assert outcome("SHOULD", result("MAY", "fail")) == ("PASSED", 0, 1)
    assert outcome("MUST", result("MUST NOT", "fail")) == ("FAILED", 1, 0)
    assert outcome("MUST", result("", "error")) == ("FAILED", 1, 0)  # no level counts as MUST
    assert outcome("MUST", result("MUST", "flaky")) == ("PASSED", 0, 1)
    assert "All tests passed" in as_claim.wording(claim_of([result("MUST", "pass")], "MUST"))


def claim_of(results: Sequence[Any], minimum: str) -> statement.Claim:
    now = datetime.now(UTC)
    run = Run(RunInfo("r", now, now, "0"), {}, RuntimeInfo("x", "", "1"), SuiteInfo("spec", "1"), tuple(results))
    return statement.Claim((run,), minimum, dict.fromkeys(as_claim.KEYS, ""), (), "0", now, ("r",))


def test_the_level_and_what_scripts_are_told(made: Place, tmp_path: Path) -> None:
    done = made.run("claim", "latest", "--out", tmp_path / "c", "--minimum", "SHOULD", "--json", "--verbose")
    value = json.loads(done.stdout)
    assert "configuration: " in done.stderr
    assert (value["outcome"], value["key"]) == ("WARNED", signing.public_key(made.public).fingerprint)
    assert "SHOULD or above" in value["told"]
    assert value["lacking"] == ["vendor", "documentation_url"]
    assert "minimum: SHOULD" in (tmp_path / "c/results.yaml").read_text()
    assert "configuration: " in made.run("verify", "claim", "--key", made.public, "--verbose").stderr
    assert "must be MUST or SHOULD" in made.run("claim", "latest", "--out", "x", "--minimum", "MAY", status=2).stderr


def test_a_claim_of_several_runs_is_of_one_runtime(made: Place, tmp_path: Path) -> None:
    place = Place(tmp_path)
    for _ in range(2):
        judge(place.settings, str(recorded.V2))
    first, second = runs.ids(tmp_path / "reports")
    place.run("claim", first, second, "--out", "two")
    assert {"report.html", "report-1.html", "report-2.html"} <= {path.name for path in (tmp_path / "two").iterdir()}
    done = place.verify("two")
    assert (done.holds, done.results % 2) == (True, 0)
    assert "is named twice" in place.run("claim", first, first, "--out", "three", status=2).stderr
    judge(place.settings, str(recorded.V1))
    third = runs.ids(tmp_path / "reports")[-1]
    done_ = place.run("claim", first, third, "--out", "three", status=2)
    assert "a claim is about one runtime" in done_.stderr or "no claim can be made" in done_.stderr
    assert not (tmp_path / "three").exists()


# --- who signed


def test_securesystemslib_verifies_the_envelope(made: Place) -> None:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    raw = signing.public_key(made.public).raw
    key = SSlibKey("k", "ed25519", "ed25519", {"public": raw.hex()})
    envelope = Envelope.from_dict(json.loads((made.directory / "claim/claim.dsse.json").read_text()))
    ((ident, _),) = envelope.signatures.items()
    assert ident == signing.public_key(made.public).fingerprint
    key.keyid = ident
    assert set(envelope.verify([key], 1)) == {ident}
    envelope.payload += b" "
    with pytest.raises(Exception, match="signature"):
        envelope.verify([key], 1)


@NEEDS_SSH_KEYGEN
def test_ssh_keygen_verifies_the_file(made: Place, tmp_path: Path) -> None:
    claim = made.directory / "claim"
    signers = tmp_path / "signers"
    signers.write_text(f'alice@example.org namespaces="labkit-claim" {made.public.read_text()}')
    words: list[str | Path] = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "alice@example.org"]
    words += ["-n", "labkit-claim"]
    data = (claim / "claim.dsse.json").read_bytes()

    def asks(data: bytes) -> int:
        argv = [*words, "-s", claim / "claim.dsse.json.sig"]
        return subprocess.run(argv, input=data, capture_output=True, check=False).returncode

    assert asks(data) == 0
    assert asks(data + b"\n") != 0
    done = made.run("verify", "claim", "--allowed-signers", signers)
    assert "who     alice@example.org, SHA256:" in done.stdout
    for line, why in (
        (f'alice namespaces="git" {made.public.read_text()}', "does not allow alice"),
        (f'alice valid-before="20200101" {made.public.read_text()}', "allow"),
        (f"bob {signing.Key(Ed25519PrivateKey.generate()).public.line}\n", "allows nobody with this key"),
        ("not a list at all\n", "allows nobody"),
        ("", "allows nobody"),
    ):
        signers.write_text(line)
        assert why in made.run("verify", "claim", "--allowed-signers", signers, status=1).stdout


@NEEDS_SSH_KEYGEN
@pytest.mark.parametrize("kind", ["openssh", "pem"])
def test_a_key_of_ones_own(kind: str, made: Place, tmp_path: Path) -> None:
    key = tmp_path / "key"
    if kind == "openssh":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", key], check=True)
        # byte for byte what ssh-keygen signs
        subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "labkit-claim", "-f", key, made.public], check=True)
        theirs = made.public.with_name("claim.pub.sig")
        assert theirs.read_bytes() == signing.ssh_signature(made.public.read_bytes(), signing.load(key))
        theirs.unlink()
    else:
        private = Ed25519PrivateKey.generate()
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key.write_bytes(private.private_bytes(*form))
        (tmp_path / "key.pub").write_bytes(
            private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        key.chmod(0o600)
    made.run("claim", "latest", "--out", tmp_path / "mine", "--key", key)
    done = made.run("verify", tmp_path / "mine", "--key", tmp_path / "key.pub")
    assert ("me@here" in done.stdout) == (kind == "openssh")
    assert "and not by SHA256:" in made.run("verify", tmp_path / "mine", "--key", made.public, status=1).stdout


def test_without_a_key_nobody_knows_whose_it_is(made: Place) -> None:
    done = made.run("verify", "claim", status=1)
    assert "who     not known: nobody vouches for the key SHA256:" in done.stdout
    assert "the raw output shows what the claim says" in done.stdout


def test_keys_that_cannot_sign_say_why(made: Place, tmp_path: Path) -> None:
    def refused(name: str, data: bytes, mode: int = 0o600) -> str:
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(mode)
        return made.run("claim", "latest", "--out", tmp_path / "no", "--key", tmp_path / name, status=2).stderr

    private = Ed25519PrivateKey.generate()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    plain = private.private_bytes(encoding, form, serialization.NoEncryption())
    locked = private.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    other = rsa.generate_private_key(65537, 2048).private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert "others can read the private key" in refused("open", plain, 0o644)
    assert "has a passphrase" in refused("locked", locked)
    assert "another kind of key" in refused("rsa", other)
    assert "is a public key" in refused("pub", made.public.read_bytes())
    assert "is no private key" in refused("text", b"hello")
    assert "cannot be read" in made.run("claim", "latest", "--out", "no", "--key", "none", status=2).stderr
    for name, why in (("open", "is a private key"), ("text", "is no public key"), ("none", "cannot be read")):
        assert why in made.run("verify", "claim", "--key", tmp_path / name, status=2).stderr
    (tmp_path / "several").write_text(made.public.read_text() * 2)
    assert "--allowed-signers" in made.run("verify", "claim", "--key", tmp_path / "several", status=2).stderr


# --- what is refused


def test_runs_that_no_claim_can_be_made_of(tmp_path: Path) -> None:
    place = Place(tmp_path)

    def refused(*runs: str, flags: Sequence[str] = ()) -> str:
        done = place.run("claim", *runs, "--out", "claim", *flags, status=2)
        assert not (tmp_path / "claim").exists()
        return done.stderr

    def recording(name: str, without: str = "", **said: str) -> str:
        for path in recorded.V2.iterdir():
            if path.stem != without:
                (tmp_path / name).mkdir(exist_ok=True)
                shutil.copy(path, tmp_path / name)
        flags = [word for key, value in said.items() for word in (f"--{key.replace('_', '-')}", value)]
        labkit("judge", name, *flags, environ=place.environ, cwd=tmp_path)
        return runs.ids(tmp_path / "reports")[-1]

    full = {"runtime": "crun", "runtime_version": "1.8.1", "cgroup": "v2"}
    assert "it is not complete" in refused(recording("cut", "create", ref="v0.9.0", **full))
    assert "its ref of runtime-tools is fork-7, none that labkit knows" in refused(
        recording("fork", ref="fork-7", **full)
    )
    assert "of a part of the suite: --only" in refused(recording("part", ref="v0.9.0", only="kill", **full))
    nameless = refused(recording("nameless", ref="v0.9.0"))
    assert "its runtime is not known" in nameless
    assert nameless.count("run 2026") + nameless.count("run 20") >= 1  # it says which
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/spec.tap").write_text(
        "TAP version 14\n1..1\n# runtime-version: runc version 1.1\nok 1 - QUERY-001 x\n"
    )
    labkit("judge", "bare", "--runtime", "runc", environ=place.environ, cwd=tmp_path)
    assert "names of it did not run" in refused("latest")
    assert "is no run of labkit" in refused("cut")
    assert "no run is named" in refused()
    assert "there is no run nonesuch" in refused("nonesuch")
    two = refused(*runs.ids(tmp_path / "reports")[:2])
    assert two.count("\nrun ") == 2  # each with its reason
    assert "--out is missing" in place.run("claim", "latest", status=2).stderr


def test_a_run_of_only_some_checks_says_so_in_its_evidence(tmp_path: Path) -> None:
    place = Place(tmp_path)
    output = b"TAP version 14\n1..1\n# runtime-version: runc version 1.1\nok 1 - QUERY-001 x\n"
    machine = FakeMachine("m", lambda argv: Reply(0, output if any(word.endswith(".pyz") for word in argv) else b""))
    cell = Cell("debian", "13", "auto", "m", "runc", "spec", Selection(("QUERY-001",)))
    outcome = run_cell(cell, place.settings, SilentRun(), [], lambda *_: machine)
    assert outcome.run.evidence["selection"] == {"only": ["QUERY-001"]}
    assert str(outcome.run.evidence["again"]).startswith("./lab test --platform debian --release 13 --arch amd64 ")
    validator("results.json").validate(json.loads((outcome.directory / "results.json").read_text()))
    with pytest.raises(UsageError, match="it is of a part of the suite: --only"):
        claims.claim(place.settings, ["latest"], tmp_path / "claim")


def test_policies_of_the_claimant_are_refused_or_named(tmp_path: Path) -> None:
    place = Place(tmp_path)
    entry = '[[entry]]\nsuite = "validation"\nprogram = "kill"\nexpected = "fail"\nreason = "mine"\n'
    (tmp_path / "mine.toml").write_text(entry)
    (tmp_path / "labkit.toml").write_text('policy = "mine.toml"\n')
    judge(place.settings, str(recorded.V2))
    done = place.run("claim", "latest", "--out", "claim", status=2)
    assert "judged with a policy that labkit does not ship: mine.toml" in done.stderr
    assert "--own-policy" in done.stderr
    place.run("claim", "latest", "--out", "claim", "--own-policy")
    assert (tmp_path / "claim/policy/mine.toml").read_text() == entry
    assert "the claimant's own" in (tmp_path / "claim/README.md").read_text()
    (tmp_path / "labkit.toml").unlink()  # who verifies has no such file
    verified = place.verify()
    assert verified.holds
    assert any("mine.toml is the claimant's own" in note for note in verified.notes)
    (tmp_path / "labkit.toml").write_text('policy = "mine.toml"\n')
    (tmp_path / "mine.toml").write_text(entry.replace("mine", "changed since"))
    assert (
        "another mine.toml than there is now"
        in place.run("claim", "latest", "--out", "other", "--own-policy", status=2).stderr
    )


def test_a_run_whose_results_were_written_by_hand_is_refused(place: Place) -> None:
    path = place.directory / "reports/latest/results.json"
    value = json.loads(path.read_text())
    bad = next(one for one in value["results"] if one["verdict"] == "fail")
    bad["verdict"] = "pass"
    value["totals"]["fail"] -= 1
    value["totals"]["pass"] += 1
    path.write_text(json.dumps(value))
    assert "its raw/ shows another thing" in place.run("claim", "latest", "--out", "c", status=2).stderr


def test_a_product_is_described_as_oci_conformance_has_it(made: Place, tmp_path: Path) -> None:
    product = tmp_path / "PRODUCT.yaml"

    def given(text: str, status: int = 0) -> str:
        product.write_text(text)
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        return made.run("claim", "latest", "--out", tmp_path / "c", "--product", product, status=status).stderr

    given('vendor: "Me: & co"\nname: My runtime\nversion: "1.2"\ndocumentation_url: https://example.org/d\n')
    found = yaml.safe_load((tmp_path / "c/PRODUCT.yaml").read_text())
    assert (found["vendor"], found["name"], found["version"]) == ("Me: & co", "My runtime", "1.2")
    assert verify(tmp_path / "c", key=made.public).holds
    assert "unknown key vendr" in given("vendr: x\n", 2)
    assert "in quotes" in given("version: 1.2\n", 2)
    assert "PRODUCT.yaml is not YAML: line 2: expected the node content" in given("a: [\n", 2)
    assert "must have keys and values" in given("- a\n", 2)
    assert "is not called OCI" in given("name: OCI runtime\n", 2)
    assert "must be an address" in given("website_url: example\n", 2)


def test_what_is_there_is_not_overwritten(made: Place) -> None:
    assert "claim is there already" in made.run("claim", "latest", "--out", "claim", status=2).stderr
    assert made.verify().holds


# --- what is changed


def test_every_byte_of_every_file_counts(made: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("tampered") / "claim"
    shutil.copytree(made.directory / "claim", place)
    files = sorted(path for path in place.rglob("*") if path.is_file())

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def changed(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(files))
        before = path.read_bytes()
        at = data.draw(st.integers(0, len(before) - 1))
        after = before[:at] + bytes([before[at] ^ data.draw(st.integers(1, 255))]) + before[at + 1 :]
        try:
            path.write_bytes(after)
            done = verify(place, key=made.public)
            assert not done.holds
            assert done.exit_status == 1
        finally:
            path.write_bytes(before)

    changed()
    assert verify(place, key=made.public).holds


@pytest.mark.parametrize("name", ["claim.dsse.json", "claim.dsse.json.sig"])
def test_every_byte_of_the_signatures_counts(name: str, made: Place) -> None:
    """All of them, also those that readers of JSON, base64 and armour pass over."""
    envelope = (made.directory / "claim/claim.dsse.json").read_bytes()
    signature = (made.directory / "claim/claim.dsse.json.sig").read_bytes()
    key = signing.public_key(made.public)

    def holds(envelope: bytes, signature: bytes) -> bool:
        try:
            by = signing.signer(signature, envelope, "x")
            signing.opened(envelope, statement.PAYLOAD, by, "x")
        except LabError:
            return False
        return by.raw == key.raw

    assert holds(envelope, signature)
    data = envelope if name.endswith("json") else signature
    places = range(len(data)) if len(data) < 1000 else [*range(200), *range(len(data) - 300, len(data))]
    for at in places:
        for other in (data[at] ^ 1, 0x20, 0x0A, data[at] ^ 0x20):
            if other != data[at]:
                changed = data[:at] + bytes([other]) + data[at + 1 :]
                assert not (holds(changed, signature) if data is envelope else holds(envelope, changed)), (at, other)
    for added in (b" ", b"\n", b"\0", b"="):
        assert not holds(envelope, signature + added)
        assert not holds(envelope + added, signature)


def fifo(place: Path) -> None:
    os.mkfifo(place / "pipe")


def linked(place: Path) -> None:
    (place / "README.md").rename(place.parent / "elsewhere")
    (place / "README.md").symlink_to(place.parent / "elsewhere")


def huge(place: Path) -> None:
    with (place / "README.md").open("r+b") as file:
        file.truncate(1 << 40)


def unsigned(place: Path) -> None:
    (place / "NOTES.md").write_text("certified")


def of_a_directory(place: Path) -> None:
    (place / "README.md").unlink()
    (place / "README.md").mkdir()


def nested(place: Path) -> None:
    for number in range(30):
        place /= f"d{number}"
    place.mkdir(parents=True)
    (place / "x").touch()


def ringed(place: Path) -> None:
    (place / "ring").symlink_to(place)


def named(place: Path) -> None:
    (place / "a\x1b[2Jb").touch()


def moved(place: Path) -> None:
    (place / "claim.dsse.json").rename(place.parent / "e")
    (place / "claim.dsse.json").symlink_to("../e")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one more": (unsigned, "NOTES.md is there, and was not signed"),
    "one less": (lambda place: (place / "README.md").unlink(), "README.md is missing"),
    "an empty one": (lambda place: (place / "README.md").write_bytes(b""), "README.md is not what was signed"),
    "a link": (linked, "README.md is a link"),
    "a ring": (ringed, "ring is a link"),
    "a pipe": (fifo, "pipe is no plain file"),
    "a huge one": (huge, "larger than 256 MiB"),
    "a directory": (of_a_directory, "README.md is missing"),
    "deep": (nested, "of no name that is given there"),
    "a name for terminals": (named, "of no name that is given there"),
    "no signature": (lambda place: (place / "claim.dsse.json.sig").unlink(), "claim.dsse.json.sig is missing"),
    "a link to the envelope": (
        moved,
        "claim.dsse.json is a link",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_folder_that_was_changed(what: str, place: Place) -> None:
    change, told = CHANGES[what]
    change(place.directory / "claim")
    done = place.run("verify", "claim", "--key", place.public, status=1)
    assert told in done.stdout
    assert "DOES NOT HOLD" in done.stdout
    assert "\x1b" not in done.stdout


def test_what_is_no_claim(made: Place, tmp_path: Path) -> None:
    assert "is no claim" in made.run("verify", tmp_path, status=2).stderr
    assert "there is no directory" in made.run("verify", tmp_path / "none", status=2).stderr
    assert (
        "takes no --allowed-signers"
        in made.run("verify", "claim", "--key", made.public, "--allowed-signers", made.public, status=2).stderr
    )


# --- what a claimant may sign who lies


@pytest.fixture
def forge(place: Place) -> Iterator[Callable[..., Verified]]:
    """Change the files of a claim, and sign what is there then with the claimant's own key."""
    directory = place.directory / "claim"

    def forged(files: dict[str, bytes] | None = None, **own: object) -> Verified:
        for name, data in (files or {}).items():
            (directory / name).write_bytes(data)
        value = json.loads(base64.b64decode(json.loads((directory / "claim.dsse.json").read_bytes())["payload"]))
        there = archives.files(directory)
        value["subject"] = [
            {"name": name, "digest": {"sha256": statement.sha256(data)}}
            for name, data in sorted(there.items())
            if not name.startswith("claim.dsse")
        ]
        value["predicate"]["result"] = own.pop("result", value["predicate"]["result"])
        value["predicate"]["labkit_claim"] |= own
        key = signing.load(place.directory / "home/keys/claim")
        envelope = signing.envelope(json.dumps(value, indent=1).encode(), statement.PAYLOAD, key)
        (directory / "claim.dsse.json").write_bytes(envelope)
        (directory / "claim.dsse.json.sig").write_bytes(signing.ssh_signature(envelope, key))
        return place.verify()

    yield forged


def archive_of(place: Place) -> tuple[str, dict[str, bytes]]:
    files = archives.unpacked((place.directory / "claim/raw.tar.gz").read_bytes(), "raw.tar.gz")
    return next(iter(files)).partition("/")[0], files


def test_what_is_signed_again_unchanged_holds(forge: Callable[..., Verified]) -> None:
    assert forge().differs == ()


def test_a_verdict_that_raw_does_not_show_is_found(forge: Callable[..., Verified], place: Place) -> None:
    ident, files = archive_of(place)
    value = json.loads(files[f"{ident}/results.json"])
    bad = next(one for one in value["results"] if one["verdict"] == "fail")
    bad["verdict"] = "pass"
    value["totals"]["fail"] -= 1
    value["totals"]["pass"] += 1
    files[f"{ident}/results.json"] = json.dumps(value).encode()
    done = forge({"raw.tar.gz": archives.packed(files)})
    assert any("STATE-001 x pass" in line and "STATE-001 x fail" in line for line in done.differs), done.differs


def test_documents_that_say_more_than_the_results_are_found(forge: Callable[..., Verified], place: Place) -> None:
    text = (place.directory / "claim/README.md").read_bytes()
    done = forge({"README.md": b"# certified\n" + text})
    assert any("README.md is not what the results come to" in line for line in done.differs)
    done = forge({"README.md": text, "report.html": b"<h1>All tests passed</h1>"})
    assert any("report.html is not what" in line for line in done.differs)


def test_another_outcome_or_policy_is_found(forge: Callable[..., Verified], place: Place) -> None:
    assert any("says PASSED, and raw/ shows FAILED" in line for line in forge(result="PASSED").differs)
    assert forge(result="FAILED").holds
    policy = (place.directory / "claim/policy/validation.toml").read_bytes()
    done = forge({"policy/validation.toml": policy + b"# mine\n"})
    assert any("not those that the claim names" in line for line in done.differs)
    listed = [
        {"name": file.name, "sha256": statement.sha256(file.read_bytes()), "own": False}
        for file in sorted((place.directory / "claim/policy").iterdir())
    ]
    done = forge(policies=listed)
    assert any("judged with another policy" in line or "is called this labkit's" in line for line in done.differs)


def test_an_older_labkits_documents_are_not_compared_and_that_is_said(forge: Callable[..., Verified]) -> None:
    done = forge({"badge.svg": b"<svg/>"}, labkit="0.0.9 (abcdef0)")
    assert done.holds
    assert any("so they were not compared" in note and "badge.svg" in note for note in done.notes)


def test_archives_that_labkit_never_packs_are_found(forge: Callable[..., Verified], place: Place) -> None:
    ident, files = archive_of(place)
    good = archives.packed(files)

    def tar(change: Callable[[tarfile.TarFile], None]) -> bytes:
        out = io.BytesIO(archives.tarball(files))
        with tarfile.open(fileobj=out, mode="a") as archive:
            change(archive)
        return gzip.compress(out.getvalue(), mtime=0)

    def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(data)
        return tar(lambda archive: archive.addfile(info, io.BytesIO(data)))

    for data, told in (
        (member("../../out", data=b"x"), "which leads out of it"),
        (member("/etc/cron.d/x", data=b"x"), "which leads out of it"),
        (member(f"{ident}/raw/l", tarfile.SYMTYPE, "/etc/passwd"), "no plain file"),
        (member(f"{ident}/raw/h", tarfile.LNKTYPE, "x"), "no plain file"),
        (member(f"{ident}/raw/d", tarfile.CHRTYPE), "no plain file"),
        (member(f"{ident}/results.json", data=b"{}"), "there twice"),
        (member("other/raw/x", data=b"x"), "holds"),
        (gzip.compress(bytes(300 << 20), 1), "more in it than labkit ever packs"),
        (good + good, "not one whole gzip file"),
        (good[:-9], "not one whole gzip file"),
        (b"PK\x03\x04", "cannot be read as an archive"),
        (b"", "not one whole gzip file"),
        (gzip.compress(archives.tarball(files) + bytes(512)), "not written as labkit writes"),
        (archives.packed({}), "holds nothing"),
        (archives.packed({f"{ident}/results.json": files[f"{ident}/results.json"]}), "has no raw/"),
        (archives.packed({**files, f"{ident}/results.json": b"[" * 100_000}), "not JSON"),
        (archives.packed({name: data for name, data in files.items() if "/raw/" in name}), "has no results.json"),
    ):
        done = forge({"raw.tar.gz": data})
        assert any(told in line for line in done.differs), (told, done.differs)
        assert not Path("/etc/cron.d/x").exists()


def test_a_statement_that_is_none(place: Place) -> None:
    directory = place.directory / "claim"
    key = signing.load(place.directory / "home/keys/claim")
    for payload in (b"", b"[]", b"{}", b"null", b"[" * 50_000, b'{"predicate": {}}', b'{"_type": 1, "predicate": 7}'):
        envelope = signing.envelope(payload, statement.PAYLOAD, key)
        (directory / "claim.dsse.json").write_bytes(envelope)
        (directory / "claim.dsse.json.sig").write_bytes(signing.ssh_signature(envelope, key))
        done = place.verify()
        assert not done.holds, payload


WEIRD: tuple[Any, ...] = (
    None, 0, -1, 1e308, True, "", "x" * 5000, "\x1b[2J", "../../x", [], {}, [[]], {"a": {}}, ["x"], 10**30,
    "9999-12-31T23:59:59+23:59", "0001-01-01T00:00:00+23:00", {"sha256": []},
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_no_value_in_a_signed_claim_breaks_verify(seed: int, forge: Callable[..., Verified], place: Place) -> None:
    """results.json and labkit's own words of the statement, with a value in each place that nobody expects there."""
    ident, files = archive_of(place)
    document = json.loads(files[f"{ident}/results.json"])
    document["results"] = document["results"][:3]
    about = {"kernel": "k", "image": {"recipe": "r", "sha256": "s"}, "selection": {}, "packages": {"sha256": "p"}}
    document["evidence"] = about

    def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield at
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                yield from places(value[key], (*at, key))

    for number, at in enumerate(places(document)):
        if at and number % 4 == seed:
            changed = json.loads(json.dumps(document))
            inner = changed
            for key in at[:-1]:
                inner = inner[key]
            inner[at[-1]] = WEIRD[number // 4 % len(WEIRD)]
            done = forge(
                {"raw.tar.gz": archives.packed({**files, f"{ident}/results.json": json.dumps(changed).encode()})}
            )
            assert not done.holds
            assert "\x1b" not in done.text
    own = predicate(place.directory / "claim")["labkit_claim"]
    for key in own:
        for value in WEIRD[seed::4]:
            done = forge({"raw.tar.gz": archives.packed(files)}, **{**own, key: value})
            assert "\x1b" not in done.text


# --- evidence


def test_a_machine_tells_what_it_is_in_one_command() -> None:
    text = (
        "\n= bootstrap\n1\tgo\tdone\t2.5\n\n= kernel\nLinux 6.12 #1 x86_64\n\n= config\n/boot/config-6.12 "
        + "a" * 64
        + "  -\n\n= lsm\nlockdown,capability\n\n= cpu\nA processor\nonline 2\n\n= cgroup\ncgroup2 /sys/fs/cgroup rw\n"
        '\n= seccomp\nlibseccomp.so.2.6.0\n\n= os\nID=debian\nVERSION_ID="13"\n\n= packages\ndeb\n'
        "runc 1.1.15+ds1-2 amd64\nbad\n"
    )
    asked = evidence.read(text)
    assert asked.bootstrap == {"go": 2.5}
    assert asked.facts["kernel configuration"] == {"file": "/boot/config-6.12", "sha256": "a" * 64}
    assert asked.facts["libseccomp"] == "2.6.0"
    bom = json.loads(asked.packages)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.5")
    assert bom["components"] == [
        {
            "type": "library", "name": "runc", "version": "1.1.15+ds1-2",
            "purl": "pkg:deb/debian/runc@1.1.15%2Bds1-2?arch=amd64",
        }
    ]  # fmt: skip
    nothing = evidence.read("")
    assert (nothing.packages, nothing.bootstrap) == ("", {})
    assert "has neither /proc/config.gz nor" in str(nothing.facts["kernel configuration"])
    hostile = evidence.read("\n= packages\ndeb\n\x1b[2J 1 x\n= lsm\n" + "y" * 10_000)
    assert "\x1b" not in hostile.packages
    assert len(str(hostile.facts["lsm"])) <= 1000


def test_a_programs_version_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/vagrant"
    program.write_text('#!/bin/sh\necho asked >>"$HOME/asked"\necho Vagrant 2.4\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):
        assert evidence._version(["vagrant", "--version"], place.settings) == "Vagrant 2.4"
    assert (tmp_path / "asked").read_text() == "asked\n"
    assert evidence._version(["no-such-program", "--version"], place.settings) == ""


def test_a_large_files_digest_is_made_once(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"one")
    first = digest_once(tmp_path / "host", disk)
    assert first == statement.sha256(b"one")
    kept = next((tmp_path / "host").iterdir())
    kept.write_text("f" * 64)
    assert digest_once(tmp_path / "host", disk) == "f" * 64  # not read again
    disk.write_bytes(b"another")
    assert digest_once(tmp_path / "host", disk) == statement.sha256(b"another")


def test_the_script_runs_in_a_shell(tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", evidence._SCRIPT], capture_output=True, text=True, check=False)
    asked = evidence.read(done.stdout)
    assert os.uname().release in str(asked.facts["kernel"])
    assert "online" in str(asked.facts["cpu"])
    if shutil.which("dpkg-query"):
        about = asked.facts["packages"]
        assert isinstance(about, dict)
        assert isinstance(about["count"], int)
        assert about["count"] > 50


def test_packages_of_older_runs_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "packages.txt").write_text("runc 1.1.15-2\n")
    assert evidence.packages_of(tmp_path) == {"runc": "1.1.15-2"}
    (tmp_path / evidence.PACKAGES).write_text('{"components": [{"name": "runc", "version": "1.2"}]}')
    assert evidence.packages_of(tmp_path) == {"runc": "1.2"}
    assert evidence.packages_of(tmp_path / "none") == {}


# --- figures


def test_claims_are_made_and_verified_in_time(made: Place, tmp_path: Path) -> None:
    """CPU, as others run beside this, and several times what benchmarks/claim.py measures: no more than a net."""
    settings_ = made.settings
    before = time.process_time()
    claims.claim(settings_, ["latest"], tmp_path / "claim")
    assert time.process_time() - before < 8
    before = time.process_time()
    assert verify(tmp_path / "claim", key=made.public).holds
    assert time.process_time() - before < 8

"""The scenarios of the runtimetest suite: what they keep, what they say where they cannot run, and rkt's console."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import lzma
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.guest.programs import evidence, rkt, scenarios
from labkit.guest.programs.evidence import Evidence
from labkit.guest.programs.host import Tree
from labkit.guest.programs.steps import OVERDUE, Steps, captured
from labkit.results import policy, verdicts
from labkit.results.model import Verdict
from labkit.results.verdicts import End
from tests import replay
from tests.conftest import until
from tests.test_programs import naps

SEEN = b"""\x1b[0;1;39m[ 3235.464921] runtimetest[10]: TAP version 13\r
[ 3235.466052] runtimetest[10]: ok 1 - root filesystem\r
[ 3235.466113] runtimetest[10]: not ok 2 - hostname\r
[ 3235.466200] runtimetest[10]:   ---\r
[ 3235.466281] runtimetest[10]:   {\r
[ 3235.466342] runtimetest[10]:     "actual": "rkt-1f", "expected": "mrsdalloway"\r
[ 3235.466402] runtimetest[10]:   }\r
[ 3235.466461] runtimetest[10]:   ...\r
runtimetest[4]: 1..2\r
"""  # the last line as a kernel leaves it that prints no times


def relayed(said: bytes, todo: str = "") -> tuple[bytes, bytes]:
    console, out = io.BytesIO(), io.BytesIO()
    rkt.relay(io.BytesIO(said), console, out, todo)
    return console.getvalue(), out.getvalue()


def read(out: bytes) -> dict[str, tuple[Verdict, object]]:
    file = verdicts.read("rkt", out, "", End(status=0))
    assert not file.notes, "nothing is left for anybody to mend"
    return {one.name: (one.verdict, one.diagnostic) for judged in file.judged for one in judged.results}


def test_what_journald_puts_before_each_line_is_left_out_and_kept() -> None:
    console, out = relayed(SEEN)
    assert console == SEEN
    assert out.splitlines()[0] == b"TAP version 13"
    found = read(out)
    assert found["root filesystem"][0] is Verdict.PASS
    assert found["hostname"] == (Verdict.FAIL, {"actual": "rkt-1f", "expected": "mrsdalloway"})


def test_what_is_recorded_of_a_pod_is_read_whole_and_the_policy_knows_what_fails() -> None:
    """rkt 1.30 with its stage1 host on Debian 13, 2026-11-27."""
    recorded = lzma.decompress((Path(__file__).parent / "recordings/rkt-console.txt.xz").read_bytes())
    file = verdicts.read("rkt", relayed(recorded)[1], "", End(status=0))
    [judged] = file.judged
    assert not file.notes
    results = [result for result in judged.results if not result.whole]
    assert Counter(result.verdict.value for result in results) == {"pass": 237, "skip": 39, "fail": 25}
    entries = [entry for entry in policy.load() if entry.rule.suite == "runtimetest"]
    for result in results:
        if result.bad:
            assert any(entry.concerns(result) for entry in entries), result.name


def test_other_lines_of_the_console_stay_as_they_are() -> None:
    said = b"run: warning [10]: x\nrkt[10]: ok 1\n[x] runtimetest[10]: y\nok 1 - [ 3.5] runtimetest[10]: z\nlast"
    assert relayed(said) == (said, said)


def test_what_fails_in_a_chroot_is_marked_and_what_passes_is_not() -> None:
    found = read(relayed(b"ok 1 - a\nnot ok 2 - b\n1..2\n", rkt.ISOLATES_NOTHING)[1])
    assert found["a"][0] is Verdict.PASS
    assert found["b"][0] is Verdict.TODO


def test_a_console_that_floods_is_kept_in_part_and_passed_on_whole() -> None:
    line = b"[ 1.5] runtimetest[2]: " + b"x" * 1000 + b"\n"
    console, out = relayed(line * 5000)
    assert len(console) == rkt.CONSOLE_LIMIT < len(line) * 5000
    assert out == (b"x" * 1000 + b"\n") * 5000


def test_a_machine_without_rkt_says_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("labkit.guest.common.executables._USUAL", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert scenarios.run("rkt", Tree(tmp_path), "/bin/true", tmp_path) == 0
    said = capfd.readouterr().out
    assert said.splitlines() == [
        "TAP version 13",
        '1..0 # SKIP rkt is not installed: the bootstrap step rkt builds it (tools = [..., "rkt"] in labkit.toml)',
    ]
    [judged] = verdicts.read("rkt", said.encode(), "", End(status=0)).judged
    assert judged.program.verdict is Verdict.SKIP


@pytest.fixture
def docker2aci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Convert an archive with a docker2aci that does what a script says; the line about it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def convert(script: str) -> str:
        (tmp_path / "docker2aci").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "docker2aci").chmod(0o755)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            rkt.convert(Evidence(tmp_path / "kept"), Steps())
        return out.getvalue().splitlines()[1]

    return convert


def test_docker2aci_that_never_ends_is_killed_with_all_that_it_started(
    docker2aci: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rkt, "CONVERSION", 0.5)
    begun = time.monotonic()
    assert docker2aci(f"echo layer 1; {replay.NAP} & wait").startswith("not ok 1 - docker2aci makes an image")
    assert time.monotonic() - begun < 60
    until(lambda: not naps(), 15, "what was killed is gone")
    kept = (tmp_path / "kept/docker2aci.txt").read_text()
    assert kept == f"layer 1\nit had not ended after 0.5 s and was killed\nstatus {OVERDUE}\n"


def test_an_image_without_files_is_no_image_whatever_docker2aci_says(docker2aci: Callable[[str], str]) -> None:
    made = "mkdir -p rootfs/bin; touch manifest; tar -cf a.aci manifest rootfs"
    assert docker2aci(made).startswith("not ok")
    assert docker2aci(f"touch rootfs/runtimetest; {made}").startswith("ok 1 - docker2aci makes an image for rkt of it")
    assert docker2aci(f"{made}; exit 3").startswith("not ok")


def test_a_command_that_ends_in_time_has_its_own_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert captured(["sh", "-c", "echo a; exit 3"], seconds=30) == (3, "a")


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("true", []),
        ("case $2 in list) echo 8f3 ;; esac", ["pod 8f3", "directory {store}"]),
        ("case $2-$3 in image-list) echo sha512-1; echo; echo sha512-2 ;; esac",
         ["image sha512-1", "image sha512-2", "directory {store}"]),
    ],
    ids=["nothing", "a pod", "images"],
)  # fmt: skip
def test_what_rkt_does_not_remove_is_named_and_its_store_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, left: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store, program = tmp_path / "store", tmp_path / "rkt"
    (store / "pods").mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    found, _ = rkt.clear(rkt.Rkt(str(program), "no systemd", store))
    assert found == [line.format(store=store) for line in left]
    assert store.exists() == bool(left)
    assert not (tmp_path / "store.left").exists()


# --- evidence


def carried(directory: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, data in evidence.pieces(directory):
        found[name] = found.get(name, b"") + base64.b64decode(data)
    return found


def test_evidence_is_carried_home_with_its_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = os.urandom(200_000)
    (tmp_path / "image.tar").write_bytes(image)
    kept = Evidence(tmp_path / "kept")
    kept.file(tmp_path / "image.tar")
    kept.text("listing.txt", "drwxr-xr-x bin/\n")
    found = carried(tmp_path / "kept")
    assert found["image.tar"] == image
    assert found["listing.txt"] == b"drwxr-xr-x bin/\n"
    for name, data in found.items():
        (tmp_path / name).write_bytes(data)
    status, said = captured(["sha256sum", "-c", evidence.SUMS])
    assert (status, said) == (0, "image.tar: OK\nlisting.txt: OK")


def test_of_what_is_too_large_the_digest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "FILE_LIMIT", 1000)  # the sentence has it in MiB
    (tmp_path / "image.tar").write_bytes(b"x" * 1001)
    Evidence(tmp_path / "kept").file(tmp_path / "image.tar")
    digest = hashlib.sha256(b"x" * 1001).hexdigest()
    said = f"image.tar: 1001 bytes, sha256 {digest}: more than 0 MiB\n"
    assert carried(tmp_path / "kept") == {evidence.ELSEWHERE: said.encode()}


def test_what_a_hostile_program_leaves_is_no_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "LIMIT", 100_000)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "kept" / "below").mkdir(parents=True)
    (tmp_path / "kept" / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "kept" / "fifo")
    (tmp_path / "kept" / "large").write_bytes(b"x" * 200_000)
    assert {name: len(data) for name, data in carried(tmp_path / "kept").items()} == {"large": 100_000}
    assert carried(tmp_path / "nowhere") == {}

"""`explain`: why a check failed, from what is kept of a run; and the folder that does it again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.observer import Silent
from labkit.reports import as_explanation, as_html, reproduction
from labkit.reports.as_explanation import config as particular
from labkit.results import sentences, tap
from labkit.results.model import Result, Run, RunInfo, RuntimeInfo, SuiteInfo, Verdict
from labkit.results.transcript import Called, Found, Made, Transcript, unpack
from labkit.store import runs
from labkit.suites.spec import from_tap
from labkit.usecases import explain as use
from labkit.usecases.judge import judge_all
from tests.conftest import ROOT
from tests.recorded import V2
from tests.test_bootstrap import shellcheck
from tests.test_cli import labkit

RECORDED = ROOT / "tests/recordings/explain/spec.tap"
OLD = (
    'TAP version 14\n# runtime-path: /usr/bin/runc\n1..1\nnot ok 1 - STATE-001 state\n  ---\n  verdict: "fail"\n  ...\n'
)
HOSTILE = 'it\'s "$(touch /tmp/pwned)" `id` $HOME \\ @STEPS@ *;\n#'


def run_of(file: Path) -> Run:
    reading = from_tap(tap.read(file.read_bytes()))
    now = datetime.now(UTC)
    info = RunInfo("ID", now, now, "0")
    return Run(
        info, {}, RuntimeInfo("runc", "/usr/sbin/runc", "1.1.5"), SuiteInfo("spec", "1", "1.0.2"), reading.results
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a run in its reports: the recorded one."""
    made = config.load({}, cwd=tmp_path, environ={"HOME": str(tmp_path)})
    (tmp_path / "saved").mkdir()
    shutil.copy(RECORDED, tmp_path / "saved/spec.tap")
    judge_all(made, str(tmp_path / "saved"))
    return made


def text(settings: Settings, ident: str, *, full: bool = False) -> str:
    return as_explanation.text(use.explain(settings, "latest", ident), full=full)


def test_a_failed_check_is_explained_from_its_sentence_to_its_last_command(settings: Settings) -> None:
    shown = text(settings, "hook-010")
    order = [
        "HOOK-010: fail, as the policy expects",
        "MUST, https://github.com/opencontainers/runtime-spec/blob/v1.0.2/runtime.md#runtimeLifecycle",
        'MUST: "If any `startContainer` hook fails, the runtime MUST generate an error',
        "runc 1.1.5",
        "expected: runc's start is over",
        "start with a startContainer hook that fails (the policy expects this)",
        "  expected  exit status not 0",
        "  actual    exit status 0 after",
        "$W/bundle2/config.json: what it has beside a plain one",
        '"startContainer": [',
        "exit 3",
        "$ /usr/sbin/runc create --bundle $W/bundle2 --pid-file $W/labkit-",
        "exit status 0 after",
        "$ /usr/sbin/runc start labkit-",
        "$ /usr/sbin/runc state labkit-",
        '  "status": "stopped"',
        "  ! state after a failed startContainer hook",
        "$ /usr/sbin/runc delete labkit-",
        "what was written to $W/bundle2/out/log:",
        "HOOK-010 --reproduce does it again",
    ]
    at = 0
    for words in order:
        assert words in shown[at:], words
        at = shown.index(words, at)
    assert "CAP_CHOWN" not in shown
    assert "CAP_CHOWN" in text(settings, "HOOK-010", full=True)


def test_a_bundle_that_nothing_used_is_not_shown(settings: Settings) -> None:
    shown = text(settings, "DEV-002")
    assert "$W/bundle2:" in shown
    assert "bundle4" not in shown


def test_the_same_as_json(settings: Settings) -> None:
    found = json.loads(json.dumps(as_explanation.to_json(use.explain(settings, "latest", "CONF-009"))))
    assert found["results"][0]["verdict"] == "fail"
    assert found["results"][0]["findings"][0]["finding"] == "create-with-a-config-json-that-is-not-utf-8"
    assert found["sentences"][0]["reference"].startswith("glossary.md#")
    steps = found["transcript"]["steps"]
    assert [step["step"] for step in steps] == ["made", "made", "called", "found"]
    assert "caf\\xe9" in steps[1]["text"]
    assert steps[2]["argv"][:2] == ["/usr/sbin/runc", "create"]


def test_what_passed_says_so(settings: Settings) -> None:
    found = use.explain(settings, "latest", "STATE-001")
    assert found.transcript is None
    assert "It passed; the suite records what a check does only where that is bad." in as_explanation.text(found)


@pytest.mark.parametrize(
    ("ident", "message"),
    [
        ("HOOK-100", "neither a check nor a program HOOK-100; did you mean 'HOOK-010'?"),
        ("STATE-003", "STATE-003 did not run in"),
        ("nonsense-that-is-like-nothing", "neither a check nor a program nonsense-that-is-like-nothing"),
    ],
)
def test_an_id_that_the_run_does_not_have(settings: Settings, ident: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        use.explain(settings, "latest", ident)
    assert message in error.value.message


def test_an_older_run_says_in_one_line_how_to_get_it(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/spec.tap").write_text(OLD)
    found = use.explain(settings, str(tmp_path / "old"), "STATE-001")
    assert found.transcript is None
    assert "./lab test --only STATE-001 --runtime /usr/bin/runc" in found.lacking
    with pytest.raises(UsageError, match="cannot be done again"):
        use.write(found, tmp_path / "out")


def test_a_damaged_transcript_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/spec.tap").write_text(f"{OLD}# transcript STATE-001 AAAA\n")
    assert "is damaged" in use.explain(settings, str(tmp_path / "old"), "STATE-001").lacking


def test_a_run_without_its_raw_output(settings: Settings) -> None:
    shutil.rmtree(runs.find(settings.reports, "latest") / "raw")
    assert "./lab test --only HOOK-010" in text(settings, "HOOK-010")


def test_a_program_of_another_suite_shows_what_it_printed(settings: Settings) -> None:
    found = use.explain(settings, str(V2), "hostname")
    shown = as_explanation.text(found)
    assert "hostname.tap" in shown
    assert "TAP version 13" in shown
    assert "not recorded, only what it printed" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", ["(empty)"]),
        (b"[]", ["[]"]),
        (b'{"a": "\xff"}', ['{"a": "\\xff"}']),
        (b'{"hostname": "a", "hostname": "b"}', ['{"hostname": "a", "hostname": "b"}']),
        (b'{"ociVersion": ""}', ['  "ociVersion": ""', "without hostname"]),
        (b'{"process": 1}', ['  "process": 1', "without ociVersion"]),
        (b'{"mounts": null}', ['  "mounts": null']),
    ],
)
def test_a_config_is_shown_by_what_is_particular_in_it(data: bytes, shown: list[str]) -> None:
    _, lines = particular(data, ("1.0.2",))
    for line in shown:
        assert line in lines


def test_the_sentences_of_every_check_are_those_of_the_page() -> None:
    page = (ROOT / use.PAGE).read_text()
    held = {result.id: sentences.held_by(result.id, page) for result in run_of(RECORDED).results}
    assert all(held.values())
    assert sentences.held_by("NONE-001", page) == []


def test_the_page_of_a_run_has_what_a_check_did_once(settings: Settings) -> None:
    page = (runs.find(settings.reports, "latest") / "report.html").read_text()
    assert page.count("<summary>what the check did</summary>") == 4
    assert "<h3>commands</h3>" not in page
    run = run_of(RECORDED)
    older = tuple(dataclasses.replace(result, transcript="") for result in run.results)
    assert "<h3>commands</h3>" in as_html.render(dataclasses.replace(run, results=older))


# --- the folder


def folder(tmp_path: Path, *steps: object) -> tuple[Path, Transcript]:
    made = Transcript("/tmp/labkit-1/work/X-1", "1", ("/usr/bin/runc", "--debug"), "/bin/busybox", tuple(steps))  # type: ignore[arg-type]
    result = Result("X-1", HOSTILE, "MUST", "x", Verdict.FAIL, 0.1, {"message": HOSTILE})
    for path, data in reproduction.files(run_of(RECORDED), result, made).items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(data)
    return tmp_path / "folder" / reproduction.SCRIPT, made


@pytest.mark.needs("shellcheck")
def test_scripts_are_clean(settings: Settings, tmp_path: Path) -> None:
    for ident in ("HOOK-010", "CONF-009", "DEV-002", "NS-007"):
        script = use.write(use.explain(settings, "latest", ident), tmp_path / ident)
        assert shellcheck(script.read_text()) == ""
        assert script.stat().st_mode & 0o111
        assert (tmp_path / ident / "work/bundle2/config.json").is_file()
    config = (tmp_path / "HOOK-010/work/bundle2/config.json").read_text()
    assert "@WORK@/bundle2/busybox-outside" in config
    assert "/tmp/labkit-" not in config
    script, _ = folder(tmp_path, *every_kind())
    assert shellcheck(script.read_text()) == ""


def every_kind() -> list[object]:
    return [
        Made("b", "bundle"),
        Made("b/x y'", "file", 0o640, b"/tmp/labkit-1/work/X-1/b labkit-1"),
        Made("b/cut", "file", 0o644, b"x", whole=False),
        Made("b/d", "directory", 0o700),
        Made("b/l", "link", 0o777, to=HOSTILE.replace("\n", "")),
        Made("b/n", "node", 0o600, device=("c", "1", "3"), owner=(1, 2)),
        Made("b/h", "busybox", 0o755),
        Made("b/h", "gone"),
        Made("b/o", "other"),
        Found(HOSTILE),
        Called(("/usr/bin/runc", "--debug", "create", HOSTILE, "labkit-1-x-1"), None, True, umask="035", cwd="/tmp"),
        Called(("/bin/busybox", "echo", HOSTILE), -9, True, env={"A": HOSTILE}, stdin="/tmp/labkit-1/work/X-1/b/cut"),
        Called(("sleep", "0"), beside=True),
        Called(("runc", "state"), stderr=HOSTILE),
    ]


def test_the_folder_must_be_a_new_one(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    found = use.explain(settings, "latest", "CONF-009")
    with pytest.raises(UsageError, match="not empty"):
        use.write(found, tmp_path / "there")
    assert use.write(found, tmp_path / "a/b/c").exists()


def test_without_its_machine_it_says_what_else_there_is(settings: Settings) -> None:
    found = use.explain(settings, "latest", "CONF-009")
    with pytest.raises(UsageError) as error:
        use.enter(settings, found, Silent())
    assert "--reproduce DIR" in str(error.value.hint)


def test_as_a_command(settings: Settings, tmp_path: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(*words: str, status: int = 0) -> str:
        done = labkit("explain", *words, environ=environ, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    assert "CONF-009: fail" in run("latest", "CONF-009")
    assert json.loads(run("latest", "CONF-009", "--json"))["transcript"]["busybox"]
    assert len(run("latest", "CONF-009", "--full", "--verbose")) > len(run("latest", "CONF-009"))
    assert run("latest", "CONF-009", "--reproduce", "out").strip() == "out/run.sh"
    assert json.loads(run("latest", "CONF-009", "--json", "--reproduce=out2")) == {"script": "out2/run.sh"}
    assert "not empty" in run("latest", "CONF-009", "--reproduce", "out", status=2)
    assert "does not say on which machine" in run("latest", "CONF-009", "--reproduce", status=2)
    assert "no run" in run("nothing", "CONF-009", status=2)
    assert "is a file" in run(str(RECORDED), "CONF-009", status=2)


# --- again


INSIDE = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'  # crun 1.8 takes no hybrid cgroups


def again(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["unshare", "-m", "sh", "-c", INSIDE, "sh", "sh", str(script), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.host_runtime
@pytest.mark.needs("busybox")
def test_every_word_arrives_as_it_was(tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    runtime.write_text(f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done >>{tmp_path}/words\numask >&2\nexit 0\n')
    runtime.chmod(0o755)
    script, _ = folder(tmp_path, *every_kind()[:11])
    done = again(script, str(runtime))
    assert done.returncode == 1
    assert "exit status 0, which was 137" in done.stdout
    assert "0035" in done.stdout
    words = (tmp_path / "words").read_text().split("\0")
    assert words[:3] == ["--debug", "create", HOSTILE]
    assert not Path("/tmp/pwned").exists()
    name = words[3].removesuffix("-x-1")
    assert not Path("/tmp", name).exists()


@pytest.mark.host_runtime
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_what_failed_fails_in_the_same_way(tmp_path: Path, runtime: str) -> None:
    """Of a dozen checks and more, all commands end as they did in the suite."""
    if not shutil.which(runtime):
        pytest.skip(f"no {runtime}")
    ids = """CONF-001 CONF-006 CONF-009 CONF-024 DELETE-003 DEV-002 HOOK-007 HOOK-010 HOOK-011 HOOK-013 MASK-002
    MOUNT-040 MOUNT-041 NS-007 PROC-007 REQ-001 REQ-002 RLIM-003 ROPATH-002 SECC-014""".split()  # noqa: SIM905
    suite = [sys.executable, "-m", "labkit.guest.spec", "--runtime", runtime, "--no-confirm", "--transcripts"]
    argv = ["unshare", "-m", "sh", "-c", INSIDE, "sh", *suite, "--only", ",".join(ids)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, timeout=600, env=environ, check=False)
    reading = from_tap(tap.read(done.stdout))
    assert reading.reason is None, done.stderr
    bad = [result for result in reading.results if result.bad]
    assert len(bad) >= 12, [result.id for result in bad]
    for result in bad:
        transcript = unpack(result.transcript)
        assert transcript, result.id
        for path, data in reproduction.files(run_of(RECORDED), result, transcript).items():
            (tmp_path / result.id / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / result.id / path).write_bytes(data)
        found = again(tmp_path / result.id / "run.sh")
        assert found.returncode == 0, f"{result.id}\n{found.stdout}\n{found.stderr}"
        for call in transcript.calls:  # the words are the same, too
            if call.status and transcript.name not in call.stderr:
                last = call.stderr.strip().splitlines()[-1].rpartition('msg="')[2]
                assert re.sub("[0-9]+", "N", last) in re.sub("[0-9]+", "N", found.stdout), result.id  # pids differ

"""The seam that runs programs, on real small ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core.deadline import Deadline
from labkit.core.errors import HostError, LabError, ProgramFailed
from labkit.core.observer import Silent
from labkit.io import process
from labkit.io.process import run
from tests.conftest import spawned

IGNORE = Silent().detail
# Ignores what asks it to end, as does its child; both say so by a file.
STUBBORN = """trap '' TERM INT HUP
(echo >"$1.child"; sleep 60; sleep 60) &
echo >"$1"
wait
"""


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.2)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What is run with it leaves nothing behind, and a test that finds something fails."""
    yield {process.OWNER: str(tmp_path)}
    gone = Deadline.after(5).poll(lambda: not process.owned(tmp_path))  # what was killed may take a moment
    process.end_owned(tmp_path)
    assert gone


def python(text: str, *words: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", text, *words]


# ---- what it returns


def test_what_a_program_prints_and_its_status() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=10, check=False)
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert done.argv == (str(process.which("sh")), "-c", "echo out; echo err >&2; exit 3")
    assert (done.outcome, done.exit_status) == ("failed with status 3", 3)


def test_the_words_are_not_read_by_a_shell(tmp_path: Path) -> None:
    assert run(["printf", "%s", "$HOME; `id` *"], timeout=10, cwd=tmp_path).stdout == "$HOME; `id` *"


def test_it_runs_where_it_is_told_to(tmp_path: Path) -> None:
    assert run(["pwd"], timeout=10, cwd=tmp_path).stdout == f"{tmp_path}\n"


@pytest.mark.parametrize("size", [0, 5, 1 << 20])
def test_stdin_is_what_is_given(size: int) -> None:
    assert run(["wc", "-c"], timeout=10, stdin=b"x" * size).stdout.strip() == str(size)
    lines: list[str] = []
    run(["wc", "-c"], timeout=10, stdin=b"x" * size, on_line=lines.append)
    assert [line.strip() for line in lines] == [str(size)]


def test_without_stdin_there_is_nothing_to_read() -> None:
    assert run(["cat"], timeout=10).stdout == ""


def test_a_program_that_reads_nothing_of_its_input_is_no_failure() -> None:
    assert run(["true"], timeout=10, stdin=b"x" * (1 << 20)).status == 0


def test_output_that_is_no_utf_8_is_still_text() -> None:
    assert run(["printf", r"a\377b"], timeout=10).stdout == "a\ufffdb"
    lines: list[str] = []
    run(["printf", r"a\377b"], timeout=10, on_line=lines.append)
    assert lines == ["a\ufffdb"]


def test_lines_come_while_the_program_runs(tmp_path: Path) -> None:
    """The program waits for what its first line brings about."""
    go = tmp_path / "go"
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        go.touch()

    script = 'echo one; while ! [ -e "$1" ]; do sleep 0.01; done; echo two >&2; printf three'
    done = run(["sh", "-c", script, "sh", str(go)], timeout=10, on_line=hear)
    assert lines == ["one", "two", "three"]
    assert (done.stdout, done.stderr) == ("one\ntwo\nthree", "")


@pytest.mark.parametrize("heard", [True, False])
def test_of_a_flood_the_end_is_kept(heard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_KEPT", 1000)
    script = "seq 20000; echo over"
    done = run(["sh", "-c", script], timeout=10, on_line=IGNORE if heard else None)
    assert len(done.stdout) == 1000
    assert done.stdout.endswith("\n19999\n20000\nover\n")


def test_a_line_without_end_comes_in_pieces() -> None:
    lines: list[str] = []
    run(["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo next"], timeout=10, on_line=lines.append)
    assert lines.pop() == "next"
    assert len(lines) > 1
    assert max(map(len, lines)) <= 2 * process._LINE
    assert "".join(lines) == "x" * 1_000_000


def test_what_a_program_leaves_running_is_not_waited_for(mark: dict[str, str], tmp_path: Path) -> None:
    """It holds the pipe of its starter, as a daemon does that an installation starts."""
    lines: list[str] = []
    began = time.monotonic()
    run(["sh", "-c", "setsid sleep 60 & sleep 0.1; echo begun"], timeout=10, env=mark, on_line=lines.append)
    assert lines == ["begun"]
    assert time.monotonic() - began < 5
    assert process.end_owned(tmp_path) == 1


# ---- its environment


def environment(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("_="))


PASSED = {"HOME": "/home/ada", "XDG_CACHE_HOME": "/cache", "https_proxy": "http://proxy:3128", "SSL_CERT_FILE": "/ca"}
KEPT_BACK = {
    "LABKIT_HOME": "/lab", "_LABKIT_OWNER": "/lab/machines/other", "NOTIFY_SOCKET": "/run/notify", "LISTEN_FDS": "1",
    "LD_PRELOAD": "/no/such.so", "PYTHONPATH": "/modules", "GIT_DIR": "/repository/.git", "LC_MESSAGES": "de_DE.UTF-8",
    "VAGRANT_HOME": "/boxes",
}  # fmt: skip


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {**PASSED, **KEPT_BACK, "PATH": "/usr/bin:/bin"}.items():
        monkeypatch.setenv(name, value)


FIXED = {"PATH": "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}


def test_a_program_gets_what_it_needs_of_the_environment(surroundings: None) -> None:
    assert environment(run(["env"], timeout=10).stdout) == {**PASSED, **FIXED}


def test_a_spawned_program_gets_the_same(surroundings: None, tmp_path: Path) -> None:
    assert spawned(["env"], cwd=tmp_path, log=tmp_path / "log", env={"MORE": "1"}).wait() == 0
    assert environment((tmp_path / "log").read_text()) == {**PASSED, **FIXED, "MORE": "1"}


def test_a_caller_adds_to_it_and_hands_more_through(surroundings: None) -> None:
    done = run(["env"], timeout=10, env={"HOME": "/elsewhere", "MORE": "1"}, passing=process.VAGRANT)
    more = {"HOME": "/elsewhere", "MORE": "1", "VAGRANT_HOME": "/boxes"}
    assert environment(done.stdout) == {**PASSED, **FIXED, **more}


def test_a_check_of_labkit_itself_has_all_of_it(surroundings: None) -> None:
    del os.environ["LD_PRELOAD"]  # the loader would complain of it
    found = environment(run(["env"], timeout=10, passing=process.ALL).stdout)
    assert found == {**os.environ, **FIXED}
    assert found["LABKIT_HOME"] == "/lab"


# ---- what goes wrong


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(HostError, match="no-such-program is not installed on this host"):
        run(["no-such-program"], timeout=10)


@pytest.mark.parametrize(
    ("content", "why"), [("#!/no/such/shell\n", "No such file or directory"), ("\0\1\2", "Exec format error")]
)
def test_a_program_that_does_not_start(tmp_path: Path, content: str, why: str) -> None:
    broken = tmp_path / "broken"
    broken.write_text(content)
    broken.chmod(0o755)
    with pytest.raises(ProgramFailed, match=f"^broken cannot be started: {why}: {broken} one$"):
        run([broken, "one"], timeout=10)
    with pytest.raises(ProgramFailed, match=f"^broken cannot be started: {why}: {broken} "):
        spawned([broken], cwd=tmp_path, log=tmp_path / "log", env={})


def test_a_failure_tells_the_command_its_place_and_what_it_said_last(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed) as caught:
        run(["sh", "-c", "echo much; echo 'so\033 it is' >&2; exit 7"], timeout=10, cwd=tmp_path)
    command = r"""sh -c 'echo much; echo '"'"'so\x1b it is'"'"' >&2; exit 7'"""
    assert caught.value.message == f"sh failed with status 7: {command} (in {tmp_path})"
    assert caught.value.hint == r"so\x1b it is"


def test_a_failure_without_a_word_on_stderr_has_stdout_as_its_hint() -> None:
    with pytest.raises(ProgramFailed) as caught:
        run(["sh", "-c", "echo only this; exit 1"], timeout=10)
    assert caught.value.hint == "only this"
    with pytest.raises(ProgramFailed) as caught:
        run(["false"], timeout=10)
    assert (caught.value.message, caught.value.hint) == ("false failed with status 1: false", None)


def test_an_enormous_command_stays_readable() -> None:
    with pytest.raises(ProgramFailed) as caught:
        run(["false", *map(str, range(10_000))], timeout=10)
    assert caught.value.message.startswith("false failed with status 1: false 0 1 2 3 ")
    assert caught.value.message.endswith(" more characters)")
    assert len(caught.value.message) < 2100


@pytest.mark.parametrize(
    ("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (13, "SIGPIPE"), (40, "signal 40"), (64, "SIGRTMAX")]
)
def test_a_signal_has_its_name(number: int, name: str) -> None:
    words = ["sh", "-c", f"ulimit -c 0; kill -{number} $$"]
    with pytest.raises(ProgramFailed, match=f"^sh failed, ended by {name}: sh -c "):
        run(words, timeout=10)
    assert run(words, timeout=10, check=False).exit_status == 128 + number


def test_each_command_and_its_end_are_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level("DEBUG", "labkit.process"):
        run(["printf", "a b"], timeout=10, cwd=tmp_path)
        run(["sh", "-c", "kill -9 $$"], timeout=10, check=False)
        spawned(["true"], cwd=tmp_path, log=tmp_path / "log", env={}).wait()
    told = [re.sub(r"[0-9.]+ s$", "N s", record.getMessage()) for record in caplog.records]
    assert told == [
        f"+ printf 'a b' (in {tmp_path})",
        "printf ended with status 0 after N s",
        "+ sh -c 'kill -9 $$'",
        "sh failed, ended by SIGKILL after N s",
        f"+ true (in {tmp_path})",
    ]


# ---- time limits, and callers who give up


@pytest.mark.parametrize(("limit", "shown"), [(0.1, "0.1 s"), (0.0999999, "0.1 s")])
@pytest.mark.parametrize("heard", [True, False])
def test_a_program_that_takes_too_long_is_ended(limit: float, shown: str, heard: bool, mark: dict[str, str]) -> None:
    script = "echo 'on its way'; sleep 60 & sleep 60"
    with pytest.raises(ProgramFailed) as caught:
        run(["sh", "-c", script], timeout=limit, env=mark, on_line=IGNORE if heard else None)
    assert caught.value.message.startswith(f"sh took longer than {shown} and was ended: sh -c ")
    assert caught.value.hint == "on its way"


def test_a_limit_of_the_settings_is_named() -> None:
    with pytest.raises(
        ProgramFailed, match=r"^sleep took longer than 0\.1 s \(limits\.download\) and was ended: sleep 60$"
    ):
        run(["sleep", "60"], timeout=0.0999, limit="download")


def test_it_may_finish_its_step(tmp_path: Path) -> None:
    script = "trap 'echo finished; exit 0' TERM; echo begun; while :; do :; done"
    with pytest.raises(ProgramFailed) as caught:
        run(["sh", "-c", script], timeout=0.1)
    assert caught.value.hint == "begun\nfinished"


@pytest.mark.parametrize("heard", [True, False])
def test_one_that_does_not_end_when_asked_is_killed_with_its_children(
    heard: bool, short_grace: None, mark: dict[str, str], tmp_path: Path
) -> None:
    words = ["sh", "-c", STUBBORN, "sh", str(tmp_path / "begun")]
    with pytest.raises(ProgramFailed, match=r"took longer than 0\.2 s and was ended"):
        run(words, timeout=0.2, env=mark, on_line=IGNORE if heard else None)
    assert (tmp_path / "begun").exists()


def test_a_child_that_outlives_its_ended_parent_is_killed(mark: dict[str, str], tmp_path: Path) -> None:
    script = """sh -c 'trap "" TERM; echo >"$1"; sleep 60; sleep 60' sh "$1" & wait"""
    with pytest.raises(ProgramFailed, match="was ended"):
        run(["sh", "-c", script, "sh", str(tmp_path / "begun")], timeout=0.2, env=mark)
    assert (tmp_path / "begun").exists()


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function Popen.__del__")  # it still runs, says Python
def test_one_that_takes_no_signals_of_ours_is_not_waited_for_without_end(
    short_grace: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sudo, and what it started, take none of an ordinary user."""
    monkeypatch.setattr(process, "end_group", lambda *_: None)
    lines: list[str] = []
    with pytest.raises(ProgramFailed, match=r"^sleep took longer than 0.1 s and does not end: sleep 0.9$"):
        run(["sleep", "0.9"], timeout=0.1, on_line=lines.append)


@pytest.mark.parametrize("heard", [True, False])
def test_ctrl_c_ends_the_whole_group(heard: bool, mark: dict[str, str], tmp_path: Path) -> None:
    script = "sleep 60 & sleep 0.1; kill -INT $PPID; sleep 60"
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", script], timeout=30, env=mark, on_line=IGNORE if heard else None)


def test_ctrl_c_ends_what_ignores_it(short_grace: None, mark: dict[str, str], tmp_path: Path) -> None:
    script = STUBBORN.replace("wait\n", 'sleep 0.1; kill -INT "$PPID"; wait\n')
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", script, "sh", str(tmp_path / "begun")], timeout=30, env=mark)


def test_a_caller_under_nohup_ends_it_all_the_same(mark: dict[str, str]) -> None:
    """Programs inherit that SIGINT and SIGHUP are ignored; ending them does not rest on these."""
    before = [signal.signal(which, signal.SIG_IGN) for which in (signal.SIGINT, signal.SIGHUP)]
    try:
        with pytest.raises(ProgramFailed, match="was ended"):
            run(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.1, env=mark)
    finally:
        for which, old in zip((signal.SIGINT, signal.SIGHUP), before, strict=True):
            signal.signal(which, old)


def test_a_listener_that_fails_ends_the_program(mark: dict[str, str]) -> None:
    def fail(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="hello"):
        run(["sh", "-c", "echo hello; sleep 60"], timeout=30, env=mark, on_line=fail)


def test_who_waits_is_asked_again_and_again_and_may_end_it(mark: dict[str, str]) -> None:
    asked = []

    def patience() -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > 0.5:
            raise LabError("enough")

    with pytest.raises(LabError, match="enough"):
        process.run(["sleep", "100"], timeout=60, env=mark, on_line=print, on_wait=patience)
    assert len(asked) >= 4
    assert asked[-1] - asked[0] < 5


def test_a_broken_pipe_ends_programs_as_it_does_in_a_shell() -> None:
    """Python ignores SIGPIPE; what it starts must not."""
    assert run(["sh", "-c", "yes | head -n 1; kill -PIPE $$"], timeout=10, check=False).status == -signal.SIGPIPE


# ---- what outlives labkit


def test_a_spawned_program_is_found_by_its_mark_and_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    script = "echo begun; sleep 60 & exec sleep 60"
    child = spawned(["sh", "-c", script], cwd=tmp_path, log=log, env={process.OWNER: str(tmp_path)})
    assert Deadline.after(5).poll(lambda: len(process.owned(tmp_path)) == 2)
    assert child.pid in process.owned(tmp_path)
    assert os.getsid(child.pid) == child.pid
    assert process.owned(tmp_path / "other") == []
    assert process.end_owned(tmp_path) == 2
    assert process.owned(tmp_path) == []
    assert child.wait() == -signal.SIGKILL
    assert log.read_text() == "before\nbegun\n"
    assert process.end_owned(tmp_path) == 0


def test_a_spawned_program_has_the_files_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("words")
    with (tmp_path / "state").open("rb") as file:
        number = file.fileno()
        script = f"cat /dev/fd/{number}"
        child = spawned(["sh", "-c", script], cwd=tmp_path, log=tmp_path / "log", env={}, files=[number])
    assert child.wait() == 0
    assert (tmp_path / "log").read_text() == "words"


def test_a_program_takes_labkits_place() -> None:
    program = "from labkit.io.process import replace_with; replace_with(['sh', '-c', 'echo $$ $MINE'])"
    words = [sys.executable, "-c", program]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "MINE": "kept"})
    said, _ = child.communicate()
    assert said == f"{child.pid} kept\n"

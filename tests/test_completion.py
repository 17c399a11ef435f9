"""Completion as people get it: the shells themselves are run, and asked what they offer for a line."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labkit.cli.completion import complete, script
from labkit.cli.flags import CORE_FLAGS
from tests.test_cli import CHECKOUT, COMMANDS, TASKS, labkit

SHELLS = CORE_FLAGS["print_completion_script"].choices
RUN = "20260102T030405Z-debian-13-runc-spec"

# What readline makes of the line that $1 is: it splits words at = : and @ too.
BASH = r"""
source completion.bash
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=() COMP_CWORD=-1
rest=$1
while [[ $rest =~ ^(([^ =:@\'\\]|\\.|\'[^\']*\')+|[=:@]+|\ +)(.*)$ ]]; do
    [[ ${BASH_REMATCH[1]} == ' '* ]] || COMP_WORDS+=("${BASH_REMATCH[1]}")
    rest=${BASH_REMATCH[3]}
done
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
function=$(complete -p lab)
function=${function#*-F }
"${function%% *}" "${COMP_WORDS[0]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory to type in: ./lab is a link to the checkout's, and there are a machine, a run and some files."""
    (tmp_path / "some where").mkdir()
    for path in (tmp_path / "lab", tmp_path / "some where" / "lab"):
        path.symlink_to(CHECKOUT / "lab")
    (tmp_path / "home" / "machines" / "mine").mkdir(parents=True)
    (tmp_path / "reports" / RUN).mkdir(parents=True)
    (tmp_path / "reports" / "latest").symlink_to(RUN)
    (tmp_path / "afile.html").touch()
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    """Without `lab` or `labkit` on the PATH: the script knows where it came from."""
    return {"HOME": str(place), "LABKIT_HOME": str(place / "home"), "PATH": "/usr/bin:/bin", "TERM": "xterm"}


def offers(shell: str, place: Path, line: str) -> set[str]:
    """What the shell offers for the line, with the cursor at its end."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    (place / f"completion.{shell}").write_text(script(shell))
    if shell == "zsh":
        return zsh_offers(place, line)
    argv = {
        "bash": ["bash", "--norc", "--noprofile", "-c", BASH, "bash", line],
        "fish": ["fish", "--no-config", "-c", f"source completion.fish; complete -C {shlex.quote(line)}"],
    }[shell]
    told = subprocess.run(argv, cwd=place, env=environment(place), capture_output=True, text=True, timeout=60)
    assert told.stderr == ""
    # bash replaces what follows the last = and the like, fish and zsh the whole word.
    return {re.sub(r"^--[\w-]+=", "", found.partition("\t")[0]) for found in told.stdout.splitlines() if found}


ZSH = r"""
PS1=
source completion.zsh
compadd() {
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)* ]]; then
        local -a found
        builtin compadd -O found "$@"
        print -rl -- $found >>offered
    fi
    builtin compadd "$@"
}
ask() { zle list-choices; print END >>offered }
zle -N ask
bindkey '^I' ask
"""


def zsh_offers(place: Path, line: str) -> set[str]:
    """zsh completes in its line editor only: type the line into one, with a TAB that writes down what is offered."""
    (place / ".zshrc").write_text(ZSH)
    offered = place / "offered"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place)
        os.execvpe("zsh", ["zsh", "-d", "-i"], environment(place))
    try:
        os.write(terminal, f"{line}\t".encode())
        shown, end = b"", time.monotonic() + 60
        while not (offered.exists() and offered.read_text().endswith("END\n")):
            assert time.monotonic() < end, shown
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    return {re.sub(r"^--[\w-]+=", "", found) for found in offered.read_text().splitlines()[:-1] if found}


# --- what is offered


@pytest.mark.parametrize(
    ("shell", "typed"),
    [
        *(
            ("bash", typed)
            for typed in ("./lab", "lab", "labkit", "some\\ where/lab", "~/lab", "{place}/lab", "sub/../lab")
        ),
        *((shell, typed) for shell in ("fish", "zsh") for typed in ("labkit", "some\\ where/lab", "~/lab")),
    ],
)
def test_however_labkit_is_called(shell: str, typed: str, place: Path) -> None:
    (place / "sub").mkdir()
    assert offers(shell, place, f"{typed.format(place=place)} te") == {"test"}


# How words are cut is the shell's own: these are typed into each of them.
TYPED = [
    ("./lab halt --p", {"--platform", "--provider"}),
    ("./lab up --platform ", {"almalinux", "centos", "debian", "fedora", "ubuntu"}),
    ("./lab up --platform=fedora --release=", {"43", "44", "rawhide"}),
    ("./lab test --only STATE-001,KILL-003,KILL-00", {f"STATE-001,KILL-003,KILL-00{n}" for n in (1, 2, *range(4, 10))}),
    ("./lab diff latest 2026", {RUN}),
    ("./lab diff a b --html=af", {"afile.html"}),
    ("./lab ssh -- no", set()),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "expected"), TYPED)
def test_each_shell_offers_what_labkit_knows(shell: str, line: str, expected: set[str], place: Path) -> None:
    assert offers(shell, place, line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("./lab p", {"package", "platforms", "policy"}),
        ("./lab policy ", {"add", "check", "import"}),
        ("./lab policy add lat", {"latest", ":directories"}),
        ("./lab policy check --shipped latest 2", {RUN, ":directories"}),
        ("./lab policy import ", {":files"}),
        ("./lab policy add latest X --wide ver", {"version"}),
        ("./lab policy add latest X --re", {"--reason"}),
        ("./lab --help di", {"diff"}),
        ("./lab --v", {"--version"}),
        ("./lab halt --platform debian --p", {"--provider"}),
        ("./lab up --platform=fe", {"fedora"}),
        ("./lab up --release ", {"9", "10", "12", "13", "24.04", "26.04", "43", "44", "rawhide", "sid"}),
        ("./lab up --release 4", {"43", "44"}),
        ("./lab up --platform debian --release ", {"12", "13", "sid"}),
        ("./lab up --provider ", {"auto", "qemu", "uml", "vagrant", "ssh"}),
        ("./lab test --runtime cr", {"crun", ":files"}),
        ("./lab test --suite ", {"bats", "distribution", "engine", "image", "runtimetest", "spec", "validation"}),
        ("./lab test --only MOUNT-00", {f"MOUNT-00{number}" for number in range(1, 10)}),
        ("./lab test --suite validation --only host", {"hostname"}),
        ("./lab ssh --machine ", {"mine"}),
        ("./lab report --run 2", {RUN}),
        ("./lab judge lat", {"latest", ":directories"}),
        ("./lab judge . --cgroup ", {"v1", "v2", "hybrid"}),
        ("./lab diff a b --html af", {":files"}),
        ("./lab --print-completion-script ", set(SHELLS)),
    ],
)
def test_what_is_offered(line: str, expected: set[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("LABKIT_HOME", str(place / "home"))
    found = complete(line.split(" ")[1:], COMMANDS)
    assert {re.sub(r"^--[\w-]+=", "", name.partition("\t")[0]) for name in found} == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_directories_are_offered_beside_runs(shell: str, place: Path) -> None:
    offered = {found.rstrip("/") for found in offers(shell, place, "./lab judge ")}
    assert {"latest", RUN, "home", "reports"} <= offered
    assert "afile.html" not in offered


# --- what cannot go wrong


def candidates(*words: str, place: Path, **environ: str) -> list[str]:
    """The answer to a script, without descriptions; nothing else may be said."""
    done = labkit("--complete", "--", "lab", *words, environ={**environment(place), **environ}, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("text", ["platform = ", "[machine]\ncpus = 'many'", 'home = ""'])
def test_a_broken_configuration_is_not_told_and_the_rest_is_offered(text: str, place: Path) -> None:
    (place / "labkit.toml").write_text(text)
    assert candidates("te", place=place) == ["test"]
    assert candidates("up", "--platform", "", place=place) == ["almalinux", "centos", "debian", "fedora", "ubuntu"]
    assert candidates("up", "--machine", "", place=place) == ["mine"]
    assert candidates("report", "--run", "", place=place) == [RUN, "latest"]
    assert "STATE-001" in candidates("test", "--only", "", place=place)
    assert candidates("up", "--platform", "", place=place, LABKIT_CONFIG="/nowhere", LABKIT_X="y") != []


def test_the_configuration_says_where_things_are(place: Path) -> None:
    (place / "labkit.toml").write_text('home = "other"\nreports = "kept"\nsuite = "validation"\n')
    (place / "other" / "machines" / "yours").mkdir(parents=True)
    (place / "kept" / "20270101T000000Z-x").mkdir(parents=True)
    done = {"LABKIT_HOME": ""}
    assert candidates("up", "--machine", "", place=place, **done) == ["yours"]
    assert candidates("report", "--run", "", place=place, **done) == ["20270101T000000Z-x"]
    assert "hostname" in candidates("test", "--only", "", place=place, **done)


@pytest.mark.parametrize(
    "words",
    [
        [], [""], ["--"], ["nonsense", ""], ["up", "--nonsense=", ""], ["up", "--only=x"], ["judge", "a", "b", ""],
        ["test", "--suite", "nonsense", "--only", ""], ["up", "--platform", "../..", "--release", ""],
        ["up", "--machine", "\udcff\x1b[2J"], ["test", "--only", ",,,"], ["--help", "x", ""], ["ssh", "--", "--", ""],
    ],
)  # fmt: skip
def test_nonsense_is_met_with_silence(words: list[str], place: Path) -> None:
    candidates(*words, place=place)


def test_names_that_a_shell_would_act_on_are_not_offered(place: Path) -> None:
    for name in (
        "20260101T000000Z-$(reboot)",
        "20260101T000000Z-a b",
        "20260101T000000Z-\x1b[2J",
        "20260101T000000Z-`x`",
    ):
        (place / "reports" / name).mkdir()
    assert candidates("report", "--run", "", place=place) == [RUN, "latest"]


def test_every_task_and_flag_is_offered(place: Path) -> None:
    assert candidates("", place=place) == sorted(TASKS)
    for task in TASKS:
        listed = [f"--{flag.replace('_', '-')}" for flag in COMMANDS[task].flags]
        found = [name.partition("\t")[0] for name in complete([task, "--"], COMMANDS)]
        assert found == [*listed, "--help"]


def test_a_press_of_tab_loads_only_what_it_needs(place: Path) -> None:
    argv = [sys.executable, "-I", "-X", "importtime", "-m", "labkit", "--complete", "--", "lab", "te"]
    done = subprocess.run(argv, env=environment(place), cwd=place, capture_output=True, text=True, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout.startswith("test\t")
    assert not loaded & {"pydantic", "paramiko", "fabric", "rich", "jinja2", "labkit.usecases", "labkit.core.config"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(shell: str, place: Path) -> None:
    done = labkit("--print-completion-script", shell, environ=environment(place), cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (0, script(shell), "")


def test_the_script_for_bash_is_clean() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed here")
    subprocess.run(["shellcheck", "-s", "bash", "-"], input=script("bash"), text=True, check=True)

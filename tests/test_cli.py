"""./lab, `labkit` and their tasks, as processes: words, exit statuses, what is on stdout and what on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest

import tasks
from labkit import __version__
from labkit.cli.console import Console, table
from labkit.cli.flags import FLAGS, LabTask, spelt
from labkit.core import config
from labkit.core.config import Settings
from labkit.io import process, version
from labkit.io.files import locked
from labkit.results.model import Result, Verdict
from labkit.subjects import runtimes
from tests.forked import forked

CHECKOUT = Path(__file__).parent.parent
TASKS = [
    "claim",
    "verify",
    *("up", "test", "reset", "halt", "destroy", "ssh", "status", "report", "judge", "package", "diff", "render"),
    *("doctor", "explain", "bundle"),
    *("platforms", "runtimes", "engines", "suites", "check", "gc", "policy", "nightly"),
    *("history", "flaky", "nights", "site", "bisect"),
]
COMMANDS = {task.command.name: task.command for task in vars(tasks).values() if isinstance(task, LabTask)}
LIMIT = 300  # seconds for one command; a loaded machine takes a minute for what is done in five seconds
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LABKIT_")}
    return {**kept, "LABKIT_HOME": str(tmp_path / "home")}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """What ./lab looks at before it has an environment, in a directory with a space in its name."""
    directory = tmp_path / "a checkout"
    directory.mkdir()
    for name in ("lab", "pyproject.toml", "constraints.txt"):
        shutil.copy(CHECKOUT / name, directory)
    return directory


def _with_a_limit() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's would tell of a limit of its own
    signal.alarm(LIMIT)


def labkit(*words: str, environ: dict[str, str], cwd: Path) -> Done:
    """Run labkit in a process of its own, which dies of SIGALRM after LIMIT."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = forked(words, environ, cwd, out.fileno(), err.fileno(), _with_a_limit)
        _, status = os.waitpid(pid, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return Done(words, os.waitstatus_to_exitcode(status), *texts)


def labkit_anew(*words: str, environ: dict[str, str], cwd: Path) -> Done:
    """Run labkit in a new interpreter, as a person does."""
    argv = [sys.executable, "-I", "-m", "labkit", *words]
    return subprocess.run(argv, env=environ, cwd=cwd, capture_output=True, text=True, timeout=LIMIT)


# --- the tasks


def test_the_table_offers_what_the_configuration_takes() -> None:
    assert FLAGS["provider"].choices == get_args(Settings.model_fields["provider"].annotation)


def test_list_names_every_task(tmp_path: Path, environ: dict[str, str]) -> None:
    done = labkit_anew("--list", environ=environ, cwd=tmp_path)
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line[2] != " "}
    assert listed == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_explained_with_an_example(task: str, tmp_path: Path, environ: dict[str, str]) -> None:
    done = labkit("--help", task, environ=environ, cwd=tmp_path)
    assert done.returncode == 0
    assert f"./lab {task}" in done.stdout
    if task in ("test", "judge"):  # one without words of its own, one with
        assert labkit(task, "--help", environ=environ, cwd=tmp_path).stdout == done.stdout


def test_listing_loads_nothing_heavy(tmp_path: Path, environ: dict[str, str]) -> None:
    argv = [sys.executable, "-I", "-X", "importtime", "-m", "labkit", "--list"]
    done = subprocess.run(argv, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "labkit.cli.flags" in loaded
    assert not loaded & {"pydantic", "paramiko", "fabric", "rich", "jinja2", "labkit.usecases", "labkit.core.config"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stauts"], "labkit: unknown task 'stauts'; did you mean 'status'?"),
        (["up", "--platfrom", "fedora"], "labkit: unknown flag '--platfrom'; did you mean '--platform'?"),
        (["up", "--platform"], "labkit: --platform needs a value\nhint: ./lab up --help"),
        (["test", "--only"], "labkit: --only needs a value"),
        (["test", "--runtime", "runc", "--runtime"], "labkit: --runtime needs a value"),
        (
            ["test", "--only", "--json"],
            "labkit: --only needs a value, and --json is a flag\nhint: a value like that: --only=--",
        ),
        (["ssh", "--machine", "--", "ls"], "labkit: --machine needs a value"),
        (["--help", "tset"], "labkit: unknown task 'tset'; did you mean 'test'?"),
        (["destroy", "--dry"], "labkit: unknown flag '--dry'"),
        (["judge", "x", "--cgroup", "v3"], "labkit: --cgroup is 'v3', must be v1, v2 or hybrid"),
        (["--help", ""], "labkit: the value of --help is empty: ''"),
        (
            ["--print-completion-script", "tcsh"],
            "labkit: --print-completion-script is 'tcsh', must be bash, zsh or fish",
        ),
        (["up", "--platform", "fedroa"], "labkit: unknown platform 'fedroa'; did you mean 'fedora'?"),
        (["test", "--runtime", "rnuc"], "labkit: unknown runtime 'rnuc'; did you mean 'runc'?"),
        (["test", "--suite", "spce"], "labkit: unknown suite 'spce'; did you mean 'spec'?"),
        (["judge"], "labkit: judge needs DIR\nhint: usage: ./lab judge DIR [FLAGS]"),
        (["diff", "x"], "labkit: diff needs RUN-B\nhint: usage: ./lab diff RUN-A RUN-B [RUN-C...] [FLAGS]"),
        (["engines", "docker"], "labkit: unknown task 'docker'; did you mean 'doctor'?\nhint: usage: ./lab engines ["),
        (["test", "--engine", "docker", "--engine", "podman"], "labkit: --engine is given twice\nhint: it takes one"),
        (["judge", "--jsn"], "labkit: unknown flag '--jsn'; did you mean '--json'?"),
        (["judge", "x", "y"], "labkit: unknown task 'y'"),
        (
            ["test", "--suite", "validation", "--only", "hostnam"],
            "labkit: the validation suite has no program 'hostnam'",
        ),
        (
            ["test", "--only", "HOOK-7"],
            "labkit: the spec suite has no check 'HOOK-7'; did you mean 'HOOK-007' or 'HOOK-017' or 'HOOK-001'?\n"
            "hint: known: AFFIN-*, BUNDLE-*, CAP-*, CG-*, CLI-*, ",
        ),
        (["test", "--repeat", "0"], "labkit: --repeat is '0', must be a whole number from 1 to 1000"),
        (["test", "--jobs", "many"], "labkit: --jobs: jobs is 'many', must be a whole number from 1 to 256"),
        (["up", "--machine", "../x"], "labkit: --machine: machine.name is '../x', must be a name"),
        (
            ["up", "--provider", "qmeu"],
            "labkit: --provider: provider is 'qmeu', must be 'auto', 'qemu', 'uml', 'vagrant' or 'ssh'",
        ),
        (
            ["test", "--only", ""],
            "labkit: the value of --only is empty: ''\nhint: give --only a value, or leave it out",
        ),
        (["test", "--only", "STATE-001", "--only", " , "], "labkit: the value of --only is empty: ' , '"),
        (["judge", ""], "labkit: the value of DIR is empty: ''\nhint: give it a value"),
        (
            ["test", "--runtime", "runc", "--", "--systemd-cgroup", "a b"],
            "labkit: test takes no words after --: --systemd-cgroup 'a b'\nhint: arguments for",
        ),
        (
            ["destroy", "--", "mine"],
            "labkit: destroy takes no words after --: mine\nhint: only `./lab ssh` takes words",
        ),
    ],
)
def test_wrong_words_end_with_2(words: list[str], message: str, tmp_path: Path, environ: dict[str, str]) -> None:
    done = labkit(*words, environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("flag", [flag for flag, row in FLAGS.items() if row.metavar])
def test_an_empty_value_never_means_not_given(flag: str, tmp_path: Path, environ: dict[str, str]) -> None:
    row = next(row for row in COMMANDS.values() if flag in (*row.words, row.rest, *row.flags))
    if flag == row.rest:
        shown, words = FLAGS[flag].metavar, [*("x" for _ in row.words), ""]
    elif flag in row.words:
        shown, words = FLAGS[flag].metavar, ["" if word == flag else "x" for word in row.words]
    else:
        shown, words = spelt(flag), [*("x" for _ in row.words), spelt(flag), ""]
    done = labkit(row.name, *words, environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"labkit: the value of {shown} is empty: ''\nhint: give "), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", [task for task in TASKS if task != "ssh"])
def test_words_after_dashes_are_refused_not_dropped(task: str, tmp_path: Path, environ: dict[str, str]) -> None:
    words = ["x" for _ in COMMANDS[task].words]
    done = labkit(task, *words, "--", "--systemd-cgroup", environ=environ, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"labkit: {task} takes no words after --: --systemd-cgroup\nhint: ")


def test_lone_dashes_are_fine(tmp_path: Path, environ: dict[str, str]) -> None:
    done = labkit("runtimes", "--", environ=environ, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_alone_is_on_stdout(tmp_path: Path, environ: dict[str, str]) -> None:
    found = json.loads(labkit("platforms", "--json", environ=environ, cwd=tmp_path).stdout)
    assert [platform["name"] for platform in found] == ["almalinux", "centos", "debian", "fedora", "ubuntu"]
    assert json.loads(labkit("status", "--json", environ=environ, cwd=tmp_path).stdout) == []
    checks = json.loads(labkit("doctor", "--json", environ=environ, cwd=tmp_path).stdout)
    assert {"qemu-system-x86_64", "kvm", "disk", "memory"} <= {check["name"] for check in checks}


def test_doctor_ends_with_3_where_machines_cannot_be_made(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "file").write_text("")
    done = labkit("doctor", environ={**environ, "LABKIT_HOME": f"{tmp_path}/file/home"}, cwd=tmp_path)
    assert done.returncode == 3
    assert "missing  disk" in done.stdout
    assert done.stderr.startswith("labkit: this host lacks ")
    assert "disk (needed for " in done.stderr


def test_what_lies_in_the_current_directory_is_not_imported(tmp_path: Path, environ: dict[str, str]) -> None:
    for name in ("invoke", "tasks", "labkit", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current directory')")
    done = labkit_anew("runtimes", environ={**environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path, environ: dict[str, str]) -> None:
    for words in (["--list"], ["platforms"]):
        reading, writing = os.pipe()
        os.close(reading)
        argv = [sys.executable, "-I", "-m", "labkit", *words]
        done = subprocess.run(argv, env=environ, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, timeout=60)
        os.close(writing)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
GUARDED = """
import sys
import tempfile
from labkit.cli.console import guard
with guard():
    try:
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        print("cleaned up")
"""


@contextlib.contextmanager
def guarded(how: signal.Handlers) -> Iterator[subprocess.Popen[bytes]]:
    """A guarded task that waits for the end of its stdin, started with all of SIGNALS at their default or ignored,
    whatever they are for these tests: nohup and background jobs ignore some.
    """

    def prepare() -> None:
        for signum, _ in SIGNALS:
            signal.signal(signum, how)

    argv = [sys.executable, "-c", GUARDED]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=prepare) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child


@pytest.mark.parametrize(("signum", "status"), SIGNALS, ids=str)
def test_signals_end_a_task_with_their_status_after_it_has_cleaned_up(signum: int, status: int) -> None:
    with guarded(signal.SIG_DFL) as child:
        assert child.stdout is not None and child.stderr is not None
        child.send_signal(signum)
        assert child.stdout.read() == b"cleaned up\n"
        name = signal.Signals(signum).name
        assert (
            child.stderr.read().decode()
            == f"labkit: interrupted by {name}: the same command again goes on from there\n"
        )
    assert child.returncode == status


@pytest.mark.parametrize(("signum", "status"), SIGNALS, ids=str)
def test_a_command_that_is_interrupted_says_one_line(
    signum: signal.Signals, status: int, tmp_path: Path, environ: dict[str, str]
) -> None:
    """A real one, while it waits for its machine."""
    home = config.load(cwd=tmp_path, environ=environ).home
    words = [sys.executable, "-m", "labkit", "up", "--provider", "qemu", "--machine", "mine"]
    with locked(home.lock("machine-mine"), timeout=1, waiting=pytest.fail, what="it"):
        child = subprocess.Popen(
            words, env={**environ, "PYTHONPATH": str(CHECKOUT)}, cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        with child:
            assert child.stderr is not None
            waiting = child.stderr.readline()
            assert "waiting for process" in waiting, waiting
            child.send_signal(signum)
            said = child.stderr.read()
    assert child.returncode == status
    assert said == f"labkit: interrupted by {signum.name}: the same command again goes on from there\n"


DEAF = {
    "finalizer": """
        class Deaf:
            def __del__(self):
                os.kill(os.getpid(), number)
                sum(range(1000))
        Deaf()
    """,
    "garbage collector": """
        deaf = [lambda *_: (gc.callbacks.clear(), os.kill(os.getpid(), number), sum(range(1000)))]
        gc.callbacks[:] = deaf
        gc.collect()
    """,
    "weak reference": """
        class Thing: pass
        thing = Thing()
        kept = weakref.ref(thing, lambda _: (os.kill(os.getpid(), number), sum(range(1000))))
        del thing
    """,
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", DEAF)
def test_a_signal_is_heard_where_python_drops_what_is_raised(number: signal.Signals, where: str) -> None:
    script = "import gc, os, sys, time, weakref\nfrom labkit.cli.console import guard\n"
    script += f"number = {int(number)}\nwith guard():\n{DEAF[where]}\n        time.sleep(30)\n"
    script = script.replace("with guard():\n", "with guard():\n    if True:\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT)
    said = f"labkit: interrupted by {number.name}: the same command again goes on from there\n"
    assert (done.returncode, done.stderr) == (128 + number, said)


def test_a_terminal_that_is_closed_ends_a_task_with_129(tmp_path: Path) -> None:
    """Nothing can be said there any more, and what cleans up must not fail over that."""
    script = GUARDED.replace("import sys\n", "import sys\nfrom labkit.cli.console import Console\n", 1).replace(
        'print("cleaned up")',
        f'console.step("cleaning"); open({str(tmp_path / "clean")!r}, "w").close()',
    )
    script = script.replace("with guard():", "with guard(), Console() as console:")
    script = script.replace("sys.stdin.read()", "import time; time.sleep(60)")  # to read there is an error by then
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", script])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)  # the kernel sends SIGHUP
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert (tmp_path / "clean").exists()


def test_a_signal_that_comes_twice_at_once_is_one_wish(tmp_path: Path) -> None:
    """As `timeout` and closed terminals send it. A second one later does not wait for what the first one began."""
    script = GUARDED.replace(
        'print("cleaned up")',
        'import time; print("cleaning", flush=True); time.sleep(0.3); print("cleaned up", flush=True); time.sleep(60)',
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe) as child:
        assert child.stdout is not None
        for said in (b"ready\n", b"cleaning\n"):
            assert child.stdout.readline() == said
            child.terminate()
        assert child.stdout.readline() == b"cleaned up\n"
        time.sleep(1)
        began = time.monotonic()
        child.terminate()
        assert child.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 5


def test_signals_that_the_parent_ignores_stay_ignored() -> None:
    with guarded(signal.SIG_IGN) as child:
        for signum, _ in SIGNALS:
            child.send_signal(signum)
        assert child.communicate(b"", timeout=60) == (b"cleaned up\n", b"")
    assert child.returncode == 0


def test_invoke_in_a_checkout_has_the_same_tasks(tmp_path: Path, environ: dict[str, str]) -> None:
    argv = [sys.executable, "-m", "invoke", "runtimes", "--json"]
    done = subprocess.run(argv, env=environ, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT)
    assert [runtime["name"] for runtime in json.loads(done.stdout)] == runtimes.names()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nightly", "--plan", "--only"), "labkit: --only needs a value"),
        (("test", "--runtime", "--json"), "labkit: --runtime needs a value, and --json is a flag"),
        (("policy", "add", "--word", "latest", "--word", "KILL-003"), "labkit: policy add needs --reason"),
    ],
)
def test_invoke_refuses_what_lab_refuses(environ: dict[str, str], words: tuple[str, ...], message: str) -> None:
    argv = [sys.executable, "-m", "invoke", *words]
    done = subprocess.run(argv, env=environ, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)


@pytest.mark.parametrize("words", [("--version",), ("-V",), ("destroy", "--version")])
def test_the_version_is_told_with_the_commit_of_a_checkout(
    words: tuple[str, ...], tmp_path: Path, environ: dict[str, str]
) -> None:
    done = labkit(*words, environ=environ, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    git = subprocess.run(["git", "-C", CHECKOUT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    commit = f" ({git.stdout.strip()})" if git.returncode == 0 else ""
    assert done.stdout == f"labkit {__version__}{commit}\n"


def test_the_version_is_told_without_git(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    (tmp_path / "git").chmod(0o755)
    version.full.cache_clear()  # of this process, of which the command's is a copy
    done = labkit("--version", environ={**environ, "PATH": f"{tmp_path}:{environ['PATH']}"}, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"labkit {__version__}\n", "")


# --- ./lab


def fake_path(directory: Path, python: str) -> str:
    """A PATH with the ordinary tools, and a python3 of which the shell script `python` is all there is."""
    directory.mkdir()
    for name in ("sh", "cat", "cksum", "dirname", "readlink", "mkdir", "grep", "rm", "id", "find"):
        (directory / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    (directory / "python3").write_text(f"#!/bin/sh\n{python}\n")
    (directory / "python3").chmod(0o755)
    return str(directory)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ('[ "$1" = --version ] && echo Python 3.9.2', "Python 3.11 or newer is needed, here is Python 3.9.2"),
        ("case $* in *ensurepip*) exit 1 ;; esac", "python3 has no venv and ensurepip"),
        ("exit 127", "Python 3.11 or newer is needed, here is no python3"),
    ],
)
def test_an_unusable_python_is_told_with_2(python: str, message: str, bare: Path, tmp_path: Path) -> None:
    path = fake_path(tmp_path / "bin", python)
    done = subprocess.run([bare / "lab", "--list"], env={"PATH": path}, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2
    assert done.stderr.startswith(f"labkit: {message}")
    assert not (bare / ".labkit").exists()


OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which takes root")


def lab_in(checkout: Path, **environ: str) -> Done:
    """What ./lab says where it would make its environment next, which this Python does not let it do."""
    path = checkout.parent / "bin"
    if not path.exists():
        fake_path(path, "exit 127")
    argv = [str(checkout / "lab"), "--list"]
    return subprocess.run(argv, env={"PATH": str(path), **environ}, capture_output=True, text=True, timeout=LIMIT)


@as_root
@pytest.mark.parametrize("name", [".", "lab", "tasks.py", "labkit", "labkit/core/x.py", ".labkit", ".labkit/venv/bin"])
def test_root_runs_nothing_of_a_checkout_that_another_user_owns(name: str, bare: Path) -> None:
    for directory in ("labkit/core", ".labkit/venv/bin"):
        (bare / directory).mkdir(parents=True)
    for file in ("labkit/core/x.py", "tasks.py"):
        (bare / file).touch()
    assert lab_in(bare).stderr.startswith("labkit: Python 3.11 or newer is needed")
    os.chown(bare / name, OTHER, OTHER)
    done = lab_in(bare)
    assert done.returncode == 2
    assert done.stderr.startswith(f"labkit: {bare}/{name} belongs to another user, or others can write it, so labkit")
    assert f"chown -R root '{bare}'" in done.stderr
    # By way of sudo it is the caller's, whom the caller trusts.
    assert lab_in(bare, SUDO_UID=str(OTHER)).stderr.startswith("labkit: Python 3.11 or newer is needed")
    assert "belongs to another user" in lab_in(bare, SUDO_UID=str(OTHER - 1)).stderr
    assert "belongs to another user" in lab_in(bare, SUDO_UID="0 -o -true").stderr


@as_root
def test_root_runs_nothing_that_anybody_can_write(bare: Path) -> None:
    (bare / "tasks.py").touch()
    (bare / "tasks.py").chmod(0o646)
    assert f"{bare}/tasks.py belongs to another user, or others can write it" in lab_in(bare).stderr
    (bare / "tasks.py").chmod(0o644)
    os.chown(bare.parent, OTHER, OTHER)  # who can replace the checkout, but by nothing that root owns
    assert lab_in(bare).stderr.startswith("labkit: Python 3.11 or newer is needed")


@as_root
def test_a_user_runs_whatever_checkout_there_is(bare: Path, tmp_path: Path) -> None:
    lab_in(bare)
    os.chown(bare, OTHER, OTHER)
    places = [bare, *(directory for directory in bare.parents if directory != Path("/") and directory != Path("/tmp"))]
    modes = [(directory, directory.stat().st_mode) for directory in places]
    try:
        for directory, mode in modes:
            directory.chmod(mode | 0o055)
        done = subprocess.run(
            [bare / "lab", "--list"],
            env={"PATH": str(tmp_path / "bin")},
            capture_output=True,
            text=True,
            user=OTHER + 1,
        )
    finally:
        for directory, mode in modes:
            directory.chmod(mode)
    assert done.stderr.startswith("labkit: Python 3.11 or newer is needed")


def test_completion_installs_nothing(bare: Path) -> None:
    done = subprocess.run([bare / "lab", "--complete", "--", "./lab"], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (bare / ".labkit").exists()


@pytest.mark.bootstrap  # seconds: makes a virtual environment
def test_a_failed_installation_is_told_with_3_and_leaves_no_stamp(bare: Path, tmp_path: Path) -> None:
    (bare / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nowhere'\n")
    (bare / "constraints.txt").write_text("")
    done = subprocess.run([bare / "lab", "--list"], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 3
    assert done.stderr.endswith("labkit: the installation failed; the next ./lab tries again\n")
    assert not (bare / ".labkit" / "venv" / "labkit.stamp").exists()


@pytest.mark.bootstrap  # half a minute of pip
def test_first_use_twice_at_once_then_interrupted_then_moved(tmp_path: Path, environ: dict[str, str]) -> None:
    checkout = tmp_path / "a checkout"
    ignored = shutil.ignore_patterns(".labkit", ".git", "__pycache__", "reports", ".*_cache")
    shutil.copytree(CHECKOUT, checkout, ignore=ignored)
    link = tmp_path / "link"
    link.symlink_to(checkout / "lab")

    def lab(*words: str, at: Path = link) -> Done:
        argv = [str(at), *words]
        return subprocess.run(argv, env=environ, cwd="/", capture_output=True, text=True, timeout=300)

    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: lab("runtimes"), range(2)))
    assert [(done.returncode, "runc" in done.stdout.split()) for done in both] == [(0, True), (0, True)]
    assert sum("installing into" in done.stderr for done in both) == 1
    assert "installing" not in lab("--list").stderr

    # Cut short: the stamp is gone first, then no command trusts what is there.
    (checkout / "constraints.txt").write_text((checkout / "constraints.txt").read_text() + "# changed\n")
    child = subprocess.Popen([str(link), "--list"], env=environ, start_new_session=True, stdout=subprocess.DEVNULL)
    stamp = checkout / ".labkit" / "venv" / "labkit.stamp"
    while stamp.exists() and child.poll() is None:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not stamp.exists()
    assert lab("runtimes").returncode == 0
    assert stamp.exists()

    moved = checkout.rename(tmp_path / "elsewhere")
    done = lab("runtimes", at=moved / "lab")
    assert done.returncode == 0
    assert "installing into" in done.stderr


# --- the console


def result(verdict: Verdict, ident: str = "STATE-001", name: str = "a name") -> Result:
    return Result(id=ident, name=name, level="MUST", reference="runtime.md", verdict=verdict, seconds=0.1)


def test_a_log_has_whole_lines_without_escapes() -> None:
    stream = io.StringIO()
    with Console(stream) as console:
        console.step("building")
        console.detail("a tool speaks")
        console.progress("download", 5, 10, "bytes")
        console.progress("download", 10, 10, "bytes")
        console.result(result(Verdict.PASS), 1, 2)
        console.result(result(Verdict.FAIL, name="evil \x1b[2J\r name"), 2, 2)
        console.warn("beware\nof this")
    text = stream.getvalue()
    assert "a tool speaks" not in text
    assert "\x1b" not in text and "\r" not in text
    assert "download: 100 % of 10 bytes\n" in text
    assert "fail     STATE-001 evil \\x1b[2J\\r name\n" in text
    assert "2 of 2 checks, 1 failed" in text
    assert "warning: beware\\nof this\n" in text


def test_verbose_shows_tools_and_passes() -> None:
    stream = io.StringIO()
    with Console(stream, verbose=True) as console:
        console.detail("a tool speaks")
        console.result(result(Verdict.PASS), 1, None)
    assert "    a tool speaks\n    pass     STATE-001 a name\n" in stream.getvalue()


def test_verbose_shows_the_commands_that_run() -> None:
    stream = io.StringIO()
    with Console(stream, verbose=True, commands=True):
        process.run(["printf", "a b\\033"], timeout=10)
    process.run(["printf", "later"], timeout=10)
    told = re.sub(r"[0-9.]+ s\n$", "N s\n", stream.getvalue())
    assert told == "    + printf 'a b\\033'\n    printf ended with status 0 after N s\n"
    with Console(stream, verbose=True):  # as doctor has it, whose tables would drown in them
        process.run(["printf", "quiet"], timeout=10)
    assert "quiet" not in stream.getvalue()


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    leader, follower = pty.openpty()
    try:
        with os.fdopen(follower, "w") as stream:
            yield leader, stream
    finally:
        os.close(leader)


def test_a_terminal_has_one_live_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as (leader, stream):
        with Console(stream) as console:
            console.progress("a label much longer than the terminal is wide", 1, 1, "s")
            console.step("next")
            console.progress("label", 2, 2, "s")
        shown = ""
        while select.select([leader], [], [], 0.2)[0]:  # a terminal hands over piece by piece
            shown += os.read(leader, 4096).decode()
    assert shown.startswith("\r\x1b[Ka label much longer than the")
    assert len(shown.split("\r")[1].removeprefix("\x1b[K")) < 30
    assert shown.endswith("label: 100 % of 2 s\r\x1b[K")


def test_a_table_is_aligned_and_inert() -> None:
    assert table([("A", "B"), ("long\x1b", "x")]) == "A         B\nlong\\x1b  x"


def test_runtimes_of_a_platform_whose_mirror_labkit_does_not_read(tmp_path: Path, environ: dict[str, str]) -> None:
    words = ("runtimes", "--platform", "fedora", "--release", "43", "--verbose")
    done = labkit(*words, environ=environ, cwd=tmp_path)
    assert (done.returncode, "packages of Fedora 43 are not known" in done.stdout) == (0, True)
    assert "--platform NAME asks its mirror" in labkit("runtimes", environ=environ, cwd=tmp_path).stdout

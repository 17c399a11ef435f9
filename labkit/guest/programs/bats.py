"""runc's integration tests: a tree of bats files that run whatever runtime RUNC= names.

A file is a program: it has a sandbox, with a cgroup namespace of its own, for cgroups have the same names in all files.
A test that is too slow is ended by bats, a file that says nothing for longer than any test may take by the driver.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from select import POLLIN, poll
from typing import Optional

from ..common.arguments import quoted_words
from ..common.cgroups import CGROUP_ROOT, cgroup_version, enable_controllers, remove_cgroup
from ..common.claims import answer
from ..common.errors import UsageError
from ..common.executables import find_program
from ..common.names import chosen, is_pattern, near
from ..common.namespaces import CLONE_NEWCGROUP, unshare
from ..common.text import printable
from .host import HostError

TESTS = "tests/integration"
REF_FILE = "labkit-ref"
# .slice: of such a name the watch over cgroups that programs leave knows that it is not to look into it.
CGROUP = CGROUP_ROOT / "labkit-bats.slice"
FEATURES = ("idmap", "cgroup")  # what rootless tests may have, as runc's tests/rootless.sh calls it
SHORT = "x"  # where each file finds its own directory, in that of the run
SYSTEMD = "--systemd-cgroup"
IDS = {"subuid": 100000, "subgid": 200000}
IDS_LENGTH = 65536
COUNTDOWNS = 5.0  # seconds between two looks for those of tests that are over
QUIET = 30.0  # seconds beyond a test's limit in which bats has ended it and said so
_LEAST_BATS = (1, 8)  # the first with BATS_TEST_TIMEOUT
_NAME = re.compile(r"(?!labkit-)[A-Za-z0-9_-]{1,64}")
# As bats itself finds them (bats-preprocess).
_TEST = re.compile(r"^[ \t]*@test[ \t]+(.*[^ \t])[ \t]+\{.*$", re.MULTILINE)
# What each bash of a run reads first. A test that waits for all that it has started would wait for the countdown of its
# limit, too, which bats has started in the same shell.
_START = """wait() {
  if test $# -eq 0 && test -n "${BATS_killer_pid-}"; then
    disown "$BATS_killer_pid" 2>/dev/null || :
  fi
  builtin wait "$@"
}
"""
_TIOCSCTTY = 0x540E  # asm-generic/ioctls.h; python3-minimal may have no termios
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
_MOST = 1 << 20  # bytes of a file that are looked at


@dataclass(frozen=True)
class BatsTree:
    """tests: the names of the tests of each file, by its name without .bats."""

    path: Path
    tests: dict[str, list[str]]

    @property
    def ref(self) -> str:
        with suppress(OSError):
            return printable((self.path / REF_FILE).read_text(errors="replace").strip())
        return ""


@dataclass(frozen=True)
class BatsConfig:
    """How the tests are run. arguments come before the runtime's commands; limit: seconds for a test; user: who runs
    them, root where it is empty; features: of a rootless run.
    """

    tree: BatsTree
    bats: str
    runtime: str
    arguments: Sequence[str] = ()
    limit: float = 0.0
    user: str = ""
    features: Sequence[str] = FEATURES
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def systemd(self) -> bool:
        return SYSTEMD in self.arguments


def find_bats_tree(directory: str) -> BatsTree:
    """Raises UsageError unless the directory has bats files of runc and their helper programs were built."""
    path = Path(directory).absolute()
    if not path.is_dir():
        raise UsageError(f"no directory {directory!r}: the machine lacks runc's integration tests (runc-tests)")
    files = sorted((path / TESTS).glob("*.bats"))
    if not files:
        raise UsageError(f"the tree {directory!r} has no {TESTS}/*.bats")
    for file in files:
        if not _NAME.fullmatch(file.stem):
            raise UsageError(f"{file.name!r} in {directory!r}: a name of letters, digits, _ and - is needed")
    return BatsTree(path, {file.stem: tests_of(file) for file in files})


def tests_of(file: Path) -> list[str]:
    """The names of the tests in a file, in their order."""
    with file.open("rb") as stream:
        text = stream.read(_MOST).decode("utf-8", "replace")
    return [_unquoted(match[1]) for match in _TEST.finditer(text)]


def _unquoted(name: str) -> str:
    if len(name) > 1 and name[0] == name[-1] == '"':
        return re.sub(r'\\([$`"\\])', r"\1", name[1:-1])
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == "'" else name


def slug(name: str) -> str:
    """A test's name in letters, digits and dashes, for a word without blanks and commas."""
    return re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")


def select(
    tests: Mapping[str, Sequence[str]], only: Optional[Sequence[str]], skip: Sequence[str]
) -> dict[str, list[str]]:
    """The tests of each file that the words of --only name (all where it is None), without those of skip.

    A word is a file, FILE:TEST, or a test alone; each may be a pattern, and a test's name has blanks or dashes. Raises
    UsageError where a word of --only means nothing, or nothing is left.
    """
    wanted = {(file, test) for file, names in tests.items() for test in names}
    if only is not None:
        wanted = set()
        for word in only:
            found = _meant(word, tests)
            if not found:
                what = "no test that matches" if is_pattern(word) else "no file or test"
                like = ", ".join(near(word.partition(":")[0], tests))
                raise UsageError(f"{what} {word!r}; did you mean {like}? --list shows all")
            wanted |= found
    for word in skip:
        wanted -= _meant(word, tests)
    left = {file: [test for test in names if (file, test) in wanted] for file, names in tests.items()}
    left = {file: names for file, names in left.items() if names}
    if not left:
        raise UsageError("what is left out leaves no test to run")
    return left


def _meant(word: str, tests: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    file_word, colon, test_word = word.partition(":")
    files = chosen([re.sub(r"\.bats$", "", file_word)], tests)[0]
    if files and not colon:
        return {(file, test) for file in files for test in tests[file]}
    found = {(file, test) for file in files for test in tests[file] if colon and _is_test(test_word, test)}
    return found or {(file, test) for file, names in tests.items() for test in names if _is_test(word, test)}


def _is_test(word: str, name: str) -> bool:
    folded = word.casefold()
    return fnmatchcase(name.casefold(), folded) or fnmatchcase(slug(name), folded) or slug(name) == slug(word)


def find_bats() -> tuple[str, str]:
    """The path of bats and its version. Raises HostError where there is none that can do what is needed."""
    bats = find_program("bats")
    if bats is None:
        raise HostError("there is no bats: install it")
    said = answer([bats, "--version"])
    match = re.search(r"(\d+)\.(\d+)(?:\.\d+)?", said)
    if not match:
        raise HostError(f"{bats} --version says {printable(said.strip(), 200)!r}, which is no version of bats")
    if (int(match[1]), int(match[2])) < _LEAST_BATS:
        least = ".".join(map(str, _LEAST_BATS))
        raise HostError(f"{bats} is version {match[0]}, and a time limit for each test needs {least} or newer")
    return bats, match[0]


def missing_programs(user: str) -> list[str]:
    """Programs that all tests call and this host lacks."""
    names = ["bash", "jq", "awk", "tar", "xz", *(["setpriv", "newuidmap", "newgidmap"] if user else [])]
    return [name for name in names if find_program(name) is None]


# --- in the sandbox


def body(config: BatsConfig, file: str, directory: Path) -> Callable[[], int]:
    """A function that becomes bats with the tests of a file; it runs in a sandbox of its own."""

    def run() -> int:
        try:
            own = _isolate(config, file, directory)
            return _become(config, file, own)
        except (OSError, subprocess.SubprocessError, HostError) as error:
            sys.stderr.write(f"{file}: cannot be run: {error}\n")
            return 126

    return run


def missing_helpers(tree: BatsTree) -> str:
    """Which of the programs that the tests call were not built; empty where all were."""
    text = (tree.path / TESTS / "helpers.bash").read_text(errors="replace") if tree.path.is_dir() else ""
    names = dict.fromkeys(re.findall(r"\$\{?TESTBINDIR\}?/([a-z_-]+)", text))
    where = next((d for d in (tree.path / "tests/cmd/_bin", tree.path / "contrib/cmd") if d.is_dir()), None)
    if names and where is None:
        return "it has no tests/cmd/_bin"
    return ", ".join(f"no {name}" for name in names if where and not os.access(where / name, os.X_OK))


def missing_images(tree: BatsTree) -> list[str]:
    """The archives that the tests unpack, of those that get-images.sh would fetch, which are not there."""
    with suppress(OSError):
        text = (tree.path / TESTS / "get-images.sh").read_text(errors="replace")
        names = re.findall(r"\$\{?TESTDATA\}?/([a-z-]+)-\$\{?arch\}?(\.tar[.a-z]*)", text)
        found = (f"testdata/{name}-{_goarch()}{end}" for name, end in names)
        return [name for name in dict.fromkeys(found) if not (tree.path / TESTS / name).exists()]
    return []


def _goarch() -> str:
    return _GOARCH.get(os.uname().machine, os.uname().machine)


def prepare(config: BatsConfig) -> None:
    """Make the cgroup that those of all files are in, anew, with all controllers. Raises HostError."""
    runtime = config.tree.path / "runc"  # where tests of before RUNC= look for it
    with suppress(OSError):
        runtime.unlink(missing_ok=True)
        runtime.symlink_to(config.runtime)
    if config.systemd or cgroup_version() != "v2":
        return
    remove_cgroup(CGROUP, time.monotonic() + 5, kill=True)
    try:
        CGROUP.mkdir(exist_ok=True)
    except OSError as error:
        raise HostError(f"{CGROUP}: {error.strerror}") from error
    enable_controllers(CGROUP_ROOT)
    enable_controllers(CGROUP)


def mounts(tmp: Path) -> tuple[str, ...]:
    """What body() mounts something on, of a run with this directory."""
    return (str(tmp / SHORT), *(f"/etc/{what}" for what in IDS))


def clean() -> None:
    """When nothing runs any more: remove the cgroups."""
    if CGROUP.is_dir():
        remove_cgroup(CGROUP, time.monotonic() + 5, kill=True)


def _isolate(config: BatsConfig, file: str, directory: Path) -> Path:
    """Give the file cgroups of its own, and its directory a path that is short enough for sockets below it; that."""
    here = directory.parent / SHORT
    directory.chmod(0o1777)
    _mount("--bind", str(directory), str(here))
    if config.user:
        _give_ids(config.user, here)
    _own_cgroups(config, file)
    return here


def _own_cgroups(config: BatsConfig, file: str) -> None:
    if config.systemd or cgroup_version() != "v2":
        return
    own = CGROUP / f"{file}.{time.monotonic_ns()}"
    own.mkdir(parents=True)
    (own / "cgroup.procs").write_text("0")
    unshare(CLONE_NEWCGROUP)  # with its root where this process is
    (own / "init").mkdir()  # a cgroup with processes in it gives none below it any controllers
    (own / "init/cgroup.procs").write_text("0")
    enable_controllers(own)
    _mount("-t", "cgroup2", "cgroup2", str(CGROUP_ROOT))
    if config.user and "cgroup" in config.features:
        _delegate(CGROUP_ROOT, pwd.getpwnam(config.user).pw_gid)


def _delegate(root: Path, group: int) -> None:
    """As runc's tests/rootless.sh does: a cgroup that the user's group may make others in, and move processes to."""
    enable_controllers(root)
    own = root / "runc-cgroups-integration-test"
    own.mkdir()
    for path, mode in (
        (own, 0o775),
        (own / "cgroup.subtree_control", 0o664),
        (own / "cgroup.procs", 0o664),
        (root / "cgroup.procs", 0o664),
    ):
        os.chown(path, 0, group)
        path.chmod(mode)


def _give_ids(user: str, here: Path) -> None:
    """Ranges of subordinate ids, in files that are there for this sandbox only."""
    for what, start in IDS.items():
        file = here / what
        file.write_text(f"{user}:{start}:{IDS_LENGTH}\n")
        target = Path("/etc", what)
        if target.exists():  # no file can be made for this sandbox alone
            _mount("--bind", str(file), str(target))


def _become(config: BatsConfig, file: str, here: Path) -> int:
    """Run bats in this process's place."""
    own = here / "bin"
    own.mkdir(mode=0o755)
    runtime = config.runtime
    arguments = [word for word in config.arguments if word != SYSTEMD]  # the tests add it themselves
    if arguments:
        runtime = str(own / Path(config.runtime).name)
        _script(own / Path(config.runtime).name, f'exec {quoted_words([config.runtime, *arguments])} "$@"')
    (own / "start.bash").write_text(_START)
    # All that get-images.sh, which is run for each test, wants of it.
    _script(own / "go", f"case $2 in GOARCH) echo {_goarch()} ;; esac")
    path = f"{own}:{os.environ.get('PATH', os.defpath)}"
    environment = {
        "PATH": f"{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": str(here),
        "RUNC": runtime,
        "BASH_ENV": str(own / "start.bash"),
        "BATS_TEST_TIMEOUT": f"{config.limit:.0f}",
        **({"RUNC_USE_SYSTEMD": "1"} if config.systemd else {}),
    }
    words = [config.bats, "--tap", "--timing"]
    names = config.chosen.get(file)
    if names is not None and list(names) != config.tree.tests[file]:
        words += ["--filter", f"^({'|'.join(map(_escaped, names))})$"]
    words.append(str(config.tree.path / TESTS / f"{file}.bats"))
    if config.user:
        record = pwd.getpwnam(config.user)
        environment |= {"HOME": record.pw_dir, "USER": config.user, "ROOTLESS_FEATURES": "+".join(config.features)}
        environment |= {"XDG_RUNTIME_DIR": str(here / "run")}
        (here / "run").mkdir(mode=0o700)
        os.chown(here / "run", record.pw_uid, record.pw_gid)
        if "idmap" in config.features:
            environment |= _mapped(here)
        setpriv = find_program("setpriv") or "setpriv"
        ids = [f"--reuid={record.pw_uid}", f"--regid={record.pw_gid}", "--init-groups"]
        words = [setpriv, *ids, "--", *words]
    os.chdir("/")
    _stand_by(environment["BATS_TEST_TIMEOUT"])
    os.execve(words[0], words, environment)


def _stand_by(limit: str) -> None:
    """A process beside bats, for as long as that runs. It has the other end of a terminal, which controls this session
    as if a person ran the tests, throws away what is written to it, and ends what is over.
    """
    ours, theirs = os.openpty()
    bats = os.getpid()
    if os.fork() == 0:
        os.setsid()
        for fd in range(os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 4096 else 4096):
            if fd != ours:
                with suppress(OSError):
                    os.close(fd)
        begun: dict[int, float] = {}
        written = poll()
        written.register(ours, POLLIN)
        with suppress(OSError):  # EIO: nobody has it open any more
            while os.getppid() == bats:
                if written.poll(COUNTDOWNS * 1000):
                    if not os.read(ours, 4096):
                        break
                else:
                    _end_what_is_over(bats, limit, begun)
        os._exit(0)
    os.close(ours)
    fcntl.ioctl(theirs, _TIOCSCTTY, 0)
    os.dup2(theirs, 0)
    os.close(theirs)


def _end_what_is_over(bats: int, limit: str, begun: dict[int, float]) -> None:
    """End, by force, what keeps bats waiting:

    - what a test has left with its output open, when all tests are over;
    - each `sleep` of bats whose test is over. bats does that with a signal, which is lost where the test is over before
      the shell around the sleep knows what to do with one (1.14); then the file lasts as long as a test may;
    - what a test that is over its limit has started. bats has sent SIGTERM, which what is frozen does not heed.

    begun: when tests were seen first.
    """
    words: dict[int, list[bytes]] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                words[int(entry.name)] = (entry / "cmdline").read_bytes().split(b"\0")
                parents[int(entry.name)] = int((entry / "stat").read_bytes().rpartition(b") ")[2].split()[1])

    def is_test(pid: int) -> bool:
        return any(word.endswith(b"/bats-exec-test") for word in words.get(pid, [])[:2])

    def above(pid: int) -> list[int]:
        found = []
        while pid in parents and pid not in found:
            found.append(pid)
            pid = parents[pid]
        return found

    now = time.monotonic()
    tests = {pid for pid in words if is_test(pid) and not is_test(parents.get(pid, 0))}
    for pid in tests:
        begun.setdefault(pid, now)
    late = {pid for pid in tests if now - begun[pid] > float(limit) + 2 * COUNTDOWNS}
    is_over = not any(word.endswith(b"/bats-exec-suite") for line in words.values() for word in line[:2])
    # In a PID namespace, whose process 1 is another one like this, what is left can be nobody else's.
    if (late or is_over) and words.get(1) == words.get(os.getpid()):
        for pid in words:
            ancestors = above(pid)
            if pid not in {1, *late} and (bats not in ancestors or late.intersection(ancestors)):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
    for pid, line in words.items():
        shell = parents.get(pid, 0)
        if line[:2] != [b"sleep", limit.encode()] or (is_test(shell) and is_test(parents.get(shell, 0))):
            continue
        with suppress(OSError):
            if b"BATS_TEST_TIMEOUT=" in Path("/proc", str(pid), "environ").read_bytes():
                for one in (shell, pid) if is_test(shell) else (pid,):
                    os.kill(one, signal.SIGKILL)


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _mapped(here: Path) -> dict[str, str]:
    """What tests of more than one id need to know; and the directory of one of these ids that cwd.bats looks for."""
    auxiliary = here / "aux"
    auxiliary.mkdir(mode=0o700)
    os.chown(auxiliary, IDS["subuid"] - 1000 + 1024, 0)  # as 1000 is the first id in the container that is mapped
    return {
        "ROOTLESS_UIDMAP_START": str(IDS["subuid"]),
        "ROOTLESS_UIDMAP_LENGTH": str(IDS_LENGTH),
        "ROOTLESS_GIDMAP_START": str(IDS["subgid"]),
        "ROOTLESS_GIDMAP_LENGTH": str(IDS_LENGTH),
        "ROOTLESS_AUX_DIR": str(auxiliary),
        "ROOTLESS_AUX_UID": "1024",
    }


def _escaped(name: str) -> str:
    """A test's name as an extended regular expression that means nothing else."""
    return re.sub(r"([][\\.^$*+?(){}|])", r"\\\1", name)


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=30)
    if done.returncode:
        raise HostError(f"mount {' '.join(words)}: {printable(done.stderr.decode('utf-8', 'replace').strip(), 300)}")

"""The command line. A supervisor makes namespaces; a child in them runs the checks as PID 1 and prints TAP."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, NoReturn, Optional

from ..common.arguments import Parser, number, selected
from ..common.attached import add_arguments, is_over, take_lock
from ..common.children import ENDING, exit_with
from ..common.claims import claims_of
from ..common.errors import Busy, Interrupted, UsageError
from ..common.executables import find_runtime
from ..common.files import remove_tree
from . import __version__, cleanup, process
from .context import APPLETS, SuiteRun
from .host import Host, find_busybox, this_host
from .registry import PACKAGE, Check, load
from .runner import Result, run_checks
from .tap import point

RESUME = "LABKIT_SPEC_RESUME"


def run(argv: list[str]) -> int:
    """Exit status: 0 no check failed, 1 some did, 2 wrong usage, 3 another suite runs, 128 + n ended by signal n."""
    return _status_of(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    args = _parse(argv)
    checks = load()
    if args.only:
        only = [names.upper() for names in args.only]
        checks = {id: checks[id] for id in selected(only, checks, "check")}
    if args.list:
        for item in checks.values():
            print(f"{item.requirement.id}\t{item.requirement.level}\t{item.requirement.summary}")
        return 0
    if args.runtime is None:
        raise UsageError("--runtime NAME or PATH is required")
    if os.geteuid() != 0:
        raise UsageError("must run as root (sudo)")
    host = this_host(find_runtime(args.runtime), find_busybox())
    chosen = list(checks.values())
    if RESUME in os.environ:
        lifeline, lock, name, top = os.environ[RESUME].split(":", 3)
        pipes = _Pipes(int(lifeline), int(lock) if lock else None)
        _child(lambda: _in_namespaces(chosen, host, args.jobs, name, Path(top), pipes))
    lock_fd = take_lock(args.lock, args.attached) if args.lock else None
    return _supervise(chosen, host, args.jobs, lock_fd, args.attached)


class _Pipes:
    """Descriptors that the suite inherits: the end of lifeline says that its supervisor is gone; lock is only held."""

    def __init__(self, lifeline: int, lock: Optional[int]) -> None:
        self.lifeline = lifeline
        self.lock = lock

    def set_inheritable(self, inheritable: bool) -> None:
        for fd in (self.lifeline, self.lock):
            if fd is not None:
                os.set_inheritable(fd, inheritable)


def _status_of(function: Callable[[], int]) -> int:
    """The exit status: what function returns, or the one for the exception that ended it."""
    try:
        return function()
    except Interrupted as end:
        return 128 + end.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (UsageError, Busy) as error:
        sys.stderr.write(f"labkit-spec: {error}\n")
        return 2 if isinstance(error, UsageError) else 3
    except BrokenPipeError:
        with open(os.devnull, "wb") as null:  # noqa: PTH123
            os.dup2(null.fileno(), sys.stdout.fileno())  # so that Python does not complain when it flushes at exit
        return 128 + signal.SIGPIPE


def _child(function: Callable[[], int]) -> NoReturn:
    exit_with(lambda: _status_of(function))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="labkit-spec", description="Runs conformance checks against an OCI runtime and prints TAP 14.")
    parser.add_argument("--runtime", help="name or path of the runtime under test")
    parser.add_argument("--only", metavar="ID,ID", action="append", help="run only these checks")
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    default = 2 * (os.cpu_count() or 1)
    parser.add_argument(
        "--jobs", type=number(256), default=default, metavar="N", help="checks to run at a time (default: %(default)s)"
    )
    add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"labkit-spec {__version__}")
    return parser.parse_args(argv)


def _supervise(checks: list[Check], host: Host, jobs: int, lock: Optional[int], attached: bool) -> int:
    """Run the suite in namespaces of its own, pass signals on, and clean up after it if it is killed.

    attached: the end of stdin ends it as SIGHUP does.
    """
    name = f"{os.getpid():x}{os.urandom(4).hex()}"
    top = Path(os.environ.get("TMPDIR") or "/tmp").absolute() / f"labkit-{name}"
    top.parent.mkdir(parents=True, exist_ok=True)
    top.mkdir()  # anew, and never through a link: others may write in its parent
    (top / "work").mkdir()
    (top / "ids").mkdir()
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.setsid()  # a Ctrl-C reaches the supervisor only
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        _child(lambda: _in_namespaces(checks, host, jobs, name, top, _Pipes(read, lock)))
    os.close(read)
    seen: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if number == signal.SIGALRM:
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        elif not seen:
            seen.append(number)
            os.close(write)  # in case it does not listen for signals yet
            with suppress(OSError):
                os.killpg(pid, number)
            signal.alarm(60)  # it has this long to clean up

    for number in (*ENDING, signal.SIGALRM):
        signal.signal(number, forward)
    ended = os.pidfd_open(pid)
    watched = [ended, 0] if attached else [ended]
    while ended not in (ready := select.select(watched, [], [])[0]):
        if 0 in ready and is_over(0):
            watched.remove(0)
            forward(signal.SIGHUP, None)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:  # killed: its processes and mounts died with the namespaces, runtime records and cgroups did not
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        for ids in (top / "ids").iterdir():
            cleanup.delete_containers(ids, host.runtime, time.monotonic() + 20)
        status = 128 - status
    cleanup.sweep_cgroups(f"labkit-{name}")
    remove_tree(top)
    return 128 + seen[0] if seen and status else status


def _in_namespaces(checks: list[Check], host: Host, jobs: int, name: str, top: Path, pipes: _Pipes) -> int:
    """Enter a new mount namespace, and a new PID namespace with the next child, which runs the suite; its status.

    os.unshare is new in Python 3.12; before, busybox unshares and starts this program again, which ends up here.
    """
    if sys.version_info >= (3, 12):
        os.unshare(os.CLONE_NEWNS | os.CLONE_NEWPID)
    elif os.environ.pop(RESUME, None) is None:
        pipes.set_inheritable(True)
        lock = "" if pipes.lock is None else pipes.lock
        os.environ[RESUME] = f"{pipes.lifeline}:{lock}:{name}:{top}"
        os.execv(host.busybox, [host.busybox, "unshare", "-m", "-p", sys.executable, *_own_argv()])
    pipes.set_inheritable(False)
    pid = os.fork()
    if pid == 0:
        _child(lambda: _suite(checks, host, jobs, name, top, pipes.lifeline))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        os.kill(os.getpid(), signal.SIGKILL)  # tells the supervisor
    return status


def _own_argv() -> list[str]:
    module = sys.modules["__main__"].__spec__
    if module is not None and module.name == f"{PACKAGE}.__main__":
        return ["-m", PACKAGE, *sys.argv[1:]]
    return sys.argv


def _suite(checks: list[Check], host: Host, jobs: int, name: str, top: Path, lifeline: int) -> int:
    with open(os.devnull, "rb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), 0)
    work = top / "work"
    for words in (
        ["--make-rprivate", "/"],
        ["--make-rshared", "/"],  # as systemd leaves it, but a peer group of our own
        ["-t", "proc", "proc", "/proc"],
        ["-t", "tmpfs", "-o", "mode=755", "labkit", str(work)],
    ):
        done = process.run(
            [host.busybox, "mount", *words], stdout=Path("/dev/null"), stderr=top / "mount.err", timeout=10
        )
        if not done.ok:
            raise UsageError(f"cannot mount {' '.join(words)}: {done.stderr.strip()[:300]}")
    (work / "exits").mkdir()
    busybox = work / "busybox"
    busybox.write_bytes(Path(host.busybox).read_bytes())
    busybox.chmod(0o755)
    listed = process.run(
        [host.busybox, "--list"], stdout=work / "ask.out", stderr=work / "ask.err", timeout=10
    ).stdout.split()
    applets = tuple(applet for applet in APPLETS if applet in set(listed))
    suite = SuiteRun(name, host, claims_of(host.runtime), work, applets)
    _print("TAP version 14", f"1..{len(checks)}", *_header(suite))
    failed = count = 0

    def emit(result: Result, check: Check) -> None:
        nonlocal failed, count
        count += 1
        failed += result["verdict"] in ("fail", "error", "timeout")
        _print(point(count, result, check.requirement.summary).rstrip("\n"))

    try:
        run_checks(checks, suite, jobs, lifeline, emit)
    except Interrupted:  # perhaps because the supervisor was killed: leave nothing for it to do
        cleanup.sweep_cgroups(f"labkit-{name}")
        cleanup.unmount_below(work, host.busybox, time.monotonic() + 10)
        remove_tree(top)
        raise
    return 1 if failed else 0


def _header(suite: SuiteRun) -> list[str]:
    facts = {
        "runtime": Path(suite.host.runtime).name,
        "runtime-path": suite.host.runtime,
        "runtime-version": suite.claims.version,
        "spec": suite.claims.spec_text,
        "cgroup": suite.host.cgroup,
        "kernel": os.uname().release,
        "suite": f"labkit-spec {__version__}",
    }
    return [f"# {key}: {ascii(value)[1:-1]}" for key, value in facts.items()]


def _print(*lines: str) -> None:
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write the results: {error.strerror}") from error

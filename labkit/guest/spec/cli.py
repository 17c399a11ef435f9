"""The command line: words in, TAP out. A supervisor makes the namespaces; its child runs the checks as PID 1 there."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Callable, NoReturn, Optional

from . import __version__, cleanup, host, process
from .context import APPLETS, Suite
from .registry import PACKAGE, Check, load
from .runner import Interrupted, Result, run_checks
from .tap import point

RESUME = "LABKIT_SPEC_RESUME"
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise host.UsageError(message)


def run(argv: list[str]) -> int:
    """Exit status: 0 no check failed, 1 some did, 2 wrong usage, 128 + n ended by signal n."""
    try:
        words = _parse(argv)
        checks = _select(load(), words.only)
        if words.list:
            for item in checks:
                print(f"{item.requirement.id}\t{item.requirement.level}\t{item.requirement.summary}")
            return 0
        if words.runtime is None:
            raise host.UsageError("say which runtime: --runtime NAME or PATH")
        if os.geteuid() != 0:
            raise host.UsageError("must run as root (sudo)")
        facts = host.look(host.find_runtime(words.runtime), host.find_busybox())
        if RESUME in os.environ:
            lifeline, name, top = os.environ[RESUME].split(":", 2)
            _guarded(lambda: _in_namespaces(checks, facts, words.jobs, name, Path(top), int(lifeline)))
        return _supervise(checks, facts, words.jobs)
    except host.UsageError as error:
        sys.stderr.write(f"labkit-spec: {error}\n")
        return 2
    except BrokenPipeError:
        _drop_stdout()
        return 128 + signal.SIGPIPE


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="labkit-spec", description="Conformance checks for OCI runtimes; TAP 14 on stdout.")
    parser.add_argument("--runtime", help="name or path of the runtime under test")
    parser.add_argument("--only", metavar="ID,ID", action="append", help="run these checks only")
    parser.add_argument("--list", action="store_true", help="print the checks and exit")
    default = 2 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=_positive, default=default, metavar="N", help="checks at a time (%(default)s)")
    parser.add_argument("--version", action="version", version=f"labkit-spec {__version__}")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return int(text)


def _select(checks: dict[str, Check], only: Optional[list[str]]) -> list[Check]:
    if only is None:
        return list(checks.values())
    wanted = [id.strip().upper() for words in only for id in words.split(",") if id.strip()]
    if not wanted:
        raise host.UsageError("--only names no check")
    for id in wanted:
        if id not in checks:
            near = sorted(checks, key=lambda known: _distance(id, known))[:3]
            raise host.UsageError(f"unknown check {id!r}; did you mean {', '.join(near)}? --list shows all")
    return [checks[id] for id in dict.fromkeys(wanted)]


def _distance(a: str, b: str) -> int:
    """Edit distance; python3-minimal has no difflib."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def _supervise(checks: list[Check], facts: host.Host, jobs: int) -> int:
    """Run the suite in namespaces of its own, pass signals on, and clean up after it if it is killed."""
    name = f"{os.getpid():x}{time.time_ns() & 0xFFFFFF:06x}"
    top = Path(os.environ.get("TMPDIR") or "/tmp").absolute() / f"labkit-{name}"
    (top / "work").mkdir(parents=True)
    (top / "ids").mkdir()
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.setsid()  # a Ctrl-C reaches the supervisor only
        for number in FORWARDED:
            signal.signal(number, signal.SIG_IGN)
        _guarded(lambda: _in_namespaces(checks, facts, jobs, name, top, read))
    os.close(read)
    seen: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if number == signal.SIGALRM:
            os.killpg(pid, signal.SIGKILL)
        elif not seen:
            seen.append(number)
            os.killpg(pid, number)
            signal.alarm(60)  # it has this long to clean up

    for number in (*FORWARDED, signal.SIGALRM):
        signal.signal(number, forward)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:  # killed: its processes and mounts died with the namespaces, runtime records and cgroups did not
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        for ids in (top / "ids").iterdir():
            cleanup.delete_containers(ids, facts.runtime, time.monotonic() + 20)
        status = 128 + seen[0] if seen else 128 - status
    cleanup.sweep_cgroups(f"labkit-{name}")
    cleanup.remove_tree(top)
    return status


def _in_namespaces(checks: list[Check], facts: host.Host, jobs: int, name: str, top: Path, lifeline: int) -> int:
    """Enter a new mount namespace, and a new PID namespace with the next child, which runs the suite; its status.

    os.unshare is new in Python 3.12; before, busybox unshares and starts this program again, which ends up here.
    """
    if sys.version_info >= (3, 12):
        os.unshare(os.CLONE_NEWNS | os.CLONE_NEWPID)
    elif os.environ.pop(RESUME, None) is None:
        os.set_inheritable(lifeline, True)
        os.environ[RESUME] = f"{lifeline}:{name}:{top}"
        os.execv(facts.busybox, [facts.busybox, "unshare", "-m", "-p", sys.executable, *_own_argv()])
    pid = os.fork()
    if pid == 0:
        os.set_inheritable(lifeline, False)
        _guarded(lambda: _suite(checks, facts, jobs, name, top, lifeline))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        os.kill(os.getpid(), signal.SIGKILL)  # tells the supervisor
    return status


def _own_argv() -> list[str]:
    module = sys.modules["__main__"].__spec__
    if module is not None and module.name == f"{PACKAGE}.__main__":
        return ["-m", PACKAGE, *sys.argv[1:]]
    return sys.argv


def _guarded(function: Callable[[], int]) -> NoReturn:
    """The whole life of a forked child: never returns into its parent's code."""
    status = 70
    try:
        status = function()
    except Interrupted as end:
        status = 128 + end.number
    except host.UsageError as error:
        sys.stderr.write(f"labkit-spec: {error}\n")
        status = 2
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _suite(checks: list[Check], facts: host.Host, jobs: int, name: str, top: Path, lifeline: int) -> int:
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
            [facts.busybox, "mount", *words], stdout=Path("/dev/null"), stderr=top / "mount.err", timeout=10
        )
        if not done.ok:
            raise host.UsageError(f"cannot mount {' '.join(words)}: {done.stderr.strip()[:300]}")
    (work / "exits").mkdir()
    busybox = work / "busybox"
    busybox.write_bytes(Path(facts.busybox).read_bytes())
    busybox.chmod(0o755)
    listed = process.run(
        [facts.busybox, "--list"], stdout=work / "ask.out", stderr=work / "ask.err", timeout=10
    ).stdout.split()
    applets = tuple(applet for applet in APPLETS if applet in set(listed))
    info = host.ask_runtime(facts.runtime, work)
    suite = Suite(name, facts, info, work, applets)
    _print("TAP version 14", f"1..{len(checks)}", *_header(suite))
    failed = number = 0

    def emit(result: Result, check: Check) -> None:
        nonlocal failed, number
        number += 1
        failed += result["verdict"] in ("fail", "error", "timeout")
        _print(point(number, result, check.requirement.summary).rstrip("\n"))

    try:
        run_checks(checks, suite, jobs, lifeline, emit)
    except Interrupted:  # perhaps because the supervisor was killed: leave nothing for it to do
        cleanup.sweep_cgroups(f"labkit-{name}")
        cleanup.unmount_below(work, facts.busybox, time.monotonic() + 10)
        cleanup.remove_tree(top)
        raise
    return 1 if failed else 0


def _header(suite: Suite) -> list[str]:
    facts = {
        "runtime": Path(suite.host.runtime).name,
        "runtime-path": suite.host.runtime,
        "runtime-version": suite.info.version,
        "spec": ".".join(str(number) for number in suite.info.spec),
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
        raise host.UsageError(f"cannot write the results: {error.strerror}") from error


def _drop_stdout() -> None:
    """So that Python does not complain when it flushes at exit."""
    with open(os.devnull, "wb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), sys.stdout.fileno())

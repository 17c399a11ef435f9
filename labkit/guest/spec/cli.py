"""The command line. A supervisor makes namespaces; a child in them runs the checks as PID 1 and prints TAP."""

from __future__ import annotations

import argparse
import functools
import os
import select
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, NoReturn, Optional

from ..common.arguments import Parser, number, quoted_words, selected, split_words
from ..common.attached import add_arguments, is_over, take_lock
from ..common.children import ENDING, exit_with
from ..common.claims import claims_of
from ..common.errors import Interrupted, UsageError
from ..common.executables import find_runtime
from ..common.exits import status_of
from ..common.files import remove_tree
from ..common.names import chosen, near, read_list
from ..common.text import printable
from ..common.users import require_user
from . import __version__, cleanup, ordinary, process
from .context import APPLETS, COMMANDS, SuiteRun
from .control import NothingWorks, controlled
from .host import Host, environment, find_busybox, given, this_host
from .place import UNSHARED, hide, inherit_nothing, private, raise_limits, require_able, temporary
from .registry import PACKAGE, Check, load
from .rootless import become_root
from .runner import BAD, Result, Way, run_alone, run_checks, run_confirmed, run_repeated
from .tap import point
from .versions import version_of

RESUME = "LABKIT_SPEC_RESUME"
TRANSCRIPTS_LIMIT = 4 << 20  # characters of them in all


STATUSES = """\
exit status: 0 no check failed (what did not repeat is flaky, not failed), 1 some did, 2 wrong usage, or this host or
runtime cannot be tested at all, 3 another suite runs on this machine, 128 + N ended by signal N"""


def run(argv: list[str]) -> int:
    """The exit status, see STATUSES."""
    return _status_of(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    args = _parse(argv)
    checks = load()
    if args.only or args.skip:
        checks = {id: checks[id] for id in selected(checks, "check", args.only, _skipped(args.skip, checks))}
    if args.list:
        _print(*(f"{id}\t{item.requirement.level}\t{item.requirement.summary}" for id, item in checks.items()))
        return 0
    if not (args.runtime or "").strip():
        raise UsageError("--runtime NAME or PATH is required")
    user = given()
    try:
        host = this_host([*runtime_words(args.runtime), *args.runtime_arg], find_busybox())
    except UsageError as error:
        raise UsageError(f"user {user.name} cannot run what root can: {error}") if user else error from None
    if args.user is not None and not user:
        return _as_user(args, host)
    if os.geteuid() != 0:
        become_root(host.busybox, _again())
    if host.in_user_namespace:
        host = replace(host, delegated=cleanup.can_make_cgroups())
    if args.timeout:
        checks = {id: replace(item, timeout=float(args.timeout)) for id, item in checks.items()}
    named = [] if args.control else list(checks.values())
    lacks = _lacking(args.lacks)
    plan = _Plan(named, host, args.jobs, args.confirm, args.shared, args.spec, args.transcripts, args.repeat, lacks)
    if os.environ.get(RESUME, "").startswith(f"{os.getpid()}:"):
        _, lifeline, lock, name, top = os.environ[RESUME].split(":", 4)
        pipes = _Pipes(int(lifeline), int(lock) if lock else None)
        _child(lambda: _in_namespaces(plan, name, Path(top), pipes))
    raise_limits(host, _again())
    require_able(host)
    inherit_nothing()
    if user:
        return _supervise(plan, user.lock, True)
    lock_fd = take_lock(args.lock, args.attached) if args.lock else None
    return _supervise(plan, lock_fd, args.attached)


def _as_user(args: argparse.Namespace, host: Host) -> int:
    """Run the suite as an ordinary user, and leave nothing of that behind."""
    if os.geteuid() != 0:
        raise UsageError("--user must run as root (sudo); without it, the suite runs as whoever starts it")
    user = require_user(args.user)
    raise_limits(host, _again())
    lock = take_lock(args.lock, args.attached) if args.lock else None

    def child(lifeline: int) -> NoReturn:
        ordinary.become(user, directory, cgroup, host.busybox, _again(), lifeline, lock)

    with ordinary.places(alone=lock is not None) as (directory, cgroup):
        return _watched(child, args.attached)


@dataclass(frozen=True)
class _Plan:
    """What is to be run. spec: the version of the runtime-spec to hold the runtime to, None: what it claims. repeat:
    how often each check runs; what is bad is not run once more then.
    """

    checks: list[Check]
    host: Host
    jobs: int
    confirm: bool
    shared: bool
    spec: Optional[tuple[int, int, int]]
    transcripts: bool
    repeat: int = 1
    lacks: dict[str, str] = field(default_factory=dict)


def _lacking(words: list[str]) -> dict[str, str]:
    """COMMAND=REASON of --lacks. Raises UsageError."""
    pairs = [word.partition("=")[::2] for word in words]
    for command, _ in pairs:
        if command not in COMMANDS:
            raise UsageError(f"--lacks {command}: must be one of {', '.join(sorted(COMMANDS))}")
    return {command: why or "it is told to lack it" for command, why in pairs}


def runtime_words(text: str) -> list[str]:
    """--runtime: a program, or a program and arguments of it, quoted as for a shell. Raises UsageError."""
    if os.path.isfile(text) or not any(character.isspace() for character in text.strip()):  # noqa: PTH113, of a path that we may not look at
        return [find_runtime(text)]
    try:
        words = split_words(text)
    except ValueError as error:
        raise UsageError(f"--runtime {text!r}: {error}") from error
    return [find_runtime(words[0]), *words[1:]]


def _skipped(file: Optional[str], checks: Collection[str]) -> list[str]:
    """The words of the file of --skip. UsageError where one of them means no check: it may be misspelt."""
    words = read_list(file) if file else []
    for word in chosen(words, checks)[1]:
        raise UsageError(f"{file}: no check is called {word!r}; did you mean {', '.join(near(word, checks))}?")
    return words


def _version(text: str) -> tuple[int, int, int]:
    found = version_of(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a version of the runtime-spec from 1.0.0 to 1.3")
    return found


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
    return status_of("labkit-spec", function)


def _child(function: Callable[[], int]) -> NoReturn:
    exit_with(lambda: _status_of(function))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="labkit-spec",
        description="Runs conformance checks against an OCI runtime and prints TAP 14.",
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runtime", help="name or path of the runtime under test; its arguments may follow, quoted")
    parser.add_argument(
        "--runtime-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="an argument that the runtime gets before every command, such as --runtime-arg=--systemd-cgroup",
    )
    parser.add_argument(
        "--spec", type=_version, metavar="VERSION", help="hold it to this runtime-spec, not to the one that it claims"
    )
    parser.add_argument(
        "--lacks",
        action="append",
        default=[],
        metavar="COMMAND=REASON",
        help="a command that the runtime does not have: what needs it is skipped",
    )
    parser.add_argument(
        "--no-confirm",
        dest="confirm",
        action="store_false",
        help="do not run what is bad again, alone, to see whether it repeats",
    )
    parser.add_argument(
        "--repeat", type=number(1000), default=1, metavar="N", help="run each check N times; tells which are flaky"
    )
    parser.add_argument(
        "--timeout", type=number(86400), metavar="S", help="seconds that each check may take (default: its own limit)"
    )
    parser.add_argument(
        "--user", metavar="NAME", help="run runtime and suite as this ordinary user, in a cgroup of the user's own"
    )
    parser.add_argument("--only", metavar="ID,ID", action="append", help="run only these checks; ID may have * and ?")
    parser.add_argument(
        "--skip", metavar="FILE", help="leave out the checks that this file names, one ID or pattern a line"
    )
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    parser.add_argument(
        "--control", action="store_true", help="run a plain container, and no check: see that the runtime works here"
    )
    default = 2 * (os.cpu_count() or 1)
    parser.add_argument(
        "--jobs", type=number(256), default=default, metavar="N", help="checks to run at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--no-shared",
        dest="shared",
        action="store_false",
        help="give every check a container of its own from the start",
    )
    parser.add_argument(
        "--transcripts", action="store_true", help="print as comments what each bad check did, for `labkit explain`"
    )
    add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"labkit-spec {__version__}")
    return parser.parse_args(argv)


def _supervise(plan: _Plan, lock: Optional[int], attached: bool) -> int:
    """Run the suite with a directory of its own, of which nothing stays however that ends."""
    name = f"{os.getpid():x}{os.urandom(4).hex()}"
    top = temporary() / f"labkit-{name}"
    try:
        try:
            top.mkdir()  # anew, and never through a link: others may write in its parent
            (top / "work").mkdir()
            (top / "ids").mkdir()
        except OSError as error:
            raise UsageError(f"cannot write to {top.parent}, for temporary files: {error.strerror}") from error
        return _watch(plan, name, top, lock, attached)
    finally:
        cleanup.sweep_cgroups(f"labkit-{name}")
        remove_tree(top)


def _watch(plan: _Plan, name: str, top: Path, lock: Optional[int], attached: bool) -> int:
    """Run the suite in namespaces of its own, and delete its containers if it is killed: its processes and mounts died
    with the namespaces, runtime records and cgroups did not.
    """

    def killed() -> None:
        for ids in (top / "ids").iterdir():
            cleanup.delete_containers(ids, plan.host, time.monotonic() + 20)

    return _watched(lambda lifeline: _in_namespaces(plan, name, top, _Pipes(lifeline, lock)), attached, killed)


def _watched(function: Callable[[int], int], attached: bool, killed: Optional[Callable[[], None]] = None) -> int:
    """Run a function in a child, and pass signals on; its status. The function is given a descriptor
    whose end says that this process is gone.

    attached: the end of stdin ends it as SIGHUP does; killed: what is to be done when a signal has ended the child.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.setsid()  # a Ctrl-C reaches the supervisor only
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        _child(lambda: function(read))
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
        if number == signal.SIGALRM or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, forward)
    ended = os.pidfd_open(pid)
    watched = [ended, 0] if attached else [ended]
    while ended not in (ready := select.select(watched, [], [])[0]):
        if 0 in ready and is_over(0):
            watched.remove(0)
            forward(signal.SIGHUP, None)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        if killed:
            killed()
        status = 128 - status
    return 128 + seen[0] if seen and status else status


def _in_namespaces(plan: _Plan, name: str, top: Path, pipes: _Pipes) -> int:
    """Enter new namespaces, that of PIDs with the next child, which runs the suite; its status.

    So whatever a runtime does to mounts, addresses, host name, queues and their sysctls, it does not to this host.

    os.unshare is new in Python 3.12; before, busybox unshares and starts this program again, which ends up here.
    """
    if sys.version_info >= (3, 12):
        os.unshare(os.CLONE_NEWNS | os.CLONE_NEWPID | os.CLONE_NEWNET | os.CLONE_NEWIPC | os.CLONE_NEWUTS)
    elif not os.environ.pop(RESUME, "").startswith(f"{os.getpid()}:"):
        pipes.set_inheritable(True)
        lock = "" if pipes.lock is None else pipes.lock
        os.environ[RESUME] = f"{os.getpid()}:{pipes.lifeline}:{lock}:{name}:{top}"
        busybox = plan.host.busybox
        os.execv(busybox, [busybox, "unshare", *UNSHARED, *_again()])
    pipes.set_inheritable(False)
    pid = os.fork()
    if pid == 0:
        _child(lambda: _suite(plan, name, top, pipes.lifeline))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        os.kill(os.getpid(), signal.SIGKILL)  # tells the supervisor
    return status


def _again() -> list[str]:
    """The argv that starts this program again."""
    module = sys.modules["__main__"].__spec__
    if module is not None and module.name == f"{PACKAGE}.__main__":
        return [sys.executable, "-m", PACKAGE, *sys.argv[1:]]
    return [sys.executable, *sys.argv]


def _suite(plan: _Plan, name: str, top: Path, lifeline: int) -> int:
    host = plan.host
    work = top / "work"
    try:
        private(host, top)
        applets = _furnish(host, work)
    except OSError as error:
        raise UsageError(f"cannot run on this host: {error}") from error
    claims = claims_of(host.runtime, environment(work))
    held = replace(claims, spec=plan.spec or claims.spec)
    named = min(claims, held, key=lambda each: each.spec).spec_text
    suite = SuiteRun(name, host, held, work, applets, named, cgroups=tuple(cleanup.cgroup_parents()), lacks=plan.lacks)
    suite = replace(suite, transcripts=plan.transcripts)
    _print("TAP version 14", *_header(suite, claims.spec_text))
    failed = count = printed = 0

    def emit(result: Result, check: Check) -> None:
        nonlocal failed, count, printed
        count += 1
        failed += result["verdict"] in BAD
        transcript = result.pop("transcript", "")
        printed += len(transcript)
        told = [f"# transcript {result['id']} {transcript}"] if transcript and printed <= TRANSCRIPTS_LIMIT else []
        _print(point(count, result, check.requirement.summary).rstrip("\n"), *told)

    try:
        suite = controlled(
            suite, lambda check, suite: run_alone(check, suite, lifeline), functools.partial(hide, host, top)
        )
        _print(f"1..{len(plan.checks)}")
        way = Way(lifeline, plan.jobs, plan.shared)
        if plan.repeat > 1:
            run_repeated(plan.checks, suite, way, emit, plan.repeat)
        else:
            run = run_confirmed if plan.confirm else run_checks
            run(plan.checks, suite, way, emit)
    except NothingWorks as error:
        said = f"no container can be created here: {printable(str(error))}"
        _print(f"Bail out! {said}")
        raise UsageError(said) from None
    except Interrupted:  # perhaps because the supervisor was killed: leave nothing for it to do
        cleanup.sweep_cgroups(f"labkit-{name}")
        cleanup.unmount_below(work, host.busybox, time.monotonic() + 10)
        remove_tree(top)
        raise
    return 1 if failed else 0


def _furnish(host: Host, work: Path) -> tuple[str, ...]:
    """What all checks share; the applets of busybox that there are."""
    (work / "exits").mkdir()
    (work / "controls").mkdir()
    (work / "transcripts").mkdir()
    busybox = work / "busybox"
    busybox.write_bytes(Path(host.busybox).read_bytes())
    busybox.chmod(0o755)
    listed = process.run([host.busybox, "--list"], stdout=work / "ask.out", stderr=work / "ask.err", timeout=10)
    there = set(listed.stdout.split())
    return tuple(applet for applet in APPLETS if applet in there)


def _header(suite: SuiteRun, claimed: str) -> list[str]:
    path, *arguments = suite.host.runtime
    facts = {
        "runtime": Path(path).name,
        "runtime-path": path,
        **({"runtime-arguments": quoted_words(arguments)} if arguments else {}),
        "runtime-version": suite.claims.version,
        "spec": suite.claims.spec_text,
        **({"spec-claimed": claimed} if claimed != suite.claims.spec_text else {}),
        "cgroup": suite.host.cgroup,
        **({"user": user.name} if (user := given()) else {}),
        **({"user-namespace": _user_namespace(suite.host)} if suite.host.in_user_namespace else {}),
        "kernel": os.uname().release,
        "suite": f"labkit-spec {__version__}",
    }
    return [f"# {key}: {ascii(value)[1:-1]}" for key, value in facts.items()]


def _user_namespace(host: Host) -> str:
    ids = f"{host.mapped} user id{'s' if host.mapped > 1 else ''}"
    return f"{ids} mapped, {'cgroups' if host.delegated else 'no cgroup'} delegated"


def _print(*lines: str) -> None:
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write the results: {error.strerror}") from error

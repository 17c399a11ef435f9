"""The command line."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ..common.arguments import Parser, number, quoted_words, selected
from ..common.attached import add_arguments, take_lock
from ..common.cgroups import CGROUP_ROOT, cgroup_version
from ..common.children import Signals
from ..common.claims import claims_of
from ..common.errors import UsageError
from ..common.executables import find_runtime
from ..common.exits import status_of
from ..common.files import remove_tree
from ..common.names import words_of
from ..common.users import require_user
from . import __version__, bats, scenarios, steps
from .host import Facts, HostError, Tree, facts, find_tree, fitting, unfit
from .runner import Output, Runner
from .sandbox import SandboxConfig, program_body
from .schedule import LAST, Schedule

# Seconds. The slowest recorded program took 16.4 under emulation, mostly asleep; building images is real work.
# That of bats is for a test.
TIMEOUTS = {"validation": 60.0, "runtimetest": 300.0, "bats": 120.0}


def run(argv: list[str]) -> int:
    """The exit status; see the package's docstring."""
    return status_of("labkit-programs", lambda: _chosen(argv), (HostError,))


def _chosen(argv: list[str]) -> int:
    args = _parse(argv)
    if args.set == "bats":
        return _bats(args)
    runtime = find_runtime(args.runtime) if args.runtime else None
    claims = claims_of([runtime]) if runtime else None
    directory = fitting(args.tree, claims.version, args.older) if claims else args.tree
    tree = find_tree(directory, with_programs=args.set == "validation")
    known = list(scenarios.SCENARIOS) if args.set == "runtimetest" else list(tree.programs)
    programs = sorted(selected(known, "program", args.only, words_of(args.leave_out)))
    if args.list:
        print("\n".join(programs))
        return 0
    if runtime is None or claims is None:
        raise UsageError("--runtime NAME or PATH is required")
    if os.geteuid() != 0:
        raise UsageError("must run as root (sudo)")
    lock = (take_lock(args.lock, args.attached),) if args.lock else ()
    return _run(args, runtime, facts(runtime, claims, tree), tree, programs, lock)


def _bats(args: argparse.Namespace) -> int:
    tree = bats.find_bats_tree(args.tree)
    only = None if args.only is None else words_of(args.only)
    tests = bats.select(tree.tests, only, words_of(args.leave_out))
    if args.list:
        print("\n".join(f"{file}:{bats.slug(test)}" for file in sorted(tests) for test in tests[file]))
        return 0
    if args.list_files:
        print("\n".join(sorted(tests)))
        return 0
    if not args.runtime:
        raise UsageError("--runtime NAME or PATH is required")
    runtime = find_runtime(args.runtime)
    claims = claims_of([runtime])
    if os.geteuid() != 0:
        raise UsageError("must run as root (sudo)")
    if args.user:
        require_user(args.user)
    if missing := bats.missing_programs(args.user or ""):
        raise HostError(f"the tests call {', '.join(missing)}, which is not there: install it")
    if lacking := bats.missing_helpers(tree):
        raise HostError(f"the helper programs of {tree.path} are not built, {lacking}: make test-binaries")
    if absent := bats.missing_images(tree):
        where = tree.path / bats.TESTS
        raise HostError(f"{', '.join(absent)} is not there in {where}, and each test would try to fetch it")
    program, version = bats.find_bats()
    lock = (take_lock(args.lock, args.attached),) if args.lock else ()
    about: Facts = {
        "set": "bats",
        "kernel": os.uname().release,
        "cgroup": cgroup_version(),
        "runtime-path": runtime,
        "runtime-version": claims.version,
        "spec": claims.spec_text,
        "bats": version,
        **({"ref": tree.ref} if tree.ref else {}),
        **({"runtime-arguments": quoted_words(args.runtime_arg)} if args.runtime_arg else {}),
        **({"user": args.user, "rootless-features": "+".join(args.feature or bats.FEATURES)} if args.user else {}),
    }
    config = bats.BatsConfig(
        tree, program, runtime, tuple(args.runtime_arg), 0.0, args.user or "", args.feature or bats.FEATURES, tests
    )
    return _run_bats(args, config, about, lock)


def _run_bats(args: argparse.Namespace, config: bats.BatsConfig, about: Facts, lock: tuple[int, ...]) -> int:
    cores = len(os.sched_getaffinity(0))
    # Names of systemd's units, and cgroups of v1, are the host's, and the same in all files.
    alone = config.systemd or cgroup_version() != "v2"
    jobs = 1 if alone else args.jobs or 2 * cores
    limit = (args.timeout or TIMEOUTS["bats"]) * max(1.0, jobs / cores)
    config = dataclasses.replace(config, limit=limit)
    tmp = _temporary()
    most = max(map(len, config.chosen.values()))
    # Files have interfaces of the same names, and what a runtime leaves of them is to be gone with the file.
    apart, known = not config.systemd, bats.mounts(tmp)
    whole = limit * (most + 1) + bats.QUIET
    sandbox = SandboxConfig(config.runtime, whole, lock, apart=apart, known=known, network=apart)
    about.update(suite=f"labkit-programs {__version__}", cores=cores, jobs=jobs, limit=limit, reset=config.systemd)
    signals = Signals()
    output = Output(signals)
    made = [directory for directory in sandbox.state_directories if not directory.exists()]
    try:
        for directory in (*made, tmp, tmp / bats.SHORT):
            directory.mkdir(0o711)
    except OSError as error:
        raise HostError(f"{directory}: {error.strerror}") from error
    files = sorted(config.chosen)
    try:
        bats.prepare(config)
        output.put("plan", programs=files, facts=about, tests={file: list(config.chosen[file]) for file in files})
        seconds = {file: float(len(names)) for file, names in config.chosen.items()}
        Runner(
            Schedule(files, seconds, jobs, args.repeat),
            sandbox,
            tmp,
            lambda file, directory: bats.body(config, file, directory),
            CGROUP_ROOT,
            output,
            signals,
            0 if args.attached else None,
            quiet=limit + bats.QUIET,
        ).run()
        output.put("finish")
    finally:
        remove_tree(tmp)
        bats.clean()
        for directory in made:
            with suppress(OSError):
                directory.rmdir()
    return 0


def _temporary() -> Path:
    """A name for a directory of this run."""
    return Path(os.environ.get("TMPDIR") or "/tmp").absolute() / f"labkit-programs-{os.getpid():x}{os.urandom(4).hex()}"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="labkit-programs", description="Runs the programs of runtime-tools and prints JSON lines.")
    parser.add_argument("--tree", required=True, metavar="DIR", help="a built tree of runtime-tools")
    parser.add_argument(
        "--older",
        nargs=3,
        action="append",
        default=[],
        metavar=("RUNTIME", "VERSION", "REF"),
        help="use the tree DIR-REF, if it exists, for versions of RUNTIME before VERSION",
    )
    parser.add_argument("--runtime", help="name or path of the runtime under test")
    parser.add_argument(
        "--set", choices=tuple(TIMEOUTS), default="validation", help="which programs (default: %(default)s)"
    )
    parser.add_argument("--only", metavar="A,B", action="append", help="run only these programs; A may have * and ?")
    parser.add_argument(
        "--leave-out", metavar="A,B", action="append", default=[], help="but not these, as far as they are there"
    )
    parser.add_argument("--list", action="store_true", help="list the programs and exit")
    parser.add_argument("--list-files", action="store_true", help="list the files of the set bats and exit")
    parser.add_argument(
        "--runtime-arg", action="append", default=[], metavar="WORD", help="of the set bats: before each command"
    )
    parser.add_argument("--user", metavar="NAME", help="of the set bats: who runs the tests, instead of root")
    parser.add_argument(
        "--feature", action="append", choices=bats.FEATURES, help="of --user: what it may have (default: all)"
    )
    parser.add_argument(
        "--jobs", type=number(256), metavar="N", help="programs to run at a time (default: twice the cores)"
    )
    parser.add_argument("--repeat", type=number(1000), default=1, metavar="N", help="run each program N times")
    timeouts = ", ".join(f"{name} {seconds:g}" for name, seconds in TIMEOUTS.items())
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help=f"for each program; longer when programs share a core (default: {timeouts})",
    )
    add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"labkit-programs {__version__}")
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to a day")
    return seconds


def _run(
    args: argparse.Namespace, runtime: str, about: Facts, tree: Tree, programs: list[str], lock: tuple[int, ...]
) -> int:
    cores = len(os.sched_getaffinity(0))
    jobs = args.jobs or 2 * cores
    tmp = _temporary()
    # Programs that share a core slow each other down.
    config = SandboxConfig(runtime, (args.timeout or TIMEOUTS[args.set]) * max(1.0, jobs / cores), lock)
    about.update(
        suite=f"labkit-programs {__version__}", cores=cores, jobs=jobs, limit=config.timeout, reset=LAST in programs
    )

    def body(program: str, directory: Path) -> Callable[[], int]:
        environment = {**os.environ, "RUNTIME": runtime, "TMPDIR": str(directory)}
        if args.set == "runtimetest":
            return lambda: scenarios.run(program, tree, runtime, directory)
        if why := unfit(program):
            return lambda: steps.skipped(why)
        return program_body(f"validation/{program}/{program}.t", tree.path, environment)

    signals = Signals()
    output = Output(signals)
    made = [directory for directory in config.state_directories if not directory.exists()]
    try:
        for directory in (*made, tmp):
            directory.mkdir(0o711)  # anew, and never through a link: others may write in tmp's parent
    except OSError as error:
        raise HostError(f"{directory}: {error.strerror}") from error
    try:
        output.put("plan", programs=programs, facts=about)
        schedule = Schedule(programs, _known_seconds(), jobs, args.repeat)
        Runner(schedule, config, tmp, body, CGROUP_ROOT, output, signals, 0 if args.attached else None).run()
        output.put("finish")
    except BaseException:
        if args.set == "runtimetest":
            scenarios.end(programs)
        raise
    finally:
        remove_tree(tmp)
        for directory in made:
            with suppress(OSError):
                directory.rmdir()
    return 0


def _known_seconds() -> dict[str, float]:
    data = pkgutil.get_data(__package__ or "", "seconds.tsv")
    assert data is not None
    rows = csv.DictReader(data.decode().splitlines(), delimiter="\t")
    return {row["program"]: float(row["seconds"]) for row in rows}

"""labkit's own checks, in stages. Each prints how long it took; what could not be done is said in one line.

--fast     style, types, one row of each test that starts neither containers nor machines and is quick
and without it: all rows of what takes up to two seconds, every fourth row of the tables, tests that run runtimes and a
           bootstrap on this host, tests of a machine
--long     and all the others: Vagrant, every image, whole suites on several runtimes
--faults   only the table of faults, all of it, on simulated machines and on real ones
--slow     only what takes too long for --long: all the broken runtimes that the spec suite must see through, on two
           versions of runc, every converter, a build of youki, a machine of another architecture, most of the faults on
           real machines, a whole suite on an emulated one, accidents of Vagrant's, a box of a cloud image, a bootstrap
           that is killed in every step

How long a test takes is in tests/durations.json, which `pytest --store-durations` brings up to date.

A test that fails beside others is run again alone at the end, as what a runtime fails is: it counts if it fails again,
and is named if it does not. Where many fail, none is.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import itertools
import json
import os
import shlex
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.errors import LabError, UsageError
from labkit.core.observer import Observer
from labkit.host import install
from labkit.host.facts import CheckProgram, package_manager, read_data
from labkit.io import process

_TIMEOUT = 7200.0  # seconds for one stage; image builds and boots under emulation are slow
_PYTEST = ("pytest", "-q", "-rfE")
_TESTS_FAILED = 1  # pytest's status, where nothing else is wrong
_FAULTS = "tests/faults"
# Tests with a row for each of many cases of one kind.
_TABLES = (_FAULTS, "tests/test_walk.py", "tests/test_scripts.py", "tests/test_completion.py")
# What starts neither containers nor machines: the default of pytest here, too.
_QUICK = "not machine and not host_runtime and not bootstrap"
_STEALING = "--dist=worksteal"  # else one worker has long tests left when the others are done
_WORKERS = ("--numprocesses=3", _STEALING)  # some of the tests only wait
_TWO = ("--numprocesses=2", _STEALING)  # machines of User-Mode Linux have one CPU each
# Emulated kernels panic now and then (docs/decisions.md, 11); for anything else a test has one chance.
_PANICS = ("--reruns=1", "--only-rerun=kernel panicked")
_FEW = 5  # tests of a stage that are run again
_BESIDE = ("--numprocesses=", "--dist=", "--one-in=", "--within=", "--first-rows")  # words for runs beside others
# Else each of thousands of processes would compile all of labkit, which takes it a second.
_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
say = functools.partial(print, flush=True)


class Extent(enum.IntEnum):
    FAST = 0
    NORMAL = 1
    LONG = 2
    FAULTS = 3  # everything of one kind, as are those after it
    SLOW = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """words is a module of this environment with its arguments; stages of one turn run side by side. root: it can do
    nothing without being root.
    """

    name: str
    words: tuple[str, ...]
    turn: int = 0
    extent: Extent = Extent.FAST
    root: bool = False


def stages(extent: Extent, stock: Path) -> list[Stage]:
    """The stages of a check, in their order. stock: a directory for what tests of machines share."""

    def tests(marker: str, *words: str) -> tuple[str, ...]:
        left_out = {Extent.LONG: " and not slow", Extent.FAULTS: "", Extent.SLOW: ""}
        more = ("--durations=15",) if extent >= Extent.LONG else ()
        return (*_PYTEST, *words, *more, "-m", marker + left_out.get(extent, " and not long and not slow"))

    machines = (f"--stock={stock}", *_PANICS)
    quick = ("--within=2",) if extent is Extent.NORMAL else ()
    some = () if extent is Extent.FAULTS else ("--one-in=4", *(("--within=20",) if extent is Extent.NORMAL else ()))
    tables = Stage("tables", tests("not machine", *_WORKERS, *some, *_TABLES), 1)
    if extent is Extent.FAULTS:
        return [tables, Stage("real faults", tests("machine", *machines, _FAULTS), 2, root=True)]
    if extent is Extent.SLOW:
        return [
            Stage("runtimes", tests("host_runtime and slow"), root=True),
            Stage("builds", tests("bootstrap and slow"), 1, root=True),
            Stage("machines", tests("machine and slow", *machines), 2, root=True),
        ]
    code = [
        Stage("style", ("ruff", "check", ".")),
        Stage("format", ("ruff", "format", "--check", ".")),
        Stage("types", ("mypy",)),
    ]
    if extent is Extent.FAST:
        return [*code, Stage("tests", tests(_QUICK, "--numprocesses=2", "--first-rows", "--within=0.1"))]
    every = [
        *code,
        Stage("tests", (*_PYTEST, *_WORKERS, *quick, *(f"--ignore={path}" for path in _TABLES))),
        tables,
        # One test at a time: what a runtime leaves in the host's cgroups is looked for.
        Stage("runtimes", tests("host_runtime"), 2, Extent.NORMAL, root=True),
        Stage("bootstrap", tests("bootstrap and not machine"), 2, Extent.NORMAL, root=True),
        Stage("machines", tests("machine and not emulated", *machines, *_TWO), 3, Extent.NORMAL, root=True),
        # One at a time: an emulator has threads for two CPUs. They wait often, and other machines run meanwhile.
        Stage("emulated", tests("machine and emulated", *machines), 3, Extent.NORMAL, root=True),
    ]
    return [stage for stage in every if stage.extent <= extent]


def run(checkout: Path, settings: Settings, observer: Observer, extent: Extent) -> int:
    """Run all stages in the checkout; 0, or 1 where one failed.

    What the tests need of this host is installed first where this user is root or settings.yes says so; without it, the
    tests that need it are skipped. UsageError where this is no checkout.
    """
    if not (checkout / "pyproject.toml").is_file():
        raise UsageError("check needs a checkout of labkit; this is an installed one")
    left_out = _get_programs(settings, observer, extent)
    with tempfile.TemporaryDirectory(prefix="labkit-check-", ignore_cleanup_errors=True) as stock:
        return run_all(checkout, stages(extent, Path(stock)), left_out, Path(stock))


def run_all(checkout: Path, chosen: list[Stage], left_out: list[str], place: Path) -> int:
    """Run these stages; 0, or 1 where one failed. left_out: lines for the end; place: where pytest keeps things."""
    if os.geteuid() != 0 and any(stage.root for stage in chosen):
        left_out.append(f"{', '.join(stage.name for stage in chosen if stage.root)}: only root can run these")
        chosen = [stage for stage in chosen if not stage.root]
    began = time.monotonic()
    outcomes: list[_Outcome] = []
    with ThreadPoolExecutor() as pool:
        for _, turn in itertools.groupby(chosen, lambda stage: stage.turn):
            together = list(turn)
            outcomes += pool.map(functools.partial(_run, checkout, place, len(together) == 1), together)
    outcomes = [outcome if outcome.ok else _again(checkout, place, outcome) for outcome in outcomes]
    say("")
    for outcome in outcomes:
        say(f"{outcome.stage.name:11} {outcome.seconds:7.1f} s  {'ok' if outcome.ok else f'FAILED: {outcome.command}'}")
    say(f"{'in all':11} {time.monotonic() - began:7.1f} s")
    for outcome in outcomes:
        for name in outcome.unsteady:
            say(f"failed beside others, passed alone: {name}")
    for line in left_out:
        say(f"left out: {line}")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


@dataclass(frozen=True, slots=True)
class _Outcome:
    """unsteady: tests that failed, and passed when they ran alone."""

    stage: Stage
    seconds: float
    status: int
    unsteady: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def command(self) -> str:
        return f"python -m {shlex.join(self.stage.words)} (exit status {self.status})"


def _run(checkout: Path, place: Path, alone: bool, stage: Stage) -> _Outcome:
    """Run one stage. Where it runs beside others, each of its lines begins with its name."""
    began = time.monotonic()

    def tell(line: str) -> None:
        say(f"{line}\n" if alone else f"{stage.name:9} | {line}\n", end="")  # whole: others print meanwhile

    tell(f"$ python -m {shlex.join(stage.words)}")
    argv = [sys.executable, "-m", *stage.words]
    if stage.words[0] == "pytest":
        argv += ["-o", f"cache_dir={_cache(place, stage)}"]
    done = process.run(
        argv, timeout=_TIMEOUT, cwd=checkout, check=False, on_line=tell, passing=process.ALL, env=_COMPILED
    )
    return _Outcome(stage, time.monotonic() - began, done.status)


def _again(checkout: Path, place: Path, first: _Outcome) -> _Outcome:
    """Run the tests that failed once more, one at a time and beside nothing, where they are few."""
    failed: tuple[str, ...] = ()
    with contextlib.suppress(OSError, ValueError):
        failed = tuple(json.loads((_cache(place, first.stage) / "v/cache/lastfailed").read_text()))
    if first.status != _TESTS_FAILED or not 0 < len(failed) <= _FEW:
        return first
    say(f"\nonce more, alone: {', '.join(failed)}")
    words = [word for word in first.stage.words if not word.startswith(_BESIDE)]
    alone = replace(first.stage, words=(*words, "--last-failed", "--last-failed-no-failures=none"))
    second = _run(checkout, place, True, alone)
    took = first.seconds + second.seconds
    return replace(first, seconds=took, status=0, unsteady=failed) if second.ok else replace(first, seconds=took)


def _cache(place: Path, stage: Stage) -> Path:
    return place / f"pytest-{stage.name.replace(' ', '-')}"


def _get_programs(settings: Settings, observer: Observer, extent: Extent) -> list[str]:
    """Install what the tests need of this host; what is still missing, as lines."""
    needed = Extent.NORMAL if extent > Extent.LONG else extent
    wanted = {name: program for name, program in read_data().check.items() if Extent[program.extent.upper()] <= needed}
    missing = [name for name, program in wanted.items() if not is_there(name, program)]
    if missing and install.may_install(settings):
        manager = package_manager(read_data())
        packages = [manager.packages(wanted[name].packages) for name in missing]
        began = time.monotonic()
        try:
            install.install_packages(settings, itertools.chain.from_iterable(packages), observer)
        except LabError as error:
            observer.warn(f"{error.message}; trying one by one")
            for some in packages:  # this system may lack only some of them
                with contextlib.suppress(LabError):
                    install.install_packages(settings, some, observer)
        say(f"{'installed':11} {time.monotonic() - began:7.1f} s  {', '.join(missing)}")
        missing = [name for name in missing if not is_there(name, wanted[name])]
        why = "could not be installed"
    else:
        why = "not installed; ./lab check as root, or with --yes, installs it"
    return [f"tests that need {', '.join(missing)}: {why}"] if missing else []


def is_there(name: str, program: CheckProgram) -> bool:
    """Whether this host has a program that tests need, or the file that stands for it."""
    if program.file:
        return any(Path("/").glob(program.file.lstrip("/")))
    return process.which(name) is not None


@functools.cache
def missing_programs(names: tuple[str, ...]) -> list[str]:
    """Those of these names, of programs that tests need, that this host lacks."""
    known = read_data().check
    return [name for name in names if not is_there(name, known[name])]

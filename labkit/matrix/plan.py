"""The cells of a night: [matrix] of labkit.toml, or of a file of its own, as values. Nothing here runs anything.

    platforms x providers x runtimes x suites, and for each table in include the same of what it names; less exclude

A suite that is about engines is run with each of engines; one about registries with each of those, and no runtime.

A cell that cannot exist (no such release, no such runtime) is planned with its problem, and the others with it: the
night tells of it and goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, StrictStr

from labkit.core import platforms, tomlfile
from labkit.core.arch import Arch, known
from labkit.core.cell import Cell, Selection
from labkit.core.config import Seconds, Settings, Whole
from labkit.core.errors import LabError, UsageError
from labkit.core.tomlfile import Key, Table
from labkit.core.trust import require_trusted
from labkit.machines.choice import require_image
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Role
from labkit.suites import registry
from labkit.suites.base import OfEngines, OfRegistries

MOST = 10_000  # cells of a night
_CELL = 4 * 3600.0  # seconds that a cell may take: an image, a machine, a suite and what is run again
_OVERHEAD = 256  # MiB that a machine's process takes beside the memory of the machine


def _listed(value: object) -> object:
    """A word alone stands for a list of one."""
    return [value] if isinstance(value, str) else value


_Words = Annotated[tuple[Annotated[StrictStr, Field(min_length=1)], ...], BeforeValidator(_listed)]
_PLATFORMS = 'a list of platforms and releases, such as ["debian-13", "fedora"]'
_PROVIDERS = 'a list of providers, such as ["auto"]'
_RUNTIMES = 'a list of runtimes, such as ["runc", "crun"]'
_REGISTRIES = 'a list of registries, such as ["docker-registry"]'
_SUITES = 'a list of suites, such as ["spec"]'
_WITH = {"engines": '"engine"', "registries": '"distribution"', "runtimes": '"spec"'}  # a suite that is run with them
_ENGINES = 'a list of engines, such as ["docker", "podman"]'


class Include(Table):
    """Words for cells; what is None is as in the matrix."""

    platforms: _Words | None = Field(default=None, description=_PLATFORMS)
    providers: _Words | None = Field(default=None, description=_PROVIDERS)
    runtimes: _Words | None = Field(default=None, description=_RUNTIMES)
    registries: _Words | None = Field(default=None, description=_REGISTRIES)
    suites: _Words | None = Field(default=None, description=_SUITES)
    engines: _Words | None = Field(default=None, description=_ENGINES)


class Matrix(Include):
    """[matrix]. limits has seconds for the cells that a pattern names; where several do, the last one counts."""

    include: tuple[Include, ...] = Field(default=(), description="tables: [[matrix.include]]")
    exclude: _Words = Field(default=(), description='a list of patterns for cells, such as ["debian-12/*/crun/*"]')
    checks: _Words = Field(default=(), description='a list of checks or programs, such as ["QUERY-001"]')
    rebuild: bool = Field(default=True, description="true or false")
    at_once: Whole | None = Field(default=None, ge=1, le=1000, description="a whole number from 1 to 1000")
    limits: dict[str, Seconds] = Field(default={}, description="a table of seconds, by patterns for cells")


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell of a night. mib and cpus: what it needs of the host that it runs on; limit: seconds that it may take;
    seconds: how long it took last time, None where that is not known; problem: why it cannot exist.
    """

    cell: Cell
    mib: int
    cpus: int
    limit: float
    seconds: float | None = None
    problem: str = ""

    @property
    def key(self) -> str:
        return self.cell.key


@dataclass(frozen=True, slots=True)
class Plan:
    """cells are those that take longest first. at_once: how many may run at a time, None for as many as the host bears.
    rebuild: whether images are made anew of what their mirrors have now. notes: what a person should know, such as what
    the default matrix leaves out.
    """

    cells: tuple[Planned, ...]
    at_once: int | None = None
    rebuild: bool = True
    notes: tuple[str, ...] = ()


def load(settings: Settings) -> Matrix | None:
    """The matrix of the settings, None where nobody has written one."""
    given = settings.matrix
    origin = settings.origin("matrix") or str(settings.file)
    if given is None:
        return None
    if isinstance(given, dict):
        return _checked(given, origin, "matrix")
    if not given.is_file():
        raise UsageError(f"{origin} names {given}, which is no file", hint="a TOML file with a table [matrix]")
    data = tomlfile.read(require_trusted(given))
    if "matrix" not in data:
        raise UsageError(f"{given} has no table [matrix]", hint='such as [matrix] with platforms = ["debian-13"] in it')
    if others := sorted(data.keys() - {"matrix"}):
        raise UsageError(
            f"{given}: unknown key {others[0]} (known: matrix)", hint="settings for all commands stand in labkit.toml"
        )
    return _checked(data["matrix"], str(given), "matrix")


def _checked(data: object, origin: str, name: str) -> Matrix:
    class Named(Table):
        matrix: Matrix

    if not isinstance(data, dict):
        raise UsageError(f"{origin}: {name} is {data!r}, must be a table: [{name}]")

    def source(_: Key) -> str:
        return origin

    return tomlfile.check(Named, {name: data}, source).matrix


def plan(
    matrix: Matrix,
    settings: Settings,
    *,
    only: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
    one_cpu: bool = False,
) -> Plan:
    """The cells of the matrix, those that took longest first; only: patterns, of which a cell's key must match one.

    seconds: how long cells took last time, by key. one_cpu: what provider auto makes here has one CPU. UsageError where
    no cell is left, or a pattern names none.
    """
    found: dict[str, Cell] = {}
    problems: dict[str, str] = {}
    for block in (Include(), *matrix.include):
        for cell, problem in _cells(matrix, block, settings):
            found.setdefault(cell.key, cell)
            if problem:
                problems[cell.key] = problem
            if len(found) > MOST:
                raise UsageError(f"the matrix has more than {MOST} cells", hint="name fewer, or exclude some")
    _all_used(matrix, list(found.values()))
    keys = _left(list(found), matrix.exclude, only)
    times = seconds or {}
    planned = [
        Planned(
            found[key],
            *_needs(found[key], settings, one_cpu),
            _limit(key, matrix.limits),
            times.get(key),
            problems.get(key, ""),
        )
        for key in keys
    ]
    # One that has not run yet may take long.
    planned.sort(key=lambda one: (one.seconds is not None, -(one.seconds or 0)))
    at_once = 1 if settings.machine.ssh_port else matrix.at_once
    return Plan(tuple(planned), at_once, matrix.rebuild)


def _all_used(matrix: Matrix, cells: Sequence[Cell]) -> None:
    """Raise UsageError where engines, registries or runtimes are named, and no suite of the matrix is run with them."""
    used = {
        "engines": any(cell.engine for cell in cells),
        "registries": any(_role(cell.suite) is Role.REGISTRY for cell in cells),
        "runtimes": any(_role(cell.suite) is Role.RUNTIME for cell in cells),
    }
    for name, is_used in used.items():
        if not is_used and any(getattr(block, name) for block in (matrix, *matrix.include)):
            raise UsageError(
                f"matrix.{name} is named, and no suite of the matrix is run with {name}",
                hint=f"suites = [{_WITH[name]}], or leave {name} out",
            )


def _left(keys: list[str], exclude: Sequence[str], only: Sequence[str]) -> list[str]:
    left = [key for key in keys if not _matches(key, exclude)]
    if not left:
        raise UsageError(
            "the matrix is empty" + (": exclude leaves nothing of it" if keys else ""),
            hint="name at least one platform, provider, runtime and suite in [matrix]",
        )
    for pattern in only:
        if not any(fnmatch.fnmatchcase(key, pattern) for key in left):
            some = ", ".join(left[:6]) + (", ..." if len(left) > 6 else "")
            raise UsageError(
                f"no cell of the matrix is called {pattern}", hint=f"a pattern such as '*/crun/*'; the cells: {some}"
            )
    return [key for key in left if not only or _matches(key, only)]


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _cells(matrix: Matrix, block: Include, settings: Settings) -> Iterator[tuple[Cell, str]]:
    """The cells of a block, each with why it cannot exist."""
    selection = Selection(only=tuple(matrix.checks), jobs=settings.jobs)
    own = settings.platform + (f"-{settings.release}" if settings.release else "")
    own = f"{own}-{settings.machine.arch}" if settings.machine.arch != "auto" else own
    fallbacks = {
        "platforms": (own,),
        "providers": (settings.provider,),
        "suites": (settings.suite,),
        "engines": (settings.engine or "",),
        "runtimes": (settings.runtime,),
        "registries": (settings.registry,),
    }
    lists = []
    for name, fallback in fallbacks.items():
        named, general = getattr(block, name), getattr(matrix, name)
        lists.append(named if named is not None else general if general is not None else fallback)
    *others, suites, engines, subjects, registries = lists
    roles = {suite: _role(suite) for suite in suites}
    of_role = {Role.RUNTIME: subjects, Role.REGISTRY: registries}
    under_test = [(suite, given) for suite in suites for given in of_role[roles[suite]]]
    for word, provider, (suite, given) in itertools.product(*others, under_test):
        runtime, chosen = _under_test(given, selection, settings, roles[suite])
        for platform, release, arch, problem in _systems(word, settings):
            of = Arch.AMD64.value if provider == "ssh" else arch
            for engine in engines if _is_of_engines(suite) else ("",):
                cell = Cell(platform, release, provider, "", runtime, suite, chosen, engine=engine, arch=of)
                yield cell, problem or _problem(cell, settings)


def _role(suite: str) -> Role:
    """What a suite is about."""
    with contextlib.suppress(LabError):
        return Role.REGISTRY if isinstance(registry.find(suite), OfRegistries) else Role.RUNTIME
    return Role.RUNTIME


def _is_of_engines(suite: str) -> bool:
    """Whether there is a cell of it for each engine; the others are about none."""
    with contextlib.suppress(LabError):
        return isinstance(registry.find(suite), OfEngines)
    return False


def _under_test(given: str, selection: Selection, settings: Settings, role: Role) -> tuple[str, Selection]:
    """The runtime as a word that is one everywhere, and the selection with its arguments. Paths are those of the file
    that has the matrix. What is none stays as it is: see _problem().
    """
    file = settings.matrix if isinstance(settings.matrix, Path) else settings.file
    with contextlib.suppress(LabError):
        text, arguments = runtimes.split(given)
        word = runtimes.word(text, file.parent if file else None, role)
        return str(word), dataclasses.replace(selection, runtime_args=(*selection.runtime_args, *arguments))
    return given, selection


def _systems(word: str, settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    """Platform, release and architecture of a word: `debian-13`, `debian` for its default, `debian-*` for all of them,
    each with `-arm64` or `-amd64` after it where that is not the settings'; and why there is no such thing.
    """
    directories = platforms.directories(settings.platforms)
    names = platforms.names(directories)
    arch = settings.arch.value
    if word not in names and (named := known(word.rpartition("-")[2])):
        word, arch = word.rpartition("-")[0], named.value
    name, _, release = word.rpartition("-") if word not in names else (word, "", "")
    try:
        platform = platforms.load(name or word, directories)
        if release == "*":
            yield from ((name, found.name, arch, "") for found in platform.by_default())
        else:
            yield name, platform.release(release or None).name, arch, ""
    except LabError as error:
        yield name or word, release or "?", arch, error.message


def _problem(cell: Cell, settings: Settings) -> str:
    try:
        suite = registry.find(cell.suite, cell.engine)
        suite.check(cell.selection)
        runtimes.word(cell.runtime, role=_role(cell.suite))
        providers = ("auto", "qemu", "uml", "vagrant", "ssh")
        if cell.provider not in providers:
            return f"unknown provider {cell.provider!r}; known: {', '.join(providers)}"
        if cell.provider == "ssh" and not settings.ssh.host:
            return "the ssh provider needs a host: host in [ssh] of labkit.toml"
        require_image(settings, settings.of_cell(cell).distro(), cell.provider)
    except LabError as error:
        return error.message
    return ""


def _needs(cell: Cell, settings: Settings, one_cpu: bool) -> tuple[int, int]:
    """MiB and CPUs; a host of somebody's own takes nothing of this one."""
    if cell.provider == "ssh":
        return 64, 0
    one = cell.provider == "uml" or (cell.provider == "auto" and one_cpu)
    return settings.machine.memory + _OVERHEAD, 1 if one else settings.machine.cpus


def _limit(key: str, limits: Mapping[str, float]) -> float:
    named = [seconds for pattern, seconds in limits.items() if fnmatch.fnmatchcase(key, pattern)]
    return named[-1] if named else _CELL


def expected(cells: Sequence[Planned], at_once: int) -> float | None:
    """How long the cells will take in all, so many at a time; None where one has never run.

    As the window deals them: the next one goes to whoever is free first.
    """
    if any(one.seconds is None for one in cells if not one.problem):
        return None
    ends = [0.0] * max(1, at_once)
    for one in cells:
        first = min(range(len(ends)), key=ends.__getitem__)
        ends[first] += one.seconds or 0.0
    return max(ends)


def default(validation: bool, settings: Settings) -> Matrix:
    """What a night runs where nobody has said: the two newest stable Debians, both runtimes, what suites can be had.
    What the settings were asked for (a platform, a runtime, ...) it keeps to.
    """
    asked = settings.origin
    return Matrix(
        platforms=None if asked("platform") or asked("release") else ("debian-13", "debian-12"),
        runtimes=None if asked("runtime") else ("runc", "crun"),
        suites=None if asked("suite") else ("spec", "validation") if validation else ("spec",),
    )


def with_checks(matrix: Matrix, checks: Sequence[str]) -> Matrix:
    """The matrix with these checks or programs alone in each cell."""
    return matrix.model_copy(update={"checks": tuple(checks)}) if checks else matrix

"""What is under test as data: runtimes, one file NAME.toml each in this directory; registries in ../registries, and the
upstream programs of suites in ../programs. Adding one is adding a file.
"""

from __future__ import annotations

import enum
import re
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictStr

from labkit.core import tomlfile
from labkit.core.config import HOST
from labkit.core.errors import UsageError
from labkit.core.platforms import Sha256
from labkit.core.suggest import unknown
from labkit.core.tomlfile import Table
from labkit.subjects.runtimes import words
from labkit.subjects.runtimes.words import HostFile, InMachine, Package, Running, Source, Word


class Role(enum.StrEnum):
    """What a word is to name."""

    RUNTIME = "runtime"
    REGISTRY = words.REGISTRY
    PROGRAM = "program"  # of a suite


_DIRECTORIES = {
    Role.RUNTIME: Path(__file__).parent,
    Role.REGISTRY: Path(__file__).parents[1] / "registries",
    Role.PROGRAM: Path(__file__).parents[1] / "programs",
}
# Of the OCI Runtime Command Line Interface.
OciCommand = Literal["create", "start", "state", "kill", "delete"]


class _Older(Table):
    before: StrictStr = Field(pattern=r"^[0-9][0-9.]*$", description="a version such as 1.14.3")
    ref: StrictStr = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="a git ref without a slash")


class System(enum.StrEnum):
    """How sources are built: what fetches and compiles them."""

    GO = "go"
    CARGO = "cargo"
    AUTOTOOLS = "autotools"
    MAKE = "make"


class Build(Table):
    """How a runtime is built from its sources. packages: by family of platforms, what must be installed besides the
    system's own; directory: where in a repository the Go module is, if not at its top; package: what of it is built;
    recipe: shell, run in the sources, and program what it makes there; mark: a file of the sources and a text in it, by
    which they are known to be this runtime's.
    """

    system: System
    packages: dict[StrictStr, tuple[StrictStr, ...]] = Field(default={}, description="a table of lists of packages")
    directory: StrictStr = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", description="the name of a directory")
    package: StrictStr = "."
    recipe: StrictStr = Field(min_length=1)
    program: StrictStr = Field(pattern=r"^[A-Za-z0-9._+/-]+$", description="a path in the sources")
    mark: tuple[StrictStr, StrictStr] | None = None


class Published(Table):
    """Where the programs of releases are published. In url and sums, {version} and {arch} are filled in; arch: what
    the publisher calls an architecture, by uname -m; sums: a list of digests; why: what is told where there is none.
    """

    url: StrictStr
    sums: StrictStr = ""
    arch: dict[StrictStr, StrictStr] = Field(default={}, description="a table of names")
    sha256: dict[StrictStr, dict[StrictStr, Sha256]] = Field(
        default={}, description="tables of digests by architecture, one for each version"
    )


class Beside(Table):
    """Files of packages that images lack, sent with or as the runtime: paths in the root file system."""

    packages: dict[StrictStr, tuple[StrictStr, ...]] = Field(description="a table of lists of packages")
    files: tuple[StrictStr, ...] = Field(min_length=1, description="a list of paths without a leading /")


class Serve(Table):
    """How a registry is started: the text of its configuration, and its arguments. {data} is a directory of its own,
    {address} HOST:PORT, {port} the port, {config} the file with the text.
    """

    config: StrictStr
    arguments: tuple[StrictStr, ...] = Field(description="a list of arguments")


class About(Table):
    """What labkit knows of a runtime. packages: by family of platforms; repository, module, crate: where its sources
    are; tag: the tag of a version; arguments: given before each command; lacks: commands of the OCI command line that
    it does not have, with the reason; limits: what else it cannot do; none: why it is no subject for suites at all;
    beside: what of packages is sent to a machine whose image has not got it; shim: a program of labkit.guest.shims that
    is the runtime; serve: how a registry is started; setting: what names another one in place of a suite's program.
    """

    title: StrictStr
    homepage: StrictStr
    binary: StrictStr = Field(pattern=r"^[A-Za-z0-9._+-]+$", description="the name of a program, without a directory")
    untrusted: bool = False
    arguments: tuple[StrictStr, ...] = Field(default=(), description="a list of arguments that come before a command")
    runtime_tools: _Older | None = None
    packages: dict[StrictStr, tuple[StrictStr, ...]] = Field(default={}, description="a table of lists of packages")
    repository: StrictStr = ""
    module: StrictStr = ""
    crate: StrictStr = ""
    tag: StrictStr = "v{version}"
    published: Published | None = None
    build: Build | None = None
    releases: tuple[StrictStr, ...] = Field(default=(), description="a list of versions")
    lacks: dict[OciCommand, StrictStr] = Field(default={}, description="a table of reasons, by command")
    limits: tuple[StrictStr, ...] = Field(default=(), description="a list of sentences")
    none: StrictStr = ""
    beside: Beside | None = None
    shim: StrictStr = ""
    serve: Serve | None = None
    setting: StrictStr = ""


@dataclass(frozen=True, slots=True)
class Runtime:
    """command is what to execute in the guest: a program's name, or its absolute path; empty for what is not there yet.
    arguments come before each of its commands. untrusted: whether it may be hostile, so that only a machine that is a
    wall may run it. sha256 and source: what the program is, and where it comes from, once that is known.
    """

    name: str
    command: str
    title: str
    homepage: str = ""
    untrusted: bool = False
    arguments: tuple[str, ...] = ()
    sha256: str = ""
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """What is known of a runtime by its name."""
        left_out = ("sha256", "source")
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def names(role: Role = Role.RUNTIME) -> list[str]:
    """Return the names of the runtimes, or of what else role says, that have a file, sorted."""
    return sorted(file.stem for file in _DIRECTORIES[role].glob("*.toml"))


def every() -> list[str]:
    """Return the names of all that have a file."""
    return [name for role in Role for name in names(role)]


def role_of(name: str) -> Role:
    """What the thing of that name is."""
    return next((role for role in Role if name in names(role)), Role.RUNTIME)


def about(name: str) -> About:
    """Return what labkit knows of the runtime, registry or program with that name. UsageError."""
    if _file(name) is None:
        message, hint = unknown("runtime", name, names())
        raise UsageError(message, hint=hint)
    return _read(name)


def lacks(name: str) -> dict[str, str]:
    """Return the OCI commands that the runtime with that name does not have, with the reasons; none of one that labkit
    does not know.
    """
    return {str(command): why for command, why in _read(name).lacks.items()} if name in names() else {}


def older_refs() -> tuple[tuple[str, str, str], ...]:
    """Return (binary, version, ref) for each runtime that before this version needs runtime-tools at this ref instead
    of the default.
    """
    files = ((data.binary, data.runtime_tools) for data in map(_read, names()))
    return tuple((binary, older.before, older.ref) for binary, older in files if older)


def split(text: str) -> tuple[str, list[str]]:
    """A runtime's word, and the arguments that follow it: `/usr/bin/runc --debug`. UsageError."""
    found = re.search(r"\s+-", text)  # a path may have spaces
    if not found or _is_there(text):
        return text, []
    word, rest = text[: found.start()], text[found.start() :]
    try:
        arguments = shlex.split(rest)
        quoted = shlex.split(word) if "'" in word or '"' in word else []
    except ValueError as error:
        raise UsageError(f"runtime {text!r}: {error}") from error
    return quoted[0] if len(quoted) == 1 else word, arguments


def _is_there(text: str) -> bool:
    """Whether all of it is the name of a file of this host."""
    try:
        return "/" in text and Path(text.removeprefix(HOST)).exists()
    except OSError:  # too long to be one
        return False


def word(text: str, directory: Path | None = None, role: Role = Role.RUNTIME) -> Word:
    """Read what follows --runtime, or the flag of another role, without the arguments; relative paths are below
    directory. UsageError.
    """
    return words.parse(text, names(role), directory or Path.cwd(), role.value)


def repository(text: str, directory: Path | None = None) -> Source:
    """Read what follows the --runtime of `bisect`: sources without a ref. UsageError."""
    source = words.repository(text, names(), directory or Path.cwd())
    if source.name and not about(source.name).repository:
        raise UsageError(
            f"labkit knows no repository of {source.name}", hint="a URL, or ./TREE, a git tree of this host"
        )
    return source


def find(text: str, name: str = "", directory: Path | None = None) -> Runtime:
    """of() what the text means. UsageError."""
    return of(word(text, directory), name)


def of(word: Word, name: str = "") -> Runtime:
    """Return the runtime that a word means, as far as it is known without a machine. name is what to call it, where
    that is not its own name.
    """
    if name and not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,62}", name, re.ASCII):
        raise UsageError(f"--runtime-name is {name!r}, must be a name of letters, digits and . _ + -")
    runtime = _of(word)
    return replace(runtime, name=name) if name else runtime


def _of(word: Word) -> Runtime:
    if isinstance(word, Package):
        return named(word.name)
    if isinstance(word, InMachine):
        return Runtime(word.path.name, str(word.path), word.path.name)
    if isinstance(word, HostFile):
        return Runtime(word.path.name, "", word.path.name)
    if isinstance(word, Running):
        host = word.url.partition("://")[2]
        return Runtime(host, word.url, host, source="running")
    if word.name:
        return replace(named(word.name), command="")
    assert isinstance(word, Source)
    title = re.sub(r"\.git$", "", word.where.rstrip("/")).rpartition("/")[2] or "runtime"
    return Runtime(title, "", title)


def named(name: str) -> Runtime:
    """Return the runtime that has a file of that name, as the platform's package has it."""
    data = _read(name)
    return Runtime(name, data.binary, data.title, data.homepage, data.untrusted, data.arguments)


def _file(name: str) -> Path | None:
    """The file of a name, whatever it is of: no two have the same."""
    found = (directory / f"{name}.toml" for directory in _DIRECTORIES.values())
    return next((file for file in found if "/" not in name and file.is_file()), None)


def _read(name: str) -> About:
    file = _file(name)
    assert file is not None, name
    return tomlfile.check(About, tomlfile.read(file), lambda _: str(file))

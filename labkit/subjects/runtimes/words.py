"""What people write after `--runtime` or `--registry`, read: pure, but for a look at whether a file is there.

| word | means |
| --- | --- |
| `runc` | the platform's package |
| `runc@1.3.6` | that release of a runtime that labkit knows |
| `runc@main`, `URL#REF`, `PATH#REF` | built from source at that ref |
| `./runc`, `../x`, `~/x`, `host:/abs/x`, `./dir/` | a file of this host, or a directory whose `runtime` is run |
| `/usr/local/bin/runc` | a program in the machine |
| `https://registry.example.org` | a registry that runs already |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labkit.core.config import HOST, host_file
from labkit.core.errors import UsageError
from labkit.core.sources import NO_USER, NO_USER_HINT, has_user
from labkit.core.suggest import unknown

_RELEASE = re.compile(r"(?:v|release-)?([0-9]+(?:[.][0-9]+)*(?:[-+.~][A-Za-z0-9.+~-]+)?)")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,200}")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_ADDRESS = re.compile(
    r"(https?)://([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?", re.IGNORECASE | re.ASCII
)
_URL = re.compile(r"[a-z][a-z0-9+]*://\S+|[\w.-]+@[\w.-]+:\S+")


@dataclass(frozen=True, slots=True)
class Package:
    """The platform's package of a runtime that labkit knows by name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Release:
    """version has no leading v."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Source:
    """A ref of a git repository. name is a runtime that labkit knows, whose repository it is; else it is empty, and
    where is a URL or the absolute path of a tree of this host.
    """

    name: str
    where: str
    ref: str

    def __str__(self) -> str:
        return f"{self.name}@{self.ref}" if self.name else f"{self.where}#{self.ref}"


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file of this host, or a directory whose `runtime` is run there; the path is absolute."""

    path: Path

    def __str__(self) -> str:
        return f"{HOST}{self.path}"


@dataclass(frozen=True, slots=True)
class InMachine:
    path: PurePosixPath

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Running:
    """A registry that runs already; url is http(s)://HOST[:PORT]."""

    url: str

    def __str__(self) -> str:
        return self.url


Word = Package | Release | Source | HostFile | InMachine | Running
REGISTRY = "registry"  # the role that may be running already


def parse(text: str, names: list[str], directory: Path, what: str = "runtime") -> Word:
    """Read a word, without the arguments of the runtime. names are the runtimes that labkit knows; relative paths are
    below directory. what: what the word is to name, which messages and the flag call so. str() of what comes back reads
    as the same, wherever it is sent. UsageError.
    """
    if not text.isprintable() or not text.strip():
        raise UsageError(f"{what} {text!r} is not a name or a path", hint=f"known: {', '.join(names)}")
    if what == REGISTRY and re.match(r"https?://", text, re.IGNORECASE) and "#" not in text:
        return _running(text)
    _without_user(text, what)
    host = _host_file(text, directory)
    if host is not None and host.exists():
        return HostFile(host)  # also where its name has a # or an @
    before, mark, ref = text.rpartition("#")
    if mark and before:
        return _source(text, before, ref, directory, what)
    if host is not None:
        raise UsageError(
            f"{host} is not there: --{what} {text} is a file of this host",
            hint="a program in the machine has an absolute path: /usr/local/bin/runc",
        )
    if text.startswith("/"):
        path = PurePosixPath(text)
        if path.name in ("", ".."):
            raise UsageError(f"{what} {text!r} is a directory", hint="name the program: /usr/local/bin/runc")
        return InMachine(path)
    name, mark, version = text.partition("@")
    if name in names:
        return _of_name(name, version, what) if mark else Package(name)
    if what == REGISTRY and mark and ":" in name:
        return _running(text)
    if "/" in text:
        beside = f"--{what} ./{text}" if (directory / text).exists() else f"--{what} ./FILE"
        raise UsageError(
            f"{what} {text!r} is neither a name nor an absolute path", hint=f"a file of this host: {beside}"
        )
    message, hint = unknown(what, name, names)
    raise UsageError(message, hint=f"{hint}; ./FILE of this host, or the absolute path of a program in the machine")


def repository(text: str, names: list[str], directory: Path) -> Source:
    """Read a word that names sources without saying which ref of them: `runc`, URL, a tree of this host. UsageError."""
    if not text.isprintable() or not text.strip():
        raise UsageError(f"runtime {text!r} is not a name, a URL or the path of a tree")
    _without_user(text, "runtime")
    path = _host_file(text, directory) or (Path(text) if text.startswith("/") else None)
    if path is not None and path.is_dir():
        return Source("", str(path), "")
    before, mark, _ = text.rpartition("#")
    if mark and before and (_URL.fullmatch(before) or path is not None):
        raise UsageError(f"runtime {text!r} names one ref", hint=f"say {before}, and which refs with --good and --bad")
    if path is not None:
        what = "is a program" if path.exists() else "is not there"
        raise UsageError(f"{path} {what}", hint="here --runtime is a git tree of this host (./TREE), a URL, or a name")
    if _URL.fullmatch(text):
        return Source("", text, "")
    name, mark, _ = text.partition("@")
    if name in names and mark:
        raise UsageError(f"runtime {text!r} names one ref", hint=f"say {name}, and which refs with --good and --bad")
    if name in names:
        return Source(name, "", "")
    if (directory / text).is_dir():
        raise UsageError(f"runtime {text!r} is neither a name nor a path", hint=f"the tree: --runtime ./{text}")
    message, hint = unknown("runtime", name, names)
    raise UsageError(message, hint=f"{hint}; a URL, or ./TREE, a git tree of this host")


def _without_user(text: str, what: str) -> None:
    if has_user(text):
        raise UsageError(f"--{what} {NO_USER}", hint=NO_USER_HINT)


def _host_file(text: str, directory: Path) -> Path | None:
    """The absolute path that text names on this host, whether it is there or not; None where it names none."""
    found = host_file(text, directory)
    if not found.startswith(HOST):
        return None
    path = Path(found.removeprefix(HOST))
    return path.resolve() if ".." in path.parts else path


def _running(text: str) -> Running:
    """The address of a registry. Where it has a user in it no message shows it: there may be a password, too."""
    if "@" in text:
        raise UsageError(
            "the address of a registry has no user in it",
            hint="OCI_USERNAME and OCI_PASSWORD in the environment: a command line can be read by others",
        )
    found = _ADDRESS.fullmatch(text)
    if not found:
        shown = re.match(r"https?://[A-Za-z0-9.-]*", text, re.IGNORECASE)  # what follows may be a token
        raise UsageError(
            f"registry {shown[0] if shown else ''}... is not the address of one",
            hint="https://HOST or https://HOST:PORT, without a path",
        )
    return Running(f"{found[1].lower()}://{found[2].lower()}{found[3] or ''}")


def _source(text: str, where: str, ref: str, directory: Path, what: str) -> Source:
    if not _REF.fullmatch(ref) or ".." in ref:
        raise UsageError(f"{what} {text!r}: {ref!r} is not a branch, tag or commit", hint="URL#REF, such as ...#main")
    if _URL.fullmatch(where):
        return Source("", where, ref)
    path = _host_file(where, directory) or (Path(where) if where.startswith("/") else None)
    if path is None:
        raise UsageError(
            f"{what} {text!r}: {where!r} is neither a URL nor the path of a tree",
            hint="URL#REF; or ./TREE#REF or /TREE#REF for a git tree of this host",
        )
    if not path.is_dir():
        raise UsageError(f"{path} is not a directory: --{what} {text} is a git tree of this host")
    return Source("", str(path), ref)


def _of_name(name: str, version: str, what: str) -> Word:
    release = _RELEASE.fullmatch(version)
    if release and ("." in release[1] or not _COMMIT.fullmatch(version)):
        return Release(name, release[1])
    if not _REF.fullmatch(version) or ".." in version:
        raise UsageError(
            f"{what} {name}@{version}: {version!r} is neither a version nor a ref",
            hint=f"{name}@1.2.3, {name}@main or {name}@COMMIT",
        )
    return Source(name, "", version)

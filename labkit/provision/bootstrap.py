"""The bootstrap of one machine: which steps of bootstrap/ run there, with which inputs, and which files they need.

    Settings -> prepare() -> BootstrapPlan(script, uploads, key)     plan() is the pure half of it

A step is a shell fragment whose first comment lines say what it is:

    # purpose: what it is for
    # inputs: NAME NAME          variables that plan() fills in; "none"
    # check: COMMAND             succeeds if the step's result is there
    # on: build vagrant          kinds of machines; without this line, all
    # needs: STEP STEP           steps that must run first; "none". A step with this line is a tool and runs where it is
                                 asked for; one without it always runs.
    # builds: STEP STEP          what it needs in addition where it is built from source
"""

from __future__ import annotations

import enum
import hashlib
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from labkit.core import resources, tomlfile
from labkit.core.config import Settings
from labkit.core.errors import ProgramFailed, UsageError
from labkit.core.platforms import Distro
from labkit.core.sources import Source, SourceKind, parse
from labkit.core.suggest import unknown
from labkit.core.tomlfile import Table
from labkit.io import process
from labkit.io.files import make_directory, sweep, unfinished
from labkit.io.git import git
from labkit.provision import render
from labkit.subjects import runtimes

SOURCES = "/var/lib/labkit/sources"  # where uploads have to be on the machine before the script runs
_SHARED = ("LAB_FAMILY", "LAB_MIRROR", "PACKAGES_DOWNLOAD")  # inputs of functions.sh
_DATA = Path(__file__).with_name("bootstrap.toml")
_PACK_BOUND = 600.0  # seconds to pack one local source


_Packages = Mapping[str, Sequence[str]]


class Target(enum.StrEnum):
    """What the script runs on."""

    BUILD = "build"  # the chroot of an image that labkit makes from packages
    CLOUD = "cloud"  # a cloud image at its first boot, to become an image of labkit's
    BOX = "box"  # the chroot of a Vagrant box that labkit makes from packages
    CLOUD_BOX = "cloud-box"  # a cloud image at its first boot, to become a Vagrant box
    VAGRANT = "vagrant"  # a Vagrant box
    HOST = "host"  # any other machine: reached by SSH, or by hand


@dataclass(frozen=True, slots=True)
class Step:
    """A shell fragment of bootstrap/. number gives its order; needs is None for a step that always runs."""

    number: str
    name: str
    purpose: str
    inputs: tuple[str, ...]
    check: str
    on: frozenset[Target]
    needs: tuple[str, ...] | None
    builds: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of this host that the script needs: local, to be uploaded to remote, readable by root."""

    local: Path
    remote: str


@dataclass(frozen=True, slots=True)
class BootstrapPlan:
    """script runs as root once the uploads are there; key covers all of it, the uploads' content included."""

    script: str
    uploads: tuple[Upload, ...]
    steps: tuple[str, ...]

    @property
    def key(self) -> str:
        return hashlib.sha256(self.script.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Packed:
    """A local source as one file: name has the tool and a digest of the content, ref the commit if it is git's, and
    built says whether it is source code (else it is the program itself).
    """

    local: Path
    name: str
    ref: str
    built: bool


class _Tool(Table):
    upstream: str
    url: str = ""
    sums: str = ""
    least_go: dict[str, str] = Field(default={})

    def go_for(self, version: str) -> str:
        return self.least_go.get(version, self.least_go.get("", "0"))


class _Data(Table):
    tools: dict[Target, tuple[str, ...]]
    sources: dict[str, _Tool]


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A resolved source: the variables of its step; version is "" where the source does not name one."""

    variables: dict[str, str]
    version: str
    built: bool


def default_source(tool: str) -> Source:
    """Where a tool comes from if no setting and no package of the platform says."""
    return parse(_data().sources[tool].upstream)


def prepare(
    distro: Distro, target: Target, settings: Settings, needs: Sequence[str] = (), *, alone: bool = False
) -> BootstrapPlan:
    """Return the plan for a machine of this release; needs names the tools that a suite requires. alone: those, with
    what they need in turn, and nothing else.

    Packs the local sources of the settings into home/sources, where they stay until they change.
    Raises UsageError where the settings ask for what does not exist.
    """
    packed = {
        tool: pack(tool, source, settings.home.sources)
        for tool, source in settings.sources().items()
        if source.kind is SourceKind.LOCAL
    }
    return plan(distro, target, settings, needs, packed, alone=alone)


def plan(
    distro: Distro,
    target: Target,
    settings: Settings,
    needs: Sequence[str] = (),
    packed: Mapping[str, Packed] = MappingProxyType({}),
    *,
    alone: bool = False,
) -> BootstrapPlan:
    """Return what to run. packed is tool to its packed source, for each whose source is local. Pure."""
    data, known = _data(), {step.name: step for step in steps()}
    packages = distro.packages
    resolved = {
        tool: _resolve(tool, data.sources[tool], source, known[tool], packages, settings, packed.get(tool))
        for tool, source in settings.sources().items()
    }
    asked = [tool for tool, source in settings.sources().items() if source.kind is not SourceKind.AUTO]
    usual = [
        name
        for name in data.tools[target]
        if packages.get(name) or not _wants_packages(known[name], resolved.get(name))  # else the platform has none
    ]
    requested = settings.tools if settings.tools is not None else (*usual, *asked)
    built = {tool for tool, found in resolved.items() if found.built}
    chosen = _chosen(known, target, needs if alone else (*requested, *needs), built)
    if packages.get("repositories"):  # before all others, which are in them
        chosen = [known["repositories"], *(step for step in chosen if step.name != "repositories")]
    if alone:
        chosen = [step for step in chosen if step.needs is not None]
    names = {step.name for step in chosen}
    least = _newest(data.sources[tool].go_for(resolved[tool].version) for tool in built & names)
    if settings.go.kind is not SourceKind.AUTO:
        least = ""  # an explicit choice is used as it is; the code to build says what it needs
    elif not (distro.release.go and _number(distro.release.go) >= _number(least)):
        upstream = parse(data.sources["go"].upstream)
        resolved["go"] = _resolve("go", data.sources["go"], upstream, known["go"], packages, settings, None)
    variables = _variables(distro, target, settings)
    variables |= {f"PACKAGES_{_upper(need)}": " ".join(names) for need, names in packages.items()}
    for found in resolved.values():
        variables |= found.variables
    variables["GO_LEAST"] = least
    if _has_refs("runtime-tools", settings, packed):
        variables["RUNTIME_TOOLS_OLDER"] = "\n".join(map(" ".join, runtimes.older_refs()))
    fragments: dict[str, render.Fragment] = {}
    for step in chosen:
        if _wants_packages(step, resolved.get(step.name)) and not packages.get(step.name):
            raise UsageError(
                f"{distro.platform.title} names no packages for {step.name}",
                hint=f"add {step.name} = [...] to [packages] of its platform.toml, or leave it out of `tools`",
            )
        # What a step needs is part of its key: a new compiler rebuilds everything.
        needed = (*(step.needs or ()), *(step.builds if step.name in built else ()))
        below = [fragments[name].key for name in needed]
        given = [(name, variables.get(name, "")) for name in step.inputs]
        key = hashlib.sha256(repr((step.text, given, below)).encode()).hexdigest()[:16]
        fragments[step.name] = render.Fragment(
            step.number, step.name, step.check, step.text, key, _fetches(step, resolved.get(step.name), variables)
        )
    used = dict.fromkeys((*_SHARED, *(name for step in chosen for name in step.inputs)))
    script = render.bootstrap(
        distro.title,
        (_directory() / "functions.sh").read_text().rstrip(),
        {name: variables.get(name, "") for name in used},
        list(fragments.values()),
        settings.proxy or "",
    )
    uploads = [Upload(item.local, f"{SOURCES}/{item.name}") for tool, item in packed.items() if tool in names]
    return BootstrapPlan(script, tuple(uploads), tuple(fragments))


def steps(directory: Path | None = None) -> tuple[Step, ...]:
    """Return the steps in the order in which they run. ValueError, a bug, where one has no proper head."""
    return tuple(_step(file) for file in sorted((directory or _directory()).glob("[0-9]*-*.sh")))


def pack(tool: str, source: Source, directory: Path) -> Packed:
    """Return the local source as one file: a repository as a bundle in directory, other directories as a tar archive
    there, a file as it is. UsageError where there is no such thing, or no such ref in it, or git cannot read it all.
    """
    path = Path(source.where)
    if not path.exists():
        raise UsageError(f"{tool} = {source}: {path} does not exist")
    if path.is_dir() and ((path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())):
        commit = _commit(tool, source)
        archive, bundle = (directory / f"{tool}-{commit[:16]}.{ending}" for ending in ("tar", "bundle"))
        if git(path, "rev-parse", "--is-shallow-repository", timeout=_PACK_BOUND).stdout.strip() == "true":
            # git reads no bundle of it: what the commit is made of is missing. The files of the commit are all there.
            _archive(archive, path, commit)
        elif not bundle.exists() and not archive.exists():
            try:
                _make(
                    bundle,
                    lambda part: git(path, "bundle", "create", "--quiet", part, "--all", "HEAD", timeout=_PACK_BOUND),
                )
            except ProgramFailed as error:
                try:  # a partial clone lacks old files, which no commit that is asked for may need
                    _archive(archive, path, commit)
                except ProgramFailed:
                    raise UsageError(f"{tool} = {source}: git cannot bundle {path}", hint=error.hint) from error
        packed = bundle if bundle.exists() else archive
        packed.touch()  # `gc --keep` goes by it
        return Packed(packed, packed.name, commit, built=True)
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(16)
    if source.ref and not head.startswith(b"# v"):
        raise UsageError(f"{tool} = {source}: {path} is not a git repository, so it has no {source.ref}")
    if path.is_dir():
        archive = directory / f"{tool}-{uuid.uuid4().hex}.tar"
        fixed = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]
        _make(archive, lambda part: process.run(["tar", *fixed, "-C", path, "-cf", part, "."], timeout=_PACK_BOUND))
        name = f"{tool}-{_sha256(archive)[:16]}.tar"
        return Packed(archive.rename(directory / name), name, "", built=True)
    is_program = head.startswith((b"\x7fELF", b"#!"))
    return Packed(path, f"{tool}-{_sha256(path)[:16]}", source.ref, built=not is_program)


def _archive(archive: Path, path: Path, commit: str) -> None:
    """Pack the files of a commit alone. ProgramFailed."""
    if not archive.exists():
        _make(
            archive,
            lambda part: git(path, "archive", "--format=tar", f"--output={part}", commit, timeout=_PACK_BOUND),
        )


def _chosen(known: Mapping[str, Step], target: Target, requested: Iterable[str], built: Collection[str]) -> list[Step]:
    """The steps that always run and the requested tools, with what those need, in order."""
    tools = {name: step for name, step in known.items() if step.needs is not None}
    wanted: set[str] = set()
    todo = list(requested)
    while todo:
        name = todo.pop()
        if name not in tools:
            message, hint = unknown("tool", name, sorted(tools))
            raise UsageError(message, hint=hint)
        if target not in tools[name].on:
            raise UsageError(f"the tool {name} is not available on machines of kind {target}")
        if name not in wanted:
            wanted.add(name)
            todo += tools[name].needs or ()
            todo += tools[name].builds if name in built else ()
    return [step for step in known.values() if target in step.on and (step.needs is None or step.name in wanted)]


def _resolve(
    tool: str, data: _Tool, source: Source, step: Step, packages: _Packages, settings: Settings, packed: Packed | None
) -> _Resolved:
    if source.kind is SourceKind.AUTO:
        source = Source(SourceKind.PACKAGE) if packages.get(tool) else parse(data.upstream)
    url, ref, sums, sha256 = source.where, source.ref, "", settings.sha256(tool)
    built = False
    match source.kind:
        case SourceKind.PACKAGE:
            way, url = "package", ""
        case SourceKind.RELEASE:
            if not data.url:
                raise UsageError(f"{tool} = {source}: no releases of {tool} are known", hint=f"use {data.upstream}")
            way, url, sums = "download", data.url.format(version=source.where, arch="{arch}"), data.sums
            sums = sums.replace("{version}", source.where)
        case SourceKind.FILE:
            way, built = "download", bool(re.search(r"\.(tar(\.[a-z0-9]+)?|t[a-z]z2?|bundle)$", url.partition("?")[0]))
        case SourceKind.GIT:
            way, built = "git", True
        case _:
            assert packed is not None, f"{tool} is not packed"
            way, url, ref, built = "upload", packed.name, packed.ref, packed.built
    key = f"{tool.replace('-', '_')}_sha256"
    if sha256 and way != "download":
        raise UsageError(
            f"{key} is the digest of a download, but {tool} = {source} is none", hint=f"leave out {key}, or name a file"
        )
    if way == "download" and not (sha256 or sums):
        raise UsageError(f"{tool} = {source}: the digest of the download is missing", hint=f"set {key} in labkit.toml")
    if tool == "go":
        if way == "git":
            raise UsageError(f"go = {source}: Go is not built from source here", hint="give an archive of it")
        built = False
    elif built and not step.builds:
        raise UsageError(f"{tool} = {source}: {tool} is not built from source here", hint="give the program itself")
    values = {"FROM": way, "URL": url, "REF": ref, "SHA256": sha256 or "", "SUMS": "" if sha256 else sums}
    return _Resolved({f"{_upper(tool)}_{name}": value for name, value in values.items()}, _version(source), built)


def _has_refs(tool: str, settings: Settings, packed: Mapping[str, Packed]) -> bool:
    """Whether another ref of the source can be used: it is git's, and the settings leave the ref open."""
    source = settings.sources()[tool]
    is_git = source.kind in (SourceKind.AUTO, SourceKind.GIT) or (
        tool in packed and packed[tool].local.suffix == ".bundle"
    )
    return is_git and not source.ref


def _version(source: Source) -> str:
    """MAJOR.MINOR of a release or of a ref such as v1.3.0 or release-1.3, else ""."""
    text = source.where if source.kind is SourceKind.RELEASE else source.ref
    found = re.match(r"(?:refs/\w+/)?(?:v|release-)?(\d+\.\d+)(?![0-9])", text)
    return found[1] if found else ""


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _newest(versions: Iterable[str]) -> str:
    return max(versions, key=_number, default="")


def _variables(distro: Distro, target: Target, settings: Settings) -> dict[str, str]:
    """The inputs that any step may name, apart from the sources of tools."""
    mirror: tuple[str, ...] = ()
    # mmdebstrap has put the mirror into the image's own list.
    if settings.mirror and target not in (Target.BUILD, Target.BOX):
        if not distro.mirror:
            raise UsageError(
                f"{distro.platform.title} does not describe its mirrors", hint="set mirror in its platform.toml"
            )
        known = {
            "mirror": settings.mirror.rstrip("/"),
            "codename": distro.release.codename or "",
            "release": distro.release.name,
        }
        mirror = tuple(re.sub(r"\{(\w+)\}", lambda key: known.get(key[1], key[0]), line) for line in distro.mirror)
    user = {Target.BUILD: distro.build, Target.CLOUD: distro.cloud_image}.get(target)
    return {
        "LAB_KIND": target.value,
        "LAB_FAMILY": distro.platform.family,
        "LAB_MIRROR": "\n".join(mirror),
        # Empty: the user who called sudo, known only on the machine.
        "LAB_USER": "vagrant" if target in (Target.BOX, Target.CLOUD_BOX) else user.user if user else "",
    }


def _wants_packages(step: Step, source: _Resolved | None) -> bool:
    """Whether the step installs the tool's packages."""
    if source is not None:
        return source.variables[f"{_upper(step.name)}_FROM"] == "package"
    return step.needs is not None and f"PACKAGES_{_upper(step.name)}" in step.inputs


def _fetches(step: Step, source: _Resolved | None, variables: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What the step gets from elsewhere, to be tried before the first one runs."""
    if source is None:
        named = [name for name in step.inputs if name.startswith("PACKAGES_")]
        found = [("packages", variables[name]) for name in named if variables.get(name)]
        return (*found, *([("packages", "")] if "with_packages " in step.text else []))
    tool = _upper(step.name)
    address, sums = (source.variables[f"{tool}_{name}"] for name in ("URL", "SUMS"))
    match source.variables[f"{tool}_FROM"]:
        case "package":
            return (("packages", variables.get(f"PACKAGES_{tool}", "")),)
        case "git":
            return (("git", address),)
        case "download":
            return (("file", address), *([("file", sums)] if sums else []))
    return ()


def _upper(name: str) -> str:
    return name.replace("-", "_").upper()


def _step(file: Path) -> Step:
    number, _, name = file.stem.partition("-")
    text = file.read_text().rstrip()
    head: dict[str, str] = {}
    for line in text.splitlines():
        found = re.fullmatch(r"# (purpose|inputs|check|on|needs|builds): (.+)", line)
        if not found:
            break
        head[found[1]] = found[2]
    if missing := {"purpose", "inputs", "check"} - set(head):
        raise ValueError(f"{file} does not say its {', '.join(sorted(missing))}")

    def words(key: str) -> tuple[str, ...]:
        return tuple(word for word in head.get(key, "none").split() if word != "none")

    on = frozenset(map(Target, words("on"))) or frozenset(Target)
    needs = words("needs") if "needs" in head else None
    return Step(number, name, head["purpose"], words("inputs"), head["check"], on, needs, words("builds"), text)


def uncommitted(source: Source) -> list[str]:
    """The files of a git tree of this host that have changes which no commit has, where its HEAD is what is built."""
    path = Path(source.where)
    if source.kind is not SourceKind.LOCAL or source.ref or not (path / ".git").exists():
        return []
    done = git(path, "status", "--porcelain", "-z", "--untracked-files=no", timeout=_PACK_BOUND)
    return [line[3:] for line in done.stdout.split("\0") if line[2:3] == " "]


def _commit(tool: str, source: Source) -> str:
    """The commit that the source's ref names in its repository."""
    path = Path(source.where)
    done = git(
        path, "rev-parse", "--verify", "--quiet", f"{source.ref or 'HEAD'}^{{commit}}", check=False, timeout=_PACK_BOUND
    )
    if done.status:
        raise UsageError(f"{tool} = {source}: the repository {path} has no {source.ref or 'commit yet'}")
    return done.stdout.strip()


def _make(target: Path, write: Callable[[Path], object]) -> None:
    """Let write(path) make a file, and rename it to target once it is complete."""
    sweep(make_directory(target.parent))
    with unfinished(target) as part:
        write(part)
        part.rename(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _directory() -> Path:
    return resources.root() / "bootstrap"


def _data() -> _Data:
    return tomlfile.check(_Data, tomlfile.read(_DATA), lambda _: str(_DATA))

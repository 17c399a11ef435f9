"""Runtimes that are fetched or built: a release or a ref, for a platform, kept under what they were made of.

    runtimes/KEY.making/  ->  runtimes/KEY/{NAME, made.json}        NAME: the program, or a directory with `runtime`

Each way is tried in its order until one succeeds, and all are told where none does:

    Release   the publisher's program with its digest, the Go module, the crate, the repository's tag
    Source    the repository's or the tree's ref, cloned on this host; the Go module at that ref

Sources are compiled in a chroot of the platform (labkit.images.chroot). A commit whose build has failed is not built
again for some hours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from labkit.core import arch as arches
from labkit.core import resources
from labkit.core.arch import here
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import ImageError, LabError, ProgramFailed, UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.guest import shims
from labkit.images import chroot, refs
from labkit.images.collect import discard
from labkit.io import process
from labkit.io.files import disk_errors, locked, make_directory, regular_inside, require_space, write_atomic
from labkit.io.git import git
from labkit.io.mmdebstrap import apart, mmdebstrap
from labkit.provision import render
from labkit.subjects import runtimes
from labkit.subjects.runtimes import About, Build, Role, System
from labkit.subjects.runtimes.words import Release, Source

_FORMAT = 1  # to be raised when the same sources give another program
_SPACE = 1024  # MiB
_FAILED_FOR = 12 * 3600.0  # seconds in which a build that failed is not tried again
_LAST_LINES = 12  # of a build's output, in the message
_GIT = 600.0  # seconds for a clone
_ASK = 60.0  # seconds for a question to a repository
_LIMIT = 512 << 20  # bytes of a program
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MADE = "made.json"
_BUILD, _LOG = "build", "log"  # in a work directory: what the build writes to, and what it prints


@dataclass(frozen=True, slots=True)
class Obtained:
    """path: the program, or a directory whose `runtime` is run; version and commit where they are known; source: where
    it is from, in words; made: whether it was fetched or built now.
    """

    path: Path
    version: str
    source: str
    commit: str
    made: bool = False


@dataclass(frozen=True, slots=True)
class _Sources:
    """Sources in a work directory's tree/."""

    source: str
    version: str
    commit: str


class _No(Exception):
    """A way that is none, with why."""


def obtain(word: Release | Source, distro: Distro, settings: Settings, observer: Observer) -> Obtained:
    """The runtime that word names, for that platform, fetched or built now if necessary.

    UsageError where there is no such release or ref; ImageError where none of the ways to it works, or it does not
    build: the message has the reasons.
    """
    if distro.arch is not arches.here():
        raise UsageError(
            f"runtime {word}: labkit builds and fetches runtimes for this host's architecture, not for {distro.arch}",
            hint="build it, and name the file: --runtime ./FILE",
        )
    return _Obtainer(word, distro, settings, observer).obtain()


def cloned(word: Source, distro: Distro, settings: Settings, observer: Observer) -> tuple[Path, str]:
    """A repository on this host that has the ref of a word that names none of this host, and the ref's commit.
    UsageError where it has no such ref; ImageError where it cannot be asked.
    """
    return _Obtainer(word, distro, settings, observer).cloned()


def supplied(name: str, distro: Distro, settings: Settings, observer: Observer) -> Obtained | None:
    """What is to be sent for the platform's package of a runtime, where the images of that platform do not have it: its
    file, taken from the platform's archive, or labkit's own program with what that runs beside it. None where the
    machine has it, or is to bring it itself.

    ImageError where the archive does not have it; UsageError for a runtime that cannot be a subject at all.
    """
    about = runtimes.about(name)
    if about.none:
        raise UsageError(f"{name} cannot be tested: {about.none}", hint="./lab runtimes")
    family = distro.platform.family
    beside = about.beside.packages.get(family, ()) if about.beside else ()
    build = distro.build
    if not about.shim and (not beside or build is None or set(beside) <= set(build.packages)):
        return None
    if about.shim and build is None:
        beside = ()  # of a machine that has it, or has not: the program says so
    return _Supply(name, about, beside, distro, settings, observer).get()


class _Supply:
    """Files of packages, unpacked and not installed."""

    def __init__(
        self,
        name: str,
        about: About,
        packages: Sequence[str],
        distro: Distro,
        settings: Settings,
        observer: Observer,
    ) -> None:
        self._name, self._about, self._packages = name, about, packages
        self._distro, self._settings, self._observer = distro, settings, observer
        self._shim = shims.file(about.shim).read_bytes() if about.shim else b""

    def get(self) -> Obtained:
        home, distro, packages = self._settings.home, self._distro, self._packages
        made_of = {
            "form": _FORMAT,
            "supplied": self._name,
            "files": self._about.beside.model_dump(mode="json") if self._about.beside and packages else None,
            "shim": hashlib.sha256(self._shim).hexdigest(),
            "platform": distro.name,
            "machine": distro.arch.machine,
            "mirror": [self._settings.mirror, self._settings.mirror_state(distro.name)],
        }
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
        directory = make_directory(home.runtimes) / key
        timeout = self._settings.limits.build
        what = f"the files of {self._name}"
        with locked(home.lock(f"runtime-{key}"), timeout=timeout, waiting=self._observer.step, what=what):
            if not (directory / _MADE).is_file():
                self._make(directory)
        os.utime(directory / _MADE)  # `gc --keep` goes by it
        made = json.loads((directory / _MADE).read_text())
        return Obtained(directory / made["name"], made["version"], made["source"], "")

    def _make(self, directory: Path) -> None:
        making = directory.with_name(f"{directory.name}.making")
        if making.exists():
            discard(making)
        make_directory(making)
        try:
            version = self._unpack(making) if self._packages else ""
            place = making / self._about.binary
            if self._shim:
                make_directory(place)
                (place / "runtime").write_bytes(self._shim)
                (place / "runtime").chmod(0o755)
            files = self._about.beside.files if self._about.beside and self._packages else ()
            for name in files:
                found = regular_inside(making / "root", name)
                if found is None:
                    raise ImageError(f"{', '.join(self._packages)} of {self._distro.title} has no /{name}")
                target = place / name if self._shim else place
                make_directory(target.parent)
                shutil.copy(found, target)
            source = " and ".join([*(["labkit"] if self._shim else []), *(f"package {one}" for one in self._packages)])
            about = {"name": self._about.binary, "version": version, "source": source}
            write_atomic(making / _MADE, json.dumps(about, indent=1))
            for rest in ("root", "tmp"):
                if (making / rest).exists():
                    discard(making / rest)
            if directory.exists():
                discard(directory)
            making.rename(directory)
        finally:
            if making.exists():
                discard(making)

    def _unpack(self, making: Path) -> str:
        """Unpack the packages with what they depend on into root; the version of the first."""
        build = self._distro.build
        assert build is not None
        require_space(making, _SPACE)
        names = ", ".join(self._packages)
        self._observer.step(f"fetching {names} of {self._distro.title}")
        begin, environment = apart(making)
        listing = 'ls "$1/var/cache/apt/archives" >&2'
        words = mmdebstrap(
            build.suite,
            making / "root",
            self._packages,
            (),
            self._settings.mirror,
            form="directory",
            variant="extract",
            first=[listing],
            more=[f"--architectures={self._distro.arch}"] if self._distro.arch is not here() else [],
        )
        try:
            done = process.run([*begin, *words], timeout=self._settings.limits.build, limit="build", env=environment)
        except ProgramFailed as error:
            raise ImageError(
                f"{names} of {self._distro.title} cannot be had: {_last_of(error, 3)}",
                hint="where there is no network: mirror in labkit.toml, or a file of your own: --runtime ./FILE",
            ) from error
        found = re.search(rf"^{re.escape(self._packages[0])}_([^_\s]+)_\S+\.deb$", done.stderr, re.MULTILINE)
        return found[1].replace("%3a", ":") if found else ""


class _Obtainer:
    def __init__(self, word: Release | Source, distro: Distro, settings: Settings, observer: Observer) -> None:
        self._word, self._distro, self._settings, self._observer = word, distro, settings, observer
        self._about: About | None = runtimes.about(word.name) if word.name else None
        self._deadline = Deadline.after(settings.limits.download + settings.limits.build, "build")
        self._home = settings.home

    def obtain(self) -> Obtained:
        make_directory(self._home.runtimes)
        key = self._key("") if isinstance(self._word, Release) else ""
        if (known := key or self._key_of_commit()) and (found := self._find(known)):
            return found
        with self._locked(key or self._key("")), self._working() as work:
            if key and (found := self._find(key)):
                return found
            require_space(self._home.path, _SPACE)
            return self._first(work, key)

    def _key_of_commit(self) -> str:
        """The key of a word that has a whole commit of a repository elsewhere: that is never another one, so nobody
        needs to be asked. Empty for any other.
        """
        word = self._word
        if (
            not isinstance(word, Source)
            or not _COMMIT.fullmatch(word.ref)
            or (word.where and Path(word.where).is_dir())
        ):
            return ""
        return self._key(word.ref)

    def cloned(self) -> tuple[Path, str]:
        assert isinstance(self._word, Source)
        where = self._about.repository if self._about else self._word.where
        try:
            return self._cloned(where, self._word.ref)
        except _No as no:
            raise ImageError(f"{where} cannot be cloned: {no}", hint=self._hint()) from no

    def _first(self, work: Path, key: str) -> Obtained:
        """By the first way that works."""
        whys = []
        for title, way in self._ways():
            try:
                return way(work, key)
            except _No as no:
                whys.append(f"{title}: {no}")
                self._observer.detail(f"{self._word}: {title}: {no}")
        told = "; ".join(whys) or "no way to it is known"
        raise ImageError(f"{self._word} cannot be had: {told}", hint=self._hint())

    def _hint(self) -> str:
        name = self._word.name or "RUNTIME"
        word, shown = _WORDS[runtimes.role_of(name)]
        word = f"{self._about.setting} =" if self._about and self._about.setting else word
        own = f"a program of your own ({word} ./FILE), a tree of its sources ({word} ./TREE#REF), " if word else ""
        return (
            f"where this host has no network: {own}a mirror by git's url.insteadOf, GOPROXY or `proxy`; {shown} shows "
            f"what {name} is made of"
        )

    def _ways(self) -> Iterator[tuple[str, Callable[[Path, str], Obtained]]]:
        about, word = self._about, self._word
        if isinstance(word, Release):
            assert about is not None
            if about.published:
                yield "the publisher's program", self._published
            if about.module:
                yield f"the Go module {about.module}", lambda work, key: self._registry("module", work, key)
            if about.crate:
                yield f"the crate {about.crate}", lambda work, key: self._registry("crate", work, key)
        repository = about.repository if about else word.where if isinstance(word, Source) else ""
        if repository:
            yield f"the repository {repository}", lambda work, key: self._repository(repository, work, key)
        if isinstance(word, Source) and about and about.module:
            yield f"the Go module {about.module}", lambda work, key: self._registry("module", work, key)

    # ---- the ways

    def _published(self, work: Path, key: str) -> Obtained:
        from labkit.core.platforms import Download
        from labkit.io.download import expected, fetch  # urllib3, which sources need not

        assert isinstance(self._word, Release)
        assert self._about is not None
        assert self._about.published is not None
        published, version, machine = self._about.published, self._word.version, self._distro.arch.machine
        arch = published.arch.get(machine, machine)
        url = published.url.replace("{version}", version).replace("{arch}", arch)
        sums = published.sums.replace("{version}", version).replace("{arch}", arch)
        pinned = published.sha256.get(version, {}).get(machine)
        if not pinned and not sums:
            raise _No("it is published without a list of digests, and no digest of it is known")
        limit = self._settings.limits.download
        try:
            about = Download(url=url, sha256=pinned) if pinned else Download(url=url, checksums=sums)
            url, digest = expected(about, timeout=min(limit, _ASK))
            file = fetch(
                url,
                digest,
                self._home.downloads,
                timeout=limit,
                progress=self._observer.progress,
                waiting=self._observer.step,
            )
        except ImageError as error:
            raise _No(error.message) from error
        program = work / _BUILD / "out" / "program"
        make_directory(program.parent)
        with file.open("rb") as opened:
            head = opened.read(4)
        if head == b"\x7fELF" or head.startswith(b"#!"):
            with disk_errors(program):
                shutil.copyfile(file, program)
        else:
            unpacked = make_directory(work / "unpacked")
            process.run(["tar", "-C", unpacked, "--no-same-owner", "-xf", file], timeout=300)
            inside = [path for path in sorted(unpacked.rglob(self._about.binary)) if path.is_file()]
            found = inside and regular_inside(unpacked, str(inside[0].relative_to(unpacked)))
            if not found:
                raise _No(f"{url} has no program {self._about.binary} in it")
            shutil.copyfile(found, program)
        return self._keep(work, key, _Sources(url, version, ""))

    def _registry(self, way: str, work: Path, key: str) -> Obtained:
        """From a Go module or a crate. key is empty where the version is a ref."""
        word, about = self._word, self._about
        assert about is not None
        build = self._recipe(about)
        named = word.version if isinstance(word, Release) else word.ref
        version = f"v{named}" if way == "module" and isinstance(word, Release) else named
        builder = self._builder(build)
        self._observer.step(f"fetching {word} as a {'Go module' if way == 'module' else way}")
        try:
            self._run(builder, work, build, f"get_sources {way}", version=version, network=True)
        except ProgramFailed as error:
            raise _No(": ".join(reversed(_last_of(error, 2).splitlines()))) from error
        commit = ""
        if way == "module":
            said = _json(work / _BUILD, "module.json")
            named = str(said.get("Version", named)).removeprefix("v")
            info = _json(work / _BUILD / "cache", str(said.get("Info", "")).removeprefix(f"{chroot.BUILD}/cache/"))
            origin = info.get("Origin")
            commit = str(origin.get("Hash", "")) if isinstance(origin, dict) else ""
            if isinstance(word, Source) and _COMMIT.fullmatch(word.ref):
                commit = word.ref
            source = f"Go module {about.module}@v{named}"
        else:
            git = _json(work / _BUILD / "tree", ".cargo_vcs_info.json").get("git")
            commit = str(git.get("sha1", "")) if isinstance(git, dict) else ""
            source = f"crate {about.crate} {named}"
        sources = _Sources(source, named, commit if _COMMIT.fullmatch(commit) else "")
        return self._built(builder, build, work, key or self._key(sources.commit or named), sources)

    def _repository(self, where: str, work: Path, key: str) -> Obtained:
        word = self._word
        ref = word.ref if isinstance(word, Source) else self._tag()
        tree = Path(where)
        local = tree.is_dir()
        if local:
            commit = self._commit(tree, ref)
        else:
            tree, commit = self._cloned(where, ref)
        if isinstance(word, Source):
            key = self._key(commit)
            if found := self._find(key):
                return found
        self._checkout(tree, commit, work / _BUILD / "tree", where if not local else "")
        self._about = about = self._about or _recognised(work / _BUILD / "tree")
        build = self._recipe(about) if about else _usual(work / _BUILD / "tree", word)
        version = word.version if isinstance(word, Release) else _described(tree, commit)
        builder = self._builder(build)
        return self._built(builder, build, work, key, _Sources(f"{where}#{ref}", version, commit))

    def _tag(self) -> str:
        assert self._about is not None
        assert isinstance(self._word, Release)
        return self._about.tag.replace("{version}", self._word.version)

    # ---- git

    def _commit(self, tree: Path, ref: str) -> str:
        """The commit of a ref of a local tree. UsageError."""
        done = git(tree, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
        commit = done.stdout.strip()
        if done.status or not _COMMIT.fullmatch(commit):
            inside = git(tree, "rev-parse", "--git-dir", check=False)
            if inside.status:
                raise UsageError(
                    f"{tree} is not a git repository, so it has no {ref}", hint=f"name a file: {tree}/FILE"
                )
            raise UsageError(
                f"{tree} has no ref {ref}", hint="a branch, a tag or a commit: git branch, git tag, git log"
            )
        changed = git(tree, "status", "--porcelain", "--untracked-files=no", check=False).stdout.strip()
        if changed and git(tree, "rev-parse", "HEAD", check=False).stdout.strip() == commit:
            count = len(changed.splitlines())
            self._observer.warn(
                f"{tree} has {count} changed file{'s' * (count > 1)} that {'are' if count > 1 else 'is'} not "
                f"committed: what is built is {ref} ({commit[:12]})"
            )
        return commit

    def _cloned(self, url: str, ref: str) -> tuple[Path, str]:
        """A bare clone of the repository that has the ref, and its commit. _No where it cannot be asked; UsageError
        where it has no such ref.
        """
        make_directory(self._home.repositories)
        clone = self._home.repositories / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.git"
        with locked(
            self._home.lock(f"repository-{clone.stem}"),
            timeout=_GIT,
            waiting=self._observer.step,
            what=f"the clone of {url}",
        ):
            if not (clone / "HEAD").exists():
                process.run(["git", "init", "--quiet", "--bare", clone], timeout=_ASK)
            clone.touch()  # `gc --keep` goes by it
            if _COMMIT.fullmatch(ref) and not git(clone, "cat-file", "-e", f"{ref}^{{commit}}", check=False).status:
                return clone, ref
            try:
                heads = refs.listed(url, timeout=_ASK)
                commit = refs.chosen(heads, ref)
                if commit and not git(clone, "cat-file", "-e", f"{commit}^{{commit}}", check=False).status:
                    return clone, commit
                if not commit and refs.moves(ref):
                    near = sorted({name.rpartition("/")[2] for name in heads if not name.endswith("^{}")})
                    from labkit.core.suggest import did_you_mean

                    raise UsageError(f"{url} has no ref {ref}{did_you_mean(ref, near)}")
                self._observer.step(f"cloning {url}")
                specs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
                git(clone, "fetch", "--quiet", "--no-auto-gc", "--update-head-ok", url, *specs, timeout=_GIT)
                if not commit:
                    found = git(clone, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
                    commit = found.stdout.strip()
                if not commit and _COMMIT.fullmatch(ref):  # of no branch, such as a pull request's
                    git(clone, "fetch", "--quiet", url, ref, timeout=_GIT)
                    commit = ref
            except ProgramFailed as error:
                raise _No(_said_bygit(error)) from error
            if not commit:
                raise UsageError(f"{url} has no commit {ref}")
            return clone, commit

    def _checkout(self, repository: Path, commit: str, tree: Path, url: str) -> None:
        """Clone the commit into tree, with its submodules: from the repository where that has them, else from where it
        says that they are.
        """
        try:
            git(Path("/"), "clone", "--quiet", "--local", "--no-checkout", repository, tree, timeout=_GIT)
            if url:
                git(tree, "remote", "set-url", "origin", url)
            git(tree, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit, timeout=_GIT)
            _submodules(tree, repository)
        except ProgramFailed as error:
            raise ImageError(
                f"{self._word}: the sources of {commit[:12]} are not whole: {_said_bygit(error)}", hint=self._hint()
            ) from error
        except _No as no:
            is_tree = not url and (repository / ".git").exists()
            where = f"git submodule update --init --recursive in {repository} fetches them; else " if is_tree else ""
            raise ImageError(
                f"{self._word}: the sources of {commit[:12]} are not whole: {no}",
                hint=f"{where}git's url.insteadOf names a mirror of what is in .gitmodules",
            ) from no

    # ---- building

    def _recipe(self, about: About) -> Build:
        if about.build is None:
            raise _No(about.none or f"labkit does not know how {about.title} is built")
        return about.build

    def _builder(self, build: Build) -> chroot.Chroot:
        missing = [need for need in _needs(build) if not self._distro.packages.get(need)]
        if missing and self._distro.build:
            raise _No(f"{self._distro.platform.title} names no packages for {', '.join(missing)}")
        wanted = _packages(build, self._distro)
        return chroot.ensure(self._distro, wanted, self._settings, self._observer, self._deadline)

    def _built(self, builder: chroot.Chroot, build: Build, work: Path, key: str, sources: _Sources) -> Obtained:
        if isinstance(self._word, Source):  # another word may be the same commit
            with self._locked(key):
                return self._find(key) or self._compiled(builder, build, work, key, sources)
        return self._compiled(builder, build, work, key, sources)

    def _compiled(self, builder: chroot.Chroot, build: Build, work: Path, key: str, sources: _Sources) -> Obtained:
        self._observer.step(f"building {self._word} for {self._distro.title} from {sources.source}")
        try:
            self._run(builder, work, build, "fetch_dependencies", sources=sources, network=True)
        except ProgramFailed as error:
            raise _No(f"{_last_of(error, 3)} (log: {self._log(key, work)})") from error
        failed = self._home.runtimes / f"{key}.failed"
        try:
            self._run(builder, work, build, "build_program", sources=sources, network=False)
        except ProgramFailed as error:
            log = self._log(key, work)
            if not self._deadline.passed:
                write_atomic(failed, json.dumps({"message": _last_of(error, _LAST_LINES), "log": str(log)}))
            raise self._failure(_last_of(error, _LAST_LINES), log, "") from error
        return self._keep(work, key, sources)

    def _failure(self, said: str, log: Path, when: str) -> ImageError:
        again = f"; it is not tried again yet: rm {log.with_suffix('.failed')}, then it is" if when else ""
        return ImageError(
            f"{self._word} does not build for {self._distro.title}{when}: {said}",
            hint=f"all that was printed is in {log}{again}",
        )

    def _run(
        self,
        builder: chroot.Chroot,
        work: Path,
        build: Build,
        call: str,
        *,
        network: bool,
        version: str = "",
        sources: _Sources | None = None,
    ) -> None:
        about = self._about
        values = {
            "SYSTEM": build.system.value,
            "MODULE": about.module if about else "",
            "CRATE": about.crate if about else "",
            "VERSION": sources.version if sources else version,
            "COMMIT": sources.commit if sources else "",
            "DIRECTORY": build.directory,
            "PACKAGE": build.package,
            "PROGRAM": build.program,
            "RECIPE": build.recipe,
        }
        functions = [(resources.root() / "bootstrap" / name).read_text() for name in ("functions.sh", "build.sh")]
        script = render.template("build.sh.j2", values=values, functions=functions, call=call)
        builder.run(work / _BUILD, self._cache(builder), script, work / _LOG, network=network)

    def _cache(self, builder: chroot.Chroot) -> Path:
        """What builds of the same sources keep for the next one: theirs alone."""
        word = self._word
        whose = word.name or (word.where if isinstance(word, Source) else "")
        return builder.directory / "caches" / hashlib.sha256(whose.encode()).hexdigest()[:16]

    # ---- what is kept

    def _key(self, what: str) -> str:
        """what: the commit or version that a ref is."""
        word = self._word
        made_of = {
            "form": _FORMAT,
            "word": str(word) if isinstance(word, Release) or not what else [word.name or word.where, what],
            "builds": [[_told(build), _packages(build, self._distro)] for build in self._builds()],
            "platform": self._distro.name,
            "machine": self._distro.arch.machine,
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]

    def _builds(self) -> list[Build]:
        """How it may be built: of sources that labkit has no name for that is only known from them."""
        known = [self._about] if self._about else map(runtimes.about, runtimes.every())
        return [about.build for about in known if about.build]

    def _find(self, key: str) -> Obtained | None:
        directory = self._home.runtimes / key
        try:
            made = json.loads((directory / _MADE).read_text())
            found = Obtained(
                directory / str(made["name"]), str(made["version"]), str(made["source"]), str(made["commit"])
            )
            whole = _sha256(found.path) == made["sha256"]
        except FileNotFoundError:
            self._refuse_again(key)
            return None
        except (OSError, ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            self._observer.warn(f"{directory} is damaged: {self._word} is made again")
            discard(directory)
            return None
        os.utime(directory / _MADE)  # `gc --keep` goes by it
        return found

    def _refuse_again(self, key: str) -> None:
        """ImageError where the build failed not long ago."""
        failed = self._home.runtimes / f"{key}.failed"
        try:
            age = time.time() - failed.stat().st_mtime
            said = json.loads(failed.read_text())
            message, log = str(said["message"]), failed.with_suffix(".log")
        except (OSError, ValueError, TypeError, KeyError):
            return
        if 0 <= age < _FAILED_FOR:
            raise self._failure(message, log, f" (it failed {_ago(age)} ago)")
        failed.unlink(missing_ok=True)

    def _keep(self, work: Path, key: str, sources: _Sources) -> Obtained:
        made = regular_inside(work / _BUILD / "out", "program")
        if made is None:
            raise ImageError(f"{self._word}: its build made no program", hint=f"log: {self._log(key, work)}")
        making = make_directory(work / "made")
        name = self._about.binary if self._about else "runtime"
        program = making / name
        with disk_errors(program), made.open("rb") as source, program.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        program.chmod(0o755)
        about = {**asdict(sources), "word": str(self._word), "name": name, "sha256": _sha256(program)}
        write_atomic(making / _MADE, json.dumps(about, indent=1))
        directory = self._home.runtimes / key
        if directory.exists():
            discard(directory)
        making.rename(directory)
        for suffix in (".failed", ".log"):
            directory.with_suffix(suffix).unlink(missing_ok=True)
        found = self._find(key)
        assert found is not None
        return replace(found, made=True)

    def _log(self, key: str, work: Path) -> Path:
        """Keep what the build printed; where that is."""
        log = self._home.runtimes / f"{key}.log"
        with contextlib.suppress(OSError):
            shutil.copyfile(work / _LOG, log)
        return log

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with locked(
            self._home.lock(f"runtime-{key}"),
            timeout=max(1.0, self._deadline.left),
            waiting=self._observer.step,
            what=f"the build of {self._word}",
        ):
            yield

    @contextlib.contextmanager
    def _working(self) -> Iterator[Path]:
        """A directory for the work, gone at the end; it is the build's user's."""
        work = self._home.runtimes / f"{self._key('')}.making"
        if work.exists():
            discard(work)
        make_directory(work)
        try:
            yield work
        finally:
            discard(work)


_SYSTEMS: dict[System, Sequence[str]] = {
    System.GO: ("go",),
    System.CARGO: ("rust",),
    System.AUTOTOOLS: ("autotools",),
    System.MAKE: (),
}


_FOUND = "labkit-program"  # in sources that labkit does not know: a copy of what they make
_USUAL = (
    ("configure.ac", System.AUTOTOOLS, "test -x configure || ./autogen.sh\n./configure\nmake"),
    ("Makefile", System.MAKE, "make"),
    ("Cargo.toml", System.CARGO, "cargo build --release --offline $(locked)"),
    ("go.mod", System.GO, "go build -o runtime ."),
)


# How each is named, and what lists it.
_WORDS = {
    Role.RUNTIME: ("--runtime", "./lab runtimes"),
    Role.REGISTRY: ("--registry", "docs/reference/registries.md"),
    Role.PROGRAM: ("", "labkit/subjects/programs/"),
}


def _told(build: Build) -> dict[str, object]:
    """What of a recipe goes into a key: what is not there in an older labkit's is left out where it says nothing."""
    told: dict[str, object] = build.model_dump(mode="json")
    return told if build.directory else {key: word for key, word in told.items() if key != "directory"}


def _needs(build: Build) -> tuple[str, ...]:
    return ("toolchain", "download", *_SYSTEMS[build.system])


def _packages(build: Build, distro: Distro) -> list[str]:
    """Of the platform, what must be there to build."""
    system = [package for need in _needs(build) for package in distro.packages.get(need, ())]
    return [*system, *build.packages.get(distro.platform.family, ())]


def _recognised(tree: Path) -> About | None:
    """The runtime that the sources are of."""
    for name in runtimes.every():
        about = runtimes.about(name)
        if about.build and about.build.mark:
            file, text = about.build.mark
            found = regular_inside(tree, file)
            if found and text in found.read_text(errors="replace"):
                return about
    return None


def _usual(tree: Path, word: Release | Source) -> Build:
    """How sources that labkit does not know are built: as people do who do not know them either."""
    name = re.sub(r"[^A-Za-z0-9._-]", "", Path(str(word).rpartition("#")[0]).name.removesuffix(".git")) or "runtime"
    places = [*(f"{place}{one}" for one in ("runtime", name) for place in ("", "bin/", "target/release/"))]
    found = f"""for one in {" ".join(places)}; do
  if test -f $one && test -x $one; then
    cp $one {_FOUND}
    break
  fi
done"""
    for file, system, recipe in _USUAL:
        if regular_inside(tree, file):
            return Build(system=system, recipe=f"{recipe}\n{found}", program=_FOUND)
    raise UsageError(
        f"{word}: labkit does not know how that is built",
        hint="known runtimes, and trees with configure.ac, Makefile, Cargo.toml or go.mod whose program is called "
        f"runtime or {name}; else build it, and name the file: --runtime ./FILE",
    )


def _submodules(tree: Path, repository: Path, below: str = "") -> None:
    """Check out the submodules of a clone. Those that the repository has on this host are cloned from there. _No."""
    if not (tree / ".gitmodules").is_file():
        return
    listed = git(tree, "config", "-f", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$", check=False).stdout
    inside = git(repository, "rev-parse", "--git-common-dir", check=False).stdout.strip()
    modules = (repository / inside).resolve() / "modules"
    for line in listed.splitlines():
        key, _, path = line.partition(" ")
        name = key.removeprefix("submodule.").removesuffix(".path")
        here = modules / name
        if here.is_dir() and ".." not in Path(name).parts:
            git(tree, "config", f"submodule.{name}.url", str(here))
        words = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--", path)
        try:
            git(tree, *words, timeout=_GIT)
        except ProgramFailed as error:
            raise _No(f"its submodule {below}{path} cannot be had: {_said_bygit(error)}") from error
        if ".." not in Path(path).parts and not Path(path).is_absolute():
            _submodules(tree / path, here if here.is_dir() else tree / path, f"{below}{path}/")


def _described(repository: Path, commit: str) -> str:
    said = git(repository, "describe", "--tags", "--always", commit, check=False).stdout.strip()
    return re.sub(r"^v(?=[0-9])", "", said) or commit[:12]


def _last_of(error: LabError, lines: int) -> str:
    """The last lines that a program printed, else what became of it."""
    printed = [line.removeprefix("labkit: ") for line in (error.hint or "").splitlines() if line.strip()]
    return "\n".join(printed[-lines:]).strip() or error.message


def _said_bygit(error: LabError) -> str:
    said = re.search(r"^fatal: (.+)$", error.hint or "", re.MULTILINE)
    return said[1] if said else _last_of(error, 1)


def _json(directory: Path, name: str) -> dict[str, object]:
    """What a file holds that a build could have written."""
    file = regular_inside(directory, name)
    with contextlib.suppress(OSError, ValueError):
        if file and file.stat().st_size < 1 << 20:
            said = json.loads(file.read_text())
            if isinstance(said, dict):
                return said
    return {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ago(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours" if seconds >= 7200 else f"{max(seconds, 60) / 60:.0f} minutes"

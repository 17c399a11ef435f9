"""The kernel of User-Mode Linux: where it comes from, and whether it runs on this host.

kernels/DIGEST/{tree/linux, tree/lib64/, modules.img, kernel.json}

tree has the program and the libraries that it was made for, which may be newer than this host's; modules.img is a file
system of its modules, with a program `trial` that says that it ran.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from labkit.core.config import Settings
from labkit.core.errors import HostError, LabError
from labkit.core.home import Home
from labkit.core.observer import Observer
from labkit.io import process
from labkit.io.files import locked, make_directory, require_space, write_atomic
from labkit.io.mmdebstrap import apart

SECCOMP_SINCE = (6, 16)  # older ones trace each process of the guest, which takes several times as long
_SUITE = "sid"  # of Debian, whose user-mode-linux follows the kernel's releases
_PACKAGE = "user-mode-linux"
_PROGRAMS = ("linux.uml", "linux")  # what Debian's package installs, and what a kernel's tree builds
_ABOUT = "kernel.json"
FETCHING = "fetching"  # below kernels/
_FETCH = 600.0  # seconds
_ASK = 20.0  # seconds for what takes milliseconds
_SPACE = 512  # MiB that a kernel takes while it is fetched
_SPARE = 8  # MiB of modules.img besides the modules
# An ELF program of 64 bits that writes "labkit: it runs\n" and switches the machine off: write(1, text, 16), then
# reboot(0xfee1dead, 672274793, 0x4321fedc), by the numbers of x86-64 (reboot(2)).
SAID = b"labkit: it runs"
_CODE = bytes.fromhex(
    "b801000000 bf01000000 488d351f000000 ba10000000 0f05 b8a9000000 bfaddee1fe be69191228 badcfe2143 0f05 ebfe"
)


def _trial() -> bytes:
    start, base = 64 + 56, 0x400000
    body = _CODE + SAID + b"\n"
    size = start + len(body)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    fields = [(2, 2), (2, 62), (4, 1), (8, base + start), (8, 64), (8, 0), (4, 0), (2, 64), (2, 56), (2, 1), (2, 0)]
    fields += [(2, 0), (2, 0)]
    fields += [(4, 1), (4, 5), (8, 0), (8, base), (8, base), (8, size), (8, size), (8, 4096)]
    return header + b"".join(value.to_bytes(width, "little") for width, value in fields) + body


@dataclass(frozen=True, slots=True)
class Kernel:
    """One that is kept in directory. origin: where its program comes from; seccomp: whether it has the fast mode."""

    directory: Path
    release: str
    origin: str
    sha256: str
    seccomp: bool

    @property
    def modules(self) -> Path:
        return self.directory / "modules.img"

    def __str__(self) -> str:
        return f"User-Mode Linux {self.release}, {self.origin}"


def kept(settings: Settings) -> Kernel | None:
    """The kernel that the settings mean, if it needs no fetching; HostError where the path that they name is none."""
    if path := settings.uml_kernel:
        if not path.is_file() or not os.access(path, os.X_OK):
            raise HostError(f"uml_kernel = {path} is no program", hint="name the `linux` that a kernel's tree builds")
        return _of_host(settings.home, path, f"{path}")
    own = next((found for name in _PROGRAMS if (found := process.which(name))), None)
    if own and (version := _release(own)) and _number(version) >= SECCOMP_SINCE:
        return _of_host(settings.home, own, f"{_PACKAGE} of this host ({own})")
    return next(iter(fetched(settings.home)), None)


def fetched(home: Home) -> list[Kernel]:
    """The kernels that were fetched, whole ones, the newest first. Others are taken from this host again."""
    newest = sorted(_all(home), key=lambda path: path.stat().st_mtime, reverse=True)
    kernels = filter(None, map(_read, newest))
    return [kernel for kernel in kernels if kernel.origin.endswith(f" of Debian {_SUITE}")]


def ensure(settings: Settings, observer: Observer) -> Kernel:
    """The kernel that the settings mean, fetched now if need be. Raises HostError where there is none to be had."""
    if kernel := kept(settings):
        return kernel
    with locked(
        settings.home.lock("kernel"), timeout=2 * _FETCH, waiting=observer.step, what="a kernel of User-Mode Linux"
    ):
        if kernel := kept(settings):
            return kernel
        return _fetched(settings, observer)


def _all(home: Home) -> list[Path]:
    found = home.kernels.iterdir() if home.kernels.is_dir() else ()
    return [path for path in found if re.fullmatch(r"[0-9a-f]{16}", path.name)]


def _read(directory: Path) -> Kernel | None:
    """The kernel in directory; None where that is not whole."""
    try:
        about = json.loads((directory / _ABOUT).read_bytes())
        kernel = Kernel(directory, **{key: about[key] for key in ("release", "origin", "sha256", "seccomp")})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    program = directory / "tree/linux"
    whole = program.is_file() and kernel.modules.is_file() and directory.name == kernel.sha256[:16]
    return kernel if whole else None


def _of_host(home: Home, program: Path, origin: str) -> Kernel:
    """A program of this host, with the libraries that it uses here and the modules that lie where packages put them."""
    digest = _digest(program)
    kernel = _read(home.kernels / digest[:16])
    if kernel is None:
        release = _release(program)
        if release is None:
            raise HostError(f"{program} is no kernel of User-Mode Linux: `{program.name} --version` names no release")
        modules = next(
            (
                path
                for path in (Path(f"/usr/lib/uml/modules/{release}"), Path(f"/lib/modules/{release}"))
                if path.is_dir()
            ),
            None,
        )
        with locked(home.lock("kernel-of-host"), timeout=_FETCH, waiting=lambda _: None, what="a kernel"):
            kernel = _keep(home, program, Path("/"), release, modules, origin)
    return kernel


def _fetched(settings: Settings, observer: Observer) -> Kernel:
    """Debian sid's, by its signed lists, with its own libc. A mirror may lag: the date of the lists is not asked for,
    and a package of that time is as good.
    """
    observer.step(f"fetching the kernel of User-Mode Linux ({_PACKAGE} of Debian {_SUITE})")
    making = make_directory(settings.home.kernels / FETCHING)
    require_space(making, _SPACE)
    process.end_owned(making)  # of a labkit that was killed
    shutil.rmtree(making)
    tree, tar = make_directory(make_directory(making) / "tree"), making / "tree.tar"
    begin, environment = apart(making)
    mirror = [settings.mirror] if settings.mirror and settings.platform == "debian" else []
    argv = [*begin, "mmdebstrap", "--variant=extract", "--mode=auto", "--format=tar", f"--include={_PACKAGE}"]
    argv += ['--aptopt=Acquire::Check-Valid-Until "false"', "--aptopt=Acquire::Languages none"]
    try:
        process.run([*argv, _SUITE, tar, *mirror], timeout=_FETCH, on_line=observer.detail, env=environment)
        process.run(["tar", "-C", tree, "-xf", tar, "--exclude=./dev/*"], timeout=_FETCH)
        package = _package(tree)
        program = tree / "usr/bin/linux.uml"
        modules = next((tree / "usr/lib/uml/modules").iterdir())
        return _keep(settings.home, program, tree, modules.name, modules, f"{package} of Debian {_SUITE}")
    except (OSError, StopIteration) as error:
        raise HostError(f"{_PACKAGE} of Debian {_SUITE} is not what it was: {error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _package(tree: Path) -> str:
    """The package with its version, as its changelog has it."""
    with gzip.open(tree / f"usr/share/doc/{_PACKAGE}/changelog.Debian.gz", "rt", errors="replace") as file:
        found = re.match(r"\S+ \(([^)\s]+)\)", file.readline())
    return f"{_PACKAGE} {found[1]}" if found else _PACKAGE


def _keep(home: Home, program: Path, root: Path, release: str, modules: Path | None, origin: str) -> Kernel:
    """Put the program, its libraries as found below root, and its modules, into the home."""
    digest = _digest(program)
    final = home.kernels / digest[:16]
    making = home.kernels / f"{digest[:16]}.making"
    shutil.rmtree(making, ignore_errors=True)
    libraries = make_directory(make_directory(making, mode=0o755) / "tree/lib64", mode=0o755)
    shutil.copyfile(program, making / "tree/linux")
    (making / "tree/linux").chmod(0o755)
    loader = root / "lib64/ld-linux-x86-64.so.2"
    loader = loader if loader.exists() else root / "usr/lib64/ld-linux-x86-64.so.2"
    search = ":".join(str(root / name) for name in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"))
    words: list[str | Path] = [loader, "--library-path", search, "--list", program]
    listed = process.run(words, timeout=_ASK, check=False)
    if listed.status == 0:  # else it is linked statically
        for found in re.findall(r"=> (/\S+) \(", listed.stdout):
            shutil.copyfile(found, libraries / Path(found).name)
            (libraries / Path(found).name).chmod(0o755)
        shutil.copyfile(loader, libraries / loader.name)
        (libraries / loader.name).chmod(0o755)
    _modules(making, release, modules)
    kernel = Kernel(final, release, origin, digest, _number(release) >= SECCOMP_SINCE)
    about = {key: value for key, value in asdict(kernel).items() if key != "directory"}
    write_atomic(making / _ABOUT, json.dumps(about))
    shutil.rmtree(final, ignore_errors=True)  # one that was not whole
    making.rename(final)
    return kernel


def _modules(making: Path, release: str, modules: Path | None) -> None:
    """Make the file system of the modules: RELEASE/ as depmod left it, and the trial."""
    content = make_directory(making / "content", mode=0o755)
    if modules:
        shutil.copytree(modules, content / release, symlinks=True, ignore=shutil.ignore_patterns("build", "source"))
    else:
        make_directory(content / release, mode=0o755)
    trial = content / "trial"
    trial.write_bytes(_trial())
    trial.chmod(0o755)
    (content / "dev").mkdir()
    sizes = (path.stat().st_size + 4096 for path in content.rglob("*") if path.is_file())
    size = int(sum(sizes) * 1.1 / (1 << 20)) + _SPARE  # with what a file system needs for itself
    image = making / "modules.img"
    words = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-L", "labkit-modules", "-d"]
    process.run([*words, content, image, f"{size}M"], timeout=_ASK * 3)
    image.chmod(0o644)
    shutil.rmtree(content)


def _digest(program: Path) -> str:
    with program.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _release(program: Path) -> str | None:
    """The release that a kernel says it is."""
    try:
        said = process.run([program, "--version"], timeout=_ASK, check=False).stdout
    except LabError:
        return None
    found = re.match(r"(\d+\.\d+\S*)\s*$", said)
    return found[1] if found else None


def _number(release: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)

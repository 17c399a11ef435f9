"""A system in a directory, in which a bootstrap script runs for real: apart from the host's processes and mounts, on
its network. Killed, it is as if its power had gone: nothing in it goes on.
"""

from __future__ import annotations

import hashlib
import http.server
import shlex
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labkit.io import process

_ENTER = r"""
set -eu
root=$1
shift
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
: >>"$root/etc/resolv.conf"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
cd /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""
# What two runs of the same need not have in common: times, caches, logs.
_PASSING = (
    "proc", "sys", "dev", "run", "tmp", "root", "var/log", "var/cache", "var/lib/apt", "var/lib/labkit/bootstrap.tsv",
    "etc/resolv.conf", "var/lib/dpkg/status-old", "var/lib/dpkg/lock", "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
)  # fmt: skip


@dataclass
class Run:
    """What a script printed and how it ended; status is None where it was killed."""

    lines: list[str]
    errors: str
    status: int | None

    def outcomes(self) -> dict[str, str]:
        """Step to what became of it: `already done`, `done`, `failed with status N, see LOG`."""
        found = {}
        for line in (*self.lines, *self.errors.splitlines()):
            if line.startswith("labkit: step "):
                name, _, rest = line.removeprefix("labkit: step ").partition(" ")
                found[name] = "done" if rest.startswith("done in ") else rest
        return found


@dataclass(frozen=True)
class Chroot:
    """root holds a system. mounts are directories of the host and where they are to be seen in it."""

    root: Path
    mounts: dict[Path, str] = field(default_factory=dict)

    def run(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, until: Callable[[], bool] | None = None
    ) -> Run:
        """Run a command and wait, or only until something is true: then all of it is killed."""
        binds = "".join(
            f'mkdir -p "$1"{where} && mount --bind {shlex.quote(str(directory))} "$1"{where}\n'
            for directory, where in self.mounts.items()
        )
        given = [f"{name}={value}" for name, value in (env or {}).items()]
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]
        child = subprocess.Popen(
            [*apart, "sh", "-c", binds + _ENTER, "sh", self.root, *given, "chroot", self.root, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

        def watch() -> None:
            while until is not None and child.poll() is None:
                if until():
                    child.kill()
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, errors = child.communicate()
        watcher.join()
        return Run(out.splitlines(), errors, child.returncode if child.returncode >= 0 else None)

    def manifest(self) -> dict[str, tuple[object, ...]]:
        """Path to what is there: kind and mode, owner, content. Of git's directories only the commit counts."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if name.startswith(_PASSING) or "/.git/" in name or name.endswith((".pyc", "ld.so.cache")):
                continue
            info = path.lstat()
            content: object = None
            if path.name == ".git" and path.is_dir():
                content = (path / "HEAD").read_text()
            elif path.is_symlink():
                content = str(path.readlink())
            elif stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = (oct(info.st_mode), info.st_uid, info.st_gid, content)
        return found


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a directory and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


def says(log: Path, text: str) -> bool:
    """Whether a log that may not be there yet has the text."""
    return log.exists() and text in log.read_text(errors="replace")


def build(directory: Path) -> Path:
    """Make a small Debian 13 as directory/base.tar; its path. Most of a minute is the packages' download."""
    tar = directory / "base.tar"
    argv = ["unshare", "--mount", "--propagation=private", "mmdebstrap", "--variant=minbase", "--format=tar"]
    argv += ["--aptopt=Acquire::Languages none", "--aptopt=Acquire::Retries 3"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    process.run([*argv, "trixie", tar], timeout=600)
    return tar


def unpack(tar: Path, directory: Path) -> Path:
    directory.mkdir(parents=True)
    process.run(["tar", "-C", directory, "-xf", tar, "--exclude=./dev/*"], timeout=300)
    return directory

"""Build chroots: a platform's system with compilers, made once, in which programs are built.

    builders/KEY.making/  ->  builders/KEY/{root/, made.json}

What is built there runs as a user that nobody is, on a file system that it cannot write to but for its own directory,
among its own processes only, and reaches the network only while it fetches.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.core.arch import here
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import ImageError, ProgramFailed, UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.images.collect import discard
from labkit.io import process
from labkit.io.files import locked, make_directory, require_space, write_atomic
from labkit.io.mmdebstrap import apart, mmdebstrap

BUILD = "/build"  # in the chroot, what a build may write to
_FORMAT = 1  # to be raised when the same packages give another chroot
_SPACE = 2048  # MiB
_USER = "64123:64123"  # of no system: Debian gives these numbers to nobody
_ROOT, _MADE = "root", "made.json"
# How Go and cargo are told which registries to use.
_REGISTRIES = ("GOPROXY", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GOINSECURE", "CARGO_HTTP_PROXY")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# What a builder gets from this host when something is fetched: how names are found, and whom to trust.
_FROM_HOST = (Path("/etc/resolv.conf"), Path("/etc/hosts"), _CERTIFICATES)
# Arguments: the root, the directories for BUILD and its cache, a user, a count and that many files of this host, then
# a command.
_ENTER = """set -e
root=$1 work=$2 cache=$3 user=$4 count=$5
shift 5
mkdir -p "$work/cache" "$work/home"
chown -R "$user" "$work"
chown "$user" "$cache"
mount --bind "$root" "$root"
mount --bind "$work" "$root/build"
mount --bind "$cache" "$root/build/cache"
while test "$count" -gt 0; do
  if test -e "$1" && test -e "$root$1"; then
    mount --bind "$1" "$root$1"
  fi
  shift
  count=$((count - 1))
done
mount -t tmpfs -o mode=755 none "$root/dev"
for name in null zero full random urandom tty; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=1777 none "$root/tmp"
mount -t proc none "$root/proc"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" "$@"
"""


@dataclass(frozen=True, slots=True)
class Chroot:
    """directory has the root file system; deadline bounds all that runs in it; proxy: the address of one, or empty."""

    directory: Path
    proxy: str
    deadline: Deadline
    observer: Observer

    def run(self, work: Path, cache: Path, script: str, log: Path, *, network: bool) -> None:
        """Run a shell script in it, with work as its BUILD and cache as BUILD/cache, and append what it prints to log;
        both become its user's. network: with this host's network, else with none. ProgramFailed.
        """
        make_directory(work)
        make_directory(cache)
        unshare: list[str | Path] = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        unshare += ["--ipc", "--uts", *([] if network else ["--net"])]
        if os.geteuid() != 0:
            unshare += ["--map-auto", "--map-root-user"]
        given: list[str | Path] = list(_FROM_HOST) if network else []
        values = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": f"{BUILD}/home",
            "LC_ALL": "C.UTF-8",
            **(_way_out(self.proxy) if network else {}),
        }
        if network and _CERTIFICATES.exists():
            values |= {"SSL_CERT_FILE": str(_CERTIFICATES)}
        inner = ["env", "-i", *(f"{name}={value}" for name, value in values.items()), "sh", "-s"]
        enter = [self.directory / _ROOT, work, cache, _USER, str(len(given)), *given]
        with log.open("a") as file:

            def heard(line: str) -> None:
                file.write(f"{line}\n")
                file.flush()
                self.observer.detail(line)

            process.run(
                [*unshare, "sh", "-c", _ENTER, "enter", *enter, *inner],
                timeout=max(1.0, self.deadline.left),
                limit="build",
                env={process.OWNER: str(work)},
                stdin=script.encode(),
                on_line=heard,
            )


def ensure(
    distro: Distro, packages: Sequence[str], settings: Settings, observer: Observer, deadline: Deadline
) -> Chroot:
    """The chroot of this release with these packages, made now if necessary. UsageError where labkit does not build
    that release from packages; ImageError.
    """
    made = distro.build
    if distro.arch is not here():
        raise UsageError(
            f"runtimes are built natively, and {distro.title} is of another architecture than this host",
            hint="name a release, or a program of it: --runtime ./FILE",
        )
    if made is None:
        raise UsageError(
            f"{distro.title} cannot be built from packages here, so neither can runtimes for it",
            hint="build it there, and name the file: --runtime ./FILE; or take the platform's package",
        )
    about = {
        "form": _FORMAT,
        "suite": made.suite,
        "arch": platform.machine(),
        "packages": sorted(set(packages)),
        "mirror": settings.mirror,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    home = settings.home
    directory = home.builders / key
    chroot = Chroot(directory, settings.proxy or "", deadline, observer)
    if not (directory / _MADE).is_file():
        waiting, what = observer.step, f"a build chroot of {distro.title}"
        with locked(home.lock(f"builder-{key}"), timeout=max(1.0, deadline.left), waiting=waiting, what=what):
            if not (directory / _MADE).is_file():
                _make(directory, made.suite, about, settings, distro.title, chroot)
    os.utime(directory / _MADE)  # `gc --keep` goes by it
    return chroot


def _make(
    directory: Path, suite: str, about: dict[str, object], settings: Settings, title: str, chroot: Chroot
) -> None:
    making = directory.with_name(f"{directory.name}.making")
    if making.exists():
        discard(making)
    make_directory(making)
    require_space(making, _SPACE)
    chroot.observer.step(f"making a chroot of {title} to build in: {', '.join(_list(about['packages']))}")
    begin, environment = apart(making)
    # Places for what is mounted there: it is read-only while something is built.
    hook = f'cd "$1" && mkdir -p .{BUILD} && touch .{" .".join(map(str, _FROM_HOST))}'
    made = mmdebstrap(suite, making / _ROOT, _list(about["packages"]), [hook], settings.mirror, form="directory")
    try:
        process.run(
            [*begin, *made],
            timeout=max(1.0, chroot.deadline.left),
            limit="build",
            env=environment,
            on_line=chroot.observer.detail,
        )
        write_atomic(making / _MADE, json.dumps(about, indent=1))
        if directory.exists():
            discard(directory)
        making.rename(directory)
    except ProgramFailed as error:
        if "No space left on device" in (error.hint or ""):
            require_space(making, _SPACE)
        raise ImageError(f"no chroot of {title} could be made to build in: {error.message}", hint=error.hint) from error
    finally:
        if making.exists():
            discard(making)


def _list(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _way_out(proxy: str) -> dict[str, str]:
    """The variables by which programs find their way to the network, and to registries."""
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
    found = {name: os.environ[name] for name in (*names, *_REGISTRIES) if name in os.environ}
    if proxy:
        found |= dict.fromkeys(names[:4], proxy) | dict.fromkeys(names[-2:], "localhost,127.0.0.1,::1")
    return found

"""Where the suite runs: what it needs of this host, and what it has of its own so that the host stays as it is."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..common.children import ENDING
from ..common.claims import answer
from ..common.errors import UsageError
from ..common.procfs import own_mounts, status
from . import process
from .host import Host, given

UNSHARED = ("-m", "-p", "-n", "-i", "-u")  # busybox unshare: mount, PID, network, IPC and UTS namespaces
CAPABILITIES = {  # those that the suite uses itself, and those of its containers
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
}
LONGEST = 60  # characters of a directory below which sockets still have names: sun_path has 108 bytes
NODES = {  # as the kernel's devtmpfs has them: name -> major, minor, mode
    "null": (1, 3, 0o666),
    "zero": (1, 5, 0o666),
    "full": (1, 7, 0o666),
    "random": (1, 8, 0o666),
    "urandom": (1, 9, 0o666),
    "tty": (5, 0, 0o666),
}
PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # it ignores them itself, and Popen undoes that
RAISED = "LABKIT_SPEC_RAISED"
INFINITE = 2**64
LIMITS = {  # as /proc/PID/limits calls them -> option of ulimit, the least that is enough, unit of the option in bytes
    "cpu time": ("-t", INFINITE, 1),
    "file size": ("-f", INFINITE, 512),
    "data size": ("-d", INFINITE, 1024),
    "address space": ("-v", INFINITE, 1024),
    "stack size": ("-s", 8 << 20, 1024),
    "open files": ("-n", 1024, 1),
    "processes": ("-u", 4096, 1),
}
OTHERS = ("fuse", "net/tun", "kvm")  # that a runtime may want, where the host has them


def require_able(host: Host) -> None:
    """Raises UsageError where the suite cannot run on this host, with the one thing that is missing."""
    effective = int(status(Path("/proc/self/status").read_text()).get("CapEff", "0"), 16)
    missing = [name for name, number in CAPABILITIES.items() if not effective >> number & 1]
    if missing:
        raise UsageError(f"cannot run on this host: this root lacks {', '.join(missing)}")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise UsageError(f"cannot run on this host: pidfd_open is refused ({error.strerror})") from error
    directory = temporary()
    said = directory / f"labkit-try-{os.getpid():x}{os.urandom(4).hex()}"
    try:
        words = [host.busybox, "unshare", *UNSHARED, host.busybox, "mount", "-t", "tmpfs", "labkit", str(directory)]
        done = process.run(words, stdout=Path(os.devnull), stderr=said, timeout=10)
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror}; TMPDIR names another directory") from error
    finally:
        said.unlink(missing_ok=True)
    if not done.ok:
        raise UsageError(f"cannot run on this host: no namespaces with mounts of its own: {done.words}")


def temporary() -> Path:
    """The directory for temporary files: TMPDIR, or /tmp where that is too long, or has blanks, for sockets, or where
    not everybody may pass through it, as the users of a container must.
    """
    try:
        given = Path(os.environ.get("TMPDIR") or "/tmp").absolute()
        if not stat.S_ISDIR(given.stat().st_mode):
            raise UsageError(f"TMPDIR is {str(given)!r}, which is no directory")
        everybody = all(directory.stat().st_mode & stat.S_IXOTH for directory in (given, *given.parents))
    except OSError as error:
        raise UsageError(f"TMPDIR is {os.environ.get('TMPDIR', '/tmp')!r}: {error.strerror}") from error
    plain = str(given).isascii() and not any(character in " \t\n\r,:\\\"'" for character in str(given))
    return given if plain and everybody and len(str(given)) <= LONGEST else Path("/tmp")


def raise_limits(host: Host, again: Sequence[str]) -> None:
    """Where limits that this process inherited are too low for containers, raise them and start again, as this argv.

    busybox does it: python3-minimal has no module resource. Raises UsageError where the kernel refuses.
    """
    tried = os.environ.pop(RAISED, None)
    have = {line[4:26].strip(): line[26:].split() for line in Path("/proc/self/limits").read_text().splitlines()[1:]}
    low, script = "", ""
    for name, (option, least, unit) in LIMITS.items():
        soft, hard = (INFINITE if word == "unlimited" else int(word) for word in have[name][:2])
        if soft < least:
            low = low or f"the limit of {name} is {have[name][0]}"
            value = "unlimited" if least == INFINITE else least // unit
            script += f"ulimit {'-S ' if hard >= least else ''}{option} {value}\n"
    if not low:
        return
    if tried or answer([host.busybox, "sh", "-ec", f"{script}echo done"]) != "done\n":
        raise UsageError(f"cannot run on this host: {low}, and cannot be raised")
    os.environ[RAISED] = "1"
    os.execv(host.busybox, [host.busybox, "sh", "-ec", f'{script}exec "$@"', "sh", *again])


def inherit_nothing() -> None:
    """Undo what whoever started this process left to it and what a runtime would inherit: groups, umask and signals.
    Those that end us stay as they are: nohup(1) is for the suite too; a check gets the usual ones.
    """
    with suppress(OSError):  # in a user namespace that may not
        os.setgroups([])
    os.setresgid(0, 0, 0)  # without CAP_SYS_RESOURCE, other ids cannot change the limits of a container's process
    os.setresuid(0, 0, 0)
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in (*ENDING, *PYTHON):
            signal.signal(number, signal.SIG_DFL)


def private(host: Host, top: Path) -> None:
    """In namespaces of our own: mounts, a work directory, and a /dev whose nodes nobody else has."""
    work = top / "work"
    mount(host, top, "--make-rprivate", "/")
    mount(host, top, "--make-rshared", "/")  # as systemd leaves it, but a peer group of our own
    mount(host, top, "-t", "proc", "proc", "/proc")
    for there in own_mounts():
        if there.type in ("cgroup", "cgroup2") and there.root.startswith("/.."):  # not as our cgroup namespace has it
            controllers = ",".join(sorted(there.data - {"rw", "ro"}))
            options = ["-o", controllers] if controllers and there.type == "cgroup" else []
            tool(host, top, "umount", there.point)
            mount(host, top, "-t", there.type, *options, there.type, there.point)
    mount(host, top, "-t", "tmpfs", "-o", "mode=755", "labkit", str(work))
    dev = work / "dev"
    dev.mkdir()
    mount(host, top, "-t", "tmpfs", "-o", "mode=755", "labkit-dev", str(dev))
    for name in ("pts", "shm", "mqueue", "net"):
        (dev / name).mkdir()
    before = os.umask(0)
    try:
        for name, (major, minor, mode) in {**NODES, **_there()}.items():
            _node(host, top, name, stat.S_IFCHR | mode, os.makedev(major, minor))
    finally:
        os.umask(before)
    mount(host, top, "-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620", "devpts", str(dev / "pts"))
    mount(host, top, "-t", "tmpfs", "-o", "mode=1777", "shm", str(dev / "shm"))
    mount(host, top, "-t", "mqueue", "mqueue", str(dev / "mqueue"))
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"),
                         ("stderr", "fd/2")):  # fmt: skip
        (dev / name).symlink_to(target)
    mount(host, top, "--rbind", str(dev), "/dev")
    with open(os.devnull, "rb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), 0)
    tool(host, top, "ip", "link", "set", "lo", "up")
    if not os.access("/run", os.W_OK):  # where runtimes have their records, when they are root's
        mount(host, top, "-t", "tmpfs", "-o", "mode=755", "labkit-run", "/run")
        if user := given():
            user.session.mkdir(mode=0o700, parents=True)
    os.chdir("/")


def hide(host: Host, top: Path, directory: Path) -> bool:
    """Give the runtime a directory of our own for its records, which ends with us. Whether that can be."""
    try:
        mode = f"mode={stat.S_IMODE(directory.stat().st_mode):o}"
    except OSError:  # it went with the one container
        return False
    return tool(host, top, "mount", "-t", "tmpfs", "-o", mode, "labkit-records", str(directory)).ok


def _there() -> dict[str, tuple[int, int, int]]:
    """Those of OTHERS that this host has."""
    found = {}
    for name in OTHERS:
        with suppress(OSError):
            have = Path("/dev", name).stat()
            if stat.S_ISCHR(have.st_mode):
                found[name] = os.major(have.st_rdev), os.minor(have.st_rdev), stat.S_IMODE(have.st_mode)
    return found


def _node(host: Host, top: Path, name: str, mode: int, device: int) -> None:
    """Make a device node in our /dev, or where none can be made put the host's there, which then nobody can change."""
    path = top / "work/dev" / name
    try:
        os.mknod(path, mode, device)
        if name in NODES:
            path.open("rb", buffering=0).close()
    except OSError:  # in a user namespace
        path.unlink(missing_ok=True)
        if Path("/dev", name).exists():
            path.touch()
            mount(host, top, "--bind", f"/dev/{name}", str(path))
            tool(host, top, "mount", "-o", "remount,bind,ro,nosuid,noexec", str(path))


def tool(host: Host, top: Path, *words: str) -> process.Proc:
    return process.run([host.busybox, *words], stdout=top / "tool.out", stderr=top / "tool.err", timeout=10)


def mount(host: Host, top: Path, *words: str) -> None:
    done = tool(host, top, "mount", *words)
    if not done.ok:
        raise UsageError(f"cannot run on this host: mount {' '.join(words)}: {done.words}")

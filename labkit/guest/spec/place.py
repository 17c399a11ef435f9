"""Where the suite runs: what it needs of this host, and what it has of its own so that the host stays as it is."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

from ..common.children import ENDING
from ..common.errors import UsageError
from ..common.procfs import status
from . import process
from .host import Host

UNSHARED = ("-m", "-p", "-n", "-i", "-u")  # busybox unshare: mount, PID, network, IPC and UTS namespaces
SYS_ADMIN = 1 << 21
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
SHARED = ("fuse", "net/tun", "kvm")  # of the host, where it has them: a runtime may hand them on, never chown them


def require_able(host: Host) -> None:
    """Raises UsageError where the suite cannot run on this host, with the one thing that is missing."""
    effective = int(status(Path("/proc/self/status").read_text()).get("CapEff", "0"), 16)
    if not effective & SYS_ADMIN:
        raise UsageError("cannot run on this host: CAP_SYS_ADMIN is missing, so no namespace can be made")
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
    """The directory for temporary files: TMPDIR, or /tmp where that is too long, or has blanks, for sockets."""
    given = Path(os.environ.get("TMPDIR") or "/tmp").absolute()
    if not given.is_dir():
        raise UsageError(f"TMPDIR is {str(given)!r}, which is no directory")
    plain = str(given).isascii() and not any(character in " \t\n\r,:\\\"'" for character in str(given))
    return given if plain and len(str(given)) <= LONGEST else Path("/tmp")


def inherit_nothing() -> None:
    """Undo what whoever started this process left to it and what a runtime would inherit: umask and signals. Those that
    end us stay as they are: nohup(1) is for the suite too; a check gets the usual ones.
    """
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
    mount(host, top, "-t", "tmpfs", "-o", "mode=755", "labkit", str(work))
    dev = work / "dev"
    dev.mkdir()
    mount(host, top, "-t", "tmpfs", "-o", "mode=755", "labkit-dev", str(dev))
    before = os.umask(0)
    try:
        for name, (major, minor, mode) in NODES.items():
            try:
                os.mknod(dev / name, stat.S_IFCHR | mode, os.makedev(major, minor))
                (dev / name).open("rb", buffering=0).close()
            except OSError:  # in a user namespace: no node can be made, and none be changed
                (dev / name).unlink(missing_ok=True)
                (dev / name).touch()
                if Path("/dev", name).exists():
                    mount(host, top, "--bind", f"/dev/{name}", str(dev / name))
    finally:
        os.umask(before)
    for name in ("pts", "shm", "mqueue", "net"):
        (dev / name).mkdir()
    for name in SHARED:
        if Path("/dev", name).exists():
            (dev / name).touch()
            mount(host, top, "--bind", f"/dev/{name}", str(dev / name))
    mount(host, top, "-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620", "devpts", str(dev / "pts"))
    mount(host, top, "-t", "tmpfs", "-o", "mode=1777", "shm", str(dev / "shm"))
    mount(host, top, "-t", "mqueue", "mqueue", str(dev / "mqueue"))
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"),
                         ("stderr", "fd/2")):  # fmt: skip
        (dev / name).symlink_to(target)
    mount(host, top, "--rbind", str(dev), "/dev")
    with open(os.devnull, "rb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), 0)
    process.run(
        [host.busybox, "ip", "link", "set", "lo", "up"], stdout=top / "ip.out", stderr=top / "ip.err", timeout=10
    )
    os.chdir("/")


def mount(host: Host, top: Path, *words: str) -> None:
    done = process.run([host.busybox, "mount", *words], stdout=top / "mount.out", stderr=top / "mount.err", timeout=10)
    if not done.ok:
        raise UsageError(f"cannot mount {' '.join(words)}: {done.words}")

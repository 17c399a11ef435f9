"""Namespaces, file systems and a cgroup for one run, all gone at its end.

outer   makes a directory and a cgroup, starts the inner process in new namespaces, waits for it or ends it, cleans up
inner   mounts what is the run's own, and does the work
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..common.attached import is_over
from ..common.cgroups import CGROUP_ROOT, remove_cgroup
from ..common.children import Signals
from ..common.errors import Interrupted, UsageError
from ..common.executables import find_program
from ..common.files import remove_tree

DATA = Path("/var/lib/labkit")
_PREFIX = "engine-"
_CGROUP = "labkit-engine-"
_REMOVE = 5.0  # seconds for a cgroup to be gone
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def outer(argv: Sequence[str], attached: bool, apart: bool = True, given: bytes = b"") -> int:
    """Run a command in namespaces of its own, with the directory of the run as its last argument; its exit status.

    attached: it ends when stdin does; apart: without the machine's network; given: its stdin. Raises Interrupted on a
    signal, after all has ended.
    """
    unshare, setpriv = find_program("unshare"), find_program("setpriv")
    if not unshare or not setpriv:
        raise UsageError("unshare and setpriv are not installed (package util-linux)")
    _clean()
    name = f"{os.getpid():x}{os.urandom(3).hex()}"
    top = DATA / f"{_PREFIX}{name}"
    top.mkdir(parents=True, mode=0o711)
    group = CGROUP_ROOT / f"{_CGROUP}{name}" if (CGROUP_ROOT / "cgroup.procs").exists() else None
    spaces = ["--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private", "--kill-child=KILL"]
    spaces += ["--net"] if apart else []
    if group:
        group.mkdir()
        spaces.append("--cgroup")
    join = 'test -z "$1" || echo $$ >"$1/cgroup.procs" || exit; shift; exec "$@"'
    words = [
        "sh",
        "-c",
        join,
        "sh",
        str(group or ""),
        setpriv,
        "--pdeathsig",
        "KILL",
        unshare,
        *spaces,
        *argv,
        str(top),
    ]
    signals = Signals()
    child = _start(words, given)
    try:
        if group:
            _step_aside(child, group)
        while child.poll() is None:
            ready = select.select([signals.fd, *[0] * attached], [], [], 1.0)[0]
            signals.drain()
            signals.check()
            if 0 in ready and is_over(0):
                raise Interrupted(1)
        return child.returncode
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        _clean()


def _start(words: Sequence[str], given: bytes) -> subprocess.Popen[bytes]:
    if not given:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL)
    with os.fdopen(os.memfd_create("given"), "w+b") as memory:  # in no file, and not limited as a pipe or a variable is
        memory.write(given)
        memory.seek(0)
        return subprocess.Popen(words, stdin=memory)


def _step_aside(child: subprocess.Popen[bytes], group: Path) -> None:
    """Once the namespaces are made, move `unshare`, which waits outside of them, to a group of its own: one that has
    processes gives no controllers to those below it.
    """
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    aside = group / "outside"
    aside.mkdir()
    while child.poll() is None:
        with suppress(OSError):
            if children.read_text().strip() and "unshare" in Path(f"/proc/{child.pid}/comm").read_text():
                (aside / "cgroup.procs").write_text(str(child.pid))
                return
        time.sleep(0.01)


def inner(apart: bool = True) -> None:
    """Make the file systems and the cgroup of this run; this process is the first of its PID namespace. apart: without
    the machine's network, and so without its /run, which may know where names are asked for.
    """
    if apart:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    if (CGROUP_ROOT / "cgroup.procs").exists():
        _mount("-t", "cgroup2", "none", str(CGROUP_ROOT))
        own = CGROUP_ROOT / "inside"
        own.mkdir()  # a group with processes gives no controllers to those below it
        (own / "cgroup.procs").write_text("0")
        deadline = time.monotonic() + 5
        while (CGROUP_ROOT / "cgroup.procs").read_text().split() and time.monotonic() < deadline:
            time.sleep(0.01)
        for controller in (CGROUP_ROOT / "cgroup.controllers").read_text().split():
            with suppress(OSError):
                (CGROUP_ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
    if not apart:
        return
    with socket.socket() as any_socket, suppress(OSError):
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        raise OSError(0, f"mount {' '.join(words)}: {done.stderr.decode('utf-8', 'replace').strip()}")


def _clean() -> None:
    """Remove what runs have left. The caller holds the lock, so none is going on."""
    for group in CGROUP_ROOT.glob(f"{_CGROUP}*"):
        remove_cgroup(group, time.monotonic() + _REMOVE, kill=True)
    for directory in DATA.glob(f"{_PREFIX}*"):
        remove_tree(directory)

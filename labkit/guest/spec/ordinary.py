"""From root to an ordinary user: what root gives the suite of that user, for this run alone."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Optional

from ..common.cgroups import CGROUP_ROOT, cgroup_version, enable_controllers, remove_cgroup
from ..common.errors import UsageError
from ..common.namespaces import CLONE_NEWCGROUP, CLONE_NEWNS, unshare
from . import process
from .host import AS_USER, PATH, Given
from .place import temporary
from .rootless import become_root

_NAME = "labkit-user-"  # of its cgroup, and of its directory
DELEGATED = ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # /sys/kernel/cgroup/delegate


@contextmanager
def places(alone: bool) -> Iterator[tuple[Path, Optional[Path]]]:
    """A directory to mount the user's temporary files on, and a cgroup to be the user's, None on cgroup v1. Whatever
    runs in the cgroup in the end is killed. alone: no other suite runs, so what a killed one left is removed.
    """
    name = f"{_NAME}{os.getpid():x}{os.urandom(4).hex()}"
    directory, cgroup = temporary() / name, CGROUP_ROOT / name if cgroup_version() == "v2" else None
    if alone:
        for left in CGROUP_ROOT.glob(f"{_NAME}*"):
            remove_cgroup(left, time.monotonic() + 5, kill=True)
        for left in directory.parent.glob(f"{_NAME}*"):
            with suppress(OSError):
                left.rmdir()
    try:
        try:
            directory.mkdir()
            if cgroup:
                enable_controllers(CGROUP_ROOT)
                cgroup.mkdir()
        except OSError as error:
            raise UsageError(f"cannot run as another user: {error.filename}: {error.strerror}") from error
        yield directory, cgroup
    finally:
        if cgroup and cgroup.is_dir():
            remove_cgroup(cgroup, time.monotonic() + 10, kill=True)
        with suppress(OSError):
            directory.rmdir()


def become(
    user: pwd.struct_passwd,
    directory: Path,
    cgroup: Optional[Path],
    busybox: str,
    again: Sequence[str],
    lifeline: int,
    lock: Optional[int],
) -> NoReturn:
    """Start again, as this argv, as root of a user namespace of the user's, in the cgroup.

    The program that goes on has lifeline for its stdin, and is to hold the lock.
    """
    os.dup2(lifeline, 0)
    if lock is not None:
        os.set_inheritable(lock, True)
    if cgroup:
        (cgroup / "cgroup.procs").write_text("0")
    try:
        unshare(CLONE_NEWNS | (CLONE_NEWCGROUP if cgroup else 0))  # the cgroup is the top of those that can be seen
    except OSError as error:
        raise UsageError(f"cannot run as another user: no namespaces of its own: {error.strerror}") from error
    _mount(busybox, directory, "--make-rprivate", "/")
    owner = f"mode=755,uid={user.pw_uid},gid={user.pw_gid}"
    _mount(busybox, directory, "-t", "tmpfs", "-o", owner, "labkit", str(directory))
    if cgroup:
        _tool(busybox, directory, "umount", str(CGROUP_ROOT))  # as no file system is mounted twice at one place
        _mount(busybox, directory, "-t", "cgroup2", "cgroup2", str(CGROUP_ROOT))
        _delegate(CGROUP_ROOT, user)
    os.environ.update(
        {
            AS_USER: str(Given(user.pw_name, user.pw_uid, user.pw_dir, lock)),
            "PATH": PATH,
            "HOME": user.pw_dir,
            "TMPDIR": str(directory),
        }
    )
    become_root(busybox, again, user)
    raise AssertionError("another program runs by now")


def _delegate(top: Path, user: pwd.struct_passwd) -> None:
    """Give the user all that is to be made below the top; this process goes into a cgroup there, as one that has
    processes gives those below it no controllers.
    """
    own = top / "init"
    own.mkdir()
    (own / "cgroup.procs").write_text("0")
    enable_controllers(top)
    for cgroup in (top, own):
        for name in DELEGATED:
            with suppress(FileNotFoundError):
                os.chown(cgroup / name, user.pw_uid, user.pw_gid)


def _tool(busybox: str, directory: Path, *words: str) -> process.Proc:
    said = directory.with_name(f"{directory.name}.said")
    try:
        return process.run([busybox, *words], stdout=Path(os.devnull), stderr=said, timeout=10)
    finally:
        said.unlink(missing_ok=True)


def _mount(busybox: str, directory: Path, *words: str) -> None:
    done = _tool(busybox, directory, "mount", *words)
    if not done.ok:
        raise UsageError(f"cannot run as another user: mount {' '.join(words)}: {done.words}")

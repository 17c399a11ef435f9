"""Runs a User-Mode Linux kernel with nothing of this host in sight; a program of its own, started by labkit.uml.launch.

    sandbox.py PLAN      the plan of labkit.uml.launch, as JSON

It is process 1 of a PID namespace, in a mount and a network namespace, and root there, by `unshare`. It makes a root of
a tmpfs with the kernel's tree and the machine's disks, and starts the kernel as an ordinary user in a user namespace
that owns none of the others: what a guest could do with its kernel's process is to read and write its own disk, and to
send packets. When the kernel ends, so does this, and with it whatever the kernel has started.

Only the standard library: it runs with `python -I -S`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import sys
from typing import Any

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_PIVOT_ROOT = 155  # its number on x86-64, the only architecture with User-Mode Linux in distributions
_PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE, _PR_SET_PDEATHSIG, _SIGKILL = 38, 4, 1, 9
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 2, 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)
    _check(_libc.mount(*words), f"mount {source} on {target}")


def _bind(source: str, target: str, flags: int = 0) -> None:
    _mount(source, target, "", _MS_BIND)
    _mount("none", target, "", _MS_BIND | _MS_REMOUNT | _MS_NOSUID | _MS_NODEV | flags)


def _tap(name: str) -> int:
    """A descriptor on the tap that the network's set-up has made."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    os.set_inheritable(tun, True)
    return tun


def _new_root(plan: dict[str, Any]) -> None:
    """Make the root of the sandbox at plan["root"], an empty directory, and have nothing but it in sight."""
    root = plan["root"]
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID, f"size={plan['memory_mib'] + 64}M,mode=0755")
    for name in ("kernel", "disk", "files", "proc", "dev", "dev/shm"):
        os.mkdir(f"{root}/{name}")
    os.chmod(f"{root}/dev/shm", 0o1777)
    _bind(plan["kernel"], f"{root}/kernel", _MS_RDONLY)
    for name in os.listdir(f"{plan['kernel']}/tree"):  # where its interpreter and libraries are looked for
        os.symlink(f"kernel/tree/{name}", f"{root}/{name}")
    _bind(plan["disk"], f"{root}/disk")
    for name, source in plan["files"].items():
        open(f"{root}/files/{name}", "x").close()
        _bind(source, f"{root}/files/{name}", _MS_RDONLY)
    for name in ("null", "zero", "urandom"):
        open(f"{root}/dev/{name}", "x").close()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", "", _MS_BIND)
    _mount("proc", f"{root}/proc", "proc", _MS_NOSUID | _MS_NODEV)
    os.chdir(root)
    _check(_libc.syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/disk")


def _kernel(argv: list[str], ready: int, go: int, tap: int) -> None:
    """Become the kernel, once the parent has said who that is."""
    _check(
        _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS),
        "no user namespace can be made: user.max_user_namespaces (sysctl), or a container's seccomp filter, forbids it",
    )
    os.write(ready, b".")
    if os.read(go, 1) != b".":
        os._exit(70)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    os.closerange(3, tap)
    os.closerange(tap + 1, 1024)
    # It becomes process 1's child again by /proc/self/exe, with this environment: its libraries are its own.
    os.execve("/kernel/tree/linux", argv, {"LD_LIBRARY_PATH": "/kernel/tree/lib64", "TMPDIR": "/dev/shm", "PATH": "/"})


def _map(pid: int, proc: int, user: int) -> None:
    """Let root in the user namespace of a process be this user outside of it."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {user} 1")):
        file = os.open(f"{pid}/{name}", os.O_WRONLY, dir_fd=proc)
        os.write(file, text.encode())
        os.close(file)


def main() -> int:
    plan = json.loads(sys.argv[1])
    os.umask(0o022)
    if plan["cpu"] is not None:
        os.sched_setaffinity(0, [plan["cpu"]])
    tap = _tap(plan["tap"])
    _new_root(plan)
    proc = os.open("/proc", os.O_RDONLY)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready[0])
            os.close(go[1])
            _kernel([word.replace("TAP", str(tap)) for word in plan["argv"]], ready[1], go[0], tap)
        except OSError as error:
            print(f"labkit: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(70)
    os.close(tap)
    os.close(ready[1])
    os.close(go[0])
    if os.read(ready[0], 1) == b".":
        _map(child, proc, plan["user"])
        os.write(go[1], b".")
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as failure:
        print(f"labkit: {failure}", file=sys.stderr)
        sys.exit(70)

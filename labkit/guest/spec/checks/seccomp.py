"""Seccomp: config-linux.md "Seccomp"."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

from ..context import Config, T
from ..registry import check

CHMOD = ["chmod", "fchmodat"]  # which one a libc calls depends on the architecture
NOBODY = 2**22 - 7  # a pid no process has in a new PID namespace
# What a statically linked busybox, and a runtime between loading the filter and exec, need.
NEEDED = """
access arch_prctl brk capget capset chdir clock_gettime clock_nanosleep clone clone3 close close_range dup dup2 dup3
epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 execve execveat exit exit_group faccessat faccessat2 fchdir
fcntl fcntl64 fdatasync fstat fstat64 fstatat64 fstatfs fsync futex futex_time64 getcwd getdents getdents64 getegid
getegid32 geteuid geteuid32 getgid getgid32 getpgid getpgrp getpid getppid getrandom getrlimit gettid gettimeofday
getuid getuid32 ioctl kill lseek _llseek lstat lstat64 madvise membarrier mmap mmap2 mprotect mremap munmap nanosleep
newfstatat open openat openat2 pipe pipe2 poll ppoll prctl pread64 prlimit64 pselect6 pwrite64 read readlink
readlinkat readv rseq riscv_flush_icache rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity
sched_yield seccomp sendmsg set_robust_list set_thread_area set_tid_address set_tls setgid setgid32 setgroups
setgroups32 setresgid setresuid setuid setuid32 sigaltstack sigreturn splice stat stat64 statfs statx tgkill tkill
umask uname wait4 waitid write writev
""".split()  # noqa: SIM905


def filtered(t: T, args: Any, seccomp: dict[str, Any]) -> Config:
    """A config with this filter, loaded as late as can be: a runtime needs few system calls after it."""
    if not any(line.startswith("Seccomp:") for line in Path("/proc/self/status").read_text().splitlines()):
        t.skip("the kernel has no seccomp")
    if t.feature("linux", "seccomp", "enabled") is False:
        t.skip("this runtime is built without seccomp")
    config = t.config(args)
    config["process"]["noNewPrivileges"] = True
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", **seccomp}
    return config


@check("SECC-001")
def rules(t: T) -> None:
    errno_ret = t.spec >= (1, 1, 0)

    def rule(names: list[str], action: str, *args: dict[str, Any], number: int = 0) -> dict[str, Any]:
        more = {"errnoRet": number} if number and errno_ret else {}
        return {"names": names, "action": action, **({"args": list(args)} if args else {}), **more}

    usr1, usr2 = int(signal.SIGUSR1), int(signal.SIGUSR2)
    config = filtered(
        t,
        f"""probe() {{ said=$("$@" 2>&1); echo "$*: $? $said"; }}
        probe chmod 700 /tmp; probe mkdir /tmp/new; probe mkfifo /tmp/fifo
        for s in {usr1} {usr2} 0 60; do probe kill -$s {NOBODY}; done; probe kill -{usr1} {NOBODY - 1}""",
        {
            "syscalls": [
                rule(CHMOD, "SCMP_ACT_ERRNO", number=errno.ENOSPC),
                rule(["mknod", "mknodat"], "SCMP_ACT_ERRNO"),
                rule(["mkdir", "mkdirat"], "SCMP_ACT_KILL"),
                rule(
                    ["kill"],
                    "SCMP_ACT_ERRNO",
                    {"index": 0, "value": NOBODY, "op": "SCMP_CMP_EQ"},
                    {"index": 1, "value": usr1, "op": "SCMP_CMP_EQ"},
                ),
                rule(["kill"], "SCMP_ACT_ERRNO", {"index": 1, "value": 50, "op": "SCMP_CMP_GE"}),
            ]
        },
    )
    said = dict(line.split(": ", 1) for line in t.run(config).stdout.splitlines() if ": " in line)
    eperm, esrch = os.strerror(errno.EPERM), os.strerror(errno.ESRCH)
    for probe, expected in (
        ("chmod 700 /tmp", os.strerror(errno.ENOSPC) if errno_ret else eperm),
        ("mkfifo /tmp/fifo", eperm),
        ("mkdir /tmp/new", f"{128 + signal.SIGSYS} "),
        (f"kill -{usr1} {NOBODY}", eperm),
        (f"kill -{usr1} {NOBODY - 1}", esrch),
        (f"kill -{usr2} {NOBODY}", esrch),
        (f"kill -0 {NOBODY}", esrch),
        (f"kill -60 {NOBODY}", eperm),
    ):
        answer = said.get(probe, "")
        t.true(answer.endswith(expected), f"filtered {probe}", expected, answer)


@check("SECC-002")
def default_errno(t: T) -> None:
    if t.spec < (1, 1, 0):
        t.skip("defaultErrnoRet is new in runtime-spec 1.1.0")
    seccomp: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENXIO,
        "syscalls": [{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}],
    }
    c = t.run(filtered(t, ["/bin/chmod", "700", "/tmp"], seccomp))
    t.true(os.strerror(errno.ENXIO) in c.stderr, "chmod fails with ENXIO", os.strerror(errno.ENXIO), c.stderr)
    for what, wrong in (
        ("defaultErrnoRet", {"defaultErrnoRet": 6}),
        ("errnoRet", {"syscalls": [{"names": CHMOD, "action": "SCMP_ACT_ALLOW", "errnoRet": 6}]}),
    ):
        t.refused(filtered(t, "true", wrong), f"create with {what} for SCMP_ACT_ALLOW")

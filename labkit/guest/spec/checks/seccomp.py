"""Seccomp: config-linux.md "Seccomp"."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from ...common.procfs import status
from ..context import Bundle, Config, T
from ..parts import Part, part
from ..registry import check

CHMOD = ["chmod", "fchmodat", "fchmodat2"]  # which one a libc calls depends on the architecture, and on its age
NOBODY = 2**22 - 7  # pids from here on no process has in a new PID namespace
USR1, USR2 = int(signal.SIGUSR1), int(signal.SIGUSR2)
KILLED = 128 + int(signal.SIGSYS)  # the exit status a shell tells
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


def need_seccomp(t: T) -> None:
    if not any(line.startswith("Seccomp:") for line in Path("/proc/self/status").read_text().splitlines()):
        t.skip("the kernel has no seccomp")
    if t.feature("linux", "seccomp", "enabled") is False:
        t.skip("this runtime is built without seccomp")


def filtered(t: T, args: Any, seccomp: dict[str, Any]) -> Config:
    """A config with this filter, loaded as late as can be: a runtime needs few system calls after it."""
    need_seccomp(t)
    config = t.config(args)
    config["process"]["noNewPrivileges"] = True
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", **seccomp}
    return config


def rule(names: list[str], action: str, *args: dict[str, Any], number: Optional[int] = None) -> dict[str, Any]:
    more = {} if number is None else {"errnoRet": number}
    return {"names": names, "action": f"SCMP_ACT_{action}", **({"args": list(args)} if args else {}), **more}


def arg(index: int, op: str, value: int, two: Optional[int] = None) -> dict[str, Any]:
    return {"index": index, "value": value, "op": f"SCMP_CMP_{op}", **({} if two is None else {"valueTwo": two})}


PROBE = 'probe() { said=$("$@" 2>&1); echo "$*: $? $said"; }'


def probing(probes: Iterable[str]) -> str:
    """A script that tells for each command line its exit status and what it said."""
    return "\n".join([PROBE, *(f"probe {probe}" for probe in probes)])


def answers(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def probed(t: T, probes: Iterable[str], seccomp: dict[str, Any]) -> dict[str, str]:
    return answers(t.run(filtered(t, probing(probes), seccomp)).stdout)


def judge(t: T, said: dict[str, str], expected: dict[str, tuple[str, str]]) -> None:
    """expected: command line -> what it shows, and how its answer ends."""
    for probe, (what, end) in expected.items():
        answer = said.get(probe, "")
        t.true(answer.endswith(end), what, end, answer)


def text(number: int) -> str:
    return os.strerror(number)


EPERM, ESRCH = text(errno.EPERM), text(errno.ESRCH)


def pids(id: str) -> int:
    """The first of 64 pids that nobody has, which the rules of this check are for."""
    return NOBODY - 64 * int(id[-3:])


@part("seccomp", "SECC-001")
def rules(t: T, bundle: Bundle) -> Part:
    need_seccomp(t)
    bundle.config["linux"]["seccomp"]["syscalls"] += [
        rule(["mknod", "mknodat"], "ERRNO"),
        rule(["lk_no_such_call", "link", "linkat"], "ERRNO"),
    ]
    expected = {
        "mkfifo /tmp/fifo": ("ERRNO without errnoRet is EPERM", EPERM),
        "ln /bin/busybox /tmp/ln": ("the names after one that is unknown", EPERM),
        "mkdir /tmp/lk-SECC-001": ("a call that no rule names", "0 "),
    }
    seen = yield probing(expected)
    judge(t, answers(seen.stdout), expected)


@part("seccomp", "SECC-026")
def errno_of_rules(t: T, bundle: Bundle) -> Part:
    need_seccomp(t)
    t.need_spec((1, 1, 0), "errnoRet")
    pid = pids(t.id)
    bundle.config["linux"]["seccomp"]["syscalls"] += [
        rule(CHMOD, "ERRNO", number=errno.ENOSPC),
        rule(["kill"], "ERRNO", arg(0, "EQ", pid), number=0),
        rule(["kill"], "ERRNO", arg(0, "EQ", pid + 1), number=4094),
    ]
    expected = {
        "chmod 700 /tmp": ("errnoRet of an ERRNO rule", text(errno.ENOSPC)),
        f"kill -{USR1} {pid}": ("errnoRet 0", "0 "),
        f"kill -{USR1} {pid + 1}": ("errnoRet 4094", text(4094)),
    }
    seen = yield probing(expected)
    judge(t, answers(seen.stdout), expected)


@part("seccomp", "SECC-004")
def actions(t: T, bundle: Bundle) -> Part:
    """ALLOW is the default: runtimes may drop a rule that says so."""
    yield from each_action(t, bundle, ["ALLOW", "LOG", "ERRNO", "TRACE", "TRAP", "KILL"])


@part("seccomp", "SECC-027")
def newer_actions(t: T, bundle: Bundle) -> Part:
    if t.spec < (1, 1, 0):
        t.skip("SCMP_ACT_KILL_THREAD and SCMP_ACT_KILL_PROCESS are new in runtime-spec 1.1.0")
    yield from each_action(t, bundle, ["KILL_THREAD", "KILL_PROCESS"])


def each_action(t: T, bundle: Bundle, names: list[str]) -> Part:
    """Each for a pid of its own; the shell's trap tells the signal of TRAP from a kill."""
    need_seccomp(t)
    pid = {name: pids(t.id) + number for number, name in enumerate(names)}
    bundle.config["linux"]["seccomp"]["syscalls"] += [rule(["kill"], name, arg(0, "EQ", pid[name])) for name in names]
    seen = yield "\n".join(
        f"""( said=$(sh -c 'trap "echo trapped; exit 7" SYS; kill -{USR1} {pid[name]}' 2>&1); echo {name}: $? $said )"""
        for name in names
    )
    said = answers(seen.stdout)
    expected = {"ALLOW": ESRCH, "LOG": ESRCH, "ERRNO": EPERM, "TRACE": text(errno.ENOSYS)}
    for name in names:
        answer = said.get(name, "")
        if name.startswith("KILL"):
            t.true(answer.split()[:1] == [str(KILLED)] and "trapped" not in answer, f"action {name}", KILLED, answer)
        elif name == "TRAP":
            caught = answer.startswith("7 ") and answer.endswith("trapped")
            t.true(caught, "action TRAP raises a signal that can be caught", "7 ... trapped", answer)
        else:
            t.true(answer.endswith(expected[name]), f"action {name}", expected[name], answer)


# Operator, its value (and second one), and which signal numbers it matches.
OPERATORS: list[tuple[str, int, Optional[int], list[int]]] = [
    ("NE", USR1, None, [9, 11, 12, 15]),
    ("LT", USR1, None, [9]),
    ("LE", USR1, None, [9, USR1]),
    ("EQ", USR1, None, [USR1]),
    ("GE", USR1, None, [USR1, 11, 12, 15]),
    ("GT", USR1, None, [11, 12, 15]),
    ("MASKED_EQ", 0b1010, 0b1010, [USR1, 11, 15]),  # value is the mask, valueTwo what is left
    ("MASKED_EQ", 0b0011, 0b0001, [9]),
]


@part("seccomp", "SECC-005")
def operators(t: T, bundle: Bundle) -> Part:
    need_seccomp(t)
    signals = sorted({9, USR1, 11, 12, 15})
    expected: dict[str, tuple[str, str]] = {}
    for number, (op, value, two, matched) in enumerate(OPERATORS):
        pid = pids(t.id) + number
        made = rule(["kill"], "ERRNO", arg(0, "EQ", pid), arg(1, op, value, two))
        bundle.config["linux"]["seccomp"]["syscalls"].append(made)
        for sent in signals:
            how = "matches" if sent in matched else "does not match"
            beside = "below" if sent < value else "above" if sent > value else "at"
            what = f"{op} {how} {beside} its value" if two is None else f"{op} {two} of mask {value} {how} {sent}"
            expected[f"kill -{sent} {pid}"] = (what, EPERM if sent in matched else ESRCH)
    seen = yield probing(expected)
    judge(t, answers(seen.stdout), expected)


@part("seccomp", "SECC-006")
def wide_values(t: T, bundle: Bundle) -> Part:
    """64 bits of value and argument, unsigned and exact: the length that ftruncate is given."""
    need_seccomp(t)
    if os.uname().machine not in ("x86_64", "aarch64", "ppc64le", "s390x", "riscv64", "loongarch64"):
        t.skip("arguments have 32 bits here")
    most = 2**63 - 1
    names = ["ftruncate"]
    bundle.config["linux"]["seccomp"]["syscalls"] += [
        rule(names, "ERRNO", arg(1, "EQ", 2**32 + 5)),
        rule(names, "ERRNO", arg(1, "EQ", 2**53 + 1)),
        rule(names, "ERRNO", arg(1, "GE", most)),
    ]
    lengths = {
        5: ("a 32-bit value is not one with more bits", True),
        2**32 + 5: ("a value of more than 32 bits", False),
        2**53: ("the value below one that a double cannot hold", True),
        2**53 + 1: ("a value that a double cannot hold", False),
        2**53 + 2: ("the value above one that a double cannot hold", True),
        most: ("the greatest signed value", False),
    }
    name = "/out/lk-SECC-006"  # on the suite's tmpfs, which has such lengths
    expected = {
        f"truncate -s {length} {name}": (what, "0 " if allowed else EPERM)
        for length, (what, allowed) in lengths.items()
    }
    seen = yield f"{probing(expected)}\nrm {name}"
    judge(t, answers(seen.stdout), expected)


@part("seccomp", "SECC-007")
def arguments(t: T, bundle: Bundle) -> Part:
    """Within a rule all arguments must match, of several rules for a call any."""
    need_seccomp(t)
    pid = pids(t.id)
    other = pid + 1
    bundle.config["linux"]["seccomp"]["syscalls"] += [
        rule(["kill"], "ERRNO", arg(0, "EQ", pid), arg(1, "EQ", USR1)),
        rule(["tkill", "kill"], "ERRNO", arg(1, "GE", 50)),
        rule(["kill"], "ERRNO", arg(0, "EQ", pid + 2)),
        rule(["kill"], "ERRNO", arg(0, "EQ", pid + 3), arg(1, "EQ", USR2)),
    ]
    expected = {
        f"kill -{USR1} {pid}": ("both arguments of a rule match", EPERM),
        f"kill -{USR1} {other}": ("the second argument alone", ESRCH),
        f"kill -{USR2} {pid}": ("the first argument alone", ESRCH),
        f"kill -0 {pid}": ("neither of the later arguments", ESRCH),
        f"kill -60 {pid}": ("the second of several rules", EPERM),
        f"kill -60 {other}": ("a rule without the first argument", EPERM),
        f"kill -{USR2} {pid + 2}": ("the third of several rules", EPERM),
        f"kill -{USR2} {pid + 3}": ("the last of several rules", EPERM),
        f"kill -{USR1} {pid + 3}": ("the last of several rules, another argument", ESRCH),
    }
    seen = yield probing(expected)
    judge(t, answers(seen.stdout), expected)


@check("SECC-008")
def default_action(t: T) -> None:
    """What no rule names gets the default action, and what one allows does not."""
    allowed = [rule(NEEDED, "ALLOW"), rule(["mkdir", "mkdirat"], "ALLOW")]
    said = probed(t, ["chmod 700 /tmp", "mkdir /tmp/new"], {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": allowed})
    expected = {"chmod 700 /tmp": ("defaultAction ERRNO is EPERM", EPERM), "mkdir /tmp/new": ("an allowed call", "0 ")}
    judge(t, said, expected)


@check("SECC-002")
def default_errno(t: T) -> None:
    t.need_spec((1, 1, 0), "defaultErrnoRet")
    seccomp: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENXIO,
        "syscalls": [rule(NEEDED, "ALLOW"), rule(["mkdir", "mkdirat"], "ERRNO")],
    }
    said = probed(t, ["chmod 700 /tmp", "mkdir /tmp/new"], seccomp)
    expected = {
        "chmod 700 /tmp": ("chmod fails with ENXIO", text(errno.ENXIO)),
        "mkdir /tmp/new": ("a rule's own errno stays EPERM", EPERM),
    }
    judge(t, said, expected)


def refused(t: T, what: str, wrong: dict[str, Any], valid: Optional[dict[str, Any]] = None) -> None:
    """Both are seccomp objects. valid: the same without the offence, a plain ERRNO rule where nothing else is."""
    plain = {"syscalls": [rule(CHMOD, "ERRNO")]}
    control = filtered(t, "true", valid or plain)
    t.refused(filtered(t, "true", wrong), f"create or start with {what}", by_start=True, valid=control)


@check("SECC-009")
def errno_of_other_actions(t: T) -> None:
    t.need_spec((1, 1, 0), "defaultErrnoRet")
    # The valid one comes first: crun keeps compiled filters, and knows this one again whatever its errnoRet.
    for what, valid, more in (
        ("defaultErrnoRet for SCMP_ACT_ALLOW", {"syscalls": [rule(CHMOD, "ERRNO")]}, {"defaultErrnoRet": 6}),
        ("errnoRet for SCMP_ACT_ALLOW", {"syscalls": [rule(CHMOD, "ALLOW")]}, {"errnoRet": 6}),
        ("errnoRet for SCMP_ACT_KILL", {"syscalls": [rule(CHMOD, "KILL")]}, {"errnoRet": 6}),
    ):
        control = t.try_create(filtered(t, "true", valid))
        config = filtered(t, "true", valid)
        seccomp = config["linux"]["seccomp"]
        (seccomp if "defaultErrnoRet" in more else seccomp["syscalls"][0]).update(more)
        t.refused(config, f"create or start with {what}", by_start=True, valid=control)


@check("SECC-010")
def unknown_action(t: T) -> None:
    refused(t, "an unknown action of a rule", {"syscalls": [rule(CHMOD, "ERRNO"), rule(["mknod"], "LK")]})
    refused(t, "an unknown default action", {"defaultAction": "SCMP_ACT_LK"})


@check("SECC-011")
def unknown_operator(t: T) -> None:
    valid = {"syscalls": [rule(["kill"], "ERRNO", arg(1, "EQ", 1))]}
    for what, op in (("an unknown operator", "SCMP_CMP_LK"), ("an empty operator", "")):
        wrong = {"syscalls": [rule(["kill"], "ERRNO", {**arg(1, "EQ", 1), "op": op})]}
        refused(t, what, wrong, valid)


@check("SECC-012")
def unknown_architecture(t: T) -> None:
    valid = {"architectures": [native()], "syscalls": [rule(CHMOD, "ERRNO")]}
    refused(t, "an unknown architecture", {**valid, "architectures": [native(), "SCMP_ARCH_LK"]}, valid)


@check("SECC-013")
def unknown_flag(t: T) -> None:
    """Beside one that most runtimes know, and alone, for a runtime may have no flags at all."""
    for what, flags in (("an unknown flag", ["LK"]), ("an unknown flag after a known one", ["LOG", "LK"])):
        seccomp = {"syscalls": [rule(CHMOD, "ERRNO")], "flags": [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags]}
        refused(t, what, seccomp)


@check("SECC-014")
def no_names(t: T) -> None:
    refused(t, "a rule of no names", {"syscalls": [rule(CHMOD, "ERRNO"), rule([], "ERRNO")]})


@check("SECC-015")
def argument_index(t: T) -> None:
    valid = {"syscalls": [rule(["kill"], "ERRNO", arg(5, "EQ", 1))]}
    refused(
        t, "an argument 6, which no system call has", {"syscalls": [rule(["kill"], "ERRNO", arg(6, "EQ", 1))]}, valid
    )


def native() -> str:
    machine = os.uname().machine
    return {"x86_64": "SCMP_ARCH_X86_64", "i686": "SCMP_ARCH_X86", "aarch64": "SCMP_ARCH_AARCH64"}.get(
        machine, f"SCMP_ARCH_{machine.upper()}"
    )


@check("SECC-016")
def filter_flags(t: T) -> None:
    """Which flags there are is the runtime's choice (config.md#valid-values); those that it takes must not harm."""
    known = ["TSYNC", "LOG", "SPEC_ALLOW"]
    if t.spec >= (1, 1, 0) and t.host.kernel >= (5, 19):
        known.append("WAIT_KILLABLE_RECV")
    seen = 0
    for flags in ([], known, *([flag] for flag in known)):
        if seen == 2:
            break  # all of them together
        seccomp = {"flags": [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags], "syscalls": [rule(CHMOD, "ERRNO")]}
        c = t.try_create(filtered(t, "cat /proc/1/status; chmod 700 /tmp", seccomp))
        if flags and not c.created.ok and not claims_flags(t, flags):
            continue
        seen += 1
        what = " ".join(flags) or "no flags"
        t.require(c.created.ok, f"create with {what} exits 0", 0, c.created.describe())
        t.require(c.start().ok, "start exits 0")
        t.require(c.ended(), "the process ends")
        t.equal(status(c.stdout).get("Seccomp"), "2", f"seccomp mode of the process with {what}")
        t.true(EPERM in c.stderr, f"the filter holds with {what}", EPERM, c.stderr)
    t.note("lists of flags that were taken", seen)


def claims_flags(t: T, flags: list[str]) -> bool:
    claimed = t.feature("linux", "seccomp", "supportedFlags")
    return isinstance(claimed, list) and {f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags} <= set(claimed)


# i386: chmod("/tmp", 0700) through int $0x80 from a 64-bit program, then exit_group(-result).
_I386_CHMOD = bytes.fromhex(
    "b80f000000"  # mov eax, 15 (chmod)
    "bb00004000"  # mov ebx, path: patched below
    "b9c0010000"  # mov ecx, 0700
    "cd80"  # int 0x80
    "f7d8"  # neg eax
    "89c3"  # mov ebx, eax
    "b8fc000000"  # mov eax, 252 (exit_group)
    "cd80"
)


def i386_program() -> bytes:
    """A static x86-64 program whose system calls are those of i386, which a filter sees as another architecture."""
    base, head = 0x400000, 64 + 56
    code = bytearray(_I386_CHMOD)
    code[6:10] = (base + head + len(code)).to_bytes(4, "little")
    body = bytes(code) + b"/tmp\0"

    def words(*numbers: tuple[int, int]) -> bytes:
        return b"".join(number.to_bytes(size, "little") for number, size in numbers)

    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += words((2, 2), (62, 2), (1, 4), (base + head, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (1, 2), (0, 6))
    size = head + len(body)
    elf += words((1, 4), (5, 4), (0, 8), (base, 8), (base, 8), (size, 8), (size, 8), (0x1000, 8))
    return elf + body


@check("SECC-017")
def architectures(t: T) -> None:
    """A rule holds for the calls of every architecture that is listed."""
    if os.uname().machine != "x86_64":
        t.skip("known for x86_64 alone, whose programs can make the system calls of another architecture")

    def bundle(*listed: str) -> Bundle:
        """Of a container whose program says by its exit status what i386's chmod gave."""
        seccomp: dict[str, Any] = {"architectures": [f"SCMP_ARCH_{name}" for name in listed]}
        seccomp["syscalls"] = [rule(CHMOD, "ERRNO", number=errno.ENOSPC if t.spec >= (1, 1, 0) else None)]
        config = filtered(t, "chmod 700 /tmp; /lk-i386; echo $?", seccomp)
        if not listed:
            del config["linux"]["seccomp"]
        made = t.bundle(config)
        (made.rootfs / "lk-i386").write_bytes(i386_program())
        (made.rootfs / "lk-i386").chmod(0o755)
        return made

    if t.run(bundle()).stdout.split() != ["0"]:
        t.skip("this kernel has no system calls of i386")
    wanted = errno.ENOSPC if t.spec >= (1, 1, 0) else errno.EPERM
    c = t.run(bundle("X86_64", "X86"))
    t.true(text(wanted) in c.stderr, "a rule for the first architecture listed", text(wanted), c.stderr)
    t.equal(c.stdout.split(), [str(wanted)], "a rule for the second architecture listed")


@part("seccomp", "SECC-018")
def for_every_process(t: T, bundle: Bundle) -> Part:
    """The filter is there for the program, which did not have to do anything, and for what it starts."""
    need_seccomp(t)
    pid = pids(t.id)
    bundle.config["linux"]["seccomp"]["syscalls"].append(rule(["kill"], "ERRNO", arg(0, "EQ", pid)))
    kill = f"kill -{USR1} {pid}"
    seen = yield f"{kill}; sh -c 'sh -c \"{kill}\"'; grep -h Seccomp: /proc/1/status /proc/self/status"
    t.equal(seen.stderr.count(EPERM), 2, "calls of the program and of a grandchild that fail")
    t.equal(seen.stdout.split()[1::2], ["2", "2"], "seccomp mode of the program and of a child")

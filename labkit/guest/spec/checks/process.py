"""The container's process and its host name: config.md#configProcess, #configHostname, #configDomainname."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Optional

from ...common.procfs import status
from ..context import Bundle, T
from ..parts import Part, part
from ..registry import check

STATUS = ["/bin/cat", "/proc/self/status"]
INFINITY = 2**64 - 1
# type: name in /proc/PID/limits, soft, hard. Large enough for the runtime's own steps after it has set them.
RLIMITS = {
    "RLIMIT_AS": ("Max address space", 1 << 40, 1 << 41),
    "RLIMIT_CORE": ("Max core file size", 0, 4096),
    "RLIMIT_CPU": ("Max cpu time", 1000, 2000),
    "RLIMIT_DATA": ("Max data size", 1 << 38, 1 << 39),
    "RLIMIT_FSIZE": ("Max file size", 1 << 30, 1 << 31),
    "RLIMIT_LOCKS": ("Max file locks", 100, 200),
    "RLIMIT_MEMLOCK": ("Max locked memory", 40960, 61440),
    "RLIMIT_MSGQUEUE": ("Max msgqueue size", 40000, 80000),
    "RLIMIT_NICE": ("Max nice priority", 3, 5),
    "RLIMIT_NOFILE": ("Max open files", 200, 300),
    "RLIMIT_NPROC": ("Max processes", 3000, 4000),
    "RLIMIT_RSS": ("Max resident set", 1 << 36, 1 << 37),
    "RLIMIT_RTPRIO": ("Max realtime priority", 2, 4),
    "RLIMIT_RTTIME": ("Max realtime timeout", 5000000, INFINITY),
    "RLIMIT_SIGPENDING": ("Max pending signals", 500, 700),
    "RLIMIT_STACK": ("Max stack size", 1 << 23, 1 << 24),
}
CAPABILITY_NUMBER = {
    "CAP_CHOWN": 0,
    "CAP_KILL": 5,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_SYS_CHROOT": 18,
    "CAP_MKNOD": 27,
}


@check("PROC-001")
def cwd(t: T) -> None:
    config = t.config(["/bin/pwd"])
    config["process"]["cwd"] = "/tmp"
    t.equal(t.run(config).stdout, "/tmp\n", "working directory of the process")
    config["process"]["cwd"] = "tmp"
    t.refused(config, "create or start with a relative cwd", by_start=True)


@check("PROC-002")
def env(t: T) -> None:
    # HOME is given because runtimes add it when it is missing.
    given = ["PATH=/bin", "HOME=/tmp", "LK_EQUALS=a=b=c", "LK_EMPTY=", "LK_TEXT= a \u00fc $PATH\n'\"\\ ", "lk.low-er=1"]
    config = t.config(["/bin/cat", "/proc/self/environ"])
    config["process"]["env"] = given
    found = t.run(config).stdout.rstrip("\0").split("\0")
    t.equal(sorted(found), sorted(given), "environment of the process")


@check("PROC-003")
def args(t: T) -> None:
    config = t.config(["lkprobe", "one two"])
    config["process"]["env"] = ["PATH=/opt/none:/opt/plain:/opt/good:/opt/late"]
    bundle = t.bundle(config)
    # execvp goes on after a directory that is not there and after a file that is not executable.
    for directory, mode in (("plain", 0o644), ("good", 0o755), ("late", 0o755)):
        program = bundle.rootfs / "opt" / directory / "lkprobe"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\necho {directory} "$#" "$1"\n')
        program.chmod(mode)
    t.equal(t.run(bundle).stdout, "good 1 one two\n", "args[0] searched in PATH of process.env")
    config["process"].update(args=["./late/lkprobe"], cwd="/opt")
    bundle.write(config)
    t.equal(t.run(bundle).stdout, "late 0 \n", "args[0] with a slash, relative to cwd")
    t.refused(t.config([]), "create or start with empty args", by_start=True)


@check("PROC-004")
def console_size(t: T) -> None:
    config = t.config("test -t 0 || test -t 1; echo $?")
    config["process"].update(terminal=False, consoleSize={"height": 24, "width": 80})
    t.equal(t.run(config).stdout, "1\n", "process without a terminal ran")


@check("PROC-005")
def user(t: T) -> None:
    config = t.config(STATUS)
    config["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 1002, 70000]}
    said = status(t.run(config).stdout)
    t.equal(said.get("Uid"), "1000 1000 1000 1000", "real, effective, saved, file system uid")
    t.equal(said.get("Gid"), "1001 1001 1001 1001", "real, effective, saved, file system gid")
    # POSIX leaves open whether getgroups() tells the effective group too.
    t.equal(set(said.get("Groups", "").split()) - {"1001"}, {"5", "1002", "70000"}, "supplementary groups")


@check("PROC-006")
def umask(t: T) -> None:
    if t.spec < (1, 0, 2):
        t.skip("process.user.umask is new in runtime-spec 1.0.2")
    config = t.config(STATUS)
    config["process"]["user"]["umask"] = 0o027
    t.equal(status(t.run(config).stdout).get("Umask"), "0027", "umask of the process")
    bundle = t.bundle(STATUS)
    before = os.umask(0o035)
    try:
        unset = t.run(bundle)
    finally:
        os.umask(before)
    t.note("umask 0035 of the caller, none configured", status(unset.stdout).get("Umask"))


def limits(text: str) -> dict[str, tuple[int, int]]:
    """The soft and hard limit of each line of a limits file."""
    lines = re.findall(r"^(Max .*?) {2,}(\d+|unlimited) +(\d+|unlimited)", text, re.MULTILINE)
    soft_hard = ((name, [INFINITY if value == "unlimited" else int(value) for value in pair]) for name, *pair in lines)
    return {name: (soft, hard) for name, (soft, hard) in soft_hard}


@check("RLIM-001")
def rlimits(t: T) -> None:
    config = t.config(["/bin/cat", "/proc/self/limits"])
    ours = limits(Path("/proc/self/limits").read_text())  # not above them: that needs CAP_SYS_RESOURCE
    wanted = {
        type: (min(soft, ours[name][1]), min(hard, ours[name][1])) for type, (name, soft, hard) in RLIMITS.items()
    }
    config["process"]["rlimits"] = [{"type": type, "soft": soft, "hard": hard} for type, (soft, hard) in wanted.items()]
    found = limits(t.run(config).stdout)
    for type, values in wanted.items():
        t.equal(found.get(RLIMITS[type][0]), values, f"soft and hard {type}")


@check("RLIM-002")
def rlimit_unknown(t: T) -> None:
    config = t.config()
    config["process"]["rlimits"] = [{"type": "RLIMIT_TEST", "soft": 10, "hard": 20}]
    t.refused(config, "create or start with an unknown rlimit type", by_start=True)


@check("RLIM-003")
def rlimit_duplicate(t: T) -> None:
    config = t.config()
    config["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "soft": soft, "hard": 20} for soft in (5, 10)]
    t.refused(config, "create or start with a duplicate rlimit type", by_start=True)


@check("CAP-001")
def capabilities(t: T) -> None:
    ambient = ["CAP_NET_BIND_SERVICE"]
    inheritable = [*ambient, "CAP_KILL"]
    full = list(CAPABILITY_NUMBER)
    # What execve makes of them, capabilities(7): for uid 0 permitted and effective become bounding | inheritable,
    # for others they become ambient.
    for uid, permitted in (0, full), (1000, ambient):
        config = t.config(STATUS)
        config["process"]["user"] = {"uid": uid, "gid": uid}
        sets = dict.fromkeys(("bounding", "effective", "permitted"), full)
        config["process"]["capabilities"] = {**sets, "inheritable": inheritable, "ambient": ambient}
        said = status(t.run(config).stdout)
        expected = {"Bnd": full, "Prm": permitted, "Eff": permitted, "Inh": inheritable, "Amb": ambient}
        for name, names in expected.items():
            mask = sum(1 << CAPABILITY_NUMBER[capability] for capability in names)
            t.equal(said.get(f"Cap{name}"), f"{mask:016x}", f"Cap{name} of uid {uid}")


@check("CAP-002")
def capability_unknown(t: T) -> None:
    config = t.config(STATUS)
    sets = config["process"]["capabilities"] = {
        name: ["CAP_KILL", "CAP_TEST"] for name in ("bounding", "effective", "permitted")
    }
    c = t.try_create(config)
    if not c.created.ok and t.spec <= (1, 0, 2):
        t.fails(c.created, f"create with {sets}")  # up to 1.0.2 it had to be an error
        return
    # A warning need not be shown to anyone: runtime.md#warnings.
    t.note("warning", c.stderr.strip())
    t.require(c.created.ok, "create with an unknown capability exits 0", 0, c.created.describe())
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    t.equal(status(c.stdout).get("CapBnd"), f"{1 << 5:016x}", "CapBnd, the known capability only")


@check("NNP-001")
def no_new_privileges(t: T) -> None:
    inherited = status(Path("/proc/self/status").read_text()).get("NoNewPrivs") == "1"  # cannot be undone
    for value, expected in (True, "1"), (False, "1" if inherited else "0"):
        config = t.config(STATUS)
        config["process"]["noNewPrivileges"] = value
        t.equal(status(t.run(config).stdout).get("NoNewPrivs"), expected, f"NoNewPrivs for {value}")


@check("OOM-001")
def oom_score_adj(t: T) -> None:
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    t.defer(own.write_text, before)
    own.write_text("55")
    cases: list[tuple[Optional[int], str]] = [(100, "100\n"), (0, "0\n"), (None, "55\n")]
    for value, expected in cases:
        config = t.config(["/bin/cat", "/proc/self/oom_score_adj"])
        if value is not None:
            config["process"]["oomScoreAdj"] = value
        t.equal(t.run(config).stdout, expected, f"oom_score_adj, oomScoreAdj {value}, caller's 55")


@part("root", "HOST-001")
def hostname(t: T, bundle: Bundle) -> Part:
    host = os.uname().nodename
    bundle.config["hostname"] = "lk-host.example.org"
    seen = yield "uname -n; read name </proc/sys/kernel/hostname; echo $name"
    t.equal(seen.stdout, "lk-host.example.org\n" * 2, "host name in the container")
    t.equal(os.uname().nodename, host, "host name of the host")


@part("root", "HOST-002")
def domainname(t: T, bundle: Bundle) -> Part:
    if t.spec < (1, 1, 0):
        t.skip("domainname is new in runtime-spec 1.1.0")
    own = Path("/proc/sys/kernel/domainname")
    host = own.read_text()
    bundle.config["domainname"] = "lk.example.org"
    seen = yield f"cat {own}"
    t.equal(seen.stdout, "lk.example.org\n", "domain name in the container")
    t.equal(own.read_text(), host, "domain name of the host")

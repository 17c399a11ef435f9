"""The container's process and its host name: config.md#configProcess, #configHostname, #configDomainname."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Optional

from ...common.procfs import status
from ..context import Bundle, Config, Container, T, drop_namespace
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
# The ends of the range: no limit at all, and none of it allowed. NOFILE has a ceiling of its own, fs.nr_open.
EXTREME_RLIMITS = {
    "RLIMIT_AS": (INFINITY, INFINITY),
    "RLIMIT_CORE": (0, 0),
    "RLIMIT_CPU": (1000, INFINITY),
    "RLIMIT_FSIZE": (INFINITY, INFINITY),
    "RLIMIT_MSGQUEUE": (0, INFINITY),
    "RLIMIT_STACK": (1 << 23, INFINITY),
}
CAPABILITY_NUMBER = {
    "CAP_CHOWN": 0,
    "CAP_KILL": 5,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_SYS_CHROOT": 18,
    "CAP_MKNOD": 27,
}
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


@part("root", "PROC-001")
def cwd(t: T, bundle: Bundle) -> Part:
    (bundle.rootfs / "lk-PROC-001/inner").mkdir(parents=True)
    bundle.config["process"]["cwd"] = "/lk-PROC-001/inner"
    seen = yield "/bin/pwd; readlink /proc/self/cwd"
    t.equal(seen.stdout, "/lk-PROC-001/inner\n" * 2, "working directory of the process")
    absolute = t.config()
    absolute["process"]["cwd"] = "/tmp"
    for what, wrong in (("relative", "tmp"), ("empty", "")):
        config = t.config()
        config["process"]["cwd"] = wrong
        t.refused(config, f"create or start with {what} cwd", by_start=True, valid=absolute)


@check("PROC-008")
def cwd_that_is_none(t: T) -> None:
    def config(directory: str) -> Config:
        made = t.config(["/bin/pwd"])
        made["process"]["cwd"] = directory
        return made

    c = t.try_create(config("/lk/none"))
    last = c.start() if c.created.ok else c.created
    if last.ok:
        t.require(c.ended(), "the process ends")
        t.equal(c.stdout, "/lk/none\n", "a cwd that is missing: the process runs there, or not at all")
    else:
        t.fails(last, "create or start with a cwd that is missing", valid=config("/tmp"), by_start=True)
    bundle = t.bundle(config("/lk-file"))
    (bundle.rootfs / "lk-file").touch()
    t.refused(bundle, "create or start with a cwd that is a file", by_start=True, valid=config("/tmp"))


@part("root", "PROC-002")
def env(t: T, bundle: Bundle) -> Part:
    given = bundle.config["process"]["env"]
    given += ["LK_EQUALS=a=b=c", "LK_EMPTY=", "LK_TEXT= a \u00fc $PATH\n'\"\\ ", "lk.low-er=1"]
    if not any(entry.startswith("HOME=") for entry in given):
        given.append("HOME=/tmp")  # runtimes add it when it is missing
    seen = yield "cat /proc/1/environ"
    found = seen.stdout.split("\0")[:-1]
    t.equal(sorted(found), sorted(bundle.config["process"]["env"]), "environment of the process")


@check("PROC-012")
def no_env(t: T) -> None:
    env = {"LK_OF_THE_RUNTIME": "1"}
    for what, given in (("absent", None), ("empty", [])):
        config = t.config(["/bin/cat", "/proc/self/environ"])
        config["process"].update(env=given)
        if given is None:
            del config["process"]["env"]
        found = t.run(config, env=env).stdout.split("\0")[:-1]
        # PATH is what execvp falls back to, HOME what a login would set: both runc and crun add one.
        more = sorted(entry for entry in found if entry.partition("=")[0] not in ("HOME", "PATH"))
        t.equal(more, [], f"environment where env is {what}")


@check("PROC-003")
def args(t: T) -> None:
    config = t.config(["lkprobe", "one two", "", "-x", "$HOME \u00fc\n*"])
    config["process"]["env"] = ["PATH=/opt/none:/opt/plain:/opt/good:/opt/late"]
    bundle = t.bundle(config)
    # execvp goes on after a directory that is not there and after a file that is not executable.
    for directory, mode in (("plain", 0o644), ("good", 0o755), ("late", 0o755)):
        program = bundle.rootfs / "opt" / directory / "lkprobe"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\necho {directory} "$#" "$1" "$2" "$3" "$4"\n')
        program.chmod(mode)
    t.equal(t.run(bundle).stdout, "good 4 one two  -x $HOME \u00fc\n*\n", "args[0] searched in PATH of process.env")
    config["process"].update(args=["./late/lkprobe"], cwd="/opt")
    bundle.write(config)
    t.equal(t.run(bundle).stdout, "late 0    \n", "args[0] with a slash, relative to cwd")
    t.refused(t.config([]), "create or start with empty args", by_start=True)


@check("PROC-011")
def no_program(t: T) -> None:
    valid: Optional[Container] = None
    # Others are for START-005 to START-007.
    wrong = [("a program that is a directory", "/opt/directory"), ("a program that is not in PATH", "program")]
    for what, word in [("", "/opt/program"), *wrong]:
        bundle = t.bundle([word])
        (bundle.rootfs / "opt/directory").mkdir(parents=True)
        (bundle.rootfs / "opt/program").write_text("#!/bin/sh\necho started\n")
        (bundle.rootfs / "opt/program").chmod(0o755)
        if valid:
            t.refused(bundle, f"create or start with {what}", by_start=True, valid=valid)
        else:
            valid = t.run(bundle)
            t.equal(valid.stdout, "started\n", "a program that can be executed")


@part("root", "PROC-004")
def console_size(t: T, bundle: Bundle) -> Part:
    bundle.config["process"].update(terminal=False, consoleSize={"height": 24, "width": 80})
    seen = yield "for fd in 0 1 2; do test -t /proc/1/fd/$fd && echo $fd; done; ls -l /proc/1/fd/ | grep -c /dev/pts/"
    t.equal(seen.stdout, "0\n", "process without a terminal runs")


@part("user", "PROC-005")
def user(t: T, bundle: Bundle) -> Part:
    given = bundle.config["process"]["user"]
    seen = yield "cat /proc/1/status; echo; id -u; id -g"
    said = status(seen.stdout.partition("\n\n")[0])
    uid, gid = given["uid"], given["gid"]
    t.equal(said.get("Uid"), f"{uid} {uid} {uid} {uid}", "real, effective, saved, file system uid")
    t.equal(said.get("Gid"), f"{gid} {gid} {gid} {gid}", "real, effective, saved, file system gid")
    # POSIX leaves open whether getgroups() tells the effective group too.
    groups = set(map(str, given["additionalGids"]))
    t.equal(set(said.get("Groups", "").split()) - {str(gid)}, groups, "supplementary groups")


@check("PROC-013")
def no_additional_groups(t: T) -> None:
    before = os.getgroups()
    try:
        os.setgroups([4711, 4712])
    except PermissionError:
        t.skip("this user namespace does not let groups be set")
    t.defer(os.setgroups, before)
    config = t.config(STATUS)
    config["process"]["user"] = {"uid": 1000, "gid": 1001}
    found = set(status(t.run(config).stdout).get("Groups", "").split()) - {"1001"}
    t.equal(found, set(), "supplementary groups where additionalGids is absent")


def told(t: T, said: dict[str, str], name: str) -> bool:
    """Whether the kernel of a container has this field in status: another kernel than the host's may not."""
    return t.sees_processes or name in said


@check("PROC-006")
def umask(t: T) -> None:
    t.need_spec((1, 0, 2), "process.user.umask")
    for text in ("0027", "0000"):
        config = t.config("umask")
        config["process"]["user"]["umask"] = int(text, 8)
        t.equal(t.run(config).stdout.strip(), text, f"umask of the process for {text}")


@check("PROC-007")
def umask_unset(t: T) -> None:
    bundle = t.bundle("umask")
    before = os.umask(0o035)
    try:
        unset = t.run(bundle)
    finally:
        os.umask(before)
    t.equal(unset.stdout.strip(), "0035", "umask of the process where none is configured")


def limits(text: str) -> dict[str, tuple[int, int]]:
    """The soft and hard limit of each line of a limits file."""
    lines = re.findall(r"^(Max .*?) {2,}(\d+|unlimited) +(\d+|unlimited)", text, re.MULTILINE)
    soft_hard = ((name, [INFINITY if value == "unlimited" else int(value) for value in pair]) for name, *pair in lines)
    return {name: (soft, hard) for name, (soft, hard) in soft_hard}


def rlimit(type: str, soft: int, hard: int) -> dict[str, Any]:
    return {"type": type, "soft": soft, "hard": hard}


def may_raise() -> bool:
    """This process has CAP_SYS_RESOURCE in the initial user namespace: limits may be above its own."""
    return bool(int(status(Path("/proc/self/status").read_text()).get("CapEff", "0"), 16) & 1 << 24)


@part("root", "RLIM-001")
def rlimits(t: T, bundle: Bundle) -> Part:
    ours = limits(Path("/proc/self/limits").read_text())  # not above them: that needs CAP_SYS_RESOURCE
    wanted = {
        type: (min(soft, ours[name][1]), min(hard, ours[name][1])) for type, (name, soft, hard) in RLIMITS.items()
    }
    bundle.config["process"]["rlimits"] = [rlimit(type, *values) for type, values in wanted.items()]
    seen = yield "cat /proc/1/limits"
    found = limits(seen.stdout)
    for type, values in wanted.items():
        t.equal(found.get(RLIMITS[type][0]), values, f"soft and hard {type}")


@part("user", "RLIM-004")
def extreme_rlimits(t: T, bundle: Bundle) -> Part:
    ours = limits(Path("/proc/self/limits").read_text())
    wanted = {
        type: values
        for type, values in EXTREME_RLIMITS.items()
        if (may_raise() and not t.host.in_user_namespace) or values[1] <= ours[RLIMITS[type][0]][1]
    }
    bundle.config["process"]["rlimits"] = [rlimit(type, *values) for type, values in wanted.items()]
    seen = yield "cat /proc/1/limits"
    found = limits(seen.stdout)
    for type, values in wanted.items():
        t.equal(found.get(RLIMITS[type][0]), values, f"soft and hard {type} at an end of its range")


def limited(t: T, *entries: dict[str, Any]) -> Config:
    config = t.config()
    config["process"]["rlimits"] = list(entries)
    return config


@check("RLIM-002")
def rlimit_unknown(t: T) -> None:
    core = rlimit("RLIMIT_CORE", 10, 20)
    for what, wrong in (("unknown", "RLIMIT_TEST"), ("empty", "")):
        config = limited(t, core, {**core, "type": wrong})
        t.refused(config, f"create or start with an rlimit of {what} type", by_start=True, valid=limited(t, core))


@check("RLIM-003")
def rlimit_duplicate(t: T) -> None:
    core = rlimit("RLIMIT_CORE", 10, 20)
    for what, other in (("the same", core), ("other", rlimit("RLIMIT_CORE", 5, 20))):
        config = limited(t, core, rlimit("RLIMIT_CPU", 1000, 2000), other)
        what = f"create or start with a duplicate rlimit type, {what} values"
        t.refused(config, what, by_start=True, valid=limited(t, core, rlimit("RLIMIT_CPU", 1000, 2000)))


@check("RLIM-005")
def soft_above_hard(t: T) -> None:
    valid = limited(t, rlimit("RLIMIT_CORE", 10, 10))
    wrong = limited(t, rlimit("RLIMIT_CORE", 11, 10))
    t.refused(wrong, "create or start with a soft limit above the hard one", by_start=True, valid=valid)
    wrong = limited(t, rlimit("RLIMIT_CORE", INFINITY, 10))
    t.refused(wrong, "create or start with no soft limit below a hard one", by_start=True, valid=valid)


def mask(names: list[str]) -> str:
    return f"{sum(1 << CAPABILITY_NUMBER[name] for name in names):016x}"


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
            if f"Cap{name}" in said or name != "Amb":
                t.equal(said.get(f"Cap{name}"), mask(names), f"Cap{name} of uid {uid}")


@check("CAP-004")
def absent_and_empty_capabilities(t: T) -> None:
    kept = ["CAP_KILL", "CAP_MKNOD"]
    for what, given, bounding in (
        ("one set", {"bounding": kept}, kept),
        ("empty sets", {name: [] for name in SETS}, []),
    ):
        config = t.config(STATUS)
        config["process"]["capabilities"] = given
        said = status(t.run(config).stdout)
        t.equal(said.get("CapBnd"), mask(bounding), f"CapBnd for {what}")
        t.equal(said.get("CapInh"), mask([]), f"CapInh for {what}")
        if "CapAmb" in said:
            t.equal(said["CapAmb"], mask([]), f"CapAmb for {what}")
        for name in ("CapPrm", "CapEff"):  # as configured, or as Linux's execve makes them for uid 0
            wanted = mask([]), mask(bounding)
            t.true(said.get(name) in wanted, f"{name} for {what}", wanted, said.get(name))


@check("CAP-005")
def permitted_capabilities(t: T) -> None:
    """With no_new_privs execve adds nothing to the permitted set, so it stays what it was made."""
    config = t.config(STATUS)
    config["process"]["noNewPrivileges"] = True
    kept = ["CAP_CHOWN", "CAP_KILL"]
    sets = {"bounding": [*kept, "CAP_SETUID", "CAP_MKNOD"], "permitted": kept, "effective": kept}
    config["process"]["capabilities"] = sets
    said = status(t.run(config).stdout)
    t.equal(said.get("CapBnd"), mask(sets["bounding"]), "CapBnd, wider than permitted")
    t.equal(said.get("CapPrm"), mask(kept), "CapPrm, narrower than bounding")
    t.equal(said.get("CapEff"), mask(kept), "CapEff, narrower than bounding")


def with_unknown_capability(t: T) -> Config:
    config = t.config(STATUS)
    config["process"]["capabilities"] = {
        name: ["CAP_KILL", "CAP_LKTEST"] for name in ("bounding", "effective", "permitted")
    }
    return config


@check("CAP-002")
def capability_unknown(t: T) -> None:
    """A warning need not be shown (runtime.md#runtimeWarnings): whoever wants it asks with --debug."""
    debug = t.shell('program="$1"; shift; exec "$program" --debug "$@"')
    said = ""
    for launch in ([], debug):
        c = t.try_create(with_unknown_capability(t), launch=launch)
        if not c.created.ok and not launch and t.spec <= (1, 0, 2):
            t.fails(c.created, "create with an unknown capability")  # up to 1.0.2 it had to be an error
            return
        said += c.created.stderr
        if c.created.ok:
            said += t.cli("start", c.id, launch=launch).stderr
            c.ended()
            said += c.stderr
            t.equal(status(c.stdout).get("CapBnd"), mask(["CAP_KILL"]), "CapBnd, the known capability only")
        if "lktest" in said.lower():
            break
    t.true("lktest" in said.lower(), "the warning about an unknown capability names it", "CAP_LKTEST", said[-300:])


@check("CAP-003")
def capability_not_granted(t: T) -> None:
    if t.spec <= (1, 0, 2):
        t.skip("up to runtime-spec 1.0.2 an unknown capability was an error")
    c = t.try_create(with_unknown_capability(t))
    t.require(c.created.ok, "create with an unknown capability exits 0", 0, c.created.describe())
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    t.equal(status(c.stdout).get("CapBnd"), mask(["CAP_KILL"]), "CapBnd, the known capability only")


def field(t: T, text: str, name: str) -> str:
    """Of a status file; the check is skipped where the container's kernel does not have it."""
    found = status(text)
    if "Uid" in found and name not in found:
        t.skip(f"/proc/PID/status of the container has no {name}")
    return found.get(name, "")


@part("user", "NNP-001")
def no_new_privileges(t: T, bundle: Bundle) -> Part:
    bundle.config["process"]["noNewPrivileges"] = True
    seen = yield "cat /proc/1/status"
    t.equal(field(t, seen.stdout, "NoNewPrivs"), "1", "NoNewPrivs for true")


@part("root", "NNP-002")
def new_privileges(t: T, bundle: Bundle) -> Part:
    bundle.config["process"]["noNewPrivileges"] = False
    if status(Path("/proc/self/status").read_text()).get("NoNewPrivs") == "1":
        t.skip("the suite itself runs with no_new_privs, which cannot be undone")
    seen = yield "cat /proc/1/status"
    t.equal(field(t, seen.stdout, "NoNewPrivs"), "0", "NoNewPrivs for false")


@check("OOM-001")
def oom_score_adj(t: T) -> None:
    found_by(t, "55", {0: "0", 1000: "1000"})


@check("OOM-002")
def oom_score_adj_unset(t: T) -> None:
    found_by(t, "55", {None: "55"})


def found_by(t: T, caller: str, cases: dict[Optional[int], str]) -> None:
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    t.defer(own.write_text, before)
    own.write_text(caller)
    for value, expected in cases.items():
        config = t.config(["/bin/cat", "/proc/self/oom_score_adj"])
        if value is not None:
            config["process"]["oomScoreAdj"] = value
        found = t.run(config).stdout
        t.need_processes()  # it is about a choice of the host's kernel
        t.equal(found, f"{expected}\n", f"oom_score_adj, oomScoreAdj {value}, caller's 55")


@check("OOM-003")
def oom_score_adj_out_of_range(t: T) -> None:
    valid = t.config()
    valid["process"]["oomScoreAdj"] = 1000
    config = t.config()
    config["process"]["oomScoreAdj"] = 1001
    t.refused(config, "create or start with an oomScoreAdj above 1000", by_start=True, valid=valid)


@part("root", "HOST-001")
def hostname(t: T, bundle: Bundle) -> Part:
    host = os.uname().nodename
    bundle.config["hostname"] = "lk-host.example.org"
    seen = yield "uname -n; read name </proc/sys/kernel/hostname; echo $name"
    t.equal(seen.stdout, "lk-host.example.org\n" * 2, "host name in the container")
    t.equal(os.uname().nodename, host, "host name of the host")


@part("root", "HOST-002")
def domainname(t: T, bundle: Bundle) -> Part:
    t.need_spec((1, 1, 0), "domainname")
    own = Path("/proc/sys/kernel/domainname")
    host = own.read_text()
    bundle.config["domainname"] = "lk.example.org"
    seen = yield f"cat {own}"
    t.equal(seen.stdout, "lk.example.org\n", "domain name in the container")
    t.equal(own.read_text(), host, "domain name of the host")


@check("HOST-003")
def hostname_of_the_runtime(t: T) -> None:
    """Without a UTS namespace of its own the container has the runtime's, and so does the name."""
    config = t.config(["/bin/uname", "-n"])
    drop_namespace(config, "uts")
    config["hostname"] = "lk-shared"
    without = t.config()
    drop_namespace(without, "uts")
    del without["hostname"]
    launch = [t.host.busybox, "unshare", "-u"]
    c = t.try_create(config, launch=launch)
    if not c.created.ok:
        t.fails(c.created, "create with a hostname and no uts namespace", valid=without)
        return
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the process ends")
    t.equal(c.stdout, "lk-shared\n", "host name in the runtime's uts namespace: it is set, or an error")

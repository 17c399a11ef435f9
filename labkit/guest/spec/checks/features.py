"""What a runtime claims in its Features structure: features.md, features-linux.md. Every claim is tried.

A claim says what is recognised, not that this host can do it: what the host cannot show is left out, and noted.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any, Callable, Optional, Union

from ...common.claims import parsed_version
from ...common.procfs import status
from ..context import SLEEPER, Bundle, Config, Container, T, repr_none
from ..process import Proc
from ..registry import check
from .hooks import KINDS, hook
from .lifecycle import SEMVER

# Syscalls that nothing in these containers calls.
UNUSED = ("acct", "quotactl", "swapon", "swapoff", "reboot", "settimeofday", "kexec_load", "init_module",
          "delete_module", "iopl", "ioperm", "vhangup")  # fmt: skip
BOOL, TEXTS = "true or false", "strings"
# Every property of any version, and since when it is defined. A dict: an object of these.
LINUX = {
    "namespaces": (TEXTS, (1, 1, 0)),
    "capabilities": (TEXTS, (1, 1, 0)),
    "cgroup": ({name: (BOOL, (1, 1, 0)) for name in ("v1", "v2", "systemd", "systemdUser", "rdma")}, (1, 1, 0)),
    "seccomp": (
        {
            "enabled": (BOOL, (1, 1, 0)),
            **{name: (TEXTS, (1, 1, 0)) for name in ("actions", "operators", "archs", "knownFlags", "supportedFlags")},
        },
        (1, 1, 0),
    ),
    "apparmor": ({"enabled": (BOOL, (1, 1, 0))}, (1, 1, 0)),
    "selinux": ({"enabled": (BOOL, (1, 1, 0))}, (1, 1, 0)),
    "intelRdt": (
        {"enabled": (BOOL, (1, 1, 0)), "schemata": (BOOL, (1, 3, 0)), "monitoring": (BOOL, (1, 3, 0))},
        (1, 1, 0),
    ),
    "mountExtensions": ({"idmap": ({"enabled": (BOOL, (1, 2, 0))}, (1, 2, 0))}, (1, 2, 0)),
    "memoryPolicy": ({"modes": (TEXTS, (1, 3, 0)), "flags": (TEXTS, (1, 3, 0))}, (1, 3, 0)),
    "netDevices": ({"enabled": (BOOL, (1, 3, 0))}, (1, 3, 0)),
}
PROPERTIES = {
    "ociVersionMin": ("a version", (1, 1, 0)),
    "ociVersionMax": ("a version", (1, 1, 0)),
    "hooks": (TEXTS, (1, 1, 0)),
    "mountOptions": (TEXTS, (1, 1, 0)),
    "annotations": ("strings by strings", (1, 1, 0)),
    "potentiallyUnsafeConfigAnnotations": (TEXTS, (1, 2, 0)),
    "linux": (LINUX, (1, 1, 0)),
}
Known = dict[str, Any]


def claimed(t: T, *keys: str) -> Any:
    """The value of a claim; the check is skipped where there is none. null is as good as absent."""
    if t.features is None:
        t.skip("the runtime prints no Features structure")
    value = t.feature(*keys)
    if value is None or value == []:
        t.skip(f"the runtime claims no {'.'.join(keys)}")
    return value


def names(t: T, *keys: str) -> list[str]:
    value = claimed(t, *keys)
    t.require(texts(value), f"features.{'.'.join(keys)}", "an array of strings", value)
    return list(value)


def texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


Maker = Callable[[list[str]], Union[Config, Bundle]]


def all_accepted(
    t: T, what: str, items: list[str], make: Maker, *, refusable: Callable[[str], bool] = lambda item: False
) -> Optional[Container]:
    """One container with all of them, less those that are refused: by name, else each is tried alone.

    refusable: what a library or the kernel may refuse although the runtime recognises it. It does where it refuses it
    with other words than what it cannot know.
    """
    left = list(items)
    while left:
        c = t.try_create(make(left))
        if c.created.ok:
            t.true(left, f"some claimed {what} is accepted")
            return c
        named = [item for item in left if mentions(c.created.words, item)] if len(left) > 1 else left
        if len(named) != 1:
            for item in left:
                judge_alone(t, what, item, t.try_create(make([item])).created, make, refusable)
            return None
        judge_alone(t, what, named[0], c.created, make, refusable)
        left.remove(named[0])
    return None


def judge_alone(t: T, what: str, item: str, created: Proc, make: Maker, refusable: Callable[[str], bool]) -> None:
    if not created.ok and refusable(item):
        no_such = "labkit-bogus"
        bogus = t.try_create(make([no_such])).created
        if bogus.ok or told(bogus).replace(no_such, item) != told(created):
            t.note(f"recognised, but refused: {item}", created.words)
            return
    t.true(created.ok, f"create with the claimed {what} {item}", "exit status 0", created.describe())


def told(created: Proc) -> str:
    """The last line of its complaint, without the numbers of a moment."""
    return re.sub(r"\d+", "#", created.stderr.strip().rpartition("\n")[2])


def mentions(words: str, item: str) -> bool:
    return bool(re.search(rf"(?<![\w-])(lk-)?{re.escape(item)}(?![\w-])", words))


@check("FEAT-001")
def is_json(t: T) -> None:
    """A runtime need not have one."""
    said = t.cli("features")
    if not said.ok:
        t.skip(f"the runtime prints no Features structure: {said.words}")
    try:
        value = json.loads(said.stdout)
    except ValueError:
        value = None
    t.true(isinstance(value, dict), "what features prints", "a JSON object", said.stdout[:200])


@check("FEAT-002")
def versions(t: T) -> None:
    if t.features is None:
        t.skip("the runtime prints no Features structure")
    bounds = {}
    for name in ("ociVersionMin", "ociVersionMax"):
        text = t.feature(name)
        t.true(isinstance(text, str) and SEMVER.fullmatch(text), f"features.{name}", "a version", repr_none(text))
        bounds[name] = parsed_version(text)
        if isinstance(text, str):
            config = t.config(SLEEPER)
            config["ociVersion"] = text
            created = t.try_create(config).created
            t.true(created.ok, f"create with the ociVersion that is {name}", "exit status 0", created.describe())
    least, most = bounds["ociVersionMin"], bounds["ociVersionMax"]
    if least and most:
        t.true(least <= most, "ociVersionMin is not above ociVersionMax", "at most", [least, most])


@check("FEAT-003")
def hooks(t: T) -> None:
    kinds = names(t, "hooks")
    bundle = t.bundle("true")
    bundle.config["hooks"] = {kind: [hook(bundle, kind, "true")] for kind in kinds}
    bundle.write(bundle.config)
    c = t.run(bundle)
    t.require(c.wait_stopped() and c.delete().ok, "stop and delete")
    for kind in kinds:
        t.true(bundle.read(f"{kind}.json"), f"the claimed hook {kind} runs")
    t.note("hooks of the specification that are not claimed", [kind for kind in KINDS if kind not in kinds])


@check("FEAT-004")
def mount_options(t: T) -> None:
    """An option that is not recognised is data for the file system, which refuses it."""
    options = names(t, "mountOptions")
    # Those need more than one mount, mappings, or a kernel with mandatory locks.
    left_out = ["remount", "idmap", "ridmap", "mand", "nomand", "acl", "noacl"]
    if t.host.kernel < (5, 12):
        left_out += [option for option in options if re.fullmatch(r"r(no)?[a-z]+", option) and option[1:] in options]
    t.note("left out", [option for option in options if option in left_out])

    def make(options: list[str]) -> Bundle:
        bundle = t.bundle(SLEEPER)
        for option in options:
            (bundle.rootfs / f"lk-{option}").mkdir()
            mount = {"destination": f"/lk-{option}", "type": "tmpfs", "source": "tmpfs", "options": [option]}
            if option in ("bind", "rbind"):
                mount.update(type="none", source="out")
            bundle.config["mounts"].append(mount)
        bundle.write(bundle.config)
        return bundle

    tried = [option for option in options if option not in left_out]
    all_accepted(t, "mount option", tried, make, refusable=lambda option: option not in MUST_OPTIONS)


MUST_OPTIONS = """
async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime noexec
noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime ro rprivate rshared rslave runbindable
rw shared silent slave strictatime suid sync unbindable""".split()  # noqa: SIM905


@check("FEAT-005")
def namespaces(t: T) -> None:
    types = names(t, "linux", "namespaces")
    missing = [type for type in types if not Path("/proc/self/ns", SHORT.get(type, "self")).exists() and type in SHORT]
    t.note("left out", missing)

    def config_of(types: list[str]) -> Config:
        config = t.config(SLEEPER)
        listed = config["linux"]["namespaces"]
        listed += [{"type": type} for type in types if type not in [one["type"] for one in listed]]
        if "user" in types:
            whole = [{"containerID": 0, "hostID": 0, "size": 65536}]
            config["linux"].update(uidMappings=whole, gidMappings=whole)
        return config

    tried = [type for type in types if type not in missing]
    c = all_accepted(t, "namespace type", [type for type in tried if type != "user"], config_of)
    if c is not None:
        for type in tried:
            if type != "user" and type in SHORT:
                path = f"ns/{SHORT[type]}"
                shared = Path(f"/proc/{c.pid}", path).stat().st_ino == Path("/proc/self", path).stat().st_ino
                t.true(not shared, f"a namespace of the claimed type {type} is made")
    if "user" in tried and t.tool("unshare", "-U", "true").ok and t.host.mapped >= 65536:
        created = t.try_create(config_of(["user"])).created
        t.true(created.ok, "create with the claimed namespace type user", "exit status 0", created.describe())


SHORT = {
    "cgroup": "cgroup", "ipc": "ipc", "mount": "mnt", "network": "net", "pid": "pid", "time": "time_for_children",
    "user": "user", "uts": "uts",
}  # fmt: skip
CAPABILITIES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE""".split()  # noqa: SIM905


@check("FEAT-006")
def capabilities(t: T) -> None:
    """What is recognised is granted, where this host has it to give."""
    listed = names(t, "linux", "capabilities")
    bits = {f"CAP_{name}": 1 << number for number, name in enumerate(CAPABILITIES)}
    here = int(status(Path("/proc/self/status").read_text())["CapBnd"], 16)
    able = [name for name in listed if bits.get(name, 0) & here]
    t.note("left out", [name for name in listed if name not in able])
    t.require(able, "a claimed capability that this host has", True, listed)
    if int(Path("/proc/sys/kernel/cap_last_cap").read_text()) < len(CAPABILITIES):
        unknown = [name for name in listed if name not in bits]
        t.equal(unknown, [], "claimed capabilities that no kernel has")
    config = t.config("cat /proc/self/status")
    config["process"]["capabilities"] = {name: able for name in ("bounding", "effective", "permitted")}
    granted = int(status(t.run(config).stdout).get("CapBnd", "0"), 16)
    lost = [name for name in able if not bits[name] & granted]
    t.equal(lost, [], "claimed capabilities that the process was not given")


@check("FEAT-007")
def types(t: T) -> None:
    if t.features is None:
        t.skip("the runtime prints no Features structure")
    assert t.features is not None

    def judge(value: Any, known: Known, path: str) -> None:
        for name, (kind, _) in known.items():
            item = value.get(name)
            what = f"features.{path}{name}"
            if item is None:
                t.true(not name.startswith("ociVersion"), what, kind, "None (absent)")
            elif isinstance(kind, dict):
                if t.true(isinstance(item, dict), what, "an object", item):
                    judge(item, kind, f"{path}{name}.")
            else:
                t.true(FITS[kind](item), what, kind, item)

    judge(t.features, PROPERTIES, "")


FITS: dict[str, Callable[[Any], object]] = {
    BOOL: lambda item: isinstance(item, bool),
    TEXTS: texts,
    "a version": lambda item: isinstance(item, str) and SEMVER.fullmatch(item),
    "strings by strings": lambda item: (
        isinstance(item, dict) and all(key and isinstance(value, str) for key, value in item.items())
    ),
}


@check("FEAT-008")
def no_other_properties(t: T) -> None:
    """Of the version that is claimed. One with a suffix is under way to the next, and may have what is new there."""
    text = str(claimed(t, "ociVersionMax"))
    most = parsed_version(text)
    t.require(most, "features.ociVersionMax", "a version", text)
    assert most and t.features is not None
    under_way = bool(re.search("[-+]", text))

    def unknown(value: Any, known: Known, path: str) -> list[str]:
        found = []
        for name, item in value.items():
            kind, since = known.get(name, (None, None))
            if since is None or (since > most and not under_way):
                found.append(f"{path}{name}")
            elif isinstance(kind, dict) and isinstance(item, dict):
                found += unknown(item, kind, f"{path}{name}.")
        return found

    t.equal(unknown(t.features, PROPERTIES, ""), [], "properties that the claimed version does not define")


def filtering(t: T, **seccomp: Any) -> Config:
    config = t.config(SLEEPER)
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", **seccomp}
    return config


def listening(t: T, seccomp: Config) -> None:
    """Give a profile that notifies an agent. What comes is not read."""
    path = t.work / f"agent-{t._count}"
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    t.defer(agent.close)
    agent.bind(str(path))
    agent.listen()
    seccomp["listenerPath"] = str(path)


@check("FEAT-009")
def seccomp_actions(t: T) -> None:
    actions = names(t, "linux", "seccomp", "actions")

    def config_of(actions: list[str]) -> Config:
        rules = [{"names": [UNUSED[number]], "action": action} for number, action in enumerate(actions)]
        # A rule that does what is done anyway is none.
        config = filtering(t, syscalls=[rule for rule in rules if rule["action"] != "SCMP_ACT_ALLOW"])
        if "SCMP_ACT_NOTIFY" in actions:
            listening(t, config["linux"]["seccomp"])
        return config

    all_accepted(t, "seccomp action", actions, config_of)


@check("FEAT-010")
def seccomp_operators(t: T) -> None:
    def config_of(operators: list[str]) -> Config:
        argument = {"index": 0, "value": 1, "valueTwo": 1}
        return filtering(
            t,
            syscalls=[
                {"names": [UNUSED[number]], "action": "SCMP_ACT_ERRNO", "args": [{**argument, "op": operator}]}
                for number, operator in enumerate(operators)
            ],
        )

    all_accepted(t, "seccomp operator", names(t, "linux", "seccomp", "operators"), config_of)


BIG_ENDIAN = ("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64",
              "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_SHEB",
              "SCMP_ARCH_M68K")  # fmt: skip


NATIVE = ("SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")


@check("FEAT-011")
def seccomp_archs(t: T) -> None:
    """libseccomp makes no filter for architectures of both byte orders."""
    archs = names(t, "linux", "seccomp", "archs")
    fitting = [arch for arch in archs if (arch in BIG_ENDIAN) == (sys.byteorder == "big")]
    t.note("left out", [arch for arch in archs if arch not in fitting])
    all_accepted(
        t,
        "seccomp architecture",
        fitting,
        lambda archs: filtering(t, architectures=archs),
        refusable=lambda arch: arch not in NATIVE,  # by a libseccomp older than it
    )


@check("FEAT-012")
def seccomp_flags(t: T) -> None:
    known, supported = t.feature("linux", "seccomp", "knownFlags"), names(t, "linux", "seccomp", "supportedFlags")
    if known is not None:
        t.equal([flag for flag in supported if flag not in known], [], "supported seccomp flags that are not known")

    def config_of(flags: list[str]) -> Config:
        config = filtering(t, flags=flags, syscalls=[{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}])
        if flags == [KILLABLE]:  # means something only where an agent is notified
            config["linux"]["seccomp"]["syscalls"][0]["action"] = "SCMP_ACT_NOTIFY"
            listening(t, config["linux"]["seccomp"])
        return config

    for flags in ([flag for flag in supported if flag != KILLABLE], [flag for flag in supported if flag == KILLABLE]):
        if flags:
            all_accepted(t, "seccomp flag", flags, config_of)


KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"


@check("FEAT-013")
def seccomp_enabled(t: T) -> None:
    enabled = claimed(t, "linux", "seccomp", "enabled")
    config = t.config("chmod 700 /tmp/mine; echo $?")
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}],
    }
    if not enabled:
        t.refused(config, "create with seccomp, which is claimed not to be supported")
        return
    bundle = t.bundle(config)
    (bundle.rootfs / "tmp/mine").touch(0o600)
    c = t.run(bundle)
    t.equal(c.stdout, "1\n", "status of a chmod that the claimed seccomp forbids")


MODES = {  # policy: its nodes, its flag, and the kernel that has it
    "MPOL_DEFAULT": ("", None, (2, 6)),
    "MPOL_PREFERRED": ("0", "MPOL_F_RELATIVE_NODES", (2, 6)),
    "MPOL_BIND": ("0", "MPOL_F_NUMA_BALANCING", (5, 12)),
    "MPOL_INTERLEAVE": ("0", "MPOL_F_STATIC_NODES", (2, 6)),
    "MPOL_LOCAL": ("", None, (3, 8)),
    "MPOL_PREFERRED_MANY": ("0", None, (5, 15)),
    "MPOL_WEIGHTED_INTERLEAVE": ("0", None, (6, 9)),
}


@check("FEAT-014")
def memory_policies(t: T) -> None:
    modes = names(t, "linux", "memoryPolicy", "modes")
    if not Path("/proc/self/numa_maps").exists():
        t.skip("this kernel has no NUMA memory policies")
    flags = t.feature("linux", "memoryPolicy", "flags") or []
    for mode in modes:
        nodes, flag, since = MODES.get(mode, ("0", None, (2, 6)))
        if t.host.kernel < since:
            continue
        config = t.config(SLEEPER)
        config["linux"]["memoryPolicy"] = {"mode": mode, "nodes": nodes}
        if flag in flags:
            config["linux"]["memoryPolicy"]["flags"] = [flag]
        created = t.try_create(config).created
        t.true(created.ok, f"create with the claimed memory policy {mode}", "exit status 0", created.describe())

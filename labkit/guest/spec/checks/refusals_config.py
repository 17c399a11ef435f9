"""Configurations that are none: config.md "Valid values" and the members that are REQUIRED, glossary.md "JSON".

Every offence is tried alone, in a configuration that works without it.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Callable

from ..context import SLEEPER, Bundle, Config, T
from ..registry import check

Change = Callable[[Config], object]
# Of a limit that may be 0, which a runtime may take for absent.
RLIMIT = {"type": "RLIMIT_CORE", "soft": 512, "hard": 1024}
DEVICE = {"path": "/dev/labkit", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0}
SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["acct"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]}
    ],
}
MOUNT = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k"]}


def put(*path: Any) -> Change:
    """Set what is at the keys and indexes before the last argument to the last argument."""
    *keys, last, value = path

    def change(config: Config) -> None:
        place: Any = config
        for key in keys:
            place = place[key]
        place[last] = copy.deepcopy(value)

    return change


def without(*path: Any) -> Change:
    *keys, last = path

    def change(config: Config) -> None:
        place: Any = config
        for key in keys:
            place = place[key]
        del place[last]

    return change


def all_refused(t: T, base: Change, offences: dict[str, Change]) -> None:
    """base: makes the configuration that works of a plain one."""
    valid = t.config(SLEEPER)
    base(valid)
    for what, offend in offences.items():
        config = t.config(SLEEPER)
        base(config)
        offend(config)
        t.refused(config, what, valid=valid)


def plain(config: Config) -> None:
    """Nothing more than every configuration has."""


def full_process(config: Config) -> None:
    config["process"].update(terminal=False, noNewPrivileges=True, oomScoreAdj=100, rlimits=[dict(RLIMIT)])
    config["process"]["user"]["additionalGids"] = [5]


def full_linux(config: Config) -> None:
    config["linux"].update(
        devices=[dict(DEVICE)],
        sysctl={"kernel.msgmax": "8192"},
        maskedPaths=["/proc/kcore"],
        readonlyPaths=["/proc/sys"],
        seccomp=copy.deepcopy(SECCOMP),
    )


def hooked(t: T) -> Change:
    """With a hook that reads its stdin: who writes there may get a SIGPIPE else."""
    return put("hooks", {"createRuntime": [{"path": t.host.busybox, "args": ["cat"], "env": ["A=b"], "timeout": 30}]})


@check("BUNDLE-002")
def malformed(t: T) -> None:
    for what, spoil in (
        ("an empty config.json", lambda text: ""),
        ("a config.json that is cut short", lambda text: text[:-20]),
        ("a config.json that is an array", lambda text: f"[{text}]"),
        ("a config.json with a comma too many", lambda text: text.replace('"root"', ',"root"', 1)),
    ):
        bundle = t.bundle(SLEEPER)
        rewrite(bundle, spoil)
        t.refused(bundle, f"create with {what}", valid=t.config(SLEEPER))


def rewrite(bundle: Bundle, change: Callable[[str], str]) -> None:
    path = bundle.path / "config.json"
    path.write_text(change(path.read_text()))


@check("CONF-006")
def empty_annotation_key(t: T) -> None:
    all_refused(
        t,
        put("annotations", {"org.example.labkit": "x"}),
        {"create with an empty annotation key": put("annotations", "", "x")},
    )


@check("CONF-007")
def annotation_values(t: T) -> None:
    all_refused(
        t,
        put("annotations", {"org.example.labkit": "x"}),
        {
            f"create with an annotation that is {what}": put("annotations", "org.example.labkit", value)
            for what, value in (("a number", 1), ("true", True), ("an object", {"a": "b"}), ("an array", ["x"]))
        },
    )


@check("CONF-008")
def duplicate_names(t: T) -> None:
    """The second of the two is what a reader that takes the last one would use: the offence is the only fault."""
    for what, name, twice in (
        ("the top", '"hostname"', '"hostname": "other", "hostname"'),
        ("process", '"cwd"', '"cwd": "/tmp", "cwd"'),
        ("a mount", '"destination"', '"destination": "/tmp", "destination"'),
    ):
        bundle = t.bundle(SLEEPER)
        rewrite(bundle, lambda text, name=name, twice=twice: text.replace(name, twice, 1))  # type: ignore[misc]
        t.refused(bundle, f"create with a name twice in {what}", valid=t.config(SLEEPER))


@check("CONF-009")
def not_utf_8(t: T) -> None:
    config = t.config(SLEEPER)
    config["annotations"] = {"org.example.labkit": "LABKIT"}
    bundle = t.bundle(config)
    path = bundle.path / "config.json"
    path.write_bytes(path.read_bytes().replace(b"LABKIT", b"caf\xe9"))
    t.refused(bundle, "create with a config.json that is not UTF-8", valid=config)


@check("CONF-010")
def any_order(t: T) -> None:
    """Names in reverse order, everything on one line, characters as escapes."""

    def reverse(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reverse(value[key]) for key in reversed(list(value))}
        return [reverse(item) for item in value] if isinstance(value, list) else value

    config = t.config('echo "$WORD"')
    config["process"]["env"].append("WORD=a\u00fc\u20ac/")
    bundle = t.bundle(config)
    path = bundle.path / "config.json"
    text = json.dumps(reverse(json.loads(path.read_text())), separators=(",", ":"))
    path.write_text(text.replace("echo", "\\u0065cho").replace("/", "\\/"))
    c = t.run(bundle)
    t.equal(c.stdout, "a\u00fc\u20ac/\n", "output of a program whose config.json is in another order")


@check("CONF-011")
def types_at_the_top(t: T) -> None:
    def base(config: Config) -> None:
        config["root"]["readonly"] = False
        config["annotations"] = {}

    all_refused(
        t,
        base,
        {
            "create with ociVersion a number": put("ociVersion", 1),
            "create with root a string": put("root", "rootfs"),
            "create with root.path a number": put("root", "path", 1),
            "create with root.readonly a string": put("root", "readonly", "true"),
            "create with hostname a number": put("hostname", 1),
            "create with mounts an object": put("mounts", {}),
            "create with annotations an array": put("annotations", ["org.example.labkit"]),
            "create with linux an array": put("linux", []),
        },
    )


@check("CONF-012")
def types_of_process(t: T) -> None:
    def offence(*path: Any) -> Change:
        return put("process", *path)

    all_refused(
        t,
        full_process,
        {
            "create with process an array": put("process", []),
            "create with cwd a number": offence("cwd", 1),
            "create with args a string": offence("args", "/bin/sleep 1000"),
            "create with a number in args": offence("args", 1, 1000),
            "create with env an object": offence("env", {"PATH": "/bin"}),
            "create with a number in env": offence("env", [1]),
            "create with terminal a string": offence("terminal", "false"),
            "create with user a string": offence("user", "root"),
            "create with uid a string": offence("user", "uid", "0"),
            "create with a negative uid": offence("user", "uid", -1),
            "create with a uid that is no integer": offence("user", "uid", 0.5),
            "create with a string in additionalGids": offence("user", "additionalGids", ["5"]),
            "create with noNewPrivileges a number": offence("noNewPrivileges", 1),
            "create with oomScoreAdj a string": offence("oomScoreAdj", "100"),
            "create with rlimits an object": offence("rlimits", dict(RLIMIT)),
            "create with a soft limit that is a string": offence("rlimits", 0, "soft", "512"),
            "create with a soft limit that is negative": offence("rlimits", 0, "soft", -512),
            "create with capabilities an array": offence("capabilities", ["CAP_KILL"]),
            "create with bounding a string": offence("capabilities", "bounding", "CAP_KILL"),
        },
    )


@check("CONF-013")
def types_of_mounts(t: T) -> None:
    def offence(key: str, value: Any) -> Change:
        return put("mounts", -1, key, value)

    all_refused(
        t,
        lambda config: config["mounts"].append(dict(MOUNT)),
        {
            "create with a mount that is a string": put("mounts", -1, "/tmp"),
            "create with destination a number": offence("destination", 1),
            "create with the type of a mount a number": offence("type", 1),
            "create with source a number": offence("source", 1),
            "create with options a string": offence("options", "nosuid,size=64k"),
            "create with a number in options": offence("options", [1]),
        },
    )


@check("CONF-014")
def types_of_linux(t: T) -> None:
    def offence(*path: Any) -> Change:
        return put("linux", *path)

    all_refused(
        t,
        full_linux,
        {
            "create with namespaces an object": offence("namespaces", {"type": "pid"}),
            "create with the type of a namespace a number": offence("namespaces", 0, "type", 1),
            "create with devices an object": offence("devices", dict(DEVICE)),
            "create with major a string": offence("devices", 0, "major", "1"),
            "create with fileMode a string": offence("devices", 0, "fileMode", "0666"),
            "create with cgroupsPath a number": offence("cgroupsPath", 1),
            "create with resources an array": offence("resources", []),
            "create with a limit that is a string": offence("resources", {"pids": {"limit": "100"}}),
            "create with sysctl an array": offence("sysctl", ["kernel.msgmax=8192"]),
            "create with a sysctl that is a number": offence("sysctl", "kernel.msgmax", 8192),
            "create with maskedPaths a string": offence("maskedPaths", "/proc/kcore"),
            "create with readonlyPaths a string": offence("readonlyPaths", "/proc/sys"),
            "create with rootfsPropagation a number": offence("rootfsPropagation", 1),
            "create with seccomp an array": offence("seccomp", []),
            "create with syscalls an object": offence("seccomp", "syscalls", SECCOMP["syscalls"][0]),
            "create with names a string": offence("seccomp", "syscalls", 0, "names", "acct"),
            "create with a seccomp value that is a string": offence("seccomp", "syscalls", 0, "args", 0, "value", "0"),
        },
    )


@check("CONF-015")
def types_of_hooks(t: T) -> None:
    def offence(key: str, value: Any) -> Change:
        return put("hooks", "createRuntime", 0, key, value)

    all_refused(
        t,
        hooked(t),
        {
            "create with hooks an array": put("hooks", []),
            "create with hooks of a kind an object": put(
                "hooks", "createRuntime", {"path": t.host.busybox, "args": ["cat"]}
            ),
            "create with a hook that is a string": put("hooks", "createRuntime", 0, t.host.busybox),
            "create with the path of a hook a number": offence("path", 1),
            "create with the args of a hook a string": offence("args", "cat"),
            "create with the env of a hook an object": offence("env", {"A": "b"}),
            "create with a timeout that is a string": offence("timeout", "30"),
            "create with a timeout that is no integer": offence("timeout", 1.5),
        },
    )


@check("CONF-016")
def required_root(t: T) -> None:
    all_refused(t, plain, {"create without root": without("root")})
    bundle = t.bundle(SLEEPER)  # a runtime that takes the bundle for the root file system finds one there
    for path in bundle.rootfs.iterdir():
        if not (bundle.path / path.name).exists():
            (bundle.path / path.name).symlink_to(path.relative_to(bundle.path))
    without("root", "path")(bundle.config)
    bundle.write(bundle.config)
    t.refused(bundle, "create without root.path", valid=t.config(SLEEPER))


@check("CONF-017")
def required_process(t: T) -> None:
    for key in ("cwd", "args"):
        config = t.config(SLEEPER)
        del config["process"][key]
        t.refused(config, f"create (or start) without {key}", valid=t.config(SLEEPER), by_start=True)


@check("CONF-018")
def required_ids(t: T) -> None:
    all_refused(t, plain, {f"create without {key}": without("process", "user", key) for key in ("uid", "gid")})


@check("CONF-019")
def required_mount(t: T) -> None:
    all_refused(
        t,
        lambda config: config["mounts"].append(dict(MOUNT)),
        {"create with a mount without destination": without("mounts", -1, "destination")},
    )


@check("CONF-020")
def required_linux(t: T) -> None:
    def base(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "network"})
        config["linux"]["devices"] = [dict(DEVICE)]

    all_refused(
        t,
        base,
        {
            "create with a namespace without type": without("linux", "namespaces", -1, "type"),
            "create with a device without type": without("linux", "devices", 0, "type"),
            "create with a device without path": without("linux", "devices", 0, "path"),
        },
    )


@check("CONF-021")
def required_rlimit(t: T) -> None:
    all_refused(
        t,
        full_process,
        {f"create with an rlimit without {key}": without("process", "rlimits", 0, key) for key in RLIMIT},
    )


@check("CONF-022")
def required_seccomp(t: T) -> None:
    rule = ("linux", "seccomp", "syscalls", 0)
    all_refused(
        t,
        full_linux,
        {
            "create with seccomp without defaultAction": without("linux", "seccomp", "defaultAction"),
            "create with a seccomp rule without names": without(*rule, "names"),
            "create with a seccomp rule without action": without(*rule, "action"),
            "create with a seccomp argument without index": without(*rule, "args", 0, "index"),
            "create with a seccomp argument without value": without(*rule, "args", 0, "value"),
            "create with a seccomp argument without op": without(*rule, "args", 0, "op"),
        },
    )


@check("CONF-023")
def required_hook_path(t: T) -> None:
    all_refused(t, hooked(t), {"create with a hook without path": without("hooks", "createRuntime", 0, "path")})

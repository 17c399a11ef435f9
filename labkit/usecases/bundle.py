"""The use case `bundle`: a root file system of any origin as an OCI bundle, for any runtime.

DIR/rootfs/      what `docker export` wrote, or any other archive of a root file system, or a directory
DIR/config.json  what the spec suite's containers have, and around it what keeps a stranger's programs in their place
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from labkit.core.errors import UsageError
from labkit.core.text import one_line, some
from labkit.guest.common.arguments import split_words
from labkit.guest.spec.context import plain_config
from labkit.io import rootfs
from labkit.io.files import disk_errors, make_directory, sweep, sync_directory, unfinished, write_atomic
from labkit.results.caller import schema

CONFIG = "config.json"
STDIN = "-"
_ROOTFS = "rootfs"
_SHELL = "sh"
_DEFAULT_VERSION = "1.0.2"  # all that stands in config.json is in it, and every runtime takes it
_NETWORKS = ("none", "host")
_LONGEST = 16 << 20  # bytes of a config.json
# Of /proc and /sys, what tells of the host or would change it: as `runc spec` has it.
_MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
]  # fmt: skip
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Asked:
    """What config.json is to say, as it was typed. config: a file that has all of it instead."""

    args: str | None = None
    env: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    hostname: str | None = None
    terminal: bool = False
    rootless: bool = False
    network: str | None = None
    spec_version: str | None = None
    config: Path | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was made. told: what is not as it was in the archive, or will not work, a sentence each."""

    directory: Path
    filled: rootfs.Filled
    told: tuple[str, ...]


def bundle(source: str, out: Path, asked: Asked) -> Bundle:
    """Make a bundle of the archive or directory source (`-`: an archive on stdin) in the new directory out, which is
    there whole or not at all, and which nobody else may enter: what is in it may be set-user-ID.

    Raises UsageError where something of that cannot be, with nothing written.
    """
    if out.is_symlink() or out.exists():
        raise UsageError(f"{out} is there already", hint="name a new directory, or remove it")
    given = None if source == STDIN else Path(source)
    if given is not None:
        if not given.exists():
            raise UsageError(f"--rootfs: {given} does not exist")
        if given.is_dir() and out.absolute().resolve().is_relative_to(given.resolve()):
            raise UsageError(f"{out} is in {given}, and would be copied into itself", hint="name another directory")
        if not given.is_dir() and not given.is_file() and not given.is_fifo():
            raise UsageError(f"--rootfs: {given} is neither a file nor a directory")
    config = _read(asked.config) if asked.config else configuration(asked)
    place = make_directory(out.absolute().parent)
    sweep(place)  # what a killed one left
    with disk_errors(place), unfinished(out.absolute()) as part:
        (part / _ROOTFS).mkdir(parents=True, mode=0o755)
        part.chmod(0o700)
        filled = rootfs.fill(given, part / _ROOTFS)
        _require_rootfs(part / _ROOTFS, source)
        told = (*filled.told, *_unrunnable(part / _ROOTFS, config, asked))
        write_atomic(part / CONFIG, json.dumps(config, indent=2) + "\n")
        part.rename(out.absolute())
        sync_directory(place)
    return Bundle(out, filled, told)


# --- config.json


def configuration(asked: Asked) -> dict[str, Any]:
    """The config.json of a bundle. UsageError where it cannot be what was asked for."""
    words = (asked.args or "", *asked.env, *asked.mounts)
    if odd := next((word for word in words if not _is_utf8(word)), None):
        raise UsageError(f"{one_line(odd, 100)!r} is no UTF-8, which all of config.json is")
    config = plain_config(_args(asked.args))
    process, linux = config["process"], config["linux"]
    process["env"] = _environment(process["env"], asked.env)
    process["terminal"] = asked.terminal
    config["hostname"] = _hostname(asked.hostname or config["hostname"])
    own = [mount for mount in config["mounts"] if mount["destination"] != "/out"]  # that is the suite's
    config["mounts"] = [*own, *_more_mounts(asked.rootless), *map(_mount, asked.mounts)]
    linux["namespaces"] += _network(asked.network or "none")
    linux |= {"maskedPaths": _MASKED, "readonlyPaths": _READONLY}
    if asked.rootless:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:  # no device but those that every container has
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {"ociVersion": _version(asked.spec_version or _DEFAULT_VERSION), **config}


def _is_utf8(word: str) -> bool:
    try:
        return bool(word.encode()) or True
    except UnicodeEncodeError:
        return False


def _args(text: str | None) -> list[str]:
    try:
        words = split_words(text) if text is not None else [_SHELL]
    except ValueError as error:
        raise UsageError(
            f"--args is {text!r}: {error}", hint="--args 'sh -c \"ls /\"', quoted as for a shell"
        ) from error
    if not words:
        raise UsageError("--args names no program")
    return words


def _environment(default: Sequence[str], more: Sequence[str]) -> list[str]:
    found = dict(entry.split("=", 1) for entry in default)
    for entry in more:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise UsageError(f"--env is {entry!r}, must be NAME=VALUE")
        found[name] = value
    return [f"{name}={value}" for name, value in found.items()]


def _hostname(name: str) -> str:
    if not _HOSTNAME.fullmatch(name):
        raise UsageError(f"--hostname is {name!r}, must be letters, digits, - and ., at most 64")
    return name


def _version(text: str) -> str:
    known = [".".join(map(str, numbers)) for numbers in schema.RELEASES]
    if text not in known:
        raise UsageError(f"--spec-version is {text!r}, must be a release of the runtime-spec: {', '.join(known)}")
    return text


def _network(word: str) -> list[dict[str, str]]:
    if word == "host":
        return []
    if word == "none":
        return [{"type": "network"}]
    path = Path(word)
    if not path.is_absolute():
        raise UsageError(f"--network is {word!r}, must be {', '.join(_NETWORKS)} or the path of a namespace")
    if not path.exists():
        raise UsageError(f"--network: {path} does not exist", hint=f"make it: ip netns add {path.name}")
    return [{"type": "network", "path": word}]


def _more_mounts(rootless: bool) -> list[dict[str, Any]]:
    bound = {"destination": "/sys", "type": "none", "source": "/sys"}
    quiet = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*quiet, "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
        # A user namespace may mount a sysfs only with a network namespace of its own.
        {**bound, "options": ["rbind", *quiet, "ro"]}
        if rootless
        else {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*quiet, "ro"]},
    ]


def _mount(text: str) -> dict[str, Any]:
    """SRC:DST, or SRC:DST:ro."""
    source, _, rest = text.partition(":")
    destination, _, option = rest.partition(":")
    if not source or not destination or option not in ("", "ro", "rw"):
        raise UsageError(f"--mount is {text!r}, must be SRC:DST or SRC:DST:ro; neither may have a colon in it")
    there = Path(source).expanduser().absolute()
    if not there.exists():
        raise UsageError(f"--mount {text}: {there} does not exist on this host")
    where = PurePosixPath(destination)
    if not where.is_absolute() or ".." in where.parts or str(where) == "/":
        raise UsageError(f"--mount {text}: {destination!r} must be an absolute path in the container, and not /")
    return {
        "destination": str(where),
        "type": "none",
        "source": str(there),
        "options": ["rbind", option or "rw"],
    }


def _read(file: Path) -> dict[str, Any]:
    """A config.json of somebody else's, with our root."""
    try:
        with file.open("rb") as opened:
            config = json.loads(opened.read(_LONGEST))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is no JSON: {one_line(str(error), 200)}") from error
    version = config.get("ociVersion") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not schema.schema_of(version):
        raise UsageError(
            f"{file} is no config.json of a bundle: it has no ociVersion",
            hint="oci-runtime-tool generate --output FILE, runc spec and podman write one",
        )
    root = config.get("root")
    config["root"] = {**(root if isinstance(root, dict) else {}), "path": _ROOTFS}
    if wrong := schema.errors(config, schema.schema_of(version)):
        places = some((f"{place}: {what}" for place, what in wrong), 3)
        raise UsageError(f"{file} is not what the schema of runtime-spec {version} takes: {places}")
    return config


# --- what is wrong with a root file system


def _require_rootfs(top: Path, source: str) -> None:
    """UsageError where the archive is not of a root file system, but of an image or of something around one."""
    names = {entry.name for entry in os.scandir(top)}
    what = f"what is in {source}" if source != STDIN else "what came on stdin"
    if names & {"oci-layout", "manifest.json", "repositories"} and not names & {"bin", "usr", "etc"}:
        raise UsageError(
            f"{what} is an image, not a root file system",
            hint="docker export of a container gives one: docker export $(docker create IMAGE); or umoci unpack",
        )
    if len(names) == 1 and (top / (only := names.pop())).is_dir() and not (top / only).is_symlink():
        inside = {entry.name for entry in os.scandir(top / only)}
        if inside & {"bin", "usr", "etc"} and only != "usr":
            raise UsageError(
                f"{what} is all below {one_line(only, 100)}/, so that nothing is where it should be",
                hint=f"tar -C {one_line(only, 100)} -c . | ./lab bundle --rootfs - --out DIR",
            )


def _unrunnable(top: Path, config: Mapping[str, Any], asked: Asked) -> list[str]:
    """What tells that the container's program is not there, where it is known; UsageError where nobody named it."""
    process = config.get("process")
    args = process.get("args") if isinstance(process, dict) else None
    if not isinstance(process, dict) or not isinstance(args, list) or not args or _finds(top, config, process, args[0]):
        return []
    if asked.args is None and asked.config is None:
        there = some(sorted(one_line(entry.name, 60) for entry in os.scandir(top)), 8)
        raise UsageError(
            f"the root file system has no {args[0]}, and --args does not name another program",
            hint=f"--args /PROGRAM; at its top are {there}",
        )
    return [f"the root file system has no {one_line(args[0], 200)}, which the container is to run"]


def _finds(top: Path, config: Mapping[str, Any], process: Mapping[str, Any], program: str) -> bool:
    """Whether a runtime finds it; also where it may, in what is mounted."""
    mounts = [PurePosixPath(mount["destination"]) for mount in config.get("mounts", ())]
    cwd = PurePosixPath(process.get("cwd") or "/")
    if "/" in program:
        places = [cwd / program]
    else:
        found = [entry.partition("=")[2] for entry in process.get("env", ()) if entry.startswith("PATH=")]
        places = [PurePosixPath(part or cwd) / program for path in found[:1] for part in path.split(":")]
    return any(
        _inside(top, place) or any(mount in place.parents or mount == place for mount in mounts) for place in places
    )


def _inside(top: Path, path: PurePosixPath) -> bool:
    """Whether there is a file of that path where top is the root, links followed as the kernel does then."""
    done, left, links = top, list(path.parts[1:]), 0
    while left:
        name = left.pop(0)
        if name in (".", ".."):
            done = done.parent if name == ".." and done != top else done
            continue
        if (done / name).is_symlink():
            links += 1
            if links > 40:
                return False
            target = (done / name).readlink()
            done = top if target.is_absolute() else done
            left = [*(part for part in target.parts if part != "/"), *left]
        elif (done / name).exists():
            done = done / name
        else:
            return False
    return done.is_file()

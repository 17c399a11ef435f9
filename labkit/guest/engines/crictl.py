"""The CRI plugin of containerd, with a daemon of its own, through crictl: each container is alone in a pod.

CRI is for a kubelet, and what that does this does: it asks until a container has ended, takes the exit status from its
status and the output from its log, and gives the masked and read-only paths that a kubelet gives.

Pods have a network namespace of their own with nothing in it. That takes CNI, whose plug-ins are scripts here: they
answer as if they had set something up.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Optional

from ..common.cgroups import CGROUP_ROOT, cgroup_version
from ..common.executables import find_program
from ..common.files import remove_tree
from .base import PAUSE, Asked, Broken, Cannot, Done, Engine, Options, Place
from .containerd import configuration, importing

_TABLES = """\
[plugins."io.containerd.internal.v1.opt"]
  path = "{data}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{data}/cni"
  conf_dir = "{data}/cni.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
  default_runtime_name = "under-test"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.under-test]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.under-test.options]
  BinaryName = "{runtime}"
"""
_NETWORK = {"cniVersion": "0.3.1", "name": "labkit", "plugins": [{"type": "nothing"}]}
# A pod without an address is an error of containerd and CRI-O: 192.0.2.0/24 is for documentation (RFC 5737).
_PLUGIN = """#!/bin/sh
cat >/dev/null
case $CNI_COMMAND in
  ADD) printf '{"cniVersion":"0.3.1","interfaces":[{"name":"%s","sandbox":"%s"}],"ips":[{"version":"4","address":"192.0.2.1/32","interface":0}]}' "$CNI_IFNAME" "$CNI_NETNS" ;;
  VERSION) echo '{"cniVersion":"0.3.1","supportedVersions":["0.3.1"]}' ;;
esac
"""  # noqa: E501
_CNI = Path("/var/lib/cni")  # where the library of CNI keeps what it did: there is no word to tell it otherwise
_PARENT = "labkit"  # the cgroup of all pods, which a kubelet would make
_MASKED = [
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"),
]
_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_EXIT = re.compile(r"command terminated with exit code ([0-9]+)")
_POLL = 0.1

Pairs = Iterable[tuple[str, str]]


def _mount(value: str) -> list[dict[str, str]]:
    source, _, target = value.partition(":")
    return [{"host_path": source, "container_path": target}]


def _user(value: str) -> dict[str, dict[str, int]]:
    user, _, group = value.partition(":")
    found = {"run_as_user": {"value": int(user)}}
    return {**found, "run_as_group": {"value": int(group)}} if group else found


def _device(value: str) -> list[dict[str, str]]:
    return [{**_mount(value)[0], "permissions": "rwm"}]


def _pair(value: str) -> dict[str, str]:
    key, _, text = value.partition("=")
    return {key: text}


def _variable(value: str) -> list[dict[str, str]]:
    return [{"key": key, "value": text} for key, text in _pair(value).items()]


# What CRI has for what is asked: where that is in PodSandboxConfig and ContainerConfig, and its value.
_SECURITY = "container.linux.security_context"
_FIELDS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "memory": ("container.linux.resources.memory_limit_in_bytes", int),
    "pids": ("container.linux.resources.unified", lambda value: {"pids.max": value}),
    "user": (_SECURITY, _user),
    "read-only": (f"{_SECURITY}.readonly_rootfs", bool),
    "device": ("container.devices", _device),
    "no-new-privileges": (f"{_SECURITY}.no_new_privs", bool),
    "sysctl": ("pod.linux.sysctls", _pair),
    "hostname": ("pod.hostname", str),
    "env": ("container.envs", _variable),
    "workdir": ("container.working_dir", str),
    "cap-drop": (f"{_SECURITY}.capabilities.drop_capabilities", lambda value: [value]),
    "volume": ("container.mounts", _mount),
}


class Crictl(Engine):
    name = "crictl"
    program = "containerd"
    step = "containerd"
    wants_pause = True
    asks: Mapping[str, str] = MappingProxyType({what: place for what, (place, _) in _FIELDS.items()})

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        crictl = find_program("crictl")
        if not crictl:
            raise Broken("crictl is not installed; ./lab test builds and sends it")
        if cgroup_version() != "v2":  # CRI has no limit of processes but as a file of cgroup v2
            self.asks = {what: word for what, word in self.asks.items() if what != "pids"}
        self._crictl = crictl
        self.socket = f"{place.run}/containerd.sock"
        self._containers: dict[str, str] = {}  # by name
        self._made_cni = False

    def version(self) -> str:
        return super().version().split()[2:3][0]

    def start(self) -> None:
        place = self.place
        (place.data / "crictl.yaml").write_text(f"runtime-endpoint: unix://{self.socket}\n")
        self._network()
        if cgroup_version() == "v2":
            (CGROUP_ROOT / _PARENT).mkdir(exist_ok=True)
        self.configure()
        self.serve()

    def configure(self) -> None:
        """Write its configuration."""
        place = self.place
        tables = _TABLES.format(data=place.data, runtime=place.runtime, pause=PAUSE)
        (place.data / "containerd.toml").write_text(configuration(place) + tables)

    def serve(self) -> None:
        """Start the daemon. Broken."""
        answers = [self._crictl, "--config", f"{self.place.data}/crictl.yaml", "version"]
        self.place.daemon(self.daemon(), answers)

    def daemon(self) -> list[str]:
        return [self.path, "--config", f"{self.place.data}/containerd.toml"]

    def _network(self) -> None:
        data = self.place.data
        for directory in ("cni", "cni.d"):
            (data / directory).mkdir(exist_ok=True)
        (data / "cni.d/labkit.conflist").write_text(json.dumps(_NETWORK))
        for name in ("nothing", "loopback"):
            (data / "cni" / name).write_text(_PLUGIN)
            (data / "cni" / name).chmod(0o755)
        self._made_cni = not _CNI.exists() or not any(_CNI.iterdir())  # by a run that was killed
        _CNI.mkdir(parents=True, exist_ok=True)
        self.place.command(["mount", "-t", "tmpfs", "tmpfs", str(_CNI)])

    def stop(self) -> None:
        super().stop()
        self.place.command(["umount", str(_CNI)])
        if self._made_cni:
            with suppress(OSError):
                _CNI.rmdir()

    def load(self, archive: Path, image: str) -> Done:
        """By ctr: CRI takes images from registries alone. The plugin hears of it a little later."""
        ctr = ["ctr", "--address", self.socket, "--namespace", "k8s.io"]
        done = self.place.command([*ctr, *importing(self.version(), archive)])
        deadline = time.monotonic() + 10
        while done.ok and time.monotonic() < deadline and not self._run("inspecti", "--quiet", image).ok:
            time.sleep(_POLL)
        return done

    def run(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        return self._to_its_end(name, image, command, _pairs(options), bool(options and options.terminal))

    def asked(self, name: str, image: str, command: Sequence[str], asked: Asked) -> Done:
        return self._to_its_end(name, image, command, asked.items())

    def _to_its_end(self, name: str, image: str, command: Sequence[str], asked: Pairs, terminal: bool = False) -> Done:
        began = time.monotonic()
        try:
            done = self._begin(name, image, command, asked, terminal)
            if not done.ok:
                return done
            status = self._status(name, began + self.place.limit)
            logs = self.logs(name)
            return Done(done.argv, status, logs.out, logs.err, time.monotonic() - began)
        finally:
            self.remove(name, force=True)

    def detach(self, name: str, image: str, command: Sequence[str], options: Optional[Options] = None) -> Done:
        return self._begin(name, image, command, _pairs(options), False)

    def _begin(self, name: str, image: str, command: Sequence[str], asked: Pairs, terminal: bool) -> Done:
        """Pod, container and start are one command of crictl."""
        if "pids" in dict(asked) and "pids" not in self.asks:
            raise Cannot("CRI has no limit of processes but by the files of cgroup v2")
        logs = self.place.data / "logs" / name
        remove_tree(logs)  # names come again, and a log goes on where it was
        logs.mkdir(parents=True)
        for what, config in _configs(name, image, command, asked, terminal, str(logs)).items():
            (self.place.data / f"{what}.json").write_text(json.dumps(config))
        pod, container = (f"{self.place.data}/{what}.json" for what in ("pod", "container"))
        done = self._run("run", "--no-pull", container, pod)
        if done.ok:
            self._containers[name] = done.out.strip()
        return done

    def _told(self, name: str) -> dict[str, Any]:
        """What is told of a container."""
        with suppress(ValueError):
            status = json.loads(self._run("inspect", "--quiet", "--output", "json", self._id(name)).out)["status"]
            if isinstance(status, dict):
                return status
        return {}

    def _status(self, name: str, deadline: float) -> Optional[int]:
        """Its exit status once it has ended; None where it does not in time."""
        while True:
            told = self._told(name)
            if told.get("state") != "CONTAINER_RUNNING":
                return int(told.get("exitCode", 0)) if told else 1
            if time.monotonic() > deadline:
                return None
            self.place.commands.pop()
            time.sleep(_POLL)

    def containers(self) -> list[str]:
        """Of the pods: a container may be missing where it could not be made."""
        with suppress(ValueError):
            pods = json.loads(self._run("pods", "--output", "json").out).get("items") or []
            return [str(pod["metadata"]["name"]) for pod in pods]
        return []

    def running(self, name: str) -> bool:
        return self._told(name).get("state") == "CONTAINER_RUNNING"

    def logs(self, name: str) -> Done:
        return self._run("logs", self._id(name))

    def execute(self, name: str, command: Sequence[str]) -> Done:
        """crictl fails with 1, and tells the status in words."""
        done = self._run("exec", self._id(name), *command)
        told = _EXIT.search(done.err)
        return Done(done.argv, int(told[1]), done.out, done.err, done.seconds) if told and not done.ok else done

    def stats(self, name: str) -> Done:
        done = self._run("stats", "--output", "json", self._id(name))
        with suppress(ValueError, LookupError, TypeError):
            [one] = json.loads(done.out)["stats"]
            shown = f"{one['cpu']['usageCoreNanoSeconds']['value']} {one['memory']['workingSetBytes']['value']}"
            return Done(done.argv, done.status, shown, done.err, done.seconds)
        return Done(done.argv, done.status or 1, "", f"no statistics of one container: {done.out}", done.seconds)

    def pause(self, name: str) -> Done:
        raise Cannot("CRI has no pause")

    def unpause(self, name: str) -> Done:
        raise Cannot("CRI has no pause")

    def again(self, name: str) -> Done:
        raise Cannot("CRI has no restart: a kubelet makes another container")

    def end(self, name: str, seconds: int) -> Done:
        return self._run("stop", "--timeout", str(seconds), self._id(name))

    def kill(self, name: str, number: str) -> Done:
        raise Cannot("CRI sends no signals")

    def wait(self, name: str) -> Done:
        status = self._status(name, time.monotonic() + self.place.limit)
        last = self.place.commands[-1]
        return Done(last.argv, last.status, str(status), last.err, last.seconds)

    def update(self, name: str, memory: int) -> Done:
        return self._run("update", "--memory", str(memory), self._id(name))

    def remove(self, name: str, force: bool = False) -> Done:
        """With its pod, by the name: what could not be made is listed, too, and its identifier was not told."""
        done = self._run("pods", "--quiet", "--no-trunc", "--name", f"^{re.escape(name)}$")
        pods = done.out.split()
        return self._run("rmp", *["--force"] * force, *pods) if pods else done

    def healthy(self, name: str, image: str, check: str) -> Done:
        raise Cannot("CRI has no health checks: a kubelet runs them")

    def _id(self, name: str) -> str:
        return self._containers.get(name, name)

    def _run(self, *words: str) -> Done:
        """In half of the time that there is: crictl doubles it for a pod."""
        limit = ["--timeout", f"{max(self.place.limit / 2 - 1, 1):.0f}s"]
        return self.place.command([self._crictl, "--config", f"{self.place.data}/crictl.yaml", *limit, *words])


def _pairs(options: Optional[Options]) -> list[tuple[str, str]]:
    options = options or Options()
    plain = {
        "memory": str(options.memory or ""),
        "pids": str(options.pids or ""),
        "user": options.user,
        "workdir": options.workdir,
        "read-only": "yes" * options.read_only,
        "hostname": options.hostname,
    }
    found = [(what, value) for what, value in plain.items() if value]
    found += [("env", f"{key}={value}") for key, value in options.env.items()]
    return found + [("volume", f"{source}:{target}") for source, target in options.volumes.items()]


def _configs(
    name: str, image: str, command: Sequence[str], asked: Pairs, terminal: bool, logs: str
) -> dict[str, dict[str, Any]]:
    """PodSandboxConfig and ContainerConfig, as JSON that crictl reads."""
    own = {"namespace_options": {"pid": 1}}  # one of the container's own: else its process 1 is the pod's
    found: dict[str, dict[str, Any]] = {
        "pod": {
            "metadata": {"name": name, "namespace": "labkit", "uid": name},
            "hostname": name,
            "log_directory": logs,
            "linux": {"cgroup_parent": f"/{_PARENT}", "security_context": own},
        },
        "container": {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": list(command),
            "log_path": "log",
            "tty": terminal,
            "linux": {
                "resources": {},
                "security_context": {**own, "masked_paths": _MASKED, "readonly_paths": _READONLY},
            },
        },
    }
    for what, value in asked:
        path, of = _FIELDS[what]
        _put(found, path, of(value))
    return found


def _put(where: dict[str, Any], path: str, value: object) -> None:
    """At a path: into what is there where that is a table or a list."""
    *way, last = path.split(".")
    for key in way:
        where = where.setdefault(key, {})
    if isinstance(value, dict):
        where.setdefault(last, {}).update(value)
    elif isinstance(value, list):
        where.setdefault(last, []).extend(value)
    else:
        where[last] = value


ENGINE = Crictl

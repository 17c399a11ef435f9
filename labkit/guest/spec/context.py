"""What a check works with: `T`, `Bundle`, `Container`. See the package docstring for how to write a check."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar, Union

from ..common.cgroups import CGROUP_ROOT
from ..common.claims import RuntimeClaims
from ..common.procfs import rooted_in
from . import process
from .cleanup import MARKER
from .host import PATH, Host, environment
from .process import Proc, read_text
from .rootless import impossible
from .transcript import Recorder

Config = dict[str, Any]
Value = TypeVar("Value")
CALL_TIMEOUT = 30.0  # seconds for one runtime call; emulated guests are slow
POLL = 0.015
SLEEPER = ["/bin/sleep", "1000"]  # args of a process that outlives every check
APPLETS = """sh ash cat ls stat echo printf test [ true false sleep id env pwd touch mkdir rmdir rm mv cp ln chmod chown
readlink realpath head tail wc grep sed awk cut tr sort uniq od hexdump dd df du mount umount mountpoint mknod mkfifo
uname hostname dnsdomainname kill killall ps nice renice ionice chrt setsid setpriv nsenter unshare ip ifconfig nc sync
sysctl tty stty date seq expr usleep timeout xargs find which free nproc taskset ulimit whoami tee md5sum sha256sum
dmesg swapon getopt mktemp fallocate truncate flock getfattr setfattr chroot stdbuf script basename dirname""".split()  # noqa: SIM905
CAPABILITIES = """CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_NET_BIND_SERVICE
CAP_SYS_CHROOT CAP_MKNOD""".split()  # noqa: SIM905


COMMANDS = frozenset(("create", "start", "state", "kill", "delete"))


class Stop(Exception):
    """Ends the check; its verdict follows from what it has found so far."""


class Skip(Exception):
    """Ends the check: the requirement cannot be tested on this host or runtime."""


@dataclass(frozen=True)
class SuiteRun:
    """What all checks of one run share. work: top directory, on a tmpfs; applets: those the busybox has; oci_version:
    what configs name; works: the commands of the runtime that have been seen to work on a plain container; processes:
    whether its containers' processes are the host's; cgroups: where those of containers may be made, see
    cleanup.cgroup_parents; private: the runtime has its records on a file system of this run, see place.hide; lacks:
    commands that the runtime is known not to have, with the reason; transcripts: what checks do is recorded, see
    transcript.py.
    """

    name: str
    host: Host
    claims: RuntimeClaims
    work: Path
    applets: tuple[str, ...]
    oci_version: str
    works: frozenset[str] = COMMANDS
    processes: bool = True
    cgroups: tuple[Path, ...] = ()
    private: bool = False
    attempt: int = 1
    lacks: Mapping[str, str] = field(default_factory=dict)
    transcripts: bool = False

    def again(self) -> SuiteRun:
        """For the next attempt of a check, which meets nothing of the last."""
        return replace(self, attempt=self.attempt + 1)

    def slot(self, id: str) -> str:
        return id if self.attempt == 1 else f"{id}.{self.attempt}"

    def marker(self, id: str) -> str:
        return f"{self.name}/{self.slot(id)}"

    def check_work(self, id: str) -> Path:
        return self.work / self.slot(id)

    def transcript(self, id: str) -> Path:
        return self.work / "transcripts" / self.slot(id)

    def ids(self, id: str) -> Path:
        """The check's list of container ids, beside the tmpfs so that it outlives it."""
        return self.work.parent / "ids" / self.slot(id)

    def cgroup(self, id: str) -> str:
        return f"/labkit-{self.name}/{self.slot(id)}"


def set_namespace(config: Config, type: str, path: Optional[str] = None) -> None:
    """List a namespace of this type (new, or the one at path) in place of one that may be there."""
    drop_namespace(config, type)
    config["linux"]["namespaces"].append({"type": type, **({"path": path} if path else {})})


def drop_namespace(config: Config, type: str) -> None:
    config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item.get("type") != type]


def plain_config(args: list[str]) -> Config:
    """What the configs of all checks have in common, but for their ociVersion and their cgroup."""
    return {
        "root": {"path": "rootfs"},
        "hostname": "labkit",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": [f"PATH={PATH}"],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {"destination": "/out", "type": "bind", "source": "out", "options": ["bind", "rw"]},
        ],
        "linux": {"namespaces": [{"type": type} for type in ("pid", "ipc", "uts", "mount")]},
    }


class Undelegated(Config):
    """`linux` of a config where no cgroup is delegated to us: a check that wants its cgroupsPath is skipped."""

    def __missing__(self, key: str) -> Any:
        if key == "cgroupsPath":
            raise Skip("no cgroup is delegated to this user")
        raise KeyError(key)

    def __delitem__(self, key: str) -> None:
        self[key]
        super().__delitem__(key)


class Bundle:
    """A bundle directory: config.json, rootfs/ with busybox, out/ (mounted at /out by the default config)."""

    def __init__(self, path: Path, config: Config, busybox: Path, applets: Sequence[str], recorder: Recorder) -> None:
        self.path = path
        self._recorder = recorder
        self.rootfs = path / "rootfs"
        self.out = path / "out"
        self.config = config
        self.rootfs.mkdir(parents=True)
        for directory in ("bin", "proc", "dev", "sys", "tmp", "out", "etc"):
            (self.rootfs / directory).mkdir()
        (self.rootfs / "tmp").chmod(0o1777)
        self.out.mkdir()
        self.out.chmod(0o1777)
        os.link(busybox, self.rootfs / "bin/busybox")
        bin = f"{self.rootfs}/bin/"
        for applet in applets:
            os.symlink("busybox", bin + applet)  # noqa: PTH211, of the many in each bundle none is a Path
        recorder.bundle(path)
        self.write(config)

    def write(self, config: Config) -> None:
        """Replace config.json. The source of /out is absolute there: a runtime that takes no relative one is to fail
        the check of those only.
        """
        self.config = config
        text = json.dumps(config, separators=(",\n", ": "))  # as with indent, but fast
        (self.path / "config.json").write_text(
            text.replace('"source": "out"', f'"source": {json.dumps(str(self.out))}')
        )

    def put(self, name: str, text: str = "") -> None:
        """Write a file that the container sees as /out/NAME."""
        (self.out / name).write_text(text)
        self._recorder.put(self.out / name)

    def read(self, name: str) -> Optional[str]:
        """The text of a file the container wrote to /out, or None."""
        try:
            return read_text(self.out / name)
        except OSError:
            return None


class Container:
    """A container id the runtime was asked to create."""

    def __init__(self, t: T, id: str, bundle: Bundle) -> None:
        self._t = t
        self.id = id
        self.bundle = bundle
        self.cgroup = t.cgroup
        self._pid: Optional[int] = None
        name = id.replace("/", "_")
        self._output = t.work / f"{name}.out", t.work / f"{name}.err"
        self.pid_file = t.work / f"{name}.pid"
        self.created: Proc

    def seen_by(self, t: T) -> Container:
        """The same container for another check: what that asks and requires is its own."""
        other = copy.copy(self)
        other._t = t
        return other

    def _create(self, argv: Sequence[str], **options: Any) -> None:
        self._t._note_container("+", self.id)
        self.created = self._t._call(argv, output=self._output, **options)
        if (self.created.status or -1) > 0:
            self._t._note_container("?", self.id)

    @property
    def pid(self) -> int:
        """The pid from the pid file, else from `state`; the check ends when there is none."""
        if self._pid is None:
            text = read_text(self.pid_file).strip() if self.pid_file.exists() else ""
            found = int(text) if text.isdigit() else self.read_state().get("pid")
            self._t.require(type(found) is int and found > 0, "pid of the container", "positive int", found)
            self._pid = found
            self._t._recorder.pid(found, self.pid_file)  # type: ignore[arg-type]
        return int(self._pid)  # type: ignore[arg-type]

    @property
    def stdout(self) -> str:
        """What create and the container's processes wrote so far."""
        return read_text(self._output[0])

    @property
    def stderr(self) -> str:
        return read_text(self._output[1])

    def start(self) -> Proc:
        return self._t.cli("start", self.id)

    def kill(self, signal: Optional[str] = "KILL") -> Proc:
        """None: no signal argument."""
        return self._t.cli("kill", self.id, *([signal] if signal else []))

    def delete(self, *, force: bool = False) -> Proc:
        done = self._t.cli("delete", *(["--force"] if force else []), self.id)
        if done.ok:
            self._t._note_container("-", self.id)
        return done

    def end(self) -> None:
        """It is needed no more. A runtime that deletes a container that runs may wait for it, runc for 0.1 s."""
        if self._t._suite.private and (left := rooted_in(self.bundle.rootfs)):
            for pid in left:
                process.end(pid)
        else:
            self.delete(force=True)

    def state(self) -> Proc:
        return self._t.cli("state", self.id)

    def read_state(self) -> dict[str, Any]:
        """The parsed state; the check ends when `state` fails or does not print a JSON object."""
        done = self.state()
        self._t.require(done.ok, "state exits 0", 0, done.describe())
        try:
            state = json.loads(done.stdout)
        except (ValueError, RecursionError):
            state = None
        self._t.require(isinstance(state, dict), "state prints a JSON object", "a JSON object", done.stdout)
        return dict(state)

    def status(self) -> Any:
        return self.read_state().get("status")

    def ended(self, timeout: float = 20) -> bool:
        """Wait for the process to end, without asking the runtime; False: it did not."""
        pid, began = self.pid, time.monotonic()
        done = process.wait_end(pid, min(timeout, self._t.remaining()))
        self._t._recorder.waited(time.monotonic() - began, self.pid_file)
        return done

    def wait_stopped(self, timeout: float = 20) -> bool:
        """Wait for the process to end and `state` to say "stopped" (or to know the id no more); False: it did not."""
        deadline = time.monotonic() + timeout
        if not self.ended(timeout):
            return False
        while True:
            done = self.state()
            with suppress(ValueError, AttributeError):
                if not done.ok or json.loads(done.stdout).get("status") == "stopped":
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)

    def exit_status(self, timeout: float = 10) -> Optional[int]:
        """How the container's process ended: its exit status, or minus the signal; None: not known (still runs)."""
        file = self._t._suite.work / "exits" / str(self.pid)
        text = self._t.wait_file(file, timeout)
        return int(text) if text else None

    def cgroup_dir(self, controller: str = "") -> Path:
        """The cgroup directory of the live process. controller: for v1, e.g. "pids"; ignored on v2."""
        for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            fits = not names if self._t.host.cgroup == "v2" else names and controller in names.split(",")
            if fits:
                wanted = self.bundle.config["linux"].get("cgroupsPath")
                if not wanted or wanted not in path:
                    self._t.need_processes()  # what stands for the container may be elsewhere
                return CGROUP_ROOT / names.replace("name=", "") / path.lstrip("/")
        raise Skip(f"no cgroup controller {controller}")


class T:
    """What a check is given: it runs containers, compares, and records what it finds."""

    def __init__(self, id: str, suite: SuiteRun, timeout: float, beside: Optional[T] = None) -> None:
        """beside: the check that holds the container which this one shares, and that is cleaned up with it."""
        self.id = id
        self.host = suite.host
        self.spec = suite.claims.spec
        self.features = suite.claims.features
        self.owner: str = beside.owner if beside else id
        self.work: Path = beside.work / id if beside else suite.check_work(id)
        self.failures: list[dict[str, Any]] = []
        self.notes: dict[str, Any] = {}
        self.commands: list[Proc] = []
        self.may_hang: list[Proc] = []  # those of the commands of which no judgement is made where they do
        self.unjudged: list[str] = []
        self.assertions = 0
        self._suite = suite
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._count = 0
        self._deferred: list[Callable[[], object]] = []
        self._spawned: list[subprocess.Popen[bytes]] = []
        file = suite.transcript(id) if suite.transcripts and not beside else None
        self._recorder = Recorder(file, self.work, suite.work / "busybox")

    @property
    def sees_processes(self) -> bool:
        """Whether containers' processes are the host's. Those of a runtime with a kernel of its own (gVisor, a VM) are
        not: the pid in its state is of something that stands for them, and /proc/PID says nothing of what is inside.
        """
        return self._suite.processes

    def need_processes(self) -> None:
        """Before a judgement that takes a process of the container on the host."""
        if not self.sees_processes:
            self.skip("only the host can show it, and the container's processes are not the host's")

    def feature(self, *keys: str) -> Any:
        """The value at this path in the output of the runtime's `features`, or None."""
        value: Any = self.features
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    # Configurations and bundles

    def config(self, args: Union[str, Sequence[str]] = "true") -> Config:
        """A small valid config. args: a busybox sh script, or argv. cgroupsPath is unique to this call."""
        self._count += 1
        linux: Config = {} if self.host.delegated else Undelegated()
        if self.host.delegated:
            linux["cgroupsPath"] = f"{self.cgroup}/{self._count}"
        config = plain_config(["/bin/sh", "-c", args] if isinstance(args, str) else list(args))
        linux.update(config["linux"])
        return {"ociVersion": self._suite.oci_version, **config, "linux": linux}

    def bundle(self, config: Union[Config, Bundle, str, Sequence[str], None] = None) -> Bundle:
        """A new bundle for a config (or for the args of one)."""
        if isinstance(config, Bundle):
            return config
        if not isinstance(config, dict):
            config = self.config("true" if config is None else config)
        self._count += 1
        busybox, applets = self._suite.work / "busybox", self._suite.applets
        return Bundle(self.work / f"bundle{self._count}", config, busybox, applets, self._recorder)

    def new_id(self) -> str:
        self._count += 1
        return f"labkit-{self._suite.name}-{self._suite.slot(self.id).lower()}-{self._count}"

    @property
    def marker(self) -> str:
        """What the environment of every process of this check has in it."""
        return self._suite.marker(self.owner)

    @property
    def cgroup(self) -> str:
        """The cgroup below which this check's containers are."""
        path = self._suite.cgroup(self.owner)
        return path if self.owner == self.id else f"{path}/{self.id}"

    # Running containers

    def try_create(
        self,
        bundle: Union[Config, Bundle, str, Sequence[str], None] = None,
        *,
        id: Optional[str] = None,
        options: Optional[Sequence[str]] = None,
        bundle_option: Optional[str] = None,
        pid_file: bool = True,
        **call: Any,
    ) -> Container:
        """`create`, not judged: look at `.created`.

        options: more words before the id. bundle_option: the word after --bundle, "" for no --bundle at all.
        call: as for cli (launch, cwd, env, stdin, pass_fds, timeout).
        """
        made = self.bundle(bundle)
        why = impossible(made.config, self.host.delegated) if self.host.in_user_namespace else ""
        if why:
            raise Skip(why)
        container = Container(self, id or self.new_id(), made)
        argv = ["create"]
        where = str(made.path) if bundle_option is None else bundle_option
        argv += ["--bundle", where] if where else []
        argv += ["--pid-file", str(container.pid_file)] if pid_file else []
        container._create([*argv, *(options or []), container.id], **call)
        return container

    def create(self, bundle: Union[Config, Bundle, str, Sequence[str], None] = None, **options: Any) -> Container:
        """`try_create` that must work, else the check ends."""
        container = self.try_create(bundle, **options)
        self.require(container.created.ok, "create exits 0", 0, container.created.describe())
        return container

    def run(self, bundle: Union[Config, Bundle, str, Sequence[str], None] = None, **options: Any) -> Container:
        """create, start, wait until the process ended; the check ends where one of them fails.

        The runtime may need a moment more to say so: wait_stopped() before an operation that depends on it.
        """
        container = self.create(bundle, **options)
        started = container.start()
        self.require(started.ok, "start exits 0", 0, started.describe())
        self.require(container.ended(), "the container's process ends", "ended", "still runs")
        return container

    def refused(
        self,
        bundle: Union[Config, Bundle, str, Sequence[str], None],
        what: str,
        *,
        valid: Union[Config, Bundle, Container, None] = None,
        by_start: bool = False,
        **options: Any,
    ) -> Container:
        """Expects `create` to fail. by_start: or `start`, which may be the one to apply properties of the process.

        valid: the same without the offence, or a container of it, see fails().
        """
        container = self.try_create(bundle, **options)
        last = container.start() if by_start and container.created.ok else container.created
        self.fails(last, what, valid=valid, by_start=by_start)
        return container

    def cli(
        self,
        *argv: str,
        timeout: float = CALL_TIMEOUT,
        cwd: Optional[Path] = None,
        env: Optional[Mapping[str, str]] = None,
        stdin: Optional[process.File] = None,
        pass_fds: Sequence[int] = (),
        launch: Sequence[str] = (),
    ) -> Proc:
        """Run the runtime with these arguments. env: added to the environment of the suite. timeout in seconds.

        launch: a command line the runtime's is appended to, e.g. t.shell('exec "$@" 7</dev/null').
        """
        return self._call(argv, timeout=timeout, cwd=cwd, env=env, stdin=stdin, pass_fds=pass_fds, launch=launch)

    def shell(self, script: str) -> list[str]:
        """For `launch`: a busybox sh that ends in `exec "$@"`."""
        return [self.host.busybox, "sh", "-c", script, "sh"]

    def tool(self, *argv: str, timeout: float = 10) -> Proc:
        """A busybox applet on the host (in the suite's mount namespace), e.g. t.tool("mount", "-t", "tmpfs", ...)."""
        return self.command(self.host.busybox, *argv, timeout=timeout)

    def command(self, *argv: str, timeout: float = 10) -> Proc:
        """A program on the host, in the suite's mount namespace."""
        return self._execute(argv, timeout=timeout)

    def spawn(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """A process beside the check, killed at its end. Output goes to /dev/null unless options say otherwise."""
        null = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
        self._recorder.before(argv, beside=True)
        child = subprocess.Popen(list(argv), **{**null, "env": self._environment(None), **options})
        self._recorder.pid(child.pid)
        self._spawned.append(child)
        return child

    def defer(self, function: Callable[..., object], *args: Any) -> None:
        self._deferred.append(lambda: function(*args))

    # Judging

    def true(self, cond: object, what: str, expected: Any = True, actual: Any = None) -> bool:
        """what names the behaviour: policies know a failure by it, so it has no paths, pids or other chance values."""
        self.assertions += 1
        if not cond:
            actual = bool(cond) if actual is None else actual
            self.failures.append({"finding": finding(what), "what": what, "expected": expected, "actual": actual})
            self._recorder.found(finding(what))
        return bool(cond)

    def equal(self, actual: Any, expected: Any, what: str) -> bool:
        return self.true(type(actual) is type(expected) and actual == expected, what, expected, repr_none(actual))

    def ok(self, proc: Proc, what: str) -> bool:
        """It exited 0."""
        return self.true(proc.ok, what, "exit status 0", proc.describe())

    def fails(
        self,
        proc: Proc,
        what: str,
        *,
        valid: Union[Config, Bundle, Container, None] = None,
        by_start: bool = False,
    ) -> bool:
        """It exited non-zero by itself: a crash by a signal or a hang is no refusal.

        A refusal shows something only where the same without the offence works. For a create, valid is that: a config
        (created once in a run, by whichever check needs it first), a bundle, or a container that was created; None: a
        plain t.config(). by_start: it has to start, too. Another command must have worked on a plain container. What
        cannot be judged so counts neither way, and where nothing else was judged the check is skipped.
        """
        refusal = (proc.status or -1) > 0
        why = self._control(proc, valid, by_start) if refusal else ""
        if why:
            self.unjudged.append(f"{what}: {why}")
            return True
        return self.true(refusal, what, "exit status not 0", proc.describe())

    def ended_by_themselves(self) -> None:
        """Judge that each call of the runtime did, whatever its answer: a check that may not ask whether a config is
        taken or refused would see neither a crash nor a hang.
        """
        for call in self.commands:
            if (call.status is None and call not in self.may_hang) or (call.status or 0) < 0:
                self.true(False, f"{call.command or 'the call'} ends by itself", "an exit status", call.describe())

    def _control(self, proc: Proc, valid: Union[Config, Bundle, Container, None], by_start: bool) -> str:
        """Why a refusal shows nothing, "" where it does."""
        if proc.command in COMMANDS - self._suite.works:
            return f"this runtime refuses every {proc.command}"
        if valid is None or proc.command not in ("create", "start"):
            return ""
        if isinstance(valid, Container):
            return "" if valid.created.ok else f"the same without the offence is refused, too: {valid.created.words}"
        if isinstance(valid, Bundle):
            return self._tried(valid, by_start)
        text = json.dumps([valid, by_start], sort_keys=True).replace(str(self.work), "")
        text = text.replace(self.cgroup, "")
        answer = self._suite.work / "controls" / hashlib.sha256(_NUMBERED.sub("", text).encode()).hexdigest()
        with answer.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits for the answer
            if not answer.exists():
                answer.write_text(self._tried(copy.deepcopy(valid), by_start))
        return answer.read_text()

    def _tried(self, valid: Union[Config, Bundle], by_start: bool) -> str:
        if isinstance(valid, dict) and "cgroupsPath" in valid.get("linux", {}):
            valid["linux"]["cgroupsPath"] += "-valid"
        control = self.try_create(valid)
        last = control.start() if by_start and control.created.ok else control.created
        if control.created.ok:
            control.end()
        return "" if last.ok else f"the same without the offence is refused, too: {last.words}"

    def require(self, cond: object, what: str, expected: Any = True, actual: Any = None) -> None:
        if not self.true(cond, what, expected, actual):
            raise Stop(what)

    def skip(self, reason: str) -> None:
        raise Skip(reason)

    def need_spec(self, version: tuple[int, int, int], what: str) -> None:
        """Skip where the runtime is held to a runtime-spec that does not have it yet."""
        if self.spec < version:
            self.skip(f"{what} is new in runtime-spec {'.'.join(map(str, version))}")

    def note(self, key: str, value: Any) -> None:
        """Evidence for the diagnostics; never changes the verdict."""
        self.notes[key] = value

    # Waiting

    def remaining(self) -> float:
        """Seconds until this check is killed."""
        return max(self._deadline - time.monotonic(), 0)

    def wait(self, function: Callable[[], Value], timeout: float = 10) -> Optional[Value]:
        """Call function, every 15 ms first, later every 100, until it returns something true; None after `timeout`
        seconds. A call costs milliseconds when the CPU is emulated, and other checks run beside this one."""
        began = time.monotonic()
        deadline = began + min(timeout, self.remaining())
        pause = POLL
        while True:
            value = function()
            left = deadline - time.monotonic()
            if value or left <= 0:
                self._recorder.waited(time.monotonic() - began)
                return value or None
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.1)

    def wait_file(self, path: Path, timeout: float = 10) -> Optional[str]:
        """The text of a file once it exists and is not empty; None if that takes too long."""

        def text() -> Optional[str]:
            try:
                return read_text(path)
            except OSError:
                return None

        return self.wait(text, timeout)

    def has(self, command: str) -> bool:
        """Whether the runtime is to be called for it: not where it is known to lack that."""
        return command not in self._suite.lacks

    # Not for checks

    def _environment(self, more: Optional[Mapping[str, str]]) -> dict[str, str]:
        return {**environment(self.work), MARKER: self.marker, **(more or {})}

    def _note_container(self, sign: str, id: str) -> None:
        if self._suite.private:
            return
        with self._suite.ids(self.owner).open("a") as file:
            file.write(f"{sign}{id}\n")

    def _call(self, argv: Sequence[str], launch: Sequence[str] = (), **options: Any) -> Proc:
        command = next((word for word in argv if word in self._suite.lacks), "")  # options may come before it
        if command:
            raise Skip(f"this runtime has no {command}: {self._suite.lacks[command]}")
        done = self._execute([*launch, *self.host.runtime, *argv], **options)
        done = replace(done, command=argv[0] if argv else "")
        self.commands.append(done)
        return done

    def _execute(
        self,
        argv: Sequence[str],
        *,
        output: Optional[tuple[Path, Path]] = None,
        timeout: float = CALL_TIMEOUT,
        env: Optional[Mapping[str, str]] = None,
        **options: Any,
    ) -> Proc:
        self._count += 1
        stdout, stderr = output or (self.work / f"{self._count}.out", self.work / f"{self._count}.err")
        timeout = min(timeout, self.remaining())
        self._recorder.before(argv, **_told(env, options))
        done = process.run(argv, stdout=stdout, stderr=stderr, timeout=timeout, env=self._environment(env), **options)
        self._recorder.after(done)
        return done

    def _begin(self) -> None:
        """Its time runs from now."""
        self._deadline = time.monotonic() + self._timeout

    def _finish(self) -> None:
        for function in reversed(self._deferred):
            with suppress(OSError):
                function()
        for child in self._spawned:
            child.kill()
            child.wait()


@dataclass(frozen=True)
class Seen:
    """What a check that shares a container is sent. c: the container, which runs; stdout, stderr: of its script."""

    c: Container
    stdout: str
    stderr: str


Part = Generator[str, Seen, None]
Maker = Callable[[T, Bundle], Part]
_NUMBERED = re.compile(r"/[0-9]+(?=\")|bundle[0-9]+")


def _told(env: Optional[Mapping[str, str]], options: Mapping[str, Any]) -> dict[str, Any]:
    """How a program is run, where that is not as usual, for the transcript."""
    told: dict[str, Any] = {"env": dict(env)} if env else {}
    if options.get("cwd"):
        told["cwd"] = str(options["cwd"])
    if options.get("stdin") is not None:
        file = options["stdin"]
        fd = file if isinstance(file, int) else file.fileno()
        with suppress(OSError):
            told["stdin"] = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    if options.get("pass_fds"):
        told["descriptors"] = list(options["pass_fds"])
    return told


def finding(what: str) -> str:
    """The name of a finding: `cpu.weight for 512 shares` is cpu-weight-for-512-shares."""
    return re.sub(r"[^a-z0-9]+", "-", what.lower()).strip("-")[:120]


def alive(pid: int) -> bool:
    """The process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def repr_none(value: Any) -> Any:
    return "None (absent)" if value is None else value

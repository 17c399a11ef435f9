"""A simulated qemu-system-x86_64: QMP, the agent's port, SSH by way of login.py, and a state that it saves and loads.

The guest is what labkit needs of one: files on a disk, memory that a halt keeps, an agent, an sshd, a suite. Its memory
knows what the disk held, so that memory loaded beside another disk shows, as it would in a kernel: files are gone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from .disk import BadDisk, Disk
from .stages import Stages

Json = dict[str, Any]
_STREAM = b"QEVM\0\0\0\3"
_ALONE = {"-S", "-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown", "-nographic", "-snapshot"}
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
CLIENT_KEY = "/root/.ssh/authorized_keys"


def options(words: list[str]) -> list[tuple[str, str]]:
    """The options of a command line, with their values; whatever they are."""
    rest, found = iter(words), []
    for word in rest:
        found.append((word, "" if word in _ALONE else next(rest, "")))
    return found


def fields(value: str) -> dict[str, str]:
    """`driver=file,filename=a` as a dict; the first word may stand alone."""
    pairs = re.split(r"(?<!,),(?!,)", value)
    return dict(
        pair.replace(",,", ",").partition("=")[::2] if "=" in pair else ("", pair.replace(",,", ",")) for pair in pairs
    )


class Guest:
    def __init__(self, disk: Disk, stages: Stages, console: Path | None) -> None:
        self.disk, self.stages = disk, stages
        self.lock = threading.RLock()
        self.status = "prelaunch"
        self.memory: Json = {}
        self.awake = threading.Event()  # its programs run
        self.up = threading.Event()  # it has booted
        self._console = console

    def say(self, text: str) -> None:
        if self._console:
            with contextlib.suppress(OSError), self._console.open("a") as file:
                file.write(f"{text}\r\n")

    def go(self) -> None:
        """Let it run: from the memory that was loaded, or from the beginning."""
        with self.lock:
            known = self.memory.get("disk")
            if known is not None and known != self.disk.digest:
                self.memory["corrupt"] = True
                self.say("EXT4-fs error (device vda): the disk is not the one that this memory knows")
            self.status = "running"
            self.write("/var/log/wakeups", str(int(self.disk.files.get("/var/log/wakeups", "0")) + 1))
            self.memory["disk"] = None  # from here on it changes
            if self.memory.get("booted"):
                self.up.set()
            self.awake.set()
        if not self.memory.get("booted"):
            threading.Thread(target=self._boot, daemon=True).start()

    def stop(self, status: str = "paused") -> None:
        with self.lock:
            self.status = status
            self.awake.clear()

    def _boot(self) -> None:
        self.say("Booting")
        self.stages.reach("boot")
        if self.stages.failure("boot") == "panic":
            self.panic()
        if self.stages.failure("boot") == "hang":
            return
        with self.lock:
            self.memory["booted"] = str(time.time_ns())
        self.say("Welcome")
        self.up.set()

    def panic(self) -> NoReturn:
        self.say("Kernel panic - not syncing: simulated")
        os._exit(0)  # -action panic=shutdown

    def write(self, name: str, text: str) -> bool:
        """Put a file on its disk; where the host's is full, QEMU stops the guest."""
        try:
            self.disk.write(name, text)
        except OSError:
            self.stop("io-error")
            return False
        return True

    def files(self) -> dict[str, str]:
        """What it sees; nothing that can be trusted where its memory fits the disk no more."""
        return {} if self.memory.get("corrupt") else {**self.disk.files, **self.memory.get("files", {})}

    def script(self, text: str) -> int:
        """Run a script as root; its exit status."""
        self.stages.reach("agent")
        if answer := self.stages.failure("agent"):
            return int(answer)
        for target, pattern in (
            (HOST_KEY, r"printf %s ((?:'[^']*'|\S)+) >/etc/ssh/ssh_host_ed25519_key\n"),
            (CLIENT_KEY, r"printf '%s\\n' (.+) >/root/.ssh/authorized_keys\n"),
            (CLIENT_KEY, r"echo (.+) >>/root/.ssh/authorized_keys"),
            ("/etc/hostname", r"printf '%s\\n' (.+) >/etc/hostname\n"),
            ("/etc/machine-id", r"printf '%s\\n' (.+) >/etc/machine-id\n"),
        ):
            if found := re.search(pattern, text):
                self.write(target, shlex.split(found[1])[0])
        return 0

    def command(self, words: list[str], given: Callable[[], bytes], say: Callable[[bytes], None]) -> int:
        """Run what sshd was asked to; its exit status."""
        if words[:1] == ["timeout"]:
            words = words[3:]
        if words[:1] == ["put"]:  # the test's own: put FILE TEXT
            return 0 if self.write(words[1], words[2]) else 1
        if words[:1] == ["cat"]:
            text = self.files().get(words[1])
            say((text or "").encode())
            return 0 if text is not None else 1
        if words[:2] == ["sh", "-c"] and words[2].startswith("# what is under test"):
            given()
            path = words[4] if words[4].startswith("/") else f"/usr/sbin/{words[4]}"
            facts = f"machine x86_64\nsha256 {'1' * 64}\npath {path}\nstate there\n"
            say(f"{facts}said\nrunc version 1.1.15\n\nstatus 0\n".encode())
            return 0
        if words[:1] == ["sh"] and "cat >" in words[2]:
            self.stages.reach("upload")
            given()
        if any(word.endswith("labkit-spec.pyz") for word in words) and "--runtime" in words:
            return self._suite(words, say)
        return 0

    def _suite(self, words: list[str], say: Callable[[bytes], None]) -> int:
        """What the spec suite prints, with a pass for everything."""
        self.stages.reach("suite")
        if self.stages.failure("suite"):
            return int(str(self.stages.failure("suite")))
        ids = words[words.index("--only") + 1].split(",") if "--only" in words else ["QUERY-001", "QUERY-002"]
        facts = {"runtime-path": "/usr/sbin/runc", "runtime-version": "1.1.15", "kernel": "6.1.0", "cgroup": "v2"}
        say(f"TAP version 14\n1..{len(ids)}\n".encode())
        say("".join(f"# {key}: {value}\n" for key, value in facts.items()).encode())
        for number, ident in enumerate(ids, 1):
            say(f'ok {number} - {ident} simulated\n  ---\n  id: "{ident}"\n  verdict: "pass"\n  ...\n'.encode())
            if number == 1:
                self.stages.reach("results")
        return 0

    # -- its memory, as a stream

    def saved(self) -> bytes:
        with self.lock:
            return _STREAM + json.dumps({**self.memory, "disk": self.disk.digest}).encode() + b"\nend"

    def load(self, data: bytes) -> None:
        if not data.startswith(_STREAM):
            raise ValueError("Not a migration stream")
        body, end, _ = data[len(_STREAM) :].partition(b"\nend")
        if not end:
            raise ValueError("load of migration failed: Input/output error")
        try:
            self.memory = json.loads(body)
        except ValueError:
            raise ValueError("load of migration failed: Invalid argument") from None


class Monitor:
    """QMP, one client at a time."""

    def __init__(self, path: str, guest: Guest, forwarded: tuple[str, int]) -> None:
        self._listener = listen(path)
        self._guest = guest
        self._forwarded = forwarded
        self._files: dict[str, int] = {}
        self.migration: Json = {}

    def serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client, contextlib.suppress(OSError):
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "simulated"}
        _send(client, {"QMP": {"version": version, "capabilities": ["oob"]}})
        buffer, passed = b"", []
        while True:
            data, fds, _, _ = socket.recv_fds(client, 1 << 16, 4)
            if not data:
                return
            passed += fds
            *lines, buffer = (buffer + data).split(b"\n")
            # The QMP library ends its messages with a line end, others may not.
            with contextlib.suppress(ValueError):
                json.loads(buffer)
                lines, buffer = [*lines, buffer], b""
            for line in lines:
                if line.strip():
                    request = json.loads(line)
                    self._answer(client, request, passed)

    def _answer(self, client: socket.socket, request: Json, passed: list[int]) -> None:
        name = str(request.get("execute", request.get("exec-oob")))
        ident = {"id": request["id"]} if "id" in request else {}
        arguments = request.get("arguments", {})
        guest = self._guest
        guest.stages.reach(f"qmp-{name}")
        if reason := guest.stages.failure(f"qmp-{name}"):
            _send(client, {"error": {"class": "GenericError", "desc": reason}, **ident})
            return
        value: object = {}
        match name:
            case "query-status":
                value = {"status": guest.status, "running": guest.status == "running", "singlestep": False}
            case "cont":
                if guest.status != "running":
                    guest.go()
            case "stop":
                guest.stop()
            case "quit":
                _send(client, {"return": {}, **ident})
                os._exit(0)
            case "system_powerdown":
                threading.Thread(target=self._power_down, daemon=True).start()
            case "getfd":
                if not passed:
                    _send(client, {"error": {"class": "GenericError", "desc": "No file descriptor supplied"}, **ident})
                    return
                self._files[arguments["fdname"]] = passed.pop()
            case "closefd":
                os.close(self._files.pop(arguments["fdname"]))
            case "migrate":
                self.migration = {"status": "active"}
                threading.Thread(target=self._migrate, args=(arguments["uri"],), daemon=True).start()
            case "query-migrate":
                value = self.migration
            case "human-monitor-command" if "usernet" in arguments["command-line"]:
                address, port = self._forwarded
                value = (
                    "Hub -1 (net0):\r\n"
                    "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
                    f"  TCP[HOST_FORWARD]  12       {address} {port}       10.0.2.15    22     0     0\r\n"
                )
            case "human-monitor-command":
                value = ""
            case "blockdev-snapshot-internal-sync":
                guest.disk.snapshot(arguments["name"])
            case "blockdev-snapshot-delete-internal-sync":
                guest.disk.forget(arguments["name"])
            case _ if name.startswith("query-") and name.endswith("s"):
                value = []
        _send(client, {"return": value, **ident})

    def _power_down(self) -> None:
        self._guest.stages.reach("powerdown")
        os._exit(0)

    def _migrate(self, uri: str) -> None:
        """Write the guest's memory where uri says."""
        guest = self._guest
        data = guest.saved()
        try:
            with _target(uri, self._files) as file:
                os.write(file, data[: len(data) // 2])
                guest.stages.reach("migrate")
                if reason := guest.stages.failure("migrate"):
                    raise OSError(28, reason)
                rest = data[len(data) // 2 :]
                while rest:
                    rest = rest[os.write(file, rest) :]
        except OSError as error:
            self.migration = {"status": "failed", "error-desc": f"Unable to write to socket: {error.strerror}"}
            return
        guest.status = "postmigrate"
        self.migration = {"status": "completed"}

    def incoming(self, uri: str) -> None:
        """Load a guest's memory, before anything else is done with it; QEMU ends where that fails."""
        guest = self._guest
        guest.status, self.migration = "inmigrate", {"status": "active"}
        guest.stages.reach("incoming")
        kind, _, rest = uri.partition(":")
        try:
            if reason := guest.stages.failure("incoming"):
                raise ValueError(reason)
            if kind == "exec":
                data = subprocess.run(["sh", "-c", rest], stdout=subprocess.PIPE, check=True).stdout
            else:
                with open(int(rest) if kind == "fd" else rest, "rb") as file:  # noqa: PTH123
                    data = file.read()
            guest.load(data)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            print(f"qemu-system-x86_64: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        guest.status, self.migration = "paused", {"status": "completed"}


@contextlib.contextmanager
def _target(uri: str, files: dict[str, int]) -> Iterator[int]:
    kind, _, rest = uri.partition(":")
    if kind == "fd":
        file = files.pop(rest) if rest in files else int(rest)
        try:
            yield file
        finally:
            os.close(file)
    elif kind == "exec":
        child = subprocess.Popen(["sh", "-c", rest], stdin=subprocess.PIPE)
        assert child.stdin
        with child.stdin:
            yield child.stdin.fileno()
        if child.wait():
            raise OSError(28, "No space left on device")
    else:
        file = os.open(rest, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            yield file
        finally:
            os.close(file)


def _send(client: socket.socket, message: Json) -> None:
    client.sendall(json.dumps(message).encode() + b"\r\n")


def listen(path: str) -> socket.socket:
    if not path.startswith("\0"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(8)
    return listener


def agent(path: str, guest: Guest) -> Callable[[], None]:
    """The agent's port: one line of base64 in; out comes what the script's own trap says, and then its status."""
    listener = listen(path)

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError), client.makefile("rwb", buffering=0) as file:
                for line in file:
                    guest.up.wait()
                    guest.awake.wait()
                    script = base64.b64decode(line).decode()
                    status = guest.script(script)
                    if token := re.match(r"trap 'echo (\w+) \$\? >&3' EXIT\n", script):
                        file.write(f"{token[1]} {status}\n".encode())
                    file.write(f"{status}\n".encode())

    return serve


def control(name: str, guest: Guest) -> Callable[[], None]:
    """What login.py asks for its clients: the keys, and commands to be run. One JSON line, then the command's input."""
    listener = listen(name)

    def handle(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), client.makefile("rb") as file:

            def say(data: bytes) -> None:
                _send(client, {"out": base64.b64encode(data).decode()})

            request = json.loads(file.readline())
            if "command" not in request:
                _send(client, {name: guest.files().get(name, "") for name in (HOST_KEY, CLIENT_KEY)})
                return
            guest.awake.wait()
            status = guest.command(shlex.split(request["command"]), file.read, say)
            _send(client, {"status": status})

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=handle, args=(client,), daemon=True).start()

    return serve


def forward(listener: socket.socket, guest: Guest, login: str, name: str) -> Callable[[], None]:
    """Hand connections to the forwarded port on to login.py, as long as the guest runs."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                guest.awake.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def handle(client: socket.socket) -> None:
        guest.up.wait()
        guest.awake.wait()
        guest.stages.reach("login")
        server = socket.socket(socket.AF_UNIX)
        with client, server:
            if guest.stages.failure("login"):
                return
            server.connect(login)
            server.sendall(name.encode() + b"\n")
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join()

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=handle, args=(client,), daemon=True).start()

    return serve


def main(argv: list[str], folder: Path) -> int:
    """folder: of the programs; login.sock there leads to login.py."""
    if argv[1:2] == ["--version"]:
        print("QEMU emulator version 7.2.0 (simulated)")
        return 0
    if argv[1:3] == ["-machine", "help"] or argv[1:3] == ["-M", "help"]:
        print("Supported machines are:\npc-q35-7.2           Standard PC (Q35 + ICH9, 2009)")
        return 0
    stages = Stages(folder)
    stages.reach("start")
    given = options(argv[1:])
    if any("isa-debug-exit" in value for _, value in given):
        return 33  # the test guest of KVM ran
    if reason := stages.failure("start"):
        print(f"qemu-system-x86_64: {reason}", file=sys.stderr)
        return 1
    parts = [(name, fields(value)) for name, value in given]
    disks = [part["filename"] for name, part in parts if name == "-blockdev" and part.get("driver") == "file"]
    disks += [part["file.filename"] for _, part in parts if "file.filename" in part]
    ports = {part["id"]: part["path"] for name, part in parts if name == "-chardev" and "path" in part}
    rule = next((found for _, value in given if (found := re.search(r"hostfwd=tcp:([\d.]*):(\d+)-", value))), None)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        disk = Disk(Path(disks[0]))
        if rule:
            listener.bind((rule[1] or "0.0.0.0", int(rule[2])))
            listener.listen(16)
    except BadDisk as error:
        print(f"qemu-system-x86_64: -blockdev: {error}", file=sys.stderr)
        return 1
    except OSError:
        print("qemu-system-x86_64: Could not set up host forwarding rule", file=sys.stderr)
        return 1
    console = next((Path(ports[name]) for name in ("console", "serial0") if name in ports), None)
    guest = Guest(disk, stages, console)
    abstract = f"\0labkit-simulator-{os.getpid()}"
    monitor_path = next(path for name, path in ports.items() if "qmp" in name or "mon" in name)
    agent_path = next(path for name, path in ports.items() if "agent" in name)
    threads = [agent(agent_path, guest), control(abstract, guest)]
    threads += [forward(listener, guest, str(folder / "login.sock"), abstract)] if rule else []
    for thread in threads:
        threading.Thread(target=thread, daemon=True).start()
    monitor = Monitor(monitor_path, guest, listener.getsockname())
    incoming = next((value for name, value in given if name == "-incoming"), None)
    if incoming:
        threading.Thread(target=monitor.incoming, args=(incoming,), daemon=True).start()
    elif ("-S", "") not in given:
        guest.go()
    monitor.serve()
    return 0

#!/usr/bin/env python3
"""spawn-oci: the OCI commands create, start, state, kill and delete over `systemd-nspawn --oci-bundle`, which has none.

systemd-nspawn runs a bundle from its beginning to its end. What is faked for the rest:

- create looks at config.json and no further, and leaves a process that waits: no namespace, mount or cgroup is made, no
  hook is run. What systemd-nspawn refuses, it refuses at start.
- state tells the pid of that process until start, then that of the container's process, which systemd-nspawn tells.
  The file of --pid-file keeps the former.
- kill signals that process; delete removes what this program has written down.

The config is copied at create, with root.path made absolute. Anything else in it is systemd-nspawn's business.
"""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn, Optional

VERSION = "1.0"
SPEC = "1.0.0"  # the only ociVersion that systemd-nspawn takes
ROOT = "/run/spawn-oci"
COMMANDS = ("create", "start", "state", "kill", "delete")
READY = 60.0  # seconds that systemd-nspawn has to start a container
GONE = 10.0  # seconds in which what was killed is gone
USAGE = """usage: spawn-oci [--root DIR] COMMAND
  create [--bundle DIR] [--pid-file FILE] ID
  start ID
  state ID
  kill ID [SIGNAL]
  delete [--force] ID"""


class Failed(Exception):
    """What is told on stderr."""


def main() -> int:
    try:
        return run(sys.argv[1:])
    except Failed as error:
        print(f"spawn-oci: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"spawn-oci: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return 1


def run(words: list[str]) -> int:
    root, command = Path(ROOT), ""
    while words and not command:
        word = words.pop(0)
        if word in ("--version", "-v"):
            print(f"spawn-oci version {VERSION}\nspec: {SPEC}\n{nspawn_version()}".rstrip())
            return 0
        if word in ("--help", "-h"):
            print(USAGE)
            return 0
        if word == "--root" or word.startswith("--root="):
            root = Path(value(word, words))
        elif word in COMMANDS:
            command = word
        else:
            raise Failed(f"unknown word {word!r}\n{USAGE}")
    if not command:
        raise Failed(f"a command is missing\n{USAGE}")
    options, rest = parsed(command, words)
    known = {"create": 1, "start": 1, "state": 1, "kill": 2, "delete": 1}[command]
    if not 1 <= len(rest) <= known:
        raise Failed(f"{command} takes {'an id' if known == 1 else 'an id and a signal'}\n{USAGE}")
    if not re.fullmatch(r"[A-Za-z0-9_+.-]{1,1024}", rest[0]) or rest[0] in (".", ".."):
        raise Failed(f"{rest[0]!r} is not a container id")
    container = Container(root, rest[0])
    if command == "create":
        container.create(Path(options.get("--bundle", ".")), options.get("--pid-file"))
    elif command == "start":
        container.start()
    elif command == "state":
        print(json.dumps(container.state(), indent=2))
    elif command == "kill":
        container.kill(signal_of(rest[1] if len(rest) > 1 else "TERM"))
    else:
        container.delete(force="--force" in options)
    return 0


def value(word: str, words: list[str]) -> str:
    name, equals, given = word.partition("=")
    if equals:
        return given
    if not words:
        raise Failed(f"{name} needs a value")
    return words.pop(0)


def parsed(command: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options and the rest of a command's words."""
    takes = {"create": {"--bundle": "--bundle", "-b": "--bundle", "--pid-file": "--pid-file"}}.get(command, {})
    flags = {"delete": {"--force": "--force", "-f": "--force"}}.get(command, {})
    options: dict[str, str] = {}
    rest: list[str] = []
    while words:
        word = words.pop(0)
        name = word.partition("=")[0]
        if word == "--":
            return options, rest + words
        if word in flags:
            options[flags[word]] = ""
        elif name in takes:
            options[takes[name]] = value(word, words)
        elif word.startswith("-") and len(word) > 1:
            raise Failed(f"{command} has no option {word}\n{USAGE}")
        else:
            rest.append(word)
    return options, rest


def signal_of(text: str) -> int:
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if text.isdigit() and 1 <= int(text) <= signal.SIGRTMAX:
        return int(text)
    found = getattr(signal, name, None)
    if not isinstance(found, signal.Signals):
        raise Failed(f"unknown signal {text!r}")
    return int(found)


def nspawn() -> str:
    """systemd-nspawn: what was sent beside this program, else what is installed."""
    beside = Path(__file__).resolve().parent / "usr/bin/systemd-nspawn"
    found = str(beside) if beside.exists() else shutil.which("systemd-nspawn")
    if not found:
        raise Failed("systemd-nspawn is not installed here")
    return found


def nspawn_version() -> str:
    try:
        done = subprocess.run([nspawn(), "--version"], stdout=subprocess.PIPE, timeout=10, check=False)
    except (Failed, OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").partition("\n")[0]


def begun(pid: int) -> str:
    """When a process began, "" where it is not there any more: a pid alone may be another's by now."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


class Container:
    """What is written down of one: state.json, which is there once it was created; the copy of its bundle."""

    def __init__(self, root: Path, ident: str) -> None:
        self.ident = ident
        self.directory = root / ident
        self.record: dict[str, Any] = {}

    def create(self, bundle: Path, pid_file: Optional[str]) -> None:
        bundle = bundle.resolve()
        try:
            config = json.loads((bundle / "config.json").read_bytes())
        except ValueError as error:
            raise Failed(f"{bundle}/config.json: {error}") from error
        if not isinstance(config, dict):
            raise Failed(f"{bundle}/config.json is not an object")
        root = config.get("root")
        if not isinstance(root, dict) or not isinstance(root.get("path"), str):
            raise Failed(f"{bundle}/config.json has no root.path")
        rootfs = bundle / root["path"]
        if not rootfs.is_dir():
            raise Failed(f"{rootfs} is not a directory")
        if (config.get("process") or {}).get("terminal"):
            raise Failed("a terminal cannot be handed over: systemd-nspawn has none for a --console-socket")
        nspawn()
        self.directory.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            raise Failed(f"there is a container {self.ident} already") from None
        try:
            (self.directory / "bundle").mkdir()
            copied = {**config, "root": {**root, "path": str(rootfs)}}
            (self.directory / "bundle/config.json").write_text(json.dumps(copied))
            os.mkfifo(self.directory / "start")
            pid = self._waiting()
            if pid_file:
                Path(pid_file).write_text(str(pid))
            annotations = config.get("annotations") or {}
            self._write(
                {"bundle": str(bundle), "annotations": annotations, "holder": [pid, begun(pid)], "leader": None}
            )
        except BaseException:
            self._remove()
            raise

    def _waiting(self) -> int:
        """Leave a process that becomes systemd-nspawn at start; its pid."""
        read, write = os.pipe()
        first = os.fork()
        if first == 0:
            os.setsid()
            second = os.fork()
            if second:
                os.write(write, str(second).encode())
                os._exit(0)
            os.close(read)
            os.close(write)
            self._become()
        os.close(write)
        os.waitpid(first, 0)
        told = os.read(read, 20)
        os.close(read)
        if not told:
            raise Failed("no process can be started")
        return int(told)

    def _become(self) -> NoReturn:
        try:
            with (self.directory / "start").open("rb") as go:  # until start opens it, too
                if go.read(1) != b"!":
                    os._exit(1)
            words = [nspawn(), "--quiet", "--register=no", "--keep-unit", f"--oci-bundle={self.directory}/bundle"]
            words += [f"--machine={re.sub('[^a-z0-9]+', '-', self.ident.lower()).strip('-')[:60] or 'container'}"]
            os.execvpe(words[0], words, {**os.environ, "NOTIFY_SOCKET": str(self.directory / "notify")})
        except (OSError, Failed) as error:
            print(f"spawn-oci: {error}", file=sys.stderr)
        os._exit(1)

    def start(self) -> None:
        self._read()
        status = self._status()
        if status != "created":
            raise Failed(f"the container {self.ident} is {status}, not created")
        holder = self.record["holder"][0]
        ended = os.pidfd_open(holder)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(self.directory / "notify"))
            with (self.directory / "start").open("wb") as go:
                go.write(b"!")
            until = time.monotonic() + READY
            while True:
                ready = select.select([told.fileno(), ended], [], [], max(0.0, until - time.monotonic()))[0]
                if told.fileno() in ready:
                    said = told.recv(4096).decode(errors="replace")
                    leader = re.search(r"^X_NSPAWN_LEADER_PID=([0-9]+)$", said, re.MULTILINE)
                    if leader:
                        pid = int(leader[1])
                        self._write({**self.record, "leader": [pid, begun(pid)]})
                    if re.search(r"^READY=1$", said, re.MULTILINE):
                        return
                elif ended in ready:
                    if self.record["leader"]:
                        return  # it was soon over
                    self._write({**self.record, "leader": [0, ""]})
                    raise Failed(f"systemd-nspawn did not start the container {self.ident}")
                else:
                    raise Failed(f"systemd-nspawn has not started the container {self.ident} within {READY:g} s")

    def state(self) -> dict[str, Any]:
        self._read()
        status = self._status()
        told: dict[str, Any] = {"ociVersion": SPEC, "id": self.ident, "status": status}
        if status != "stopped":
            told["pid"] = (self.record["leader"] or self.record["holder"])[0]
        told["bundle"] = self.record["bundle"]
        if self.record["annotations"]:
            told["annotations"] = self.record["annotations"]
        return told

    def kill(self, number: int) -> None:
        self._read()
        status = self._status()
        if status == "stopped":
            raise Failed(f"the container {self.ident} is stopped")
        os.kill((self.record["leader"] or self.record["holder"])[0], number)

    def delete(self, *, force: bool) -> None:
        try:
            self._read()
        except Failed:
            if force and self.directory.is_dir():
                self._remove()  # of a create that was killed
                return
            raise
        status = self._status()
        if status != "stopped":
            if not force:
                raise Failed(f"the container {self.ident} is {status}, not stopped")
            pid, when = self.record["leader"] or self.record["holder"]
            if pid and begun(pid) == when:
                os.kill(pid, signal.SIGKILL)
        pid, when = self.record["holder"]  # systemd-nspawn tidies up after the container
        until = time.monotonic() + GONE
        while begun(pid) == when:
            if time.monotonic() >= until:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.02)
        self._remove()

    def _status(self) -> str:
        for which, status in (("leader", "running"), ("holder", "created")):
            if self.record[which]:
                pid, when = self.record[which]
                return status if pid and begun(pid) == when else "stopped"
        return "stopped"

    def _read(self) -> None:
        try:
            self.record = json.loads((self.directory / "state.json").read_text())
        except FileNotFoundError:
            raise Failed(f"there is no container {self.ident}") from None

    def _write(self, record: dict[str, Any]) -> None:
        self.record = record
        part = self.directory / "state.part"
        part.write_text(json.dumps(record))
        part.replace(self.directory / "state.json")

    def _remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

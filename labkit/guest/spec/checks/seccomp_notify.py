"""Seccomp with an agent: SCMP_ACT_NOTIFY, config-linux.md#containerprocessstate."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..context import Config, Container, T
from ..registry import check
from .seccomp import NOBODY, USR1, arg, filtered, rule

# seccomp(2), seccomp_unotify(2): _IOWR('!', 0, struct seccomp_notif) and _IOWR('!', 1, struct seccomp_notif_resp).
RECEIVE, SEND = 0xC0502100, 0xC0182101
NOTIF = struct.Struct("=QIIiIQ6Q")  # id, pid, flags; then nr, arch, instruction_pointer, args
RESPONSE = struct.Struct("=QqiI")  # id, val, error, flags


@dataclass
class Connection:
    """What came over one connection. messages: (bytes, number of descriptors) of each recvmsg; closed: its end came."""

    messages: list[tuple[bytes, int]] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    closed: bool = False

    @property
    def data(self) -> bytes:
        return b"".join(data for data, _ in self.messages)

    def state(self) -> dict[str, Any]:
        """The JSON object, {} where it is none, or more than one."""
        try:
            value = json.loads(self.data)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


class Agent:
    """A seccomp agent: takes what is sent, and answers every notification with EXDEV; its calls are in `calls`."""

    def __init__(self, t: T, name: str = "agent") -> None:
        self.path = t.work / name
        self.connections: list[Connection] = []
        self.calls: list[tuple[int, tuple[int, ...]]] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(8)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                connection = Connection()
                self.connections.append(connection)
                threading.Thread(target=self._read, args=(client, connection), daemon=True).start()

    def _read(self, client: socket.socket, connection: Connection) -> None:
        with suppress(OSError), client:
            while True:
                data, more, _, _ = client.recvmsg(65536, socket.CMSG_SPACE(8 * 4))
                fds = [
                    int.from_bytes(part[at : at + 4], sys.byteorder)
                    for level, kind, part in more
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                    for at in range(0, len(part) - 3, 4)
                ]
                for fd in fds[: 1 - len(connection.fds)]:
                    threading.Thread(target=self._answer, args=(fd,), daemon=True).start()
                connection.fds += fds
                if not data:
                    connection.closed = True
                    return
                connection.messages.append((data, len(fds)))

    def _answer(self, fd: int) -> None:
        with suppress(OSError):  # ENOENT: the process is gone
            while True:
                asked = bytearray(NOTIF.size)
                fcntl.ioctl(fd, RECEIVE, asked)
                id, pid, _, _, _, _, *args = NOTIF.unpack(asked)
                self.calls.append((pid, tuple(args)))
                fcntl.ioctl(fd, SEND, bytearray(RESPONSE.pack(id, 0, -errno.EXDEV, 0)))


def notifying(t: T, args: Any = "true", **more: Any) -> Config:
    """A config whose `kill` of a pid that nobody has is told to an agent."""
    t.need_spec((1, 1, 0), "SCMP_ACT_NOTIFY")
    claimed = t.feature("linux", "seccomp", "actions")
    if isinstance(claimed, list) and "SCMP_ACT_NOTIFY" not in claimed:
        t.skip("this runtime does not list SCMP_ACT_NOTIFY")
    if t.host.kernel < (5, 6):
        t.skip("the kernel has no seccomp notifications to agents")
    return filtered(t, args, {"syscalls": [rule(["kill"], "NOTIFY", arg(0, "EQ", NOBODY))], **more})


def started(t: T, agent: Agent, args: Any, **more: Any) -> tuple[Container, Connection]:
    """A running container and what it sent; the check ends without either."""
    config = notifying(t, args, listenerPath=str(agent.path), **more)
    config["annotations"] = {"org.labkit.key": "a value"}
    c = t.create(config)
    t.require(c.start().ok, "start exits 0")
    t.require(t.wait(lambda: agent.connections and agent.connections[0].state()), "a state is sent to listenerPath")
    return c, agent.connections[0]


@check("SECC-003")
def one_state(t: T) -> None:
    agent = Agent(t)
    c, connection = started(t, agent, f"kill -{USR1} {NOBODY}; kill -{USR1} {NOBODY - 1}; exit 0")
    t.require(c.ended(), "the process ends")
    t.require(t.wait(lambda: connection.closed), "the connection is closed after the state")
    t.equal(len(agent.connections), 1, "connections to listenerPath")
    t.true(connection.state(), "exactly one JSON object is sent", "an object", connection.data[:300].decode("latin-1"))
    wanted = f"sh: can't kill pid {NOBODY}: {os.strerror(errno.EXDEV)}"
    t.true(wanted in c.stderr, "the call gets the agent's answer", wanted, c.stderr)
    other = f"pid {NOBODY - 1}: {os.strerror(errno.ESRCH)}"
    t.true(other in c.stderr, "a call that does not match does not get it", other, c.stderr)


@check("SECC-019")
def state_of_the_process(t: T) -> None:
    agent = Agent(t)
    c, connection = started(t, agent, "sleep 1000")
    sent = connection.state()
    t.true(isinstance(sent.get("ociVersion"), str) and sent["ociVersion"], "ociVersion", "text", sent.get("ociVersion"))
    t.equal(sent.get("pid"), c.pid, "pid of the container process")
    t.true("metadata" not in sent or sent["metadata"] == "", "no metadata", "none", sent.get("metadata"))
    state = sent.get("state")
    t.require(isinstance(state, dict), "state is an object", "an object", state)
    assert isinstance(state, dict)
    t.equal(state.get("id"), c.id, "id in the state")
    t.equal(state.get("pid"), c.pid, "pid in the state")
    t.true(isinstance(state.get("ociVersion"), str), "ociVersion in the state", "text", state.get("ociVersion"))
    bundle = state.get("bundle")
    t.true(isinstance(bundle, str) and Path(bundle).absolute() == Path(bundle), "bundle in the state", "a path", bundle)
    t.equal(os.path.realpath(str(bundle)), os.path.realpath(c.bundle.path), "directory of the bundle in the state")
    t.equal(state.get("annotations"), {"org.labkit.key": "a value"}, "annotations in the state")
    words = ("creating", "created")  # loaded by create or by start, before the program runs
    t.true(state.get("status") in words, "status in the state", words, state.get("status"))


@check("SECC-020")
def descriptor(t: T) -> None:
    agent = Agent(t)
    c, connection = started(t, agent, f"kill -{USR1} {NOBODY}; exit 0")
    t.require(c.ended(), "the process ends")
    t.equal(connection.state().get("fds"), ["seccompFd"], "fds names the descriptor")
    t.equal(len(connection.fds), 1, "descriptors sent")
    t.equal([count for _, count in connection.messages][:1], [1], "descriptors in the first message")
    t.true(agent.calls, "the descriptor tells of a call", "a notification", agent.calls)
    for _, args in agent.calls:
        t.equal([args[0], args[1]], [NOBODY, USR1], "arguments of the call")


@check("SECC-021")
def metadata(t: T) -> None:
    agent = Agent(t)
    text = 'a=b,"c d" \u00fc \\ /x:y;'
    _, connection = started(t, agent, "sleep 1000", listenerMetadata=text)
    t.equal(connection.state().get("metadata"), text, "metadata in the container process state")


def answered(t: T) -> Container:
    """One that works: somebody listens."""
    return t.try_create(notifying(t, listenerPath=str(Agent(t, "valid").path)))


@check("SECC-022")
def nobody_listens(t: T) -> None:
    valid = answered(t)
    for what, name in (("is nothing", "none"), ("is a socket that nobody listens on", "deaf"), ("is a file", "file")):
        path = t.work / name
        if name == "deaf":
            unheard = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            unheard.bind(str(path))
        elif name == "file":
            path.touch()
        config = notifying(t, listenerPath=str(path))
        t.refused(config, f"create or start where listenerPath {what}", by_start=True, valid=valid)


@check("SECC-023")
def no_listener(t: T) -> None:
    valid = answered(t)
    t.refused(notifying(t), "create or start with NOTIFY and no listenerPath", by_start=True, valid=valid)
    config = notifying(t, listenerPath="")
    t.refused(config, "create or start with NOTIFY and an empty listenerPath", by_start=True, valid=valid)


@check("SECC-024")
def metadata_alone(t: T) -> None:
    t.need_spec((1, 1, 0), "listenerMetadata")
    plain = {"syscalls": [rule(["kill"], "ERRNO", arg(0, "EQ", NOBODY))]}
    wrong = filtered(t, "true", {**plain, "listenerMetadata": "some"})
    what = "create or start with listenerMetadata and no listenerPath"
    t.refused(wrong, what, by_start=True, valid=filtered(t, "true", plain))


@check("SECC-025")
def listener_without_need(t: T) -> None:
    t.need_spec((1, 1, 0), "listenerPath")
    agent = Agent(t)
    plain = {"syscalls": [rule(["kill"], "ERRNO", arg(0, "EQ", NOBODY))]}
    for what, path in (("names nothing", t.work / "none"), ("is not needed", agent.path)):
        c: Optional[Container] = t.try_create(filtered(t, "true", {**plain, "listenerPath": str(path)}))
        assert c is not None
        t.ok(c.created, f"create where listenerPath {what}")
        if c.created.ok:
            t.ok(c.start(), f"start where listenerPath {what}")
    t.equal(len(agent.connections), 0, "connections to a listenerPath that is not needed")

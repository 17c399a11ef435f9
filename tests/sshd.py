"""An SSH server in this process, by paramiko: it runs commands, and fails on demand in the ways that servers do."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_FAILED_RESOURCE_SHORTAGE, OPEN_SUCCEEDED

from labkit.core.endpoint import Endpoint

Handler = Callable[[paramiko.Channel, str], None]


def runs(channel: paramiko.Channel, command: str) -> None:
    """Run the command as sshd does: its streams over the channel, then its status."""
    child = subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    gone = (OSError, EOFError)  # as paramiko tells that the client is

    def feed() -> None:
        assert child.stdin
        with contextlib.suppress(*gone, ValueError), child.stdin:
            while piece := channel.recv(1 << 16):
                child.stdin.write(piece)
                child.stdin.flush()

    def hand(read: Callable[[int], bytes], send: Callable[[bytes], None]) -> None:
        with contextlib.suppress(*gone):
            while piece := read(1 << 16):
                send(piece)

    with child.stdout as out, child.stderr as err:
        pumps = [
            threading.Thread(target=hand, args=(out.read1, channel.sendall)),  # type: ignore[attr-defined]
            threading.Thread(target=hand, args=(err.read1, channel.sendall_stderr)),  # type: ignore[attr-defined]
        ]
        feeder = threading.Thread(target=feed)
        for thread in (feeder, *pumps):
            thread.start()
        for thread in pumps:
            thread.join()
        channel.send_exit_status(child.wait() & 0xFF)
    channel.close()
    feeder.join()


class Server:
    """Listens on a port of 127.0.0.1. What it does is in its attributes, which a test may change at any time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host_key = paramiko.ECDSAKey.generate()
        self.client_key = paramiko.ECDSAKey.generate()
        self.allowed: list[paramiko.PKey] = [self.client_key]
        self.handler: Handler = runs
        self.on_connect: Callable[[socket.socket], bool] = lambda _: True  # False: no SSH on this connection
        self.on_login: Callable[[paramiko.Transport], None] = lambda _: None
        self.takes_sessions = True
        self.on_exec: Callable[[], None] = lambda: None
        self.awake = threading.Event()  # clear: nothing is answered any more
        self.awake.set()
        self.connections = 0
        self.commands: list[str] = []
        self.transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def endpoint(self, user: str = "root") -> Endpoint:
        key, known = self.directory / "key", self.directory / "known_hosts"
        if not key.exists():
            self.client_key.write_private_key_file(str(key))
            self.pin(self.host_key)
        return Endpoint("127.0.0.1", self.port, user, key, known)

    def pin(self, *keys: paramiko.PKey) -> None:
        lines = [f"[127.0.0.1]:{self.port} {key.get_name()} {key.get_base64()}\n" for key in keys]
        (self.directory / "known_hosts").write_text("".join(lines))

    def cut(self) -> None:
        """End all connections, without a word."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.awake.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for transport in self.transports:
            transport.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(sock)
            if self.on_connect(sock):
                thread = threading.Thread(target=self._serve, args=(sock,))
                thread.start()
                self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        transport = paramiko.Transport(sock)
        self.transports.append(transport)
        transport.add_server_key(self.host_key)
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=_Interface(self, transport))

    def handle(self, channel: paramiko.Channel, command: str) -> None:
        self.commands.append(command)

        def work() -> None:
            time.sleep(0.01)  # the answer to the request goes first
            with contextlib.suppress(OSError, EOFError):
                self.handler(channel, command)

        thread = threading.Thread(target=work)
        thread.start()
        self._threads.append(thread)


class _Interface(paramiko.ServerInterface):
    """What is asked of the server, in the thread that serves a connection: nothing is answered while one waits here."""

    def __init__(self, server: Server, transport: paramiko.Transport) -> None:
        self._server, self._transport = server, transport

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self._server.on_login(self._transport)
        return AUTH_SUCCESSFUL if key in self._server.allowed else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self._server.awake.wait()
        return OPEN_SUCCEEDED if self._server.takes_sessions else OPEN_FAILED_RESOURCE_SHORTAGE

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._server.on_exec()
        self._server.awake.wait()
        self._server.handle(channel, command.decode())
        return True

"""An SSH server as a host of its own: `python -m tests.ssh_host DIRECTORY ADDRESS PORT`, by paramiko.

It runs commands and forwards ports, both ways, as sshd does; whoever has DIRECTORY/key is let in, as whatever user.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_FAILED_CONNECT_FAILED, OPEN_SUCCEEDED


class _Interface(paramiko.ServerInterface):
    def __init__(self, allowed: paramiko.PKey, transport: paramiko.Transport) -> None:
        self._allowed, self._transport = allowed, transport
        self._direct: dict[int, socket.socket] = {}
        self.listeners: list[socket.socket] = []
        self.children: list[subprocess.Popen[bytes]] = []

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL if key == self._allowed else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        child = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.children.append(child)
        assert child.stdin
        assert child.stdout
        assert child.stderr
        given, printed, complained = child.stdin, child.stdout, child.stderr

        def feed() -> None:
            with contextlib.suppress(OSError, ValueError), given:
                while piece := channel.recv(1 << 16):
                    given.write(piece)
                    given.flush()

        def hand(file: int, send: Callable[[bytes], None]) -> None:
            with contextlib.suppress(OSError):
                while piece := os.read(file, 1 << 16):
                    send(piece)

        threading.Thread(target=feed, daemon=True).start()
        pumps = [
            threading.Thread(target=hand, args=(printed.fileno(), channel.sendall), daemon=True),
            threading.Thread(target=hand, args=(complained.fileno(), channel.sendall_stderr), daemon=True),
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        with contextlib.suppress(OSError):
            channel.send_exit_status(child.wait() & 0xFF)
            channel.close()

    def check_channel_direct_tcpip_request(self, chanid: int, origin: object, destination: tuple[str, int]) -> int:
        try:
            self._direct[chanid] = socket.create_connection(destination, timeout=10)
        except OSError:
            return OPEN_FAILED_CONNECT_FAILED
        return OPEN_SUCCEEDED

    def connected(self, channel: paramiko.Channel) -> None:
        if sock := self._direct.pop(channel.chanid, None):
            _join(channel, sock)

    def check_port_forward_request(self, address: str, port: int) -> int:
        try:
            listener = socket.create_server((address, port))
        except OSError:
            return 0
        self.listeners.append(listener)
        threading.Thread(target=self._forward, args=(listener, address, port), daemon=True).start()
        return listener.getsockname()[1]  # type: ignore[no-any-return]

    def _forward(self, listener: socket.socket, address: str, port: int) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while True:
                sock, origin = listener.accept()
                _join(self._transport.open_forwarded_tcpip_channel(origin, (address, port)), sock)


def _join(channel: paramiko.Channel, sock: socket.socket) -> None:
    sock.settimeout(None)

    def there() -> None:
        with contextlib.suppress(OSError):
            while piece := sock.recv(1 << 16):
                channel.sendall(piece)
        channel.close()

    def back() -> None:
        with contextlib.suppress(OSError):
            while piece := channel.recv(1 << 16):
                sock.sendall(piece)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    for pump in (there, back):
        threading.Thread(target=pump, daemon=True).start()


def make_keys(directory: Path, *hosts: str) -> None:
    """A client's key, a host's key, and known_hosts for hosts, as OpenSSH writes them: `[127.0.0.1]:2222`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("key", "host_key"):
        paramiko.ECDSAKey.generate().write_private_key_file(str(directory / name))
    public = paramiko.ECDSAKey.from_private_key_file(str(directory / "host_key"))
    lines = [f"{host} {public.get_name()} {public.get_base64()}\n" for host in hosts]
    (directory / "known_hosts").write_text("".join(lines))


def serve(directory: Path, address: str, port: int) -> None:
    host_key, allowed = (paramiko.ECDSAKey.from_private_key_file(str(directory / name)) for name in ("host_key", "key"))
    listener = socket.create_server((address, port))
    print("listening", flush=True)
    interfaces: list[_Interface] = []

    def one(sock: socket.socket) -> None:
        transport = paramiko.Transport(sock)
        transport.add_server_key(host_key)
        interface = _Interface(allowed, transport)
        interfaces.append(interface)
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=interface)
            while transport.is_active():
                if channel := transport.accept(1):
                    interface.connected(channel)
        for held in interface.listeners:
            held.close()

    def end(*_: object) -> None:
        for interface in interfaces:
            for child in interface.children:
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=one, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))

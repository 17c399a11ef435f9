"""The sshd of all simulated guests, as one process: to load paramiko takes longer than all the rest of a guest.

A simulated machine hands each connection on, after a line with the name of its control socket, which knows the keys and
runs the commands.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from tests.faults.simulator.machine import CLIENT_KEY, HOST_KEY, listen


def _ask(name: str, request: dict[str, Any]) -> socket.socket:
    control = socket.socket(socket.AF_UNIX)
    control.connect(name)
    control.sendall(json.dumps(request).encode() + b"\n")
    return control


class _Server(paramiko.ServerInterface):
    def __init__(self, name: str, allowed: str) -> None:
        self._name, self._allowed = name, allowed

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL if key.get_base64() in self._allowed.split() else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        with contextlib.suppress(OSError, EOFError), _ask(self._name, {"command": command}) as control:

            def feed() -> None:
                with contextlib.suppress(OSError):
                    while piece := channel.recv(1 << 16):
                        control.sendall(piece)
                    control.shutdown(socket.SHUT_WR)

            threading.Thread(target=feed, daemon=True).start()
            with control.makefile("rb") as answers:
                for line in answers:
                    answer = json.loads(line)
                    if "out" in answer:
                        channel.sendall(base64.b64decode(answer["out"]))
                    else:
                        channel.send_exit_status(answer["status"])
                        channel.shutdown_write()
        time.sleep(0.5)  # whoever asks for the command hears of that first, on however slow a host
        channel.close()


def _serve(client: socket.socket) -> None:
    name = b""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while not name.endswith(b"\n"):
            piece = client.recv(1)
            if not piece:
                return
            name += piece
        path = name[:-1].decode()
        with _ask(path, {"keys": True}) as control, control.makefile("rb") as answers:
            keys = json.loads(answers.readline())
        transport = paramiko.Transport(client)
        transport.add_server_key(paramiko.Ed25519Key.from_private_key(io.StringIO(keys[HOST_KEY])))
        transport.start_server(server=_Server(path, keys[CLIENT_KEY]))
        return
    client.close()


def main(path: Path) -> None:
    listener = listen(str(path))
    print("ready", flush=True)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()  # until whoever started this is gone


if __name__ == "__main__":
    main(Path(sys.argv[1]))

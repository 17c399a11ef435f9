"""The one place that speaks SSH (fabric, paramiko).

Strict about host keys: the only key taken is the one pinned in the endpoint's known_hosts file. Every wait has a
bound, and a command is bounded on the far side too, since closing a channel does not end it there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
from fabric import Config, Connection
from paramiko.ssh_exception import AuthenticationException, BadHostKeyException, NoValidConnectionsError, SSHException

from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import CommandTimeout, ConnectionFailed
from labkit.core.text import printable
from labkit.io.remote import Answer

_KEEPALIVE = 5  # seconds between keepalive messages
_SILENT = 20  # seconds without a word, after which the far side is asked whether it is still there
_ANSWER = 20  # seconds that it has to answer
_CHUNK = 1 << 16

# It prints the traceback of every attempt that nobody answered; what went wrong is raised here as well.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Login:
    """What an OpenSSH configuration says of a host; keys are private key files."""

    host: str
    port: int
    user: str
    keys: tuple[Path, ...]


def read_config(text: str) -> Login:
    """Return what the first Host of an OpenSSH configuration is reached by, as `vagrant ssh-config` prints it.

    Lines before it are no part of it. ValueError where it does not say.
    """
    try:
        config = paramiko.SSHConfig.from_text(text[text.index("Host ") :])
        found = config.lookup(text[text.index("Host ") + 5 :].split()[0])
        keys = tuple(Path(key) for key in found["identityfile"])
        return Login(found["hostname"], int(found.get("port", 22)), found["user"], keys)
    except (KeyError, IndexError, paramiko.ConfigParseError) as error:
        raise ValueError(printable(str(error))) from error


class SshRemote:
    """An open SSH connection to an endpoint; a context manager."""

    def __init__(self, endpoint: Endpoint, deadline: Deadline) -> None:
        """Connect, trying again until the deadline as long as nobody answers.

        Raises ConnectionFailed: at once for a wrong host key or a refused login, else at the deadline.
        """
        self.endpoint = endpoint
        while True:
            self._connection = self._new(endpoint, deadline)
            try:
                self._connection.open()
                break
            except BadHostKeyException as error:
                self.close()
                raise ConnectionFailed(
                    f"{endpoint} shows another host key than the one pinned in {endpoint.known_hosts}",
                    hint="something else answers there, or the machine was replaced behind labkit's back; "
                    "if you trust that, `./lab destroy` the machine and `./lab up` again",
                ) from error
            except AuthenticationException as error:
                self.close()
                raise ConnectionFailed(f"{endpoint} refuses the lab's key {endpoint.key}") from error
            except (SSHException, NoValidConnectionsError, EOFError, OSError) as error:
                self.close()
                if isinstance(error, SSHException) and "not found in known_hosts" in str(error):
                    raise ConnectionFailed(
                        f"{endpoint} has no host key pinned in {endpoint.known_hosts}",
                        hint="./lab destroy the machine and ./lab up again",
                    ) from error
                if deadline.passed:
                    raise ConnectionFailed(f"no SSH answer from {endpoint}: {printable(str(error))}") from error
                time.sleep(min(0.02, deadline.left))
        self._transport = self._connection.client.get_transport()
        self._transport.set_keepalive(_KEEPALIVE)

    @staticmethod
    def _new(endpoint: Endpoint, deadline: Deadline) -> Connection:
        wait = max(deadline.left, 1.0)
        connection = Connection(
            endpoint.host,
            user=endpoint.user,
            port=endpoint.port,
            connect_timeout=wait,
            config=Config(lazy=True),
            connect_kwargs={
                "key_filename": str(endpoint.key),
                "allow_agent": False,
                "look_for_keys": False,
                "banner_timeout": wait,
                "auth_timeout": wait,
            },
        )
        # Fabric's default takes any key it meets (AutoAddPolicy).
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        connection.client.load_host_keys(str(endpoint.known_hosts))
        return connection

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes | Path = b"",
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        keep: int = 1 << 20,
    ) -> Answer:
        """Run argv on the machine, as root, and wait for its end, timeout seconds at most.

        Output goes to the callbacks as it comes; keep bytes of each stream are returned as well. Raises
        CommandTimeout, or ConnectionFailed where the connection breaks.
        """
        # --foreground is not given: timeout then ends the command's whole process group.
        guarded = [*self.endpoint.as_root, "timeout", "--kill-after=5", f"{timeout:g}", *argv]
        deadline = Deadline.after(timeout + 15)
        kept = {True: bytearray(), False: bytearray()}
        try:
            channel = self._transport.open_session(timeout=max(1.0, deadline.left))
            channel.exec_command(shlex.join(guarded))
            channel.settimeout(0.25)
            if isinstance(stdin, Path):
                with stdin.open("rb") as file:
                    while piece := file.read(_CHUNK):
                        channel.sendall(piece)
            else:
                channel.sendall(stdin)
            channel.shutdown_write()
            heard = time.monotonic()
            while True:
                moved = False
                for ready, read, call, mine in (
                    (channel.recv_ready, channel.recv, on_stdout, kept[True]),
                    (channel.recv_stderr_ready, channel.recv_stderr, on_stderr, kept[False]),
                ):
                    if ready():
                        piece = read(_CHUNK)
                        moved = moved or bool(piece)
                        mine += piece[: max(0, keep - len(mine))]
                        if call and piece:
                            call(piece)
                if moved:
                    heard = time.monotonic()
                    continue
                if channel.exit_status_ready() and not channel.recv_ready() and not channel.recv_stderr_ready():
                    break
                if channel.closed or not self._transport.is_active():
                    raise ConnectionFailed(f"the SSH connection to {self.endpoint} was cut")
                if deadline.passed:
                    raise CommandTimeout(f"`{shlex.join(argv)}` ran longer than {timeout:g} s on {self.endpoint}")
                if time.monotonic() - heard > _SILENT:
                    self._ask()
                    heard = time.monotonic()
                channel.status_event.wait(0.02)
            status = channel.recv_exit_status()
        except (SSHException, EOFError, OSError) as error:
            raise ConnectionFailed(f"the SSH connection to {self.endpoint} was cut: {printable(str(error))}") from error
        if status == -1:  # paramiko's word for a channel that closed without an exit status
            raise ConnectionFailed(f"the SSH connection to {self.endpoint} was cut")
        if status == 124 or (status == 137 and deadline.left <= 15):  # 137: it took --kill-after to end it
            raise CommandTimeout(f"`{shlex.join(argv)}` ran longer than {timeout:g} s on {self.endpoint} and was ended")
        return Answer(status, kept[True].decode("utf-8", "replace"), kept[False].decode("utf-8", "replace"))

    def _ask(self) -> None:
        """See that the far side still answers: TCP alone notices a silent loss after many minutes, or never."""
        try:
            self._transport.open_session(timeout=_ANSWER).close()
        except (SSHException, EOFError, OSError) as error:
            raise ConnectionFailed(f"{self.endpoint} has not answered for {_SILENT + _ANSWER} s") from error

    def upload(self, data: bytes | Path, target: str, *, mode: int = 0o644, timeout: float = 300) -> None:
        """Put data, or a file of this host, at the path target, written aside and renamed."""
        aside = f"{target}.part-{os.getpid()}"
        script = 'mkdir -p "$(dirname "$2")" && cat >"$1" && chmod "$3" "$1" && mv -f "$1" "$2"'
        answer = self.run(["sh", "-c", script, "sh", aside, target, f"{mode:o}"], timeout=timeout, stdin=data)
        if answer.status:
            raise ConnectionFailed(f"cannot write {target} on {self.endpoint}: {printable(answer.stderr.strip())}")

    def close(self) -> None:
        with contextlib.suppress(Exception):  # closing a broken connection may fail in any way; it is gone then
            self._connection.close()

    def __enter__(self) -> SshRemote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""The one place that speaks SSH (fabric, paramiko).

Strict about host keys: the only key taken is the one pinned in the endpoint's known_hosts file. Every wait has a
bound, and a command is bounded on the far side too, since closing a channel does not end it there. Whatever paramiko
raises leaves as ConnectionFailed (_mapped).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import paramiko
from fabric import Config, Connection
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    IncompatiblePeer,
    NoValidConnectionsError,
    SSHException,
)

from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import CommandTimeout, ConnectionFailed
from labkit.core.interrupts import held
from labkit.core.text import one_line, printable, seconds
from labkit.io.remote import Answer
from labkit.io.within import within

_T = TypeVar("_T")

_KEEPALIVE = 5  # seconds between keepalive messages
_SILENT = 20  # seconds without a word, after which the far side is asked whether it is still there
_ANSWER = 20  # seconds that it has to answer
_CHUNK = 1 << 16
_ALIVE_EVERY = 0.5  # seconds between looks at whether what is to answer still runs
_LEAST = 0.1  # seconds that an attempt to connect has, also near the deadline
_PIECE = 1 << 15  # bytes that are sent at a time, about one packet
_DRAIN = 1.0  # seconds in which output may still come after the exit status, where something holds its pipe
_SHOWN = 200  # characters of a command, in errors

# Arguments: a name to write to, which is new, the target, its mode and its size. Where the connection is cut, cat sees
# the end of its input as well, and what has come is not the whole.
_UPLOAD = """trap 'rm -f -- "$1"' EXIT
trap 'exit 1' HUP INT TERM
set -e -C
mkdir -p -- "$(dirname -- "$2")"
cat >"$1"
test "$(wc -c <"$1")" -eq "$4"
chmod -- "$3" "$1"
mv -f -- "$1" "$2"
"""

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
    except (KeyError, IndexError, SSHException) as error:
        raise ValueError(printable(str(error))) from error


class _NotPinned(SSHException):
    pass


class _Pinned(paramiko.MissingHostKeyPolicy):
    """Takes no key that is not in known_hosts."""

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise _NotPinned(f"{hostname} has no pinned key")


@contextlib.contextmanager
def _mapped(endpoint: Endpoint, what: str) -> Iterator[None]:
    """Turn whatever paramiko raises in the block into ConnectionFailed, `what: why`; what names the endpoint.

    Whatever: its thread hands on what it met, and a garbled packet is an IndexError. So nothing but calls of paramiko
    belongs into the block.
    """
    try:
        yield
    except BadHostKeyException as error:
        raise ConnectionFailed(
            f"{endpoint} shows another host key than the one pinned in {endpoint.known_hosts}",
            hint="something else answers there, or the machine was replaced behind labkit's back; "
            "if you trust that, `./lab destroy` the machine and `./lab up` again",
        ) from error
    except _NotPinned as error:
        raise ConnectionFailed(
            f"{endpoint} has no host key pinned in {endpoint.known_hosts}",
            hint="./lab destroy the machine and ./lab up again",
        ) from error
    except Exception as error:
        if isinstance(error, AuthenticationException) and not _unanswered(error):
            raise ConnectionFailed(f"{endpoint} refuses the lab's key {endpoint.key}", hint=_reason(error)) from error
        raise ConnectionFailed(f"{what}: {_reason(error)}") from error


def _unanswered(error: AuthenticationException) -> bool:
    """Whether the login was not refused: the connection ended, or no word came, while it was asked for."""
    return "saw EOF" in str(error) or "timeout" in str(error)


def _reason(error: Exception) -> str:
    """What went wrong, in words; many of these exceptions have none."""
    if isinstance(error, NoValidConnectionsError):
        error = next(iter(error.errors.values()), error)
    text = printable(str(error).strip())
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[0].lower() + error.strerror[1:]
        return f"{error.filename}: {text}" if error.filename else text
    if isinstance(error, TimeoutError):
        return "nothing came in time"
    if isinstance(error, EOFError):
        return "the other side closed the connection"
    if text == "No existing session":
        return "the connection ended while it was set up"
    if not isinstance(error, SSHException) or not text:
        return f"{type(error).__name__}: {text}".removesuffix(": ")
    return text


def _key(endpoint: Endpoint) -> paramiko.PKey:
    try:
        with _mapped(endpoint, f"cannot log in to {endpoint} with the key {endpoint.key}"):
            return paramiko.PKey.from_path(endpoint.key)
    except ConnectionFailed as error:
        if isinstance(error.__cause__, TypeError):  # cryptography's word for it
            error.hint = "it has a passphrase, which labkit does not ask for: name a key without one"
        raise


def _connected(endpoint: Endpoint, key: paramiko.PKey, deadline: Deadline, alive: Callable[[], bool]) -> Connection:
    """A connection, tried again until the deadline as long as nobody answers and there is something that could."""
    asked = time.monotonic()
    while True:
        wait = max(deadline.left, _LEAST)
        sock: socket.socket | None = None
        connection = Connection(
            endpoint.host,
            user=endpoint.user,
            port=endpoint.port,
            connect_timeout=wait,
            config=Config(lazy=True),
            connect_kwargs={
                "pkey": key,
                "allow_agent": False,
                "look_for_keys": False,
                "banner_timeout": wait,
                "auth_timeout": wait,
            },
        )
        # Fabric's default takes any key it meets (AutoAddPolicy).
        connection.client.set_missing_host_key_policy(_Pinned())
        connection.client.load_host_keys(str(endpoint.known_hosts))
        try:
            sock = _socket(endpoint, Deadline.after(wait))
            connection.connect_kwargs["sock"] = sock
            within(Deadline.after(wait), connection.open)
            return connection
        except BaseException as error:
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # the thread that opens it sees the end
            _close(connection)
            if sock is not None:
                sock.close()
            if not isinstance(error, Exception) or deadline.passed or not _may_pass(error):
                raise
            if time.monotonic() - asked > _ALIVE_EVERY:
                asked = time.monotonic()
                if not alive():
                    raise SSHException(f"it has ended ({_reason(error)})") from error
        time.sleep(min(0.02, deadline.left))


def _socket(endpoint: Endpoint, deadline: Deadline) -> socket.socket:
    """Connected to the first address that answers; the lookup of the name and all of its addresses share the time."""
    found = within(deadline, lambda: socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM))
    refused: OSError = TimeoutError()
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(deadline.left, 0.001))
            sock.connect(address)
            return sock
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            refused = error
    raise refused


def _may_pass(error: Exception) -> bool:
    """Whether another try may bring something else."""
    if isinstance(error, AuthenticationException):
        return _unanswered(error)
    return not isinstance(error, (BadHostKeyException, IncompatiblePeer, _NotPinned))


def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception), held():  # closing a broken connection may fail in any way; it is gone then
        connection.client.close()


def _pieces(stdin: bytes | Path) -> Generator[bytes, None, None]:
    if isinstance(stdin, Path):
        with stdin.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    else:
        yield from (stdin[at : at + _PIECE] for at in range(0, len(stdin), _PIECE))


def _sent(channel: paramiko.Channel, piece: bytes | None) -> int:
    """How much of the piece was taken; None is the end. A channel that is closed takes nothing, which is seen later."""
    with contextlib.suppress(OSError):
        if piece is not None:
            return int(channel.send(piece))
        channel.shutdown_write()
    return 0


class _Stream:
    """What a command prints: the first bytes are kept, all of it is handed on."""

    def __init__(self, keep: int, call: Callable[[bytes], None] | None) -> None:
        self._keep, self._call = keep, call
        self._kept = bytearray()

    def take(self, data: bytes) -> None:
        self._kept += data[: self._keep - len(self._kept)]
        if self._call:
            self._call(data)

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


class SshRemote:
    """An open SSH connection to an endpoint; a context manager."""

    def __init__(self, endpoint: Endpoint, deadline: Deadline, alive: Callable[[], bool] = lambda: True) -> None:
        """Connect, trying again until the deadline as long as nobody answers, and alive says that somebody may.

        Raises ConnectionFailed: at once for a wrong host key, a refused login or a file that cannot be read, else at
        the deadline, in whatever step of the connection's setup it finds us.
        """
        self.endpoint = endpoint
        key = _key(endpoint)
        try:
            endpoint.known_hosts.read_text()
        except (OSError, ValueError) as error:
            raise ConnectionFailed(f"the host key of {endpoint} cannot be read: {_reason(error)}") from error
        with _mapped(endpoint, f"no SSH answer from {endpoint} within {deadline.allowed}"):
            self._connection = _connected(endpoint, key, deadline, alive)
            self._transport = self._connection.client.get_transport()
            self._transport.set_keepalive(_KEEPALIVE)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes | Path = b"",
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        keep: int = 1 << 20,
        attached: bool = False,
    ) -> Answer:
        """Run argv on the machine, as root, and wait for its end, timeout seconds at most.

        attached: its stdin ends with the connection, not before. Output goes to the callbacks as it comes; keep bytes
        of each stream are returned as well. Raises CommandTimeout, or ConnectionFailed where the connection breaks.
        """
        shown = f"`{one_line(shlex.join(argv), _SHOWN)}`"
        out, err = _Stream(keep, on_stdout), _Stream(keep, on_stderr)
        return self._run(argv, shown, timeout, stdin, out, err, attached)

    def _run(
        self,
        argv: Sequence[str],
        shown: str,
        timeout: float,
        stdin: bytes | Path,
        out: _Stream,
        err: _Stream,
        attached: bool = False,
    ) -> Answer:
        """run(); shown is what argv is called in errors."""
        # --foreground is not given: timeout then ends the command's whole process group.
        guarded = shlex.join([*self.endpoint.as_root, "timeout", "--kill-after=5", f"{timeout:g}", *argv])
        deadline = Deadline.after(timeout + 15)
        cut = f"the SSH connection to {self.endpoint} was cut during {shown}"
        channel = self._asked(cut, lambda: self._started(guarded), paramiko.Channel.close)
        try:
            with contextlib.closing(_pieces(stdin)) as pieces:
                status = self._talk(channel, pieces, out, err, deadline, cut, attached)
        finally:
            with contextlib.suppress(ConnectionFailed):
                self._asked(cut, channel.close)
        if status is None:
            raise CommandTimeout(f"{shown} ran longer than {seconds(timeout)} on {self.endpoint}")
        if status == -1:  # paramiko's word for a channel that closed without an exit status
            self._transport.join(0.1)  # its thread closes the channels first where the connection ends
            if self._transport.is_active():
                raise ConnectionFailed(f"{shown} ended on {self.endpoint} without an exit status, by a signal it seems")
            reason = self._transport.get_exception() or EOFError()
            raise ConnectionFailed(f"{cut}: {_reason(reason)}") from reason
        if status == 124 or (status == 137 and deadline.left <= 15):  # 137: it took --kill-after to end it
            raise CommandTimeout(f"{shown} ran longer than {seconds(timeout)} on {self.endpoint} and was ended")
        return Answer(status, out.text(), err.text())

    def _started(self, command: str) -> paramiko.Channel:
        channel: paramiko.Channel = self._transport.open_session(timeout=_SILENT + _ANSWER)
        channel.exec_command(command)
        return channel

    def _talk(
        self,
        channel: paramiko.Channel,
        pieces: Iterator[bytes],
        out: _Stream,
        err: _Stream,
        deadline: Deadline,
        cut: str,
        attached: bool,
    ) -> int | None:
        """Send and receive until the command has ended; its status, None where the deadline passes before.

        Both in one loop: a command that answers while it reads would wait for us as we wait for it.
        """
        sending, piece = True, b""
        heard = time.monotonic()
        ended: float | None = None
        while True:
            # Read in this order: what came before the end is there once the end is seen.
            moved = False
            with _mapped(self.endpoint, cut), held():
                known, complete = channel.exit_status_ready(), channel.eof_received or channel.closed
                can_send = channel.send_ready()
                received = (
                    channel.recv(_CHUNK) if channel.recv_ready() else b"",
                    channel.recv_stderr(_CHUNK) if channel.recv_stderr_ready() else b"",
                )
            for stream, data in zip((out, err), received, strict=True):
                if data:
                    stream.take(data)
                    moved = True
            if known:
                sending = False  # it ended without reading the rest
            if sending and can_send:
                piece = piece or next(pieces, b"")
                sending = bool(piece)
                if piece:
                    sent = self._asked(cut, partial(_sent, channel, piece))
                    piece, moved = piece[sent:], moved or sent > 0
                elif not attached:
                    self._asked(cut, partial(_sent, channel, None))
            if moved:
                heard, ended = time.monotonic(), None
                if not deadline.passed:  # else a flood would have no end
                    continue
            if known:
                # sshd may tell the status before the last output, and what the command left running may hold its pipes.
                ended = ended or time.monotonic()
                if complete or deadline.passed or time.monotonic() - ended > _DRAIN:
                    with held():
                        return channel.recv_exit_status()
            if deadline.passed:
                return None
            if time.monotonic() - heard > _SILENT:
                self._ask()
                heard = time.monotonic()
            if known:
                time.sleep(0.005)
            else:
                with held():
                    channel.status_event.wait(0.02)

    def _ask(self) -> None:
        """See that the far side still answers: TCP alone notices a silent loss after many minutes, or never."""
        silent = f"{self.endpoint} has not answered for {seconds(_SILENT + _ANSWER)}"
        self._asked(silent, lambda: self._transport.open_session(timeout=_ANSWER).close())

    def _asked(self, what: str, call: Callable[[], _T], discard: Callable[[_T], object] = lambda _: None) -> _T:
        """What call returns, _mapped, and bounded: paramiko waits without end where the far side falls
        silent. discard gets what it returns too late.
        """
        try:
            with _mapped(self.endpoint, what):
                return within(Deadline.after(_SILENT + _ANSWER), call, discard)
        except ConnectionFailed as error:
            if isinstance(error.__cause__, TimeoutError):
                self.close()
                silent = f"{self.endpoint} has not answered for {seconds(_SILENT + _ANSWER)}"
                raise ConnectionFailed(silent) from error
            raise

    def upload(self, data: bytes | Path, target: str, *, mode: int = 0o644, timeout: float = 300) -> None:
        """Put data, or a file of this host, at the path target, written aside and renamed."""
        aside = f"{target}.{secrets.token_hex(8)}.part"
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        words = ["sh", "-c", _UPLOAD, "sh", aside, target, f"{mode:o}", str(size)]
        out, err = _Stream(0, None), _Stream(4096, None)
        answer = self._run(words, f"the upload of {target}", timeout, data, out, err)
        if answer.status:
            raise ConnectionFailed(f"cannot write {target} on {self.endpoint}: {printable(answer.stderr.strip())}")

    def close(self) -> None:
        _close(self._connection)

    def __enter__(self) -> SshRemote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

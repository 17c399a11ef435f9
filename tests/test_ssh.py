"""The seam that speaks SSH, with a real server at the other end (tests/sshd.py), and how that can fail."""

from __future__ import annotations

import builtins
import importlib
import inspect
import linecache
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from types import FrameType

import paramiko
import pytest
from paramiko import ssh_exception
from paramiko.auth_strategy import AuthFailure, AuthResult
from paramiko.pkey import UnknownKeyType

from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.core.errors import CommandTimeout, ConnectionFailed, Interrupted
from labkit.core.interrupts import interrupt
from labkit.io import ssh
from labkit.io.ssh import SshRemote
from labkit.machines import keys
from tests.sshd import Server, runs


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def remote(server: Server) -> Iterator[SshRemote]:
    with SshRemote(server.endpoint(), Deadline.after(10)) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A far side counts as silent after 0.2 s, and has 0.2 s to answer then."""
    monkeypatch.setattr(ssh, "_SILENT", 0.2)
    monkeypatch.setattr(ssh, "_ANSWER", 0.2)
    monkeypatch.setattr(ssh, "_LEAST", 0.2)


def succeeds(channel: paramiko.Channel, _: str) -> None:
    channel.send_exit_status(0)
    channel.close()


@pytest.fixture
def hang() -> Iterator[Callable[..., None]]:
    """What does not come back before the test is over."""
    over = threading.Event()

    def wait(*_: object) -> None:
        over.wait(10)

    yield wait
    over.set()


# ---- commands


def test_a_command_its_output_and_its_status(server: Server, remote: SshRemote) -> None:
    answer = remote.run(["sh", "-c", "echo out; echo 'err  $x' >&2; exit 3"], timeout=10)
    assert (answer.status, answer.stdout, answer.stderr) == (3, "out\n", "err  $x\n")
    assert server.commands == ["""timeout --kill-after=5 10 sh -c 'echo out; echo '"'"'err  $x'"'"' >&2; exit 3'"""]


def test_another_user_becomes_root_by_sudo(server: Server) -> None:
    server.handler = succeeds
    with SshRemote(server.endpoint("ada"), Deadline.after(10)) as remote:
        assert remote.run(["id"], timeout=2.5).status == 0
    assert server.commands == ["sudo -n -- timeout --kill-after=5 2.5 id"]


@pytest.mark.parametrize(("size", "as_file"), [(0, True), (0, False), (5, False), (100_000, False), (3 << 20, True)])
def test_stdin_comes_from_bytes_or_a_file(size: int, as_file: bool, remote: SshRemote, tmp_path: Path) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(data)
    answer = remote.run(["wc", "-c"], timeout=10, stdin=tmp_path / "file" if as_file else data)
    assert answer.stdout.strip() == str(size)


def test_a_command_may_answer_while_it_reads(remote: SshRemote) -> None:
    """More than fits into the windows of both directions; who only sends, then only receives, waits for ever."""
    data = b"0123456789abcdef" * (5 << 16)
    heard = bytearray()
    answer = remote.run(["cat"], timeout=10, stdin=data, on_stdout=heard.extend, keep=100)
    assert heard == data
    assert answer.stdout.encode() == data[:100]


def test_a_command_may_leave_its_input_unread(remote: SshRemote) -> None:
    answer = remote.run(["sh", "-c", "echo enough; exit 4"], timeout=10, stdin=b"x" * (8 << 20))
    assert (answer.status, answer.stdout) == (4, "enough\n")


def test_a_command_may_take_its_time_to_read(remote: SshRemote) -> None:
    answer = remote.run(["sh", "-c", "sleep 0.3; wc -c"], timeout=10, stdin=b"x" * (3 << 20))
    assert answer.stdout.strip() == str(3 << 20)


def test_output_comes_while_the_command_runs(remote: SshRemote, tmp_path: Path) -> None:
    """The command waits for what its first words bring about."""
    go = tmp_path / "go"
    heard: list[tuple[str, bytes]] = []

    def hear(data: bytes) -> None:
        heard.append(("out", data))
        go.touch()

    script = f"echo one; while ! [ -e {go} ]; do sleep 0.01; done; echo two >&2"
    words = ["sh", "-c", script]
    answer = remote.run(words, timeout=10, on_stdout=hear, on_stderr=lambda data: heard.append(("err", data)))
    assert heard == [("out", b"one\n"), ("err", b"two\n")]
    assert (answer.stdout, answer.stderr) == ("one\n", "two\n")


def test_a_flood_is_kept_as_far_as_wished(remote: SshRemote) -> None:
    total = 0

    def count(data: bytes) -> None:
        nonlocal total
        total += len(data)

    script = "head -c 4000000 /dev/zero; head -c 5 /dev/zero >&2"
    answer = remote.run(["sh", "-c", script], timeout=10, on_stdout=count, keep=10)
    assert total == 4_000_000
    assert (len(answer.stdout), len(answer.stderr)) == (10, 5)


def test_output_that_is_no_utf_8_is_still_text(remote: SshRemote) -> None:
    assert remote.run(["printf", r"a\377b"], timeout=10).stdout == "a\ufffdb"


def test_output_after_the_status_is_output(server: Server, remote: SshRemote) -> None:
    """As OpenSSH's server sends it, where the command ends before what it printed is read."""

    def late(channel: paramiko.Channel, _: str) -> None:
        channel.send_exit_status(7)
        time.sleep(0.1)
        channel.sendall(b"late")
        channel.close()

    server.handler = late
    answer = remote.run(["x"], timeout=10)
    assert (answer.status, answer.stdout) == (7, "late")


def test_what_a_command_leaves_running_is_not_waited_for(
    server: Server, remote: SshRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_DRAIN", 0.1)

    def held(channel: paramiko.Channel, _: str) -> None:
        channel.sendall(b"begun")
        channel.send_exit_status(0)  # and the channel stays open

    server.handler = held
    assert remote.run(["x"], timeout=10).stdout == "begun"


def test_an_attached_command_sees_the_end_of_the_connection(server: Server, remote: SshRemote, tmp_path: Path) -> None:
    """Its stdin stays open as long as the connection, whatever was sent before."""
    ended, script = tmp_path / "ended", 'dd bs=1 count=5 status=none; exec >&-; cat >"$1"; touch "$1.over"'
    with pytest.raises(ConnectionFailed):
        remote.run(
            ["sh", "-c", script, "sh", str(ended)],
            timeout=60,
            stdin=b"words and more",
            on_stdout=lambda _: threading.Timer(0.5, server.cut).start(),
            attached=True,
        )
    end = time.monotonic() + 10
    while not Path(f"{ended}.over").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert ended.read_bytes() == b" and more"


def test_an_attached_command_ends_as_any_other(remote: SshRemote) -> None:
    assert remote.run(["sh", "-c", "cat & sleep 0.1; echo done"], timeout=10, attached=True).stdout == "done\n"


def test_a_flood_does_not_outlast_the_limit(server: Server, remote: SshRemote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A far side whose `timeout` is not what it seems, and that always has something to say."""

    def flood(channel: paramiko.Channel, _: str) -> None:
        while True:
            channel.sendall(b"x" * 30_000)

    server.handler = flood
    began = time.monotonic()
    with pytest.raises(CommandTimeout):
        remote.run(["yes"], timeout=-14.5)
    assert time.monotonic() - began < 5


def test_half_an_upload_is_none(server: Server, tmp_path: Path) -> None:
    """The connection is cut: cat sees the end of its input as if that were all."""
    target = tmp_path / "there" / "program"
    with SshRemote(server.endpoint(), Deadline.after(10)) as remote:
        remote.upload(b"old", str(target))
        big = tmp_path / "big"
        big.write_bytes(b"x" * (64 << 20))
        threading.Timer(0.3, server.cut).start()
        with pytest.raises(ConnectionFailed, match=f"was cut during the upload of {target}: "):
            remote.upload(big, str(target))
    end = time.monotonic() + 10
    while list(target.parent.iterdir()) != [target]:
        assert time.monotonic() < end, list(target.parent.iterdir())
        time.sleep(0.01)
    assert target.read_bytes() == b"old"


def test_what_a_listener_raises_is_its_own(remote: SshRemote) -> None:
    """A full disk here is no cut connection."""

    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        remote.run(["echo"], timeout=10, on_stdout=full)
    with pytest.raises(FileNotFoundError):
        remote.run(["cat"], timeout=10, stdin=Path("/no/such/file"))
    assert remote.run(["echo", "next"], timeout=10).stdout == "next\n"


def test_a_command_that_takes_too_long_is_ended_there(remote: SshRemote) -> None:
    with pytest.raises(CommandTimeout) as caught:
        remote.run(["sleep", "60"], timeout=0.1)
    assert caught.value.message == f"`sleep 60` ran longer than 0.1 s on {remote.endpoint} and was ended"
    assert remote.run(["echo", "next"], timeout=10).stdout == "next\n"


def test_a_far_side_that_does_not_end_it_is_not_waited_for(
    server: Server, remote: SshRemote, hang: Callable[..., None]
) -> None:
    server.handler = hang
    with pytest.raises(CommandTimeout, match=r"`sleep 60` ran longer than -15 s on "):
        remote.run(["sleep", "60"], timeout=-14.9)


def test_a_file_is_written_aside_and_renamed(remote: SshRemote, tmp_path: Path) -> None:
    target = tmp_path / "a directory/file"
    remote.upload(b"words", str(target), mode=0o600)
    assert target.read_bytes() == b"words"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(ConnectionFailed, match=f"^cannot write {target}/x on root@127.0.0.1:.*: .*(?i:file|directory)"):
        remote.upload(b"words", f"{target}/x")


# ---- connections that break


def test_a_connection_that_is_cut(server: Server, remote: SshRemote) -> None:
    def cut(channel: paramiko.Channel, _: str) -> None:
        channel.sendall(b"half")
        time.sleep(0.05)
        server.cut()

    server.handler = cut
    heard = bytearray()
    with pytest.raises(ConnectionFailed) as caught:
        remote.run(["make", "world"], timeout=10, on_stdout=heard.extend)
    end = f"the SSH connection to {remote.endpoint} was cut during `make world`: the other side closed the connection"
    assert caught.value.message == end
    assert heard == b"half"
    with pytest.raises(ConnectionFailed, match=r"was cut during `true`: "):
        remote.run(["true"], timeout=10)


def test_a_connection_that_is_cut_while_it_is_sent_to(server: Server, remote: SshRemote) -> None:
    def cut(channel: paramiko.Channel, _: str) -> None:
        channel.recv(1 << 20)
        server.cut()

    server.handler = cut
    with pytest.raises(ConnectionFailed, match=r"was cut during `cat`: "):
        remote.run(["cat"], timeout=10, stdin=b"x" * (16 << 20))


def test_a_command_that_ends_without_a_status(server: Server, remote: SshRemote) -> None:
    """As one that a signal ended; the connection is as good as before."""
    server.handler = lambda channel, _: channel.close()
    with pytest.raises(ConnectionFailed, match=r"^`true` ended on root@.* without an exit status, by a signal"):
        remote.run(["true"], timeout=10)
    server.handler = runs
    assert remote.run(["echo", "next"], timeout=10).stdout == "next\n"


def test_a_server_that_takes_no_more_sessions(server: Server, remote: SshRemote) -> None:
    server.takes_sessions = False
    with pytest.raises(ConnectionFailed, match=r"was cut during `true`: .*Resource shortage"):
        remote.run(["true"], timeout=10)


def test_a_far_side_that_falls_silent_during_a_command(
    server: Server, remote: SshRemote, impatient: None, hang: Callable[..., None]
) -> None:
    def fall_silent(*_: object) -> None:
        server.awake.clear()
        hang()

    server.handler = fall_silent
    with pytest.raises(ConnectionFailed, match=r"^root@127\.0\.0\.1:\d+ has not answered for 0\.4 s"):
        remote.run(["sleep", "60"], timeout=60)


def test_a_far_side_that_is_only_quiet_is_waited_for(remote: SshRemote, impatient: None) -> None:
    assert remote.run(["sh", "-c", "sleep 0.5; echo done"], timeout=60).stdout == "done\n"


def test_a_far_side_that_is_silent_from_the_start(server: Server, remote: SshRemote, impatient: None) -> None:
    server.awake.clear()
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1"):
        remote.run(["true"], timeout=60)


def test_a_far_side_that_never_answers_the_command(server: Server, remote: SshRemote, impatient: None) -> None:
    server.on_exec = server.awake.clear
    with pytest.raises(ConnectionFailed, match=r"^root@127\.0\.0\.1:\d+ has not answered for 0\.4 s$"):
        remote.run(["true"], timeout=60)


# ---- connections that do not come about


def refused(endpoint: Endpoint, seconds: float = 0.2) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as caught:
        SshRemote(endpoint, Deadline.after(seconds))
    assert str(endpoint) in caught.value.message
    return caught.value


def test_nobody_listens(server: Server) -> None:
    endpoint = server.endpoint()
    server.stop()
    began = time.monotonic()
    error = refused(endpoint)
    assert error.message == f"no SSH answer from {endpoint} within 0.2 s: connection refused"
    assert 0.2 <= time.monotonic() - began < 10


@pytest.mark.parametrize("stage", ["name", "greeting", "keys", "login"])
def test_the_limit_holds_in_every_stage(
    server: Server, stage: str, hang: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """paramiko gives each of them its own; `connect = 30` was up to 120 s."""
    endpoint = server.endpoint()
    if stage == "name":
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hang())
    elif stage == "greeting":
        server.on_connect = lambda _: False
    elif stage == "keys":

        def greet(sock: socket.socket) -> bool:
            sock.sendall(b"SSH-2.0-slow\r\n")
            return False

        server.on_connect = greet
    else:
        server.on_login = hang
    began = time.monotonic()
    with pytest.raises(ConnectionFailed) as caught:
        SshRemote(endpoint, Deadline.after(0.7, "connect"))
    assert 0.6 < time.monotonic() - began < 10
    assert caught.value.message == f"no SSH answer from {endpoint} within 0.7 s (limits.connect): nothing came in time"


def test_what_has_ended_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_ALIVE_EVERY", 0.05)
    endpoint = server.endpoint()
    server.stop()
    began = time.monotonic()
    with pytest.raises(ConnectionFailed, match=r"within 60 s: it has ended \(connection refused\)"):
        SshRemote(endpoint, Deadline.after(60), alive=lambda: False)
    assert time.monotonic() - began < 10


def test_it_is_tried_until_somebody_answers(server: Server) -> None:
    def from_the_third(sock: socket.socket) -> bool:
        if server.connections < 3:
            sock.close()
        return server.connections > 2

    server.on_connect = from_the_third
    with SshRemote(server.endpoint(), Deadline.after(10)) as remote:
        assert remote.run(["echo", "up"], timeout=10).stdout == "up\n"
    assert server.connections == 3


def lab_key(server: Server, endpoint: Endpoint) -> None:
    """Let the endpoint's key be of the type that labkit makes."""
    endpoint.key.write_text(keys.ed25519()[0])
    server.allowed = [paramiko.Ed25519Key.from_private_key_file(str(endpoint.key))]


@pytest.mark.parametrize("ours", [True, False])
def test_a_login_that_is_cut_short_is_tried_again(server: Server, ours: bool) -> None:
    """A server that restarts in the middle of it; paramiko calls that a refused login."""
    server.on_login = lambda transport: transport.close() if server.connections < 3 else None
    endpoint = server.endpoint()
    if ours:
        lab_key(server, endpoint)
    with SshRemote(endpoint, Deadline.after(10)) as remote:
        assert remote.run(["echo", "up"], timeout=10).stdout == "up\n"


def test_a_login_that_nobody_answers(server: Server, impatient: None, hang: Callable[..., None]) -> None:
    server.on_login = hang
    error = refused(server.endpoint(), 0.1)
    assert error.message.startswith("no SSH answer from ")
    assert error.message.endswith("within 0.1 s: nothing came in time")


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n" * 200])
def test_what_answers_is_no_ssh_server(server: Server, greeting: bytes, impatient: None) -> None:
    """It takes the connection and says nothing, or something else."""

    def greet(sock: socket.socket) -> bool:
        sock.sendall(greeting)
        return False

    server.on_connect = greet
    error = refused(server.endpoint())
    assert error.message.startswith(f"no SSH answer from root@127.0.0.1:{server.port} within 0.2 s: ")


def test_a_host_name_that_does_not_exist(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refused(server.endpoint()).message.endswith(" within 0.2 s: name or service not known")


def at_once(server: Server, endpoint: Endpoint) -> ConnectionFailed:
    """The error of a connection that is not tried twice."""
    began = time.monotonic()
    error = refused(endpoint, 30)
    assert time.monotonic() - began < 5
    assert server.connections <= 1
    return error


def test_a_host_key_that_is_not_the_pinned_one(server: Server) -> None:
    endpoint = server.endpoint()
    server.pin(paramiko.ECDSAKey.generate())
    error = at_once(server, endpoint)
    assert error.message == f"{endpoint} shows another host key than the one pinned in {endpoint.known_hosts}"
    assert error.hint is not None
    assert "./lab destroy" in error.hint
    assert server.commands == []


def test_a_host_key_that_is_not_pinned(server: Server) -> None:
    endpoint = server.endpoint()
    server.pin()
    error = at_once(server, endpoint)
    assert error.message == f"{endpoint} has no host key pinned in {endpoint.known_hosts}"


def test_a_key_that_is_refused(server: Server) -> None:
    server.allowed = []
    endpoint = server.endpoint()
    assert at_once(server, endpoint).message == f"{endpoint} refuses the lab's key {endpoint.key}"


def test_a_server_that_speaks_no_cipher_of_ours(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = server.endpoint()
    preferred = paramiko.Transport._preferred_ciphers  # type: ignore[attr-defined]
    mine = iter([preferred[:1]])
    ciphers = property(lambda transport: preferred[-1:] if transport.server_mode else next(mine, preferred[:1]))
    monkeypatch.setattr(paramiko.Transport, "preferred_ciphers", ciphers)
    assert "no acceptable ciphers" in at_once(server, endpoint).message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file or directory"),
        (b"", "ValueError: "),
        (b"words\n", "ValueError: "),
        (b"\xff\x00", "ValueError: "),
    ],
)
def test_a_key_that_cannot_be_read(server: Server, content: bytes | None, why: str) -> None:
    endpoint = server.endpoint()
    endpoint.key.unlink()
    if content is not None:
        endpoint.key.write_bytes(content)
    error = at_once(server, endpoint)
    assert error.message.startswith(f"cannot log in to {endpoint} with the key {endpoint.key}: ")
    assert why in error.message


def test_a_key_with_a_passphrase(server: Server) -> None:
    endpoint = server.endpoint()
    endpoint.key.unlink()
    server.client_key.write_private_key_file(str(endpoint.key), password="secret")
    error = at_once(server, endpoint)
    assert error.message.startswith(f"cannot log in to {endpoint} with the key {endpoint.key}: ")
    assert error.hint == "it has a passphrase, which labkit does not ask for: name a key without one"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_pins_that_cannot_be_read(server: Server, content: bytes | None) -> None:
    endpoint = server.endpoint()
    endpoint.known_hosts.unlink()
    if content is not None:
        endpoint.known_hosts.write_bytes(content)
    assert at_once(server, endpoint).message.startswith(f"the host key of {endpoint} cannot be read: ")


def test_ctrl_c_while_it_connects_leaves_nothing(server: Server, hang: Callable[..., None]) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        hang()

    server.on_login = interrupt
    with pytest.raises(KeyboardInterrupt):
        SshRemote(server.endpoint(), Deadline.after(10))

    def connected() -> bool:
        return any(
            isinstance(thread, paramiko.Transport) and not thread.server_mode for thread in threading.enumerate()
        )

    assert Deadline.after(2).poll(lambda: not connected())


# ---- every exception


def exceptions(module: object) -> set[type[Exception]]:
    return {
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Exception) and not issubclass(value, Warning)
    }


def paramikos() -> list[type[Exception]]:
    """Every exception class that some module of paramiko defines or names, and those of sockets."""
    found: set[type[Exception]] = set()
    for info in pkgutil.iter_modules(paramiko.__path__, "paramiko."):
        if not info.name.endswith(("_winapi", "win_pageant", "win_openssh")):
            found |= exceptions(importlib.import_module(info.name))
    found |= exceptions(socket) | {kind for kind in exceptions(builtins) if issubclass(kind, (OSError, EOFError))}
    return sorted(found, key=lambda kind: kind.__qualname__)


KEY = paramiko.ECDSAKey.generate()
MADE: dict[type[Exception], Exception] = {
    ssh_exception.BadHostKeyException: ssh_exception.BadHostKeyException("host", KEY, KEY),
    ssh_exception.NoValidConnectionsError: ssh_exception.NoValidConnectionsError(
        {("127.0.0.1", 22): ConnectionRefusedError(111, "Connection refused")}
    ),
    ssh_exception.BadAuthenticationType: ssh_exception.BadAuthenticationType("no", ["password"]),
    ssh_exception.PartialAuthentication: ssh_exception.PartialAuthentication(["password"]),
    ssh_exception.ChannelException: ssh_exception.ChannelException(4, "Resource shortage"),
    UnknownKeyType: UnknownKeyType("strange", b"key"),
    AuthFailure: AuthFailure(AuthResult(None)),  # type: ignore[arg-type]
    ssh_exception.ProxyCommandFailure: ssh_exception.ProxyCommandFailure("nc", "it died"),
}
ENDPOINT = Endpoint("127.0.0.1", 2222, "root", Path("/keys/key"), Path("/keys/known_hosts"))


def mapped(error: Exception) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as caught, ssh._mapped(ENDPOINT, f"{ENDPOINT} did not do it"):
        raise error
    assert caught.value.__cause__ is error
    return caught.value


def test_the_walk_finds_what_there_is() -> None:
    names = {kind.__name__ for kind in paramikos()}
    assert names > {"ConfigParseError", "MessageOrderError", "InvalidHostKey", "gaierror", "ConnectionResetError"}
    assert names > {kind.__name__ for kind in exceptions(ssh_exception)}


@pytest.mark.parametrize("text", ["", "something happened", "two\nlines \033[2J"])
@pytest.mark.parametrize("kind", paramikos(), ids=lambda kind: kind.__qualname__)
def test_every_exception_becomes_one_of_ours(kind: type[Exception], text: str) -> None:
    try:
        error = MADE.get(kind) or (kind(text) if text else kind())
    except TypeError:  # it wants more words
        error = kind.__new__(kind, text)
    said = mapped(error)
    assert str(ENDPOINT) in said.message
    why = said.message.removeprefix(f"{ENDPOINT} did not do it").removeprefix(": ").strip()
    assert why
    assert (said.message + (said.hint or "")).isprintable()
    if text == "something happened" and kind not in MADE and isinstance(error, ssh_exception.SSHException):
        assert text in said.message + (said.hint or "")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (FileNotFoundError(2, "No such file or directory", "/keys/key"), "/keys/key: no such file or directory"),
        (TimeoutError(), "nothing came in time"),
        (EOFError(), "the other side closed the connection"),
        (ssh_exception.SSHException("No existing session"), "the connection ended while it was set up"),
        (ssh_exception.SSHException(), "SSHException"),
        (ssh_exception.SSHException("Error reading SSH protocol banner"), "Error reading SSH protocol banner"),
        (IndexError("index out of range"), "IndexError: index out of range"),
        (MADE[ssh_exception.NoValidConnectionsError], "connection refused"),
    ],
)
def test_it_says_why(error: Exception, why: str) -> None:
    assert mapped(error).message == f"{ENDPOINT} did not do it: {why}"


def test_a_person_who_gives_up_is_no_error_of_the_connection() -> None:
    with pytest.raises(KeyboardInterrupt), ssh._mapped(ENDPOINT, "x"):
        raise KeyboardInterrupt


# ---- signals


class _Signal:
    """Traces this thread, and sends a signal where a lock of paramiko or of threading has just been taken.

    Such a place is a line of the source. Sent at the first place that is not in `seen`, once for each _Signal.
    """

    def __init__(self, seen: set[tuple[str, int]]) -> None:
        self._seen, self.at = seen, ""

    def __call__(self, frame: FrameType, event: str, _: object) -> _Signal | None:
        name = frame.f_code.co_filename
        if not name.startswith(
            (str(Path(paramiko.__file__).parent), threading.__file__, str(Path(futures.__file__).parent))
        ):
            return None
        line = linecache.getline(name, frame.f_lineno - 1) if event == "line" else ""
        entered = event == "return" and frame.f_code.co_name == "__enter__"
        place = (name, frame.f_lineno)
        if (".acquire(" in line or entered) and not self.at and place not in self._seen:
            self._seen.add(place)
            self.at = f"{name}:{frame.f_lineno}"
            os.kill(os.getpid(), signal.SIGHUP)
        return self


def test_a_signal_never_leaves_a_lock_that_is_waited_for_afterwards(server: Server) -> None:
    def too_long(*_: object) -> None:
        raise AssertionError("it hangs")

    def once() -> None:
        with SshRemote(server.endpoint(), Deadline.after(10)) as remote:
            remote.upload(b"x" * 100_000, str(server.directory / "file"))
            remote.run(["sh", "-c", "sleep 0.1; echo x"], timeout=10, attached=True)

    old = [
        (number, signal.signal(number, handler))
        for number, handler in ((signal.SIGHUP, lambda n, _: interrupt(n)), (signal.SIGALRM, too_long))
    ]
    seen: set[tuple[str, int]] = set()
    try:
        while True:
            tracer = _Signal(seen)
            signal.alarm(15)
            sys.settrace(tracer)
            try:
                once()
            except Interrupted:
                assert tracer.at
            except AssertionError as error:
                raise AssertionError(f"interrupted at {tracer.at}, it hangs") from error
            finally:
                sys.settrace(None)
                signal.alarm(0)
            if not tracer.at:
                break
    finally:
        for number, handler in old:
            signal.signal(number, handler)
    assert len(seen) > 5

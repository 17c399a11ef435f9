"""Messages to people, sent to real servers on the loopback: mail, webhooks, apprise; what goes wrong, and secrets."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import json
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from labkit.core import config
from labkit.core.errors import HostError, InfrastructureError, UsageError
from labkit.io import tell
from labkit.io.tell import Mail
from labkit.usecases import tell as usecase
from tests.test_night import a_night, failure

SECRET = "hunter2-Sw0rdf1sh-and-more"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once, and nothing goes through a proxy of this host."""
    monkeypatch.setattr(tell, "_PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate for 127.0.0.1 and localhost, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(pem))
    return path


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


# --- mail


@dataclass
class Post:
    """What arrived at a mail server, and what it answers to whom."""

    arrived: list[EmailMessage] = field(default_factory=list)
    to: list[str] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    at_data: list[str] = field(default_factory=list)  # answers to DATA, before it takes one
    port: int = 0

    async def handle_RCPT(self, _server: Any, _session: Session, envelope: Envelope, to: str, _options: Any) -> str:
        if to in self.refuse:
            return self.refuse[to]
        envelope.rcpt_tos.append(to)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Session, envelope: Envelope) -> str:
        if self.at_data:
            return self.at_data.pop(0)
        assert isinstance(envelope.content, bytes)
        self.arrived.append(message_from_bytes(envelope.content, policy=policy.default))
        self.to += envelope.rcpt_tos
        return "250 taken"


def authenticated(_server: Any, _session: Any, _envelope: Any, _how: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"me", SECRET.encode())
    return (
        AuthResult(success=good, handled=False)
        if good
        else AuthResult(success=False, handled=False, message=f"535 5.7.8 {SECRET if data else ''} is wrong")
    )


@contextlib.contextmanager
def mail_server(certificate: Path | None = None, *, implicit: bool = False, login: bool = False) -> Iterator[Post]:
    post = Post()
    context = server_context(certificate) if certificate else None
    more: dict[str, Any] = {"ssl_context": context} if implicit else {"tls_context": context}
    if login:
        more |= {"authenticator": authenticated, "auth_required": True, "auth_require_tls": not implicit}
    controller = Controller(post, hostname="127.0.0.1", port=free_port(), **more)
    controller.start()
    try:
        post.port = controller.port
        yield post
    finally:
        controller.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def to(server: str, **more: Any) -> Mail:
    return Mail(server, "labkit@example.org", ("you@example.org", "them@example.org"), **more)


def test_a_mail_on_this_host_arrives_whole() -> None:
    with mail_server() as post:
        assert tell.mail(to(f"127.0.0.1:{post.port}"), "labkit: 1 new failure\r\nBcc: x@y", "déjà vu\n.\nend\n") == ""
    [mail] = post.arrived
    assert mail["Subject"] == "labkit: 1 new failure\\r\\nBcc: x@y" and mail["Bcc"] is None
    assert (mail["From"], mail["Auto-Submitted"]) == ("labkit@example.org", "auto-generated")
    assert mail.get_content().replace("\r\n", "\n") == "déjà vu\n.\nend\n"
    assert post.to == ["you@example.org", "them@example.org"]


@pytest.mark.usefixtures("trusted")
def test_mail_with_starttls_and_a_password(certificate: Path) -> None:
    with mail_server(certificate, login=True) as post:
        tell.mail(to(f"smtp://localhost:{post.port}", user="me", password=SECRET), "s", "t\n")
    assert len(post.arrived) == 1


@pytest.mark.usefixtures("trusted")
@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # the server does not see that the whole connection is TLS
def test_mail_with_tls_from_the_start(certificate: Path) -> None:
    with mail_server(certificate, implicit=True, login=True) as post:
        tell.mail(to(f"smtps://localhost:{post.port}", user="me", password=SECRET), "s", "t\n")
    assert len(post.arrived) == 1


def fails(send: Callable[[], object]) -> str:
    """The message of the failure, which never has the secret."""
    with pytest.raises(InfrastructureError) as caught:
        send()
    text = f"{caught.value.message} {caught.value.hint}"
    assert SECRET not in text and "hunter2" not in text, text
    assert caught.value.__cause__ is None
    return caught.value.message


@pytest.mark.usefixtures("trusted")
def test_a_wrong_password_is_not_told_though_the_server_tells_it(certificate: Path) -> None:
    with mail_server(certificate, login=True) as post:
        mail = to(f"localhost:{post.port}", user="you", password=SECRET)
        said = fails(lambda: tell.mail(mail, "s", "t"))
    assert "the server refuses the login: 535" in said
    assert SECRET not in repr(mail)


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with mail_server(certificate, login=True) as post:
        mail = to(f"localhost:{post.port}", user="me", password=SECRET)
        assert "certificate is not trusted" in fails(lambda: tell.mail(mail, "s", "t"))
    assert post.arrived == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_name_is_refused(certificate: Path) -> None:
    with mail_server(certificate) as post:
        assert "not trusted" in fails(lambda: tell.mail(to(f"smtp://0.0.0.0:{post.port}"), "s", "t"))
    assert post.arrived == []


def test_no_password_and_no_mail_for_elsewhere_without_tls() -> None:
    with mail_server() as post:
        for mail in (to(f"127.0.0.1:{post.port}", user="me", password=SECRET), to(f"0.0.0.0:{post.port}")):
            assert "has no STARTTLS" in fails(lambda mail=mail: tell.mail(mail, "s", "t"))  # type: ignore[misc]
        assert post.arrived == []
        tell.mail(to(f"smtp+plain://0.0.0.0:{post.port}"), "s", "t")  # asked for
    assert len(post.arrived) == 1


def test_some_addresses_are_refused_and_the_others_get_it() -> None:
    with mail_server() as post:
        post.refuse = {"them@example.org": "550 no such user"}
        assert tell.mail(to(f"127.0.0.1:{post.port}"), "s", "t") == "refused for them@example.org (550 no such user)"
        assert post.to == ["you@example.org"]
        post.refuse["you@example.org"] = "550 nor this"
        assert "every address was refused" in fails(lambda: tell.mail(to(f"127.0.0.1:{post.port}"), "s", "t"))


def test_what_is_refused_for_now_is_tried_again_and_for_good_is_not() -> None:
    with mail_server() as post:
        post.at_data = ["451 greylisted", "421 busy"]
        tell.mail(to(f"127.0.0.1:{post.port}"), "s", "t")
        assert len(post.arrived) == 1
        post.at_data = ["554 spam", "250 never asked"]
        assert "554 spam" in fails(lambda: tell.mail(to(f"127.0.0.1:{post.port}"), "s", "t"))
        assert len(post.at_data) == 1


@contextlib.contextmanager
def answering(*answers: bytes, then: str = "hang") -> Iterator[int]:
    """A server that says these, one for each thing it hears (the first at once), then hangs, drips or closes."""
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            for number, answer in enumerate(answers):
                if number:
                    connection.recv(1 << 16)
                connection.sendall(answer)
            while then == "drip" and not over.wait(0.05):
                connection.sendall(b"x")
            if then == "hang":
                over.wait(30)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        over.set()
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize(
    ("answers", "then", "said"),
    [
        ((), "hang", "does not answer"),
        ((), "drip", "does not answer"),
        ((b"220 here\r\n",), "hang", "does not answer"),
        ((b"220 here\r\n", b"250-a\r\n"), "drip", "does not answer"),
        ((), "close", "ended the connection, or is no mail server"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "close", "no mail server"),
        ((b"\xff\xfe\x00" * 9 + b"\r\n",), "close", "no mail server"),
        ((b"554 go away " + SECRET.encode() + b"\r\n",), "close", "refuses the connection: 554 go away"),
        (
            (b"220 here\r\n", b"250 a\r\n", b"250 a\r\n", b"550 " + b"x" * 400 + b"\r\n", b"550 y\r\n"),
            "close",
            "every address was refused",
        ),
    ],
)
def test_mail_servers_that_do_what_none_should(answers: tuple[bytes, ...], then: str, said: str) -> None:
    began = time.monotonic()
    with answering(*answers, then=then) as port:
        mail = to(f"127.0.0.1:{port}")
        with pytest.raises(InfrastructureError) as caught:
            tell.mail(mail, "s", "t", timeout=1)
    assert said in caught.value.message and len(caught.value.message) < 1000
    assert time.monotonic() - began < 4


def test_nobody_at_the_port_and_no_such_host() -> None:
    assert "Connection refused" in fails(lambda: tell.mail(to(f"127.0.0.1:{free_port()}"), "s", "t"))
    assert "name is not known" in fails(lambda: tell.mail(to("none.invalid"), "s", "t", timeout=20))


def test_a_server_that_hangs_after_it_took_the_mail_has_it() -> None:
    ok = [b"220 here\r\n", b"250 a\r\n", b"250 f\r\n", b"250 t\r\n", b"250 t\r\n", b"354 go\r\n", b"250 taken\r\n"]
    began = time.monotonic()
    with answering(*ok) as port:
        assert tell.mail(to(f"127.0.0.1:{port}"), "s", "t", timeout=10) == ""
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("server", "place"),
    [
        ("mail.example.org", ("smtp", "mail.example.org", 587)),
        ("mail.example.org:465", ("smtps", "mail.example.org", 465)),
        ("smtps://mail.example.org", ("smtps", "mail.example.org", 465)),
        ("smtp://mail.example.org:2525/", ("smtp", "mail.example.org", 2525)),
        ("smtp+plain://relay", ("smtp+plain", "relay", 25)),
        ("localhost", ("smtp", "localhost", 25)),
        ("[::1]:26", ("smtp", "::1", 26)),
    ],
)
def test_where_mail_goes(server: str, place: tuple[str, str, int]) -> None:
    assert to(server).place == place


# --- webhooks


@dataclass
class Hook:
    port: int = 0
    status: list[int] = field(default_factory=list)  # answers, the last of which stays
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextlib.contextmanager
def hook(*status: int, certificate: Path | None = None) -> Iterator[Hook]:
    about = Hook(status=list(status))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            about.paths.append(self.path)
            about.headers.append(dict(self.headers))
            about.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            code = about.status.pop(0) if len(about.status) > 1 else about.status[0]
            self.send_response(code, f"no {SECRET}")
            if 300 <= code < 400:
                self.send_header("Location", f"http://127.0.0.1:{about.port}/moved/{SECRET}")
            self.end_headers()
            self.wfile.write(SECRET.encode())

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            server.socket = server_context(certificate).wrap_socket(server.socket, server_side=True)
        about.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield about
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_gets_json() -> None:
    with hook(200) as there:
        assert tell.webhook(f"http://127.0.0.1:{there.port}/services/{SECRET}?a=b#c", {"text": "héllo"}) == ""
    assert there.bodies == [{"text": "héllo"}] and there.paths == [f"/services/{SECRET}?a=b"]
    assert there.headers[0]["Content-Type"] == "application/json"


def test_a_user_in_the_address_logs_in() -> None:
    with hook(204) as there:
        tell.webhook(f"http://me:p%40ss@127.0.0.1:{there.port}/", {})
    assert there.headers[0]["Authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.usefixtures("trusted")
def test_a_webhook_over_tls(certificate: Path) -> None:
    with hook(200, certificate=certificate) as there:
        tell.webhook(f"https://localhost:{there.port}/", {"text": "t"})
    assert len(there.bodies) == 1


def test_a_webhook_with_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    with hook(200, certificate=certificate) as there:
        said = fails(lambda: tell.webhook(f"https://localhost:{there.port}/{SECRET}", {}))
    assert "certificate is not trusted" in said and there.bodies == []


@pytest.mark.parametrize(
    ("status", "asked", "said"),
    [
        ((404,), 1, "the server answers 404 Not Found"),
        ((403,), 1, "403 Forbidden"),
        ((302,), 1, "302 Found; the message is not sent on"),
        ((307,), 1, "the message is not sent on"),
        ((500,), 3, "500 Internal Server Error"),
        ((429,), 3, "429 Too Many Requests"),
        ((799,), 3, "799"),
        ((503, 503, 200), 3, ""),
    ],
)
def test_what_a_webhook_answers(status: tuple[int, ...], asked: int, said: str) -> None:
    with hook(*status) as there:
        url = f"http://me:{SECRET}@127.0.0.1:{there.port}/{SECRET}"
        if said:
            assert said in fails(lambda: tell.webhook(url, {}))
        else:
            tell.webhook(url, {})
    assert len(there.bodies) == asked and set(there.paths) == {f"/{SECRET}"}


@pytest.mark.parametrize(
    ("answers", "then", "said"),
    [
        ((), "hang", "does not answer"),
        ((b"",), "drip", "does not answer"),
        ((b"", b"HTTP/1.1 200 OK\r\nX: "), "drip", "does not answer"),
        ((b"", b"220 mail.example.org\r\n"), "close", "no web server"),
        ((), "close", ""),
        ((b"", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n"), "close", "no web server"),
    ],
)
def test_web_servers_that_do_what_none_should(answers: tuple[bytes, ...], then: str, said: str) -> None:
    began = time.monotonic()
    with answering(*answers, then=then) as port:
        assert said in fails(lambda: tell.webhook(f"http://127.0.0.1:{port}/{SECRET}", {}, timeout=1))
    assert time.monotonic() - began < 4


def test_a_body_that_never_ends_is_not_waited_for() -> None:
    with answering(b"", b"HTTP/1.1 200 OK\r\n\r\n", then="drip") as port:
        assert tell.webhook(f"http://127.0.0.1:{port}/", {}, timeout=5) == ""


@pytest.mark.parametrize(
    "url",
    [f"file:///etc/passwd?{SECRET}", f"ftp://{SECRET}", f"http://[{SECRET}", f"http://127.0.0.1:{SECRET}/", SECRET,
     f"http:///{SECRET}", f"http://a b/{SECRET}", f"http://127.0.0.1:99999/{SECRET}", f"http://é/{SECRET}"],
)  # fmt: skip
def test_what_is_no_address_is_told_without_it(url: str) -> None:
    fails(lambda: tell.webhook(url, {}))


# --- apprise


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own affair
def test_apprise_sends_and_its_log_stays_silent(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("apprise")
    with hook(200) as there:
        tell.apprise(f"json://me:{SECRET}@127.0.0.1:{there.port}/x", "title", "body")
        assert (there.bodies[0]["title"], there.bodies[0]["message"]) == ("title", "body")
        there.status = [500]
        assert fails(lambda: tell.apprise(f"json://me:{SECRET}@127.0.0.1:{there.port}/", "t", "b")) == (
            "apprise json: the service did not take it"
        )
    assert "knows no such service" in fails(lambda: tell.apprise(f"nonsense://{SECRET}", "t", "b"))
    assert "knows no such service" in fails(lambda: tell.apprise(SECRET, "t", "b"))
    assert SECRET not in caplog.text
    assert not logging.getLogger("apprise").propagate


def test_without_apprise_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(HostError, match="apprise is not installed") as caught:
        tell.apprise(f"json://{SECRET}", "t", "b")
    assert "oci-labkit[tell]" in (caught.value.hint or "") and SECRET not in str(caught.value)


# --- secrets


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_in_a_file(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "s", f"{SECRET}\n", mode)
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        assert tell.secret(f"file:{name}", {}, "tell.webhook") == SECRET


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620, 0o602, 0o601])
def test_a_secret_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "s", SECRET, mode)
    with pytest.raises(UsageError, match=f"can be read or written by others .mode {mode:04o}") as caught:
        tell.secret(f"file:{path}", {}, "tell.webhook")
    assert SECRET not in str(caught.value) and caught.value.hint == f"chmod 600 {path}"


def test_a_secret_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o600)
    private(tmp_path / "empty", "\n")
    private(tmp_path / "two", f"{SECRET}\n{SECRET}\n")
    for name, said in [("none", "No such file"), ("pipe", "is no file"), ("fifo", "is no file"),
                       ("empty", "one line"), ("two", "one line")]:  # fmt: skip
        with pytest.raises(UsageError, match=said) as caught:
            tell.secret(f"file:{tmp_path / name}", {}, "tell.webhook")
        assert SECRET not in str(caught.value)
    with pytest.raises(UsageError, match="the environment has no HOOK"):
        tell.secret("env:HOOK", {"HOOK": ""}, "tell.webhook")
    assert tell.secret("env:HOOK", {"HOOK": SECRET}, "tell.webhook") == SECRET


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    os.chown(private(tmp_path / "s", SECRET), 12345, -1)
    with pytest.raises(UsageError, match="belongs to another user"):
        tell.secret(f"file:{tmp_path / 's'}", {}, "tell.webhook")


@pytest.mark.parametrize(
    ("value", "key", "mode", "good"),
    [
        (f"https://hooks.slack.com/services/T00000000/B00000000/{SECRET}", "tell.webhook", 0o644, False),
        (f"https://hooks.slack.com/services/T00000000/B00000000/{SECRET}", "tell.webhook", 0o600, True),
        ("http://me:pw@alerts.lan/", "tell.webhook", 0o644, False),
        ("http://alerts.lan/?key=1", "tell.webhook", 0o644, False),
        ("http://alerts.lan:8080/labkit/hook", "tell.webhook", 0o644, True),
        ("tgram://123/456", "tell.apprise", 0o644, False),
        ("json://alerts.lan/x", "tell.apprise", 0o644, True),
        ("pw", "tell.mail.password", 0o640, False),
        ("pw", "tell.mail.password", 0o600, True),
        ("http://[", "tell.webhook", 0o644, False),
    ],
)
def test_a_secret_in_the_configuration_wants_it_private(
    tmp_path: Path, value: str, key: str, mode: int, good: bool
) -> None:
    written = private(tmp_path / "labkit.toml", "", mode)
    if good:
        assert tell.secret(value, {}, key, written) == value
    else:
        with pytest.raises(UsageError, match="holds a secret") as caught:
            tell.secret(value, {}, key, written)
        assert value not in f"{caught.value} {caught.value.hint}"
    assert tell.secret(value, {}, key, None) == value  # of the environment


# --- the use case


def settings(tmp_path: Path, text: str, **environ: str) -> config.Settings:
    private(tmp_path / "labkit.toml", text)
    return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path), **environ})


def test_nobody_asked_so_nobody_is_told(tmp_path: Path) -> None:
    assert usecase.tell(settings(tmp_path, ""), a_night(new_failures=[failure("A-001")])) == []
    assert not (tmp_path / "reports").exists()


def test_a_night_is_told_once_by_every_channel(tmp_path: Path) -> None:
    with mail_server() as post, hook(200) as there:
        given = settings(
            tmp_path,
            f'[tell]\nwebhook = "http://127.0.0.1:{there.port}/h"\nlink = "https://ci.example.org/r/"\n'
            f'mail = {{to = ["a@b.example"], from = "c@d.example", server = "localhost:{post.port}"}}\n',
        )
        night = a_night(
            new_failures=[failure("STATE-003", cells=["debian-13/uml/runc@main/spec"], what="<!channel> @all")]
        )
        told = usecase.tell(given, night)
        assert [(one.channel, one.delivered) for one in told] == [("mail", True), ("webhook", True)]
        assert told[0].text == "told: labkit: 1 new failure (night 20261126.1)"
        assert usecase.tell(given, night) == []  # the same night
        assert usecase.tell(given, a_night("20261127.1")) == []  # nothing changed
    [mail], [body] = post.arrived, there.bodies
    assert mail["Subject"] == "labkit: 1 new failure (night 20261126.1)"
    text = mail.get_content()
    assert text.startswith("Look at 1 new failure (STATE-003 in debian-13/uml/runc@main/spec)")
    assert "$ ./lab test --platform debian --release 13 --provider uml --runtime runc@main --suite spec --only" in text
    assert "report: https://ci.example.org/r/nights/20261126.1/index.html" in text
    assert body.keys() == {"text"} and "‹!channel› ＠all" in body["text"] and "runc@main" in body["text"]  # noqa: RUF001


def test_what_fails_is_told_later_and_loses_nothing(tmp_path: Path) -> None:
    with hook(404) as there, mail_server() as post:
        given = settings(
            tmp_path,
            f'[tell]\nwebhook = "env:HOOK"\n'
            f'mail = {{to = ["a@b.example"], from = "c@d.example", server = "localhost:{post.port}"}}\n',
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOOK", f"http://127.0.0.1:{there.port}/{SECRET}")
            told = usecase.tell(given, a_night(new_failures=[failure("A-001")]), timeout=5)
            assert [one.delivered for one in told] == [True, False]
            assert told[1].text == f"webhook http://127.0.0.1:{there.port}: the server answers 404 Not Found"
            there.status = [200]
            [late] = usecase.tell(given, a_night("20261127.1"))
            assert late.channel == "webhook" and late.delivered
            assert "could not be told before:\n  labkit: 1 new failure (night 20261126.1)" in there.bodies[-1]["text"]
            assert usecase.tell(given, a_night("20261128.1")) == []
    assert len(post.arrived) == 1
    assert SECRET not in (tmp_path / "reports/nights/told.json").read_text()
    assert (tmp_path / "reports/nights/told.json").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_is_not_there_is_told_and_checked_before_the_night(tmp_path: Path) -> None:
    given = settings(tmp_path, f'[tell]\nwebhook = "file:{SECRET}/x"\napprise = ["env:NOT_SET_AT_ALL"]\n')
    with pytest.raises(UsageError, match=r"tell\.webhook names, cannot be read"):
        usecase.check(given)
    told = usecase.tell(given, a_night(new_failures=[failure("A-001")]))
    assert [one.delivered for one in told] == [False, False]
    assert "NOT_SET_AT_ALL" in told[1].text


def test_a_readable_configuration_with_a_secret_is_refused(tmp_path: Path) -> None:
    given = settings(tmp_path, f'[tell]\nwebhook = "https://127.0.0.1:1/{SECRET}"\n')
    (tmp_path / "labkit.toml").chmod(0o644)
    with pytest.raises(UsageError, match="holds a secret") as caught:
        usecase.check(given)
    assert SECRET not in f"{caught.value}{caught.value.hint}"
    usecase.check(settings(tmp_path, "", LABKIT_TELL_WEBHOOK=f"https://127.0.0.1:1/{SECRET}"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nights": 3}', '{"seen": {"a": "x"}}', "\0" * 10, "[" * 100_000])
def test_a_damaged_state_is_told_and_begun_anew(tmp_path: Path, text: str) -> None:
    with hook(200) as there:
        given = settings(tmp_path, f'[tell]\nwebhook = "http://127.0.0.1:{there.port}/"\n')
        (tmp_path / "reports/nights").mkdir(parents=True)
        (tmp_path / "reports/nights/told.json").write_text(text)
        first, second = usecase.tell(given, a_night(new_failures=[failure("A-001")]))
        assert not first.delivered and "may be told again" in first.text
        assert second.delivered
        assert usecase.tell(given, a_night("20261127.1")) == []


def test_a_state_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with hook(200) as there:
        given = settings(tmp_path, f'[tell]\nwebhook = "http://127.0.0.1:{there.port}/"\n')
        (tmp_path / "reports").write_text("a file")
        told = usecase.tell(given, a_night(new_failures=[failure("A-001")]))
        assert [one.delivered for one in told][-1:] == [False]
        assert "cannot" in told[-1].text


def test_a_night_that_is_none_is_told(tmp_path: Path) -> None:
    given = settings(tmp_path, '[tell]\nwebhook = "http://127.0.0.1:1/"\n')
    [one] = usecase.tell(given, {"schema": 1, "id": 3})
    assert not one.delivered and "night.json" in one.text
    [one] = usecase.tell(given, {"schema": 2})
    assert "this labkit knows 1" in one.text


@pytest.mark.parametrize(
    "line",
    [f'webhook = "ftp://{SECRET}"', f'webhook = ["{SECRET}"]', f'apprise = [["{SECRET}"]]', f'mail = "{SECRET}"',
     f'mail.server = "smtp://me:{SECRET}@host"', f'link = "https://me:{SECRET}@host"', f'mail.password = "{SECRET}"',
     f'apprise = {{x = "{SECRET}"}}', f'webhook = "http://x/{SECRET}\\n"'],
)  # fmt: skip
def test_a_mistake_in_the_configuration_is_told_without_its_value(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(tmp_path, f"[tell]\n{line}\n")
    assert SECRET not in f"{caught.value}{caught.value.hint}" and "tell." in str(caught.value)


@pytest.mark.parametrize("word", ["a@b\\nBcc: c@d", "a b@c", "a@b c", "<a@b>", "a@b\\n", "@b", "a@", "ä@b.example"])
def test_what_is_no_mail_address_is_refused(tmp_path: Path, word: str) -> None:
    for line in (f'from = "{word}"\nto = ["a@b.example"]', f'from = "a@b.example"\nto = ["{word}"]'):
        with pytest.raises(UsageError, match=r"must be .*mail address"):
            settings(tmp_path, f'[tell.mail]\nserver = "localhost"\n{line}\n')


def test_secrets_do_not_show_in_settings(tmp_path: Path) -> None:
    given = settings(tmp_path, f'[tell]\nwebhook = "https://h/{SECRET}"\napprise = ["x://{SECRET}"]\n')
    assert SECRET not in repr(given) and SECRET not in given.model_dump_json(exclude={"home"})
    assert given.without_secrets().tell.webhook is None
    assert config.secret_variables() == {"LABKIT_TELL_WEBHOOK", "LABKIT_TELL_APPRISE", "LABKIT_TELL_MAIL_PASSWORD"}

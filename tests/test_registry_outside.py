"""A registry that runs already, over TLS: real servers, with certificates of a CA made here."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from labkit.core.errors import UsageError
from labkit.guest.registries.cli import _secrets, _without
from labkit.guest.registries.outside import check
from labkit.guest.registries.registry import Broken
from labkit.results.model import Reading, Verdict
from labkit.subjects.runtimes import Runtime
from labkit.subjects.runtimes import words as runtime_words
from labkit.suites import distribution as suite
from labkit.suites.base import OfRegistries
from tests.stock import Stock
from tests.test_distribution import guest, script, tools_of

PASSWORD = "s3cret & \"quoted\" 'word' <x>"
DAY = datetime.timedelta(days=1)

BCRYPT = "$2b$05$aaaaaaaaaaaaaaaaaaaaauzctSumeoieEeVf9L1mmFWXvWl7kNBZ2"  # of PASSWORD


class Authority:
    """A CA; what it signs is for the name that is said, and valid from yesterday, or as is said."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._key, name = ec.generate_private_key(ec.SECP256R1()), _named("CA of a test")
        made = _certificate(name, name, self._key.public_key(), -DAY, DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._made = made.sign(self._key, hashes.SHA256())
        self.pem = self._made.public_bytes(serialization.Encoding.PEM).decode()

    def context(self, name: str = "localhost", begin: datetime.timedelta = -DAY, end: datetime.timedelta = DAY) -> Path:
        """A file with a key and a certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(_named(name), self._made.subject, key.public_key(), begin, end)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        signed = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = serialization.PrivateFormat.PKCS8
        private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        file = self._place / f"{name}{end.days}{begin.days}.pem"
        file.write_bytes(private + signed)
        return file


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    name: x509.Name, by: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime.timedelta, end: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(by).public_key(key)
    return made.serial_number(x509.random_serial_number()).not_valid_before(now + begin).not_valid_after(now + end)


class Handler(http.server.BaseHTTPRequestHandler):
    wanted = ""  # of Authorization

    def do_GET(self) -> None:
        known = self.headers.get("Authorization", "") == self.wanted
        self.send_response(200 if known else 401)
        if not known:
            self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that does not trust it


@contextlib.contextmanager
def serving(certificate: Path | None, user: str = "") -> Iterator[int]:
    """The port of a registry that answers GET /v2/, to everybody or to that user."""
    pair = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
    wanted = f"Basic {pair}" if user else ""
    with Server(("127.0.0.1", 0), type("Asking", (Handler,), {"wanted": wanted})) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def refused(url: str, user: str = "", password: str = "", certificates: str = "") -> str:
    with pytest.raises(Broken) as caught:
        check(url, user, password, certificates)
    said = str(caught.value)
    assert not password or password not in said
    return said


def test_a_ca_that_is_named_is_trusted_and_another_is_not(authority: Authority, tmp_path: Path) -> None:
    with serving(authority.context()) as port:
        url = f"https://localhost:{port}"
        check(url, "", "", authority.pem)
        assert "does not know the CA" in refused(url) and "SSL_CERT_FILE" in refused(url)
        assert "does not know the CA" in refused(url, certificates=Authority(tmp_path).pem)


def test_a_ca_as_openssl_makes_it_is_as_good_for_a_newer_python(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 3.13 on a default context wants extensions that the conformance program does not ask for."""
    made = ssl.create_default_context

    def strict() -> ssl.SSLContext:
        context = made()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    with serving(authority.context()) as port:
        check(f"https://localhost:{port}", "", "", authority.pem)


def test_a_certificate_that_is_not_good_is_told_from_another(authority: Authority) -> None:
    with serving(authority.context(begin=-2 * DAY, end=-DAY)) as port:
        assert "has expired (the machine's clock says 2" in refused(
            f"https://localhost:{port}", certificates=authority.pem
        )
    with serving(authority.context(begin=DAY, end=2 * DAY)) as port:
        assert "not valid yet" in refused(f"https://localhost:{port}", certificates=authority.pem)
    with serving(authority.context("registry.example.org")) as port:
        for host in ("localhost", "127.0.0.1"):
            assert f"is not for {host}" in refused(f"https://{host}:{port}", certificates=authority.pem)


def test_one_who_is_not_known_is_told_what_to_set(authority: Authority) -> None:
    with serving(authority.context(), "ada") as port:
        url = f"https://localhost:{port}"
        assert "set OCI_USERNAME and OCI_PASSWORD" in refused(url, certificates=authority.pem)
        assert "does not take the user and password" in refused(url, "bob", PASSWORD, authority.pem)
        check(url, "ada", PASSWORD, authority.pem)


def test_http_and_https_are_told_apart(authority: Authority) -> None:
    with serving(None) as port:
        check(f"http://127.0.0.1:{port}", "", "", "")
        assert f"does not speak TLS: if it is to be used without, --registry http://localhost:{port}" in refused(
            f"https://localhost:{port}"
        )
    with serving(authority.context()) as port:
        assert f"https://localhost:{port}" in refused(f"http://localhost:{port}")


def test_a_server_of_go_that_was_asked_without_tls_is_told() -> None:
    """Its answer, as docker-registry 2.8.3 gave it."""
    answer = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        assert f"if it speaks TLS, --registry https://localhost:{port}" in refused(f"http://localhost:{port}")
        thread.join()


def test_what_is_not_there_is_told_from_what_has_no_name() -> None:
    assert "cannot resolve that name" in refused("https://registry.invalid")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert f"localhost port {port} cannot be reached" in refused(f"https://localhost:{port}")
    assert "is not HOST" in refused("https://localhost:99999")


def test_behind_a_proxy_the_conformance_program_is_left_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    check("https://registry.invalid", "", "", "")


# --- what is sent


def over(environ: dict[str, str], url: str = "https://registry.example.org") -> dict[str, str]:
    """What the program in the machine gets on its stdin."""
    word = runtime_words.parse(url, [], Path("/"), "registry")
    registry = Runtime("registry.example.org", str(word), "")
    assert isinstance(suite.SUITE, OfRegistries)
    made = suite.SUITE.over(registry, "/oci-conformance", environ)
    assert isinstance(made, suite.Distribution)
    found: dict[str, str] = json.loads(made.stdin or b"{}")
    return found


def test_only_the_certificates_of_the_file_go_to_the_machine(authority: Authority) -> None:
    file = authority.context("private.example.org")
    assert "PRIVATE KEY" in file.read_text()
    sent = over({"SSL_CERT_FILE": str(file)})["SSL_CERT_FILE"]
    assert sent.count("BEGIN CERTIFICATE") == 1 and sent in file.read_text() and "PRIVATE" not in sent
    assert over({"SSL_CERT_FILE": str(file)}, "http://registry.example.org") == {}


def test_a_file_without_a_certificate_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    for name, why in (("none", "No such file"), ("empty", "no certificate"), ("large", "more than")):
        with pytest.raises(UsageError, match=why) as caught:
            over({"SSL_CERT_FILE": str(tmp_path / name)})
        assert str(tmp_path / name) in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "https://ada:pa55word@registry.example.org",
        "HTTPS://ada:pa55word@registry.example.org/x",
        "https://ada:pa55word",
        "https://registry.example.org/?token=pa55word",
        "ada:pa55word@registry.example.org",
    ],
)
def test_a_password_in_an_address_is_in_no_message(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        runtime_words.parse(url, ["distribution"], Path("/"), "registry")
    assert "pa55word" not in f"{caught.value.message} {caught.value.hint}"


def test_a_path_in_an_address_is_refused() -> None:
    with pytest.raises(UsageError, match="is not the address of one") as caught:
        runtime_words.parse("https://registry.example.org/v2/", ["distribution"], Path("/"), "registry")
    assert "without a path" in str(caught.value.hint)


FORMS = [
    PASSWORD,
    json.dumps(PASSWORD),
    "s3cret &amp; &#34;quoted&#34; &#39;word&#39; &lt;x&gt;",
    "s3cret &amp; &quot;quoted&quot; &#39;word&#39; &lt;x&gt;",
    "s3cret+%26+%22quoted%22+%27word%27+%3Cx%3E",
    "s3cret%20%26%20%22quoted%22%20%27word%27%20%3Cx%3E",
    f"'{PASSWORD.replace(chr(39), chr(39) * 2)}'",
    base64.b64encode(f"ada:{PASSWORD}".encode()).decode(),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_password_is_taken_out_however_it_is_written(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("OCI_USERNAME", "ada")
    monkeypatch.setenv("OCI_PASSWORD", PASSWORD)
    said = _without(f"[{form}]".encode(), _secrets()).decode()
    assert "***" in said and "s3cret" not in said and len(said) < 12


# --- the program that runs in the machine, on this host


def told(tmp_path: Path, url: str, conformance: str, **variables: str) -> tuple[Reading, Path]:
    program = script(tmp_path / "conformance", conformance)
    given = json.dumps(variables) + "\n"
    _, reading, status = guest(tmp_path, "--variables", registry=url, program=program, stdin=given)
    assert status == 0
    for path in (tmp_path / "raw").iterdir():
        assert PASSWORD not in path.read_text()
    return reading, tmp_path / "raw"


@pytest.mark.host_runtime
def test_a_registry_that_cannot_be_used_is_not_tested(authority: Authority, tmp_path: Path) -> None:
    with serving(authority.context(), "ada") as port:
        reading, raw = told(tmp_path, f"https://localhost:{port}", "echo ran")
    assert reading.reason and "cannot be used, so nothing was tested" in reading.reason
    assert "does not know the CA" in reading.reason and not (raw / "conformance.out").exists()


@pytest.mark.host_runtime
def test_the_conformance_program_gets_the_ca_and_the_credentials(authority: Authority, tmp_path: Path) -> None:
    pem = authority.pem * 300  # more than a variable of a process may have
    assert len(pem) > 128 << 10
    basic = base64.b64encode(f"ada:{PASSWORD}".encode()).decode()
    with serving(authority.context(), "ada") as port:
        _, raw = told(
            tmp_path,
            f"https://localhost:{port}",
            'grep -c BEGIN "$SSL_CERT_FILE"\n'
            'echo "$OCI_USERNAME $OCI_PASSWORD $OCI_REGISTRY $OCI_TLS $OCI_VERSION"; echo "$OCI_RESULTS_DIR" >&2\n'
            f"echo 'Authorization: Basic {basic}' >\"$OCI_RESULTS_DIR/report.html\"\n"
            "tr '\\0' '\\n' </proc/$PPID/cmdline >&2",
            OCI_USERNAME="ada",
            OCI_PASSWORD=PASSWORD,
            SSL_CERT_FILE=pem,
        )
    assert (raw / "conformance.out").read_text() == f"300\nada *** localhost:{port} enabled 1.1\n"
    assert (raw / "report.html").read_text() == "Authorization: Basic ***\n"
    assert "--registry" in (raw / "conformance.err").read_text()


# --- for real


CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {place}/data}}, delete: {{enabled: true}}}}
auth: {{htpasswd: {{realm: registry, path: {place}/htpasswd}}}}
http: {{addr: "127.0.0.1:{port}", tls: {{certificate: {pem}, key: {pem}}}}}
"""


@contextlib.contextmanager
def docker_registry(program: Path, place: Path, pem: Path) -> Iterator[int]:
    """The port of Debian's docker-registry with that certificate and key, which knows ada."""
    (place / "htpasswd").write_text(f"ada:{BCRYPT}\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    (place / "config.yml").write_text(CONFIG.format(place=place, port=port, pem=pem))
    with (place / "log").open("wb") as log:
        child = subprocess.Popen([program, "serve", place / "config.yml"], stdout=log, stderr=log)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield port
    finally:
        child.kill()
        child.wait()


@pytest.mark.bootstrap
@pytest.mark.slow
@pytest.mark.needs("mmdebstrap", "debian keyring")
def test_docker_registry_over_tls_and_with_a_password_is_judged_as_without(
    authority: Authority, stock: Stock, tmp_path: Path
) -> None:
    tools = tools_of(stock)
    place = tmp_path / "registry"
    place.mkdir()
    known = {"OCI_USERNAME": "ada", "OCI_PASSWORD": PASSWORD, "SSL_CERT_FILE": authority.pem}
    with docker_registry(tools.registry, place, authority.context()) as port:
        url = f"https://localhost:{port}"
        for number, (lacking, why) in enumerate(
            {
                "SSL_CERT_FILE": "does not know the CA",
                "OCI_PASSWORD": "set OCI_USERNAME and OCI_PASSWORD",
            }.items()
        ):
            (one := tmp_path / str(number)).mkdir()
            given = {name: value for name, value in known.items() if name != lacking}
            _, reading, _ = guest(
                one, "--variables", registry=url, program=tools.program, stdin=json.dumps(given) + "\n"
            )
            assert why in str(reading.reason) and not reading.results
        _, reading, _ = guest(
            tmp_path, "--variables", registry=url, program=tools.program, stdin=json.dumps(known) + "\n"
        )
    assert reading.reason is None
    counts = Counter(result.verdict for result in reading.results)
    assert (counts[Verdict.PASS], counts[Verdict.FAIL], counts[Verdict.SKIP]) == (558, 96, 32)
    pair = base64.b64encode(f"ada:{PASSWORD}".encode())
    for path in (tmp_path / "raw").iterdir():
        assert b"s3cret" not in path.read_bytes() and pair not in path.read_bytes()

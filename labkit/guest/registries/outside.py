"""A registry that runs already: whether it can be used at all, asked before anything is tested.

What is wrong with the way to it, its certificate or who asks would else be hundreds of failures that are not its own.
"""

from __future__ import annotations

import binascii
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress

from .registry import Broken

_ASK = 30.0  # seconds for one answer
_HEAD = 64 << 10  # bytes of one
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
# What OpenSSL calls them: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_NOT_YET, _EXPIRED = 9, 10
_UNKNOWN = (2, 7, 18, 19, 20, 21)  # 7: a CA of the same name has another key
_OTHER_NAME = (62, 64)


def check(url: str, user: str, password: str, certificates: str) -> None:
    """Raises Broken, which says what is wrong and what to do about it. certificates: PEM, of CAs to trust beside those
    of the machine. Behind a proxy nothing is asked: the conformance program knows how to use one.
    """
    if any(os.environ.get(name) for name in _PROXIES):
        return
    status, fields = _get(url, {}, certificates)
    challenge = fields.get("www-authenticate", "")
    if status == 401 and challenge.lower().startswith("basic"):
        if not user or not password:
            raise Broken(
                f"{url} wants to know who asks (401), and there is no user and password: set OCI_USERNAME and "
                "OCI_PASSWORD in the environment of labkit"
            )
        pair = binascii.b2a_base64(f"{user}:{password}".encode(), newline=False).decode()
        status, _ = _get(url, {"Authorization": f"Basic {pair}"}, certificates)
        if status in (401, 403):
            raise Broken(f"{url} does not take the user and password of OCI_USERNAME and OCI_PASSWORD ({status})")


def _get(url: str, fields: Mapping[str, str], certificates: str) -> tuple[int, dict[str, str]]:
    """The status and the header fields of the answer to GET /v2/."""
    scheme, _, address = url.partition("://")
    host, port = _host_and_port(address, 443 if scheme == "https" else 80)
    more = f": if it speaks TLS, --registry https://{address}" if scheme == "http" else ""
    try:
        connection = socket.create_connection((host, port), _ASK)
    except socket.gaierror as error:
        raise Broken(
            f"{host}: the machine cannot resolve that name ({error.strerror}): is it spelt right, and does the machine "
            "have a network and DNS?"
        ) from error
    except OSError as error:
        raise Broken(
            f"{host} port {port} cannot be reached from the machine: {error.strerror or error}: does the registry "
            "run, and listen there?"
        ) from error
    with ExitStack() as stack:
        stream = stack.enter_context(connection)
        stream.settimeout(_ASK)
        try:
            if scheme == "https":
                stream = stack.enter_context(_secured(connection, url, host, certificates))
            lines = [f"GET /v2/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nUser-Agent: labkit"]
            lines += [f"{name}: {value}" for name, value in fields.items()]
            stream.sendall("\r\n".join([*lines, "\r\n"]).encode())
            head = _head(stream)
        except socket.timeout as error:  # TimeoutError only since Python 3.10
            raise Broken(f"{url} took the connection, and did not answer within {_ASK:g} s") from error
        except OSError as error:
            raise Broken(f"{url} ended the connection without an answer ({error.strerror or error}){more}") from error
    first, *rest = head.decode("latin-1").split("\r\n")
    match = re.match(r"HTTP/1\.[01] ([0-9]{3})\b", first)
    if not match:
        raise Broken(f"what answers at {url} does not speak HTTP{more}")
    if scheme == "http" and match[1] == "400":  # what Go's servers and nginx say to plain HTTP on a port of TLS
        raise Broken(f"{url} answers 400, as no registry does{more}")
    pairs = (line.partition(":") for line in rest)
    return int(match[1]), {name.strip().lower(): value.strip() for name, mark, value in pairs if mark}


def _host_and_port(address: str, port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[(.*)\]|([^:]*))(?::([0-9]+))?", address)
    if not match or int(match[3] or port) > 65535:
        raise Broken(f"{address} is not HOST or HOST:PORT")
    return match[1] or match[2], int(match[3] or port)


def _secured(connection: socket.socket, url: str, host: str, certificates: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    # Python 3.13 has it on: CAs as `openssl req -x509` makes them lack an extension, which Go's programs do not mind.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificates:
        try:
            context.load_verify_locations(cadata=certificates)
        except ssl.SSLError as error:
            raise Broken(f"a certificate of the file that SSL_CERT_FILE names is damaged: {error.reason}") from error
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise Broken(f"{url}: {_untrusted(error, host)}") from error
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
            raise Broken(
                f"{url} does not speak TLS: if it is to be used without, --registry {url.replace('https', 'http', 1)}"
            ) from error
        raise Broken(f"{url}: no TLS connection could be made: {error.reason or error}") from error


def _untrusted(error: ssl.SSLCertVerificationError, host: str) -> str:
    code, message = error.verify_code, error.verify_message
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    if code in _UNKNOWN:
        return (
            f"the machine does not know the CA of its certificate ({message}): put that CA, as PEM, into a file of "
            "this host, and set SSL_CERT_FILE to its path in the environment of labkit"
        )
    if code == _EXPIRED:
        return f"its certificate has expired (the machine's clock says {now}): it needs a new one"
    if code == _NOT_YET:
        return f"its certificate is not valid yet (the machine's clock says {now}): is that clock right?"
    if code in _OTHER_NAME:
        return f"its certificate is not for {host}: name the registry as its certificate does (subjectAltName)"
    return f"its certificate is not accepted: {message}"


def _head(stream: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _HEAD:
        piece = b""
        with suppress(ssl.SSLEOFError):
            piece = stream.recv(4096)
        if not piece:
            break
        data += piece
    return data.partition(b"\r\n\r\n")[0]

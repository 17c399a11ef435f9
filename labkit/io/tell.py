"""The one place that sends messages to people: mail (SMTP), a webhook (JSON over HTTP), apprise for everything else.

What a message goes to is often a secret (the address of a webhook is all that it takes to write there), and so is a
password. No error says one: texts of libraries, which may hold it, are not passed on, and what a server says only
without it.
"""

from __future__ import annotations

import base64
import contextlib
import email.message
import email.utils
import http
import http.client
import json
import logging
import os
import re
import smtplib
import socket
import ssl
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labkit.core.deadline import Deadline
from labkit.core.errors import HostError, InfrastructureError, UsageError
from labkit.core.text import one_line
from labkit.io.within import within

TIMEOUT = 60.0  # seconds for one message, all attempts included
_ATTEMPTS = 3
_PAUSE = 2.0  # seconds before the second attempt, twice that before the third
_SILENCE = 20.0  # seconds without a word from the server
_LONGEST = 1 << 16  # bytes of a file that holds a secret
_PORTS = {"smtp": 587, "smtps": 465, "smtp+plain": 25}
_LOCAL = re.compile(r"localhost|127\.[0-9.]+|::1")
_TOKEN = re.compile(r"(?=.*[0-9A-Z_-]).{16,}")
_WEB = ("http", "https", "json", "jsons", "xml", "xmls", "form", "forms")


class _Again(Exception):
    """It may work when it is tried again; the text says what was wrong."""


class _Refused(Exception):
    """It will not work; the text says why."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A way to send mail. server is HOST, HOST:PORT or with smtp:// (STARTTLS, which must be had but on this host),
    smtps:// (TLS) or smtp+plain:// (neither) before it. user and password are both there or neither.
    """

    server: str
    sender: str
    to: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def place(self) -> tuple[str, str, int]:
        """The scheme, host and port."""
        scheme, _, rest = self.server.rpartition("://")
        parts = urllib.parse.urlsplit(f"//{rest}")
        host, port = parts.hostname or "", parts.port
        scheme = scheme or ("smtps" if port == 465 else "smtp")
        if port is None:
            port = 25 if scheme == "smtp" and _LOCAL.fullmatch(host) else _PORTS[scheme]
        return scheme, host, port


# --- secrets


def secret(value: str, environ: Mapping[str, str], key: str, written: Path | None = None) -> str:
    """What a setting stands for: env:VARIABLE, file:PATH of a file that only this user can read, or the value itself.

    written is the file that the value itself stands in, None where that is the environment or a flag. UsageError,
    which does not say the value, where others can read the file, or there is nothing.
    """
    kind, _, rest = value.partition(":")
    if kind == "env":
        if not environ.get(rest):
            raise UsageError(f"{key} is env:{rest}, and the environment has no {rest}", hint=f"set {rest}")
        return environ[rest].strip()
    if kind == "file":
        return _private(Path(rest), key)
    if written is not None and _bears_secret(value, key) and (why := _others_may_read(written)):
        raise UsageError(
            f"{written}: {key} holds a secret, and the file {why}",
            hint=f"chmod 600 {written}; or put it into a file of that mode and write file:PATH here, or env:VARIABLE; "
            f"or set LABKIT_{key.replace('.', '_').upper()}",
        )
    return value


def _bears_secret(value: str, key: str) -> bool:
    """Whether a value is more than the address of a service that asks nobody who they are."""
    try:
        parts = urllib.parse.urlsplit(value)
    except ValueError:
        return True
    if key.endswith("password") or parts.scheme not in _WEB:
        return True
    return bool("@" in parts.netloc or parts.query or any(_TOKEN.fullmatch(part) for part in parts.path.split("/")))


def _private(path: Path, key: str) -> str:
    wrong = f"{path}, which {key} names,"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{wrong} cannot be read: {error.strerror}") from None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise UsageError(f"{wrong} is no file")
        if why := _open_to_others(about):
            raise UsageError(f"{wrong} {why}", hint=f"chmod 600 {path}")
        text = os.read(fd, _LONGEST).decode("utf-8", "replace").strip()
    finally:
        os.close(fd)
    if not text or not text.isprintable():
        raise UsageError(f"{wrong} must hold one line, and nothing else")
    return text


def _others_may_read(path: Path) -> str:
    try:
        return _open_to_others(path.stat())
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"


def _open_to_others(about: os.stat_result) -> str:
    """Who else has a file, as the end of a sentence; an entry of its ACL counts, for it shows in the group's bits."""
    mine = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        mine.add(int(os.environ["SUDO_UID"]))
    if about.st_uid not in mine:
        return f"belongs to another user (number {about.st_uid})"
    mode = stat.S_IMODE(about.st_mode)
    return f"can be read or written by others (mode {mode:04o})" if mode & 0o077 else ""


def place_of(url: str) -> str:
    """What may be told of an address: a web server's name, of any other service the kind."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            port = f":{parts.port}" if parts.port else ""
            return f"{parts.scheme}://{parts.hostname}{port}"
    return "of an address that is none"


def without(text: str, secrets: Sequence[str]) -> str:
    """Text on one line, without the secrets in it, however a server may write them back."""
    for hidden in secrets:
        forms = {hidden, urllib.parse.quote(hidden), urllib.parse.quote(hidden, safe="")}
        forms.add(base64.b64encode(hidden.encode()).decode().rstrip("="))
        for form in sorted(filter(None, forms), key=len, reverse=True):
            text = text.replace(form, "…")
    return one_line(" ".join(text.split()), 300)


# --- sending


def mail(given: Mail, subject: str, text: str, *, timeout: float = TIMEOUT) -> str:
    """Send a mail; what was wrong though it went out, "" mostly. InfrastructureError where it did not."""
    message = email.message.EmailMessage()
    message["Subject"] = one_line(subject, 200)
    message["From"] = given.sender
    message["To"] = ", ".join(given.to)
    message["Date"] = email.utils.format_datetime(email.utils.localtime())
    message["Message-ID"] = email.utils.make_msgid(domain=given.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer by a machine, please
    message.set_content(text.encode(errors="backslashreplace").decode())
    _, host, port = given.place
    return _attempt(lambda deadline: _smtp(given, message, deadline), f"mail by {host}:{port}", timeout)


def _smtp(given: Mail, message: email.message.EmailMessage, deadline: Deadline) -> str:
    scheme, host, port = given.place
    secrets = [given.password] if given.password else []
    if given.password:
        secrets.append(f"\0{given.user}\0{given.password}")
    context = ssl.create_default_context()
    silence = min(_SILENCE, deadline.left + 0.1)
    name = re.sub("[^A-Za-z0-9.-]", "", socket.gethostname()) or "localhost"  # getfqdn() may ask a name server for long
    try:
        if scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, name, timeout=silence, context=context)
        else:
            server = smtplib.SMTP(host, port, name, timeout=silence)
    except smtplib.SMTPException as error:
        raise _reply(error, secrets) from None
    try:
        server.ehlo_or_helo_if_needed()
        if scheme == "smtp":
            if server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            elif given.password or not _LOCAL.fullmatch(host):
                raise _Refused("the server has no STARTTLS; smtps:// is TLS from the start, smtp+plain:// does without")
        if given.user is not None and given.password is not None:
            server.login(given.user, given.password)
        refused = server.send_message(message, given.sender, list(given.to))
    except smtplib.SMTPException as error:
        raise _reply(error, secrets) from None
    except UnicodeError:
        raise _Refused("user or password has characters that the server cannot take") from None
    finally:
        with contextlib.suppress(Exception):  # it has the mail, or never will
            if server.sock is not None:
                server.sock.settimeout(2)
            server.quit()
        with contextlib.suppress(Exception):
            server.close()
    return f"refused for {_refusals(refused, secrets)}" if refused else ""


def _reply(error: smtplib.SMTPException, secrets: Sequence[str]) -> Exception:
    """The server's refusal as one of ours: codes of 400 and more are for now, of 500 and more for good (RFC 5321)."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
        text = f"every address was refused: {_refusals(error.recipients, secrets)}"
        return _Refused(text) if codes and min(codes) >= 500 else _Again(text)
    if isinstance(error, smtplib.SMTPResponseException) and 200 <= error.smtp_code < 600:
        said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        what = "the login" if isinstance(error, smtplib.SMTPAuthenticationError) else "the mail"
        if isinstance(error, smtplib.SMTPConnectError):
            what = "the connection"
        text = f"the server refuses {what}: {error.smtp_code} {without(str(said), secrets)}".rstrip()
        return _Refused(text) if error.smtp_code >= 500 else _Again(text)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return _Refused("the server has no way to log in that labkit knows")
    if isinstance(error.__context__, TimeoutError):
        return TimeoutError()
    return _Again("the server ended the connection, or is no mail server")


def _refusals(refused: Mapping[str, tuple[int, bytes]], secrets: Sequence[str]) -> str:
    said = [
        f"{to} ({code} {without(text.decode('utf-8', 'replace'), secrets)})" for to, (code, text) in refused.items()
    ]
    return ", ".join(said[:5]) + (f" and {len(said) - 5} more" if len(said) > 5 else "")


def webhook(url: str, value: object, *, timeout: float = TIMEOUT) -> str:
    """Post the value as JSON; always "". InfrastructureError where the server does not say that it has it."""
    body = json.dumps(value).encode()
    return _attempt(lambda deadline: _post(url, body, deadline), f"webhook {place_of(url)}", timeout)


def _post(url: str, body: bytes, deadline: Deadline) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise _Refused("it is not the http(s) address of a server")
    headers = {"Content-Type": "application/json", "User-Agent": "labkit"}
    user, at, place = parts.netloc.rpartition("@")
    if at:  # urllib would take all of it for the name of a host
        login = urllib.parse.unquote(user).encode()
        headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
    request = urllib.request.Request(parts._replace(netloc=place, fragment="").geturl(), body, headers, method="POST")
    opener = urllib.request.OpenerDirector()
    for handler in (  # none that follows redirects, which would be asked without the message
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        opener.open(request, timeout=min(_SILENCE, deadline.left + 0.1)).close()
    except urllib.error.HTTPError as error:
        error.close()
        text = f"the server answers {error.code}{_phrase(error.code)}"
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Again(text) from None
        hint = "; the message is not sent on: name the address that it leads to" if 300 <= error.code < 400 else ""
        raise _Refused(text + hint) from None
    except urllib.error.URLError as error:
        raise (
            error.reason if isinstance(error.reason, OSError) else _Refused("it is no address of a server")
        ) from None
    except http.client.InvalidURL:
        raise _Refused("it is no address of a server") from None
    except http.client.HTTPException:
        raise _Again("the server ended the connection, or is no web server") from None
    return ""


def _phrase(code: int) -> str:
    """The words for a status, not the server's own, which may be anything."""
    try:
        return f" {http.HTTPStatus(code).phrase}"
    except ValueError:
        return ""


def apprise(url: str, title: str, text: str, *, timeout: float = TIMEOUT) -> str:
    """Send by one of the services of apprise (extra `tell`); always "". HostError where that is not installed,
    InfrastructureError where it does not go out.
    """
    what = f"apprise {url.partition('://')[0] if '://' in url else ''}".rstrip()
    return _attempt(lambda _: _by_apprise(url, title, text), what, timeout, attempts=1)


def _by_apprise(url: str, title: str, text: str) -> str:
    try:
        import apprise as library  # an extra: it brings eleven packages
    except ImportError:
        raise HostError("apprise is not installed", hint="pip install 'oci-labkit[tell]'") from None
    log = logging.getLogger("apprise")  # writes addresses
    log.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    try:
        sender = library.Apprise(asset=library.AppriseAsset(async_mode=False))
        if not sender.add(url):
            raise _Refused("apprise knows no such service, or its address lacks something")
        done = sender.notify(title=title, body=text)
    except _Refused:
        raise
    except Exception as error:  # whatever one of a hundred plugins may raise; its text may hold the address
        raise _Refused(f"apprise failed with {type(error).__name__}") from None
    if not done:
        raise _Refused("the service did not take it")
    return ""


def _attempt(send: Callable[[Deadline], str], what: str, timeout: float, attempts: int = _ATTEMPTS) -> str:
    """What send returns; the library's errors as ours, after some attempts where another one may help."""
    deadline = Deadline.after(timeout)
    for number in range(1, attempts + 1):
        try:
            return within(deadline, lambda: send(deadline))
        except _Refused as error:
            raise InfrastructureError(f"{what}: {error}") from None
        except ssl.SSLCertVerificationError as error:
            raise InfrastructureError(
                f"{what}: the server's certificate is not trusted: {error.verify_message}"
            ) from None
        except (_Again, OSError) as error:
            late = isinstance(error, TimeoutError)
            why = "the server does not answer" if late else _why(error)
            if number == attempts or deadline.passed:
                after = f" within {deadline.allowed}" if late and deadline.passed else ""
                raise InfrastructureError(f"{what}: {why}{after}") from None
        time.sleep(min(_PAUSE * number, deadline.left))
    raise AssertionError("unreachable")


def _why(error: Exception) -> str:
    if isinstance(error, _Again):
        return str(error)
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'no reason given').replace('_', ' ').lower()}"
    if isinstance(error, socket.gaierror):
        return "the server's name is not known"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__

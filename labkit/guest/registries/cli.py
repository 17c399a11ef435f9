"""The command line: the outer process makes a place of its own, the inner one works in it."""

from __future__ import annotations

import argparse
import binascii
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ..common.arguments import Parser, number
from ..common.attached import add_arguments
from ..common.cgroups import cgroup_version
from ..common.claims import answer
from ..common.errors import UsageError
from ..common.executables import find_runtime
from ..common.text import printable
from ..common.versions import first_line
from ..engines.alone import alone, put
from . import __version__
from .outside import check
from .registry import Broken, Registry

# What comes home, with how many bytes of each at most.
FILES = {
    "results.yaml": 1 << 20,
    "junit.xml": 32 << 20,
    "report.html": 32 << 20,
    "conformance.out": 4 << 20,
    "conformance.err": 4 << 20,
    "registry.log": 256 << 10,
}
_PIECE = 48 << 10  # bytes of a file in a line
_LINE = 2 << 20  # bytes of the variables on stdin
_DUMP = 5.0  # seconds in which a program that hangs tells where, as Go's do on SIGQUIT
_SHORT = 4  # characters: to take out a shorter password would leave nothing to read
VARIABLES = ("OCI_USERNAME", "OCI_PASSWORD", "OCI_REPO1", "OCI_REPO2")
CERTIFICATES = "SSL_CERT_FILE"  # on stdin what is in that file; for the program, of Go, its path


def run(argv: list[str]) -> int:
    """The exit status; see the package's docstring."""
    return alone("labkit-distribution", __package__ or "", argv, _parse, _work, ("--attached",))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="labkit-distribution", description="Runs distribution-spec's conformance program.")
    parser.add_argument("--registry", required=True, help="name or path of a registry, or http(s)://HOST:PORT")
    parser.add_argument("--serve", default="", help="how it is started: a JSON object with config and arguments")
    parser.add_argument("--conformance", required=True, help="path of the conformance program")
    parser.add_argument("--spec", default="1.1", help="version of distribution-spec")
    parser.add_argument("--seconds", type=number(86400), default=900, help="limit for the conformance program")
    parser.add_argument("--only", metavar="A,B", default="", help="the tests that are meant; all are run")
    parser.add_argument("--leave-out", metavar="A,B", default="", help="tests that are not")
    parser.add_argument("--variables", action="store_true", help="read variables from the first line of stdin")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("top", nargs="?", default="", help=argparse.SUPPRESS)
    add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"labkit-distribution {__version__}")
    args = parser.parse_args(argv)
    args.apart = "://" not in args.registry
    if args.apart:
        args.registry = find_runtime(args.registry)
    args.conformance = find_runtime(args.conformance)
    args.given = _line() if args.variables and os.geteuid() == 0 else b""
    args.variables = _variables(args.given) if args.given else {}
    return args


def _line() -> bytes:
    """The first line of stdin. Nothing comes after it but the end, which tells that labkit is gone."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE and (piece := os.read(0, _PIECE)):
        line += piece
    return line


def _variables(line: bytes) -> dict[str, str]:
    try:
        given = json.loads(line)
        found = {name: given[name] for name in (*VARIABLES, CERTIFICATES) if name in given}
    except (ValueError, TypeError) as error:
        raise UsageError("the first line of stdin is no JSON object with variables") from error
    if not all(isinstance(value, str) and "\0" not in value for value in found.values()):
        raise UsageError("the variables on stdin are not text")
    return found


def _work(args: argparse.Namespace, top: Path) -> int:
    registry, running = args.registry, not args.apart
    version = "" if running else printable(first_line(answer([registry, "--version"])))
    facts = {
        "registry": registry,
        "runtime-path": "" if running else registry,
        "runtime-version": version,
        "kernel": os.uname().release,
        "cgroup": cgroup_version(),
        "suite": f"labkit-distribution {__version__}",
    }
    put("plan", facts=facts, only=_words(args.only), skip=_words(args.leave_out))
    certificates = args.variables.pop(CERTIFICATES, "")
    os.environ.update(args.variables)
    secrets = _secrets()
    try:
        with ExitStack() as stack:
            started = None if running else stack.enter_context(_started(args.serve, registry, top))
            address = started.address if started else registry.partition("://")[2]
            tls = "enabled" if registry.startswith("https://") else "disabled"
            variables = {"OCI_REGISTRY": address, "OCI_TLS": tls, "OCI_VERSION": args.spec}
            if running:
                user, password = (os.environ.get(name, "") for name in VARIABLES[:2])
                check(registry, user, password, certificates)
            if certificates:
                variables[CERTIFICATES] = str(top / "certificates.pem")
                Path(variables[CERTIFICATES]).write_text(certificates)
            end = _conformance(args.conformance, variables, args.seconds, top)
            put("end", **end, registry=(started.ended() or None) if started else None)
    except Broken as why:
        put("broken", why=_without(str(why).encode(), secrets).decode("utf-8", "replace"))
    for name, limit in FILES.items():
        _hand_on(top, name, limit, secrets)
    put("finish")
    return 0


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _started(serve: str, program: str, top: Path) -> Registry:
    try:
        how = json.loads(serve)
        config, arguments = how["config"], how["arguments"]
        return Registry(program, str(config), [str(word) for word in arguments], top)
    except (ValueError, KeyError, TypeError) as error:
        raise Broken(f"it is not known how {program} is started: {error}") from error


def _conformance(program: str, variables: Mapping[str, str], seconds: float, top: Path) -> dict[str, Any]:
    """Run it; how it ended. What hangs is asked where, and killed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OCI_") or name in VARIABLES}
    environment = {**kept, **variables, "OCI_RESULTS_DIR": str(top), "HOME": str(top)}
    began = time.monotonic()
    with (top / "conformance.out").open("wb") as out, (top / "conformance.err").open("wb") as err:
        try:
            child = subprocess.Popen(
                [program],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=top,
                start_new_session=True,
            )
        except OSError as error:
            raise Broken(f"{program} cannot be executed: {error.strerror}") from error
        hung = False
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            hung = True
            for number_of, grace in ((signal.SIGQUIT, _DUMP), (signal.SIGKILL, None)):
                with suppress(OSError):
                    os.killpg(child.pid, number_of)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(grace)
                    break
    return {"status": child.returncode, "hung": hung, "seconds": round(time.monotonic() - began, 3)}


def _secrets() -> list[bytes]:
    """What is not to be seen: the password, and what HTTP, JSON, HTML, XML, Go's %q and a URL make of it."""
    user, password = (os.environ.get(name, "") for name in VARIABLES[:2])
    if not password:
        return []
    pair = binascii.b2a_base64(f"{user}:{password}".encode(), newline=False)
    if len(password) < _SHORT:
        return [pair]
    html = password.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    quoted = json.dumps(password, ensure_ascii=False)[1:-1]
    forms = {
        password,
        quoted,
        json.dumps(password)[1:-1],
        password.replace("'", "''"),  # YAML, in single quotes
        *(html.replace('"', mark).replace("'", "&#39;") for mark in ("&#34;", "&quot;")),
        html,
        "".join(_percent(byte) for byte in password.encode()),
        "".join("+" if byte == 0x20 else _percent(byte) for byte in password.encode()),
    }
    return [pair, *sorted((form.encode() for form in forms), key=len, reverse=True)]


def _percent(byte: int) -> str:
    return chr(byte) if byte < 0x80 and (chr(byte).isalnum() or byte in b"-._~") else f"%{byte:02X}"


def _without(data: bytes, secrets: Sequence[bytes]) -> bytes:
    for secret in secrets:
        data = data.replace(secret, b"***")
    return data


def _hand_on(top: Path, name: str, limit: int, secrets: Sequence[bytes]) -> None:
    """Print a file in pieces, of a log its end; nothing where there is none."""
    try:
        with (top / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - limit, 0) if name.endswith(".log") else 0)
            data = _without(file.read(limit), secrets)
    except OSError:
        return
    cut = size > limit
    pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)] or [b""]
    for place, piece in enumerate(pieces, 1):
        more = {"cut": True} if cut and place == len(pieces) else {}
        put("file", name=name, data=binascii.b2a_base64(piece, newline=False).decode(), **more)

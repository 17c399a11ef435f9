"""The distribution suite: a registry, held to distribution-spec by its conformance program, which
labkit.guest.registries runs in the machine; or what that program has written elsewhere.

raw/distribution.jsonl                     what labkit's program said beside the files
raw/results.yaml, junit.xml, report.html   as the conformance program wrote them
"""

from __future__ import annotations

import binascii
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.core.text import count, one_line, printable, some
from labkit.guest.common import names as words
from labkit.guest.pyz import pyz
from labkit.guest.registries.cli import CERTIFICATES, FILES
from labkit.io.files import regular_inside
from labkit.results import distribution, values
from labkit.results.distribution import JUNIT, REPORT, YAML
from labkit.results.model import Reading, Result, Run
from labkit.results.tap import JSON
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Role, Runtime
from labkit.suites import subset
from labkit.suites.base import ATTACHED, Capped, OnResult, Suite
from labkit.suites.facts import settled
from labkit.suites.subset import ALL, Subset

# The newest version of the module: https://pkg.go.dev/github.com/opencontainers/distribution-spec/conformance?tab=versions
UPSTREAM = "distribution-spec@0.0.0-20260831232431-97274622c111"
SPECS = ("1.0", "1.1", "dev")  # that it knows
_OUTPUT = "distribution.jsonl"
_OUTPUT_LIMIT = 1 << 20  # bytes
_LINE = 1 << 20  # bytes of a line: a piece of a file has less than a tenth of it
_T = TypeVar("_T")
_TAIL = 500  # characters of what the program printed, where that is why


class Distribution:
    name = "distribution"
    title = "a registry, by the conformance program of distribution-spec"
    version = ""  # of the conformance program: its commit
    needs: tuple[str, ...] = ()
    programs: Mapping[str, str] = MappingProxyType({"python3": "python"})
    takes_arguments = True
    longest = 0.0
    upstream = UPSTREAM
    specification = "distribution-spec"
    note = (
        "This certifies nothing: it is what its maker measured, in a form that anybody can check and repeat. "
        "Registries are certified by OCI Certified (https://github.com/opencontainers/oci-conformance), which takes "
        "the folder distribution-spec/ of this claim in the form that it has."
    )

    def __init__(
        self, serve: str = "", upstream: str = "", variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._serve, self._upstream, self._variables = serve, upstream, dict(variables)

    def over(self, registry: Runtime, upstream: str, environ: Mapping[str, str]) -> Suite:
        if "://" in registry.command:
            given = {name: environ[name] for name in _VARIABLES if environ.get(name)}
            if registry.command.startswith("https:") and (file := environ.get(CERTIFICATES)):
                given[CERTIFICATES] = _certificates(Path(file))
            return Distribution("", upstream, given)
        for name in runtimes.names(Role.REGISTRY):
            about = runtimes.about(name)
            if about.serve and registry.name in (name, about.binary):
                return Distribution(about.serve.model_dump_json(), upstream)
        raise UsageError(
            f"labkit does not know how the registry {registry.name} is started",
            hint=f"known: {', '.join(runtimes.names(Role.REGISTRY))} (--runtime-name says that it is one of them); or "
            "start it, and name its address: --registry http://HOST:PORT",
        )

    @property
    def stdin(self) -> bytes:
        return f"{json.dumps(self._variables)}\n".encode() if self._variables else b""

    def file_name(self) -> str:
        return "labkit-distribution.pyz"

    def program(self) -> bytes:
        return pyz("registries", "engines")

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        argv = ["python3", program, *ATTACHED, "--registry", runtime, "--conformance", self._upstream]
        flags = {
            "serve": self._serve,
            "spec": selection.spec,
            "seconds": f"{selection.timeout:.0f}" if selection.timeout else "",
            "only": ",".join(selection.only),
            "leave-out": ",".join(selection.skip),
        }
        for flag, value in flags.items():
            argv += [f"--{flag}", value] if value else []
        return [*argv, *(["--variables"] if self._variables else [])]

    def names(self) -> list[str]:
        return []  # which tests there are, the conformance program knows

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return None

    def check(self, selection: Selection) -> None:
        given = {
            "--runtime-arg": selection.runtime_args,
            "--repeat": selection.repeat,
            "--user": selection.user,
        }
        for flag, value in given.items():
            if value:
                raise UsageError(f"the distribution suite does not take {flag}")
        if selection.spec and selection.spec not in SPECS:
            raise UsageError(f"--spec is {selection.spec!r}, must be a distribution-spec: {', '.join(SPECS)}")

    def needs_reset(self, selection: Selection) -> bool:
        return False

    @contextlib.contextmanager
    def recorder(self, raw: Path, on_result: OnResult, only: Sequence[str] = ()) -> Iterator[_Recorder]:
        with Capped(raw / _OUTPUT, _OUTPUT_LIMIT) as out, Capped(raw / "distribution.err", _OUTPUT_LIMIT) as err:
            yield _Recorder(raw, out, err)

    def recognizes(self, raw: Path) -> bool:
        if (path := regular_inside(raw, _OUTPUT)) is not None and b'"type": "plan"' in _head(path):
            return True
        return any(
            (path := regular_inside(raw, name)) is not None and known(_head(path))
            for name, known in ((JUNIT, distribution.is_junit), (YAML, distribution.is_yaml))
        )

    def knows_facts(self, raw: Path) -> bool:
        return regular_inside(raw, _OUTPUT) is not None

    def read(self, raw: Path, known: Mapping[str, str] | None = None, meant: Subset = ALL) -> Reading:
        own = _own(raw)
        facts, told, reasons = dict(own.facts) if own else {}, [], list(own.reasons(raw)) if own else []
        results: tuple[Result, ...] = ()
        summary = _of(raw, YAML, lambda data: distribution.read_yaml(data.decode("utf-8", "replace")))
        tests = _of(raw, JUNIT, distribution.read_junit)
        if summary:
            said = {"ref": summary.commit, "spec": summary.version}
            facts |= {key: word for key, word in said.items() if word}
            results = summary.results
        if tests:
            told += [tests.told] if tests.told else []
            if summary and any(one.bad for one in summary.results) != any(one.bad for one in tests.results):
                reasons.append(f"{YAML} and {JUNIT} are not of one run: only one of them has a failure")
            results = tests.results
        elif not own or not reasons:
            lacking = [name for name, there in ((JUNIT, tests), (YAML, summary)) if there is None]
            if own:
                reasons.append(f"the conformance program wrote no {' and no '.join(lacking)}{_said(raw)}")
            else:
                told.append(f"there is no {JUNIT}: an API or kind of data has the worst outcome of its tests")
        chosen, why = _chosen(self.name, results, own, meant)
        reasons += why
        if len(chosen) < len(results) and not why:
            told.append(f"left out, as was said: {count(len(results) - len(chosen), 'test')}")
        settled_facts, differ = settled(facts, dict(known or {}))
        return Reading(chosen, settled_facts, "; ".join(reasons) or None, told=(*told, *differ))

    def form(self, run: Run, product: Mapping[str, str], raw: Mapping[str, bytes]) -> tuple[str, Mapping[str, bytes]]:
        spec = run.suite.spec
        if not _SPEC.fullmatch(spec) or not all(name in raw for name in _KEPT):
            return "", {}
        called = re.sub(r"[^a-z0-9]+", "-", product["name"].lower()).strip("-") or "registry"
        return f"distribution-spec/v{spec}/{called}", {name: raw[name] for name in _KEPT}

    def misses(self, run: Run, product: Mapping[str, str], raw: Mapping[str, bytes]) -> Sequence[str]:
        found = []
        if not _SPEC.fullmatch(run.suite.spec):
            found.append(f"it is of distribution-spec {run.suite.spec or '(not known)'}, for which nobody takes claims")
        if lacking := [name for name in _KEPT if name not in raw]:
            found.append(f"its raw output has no {', '.join(lacking)}, which a claim has to have")
        if re.search("oci", product["name"], re.IGNORECASE):
            found.append(f"the product is called {product['name']!r}: the name should not contain OCI")
        report = raw.get(REPORT, b"")
        if report and b"All tests passed" not in report:
            passed = re.search(rb'"darkgreen">((?:All )?[0-9]+ passed)<', report)
            failed = re.search(rb'"darkred">((?:All )?[0-9]+ failed)<', report)
            skipped = re.search(rb'"darkgrey">((?:All )?[0-9]+ skipped)<', report)
            words = ", ".join(one[1].decode() for one in (passed, failed, skipped) if one)
            found.append(
                f"{REPORT} does not say `All tests passed`, which reviewers look for; its summary says: "
                f"{words or 'nothing that labkit understands'}"
            )
        return found


_SPEC = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_KEPT = (YAML, REPORT, JUNIT)
_VARIABLES = ("OCI_USERNAME", "OCI_PASSWORD", "OCI_REPO1", "OCI_REPO2")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_PEM_LIMIT = 1 << 20  # bytes; the CAs that a distribution trusts have a quarter of it


def _certificates(path: Path) -> str:
    """Those of the file, as PEM, and nothing else that is in it: a private key may lie beside its certificate."""
    hint = "its certificates are to be trusted in the machine, too: name a file with the CA's as PEM, or unset it"
    try:
        with path.open("rb") as file:
            data = file.read(_PEM_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{CERTIFICATES} is {path}: {error.strerror}", hint=hint) from error
    if len(data) > _PEM_LIMIT:
        raise UsageError(f"{CERTIFICATES} is {path}, which has more than {_PEM_LIMIT} bytes", hint=hint)
    found = _PEM.findall(data)
    if not found:
        raise UsageError(f"{CERTIFICATES} is {path}, in which there is no certificate (PEM)", hint=hint)
    return b"\n".join([*found, b""]).decode()


@dataclass(frozen=True, slots=True)
class _Own:
    """What labkit's program said of a run."""

    facts: Mapping[str, str]
    only: tuple[str, ...]
    skip: tuple[str, ...]
    broken: str
    end: Mapping[str, JSON]
    cut: tuple[str, ...]
    finished: bool

    def reasons(self, raw: Path) -> Iterator[str]:
        """Why the run is not complete."""
        status, seconds = self.end.get("status"), self.end.get("seconds")
        if self.broken:
            yield f"the registry cannot be used, so nothing was tested: {one_line(printable(self.broken), 1000)}"
        elif self.end.get("hung"):
            yield (
                f"the conformance program did not end within {seconds:.0f} s, and was ended{_said(raw)}"
                if isinstance(seconds, int | float)
                else f"the conformance program did not end, and was ended{_said(raw)}"
            )
        elif self.end and status not in (0, 1):
            how = f"by signal {-status}" if isinstance(status, int) and status < 0 else f"with status {status}"
            yield f"the conformance program ended {how}{_said(raw)}"
        elif not self.end:
            yield "what the suite printed ends before the conformance program did"
        if registry := self.end.get("registry"):
            yield f"the registry {one_line(printable(str(registry)), 200)} while it was tested"
        if self.cut:
            yield f"more was written than is kept of {', '.join(self.cut)}"
        if self.end and not self.finished:
            yield "what the suite printed ends early"


def _own(raw: Path) -> _Own | None:
    path = regular_inside(raw, _OUTPUT)
    if path is None:
        return None
    found: dict[str, Mapping[str, JSON]] = {}
    with path.open("rb") as file:
        data = file.read(_OUTPUT_LIMIT + 1)
    cut: list[str] = []
    for line in data.split(b"\n"):
        value = values.parse_line(line)
        if value and isinstance(kind := value.get("type"), str):
            found.setdefault(kind, value)
            if kind == "cut":
                cut.append(str(value.get("name")))
    plan = found.get("plan", {})
    facts, only, skip = plan.get("facts"), plan.get("only"), plan.get("skip")
    return _Own(
        {key: word for key, word in facts.items() if isinstance(word, str) and word} if isinstance(facts, dict) else {},
        tuple(map(str, only)) if isinstance(only, list) else (),
        tuple(map(str, skip)) if isinstance(skip, list) else (),
        str(found["broken"].get("why")) if "broken" in found else "",
        found.get("end", {}),
        tuple(name for name in cut if name in _KEPT),
        "finish" in found,
    )


def _said(raw: Path) -> str:
    """The end of what the conformance program printed on its standard error."""
    path = regular_inside(raw, "conformance.err")
    text = path.read_bytes()[-_TAIL:].decode("utf-8", "replace") if path else ""
    told = one_line(printable(text.strip()), _TAIL)
    return f": {told}" if told else ""


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8192)


def _of(raw: Path, name: str, read: Callable[[bytes], _T]) -> _T | None:
    """What a file says; None where there is none. UsageError where it is damaged."""
    path = regular_inside(raw, name)
    if path is None:
        return None
    with path.open("rb") as file:
        data = file.read(FILES[name] + 1)
    if len(data) > FILES[name]:
        raise UsageError(f"{path} is larger than {FILES[name] >> 20} MiB", hint="the conformance program writes less")
    try:
        return read(data)
    except ValueError as error:
        raise UsageError(
            f"{path}: {one_line(str(error), 300)}", hint="it is to be what the conformance program wrote"
        ) from error


def _chosen(
    suite: str, results: tuple[Result, ...], own: _Own | None, meant: Subset
) -> tuple[tuple[Result, ...], list[str]]:
    """The results that are meant, and what is wrong with the words that name them."""
    ids = [result.id for result in results]
    if meant.is_subset:
        ids = subset.of(suite, "test", meant, ids)
    if own and results:
        unknown = words.chosen(own.only, ids)[1]
        if unknown:
            near = " or ".join(words.near(unknown[0], ids))
            return (), [f"no test is called {some(unknown, 5)}; did you mean {near}?"]
        left_out = set(words.chosen(own.skip, ids)[0])
        wanted = words.chosen(own.only, ids)[0] if own.only else ids
        ids = [ident for ident in wanted if ident not in left_out]
    kept = set(ids)
    return tuple(result for result in results if result.id in kept), []


class _Recorder:
    """Takes the files out of what is printed, and keeps the rest as it is."""

    def __init__(self, raw: Path, out: Capped, err: Capped) -> None:
        self.has_output = False
        self.take_stderr = err.write
        self._raw, self._out = raw, out
        self._rest = b""
        self._sizes: dict[str, int] = {}

    def take(self, data: bytes) -> None:
        self.has_output = self.has_output or bool(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._rest) > _LINE:
            self._out.write(self._rest[:200] + b" ... a line without an end\n")
            self._rest = b""

    def _line(self, line: bytes) -> None:
        value = values.parse_line(line) if line.startswith(b'{"type": "file"') else None
        name = value.get("name") if value else None
        if not value or not isinstance(name, str) or name not in FILES:
            self._out.write(line + b"\n")
            return
        try:
            piece = binascii.a2b_base64(str(value.get("data")), strict_mode=True)
        except ValueError:
            piece, value = b"", {**value, "cut": True}
        size = self._sizes.get(name, 0)
        with (self._raw / name).open("ab" if size else "wb") as file:
            file.write(piece[: max(FILES[name] - size, 0)])
        self._sizes[name] = size + len(piece) or 1
        if value.get("cut") or size + len(piece) > FILES[name]:
            self._out.write(json.dumps({"type": "cut", "name": name}).encode() + b"\n")


SUITE: Suite = Distribution()

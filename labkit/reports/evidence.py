"""The diagnostic of a result, sorted for people to read."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.results.causes import Cause
from labkit.results.model import Object, Result, Run
from labkit.results.tap import JSON

_SPEC = re.compile(r"[a-z][a-z0-9-]*\.md(#[A-Za-z0-9_.-]+)?")
_OTHER = re.compile(r"([a-z-]+):(([A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.md(#[A-Za-z0-9_.-]+)?)")
_BRANCHES = {"runtime-tools": "master", "image-spec": "main"}
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-rc\.?[0-9]+)?")
_UPSTREAM = re.compile(r"https://github\.com/opencontainers/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*(#[A-Za-z0-9_.-]+)?")


@dataclass(frozen=True, slots=True)
class Failure:
    """One comparison that failed. expected and actual are text, or None where the check gave none; finding is the name
    that policies know it by, or ""; known: the policy expects it.
    """

    what: str
    expected: str | None
    actual: str | None
    finding: str = ""
    known: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """level is the RFC 2119 level, and what implies it where the text has no keyword; message is one sentence or "";
    notes and commands are lines; rest is what has no place of its own.
    """

    level: str
    message: str
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]
    rest: Object


def evidence(result: Result) -> Evidence:
    """Sort the diagnostic of a result; values of an unknown form stay in rest."""
    rest = dict(result.diagnostic)
    message = next((str(rest.pop(key)) for key in ("message", "reason") if isinstance(rest.get(key), str)), "")
    level = result.level
    if isinstance(implied := rest.get("implied"), str):
        level = f"{level} (implied: {implied})"
        del rest["implied"]
    failures: list[Failure] = []
    if isinstance(given := rest.get("failures"), list) and all(isinstance(entry, dict) for entry in given):
        del rest["failures"]
        failures = [_failure(entry, result.known) for entry in given if isinstance(entry, dict)]
        failures.sort(key=lambda failure: failure.known)
    elif "expected" in rest and "actual" in rest:  # runtime-tools
        failures = [Failure("", shown(rest.pop("expected")), shown(rest.pop("actual")))]
    notes: list[str] = []
    if isinstance(listed := rest.get("notes"), list):
        notes = [shown(note) for note in listed]
        del rest["notes"]
    elif isinstance(listed, dict):
        notes = [f"{key}: {shown(value)}" for key, value in listed.items()]
        del rest["notes"]
    commands = _commands(rest.get("commands"))
    if commands:
        del rest["commands"]
    return Evidence(level, message, tuple(failures), tuple(notes), tuple(commands), rest)


def attributions(cause: Cause, run: Run) -> list[str]:
    """Whose failures those with a cause are, each with how many of them, as far as that is known."""
    checks = set(cause.checks)
    found = Counter(
        result.attribution.text
        for result in run.unexpected
        if result.attribution and (result.program or result.id) in checks
    )
    return [f"{many} {text}" for text, many in found.most_common(3)]


def policy_lines(run: Run) -> list[str]:
    """The mismatches between results and policy, one line each, the worst first."""
    notes = run.policy
    if notes is None:
        return []
    return [
        *(f"EXPIRED: {line}" for line in notes.expired),
        *(f"unexpected pass: {line}" for line in notes.unexpected_passes),
        *(f"possible typo: {line}" for line in notes.misspelt),
    ]


def shown(value: JSON) -> str:
    """Return a value as a person reads it: strings as they are, lists of strings line by line, the rest as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return "\n".join(str(item) for item in value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else json.dumps(value, ensure_ascii=False, indent=2)


def link(reference: str, spec: str) -> str | None:
    """Return the address of a reference, or None where its form is unknown.

    `file.md#anchor` is in runtime-spec at version spec ("1.0.2"; main where that is no version), `runtime-tools:` and
    `image-spec:` in those repositories; addresses in the opencontainers organisation stay.
    """
    if _SPEC.fullmatch(reference):
        version = f"v{spec}" if _VERSION.fullmatch(spec) else "main"
        return f"https://github.com/opencontainers/runtime-spec/blob/{version}/{reference}"
    if (other := _OTHER.fullmatch(reference)) and other[1] in _BRANCHES:
        return f"https://github.com/opencontainers/{other[1]}/blob/{_BRANCHES[other[1]]}/{other[2]}"
    return reference if _UPSTREAM.fullmatch(reference) else None


def _commands(given: JSON) -> list[str]:
    """Runtime calls as a terminal shows them; nothing if one of them has an unknown form."""
    lines = []
    for call in given if isinstance(given, list) else []:
        argv = call.get("argv") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(argv, list):
            return []
        status = call.get("status")
        end = "timed out" if status is None else f"exit status {shown(status)}"
        lines.append(f"$ {shlex.join(map(str, argv))}\n{end} after {shown(call.get('seconds'))} s")
        if isinstance(stderr := call.get("stderr"), str) and stderr.strip():
            lines.append(stderr.strip())
    return lines


def _failure(entry: dict[str, JSON], known: Sequence[str]) -> Failure:
    what, expected, actual, finding = (
        shown(entry[key]) if key in entry else None for key in ("what", "expected", "actual", "finding")
    )
    if isinstance(times := entry.get("times"), str):  # where the check ran several times
        what = f"{what or finding or ''} ({times} times)".lstrip()
    return Failure(what or "", expected, actual, finding or "", finding in known)

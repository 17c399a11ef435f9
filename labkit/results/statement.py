"""What a claim says, as an in-toto Statement: https://github.com/in-toto/attestation, test-result v0.1. Pure.

Its subjects are the runtime and every file of the claim. What is labkit's own stands in the predicate's `labkit_claim`,
which other readers pass over.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from labkit.core.errors import UsageError
from labkit.results.model import Result, Run, Verdict

PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
_OWN = "labkit_claim"
FORMAT = 1
RUNTIME = "runtime:"  # begins the name of a subject that is no file of the claim
_BELOW = {"MUST": ("SHOULD", "SHOULD NOT", "MAY"), "SHOULD": ("MAY",)}
MINIMA = tuple(_BELOW)


class Outcome(enum.StrEnum):
    """What a claim comes to, in the words of the predicate."""

    PASSED = "PASSED"
    WARNED = "WARNED"  # something fails, and the policy names all of it
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """own: the claimant's, and not labkit's."""

    name: str
    sha256: str
    own: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """Runs of one runtime. minimum: the level below which a failure is a warning; product: the keys of PRODUCT.yaml;
    labkit: what made the claim, and when.
    """

    runs: tuple[Run, ...]
    minimum: str
    product: Mapping[str, str]
    policies: tuple[PolicyFile, ...]
    labkit: str
    made: datetime
    names: tuple[str, ...] = field(default=())  # of the runs, in the archive

    @property
    def title(self) -> str:
        """What it is about: `runc 1.1.15: spec 1.0.0, validation v0.9.0`."""
        runtime = self.runs[0].runtime
        suites = ", ".join(f"{run.suite.name} {run.suite.version}".strip() for run in self.runs)
        return f"{' '.join((runtime.name, runtime.version)).strip()}: {suites}"

    def fails(self, result: Result) -> bool:
        """Whether it is bad at the minimum or above; a result of no level counts as one of MUST."""
        return result.bad and result.level not in _BELOW[self.minimum]

    @property
    def failing(self) -> list[Result]:
        return [result for run in self.runs for result in run.results if self.fails(result)]

    @property
    def warned(self) -> list[Result]:
        """What fails below the minimum, was flaky, or was not expected to pass."""
        odd = (Verdict.FLAKY, Verdict.TODO)
        return [
            result
            for run in self.runs
            for result in run.results
            if not self.fails(result) and (result.bad or result.verdict in odd)
        ]

    @property
    def outcome(self) -> Outcome:
        if any(result.expected is None for result in self.failing):
            return Outcome.FAILED
        return Outcome.WARNED if self.failing else Outcome.PASSED


def statement(claim: Claim, files: Mapping[str, bytes]) -> bytes:
    """The text of the statement about a claim of these files."""
    runtime = claim.runs[0].runtime
    subjects = [{"name": name, "digest": {"sha256": sha256(data)}} for name, data in sorted(files.items())]
    if runtime.sha256:
        subjects.insert(0, {"name": f"{RUNTIME}{runtime.name}", "digest": {"sha256": runtime.sha256}})
    failing, warned = {id(one) for one in claim.failing}, {id(one) for one in claim.warned}
    lists: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for run in claim.runs:
        seen: Counter[str] = Counter()
        for result in run.by_id():
            name = " ".join(filter(None, (run.suite.name, result.program, result.id if not result.program else "")))
            name = f"{name}: {result.name}" if result.program else name
            seen[name] += 1
            name = f"{name} ({seen[name]})" if seen[name] > 1 else name
            if id(result) in failing:
                lists["failedTests"].append(name)
            elif id(result) in warned:
                lists["warnedTests"].append(name)
            elif result.verdict is Verdict.PASS:
                lists["passedTests"].append(name)
    predicate = {
        "result": claim.outcome.value,
        "configuration": list(_configuration(claim)),
        **lists,
        _OWN: {
            "format": FORMAT,
            "labkit": claim.labkit,
            "made": claim.made.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "minimum": claim.minimum,
            "product": dict(claim.product),
            "policies": [asdict(file) for file in claim.policies],
            "runs": list(claim.names),
        },
    }
    value = {"_type": _STATEMENT, "subject": subjects, "predicateType": _PREDICATE, "predicate": predicate}
    return json.dumps(value, indent=1).encode()


def _configuration(claim: Claim) -> Sequence[dict[str, Any]]:
    """What the tests were made with, as far as there are digests of it."""
    found: dict[str, str] = {f"policy/{file.name}": file.sha256 for file in claim.policies}
    for run in claim.runs:
        for what in ("image", "kernel configuration", "packages", "suite", "raw archive", "provider"):
            entry = run.evidence.get(what)
            if isinstance(entry, dict) and isinstance(digest := entry.get("sha256"), str) and digest:
                found[f"{what} of {run.run.id}"] = digest
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in found.items()]


@dataclass(frozen=True, slots=True)
class Said:
    """What a statement says of the claim: digests of files by name, that of the runtime, and labkit's own."""

    files: Mapping[str, str]
    runtime: str
    outcome: str
    minimum: str
    product: Mapping[str, str]
    policies: tuple[PolicyFile, ...]
    labkit: str
    made: datetime
    names: tuple[str, ...]


def read(text: bytes) -> Said:
    """UsageError where it is no statement of a claim, or of a later form."""
    try:
        value = json.loads(text)
        predicate = value["predicate"]
        if (value["_type"], value["predicateType"]) != (_STATEMENT, _PREDICATE) or _OWN not in predicate:
            raise UsageError("the statement is not about a claim of labkit")
        own = predicate[_OWN]
        if own["format"] != FORMAT:
            raise UsageError(
                f"the claim has form {own['format']!r}, this labkit reads {FORMAT}",
                hint="verify it with a newer labkit",
            )
        subjects = {str(one["name"]): str(one["digest"]["sha256"]) for one in value["subject"]}
        if len(subjects) != len(value["subject"]) or own["minimum"] not in MINIMA:
            raise UsageError("the statement names a file twice, or a level that there is not")
        return Said(
            {name: digest for name, digest in subjects.items() if not name.startswith(RUNTIME)},
            next((digest for name, digest in subjects.items() if name.startswith(RUNTIME)), ""),
            str(predicate["result"]),
            own["minimum"],
            {str(key): str(word) for key, word in own["product"].items()},
            tuple(PolicyFile(str(one["name"]), str(one["sha256"]), one["own"] is True) for one in own["policies"]),
            str(own["labkit"]),
            datetime.fromisoformat(own["made"]).astimezone(UTC),
            tuple(map(str, own["runs"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"the statement is not one of a claim: {type(error).__name__} {error}") from error


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

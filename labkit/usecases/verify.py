"""The use case `verify`: whether a claim is what somebody signed, and whether it is true. All of it is hostile input.

Its files are read once, into memory. What a signature and digests cannot tell is found out: raw/ is judged again, and
the documents are made again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labkit.core.errors import HostError, LabError, UsageError
from labkit.core.text import count, one_line, printable, some
from labkit.io import archives, signing, version
from labkit.io.files import make_directory
from labkit.reports import as_claim
from labkit.results import json as results_json
from labkit.results import policy, statement
from labkit.results.model import Run
from labkit.results.statement import RUNTIME, Claim, Said
from labkit.store import runs
from labkit.usecases import claim as claims
from labkit.usecases import evidence
from labkit.usecases import run as one_run

_MOST = 20  # differences that are told


@dataclass(frozen=True, slots=True)
class Verified:
    """who: whom the signature is of, "" where nobody vouches for its key; key: that key's fingerprint. what: what the
    claim is about and says; differs: what does not hold, a line each; notes: what a person should know. results: how
    many were judged again.
    """

    directory: Path
    who: str
    key: str
    what: str
    says: str
    files: int
    results: int
    differs: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.differs

    @property
    def exit_status(self) -> int:
        """1 also where all holds and nobody knows whose it is."""
        return 0 if self.holds and self.who else 1

    def to_json(self) -> dict[str, object]:
        return {
            "directory": str(self.directory),
            "holds": self.holds,
            "who": self.who or None,
            "key": self.key or None,
            "what": self.what,
            "says": self.says,
            "files": self.files,
            "results": self.results,
            "differs": list(self.differs),
            "notes": list(self.notes),
            "exit_status": self.exit_status,
        }

    @property
    def text(self) -> str:
        rows = [
            ("who", self.who or (f"not known: nobody vouches for the key {self.key}" if self.key else "not known")),
            ("what", self.what or "not known"),
            ("says", self.says),
            ("files", f"{self.files}, as signed" if self.what else ""),
            ("raw", f"{count(self.results, 'result')} judged again" if self.results else ""),
            *(("note", note) for note in self.notes),
            *(("differs", line) for line in self.differs[:_MOST]),
        ]
        if len(self.differs) > _MOST:
            rows.append(("", f"and {len(self.differs) - _MOST} more"))
        lines = [f"{name:8}{printable(word)}" for name, word in rows if word]
        if not self.holds:
            lines.append("the claim DOES NOT HOLD")
        elif self.who:
            lines.append("the claim holds: the raw output shows what it says")
        else:
            lines.append(
                "the raw output shows what the claim says; whose it is: --key FILE.pub or --allowed-signers FILE"
            )
        return "\n".join(lines)


class _Told:
    def __init__(self) -> None:
        self.who = self.key = self.what = self.says = ""
        self.files = self.results = 0
        self.differs: list[str] = []
        self.notes: list[str] = []


def verify(directory: Path, *, key: Path | None = None, allowed: Path | None = None) -> Verified:
    """Check the claim in directory. UsageError where there is none, or the key is none."""
    if not directory.is_dir():
        raise UsageError(f"there is no directory {directory}", hint="name the directory of a claim")
    if not (directory / claims.ENVELOPE).is_symlink() and not (directory / claims.ENVELOPE).is_file():
        raise UsageError(f"{directory} is no claim: it has no {claims.ENVELOPE}", hint="./lab claim makes one")
    public = signing.public_key(key) if key else None
    if allowed is not None and not allowed.is_file():
        raise UsageError(f"the list of allowed signers {allowed} is no file")
    told = _Told()
    try:
        content = archives.files(directory)
        payload = _signed(content, public, allowed, told)
        said = statement.read(payload)
        rest = {name: data for name, data in content.items() if name not in (claims.ENVELOPE, claims.SIGNATURE)}
        told.differs += _digests(said, rest)
        if not told.differs:
            _judge_again(said, payload, rest, told)
    except HostError:
        raise
    except LabError as error:
        told.differs.append(error.message)
    return Verified(
        directory,
        told.who,
        told.key,
        told.what,
        told.says,
        told.files,
        told.results,
        tuple(told.differs),
        tuple(told.notes),
    )


def _signed(content: Mapping[str, bytes], public: signing.PublicKey | None, allowed: Path | None, told: _Told) -> bytes:
    """The statement that was signed; told: by whom."""
    envelope, signature = content[claims.ENVELOPE], content.get(claims.SIGNATURE)
    if signature is None:
        raise UsageError(f"{claims.SIGNATURE} is missing")
    by = signing.signer(signature, envelope, claims.SIGNATURE)
    told.key = by.fingerprint
    payload = signing.opened(envelope, statement.PAYLOAD, by, claims.ENVELOPE)
    if public is not None:
        if by.raw != public.raw:
            raise UsageError(f"it is signed by {by.fingerprint}, and not by {public.fingerprint}")
        told.who = " ".join(filter(None, (public.fingerprint, public.comment)))
    elif allowed is not None:
        told.who = f"{signing.principal(allowed, signature, envelope)}, {by.fingerprint}"
    return payload


def _digests(said: Said, rest: Mapping[str, bytes]) -> list[str]:
    found = [f"{name} is missing" for name in said.files if name not in rest]
    found += [f"{name} is there, and was not signed" for name in rest if name not in said.files]
    found += [
        f"{name} is not what was signed"
        for name, data in rest.items()
        if name in said.files and statement.sha256(data) != said.files[name]
    ]
    return found


def _judge_again(said: Said, payload: bytes, rest: Mapping[str, bytes], told: _Told) -> None:
    told.files = len(rest)
    policies = _policies(said, rest, told)
    if claims.RAW not in rest:
        raise UsageError(f"it has no {claims.RAW}, so nothing of it can be judged")
    archive = archives.unpacked(rest[claims.RAW], claims.RAW)
    names = {name.partition("/")[0] for name in archive}
    if not said.names or names != {*said.names} or len(names) != len(said.names):
        there, claimed = some(sorted(names)) or "nothing", some(said.names) or "nothing"
        raise UsageError(f"{claims.RAW} holds {there}; the claim is of {claimed}")
    found = []
    with tempfile.TemporaryDirectory(prefix="labkit-verify-") as place:
        for name, data in archive.items():
            file = Path(place) / name
            make_directory(file.parent)
            file.write_bytes(data)
        for name in said.names:
            found.append(_run(Path(place) / name, said, policies, told))
    claim = Claim(tuple(found), said.minimum, said.product, said.policies, said.labkit, said.made, said.names)
    told.what = f"{claim.title}; made {said.made:%Y-%m-%d} by labkit {said.labkit}; {_where(claim)}"
    told.says = f"{claim.outcome}: {as_claim.wording(claim)}"
    if said.outcome != claim.outcome:
        told.differs.append(f"it says {said.outcome}, and raw/ shows {claim.outcome}")
    if any(run.runtime.sha256 != said.runtime for run in claim.runs):
        told.differs.append(f"the digest of the runtime ({RUNTIME}...) is another one than the runs have")
    forms, misses = claims.programme(claim, [claims.raw_of(archive, name) for name in said.names])
    told.notes += misses
    _documents(claim, payload, rest, forms, told)


def _policies(said: Said, rest: Mapping[str, bytes], told: _Told) -> list[policy.Entry]:
    """The entries of the policy in the claim; told: whose that is."""
    shipped = policy.shipped()
    there = {name.removeprefix(claims.POLICY): data for name, data in rest.items() if name.startswith(claims.POLICY)}
    if {file.name: file.sha256 for file in said.policies} != {n: statement.sha256(d) for n, d in there.items()}:
        raise UsageError(f"the files below {claims.POLICY} are not those that the claim names")
    for file in said.policies:
        if file.own:
            told.notes.append(f"the policy {file.name} is the claimant's own: what it expects is the claimant's word")
        elif file.sha256 != shipped.get(file.name) and said.labkit == version.full():
            told.differs.append(f"the policy {file.name} is called this labkit's, and is not")
        elif file.sha256 != shipped.get(file.name):
            told.notes.append(
                f"the policy {file.name} is not that of this labkit ({version.full()}); the claim says it is that of "
                f"labkit {one_line(said.labkit, 60)}"
            )
    return policy.of_files([(file.name, there[file.name], file.own) for file in said.policies])


def _run(directory: Path, said: Said, entries: list[policy.Entry], told: _Told) -> Run:
    """The run of a claim, once its raw output was judged again."""
    path = directory / runs.RESULTS
    if not path.is_file():
        raise UsageError(f"{directory.name} has no {runs.RESULTS} in {claims.RAW}")
    kept = results_json.from_json(path.read_bytes(), f"{directory.name}/{runs.RESULTS}")
    if said.labkit == version.full() and results_json.to_json(kept).encode() != path.read_bytes():
        told.differs.append(f"run {directory.name}: its {runs.RESULTS} is not as labkit writes it")
    told.differs += [f"run {directory.name}: {why}" for why in claims.unfit(kept, directory)]
    named = (kept.judged.policy if kept.judged else None) or {}
    if named != {file.name: file.sha256 for file in said.policies}:
        raise UsageError(f"run {directory.name} was judged with another policy than the claim names")
    if not (directory / runs.RAW).is_dir():
        raise UsageError(f"run {directory.name} has no {runs.RAW}/, so it cannot be judged")
    again = claims.judged(directory, kept, entries)
    told.results += len(again.results)
    if any(file.sha256 != policy.shipped().get(file.name) for file in said.policies):
        ours = one_run.judge(again, policy.load())
        told.notes.append(
            f"run {directory.name}: {count(len(again.unexpected), 'failure')} not expected under the claim's policy, "
            f"{len(ours.unexpected)} under that of this labkit"
        )
    found = claims.difference(kept, again)
    told.differs += [f"run {directory.name}: {line}" for line in found]
    told.differs += [f"run {directory.name}: {line}" for line in _evidence(kept, directory)]
    return kept if found else claims.with_transcripts(kept, again)


def _evidence(kept: Run, directory: Path) -> list[str]:
    """In what the evidence of a run is not of its files."""
    found = []
    raw = evidence.with_raw({}, directory / runs.RAW)
    if (said := kept.evidence.get(evidence.RAW_ARCHIVE)) is not None and said != raw.get(evidence.RAW_ARCHIVE):
        found.append("its raw/ is not the one that the suite left")
    packages, file = kept.evidence.get("packages"), directory / evidence.PACKAGES
    if isinstance(packages, dict):
        there = statement.sha256(file.read_bytes()) if file.is_file() else ""
        if packages.get("sha256") != there:
            found.append("its list of packages is not the one that the machine gave")
    return found


def _documents(
    claim: Claim, payload: bytes, rest: Mapping[str, bytes], forms: Mapping[str, bytes], told: _Told
) -> None:
    """Whether what people read is what labkit writes of these results; forms: what a programme takes of them."""
    made = {**as_claim.documents(claim), **forms}
    known = {*made, claims.RAW, *(f"{claims.POLICY}{file.name}" for file in claim.policies)}
    told.differs += [f"{name} is no file of a claim" for name in rest if name not in known]
    told.differs += [f"{name} is missing" for name in made if name not in rest]
    others = [name for name, data in made.items() if name in rest and rest[name] != data]
    if not told.differs and statement.statement(claim, rest) != payload:
        others.append("the statement")
    if others and claim.labkit == version.full():
        told.differs += [f"{name} is not what the results come to" for name in others]
    elif others:
        told.notes.append(
            f"labkit {one_line(claim.labkit, 60)} wrote these, and this one, {version.full()}, writes them "
            f"otherwise, so they were not compared: {some(others)}"
        )


def _where(claim: Claim) -> str:
    machine = claim.runs[0].machine
    words = [str(machine.get(key) or "") for key in ("platform", "release", "provider", "kernel")]
    return " ".join(filter(None, words)) or "the machine is not known"

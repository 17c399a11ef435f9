"""The use case `claim`: runs as a folder that a stranger can check without trusting whoever made it.

DIR/README.md, PRODUCT.yaml, results.yaml, results.txt, report.html, junit.xml, badge.svg    for people and reviewers
DIR/SPEC/vX.Y/NAME/     the form of a programme that takes claims, where there is one for the suite: its own files
DIR/raw.tar.gz          of each run results.json, raw/ and its packages
DIR/policy/NAME.toml    what was expected to fail
DIR/claim.dsse.json     the statement about all of these, signed; claim.dsse.json.sig: the same as OpenSSH signs
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, StrictStr

from labkit.core import tomlfile
from labkit.core.config import Settings
from labkit.core.errors import LabError, UsageError
from labkit.core.text import count, one_line, some
from labkit.core.tomlfile import Table
from labkit.io import archives, signing, version
from labkit.io.files import disk_errors, make_directory, sweep, sync_directory, unfinished, write_atomic
from labkit.reports import as_claim
from labkit.results import policy, statement
from labkit.results.json import to_json
from labkit.results.model import Result, Run
from labkit.results.statement import Claim, PolicyFile
from labkit.results.values import yaml_problem
from labkit.store import runs
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Role
from labkit.suites import refs, registry
from labkit.suites.base import OfProgramme
from labkit.usecases import evidence, judge

ENVELOPE = "claim.dsse.json"
SIGNATURE = f"{ENVELOPE}.sig"
RAW = "raw.tar.gz"
POLICY = "policy/"
_KEY = "claim"  # in the lab's keys/
_SAID = "said.json"
_OF_TOOLS = ("validation", "runtimetest")  # suites whose version is a ref of runtime-tools
_LONGEST = 64 << 10  # bytes of a description of a product


class _Product(Table):
    """PRODUCT.yaml as opencontainers/oci-conformance has it."""

    vendor: StrictStr = Field(default="", description="a text")
    name: StrictStr = Field(default="", description="a text")
    version: StrictStr = Field(default="", description='a text, so in quotes: "1.2"')
    website_url: StrictStr = Field(default="", pattern=r"^(https?://\S+)?$", description="an address")
    repo_url: StrictStr = Field(default="", pattern=r"^(https?://\S+)?$", description="an address")
    documentation_url: StrictStr = Field(default="", pattern=r"^(https?://\S+)?$", description="an address")
    product_logo_url: StrictStr = Field(default="", pattern=r"^(https?://\S+)?$", description="an address")
    type: StrictStr = Field(default="", description="a text")
    description: StrictStr = Field(default="", description="a text")


_OPTIONAL = ("repo_url", "product_logo_url")


@dataclass(frozen=True, slots=True)
class Claimed:
    """What was made. key: whose signature it has; made_key: where that key is, where it was made now; lacking: keys of
    PRODUCT.yaml that nobody gave; misses: why reviewers of a programme would not take it; form: the folder of its form.
    """

    directory: Path
    claim: Claim
    key: signing.PublicKey
    made_key: Path | None
    lacking: tuple[str, ...]
    misses: tuple[str, ...] = ()
    form: str = ""


def claim(
    settings: Settings,
    names: Sequence[str],
    out: Path,
    *,
    key: Path | None = None,
    product: Path | None = None,
    minimum: str = "MUST",
    own_policy: bool = False,
) -> Claimed:
    """Write the claim that these runs make into out, which is there whole or not at all. UsageError where a run cannot
    be claimed, with each such run and why.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already", hint="name a new directory, or remove it")
    directories = _directories(settings, names)
    private, new = (signing.load(key), False) if key else signing.own(settings.home.keys / _KEY)
    found, reasons = [], []
    for directory in directories:
        try:
            found.append(_checked(directory, settings, own_policy))
        except LabError as error:
            hint = f" ({error.hint})" if error.hint else ""
            reasons.append(f"run {directory.name}: {error.message}{hint}")
    if reasons:
        raise UsageError("\n".join(["no claim can be made of this:", *reasons]))
    claimed = tuple(run for run, _ in found)
    _require_one_subject(claimed)
    files = policy_files(claimed[0])
    about = _described(product, claimed[0])
    made = Claim(
        claimed,
        minimum,
        about,
        tuple(files),
        version.full(),
        datetime.now(UTC).replace(microsecond=0),
        tuple(directory.name for directory in directories),
    )
    kept_raw = [raw_of(kept, directory.name) for directory, (_, kept) in zip(directories, found, strict=True)]
    forms, misses = programme(made, kept_raw)
    content = {
        **as_claim.documents(made),
        **forms,
        RAW: archives.packed({name: data for _, kept in found for name, data in kept.items()}),
        **{f"{POLICY}{file.name}": _policy(file, settings) for file in files},
    }
    envelope = signing.envelope(statement.statement(made, content), statement.PAYLOAD, private)
    _write(out, {**content, ENVELOPE: envelope, SIGNATURE: signing.ssh_signature(envelope, private)})
    lacking = tuple(name for name in as_claim.KEYS if not about[name] and name not in _OPTIONAL)
    folder = next(iter(forms), "").rpartition("/")[0]
    return Claimed(out, made, private.public, settings.home.keys / _KEY if new else None, lacking, misses, folder)


def raw_of(files: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    """The raw output of the run of that name among the files of the archive, by name."""
    above = f"{name}/{runs.RAW}/"
    return {file.removeprefix(above): data for file, data in files.items() if file.startswith(above)}


def programme(made: Claim, raw: Sequence[Mapping[str, bytes]]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files of the form that a programme takes of these runs, and why its reviewers would not take it; raw: the raw
    output of each. Nothing where there is no programme for what was run.
    """
    found: dict[str, bytes] = {}
    misses: list[str] = []
    for run, files in zip(made.runs, raw, strict=True):
        suite = registry.find(run.suite.name)
        if not isinstance(suite, OfProgramme):
            continue
        misses += suite.misses(run, made.product, files)
        folder, kept = suite.form(run, made.product, files)
        if folder and f"{folder}/{as_claim.README}" in found:
            misses.append(f"run {run.run.id}: {folder} has another run of the claim already: make a claim of each")
        elif folder:
            own = {as_claim.README: as_claim.reproduction(made, run), as_claim.PRODUCT: as_claim.product(made)}
            found |= {f"{folder}/{name}": data for name, data in sorted({**own, **kept}.items())}
    return found, tuple(misses)


def policy_files(run: Run) -> list[PolicyFile]:
    """The files of the policy that a run was judged with. A name that labkit does not ship is the claimant's."""
    known = policy.shipped()
    named = (run.judged.policy if run.judged else None) or {}
    return [PolicyFile(name, digest, name not in known) for name, digest in named.items()]


def unfit(run: Run, directory: Path) -> Iterator[str]:
    """Why no claim can be made of the run in directory, by what it says itself and what was said of it."""
    if not run.run.complete:
        yield f"it is not complete: {run.run.reason}"
    if run.nothing_shown or not run.results:
        yield f"it shows nothing: {run.nothing_shown or 'it has no results'}"
    if chosen := _chosen(run, directory):
        words = "; ".join(f"--{key} {one_line(some(names, 5), 200)}" for key, names in chosen.items())
        yield f"it is of a part of the suite: {words}"
    elif missing := _missing(run):
        yield f"it is of a part of the suite: {count(len(missing), 'name')} of it did not run: {some(missing, 5)}"
    if run.suite.name in _OF_TOOLS and refs.data().find(run.suite.version) is None:
        yield f"its ref of runtime-tools is {run.suite.version or 'not known'}, none that labkit knows"
    elif not run.suite.version:
        yield f"the version of its suite {run.suite.name} is not known"
    if run.runtime.name in ("", "unknown"):
        yield "its runtime is not known"
    elif not run.runtime.version and run.runtime.source != "running":  # which tells nobody what it is
        yield f"the version of its runtime, {run.runtime.name}, is not known"


def _chosen(run: Run, directory: Path) -> dict[str, list[str]]:
    """What was selected of the suite: on the command line of the run, or when it was judged; --programs with the rest,
    as a list of somebody's own is not the suite's.
    """
    chosen = run.evidence.get("selection")
    found = (
        {str(key): list(map(str, names)) for key, names in chosen.items() if isinstance(names, list)}
        if (isinstance(chosen, dict))
        else {}
    )
    if said := judge.said_before(directory):
        found |= {key: list(names) for key, names in dataclasses.asdict(said.meant).items() if names}
    return found


def _missing(run: Run) -> list[str]:
    """What the suite has, as far as that is known here, and the run has not."""
    if run.suite.name == "validation" and (ref := refs.data().find(run.suite.version)):
        there, names = {program.name for program in run.programs}, refs.data().programs(ref)
    elif run.suite.name == "spec":
        there, names = {result.id for result in run.results}, tuple(registry.find("spec").names())
    else:
        return []
    return [name for name in names if name not in there]


def difference(kept: Run, again: Run) -> list[str]:
    """In what the raw output shows another thing than was kept, a line each."""
    rows = {
        "the suite's version": (kept.suite.version, again.suite.version),
        "the runtime": (kept.runtime.name, again.runtime.name),
        "the runtime's version": (kept.runtime.version, again.runtime.version),
        "the runtime-spec": (kept.suite.spec, again.suite.spec),
        "the kernel": (kept.machine.get("kernel"), again.machine.get("kernel")),
        "the cgroup version": (kept.machine.get("cgroup"), again.machine.get("cgroup")),
        "what is incomplete": (kept.run.reason, again.run.reason),
    }
    found = [
        f"{what} is {was or 'unknown'} in it, raw/ says {now or 'nothing'}"
        for what, (was, now) in rows.items()
        if was != now
    ]
    before, after = kept.by_id(), again.by_id()
    if len(before) != len(after):
        found.append(f"it has {count(len(before), 'result')}, raw/ has {len(after)}")
    for was, now in zip(before, after, strict=False):
        if was.identity != now.identity or was.verdict is not now.verdict or was.level != now.level:
            found.append(f"{_shown(was)} in it, {_shown(now)} in raw/")
        elif (was.expected is None) != (now.expected is None):
            found.append(f"{_shown(was)} is {_expected(was)} in it, {_expected(now)} under the policy")
        elif _bare(was) != _bare(now):
            found.append(f"{_shown(was)} with another name, evidence or reason than raw/ and the policy have")
    if kept.programs != again.programs:
        found.append("its programs are others than those in raw/")
    return found


def _bare(result: Result) -> Result:
    """Without what raw/ does not tell, and how long it took to the last digit."""
    return dataclasses.replace(result, attribution=None, seconds=round(result.seconds, 3))


def _shown(result: Result) -> str:
    return one_line(f"{result.program or result.id} {result.name} {result.verdict} {result.level}".rstrip(), 200)


def _expected(result: Result) -> str:
    return "expected" if result.expected else "not expected"


def with_transcripts(kept: Run, again: Run) -> Run:
    """The kept run with the transcripts that only raw/ has, for its report."""
    results = (
        dataclasses.replace(was, transcript=now.transcript) if now.transcript else was
        for was, now in zip(kept.by_id(), again.by_id(), strict=True)
    )
    return dataclasses.replace(kept, results=tuple(results))


# --- what goes in


def _directories(settings: Settings, names: Sequence[str]) -> list[Path]:
    if not names:
        raise UsageError("no run is named", hint="./lab claim latest --out DIR")
    found = [runs.whole(runs.find(settings.reports, name)) for name in names]
    for number, directory in enumerate(found):
        if not runs.is_run(directory):
            raise UsageError(
                f"{directory} is no run of labkit", hint="of saved output ./lab judge makes one; claim that"
            )
        if directory in found[:number]:
            raise UsageError(f"run {directory.name} is named twice")
    return found


def _checked(directory: Path, settings: Settings, own_policy: bool) -> tuple[Run, dict[str, bytes]]:
    """The run of a claim, and the files of it that go into the archive. UsageError where it cannot be claimed."""
    kept = runs.load(directory)
    if why := list(unfit(kept, directory)):
        raise UsageError("; ".join(why))
    shipped = policy.shipped()
    if kept.judged is None:
        raise UsageError("it was never judged with a policy that is known", hint=f"./lab judge {directory.name}")
    named = kept.judged.policy or {}
    own = [name for name in named if name not in shipped]
    if own and not own_policy:
        raise UsageError(
            f"it was judged with a policy that labkit does not ship: {', '.join(own)}",
            hint="./lab judge it without `policy` in labkit.toml; or --own-policy names it in the claim",
        )
    for name, digest in named.items():
        if not digest:
            raise UsageError(
                f"its policy {name} is a list of tests to be skipped", hint="./lab policy import makes a policy of it"
            )
        if policy.text_of(name, settings.policy if name in own else None, digest) is None:
            raise UsageError(
                f"it was judged with another {name} than there is now", hint=f"./lab judge {directory.name}"
            )
    entries = policy.of_files([(name, _text(name, digest, settings), name in own) for name, digest in named.items()])
    again = judged(directory, kept, entries)
    if found := difference(kept, again):
        raise UsageError(
            f"its raw/ shows another thing than its results.json: {found[0]}"
            + (f", and {len(found) - 1} more" if len(found) > 1 else ""),
            hint=f"./lab judge {directory.name}",
        )
    raw = archives.files(directory / runs.RAW)
    files = {f"{runs.RAW}/{name}": data for name, data in raw.items()}
    files[runs.RESULTS] = to_json(kept).encode()
    for name in (_SAID, evidence.PACKAGES):
        if (directory / name).is_file() and not (directory / name).is_symlink():
            files[name] = (directory / name).read_bytes()
    return with_transcripts(kept, again), {f"{directory.name}/{name}": data for name, data in files.items()}


def judged(directory: Path, kept: Run, entries: Sequence[policy.Entry]) -> Run:
    """The run as raw/ shows it, under these entries, on the day on which it was judged."""
    with_policy = kept.judged is not None and kept.judged.policy is not None
    read = judge.read_again(directory, kept, entries if with_policy else None)
    day = (kept.judged.at if kept.judged else kept.run.finished).date()
    return policy.apply(read, entries if with_policy else None, day)


def _text(name: str, digest: str, settings: Settings) -> bytes:
    return policy.text_of(name, settings.policy, digest) or b""


def _policy(file: PolicyFile, settings: Settings) -> bytes:
    return _text(file.name, file.sha256, settings)


def _require_one_subject(claimed: Sequence[Run]) -> None:
    first = claimed[0]
    for other in claimed[1:]:
        for what, mine, its in (
            ("runtime", first.runtime.name, other.runtime.name),
            ("version", first.runtime.version, other.runtime.version),
            ("program (sha256)", first.runtime.sha256, other.runtime.sha256),
            ("arguments", first.runtime.arguments, other.runtime.arguments),
            ("policy", policy_files(first), policy_files(other)),
        ):
            if mine != its:
                raise UsageError(
                    f"a claim is about one runtime, judged under one policy: the {what} of run {first.run.id} and of "
                    f"run {other.run.id} are not the same",
                    hint="make a claim of each",
                )


def _described(path: Path | None, run: Run) -> dict[str, str]:
    """The keys of PRODUCT.yaml: what the file has, else what is known of the runtime."""
    given = _Product()
    if path is not None:
        import yaml

        try:
            value = yaml.safe_load(path.read_bytes()[:_LONGEST])
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{path} is not YAML: {yaml_problem(error)}") from error
        if not isinstance(value, dict):
            raise UsageError(f"{path}: must have keys and values", hint=f"the keys: {', '.join(as_claim.KEYS)}")
        given = tomlfile.check(_Product, {str(key): word for key, word in value.items()}, lambda _: str(path))
        if re.search(r"\bOCI\b", given.name):
            raise UsageError(f"{path}: name is {given.name!r}; a product of somebody else is not called OCI")
    known = {"name": run.runtime.name, "version": run.runtime.version, "type": "container runtime"}
    if run.runtime.name in runtimes.names(Role.REGISTRY):
        known["type"] = "distribution"  # in the words of oci-conformance's faq.md
    if run.runtime.name in runtimes.every():
        about = runtimes.about(run.runtime.name)
        known |= {"website_url": about.homepage, "repo_url": about.repository, "description": about.title}
    return {key: getattr(given, key) or known.get(key, "") for key in as_claim.KEYS}


def _write(out: Path, content: Mapping[str, bytes]) -> None:
    sweep(make_directory(out.absolute().parent))  # what a killed one left
    with disk_errors(out), unfinished(out.absolute()) as part:
        part.mkdir(mode=0o755)
        for name, data in content.items():
            write_atomic(make_directory((part / name).parent) / (part / name).name, data)
        if out.exists():
            out.rmdir()
        part.rename(out.absolute())
        sync_directory(out.absolute().parent)

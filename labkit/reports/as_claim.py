"""The documents of a claim: for people who read it, and in the forms that reviewers of conformance claims know.

Made of the claim alone, so that who verifies it makes them again and compares. Nothing here certifies anything.
"""

from __future__ import annotations

import html
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping

from labkit.core.text import count, one_line, printable
from labkit.reports import as_html, as_junit
from labkit.reports.markdown import block, code
from labkit.results.model import Result, Run, Verdict
from labkit.results.statement import Claim, Outcome
from labkit.suites import registry
from labkit.suites.base import OfProgramme, OfRegistries

README, PRODUCT, RESULTS, TEXT = "README.md", "PRODUCT.yaml", "results.yaml", "results.txt"
REPORT, JUNIT, BADGE = "report.html", "junit.xml", "badge.svg"
KEYS = (
    "vendor", "name", "version", "website_url", "repo_url", "documentation_url", "product_logo_url", "type",
    "description",
)  # fmt: skip
NO_PROGRAMME = (
    "There is no programme that certifies container runtimes. This is what its maker measured, in a form that anybody "
    "can check and repeat."
)
_ALL_PASSED = "All tests passed"  # what reviewers of oci-conformance look for
_COLOURS = {Outcome.PASSED: "#2e7d32", Outcome.WARNED: "#8a6d00", Outcome.FAILED: "#b3261e"}
_LISTED = 200  # failures that the README has by name; results.yaml has all


def documents(claim: Claim) -> dict[str, bytes]:
    """The files of the claim but for the raw archive, policies and signatures."""
    texts = {
        README: _readme(claim),
        PRODUCT: product(claim).decode(),
        RESULTS: _results(claim),
        TEXT: _text(claim),
        JUNIT: as_junit.render(*claim.runs),
        BADGE: _badge(claim),
        **_reports(claim),
    }
    return {name: text.encode("utf-8", "replace") for name, text in texts.items()}


def product(claim: Claim) -> bytes:
    """PRODUCT.yaml."""
    return "".join(f"{key}: {_yaml(claim.product[key])}\n" for key in KEYS if key in claim.product).encode(
        "utf-8", "replace"
    )


def reproduction(claim: Claim, run: Run) -> bytes:
    """The README of a programme's form: how to do a run again, with labkit and by hand."""
    parts = [
        f"# {code(claim.product.get('name') or run.runtime.name)}\n",
        f"{code(run.title)}, on {code(_system(run) or 'a machine that is not known')}.\n",
        _table(("", ""), _about(run)),
        "## Do it again\n",
        f"With labkit {code(claim.labkit)}, on a Linux host (x86-64):\n",
        block(_command(run)) + "\n",
        "By hand, the conformance program of distribution-spec that is named above, against the same registry:\n",
        block(
            f"OCI_REGISTRY=HOST:PORT OCI_TLS=enabled OCI_VERSION={shlex.quote(run.suite.spec or '1.1')} oci-conformance"
        )
        + "\n",
        f"{code('results.yaml')} has the configuration of this run; the claim's raw.tar.gz all that was printed.\n",
    ]
    return "\n".join(parts).encode("utf-8", "replace")


def note(claim: Claim) -> str:
    """What a claim is not."""
    suites = [registry.find(run.suite.name) for run in claim.runs]
    return next((suite.note for suite in suites if isinstance(suite, OfProgramme)), NO_PROGRAMME)


def wording(claim: Claim) -> str:
    """What the claim comes to, in a sentence."""
    results = sum(len(run.results) for run in claim.runs)
    skipped = sum(result.verdict is Verdict.SKIP for run in claim.runs for result in run.results)
    failing = claim.failing
    known = sum(result.expected is not None for result in failing)
    unexpected = len(failing) - known
    more = f"; {skipped} skipped" if skipped else ""
    more += f"; {count(len(claim.warned), 'warning')}" if claim.warned else ""
    if not failing:
        return f"{_ALL_PASSED} that ran, at {claim.minimum} and above: {count(results, 'result')}{more}"
    told = [f"{known} that the policy knows, with reasons"] if known else []
    told += [f"{unexpected} that it does not know"] if unexpected else []
    return f"{len(failing)} of {count(results, 'result')} fail at {claim.minimum} or above: {', '.join(told)}{more}"


def _reports(claim: Claim) -> dict[str, str]:
    if len(claim.runs) == 1:
        return {REPORT: as_html.render(claim.runs[0])}
    pages = {f"report-{number}.html": as_html.render(run) for number, run in enumerate(claim.runs, 1)}
    shown = [verdict for verdict in Verdict if any(run.totals[verdict] for run in claim.runs)]
    index = as_html.page(
        "claim.html.j2",
        title=claim.title,
        outcome=claim.outcome.value,
        told=wording(claim),
        note=note(claim),
        verdicts=[verdict.value for verdict in shown],
        pages=[
            (name, run.title, [run.totals[verdict] for verdict in shown])
            for name, run in zip(pages, claim.runs, strict=True)
        ],
    )
    return {REPORT: index, **pages}


# --- README.md


def _readme(claim: Claim) -> str:
    parts = [
        f"# {code(claim.title)}\n",
        f"**{wording(claim)}**\n",
        f"{note(claim)}\n",
        f"Made by labkit {code(claim.labkit)} on {claim.made:%Y-%m-%d}.\n",
        "## What was tested\n",
    ]
    for run in claim.runs:
        parts += [f"### {code(run.title)}\n", _table(("", ""), _about(run)), _verdicts(claim, run)]
    parts += [*_failures(claim), *_skips(claim), *_policies(claim), *_again(claim), *_check(claim)]
    return "\n".join(parts)


def _about(run: Run) -> Iterable[tuple[str, str]]:
    """What is known of a run, and what is not."""
    known, machine = run.evidence, run.machine
    kernel = known.get("kernel") or machine.get("kernel")
    rows: dict[str, object] = {
        "runtime": f"{run.runtime.name} {run.runtime.version}",
        "its program": run.runtime.program,
        "its sha256": run.runtime.sha256,
        "its arguments": run.runtime.arguments or "none",
        "suite": f"{run.suite.name} {run.suite.version}",
        registry.specification(run.suite.name): run.suite.spec,
        "suite's program": _digest(known.get("suite")),
        **({"upstream program": _words(known.get("upstream"))} if known.get("upstream") else {}),
        "system": _system(run),
        "made by": _words(known.get("provider")) or machine.get("provider"),
        "image": _words(known.get("image")),
        "kernel": f"{kernel or ''} {machine.get('kernel_origin') or ''}".strip(),
        "kernel's configuration": _words(known.get("kernel configuration")),
        "security modules": known.get("lsm"),
        "cgroups": known.get("cgroup") or machine.get("cgroup"),
        "processor": known.get("cpu"),
        "libseccomp": known.get("libseccomp"),
        "packages": _words(known.get("packages")),
        "raw output": _digest(known.get("raw archive")),
        "begun": f"{run.run.started:%Y-%m-%d %H:%M:%S} UTC, {run.run.seconds:.0f} s",
        "labkit": known.get("labkit") or run.run.labkit,
        "command": known.get("command"),
        "run": run.run.id,
    }
    for what, word in rows.items():
        if word:
            yield what, code(str(word), 1000)
    if missing := [what for what, word in rows.items() if not word]:
        yield "not known", ", ".join(missing)


def _system(run: Run) -> str:
    return f"{run.machine.get('platform') or ''} {run.machine.get('release') or ''}".strip()


def _words(value: object) -> str:
    """An object of evidence on one line."""
    if not isinstance(value, dict):
        return ""
    return ", ".join(f"{key} {word}" if key != "name" else str(word) for key, word in value.items() if word)


def _digest(value: object) -> str:
    return f"sha256 {value['sha256']}" if isinstance(value, dict) and value.get("sha256") else ""


def _table(head: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def _verdicts(claim: Claim, run: Run) -> str:
    of: dict[str, Counter[str]] = {}
    for result in run.results:
        failing = "known" if result.expected else "fail"
        word = failing if result.bad else result.verdict.value if result.verdict in _SHOWN else "other"
        of.setdefault(result.level or "no level", Counter())[word] += 1
    head = ("level", "pass", "fails, not expected", "fails, known", "skipped", "other")
    keys = ("pass", "fail", "known", "skip", "other")
    return _table(head, ((code(level), *(str(of[level][key] or "") for key in keys)) for level in sorted(of)))


_SHOWN = (Verdict.PASS, Verdict.SKIP)


def _failures(claim: Claim) -> Iterable[str]:
    failing = claim.failing
    unexpected = [result for result in failing if result.expected is None]
    known: dict[str, list[str]] = {}
    for result in failing:
        if result.expected:
            told = " ".join(filter(None, (result.expected.reason, result.expected.link)))
            known.setdefault(told, []).append(_name(result))
    if unexpected:
        yield f"## What fails, and no policy knows of: {len(unexpected)}\n"
        yield _list(dict.fromkeys(map(_name, unexpected)))
    if known:
        yield f"## What is known to fail: {len(failing) - len(unexpected)}\n"
        rows = [
            (code(why, 500), ", ".join(code(n) for n in list(dict.fromkeys(names))[:30]))
            for why, names in known.items()
        ]
        yield _table(("reason", "what"), rows)
    if warned := claim.warned:
        yield f"## Warnings: {len(warned)}\n"
        yield _list(dict.fromkeys(f"{_name(one)}: {one.verdict} {one.level}".rstrip() for one in warned))


def _name(result: Result) -> str:
    return f"{result.program}: {result.name}" if result.program else f"{result.id} {result.name}"


def _list(names: Iterable[str]) -> str:
    listed = [f"- {code(name)}" for name in names]
    more = [f"- and {len(listed) - _LISTED} more, in results.yaml"] if len(listed) > _LISTED else []
    return "\n".join([*listed[:_LISTED], *more, ""])


def _skips(claim: Claim) -> Iterable[str]:
    reasons: Counter[str] = Counter()
    for run in claim.runs:
        reasons.update(run.skipped)
    if reasons:
        yield f"## What was skipped, and why: {sum(reasons.values())}\n"
        most = reasons.most_common(50)
        yield _table(("results", "reason"), ((str(number), code(why)) for why, number in most))


def _policies(claim: Claim) -> Iterable[str]:
    yield "## Policy\n"
    if not claim.policies:
        yield "None: nothing is expected to fail.\n"
        return
    yield "What is known to fail, and why, stands in these files; each failure still counts as one.\n"
    rows = (
        (code(f"policy/{file.name}"), "**the claimant's own**" if file.own else "labkit's", code(file.sha256))
        for file in claim.policies
    )
    yield _table(("file", "whose", "sha256"), rows)


def _again(claim: Claim) -> Iterable[str]:
    yield "## Do it again\n"
    yield f"In a checkout of labkit {code(claim.labkit)}, on a Linux host (x86-64):\n"
    for run in claim.runs:
        if not isinstance(run.evidence.get("again"), str):
            yield f"Of the run {code(run.run.id)} it is not known what command made its output. Near to it comes:\n"
        yield block(_command(run)) + "\n"
    yield "and compare, with the folder of the run in the raw archive:\n"
    yield block(f"mkdir claimed && tar -xzf raw.tar.gz -C claimed && ./lab diff claimed/{claim.names[0]} latest") + "\n"


def _command(run: Run) -> str:
    """The command that made a run, or one that is near to it."""
    command = run.evidence.get("again")
    if isinstance(command, str):
        return one_line(command, 2000)
    flag = "--registry" if isinstance(registry.find(run.suite.name), OfRegistries) else "--runtime"
    subject = shlex.quote(run.runtime.word or run.runtime.name)
    return f"./lab test --suite {shlex.quote(run.suite.name)} {flag} {subject}"


def _check(claim: Claim) -> Iterable[str]:
    yield "## Check this claim\n"
    yield "With the public key of whoever made it, got by another way than this folder:\n"
    yield block("./lab verify . --key FILE.pub") + "\n"
    yield (
        "This checks the signature and the digest of every file, judges the raw output again under the policy named "
        "above, and compares. Without labkit, the signature alone:\n"
    )
    command = "ssh-keygen -Y verify -f ALLOWED_SIGNERS -I NAME -n labkit-claim -s claim.dsse.json.sig < claim.dsse.json"
    yield block(command) + "\n"


# --- tables and text


def _yaml(word: str) -> str:
    """A text as YAML, in quotes: JSON is YAML."""
    return json.dumps(word)


def _results(claim: Claim) -> str:
    """YAML whose results are a line of JSON each."""
    lines = [
        f"title: {_yaml(claim.title)}",
        f"outcome: {claim.outcome.value}",
        f"minimum: {claim.minimum}",
        f"told: {_yaml(wording(claim))}",
        f"note: {_yaml(note(claim))}",
        f"labkit: {_yaml(claim.labkit)}",
        "runs:",
    ]
    encode = json.JSONEncoder().encode
    for run in claim.runs:
        totals = {verdict.value: number for verdict, number in run.totals.items()}
        lines += [
            f"  - id: {_yaml(run.run.id)}",
            f"    suite: {_yaml(run.suite.name)}",
            f"    suite_version: {_yaml(run.suite.version)}",
            f"    spec: {_yaml(run.suite.spec)}",
            f"    runtime: {_yaml(run.runtime.name)}",
            f"    runtime_version: {_yaml(run.runtime.version)}",
            f"    machine: {encode(dict(run.machine))}",
            f"    evidence: {encode(dict(run.evidence))}",
            f"    totals: {encode(totals)}",
            f"    skipped: {encode(run.skipped)}",
            "    results:" + ("" if run.results else " []"),
        ]
        lines += [f"      - {encode(_result(result))}" for result in run.by_id()]
    return "\n".join(lines) + "\n"


def _result(result: Result) -> Mapping[str, object]:
    row = {
        "id": result.id,
        "program": result.program,
        "name": result.name,
        "level": result.level,
        "reference": result.reference,
        "verdict": result.verdict.value,
        "expected": result.expected.reason if result.expected else "",
    }
    return {key: word for key, word in row.items() if word}


def _text(claim: Claim) -> str:
    """The older form: a line for each result, and what it comes to at the end."""
    lines = [claim.title, note(claim)]
    for run in claim.runs:
        lines += ["", f"{run.title}, run {run.run.id}"]
        for result in run.by_id():
            known = f" (known: {result.expected.reason})" if result.expected else ""
            lines.append(one_line(f"{result.verdict.upper():13} {result.level:10} {_name(result)}{known}", 400))
    lines += ["", wording(claim)]
    return "".join(f"{printable(line)}\n" for line in lines)


def _badge(claim: Claim) -> str:
    """A badge as forges show them: what was measured, and no more."""
    runtime = claim.runs[0].runtime
    left = one_line(printable(f"{runtime.name} {runtime.version}"), 40).strip()
    results = [result for run in claim.runs for result in run.results]
    passed = sum(result.verdict is Verdict.PASS for result in results)
    failing = len(claim.failing)
    right = f"{claim.minimum}: {passed} pass, {failing} fail"
    widths = [10 + round(6.6 * len(word)) for word in (left, right)]
    total, title = sum(widths), html.escape(f"{left}: {wording(claim)}. {note(claim)}")
    colour = _COLOURS[claim.outcome]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" aria-label="{title}">\n'
        f"<title>{title}</title>\n"
        f'<rect width="{widths[0]}" height="20" fill="#444"/>\n'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="20" fill="{colour}"/>\n'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">\n'
        f'<text x="{widths[0] / 2:g}" y="14">{html.escape(left)}</text>\n'
        f'<text x="{widths[0] + widths[1] / 2:g}" y="14">{html.escape(right)}</text>\n'
        "</g>\n</svg>\n"
    )

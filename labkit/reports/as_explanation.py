"""Why a check failed: what was demanded, expected and seen, and what the check did, as text and as JSON."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from labkit.core.text import printable, truncate
from labkit.guest.spec.context import plain_config
from labkit.reports.evidence import Failure, evidence, link
from labkit.results.model import Result, Run
from labkit.results.sentences import Sentence
from labkit.results.tap import JSON
from labkit.results.transcript import Called, Found, Made, Process, Transcript, Waited

SEPARATORS = (",\n", ": ")  # with which the suite writes a config
_FEW = 12  # lines of one command's output
_MANY = 60  # lines of what a program printed


@dataclass(frozen=True, slots=True)
class Explanation:
    """results: those of the id, in a suite of programs all that the program had bad; transcript: what the check did,
    None where nothing of that was recorded, and lacking says why. printed: what a program printed, by file.
    """

    run: Run
    results: tuple[Result, ...]
    sentences: tuple[Sentence, ...] = ()
    transcript: Transcript | None = None
    lacking: str = ""
    printed: tuple[tuple[str, str], ...] = ()

    @property
    def first(self) -> Result:
        return self.results[0]


def text(explained: Explanation, *, full: bool = False) -> str:
    """For a terminal. full: everything that is known, else what matters."""
    lines = [line for result in explained.results for line in (*_result(explained, result), "")]
    if explained.transcript:
        lines += ["What the check did", "", *did(explained.transcript, explained.first, explained.run, full=full)]
        lines += ["", f"./lab explain {explained.run.run.id} {explained.first.id} --reproduce does it again"]
    if explained.lacking:
        lines += textwrap.wrap(explained.lacking, 120, break_long_words=False, break_on_hyphens=False)
    for name, content in explained.printed:
        printed = content.splitlines()
        kept = printed if full else printed[-_MANY:]
        left_out = f" (its last {len(kept)} lines of {len(printed)}; --full shows all)" if kept != printed else ""
        lines += ["", f"{name}{left_out}", *(f"  {line}" for line in kept)]
    return "\n".join(printable(line) for line in lines).strip("\n")


def _result(explained: Explanation, result: Result) -> Iterator[str]:
    run, found = explained.run, evidence(result)
    yield f"{result.program or result.id}: {result.verdict}{', as the policy expects' if result.expected else ''}"
    yield result.name
    address = link(result.reference, run.suite.spec)
    yield ", ".join(filter(None, (found.level, address or result.reference)))
    for sentence in explained.sentences:
        yield f'  {sentence.level}: "{sentence.text}" ({sentence.reference})'
    where = " ".join(str(run.machine.get(key, "")) for key in ("platform", "release", "provider", "kernel"))
    yield " ".join(f"{run.title} on {where}, run {run.run.id}".split())
    if result.expected:
        yield f"expected: {result.expected.reason} ({result.expected.link or result.expected.source})"
    elif result.known:
        yield f"the policy expects {', '.join(result.known)}, and not the rest"
    yield ""
    for failure in found.failures:
        yield from _failure(failure)
    if not found.failures and found.message:
        yield from found.message.splitlines()
    for note in found.notes:
        yield from textwrap.indent(f"note: {note}", "").splitlines()


def _failure(failure: Failure) -> Iterator[str]:
    yield f"{failure.what or 'what was seen'}{' (the policy expects this)' if failure.known else ''}"
    for name, value in (("expected", failure.expected), ("actual", failure.actual)):
        if value is not None:
            first, *more = value.splitlines() or [""]
            yield f"  {name:<9} {first}"
            yield from (f"            {line}" for line in more)


def did(transcript: Transcript, result: Result, run: Run, *, full: bool = False) -> list[str]:
    """The steps of a check, in order, as lines."""
    failures = {failure.finding: failure for failure in evidence(result).failures}
    plain = tuple(filter(None, (run.suite.spec, run.suite.spec_claimed))) or ("1.0.0",)
    lines = [f"W={transcript.work}"]
    for step in transcript.needed:
        if isinstance(step, Made):
            lines += _made(transcript, step, plain, full)
        elif isinstance(step, Called):
            lines += ["", *_called(transcript, step, full)]
        elif isinstance(step, Waited) and not step.pid_file:
            lines.append(f"(waited {step.seconds:.2g} s)")
        elif isinstance(step, Process) and full:
            whose = f"of {step.pid_file.removesuffix('.pid')}" if step.pid_file else "of the last command"
            lines.append(f"(process {step.pid} is that {whose})")
        elif isinstance(step, Found):
            failure = failures.get(step.finding)
            lines.append(f"  ! {failure.what if failure else step.finding}")
    if transcript.left_out:
        lines += ["", f"{transcript.left_out} more steps were not recorded: there were too many"]
    for path, content in transcript.outputs:
        lines += ["", f"what was written to $W/{path}:", *_some(transcript.shortly(content), full)]
    return lines


def _made(transcript: Transcript, made: Made, plain: Sequence[str], full: bool) -> Iterator[str]:
    mode = f", mode {made.mode:o}" if made.mode not in (0o644, 0o755, 0o777) else ""
    if made.owner != (0, 0):
        mode += f", of {made.owner[0]}:{made.owner[1]}"
    words = {
        "directory": "a directory",
        "link": f"a link to {transcript.shortly(made.to)}",
        "node": f"mknod {' '.join(made.device)}",
        "busybox": "the busybox",
        "socket": "a socket of the check",
        "gone": "is removed",
        "other": "something else",
    }
    if made.kind == "bundle":
        yield ""
        yield f"$W/{made.path}: a bundle with a root file system of busybox"
    elif made.kind != "file":
        yield f"$W/{made.path}: {words[made.kind]}{mode}"
    elif made.is_config and made.whole and not full:
        said, lines = config(made.data, plain)
        yield f"$W/{made.path}: {said}"
        yield from (f"  {line}" for line in transcript.shortly("\n".join(lines)).splitlines())
    else:
        cut = "" if made.whole else f", its first {len(made.data)} bytes"
        content = transcript.shortly(made.data.decode("utf-8", "backslashreplace"))
        yield f"$W/{made.path}{mode}{cut}:"
        yield from _some(content, full)


def config(data: bytes, versions: Sequence[str]) -> tuple[str, list[str]]:
    """What is particular in a config.json, and what these lines are. versions: of the spec, that say nothing here."""
    try:
        written = data.decode()
        value = json.loads(written)
    except ValueError:
        written, value = data.decode("utf-8", "backslashreplace"), None
    usual: dict[str, JSON] = {"ociVersion": versions[0], **plain_config([])}
    if not isinstance(value, dict) or json.dumps(value, separators=SEPARATORS) != written:
        # No JSON; or names that are there twice, escapes, another order: how it is written is what the check is about.
        plain = {line.strip(", ") for line in json.dumps(usual, separators=SEPARATORS).splitlines()}
        lines = ["…" if line.strip(", ") in plain else line for line in written.splitlines()]
        lines = [line for number, line in enumerate(lines) if number == 0 or line != "…" or lines[number - 1] != "…"]
        return "where it is written in another way than a plain one (--full shows all of it)", lines or ["(empty)"]
    if value.get("ociVersion") in versions:
        usual["ociVersion"] = value["ociVersion"]
    lines = []
    particular = _particular(value, usual, "", lines)
    linux = particular.get("linux")
    if isinstance(linux, dict) and re.fullmatch(r"/labkit-[A-Za-z0-9/.-]+", str(linux.get("cgroupsPath"))):
        particular["linux"] = {key: each for key, each in linux.items() if key != "cgroupsPath"}
        particular = {key: each for key, each in particular.items() if key != "linux" or each}
    if isinstance(value.get("process"), dict) and "args" not in value["process"]:
        lines.append("without process.args")
    text = json.dumps(particular, indent=2, ensure_ascii=False)
    text = re.sub(r"\[\n +([^\[\]{}]*?)\n +\]", lambda found: f"[{_one_line(found[1])}]", text)
    return "what it has beside a plain one (--full shows all of it)", [*text.splitlines(), *lines]


def _one_line(text: str) -> str:
    return re.sub(r"\n +", " ", text)


def _particular(value: Mapping[str, JSON], usual: Mapping[str, JSON], at: str, lines: list[str]) -> dict[str, JSON]:
    """The members that are not as usual; lines are told of those that are not there."""
    found: dict[str, JSON] = {}
    for key, each in value.items():
        plain = usual.get(key)
        if isinstance(each, dict) and isinstance(plain, dict):
            inner = _particular(each, plain, f"{at}{key}.", lines)
            if inner or not each:
                found[key] = inner
        elif isinstance(each, list) and isinstance(plain, list) and key != "args":
            more = [one for one in each if one not in plain]
            less = [one for one in plain if one not in each]
            if more or (less and not each):
                found[key] = more
            lines += [f"without {at}{key} {json.dumps(one)}" for one in less]
        elif each != plain or key not in usual:
            found[key] = each
    lines += [f"without {at}{key}" for key in usual if key not in value and f"{at}{key}" != "process.args"]
    return found


def _called(transcript: Transcript, call: Called, full: bool) -> Iterator[str]:
    more = [f"cd {transcript.shortly(call.cwd)};"] if call.cwd else []
    more += [f"umask {call.umask};"] if call.umask else []
    more += [f"{key}={shlex.quote(transcript.shortly(word))}" for key, word in call.env.items()]
    words = [re.sub(r"^'(\$W[A-Za-z0-9_./-]*)'$", r"\1", shlex.quote(transcript.shortly(word))) for word in call.argv]
    end = [f"<{transcript.shortly(call.stdin)}"] if call.stdin else []
    yield " ".join(["$", *more, *words, *end, *(["&"] if call.beside else [])])
    for content in (call.stdout, call.stderr):
        yield from _some(transcript.shortly(content), full)
    yield call.how


def _some(content: str, full: bool) -> Iterator[str]:
    lines = content.rstrip("\n").splitlines() if content else []
    most = len(lines) if full else _FEW
    for line in lines[:most]:
        yield f"  {line if full else truncate(line, 300)}"
    if len(lines) > most:
        yield f"  … {len(lines) - most} more lines (--full shows them)"


def to_json(explained: Explanation) -> dict[str, JSON]:
    """The same for scripts."""
    run = explained.run
    transcript = explained.transcript
    return {
        "run": run.run.id,
        "suite": run.suite.name,
        "runtime": " ".join(f"{run.runtime.name} {run.runtime.version}".split()),
        "results": [_result_json(result, run) for result in explained.results],
        "sentences": [asdict(sentence) for sentence in explained.sentences],
        "transcript": None if transcript is None else _transcript_json(transcript),
        "lacking": explained.lacking or None,
        "printed": [{"file": name, "text": content} for name, content in explained.printed],
    }


def _result_json(result: Result, run: Run) -> dict[str, JSON]:
    found = evidence(result)
    return {
        "id": result.id,
        "program": result.program or None,
        "name": result.name,
        "level": result.level,
        "reference": result.reference,
        "link": link(result.reference, run.suite.spec),
        "verdict": result.verdict.value,
        "message": found.message,
        "findings": [
            {
                "finding": one.finding,
                "what": one.what,
                "expected": one.expected,
                "actual": one.actual,
                "in_policy": one.known,
            }
            for one in found.failures
        ],
        "policy": None if result.expected is None else asdict(result.expected),
    }


def _transcript_json(transcript: Transcript) -> dict[str, JSON]:
    steps: list[JSON] = []
    for step in transcript.steps:
        if isinstance(step, Made):
            content: dict[str, JSON] = {}
            if step.kind == "file":
                content = {"text": step.data.decode("utf-8", "backslashreplace"), "whole": step.whole}
            more = {key: each for key, each in (("to", step.to), ("device", list(step.device))) if each}
            steps.append({"step": "made", "path": step.path, "kind": step.kind, "mode": step.mode, **content, **more})
        elif isinstance(step, Called):
            steps.append({"step": "called", **{key: _plain(each) for key, each in asdict(step).items()}})
        elif isinstance(step, Waited):
            steps.append({"step": "waited", "seconds": step.seconds, "pid_file": step.pid_file})
        elif isinstance(step, Process):
            steps.append({"step": "process", "pid": step.pid, "pid_file": step.pid_file})
        else:
            steps.append({"step": "found", "finding": step.finding})
    return {
        "work": transcript.work,
        "runtime": list(transcript.runtime),
        "busybox": transcript.busybox,
        "steps": steps,
        "outputs": [{"file": path, "text": content} for path, content in transcript.outputs],
        "left_out": transcript.left_out,
    }


def _plain(value: JSON) -> JSON:
    return list(value) if isinstance(value, tuple) else value

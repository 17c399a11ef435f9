"""A folder that does again what a check did: run.sh, and below work/ the files that it gave to the runtime.

What is in a transcript comes from a machine that nobody trusts. It is quoted, so that it says nothing to the shell, and
no file is written outside the folder; but a config.json tells a runtime what to do as root. So run.sh says to read it
first.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from labkit.core import resources
from labkit.core.text import one_line
from labkit.reports.evidence import Failure, evidence, link
from labkit.results.model import Result, Run
from labkit.results.transcript import Called, Found, Made, Process, Step, Transcript, Waited

SCRIPT = "run.sh"
_LONGEST_WAIT = 3.0  # seconds that the script waits where the check waited for something of its own


def files(run: Run, result: Result, transcript: Transcript) -> dict[str, bytes]:
    """The files of the folder, by path."""
    made = _Script(transcript, {failure.finding: failure for failure in evidence(result).failures})
    steps = [line for step in transcript.needed for line in made.step(step)]
    steps += ["", *(f"show {made.word(path)}" for path in sorted({path for path, _ in transcript.outputs}))]
    steps += [f"forget {ident}" for ident in made.ids]
    words = {
        "@HEAD@": "\n".join(f"# {one_line(line, 200)}".rstrip() for line in _head(run, result, transcript)),
        "@RUNTIME@": shlex.quote(transcript.runtime[0]),
        "@STEPS@": "\n".join(steps).strip("\n"),
    }
    template = (resources.root() / "templates" / SCRIPT).read_text("utf-8")
    text = re.sub("|".join(words), lambda found: words[found[0]], template)
    return {SCRIPT: text.encode(), **made.files}


def _head(run: Run, result: Result, transcript: Transcript) -> Iterator[str]:
    found = evidence(result)
    yield f"{result.id} ({found.level}): {result.name}"
    if address := link(result.reference, run.suite.spec):
        yield address
    yield ""
    yield f"Does again what labkit's suite did in run {run.run.id} with"
    yield f"{run.runtime.name} {run.runtime.version}, when this check came to {result.verdict}:"
    for failure in found.failures[:20]:
        yield f"  {failure.what}: expected {failure.expected}, got {failure.actual}"
    if not found.failures:
        yield f"  {found.message}"
    if transcript.left_out:
        yield f"{transcript.left_out} steps are not here: there were too many."
    yield "What a check does by itself is not here, such as cgroups that it makes; commands, files and waits are."
    yield ""
    yield "sh run.sh [RUNTIME], as root. Read it first, and the files beside it: they come from the machine of the run,"
    yield "and a runtime does as root what they say. It works below /tmp, in namespaces of its own, and leaves nothing."
    yield "Exit status: 0 if every command ends as it did then, 1 if one does not, 2 if it cannot run here."


@dataclass
class _Script:
    """The lines for the steps of a transcript, and the files that they need."""

    transcript: Transcript
    failures: Mapping[str, Failure]
    files: dict[str, bytes] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    _pids: dict[str, str] = field(default_factory=dict)

    def step(self, step: Step) -> Iterator[str]:
        if isinstance(step, Made):
            yield from self._made(step)
        elif isinstance(step, Called):
            yield from self._called(step)
        elif isinstance(step, Waited):
            yield from self._waited(step)
        elif isinstance(step, Process):
            yield from self._process(step)
        elif isinstance(step, Found):
            failure = self.failures.get(step.finding)
            told = f"{failure.what}: expected {failure.expected}, got {failure.actual}" if failure else step.finding
            yield f"found {shlex.quote(one_line(told, 200))}"

    def word(self, text: str) -> str:
        """A word of the script for a word of the check; a relative path is below its directory."""
        known = {self.transcript.work: "$W", f"labkit-{self.transcript.name}": "$NAME"}
        known |= {self.transcript.busybox: "$BUSYBOX"}
        known |= {f"/proc/{pid}/": f"/proc/${name}/" for pid, name in self._pids.items()}
        if text in self._pids:
            return f'"${self._pids[text]}"'
        pieces = re.split("(" + "|".join(map(re.escape, known)) + ")", text)
        if len(pieces) == 1:
            return shlex.quote(text)
        # In double quotes, where a variable stands for what differs from run to run.
        quoted = [known.get(piece) or re.sub(r'([\\"$`])', r"\\\1", piece) for piece in pieces]
        for number, piece in enumerate(pieces[:-1]):
            if piece in known and re.match(r"[A-Za-z0-9_]", pieces[number + 1]):
                quoted[number] = re.sub(r"\$([A-Za-z0-9]+)$", r"${\1}", quoted[number])
        return '"' + "".join(quoted) + '"'

    def _path(self, path: str) -> str:
        return self.word(f"{self.transcript.work}/{path}")

    def _made(self, made: Made) -> Iterator[str]:
        path = self._path(made.path)
        mode = f"{made.mode:o}"
        if made.kind == "bundle":
            yield f"\nbundle {self.word(made.path)}"
        elif made.kind == "file":
            if not made.whole:
                yield f"# of this file only the first {len(made.data)} bytes were recorded:"
            yield f"put {self.word(self._file(made))} {mode} {self.word(made.path)}"
        elif made.kind == "directory":
            yield f"mkdir -p {path} && chmod {mode} {path}"
        elif made.kind == "link":
            yield f"ln -sfn {self.word(made.to)} {path}"
        elif made.kind == "node":
            yield f"mknod {path} {' '.join(made.device)} && chmod {mode} {path}"
        elif made.kind == "busybox":
            yield f'cp "$BUSYBOX" {path} && chmod {mode} {path}'
        elif made.kind == "gone":
            yield f"rm -rf {path}"
        elif made.kind == "socket":
            yield f"listen {path}"
        else:
            yield f"# here was something else: {path}"
        if made.owner != (0, 0) and made.kind not in ("gone", "other", "socket"):
            yield f"chown -h {made.owner[0]}:{made.owner[1]} {path}"

    def _file(self, made: Made) -> str:
        """The name of the file in the folder; later contents of one have names of their own."""
        data = made.data
        known: Mapping[str, str] = {
            self.transcript.work: "@WORK@",
            f"labkit-{self.transcript.name}": "@NAME@",
            self.transcript.busybox: "@BUSYBOX@",
            **{f"/proc/{pid}/": f"/proc/@{name}@/" for pid, name in self._pids.items()},
        }
        for text, placeholder in known.items():
            data = data.replace(text.encode(), placeholder.encode())
        name, number = made.path, 1
        while self.files.get(f"work/{name}", data) != data or any(
            other.startswith(f"work/{name}/") or f"work/{name}".startswith(f"{other}/") for other in self.files
        ):
            number += 1
            name = f"{made.path}.{number}"
        self.files[f"work/{name}"] = data
        return name

    def _called(self, call: Called) -> Iterator[str]:
        yield ""
        runtime = self.transcript.runtime[0]
        if runtime in call.argv:
            self._note_id(call)
        if call.cwd:
            yield f"cwd={self.word(call.cwd)}"
        if call.stdin:
            if call.stdin.startswith(f"{self.transcript.work}/"):
                yield f"input={self.word(call.stdin)}"
            else:
                yield f"# stdin was {one_line(call.stdin, 100)}"
        if call.umask:
            yield f"mask={call.umask}"
        env = [f"{key}={word}" for key, word in call.env.items()]
        words = [*(["env"] if env else []), *env, *call.argv]
        said = " ".join(one_line(text.strip(), 160) for text in (call.stderr or call.stdout).strip().splitlines()[-1:])
        yield f"# {call.how}{f': {said}' if said else ''}"
        line = " ".join('"$RUNTIME"' if word == runtime else self.word(word) for word in words)
        if call.beside:
            yield f"beside {line}"
            return
        for _ in range(min(call.times, 3)):
            yield f"step {_status(call)} {line}"

    def _note_id(self, call: Called) -> None:
        for text in call.argv[-1:]:
            if self.transcript.name in text and (word := self.word(text)) not in self.ids and "/" not in text:
                self.ids.append(word)

    def _waited(self, wait: Waited) -> Iterator[str]:
        if wait.pid_file:
            yield f"ended {self.word(wait.pid_file)}"
        else:
            seconds = min(wait.seconds * 1.5 + 0.1, _LONGEST_WAIT)
            yield f"sleep {seconds:.1f} # the check waited for something of its own"

    def _process(self, process: Process) -> Iterator[str]:
        if process.pid < 2 or str(process.pid) in self._pids:
            return
        name = f"pid{len(self._pids) + 1}"
        self._pids[str(process.pid)] = name
        yield f"{name}=$(cat {self._path(process.pid_file)})" if process.pid_file else f"{name}=$!"
        yield f'known {name} "${name}"'


def _status(call: Called) -> str:
    """As a shell has it."""
    if not call.ended:
        return "unknown"
    if call.status is None:
        return "137"
    return str(call.status if call.status >= 0 else 128 - call.status)
